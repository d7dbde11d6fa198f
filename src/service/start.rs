//! Everything before the first message: state, topics, what is published already, threads.

use super::core::{Core, Decoded, decode};
use super::publisher::Publisher;
use super::{ServiceError, Shared, kafka_settings, snapshots};
use crate::config::{Config, Start};
use crate::defender::decode::{Decoder, Limits};
use crate::finding::FindingId;
use crate::finding::severity::Privileged;
use crate::host_clock;
use crate::kafka::admin::{Admin, TopicSettings};
use crate::kafka::client::KafkaSettings;
use crate::kafka::merge::Run;
use crate::kafka::position::NextOffset;
use crate::kafka::readback::{Record, read_to_end, readable_ends};
use crate::kafka::sink::{Sink, SinkLimits};
use crate::kafka::source::{self, SourceConfig, SourceEvent};
use crate::stage;
use crate::state::disk::Directory;
use crate::state::journal::Entry;
use crate::state::snapshot::Positions;
use crate::state::{Recovered, Store};
use crate::task::{DeadLetterKey, Format, Published, Task};
use crossbeam_channel::{Receiver, bounded, unbounded};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// How long a broker may take to answer at the start.
const PATIENCE: Duration = Duration::from_secs(10);
/// Steps that may wait between task and publisher; one can hold 1 MiB of dead letters.
const STEPS: usize = 16;
/// How long findings and dead letters are kept in topics that are created here.
const RETENTION: Duration = Duration::from_secs(30 * 86_400);

/// Recovers and starts everything but the task's own thread.
pub(super) fn prepare(config: &Config, shared: &Shared) -> Result<Core, ServiceError> {
    let begun = host_clock::monotonic();
    shared.health.set_unready("restoring the state");
    let settings = config.detector_settings();
    let store = Store::new(Arc::new(Directory::open(&config.state.dir)?));
    let recovered = store.recover(&settings)?;
    for warning in &recovered.warnings {
        tracing::warn!("{warning}");
    }
    let Recovered { detector, input, output, entries, next_segment, .. } = recovered;
    let is_new = input.is_none();
    let kafka = kafka_settings(config);
    let topics = [config.output.findings_topic.as_str(), config.output.dead_letter_topic.as_str()];
    ensure_topics(config, &kafka, &topics)?;
    let (published, ends) = published(&kafka, &topics, &output, is_new)?;
    for change in detector.open_findings() {
        shared.view.apply(&change);
    }
    let tracked = detector.tracked();
    tracing::info!(
        connections = tracked.connections,
        devices = tracked.devices,
        open_findings = tracked.open_findings,
        to_replay = entries.len(),
        already_published = published.changes.len(),
        seconds = begun.elapsed().as_secs_f64(),
        "state restored"
    );

    let format = Format {
        findings_topic: config.output.findings_topic.clone(),
        dead_letter_topic: config.output.dead_letter_topic.clone(),
        settings,
        // The configuration was checked with the same call.
        privileged: Privileged::new(&config.detection.privileged_servers).unwrap_or_else(|_| Privileged::none()),
    };
    let runs = runs(&entries);
    let positions = input.unwrap_or_default();
    let task = Task::new(detector, format, positions.clone(), entries, published);
    let mut source_config = SourceConfig::new(kafka.clone(), config.input.topics.clone());
    source_config.table = task.partitions().clone();
    source_config.positions = positions.into_iter().map(|(of, next)| (of, NextOffset(next))).collect::<HashMap<_, _>>();
    source_config.start = match config.input.start {
        Start::Earliest => source::Start::Earliest,
        Start::Latest => source::Start::Latest,
    };
    source_config.replay = runs
        .into_iter()
        .filter_map(|(topic, partition, upto)| {
            let partition = task.partitions().id(&topic, partition)?;
            Some(Run { partition, upto: NextOffset(upto) })
        })
        .collect();

    let journal = store.begin_segment(next_segment).map_err(ServiceError::Journal)?;
    let sink = Sink::new(&kafka, SinkLimits::default())?;
    shared.metrics.watch_connections("output", sink.connection_errors());
    let (work, work_out) = bounded(STEPS);
    let publisher = Publisher::new(store.clone(), journal, sink, Arc::clone(&shared.metrics), ends, work_out);
    let (failed_in, failed) = bounded(1);
    spawn("publisher", move || {
        // Told to the task, which ends for it.
        let _ = failed_in.send(publisher.run());
    })?;
    let (pieces, pieces_out) = unbounded();
    let (snapshot_store, metrics) = (store.clone(), Arc::clone(&shared.metrics));
    let snapshot_thread = spawn("snapshots", move || snapshots::run(&snapshot_store, &metrics, &pieces_out))?;

    let source = source::start(source_config)?;
    shared.metrics.watch_connections("input", source.connection_errors());
    let decoded = spawn_decoders(config, source.events.clone())?;
    shared.metrics.state_restored(begun.elapsed());
    shared.health.set_unready("waiting for partitions to be assigned");
    Ok(Core::new(config, shared.clone(), task, store, source, decoded, work, pieces, snapshot_thread, failed, next_segment, is_new))
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<thread::JoinHandle<()>, ServiceError> {
    thread::Builder::new().name(name.to_owned()).spawn(work).map_err(ServiceError::Thread)
}

/// One thread hands events to the decoders in turn; results come back in the events' order.
fn spawn_decoders(config: &Config, events: Receiver<SourceEvent>) -> Result<stage::Outlet<Decoded>, ServiceError> {
    // The task and librdkafka want a core each; what is left decodes.
    let workers = thread::available_parallelism().map_or(1, |n| n.get().saturating_sub(2)).clamp(1, 16);
    let skew = config.input.max_clock_skew;
    let make = || {
        let mut decoder = Decoder::new();
        move |event| decode(&mut decoder, event, |clock| Limits { independent_clock: clock, max_clock_skew: skew })
    };
    let (mut inlet, outlet) = stage::spawn("decode", workers, 4, make).map_err(ServiceError::Thread)?;
    spawn("deal", move || {
        for event in events {
            if !inlet.send(event) {
                return;
            }
        }
    })?;
    Ok(outlet)
}

fn ensure_topics(config: &Config, kafka: &KafkaSettings, topics: &[&str]) -> Result<(), ServiceError> {
    let admin = Admin::new(kafka, PATIENCE)?;
    let partitions = config.input.topics.iter().try_fold(1, |most, topic| {
        let n = admin.partitions(topic)?.map_or(0, |p| p.len());
        if n == 0 { Err(ServiceError::Source(source::SourceError::MissingTopic { topic: topic.clone() })) } else { Ok(n.max(most)) }
    })?;
    for topic in topics {
        let settings = TopicSettings {
            partitions: u16::try_from(partitions.min(12)).unwrap_or(12),
            retention: Some(RETENTION),
            create: config.output.create_topics,
        };
        admin.ensure_topic(topic, settings)?;
    }
    Ok(())
}

/// The journal's runs for the source, in order.
fn runs(entries: &[Entry]) -> Vec<(String, i32, i64)> {
    let run = |entry: &Entry| match entry {
        Entry::Run { topic, partition, upto } => Some((topic.clone(), *partition, *upto)),
        Entry::Advance { .. } => None,
    };
    entries.iter().filter_map(run).collect()
}

/// What the output topics hold from the snapshot's positions on, and where they end now.
fn published(kafka: &KafkaSettings, topics: &[&str], from: &Positions, is_new: bool) -> Result<(Published, Positions), ServiceError> {
    let (mut published, mut ends) = (Published::default(), Positions::new());
    if is_new {
        // Nothing of this state was ever published: only the ends matter.
        for topic in topics {
            let found = readable_ends(kafka, topic, PATIENCE)?;
            ends.extend(found.into_iter().map(|(partition, next)| (((*topic).to_owned(), partition), next.0)));
        }
        return Ok((published, ends));
    }
    for topic in topics {
        let from: BTreeMap<i32, NextOffset> =
            from.iter().filter(|((t, _), _)| t == topic).map(|((_, partition), next)| (*partition, NextOffset(*next))).collect();
        let found = read_to_end(kafka, topic, &from, PATIENCE, |record| note(&mut published, &record))?;
        ends.extend(found.into_iter().map(|(partition, next)| (((*topic).to_owned(), partition), next.0)));
    }
    Ok((published, ends))
}

/// Recognises what this service wrote; anything else in the topic is somebody else's.
fn note(published: &mut Published, record: &Record<'_>) {
    let text = |name: &str| record.header(name).and_then(|v| std::str::from_utf8(v).ok());
    if let (Some(id), Some(revision)) = (finding_id(record.key), text("revision").and_then(|r| r.parse().ok())) {
        published.changes.insert((id, revision));
    }
    let source = || -> Option<DeadLetterKey> {
        let index = match text("source-record") {
            Some(index) => Some(index.parse().ok()?),
            None => None,
        };
        Some((text("source-topic")?.to_owned(), text("source-partition")?.parse().ok()?, text("source-offset")?.parse().ok()?, index))
    };
    published.dead_letters.extend(source());
}

fn finding_id(key: &[u8]) -> Option<FindingId> {
    let text = std::str::from_utf8(key).ok().filter(|k| k.len() == 32 && k.bytes().all(|b| b.is_ascii_hexdigit()))?;
    let mut id = [0; 16];
    for (byte, at) in id.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
    }
    Some(FindingId(id))
}
