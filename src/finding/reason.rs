//! The sentence that tells an analyst what happened and why it matters. Everything in it comes from endpoints that may be hostile, so
//! text is made harmless (no control, no direction-changing characters) and kept short; the JSON fields hold the whole values.

use crate::detector::Settings;
use crate::finding::severity::baseline_is_young;
use crate::finding::{Change, ChangeKind};
use crate::time::{Span, Ticks};
use std::fmt::Write as _;

/// Characters of one value that a sentence shows.
const SHOWN: usize = 100;

/// One or two sentences about a change.
#[must_use]
pub fn reason(change: &Change, settings: &Settings) -> String {
    let (device, remote) = (device(change), remote(change));
    let contacted = prevalence(change, settings);
    let times = times(change.count);
    let mut out = match change.kind {
        ChangeKind::Opened => {
            let first = match change.previous_seen {
                Some(previous) => format!("for the first time since {}", minute(previous)),
                None if let Some(evicted) = change.evicted => format!("for the first time since {} at least", minute(evicted)),
                None if baseline_is_young(change, settings) => {
                    format!("for the first time since observation began at {}", minute(change.observed_since))
                }
                None => format!("for the first time in {}", plain_span(settings.lookback)),
            };
            match software(change) {
                Some(software) => format!("{device} ran {software} and connected {first} to {remote}, which {contacted}."),
                None => format!("{device} connected {first} to {remote}, which {contacted}."),
            }
        }
        ChangeKind::Updated => {
            let last = if change.count > 1 { format!(", last at {}", minute(change.last_seen)) } else { String::new() };
            format!(
                "{device} has now connected {times} to {remote} since {}{last}; {contacted}.",
                minute(change.first_seen),
                contacted = with_subject(&contacted)
            )
        }
        ChangeKind::Retracted => {
            let cause = if change.cause.is_empty() { "it no longer matches" } else { change.cause };
            format!(
                "No longer a finding: {}. {device} connected {times} to {remote} since {}; {}.",
                cause.trim_end_matches('.'),
                minute(change.first_seen),
                with_subject(&contacted)
            )
        }
        ChangeKind::Closed => format!(
            "No longer new after {}: {device} connected {times} to {remote} from {} to {}; {}.",
            plain_span(settings.new_within),
            minute(change.first_seen),
            minute(change.last_seen),
            with_subject(&contacted)
        ),
    };
    if change.kind == ChangeKind::Opened {
        third_party(change, &mut out);
        if change.evicted.is_some() {
            out.push_str(" What this device did before was forgotten to keep within limits, so the connection may not be new.");
        }
        if let Some(until) = change.partial {
            let _ = write!(
                out,
                " Settings were changed, and what they need is whole again at {}: until then a finding may be wrong for it.",
                minute(until)
            );
        }
        if change.late {
            let _ = write!(
                out,
                " The event arrived more than {} late, so look back to {}.",
                plain_span(settings.new_within),
                minute(change.first_seen)
            );
        }
        if baseline_is_young(change, settings) {
            out.push_str(" The baseline is still young, so the connection may be older than it looks.");
        }
    }
    out
}

/// `srv-sql-03.corp.example (server, Windows Server 2019)`
fn device(change: &Change) -> String {
    let name = if change.device_name.is_empty() { "A device without a name".into() } else { shown(&change.device_name) };
    let class = if change.device_type.is_empty() { "server".into() } else { shown(&change.device_type).to_lowercase() };
    match change.os_platform.as_str() {
        "" => format!("{name} ({class})"),
        os => format!("{name} ({class}, {})", spaced(&shown(os))),
    }
}

/// `WindowsServer2019` as people write it; other platforms stay as they are.
fn spaced(os: &str) -> String {
    if !os.starts_with("Windows") || os.contains(' ') {
        return os.to_owned();
    }
    let mut out = String::with_capacity(os.len() + 3);
    let mut before = ' ';
    for c in os.chars() {
        if (before.is_lowercase() && c.is_uppercase()) || (before.is_alphabetic() && c.is_ascii_digit() && before != 'R') {
            out.push(' ');
        }
        out.push(c);
        before = c;
    }
    out
}

/// `backupd.exe by Acme Backup (seen on 3 servers)`; `None` when the event names no process.
fn software(change: &Change) -> Option<String> {
    let event = &change.event;
    let mut out = match (event.file_name.as_str(), event.product.as_str()) {
        ("", "") => return None,
        ("", product) => shown(product),
        (file, _) => shown(file),
    };
    if !event.company.is_empty() {
        let _ = write!(out, " by {}", shown(&event.company));
    }
    if let Some((_, servers)) = change.vendors.iter().find(|(company, _)| *company == event.company) {
        match event.company.as_str() {
            "" => {
                let _ = write!(out, " (of no named company; such software was seen on {})", plural(*servers, "server"));
            }
            _ => {
                let _ = write!(out, " (seen on {})", plural(*servers, "server"));
            }
        }
    }
    Some(out)
}

/// When another company's software is what makes the server third-party, says so.
fn third_party(change: &Change, out: &mut String) {
    if software(change).is_some() && change.vendors.iter().any(|(company, _)| *company == change.event.company) {
        return;
    }
    let Some((company, servers)) = change.vendors.first() else { return };
    let more = match change.vendors.len() - 1 {
        0 => String::new(),
        n => format!(" and of {}", plural(n as u64, "other rare vendor")),
    };
    let company = if company.is_empty() { "no named company".into() } else { shown(company) };
    let _ = write!(out, " The server runs rare software: of {company} (seen on {}){more}.", plural(*servers, "server"));
}

/// `203.0.113.7:443 (update.acme.example)`
fn remote(change: &Change) -> String {
    let ip = if change.remote_ip.is_empty() { "an unnamed address".into() } else { shown(&change.remote_ip) };
    let address = match change.remote_port {
        None => format!("{ip} (no port reported)"),
        Some(port) if ip.contains(':') => format!("[{ip}]:{port}"),
        Some(port) if change.remote_ip.is_empty() => format!("{ip}, port {port}"),
        Some(port) => format!("{ip}:{port}"),
    };
    let more = match change.urls.len().saturating_sub(1) {
        0 => String::new(),
        n if change.urls_truncated => format!(" and at least {n} more"),
        n => format!(" and {n} more"),
    };
    match change.urls.first() {
        Some(url) => format!("{address} ({}{more})", shown(url)),
        None => address,
    }
}

/// `only 1 device in the fleet contacted in 5 days`
fn prevalence(change: &Change, settings: &Settings) -> String {
    let window = plain_span(settings.prevalence_window);
    match change.prevalence {
        0 => format!("no device in the fleet contacted in {window}"),
        n if n < u64::from(settings.prevalence_below) => format!("only {} in the fleet contacted in {window}", plural(n, "device")),
        n => format!("{} in the fleet contacted in {window}", plural(n, "device")),
    }
}

/// The same with its object: `only 1 device in the fleet contacted it in 5 days`
fn with_subject(contacted: &str) -> String {
    contacted.replacen("contacted in", "contacted it in", 1)
}

fn times(count: u64) -> String {
    match count {
        1 => "once".into(),
        2 => "twice".into(),
        n => format!("{n} times"),
    }
}

fn plural(n: u64, noun: &str) -> String {
    if n == 1 { format!("{n} {noun}") } else { format!("{n} {noun}s") }
}

/// `14 days`, `1 day`, `90 minutes`: in the largest unit that says it exactly.
fn plain_span(span: Span) -> String {
    for (unit, name) in [(Span::days(1), "day"), (Span::hours(1), "hour"), (Span::minutes(1), "minute"), (Span::seconds(1), "second")] {
        if span.0 % unit.0 == 0 {
            return plural((span.0 / unit.0).unsigned_abs(), name);
        }
    }
    plural((span.0 / 10_000).unsigned_abs(), "millisecond")
}

/// `2026-03-01 10:20 UTC`
fn minute(at: Ticks) -> String {
    let text = at.to_string();
    format!("{} {} UTC", text.get(..10).unwrap_or(&text), text.get(11..16).unwrap_or(""))
}

/// A foreign text made harmless: control, format and direction characters are written out, and it is cut.
#[must_use]
pub fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(SHOWN));
    for (n, c) in text.chars().enumerate() {
        if n == SHOWN {
            out.push('…');
            break;
        }
        if is_unsafe(c) {
            let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

/// Characters that move the cursor, hide, or reorder what is read.
pub(crate) fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::json::tests::example;

    fn said(change: &Change) -> String {
        reason(change, &Settings::default())
    }

    #[test]
    fn opened() {
        assert_eq!(
            said(&example()),
            "srv-sql-03.corp.example (server, Windows Server 2019) ran backupd.exe by Acme Backup (seen on 3 servers) and connected for the first time \
             in 14 days to 203.0.113.7:443 (update.acme.example), which only 1 device in the fleet contacted in 5 days."
        );
        let again = Change { previous_seen: Ticks::parse("2026-02-01T00:00:00Z"), ..example() };
        assert!(said(&again).contains("connected for the first time since 2026-02-01 00:00 UTC to"));
        let late = Change { late: true, prevalence: 2, ..example() };
        assert!(said(&late).ends_with(
            "only 2 devices in the fleet contacted in 5 days. The event arrived more than 1 day late, so look back to 2026-03-01 10:20 UTC."
        ));
        let young = Change { observed_since: example().first_seen.minus(Span::days(3)), ..example() };
        let text = said(&young);
        assert!(
            text.contains("for the first time since observation began at 2026-02-26 10:20 UTC to")
                && text.ends_with("may be older than it looks."),
            "{text}"
        );
    }

    #[test]
    fn opened_without_process_port_or_urls() {
        let mut bare = Change { urls: vec![], remote_port: None, os_platform: String::new(), device_type: String::new(), ..example() };
        bare.event = Default::default();
        assert_eq!(
            said(&bare),
            "srv-sql-03.corp.example (server) connected for the first time in 14 days to 203.0.113.7 (no port reported), which only 1 device in the fleet \
             contacted in 5 days. The server runs rare software: of Acme Backup (seen on 3 servers)."
        );
        bare.vendors.push(("Beta".into(), 1));
        assert!(said(&bare).ends_with("of Acme Backup (seen on 3 servers) and of 1 other rare vendor."));
        bare.remote_ip = "2001:db8::1".into();
        bare.remote_port = Some(443);
        bare.urls = vec!["a.example".into(), "b.example".into(), "c.example".into()];
        assert!(said(&bare).contains("to [2001:db8::1]:443 (a.example and 2 more), which"));
    }

    #[test]
    fn the_empty_company_is_a_vendor_too() {
        let mut change = Change { vendors: vec![(String::new(), 1)], ..example() };
        change.event.company = String::new();
        assert!(
            said(&change).contains("ran backupd.exe (of no named company; such software was seen on 1 server) and connected"),
            "{}",
            said(&change)
        );
    }

    #[test]
    fn updated_retracted_closed() {
        let change = |kind| Change { kind, count: 12, last_seen: example().first_seen.plus(Span::hours(2)), ..example() };
        assert_eq!(
            said(&change(ChangeKind::Updated)),
            "srv-sql-03.corp.example (server, Windows Server 2019) has now connected 12 times to 203.0.113.7:443 (update.acme.example) since 2026-03-01 10:20 \
             UTC, last at 2026-03-01 12:20 UTC; only 1 device in the fleet contacted it in 5 days."
        );
        let gone = Change { cause: "the destination became common", prevalence: 6, count: 1, ..change(ChangeKind::Retracted) };
        assert_eq!(
            said(&gone),
            "No longer a finding: the destination became common. srv-sql-03.corp.example (server, Windows Server 2019) connected once to 203.0.113.7:443 \
             (update.acme.example) since 2026-03-01 10:20 UTC; 6 devices in the fleet contacted it in 5 days."
        );
        assert_eq!(
            said(&change(ChangeKind::Closed)),
            "No longer new after 1 day: srv-sql-03.corp.example (server, Windows Server 2019) connected 12 times to 203.0.113.7:443 \
             (update.acme.example) from 2026-03-01 10:20 UTC to 2026-03-01 12:20 UTC; only 1 device in the fleet contacted it in 5 days."
        );
    }

    #[test]
    fn hostile_text_is_harmless_and_short() {
        let mut change = Change { device_name: "a\u{202e}b\u{1b}[2Jc\n".into(), ..example() };
        change.event.file_name = "x".repeat(70_000);
        let text = said(&change);
        assert!(text.starts_with(r"a\u{202e}b\u{1b}[2Jc\u{a} (server"), "{text}");
        assert!(text.chars().count() < 600 && text.contains("xxx…"));
    }

    #[test]
    fn spans_are_said_exactly() {
        for (span, said) in
            [(Span::days(14), "14 days"), (Span::hours(24), "1 day"), (Span::hours(36), "36 hours"), (Span(2_500_000), "250 milliseconds")]
        {
            assert_eq!(plain_span(span), said);
        }
    }

    #[test]
    fn platforms_read_as_people_write_them() {
        assert_eq!(spaced("WindowsServer2012R2"), "Windows Server 2012R2");
        assert_eq!(spaced("Windows10"), "Windows 10");
        assert_eq!(spaced("Linux"), "Linux");
    }
}
