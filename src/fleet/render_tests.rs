use super::*;
use serde_json::{Value, json};

fn awkward() -> NetworkEvent<'static> {
    NetworkEvent {
        timestamp: Ticks::parse("2026-03-01T10:20:30.12Z").unwrap(),
        device_id: "0a".into(),
        device_name: "srv-\"ü\u{1}\n-01",
        report_id: 638_999_803_770_463_703,
        action_type: "ConnectionSuccess".into(),
        remote_ip: "198.18.0.1",
        remote_ip_type: "Public".into(),
        remote_port: Some(443),
        remote_url: "",
        company: "Tab\tand \\ and 会社",
        product: "".into(),
        file_name: "a.exe".into(),
        folder_path: r"c:\a\b.exe".into(),
        command_line: "\"C:\\a b\\c.exe\" -x \r\n\u{1f}\u{7f}".into(),
        sha256: "ff".into(),
        account_name: "system".into(),
        account_domain: "nt authority".into(),
    }
}

fn read(record: &[u8]) -> Value {
    serde_json::from_slice(record).unwrap()
}

#[test]
fn every_column_that_is_read_comes_back_as_it_was() {
    let event = awkward();
    for padding in [false, true] {
        let mut out = Vec::new();
        render_network(&mut out, Ticks::parse("2026-03-01T10:23:00Z").unwrap(), "tenant", &event, padding);
        let record = read(&out);
        assert_eq!(record["time"], "2026-03-01T10:23:00.0000000Z");
        assert_eq!(record["tenantId"], "tenant");
        assert_eq!(record["category"], "AdvancedHunting-DeviceNetworkEvents");
        let p = &record["properties"];
        for (column, expected) in [
            ("Timestamp", json!("2026-03-01T10:20:30.12Z")),
            ("DeviceId", json!("0a")),
            ("DeviceName", json!(event.device_name)),
            ("ReportId", json!(638_999_803_770_463_703i64)),
            ("ActionType", json!("ConnectionSuccess")),
            ("RemoteIP", json!("198.18.0.1")),
            ("RemoteIPType", json!("Public")),
            ("RemotePort", json!(443)),
            ("RemoteUrl", Value::Null),
            ("InitiatingProcessVersionInfoCompanyName", json!(event.company)),
            ("InitiatingProcessVersionInfoProductName", Value::Null),
            ("InitiatingProcessFileName", json!("a.exe")),
            ("InitiatingProcessFolderPath", json!(event.folder_path.text())),
            ("InitiatingProcessCommandLine", json!(event.command_line.text())),
            ("InitiatingProcessSHA256", json!("ff")),
            ("InitiatingProcessAccountName", json!("system")),
            ("InitiatingProcessAccountDomain", json!("nt authority")),
        ] {
            assert_eq!(p.get(column), Some(&expected), "{column}");
        }
        if padding {
            let inner: Value = serde_json::from_str(p["AdditionalFields"].as_str().unwrap()).unwrap();
            assert_eq!(inner["conn_state"], "SF");
        }
    }
}

#[test]
fn a_row_of_nothing_is_nulls() {
    let mut out = Vec::new();
    render_network(&mut out, Ticks(0), "", &NetworkEvent::default(), true);
    let p = read(&out)["properties"].take();
    for column in ["DeviceName", "RemoteIP", "RemotePort", "RemoteIPType", "InitiatingProcessSHA256"] {
        assert_eq!(p.get(column), Some(&Value::Null), "{column}");
    }
    assert_eq!(p["ReportId"], 0);
}

#[test]
fn device_rows_come_back_full_and_partial() {
    let info = DeviceInfo {
        timestamp: Ticks(16_000_000_000_000_001),
        device_id: "0b",
        device_name: "srv-1",
        os_platform: "Linux",
        device_type: "Server",
    };
    for (info, padding) in [(info, true), (info, false), (DeviceInfo { os_platform: "", device_type: "", ..info }, true)] {
        let mut out = Vec::new();
        render_device(&mut out, info.timestamp.plus(Span::minutes(2)), "t", &info, padding);
        let record = read(&out);
        assert_eq!(record["category"], "AdvancedHunting-DeviceInfo");
        let p = &record["properties"];
        let null = |s: &str| if s.is_empty() { Value::Null } else { json!(s) };
        assert_eq!(p["OSPlatform"], null(info.os_platform));
        assert_eq!(p["DeviceType"], null(info.device_type));
        assert_eq!((&p["DeviceName"], &p["DeviceId"]), (&json!("srv-1"), &json!("0b")));
        assert_eq!(Ticks::parse(p["Timestamp"].as_str().unwrap()), Some(info.timestamp));
        assert_eq!(p["ReportId"], json!(637_355_968_000_000_001i64));
    }
}

#[test]
fn properties_depend_on_the_row_alone() {
    let render = |arrival| {
        let mut out = Vec::new();
        render_network(&mut out, Ticks(arrival), "t", &awkward(), true);
        let at = out.windows(13).position(|w| w == b"\"properties\":").unwrap();
        (out.split_off(at), out)
    };
    let ((a, head_a), (b, head_b)) = (render(1_000_000_000), render(9_000_000_001));
    assert!(a == b && head_a != head_b);
}

#[test]
fn a_message_holds_its_records() {
    let records = [br#"{"a":1}"#.to_vec(), br#"{"b":2}"#.to_vec()];
    assert_eq!(message(&records), br#"{"records":[{"a":1},{"b":2}]}"#);
    assert_eq!(message(&[]), br#"{"records":[]}"#);
}
