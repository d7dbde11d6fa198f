//! Spiteful fleets: small, seeded, and made of coincidences.
//!
//! Few devices, addresses and companies, so that every threshold is crossed both ways again and again; times on a coarse grid,
//! so that events, arrivals and ends of windows fall on the very same tick, or one tick beside it. A fleet is a pure function
//! of its [`Shape`] and seed. Realistic traffic is not its business.

mod maker;

use firstseen::defender::{Body, DeviceInfo, NetworkEvent, Record};
use firstseen::time::{Span, Ticks};
use maker::Maker;

/// A record that owns its texts.
#[derive(Clone, Debug)]
pub(crate) struct Owned {
    pub(crate) arrival: Ticks,
    pub(crate) tenant: &'static str,
    pub(crate) row: Row,
}

/// The row of an owned record: what the query reads, and the identity.
#[derive(Clone, Debug)]
pub(crate) enum Row {
    Network(Network),
    Device(Device),
    Skipped,
}

#[derive(Clone, Debug)]
pub(crate) struct Network {
    pub(crate) timestamp: Ticks,
    pub(crate) device_id: String,
    pub(crate) device_name: String,
    pub(crate) report_id: i64,
    pub(crate) action: &'static str,
    pub(crate) ip: String,
    pub(crate) ip_type: &'static str,
    pub(crate) port: Option<u16>,
    pub(crate) url: String,
    pub(crate) company: String,
}

#[derive(Clone, Debug)]
pub(crate) struct Device {
    pub(crate) timestamp: Ticks,
    pub(crate) device_id: String,
    pub(crate) device_name: String,
    pub(crate) os: &'static str,
    pub(crate) kind: &'static str,
}

impl Owned {
    /// As the detector takes it.
    pub(crate) fn record(&self) -> Record<'_> {
        let body = match &self.row {
            Row::Network(n) => Body::Network(NetworkEvent {
                timestamp: n.timestamp,
                device_id: (&n.device_id).into(),
                device_name: &n.device_name,
                report_id: n.report_id,
                action_type: n.action.into(),
                remote_ip: &n.ip,
                remote_ip_type: n.ip_type.into(),
                remote_port: n.port,
                remote_url: &n.url,
                company: &n.company,
                ..NetworkEvent::default()
            }),
            Row::Device(d) => Body::Device(DeviceInfo {
                timestamp: d.timestamp,
                device_id: &d.device_id,
                device_name: &d.device_name,
                os_platform: d.os,
                device_type: d.kind,
            }),
            Row::Skipped => Body::Skipped("AdvancedHunting-DeviceProcessEvents"),
        };
        Record { arrival: self.arrival, tenant: self.tenant, body }
    }
}

/// What a fleet is like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) names: usize,
    pub(crate) addresses: usize,
    /// Network events, before repeats.
    pub(crate) events: usize,
    pub(crate) days: i64,
    /// Width of the time grid.
    pub(crate) grid: Span,
    /// The smallest step beside the grid: a tick, or a microsecond where the other side knows no finer.
    pub(crate) step: Span,
    /// One tenant or two.
    pub(crate) tenants: usize,
    /// The windows whose ends its coincidences aim at, in days: lookback, new, prevalence.
    pub(crate) windows: [i64; 3],
}

impl Shape {
    /// Small enough for a brute-force answer at every instant that matters.
    pub(crate) const SMALL: Shape =
        Shape { names: 14, addresses: 25, events: 520, days: 20, grid: Span::hours(6), step: Span(1), tenants: 2, windows: [14, 1, 5] };
    /// Larger, on whole microseconds, for the query engine.
    pub(crate) const QUERY: Shape =
        Shape { names: 22, addresses: 90, events: 2600, days: 21, grid: Span::hours(3), step: Span(10), tenants: 1, windows: [14, 1, 5] };
}

/// SplitMix64: good enough to be spiteful, and the same everywhere.
#[derive(Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub(crate) fn ticks(&mut self, from: Ticks, to: Ticks) -> Ticks {
        Ticks(from.0 + (self.next() % (to.0 - from.0 + 1) as u64) as i64)
    }

    pub(crate) fn percent(&mut self, p: usize) -> bool {
        self.below(100) < p
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// The fleet's day 0.
pub(crate) fn start() -> Ticks {
    Ticks::parse("2026-03-01T00:00:00Z").unwrap()
}

/// All records, in input order.
pub(crate) fn generate(shape: Shape, seed: u64) -> Vec<Owned> {
    let mut records = Vec::new();
    for tenant in ["tenant-a", "tenant-b"].iter().take(shape.tenants) {
        let rng = Rng::new(seed.wrapping_mul(31) + records.len() as u64);
        let mut maker = Maker::new(rng, shape, tenant);
        maker.devices();
        maker.events();
        maker.vendor_crossings();
        maker.crowds();
        maker.gaps();
        maker.repeats();
        records.extend(maker.into_records());
    }
    let mut rng = Rng::new(seed ^ 0x5EED);
    // A random order first, so that records of one instant come in no order of kind.
    for i in (1..records.len()).rev() {
        records.swap(i, rng.below(i + 1));
    }
    records.sort_by_key(|record| record.arrival);
    // Some envelopes are older than what came before them: the clock is a maximum.
    for i in 1..records.len() {
        if rng.percent(4) {
            let to = i.saturating_sub(1 + rng.below(6));
            records.swap(i, to);
        }
    }
    records
}
