//! Hostile and doubtful input, rule by rule, as the table in [`decode`](crate::defender::decode) has it.

use super::{Limits, NO_CLOCK, Said, agree, at, decode, decode_bare};
use crate::defender::Reason;
use crate::defender::decode::{MAX_MESSAGE_BYTES, MAX_RECORD_DEPTH, MAX_RECORDS};
use crate::time::Span;

const GOOD: &str = r#"{"time":"2026-03-01T00:00:00Z","tenantId":"t","category":"AdvancedHunting-DeviceNetworkEvents","properties":{"Timestamp":"2026-03-01T00:00:00Z","DeviceName":"good"}}"#;

/// A network record with these pairs more in its row.
fn row(pairs: &str) -> String {
    GOOD.replace(r#""DeviceName":"good""#, pairs)
}

/// What becomes of a record between two good ones, which must count; `Ok` is its debug text.
fn between(record: &str) -> Result<String, Reason> {
    between_with(record, &NO_CLOCK)
}

fn between_with(record: &str, limits: &Limits) -> Result<String, Reason> {
    let message = format!(r#"{{"records":[{GOOD}, {record} ,{GOOD}]}}"#);
    let collect = decode(message.as_bytes(), limits);
    let [Said::Record { index: 0, .. }, said, Said::Record { index: 2, .. }] = &collect.said[..] else {
        panic!("siblings must count: {:?}", collect.said)
    };
    let bare = decode_bare(record.as_bytes(), limits);
    match said {
        Said::Record { index, record } => {
            assert_eq!(*index, 1);
            assert!(matches!(&bare.said[..], [Said::Record { index: 0, record: alone }] if alone == record));
            Ok(record.clone())
        }
        Said::Dead { index, reason, raw } => {
            assert_eq!((*index, raw.as_slice()), (Some(1), record.as_bytes()));
            assert_eq!(bare.said, [Said::Dead { index: Some(0), reason: *reason, raw: record.into() }]);
            assert!(collect.errors[0].len() < 400, "an error text is bounded: {}", collect.errors[0]);
            Err(*reason)
        }
    }
}

/// Asserts that the whole message is one dead letter, with its own bytes.
fn whole(bytes: &[u8], reason: Reason) -> String {
    let collect = decode(bytes, &NO_CLOCK);
    assert_eq!(collect.said, [Said::Dead { index: None, reason, raw: bytes.to_vec() }], "{}", String::from_utf8_lossy(bytes));
    collect.errors[0].clone()
}

#[test]
fn what_is_no_json_is_dead_as_a_whole_and_none_of_its_records_counts() {
    let message = format!(r#"{{"records":[{GOOD},{GOOD}]}}"#);
    for end in 1..message.len() {
        whole(&message.as_bytes()[..end], Reason::NotJson);
    }
    for rest in ["x", "{}", ",", "\0", "null"] {
        whole(format!("{message}{rest}").as_bytes(), Reason::NotJson);
    }
    for text in
        ["hello", "{", "}", "{records:[]}", "{'records':[]}", r#"{"records":[]"#, r#"{"records":[],}"#, r#"{"records":[1,]}"#, "\0", "NaN"]
    {
        whole(text.as_bytes(), Reason::NotJson);
    }
    // The fault stands behind good records, in what is skipped.
    for fault in [
        "01",
        "1.",
        ".5",
        "+1",
        "1e",
        "-",
        "tru",
        "nulll",
        "\"\n\"",
        "\"\\x\"",
        "\"\\u12g4\"",
        "\"\\u12",
        "[1 2]",
        "{\"a\" 1}",
        "{\"a\":1 \"b\":2}",
        "{1:2}",
        "[,]",
        "{,}",
    ] {
        whole(message.replace("]}", &format!("],\"x\":{fault}}}")).as_bytes(), Reason::NotJson);
        whole(message.replace("\"good\"", fault).as_bytes(), Reason::NotJson);
    }
    assert_eq!(whole(br#"{"records":[1,}"#, Reason::NotJson), "not JSON: expected a value at byte 14");
    assert_eq!(whole(br#"{"records":["#, Reason::NotJson), "not JSON: it ends in the middle of a value at byte 12");
}

#[test]
fn an_empty_message_is_said_to_be_empty() {
    for bytes in [&b""[..], b" ", b"\r\n\t ", b"\xEF\xBB\xBF", b"\xEF\xBB\xBF\n"] {
        whole(bytes, Reason::Empty);
        assert_eq!(decode_bare(bytes, &NO_CLOCK).said, [Said::Dead { index: None, reason: Reason::Empty, raw: bytes.to_vec() }]);
    }
}

#[test]
fn a_message_needs_an_array_of_records() {
    for text in ["[]", "1", "\"x\"", "null", "{}", r#"{"records":null}"#, r#"{"Records":[]}"#, GOOD] {
        whole(text.as_bytes(), Reason::NoRecords);
    }
    for value in ["{}", "1", "\"x\"", "true"] {
        whole(format!(r#"{{"records":{value}}}"#).as_bytes(), Reason::RecordsNotArray);
    }
    assert!(decode(br#"{"records":[]}"#, &NO_CLOCK).said.is_empty());
    assert!(decode(b" { \"a\" : 1 , \"records\" : [ ] } \r\n", &NO_CLOCK).said.is_empty());
}

#[test]
fn invalid_utf8_is_dead_as_a_whole_wherever_it_stands() {
    for fault in [&b"\xFF"[..], b"\xC0\x80", b"\xED\xA0\x80", b"\xF4\x90\x80\x80", b"\xE2\x82"] {
        let message = format!(r#"{{"records":[{}],"x":"@"}}"#, row(r#""Other":"@""#));
        let parts: Vec<&[u8]> = message.as_bytes().split(|c| *c == b'@').collect();
        let error = whole(&[parts[0], fault, parts[1], parts[2]].concat(), Reason::InvalidUtf8);
        assert_eq!(error, format!("not UTF-8 at byte {}", parts[0].len()));
        whole(&[parts[0], parts[1], fault, parts[2]].concat(), Reason::InvalidUtf8);
    }
}

#[test]
fn elements_that_are_no_objects_are_dead_alone() {
    for element in ["null", "1", "\"{}\"", "[{}]", "true", "-1.5e+3"] {
        assert_eq!(between(element), Err(Reason::RecordNotObject), "{element}");
    }
    assert_eq!(between("{}"), Err(Reason::MissingTime));
}

#[test]
fn nesting_is_bounded_in_records_and_harmless_outside() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let nested = |levels: usize| format!("{}1{}", open.repeat(levels), close.repeat(levels));
        assert!(between(&row(&format!(r#""AdditionalFields":{}"#, nested(MAX_RECORD_DEPTH - 2)))).is_ok());
        assert_eq!(between(&row(&format!(r#""AdditionalFields":{}"#, nested(MAX_RECORD_DEPTH - 1)))), Err(Reason::TooDeep));
        for levels in [10_000, 500_000] {
            assert_eq!(between(&row(&format!(r#""AdditionalFields":{}"#, nested(levels)))), Err(Reason::TooDeep));
            assert_eq!(between(&GOOD.replacen('{', &format!(r#"{{"x":{},"#, nested(levels)), 1)), Err(Reason::TooDeep));
            whole(nested(levels).as_bytes(), Reason::NoRecords);
            whole(open.repeat(levels).as_bytes(), Reason::NotJson);
            let outside = format!(r#"{{"x":{},"records":[{GOOD}]}}"#, nested(levels));
            assert!(matches!(decode(outside.as_bytes(), &NO_CLOCK).said[..], [Said::Record { index: 0, .. }]));
        }
    }
}

#[test]
fn long_strings_are_accepted_and_long_messages_are_not() {
    let long = "x".repeat(1 << 20);
    assert!(between(&row(&format!(r#""InitiatingProcessCommandLine":"{long}""#))).unwrap().contains(&long));
    assert!(
        between(&row(&format!(r#""InitiatingProcessCommandLine":"{}""#, "\\u0041".repeat(1 << 18))))
            .unwrap()
            .contains(&"A".repeat(1 << 18))
    );
    assert_eq!(between(&GOOD.replace("2026-03-01T", &long)), Err(Reason::BadTime), "the error text is cut");
    let mut bytes = vec![b' '; MAX_MESSAGE_BYTES + 1];
    assert_eq!(decode(&bytes, &NO_CLOCK).said, [Said::Dead { index: None, reason: Reason::TooLarge, raw: bytes.clone() }]);
    bytes.pop();
    assert!(matches!(decode(&bytes, &NO_CLOCK).said[..], [Said::Dead { reason: Reason::Empty, .. }]));
}

#[test]
fn more_elements_than_are_read_are_one_dead_letter() {
    let records = |n: u32, element: &str| format!("[{}]", vec![element; n as usize].join(","));
    let message = |records: &str| format!(r#"{{"records":{records}}}"#);
    let most = decode(message(&records(MAX_RECORDS, "1")).as_bytes(), &NO_CLOCK).said;
    assert!(most.len() == MAX_RECORDS as usize && matches!(most.last(), Some(Said::Dead { index: Some(_), .. })));
    for (n, element) in [(MAX_RECORDS + 1, "1"), (MAX_RECORDS + 1, "{}"), (1_000_000, "1"), (300_000, "[[]]")] {
        agree(message(&records(n, element)).as_bytes(), &NO_CLOCK);
        let error = whole(message(&records(n, element)).as_bytes(), Reason::TooManyRecords);
        assert_eq!(error, format!("`records`: {n} elements are more than the 32768 that are read"));
    }
    // Good ones do not count either, and a fault behind the last that is read is seen.
    whole(message(&records(MAX_RECORDS + 1, GOOD)).as_bytes(), Reason::TooManyRecords);
    whole(message(&records(MAX_RECORDS + 1, "1").replace("1]", "01]")).as_bytes(), Reason::NotJson);
    // Of keys that come twice, the last one holds.
    let twice = format!(r#"{{"records":{},"records":[{GOOD}]}}"#, records(MAX_RECORDS + 1, "1"));
    assert!(matches!(decode(twice.as_bytes(), &NO_CLOCK).said[..], [Said::Record { index: 0, .. }]));
    whole(format!(r#"{{"records":[{GOOD}],"records":{}}}"#, records(MAX_RECORDS + 1, "1")).as_bytes(), Reason::TooManyRecords);
}

#[test]
fn numbers_of_any_length_and_size_are_looked_at_once_and_never_computed() {
    let digits = "7".repeat(100_000);
    let long = [
        digits.clone(),
        format!("-{digits}"),
        format!("0.{digits}"),
        format!("{digits}.{digits}e-{digits}"),
        format!("1e{digits}"),
        "1e999999".to_owned(),
        "-1e-999999".to_owned(),
        "1E+2147483648".to_owned(),
    ];
    for number in &long {
        let shown = |pair: String| {
            agree(row(&pair).as_bytes(), &NO_CLOCK);
            between(&row(&pair))
        };
        assert_eq!(shown(format!(r#""RemotePort":{number}"#)), Err(Reason::BadPort));
        assert_eq!(shown(format!(r#""ReportId":{number}"#)), Err(Reason::BadReportId));
        assert_eq!(shown(format!(r#""DeviceName":{number}"#)), Err(Reason::WrongType));
        // Where a number says nothing, any is one.
        assert!(shown(format!(r#""LocalPort":{number},"AdditionalFields":[{number}]"#)).is_ok());
        assert_eq!(between(number), Err(Reason::RecordNotObject));
        whole(format!(r#"{{"records":{number}}}"#).as_bytes(), Reason::RecordsNotArray);
        whole(number.as_bytes(), Reason::NoRecords);
    }
    // Leading zeros are no number, however many; a million digits that break off are no message.
    whole(format!(r#"{{"records":[{}1]}}"#, "0".repeat(100_000)).as_bytes(), Reason::NotJson);
    whole("1".repeat(1_000_000).as_bytes(), Reason::NoRecords);
    whole(format!(r#"{{"records":[{}."#, "1".repeat(1_000_000)).as_bytes(), Reason::NotJson);
}

#[test]
fn another_type_where_a_string_belongs_is_named() {
    for pair in [r#""DeviceName":5"#, r#""RemoteUrl":{}"#, r#""RemoteIP":[1]"#, r#""Timestamp":17"#, r#""ActionType":false"#] {
        assert_eq!(between(&row(pair)), Err(Reason::WrongType), "{pair}");
    }
    for pair in [r#""AdditionalFields":{"a":1}"#, r#""AdditionalFields":"{}""#, r#""LocalPort":"x""#, r#""OSPlatform":5"#, r#""New":[{}]"#]
    {
        assert!(between(&row(pair)).is_ok(), "{pair}");
    }
    for (from, to) in
        [(r#""tenantId":"t""#, r#""tenantId":5"#), (r#""time":""#, r#""time":5,"x":""#), ("{\"Timestamp\"", "[],\"y\":{\"Timestamp\"")]
    {
        assert_eq!(between(&GOOD.replace(from, to)), Err(Reason::WrongType), "{to}");
    }
    assert_eq!(between(&GOOD.replace("\"AdvancedHunting-DeviceNetworkEvents\"", "true")), Err(Reason::WrongType));
    let errors = decode(format!(r#"{{"records":[{}]}}"#, row(r#""RemotePort":"443""#)).as_bytes(), &NO_CLOCK).errors;
    assert_eq!(errors, ["`RemotePort`: expected an integer or null, found a string"]);
}

#[test]
fn ports_and_report_ids_are_integers_in_range() {
    for (value, port) in [("0", "Some(0)"), ("-0", "Some(0)"), ("65535", "Some(65535)"), ("null", "None")] {
        assert!(between(&row(&format!(r#""RemotePort":{value}"#))).unwrap().contains(&format!("remote_port: {port}")), "{value}");
    }
    for value in ["65536", "-1", "443.0", "4.43e2", "1e999", "99999999999999999999"] {
        assert_eq!(between(&row(&format!(r#""RemotePort":{value}"#))), Err(Reason::BadPort), "{value}");
    }
    for value in ["\"443\"", "\"\"", "true", "[]", "{}"] {
        assert_eq!(between(&row(&format!(r#""RemotePort":{value}"#))), Err(Reason::WrongType), "{value}");
    }
    for value in ["637812345678901235", "9223372036854775807", "-9223372036854775808"] {
        assert!(between(&row(&format!(r#""ReportId":{value}"#))).unwrap().contains(&format!("report_id: {value}")), "{value}");
    }
    assert!(between(&row(r#""ReportId":null"#)).unwrap().contains("report_id: 0"));
    for value in ["9223372036854775808", "1.5", "1e3"] {
        assert_eq!(between(&row(&format!(r#""ReportId":{value}"#))), Err(Reason::BadReportId), "{value}");
    }
}

#[test]
fn times_must_be_there_and_readable_in_any_year() {
    let time = |value: &str| GOOD.replacen("\"2026-03-01T00:00:00Z\"", value, 1);
    let timestamp = |value: &str| row(&format!(r#""Timestamp":{value}"#));
    for value in ["null", "\"\""] {
        assert_eq!(between(&time(value)), Err(Reason::MissingTime), "{value}");
        assert_eq!(between(&timestamp(value)), Err(Reason::MissingTimestamp), "{value}");
    }
    assert_eq!(between(&GOOD.replace("\"time\"", "\"Time\"")), Err(Reason::MissingTime));
    assert_eq!(between(&GOOD.replace("Timestamp", "timestamp")), Err(Reason::MissingTimestamp));
    for value in [
        "\"yesterday\"",
        "\"2026-02-30T00:00:00Z\"",
        "\"2026-03-01\"",
        "\"0000-01-01T00:00:00Z\"",
        "\"10000-01-01T00:00:00Z\"",
        r#""\u0000""#,
    ] {
        assert_eq!(between(&time(value)), Err(Reason::BadTime), "{value}");
        assert_eq!(between(&timestamp(value)), Err(Reason::BadTimestamp), "{value}");
    }
    for value in [
        "\"0001-01-01T00:00:00Z\"",
        "\"9999-12-31T23:59:59.9999999Z\"",
        "\"2026-03-01T00:00:00.0000001\"",
        r#""\u0032026-03-01T00:00:00Z""#,
    ] {
        assert!(between(&time(value)).is_ok(), "{value}");
        assert!(between(&timestamp(value)).is_ok(), "{value}");
    }
}

#[test]
fn an_envelope_ahead_of_the_independent_clock_is_dead() {
    let clock = at("2026-03-01T00:00:00Z");
    let limits = Limits { independent_clock: Some(clock), max_clock_skew: Span::hours(1) };
    let time = |value: &str| GOOD.replacen("2026-03-01T00:00:00Z", value, 1);
    assert!(between_with(&time("2026-03-01T01:00:00Z"), &limits).is_ok());
    assert_eq!(between_with(&time("2026-03-01T01:00:00.0000001Z"), &limits), Err(Reason::TimeAhead));
    assert_eq!(between_with(&time("9999-12-31T23:59:59Z"), &limits), Err(Reason::TimeAhead));
    assert!(between_with(&time("0001-01-01T00:00:00Z"), &limits).is_ok());
    let skipped = time("2027-01-01T00:00:00Z").replace("NetworkEvents", "Events");
    assert_eq!(between_with(&skipped, &limits), Err(Reason::TimeAhead), "a skipped record moves the clock too");
    assert!(between_with(&row(r#""Timestamp":"9999-01-01T00:00:00Z""#), &limits).is_ok(), "event time is the detector's to judge");
}

#[test]
fn envelopes_lack_what_they_may_lack_and_no_more() {
    assert!(between(&GOOD.replace(r#""tenantId":"t","#, "")).unwrap().contains("tenant: \"\""));
    assert!(between(&GOOD.replace(r#""tenantId":"t""#, r#""tenantId":null"#)).unwrap().contains("tenant: \"\""));
    for category in ["null", "\"\""] {
        assert_eq!(between(&GOOD.replace("\"AdvancedHunting-DeviceNetworkEvents\"", category)), Err(Reason::MissingCategory));
    }
    assert_eq!(between(&GOOD.replace("category", "kategory")), Err(Reason::MissingCategory));
    assert_eq!(between(&GOOD.replace("properties", "Properties")), Err(Reason::MissingProperties));
    assert_eq!(between(&GOOD.replace("properties\":", "properties\":null,\"x\":")), Err(Reason::MissingProperties));
    for category in ["AdvancedHunting-Devicenetworkevents", "DeviceNetworkEvents", "AdvancedHunting-DeviceNetworkEvents "] {
        let said = between(&GOOD.replace("AdvancedHunting-DeviceNetworkEvents", category)).unwrap();
        assert!(said.contains(&format!("Skipped({category:?})")), "matched exactly: {said}");
    }
    assert!(between(r#"{"category":"AdvancedHunting-AlertInfo","time":"2026-03-01T00:00:00Z"}"#).unwrap().contains("Skipped"));
}

#[test]
fn of_keys_that_come_twice_the_last_one_holds() {
    let said = between(&row(r#""DeviceName":7,"DeviceName":"second""#)).unwrap();
    assert!(said.contains("device_name: \"second\""));
    assert!(between(&row(r#""DeviceName":"first","DeviceName":null"#)).unwrap().contains("device_name: \"\""));
    assert!(between(&row(r#""DeviceName":"first","Device\u004eame":"second""#)).unwrap().contains("device_name: \"second\""));
    assert!(between(&GOOD.replacen('{', r#"{"time":5,"#, 1)).is_ok());
    let forgotten = GOOD.replace(r#""properties""#, r#""properties":{"RemoteIP":"1.2.3.4"},"properties""#);
    assert!(between(&forgotten).unwrap().contains("remote_ip: \"\""));
    let message = format!(r#"{{"records":[{GOOD},{GOOD},5],"re\u0063ords":[{}]}}"#, row(r#""DeviceName":"\u006cast""#));
    assert!(matches!(&decode(message.as_bytes(), &NO_CLOCK).said[..], [Said::Record { index: 0, record }] if record.contains("\"last\"")));
    whole(format!(r#"{{"records":[{GOOD}],"records":5}}"#).as_bytes(), Reason::RecordsNotArray);
    whole(format!(r#"{{"records":[{GOOD}],"records":null}}"#).as_bytes(), Reason::NoRecords);
}

#[test]
fn marks_nuls_and_lone_surrogates_are_accepted_by_rule() {
    let message = format!("\u{feff}{{\"records\":[{GOOD},{}]}}", row(r#""DeviceName":"\u0061""#));
    let said = decode(message.as_bytes(), &NO_CLOCK).said;
    assert!(matches!(&said[..], [Said::Record { .. }, Said::Record { record, .. }] if record.contains("device_name: \"a\"")));
    whole(format!("\u{feff}{message}").as_bytes(), Reason::NotJson);
    assert!(matches!(decode_bare(format!("\u{feff}{GOOD}").as_bytes(), &NO_CLOCK).said[..], [Said::Record { .. }]));

    assert!(between(&row(r#""DeviceName":"a\u0000b""#)).unwrap().contains(r#"device_name: "a\0b""#));
    for (escaped, meaning) in
        [(r"\ud800", "\u{fffd}"), (r"\udfffx", "\u{fffd}x"), (r"\ud800\ud83d\ude00", "\u{fffd}😀"), (r"\ud800\n", "\u{fffd}\n")]
    {
        let said = between(&row(&format!(r#""DeviceName":"{escaped}""#))).unwrap();
        assert!(said.contains(&format!("device_name: {meaning:?}")), "{said}");
    }
    assert!(between(&row(r#""Other":"\ud800","\udc00":1"#)).is_ok(), "also in what is skipped");
}
