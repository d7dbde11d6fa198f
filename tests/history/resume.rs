//! Stopped anywhere and started again, history is loaded as if nothing had happened; loaded twice, it changes nothing.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use firstseen::fleet::{Fleet, FleetOptions, export};

use crate::kit::{Place, before, end, number, options, text};
use crate::support::numbers;

#[test]
fn every_form_of_the_same_history_gives_the_same_state() {
    let forms = tempfile::tempdir().unwrap();
    let (storage, capture, messages) = (forms.path().join("storage"), forms.path().join("capture"), forms.path().join("fleet.ndjson.zst"));
    export::storage(&storage, before(end())).unwrap();
    export::capture(&capture, 3, before(end())).unwrap();
    let mut file = fs::File::create(&messages).unwrap();
    firstseen::fleet::write::write_to(&mut file, before(end()), firstseen::fleet::write::Compression::Zstd).unwrap();
    let states: Vec<Vec<u8>> = [storage, capture, messages]
        .iter()
        .map(|form| {
            let place = Place::new();
            let said = place.backfill(&[text(form)]);
            assert!(number(&said, " findings are open") > 0, "{said}");
            assert!(said.contains("the whole lookback") && said.contains("hand-over: `firstseen run` reads its topics from"), "{said}");
            place.export()
        })
        .collect();
    assert!(!states[0].is_empty() && states.iter().all(|state| *state == states[0]));
}

#[test]
fn killed_at_twenty_random_points_and_gone_on_it_is_as_if_undisturbed() {
    let history = tempfile::tempdir().unwrap();
    let larger = FleetOptions { records_per_device_day: 260.0, ..options() };
    export::storage(history.path(), Fleet::new(&larger)).unwrap();
    let undisturbed = Place::new();
    let begun = firstseen::host_clock::monotonic();
    undisturbed.backfill(&[text(history.path())]);
    let takes = u64::try_from(begun.elapsed().as_micros()).unwrap();
    let expected = undisturbed.export();

    let mut random = numbers(5);
    let (mut place, mut kills, mut went_on) = (Place::new(), 0, 0);
    while kills < 20 {
        let mut child = place.command(&["backfill", text(history.path())]).stderr(Stdio::null()).spawn().unwrap();
        std::thread::park_timeout(Duration::from_micros(random() % takes));
        let has_snapshot = || {
            let files = fs::read_dir(place.path("state")).into_iter().flatten().map(Result::unwrap);
            files.map(|file| file.file_name().into_string().unwrap()).any(|name| name.starts_with("snapshot-") && !name.ends_with("tmp"))
        };
        if child.try_wait().unwrap().is_some() {
            // It was at its end: from the beginning once more.
            assert_eq!(place.export(), expected);
            place = Place::new();
            continue;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        went_on += u32::from(has_snapshot());
    }
    place.backfill(&[text(history.path())]);
    assert_eq!(place.export(), expected);
    assert!(went_on >= 5, "only {went_on} of {kills} kills left something to go on from");
}

#[test]
fn loaded_twice_it_changes_nothing_and_what_has_grown_is_read_on() {
    let history = tempfile::tempdir().unwrap();
    export::storage(history.path(), before(end())).unwrap();
    let whole = Place::new();
    whole.backfill(&[text(history.path())]);

    // The last blob as it was while it was written: cut within a line.
    let blob = last_blob(history.path());
    let all = fs::read(&blob).unwrap();
    let cut = all.len() * 2 / 3;
    fs::write(&blob, &all[..cut]).unwrap();
    let place = Place::new();
    let said = place.backfill(&[text(history.path())]);
    assert!(said.contains("1 files end in half a line") && !said.contains("dead letters"), "{said}");
    let files = place.state_files();
    let said = place.backfill(&[text(history.path())]);
    assert_eq!(number(&said, " records from"), 0, "{said}");
    assert!(place.state_files() == files, "nothing is written when there is nothing new");
    assert!(place.export() != whole.export());

    // It is written on, and a blob comes that was not there.
    OpenOptions::new().append(true).open(&blob).unwrap().write_all(&all[cut..]).unwrap();
    let said = place.backfill(&[text(history.path())]);
    assert!((1..500).contains(&number(&said, " records from")), "{said}");
    assert_eq!(place.export(), whole.export());

    // A file that is shorter than what was read of it is another file.
    fs::write(&blob, &all[..10]).unwrap();
    let said = place.refused(&[text(history.path())]);
    assert!(said.contains("is shorter than what was read of it") && said.contains(text(&blob)), "{said}");
}

fn last_blob(root: &Path) -> std::path::PathBuf {
    let mut files = Vec::new();
    let mut left = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
            if entry.path().is_dir() { left.push(entry.path()) } else { files.push(entry.path()) }
        }
    }
    files.into_iter().filter(|file| text(file).contains("networkevents")).max().unwrap()
}

#[test]
fn only_what_is_selected_is_read_and_the_rest_can_follow() {
    let history = tempfile::tempdir().unwrap();
    let tenants = FleetOptions { tenants: 2, ..options() };
    export::storage(history.path(), Fleet::new(&tenants)).unwrap();
    let tenant = Fleet::new(&tenants).tenants().next().unwrap().to_owned();
    let arguments = |more: &[&'static str]| {
        let mut all = vec![text(history.path()).to_owned(), "--tenant".to_owned(), tenant.to_uppercase()];
        all.extend(more.iter().map(|argument| (*argument).to_owned()));
        all
    };
    let load = |place: &Place, more: &[&'static str]| {
        let arguments = arguments(more);
        place.backfill(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let whole = Place::new();
    let said = load(&whole, &[]);
    assert!(said.contains(&format!("tenant {tenant}: ")) && said.matches("tenant ").count() == 1, "{said}");

    let parts = Place::new();
    let first = load(&parts, &["--to", "2026-01-09T12:00:00Z"]);
    let files = number(&first, " files:");
    assert!(files < number(&said, " files:"), "{first}");
    let second = load(&parts, &[]);
    assert_eq!(number(&first, " records from") + number(&second, " records from"), number(&said, " records from"));
    assert_eq!(parts.export(), whole.export());

    let late = Place::new();
    load(&late, &["--from", "2026-01-09"]);
    let arguments = arguments(&["--from", "2026-01-08"]);
    let refusal = late.refused(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(refusal.contains("begun with what arrived from 2026-01-09T00:00:00Z on"), "{refusal}");
    let none = Place::new().refused(&[text(history.path()), "--from", "2027-01-01"]);
    assert!(none.contains("holds nothing that arrived between --from and --to"), "{none}");
}

#[test]
fn a_directory_of_other_settings_is_refused_with_their_keys() {
    let history = tempfile::tempdir().unwrap();
    export::storage(history.path(), before(options().start.plus(firstseen::time::Span::days(1)))).unwrap();
    let place = Place::new();
    place.backfill(&[text(history.path())]);
    let place = place.with("FIRSTSEEN_QUERY__PREVALENCE_BELOW", "7");
    let said = place.refused(&[text(history.path())]);
    assert!(said.contains("begun with other settings (query.prevalence_below)"), "{said}");
}
