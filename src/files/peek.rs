//! A cheap look into a line: is it a message or a bare record, and when did its first record arrive?
//!
//! Invariant: never an error; a line that is not JSON gives some answer, and `defender` judges it later. It looks no further
//! than it must, which is the first key in all that Defender writes.

use crate::time::Ticks;

/// What a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A message with `records`.
    Message,
    /// A record without that wrapper.
    Bare,
    /// A row of a table, without envelope.
    Row,
}

/// What the line is.
///
/// The first top-level key that tells decides: `records` is a message; a key of Defender's envelope is a record; a column is a row. With
/// none, it is taken for a message, so that the complaint will be that `records` is missing.
#[must_use]
pub fn form(line: &[u8]) -> Form {
    let mut scan = Scan::new(line);
    while let Some(key) = scan.key(1) {
        match key {
            b"records" => return Form::Message,
            b"time" | b"tenantId" | b"category" | b"operationName" | b"properties" | b"Tenant" | b"_TimeReceivedBySvc" => {
                return Form::Bare;
            }
            b"Timestamp" | b"DeviceId" | b"DeviceName" | b"ReportId" => return Form::Row,
            _ => {}
        }
    }
    Form::Message
}

/// Whether the line is a record without the `records` wrapper.
#[must_use]
pub fn is_bare(line: &[u8]) -> bool {
    form(line) == Form::Bare
}

/// A row's `Timestamp`, as it is written, and its table, by its columns.
#[must_use]
pub fn row(line: &[u8]) -> (Option<&str>, Option<&'static str>) {
    let (mut timestamp, mut table) = (None, None);
    let mut scan = Scan::new(line);
    while let Some(key) = scan.key(1) {
        match key {
            b"Timestamp" => timestamp = scan.string_value().and_then(|text| std::str::from_utf8(text).ok()),
            b"RemoteIP" | b"RemotePort" | b"RemoteUrl" | b"RemoteIPType" => table = table.or(Some("AdvancedHunting-DeviceNetworkEvents")),
            b"OSPlatform" | b"DeviceType" | b"OSVersion" | b"PublicIP" => table = table.or(Some("AdvancedHunting-DeviceInfo")),
            _ => {}
        }
        if timestamp.is_some() && table.is_some() {
            break;
        }
    }
    (timestamp, table)
}

/// The first key of the text's object.
#[must_use]
pub fn first_key(text: &[u8]) -> Option<&[u8]> {
    Scan::new(text).key(1)
}

/// Envelope `time` of the line's first record that has one that can be read.
#[must_use]
pub fn arrival(line: &[u8], bare: bool) -> Option<Ticks> {
    let depth = if bare { 1 } else { 3 };
    let mut scan = Scan::new(line);
    while let Some(key) = scan.key(depth) {
        if key == b"time" {
            let text = scan.string_value().and_then(|text| std::str::from_utf8(text).ok());
            if let Some(at) = text.and_then(Ticks::parse) {
                return Some(at);
            }
        }
    }
    None
}

/// Walks over JSON by brackets and strings alone.
struct Scan<'a> {
    line: &'a [u8],
    at: usize,
    depth: u32,
}

impl<'a> Scan<'a> {
    fn new(line: &'a [u8]) -> Self {
        Scan { line, at: 0, depth: 0 }
    }

    /// The next string at this depth that a colon follows.
    fn key(&mut self, depth: u32) -> Option<&'a [u8]> {
        loop {
            let byte = *self.line.get(self.at)?;
            self.at += 1;
            match byte {
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                b'"' => {
                    let text = self.string()?;
                    if self.depth == depth && self.skip_space() == Some(b':') {
                        self.at += 1;
                        return Some(text);
                    }
                }
                _ => {}
            }
        }
    }

    /// The value behind a key, if it is a string. Escapes stay as they are: no instant has any.
    fn string_value(&mut self) -> Option<&'a [u8]> {
        if self.skip_space() != Some(b'"') {
            return None;
        }
        self.at += 1;
        self.string()
    }

    /// The rest of a string whose opening quote has been read.
    fn string(&mut self) -> Option<&'a [u8]> {
        let start = self.at;
        loop {
            match *self.line.get(self.at)? {
                b'"' => {
                    self.at += 1;
                    return self.line.get(start..self.at - 1);
                }
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
    }

    fn skip_space(&mut self) -> Option<u8> {
        while self.line.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
        self.line.get(self.at).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_bare_records_are_told_apart() {
        for (line, bare) in [
            (r#"{"records":[{"time":"2026-01-01T00:00:00Z"}]}"#, false),
            (r#" { "x" : {"time":1}, "records" : [] }"#, false),
            (r#"{"time":"2026-01-01T00:00:00Z","properties":{"records":[]}}"#, true),
            (r#"{"properties":{"records":1},"time":"2026-01-01T00:00:00Z"}"#, true),
            (r#"{"note":"records","category":"x"}"#, true),
            ("{}", false),
            ("not json", false),
            (r#"{"rec"#, false),
        ] {
            assert_eq!(is_bare(line.as_bytes()), bare, "{line}");
        }
    }

    #[test]
    fn the_time_is_the_envelopes_own_and_the_first() {
        let at = |text| Some(Ticks::parse(text).unwrap());
        for (line, bare, expected) in [
            (
                r#"{"records":[{"time":"2026-01-02T03:04:05.1234567Z"},{"time":"2026-01-01T00:00:00Z"}]}"#,
                false,
                at("2026-01-02T03:04:05.1234567Z"),
            ),
            (
                r#"{"time":"2000-01-01T00:00:00Z","records":[{"properties":{"time":"2001-01-01T00:00:00Z"},"time" : "2026-01-02T00:00:00Z"}]}"#,
                false,
                at("2026-01-02T00:00:00Z"),
            ),
            (
                r#"{"properties":{"AdditionalFields":"{\"time\":\"2001-01-01T00:00:00Z\"}","p":"C:\\"},"time":"2026-01-02T00:00:00Z"}"#,
                true,
                at("2026-01-02T00:00:00Z"),
            ),
            (r#"{"records":[{"time":null},{"time":"soon"},{"time":"2026-01-02T00:00:00Z"}]}"#, false, at("2026-01-02T00:00:00Z")),
            (r#"{"records":[]}"#, false, None),
            (r#"{"records":[{"time":"2026-01-0"#, false, None),
            ("]]]]{\"time\"", true, None),
        ] {
            assert_eq!(arrival(line.as_bytes(), bare), expected, "{line}");
        }
    }
}
