//! One tenant's records: who is there, what they do, and how late it is heard of.
//!
//! Each method adds one kind of spite; together they cross every threshold of the query both ways. What a record is, and the
//! order of the whole fleet, is the business of the parent.

use std::collections::HashSet;

use firstseen::time::{Span, Ticks};

use super::{Device, Network, Owned, Rng, Row, Shape, start};

pub(super) struct Maker {
    rng: Rng,
    shape: Shape,
    tenant: &'static str,
    records: Vec<Owned>,
    next_report: i64,
    identities: HashSet<(String, i64, Ticks)>,
}

impl Maker {
    pub(super) fn new(rng: Rng, shape: Shape, tenant: &'static str) -> Maker {
        Maker { rng, shape, tenant, records: Vec::new(), next_report: 1, identities: HashSet::new() }
    }

    pub(super) fn into_records(self) -> Vec<Owned> {
        self.records
    }

    /// A time on the grid, or a step or ten beside it.
    fn time(&mut self) -> Ticks {
        let cells = self.shape.days * Span::days(1).0 / self.shape.grid.0;
        let cell = self.rng.below(cells as usize) as i64;
        let t = Ticks(start().0 + cell * self.shape.grid.0);
        self.beside(t)
    }

    /// `t`, some of the next `cells` cells later, or a step or ten beside that.
    fn soon(&mut self, t: Ticks, cells: usize) -> Ticks {
        let later = t.plus(Span(self.shape.grid.0 * self.rng.below(cells) as i64));
        self.beside(later)
    }

    fn beside(&mut self, t: Ticks) -> Ticks {
        let step = self.shape.step.0;
        Ticks(t.0 + self.rng.pick(&[0, 0, 0, 0, step, -step, 10 * step, -10 * step]))
    }

    /// When a record of event time `t` arrives.
    fn arrival(&mut self, t: Ticks) -> Ticks {
        let (step, grid, [lookback, new, prevalence]) = (self.shape.step.0, self.shape.grid.0, self.shape.windows);
        let delay = match self.rng.below(100) {
            0..40 => Span::ZERO,
            40..60 => Span(grid),
            60..72 => Span::minutes(self.rng.pick(&[2, 5, 7])),
            // Clocks that run ahead: up to the skew, and now and then one step beyond it, which nobody may accept.
            72..78 => Span(-self.rng.pick(&[step, Span::minutes(1).0, Span::minutes(30).0, Span::hours(1).0 - step, Span::hours(1).0])),
            78..79 => Span(-Span::hours(1).0 - step),
            79..85 => Span(Span::days(new).0 + self.rng.pick(&[-step, 0, step, -grid, grid])),
            85..90 => Span(Span::days(new + 1).0 + self.rng.pick(&[0, step])),
            90..93 => Span(Span::days(prevalence).0 + self.rng.pick(&[-step, 0, step])),
            93..97 => Span(Span::days(lookback - new).0 + self.rng.pick(&[-step, 0, step, grid])),
            _ => Span(Span::days(lookback).0 + self.rng.pick(&[-step, 0, step, grid])),
        };
        t.plus(delay)
    }

    /// The name's DeviceId at `t`: some machines are re-imaged halfway, and keep their name.
    fn device_id(&mut self, name: usize, t: Ticks) -> String {
        let again = name % 4 == 1 && (t > start().plus(Span::days(9)) || self.rng.percent(10));
        // The last two names share one id, as after a rename.
        let body = if name + 1 == self.shape.names { name - 1 } else { name };
        format!("{body:02x}{}", if again { "-again" } else { "" })
    }

    fn push(&mut self, arrival: Ticks, row: Row) {
        self.records.push(Owned { arrival, tenant: self.tenant, row });
    }

    pub(super) fn devices(&mut self) {
        for name in 0..self.shape.names {
            // Steady servers, machines whose server rows expire and come back, workstations, and machines never described.
            let rows = match name % 7 {
                0..=2 => 9,
                3 | 4 => 2,
                5 => 4,
                _ => 3,
            };
            for n in 0..rows {
                let (os, kind) = match (name % 7, self.rng.below(10)) {
                    (5, 0..5) => ("Windows11", "Workstation"),
                    (6, 0..6) => self.rng.pick(&[("macOS", ""), ("macOS", "Server"), ("", "Server")]),
                    (_, 0) => ("", ""),
                    (_, 1) => ("WindowsServer2019", "Workstation"),
                    (_, 2) => ("macOS", "Server"),
                    (_, 3) => ("Linux", ""),
                    (_, 4) => ("", "Server"),
                    _ => ("WindowsServer2022", "Server"),
                };
                let timestamp = if n == 0 && name % 7 < 4 { start().minus(self.shape.grid) } else { self.time() };
                let arrival = self.arrival(timestamp);
                let device_id = self.device_id(name, timestamp);
                self.push(arrival, Row::Device(Device { timestamp, device_id, device_name: device_name(name), os, kind }));
                // A connection that is new just as the row expires that made its device a server.
                if name % 7 > 2 && self.rng.percent(70) {
                    let expiry = timestamp.plus(Span::days(self.shape.windows[0]));
                    let before = Span(self.rng.pick(&[0, self.shape.step.0, self.shape.grid.0, 2 * self.shape.grid.0]));
                    let (at, ip, company) = (Ticks(expiry.0 - before.0), self.rng.below(self.shape.addresses), self.company(name));
                    let event = self.network(at, name, ip, "ConnectionSuccess", "Public", company);
                    self.push(at, Row::Network(event));
                }
            }
        }
    }

    pub(super) fn events(&mut self) {
        let mut made: Vec<Network> = Vec::new();
        for _ in 0..self.shape.events {
            let event = if made.is_empty() || self.rng.percent(35) {
                let (timestamp, name) = (self.time(), self.rng.below(self.shape.names));
                let ip = self.rng.below(self.shape.addresses);
                self.event(timestamp, name, ip)
            } else {
                self.echo(&made)
            };
            made.push(event.clone());
            let arrival = self.arrival(event.timestamp);
            self.push(arrival, Row::Network(event));
            if self.rng.percent(4) {
                let arrival = self.time();
                self.push(arrival, Row::Skipped);
            }
        }
    }

    /// An event that stands to an earlier one as the windows do: same connection a day, five, thirteen, fourteen days later
    /// (with the query's own numbers).
    fn echo(&mut self, made: &[Network]) -> Network {
        let of = &made[self.rng.below(made.len())];
        let (grid, [lookback, new, prevalence]) = (self.shape.grid.0, self.shape.windows);
        let quiet = lookback - new;
        let days = self.rng.pick(&[0, 0, new, prevalence, quiet, quiet, quiet, quiet, lookback, lookback]);
        let apart = Span(Span::days(days).0 + self.rng.pick(&[0, 0, 0, grid, grid * 2, -grid]));
        let end = start().plus(Span::days(self.shape.days));
        let later = of.timestamp.plus(apart);
        let timestamp = self.beside(if later < end { later } else { of.timestamp });
        let (device_name, ip, port) = (of.device_name.clone(), of.ip.clone(), of.port);
        let name = (0..self.shape.names).find(|n| device_name_is(*n, &device_name)).unwrap();
        let mut event = self.event(timestamp, name, 0);
        (event.ip, event.port) = (ip, port);
        event
    }

    fn event(&mut self, timestamp: Ticks, name: usize, ip: usize) -> Network {
        let (action, ip_type) = match self.rng.below(20) {
            0 => ("ListeningConnectionCreated", "Public"),
            1 => ("ConnectionSuccess", "Private"),
            2 => ("ConnectionSuccess", "Loopback"),
            3 | 4 => ("ConnectionSuccess", "FourToSixMapping"),
            5 | 6 => ("ConnectionFound", ""),
            7 => ("ConnectionFailed", "private"),
            _ => ("ConnectionSuccess", "Public"),
        };
        let company = self.company(name);
        self.network(timestamp, name, ip, action, ip_type, company)
    }

    /// Companies 0 and 1 are everywhere, 2 (empty) to 5 belong to about ten names, the rest to one to three.
    fn company(&mut self, name: usize) -> usize {
        match self.rng.below(10) {
            0..4 => self.rng.below(2),
            4..6 => 2 + (name + self.rng.below(2)) % 4,
            // A third of the names has no company of its own, and stands and falls with the middling ones.
            _ if name.is_multiple_of(3) => 2 + name % 4,
            _ => 6 + name % 6,
        }
    }

    fn network(
        &mut self,
        timestamp: Ticks,
        name: usize,
        ip: usize,
        action: &'static str,
        ip_type: &'static str,
        company: usize,
    ) -> Network {
        // ReportIds repeat at other times, or are missing: only with id and time they name an event.
        self.next_report += 1;
        let device_id = self.device_id(name, timestamp);
        let shared = if self.next_report % 11 == 0 { 0 } else { self.next_report / 2 * 2 + 100_000_000_000_000_000 };
        let taken = !self.identities.insert((device_id.clone(), shared, timestamp));
        let report_id = if taken { self.next_report + 200_000_000_000_000_000 } else { shared };
        let url = match self.rng.below(6) {
            0..3 => String::new(),
            n => format!("u{}.example", (ip + n) % 7),
        };
        Network {
            timestamp,
            device_id,
            device_name: device_name(name),
            report_id,
            action,
            ip: address(ip),
            ip_type,
            port: self.rng.pick(&[None, Some(443), Some(443), Some(443), Some(443), Some(80), Some(8443)]),
            url,
            company: company_name(company),
        }
    }

    /// A company's servers go from nine to ten and eleven, and back as their last events expire.
    pub(super) fn vendor_crossings(&mut self) {
        for company in [2, 3, 4, 5, 2, 3, 4, 5] {
            let (at, back) = (self.time(), self.rng.below(self.shape.names));
            let members = 8 + self.rng.below(4);
            for member in 0..members {
                let name = (back + member) % self.shape.names;
                let timestamp = self.soon(at, 5);
                let ip = self.rng.below(self.shape.addresses);
                let event = self.network(timestamp, name, ip, "ConnectionSuccess", "Public", company);
                let arrival = self.arrival(timestamp);
                self.push(arrival, Row::Network(event));
            }
        }
    }

    /// Five, six or seven devices meet at one address within a few cells of the grid, and are gone five days later.
    pub(super) fn crowds(&mut self) {
        for _ in 0..self.shape.addresses / 2 {
            let (at, ip, from) = (self.time(), self.rng.below(self.shape.addresses), self.rng.below(self.shape.names));
            for member in 0..4 + self.rng.below(4) {
                let timestamp = self.soon(at, 3);
                let mut event = self.event(timestamp, (from + member) % self.shape.names, ip);
                if self.rng.percent(25) {
                    event.ip_type = "Private";
                }
                let arrival = self.arrival(timestamp);
                self.push(arrival, Row::Network(event));
            }
        }
    }

    /// Connections that fall silent for thirteen to fourteen days (with the query's own numbers), some of which were not silent after all, as a late event shows.
    pub(super) fn gaps(&mut self) {
        let (step, grid, [lookback, new, _]) = (self.shape.step.0, self.shape.grid.0, self.shape.windows);
        let new = Span::days(new).0;
        for n in 0..self.shape.events / 16 {
            let (name, ip) = (self.rng.below(self.shape.names), self.rng.below(self.shape.addresses));
            let port = Some(10_000 + n as u16);
            let cell = self.rng.below((Span::days(self.shape.days - lookback).0 / grid) as usize) as i64;
            let before = self.beside(Ticks(start().0 + cell * grid));
            let apart = Span::days(lookback).0 - new + self.rng.pick(&[-step, 0, step, grid, 2 * grid, new - step, new, new + step]);
            let first = before.plus(Span(apart));
            let mut times = vec![before, first];
            if self.rng.percent(50) {
                let next = Span(self.rng.pick(&[0, step, grid, -grid, new]));
                times.push(first.plus(next));
            }
            for timestamp in times {
                let (action, ip_type, company) = ("ConnectionSuccess", "Public", self.company(name));
                let mut event = self.network(timestamp, name, ip, action, ip_type, company);
                event.port = port;
                let arrival = if self.rng.percent(60) { timestamp } else { self.arrival(timestamp) };
                self.push(arrival, Row::Network(event));
            }
            if self.rng.percent(40) {
                // Between the two, and heard of only after the second: before the gap's end, at it, or a day into the finding.
                let between = Ticks(before.0 + self.rng.pick(&[step, grid, apart / grid / 2 * grid, apart - new, apart - grid]));
                let company = self.company(name);
                let mut event = self.network(between, name, ip, "ConnectionSuccess", "Public", company);
                event.port = port;
                let heard = first.plus(Span(self.rng.pick(&[0, step, grid, 2 * grid, new - step, new])));
                self.push(heard, Row::Network(event));
            }
        }
    }

    /// At least once: the same rows again, in a fresh envelope, at once or much later.
    pub(super) fn repeats(&mut self) {
        for i in 0..self.records.len() {
            if self.rng.percent(6) && !matches!(self.records[i].row, Row::Skipped) {
                let later = self.rng.pick(&[Span::ZERO, Span::minutes(5), self.shape.grid, Span::days(1), Span::days(13), Span::days(14)]);
                let (arrival, row) = (self.records[i].arrival.plus(later), self.records[i].row.clone());
                self.push(arrival, row);
            }
        }
    }
}

fn device_name(name: usize) -> String {
    // Case matters to the query: two names differ by it alone.
    match name {
        2 => "srv-03.corp.example".to_owned(),
        3 => "SRV-03.corp.example".to_owned(),
        n => format!("srv-{n:02}.corp.example"),
    }
}

fn device_name_is(name: usize, text: &str) -> bool {
    device_name(name) == text
}

fn address(ip: usize) -> String {
    match ip {
        0 => String::new(),
        1 => "::ffff:203.0.113.1".to_owned(),
        2 => "::FFFF:203.0.113.2".to_owned(),
        3 => "::FfFf:203.0.113.3".to_owned(),
        4 => "2001:db8::4".to_owned(),
        n => format!("203.0.113.{n}"),
    }
}

fn company_name(company: usize) -> String {
    match company {
        2 => String::new(),
        n => format!("Company {n:02}"),
    }
}
