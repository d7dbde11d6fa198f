//! What a path says about the records in its file: which tenant, and the instants between which they arrived.
//!
//! Owns the two layouts that Azure writes: the Storage export (`tenantId=…/y=…/m=…/d=…/h=…/m=00/PT1H.json`) and Event Hubs Capture
//! (`…/{Year}/{Month}/{Day}/{Hour}/{Minute}/{Second}.avro`), and the selection by time and tenant that saves listing and reading.
//! A path of another layout says nothing, and is always wanted.

use crate::time::{Span, Ticks};

/// Longest window of Event Hubs Capture, and some room: envelopes are older than their arrival in the hub.
const CAPTURE_SLACK: Span = Span::hours(1);

/// What of the history is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Records that arrived at this instant or later.
    pub from: Ticks,
    /// Records that arrived before this instant.
    pub to: Ticks,
    /// Tenants; empty: all.
    pub tenants: Vec<String>,
}

impl Default for Selection {
    fn default() -> Self {
        Selection { from: Ticks::MIN, to: Ticks::MAX, tenants: Vec::new() }
    }
}

impl Selection {
    /// Whether a file, or a directory, of this path may hold something that is wanted.
    #[must_use]
    pub fn wants(&self, path: &str) -> bool {
        let says = describe(path);
        let tenant =
            says.tenant.is_none_or(|tenant| self.tenants.is_empty() || self.tenants.iter().any(|t| t.eq_ignore_ascii_case(tenant)));
        tenant && says.during.is_none_or(|(begins, ends)| ends > self.from && begins < self.to)
    }

    /// Whether a time range is given.
    #[must_use]
    pub fn has_range(&self) -> bool {
        self.from != Ticks::MIN || self.to != Ticks::MAX
    }
}

/// What a path says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Described<'a> {
    /// The tenant of all records below it.
    pub tenant: Option<&'a str>,
    /// No record below it arrived before the first instant, nor at or after the second.
    pub during: Option<(Ticks, Ticks)>,
}

/// Reads a path of `/` separated names, a file's or a directory's: a directory is described as far as it goes.
#[must_use]
pub fn describe(path: &str) -> Described<'_> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let value = |part: &&str, key: &str| {
        let (name, value) = part.split_once('=')?;
        name.eq_ignore_ascii_case(key).then_some(value.len()).map(|length| (part.len() - length, length))
    };
    let valued = |at: usize, key: &str| {
        let part: &&str = parts.get(at)?;
        let (start, _) = value(part, key)?;
        part.get(start..)
    };
    let tenant = (0..parts.len()).find_map(|at| valued(at, "tenantId"));
    let during = (0..parts.len()).find(|at| valued(*at, "y").is_some()).and_then(|at| {
        let fields = ["y", "m", "d", "h"].iter().enumerate().map_while(|(n, key)| valued(at + n, key)?.parse().ok());
        period(&fields.collect::<Vec<i64>>())
    });
    Described { tenant, during: during.or_else(|| captured(&parts)) }
}

/// Capture's window by the last six parts of a file's path.
fn captured(parts: &[&str]) -> Option<(Ticks, Ticks)> {
    let (last, before) = parts.split_last()?;
    let second = last.strip_suffix(".avro")?;
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<i64>().ok()).flatten();
    let [year, month, day, hour, minute] = before.last_chunk::<5>()?;
    let text = format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        number(year)?,
        number(month)?,
        number(day)?,
        number(hour)?,
        number(minute)?,
        number(second)?
    );
    let at = Ticks::parse(&text)?;
    Some((at.minus(CAPTURE_SLACK), at.plus(CAPTURE_SLACK)))
}

/// From year, month, day, hour, as far as given.
fn period(fields: &[i64]) -> Option<(Ticks, Ticks)> {
    let at = |year: i64, month: i64, day: i64, hour: i64| Ticks::parse(&format!("{year:04}-{month:02}-{day:02}T{hour:02}:00:00Z"));
    match *fields {
        [y] => Some((at(y, 1, 1, 0)?, at(y + 1, 1, 1, 0)?)),
        [y, 12] => Some((at(y, 12, 1, 0)?, at(y + 1, 1, 1, 0)?)),
        [y, m] => Some((at(y, m, 1, 0)?, at(y, m + 1, 1, 0)?)),
        [y, m, d] => at(y, m, d, 0).map(|begins| (begins, begins.plus(Span::days(1)))),
        [y, m, d, h] => at(y, m, d, h).map(|begins| (begins, begins.plus(Span::hours(1)))),
        _ => None,
    }
}

/// Whether everything below a directory lies so close together that listing it whole is cheaper than going down step by step: a day
/// of the Storage export, or another layout.
#[must_use]
pub fn is_listed_whole(path: &str) -> bool {
    let last = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let key = last.split_once('=').map(|(key, _)| key.to_ascii_lowercase());
    let is_month = key.as_deref() == Some("m") && !path.contains("/d=") && !path.contains("/D=");
    !(is_month || matches!(key.as_deref(), Some("tenantid" | "y")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Ticks {
        Ticks::parse(text).unwrap()
    }

    #[test]
    fn paths_tell_tenant_and_time() {
        let during = |from: &str, to: &str| Some((at(from), at(to)));
        for (path, tenant, expected) in [
            ("a/tenantId=T1/y=2026/m=03/d=09/h=23/m=00/PT1H.json", Some("T1"), during("2026-03-09T23:00:00Z", "2026-03-10T00:00:00Z")),
            ("tenantId=T1/y=2026/m=12", Some("T1"), during("2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z")),
            ("tenantId=T1/y=2026/m=02/d=28/", Some("T1"), during("2026-02-28T00:00:00Z", "2026-03-01T00:00:00Z")),
            ("TENANTID=T1/Y=2026", Some("T1"), during("2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z")),
            ("tenantId=T1/", Some("T1"), None),
            ("ns/hub/0/2026/03/01/05/10/00.avro", None, during("2026-03-01T04:10:00Z", "2026-03-01T06:10:00Z")),
            ("ns/hub/0/2026/13/01/05/10/00.avro", None, None),
            ("ns/hub/0/x.avro", None, None),
            ("y=2026/m=14", None, None),
            ("fleet.ndjson", None, None),
        ] {
            assert_eq!(describe(path), Described { tenant, during: expected }, "{path}");
        }
    }

    #[test]
    fn only_what_is_needed_is_wanted() {
        let selection = Selection { from: at("2026-03-09T00:00:00Z"), to: at("2026-03-11T00:00:00Z"), tenants: vec!["t1".into()] };
        for (path, wanted) in [
            ("c/tenantId=T1/y=2026/m=03/d=09/h=00/m=00/PT1H.json", true),
            ("c/tenantId=T1/y=2026/m=03/d=08/h=23/m=00/PT1H.json", false),
            ("c/tenantId=T1/y=2026/m=03/d=11/h=00/m=00/PT1H.json", false),
            ("c/tenantId=T2/y=2026/m=03/d=09/h=00/m=00/PT1H.json", false),
            ("c/tenantId=T1/y=2025", false),
            ("c/tenantId=T1/y=2026/m=04", false),
            ("c/tenantId=T1/y=2026/m=03/d=10", true),
            ("c/", true),
            ("hub/2026/03/08/23/59/00.avro", true),
            ("hub/2026/03/08/22/00/00.avro", false),
        ] {
            assert_eq!(selection.wants(path), wanted, "{path}");
        }
    }

    #[test]
    fn directories_above_a_day_are_gone_down_step_by_step() {
        for (path, whole) in
            [("tenantId=T", false), ("c/y=2026/", false), ("y=2026/m=03", false), ("y=2026/m=03/d=01", true), ("hub", true)]
        {
            assert_eq!(is_listed_whole(path), whole, "{path}");
        }
    }
}
