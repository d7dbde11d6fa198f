//! Defender messages in files: what `backtest` and `backfill` read.
//!
//! Owns finding the files, undoing their compression, cutting them into lines in bounded memory and merging them by arrival.
//! Invariant: the order of lines depends on the paths and the bytes alone. What stands in a line is `defender`'s.
//!
//! Lines are Kafka messages (`{"records":[…]}`) or bare records (Storage export); each line is told apart by itself. gzip and
//! Zstandard are recognised by their first bytes, also on standard input.
//!
//! **Order.** Files are merged by the envelope `time` of the *first* record in each file's next line; lines of equal time go in
//! the order of their files. A file's own lines always keep their order: one that is not in arrival order is accepted (the
//! arrival clock is a maximum). A line without a readable time takes the file's time so far, so it goes at once.

pub mod list;
pub mod peek;
pub mod progress;
mod reader;
pub mod source;

use std::io;
use std::path::PathBuf;

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
    #[error("{path} holds no .json, .ndjson or .jsonl files (also .gz, .zst); name the files themselves if they are called otherwise", path = path.display())]
    Empty {
        /// The directory.
        path: PathBuf,
    },
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

fn lines(n: u64) -> String {
    if n == 1 { "1 line".to_owned() } else { format!("{n} lines") }
}

#[cfg(test)]
mod tests;
