//! A device's connections: (destination, port) → last event time, or the live candidate. 13 bytes a slot.
//!
//! Open addressing with linear probing in one block of a pool; the capacity need not be a power of two, so growth by an eighth
//! keeps the slack low. Expired entries are dropped when the table would have to grow, not by a scan of their own.

use super::pool::{Pool, capacity, class_for};
use super::slab::Moved;
use super::wire::{Get, Put, WireError};
use crate::time::Ticks;

/// The code of a null port, which is a group of its own.
pub(crate) const NULL_PORT: u32 = 0x1_0000;
/// In a slot's destination: the port is null. Ids of destinations stay below it.
const NULL_PORT_MARK: u32 = 1 << 31;
const FREE: u32 = u32::MAX;
/// In a slot's value: it is a candidate's id, not an instant.
const CANDIDATE: u64 = 1 << 55;
/// In the port of a row on disk, the same.
const CANDIDATE_ON_DISK: u32 = 1 << 31;

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

/// A connection, or a free place. Instants are kept from 1970 to 2084: what lies outside is taken for the nearest of these.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Slot {
    destination: [u8; 4],
    port: [u8; 2],
    value: [u8; 7],
}

impl Default for Slot {
    fn default() -> Self {
        Slot { destination: FREE.to_le_bytes(), port: [0; 2], value: [0; 7] }
    }
}

impl Slot {
    #[inline]
    fn new((destination, port): ([u8; 4], [u8; 2]), known: Known) -> Slot {
        let value = match known {
            Known::Last(t) => t.0.clamp(0, CANDIDATE as i64 - 1) as u64,
            Known::Candidate(id) => CANDIDATE | u64::from(id),
        };
        let [a, b, c, d, e, f, g, _] = value.to_le_bytes();
        Slot { destination, port, value: [a, b, c, d, e, f, g] }
    }

    /// How a connection's key stands in its slot.
    #[inline]
    fn key(destination: u32, port: u32) -> ([u8; 4], [u8; 2]) {
        let mark = if port == NULL_PORT { NULL_PORT_MARK } else { 0 };
        ((destination | mark).to_le_bytes(), (port as u16).to_le_bytes())
    }

    #[inline]
    fn is_free(&self) -> bool {
        u32::from_le_bytes(self.destination) == FREE
    }

    #[inline]
    fn destination(&self) -> u32 {
        u32::from_le_bytes(self.destination) & !NULL_PORT_MARK
    }

    #[inline]
    fn port(&self) -> u32 {
        let is_null = u32::from_le_bytes(self.destination) & NULL_PORT_MARK != 0;
        if is_null { NULL_PORT } else { u32::from(u16::from_le_bytes(self.port)) }
    }

    #[inline]
    fn known(&self) -> Known {
        let [a, b, c, d, e, f, g] = self.value;
        let value = u64::from_le_bytes([a, b, c, d, e, f, g, 0]);
        if value & CANDIDATE == 0 { Known::Last(Ticks(value as i64)) } else { Known::Candidate(value as u32) }
    }
}

/// Where a device's table lies in the pool of all.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Connections {
    at: u32,
    len: u32,
    class: u8,
}

#[inline]
fn home(destination: u32, port: u32, capacity: usize) -> usize {
    let mixed = (u64::from(destination) << 17 | u64::from(port)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (((mixed >> 32) * capacity as u64) >> 32) as usize
}

/// Puts a slot into the first free place from its home on.
fn place(slots: &mut [Slot], slot: Slot) {
    let mut at = home(slot.destination(), slot.port(), slots.len());
    while let Some(place) = slots.get_mut(at) {
        if place.is_free() {
            *place = slot;
            return;
        }
        at = if at + 1 == slots.len() { 0 } else { at + 1 };
    }
}

/// The smallest class in which `n` connections leave an eighth of the places free.
fn class_with_room(n: usize) -> u8 {
    class_for((n * 8).div_ceil(7).max(4))
}

impl Connections {
    pub(crate) fn len(self) -> usize {
        self.len as usize
    }

    #[inline]
    fn position(self, slots: &[Slot], destination: u32, port: u32) -> Option<usize> {
        if slots.is_empty() {
            return None;
        }
        let (key, mut at) = (Slot::key(destination, port), home(destination, port, slots.len()));
        loop {
            let slot = slots.get(at)?;
            if slot.destination == key.0 && slot.port == key.1 {
                return Some(at);
            }
            if slot.is_free() {
                return None;
            }
            at += 1;
            if at == slots.len() {
                at = 0;
            }
        }
    }

    #[inline]
    pub(crate) fn get(self, pool: &Pool<Slot>, destination: u32, port: u32) -> Option<Known> {
        let slots = pool.block(self.class, self.at);
        self.position(slots, destination, port).and_then(|at| slots.get(at)).map(Slot::known)
    }

    /// Sets what is known of a connection that is in the table; false when it is not.
    #[inline]
    pub(crate) fn replace(self, pool: &mut Pool<Slot>, destination: u32, port: u32, known: Known) -> bool {
        let slots = pool.block_mut(self.class, self.at);
        let Some(slot) = self.position(slots, destination, port).and_then(|at| slots.get_mut(at)) else { return false };
        *slot = Slot::new(Slot::key(destination, port), known);
        true
    }

    /// Adds a connection of the device `owner` that is not in the table. Entries whose last event is at or before `expired` may
    /// be dropped for it; each is told to `dropped`.
    pub(crate) fn insert(
        &mut self,
        pool: &mut Pool<Slot>,
        owner: u32,
        (destination, port, known): (u32, u32, Known),
        expired: Ticks,
        dropped: impl FnMut(u32),
    ) {
        if (self.len() + 1) * 8 > capacity(self.class) * 7 {
            self.make_room(pool, owner, 1, expired, dropped);
        }
        place(pool.block_mut(self.class, self.at), Slot::new(Slot::key(destination, port), known));
        self.len += 1;
    }

    /// Drops what has expired and takes a block with room for `more`.
    fn make_room(&mut self, pool: &mut Pool<Slot>, owner: u32, more: usize, expired: Ticks, mut dropped: impl FnMut(u32)) {
        let old = *self;
        let is_live = |slot: &Slot| !slot.is_free() && !matches!(slot.known(), Known::Last(t) if t <= expired);
        let mut live = Vec::with_capacity(old.len());
        for slot in pool.block(old.class, old.at) {
            if is_live(slot) {
                live.push(*slot);
            } else if !slot.is_free() {
                dropped(slot.destination());
            }
        }
        pool.free(old.class, old.at);
        *self = Connections { at: 0, len: live.len() as u32, class: 0 };
        if live.len() + more > 0 {
            self.class = class_with_room(live.len() + more);
            if capacity(self.class) * 7 / 8 < live.len() + live.len() / 16 {
                // With a few places only, the next few connections would all come here again.
                self.class += 1;
            }
            self.at = pool.alloc(self.class, owner);
            let slots = pool.block_mut(self.class, self.at);
            live.into_iter().for_each(|slot| place(slots, slot));
        }
    }

    /// Removes everything that is not a candidate's; the destinations of removed entries are told to `dropped`.
    pub(crate) fn clear(&mut self, pool: &mut Pool<Slot>, owner: u32, dropped: impl FnMut(u32)) {
        self.make_room(pool, owner, 0, Ticks::MAX, dropped);
    }

    /// Drops what was last seen at or before `forgotten`.
    pub(crate) fn drop_forgotten(&mut self, pool: &mut Pool<Slot>, owner: u32, forgotten: Ticks, dropped: impl FnMut(u32)) {
        self.make_room(pool, owner, 0, forgotten, dropped);
    }

    /// Gives the block back.
    pub(crate) fn free(&mut self, pool: &mut Pool<Slot>) {
        pool.free(self.class, self.at);
        *self = Connections::default();
    }

    /// Its block has moved.
    pub(crate) fn follow(&mut self, moved: Moved) {
        self.at = moved.to;
    }

    pub(crate) fn iter(self, pool: &Pool<Slot>) -> impl Iterator<Item = (u32, u32, Known)> {
        pool.block(self.class, self.at).iter().filter(|s| !s.is_free()).map(|s| (s.destination(), s.port(), s.known()))
    }

    pub(crate) fn encode(self, pool: &Pool<Slot>, out: &mut Vec<u8>) {
        out.put_u32(self.len);
        for (destination, port, known) in self.iter(pool) {
            out.put_u32(destination);
            match known {
                Known::Last(t) => {
                    out.put_u32(port);
                    out.put_ticks(t);
                }
                Known::Candidate(id) => {
                    out.put_u32(port | CANDIDATE_ON_DISK);
                    out.put_u64(u64::from(id));
                }
            }
        }
    }

    pub(crate) fn decode(bytes: &mut Get<'_>, pool: &mut Pool<Slot>, owner: u32) -> Result<Self, WireError> {
        let n = bytes.count(16)?;
        if n == 0 {
            return Ok(Connections::default());
        }
        let class = class_with_room(n);
        let table = Connections { at: pool.alloc(class, owner), len: n as u32, class };
        let slots = pool.block_mut(table.class, table.at);
        for _ in 0..n {
            let (destination, port, value) = (bytes.u32()?, bytes.u32()?, bytes.u64()?);
            let (is_candidate, port) = (port & CANDIDATE_ON_DISK != 0, port & !CANDIDATE_ON_DISK);
            if port > NULL_PORT || destination >= NULL_PORT_MARK - 1 || (is_candidate && value > u64::from(u32::MAX)) {
                return Err(WireError::Invalid("connection"));
            }
            let known = if is_candidate { Known::Candidate(value as u32) } else { Known::Last(Ticks(value as i64)) };
            place(slots, Slot::new(Slot::key(destination, port), known));
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
            let (mut pool, mut table) = (Pool::default(), Connections::default());
            let mut model: BTreeMap<(u32, u32), Known> = BTreeMap::new();
            for (i, (destination, port, t)) in steps.into_iter().enumerate() {
                let port = if port == 2 { NULL_PORT } else { port };
                let known = if i % 7 == 0 { Known::Candidate(t as u32) } else { Known::Last(Ticks(t + i as i64)) };
                let expired = Ticks(i as i64 - 60);
                if !table.replace(&mut pool, destination, port, known) {
                    prop_assert!(model.get(&(destination, port)).is_none_or(|k| matches!(k, Known::Last(l) if *l <= expired)));
                    let mut gone = Vec::new();
                    table.insert(&mut pool, 0, (destination, port, known), expired, |d| gone.push(d));
                    model.retain(|_, k| !matches!(k, Known::Last(l) if *l <= expired));
                }
                model.insert((destination, port), known);
                for (&(d, p), k) in &model {
                    prop_assert_eq!(table.get(&pool, d, p), Some(*k));
                }
            }
            let mut bytes = Vec::new();
            table.encode(&pool, &mut bytes);
            let back = Connections::decode(&mut Get(&bytes), &mut pool, 1).unwrap();
            let rows = |t: &Connections| t.iter(&pool).map(|(d, p, k)| (d, p, format!("{k:?}"))).collect::<std::collections::BTreeSet<_>>();
            prop_assert_eq!(rows(&back), rows(&table));
        }
    }
}
