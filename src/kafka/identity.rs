//! Whether a topic is still the one that was consumed: a topic that was deleted and created again has other messages at the offsets
//! that are stored. The client tells no topic ids, so the message before each stored position is looked at.
//!
//! Invariant: only a message that is there, at that very offset, with another timestamp, says that the topic is another one. What retention
//! or compaction has taken says nothing.

use crate::host_clock;
use std::collections::HashMap;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::client::{KafkaSettings, Logged, Role};
use super::position::{NextOffset, TopicPartition};
use super::source::SourceError;
use crate::time::Ticks;

/// The timestamp of the last message that was consumed of a partition, and its offset.
pub(super) type Stamp = (TopicPartition, i64, Ticks);

/// Looks at each of these messages. `patience` bounds how long nothing may come; what did not come by then says nothing.
///
/// # Errors
/// [`SourceError::Recreated`], or the settings are refused.
pub(super) fn check(settings: &KafkaSettings, stamps: Vec<Stamp>, patience: Duration) -> Result<(), SourceError> {
    if stamps.is_empty() {
        return Ok(());
    }
    let refused = |error: &KafkaError| SourceError::Refused { reason: error.to_string() };
    let reader: BaseConsumer<Logged> = settings.client(Role::Reader, stamps.len(), Logged::default())?;
    let mut list = TopicPartitionList::new();
    for (of, offset, _) in &stamps {
        list.add_partition_offset(&of.topic, of.partition, Offset::Offset(*offset)).map_err(|e| refused(&e))?;
    }
    reader.assign(&list).map_err(|e| refused(&e))?;
    let mut open: HashMap<(String, i32), (i64, Ticks)> =
        stamps.into_iter().map(|(of, offset, at)| ((of.topic, of.partition), (offset, at))).collect();
    let mut deadline = host_clock::monotonic() + patience;
    while !open.is_empty() && host_clock::monotonic() < deadline {
        let Some(Ok(message)) = reader.poll(Duration::from_millis(100)) else { continue };
        let of = (message.topic().to_owned(), message.partition());
        let Some((offset, consumed)) = open.remove(&of) else { continue };
        deadline = host_clock::monotonic() + patience;
        let found = message.timestamp().to_millis().map(Ticks::from_millis);
        if let Some(found) = found.filter(|found| message.offset() == offset && *found != consumed) {
            let partition = TopicPartition { topic: of.0, partition: of.1 };
            return Err(SourceError::Recreated { partition, offset, consumed, found });
        }
        // Nothing more of this one: its messages would come before the others'.
        let mut enough = TopicPartitionList::new();
        enough.add_partition(&of.0, of.1);
        reader.pause(&enough).map_err(|e| refused(&e))?;
    }
    if !open.is_empty() {
        tracing::warn!(
            partitions = open.len(),
            "the last consumed messages can't be looked at again: whether these topics are still the same is not known"
        );
    }
    Ok(())
}

/// What is there to be looked at: stored positions whose last message still lies in the log. Sans-io.
pub(super) fn there(
    positions: &HashMap<(String, i32), NextOffset>,
    stamps: &HashMap<(String, i32), Ticks>,
    mut log: impl FnMut(&TopicPartition) -> Result<(NextOffset, NextOffset), SourceError>,
) -> Result<Vec<Stamp>, SourceError> {
    let mut found = Vec::new();
    for (key, consumed) in stamps {
        let Some(position) = positions.get(key) else { continue };
        let of = TopicPartition { topic: key.0.clone(), partition: key.1 };
        let (low, high) = log(&of)?;
        if *position > low && *position <= high {
            found.push((of, position.0 - 1, *consumed));
        }
    }
    found.sort_by(|a, b| (&a.0.topic, a.0.partition).cmp(&(&b.0.topic, b.0.partition)));
    Ok(found)
}
