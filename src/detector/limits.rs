//! What limits rest on: when the connections of a tenant were last seen, in few numbers, and how much memory the tables are reckoned to take.
//!
//! Both depend on the input alone, so that a replay evicts the same at the same instants: what is counted are connections that count for
//! the answer, not the places that tables still hold for others, and memory is reckoned from such counts, never measured.

use super::wire::{Get, Put, WireError};
use crate::time::{Span, Ticks};
use std::collections::VecDeque;

/// How much may be kept. `None` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `limits.tracked_connections`: of all tenants together.
    pub tracked_connections: Option<u64>,
    /// `limits.state_memory`, in bytes of [`Detector::footprint`](super::Detector::footprint).
    pub state_memory: Option<u64>,
    /// `limits.connections_per_device`.
    pub connections_per_device: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { tracked_connections: None, state_memory: None, connections_per_device: 250_000 }
    }
}

impl Limits {
    /// Whether a limit holds for all devices together.
    pub(crate) fn of_all(&self) -> bool {
        self.tracked_connections.is_some() || self.state_memory.is_some()
    }

    /// A device's connections are counted again when this many more have come since they left room for it; as many more go when they leave
    /// none.
    pub(crate) fn stride(&self) -> u32 {
        (self.connections_per_device / 32).max(1)
    }
}

/// Which limit was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// `limits.tracked_connections`
    TrackedConnections,
    /// `limits.state_memory`
    StateMemory,
    /// `limits.connections_per_device`
    ConnectionsPerDevice,
}

impl Limit {
    /// All of them.
    pub const ALL: [Limit; 3] = [Limit::TrackedConnections, Limit::StateMemory, Limit::ConnectionsPerDevice];

    /// The name of its key.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Limit::TrackedConnections => "tracked_connections",
            Limit::StateMemory => "state_memory",
            Limit::ConnectionsPerDevice => "connections_per_device",
        }
    }

    /// Why a finding was retracted for it, in words.
    pub(crate) const fn cause(self) -> &'static str {
        match self {
            Limit::TrackedConnections => "the connection was evicted to keep within limits.tracked_connections",
            Limit::StateMemory => "the connection was evicted to keep within limits.state_memory",
            Limit::ConnectionsPerDevice => "the connection was evicted to keep within limits.connections_per_device",
        }
    }
}

/// Reckoned bytes of a connection's slot, free places and the allocator's share included, as below.
pub(crate) const CONNECTION_BYTES: u64 = 20;
/// … of a destination with a few sightings, its index entry and its timer.
pub(crate) const DESTINATION_BYTES: u64 = 192;
/// … of a candidate with its texts, its timer and its watch.
pub(crate) const CANDIDATE_BYTES: u64 = 320;
/// … of a device with its vendors.
pub(crate) const DEVICE_BYTES: u64 = 512;

/// A lookback has at least so many classes, and fewer than twice as many.
const CLASSES: i64 = 2048;

/// How many connections of a tenant were last seen when, in classes of some minutes. What was last seen before the floor is not counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LastSeen {
    /// A class is 2^bits ticks.
    bits: u32,
    /// Classes before this one are gone.
    floor: i64,
    /// The class of the first count.
    first: i64,
    counts: VecDeque<u32>,
    total: u64,
    /// Classes before this one are older than the prevalence window; how many connections are in them.
    old_before: i64,
    old: u64,
}

impl LastSeen {
    /// For this lookback; what was last seen at or before `horizon`, the last instant of a class or `MIN`, is not counted.
    pub(crate) fn new(lookback: Span, horizon: Ticks) -> LastSeen {
        let bits = (lookback.0 / CLASSES).max(1).ilog2();
        let floor = if horizon == Ticks::MIN { i64::MIN } else { (horizon.0 >> bits) + 1 };
        LastSeen { bits, floor, first: 0, counts: VecDeque::new(), total: 0, old_before: i64::MIN, old: 0 }
    }

    /// Whether it is one for this lookback.
    pub(crate) fn fits(&self, lookback: Span) -> bool {
        self.bits == (lookback.0 / CLASSES).max(1).ilog2()
    }

    #[inline]
    fn class(&self, t: Ticks) -> i64 {
        t.0 >> self.bits
    }

    /// The last instant of a class.
    fn end(&self, class: i64) -> Ticks {
        Ticks(((class + 1) << self.bits) - 1)
    }

    /// How many are counted.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// How many were last seen before the prevalence window.
    pub(crate) fn old(&self) -> u64 {
        self.old
    }

    fn change(&mut self, class: i64, by: i32) {
        let place = usize::try_from(class - self.first).unwrap_or(usize::MAX);
        let Some(count) = self.counts.get_mut(place) else { return };
        let Some(changed) = count.checked_add_signed(by) else { return };
        *count = changed;
        self.total = self.total.wrapping_add_signed(i64::from(by));
        if class < self.old_before {
            self.old = self.old.wrapping_add_signed(i64::from(by));
        }
    }

    /// A connection was last seen at `t`.
    pub(crate) fn add(&mut self, t: Ticks) {
        let class = self.class(t);
        if class < self.floor {
            return;
        }
        if self.counts.is_empty() {
            self.first = class;
        }
        while class < self.first {
            self.counts.push_front(0);
            self.first -= 1;
        }
        let places = (class - self.first) as usize + 1;
        if places > self.counts.len() {
            self.counts.resize(places, 0);
        }
        self.change(class, 1);
    }

    /// One that was last seen at `t` is not kept any more.
    pub(crate) fn remove(&mut self, t: Ticks) {
        let class = self.class(t);
        if class >= self.floor {
            self.change(class, -1);
        }
    }

    /// One that was last seen at `from` was seen at `to`.
    #[inline]
    pub(crate) fn renew(&mut self, from: Ticks, to: Ticks) {
        if self.class(from) != self.class(to) {
            self.remove(from);
            self.add(to);
        }
    }

    /// Lets go what was last seen at or before `lookback` (classes that are wholly so), and knows what was before `prevalence`.
    pub(crate) fn pass(&mut self, lookback: Ticks, prevalence: Ticks) {
        let old_before = self.class(Ticks(prevalence.0.saturating_add(1)));
        if old_before > self.old_before {
            let from = self.old_before.max(self.first) - self.first;
            let to = old_before - self.first;
            if let (Ok(from), Ok(to)) = (usize::try_from(from), usize::try_from(to)) {
                let between = self.counts.iter().take(to).skip(from);
                self.old += between.map(|n| u64::from(*n)).sum::<u64>();
            }
            self.old_before = old_before;
        }
        let floor = self.class(Ticks(lookback.0.saturating_add(1)));
        while self.floor < floor {
            if self.first >= floor || self.drop_first().is_none() {
                self.floor = floor;
            }
        }
    }

    /// Takes the first class away; `None` when there is none.
    fn drop_first(&mut self) -> Option<(i64, u64)> {
        let n = u64::from(self.counts.pop_front()?);
        let class = self.first;
        self.total -= n;
        if class < self.old_before {
            self.old -= n;
        }
        self.first += 1;
        self.floor = self.floor.max(self.first);
        Some((class, n))
    }

    /// Lets the oldest go, a class of them that ended before `now`: the last instant of the class and how many.
    pub(crate) fn evict(&mut self, now: Ticks) -> Option<(Ticks, u64)> {
        let oldest = self.counts.iter().position(|n| *n > 0)?;
        if self.end(self.first + oldest as i64) >= now {
            return None;
        }
        for _ in 0..oldest {
            self.drop_first();
        }
        self.drop_first().map(|(class, n)| (self.end(class), n))
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(self.bits);
        for number in [self.floor, self.first, self.old_before] {
            out.put_u64(number as u64);
        }
        out.put_u32(self.counts.len() as u32);
        self.counts.iter().for_each(|n| out.put_u32(*n));
    }

    pub(crate) fn decode(bytes: &mut Get<'_>) -> Result<Self, WireError> {
        let bits = bytes.u32()?;
        let mut number = || bytes.u64().map(|n| n as i64);
        let (floor, first, old_before) = (number()?, number()?, number()?);
        let n = bytes.count(4)?;
        let counts = (0..n).map(|_| bytes.u32()).collect::<Result<VecDeque<u32>, WireError>>()?;
        if bits > 60
            || first.checked_add(n as i64).is_none_or(|end| end > i64::MAX >> bits)
            || (n > 0 && (first < floor || first < -1 << 62 >> bits))
        {
            return Err(WireError::Invalid("classes of last-seen instants"));
        }
        let each = || counts.iter().map(|n| u64::from(*n)).zip(first..);
        let (total, old) = (each().map(|(n, _)| n).sum(), each().filter(|(_, class)| *class < old_before).map(|(n, _)| n).sum());
        Ok(LastSeen { bits, floor, first, counts, total, old_before, old })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever comes and goes, the counts are those of a list of instants, also after a copy.
        #[test]
        fn counts_are_those_of_a_list(steps in prop::collection::vec((0i64..40, 0i64..4000, 0u8..6), 1..200)) {
            let (lookback, prevalence) = (Span(2048 * 4), Span(900));
            let mut seen = LastSeen::new(lookback, Ticks::MIN);
            let (mut list, mut now, mut floor) = (Vec::<i64>::new(), 10_000i64, i64::MIN);
            for (step, age, what) in steps {
                now += step * 50;
                seen.pass(Ticks(now).minus(lookback), Ticks(now).minus(prevalence));
                floor = floor.max((now - lookback.0 + 1) >> 2);
                list.retain(|t| t >> 2 >= floor);
                match what {
                    0 if !list.is_empty() => {
                        let t = list.swap_remove(age as usize % list.len());
                        seen.remove(Ticks(t));
                    }
                    1 if !list.is_empty() => {
                        let at = age as usize % list.len();
                        seen.renew(Ticks(list[at]), Ticks(now));
                        list[at] = now;
                    }
                    2 => {
                        let oldest = list.iter().map(|t| t >> 2).min().filter(|class| (class + 1) * 4 - 1 < now);
                        let gone = oldest.map(|class| (Ticks((class + 1) * 4 - 1), list.iter().filter(|t| *t >> 2 == class).count() as u64));
                        prop_assert_eq!(seen.evict(Ticks(now)), gone);
                        if let Some(class) = oldest {
                            list.retain(|t| t >> 2 != class);
                            floor = floor.max(class + 1);
                        }
                    }
                    _ => {
                        seen.add(Ticks(now - age));
                        if (now - age) >> 2 >= floor {
                            list.push(now - age);
                        }
                    }
                }
                prop_assert_eq!(seen.total(), list.len() as u64);
                prop_assert_eq!(seen.old(), list.iter().filter(|t| **t >> 2 < (now - prevalence.0 + 1) >> 2).count() as u64);
                let mut bytes = Vec::new();
                seen.encode(&mut bytes);
                prop_assert_eq!(LastSeen::decode(&mut Get(&bytes)).unwrap(), seen.clone());
            }
        }
    }
}
