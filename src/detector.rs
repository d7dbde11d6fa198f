//! The sans-io core: records in, changes of findings out. No clock, no I/O, no threads, no metrics.
//!
//! Three keyed operators, [`device`], [`destination`] and [`vendor`], own their tables and speak in [`message`]s. This file
//! owns the tenants' arrival clocks and the order of things at one instant: all that time ends at it, then each row judged
//! once, in key order; then the records that arrive at it, judged after each.
//!
//! Invariants: INV-order, the output depends on the input's order alone (no hash order, no host clock, no batch size);
//! INV-due, no timer due at or before a tenant's clock is left when a record is applied.

/// A [`Turn`] and the tables beside it, borrowed from a detector at once.
macro_rules! turn {
    ($self:ident, $tenant:expr, $now:expr) => {
        Turn {
            now: $now,
            settings: &$self.settings,
            timers: &mut $self.tenants.get_mut($tenant as usize).expect("INV-ids: a tenant's index").timers,
            strings: &mut $self.strings,
            outbox: &mut $self.outbox,
        }
    };
}

mod address;
mod candidate;
mod cells;
mod change;
mod check;
mod connections;
mod destination;
mod device;
mod distinct;
mod eviction;
pub mod explain;
mod export;
mod findings;
mod first_seen;
mod gap;
mod index;
mod judge;
mod limits;
mod look_ahead;
mod message;
mod packed;
mod pool;
mod prints;
mod settings;
pub mod sketch;
mod slab;
pub mod snapshot;
mod strings;
#[cfg(test)]
mod tests;
mod timers;
mod vendor;
mod window;
pub mod wire;

pub use candidate::REMEMBERED_IDENTITIES;
pub use cells::{Funnel, MOST_CELLS};
pub use change::Lack;
pub use eviction::Usage;
pub use gap::FindingRow;
pub use limits::{Limit, Limits};
pub use look_ahead::{LOOK_AHEAD, Upcoming};

use crate::defender::{Body, DeviceInfo, Record};
use crate::finding::Change;
use crate::time::{Span, Ticks};
use candidate::Candidates;
use connections::Known;
use destination::Destinations;
use device::Devices;
use index::Index;
use limits::LastSeen;
use message::Message;
use strings::Strings;
use timers::{Target, Timers};
use vendor::Vendors;

/// The hunting query's numbers and the switches beyond it.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// `lookback`: how long a connection, a server row or a vendor counts.
    pub lookback: Span,
    /// A connection is new while its first event is younger than this.
    pub new_within: Span,
    /// Window of prevalence and URLs.
    pub prevalence_window: Span,
    /// A destination is rare below this many devices.
    pub prevalence_below: u32,
    /// A vendor is rare below this many servers.
    pub vendor_servers_below: u32,
    /// How far event time may run ahead of the arrival clock.
    pub max_clock_skew: Span,
    /// Least time of the arrival clock between an open finding's written changes and its next update; zero writes each.
    pub update_interval: Span,
    /// At most this many URLs are kept for a destination.
    pub urls_per_destination: usize,
    /// Report connections first seen in an event that arrived more than `new_within` late.
    pub report_late: bool,
    /// Hold findings of a device back until it has been observed this long; zero is off.
    pub warm_up: Span,
    /// Keep connections of devices that DeviceInfo calls workstations or macOS.
    pub track_workstations: bool,
    /// How much may be kept.
    pub limits: Limits,
}

impl Settings {
    /// Distinct devices of a destination that are kept exactly.
    pub(crate) fn device_cap(&self) -> usize {
        (self.prevalence_below as usize).max(64)
    }

    /// A connection is new again after this much silence.
    pub(crate) fn quiet(&self) -> Span {
        self.lookback.minus(self.new_within)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            lookback: Span::days(14),
            new_within: Span::days(1),
            prevalence_window: Span::days(5),
            prevalence_below: 6,
            vendor_servers_below: 10,
            max_clock_skew: Span::hours(1),
            update_interval: Span::minutes(1),
            urls_per_destination: 1000,
            report_late: true,
            warm_up: Span::ZERO,
            track_workstations: true,
            limits: Limits::default(),
        }
    }
}

/// What the detector wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Write this change to the findings topic.
    Change(Box<Change>),
    /// Opened, retracted or closed in these cells of [`Detector::of_cells`]. Id and revision say nothing; vendors are those below the
    /// greatest threshold.
    Cells(Box<Change>, u64),
    /// The record could not be accepted and moved nothing: event time further than `max_clock_skew` ahead of the arrival clock.
    TimestampAhead,
    /// The record was accepted, but a live candidate had already counted this event.
    Repeat,
}

/// Rows that are tracked, for metrics and status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tracked {
    /// Connections (tenant, device, address, port).
    pub connections: usize,
    /// Live candidates.
    pub candidates: usize,
    /// Destinations (tenant, address).
    pub destinations: usize,
    /// Vendors (tenant, company).
    pub vendors: usize,
    /// Devices (tenant, device name).
    pub devices: usize,
    /// Timers, stale ones included.
    pub timers: usize,
    /// Findings that are open.
    pub open_findings: usize,
}

/// A tenant: its arrival clock and what is due on it.
#[derive(Debug)]
struct Tenant {
    name: Box<str>,
    clock: Ticks,
    observed_since: Ticks,
    /// Messages that arrived before this instant are missing; `MIN` when none are.
    gap: Ticks,
    timers: Timers,
    /// What was last seen at or before is forgotten, for the limits of all devices; `MIN` when nothing was. See `eviction`.
    horizon: Ticks,
    /// Its connections by when they were last seen; kept only with a limit of all devices.
    seen: LastSeen,
    /// Before this instant findings may be wrong, since settings were changed to such as need what was not kept; `MIN` when none were.
    partial: Ticks,
}

/// What an operator may touch besides its own tables while it handles one message.
struct Turn<'a> {
    now: Ticks,
    settings: &'a Settings,
    timers: &'a mut Timers,
    strings: &'a mut Strings,
    outbox: &'a mut Vec<Message>,
}

/// The whole state of the detector.
#[derive(Debug)]
pub struct Detector {
    settings: Settings,
    tenants: Vec<Tenant>,
    tenant_index: Index,
    /// The tenant of the last record.
    last_tenant: u32,
    strings: Strings,
    devices: Devices,
    destinations: Destinations,
    vendors: Vendors,
    candidates: Candidates,
    connections: usize,
    open_findings: usize,
    outbox: Vec<Message>,
    /// Candidates to judge at the end of this instant or record.
    dirty: Vec<u32>,
    scratch: String,
    ahead: look_ahead::Hints,
    snapshot: snapshot::Progress,
    /// Input lanes of which messages are gone, until their next one comes.
    gaps: std::collections::BTreeSet<Box<str>>,
    /// Where it judges by many thresholds; never in the service.
    cells: Option<Box<cells::Cells>>,
    evictions: eviction::Evictions,
}

impl Detector {
    /// An empty state.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self::with_hash_seed(settings, 0x5eed)
    }

    /// An empty state whose tables hash with another seed. Nothing that can be observed depends on it.
    #[must_use]
    pub fn with_hash_seed(settings: Settings, seed: u64) -> Self {
        let below = settings.vendor_servers_below;
        Detector {
            settings,
            tenants: Vec::new(),
            tenant_index: Index::new(seed),
            last_tenant: 0,
            strings: Strings::new(seed),
            devices: Devices::new(seed),
            destinations: Destinations::new(seed),
            vendors: Vendors::new(seed, below),
            candidates: Candidates::default(),
            connections: 0,
            open_findings: 0,
            outbox: Vec::new(),
            dirty: Vec::new(),
            scratch: String::new(),
            ahead: look_ahead::Hints::default(),
            snapshot: snapshot::Progress::default(),
            gaps: std::collections::BTreeSet::new(),
            cells: None,
            evictions: eviction::Evictions::default(),
        }
    }

    /// The settings it judges by.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Each tenant's arrival clock.
    pub fn clocks(&self) -> impl Iterator<Item = (&str, Ticks)> {
        self.tenants.iter().map(|t| (&*t.name, t.clock))
    }

    /// Since when a tenant is observed: the arrival clock at its first record.
    #[must_use]
    pub fn observed_since(&self, tenant: &str) -> Option<Ticks> {
        self.find_tenant(tenant).and_then(|id| self.tenants.get(id as usize)).map(|t| t.observed_since)
    }

    /// How many rows are tracked.
    #[must_use]
    pub fn tracked(&self) -> Tracked {
        Tracked {
            connections: self.connections,
            candidates: self.candidates.len(),
            destinations: self.destinations.rows.len(),
            vendors: self.vendors.rows.len(),
            devices: self.devices.rows.len(),
            timers: self.tenants.iter().map(|t| t.timers.len()).sum(),
            open_findings: self.open_findings,
        }
    }

    /// Moves the tenant's clock to the record's arrival, ending what is due first, then applies the record.
    pub fn record(&mut self, record: &Record<'_>, effects: &mut Vec<Effect>) {
        let hint = if matches!(record.body, Body::Network(_)) { self.ahead.take() } else { (None, None) };
        // Most records come from the tenant of the one before.
        let is_last = self.tenants.get(self.last_tenant as usize).is_some_and(|t| *t.name == *record.tenant);
        let tenant = if is_last { Some(self.last_tenant) } else { self.find_tenant(record.tenant) };
        let clock = tenant.and_then(|t| self.tenants.get(t as usize)).map_or(record.arrival, |t| t.clock.max(record.arrival));
        let event_time = match &record.body {
            Body::Network(event) => event.timestamp,
            Body::Device(info) => info.timestamp,
            Body::Skipped(_) => Ticks::MIN,
        };
        if event_time > clock.plus(self.settings.max_clock_skew) {
            effects.push(Effect::TimestampAhead);
            return;
        }
        let tenant = tenant.unwrap_or_else(|| self.add_tenant(record.tenant, clock, clock));
        self.last_tenant = tenant;
        self.advance_tenant(tenant, clock, effects);
        match &record.body {
            Body::Network(event) => self.network(tenant, clock, event, hint, effects),
            Body::Device(info) => self.device_info(tenant, clock, info),
            Body::Skipped(_) => return,
        }
        self.settle(tenant, clock, effects);
        if self.cells.is_some()
            && let Body::Network(event) = &record.body
        {
            self.count_gates(tenant, clock, event);
        }
        self.keep_within_limits(effects);
    }

    /// Moves the tenant's arrival clock without a record (idle input); earlier instants than the clock's, and tenants never
    /// heard of, are ignored.
    pub fn advance(&mut self, tenant: &str, to: Ticks, effects: &mut Vec<Effect>) {
        if let Some(at) = self.find_tenant(tenant)
            && self.tenants.get(at as usize).is_some_and(|t| t.clock < to)
        {
            self.advance_tenant(at, to, effects);
        }
    }

    fn find_tenant(&self, name: &str) -> Option<u32> {
        let is_name = |id: u32| self.tenants.get(id as usize).is_some_and(|t| *t.name == *name);
        self.tenant_index.find(self.tenant_index.hash(name.as_bytes()), is_name)
    }

    fn add_tenant(&mut self, name: &str, clock: Ticks, observed_since: Ticks) -> u32 {
        let id = self.tenants.len() as u32;
        self.tenant_index.insert(self.tenant_index.hash(name.as_bytes()), id);
        let seen = LastSeen::new(self.settings.lookback, Ticks::MIN);
        let (gap, horizon, partial) = (Ticks::MIN, Ticks::MIN, Ticks::MIN);
        self.tenants.push(Tenant { name: name.into(), clock, observed_since, gap, timers: Timers::default(), horizon, seen, partial });
        id
    }

    fn advance_tenant(&mut self, tenant: u32, to: Ticks, effects: &mut Vec<Effect>) {
        let Some(row) = self.tenants.get_mut(tenant as usize) else { return };
        row.clock = row.clock.max(to);
        while let Some(at) = self.tenants.get(tenant as usize).and_then(|t| t.timers.next_due()).filter(|due| *due <= to) {
            self.end_instant(tenant, at, effects);
        }
    }

    /// All that time ends at `at`, then each row that it touched, once, in key order.
    fn end_instant(&mut self, tenant: u32, at: Ticks, effects: &mut Vec<Effect>) {
        let mut removed = Vec::new();
        while let Some(target) = self.tenants.get_mut(tenant as usize).and_then(|t| t.timers.pop_at(at)) {
            // A stale entry may name a row whose id another tenant has taken since, armed for the very same instant.
            if self.tenant_of(target) != Some(tenant) {
                continue;
            }
            match target {
                Target::Candidate(id) => {
                    if self.candidates.get(id).is_some_and(|c| c.timer.is_at(at)) {
                        self.candidates.row_mut(id).timer = timers::Armed::NEVER;
                        self.dirty.push(id);
                    }
                }
                Target::Destination(id) => {
                    let was_sighted = self.destinations.is_sighted(id);
                    let mut turn = turn!(self, tenant, at);
                    self.destinations.due(id, &mut turn);
                    self.evictions.sighted -= u64::from(was_sighted && !self.destinations.is_sighted(id));
                }
                Target::Device(id) => {
                    let (mut vendors_gone, mut connections_gone) = (Vec::new(), Vec::new());
                    let mut turn = turn!(self, tenant, at);
                    if self.devices.due(id, &mut turn, |v| vendors_gone.push(v), |d| connections_gone.push(d)) {
                        removed.push(id);
                    }
                    self.deliver(tenant, at);
                    self.connections -= connections_gone.len();
                    vendors_gone.into_iter().for_each(|v| self.vendors.release(v));
                    connections_gone.into_iter().for_each(|d| self.destinations.release(d));
                }
            }
        }
        self.settle(tenant, at, effects);
        removed.into_iter().for_each(|id| self.devices.remove(id, &mut self.strings));
    }

    fn tenant_of(&self, target: Target) -> Option<u32> {
        match target {
            Target::Candidate(id) => self.candidates.get(id).map(|candidate| self.devices.rows.row(candidate.device).tenant),
            Target::Destination(id) => self.destinations.rows.get(id).map(|destination| destination.tenant),
            Target::Device(id) => self.devices.rows.get(id).map(|device| device.tenant),
        }
    }

    /// Delivers what the operators said, then judges what it touched.
    fn settle(&mut self, tenant: u32, now: Ticks, effects: &mut Vec<Effect>) {
        self.deliver(tenant, now);
        if !self.dirty.is_empty() {
            self.judge_dirty(tenant, now, effects);
        }
    }

    fn deliver(&mut self, tenant: u32, now: Ticks) {
        let mut next = 0;
        while let Some(&message) = self.outbox.get(next) {
            next += 1;
            match message {
                Message::Join { vendor, device } => self.vendors.join(vendor, device, &mut self.outbox),
                Message::Leave { vendor, device } => self.vendors.leave(vendor, device, &mut self.outbox),
                Message::Rare { device, rare, .. } => {
                    if self.devices.rare_changed(device, rare) {
                        self.third_party_changed(device);
                    }
                }
                Message::Servers { device } => self.servers_changed(device),
                Message::Watch { destination, candidate } => {
                    let mut turn = turn!(self, tenant, now);
                    self.destinations.watch(destination, candidate, &mut turn);
                }
                Message::Unwatch { destination, candidate } => self.destinations.unwatch(destination, candidate),
                Message::Answer { candidate, answer } => {
                    if let Some(row) = self.candidates.get_mut(candidate) {
                        row.answer = Some(Box::new(answer));
                        self.dirty.push(candidate);
                    }
                }
            }
        }
        self.outbox.clear();
    }

    /// Candidates of a third-party device watch their destinations; of others, they wait without asking.
    fn third_party_changed(&mut self, device: u32) {
        let device = self.devices.rows.row(device);
        for &candidate in &device.candidates {
            let destination = self.candidates.row(candidate).destination;
            self.outbox.push(if device.is_third_party() {
                Message::Watch { destination, candidate }
            } else {
                Message::Unwatch { destination, candidate }
            });
            self.dirty.push(candidate);
        }
    }

    fn device_info(&mut self, tenant: u32, now: Ticks, info: &DeviceInfo<'_>) {
        if window::holds(info.timestamp, now, self.settings.lookback) {
            let device = self.devices.id(tenant, info.device_name, None, now);
            let mut turn = turn!(self, tenant, now);
            self.devices.info(device, info, &mut turn);
        }
    }
}
