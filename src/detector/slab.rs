//! A table of rows with stable `u32` ids, which can be copied row by row while it goes on changing.
//!
//! Invariant (INV-copy): the copy holds every row as it was at [`Slab::begin_copy`]. A row is encoded before its first change
//! after that instant, or by [`Slab::copy_some`], whichever comes first; rows born later are left out. All changes go through
//! [`Slab::get_mut`], [`Slab::insert`] and [`Slab::remove`], so no caller can forget. What a row's bytes are is the row's business.
//!
//! Rows live in chunks, so growing never moves them: no stall and no slack at millions of rows. New rows go to the first
//! chunk with room, and a chunk whose rows are all gone gives its memory back: after the first days, when everything is new, the table of
//! candidates shrinks to what a normal day needs.

use super::pool::CHUNK_BYTES;
use super::wire::{Get, Put, WireError};
use std::collections::BTreeSet;

/// A row that can be written to a snapshot and read back.
pub(crate) trait Row: Sized {
    /// Where the lists of these rows lie.
    type Lists: Lists;
    fn encode(&self, lists: &Self::Lists, out: &mut Vec<u8>);
    /// Reads the row that will have this id.
    fn decode(bytes: &mut Get<'_>, id: u32, lists: &mut Self::Lists) -> Result<Self, WireError>;
    /// Gives its lists back.
    fn free(&mut self, _: &mut Self::Lists) {}
    /// The block of one of its lists has moved.
    fn follow(&mut self, _list: u8, _moved: Moved) {}
}

/// A block that has moved: whose it is, and where it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) owner: u32,
    pub(crate) to: u32,
}

/// The lists of a table's rows (see `pool`).
pub(crate) trait Lists: Default {
    /// The number of the list and the next move, in the order in which they happened.
    fn next_move(&mut self) -> Option<(u8, Moved)>;
}

impl Lists for () {
    fn next_move(&mut self) -> Option<(u8, Moved)> {
        None
    }
}

#[derive(Debug)]
struct Chunk<T> {
    /// Fewer than a chunk's worth in the last one, and in one that was emptied and filled again.
    rows: Vec<Option<T>>,
    live: u32,
    /// Places before the end that hold no row.
    free: Vec<u16>,
    /// A bit for each row that the copy of this number already holds, or must not hold.
    copied: Vec<u64>,
    copy: u32,
}

#[derive(Debug)]
pub(crate) struct Slab<T: Row> {
    pub(crate) lists: T::Lists,
    chunks: Vec<Chunk<T>>,
    /// Chunks that have room.
    room: BTreeSet<u32>,
    len: usize,
    copy: u32,
    /// Next row that `copy_some` looks at, and the end; equal when no copy is under way.
    cursor: u32,
    cursor_end: u32,
    out: Vec<u8>,
}

impl<T: Row> Default for Slab<T> {
    fn default() -> Self {
        Slab {
            lists: T::Lists::default(),
            chunks: Vec::new(),
            room: BTreeSet::new(),
            len: 0,
            copy: 0,
            cursor: 0,
            cursor_end: 0,
            out: Vec::new(),
        }
    }
}

impl<T> Chunk<T> {
    /// Rows in a chunk, and its logarithm: a power of two, so that an id is split by shifting.
    const ROWS: usize = 1 << Self::BITS;
    const BITS: u32 = (CHUNK_BYTES / size_of::<Option<T>>()).ilog2();

    fn new() -> Self {
        Chunk { rows: Vec::new(), live: 0, free: Vec::new(), copied: Vec::new(), copy: 0 }
    }

    fn has_room(&self) -> bool {
        !self.free.is_empty() || self.rows.len() < Self::ROWS
    }

    /// Marks a row as dealt with by a copy; true when it was not yet.
    fn mark(&mut self, at: usize, copy: u32) -> bool {
        if self.copy != copy {
            self.copy = copy;
            self.copied.clear();
            self.copied.resize(Self::ROWS.div_ceil(64), 0);
        }
        let (word, bit) = (at / 64, 1u64 << (at % 64));
        let Some(word) = self.copied.get_mut(word) else { return false };
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }
}

impl<T: Row> Slab<T> {
    /// Rows present.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// No id in use is as great as this.
    pub(crate) fn id_end(&self) -> u32 {
        let last = self.chunks.last().map_or(0, |c| c.rows.len());
        ((self.chunks.len().saturating_sub(1) << Chunk::<T>::BITS) + last) as u32
    }

    #[inline]
    pub(crate) fn get(&self, id: u32) -> Option<&T> {
        self.chunks.get((id >> Chunk::<T>::BITS) as usize)?.rows.get(id as usize % Chunk::<T>::ROWS)?.as_ref()
    }

    /// Without the bookkeeping for a copy.
    #[inline]
    fn quietly(&mut self, id: u32) -> Option<&mut T> {
        self.chunks.get_mut((id >> Chunk::<T>::BITS) as usize)?.rows.get_mut(id as usize % Chunk::<T>::ROWS)?.as_mut()
    }

    /// The row at an id that the tables themselves hand out.
    #[inline]
    pub(crate) fn row(&self, id: u32) -> &T {
        self.get(id).expect("INV-ids: an id in a table names a row")
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, id: u32) -> Option<&mut T> {
        self.save(id);
        self.quietly(id)
    }

    #[inline]
    pub(crate) fn row_mut(&mut self, id: u32) -> &mut T {
        self.get_mut(id).expect("INV-ids: an id in a table names a row")
    }

    /// Changes a row and its lists.
    #[inline]
    pub(crate) fn edit<R>(&mut self, id: u32, change: impl FnOnce(&mut T, &mut T::Lists) -> R) -> R {
        self.save(id);
        // Not by `quietly`: the lists are borrowed beside the row.
        let row = self.chunks.get_mut((id >> Chunk::<T>::BITS) as usize).and_then(|c| c.rows.get_mut(id as usize % Chunk::<T>::ROWS));
        let row = row.and_then(Option::as_mut).expect("INV-ids: an id in a table names a row");
        let result = change(row, &mut self.lists);
        self.follow_moves();
        result
    }

    /// Tells rows where their blocks are now. What a copy holds of a row doesn't depend on it.
    #[inline]
    fn follow_moves(&mut self) {
        while let Some((list, moved)) = self.lists.next_move() {
            if let Some(row) = self.quietly(moved.owner) {
                row.follow(list, moved);
            }
        }
    }

    pub(crate) fn insert(&mut self, row: T) -> u32 {
        self.insert_with(|_, _| row)
    }

    /// Inserts a row that is made of its id and the lists.
    pub(crate) fn insert_with(&mut self, row: impl FnOnce(u32, &mut T::Lists) -> T) -> u32 {
        let number = self.room.first().copied().unwrap_or_else(|| self.add_chunk());
        let copying = self.cursor < self.cursor_end;
        let chunk = self.chunks.get_mut(number as usize).expect("INV-ids: a chunk with room is there");
        chunk.live += 1;
        let at = chunk.free.pop().map_or(chunk.rows.len(), usize::from);
        let id = number << Chunk::<T>::BITS | at as u32;
        let row = row(id, &mut self.lists);
        match chunk.rows.get_mut(at) {
            Some(place) => *place = Some(row),
            None => {
                if number > 0 && chunk.rows.capacity() == 0 {
                    // The first chunk grows as it fills: a table with three rows costs three rows.
                    chunk.rows.reserve_exact(Chunk::<T>::ROWS);
                }
                chunk.rows.push(Some(row));
            }
        }
        if copying {
            chunk.mark(at, self.copy);
        }
        if !chunk.has_room() {
            self.room.remove(&number);
        }
        self.len += 1;
        id
    }

    fn add_chunk(&mut self) -> u32 {
        let number = self.chunks.len() as u32;
        self.chunks.push(Chunk::new());
        self.room.insert(number);
        number
    }

    pub(crate) fn remove(&mut self, id: u32) -> Option<T> {
        self.save(id);
        let number = id >> Chunk::<T>::BITS;
        let chunk = self.chunks.get_mut(number as usize)?;
        let mut row = chunk.rows.get_mut(id as usize % Chunk::<T>::ROWS)?.take()?;
        chunk.free.push((id as usize % Chunk::<T>::ROWS) as u16);
        chunk.live -= 1;
        if chunk.live == 0 && number > 0 {
            (chunk.rows, chunk.free) = (Vec::new(), Vec::new());
        }
        self.room.insert(number);
        self.len -= 1;
        row.free(&mut self.lists);
        self.follow_moves();
        Some(row)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.chunks.iter().zip(0u32..).flat_map(|(chunk, number)| {
            chunk.rows.iter().zip(number << Chunk::<T>::BITS..).filter_map(|(row, id)| Some((id, row.as_ref()?)))
        })
    }

    #[inline]
    fn save(&mut self, id: u32) {
        if self.cursor < self.cursor_end {
            self.save_for_copy(id);
        }
    }

    #[inline(never)]
    fn save_for_copy(&mut self, id: u32) {
        let (copy, at) = (self.copy, id as usize % Chunk::<T>::ROWS);
        let Some(chunk) = self.chunks.get_mut((id >> Chunk::<T>::BITS) as usize) else { return };
        if chunk.rows.get(at).is_some_and(Option::is_some)
            && chunk.mark(at, copy)
            && let Some(Some(row)) = chunk.rows.get(at)
        {
            self.out.put_u32(id);
            row.encode(&self.lists, &mut self.out);
        }
    }

    /// Begins a copy of the table as it is now.
    pub(crate) fn begin_copy(&mut self) {
        debug_assert_eq!(self.cursor, self.cursor_end, "INV-copy: one copy at a time");
        self.copy = self.copy.wrapping_add(1);
        self.cursor = 0;
        self.cursor_end = self.id_end();
    }

    /// Encodes rows until about `budget` more bytes stand in the output; true when the copy is whole.
    pub(crate) fn copy_some(&mut self, budget: usize) -> bool {
        let until = self.out.len().saturating_add(budget);
        while self.cursor < self.cursor_end && self.out.len() < until {
            if self.chunks.get((self.cursor >> Chunk::<T>::BITS) as usize).is_none_or(|c| c.live == 0) {
                self.cursor = ((self.cursor >> Chunk::<T>::BITS) + 1).saturating_mul(Chunk::<T>::ROWS as u32).min(self.cursor_end);
                continue;
            }
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
            let (number, at) = ((id >> Chunk::<T>::BITS) as usize, id as usize % Chunk::<T>::ROWS);
            if id >= u32::MAX - 1 || number > self.chunks.len() + (1 << (27 - Chunk::<T>::BITS)) {
                return Err(WireError::Invalid("row id"));
            }
            while self.chunks.len() <= number {
                self.add_chunk();
            }
            let row = T::decode(&mut get, id, &mut self.lists)?;
            let chunk = self.chunks.get_mut(number).ok_or(WireError::Invalid("row id"))?;
            if number > 0 && chunk.rows.capacity() == 0 {
                chunk.rows.reserve_exact(Chunk::<T>::ROWS);
            }
            while chunk.rows.len() <= at {
                chunk.rows.push(None);
            }
            let place = chunk.rows.get_mut(at).ok_or(WireError::Invalid("row id"))?;
            if place.replace(row).is_some() {
                return Err(WireError::Invalid("a row twice"));
            }
            chunk.live += 1;
            self.len += 1;
        }
        Ok(())
    }

    /// Collects the holes between loaded rows.
    pub(crate) fn finish_load(&mut self) {
        self.room.clear();
        for (chunk, number) in self.chunks.iter_mut().zip(0u32..) {
            chunk.free = chunk.rows.iter().enumerate().rev().filter(|(_, row)| row.is_none()).map(|(at, _)| at as u16).collect();
            if chunk.has_room() {
                self.room.insert(number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: usize = Chunk::<u64>::ROWS;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    impl Row for u64 {
        type Lists = ();
        fn encode(&self, (): &(), out: &mut Vec<u8>) {
            out.put_u64(*self);
        }
        fn decode(bytes: &mut Get<'_>, _: u32, (): &mut ()) -> Result<Self, WireError> {
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
            prop_assert_eq!(loaded.len(), loaded.iter().count());
            // Holes are filled before the table grows.
            let (rows, end) = (loaded.len() as u32, loaded.id_end());
            for _ in rows..end { loaded.insert(1); }
            prop_assert_eq!((loaded.len() as u32, loaded.id_end()), (end, end));
        }
    }

    #[test]
    fn memory_of_chunks_that_have_emptied_is_given_back() {
        let mut slab = Slab::<u64>::default();
        let ids: Vec<u32> = (0..10 * CHUNK as u64).map(|v| slab.insert(v)).collect();
        let kept = [ids[5], ids[4 * CHUNK + 1]];
        ids.iter().filter(|id| !kept.contains(id)).for_each(|id| assert!(slab.remove(*id).is_some()));
        assert_eq!(slab.chunks.iter().filter(|c| c.rows.capacity() > 0).count(), 2);
        assert_eq!(slab.iter().map(|(_, v)| *v).collect::<Vec<_>>(), [5, 4 * CHUNK as u64 + 1]);
        // What comes next fills the lowest places, never one that is taken.
        let mut again: Vec<u32> = (0..3 * CHUNK as u64).map(|v| slab.insert(v)).collect();
        again.extend(kept);
        again.sort_unstable();
        again.dedup();
        assert_eq!(again.len(), 3 * CHUNK + 2);
        assert_eq!((slab.len(), slab.get(kept[0]), slab.get(kept[1])), (again.len(), Some(&5), Some(&(4 * CHUNK as u64 + 1))));
        assert!(again[3 * CHUNK] < 4 * CHUNK as u32, "all but the one that stayed are in the first chunks");
    }
}
