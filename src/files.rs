//! Defender messages in files: what `backtest` and `backfill` read.
//!
//! Owns finding the files, undoing their compression, cutting them into lines in bounded memory and merging them by arrival.
//! Invariant: the order of lines depends on the paths and the bytes alone. What stands in a line is `defender`'s.
//!
//! Lines are Kafka messages (`{"records":[…]}`), bare records (Storage export) or rows without envelope; each line is told apart by itself. gzip
//! and Zstandard are recognised by their first bytes, also on standard input. Avro (Event Hubs Capture), CSV, JSON answers and Parquet come
//! out as such lines, too. Files may lie in object stores.
//!
//! **Order.** Files are merged by the envelope `time` of the *first* record in each file's next line; lines of equal time go in
//! the order of their files. A file's own lines always keep their order: one that is not in arrival order is accepted (the
//! arrival clock is a maximum). A line without a readable time takes the file's time so far, so it goes at once.

mod avro;
pub mod blocks;
pub mod list;
mod object;
mod open;
pub mod peek;
pub mod progress;
mod reader;
pub mod rows;
pub mod source;
pub mod window;

use std::io;
use std::path::{Path, PathBuf};

pub use object::{ObjectError, Retry};
pub use source::{FileSource, Line};

/// Longest line that is read, in bytes: 64 MiB. A Kafka message is 1 MB as a rule.
pub const LINE_LIMIT: usize = 64 << 20;

/// What can go wrong with files. From [`FileSource::open`] it is final; from reading, each variant says what is lost, and
/// everything else is still read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The path cannot be opened, or not any more; nothing (more) is read from it.
    #[error("cannot open {path}: {source}", path = path.display())]
    Open {
        /// The file or directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A directory holds nothing that is read.
    #[error("{path} holds no .json, .ndjson, .jsonl or .csv files (also .gz, .zst), no .avro and no .parquet; name the files themselves if they are called otherwise", path = path.display())]
    Empty {
        /// The directory.
        path: PathBuf,
    },
    /// A directory holds nothing that is selected.
    #[error("{path} holds nothing that arrived between --from and --to, or nothing of --tenant; look at its paths (tenantId=…/y=…/m=…/d=…/h=…)", path = path.display())]
    NothingSelected {
        /// The directory, container or prefix.
        path: PathBuf,
    },
    /// A file is not what it was.
    #[error("{path} is shorter than what was read of it: it was replaced, or cut. Give it another name, or start with a new state.dir", path = path.display())]
    Replaced {
        /// The file.
        path: PathBuf,
    },
    /// Rows without envelope, and no tenant for them.
    #[error("{path} holds rows without envelope, which don't say whose they are: give their tenant with --tenant ID, as live messages have it", path = path.display())]
    NoTenant {
        /// The file.
        path: PathBuf,
    },
    /// A file of another form than its name or beginning says; nothing of it is read.
    #[error("{path} is not read: {reason}", path = path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        reason: String,
    },
    /// A blob or container.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// No path was given.
    #[error("no input: name files, directories or - for standard input")]
    NoInput,
    /// `-` was given twice.
    #[error("standard input can be read only once: give - a single time")]
    StdinTwice,
    /// Reading broke off, as at the cut end of a gzip file, or at a Zstandard frame whose window is too large: the lines before `line` were read, it and the rest of the file are lost.
    #[error("{path} can't be read from line {line} on: {source}; the {} before it were read, the rest of the file was not", lines(line.saturating_sub(1)), path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Number of the line that could not be read to its end, from 1.
        line: u64,
        /// What the decoder or the system says.
        source: io::Error,
    },
    /// A dead letter: the line is left out, reading goes on behind it.
    #[error("line {line} of {path} is longer than {limit} bytes and was left out", path = path.display())]
    LineTooLong {
        /// The file.
        path: PathBuf,
        /// Number of the line, from 1.
        line: u64,
        /// The limit in bytes.
        limit: usize,
    },
}

impl FileError {
    /// Whether the next file would fail as well: reading is to end.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self, FileError::Object(ObjectError::Refused { .. }) | FileError::NoTenant { .. })
    }

    fn opening(path: &Path, source: io::Error) -> FileError {
        if let Some(error) = source.get_ref().and_then(|inner| inner.downcast_ref::<ObjectError>()) {
            return FileError::Object(error.clone());
        }
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::InvalidData => FileError::Format { path, reason: source.to_string() },
            _ => FileError::Open { path, source },
        }
    }

    fn reading(path: PathBuf, line: u64, source: io::Error) -> FileError {
        match source.get_ref().and_then(|inner| inner.downcast_ref::<ObjectError>()) {
            Some(error) => FileError::Object(error.clone()),
            None => FileError::Damaged { path, line, source },
        }
    }
}

fn lines(n: u64) -> String {
    if n == 1 { "1 line".to_owned() } else { format!("{n} lines") }
}

#[cfg(test)]
mod resume_tests;
#[cfg(test)]
mod tests;
