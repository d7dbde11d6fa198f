//! A device's connections: (destination, port) → last event time, or the live candidate. 16 bytes a slot.
//!
//! Open addressing with linear probing in one exact allocation; the capacity need not be a power of two, so growth by half
//! keeps the slack low. Expired entries are dropped when the table would have to grow, not by a scan of their own.

use super::wire::{Get, Put, WireError};
use crate::time::Ticks;

/// The code of a null port, which is a group of its own.
pub(crate) const NULL_PORT: u32 = 0x1_0000;
const PORT_MASK: u32 = 0x1_FFFF;
const CANDIDATE: u32 = 1 << 31;
const FREE: u32 = u32::MAX;

/// A port as tables keep it.
#[inline]
pub(crate) fn port_code(port: Option<u16>) -> u32 {
    port.map_or(NULL_PORT, u32::from)
}

/// The port that a code stands for.
#[inline]
pub(crate) fn port_of(code: u32) -> Option<u16> {
    u16::try_from(code).ok()
}

/// What is known of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// Event time of its last event.
    Last(Ticks),
    /// It has a live candidate, which keeps the last event time.
    Candidate(u32),
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Slot {
    destination: u32,
    port: u32,
    value: u64,
}

const EMPTY: Slot = Slot { destination: 0, port: FREE, value: 0 };

impl Slot {
    fn new(destination: u32, port: u32, known: Known) -> Slot {
        match known {
            Known::Last(t) => Slot { destination, port, value: t.0 as u64 },
            Known::Candidate(id) => Slot { destination, port: port | CANDIDATE, value: u64::from(id) },
        }
    }

    #[inline]
    fn is_key(&self, destination: u32, port: u32) -> bool {
        self.port != FREE && self.destination == destination && self.port & PORT_MASK == port
    }

    fn known(&self) -> Known {
        if self.port & CANDIDATE == 0 { Known::Last(Ticks(self.value as i64)) } else { Known::Candidate(self.value as u32) }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Connections {
    slots: Box<[Slot]>,
    len: u32,
}

#[inline]
fn home(destination: u32, port: u32, capacity: usize) -> usize {
    let mixed = (u64::from(destination) << 17 | u64::from(port)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (((mixed >> 32) * capacity as u64) >> 32) as usize
}

impl Connections {
    pub(crate) fn len(&self) -> usize {
        self.len as usize
    }

    #[inline]
    fn position(&self, destination: u32, port: u32) -> Option<usize> {
        let capacity = self.slots.len();
        if capacity == 0 {
            return None;
        }
        let mut at = home(destination, port, capacity);
        loop {
            let slot = self.slots.get(at)?;
            if slot.port == FREE {
                return None;
            }
            if slot.is_key(destination, port) {
                return Some(at);
            }
            at += 1;
            if at == capacity {
                at = 0;
            }
        }
    }

    #[inline]
    pub(crate) fn get(&self, destination: u32, port: u32) -> Option<Known> {
        self.position(destination, port).and_then(|at| self.slots.get(at)).map(Slot::known)
    }

    /// Sets what is known of a connection that is in the table; false when it is not.
    #[inline]
    pub(crate) fn replace(&mut self, destination: u32, port: u32, known: Known) -> bool {
        let Some(slot) = self.position(destination, port).and_then(|at| self.slots.get_mut(at)) else { return false };
        *slot = Slot::new(destination, port, known);
        true
    }

    /// Adds a connection that is not in the table. Entries whose last event is at or before `expired` may be dropped for it;
    /// each is told to `dropped`.
    pub(crate) fn insert(&mut self, destination: u32, port: u32, known: Known, expired: Ticks, dropped: impl FnMut(u32)) {
        let capacity = self.slots.len();
        if (self.len as usize + 1) * 8 > capacity * 7 {
            self.make_room(expired, dropped);
        }
        self.place(Slot::new(destination, port, known));
        self.len += 1;
    }

    fn place(&mut self, slot: Slot) {
        let capacity = self.slots.len();
        let mut at = home(slot.destination, slot.port & PORT_MASK, capacity);
        while let Some(place) = self.slots.get_mut(at) {
            if place.port == FREE {
                *place = slot;
                return;
            }
            at = if at + 1 == capacity { 0 } else { at + 1 };
        }
    }

    fn make_room(&mut self, expired: Ticks, mut dropped: impl FnMut(u32)) {
        let old = std::mem::take(&mut self.slots);
        let is_live = |slot: &Slot| slot.port != FREE && !matches!(slot.known(), Known::Last(t) if t <= expired);
        let live = old.iter().filter(|slot| is_live(slot)).count();
        let capacity = if live == 0 && expired == Ticks::MAX { 0 } else { ((live + 1) * 3 / 2).max(4) };
        self.slots = vec![EMPTY; capacity].into_boxed_slice();
        self.len = live as u32;
        for slot in &old {
            if is_live(slot) {
                self.place(*slot);
            } else if slot.port != FREE {
                dropped(slot.destination);
            }
        }
    }

    /// Removes everything that is not a candidate's; the destinations of removed entries are told to `dropped`.
    pub(crate) fn clear(&mut self, dropped: impl FnMut(u32)) {
        self.make_room(Ticks::MAX, dropped);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, u32, Known)> + '_ {
        self.slots.iter().filter(|s| s.port != FREE).map(|s| (s.destination, s.port & PORT_MASK, s.known()))
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(self.len);
        for slot in self.slots.iter().filter(|s| s.port != FREE) {
            out.put_u32(slot.destination);
            out.put_u32(slot.port);
            out.put_u64(slot.value);
        }
    }

    pub(crate) fn decode(bytes: &mut Get<'_>) -> Result<Self, WireError> {
        let n = bytes.count(16)?;
        if n == 0 {
            return Ok(Connections::default());
        }
        let mut table = Connections { slots: vec![EMPTY; ((n + 1) * 5 / 4).max(4)].into_boxed_slice(), len: n as u32 };
        for _ in 0..n {
            let slot = Slot { destination: bytes.u32()?, port: bytes.u32()?, value: bytes.u64()? };
            if slot.port & !CANDIDATE > NULL_PORT {
                return Err(WireError::Invalid("port"));
            }
            table.place(slot);
        }
        Ok(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn it_is_a_map_that_forgets_only_what_expired(steps in prop::collection::vec((0u32..30, 0u32..3, 0i64..100), 0..300)) {
            let mut table = Connections::default();
            let mut model: BTreeMap<(u32, u32), Known> = BTreeMap::new();
            for (i, (destination, port, t)) in steps.into_iter().enumerate() {
                let port = if port == 2 { NULL_PORT } else { port };
                let known = if i % 7 == 0 { Known::Candidate(t as u32) } else { Known::Last(Ticks(t + i as i64)) };
                let expired = Ticks(i as i64 - 60);
                if !table.replace(destination, port, known) {
                    prop_assert!(model.get(&(destination, port)).is_none_or(|k| matches!(k, Known::Last(l) if *l <= expired)));
                    let mut gone = Vec::new();
                    table.insert(destination, port, known, expired, |d| gone.push(d));
                    model.retain(|_, k| !matches!(k, Known::Last(l) if *l <= expired));
                }
                model.insert((destination, port), known);
                for (&(d, p), k) in &model {
                    prop_assert_eq!(table.get(d, p), Some(*k));
                }
            }
            let mut bytes = Vec::new();
            table.encode(&mut bytes);
            let back = Connections::decode(&mut Get(&bytes)).unwrap();
            let rows = |t: &Connections| t.iter().map(|(d, p, k)| (d, p, format!("{k:?}"))).collect::<std::collections::BTreeSet<_>>();
            prop_assert_eq!(rows(&back), rows(&table));
        }
    }
}
