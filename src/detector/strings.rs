//! Interned text: equal strings are kept once and named by a `u32`. Freed when the last holder lets go.
//!
//! Holders count their references through [`Strings::intern`]/[`Strings::retain`] and [`Strings::release`]; counts are not
//! persisted but recounted from the holders after a load. Id 0 is the empty string and is never freed.

use super::index::Index;
use super::pool::{List, Pool};
use super::slab::{Lists, Moved, Row, Slab};
use super::wire::{Get, Put, WireError};

/// The id of the empty string.
pub(crate) const EMPTY: u32 = 0;

/// A text; its bytes lie in the pool of all texts.
#[derive(Debug)]
pub(crate) struct Text(List);

/// The bytes of all texts.
#[derive(Debug, Default)]
pub(crate) struct Bytes(Pool<u8>);

impl Lists for Bytes {
    #[inline]
    fn next_move(&mut self) -> Option<(u8, Moved)> {
        self.0.next_move().map(|moved| (0, moved))
    }
}

impl Row for Text {
    type Lists = Bytes;

    fn encode(&self, bytes: &Bytes, out: &mut Vec<u8>) {
        out.put_bytes(bytes.0.items(self.0));
    }
    fn decode(bytes: &mut Get<'_>, id: u32, texts: &mut Bytes) -> Result<Self, WireError> {
        Ok(Text(texts.0.list(bytes.str()?.as_bytes(), id)))
    }
    fn free(&mut self, bytes: &mut Bytes) {
        bytes.0.clear(&mut self.0);
    }
    fn follow(&mut self, _: u8, moved: Moved) {
        self.0.follow(moved);
    }
}

#[derive(Debug)]
pub(crate) struct Strings {
    pub(crate) rows: Slab<Text>,
    references: Vec<u32>,
    index: Index,
}

impl Strings {
    pub(crate) fn new(seed: u64) -> Self {
        let mut strings = Strings { rows: Slab::default(), references: Vec::new(), index: Index::new(seed) };
        let empty = strings.intern("");
        debug_assert_eq!(empty, EMPTY);
        strings
    }

    /// The id of `text`, with one reference for the caller.
    pub(crate) fn intern(&mut self, text: &str) -> u32 {
        let hash = self.index.hash(text.as_bytes());
        let id = match self.index.find(hash, |id| self.contains(id) && self.is(id, text)) {
            Some(id) => id,
            None => {
                let id = self.rows.insert_with(|id, bytes| Text(bytes.0.list(text.as_bytes(), id)));
                self.index.insert(hash, id);
                if id as usize >= self.references.len() {
                    self.references.resize(id as usize + 1, 0);
                }
                id
            }
        };
        self.retain(id);
        id
    }

    /// Reads where the text is.
    #[inline]
    pub(crate) fn touch(&self, id: u32) -> u64 {
        self.rows.get(id).map_or(0, |text| text.0.len() as u64)
    }

    pub(crate) fn bytes(&self, id: u32) -> &[u8] {
        self.rows.get(id).map_or(&[], |text| self.rows.lists.0.items(text.0))
    }

    pub(crate) fn get(&self, id: u32) -> &str {
        std::str::from_utf8(self.bytes(id)).expect("INV-text: what is kept was given as text")
    }

    #[inline]
    pub(crate) fn is(&self, id: u32, text: &str) -> bool {
        self.bytes(id) == text.as_bytes()
    }

    /// One more reference to an id that the caller holds already.
    pub(crate) fn retain(&mut self, id: u32) {
        if let Some(n) = self.references.get_mut(id as usize) {
            *n = n.saturating_add(1);
        }
    }

    /// Lets one reference go.
    pub(crate) fn release(&mut self, id: u32) {
        let Some(n) = self.references.get_mut(id as usize) else { return };
        *n = n.saturating_sub(1);
        if *n == 0 && id != EMPTY {
            let hash = self.index.hash(self.bytes(id));
            self.index.remove(hash, id);
            self.rows.remove(id);
        }
    }

    /// Reads rows of a snapshot.
    pub(crate) fn load(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        if self.rows.len() == 1 && self.rows.id_end() == 1 {
            // The empty string of a new table: the snapshot brings its own.
            self.rows = Slab::default();
        }
        self.rows.load(bytes)
    }

    /// After a load: indexes the rows, with no references yet. Holders then [`Strings::retain`]; every row of a snapshot has one.
    /// False when the rows are none that a table ever wrote: the first text ever interned is the empty one.
    #[must_use]
    pub(crate) fn reindex(&mut self) -> bool {
        self.rows.finish_load();
        if self.rows.len() == 0 {
            self.rows = Slab::default();
            self.rows.insert(Text(List::default()));
        } else if !self.contains(EMPTY) || !self.bytes(EMPTY).is_empty() {
            return false;
        }
        self.references = vec![0; self.rows.id_end() as usize];
        self.index.clear();
        for (id, text) in self.rows.iter() {
            let hash = self.index.hash(self.rows.lists.0.items(text.0));
            self.index.insert(hash, id);
        }
        true
    }

    /// Whether `id` names a row; loaded rows are checked with it before they are believed.
    pub(crate) fn contains(&self, id: u32) -> bool {
        self.rows.get(id).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_kept_once_and_freed_with_its_last_holder() {
        let mut strings = Strings::new(1);
        let a = strings.intern("a");
        assert_eq!(strings.intern("a"), a);
        assert_ne!(strings.intern("b"), a);
        strings.release(a);
        assert_eq!(strings.get(a), "a");
        strings.release(a);
        assert!(!strings.contains(a));
        strings.release(EMPTY);
        assert!(strings.contains(EMPTY));
        assert_eq!(strings.intern("c"), a, "the freed id is used again");
        assert_eq!(strings.get(a), "c");
    }
}
