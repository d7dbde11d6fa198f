//! Operator *destination* (tenant, remote address): who talked to it in the prevalence window, with which URLs.
//!
//! Every network row reaches it, whatever its action or type. It answers watchers with prevalence and a digest of the URLs,
//! at once and at each change that matters to them, also those that time brings. A row lives while something is in its window
//! or a connection names it.

mod row;

use super::Turn;
use super::address::{Address, Addresses};
use super::distinct::{Bounds, Recent, Seen, Sighting};
use super::index::Index;
use super::message::{Answer, Message};
use super::pool::Pool;
use super::prints::Prints;
use super::sketch::{Panes, fingerprint_bytes};
use super::slab::{Lists, Moved, Slab};
use super::strings::Strings;
use super::timers::{Armed, Target};
use super::{Settings, window};
use crate::time::{Span, Ticks};
use compact_str::CompactString;
use thin_vec::ThinVec;

/// Forty bytes, empty places of the table included.
#[derive(Debug)]
pub(crate) struct Destination {
    pub(crate) tenant: u32,
    address: Address,
    devices: Recent,
    urls: Recent,
    /// Only where it is needed.
    extra: Option<Box<Extra>>,
    timer: Armed,
}

/// What few destinations have.
#[derive(Debug, Default)]
struct Extra {
    /// Where a cap was reached.
    overflow: Option<Overflow>,
    /// Where candidates watch; not persisted, candidates ask again after a load.
    watched: Option<Watched>,
}

/// The lists of all destinations.
#[derive(Debug, Default)]
pub(crate) struct DestinationLists {
    addresses: Addresses,
    /// By their ids in `prints`.
    devices: Pool<Seen>,
    pub(crate) prints: Prints,
    urls: Pool<Seen>,
}

const DEVICES: u8 = 0;
const URLS: u8 = 1;

impl Lists for DestinationLists {
    #[inline]
    fn next_move(&mut self) -> Option<(u8, Moved)> {
        let url = |lists: &mut Self| lists.urls.next_move().map(|moved| (URLS, moved));
        self.devices.next_move().map(|moved| (DEVICES, moved)).or_else(|| url(self))
    }
}

#[derive(Debug)]
struct Overflow {
    /// Devices beyond the cap, about.
    panes: Option<Panes>,
    /// The latest last-seen of a URL that was dropped for the cap.
    url_dropped: Ticks,
}

#[derive(Debug)]
struct Watched {
    candidates: ThinVec<u32>,
    answered: Answer,
}

const _: () = assert!(size_of::<Option<Destination>>() == 40);

impl Destination {
    fn overflow(&self) -> Option<&Overflow> {
        self.extra.as_ref()?.overflow.as_ref()
    }

    fn panes(&self) -> Option<&Panes> {
        self.overflow()?.panes.as_ref()
    }

    fn watched(&self) -> Option<&Watched> {
        self.extra.as_ref()?.watched.as_ref()
    }

    fn overflow_mut(&mut self) -> &mut Overflow {
        let extra = self.extra.get_or_insert_default();
        extra.overflow.get_or_insert_with(|| Overflow { panes: None, url_dropped: Ticks::MIN })
    }

    /// Gives back what is not needed any more.
    fn tidy(&mut self) {
        if self.extra.as_ref().is_some_and(|extra| extra.overflow.is_none() && extra.watched.is_none()) {
            self.extra = None;
        }
    }

    /// The cap is reached. Up to this sighting everything in the window was kept, so the sketch begins complete.
    fn begin_panes(&mut self, lists: &DestinationLists, displaced: Option<Seen>, span: Span) {
        if self.panes().is_none() {
            let mut panes = Panes::default();
            let seen = displaced.iter().chain(self.devices.all(&lists.devices));
            seen.for_each(|s| panes.insert(lists.prints.get(s.key()), s.last(), span));
            self.overflow_mut().panes = Some(panes);
        }
    }

    /// A sighting of a URL; true when the set in the window has changed.
    fn url_seen(&mut self, (pool, id): (&mut Pool<Seen>, u32), url: &str, t: Ticks, bounds: Bounds, strings: &mut Strings) -> bool {
        // Most destinations go by one name: looking at it is cheaper than looking it up among all.
        let known = self.urls.see_again(pool, |key| strings.is(key, url), t, bounds.now, bounds.span);
        if let Some(sighting) = known {
            return sighting == Sighting::Returned;
        }
        let key = strings.intern(url);
        let mut gone = Vec::new();
        let rank = |url| fingerprint_bytes(strings.bytes(url));
        let sighting = self.urls.see((pool, id), key, t, bounds, rank, |url| gone.push(url));
        gone.into_iter().for_each(|url| strings.release(url));
        match sighting {
            Sighting::Entered => return true,
            Sighting::Displaced(old) => {
                let overflow = self.overflow_mut();
                overflow.url_dropped = overflow.url_dropped.max(old.last());
                return true;
            }
            Sighting::Known(_) | Sighting::Returned => {}
            Sighting::TooOld => {
                let overflow = self.overflow_mut();
                overflow.url_dropped = overflow.url_dropped.max(t);
            }
        }
        strings.release(key);
        sighting == Sighting::Returned
    }

    /// When each kept item that is in the window leaves it. Items that have left are not looked at: no timer in the past (INV-due).
    fn ends(&self, lists: &DestinationLists, now: Ticks, span: Span) -> impl Iterator<Item = Ticks> {
        let devices = self.devices.iter(&lists.devices, now, span).map(Seen::last);
        devices.chain(self.urls.iter(&lists.urls, now, span).map(Seen::last)).map(move |t| window::ends(t, span))
    }

    fn earliest_end(&self, lists: &DestinationLists, now: Ticks, settings: &Settings) -> Ticks {
        self.ends(lists, now, settings.prevalence_window).min().unwrap_or(Ticks::MAX)
    }

    fn latest_end(&self, lists: &DestinationLists, now: Ticks, settings: &Settings) -> Ticks {
        self.ends(lists, now, settings.prevalence_window).max().unwrap_or(Ticks::MAX)
    }
}

/// All destinations.
#[derive(Debug)]
pub(crate) struct Destinations {
    pub(crate) rows: Slab<Destination>,
    /// Connections that name each row; beside the rows, since it follows from the devices' tables and is not persisted.
    references: Vec<u32>,
    index: Index,
}

impl Destinations {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rows = Slab::<Destination>::default();
        rows.lists.prints = Prints::new(seed);
        Destinations { rows, references: Vec::new(), index: Index::new(seed) }
    }

    #[inline]
    pub(crate) fn hash(&self, tenant: u32, ip: &str) -> u32 {
        self.index.hash_scoped(tenant, ip.as_bytes())
    }

    /// The row of the address with this hash, but for one in billions.
    #[inline]
    pub(crate) fn likely(&self, hash: u32) -> Option<u32> {
        self.index.find(hash, |_| true)
    }

    /// Reads what [`Destinations::id`] and [`Destinations::sighting`] will read of the row itself.
    #[inline]
    pub(crate) fn touch(&self, id: u32) -> u64 {
        self.rows.get(id).map_or(0, |row| u64::from(row.tenant))
    }

    /// The same of its lists; the first URL comes back.
    #[inline]
    pub(crate) fn touch_window(&self, id: u32) -> (u64, Option<u32>) {
        let lists = &self.rows.lists;
        self.rows.get(id).map_or((0, None), |row| (row.devices.touch(&lists.devices), row.urls.all(&lists.urls).first().map(Seen::key)))
    }

    /// The address as text.
    pub(crate) fn ip(&self, id: u32) -> CompactString {
        self.rows.get(id).map_or_else(CompactString::default, |row| self.rows.lists.addresses.text(row.address))
    }

    /// All that is kept, also what has left the window: devices, URLs; each by its id.
    pub(crate) fn kept(&self, id: u32) -> (&[Seen], &[Seen]) {
        let (row, lists) = (self.rows.row(id), &self.rows.lists);
        (row.devices.all(&lists.devices), row.urls.all(&lists.urls))
    }

    /// Fingerprints of the devices kept that are in the window at `now`, with when each was last seen.
    pub(crate) fn devices_within(&self, id: u32, now: Ticks, settings: &Settings) -> impl Iterator<Item = (u64, Ticks)> {
        let devices = self.rows.row(id).devices.iter(&self.rows.lists.devices, now, settings.prevalence_window);
        devices.map(|s| (self.rows.lists.prints.get(s.key()), s.last()))
    }

    /// URL ids kept that are in the window at `now`, with when each was last seen.
    pub(crate) fn urls_within(&self, id: u32, now: Ticks, settings: &Settings) -> impl Iterator<Item = (u32, Ticks)> {
        let urls = self.rows.row(id).urls.iter(&self.rows.lists.urls, now, settings.prevalence_window);
        urls.map(|s| (s.key(), s.last()))
    }

    /// The sketch's panes, where the window at `now` holds more devices than are kept: the beginning of each, about how many devices.
    pub(crate) fn panes_within(&self, id: u32, now: Ticks, settings: &Settings) -> Vec<(Ticks, u64)> {
        let (row, window) = (self.rows.row(id), settings.prevalence_window);
        let full = row.devices.count(&self.rows.lists.devices, now, window) >= settings.device_cap();
        row.panes().filter(|_| full).map_or_else(Vec::new, |panes| panes.each(now, window))
    }

    /// When a URL that is not kept was last seen, if that is in the window at `now`.
    pub(crate) fn url_dropped_within(&self, id: u32, now: Ticks, settings: &Settings) -> Option<Ticks> {
        let dropped = self.rows.row(id).overflow().map(|o| o.url_dropped);
        dropped.filter(|t| window::holds(*t, now, settings.prevalence_window))
    }

    #[inline]
    fn is(&self, id: u32, tenant: u32, parsed: Option<[u8; 4]>, ip: &str) -> bool {
        self.rows.get(id).is_some_and(|row| row.tenant == tenant && self.rows.lists.addresses.is(row.address, parsed, ip))
    }

    /// The row of an address.
    pub(crate) fn find(&self, tenant: u32, ip: &str) -> Option<u32> {
        let parsed = Address::parse(ip);
        self.index.find(self.hash(tenant, ip), |id| self.is(id, tenant, parsed, ip))
    }

    /// The row of an address, which may be the one that `hint` names; made when it is new.
    pub(crate) fn id(&mut self, tenant: u32, ip: &str, hint: Option<u32>) -> u32 {
        let parsed = Address::parse(ip);
        if let Some(id) = hint.filter(|id| self.is(*id, tenant, parsed, ip)) {
            return id;
        }
        let hash = self.hash(tenant, ip);
        if let Some(id) = self.index.find(hash, |id| self.is(id, tenant, parsed, ip)) {
            return id;
        }
        let address = self.rows.lists.addresses.keep(ip);
        let (devices, urls) = (Recent::default(), Recent::default());
        let id = self.rows.insert(Destination { tenant, address, devices, urls, extra: None, timer: Armed::NEVER });
        if id as usize >= self.references.len() {
            self.references.resize(id as usize + 1, 0);
        }
        self.index.insert(hash, id);
        id
    }

    pub(crate) fn retain(&mut self, id: u32) {
        if let Some(n) = self.references.get_mut(id as usize) {
            *n += 1;
        }
    }

    pub(crate) fn release(&mut self, id: u32) {
        if let Some(n) = self.references.get_mut(id as usize) {
            *n -= 1;
        }
        self.remove_if_unused(id);
    }

    fn remove_if_unused(&mut self, id: u32) {
        let row = self.rows.row(id);
        let is_idle = row.watched().is_none() && row.devices.is_empty() && row.urls.is_empty();
        if is_idle && self.references.get(id as usize).is_none_or(|n| *n == 0) {
            let hash = self.hash(row.tenant, &self.ip(id));
            self.index.remove(hash, id);
            self.rows.remove(id);
        }
    }

    /// Whether something of it is in the prevalence window.
    #[inline]
    pub(crate) fn is_sighted(&self, id: u32) -> bool {
        self.rows.get(id).is_some_and(|row| !row.devices.is_empty())
    }

    /// A network row at event time `t`, which is inside the prevalence window.
    pub(crate) fn sighting(&mut self, id: u32, device: u64, url: &str, t: Ticks, turn: &mut Turn<'_>) {
        let (now, span, cap) = (turn.now, turn.settings.prevalence_window, turn.settings.device_cap());
        let (strings, timers) = (&mut *turn.strings, &mut *turn.timers);
        let (urls_cap, bounds) = (turn.settings.urls_per_destination, Bounds { now, span, cap });
        let changed = self.rows.edit(id, |row, lists| {
            let (mut changed, mut in_pane) = (false, false);
            let (key, mut gone) = (lists.prints.intern(device), Vec::new());
            let rank = |key| lists.prints.get(key);
            let sighting = row.devices.see((&mut lists.devices, id), key, t, bounds, rank, |key| gone.push(key));
            match sighting {
                // A device that was seen in this pane already stands in its sketch.
                Sighting::Known(last) => in_pane = Panes::are_one(last, t, span),
                Sighting::Entered | Sighting::Returned => changed = true,
                Sighting::Displaced(old) => row.begin_panes(lists, Some(old), span),
                Sighting::TooOld => row.begin_panes(lists, None, span),
            }
            if !matches!(sighting, Sighting::Entered | Sighting::Displaced(_)) {
                lists.prints.release(key);
            }
            gone.into_iter().for_each(|key| lists.prints.release(key));
            if !in_pane && row.panes().is_some() {
                row.overflow_mut().panes.iter_mut().for_each(|panes| panes.insert(device, t, span));
            }
            changed |= !url.is_empty() && row.url_seen((&mut lists.urls, id), url, t, Bounds { cap: urls_cap, ..bounds }, strings);
            if row.timer == Armed::NEVER || row.watched().is_some() {
                timers.arm(&mut row.timer, window::ends(t, span), Target::Destination(id));
            }
            changed
        });
        if changed {
            self.tell(id, turn);
        }
    }

    /// Tells watchers when the answer changed and either side of the change is below the threshold.
    fn tell(&mut self, id: u32, turn: &mut Turn<'_>) {
        if self.rows.row(id).watched().is_none() {
            return;
        }
        let answer = self.answer(id, turn);
        let below = turn.settings.prevalence_below;
        if let Some(watched) = self.rows.row_mut(id).extra.as_mut().and_then(|extra| extra.watched.as_mut())
            && watched.answered != answer
        {
            let matters = watched.answered.prevalence < below || answer.prevalence < below;
            watched.answered = answer;
            if matters {
                turn.outbox.extend(watched.candidates.iter().map(|&candidate| Message::Answer { candidate, answer }));
            }
        }
    }

    fn answer(&self, id: u32, turn: &Turn<'_>) -> Answer {
        let (row, lists, span) = (self.rows.row(id), &self.rows.lists, turn.settings.prevalence_window);
        let urls = row.urls.iter(&lists.urls, turn.now, span);
        let urls = urls.map(|s| fingerprint_bytes(turn.strings.bytes(s.key()))).fold(0u64, u64::wrapping_add);
        // Beyond the cap the exact number decides nothing: no estimate is made for an answer.
        Answer { prevalence: row.devices.count(&lists.devices, turn.now, span) as u32, urls }
    }

    pub(crate) fn watch(&mut self, id: u32, candidate: u32, turn: &mut Turn<'_>) {
        let answer = self.answer(id, turn);
        self.rows.edit(id, |row, lists| {
            let extra = row.extra.get_or_insert_default();
            let watched = extra.watched.get_or_insert_with(|| Watched { candidates: ThinVec::new(), answered: answer });
            if watched.candidates.len() == watched.candidates.capacity() {
                watched.candidates.reserve_exact(watched.candidates.len() / 2 + 1);
            }
            watched.candidates.push(candidate);
            let earliest = row.earliest_end(lists, turn.now, turn.settings);
            turn.timers.arm(&mut row.timer, earliest, Target::Destination(id));
        });
        turn.outbox.push(Message::Answer { candidate, answer });
    }

    pub(crate) fn unwatch(&mut self, id: u32, candidate: u32) {
        let row = self.rows.row_mut(id);
        if let Some(extra) = &mut row.extra
            && let Some(watched) = &mut extra.watched
        {
            if let Some(at) = watched.candidates.iter().position(|c| *c == candidate) {
                watched.candidates.swap_remove(at);
            }
            if watched.candidates.is_empty() {
                extra.watched = None;
            }
        }
        row.tidy();
        self.remove_if_unused(id);
    }

    /// A timer fired: drops what has left the window, tells watchers, looks when to look again.
    pub(crate) fn due(&mut self, id: u32, turn: &mut Turn<'_>) {
        let (now, span) = (turn.now, turn.settings.prevalence_window);
        if self.rows.get(id).is_none_or(|row| !row.timer.is_at(now)) {
            return;
        }
        let (strings, timers, settings) = (&mut *turn.strings, &mut *turn.timers, turn.settings);
        self.rows.edit(id, |row, lists| {
            row.timer = Armed::NEVER;
            row.devices.expire(&mut lists.devices, id, now, span, |gone| lists.prints.release(gone));
            row.urls.expire(&mut lists.urls, id, now, span, |gone| strings.release(gone));
            let below_cap = row.devices.all(&lists.devices).len() < settings.device_cap();
            if let Some(extra) = &mut row.extra
                && let Some(overflow) = &mut extra.overflow
            {
                if let Some(panes) = &mut overflow.panes {
                    panes.expire(now, span);
                }
                if below_cap {
                    // Below the cap the kept devices are all of the window: the sketch says nothing more.
                    overflow.panes = None;
                }
                if overflow.panes.is_none() && !window::holds(overflow.url_dropped, now, span) {
                    extra.overflow = None;
                }
            }
            row.tidy();
            let watched = row.watched().is_some();
            let due = if watched { row.earliest_end(lists, now, settings) } else { row.latest_end(lists, now, settings) };
            timers.arm(&mut row.timer, due, Target::Destination(id));
        });
        self.tell(id, turn);
        self.remove_if_unused(id);
    }

    /// After a change of the window: drops what is not in it, and panes, which are another window's.
    pub(crate) fn window_changed(&mut self, id: u32, turn: &mut Turn<'_>) {
        self.rows.edit(id, |row, _| {
            row.timer = Armed::at(turn.now);
            if let Some(overflow) = row.extra.as_mut().and_then(|extra| extra.overflow.as_mut()) {
                overflow.panes = None;
            }
        });
        self.due(id, turn);
    }

    /// Prevalence for people: exact below the cap, an estimate beyond.
    pub(crate) fn prevalence(&self, id: u32, now: Ticks, settings: &Settings) -> u64 {
        let (row, window) = (self.rows.row(id), settings.prevalence_window);
        let kept = row.devices.count(&self.rows.lists.devices, now, window);
        if kept < settings.device_cap() {
            return kept as u64;
        }
        row.panes().map_or(0, |panes| panes.estimate(now, window)).max(kept as u64)
    }

    /// URL ids in the window, and whether more were seen than are kept.
    pub(crate) fn urls(&self, id: u32, now: Ticks, settings: &Settings) -> (impl Iterator<Item = u32>, bool) {
        (self.urls_within(id, now, settings).map(|(url, _)| url), self.url_dropped_within(id, now, settings).is_some())
    }

    /// After a load: indexes the rows; devices then retain, strings are retained by `each_url`.
    pub(crate) fn reindex(&mut self, mut each_url: impl FnMut(u32)) {
        self.rows.finish_load();
        self.references = vec![0; self.rows.id_end() as usize];
        self.index.clear();
        for (id, row) in self.rows.iter() {
            let hash = self.index.hash_scoped(row.tenant, self.rows.lists.addresses.text(row.address).as_bytes());
            self.index.insert(hash, id);
            row.urls.all(&self.rows.lists.urls).iter().for_each(|s| each_url(s.key()));
        }
    }

    /// After a load: arms the timer of a row, or removes it when nothing holds it.
    pub(crate) fn restore_timer(&mut self, id: u32, turn: &mut Turn<'_>) {
        if self.rows.get(id).is_some() {
            self.rows.edit(id, |row, lists| {
                let due = row.latest_end(lists, turn.now, turn.settings);
                turn.timers.arm(&mut row.timer, due, Target::Destination(id));
            });
        }
    }
}
