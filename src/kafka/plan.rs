//! Where each partition of the input goes on. Sans-io: what the group gave, what is known and what the logs hold go in, a plan
//! comes out.
//!
//! Invariant: reading starts at positions that are known here (delivered, stored, or the log's end or start as configured), and
//! only when every partition is owned.

use std::collections::HashMap;

use crate::kafka::merge::Merge;
use crate::kafka::position::{NextOffset, PartitionId, PartitionTable, TopicPartition};
use crate::kafka::source::{Assigned, SourceError, SourceEvent, Start};

/// What is known of the input beside the logs.
#[derive(Debug)]
pub struct Known<'a> {
    /// Input topics; their order decides among equal timestamps.
    pub topics: &'a [String],
    /// Stored positions.
    pub positions: &'a HashMap<(String, i32), NextOffset>,
    /// Where a topic starts of which nothing is known.
    pub start: Start,
}

/// A partition's log: which, and where it starts and ends.
pub type Log = (TopicPartition, (NextOffset, NextOffset));

/// Where every partition goes on.
#[derive(Debug)]
pub struct Plan {
    /// Where fetching is to begin.
    pub assigned: Vec<Assigned>,
    /// Whose messages are gone: from here, to where it goes on.
    gaps: Vec<(PartitionId, NextOffset, NextOffset)>,
    table: PartitionTable,
}

/// Where a partition goes on of which everything before an instant is known: `from` is the first message from a little before that instant,
/// `end` the first at or after it. When the log starts no earlier than `end` and once did, messages between may be gone: then the
/// position is one that makes a gap.
#[must_use]
pub fn since((low, _): (NextOffset, NextOffset), from: NextOffset, end: NextOffset) -> NextOffset {
    if low.0 > 0 && end <= low { NextOffset(low.0 - 1) } else { from }
}

/// Plans where every partition goes on, given the logs of all of them. Changes nothing, should fetching fail to begin: a gap must not
/// be forgotten, nor an id be given that whoever hears of the next plan would give to another partition.
///
/// # Errors
/// [`SourceError::PositionBeyondEnd`], which is fatal.
pub fn go_on<M>(logs: Vec<Log>, known: &Known<'_>, table: &PartitionTable, merge: &Merge<M>) -> Result<Plan, SourceError> {
    let mut planned = Vec::new();
    for (of, (low, high)) in logs {
        let delivered = table.id(&of.topic, of.partition).and_then(|id| merge.position(id));
        let stored = delivered.or_else(|| known.positions.get(&(of.topic.clone(), of.partition)).copied());
        let position = match stored {
            Some(stored) => stored,
            // A partition that appears beside known ones is new, and starts at its start.
            None if known.start == Start::Latest && !is_known(&of.topic, known, table, merge) => high,
            None => low,
        };
        if position > high {
            return Err(SourceError::PositionBeyondEnd { partition: of, stored: position, end: high });
        }
        planned.push((of, position, low));
    }
    let mut plan = Plan { assigned: Vec::new(), gaps: Vec::new(), table: table.clone() };
    for (of, position, low) in planned {
        let id = plan.table.register(&of.topic, of.partition);
        if position < low {
            plan.gaps.push((id, position, low));
        }
        plan.assigned.push(Assigned { id, of, position: position.max(low) });
    }
    Ok(plan)
}

impl Plan {
    /// Fetching has begun: table and merge follow, and these events are to be told.
    pub fn begun<Q, M>(self, topics: &[String], table: &mut PartitionTable, merge: &mut Merge<Q>) -> Vec<SourceEvent<M>> {
        *table = self.table;
        merge.assign(self.assigned.iter().map(|a| (a.id, table.rank(a.id, topics), a.position)));
        let mut events = vec![SourceEvent::Assigned(self.assigned)];
        events.extend(self.gaps.into_iter().map(|(partition, from, to)| SourceEvent::Gap { partition, from, to }));
        events
    }
}

/// Whether some partition of the topic has been read before.
fn is_known<M>(topic: &str, known: &Known<'_>, table: &PartitionTable, merge: &Merge<M>) -> bool {
    known.positions.keys().any(|(of, _)| of == topic)
        || table.iter().any(|(id, of): (PartitionId, _)| of.topic == topic && merge.position(id).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_told_although_the_first_attempt_to_fetch_failed() {
        let topics = ["in".to_owned()];
        let positions = HashMap::from([(("in".to_owned(), 0), NextOffset(3))]);
        let known = Known { topics: &topics, positions: &positions, start: Start::Earliest };
        let (mut table, mut merge) = (PartitionTable::new(), Merge::<()>::new([]));
        let logs = || {
            let log = |partition, low, high| (TopicPartition { topic: "in".to_owned(), partition }, (NextOffset(low), NextOffset(high)));
            vec![log(0, 5, 9), log(1, 2, 9)]
        };
        let failed = go_on(logs(), &known, &table, &merge).unwrap();
        assert_eq!(failed.assigned.len(), 2);
        drop(failed);
        let events = go_on(logs(), &known, &table, &merge).unwrap().begun(&topics, &mut table, &mut merge);
        let gap = SourceEvent::<()>::Gap { partition: PartitionId(0), from: NextOffset(3), to: NextOffset(5) };
        assert_eq!(events[1..], [gap]);
        assert_eq!((merge.position(PartitionId(0)), merge.position(PartitionId(1))), (Some(NextOffset(5)), Some(NextOffset(2))));
        let again: Vec<SourceEvent<()>> = go_on(logs(), &known, &table, &merge).unwrap().begun(&topics, &mut table, &mut merge);
        assert_eq!(again.len(), 1, "once");
    }

    #[test]
    fn a_plan_that_came_to_nothing_gives_no_ids() {
        let topics = ["a".to_owned(), "b".to_owned()];
        let log = |topic: &str, partition| (TopicPartition { topic: topic.to_owned(), partition }, (NextOffset(0), NextOffset(9)));
        let positions = HashMap::new();
        let known = Known { topics: &topics, positions: &positions, start: Start::Earliest };
        let (mut table, mut merge) = (PartitionTable::new(), Merge::<()>::new([]));
        drop(go_on(vec![log("a", 0), log("b", 0)], &known, &table, &merge).unwrap());
        // A partition is added before the second attempt. Whoever hears of the plan gives ids in its order.
        let plan = go_on(vec![log("a", 0), log("a", 1), log("b", 0)], &known, &table, &merge).unwrap();
        assert_eq!(plan.assigned.iter().map(|a| a.id.0).collect::<Vec<_>>(), [0, 1, 2]);
        plan.begun::<_, ()>(&topics, &mut table, &mut merge);
        assert_eq!(table.id("b", 0), Some(PartitionId(2)));
    }

    #[test]
    fn after_history_reading_starts_by_time_and_lost_time_is_a_gap() {
        let log = |low| (NextOffset(low), NextOffset(9));
        assert_eq!(since(log(0), NextOffset(0), NextOffset(0)), NextOffset(0), "a topic that is younger than history");
        assert_eq!(since(log(2), NextOffset(4), NextOffset(6)), NextOffset(4));
        assert_eq!(since(log(2), NextOffset(2), NextOffset(3)), NextOffset(2), "the overlap is cut, and the end is there");
        assert_eq!(since(log(2), NextOffset(2), NextOffset(2)), NextOffset(1), "what came before the log's start is gone");
    }

    #[test]
    fn a_new_topic_starts_as_configured_and_a_new_partition_at_its_start() {
        let topics = ["in".to_owned()];
        let log = |partition| (TopicPartition { topic: "in".to_owned(), partition }, (NextOffset(2), NextOffset(9)));
        let (table, merge) = (PartitionTable::new(), Merge::<()>::new([]));
        let positions = HashMap::new();
        for (start, at) in [(Start::Earliest, 2), (Start::Latest, 9)] {
            let known = Known { topics: &topics, positions: &positions, start };
            assert_eq!(go_on(vec![log(0)], &known, &table, &merge).unwrap().assigned[0].position, NextOffset(at));
        }
        let positions = HashMap::from([(("in".to_owned(), 0), NextOffset(4))]);
        let known = Known { topics: &topics, positions: &positions, start: Start::Latest };
        let plan = go_on(vec![log(0), log(1)], &known, &table, &merge).unwrap();
        assert_eq!(plan.assigned.iter().map(|a| a.position.0).collect::<Vec<_>>(), [4, 2]);
        let known = Known { positions: &HashMap::from([(("in".to_owned(), 0), NextOffset(10))]), ..known };
        assert!(matches!(go_on(vec![log(0)], &known, &table, &merge), Err(SourceError::PositionBeyondEnd { .. })));
    }
}
