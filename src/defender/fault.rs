//! What is wrong with a record or a message, small enough to keep by the thousand; the sentence is only made when it is asked for.
//!
//! Invariant: a sentence is bounded, whatever the input holds: at most [`SHOWN`] characters of a value, escaped.

use super::reason::Reason;
use super::scan::Syntax;
use super::token::Text;
use crate::time::{Span, Ticks};
use std::fmt;

/// Characters of an offending value that an error text shows.
const SHOWN: usize = 48;

/// Why something does not count.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    Empty,
    TooLarge { bytes: usize, limit: usize },
    InvalidUtf8 { at: usize },
    NotJson(Syntax),
    NoRecords,
    RecordsNotArray { found: &'static str },
    TooManyRecords { records: u32, limit: u32 },
    RecordNotObject { found: &'static str },
    TooDeep { levels: usize },
    WrongType { key: &'static str, expected: &'static str, found: &'static str },
    Missing { reason: Reason, key: &'static str },
    BadValue { reason: Reason, key: &'static str, value: Text },
    TimeAhead { time: Ticks, clock: Ticks, skew: Span },
}

impl From<Syntax> for Fault {
    fn from(syntax: Syntax) -> Self {
        Fault::NotJson(syntax)
    }
}

impl Fault {
    /// Its name.
    pub(super) fn reason(&self) -> Reason {
        match self {
            Fault::Empty => Reason::Empty,
            Fault::TooLarge { .. } => Reason::TooLarge,
            Fault::InvalidUtf8 { .. } => Reason::InvalidUtf8,
            Fault::NotJson(_) => Reason::NotJson,
            Fault::NoRecords => Reason::NoRecords,
            Fault::RecordsNotArray { .. } => Reason::RecordsNotArray,
            Fault::TooManyRecords { .. } => Reason::TooManyRecords,
            Fault::RecordNotObject { .. } => Reason::RecordNotObject,
            Fault::TooDeep { .. } => Reason::TooDeep,
            Fault::WrongType { .. } => Reason::WrongType,
            Fault::Missing { reason, .. } | Fault::BadValue { reason, .. } => *reason,
            Fault::TimeAhead { .. } => Reason::TimeAhead,
        }
    }

    /// Whether its sentence quotes a string that may lie in the arena.
    pub(super) fn needs_arena(&self) -> bool {
        matches!(self, Fault::BadValue { .. })
    }

    /// The sentence, given the message and the arena.
    pub(super) fn text<'a>(&'a self, message: &'a str, arena: &'a str) -> FaultText<'a> {
        FaultText { fault: self, message, arena }
    }
}

/// A [`Fault`] beside the bytes that it speaks of.
pub(super) struct FaultText<'a> {
    fault: &'a Fault,
    message: &'a str,
    arena: &'a str,
}

impl fmt::Display for FaultText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.fault {
            Fault::Empty => f.write_str("the message is empty"),
            Fault::TooLarge { bytes, limit } => write!(f, "{bytes} bytes are more than the {limit} that are read"),
            Fault::InvalidUtf8 { at } => write!(f, "not UTF-8 at byte {at}"),
            Fault::NotJson(syntax) => write!(f, "not JSON: {syntax}"),
            Fault::NoRecords => f.write_str("expected an object with an array `records`"),
            Fault::RecordsNotArray { found } => write!(f, "`records`: expected an array, found {found}"),
            Fault::TooManyRecords { records, limit } => write!(f, "`records`: {records} elements are more than the {limit} that are read"),
            Fault::RecordNotObject { found } => write!(f, "expected an object, found {found}"),
            Fault::TooDeep { levels } => write!(f, "nested {levels} levels deep"),
            Fault::WrongType { key, expected, found } => write!(f, "`{key}`: expected {expected}, found {found}"),
            Fault::Missing { key, .. } => write!(f, "`{key}` is missing or null or empty"),
            Fault::BadValue { reason, key, value } => {
                let expected = match reason {
                    Reason::BadPort => "an integer from 0 to 65535",
                    Reason::BadReportId => "a 64-bit integer",
                    _ => "an RFC 3339 instant of the years 1 to 9999",
                };
                let value = value.resolve(self.message, self.arena);
                let shown = value.char_indices().nth(SHOWN).map_or(value, |(end, _)| value.get(..end).unwrap_or(value));
                let dots = if shown.len() < value.len() { "…" } else { "" };
                write!(f, "`{key}`: expected {expected}, found {shown:?}{dots}")
            }
            Fault::TimeAhead { time, clock, skew } => write!(f, "`time` {time} is more than {skew} ahead of {clock}"),
        }
    }
}
