//! After a crash: changes and dead letters of the replay that no output topic holds are held back for a while.
//!
//! The dead process may have sent them, and a broker may take them yet. So they wait until the output topics have settled and were read
//! once more; what stands there by then is dropped, the rest is published. Only what the journal lists can be in doubt: nothing is handed
//! to a broker before it is journaled (INV-journal), so what comes after the replay is published at once, unless it is a change of a
//! finding of which an earlier one is held: a finding's changes keep their order.

use super::endings::Stream;
use super::{DeadLetterKey, Publication, Published, Task, Turnout, in_the_other_topic};
use crate::finding::FindingId;
use crate::planted::{self, Bug};
use std::collections::HashSet;

/// What a message is recognised by in its topic.
#[derive(Clone, Debug)]
pub(super) enum Name {
    Change(FindingId, u32),
    /// In the topic of suppressed changes.
    Suppressed(FindingId, u32),
    DeadLetter(DeadLetterKey),
}

/// Whether it ends a finding, and so stands in both topics.
fn ends(publication: &Publication) -> bool {
    let change = publication.outgoing.headers.iter().find(|(name, _)| name == "change");
    change.is_some_and(|(_, change)| matches!(&**change, b"closed" | b"retracted"))
}

/// What is held back, in the order in which it is to be published.
#[derive(Debug, Default)]
pub(super) struct Held {
    queue: Vec<(Name, Publication)>,
    findings: HashSet<FindingId>,
    bytes: usize,
}

impl Held {
    /// Takes the message if it has to wait; gives it back otherwise.
    pub(super) fn take(&mut self, name: Name, publication: Publication, replaying: bool) -> Option<Publication> {
        let waits = match &name {
            Name::Change(id, _) | Name::Suppressed(id, _) => {
                replaying || (self.findings.contains(id) && !planted::is(Bug::HeldChangesOvertaken))
            }
            Name::DeadLetter(_) => replaying,
        };
        if !waits || planted::is(Bug::DoubtfulNotHeld) {
            return Some(publication);
        }
        if let Name::Change(id, _) | Name::Suppressed(id, _) = name {
            self.findings.insert(id);
        }
        self.bytes += publication.outgoing.bytes();
        self.queue.push((name, publication));
        None
    }
}

impl Task {
    /// From now on what a replay finds missing from the output topics is held back, until [`Task::settled`] or, when there was nothing,
    /// until the replay is done.
    pub fn hold(&mut self) {
        self.held = Some(Held::default());
    }

    /// Whether something is held back, or may come to be.
    #[must_use]
    pub fn is_holding(&self) -> bool {
        self.held.is_some()
    }

    /// Bytes and number of the messages that are held back.
    #[must_use]
    pub fn held(&self) -> (usize, usize) {
        self.held.as_ref().map_or((0, 0), |held| (held.bytes, held.queue.len()))
    }

    /// The output topics have settled, and `more` stands there that did not when they were first read: the rest of what is held is
    /// published, and nothing is held from now on.
    pub fn settled(&mut self, more: Published, out: &mut Turnout) {
        let stands_there = |name: &Name, publication: &Publication| match name {
            Name::Change(id, revision) | Name::Suppressed(id, revision) => {
                let of = (*id, *revision);
                let stands = (more.changes.contains(&of), more.suppressed.contains(&of));
                match (name, ends(publication)) {
                    (_, false) => stands.0 || stands.1,
                    (Name::Change(..), true) => stands.0,
                    (_, true) => stands.1,
                }
            }
            Name::DeadLetter(key) => more.dead_letters.contains(key) && !planted::is(Bug::DeadLettersForgotten),
        };
        let held = self.held.take().unwrap_or_default();
        for (name, publication) in held.queue {
            if stands_there(&name, &publication) {
                continue;
            }
            let is_behind = match &name {
                Name::Change(id, revision) => more.endings.has_later(Stream::Shown, *id, *revision),
                Name::Suppressed(id, revision) => more.endings.has_later(Stream::Suppressed, *id, *revision),
                Name::DeadLetter(_) => false,
            };
            let moves = is_behind && !ends(&publication);
            let publication = if moves { in_the_other_topic(&self.format, &name, publication) } else { publication };
            out.publications.push(publication);
        }
        if self.replay.is_some() {
            self.published.merge(more);
        }
    }

    /// The replay is done: when nothing is held by now, nothing will be.
    pub(super) fn nothing_more_to_hold(&mut self) {
        if self.held.as_ref().is_some_and(|held| held.queue.is_empty()) {
            self.held = None;
        }
    }
}
