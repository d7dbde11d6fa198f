//! The same input in the same order gives the same effects, byte for byte: recovery rests on it.
//!
//! Owns: what must make no difference: hash seeds, how the input is cut into batches, idle advances in between, and being
//! restored from a snapshot and the inputs since.

use std::collections::BTreeMap;

use firstseen::detector::snapshot::Section;
use firstseen::detector::{Detector, Effect, Settings};
use firstseen::time::{Span, Ticks};

use super::fleet::{Owned, Rng, Shape, generate};
use crate::model::Model;

/// All switches in turn: what is beyond the query must be as certain as what is not.
fn switches(seed: u64) -> Settings {
    Settings {
        update_interval: [Span::ZERO, Span::minutes(1), Span::hours(6)][seed as usize % 3],
        report_late: seed % 4 != 1,
        track_workstations: seed % 5 != 2,
        warm_up: [Span::ZERO, Span::days(3)][usize::from(seed % 6 == 3)],
        urls_per_destination: [2, 1000][usize::from(seed % 4 != 2)],
        ..Settings::default()
    }
}

/// Runs a fleet in batches of up to `batch` records that share one list of effects, with some extra advances when `spare` says so.
fn effects(mut detector: Detector, records: &[Owned], batch: usize, mut spare: Option<Rng>) -> Vec<String> {
    let mut said = Vec::new();
    let mut clocks: BTreeMap<&str, Ticks> = BTreeMap::new();
    for records in records.chunks(batch) {
        let mut effects: Vec<Effect> = Vec::new();
        for owned in records {
            let record = owned.record();
            let before = clocks.get(owned.tenant).copied();
            let clock = before.map_or(owned.arrival, |clock| clock.max(owned.arrival));
            // A record that will be refused moves no clock, so there is nothing to advance towards.
            if Model::event_time(&record).is_none_or(|t| t <= clock.plus(Settings::default().max_clock_skew)) {
                if let (Some(rng), Some(before)) = (&mut spare, before)
                    && rng.percent(50)
                {
                    detector.advance(owned.tenant, rng.ticks(before, clock), &mut effects);
                    detector.advance(owned.tenant, before.minus(Span::hours(5)), &mut effects);
                }
                clocks.insert(owned.tenant, clock);
            }
            detector.record(&record, &mut effects);
        }
        said.extend(effects.iter().map(|effect| format!("{effect:?}")));
    }
    let tenants: Vec<(&str, Ticks)> = clocks.into_iter().collect();
    for (tenant, clock) in tenants {
        let mut effects = Vec::new();
        detector.advance(tenant, clock.plus(Span::days(16)), &mut effects);
        said.extend(effects.iter().map(|effect| format!("{effect:?}")));
    }
    said
}

#[test]
fn nothing_but_the_input_decides() {
    for seed in 300..306 {
        let settings =
            Settings { update_interval: [Span::ZERO, Span::minutes(1), Span::hours(6)][seed as usize % 3], ..Settings::default() };
        let records = generate(Shape::SMALL, seed);
        let first = effects(Detector::new(settings.clone()), &records, 1, None);
        assert!(first.len() > 100, "seed {seed}: only {} effects", first.len());
        for (hash_seed, batch) in [(1, 1), (2, 7), (u64::MAX, 100), (0x5EED, usize::MAX)] {
            for spare in [None, Some(Rng::new(seed ^ hash_seed))] {
                let what = format!("seed {seed}, hash seed {hash_seed}, batches of {batch}, extra advances {}", spare.is_some());
                let again = effects(Detector::with_hash_seed(settings.clone(), hash_seed), &records, batch, spare);
                let differs = first.iter().zip(&again).position(|(a, b)| a != b);
                assert!(
                    differs.is_none() && first.len() == again.len(),
                    "{what}: effect {differs:?} differs: {:#?}",
                    differs.map(|n| (&first[n], &again[n]))
                );
            }
        }
    }
}

/// A detector that is lost again and again, and restored from its last snapshot and the records since.
struct Restarting<'a> {
    detector: Detector,
    settings: Settings,
    records: &'a [Owned],
    /// The first record that the snapshot under way does not hold.
    since: usize,
    sections: Vec<(Section, Vec<u8>)>,
    restarts: u64,
}

impl Restarting<'_> {
    /// Applies record `n` and copies about `budget` bytes more; a snapshot that is whole is restored at once.
    fn step(&mut self, n: usize, budget: usize, said: &mut Vec<Vec<Effect>>) {
        let mut effects = Vec::new();
        self.detector.record(&self.records[n].record(), &mut effects);
        said.push(effects);
        if !self.detector.snapshot_active() || !self.detector.snapshot_step(budget, &mut self.sections) {
            return;
        }
        self.restarts += 1;
        self.detector = Detector::with_hash_seed(self.settings.clone(), self.restarts);
        self.sections.sort_by_key(|(section, _)| *section);
        for (section, bytes) in self.sections.drain(..) {
            self.detector.restore_section(section, &bytes).unwrap();
        }
        self.detector.finish_restore().unwrap();
        for (n, before) in said.iter().enumerate().skip(self.since) {
            let mut again = Vec::new();
            self.detector.record(&self.records[n].record(), &mut again);
            assert_eq!(*before, again, "record {n} again, after restart {}", self.restarts);
        }
    }
}

/// Every row of a state.
pub(crate) fn export(detector: &Detector) -> String {
    let mut lines = String::new();
    let line = |line: &[u8]| {
        lines.push_str(std::str::from_utf8(line).unwrap());
        lines.push('\n');
        Ok::<(), ()>(())
    };
    detector.export(line).unwrap();
    lines
}

#[test]
fn a_restart_makes_no_difference() {
    let mut restarts = 0;
    let hunt = std::env::var("ORACLE_FLEETS").map_or(30, |n| n.parse().unwrap());
    for seed in 310..310 + hunt {
        let settings = switches(seed);
        let records = generate(Shape::SMALL, seed);
        let (mut rng, mut said, mut undisturbed) = (Rng::new(seed), Vec::new(), Detector::new(settings.clone()));
        let detector = Detector::new(settings.clone());
        let mut restarting = Restarting { detector, settings, records: &records, since: 0, sections: Vec::new(), restarts: 0 };
        for (n, record) in records.iter().enumerate() {
            if !restarting.detector.snapshot_active() && rng.percent(5) {
                restarting.detector.begin_snapshot();
                restarting.since = n;
            }
            restarting.step(n, rng.pick(&[1, 500, 3000, 1 << 20]), &mut said);
            let mut effects = Vec::new();
            undisturbed.record(&record.record(), &mut effects);
            assert_eq!(effects, said[n], "seed {seed}, record {n}, after restart {}", restarting.restarts);
        }
        assert!(export(&restarting.detector) == export(&undisturbed), "seed {seed}: the states differ");
        restarts += restarting.restarts;
    }
    assert!(restarts > 100, "only {restarts} restarts");
}
