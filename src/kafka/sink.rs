//! The idempotent producers of findings and dead letters.
//!
//! Invariant: messages of one key reach their partition once and in the order of [`Sink::publish`], and each accepted message gets
//! exactly one [`Delivery`]. When one is refused for good, none that came after it to its topic is written (ADR 7), but for the topic
//! whose messages may be missing. A message is retried for ever (`message.timeout.ms = 0`), since giving one up would lose a change: while
//! the brokers are away the outstanding bound fills and `publish` says [`PublishError::Full`]. What to publish, and when, is left to
//! the caller.

use crate::host_clock;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};

use super::client::{ClientError, KafkaSettings, Logged, Role, client_error, log_line};
use super::context::ConnectionErrors;

/// A message to write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outgoing {
    /// Topic name.
    pub topic: String,
    /// Message key; decides the partition.
    pub key: Vec<u8>,
    /// Headers, in order.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Message value.
    pub payload: Vec<u8>,
    /// Comes back in the [`Delivery`].
    pub token: u64,
}

impl Outgoing {
    /// Bytes of key, headers and payload.
    pub(crate) fn bytes(&self) -> usize {
        self.payload.len() + self.key.len() + self.headers.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>()
    }
}

/// What became of an accepted message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delivery {
    /// The message's token.
    pub token: u64,
    /// Partition and offset, once all in-sync replicas have it; or why it will never be written.
    pub result: Result<(i32, i64), SinkError>,
}

/// Why a message was not, or cannot be, written.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SinkError {
    /// The client could not be made.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The message is larger than the producer or the topic takes.
    #[error(
        "a message is larger than topic \"{topic}\" takes: raise the topic's max.message.bytes and kafka.properties.\"message.max.bytes\""
    )]
    TooLarge {
        /// The topic.
        topic: String,
    },
    /// There is no such topic.
    #[error("topic \"{topic}\" does not exist: create it, or set output.create_topics = true")]
    MissingTopic {
        /// The topic.
        topic: String,
    },
    /// The cluster does not let us write.
    #[error("Kafka refuses writing to topic \"{topic}\": allow WRITE (and IDEMPOTENT_WRITE) for this client")]
    Forbidden {
        /// The topic.
        topic: String,
    },
    /// The cluster gives the client no producer id, which it does to one that may write to no topic at all.
    #[error(
        "Kafka refuses this client an idempotent producer ({reason}): allow WRITE on the output topics (output.findings_topic, output.dead_letter_topic) for it"
    )]
    NoProducerId {
        /// librdkafka's words.
        reason: String,
    },
    /// The producer is beyond use; a restart recovers what was not acknowledged.
    #[error("the Kafka producer failed for good ({reason}): restart; what was not acknowledged is published again, once")]
    Fatal {
        /// librdkafka's words.
        reason: String,
    },
    /// Any other failure of one message.
    #[error("a message for topic \"{topic}\" was not written: {code}")]
    Failed {
        /// The topic.
        topic: String,
        /// Kafka's error.
        code: RDKafkaErrorCode,
    },
    /// Not everything was acknowledged in time.
    #[error("{outstanding} messages were not acknowledged within {waited:?}: check the brokers")]
    NotFlushed {
        /// How many are still on their way.
        outstanding: usize,
        /// How long was waited.
        waited: Duration,
    },
}

/// Why [`Sink::publish`] did not take a message; it is handed back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PublishError {
    /// Too much is on its way: take deliveries, then try again.
    Full(Box<Outgoing>),
    /// This message will never be taken.
    Refused(Box<Outgoing>, SinkError),
}

/// How much may be on its way at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SinkLimits {
    /// Messages.
    pub messages: usize,
    /// Bytes of keys, headers and payloads.
    pub bytes: usize,
}

impl Default for SinkLimits {
    fn default() -> Self {
        SinkLimits { messages: 20_000, bytes: 64 << 20 }
    }
}

#[derive(Debug, Default)]
struct Outstanding {
    messages: AtomicUsize,
    bytes: AtomicUsize,
}

struct Context {
    log: Logged,
    deliveries: Sender<Delivery>,
    outstanding: Arc<Outstanding>,
}

/// Travels with a message through librdkafka.
struct Ticket {
    token: u64,
    bytes: usize,
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_line(level, facility, message);
    }

    fn stats_raw(&self, _: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        self.log.remember(&error, reason);
    }

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.log.token()
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<Ticket>;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: Box<Ticket>) {
        let result = match result {
            Ok(message) => Ok((message.partition(), message.offset())),
            Err((error, message)) => Err(self.why(message.topic(), error)),
        };
        // Nobody may be listening any more while the sink is dropped.
        let _ = self.deliveries.send(Delivery { token: ticket.token, result });
        self.outstanding.bytes.fetch_sub(ticket.bytes, Ordering::AcqRel);
        self.outstanding.messages.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Context {
    /// A producer that fails for good throws away what waits in it; the reason was told before, as an error of the client.
    fn why(&self, topic: &str, error: &KafkaError) -> SinkError {
        let purged = matches!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight));
        match self.log.last_error().filter(|_| purged) {
            Some(reason) => match fatal_error(reason) {
                SinkError::Fatal { reason } if reason.contains("authorization failed") => SinkError::Forbidden { topic: topic.to_owned() },
                error => error,
            },
            None => sink_error(topic, error),
        }
    }
}

fn sink_error(topic: &str, error: &KafkaError) -> SinkError {
    use RDKafkaErrorCode as E;
    let topic = topic.to_owned();
    match error.rdkafka_error_code().unwrap_or(E::Fail) {
        E::MessageSizeTooLarge | E::InvalidMessageSize => SinkError::TooLarge { topic },
        E::UnknownTopicOrPartition | E::UnknownTopic => SinkError::MissingTopic { topic },
        E::TopicAuthorizationFailed | E::ClusterAuthorizationFailed => SinkError::Forbidden { topic },
        E::Fatal => SinkError::Fatal { reason: error.to_string() },
        code => SinkError::Failed { topic, code },
    }
}

/// An idempotent producer to which one message is refused is beyond use. librdkafka then says `ProduceRequest for TOPIC [PARTITION] … failed:
/// REASON`, and nothing more of what was refused.
fn fatal_error(reason: String) -> SinkError {
    let topic = reason.split_once("ProduceRequest for ").and_then(|(_, rest)| rest.split_once(" [")).map(|(topic, _)| topic.to_owned());
    match topic {
        Some(topic) if reason.contains("authorization failed") => SinkError::Forbidden { topic },
        Some(topic) if reason.contains("Message size too large") => SinkError::TooLarge { topic },
        None if reason.contains("idempotence PID") && reason.contains("authorization failed") => SinkError::NoProducerId { reason },
        _ => SinkError::Fatal { reason },
    }
}

/// The producers. Threads of their own serve librdkafka; every method but [`flush`](Sink::flush) returns at once.
pub struct Sink {
    /// Ends at the first message that is refused.
    gapless: ThreadedProducer<Context>,
    /// For one topic: goes on without those that are refused.
    lenient: Option<(String, ThreadedProducer<Context>)>,
    deliveries: Receiver<Delivery>,
    outstanding: Arc<Outstanding>,
    limits: SinkLimits,
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sink").field("outstanding", &self.outstanding()).field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Sink {
    /// Makes the producer; it connects by itself, and the first delivery shows whether it could.
    ///
    /// # Errors
    /// The settings are refused.
    pub fn new(settings: &KafkaSettings, limits: SinkLimits) -> Result<Sink, SinkError> {
        Sink::with(settings, limits, None)
    }

    /// The same, with a producer of its own for `topic`: there, messages that follow one that is refused are written all the same.
    ///
    /// # Errors
    /// The settings are refused.
    pub fn lenient_for(topic: &str, settings: &KafkaSettings, limits: SinkLimits) -> Result<Sink, SinkError> {
        Sink::with(settings, limits, Some(topic))
    }

    fn with(settings: &KafkaSettings, limits: SinkLimits, lenient: Option<&str>) -> Result<Sink, SinkError> {
        let (tx, deliveries) = unbounded();
        let (outstanding, errors) = (Arc::new(Outstanding::default()), Arc::new(ConnectionErrors::default()));
        let producer = |gapless: bool| -> Result<ThreadedProducer<Context>, SinkError> {
            let log = Logged::of(settings)?.counting(Arc::clone(&errors));
            let context = Context { log, deliveries: tx.clone(), outstanding: Arc::clone(&outstanding) };
            let mut client = settings.config(Role::Producer, 1)?;
            client.set("enable.gapless.guarantee", if gapless { "true" } else { "false" });
            Ok(client.create_with_context(context).map_err(client_error)?)
        };
        let gapless = producer(true)?;
        let lenient = lenient.map(|topic| Ok::<_, SinkError>((topic.to_owned(), producer(false)?))).transpose()?;
        Ok(Sink { gapless, lenient, deliveries, outstanding, limits })
    }

    fn producers(&self) -> impl Iterator<Item = &ThreadedProducer<Context>> {
        std::iter::once(&self.gapless).chain(self.lenient.as_ref().map(|(_, producer)| producer))
    }

    fn producer_of(&self, topic: &str) -> &ThreadedProducer<Context> {
        self.lenient.as_ref().filter(|(of, _)| of == topic).map_or(&self.gapless, |(_, producer)| producer)
    }

    /// Hands a message to the producer. Never blocks.
    ///
    /// # Errors
    /// The bound of what may be on its way is reached, or the message can never be written.
    pub fn publish(&self, outgoing: Outgoing) -> Result<(), PublishError> {
        let bytes = outgoing.bytes();
        let (messages, held) = (self.outstanding(), self.outstanding.bytes.load(Ordering::Acquire));
        // One message always fits, however large it is.
        if messages >= self.limits.messages || (messages > 0 && held + bytes > self.limits.bytes) {
            return Err(PublishError::Full(Box::new(outgoing)));
        }
        let mut headers = OwnedHeaders::new_with_capacity(outgoing.headers.len());
        for (key, value) in &outgoing.headers {
            headers = headers.insert(Header { key, value: Some(value) });
        }
        let ticket = Box::new(Ticket { token: outgoing.token, bytes });
        let record = BaseRecord::with_opaque_to(&outgoing.topic, ticket).key(&outgoing.key).payload(&outgoing.payload).headers(headers);
        // Counted before it is sent: its delivery may be reported before `send` returns.
        self.outstanding.messages.fetch_add(1, Ordering::AcqRel);
        self.outstanding.bytes.fetch_add(bytes, Ordering::AcqRel);
        let error = match self.producer_of(&outgoing.topic).send(record) {
            Ok(()) => return Ok(()),
            Err((error, _)) => error,
        };
        self.outstanding.bytes.fetch_sub(bytes, Ordering::AcqRel);
        self.outstanding.messages.fetch_sub(1, Ordering::AcqRel);
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) {
            return Err(PublishError::Full(Box::new(outgoing)));
        }
        let error = self.fatal().unwrap_or_else(|| sink_error(&outgoing.topic, &error));
        Err(PublishError::Refused(Box::new(outgoing), error))
    }

    /// What became of messages, in the order in which it became known; one entry for each accepted message.
    #[must_use]
    pub fn deliveries(&self) -> &Receiver<Delivery> {
        &self.deliveries
    }

    /// How many messages are on their way.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.outstanding.messages.load(Ordering::Acquire)
    }

    /// Why the producer is beyond use, if it is.
    #[must_use]
    pub fn fatal(&self) -> Option<SinkError> {
        self.producers().find_map(|producer| producer.client().fatal_error()).map(|(_, reason)| fatal_error(reason))
    }

    /// What librdkafka last complained of (a broker that is away, say); for a status line.
    #[must_use]
    pub fn last_error(&self) -> Option<String> {
        self.producers().find_map(|producer| producer.context().log.last_error())
    }

    /// Failed connections and log-ins of the producer.
    #[must_use]
    pub fn connection_errors(&self) -> Arc<ConnectionErrors> {
        Arc::clone(self.gapless.context().log.errors())
    }

    /// Waits until everything that was accepted has its delivery, which then lies in [`deliveries`](Sink::deliveries).
    ///
    /// # Errors
    /// The deadline passed first; what is outstanding stays on its way.
    pub fn flush(&self, within: Duration) -> Result<(), SinkError> {
        let start = host_clock::monotonic();
        loop {
            if self.outstanding() == 0 {
                return Ok(());
            }
            let left = within.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Err(SinkError::NotFlushed { outstanding: self.outstanding(), waited: within });
            }
            // In slices: the polling thread takes delivery reports too, and `outstanding` is what counts.
            self.producers().for_each(|producer| drop(producer.flush(left.min(Duration::from_millis(20)))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fatal_error_for_want_of_a_permission_names_the_topic() {
        let reason = "ProduceRequest for firstseen.findings [3] with 1 message(s) failed: Broker: Topic authorization failed (broker 1 …)";
        assert_eq!(fatal_error(reason.to_owned()), SinkError::Forbidden { topic: "firstseen.findings".to_owned() });
        let large = "ProduceRequest for f [0] with 1 message(s) failed: Broker: Message size too large (broker 1 …): unable to satisfy gap-less guarantee";
        assert_eq!(fatal_error(large.to_owned()), SinkError::TooLarge { topic: "f".to_owned() });
        let nowhere = "Failed to acquire idempotence PID from broker sasl_ssl://b:9093/1: Broker: Cluster authorization failed".to_owned();
        assert_eq!(fatal_error(nowhere.clone()), SinkError::NoProducerId { reason: nowhere });
        let other = "ProduceRequest for t [0] with 1 message(s) failed: Broker: Invalid record".to_owned();
        assert_eq!(fatal_error(other.clone()), SinkError::Fatal { reason: other });
    }
}
