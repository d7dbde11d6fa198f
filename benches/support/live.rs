//! Live traffic for the benches that listen for findings: each message holds one record that makes a finding, whose address says which
//! message it was.

use firstseen::defender::{DeviceInfo, NetworkEvent};
use firstseen::fleet::render;
use firstseen::time::{Span, Ticks};

pub(crate) const TENANT: &str = "72f988bf-86f1-41af-91ab-2d7cd011db47";

fn name(server: usize) -> String {
    format!("srv-{server:02}.corp.example")
}

/// Twenty servers make themselves known.
pub(crate) fn infos(at: Ticks) -> Vec<u8> {
    let infos: Vec<Vec<u8>> = (0..20).map(|server| info(server, at)).collect();
    render::message(&infos)
}

fn info(server: usize, at: Ticks) -> Vec<u8> {
    let (name, mut out) = (name(server), Vec::new());
    let info = DeviceInfo { timestamp: at, device_id: &name, device_name: &name, os_platform: "WindowsServer2022", device_type: "Server" };
    render::render_device(&mut out, at, TENANT, &info, true);
    out
}

/// A record of a server and an address never seen: message `n`'s finding.
pub(crate) fn rare(n: usize, at: Ticks) -> Vec<u8> {
    let (server, ip) = (name(n % 5), format!("203.{}.{}.{}", n >> 16 & 255, n >> 8 & 255, n & 255));
    record(&server, &server, &ip, "Niche Software GmbH", (n * 20) as i64, at)
}

/// A record of what everybody talks to.
pub(crate) fn common(n: usize, i: usize, at: Ticks) -> Vec<u8> {
    let server = name(i);
    let id = format!("{server}{}", (n + i) % 40);
    record(&server, &id, &format!("198.18.0.{i}"), "Common Software Inc.", (n * 20 + i) as i64, at)
}

/// Which message a finding is of, by its value.
pub(crate) fn number(payload: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(payload).ok()?;
    let address = text.split("\"ip\":\"203.").nth(1)?.split('"').next()?;
    let mut parts = address.split('.').map(str::parse::<usize>);
    Some(parts.next()?.ok()? * 65_536 + parts.next()?.ok()? * 256 + parts.next()?.ok()?)
}

fn record(server: &str, id: &str, ip: &str, company: &str, report_id: i64, at: Ticks) -> Vec<u8> {
    let event = NetworkEvent {
        timestamp: at.minus(Span::seconds(1)),
        device_id: id.into(),
        device_name: server,
        report_id,
        action_type: "ConnectionSuccess".into(),
        remote_ip: ip,
        remote_ip_type: "Public".into(),
        remote_port: Some(443),
        remote_url: "telemetry.niche.example",
        company,
        product: "Niche Service".into(),
        file_name: "niche.exe".into(),
        folder_path: "c:\\program files\\niche\\niche.exe".into(),
        command_line: "\"c:\\program files\\niche\\niche.exe\" --service".into(),
        sha256: "9e6f0b6e".into(),
        account_name: "system".into(),
        account_domain: "nt authority".into(),
    };
    let mut out = Vec::new();
    render::render_network(&mut out, at, TENANT, &event, true);
    out
}
