//! The bytes of one Kafka message, or of one exported line, to records: in one pass, borrowing, without building a tree.
//!
//! Invariants: nothing of a message is delivered before the whole of it is known to be JSON; what is delivered depends on
//! the bytes and the limits alone; no input panics, recurses or takes memory beyond a constant multiple of its length.
//! What a record means for a finding is left to the detector, and so is event time ahead of the arrival clock.
//!
//! # Rules for doubtful input
//!
//! | input | rule |
//! |---|---|
//! | JSON | RFC 8259, strictly, also in what is skipped. Anything else, a truncated message or one with something behind its value: the whole message is one dead letter, `not_json`, and none of its records counts |
//! | byte order mark | one at the start is skipped |
//! | not UTF-8, anywhere | the whole message is a dead letter, `invalid_utf8` |
//! | nothing, or only white space | `empty` |
//! | longer than 32 MiB | `too_large`, unread |
//! | no object, no `records`, or `records` null | `no_records`; any other type than array: `records_not_array`. An empty array is a message without records |
//! | more than 32,768 elements in `records` | the whole message is a dead letter, `too_many_records`: each element may become a dead letter of its own, and two bytes are enough for one |
//! | element that is no object | that record is a dead letter, `record_not_object`; its siblings count. So with every rule below |
//! | nesting beyond 128 levels in a record | `too_deep`. Outside of records nesting is skipped, however deep |
//! | a key that comes twice | the last one holds: in the message, in the envelope and in `properties`; columns of an earlier `properties` are forgotten. Keys are compared by meaning, after their escapes |
//! | missing key, `null`, `""` | one and the same empty string, as in KQL |
//! | `\u0000` in a string | accepted as U+0000 |
//! | lone surrogate in an escape | accepted as U+FFFD: Windows command lines can hold one, and nobody shall be able to hide records behind it |
//! | long strings | accepted |
//! | another type where a string belongs | `wrong_type`, naming the column; only for keys and columns that are read, of tables that are read. `AdditionalFields` and all other columns may be anything |
//! | `time`, `Timestamp` | as [`Ticks::parse`]; missing, null or empty: `missing_time`, `missing_timestamp`; unreadable: `bad_time`, `bad_timestamp`. The years 1 and 9999 are readable |
//! | `time` more than `max_clock_skew` ahead of the independent clock | `time_ahead` |
//! | `tenantId` missing | accepted: the tenant with the empty name |
//! | `category` missing or empty | `missing_category`; one that is not read: skipped, but the envelope must be good |
//! | `properties` missing | `missing_properties`, for tables that are read |
//! | `RemotePort` | null, missing, or an integer of 0 to 65535; other numbers, also `443.0` and `4.43e2`: `bad_port`; a string, also of digits: `wrong_type` |
//! | `ReportId` | null or missing is 0; an integer of 64 bits, never read through a double; other numbers: `bad_report_id` |
//!
//! A record with several faults is named after the first in this order: shape, depth, `time`, `tenantId`, `category`,
//! `properties`, `Timestamp`, `ReportId`, `RemotePort`, strings.

use super::event::Record;
use super::fault::Fault;
use super::packed::Row;
use super::reason::Reason;
use super::row;
use super::scan::Scanner;
use super::token::{Token, Value, unescape};
use crate::time::{Span, Ticks};

/// Longest message that is read, in bytes. Brokers allow 1 MB by default; this bounds what a file's line can cost.
pub const MAX_MESSAGE_BYTES: usize = 32 << 20;

/// Most elements of `records` that are read. A record has a thousand bytes as a rule; this bounds what a message of tiny elements, each a dead
/// letter of its own, unfolds into.
pub const MAX_RECORDS: u32 = 1 << 15;

/// Deepest nesting of a record, itself included, in levels.
pub const MAX_RECORD_DEPTH: usize = 128;

/// Receives what a message holds, in order.
pub trait Sink {
    /// A record that counts; `index` is its position in `records`.
    fn record(&mut self, index: u32, record: &Record<'_>);

    /// What does not count, with its own bytes. `index` is `None` for a whole message.
    fn dead(&mut self, index: Option<u32>, reason: Reason, error: &dyn std::fmt::Display, bytes: &[u8]);
}

/// What the decoder checks against, beside the message itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A clock that Defender does not set: the Kafka record's timestamp, or for files the host's clock at the start of the
    /// run. `None`: envelope times are not checked.
    pub independent_clock: Option<Ticks>,
    /// How far an envelope's `time` may be ahead of that clock.
    pub max_clock_skew: Span,
}

/// How the bytes are framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `{"records":[…]}`.
    Message,
    /// One record without the wrapper.
    Bare,
}

/// Decodes messages one by one, reusing its scratch space.
#[derive(Debug, Default)]
pub struct Decoder {
    rows: Vec<Row>,
    arena: String,
    pub(super) open: Vec<u8>,
}

impl Decoder {
    /// A decoder; one a thread.
    #[must_use]
    pub fn new() -> Self {
        Decoder::default()
    }

    /// Decodes the value of one Kafka message, `{"records":[…]}`.
    pub fn message(&mut self, bytes: &[u8], limits: &Limits, sink: &mut impl Sink) {
        self.decode(Form::Message, bytes, limits, sink);
    }

    /// Decodes one record without the `records` wrapper, a line of the Storage export; its index is 0. Of a line that is
    /// not JSON, as of a message, the dead letter has no index.
    pub fn bare_record(&mut self, bytes: &[u8], limits: &Limits, sink: &mut impl Sink) {
        self.decode(Form::Bare, bytes, limits, sink);
    }

    fn decode(&mut self, form: Form, bytes: &[u8], limits: &Limits, sink: &mut impl Sink) {
        self.rows.clear();
        self.arena.clear();
        let result = match readable(bytes) {
            Ok(text) => {
                let kept = Kept { rows: &mut self.rows, arena: &mut self.arena, owns: false };
                read(form, text, limits, &mut self.open, kept).map(|()| text)
            }
            Err(fault) => Err(fault),
        };
        match result {
            Ok(text) => {
                for row in &self.rows {
                    match (&row.outcome, row.index) {
                        (Ok(packed), index) => sink.record(index.unwrap_or(0), &packed.record(text, &self.arena)),
                        (Err(fault), index) => {
                            let own = bytes.get(row.start as usize..row.end as usize).unwrap_or_default();
                            sink.dead(index, fault.reason(), &fault.text(text, &self.arena), own);
                        }
                    }
                }
            }
            Err(fault) => sink.dead(None, fault.reason(), &fault.text("", ""), bytes),
        }
    }
}

/// The text of the bytes, when they are short enough and UTF-8.
pub(super) fn readable(bytes: &[u8]) -> Result<&str, Fault> {
    if bytes.len() > MAX_MESSAGE_BYTES {
        return Err(Fault::TooLarge { bytes: bytes.len(), limit: MAX_MESSAGE_BYTES });
    }
    simdutf8::basic::from_utf8(bytes).map_err(|_| {
        // The quick check does not say where; that is only asked of bytes that are dead.
        let at = std::str::from_utf8(bytes).map_or_else(|e| e.valid_up_to(), str::len);
        Fault::InvalidUtf8 { at }
    })
}

/// Where what a message holds is kept.
pub(super) struct Kept<'a> {
    pub(super) rows: &'a mut Vec<Row>,
    pub(super) arena: &'a mut String,
    /// The arena takes every string that a row names, so that rows can be read without the message.
    pub(super) owns: bool,
}

/// Appends what the text holds to what is kept; on a fault of the whole, that is as it was.
///
/// Places in the rows count from the start of `text`, and from the start of the arena.
pub(super) fn read(form: Form, text: &str, limits: &Limits, open: &mut Vec<u8>, kept: Kept<'_>) -> Result<(), Fault> {
    let (rows_start, arena_start) = (kept.rows.len(), kept.arena.len());
    let mut reading = Reading { text, limits, rows_start, arena_start, kept };
    let result = match form {
        Form::Message => reading.message(open),
        Form::Bare => reading.bare(open),
    };
    if result.is_err() {
        reading.forget();
    }
    result
}

struct Reading<'a> {
    text: &'a str,
    limits: &'a Limits,
    rows_start: usize,
    arena_start: usize,
    kept: Kept<'a>,
}

impl<'a> Reading<'a> {
    /// A scanner behind the byte order mark and leading white space, if there is anything to scan.
    fn scanner(&self, open: &'a mut Vec<u8>) -> Result<Scanner<'a>, Fault> {
        let at = if self.text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        let mut scanner = Scanner::new(self.text, at, open);
        scanner.peek();
        if scanner.at() == self.text.len() { Err(Fault::Empty) } else { Ok(scanner) }
    }

    /// Nothing of this message counts, so far.
    fn forget(&mut self) {
        self.kept.rows.truncate(self.rows_start);
        self.kept.arena.truncate(self.arena_start);
    }

    fn bare(&mut self, open: &'a mut Vec<u8>) -> Result<(), Fault> {
        let mut scanner = self.scanner(open)?;
        self.element(&mut scanner, 0)?;
        Ok(scanner.end()?)
    }

    fn message(&mut self, open: &'a mut Vec<u8>) -> Result<(), Fault> {
        let mut scanner = self.scanner(open)?;
        let (mut records, mut elements) = (Token::NULL, 0);
        if scanner.peek() == b'{' {
            scanner.bump();
            let mut first = true;
            while scanner.object_goes_on(first)? {
                first = false;
                let key = scanner.key()?;
                if !self.is_records(key) {
                    scanner.value()?;
                    continue;
                }
                // Of several, the last one holds.
                self.forget();
                records = if scanner.peek() == b'[' {
                    elements = self.elements(&mut scanner)?;
                    Token::ARRAY
                } else {
                    scanner.value()?
                };
            }
        } else {
            scanner.value()?;
        }
        scanner.end()?;
        match records {
            Token::ARRAY if elements > MAX_RECORDS => Err(Fault::TooManyRecords { records: elements, limit: MAX_RECORDS }),
            Token::ARRAY => Ok(()),
            Token::NULL => Err(Fault::NoRecords),
            other => Err(Fault::RecordsNotArray { found: other.describe() }),
        }
    }

    /// How many there are. Those beyond the limit need only be JSON: none of the message will count.
    fn elements(&mut self, scanner: &mut Scanner<'_>) -> Result<u32, Fault> {
        scanner.bump();
        let mut index = 0;
        while scanner.array_goes_on(index == 0)? {
            if index < MAX_RECORDS {
                self.element(scanner, index)?;
            } else {
                scanner.value()?;
            }
            index += 1;
        }
        Ok(index)
    }

    fn element(&mut self, scanner: &mut Scanner<'_>, index: u32) -> Result<(), Fault> {
        let row = row::read(scanner, self.text, index, self.limits, self.kept.arena, self.kept.owns)?;
        self.kept.rows.push(row);
        Ok(())
    }

    fn is_records(&self, key: Token) -> bool {
        match key.unpack() {
            Value::Plain(text) => text.resolve(self.text, "") == "records",
            Value::Escaped(text) => {
                let mut name = String::new();
                unescape(text.resolve(self.text, ""), &mut name);
                name == "records"
            }
            _ => false,
        }
    }
}
