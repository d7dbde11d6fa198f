//! The service's deterministic middle: messages in consumed order → journal entries and messages to publish. No threads, clocks
//! or I/O, so that a simulation can drive it.
//!
//! Invariants: INV-journal, every message and clock advance that the detector took stands in the journal bytes handed out
//! before or with the changes that it caused; INV-once, while the journal is replayed, what already stands in an output topic is
//! not published again.

use crate::defender::batch::Batch;
use crate::detector::{Detector, Settings};
use crate::feed::{DeadLetter, Feed, Output};
use crate::finding::severity::Privileged;
use crate::finding::{Change, ChangeKind, FindingId};
use crate::kafka::position::{NextOffset, PartitionId, PartitionTable};
use crate::kafka::sink::Outgoing;
use crate::planted::{self, Bug};
use crate::state::journal::{Encoder, Entry};
use crate::state::snapshot::Positions;
use crate::suppress::{Rules, Suppression};
use crate::time::Ticks;
use std::collections::{HashMap, HashSet, VecDeque};

mod endings;
mod grouped;
mod hand_over;
mod held;
mod publications;
mod reconcile;
use endings::Endings;
use grouped::Grouped;
use held::{Held, Name};
pub use publications::{STREAM, SUPPRESSED};
use publications::{in_the_other_topic, in_topic_of_suppressed, publication, publications_of};
pub use reconcile::Last;
use reconcile::Lossy;

/// Where a message came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Its partition.
    pub partition: PartitionId,
    /// Its offset.
    pub offset: i64,
    /// The broker's timestamp.
    pub timestamp: Option<Ticks>,
}

/// How changes and dead letters are written.
#[derive(Clone, Debug)]
pub struct Format {
    /// Topic of findings.
    pub findings_topic: String,
    /// Topic of dead letters.
    pub dead_letter_topic: String,
    /// For the findings' form.
    pub settings: Settings,
    /// For the findings' form.
    pub privileged: Privileged,
    /// Rules that mark findings on their way out.
    pub suppression: Suppression,
}

impl Format {
    fn mark(&self, change: &mut Change) {
        self.suppression.rules.mark(change, &self.settings, &self.privileged);
    }
}

/// Names a dead letter for ever: topic, partition, offset, record.
pub type DeadLetterKey = (String, i32, i64, Option<u32>);

/// What the output topics hold already, from the snapshot's positions on. [`Published::note`] adds a change.
#[derive(Clone, Debug, Default)]
pub struct Published {
    /// Changes of findings, on the findings topic.
    pub changes: HashSet<(FindingId, u32)>,
    /// Those on the topic of suppressed changes.
    pub suppressed: HashSet<(FindingId, u32)>,
    /// Dead letters.
    pub dead_letters: HashSet<DeadLetterKey>,
    /// The last change of each finding.
    pub last: HashMap<FindingId, Last>,
    /// What ends findings, for the copies that are missing.
    endings: Endings,
}

/// A message for the sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// The message; its token is the publisher's to give.
    pub outgoing: Outgoing,
    /// When the broker appended the record that caused it, for the latency metric; absent for changes that time brings.
    pub appended: Option<Ticks>,
}

/// What a step of the task wants done, in this order: the journal's bytes written (and synced when something is to be
/// published), then the publications.
#[derive(Debug, Default)]
pub struct Turnout {
    /// Journal frames; empty while the journal is replayed.
    pub journal: Vec<u8>,
    /// To publish.
    pub publications: Vec<Publication>,
    /// Every change, also those that are published already, for the view.
    pub changes: Vec<Change>,
}

impl Turnout {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.journal.is_empty() && self.publications.is_empty() && self.changes.is_empty()
    }
}

/// The task of one process that owns all partitions.
#[derive(Debug)]
pub struct Task {
    feed: Feed,
    format: Format,
    /// In force once the journal is replayed by the settings that were.
    configured: Settings,
    partitions: PartitionTable,
    positions: Positions,
    /// By partition: the broker's timestamp of the message before the position.
    stamps: Vec<Option<Ticks>>,
    encoder: Encoder,
    /// What is left of the journal; `None` when what comes is live.
    replay: Option<VecDeque<Entry>>,
    published: Published,
    /// What is replayed lacks messages.
    lossy: Option<Lossy>,
    /// A record a device is written as well.
    grouped: Option<Grouped>,
    /// What waits until the output topics have settled; `None` when nothing does.
    held: Option<Held>,
    /// The state comes from history, and the topic does not know it yet.
    handing_over: bool,
    /// A start since the snapshot did not live to store anything: it may have put other settings in force.
    after_a_lost_start: bool,
    /// Messages that were replayed.
    pub replayed: u64,
}

/// Turns what the feed says into messages.
struct Sorter<'a> {
    format: &'a Format,
    published: &'a mut Published,
    replaying: bool,
    lossy: Option<&'a mut Lossy>,
    held: Option<&'a mut Held>,
    source: Option<(&'a str, i32, i64)>,
    appended: Option<Ticks>,
    out: &'a mut Turnout,
}

impl Output for Sorter<'_> {
    fn change(&mut self, mut change: Box<Change>) {
        self.format.mark(&mut change);
        if let Some(lossy) = &mut self.lossy {
            lossy.hold(&change);
        } else {
            let publications = publications_of(self.format, self.published, &change, self.appended);
            if self.replaying {
                self.published.endings.said_again(change.id, change.revision);
            }
            if let Some((_, publication)) = publications.first().filter(|_| self.replaying) {
                let open = matches!(change.kind, ChangeKind::Opened | ChangeKind::Updated);
                self.published.note_said(change.id, change.revision, open, change.at, &publication.outgoing.payload);
            }
            publications.into_iter().for_each(|(name, publication)| self.publish(name, publication));
        }
        self.out.changes.push(*change);
    }

    fn dead_letter(&mut self, letter: DeadLetter<'_>) {
        let (topic, partition, offset) = self.source.unwrap_or(("", 0, 0));
        let name: DeadLetterKey = (topic.to_owned(), partition, offset, letter.index);
        if self.published.dead_letters.contains(&name) && !planted::is(Bug::DeadLettersForgotten) {
            return;
        }
        // Room for all six at once: one message may hold tens of thousands of dead letters, and their steps wait in a queue.
        let mut headers = Vec::with_capacity(6);
        headers.extend([
            ("reason".to_owned(), letter.reason.as_str().as_bytes().to_vec()),
            ("error".to_owned(), letter.error.as_bytes().to_vec()),
            ("source-topic".to_owned(), topic.as_bytes().to_vec()),
            ("source-partition".to_owned(), partition.to_string().into_bytes()),
            ("source-offset".to_owned(), offset.to_string().into_bytes()),
        ]);
        if let Some(index) = letter.index {
            headers.push(("source-record".to_owned(), index.to_string().into_bytes()));
        }
        let key = format!("{topic}/{partition}/{offset}").into_bytes();
        let outgoing = Outgoing { topic: self.format.dead_letter_topic.clone(), key, headers, payload: letter.raw.to_vec(), token: 0 };
        self.publish(Name::DeadLetter(name), Publication { outgoing, appended: None });
    }
}

impl Sorter<'_> {
    fn publish(&mut self, name: Name, publication: Publication) {
        let (held, replaying) = (self.held.as_deref_mut(), self.replaying);
        self.out.publications.extend(match held {
            Some(held) => held.take(name, publication, replaying),
            None => Some(publication),
        });
    }
}

impl Task {
    /// A task that goes on from a state: `positions` and `detector` as the snapshot has them, `entries` as the journal has.
    #[must_use]
    pub fn new(detector: Detector, format: Format, positions: Positions, entries: Vec<Entry>, published: Published) -> Task {
        let mut partitions = PartitionTable::new();
        let in_journal = entries.iter().filter_map(|entry| match entry {
            Entry::Run { topic, partition, .. } => Some((topic, *partition)),
            Entry::Advance { .. } => None,
        });
        for (topic, partition) in positions.keys().map(|(topic, partition)| (topic, *partition)).chain(in_journal) {
            partitions.register(topic, partition);
        }
        Task {
            configured: format.settings.clone(),
            format: Format { settings: detector.settings().clone(), ..format },
            feed: Feed::new(detector),
            partitions,
            positions,
            stamps: Vec::new(),
            encoder: Encoder::default(),
            replay: Some(entries.into()),
            published,
            lossy: None,
            grouped: None,
            held: None,
            handing_over: false,
            after_a_lost_start: false,
            replayed: 0,
        }
    }

    /// A start since the snapshot did not live to store anything: what is open in the topics and unknown to the state may be its.
    #[must_use]
    pub fn after_a_lost_start(self, after_a_lost_start: bool) -> Task {
        Task { after_a_lost_start, ..self }
    }

    /// The detector, to read.
    #[must_use]
    pub fn detector(&self) -> &Detector {
        &self.feed.detector
    }

    /// The detector, to copy a snapshot from.
    pub fn detector_mut(&mut self) -> &mut Detector {
        &mut self.feed.detector
    }

    /// Puts other suppression rules in force, for the changes to come. Nothing else depends on them: not what is recognised as published,
    /// nor what a replay says.
    pub fn set_rules(&mut self, rules: Rules) {
        self.format.suppression.rules = rules;
    }

    /// Marks a change by the rules in force.
    pub fn mark(&self, change: &mut Change) {
        self.format.mark(change);
    }

    /// What became of records since the last call.
    pub fn take_tally(&mut self) -> crate::feed::Tally {
        std::mem::take(&mut self.feed.tally)
    }

    /// Ids of partitions, as the source is to use them.
    #[must_use]
    pub fn partitions(&self) -> &PartitionTable {
        &self.partitions
    }

    /// How many messages that stand in the output topics already are known, while the journal is replayed.
    #[must_use]
    pub fn already_published(&self) -> usize {
        self.published.changes.len() + self.published.suppressed.len() + self.published.dead_letters.len()
    }

    /// Where each partition goes on.
    #[must_use]
    pub fn positions(&self) -> &Positions {
        &self.positions
    }

    /// With the timestamps of the messages before the positions, as [`Task::stamps`] gave them.
    #[must_use]
    pub fn with_stamps(mut self, stamps: &Positions) -> Task {
        for ((topic, partition), at) in stamps {
            if let Some(id) = self.partitions.id(topic, *partition) {
                self.stamp(id, Some(Ticks(*at)));
            }
        }
        self
    }

    /// The broker's timestamps of the messages before the positions, in ticks, as far as they are known: they show later whether the
    /// topic is still the same.
    #[must_use]
    pub fn stamps(&self) -> Positions {
        let known = self.partitions.iter().filter_map(|(id, of)| {
            let at = (*self.stamps.get(id.0 as usize)?)?;
            Some(((of.topic.clone(), of.partition), at.0))
        });
        known.collect()
    }

    fn stamp(&mut self, partition: PartitionId, at: Option<Ticks>) {
        let place = partition.0 as usize;
        if place >= self.stamps.len() {
            self.stamps.resize(place + 1, None);
        }
        if let Some(stamp) = self.stamps.get_mut(place) {
            *stamp = at;
        }
    }

    /// The source owns this partition and goes on at `position`; known partitions keep what the task consumed itself. Returns the
    /// partition's id, which is the source's.
    pub fn assigned(&mut self, topic: &str, partition: i32, position: NextOffset) -> PartitionId {
        let id = self.partitions.register(topic, partition);
        self.positions.entry((topic.to_owned(), partition)).or_insert(position.0);
        id
    }

    /// Messages of the partition up to `to` are gone. While the journal is replayed, what it says of findings is kept back from now on,
    /// and brought together with the topic at its end. After this a snapshot must
    /// count before more is consumed (during a replay: see [`Task::replay_done`]): a gap stands in no journal.
    pub fn skipped_to(&mut self, partition: PartitionId, to: NextOffset) {
        if let Some(of) = self.partitions.get(partition) {
            if !planted::is(Bug::GapNotMarked) {
                self.feed.detector.gap_begins(&of.to_string());
            }
            if let Some(stamp) = self.stamps.get_mut(partition.0 as usize) {
                *stamp = None;
            }
            // At a hand-over nothing is replayed, and everything is compared anyway.
            if self.replay.is_some() && self.lossy.is_none() && !self.handing_over && !planted::is(Bug::GapNotReconciled) {
                self.lossy = Some(Lossy::new(&self.feed.detector));
            }
            let at = self.positions.entry((of.topic.clone(), of.partition)).or_insert(to.0);
            *at = to.0.max(*at);
        }
    }

    /// Whether the journal is still being replayed.
    #[must_use]
    pub fn is_replaying(&self) -> bool {
        self.replay.is_some()
    }

    /// Takes decoded messages in consumed order, each in a batch of its own.
    pub fn messages<'a>(&mut self, messages: impl IntoIterator<Item = (Origin, &'a Batch)>, out: &mut Turnout) {
        let changes_from = out.changes.len();
        for (origin, batch) in messages {
            self.begin_message(origin, out);
            let mut gap_ends = self.feed.detector.in_gap().then_some(origin.partition);
            let source = self.partitions.get(origin.partition).map(|of| (of.topic.as_str(), of.partition, origin.offset));
            let (published, replaying, lossy) = (&mut self.published, self.replay.is_some(), self.lossy.as_mut());
            let (format, held) = (&self.format, self.held.as_mut());
            let mut sorter = Sorter { format, published, replaying, lossy, held, source, appended: origin.timestamp, out };
            self.feed.batch(batch, &mut sorter);
            self.end_gap(&mut gap_ends);
        }
        self.group(changes_from, out);
        out.journal.append(&mut self.encoder.take_frame());
    }

    /// The message that came after a gap is applied.
    fn end_gap(&mut self, partition: &mut Option<PartitionId>) {
        if let Some(of) = partition.take().and_then(|id| self.partitions.get(id)) {
            self.feed.detector.gap_ends(&of.to_string());
        }
    }

    fn begin_message(&mut self, origin: Origin, out: &mut Turnout) {
        let Some(of) = self.partitions.get(origin.partition).cloned() else { return };
        let next = NextOffset::after(origin.offset);
        self.stamp(origin.partition, origin.timestamp);
        match self.replay.take() {
            Some(mut entries) => {
                self.replayed += 1;
                // Runs that are finished (or whose messages are gone) and the advances between them come first.
                while let Some(entry) = entries.pop_front() {
                    match entry {
                        Entry::Advance { tenant, to } => self.advance(&tenant, to, true, out),
                        Entry::Run { topic, partition, upto } => {
                            if topic == of.topic && partition == of.partition && origin.offset < upto {
                                if next.0 < upto {
                                    entries.push_front(Entry::Run { topic, partition, upto });
                                }
                                break;
                            }
                        }
                    }
                }
                self.replay = Some(entries);
            }
            None => self.encoder.message(&of.topic, of.partition, next.0),
        }
        match self.positions.get_mut(&(of.topic.clone(), of.partition)) {
            Some(position) => *position = next.0,
            None => drop(self.positions.insert((of.topic, of.partition), next.0)),
        }
    }

    fn advance(&mut self, tenant: &str, to: Ticks, replaying: bool, out: &mut Turnout) {
        let (published, lossy, held) = (&mut self.published, self.lossy.as_mut(), self.held.as_mut());
        let mut sorter = Sorter { format: &self.format, published, replaying, lossy, held, source: None, appended: None, out };
        self.feed.advance(tenant, to, &mut sorter);
    }

    /// Moves the arrival clock of every tenant that is behind `to`: the input is idle.
    pub fn idle(&mut self, to: Ticks, out: &mut Turnout) {
        let changes_from = out.changes.len();
        let behind: Vec<String> =
            self.feed.detector.clocks().filter(|(_, clock)| *clock < to).map(|(tenant, _)| tenant.to_owned()).collect();
        for tenant in behind {
            if !planted::is(Bug::AdvanceNotJournaled) {
                self.encoder.advance(&tenant, to);
            }
            self.advance(&tenant, to, false, out);
        }
        self.group(changes_from, out);
        out.journal.append(&mut self.encoder.take_frame());
    }

    /// A new segment begins: its entries name their partitions anew.
    pub fn begin_segment(&mut self) {
        if !planted::is(Bug::SegmentNumbersKept) {
            self.encoder = Encoder::default();
        }
    }
}

#[cfg(test)]
mod tests;
