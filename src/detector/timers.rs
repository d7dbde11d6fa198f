//! Due instants of one tenant, in due order.
//!
//! A row holds at most one timer that counts: the instant that it remembers as armed. Arming earlier adds an entry, and the
//! older one is recognised as stale when it comes up; arming later adds nothing, since the row looks again when its timer fires.

use super::packed::Packed;
use crate::time::Ticks;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Whose timer it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    Device(u32),
    Destination(u32),
    Candidate(u32),
}

/// When a row's timer fires, in seven bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Armed(Packed);

impl Armed {
    pub(crate) const NEVER: Armed = Armed(Packed::GREATEST);

    pub(crate) fn at(t: Ticks) -> Armed {
        Armed(Packed::new(t))
    }

    #[inline]
    pub(crate) fn is_at(self, t: Ticks) -> bool {
        self.0 == Packed::new(t)
    }
}

/// A due instant and its target in twelve bytes. They are ordered as (due, kind, id).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    upper: u32,
    lower: u32,
    id: u32,
}

/// The kind takes the two lower bits: no instant within seven thousand years of 1970 loses anything.
const KIND_BITS: u32 = 2;

impl Entry {
    #[inline]
    fn new(due: Ticks, target: Target) -> Entry {
        let (kind, id) = match target {
            Target::Device(id) => (0, id),
            Target::Destination(id) => (1, id),
            Target::Candidate(id) => (2, id),
        };
        let greatest = i64::MAX >> KIND_BITS;
        // The sign's bit is turned over, so that the order of the words is the order of the instants.
        let word = ((due.0.clamp(-greatest, greatest) << KIND_BITS | kind) as u64) ^ (1 << 63);
        Entry { upper: (word >> 32) as u32, lower: word as u32, id }
    }

    #[inline]
    fn word(self) -> i64 {
        ((u64::from(self.upper) << 32 | u64::from(self.lower)) ^ (1 << 63)) as i64
    }

    #[inline]
    fn due(self) -> Ticks {
        Ticks(self.word() >> KIND_BITS)
    }

    fn target(self) -> Target {
        match self.word() & 3 {
            0 => Target::Device(self.id),
            1 => Target::Destination(self.id),
            _ => Target::Candidate(self.id),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<Entry>>,
}

impl Timers {
    /// Arms `target` for `due` unless it is armed for that instant or earlier already.
    #[inline]
    pub(crate) fn arm(&mut self, armed: &mut Armed, due: Ticks, target: Target) {
        if due < armed.0.ticks() {
            *armed = Armed(Packed::new(due));
            if self.heap.len() == self.heap.capacity() {
                // Twice as much at each growth would be half empty on most days.
                self.heap.reserve_exact(self.heap.len() / 8 + 16);
            }
            self.heap.push(Reverse(Entry::new(due, target)));
        }
    }

    /// The next due instant.
    #[inline]
    pub(crate) fn next_due(&self) -> Option<Ticks> {
        self.heap.peek().map(|Reverse(entry)| entry.due())
    }

    /// Takes the next target due at exactly `at`.
    pub(crate) fn pop_at(&mut self, at: Ticks) -> Option<Target> {
        if self.next_due() != Some(at) {
            return None;
        }
        let target = self.heap.pop().map(|Reverse(entry)| entry.target());
        if self.heap.len() >= 1024 && self.heap.capacity() * 2 > self.heap.len() * 3 {
            // The first days arm many times what a normal day does.
            self.heap.shrink_to(self.heap.len() * 9 / 8);
        }
        target
    }

    pub(crate) fn len(&self) -> usize {
        self.heap.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_entry_is_its_instant_and_target(a in -1i64 << 58..1 << 58, b in -1i64 << 58..1 << 58, ids in any::<(u32, u32)>(), kinds in (0..3, 0..3)) {
            let target = |kind, id| match kind { 0 => Target::Device(id), 1 => Target::Destination(id), _ => Target::Candidate(id) };
            let (x, y) = ((Ticks(a), target(kinds.0, ids.0)), (Ticks(b), target(kinds.1, ids.1)));
            let (left, right) = (Entry::new(x.0, x.1), Entry::new(y.0, y.1));
            prop_assert_eq!((left.due(), left.target()), x);
            prop_assert_eq!(left.cmp(&right), x.cmp(&y));
            prop_assert_eq!(Entry::new(x.0, y.1).cmp(&right), (x.0, y.1).cmp(&y));
        }
    }
}
