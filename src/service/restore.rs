//! What a start makes of the state directory and the output topics: a task that goes on where the one before it stopped.
//!
//! Invariant (INV-once): what stands in an output topic from the snapshot's positions on is known to the task before it says
//! anything. Which files count is [`crate::state`]'s to say; how topics are read, [`Outputs`]'.

use super::ServiceError;
use crate::finding::FindingId;
use crate::kafka::merge::Run;
use crate::kafka::position::NextOffset;
use crate::kafka::readback::Record;
use crate::planted::{self, Bug};
use crate::state::Recovered;
use crate::state::journal::Entry;
use crate::state::snapshot::Positions;
use crate::task::{DeadLetterKey, Format, Published, STREAM, SUPPRESSED, Task};
use crate::time::Ticks;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The output topics as a start reads them: the seam at which tests put a broker of their own.
pub trait Outputs: Send {
    /// Where each partition of the topic ends.
    ///
    /// # Errors
    /// No broker answers, or access is refused.
    fn ends(&mut self, topic: &str) -> Result<BTreeMap<i32, NextOffset>, ServiceError>;

    /// Hands every message from `from` (a partition that is not in it: from its start) to the present end to `each`; returns the
    /// end of every partition.
    ///
    /// # Errors
    /// See [`ReadbackError`](crate::kafka::readback::ReadbackError).
    fn read(
        &mut self,
        topic: &str,
        from: &BTreeMap<i32, NextOffset>,
        each: &mut dyn FnMut(&Record<'_>),
    ) -> Result<BTreeMap<i32, NextOffset>, ServiceError>;
}

/// A task that is ready to consume, and what its surroundings need to know.
#[derive(Debug)]
pub struct Restored {
    /// The task.
    pub task: Task,
    /// Where the input goes on: topic and partition → next offset.
    pub positions: HashMap<(String, i32), NextOffset>,
    /// The timestamps of the messages before these, as far as they are known.
    pub stamps: HashMap<(String, i32), Ticks>,
    /// What of the input comes first, in this order.
    pub replay: Vec<Run>,
    /// Where the output topics ended.
    pub ends: Positions,
    /// The number of the next journal segment.
    pub next_segment: u64,
    /// Nothing was ever stored.
    pub is_new: bool,
    /// The process before this one may have handed something to the brokers that is in no snapshot.
    pub after_a_crash: bool,
    /// The state comes from history that was read up to the first of these instants, by its slowest table, and ends at the second.
    pub handed_over: Option<(Ticks, Ticks)>,
}

/// Makes a task of what recovery found and what the output topics hold.
///
/// # Errors
/// The state was kept by other settings, or the output topics can't be read.
pub fn restore(recovered: Recovered, format: Format, outputs: &mut dyn Outputs) -> Result<Restored, ServiceError> {
    restore_by(recovered, format, false, outputs)
}

/// As [`restore`]; with `accept_partial` also when the state lacks what time will bring.
///
/// # Errors
/// As there.
pub fn restore_by(recovered: Recovered, format: Format, accept_partial: bool, outputs: &mut dyn Outputs) -> Result<Restored, ServiceError> {
    let lacks = recovered.detector.settings().lacks(&format.settings);
    if let Some(lack) = lacks.into_iter().find(|lack| !(accept_partial && lack.passes)) {
        return Err(ServiceError::OtherSettings(lack));
    }
    let Recovered { detector, snapshot, input, stamps, output, entries, next_segment, history, .. } = recovered;
    let handed_over = history.and_then(|history| history.handed_over_at().zip(history.end()));
    let is_new = input.is_none();
    // Each start begins a segment of its own: with only the snapshot's, and that empty, nothing happened since the snapshot.
    let after_a_crash = !entries.is_empty() || snapshot.is_some_and(|n| next_segment > n + 1);
    let mut topics = vec![format.findings_topic.clone(), format.dead_letter_topic.clone()];
    topics.extend(format.suppression.topic().map(str::to_owned));
    let (dead_letters, in_two_topics) = (format.dead_letter_topic.clone(), format.suppression.topic().is_some());
    let (published, ends) = if handed_over.is_some() {
        // Whatever stands there, from whichever state, is compared with this one.
        let shown = topics.iter().filter(|topic| **topic != dead_letters);
        let (published, mut ends) = read_since(outputs, shown, &Positions::new(), in_two_topics)?;
        ends.extend(all_ends(outputs, [&dead_letters])?);
        let said = published.last.values().map(|last| last.at).max();
        let clock = detector.clocks().map(|(_, clock)| clock).max();
        if let Some((said, clock)) = said.zip(clock).filter(|(said, clock)| said > clock) {
            return Err(ServiceError::SaidLater { topic: format.findings_topic, said, clock });
        }
        (published, ends)
    } else if is_new || planted::is(Bug::OutputReadFromItsEnd) {
        // Nothing of this state was ever published: only the ends matter.
        (Published::default(), all_ends(outputs, &topics)?)
    } else {
        read_since(outputs, &topics, &output, in_two_topics)?
    };
    let positions = input.unwrap_or_default();
    let runs = runs(&entries);
    let task = Task::new(detector, format, positions.clone(), entries, published).with_stamps(&stamps);
    // Each start begins a segment of its own; the one of the snapshot's number is its writer's.
    let task = task.after_a_lost_start(snapshot.is_some_and(|n| next_segment > n + 1));
    let task = if handed_over.is_some() { task.handing_over() } else { task };
    let mut replay: Vec<Run> = runs
        .into_iter()
        .filter_map(|(topic, partition, upto)| Some(Run { partition: task.partitions().id(&topic, partition)?, upto: NextOffset(upto) }))
        .collect();
    if planted::is(Bug::ReplayInAnotherOrder) {
        replay.sort_by_key(|run| run.partition);
    }
    let positions = positions.into_iter().map(|(of, next)| (of, NextOffset(next))).collect();
    let stamps = stamps.into_iter().map(|(of, at)| (of, Ticks(at))).collect();
    Ok(Restored { task, positions, stamps, replay, ends, next_segment, is_new, after_a_crash, handed_over })
}

/// Where the topics end.
fn all_ends<'a>(outputs: &mut dyn Outputs, topics: impl IntoIterator<Item = &'a String>) -> Result<Positions, ServiceError> {
    let mut ends = Positions::new();
    for topic in topics {
        ends.extend(outputs.ends(topic)?.into_iter().map(|(partition, next)| ((topic.clone(), partition), next.0)));
    }
    Ok(ends)
}

/// What the topics hold from these positions on, and where they end now.
pub(super) fn published_since(outputs: &mut dyn Outputs, from: &Positions) -> Result<(Published, Positions), ServiceError> {
    let topics: BTreeSet<&String> = from.keys().map(|(topic, _)| topic).collect();
    read_since(outputs, topics, from, true)
}

fn read_since<'a>(
    outputs: &mut dyn Outputs,
    topics: impl IntoIterator<Item = &'a String>,
    from: &Positions,
    in_two_topics: bool,
) -> Result<(Published, Positions), ServiceError> {
    let (mut published, mut ends) = (Published::new(in_two_topics), Positions::new());
    for topic in topics {
        let from: BTreeMap<i32, NextOffset> =
            from.iter().filter(|((t, _), _)| t == topic).map(|((_, partition), next)| (*partition, NextOffset(*next))).collect();
        let found = outputs.read(topic, &from, &mut |record| note(&mut published, record))?;
        ends.extend(found.into_iter().map(|(partition, next)| ((topic.clone(), partition), next.0)));
    }
    Ok((published, ends))
}

/// The journal's runs for the source, in order.
fn runs(entries: &[Entry]) -> Vec<(String, i32, i64)> {
    let run = |entry: &Entry| match entry {
        Entry::Run { topic, partition, upto } => Some((topic.clone(), *partition, *upto)),
        Entry::Advance { .. } => None,
    };
    entries.iter().filter_map(run).collect()
}

/// Recognises what this service wrote; anything else in the topic is somebody else's.
fn note(published: &mut Published, record: &Record<'_>) {
    let text = |name: &str| record.header(name).and_then(|v| std::str::from_utf8(v).ok());
    if let (Some(id), Some(revision)) = (finding_id(record.key), text("revision").and_then(|r| r.parse().ok())) {
        let open = matches!(text("change"), Some("opened" | "updated"));
        if text(STREAM) == Some(SUPPRESSED) {
            published.note_suppressed(id, revision, open, at(record.payload), record.payload);
        } else {
            published.note(id, revision, open, at(record.payload), record.payload);
        }
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

/// The instant of a change, by its value.
fn at(payload: &[u8]) -> Ticks {
    #[derive(serde::Deserialize)]
    struct Value<'a> {
        #[serde(borrow)]
        at: std::borrow::Cow<'a, str>,
    }
    serde_json::from_slice::<Value<'_>>(payload).ok().and_then(|value| Ticks::parse(&value.at)).unwrap_or(Ticks::MIN)
}

fn finding_id(key: &[u8]) -> Option<FindingId> {
    let text = std::str::from_utf8(key).ok().filter(|k| k.len() == 32 && k.bytes().all(|b| b.is_ascii_hexdigit()))?;
    let mut id = [0; 16];
    for (byte, at) in id.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
    }
    Some(FindingId(id))
}
