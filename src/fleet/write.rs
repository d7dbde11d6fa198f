//! A fleet as a file: one message a line, plain or compressed. Reading such files is `files`' part.

use std::io::{self, Write};
use std::path::Path;

use super::Message;

/// How the file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// gzip, fast level.
    Gzip,
    /// Zstandard, level 3.
    Zstd,
}

impl Compression {
    /// By the file's extension: `.gz`, `.zst` or any other.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        match path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase).as_deref() {
            Some("gz") => Compression::Gzip,
            Some("zst") => Compression::Zstd,
            _ => Compression::None,
        }
    }
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Written {
    /// Lines.
    pub messages: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes before compression, line ends included.
    pub bytes: u64,
}

/// Writes each message as a line, finishes the compression and flushes. `out` should be buffered where it is a file.
///
/// # Errors
/// What `out` answers.
pub fn write_to(out: &mut dyn Write, messages: impl Iterator<Item = Message>, compression: Compression) -> io::Result<Written> {
    let written = match compression {
        Compression::None => lines(out, messages)?,
        Compression::Gzip => {
            let mut gzip = flate2::write::GzEncoder::new(&mut *out, flate2::Compression::fast());
            let written = lines(&mut gzip, messages)?;
            gzip.finish()?;
            written
        }
        Compression::Zstd => {
            let mut zstd = zstd::Encoder::new(&mut *out, 3)?;
            let written = lines(&mut zstd, messages)?;
            zstd.finish()?;
            written
        }
    };
    out.flush()?;
    Ok(written)
}

fn lines(out: &mut dyn Write, messages: impl Iterator<Item = Message>) -> io::Result<Written> {
    let mut written = Written::default();
    for message in messages {
        out.write_all(&message.bytes)?;
        out.write_all(b"\n")?;
        written.messages += 1;
        written.records += u64::from(message.records);
        written.bytes += message.bytes.len() as u64 + 1;
    }
    Ok(written)
}
