//! `firstseen explain`: why a connection is, or is not, a finding now. Which numbers there are is [`crate::detector::explain`]'s; here they
//! are put into words.

use super::Usage;
use super::state::{open, print};
use crate::cli;
use crate::detector::Detector;
use crate::detector::explain::{Connection, Explanation, Obstacle, Peer};
use crate::finding::reason::shown;
use crate::state::inspect::newest;
use crate::time::Ticks;
use std::fmt::Write as _;
use std::process::ExitCode;

pub(super) fn explain(args: &cli::Explain) -> anyhow::Result<ExitCode> {
    let (name, loaded) = newest(&open(&args.dir)?)?;
    let detector = loaded.detector;
    let tenant = tenant(&detector, args.tenant.as_deref())?;
    let of = Connection { tenant: &tenant, device: &args.device, ip: &args.ip, port: args.port };
    let peers = detector.who(&tenant, &args.ip);
    let said = detector.explain(&of, &peers).ok_or_else(|| Usage(format!("--tenant: the state holds no tenant {tenant:?}")))?;
    if args.json {
        let mut value = serde_json::to_value(&said)?;
        if let Some(object) = value.as_object_mut() {
            object.insert("snapshot".to_owned(), name.into());
            object.insert("connected".to_owned(), serde_json::to_value(&peers)?);
        }
        let text = serde_json::to_string_pretty(&value)?;
        return print(|out| writeln!(out, "{text}"));
    }
    let mut text = words(&said, &peers);
    if said.server.known_since.is_none() {
        for other in detector.devices_like(&tenant, &args.device) {
            let _ = writeln!(text, "There is a device {}: names are compared as they are written.", shown(&other));
        }
    }
    print(|out| write!(out, "{text}"))
}

/// The tenant that is meant.
fn tenant(detector: &Detector, asked: Option<&str>) -> Result<String, Usage> {
    let mut tenants: Vec<&str> = detector.clocks().map(|(tenant, _)| tenant).collect();
    tenants.sort_unstable();
    match (asked, tenants.as_slice()) {
        (_, []) => Err(Usage("the state holds no tenant yet: no record was read".to_owned())),
        (Some(asked), all) if all.contains(&asked) => Ok(asked.to_owned()),
        (None, [one]) => Ok((*one).to_owned()),
        (asked, all) => {
            let what = asked.map_or("--tenant is needed".to_owned(), |asked| format!("--tenant: the state holds no tenant {asked:?}"));
            Err(Usage(format!("{what}; it holds {}", all.join(", "))))
        }
    }
}

fn gate(out: &mut String, holds: bool, name: &str, text: &str) {
    let _ = writeln!(out, "  {}  {name:<16} {text}", if holds { "yes" } else { " no" });
}

fn more(out: &mut String, text: &str) {
    let _ = writeln!(out, "       {:<16} {text}", "");
}

/// How many lines of a list are shown.
const LINES: usize = 12;

fn words(said: &Explanation, peers: &[Peer]) -> String {
    let mut out = String::new();
    let port = said.port.map_or("without a port".to_owned(), |port| format!("port {port}"));
    let tenant = if said.tenant.is_empty() { "without an id".to_owned() } else { shown(&said.tenant) };
    let _ = writeln!(out, "{} to {} {port}, tenant {tenant}, at {} on the arrival clock", shown(&said.device), shown(&said.ip), said.at);
    let _ = match said.obstacle {
        None => writeln!(out, "It is a finding."),
        Some(obstacle) => writeln!(out, "It is no finding: {}.", obstacle.words()),
    };
    if let Some(finding) = &said.finding {
        let state = if finding.open { "open" } else { "not open" };
        let _ =
            writeln!(out, "Finding {}, revision {}, {state}; its last change is of {}.", finding.finding_id, finding.revision, finding.at);
    }
    out.push('\n');
    server(&mut out, said);
    software(&mut out, said);
    new(&mut out, said);
    rare(&mut out, said);
    warm_up(&mut out, said);
    next(&mut out, said);
    let others: Vec<&Peer> = peers.iter().filter(|peer| peer.device != said.device || peer.port != said.port).collect();
    if !others.is_empty() {
        let _ = writeln!(out, "\nOther connections to the address in the lookback:");
        for peer in others.iter().take(LINES) {
            let port = peer.port.map_or("no port".to_owned(), |port| format!("port {port}"));
            let _ = writeln!(out, "  {}  {} {port}", peer.last, shown(&peer.device));
        }
        rest(&mut out, others.len());
    }
    out
}

fn rest(out: &mut String, all: usize) {
    if all > LINES {
        let _ = writeln!(out, "  … and {} more (--json shows all)", all - LINES);
    }
}

fn server(out: &mut String, said: &Explanation) {
    let server = &said.server;
    match (server.last, server.until, server.known_since) {
        (Some(last), Some(until), Some(since)) => {
            let kind = if server.device_type.is_empty() { "no device type" } else { &server.device_type };
            let text = format!("{}, {}; last such DeviceInfo row {last}, counts until {until}", shown(&server.os_platform), shown(kind));
            gate(out, server.holds, "server", &text);
            more(out, &format!("known since {since}"));
        }
        (_, _, Some(since)) => {
            let says = if server.says_workstation { "the newest with a platform says workstation or macOS" } else { "none says server" };
            gate(out, false, "server", &format!("no DeviceInfo row in the lookback says server ({says}); known since {since}"));
        }
        _ => gate(out, false, "server", "the state knows no device of this name"),
    }
    if !server.tracked {
        more(out, "its connections are not kept (detection.track_workstations = false)");
    }
}

fn software(out: &mut String, said: &Explanation) {
    let software = &said.software;
    let rare = software.vendors.iter().filter(|v| v.rare).count();
    let text = match (software.vendors.len(), rare) {
        (0, _) => "no qualifying event in the lookback, so no vendor".to_owned(),
        (all, 0) => format!("none of {all} vendors is seen on fewer than {} servers", software.threshold),
        (all, n) => format!("{n} of {} seen on fewer than {} servers", plural(all as u64, "vendor"), software.threshold),
    };
    gate(out, software.holds, "rare software", &text);
    if rare > 0 && !software.holds {
        more(out, "vendors count for servers only, and the device is none");
    }
    for vendor in software.vendors.iter().take(LINES) {
        let company = if vendor.company.is_empty() { "(no company name)".to_owned() } else { shown(&vendor.company) };
        let kind = if vendor.rare { "rare" } else { "common" };
        more(
            out,
            &format!("{kind}: {company}, {}; here last {}, counts until {}", plural(vendor.servers, "server"), vendor.last, vendor.until),
        );
    }
    if software.vendors.len() > LINES {
        more(out, &format!("… and {} more (--json shows all)", software.vendors.len() - LINES));
    }
}

fn new(out: &mut String, said: &Explanation) {
    let new = &said.new;
    match (new.first, new.last) {
        (Some(first), Some(last)) => {
            let count = new.count.unwrap_or_default();
            let late = if new.late { "; its first event arrived late, so the query never shows it" } else { "" };
            gate(out, new.holds, "new", &format!("first seen {first}, last {last}, {count} counted{late}"));
            match (new.previous, new.previous_until) {
                (Some(previous), Some(until)) => more(out, &format!("seen before at {previous}: in the lookback until {until}")),
                (Some(previous), None) => more(out, &format!("before that last seen {previous}, which has left the lookback")),
                _ => more(out, "never seen before, as far as the state reaches"),
            }
            if let Some(until) = new.until {
                more(out, &format!("its first day is over at {until}"));
            }
        }
        (None, Some(last)) => {
            gate(out, false, "new", &format!("known, last seen {last}; first seen too long ago, or in an event that arrived too late"));
            if let Some(after) = new.new_again_after {
                more(out, &format!("new again with an event later than {after}, if it is silent until then"));
            }
        }
        _ => gate(out, false, "new", "no qualifying event in the lookback: the next one would make it new"),
    }
    if !said.other_ports.is_empty() {
        let ports: Vec<String> = said.other_ports.iter().take(40).map(|p| p.map_or("none".to_owned(), |p| p.to_string())).collect();
        more(out, &format!("other ports of this address that the device knows: {}", ports.join(", ")));
    }
}

fn rare(out: &mut String, said: &Explanation) {
    let rare = &said.rare;
    let text = format!("{} contacted it in {}; rare below {}", plural(rare.devices, "device"), rare.window, rare.threshold);
    gate(out, rare.holds, "rare destination", &text);
    for seen in rare.seen.iter().take(LINES) {
        let name = seen.device.as_deref().map_or(format!("DeviceId fingerprint {}", seen.fingerprint), shown);
        more(out, &format!("{name}, last {}, counts until {}", seen.last, seen.until));
    }
    if rare.seen.len() > LINES {
        more(out, &format!("… and {} more (--json shows all)", rare.seen.len() - LINES));
    }
    if !rare.urls.is_empty() {
        let urls: Vec<String> = rare.urls.iter().take(LINES).map(|url| shown(url)).collect();
        let more_urls = rare.urls.len().saturating_sub(LINES);
        let tail = if more_urls > 0 { format!(" and {more_urls} more") } else { String::new() };
        more(out, &format!("by the names {}{tail}", urls.join(", ")));
    }
}

fn plural(n: u64, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

fn warm_up(out: &mut String, said: &Explanation) {
    let warm_up = &said.warm_up;
    match warm_up.until {
        None => gate(out, true, "warm-up", "off"),
        Some(until) => {
            gate(
                out,
                warm_up.holds,
                "warm-up",
                &format!("{}: connections of the device first seen before {until} are held back", warm_up.length),
            );
        }
    }
}

fn next(out: &mut String, said: &Explanation) {
    let known: Option<Ticks> = said.new.last.filter(|_| said.new.first.is_none());
    if said.next.is_empty() && known.is_none() {
        return;
    }
    let _ = writeln!(out, "\nBy itself, if nothing more arrives:");
    if let Some(after) = said.new.new_again_after.filter(|_| known.is_some()) {
        let _ = writeln!(out, "  {after}  from then on another event makes it new");
    }
    for next in &said.next {
        let _ = match next.obstacle {
            None => writeln!(out, "  {}  it becomes a finding", next.at),
            Some(Obstacle::FirstDayOver) if !said.is_finding && said.next.len() == 1 => {
                writeln!(out, "  {}  its first day is over: it does not become a finding", next.at)
            }
            Some(obstacle) => writeln!(out, "  {}  no finding: {}", next.at, obstacle.words()),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::defender::{Body, DeviceInfo, NetworkEvent, Record};
    use crate::detector::{Detector, Settings};
    use crate::time::{Span, Ticks};

    fn at(minutes: i64) -> Ticks {
        Ticks::parse("2026-03-01T00:00:00Z").unwrap().plus(Span::minutes(minutes))
    }

    fn server(d: &mut Detector, now: Ticks, name: &str) {
        let info =
            DeviceInfo { timestamp: now, device_id: name, device_name: name, os_platform: "WindowsServer2019", device_type: "Server" };
        d.record(&Record { arrival: now, tenant: "t", body: Body::Device(info) }, &mut Vec::new());
    }

    fn connect(d: &mut Detector, now: Ticks, device: &str) {
        let event = NetworkEvent {
            timestamp: now,
            device_id: device.into(),
            device_name: device,
            report_id: now.0,
            action_type: "ConnectionSuccess".into(),
            remote_ip: "203.0.113.7",
            remote_ip_type: "Public".into(),
            remote_port: Some(443),
            remote_url: "up\u{202e}dates.example",
            company: "Acme",
            ..NetworkEvent::default()
        };
        d.record(&Record { arrival: now, tenant: "t", body: Body::Network(event) }, &mut Vec::new());
    }

    fn said(d: &Detector, device: &str, port: Option<u16>) -> String {
        let peers = d.who("t", "203.0.113.7");
        words(&d.explain(&Connection { tenant: "t", device, ip: "203.0.113.7", port }, &peers).unwrap(), &peers)
    }

    #[test]
    fn a_finding_is_told_with_every_number() {
        let mut d = Detector::new(Settings::default());
        server(&mut d, at(0), "s1");
        connect(&mut d, at(5), "s1");
        connect(&mut d, at(6), "w1");
        let expected = "\
s1 to 203.0.113.7 port 443, tenant t, at 2026-03-01T00:06:00Z on the arrival clock
It is a finding.
Finding ID, revision 2, open; its last change is of 2026-03-01T00:06:00Z.

  yes  server           WindowsServer2019, Server; last such DeviceInfo row 2026-03-01T00:00:00Z, counts until 2026-03-15T00:00:00Z
                        known since 2026-03-01T00:00:00Z
  yes  rare software    1 of 1 vendor seen on fewer than 10 servers
                        rare: Acme, 1 server; here last 2026-03-01T00:05:00Z, counts until 2026-03-15T00:05:00Z
  yes  new              first seen 2026-03-01T00:05:00Z, last 2026-03-01T00:05:00Z, 1 counted
                        never seen before, as far as the state reaches
                        its first day is over at 2026-03-02T00:05:00Z
  yes  rare destination 2 devices contacted it in 5d; rare below 6
                        w1, last 2026-03-01T00:06:00Z, counts until 2026-03-06T00:06:00Z
                        s1, last 2026-03-01T00:05:00Z, counts until 2026-03-06T00:05:00Z
                        by the names up\\u{202e}dates.example
  yes  warm-up          off

By itself, if nothing more arrives:
  2026-03-02T00:05:00Z  no finding: its first day is over

Other connections to the address in the lookback:
  2026-03-01T00:06:00Z  w1 port 443
";
        let text = said(&d, "s1", Some(443));
        let id = text.split_once("Finding ").unwrap().1.split(',').next().unwrap();
        assert_eq!(text.replace(id, "ID"), expected);
    }

    #[test]
    fn what_is_no_finding_says_why_and_when_that_changes() {
        let mut d = Detector::new(Settings { warm_up: Span::days(1), ..Settings::default() });
        connect(&mut d, at(0), "s1");
        assert!(said(&d, "s1", Some(443)).contains("It is no finding: the device does not count as a server."));
        assert!(said(&d, "s1", None).contains("other ports of this address that the device knows: 443"));
        assert!(said(&d, "s2", None).contains("the state knows no device of this name"));
        server(&mut d, at(1), "s1");
        let text = said(&d, "s1", Some(443));
        assert!(text.contains("It is no finding: the device was in its warm-up"), "{text}");
        assert!(text.contains("2026-03-02T00:00:00Z  its first day is over: it does not become a finding"), "{text}");
        d.advance("t", at(2000), &mut Vec::new());
        let text = said(&d, "s1", Some(443));
        assert!(text.contains("It is no finding: the connection is not new."), "{text}");
        assert!(text.contains("2026-03-14T00:00:00Z  from then on another event makes it new"), "{text}");
        for i in 0..6 {
            server(&mut d, at(2001), &format!("s{i}"));
            connect(&mut d, at(2001), &format!("s{i}"));
        }
        assert!(said(&d, "s3", Some(443)).contains("It is no finding: the destination is not rare in the fleet."));
    }

    #[test]
    fn a_tenant_is_asked_for_only_when_there_are_several() {
        let mut d = Detector::new(Settings::default());
        assert!(tenant(&d, None).unwrap_err().to_string().contains("no tenant yet"));
        server(&mut d, at(0), "s1");
        assert_eq!(tenant(&d, None).unwrap(), "t");
        let error = tenant(&d, Some("u")).unwrap_err().to_string();
        assert_eq!(error, "--tenant: the state holds no tenant \"u\"; it holds t");
    }
}
