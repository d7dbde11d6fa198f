//! A fleet as Azure writes it: the Storage export's containers of hourly blobs, and Event Hubs Capture's Avro files. Reading them
//! back is `files`' part.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::Message;
use crate::time::{Span, Ticks};
use apache_avro::types::Value;
use apache_avro::{Schema, Writer};
use serde_json::value::RawValue;

/// Files that are written at once; Azure's hours and windows follow each other, so those left are done, or are opened again.
const MOST_OPEN: usize = 64;

/// What of a message decides where its records go.
#[derive(serde::Deserialize)]
struct Records<'a> {
    #[serde(borrow)]
    records: Vec<&'a RawValue>,
}

#[derive(serde::Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    time: std::borrow::Cow<'a, str>,
    #[serde(borrow, rename = "tenantId")]
    tenant: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    category: std::borrow::Cow<'a, str>,
}

/// Writes each record as a line of its table's, tenant's and hour's blob, `insights-logs-…/tenantId=…/y=…/m=…/d=…/h=…/m=00/PT1H.json`, in the order
/// in which messages come.
///
/// # Errors
/// The directory can't be written.
pub fn storage(root: &Path, messages: impl Iterator<Item = Message>) -> io::Result<()> {
    let mut open: BTreeMap<PathBuf, BufWriter<File>> = BTreeMap::new();
    for message in messages {
        let parsed: Records<'_> = serde_json::from_slice(&message.bytes)?;
        for record in parsed.records {
            let envelope: Envelope<'_> = serde_json::from_str(record.get())?;
            let path = root.join(blob(&envelope));
            if !open.contains_key(&path) {
                if open.len() >= MOST_OPEN {
                    std::mem::take(&mut open).into_values().try_for_each(|mut file| file.flush())?;
                }
                path.parent().map_or(Ok(()), fs::create_dir_all)?;
                let file = OpenOptions::new().create(true).append(true).open(&path)?;
                open.insert(path.clone(), BufWriter::new(file));
            }
            if let Some(file) = open.get_mut(&path) {
                file.write_all(record.get().as_bytes())?;
                file.write_all(b"\r\n")?;
            }
        }
    }
    open.into_values().try_for_each(|mut file| file.flush())
}

fn blob(envelope: &Envelope<'_>) -> String {
    let part = |range: std::ops::Range<usize>| envelope.time.get(range).unwrap_or("00");
    format!(
        "insights-logs-{}/tenantId={}/y={}/m={}/d={}/h={}/m=00/PT1H.json",
        envelope.category.to_ascii_lowercase(),
        envelope.tenant,
        part(0..4),
        part(5..7),
        part(8..10),
        part(11..13)
    )
}

/// Event Hubs Capture's schema, as Microsoft documents it.
pub const CAPTURE_SCHEMA: &str = r#"{"type":"record","name":"EventData","namespace":"Microsoft.ServiceBus.Messaging","fields":[
{"name":"SequenceNumber","type":"long"},{"name":"Offset","type":"string"},{"name":"EnqueuedTimeUtc","type":"string"},
{"name":"SystemProperties","type":{"type":"map","values":["long","double","string","bytes"]}},
{"name":"Properties","type":{"type":"map","values":["long","double","string","bytes","null"]}},
{"name":"Body","type":["null","bytes"]}]}"#;

/// How much time one file of Capture holds.
const CAPTURE_WINDOW: Span = Span::minutes(5);

/// Writes messages round `partitions` partitions into a file each window, `hub/{partition}/{Y}/{m}/{d}/{H}/{M}/{S}.avro`.
///
/// # Errors
/// The directory can't be written.
pub fn capture(root: &Path, partitions: usize, messages: impl Iterator<Item = Message>) -> io::Result<()> {
    let schema = Schema::parse_str(CAPTURE_SCHEMA).map_err(io::Error::other)?;
    let mut windows: Vec<(i64, Vec<Value>)> = vec![(i64::MIN, Vec::new()); partitions.max(1)];
    for (number, message) in (0i64..).zip(messages) {
        let partition = number as usize % windows.len();
        let window = message.arrival.0.div_euclid(CAPTURE_WINDOW.0);
        let Some((held, events)) = windows.get_mut(partition) else { continue };
        if *held != window {
            write_window(root, partition, *held, std::mem::take(events), &schema)?;
            *held = window;
        }
        let text = |text: String| Value::String(text);
        events.push(Value::Record(vec![
            ("SequenceNumber".to_owned(), Value::Long(number)),
            ("Offset".to_owned(), text(number.to_string())),
            ("EnqueuedTimeUtc".to_owned(), text(message.arrival.to_string())),
            ("SystemProperties".to_owned(), Value::Map(Default::default())),
            ("Properties".to_owned(), Value::Map(Default::default())),
            ("Body".to_owned(), Value::Union(1, Box::new(Value::Bytes(message.bytes)))),
        ]));
    }
    for (partition, (window, events)) in windows.into_iter().enumerate() {
        write_window(root, partition, window, events, &schema)?;
    }
    Ok(())
}

fn write_window(root: &Path, partition: usize, window: i64, events: Vec<Value>, schema: &Schema) -> io::Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    let at = Ticks(window.saturating_mul(CAPTURE_WINDOW.0)).to_string();
    let part = |range: std::ops::Range<usize>| at.get(range).unwrap_or("00").to_owned();
    let path = root.join("hub").join(partition.to_string());
    let path = [0..4, 5..7, 8..10, 11..13, 14..16].into_iter().fold(path, |path, range| path.join(part(range)));
    fs::create_dir_all(&path)?;
    let file = BufWriter::new(File::create(path.join(format!("{}.avro", part(17..19))))?);
    let mut writer = Writer::new(schema, file).map_err(io::Error::other)?;
    for event in events {
        writer.append_value(event).map_err(io::Error::other)?;
    }
    writer.into_inner().map_err(io::Error::other)?.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::{FileSource, Line};
    use crate::fleet::{Fleet, FleetOptions};

    fn fleet() -> Fleet {
        Fleet::new(&FleetOptions { devices: 20, span: Span::days(2), padding: false, ..FleetOptions::default() })
    }

    #[test]
    fn both_forms_hold_every_record_of_the_fleet_in_paths_that_azure_uses() {
        let dir = tempfile::tempdir().unwrap();
        let (storage_at, capture_at) = (dir.path().join("s"), dir.path().join("c"));
        storage(&storage_at, fleet()).unwrap();
        capture(&capture_at, 2, fleet()).unwrap();
        let (messages, records) = fleet().fold((0, 0), |(m, r), message| (m + 1, r + message.records));
        let lines = |path: &Path| FileSource::open(&[path.to_owned()]).unwrap().collect::<Result<Vec<Line>, _>>().unwrap();
        assert_eq!(lines(&storage_at).len(), records as usize);
        assert!(lines(&storage_at).iter().all(|line| line.bare));
        let mut captured: Vec<Vec<u8>> = lines(&capture_at).into_iter().map(|line| line.bytes).collect();
        assert_eq!(captured.len(), messages);
        let mut expected: Vec<Vec<u8>> = fleet().map(|message| message.bytes).collect();
        captured.sort();
        expected.sort();
        assert_eq!(captured, expected);
        let tenant = fleet().tenants().next().unwrap().to_owned();
        let hour = format!("insights-logs-advancedhunting-devicenetworkevents/tenantId={tenant}/y=2026/m=01/d=02/h=10/m=00/PT1H.json");
        assert!(fs::read_to_string(storage_at.join(hour)).unwrap().ends_with("}\r\n"));
        assert!(capture_at.join("hub/1/2026/01/01").is_dir());
    }
}
