//! The input topic deleted and created again, under load or while nobody looks: never taken for the one that was consumed; and the way out
//! that the message names works.

use std::time::Duration;

use crate::rig::{Message, PARTITIONS, Rig, fleet, same};
use crate::support::kafka::Broker;
use crate::support::numbers;
use crate::support::process::Process;
use crate::{kills, lives, seed};

/// Everything on the findings topic.
fn lines(rig: &Rig) -> Vec<String> {
    rig.read(&rig.findings).into_iter().map(|written| String::from_utf8(written.payload).unwrap()).collect()
}

/// Names and contents of the snapshots.
fn snapshots(rig: &Rig) -> Vec<(String, Vec<u8>)> {
    let names = rig.state_files().into_keys().filter(|name| name.starts_with("snapshot-") && !name.ends_with(".tmp"));
    names.map(|name| (name.clone(), std::fs::read(rig.state().join(name)).unwrap())).collect()
}

/// It has ended by itself, and says why.
fn refused(rig: &Rig, process: &mut Process) {
    assert_eq!(process.end().code(), Some(1), "{}", process.log());
    let log = process.log();
    let last = log.lines().last().unwrap_or_default();
    for words in ["error: ", &rig.input, "deleted and created again", "move the state directory away"] {
        assert!(last.contains(words), "{last}");
    }
}

#[test]
fn an_input_topic_that_was_created_again_is_never_taken_for_the_old_one() {
    let rounds = kills().div_ceil(20).max(2);
    let broker = Broker::start();
    let mut random = numbers(seed() + 200);
    let (mut under_load, mut starts, mut changes) = (0, 0, 0);
    for round in 0..rounds {
        let rig = Rig::on(&broker, "again").set("state.snapshot_interval", "1s");
        let half = fleet().len() / 2;
        rig.produce(&broker, &fleet()[..half]);
        let mut service = rig.start();
        let is_running = round.is_multiple_of(2);
        // In the middle of its work; a snapshot holds some of it.
        service.wait_for("a snapshot of some messages", |p| {
            let some = p.metrics()?.sum("firstseen_messages_total") >= 30.0;
            (some && rig.state_files().contains_key("snapshot-000000000002")).then_some(())
        });
        if is_running {
            under_load += 1;
            broker.recreate(&rig.input, PARTITIONS);
            refused(&rig, &mut service);
        } else {
            lives(&mut service, Duration::from_secs(1), &mut random);
            service.kill();
            broker.recreate(&rig.input, PARTITIONS);
        }
        broker.has_read_everything();
        // Shorter than what was consumed, or longer: other messages stand at the stored offsets.
        let new: &[Message] = if random().is_multiple_of(2) { &fleet()[half..half + 40] } else { &fleet()[half..] };
        rig.produce(&broker, new);
        let (before, stored) = (lines(&rig), snapshots(&rig));
        for _ in 0..1 + random() % 2 {
            let mut service = rig.start();
            if random().is_multiple_of(3) && lives(&mut service, Duration::from_millis(500), &mut random) {
                service.kill();
            } else {
                refused(&rig, &mut service);
            }
            starts += 1;
        }
        assert_eq!(lines(&rig), before, "nothing of it is read as if nothing were");
        assert_eq!(snapshots(&rig), stored, "the state is as it was");
        // What the message says to do.
        std::fs::rename(rig.state(), rig.dir.path().join("state-of-the-old-topic")).unwrap();
        let mut service = rig.start();
        service.reached(new.last().unwrap().arrival);
        service.drain();
        let mut found = lines(&rig);
        for line in &before {
            let at = found.iter().position(|found| found == line).unwrap();
            found.swap_remove(at);
        }
        let expected: Vec<String> = rig.backtest(new, &[]).lines().map(str::to_owned).collect();
        changes += expected.len();
        same(&found, &expected);
    }
    crate::rig::say(&format!(
        "chaos, input topic created again: {rounds} times, {under_load} under load; {starts} starts refused or killed, nothing of it read; with a new state.dir the {changes} changes that backtest finds in the new topics"
    ));
}
