//! The fleet as its users rely on it: the same bytes again, arrival order, the promised shares, an attack among few findings.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;

use serde_json::Value;

use super::write::{Compression, write_to};
use super::*;

fn small() -> FleetOptions {
    FleetOptions { seed: 5, devices: 60, span: Span::days(2), padding: false, ..FleetOptions::default() }
}

fn records(options: &FleetOptions) -> Vec<Value> {
    let parse = |m: Message| -> Vec<Value> {
        let mut value: Value = serde_json::from_slice(&m.bytes).unwrap();
        let Value::Array(records) = value["records"].take() else { panic!("no array") };
        assert_eq!(records.len() as u32, m.records);
        assert_eq!(records.iter().map(arrival).max(), Some(m.arrival));
        records
    };
    Fleet::new(options).flat_map(parse).collect()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value["properties"][key].as_str().unwrap_or("")
}

fn arrival(record: &Value) -> Ticks {
    Ticks::parse(record["time"].as_str().unwrap()).unwrap()
}

fn timestamp(record: &Value) -> Ticks {
    Ticks::parse(text(record, "Timestamp")).unwrap()
}

fn is_network(record: &Value) -> bool {
    record["category"] == "AdvancedHunting-DeviceNetworkEvents"
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_seed_others() {
    let options = FleetOptions { tenants: 2, ..small() };
    let bytes = |options: &FleetOptions| {
        let mut out = Vec::new();
        write_to(&mut out, Fleet::new(options), Compression::None).unwrap();
        out
    };
    let first = bytes(&options);
    assert!(first.len() > 1_000_000, "{}", first.len());
    assert!(first == bytes(&options));
    assert!(first != bytes(&FleetOptions { seed: 6, ..options }));
}

#[test]
fn messages_arrive_in_order_inside_the_span_from_every_tenant() {
    let options = FleetOptions { tenants: 3, ..small() };
    let messages: Vec<_> = Fleet::new(&options).collect();
    assert!(messages.is_sorted_by_key(|m| m.arrival));
    let end = options.start.plus(options.span);
    assert!(messages.iter().all(|m| options.start < m.arrival && m.arrival < end));
    let tenants: BTreeSet<String> = records(&options).iter().map(|r| r["tenantId"].as_str().unwrap().to_owned()).collect();
    assert_eq!(tenants, Fleet::new(&options).tenants().map(str::to_owned).collect());
    assert_eq!(tenants.len(), 3);
    // Within a tenant the records themselves are in order, across messages too.
    let mut last = HashMap::new();
    for record in records(&options) {
        let before = last.insert(record["tenantId"].as_str().unwrap().to_owned(), arrival(&record));
        assert!(before.is_none_or(|b| b <= arrival(&record)));
    }
}

#[test]
fn shares_are_about_what_was_asked_for() {
    let options = FleetOptions { devices: 400, span: Span::days(6), ..small() };
    let records = records(&options);
    let network = records.iter().filter(|r| is_network(r)).count() as f64;
    let expected = 400.0 * 6.0 * 15.0 * 1.035;
    assert!((0.93..1.03).contains(&(network / expected)), "{network} of {expected}");

    let mut seen: HashMap<(&str, i64, &str), &Value> = HashMap::new();
    let mut repeats = 0;
    for record in &records {
        let key = (text(record, "DeviceId"), record["properties"]["ReportId"].as_i64().unwrap(), text(record, "Timestamp"));
        if let Some(first) = seen.insert(key, record) {
            repeats += 1;
            assert_eq!(first["properties"].to_string(), record["properties"].to_string());
            assert_ne!(first["time"], record["time"]);
        }
    }
    let share = f64::from(repeats) / records.len() as f64;
    assert!((0.030..0.040).contains(&share), "repeats {share}");

    let late = records.iter().filter(|r| arrival(r) > timestamp(r).plus(Span::hours(1))).count() as f64 / records.len() as f64;
    assert!((0.01..0.03).contains(&late), "late {late}");
    assert!(records.iter().all(|r| arrival(r) >= timestamp(r).plus(Span::minutes(2))));

    let servers: HashSet<&str> =
        records.iter().map(|r| text(r, "DeviceName")).filter(|n| n.starts_with("srv-") || n.starts_with("dc-")).collect();
    assert_eq!(servers.len(), 80);
    let inventory: Vec<_> = records.iter().filter(|r| !is_network(r)).collect();
    let partial = inventory.iter().filter(|r| r["properties"]["OSPlatform"].is_null()).count() as f64 / inventory.len() as f64;
    assert!((0.25..0.40).contains(&partial), "partial {partial}");
    let companies: BTreeSet<&str> = records.iter().map(|r| text(r, "InitiatingProcessVersionInfoCompanyName")).collect();
    assert!(companies.len() > 20 && companies.contains("Microsoft Corporation"), "{companies:?}");
}

#[test]
fn padded_records_have_the_size_and_the_columns_of_defenders() {
    let options = FleetOptions { padding: true, ..small() };
    let (mut bytes, mut count) = (0, 0);
    for record in records(&options).iter().filter(|r| is_network(r)) {
        let columns = record["properties"].as_object().unwrap();
        assert_eq!(columns.len(), 46, "{record}");
        bytes += record.to_string().len();
        count += 1;
    }
    let mean = bytes / count;
    assert!((2_600..3_100).contains(&mean), "{mean}");
}

/// The hunting query, by brute force over all rows at one instant: (device, address, port) → count.
fn answer(records: &[Value], now: Ticks) -> HashMap<(&str, &str, u64), u32> {
    let within = |r: &Value, span| timestamp(r) > now.minus(span);
    let (network, inventory): (Vec<&Value>, Vec<&Value>) = records.iter().filter(|r| arrival(r) <= now).partition(|r| is_network(r));
    let says = |r: &Value| !["", "macOS"].contains(&text(r, "OSPlatform")) && text(r, "DeviceType") != "Workstation";
    let servers: HashSet<&str> = inventory.iter().filter(|r| within(r, Span::days(14)) && says(r)).map(|r| text(r, "DeviceName")).collect();
    let passes = |r: &Value| {
        let kind = text(r, "RemoteIPType");
        text(r, "ActionType") != "ListeningConnectionCreated"
            && kind != "Private"
            && kind != "Loopback"
            && !(kind == "FourToSixMapping" && text(r, "RemoteIP").starts_with("::ffff:"))
    };
    let base: Vec<&Value> =
        network.iter().copied().filter(|r| within(r, Span::days(14)) && servers.contains(text(r, "DeviceName")) && passes(r)).collect();
    let mut vendors: HashMap<&str, HashSet<&str>> = HashMap::new();
    base.iter().for_each(|r| {
        vendors.entry(text(r, "InitiatingProcessVersionInfoCompanyName")).or_default().insert(text(r, "DeviceName"));
    });
    let third_party: HashSet<&str> = vendors.values().filter(|servers| servers.len() < 10).flatten().copied().collect();
    let mut prevalence: HashMap<&str, HashSet<&str>> = HashMap::new();
    network.iter().filter(|r| within(r, Span::days(5))).for_each(|r| {
        prevalence.entry(text(r, "RemoteIP")).or_default().insert(text(r, "DeviceId"));
    });
    let mut rows: HashMap<_, (u32, Ticks)> = HashMap::new();
    for r in base.iter().filter(|r| third_party.contains(text(r, "DeviceName"))) {
        let port = r["properties"]["RemotePort"].as_u64().unwrap_or(0);
        let row = rows.entry((text(r, "DeviceName"), text(r, "RemoteIP"), port)).or_insert((0, Ticks::MAX));
        *row = (row.0 + 1, row.1.min(timestamp(r)));
    }
    let rare = |ip: &str| prevalence.get(ip).map_or(0, HashSet::len) < 6;
    rows.into_iter().filter(|(key, row)| row.1 > now.minus(Span::days(1)) && rare(key.1)).map(|(key, row)| (key, row.0)).collect()
}

#[test]
fn in_the_demo_the_attack_is_one_of_few_findings() {
    // The demo ends now, whenever that is.
    for end in ["2026-04-16T09:30:00Z", "2027-11-03T23:59:59.9999999Z"] {
        check_demo(Ticks::parse(end).unwrap());
    }
}

fn check_demo(end: Ticks) {
    let options = demo_options(end);
    let target = Fleet::new(&options).attack().unwrap().clone();
    let bytes: usize = Fleet::new(&options).map(|m| m.bytes.len() + 1).sum();
    let records = records(&options);
    println!("{} records in {:.1} MB, {target:?}", records.len(), bytes as f64 / 1e6);
    assert!(bytes < 60_000_000 && bytes > 30_000_000, "{bytes}");

    let key = (target.device_name.as_str(), target.remote_ip.as_str(), u64::from(target.remote_port));
    let found = answer(&records, end);
    println!("{} rows at the end: {found:?}", found.len());
    assert_eq!(found.get(&key), Some(&target.connections));
    assert!((2..=15).contains(&found.len()), "{}", found.len());

    // It opens when its first record arrives, not before, and the day before had few findings as well.
    let before = answer(&records, Ticks(target.arrival.0 - 1));
    assert!(!before.contains_key(&key));
    assert!(answer(&records, target.arrival).contains_key(&key));
    let day_before = answer(&records, end.minus(Span::hours(26)));
    println!("{} rows 26 hours before", day_before.len());
    assert!((1..=15).contains(&day_before.len()), "{}", day_before.len());

    // Nobody else talks to it, and all that it does is what the target says.
    let beacons: Vec<_> = records.iter().filter(|r| text(r, "RemoteIP") == target.remote_ip).collect();
    assert_eq!(beacons.len() as u32, target.connections);
    for beacon in beacons {
        assert_eq!(text(beacon, "DeviceId"), target.device_id);
        assert_eq!(text(beacon, "RemoteUrl"), target.remote_url);
        assert_eq!(text(beacon, "InitiatingProcessVersionInfoCompanyName"), target.company);
        assert_eq!(beacon["tenantId"].as_str(), Some(target.tenant.as_str()));
        assert!(timestamp(beacon) >= target.at && arrival(beacon) < end);
    }
    let hosts: HashSet<&str> = records
        .iter()
        .filter(|r| text(r, "InitiatingProcessVersionInfoCompanyName") == target.company)
        .map(|r| text(r, "DeviceName"))
        .collect();
    assert!((2..10).contains(&hosts.len()), "{hosts:?}");
}

#[test]
fn without_servers_there_is_no_attack_to_promise() {
    let options = FleetOptions { servers: 0.0, attack: Some(Attack { at: small().start }), ..small() };
    assert_eq!(Fleet::new(&options).attack(), None);
    assert!(Fleet::new(&options).next().is_some());
}

#[test]
fn a_total_sets_the_rate() {
    let options = FleetOptions { tenants: 2, ..small() }.with_total(20_000);
    let network = records(&options).iter().filter(|r| is_network(r)).count();
    assert!((18_500..21_500).contains(&network), "{network}");
}

#[test]
fn memory_is_bounded_by_what_is_under_way() {
    // 40 records a second at the busiest hour, for 30 days: what waits is seven minutes' worth, and does not grow.
    let options = FleetOptions { devices: 20_000, span: Span::days(30), records_per_device_day: 110.0, late: 0.0, ..small() };
    let mut fleet = Fleet::new(&options);
    let mut most = Vec::new();
    for _ in 0..4 {
        most.push((0..1000).filter_map(|_| fleet.next().map(|_| fleet.tenants[0].under_way())).max().unwrap());
    }
    assert!(most.iter().all(|n| *n < 40 * 7 * 60) && most[3] < most[0] * 2, "{most:?}");
    assert!(fleet.next().unwrap().arrival > options.start.plus(Span::minutes(30)));
}

#[test]
fn companies_on_servers_run_from_everywhere_to_a_single_one() {
    let options = FleetOptions { devices: 400, span: Span::days(4), ..small() };
    let records = records(&options);
    let mut servers: HashMap<&str, HashSet<&str>> = HashMap::new();
    for record in &records {
        let (device, company) = (text(record, "DeviceName"), text(record, "InitiatingProcessVersionInfoCompanyName"));
        if is_network(record) && !company.is_empty() && (device.starts_with("srv-") || device.starts_with("dc-")) {
            servers.entry(company).or_default().insert(device);
        }
    }
    assert!(servers["Microsoft Corporation"].len() > 60);
    let niche: Vec<usize> = servers.values().map(HashSet::len).filter(|n| *n < 10).collect();
    assert!(niche.len() > 15 && niche.iter().filter(|n| **n == 1).count() > 5, "{niche:?}");
    assert!(servers.values().filter(|s| s.len() >= 10).count() >= 3);
}

#[test]
fn files_are_written_plain_and_compressed() {
    let options = FleetOptions { devices: 10, span: Span::hours(20), ..small() };
    let write = |path: &str| {
        let mut out = Vec::new();
        let written = write_to(&mut out, Fleet::new(&options), Compression::of(Path::new(path))).unwrap();
        (out, written)
    };
    let (plain, written) = write("a.ndjson");
    assert_eq!(written.bytes, plain.len() as u64);
    assert_eq!(written.messages, plain.iter().filter(|b| **b == b'\n').count() as u64);
    let (gzip, _) = write("a.ndjson.gz");
    let mut back = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&gzip[..]), &mut back).unwrap();
    assert!(back == plain && gzip.len() < plain.len() / 2);
    assert!(zstd::decode_all(&write("a.ZST").0[..]).unwrap() == plain);
}
