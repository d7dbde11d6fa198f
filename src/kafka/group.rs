//! librdkafka's callbacks of the input's consumer: what the group decides, where logs end. (It tells nobody what became of commits that
//! were not waited for.)
//!
//! Invariant: a callback only records, and never waits for the network or the receiver; the thread in `consume` acts on it. The one
//! exception is giving partitions back, which a closing client waits for.

use std::collections::HashMap;
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaRespErr;

use super::client::{ClientError, KafkaSettings, Logged, log_line};
use super::position::{NextOffset, TopicPartition};
use super::source::Shared;

/// What the group decided.
#[derive(Debug)]
pub(super) enum Rebalance {
    Assign(Vec<TopicPartition>),
    Revoke,
}

/// librdkafka's callbacks; all but the log run on the source's thread, inside a poll.
pub(super) struct Context {
    log: Logged,
    shared: Arc<Shared>,
    rebalances: Mutex<Vec<Rebalance>>,
    closing: AtomicBool,
}

#[derive(serde::Deserialize)]
struct Statistics {
    topics: HashMap<String, TopicStatistics>,
}

#[derive(serde::Deserialize)]
struct TopicStatistics {
    partitions: HashMap<i32, PartitionStatistics>,
}

#[derive(serde::Deserialize)]
struct PartitionStatistics {
    hi_offset: i64,
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_line(level, facility, message);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        let Ok(statistics) = serde_json::from_slice::<Statistics>(statistics) else { return };
        let mut ends = self.shared.ends();
        for (topic, of) in statistics.topics {
            for (partition, of) in of.partitions.into_iter().filter(|(_, of)| of.hi_offset >= 0) {
                ends.insert(TopicPartition { topic: topic.clone(), partition }, NextOffset(of.hi_offset));
            }
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.log.remember(&error, reason);
    }

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.log.token()
    }
}

impl ConsumerContext for Context {
    /// A revocation is confirmed here (a client that closes waits for that); an assignment is completed by the thread, which first
    /// has to find out where each partition starts.
    fn rebalance(&self, consumer: &BaseConsumer<Self>, what: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        let assign = what == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if assign && !self.closing.load(Ordering::Acquire) {
            let partitions =
                partitions.elements().iter().map(|e| TopicPartition { topic: e.topic().to_owned(), partition: e.partition() }).collect();
            self.push(Rebalance::Assign(partitions));
            return;
        }
        if let Err(error) = consumer.unassign() {
            tracing::warn!(%error, "giving partitions back failed");
        }
        self.push(Rebalance::Revoke);
    }
}

impl Context {
    pub(super) fn new(log: Logged, shared: Arc<Shared>) -> Self {
        Context { log: log.counting(Arc::clone(&shared.errors)), shared, rebalances: Mutex::default(), closing: AtomicBool::new(false) }
    }

    fn push(&self, rebalance: Rebalance) {
        self.rebalances.lock().unwrap_or_else(PoisonError::into_inner).push(rebalance);
    }

    /// Why a broker and we do not come together, if that was said since the last call.
    pub(super) fn take_refusal(&self, settings: &KafkaSettings) -> Option<ClientError> {
        self.log.take_refusal(settings)
    }

    /// What the group decided since the last call, in order.
    pub(super) fn take_rebalances(&self) -> Vec<Rebalance> {
        mem::take(&mut *self.rebalances.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the group has decided something that has not been taken.
    pub(super) fn has_rebalances(&self) -> bool {
        !self.rebalances.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// From now on an assignment is declined at once.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
    }
}
