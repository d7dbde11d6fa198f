//! Due instants of one tenant, in due order.
//!
//! A row holds at most one timer that counts: the instant that it remembers as armed. Arming earlier adds an entry, and the
//! older one is recognised as stale when it comes up; arming later adds nothing, since the row looks again when its timer fires.

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

#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Ticks, Target)>>,
}

impl Timers {
    /// Arms `target` for `due` unless it is armed for that instant or earlier already.
    #[inline]
    pub(crate) fn arm(&mut self, armed: &mut Ticks, due: Ticks, target: Target) {
        if due < *armed {
            *armed = due;
            self.heap.push(Reverse((due, target)));
        }
    }

    /// The next due instant.
    #[inline]
    pub(crate) fn next_due(&self) -> Option<Ticks> {
        self.heap.peek().map(|Reverse((due, _))| *due)
    }

    /// Takes the next target due at exactly `at`.
    pub(crate) fn pop_at(&mut self, at: Ticks) -> Option<Target> {
        if self.next_due() != Some(at) {
            return None;
        }
        let target = self.heap.pop().map(|Reverse((_, target))| target);
        if self.heap.len() >= 1024 && self.heap.capacity() / 4 > self.heap.len() {
            // The first days arm many times what a normal day does.
            self.heap.shrink_to(self.heap.len() * 2);
        }
        target
    }

    pub(crate) fn len(&self) -> usize {
        self.heap.len()
    }
}
