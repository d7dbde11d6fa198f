//! The running service: source → task → publisher, each on its own threads, with bounded queues between.
//!
//! Owns the start (recovery included), the threads and the drain. What is decided about records is [`crate::task`]'s and the
//! detector's. A slow sink makes the source wait, all the way back.
//!
//! What the threads decide stands apart from the threads, so that a simulation can drive it with a broker, a disk and a clock of
//! its own: [`restore`], [`course`], [`publisher`], [`snapshots`].

mod core;
pub mod course;
mod crash;
mod idle;
mod limits;
mod outage;
pub mod publisher;
pub mod restore;
mod rules;
mod settling;
pub mod snapshots;
mod start;

use crate::config::Config;
use crate::detector::Lack;
use crate::host_clock;
use crate::http::HttpError;
use crate::kafka::admin::AdminError;
use crate::kafka::client::{ClientError, KafkaSettings, Preset};
use crate::kafka::position::NextOffset;
use crate::kafka::readback::ReadbackError;
use crate::kafka::sink::SinkError;
use crate::kafka::source::SourceError;
use crate::metrics::Metrics;
use crate::questions::Questions;
use crate::state::StateError;
use crate::state::disk::DirectoryError;
use crate::time::Ticks;
use crate::view::{Health, View};
use crossbeam_channel::Receiver;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Why the service can't start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The state directory can't be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The state can't be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The state was kept by other settings, and lacks what these need.
    #[error(
        "{} was {} when the state was written and is {} now: {}. Set the old value again; or move state.dir away and start with an empty one and input.start = \"earliest\", which builds the state again from what the input topic holds{}",
        .0.key, .0.stored, .0.configured, .0.missing,
        if .0.passes { "; or start with --accept-partial-baseline, and findings say by baseline.partial_until until when they may be wrong for it" } else { "" }
    )]
    OtherSettings(Lack),
    /// History ends before what an earlier state said.
    #[error(
        "topic \"{topic}\" holds a change that holds from {said} on, of an earlier state, and the history in state.dir ends at {clock}: what comes between would be said again under the same names. Load newer history (`firstseen backfill` again), or set another output.findings_topic"
    )]
    SaidLater {
        /// The findings topic.
        topic: String,
        /// The latest change in it.
        said: Ticks,
        /// The end of history.
        clock: Ticks,
    },
    /// Messages are gone, and the configuration says to stop then.
    #[error(
        "{partition}: the messages from offset {from} to {to} are gone from the input (retention passed the stored position) and input.on_gap is \"stop\"; set input.on_gap = \"continue\" to go on without them, or start with a new state.dir"
    )]
    Gap {
        /// The partition.
        partition: String,
        /// The first that is gone.
        from: NextOffset,
        /// The first that is there.
        to: NextOffset,
    },
    /// The journal can't be written: nothing more may be published.
    #[error("the order journal can't be written: {0}; make room in state.dir and start again, nothing is lost")]
    Journal(io::Error),
    /// A client could not be made, or no broker answers.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A topic.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// What is published already can't be read.
    #[error(transparent)]
    Readback(#[from] ReadbackError),
    /// The input.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The output.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// The HTTP endpoint.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// A stop was asked for before the start was over: no failure.
    #[error("stopped while the start waited for the brokers")]
    Stopped,
    /// A thread could not be started.
    #[error("a thread could not be started: {0}")]
    Thread(io::Error),
    /// A thread ended that never does.
    #[error("the {0} thread ended unexpectedly; what was not acknowledged is published again after a restart, once")]
    Ended(&'static str),
}

impl ServiceError {
    /// Whether it may pass by itself: brokers don't answer, or one that must has just gone.
    #[must_use]
    pub fn is_an_outage(&self) -> bool {
        let client = match self {
            ServiceError::Client(error)
            | ServiceError::Admin(AdminError::Client(error))
            | ServiceError::Readback(ReadbackError::Client(error))
            | ServiceError::Source(SourceError::Client(error)) => error,
            ServiceError::Readback(ReadbackError::Stalled { .. }) => return true,
            _ => return false,
        };
        matches!(client, ClientError::Unreachable { .. })
    }
}

/// What the service's threads share with whoever looks at it.
#[derive(Clone, Debug)]
pub struct Shared {
    /// Open findings and clocks.
    pub view: Arc<View>,
    /// Live and ready.
    pub health: Arc<Health>,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Asked from outside, answered by the task.
    pub questions: Questions,
    /// Messages consumed since the start.
    pub consumed: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Default for Shared {
    fn default() -> Self {
        Shared {
            view: Arc::new(View::new()),
            health: Arc::new(Health::new()),
            metrics: Arc::new(Metrics::new(host_clock::monotonic())),
            questions: Questions::default(),
            consumed: Arc::new(AtomicU64::new(0)),
            stop: Arc::new(AtomicBool::new(false)),
        }
    }
}

impl Shared {
    /// Asks for a drain: no more input, a last snapshot, everything acknowledged, positions committed.
    pub fn request_stop(&self) {
        self.stop.store(true, Ordering::Release);
    }
}

/// A running service.
#[derive(Debug)]
pub struct Service {
    /// What can be looked at.
    pub shared: Shared,
    outcome: Receiver<Result<(), ServiceError>>,
    thread: Option<JoinHandle<()>>,
}

/// How long a drain may take, before the source is stopped (3 s at most): then what is not acknowledged is left to the next start.
pub const DRAIN_WITHIN: Duration = Duration::from_secs(6);

impl Service {
    /// Restores the state, checks brokers and topics, and starts the threads. Blocking: call it off the async runtime.
    ///
    /// # Errors
    /// Whatever keeps it from starting, in words that say what to do.
    pub fn start(config: &Config, shared: Shared) -> Result<Service, ServiceError> {
        Service::start_by(config, shared, false)
    }

    /// As [`Service::start`]; with `accept_partial` also against a state that lacks what changed settings need, if that is a matter of time.
    ///
    /// # Errors
    /// As there.
    pub fn start_by(config: &Config, shared: Shared, accept_partial: bool) -> Result<Service, ServiceError> {
        let core = start::prepare(config, &shared, accept_partial)?;
        let (tell, outcome) = crossbeam_channel::bounded(1);
        let health = Arc::clone(&shared.health);
        let thread = std::thread::Builder::new()
            .name("task".to_owned())
            .spawn(move || {
                let result = core.run();
                if let Err(error) = &result {
                    health.set_dead(error.to_string());
                }
                // The owner may be gone already.
                let _ = tell.send(result);
            })
            .map_err(ServiceError::Thread)?;
        Ok(Service { shared, outcome, thread: Some(thread) })
    }

    /// How it ended, once it has.
    #[must_use]
    pub fn ended(&self, within: Duration) -> Option<Result<(), ServiceError>> {
        self.outcome.recv_timeout(within).ok()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.shared.request_stop();
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported on stderr.
            let _ = thread.join();
        }
    }
}

/// The configuration's view of Kafka as its clients take it.
#[must_use]
pub fn kafka_settings(config: &Config) -> KafkaSettings {
    KafkaSettings {
        bootstrap_servers: config.kafka.bootstrap_servers.clone(),
        preset: match config.kafka.preset {
            crate::config::Preset::Kafka => Preset::Kafka,
            crate::config::Preset::EventHubs => Preset::EventHubs,
        },
        properties: config.kafka.exposed_properties(),
        group_id: config.input.group_id.clone(),
        client_id: "firstseen".to_owned(),
    }
}
