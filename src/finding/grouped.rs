//! The hunting query's grouped form: one record a device with the set of its rows, as the query's last two lines make it. The last record
//! of a key is what holds; `docs/grouped.schema.json` is the schema.

use crate::finding::Change;
use crate::time::Ticks;
use serde::Serialize;

/// The schema's name and version, in every record.
pub const SCHEMA: &str = "firstseen.device/1";

/// The record's key: tenant and device name.
#[must_use]
pub fn key(tenant: &str, device: &str) -> String {
    format!("{tenant}/{device}")
}

/// The record's value at `at`: the open findings of one device, in the order of address and port. None are left in `details` once all are
/// over.
#[must_use]
pub fn to_json(tenant: &str, device: &str, at: Ticks, findings: &[Change]) -> String {
    let details = findings.iter().map(|change| Detail {
        remote_ip: &change.remote_ip,
        remote_port: change.remote_port,
        count: change.count,
        prevalence: change.prevalence,
        urls: &change.urls,
        urls_truncated: change.urls_truncated,
        finding_id: change.id.to_string(),
        first_seen: change.first_seen,
        last_seen: change.last_seen,
        late: change.late,
        suppressed_by: change.suppressed_by.as_deref(),
    });
    let known = |text| Some(text).filter(|text: &&str| !text.is_empty());
    let record = Record { schema: SCHEMA, tenant_id: known(tenant), device_name: known(device), at, details: details.collect() };
    serde_json::to_string(&record).expect("INV: a record holds only texts, numbers and booleans, which always serialise")
}

#[derive(Serialize)]
struct Record<'a> {
    schema: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device_name: Option<&'a str>,
    at: Ticks,
    details: Vec<Detail<'a>>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde's skip_serializing_if wants")]
fn is_false(b: &bool) -> bool {
    !*b
}

#[derive(Serialize)]
struct Detail<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    remote_ip: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote_port: Option<u16>,
    count: u64,
    prevalence: u64,
    urls: &'a [String],
    #[serde(skip_serializing_if = "is_false")]
    urls_truncated: bool,
    finding_id: String,
    first_seen: Ticks,
    last_seen: Ticks,
    late: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    suppressed_by: Option<&'a str>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::json::tests::example;
    use serde_json::Value;

    #[test]
    fn a_record_is_the_querys_row_of_a_device() {
        let two =
            [example(), Change { remote_port: None, urls: vec![], urls_truncated: true, suppressed_by: Some("r".into()), ..example() }];
        let text = to_json("t", "srv-sql-03.corp.example", example().at, &two);
        assert_eq!(
            text,
            concat!(
                r#"{"schema":"firstseen.device/1","tenant_id":"t","device_name":"srv-sql-03.corp.example","at":"2026-03-01T10:24:11.5Z","details":["#,
                r#"{"remote_ip":"203.0.113.7","remote_port":443,"count":1,"prevalence":1,"urls":["update.acme.example"],"#,
                r#""finding_id":"abababababababababababababababab","first_seen":"2026-03-01T10:20:30.1234567Z","last_seen":"2026-03-01T10:20:30.1234567Z","late":false},"#,
                r#"{"remote_ip":"203.0.113.7","count":1,"prevalence":1,"urls":[],"urls_truncated":true,"#,
                r#""finding_id":"abababababababababababababababab","first_seen":"2026-03-01T10:20:30.1234567Z","last_seen":"2026-03-01T10:20:30.1234567Z","late":false,"suppressed_by":"r"}]}"#,
            )
        );
        let schema: Value = serde_json::from_str(include_str!("../../docs/grouped.schema.json")).unwrap();
        jsonschema::draft202012::meta::validate(&schema).expect("the schema is a schema");
        let schema = jsonschema::draft202012::new(&schema).unwrap();
        for text in [text, to_json("", "", example().at, &[])] {
            let value: Value = serde_json::from_str(&text).unwrap();
            schema.validate(&value).unwrap();
            let mut more = value;
            more["surplus"] = Value::from(1);
            assert!(!schema.is_valid(&more));
        }
        assert_eq!(key("t", "d"), "t/d");
    }
}
