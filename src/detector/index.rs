//! From a key's hash to the id of its row: eight bytes an entry, the key itself stays in the row.
//!
//! The hash is seeded and never persisted or observable: no result of the detector depends on it (a test runs other seeds).

use hashbrown::HashTable;
use std::hash::{BuildHasher, Hasher};

#[derive(Debug)]
pub(crate) struct Index {
    table: HashTable<(u32, u32)>,
    state: foldhash::quality::FixedState,
}

/// The table's 64-bit hash from the 32 bits that are kept: growing needs no look at the rows.
#[inline]
fn spread(tag: u32) -> u64 {
    u64::from(tag).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

impl Index {
    pub(crate) fn new(seed: u64) -> Self {
        Index { table: HashTable::new(), state: foldhash::quality::FixedState::with_seed(seed) }
    }

    #[inline]
    pub(crate) fn hash(&self, key: &[u8]) -> u32 {
        let mut hasher = self.state.build_hasher();
        hasher.write(key);
        (hasher.finish() >> 32) as u32
    }

    /// Hash of a key with a scope (its tenant) before it.
    #[inline]
    pub(crate) fn hash_scoped(&self, scope: u32, key: &[u8]) -> u32 {
        let mut hasher = self.state.build_hasher();
        hasher.write_u32(scope);
        hasher.write(key);
        (hasher.finish() >> 32) as u32
    }

    #[inline]
    pub(crate) fn find(&self, hash: u32, mut is_key: impl FnMut(u32) -> bool) -> Option<u32> {
        self.table.find(spread(hash), |&(tag, id)| tag == hash && is_key(id)).map(|&(_, id)| id)
    }

    pub(crate) fn insert(&mut self, hash: u32, id: u32) {
        self.table.insert_unique(spread(hash), (hash, id), |&(tag, _)| spread(tag));
    }

    pub(crate) fn remove(&mut self, hash: u32, id: u32) {
        if let Ok(entry) = self.table.find_entry(spread(hash), |&entry| entry == (hash, id)) {
            entry.remove();
        }
    }

    pub(crate) fn clear(&mut self) {
        self.table.clear();
    }
}
