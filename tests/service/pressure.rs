//! A broker that takes nothing, or answers nothing: memory stays bounded, a drain ends in time, and afterwards everything arrives once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use firstseen::kafka::readback::read_to_end;

use crate::rig::{Message, Rig, fleet, numbers};
use crate::support::kafka::{Broker, PATIENCE, broker};
use crate::support::process::Process;

/// The service may hold: the read-ahead (16 MiB a partition), batches under way (20 MiB), steps before the publisher (64 MiB and a
/// group), what is on its way to the brokers (64 MiB), and its code, buffers and allocator's slack.
const RESIDENT: u64 = 320 << 20;

/// Waits until the count of consumed messages has stood still for two seconds; gives it.
fn stalled(process: &mut Process) -> f64 {
    let mut seen = (0.0, Instant::now());
    process.wait_for("consumption to stand still", |p| {
        let consumed = p.metrics()?.sum("firstseen_messages_total");
        if consumed != seen.0 {
            seen = (consumed, Instant::now());
        }
        assert!(p.resident() < RESIDENT, "{} bytes resident", p.resident());
        (consumed > 0.0 && seen.1.elapsed() > Duration::from_secs(2)).then_some(consumed)
    })
}

#[test]
fn an_output_that_takes_nothing_holds_the_input_back() {
    const MESSAGES: usize = 4_500;
    let rig = Rig::shared("unwritable");
    // Not JSON, and each becomes a dead letter of its own size: nothing is as heavy for the output. It does not compress.
    let mut random = numbers(3);
    let noise: Vec<u8> = (0..100_000).map(|_| b'a' + (random() % 26) as u8).collect();
    let messages: Vec<Message> =
        (0..MESSAGES).map(|n| Message { partition: n as i32 % 4, timestamp: 1 + n as i64, arrival: 0, bytes: noise.clone() }).collect();
    rig.produce(broker(), &messages);
    drop(messages);
    // One replica is there, two are wanted.
    broker().topic_named(&rig.dead_letters, 2);
    broker().set(&rig.dead_letters, "min.insync.replicas", "2");

    let mut service = rig.start();
    let consumed = stalled(&mut service);
    assert!(consumed < MESSAGES as f64, "{consumed}: more input than fits is needed");
    assert_eq!(service.get("/livez").unwrap().0, 200);
    // A drain can't finish, and ends all the same.
    service.drain();
    assert!(rig.read(&rig.dead_letters).is_empty());

    let mut service = rig.start();
    stalled(&mut service);
    broker().set(&rig.dead_letters, "min.insync.replicas", "1");
    service.wait_for("everything to be consumed", |p| {
        assert!(p.resident() < RESIDENT, "{} bytes resident", p.resident());
        p.metrics().filter(|m| m.sum("firstseen_messages_total") >= MESSAGES as f64)
    });
    service.drain();
    let mut found = BTreeSet::new();
    read_to_end(&broker().settings("reader"), &rig.dead_letters, &BTreeMap::new(), PATIENCE, |record| {
        let header = |name| String::from_utf8(record.header(name).unwrap().to_vec()).unwrap();
        assert_eq!(record.payload.len(), noise.len());
        assert!(found.insert((header("source-partition"), header("source-offset"))), "twice");
    })
    .unwrap();
    assert_eq!(found.len(), MESSAGES);
}

#[test]
fn a_broker_that_stands_still_costs_time_and_nothing_else() {
    let broker = Broker::start();
    let rig = Rig::on(&broker, "still").set("state.snapshot_interval", "1s");
    rig.produce(&broker, fleet());
    let mut service = rig.start();
    service.wait_for("some messages", |p| p.metrics().filter(|m| m.sum("firstseen_messages_total") >= 30.0));
    broker.pause();
    let asked = Instant::now();
    // It answers meanwhile.
    service.wait_for("a while to pass", |p| {
        assert_eq!(p.get("/livez").unwrap().0, 200);
        (asked.elapsed() > Duration::from_secs(3)).then_some(())
    });
    broker.resume();
    service.reached(fleet().last().unwrap().arrival);
    service.drain();
    rig.holds_what_is_expected();
}

#[test]
fn a_drain_ends_in_time_when_no_broker_answers() {
    let broker = Broker::start();
    let rig = Rig::on(&broker, "drain");
    rig.produce(&broker, fleet());
    let mut service = rig.start();
    service.wait_for("some messages", |p| p.metrics().filter(|m| m.sum("firstseen_messages_total") >= 30.0));
    broker.pause();
    service.drain();
    broker.resume();
    let mut service = rig.start();
    service.reached(fleet().last().unwrap().arrival);
    // Killed as a crash would, and back: what was on its way is there once.
    broker.restart();
    service.drain();
    rig.holds_what_is_expected();
}
