//! The promise: at any instant the open findings are exactly the rows that the hunting query would return.
//!
//! Owns two judges of it, on spiteful fleets. A brute-force model written from the definitions checks every change at every
//! instant that matters ([`model`]); the query itself, run by an independent KQL engine, checks the rows at hundreds of instants
//! (`oracle/query.rs`). Leaves to others: how records are decoded, and what is published.

// A test says what is wrong by panicking.
#![allow(clippy::unwrap_used, clippy::panic)]

mod model;

mod oracle {
    mod cells;
    pub(crate) mod compare;
    mod determinism;
    mod evictions;
    mod explanation;
    mod faults;
    pub(crate) mod fleet;
    pub(crate) mod query;
    mod settings;
}

use std::io::Write;

use firstseen::detector::Settings;
use firstseen::time::Span;
use oracle::compare::{Tally, run, shrink};
use oracle::fleet::{Shape, generate};

/// Past the test runner's capture, so that the figures stand in every log.
pub(crate) fn say(line: &str) {
    let mut uncaptured = std::io::stdout();
    writeln!(uncaptured, "{line}").unwrap();
}

/// Every change of `seeds` fleets, or the smallest fleet that shows a difference.
fn every_change(shape: Shape, settings: &Settings, seeds: std::ops::Range<u64>, floor: Tally) -> Tally {
    let mut total = Tally::default();
    for seed in seeds {
        let records = generate(shape, seed);
        match run(&records, settings, seed) {
            Ok(tally) => total.add(tally),
            Err(first) => {
                let (fewest, said) = shrink(&records, |records| run(records, settings, seed).err());
                let list: Vec<String> = fewest.iter().map(|r| format!("  {r:?}")).collect();
                panic!(
                    "seed {seed}: {first}\n\nsmallest fleet ({} of {} records): {said}\n{}",
                    fewest.len(),
                    records.len(),
                    list.join("\n")
                );
            }
        }
    }
    say(&format!("oracle, model, update interval {}: {total:?}, 0 differences", settings.update_interval));
    // A fleet that changes nothing proves nothing.
    for (what, seen, least) in [
        ("opened", total.opened, floor.opened),
        ("updated", total.updated, floor.updated),
        ("retracted", total.retracted, floor.retracted),
        ("closed", total.closed, floor.closed),
        ("reopened", total.reopened, floor.reopened),
        ("late", total.late, floor.late),
    ] {
        assert!(seen >= least, "only {seen} {what}, at least {least} are wanted: the fleets have lost their spite");
    }
    total
}

/// Least numbers of what the fleets must have made happen.
const FLOOR: Tally = Tally {
    fleets: 0,
    records: 0,
    instants: 0,
    rows: 0,
    opened: 1000,
    updated: 1000,
    retracted: 200,
    closed: 1000,
    reopened: 20,
    late: 20,
};

#[test]
fn every_change_is_the_models_change() {
    // `ORACLE_FLEETS=5000` hunts longer than a test run can wait.
    let fleets = std::env::var("ORACLE_FLEETS").map_or(60, |n| n.parse().unwrap());
    every_change(Shape::SMALL, &Settings { update_interval: Span::ZERO, ..Settings::default() }, 0..fleets, FLOOR);
}

/// Fleets that once showed what the others do not: 174, a timer of one tenant that fired a row of the other.
#[test]
fn fleets_that_once_differed() {
    let settings = Settings { update_interval: Span::ZERO, ..Settings::default() };
    let floor = Tally { opened: 100, updated: 100, retracted: 10, closed: 100, reopened: 1, late: 1, ..FLOOR };
    every_change(Shape::SMALL, &settings, 174..175, floor);
}

#[test]
fn updates_wait_for_the_update_interval() {
    for (interval, seeds) in [(Span::minutes(1), 100..110), (Span::hours(6), 110..120), (Span::hours(12), 120..130)] {
        let floor = Tally { updated: 10, ..FLOOR };
        every_change(Shape::SMALL, &Settings { update_interval: interval, ..Settings::default() }, seeds, floor);
    }
}

#[test]
fn other_numbers_than_the_querys_hold_as_well() {
    let sevens = Settings {
        lookback: Span::days(7),
        new_within: Span::days(2),
        prevalence_window: Span::days(3),
        prevalence_below: 4,
        vendor_servers_below: 7,
        update_interval: Span::ZERO,
        ..Settings::default()
    };
    every_change(Shape { windows: [7, 2, 3], addresses: 40, ..Shape::SMALL }, &sevens, 200..212, FLOOR);
    // Prevalence may be none while a connection is still new.
    let tens = Settings { lookback: Span::days(10), new_within: Span::days(3), prevalence_window: Span::days(1), ..sevens };
    every_change(Shape { windows: [10, 3, 1], ..Shape::SMALL }, &tens, 212..220, FLOOR);
}

#[test]
fn what_is_beyond_the_query_can_be_left_out() {
    let settings = Settings { update_interval: Span::ZERO, report_late: false, ..Settings::default() };
    let total = every_change(Shape::SMALL, &settings, 220..226, Tally { late: 0, ..FLOOR });
    assert_eq!(total.late, 0, "late findings are switched off");
}

#[test]
fn the_query_engine_agrees_at_every_probe() {
    let python = oracle::query::python();
    let seeds = [1, 2, 3];
    let verdicts: Vec<_> = std::thread::scope(|scope| {
        let judges: Vec<_> =
            seeds.iter().map(|seed| scope.spawn(|| oracle::query::judge(&python, &generate(Shape::QUERY, *seed), *seed))).collect();
        judges.into_iter().map(|judge| judge.join().unwrap()).collect()
    });
    let (instants, rows): (usize, usize) = verdicts.iter().fold((0, 0), |(i, r), v| (i + v.instants, r + v.rows));
    let differences: Vec<&String> = verdicts.iter().flat_map(|v| &v.differences).collect();
    for (seed, verdict) in seeds.iter().zip(&verdicts) {
        say(&format!(
            "oracle, query, seed {seed}: {} instants, {} rows; both sides of {:?}",
            verdict.instants, verdict.rows, verdict.sampled
        ));
    }
    say(&format!("oracle, query: {} fleets, {instants} instants, {rows} rows compared, {} differences", seeds.len(), differences.len()));
    assert!(
        differences.is_empty(),
        "{} differences, the first of them: {:#?}",
        differences.len(),
        &differences[..differences.len().min(3)]
    );
    for verdict in &verdicts {
        assert!(verdict.instants >= 100 && verdict.rows >= 1000, "too little was asked: {verdict:?}");
        for kind in ["opened", "updated", "retracted", "closed"] {
            assert!(verdict.sampled.keys().any(|sampled| sampled.starts_with(kind)), "no change of kind {kind} was sampled: {verdict:?}");
        }
    }
}
