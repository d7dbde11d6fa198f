//! The hunting query's answer by brute force, written from the definitions alone.
//!
//! Owns: every row that arrived, and `answer(now)`, which scans all of them. Nothing is kept between two instants, nothing is
//! expired, nothing is indexed, so that there is nothing to get wrong but the definitions. [`changes`] derives from it what
//! must be said, and when. Leaves to others: where records come from, and what is compared with it.

pub(crate) mod changes;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use firstseen::defender::{Body, DeviceInfo, NetworkEvent, Record};
use firstseen::detector::Settings;
use firstseen::time::Ticks;

/// A row's key: device name, address, port.
pub(crate) type Key = (String, String, Option<u16>);

/// A row of the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) count: u64,
    pub(crate) prevalence: u64,
    /// Without the empty one.
    pub(crate) urls: BTreeSet<String>,
    pub(crate) first: Ticks,
    pub(crate) last: Ticks,
    /// The rare companies of the device with their server counts.
    pub(crate) vendors: BTreeMap<String, u64>,
}

/// A set of interned names: one bit each.
type Set = u128;

/// Numbers for texts, so that a scan compares numbers; at most 128 where a [`Set`] is made of them.
#[derive(Debug, Default)]
struct Names {
    by_text: HashMap<String, usize>,
    texts: Vec<String>,
}

impl Names {
    fn number(&mut self, text: &str) -> usize {
        if let Some(n) = self.by_text.get(text) {
            return *n;
        }
        self.texts.push(text.to_owned());
        self.by_text.insert(text.to_owned(), self.texts.len() - 1);
        self.texts.len() - 1
    }
}

#[derive(Debug)]
struct NetworkRow {
    timestamp: Ticks,
    device_name: usize,
    device_id: usize,
    ip: usize,
    key: usize,
    company: usize,
    url: usize,
    qualifies: bool,
    report_id: i64,
    /// Its connection was evicted since: the row is no longer in the baseline.
    forgotten: bool,
}

#[derive(Debug)]
struct DeviceRow {
    timestamp: Ticks,
    device_name: usize,
    server: bool,
}

/// One tenant's rows that have arrived, each event identity once.
#[derive(Debug)]
pub(crate) struct Model {
    settings: Settings,
    network: Vec<NetworkRow>,
    devices: Vec<DeviceRow>,
    identities: HashSet<(usize, i64, Ticks)>,
    device_names: Names,
    device_ids: Names,
    ips: Names,
    companies: Names,
    urls: Names,
    keys: Vec<(usize, usize, Option<u16>)>,
    key_numbers: HashMap<(usize, usize, Option<u16>), usize>,
}

impl Model {
    pub(crate) fn new(settings: Settings) -> Model {
        Model {
            settings,
            network: Vec::new(),
            devices: Vec::new(),
            identities: HashSet::new(),
            device_names: Names::default(),
            device_ids: Names::default(),
            ips: Names::default(),
            companies: Names::default(),
            urls: Names::default(),
            keys: Vec::new(),
            key_numbers: HashMap::new(),
        }
    }

    /// Answers by other numbers from now on, over the same rows.
    pub(crate) fn judge_by(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// The record's event time, if its table has one.
    pub(crate) fn event_time(record: &Record<'_>) -> Option<Ticks> {
        match record.body {
            Body::Network(event) => Some(event.timestamp),
            Body::Device(info) => Some(info.timestamp),
            Body::Skipped(_) => None,
        }
    }

    /// Adds the record's row; `false` when the event's identity is already there.
    pub(crate) fn insert(&mut self, record: &Record<'_>) -> bool {
        match record.body {
            Body::Network(event) => self.insert_network(&event),
            Body::Device(info) => {
                let device_name = self.device_names.number(info.device_name);
                self.devices.push(DeviceRow { timestamp: info.timestamp, device_name, server: says_server(&info) });
                true
            }
            Body::Skipped(_) => true,
        }
    }

    fn insert_network(&mut self, event: &NetworkEvent<'_>) -> bool {
        let device_id = self.device_ids.number(event.device_id.text());
        if !self.identities.insert((device_id, event.report_id, event.timestamp)) {
            return false;
        }
        let device_name = self.device_names.number(event.device_name);
        let ip = self.ips.number(event.remote_ip);
        let parts = (device_name, ip, event.remote_port);
        let keys = &mut self.keys;
        let key = *self.key_numbers.entry(parts).or_insert_with(|| {
            keys.push(parts);
            keys.len() - 1
        });
        self.network.push(NetworkRow {
            timestamp: event.timestamp,
            device_name,
            device_id,
            ip,
            key,
            company: self.companies.number(event.company),
            url: self.urls.number(event.remote_url),
            qualifies: qualifies(event),
            report_id: event.report_id,
            forgotten: false,
        });
        assert!(self.device_names.texts.len() <= 128 && self.device_ids.texts.len() <= 128, "a set holds 128 names");
        true
    }

    /// The query's rows at `now`, over everything inserted so far.
    pub(crate) fn answer(&self, now: Ticks) -> BTreeMap<Key, Row> {
        let lookback = now.minus(self.settings.lookback);
        // server(d, now)
        let mut servers: Set = 0;
        for row in self.devices.iter().filter(|row| row.timestamp > lookback && row.server) {
            servers |= 1 << row.device_name;
        }
        // vendor servers(v, now)
        let of_servers =
            || self.network.iter().filter(|row| row.timestamp > lookback && row.qualifies && servers >> row.device_name & 1 == 1);
        let mut vendor_servers: Vec<Set> = vec![0; self.companies.texts.len()];
        for row in of_servers() {
            vendor_servers[row.company] |= 1 << row.device_name;
        }
        // third-party(d, now)
        let rare = |company: usize| vendor_servers[company].count_ones() < self.settings.vendor_servers_below;
        let mut third_party: Set = 0;
        for row in of_servers().filter(|row| rare(row.company)) {
            third_party |= 1 << row.device_name;
        }
        // The baseline of the third-party servers, by key.
        let mut baseline: Vec<(u64, Ticks, Ticks)> = vec![(0, Ticks::MAX, Ticks::MIN); self.keys.len()];
        for row in of_servers().filter(|row| third_party >> row.device_name & 1 == 1 && !row.forgotten) {
            let (count, first, last) = &mut baseline[row.key];
            *count += 1;
            *first = row.timestamp.min(*first);
            *last = row.timestamp.max(*last);
        }
        let mut answer = BTreeMap::new();
        for (key, &(count, first, last)) in baseline.iter().enumerate() {
            if count == 0 || first <= now.minus(self.settings.new_within) {
                continue;
            }
            let (name, ip, port) = self.keys[key];
            let (prevalence, urls) = self.destination_number(ip, now);
            if prevalence >= u64::from(self.settings.prevalence_below) {
                continue;
            }
            let vendors = of_servers()
                .filter(|row| row.device_name == name && rare(row.company))
                .map(|row| (self.companies.texts[row.company].clone(), u64::from(vendor_servers[row.company].count_ones())))
                .collect();
            let row = Row { count, prevalence, urls, first, last, vendors };
            answer.insert((self.device_names.texts[name].clone(), self.ips.texts[ip].clone(), port), row);
        }
        answer
    }

    /// prevalence(ip, now) and urls(ip, now), the latter without the empty one.
    pub(crate) fn destination(&self, ip: &str, now: Ticks) -> (u64, BTreeSet<String>) {
        self.ips.by_text.get(ip).map_or_else(Default::default, |ip| self.destination_number(*ip, now))
    }

    fn destination_number(&self, ip: usize, now: Ticks) -> (u64, BTreeSet<String>) {
        let (mut devices, mut urls): (Set, _) = (0, BTreeSet::new());
        for row in self.network.iter().filter(|row| row.ip == ip && row.timestamp > now.minus(self.settings.prevalence_window)) {
            devices |= 1 << row.device_id;
            if !self.urls.texts[row.url].is_empty() {
                urls.insert(self.urls.texts[row.url].clone());
            }
        }
        (u64::from(devices.count_ones()), urls)
    }

    /// The key's connection is evicted: its rows count for everything but the baseline, and one that comes again is new.
    pub(crate) fn forget(&mut self, key: &Key) {
        let number = self.key_number(key);
        for row in self.network.iter_mut().filter(|row| Some(row.key) == number && row.qualifies) {
            row.forgotten = true;
            self.identities.remove(&(row.device_id, row.report_id, row.timestamp));
        }
    }

    /// The row that came last is not remembered.
    pub(crate) fn forget_last(&mut self) {
        if let Some(row) = self.network.last_mut() {
            row.forgotten = true;
            self.identities.remove(&(row.device_id, row.report_id, row.timestamp));
        }
    }

    fn key_number(&self, key: &Key) -> Option<usize> {
        let parts = (*self.device_names.by_text.get(&key.0)?, *self.ips.by_text.get(&key.1)?, key.2);
        self.key_numbers.get(&parts).copied()
    }

    /// How many qualifying rows of the key are at or after `first`, and the last of them.
    pub(crate) fn since(&self, key: &Key, first: Ticks) -> (u64, Ticks) {
        self.times(key).filter(|t| *t >= first).fold((0, Ticks::MIN), |(n, last), t| (n + 1, last.max(t)))
    }

    /// The key's first qualifying row later than `t`.
    pub(crate) fn first_after(&self, key: &Key, t: Ticks) -> Option<Ticks> {
        self.times(key).filter(|row| *row > t).min()
    }

    /// Whether the key has a qualifying row at `t`, before `first`.
    pub(crate) fn has_before(&self, key: &Key, first: Ticks, t: Ticks) -> bool {
        t < first && self.times(key).any(|row| row == t)
    }

    fn times(&self, key: &Key) -> impl Iterator<Item = Ticks> {
        let number = self.key_number(key);
        self.network.iter().filter(move |row| Some(row.key) == number && row.qualifies).map(|row| row.timestamp)
    }
}

/// The query's filter on action and address type. A second wording on purpose: `NetworkEvent::qualifies` is under test.
fn qualifies(event: &NetworkEvent<'_>) -> bool {
    if event.action_type.text() == "ListeningConnectionCreated"
        || event.remote_ip_type.text() == "Private"
        || event.remote_ip_type.text() == "Loopback"
    {
        return false;
    }
    let mapped = event.remote_ip_type.text() == "FourToSixMapping" && event.remote_ip.to_ascii_lowercase().starts_with("::ffff:");
    !mapped
}

/// The query's `server_list`; a second wording on purpose, too.
fn says_server(info: &DeviceInfo<'_>) -> bool {
    let (os, kind) = (info.os_platform, info.device_type);
    if os.is_empty() || os == "macOS" { false } else { kind != "Workstation" }
}
