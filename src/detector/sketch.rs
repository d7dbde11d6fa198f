//! HyperLogLog++ over panes of a sliding window: about how many distinct devices, once there are too many to keep exactly.
//!
//! An estimate that people read; it never decides a finding. Hash and precision are pinned: sketches of one
//! [`SKETCH_VERSION`] merge, whoever wrote them. Each pane covers a fifth of the window, so the estimate covers between the
//! window and a fifth more.

use super::wire::{Get, Put, WireError};
use crate::time::{Span, Ticks};
use hyperloglogplus::{HyperLogLog, HyperLogLogPlus};
use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher};

/// Names the pinned hash (XXH3-64, seed 0, of the device id's bytes) and precision; part of the state format.
pub const SKETCH_VERSION: u8 = 1;
/// 2^11 registers of 6 bits: 1.5 KiB, standard error 2.3 %.
const PRECISION: u8 = 11;
const PANES_PER_WINDOW: i64 = 5;

/// Fingerprint of a device id (or any text): XXH3-64 with seed 0, a published, stable function.
#[inline]
#[must_use]
pub fn fingerprint(text: &str) -> u64 {
    fingerprint_bytes(text.as_bytes())
}

/// [`fingerprint`] of a text's bytes.
#[inline]
pub(crate) fn fingerprint_bytes(text: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(text)
}

/// Passes a fingerprint through: it is a hash already.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fingerprint(u64);

impl Hasher for Fingerprint {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        // Only reached by types other than u64, which sketches are never given; still a hash of the bytes.
        self.0 = xxhash_rust::xxh3::xxh3_64_with_seed(bytes, self.0);
    }
    fn write_u64(&mut self, v: u64) {
        self.0 = v;
    }
}

/// Makes [`Fingerprint`]s; no seed to vary.
#[derive(Clone, Copy, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Pinned;

impl BuildHasher for Pinned {
    type Hasher = Fingerprint;
    fn build_hasher(&self) -> Fingerprint {
        Fingerprint::default()
    }
}

type Sketch = HyperLogLogPlus<u64, Pinned>;

fn new_sketch() -> Sketch {
    Sketch::new(PRECISION, Pinned).expect("INV-sketch: the pinned precision is within the library's range")
}

/// The panes of one destination.
#[derive(Clone, Debug, Default)]
pub(crate) struct Panes {
    panes: BTreeMap<i64, Sketch>,
}

fn pane_of(t: Ticks, window: Span) -> i64 {
    t.0.div_euclid((window.0 / PANES_PER_WINDOW).max(1))
}

impl Panes {
    pub(crate) fn insert(&mut self, device: u64, t: Ticks, window: Span) {
        self.panes.entry(pane_of(t, window)).or_insert_with(new_sketch).insert_any(&device);
    }

    /// Whether sightings at `a` and `b` go into one pane.
    pub(crate) fn are_one(a: Ticks, b: Ticks, window: Span) -> bool {
        pane_of(a, window) == pane_of(b, window)
    }

    /// Forgets the panes that lie wholly before the window.
    pub(crate) fn expire(&mut self, now: Ticks, window: Span) {
        let first = pane_of(now.minus(window), window);
        while let Some(pane) = self.panes.first_entry().filter(|pane| *pane.key() < first) {
            pane.remove();
        }
    }

    /// About how many distinct devices the window holds.
    pub(crate) fn estimate(&self, now: Ticks, window: Span) -> u64 {
        let first = pane_of(now.minus(window), window);
        let mut all = new_sketch();
        for (_, sketch) in self.panes.range(first..) {
            all.merge(sketch).expect("INV-sketch: all panes have one precision");
        }
        all.count().round() as u64
    }

    /// The beginning of each pane of the window, and about how many distinct devices it holds.
    pub(crate) fn each(&self, now: Ticks, window: Span) -> Vec<(Ticks, u64)> {
        let width = (window.0 / PANES_PER_WINDOW).max(1);
        let panes = self.panes.range(pane_of(now.minus(window), window)..);
        panes.map(|(pane, sketch)| (Ticks(pane.saturating_mul(width)), sketch.clone().count().round() as u64)).collect()
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(SKETCH_VERSION);
        out.put_u32(self.panes.len() as u32);
        for (pane, sketch) in &self.panes {
            let mut sketch = sketch.clone();
            // Counting drains an inner hash set whose order differs from run to run: after it, equal sketches have equal bytes.
            sketch.count();
            out.put_u64(*pane as u64);
            out.put_bytes(&postcard::to_stdvec(&sketch).expect("INV-sketch: a sketch is plain data"));
        }
    }

    pub(crate) fn decode(bytes: &mut Get<'_>) -> Result<Self, WireError> {
        if bytes.u8()? != SKETCH_VERSION {
            return Err(WireError::Invalid("sketch version"));
        }
        let n = bytes.count(12)?;
        let mut panes = BTreeMap::new();
        for _ in 0..n {
            let pane = bytes.u64()? as i64;
            let sketch = postcard::from_bytes(bytes.bytes()?).map_err(|_| WireError::Invalid("sketch"))?;
            panes.insert(pane, sketch);
        }
        Ok(Panes { panes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Span = Span::days(5);

    #[test]
    fn the_hash_is_pinned() {
        assert_eq!(fingerprint(""), 0x2d06_8005_38d3_94c2, "XXH3-64 of nothing, from its specification");
    }

    #[test]
    fn sketches_of_the_same_items_merge_to_the_same_count() {
        let (mut a, mut b) = (new_sketch(), new_sketch());
        for i in 0..10_000u32 {
            a.insert_any(&fingerprint(&format!("device-{i}")));
            b.insert_any(&fingerprint(&format!("device-{}", 9_999 - i)));
        }
        let alone = a.count();
        a.merge(&b).unwrap();
        assert_eq!(a.count(), alone);
        assert!((alone - 10_000.0).abs() < 700.0, "{alone}");
    }

    #[test]
    fn panes_expire_and_round_trip_to_equal_bytes() {
        let mut panes = Panes::default();
        for day in 0..8 {
            for i in 0..500 {
                panes.insert(fingerprint(&format!("{day}/{i}")), Ticks::default().plus(Span::days(day)), WINDOW);
            }
        }
        let now = Ticks::default().plus(Span::days(8));
        let estimate = panes.estimate(now, WINDOW);
        panes.expire(now, WINDOW);
        assert_eq!(panes.panes.len(), 5);
        assert_eq!(panes.estimate(now, WINDOW), estimate);
        assert!(estimate.abs_diff(2_500) < 200, "{estimate}");
        let encode = |p: &Panes| {
            let mut out = Vec::new();
            p.encode(&mut out);
            out
        };
        let bytes = encode(&panes);
        assert_eq!(encode(&Panes::decode(&mut Get(&bytes)).unwrap()), bytes);
    }
}
