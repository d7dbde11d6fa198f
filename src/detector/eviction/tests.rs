//! Evictions in large: a scanner harms nobody, memory that is reckoned stays within its limit, tables give places back.
//! That what goes, and when, is what is documented, is shown by `tests/oracle/evictions.rs`.

use super::super::{Limits, Settings};
use super::*;
use crate::defender::{Body, DeviceInfo, NetworkEvent, Record};
use crate::finding::{Change, ChangeKind};
use crate::time::Span;

const START: Ticks = Ticks(1_800_000_000 * crate::time::TICKS_PER_SECOND);

fn server(d: &mut Detector, now: Ticks, name: &str) {
    let info = DeviceInfo { timestamp: now, device_id: name, device_name: name, os_platform: "Linux", device_type: "Server" };
    d.record(&Record { arrival: now, tenant: "t", body: Body::Device(info) }, &mut Vec::new());
}

fn connect(d: &mut Detector, now: Ticks, device: &str, ip: &str, port: u16, effects: &mut Vec<Effect>) {
    let event = NetworkEvent {
        timestamp: now,
        device_id: device.into(),
        device_name: device,
        report_id: now.0,
        action_type: "ConnectionSuccess".into(),
        remote_ip: ip,
        remote_ip_type: "Public".into(),
        remote_port: Some(port),
        company: if device == "scanner" { "Scanning Ltd" } else { "Acme" },
        ..NetworkEvent::default()
    };
    d.record(&Record { arrival: now, tenant: "t", body: Body::Network(event) }, effects);
}

fn address(n: u32) -> String {
    let [_, b, c, d] = n.to_be_bytes();
    format!("11.{b}.{c}.{d}")
}

/// What the fleet's other servers are said to do, while a scanner opens so many connections; and the detector.
fn others(scanned: u32, limits: Limits) -> (Vec<Change>, Detector) {
    let mut d = Detector::new(Settings { limits, ..Settings::default() });
    let (mut said, mut effects) = (Vec::new(), Vec::new());
    for n in 0..5 {
        server(&mut d, START, &format!("srv-{n}"));
    }
    server(&mut d, START, "scanner");
    for step in 0..24_000u32 {
        let now = START.plus(Span::minutes(i64::from(step)));
        if step % 5000 == 0 {
            for n in 0..5 {
                server(&mut d, now, &format!("srv-{n}"));
            }
            server(&mut d, now, "scanner");
        }
        // Some thousand connections of old, and now and then a new one.
        let (device, ip) =
            (format!("srv-{}", step % 5), format!("203.0.{}.{}", step % 7, if step % 37 == 0 { step / 37 % 250 } else { step % 11 }));
        connect(&mut d, now, &device, &ip, 443, &mut effects);
        let (from, to) = (u64::from(scanned) * u64::from(step) / 24_000, u64::from(scanned) * u64::from(step + 1) / 24_000);
        for n in from..to {
            connect(&mut d, now, "scanner", &address(n as u32), 80, &mut effects);
        }
        said.extend(effects.drain(..).filter_map(|effect| match effect {
            Effect::Change(change) if change.device_name != "scanner" => Some(*change),
            _ => None,
        }));
    }
    (said, d)
}

#[test]
fn a_scanner_with_a_million_connections_changes_nothing_for_others() {
    let limits = Limits { tracked_connections: Some(120_000), state_memory: None, connections_per_device: 100_000 };
    let (undisturbed, _) = others(0, Limits { tracked_connections: None, state_memory: None, connections_per_device: u32::MAX });
    let (beside_it, mut d) = others(1_200_000, limits);
    assert!(undisturbed.len() > 500 && undisturbed.iter().all(|change| change.evicted.is_none()), "{}", undisturbed.len());
    assert_eq!(beside_it, undisturbed);
    let usage = d.take_usage();
    assert!(usage.evicted[0] == 0 && usage.evicted[1] == 0 && usage.evicted[2] > 700_000, "{usage:?}");
    assert_eq!(usage.device_evicted, "scanner");
    let scanner = d.devices.find(0, "scanner").unwrap();
    assert!(d.devices.connection_count(scanner) <= 115_000, "its table holds {} places", d.devices.connection_count(scanner));
    // Those that were evicted are new again, and say that they may not be.
    let mut effects = Vec::new();
    let now = d.clock_of(0).plus(Span::minutes(1));
    connect(&mut d, now, "scanner", &address(900_000), 80, &mut effects);
    let opened =
        effects.iter().find_map(|e| if let Effect::Change(c) = e { Some(c).filter(|c| c.kind == ChangeKind::Opened) } else { None });
    let opened = opened.unwrap();
    assert!(opened.remote_ip == address(900_000) && opened.evicted.is_some_and(|h| window::holds(h, now, Span::days(14))), "{opened:?}");
}

#[test]
fn reckoned_memory_stays_within_its_limit_and_tables_give_their_places_back() {
    let most = 6 << 20;
    let limits = Limits { tracked_connections: None, state_memory: Some(most), connections_per_device: 250_000 };
    let mut d = Detector::new(Settings { limits, prevalence_window: Span::days(2), ..Settings::default() });
    let mut effects = Vec::new();
    let mut reached = 0;
    for n in 0..200_000u32 {
        let now = START.plus(Span::seconds(i64::from(n) * 6));
        connect(&mut d, now, &format!("dev-{}", n % 90), &address(n), 443, &mut effects);
        if d.footprint() + 4096 > most {
            reached += 1;
        }
        assert!(d.footprint() <= most || d.connection_bytes() <= most / 2 + 4096, "{n}: {} bytes", d.footprint());
        effects.clear();
    }
    let counted = d.evictions.counted;
    assert!(reached > 1000 && d.take_usage().evicted[Limit::StateMemory as usize] > 50_000, "{:?}", d.take_usage());
    assert!(d.connections as u64 <= counted + counted / 4 + 1024, "{} places for {counted}", d.connections);
    d.recount();
    assert!(
        d.evictions.counted.abs_diff(counted) < 200,
        "{} and {counted}: but for a class that is half out of the lookback",
        d.evictions.counted
    );
}

#[test]
fn limits_may_be_changed_and_hold_at_once() {
    let mut d = Detector::new(Settings::default());
    let mut effects = Vec::new();
    for n in 0..9000u32 {
        connect(&mut d, START.plus(Span::minutes(i64::from(n))), &format!("dev-{}", n % 9), &address(n % 6000), 443, &mut effects);
    }
    let now = d.clock_of(0);
    let settings = Settings { limits: Limits { tracked_connections: Some(2000), ..Limits::default() }, ..Settings::default() };
    d.change_settings(settings, &mut effects);
    let usage = d.take_usage();
    assert!(usage.connections.0 <= 2000 && usage.connections.0 > 1900 && usage.evicted[0] >= 3900, "{usage:?}");
    effects.clear();
    server(&mut d, now, "dev-0");
    connect(&mut d, now, "dev-0", &address(5999), 1, &mut effects);
    let Some(Effect::Change(change)) = effects.first() else { panic!("{effects:?}") };
    assert!(change.evicted.is_some(), "{change:?}");
}
