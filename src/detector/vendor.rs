//! Operator *vendor* (tenant, company): which servers are joined, and hence whether the vendor is rare.
//!
//! A device joins as a server with a qualifying event of this vendor inside the lookback and leaves when that ends, so the
//! count of members is the query's `dcount(DeviceName)` at every instant, exactly. Members are told when the vendor becomes
//! rare or common. Membership is not persisted: it follows from the devices' rows.

use super::index::Index;
use super::message::Message;
use super::slab::{Row, Slab};
use super::wire::{Get, Put, WireError};
use std::collections::BTreeSet;

#[derive(Debug)]
pub(crate) struct Vendor {
    pub(crate) tenant: u32,
    pub(crate) company: Box<str>,
    members: BTreeSet<u32>,
    /// Device rows that name this vendor, joined or not.
    references: u32,
}

impl Row for Vendor {
    type Lists = ();

    fn encode(&self, (): &(), out: &mut Vec<u8>) {
        out.put_u32(self.tenant);
        out.put_str(&self.company);
    }
    fn decode(bytes: &mut Get<'_>, _: u32, (): &mut ()) -> Result<Self, WireError> {
        Ok(Vendor { tenant: bytes.u32()?, company: bytes.str()?.into(), members: BTreeSet::new(), references: 0 })
    }
}

#[derive(Debug)]
pub(crate) struct Vendors {
    pub(crate) rows: Slab<Vendor>,
    index: Index,
    below: usize,
    /// Members hear of each change of a count up to `below`, not only of the crossing.
    tells_counts: bool,
}

impl Vendors {
    pub(crate) fn new(seed: u64, below: u32) -> Self {
        Vendors { rows: Slab::default(), index: Index::new(seed), below: below as usize, tells_counts: false }
    }

    /// From now on members hear of each change of a count up to the threshold.
    pub(crate) fn tell_counts(&mut self) {
        self.tells_counts = true;
    }

    /// Another threshold. Members are told nothing: the caller counts their rare vendors anew.
    pub(crate) fn set_below(&mut self, below: u32) {
        self.below = below as usize;
    }

    /// The vendor's id; made when it is new. The caller retains it when a row is to name it.
    pub(crate) fn id(&mut self, tenant: u32, company: &str) -> u32 {
        let hash = self.index.hash_scoped(tenant, company.as_bytes());
        let rows = &self.rows;
        let found = self.index.find(hash, |id| rows.get(id).is_some_and(|v| v.tenant == tenant && *v.company == *company));
        found.unwrap_or_else(|| {
            let id = self.rows.insert(Vendor { tenant, company: company.into(), members: BTreeSet::new(), references: 0 });
            self.index.insert(hash, id);
            id
        })
    }

    pub(crate) fn retain(&mut self, id: u32) {
        self.rows.row_mut(id).references += 1;
    }

    pub(crate) fn release(&mut self, id: u32) {
        let vendor = self.rows.row_mut(id);
        vendor.references -= 1;
        if vendor.references == 0
            && let Some(gone) = self.rows.remove(id)
        {
            let hash = self.index.hash_scoped(gone.tenant, gone.company.as_bytes());
            self.index.remove(hash, id);
        }
    }

    /// Servers joined now.
    pub(crate) fn servers(&self, id: u32) -> usize {
        self.rows.row(id).members.len()
    }

    /// The devices joined now, in the order of their ids.
    pub(crate) fn members(&self, id: u32) -> impl Iterator<Item = u32> {
        self.rows.row(id).members.iter().copied()
    }

    pub(crate) fn is_rare(&self, id: u32) -> bool {
        self.servers(id) < self.below
    }

    pub(crate) fn join(&mut self, id: u32, device: u32, out: &mut Vec<Message>) {
        let below = self.below;
        let members = &mut self.rows.row_mut(id).members;
        if !members.insert(device) {
            return;
        }
        if members.len() < below {
            out.push(Message::Rare { device, vendor: id, rare: true });
        } else if members.len() == below {
            // The newcomer never heard that it was rare.
            out.extend(members.iter().filter(|m| **m != device).map(|&device| Message::Rare { device, vendor: id, rare: false }));
        }
        if self.tells_counts && members.len() <= below {
            out.extend(members.iter().map(|&device| Message::Servers { device }));
        }
    }

    pub(crate) fn leave(&mut self, id: u32, device: u32, out: &mut Vec<Message>) {
        let below = self.below;
        let members = &mut self.rows.row_mut(id).members;
        if !members.remove(&device) {
            return;
        }
        if members.len() + 1 < below {
            out.push(Message::Rare { device, vendor: id, rare: false });
        } else if members.len() + 1 == below {
            out.extend(members.iter().map(|&device| Message::Rare { device, vendor: id, rare: true }));
        }
        if self.tells_counts && members.len() < below {
            out.extend(members.iter().chain([&device]).map(|&device| Message::Servers { device }));
        }
    }

    /// After a load: indexes the rows; devices then retain and join.
    pub(crate) fn reindex(&mut self) {
        self.rows.finish_load();
        self.index.clear();
        for (id, vendor) in self.rows.iter() {
            let hash = self.index.hash_scoped(vendor.tenant, vendor.company.as_bytes());
            self.index.insert(hash, id);
        }
    }

    /// Membership of a loaded device, without messages: all are loaded before any is asked.
    pub(crate) fn restore_member(&mut self, id: u32, device: u32) {
        self.rows.row_mut(id).members.insert(device);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_hear_of_both_crossings() {
        let mut vendors = Vendors::new(1, 3);
        let id = vendors.id(0, "Acme");
        vendors.retain(id);
        let mut heard = |f: &dyn Fn(&mut Vendors, &mut Vec<Message>)| {
            let mut out = Vec::new();
            f(&mut vendors, &mut out);
            out.into_iter()
                .map(|m| if let Message::Rare { device, rare, .. } = m { (device, rare) } else { (99, false) })
                .collect::<Vec<_>>()
        };
        assert_eq!(heard(&|v, o| v.join(id, 1, o)), [(1, true)]);
        assert_eq!(heard(&|v, o| v.join(id, 1, o)), []);
        assert_eq!(heard(&|v, o| v.join(id, 2, o)), [(2, true)]);
        assert_eq!(heard(&|v, o| v.join(id, 3, o)), [(1, false), (2, false)]);
        assert_eq!(heard(&|v, o| v.join(id, 4, o)), []);
        assert_eq!(heard(&|v, o| v.leave(id, 1, o)), []);
        assert_eq!(heard(&|v, o| v.leave(id, 4, o)), [(2, true), (3, true)]);
        assert_eq!(heard(&|v, o| v.leave(id, 3, o)), [(3, false)]);
    }
}
