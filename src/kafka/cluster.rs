//! Questions about the cluster: which partitions a topic has, where their logs start and end.
//!
//! Invariant: a question is answered, refused, or given up after a known time with librdkafka's reason; an answer that a moment may
//! change (a leader being elected) is asked for again. Nothing is created or joined.

use crate::host_clock;
use std::fmt;
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::client::{ClientError, KafkaSettings, Logged, Role, client_error};
use super::position::NextOffset;
use crate::time::Ticks;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

/// Errors that go away by themselves when the broker is back.
pub(super) fn is_transient(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as E;
    matches!(
        code,
        E::BrokerTransportFailure
            // The connection that the question waited on was given up, since its broker left the cluster's metadata.
            | E::DestroyBroker
            | E::AllBrokersDown
            | E::OperationTimedOut
            | E::RequestTimedOut
            | E::Resolve
            | E::LeaderNotAvailable
            | E::NotLeaderForPartition
            | E::BrokerNotAvailable
            | E::CoordinatorLoadInProgress
            | E::CoordinatorNotAvailable
            | E::NotCoordinator
            | E::NetworkException
            | E::OffsetNotAvailable
            | E::UnknownLeaderEpoch
            | E::FencedLeaderEpoch
    )
}

/// A connection for questions about topics.
pub struct Cluster {
    consumer: BaseConsumer<Logged>,
    settings: KafkaSettings,
    patience: Duration,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("bootstrap_servers", &self.settings.bootstrap_servers).finish_non_exhaustive()
    }
}

/// How often an answer that may be a moment old (a topic just created) is asked for again.
const PAUSE: Duration = Duration::from_millis(100);

impl Cluster {
    /// Makes the client; connects when the first question is asked. `patience` bounds how long each question may take.
    ///
    /// # Errors
    /// The settings are refused.
    pub fn new(settings: &KafkaSettings, patience: Duration) -> Result<Self, ClientError> {
        Cluster::of(settings.config(Role::Metadata, 1)?, settings, patience)
    }

    /// Like [`new`](Cluster::new), but ends are those of everything that is written, also inside an open transaction.
    pub(super) fn uncommitted(settings: &KafkaSettings, patience: Duration) -> Result<Self, ClientError> {
        let mut config = settings.config(Role::Metadata, 1)?;
        config.set("isolation.level", "read_uncommitted");
        Cluster::of(config, settings, patience)
    }

    fn of(config: ClientConfig, settings: &KafkaSettings, patience: Duration) -> Result<Self, ClientError> {
        let consumer = config.create_with_context(Logged::of(settings)?).map_err(client_error)?;
        let cluster = Cluster { consumer, settings: settings.clone(), patience };
        // A token that has to be fetched is due at once.
        cluster.serve();
        Ok(cluster)
    }

    /// The same connection with another patience.
    pub(super) fn with_patience(self, patience: Duration) -> Self {
        Cluster { patience, ..self }
    }

    /// The topic's partition numbers, ascending; `None` when there is no such topic.
    ///
    /// # Errors
    /// No broker answered in time, or access is refused.
    pub fn partitions(&self, topic: &str) -> Result<Option<Vec<i32>>, ClientError> {
        self.ask(topic, |timeout| {
            let metadata = self.consumer.fetch_metadata(Some(topic), timeout)?;
            let Some(found) = metadata.topics().iter().find(|t| t.name() == topic) else { return Ok(None) };
            match found.error().map(RDKafkaErrorCode::from) {
                None => {}
                Some(RDKafkaErrorCode::UnknownTopicOrPartition) => return Ok(None),
                Some(code) => return Err(KafkaError::MetadataFetch(code)),
            }
            let mut partitions: Vec<i32> = found.partitions().iter().map(rdkafka::metadata::MetadataPartition::id).collect();
            partitions.sort_unstable();
            Ok(Some(partitions).filter(|p| !p.is_empty()))
        })
    }

    /// Where the partition's log starts and ends: the first offset that is there, and the offset of the next message to come (or of the
    /// first that an open transaction holds back, with the usual `isolation.level`).
    ///
    /// # Errors
    /// No broker answered in time, or access is refused.
    pub fn ends(&self, topic: &str, partition: i32) -> Result<(NextOffset, NextOffset), ClientError> {
        let (low, high) = self.ask(topic, |timeout| self.consumer.fetch_watermarks(topic, partition, timeout))?;
        Ok((NextOffset(low), NextOffset(high)))
    }

    /// The first message whose timestamp is `at` or later; `end`, which is where the partition ends, when there is none.
    ///
    /// # Errors
    /// No broker answered in time, or access is refused.
    pub fn offset_since(&self, topic: &str, partition: i32, at: Ticks, end: NextOffset) -> Result<NextOffset, ClientError> {
        self.ask(topic, |timeout| {
            let mut asked = TopicPartitionList::new();
            asked.add_partition_offset(topic, partition, Offset::Offset(at.0.div_euclid(10_000).max(0)))?;
            let found = self.consumer.offsets_for_times(asked, timeout)?;
            let Some(element) = found.find_partition(topic, partition) else { return Ok(end) };
            element.error()?;
            Ok(match element.offset() {
                Offset::Offset(offset) => NextOffset(offset),
                _ => end,
            })
        })
    }

    /// Serves what librdkafka has to say: logs, errors, tokens that are due.
    fn serve(&self) {
        for _ in 0..64 {
            self.consumer.poll(Duration::ZERO);
        }
    }

    /// No broker answered, and the last thing that was heard.
    pub(super) fn unreachable(&self, reason: String) -> ClientError {
        ClientError::Unreachable { bootstrap_servers: self.settings.bootstrap_servers.clone(), waited: self.patience, reason }
    }

    fn ask<T>(&self, topic: &str, question: impl Fn(Duration) -> Result<T, KafkaError>) -> Result<T, ClientError> {
        let deadline = host_clock::monotonic() + self.patience;
        loop {
            let left = deadline.saturating_duration_since(host_clock::monotonic());
            let error = match question(left.clamp(PAUSE, Duration::from_secs(2))) {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            self.serve();
            if let Some(refusal) = self.consumer.context().take_refusal(&self.settings) {
                return Err(refusal);
            }
            let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
            match code {
                RDKafkaErrorCode::TopicAuthorizationFailed => return Err(ClientError::Forbidden { topic: topic.to_owned() }),
                code if !is_transient(code) => return Err(ClientError::Answer { topic: topic.to_owned(), code }),
                code if host_clock::monotonic() >= deadline => {
                    let reason = self.consumer.context().last_error().unwrap_or_else(|| code.to_string());
                    return Err(self.unreachable(reason));
                }
                _ => {
                    self.consumer.poll(PAUSE);
                }
            }
        }
    }
}
