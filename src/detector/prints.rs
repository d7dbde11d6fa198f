//! Fingerprints of the devices that destinations keep: a device that talks to a thousand of them is kept once, and named by four bytes.

use super::index::Index;

#[derive(Debug)]
pub(crate) struct Prints {
    values: Vec<u64>,
    references: Vec<u32>,
    free: Vec<u32>,
    index: Index,
}

impl Default for Prints {
    fn default() -> Self {
        Prints::new(0)
    }
}

impl Prints {
    pub(crate) fn new(seed: u64) -> Self {
        Prints { values: Vec::new(), references: Vec::new(), free: Vec::new(), index: Index::new(seed) }
    }

    /// The id of a fingerprint, with one reference for the caller.
    #[inline]
    pub(crate) fn intern(&mut self, print: u64) -> u32 {
        let hash = self.index.hash(&print.to_le_bytes());
        let values = &self.values;
        let id = match self.index.find(hash, |id| values.get(id as usize) == Some(&print)) {
            Some(id) => id,
            None => self.add(hash, print),
        };
        self.count(id, |n| n + 1);
        id
    }

    fn add(&mut self, hash: u32, print: u64) -> u32 {
        let id = self.free.pop().unwrap_or(self.values.len() as u32);
        match self.values.get_mut(id as usize) {
            Some(value) => *value = print,
            None => {
                self.values.push(print);
                self.references.push(0);
            }
        }
        self.index.insert(hash, id);
        id
    }

    /// Changes the count of an id's references; says what it is now.
    #[inline]
    fn count(&mut self, id: u32, change: impl FnOnce(u32) -> u32) -> u32 {
        let count = self.references.get_mut(id as usize).expect("INV-ids: an id in a table names a fingerprint");
        *count = change(*count);
        *count
    }

    #[inline]
    pub(crate) fn get(&self, id: u32) -> u64 {
        *self.values.get(id as usize).expect("INV-ids: an id in a table names a fingerprint")
    }

    /// Lets one reference go.
    #[inline]
    pub(crate) fn release(&mut self, id: u32) {
        if self.count(id, |n| n - 1) == 0 {
            let hash = self.index.hash(&self.get(id).to_le_bytes());
            self.index.remove(hash, id);
            self.free.push(id);
        }
    }

    /// How many are kept.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.values.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_kept_as_long_as_somebody_names_it() {
        let mut prints = Prints::new(1);
        let (a, b) = (prints.intern(7), prints.intern(8));
        assert_eq!((prints.intern(7), prints.get(a), prints.get(b)), (a, 7, 8));
        prints.release(a);
        assert_eq!((prints.get(a), prints.len()), (7, 2));
        prints.release(a);
        assert_eq!(prints.len(), 1);
        assert_eq!(prints.intern(9), a, "the freed id is used again");
        assert_eq!((prints.get(a), prints.get(b), prints.len()), (9, 8, 2));
    }
}
