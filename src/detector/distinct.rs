//! The most recently seen distinct items of a sliding window, exact up to a cap.
//!
//! Invariant (INV-recent): it holds the `cap` items with the latest last-seen instants. So whether fewer than `cap` are in the
//! window is exact, at any instant, whatever was dropped: what was dropped was seen earlier than everything kept.

use super::packed::Packed;
use super::pool::{LONGEST, List, Pool};
use super::slab::Moved;
use super::window;
use crate::time::{Span, Ticks};

/// One item, by the id of an interned text or fingerprint, and when it was last seen; eleven bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    key: [u8; 4],
    last: Packed,
}

impl Seen {
    pub(crate) fn new(key: u32, last: Ticks) -> Self {
        Seen { key: key.to_le_bytes(), last: Packed::new(last) }
    }

    #[inline]
    pub(crate) fn key(&self) -> u32 {
        u32::from_le_bytes(self.key)
    }

    #[inline]
    pub(crate) fn last(&self) -> Ticks {
        self.last.ticks()
    }

    fn again(&mut self, t: Ticks, now: Ticks, span: Span) -> Sighting {
        let before = self.last();
        if t > before {
            self.last = Packed::new(t);
        }
        if window::holds(before, now, span) { Sighting::Known(before) } else { Sighting::Returned }
    }
}

/// What a sighting did to the set of items in the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sighting {
    /// Nothing: the item was in the window already, last seen then.
    Known(Ticks),
    /// The item was kept, but had left the window: it is back in.
    Returned,
    /// The item came in.
    Entered,
    /// The item came in and the least recently seen one was dropped to stay within the cap.
    Displaced(Seen),
    /// The item is older than everything kept, and the cap is reached.
    TooOld,
}

/// A set's items lie in the pool of all sets; it belongs to the row `owner`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Recent {
    items: List,
}

/// The window, and how many items of it are kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) now: Ticks,
    pub(crate) span: Span,
    pub(crate) cap: usize,
}

impl Recent {
    /// The same as [`Recent::see`] when one of the first few items is the one, as `is_it` says; `None`, and nothing happens, when not.
    #[inline]
    pub(crate) fn see_again(
        self,
        pool: &mut Pool<Seen>,
        is_it: impl Fn(u32) -> bool,
        t: Ticks,
        now: Ticks,
        span: Span,
    ) -> Option<Sighting> {
        pool.items_mut(self.items).iter_mut().take(4).find(|item| is_it(item.key())).map(|item| item.again(t, now, span))
    }

    /// Takes a sighting at `t`, which must be in the window. `dropped` is told each key that goes; `rank` says which of
    /// several that were last seen at one instant goes first, by what the key means: places in the list depend on when it was
    /// tidied, and must not decide.
    #[inline]
    pub(crate) fn see(
        &mut self,
        (pool, owner): (&mut Pool<Seen>, u32),
        key: u32,
        t: Ticks,
        bounds: Bounds,
        rank: impl Fn(u32) -> u64,
        mut dropped: impl FnMut(u32),
    ) -> Sighting {
        let Bounds { now, span, cap } = bounds;
        let cap = cap.min(LONGEST);
        let bytes = key.to_le_bytes();
        if let Some(item) = pool.items_mut(self.items).iter_mut().find(|item| item.key == bytes) {
            return item.again(t, now, span);
        }
        if self.items.len() >= cap || self.items.is_full() {
            self.expire(pool, owner, now, span, &mut dropped);
        }
        if self.items.len() < cap {
            pool.push(&mut self.items, Seen::new(key, t), owner);
            return Sighting::Entered;
        }
        let oldest = pool.items_mut(self.items).iter_mut().min_by_key(|item| (item.last(), rank(item.key())));
        let Some(oldest) = oldest.filter(|oldest| t > oldest.last()) else { return Sighting::TooOld };
        let displaced = std::mem::replace(oldest, Seen::new(key, t));
        dropped(displaced.key());
        Sighting::Displaced(displaced)
    }

    /// Drops what has left the window.
    pub(crate) fn expire(&mut self, pool: &mut Pool<Seen>, owner: u32, now: Ticks, span: Span, mut dropped: impl FnMut(u32)) {
        let left = |item: &Seen| !window::holds(item.last(), now, span);
        if !pool.items(self.items).iter().any(left) {
            return;
        }
        pool.retain(&mut self.items, owner, |item| {
            let keep = !left(item);
            if !keep {
                dropped(item.key());
            }
            keep
        });
    }

    /// How many are in the window: exact below the cap, at least the cap otherwise.
    pub(crate) fn count(self, pool: &Pool<Seen>, now: Ticks, span: Span) -> usize {
        self.iter(pool, now, span).count()
    }

    /// The items in the window.
    pub(crate) fn iter(self, pool: &Pool<Seen>, now: Ticks, span: Span) -> impl Iterator<Item = &Seen> {
        self.all(pool).iter().filter(move |item| window::holds(item.last(), now, span))
    }

    /// All items, also those that have left the window and were not dropped yet.
    #[inline]
    pub(crate) fn all(self, pool: &Pool<Seen>) -> &[Seen] {
        pool.items(self.items)
    }

    pub(crate) fn is_empty(self) -> bool {
        self.items.is_empty()
    }

    /// Reads something of each cache line of the items.
    #[inline]
    pub(crate) fn touch(self, pool: &Pool<Seen>) -> u64 {
        self.all(pool).iter().step_by(4).fold(0, |sum, item| sum ^ item.last().0 as u64)
    }

    /// From rows that a snapshot kept.
    pub(crate) fn from_rows(rows: &[Seen], pool: &mut Pool<Seen>, owner: u32) -> Self {
        Recent { items: pool.list(rows, owner) }
    }

    /// Gives the block back.
    pub(crate) fn free(&mut self, pool: &mut Pool<Seen>) {
        pool.clear(&mut self.items);
    }

    /// Its block has moved.
    pub(crate) fn follow(&mut self, moved: Moved) {
        self.items.follow(moved);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        /// Against brute force over all sightings: exact below the cap, at least the cap otherwise; late and repeated ones too.
        #[test]
        fn counts_are_exact_up_to_the_cap(steps in prop::collection::vec((0u32..20, 0i64..30, 0i64..6), 0..200), cap in 1usize..12) {
            let span = Span(25);
            let (mut pool, mut recent) = (Pool::<Seen>::default(), Recent::default());
            let mut all: BTreeMap<u32, Ticks> = BTreeMap::new();
            let mut now = Ticks(100);
            for (key, behind, step) in steps {
                now = Ticks(now.0 + step);
                let t = Ticks(now.0 - behind);
                if window::holds(t, now, span) {
                    recent.see((&mut pool, 0), key, t, Bounds { now, span, cap }, u64::from, |_| {});
                    let last = all.entry(key).or_insert(t);
                    *last = t.max(*last);
                }
                for at in [now, Ticks(now.0 + 13)] {
                    let exact = all.values().filter(|t| window::holds(**t, at, span)).count();
                    let counted = recent.count(&pool, at, span);
                    if exact < cap { prop_assert_eq!(counted, exact) } else { prop_assert_eq!(counted, cap) }
                }
            }
        }
    }
}
