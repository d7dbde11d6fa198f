//! Why something went to the dead-letter topic: a closed set of names that headers, metrics and dashboards rely on.
//!
//! The rules that lead to each are in [`decode`](super::decode). A name is never renamed or given another meaning.

use std::fmt;

/// Why a record, or a whole message, is a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// Whole message: nothing in it but white space.
    Empty,
    /// Whole message: longer than [`MAX_MESSAGE_BYTES`](super::decode::MAX_MESSAGE_BYTES).
    TooLarge,
    /// Whole message: not UTF-8.
    InvalidUtf8,
    /// Whole message: not one JSON value; also truncated ones and ones with something behind the value.
    NotJson,
    /// Whole message: no object with a `records` that is not null.
    NoRecords,
    /// Whole message: `records` is something other than an array.
    RecordsNotArray,
    /// Whole message: more elements in `records` than [`MAX_RECORDS`](super::decode::MAX_RECORDS).
    TooManyRecords,
    /// An element of `records` is no object.
    RecordNotObject,
    /// The record nests deeper than [`MAX_RECORD_DEPTH`](super::decode::MAX_RECORD_DEPTH).
    TooDeep,
    /// A key or column that is read holds another JSON type than Defender documents; the error text names it.
    WrongType,
    /// The envelope has no `time`.
    MissingTime,
    /// The envelope's `time` is no RFC 3339 instant of the years 1 to 9999.
    BadTime,
    /// The envelope's `time` is further ahead of the independent clock than `max_clock_skew`.
    TimeAhead,
    /// The envelope has no `category`, so nobody knows whose row it is.
    MissingCategory,
    /// The envelope of a table that is read has no `properties`.
    MissingProperties,
    /// The row has no `Timestamp`.
    MissingTimestamp,
    /// The row's `Timestamp` is no RFC 3339 instant of the years 1 to 9999.
    BadTimestamp,
    /// `ReportId` is a number, but no 64-bit integer.
    BadReportId,
    /// `RemotePort` is a number, but no integer from 0 to 65535.
    BadPort,
    /// The row's `Timestamp` is further ahead of the arrival clock than `max_clock_skew`. Judged by the detector, which
    /// alone knows that clock; never by the decoder.
    TimestampAhead,
}

impl Reason {
    /// Every reason, so that each has its series in the metrics from the start.
    pub const ALL: [Reason; 20] = [
        Reason::Empty,
        Reason::TooLarge,
        Reason::InvalidUtf8,
        Reason::NotJson,
        Reason::NoRecords,
        Reason::RecordsNotArray,
        Reason::TooManyRecords,
        Reason::RecordNotObject,
        Reason::TooDeep,
        Reason::WrongType,
        Reason::MissingTime,
        Reason::BadTime,
        Reason::TimeAhead,
        Reason::MissingCategory,
        Reason::MissingProperties,
        Reason::MissingTimestamp,
        Reason::BadTimestamp,
        Reason::BadReportId,
        Reason::BadPort,
        Reason::TimestampAhead,
    ];

    /// The stable name: the `reason` header and the label of `dead_letters_total`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Reason::Empty => "empty",
            Reason::TooLarge => "too_large",
            Reason::InvalidUtf8 => "invalid_utf8",
            Reason::NotJson => "not_json",
            Reason::NoRecords => "no_records",
            Reason::RecordsNotArray => "records_not_array",
            Reason::TooManyRecords => "too_many_records",
            Reason::RecordNotObject => "record_not_object",
            Reason::TooDeep => "too_deep",
            Reason::WrongType => "wrong_type",
            Reason::MissingTime => "missing_time",
            Reason::BadTime => "bad_time",
            Reason::TimeAhead => "time_ahead",
            Reason::MissingCategory => "missing_category",
            Reason::MissingProperties => "missing_properties",
            Reason::MissingTimestamp => "missing_timestamp",
            Reason::BadTimestamp => "bad_timestamp",
            Reason::BadReportId => "bad_report_id",
            Reason::BadPort => "bad_port",
            Reason::TimestampAhead => "timestamp_ahead",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_distinct_snake_case() {
        let names: BTreeSet<&str> = Reason::ALL.iter().map(|r| r.as_str()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
        assert!(names.iter().all(|n| n.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_')));
    }
}
