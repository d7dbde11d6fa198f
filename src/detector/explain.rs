//! Why a connection is, or is not, a finding now, gate by gate with its numbers, and when that changes by itself.
//!
//! Nothing is taken from what was said before: each gate is judged from the rows, at the arrival clock and at each later instant at
//! which a window ends, as if nothing arrived any more. That the verdict is the open set is shown by a property test. What is read of
//! the rows stands in [`Detector::facts`] and [`Detector::who`] alone.

mod facts;

use super::connections::{Known, port_of};
use super::{Detector, sketch, window};
use crate::finding::{Change, ChangeKind};
use crate::time::Ticks;
use facts::KnownFacts;
use serde::Serialize;

/// Which connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection<'a> {
    /// Tenant.
    pub tenant: &'a str,
    /// Device name, exactly.
    pub device: &'a str,
    /// Remote address, as Defender writes it.
    pub ip: &'a str,
    /// Remote port; `None` is the query's null group.
    pub port: Option<u16>,
}

/// Why a connection is no finding: the first of these that is so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Obstacle {
    /// No qualifying event of this device to this address and port is in the lookback.
    NeverSeen,
    /// It was first seen longer ago than `query.new_within`, and has not been silent long enough since.
    NotNew,
    /// Its first day is over.
    FirstDayOver,
    /// An event before its first day is still in the lookback.
    SeenBefore,
    /// The device is no server.
    NotAServer,
    /// None of the device's vendors is rare.
    NoRareSoftware,
    /// The destination is not rare.
    CommonDestination,
    /// The device was not observed for `detection.warm_up` when the connection was first seen.
    WarmUp,
}

impl Obstacle {
    /// In words, as the end of a sentence.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Obstacle::NeverSeen => "the device has no qualifying event to this address and port in the lookback",
            Obstacle::NotNew => "the connection is not new",
            Obstacle::FirstDayOver => "its first day is over",
            Obstacle::SeenBefore => "an earlier event of the connection is still in the lookback",
            Obstacle::NotAServer => "the device does not count as a server",
            Obstacle::NoRareSoftware => "the device runs no rare third-party software",
            Obstacle::CommonDestination => "the destination is not rare in the fleet",
            Obstacle::WarmUp => "the device was in its warm-up when the connection was first seen",
        }
    }
}

/// The whole answer. Instants are exact; what is not known is absent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// The connection.
    pub tenant: String,
    /// See `tenant`.
    pub device: String,
    /// See `tenant`.
    pub ip: String,
    /// See `tenant`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The tenant's arrival clock, at which this holds.
    pub at: Ticks,
    /// Whether it is a finding.
    pub is_finding: bool,
    /// If not, why not: the first gate that is shut.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub obstacle: Option<Obstacle>,
    /// The finding that its candidate has, open or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finding: Option<Finding>,
    /// Gate: the device is a server.
    pub server: Server,
    /// Gate: it runs software of a rare vendor.
    pub software: Software,
    /// Gate: the connection is new.
    pub new: New,
    /// Gate: the destination is rare.
    pub rare: Rare,
    /// Gate: the device is past its warm-up.
    pub warm_up: WarmUp,
    /// Other ports of the address that this device has connections to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub other_ports: Vec<Option<u16>>,
    /// What changes by itself, if nothing more arrives, in order.
    pub next: Vec<Next>,
}

/// The finding of the connection's candidate.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// Its id.
    pub finding_id: String,
    /// Its last change.
    pub revision: u32,
    /// Whether that left it open.
    pub open: bool,
    /// From when that holds.
    pub at: Ticks,
}

/// Whether the device is a server.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Server {
    /// It is.
    pub holds: bool,
    /// Since when the device is known: the arrival clock when it was first heard of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub known_since: Option<Ticks>,
    /// The newest DeviceInfo row in the lookback that says server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<Ticks>,
    /// When that row leaves the lookback.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Ticks>,
    /// What that row says.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub os_platform: String,
    /// What that row says.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub device_type: String,
    /// The newest DeviceInfo row with a platform says workstation or macOS.
    pub says_workstation: bool,
    /// Its connections are kept at all (`detection.track_workstations`).
    pub tracked: bool,
}

/// Whether the device runs software of a rare vendor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Software {
    /// It does, and is a server.
    pub holds: bool,
    /// A vendor is rare below this many servers.
    pub threshold: u32,
    /// The vendors that its qualifying events in the lookback name: the rare first, then by name.
    pub vendors: Vec<Vendor>,
}

/// A vendor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Vendor {
    /// Company name; empty for software without one.
    pub company: String,
    /// On how many servers its software connected in the lookback.
    pub servers: u64,
    /// Fewer than the threshold.
    pub rare: bool,
    /// The device's last qualifying event of this vendor.
    pub last: Ticks,
    /// When that leaves the lookback.
    pub until: Ticks,
}

/// Whether the connection is new.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct New {
    /// It is.
    pub holds: bool,
    /// The connection's last qualifying event, while it is in the lookback.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<Ticks>,
    /// An event later than this makes it new (again), if it stays silent until then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_again_after: Option<Ticks>,
    /// Since when it is a candidate: its first event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<Ticks>,
    /// The event before that, as far as it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous: Option<Ticks>,
    /// When that event leaves the lookback, if it is in it: only then does the query call the connection new.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous_until: Option<Ticks>,
    /// Events since.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Its first event arrived more than `query.new_within` late.
    pub late: bool,
    /// When its first day is over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Ticks>,
}

/// Whether the destination is rare.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rare {
    /// It is.
    pub holds: bool,
    /// Devices that contacted it in the window; exact below 64 or the threshold, if that is higher, and at least that many beyond.
    pub devices: u64,
    /// It is rare below this many.
    pub threshold: u32,
    /// The window.
    pub window: String,
    /// The devices that are kept, the last seen first.
    pub seen: Vec<Seen>,
    /// The names by which it was contacted in the window.
    pub urls: Vec<String>,
}

/// A device that contacted the destination.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Seen {
    /// Its name, where a live candidate of its tells; states keep fingerprints of DeviceIds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Fingerprint of its DeviceId.
    pub fingerprint: String,
    /// When it was last seen.
    pub last: Ticks,
    /// When that leaves the window.
    pub until: Ticks,
}

/// Whether the device is past its warm-up.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WarmUp {
    /// It is, or warm-up is off.
    pub holds: bool,
    /// The setting.
    pub length: String,
    /// Connections first seen before this instant are held back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Ticks>,
}

/// A change that time alone brings.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Next {
    /// When.
    pub at: Ticks,
    /// Whether it is a finding from then on.
    pub is_finding: bool,
    /// If not, why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub obstacle: Option<Obstacle>,
}

/// Somebody with a connection to an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Peer {
    /// Device name.
    pub device: String,
    /// Port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Its last qualifying event.
    pub last: Ticks,
    /// Fingerprint of its DeviceId, where a live candidate tells.
    #[serde(skip)]
    fingerprint: Option<u64>,
}

impl Detector {
    /// Why a connection is, or is not, a finding at its tenant's arrival clock. `peers`, from [`Detector::who`], give names to the
    /// devices that contacted the address; without them it costs a few looks into tables. `None` for a tenant never heard of.
    #[must_use]
    pub fn explain(&self, of: &Connection<'_>, peers: &[Peer]) -> Option<Explanation> {
        let facts = self.facts(of)?;
        let settings = &self.settings;
        let obstacle = facts.obstacle(facts.now, settings);
        let warm_from = facts.warm_from(settings);
        let first = match facts.known {
            Some(KnownFacts::Candidate { first, .. }) => first,
            _ => facts.now,
        };
        let finding = match &facts.known {
            Some(KnownFacts::Candidate { finding, .. }) => finding.clone(),
            _ => None,
        };
        Some(Explanation {
            tenant: of.tenant.to_owned(),
            device: of.device.to_owned(),
            ip: of.ip.to_owned(),
            port: of.port,
            at: facts.now,
            is_finding: obstacle.is_none(),
            obstacle,
            finding,
            server: facts.server(settings),
            software: facts.software(settings),
            new: facts.newness(settings),
            rare: facts.rare(settings, peers),
            warm_up: WarmUp { holds: warm_from.is_none_or(|warm| first >= warm), length: settings.warm_up.to_string(), until: warm_from },
            next: facts.next(settings),
            other_ports: facts.other_ports,
        })
    }

    /// Every device with a connection to an address in the lookback, in the order of names and ports. Looks at all connections: for a
    /// state that nobody waits for.
    #[must_use]
    pub fn who(&self, tenant: &str, ip: &str) -> Vec<Peer> {
        let Some(tenant) = self.find_tenant(tenant) else { return Vec::new() };
        let Some(destination) = self.destinations.find(tenant, ip) else { return Vec::new() };
        let now = self.clock_of(tenant);
        let mut peers = Vec::new();
        for (id, row) in self.devices.rows.iter().filter(|(_, row)| row.tenant == tenant) {
            for (_, port, known) in self.devices.connections(id).filter(|(of, _, _)| *of == destination) {
                let (last, fingerprint) = match known {
                    Known::Last(last) => (last, None),
                    Known::Candidate(id) => {
                        let candidate = self.candidates.row(id);
                        (candidate.last, Some(sketch::fingerprint(self.strings.get(candidate.device_id))))
                    }
                };
                if window::holds(last, now, self.settings.lookback) {
                    peers.push(Peer { device: row.name.to_string(), port: port_of(port), last, fingerprint });
                }
            }
        }
        peers.sort_unstable();
        peers
    }

    /// The open findings of one device, with the values of now, in the order of addresses and ports.
    #[must_use]
    pub fn open_findings_of(&self, tenant: &str, device: &str) -> Vec<Change> {
        let Some((tenant, device)) = self.find_tenant(tenant).and_then(|id| Some((id, self.devices.find(id, device)?))) else {
            return Vec::new();
        };
        let now = self.clock_of(tenant);
        let open = self.devices.rows.row(device).candidates.iter().filter_map(|id| {
            let finding = self.candidates.row(*id).finding.as_ref().filter(|finding| finding.open)?;
            Some(self.describe(*id, finding.id, finding.revision, ChangeKind::Updated, "", now))
        });
        let mut open: Vec<Change> = open.collect();
        open.sort_by(|a, b| (&a.remote_ip, a.remote_port).cmp(&(&b.remote_ip, b.remote_port)));
        open
    }

    /// Device names of a tenant that are this one but for the case of ASCII letters: what a person may have meant.
    #[must_use]
    pub fn devices_like(&self, tenant: &str, name: &str) -> Vec<String> {
        let Some(tenant) = self.find_tenant(tenant) else { return Vec::new() };
        let rows = self.devices.rows.iter().filter(|(_, row)| row.tenant == tenant && row.name.eq_ignore_ascii_case(name));
        let mut names: Vec<String> = rows.map(|(_, row)| row.name.to_string()).collect();
        names.sort_unstable();
        names
    }
}
