//! Reads an output topic from given positions to its present end: what is already published.
//!
//! Invariant: every message that lay between the start position and the end at the time of the call is handed out exactly once, in
//! offset order within its partition, however offsets are spaced. Memory is bounded by the read-ahead; nothing is kept here.

use crate::host_clock;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::client::{ClientError, KafkaSettings, Logged, Role};
use super::cluster::{Cluster, is_transient};
use super::position::NextOffset;

/// Why a topic could not be read to its end.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReadbackError {
    /// The settings are refused, or no broker answered.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// There is no such topic.
    #[error("topic \"{topic}\" does not exist: create it, or set output.create_topics = true")]
    MissingTopic {
        /// The topic.
        topic: String,
    },
    /// The topic holds less than was once written to it.
    #[error(
        "topic \"{topic}\" partition {partition} ends at {end}, but was written up to {wanted}: it was recreated or truncated; move the state directory away to start anew"
    )]
    BeyondEnd {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// Where reading was to begin.
        wanted: NextOffset,
        /// Where the partition ends.
        end: NextOffset,
    },
    /// Nothing came for too long.
    #[error("topic \"{topic}\" gave nothing for {waited:?} before its end was reached ({reason}): check the brokers")]
    Stalled {
        /// The topic.
        topic: String,
        /// How long nothing came.
        waited: Duration,
        /// What librdkafka last said.
        reason: String,
    },
    /// The cluster does not let us read the topic.
    #[error(
        "Kafka refuses reading output topic \"{topic}\": allow READ on it for this client; after a restart it is read to see what is published already"
    )]
    Forbidden {
        /// The topic.
        topic: String,
    },
    /// Kafka refused.
    #[error("topic \"{topic}\" could not be read: {code}")]
    Failed {
        /// The topic.
        topic: String,
        /// Kafka's error.
        code: RDKafkaErrorCode,
    },
}

/// One message of the topic, borrowed from the client's buffer.
#[derive(Debug)]
pub struct Record<'a> {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its key; a null key is empty.
    pub key: &'a [u8],
    /// Its value; a null value is empty.
    pub payload: &'a [u8],
    message: &'a BorrowedMessage<'a>,
}

impl Record<'_> {
    /// The value of the first header of that name; a null value is empty.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.message.headers()?.iter().find(|h| h.key == name).map(|h| h.value.unwrap_or_default())
    }

    /// All headers in order; a null value is empty.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.message.headers().into_iter().flat_map(Headers::iter).map(|h| (h.key, h.value.unwrap_or_default()))
    }
}

/// Hands every message from `from` (a partition that is not in it: from its start) to the present end to `each`; returns the end of
/// every partition. A start that retention has overtaken moves to the log's start. `patience` bounds each question, and the time
/// without any progress.
///
/// # Errors
/// See [`ReadbackError`].
pub fn read_to_end(
    settings: &KafkaSettings,
    topic: &str,
    from: &BTreeMap<i32, NextOffset>,
    patience: Duration,
    each: impl FnMut(Record<'_>),
) -> Result<BTreeMap<i32, NextOffset>, ReadbackError> {
    let cluster = Cluster::uncommitted(settings, patience)?;
    let partitions = cluster.partitions(topic)?.ok_or_else(|| ReadbackError::MissingTopic { topic: topic.to_owned() })?;
    let mut ends = BTreeMap::new();
    let mut unread = BTreeSet::new();
    let mut assignment = TopicPartitionList::new();
    for partition in partitions {
        let (low, high) = cluster.ends(topic, partition)?;
        let wanted = from.get(&partition).copied().unwrap_or(low);
        if wanted > high {
            return Err(ReadbackError::BeyondEnd { topic: topic.to_owned(), partition, wanted, end: high });
        }
        ends.insert(partition, high);
        let start = wanted.max(low);
        if start < high {
            unread.insert(partition);
            assignment.add_partition_offset(topic, partition, Offset::Offset(start.0)).map_err(|error| failed(topic, &error))?;
        }
    }
    if !unread.is_empty() {
        read(settings, topic, &assignment, &ends, unread, patience, each)?;
    }
    Ok(ends)
}

/// Gives the end of every partition, and makes sure that the topic may be read: a first start needs none of its messages, but the
/// next one will.
///
/// # Errors
/// See [`ReadbackError`].
pub fn readable_ends(settings: &KafkaSettings, topic: &str, patience: Duration) -> Result<BTreeMap<i32, NextOffset>, ReadbackError> {
    let cluster = Cluster::uncommitted(settings, patience)?;
    let partitions = cluster.partitions(topic)?.ok_or_else(|| ReadbackError::MissingTopic { topic: topic.to_owned() })?;
    let mut ends = BTreeMap::new();
    for partition in partitions {
        ends.insert(partition, cluster.ends(topic, partition)?.1);
    }
    if let Some((partition, end)) = ends.first_key_value() {
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(topic, *partition, Offset::Offset(end.0)).map_err(|error| failed(topic, &error))?;
        read(settings, topic, &assignment, &ends, BTreeSet::from([*partition]), patience, |_| {})?;
    }
    Ok(ends)
}

/// Reads what is assigned until no partition is `unread`.
fn read(
    settings: &KafkaSettings,
    topic: &str,
    assignment: &TopicPartitionList,
    ends: &BTreeMap<i32, NextOffset>,
    mut unread: BTreeSet<i32>,
    patience: Duration,
    mut each: impl FnMut(Record<'_>),
) -> Result<(), ReadbackError> {
    let consumer: BaseConsumer<Logged> = settings.client(Role::Reader, unread.len(), Logged::of(settings)?)?;
    consumer.assign(assignment).map_err(|error| failed(topic, &error))?;
    let mut progress = host_clock::monotonic();
    while !unread.is_empty() {
        match consumer.poll(Duration::from_millis(50)) {
            Some(Ok(message)) => {
                progress = host_clock::monotonic();
                let (partition, next) = (message.partition(), NextOffset::after(message.offset()));
                let Some(end) = ends.get(&partition).filter(|_| unread.contains(&partition)) else { continue };
                // A message at or behind the end was written since; it is not asked for.
                if end.is_past(message.offset()) {
                    each(Record {
                        partition,
                        offset: message.offset(),
                        key: message.key().unwrap_or_default(),
                        payload: message.payload().unwrap_or_default(),
                        message: &message,
                    });
                }
                if next >= *end {
                    unread.remove(&partition);
                }
            }
            // Offsets at the end may hold no message (markers of transactions, compaction): only this shows that it is reached.
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                progress = host_clock::monotonic();
                unread.remove(&partition);
            }
            Some(Err(error)) => {
                // A reader is no member of the group, so it does not matter what the group may not do.
                let harmless = |code| is_transient(code) || code == RDKafkaErrorCode::GroupAuthorizationFailed;
                if !error.rdkafka_error_code().is_some_and(harmless) {
                    return Err(failed(topic, &error));
                }
            }
            None => {}
        }
        if progress.elapsed() > patience {
            let reason = consumer.context().last_error().unwrap_or_else(|| "no error was reported".to_owned());
            return Err(ReadbackError::Stalled { topic: topic.to_owned(), waited: patience, reason });
        }
    }
    Ok(())
}

fn failed(topic: &str, error: &KafkaError) -> ReadbackError {
    match error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail) {
        RDKafkaErrorCode::TopicAuthorizationFailed => ReadbackError::Forbidden { topic: topic.to_owned() },
        code => ReadbackError::Failed { topic: topic.to_owned(), code },
    }
}
