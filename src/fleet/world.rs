//! What stands still in one tenant: its devices, the software on them, the destinations there are and who talks to which.
//!
//! Invariant: a server talks to a fixed set of destinations, so that after a warm-up little is new there. What happens when
//! belongs to `stream`.

use std::fmt::Write as _;

use super::catalogue::{COMMON_HOSTS, LINUX, MAC, Process, SERVER, WORKSTATION, word};
use super::random::{Random, Zipf, mix, scale};

/// What a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Windows,
    Linux,
    Workstation,
    Mac,
    /// Printers, cameras and the like: DeviceInfo knows little of them.
    Odd,
}

impl Kind {
    /// Whether it keeps to a set of destinations.
    pub(crate) fn is_settled(self) -> bool {
        matches!(self, Kind::Windows | Kind::Linux | Kind::Odd)
    }
}

/// A destination a device keeps to, and the process that talks to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Habit {
    pub(crate) remote: Remote,
    pub(crate) process: u16,
}

#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) kind: Kind,
    pub(crate) name: String,
    /// Empty where the device roams.
    pub(crate) habits: Vec<Habit>,
}

/// Whom a connection goes to. The number is unique within its class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Remote {
    /// Talked to by everybody.
    Common(u32),
    /// The web's long tail, for those that browse.
    Tail(u32),
    /// A niche vendor's own service.
    Vendor(u32),
    /// A partner of a single server.
    Own(u32),
    /// New, and never seen again.
    Fresh(u32),
    /// The attack's.
    Implant,
    /// Inside the company.
    Inside(u32),
    /// The same in IPv6 clothes.
    Mapped(u32),
    Loopback,
    /// Listening sockets have none.
    Nobody,
}

/// The attack's place in the fleet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Implant {
    pub(crate) device: u32,
    pub(crate) process: u16,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) tenant: String,
    pub(crate) devices: Vec<Device>,
    pub(crate) processes: Vec<Process>,
    pub(crate) servers: u32,
    common: Zipf,
    tail: Zipf,
    popularity: Zipf,
}

const ROLES: &[&str] = &["srv-sql", "srv-web", "srv-app", "dc", "srv-fs", "srv-mon", "srv-bkp", "srv-prn", "srv-jmp", "srv-erp"];
/// Niche vendors' processes stand behind these in `World::processes`.
const FIRST_WORKSTATION: u16 = 10;
const FIRST_MAC: u16 = 20;
const FIRST_LINUX: u16 = 23;
const FIRST_NICHE: u16 = 27;
/// As many niche vendors as process numbers are kept for.
const MOST_VENDORS: u32 = 20_000;

impl World {
    pub(crate) fn new(seed: u64, number: u32, devices: u32, server_share: f64) -> Self {
        let seed = mix(seed, 1000 + u64::from(number));
        let mut random = Random::new(seed);
        let (a, b) = (random.next(), random.next());
        let tenant =
            format!("{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}", a >> 32, a >> 16 & 0xffff, a & 0xfff, b >> 48 & 0xfff, b & 0xffff_ffff_ffff);
        let domain = if number == 0 { "corp.example".to_owned() } else { format!("branch{number}.example") };
        let devices = devices.max(1);
        // Truncation is meant; a share outside 0 … 1 is brought inside.
        let servers = ((f64::from(devices) * server_share.clamp(0.0, 1.0)).round() as u32).min(devices);
        let common = (devices / 3).clamp(40, 40_000);
        let mut world = World {
            seed,
            tenant,
            devices: Vec::with_capacity(devices as usize),
            processes: [SERVER, WORKSTATION, MAC, LINUX].iter().flat_map(|rows| rows.iter().map(Process::of)).collect(),
            servers,
            common: Zipf::new(common, 5),
            tail: Zipf::new(devices.saturating_mul(20).clamp(2_000, 2_000_000), 20),
            popularity: Zipf::new(devices, 20),
        };
        let mut owned = 0;
        let mut count = [0u32; 4];
        for i in 0..devices {
            let device = world.device(i, devices, &domain, &mut count, &mut owned, &mut random);
            world.devices.push(device);
        }
        world.install_niche_software(&mut random);
        world
    }

    fn device(&self, i: u32, devices: u32, domain: &str, count: &mut [u32; 4], owned: &mut u32, random: &mut Random) -> Device {
        // Servers are spread evenly over the ranks of popularity.
        let upto = |i: u32| u64::from(i) * u64::from(self.servers) / u64::from(devices);
        let kind = if upto(i + 1) > upto(i) {
            if random.below(8) == 0 { Kind::Linux } else { Kind::Windows }
        } else {
            match random.below(100) {
                0..=2 => Kind::Mac,
                3..=4 => Kind::Odd,
                _ => Kind::Workstation,
            }
        };
        let [servers, workstations, macs, odd] = count;
        let name = match kind {
            Kind::Windows | Kind::Linux => {
                *servers += 1;
                let (role, n) = ((*servers as usize - 1) % ROLES.len(), (*servers as usize - 1) / ROLES.len() + 1);
                format!("{}-{n:02}.{domain}", ROLES.get(role).copied().unwrap_or("srv"))
            }
            Kind::Workstation => {
                *workstations += 1;
                format!("{}-{workstations:05}.{domain}", if i.is_multiple_of(3) { "lt" } else { "ws" })
            }
            Kind::Mac => {
                *macs += 1;
                format!("mbp-{}{macs}", word(macs.to_owned().into()))
            }
            Kind::Odd => {
                *odd += 1;
                format!("{}-{odd:03}", ["prn", "cam", "ups", "badge"].get(i as usize % 4).copied().unwrap_or("dev"))
            }
        };
        let mut habits: Vec<Habit> = Vec::new();
        if kind.is_settled() {
            let habit = |remote, random: &mut Random| Habit { remote, process: self.process_for(kind, random) };
            for _ in 0..5 + random.below(6) {
                let remote = Remote::Common(self.common.pick(random));
                if habits.iter().all(|h| h.remote != remote) {
                    habits.push(habit(remote, random));
                }
            }
            for _ in 0..random.below(3) {
                *owned += 1;
                habits.push(habit(Remote::Own(*owned), random));
            }
        }
        Device { kind, name, habits }
    }

    /// Niche vendor v is on one to nine Windows servers, most of them on few; vendor 0, the attack's, on up to six.
    fn install_niche_software(&mut self, random: &mut Random) {
        let hosts: Vec<usize> = self.devices.iter().enumerate().filter(|(_, d)| d.kind == Kind::Windows).map(|(i, _)| i).collect();
        let vendors = (self.servers / 3).clamp(1, MOST_VENDORS);
        for vendor in 0..vendors {
            self.processes.push(Process::niche(vendor));
            let wanted = if vendor == 0 { 6 } else { 9 / (1 + random.below(9)) };
            let process = FIRST_NICHE + u16::try_from(vendor).expect("INV: at most MOST_VENDORS vendors");
            for _ in 0..wanted {
                let Some(device) = hosts.get(scale(random.next(), hosts.len() as u64) as usize).and_then(|i| self.devices.get_mut(*i))
                else {
                    return;
                };
                // Drawing one host twice only makes the vendor rarer.
                if device.habits.iter().all(|h| h.process != process) {
                    device.habits.push(Habit { remote: Remote::Vendor(vendor * 2), process });
                    if random.below(2) == 0 {
                        device.habits.push(Habit { remote: Remote::Vendor(vendor * 2 + 1), process });
                    }
                }
            }
        }
    }

    /// The first server with vendor 0's software; without one there can be no attack.
    pub(crate) fn implant(&self) -> Option<Implant> {
        let runs = |d: &Device| d.habits.iter().any(|h| h.process == FIRST_NICHE);
        let device = self.devices.iter().position(runs)?;
        Some(Implant { device: u32::try_from(device).ok()?, process: FIRST_NICHE })
    }

    /// Some process of that kind of device, the commoner the likelier.
    pub(crate) fn process_for(&self, kind: Kind, random: &mut Random) -> u16 {
        let (first, n) = match kind {
            Kind::Windows => (0, FIRST_WORKSTATION),
            Kind::Workstation => (FIRST_WORKSTATION, FIRST_MAC - FIRST_WORKSTATION),
            Kind::Mac => (FIRST_MAC, FIRST_LINUX - FIRST_MAC),
            Kind::Linux | Kind::Odd => (FIRST_LINUX, FIRST_NICHE - FIRST_LINUX),
        };
        let pick = random.below(n.into()).min(random.below(n.into()));
        first + u16::try_from(pick).expect("INV: below a u16")
    }

    /// A device by popularity: half of all events are spread evenly, half by Zipf's law.
    pub(crate) fn pick_device(&self, random: &mut Random) -> u32 {
        if random.next() & 1 == 0 {
            return self.popularity.pick(random);
        }
        u32::try_from(random.below(self.devices.len() as u64)).expect("INV: a fleet has less than 2³² devices")
    }

    /// Where a roaming device goes.
    pub(crate) fn roam(&self, random: &mut Random) -> Remote {
        if random.below(5) == 0 { Remote::Tail(self.tail.pick(random)) } else { Remote::Common(self.common.pick(random)) }
    }

    /// The device's `DeviceId`; the second generation is after its re-imaging.
    pub(crate) fn device_id(&self, device: u32, generation: u64, out: &mut String) {
        let seed = mix(self.seed, u64::from(device) | generation << 40);
        let _ = write!(out, "{:016x}{:016x}{:08x}", seed, mix(seed, 1), mix(seed, 2) >> 32);
    }

    /// The remote address, its `RemoteIPType` and the usual port.
    pub(crate) fn address(&self, remote: Remote, ip: &mut String) -> (&'static str, Option<u16>) {
        // Benchmark and documentation ranges first; what does not fit is IPv6's documentation prefix.
        let v4 = |ip: &mut String, base: u32, room: u32, class: u32, n: u32| {
            let _ = if n < room {
                let address = base + n;
                write!(ip, "{}.{}.{}.{}", address >> 24, address >> 16 & 255, address >> 8 & 255, address & 255)
            } else {
                write!(ip, "2001:db8:{class:x}:{:x}::{:x}", n >> 16, n & 0xffff)
            };
        };
        let port = match remote {
            Remote::Common(n) | Remote::Tail(n) | Remote::Vendor(n) | Remote::Own(n) => match mix(n.into(), 77) % 20 {
                0..=15 => 443,
                16..=17 => 80,
                18 => 8443,
                _ => 22,
            },
            Remote::Inside(n) => [445, 1433, 389, 88, 53, 135].get(n as usize % 6).copied().unwrap_or(445),
            Remote::Nobody => return ("", None),
            _ => 443,
        };
        let kind = match remote {
            // An odd factor shuffles the 16-bit block without collisions.
            Remote::Common(n) => return (v4_shuffled(ip, n), Some(port)),
            Remote::Vendor(n) => {
                v4(ip, 0xc613_0000, 0x4000, 1, n);
                "Public"
            }
            Remote::Own(n) => {
                v4(ip, 0xc613_4000, 0x4000, 2, n);
                "Public"
            }
            Remote::Fresh(n) => {
                v4(ip, 0xc613_8000, 0x8000, 3, n);
                "Public"
            }
            Remote::Tail(n) => {
                v4(ip, 0x6440_0000, 0x40_0000, 4, n.wrapping_mul(0x9e_3779) & 0x3f_ffff);
                "Public"
            }
            Remote::Implant => {
                let _ = write!(ip, "203.0.113.{}", 1 + mix(self.seed, 99) % 254);
                "Public"
            }
            Remote::Inside(n) => {
                let _ = write!(ip, "10.{}.{}.{}", n >> 16 & 63, n >> 8 & 255, n & 255);
                "Private"
            }
            Remote::Mapped(n) => {
                let _ = write!(ip, "::ffff:10.{}.{}.{}", n >> 16 & 63, n >> 8 & 255, n & 255);
                "FourToSixMapping"
            }
            Remote::Loopback => {
                ip.push_str("127.0.0.1");
                "Loopback"
            }
            Remote::Nobody => "",
        };
        (kind, Some(port))
    }

    /// The host name, where the record has one.
    pub(crate) fn url(&self, remote: Remote, nonce: u64, url: &mut String) {
        let named = nonce % 10 < 6;
        let words = |n: u32| (word(mix(n.into(), 31)), word(mix(n.into(), 32)));
        let _ = match remote {
            Remote::Common(n) if named => match COMMON_HOSTS.get(n as usize) {
                Some(host) => write!(url, "{host}"),
                None => write!(url, "cdn-{n}.{}.example", words(n).0),
            },
            Remote::Tail(n) if named => write!(url, "www.{}{}{n}.example", words(n).0, words(n).1),
            Remote::Vendor(n) if named => {
                let process = self.processes.get(usize::from(FIRST_NICHE) + n as usize / 2);
                let maker = process.and_then(|p| p.file_name.split('.').next()).unwrap_or("vendor");
                write!(url, "{}.{maker}.example", if n % 2 == 0 { "updates" } else { "telemetry" })
            }
            Remote::Own(n) if named => write!(url, "api.{}-{n}.example", words(n).0),
            Remote::Fresh(n) if named => write!(url, "{}-{n}.{}.example", words(n).0, words(n).1),
            Remote::Implant => write!(url, "{:013x}.appsync-api.eu-west-1.telemetry-sync.example", mix(self.seed, 98) >> 12),
            _ => Ok(()),
        };
    }
}

/// The common destinations' block, 198.18.0.0/16, shuffled.
fn v4_shuffled(ip: &mut String, n: u32) -> &'static str {
    let n = n.wrapping_mul(40_503) & 0xffff;
    let _ = write!(ip, "198.18.{}.{}", n >> 8, n & 255);
    "Public"
}
