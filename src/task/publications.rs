//! Messages of changes: which topic each belongs in, and what they are.

use super::endings::Stream;
use super::held::Name;
use super::{Format, Publication, Published};
use crate::finding::Change;
use crate::finding::json::{headers, key, to_json};
use crate::kafka::sink::Outgoing;
use crate::planted::{self, Bug};
use crate::suppress::ends;
use crate::time::Ticks;

/// What is to be written of a change where it belongs and does not stand yet: the findings topic, the topic of suppressed changes, or, of what
/// ends a finding, both. What stands in either is not written to the other because the rules are others by now: it would stand
/// behind changes that came later.
pub(super) fn publications_of(
    format: &Format,
    published: &Published,
    change: &Change,
    appended: Option<Ticks>,
) -> Vec<(Name, Publication)> {
    let (id, revision) = (change.id, change.revision);
    let mut publications = Vec::new();
    let in_suppressed = published.suppressed.contains(&(id, revision)) && !planted::is(Bug::SuppressedForgotten);
    let stands = [published.changes.contains(&(id, revision)), in_suppressed];
    if stands != [false; 2] && !ends(change) {
        return publications;
    }
    let (mut is_shown, mut elsewhere) = (format.suppression.lets_out(change), format.suppression.elsewhere(change));
    if let Some(topic) = format.suppression.topic().filter(|_| !ends(change)) {
        // By the rules of before it went where nothing later stands.
        if is_shown && published.endings.has_later(Stream::Shown, id, revision) {
            (is_shown, elsewhere) = (false, Some(topic));
        } else if !is_shown && published.endings.has_later(Stream::Suppressed, id, revision) {
            (is_shown, elsewhere) = (true, None);
        }
    }
    if is_shown && !stands[0] {
        publications.push((Name::Change(id, revision), publication(format, change, appended)));
    }
    if let Some(topic) = elsewhere.filter(|_| !stands[1]) {
        publications.push((Name::Suppressed(id, revision), in_topic_of_suppressed(publication(format, change, appended), topic)));
    }
    publications
}

/// The message of one topic for the other; a dead letter stays what it is.
pub(super) fn in_the_other_topic(format: &Format, name: &Name, mut publication: Publication) -> Publication {
    match (name, format.suppression.topic()) {
        (Name::Change(..), Some(topic)) => in_topic_of_suppressed(publication, topic),
        (Name::Suppressed(..), _) => {
            format.findings_topic.clone_into(&mut publication.outgoing.topic);
            publication.outgoing.headers.retain(|(name, _)| name != STREAM);
            publication
        }
        _ => publication,
    }
}

/// The same message for the topic of suppressed changes; its header tells a start that reads it back.
pub(super) fn in_topic_of_suppressed(mut publication: Publication, topic: &str) -> Publication {
    topic.clone_into(&mut publication.outgoing.topic);
    publication.outgoing.headers.push((STREAM.to_owned(), SUPPRESSED.as_bytes().to_vec()));
    publication
}

/// The header of what stands in the topic of suppressed changes, and its value.
pub const STREAM: &str = "finding-stream";
/// See [`STREAM`].
pub const SUPPRESSED: &str = "suppressed";

/// The message of a change in the findings topic.
pub(super) fn publication(format: &Format, change: &Change, appended: Option<Ticks>) -> Publication {
    let headers = headers(change).into_iter().map(|(name, value)| (name.to_owned(), value.into_bytes())).collect();
    let payload = to_json(change, &format.settings, &format.privileged).into_bytes();
    let outgoing = Outgoing { topic: format.findings_topic.clone(), key: key(change).into_bytes(), headers, payload, token: 0 };
    Publication { outgoing, appended }
}
