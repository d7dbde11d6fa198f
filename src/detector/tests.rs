//! The detector as a whole: a finding's life, order at one instant, snapshots, independence of hash seeds and batches.
//! That its answers are the hunting query's is shown by the oracle tests (`tests/oracle.rs`).

use super::*;
use crate::defender::NetworkEvent;
use crate::finding::ChangeKind;
use proptest::prelude::*;

const START: Ticks = Ticks(1_800_000_000 * crate::time::TICKS_PER_SECOND);
const DAY: Span = Span::days(1);

fn at(seconds: i64) -> Ticks {
    START.plus(Span::seconds(seconds))
}

#[derive(Default)]
struct Run {
    effects: Vec<Effect>,
}

impl Run {
    fn server(&mut self, d: &mut Detector, now: Ticks, name: &str) {
        let info =
            DeviceInfo { timestamp: now, device_id: name, device_name: name, os_platform: "WindowsServer2019", device_type: "Server" };
        d.record(&Record { arrival: now, tenant: "t", body: Body::Device(info) }, &mut self.effects);
    }

    fn connect(&mut self, d: &mut Detector, now: Ticks, t: Ticks, device: &str, ip: &str, report_id: i64) {
        let event = NetworkEvent {
            timestamp: t,
            device_id: device.into(),
            device_name: device,
            report_id,
            action_type: "ConnectionSuccess".into(),
            remote_ip: ip,
            remote_ip_type: "Public".into(),
            remote_port: Some(443),
            remote_url: "updates.example",
            company: "Acme",
            ..NetworkEvent::default()
        };
        d.record(&Record { arrival: now, tenant: "t", body: Body::Network(event) }, &mut self.effects);
    }

    fn changes(&self) -> Vec<(ChangeKind, Ticks, u32, u64, u64)> {
        self.effects
            .iter()
            .filter_map(|e| match e {
                Effect::Change(c) => Some((c.kind, c.at, c.revision, c.count, c.prevalence)),
                _ => None,
            })
            .collect()
    }
}

fn eager() -> Settings {
    Settings { update_interval: Span::ZERO, ..Settings::default() }
}

#[test]
fn a_finding_opens_updates_and_closes() {
    let (mut d, mut run) = (Detector::new(eager()), Run::default());
    run.server(&mut d, at(0), "s1");
    run.connect(&mut d, at(10), at(9), "s1", "203.0.113.7", 1);
    run.connect(&mut d, at(20), at(19), "s1", "203.0.113.7", 2);
    run.connect(&mut d, at(30), at(19), "s1", "203.0.113.7", 2);
    run.connect(&mut d, at(40), at(39), "other", "203.0.113.7", 3);
    d.advance("t", at(9).plus(DAY), &mut run.effects);
    use ChangeKind::{Closed, Opened, Updated};
    assert_eq!(
        run.changes(),
        [(Opened, at(10), 1, 1, 1), (Updated, at(20), 2, 2, 1), (Updated, at(40), 3, 2, 2), (Closed, at(9).plus(DAY), 4, 2, 2)]
    );
    assert_eq!(run.effects.iter().filter(|e| **e == Effect::Repeat).count(), 1);
    assert_eq!(d.tracked().open_findings, 0);
    assert_eq!(d.tracked().candidates, 1, "the other device's candidate began later");
}

#[test]
fn an_update_waits_for_its_interval_and_says_what_holds_then() {
    let (mut d, mut run) = (Detector::new(Settings::default()), Run::default());
    run.server(&mut d, at(0), "s1");
    for i in 0..5 {
        run.connect(&mut d, at(10 + i), at(9 + i), "s1", "203.0.113.7", i);
    }
    d.advance("t", at(200), &mut run.effects);
    assert_eq!(run.changes(), [(ChangeKind::Opened, at(10), 1, 1, 1), (ChangeKind::Updated, at(70), 2, 5, 1)]);
}

#[test]
fn what_time_ends_goes_before_the_records_of_the_same_instant() {
    let (mut d, mut run) = (Detector::new(eager()), Run::default());
    run.server(&mut d, at(0), "s1");
    run.connect(&mut d, at(0), at(0), "s1", "203.0.113.7", 1);
    // Exactly when the first day ends, the destination is seen again, by the same server and by another device.
    let end = at(0).plus(DAY);
    run.connect(&mut d, end, end, "s1", "203.0.113.7", 2);
    run.connect(&mut d, end, end, "s2", "203.0.113.7", 3);
    assert_eq!(run.changes(), [(ChangeKind::Opened, at(0), 1, 1, 1), (ChangeKind::Closed, end, 2, 1, 1)]);
}

#[test]
fn six_devices_retract_and_the_expiry_of_one_opens_again_under_the_same_id() {
    // The window of prevalence is shorter than a finding's day, so that a sighting can expire within it.
    let settings = Settings { prevalence_window: Span::hours(6), ..eager() };
    let (mut d, mut run) = (Detector::new(settings), Run::default());
    for i in 0..5 {
        run.connect(&mut d, at(i), at(i), &format!("w{i}"), "203.0.113.7", i);
    }
    run.server(&mut d, at(10), "s1");
    run.connect(&mut d, at(100), at(100), "s1", "203.0.113.7", 9);
    assert_eq!(run.changes(), [], "six devices: not rare");
    d.advance("t", at(6 * 3600), &mut run.effects);
    assert_eq!(run.changes(), [(ChangeKind::Opened, at(6 * 3600), 1, 1, 5)], "the first sighting's window ended");
    run.connect(&mut d, at(6 * 3600), at(6 * 3600), "w9", "203.0.113.7", 10);
    d.advance("t", at(6 * 3600 + 1), &mut run.effects);
    use ChangeKind::{Opened, Retracted};
    assert_eq!(run.changes()[1..], [(Retracted, at(6 * 3600), 2, 1, 6), (Opened, at(6 * 3600 + 1), 3, 1, 5)]);
}

#[test]
fn a_gap_of_13_to_14_days_enters_when_the_previous_event_leaves() {
    let (mut d, mut run) = (Detector::new(eager()), Run::default());
    run.connect(&mut d, at(0), at(0), "s1", "203.0.113.7", 1);
    let back = at(0).plus(Span::days(13)).plus(Span::hours(20));
    run.server(&mut d, back, "s1");
    run.connect(&mut d, back, back, "s1", "203.0.113.7", 2);
    assert_eq!(run.changes(), []);
    d.advance("t", at(0).plus(Span::days(20)), &mut run.effects);
    let entry = at(0).plus(Span::days(14));
    assert_eq!(run.changes(), [(ChangeKind::Opened, entry, 1, 1, 1), (ChangeKind::Closed, back.plus(DAY), 2, 1, 1)]);
}

#[test]
fn an_event_a_day_late_is_reported_as_late() {
    let (mut d, mut run) = (Detector::new(eager()), Run::default());
    run.server(&mut d, at(0).plus(Span::days(3)), "s1");
    run.connect(&mut d, at(0).plus(Span::days(3)), at(0), "s1", "203.0.113.7", 1);
    d.advance("t", at(0).plus(Span::days(10)), &mut run.effects);
    let changes: Vec<_> =
        run.effects.iter().filter_map(|e| if let Effect::Change(c) = e { Some((c.kind, c.at, c.late)) } else { None }).collect();
    assert_eq!(changes, [(ChangeKind::Opened, at(0).plus(Span::days(3)), true), (ChangeKind::Closed, at(0).plus(Span::days(4)), true)]);
}

#[test]
fn a_timestamp_far_ahead_is_refused_and_moves_nothing() {
    let (mut d, mut run) = (Detector::new(eager()), Run::default());
    run.connect(&mut d, at(0), at(3601), "s1", "203.0.113.7", 1);
    assert_eq!(run.effects, [Effect::TimestampAhead]);
    assert_eq!(d.clocks().count(), 0);
    run.connect(&mut d, at(0), at(3600), "s1", "203.0.113.7", 1);
    assert_eq!(d.tracked().connections, 1);
}

#[test]
fn state_that_nothing_holds_is_forgotten() {
    let (mut d, mut run) = (Detector::new(Settings::default()), Run::default());
    for i in 0..300 {
        run.server(&mut d, at(i), &format!("s{}", i % 20));
        run.connect(&mut d, at(i), at(i), &format!("s{}", i % 20), &format!("203.0.113.{}", i % 90), i);
    }
    d.advance("t", at(0).plus(Span::days(40)), &mut run.effects);
    assert_eq!(d.tracked(), Tracked::default());
    assert_eq!(d.strings.rows.len(), 1, "only the empty string is left");
    assert_eq!(d.destinations.rows.lists.prints.len(), 0);
}

/// A record of a small world, as numbers: (clock step in minutes, age in minutes, device, address, company, what).
type Step = (i64, i64, u8, u8, u8, u8);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let age = prop_oneof![4 => 0i64..10, 1 => 0i64..3000, 1 => 17_000i64..21_000];
    prop::collection::vec((prop_oneof![3 => 0i64..60, 1 => 0i64..4000], age, 0u8..12, 0u8..8, 0u8..4, 0u8..10), 1..150)
}

fn feed(d: &mut Detector, clock: &mut Ticks, i: usize, step: &Step, effects: &mut Vec<Effect>) {
    let (forward, age, device, ip, company, what) = *step;
    *clock = clock.plus(Span::minutes(forward));
    let t = clock.minus(Span::minutes(age));
    let (name, id, ip) = (format!("d{}", device % 10), format!("id{device}"), format!("203.0.113.{ip}"));
    let (company, url) = (format!("company {company}"), format!("u{}.example", i % 3));
    let body = if what < 3 {
        let device_type = if what == 0 { "Workstation" } else { "Server" };
        Body::Device(DeviceInfo { timestamp: t, device_id: &id, device_name: &name, os_platform: "Linux", device_type })
    } else {
        Body::Network(NetworkEvent {
            timestamp: t,
            device_id: (&id).into(),
            device_name: &name,
            report_id: i64::from(what % 5),
            action_type: "ConnectionSuccess".into(),
            remote_ip: &ip,
            remote_port: Some(443).filter(|_| what != 9),
            remote_url: &url,
            company: &company,
            ..NetworkEvent::default()
        })
    };
    d.record(&Record { arrival: *clock, tenant: if what == 8 { "u" } else { "t" }, body }, effects);
}

fn restore(settings: &Settings, sections: &[(snapshot::Section, Vec<u8>)]) -> Detector {
    let mut d = Detector::with_hash_seed(settings.clone(), 99);
    for (section, bytes) in sections {
        d.restore_section(*section, bytes).unwrap();
    }
    d.finish_restore().unwrap();
    d
}

fn exported(d: &Detector) -> String {
    let mut lines = Vec::new();
    d.export(|line| {
        lines.extend_from_slice(line);
        lines.push(b'\n');
        Ok::<(), ()>(())
    })
    .unwrap();
    String::from_utf8(lines).unwrap()
}

/// Limits so narrow that connections are evicted all the time, or none.
fn small(limited: bool) -> Settings {
    let narrow = Limits { tracked_connections: Some(12), state_memory: Some(9000), connections_per_device: 4 };
    Settings {
        limits: if limited { narrow } else { Limits::default() },
        vendor_servers_below: 3,
        prevalence_below: 3,
        urls_per_destination: 2,
        update_interval: Span::minutes(30),
        ..Settings::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 96 } else { 256 }))]

    /// INV-order and INV-copy: a detector restored from a snapshot taken while it went on behaves as if nothing had happened,
    /// with another hash seed too.
    #[test]
    fn a_restored_detector_goes_on_the_same(steps in steps(), cut in 0usize..150, pace in 1usize..400, limited in any::<bool>()) {
        let settings = small(limited);
        let (mut whole, mut clock, mut expected) = (Detector::new(settings.clone()), START, Vec::new());
        let cut = cut.min(steps.len());
        for (i, step) in steps.iter().enumerate().take(cut) {
            feed(&mut whole, &mut clock, i, step, &mut expected);
        }
        let (mut sections, mut again, mut clock_again) = (Vec::new(), Vec::new(), clock);
        expected.clear();
        let tracked = whole.tracked();
        whole.begin_snapshot();
        for (i, step) in steps.iter().enumerate().skip(cut) {
            feed(&mut whole, &mut clock, i, step, &mut expected);
            whole.snapshot_step(pace, &mut sections);
        }
        while !whole.snapshot_step(pace, &mut sections) {}
        whole.advance("t", clock.plus(Span::days(30)), &mut expected);
        let mut restored = restore(&settings, &sections);
        prop_assert_eq!(Tracked { timers: 0, ..restored.tracked() }, Tracked { timers: 0, ..tracked });
        for (i, step) in steps.iter().enumerate().skip(cut) {
            feed(&mut restored, &mut clock_again, i, step, &mut again);
        }
        restored.advance("t", clock_again.plus(Span::days(30)), &mut again);
        prop_assert_eq!(again, expected);
        prop_assert_eq!(exported(&restored), exported(&whole));
    }

    /// A second snapshot of a restored detector holds the same rows.
    #[test]
    fn a_snapshot_of_a_restored_detector_is_the_same_state(steps in steps(), limited in any::<bool>()) {
        let settings = small(limited);
        let (mut d, mut clock, mut effects) = (Detector::new(settings.clone()), START, Vec::new());
        for (i, step) in steps.iter().enumerate() {
            feed(&mut d, &mut clock, i, step, &mut effects);
        }
        let copy = |d: &mut Detector| {
            let mut sections = Vec::new();
            d.begin_snapshot();
            while !d.snapshot_step(1 << 20, &mut sections) {}
            sections.sort();
            sections
        };
        let first = copy(&mut d);
        prop_assert_eq!(copy(&mut restore(&settings, &first)).len(), first.len());
        prop_assert_eq!(exported(&restore(&settings, &first)), exported(&d));
        let mut faults = Vec::new();
        restore(&settings, &first).check(|fault| faults.push(fault));
        prop_assert!(faults.is_empty(), "{:?}", faults);
    }
}
