//! One open file, whatever its format: where its bytes come from, what it is, and going on where it was left.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use super::avro::Messages;
use super::list::Input;
use super::object::Download;
use super::peek;
use super::reader::{Content, LineReader, Place, Step, is_compressed};
use super::rows::{Kind, Rows};

/// How files are read.
#[derive(Clone, Debug)]
pub(super) struct Options {
    /// Longest line in bytes.
    pub(super) line_limit: usize,
    /// Every file may still be being written: half a line at its end is left. Else only those that are called so.
    pub(super) growing: bool,
    /// The tenant of rows that have no envelope.
    pub(super) tenant: String,
}

/// What comes out of a file, record by record.
pub(super) enum Reader {
    Lines(LineReader),
    Messages(Box<Messages>),
    Rows(Rows),
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("place", &self.place()).finish_non_exhaustive()
    }
}

/// Bytes from `from` on.
fn bytes(input: &Input, from: u64, begun: Option<Download>) -> io::Result<Box<dyn Read + Send>> {
    match &input.object {
        Some(object) => Ok(Box::new(begun.filter(|_| from == 0).unwrap_or_else(|| object.read(from)))),
        None => {
            let mut file = File::open(&input.path)?;
            file.seek(SeekFrom::Start(from))?;
            Ok(Box::new(file))
        }
    }
}

fn stem(input: &Input) -> String {
    let name = input.name.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
    name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst")).unwrap_or(&name).to_owned()
}

/// A format that is not one of lines, by the file's name or its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Avro,
    Rows(Kind),
}

fn by_content(content: &mut Content) -> io::Result<Option<Format>> {
    let head = content.input.fill_buf()?;
    if head.starts_with(b"Obj\x01") {
        return Ok(Some(Format::Avro));
    }
    if head.starts_with(b"PAR1") {
        return Ok(Some(Format::Rows(Kind::Parquet)));
    }
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    let first = text.iter().position(|b| !b.is_ascii_whitespace()).and_then(|at| text.get(at..)).unwrap_or_default();
    Ok(match first.first() {
        Some(b'[') => Some(Format::Rows(Kind::Json)),
        // An answer of the hunting API.
        Some(b'{')
            if peek::first_key(first)
                .is_some_and(|key| matches!(key, b"Stats" | b"Schema" | b"Results" | b"schema" | b"results" | b"@odata.context")) =>
        {
            Some(Format::Rows(Kind::Json))
        }
        _ => None,
    })
}

impl Reader {
    /// Opens the file and goes to `place`; for one that is not read by bytes that means decoding what comes before it once more.
    /// `begun` is its download, if that was begun ahead.
    pub(super) fn open(input: &Input, place: Place, options: &Options, buffer: usize, begun: Option<Download>) -> io::Result<Reader> {
        let csv = stem(input).ends_with(".csv");
        let by_lines = place.bytes > 0 && !csv;
        if by_lines && !compressed(input)? {
            let content = Content::behind(bytes(input, place.bytes, begun)?, place.bytes, buffer);
            return Ok(Reader::lines(input, content, place, options));
        }
        Reader::from_start(input, Content::new(bytes(input, 0, begun)?, buffer)?, place, options)
    }

    /// Reads from anything, from its start.
    pub(super) fn of_stream(input: &Input, stream: impl Read + Send + 'static, options: &Options, buffer: usize) -> io::Result<Reader> {
        Reader::from_start(input, Content::new(stream, buffer)?, Place::default(), options)
    }

    fn from_start(input: &Input, mut content: Content, place: Place, options: &Options) -> io::Result<Reader> {
        let format = if stem(input).ends_with(".csv") { Some(Format::Rows(Kind::Csv)) } else { by_content(&mut content)? };
        Ok(match format {
            Some(Format::Avro) => Reader::Messages(Box::new(Messages::open(content, place)?)),
            Some(Format::Rows(kind)) => Reader::Rows(Rows::open(content, kind, &options.tenant, place)?),
            None => {
                content.skip(place.bytes)?;
                Reader::lines(input, content, place, options)
            }
        })
    }

    fn lines(input: &Input, content: Content, place: Place, options: &Options) -> Reader {
        let whole = (options.growing && !input.is_stdin()) || input.name.ends_with("/PT1H.json");
        Reader::Lines(LineReader::new(content, place, options.line_limit, whole))
    }

    /// What was read.
    pub(super) fn place(&self) -> Place {
        match self {
            Reader::Lines(lines) => lines.place,
            Reader::Messages(messages) => messages.place,
            Reader::Rows(rows) => rows.place,
        }
    }

    /// Stored bytes taken so far.
    pub(super) fn taken(&self) -> u64 {
        match self {
            Reader::Lines(lines) => lines.taken(),
            Reader::Messages(messages) => messages.taken(),
            Reader::Rows(rows) => rows.taken(),
        }
    }

    /// Reads what comes next; `line` is emptied first.
    pub(super) fn read(&mut self, line: &mut Vec<u8>) -> io::Result<Step> {
        match self {
            Reader::Lines(lines) => lines.read(line),
            Reader::Messages(messages) => messages.read(line),
            Reader::Rows(rows) => Ok(rows.read(line)),
        }
    }
}

fn compressed(input: &Input) -> io::Result<bool> {
    match &input.object {
        // Its name is believed, which saves a request.
        Some(_) => Ok(input.name.ends_with(".gz") || input.name.ends_with(".zst")),
        None => is_compressed(File::open(&input.path)?),
    }
}
