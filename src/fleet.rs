//! Seeded synthetic fleets: what `generate` writes, `demo` lives through, and load tests and benches feed on.
//!
//! Invariant: the messages are a function of [`FleetOptions`] alone (no clock, no other source of chance), and they come in
//! arrival order with memory bounded by the records under way. Reading them back is `defender`'s.
//!
//! The background is a company's: servers, workstations, a few Macs and odd devices; popularity of devices and destinations is
//! heavy-tailed; servers keep to their destinations, so that after two weeks a new rare connection is an event.

mod catalogue;
pub mod export;
mod random;
pub mod render;
mod stream;
mod world;
pub mod write;

use crate::time::{Span, Ticks};
use stream::TenantStream;

/// What a fleet is like. [`Default`] is a small company over 15 days.
#[derive(Clone, Debug, PartialEq)]
pub struct FleetOptions {
    /// The same options with the same seed give the same bytes.
    pub seed: u64,
    /// Tenants, each a fleet of its own; at least one.
    pub tenants: u32,
    /// Devices of each tenant.
    pub devices: u32,
    /// Share of servers among the devices, 0 to 1.
    pub servers: f64,
    /// First instant: events happen, and messages arrive, in `start .. start + span`. What would arrive later is left out.
    pub start: Ticks,
    /// How long the run is.
    pub span: Span,
    /// Network records a device and day, on average. Inventory rows (hourly to daily, at most a twentieth) come on top.
    pub records_per_device_day: f64,
    /// Share of records that are delivered twice.
    pub repeats: f64,
    /// Share of records that come hours to two days late, from machines that were out of reach. The others take 2 to 7 minutes.
    pub late: f64,
    /// How many destinations that nobody has seen a server contacts in a day, on average.
    pub new_per_server_day: f64,
    /// A supply-chain attack in the first tenant.
    pub attack: Option<Attack>,
    /// All columns that Defender sends, about 2.9 KB a network record; otherwise those that are read, about 1.05 KB.
    pub padding: bool,
}

impl Default for FleetOptions {
    fn default() -> Self {
        FleetOptions {
            seed: 1,
            tenants: 1,
            devices: 300,
            servers: 0.2,
            start: Ticks(20_454 * Span::days(1).0),
            span: Span::days(15),
            records_per_device_day: 15.0,
            repeats: 0.035,
            late: 0.02,
            new_per_server_day: 0.15,
            attack: None,
            padding: true,
        }
    }
}

impl FleetOptions {
    /// The same fleet at the rate that gives about `total` network records over the whole span and all tenants.
    #[must_use]
    pub fn with_total(mut self, total: u64) -> Self {
        let device_days =
            f64::from(self.devices.max(1)) * f64::from(self.tenants.max(1)) * self.span.0.max(1) as f64 / Span::days(1).0 as f64;
        self.records_per_device_day = total as f64 / device_days;
        self
    }
}

/// A server's niche software turns: its service process opens a connection to an address and a URL that nobody has seen, on
/// port 443, and again a few times, about every 75 seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attack {
    /// Event time of the first connection; it arrives two to three minutes later. Leave nine minutes of the span for all of them.
    pub at: Ticks,
}

/// Where the attack will show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttackTarget {
    /// Tenant.
    pub tenant: String,
    /// Device name.
    pub device_name: String,
    /// DeviceId at that time.
    pub device_id: String,
    /// Address that is contacted, by this device only.
    pub remote_ip: String,
    /// Port that is contacted.
    pub remote_port: u16,
    /// URL of all those connections.
    pub remote_url: String,
    /// Company of the process; on fewer than ten servers.
    pub company: String,
    /// Event time of the first connection.
    pub at: Ticks,
    /// Earliest envelope time among the connections' records.
    pub arrival: Ticks,
    /// How many connections there are.
    pub connections: u32,
}

/// One Kafka message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Greatest envelope time of its records; messages come in this order.
    pub arrival: Ticks,
    /// Records in it: about 20, of one tenant, at most ten minutes apart.
    pub records: u32,
    /// `{"records":[…]}`.
    pub bytes: Vec<u8>,
}

/// A fleet's messages in arrival order.
#[derive(Debug)]
pub struct Fleet {
    tenants: Vec<TenantStream>,
    /// The next message of each tenant.
    heads: Vec<Option<Message>>,
}

impl Fleet {
    /// Sets the world up; messages are made as they are asked for.
    #[must_use]
    pub fn new(options: &FleetOptions) -> Self {
        let mut tenants: Vec<_> = (0..options.tenants.max(1)).map(|number| TenantStream::new(options, number)).collect();
        let heads = tenants.iter_mut().map(TenantStream::next_message).collect();
        Fleet { tenants, heads }
    }

    /// Where the attack shows; `None` without one, or where no Windows server runs niche software.
    #[must_use]
    pub fn attack(&self) -> Option<&AttackTarget> {
        self.tenants.iter().find_map(TenantStream::target)
    }

    /// The tenants' ids.
    pub fn tenants(&self) -> impl Iterator<Item = &str> {
        self.tenants.iter().map(TenantStream::tenant)
    }
}

impl Iterator for Fleet {
    type Item = Message;

    fn next(&mut self) -> Option<Message> {
        let first = self.heads.iter().enumerate().filter_map(|(i, m)| Some((m.as_ref()?.arrival, i))).min()?.1;
        let (head, tenant) = (self.heads.get_mut(first)?, self.tenants.get_mut(first)?);
        std::mem::replace(head, tenant.next_message())
    }
}

/// The demo's fleet: 300 devices over the 15 days that end at `end`, under 60 MB of messages, with an attack ten minutes
/// before the end.
#[must_use]
pub fn demo_options(end: Ticks) -> FleetOptions {
    let span = Span::days(15);
    FleetOptions {
        seed: 2020,
        start: end.minus(span),
        span,
        // A record without padding is 1.05 KB.
        records_per_device_day: 10.0,
        attack: Some(Attack { at: end.minus(Span::minutes(10)) }),
        padding: false,
        ..FleetOptions::default()
    }
}

#[cfg(test)]
#[path = "fleet/tests.rs"]
mod tests;
