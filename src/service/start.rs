//! Everything before the first message: state, topics, what is published already, threads.

use super::core::Core;
use super::course::{Course, Timing, duration, reader};
use super::outage::Asking;
use super::publisher::Publisher;
use super::restore::{Outputs, Restored, restore_by};
use super::snapshots::SnapshotWriter;
use super::{ServiceError, Shared, kafka_settings, rules};
use crate::config::{Config, OnGap, Start};
use crate::finding::severity::Privileged;
use crate::host_clock;
use crate::kafka::admin::{Admin, TopicSettings};
use crate::kafka::client::KafkaSettings;
use crate::kafka::position::NextOffset;
use crate::kafka::readback::{Record, read_to_end, readable_ends};
use crate::kafka::sink::{Sink, SinkLimits};
use crate::kafka::source::{self, SourceConfig};
use crate::state::Store;
use crate::state::disk::Directory;
use crate::task::Format;
use crate::time::Span;
use crossbeam_channel::{bounded, unbounded};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// How long a broker may take to answer at the start.
const PATIENCE: Duration = Duration::from_secs(10);
/// Steps that may wait between task and publisher; large ones are bounded by bytes before that ([`Course::is_full`]).
const STEPS: usize = 16;
/// How long findings and dead letters are kept in topics that are created here.
const RETENTION: Duration = Duration::from_secs(30 * 86_400);

/// Recovers and starts everything but the task's own thread.
pub(super) fn prepare(config: &Config, shared: &Shared, accept_partial: bool) -> Result<Core, ServiceError> {
    let begun = host_clock::monotonic();
    shared.health.set_unready("restoring the state");
    let settings = config.service_settings();
    let configured = settings.clone();
    let directory = Directory::open(&config.state.dir)?;
    // Whoever held the directory before is gone by now: from here on its requests grow old.
    let alone_since = host_clock::monotonic();
    let member = format!("firstseen-{}", directory.name()?);
    let store = Store::new(Arc::new(directory));
    let recovered = store.recover(&settings)?;
    for warning in &recovered.warnings {
        tracing::warn!("{warning}");
    }
    let to_replay = recovered.entries.len();
    let stored = recovered.detector.settings().clone();
    let kafka = kafka_settings(config);
    let asking = Asking::new(shared, recovered.input.is_some());
    asking.ask(|| ensure_topics(config, &kafka, &[&config.output.findings_topic, &config.output.dead_letter_topic]))?;
    let asking = asking.known();
    let format = Format {
        findings_topic: config.output.findings_topic.clone(),
        dead_letter_topic: config.output.dead_letter_topic.clone(),
        settings,
        // The configuration was checked with the same call.
        privileged: Privileged::new(&config.detection.privileged_servers).unwrap_or_else(|_| Privileged::none()),
        suppression: config.suppression(),
    };
    if let Some(topic) = config.suppression().topic() {
        asking.ask(|| ensure_topics(config, &kafka, &[topic]))?;
    }
    if let Some(topic) = config.grouped_topic() {
        asking.ask(|| ensure_grouped_topic(config, &kafka, topic))?;
    }
    let mut outputs = Waiting { asking: asking.clone(), brokers: Brokers(kafka.clone()) };
    let Restored { task, positions, stamps, replay, ends, next_segment, is_new, after_a_crash, handed_over } =
        restore_by(recovered, format, accept_partial, &mut outputs)?;
    let outputs = outputs.brokers;
    let task = task.with_grouped_topic(config.grouped_topic().map(str::to_owned));
    let changed: Vec<&str> = stored.described().iter().zip(configured.described()).filter(|(a, b)| **a != *b).map(|(a, _)| a.0).collect();
    let partial = stored.partial_for(&configured);
    if partial > Span::ZERO {
        tracing::warn!(%partial, "the state lacks what the changed settings need: for so long, on the arrival clock, findings carry baseline.partial_until and may be wrong for it");
    }
    if !changed.is_empty() {
        tracing::warn!(
            keys = changed.join(", "),
            "settings changed: they hold after the replay, and what follows from them is written at once"
        );
    }
    shared.view.set_rules(&config.suppress.rules);
    rules::warn_of_expired(&config.suppress.rules);
    for mut change in task.detector().open_findings() {
        task.mark(&mut change);
        shared.view.apply(&change);
    }
    let tracked = task.detector().tracked();
    tracing::info!(
        connections = tracked.connections,
        devices = tracked.devices,
        open_findings = tracked.open_findings,
        to_replay,
        already_published = task.already_published(),
        seconds = begun.elapsed().as_secs_f64(),
        "state restored"
    );
    let mut source_config = SourceConfig::new(kafka.clone(), config.input.topics.clone());
    source_config.table = task.partitions().clone();
    source_config.positions = positions;
    source_config.stamps = stamps;
    source_config.replay = replay;
    source_config.member = Some(member);
    source_config.start = match (handed_over, config.input.start) {
        (Some((at, end)), _) => {
            let from = at.minus(config.input.handover_overlap);
            tracing::info!(%from, history_ends = %end, "taking over from history: topics are read from there on");
            source::Start::Since { from, end }
        }
        (None, Start::Earliest) => source::Start::Earliest,
        (None, Start::Latest) => source::Start::Latest,
    };

    let journal = store.begin_segment(next_segment).map_err(ServiceError::Journal)?;
    // A dead letter that is too large for its topic is written without its value: it must not end the producer.
    let sink = Sink::lenient_for(&config.output.dead_letter_topic, &kafka, SinkLimits::default())?;
    shared.metrics.watch_connections("output", sink.connection_errors());
    let (work, work_out) = bounded(STEPS);
    let publisher = Publisher::new(store.clone(), journal, sink, shared, ends.clone(), work_out);
    let (failed_in, failed) = bounded(1);
    spawn("publisher", move || {
        // Told to the task, which ends for it.
        let _ = failed_in.send(publisher.run());
    })?;
    let (pieces, pieces_out) = unbounded();
    let writer = SnapshotWriter::new(store.clone(), Arc::clone(&shared.metrics));
    let snapshot_thread = spawn("snapshots", move || writer.run(&pieces_out))?;

    let reader = || reader(stored.max_clock_skew, config.input.max_clock_skew);
    let source = asking.ask(|| Ok(source::start(source_config.clone(), reader())?))?;
    shared.metrics.watch_connections("input", source.connection_errors());
    shared.metrics.state_restored(begun.elapsed());
    shared.health.set_unready("waiting for partitions to be assigned");
    let mut course = Course::new(task, shared.clone(), Timing::of(config), work, pieces, next_segment, is_new)
        .stopping_on_gaps(config.input.on_gap == OnGap::Stop);
    if after_a_crash {
        course = course.settling(Box::new(outputs), ends, alone_since + duration(config.output.settle_delay));
    }
    let core = Core::new(course, shared.clone(), store, source, snapshot_thread, failed);
    Ok(match rules::watch(config, shared)? {
        Some(changed) => core.with_rules(changed),
        None => core,
    })
}

pub(super) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<thread::JoinHandle<()>, ServiceError> {
    thread::Builder::new().name(name.to_owned()).spawn(work).map_err(ServiceError::Thread)
}

fn ensure_topics(config: &Config, kafka: &KafkaSettings, topics: &[&str]) -> Result<(), ServiceError> {
    let admin = Admin::new(kafka, PATIENCE)?;
    let settings = topic_settings(config, &admin)?;
    for topic in topics {
        admin.ensure_topic(topic, settings)?;
    }
    Ok(())
}

/// One that compacts: only the last record of a device counts.
fn ensure_grouped_topic(config: &Config, kafka: &KafkaSettings, topic: &str) -> Result<(), ServiceError> {
    let admin = Admin::new(kafka, PATIENCE)?;
    admin.ensure_compacted_topic(topic, topic_settings(config, &admin)?)?;
    Ok(())
}

/// How output topics are created: as many partitions as the largest input topic has, at most 12.
fn topic_settings(config: &Config, admin: &Admin) -> Result<TopicSettings, ServiceError> {
    let partitions = config.input.topics.iter().try_fold(1, |most, topic| {
        let n = admin.partitions(topic)?.map_or(0, |p| p.len());
        if n == 0 { Err(ServiceError::Source(source::SourceError::MissingTopic { topic: topic.clone() })) } else { Ok(n.max(most)) }
    })?;
    let partitions = u16::try_from(partitions.min(12)).unwrap_or(12);
    Ok(TopicSettings { partitions, retention: Some(RETENTION), create: config.output.create_topics })
}

/// The output topics as a start reads them: brokers that are away are waited for. What is read again when they are back is told again,
/// which changes nothing.
struct Waiting {
    asking: Asking,
    brokers: Brokers,
}

impl Outputs for Waiting {
    fn ends(&mut self, topic: &str) -> Result<BTreeMap<i32, NextOffset>, ServiceError> {
        self.asking.ask(|| self.brokers.ends(topic))
    }

    fn read(
        &mut self,
        topic: &str,
        from: &BTreeMap<i32, NextOffset>,
        each: &mut dyn FnMut(&Record<'_>),
    ) -> Result<BTreeMap<i32, NextOffset>, ServiceError> {
        self.asking.ask(|| self.brokers.read(topic, from, each))
    }
}

/// The output topics on the brokers.
struct Brokers(KafkaSettings);

impl Outputs for Brokers {
    fn ends(&mut self, topic: &str) -> Result<BTreeMap<i32, NextOffset>, ServiceError> {
        Ok(readable_ends(&self.0, topic, PATIENCE)?)
    }

    fn read(
        &mut self,
        topic: &str,
        from: &BTreeMap<i32, NextOffset>,
        each: &mut dyn FnMut(&Record<'_>),
    ) -> Result<BTreeMap<i32, NextOffset>, ServiceError> {
        Ok(read_to_end(&self.0, topic, from, PATIENCE, |record| each(&record))?)
    }
}
