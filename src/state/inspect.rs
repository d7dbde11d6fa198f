//! What is in a state directory, for people: read beside a running service, changing nothing.
//!
//! Owns the reading behind `firstseen state inspect|verify|export`. A file that a running service removes meanwhile is no fault: the
//! directory is listed again. What the rows mean is the detector's, what the files mean [`super::codec`]'s.

use super::codec::{FORMAT_VERSION, FrameError, HISTORY, INPUT_POSITIONS, INPUT_STAMPS, OUTPUT_POSITIONS};
use super::disk::Disk;
use super::journal::{self, Entry, Segment};
use super::snapshot::{self, Loaded, Positions, SnapshotError};
use super::store::{is_journal, is_snapshot};
use crate::detector::snapshot::Section;
use crate::time::Ticks;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The file system.
    #[error("the state directory can't be read: {0}")]
    Io(#[from] io::Error),
    /// No snapshot is there.
    #[error("the state directory holds no snapshot; is it the state.dir of a service that has run?")]
    Empty,
    /// The newest snapshot can't be read.
    #[error("{name}: {error}; `firstseen state verify` looks at every file")]
    Snapshot {
        /// The file.
        name: String,
        /// What is wrong.
        error: SnapshotError,
    },
}

/// What [`inspect`] tells.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The state format that this program reads, and the files have.
    pub format_version: u32,
    /// The newest snapshot: what follows is of it.
    pub snapshot: String,
    /// Files and their sizes in bytes.
    pub files: BTreeMap<String, u64>,
    /// The settings that it was kept by.
    pub settings: BTreeMap<&'static str, String>,
    /// Arrival clock, since when it is observed, of each tenant.
    pub tenants: BTreeMap<String, Tenant>,
    /// Rows of each table.
    pub rows: BTreeMap<&'static str, u64>,
    /// Bytes in the snapshot of each table.
    pub bytes: BTreeMap<String, u64>,
    /// Event time of the connection that was silent longest, and of the one heard of last.
    pub oldest_connection: Option<Ticks>,
    /// See `oldest_connection`.
    pub newest_connection: Option<Ticks>,
    /// Next offset of each input partition.
    pub input: BTreeMap<String, i64>,
    /// Nothing of what follows the snapshot stands before these in the output topics.
    pub output: BTreeMap<String, i64>,
    /// What was consumed since the snapshot: messages' runs, clock advances.
    pub journal: Journal,
}

/// A tenant's clock.
#[derive(Debug, Serialize)]
pub struct Tenant {
    /// The arrival clock.
    pub arrival_clock: Ticks,
    /// Since when its input is observed.
    pub observed_since: Ticks,
}

/// The journal since the snapshot.
#[derive(Debug, Default, Serialize)]
pub struct Journal {
    /// Segments.
    pub segments: u64,
    /// Runs of messages.
    pub runs: u64,
    /// Clock advances.
    pub advances: u64,
    /// Next offset of each partition that was consumed from.
    pub input: BTreeMap<String, i64>,
}

fn named(positions: &Positions) -> BTreeMap<String, i64> {
    positions.iter().map(|((topic, partition), next)| (format!("{topic}/{partition}"), *next)).collect()
}

/// The newest snapshot: read again from the beginning when a running service has replaced it meanwhile.
///
/// # Errors
/// When there is none, or it can't be read.
pub fn newest(disk: &dyn Disk) -> Result<(String, Loaded), InspectError> {
    loop {
        let name = disk.list()?.into_iter().map(|(name, _)| name).rfind(|name| is_snapshot(name)).ok_or(InspectError::Empty)?;
        let file = match disk.open(&name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        return match snapshot::read(file) {
            Ok(loaded) => Ok((name, loaded)),
            Err(error) => Err(InspectError::Snapshot { name, error }),
        };
    }
}

/// What the newest snapshot and the journal since hold.
///
/// # Errors
/// When there is no snapshot, or it can't be read.
pub fn inspect(disk: &dyn Disk) -> Result<Report, InspectError> {
    let (name, Loaded { detector, input, output, bytes, .. }) = newest(disk)?;
    let tracked = detector.tracked();
    let (oldest, newest) = detector.connection_times().unzip();
    let tenants = detector.clocks().map(|(tenant, arrival_clock)| {
        let observed_since = detector.observed_since(tenant).unwrap_or(arrival_clock);
        (tenant.to_owned(), Tenant { arrival_clock, observed_since })
    });
    let section = |kind: u8| match (kind, Section::from_number(kind)) {
        (INPUT_POSITIONS | INPUT_STAMPS | OUTPUT_POSITIONS, _) => Some("positions".to_owned()),
        (HISTORY, _) => Some("history".to_owned()),
        (_, section) => section.map(|s| format!("{s:?}").to_lowercase()),
    };
    let mut sizes = BTreeMap::new();
    for (kind, size) in bytes {
        if let Some(kind) = section(kind) {
            *sizes.entry(kind).or_default() += size;
        }
    }
    Ok(Report {
        format_version: FORMAT_VERSION,
        files: disk.list()?.into_iter().collect(),
        settings: detector.settings().described().into_iter().collect(),
        tenants: tenants.collect(),
        rows: BTreeMap::from([
            ("tenants", detector.clocks().count() as u64),
            ("devices", tracked.devices as u64),
            ("connections", tracked.connections as u64),
            ("candidates", tracked.candidates as u64),
            ("open_findings", tracked.open_findings as u64),
            ("destinations", tracked.destinations as u64),
            ("vendors", tracked.vendors as u64),
        ]),
        bytes: sizes,
        oldest_connection: oldest,
        newest_connection: newest,
        input: named(&input),
        output: named(&output),
        journal: journal_since(disk, &name)?,
        snapshot: name,
    })
}

/// What can be read of the journal since a snapshot; damage is `verify`'s to tell.
fn journal_since(disk: &dyn Disk, snapshot: &str) -> io::Result<Journal> {
    let first = snapshot.replace("snapshot-", "journal-");
    let mut found = Journal::default();
    for (name, _) in disk.list()?.into_iter().filter(|(name, _)| is_journal(name) && *name >= first) {
        let Ok(segment) = disk.open(&name).map_err(FrameError::from).and_then(journal::read) else { continue };
        found.segments += 1;
        for entry in segment.entries {
            match entry {
                Entry::Run { topic, partition, upto } => {
                    found.runs += 1;
                    found.input.insert(format!("{topic}/{partition}"), upto);
                }
                Entry::Advance { .. } => found.advances += 1,
            }
        }
    }
    Ok(found)
}

/// What [`verify`] says of one file.
#[derive(Debug)]
pub struct Verdict {
    /// The file.
    pub name: String,
    /// What was found in it.
    pub found: String,
    /// What is wrong with it, with the offset where that can be said; empty when it is good.
    pub faults: Vec<String>,
}

/// Looks at every file: checksums, frames, rows, invariants (INV-*). Each file's verdict goes to `say` as soon as it is known.
///
/// # Errors
/// When the directory can't be listed.
pub fn verify(disk: &dyn Disk, mut say: impl FnMut(Verdict)) -> io::Result<()> {
    let mut segments = BTreeSet::new();
    let mut oldest_snapshot = None;
    for (name, size) in disk.list()? {
        let file = match disk.open(&name) {
            // A running service has removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            file => file.map_err(FrameError::from),
        };
        if is_snapshot(&name) {
            oldest_snapshot.get_or_insert_with(|| name.clone());
            say(match file.map_err(SnapshotError::from).and_then(snapshot::read) {
                Ok(loaded) => of_snapshot(name, &loaded),
                Err(error) => Verdict { name, found: String::new(), faults: vec![error.to_string()] },
            });
        } else if is_journal(&name) {
            segments.insert(name.clone());
            say(match file.and_then(journal::read) {
                Ok(segment) => of_segment(name, &segment),
                Err(error) => Verdict { name, found: String::new(), faults: vec![error.to_string()] },
            });
        } else {
            say(Verdict { name, found: format!("{size} bytes, not part of the state"), faults: Vec::new() });
        }
    }
    for missing in missing_segments(oldest_snapshot.as_deref(), &segments) {
        say(Verdict {
            faults: vec!["is missing: what was consumed after the snapshot before it can't be repeated".to_owned()],
            name: missing,
            found: String::new(),
        });
    }
    Ok(())
}

fn of_snapshot(name: String, loaded: &Loaded) -> Verdict {
    let mut faults = Vec::new();
    loaded.detector.check(|fault| faults.push(fault));
    let tracked = loaded.detector.tracked();
    let found = format!(
        "snapshot, {} frames: {} connections, {} devices, {} destinations, {} open findings",
        loaded.frames, tracked.connections, tracked.devices, tracked.destinations, tracked.open_findings
    );
    Verdict { name, found, faults }
}

fn of_segment(name: String, segment: &Segment) -> Verdict {
    let state = match (segment.torn, segment.ended) {
        (_, true) => "ended in order".to_owned(),
        // A service that writes it, or was killed: what is not synced is not depended on.
        (Some(offset), false) => format!("not ended: torn at offset {offset}, as a killed or running service leaves it"),
        (None, false) => "not ended: a service was killed or is running".to_owned(),
    };
    Verdict { name, found: format!("journal, {} frames, {} entries, {state}", segment.frames, segment.entries.len()), faults: Vec::new() }
}

/// Segments between the oldest snapshot and the newest segment that are not there.
fn missing_segments(oldest_snapshot: Option<&str>, segments: &BTreeSet<String>) -> Vec<String> {
    let number = |name: &str| name.rsplit('-').next().and_then(|n| n.parse::<u64>().ok());
    let (Some(first), Some(last)) = (oldest_snapshot.and_then(number), segments.last().and_then(|name| number(name))) else {
        return Vec::new();
    };
    (first..=last).map(super::store::journal_name).filter(|name| !segments.contains(name)).collect()
}
