//! What the rows say of one connection, and the gates judged from it, now and at any later instant.

use super::{Connection, Finding, New, Next, Obstacle, Peer, Rare, Seen, Server, Software, Vendor};
use crate::detector::connections::{Known, port_code, port_of};
use crate::detector::{Detector, Settings, window};
use crate::time::{Span, Ticks};
use std::collections::BTreeSet;

/// What the rows say of one connection: enough to judge it at the clock and at any later instant.
pub(super) struct Facts {
    pub(super) now: Ticks,
    since: Option<Ticks>,
    server_seen: Ticks,
    os_platform: String,
    device_type: String,
    says_workstation: bool,
    tracked: bool,
    vendors: Vec<VendorFacts>,
    pub(super) known: Option<KnownFacts>,
    pub(super) other_ports: Vec<Option<u16>>,
    /// Fingerprints of devices and when each was last seen.
    sightings: Vec<(u64, Ticks)>,
    devices: u64,
    urls: Vec<String>,
}

struct VendorFacts {
    company: String,
    last: Ticks,
    /// When each joined server leaves, if nothing more arrives.
    members: Vec<Ticks>,
}

impl VendorFacts {
    fn servers(&self, at: Ticks) -> u64 {
        self.members.iter().filter(|end| **end > at).count() as u64
    }
}

pub(super) enum KnownFacts {
    Last(Ticks),
    Candidate { first: Ticks, last: Ticks, previous: Ticks, end: Ticks, count: u32, late: bool, finding: Option<Finding> },
}

impl Facts {
    fn is_server(&self, at: Ticks, settings: &Settings) -> bool {
        window::holds(self.server_seen, at, settings.lookback)
    }

    fn third_party(&self, at: Ticks, settings: &Settings) -> bool {
        let rare =
            |v: &VendorFacts| window::holds(v.last, at, settings.lookback) && v.servers(at) < u64::from(settings.vendor_servers_below);
        self.is_server(at, settings) && self.vendors.iter().any(rare)
    }

    fn devices_within(&self, at: Ticks, settings: &Settings) -> u64 {
        self.sightings.iter().filter(|(_, last)| window::holds(*last, at, settings.prevalence_window)).count() as u64
    }

    fn is_rare(&self, at: Ticks, settings: &Settings) -> bool {
        self.devices_within(at, settings) < u64::from(settings.prevalence_below)
    }

    pub(super) fn warm_from(&self, settings: &Settings) -> Option<Ticks> {
        self.since.filter(|_| settings.warm_up > Span::ZERO).map(|since| since.plus(settings.warm_up))
    }

    /// The first gate that is shut at an instant from the clock on.
    pub(super) fn obstacle(&self, at: Ticks, settings: &Settings) -> Option<Obstacle> {
        let (first, previous, end) = match self.known {
            None => return Some(Obstacle::NeverSeen),
            Some(KnownFacts::Last(last)) if !window::holds(last, at, settings.lookback) => return Some(Obstacle::NeverSeen),
            Some(KnownFacts::Last(_)) => return Some(Obstacle::NotNew),
            Some(KnownFacts::Candidate { first, previous, end, .. }) => (first, previous, end),
        };
        if at >= end {
            Some(Obstacle::FirstDayOver)
        } else if window::holds(previous, at, settings.lookback) {
            Some(Obstacle::SeenBefore)
        } else if !self.is_server(at, settings) {
            Some(Obstacle::NotAServer)
        } else if !self.third_party(at, settings) {
            Some(Obstacle::NoRareSoftware)
        } else if !self.is_rare(at, settings) {
            Some(Obstacle::CommonDestination)
        } else if self.warm_from(settings).is_some_and(|warm| first < warm) {
            Some(Obstacle::WarmUp)
        } else {
            None
        }
    }

    /// Every instant at which a gate of a live candidate can move by itself, up to the end of its first day.
    fn instants(&self, settings: &Settings) -> BTreeSet<Ticks> {
        let Some(KnownFacts::Candidate { previous, end, .. }) = self.known else { return BTreeSet::new() };
        let lookback = [previous, self.server_seen].into_iter().chain(self.vendors.iter().map(|v| v.last));
        let ends = lookback.filter(|t| *t != Ticks::MIN).map(|t| window::ends(t, settings.lookback));
        let sightings = self.sightings.iter().map(|(_, last)| window::ends(*last, settings.prevalence_window));
        let members = self.vendors.iter().flat_map(|v| v.members.iter().copied());
        ends.chain(sightings).chain(members).chain([end]).filter(|at| *at > self.now && *at <= end).collect()
    }

    /// The changes of the verdict that time alone brings; the end of a first day always stands in it.
    pub(super) fn next(&self, settings: &Settings) -> Vec<Next> {
        let mut is_finding = self.obstacle(self.now, settings).is_none();
        let mut next = Vec::new();
        for at in self.instants(settings) {
            let obstacle = self.obstacle(at, settings);
            if obstacle.is_none() != is_finding || obstacle == Some(Obstacle::FirstDayOver) {
                is_finding = obstacle.is_none();
                next.push(Next { at, is_finding, obstacle });
            }
        }
        next
    }

    pub(super) fn server(&self, settings: &Settings) -> Server {
        let holds = self.is_server(self.now, settings);
        Server {
            holds,
            known_since: self.since,
            last: holds.then_some(self.server_seen),
            until: holds.then(|| window::ends(self.server_seen, settings.lookback)),
            os_platform: if holds { self.os_platform.clone() } else { String::new() },
            device_type: if holds { self.device_type.clone() } else { String::new() },
            says_workstation: self.says_workstation,
            tracked: self.tracked,
        }
    }

    pub(super) fn software(&self, settings: &Settings) -> Software {
        let threshold = settings.vendor_servers_below;
        let mut vendors: Vec<Vendor> = self
            .vendors
            .iter()
            .map(|v| {
                let servers = v.servers(self.now);
                let (rare, until) = (servers < u64::from(threshold), window::ends(v.last, settings.lookback));
                Vendor { company: v.company.clone(), servers, rare, last: v.last, until }
            })
            .collect();
        vendors.sort_by(|a, b| (!a.rare, &a.company).cmp(&(!b.rare, &b.company)));
        Software { holds: self.third_party(self.now, settings), threshold, vendors }
    }

    pub(super) fn newness(&self, settings: &Settings) -> New {
        let nothing = New {
            holds: false,
            last: None,
            new_again_after: None,
            first: None,
            previous: None,
            previous_until: None,
            count: None,
            late: false,
            until: None,
        };
        match self.known {
            Some(KnownFacts::Last(last)) if window::holds(last, self.now, settings.lookback) => {
                New { last: Some(last), new_again_after: Some(last.plus(settings.quiet())), ..nothing }
            }
            None | Some(KnownFacts::Last(_)) => nothing,
            Some(KnownFacts::Candidate { first, last, previous, end, count, late, .. }) => {
                let seen_before = window::holds(previous, self.now, settings.lookback);
                New {
                    holds: !seen_before,
                    last: Some(last),
                    new_again_after: Some(last.max(previous).plus(settings.quiet())),
                    first: Some(first),
                    previous: Some(previous).filter(|t| *t != Ticks::MIN),
                    previous_until: seen_before.then(|| window::ends(previous, settings.lookback)),
                    count: Some(u64::from(count)),
                    late,
                    until: Some(end),
                }
            }
        }
    }

    pub(super) fn rare(&self, settings: &Settings, peers: &[Peer]) -> Rare {
        let named = |print: u64| peers.iter().find(|peer| peer.fingerprint == Some(print)).map(|peer| peer.device.clone());
        let mut seen: Vec<Seen> = self
            .sightings
            .iter()
            .map(|(print, last)| Seen {
                device: named(*print),
                fingerprint: format!("{print:016x}"),
                last: *last,
                until: window::ends(*last, settings.prevalence_window),
            })
            .collect();
        seen.sort_by(|a, b| b.last.cmp(&a.last).then_with(|| a.fingerprint.cmp(&b.fingerprint)));
        Rare {
            holds: self.is_rare(self.now, settings),
            devices: self.devices,
            threshold: settings.prevalence_below,
            window: settings.prevalence_window.to_string(),
            seen,
            urls: self.urls.clone(),
        }
    }
}

impl Detector {
    /// All that is read of the rows for one connection.
    pub(super) fn facts(&self, of: &Connection<'_>) -> Option<Facts> {
        let tenant = self.find_tenant(of.tenant)?;
        let (now, settings) = (self.clock_of(tenant), &self.settings);
        let mut facts = Facts {
            now,
            since: None,
            server_seen: Ticks::MIN,
            os_platform: String::new(),
            device_type: String::new(),
            says_workstation: false,
            tracked: true,
            vendors: Vec::new(),
            known: None,
            other_ports: Vec::new(),
            sightings: Vec::new(),
            devices: 0,
            urls: Vec::new(),
        };
        let destination = self.destinations.find(tenant, of.ip);
        if let Some(id) = destination {
            facts.sightings = self.destinations.devices_within(id, now, settings).collect();
            facts.urls = self.destinations.urls_within(id, now, settings).map(|(url, _)| self.strings.get(url).to_owned()).collect();
            facts.urls.sort_unstable();
            facts.devices = self.destinations.prevalence(id, now, settings);
        }
        let Some(device) = self.devices.find(tenant, of.device) else { return Some(facts) };
        let row = self.devices.rows.row(device);
        facts.since = Some(row.since);
        facts.server_seen = row.infos().0;
        facts.os_platform = self.strings.get(row.os_platform).to_owned();
        facts.device_type = self.strings.get(row.device_type).to_owned();
        facts.says_workstation = row.says_workstation();
        facts.tracked = self.devices.is_tracked(device, settings);
        let vendors = self.devices.vendors_within(device, now, settings);
        facts.vendors = vendors.map(|(vendor, last)| self.vendor_facts(vendor, last, now)).collect();
        if let Some(destination) = destination {
            let forgotten = self.horizon(tenant, device);
            let known = self.devices.connection(device, destination, port_code(of.port));
            let known = known.filter(|known| !matches!(known, Known::Last(last) if *last <= forgotten));
            facts.known = known.map(|known| self.known_facts(known));
            let others = self.devices.connections(device).filter(|(of_it, port, _)| *of_it == destination && *port != port_code(of.port));
            facts.other_ports = others.map(|(_, port, _)| port_of(port)).collect();
            facts.other_ports.sort_unstable();
        }
        Some(facts)
    }

    fn vendor_facts(&self, vendor: u32, last: Ticks, now: Ticks) -> VendorFacts {
        let lookback = self.settings.lookback;
        let leaves = |device: u32| {
            let row = self.devices.rows.row(device);
            let mut vendors = self.devices.vendors_within(device, now, &self.settings);
            let seen = vendors.find(|(of, _)| *of == vendor).map_or(Ticks::MIN, |(_, last)| last);
            window::ends(row.infos().0.min(seen), lookback)
        };
        let members = self.vendors.members(vendor).map(leaves).collect();
        VendorFacts { company: self.vendors.rows.row(vendor).company.to_string(), last, members }
    }

    fn known_facts(&self, known: Known) -> KnownFacts {
        match known {
            Known::Last(last) => KnownFacts::Last(last),
            Known::Candidate(id) => {
                let row = self.candidates.row(id);
                let finding = row.finding.as_ref().map(|f| Finding {
                    finding_id: f.id.to_string(),
                    revision: f.revision,
                    open: f.open,
                    at: f.written,
                });
                KnownFacts::Candidate {
                    first: row.first,
                    last: row.last,
                    previous: row.previous,
                    end: row.end,
                    count: row.count,
                    late: row.late,
                    finding,
                }
            }
        }
    }
}
