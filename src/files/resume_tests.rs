//! Reading that is stopped anywhere and begun again gives what it would have given.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use super::window::Selection;
use super::*;
use crate::fleet::{Fleet, FleetOptions, export};
use crate::state::history::FilePosition;
use crate::time::{Span, Ticks};

fn source(root: &Path, positions: &BTreeMap<String, FilePosition>) -> FileSource {
    let source = FileSource::select(&[root.to_owned()], Selection::default(), Retry::default()).unwrap();
    source.growing().most_open(3).resume(positions).unwrap()
}

/// The next `n` lines, and the positions after them.
fn some(source: &mut FileSource, n: usize, positions: &mut BTreeMap<String, FilePosition>) -> Vec<Vec<u8>> {
    let lines = source.take(n).map(|line| line.unwrap().bytes).collect();
    for (file, at) in source.take_moved() {
        positions.insert(source.name(file).to_owned(), at);
    }
    lines
}

#[test]
fn begun_again_from_any_place_the_lines_come_in_the_order_in_which_they_would_have_come() {
    let dir = tempfile::tempdir().unwrap();
    let options = FleetOptions { devices: 12, span: Span::hours(30), padding: false, ..FleetOptions::default() };
    let (storage, capture) = (dir.path().join("storage"), dir.path().join("capture"));
    export::storage(&storage, Fleet::new(&options)).unwrap();
    export::capture(&capture, 2, Fleet::new(&options)).unwrap();
    // A file whose path says nothing, compressed, with a line that has no time and one in no order.
    let odd: Vec<String> = ["2026-01-01T03:00:00Z", "2026-01-01T09:00:00Z", "never", "2026-01-01T05:00:00Z", "2026-01-01T20:00:00Z"]
        .map(|time| format!(r#"{{"time":"{time}","n":1}}"#))
        .into();
    fs::write(storage.join("odd.json.zst"), zstd::encode_all(odd.join("\r\n").as_bytes(), 1).unwrap()).unwrap();
    for root in [&storage, &capture] {
        let whole = some(&mut source(root, &BTreeMap::new()), usize::MAX, &mut BTreeMap::new());
        assert!(whole.len() > 15, "{}", whole.len());
        for stride in [1, 7, 40] {
            let (mut positions, mut lines) = (BTreeMap::new(), Vec::new());
            loop {
                let mut more = some(&mut source(root, &positions), stride, &mut positions);
                if more.is_empty() {
                    break;
                }
                lines.append(&mut more);
            }
            assert!(lines == whole, "{stride} lines at a time, of {}", root.display());
            assert!(positions.values().all(|at| at.ended > 0), "every file was read to its end");
        }
    }
}

#[test]
fn half_a_line_is_left_and_read_when_it_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = dir.path().join("PT1H.json");
    let line = r#"{"time":"2026-01-01T03:00:00Z","tenantId":"t"}"#;
    fs::write(&path, format!("{line}\r\n{}", &line[..20])).unwrap();
    let mut positions = BTreeMap::new();
    let mut first = source(dir.path(), &positions);
    assert_eq!(some(&mut first, 9, &mut positions).len(), 1);
    assert_eq!(first.unfinished(), 1);
    let same = source(dir.path(), &positions);
    assert_eq!(same.count(), 0, "nothing came meanwhile");
    // Whole but for its end: it is a line, and its end is no other.
    fs::write(&path, format!("{line}\r\n{line}")).unwrap();
    assert_eq!(some(&mut source(dir.path(), &positions), 9, &mut positions), [line.as_bytes()]);
    fs::write(&path, format!("{line}\r\n{line}\r\n{line}\r\n")).unwrap();
    assert_eq!(some(&mut source(dir.path(), &positions), 9, &mut positions).len(), 1);
    assert_eq!(source(dir.path(), &positions).count(), 0);
    // Backtest leaves half a line of such a blob out, too.
    fs::write(&path, &line[..20]).unwrap();
    assert_eq!(FileSource::open(&[dir.path().to_owned()]).unwrap().count(), 0);
}

#[test]
fn a_selection_of_time_passes_over_lines_and_leaves_those_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let lines: Vec<String> = (0..9).map(|hour| format!(r#"{{"time":"2026-01-01T0{hour}:00:00Z","n":{hour}}}"#)).collect();
    fs::write(dir.path().join("a.json"), lines.join("\n")).unwrap();
    let at = |hour: i64| Ticks::parse("2026-01-01T00:00:00Z").unwrap().plus(Span::hours(hour));
    let mut positions = BTreeMap::new();
    let mut read = |from, to| {
        let selection = Selection { from: at(from), to: at(to), tenants: Vec::new() };
        let source = FileSource::select(&[dir.path().to_owned()], selection, Retry::default()).unwrap();
        some(&mut source.growing().resume(&positions).unwrap(), 99, &mut positions).len()
    };
    assert_eq!([read(2, 5), read(2, 5), read(2, 24)], [3, 0, 4]);
}
