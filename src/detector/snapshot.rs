//! The detector's state as sections of rows: copied while the detector goes on, and read back.
//!
//! A snapshot is the state at [`Detector::begin_snapshot`], whatever happens until [`Detector::snapshot_step`] says that it is
//! whole (see INV-copy in `slab`). What follows from other rows (indexes, reference counts, vendor membership, watches,
//! timers) is not written but rebuilt. Framing, checksums and files are `state`'s business.

use super::candidate::Candidate;
use super::timers::Target;
use super::wire::{Get, Put, WireError};
use super::{Detector, Known, Settings, Turn};
use crate::time::Ticks;

/// Kinds of sections. The numbers are the format: never reuse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Section {
    /// The settings that the rows were kept by; once, first.
    Settings = 1,
    /// name, arrival clock, observed since, gap; a row's place is its id; once.
    Tenants = 2,
    /// id, text.
    Strings = 3,
    /// id, tenant, company.
    Vendors = 4,
    /// id, tenant, address, recent devices, URLs, sketch panes.
    Destinations = 5,
    /// id, tenant, name, server status, vendors seen, connections.
    Devices = 6,
    /// id, connection, gap, count, identities, details, finding.
    Candidates = 7,
    /// Input lanes in a gap; once.
    Gaps = 8,
    /// Of each tenant: horizon, until when its findings may be wrong for changed settings, connections by when they were last seen; candidates whose past a horizon may hide; once, if there is anything.
    Evictions = 9,
}

impl Section {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Section; 9] = [
        Section::Settings,
        Section::Tenants,
        Section::Strings,
        Section::Vendors,
        Section::Destinations,
        Section::Devices,
        Section::Candidates,
        Section::Gaps,
        Section::Evictions,
    ];

    /// The kind of a number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Section> {
        Section::ALL.into_iter().find(|s| *s as u8 == number)
    }
}

/// Why a state can't be restored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// The bytes of a section can't be read.
    #[error("section {0:?}: {1}")]
    Section(Section, WireError),
    /// Rows name rows that are not there.
    #[error("the rows do not fit together: {0}")]
    Inconsistent(&'static str),
}

/// How far a snapshot has come.
#[derive(Debug, Default)]
pub(super) struct Progress {
    once: Vec<(Section, Vec<u8>)>,
    active: bool,
}

/// Sections are handed out in pieces of about this many bytes.
const PIECE: usize = 1 << 20;

impl Detector {
    /// Begins a snapshot of the state as it is now. Only one at a time; it costs no copy of the tables.
    pub fn begin_snapshot(&mut self) {
        let settings = self.settings.encode();
        let mut tenants = Vec::new();
        for tenant in &self.tenants {
            tenants.put_str(&tenant.name);
            tenants.put_ticks(tenant.clock);
            tenants.put_ticks(tenant.observed_since);
            tenants.put_ticks(tenant.gap);
        }
        let mut gaps = Vec::new();
        self.gaps.iter().for_each(|lane| gaps.put_str(lane));
        let mut once = vec![(Section::Settings, settings), (Section::Tenants, tenants), (Section::Gaps, gaps)];
        once.extend(self.encode_evictions().map(|evictions| (Section::Evictions, evictions)));
        self.snapshot = Progress { once, active: true };
        self.strings.rows.begin_copy();
        self.vendors.rows.begin_copy();
        self.destinations.rows.begin_copy();
        self.devices.rows.begin_copy();
        self.candidates.begin_copy();
    }

    /// Whether a snapshot is under way.
    #[must_use]
    pub fn snapshot_active(&self) -> bool {
        self.snapshot.active
    }

    /// Copies about `budget` bytes more and appends what is ready to `out`: whole rows, a kind's pieces in any order. True when
    /// the snapshot is whole.
    pub fn snapshot_step(&mut self, budget: usize, out: &mut Vec<(Section, Vec<u8>)>) -> bool {
        if !self.snapshot.active {
            return true;
        }
        out.append(&mut self.snapshot.once);
        let mut left = budget;
        let mut whole = true;
        macro_rules! step {
            ($section:expr, $rows:expr) => {
                let rows = &mut $rows;
                let before = rows.copied_len();
                let done = rows.copy_some(left);
                left = left.saturating_sub(rows.copied_len() - before);
                whole &= done;
                if rows.copied_len() >= PIECE || (done && rows.copied_len() > 0) {
                    out.push(($section, rows.take_copied()));
                }
            };
        }
        step!(Section::Strings, self.strings.rows);
        step!(Section::Vendors, self.vendors.rows);
        step!(Section::Destinations, self.destinations.rows);
        step!(Section::Devices, self.devices.rows);
        step!(Section::Candidates, self.candidates);
        let _ = left;
        self.snapshot.active = !whole;
        whole
    }

    /// Gives a snapshot up.
    pub fn abandon_snapshot(&mut self) {
        self.snapshot = Progress::default();
        self.strings.rows.abandon_copy();
        self.vendors.rows.abandon_copy();
        self.destinations.rows.abandon_copy();
        self.devices.rows.abandon_copy();
        self.candidates.abandon_copy();
    }

    /// Reads one piece of a section into a new detector, which then judges by the settings that the state was kept by;
    /// [`Detector::finish_restore`] must follow the last.
    ///
    /// # Errors
    /// When the bytes can't be read.
    pub fn restore_section(&mut self, section: Section, bytes: &[u8]) -> Result<(), RestoreError> {
        let unreadable = |e| RestoreError::Section(section, e);
        match section {
            Section::Settings => {
                self.settings = Settings::decode(bytes).map_err(unreadable)?;
                self.vendors.set_below(self.settings.vendor_servers_below);
                Ok(())
            }
            Section::Tenants => {
                let mut get = Get(bytes);
                while !get.is_empty() {
                    let name = get.str().map_err(unreadable)?;
                    let (clock, since) = (get.ticks().map_err(unreadable)?, get.ticks().map_err(unreadable)?);
                    let (gap, id) = (get.ticks().map_err(unreadable)?, self.add_tenant(name, clock, since));
                    if let Some(tenant) = self.tenants.get_mut(id as usize) {
                        tenant.gap = gap;
                    }
                }
                Ok(())
            }
            Section::Strings => self.strings.load(bytes).map_err(unreadable),
            Section::Vendors => self.vendors.rows.load(bytes).map_err(unreadable),
            Section::Destinations => self.destinations.rows.load(bytes).map_err(unreadable),
            Section::Devices => self.devices.rows.load(bytes).map_err(unreadable),
            Section::Candidates => self.candidates.load(bytes).map_err(unreadable),
            Section::Gaps => {
                let mut get = Get(bytes);
                while !get.is_empty() {
                    self.gaps.insert(get.str().map_err(unreadable)?.into());
                }
                Ok(())
            }
            Section::Evictions => self.decode_evictions(bytes).map_err(unreadable),
        }
    }

    /// Rebuilds what follows from the rows. The detector then behaves as the one that was copied.
    ///
    /// # Errors
    /// When rows name rows that are not there: the snapshot is damaged in a way that checksums did not show.
    pub fn finish_restore(&mut self) -> Result<(), RestoreError> {
        if !self.strings.reindex() {
            return Err(RestoreError::Inconsistent("the first text is not the empty one"));
        }
        self.vendors.reindex();
        self.devices.reindex();
        self.candidates.finish_load();
        let (strings, mut missing) = (&mut self.strings, false);
        self.destinations.reindex(|url| {
            missing |= !strings.contains(url);
            strings.retain(url);
        });
        if missing {
            return Err(RestoreError::Inconsistent("a destination names a URL that is not there"));
        }
        self.check_rows()?;
        self.retain_all();
        for id in 0..self.destinations.rows.id_end() {
            let Some(tenant) = self.destinations.rows.get(id).map(|d| d.tenant) else { continue };
            let now = self.clock_of(tenant);
            let mut turn = turn!(self, tenant, now);
            self.destinations.restore_timer(id, &mut turn);
        }
        self.restore_devices();
        self.restore_candidates();
        self.restore_evictions();
        Ok(())
    }

    pub(super) fn clock_of(&self, tenant: u32) -> Ticks {
        self.tenants.get(tenant as usize).map_or(Ticks::MIN, |t| t.clock)
    }

    fn check_rows(&self) -> Result<(), RestoreError> {
        let inconsistent = |what| Err(RestoreError::Inconsistent(what));
        let tenants = self.tenants.len() as u32;
        let mut destinations = vec![false; self.destinations.rows.id_end() as usize];
        for (id, row) in self.destinations.rows.iter() {
            if row.tenant >= tenants {
                return inconsistent("a destination's tenant is not there");
            }
            if let Some(present) = destinations.get_mut(id as usize) {
                *present = true;
            }
        }
        let is_destination = |id: u32| destinations.get(id as usize) == Some(&true);
        for (id, row) in self.devices.rows.iter() {
            if row.tenant >= tenants || !self.strings.contains(row.os_platform) || !self.strings.contains(row.device_type) {
                return inconsistent("a device's tenant or platform is not there");
            }
            if self.devices.vendors(id).iter().any(|seen| self.vendors.rows.get(seen.vendor()).is_none()) {
                return inconsistent("a device's vendor is not there");
            }
            for (destination, port, known) in self.devices.connections(id) {
                if !is_destination(destination) {
                    return inconsistent("a connection's destination is not there");
                }
                if let Known::Candidate(candidate) = known {
                    let fits = |c: &Candidate| c.device == id && c.destination == destination && c.port == port;
                    if !self.candidates.get(candidate).is_some_and(fits) {
                        return inconsistent("a connection's candidate is not there");
                    }
                }
            }
        }
        for (id, row) in self.candidates.iter() {
            if !self.strings.contains(row.device_id) || !self.strings.contains(row.details) {
                return inconsistent("a candidate's details are not there");
            }
            let connection = self.devices.connection(row.device, row.destination, row.port);
            if connection != Some(Known::Candidate(id)) {
                return inconsistent("a candidate's connection is not there");
            }
        }
        Ok(())
    }

    fn retain_all(&mut self) {
        for (id, row) in self.devices.rows.iter() {
            self.strings.retain(row.os_platform);
            self.strings.retain(row.device_type);
            self.connections += self.devices.connection_count(id);
            self.devices.connections(id).for_each(|(destination, _, _)| self.destinations.retain(destination));
        }
        for (_, row) in self.candidates.iter() {
            self.strings.retain(row.device_id);
            self.strings.retain(row.details);
            self.open_findings += usize::from(row.finding.as_ref().is_some_and(|f| f.open));
        }
    }

    fn restore_devices(&mut self) {
        for id in 0..self.devices.rows.id_end() {
            let Some(tenant) = self.devices.rows.get(id).map(|d| d.tenant) else { continue };
            let now = self.clock_of(tenant);
            let mut turn = turn!(self, tenant, now);
            self.devices.restore(id, &mut self.vendors, &mut turn);
        }
        for id in 0..self.devices.rows.id_end() {
            if self.devices.rows.get(id).is_some() {
                self.devices.restore_rare(id, &self.vendors);
            }
        }
    }

    fn restore_candidates(&mut self) {
        for id in 0..self.candidates.id_end() {
            let Some((device, destination)) = self.candidates.get(id).map(|c| (c.device, c.destination)) else { continue };
            let device = self.devices.rows.row_mut(device);
            self.candidates.row_mut(id).place = device.candidates.len() as u32;
            device.candidates.push(id);
            let (tenant, third_party) = (device.tenant, device.is_third_party());
            let now = self.clock_of(tenant);
            if third_party {
                let mut turn = turn!(self, tenant, now);
                self.destinations.watch(destination, id, &mut turn);
            }
            // Nothing is due now, so nothing is judged: the answers only go where they were.
            self.deliver(tenant, now);
            self.dirty.clear();
            self.arm_candidate(tenant, id, now);
            let turn = turn!(self, tenant, now);
            let row = self.candidates.row_mut(id);
            if let Some(finding) =
                row.finding.as_ref().filter(|f| f.open && (f.count != row.count || Some(&f.answer) != row.answer.as_deref()))
            {
                let due = finding.written.plus(turn.settings.update_interval);
                if due > now {
                    // Else it was kept by a longer interval, and is judged when that is changed.
                    turn.timers.arm(&mut row.timer, due, Target::Candidate(id));
                }
            }
        }
    }
}
