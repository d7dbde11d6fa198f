//! The one order in which the partitions' messages are consumed. Sans-io: messages and ends go in, the order comes out.
//!
//! Invariant: the order depends only on what each partition holds, never on which message came first over the network. During a
//! replay the journal's runs dictate it; after that the least (timestamp, partition's rank, offset) goes first, once every
//! partition has shown its next message or its end. A message is given out at most once, in offset order within its partition.
//!
//! A message without a timestamp takes that of the message before it in its partition (the earliest instant if there is none), so
//! it goes out directly after it. What is fetched, and how much is queued, is left to the source.

use std::collections::{BTreeMap, VecDeque};

use super::position::{NextOffset, PartitionId};
use crate::planted::{self, Bug};
use crate::time::Ticks;

/// One run of the order journal: this partition's messages before `upto` come next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// Whose messages.
    pub partition: PartitionId,
    /// Where the run ends (exclusive).
    pub upto: NextOffset,
}

/// What the merge says when asked for the next message.
#[derive(PartialEq, Eq, Debug)]
pub enum Step<M> {
    /// The next message.
    Message {
        /// Its partition.
        partition: PartitionId,
        /// Its offset.
        offset: i64,
        /// What was pushed.
        message: M,
    },
    /// Nothing can go before this partition has shown its next message or its end.
    Blocked(PartitionId),
    /// The last run is finished; said once, before the first live message, also when there were no runs.
    ReplayDone,
    /// Every partition is at its end and everything has been given out (also while there is no partition).
    Idle,
}

#[derive(Debug)]
struct Queued<M> {
    offset: i64,
    timestamp: Ticks,
    message: M,
}

#[derive(Debug)]
struct Lane<M> {
    rank: (usize, i32),
    queue: VecDeque<Queued<M>>,
    at_end: bool,
    /// What the next pushed message must not lie before.
    fetched: NextOffset,
    last_timestamp: Ticks,
}

/// The merge of all assigned partitions.
#[derive(Debug)]
pub struct Merge<M> {
    lanes: BTreeMap<PartitionId, Lane<M>>,
    /// Where each partition stands after what was given out; outlives the assignment.
    positions: BTreeMap<PartitionId, NextOffset>,
    runs: VecDeque<Run>,
    /// Where each partition's last run ends.
    listed: BTreeMap<PartitionId, NextOffset>,
    replaying: bool,
}

impl<M> Merge<M> {
    /// A merge that first follows `runs`, then goes live.
    #[must_use]
    pub fn new(runs: impl IntoIterator<Item = Run>) -> Self {
        let runs: VecDeque<Run> = runs.into_iter().collect();
        let mut listed = BTreeMap::new();
        for run in &runs {
            let end = listed.entry(run.partition).or_insert(run.upto);
            *end = run.upto.max(*end);
        }
        Merge { lanes: BTreeMap::new(), positions: BTreeMap::new(), runs, listed, replaying: true }
    }

    /// Whether a run lists this message, so that it is given out before [`Step::ReplayDone`], whenever it is pushed.
    #[must_use]
    pub fn is_replayed(&self, partition: PartitionId, offset: i64) -> bool {
        self.listed.get(&partition).is_some_and(|end| end.is_past(offset))
    }

    /// Replaces all partitions: (id, rank among equal timestamps, first position). What was queued is forgotten and has to be
    /// pushed again; what is left of the runs stays.
    pub fn assign(&mut self, partitions: impl IntoIterator<Item = (PartitionId, (usize, i32), NextOffset)>) {
        self.lanes.clear();
        for (id, rank, from) in partitions {
            self.positions.insert(id, from);
            self.lanes.insert(id, Lane { rank, queue: VecDeque::new(), at_end: false, fetched: from, last_timestamp: Ticks::MIN });
        }
    }

    /// Forgets all partitions and what was queued; positions stay.
    pub fn revoke(&mut self) {
        self.lanes.clear();
        if planted::is(Bug::RevokedPositionForgotten) {
            self.positions.clear();
        }
    }

    /// Takes the partition's next message. `false`: refused, because the partition is not assigned or the message lies before
    /// what was already taken (a repeat).
    pub fn push(&mut self, partition: PartitionId, offset: i64, timestamp: Option<Ticks>, message: M) -> bool {
        let Some(lane) = self.lanes.get_mut(&partition) else { return false };
        if lane.fetched.is_past(offset) {
            return false;
        }
        let timestamp = timestamp.unwrap_or(lane.last_timestamp);
        lane.last_timestamp = timestamp;
        lane.fetched = NextOffset::after(offset);
        lane.at_end = false;
        lane.queue.push_back(Queued { offset, timestamp, message });
        true
    }

    /// The partition has nothing after what was pushed.
    pub fn at_end(&mut self, partition: PartitionId) {
        if let Some(lane) = self.lanes.get_mut(&partition) {
            lane.at_end = true;
        }
    }

    /// The partition turned out to hold more than was pushed: it is waited for again.
    pub fn not_at_end(&mut self, partition: PartitionId) {
        if let Some(lane) = self.lanes.get_mut(&partition) {
            lane.at_end = false;
        }
    }

    /// Messages between what was pushed and `to` are lost: the partition goes on at `to`.
    pub fn skip(&mut self, partition: PartitionId, to: NextOffset) {
        let Some(lane) = self.lanes.get_mut(&partition) else { return };
        lane.fetched = lane.fetched.max(to);
        if lane.queue.is_empty() {
            self.positions.insert(partition, lane.fetched);
        }
    }

    /// Where the partition stands after what was given out; known also after a revocation.
    #[must_use]
    pub fn position(&self, partition: PartitionId) -> Option<NextOffset> {
        self.positions.get(&partition).copied()
    }

    /// Where the partition stands after what was pushed.
    #[must_use]
    pub fn fetched(&self, partition: PartitionId) -> Option<NextOffset> {
        self.lanes.get(&partition).map(|lane| lane.fetched)
    }

    /// How many messages of the partition are queued.
    #[must_use]
    pub fn queued(&self, partition: PartitionId) -> usize {
        self.lanes.get(&partition).map_or(0, |lane| lane.queue.len())
    }

    /// Whether the partition has nothing queued and nothing to come.
    #[must_use]
    pub fn is_drained(&self, partition: PartitionId) -> bool {
        self.lanes.get(&partition).is_some_and(|lane| lane.at_end && lane.queue.is_empty())
    }

    /// The next message in order, or what it waits for.
    pub fn step(&mut self) -> Step<M> {
        if self.lanes.is_empty() {
            return Step::Idle;
        }
        while let Some(run) = self.runs.front().copied() {
            let Some(lane) = self.lanes.get_mut(&run.partition) else { return Step::Blocked(run.partition) };
            match lane.queue.front() {
                Some(head) if run.upto.is_past(head.offset) => {
                    let head = lane.queue.pop_front().expect("INV: the queue's front was just seen");
                    return Self::give(&mut self.positions, run.partition, head);
                }
                // The partition's next message lies behind the run: what the run listed is given out, or gone (a gap, said by the source).
                Some(_) => drop(self.runs.pop_front()),
                None if lane.fetched >= run.upto || lane.at_end => drop(self.runs.pop_front()),
                None => return Step::Blocked(run.partition),
            }
        }
        if self.replaying {
            self.replaying = false;
            return Step::ReplayDone;
        }
        let mut least: Option<(Ticks, (usize, i32), PartitionId)> = None;
        for (id, lane) in &self.lanes {
            match lane.queue.front() {
                Some(head) => {
                    let key = (head.timestamp, lane.rank, *id);
                    if least.is_none_or(|l| key < l) {
                        least = Some(key);
                    }
                }
                None if lane.at_end => {}
                None => return Step::Blocked(*id),
            }
        }
        let head = least.and_then(|(_, _, id)| Some((id, self.lanes.get_mut(&id)?.queue.pop_front()?)));
        match head {
            Some((id, head)) => Self::give(&mut self.positions, id, head),
            None => Step::Idle,
        }
    }

    fn give(positions: &mut BTreeMap<PartitionId, NextOffset>, partition: PartitionId, head: Queued<M>) -> Step<M> {
        positions.insert(partition, NextOffset::after(head.offset));
        Step::Message { partition, offset: head.offset, message: head.message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(n: i64) -> Option<Ticks> {
        Some(Ticks::from_millis(n))
    }

    fn merge(partitions: u32, runs: &[(u32, i64)]) -> Merge<()> {
        let mut merge = Merge::new(runs.iter().map(|(p, upto)| Run { partition: PartitionId(*p), upto: NextOffset(*upto) }));
        merge.assign((0..partitions).map(|p| (PartitionId(p), (0, p as i32), NextOffset(0))));
        merge
    }

    fn message(p: u32, offset: i64) -> Step<()> {
        Step::Message { partition: PartitionId(p), offset, message: () }
    }

    #[test]
    fn a_partition_that_is_not_at_its_end_is_waited_for() {
        let mut m = merge(2, &[]);
        let (a, b) = (PartitionId(0), PartitionId(1));
        assert_eq!(m.step(), Step::ReplayDone);
        assert_eq!(m.step(), Step::Blocked(a));
        assert!(m.push(a, 0, ms(5), ()));
        assert_eq!(m.step(), Step::Blocked(b));
        assert!(m.push(b, 0, ms(4), ()));
        assert_eq!(m.step(), message(1, 0));
        assert_eq!(m.step(), Step::Blocked(b));
        m.at_end(b);
        assert_eq!(m.step(), message(0, 0));
        assert_eq!(m.step(), Step::Blocked(a));
        m.at_end(a);
        assert_eq!(m.step(), Step::Idle);
        assert!(m.is_drained(a) && m.is_drained(b));
        assert_eq!(m.position(b), Some(NextOffset(1)));
        m.not_at_end(b);
        assert_eq!(m.step(), Step::Blocked(b));
    }

    #[test]
    fn equal_timestamps_go_by_rank_and_missing_ones_follow_their_neighbour() {
        let mut m = Merge::new([]);
        m.assign([(PartitionId(0), (1, 0), NextOffset(7)), (PartitionId(1), (0, 3), NextOffset(0))]);
        assert_eq!(m.step(), Step::ReplayDone);
        assert!(!m.push(PartitionId(0), 6, ms(1), ()), "before the start");
        assert!(m.push(PartitionId(0), 7, ms(1), ()) && !m.push(PartitionId(0), 7, ms(1), ()), "once only");
        assert!(!m.push(PartitionId(9), 0, ms(1), ()), "not assigned");
        m.push(PartitionId(0), 9, ms(3), ());
        m.push(PartitionId(1), 0, None, ());
        m.push(PartitionId(1), 1, ms(1), ());
        m.push(PartitionId(1), 2, None, ());
        m.push(PartitionId(1), 3, ms(2), ());
        m.at_end(PartitionId(0));
        m.at_end(PartitionId(1));
        let order: Vec<_> = std::iter::from_fn(|| match m.step() {
            Step::Message { partition, offset, .. } => Some((partition.0, offset)),
            _ => None,
        })
        .collect();
        assert_eq!(order, [(1, 0), (1, 1), (1, 2), (0, 7), (1, 3), (0, 9)]);
    }

    #[test]
    fn a_replay_follows_its_runs_whatever_the_timestamps_say() {
        let mut m = merge(2, &[(1, 2), (0, 1), (1, 4), (0, 3)]);
        for offset in 0..4 {
            m.push(PartitionId(0), offset, ms(offset), ());
        }
        assert_eq!(m.step(), Step::Blocked(PartitionId(1)));
        m.push(PartitionId(1), 0, ms(100), ());
        m.push(PartitionId(1), 1, ms(100), ());
        assert_eq!((m.step(), m.step(), m.step()), (message(1, 0), message(1, 1), message(0, 0)));
        // Offsets 2 and 3 are gone: the run is finished as soon as a later message shows it.
        assert_eq!(m.step(), Step::Blocked(PartitionId(1)));
        m.push(PartitionId(1), 9, ms(0), ());
        assert_eq!((m.step(), m.step()), (message(0, 1), message(0, 2)));
        assert_eq!(m.step(), Step::ReplayDone);
        assert_eq!(m.step(), message(1, 9));
    }

    #[test]
    fn a_run_ends_at_the_partitions_end_and_at_a_gap() {
        let mut m = merge(2, &[(0, 5), (1, 3)]);
        m.at_end(PartitionId(0));
        assert_eq!(m.step(), Step::Blocked(PartitionId(1)));
        m.skip(PartitionId(1), NextOffset(3));
        assert_eq!(m.position(PartitionId(1)), Some(NextOffset(3)));
        assert_eq!(m.step(), Step::ReplayDone);
        m.revoke();
        assert_eq!(m.step(), Step::Idle);
        assert_eq!(m.position(PartitionId(1)), Some(NextOffset(3)), "outlives the assignment");
    }

    /// Partitions as lists of timestamps, with holes between offsets.
    fn logs() -> impl Strategy<Value = Vec<Vec<(i64, Option<i64>)>>> {
        let entry = (1i64..3, proptest::option::weighted(0.8, 0i64..12));
        proptest::collection::vec(proptest::collection::vec(entry, 0..12), 1..5).prop_map(|logs| {
            logs.into_iter()
                .map(|log| {
                    log.into_iter()
                        .scan(-1, |offset, (step, ts)| {
                            *offset += step;
                            Some((*offset, ts))
                        })
                        .collect()
                })
                .collect()
        })
    }

    /// By the definition: from all whole partitions, repeatedly the least head.
    fn model(logs: &[Vec<(i64, Option<i64>)>], runs: &[(u32, i64)]) -> Vec<(u32, i64)> {
        let mut rest: Vec<VecDeque<(i64, i64)>> = logs
            .iter()
            .map(|log| {
                let mut before = i64::MIN;
                log.iter()
                    .map(|(offset, ts)| {
                        before = ts.unwrap_or(before);
                        (*offset, before)
                    })
                    .collect()
            })
            .collect();
        let mut out = Vec::new();
        for (p, upto) in runs {
            while let Some((offset, _)) = rest[*p as usize].front().copied().filter(|(offset, _)| offset < upto) {
                rest[*p as usize].pop_front();
                out.push((*p, offset));
            }
        }
        while let Some((_, p, offset)) =
            rest.iter().enumerate().filter_map(|(p, log)| log.front().map(|(offset, ts)| (*ts, p, *offset))).min()
        {
            rest[p].pop_front();
            out.push((p as u32, offset));
        }
        out
    }

    /// Feeds a merge in an order chosen by `picks` and collects what comes out.
    fn drive(logs: &[Vec<(i64, Option<i64>)>], runs: &[(u32, i64)], picks: &[usize]) -> (Vec<(u32, i64)>, Option<usize>) {
        let mut m = merge(logs.len() as u32, runs);
        let mut fed = vec![0; logs.len()];
        let (mut out, mut live_from, mut picks) = (Vec::new(), None, picks.iter().cycle());
        loop {
            let step = m.step();
            let p = match step {
                Step::Message { partition, offset, .. } => {
                    out.push((partition.0, offset));
                    continue;
                }
                Step::ReplayDone => {
                    live_from = Some(out.len());
                    continue;
                }
                Step::Idle => return (out, live_from),
                // Feed some partition, not only the one that is waited for.
                Step::Blocked(id) => match picks.next().unwrap() % (logs.len() + 1) {
                    p if p < logs.len() && fed[p] <= logs[p].len() => p,
                    _ => id.0 as usize,
                },
            };
            match logs[p].get(fed[p]) {
                Some((offset, ts)) => assert!(m.push(PartitionId(p as u32), *offset, ts.and_then(ms), ())),
                None => m.at_end(PartitionId(p as u32)),
            }
            fed[p] += 1;
        }
    }

    proptest! {
        #[test]
        fn the_order_is_the_models_however_messages_arrive(logs in logs(), picks in proptest::collection::vec(0usize..7, 1..30)) {
            let (out, live_from) = drive(&logs, &[], &picks);
            prop_assert_eq!(out, model(&logs, &[]));
            prop_assert_eq!(live_from, Some(0));
        }

        #[test]
        fn a_replay_of_the_runs_of_any_prefix_gives_the_same_order(
            logs in logs(), picks in proptest::collection::vec(0usize..7, 1..30), cut in 0usize..40,
        ) {
            let live = model(&logs, &[]);
            let cut = cut.min(live.len());
            let mut runs: Vec<(u32, i64)> = Vec::new();
            for (p, offset) in &live[..cut] {
                match runs.last_mut() {
                    Some((last, upto)) if last == p => *upto = NextOffset::after(*offset).0,
                    _ => runs.push((*p, NextOffset::after(*offset).0)),
                }
            }
            let (out, live_from) = drive(&logs, &runs, &picks);
            prop_assert_eq!(out, live);
            prop_assert_eq!(live_from, Some(cut));
        }

        #[test]
        fn arbitrary_runs_follow_the_model(
            logs in logs(), runs in proptest::collection::vec((0u32..4, 0i64..30), 0..8), picks in proptest::collection::vec(0usize..7, 1..30),
        ) {
            let runs: Vec<_> = runs.into_iter().map(|(p, upto)| (p % logs.len() as u32, upto)).collect();
            prop_assert_eq!(drive(&logs, &runs, &picks).0, model(&logs, &runs));
        }
    }
}
