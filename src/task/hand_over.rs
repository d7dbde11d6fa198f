//! From history to live: the findings topic is made to say what the state says, once, before anything live is consumed.
//!
//! What history said of findings was not published. Here each finding is compared with its last change in the topic: open here and not
//! there, it is opened there; open there and not here, it is retracted there; open in both, an update says what differs, if anything. Which
//! differs is told by comparing bytes, so a start that was killed on the way finds what it published, and goes on behind it.

use super::{Task, Turnout, publication};
use crate::detector::FindingRow;
use crate::finding::{ChangeKind, FindingId};
use std::collections::{BTreeSet, HashMap};

impl Task {
    /// The state comes from history: at the end of the (empty) replay the topic is brought to it. `published` must hold the topic's
    /// last changes.
    #[must_use]
    pub fn handing_over(mut self) -> Task {
        self.handing_over = true;
        self
    }

    /// Compares every finding once, in the order of their ids, and publishes what the topic lacks.
    pub(super) fn hand_over(&mut self, out: &mut Turnout) {
        let last = std::mem::take(&mut self.published.last);
        let rows: HashMap<FindingId, FindingRow> = self.feed.detector.findings().map(|row| (row.id, row)).collect();
        let ids: BTreeSet<[u8; 16]> = last.keys().chain(rows.keys()).map(|id| id.0).collect();
        for id in ids.into_iter().map(FindingId) {
            let (row, read) = (rows.get(&id), last.get(&id));
            let (revision, open) = read.map_or((0, false), |last| (last.revision, last.open));
            let Some(row) = row else {
                if let Some(last) = read.filter(|last| last.open) {
                    out.publications.extend(self.retraction(id, last));
                }
                continue;
            };
            match (open, row.open) {
                (false, false) => drop(self.feed.detector.revise(row.candidate, revision, None)),
                (false, true) => self.say(row.candidate, revision + 1, ChangeKind::Opened, out),
                (true, true) => {
                    let is_said = |kind: ChangeKind| {
                        let change = self.feed.detector.revise(row.candidate, revision, Some(kind));
                        let said = change.map(|change| publication(&self.format, &change, None).outgoing.payload);
                        said.as_ref() == read.map(|last| &last.value)
                    };
                    if ![ChangeKind::Opened, ChangeKind::Updated].into_iter().any(is_said) {
                        self.say(row.candidate, revision + 1, ChangeKind::Updated, out);
                    }
                }
                (true, false) => {
                    self.feed.detector.revise(row.candidate, revision + 1, None);
                    if let Some(last) = read {
                        out.publications.extend(self.retraction(id, last));
                    }
                }
            }
        }
    }

    fn say(&mut self, candidate: u32, revision: u32, kind: ChangeKind, out: &mut Turnout) {
        if let Some(change) = self.feed.detector.revise(candidate, revision, Some(kind)) {
            out.publications.push(publication(&self.format, &change, None));
            out.changes.push(change);
        }
    }
}
