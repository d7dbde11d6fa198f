//! Files as `backtest` meets them: merged, compressed, CRLF, damaged, too long, too many to keep open.

use std::fs;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use super::*;
use crate::fleet::write::{Compression, write_to};
use crate::fleet::{Fleet, FleetOptions, Message};
use crate::time::{Span, Ticks};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

fn put(directory: &Path, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = directory.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, bytes).unwrap();
    path
}

/// A message of one record that arrived at that minute and second, and carries a name.
fn message(at: &str, name: &str) -> String {
    format!(r#"{{"records":[{{"time":"2026-01-01T00:{at}.0000000Z","n":"{name}"}}]}}"#)
}

fn names(source: FileSource) -> Vec<String> {
    source
        .map(|line| match line {
            Ok(line) => {
                let text = String::from_utf8(line.bytes).unwrap();
                text.split(r#""n":""#).nth(1).map_or(text.clone(), |rest| rest.split('"').next().unwrap().to_owned())
            }
            Err(error) => format!("error: {error}"),
        })
        .collect()
}

fn open(paths: &[PathBuf]) -> FileSource {
    FileSource::open(paths).unwrap()
}

#[test]
fn files_are_merged_by_arrival_then_by_file() {
    let dir = tempfile::tempdir().unwrap();
    let a = put(dir.path(), "a.ndjson", [message("00:01", "a1"), message("00:05", "a2"), message("00:09", "a3")].join("\n"));
    let b = put(dir.path(), "b.ndjson", [message("00:02", "b1"), message("00:05", "b2"), message("00:06", "b3")].join("\n"));
    let c = put(dir.path(), "c.ndjson", message("00:05", "c1"));
    assert_eq!(names(open(&[a.clone(), b.clone(), c.clone()])), ["a1", "b1", "a2", "b2", "c1", "b3", "a3"]);
    // Equal arrivals go in the order in which the files were named.
    assert_eq!(names(open(&[c, b, a])), ["a1", "b1", "c1", "b2", "a2", "b3", "a3"]);
}

#[test]
fn a_file_keeps_its_own_order_and_odd_times_hold_nothing_back() {
    let dir = tempfile::tempdir().unwrap();
    let unordered = [message("00:10", "a1"), message("00:02", "a2"), "no json".into(), message("00:30", "a3")].join("\n");
    let a = put(dir.path(), "a.ndjson", unordered);
    let wrong = message("00:15", "b2").replace("2026", "2099");
    let b = put(dir.path(), "b.ndjson", [message("00:11", "b1"), wrong, message("00:20", "b3")].join("\n"));
    let paths = [a, b];
    let horizon = Ticks::parse("2026-02-01T00:00:00Z").unwrap();
    assert_eq!(names(open(&paths).horizon(horizon)), ["a1", "a2", "no json", "b1", "b2", "b3", "a3"]);
    assert_eq!(names(open(&paths)), ["a1", "a2", "no json", "b1", "a3", "b2", "b3"]);
}

#[test]
fn line_ends_blank_lines_and_a_byte_order_mark_are_not_content() {
    let dir = tempfile::tempdir().unwrap();
    let bare = r#"{"time":"2026-01-01T00:00:00Z","tenantId":"t","n":"r"}"#;
    let text = format!("\u{feff}{bare}\r\n\r\n  \n{}\r\n{bare}", message("00:01", "m"));
    let path = put(dir.path(), "PT1H.json", text);
    let lines: Vec<Line> = open(&[path]).map(Result::unwrap).collect();
    assert_eq!(lines.iter().map(|l| (l.number, l.bare)).collect::<Vec<_>>(), [(1, true), (4, false), (5, true)]);
    assert_eq!(lines[0].bytes, bare.as_bytes());
    assert_eq!(lines[1].bytes, message("00:01", "m").as_bytes());
    assert_eq!(lines[2].bytes, bare.as_bytes());
}

#[test]
fn compression_is_seen_in_the_bytes_and_many_gzip_members_are_one_file() {
    let dir = tempfile::tempdir().unwrap();
    let text = |n: &str| format!("{}\n{}\n", message("00:01", n), message("00:02", n));
    let members = [gzip(text("g1").as_bytes()), gzip(text("g2").as_bytes())].concat();
    let g = put(dir.path(), "a.json.gz", members);
    let z = put(dir.path(), "misnamed.json", zstd::encode_all(text("z").as_bytes(), 3).unwrap());
    assert_eq!(names(open(&[g])), ["g1", "g1", "g2", "g2"]);
    assert_eq!(names(open(&[z])), ["z", "z"]);
    let stdin = Box::new(Cursor::new(gzip(text("stdin").as_bytes())));
    let source = FileSource::with_stdin(&["-".into()], stdin).unwrap();
    assert_eq!(source.total_bytes(), None);
    assert_eq!(names(source), ["stdin", "stdin"]);
}

#[test]
fn standard_input_is_merged_with_files() {
    let dir = tempfile::tempdir().unwrap();
    let a = put(dir.path(), "a.json", [message("00:01", "a1"), message("00:03", "a2")].join("\n"));
    let stdin = || Box::new(Cursor::new([message("00:02", "s1"), message("00:04", "s2")].join("\n")));
    let source = FileSource::with_stdin(&[a.clone(), "-".into()], stdin()).unwrap();
    assert_eq!(source.path(1), Path::new("-"));
    assert_eq!(names(source), ["a1", "s1", "a2", "s2"]);
    let twice = FileSource::with_stdin(&["-".into(), a, "-".into()], stdin());
    assert!(matches!(twice, Err(FileError::StdinTwice)));
}

#[test]
fn directories_are_searched_in_order_and_no_file_comes_twice() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    put(root, "tenantId=t/y=2026/m=01/d=02/h=00/m=00/PT1H.json", message("00:01", "day2"));
    put(root, "tenantId=t/y=2026/m=01/d=01/h=00/m=00/PT1H.json", message("00:01", "day1"));
    put(root, "b.jsonl.zst", zstd::encode_all(message("00:01", "zst").as_bytes(), 1).unwrap());
    put(root, "a.NDJSON.gz", gzip(message("00:01", "gz").as_bytes()));
    put(root, "notes.txt", "not read");
    put(root, "x.json.bak", "not read");
    std::os::unix::fs::symlink(root, root.join("loop")).unwrap();
    let source = open(&[root.into(), root.join("a.NDJSON.gz")]);
    assert_eq!(source.files(), 4);
    assert_eq!(names(source), ["gz", "zst", "day1", "day2"]);
    // A file that is named is read whatever it is called.
    assert_eq!(names(open(&[root.join("notes.txt")])), ["not read"]);
}

#[test]
fn what_cannot_be_opened_is_said_with_its_path() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing.json");
    let error = FileSource::open(std::slice::from_ref(&missing)).unwrap_err();
    assert!(error.to_string().starts_with(&format!("cannot open {}: ", missing.display())), "{error}");
    let error = FileSource::open(&[dir.path().into()]).unwrap_err();
    assert!(matches!(&error, FileError::Empty { path } if path == dir.path()), "{error}");
    assert!(matches!(FileSource::open(&[]), Err(FileError::NoInput)));
    // Gone between the search and its turn: the others are read.
    let (a, b) = (put(dir.path(), "a.json", message("00:01", "a")), put(dir.path(), "b.json", message("00:02", "b")));
    let source = open(&[a.clone(), b]);
    fs::remove_file(&a).unwrap();
    let read = names(source);
    assert!(read[0].starts_with(&format!("error: cannot open {}", a.display())), "{read:?}");
    assert_eq!(read[1..], ["b"]);
}

#[test]
fn too_long_a_line_is_left_out_and_reading_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let limit = message("00:01", "x").len();
    let exact = message("00:01", "x");
    for (end, over) in [("\n", 1), ("\r\n", 1), ("\n", 2), ("\r\n", 5000)] {
        let long = message("00:02", &"y".repeat(over + 1));
        let path = put(dir.path(), "a.json", format!("{exact}{end}{long}{end}{exact}{end}{long}"));
        let other = put(dir.path(), "b.json", message("00:03", "z"));
        for paths in [vec![path.clone()], vec![path.clone(), other]] {
            let results: Vec<_> = open(&paths).line_limit(limit).collect();
            let of_a: Vec<_> = results.iter().filter(|r| r.as_ref().map_or(true, |l| l.file == 0)).collect();
            assert_eq!(of_a.len(), 4, "{of_a:?}");
            assert_eq!(of_a[0].as_ref().unwrap().bytes, exact.as_bytes());
            assert_eq!(of_a[2].as_ref().unwrap().number, 3);
            for (at, number) in [(1, 2), (3, 4)] {
                assert!(
                    matches!(of_a[at], Err(FileError::LineTooLong { path: p, line, limit: l }) if *p == path && *line == number && *l == limit)
                );
            }
            assert_eq!(results.len(), 3 + paths.len());
        }
    }
}

#[test]
fn a_cut_gzip_file_gives_what_was_read_and_says_where_it_broke() {
    let dir = tempfile::tempdir().unwrap();
    let text: String = (0..3000).map(|i| message(&format!("{:02}:{:02}", i / 60, i % 60), &format!("{i:x}{:x}", i * i)) + "\n").collect();
    let expected: Vec<&str> = text.lines().collect();
    let other = put(dir.path(), "other.json", message("59:59", "other"));
    for (name, bytes) in [("a.json.gz", gzip(text.as_bytes())), ("a.json.zst", zstd::encode_all(text.as_bytes(), 3).unwrap())] {
        let path = put(dir.path(), name, &bytes[..bytes.len() * 3 / 4]);
        for paths in [vec![path.clone()], vec![path.clone(), other.clone()]] {
            let (lines, errors): (Vec<_>, Vec<_>) = open(&paths).partition(Result::is_ok);
            let lines: Vec<Line> = lines.into_iter().map(Result::unwrap).collect();
            let of_a: Vec<&Line> = lines.iter().filter(|l| l.file == 0).collect();
            assert_eq!(lines.len() - of_a.len(), paths.len() - 1);
            assert!(of_a.iter().zip(&expected).all(|(line, text)| line.bytes == text.as_bytes()));
            let [Err(FileError::Damaged { path: p, line, .. })] = &errors[..] else { panic!("{errors:?}") };
            assert_eq!((p, *line), (&path, of_a.len() as u64 + 1));
            assert!(of_a.len() > 1000, "{}", of_a.len());
        }
    }
}

/// Bytes that are made as they are read: a file as large as one likes.
struct Endless {
    head: &'static [u8],
    at: u64,
    size: u64,
    byte: u8,
}

impl std::io::Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if let Some(rest) = self.head.get(self.at as usize..).filter(|rest| !rest.is_empty()) {
            let n = rest.len().min(buffer.len());
            buffer[..n].copy_from_slice(&rest[..n]);
            self.at += n as u64;
            return Ok(n);
        }
        let n = (self.size - self.at).min(buffer.len() as u64) as usize;
        buffer[..n].fill(self.byte);
        self.at += n as u64;
        Ok(n)
    }
}

#[test]
fn a_header_or_a_line_without_end_takes_no_more_than_its_limit() {
    const LIMIT: usize = 1 << 16;
    let read = |head, byte| {
        let endless = Box::new(Endless { head, at: 0, size: 64 << 20, byte });
        let mut source = FileSource::with_stdin(&["-".into()], endless).unwrap().line_limit(LIMIT);
        let (mut line, mut errors, mut largest) = (Line::default(), Vec::new(), 0);
        while let Some(result) = source.read(&mut line) {
            largest = largest.max(line.bytes.capacity());
            errors.extend(result.err().map(|error| error.to_string()));
        }
        assert!(largest <= 4 * LIMIT, "{largest}");
        errors
    };
    let too_long = ["line 1 of - is longer than 65536 bytes and was left out"];
    assert_eq!(read(b"", b'x'), too_long);
    assert_eq!(read(b"", b' '), too_long, "blank lines too");
    // gzip: a name, a comment, an extra field that never ends.
    for head in [&b"\x1f\x8b\x08\x08\0\0\0\0\0\0"[..], b"\x1f\x8b\x08\x10\0\0\0\0\0\0"] {
        let errors = read(head, b'x');
        assert!(matches!(&errors[..], [error] if error.contains("cannot open -") && error.contains("gzip header")), "{errors:?}");
    }
    // Zstandard: frames to be skipped, of 4 GiB each and of none.
    let errors = read(b"\x50\x2a\x4d\x18\xff\xff\xff\xff", 0);
    assert!(matches!(&errors[..], [error] if error.contains("cannot open -")), "{errors:?}");
}

#[test]
fn a_window_of_more_than_eight_mebibytes_is_refused_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!("{}\n{}\n", message("00:01", "a"), message("00:02", "b"));
    let packed = |log: u32| {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(log).unwrap();
        encoder.include_contentsize(false).unwrap();
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    assert_eq!(names(open(&[put(dir.path(), "a.zst", packed(23))])), ["a", "b"]);
    // What a frame claims counts, not what is in it: here a few bytes.
    for log in [24, 27, 31] {
        let refused = names(open(&[put(dir.path(), "a.zst", packed(log))]));
        assert!(
            matches!(&refused[..], [error] if error.contains("a.zst is not read") && error.contains("zstd -dc --long=31")),
            "{refused:?}"
        );
    }
    // The level that takes the largest window without being asked for more.
    assert_eq!(names(open(&[put(dir.path(), "b.zst", zstd::encode_all(text.as_bytes(), 19).unwrap())])), ["a", "b"]);
}

/// A fleet dealt out to files, as lines in arrival order.
fn dealt(dir: &Path, files: usize, write: impl Fn(&[Message]) -> Vec<u8>) -> (Vec<PathBuf>, Vec<Vec<u8>>) {
    let options = FleetOptions { devices: 40, span: Span::days(2), padding: false, ..FleetOptions::default() };
    let messages: Vec<Message> = Fleet::new(&options).collect();
    let mut parts = vec![Vec::new(); files];
    messages.iter().enumerate().for_each(|(i, m)| parts[i % files].push(m.clone()));
    let paths = parts.iter().enumerate().map(|(i, part)| put(dir, &format!("{i:03}.json"), write(part))).collect();
    (paths, messages.into_iter().map(|m| m.bytes).collect())
}

fn plain(messages: &[Message]) -> Vec<u8> {
    let mut out = Vec::new();
    write_to(&mut out, messages.iter().cloned(), Compression::None).unwrap();
    out
}

#[test]
fn a_fleet_dealt_out_to_files_comes_back_in_order_however_few_may_be_open() {
    for (files, most_open) in [(1, 2), (5, 128), (5, 2), (40, 8), (40, 3)] {
        for compressed in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let (paths, expected) = dealt(dir.path(), files, |m| if compressed { gzip(&plain(m)) } else { plain(m) });
            let mut source = open(&paths).most_open(most_open);
            let total = source.total_bytes().unwrap();
            assert_eq!(total, paths.iter().map(|p| fs::metadata(p).unwrap().len()).sum::<u64>());
            let lines: Vec<Vec<u8>> = source.by_ref().map(|l| l.unwrap().bytes).collect();
            assert!(lines == expected, "{files} files, {most_open} open");
            assert_eq!(source.bytes_read(), total, "{files} files, {most_open} open, {compressed}");
            assert!(source.next().is_none());
        }
    }
}

#[test]
fn a_source_can_move_to_another_thread() {
    fn is_send<T: Send>() {}
    is_send::<FileSource>();
    is_send::<Fleet>();
}

#[test]
fn a_line_buffer_is_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let (paths, expected) = dealt(dir.path(), 3, plain);
    let (mut source, mut line, mut n) = (open(&paths), Line::default(), 0);
    while let Some(result) = source.read(&mut line) {
        result.unwrap();
        assert!(line.bytes == expected[n]);
        n += 1;
    }
    assert_eq!(n, expected.len());
}
