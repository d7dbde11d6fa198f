//! What stands in the input topic, and what must come of it.

use std::sync::Arc;

use firstseen::defender::Body;
use firstseen::defender::batch::Batch;
use firstseen::defender::decode::{Decoder, Limits};
use firstseen::detector::{Detector, Settings};
use firstseen::feed::{DeadLetter, Feed, Output};
use firstseen::finding::Change;
use firstseen::finding::json::{headers, key, to_json};
use firstseen::finding::severity::Privileged;
use firstseen::fleet::render::{message, render_device, render_network};
use firstseen::kafka::sink::Outgoing;
use firstseen::suppress::Rules;
use firstseen::time::{Span, Ticks};

use super::broker::{At, OUTPUTS, partition};
use super::world::{Chance, Faults};
use crate::oracle::fleet::{Owned, Shape, generate, start};

/// Topics of the input.
pub(crate) const INPUTS: [&str; 2] = ["defender", "more"];
pub(crate) const FINDINGS: &str = "findings";
pub(crate) const DEAD_LETTERS: &str = "dead-letters";
pub(crate) const SUPPRESSED: &str = "suppressed";

/// Topic and partition of the input's log number `n`: the topics have them in turn.
pub(crate) fn place(n: i32) -> (&'static str, i32) {
    (INPUTS[n as usize % 2], n / 2)
}

/// The inverse of [`place`].
pub(crate) fn log_of(topic: &str, partition: i32) -> Option<i32> {
    Some(partition * 2 + INPUTS.iter().position(|of| *of == topic)? as i32)
}

/// A message of the input.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) offset: i64,
    pub(crate) timestamp: Option<Ticks>,
    pub(crate) bytes: Arc<[u8]>,
    /// When the partition has it.
    pub(crate) appended: Ticks,
}

/// A partition's log, as it will be in the end.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    /// When the partition is added to the topic.
    pub(crate) since: Ticks,
    pub(crate) messages: Vec<Message>,
    /// Retention has taken what stands before this offset.
    pub(crate) low: i64,
}

impl Log {
    /// Where the log ends at this time.
    pub(crate) fn end(&self, now: Ticks) -> i64 {
        self.messages.iter().take_while(|m| m.appended <= now).last().map_or(0, |m| m.offset + 1)
    }
}

/// All partitions; see [`place`].
pub(crate) type Input = Vec<Log>;

/// One step of the order in which the input was consumed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A message: number of its log, and offset.
    Message(i32, i64),
    /// A clock was moved without a record.
    Advance(String, Ticks),
}

/// Every change is written at once: nothing is hidden by the next.
pub(crate) fn settings() -> Settings {
    Settings { update_interval: Span::ZERO, ..Settings::default() }
}

/// What a start may be configured with, where settings change: of the same rows kept.
pub(crate) fn other_settings(n: usize) -> Settings {
    let (prevalence_below, vendor_servers_below) = [(6, 10), (3, 10), (6, 4)][n % 3];
    Settings { prevalence_below, vendor_servers_below, ..settings() }
}

/// Suppression rules that may be in force.
pub(crate) fn rules(n: usize) -> Rules {
    let matcher = ["port = 443", "cel = \"finding.count > 1\"", "cidr = \"203.0.113.0/29\""];
    let Some(matcher) = matcher.get(n) else { return Rules::default() };
    Rules::default().and_file(&format!("[[suppress]]\nname = \"it\"\nreason = \"r\"\nowner = \"o\"\n{matcher}")).unwrap_or_default()
}

/// How many there are, with none at all.
pub(crate) const RULES: usize = 4;

fn rendered(owned: &Owned) -> Vec<u8> {
    let (record, mut out) = (owned.record(), Vec::new());
    match &record.body {
        Body::Network(event) => render_network(&mut out, record.arrival, record.tenant, event, false),
        Body::Device(info) => render_device(&mut out, record.arrival, record.tenant, info, false),
        Body::Skipped(category) => {
            let (time, tenant) = (record.arrival, record.tenant);
            out = format!(r#"{{"time":"{time}","tenantId":"{tenant}","category":"{category}","properties":{{}}}}"#).into_bytes();
        }
    }
    out
}

/// A small fleet's messages over some partitions, with a few that nobody can read.
pub(crate) fn input(seed: u64, chance: &mut Chance, faults: Faults) -> Input {
    let shape = Shape { names: 8, addresses: 14, events: 20 + chance.below(80), tenants: 1 + chance.below(2), ..Shape::SMALL };
    let records = generate(shape, seed);
    let partitions = 1 + chance.below(6);
    let delays: Vec<Span> = (0..partitions).map(|_| if faults.lag { chance.span(Span::hours(30)) } else { Span::ZERO }).collect();
    let mut input: Input = Vec::new();
    for n in 0..partitions {
        let added = n > 1 && faults.partitions && chance.percent(60);
        let since = if added { start().plus(chance.span(Span::days(25))) } else { Ticks::MIN };
        // A topic's partitions come in their order.
        let since = input.get(n.wrapping_sub(2)).map_or(since, |log| log.since.max(since));
        input.push(Log { since, messages: Vec::new(), low: 0 });
    }
    let mut rest = &records[..];
    while !rest.is_empty() {
        let (taken, left) = rest.split_at((1 + chance.below(5)).min(rest.len()));
        rest = left;
        let mut texts: Vec<Vec<u8>> = taken.iter().map(rendered).collect();
        if chance.one_in(12) {
            texts.push(br#"{"time":"yesterday","properties":{}}"#.to_vec());
        }
        let bytes = match chance.below(60) {
            0 => b"\xff\xfe not text".to_vec(),
            1 => br#"{"records":[{"time":"#.to_vec(),
            _ => message(&texts),
        };
        let at = chance.below(partitions);
        let arrival = Ticks(taken.iter().map(|r| r.arrival.0).max().unwrap_or(0) / 10_000 * 10_000);
        let log = &mut input[at];
        let (before, last) = log.messages.last().map_or((log.since, -1), |m| (m.appended, m.offset));
        let late = if faults.lag && chance.percent(30) { chance.span(delays[at]) } else { Span::ZERO };
        let offset = last + if chance.one_in(9) { 2 } else { 1 };
        let timestamp = (!chance.one_in(25)).then_some(arrival);
        log.messages.push(Message { offset, timestamp, bytes: bytes.into(), appended: arrival.plus(late).max(before) });
    }
    input
}

/// Writes down what the feed says, as it is to stand in the output topics.
struct Scribe<'a> {
    at: Option<(i32, i64)>,
    written: &'a mut Vec<Outgoing>,
}

impl Output for Scribe<'_> {
    fn change(&mut self, change: Box<Change>) {
        self.written.push(Outgoing {
            topic: FINDINGS.to_owned(),
            key: key(&change).into_bytes(),
            headers: headers(&change).into_iter().map(|(name, value)| (name.to_owned(), value.into_bytes())).collect(),
            payload: to_json(&change, &settings(), &Privileged::none()).into_bytes(),
            token: 0,
        });
    }

    fn dead_letter(&mut self, letter: DeadLetter<'_>) {
        let Some((log, offset)) = self.at else { return };
        let (topic, partition) = place(log);
        let mut headers = vec![
            ("reason".to_owned(), letter.reason.as_str().as_bytes().to_vec()),
            ("error".to_owned(), letter.error.as_bytes().to_vec()),
            ("source-topic".to_owned(), topic.as_bytes().to_vec()),
            ("source-partition".to_owned(), partition.to_string().into_bytes()),
            ("source-offset".to_owned(), offset.to_string().into_bytes()),
        ];
        headers.extend(letter.index.map(|index| ("source-record".to_owned(), index.to_string().into_bytes())));
        let key = format!("{topic}/{partition}/{offset}").into_bytes();
        self.written.push(Outgoing { topic: DEAD_LETTERS.to_owned(), key, headers, payload: letter.raw.to_vec(), token: 0 });
    }
}

/// What an undisturbed run writes that takes its input in this order. A dead letter with a value of more than `largest` bytes is
/// written without it.
pub(crate) fn undisturbed(input: &Input, order: &[Step], largest: Option<usize>) -> Vec<Outgoing> {
    let (mut feed, mut decoder, mut written) = (Feed::new(Detector::new(settings())), Decoder::new(), Vec::new());
    for step in order {
        match step {
            Step::Advance(tenant, to) => feed.advance(tenant, *to, &mut Scribe { at: None, written: &mut written }),
            Step::Message(partition, offset) => {
                let log = &input[*partition as usize].messages;
                let Ok(n) = log.binary_search_by_key(offset, |m| m.offset) else { continue };
                let limits = Limits { independent_clock: log[n].timestamp, max_clock_skew: settings().max_clock_skew };
                let mut batch = Batch::new();
                batch.push_message(&mut decoder, 0, &log[n].bytes, &limits);
                feed.batch(&batch, &mut Scribe { at: Some((*partition, *offset)), written: &mut written });
            }
        }
    }
    for letter in &mut written {
        if letter.topic == DEAD_LETTERS && largest.is_some_and(|largest| letter.payload.len() > largest) {
            letter.headers.push(("value-omitted".to_owned(), letter.payload.len().to_string().into_bytes()));
            letter.payload.clear();
        }
    }
    written
}

/// Which messages a partition of an output topic is to hold, in order.
pub(crate) fn of_partition<'a>(written: &'a [Outgoing], at: &'a At) -> impl Iterator<Item = &'a Outgoing> {
    written.iter().filter(move |w| w.topic == at.0 && partition(&w.key) == at.1)
}

/// All partitions of the output topics.
pub(crate) fn outputs() -> impl Iterator<Item = At> {
    [FINDINGS, SUPPRESSED, DEAD_LETTERS].into_iter().flat_map(|topic| (0..OUTPUTS).map(move |partition| (topic.to_owned(), partition)))
}
