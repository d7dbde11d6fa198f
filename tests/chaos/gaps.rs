//! Retention that passes the stored position again and again, between kills at random moments: what is gone is told, partition by
//! partition; the findings say that their baseline has a gap; topic and state end up calling the same findings open.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use firstseen::kafka::cluster::Cluster;

use crate::rig::{PARTITIONS, Rig, consumer, ends, fleet, known_open};
use crate::support::kafka::{Broker, PATIENCE};
use crate::support::numbers;
use crate::support::process::Process;
use crate::{kills, live, ready, seed};

/// Offsets that a run of the service said were gone: partition, first, one behind the last.
fn told(process: &Process) -> Vec<(i32, i64, i64)> {
    let log = process.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let gaps = lines.filter(|l| l["level"] == "ERROR" && l.to_string().contains("messages are gone from the input"));
    let field = |line: &serde_json::Value, name: &str| {
        let text = line.get(name).or_else(|| line["fields"].get(name)).unwrap_or_else(|| panic!("no {name} in {line}"));
        text.as_str().map_or_else(|| text.to_string(), str::to_owned)
    };
    gaps.map(|line| {
        let partition = field(&line, "partition");
        let number = partition.split_once('[').and_then(|(_, rest)| rest.split_once(']')).unwrap().0;
        (number.parse().unwrap(), field(&line, "from").parse().unwrap(), field(&line, "to").parse().unwrap())
    })
    .collect()
}

#[test]
fn retention_that_passes_the_stored_position_is_told_and_reconciled() {
    let rounds = kills().div_ceil(10).max(2) as usize;
    let broker = Broker::start();
    let rig = Rig::on(&broker, "retention").set("state.snapshot_interval", "1s");
    let mut random = numbers(seed() + 100);
    // Enough before the first gap that what is found later is not the start's.
    let (first, rest) = fleet().split_at(fleet().len() * 3 / 10);
    let mut pieces = rest.chunks(rest.len().div_ceil(rounds + 1));
    let mut written = first.len();
    rig.produce(&broker, first);
    let mut service = rig.start();
    service.caught_up(first.len() as u64);
    service.wait_for("changes to be written", |_| (rig.changes().len() >= 10).then_some(()));
    service.kill();
    broker.has_read_everything();
    let before: BTreeSet<String> = rig.changes().into_iter().collect();
    assert!(!before.is_empty());

    // Of each partition: what nobody can have consumed, and what was said to be gone.
    let (mut unread, mut said) = (BTreeSet::new(), BTreeSet::new());
    let cluster = Cluster::new(&broker.settings("reader"), PATIENCE).unwrap();
    let (mut killed, mut gaps) = (1, 0);
    for _ in 0..rounds {
        let piece = pieces.next().unwrap();
        let old = ends(&fleet()[..written]);
        written += piece.len();
        let new = ends(&fleet()[..written]);
        rig.produce(&broker, piece);
        for partition in 0..PARTITIONS {
            let (old, new) = (old[&partition], new[&partition]);
            // Into what was never read, in one partition at least; in others perhaps into what was, or not at all.
            let before = if partition == 0 || random().is_multiple_of(2) {
                old + 1 + (random() % (new - old) as u64) as i64
            } else {
                old - (random() % 50) as i64
            };
            broker.delete_before(&rig.input, partition, before.max(0));
            unread.extend((old..before).map(|offset| (partition, offset)));
        }
        let lows: BTreeMap<i32, i64> = (0..PARTITIONS).map(|p| (p, cluster.ends(&rig.input, p).unwrap().0.0)).collect();
        // Some are killed before they have stored it: the next one tells it again.
        for _ in 0..1 + random() % 2 {
            let mut service = rig.start();
            if random().is_multiple_of(2) {
                ready(&mut service);
            }
            live(&mut service, Duration::from_millis(1500), &mut random);
            service.kill();
            killed += 1;
            let told = told(&service);
            let partitions: BTreeSet<i32> = told.iter().map(|(partition, _, _)| *partition).collect();
            assert_eq!(partitions.len(), told.len(), "once a partition: {told:?}");
            for (partition, from, to) in told {
                assert!(from < to && to == lows[&partition], "{partition}: {from}..{to}, the log begins at {lows:?}");
                said.extend((from..to).map(|offset| (partition, offset)));
                gaps += 1;
            }
        }
    }
    rig.produce(&broker, &fleet()[written..]);
    let mut last = rig.start();
    let metrics = last.reached(fleet().last().unwrap().arrival);
    last.drain();
    let told = told(&last);
    assert_eq!(metrics.sum("firstseen_input_gap_messages_total") as i64, told.iter().map(|(_, from, to)| to - from).sum::<i64>());
    said.extend(told.iter().flat_map(|(partition, from, to)| (*from..*to).map(|offset| (*partition, offset))));
    gaps += told.len();
    let silent: Vec<_> = unread.difference(&said).collect();
    assert!(silent.is_empty(), "{} messages gone in silence, such as {:?}", silent.len(), silent.first());

    // `changes` checks revisions, `consumer` that none contradicts the one before it.
    let (open, values) = consumer(&rig);
    assert_eq!(open, known_open(&rig));
    let (early, late): (Vec<_>, Vec<_>) = rig.changes().into_iter().zip(values).partition(|(line, _)| before.contains(line));
    assert_eq!(early.len(), before.len());
    assert!(early.iter().all(|(_, value)| value["baseline"].get("gap").is_none()));
    // What the topic called open and the state does not know is closed with its reason, from what the topic says of it.
    let (mut with_gap, mut reconciled) = (0, 0);
    for (_, value) in &late {
        let rested_on_it =
            value["change"] == "retracted" && value["reason"].as_str().unwrap().contains("messages that it rests on were gone");
        assert!(value["baseline"].get("gap").is_some() || rested_on_it, "{value}");
        with_gap += usize::from(value["baseline"].get("gap").is_some());
        reconciled += usize::from(rested_on_it);
    }
    assert!(with_gap > 0);
    crate::rig::say(&format!(
        "chaos, retention past the stored position: {rounds} times, {killed} kills, {} messages never read, {gaps} gaps told, 0 in silence; {with_gap} changes after the first carry baseline.gap, {reconciled} were retracted since the state did not hold them; {} open in topic and state, 0 contradictory",
        unread.len(),
        open.len()
    ));
}
