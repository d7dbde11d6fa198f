//! What the hunting portal and its API export, and files that are not what they should be.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use apache_avro::types::Value;
use apache_avro::{Schema, Writer};
use firstseen::fleet::Fleet;
use parquet::basic::{LogicalType, Repetition, Type as Physical};
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::Type;

use crate::kit::{Place, before, number, options, text};
use firstseen::time::Span;

type Rows = Vec<serde_json::Map<String, serde_json::Value>>;

/// The rows of the fleet's first three days, of each table, without envelopes.
fn tables() -> [Rows; 2] {
    let mut tables = [Vec::new(), Vec::new()];
    for message in before(options().start.plus(Span::days(3))) {
        let message: serde_json::Value = serde_json::from_slice(&message.bytes).unwrap();
        for record in message["records"].as_array().unwrap() {
            let table = usize::from(record["category"] == "AdvancedHunting-DeviceInfo");
            tables[table].push(record["properties"].as_object().unwrap().clone());
        }
    }
    assert!(tables.iter().all(|rows| rows.len() > 50));
    tables
}

fn tenant() -> String {
    Fleet::new(&options()).tenants().next().unwrap().to_owned()
}

fn columns(rows: &Rows) -> Vec<String> {
    let all: std::collections::BTreeSet<String> = rows.iter().flat_map(|row| row.keys().cloned()).collect();
    all.into_iter().collect()
}

fn cell(value: Option<&serde_json::Value>) -> String {
    match value {
        None | Some(serde_json::Value::Null) => String::new(),
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

fn csv_of(path: &Path, rows: &Rows, separator: u8) {
    let columns = columns(rows);
    let mut out = csv::WriterBuilder::new().delimiter(separator).from_path(path).unwrap();
    out.write_record(&columns).unwrap();
    rows.iter().for_each(|row| out.write_record(columns.iter().map(|name| cell(row.get(name)))).unwrap());
    out.flush().unwrap();
}

fn parquet_of(path: &Path, rows: &Rows) {
    let columns = columns(rows);
    let is_number = |name: &str| name == "RemotePort" || name == "ReportId";
    let fields = columns.iter().map(|name| {
        let builder = Type::primitive_type_builder(name, if is_number(name) { Physical::INT64 } else { Physical::BYTE_ARRAY });
        let builder = builder.with_repetition(Repetition::OPTIONAL);
        Arc::new(if is_number(name) { builder } else { builder.with_logical_type(Some(LogicalType::String)) }.build().unwrap())
    });
    let schema = Arc::new(Type::group_type_builder("rows").with_fields(fields.collect()).build().unwrap());
    let mut writer = SerializedFileWriter::new(File::create(path).unwrap(), schema, Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for name in &columns {
        let values: Vec<String> = rows.iter().map(|row| cell(row.get(name))).collect();
        let levels: Vec<i16> = values.iter().map(|value| i16::from(!value.is_empty())).collect();
        let there = values.iter().filter(|value| !value.is_empty());
        let mut column = group.next_column().unwrap().unwrap();
        if is_number(name) {
            let numbers: Vec<i64> = there.map(|value| value.parse().unwrap()).collect();
            column.typed::<Int64Type>().write_batch(&numbers, Some(&levels), None).unwrap();
        } else {
            let texts: Vec<ByteArray> = there.map(|value| value.as_bytes().to_vec().into()).collect();
            column.typed::<ByteArrayType>().write_batch(&texts, Some(&levels), None).unwrap();
        }
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
}

#[test]
fn rows_without_envelope_give_the_same_state_in_every_form_and_order() {
    let [network, device] = tables();
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    // The portal shows the newest first.
    let newest_first = |rows: &Rows| rows.iter().rev().cloned().collect::<Rows>();
    csv_of(&at("network.csv"), &newest_first(&network), b',');
    csv_of(&at("device.csv"), &newest_first(&device), b',');
    fs::write(at("network.json"), serde_json::to_vec_pretty(&network).unwrap()).unwrap();
    let answer = serde_json::json!({"Stats": {"x": [1]}, "Schema": [{"Name": "Timestamp"}], "Results": newest_first(&device)});
    fs::write(at("device.json"), answer.to_string()).unwrap();
    parquet_of(&at("network.parquet"), &network);
    parquet_of(&at("device.parquet"), &device);
    // One row a line, as other tools write them: these have to be in the order of their times.
    let mut sorted: Rows = network.iter().chain(&device).cloned().collect();
    sorted.sort_by_key(|row| firstseen::time::Ticks::parse(row["Timestamp"].as_str().unwrap()));
    let lines: Vec<String> = sorted.iter().map(|row| serde_json::to_string(row).unwrap()).collect();
    fs::write(at("rows.ndjson"), lines.join("\n")).unwrap();

    let load = |names: &[&str]| {
        let place = Place::new();
        let paths: Vec<String> = names.iter().map(|name| text(&at(name)).to_owned()).collect();
        let tenant = tenant();
        let arguments: Vec<&str> = paths.iter().map(String::as_str).chain(["--tenant", &tenant]).collect();
        let said = place.backfill(&arguments);
        assert_eq!(number(&said, " records from"), (network.len() + device.len()) as u64, "{said}");
        assert!(!said.contains("dead letters"), "{said}");
        let files = place.state_files();
        place.backfill(&arguments);
        assert!(place.state_files() == files, "loaded twice it changes nothing");
        place.export()
    };
    let csv = load(&["network.csv", "device.csv"]);
    assert!(String::from_utf8_lossy(&csv).contains(&tenant()));
    for other in [&["network.json", "device.json"], &["network.parquet", "device.parquet"]] {
        assert!(load(other) == csv, "{other:?}");
    }
    let lines = load(&["rows.ndjson"]);
    assert_eq!(lines.len(), csv.len());

    // Without a tenant such rows would be compared with nobody's.
    let said = Place::new().refused(&[text(&at("network.csv"))]);
    assert!(said.contains("give their tenant with --tenant ID"), "{said}");
}

#[test]
fn exports_of_another_locale_are_refused_in_words() {
    let [network, _] = tables();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("export.csv");
    let refusal = || Place::new().refused(&[text(&path), "--tenant", "t"]);
    csv_of(&path, &network, b';');
    assert!(refusal().contains("its columns are separated by semicolons, not by a comma"), "{}", refusal());
    fs::write(&path, "Timestamp,DeviceName,RemoteIP\n\"3/1/2026, 5:06:07 AM\",srv,192.0.2.1\n").unwrap();
    assert!(refusal().contains("the Timestamp \"3/1/2026, 5:06:07 AM\" of its first row is not an instant"), "{}", refusal());
    fs::write(&path, "\"TimeGenerated [UTC]\",Computer\na,b\n").unwrap();
    assert!(refusal().contains("it has no column Timestamp; its columns are TimeGenerated [UTC], Computer"), "{}", refusal());
    // A row that can't be read is a dead letter, the others count.
    fs::write(&path, "Timestamp,DeviceName,RemoteIP,RemotePort\n2026-03-01T00:00:00Z,srv,192.0.2.1,443\nsoon,srv,192.0.2.1,443\n").unwrap();
    let said = Place::new().backfill(&[text(&path), "--tenant", "t"]);
    assert!(said.contains("1 network events") && said.contains("dead letters: 1 (1 bad_time)"), "{said}");
}

#[test]
fn avro_of_another_schema_and_files_that_are_cut_are_named_and_the_rest_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let schema = Schema::parse_str(r#"{"type":"record","name":"Person","fields":[{"name":"age","type":"long"}]}"#).unwrap();
    let mut writer = Writer::new(&schema, BufWriter::new(File::create(at("people.avro")).unwrap())).unwrap();
    writer.append_value(Value::Record(vec![("age".to_owned(), Value::Long(3))])).unwrap();
    writer.into_inner().unwrap().flush().unwrap();
    let messages: Vec<Vec<u8>> = before(options().start.plus(Span::days(1))).map(|message| message.bytes).collect();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&messages.join(&b'\n')).unwrap();
    let whole = gzip.finish().unwrap();
    fs::write(at("cut.json.gz"), &whole[..whole.len() / 2]).unwrap();
    fs::write(at("good.json"), messages.join(&b'\n')).unwrap();

    let place = Place::new();
    let said = place.refused(&[text(dir.path())]);
    assert!(said.contains("people.avro is not read: it is an Avro file of another schema (Person with the fields age)"), "{said}");
    assert!(said.contains("cut.json.gz can't be read from line"), "{said}");
    assert!(said.lines().last().unwrap().contains("2 of 3 files could not be read to their end"), "{said}");
    assert!(number(&said, " repeats") < number(&said, " records from"), "{said}");

    // Put right, only what is missing is read.
    fs::write(at("cut.json.gz"), &whole).unwrap();
    fs::remove_file(at("people.avro")).unwrap();
    let again = place.backfill(&[text(dir.path())]);
    let (first, more) = (number(&said, " records from"), number(&again, " records from"));
    assert!(more > 0 && more < first, "{again}");
}
