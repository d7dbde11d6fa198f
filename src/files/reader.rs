//! One open file as lines: decompression, line numbers, the length limit, and going back to where it was closed.
//!
//! Invariant: memory is a buffer, the decoder's window (32 KiB for gzip, [`WINDOW_LOG_MAX`] for Zstandard) and one line of at most the
//! limit, whatever the file expands to. Which file's turn it is belongs to `source`.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Largest Zstandard window, as a power of two: 8 MiB, what RFC 8878 asks of every decoder and what `zstd -19` uses. A file says itself how much
/// it needs, and many may be open.
const WINDOW_LOG_MAX: u32 = 23;

/// Counts what is taken from the file itself, before decompression.
struct Counted<R> {
    inner: R,
    total: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.total.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

/// Says what to do about a frame whose window is too large.
struct Windowed<R>(R);

impl<R: Read> Read for Windowed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(|error| match error.to_string().contains("too much memory") {
            true => io::Error::new(
                io::ErrorKind::InvalidData,
                "its Zstandard window is larger than 8 MiB; pack it without --ultra and --long, or unpack it first (zstd -dc --long=31 FILE | firstseen backtest -)",
            ),
            false => error,
        })
    }
}

/// Where reading stands in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// Lines read.
    pub(super) lines: u64,
    /// Decompressed bytes read.
    pub(super) bytes: u64,
}

/// What came of reading a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The buffer holds a line, without its end.
    Line,
    /// It was longer than the limit, and skipped.
    TooLong,
    /// The file is at its end.
    End,
}

pub(super) struct LineReader {
    input: Box<dyn BufRead + Send>,
    taken: Arc<AtomicU64>,
    pub(super) place: Place,
    limit: usize,
}

impl std::fmt::Debug for LineReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LineReader").field("place", &self.place).finish_non_exhaustive()
    }
}

impl LineReader {
    /// Opens the file and goes to `place`; for a compressed file that means decoding what comes before it once more.
    pub(super) fn open(path: &Path, place: Place, limit: usize, buffer: usize) -> io::Result<Self> {
        let mut file = File::open(path)?;
        if place == Place::default() {
            return LineReader::new(file, limit, buffer);
        }
        let mut magic = [0; 4];
        let known = read_some(&mut file, &mut magic)?;
        let compressed = compression(magic.get(..known).unwrap_or_default()).is_some();
        file.seek(SeekFrom::Start(if compressed { 0 } else { place.bytes }))?;
        let mut reader = LineReader::new(file, limit, buffer)?;
        if compressed {
            io::copy(&mut (&mut reader.input).take(place.bytes), &mut io::sink())?;
        } else {
            reader.taken.fetch_add(place.bytes, Ordering::Relaxed);
        }
        reader.place = place;
        Ok(reader)
    }

    /// Reads from anything, from its start.
    pub(super) fn new(mut inner: impl Read + Send + 'static, limit: usize, buffer: usize) -> io::Result<Self> {
        let mut magic = [0; 4];
        let known = read_some(&mut inner, &mut magic)?;
        let head = magic.get(..known).unwrap_or_default().to_vec();
        let kind = compression(&head);
        let taken = Arc::new(AtomicU64::new(0));
        let raw = Counted { inner: Cursor::new(head).chain(inner), total: Arc::clone(&taken) };
        let input: Box<dyn BufRead + Send> = match kind {
            Some(Compression::Gzip) => {
                let raw = BufReader::with_capacity(64 << 10, raw);
                Box::new(BufReader::with_capacity(buffer, flate2::bufread::MultiGzDecoder::new(raw)))
            }
            Some(Compression::Zstd) => {
                let mut decoder = zstd::Decoder::new(raw)?;
                decoder.window_log_max(WINDOW_LOG_MAX)?;
                Box::new(BufReader::with_capacity(buffer, Windowed(decoder)))
            }
            None => Box::new(BufReader::with_capacity(buffer, raw)),
        };
        Ok(LineReader { input, taken, place: Place::default(), limit })
    }

    /// Stored bytes taken so far.
    pub(super) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Reads the next line that is not blank. The first line's byte order mark is dropped. `line` is emptied first.
    pub(super) fn read(&mut self, line: &mut Vec<u8>) -> io::Result<Step> {
        loop {
            line.clear();
            // Room for the line end, so that a line of exactly the limit passes.
            let n = (&mut self.input).take(self.limit as u64 + 2).read_until(b'\n', line)?;
            if n == 0 {
                return Ok(Step::End);
            }
            self.place.lines += 1;
            self.place.bytes += n as u64;
            if line.last() == Some(&b'\n') {
                line.pop();
            } else if n as u64 == self.limit as u64 + 2 {
                line.clear();
                self.place.bytes += self.input.skip_until(b'\n')? as u64;
                return Ok(Step::TooLong);
            }
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            if line.len() > self.limit {
                line.clear();
                return Ok(Step::TooLong);
            }
            if self.place.lines == 1 && line.starts_with(b"\xef\xbb\xbf") {
                line.drain(..3);
            }
            if !line.iter().all(u8::is_ascii_whitespace) {
                return Ok(Step::Line);
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    Gzip,
    Zstd,
}

/// By the first bytes; no JSON text begins like these.
fn compression(head: &[u8]) -> Option<Compression> {
    match head {
        [0x1f, 0x8b, ..] => Some(Compression::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => Some(Compression::Zstd),
        _ => None,
    }
}

/// Fills the buffer as far as there is input.
fn read_some(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match input.read(rest) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}
