//! Touches the rows that the next records need, before they are needed.
//!
//! A record's rows lie in some ten places of tables that are larger than any cache, and most places are only known from the one before.
//! Record by record the processor waits for each of them in turn. Here it waits for the first places of many records at once, then for
//! their second ones, and so on.
//!
//! Invariant: nothing is changed, and nothing that can be observed depends on it. Ids that were found are kept as hints, so that they are
//! not looked up again; a hint may be wrong by the time it is used, and whoever uses it compares the row's key.

use super::Detector;
use super::connections::{Known, port_code};
use super::strings::EMPTY;
use std::hint::black_box;

/// How many rows of a batch are worth looking ahead: enough to wait for together, few enough to stay in the nearest caches.
pub const LOOK_AHEAD: usize = 32;

/// What is known of a network row beforehand.
#[derive(Clone, Copy, Debug)]
pub struct Upcoming<'a> {
    /// `RemoteIP`.
    pub remote_ip: &'a str,
    /// `DeviceName`.
    pub device_name: &'a str,
    /// `RemotePort`.
    pub remote_port: Option<u16>,
}

/// Rows that a record will need, if they are there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hint {
    hashes: (u32, u32),
    pub(super) destination: Option<u32>,
    pub(super) device: Option<u32>,
    port: u32,
    url: u32,
    candidate: Option<u32>,
}

/// Hints of the records to come, in their order.
#[derive(Debug, Default)]
pub(super) struct Hints {
    hints: Vec<Hint>,
    next: usize,
}

impl Hints {
    /// The hint of the next network row, if anybody looked ahead.
    #[inline]
    pub(super) fn take(&mut self) -> (Option<u32>, Option<u32>) {
        let hint = self.hints.get(self.next);
        self.next += 1;
        hint.map_or((None, None), |hint| (hint.destination, hint.device))
    }
}

impl Detector {
    /// Prepares for the next [`LOOK_AHEAD`] network rows or fewer, which should come from the tenant of the last record. Wrong
    /// expectations cost time and nothing else.
    pub fn look_ahead<'a>(&mut self, rows: impl Iterator<Item = Upcoming<'a>>) {
        let tenant = self.last_tenant;
        let mut ahead = std::mem::take(&mut self.ahead);
        ahead.next = 0;
        ahead.hints.clear();
        ahead.hints.extend(rows.take(LOOK_AHEAD).map(|row| Hint {
            hashes: (self.destinations.hash(tenant, row.remote_ip), self.devices.hash(tenant, row.device_name)),
            destination: None,
            device: None,
            port: port_code(row.remote_port),
            url: EMPTY,
            candidate: None,
        }));
        for hint in &mut ahead.hints {
            hint.destination = self.destinations.likely(hint.hashes.0);
            hint.device = self.devices.likely(hint.hashes.1);
        }
        // The sum is a use of what is read, or it would not be read.
        let mut sum = 0u64;
        for hint in &ahead.hints {
            sum ^= hint.destination.map_or(0, |id| self.destinations.touch(id));
            sum ^= hint.device.map_or(0, |id| self.devices.touch(id));
        }
        for hint in &mut ahead.hints {
            if let Some(id) = hint.destination {
                let (seen, url) = self.destinations.touch_window(id);
                sum ^= seen;
                hint.url = url.unwrap_or(EMPTY);
            }
            if let Some(device) = hint.device {
                sum ^= self.devices.touch_lists(device);
                if let Some(Known::Candidate(id)) = hint.destination.and_then(|id| self.devices.connection(device, id, hint.port)) {
                    hint.candidate = Some(id);
                }
            }
        }
        for hint in &ahead.hints {
            sum ^= self.strings.touch(hint.url);
            sum ^= hint.candidate.map_or(0, |id| self.candidates.get(id).map_or(0, |row| row.touch()));
        }
        for hint in &ahead.hints {
            sum ^= self.strings.bytes(hint.url).first().map_or(0, |first| u64::from(*first));
        }
        black_box(sum);
        self.ahead = ahead;
    }
}
