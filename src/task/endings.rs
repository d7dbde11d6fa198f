//! Endings of findings as the output topics show them, for the two topics in which each must stand.
//!
//! With a topic of suppressed findings, what ends a finding is written to both, and a process may be killed between the two. A replay that
//! says the ending again writes the copy that is missing; one that lacks messages, or a hand-over, finds the finding ended and would say
//! nothing more. So the endings that are read back are kept, and the copy that is missing is written from the one that is there. The same
//! holds of a device's grouped record behind a retraction that only the topic knows of: it is written again.

use super::reconcile::UNKNOWN;
use super::{Publication, Task, Turnout, in_topic_of_suppressed};
use crate::finding::FindingId;
use crate::kafka::sink::Outgoing;
use crate::planted::{self, Bug};
use std::collections::{HashMap, HashSet};

/// Which of the two topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    /// Findings.
    Shown = 0,
    /// Suppressed findings.
    Suppressed = 1,
}

/// The last ending of a finding, as far as it was read.
#[derive(Clone, Debug)]
struct Ending {
    revision: u32,
    /// Whether it stands there, by [`Stream`].
    stands: [bool; 2],
    /// Its value, while a copy may be missing; of a retraction of what no state knows, always.
    value: Vec<u8>,
}

impl Ending {
    fn is_of_the_unknown(&self) -> bool {
        std::str::from_utf8(&self.value).is_ok_and(|text| text.contains(UNKNOWN))
    }

    fn let_go(&mut self) {
        if self.stands == [true; 2] && !self.is_of_the_unknown() {
            self.value = Vec::new();
        }
    }
}

/// What was read of endings.
#[derive(Clone, Debug, Default)]
pub(super) struct Endings {
    /// There are two topics; else only retractions of what no state knows are kept.
    in_two_topics: bool,
    last: HashMap<FindingId, Ending>,
    /// Findings that this topic, by itself, shows as open; by [`Stream`].
    open: [HashSet<FindingId>; 2],
    /// Their last revisions in it.
    revisions: [HashMap<FindingId, u32>; 2],
}

impl Endings {
    pub(super) fn of(in_two_topics: bool) -> Endings {
        Endings { in_two_topics, ..Endings::default() }
    }

    /// A change stands in this topic. Noting one again changes nothing.
    pub(super) fn note(&mut self, stream: Stream, id: FindingId, revision: u32, open: bool, value: &[u8]) {
        let at = stream as usize;
        if self.in_two_topics {
            let last = self.revisions[at].entry(id).or_default();
            *last = revision.max(*last);
            if open {
                self.open[at].insert(id)
            } else {
                self.open[at].remove(&id)
            };
        }
        if open {
            // That topic has gone on: an ending before it would stand behind it.
            if self.last.get(&id).is_some_and(|ending| ending.revision < revision && !ending.stands[at]) {
                self.last.remove(&id);
            }
            return;
        }
        match self.last.get_mut(&id) {
            Some(ending) if ending.revision == revision => ending.stands[at] = true,
            Some(ending) if ending.revision > revision => {}
            _ => {
                let mut ending = Ending { revision, stands: [false; 2], value: value.to_vec() };
                ending.stands[at] = true;
                if self.in_two_topics || ending.is_of_the_unknown() {
                    self.last.insert(id, ending);
                }
            }
        }
        if let Some(ending) = self.last.get_mut(&id) {
            ending.let_go();
        }
    }

    /// Whether the topic has a later change of the finding: one before it would stand behind that.
    pub(super) fn has_later(&self, stream: Stream, id: FindingId, revision: u32) -> bool {
        self.revisions[stream as usize].get(&id).is_some_and(|last| *last > revision)
    }

    /// What is said of the finding now goes its usual way to both topics.
    pub(super) fn said_again(&mut self, id: FindingId, revision: u32) {
        if self.last.get(&id).is_some_and(|ending| ending.revision <= revision) {
            self.last.remove(&id);
        }
    }

    /// `more` was read behind this.
    pub(super) fn merge(&mut self, more: Endings) {
        for (at, open) in more.open.into_iter().enumerate() {
            for (id, ending) in &more.last {
                if ending.stands[at] {
                    self.open[at].remove(id);
                }
            }
            self.open[at].extend(open);
        }
        for (known, more) in self.revisions.iter_mut().zip(more.revisions) {
            known.extend(more);
        }
        for (id, mut ending) in more.last {
            if let Some(known) = self.last.get(&id) {
                if known.revision > ending.revision {
                    continue;
                }
                if known.revision == ending.revision {
                    for (at, stands) in known.stands.into_iter().enumerate() {
                        ending.stands[at] |= stands;
                    }
                }
            }
            ending.let_go();
            self.last.insert(id, ending);
        }
    }
}

impl Task {
    /// Writes the copies of endings that are missing in one of two topics, in the order of their findings' ids, and notes the devices of
    /// retractions that only the topic knows of. `from_start` says that the topics were read from there: then a topic that never
    /// showed the finding needs no end of it, which may be from before there were two.
    pub(super) fn write_missing_endings(&mut self, from_start: bool, out: &mut Turnout) {
        let Endings { last, open, .. } = std::mem::take(&mut self.published.endings);
        let mut endings: Vec<(FindingId, Ending)> = last.into_iter().collect();
        endings.sort_by_key(|(id, _)| id.0);
        for (id, ending) in endings {
            let is_of_the_unknown = ending.is_of_the_unknown();
            if is_of_the_unknown {
                self.touch(&ending.value);
            }
            let lacks = match ending.stands {
                [true, false] => Stream::Suppressed,
                [false, true] => Stream::Shown,
                _ => continue,
            };
            let Some(topic) = self.format.suppression.topic().filter(|_| !planted::is(Bug::EndingNotCompleted)) else { continue };
            if from_start && !is_of_the_unknown && !open[lacks as usize].contains(&id) {
                continue;
            }
            let Some(copy) = copy(&self.format.findings_topic, id, ending) else { continue };
            out.publications.push(if lacks == Stream::Suppressed { in_topic_of_suppressed(copy, topic) } else { copy });
        }
    }
}

/// The message that an ending's value was written as, on the findings topic.
fn copy(findings_topic: &str, id: FindingId, ending: Ending) -> Option<Publication> {
    #[derive(serde::Deserialize)]
    struct Value {
        change: String,
    }
    let change = serde_json::from_slice::<Value>(&ending.value).ok()?.change;
    let headers = [("change", change), ("revision", ending.revision.to_string()), ("finding-format", "firstseen".to_owned())];
    let outgoing = Outgoing {
        topic: findings_topic.to_owned(),
        key: id.to_string().into_bytes(),
        headers: headers.map(|(name, value)| (name.to_owned(), value.into_bytes())).into(),
        payload: ending.value,
        token: 0,
    };
    Some(Publication { outgoing, appended: None })
}
