//! A crowd of connections of any size, as records for the detector, without holding it: pair number → its texts by arithmetic.
//!
//! Popularity of devices and destinations is heavy-tailed (about rank^-½ and rank^-⅔). A fifth of the devices are servers, a
//! third of those run software of a niche vendor. Two weeks: most pairs are seen in the first two days, the others a few percent
//! a day; in the last five days 70 % of all are seen again. Afterwards live traffic: skewed draws over the pairs, a few new ones.

use firstseen::defender::{Body, DeviceInfo, NetworkEvent, Record};
use firstseen::time::{Span, Ticks};
use std::fmt::Write;

const TENANT: &str = "72f988bf-86f1-41af-91ab-2d7cd011db47";
/// Two weeks in hours.
const STEPS: u64 = 336;

/// SplitMix64 as a hash.
pub(crate) fn mix(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn unit(x: u64) -> f64 {
    (x >> 11) as f64 / (1u64 << 53) as f64
}

pub(crate) struct Crowd {
    pub(crate) devices: u64,
    pub(crate) destinations: u64,
    /// First pair of each device, and the end.
    starts: Vec<u32>,
    pairs: u64,
    processes: Vec<Process>,
    texts: Texts,
    /// Arrival clock.
    pub(crate) now: Ticks,
    drawn: u64,
}

struct Process {
    company: String,
    product: String,
    file: String,
    path: String,
    command: String,
    sha: String,
}

#[derive(Default)]
struct Texts {
    device_id: String,
    device_name: String,
    ip: String,
    url: String,
    command: String,
    company: String,
}

impl Crowd {
    /// A crowd of about `connections`: a hundred to a device, ten to a destination.
    pub(crate) fn new(connections: u64) -> Crowd {
        let (devices, destinations) = (connections / 100, connections / 10);
        // Pairs that hash to one destination are one connection: a few more pairs make up for them.
        let wanted = connections as f64 * 1.013;
        let mut starts = vec![0u32];
        let mut upto = 0.0;
        for d in 0..devices {
            // Ranks are spread over the numbers, so that neighbours differ.
            let rank = d.wrapping_mul(0x9E37_79B1) % devices;
            // The weights 1 / (2 √x) over 0 < x ≤ 1 add up to one.
            let x = (rank as f64 + 0.5) / devices as f64;
            upto += wanted / devices as f64 * (0.2 + 0.8 * 0.5 / x.sqrt());
            starts.push(upto as u32);
        }
        let processes = (0..200u64).map(Process::new).collect();
        let now = Ticks(20_454 * Span::days(1).0);
        let pairs = u64::from(*starts.last().expect("there are devices"));
        Crowd { devices, destinations, starts, pairs, processes, texts: Texts::default(), now, drawn: 0 }
    }

    fn device_of(&self, pair: u64) -> u64 {
        self.starts.partition_point(|s| u64::from(*s) <= pair) as u64 - 1
    }

    fn is_server(device: u64) -> bool {
        mix(device ^ 0x5E17).is_multiple_of(5)
    }

    /// Makes the record of a pair seen now; pairs past the end are of `device`, new ones.
    fn network(&mut self, device: u64, pair: u64, salt: u64) -> Record<'_> {
        let h = mix(pair ^ 0xC0FFEE);
        let destination = (unit(h).powi(3) * self.destinations as f64) as u64;
        let h = mix(h);
        let t = &mut self.texts;
        identify(t, device);
        t.ip.clear();
        // An odd factor spreads the addresses over the space.
        let address = destination.wrapping_mul(0x9E37_79B1) as u32;
        let [a, b, c, d] = address.to_be_bytes();
        let _ = write!(t.ip, "{a}.{b}.{c}.{d}");
        t.url.clear();
        let named = mix(destination ^ 0x0A11);
        if named % 10 < 6 {
            let variant = if named % 97 < 5 { h % 4 } else { 0 };
            let _ = write!(t.url, "edge-{variant}.service-{destination}.cdn.example");
        }
        let niche = Self::is_server(device) && mix(device).is_multiple_of(3) && h.is_multiple_of(8);
        let process = self.processes.get((h >> 32) as usize % 200).expect("200 processes");
        t.command.clear();
        t.command.push_str(&process.command);
        if h >> 48 & 31 == 0 {
            let _ = write!(t.command, " --profile={device:x}");
        }
        t.company.clear();
        if niche {
            let _ = write!(t.company, "Niche Vendor {} GmbH", device / 15);
        } else {
            t.company.push_str(&process.company);
        }
        let arrival = self.now;
        let timestamp = arrival.minus(Span::seconds(120 + (salt % 300) as i64));
        let event = NetworkEvent {
            timestamp,
            device_id: (&t.device_id).into(),
            device_name: &t.device_name,
            report_id: (salt >> 4) as i64,
            action_type: "ConnectionSuccess".into(),
            remote_ip: &t.ip,
            remote_ip_type: "Public".into(),
            remote_port: Some(if h & 0xF00 == 0 { 80 } else { 443 }),
            remote_url: &t.url,
            company: &t.company,
            product: (&process.product).into(),
            file_name: (&process.file).into(),
            folder_path: (&process.path).into(),
            command_line: (&t.command).into(),
            sha256: (&process.sha).into(),
            account_name: "svc-app".into(),
            account_domain: "corp".into(),
        };
        Record { arrival, tenant: TENANT, body: Body::Network(event) }
    }

    fn info(&mut self, device: u64) -> Record<'_> {
        identify(&mut self.texts, device);
        let server = Self::is_server(device);
        let (os_platform, device_type) = if server { ("WindowsServer2022", "Server") } else { ("Windows11", "Workstation") };
        let (device_id, device_name) = (&*self.texts.device_id, &*self.texts.device_name);
        let info = DeviceInfo { timestamp: self.now.minus(Span::minutes(2)), device_id, device_name, os_platform, device_type };
        Record { arrival: self.now, tenant: TENANT, body: Body::Device(info) }
    }

    /// The first two weeks, record by record.
    pub(crate) fn two_weeks(&mut self, mut each: impl FnMut(&Record<'_>)) {
        let (pairs, start) = (self.pairs, self.now);
        let scatter = |i: u64, by: u64| {
            // A bijection over 0 .. pairs, as long as the prime does not divide it.
            i.wrapping_mul(by) % pairs
        };
        let known_at =
            |step: u64| if step <= 48 { pairs * 7 / 10 * step / 48 } else { pairs * 7 / 10 + pairs * 3 / 10 * (step - 48) / (STEPS - 48) };
        let seen_again = |step: u64| if step <= 216 { 0 } else { pairs * 7 / 10 * (step - 216) / 120 };
        for step in 0..STEPS {
            let hour = start.plus(Span::hours(step as i64));
            self.now = hour;
            let mut device = step % 24;
            while device < self.devices {
                each(&self.info(device));
                device += 24;
            }
            let (new, again) = (known_at(step)..known_at(step + 1), seen_again(step)..seen_again(step + 1));
            let count = (new.end - new.start) + (again.end - again.start);
            let known = known_at(step + 1);
            let numbers = new.chain(again.map(|j| scatter(j, 1_000_000_007)).filter(|i| *i < known));
            for (done, i) in (0u64..).zip(numbers) {
                let pair = scatter(i, 2_147_483_647);
                self.now = hour.plus(Span((Span::hours(1).0 as i128 * i128::from(done) / i128::from(count)) as i64));
                let device = self.device_of(pair);
                each(&self.network(device, pair, mix(pair ^ step << 40)));
            }
        }
    }

    /// The next record of live traffic.
    pub(crate) fn live(&mut self) -> Record<'_> {
        self.drawn += 1;
        let h = mix(self.drawn ^ 0x11FE);
        // As in a fleet of this size: a hundred records a device and day.
        self.now = self.now.plus(Span(Span::days(1).0 / (self.devices as i64 * 100)));
        let device = if h & 1 == 0 { self.device_of(mix(h) % self.pairs) } else { mix(h) % self.devices };
        if mix(h ^ 1) % 1000 < 5 {
            return self.network(device, self.pairs + self.drawn, h);
        }
        let starts = self.starts.get(device as usize..).unwrap_or_default();
        let [from, to] = [0, 1].map(|n| u64::from(*starts.get(n).expect("a device has an end")));
        let pair = from + (unit(mix(h ^ 2)).powi(2) * (to - from) as f64) as u64;
        self.network(device, pair, h)
    }
}

fn identify(texts: &mut Texts, device: u64) {
    texts.device_id.clear();
    let h = mix(device ^ 0xDE71);
    let _ = write!(texts.device_id, "{h:016x}{:016x}{:08x}", mix(h), mix(h) >> 13 & 0xFFFF_FFFF);
    texts.device_name.clear();
    let _ = write!(texts.device_name, "{}-{device:06}.corp.example", if Crowd::is_server(device) { "srv" } else { "ws" });
}

impl Process {
    fn new(n: u64) -> Process {
        let maker = n % 30;
        Process {
            company: format!("Common Software Company {maker}"),
            product: format!("Common Product {n}"),
            file: format!("program{n}.exe"),
            path: format!("c:\\program files\\common company {maker}\\product {n}\\program{n}.exe"),
            command: format!(
                "\"c:\\program files\\common company {maker}\\product {n}\\program{n}.exe\" --service --config=default.json --log-level=3"
            ),
            sha: format!("{:016x}{:016x}{:016x}{:016x}", mix(n), mix(n + 1), mix(n + 2), mix(n + 3)),
        }
    }
}
