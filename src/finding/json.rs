//! `firstseen.finding/1`: the form in which a change of a finding stands on the findings topic. Fields come in a fixed order, a value
//! that is not known is absent (never `""` or `null`), and the same change gives the same bytes. `docs/finding.schema.json` is its schema.

use crate::detector::Settings;
use crate::finding::Change;
use crate::finding::reason::reason;
use crate::finding::severity::{Privileged, Severity};
use crate::time::{Span, Ticks};
use serde::Serialize;

/// The schema's name and version, in every message.
pub const SCHEMA: &str = "firstseen.finding/1";

/// ATT&CK techniques that a finding points at: Compromise Software Supply Chain, Application Layer Protocol.
pub const ATTACK: [&str; 2] = ["T1195.002", "T1071"];

/// The message's value: one JSON object without a line break.
#[must_use]
pub fn to_json(change: &Change, settings: &Settings, privileged: &Privileged) -> String {
    let event = &change.event;
    let finding = Finding {
        schema: SCHEMA,
        finding_id: change.id.to_string(),
        revision: change.revision,
        change: change.kind.as_str(),
        at: change.at,
        tenant_id: known(&change.tenant),
        device: Device {
            name: known(&change.device_name),
            id: known(&change.device_id),
            os_platform: known(&change.os_platform),
            device_type: known(&change.device_type),
            privileged: privileged.contains(&change.device_name),
        },
        remote: Remote {
            ip: known(&change.remote_ip),
            port: change.remote_port,
            urls: change.urls.iter().filter_map(|u| known(u)).collect(),
            urls_truncated: change.urls_truncated,
        },
        first_seen: change.first_seen,
        last_seen: change.last_seen,
        count: change.count,
        prevalence: Prevalence {
            devices: change.prevalence,
            window: Text(settings.prevalence_window),
            threshold: settings.prevalence_below,
        },
        vendors: change.vendors.iter().map(|(company, servers)| Vendor { company: known(company), servers: *servers }).collect(),
        baseline: Baseline {
            previous_seen: change.previous_seen,
            observed_since: change.observed_since,
            device_since: change.device_since,
            gap: change.gap,
            evicted: change.evicted,
            partial_until: change.partial,
            lookback: Text(settings.lookback),
        },
        late: change.late,
        suppressed_by: change.suppressed_by.as_deref(),
        severity: Severity::of(change, settings, privileged).as_str(),
        attack: ATTACK,
        reason: reason(change, settings),
        event: Event {
            report_id: (event.report_id != 0).then_some(event.report_id),
            action: known(&event.action),
            file_name: known(&event.file_name),
            folder_path: known(&event.folder_path),
            command_line: known(&event.command_line),
            sha256: known(&event.sha256),
            account: known(&event.account),
            company: known(&event.company),
            product: known(&event.product),
        },
    };
    serde_json::to_string(&finding).expect("INV: a finding holds only texts, numbers and booleans, which always serialise")
}

/// The message's key: all changes of a finding go to one partition, in order.
#[must_use]
pub fn key(change: &Change) -> String {
    change.id.to_string()
}

/// The message's headers, as text.
#[must_use]
pub fn headers(change: &Change) -> [(&'static str, String); 3] {
    [("change", change.kind.as_str().to_owned()), ("revision", change.revision.to_string()), ("finding-format", "firstseen".to_owned())]
}

fn known(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde's skip_serializing_if wants")]
fn is_false(b: &bool) -> bool {
    !*b
}

/// A span as its configuration text.
struct Text(Span);

impl Serialize for Text {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

#[derive(Serialize)]
struct Finding<'a> {
    schema: &'static str,
    finding_id: String,
    revision: u32,
    change: &'static str,
    at: Ticks,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant_id: Option<&'a str>,
    device: Device<'a>,
    remote: Remote<'a>,
    first_seen: Ticks,
    last_seen: Ticks,
    count: u64,
    prevalence: Prevalence,
    vendors: Vec<Vendor<'a>>,
    baseline: Baseline,
    late: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    suppressed_by: Option<&'a str>,
    severity: &'static str,
    attack: [&'static str; 2],
    reason: String,
    event: Event<'a>,
}

#[derive(Serialize)]
struct Device<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    os_platform: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device_type: Option<&'a str>,
    privileged: bool,
}

#[derive(Serialize)]
struct Remote<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    ip: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    urls: Vec<&'a str>,
    #[serde(skip_serializing_if = "is_false")]
    urls_truncated: bool,
}

#[derive(Serialize)]
struct Prevalence {
    devices: u64,
    window: Text,
    threshold: u32,
}

#[derive(Serialize)]
struct Vendor<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    company: Option<&'a str>,
    servers: u64,
}

#[derive(Serialize)]
struct Baseline {
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_seen: Option<Ticks>,
    observed_since: Ticks,
    device_since: Ticks,
    #[serde(skip_serializing_if = "Option::is_none")]
    gap: Option<Ticks>,
    #[serde(skip_serializing_if = "Option::is_none")]
    evicted: Option<Ticks>,
    #[serde(skip_serializing_if = "Option::is_none")]
    partial_until: Option<Ticks>,
    lookback: Text,
}

#[derive(Serialize)]
struct Event<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    folder_path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    command_line: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    account: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    company: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    product: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    report_id: Option<i64>,
}

#[cfg(test)]
pub(crate) mod tests;
