//! Rows of a table without envelope, as the hunting portal and its API export them: CSV, JSON and Parquet.
//!
//! A row becomes a bare record: its `Timestamp` is taken as its arrival, and the tenant is the caller's to say. Exports come in any
//! order, so a file's rows are held and sorted by `Timestamp`; rows of equal time keep the file's order.
//! Invariant: a file of more than [`ROWS_LIMIT`] is refused, not cut.

use super::peek;
use super::reader::{Content, Place, Step};
use crate::time::Ticks;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use serde_json::value::RawValue;
use std::io::{self, Read};
use std::ops::Range;

/// The most that one file of rows may hold, as text: 256 MiB. The portal's own limits are far below it.
pub const ROWS_LIMIT: u64 = 256 << 20;

/// Why a file of rows is not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum RowsError {
    #[error("its rows are more than {} MiB: export them in parts", ROWS_LIMIT >> 20)]
    TooLarge,
    #[error("its columns are separated by {0}, not by a comma: export it again with another locale, or convert it")]
    Separator(&'static str),
    #[error("it has no column {missing}; its columns are {found}. Export DeviceNetworkEvents or DeviceInfo with their own column names")]
    Columns { missing: &'static str, found: String },
    #[error(
        "the Timestamp {0:?} of its first row is not an instant as 2026-03-01T12:00:00.1234567Z: it was exported with a locale, which may mean other instants than it says. Export it in UTC, as the API does"
    )]
    Locale(String),
    #[error("row {row}: {reason}")]
    Broken { row: usize, reason: String },
    #[error("it can't be read as Parquet: {0}")]
    Parquet(String),
}

impl From<RowsError> for io::Error {
    fn from(error: RowsError) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}

/// What kind of file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Csv,
    Json,
    Parquet,
}

/// A file's rows, in the order of their times.
pub(super) struct Rows {
    text: Vec<u8>,
    rows: Vec<(Ticks, Range<usize>)>,
    taken: u64,
    tenant: String,
    pub(super) place: Place,
}

impl Rows {
    /// Reads all of it, and passes over the rows before `place`.
    pub(super) fn open(content: Content, kind: Kind, tenant: &str, place: Place) -> io::Result<Rows> {
        let mut bytes = Vec::new();
        let Content { mut input, .. } = content;
        (&mut input).take(ROWS_LIMIT + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > ROWS_LIMIT {
            return Err(RowsError::TooLarge.into());
        }
        let taken = bytes.len() as u64;
        let mut rows =
            Rows { text: Vec::new(), rows: Vec::new(), taken, tenant: tenant.to_owned(), place: Place { lines: place.lines, bytes: 0 } };
        match kind {
            Kind::Csv => rows.csv(&bytes)?,
            Kind::Json => rows.json(&bytes)?,
            Kind::Parquet => rows.parquet(bytes)?,
        }
        rows.rows.sort_by_key(|(at, _)| *at);
        Ok(rows)
    }

    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    pub(super) fn read(&mut self, line: &mut Vec<u8>) -> Step {
        line.clear();
        let Some((_, range)) = self.rows.get(self.place.lines as usize) else { return Step::End };
        self.place.lines += 1;
        wrap(self.text.get(range.clone()).unwrap_or_default(), &self.tenant, line);
        Step::Line
    }

    fn push(&mut self, row: &[u8]) -> Result<(), RowsError> {
        let start = self.text.len();
        self.text.extend_from_slice(row);
        if self.text.len() as u64 > ROWS_LIMIT {
            return Err(RowsError::TooLarge);
        }
        let timestamp = peek::row(row).0;
        let at = timestamp.and_then(Ticks::parse);
        if self.rows.is_empty() && at.is_none() {
            return Err(RowsError::Locale(timestamp.unwrap_or_default().to_owned()));
        }
        // One that has no time is a dead letter wherever it goes.
        self.rows.push((at.unwrap_or(Ticks::MIN), start..self.text.len()));
        Ok(())
    }

    fn csv(&mut self, bytes: &[u8]) -> Result<(), RowsError> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let mut reader = csv::ReaderBuilder::new().from_reader(bytes);
        let broken = |row: usize| move |error: csv::Error| RowsError::Broken { row, reason: error.to_string() };
        let headers = reader.headers().map_err(broken(0))?.clone();
        has_columns(headers.iter())?;
        let mut record = csv::StringRecord::new();
        let mut row = Vec::new();
        while reader.read_record(&mut record).map_err(broken(self.rows.len() + 1))? {
            row.clear();
            object(&mut row, headers.iter().zip(record.iter().map(Cell::Text)));
            self.push(&row)?;
        }
        Ok(())
    }

    fn json(&mut self, bytes: &[u8]) -> Result<(), RowsError> {
        #[derive(serde::Deserialize)]
        struct Answer<'a> {
            #[serde(borrow, rename = "Results", alias = "results", alias = "value")]
            results: Vec<&'a RawValue>,
        }
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let broken = |error: serde_json::Error| RowsError::Broken { row: 0, reason: error.to_string() };
        let is_array = bytes.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'[');
        let rows: Vec<&RawValue> = if is_array {
            serde_json::from_slice(bytes).map_err(broken)?
        } else {
            serde_json::from_slice::<Answer<'_>>(bytes).map_err(broken)?.results
        };
        rows.into_iter().try_for_each(|row| self.push(row.get().as_bytes()))
    }

    fn parquet(&mut self, bytes: Vec<u8>) -> Result<(), RowsError> {
        let broken = |error: parquet::errors::ParquetError| RowsError::Parquet(error.to_string());
        let reader = SerializedFileReader::new(bytes::Bytes::from(bytes)).map_err(broken)?;
        let schema = reader.metadata().file_metadata().schema_descr();
        has_columns(schema.root_schema().get_fields().iter().map(|field| field.name()))?;
        let mut row = Vec::new();
        for found in reader.get_row_iter(None).map_err(broken)? {
            let found = found.map_err(broken)?;
            row.clear();
            object(&mut row, found.get_column_iter().map(|(name, field)| (name.as_str(), Cell::of(field))));
            self.push(&row)?;
        }
        Ok(())
    }
}

fn has_columns<'a>(names: impl Iterator<Item = &'a str>) -> Result<(), RowsError> {
    let names: Vec<&str> = names.collect();
    if let [only] = names[..] {
        for (separator, name) in [(';', "semicolons"), ('\t', "tabs"), ('|', "bars")] {
            if only.contains(separator) {
                return Err(RowsError::Separator(name));
            }
        }
    }
    for missing in ["Timestamp", "DeviceName"] {
        if !names.contains(&missing) {
            return Err(RowsError::Columns { missing, found: names.join(", ") });
        }
    }
    Ok(())
}

/// A value of a row.
enum Cell<'a> {
    /// Text of which the columns that are numbers have to be told.
    Text(&'a str),
    Owned(String),
    Number(String),
    Null,
}

impl Cell<'_> {
    fn of(field: &Field) -> Cell<'_> {
        match field {
            Field::Null => Cell::Null,
            Field::Str(text) => Cell::Text(text),
            Field::Bool(_) | Field::Byte(_) | Field::Short(_) | Field::Int(_) | Field::Long(_) => Cell::Number(field.to_string()),
            Field::UByte(_) | Field::UShort(_) | Field::UInt(_) | Field::ULong(_) => Cell::Number(field.to_string()),
            Field::TimestampMillis(millis) => Cell::Owned(Ticks::from_millis(*millis).to_string()),
            Field::TimestampMicros(micros) => Cell::Owned(Ticks(micros.saturating_mul(10)).to_string()),
            Field::Bytes(bytes) => Cell::Owned(String::from_utf8_lossy(bytes.data()).into_owned()),
            other => Cell::Owned(other.to_string()),
        }
    }
}

/// Writes a JSON object. Columns that Defender sends as numbers become numbers; empty ones null.
fn object<'a>(out: &mut Vec<u8>, cells: impl Iterator<Item = (&'a str, Cell<'a>)>) {
    let text = |out: &mut Vec<u8>, text: &str| {
        // Writing to memory does not fail, and any text can be written.
        let _ = serde_json::to_writer(out, text);
    };
    let is_number = |text: &str| {
        let digits = text.strip_prefix('-').unwrap_or(text);
        digits.parse::<u64>().is_ok() && (digits == "0" || !digits.starts_with(['0', '+']))
    };
    out.push(b'{');
    for (n, (name, cell)) in cells.enumerate() {
        if n > 0 {
            out.push(b',');
        }
        text(out, name);
        out.push(b':');
        match cell {
            Cell::Null | Cell::Text("") => out.extend_from_slice(b"null"),
            Cell::Number(number) => out.extend_from_slice(number.as_bytes()),
            Cell::Text(number) if matches!(name, "RemotePort" | "LocalPort" | "ReportId") && is_number(number) => {
                out.extend_from_slice(number.as_bytes());
            }
            Cell::Text(value) => text(out, value),
            Cell::Owned(value) => text(out, &value),
        }
    }
    out.push(b'}');
}

/// The row as a bare record. Without a table that its columns tell it has no category, and becomes a dead letter.
pub(super) fn wrap(row: &[u8], tenant: &str, out: &mut Vec<u8>) {
    let (timestamp, table) = peek::row(row);
    let mut put = |key: &[u8], value: &str| {
        out.extend_from_slice(key);
        let _ = serde_json::to_writer(&mut *out, value);
    };
    put(br#"{"tenantId":"#, tenant);
    if let Some(timestamp) = timestamp {
        put(br#","time":"#, timestamp);
    }
    if let Some(table) = table {
        put(br#","category":"#, table);
    }
    out.extend_from_slice(br#","properties":"#);
    out.extend_from_slice(row);
    out.push(b'}');
}
