//! The sans-io core: records in, changes of findings out. No clock, no I/O, no threads, no metrics.

use crate::defender::Record;
use crate::finding::Change;
use crate::time::{Span, Ticks};

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
        }
    }
}

/// What the detector wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Write this change to the findings topic.
    Change(Box<Change>),
    /// The record could not be accepted and moved nothing: event time further than `max_clock_skew` ahead of the arrival clock.
    TimestampAhead,
    /// The record was accepted, but a live candidate had already counted this event.
    Repeat,
}

/// The whole state of the detector.
#[derive(Debug)]
pub struct Detector {
    settings: Settings,
}

impl Detector {
    /// An empty state.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Detector { settings }
    }

    /// Moves the tenant's clock to the record's arrival, ending what is due first, then applies the record.
    pub fn record(&mut self, record: &Record<'_>, effects: &mut Vec<Effect>) {
        let _ = (record, effects, &self.settings);
    }

    /// Moves the tenant's arrival clock without a record (idle input); earlier instants than the clock's are ignored.
    pub fn advance(&mut self, tenant: &str, to: Ticks, effects: &mut Vec<Effect>) {
        let _ = (tenant, to, effects);
    }
}
