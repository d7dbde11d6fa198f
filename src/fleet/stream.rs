//! What happens when: one tenant's connections and inventory rows, delayed, repeated, and put into messages in arrival order.
//!
//! Invariant: a record waits as a few dozen bytes and is rendered only when it leaves, so memory follows the number of delayed
//! records, never the length of the run; and a row's columns depend on nothing but what waits. Who talks to whom stands in
//! `world`.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::catalogue::{Process, word};
use super::random::{Random, mix, scale};
use super::world::{Implant, Kind, Remote, World};
use super::{AttackTarget, FleetOptions, Message, render};
use crate::defender::{DeviceInfo, NetworkEvent};
use crate::time::{Span, TICKS_PER_SECOND, Ticks};

/// The implant calls home this often.
pub(crate) const BEACONS: u32 = 5;
const HOUR: i64 = Span::hours(1).0;
const DAY: i64 = Span::days(1).0;
/// No record arrives sooner after its event.
const LEAST_DELAY: i64 = Span::minutes(2).0;
/// Records of one message lie no further apart.
const MESSAGE_SPREAD: i64 = Span::minutes(10).0;
/// How busy each hour of the day (UTC) is; 100 on average.
const HOURS: [i64; 24] = [60, 55, 50, 50, 55, 60, 80, 110, 140, 150, 155, 150, 140, 145, 150, 150, 140, 125, 105, 95, 85, 75, 70, 65];
/// How long machines are out of reach, in hours; 15.9 on average.
const SPELLS: [i64; 9] = [2, 3, 4, 6, 8, 12, 24, 36, 48];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Connection { remote: Remote, process: u16, action: &'static str },
    Inventory { partial: bool },
}

/// A record on its way. Ordered by arrival, then by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Pending {
    arrival: i64,
    number: u64,
    at: i64,
    report: u64,
    device: u32,
    what: What,
}

#[derive(Debug)]
pub(crate) struct TenantStream {
    world: World,
    random: Random,
    start: i64,
    end: i64,
    /// Time of the next connection, in 1/1024 ticks since the start.
    next_connection: i64,
    mean_gap: i64,
    inventory: BinaryHeap<Reverse<(i64, u32)>>,
    pending: BinaryHeap<Reverse<Pending>>,
    turns: Vec<u32>,
    number: u64,
    fresh: u32,
    fresh_parts: u64,
    offline_parts: u64,
    repeat_parts: u64,
    inventory_hours: i64,
    padding: bool,
    target: Option<AttackTarget>,
    /// The process of rows that have none.
    nothing: Process,
    scratch: Scratch,
}

/// Text of the record that is being rendered.
#[derive(Debug, Default)]
struct Scratch {
    id: String,
    ip: String,
    url: String,
    user: String,
}

/// A share as parts in a million.
fn parts(share: f64) -> u64 {
    (share.clamp(0.0, 1.0) * 1e6).round() as u64
}

impl TenantStream {
    pub(crate) fn new(options: &FleetOptions, tenant: u32) -> Self {
        let world = World::new(options.seed, tenant, options.devices, options.servers);
        let devices = world.devices.len();
        let rate = options.records_per_device_day.max(1e-3);
        let mut random = Random::new(mix(world.seed, 4242));
        let start = options.start.0;
        // A machine is described hourly to daily, and at most for a twentieth of the records.
        let inventory_hours = ((24.0 * 20.0 / rate).ceil() as i64).clamp(1, 24);
        let first = |device: usize| start + i64::try_from(mix(world.seed ^ 0x1f, device as u64) % (6 * HOUR).cast_unsigned()).unwrap_or(0);
        let inventory = (0..devices).map(|d| Reverse((first(d), u32::try_from(d).unwrap_or(0)))).collect();
        let mut stream = TenantStream {
            start,
            end: options.start.plus(options.span).0,
            next_connection: 0,
            mean_gap: ((DAY as f64 * 1024.0 / (devices as f64 * rate)).round() as i64).max(1),
            inventory,
            pending: BinaryHeap::new(),
            turns: vec![0; devices],
            number: 0,
            fresh: 0,
            fresh_parts: parts(options.new_per_server_day / rate),
            offline_parts: parts(options.late * 24.0 / 15.9),
            repeat_parts: parts(options.repeats),
            inventory_hours,
            padding: options.padding,
            target: None,
            nothing: Process::of(&("", "", "", "", "")),
            scratch: Scratch::default(),
            random: random.clone(),
            world,
        };
        if let Some((attack, implant)) = options.attack.filter(|_| tenant == 0).zip(stream.world.implant()) {
            stream.plant(attack.at.0, implant, &mut random);
        }
        stream
    }

    pub(crate) fn target(&self) -> Option<&AttackTarget> {
        self.target.as_ref()
    }

    pub(crate) fn tenant(&self) -> &str {
        &self.world.tenant
    }

    /// Records that wait.
    #[cfg(test)]
    pub(crate) fn under_way(&self) -> usize {
        self.pending.len()
    }

    fn plant(&mut self, at: i64, implant: Implant, random: &mut Random) {
        let mut first_arrival = Ticks::MAX;
        for beacon in 0..i64::from(BEACONS) {
            let at = at + beacon * 75 * TICKS_PER_SECOND + if beacon == 0 { 0 } else { self.draw(random, 10 * TICKS_PER_SECOND) };
            let arrival = at + LEAST_DELAY + self.draw(random, 60 * TICKS_PER_SECOND);
            first_arrival = first_arrival.min(Ticks(arrival));
            let what = What::Connection { remote: Remote::Implant, process: implant.process, action: "ConnectionSuccess" };
            self.push(at, arrival, implant.device, what);
        }
        let (mut ip, mut url, mut id) = (String::new(), String::new(), String::new());
        let (_, port) = self.world.address(Remote::Implant, &mut ip);
        self.world.url(Remote::Implant, 0, &mut url);
        self.world.device_id(implant.device, self.generation(implant.device, at), &mut id);
        self.target = Some(AttackTarget {
            tenant: self.world.tenant.clone(),
            device_name: self.world.devices.get(implant.device as usize).map(|d| d.name.clone()).unwrap_or_default(),
            device_id: (&*id).into(),
            remote_ip: ip,
            remote_port: port.unwrap_or(443),
            remote_url: url,
            company: self.world.processes.get(usize::from(implant.process)).map(|p| p.company.clone()).unwrap_or_default(),
            at: Ticks(at),
            arrival: first_arrival,
            connections: BEACONS,
        });
    }

    fn draw(&self, random: &mut Random, below: i64) -> i64 {
        i64::try_from(random.below(below.cast_unsigned())).expect("INV: below an i64")
    }

    fn below(&mut self, n: i64) -> i64 {
        i64::try_from(self.random.below(n.cast_unsigned())).expect("INV: below an i64")
    }

    fn push(&mut self, at: i64, arrival: i64, device: u32, what: What) -> Pending {
        self.number += 1;
        let row = Pending { arrival, number: self.number, at, report: self.number, device, what };
        self.pending.push(Reverse(row));
        row
    }

    /// Queues the row with its delay, and perhaps its repeat.
    fn send(&mut self, at: i64, device: u32, what: What) {
        // Some sources cut their clocks to seconds or milliseconds.
        let cut = match self.random.below(16) {
            0 => at - at.rem_euclid(TICKS_PER_SECOND),
            1 => at - at.rem_euclid(10_000),
            _ => at,
        };
        let arrival = self.reachable(device, at) + LEAST_DELAY + self.below(Span::minutes(5).0);
        let row = self.push(cut, arrival, device, what);
        if self.random.chance(self.repeat_parts) {
            let later = arrival + TICKS_PER_SECOND + self.below(Span::minutes(10).0);
            self.number += 1;
            self.pending.push(Reverse(Pending { arrival: later, number: self.number, ..row }));
        }
    }

    /// When the machine is next on the network: `at`, or the end of the spell that it is in.
    fn reachable(&self, device: u32, at: i64) -> i64 {
        let day = (at - self.start).div_euclid(DAY);
        let mut until = at;
        for day in (day - 2).max(0)..=day {
            let h = mix(self.world.seed ^ u64::from(device), 7_000_000 + day.cast_unsigned());
            if scale(h, 1_000_000) < self.offline_parts {
                let from = self.start + day * DAY + i64::try_from(mix(h, 1) % DAY.cast_unsigned()).unwrap_or(0);
                let hours = SPELLS.get((mix(h, 2) % 9) as usize).copied().unwrap_or(2);
                if from <= at {
                    until = until.max(from + hours * HOUR);
                }
            }
        }
        until
    }

    /// One device in 97 is re-imaged half way: same name, new `DeviceId`.
    fn generation(&self, device: u32, at: i64) -> u64 {
        u64::from(device % 97 == 41 && at > self.start + (self.end - self.start) / 2)
    }

    /// Makes rows until the earliest waiting one can no longer be overtaken. False when nothing is left.
    fn refill(&mut self) -> bool {
        loop {
            let connection = self.start + (self.next_connection >> 10);
            let inventory = self.inventory.peek().map_or(i64::MAX, |r| r.0.0);
            let next = connection.min(inventory);
            match self.pending.peek() {
                Some(Reverse(first)) if first.arrival <= next + LEAST_DELAY || next >= self.end => return first.arrival < self.end,
                None if next >= self.end => return false,
                _ => {}
            }
            if inventory < connection { self.describe() } else { self.connect(connection) }
        }
    }

    fn describe(&mut self) {
        let Some(Reverse((at, device))) = self.inventory.pop() else { return };
        let hours = [1, 2, 4, 8, 24, 24]
            .get((mix(self.world.seed ^ 0x2f, device.into()) % 6) as usize)
            .copied()
            .unwrap_or(24)
            .max(self.inventory_hours);
        self.inventory.push(Reverse((at + hours * HOUR + self.random.below(600_000_000).cast_signed(), device)));
        let partial = self.random.below(10) < 3;
        self.send(at, device, What::Inventory { partial });
    }

    fn connect(&mut self, at: i64) {
        let hour = at.rem_euclid(DAY) / HOUR;
        let busy = HOURS.get(usize::try_from(hour).unwrap_or(0)).copied().unwrap_or(100);
        self.next_connection += 1 + self.below(2 * self.mean_gap * 100 / busy);
        let device = self.world.pick_device(&mut self.random);
        let Some(d) = self.world.devices.get(device as usize) else { return };
        let random = &mut self.random;
        let what = match random.below(100) {
            0..=11 => What::Connection {
                remote: Remote::Inside(random.below(200) as u32),
                process: self.world.process_for(d.kind, random),
                action: "ConnectionSuccess",
            },
            12..=13 => What::Connection {
                remote: Remote::Mapped(random.below(200) as u32),
                process: self.world.process_for(d.kind, random),
                action: "ConnectionSuccess",
            },
            14..=15 => {
                What::Connection { remote: Remote::Loopback, process: self.world.process_for(d.kind, random), action: "ConnectionSuccess" }
            }
            16..=17 => What::Connection {
                remote: Remote::Nobody,
                process: self.world.process_for(d.kind, random),
                action: "ListeningConnectionCreated",
            },
            _ if d.kind.is_settled() && random.chance(self.fresh_parts) => {
                self.fresh += 1;
                What::Connection {
                    remote: Remote::Fresh(self.fresh),
                    process: self.world.process_for(d.kind, random),
                    action: "ConnectionSuccess",
                }
            }
            action => {
                let action = match (action, d.kind) {
                    (18..=20, _) => "ConnectionFailed",
                    (21..=23, _) => "SslConnectionInspected",
                    (24, _) => "HttpConnectionInspected",
                    (25..=26, _) => "ConnectionFound",
                    (_, Kind::Mac | Kind::Linux) => "ConnectionRequest",
                    _ => "ConnectionSuccess",
                };
                let turn = self.turns.get_mut(device as usize).map_or(0, |turn| {
                    *turn = turn.wrapping_add(1);
                    *turn as usize
                });
                // Three in five go round the set, so that none is forgotten for two weeks.
                let habits = d.habits.len();
                let at = if random.below(5) < 3 { turn % habits.max(1) } else { random.below(habits as u64) as usize };
                match d.habits.get(at) {
                    Some(habit) => What::Connection { remote: habit.remote, process: habit.process, action },
                    None => What::Connection { remote: self.world.roam(random), process: self.world.process_for(d.kind, random), action },
                }
            }
        };
        self.send(at, device, what);
    }

    fn render(&mut self, row: &Pending, out: &mut Vec<u8>) {
        let Some(device) = self.world.devices.get(row.device as usize) else { return };
        let generation = self.generation(row.device, row.at);
        let (world, arrival, timestamp) = (&self.world, Ticks(row.arrival), Ticks(row.at));
        let Scratch { id, ip, url, user } = &mut self.scratch;
        [&mut *id, ip, url, user].into_iter().for_each(String::clear);
        world.device_id(row.device, generation, id);
        match row.what {
            What::Connection { remote, process, action } => {
                let nonce = mix(world.seed, row.report);
                let (kind, port) = world.address(remote, ip);
                world.url(remote, nonce, url);
                let none = &self.nothing;
                let observed = action.ends_with("Inspected") || action == "ConnectionFound";
                let p = if observed { none } else { world.processes.get(usize::from(process)).unwrap_or(none) };
                let (mut account, mut domain) = (p.account_name, p.account_domain);
                if account.is_empty() && !observed {
                    user.push_str(word(row.device.into()));
                    user.push('.');
                    user.push_str(word(u64::from(row.device) / 25));
                    (account, domain) = (user, "corp");
                }
                let event = NetworkEvent {
                    timestamp,
                    device_id: (&*id).into(),
                    device_name: &device.name,
                    report_id: report_id(row.report, nonce),
                    action_type: action.into(),
                    remote_ip: ip,
                    remote_ip_type: (if observed { "" } else { kind }).into(),
                    remote_port: port,
                    remote_url: url,
                    company: &p.company,
                    product: (&p.product).into(),
                    file_name: (&p.file_name).into(),
                    folder_path: (&p.folder_path).into(),
                    command_line: (&p.command_line).into(),
                    sha256: (if observed { "" } else { &p.sha256 }).into(),
                    account_name: account.into(),
                    account_domain: domain.into(),
                };
                render::render_network(out, arrival, &world.tenant, &event, self.padding);
            }
            What::Inventory { partial } => {
                let h = mix(world.seed ^ 0x3f, row.device.into()) % 3;
                let (os_platform, device_type) = match (device.kind, h) {
                    _ if partial => ("", ""),
                    (Kind::Windows, 0) => ("WindowsServer2016", "Server"),
                    (Kind::Windows, 1) => ("WindowsServer2019", "Server"),
                    (Kind::Windows, _) => ("WindowsServer2022", "Server"),
                    (Kind::Linux, _) => ("Linux", "Server"),
                    (Kind::Workstation, 0) => ("Windows10", "Workstation"),
                    (Kind::Workstation, _) => ("Windows11", "Workstation"),
                    (Kind::Mac, _) => ("macOS", "Workstation"),
                    (Kind::Odd, 0) => ("Linux", "IoT"),
                    (Kind::Odd, 1) => ("Linux", ""),
                    (Kind::Odd, _) => ("", "NetworkDevice"),
                };
                let info = DeviceInfo { timestamp, device_id: id, device_name: &device.name, os_platform, device_type };
                render::render_device(out, arrival, &world.tenant, &info, self.padding);
            }
        }
    }

    pub(crate) fn next_message(&mut self) -> Option<Message> {
        let wanted = 12 + self.random.below(17);
        let mut bytes = Vec::with_capacity(if self.padding { 64 << 10 } else { 20 << 10 });
        render::open_message(&mut bytes);
        let (mut first, mut last, mut records) = (None, 0, 0u32);
        while u64::from(records) < wanted && self.refill() {
            let limit = first.map_or(i64::MAX, |first: i64| first + MESSAGE_SPREAD);
            let Some(Reverse(row)) = self.pending.peek().copied().filter(|Reverse(row)| row.arrival <= limit) else { break };
            self.pending.pop();
            first = first.or(Some(row.arrival));
            last = row.arrival;
            render::next_record(&mut bytes);
            self.render(&row, &mut bytes);
            records += 1;
        }
        render::close_message(&mut bytes);
        (records > 0).then_some(Message { arrival: Ticks(last), records, bytes })
    }
}

/// Small numbers as a rule, 18 digits now and then: never to be read through a double.
fn report_id(number: u64, nonce: u64) -> i64 {
    let base = if nonce.is_multiple_of(10) { 638_999_803_770_000_000 } else { 1_000 };
    base + i64::try_from(number).unwrap_or(0)
}
