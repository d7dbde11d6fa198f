//! What was read, and how much of it passed each gate of the query.

use crate::detector::{Detector, Funnel, Settings};
use crate::feed::{Feed, Tally};
use crate::time::{Span, Ticks};
use serde::Serialize;

/// What was read.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Input {
    /// Messages, or lines.
    pub messages: u64,
    /// Records of all kinds.
    pub records: u64,
    /// Accepted rows of DeviceNetworkEvents.
    pub network: u64,
    /// Accepted rows of DeviceInfo.
    pub inventory: u64,
    /// Rows of other tables.
    pub other_tables: u64,
    /// Events that had been counted already.
    pub repeats: u64,
    /// Records that could not be accepted.
    pub dead_letters: u64,
    /// Each tenant's range.
    pub tenants: Vec<TenantRange>,
}

/// What of a tenant was read.
#[derive(Clone, Debug, Serialize)]
pub struct TenantRange {
    /// `tenantId`; empty where the input names none.
    pub tenant: String,
    /// Its first arrival.
    pub from: Ticks,
    /// Its last arrival.
    pub to: Ticks,
    /// Until then the baseline is young; later than `to` when it never was old enough.
    pub warm_until: Ticks,
}

/// A gate of the query.
#[derive(Clone, Debug, Serialize)]
pub struct Gate {
    /// Its name.
    pub gate: &'static str,
    /// What passes it.
    pub passes: String,
    /// Records that passed it and all before it.
    pub records: u64,
}

/// When a baseline that began at `since` is old enough for "never seen".
pub(super) fn warm_until(since: Ticks, lookback: Span, new_within: Span) -> Ticks {
    since.plus(lookback.minus(new_within))
}

impl Input {
    /// What a feed has read.
    #[must_use]
    pub fn of(feed: &Feed) -> Input {
        let (detector, tally): (&Detector, &Tally) = (&feed.detector, &feed.tally);
        let settings = detector.settings();
        let range = |(tenant, to): (&str, Ticks)| {
            let from = detector.observed_since(tenant).unwrap_or(to);
            TenantRange { tenant: tenant.to_owned(), from, to, warm_until: warm_until(from, settings.lookback, settings.new_within) }
        };
        Input {
            messages: tally.messages,
            records: tally.records(),
            network: tally.network,
            inventory: tally.device,
            other_tables: tally.skipped.values().sum(),
            repeats: tally.repeats,
            dead_letters: tally.dead.values().sum(),
            tenants: detector.clocks().map(range).collect(),
        }
    }
}

/// The gates in the query's order.
pub(super) fn gates(input: &Input, funnel: Funnel, opened: u64, settings: &Settings) -> Vec<Gate> {
    let gate = |gate, passes: String, records| Gate { gate, passes, records };
    let Settings { prevalence_below, vendor_servers_below, .. } = settings;
    vec![
        gate("records", "everything that was read".to_owned(), input.records),
        gate("network events", "accepted rows of DeviceNetworkEvents".to_owned(), funnel.network),
        gate("qualifying", "connections to public addresses, inside the lookback".to_owned(), funnel.qualifying),
        gate(
            "from third-party servers",
            format!("the device is a server with software of a company on fewer than {vendor_servers_below} servers"),
            funnel.third_party,
        ),
        gate("new", format!("the connection is new in {}", settings.lookback), funnel.new),
        gate("rare", format!("fewer than {prevalence_below} devices talk to the destination"), funnel.rare),
        gate("findings", "opened; later events of the same connection are not counted again".to_owned(), opened),
    ]
}
