//! The end of a replay. After one that lacked messages, or when settings changed, what the findings topic says and what the state says are
//! brought together.
//!
//! A replay repeats what was published only if it gets the same messages. When retention took some, it keeps back what it says of
//! findings, and at its end each is compared once: open here and not there, it is opened there; open there and not here, it is
//! closed there. Other settings are no part of what a replay repeats, so what follows from them is compared likewise: a start before this
//! one may have said some of it, by these settings or by others. Nothing stays open for ever, and no change contradicts the one before it. Until a snapshot holds the outcome nothing
//! more may be consumed: a second replay would not repeat it.

use super::endings::{Endings, Stream};
use super::{Publication, Published, Sorter, Task, Turnout, in_topic_of_suppressed, publication, publications_of};
use crate::detector::{Detector, FindingRow};
use crate::finding::{Change, ChangeKind, FindingId};
use crate::kafka::sink::Outgoing;
use crate::planted::{self, Bug};
use crate::state::journal::Entry;
use crate::time::Ticks;
use std::collections::{BTreeSet, HashMap};

/// A finding's last change in the topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Last {
    /// Its revision.
    pub revision: u32,
    /// Whether it left the finding open.
    pub open: bool,
    /// From when on it holds.
    pub at: Ticks,
    /// Its value, if so.
    pub value: Vec<u8>,
}

/// A replay that lacks messages.
#[derive(Debug)]
pub(super) struct Lossy {
    /// Findings as they stood, and as the topic had them, when the first gap was met.
    base: HashMap<FindingId, FindingRow>,
    /// The last change of each finding since.
    held: HashMap<FindingId, Change>,
}

impl Lossy {
    pub(super) fn new(detector: &Detector) -> Lossy {
        Lossy { base: detector.findings().map(|row| (row.id, row)).collect(), held: HashMap::new() }
    }

    pub(super) fn hold(&mut self, change: &Change) {
        self.held.insert(change.id, change.clone());
    }
}

impl Published {
    /// Nothing yet; `in_two_topics` when what ends findings is written to a topic of suppressed changes as well.
    #[must_use]
    pub fn new(in_two_topics: bool) -> Published {
        Published { endings: Endings::of(in_two_topics), ..Published::default() }
    }

    /// A change stands in the findings topic. Noting one again changes nothing.
    pub fn note(&mut self, id: FindingId, revision: u32, open: bool, at: Ticks, value: &[u8]) {
        self.endings.note(Stream::Shown, id, revision, open, value);
        self.note_said(id, revision, open, at, value);
    }

    /// A change stands in the topic of suppressed changes.
    pub fn note_suppressed(&mut self, id: FindingId, revision: u32, open: bool, at: Ticks, value: &[u8]) {
        self.endings.note(Stream::Suppressed, id, revision, open, value);
        self.suppressed.insert((id, revision));
        self.note_last(id, revision, open, at, value);
    }

    /// A change is on its way.
    pub(super) fn note_said(&mut self, id: FindingId, revision: u32, open: bool, at: Ticks, value: &[u8]) {
        self.changes.insert((id, revision));
        self.note_last(id, revision, open, at, value);
    }

    /// Revisions count over both topics.
    fn note_last(&mut self, id: FindingId, revision: u32, open: bool, at: Ticks, value: &[u8]) {
        if self.last.get(&id).is_none_or(|last| last.revision <= revision) {
            self.last.insert(id, Last { revision, open, at, value: if open { value.to_vec() } else { Vec::new() } });
        }
    }

    /// `more` stands in the topics as well.
    pub(super) fn merge(&mut self, more: Published) {
        self.changes.extend(more.changes);
        self.suppressed.extend(more.suppressed);
        self.dead_letters.extend(more.dead_letters);
        self.endings.merge(more.endings);
        for (id, last) in more.last {
            if self.last.get(&id).is_none_or(|known| known.revision <= last.revision) {
                self.last.insert(id, last);
            }
        }
    }
}

impl Task {
    /// The source has delivered all that the journal lists: what else it lists is done now. [`Task::must_store`] is known after this.
    pub fn finish_replay(&mut self, out: &mut Turnout) {
        let changes_from = out.changes.len();
        for entry in self.replay.as_mut().map(std::mem::take).unwrap_or_default() {
            if let Entry::Advance { tenant, to } = entry {
                self.advance(&tenant, to, true, out);
            }
        }
        self.group(changes_from, out);
    }

    /// What comes now is live. True when a snapshot must count before more is consumed ([`Task::must_store`]).
    pub fn replay_done(&mut self, out: &mut Turnout) -> bool {
        self.finish_replay(out);
        let changes_from = out.changes.len();
        let must_store = self.must_store();
        self.replay = None;
        let changed = *self.feed.detector.settings() != self.configured;
        let messages_are_gone = self.lossy.is_some();
        let mut compared = self.lossy.take().or_else(|| must_store.then(|| Lossy::new(&self.feed.detector)));
        if changed {
            self.format.settings = self.configured.clone();
            let (format, published, lossy) = (&self.format, &mut self.published, compared.as_mut());
            let mut sorter = Sorter { format, published, replaying: true, lossy, held: None, source: None, appended: None, out };
            self.feed.change_settings(self.configured.clone(), &mut sorter);
        }
        if std::mem::take(&mut self.handing_over) {
            self.hand_over(out);
        } else if let Some(lossy) = compared {
            self.reconcile(lossy, messages_are_gone, out);
        }
        self.published = Published::default();
        self.nothing_more_to_hold();
        self.group(changes_from, out);
        self.group_all(out);
        must_store
    }

    /// Whether a snapshot must count at the end of the replay, before more is consumed: messages were gone, settings changed (or had been,
    /// for a start that did not live to store them), or the state comes from history, which stands in no journal. What is said then rests on
    /// what the output topics hold: they must have settled before it.
    #[must_use]
    pub fn must_store(&self) -> bool {
        let settings_changed = *self.feed.detector.settings() != self.configured && !planted::is(Bug::SettingsNotStored);
        self.lossy.is_some() || self.handing_over || settings_changed || self.topic_is_ahead()
    }

    /// Whether the topics know more than the whole replay has said.
    fn topic_is_ahead(&self) -> bool {
        if self.published.last.is_empty() || planted::is(Bug::TopicAheadNotSeen) {
            return false;
        }
        let known: HashMap<FindingId, u32> = self.feed.detector.findings().map(|row| (row.id, row.revision)).collect();
        let is_ahead = |(id, last): (&FindingId, &Last)| match known.get(id) {
            Some(revision) => last.revision > *revision,
            None => last.open && self.after_a_lost_start,
        };
        self.published.last.iter().any(is_ahead)
    }

    /// Compares every finding once, in the order of their ids, and publishes what the topic lacks.
    fn reconcile(&mut self, mut lossy: Lossy, messages_are_gone: bool, out: &mut Turnout) {
        // What was published before the snapshot is read of neither topic: of what is read, both copies are due.
        self.write_missing_endings(false, out);
        let last = std::mem::take(&mut self.published.last);
        let rows: HashMap<FindingId, FindingRow> = self.feed.detector.findings().map(|row| (row.id, row)).collect();
        let ids: BTreeSet<[u8; 16]> = lossy.base.keys().chain(last.keys()).chain(rows.keys()).map(|id| id.0).collect();
        for id in ids.into_iter().map(FindingId) {
            let (row, held) = (rows.get(&id), lossy.held.remove(&id));
            let base = lossy.base.get(&id).map(|base| (base.revision, base.open));
            let read = last.get(&id).map(|last| (last.revision, last.open));
            let (revision, open) = base.max(read).unwrap_or((0, false));
            let is_said = open && row.is_some_and(|row| row.open) && held.is_some() && {
                let said = self.feed.detector.revise(row.map_or(0, |row| row.candidate), revision, Some(ChangeKind::Updated));
                said.is_some_and(|said| self.stands_there(said, last.get(&id)))
            };
            let detector = &mut self.feed.detector;
            let change = match (open, row.filter(|row| row.open)) {
                (true, Some(_)) if is_said => None,
                (true, Some(row)) if held.is_some() => detector.revise(row.candidate, revision + 1, Some(ChangeKind::Updated)),
                (true, Some(row)) => detector.revise(row.candidate, revision, None),
                (false, Some(row)) => detector.revise(row.candidate, revision + 1, Some(ChangeKind::Opened)),
                (true, None) => {
                    row.and_then(|row| detector.revise(row.candidate, revision + 1, None));
                    let closed = held.map(|change| Change { revision: revision + 1, ..change });
                    if let (None, Some(last)) = (&closed, last.get(&id)) {
                        self.retract(id, last, out);
                    }
                    closed
                }
                (false, None) => row.and_then(|row| detector.revise(row.candidate, revision, None)),
            };
            if let Some(mut change) = change {
                if messages_are_gone {
                    // Whatever is said here is said because of that.
                    change.gap = change.gap.or_else(|| Some(self.gap_of(&change.tenant, change.at)));
                }
                self.format.mark(&mut change);
                let publications = publications_of(&self.format, &self.published, &change, None);
                out.publications.extend(publications.into_iter().map(|(_, publication)| publication));
                out.changes.push(change);
            }
        }
    }

    /// Whether what the topic last said of the finding is this, with or without the gap's mark.
    fn stands_there(&self, mut change: Change, last: Option<&Last>) -> bool {
        let Some(last) = last.filter(|last| last.revision == change.revision) else { return false };
        let gaps = [change.gap, Some(self.gap_of(&change.tenant, change.at))];
        gaps.into_iter().any(|gap| {
            change.gap = gap;
            self.format.mark(&mut change);
            publication(&self.format, &change, None).outgoing.payload == last.value
        })
    }

    /// Until when messages of the tenant are missing; `now` when none has come since.
    fn gap_of(&self, tenant: &str, now: Ticks) -> Ticks {
        let detector = &self.feed.detector;
        let known = if detector.in_gap() { None } else { detector.gap_of(tenant).or_else(|| detector.last_gap()) };
        known.unwrap_or(now)
    }

    /// Ends a finding that the state doesn't know, in each topic; its device's record is written as well.
    pub(super) fn retract(&mut self, id: FindingId, last: &Last, out: &mut Turnout) {
        let retraction = self.retraction(id, last);
        if let Some(topic) = self.format.suppression.topic() {
            out.publications.extend(retraction.clone().map(|retraction| in_topic_of_suppressed(retraction, topic)));
        }
        out.publications.extend(retraction);
        self.touch(&last.value);
    }

    /// What ends a finding that the state doesn't know: its last change, retracted.
    fn retraction(&self, id: FindingId, last: &Last) -> Option<Publication> {
        let text = std::str::from_utf8(&last.value).ok()?;
        let value: serde_json::Value = serde_json::from_str(text).ok()?;
        let written = Ticks::parse(value.get("at")?.as_str()?)?;
        let tenant = value.get("tenant_id").and_then(serde_json::Value::as_str).unwrap_or_default();
        let clock = self.feed.detector.clocks().find(|(name, _)| *name == tenant).map_or(written, |(_, clock)| clock);
        let (at, revision) = (clock.max(written), last.revision + 1);
        let head =
            |revision: &dyn std::fmt::Display, change: &str, at: &str| format!(r#""revision":{revision},"change":{change},"at":{at}"#);
        let said = head(&last.revision, &value.get("change")?.to_string(), &value.get("at")?.to_string());
        let says = head(&revision, r#""retracted""#, &serde_json::to_string(&at).ok()?);
        let is_in_gap = self.feed.detector.in_gap() || self.feed.detector.last_gap().is_some();
        let reason = |text: &dyn std::fmt::Display| format!(r#""reason":{text}"#);
        let retracted = text.replacen(&said, &says, 1).replacen(
            &reason(value.get("reason")?),
            &reason(&format_args!("\"Retracted: {}, {UNKNOWN}\"", if is_in_gap { GONE } else { ANOTHER })),
            1,
        );
        let retracted = match is_in_gap {
            true => with_gap(&retracted, value.get("baseline")?, self.gap_of(tenant, at))?,
            false => retracted,
        };
        let headers = [("change", "retracted"), ("revision", &revision.to_string()), ("finding-format", "firstseen")];
        let outgoing = Outgoing {
            topic: self.format.findings_topic.clone(),
            key: id.to_string().into_bytes(),
            headers: headers.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec())).into(),
            payload: retracted.into_bytes(),
            token: 0,
        };
        (text.contains(&said)).then_some(Publication { outgoing, appended: None })
    }
}

/// Why a finding is retracted that the state does not know, as its reason has it.
const GONE: &str = "messages that it rests on were gone from the input before they could be read again";
/// The same where no messages are gone.
const ANOTHER: &str = "another state, or other settings, opened it";
/// How such a reason ends.
pub(super) const UNKNOWN: &str = "so the state does not hold it.";

/// The value of a change, with `baseline.gap`.
fn with_gap(text: &str, baseline: &serde_json::Value, gap: Ticks) -> Option<String> {
    let lookback = format!(r#""lookback":{}"#, baseline.get("lookback")?);
    let said = baseline.get("gap").map(|gap| format!(r#""gap":{gap},"#)).unwrap_or_default();
    Some(text.replacen(&format!("{said}{lookback}"), &format!(r#""gap":"{gap}",{lookback}"#), 1))
}
