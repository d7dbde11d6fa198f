//! An explanation says what is so: its verdict is the open set, its numbers are the finding's, and what it says of the time to come is
//! what comes when nothing more arrives.
//!
//! Owns: the fleets run to random instants, every connection that they ever had, and those that they never had.

use std::collections::{BTreeMap, BTreeSet};

use firstseen::detector::explain::{Connection, Explanation, Obstacle};
use firstseen::detector::{Detector, Effect, Settings};
use firstseen::finding::{Change, ChangeKind};
use firstseen::time::{Span, Ticks};

use super::compare::{key_of, row_of};
use super::fleet::{Owned, Rng, Row, Shape, generate};
use crate::model::Key;

type Open = BTreeMap<(String, Key), Change>;

#[derive(Debug, Default)]
struct Seen {
    findings: usize,
    changes_to_come: usize,
    obstacles: BTreeMap<String, usize>,
}

fn apply(open: &mut Open, effects: &mut Vec<Effect>) -> Vec<(String, Key, Ticks, bool)> {
    let mut flips = Vec::new();
    for effect in effects.drain(..) {
        let Effect::Change(change) = effect else { continue };
        let key = (change.tenant.clone(), key_of(&change));
        let is_open = matches!(change.kind, ChangeKind::Opened | ChangeKind::Updated);
        if change.kind != ChangeKind::Updated {
            flips.push((key.0.clone(), key.1.clone(), change.at, is_open));
        }
        if is_open { drop(open.insert(key, *change)) } else { drop(open.remove(&key)) }
    }
    flips
}

/// Keys of the fleet's connections, and of some that it does not have.
fn keys(records: &[Owned], rng: &mut Rng) -> BTreeSet<(String, Key)> {
    let mut keys = BTreeSet::new();
    for owned in records {
        let Row::Network(network) = &owned.row else { continue };
        keys.insert((owned.tenant.to_owned(), (network.device_name.clone(), network.ip.clone(), network.port)));
        if rng.percent(3) {
            let other = records.get(rng.below(records.len())).map(|r| &r.row);
            let ip = if let Some(Row::Network(other)) = other { other.ip.clone() } else { "192.0.2.254".to_owned() };
            keys.insert((owned.tenant.to_owned(), (network.device_name.clone(), ip, Some(1))));
            keys.insert((owned.tenant.to_owned(), ("nobody".to_owned(), network.ip.clone(), network.port)));
        }
    }
    keys
}

fn check_one(said: &Explanation, open: Option<&Change>) {
    let what = || format!("{said:#?}\nopen is {open:#?}");
    assert_eq!(said.is_finding, open.is_some(), "{}", what());
    assert_eq!(said.is_finding, said.obstacle.is_none(), "{}", what());
    assert_eq!(said.finding.as_ref().is_some_and(|f| f.open), open.is_some(), "{}", what());
    let shut = match said.obstacle {
        None => said.server.holds && said.software.holds && said.new.holds && said.rare.holds && said.warm_up.holds,
        Some(Obstacle::NeverSeen | Obstacle::NotNew | Obstacle::SeenBefore) => !said.new.holds,
        Some(Obstacle::NotAServer) => !said.server.holds,
        Some(Obstacle::NoRareSoftware) => said.server.holds && !said.software.holds,
        Some(Obstacle::CommonDestination) => !said.rare.holds,
        Some(Obstacle::WarmUp) => !said.warm_up.holds,
        // One whose first day is over has no candidate any more.
        Some(Obstacle::FirstDayOver) => false,
    };
    assert!(shut, "the gates and the verdict disagree: {}", what());
    let Some(change) = open else { return };
    let row = row_of(change);
    assert_eq!((said.new.first, said.new.count), (Some(row.first), Some(row.count)), "{}", what());
    assert_eq!((said.new.last, said.new.previous), (Some(row.last), change.previous_seen), "{}", what());
    assert_eq!((said.rare.devices, said.rare.seen.len() as u64), (row.prevalence, row.prevalence), "{}", what());
    assert_eq!(said.rare.urls, change.urls, "{}", what());
    assert_eq!(said.new.late, change.late, "{}", what());
    let finding = said.finding.as_ref().unwrap();
    assert_eq!((finding.finding_id.clone(), finding.revision), (change.id.to_string(), change.revision), "{}", what());
    // A change carries the vendors of its own instant, and a vendor's count alone brings no update: the device's rare ones are a subset
    // of nothing that can be compared, but there is one.
    assert!(said.software.vendors.iter().any(|v| v.rare && v.servers < u64::from(said.software.threshold)), "{}", what());
}

fn check_all(detector: &Detector, keys: &BTreeSet<(String, Key)>, open: &Open, seen: &mut Seen) -> Vec<(String, Key, Ticks, bool)> {
    let mut to_come = Vec::new();
    for (tenant, key) in keys {
        let of = Connection { tenant, device: &key.0, ip: &key.1, port: key.2 };
        let Some(said) = detector.explain(&of, &[]) else {
            assert!(open.keys().all(|(of, _)| of != tenant), "{tenant} is unknown, and has findings");
            continue;
        };
        check_one(&said, open.get(&(tenant.clone(), key.clone())));
        *seen.obstacles.entry(format!("{:?}", said.obstacle)).or_default() += 1;
        seen.findings += usize::from(said.is_finding);
        let mut is_finding = said.is_finding;
        for next in said.next {
            assert!(next.at > said.at, "what comes is later");
            if next.is_finding != is_finding {
                to_come.push((tenant.clone(), key.clone(), next.at, next.is_finding));
                is_finding = next.is_finding;
            }
        }
        assert!(!is_finding, "no finding lasts by itself: {of:?}");
    }
    seen.changes_to_come += to_come.len();
    to_come
}

fn run(settings: &Settings, seeds: std::ops::Range<u64>) -> Seen {
    let mut seen = Seen::default();
    for seed in seeds {
        let records = generate(Shape::SMALL, seed);
        let mut rng = Rng::new(seed ^ 0xE1A1);
        let keys = keys(&records, &mut rng);
        let (mut detector, mut open, mut effects) = (Detector::new(settings.clone()), Open::new(), Vec::new());
        let last = rng.below(records.len() / 2) + records.len() / 2;
        for (n, owned) in records.iter().enumerate().take(last + 1) {
            detector.record(&owned.record(), &mut effects);
            apply(&mut open, &mut effects);
            if n == last || rng.percent(4) {
                // Also at an instant at which nothing arrives.
                if rng.percent(50) {
                    let clocks: Vec<(String, Ticks)> = detector.clocks().map(|(t, c)| (t.to_owned(), c)).collect();
                    let next = records.get(n + 1).map_or(owned.arrival, |next| next.arrival);
                    for (tenant, clock) in clocks.into_iter().filter(|(_, clock)| *clock < next) {
                        detector.advance(&tenant, rng.ticks(clock, next), &mut effects);
                    }
                    apply(&mut open, &mut effects);
                }
                check_all(&detector, &keys, &open, &mut seen);
            }
        }
        // Nothing arrives any more.
        let mut to_come = check_all(&detector, &keys, &open, &mut seen);
        let clocks: Vec<(String, Ticks)> = detector.clocks().map(|(t, c)| (t.to_owned(), c)).collect();
        for (tenant, clock) in clocks {
            detector.advance(&tenant, clock.plus(Span::days(20)), &mut effects);
        }
        let mut came = apply(&mut open, &mut effects);
        to_come.sort();
        came.sort();
        assert_eq!(to_come, came, "seed {seed}: what was said to come, and what came");
    }
    seen
}

#[test]
fn an_explanation_is_the_open_set_at_every_instant_and_knows_what_comes() {
    let exact = Settings { update_interval: Span::ZERO, ..Settings::default() };
    let seen = run(&exact, 400..430);
    crate::say(&format!("oracle, explanation: {seen:?}, 0 differences"));
    assert!(seen.findings > 1000 && seen.changes_to_come > 100, "{seen:?}");
    for wanted in ["NeverSeen", "NotNew", "SeenBefore", "NotAServer", "NoRareSoftware", "CommonDestination"] {
        assert!(seen.obstacles.get(&format!("Some({wanted})")).is_some_and(|n| *n > 10), "no {wanted} was explained: {seen:?}");
    }
}

#[test]
fn an_explanation_knows_warm_up_and_what_is_not_tracked() {
    let settings = Settings {
        update_interval: Span::ZERO,
        warm_up: Span::days(3),
        track_workstations: false,
        report_late: false,
        ..Settings::default()
    };
    let seen = run(&settings, 430..436);
    assert!(seen.obstacles.get("Some(WarmUp)").is_some_and(|n| *n > 10) && seen.findings > 100, "{seen:?}");
}
