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

/// Why a finding is retracted.
pub(crate) struct Causes {
    pub(crate) not_new: &'static str,
    pub(crate) no_server: &'static str,
    pub(crate) no_third_party: &'static str,
    pub(crate) common_destination: &'static str,
    pub(crate) cold: &'static str,
}

pub(crate) const CAUSES: Causes = Causes {
    not_new: "an event that arrived late showed that the connection is not new",
    no_server: "the device no longer counts as a server",
    no_third_party: "the device no longer runs rare third-party software",
    common_destination: "the destination is no longer rare in the fleet",
    cold: "the device is in its warm-up",
};

/// Why a candidate is not in the answer, whatever the thresholds; `None` when they decide.
pub(crate) fn common_obstacle(candidate: &Candidate, is_server: bool, now: Ticks, settings: &Settings) -> Option<&'static str> {
    if window::holds(candidate.previous, now, settings.lookback) {
        return Some(CAUSES.not_new);
    }
    (!is_server).then_some(CAUSES.no_server)
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
    if let Some(cause) = common_obstacle(candidate, is_server, now, settings) {
        return Some(cause);
    }
    if !third_party {
        return Some(CAUSES.no_third_party);
    }
    match &candidate.answer {
        None => Some("the destination has not answered"),
        Some(answer) if answer.prevalence >= settings.prevalence_below => Some(CAUSES.common_destination),
        Some(_) if candidate.first < warm_from => Some(CAUSES.cold),
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
