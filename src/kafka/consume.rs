//! The source's thread: group membership, fetching, feeding the merge, delivering. What the group decides is carried out in `assignment`;
//! commits and the end of the membership are in `leaving`.
//!
//! Invariant: it never blocks on anything without going on to serve the group, so a slow receiver does not cost the membership. Each
//! partition has a queue of its own that is drained only as the merge needs it; librdkafka stops fetching for a queue that is full.

use crate::host_clock;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, SendTimeoutError, Sender};
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;

use super::client::{Logged, Role, client_error};
use super::cluster::Cluster;
use super::group::{Context, Rebalance};
use super::merge::{Merge, Step};
use super::position::{NextOffset, PartitionId, PartitionTable, TopicPartition};
use super::source::{InputMessage, Kept, Reader, Shared, SourceConfig, SourceError, SourceEvent};
use crate::time::Ticks;

mod assignment;
mod leaving;

/// How long the thread sleeps when there is nothing to do; a message wakes it earlier.
const TICK: Duration = Duration::from_millis(20);
/// How long an assignment that could not be completed (a broker is away) rests.
const RETRY: Duration = Duration::from_millis(250);
/// The same error is told at most once in this time.
const REPEAT: Duration = Duration::from_secs(5);
/// Messages and bytes of one partition that are taken from librdkafka ahead of the merge.
const QUEUED_MESSAGES: usize = 64;
const QUEUED_BYTES: usize = 1 << 20;

/// The thread's ends of what it shares with its handle.
pub(super) struct Consumption<M> {
    pub(super) cluster: Cluster,
    pub(super) shared: Arc<Shared>,
    pub(super) events: Sender<SourceEvent<M>>,
    pub(super) wake: (Sender<()>, Receiver<()>),
}

struct Lane {
    of: TopicPartition,
    queue: PartitionQueue<Context>,
    queued_bytes: usize,
}

/// The thread was told to stop, or nobody listens any more.
struct Stopped;
type Flow = Result<(), Stopped>;

/// The source's state, owned by its thread.
pub(super) struct Worker<M> {
    config: SourceConfig,
    reader: Reader<M>,
    io: Consumption<M>,
    consumer: Arc<BaseConsumer<Context>>,
    table: PartitionTable,
    merge: Merge<InputMessage<M>>,
    lanes: BTreeMap<PartitionId, Lane>,
    /// The group's last word, until it has been carried out.
    assignment: Option<(Vec<TopicPartition>, Instant)>,
    /// A member that came back is given what it had, also when there is more by now.
    may_be_old: bool,
    partial: Option<(usize, usize)>,
    out_of_range: BTreeSet<PartitionId>,
    range_due: Instant,
    batch: Vec<InputMessage<M>>,
    batch_bytes: usize,
    caught_up: bool,
    blocked: Option<(PartitionId, Instant, bool)>,
    failures: Vec<KafkaError>,
    told: HashMap<String, Instant>,
    committed: BTreeMap<PartitionId, NextOffset>,
    last_commit: Instant,
    last_of_all: Instant,
    /// Log ends at the last commit, to tell an idle partition's from a moving one's.
    ends_before: HashMap<TopicPartition, NextOffset>,
}

impl<M: Kept + Send + 'static> Worker<M> {
    /// Makes the consumer and subscribes; `partitions` is how many there are now.
    pub(super) fn new(config: SourceConfig, reader: Reader<M>, partitions: usize, io: Consumption<M>) -> Result<Self, SourceError> {
        let context = Context::new(Logged::of(&config.settings)?, Arc::clone(&io.shared));
        let mut client = config.settings.config(Role::Consumer, partitions)?;
        if let Some(member) = &config.member {
            client.set("group.instance.id", member);
        }
        let mut consumer: BaseConsumer<Context> = client.create_with_context(context).map_err(client_error)?;
        let wake = io.wake.0.clone();
        consumer.set_nonempty_callback(move || {
            let _ = wake.try_send(());
        });
        subscribe(&consumer, &config.topics)?;
        Ok(Worker {
            merge: Merge::new(config.replay.iter().copied()),
            table: config.table.clone(),
            may_be_old: config.member.is_some(),
            config,
            reader,
            io,
            consumer: Arc::new(consumer),
            lanes: BTreeMap::new(),
            assignment: None,
            partial: None,
            out_of_range: BTreeSet::new(),
            range_due: host_clock::monotonic(),
            batch: Vec::new(),
            batch_bytes: 0,
            caught_up: false,
            blocked: None,
            failures: Vec::new(),
            told: HashMap::new(),
            committed: BTreeMap::new(),
            last_commit: host_clock::monotonic(),
            last_of_all: host_clock::monotonic(),
            ends_before: HashMap::new(),
        })
    }

    /// Runs until the handle stops it, nobody listens, or a fatal error was told; then commits and leaves the group.
    pub(super) fn run(mut self) {
        while self.turn().is_ok() {}
        self.close();
    }

    fn turn(&mut self) -> Flow {
        self.serve()?;
        let mut busy = false;
        for id in self.lanes.keys().copied().collect::<Vec<_>>() {
            busy |= self.fill(id)?;
        }
        busy |= self.deliver()?;
        if !self.out_of_range.is_empty() {
            self.recover_range()?;
        }
        self.commit_if_due();
        if !busy {
            let _ = self.io.wake.1.recv_timeout(TICK);
        }
        Ok(())
    }

    /// Serves the group: everything that must go on also while the receiver is slow.
    fn serve(&mut self) -> Flow {
        if self.io.shared.stop.load(Ordering::Acquire) {
            return Err(Stopped);
        }
        self.poll_group();
        for error in mem::take(&mut self.failures) {
            if let Some(error) = self.failure(&error)? {
                self.tell(error)?;
            }
        }
        if let Some(refusal) = self.consumer.context().take_refusal(&self.config.settings) {
            self.tell(refusal.into())?;
        }
        for rebalance in self.consumer.context().take_rebalances() {
            match rebalance {
                Rebalance::Assign(partitions) => self.assignment = Some((partitions, host_clock::monotonic())),
                Rebalance::Revoke => {
                    self.assignment = None;
                    self.revoke()?;
                }
            }
        }
        match self.assignment.take() {
            Some((partitions, due)) if due <= host_clock::monotonic() => {
                if let Err(error) = self.assign(&partitions)? {
                    self.assignment = Some((partitions, host_clock::monotonic() + RETRY));
                    self.tell(error)?;
                }
            }
            later => self.assignment = later,
        }
        Ok(())
    }

    /// Lets librdkafka run its callbacks, and notes failures.
    fn poll_group(&mut self) {
        match self.consumer.poll(Duration::ZERO) {
            // A partition's messages come through its own queue. One that does not would be lost here: fetched anew.
            Some(Ok(message)) => {
                self.out_of_range.extend(self.table.id(message.topic(), message.partition()));
            }
            Some(Err(error)) if self.failures.len() < 16 => self.failures.push(error),
            Some(Err(_)) | None => {}
        }
    }

    /// Takes what the partition has, up to a bound; whether that was anything.
    fn fill(&mut self, id: PartitionId) -> Result<bool, Stopped> {
        let mut any = false;
        let mut failure = None;
        while let Some(lane) = self.lanes.get_mut(&id) {
            if self.merge.queued(id) == 0 {
                lane.queued_bytes = 0;
            }
            if self.merge.queued(id) >= QUEUED_MESSAGES || lane.queued_bytes >= QUEUED_BYTES {
                break;
            }
            match lane.queue.poll(Duration::ZERO) {
                Some(Ok(message)) => {
                    let (offset, timestamp) = (message.offset(), message.timestamp().to_millis().map(Ticks::from_millis));
                    let content = (self.reader)(message.payload().unwrap_or_default(), timestamp, self.merge.is_replayed(id, offset));
                    let bytes = content.bytes();
                    lane.queued_bytes += bytes;
                    if !self.merge.push(id, offset, timestamp, InputMessage { partition: id, offset, timestamp, content, bytes }) {
                        tracing::debug!(partition = %lane.of, offset, "a repeated offset was refused");
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => self.merge.at_end(id),
                Some(Err(error)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AutoOffsetReset) => {
                    self.out_of_range.insert(id);
                }
                Some(Err(error)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::TopicAuthorizationFailed) => {
                    failure = Some(SourceError::Forbidden { topic: lane.of.topic.clone() });
                }
                Some(Err(error)) => failure = self.failure(&error)?,
                None => break,
            }
            any = true;
            if let Some(error) = failure.take() {
                self.tell(error)?;
            }
        }
        Ok(any)
    }

    /// Gives out what is in order; whether that was anything.
    fn deliver(&mut self) -> Result<bool, Stopped> {
        let mut any = false;
        loop {
            match self.merge.step() {
                Step::Message { message, .. } => {
                    any = true;
                    self.caught_up = false;
                    self.blocked = None;
                    self.batch_bytes += message.bytes;
                    self.batch.push(message);
                    if self.batch.len() >= self.config.batch_messages || self.batch_bytes >= self.config.batch_bytes {
                        self.flush()?;
                        return Ok(true);
                    }
                }
                Step::Blocked(id) => {
                    if self.fill(id)? {
                        continue;
                    }
                    self.flush()?;
                    self.note_blocked(id)?;
                    return Ok(any);
                }
                Step::ReplayDone => {
                    self.flush()?;
                    self.send(SourceEvent::ReplayDone)?;
                }
                Step::Idle => {
                    self.flush()?;
                    self.blocked = None;
                    if !self.lanes.is_empty() && !mem::replace(&mut self.caught_up, true) {
                        self.send(SourceEvent::CaughtUp)?;
                    }
                    return Ok(any);
                }
            }
        }
    }

    fn note_blocked(&mut self, id: PartitionId) -> Flow {
        match &mut self.blocked {
            Some((by, since, told)) if *by == id => {
                if !*told && since.elapsed() >= self.config.waiting_after {
                    *told = true;
                    return self.send(SourceEvent::Waiting { partition: id });
                }
            }
            other => *other = Some((id, host_clock::monotonic(), false)),
        }
        Ok(())
    }

    /// Sends the batch and moves the delivered positions.
    fn flush(&mut self) -> Flow {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.batch_bytes = 0;
        let batch = mem::take(&mut self.batch);
        let moved: Vec<(PartitionId, NextOffset)> = batch.iter().map(|m| (m.partition, NextOffset::after(m.offset))).collect();
        self.send(SourceEvent::Messages(batch))?;
        let mut delivered = self.io.shared.delivered();
        for (id, position) in moved {
            if let Some((_, at)) = delivered.get_mut(&id) {
                *at = position;
            }
        }
        Ok(())
    }

    /// Hands an event over, serving the group while the receiver is slow.
    fn send(&mut self, event: SourceEvent<M>) -> Flow {
        let mut event = event;
        loop {
            match self.io.events.send_timeout(event, TICK) {
                Ok(()) => return Ok(()),
                Err(SendTimeoutError::Disconnected(_)) => return Err(Stopped),
                Err(SendTimeoutError::Timeout(back)) => event = back,
            }
            if self.io.shared.stop.load(Ordering::Acquire) {
                return Err(Stopped);
            }
            // Only records what happens; it is carried out once this event is delivered.
            self.poll_group();
        }
    }

    fn fatal<T>(&mut self, error: SourceError) -> Result<T, Stopped> {
        let _ = self.send(SourceEvent::Fatal(error));
        Err(Stopped)
    }

    /// Tells a failure that is retried; the same one not too often.
    fn tell(&mut self, error: SourceError) -> Flow {
        let now = host_clock::monotonic();
        self.told.retain(|_, at| now.duration_since(*at) < REPEAT);
        if self.told.insert(error.to_string(), now).is_some() {
            return Ok(());
        }
        self.send(SourceEvent::Error(error))
    }

    /// What is to be told of a failure that is retried; one that can't be ends the source.
    fn failure(&mut self, error: &KafkaError) -> Result<Option<SourceError>, Stopped> {
        Ok(Some(match (error, error.rdkafka_error_code()) {
            (KafkaError::PartitionEOF(_), _) => return Ok(None),
            (KafkaError::MessageConsumptionFatal(RDKafkaErrorCode::FencedInstanceId), _) => {
                return self.fatal(SourceError::Replaced { group: self.config.settings.group_id.clone() });
            }
            (KafkaError::MessageConsumptionFatal(code), _) => return self.fatal(SourceError::Consume { code: *code }),
            (_, Some(RDKafkaErrorCode::GroupAuthorizationFailed)) => {
                SourceError::ForbiddenGroup { group: self.config.settings.group_id.clone() }
            }
            (_, Some(code)) => SourceError::Consume { code },
            (other, None) => SourceError::Refused { reason: other.to_string() },
        }))
    }
}

fn subscribe(consumer: &BaseConsumer<Context>, topics: &[String]) -> Result<(), SourceError> {
    let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
    consumer.subscribe(&topics).map_err(|error| refused(&error))
}

fn refused(error: &KafkaError) -> SourceError {
    SourceError::Refused { reason: error.to_string() }
}
