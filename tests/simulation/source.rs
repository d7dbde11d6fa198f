//! The source without librdkafka: the real merge and the real plan, over logs that are fetched as the seed says.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::mem;

use firstseen::defender::Batch;
use firstseen::kafka::merge::{Merge, Run, Step};
use firstseen::kafka::plan::{self, Known};
use firstseen::kafka::position::{NextOffset, PartitionId, PartitionTable, TopicPartition};
use firstseen::kafka::source::{InputMessage, Reader, SourceEvent, Start};
use firstseen::service::course::reader;
use firstseen::time::{Span, Ticks};

use super::input::{INPUTS, log_of, place, settings};
use super::run::Ended;
use super::world::Sim;

/// After this time without a sign of life a member is gone for the group, and its partitions are given to another.
const SESSION: Span = Span::minutes(1);
/// Events that wait before the task.
const EVENTS: usize = 8;

struct Lane {
    /// Number of its log.
    log: usize,
    /// Index of the next message to fetch.
    next: usize,
    /// Gives nothing before this.
    silent_until: Ticks,
}

/// A member of the group.
pub(crate) struct Source {
    sim: Sim,
    topics: Vec<String>,
    table: PartitionTable,
    positions: HashMap<(String, i32), NextOffset>,
    merge: Merge<InputMessage<Batch>>,
    reader: Reader<Batch>,
    lanes: BTreeMap<PartitionId, Lane>,
    /// When the group gives the partitions; `None` while they are owned.
    given_at: Option<Ticks>,
    batch: Vec<InputMessage<Batch>>,
    most: usize,
    caught_up: bool,
    pub(crate) events: VecDeque<SourceEvent<Batch>>,
}

impl Source {
    pub(crate) fn new(sim: &Sim, table: PartitionTable, positions: HashMap<(String, i32), NextOffset>, replay: Vec<Run>) -> Source {
        let most = sim.chance(|c| c.log(6)) as usize;
        // A member that comes back under its name gets its partitions at once; else the group waits for the one that died.
        let given_at = sim.now().plus(if sim.chance(|c| c.percent(70)) { Span::ZERO } else { SESSION });
        Source {
            sim: sim.clone(),
            topics: INPUTS.iter().take(sim.world().broker.input.len()).map(|topic| (*topic).to_owned()).collect(),
            table,
            positions,
            merge: Merge::new(replay),
            reader: reader(settings().max_clock_skew, settings().max_clock_skew),
            lanes: BTreeMap::new(),
            given_at: Some(given_at),
            batch: Vec::new(),
            most,
            caught_up: false,
            events: VecDeque::new(),
        }
    }

    /// When waiting for it makes sense.
    pub(crate) fn next(&self) -> Option<Ticks> {
        let now = self.sim.now();
        let world = self.sim.world();
        let appends = self.lanes.values().filter_map(|lane| world.broker.input[lane.log].messages.get(lane.next).map(|m| m.appended));
        let added = world.broker.input.iter().map(|log| log.since);
        appends.chain(added).chain(self.lanes.values().map(|lane| lane.silent_until)).chain(self.given_at).filter(|at| *at > now).min()
    }

    /// Everything that will ever be is delivered.
    pub(crate) fn is_done(&self) -> bool {
        let world = self.sim.world();
        self.caught_up
            && self.events.is_empty()
            && self.given_at.is_none()
            && self.lanes.len() == world.broker.input.len()
            && self.lanes.values().all(|lane| lane.next == world.broker.input[lane.log].messages.len())
    }

    /// Does a little; false when there is nothing to do.
    pub(crate) fn step(&mut self) -> Result<bool, Ended> {
        if self.events.len() >= EVENTS {
            return Ok(false);
        }
        if let Some(at) = self.given_at {
            return if self.sim.now() < at { Ok(false) } else { self.assign() };
        }
        let added = {
            let world = self.sim.world();
            world.broker.input.iter().filter(|log| log.since <= world.now).count() > self.lanes.len()
        };
        // The group hears of a new partition some time later.
        if self.sim.chance(|c| added && c.one_in(10)) || (self.sim.faults().rebalance && self.sim.chance(|c| c.one_in(150))) {
            self.revoke();
            return Ok(true);
        }
        let fetched = self.fetch()?;
        Ok(self.deliver() || fetched)
    }

    fn assign(&mut self) -> Result<bool, Ended> {
        if self.sim.world().brokers_away() {
            return Ok(false);
        }
        self.sim.effect(format_args!("assign"), &[]);
        let now = self.sim.now();
        let mut logs: Vec<(TopicPartition, (NextOffset, NextOffset))> = Vec::new();
        for (log, n) in self.sim.world().broker.input.iter().zip(0..).filter(|(log, _)| log.since <= now) {
            let (topic, partition) = place(n);
            let ends = (NextOffset(log.low), NextOffset(log.end(now)));
            logs.push((TopicPartition { topic: topic.to_owned(), partition }, ends));
        }
        // Topic by topic, as the source asks.
        logs.sort_by_key(|(of, _)| (self.topics.iter().position(|topic| *topic == of.topic), of.partition));
        let known = Known { topics: &self.topics, positions: &self.positions, start: Start::Earliest };
        let plan = plan::go_on(logs, &known, &self.table, &self.merge).map_err(|e| Ended::Wrong(format!("the source refuses: {e}")))?;
        if self.sim.chance(|c| c.one_in(6)) {
            // Fetching can't begin: once more, a little later.
            self.given_at = Some(now.plus(Span::seconds(1)));
            return Ok(true);
        }
        self.lanes.clear();
        for assigned in &plan.assigned {
            let log = log_of(&assigned.of.topic, assigned.of.partition).unwrap_or_default() as usize;
            let next = self.sim.world().broker.input[log].messages.partition_point(|m| assigned.position.is_past(m.offset));
            self.lanes.insert(assigned.id, Lane { log, next, silent_until: now });
        }
        self.events.extend(plan.begun(&self.topics, &mut self.table, &mut self.merge));
        self.given_at = None;
        Ok(true)
    }

    fn revoke(&mut self) {
        self.sim.effect(format_args!("revoke"), &[]);
        self.lanes.clear();
        self.merge.revoke();
        self.caught_up = false;
        self.flush();
        self.events.push_back(SourceEvent::Revoked);
        if self.sim.chance(|c| c.percent(30)) {
            self.events.push_back(SourceEvent::PartialAssignment { owned: 1, total: 2 });
        }
        let later = self.sim.chance(|c| c.span(Span::hours(2)));
        self.given_at = Some(self.sim.now().plus(later));
    }

    fn fetch(&mut self) -> Result<bool, Ended> {
        if self.sim.world().brokers_away() {
            return Ok(false);
        }
        let (now, faults) = (self.sim.now(), self.sim.faults());
        let (mut any, mut gone) = (false, Vec::new());
        for (id, lane) in &mut self.lanes {
            if now < lane.silent_until {
                continue;
            }
            if faults.lag && self.sim.chance(|c| c.one_in(100)) {
                lane.silent_until = now.plus(self.sim.chance(|c| c.span(Span::hours(12))));
                continue;
            }
            let low = NextOffset(self.sim.world().broker.input[lane.log].low);
            if self.merge.fetched(*id).is_some_and(|next| next < low) {
                // What is next is gone; what was fetched before it goes out first.
                if self.merge.queued(*id) > 0 {
                    continue;
                }
                gone.push((*id, low));
                lane.next = self.sim.world().broker.input[lane.log].messages.partition_point(|m| low.is_past(m.offset));
            }
            if gone.iter().any(|(of, _)| of == id) {
                continue;
            }
            for _ in 0..self.sim.chance(|c| c.log(5)) {
                if self.merge.queued(*id) >= 64 {
                    break;
                }
                let (message, before) = {
                    let world = self.sim.world();
                    let log = &world.broker.input[lane.log].messages;
                    let before = lane.next.checked_sub(1).and_then(|n| log.get(n)).cloned();
                    (log.get(lane.next).filter(|m| m.appended <= now).cloned(), before)
                };
                let reader = &mut self.reader;
                let mut input = |m: &super::input::Message| InputMessage {
                    partition: *id,
                    offset: m.offset,
                    timestamp: m.timestamp,
                    content: reader(&m.bytes, m.timestamp, false),
                    bytes: m.bytes.len(),
                };
                if faults.duplicates
                    && self.sim.chance(|c| c.one_in(10))
                    && let Some(before) = before
                    && self.merge.push(*id, before.offset, before.timestamp, input(&before))
                {
                    return Err(Ended::Wrong("a message that was fetched twice was taken twice".to_owned()));
                }
                let Some(message) = message else {
                    if !self.merge.is_drained(*id) && self.sim.chance(|c| c.percent(50)) {
                        any = true;
                        self.merge.at_end(*id);
                    }
                    break;
                };
                lane.next += 1;
                any = true;
                if !self.merge.push(*id, message.offset, message.timestamp, input(&message)) {
                    return Err(Ended::Wrong(format!("offset {} of log {} was refused", message.offset, lane.log)));
                }
            }
        }
        for (id, low) in gone {
            any = true;
            let Some(from) = self.merge.fetched(id) else { continue };
            self.flush();
            self.merge.skip(id, low);
            self.caught_up = false;
            self.events.push_back(SourceEvent::Gap { partition: id, from, to: low });
        }
        Ok(any)
    }

    fn flush(&mut self) {
        if !self.batch.is_empty() {
            self.events.push_back(SourceEvent::Messages(mem::take(&mut self.batch)));
        }
    }

    fn deliver(&mut self) -> bool {
        let mut any = false;
        loop {
            match self.merge.step() {
                Step::Message { message, .. } => {
                    any = true;
                    self.caught_up = false;
                    self.batch.push(message);
                    if self.batch.len() >= self.most {
                        self.flush();
                        return true;
                    }
                }
                Step::Blocked(_) => {
                    self.flush();
                    return any;
                }
                Step::ReplayDone => {
                    any = true;
                    self.flush();
                    self.events.push_back(SourceEvent::ReplayDone);
                }
                Step::Idle => {
                    self.flush();
                    if !self.lanes.is_empty() && !mem::replace(&mut self.caught_up, true) {
                        self.events.push_back(SourceEvent::CaughtUp);
                        return true;
                    }
                    return any;
                }
            }
        }
    }
}
