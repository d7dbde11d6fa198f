//! Brokers: the input's logs, which fill as time passes; the output's logs; and what is on its way between them and a producer.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use firstseen::kafka::position::NextOffset;
use firstseen::kafka::readback::{ReadbackError, Record, Unread};
use firstseen::kafka::sink::{Delivery, Outgoing, PublishError, SinkError};
use firstseen::service::ServiceError;
use firstseen::service::publisher::Publish;
use firstseen::service::restore::Outputs;
use firstseen::time::{Span, Ticks};
use rdkafka::error::RDKafkaErrorCode;
use xxhash_rust::xxh3::xxh3_64;

use super::input::{DEAD_LETTERS, Input};
use super::world::{Sim, World};

/// Partitions of each output topic.
pub(crate) const OUTPUTS: i32 = 3;

/// A partition of an output topic.
pub(crate) type At = (String, i32);

/// Where the producer puts a key.
pub(crate) fn partition(key: &[u8]) -> i32 {
    (xxh3_64(key) % OUTPUTS as u64) as i32
}

struct OnItsWay {
    outgoing: Outgoing,
    arrives: Ticks,
}

/// The cluster.
pub(crate) struct Broker {
    pub(crate) input: Input,
    pub(crate) output: BTreeMap<At, Vec<Outgoing>>,
    on_its_way: BTreeMap<At, VecDeque<OnItsWay>>,
    acknowledgements: Vec<(Ticks, Delivery)>,
    ready: VecDeque<Delivery>,
    /// Messages of dead processes that are still in some socket.
    late: Vec<(Ticks, At, Outgoing)>,
    away_until: Option<Ticks>,
    /// A producer that has failed fails for everything that comes after.
    failed: bool,
    refused_in_a_row: usize,
}

impl Broker {
    pub(crate) fn new(input: Input) -> Broker {
        Broker {
            input,
            output: BTreeMap::new(),
            on_its_way: BTreeMap::new(),
            acknowledgements: Vec::new(),
            ready: VecDeque::new(),
            late: Vec::new(),
            away_until: None,
            failed: false,
            refused_in_a_row: 0,
        }
    }

    /// Nothing is on its way any more.
    pub(crate) fn is_quiet(&self) -> bool {
        self.outstanding() == 0 && self.ready.is_empty() && self.late.is_empty()
    }

    /// Messages that the producer has no answer for.
    fn outstanding(&self) -> usize {
        self.on_its_way.values().map(VecDeque::len).sum::<usize>() + self.acknowledgements.len()
    }

    /// When something arrives next.
    pub(crate) fn next(&self) -> Option<Ticks> {
        let fronts = self.on_its_way.values().filter_map(|queue| queue.front().map(|m| m.arrives));
        let acks = self.acknowledgements.iter().map(|(at, _)| *at);
        fronts.chain(acks).chain(self.late.iter().map(|(at, ..)| *at)).min().map(|at| at.max(self.away_until.unwrap_or(at)))
    }
}

impl World {
    /// Retention takes the beginning of some log, read or not.
    pub(crate) fn retention(&mut self) {
        let n = self.chance.below(self.broker.input.len());
        let (now, chance) = (self.now, &mut self.chance);
        let Some(log) = self.broker.input.get_mut(n) else { return };
        let end = log.end(now);
        // As far as it has come, or as it says: what was written lately is rarely gone.
        let left = if chance.percent(20) { 0 } else { chance.log(4) as i64 };
        log.low = log.low.max(end - left);
    }

    /// Whether the brokers are away; they go, and come back, as the seed says.
    pub(crate) fn brokers_away(&mut self) -> bool {
        if self.broker.away_until.is_some_and(|until| self.now < until) {
            return true;
        }
        self.broker.away_until = None;
        if self.faults.broker_away && self.chance.one_in(600) {
            let until = self.now.plus(Span::minutes(1)).plus(self.chance.span(Span::hours(30)));
            self.broker.away_until = Some(until);
        }
        self.broker.away_until.is_some()
    }

    /// The process is gone. What it had on its way is lost from some point on, and before that it arrives: at once, or, in a network
    /// that delays, later than the next process starts, but before the topics have settled.
    pub(crate) fn producer_died(&mut self) {
        for (at, queue) in std::mem::take(&mut self.broker.on_its_way) {
            let arriving = self.chance.below(queue.len() + 1);
            let mut late = false;
            for sent in queue.into_iter().take(arriving) {
                late |= self.faults.late_writes && self.chance.percent(50);
                if late {
                    let longest = if self.chance.percent(50) { Span::minutes(1) } else { SETTLE.minus(Span(1)) };
                    let delay = self.chance.span(longest);
                    let earliest = self.broker.late.iter().filter(|(_, to, _)| *to == at).map(|(when, ..)| *when).max();
                    let when = self.now.plus(delay).max(earliest.unwrap_or(self.now));
                    self.broker.late.push((when, at.clone(), sent.outgoing));
                } else {
                    self.broker.output.entry(at.clone()).or_default().push(sent.outgoing);
                }
            }
        }
        self.broker.acknowledgements.clear();
        self.broker.ready.clear();
        self.broker.failed = false;
    }
}

/// What a dead process had on its way has arrived, or never will, this long after its death.
pub(crate) const SETTLE: Span = Span::hours(3);

impl Sim {
    /// How long it takes until something arrives, and a little longer.
    fn until_next(&self) -> Span {
        let world = self.world();
        let next = world.broker.next().map_or(0, |next| next.0 - world.now.0);
        Span(next.max(0) + Span::seconds(1).0)
    }

    /// Appends what has arrived, and sends acknowledgements.
    pub(crate) fn brokers_work(&self) {
        loop {
            let mut world = self.world();
            let now = world.now;
            if world.broker.away_until.is_some_and(|until| now < until) {
                return;
            }
            if let Some(n) = world.broker.late.iter().position(|(when, ..)| *when <= now) {
                let (_, at, outgoing) = world.broker.late.remove(n);
                world.broker.output.entry(at).or_default().push(outgoing);
                continue;
            }
            let arrived = world.broker.on_its_way.iter().find(|(_, queue)| queue.front().is_some_and(|m| m.arrives <= now));
            let Some(at) = arrived.map(|(at, _)| at.clone()) else { break };
            drop(world);
            self.effect(format_args!("append {} {}", at.0, at.1), &[]);
            let mut world = self.world();
            let Some(OnItsWay { outgoing, .. }) = world.broker.on_its_way.get_mut(&at).and_then(VecDeque::pop_front) else { break };
            let token = outgoing.token;
            let log = world.broker.output.entry(at.clone()).or_default();
            log.push(outgoing);
            let offset = log.len() as i64 - 1;
            let most = if world.faults.slow_sink { Span::hours(8) } else { Span::minutes(10) };
            let when = now.plus(world.chance.span(most));
            world.broker.acknowledgements.push((when, Delivery { token, result: Ok((at.1, offset)) }));
        }
        let mut world = self.world();
        let now = world.now;
        let (ready, rest) = std::mem::take(&mut world.broker.acknowledgements).into_iter().partition(|(when, _)| *when <= now);
        world.broker.acknowledgements = rest;
        world.broker.ready.extend(Vec::from_iter::<Vec<(Ticks, Delivery)>>(ready).into_iter().map(|(_, delivery)| delivery));
    }
}

/// The producer.
pub(crate) struct SimSink(pub(crate) Sim);

impl Publish for SimSink {
    fn publish(&self, outgoing: Outgoing) -> Result<(), PublishError> {
        let name = |name: &str| outgoing.headers.iter().find(|(header, _)| header == name).map(|(_, value)| String::from_utf8_lossy(value));
        self.0.say(format_args!(
            "publish {} {} {} {} {}",
            outgoing.topic,
            partition(&outgoing.key),
            String::from_utf8_lossy(&outgoing.key),
            name("revision").unwrap_or_default(),
            name("change").unwrap_or_default()
        ));
        self.0.effect(format_args!("publish {}", outgoing.topic), &outgoing.payload);
        let mut world = self.0.world();
        let limit = if world.faults.slow_sink { 4 } else { 200 };
        if world.broker.outstanding() >= limit {
            world.broker.refused_in_a_row += 1;
            let again = world.broker.refused_in_a_row > 1;
            drop(world);
            if again {
                // Room comes by itself, since time passes.
                self.0.pass(self.0.until_next());
            }
            return Err(PublishError::Full(Box::new(outgoing)));
        }
        world.broker.refused_in_a_row = 0;
        if outgoing.topic == DEAD_LETTERS && world.faults.largest.is_some_and(|largest| outgoing.payload.len() > largest) {
            let error = SinkError::TooLarge { topic: outgoing.topic.clone() };
            if world.chance.percent(50) {
                return Err(PublishError::Refused(Box::new(outgoing), error));
            }
            world.broker.ready.push_back(Delivery { token: outgoing.token, result: Err(error) });
            return Ok(());
        }
        if world.broker.failed || (world.faults.produce_errors && world.chance.one_in(150)) {
            world.broker.failed = true;
            let error = SinkError::Failed { topic: outgoing.topic.clone(), code: RDKafkaErrorCode::TopicAuthorizationFailed };
            if world.chance.percent(50) {
                return Err(PublishError::Refused(Box::new(outgoing), error));
            }
            world.broker.ready.push_back(Delivery { token: outgoing.token, result: Err(error) });
            return Ok(());
        }
        let at = (outgoing.topic.clone(), partition(&outgoing.key));
        let most = if world.faults.slow_sink { Span::hours(4) } else { Span::minutes(2) };
        let (now, takes) = (world.now, world.chance.span(most));
        let queue = world.broker.on_its_way.entry(at).or_default();
        let arrives = now.plus(takes).max(queue.back().map_or(now, |last| last.arrives));
        queue.push_back(OnItsWay { outgoing, arrives });
        Ok(())
    }

    fn next_delivery(&self, wait: Duration) -> Option<Delivery> {
        if !wait.is_zero() && self.0.world().broker.ready.is_empty() {
            self.0.pass(self.0.until_next());
        }
        self.0.brokers_work();
        let delivery = self.0.world().broker.ready.pop_front()?;
        self.0.effect(format_args!("delivery {} {}", delivery.token, delivery.result.is_ok()), &[]);
        Some(delivery)
    }

    fn fatal(&self) -> Option<SinkError> {
        None
    }
}

/// The reader of output topics.
pub(crate) struct SimOutputs(pub(crate) Sim);

impl SimOutputs {
    /// Each partition of the topic with its log's start and end.
    fn logs(&self, topic: &str) -> Result<BTreeMap<i32, (NextOffset, NextOffset)>, ServiceError> {
        self.0.effect(format_args!("ends {topic}"), &[]);
        let mut world = self.0.world();
        if world.brokers_away() {
            let waited = Duration::from_secs(10);
            return Err(ReadbackError::Stalled { topic: topic.to_owned(), waited, reason: "simulated".to_owned() }.into());
        }
        let end = |partition| world.broker.output.get(&(topic.to_owned(), partition)).map_or(0, Vec::len) as i64;
        Ok((0..OUTPUTS).map(|partition| (partition, (NextOffset(0), NextOffset(end(partition))))).collect())
    }
}

impl Outputs for SimOutputs {
    fn ends(&mut self, topic: &str) -> Result<BTreeMap<i32, NextOffset>, ServiceError> {
        Ok(self.logs(topic)?.into_iter().map(|(partition, (_, end))| (partition, end)).collect())
    }

    fn read(
        &mut self,
        topic: &str,
        from: &BTreeMap<i32, NextOffset>,
        each: &mut dyn FnMut(&Record<'_>),
    ) -> Result<BTreeMap<i32, NextOffset>, ServiceError> {
        let mut unread = Unread::new(topic, self.logs(topic)?, from)?;
        for (partition, start) in unread.starts().clone() {
            self.0.effect(format_args!("read-output {topic} {partition} {start}"), &[]);
            let log = self.0.world().broker.output.get(&(topic.to_owned(), partition)).cloned().unwrap_or_default();
            for (outgoing, offset) in log.iter().zip(0..).skip(start.0 as usize) {
                if unread.message(partition, offset) {
                    each(&Record {
                        partition,
                        offset,
                        key: &outgoing.key,
                        payload: &outgoing.payload,
                        headers: outgoing.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect(),
                    });
                }
            }
        }
        Ok(unread.ends())
    }
}
