//! A table of rows with stable `u32` ids, which can be copied row by row while it goes on changing.
//!
//! Invariant (INV-copy): the copy holds every row as it was at [`Slab::begin_copy`]. A row is encoded before its first change
//! after that instant, or by [`Slab::copy_some`], whichever comes first; rows born later are left out. All changes go through
//! [`Slab::get_mut`], [`Slab::insert`] and [`Slab::remove`], so no caller can forget. What a row's bytes are is the row's business.
//!
//! Rows live in chunks, so growing never moves them: no stall and no slack at millions of rows.

use super::wire::{Get, Put, WireError};

const CHUNK: usize = 1 << CHUNK_BITS;
const CHUNK_BITS: u32 = 10;

/// A row that can be written to a snapshot and read back.
pub(crate) trait Row: Sized {
    fn encode(&self, out: &mut Vec<u8>);
    fn decode(bytes: &mut Get<'_>) -> Result<Self, WireError>;
}

#[derive(Debug)]
struct Slot<T> {
    /// The copy that already holds (or must not hold) this row.
    copied: u32,
    row: Option<T>,
}

#[derive(Debug)]
pub(crate) struct Slab<T> {
    chunks: Vec<Vec<Slot<T>>>,
    free: Vec<u32>,
    slots: u32,
    copy: u32,
    /// Next slot that `copy_some` looks at, and the end; equal when no copy is under way.
    cursor: u32,
    cursor_end: u32,
    out: Vec<u8>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab { chunks: Vec::new(), free: Vec::new(), slots: 0, copy: 0, cursor: 0, cursor_end: 0, out: Vec::new() }
    }
}

impl<T: Row> Slab<T> {
    /// Rows present.
    pub(crate) fn len(&self) -> usize {
        self.slots as usize - self.free.len()
    }

    /// One past the greatest id in use.
    pub(crate) fn id_end(&self) -> u32 {
        self.slots
    }

    #[inline]
    fn slot(&self, id: u32) -> Option<&Slot<T>> {
        self.chunks.get((id >> CHUNK_BITS) as usize)?.get(id as usize % CHUNK)
    }

    #[inline]
    fn slot_mut(&mut self, id: u32) -> Option<&mut Slot<T>> {
        self.chunks.get_mut((id >> CHUNK_BITS) as usize)?.get_mut(id as usize % CHUNK)
    }

    #[inline]
    pub(crate) fn get(&self, id: u32) -> Option<&T> {
        self.slot(id)?.row.as_ref()
    }

    /// The row at an id that the tables themselves hand out.
    #[inline]
    pub(crate) fn row(&self, id: u32) -> &T {
        self.get(id).expect("INV-ids: an id in a table names a row")
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, id: u32) -> Option<&mut T> {
        self.save(id);
        self.slot_mut(id)?.row.as_mut()
    }

    #[inline]
    pub(crate) fn row_mut(&mut self, id: u32) -> &mut T {
        self.get_mut(id).expect("INV-ids: an id in a table names a row")
    }

    pub(crate) fn insert(&mut self, row: T) -> u32 {
        let copied = self.copy;
        if let Some(id) = self.free.pop() {
            let slot = self.slot_mut(id).expect("INV-ids: a free id names a slot");
            *slot = Slot { copied, row: Some(row) };
            return id;
        }
        let id = self.slots;
        self.place(id, Slot { copied, row: Some(row) });
        id
    }

    fn place(&mut self, id: u32, slot: Slot<T>) {
        if (id as usize).is_multiple_of(CHUNK) {
            // The first chunk grows as it fills: a table with three rows costs three rows.
            self.chunks.push(if id == 0 { Vec::new() } else { Vec::with_capacity(CHUNK) });
        }
        self.chunks.last_mut().expect("INV-ids: a chunk was just made").push(slot);
        self.slots = id + 1;
    }

    pub(crate) fn remove(&mut self, id: u32) -> Option<T> {
        self.save(id);
        let row = self.slot_mut(id)?.row.take()?;
        self.free.push(id);
        Some(row)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.chunks.iter().flatten().enumerate().filter_map(|(id, slot)| Some((id as u32, slot.row.as_ref()?)))
    }

    #[inline]
    fn save(&mut self, id: u32) {
        if self.cursor < self.cursor_end {
            self.save_for_copy(id);
        }
    }

    #[inline(never)]
    fn save_for_copy(&mut self, id: u32) {
        let copy = self.copy;
        let Some(slot) = self.chunks.get_mut((id >> CHUNK_BITS) as usize).and_then(|c| c.get_mut(id as usize % CHUNK)) else { return };
        if slot.copied != copy {
            slot.copied = copy;
            if let Some(row) = &slot.row {
                self.out.put_u32(id);
                row.encode(&mut self.out);
            }
        }
    }

    /// Begins a copy of the table as it is now.
    pub(crate) fn begin_copy(&mut self) {
        debug_assert_eq!(self.cursor, self.cursor_end, "INV-copy: one copy at a time");
        self.copy = self.copy.wrapping_add(1);
        self.cursor = 0;
        self.cursor_end = self.slots;
    }

    /// Encodes rows until about `budget` more bytes stand in the output; true when the copy is whole.
    pub(crate) fn copy_some(&mut self, budget: usize) -> bool {
        let until = self.out.len().saturating_add(budget);
        while self.cursor < self.cursor_end && self.out.len() < until {
            self.save_for_copy(self.cursor);
            self.cursor += 1;
        }
        self.cursor == self.cursor_end
    }

    /// Bytes of the copy that wait to be taken.
    pub(crate) fn copied_len(&self) -> usize {
        self.out.len()
    }

    /// Takes what has been encoded so far: whole rows.
    pub(crate) fn take_copied(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// Gives a copy up.
    pub(crate) fn abandon_copy(&mut self) {
        self.cursor = self.cursor_end;
        self.out = Vec::new();
    }

    /// Reads rows that a copy wrote, in any order; [`Slab::finish_load`] must follow the last.
    pub(crate) fn load(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        let mut get = Get(bytes);
        while !get.is_empty() {
            let id = get.u32()?;
            if id >= u32::MAX - 1 || id as usize > self.slots as usize + (1 << 27) {
                return Err(WireError::Invalid("row id"));
            }
            while self.slots <= id {
                self.place(self.slots, Slot { copied: self.copy, row: None });
            }
            let row = T::decode(&mut get)?;
            let slot = self.slot_mut(id).ok_or(WireError::Invalid("row id"))?;
            if slot.row.replace(row).is_some() {
                return Err(WireError::Invalid("a row twice"));
            }
        }
        Ok(())
    }

    /// Collects the holes between loaded rows.
    pub(crate) fn finish_load(&mut self) {
        self.free = (0..self.slots).rev().filter(|id| self.get(*id).is_none()).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    impl Row for u64 {
        fn encode(&self, out: &mut Vec<u8>) {
            out.put_u64(*self);
        }
        fn decode(bytes: &mut Get<'_>) -> Result<Self, WireError> {
            bytes.u64()
        }
    }

    fn contents(slab: &Slab<u64>) -> BTreeMap<u32, u64> {
        slab.iter().map(|(id, row)| (id, *row)).collect()
    }

    proptest! {
        /// Whatever is changed while it is made, a copy is the table as it was when it began.
        #[test]
        fn a_copy_is_the_table_at_its_beginning(before in prop::collection::vec((0u8..3, 0u32..40, any::<u64>()), 0..120),
                                                during in prop::collection::vec((0u8..4, 0u32..60, any::<u64>()), 0..120)) {
            let mut slab = Slab::<u64>::default();
            let mut out = Vec::new();
            let apply = |slab: &mut Slab<u64>, out: &mut Vec<u8>, (op, id, value)| match op {
                0 => { slab.insert(value); }
                1 => { slab.remove(id); }
                2 => { if let Some(row) = slab.get_mut(id) { *row = value } }
                _ => { slab.copy_some(24); out.extend(slab.take_copied()); }
            };
            for step in before { apply(&mut slab, &mut out, step) }
            let wanted = contents(&slab);
            slab.begin_copy();
            for step in during { apply(&mut slab, &mut out, step) }
            while !slab.copy_some(7) {}
            out.extend(slab.take_copied());
            let mut loaded = Slab::<u64>::default();
            loaded.load(&out).unwrap();
            loaded.finish_load();
            prop_assert_eq!(contents(&loaded), wanted);
            prop_assert_eq!(loaded.len() + loaded.free.len(), loaded.slots as usize);
        }
    }
}
