//! How far history has been read: the frame that `backfill` adds to a snapshot, and `run` starts from.
//!
//! Owns the frame's form and what follows from it: where each file goes on, which hours of which table are there, from when on the
//! live input must be read. Leaves reading files to `files`, and the start to `service`.

use crate::detector::wire::{Get, Put, WireError};
use crate::time::{Span, Ticks};
use std::collections::{BTreeMap, BTreeSet};

/// A table or tenant that is further behind the rest than this has gone quiet; it does not move the hand-over back.
const QUIET: Span = Span::hours(1);

/// Where reading goes on in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilePosition {
    /// Bytes consumed, after decompression; 0 for formats that are not read by bytes.
    pub bytes: u64,
    /// Lines, messages or rows consumed; blank lines count.
    pub records: u64,
    /// Arrival of the last record that had one.
    pub arrival: Ticks,
    /// The file's stored size when it was read to its end; 0 when it was not.
    pub ended: u64,
}

impl Default for FilePosition {
    fn default() -> Self {
        FilePosition { bytes: 0, records: 0, arrival: Ticks::MIN, ended: 0 }
    }
}

/// A table that history holds rows of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// DeviceNetworkEvents.
    Network,
    /// DeviceInfo.
    Device,
}

impl Table {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Table::Network => "DeviceNetworkEvents",
            Table::Device => "DeviceInfo",
        }
    }
}

/// What was seen of a tenant's table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The greatest arrival.
    pub last: Ticks,
    /// Hours (since 1970) in which records arrived.
    pub hours: BTreeSet<i64>,
}

impl Seen {
    /// A record arrived.
    pub fn note(&mut self, arrival: Ticks) {
        self.last = self.last.max(arrival);
        self.hours.insert(arrival.0.div_euclid(Span::hours(1).0));
    }

    /// Hours between the first and the last in which nothing arrived, as (first, one behind the last).
    #[must_use]
    pub fn gaps(&self) -> Vec<(Ticks, Ticks)> {
        let instant = |hour: i64| Ticks(hour * Span::hours(1).0);
        let pairs = self.hours.iter().zip(self.hours.iter().skip(1));
        pairs.filter(|(a, b)| **b > **a + 1).map(|(a, b)| (instant(a + 1), instant(*b))).collect()
    }
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// Records that arrived before were passed over.
    pub from: Ticks,
    /// By file, as it is named.
    pub files: BTreeMap<String, FilePosition>,
    /// By tenant and table.
    pub tables: BTreeMap<(String, Table), Seen>,
}

impl Default for History {
    fn default() -> Self {
        History { from: Ticks::MIN, files: BTreeMap::new(), tables: BTreeMap::new() }
    }
}

impl History {
    /// The instant up to which every table that is not quiet has been read: the live input must be read from there. `None` when
    /// nothing was read.
    #[must_use]
    pub fn handed_over_at(&self) -> Option<Ticks> {
        let end = self.end()?;
        self.tables.values().map(|seen| seen.last).min().map(|least| least.max(end.minus(QUIET)))
    }

    /// The greatest arrival.
    #[must_use]
    pub fn end(&self) -> Option<Ticks> {
        self.tables.values().map(|seen| seen.last).max()
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_ticks(self.from);
        out.put_u32(self.files.len() as u32);
        for (name, at) in &self.files {
            out.put_str(name);
            out.put_u64(at.bytes);
            out.put_u64(at.records);
            out.put_ticks(at.arrival);
            out.put_u64(at.ended);
        }
        for ((tenant, table), seen) in &self.tables {
            out.put_str(tenant);
            out.put_u8(*table as u8);
            out.put_ticks(seen.last);
            out.put_u32(seen.hours.len() as u32);
            seen.hours.iter().for_each(|hour| out.put_u64(*hour as u64));
        }
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<History, WireError> {
        let mut get = Get(bytes);
        let mut history = History { from: get.ticks()?, ..History::default() };
        for _ in 0..get.count(36)? {
            let name = get.str()?.to_owned();
            let at = FilePosition { bytes: get.u64()?, records: get.u64()?, arrival: get.ticks()?, ended: get.u64()? };
            history.files.insert(name, at);
        }
        while !get.is_empty() {
            let tenant = get.str()?.to_owned();
            let table = match get.u8()? {
                0 => Table::Network,
                1 => Table::Device,
                _ => return Err(WireError::Invalid("a table")),
            };
            let mut seen = Seen { last: get.ticks()?, hours: BTreeSet::new() };
            for _ in 0..get.count(8)? {
                seen.hours.insert(get.u64()? as i64);
            }
            history.tables.insert((tenant, table), seen);
        }
        Ok(history)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hour(n: i64) -> Ticks {
        Ticks(n * Span::hours(1).0)
    }

    fn seen(hours: &[i64]) -> Seen {
        let mut seen = Seen { last: Ticks::MIN, ..Seen::default() };
        hours.iter().for_each(|n| seen.note(hour(*n).plus(Span::minutes(30))));
        seen
    }

    #[test]
    fn it_survives_its_frame_and_damage_is_refused() {
        let file = FilePosition { bytes: 7, records: 2, arrival: hour(9), ended: 7 };
        let history = History {
            from: hour(1),
            files: BTreeMap::from([("az://c/a.json".to_owned(), file), ("b".to_owned(), FilePosition::default())]),
            tables: BTreeMap::from([(("t".to_owned(), Table::Network), seen(&[-3, 9])), (("t".to_owned(), Table::Device), seen(&[4]))]),
        };
        let bytes = history.encode();
        assert_eq!(History::decode(&bytes).unwrap(), history);
        for cut in 1..bytes.len() {
            assert_ne!(History::decode(&bytes[..cut]).ok().as_ref(), Some(&history));
        }
    }

    #[test]
    fn the_table_that_lags_decides_where_live_begins_unless_it_is_quiet() {
        let of = |tables: &[(&str, Table, i64)]| {
            let tables = tables.iter().map(|(tenant, table, minutes)| {
                (((*tenant).to_owned(), *table), Seen { last: Ticks(Span::minutes(*minutes).0), ..Seen::default() })
            });
            let history = History { tables: tables.collect(), ..History::default() };
            history.handed_over_at().map(|at| at.0 / Span::minutes(1).0)
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("a", Table::Network, 600), ("a", Table::Device, 580)]), Some(580));
        assert_eq!(of(&[("a", Table::Network, 600), ("a", Table::Device, 599), ("b", Table::Network, 100)]), Some(540));
    }

    #[test]
    fn hours_without_records_are_gaps() {
        assert_eq!(seen(&[1, 2, 5, 6, 8]).gaps(), [(hour(3), hour(5)), (hour(7), hour(8))]);
        assert!(seen(&[1]).gaps().is_empty() && Seen::default().gaps().is_empty());
    }
}
