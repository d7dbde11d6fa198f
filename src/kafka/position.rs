//! Positions in partitions, and the short numbers that stand for partitions.
//!
//! Invariant: a [`NextOffset`] is exclusive: everything before it has been read. A [`PartitionId`] never changes its meaning once it
//! has been given; journal and snapshot store the table beside the ids.

use std::collections::HashMap;
use std::fmt;

/// The offset of the next message to read from a partition: one after the last that was read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct NextOffset(pub i64);

impl NextOffset {
    /// The position once the message at `offset` has been read.
    #[must_use]
    pub const fn after(offset: i64) -> NextOffset {
        NextOffset(offset + 1)
    }

    /// Whether the message at `offset` lies before this position, so has been read.
    #[must_use]
    pub const fn is_past(self, offset: i64) -> bool {
        offset < self.0
    }
}

impl fmt::Display for NextOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A partition's number in its [`PartitionTable`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PartitionId(pub u32);

/// A partition of a topic.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct TopicPartition {
    /// Topic name.
    pub topic: String,
    /// Partition number in the topic.
    pub partition: i32,
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.topic, self.partition)
    }
}

/// Partition ids and what they stand for. Ids are given in the order of registration and stay; a partition that appears later gets
/// the next one, so the merge's order is asked of [`rank`](PartitionTable::rank), not read off the id.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PartitionTable {
    entries: Vec<TopicPartition>,
    ids: HashMap<TopicPartition, PartitionId>,
}

impl PartitionTable {
    /// A table with nothing in it.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The table that had these entries, in this order; the inverse of [`iter`](PartitionTable::iter). A repeated entry keeps its
    /// first id.
    #[must_use]
    pub fn from_entries(entries: impl IntoIterator<Item = TopicPartition>) -> Self {
        let mut table = Self::new();
        for entry in entries {
            table.register(&entry.topic, entry.partition);
        }
        table
    }

    /// The partition's id, given now if it has none.
    pub fn register(&mut self, topic: &str, partition: i32) -> PartitionId {
        let key = TopicPartition { topic: topic.to_owned(), partition };
        if let Some(id) = self.ids.get(&key) {
            return *id;
        }
        let id = PartitionId(u32::try_from(self.entries.len()).expect("INV: a cluster has far fewer than 2^32 partitions"));
        self.ids.insert(key.clone(), id);
        self.entries.push(key);
        id
    }

    /// The partition's id, if it has one.
    #[must_use]
    pub fn id(&self, topic: &str, partition: i32) -> Option<PartitionId> {
        self.ids.get(&TopicPartition { topic: topic.to_owned(), partition }).copied()
    }

    /// What an id stands for.
    #[must_use]
    pub fn get(&self, id: PartitionId) -> Option<&TopicPartition> {
        self.entries.get(id.0 as usize)
    }

    /// All entries in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = (PartitionId, &TopicPartition)> {
        (0..).map(PartitionId).zip(&self.entries)
    }

    /// How many partitions are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no partition is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The partition's place among messages of one timestamp: topics in the order of `topics` (those not in it last), then by number.
    #[must_use]
    pub fn rank(&self, id: PartitionId, topics: &[String]) -> (usize, i32) {
        match self.get(id) {
            Some(entry) => (topics.iter().position(|t| *t == entry.topic).unwrap_or(topics.len()), entry.partition),
            None => (usize::MAX, i32::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_one_after_what_was_read() {
        let p = NextOffset::after(41);
        assert_eq!(p, NextOffset(42));
        assert!(p.is_past(41) && !p.is_past(42));
    }

    #[test]
    fn ids_stay_while_partitions_are_added_and_ranks_follow_the_configuration() {
        let mut table = PartitionTable::new();
        let a1 = table.register("a", 1);
        let b0 = table.register("b", 0);
        let a0 = table.register("a", 0);
        assert_eq!((a1, b0, a0), (PartitionId(0), PartitionId(1), PartitionId(2)));
        assert_eq!(table.register("a", 1), a1);
        assert_eq!(table.id("b", 0), Some(b0));
        assert_eq!(table.id("b", 1), None);
        let topics = ["b".to_owned(), "a".to_owned()];
        let mut ids = [a1, b0, a0];
        ids.sort_by_key(|id| table.rank(*id, &topics));
        assert_eq!(ids, [b0, a0, a1]);
        assert_eq!(PartitionTable::from_entries(table.iter().map(|(_, e)| e.clone())), table);
        assert_eq!(table.get(a0).unwrap().to_string(), "a[0]");
    }
}
