//! Operator *device* (tenant, device name): server status, vendors it was seen with, its connections and candidates.
//!
//! Invariant (INV-join): at every instant a device is joined to exactly the vendors with a qualifying event of its in the
//! lookback, if it is a server, and to none if it is not. `rare` counts the joined vendors that are rare: the device is
//! third-party while it is not zero. Judging findings is [`super::judge`]'s.

use super::Turn;
use super::connections::{Connections, Known, Slot};
use super::index::Index;
use super::message::Message;
use super::packed::Packed;
use super::pool::{List, Pool};
use super::slab::{Lists, Moved, Row, Slab};
use super::timers::{Armed, Target};
use super::vendor::Vendors;
use super::wire::{Get, Put, WireError};
use super::{Settings, window};
use crate::defender::DeviceInfo;
use crate::time::Ticks;
use thin_vec::ThinVec;

#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) tenant: u32,
    pub(crate) name: Box<str>,
    /// Arrival clock when it was first heard of.
    pub(crate) since: Ticks,
    /// Event time of the newest DeviceInfo row that says server; `MIN` when none.
    server_seen: Ticks,
    /// Interned OSPlatform and DeviceType of that row.
    pub(crate) os_platform: u32,
    pub(crate) device_type: u32,
    /// The newest DeviceInfo row with a platform, and whether it says workstation or macOS.
    info_seen: Ticks,
    says_workstation: bool,
    vendors: List,
    connections: Connections,
    pub(crate) candidates: ThinVec<u32>,
    is_server: bool,
    rare: u32,
    timer: Armed,
    /// What was last seen at or before is forgotten, for `limits.connections_per_device`; `MIN` when nothing was. See `eviction`.
    pub(crate) horizon: Ticks,
    /// Connections when they were counted last, and how many came since.
    pub(crate) kept: u32,
}

/// A vendor whose software a device was seen with.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct VendorSeen {
    /// Its id; the upper bit says that the device is joined to it.
    vendor: [u8; 4],
    last: Packed,
}

const JOINED: u32 = 1 << 31;

impl VendorSeen {
    fn new(vendor: u32, joined: bool, last: Ticks) -> Self {
        let joined = if joined { JOINED } else { 0 };
        VendorSeen { vendor: (vendor | joined).to_le_bytes(), last: Packed::new(last) }
    }

    #[inline]
    pub(crate) fn vendor(&self) -> u32 {
        u32::from_le_bytes(self.vendor) & !JOINED
    }

    #[inline]
    pub(crate) fn joined(&self) -> bool {
        u32::from_le_bytes(self.vendor) & JOINED != 0
    }

    #[inline]
    fn last(&self) -> Ticks {
        self.last.ticks()
    }
}

/// The lists of all devices.
#[derive(Debug, Default)]
pub(crate) struct DeviceLists {
    connections: Pool<Slot>,
    vendors: Pool<VendorSeen>,
}

const CONNECTIONS: u8 = 0;
const VENDORS: u8 = 1;

impl Lists for DeviceLists {
    #[inline]
    fn next_move(&mut self) -> Option<(u8, Moved)> {
        let vendor = |lists: &mut Self| lists.vendors.next_move().map(|moved| (VENDORS, moved));
        self.connections.next_move().map(|moved| (CONNECTIONS, moved)).or_else(|| vendor(self))
    }
}

impl Row for Device {
    type Lists = DeviceLists;

    fn encode(&self, lists: &DeviceLists, out: &mut Vec<u8>) {
        out.put_u32(self.tenant);
        out.put_str(&self.name);
        for t in [self.since, self.server_seen, self.info_seen, self.horizon] {
            out.put_ticks(t);
        }
        out.put_u32(self.os_platform);
        out.put_u32(self.device_type);
        out.put_u8(u8::from(self.says_workstation));
        out.put_u32(self.kept);
        out.put_u32(self.vendors.len() as u32);
        for seen in lists.vendors.items(self.vendors) {
            out.put_u32(seen.vendor());
            out.put_ticks(seen.last());
        }
        self.connections.encode(&lists.connections, out);
    }

    fn decode(bytes: &mut Get<'_>, id: u32, lists: &mut DeviceLists) -> Result<Self, WireError> {
        let (tenant, name) = (bytes.u32()?, bytes.str()?.into());
        let [since, server_seen, info_seen, horizon] = [bytes.ticks()?, bytes.ticks()?, bytes.ticks()?, bytes.ticks()?];
        let (os_platform, device_type, says_workstation, kept) = (bytes.u32()?, bytes.u32()?, bytes.u8()? != 0, bytes.u32()?);
        let n = bytes.count(12)?;
        let mut vendors = Vec::with_capacity(n);
        for _ in 0..n {
            vendors.push(VendorSeen::new(bytes.u32()? & !JOINED, false, bytes.ticks()?));
        }
        let vendors = lists.vendors.list(&vendors, id);
        let connections = Connections::decode(bytes, &mut lists.connections, id)?;
        Ok(Device {
            tenant,
            name,
            since,
            server_seen,
            os_platform,
            device_type,
            info_seen,
            says_workstation,
            vendors,
            connections,
            candidates: ThinVec::new(),
            is_server: false,
            rare: 0,
            timer: Armed::NEVER,
            horizon,
            kept,
        })
    }

    fn free(&mut self, lists: &mut DeviceLists) {
        lists.vendors.clear(&mut self.vendors);
        self.connections.free(&mut lists.connections);
    }

    fn follow(&mut self, list: u8, moved: Moved) {
        if list == VENDORS { self.vendors.follow(moved) } else { self.connections.follow(moved) }
    }
}

impl Device {
    pub(crate) fn is_third_party(&self) -> bool {
        self.rare > 0
    }

    pub(crate) fn is_server(&self) -> bool {
        self.is_server
    }

    /// Event times of the newest DeviceInfo row that says server, and of the newest with a platform; `MIN` when none.
    pub(crate) fn infos(&self) -> (Ticks, Ticks) {
        (self.server_seen, self.info_seen)
    }

    pub(crate) fn says_workstation(&self) -> bool {
        self.says_workstation
    }

    /// The next instant at which something of it leaves the lookback; `MAX` when nothing is left in it.
    fn next_due(&self, vendors: &[VendorSeen], now: Ticks, settings: &Settings) -> Ticks {
        let seen = [self.server_seen, self.info_seen].into_iter().chain(vendors.iter().map(VendorSeen::last));
        let ends = seen.filter(|t| window::holds(*t, now, settings.lookback)).map(|t| window::ends(t, settings.lookback));
        ends.min().unwrap_or(Ticks::MAX)
    }
}

#[derive(Debug)]
pub(crate) struct Devices {
    pub(crate) rows: Slab<Device>,
    index: Index,
}

impl Devices {
    pub(crate) fn new(seed: u64) -> Self {
        Devices { rows: Slab::default(), index: Index::new(seed) }
    }

    #[inline]
    pub(crate) fn hash(&self, tenant: u32, name: &str) -> u32 {
        self.index.hash_scoped(tenant, name.as_bytes())
    }

    /// The row of the name with this hash, but for one in billions.
    #[inline]
    pub(crate) fn likely(&self, hash: u32) -> Option<u32> {
        self.index.find(hash, |_| true)
    }

    /// Reads what will be read of the row itself.
    #[inline]
    pub(crate) fn touch(&self, id: u32) -> u64 {
        self.rows.get(id).map_or(0, |row| u64::from(row.tenant) ^ row.server_seen.0 as u64 ^ row.name.len() as u64)
    }

    /// The same of its lists and its name.
    #[inline]
    pub(crate) fn touch_lists(&self, id: u32) -> u64 {
        let name = self.rows.get(id).and_then(|row| row.name.as_bytes().first()).map_or(0, |b| u64::from(*b));
        self.vendors(id).iter().step_by(6).fold(name, |sum, seen| sum ^ seen.last().0 as u64)
    }

    /// Vendors that the device was seen with, also those that have left the lookback and were not dropped yet.
    #[inline]
    pub(crate) fn vendors(&self, id: u32) -> &[VendorSeen] {
        self.rows.get(id).map_or(&[], |row| self.rows.lists.vendors.items(row.vendors))
    }

    /// Vendors with a qualifying event of the device in the lookback at `now`, with the last of each.
    pub(crate) fn vendors_within(&self, id: u32, now: Ticks, settings: &Settings) -> impl Iterator<Item = (u32, Ticks)> {
        let lookback = settings.lookback;
        let vendors = self.vendors(id).iter().map(|seen| (seen.vendor(), seen.last()));
        vendors.filter(move |(_, last)| window::holds(*last, now, lookback))
    }

    /// What is known of a connection of the device.
    #[inline]
    pub(crate) fn connection(&self, id: u32, destination: u32, port: u32) -> Option<Known> {
        self.rows.get(id).and_then(|row| row.connections.get(&self.rows.lists.connections, destination, port))
    }

    /// The device's connections: destination, port, what is known; in no particular order.
    pub(crate) fn connections(&self, id: u32) -> impl Iterator<Item = (u32, u32, Known)> {
        self.rows.get(id).into_iter().flat_map(|row| row.connections.iter(&self.rows.lists.connections))
    }

    /// How many connections of the device are kept.
    pub(crate) fn connection_count(&self, id: u32) -> usize {
        self.rows.get(id).map_or(0, |row| row.connections.len())
    }

    /// Sets what is known of a connection of the device that is kept.
    pub(crate) fn replace_connection(&mut self, id: u32, destination: u32, port: u32, known: Known) {
        self.rows.edit(id, |row, lists| row.connections.replace(&mut lists.connections, destination, port, known));
    }

    /// Adds a connection of the device. Destinations of others whose last event was at or before `expired` may be told to
    /// `dropped`: these connections are kept no longer.
    pub(crate) fn add_connection(&mut self, id: u32, connection: (u32, u32, Known), expired: Ticks, dropped: impl FnMut(u32)) {
        self.rows.edit(id, |row, lists| row.connections.insert(&mut lists.connections, id, connection, expired, dropped));
    }

    /// One more connection is kept: how many are by now at most, and the device's name.
    pub(crate) fn keep_one_more(&mut self, id: u32) -> (u32, &str) {
        let row = self.rows.row_mut(id);
        row.kept += 1;
        (row.kept, &row.name)
    }

    /// Gives back the places of connections whose last event was at or before `forgotten`; their destinations are told to `dropped`.
    pub(crate) fn drop_connections(&mut self, id: u32, forgotten: Ticks, dropped: impl FnMut(u32)) {
        self.rows.edit(id, |row, lists| row.connections.drop_forgotten(&mut lists.connections, id, forgotten, dropped));
    }

    #[inline]
    fn is(&self, id: u32, tenant: u32, name: &str) -> bool {
        self.rows.get(id).is_some_and(|d| d.tenant == tenant && *d.name == *name)
    }

    pub(crate) fn find(&self, tenant: u32, name: &str) -> Option<u32> {
        self.index.find(self.hash(tenant, name), |id| self.is(id, tenant, name))
    }

    /// The row of a device name, which may be the one that `hint` names; made when it is new.
    pub(crate) fn id(&mut self, tenant: u32, name: &str, hint: Option<u32>, now: Ticks) -> u32 {
        if let Some(id) = hint.filter(|id| self.is(*id, tenant, name)).or_else(|| self.find(tenant, name)) {
            return id;
        }
        let id = self.rows.insert(Device {
            tenant,
            name: name.into(),
            since: now,
            server_seen: Ticks::MIN,
            os_platform: super::strings::EMPTY,
            device_type: super::strings::EMPTY,
            info_seen: Ticks::MIN,
            says_workstation: false,
            vendors: List::default(),
            connections: Connections::default(),
            candidates: ThinVec::new(),
            is_server: false,
            rare: 0,
            timer: Armed::NEVER,
            horizon: Ticks::MIN,
            kept: 0,
        });
        let hash = self.index.hash_scoped(tenant, name.as_bytes());
        self.index.insert(hash, id);
        id
    }

    /// A DeviceInfo row at event time `t` inside the lookback.
    pub(crate) fn info(&mut self, id: u32, info: &DeviceInfo<'_>, turn: &mut Turn<'_>) {
        let t = info.timestamp;
        let device = self.rows.row_mut(id);
        if info.says_server() && t >= device.server_seen {
            device.server_seen = t;
            for (kept, text) in [(&mut device.os_platform, info.os_platform), (&mut device.device_type, info.device_type)] {
                if !turn.strings.is(*kept, text) {
                    let old = std::mem::replace(kept, turn.strings.intern(text));
                    turn.strings.release(old);
                }
            }
        }
        if !info.os_platform.is_empty() && t >= device.info_seen {
            device.info_seen = t;
            device.says_workstation = !info.says_server();
        }
        turn.timers.arm(&mut device.timer, window::ends(t, turn.settings.lookback), Target::Device(id));
        self.settle(id, turn);
    }

    /// A qualifying event of `vendor` at `t` inside the lookback. `vendors` counts the row that now names it.
    pub(crate) fn vendor_seen(&mut self, id: u32, vendor: u32, t: Ticks, vendors: &mut Vendors, turn: &mut Turn<'_>) {
        let (is_server, outbox) = (self.rows.row(id).is_server, &mut *turn.outbox);
        let is_new = self.rows.edit(id, |device, lists| {
            let seen = lists.vendors.items_mut(device.vendors).iter_mut().find(|seen| seen.vendor() == vendor);
            let Some(seen) = seen else {
                lists.vendors.push(&mut device.vendors, VendorSeen::new(vendor, is_server, t), id);
                return true;
            };
            if is_server && !seen.joined() {
                outbox.push(Message::Join { vendor, device: id });
            }
            *seen = VendorSeen::new(vendor, is_server || seen.joined(), seen.last().max(t));
            false
        });
        if !is_new {
            return;
        }
        vendors.retain(vendor);
        if is_server {
            turn.outbox.push(Message::Join { vendor, device: id });
        }
        turn.timers.arm(&mut self.rows.row_mut(id).timer, window::ends(t, turn.settings.lookback), Target::Device(id));
    }

    /// Brings server status and memberships to what they are at `turn.now` (INV-join).
    fn settle(&mut self, id: u32, turn: &mut Turn<'_>) {
        let (now, lookback) = (turn.now, turn.settings.lookback);
        self.rows.edit(id, |device, lists| {
            device.is_server = window::holds(device.server_seen, now, lookback);
            for seen in lists.vendors.items_mut(device.vendors) {
                let (joined, vendor) = (device.is_server && window::holds(seen.last(), now, lookback), seen.vendor());
                if joined != seen.joined() {
                    *seen = VendorSeen::new(vendor, joined, seen.last());
                    turn.outbox.push(if joined { Message::Join { vendor, device: id } } else { Message::Leave { vendor, device: id } });
                }
            }
        });
    }

    /// A timer fired: memberships that end now end; vendors and connections out of the lookback are forgotten. True when the
    /// device itself is to be removed, which [`Devices::remove`] does once its messages are delivered.
    pub(crate) fn due(
        &mut self,
        id: u32,
        turn: &mut Turn<'_>,
        mut vendor_gone: impl FnMut(u32),
        mut connection_gone: impl FnMut(u32),
    ) -> bool {
        if self.rows.get(id).is_none_or(|d| !d.timer.is_at(turn.now)) {
            return false;
        }
        self.rows.row_mut(id).timer = Armed::NEVER;
        self.settle(id, turn);
        let (now, lookback) = (turn.now, turn.settings.lookback);
        self.rows.edit(id, |device, lists| {
            lists.vendors.retain(&mut device.vendors, id, |seen| {
                let keep = window::holds(seen.last(), now, lookback);
                if !keep {
                    vendor_gone(seen.vendor());
                }
                keep
            });
            if device.vendors.is_empty() && device.candidates.is_empty() {
                // Every qualifying event leaves a vendor: none in the lookback, so no connection either.
                device.connections.clear(&mut lists.connections, id, &mut connection_gone);
                device.kept = 0;
            }
            let due = device.next_due(lists.vendors.items(device.vendors), now, turn.settings);
            turn.timers.arm(&mut device.timer, due, Target::Device(id));
            due == Ticks::MAX && device.candidates.is_empty() && device.connections.len() == 0
        })
    }

    pub(crate) fn remove(&mut self, id: u32, strings: &mut super::strings::Strings) {
        if let Some(device) = self.rows.remove(id) {
            strings.release(device.os_platform);
            strings.release(device.device_type);
            let hash = self.index.hash_scoped(device.tenant, device.name.as_bytes());
            self.index.remove(hash, id);
        }
    }

    /// A vendor became rare or common for this member. True when the device became, or ceased to be, third-party.
    pub(crate) fn rare_changed(&mut self, id: u32, rare: bool) -> bool {
        let device = self.rows.row_mut(id);
        let was = device.rare > 0;
        device.rare = if rare { device.rare + 1 } else { device.rare.saturating_sub(1) };
        was != (device.rare > 0)
    }

    /// Whether connections of this device are kept at all.
    pub(crate) fn is_tracked(&self, id: u32, settings: &Settings) -> bool {
        let device = self.rows.row(id);
        settings.track_workstations || device.is_server || !device.says_workstation
    }

    /// After a load: indexes the rows.
    pub(crate) fn reindex(&mut self) {
        self.rows.finish_load();
        self.index.clear();
        for (id, device) in self.rows.iter() {
            let hash = self.index.hash_scoped(device.tenant, device.name.as_bytes());
            self.index.insert(hash, id);
        }
    }

    /// After a load: server status, memberships and the timer, as they were.
    pub(crate) fn restore(&mut self, id: u32, vendors: &mut Vendors, turn: &mut Turn<'_>) {
        let (now, lookback) = (turn.now, turn.settings.lookback);
        self.rows.edit(id, |device, lists| {
            device.is_server = window::holds(device.server_seen, now, lookback);
            for seen in lists.vendors.items_mut(device.vendors) {
                let joined = device.is_server && window::holds(seen.last(), now, lookback);
                *seen = VendorSeen::new(seen.vendor(), joined, seen.last());
                vendors.retain(seen.vendor());
                if joined {
                    vendors.restore_member(seen.vendor(), id);
                }
            }
            // One that nothing holds any more is looked at, and removed, with the next step of the clock.
            let due = device.next_due(lists.vendors.items(device.vendors), now, turn.settings).min(window::ends(now, lookback));
            turn.timers.arm(&mut device.timer, due, Target::Device(id));
        });
    }

    /// After all are restored: how many of its vendors are rare.
    pub(crate) fn restore_rare(&mut self, id: u32, vendors: &Vendors) {
        let rare = self.vendors(id).iter().filter(|seen| seen.joined() && vendors.is_rare(seen.vendor())).count() as u32;
        self.rows.row_mut(id).rare = rare;
    }
}
