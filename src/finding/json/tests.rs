//! The form of a finding, held against its published schema; `example` is the finding that other tests use too.

use super::*;
use crate::finding::{ChangeKind, FindingId, OpeningEvent};
use proptest::prelude::*;
use serde_json::Value;

/// The finding that the documents show.
pub(crate) fn example() -> Change {
    let at = Ticks::parse("2026-03-01T10:24:11.5Z").unwrap();
    let first = Ticks::parse("2026-03-01T10:20:30.1234567Z").unwrap();
    Change {
        id: FindingId([0xab; 16]),
        revision: 1,
        kind: ChangeKind::Opened,
        at,
        tenant: "72f988bf-0000-4000-8000-2d7cd011db47".into(),
        device_name: "srv-sql-03.corp.example".into(),
        device_id: "8ca1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3".into(),
        os_platform: "WindowsServer2019".into(),
        device_type: "Server".into(),
        remote_ip: "203.0.113.7".into(),
        remote_port: Some(443),
        urls: vec!["update.acme.example".into()],
        urls_truncated: false,
        first_seen: first,
        last_seen: first,
        count: 1,
        prevalence: 1,
        vendors: vec![("Acme Backup".into(), 3)],
        previous_seen: None,
        observed_since: Ticks::parse("2026-01-01T00:00:00Z").unwrap(),
        device_since: Ticks::parse("2026-01-02T00:00:00Z").unwrap(),
        gap: None,
        evicted: None,
        partial: None,
        late: false,
        suppressed_by: None,
        cause: "",
        event: OpeningEvent {
            report_id: 638_412_345_678_901_234,
            action: "ConnectionSuccess".into(),
            file_name: "backupd.exe".into(),
            folder_path: r"c:\program files\acme\backupd.exe".into(),
            command_line: r#""backupd.exe" --service"#.into(),
            sha256: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855".into(),
            account: r"nt authority\system".into(),
            company: "Acme Backup".into(),
            product: "Acme Backup Agent".into(),
        },
    }
}

fn schema() -> jsonschema::Validator {
    let schema: Value = serde_json::from_str(include_str!("../../../docs/finding.schema.json")).unwrap();
    jsonschema::draft202012::meta::validate(&schema).expect("the schema is a schema");
    jsonschema::draft202012::new(&schema).unwrap()
}

fn json(change: &Change) -> Value {
    serde_json::from_str(&to_json(change, &Settings::default(), &Privileged::none())).unwrap()
}

#[test]
fn the_whole_text_of_one_change() {
    let expected = concat!(
        r#"{"schema":"firstseen.finding/1","finding_id":"abababababababababababababababab","revision":1,"change":"opened","#,
        r#""at":"2026-03-01T10:24:11.5Z","tenant_id":"72f988bf-0000-4000-8000-2d7cd011db47","#,
        r#""device":{"name":"srv-sql-03.corp.example","id":"8ca1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3","os_platform":"WindowsServer2019","device_type":"Server","privileged":false},"#,
        r#""remote":{"ip":"203.0.113.7","port":443,"urls":["update.acme.example"]},"#,
        r#""first_seen":"2026-03-01T10:20:30.1234567Z","last_seen":"2026-03-01T10:20:30.1234567Z","count":1,"#,
        r#""prevalence":{"devices":1,"window":"5d","threshold":6},"vendors":[{"company":"Acme Backup","servers":3}],"#,
        r#""baseline":{"observed_since":"2026-01-01T00:00:00Z","device_since":"2026-01-02T00:00:00Z","lookback":"14d"},"late":false,"severity":"medium","attack":["T1195.002","T1071"],"#,
        r#""reason":"srv-sql-03.corp.example (server, Windows Server 2019) ran backupd.exe by Acme Backup (seen on 3 servers) and connected for the first time in 14 days to 203.0.113.7:443 (update.acme.example), which only 1 device in the fleet contacted in 5 days.","#,
        r#""event":{"action":"ConnectionSuccess","file_name":"backupd.exe","folder_path":"c:\\program files\\acme\\backupd.exe","command_line":"\"backupd.exe\" --service","#,
        r#""sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","account":"nt authority\\system","company":"Acme Backup","product":"Acme Backup Agent","report_id":638412345678901234}}"#,
    );
    assert_eq!(to_json(&example(), &Settings::default(), &Privileged::none()), expected);
}

#[test]
fn key_and_headers() {
    let change = Change { kind: ChangeKind::Retracted, revision: 7, ..example() };
    assert_eq!(key(&change), "abababababababababababababababab");
    let expected = [("change", "retracted".to_owned()), ("revision", "7".to_owned()), ("finding-format", "firstseen".to_owned())];
    assert_eq!(headers(&change), expected);
}

#[test]
fn unknown_values_are_absent() {
    let mut bare = Change { device_id: String::new(), remote_port: None, vendors: vec![(String::new(), 2)], ..example() };
    bare.event = OpeningEvent::default();
    let value = json(&bare);
    assert!(value["device"].get("id").is_none() && value["remote"].get("port").is_none());
    assert_eq!(value["vendors"], serde_json::json!([{"servers": 2}]));
    assert_eq!(value["event"], serde_json::json!({}));
    schema().validate(&value).unwrap();
}

#[test]
fn privileged_servers_are_marked() {
    let text = to_json(&example(), &Settings::default(), &Privileged::new(&["srv-*".into()]).unwrap());
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&value["device"]["privileged"], &value["severity"]), (&Value::Bool(true), &Value::from("high")));
    schema().validate(&value).unwrap();
}

#[test]
fn the_schema_refuses_what_is_not_a_finding() {
    let (schema, good) = (schema(), json(&example()));
    schema.validate(&good).unwrap();
    for path in ["", "/device", "/remote", "/prevalence", "/baseline", "/event", "/vendors/0"] {
        let mut bad = good.clone();
        bad.pointer_mut(path).unwrap()["surplus"] = Value::from(1);
        assert!(!schema.is_valid(&bad), "a surplus key in {path:?}");
    }
    for key in
        ["schema", "finding_id", "revision", "change", "at", "device", "remote", "first_seen", "last_seen", "count", "reason", "severity"]
    {
        let mut bad = good.clone();
        bad.as_object_mut().unwrap().remove(key);
        assert!(!schema.is_valid(&bad), "without {key}");
    }
    for (path, value) in [
        ("/at", "yesterday"),
        ("/device/name", ""),
        ("/change", "deleted"),
        ("/severity", "critical"),
        ("/remote/port", "443"),
        ("/prevalence/window", "5 days"),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(path).unwrap() = Value::from(value);
        assert!(!schema.is_valid(&bad), "{path} = {value}");
    }
}

fn hostile() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => any::<String>(),
        1 => Just(String::new()),
        1 => "[\\x00-\\x1f\u{202a}-\u{202e}\u{2066}-\u{2069}\u{feff}\"\\\\/]{0,40}",
        1 => (any::<char>(), 1usize..65_536).prop_map(|(c, n)| String::from(c).repeat(n / c.len_utf8() + 1)),
    ]
}

fn instant() -> impl Strategy<Value = Ticks> {
    (-621_355_968_000_000_000i64..2_534_022_144_000_000_000).prop_map(Ticks)
}

fn changes() -> impl Strategy<Value = Change> {
    let kind = prop_oneof![Just(ChangeKind::Opened), Just(ChangeKind::Updated), Just(ChangeKind::Retracted), Just(ChangeKind::Closed)];
    let texts = prop::collection::vec(hostile(), 16);
    let times = (instant(), instant(), instant(), proptest::option::of(instant()), instant());
    let numbers = (any::<[u8; 16]>(), 1u32.., proptest::option::of(any::<u16>()), 1u64.., any::<u64>(), any::<i64>());
    let lists = (prop::collection::vec(hostile(), 0..4), prop::collection::vec((hostile(), any::<u64>()), 0..3));
    (kind, texts, times, numbers, lists, any::<(bool, bool)>()).prop_map(|(kind, mut texts, times, numbers, lists, flags)| {
        let mut text = move || texts.pop().unwrap();
        Change {
            id: FindingId(numbers.0),
            revision: numbers.1,
            kind,
            at: times.0,
            tenant: text(),
            device_name: text(),
            device_id: text(),
            os_platform: text(),
            device_type: text(),
            remote_ip: text(),
            remote_port: numbers.2,
            urls: lists.0,
            urls_truncated: flags.0,
            first_seen: times.1,
            last_seen: times.2,
            count: numbers.3,
            prevalence: numbers.4,
            vendors: lists.1,
            previous_seen: times.3,
            observed_since: times.4,
            device_since: times.0,
            evicted: Some(times.4).filter(|at| at.0 % 3 == 0),
            partial: Some(times.4).filter(|at| at.0 % 5 == 0),
            gap: Some(times.4).filter(|at| at.0 % 2 == 0),
            late: flags.1,
            suppressed_by: flags.0.then(|| "rule-1".into()),
            cause: "the destination became common",
            event: OpeningEvent {
                report_id: numbers.5,
                action: text(),
                file_name: text(),
                folder_path: text(),
                command_line: text(),
                sha256: text(),
                account: text(),
                company: text(),
                product: text(),
            },
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn every_change_is_one_line_that_the_schema_accepts(change in changes()) {
        let text = to_json(&change, &Settings::default(), &Privileged::none());
        prop_assert!(!text.bytes().any(|b| b < 0x20));
        let value: Value = serde_json::from_str(&text).unwrap();
        if let Err(e) = schema().validate(&value) {
            return Err(TestCaseError::fail(e.to_string()));
        }
        prop_assert_eq!(value["device"].get("name").and_then(Value::as_str).unwrap_or(""), &change.device_name);
        prop_assert_eq!(value["event"].get("command_line").and_then(Value::as_str).unwrap_or(""), &change.event.command_line);
        let reason = value["reason"].as_str().unwrap();
        prop_assert!(!reason.chars().any(super::super::reason::is_unsafe), "{}", reason);
        prop_assert!(reason.chars().count() < 5000);
    }
}
