//! The state directory as a whole: which snapshot counts, which journal segments follow it, what may be removed.

use super::codec::FrameError;
use super::disk::{Disk, DiskFile};
use super::journal::{self, Entry};
use super::snapshot::{self, Loaded, Positions, SnapshotError, Writer, temporary};
use crate::detector::snapshot::RestoreError;
use crate::detector::{Detector, Settings};
use crate::planted::{self, Bug};
use std::io;
use std::sync::Arc;

/// Why there is no state to go on with.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file system.
    #[error("the state directory can't be read or written: {0}")]
    Io(#[from] io::Error),
    /// No snapshot can be read. Nothing is removed without being asked.
    #[error(
        "no snapshot in the state directory can be used ({name}: {error}); keep the directory for a look, and start with an empty one: history is then read again from Kafka or by backtest"
    )]
    NoGoodSnapshot {
        /// The newest.
        name: String,
        /// What is wrong with it.
        error: SnapshotError,
    },
    /// A snapshot of another version or of other settings: not damage, so no older one is tried.
    #[error("{name}: {error}")]
    Refused {
        /// The snapshot.
        name: String,
        /// Why.
        error: SnapshotError,
    },
    /// A segment that must be there is not, or is damaged.
    #[error(
        "{name} {problem}; what was consumed after the snapshot before it can't be repeated in its order. Put the file back, or start with an empty state directory"
    )]
    Journal {
        /// The segment.
        name: String,
        /// What is wrong.
        problem: String,
    },
}

/// What recovery found.
#[derive(Debug)]
pub struct Recovered {
    /// State at the snapshot.
    pub detector: Detector,
    /// Number of that snapshot; `None` when nothing was ever stored.
    pub snapshot: Option<u64>,
    /// Input positions at the snapshot; `None` when nothing was ever stored.
    pub input: Option<Positions>,
    /// Output positions at the snapshot.
    pub output: Positions,
    /// What was consumed since, in order.
    pub entries: Vec<Entry>,
    /// The number of the next segment to write.
    pub next_segment: u64,
    /// What an operator should know of it (a WARN each).
    pub warnings: Vec<String>,
}

/// The files of one state directory.
#[derive(Clone)]
pub struct Store {
    disk: Arc<dyn Disk>,
}

fn snapshot_name(n: u64) -> String {
    format!("snapshot-{n:012}")
}

fn journal_name(n: u64) -> String {
    format!("journal-{n:012}")
}

fn number(name: &str, prefix: &str) -> Option<u64> {
    name.strip_prefix(prefix)?.parse().ok()
}

/// Snapshots that are kept.
const KEPT_SNAPSHOTS: usize = 2;

impl Store {
    /// A store on a disk.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>) -> Store {
        Store { disk }
    }

    /// Bytes of all its files.
    ///
    /// # Errors
    /// When the directory can't be read.
    pub fn bytes(&self) -> io::Result<u64> {
        Ok(self.disk.list()?.iter().map(|(_, size)| size).sum())
    }

    fn numbers(&self, prefix: &str) -> io::Result<Vec<u64>> {
        let mut numbers: Vec<u64> = self.disk.list()?.iter().filter_map(|(name, _)| number(name, prefix)).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Finds the newest good snapshot and the journal since. A damaged snapshot is passed over with a warning, as long as the
    /// one before it and its journal are good.
    ///
    /// # Errors
    /// When there is state that can't be used.
    pub fn recover(&self, settings: &Settings) -> Result<Recovered, StateError> {
        for (name, _) in self.disk.list()? {
            if name.ends_with(&temporary("")) {
                self.disk.remove(&name)?;
            }
        }
        let (snapshots, segments) = (self.numbers("snapshot-")?, self.numbers("journal-")?);
        let next_segment = segments.last().or(snapshots.last()).map_or(0, |n| n + 1);
        let mut warnings = Vec::new();
        let mut first_bad = None;
        for n in snapshots.iter().rev() {
            let name = snapshot_name(*n);
            match snapshot::read(self.disk.open(&name)?, settings.clone()) {
                Ok(Loaded { detector, input, output }) => {
                    let entries = self.entries_from(*n, &segments, &mut warnings)?;
                    return Ok(Recovered { detector, snapshot: Some(*n), input: Some(input), output, entries, next_segment, warnings });
                }
                Err(
                    error @ (SnapshotError::Restore(RestoreError::OtherSettings { .. }) | SnapshotError::Frame(FrameError::Version(_))),
                ) => {
                    return Err(StateError::Refused { name, error });
                }
                Err(error) => {
                    warnings.push(format!("{name} can't be used ({error}); going back to the one before it"));
                    first_bad.get_or_insert((name, error));
                }
            }
        }
        match first_bad {
            Some((name, error)) => Err(StateError::NoGoodSnapshot { name, error }),
            None => {
                let detector = Detector::new(settings.clone());
                Ok(Recovered {
                    detector,
                    snapshot: None,
                    input: None,
                    output: Positions::new(),
                    entries: Vec::new(),
                    next_segment,
                    warnings,
                })
            }
        }
    }

    fn entries_from(&self, snapshot: u64, segments: &[u64], warnings: &mut Vec<String>) -> Result<Vec<Entry>, StateError> {
        let mut entries = Vec::new();
        let Some(last) = segments.last().copied().filter(|last| *last >= snapshot) else { return Ok(entries) };
        for n in snapshot..=last {
            let name = journal_name(n);
            let problem = |problem: String| StateError::Journal { name: name.clone(), problem };
            if !segments.contains(&n) {
                return Err(problem("is missing".to_owned()));
            }
            // A killed process may have written more than it synced; what is read here will be published on.
            if !planted::is(Bug::RecoveredJournalNotSynced) {
                self.disk.sync(&name)?;
            }
            let mut segment =
                journal::read(io::BufReader::new(self.disk.open(&name)?)).map_err(|e| problem(format!("can't be read: {e}")))?;
            if segment.torn {
                warnings.push(format!(
                    "{name} ends inside a frame: what follows was never synced, and nothing that was published depends on it"
                ));
            }
            entries.append(&mut segment.entries);
        }
        Ok(entries)
    }

    /// Begins journal segment `n`; its name survives a loss of power, what is written to it does once it is synced. A file of that
    /// name always has its header: one that came back from a loss of power without it could not be told from damage.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn begin_segment(&self, n: u64) -> io::Result<Box<dyn DiskFile>> {
        let name = journal_name(n);
        let aside = if planted::is(Bug::SegmentHeaderNotSynced) { name.clone() } else { temporary(&name) };
        let mut file = journal::begin(self.disk.create(&aside)?)?;
        if aside != name {
            file.sync()?;
            self.disk.rename(&aside, &name)?;
        }
        if !planted::is(Bug::SegmentNameNotSynced) {
            self.disk.sync_names()?;
        }
        Ok(file)
    }

    /// Begins snapshot `n`, the state before the first entry of segment `n`.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn begin_snapshot(&self, n: u64) -> io::Result<Writer> {
        Writer::begin(self.disk.clone(), &snapshot_name(n))
    }

    /// Removes what the last two snapshots don't need. Call it when a snapshot has its name.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn remove_old(&self) -> io::Result<()> {
        let snapshots = self.numbers("snapshot-")?;
        let kept = if planted::is(Bug::OneSnapshotKept) { 1 } else { KEPT_SNAPSHOTS };
        let Some(oldest) = snapshots.iter().rev().take(kept).next_back() else { return Ok(()) };
        for n in snapshots.iter().filter(|n| *n < oldest) {
            self.disk.remove(&snapshot_name(*n))?;
        }
        for n in self.numbers("journal-")?.iter().filter(|n| *n < oldest) {
            self.disk.remove(&journal_name(*n))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::defender::{Body, DeviceInfo, Record};
    use crate::state::disk::Directory;
    use crate::time::{Span, Ticks};

    fn detector(devices: usize) -> Detector {
        let mut detector = Detector::new(Settings::default());
        for i in 0..devices {
            let name = format!("s{i}");
            let info =
                DeviceInfo { timestamp: Ticks(1), device_id: &name, device_name: &name, os_platform: "Linux", device_type: "Server" };
            detector.record(&Record { arrival: Ticks(1), tenant: "t", body: Body::Device(info) }, &mut Vec::new());
        }
        detector
    }

    fn write(store: &Store, n: u64, detector: &mut Detector) {
        let mut journal = store.begin_segment(n).unwrap();
        let mut encoder = journal::Encoder::default();
        encoder.message("defender", 0, n as i64 + 1);
        journal.write_all(&encoder.take_frame()).unwrap();
        journal.sync().unwrap();
        let mut writer = store.begin_snapshot(n).unwrap();
        let mut sections = Vec::new();
        detector.begin_snapshot();
        while !detector.snapshot_step(1 << 20, &mut sections) {}
        for (section, bytes) in sections {
            writer.section(section, &bytes).unwrap();
        }
        writer.finish(&Positions::from([(("defender".to_owned(), 0), n as i64)]), &Positions::new()).unwrap();
        store.remove_old().unwrap();
    }

    fn store(dir: &tempfile::TempDir) -> Store {
        Store::new(Arc::new(Directory::open(dir.path()).unwrap()))
    }

    #[test]
    fn an_empty_directory_is_a_beginning() {
        let dir = tempfile::tempdir().unwrap();
        let recovered = store(&dir).recover(&Settings::default()).unwrap();
        assert!(recovered.input.is_none() && recovered.next_segment == 0 && recovered.warnings.is_empty());
    }

    #[test]
    fn the_newest_good_snapshot_and_its_journal_count() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir);
        for n in 0..4 {
            write(&store, n, &mut detector(n as usize));
        }
        assert_eq!(store.numbers("snapshot-").unwrap(), [2, 3]);
        assert_eq!(store.numbers("journal-").unwrap(), [2, 3]);
        let recovered = store.recover(&Settings::default()).unwrap();
        assert_eq!((recovered.detector.tracked().devices, recovered.entries.len(), recovered.next_segment), (3, 1, 4));
        assert_eq!(recovered.input.unwrap().values().copied().collect::<Vec<_>>(), [3]);

        // One bit of the newest: the one before it takes over, with both segments.
        let path = dir.path().join(snapshot_name(3));
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let recovered = store.recover(&Settings::default()).unwrap();
        assert_eq!((recovered.detector.tracked().devices, recovered.entries.len(), recovered.warnings.len()), (2, 2, 1));

        // A segment is gone: refused, by name.
        std::fs::remove_file(dir.path().join(journal_name(2))).unwrap();
        assert!(store.recover(&Settings::default()).unwrap_err().to_string().contains("journal-000000000002 is missing"));

        // No good snapshot left.
        std::fs::write(dir.path().join(snapshot_name(2)), b"").unwrap();
        assert!(matches!(store.recover(&Settings::default()), Err(StateError::NoGoodSnapshot { .. })));
    }

    /// A directory that notes which files are synced by name.
    struct Noting(Directory, std::sync::Mutex<Vec<String>>);

    impl Disk for Noting {
        fn list(&self) -> io::Result<Vec<(String, u64)>> {
            self.0.list()
        }
        fn open(&self, name: &str) -> io::Result<Box<dyn io::Read + Send>> {
            self.0.open(name)
        }
        fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
            self.0.create(name)
        }
        fn rename(&self, from: &str, to: &str) -> io::Result<()> {
            self.0.rename(from, to)
        }
        fn sync_names(&self) -> io::Result<()> {
            self.0.sync_names()
        }
        fn sync(&self, name: &str) -> io::Result<()> {
            self.1.lock().unwrap().push(name.to_owned());
            self.0.sync(name)
        }
        fn remove(&self, name: &str) -> io::Result<()> {
            self.0.remove(name)
        }
    }

    #[test]
    fn a_journal_that_is_built_on_is_synced_first() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Arc::new(Noting(Directory::open(dir.path()).unwrap(), std::sync::Mutex::default()));
        let store = Store::new(disk.clone());
        write(&store, 0, &mut detector(1));
        // A process that was killed: entries in the page cache, never synced.
        let mut journal = store.begin_segment(1).unwrap();
        let mut encoder = journal::Encoder::default();
        encoder.message("defender", 0, 7);
        journal.write_all(&encoder.take_frame()).unwrap();
        drop(journal);
        assert_eq!(store.recover(&Settings::default()).unwrap().entries.len(), 2);
        assert_eq!(*disk.1.lock().unwrap(), [journal_name(0), journal_name(1)]);
    }

    #[test]
    fn other_versions_and_other_numbers_are_refused_with_the_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir);
        write(&store, 0, &mut detector(1));
        let refused = store.recover(&Settings { lookback: Span::days(30), ..Settings::default() }).unwrap_err().to_string();
        assert!(refused.contains("query.lookback = 14d, the configuration says 30d"), "{refused}");
        let path = dir.path().join(snapshot_name(0));
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[8] = 77;
        std::fs::write(&path, &bytes).unwrap();
        let refused = store.recover(&Settings::default()).unwrap_err().to_string();
        assert!(refused.contains("format version 77"), "{refused}");
    }
}
