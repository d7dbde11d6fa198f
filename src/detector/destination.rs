//! Operator *destination* (tenant, remote address): who talked to it in the prevalence window, with which URLs.
//!
//! Every network row reaches it, whatever its action or type. It answers watchers with prevalence and a digest of the URLs,
//! at once and at each change that matters to them, also those that time brings. A row lives while something is in its window
//! or a connection names it.

use super::Turn;
use super::distinct::{Recent, Seen, Sighting};
use super::index::Index;
use super::message::{Answer, Message};
use super::sketch::{Panes, fingerprint};
use super::slab::{Row, Slab};
use super::timers::Target;
use super::wire::{Get, Put, WireError};
use super::{Settings, window};
use crate::time::{Span, Ticks};
use compact_str::CompactString;

#[derive(Debug)]
pub(crate) struct Destination {
    pub(crate) tenant: u32,
    pub(crate) ip: CompactString,
    devices: Recent<u64>,
    urls: Recent<u32>,
    /// Only where a cap was reached.
    overflow: Option<Box<Overflow>>,
    /// Only where candidates watch; not persisted, candidates ask again after a load.
    watched: Option<Box<Watched>>,
    timer: Ticks,
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
    candidates: Vec<u32>,
    answered: Answer,
}

impl Row for Destination {
    fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(self.tenant);
        out.put_str(&self.ip);
        out.put_u32(self.devices.all().len() as u32);
        for device in self.devices.all() {
            out.put_u64(device.key);
            out.put_ticks(device.last);
        }
        out.put_u32(self.urls.all().len() as u32);
        for url in self.urls.all() {
            out.put_u32(url.key);
            out.put_ticks(url.last);
        }
        match &self.overflow {
            None => out.put_u8(0),
            Some(overflow) => {
                out.put_u8(1 + u8::from(overflow.panes.is_some()));
                out.put_ticks(overflow.url_dropped);
                if let Some(panes) = &overflow.panes {
                    panes.encode(out);
                }
            }
        }
    }

    fn decode(bytes: &mut Get<'_>) -> Result<Self, WireError> {
        let (tenant, ip) = (bytes.u32()?, CompactString::from(bytes.str()?));
        let n = bytes.count(16)?;
        let devices = (0..n).map(|_| Ok(Seen { key: bytes.u64()?, last: bytes.ticks()? })).collect::<Result<Vec<_>, WireError>>()?;
        let n = bytes.count(12)?;
        let urls = (0..n).map(|_| Ok(Seen { key: bytes.u32()?, last: bytes.ticks()? })).collect::<Result<Vec<_>, WireError>>()?;
        let overflow = match bytes.u8()? {
            0 => None,
            kind @ (1 | 2) => {
                let url_dropped = bytes.ticks()?;
                let panes = if kind == 2 { Some(Panes::decode(bytes)?) } else { None };
                Some(Box::new(Overflow { panes, url_dropped }))
            }
            _ => return Err(WireError::Invalid("overflow kind")),
        };
        Ok(Destination {
            tenant,
            ip,
            devices: Recent::from_rows(devices.into_iter()),
            urls: Recent::from_rows(urls.into_iter()),
            overflow,
            watched: None,
            timer: Ticks::MAX,
        })
    }
}

impl Destination {
    fn prevalence(&self, now: Ticks, settings: &Settings) -> u64 {
        let kept = self.devices.count(now, settings.prevalence_window);
        if kept < settings.device_cap() {
            return kept as u64;
        }
        let estimate = self.overflow.as_ref().and_then(|o| o.panes.as_ref()).map_or(0, |p| p.estimate(now, settings.prevalence_window));
        estimate.max(kept as u64)
    }

    /// All that is kept, also what has left the window: devices, URLs.
    pub(crate) fn kept(&self) -> (&[Seen<u64>], &[Seen<u32>]) {
        (self.devices.all(), self.urls.all())
    }

    /// Fingerprints of the devices kept that are in the window at `now`, with when each was last seen.
    pub(crate) fn devices_within(&self, now: Ticks, settings: &Settings) -> impl Iterator<Item = (u64, Ticks)> {
        self.devices.iter(now, settings.prevalence_window).map(|s| (s.key, s.last))
    }

    /// URL ids kept that are in the window at `now`, with when each was last seen.
    pub(crate) fn urls_within(&self, now: Ticks, settings: &Settings) -> impl Iterator<Item = (u32, Ticks)> {
        self.urls.iter(now, settings.prevalence_window).map(|s| (s.key, s.last))
    }

    /// When a URL that is not kept was last seen, if that is in the window at `now`.
    pub(crate) fn url_dropped_within(&self, now: Ticks, settings: &Settings) -> Option<Ticks> {
        let dropped = self.overflow.as_ref().map(|o| o.url_dropped);
        dropped.filter(|t| window::holds(*t, now, settings.prevalence_window))
    }

    /// The sketch's panes, where the window at `now` holds more devices than are kept: the beginning of each, about how many devices.
    pub(crate) fn panes_within(&self, now: Ticks, settings: &Settings) -> Vec<(Ticks, u64)> {
        let window = settings.prevalence_window;
        let full = self.devices.count(now, window) >= settings.device_cap();
        let panes = self.overflow.as_ref().and_then(|o| o.panes.as_ref()).filter(|_| full);
        panes.map_or_else(Vec::new, |panes| panes.each(now, window))
    }

    fn overflow(&mut self) -> &mut Overflow {
        self.overflow.get_or_insert_with(|| Box::new(Overflow { panes: None, url_dropped: Ticks::MIN }))
    }

    /// The cap is reached. Up to this sighting everything in the window was kept, so the sketch begins complete.
    fn begin_panes(&mut self, displaced: Option<Seen<u64>>, span: Span) {
        if self.overflow().panes.is_none() {
            let mut panes = Panes::default();
            displaced.iter().chain(self.devices.all()).for_each(|s| panes.insert(s.key, s.last, span));
            self.overflow().panes = Some(panes);
        }
    }

    /// When each kept item that is in the window leaves it. Items that have left are not looked at: no timer in the past (INV-due).
    fn ends(&self, now: Ticks, span: Span) -> impl Iterator<Item = Ticks> {
        let devices = self.devices.iter(now, span).map(|s| s.last);
        devices.chain(self.urls.iter(now, span).map(|s| s.last)).map(move |t| window::ends(t, span))
    }

    fn earliest_end(&self, now: Ticks, settings: &Settings) -> Ticks {
        self.ends(now, settings.prevalence_window).min().unwrap_or(Ticks::MAX)
    }

    fn latest_end(&self, now: Ticks, settings: &Settings) -> Ticks {
        self.ends(now, settings.prevalence_window).max().unwrap_or(Ticks::MAX)
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
        Destinations { rows: Slab::default(), references: Vec::new(), index: Index::new(seed) }
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
        self.rows.get(id).map_or(0, |row| row.ip.as_bytes().first().map_or(0, |b| u64::from(*b)) ^ row.timer.0 as u64)
    }

    /// The same of its lists; the first URL comes back.
    #[inline]
    pub(crate) fn touch_window(&self, id: u32) -> (u64, Option<u32>) {
        self.rows.get(id).map_or((0, None), |row| (row.devices.touch(), row.urls.all().first().map(|url| url.key)))
    }

    /// The row of an address, which may be the one that `hint` names; made when it is new.
    pub(crate) fn id(&mut self, tenant: u32, ip: &str, hint: Option<u32>) -> u32 {
        let rows = &self.rows;
        let is_it = |id| rows.get(id).is_some_and(|d: &Destination| d.tenant == tenant && d.ip == ip);
        if let Some(id) = hint.filter(|id| is_it(*id)) {
            return id;
        }
        let hash = self.hash(tenant, ip);
        if let Some(id) = self.index.find(hash, is_it) {
            return id;
        }
        let id = self.rows.insert(Destination {
            tenant,
            ip: CompactString::from(ip),
            devices: Recent::default(),
            urls: Recent::default(),
            overflow: None,
            watched: None,
            timer: Ticks::MAX,
        });
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
        let is_idle = row.watched.is_none() && row.devices.all().is_empty() && row.urls.all().is_empty();
        if is_idle && self.references.get(id as usize).is_none_or(|n| *n == 0) {
            let hash = self.index.hash_scoped(row.tenant, row.ip.as_bytes());
            self.index.remove(hash, id);
            self.rows.remove(id);
        }
    }

    /// A network row at event time `t`, which is inside the prevalence window.
    pub(crate) fn sighting(&mut self, id: u32, device: u64, url: &str, t: Ticks, turn: &mut Turn<'_>) {
        let (now, span, cap) = (turn.now, turn.settings.prevalence_window, turn.settings.device_cap());
        let row = self.rows.row_mut(id);
        let (mut changed, mut in_pane) = (false, false);
        match row.devices.see(device, t, now, span, cap, |device| device, |_| {}) {
            // A device that was seen in this pane already stands in its sketch.
            Sighting::Known(last) => in_pane = Panes::are_one(last, t, span),
            Sighting::Entered | Sighting::Returned => changed = true,
            Sighting::Displaced(old) => row.begin_panes(Some(old), span),
            Sighting::TooOld => row.begin_panes(None, span),
        }
        if let Some(panes) = row.overflow.as_mut().and_then(|o| o.panes.as_mut()).filter(|_| !in_pane) {
            panes.insert(device, t, span);
        }
        let strings = &mut *turn.strings;
        // Most destinations go by one name: looking at it is cheaper than looking it up among all.
        let known = if url.is_empty() { None } else { row.urls.see_again(|key| strings.get(key) == url, t, now, span) };
        if let Some(sighting) = known {
            changed |= sighting == Sighting::Returned;
        } else if !url.is_empty() {
            let key = strings.intern(url);
            let mut gone = Vec::new();
            let rank = |url| fingerprint(strings.get(url));
            let sighting = row.urls.see(key, t, now, span, turn.settings.urls_per_destination, rank, |url| gone.push(url));
            gone.into_iter().for_each(|url| strings.release(url));
            match sighting {
                Sighting::Known(_) => strings.release(key),
                Sighting::Returned => {
                    strings.release(key);
                    changed = true;
                }
                Sighting::Entered => changed = true,
                Sighting::Displaced(old) => {
                    changed = true;
                    row.overflow().url_dropped = row.overflow().url_dropped.max(old.last);
                }
                Sighting::TooOld => {
                    strings.release(key);
                    row.overflow().url_dropped = row.overflow().url_dropped.max(t);
                }
            }
        }
        if row.timer == Ticks::MAX || row.watched.is_some() {
            turn.timers.arm(&mut row.timer, window::ends(t, span), Target::Destination(id));
        }
        if changed {
            self.tell(id, turn);
        }
    }

    /// Tells watchers when the answer changed and either side of the change is below the threshold.
    fn tell(&mut self, id: u32, turn: &mut Turn<'_>) {
        if self.rows.row(id).watched.is_none() {
            return;
        }
        let answer = self.answer(id, turn);
        let below = turn.settings.prevalence_below;
        if let Some(watched) = &mut self.rows.row_mut(id).watched
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
        let (row, span) = (self.rows.row(id), turn.settings.prevalence_window);
        let urls = row.urls.iter(turn.now, span).map(|s| fingerprint(turn.strings.get(s.key))).fold(0u64, u64::wrapping_add);
        // Beyond the cap the exact number decides nothing: no estimate is made for an answer.
        Answer { prevalence: row.devices.count(turn.now, span) as u32, urls }
    }

    pub(crate) fn watch(&mut self, id: u32, candidate: u32, turn: &mut Turn<'_>) {
        let answer = self.answer(id, turn);
        let row = self.rows.row_mut(id);
        let watched = row.watched.get_or_insert_with(|| Box::new(Watched { candidates: Vec::new(), answered: answer }));
        watched.candidates.push(candidate);
        let earliest = row.earliest_end(turn.now, turn.settings);
        turn.timers.arm(&mut row.timer, earliest, Target::Destination(id));
        turn.outbox.push(Message::Answer { candidate, answer });
    }

    pub(crate) fn unwatch(&mut self, id: u32, candidate: u32) {
        let row = self.rows.row_mut(id);
        if let Some(watched) = &mut row.watched {
            if let Some(at) = watched.candidates.iter().position(|c| *c == candidate) {
                watched.candidates.swap_remove(at);
            }
            if watched.candidates.is_empty() {
                row.watched = None;
            }
        }
        self.remove_if_unused(id);
    }

    /// A timer fired: drops what has left the window, tells watchers, looks when to look again.
    pub(crate) fn due(&mut self, id: u32, turn: &mut Turn<'_>) {
        let (now, span) = (turn.now, turn.settings.prevalence_window);
        if self.rows.get(id).is_none_or(|row| row.timer != now) {
            return;
        }
        let row = self.rows.row_mut(id);
        row.timer = Ticks::MAX;
        row.devices.expire(now, span, |_| {});
        let strings = &mut *turn.strings;
        row.urls.expire(now, span, |gone| strings.release(gone));
        if let Some(overflow) = &mut row.overflow {
            if let Some(panes) = &mut overflow.panes {
                panes.expire(now, span);
            }
            if row.devices.all().len() < turn.settings.device_cap() {
                // Below the cap the kept devices are all of the window: the sketch says nothing more.
                overflow.panes = None;
            }
            if overflow.panes.is_none() && !window::holds(overflow.url_dropped, now, span) {
                row.overflow = None;
            }
        }
        let due = if row.watched.is_some() { row.earliest_end(turn.now, turn.settings) } else { row.latest_end(turn.now, turn.settings) };
        turn.timers.arm(&mut row.timer, due, Target::Destination(id));
        self.tell(id, turn);
        self.remove_if_unused(id);
    }

    /// Prevalence for people: exact below the cap, an estimate beyond.
    pub(crate) fn prevalence(&self, id: u32, now: Ticks, settings: &Settings) -> u64 {
        self.rows.row(id).prevalence(now, settings)
    }

    /// URL ids in the window, and whether more were seen than are kept.
    pub(crate) fn urls(&self, id: u32, now: Ticks, settings: &Settings) -> (impl Iterator<Item = u32>, bool) {
        let (row, span) = (self.rows.row(id), settings.prevalence_window);
        let truncated = row.overflow.as_ref().is_some_and(|o| window::holds(o.url_dropped, now, span));
        (row.urls.iter(now, span).map(|s| s.key), truncated)
    }

    /// After a load: indexes the rows; devices then retain, strings are retained by `each_url`.
    pub(crate) fn reindex(&mut self, mut each_url: impl FnMut(u32)) {
        self.rows.finish_load();
        self.references = vec![0; self.rows.id_end() as usize];
        self.index.clear();
        for (id, row) in self.rows.iter() {
            let hash = self.index.hash_scoped(row.tenant, row.ip.as_bytes());
            self.index.insert(hash, id);
            row.urls.all().iter().for_each(|s| each_url(s.key));
        }
    }

    /// After a load: arms the timer of a row, or removes it when nothing holds it.
    pub(crate) fn restore_timer(&mut self, id: u32, turn: &mut Turn<'_>) {
        let Some(row) = self.rows.get_mut(id) else { return };
        let due = row.latest_end(turn.now, turn.settings);
        turn.timers.arm(&mut row.timer, due, Target::Destination(id));
    }
}
