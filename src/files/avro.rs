//! Event Hubs Capture: Avro files whose records carry a Kafka message each, in `Body`.
//!
//! Invariant: another schema is refused before anything is read of it. Memory is one block of the file, as its writer cut it, and
//! one message.

use super::reader::{Content, Place, Step};
use apache_avro::Reader;
use apache_avro::schema::Schema;
use apache_avro::types::Value;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Why an Avro file is not read.
#[derive(Debug, thiserror::Error)]
#[error(
    "it is an Avro file of another schema ({0}); Event Hubs Capture writes records of EventData, with the message in the bytes of Body"
)]
pub(super) struct OtherSchema(String);

/// Messages of one file.
pub(super) struct Messages {
    reader: Reader<'static, Tapped>,
    taken: Arc<AtomicU64>,
    pub(super) place: Place,
}

/// Tells outside how far the content was taken, which the Avro reader owns.
struct Tapped {
    content: Content,
    taken: Arc<AtomicU64>,
}

impl Read for Tapped {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.content.input.read(buffer)?;
        self.taken.store(self.content.taken(), Ordering::Relaxed);
        Ok(n)
    }
}

fn broken(error: apache_avro::Error) -> io::Error {
    // What the store or the disk says is told as it is.
    let text = error.to_string();
    let mut source: Option<&dyn std::error::Error> = Some(&error);
    while let Some(error) = source {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return match io.get_ref().and_then(|inner| inner.downcast_ref::<super::object::ObjectError>()) {
                Some(object) => io::Error::other(object.clone()),
                None => io::Error::new(io.kind(), text),
            };
        }
        source = error.source();
    }
    io::Error::new(io::ErrorKind::InvalidData, text)
}

impl Messages {
    /// Opens the file and passes over what was read before.
    pub(super) fn open(content: Content, place: Place) -> io::Result<Messages> {
        let taken = Arc::new(AtomicU64::new(0));
        let reader = Reader::new(Tapped { content, taken: Arc::clone(&taken) }).map_err(broken)?;
        check(reader.writer_schema()).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let mut messages = Messages { reader, taken, place: Place::default() };
        let mut passed = Vec::new();
        while messages.place.lines < place.lines {
            if messages.read(&mut passed)? == Step::End {
                break;
            }
        }
        Ok(messages)
    }

    pub(super) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    pub(super) fn read(&mut self, line: &mut Vec<u8>) -> io::Result<Step> {
        line.clear();
        let Some(value) = self.reader.next() else { return Ok(Step::End) };
        let value = value.map_err(broken)?;
        self.place.lines += 1;
        if let Value::Record(fields) = value
            && let Some((_, body)) = fields.into_iter().find(|(name, _)| name == "Body")
        {
            let body = if let Value::Union(_, inner) = body { *inner } else { body };
            if let Value::Bytes(bytes) = body {
                *line = bytes;
            }
        }
        Ok(Step::Line)
    }
}

fn check(schema: &Schema) -> Result<(), OtherSchema> {
    let Schema::Record(record) = schema else { return Err(OtherSchema(format!("no record but {}", kind(schema)))) };
    let body = record.fields.iter().find(|field| field.name == "Body");
    let is_bytes = |schema: &Schema| match schema {
        Schema::Bytes => true,
        Schema::Union(union) => union.variants().iter().any(|variant| matches!(variant, Schema::Bytes)),
        _ => false,
    };
    match body {
        Some(field) if is_bytes(&field.schema) => Ok(()),
        Some(field) => Err(OtherSchema(format!("{}, whose Body is {}", record.name.name(), kind(&field.schema)))),
        None => {
            let names: Vec<&str> = record.fields.iter().map(|field| field.name.as_str()).collect();
            Err(OtherSchema(format!("{} with the fields {}", record.name.name(), names.join(", "))))
        }
    }
}

fn kind(schema: &Schema) -> String {
    let text = format!("{schema:?}");
    text.split(['(', '{', ' ']).next().unwrap_or_default().to_lowercase()
}
