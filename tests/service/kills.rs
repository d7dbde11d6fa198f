//! SIGKILL in every window between two durable steps: each change is on the topic once, and it is the undisturbed run's.

use firstseen::time::Ticks;

use crate::rig::{Rig, expected, fleet, same};
use crate::support::kafka::broker;
use crate::support::numbers;
use crate::support::process::Metrics;

/// Runs to the end and checks everything; the metrics are those of the last run.
fn to_the_end(rig: &Rig) -> Metrics {
    let mut last = rig.start();
    let metrics = last.reached(fleet().last().unwrap().arrival);
    last.drain();
    rig.holds_what_is_expected();
    metrics
}

#[test]
fn killed_with_changes_journaled_and_not_published() {
    let rig = Rig::shared("journaled");
    rig.produce(broker(), fleet());
    rig.start_to_crash("journal-synced:1").crashed();
    assert_eq!(rig.changes(), [""; 0], "nothing is published before the first sync");
    // Again and again at the same place: what was consumed is replayed, and its changes are published by the next run, whose journal
    // has nothing to sync.
    let metrics = to_the_end(&rig);
    assert!(metrics.sum("firstseen_replayed_messages_total") > 0.0, "what was journaled is replayed");
}

#[test]
fn killed_with_changes_journaled_late_in_the_input() {
    let rig = Rig::shared("journaled-late");
    // However much is synced at once: what the first half says is on the topic, and of the second half nothing.
    let (first, second) = fleet().split_at(fleet().len() / 2);
    let said = rig.backtest(first, &[]).lines().count();
    assert!(said > 0 && said < expected().len(), "{said}");
    rig.produce(broker(), first);
    let mut service = rig.start();
    service.caught_up(first.len() as u64);
    service.wait_for("the first half's changes", |_| (rig.changes().len() >= said).then_some(()));
    service.kill();
    rig.produce(broker(), second);
    rig.start_to_crash("journal-synced:1").crashed();
    assert_eq!(rig.changes().len(), said);
    let metrics = to_the_end(&rig);
    assert!(metrics.sum("firstseen_replayed_messages_total") > 0.0);
}

#[test]
fn killed_with_changes_published_and_not_acknowledged() {
    for place in ["acknowledged:1", "acknowledged:40", "published:3"] {
        let rig = Rig::shared("acknowledged");
        rig.produce(broker(), fleet());
        rig.start_to_crash(place).crashed();
        let found = rig.changes();
        if place.starts_with("acknowledged") {
            assert!(!found.is_empty(), "what was to be acknowledged is on the topic");
        }
        assert!(found.len() < expected().len());
        let metrics = to_the_end(&rig);
        assert!(metrics.sum("firstseen_replayed_messages_total") > 0.0, "{place}");
    }
}

#[test]
fn killed_in_the_middle_of_a_snapshot_and_before_its_name() {
    let (before, after) = fleet().split_at(fleet().len() * 9 / 10);
    // The first snapshot is the empty one at the beginning: the second is that of the work done.
    for place in ["snapshot-rows:9", "snapshot-rename:2"] {
        let rig = Rig::shared("snapshot").set("state.snapshot_interval", "1s");
        rig.produce(broker(), before);
        rig.start_to_crash(place).crashed();
        let files = rig.state_files();
        // The journal's next segment may be half made, too: another thread makes it.
        let is_half = |name: &str| name.starts_with("snapshot-") && name.ends_with(".tmp");
        let half: Vec<_> = files.iter().filter(|(name, _)| is_half(name)).collect();
        assert!(matches!(half[..], [(_, size)] if *size > 1_000), "{place}: {files:?}");
        assert!(files.keys().any(|name| name.starts_with("snapshot-") && !name.ends_with(".tmp")), "{place}: {files:?}");
        rig.produce(broker(), after);
        let metrics = to_the_end(&rig);
        assert!(metrics.sum("firstseen_replayed_messages_total") > 0.0, "{place}");
        assert!(!rig.state_files().keys().any(|name| name.ends_with(".tmp")), "{place}");
    }
}

#[test]
fn killed_before_the_first_snapshot_begins_anew() {
    for place in ["snapshot-rows:1", "snapshot-rename:1"] {
        let rig = Rig::shared("first-snapshot");
        rig.produce(broker(), fleet());
        rig.start_to_crash(place).crashed();
        assert_eq!(rig.changes(), [""; 0]);
        let metrics = to_the_end(&rig);
        assert_eq!(metrics.sum("firstseen_replayed_messages_total"), 0.0);
    }
}

#[test]
fn killed_in_the_middle_of_a_replay_and_killed_there_again() {
    let rig = Rig::shared("replay");
    rig.produce(broker(), fleet());
    rig.start_to_crash("acknowledged:300").crashed();
    let found = rig.changes();
    // Whatever the threads did: what came before the 300th change is journaled.
    let change: serde_json::Value = serde_json::from_str(&expected()[299]).unwrap();
    let at = Ticks::parse(change["at"].as_str().unwrap()).unwrap();
    let journaled = fleet().iter().filter(|m| m.arrival < at.0 / 10_000).count();
    for place in ["replayed:1".to_owned(), format!("replayed:{journaled}"), format!("replayed:{}", journaled / 3)] {
        rig.start_to_crash(&place).crashed();
        assert!(rig.changes().len() >= found.len());
    }
    let metrics = to_the_end(&rig);
    assert!(metrics.sum("firstseen_replayed_messages_total") >= journaled as f64 && journaled > 200);
}

#[test]
fn killed_while_a_replay_publishes_what_is_missing() {
    let rig = Rig::shared("replay-publishes");
    rig.produce(broker(), fleet());
    // Nothing of what is journaled is on the topic: the replay publishes it, and is killed doing so.
    rig.start_to_crash("journal-synced:1").crashed();
    rig.start_to_crash("acknowledged:1").crashed();
    rig.start_to_crash("acknowledged:2").crashed();
    to_the_end(&rig);
}

#[test]
fn killed_at_arbitrary_moments() {
    const ROUNDS: usize = 6;
    let mut random = numbers(2026);
    let rig = Rig::shared("arbitrary").set("state.snapshot_interval", "1s");
    let chunk = fleet().len() / (ROUNDS + 1);
    for messages in fleet().chunks(chunk).take(ROUNDS) {
        // Each round has at least its own messages to consume, so that every moment below comes.
        rig.produce(broker(), messages);
        let moment = 1 + random() % chunk as u64;
        let mut service = rig.start();
        service.wait_for("the moment", |p| p.metrics().filter(|m| m.sum("firstseen_messages_total") >= moment as f64));
        service.kill();
    }
    rig.produce(broker(), &fleet()[chunk * ROUNDS..]);
    to_the_end(&rig);
    same(&rig.changes(), expected());
}
