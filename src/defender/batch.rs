//! Many decoded messages in a few buffers, owned: cheap to send from a decoding thread to the one that feeds the detector.
//!
//! Invariant: what [`Batch::items`] yields is exactly what the [`Decoder`] delivers for the same bytes and limits, in the
//! order of pushing. A copy of each message, made here or handed over, serves its records' strings and their own bytes; only strings
//! that held escapes are stored beside it. When a batch is full is the caller's to say, by [`Batch::bytes`].

use super::decode::{self, Decoder, Form, Limits, MAX_MESSAGE_BYTES};
use super::event::Record;
use super::fault::Fault;
use super::packed::Row;
use super::reason::Reason;

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
        /// Its own bytes, should the detector refuse it.
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
#[derive(Debug, Default)]
pub struct Batch {
    messages: Vec<Message>,
    rows: Vec<Row>,
    /// The messages themselves, one behind the other; but for those that came as text of their own.
    text: String,
    /// Messages that came as text of their own.
    own: Vec<String>,
    own_bytes: usize,
    /// Strings that held escapes.
    arena: String,
    /// The messages that are not text.
    other: Vec<u8>,
}

/// Where a message's parts end in the buffers; they start where those of the message before it end.
#[derive(Clone, Copy, Debug, Default)]
struct Message {
    source: u64,
    rows: usize,
    text: usize,
    own: usize,
    arena: usize,
    other: usize,
}

impl Batch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Batch::default()
    }

    /// An empty batch with room for messages of `bytes` in all: it will not be moved while it fills.
    #[must_use]
    pub fn with_room_for(bytes: usize) -> Self {
        Batch { text: String::with_capacity(bytes), ..Batch::default() }
    }

    /// Forgets everything but the memory.
    pub fn clear(&mut self) {
        self.messages.clear();
        self.rows.clear();
        self.text.clear();
        self.own.clear();
        self.own_bytes = 0;
        self.arena.clear();
        self.other.clear();
    }

    /// Decodes a Kafka message and appends what it holds. `source` is a tag of the caller's, given back as it is.
    pub fn push_message(&mut self, decoder: &mut Decoder, source: u64, bytes: &[u8], limits: &Limits) {
        self.push(Form::Message, decoder, source, bytes, limits);
    }

    /// The same for a message whose copy is the batch's to keep: none is made.
    pub fn push_text(&mut self, decoder: &mut Decoder, source: u64, text: String, limits: &Limits) {
        if text.len() > MAX_MESSAGE_BYTES {
            return self.push_message(decoder, source, text.as_bytes(), limits);
        }
        let result = decode::read(Form::Message, &text, limits, &mut decoder.open, &mut self.rows, &mut self.arena);
        let bytes = text.len();
        self.own_bytes += bytes;
        self.own.push(text);
        self.close(source, bytes, result);
    }

    /// The same for a record without the `records` wrapper.
    pub fn push_bare(&mut self, decoder: &mut Decoder, source: u64, bytes: &[u8], limits: &Limits) {
        self.push(Form::Bare, decoder, source, bytes, limits);
    }

    fn push(&mut self, form: Form, decoder: &mut Decoder, source: u64, bytes: &[u8], limits: &Limits) {
        let result = decode::readable(bytes).and_then(|text| {
            let start = self.text.len();
            self.text.push_str(text);
            // The copy is read, not the original, so that its lines are in the cache once.
            let copy = self.text.get(start..).unwrap_or_default();
            decode::read(form, copy, limits, &mut decoder.open, &mut self.rows, &mut self.arena)
        });
        if result.as_ref().is_err_and(|fault| !fault.is_text()) {
            self.other.extend_from_slice(bytes);
        }
        self.close(source, bytes.len(), result);
    }

    /// Ends a message whose parts are in the buffers.
    fn close(&mut self, source: u64, bytes: usize, result: Result<(), Fault>) {
        if let Err(fault) = result {
            self.rows.push(Row { index: None, start: 0, end: bytes.try_into().unwrap_or(u32::MAX), outcome: Err(fault) });
        }
        self.messages.push(Message {
            source,
            rows: self.rows.len(),
            text: self.text.len(),
            own: self.own.len(),
            arena: self.arena.len(),
            other: self.other.len(),
        });
    }

    /// Everything in the batch, in the order of pushing.
    pub fn items(&self) -> impl Iterator<Item = Item<'_>> {
        // By hand: nested iterators pass each item, some 300 bytes, through several hands.
        let (mut begun, mut next_row) = (0, 0);
        let mut parts = ("", "", &[][..]);
        let mut here = Message::default();
        std::iter::from_fn(move || {
            if next_row < here.rows {
                let row = self.rows.get(next_row)?;
                next_row += 1;
                return Some(item(row, parts.0, parts.1, parts.2));
            }
            let from = here;
            here = *self.messages.get(begun)?;
            begun += 1;
            let text = if from.own < here.own { self.own.get(from.own).map(String::as_str) } else { self.text.get(from.text..here.text) };
            parts = (
                text.unwrap_or_default(),
                self.arena.get(from.arena..here.arena).unwrap_or_default(),
                self.other.get(from.other..here.other).unwrap_or_default(),
            );
            Some(Item::Message { source: here.source })
        })
    }

    /// Records and dead letters in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether no message has been pushed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Bytes of the messages that it keeps.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.text.len() + self.own_bytes + self.other.len()
    }
}

#[inline]
fn item<'a>(row: &Row, text: &'a str, arena: &'a str, other: &'a [u8]) -> Item<'a> {
    let own = || text.as_bytes().get(row.start as usize..row.end as usize).unwrap_or_default();
    match &row.outcome {
        Ok(packed) => Item::Record { index: row.index.unwrap_or(0), record: packed.record(text, arena), raw: own() },
        Err(fault) => Item::Dead {
            index: row.index,
            reason: fault.reason(),
            error: fault.text(text, arena).to_string(),
            raw: if fault.is_text() { own() } else { other },
        },
    }
}
