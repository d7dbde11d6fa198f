//! Topics: which exist, how they are split, and creating the ones that are ours to create.
//!
//! Invariant: nothing is created by accident: `allow.auto.create.topics` is off in every client, and [`Admin::ensure_topic`] is the only
//! place that creates. A topic that exists is used as it is; its settings are its owner's.

use crate::host_clock;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::client::{ClientError, KafkaSettings, Logged, Role};
use super::cluster::{Cluster, is_transient};

/// Why a topic is not there.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AdminError {
    /// No answer about topics.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The topic is missing, and creating topics is switched off.
    #[error("topic \"{topic}\" does not exist and output.create_topics is false: create it, or set output.create_topics = true")]
    NotAllowed {
        /// The topic.
        topic: String,
    },
    /// The cluster refused to create it.
    #[error(
        "topic \"{topic}\" does not exist and Kafka refused to create it ({reason}): create it yourself and set output.create_topics = false, or allow CREATE for this client"
    )]
    Refused {
        /// The topic.
        topic: String,
        /// Kafka's words.
        reason: String,
    },
}

/// What [`Admin::ensure_topic`] found or did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ensured {
    /// It was there, with this many partitions.
    Existed {
        /// Its partitions.
        partitions: usize,
    },
    /// It was created.
    Created,
}

/// How a topic is created.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TopicSettings {
    /// Number of partitions.
    pub partitions: u16,
    /// How long messages are kept; `None` leaves it to the cluster.
    pub retention: Option<Duration>,
    /// Whether it may be created at all (`output.create_topics`).
    pub create: bool,
}

/// A connection that asks about topics and creates them.
pub struct Admin {
    cluster: Cluster,
    client: AdminClient<Logged>,
    patience: Duration,
    oauth: bool,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

impl Admin {
    /// Makes the clients; `patience` bounds how long each question may take.
    ///
    /// # Errors
    /// The settings are refused.
    pub fn new(settings: &KafkaSettings, patience: Duration) -> Result<Admin, ClientError> {
        let cluster = Cluster::new(settings, patience)?;
        let client = settings.client(Role::Metadata, 1, Logged::of(settings)?)?;
        Ok(Admin { cluster, client, patience, oauth: settings.uses_oauth() })
    }

    /// Whether the topic exists.
    ///
    /// # Errors
    /// No broker answered in time, or access is refused.
    pub fn topic_exists(&self, topic: &str) -> Result<bool, ClientError> {
        Ok(self.partitions(topic)?.is_some())
    }

    /// The topic's partition numbers, ascending; `None` when there is no such topic.
    ///
    /// # Errors
    /// No broker answered in time, or access is refused.
    pub fn partitions(&self, topic: &str) -> Result<Option<Vec<i32>>, ClientError> {
        self.cluster.partitions(topic)
    }

    /// The connection for questions.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Makes sure that the topic exists: creates it, not compacted, with the cluster's default replication, when it is missing and may be created.
    /// Returns once brokers know it.
    ///
    /// # Errors
    /// It is missing and may not be created, or the cluster refused.
    pub fn ensure_topic(&self, topic: &str, settings: TopicSettings) -> Result<Ensured, AdminError> {
        self.ensure(topic, settings, "delete")
    }

    /// As [`Admin::ensure_topic`], for a topic of which the last record of each key is kept.
    ///
    /// # Errors
    /// As there.
    pub fn ensure_compacted_topic(&self, topic: &str, settings: TopicSettings) -> Result<Ensured, AdminError> {
        self.ensure(topic, TopicSettings { retention: None, ..settings }, "compact")
    }

    fn ensure(&self, topic: &str, settings: TopicSettings, cleanup_policy: &str) -> Result<Ensured, AdminError> {
        if let Some(partitions) = self.partitions(topic)? {
            return Ok(Ensured::Existed { partitions: partitions.len() });
        }
        if !settings.create {
            return Err(AdminError::NotAllowed { topic: topic.to_owned() });
        }
        if self.oauth {
            // rdkafka's admin client does not serve the events that ask for a token.
            let reason = "topics can't be created over OAUTHBEARER".to_owned();
            return Err(AdminError::Refused { topic: topic.to_owned(), reason });
        }
        let retention = settings.retention.map(|r| r.as_millis().to_string());
        let mut new =
            NewTopic::new(topic, i32::from(settings.partitions), TopicReplication::Fixed(-1)).set("cleanup.policy", cleanup_policy);
        if let Some(retention) = &retention {
            new = new.set("retention.ms", retention);
        }
        let options = AdminOptions::new().request_timeout(Some(self.patience)).operation_timeout(Some(self.patience));
        let refused = |reason: String| AdminError::Refused { topic: topic.to_owned(), reason };
        let results = match block_on(self.client.create_topics([&new], &options)) {
            Ok(results) => results,
            Err(error) if error.rdkafka_error_code().is_some_and(is_transient) => {
                return Err(self.cluster.unreachable(without_wrapping(&error)).into());
            }
            Err(error) => return Err(refused(without_wrapping(&error))),
        };
        for result in results {
            match result {
                // Another instance may have been faster.
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((_, code)) => return Err(refused(code.to_string())),
            }
        }
        let deadline = host_clock::monotonic() + self.patience;
        while self.partitions(topic)?.is_none() {
            if host_clock::monotonic() >= deadline {
                return Err(refused(format!("it was created but no broker knew it within {:?}", self.patience)));
            }
            thread::park_timeout(Duration::from_millis(20));
        }
        Ok(Ensured::Created)
    }
}

fn without_wrapping(error: &KafkaError) -> String {
    match error {
        KafkaError::AdminOp(code) => code.to_string(),
        other => other.to_string(),
    }
}

/// Runs librdkafka's admin futures, which are completed by a thread of their own, so that no async runtime is needed.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}
