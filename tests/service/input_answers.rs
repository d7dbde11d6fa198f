//! What docs/operations.md promises of an input that lost messages or is another, on the real binary and a real broker; one line of outcome each.

use std::collections::BTreeMap;

use crate::rig::{PARTITIONS, Rig, consumer, fleet, known_open, same, say};
use crate::support::kafka::broker;

/// Deletes the first `share` of the first `n` messages' partitions.
fn delete(rig: &Rig, n: usize, share: f64) -> u64 {
    let ends = crate::rig::ends(&fleet()[..n]);
    (0..PARTITIONS)
        .map(|partition| {
            let before = (ends[&partition] as f64 * share) as i64;
            broker().delete_before(&rig.input, partition, before);
            before as u64
        })
        .sum()
}

#[test]
fn answer_gap() {
    let rig = Rig::shared("gap");
    let (n, all) = (fleet().len() * 7 / 10, fleet().len());
    rig.produce(broker(), &fleet()[..n / 2]);
    let mut first = rig.start();
    first.caught_up((n / 2) as u64);
    first.drain();
    let consumed = n / 2;
    rig.produce(broker(), &fleet()[n / 2..n]);
    let gone = delete(&rig, n, 0.9) - consumed as u64;
    let stored = rig.state_files();

    // Told to stop: one line, and nothing is touched.
    let rig = rig.set("input.on_gap", "stop");
    let mut stopped = rig.start();
    assert_eq!(stopped.end().code(), Some(1));
    let log = stopped.log();
    let last = log.lines().last().unwrap();
    for words in ["error: ", &rig.input, "are gone from the input", "input.on_gap = \"continue\""] {
        assert!(last.contains(words), "{last}");
    }
    let snapshots = |files: BTreeMap<String, u64>| files.into_iter().filter(|(name, _)| name.starts_with("snapshot-")).collect::<Vec<_>>();
    assert_eq!(snapshots(rig.state_files()), snapshots(stored), "the state is as it was");

    let rig = rig.set("input.on_gap", "continue");
    rig.produce(broker(), &fleet()[n..]);
    let mut second = rig.start();
    let metrics = second.reached(fleet()[all - 1].arrival);
    assert_eq!(metrics.sum("firstseen_input_gap_messages_total") as u64, gone);
    second.drain();
    let log = second.log();
    let errors: Vec<serde_json::Value> =
        log.lines().filter_map(|l| serde_json::from_str(l).ok()).filter(|l: &serde_json::Value| l["level"] == "ERROR").collect();
    assert_eq!(errors.len(), PARTITIONS as usize, "one a partition: {errors:?}");
    for error in &errors {
        let text = error.to_string();
        assert!(text.contains("messages are gone from the input") && text.contains("\"from\"") && text.contains("\"to\""), "{text}");
        assert!(text.contains(&rig.input), "{text}");
    }
    let (open, values) = consumer(&rig);
    assert_eq!(open, known_open(&rig));
    // The file's last message before the gap: what is said at or before it knows of none.
    let at = firstseen::time::Ticks(fleet()[consumed - 1].arrival * 10_000 + 9_999).to_string();
    let (early, late): (Vec<_>, Vec<_>) = values.iter().partition(|v| v["at"].as_str().unwrap() <= at.as_str());
    assert!(early.iter().all(|v| v["baseline"].get("gap").is_none()) && !early.is_empty());
    assert!(late.iter().all(|v| v["baseline"].get("gap").is_some()) && !late.is_empty());
    let after: Vec<_> = values.iter().filter(|v| v["baseline"].get("gap").is_some()).collect();
    let opened = after.iter().filter(|v| v["change"] == "opened").count();
    assert!(opened > 0);
    say(&format!(
        "answer, gap: {gone} messages gone from {PARTITIONS} partitions: counted, {} ERROR with partition and range, {opened} findings opened after it carry baseline.gap; on_gap = \"stop\": exit 1",
        errors.len()
    ));
}

#[test]
fn answer_retention_shorter_than_downtime_on_a_broker() {
    let mut outcome = Vec::new();
    for (place, share) in [("acknowledged:40", 0.5), ("journal-synced:1", 0.8), ("acknowledged:200", 1.0)] {
        let rig = Rig::shared("downtime");
        let n = fleet().len() * 7 / 10;
        rig.produce(broker(), &fleet()[..n]);
        rig.start_to_crash(place).crashed();
        let before = rig.changes().len();
        let gone = delete(&rig, n, share);
        rig.produce(broker(), &fleet()[n..]);
        let mut second = rig.start();
        let metrics = second.reached(fleet().last().unwrap().arrival);
        assert_eq!(metrics.sum("firstseen_input_gap_messages_total") as u64, gone);
        second.drain();
        let (open, values) = consumer(&rig);
        assert_eq!(open, known_open(&rig), "{place}");
        let gap = "messages that it rests on were gone";
        let retracted = values.iter().filter(|v| v["reason"].as_str().unwrap_or_default().contains(gap)).count();
        // Another start has nothing to say.
        let mut third = rig.start();
        third.caught_up(0);
        third.drain();
        assert_eq!(consumer(&rig).1.len(), values.len());
        outcome.push(format!("{gone} gone, {before} changes before, {retracted} retracted for it, {} open in both", open.len()));
    }
    say(&format!("answer, retention shorter than downtime: {}; 0 contradictions", outcome.join("; ")));
}

#[test]
fn answer_recreated_topic() {
    let rig = Rig::shared("recreated");
    let n = fleet().len() / 2;
    rig.produce(broker(), &fleet()[..n]);
    let mut first = rig.start();
    first.caught_up(n as u64);
    first.drain();
    let (changes, files) = (rig.changes(), rig.state_files());
    let mut said = Vec::new();
    // Shorter than what was consumed, and longer: other messages stand at the offsets that are stored.
    for (from, to) in [(n, n + 40), (n, fleet().len())] {
        broker().recreate(&rig.input, PARTITIONS);
        rig.produce(broker(), &fleet()[from..to]);
        if to == fleet().len() {
            rig.produce(broker(), &fleet()[..n]);
        }
        let mut refused = rig.start();
        assert_eq!(refused.end().code(), Some(1));
        let log = refused.log();
        let last = log.lines().last().unwrap().to_owned();
        for words in ["error: ", &rig.input, "deleted and created again", "move the state directory away"] {
            assert!(last.contains(words), "{last}");
        }
        assert_eq!(rig.changes(), changes, "nothing is read as if nothing were");
        let snapshots = |files: &BTreeMap<String, u64>| files.keys().filter(|n| n.starts_with("snapshot-")).cloned().collect::<Vec<_>>();
        assert_eq!(snapshots(&rig.state_files()), snapshots(&files));
        said.push(last);
    }
    assert!(said[0].contains("but was consumed up to") && said[1].contains("was appended at"), "{said:?}");

    // Under a running service.
    let rig = Rig::shared("recreated-live");
    rig.produce(broker(), &fleet()[..n]);
    let mut running = rig.start();
    running.caught_up(n as u64);
    broker().recreate(&rig.input, PARTITIONS);
    rig.produce(broker(), &fleet()[n..n + 40]);
    assert_eq!(running.end().code(), Some(1));
    let log = running.log();
    assert!(log.lines().last().unwrap().contains("deleted and created again"), "{log}");
    let expected: Vec<String> = rig.backtest(&fleet()[..n], &[]).lines().map(str::to_owned).collect();
    same(&rig.changes(), &expected);
    say(
        "answer, re-created topic: shorter than the stored position, longer, and under a running service: exit 1 each, named, nothing consumed, the state untouched",
    );
}

#[test]
fn answer_changed_settings() {
    let rig = Rig::shared("settings");
    let n = fleet().len() * 9 / 10;
    rig.produce(broker(), &fleet()[..n]);
    // Killed: what its journal lists is replayed by the old numbers, and only then the new ones hold.
    rig.start_to_crash("acknowledged:200").crashed();
    let mut again = rig.start();
    again.caught_up(0);
    again.reached(fleet()[n - 1].arrival);
    // What the killed process may have sent is published only when the output topics have settled.
    let changes = rig.backtest(&fleet()[..n], &[]).lines().count();
    again.wait_for("every change to be on the topic", |_| (consumer(&rig).1.len() == changes).then_some(()));
    again.kill();
    let before = consumer(&rig);
    let rig = rig.set("query.prevalence_below", "1").set("output.update_interval", "1h").set("input.max_clock_skew", "2h");
    let mut second = rig.start();
    second.caught_up(0);
    second.reached(fleet()[n - 1].arrival);
    second.drain();
    let after = consumer(&rig);
    assert_eq!(after.0, known_open(&rig));
    let at_once: Vec<_> = after.1.iter().filter(|change| !before.1.contains(change)).collect();
    assert!(!before.0.is_empty() && after.0.is_empty(), "{} and {}", before.0.len(), after.0.len());
    assert_eq!(at_once.len(), before.0.len());
    for change in &at_once {
        assert_eq!(change["prevalence"]["threshold"], 1);
        assert_eq!(change["change"], "retracted", "no destination is as rare as that");
    }
    // Again the same: nothing to say. Back: what is rare again opens again, under its id.
    let mut third = rig.start();
    third.caught_up(0);
    third.drain();
    assert_eq!(consumer(&rig).1.len(), after.1.len());
    let rig = rig.set("query.prevalence_below", "6");
    let mut back = rig.start();
    back.caught_up(0);
    back.drain();
    assert_eq!(consumer(&rig).0.keys().collect::<Vec<_>>(), before.0.keys().collect::<Vec<_>>());

    let mut refused = Vec::new();
    for (key, value, is) in
        [("query.lookback", "20d", "14d"), ("query.prevalence_window", "3d", "5d"), ("query.prevalence_below", "100", "6")]
    {
        let other = Rig::shared("settings-refused").set(key, value);
        std::fs::create_dir(other.state()).unwrap();
        for name in rig.state_files().keys().filter(|name| *name != "LOCK") {
            std::fs::copy(rig.state().join(name), other.state().join(name)).unwrap();
        }
        let mut process = other.start();
        assert_eq!(process.end().code(), Some(1));
        let last = process.log().lines().last().unwrap().to_owned();
        assert!(last.contains(&format!("{key} was {is} when the state was written and is {value} now")), "{last}");
        assert!(last.contains("Set the old value again; or move state.dir away"), "{last}");
        refused.push(key);
    }
    say(&format!(
        "answer, changed settings: prevalence_below 6 to 1: {} changes at once, {} open instead of {}, and back: the same findings; refused with key and ways out: {}",
        at_once.len(),
        after.0.len(),
        before.0.len(),
        refused.join(", ")
    ));
}

#[test]
fn answer_partial_baseline() {
    let rig = Rig::shared("partial");
    let n = fleet().len() * 9 / 10;
    rig.produce(broker(), &fleet()[..n]);
    let mut first = rig.start();
    first.caught_up(n as u64);
    first.drain();
    let before = consumer(&rig).1.len();
    let mut rig = rig.set("query.lookback", "15d");
    let mut refused = rig.start();
    assert_eq!(refused.end().code(), Some(1));
    let log = refused.log();
    assert!(log.contains("query.lookback was 14d") && log.contains("--accept-partial-baseline"), "{log}");
    // Accepted: what is said from now on says so, for the day by which the new window is longer.
    rig.produce(broker(), &fleet()[n..]);
    rig.by = ["sh", "-c", "exec \"$@\" --accept-partial-baseline", "sh"].map(str::to_owned).into();
    let mut second = rig.start();
    second.caught_up(0);
    second.reached(fleet().last().unwrap().arrival);
    second.drain();
    assert!(second.log().contains("baseline.partial_until"), "{}", second.log());
    let (_, values) = consumer(&rig);
    let after = &values[before..];
    let changed = firstseen::time::Ticks(fleet()[n - 1].arrival * 10_000).plus(firstseen::time::Span::days(1));
    let mut marked = 0;
    for value in values.iter().filter(|value| value["baseline"]["lookback"] == "15d") {
        let at = firstseen::time::Ticks::parse(value["at"].as_str().unwrap()).unwrap();
        let until = value["baseline"].get("partial_until").and_then(|until| firstseen::time::Ticks::parse(until.as_str().unwrap()));
        match until {
            Some(until) => {
                assert!(at < until && until.0.abs_diff(changed.0) < 1_000_000_000, "{value}");
                marked += 1;
            }
            None => assert!(at >= changed, "{value}"),
        }
    }
    assert!(marked > 0 && !after.is_empty());
    // It stands in the state: the flag is needed once.
    rig.by.clear();
    let mut third = rig.start();
    third.caught_up(0);
    third.drain();
    say(&format!(
        "answer, partial baseline: query.lookback 14d to 15d refused with the flag's name; accepted, {marked} of {} changes say until when they may be wrong",
        after.len()
    ));
}
