//! Positions for the consumer group, and the end of a membership.
//!
//! Invariant: what is committed was allowed by whoever owns the source; nobody here ever reads it.

use super::{TICK, Worker};
use crate::host_clock;
use crate::kafka::source::Kept;
use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::time::Duration;

/// Positions that did not move are committed again after this time: whether a broker took the last commit is not told.
const COMMIT_ALL: Duration = Duration::from_secs(60);
/// How long a closing member waits until its partitions are taken back.
const LEAVE_WITHIN: Duration = Duration::from_secs(1);

impl<M: Kept + Send + 'static> Worker<M> {
    pub(super) fn commit_if_due(&mut self) {
        if self.last_commit.elapsed() < self.config.commit_interval || self.lanes.is_empty() {
            return;
        }
        self.last_commit = host_clock::monotonic();
        self.commit();
    }

    /// Commits what changed. An idle partition is committed up to its log's end, also where no message is (markers of transactions).
    fn commit(&mut self) {
        if self.last_of_all.elapsed() >= COMMIT_ALL {
            self.last_of_all = self.last_commit;
            self.committed.clear();
        }
        let ends = self.io.shared.ends().clone();
        let mut list = TopicPartitionList::new();
        let wanted: Vec<_> = self.io.shared.commits().iter().map(|(id, at)| (*id, *at)).collect();
        for (id, mut at) in wanted {
            let Some(of) = self.table.get(id) else { continue };
            let end = ends.get(of).copied();
            let idle = self.merge.is_drained(id) && self.merge.position(id) == Some(at) && end == self.ends_before.get(of).copied();
            at = at.max(end.filter(|_| idle).unwrap_or(at));
            if self.committed.get(&id) == Some(&at) || !self.lanes.contains_key(&id) {
                continue;
            }
            if list.add_partition_offset(&of.topic, of.partition, Offset::Offset(at.0)).is_ok() {
                self.committed.insert(id, at);
            }
        }
        self.ends_before = ends;
        if list.count() > 0
            && let Err(error) = self.consumer.commit(&list, CommitMode::Async)
        {
            tracing::debug!(%error, "committing positions failed");
            self.committed.clear();
        }
    }

    /// Commits once more, gives the partitions back and leaves the group.
    pub(super) fn close(mut self) {
        self.commit();
        // Leaving the group waits until commits that are on their way are answered.
        self.consumer.context().close();
        self.lanes.clear();
        if self.config.member.is_some() {
            self.leave();
        }
        // Dropping the last reference closes the consumer.
        drop(self);
    }

    /// A member under a name of its own leaves the group only when it says so, before it closes: whoever comes next, under another name,
    /// would wait for it. What fails here costs that, a session timeout.
    fn leave(&self) {
        let until = host_clock::monotonic() + LEAVE_WITHIN;
        // Nothing is fetched any more by the time of the leave, which then needs no more waiting than for the revocation.
        if let Err(error) = self.consumer.assign(&TopicPartitionList::new()) {
            tracing::debug!(%error, "leaving the group failed");
            return;
        }
        self.consumer.poll(TICK);
        self.consumer.context().take_rebalances();
        self.consumer.unsubscribe();
        while !self.consumer.context().has_rebalances() && host_clock::monotonic() < until {
            self.consumer.poll(TICK);
        }
    }
}
