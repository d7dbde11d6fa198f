//! What takes bytes from outside, as functions of bytes that panic where a promise is broken.
//!
//! The fuzzer calls them (`make fuzz`, targets in `fuzz/`), and so does a test, with the corpus in `fuzz/corpus/`.

#![allow(clippy::unwrap_used, clippy::panic)]

use crate::config::Config;
use crate::defender::decode::Limits;
use crate::defender::twin;
use crate::detector::snapshot::Section;
use crate::files::{FileError, FileSource, Line};
use crate::state::codec::{END, FileKind, write_frame, write_header};
use crate::state::journal::{self, Encoder, Entry};
use crate::state::snapshot;
use crate::time::{Span, Ticks};
use std::io::Cursor;
use std::path::PathBuf;

/// Decoder, batch and the slow reference say the same of the bytes, as a message and as a bare record, with and without a clock.
pub fn decode(bytes: &[u8]) {
    let max_clock_skew = Span::hours(1);
    twin::agree(bytes, &Limits { independent_clock: None, max_clock_skew });
    twin::agree(bytes, &Limits { independent_clock: Ticks::parse("2026-03-01T00:00:00Z"), max_clock_skew });
}

/// Longest line that [`lines`] reads, in bytes.
const LINE_LIMIT: usize = 4096;
/// How much of a file that expands [`lines`] reads, in lines.
const MOST_LINES: usize = 2000;

/// A file of these bytes is read to its end in bounded memory: its lines one by one, or a clear error.
pub fn lines(bytes: &[u8]) {
    let stdin = Box::new(Cursor::new(bytes.to_vec()));
    let mut source = FileSource::with_stdin(&[PathBuf::from("-")], stdin).unwrap().line_limit(LINE_LIMIT);
    let (mut line, mut read, mut last) = (Line::default(), Vec::new(), 0);
    for _ in 0..MOST_LINES {
        match source.read(&mut line) {
            None => break,
            Some(Ok(())) => {
                assert!(line.bytes.len() <= LINE_LIMIT && line.bytes.capacity() <= 4 * LINE_LIMIT);
                assert!(!line.bytes.contains(&b'\n') && !line.bytes.iter().all(u8::is_ascii_whitespace));
                assert!(line.number > last);
                last = line.number;
                read.push(line.bytes.clone());
            }
            Some(Err(FileError::LineTooLong { line, .. } | FileError::Damaged { line, .. })) => {
                assert!(line > last);
                last = line;
            }
            // Too short for the beginning that it has.
            Some(Err(FileError::Open { .. })) => break,
            Some(Err(other)) => panic!("of bytes in memory: {other}"),
        }
    }
    let is_plain = !matches!(bytes, [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..]);
    if is_plain {
        let whole = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let expected: Vec<&[u8]> = whole
            .split(|byte| *byte == b'\n')
            .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
            .filter(|line| line.len() <= LINE_LIMIT && !line.iter().all(u8::is_ascii_whitespace))
            .take(read.len().max(MOST_LINES))
            .collect();
        // A byte order mark counts for the length of its line.
        assert!(read == expected || whole.len() < bytes.len() || read.len() == MOST_LINES);
    }
}

/// A configuration is taken or refused, and a refusal says something.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match Config::parse(text, []) {
        Ok(config) => drop(config.detector_settings()),
        Err(errors) => assert!(!errors.to_string().is_empty()),
    }
}

/// A journal or a snapshot of these bytes is read or refused; what was read is written and read again as it was.
///
/// The first byte chooses which, and whether the rest is the file itself or the payloads of its frames, so that checksums are no
/// wall: kind, length (two bytes), payload, and so on.
pub fn state(bytes: &[u8]) {
    let Some((choice, rest)) = bytes.split_first() else { return };
    let kind = if choice & 1 == 0 { FileKind::Journal } else { FileKind::Snapshot };
    let file = if choice & 2 == 0 { rest.to_vec() } else { framed(kind, rest) };
    match kind {
        FileKind::Journal => {
            let Ok(segment) = journal::read(&file[..]) else { return };
            let runs = merged(segment.entries);
            let again = journal::read(&journal_of(&runs)[..]).unwrap();
            assert_eq!(again.torn, None);
            assert_eq!(again.entries, runs);
        }
        FileKind::Snapshot => {
            let Ok(mut loaded) = snapshot::read(Box::new(Cursor::new(file))) else { return };
            let sections = sections(&mut loaded.detector);
            let again = snapshot::read(Box::new(Cursor::new(snapshot_of(&sections)))).unwrap();
            assert_eq!(again.detector.tracked(), loaded.detector.tracked());
            assert_eq!(exported(&again.detector), exported(&loaded.detector));
            // Nothing in it may end the process later.
            let tenants: Vec<(String, Ticks)> = loaded.detector.clocks().map(|(tenant, clock)| (tenant.to_owned(), clock)).collect();
            for (tenant, clock) in tenants {
                loaded.detector.advance(&tenant, clock.plus(Span::days(40)), &mut Vec::new());
            }
        }
    }
}

fn framed(kind: FileKind, mut rest: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    write_header(&mut file, kind).unwrap();
    let mut frames = 0u64;
    while let [number, low, high, after @ ..] = rest {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(after.len());
        let (payload, after) = after.split_at(length);
        write_frame(&mut file, *number, payload).unwrap();
        frames += 1;
        rest = after;
    }
    if matches!(kind, FileKind::Snapshot) {
        write_frame(&mut file, END, &frames.to_le_bytes()).unwrap();
    }
    file
}

/// Runs of one partition that follow each other are one.
fn merged(entries: Vec<Entry>) -> Vec<Entry> {
    let mut out: Vec<Entry> = Vec::new();
    for entry in entries {
        match (out.last_mut(), &entry) {
            (Some(Entry::Run { topic, partition, upto }), Entry::Run { topic: next_topic, partition: next, upto: further })
                if topic == next_topic && partition == next =>
            {
                *upto = *further;
            }
            _ => out.push(entry),
        }
    }
    out
}

fn journal_of(entries: &[Entry]) -> Vec<u8> {
    let mut encoder = Encoder::default();
    for entry in entries {
        match entry {
            Entry::Run { topic, partition, upto } => encoder.message(topic, *partition, *upto),
            Entry::Advance { tenant, to } => encoder.advance(tenant, *to),
        }
    }
    let mut file = Vec::new();
    write_header(&mut file, FileKind::Journal).unwrap();
    file.extend(encoder.take_frame());
    file
}

/// All rows, in an order that is theirs.
fn exported(detector: &crate::detector::Detector) -> Vec<Vec<u8>> {
    let mut rows = Vec::new();
    let Ok(()) = detector.export(|row| {
        rows.push(row.to_vec());
        Ok::<(), std::convert::Infallible>(())
    });
    rows.sort_unstable();
    rows
}

fn sections(detector: &mut crate::detector::Detector) -> Vec<(Section, Vec<u8>)> {
    let mut sections = Vec::new();
    detector.begin_snapshot();
    while !detector.snapshot_step(1 << 20, &mut sections) {}
    sections
}

fn snapshot_of(sections: &[(Section, Vec<u8>)]) -> Vec<u8> {
    let mut file = Vec::new();
    write_header(&mut file, FileKind::Snapshot).unwrap();
    for (section, bytes) in sections {
        write_frame(&mut file, *section as u8, bytes).unwrap();
    }
    write_frame(&mut file, END, &(sections.len() as u64).to_le_bytes()).unwrap();
    file
}

#[cfg(test)]
mod seeds;

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// Every input of the corpus: what the fuzzer once found worth keeping, and what once failed.
    fn replay(target: &str, run: fn(&[u8])) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let mut paths: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        assert!(!paths.is_empty(), "{} is empty", folder.display());
        for path in paths {
            let bytes = std::fs::read(&path).unwrap();
            // Which one it was, should it fail.
            println!("{}", path.display());
            run(&bytes);
        }
    }

    #[test]
    fn the_corpus_of_decode() {
        replay("decode", decode);
    }

    #[test]
    fn the_corpus_of_lines() {
        replay("lines", lines);
    }

    #[test]
    fn the_corpus_of_config() {
        replay("config", config);
    }

    #[test]
    fn the_corpus_of_state() {
        replay("state", state);
    }
}
