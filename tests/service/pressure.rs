//! A broker that takes nothing, or answers nothing: memory stays bounded, a drain ends in time, and afterwards everything arrives once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use firstseen::host_clock::monotonic;
use firstseen::kafka::cluster::Cluster;
use firstseen::kafka::readback::read_to_end;

use crate::rig::{Message, Rig, fleet};
use crate::support::kafka::{Broker, PATIENCE, broker};
use crate::support::numbers;
use crate::support::process::Process;

/// The service may hold: the read-ahead (1 MiB a partition here), batches under way (20 MiB), steps before the publisher (16 MiB and a
/// group), what is on its way to the brokers (64 MiB, and as much again compressed), and its code, buffers and the allocator's slack.
const RESIDENT: u64 = 256 << 20;

/// Waits until no message has been consumed for two seconds; gives how many were.
fn stalled(process: &mut Process) -> f64 {
    let mut seen = (0.0, monotonic());
    process.wait_for("consumption to stand still", |p| {
        let consumed = p.metrics()?.sum("firstseen_messages_total");
        if consumed != seen.0 {
            seen = (consumed, monotonic());
        }
        bounded(p);
        (consumed > 0.0 && seen.1.elapsed() > Duration::from_secs(2)).then_some(consumed)
    })
}

fn bounded(process: &Process) {
    let resident = process.resident();
    assert!(resident < RESIDENT, "{} MiB resident", resident >> 20);
}

#[test]
fn an_output_that_takes_little_holds_the_input_back() {
    const MESSAGES: usize = 3_500;
    const SIZE: usize = 100_000;
    let mut rig = Rig::shared("slow");
    let client = rig.group.clone();
    rig.more = vec![format!(r#""client.id" = "{client}""#), r#""queued.max.messages.kbytes" = "1024""#.to_owned()];
    // Not JSON, and each becomes a dead letter of its own size: nothing is as heavy for the output. It hardly compresses.
    let mut random = numbers(3);
    let noise: Vec<u8> = (0..MESSAGES * SIZE / 8).flat_map(|_| random().to_le_bytes().map(|b| b' ' + b % 64)).collect();
    let message =
        |(n, bytes): (usize, &[u8])| Message { partition: n as i32 % 4, timestamp: 1 + n as i64, arrival: 0, bytes: bytes.to_vec() };
    rig.produce(broker(), &noise.chunks_exact(SIZE).enumerate().map(message).collect::<Vec<_>>());
    drop(noise);
    broker().write_quota(&client, Some(200_000));

    let mut service = rig.start();
    let consumed = stalled(&mut service);
    assert!(consumed < MESSAGES as f64, "{consumed}: more input than fits is needed");
    assert_eq!(service.get("/livez").unwrap().0, 200);
    // A drain can't finish, and ends in time all the same.
    service.drain();
    broker().has_read_everything();

    let mut service = rig.start();
    service.wait_for("some messages", |p| p.metrics().filter(|m| m.sum("firstseen_messages_total") > 0.0));
    broker().write_quota(&client, None);
    service.wait_for("everything to be consumed", |p| {
        bounded(p);
        p.metrics().filter(|m| m.sum("firstseen_consumer_lag") == 0.0 && m.sum("firstseen_messages_total") >= MESSAGES as f64)
    });
    let cluster = Cluster::new(&broker().settings("reader"), PATIENCE).unwrap();
    service.wait_for("everything to be written", |p| {
        bounded(p);
        let written: i64 = (0..4).map(|partition| cluster.ends(&rig.dead_letters, partition).unwrap().1.0).sum();
        (written >= MESSAGES as i64).then_some(())
    });
    service.drain();
    let mut found = BTreeSet::new();
    read_to_end(&broker().settings("reader"), &rig.dead_letters, &BTreeMap::new(), PATIENCE, |record| {
        let header = |name| String::from_utf8(record.header(name).unwrap().to_vec()).unwrap();
        assert_eq!(record.payload.len(), SIZE);
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
    let asked = monotonic();
    // It answers meanwhile.
    service.wait_for("a while to pass", |p| {
        assert_eq!(p.get("/livez").unwrap().0, 200);
        bounded(p);
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
