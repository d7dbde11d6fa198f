//! "First seen" with bounded state: what a network row does to its connection.
//!
//! Of a connection only the last event time is kept, and while it is new a candidate: `(previous, first, count)`. That is enough
//! to know, at every instant, whether all its events in the lookback are younger than `new_within`. Whether a candidate is a
//! finding is judged in [`super::findings`].

use super::candidate::{self, Candidate, Identities, identity};
use super::connections::{Known, port_code};
use super::message::Message;
use super::timers::{Armed, Target};
use super::{Detector, Effect, Turn, sketch, window};
use crate::defender::NetworkEvent;
use crate::time::Ticks;

/// A qualifying event and the rows it belongs to.
#[derive(Clone, Copy)]
struct Arrived<'a> {
    tenant: u32,
    device: u32,
    destination: u32,
    /// Fingerprint of the DeviceId.
    device_print: u64,
    now: Ticks,
    event: &'a NetworkEvent<'a>,
}

impl Detector {
    /// A row of DeviceNetworkEvents: the destination hears of it in any case, the device if it qualifies.
    /// `hint` names the rows of its destination and its device, perhaps.
    pub(super) fn network(
        &mut self,
        tenant: u32,
        now: Ticks,
        event: &NetworkEvent<'_>,
        hint: (Option<u32>, Option<u32>),
        effects: &mut Vec<Effect>,
    ) {
        let t = event.timestamp;
        let seen = window::holds(t, now, self.settings.prevalence_window);
        let qualifies = event.qualifies() && window::holds(t, now, self.settings.lookback);
        if !seen && !qualifies {
            return;
        }
        let destination = self.destinations.id(tenant, event.remote_ip, hint.0);
        let device_print = sketch::fingerprint_bytes(event.device_id.bytes());
        if !seen {
            // The row must outlive this record, whatever the steps below let go; a sighting holds it anyway.
            self.destinations.retain(destination);
        }
        if seen {
            self.evictions.sighted += u64::from(!self.destinations.is_sighted(destination));
            let mut turn = turn!(self, tenant, now);
            self.destinations.sighting(destination, device_print, event.remote_url, t, &mut turn);
        }
        if qualifies {
            let device = self.devices.id(tenant, event.device_name, hint.1, now);
            if self.devices.is_tracked(device, &self.settings) {
                let vendor = self.vendors.id(tenant, event.company);
                let mut turn = turn!(self, tenant, now);
                self.devices.vendor_seen(device, vendor, t, &mut self.vendors, &mut turn);
                self.connection(Arrived { tenant, device, destination, device_print, now, event }, effects);
            }
        }
        self.deliver(tenant, now);
        if !seen {
            self.destinations.release(destination);
        }
    }

    /// A qualifying event: its connection is new, known, or has a live candidate that counts it.
    fn connection(&mut self, arrived: Arrived<'_>, effects: &mut Vec<Effect>) {
        let Arrived { tenant, device, destination, now, event, .. } = arrived;
        let (t, port, settings) = (event.timestamp, port_code(event.remote_port), &self.settings);
        let mut known = self.devices.connection(device, destination, port);
        if let Some(Known::Candidate(id)) = known {
            let row = self.candidates.row(id);
            let silent_since = row.last.max(row.previous).plus(settings.quiet());
            // The query has never seen a late candidate: an event that is new to the query begins its own.
            if row.late && t > silent_since && window::holds(t, now, settings.new_within) {
                self.candidates.row_mut(id).end = now;
                self.judge(tenant, id, now, effects);
                known = self.devices.connection(device, destination, port);
            }
        }
        let settings = &self.settings;
        let last = match known {
            Some(Known::Candidate(id)) => {
                if !self.counted(id, arrived) {
                    effects.push(Effect::Repeat);
                }
                return;
            }
            Some(Known::Last(last)) => last,
            None => Ticks::MIN,
        };
        // What has left the lookback is forgotten at some time or other: it must not matter when.
        let mut horizon = self.horizon(tenant, device);
        let last = if window::holds(last, now, settings.lookback) && last > horizon { last } else { Ticks::MIN };
        let is_new = last == Ticks::MIN || t > last.plus(settings.quiet());
        let in_time = window::holds(t, now, settings.new_within);
        let late = !in_time && settings.report_late && window::holds(t, now, settings.quiet());
        let is_candidate = is_new && (in_time || late);
        if !is_candidate && t <= last.max(horizon) {
            return;
        }
        if last == Ticks::MIN {
            self.make_way(tenant, device, now);
            horizon = self.horizon(tenant, device);
        }
        let settings = &self.settings;
        let next = if is_candidate {
            let end = if late { window::ends(now, settings.new_within) } else { window::ends(t, settings.new_within) };
            let id = self.new_candidate(arrived, last, end, late);
            if last == Ticks::MIN && window::holds(horizon, now, self.settings.lookback) {
                self.evictions.hidden.insert(id, horizon);
            }
            Known::Candidate(id)
        } else if t > horizon {
            Known::Last(t)
        } else {
            // Room was made for it, and what is older than it was forgotten, so it is.
            return;
        };
        self.note_seen(tenant, now, |seen| if last == Ticks::MIN { seen.add(t) } else { seen.renew(last, t) });
        let expired = now.minus(self.settings.lookback).max(horizon);
        let mut dropped = Vec::new();
        if known.is_some() {
            self.devices.replace_connection(device, destination, port, next);
        } else {
            self.devices.add_connection(device, (destination, port, next), expired, |d| dropped.push(d));
            self.destinations.retain(destination);
            self.connections += 1;
            self.connections -= dropped.len();
            dropped.into_iter().for_each(|d| self.destinations.release(d));
        }
    }

    fn new_candidate(&mut self, arrived: Arrived<'_>, previous: Ticks, end: Ticks, late: bool) -> u32 {
        let Arrived { tenant, device, destination, device_print, now, event } = arrived;
        candidate::pack_details(event, &mut self.scratch);
        let id = self.candidates.insert(Candidate {
            device,
            destination,
            port: port_code(event.remote_port),
            device_id: self.strings.intern(event.device_id.text()),
            details: self.strings.intern(&self.scratch),
            report_id: event.report_id,
            previous,
            first: event.timestamp,
            last: event.timestamp,
            end,
            count: 1,
            late,
            identities: Identities::new(identity(device_print, event)),
            finding: None,
            answer: None,
            timer: Armed::NEVER,
            place: self.devices.rows.row(device).candidates.len() as u32,
        });
        let row = self.devices.rows.row_mut(device);
        row.candidates.push(id);
        if row.is_third_party() {
            self.outbox.push(Message::Watch { destination, candidate: id });
        }
        self.arm_candidate(tenant, id, now);
        id
    }

    /// Arms a candidate's timer for its end, or for the instant at which its gap is long enough.
    pub(super) fn arm_candidate(&mut self, tenant: u32, id: u32, now: Ticks) {
        let turn = turn!(self, tenant, now);
        let row = self.candidates.row_mut(id);
        let gap = window::ends(row.previous, turn.settings.lookback);
        let due = if row.previous != Ticks::MIN && gap > now { gap.min(row.end) } else { row.end };
        turn.timers.arm(&mut row.timer, due, Target::Candidate(id));
    }

    /// An event of a connection that has a live candidate. False when the candidate had counted it.
    fn counted(&mut self, id: u32, arrived: Arrived<'_>) -> bool {
        let Arrived { tenant, device_print, now, event, .. } = arrived;
        let t = event.timestamp;
        let settings = &self.settings;
        let row = self.candidates.row(id);
        let earlier_is_new = if row.late {
            window::holds(t, now, settings.quiet()) && (row.previous == Ticks::MIN || t > row.previous.plus(settings.quiet()))
        } else {
            window::holds(t, now, settings.new_within)
        };
        if t < row.first && !earlier_is_new {
            if t > row.previous {
                self.candidates.row_mut(id).previous = t;
                self.arm_candidate(tenant, id, now);
                self.dirty.push(id);
            }
            return true;
        }
        let row = self.candidates.row_mut(id);
        if !row.identities.insert(identity(device_print, event)) {
            return false;
        }
        row.count += 1;
        let last = row.last;
        row.last = last.max(t);
        if t < row.first {
            row.first = t;
            row.report_id = event.report_id;
            if !row.late {
                row.end = window::ends(t, settings.new_within);
            }
            candidate::pack_details(event, &mut self.scratch);
            let details = self.strings.intern(&self.scratch);
            self.strings.release(std::mem::replace(&mut row.details, details));
            let device_id = self.strings.intern(event.device_id.text());
            self.strings.release(std::mem::replace(&mut row.device_id, device_id));
            self.arm_candidate(tenant, id, now);
        }
        self.note_seen(tenant, now, |seen| seen.renew(last, last.max(t)));
        self.dirty.push(id);
        true
    }

    pub(super) fn end_candidate(&mut self, id: u32, now: Ticks) {
        let Some(row) = self.candidates.remove(id) else { return };
        if !self.evictions.hidden.is_empty() {
            self.evictions.hidden.remove(&id);
        }
        self.strings.release(row.device_id);
        self.strings.release(row.details);
        let device = self.devices.rows.row_mut(row.device);
        // By its place, not by a search: one device may have very many.
        device.candidates.swap_remove(row.place as usize);
        if device.candidates.len() < device.candidates.capacity() / 4 {
            device.candidates.shrink_to_fit();
        }
        if let Some(moved) = device.candidates.get(row.place as usize) {
            self.candidates.row_mut(*moved).place = row.place;
        }
        let (third_party, tenant, horizon) = (device.is_third_party(), device.tenant, device.horizon);
        let known = Known::Last(row.last.max(row.previous));
        if row.last <= horizon {
            self.note_seen(tenant, now, |seen| seen.remove(row.last));
        }
        self.devices.replace_connection(row.device, row.destination, row.port, known);
        if third_party {
            self.outbox.push(Message::Unwatch { destination: row.destination, candidate: id });
        }
    }
}
