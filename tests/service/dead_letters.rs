//! Hostile input: each offence is in the dead-letter topic once, with its headers and its own bytes, also through a kill; its
//! siblings count.

use std::collections::BTreeMap;

use crate::rig::{Message, Rig, Written};
use crate::support::kafka::broker;
use crate::support::numbers;
use crate::support::process::Metrics;

const GOOD: &str = r#"{"time":"2026-03-01T00:00:00Z","tenantId":"t","category":"AdvancedHunting-DeviceNetworkEvents","properties":{"Timestamp":"2026-03-01T00:00:00Z","DeviceName":"good","RemoteIP":"192.0.2.1"}}"#;
/// 2026-03-01 in milliseconds.
const DAY: i64 = 1_772_323_200_000;

fn edit(from: &str, to: &str) -> Vec<u8> {
    assert!(GOOD.contains(from));
    GOOD.replacen(from, to, 1).into_bytes()
}

/// Records that are refused between good siblings, and why.
fn records() -> Vec<(&'static str, Vec<u8>)> {
    let row = |pair: &str| edit(r#""DeviceName""#, &format!("{pair},\"DeviceName\""));
    let nested = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
    vec![
        ("record_not_object", b"null".to_vec()),
        ("record_not_object", b"17".to_vec()),
        ("too_deep", row(&format!(r#""AdditionalFields":{nested}"#))),
        ("wrong_type", edit(r#""DeviceName":"good""#, r#""DeviceName":5"#)),
        ("wrong_type", row(r#""RemotePort":"443""#)),
        ("missing_time", edit(r#""time":"2026-03-01T00:00:00Z","#, "")),
        ("missing_time", b"{}".to_vec()),
        ("bad_time", edit("2026-03-01T", "yesterday ")),
        ("bad_time", edit("2026-03-01T", &"x".repeat(500_000))),
        ("bad_time", edit("2026-03-01T", "0000-03-01T")),
        ("time_ahead", edit("2026-03-01T00", "2026-03-01T02")),
        ("time_ahead", edit("2026-03-01T", "9999-03-01T")),
        ("missing_category", edit(r#""category":"AdvancedHunting-DeviceNetworkEvents","#, "")),
        ("missing_properties", br#"{"time":"2026-03-01T00:00:00Z","category":"AdvancedHunting-DeviceInfo"}"#.to_vec()),
        ("missing_timestamp", edit(r#""Timestamp":"2026-03-01T00:00:00Z","#, "")),
        ("bad_timestamp", edit(r#""Timestamp":"2026-03-01"#, r#""Timestamp":"2026-02-30"#)),
        ("bad_timestamp", edit(r#""Timestamp":"2026"#, r#""Timestamp":"12026"#)),
        ("timestamp_ahead", edit(r#""Timestamp":"2026"#, r#""Timestamp":"2027"#)),
        ("timestamp_ahead", edit(r#""Timestamp":"2026"#, r#""Timestamp":"9999"#)),
        ("bad_report_id", row(r#""ReportId":9223372036854775808"#)),
        ("bad_port", row(r#""RemotePort":65536"#)),
        ("bad_port", row(r#""RemotePort":-1"#)),
    ]
}

/// Messages that are refused as a whole, and why.
fn wholes() -> Vec<(&'static str, Vec<u8>)> {
    let message = format!(r#"{{"records":[{GOOD},{GOOD}]}}"#);
    let mut not_utf8 = message.clone().into_bytes();
    not_utf8[20] = 0xff;
    vec![
        ("empty", Vec::new()),
        ("empty", b" \r\n".to_vec()),
        ("empty", b"\xEF\xBB\xBF".to_vec()),
        ("not_json", b"hello".to_vec()),
        ("not_json", message.as_bytes()[..message.len() - 7].to_vec()),
        ("not_json", b"[".repeat(10_000)),
        ("not_json", format!("{message}\0").into_bytes()),
        ("invalid_utf8", not_utf8),
        ("no_records", b"{}".to_vec()),
        ("no_records", br#"{"records":null}"#.to_vec()),
        ("no_records", GOOD.into()),
        ("records_not_array", br#"{"records":{}}"#.to_vec()),
        ("records_not_array", br#"{"records":"x"}"#.to_vec()),
        ("too_many_records", format!(r#"{{"records":[{}1]}}"#, "1,".repeat(40_000)).into_bytes()),
    ]
}

/// Records that look doubtful and are accepted by a documented rule.
fn accepted() -> Vec<Vec<u8>> {
    let row = |pair: &str| edit(r#""DeviceName""#, &format!("{pair},\"DeviceName\""));
    vec![
        row(&format!(r#""InitiatingProcessCommandLine":"{}""#, "x".repeat(700_000))),
        row(r#""InitiatingProcessCommandLine":"\u0000\ud800""#),
        row(r#""RemoteUrl":"a","RemoteUrl":"b""#),
        row(r#""AdditionalFields":{"a":[1]}"#),
        edit("2026-03-01T", "0001-03-01T"),
    ]
}

/// Partition, offset, record: where an offence stands in the input.
type Place = (i32, i64, Option<u32>);

struct Hostile {
    messages: Vec<Message>,
    /// What has to be in the dead-letter topic: reason and own bytes, by its place.
    dead: BTreeMap<Place, (&'static str, Vec<u8>)>,
    /// Records that count.
    good: u64,
}

/// All of them, dealt to the partitions; the first message of all sets the clock.
fn hostile() -> Hostile {
    let mut all = Hostile { messages: Vec::new(), dead: BTreeMap::new(), good: 0 };
    let mut ends = [0; 4];
    let mut push = |bytes: Vec<u8>| {
        let n = all.messages.len();
        let partition = n % 4;
        let offset = ends[partition];
        ends[partition] += 1;
        all.messages.push(Message { partition: partition as i32, timestamp: DAY + n as i64, arrival: DAY, bytes });
        (partition as i32, offset)
    };
    let sandwich = |middle: &[u8]| [format!(r#"{{"records":[{GOOD},"#).as_bytes(), middle, format!(",{GOOD}]}}").as_bytes()].concat();
    push(format!(r#"{{"records":[{GOOD}]}}"#).into_bytes());
    all.good += 1;
    for (reason, bytes) in wholes() {
        let (partition, offset) = push(bytes.clone());
        all.dead.insert((partition, offset, None), (reason, bytes));
    }
    for (reason, bytes) in records() {
        let (partition, offset) = push(sandwich(&bytes));
        all.dead.insert((partition, offset, Some(1)), (reason, bytes));
        all.good += 2;
    }
    for bytes in accepted() {
        push(sandwich(&bytes));
        all.good += 3;
    }
    all
}

/// Asserts that the topic holds each offence once, as it was.
fn check(rig: &Rig, all: &Hostile) {
    let mut found = BTreeMap::new();
    for Written { headers, payload, .. } in rig.read(&rig.dead_letters) {
        let number = |name: &str| headers[name].parse::<i64>().unwrap();
        let record = headers.get("source-record").map(|n| n.parse().unwrap());
        assert_eq!(headers["source-topic"], rig.input);
        assert!(!headers["error"].is_empty() && headers["error"].len() < 1_000, "{headers:?}");
        assert_eq!(headers.len(), if record.is_some() { 6 } else { 5 }, "{headers:?}");
        let place = (number("source-partition") as i32, number("source-offset"), record);
        let twice = found.insert(place, (headers["reason"].clone(), payload));
        assert!(twice.is_none(), "{place:?} stands there twice");
    }
    let short = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
    for (place, (reason, bytes)) in &all.dead {
        let (found_reason, found_bytes) = found.get(place).unwrap_or_else(|| panic!("{reason} {:?} is not there", short(bytes)));
        assert_eq!(found_reason, reason, "{}", short(bytes));
        assert!(found_bytes == bytes, "{reason}: {:?} instead of {:?}", short(found_bytes), short(bytes));
    }
    assert_eq!(found.len(), all.dead.len());
}

/// Asserts what the counters say of a run that took everything.
fn counted(metrics: &Metrics, all: &Hostile) {
    let mut reasons: BTreeMap<&str, f64> = BTreeMap::new();
    for (reason, _) in all.dead.values() {
        *reasons.entry(reason).or_default() += 1.0;
    }
    for (reason, n) in &reasons {
        assert_eq!(metrics.sum_of("firstseen_dead_letters_total", &format!("reason=\"{reason}\"")), *n, "{reason}");
    }
    assert_eq!(metrics.sum("firstseen_dead_letters_total"), all.dead.len() as f64);
    assert_eq!(metrics.sum_of("firstseen_records_total", "accepted"), all.good as f64);
}

#[test]
fn each_offence_is_there_once_and_its_siblings_count() {
    let all = hostile();
    let rig = Rig::shared("hostile");
    rig.produce(broker(), &all.messages);
    let mut service = rig.start();
    let metrics = service.caught_up(all.messages.len() as u64);
    counted(&metrics, &all);
    service.drain();
    check(&rig, &all);
    // A restart writes none again.
    let mut again = rig.start();
    again.caught_up(0);
    again.drain();
    check(&rig, &all);
}

#[test]
fn each_offence_is_there_once_through_kills() {
    for place in ["journal-synced:1", "acknowledged:1", "acknowledged:7", "published:1"] {
        let all = hostile();
        let rig = Rig::shared("hostile-killed");
        rig.produce(broker(), &all.messages);
        rig.start_to_crash(place).crashed();
        let mut service = rig.start();
        let metrics = service.caught_up(all.messages.len() as u64);
        assert!(metrics.sum("firstseen_replayed_messages_total") > 0.0, "{place}");
        service.drain();
        check(&rig, &all);
    }
}

#[test]
fn one_that_is_larger_than_the_topic_takes_is_there_without_its_value() {
    let mut random = numbers(5);
    let noise: Vec<u8> = (0..200_000).map(|_| b' ' + (random() % 90) as u8).collect();
    let message =
        |partition: i32, bytes: &[u8]| Message { partition, timestamp: DAY + i64::from(partition), arrival: DAY, bytes: bytes.to_vec() };
    let messages = [message(0, b"before"), message(1, &noise), message(2, b"behind")];
    // The broker refuses it, or the producer does.
    for by_broker in [true, false] {
        let mut rig = Rig::shared("narrow");
        if by_broker {
            broker().narrow_topic(&rig.dead_letters, 50_000);
            // As with the usual limits, a batch of small messages is no larger than the topic takes.
            rig.more.push(r#""batch.size" = "40000""#.to_owned());
        } else {
            rig.more.push(r#""message.max.bytes" = "100000""#.to_owned());
        }
        rig.produce(broker(), &messages);
        for _ in 0..2 {
            let mut service = rig.start();
            service.caught_up(0);
            service.wait_for("three dead letters", |_| (rig.read(&rig.dead_letters).len() >= 3).then_some(()));
            service.drain();
            let mut read = rig.read(&rig.dead_letters);
            read.sort_by(|a, b| a.headers["source-partition"].cmp(&b.headers["source-partition"]));
            let values: Vec<&[u8]> = read.iter().map(|w| w.payload.as_slice()).collect();
            assert_eq!(values, [&b"before"[..], b"", b"behind"]);
            let omitted: Vec<_> = read.iter().map(|w| w.headers.get("value-omitted").map(String::as_str)).collect();
            assert_eq!(omitted, [None, Some("200000"), None]);
            assert!(read.iter().all(|w| w.headers["reason"] == "not_json"));
        }
    }
}

fn command(rig: &Rig, what: &str, more: &[&str]) -> std::process::Output {
    let config = rig.config();
    std::process::Command::new(env!("CARGO_BIN_EXE_firstseen"))
        .args(["dead-letters", what, "--config"])
        .arg(config)
        .args(more)
        .output()
        .unwrap()
}

#[test]
fn answer_dead_letters_listed_and_replayed() {
    let rig = Rig::shared("replay");
    let bad = edit("2026-03-01T", "yesterday ");
    let value = [b"{\"records\":[".as_slice(), GOOD.as_bytes(), b",", &bad, b"]}"].concat();
    broker().produce(&rig.input, [(0, DAY, value.as_slice()), (1, DAY + 1, b"hello")]);
    let mut service = rig.start();
    service.caught_up(2);
    service.wait_for("both dead letters", |_| (rig.read(&rig.dead_letters).len() == 2).then_some(()));

    let listed = command(&rig, "list", &[]);
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let text = String::from_utf8(listed.stdout).unwrap();
    assert_eq!(text.lines().count(), 2);
    let text = String::from_utf8(command(&rig, "list", &["--reason", "bad_time"]).stdout).unwrap();
    let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
    assert_eq!(
        (line["topic"].as_str().unwrap(), line["partition"].as_i64(), line["record"].as_i64()),
        (rig.input.as_str(), Some(0), Some(1))
    );
    assert_eq!(line["value"].as_str().unwrap().as_bytes(), bad);

    let file = rig.dir.path().join("repaired.ndjson");
    let path = file.to_str().unwrap();
    std::fs::write(&file, &text).unwrap();
    let still = command(&rig, "replay", &[path]);
    let error = String::from_utf8(still.stderr).unwrap();
    assert!(
        still.status.code() == Some(1) && error.contains("line 1 is still not readable") && error.contains("nothing was written"),
        "{error}"
    );
    std::fs::write(&file, text.replace("yesterday ", "2026-03-01T")).unwrap();
    let replayed = command(&rig, "replay", &[path]);
    assert!(replayed.status.success(), "{}", String::from_utf8_lossy(&replayed.stderr));
    let metrics = service.caught_up(3);
    service.drain();
    assert_eq!(metrics.sum_of("firstseen_records_total", "accepted"), 2.0);
    assert_eq!(rig.read(&rig.dead_letters).len(), 2, "and no further dead letter");
    crate::rig::say(
        "answer, dead letters: 2 listed, 1 by reason; replay of one that is still bad: exit 1, nothing written; repaired: accepted",
    );
}

/// The broker takes no dead letters: nothing is dropped, and nothing that comes after is published.
#[test]
fn answer_dead_letters_refused_by_the_sink() {
    let rig = Rig::shared("refused");
    // Room for no message at all, headers included.
    broker().narrow_topic(&rig.dead_letters, 60);
    let value = format!("{{\"records\":[{GOOD}]}}");
    broker().produce(&rig.input, [(0, DAY, value.as_bytes()), (0, DAY + 1, b"hello"), (0, DAY + 2, value.as_bytes())]);
    let mut service = rig.start();
    assert_eq!(service.end().code(), Some(1));
    let log = service.log();
    let last = log.lines().last().unwrap();
    assert!(last.starts_with("error: ") && last.contains(&rig.dead_letters), "{last}");
    // Room again: it is there once.
    broker().configure_topic(&rig.dead_letters, "max.message.bytes", "1048576");
    let mut again = rig.start();
    again.wait_for("the dead letter", |_| (rig.read(&rig.dead_letters).len() == 1).then_some(()));
    again.drain();
    assert_eq!(rig.read(&rig.dead_letters).len(), 1);
    crate::rig::say(&format!("answer, dead letters refused by the sink: exit 1, {last}; with room again: written once"));
}
