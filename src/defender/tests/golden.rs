//! Messages as Defender writes them: tables mixed, keys in any order, nulls, escapes, trimmed fractions.

use super::{Collect, NO_CLOCK, Sink, at, decode, decode_bare};
use crate::defender::{Batch, Body, Decoder, DeviceInfo, Item, NetworkEvent, Reason, Record};
use std::fmt::Display;

const MIXED: &[u8] = include_bytes!("../../../tests/golden/mixed_tables.json");
const EXPORT_LINE: &[u8] = include_bytes!("../../../tests/golden/export_line.json");
const TENANT: &str = "72f988bf-86f1-41af-91ab-2d7cd011db47";

fn implant() -> NetworkEvent<'static> {
    NetworkEvent {
        timestamp: at("2026-03-01T10:20:30.1200000Z"),
        device_id: "a1f0c3d2e4b5968778695a4b3c2d1e0ffedcba98".into(),
        device_name: "srv-orion01.corp.contoso.example",
        report_id: 637_812_345_678_901_234,
        action_type: "ConnectionSuccess".into(),
        remote_ip: "203.0.113.77",
        remote_ip_type: "Public".into(),
        remote_port: Some(443),
        remote_url: "avsvmcloud.example",
        company: "SolarWinds Worldwide, LLC.",
        product: "SolarWinds® Orion".into(),
        file_name: "SolarWinds.BusinessLayerHost.exe".into(),
        folder_path: r"c:\program files (x86)\solarwinds\orion\solarwinds.businesslayerhost.exe".into(),
        command_line: "\"C:\\Program Files (x86)\\SolarWinds\\Orion\\SolarWinds.BusinessLayerHost.exe\"\t-run über/\u{1}".into(),
        sha256: "32519b85c0b422e4656de6e6c41878e95fd95026267daab4215ee59c107d6c77".into(),
        account_name: "system".into(),
        account_domain: "nt authority".into(),
    }
}

/// Compares each record of a message with the one expected at its place.
struct Expect<'a> {
    records: &'a [Record<'a>],
    seen: usize,
}

impl Sink for Expect<'_> {
    fn record(&mut self, index: u32, record: &Record<'_>) {
        assert_eq!(index as usize, self.seen);
        assert_eq!(record, &self.records[self.seen]);
        self.seen += 1;
    }

    fn dead(&mut self, index: Option<u32>, reason: Reason, error: &dyn Display, _: &[u8]) {
        panic!("a good record is a dead letter: {index:?} {reason} {error}");
    }
}

#[test]
fn a_message_of_mixed_tables_reads_column_by_column() {
    let arrival = |n: u32| at(&format!("2026-03-01T10:24:01.765432{n}Z"));
    let record = |n, body| Record { arrival: arrival(n), tenant: TENANT, body };
    let records = [
        record(1, Body::Network(implant())),
        record(
            2,
            Body::Device(DeviceInfo {
                timestamp: at("2026-03-01T10:00:00Z"),
                device_id: "a1f0c3d2e4b5968778695a4b3c2d1e0ffedcba98",
                device_name: "srv-orion01.corp.contoso.example",
                os_platform: "",
                device_type: "",
            }),
        ),
        record(
            3,
            Body::Network(NetworkEvent {
                timestamp: at("2026-03-01T10:20:31.1234567Z"),
                device_id: "b2".into(),
                device_name: "ws-0007",
                report_id: 7,
                action_type: "ConnectionFound".into(),
                remote_ip: "198.51.100.9",
                ..NetworkEvent::default()
            }),
        ),
        record(4, Body::Skipped("AdvancedHunting-DeviceProcessEvents")),
        record(
            5,
            Body::Device(DeviceInfo {
                timestamp: at("2026-03-01T09:59:59.5Z"),
                device_id: "c3",
                device_name: "srv-db02",
                os_platform: "WindowsServer2019",
                device_type: "Server",
            }),
        ),
        record(
            6,
            Body::Network(NetworkEvent {
                timestamp: at("2026-03-01T10:20:32Z"),
                device_id: "c3".into(),
                device_name: "srv-db02",
                report_id: i64::MIN,
                action_type: "ConnectionAttempt".into(),
                remote_ip: "::FFFF:10.0.0.1",
                remote_ip_type: "FourToSixMapping".into(),
                remote_port: Some(0),
                file_name: "日本.exe".into(),
                ..NetworkEvent::default()
            }),
        ),
    ];
    let mut expect = Expect { records: &records, seen: 0 };
    let mut decoder = Decoder::new();
    decoder.message(MIXED, &NO_CLOCK, &mut expect);
    assert_eq!(expect.seen, records.len());
    assert_eq!(decode(MIXED, &NO_CLOCK).said.len(), records.len());

    let mut batch = Batch::new();
    batch.push_message(&mut decoder, 9, MIXED, &NO_CLOCK);
    let replayed: Vec<Record<'_>> = batch
        .items()
        .filter_map(|item| match item {
            Item::Record { record, .. } => Some(record),
            _ => None,
        })
        .collect();
    assert_eq!(replayed, records);
    batch.clear();
    assert!(batch.is_empty() && batch.items().next().is_none());
}

#[test]
fn an_exported_line_holds_one_record_without_the_wrapper() {
    assert!(EXPORT_LINE.ends_with(b"\r\n"));
    let records = [Record { arrival: at("2026-03-01T10:24:01.7654321Z"), tenant: TENANT, body: Body::Network(implant()) }];
    let mut expect = Expect { records: &records, seen: 0 };
    Decoder::new().bare_record(EXPORT_LINE, &NO_CLOCK, &mut expect);
    assert_eq!(expect.seen, 1);
    let Collect { said, errors } = decode_bare(EXPORT_LINE, &NO_CLOCK);
    assert_eq!((said.len(), errors.len()), (1, 0));
}

#[test]
fn a_batch_counts_the_memory_that_it_takes() {
    let batch = |bytes: &[u8]| {
        let mut batch = Batch::with_room_for(bytes.len());
        batch.push_message(&mut Decoder::new(), 0, bytes, &NO_CLOCK);
        batch.bytes()
    };
    let unfolds = format!("{{\"records\":[{}0]}}", "0,".repeat(10_000));
    assert!(batch(unfolds.as_bytes()) > 50 * unfolds.len());
    // Neither is held for more than it is worth.
    assert!(batch(MIXED) < 2 * MIXED.len());
}
