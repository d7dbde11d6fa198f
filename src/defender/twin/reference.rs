//! The decoder once more, slow and plain: `serde_json` takes the text apart, maps hold everything, the rules of
//! [`decode`](crate::defender::decode) stand as written. It exists only to be compared with.

use super::Said;
use crate::defender::decode::{Limits, MAX_MESSAGE_BYTES, MAX_RECORD_DEPTH, MAX_RECORDS};
use crate::defender::event::{Body, DeviceInfo, NetworkEvent, Record};
use crate::defender::reason::Reason;
use crate::time::Ticks;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::collections::HashMap;

pub(in crate::defender) fn message(bytes: &[u8], limits: &Limits) -> Vec<Said> {
    let dead = |reason| vec![Said::Dead { index: None, reason, raw: bytes.to_vec() }];
    let text = match text(bytes) {
        Ok(text) => text,
        Err(reason) => return dead(reason),
    };
    let Ok(Pairs(mut top)) = serde_json::from_str::<Pairs<'_>>(text) else { return dead(Reason::NoRecords) };
    match top.remove("records").map_or("null", RawValue::get) {
        "null" => dead(Reason::NoRecords),
        array if array.starts_with('[') => {
            let elements = serde_json::from_str::<Vec<&RawValue>>(array).unwrap();
            if elements.len() > MAX_RECORDS as usize {
                return dead(Reason::TooManyRecords);
            }
            elements.into_iter().zip(0..).map(|(raw, index)| element(raw.get(), index, limits)).collect()
        }
        _ => dead(Reason::RecordsNotArray),
    }
}

pub(in crate::defender) fn bare(bytes: &[u8], limits: &Limits) -> Vec<Said> {
    match text(bytes) {
        Ok(text) => vec![element(serde_json::from_str::<&RawValue>(text).unwrap().get(), 0, limits)],
        Err(reason) => vec![Said::Dead { index: None, reason, raw: bytes.to_vec() }],
    }
}

fn text(bytes: &[u8]) -> Result<&str, Reason> {
    if bytes.len() > MAX_MESSAGE_BYTES {
        return Err(Reason::TooLarge);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| Reason::InvalidUtf8)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim_matches([' ', '\t', '\r', '\n']).is_empty() {
        return Err(Reason::Empty);
    }
    serde_json::from_str::<IgnoredAny>(text).map(|_| text).map_err(|_| Reason::NotJson)
}

fn element(raw: &str, index: u32, limits: &Limits) -> Said {
    match record(raw, index, limits) {
        Ok(said) => said,
        Err(reason) => Said::Dead { index: Some(index), reason, raw: raw.as_bytes().to_vec() },
    }
}

fn record(raw: &str, index: u32, limits: &Limits) -> Result<Said, Reason> {
    let Ok(Pairs(envelope)) = serde_json::from_str::<Pairs<'_>>(raw) else { return Err(Reason::RecordNotObject) };
    if depth(raw) > MAX_RECORD_DEPTH {
        return Err(Reason::TooDeep);
    }
    let arrival = instant(&envelope, "time", Reason::MissingTime, Reason::BadTime)?;
    if limits.independent_clock.is_some_and(|clock| arrival > clock.plus(limits.max_clock_skew)) {
        return Err(Reason::TimeAhead);
    }
    let tenant = string(&envelope, "tenantId")?;
    let category = string(&envelope, "category")?;
    let row = || match envelope.get("properties").map_or("null", |raw| raw.get()) {
        "null" => Err(Reason::MissingProperties),
        raw => serde_json::from_str::<Pairs<'_>>(raw).map(|Pairs(row)| row).map_err(|_| Reason::WrongType),
    };
    let said = |body: Body<'_>| {
        let record = Record { arrival, tenant: &tenant, body };
        Said::Record { index, record: format!("{record:?}") }
    };
    match category.as_str() {
        "" => Err(Reason::MissingCategory),
        "AdvancedHunting-DeviceNetworkEvents" => {
            let row = row()?;
            let timestamp = instant(&row, "Timestamp", Reason::MissingTimestamp, Reason::BadTimestamp)?;
            let report_id = integer(&row, "ReportId", Reason::BadReportId)?.unwrap_or(0);
            let remote_port =
                integer(&row, "RemotePort", Reason::BadPort)?.map(|n| u16::try_from(n).map_err(|_| Reason::BadPort)).transpose()?;
            Ok(said(Body::Network(NetworkEvent {
                timestamp,
                report_id,
                remote_port,
                device_id: (&string(&row, "DeviceId")?).into(),
                device_name: &string(&row, "DeviceName")?,
                action_type: (&string(&row, "ActionType")?).into(),
                remote_ip: &string(&row, "RemoteIP")?,
                remote_ip_type: (&string(&row, "RemoteIPType")?).into(),
                remote_url: &string(&row, "RemoteUrl")?,
                company: &string(&row, "InitiatingProcessVersionInfoCompanyName")?,
                product: (&string(&row, "InitiatingProcessVersionInfoProductName")?).into(),
                file_name: (&string(&row, "InitiatingProcessFileName")?).into(),
                folder_path: (&string(&row, "InitiatingProcessFolderPath")?).into(),
                command_line: (&string(&row, "InitiatingProcessCommandLine")?).into(),
                sha256: (&string(&row, "InitiatingProcessSHA256")?).into(),
                account_name: (&string(&row, "InitiatingProcessAccountName")?).into(),
                account_domain: (&string(&row, "InitiatingProcessAccountDomain")?).into(),
            })))
        }
        "AdvancedHunting-DeviceInfo" => {
            let row = row()?;
            Ok(said(Body::Device(DeviceInfo {
                timestamp: instant(&row, "Timestamp", Reason::MissingTimestamp, Reason::BadTimestamp)?,
                device_id: &string(&row, "DeviceId")?,
                device_name: &string(&row, "DeviceName")?,
                os_platform: &string(&row, "OSPlatform")?,
                device_type: &string(&row, "DeviceType")?,
            })))
        }
        other => Ok(said(Body::Skipped(other))),
    }
}

type Object<'a> = HashMap<String, &'a RawValue>;

fn instant(object: &Object<'_>, key: &str, missing: Reason, bad: Reason) -> Result<Ticks, Reason> {
    let text = string(object, key)?;
    if text.is_empty() { Err(missing) } else { Ticks::parse(&text).ok_or(bad) }
}

fn string(object: &Object<'_>, key: &str) -> Result<String, Reason> {
    match object.get(key).map_or("null", |raw| raw.get()) {
        "null" => Ok(String::new()),
        raw if raw.starts_with('"') => Ok(meaning(raw)),
        _ => Err(Reason::WrongType),
    }
}

fn integer(object: &Object<'_>, key: &str, bad: Reason) -> Result<Option<i64>, Reason> {
    match object.get(key).map_or("null", |raw| raw.get()) {
        "null" => Ok(None),
        raw if raw.starts_with(|c: char| c == '-' || c.is_ascii_digit()) => raw.parse().map(Some).map_err(|_| bad),
        _ => Err(Reason::WrongType),
    }
}

/// `serde_json`'s reading of a string; where that refuses a lone surrogate, the text's UTF-16 units, read leniently.
fn meaning(quoted: &str) -> String {
    if let Ok(text) = serde_json::from_str::<String>(quoted) {
        return text;
    }
    let mut units: Vec<u16> = Vec::new();
    let mut chars = quoted[1..quoted.len() - 1].chars();
    while let Some(c) = chars.next() {
        let c = match c {
            '\\' => match chars.next().unwrap() {
                'u' => {
                    let hex: String = chars.by_ref().take(4).collect();
                    units.push(u16::from_str_radix(&hex, 16).unwrap());
                    continue;
                }
                'b' => '\u{8}',
                'f' => '\u{c}',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                other => other,
            },
            c => c,
        };
        units.extend(c.encode_utf16(&mut [0; 2]).iter());
    }
    String::from_utf16_lossy(&units)
}

/// Levels of nesting.
fn depth(raw: &str) -> usize {
    let (mut deepest, mut depth, mut in_string, mut escaped) = (0, 0, false, false);
    for c in raw.bytes() {
        match c {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_string => depth -= 1,
            _ => {}
        }
    }
    deepest
}

/// An object's pairs, keys by their meaning, the last of equal keys.
struct Pairs<'a>(Object<'a>);

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Pairs<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<'de>, A::Error> {
                let mut pairs = HashMap::new();
                while let Some((key, value)) = map.next_entry::<&RawValue, &RawValue>()? {
                    pairs.insert(meaning(key.get()), value);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Read)
    }
}
