//! The same input in the same order gives the same effects, byte for byte: recovery rests on it.
//!
//! Owns: what must make no difference (hash seeds, how the input is cut into batches, idle advances in between).

use std::collections::BTreeMap;

use firstseen::detector::{Detector, Effect, Settings};
use firstseen::time::{Span, Ticks};

use super::fleet::{Owned, Rng, Shape, generate};
use crate::model::Model;

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
        assert!(first.len() > 200, "seed {seed}: only {} effects", first.len());
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
