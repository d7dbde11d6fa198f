//! The input: messages of all partitions of all input topics, in merged order, over a bounded channel.
//!
//! Invariant: messages are delivered only while this process owns every partition of the topics; each partition's in offset order, each
//! once from its start position on; a message that is lost is told as a [`SourceEvent::Gap`]. When the channel is full, fetching stops:
//! memory is bounded by the channel, a few messages a partition, and the read-ahead (`queued.max.messages.kbytes`, 128 MiB over all).
//!
//! The thread that does the work is in `consume`, the order in [`merge`](super::merge). Where reading starts is the caller's to know: the
//! group's committed positions are written, never read.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use rdkafka::error::RDKafkaErrorCode;

use super::client::{ClientError, KafkaSettings};
use super::cluster::Cluster;
use super::consume::{Consumption, Worker};
use super::context::ConnectionErrors;
use super::identity;
use super::merge::Run;
use super::position::{NextOffset, PartitionId, PartitionTable, TopicPartition};
use crate::time::Ticks;

/// Where a topic starts for which nothing is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Start {
    /// At the first message that is there.
    #[default]
    Earliest,
    /// At its end. A partition that appears beside stored ones starts at its first message all the same.
    Latest,
    /// At the first message whose timestamp is not before `from`. Where none before `end` is left, though there were some, that is a gap.
    Since {
        /// Where reading starts.
        from: Ticks,
        /// Up to where everything is known already.
        end: Ticks,
    },
}

/// What the source needs to know.
#[derive(Clone, Debug)]
pub struct SourceConfig {
    /// How to reach Kafka.
    pub settings: KafkaSettings,
    /// Input topics; their order decides among equal timestamps.
    pub topics: Vec<String>,
    /// The ids given so far (from the snapshot); new partitions are added behind them.
    pub table: PartitionTable,
    /// Stored positions: topic and partition → where to go on.
    pub positions: HashMap<(String, i32), NextOffset>,
    /// The timestamp of the message before each stored position, where it is known: it shows whether the topic is the same.
    pub stamps: HashMap<(String, i32), Ticks>,
    /// Where a topic starts of which no partition is in `positions`.
    pub start: Start,
    /// The order journal's runs, consumed first.
    pub replay: Vec<Run>,
    /// A name that is this member's for ever and no other's: coming back under it after a crash, it gets its partitions at once
    /// (static membership, KIP-345). Whoever else comes under it takes its place. `None`: a member like any other.
    pub member: Option<String>,
    /// How long to wait for a broker at the start.
    pub connect_timeout: Duration,
    /// Least time between two commits of a partition's position.
    pub commit_interval: Duration,
    /// How long a partition may hold all others back before that is said.
    pub waiting_after: Duration,
    /// At most this many messages in one [`SourceEvent::Messages`].
    pub batch_messages: usize,
    /// A batch is closed when what is kept of its messages reaches this many bytes.
    pub batch_bytes: usize,
    /// How many events the channel holds.
    pub channel_events: usize,
}

impl SourceConfig {
    /// Reads `topics` from their beginning, with the usual intervals.
    #[must_use]
    pub fn new(settings: KafkaSettings, topics: Vec<String>) -> Self {
        SourceConfig {
            settings,
            topics,
            table: PartitionTable::new(),
            positions: HashMap::new(),
            stamps: HashMap::new(),
            start: Start::Earliest,
            replay: Vec::new(),
            member: None,
            connect_timeout: Duration::from_secs(10),
            commit_interval: Duration::from_secs(5),
            waiting_after: Duration::from_secs(1),
            batch_messages: 64,
            batch_bytes: 1 << 20,
            channel_events: 8,
        }
    }
}

/// A message of the input, as its reader left it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InputMessage<M> {
    /// Its partition.
    pub partition: PartitionId,
    /// Its offset.
    pub offset: i64,
    /// The record's timestamp (millisecond resolution), if it has one.
    pub timestamp: Option<Ticks>,
    /// What the reader made of its value.
    pub content: M,
    /// Bytes that it takes in memory, about.
    pub bytes: usize,
}

/// What a reader leaves of a message. The memory that it takes bounds how much waits: a short value may unfold into much.
pub trait Kept {
    /// Bytes in memory, about.
    fn bytes(&self) -> usize;
}

impl Kept for Vec<u8> {
    fn bytes(&self) -> usize {
        self.capacity()
    }
}

/// Makes of a message's value (a null value is empty) and timestamp what is kept of it; true when the journal lists the message. It is called on the source's thread while the
/// value lies in librdkafka's memory, so that nothing need be copied that is not wanted.
pub type Reader<M> = Box<dyn FnMut(&[u8], Option<Ticks>, bool) -> M + Send>;

/// A partition and where it goes on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Assigned {
    /// Its id.
    pub id: PartitionId,
    /// What it stands for.
    pub of: TopicPartition,
    /// The next message that will be delivered lies here or later.
    pub position: NextOffset,
}

/// All that the source can say, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SourceEvent<M> {
    /// This process owns every partition; messages follow from these positions. All of them are to be stored, also those without
    /// messages, so that a restart knows which partitions are old. Comes again when partitions are added or ownership comes back.
    Assigned(Vec<Assigned>),
    /// Ownership is lost or being redistributed; no messages until the next `Assigned`.
    Revoked,
    /// The group gave this process fewer partitions than there are (another instance is in the group), so nothing is delivered.
    PartialAssignment {
        /// How many it gave.
        owned: usize,
        /// How many there are.
        total: usize,
    },
    /// The next messages, in merged order; never empty, never both replayed and live ones.
    Messages(Vec<InputMessage<M>>),
    /// All the journal's runs have been delivered (at once, when there were none): what follows is live.
    ReplayDone,
    /// Every partition is at its end and everything has been delivered. Comes again after each time that it was not so.
    CaughtUp,
    /// Messages are gone: retention, or someone, deleted them before they were read.
    Gap {
        /// Whose.
        partition: PartitionId,
        /// The first that is missing.
        from: NextOffset,
        /// Where it goes on.
        to: NextOffset,
    },
    /// This partition has more to give but gives nothing, and holds the others back. Said once each time.
    Waiting {
        /// Which.
        partition: PartitionId,
    },
    /// A failure that is being retried.
    Error(SourceError),
    /// A failure that ends the source; nothing comes after it.
    Fatal(SourceError),
}

/// What can go wrong with the input.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SourceError {
    /// The settings are refused, or no broker answered.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// There is no such input topic.
    #[error("input topic \"{topic}\" does not exist: create it, or correct input.topics")]
    MissingTopic {
        /// The topic.
        topic: String,
    },
    /// A stored position lies behind the partition's end.
    #[error(
        "{partition} ends at {end}, but was consumed up to {stored}: the topic was deleted and created again, or truncated; move the state directory away to start anew with it"
    )]
    PositionBeyondEnd {
        /// The partition.
        partition: TopicPartition,
        /// The stored position.
        stored: NextOffset,
        /// Where the partition ends.
        end: NextOffset,
    },
    /// The message before a stored position is another one.
    #[error(
        "{partition} is not the topic that was consumed: the message at offset {offset} was appended at {consumed}, the one that is there now at {found}, so it was deleted and created again; move the state directory away to start anew with it"
    )]
    Recreated {
        /// The partition.
        partition: TopicPartition,
        /// The message.
        offset: i64,
        /// Its timestamp when it was consumed.
        consumed: Ticks,
        /// Its timestamp now.
        found: Ticks,
    },
    /// The order journal lists a partition that is no input any more.
    #[error(
        "the order journal lists {partition}, which is no partition of input.topics any more: add the topic again until its messages are in a snapshot"
    )]
    ReplayPartition {
        /// The partition, or its bare id when the table does not know it.
        partition: String,
    },
    /// The cluster does not let us read the topic.
    #[error("Kafka refuses reading input topic \"{topic}\": allow READ on it for this client")]
    Forbidden {
        /// The topic.
        topic: String,
    },
    /// The cluster does not let us be a member of the group.
    #[error("Kafka refuses consumer group \"{group}\": allow READ on it for this client")]
    ForbiddenGroup {
        /// The group.
        group: String,
    },
    /// Another member came under this one's name.
    #[error(
        "another process with a copy of this state directory has joined consumer group \"{group}\" in this one's place: a state directory belongs to one process. Stop one of the two; if the copy is to serve another purpose, remove its file LOCK and give it an input.group_id and output topics of its own"
    )]
    Replaced {
        /// The group.
        group: String,
    },
    /// Fetching or the group failed.
    #[error("reading the input failed: {code}")]
    Consume {
        /// Kafka's error.
        code: RDKafkaErrorCode,
    },
    /// librdkafka refused an operation.
    #[error("reading the input failed: {reason}")]
    Refused {
        /// librdkafka's words.
        reason: String,
    },
    /// The thread could not be started.
    #[error("the input's thread could not be started: {reason}")]
    Thread {
        /// The system's words.
        reason: String,
    },
}

/// How far a partition is behind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lag {
    /// Which partition.
    pub partition: TopicPartition,
    /// Messages between what was delivered and the log's end, as of the last second; zero while the end is unknown.
    pub messages: i64,
}

/// What the source's thread and its handle share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) stop: AtomicBool,
    /// Positions that may be committed to the group.
    commits: Mutex<BTreeMap<PartitionId, NextOffset>>,
    /// Delivered positions.
    delivered: Mutex<BTreeMap<PartitionId, (TopicPartition, NextOffset)>>,
    /// Log ends by topic and partition, from librdkafka's statistics.
    ends: Mutex<HashMap<TopicPartition, NextOffset>>,
    /// Failed connections of the consumer.
    pub(super) errors: Arc<ConnectionErrors>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn commits(&self) -> MutexGuard<'_, BTreeMap<PartitionId, NextOffset>> {
        lock(&self.commits)
    }

    pub(super) fn delivered(&self) -> MutexGuard<'_, BTreeMap<PartitionId, (TopicPartition, NextOffset)>> {
        lock(&self.delivered)
    }

    pub(super) fn ends(&self) -> MutexGuard<'_, HashMap<TopicPartition, NextOffset>> {
        lock(&self.ends)
    }
}

/// The running source.
#[derive(Debug)]
pub struct SourceHandle<M> {
    /// What the source says. A receiver that is slow makes it fetch slower.
    pub events: Receiver<SourceEvent<M>>,
    shared: Arc<Shared>,
    wake: Sender<()>,
    finished: Receiver<()>,
    thread: Option<thread::JoinHandle<()>>,
}

/// Starts the source: waits for a broker, checks that every input topic exists, then joins the group on a thread of its own.
///
/// # Errors
/// The settings are refused, no broker answers within `connect_timeout`, an input topic does not exist, or the replay lists a
/// partition that there is none of.
pub fn start<M: Kept + Send + 'static>(config: SourceConfig, reader: Reader<M>) -> Result<SourceHandle<M>, SourceError> {
    let cluster = Cluster::new(&config.settings, config.connect_timeout)?;
    let mut present = Vec::new();
    for topic in &config.topics {
        let partitions = cluster.partitions(topic)?.ok_or_else(|| SourceError::MissingTopic { topic: topic.clone() })?;
        present.extend(partitions.into_iter().map(|partition| TopicPartition { topic: topic.clone(), partition }));
    }
    for run in &config.replay {
        match config.table.get(run.partition) {
            Some(entry) if present.contains(entry) => {}
            Some(entry) => return Err(SourceError::ReplayPartition { partition: entry.to_string() }),
            None => return Err(SourceError::ReplayPartition { partition: format!("partition id {}", run.partition.0) }),
        }
    }
    let is_present = |(topic, partition): &(String, i32)| present.iter().any(|of| of.topic == *topic && of.partition == *partition);
    let stamps = config.stamps.iter().filter(|(key, _)| is_present(key)).map(|(key, at)| (key.clone(), *at)).collect();
    let looked_at = identity::there(&config.positions, &stamps, |of| Ok(cluster.ends(&of.topic, of.partition)?))?;
    identity::check(&config.settings, looked_at, config.connect_timeout.min(Duration::from_secs(5)))?;
    let (events_tx, events) = bounded(config.channel_events.max(1));
    let (wake, wake_rx) = bounded(1);
    let (finished_tx, finished) = bounded(1);
    let shared = Arc::new(Shared::default());
    // From here on a question that gets no answer is asked again by the thread, which has to serve the group in between.
    let cluster = cluster.with_patience(config.connect_timeout.min(Duration::from_secs(1)));
    let consumption = Consumption { cluster, shared: Arc::clone(&shared), events: events_tx, wake: (wake.clone(), wake_rx) };
    let worker = Worker::new(config, reader, present.len(), consumption)?;
    let thread = thread::Builder::new()
        .name("kafka-source".to_owned())
        .spawn(move || {
            worker.run();
            let _ = finished_tx.send(());
        })
        .map_err(|error| SourceError::Thread { reason: error.to_string() })?;
    Ok(SourceHandle { events, shared, wake, finished, thread: Some(thread) })
}

/// How far partitions are behind: what is appended and not delivered. It waits for neither the source nor who takes its events.
#[derive(Debug)]
pub struct Behind(Arc<Shared>);

impl Behind {
    /// Each assigned partition, in the order of their ids.
    #[must_use]
    pub fn lag(&self) -> Vec<Lag> {
        let ends = self.0.ends();
        let behind = |of: &TopicPartition, at: NextOffset| ends.get(of).map_or(0, |end| (end.0 - at.0).max(0));
        self.0.delivered().values().map(|(of, at)| Lag { partition: of.clone(), messages: behind(of, *at) }).collect()
    }
}

/// How long [`SourceHandle::stop`] waits for the brokers to take the last commit and the group to be left.
const STOP_WITHIN: Duration = Duration::from_secs(3);

impl<M> SourceHandle<M> {
    /// Lets these positions be committed to the group: at most once a `commit_interval`, the last ones at the stop. They are for
    /// people's tools; one that a broker did not take harms nothing, and is made up for within a minute.
    pub fn commit(&self, positions: &[(PartitionId, NextOffset)]) {
        self.shared.commits().extend(positions.iter().copied());
    }

    /// How far partitions are behind, for whoever asks at whatever time.
    #[must_use]
    pub fn behind(&self) -> Behind {
        Behind(Arc::clone(&self.shared))
    }

    /// Failed connections and log-ins of the consumer.
    #[must_use]
    pub fn connection_errors(&self) -> Arc<ConnectionErrors> {
        Arc::clone(&self.shared.errors)
    }

    /// Stops: no more events, commits, leaves the group. Waits a few seconds for that and goes on without when no broker answers.
    pub fn stop(mut self) {
        self.halt();
    }

    fn halt(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.shared.stop.store(true, Ordering::Release);
        let _ = self.wake.try_send(());
        if self.finished.recv_timeout(STOP_WITHIN) == Err(crossbeam_channel::RecvTimeoutError::Timeout) {
            tracing::warn!("no broker took the last commit in time; the group will notice by its session timeout");
            return;
        }
        if thread.join().is_err() {
            tracing::error!("the input's thread panicked");
        }
    }
}

impl<M> Drop for SourceHandle<M> {
    fn drop(&mut self) {
        self.halt();
    }
}
