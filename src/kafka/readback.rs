//! Reads an output topic from given positions to its present end: what is already published.
//!
//! Invariant: every message that lay between the start position and the end at the time of the call is handed out exactly once, in
//! offset order within its partition, however offsets are spaced. Memory is bounded by the read-ahead; nothing is kept here.

use crate::host_clock;
use std::collections::BTreeMap;
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
#[derive(Clone, Debug)]
pub struct Record<'a> {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its key; a null key is empty.
    pub key: &'a [u8],
    /// Its value; a null value is empty.
    pub payload: &'a [u8],
    /// Its headers in order; a null value is empty.
    pub headers: Vec<(&'a str, &'a [u8])>,
}

impl<'a> Record<'a> {
    fn of(message: &'a BorrowedMessage<'a>) -> Record<'a> {
        Record {
            partition: message.partition(),
            offset: message.offset(),
            key: message.key().unwrap_or_default(),
            payload: message.payload().unwrap_or_default(),
            headers: message.headers().into_iter().flat_map(Headers::iter).map(|h| (h.key, h.value.unwrap_or_default())).collect(),
        }
    }

    /// The value of the first header of that name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers.iter().find(|(header, _)| *header == name).map(|(_, value)| *value)
    }
}

/// What of a topic has not been read yet. Sans-io.
#[derive(Debug)]
pub struct Unread {
    /// Where each partition ended when reading began.
    ends: BTreeMap<i32, NextOffset>,
    /// Where each partition that holds anything is to be read from, until it is read.
    starts: BTreeMap<i32, NextOffset>,
}

impl Unread {
    /// What lies between `from` (a partition that is not in it: its log's start) and the ends. `logs`: where each partition's log
    /// starts and ends. A start that retention has overtaken moves to the log's start.
    ///
    /// # Errors
    /// A partition ends before it was to be read from.
    pub fn new(
        topic: &str,
        logs: impl IntoIterator<Item = (i32, (NextOffset, NextOffset))>,
        from: &BTreeMap<i32, NextOffset>,
    ) -> Result<Unread, ReadbackError> {
        let mut unread = Unread { ends: BTreeMap::new(), starts: BTreeMap::new() };
        for (partition, (low, high)) in logs {
            let wanted = from.get(&partition).copied().unwrap_or(low);
            if wanted > high {
                return Err(ReadbackError::BeyondEnd { topic: topic.to_owned(), partition, wanted, end: high });
            }
            unread.ends.insert(partition, high);
            if wanted.max(low) < high {
                unread.starts.insert(partition, wanted.max(low));
            }
        }
        Ok(unread)
    }

    /// Partitions that are not read to their end yet, and where they were to be read from.
    #[must_use]
    pub fn starts(&self) -> &BTreeMap<i32, NextOffset> {
        &self.starts
    }

    /// A message came; whether it is one that was asked for. One at or behind the end was written since.
    pub fn message(&mut self, partition: i32, offset: i64) -> bool {
        let Some(end) = self.ends.get(&partition).filter(|_| self.starts.contains_key(&partition)).copied() else { return false };
        if NextOffset::after(offset) >= end {
            self.starts.remove(&partition);
        }
        end.is_past(offset)
    }

    /// The partition's end was reached: offsets before it may hold no message (markers of transactions, compaction).
    pub fn at_end(&mut self, partition: i32) {
        self.starts.remove(&partition);
    }

    /// The ends, once everything before them is read.
    #[must_use]
    pub fn ends(self) -> BTreeMap<i32, NextOffset> {
        self.ends
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
    let mut logs = Vec::new();
    for partition in partitions {
        logs.push((partition, cluster.ends(topic, partition)?));
    }
    read(settings, topic, Unread::new(topic, logs, from)?, patience, each)
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
    // One partition, from its end: the broker says that there is nothing, or that we may not ask.
    let starts = ends.first_key_value().map(|(partition, end)| (*partition, *end)).into_iter().collect();
    read(settings, topic, Unread { ends, starts }, patience, |_| {})
}

/// Reads what is unread.
fn read(
    settings: &KafkaSettings,
    topic: &str,
    mut unread: Unread,
    patience: Duration,
    mut each: impl FnMut(Record<'_>),
) -> Result<BTreeMap<i32, NextOffset>, ReadbackError> {
    if unread.starts().is_empty() {
        return Ok(unread.ends());
    }
    let mut assignment = TopicPartitionList::new();
    for (partition, start) in unread.starts() {
        assignment.add_partition_offset(topic, *partition, Offset::Offset(start.0)).map_err(|error| failed(topic, &error))?;
    }
    let consumer: BaseConsumer<Logged> = settings.client(Role::Reader, unread.starts().len(), Logged::of(settings)?)?;
    consumer.assign(&assignment).map_err(|error| failed(topic, &error))?;
    let mut progress = host_clock::monotonic();
    while !unread.starts().is_empty() {
        match consumer.poll(Duration::from_millis(50)) {
            Some(Ok(message)) => {
                progress = host_clock::monotonic();
                if unread.message(message.partition(), message.offset()) {
                    each(Record::of(&message));
                }
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                progress = host_clock::monotonic();
                unread.at_end(partition);
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
    Ok(unread.ends())
}

fn failed(topic: &str, error: &KafkaError) -> ReadbackError {
    match error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail) {
        RDKafkaErrorCode::TopicAuthorizationFailed => ReadbackError::Forbidden { topic: topic.to_owned() },
        code => ReadbackError::Failed { topic: topic.to_owned(), code },
    }
}
