//! What the group's decisions, and lost ranges, mean for the source's thread: what is fetched, and what is told.
//!
//! Invariant: fetching starts where [`plan`] says, only when every partition is owned; librdkafka never chooses a position.

use crate::host_clock;
use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use rdkafka::consumer::Consumer;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::{Flow, Lane, RETRY, Stopped, Worker, refused, subscribe};
use crate::kafka::plan::{self, Known};
use crate::kafka::position::{PartitionId, TopicPartition};
use crate::kafka::source::{Assigned, Kept, SourceError, SourceEvent};

impl<M: Kept + Send + 'static> Worker<M> {
    pub(super) fn revoke(&mut self) -> Flow {
        self.lanes.clear();
        self.merge.revoke();
        self.out_of_range.clear();
        self.blocked = None;
        self.caught_up = false;
        self.partial = None;
        self.committed.clear();
        self.flush()?;
        self.send(SourceEvent::Revoked)
    }

    /// Carries out what the group decided. The inner error is to be retried.
    pub(super) fn assign(&mut self, owned: &[TopicPartition]) -> Result<Result<(), SourceError>, Stopped> {
        let mut all = Vec::new();
        for topic in &self.config.topics {
            match self.io.cluster.partitions(topic) {
                Ok(Some(partitions)) => {
                    all.extend(partitions.into_iter().map(|partition| TopicPartition { topic: topic.clone(), partition }))
                }
                Ok(None) => return Ok(Err(SourceError::MissingTopic { topic: topic.clone() })),
                Err(error) => return Ok(Err(error.into())),
            }
        }
        if all.iter().any(|of| !owned.contains(of)) {
            // The group waits for an answer to its assignment: none of it is taken.
            if let Err(error) = self.consumer.assign(&TopicPartitionList::new()) {
                return Ok(Err(refused(&error)));
            }
            if mem::take(&mut self.may_be_old) {
                // What the group gave may be what this member had before partitions or topics were added, or while another was there:
                // whoever leaves and joins anew has the group divide anew.
                tracing::info!(owned = owned.len(), total = all.len(), "the group gave what this member had; joining anew");
                self.consumer.unsubscribe();
                return Ok(subscribe(&self.consumer, &self.config.topics));
            }
            let partial = (owned.len(), all.len());
            if self.partial.replace(partial) != Some(partial) {
                self.send(SourceEvent::PartialAssignment { owned: partial.0, total: partial.1 })?;
            }
            return Ok(Ok(()));
        }
        let mut logs = Vec::new();
        for of in all {
            match self.io.cluster.ends(&of.topic, of.partition) {
                Ok(ends) => logs.push((of, ends)),
                Err(error) => return Ok(Err(error.into())),
            }
        }
        let known = Known { topics: &self.config.topics, positions: &self.config.positions, start: self.config.start };
        let plan = match plan::go_on(logs, &known, &self.table, &self.merge) {
            Ok(plan) => plan,
            Err(error) => return self.fatal(error),
        };
        if let Err(error) = self.take(&plan.assigned) {
            return Ok(Err(error));
        }
        self.may_be_old = false;
        self.io.shared.delivered().extend(plan.assigned.iter().map(|a| (a.id, (a.of.clone(), a.position))));
        self.partial = None;
        for event in plan.begun(&self.config.topics, &mut self.table, &mut self.merge) {
            self.send(event)?;
        }
        Ok(Ok(()))
    }

    /// Starts fetching: each partition into a queue of its own.
    fn take(&mut self, assigned: &[Assigned]) -> Result<(), SourceError> {
        let mut list = TopicPartitionList::new();
        let mut lanes = BTreeMap::new();
        for a in assigned {
            list.add_partition_offset(&a.of.topic, a.of.partition, Offset::Offset(a.position.0)).map_err(|error| refused(&error))?;
            let mut queue = self
                .consumer
                .split_partition_queue(&a.of.topic, a.of.partition)
                .ok_or_else(|| SourceError::Refused { reason: format!("no queue for {}", a.of) })?;
            let wake = self.io.wake.0.clone();
            queue.set_nonempty_callback(move || {
                let _ = wake.try_send(());
            });
            lanes.insert(a.id, Lane { of: a.of.clone(), queue, queued_bytes: 0 });
        }
        self.lanes = lanes;
        self.consumer.assign(&list).map_err(|error| refused(&error))
    }

    /// Partitions whose next message is gone: librdkafka has stopped fetching them, and starts again only with a new assignment.
    pub(super) fn recover_range(&mut self) -> Flow {
        // What the group has taken back meanwhile must not be assigned again.
        if self.range_due > host_clock::monotonic() || self.consumer.context().has_rebalances() {
            return Ok(());
        }
        let lost = mem::take(&mut self.out_of_range);
        let error = match self.skip_what_is_gone(&lost)? {
            Ok(()) if lost == self.out_of_range => {
                self.range_due = host_clock::monotonic() + RETRY;
                return Ok(());
            }
            Ok(()) => {
                let goes_on: Vec<Assigned> = self
                    .lanes
                    .iter()
                    .filter_map(|(id, lane)| Some(Assigned { id: *id, of: lane.of.clone(), position: self.merge.fetched(*id)? }))
                    .collect();
                match self.take(&goes_on) {
                    Ok(()) => return Ok(()),
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        self.out_of_range.extend(lost);
        self.range_due = host_clock::monotonic() + RETRY;
        self.tell(error)
    }

    /// Moves each of these partitions to its log's start, if that has overtaken it. The inner error is to be retried.
    fn skip_what_is_gone(&mut self, lost: &BTreeSet<PartitionId>) -> Result<Result<(), SourceError>, Stopped> {
        for id in lost {
            let Some((of, from)) = self.lanes.get(id).map(|l| l.of.clone()).zip(self.merge.fetched(*id)) else { continue };
            if self.merge.queued(*id) > 0 {
                // What was fetched goes out first: a gap is told where it is in the order.
                self.out_of_range.insert(*id);
                continue;
            }
            let (low, high) = match self.io.cluster.ends(&of.topic, of.partition) {
                Ok(ends) => ends,
                Err(error) => return Ok(Err(error.into())),
            };
            if from > high {
                return self.fatal(SourceError::PositionBeyondEnd { partition: of, stored: from, end: high });
            }
            if from < low {
                self.flush()?;
                self.merge.skip(*id, low);
                self.send(SourceEvent::Gap { partition: *id, from, to: low })?;
            }
        }
        Ok(Ok(()))
    }
}
