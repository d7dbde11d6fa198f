//! Many thresholds judged at once: for each candidate, the pairs of `prevalence_below` and `vendor_servers_below` for which it is a row
//! of the answer. A pair is a *cell*, a bit of a mask.
//!
//! A detector of cells keeps its state by the largest thresholds of all cells. Counts below those are exact, and whatever changes one of
//! them judges the candidates again that it may concern, as a crossing of the only threshold does elsewhere. So the cells of a candidate
//! follow from two numbers, its destination's prevalence and the server count of its device's rarest vendor. It says [`Effect::Cells`]
//! and no [`Effect::Change`]: what a finding is beside that (revisions, updates) differs from cell to cell and is not kept. Cells are not
//! part of a snapshot.
//!
//! Invariant (INV-cells): after each instant and after each record a cell is open exactly for the candidates whose finding a detector
//! with that cell's thresholds holds open.

use super::connections::{Known, port_code};
use super::judge::{self, CAUSES};
use super::{Detector, Effect, Settings, window};
use crate::defender::NetworkEvent;
use crate::finding::{Change, ChangeKind, FindingId};
use crate::time::Ticks;

/// The most cells of one detector.
pub const MOST_CELLS: usize = u64::BITS as usize;

/// Nobody has asked for it yet, so nothing was judged by it.
const STALE: u32 = u32::MAX - 1;
/// The device has no vendor: no threshold is above it.
const NONE: u32 = u32::MAX;

/// Network events that passed each gate of the query, judged at their arrival by the configured thresholds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Funnel {
    /// Accepted rows of DeviceNetworkEvents.
    pub network: u64,
    /// Of them, such as the query takes as connections, inside the lookback.
    pub qualifying: u64,
    /// Of them, from servers with rare third-party software.
    pub third_party: u64,
    /// Of them, of connections that are new.
    pub new: u64,
    /// Of them, to destinations that are rare in the fleet.
    pub rare: u64,
}

/// What a detector of cells keeps beside its tables.
#[derive(Debug)]
pub(super) struct Cells {
    prevalence: Vec<u32>,
    vendors: Vec<u32>,
    /// By candidate: the cells that hold it open.
    open: Vec<u64>,
    /// By device: servers of its rarest vendor.
    least: Vec<u32>,
    /// The configured thresholds.
    gates: (u32, u32),
    /// Counted if anybody wants it.
    funnel: Option<Funnel>,
}

impl Cells {
    /// The cells whose thresholds are above both counts.
    fn above(&self, prevalence: u32, least: u32) -> u64 {
        let cells = self.vendors.iter().flat_map(|v| self.prevalence.iter().map(move |p| (*p, *v)));
        (0..).zip(cells).filter(|(_, (p, v))| prevalence < *p && least < *v).fold(0, |mask, (n, _)| mask | 1 << n)
    }

    fn open_mut(&mut self, candidate: u32) -> &mut u64 {
        let at = candidate as usize;
        if at >= self.open.len() {
            self.open.resize(at + 1, 0);
        }
        self.open.get_mut(at).expect("INV-cells: there is a place for each candidate")
    }
}

impl Detector {
    /// An empty state that judges by each of `vendor_servers_below` with each of `prevalence_below`, in that order: the cell of the i-th
    /// vendor threshold with the j-th of p prevalence thresholds is bit i · p + j. At most [`MOST_CELLS`] pairs; the rest is left out.
    /// With `counts_gates` it keeps a [`Funnel`], by the thresholds of `settings`.
    #[must_use]
    pub fn of_cells(settings: Settings, prevalence_below: &[u32], vendor_servers_below: &[u32], counts_gates: bool) -> Self {
        let gates = (settings.prevalence_below, settings.vendor_servers_below);
        let greatest = |below: &[u32], own: u32| below.iter().copied().max().unwrap_or(own).max(own);
        let settings = Settings {
            prevalence_below: greatest(prevalence_below, gates.0),
            vendor_servers_below: greatest(vendor_servers_below, gates.1),
            ..settings
        };
        let mut detector = Detector::new(settings);
        detector.vendors.tell_counts();
        let vendors = vendor_servers_below.iter().copied().take(MOST_CELLS / prevalence_below.len().max(1)).collect();
        let (open, least, funnel) = (Vec::new(), Vec::new(), counts_gates.then(Funnel::default));
        let cells = Cells { prevalence: prevalence_below.to_vec(), vendors, open, least, gates, funnel };
        detector.cells = Some(Box::new(cells));
        detector
    }

    /// How many events passed each gate, if it counts them.
    #[must_use]
    pub fn funnel(&self) -> Option<Funnel> {
        self.cells.as_ref().and_then(|cells| cells.funnel)
    }

    /// Servers of the device's rarest vendor; [`NONE`] when it is joined to none.
    fn least(&mut self, device: u32) -> u32 {
        let Some(cells) = &mut self.cells else { return NONE };
        let at = device as usize;
        if at >= cells.least.len() {
            cells.least.resize(at + 1, STALE);
        }
        let Some(least) = cells.least.get_mut(at) else { return NONE };
        if *least == STALE {
            let joined = self.devices.vendors(device).iter().filter(|seen| seen.joined());
            *least = joined.map(|seen| self.vendors.servers(seen.vendor()) as u32).min().unwrap_or(NONE);
        }
        *least
    }

    /// A vendor of the device has another count: its candidates are judged again if that was its rarest one, or has become so.
    pub(super) fn servers_changed(&mut self, device: u32) {
        let Some(before) = self.cells.as_mut().and_then(|cells| cells.least.get_mut(device as usize)).filter(|least| **least != STALE)
        else {
            return;
        };
        let before = std::mem::replace(before, STALE);
        if self.least(device) != before {
            self.dirty.extend_from_slice(&self.devices.rows.row(device).candidates);
        }
    }

    /// Judges a candidate in all cells at once.
    pub(super) fn judge_cells(&mut self, id: u32, now: Ticks, effects: &mut Vec<Effect>) {
        let Some(was) = self.cells.as_mut().map(|cells| *cells.open_mut(id)) else { return };
        let row = self.candidates.row(id);
        if now >= row.end {
            return self.end_in_cells(id, (ChangeKind::Closed, ""), now, effects);
        }
        let device = row.device;
        let common = judge::common_obstacle(row, self.devices.rows.row(device).is_server(), now, &self.settings);
        let answer = row.answer.as_ref().map(|answer| answer.prevalence).filter(|p| *p < self.settings.prevalence_below);
        let prevalence = match common {
            None if self.devices.rows.row(device).is_third_party() => answer.unwrap_or(u32::MAX),
            _ => u32::MAX,
        };
        if was == 0 && prevalence == u32::MAX {
            return;
        }
        let least = self.least(device);
        let warm = self.candidates.row(id).first >= self.warm_from(device);
        let Some(cells) = &self.cells else { return };
        let is = if warm && prevalence != u32::MAX { cells.above(prevalence, least) } else { 0 };
        if is == was {
            return;
        }
        let [late, no_server, no_third_party, common_destination, cold] = {
            let (rare_vendor, rare_destination) = (cells.above(0, least), cells.above(prevalence, 0));
            let split = |on: bool, mask: u64| if on { mask } else { 0 };
            let lost = was & !is;
            let late = split(common == Some(CAUSES.not_new), lost);
            let no_server = split(common == Some(CAUSES.no_server), lost);
            let rest = lost & !late & !no_server;
            let no_third_party = rest & !rare_vendor;
            let common_destination = rest & rare_vendor & !rare_destination;
            [late, no_server, no_third_party, common_destination, rest & rare_vendor & rare_destination]
        };
        self.open_cells(id, is);
        for (cause, mask) in [
            (CAUSES.not_new, late),
            (CAUSES.no_server, no_server),
            (CAUSES.no_third_party, no_third_party),
            (CAUSES.common_destination, common_destination),
            (CAUSES.cold, cold),
        ] {
            self.say_cells(id, ChangeKind::Retracted, cause, mask, now, effects);
        }
        self.say_cells(id, ChangeKind::Opened, "", is & !was, now, effects);
    }

    /// A candidate ends, and with it what is open of it in any cell.
    pub(super) fn end_in_cells(&mut self, id: u32, (kind, cause): (ChangeKind, &'static str), now: Ticks, effects: &mut Vec<Effect>) {
        let Some(was) = self.cells.as_mut().map(|cells| *cells.open_mut(id)).filter(|was| *was != 0) else { return };
        self.open_cells(id, 0);
        self.say_cells(id, kind, cause, was, now, effects);
    }

    fn open_cells(&mut self, id: u32, mask: u64) {
        if let Some(cells) = &mut self.cells {
            *cells.open_mut(id) = mask;
        }
    }

    fn say_cells(&self, id: u32, kind: ChangeKind, cause: &'static str, cells: u64, now: Ticks, effects: &mut Vec<Effect>) {
        if cells != 0 {
            let change: Change = self.describe(id, FindingId([0; 16]), 1, kind, cause, now);
            effects.push(Effect::Cells(Box::new(change), cells));
        }
    }

    /// Counts a network event that was accepted and applied, at the last gate that it passes.
    pub(super) fn count_gates(&mut self, tenant: u32, now: Ticks, event: &NetworkEvent<'_>) {
        if self.funnel().is_none() {
            return;
        }
        let passed = self.gates_passed(tenant, now, event);
        let Some(funnel) = self.cells.as_mut().and_then(|cells| cells.funnel.as_mut()) else { return };
        let Funnel { network, qualifying, third_party, new, rare } = funnel;
        [network, qualifying, third_party, new, rare].into_iter().take(1 + passed).for_each(|n| *n += 1);
    }

    fn gates_passed(&mut self, tenant: u32, now: Ticks, event: &NetworkEvent<'_>) -> usize {
        let Some((prevalence_below, vendor_servers_below)) = self.cells.as_ref().map(|cells| cells.gates) else { return 0 };
        if !event.qualifies() || !window::holds(event.timestamp, now, self.settings.lookback) {
            return 0;
        }
        let Some(device) = self.devices.find(tenant, event.device_name) else { return 1 };
        if !self.devices.rows.row(device).is_third_party() || self.least(device) >= vendor_servers_below {
            return 1;
        }
        let known = self.destinations.find(tenant, event.remote_ip);
        let known = known.and_then(|destination| self.devices.connection(device, destination, port_code(event.remote_port)));
        let Some(Known::Candidate(id)) = known else { return 2 };
        let row = self.candidates.row(id);
        if window::holds(row.previous, now, self.settings.lookback) {
            return 2;
        }
        if row.answer.as_ref().is_some_and(|answer| answer.prevalence < prevalence_below) { 4 } else { 3 }
    }
}
