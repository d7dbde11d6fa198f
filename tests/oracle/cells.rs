//! One detector of cells against a detector a cell, on spiteful fleets: the same changes at the same instants for the same reasons.
//!
//! Updates, ids and revisions are not a cell's business. What one record, and the time before it, brings is compared as a set in key
//! order: a row is judged once an instant, so its changes come in order of `at`.

use firstseen::detector::{Detector, Effect, Limits, Settings};
use firstseen::finding::{Change, ChangeKind};
use firstseen::time::{Span, Ticks};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use std::cell::RefCell;

use super::fleet::{Owned, Shape, generate};
use crate::say;

const PREVALENCE: [u32; 4] = [1, 3, 6, 9];
const VENDORS: [u32; 4] = [1, 2, 5, 10];

/// What a cell says of a change.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Said {
    at: Ticks,
    key: (String, String, String, Option<u16>),
    kind: &'static str,
    cause: &'static str,
    values: (Ticks, Ticks, u64, u64, Option<Ticks>, bool),
    urls: Vec<String>,
    vendors: Vec<(String, u64)>,
}

fn said(change: &Change, below: u32) -> Said {
    let Change { tenant, device_name, remote_ip, remote_port, .. } = change;
    Said {
        at: change.at,
        key: (tenant.clone(), device_name.clone(), remote_ip.clone(), *remote_port),
        kind: change.kind.as_str(),
        cause: change.cause,
        values: (change.first_seen, change.last_seen, change.count, change.prevalence, change.previous_seen, change.late),
        urls: change.urls.clone(),
        vendors: change.vendors.iter().filter(|(_, servers)| *servers < u64::from(below)).cloned().collect(),
    }
}

#[derive(Debug, Default)]
struct Tally {
    opened: u64,
    retracted: u64,
    closed: u64,
    /// Records after which cells said different things.
    divided: u64,
}

fn compare(records: &[Owned], settings: &Settings, seed: u64, tally: &mut Tally) {
    let mut all = Detector::of_cells(settings.clone(), &PREVALENCE, &VENDORS, seed.is_multiple_of(2));
    let cells: Vec<(u32, u32)> = VENDORS.iter().flat_map(|v| PREVALENCE.iter().map(|p| (*p, *v))).collect();
    let of = |(prevalence_below, vendor_servers_below)| Settings { prevalence_below, vendor_servers_below, ..settings.clone() };
    let mut each: Vec<Detector> = cells.iter().map(|cell| Detector::new(of(*cell))).collect();
    for (n, owned) in records.iter().enumerate() {
        let (record, mut effects) = (owned.record(), Vec::new());
        // Time alone moves cells, too.
        let advances = n % 7 == 0;
        if advances {
            all.advance(record.tenant, record.arrival, &mut effects);
        }
        all.record(&record, &mut effects);
        let mut first: Option<Vec<Said>> = None;
        for (bit, (detector, (_, below))) in each.iter_mut().zip(&cells).enumerate() {
            let mut got: Vec<Said> = effects
                .iter()
                .filter_map(|effect| match effect {
                    Effect::Cells(change, mask) if mask & 1 << bit != 0 => Some(said(change, *below)),
                    Effect::Change(change) => panic!("seed {seed}, record {n}: a detector of cells wrote {change:?}"),
                    _ => None,
                })
                .collect();
            let mut own = Vec::new();
            if advances {
                detector.advance(record.tenant, record.arrival, &mut own);
            }
            detector.record(&record, &mut own);
            let written = own.iter().filter_map(|effect| if let Effect::Change(change) = effect { Some(change) } else { None });
            let mut expected: Vec<Said> = written.filter(|c| c.kind != ChangeKind::Updated).map(|c| said(c, *below)).collect();
            got.sort();
            expected.sort();
            assert_eq!(got, expected, "seed {seed}, after record {n}, cell {:?}, settings {settings:?}", cells[bit]);
            for change in &expected {
                match change.kind {
                    "opened" => tally.opened += 1,
                    "retracted" => tally.retracted += 1,
                    _ => tally.closed += 1,
                }
            }
            match &first {
                Some(first) if *first != got => tally.divided += 1,
                Some(_) => {}
                None => first = Some(got),
            }
        }
    }
}

#[test]
fn each_cell_says_what_a_detector_of_its_own_says() {
    let mut tally = Tally::default();
    for seed in 500..512 {
        compare(&generate(Shape::SMALL, seed), &Settings::default(), seed, &mut tally);
    }
    let short = Settings { lookback: Span::days(7), new_within: Span::days(2), prevalence_window: Span::days(3), ..Settings::default() };
    for seed in 512..518 {
        compare(&generate(Shape { windows: [7, 2, 3], ..Shape::SMALL }, seed), &short, seed, &mut tally);
    }
    say(&format!("oracle, cells: {tally:?}, 0 differences"));
    assert!(tally.opened > 10_000 && tally.retracted > 1_000 && tally.closed > 5_000 && tally.divided > 1_000, "too tame: {tally:?}");
}

#[test]
fn each_cell_agrees_with_the_switches_beyond_the_query_on_and_off() {
    let mut tally = Tally::default();
    for (seed, settings) in (520..).zip([
        Settings { warm_up: Span::days(6), ..Settings::default() },
        Settings { report_late: false, ..Settings::default() },
        Settings { track_workstations: false, ..Settings::default() },
        Settings { warm_up: Span::days(3), track_workstations: false, update_interval: Span::ZERO, ..Settings::default() },
        Settings {
            limits: Limits { tracked_connections: Some(60), state_memory: None, connections_per_device: 12 },
            ..Settings::default()
        },
    ]) {
        compare(&generate(Shape::SMALL, seed), &settings, seed, &mut tally);
    }
    assert!(tally.opened > 500 && tally.retracted > 50 && tally.closed > 300, "too tame: {tally:?}");
}

/// Everything on a grid of whole days: windows end, devices leave, vendors cross and records arrive at the very same instants.
#[test]
fn cells_agree_when_all_instants_coincide() {
    let tally = RefCell::new(Tally::default());
    let mut runner = TestRunner::new_with_rng(
        Config { cases: 40, failure_persistence: None, ..Config::default() },
        TestRng::deterministic_rng(RngAlgorithm::ChaCha),
    );
    runner
        .run(&(any::<u64>(), 4usize..16, 3usize..20, 60usize..300), |(seed, names, addresses, events)| {
            let grid = if seed % 2 == 0 { Span::days(1) } else { Span::hours(12) };
            let shape = Shape { names, addresses, events, grid, step: grid, ..Shape::SMALL };
            compare(&generate(shape, seed >> 8), &Settings::default(), seed, &mut tally.borrow_mut());
            Ok(())
        })
        .unwrap();
    let tally = tally.into_inner();
    say(&format!("oracle, cells on whole days: {tally:?}, 0 differences"));
    assert!(tally.opened > 1_000 && tally.retracted > 50 && tally.closed > 500, "too tame: {tally:?}");
}
