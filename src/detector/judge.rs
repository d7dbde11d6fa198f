//! Judging rows of the answer: given what is known of a candidate at an instant, which change is there to write?
//!
//! A pure function of the candidate, its device's status and the instant, so judging once too often changes nothing.

use super::candidate::{Candidate, Finding};
use super::{Settings, window};
use crate::finding::ChangeKind;
use crate::time::Ticks;

/// What judging found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing to write.
    Same,
    /// This change holds from now; `cause` says why a finding was retracted.
    Write(ChangeKind, &'static str),
    /// An update is due, but not before this instant.
    Later(Ticks),
}

/// Why a candidate is not in the answer; `None` when it is.
pub(crate) fn obstacle(
    candidate: &Candidate,
    third_party: bool,
    is_server: bool,
    warm_from: Ticks,
    now: Ticks,
    settings: &Settings,
) -> Option<&'static str> {
    if window::holds(candidate.previous, now, settings.lookback) {
        return Some("an event that arrived late showed that the connection is not new");
    }
    if !is_server {
        return Some("the device no longer counts as a server");
    }
    if !third_party {
        return Some("the device no longer runs rare third-party software");
    }
    match &candidate.answer {
        None => Some("the destination has not answered"),
        Some(answer) if answer.prevalence >= settings.prevalence_below => Some("the destination is no longer rare in the fleet"),
        Some(_) if candidate.first < warm_from => Some("the device is in its warm-up"),
        Some(_) => None,
    }
}

/// Judges a candidate at `now`, given its obstacle at that instant.
pub(crate) fn judge(candidate: &Candidate, obstacle: Option<&'static str>, now: Ticks, settings: &Settings) -> Verdict {
    let open = candidate.finding.as_deref().filter(|f| f.open);
    if now >= candidate.end {
        return if open.is_some() { Verdict::Write(ChangeKind::Closed, "") } else { Verdict::Same };
    }
    match (open, obstacle) {
        (None, None) => Verdict::Write(ChangeKind::Opened, ""),
        (None, Some(_)) => Verdict::Same,
        (Some(_), Some(cause)) => Verdict::Write(ChangeKind::Retracted, cause),
        (Some(finding), None) if is_current(finding, candidate) => Verdict::Same,
        (Some(finding), None) => {
            let due = finding.written.plus(settings.update_interval);
            if due <= now { Verdict::Write(ChangeKind::Updated, "") } else { Verdict::Later(due) }
        }
    }
}

fn is_current(finding: &Finding, candidate: &Candidate) -> bool {
    finding.count == candidate.count && Some(&finding.answer) == candidate.answer.as_deref()
}
