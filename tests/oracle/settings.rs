//! Changed settings against stored state: after the change, the open findings are the rows of the new query at that instant.
//!
//! Owns: fleets whose settings change on the way, to such as need nothing that was not kept. The judge is the brute-force
//! model over every row that ever arrived, by the new numbers. A snapshot in between must make no difference.

use std::collections::BTreeMap;

use firstseen::detector::{Detector, Effect, Settings};
use firstseen::finding::ChangeKind;
use firstseen::time::{Span, Ticks};

use super::compare::Open;
use super::determinism::export;
use super::fleet::{Owned, Rng, Shape, generate};
use crate::model::Model;
use crate::say;

/// What a consumer of findings holds of one tenant, and every row that arrived.
struct Tenant {
    model: Model,
    open: Open,
    late: Open,
}

#[derive(Debug, Default)]
struct Tally {
    changes: u64,
    opened: u64,
    ended: u64,
    rows: u64,
    instants: u64,
}

impl Tenant {
    fn apply(&mut self, effects: &[Effect]) {
        for effect in effects {
            let Effect::Change(change) = effect else { continue };
            if change.late { &mut self.late } else { &mut self.open }.apply(change).unwrap();
        }
    }

    /// The open findings are the answer.
    fn check(&self, now: Ticks, what: &str, tally: &mut Tally) {
        let answer = self.model.answer(now);
        let rows = answer.iter().map(|(key, row)| (key, (row.count, row.prevalence, &row.urls, row.first, row.last)));
        let open = self.open.rows.iter().map(|(key, (_, row))| (key, (row.count, row.prevalence, &row.urls, row.first, row.last)));
        assert!(rows.eq(open), "{what}, at {now}: the answer is {answer:#?}\nbut open is {:#?}", self.open.rows);
        tally.rows += answer.len() as u64;
        tally.instants += 1;
    }
}

fn restored(mut detector: Detector, seed: u64) -> Detector {
    let mut sections = Vec::new();
    detector.begin_snapshot();
    while !detector.snapshot_step(1 << 20, &mut sections) {}
    let mut again = Detector::with_hash_seed(Settings::default(), seed);
    for (section, bytes) in sections {
        again.restore_section(section, &bytes).unwrap();
    }
    again.finish_restore().unwrap();
    again
}

/// Feeds the fleet and changes the settings at each of `changes` (record number, settings).
fn run(records: &[Owned], first: &Settings, changes: &[(usize, Settings)], seed: u64, tally: &mut Tally) {
    let (mut detector, mut settings) = (Detector::new(first.clone()), first.clone());
    let mut tenants: BTreeMap<&str, Tenant> = BTreeMap::new();
    for (n, owned) in records.iter().enumerate() {
        if let Some((_, new)) = changes.iter().find(|(at, _)| *at == n) {
            detector = restored(detector, seed ^ n as u64);
            let clocks: Vec<(String, Ticks)> = detector.clocks().map(|(t, clock)| (t.to_owned(), clock)).collect();
            let mut effects = Vec::new();
            detector.change_settings(new.clone(), &mut effects);
            settings = new.clone();
            tally.changes += 1;
            for (name, tenant) in &mut tenants {
                let mine: Vec<Effect> = effects.iter().filter(|e| matches!(e, Effect::Change(c) if c.tenant == *name)).cloned().collect();
                let now = clocks.iter().find(|(t, _)| t == name).unwrap().1;
                for effect in &mine {
                    let Effect::Change(change) = effect else { continue };
                    assert_eq!(change.at, now, "the change of settings holds from the clock of its tenant");
                    tally.opened += u64::from(change.kind == ChangeKind::Opened);
                    tally.ended += u64::from(matches!(change.kind, ChangeKind::Retracted | ChangeKind::Closed));
                }
                tenant.apply(&mine);
                tenant.model.judge_by(settings.clone());
                tenant.check(now, &format!("seed {seed}, settings changed before record {n} to {settings:?}"), tally);
            }
            // Nothing that is derived differs from what a restore derives.
            let again = restored(detector, seed);
            detector = restored(again, seed + 1);
        }
        let record = owned.record();
        let mut effects = Vec::new();
        detector.record(&record, &mut effects);
        let tenant = tenants.entry(owned.tenant).or_insert_with(|| Tenant {
            model: Model::new(settings.clone()),
            open: Open::default(),
            late: Open::default(),
        });
        if effects.contains(&Effect::TimestampAhead) {
            continue;
        }
        tenant.apply(&effects);
        tenant.model.insert(&record);
        let now = detector.clocks().find(|(t, _)| *t == owned.tenant).unwrap().1;
        tenant.check(now, &format!("seed {seed}, after record {n} by {settings:?}"), tally);
    }
    assert!(!export(&detector).is_empty());
}

fn eager() -> Settings {
    Settings { update_interval: Span::ZERO, ..Settings::default() }
}

/// Settings that need nothing that `from` did not keep.
fn exact(from: &Settings, rng: &mut Rng) -> Settings {
    let mut new = from.clone();
    match rng.below(3) {
        0 => new.prevalence_below = rng.pick(&[1, 2, 4, 9, 64]),
        1 => new.vendor_servers_below = rng.pick(&[1, 3, 7, 10, 30]),
        _ => (new.prevalence_below, new.vendor_servers_below) = (rng.pick(&[3, 6]), rng.pick(&[5, 12])),
    }
    assert_eq!(from.lacks(&new), [], "{from:?} to {new:?}");
    new
}

#[test]
fn answer_changed_settings_against_the_model() {
    let mut tally = Tally::default();
    for seed in 400..440 {
        let records = generate(Shape::SMALL, seed);
        let mut rng = Rng::new(seed);
        let (first, mut settings, mut changes) = (eager(), eager(), Vec::new());
        let mut at: Vec<usize> = (0..4).map(|_| records.len() / 3 + rng.below(records.len() * 2 / 3)).collect();
        at.sort_unstable();
        at.dedup();
        for at in at {
            settings = exact(&settings, &mut rng);
            changes.push((at, settings.clone()));
        }
        run(&records, &first, &changes, seed, &mut tally);
    }
    assert!(tally.opened > 20 && tally.ended > 20, "{tally:?}");
    say(&format!("answer, changed [query] numbers, kept data suffices: {tally:?}, 0 differences to the new query"));
}

/// Feeds the fleet, and changes the settings at one record to such as need what was not kept.
fn run_partial(records: &[Owned], first: &Settings, new: &Settings, at: usize, seed: u64, tally: &mut Tally) -> u64 {
    let mut detector = Detector::new(first.clone());
    let (mut tenants, mut until, mut marked) = (BTreeMap::<&str, Tenant>::new(), BTreeMap::<String, Ticks>::new(), 0);
    for (n, owned) in records.iter().enumerate() {
        let (record, place) = (owned.record(), format!("seed {seed}, {n} of {at} by {new:?}"));
        let mut effects = Vec::new();
        if n == at {
            until = detector.clocks().map(|(t, clock)| (t.to_owned(), clock.plus(first.partial_for(new)))).collect();
            detector.change_settings(new.clone(), &mut effects);
            tenants.values_mut().for_each(|tenant| tenant.model.judge_by(new.clone()));
            for (name, tenant) in &mut tenants {
                let mine: Vec<Effect> = effects.iter().filter(|e| matches!(e, Effect::Change(c) if c.tenant == *name)).cloned().collect();
                tenant.apply(&mine);
            }
            let again = restored(detector, seed);
            detector = restored(again, seed + 1);
        }
        let from = effects.len();
        detector.record(&record, &mut effects);
        let tenant = tenants.entry(owned.tenant).or_insert_with(|| Tenant {
            model: Model::new(if n < at { first.clone() } else { new.clone() }),
            open: Open::default(),
            late: Open::default(),
        });
        for effect in &effects {
            let Effect::Change(change) = effect else { continue };
            let expected = until.get(&change.tenant).copied().filter(|until| change.at < *until);
            assert_eq!(change.partial, expected, "{place}: {change:?}");
            marked += u64::from(change.partial.is_some());
        }
        if effects.contains(&Effect::TimestampAhead) {
            continue;
        }
        tenant.apply(&effects[from..]);
        tenant.model.insert(&record);
        let now = detector.clocks().find(|(t, _)| *t == owned.tenant).unwrap().1;
        if until.get(owned.tenant).is_none_or(|until| now >= *until) && (n >= at || first.track_workstations) {
            tenant.check(now, &place, tally);
        }
    }
    marked
}

#[test]
fn answer_partial_baseline_against_the_model() {
    let (mut tally, mut marked) = (Tally::default(), 0);
    let kinds: [(Settings, &[&str]); 8] = [
        (Settings { lookback: Span::days(16), ..eager() }, &["query.lookback"]),
        (Settings { lookback: Span::days(11), ..eager() }, &["query.lookback"]),
        (Settings { new_within: Span::days(2), ..eager() }, &["query.new_within"]),
        (Settings { new_within: Span::hours(12), ..eager() }, &["query.new_within"]),
        (Settings { prevalence_window: Span::days(6), ..eager() }, &["query.prevalence_window"]),
        (Settings { prevalence_window: Span::days(2), ..eager() }, &["query.prevalence_window"]),
        (Settings { prevalence_below: 70, ..eager() }, &["query.prevalence_below"]),
        (Settings { lookback: Span::days(15), new_within: Span::days(3), ..eager() }, &["query.lookback", "query.new_within"]),
    ];
    for seed in 500..540 {
        let records = generate(Shape::SMALL, seed);
        let (new, keys) = &kinds[seed as usize % kinds.len()];
        let lacks = eager().lacks(new);
        assert!(lacks.iter().all(|lack| lack.passes) && lacks.iter().map(|lack| lack.key).eq(keys.iter().copied()), "{lacks:?}");
        marked += run_partial(&records, &eager(), new, records.len() * 45 / 100, seed, &mut tally);
    }
    // What is no matter of time is refused with the flag, too.
    let fewer = Settings { urls_per_destination: 1, ..eager() };
    assert!(!eager().lacks(&fewer)[0].passes);
    let below = Settings { prevalence_below: 100, ..eager() };
    assert!(!below.lacks(&eager())[0].passes && eager().lacks(&below)[0].passes);
    assert!(marked > 100, "{marked}");
    say(&format!(
        "answer, partial baseline: {marked} changes say so; exact before and afterwards at {} instants, {} rows",
        tally.instants, tally.rows
    ));
}
