//! Many decoded messages in a few buffers, owned: cheap to send from a decoding thread to the one that feeds the detector.
//!
//! Invariant: what [`Batch::items`] yields is exactly what the [`Decoder`] delivers for the same bytes and limits, in the
//! order of pushing; but a record's own bytes are only kept where somebody may ask for them. Of a message that is a seventh or so: the
//! columns that are read. The rest of it is looked at once, where it lies.

use super::decode::{self, Decoder, Form, Kept, Limits};
use super::event::Record;
use super::packed::{Packed, PackedBody, Row};
use super::reason::Reason;
use crate::detector::Upcoming;

/// What a batch holds, in the order of pushing.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "made and used up one at a time, never stored")]
pub enum Item<'a> {
    /// A message starts, also one in which nothing is; the items up to the next of these are its own.
    Message {
        /// The caller's tag.
        source: u64,
    },
    /// A record that counts.
    Record {
        /// Position in `records`.
        index: u32,
        /// The record.
        record: Record<'a>,
        /// Its own bytes, where the detector may refuse it: event time after its arrival. Else empty.
        raw: &'a [u8],
    },
    /// What does not count.
    Dead {
        /// Position in `records`; `None` for the whole message.
        index: Option<u32>,
        /// Why.
        reason: Reason,
        /// Why, in words.
        error: String,
        /// Its own bytes.
        raw: &'a [u8],
    },
}

/// Decoded messages. Cleared and used again, it allocates no more.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    messages: Vec<Message>,
    rows: Vec<Row>,
    /// The strings that the rows name.
    arena: String,
    /// Own bytes of what does not count, or may not.
    raw: Vec<u8>,
}

/// A message, and where its rows end; they start where those of the message before it end.
#[derive(Clone, Copy, Debug, Default)]
struct Message {
    source: u64,
    rows: usize,
}

impl Batch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Batch::default()
    }

    /// An empty batch with room for what is kept of `bytes` of the usual messages.
    #[must_use]
    pub fn with_room_for(bytes: usize) -> Self {
        Batch { rows: Vec::with_capacity(bytes / 2048), arena: String::with_capacity(bytes / 5), ..Batch::default() }
    }

    /// Forgets everything but the memory.
    pub fn clear(&mut self) {
        self.messages.clear();
        self.rows.clear();
        self.arena.clear();
        self.raw.clear();
    }

    /// Decodes a Kafka message and appends what it holds. `source` is a tag of the caller's, given back as it is.
    pub fn push_message(&mut self, decoder: &mut Decoder, source: u64, bytes: &[u8], limits: &Limits) {
        self.push(Form::Message, decoder, source, bytes, limits);
    }

    /// The same for a record without the `records` wrapper.
    pub fn push_bare(&mut self, decoder: &mut Decoder, source: u64, bytes: &[u8], limits: &Limits) {
        self.push(Form::Bare, decoder, source, bytes, limits);
    }

    fn push(&mut self, form: Form, decoder: &mut Decoder, source: u64, bytes: &[u8], limits: &Limits) {
        let rows_start = self.rows.len();
        let kept = Kept { rows: &mut self.rows, arena: &mut self.arena, owns: true };
        let result = decode::readable(bytes).and_then(|text| decode::read(form, text, limits, &mut decoder.open, kept));
        if let Err(fault) = result {
            self.rows.push(Row { index: None, start: 0, end: bytes.len().try_into().unwrap_or(u32::MAX), outcome: Err(fault) });
        }
        for row in self.rows.iter_mut().skip(rows_start) {
            let start = self.raw.len();
            if row.outcome.as_ref().map_or(true, |record| record.may_be_refused()) {
                let own = if row.index.is_none() { Some(bytes) } else { bytes.get(row.start as usize..row.end as usize) };
                self.raw.extend_from_slice(own.unwrap_or_default());
            }
            (row.start, row.end) = (start as u32, self.raw.len() as u32);
        }
        self.messages.push(Message { source, rows: self.rows.len() });
    }

    /// Everything in the batch, in the order of pushing.
    pub fn items(&self) -> impl Iterator<Item = Item<'_>> {
        // By hand: nested iterators pass each item, some 300 bytes, through several hands.
        let (mut begun, mut next_row) = (0, 0);
        let mut here = Message::default();
        std::iter::from_fn(move || {
            if next_row < here.rows {
                let row = self.rows.get(next_row)?;
                next_row += 1;
                return Some(item(row, &self.arena, &self.raw));
            }
            here = *self.messages.get(begun)?;
            begun += 1;
            Some(Item::Message { source: here.source })
        })
    }

    /// What the detector can prepare for: the network rows among the next `rows` items that are no message's beginning, of which
    /// `from` have gone before.
    pub fn upcoming(&self, from: usize, rows: usize) -> impl Iterator<Item = Upcoming<'_>> {
        self.rows.iter().skip(from).take(rows).filter_map(|row| match &row.outcome {
            Ok(Packed { body: PackedBody::Network(network), .. }) => Some(Upcoming {
                remote_ip: network.remote_ip.resolve("", &self.arena),
                device_name: network.device_name.resolve("", &self.arena),
                remote_port: network.remote_port,
            }),
            _ => None,
        })
    }

    /// Records and dead letters in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Bytes that it takes in memory. Of the usual message that is less than its length; of one with a hundred thousand tiny elements, each of
    /// which is a dead letter, a hundred times as much.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let (messages, rows) = (self.messages.capacity() * size_of::<Message>(), self.rows.capacity() * size_of::<Row>());
        messages + rows + self.arena.capacity() + self.raw.capacity()
    }

    /// Whether no message has been pushed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}

#[inline]
fn item<'a>(row: &Row, arena: &'a str, raw: &'a [u8]) -> Item<'a> {
    let raw = raw.get(row.start as usize..row.end as usize).unwrap_or_default();
    match &row.outcome {
        Ok(packed) => Item::Record { index: row.index.unwrap_or(0), record: packed.record("", arena), raw },
        Err(fault) => Item::Dead { index: row.index, reason: fault.reason(), error: fault.text("", arena).to_string(), raw },
    }
}
