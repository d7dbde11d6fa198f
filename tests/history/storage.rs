//! Blobs from a real Azurite: the same state as from files; and what a store can do wrong.

use firstseen::fleet::export;

use crate::azurite::{Rough, azurite};
use crate::kit::{Place, before, end, number, text};

/// A container with the fleet's Storage export, and the state that it gives from local files.
fn uploaded(name: &str) -> (String, Vec<u8>) {
    let local = tempfile::tempdir().unwrap();
    export::storage(local.path(), before(end())).unwrap();
    let container = azurite().container(name);
    azurite().upload(&container, local.path());
    let place = Place::new();
    place.backfill(&[text(local.path())]);
    (container, place.export())
}

#[test]
fn a_container_gives_what_its_files_give_and_only_needed_hours_are_asked_for() {
    let (container, expected) = uploaded("export");
    let rough = Rough::new(azurite(), Box::new(|_| None));
    let place = Place::new().storage(&rough.address);
    place.backfill(&[&format!("az://{container}")]);
    assert_eq!(place.export(), expected);
    let said = place.backfill(&[&format!("az://{container}")]);
    assert_eq!(number(&said, " records from"), 0, "{said}");

    rough.seen.lock().unwrap().clear();
    let table = format!("az://{container}/insights-logs-advancedhunting-deviceinfo");
    Place::new().storage(&rough.address).backfill(&[&table, "--from", "2026-01-10T00:00:00Z", "--to", "2026-01-10T06:00:00Z"]);
    let seen = rough.seen.lock().unwrap().clone();
    let blobs: Vec<&String> = seen.iter().filter(|line| line.contains("PT1H.json")).collect();
    assert!(!blobs.is_empty() && blobs.iter().all(|line| line.contains("d%3D10") || line.contains("d=10")), "{blobs:?}");
    assert!(seen.len() < 25, "listing goes down to the day alone: {seen:#?}");

    // A blob by its own name, and one that is not there.
    let one = blobs[0].split(' ').nth(1).unwrap().replace("%3D", "=");
    let one = one.split_once(&container).unwrap().1.split('?').next().unwrap().to_owned();
    let said = Place::new().storage(&rough.address).backfill(&[&format!("az://{container}{one}")]);
    assert!(said.contains("records from 1 files"), "{said}");
    let said = Place::new().storage(&rough.address).refused(&["az://no-such-container"]);
    assert!(said.contains("There is no container, prefix or blob of that name"), "{said}");
}

#[test]
fn a_store_that_answers_now_and_then_is_asked_again() {
    let (container, expected) = uploaded("throttled");
    let mut n = 0;
    let answers = move |_: &str| {
        n += 1;
        // A fifth of all requests, of each kind in turn.
        (n % 5 == 0).then(|| [429, 503, 500, 403][n / 5 % 4])
    };
    let rough = Rough::new(azurite(), Box::new(answers));
    let place = Place::new().storage(&rough.address);
    place.backfill(&[&format!("az://{container}")]);
    assert_eq!(place.export(), expected);
}

#[test]
fn a_store_that_refuses_ends_it_with_the_blobs_name_and_it_goes_on_later() {
    let (container, expected) = uploaded("refused");
    let blob = "d%3D12/h%3D07";
    let is_it = move |line: &str| line.contains(blob) || line.contains("d=12/h=07");
    let rough = Rough::new(azurite(), Box::new(move |line| is_it(line).then_some(403)));
    let place = Place::new().storage(&rough.address);
    let said = place.refused(&[&format!("az://{container}")]);
    assert!(said.contains("d=12/h=07/m=00/PT1H.json can't be read, tried 8 times"), "{said}");
    assert!(said.contains("Storage Blob Data Reader") && said.contains("start again: it goes on where it stopped"), "{said}");
    // What came before is stored.
    let later = place.storage(&azurite().address());
    let went_on = later.backfill(&[&format!("az://{container}")]);
    assert!(number(&went_on, " records from") < number(&said, " records from") * 2, "{went_on}");
    assert_eq!(later.export(), expected);
}

#[test]
fn blobs_that_vanish_are_named_and_everything_else_is_read() {
    let (container, _) = uploaded("vanished");
    let rough = Rough::new(azurite(), Box::new(|line| (line.contains("d%3D12/h%3D07") || line.contains("d=12/h=07")).then_some(404)));
    let place = Place::new().storage(&rough.address);
    let said = place.refused(&[&format!("az://{container}")]);
    assert!(said.contains("d=12/h=07/m=00/PT1H.json has vanished while it was read"), "{said}");
    assert!(said.contains("to 2026-01-15T23:5"), "the rest was read: {said}");
    assert!(said.lines().last().unwrap().contains("files could not be read to their end"), "{said}");
}
