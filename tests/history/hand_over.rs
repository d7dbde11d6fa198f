//! History, then live: at every sampled instant of the last day the open findings are the query's over everything.

use std::collections::{BTreeMap, BTreeSet};

use firstseen::defender::{Batch, Decoder, Item, Limits};
use firstseen::detector::Settings;
use firstseen::fleet::{Message, export};
use firstseen::time::{Span, Ticks};

use crate::azurite::azurite;
use crate::kit::{before, end, fleet};
use crate::model::{Key, Model};
use crate::rig::{PARTITIONS, Rig, Written};
use crate::support::kafka::broker;
use crate::support::numbers;

/// A row as both sides tell it: count, prevalence, URLs.
type Values = (u64, u64, BTreeSet<String>);

/// History ends two hours into the last day, which is what the topic holds.
fn history_ends() -> Ticks {
    end().minus(Span::hours(22))
}

fn live() -> Vec<Message> {
    fleet().into_iter().filter(|message| message.arrival >= end().minus(Span::days(1))).collect()
}

/// Writes the last day to the topic, each message's timestamp its arrival.
fn produce(rig: &Rig, messages: &[Message]) -> i64 {
    let (mut random, mut last) = (numbers(3), 0);
    let messages: Vec<(i32, i64, &[u8])> = messages
        .iter()
        .map(|message| {
            last = (message.arrival.0 / 10_000).max(last + 1);
            ((random() % PARTITIONS as u64) as i32, last, &*message.bytes)
        })
        .collect();
    broker().produce(&rig.input, messages);
    last
}

fn rig(name: &str) -> Rig {
    Rig::shared(name).set("output.update_interval", "0s")
}

fn backfill(rig: &Rig, path: &str) -> String {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_firstseen"))
        .args(["backfill", path, "--config"])
        .arg(rig.config())
        .envs([("AZURE_STORAGE_USE_EMULATOR", "true"), ("AZURITE_BLOB_STORAGE_URL", &azurite().address())])
        .env("FIRSTSEEN_OUTPUT__UPDATE_INTERVAL", "0s")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    said
}

/// One into which history was loaded and whose topic holds the last day.
fn rig_of(name: &str, local: &tempfile::TempDir) -> Rig {
    let rig = rig(name);
    produce(&rig, &live());
    backfill(&rig, local.path().to_str().unwrap());
    rig
}

/// Consumes all of the topic, and drains.
fn run_to_the_end(rig: &Rig) {
    let arrival = live().last().unwrap().arrival.0 / 10_000;
    let mut service = rig.start();
    service.reached(arrival);
    service.drain();
}

/// The open findings that the topic's changes up to each of these instants tell, the late ones left out.
fn told(changes: &[String], at: &[Ticks]) -> Vec<BTreeMap<Key, Values>> {
    let changes: Vec<serde_json::Value> = changes.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let open_at = |now: &Ticks| {
        let mut open: BTreeMap<String, (u64, Option<(Key, Values)>)> = BTreeMap::new();
        for change in &changes {
            if Ticks::parse(change["at"].as_str().unwrap()).unwrap() > *now || change["late"] == true {
                continue;
            }
            let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
            let remote = &change["remote"];
            let key = (text(&change["device"]["name"]), text(&remote["ip"]), remote["port"].as_u64().map(|port| port as u16));
            let urls = remote["urls"].as_array().into_iter().flatten().map(text).collect();
            let values = (change["count"].as_u64().unwrap(), change["prevalence"]["devices"].as_u64().unwrap(), urls);
            let is_open = ["opened", "updated"].contains(&change["change"].as_str().unwrap());
            let (revision, held) = open.entry(text(&change["finding_id"])).or_default();
            let next = change["revision"].as_u64().unwrap();
            if next > *revision {
                (*revision, *held) = (next, is_open.then_some((key, values)));
            }
        }
        open.into_values().filter_map(|(_, row)| row).collect()
    };
    at.iter().map(open_at).collect()
}

/// The model's answers over everything that had arrived.
fn answers(at: &[Ticks]) -> Vec<BTreeMap<Key, Values>> {
    let mut model = Model::new(Settings { update_interval: Span::ZERO, ..Settings::default() });
    let (mut decoder, limits) = (Decoder::new(), Limits { independent_clock: None, max_clock_skew: Span::hours(1) });
    let (mut messages, mut batch, mut clock, mut next) = (fleet().into_iter(), Batch::new(), Ticks::MIN, 0);
    let answer = |now: &Ticks| {
        // Record by record: a message may hold some that arrived before and some that did after.
        'arrived: loop {
            for (n, item) in batch.items().enumerate().skip(next) {
                if let Item::Record { record, .. } = item {
                    if record.arrival.max(clock) > *now {
                        break 'arrived;
                    }
                    clock = record.arrival.max(clock);
                    model.insert(&record);
                }
                next = n + 1;
            }
            let Some(message) = messages.next() else { break };
            (batch, next) = (Batch::new(), 0);
            batch.push_message(&mut decoder, 0, &message.bytes, &limits);
        }
        model.answer(*now).into_iter().map(|(key, row)| (key, (row.count, row.prevalence, row.urls))).collect()
    };
    at.iter().map(answer).collect()
}

/// Arrivals and instants between them, from the end of history on.
fn instants() -> Vec<Ticks> {
    let arrivals: Vec<Ticks> = fleet().iter().map(|message| message.arrival).filter(|at| *at >= history_ends()).collect();
    let mut random = numbers(11);
    let mut instants: Vec<Ticks> = (0..60)
        .flat_map(|_| {
            let n = random() as usize % (arrivals.len() - 1);
            [arrivals[n], Ticks(arrivals[n].0.midpoint(arrivals[n + 1].0))]
        })
        .collect();
    instants.sort();
    instants.dedup();
    instants
}

#[test]
fn after_history_from_blobs_every_instant_of_the_last_day_is_the_querys() {
    let instants = instants();
    let expected = answers(&instants);
    let rows: usize = expected.iter().map(BTreeMap::len).sum();
    assert!(instants.len() > 80 && rows > 300, "{} instants with {rows} rows prove little", instants.len());

    let local = tempfile::tempdir().unwrap();
    export::storage(&local.path().join("storage"), before(history_ends())).unwrap();
    export::capture(&local.path().join("capture"), 4, before(history_ends())).unwrap();
    let mut topics = Vec::new();
    for form in ["storage", "capture"] {
        let container = azurite().container(form);
        azurite().upload(&container, &local.path().join(form));
        let rig = rig(form);
        produce(&rig, &live());
        let said = backfill(&rig, &format!("az://{container}"));
        assert!(!said.contains("dead letters"), "{said}");
        run_to_the_end(&rig);
        let changes = rig.changes();
        for ((now, told), expected) in instants.iter().zip(told(&changes, &instants)).zip(&expected) {
            assert_eq!(told, *expected, "{form}, at {now}");
        }
        assert!(rig.read(&rig.dead_letters).is_empty());
        topics.push(sorted(rig.read(&rig.findings)));
    }
    assert!(topics[0] == topics[1]);
    println!("hand-over: {} instants, {rows} rows compared from each of 2 exports, 0 differences", instants.len());
}

fn sorted(mut written: Vec<Written>) -> Vec<Written> {
    written.sort();
    written
}

#[test]
fn killed_on_the_way_from_history_to_live_each_change_is_published_once() {
    let local = tempfile::tempdir().unwrap();
    export::storage(local.path(), before(history_ends())).unwrap();
    let undisturbed = rig_of("calm", &local);
    run_to_the_end(&undisturbed);
    let expected = sorted(undisturbed.read(&undisturbed.findings));
    assert!(expected.len() > 20, "{}", expected.len());

    for places in [
        &["published:1", "snapshot-rename:1", "acknowledged:1", "snapshot-rows:1"][..],
        &["snapshot-rows:1", "acknowledged:1", "snapshot-rename:1"],
    ] {
        let rig = rig_of("killed", &local).set("state.snapshot_interval", "1s");
        for place in places {
            rig.start_to_crash(place).crashed();
        }
        run_to_the_end(&rig);
        rig.changes();
        assert!(sorted(rig.read(&rig.findings)) == expected, "{places:?}");
        // And the history frame is gone: what comes now is a state as any other.
        let mut again = rig.start();
        again.caught_up(0);
        again.drain();
        assert!(sorted(rig.read(&rig.findings)) == expected);
    }
}

#[test]
fn what_another_state_left_open_in_the_topic_is_closed_and_what_it_said_is_not_said_again() {
    let local = tempfile::tempdir().unwrap();
    // Half a day: its service hears of most servers.
    let cut = end().minus(Span::hours(12));
    export::storage(local.path(), before(cut)).unwrap();
    let rig = rig("second");
    let (known, rest): (Vec<Message>, Vec<Message>) = live().into_iter().partition(|message| message.arrival < cut);
    produce(&rig, &known);
    // A service with half a day of memory finds much that is not new.
    let mut first = rig.start();
    first.reached(known.last().unwrap().arrival.0 / 10_000);
    first.drain();
    let open = |changes: &[String]| told(changes, &[Ticks::MAX]).remove(0);
    let doubtful = open(&rig.changes());
    std::fs::remove_dir_all(rig.state()).unwrap();

    backfill(&rig, local.path().to_str().unwrap());
    produce(&rig, &rest);
    run_to_the_end(&rig);
    let expected = answers(&[live().last().unwrap().arrival]).remove(0);
    let wrong = doubtful.keys().filter(|key| !expected.contains_key(*key)).count();
    assert!(wrong > 10, "{wrong} of {} are wrong", doubtful.len());
    assert_eq!(open(&rig.changes()), expected);

    // With what it has said by now, the same history would have it say things twice.
    std::fs::remove_dir_all(rig.state()).unwrap();
    backfill(&rig, local.path().to_str().unwrap());
    let mut third = rig.start();
    assert_eq!(third.end().code(), Some(1));
    assert!(third.log().contains("would be said again under the same names"), "{}", third.log());
    backfill(&rig, local.path().to_str().unwrap());

    // Once a service has taken over, history can't be put before what it has seen.
    let rig = rig_of("taken", &local);
    run_to_the_end(&rig);
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_firstseen"))
        .arg("backfill")
        .arg(local.path())
        .arg("--config")
        .arg(rig.config())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && said.contains("the service has run on this state.dir already"), "{said}");
}

#[test]
fn where_retention_passed_the_end_of_history_it_is_a_gap() {
    let local = tempfile::tempdir().unwrap();
    export::storage(local.path(), before(history_ends())).unwrap();
    let rig = rig("passed");
    let late: Vec<Message> = live().into_iter().filter(|message| message.arrival >= end().minus(Span::hours(10))).collect();
    produce(&rig, &late);
    broker().delete_before(&rig.input, 0, 1);
    backfill(&rig, local.path().to_str().unwrap());
    run_to_the_end(&rig);
    let changes = rig.changes();
    assert!(changes.iter().any(|line| line.contains(r#""gap":"#)), "findings say that something is missing");

    let stopping = rig_that_stops(&local);
    assert!(stopping.contains("are gone from the input"), "{stopping}");
}

/// The same with `input.on_gap = "stop"`: what the service says at its end.
fn rig_that_stops(local: &tempfile::TempDir) -> String {
    let rig = rig("stops").set("input.on_gap", "stop");
    let late: Vec<Message> = live().into_iter().filter(|message| message.arrival >= end().minus(Span::hours(10))).collect();
    produce(&rig, &late);
    broker().delete_before(&rig.input, 0, 1);
    backfill(&rig, local.path().to_str().unwrap());
    let mut service = rig.start();
    let status = service.end();
    assert_eq!(status.code(), Some(1));
    service.log()
}
