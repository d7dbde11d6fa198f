//! Keeping within limits: which connections are forgotten before their time, and what is known of that.
//!
//! What goes is decided by horizons: of a connection that was last seen at or before its device's or its tenant's horizon nothing is known
//! any more, from the instant on at which the horizon rises. So nobody looks for the entries at once: a table drops them when it grows,
//! or the sweep comes by, some places for each new connection. Live candidates at or before a horizon end with it, judged in key order.
//!
//! - A device has at most its share. It is counted when enough have come that there could be more; the oldest go, with a stride to spare.
//! - All devices together: of the tenant that has most, the class that was silent longest goes until the limits are kept. What was seen
//!   within the last minutes never goes so, nor does the memory of other tables count for more than half of the limit.
//!
//! Invariant (INV-evict): what goes, and when, depends on the input alone, not on which entries tables still hold.

use super::connections::Known;
use super::limits::{CANDIDATE_BYTES, CONNECTION_BYTES, DESTINATION_BYTES, DEVICE_BYTES, LastSeen, Limit};
use super::wire::{Get, Put, WireError};
use super::{Detector, Effect, window};
use crate::time::Ticks;
use std::collections::BTreeMap;

/// Places of tables that the sweep looks at for each new connection.
const SWEPT: i64 = 64;

/// What eviction keeps beside the horizons.
#[derive(Debug, Default)]
pub(super) struct Evictions {
    /// Candidates that began without a known past while a horizon could have hidden it, with that horizon.
    pub(super) hidden: BTreeMap<u32, Ticks>,
    /// Candidates that end at this instant, and for which limit.
    going: BTreeMap<u32, Limit>,
    /// Connections counted for the limits of all devices; see [`LastSeen`].
    pub(super) counted: u64,
    /// Destinations with a sighting in the prevalence window.
    pub(super) sighted: u64,
    /// A connection came that was not known before.
    pub(super) grown: bool,
    /// A snapshot held what is counted.
    loaded: bool,
    sweep: Sweep,
    usage: Usage,
}

/// A walk through the devices' tables for what no longer counts.
#[derive(Debug, Default)]
struct Sweep {
    next: u32,
    end: u32,
    /// Places that may be looked at; below zero after a large table.
    balance: i64,
}

/// How near the limits are, and what was evicted since the detector was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Connections that count for `limits.tracked_connections`, and the limit.
    pub connections: (u64, Option<u64>),
    /// Reckoned bytes, and `limits.state_memory`.
    pub memory: (u64, Option<u64>),
    /// The most that a device was seen to have since the last look, its name, and `limits.connections_per_device`.
    pub device: (u64, String, u64),
    /// Evicted connections, by [`Limit::ALL`].
    pub evicted: [u64; 3],
    /// The device that lost connections last for its share.
    pub device_evicted: String,
}

impl Detector {
    /// What was last seen at or before this instant is not known any more of the device's connections.
    #[inline]
    pub(super) fn horizon(&self, tenant: u32, device: u32) -> Ticks {
        let of_tenant = self.tenants.get(tenant as usize).map_or(Ticks::MIN, |t| t.horizon);
        self.devices.rows.get(device).map_or(of_tenant, |row| row.horizon.max(of_tenant))
    }

    /// A device's connections last seen at or before this instant don't count: out of the lookback, or beyond the horizon.
    pub(super) fn forgotten(&self, device: u32) -> Ticks {
        let tenant = self.devices.rows.row(device).tenant;
        self.clock_of(tenant).minus(self.settings.lookback).max(self.horizon(tenant, device))
    }

    /// The horizon that may hide the past of a candidate at `now`.
    pub(super) fn hidden_before(&self, candidate: u32, now: Ticks) -> Option<Ticks> {
        self.evictions.hidden.get(&candidate).copied().filter(|horizon| window::holds(*horizon, now, self.settings.lookback))
    }

    /// The counts of a tenant, passed on to `now`, where they are kept.
    #[inline]
    pub(super) fn note_seen(&mut self, tenant: u32, now: Ticks, note: impl FnOnce(&mut LastSeen)) {
        if self.settings.limits.of_all()
            && let Some(tenant) = self.tenants.get_mut(tenant as usize)
        {
            let before = tenant.seen.total();
            tenant.seen.pass(now.minus(self.settings.lookback), now.minus(self.settings.prevalence_window));
            note(&mut tenant.seen);
            self.evictions.counted = self.evictions.counted - before + tenant.seen.total();
        }
    }

    /// Before a connection of the device is kept that is not known: leaves room for it.
    pub(super) fn make_way(&mut self, tenant: u32, device: u32, now: Ticks) {
        let share = self.settings.limits.connections_per_device;
        if self.devices.rows.row(device).kept >= share {
            self.count_device(tenant, device, now);
        }
        let (kept, name) = self.devices.keep_one_more(device);
        let usage = &mut self.evictions.usage;
        if u64::from(kept) * 5 >= u64::from(share) * 4 && u64::from(kept) > usage.device.0 {
            (usage.device.0, usage.device.1) = (u64::from(kept), name.to_owned());
        }
        self.evictions.grown = true;
    }

    /// Counts what a device has, and evicts the oldest when that leaves no room for a stride of more.
    fn count_device(&mut self, tenant: u32, device: u32, now: Ticks) {
        let (share, stride) = (self.settings.limits.connections_per_device as usize, self.settings.limits.stride() as usize);
        let forgotten = self.forgotten(device);
        let last_of = |known: Known| match known {
            Known::Last(last) => Some(last).filter(|last| *last > forgotten),
            Known::Candidate(id) => self.candidates.get(id).map(|row| row.last),
        };
        let mut lasts: Vec<Ticks> = self.devices.connections(device).filter_map(|(_, _, known)| last_of(known)).collect();
        let n = lasts.len();
        let most = share.saturating_sub(stride).max(1);
        if n <= most {
            self.devices.rows.row_mut(device).kept = n as u32;
            return;
        }
        let going = n - most.saturating_sub(stride).max(1).min(n - 1);
        let (_, horizon, _) = lasts.select_nth_unstable(going - 1);
        let horizon = *horizon;
        let gone = self
            .devices
            .connections(device)
            .filter_map(|(_, _, known)| last_of(known).filter(|last| *last <= horizon).map(|last| (known, last)));
        let gone: Vec<(Known, Ticks)> = gone.collect();
        for (known, last) in &gone {
            match known {
                Known::Last(_) => self.note_seen(tenant, now, |seen| seen.remove(*last)),
                Known::Candidate(id) => self.evict_candidate(*id, Limit::ConnectionsPerDevice),
            }
        }
        let row = self.devices.rows.row_mut(device);
        row.kept = (n - gone.len()) as u32;
        row.horizon = row.horizon.max(horizon);
        self.evictions.usage.device_evicted = row.name.to_string();
        self.count_evicted(Limit::ConnectionsPerDevice, gone.len() as u64);
        self.begin_sweep();
    }

    fn count_evicted(&mut self, limit: Limit, n: u64) {
        if let Some(count) = self.evictions.usage.evicted.get_mut(limit as usize) {
            *count += n;
        }
    }

    /// The candidate ends when what was touched is judged.
    fn evict_candidate(&mut self, id: u32, limit: Limit) {
        self.evictions.going.insert(id, limit);
        self.dirty.push(id);
    }

    /// Why a candidate ends at this instant, if it is evicted.
    pub(super) fn going(&mut self, id: u32) -> Option<Limit> {
        if self.evictions.going.is_empty() { None } else { self.evictions.going.remove(&id) }
    }

    /// Bytes that the tables are reckoned to take, from how many rows of each count.
    #[must_use]
    pub fn footprint(&self) -> u64 {
        self.connection_bytes() + self.other_bytes()
    }

    fn other_bytes(&self) -> u64 {
        self.evictions.sighted * DESTINATION_BYTES
            + self.candidates.len() as u64 * CANDIDATE_BYTES
            + self.devices.rows.len() as u64 * DEVICE_BYTES
    }

    /// The part of it that eviction gives back: slots, and destinations that only connections still name, one each at most.
    fn connection_bytes(&self) -> u64 {
        let old: u64 = self.tenants.iter().map(|tenant| tenant.seen.old()).sum();
        self.connections_counted() * CONNECTION_BYTES + old * DESTINATION_BYTES
    }

    fn connections_counted(&self) -> u64 {
        if self.settings.limits.of_all() { self.evictions.counted } else { self.connections as u64 }
    }

    /// Which limit of all devices is exceeded.
    fn exceeded(&self) -> Option<Limit> {
        let limits = &self.settings.limits;
        if limits.tracked_connections.is_some_and(|most| self.evictions.counted > most) {
            return Some(Limit::TrackedConnections);
        }
        let most = limits.state_memory?;
        (self.connection_bytes() > most / 2 && self.footprint() > most).then_some(Limit::StateMemory)
    }

    /// After a record: what was silent longest goes until the limits are kept.
    pub(super) fn keep_within_limits(&mut self, effects: &mut Vec<Effect>) {
        if !std::mem::take(&mut self.evictions.grown) {
            return;
        }
        self.sweep();
        if !self.settings.limits.of_all() {
            return;
        }
        if self.exceeded().is_none() {
            return;
        }
        self.pass_all();
        let mut raised = BTreeMap::new();
        while let Some(limit) = self.exceeded() {
            // The first of those that have most.
            let most = self.tenants.iter().zip(0u32..).max_by_key(|(tenant, id)| (tenant.seen.total(), std::cmp::Reverse(*id)));
            let Some((_, id)) = most else { break };
            let Some(tenant) = self.tenants.get_mut(id as usize) else { break };
            let Some((horizon, n)) = tenant.seen.evict(tenant.clock) else { break };
            tenant.horizon = tenant.horizon.max(horizon);
            self.evictions.counted -= n;
            raised.insert(id, limit);
            self.count_evicted(limit, n);
        }
        if !raised.is_empty() {
            self.begin_sweep();
        }
        for (tenant, limit) in raised {
            let clock = self.clock_of(tenant);
            let horizon = self.tenants.get(tenant as usize).map_or(Ticks::MIN, |t| t.horizon);
            if window::holds(horizon, clock, self.settings.new_within) {
                let is_gone = |row: &super::candidate::Candidate| row.last <= horizon && self.devices.rows.row(row.device).tenant == tenant;
                let gone: Vec<u32> = self.candidates.iter().filter(|(_, row)| is_gone(row)).map(|(id, _)| id).collect();
                gone.into_iter().for_each(|id| self.evict_candidate(id, limit));
                self.settle(tenant, clock, effects);
            }
        }
    }

    /// Brings the counts of every tenant to its clock.
    fn pass_all(&mut self) {
        let (lookback, prevalence_window) = (self.settings.lookback, self.settings.prevalence_window);
        for tenant in &mut self.tenants {
            tenant.seen.pass(tenant.clock.minus(lookback), tenant.clock.minus(prevalence_window));
        }
        self.evictions.counted = self.tenants.iter().map(|tenant| tenant.seen.total()).sum();
    }

    /// Begins a walk through all tables, unless one is under way.
    fn begin_sweep(&mut self) {
        let sweep = &mut self.evictions.sweep;
        if sweep.next >= sweep.end {
            *sweep = Sweep { next: 0, end: self.devices.rows.id_end(), balance: 0 };
        }
    }

    /// A part of the walk: entries that no longer count give their places, and their destinations, back.
    fn sweep(&mut self) {
        if self.evictions.sweep.next >= self.evictions.sweep.end {
            return;
        }
        let mut sweep = std::mem::take(&mut self.evictions.sweep);
        sweep.balance += SWEPT;
        while sweep.balance > 0 && sweep.next < sweep.end {
            let device = sweep.next;
            sweep.next += 1;
            sweep.balance -= 1 + self.devices.connection_count(device) as i64;
            if self.devices.rows.get(device).is_some() {
                self.drop_forgotten(device);
            }
        }
        self.evictions.sweep = sweep;
        // More may have been evicted meanwhile in tables that were passed already.
        if self.settings.limits.of_all() && self.connections as u64 > self.evictions.counted + self.evictions.counted / 8 + 1024 {
            self.begin_sweep();
        }
    }

    fn drop_forgotten(&mut self, device: u32) {
        let forgotten = self.forgotten(device);
        if self.devices.connections(device).any(|(_, _, known)| matches!(known, Known::Last(last) if last <= forgotten)) {
            let mut dropped = Vec::new();
            self.devices.drop_connections(device, forgotten, |destination| dropped.push(destination));
            self.connections -= dropped.len();
            dropped.into_iter().for_each(|destination| self.destinations.release(destination));
        }
    }

    /// Counts anew what counts for the limits of all devices.
    pub(super) fn recount(&mut self) {
        let lookback = self.settings.lookback;
        let mut seen: Vec<LastSeen> = self.tenants.iter().map(|tenant| LastSeen::new(lookback, tenant.horizon)).collect();
        let devices = self.devices.rows.iter().filter(|_| self.settings.limits.of_all());
        for (id, row) in devices {
            let (forgotten, Some(seen)) = (self.forgotten(id), seen.get_mut(row.tenant as usize)) else { continue };
            for (_, _, known) in self.devices.connections(id) {
                match known {
                    Known::Last(last) if last > forgotten => seen.add(last),
                    Known::Last(_) => {}
                    Known::Candidate(id) => seen.add(self.candidates.row(id).last),
                }
            }
        }
        self.evictions.counted = seen.iter().map(LastSeen::total).sum();
        self.tenants.iter_mut().zip(seen).for_each(|(tenant, seen)| tenant.seen = seen);
    }

    pub(super) fn recount_sighted(&mut self) {
        self.evictions.sighted = self.destinations.rows.iter().filter(|(id, _)| self.destinations.is_sighted(*id)).count() as u64;
    }

    /// After a load: what is counted, where no snapshot holds it, and what it never holds.
    pub(super) fn restore_evictions(&mut self) {
        self.recount_sighted();
        let lookback = self.settings.lookback;
        let fits = self.evictions.loaded && self.tenants.iter().all(|tenant| tenant.seen.fits(lookback));
        if self.settings.limits.of_all() && !fits {
            self.recount();
        }
        self.evictions.hidden.retain(|candidate, _| self.candidates.get(*candidate).is_some());
        self.begin_sweep();
    }

    /// Whether anything was evicted or is partial, or is counted, that a snapshot must hold; and its bytes.
    pub(super) fn encode_evictions(&self) -> Option<Vec<u8>> {
        let nothing = self.evictions.hidden.is_empty() && self.tenants.iter().all(|t| (t.horizon, t.partial) == (Ticks::MIN, Ticks::MIN));
        if nothing && !self.settings.limits.of_all() {
            return None;
        }
        let mut out = Vec::new();
        out.put_u32(self.tenants.len() as u32);
        for tenant in &self.tenants {
            out.put_ticks(tenant.horizon);
            out.put_ticks(tenant.partial);
            tenant.seen.encode(&mut out);
        }
        out.put_u32(self.evictions.hidden.len() as u32);
        for (candidate, horizon) in &self.evictions.hidden {
            out.put_u32(*candidate);
            out.put_ticks(*horizon);
        }
        Some(out)
    }

    /// The reverse; the tenants must be there.
    pub(super) fn decode_evictions(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        let mut get = Get(bytes);
        if get.count(8)? != self.tenants.len() {
            return Err(WireError::Invalid("evictions of tenants that are not there"));
        }
        for tenant in &mut self.tenants {
            (tenant.horizon, tenant.partial) = (get.ticks()?, get.ticks()?);
            tenant.seen = LastSeen::decode(&mut get)?;
        }
        let n = get.count(12)?;
        for _ in 0..n {
            let (candidate, horizon) = (get.u32()?, get.ticks()?);
            self.evictions.hidden.insert(candidate, horizon);
        }
        self.evictions.counted = self.tenants.iter().map(|tenant| tenant.seen.total()).sum();
        self.evictions.loaded = true;
        if get.is_empty() { Ok(()) } else { Err(WireError::Invalid("evictions")) }
    }

    /// How near the limits are. The most of a device is that since the last look.
    pub fn take_usage(&mut self) -> Usage {
        let limits = self.settings.limits;
        let usage = Usage {
            connections: (self.connections_counted(), limits.tracked_connections),
            memory: (self.footprint(), limits.state_memory),
            ..self.evictions.usage.clone()
        };
        self.evictions.usage.device = (0, String::new(), u64::from(limits.connections_per_device));
        Usage { device: (usage.device.0, usage.device.1, u64::from(limits.connections_per_device)), ..usage }
    }
}

#[cfg(test)]
mod tests;
