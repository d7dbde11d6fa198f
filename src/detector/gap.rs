//! Gaps: messages that were gone from the input before they were read. Findings say until when something is missing, and after a
//! replay that lacked messages their revisions are brought to what was published.

use super::{Detector, message};
use crate::finding::{Change, ChangeKind, FindingId};
use crate::time::Ticks;

/// Where a finding stands in the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FindingRow {
    /// Its candidate, for [`Detector::revise`].
    pub candidate: u32,
    /// Its name.
    pub id: FindingId,
    /// Its last change.
    pub revision: u32,
    /// Whether it is open.
    pub open: bool,
}

impl Detector {
    /// Messages of an input lane (a partition, by any name) are gone, and what comes after them is not here yet.
    pub fn gap_begins(&mut self, lane: &str) {
        self.gaps.insert(lane.into());
    }

    /// Whether there is a lane of which that is so.
    #[must_use]
    pub fn in_gap(&self) -> bool {
        !self.gaps.is_empty()
    }

    /// The lane's next message after the gap was applied: what is missing arrived before now. Of a lane without a gap, and before any
    /// record was good: nothing.
    pub fn gap_ends(&mut self, lane: &str) {
        if let Some(now) = self.tenants.iter().map(|t| t.clock).max()
            && self.gaps.remove(lane)
        {
            self.tenants.iter_mut().for_each(|tenant| tenant.gap = now);
        }
    }

    /// Until when messages of the tenant are missing, if ever any were.
    #[must_use]
    pub fn gap_of(&self, tenant: &str) -> Option<Ticks> {
        self.tenants.iter().find(|t| *t.name == *tenant).map(|t| t.gap).filter(|gap| *gap != Ticks::MIN)
    }

    /// The same of whichever tenant it was last.
    #[must_use]
    pub fn last_gap(&self) -> Option<Ticks> {
        self.tenants.iter().map(|t| t.gap).max().filter(|gap| *gap != Ticks::MIN)
    }

    /// Until when messages are missing, if a finding that was first seen at `first` may be wrong for it.
    pub(super) fn gap_before(&self, tenant: u32, first: Ticks, now: Ticks) -> Option<Ticks> {
        if self.in_gap() {
            return Some(now);
        }
        let gap = self.tenants.get(tenant as usize).map(|t| t.gap).filter(|gap| *gap != Ticks::MIN)?;
        (first.min(now) < gap.plus(self.settings.lookback)).then_some(gap)
    }

    /// All findings whose candidates live, in no particular order.
    pub fn findings(&self) -> impl Iterator<Item = FindingRow> {
        self.candidates.iter().filter_map(|(candidate, row)| {
            let finding = row.finding.as_ref()?;
            Some(FindingRow { candidate, id: finding.id, revision: finding.revision, open: finding.open })
        })
    }

    /// Gives a candidate's finding this revision. With a kind, which must leave it open as it is, the change with the values of now.
    pub fn revise(&mut self, candidate: u32, revision: u32, kind: Option<ChangeKind>) -> Option<Change> {
        let row = self.candidates.get(candidate)?;
        let now = self.clock_of(self.devices.rows.row(row.device).tenant);
        let id = row.finding.as_ref()?.id;
        let change = kind.map(|kind| self.describe(candidate, id, revision, kind, "", now));
        let row = self.candidates.row_mut(candidate);
        let (count, answer) = (row.count, row.answer.as_deref().copied().unwrap_or(message::Answer { prevalence: 0, urls: 0 }));
        if let Some(finding) = &mut row.finding {
            finding.revision = revision;
            if change.is_some() {
                (finding.written, finding.count, finding.answer) = (now, count, answer);
            }
        }
        change
    }
}
