//! Short lists of many rows, packed without gaps: blocks of items, each in the class of its capacity, a class' blocks side by side.
//!
//! A row keeps a [`List`] (or a block's place of its own); the items lie here. When a block is given back, the last one of its class
//! moves into its place, so a class never has holes, however its rows have grown and shrunk. What holds a block must then be told
//! where it is now: [`Pool::next_move`] says it, and [`super::slab`] tells the rows.
//!
//! Invariant (INV-dense): the blocks of a class are 0 .. its count, and each belongs to the row that its owner's id names.

use super::slab::Moved;

/// About how many bytes a chunk of rows or blocks takes. Growing a table moves nothing. Nine of this size fill the half mebibyte in which
/// the allocator keeps its kind, and leave little over; of 64 KiB it would hold seven, and what is over is resident with huge pages.
pub(crate) const CHUNK_BYTES: usize = 56 << 10;
/// Longest list.
pub(crate) const LONGEST: usize = (1 << 24) - 1;

/// How many items a block of a class holds: each number up to eight, then eight sizes to every doubling. Class 0 is no block.
pub(crate) const fn capacity(class: u8) -> usize {
    match class {
        0..8 => class as usize,
        _ => (8 + class as usize % 8) << ((class - 8) / 8),
    }
}

/// The smallest class that holds `n` items.
pub(crate) const fn class_for(n: usize) -> u8 {
    if n <= 8 {
        return n as u8;
    }
    let octave = n.ilog2() as usize - 3;
    let steps = n.div_ceil(1 << octave) - 8;
    (8 + octave * 8 + steps) as u8
}

/// A row's list: where its block is, how many items are in it, and the block's class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct List {
    at: u32,
    /// Length, and the class in the upper eight bits.
    shape: u32,
}

impl List {
    #[inline]
    pub(crate) fn len(&self) -> usize {
        (self.shape & LONGEST as u32) as usize
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[inline]
    fn class(&self) -> u8 {
        (self.shape >> 24) as u8
    }

    /// Whether one item more takes another block.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.len() == capacity(self.class())
    }

    fn set_len(&mut self, len: usize) {
        self.shape = self.shape & !(LONGEST as u32) | len as u32;
    }

    /// Its block has moved.
    pub(crate) fn follow(&mut self, moved: Moved) {
        self.at = moved.to;
    }
}

#[derive(Debug)]
struct Chunk<T> {
    items: Vec<T>,
    /// The row of each block.
    owners: Vec<u32>,
}

#[derive(Debug)]
struct Class<T> {
    capacity: usize,
    /// Blocks in a chunk.
    per_chunk: u32,
    count: u32,
    chunks: Vec<Chunk<T>>,
}

impl<T: Copy + Default> Class<T> {
    fn new(class: u8) -> Self {
        let capacity = capacity(class);
        let per_chunk = (CHUNK_BYTES / (capacity * size_of::<T>()).max(1)).max(1) as u32;
        Class { capacity, per_chunk, count: 0, chunks: Vec::new() }
    }

    #[inline]
    fn place(&self, at: u32) -> (usize, usize) {
        ((at / self.per_chunk) as usize, (at % self.per_chunk) as usize * self.capacity)
    }

    #[inline]
    fn block(&self, at: u32) -> &[T] {
        let (chunk, from) = self.place(at);
        self.chunks.get(chunk).and_then(|c| c.items.get(from..from + self.capacity)).unwrap_or_default()
    }

    #[inline]
    fn block_mut(&mut self, at: u32) -> &mut [T] {
        let ((chunk, from), capacity) = (self.place(at), self.capacity);
        self.chunks.get_mut(chunk).and_then(|c| c.items.get_mut(from..from + capacity)).unwrap_or_default()
    }

    fn push(&mut self, owner: u32) -> u32 {
        let at = self.count;
        if at as usize == self.chunks.len() * self.per_chunk as usize {
            let mut chunk = Chunk { items: Vec::new(), owners: Vec::new() };
            if at > 0 {
                // The first chunk grows as it fills: a pool with three lists costs three lists.
                chunk.items.reserve_exact(self.per_chunk as usize * self.capacity);
                chunk.owners.reserve_exact(self.per_chunk as usize);
            }
            self.chunks.push(chunk);
        }
        if let Some(chunk) = self.chunks.last_mut() {
            chunk.items.resize(chunk.items.len() + self.capacity, T::default());
            chunk.owners.push(owner);
        }
        self.count += 1;
        at
    }

    /// Takes a block away; says whose block lies in its place now.
    fn remove(&mut self, at: u32) -> Option<u32> {
        let (chunk, from) = self.place(at);
        let last = self.count - 1;
        let is_last = at == last;
        let mut moved = None;
        if let Some((end, before)) = self.chunks.split_last_mut() {
            let items = end.items.len() - self.capacity;
            if let Some(owner) = end.owners.pop().filter(|_| !is_last) {
                moved = Some(owner);
                let place = (at % self.per_chunk) as usize;
                match before.get_mut(chunk) {
                    Some(other) => {
                        if let (Some(to), Some(from)) = (other.items.get_mut(from..from + self.capacity), end.items.get(items..)) {
                            to.copy_from_slice(from);
                        }
                        other.owners.iter_mut().skip(place).take(1).for_each(|o| *o = owner);
                    }
                    None => {
                        end.items.copy_within(items.., from);
                        end.owners.iter_mut().skip(place).take(1).for_each(|o| *o = owner);
                    }
                }
            }
            end.items.truncate(items);
            if end.items.is_empty() {
                self.chunks.pop();
            }
        }
        self.count = last;
        moved
    }
}

/// Blocks of all classes.
#[derive(Debug)]
pub(crate) struct Pool<T> {
    classes: Vec<Class<T>>,
    moves: Vec<Moved>,
}

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Pool { classes: Vec::new(), moves: Vec::new() }
    }
}

impl<T: Copy + Default> Pool<T> {
    /// A new block of default items.
    pub(crate) fn alloc(&mut self, class: u8, owner: u32) -> u32 {
        while self.classes.len() <= class as usize {
            self.classes.push(Class::new(self.classes.len() as u8));
        }
        self.classes.get_mut(class as usize).map_or(0, |class| class.push(owner))
    }

    /// Gives a block back.
    pub(crate) fn free(&mut self, class: u8, at: u32) {
        if class > 0
            && let Some(owner) = self.classes.get_mut(class as usize).and_then(|class| class.remove(at))
        {
            self.moves.push(Moved { owner, to: at });
        }
    }

    /// The next row whose block has moved, in the order in which they moved.
    #[inline]
    pub(crate) fn next_move(&mut self) -> Option<Moved> {
        if self.moves.is_empty() { None } else { Some(self.moves.remove(0)) }
    }

    /// All items of a block.
    #[inline]
    pub(crate) fn block(&self, class: u8, at: u32) -> &[T] {
        self.classes.get(class as usize).map_or(&[], |class| class.block(at))
    }

    #[inline]
    pub(crate) fn block_mut(&mut self, class: u8, at: u32) -> &mut [T] {
        self.classes.get_mut(class as usize).map_or(&mut [], |class| class.block_mut(at))
    }

    #[inline]
    pub(crate) fn items(&self, list: List) -> &[T] {
        self.block(list.class(), list.at).get(..list.len()).unwrap_or_default()
    }

    #[inline]
    pub(crate) fn items_mut(&mut self, list: List) -> &mut [T] {
        self.block_mut(list.class(), list.at).get_mut(..list.len()).unwrap_or_default()
    }

    /// Appends an item to a list of `owner`. A list of [`LONGEST`] items stays as it is.
    pub(crate) fn push(&mut self, list: &mut List, item: T, owner: u32) {
        let len = list.len();
        if len >= LONGEST {
            return;
        }
        if list.is_full() {
            self.resize(list, class_for(len + 1), owner);
        }
        if let Some(place) = self.block_mut(list.class(), list.at).get_mut(len) {
            *place = item;
            list.set_len(len + 1);
        }
    }

    /// Keeps the items that `keep` says, in their order, in a block that fits them.
    pub(crate) fn retain(&mut self, list: &mut List, owner: u32, mut keep: impl FnMut(&T) -> bool) {
        let items = self.items_mut(*list);
        let mut kept = 0;
        for at in 0..items.len() {
            let Some(item) = items.get(at).copied() else { break };
            if keep(&item) {
                items.iter_mut().skip(kept).take(1).for_each(|place| *place = item);
                kept += 1;
            }
        }
        list.set_len(kept);
        if capacity(class_for(kept)) * 4 <= capacity(list.class()) * 3 {
            self.resize(list, class_for(kept), owner);
        }
    }

    /// Gives a list's block back.
    pub(crate) fn clear(&mut self, list: &mut List) {
        self.free(list.class(), list.at);
        *list = List::default();
    }

    /// A list of these items.
    pub(crate) fn list(&mut self, items: &[T], owner: u32) -> List {
        let mut list = List::default();
        let items = items.get(..LONGEST).unwrap_or(items);
        self.resize(&mut list, class_for(items.len()), owner);
        list.set_len(items.len());
        self.items_mut(list).copy_from_slice(items);
        list
    }

    fn resize(&mut self, list: &mut List, class: u8, owner: u32) {
        let old = *list;
        list.shape = list.shape & LONGEST as u32 | u32::from(class) << 24;
        if class > 0 {
            list.at = self.alloc(class, owner);
            if let Ok([from, to]) = self.classes.get_disjoint_mut([old.class() as usize, class as usize]) {
                to.block_mut(list.at).iter_mut().zip(from.block(old.at)).for_each(|(to, from)| *to = *from);
            }
        }
        self.free(old.class(), old.at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn classes_fit_closely() {
        for n in 1..100_000 {
            let class = class_for(n);
            assert!(capacity(class) >= n && capacity(class - 1) < n, "{n}");
            assert!(n < 8 || capacity(class) * 8 <= n * 9 + 8, "{n} in {}", capacity(class));
        }
        assert_eq!((class_for(0), capacity(0)), (0, 0));
        assert!(capacity(class_for(LONGEST)) >= LONGEST);
    }

    proptest! {
        /// Whatever is done to the lists, each holds what a vector would hold, and no block is left without its list.
        #[test]
        fn lists_are_vectors_without_gaps(steps in prop::collection::vec((0usize..6, 0u8..4, 0u32..40), 0..400)) {
            let mut pool = Pool::<u32>::default();
            let mut lists = [List::default(); 6];
            let mut model: [Vec<u32>; 6] = Default::default();
            for (row, op, value) in steps {
                let (list, vector) = (&mut lists[row], &mut model[row]);
                match op {
                    0 => {
                        pool.clear(list);
                        vector.clear();
                    }
                    1 => {
                        pool.retain(list, row as u32, |item| item % 40 >= value);
                        vector.retain(|item| item % 40 >= value);
                    }
                    _ => for item in value..value * 2 + 1 {
                        pool.push(list, item, row as u32);
                        vector.push(item);
                    },
                }
                while let Some(moved) = pool.next_move() {
                    lists[moved.owner as usize].follow(moved);
                }
                for (list, vector) in lists.iter().zip(&model) {
                    prop_assert_eq!(pool.items(*list), &vector[..]);
                    prop_assert!(capacity(list.class()) * 2 <= vector.len() * 3 + 3);
                }
                let blocks: u32 = pool.classes.iter().map(|class| class.count).sum();
                prop_assert_eq!(blocks as usize, model.iter().filter(|v| !v.is_empty()).count());
            }
        }
    }
}
