//! The decoder beside a slow, plain one: both must say the same of every input. For tests and fuzzing only.

#![allow(clippy::unwrap_used)]

pub(super) mod reference;

use super::decode::{Decoder, Limits, Sink};
use super::{Batch, Body, Item, Reason, Record};
#[cfg(test)]
use crate::time::Span;
use std::fmt::Display;

/// No envelope is too far ahead.
#[cfg(test)]
pub(super) const NO_CLOCK: Limits = Limits { independent_clock: None, max_clock_skew: Span::hours(1) };

/// What a decoder said, owned. Records by their debug text, which shows every field.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Said {
    Record { index: u32, record: String },
    Dead { index: Option<u32>, reason: Reason, raw: Vec<u8> },
}

#[derive(Debug, Default)]
pub(super) struct Collect {
    pub(super) said: Vec<Said>,
    pub(super) errors: Vec<String>,
}

impl Sink for Collect {
    fn record(&mut self, index: u32, record: &Record<'_>) {
        self.said.push(Said::Record { index, record: format!("{record:?}") });
    }

    fn dead(&mut self, index: Option<u32>, reason: Reason, error: &dyn Display, bytes: &[u8]) {
        self.said.push(Said::Dead { index, reason, raw: bytes.to_vec() });
        self.errors.push(error.to_string());
    }
}

/// Everything that the decoder says of a message; a batch must say the same, behind other messages too.
pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Collect {
    both(bytes, limits, false)
}

/// The same for a record without the wrapper.
pub(super) fn decode_bare(bytes: &[u8], limits: &Limits) -> Collect {
    both(bytes, limits, true)
}

fn both(bytes: &[u8], limits: &Limits, bare: bool) -> Collect {
    let mut decoder = Decoder::new();
    let mut collect = Collect::default();
    if bare {
        decoder.bare_record(bytes, limits, &mut collect)
    } else {
        decoder.message(bytes, limits, &mut collect)
    }

    let mut batch = Batch::new();
    batch.push_message(&mut decoder, 1, br#"{"records":[0,{"time":"\u0031x"}]}"#, limits);
    batch.push_message(&mut decoder, 2, b"\xFF", limits);
    if bare {
        batch.push_bare(&mut decoder, 3, bytes, limits)
    } else {
        batch.push_message(&mut decoder, 3, bytes, limits)
    }
    batch.push_message(&mut decoder, 4, br#"{"records":[]}"#, limits);
    replays(&batch, &collect);
    collect
}

/// The batch holds, as its third message of four, what was collected.
fn replays(batch: &Batch, collect: &Collect) {
    let mut items = batch.items().skip_while(|item| !matches!(item, Item::Message { source: 3 })).skip(1);
    let mut replayed = Collect::default();
    for item in items.by_ref() {
        match item {
            Item::Message { source } => {
                assert_eq!(source, 4);
                break;
            }
            Item::Record { index, record, raw } => {
                let may_be_refused = match record.body {
                    Body::Network(event) => event.timestamp > record.arrival,
                    Body::Device(info) => info.timestamp > record.arrival,
                    Body::Skipped(_) => false,
                };
                assert_eq!(may_be_refused, raw.starts_with(b"{") && raw.ends_with(b"}"), "a record's own bytes are its object");
                assert!(may_be_refused || raw.is_empty());
                replayed.record(index, &record);
            }
            Item::Dead { index, reason, error, raw } => replayed.dead(index, reason, &error, raw),
        }
    }
    assert!(items.next().is_none(), "an empty message holds nothing");
    assert_eq!(collect.said, replayed.said, "the batch must hold what the decoder delivers");
    assert_eq!(collect.errors, replayed.errors);
    assert_eq!(batch.len(), 3 + collect.said.len());
}

/// Decoder, batch and reference agree on these bytes, as a message and as a bare record.
pub(crate) fn agree(bytes: &[u8], limits: &Limits) {
    assert_eq!(decode(bytes, limits).said, reference::message(bytes, limits));
    assert_eq!(decode_bare(bytes, limits).said, reference::bare(bytes, limits));
}
