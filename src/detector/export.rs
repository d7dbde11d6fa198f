//! All rows of the state as lines of JSON, in an order of their keys: equal states give equal bytes, whatever ids their rows have,
//! in which order they came, and whether what has left its window was tidied away yet.
//!
//! What a restore rebuilds (indexes, timers, membership) is not written: it follows from the rows. Positions in topics are not the
//! detector's, and so not here either.

use super::candidate::{self, Candidate};
use super::connections::{Known, port_of};
use super::{Detector, window};
use crate::time::Ticks;
use compact_str::CompactString;
use serde::Serialize;
use std::collections::BTreeSet;

/// The kinds of lines.
#[derive(Serialize)]
#[serde(tag = "row", rename_all = "snake_case")]
enum Line<'a> {
    Tenant {
        tenant: &'a str,
        clock: Ticks,
        observed_since: Ticks,
        #[serde(skip_serializing_if = "Option::is_none")]
        gap: Option<Ticks>,
    },
    Gap {
        input: &'a str,
    },
    Vendor {
        tenant: &'a str,
        company: &'a str,
        servers: usize,
    },
    Device(Box<DeviceLine<'a>>),
    Connection(Box<ConnectionLine<'a>>),
    Destination(Box<DestinationLine<'a>>),
}

#[derive(Serialize)]
struct DeviceLine<'a> {
    tenant: &'a str,
    name: &'a str,
    since: Ticks,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<Server<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    info_seen: Option<Ticks>,
    workstation: bool,
    vendors: Vec<Company<'a>>,
}

#[derive(Serialize)]
struct Server<'a> {
    last: Ticks,
    os_platform: &'a str,
    device_type: &'a str,
}

#[derive(Serialize, PartialEq, Eq, PartialOrd, Ord)]
struct Company<'a> {
    company: &'a str,
    last: Ticks,
}

#[derive(Serialize)]
struct ConnectionLine<'a> {
    tenant: &'a str,
    device: &'a str,
    ip: &'a str,
    port: Option<u16>,
    last: Ticks,
    #[serde(skip_serializing_if = "Option::is_none")]
    candidate: Option<CandidateLine<'a>>,
}

#[derive(Serialize)]
struct CandidateLine<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    previous: Option<Ticks>,
    first: Ticks,
    end: Ticks,
    count: u32,
    late: bool,
    device_id: &'a str,
    event: EventLine,
    identities: usize,
    /// Of the identities, whatever their order.
    identities_digest: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    finding: Option<FindingLine>,
}

#[derive(Serialize)]
struct EventLine {
    report_id: i64,
    action: String,
    file_name: String,
    folder_path: String,
    command_line: String,
    sha256: String,
    account: String,
    company: String,
    product: String,
}

#[derive(Serialize)]
struct FindingLine {
    finding_id: String,
    revision: u32,
    open: bool,
    written: Ticks,
    count: u32,
    prevalence: u32,
    urls_digest: String,
}

#[derive(Serialize)]
struct DestinationLine<'a> {
    tenant: &'a str,
    ip: &'a str,
    devices: Vec<(String, Ticks)>,
    urls: Vec<(&'a str, Ticks)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    url_dropped: Option<Ticks>,
    /// About how many devices in the panes that begin at these instants; only where there are more than are kept.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    panes: Vec<(Ticks, u64)>,
}

impl Detector {
    /// Event times of the tracked connection that was silent longest and of the one heard of last; `None` without connections.
    #[must_use]
    pub fn connection_times(&self) -> Option<(Ticks, Ticks)> {
        let known = self.devices.rows.iter().flat_map(|(id, _)| self.devices.connections(id).map(|(_, _, known)| known));
        let times = known.map(|known| match known {
            Known::Last(last) => last,
            Known::Candidate(id) => self.candidates.row(id).last,
        });
        times.fold(None, |found, t| found.map_or(Some((t, t)), |(a, b): (Ticks, Ticks)| Some((a.min(t), b.max(t)))))
    }

    /// Gives each row as a line of JSON without its line break: tenants, vendors, devices each followed by its connections,
    /// destinations; each kind in the order of its keys. Only ids are collected and sorted: the lines are made one by one.
    ///
    /// # Errors
    /// Whatever `each` says; nothing more is given then.
    pub fn export<E>(&self, mut each: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let mut text = Vec::new();
        let mut line = |line: &Line<'_>| {
            text.clear();
            serde_json::to_writer(&mut text, line).expect("INV: rows hold only texts, numbers and booleans, which always serialise");
            each(&text)
        };
        let tenant_name = |id: u32| self.tenants.get(id as usize).map_or("", |t| &*t.name);
        let mut tenants: Vec<_> = self.tenants.iter().collect();
        tenants.sort_by(|a, b| a.name.cmp(&b.name));
        for tenant in tenants {
            let gap = Some(tenant.gap).filter(|gap| *gap != Ticks::MIN);
            line(&Line::Tenant { tenant: &tenant.name, clock: tenant.clock, observed_since: tenant.observed_since, gap })?;
        }
        self.gaps.iter().try_for_each(|input| line(&Line::Gap { input }))?;
        // A vendor that only rows out of the lookback name is as good as gone.
        let seen = self.devices.rows.iter().flat_map(|(id, d)| self.devices.vendors_within(id, self.clock_of(d.tenant), &self.settings));
        let mut vendors: Vec<u32> = seen.map(|(vendor, _)| vendor).collect::<BTreeSet<u32>>().into_iter().collect();
        vendors.sort_by_key(|id| {
            let row = self.vendors.rows.row(*id);
            (tenant_name(row.tenant), &*row.company)
        });
        for id in vendors {
            let row = self.vendors.rows.row(id);
            line(&Line::Vendor { tenant: tenant_name(row.tenant), company: &row.company, servers: self.vendors.servers(id) })?;
        }
        let mut devices: Vec<u32> = self.devices.rows.iter().map(|(id, _)| id).collect();
        devices.sort_unstable_by(|a, b| {
            let key = |id: &u32| {
                let row = self.devices.rows.row(*id);
                (tenant_name(row.tenant), &*row.name)
            };
            key(a).cmp(&key(b))
        });
        for id in devices {
            self.export_device(id, &mut line)?;
        }
        let mut destinations: Vec<u32> = self.destinations.rows.iter().map(|(id, _)| id).collect();
        destinations.sort_unstable_by(|a, b| {
            let key = |id: &u32| (tenant_name(self.destinations.rows.row(*id).tenant), self.destinations.ip(*id));
            key(a).cmp(&key(b))
        });
        for id in destinations {
            self.export_destination(id, &mut line)?;
        }
        Ok(())
    }

    fn export_device<E>(&self, id: u32, line: &mut impl FnMut(&Line<'_>) -> Result<(), E>) -> Result<(), E> {
        let row = self.devices.rows.row(id);
        let (now, lookback) = (self.clock_of(row.tenant), self.settings.lookback);
        let tenant = self.tenants.get(row.tenant as usize).map_or("", |t| &*t.name);
        let mut vendors: Vec<Company<'_>> = self
            .devices
            .vendors_within(id, now, &self.settings)
            .map(|(vendor, last)| Company { company: &self.vendors.rows.row(vendor).company, last })
            .collect();
        vendors.sort_unstable();
        let (server_seen, info_seen) = row.infos();
        let server = window::holds(server_seen, now, lookback).then(|| Server {
            last: server_seen,
            os_platform: self.strings.get(row.os_platform),
            device_type: self.strings.get(row.device_type),
        });
        let info_seen = window::holds(info_seen, now, lookback).then_some(info_seen);
        let forgotten = self.forgotten(id);
        let is_live = |known: &Known| match known {
            Known::Last(t) => *t > forgotten,
            Known::Candidate(_) => true,
        };
        let mut connections: Vec<(CompactString, Option<u16>, Known)> = self
            .devices
            .connections(id)
            .filter(|(_, _, known)| is_live(known))
            .map(|(destination, port, known)| (self.destinations.ip(destination), port_of(port), known))
            .collect();
        if server.is_none() && info_seen.is_none() && vendors.is_empty() && connections.is_empty() {
            return Ok(());
        }
        connections.sort_unstable_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
        let workstation = row.says_workstation();
        line(&Line::Device(Box::new(DeviceLine { tenant, name: &row.name, since: row.since, server, info_seen, workstation, vendors })))?;
        for (ip, port, known) in connections {
            let (last, candidate) = match known {
                Known::Last(last) => (last, None),
                Known::Candidate(id) => (self.candidates.row(id).last, Some(self.export_candidate(self.candidates.row(id)))),
            };
            line(&Line::Connection(Box::new(ConnectionLine { tenant, device: &row.name, ip: &ip, port, last, candidate })))?;
        }
        Ok(())
    }

    fn export_candidate(&self, row: &Candidate) -> CandidateLine<'_> {
        let event = candidate::unpack_details(self.strings.get(row.details), row.report_id);
        let (identities, digest) = row.identities.digest();
        CandidateLine {
            previous: (row.previous != Ticks::MIN).then_some(row.previous),
            first: row.first,
            end: row.end,
            count: row.count,
            late: row.late,
            device_id: self.strings.get(row.device_id),
            event: EventLine {
                report_id: event.report_id,
                action: event.action,
                file_name: event.file_name,
                folder_path: event.folder_path,
                command_line: event.command_line,
                sha256: event.sha256,
                account: event.account,
                company: event.company,
                product: event.product,
            },
            identities,
            identities_digest: format!("{digest:016x}"),
            finding: row.finding.as_ref().map(|f| FindingLine {
                finding_id: f.id.to_string(),
                revision: f.revision,
                open: f.open,
                written: f.written,
                count: f.count,
                prevalence: f.answer.prevalence,
                urls_digest: format!("{:016x}", f.answer.urls),
            }),
        }
    }

    fn export_destination<E>(&self, id: u32, line: &mut impl FnMut(&Line<'_>) -> Result<(), E>) -> Result<(), E> {
        let row = self.destinations.rows.row(id);
        let now = self.clock_of(row.tenant);
        let mut devices: Vec<(String, Ticks)> =
            self.destinations.devices_within(id, now, &self.settings).map(|(print, last)| (format!("{print:016x}"), last)).collect();
        devices.sort_unstable();
        let mut urls: Vec<(&str, Ticks)> =
            self.destinations.urls_within(id, now, &self.settings).map(|(url, last)| (self.strings.get(url), last)).collect();
        urls.sort_unstable();
        // Connections name the others: they stand in their lines.
        if devices.is_empty() && urls.is_empty() {
            return Ok(());
        }
        let tenant = self.tenants.get(row.tenant as usize).map_or("", |t| &*t.name);
        let url_dropped = self.destinations.url_dropped_within(id, now, &self.settings);
        let panes = self.destinations.panes_within(id, now, &self.settings);
        let ip = self.destinations.ip(id);
        line(&Line::Destination(Box::new(DestinationLine { tenant, ip: &ip, devices, urls, url_dropped, panes })))
    }
}
