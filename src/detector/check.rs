//! Whether a state obeys the invariants that its rows can break: what `state verify` says beyond checksums. That ids name rows
//! (INV-ids) is judged when rows are loaded; what is rebuilt then (INV-join, timers) can't be wrong in a file.

use super::connections::{Known, port_of};
use super::{Detector, REMEMBERED_IDENTITIES};
use std::collections::HashSet;

impl Detector {
    /// Tells each breach of an invariant to `say`, beginning with the invariant's name.
    pub fn check(&self, mut say: impl FnMut(String)) {
        let mut names = HashSet::new();
        for tenant in &self.tenants {
            if !names.insert(&*tenant.name) {
                say(format!("INV-ids: tenant {:?} has two rows", tenant.name));
            }
            if tenant.clock < tenant.observed_since {
                say(format!(
                    "INV-due: tenant {:?} has the clock {:?}, before {:?}, since when it is observed",
                    tenant.name, tenant.clock, tenant.observed_since
                ));
            }
        }
        self.check_devices(&mut say);
        self.check_destinations(&mut say);
        let mut vendors = HashSet::new();
        for (_, row) in self.vendors.rows.iter() {
            if !vendors.insert((row.tenant, &*row.company)) {
                say(format!("INV-ids: vendor {:?} has two rows in a tenant", row.company));
            }
        }
    }

    fn check_devices(&self, say: &mut impl FnMut(String)) {
        let mut names = HashSet::new();
        for (id, row) in self.devices.rows.iter() {
            if !names.insert((row.tenant, &*row.name)) {
                say(format!("INV-ids: device {:?} has two rows in a tenant", row.name));
            }
            let mut keys = HashSet::new();
            let horizon = self.clock_of(row.tenant).plus(self.settings.max_clock_skew);
            for (destination, port, known) in self.devices.connections(id) {
                let what = || {
                    let ip = self.destinations.ip(destination);
                    format!("the connection of {:?} to {ip} port {:?}", row.name, port_of(port))
                };
                if !keys.insert((destination, port)) {
                    say(format!("INV-ids: {} stands twice", what()));
                }
                let last = match known {
                    Known::Last(last) => last,
                    Known::Candidate(id) => {
                        self.check_candidate(id, &what, say);
                        self.candidates.row(id).last
                    }
                };
                if last > horizon {
                    say(format!("INV-order: {} was last seen {last:?}, further ahead of the clock than input.max_clock_skew", what()));
                }
            }
        }
    }

    fn check_candidate(&self, id: u32, what: &impl Fn() -> String, say: &mut impl FnMut(String)) {
        let row = self.candidates.row(id);
        let clock = self.clock_of(self.devices.rows.row(row.device).tenant);
        if row.count == 0 || row.first > row.last || row.previous >= row.first {
            say(format!(
                "INV-order: {} counts {} events from {:?} to {:?} after {:?}",
                what(),
                row.count,
                row.first,
                row.last,
                row.previous
            ));
        }
        if row.end <= clock {
            say(format!("INV-due: the first day of {} ended {:?}, and the clock is {clock:?}", what(), row.end));
        }
        let (identities, _) = row.identities.digest();
        if identities > REMEMBERED_IDENTITIES || identities > row.count as usize {
            say(format!("INV-once: {} counts {} events and remembers {identities} identities", what(), row.count));
        }
        if let Some(finding) = &row.finding
            && (finding.revision == 0 || finding.written > clock || finding.count > row.count)
        {
            say(format!(
                "INV-once: the finding of {} has revision {}, written {:?} with count {}",
                what(),
                finding.revision,
                finding.written,
                finding.count
            ));
        }
    }

    fn check_destinations(&self, say: &mut impl FnMut(String)) {
        let mut names = HashSet::new();
        for (id, row) in self.destinations.rows.iter() {
            let ip = self.destinations.ip(id);
            if !names.insert((row.tenant, ip.clone())) {
                say(format!("INV-ids: destination {ip} has two rows in a tenant"));
            }
            let (devices, urls) = self.destinations.kept(id);
            if devices.len() > self.settings.device_cap() || urls.len() > self.settings.urls_per_destination {
                say(format!("INV-recent: destination {ip} keeps {} devices and {} URLs, more than its caps", devices.len(), urls.len()));
            }
            let (mut device_keys, mut url_keys) = (HashSet::new(), HashSet::new());
            if devices.iter().any(|s| !device_keys.insert(s.key())) || urls.iter().any(|s| !url_keys.insert(s.key())) {
                say(format!("INV-recent: destination {ip} keeps an item twice"));
            }
        }
    }
}
