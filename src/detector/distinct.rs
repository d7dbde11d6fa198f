//! The most recently seen distinct items of a sliding window, exact up to a cap.
//!
//! Invariant (INV-recent): it holds the `cap` items with the latest last-seen instants. So whether fewer than `cap` are in the
//! window is exact, at any instant, whatever was dropped: what was dropped was seen earlier than everything kept.

use crate::time::{Span, Ticks};
use thin_vec::ThinVec;

use super::window;

/// One item and when it was last seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen<K> {
    pub(crate) key: K,
    pub(crate) last: Ticks,
}

/// What a sighting did to the set of items in the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sighting<K> {
    /// Nothing: the item was in the window already, last seen then.
    Known(Ticks),
    /// The item was kept, but had left the window: it is back in.
    Returned,
    /// The item came in.
    Entered,
    /// The item came in and the least recently seen one was dropped to stay within the cap.
    Displaced(Seen<K>),
    /// The item is older than everything kept, and the cap is reached.
    TooOld,
}

#[derive(Clone, Debug)]
pub(crate) struct Recent<K> {
    items: ThinVec<Seen<K>>,
}

impl<K> Default for Recent<K> {
    fn default() -> Self {
        Recent { items: ThinVec::new() }
    }
}

impl<K> Seen<K> {
    fn again(&mut self, t: Ticks, now: Ticks, span: Span) -> Sighting<K> {
        let before = self.last;
        self.last = before.max(t);
        if window::holds(before, now, span) { Sighting::Known(before) } else { Sighting::Returned }
    }
}

impl<K: Copy + PartialEq> Recent<K> {
    /// The same as [`Recent::see`] when one of the first few items is the one, as `is_it` says; `None`, and nothing happens, when not.
    #[inline]
    pub(crate) fn see_again(&mut self, is_it: impl Fn(K) -> bool, t: Ticks, now: Ticks, span: Span) -> Option<Sighting<K>> {
        self.items.iter_mut().take(4).find(|item| is_it(item.key)).map(|item| item.again(t, now, span))
    }

    /// Takes a sighting at `t`, which must be in the window at `now`. `dropped` is told each key that goes; `rank` says which of
    /// several that were last seen at one instant goes first, by what the key means: places in the list depend on when it was
    /// tidied, and must not decide.
    #[inline]
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn see(
        &mut self,
        key: K,
        t: Ticks,
        now: Ticks,
        span: Span,
        cap: usize,
        rank: impl Fn(K) -> u64,
        mut dropped: impl FnMut(K),
    ) -> Sighting<K> {
        if let Some(item) = self.items.iter_mut().find(|item| item.key == key) {
            return item.again(t, now, span);
        }
        if self.items.len() >= cap {
            self.expire(now, span, &mut dropped);
        }
        if self.items.len() < cap {
            if self.items.len() == self.items.capacity() {
                // Most destinations have one or two devices: an exact first place, then growth by half.
                self.items.reserve_exact(self.items.len() / 2 + 1);
            }
            self.items.push(Seen { key, last: t });
            return Sighting::Entered;
        }
        let Some(oldest) = self.items.iter_mut().min_by_key(|item| (item.last, rank(item.key))) else { return Sighting::TooOld };
        if t <= oldest.last {
            return Sighting::TooOld;
        }
        let displaced = std::mem::replace(oldest, Seen { key, last: t });
        dropped(displaced.key);
        Sighting::Displaced(displaced)
    }

    /// Drops what has left the window.
    pub(crate) fn expire(&mut self, now: Ticks, span: Span, mut dropped: impl FnMut(K)) {
        self.items.retain(|item| {
            let keep = window::holds(item.last, now, span);
            if !keep {
                dropped(item.key);
            }
            keep
        });
        if self.items.is_empty() {
            self.items = ThinVec::new();
        }
    }

    /// How many are in the window: exact below the cap, at least the cap otherwise.
    pub(crate) fn count(&self, now: Ticks, span: Span) -> usize {
        self.items.iter().filter(|item| window::holds(item.last, now, span)).count()
    }

    /// The items in the window.
    pub(crate) fn iter(&self, now: Ticks, span: Span) -> impl Iterator<Item = &Seen<K>> {
        self.items.iter().filter(move |item| window::holds(item.last, now, span))
    }

    /// All items, also those that have left the window and were not dropped yet.
    pub(crate) fn all(&self) -> &[Seen<K>] {
        &self.items
    }

    /// Reads something of each cache line of the items.
    #[inline]
    pub(crate) fn touch(&self) -> u64 {
        self.items.iter().step_by(4).fold(0, |sum, item| sum ^ item.last.0 as u64)
    }

    /// From rows that a snapshot kept.
    pub(crate) fn from_rows(rows: impl ExactSizeIterator<Item = Seen<K>>) -> Self {
        let mut items = ThinVec::with_capacity(rows.len());
        items.extend(rows);
        Recent { items }
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
            let mut recent = Recent::default();
            let mut all: BTreeMap<u32, Ticks> = BTreeMap::new();
            let mut now = Ticks(100);
            for (key, behind, step) in steps {
                now = Ticks(now.0 + step);
                let t = Ticks(now.0 - behind);
                if window::holds(t, now, span) {
                    recent.see(key, t, now, span, cap, u64::from, |_| {});
                    let last = all.entry(key).or_insert(t);
                    *last = t.max(*last);
                }
                for at in [now, Ticks(now.0 + 13)] {
                    let exact = all.values().filter(|t| window::holds(**t, at, span)).count();
                    let counted = recent.count(at, span);
                    if exact < cap { prop_assert_eq!(counted, exact) } else { prop_assert_eq!(counted, cap) }
                }
            }
        }
    }
}
