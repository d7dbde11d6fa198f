//! The state directory as a whole: which snapshot counts, which journal segments follow it, what may be removed.

use super::codec::{FORMAT_VERSION, FileKind, FrameError, Frames};
use super::disk::Disk;
use super::history::History;
use super::journal::{self, Entry};
use super::segment::Segment;
use super::snapshot::{self, Loaded, Positions, SnapshotError, Writer, temporary};
use crate::detector::{Detector, Settings};
use crate::planted::{self, Bug};
use std::io::{self, Read, Write};
use std::sync::Arc;

/// Why there is no state to go on with. Nothing is removed without being asked.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file system.
    #[error("the state directory can't be read or written: {0}")]
    Io(#[from] io::Error),
    /// No snapshot can be read.
    #[error("no snapshot in the state directory can be used ({}); {REBUILD}", list(.damaged))]
    NoGoodSnapshot {
        /// Every snapshot, the newest first, and what is wrong with it.
        damaged: Vec<(String, SnapshotError)>,
    },
    /// Journal segments list what was consumed after a snapshot, and no snapshot is there.
    #[error("{segment} lists consumed messages, but there is no snapshot that they follow; put the snapshot back, or {REBUILD}")]
    NoSnapshot {
        /// The first of them.
        segment: String,
    },
    /// A file of another version: not damage, so no older one is tried.
    #[error("{name}: {error}")]
    Refused {
        /// The file.
        name: String,
        /// Why.
        error: FrameError,
    },
    /// A segment that must be there is not, or is damaged.
    #[error("{name} {problem}; what was consumed after {snapshot} can't be repeated in its order. Put the file back, or {REBUILD}")]
    Journal {
        /// The segment.
        name: String,
        /// What is wrong.
        problem: String,
        /// The newest snapshot that can be read.
        snapshot: String,
    },
}

/// The way out when the files don't do.
const REBUILD: &str = "move state.dir away (keep it for a look) and start with an empty one and input.start = \"earliest\": the state is built again from what the input topic holds";

fn list(damaged: &[(String, SnapshotError)]) -> String {
    damaged.iter().map(|(name, error)| format!("{name}: {error}")).collect::<Vec<_>>().join("; ")
}

/// What recovery found.
#[derive(Debug)]
pub struct Recovered {
    /// State at the snapshot, judging by the settings that it was kept by.
    pub detector: Detector,
    /// Number of that snapshot; `None` when nothing was ever stored.
    pub snapshot: Option<u64>,
    /// Input positions at the snapshot; `None` when nothing was ever stored.
    pub input: Option<Positions>,
    /// The broker's timestamps of the messages before these, in ticks, as far as they are known.
    pub stamps: Positions,
    /// Output positions at the snapshot.
    pub output: Positions,
    /// How far history has been read, when `run` has not taken over yet: no input position is stored then.
    pub history: Option<History>,
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

pub(super) fn journal_name(n: u64) -> String {
    format!("journal-{n:012}")
}

/// Whether a file is a snapshot, by its name.
pub(super) fn is_snapshot(name: &str) -> bool {
    number(name, "snapshot-").is_some()
}

/// Whether a file is a journal segment, by its name.
pub(super) fn is_journal(name: &str) -> bool {
    number(name, "journal-").is_some()
}

/// Where a damaged file is kept.
fn aside(name: &str) -> String {
    format!("{name}.damaged")
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

    /// Finds the newest good snapshot and the journal since. A damaged snapshot is passed over with a warning, and set aside under
    /// another name, as long as the one before it and its journal are good. `settings` are for a state that begins.
    ///
    /// # Errors
    /// When there is state that can't be used.
    pub fn recover(&self, settings: &Settings) -> Result<Recovered, StateError> {
        let recovered = self.newest_good(settings)?;
        // Not before: a state that is refused is left as it is.
        for (name, _) in self.disk.list()? {
            if name.ends_with(&temporary("")) {
                self.disk.remove(&name)?;
            }
        }
        Ok(recovered)
    }

    fn newest_good(&self, settings: &Settings) -> Result<Recovered, StateError> {
        let (snapshots, segments) = (self.numbers("snapshot-")?, self.numbers("journal-")?);
        let next_segment = segments.last().or(snapshots.last()).map_or(0, |n| n + 1);
        let mut damaged: Vec<(String, SnapshotError)> = Vec::new();
        for n in snapshots.iter().rev() {
            let name = snapshot_name(*n);
            match self.disk.open(&name).map_err(|e| SnapshotError::Frame(e.into())).and_then(snapshot::read) {
                Ok(Loaded { detector, input, stamps, output, history, .. }) => {
                    let mut warnings = Vec::new();
                    let entries = self.entries_from(*n, &segments, &mut warnings)?;
                    for (bad, error) in damaged.iter().filter(|_| !planted::is(Bug::DamagedSnapshotKept)) {
                        // It must not pass for one of the snapshots that are kept, and is not removed without being asked.
                        let aside = aside(bad);
                        self.disk.rename(bad, &aside)?;
                        warnings.push(format!(
                            "{bad} can't be used ({error}); {name} before it and its journal take over. It is kept as {aside}: look at the disk, then remove it"
                        ));
                    }
                    if !damaged.is_empty() {
                        self.disk.sync_names()?;
                    }
                    return Ok(Recovered {
                        detector,
                        snapshot: Some(*n),
                        input: Some(input),
                        stamps,
                        output,
                        history,
                        entries,
                        next_segment,
                        warnings,
                    });
                }
                Err(SnapshotError::Frame(FrameError::Version { version })) if self.segment_is_ours(*n) => {
                    damaged.push((name, SnapshotError::VersionDamaged { version }));
                }
                Err(SnapshotError::Frame(error @ FrameError::Version { .. })) => return Err(StateError::Refused { name, error }),
                Err(error) => damaged.push((name, error)),
            }
        }
        if !damaged.is_empty() {
            return Err(StateError::NoGoodSnapshot { damaged });
        }
        for n in &segments {
            let segment = journal_name(*n);
            let open = self.disk.open(&segment)?;
            match journal::read(open) {
                Ok(found) if found.entries.is_empty() => {}
                Err(error @ FrameError::Version { .. }) => return Err(StateError::Refused { name: segment, error }),
                _ => return Err(StateError::NoSnapshot { segment }),
            }
        }
        let detector = Detector::new(settings.clone());
        Ok(Recovered {
            detector,
            snapshot: None,
            input: None,
            stamps: Positions::new(),
            output: Positions::new(),
            history: None,
            entries: Vec::new(),
            next_segment,
            warnings: Vec::new(),
        })
    }

    /// Whether segment `n` is of this program's format version. It is begun with snapshot `n`, by the same program: only both versions
    /// together say that another one wrote them.
    fn segment_is_ours(&self, n: u64) -> bool {
        self.disk.open(&journal_name(n)).is_ok_and(|file| Frames::open(file, FileKind::Journal).is_ok())
    }

    fn entries_from(&self, snapshot: u64, segments: &[u64], warnings: &mut Vec<String>) -> Result<Vec<Entry>, StateError> {
        let mut entries = Vec::new();
        let Some(last) = segments.last().copied().filter(|last| *last >= snapshot) else { return Ok(entries) };
        for n in snapshot..=last {
            let name = journal_name(n);
            let problem = |problem: String| StateError::Journal { name: name.clone(), problem, snapshot: snapshot_name(snapshot) };
            if !segments.contains(&n) {
                return Err(problem("is missing".to_owned()));
            }
            if n == last && !planted::is(Bug::RecoveredJournalNotSynced) {
                self.write_anew(&name)?;
            }
            let mut segment = match self.disk.open(&name).map_err(FrameError::from).and_then(journal::read) {
                Ok(segment) => segment,
                Err(FrameError::Version { version }) if n == snapshot => {
                    return Err(problem(format!(
                        "is damaged: its format version reads {version}, and {FORMAT_VERSION} in the snapshot that was begun with it"
                    )));
                }
                Err(error @ FrameError::Version { .. }) => return Err(StateError::Refused { name, error }),
                Err(error) => return Err(problem(format!("can't be read: {error}"))),
            };
            if let Some(offset) = segment.torn {
                warnings.push(format!(
                    "{name} ends inside a frame at offset {offset}: what follows was never synced, and nothing that was published depends on it"
                ));
            }
            entries.append(&mut segment.entries);
        }
        Ok(entries)
    }

    /// A killed process may have written more to its last segment than it synced, and what is read here will be built on. A sync may
    /// have failed before, and then the system forgets what it could not write and says so only once: so the bytes are written
    /// again.
    fn write_anew(&self, name: &str) -> io::Result<()> {
        let mut bytes = Vec::new();
        self.disk.open(name)?.read_to_end(&mut bytes)?;
        let aside = temporary(name);
        let mut file = self.disk.create(&aside)?;
        file.write_all(&bytes)?;
        file.flush()?;
        file.sync()?;
        drop(file);
        self.disk.rename(&aside, name)?;
        self.disk.sync_names()
    }

    /// Begins journal segment `n`; its name survives a loss of power, what is written to it does once it is synced. A file of that
    /// name always has its header: one that came back from a loss of power without it could not be told from damage.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn begin_segment(&self, n: u64) -> io::Result<Segment> {
        Segment::begin(Arc::clone(&self.disk), journal_name(n))
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
    use crate::state::disk::{Directory, DiskFile};
    use crate::time::Ticks;

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
        journal.append(&encoder.take_frame());
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

        // It is kept under another name, and counts no more: the next snapshot does not push the good one out.
        assert!(recovered.warnings[0].contains("snapshot-000000000003 can't be used"), "{:?}", recovered.warnings);
        assert!(dir.path().join("snapshot-000000000003.damaged").exists());
        let recovered = store.recover(&Settings::default()).unwrap();
        assert_eq!((recovered.entries.len(), recovered.warnings.len(), recovered.next_segment), (2, 0, 4));
        write(&store, 4, &mut detector(9));
        assert_eq!(store.numbers("snapshot-").unwrap(), [2, 4]);
        std::fs::remove_file(dir.path().join(snapshot_name(4))).unwrap();
        std::fs::remove_file(dir.path().join(journal_name(4))).unwrap();

        // A segment is gone: refused, by name.
        std::fs::remove_file(dir.path().join(journal_name(2))).unwrap();
        assert!(store.recover(&Settings::default()).unwrap_err().to_string().contains("journal-000000000002 is missing"));

        // No good snapshot left.
        std::fs::write(dir.path().join(snapshot_name(2)), b"").unwrap();
        assert!(matches!(store.recover(&Settings::default()), Err(StateError::NoGoodSnapshot { .. })));
    }

    /// A directory that notes which files are created.
    struct Noting(Directory, std::sync::Mutex<Vec<String>>);

    impl Disk for Noting {
        fn list(&self) -> io::Result<Vec<(String, u64)>> {
            self.0.list()
        }
        fn open(&self, name: &str) -> io::Result<Box<dyn io::Read + Send>> {
            self.0.open(name)
        }
        fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
            self.1.lock().unwrap().push(name.to_owned());
            self.0.create(name)
        }
        fn reopen(&self, name: &str, at: u64) -> io::Result<Box<dyn DiskFile>> {
            self.0.reopen(name, at)
        }
        fn rename(&self, from: &str, to: &str) -> io::Result<()> {
            self.0.rename(from, to)
        }
        fn sync_names(&self) -> io::Result<()> {
            self.0.sync_names()
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
        journal.append(&encoder.take_frame());
        journal.write().unwrap();
        drop(journal);
        disk.1.lock().unwrap().clear();
        assert_eq!(store.recover(&Settings::default()).unwrap().entries.len(), 2);
        assert_eq!(*disk.1.lock().unwrap(), [temporary(&journal_name(1))], "written again: a sync that failed before may have lost it");
    }

    #[test]
    fn a_damaged_segment_that_was_ended_in_order_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir);
        write(&store, 0, &mut detector(1));
        let mut file = store.begin_segment(0).unwrap();
        let mut encoder = journal::Encoder::default();
        for upto in 1..9 {
            encoder.message("defender", 0, upto);
            file.append(&encoder.take_frame());
        }
        file.append_end();
        file.sync().unwrap();
        assert_eq!(store.recover(&Settings::default()).unwrap().entries.len(), 8);
        let path = dir.path().join(journal_name(0));
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[50] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let refused = store.recover(&Settings::default()).unwrap_err().to_string();
        for words in ["journal-000000000000 can't be read", "offset 4", "after snapshot-000000000000", "input.start = \"earliest\""] {
            assert!(refused.contains(words), "{refused}");
        }
    }

    #[test]
    fn a_journal_without_its_snapshot_is_no_beginning() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir);
        // A process that was killed before its first snapshot leaves an empty segment: nothing was consumed.
        store.begin_segment(0).unwrap();
        assert!(store.recover(&Settings::default()).unwrap().input.is_none());
        write(&store, 1, &mut detector(1));
        std::fs::remove_file(dir.path().join(snapshot_name(1))).unwrap();
        let refused = store.recover(&Settings::default()).unwrap_err().to_string();
        assert!(refused.contains("journal-000000000001 lists consumed messages"), "{refused}");
    }

    #[test]
    fn another_format_version_is_refused_with_the_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir);
        write(&store, 0, &mut detector(1));
        let set = |name: &str, version| {
            let path = dir.path().join(name);
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[8] = version;
            std::fs::write(&path, &bytes).unwrap();
        };
        let (snapshot, segment) = (snapshot_name(0), journal_name(0));
        for (version, way) in [(77, "run the newer program"), (1, "run the older program")] {
            set(&snapshot, version);
            set(&segment, version);
            let refused = store.recover(&Settings::default()).unwrap_err().to_string();
            for words in ["snapshot-000000000000", &format!("format version {version}"), way, "input.start = \"earliest\""] {
                assert!(refused.contains(words), "{refused}");
            }
        }
        // Also of a later segment: another program was here, and was killed before its first snapshot.
        let ours = FORMAT_VERSION as u8;
        set(&snapshot, ours);
        set(&segment, ours);
        drop(store.begin_segment(1).unwrap());
        set(&journal_name(1), ours + 1);
        let refused = store.recover(&Settings::default()).unwrap_err().to_string();
        assert!(refused.contains(&format!("journal-000000000001: it has format version {}", ours + 1)), "{refused}");
    }

    #[test]
    fn a_version_that_is_damaged_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir);
        for n in 0..2 {
            write(&store, n, &mut detector(n as usize + 1));
        }
        let flip = |name: &str| {
            let path = dir.path().join(name);
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[9] ^= 4;
            std::fs::write(&path, &bytes).unwrap();
        };
        let damaged = format!("its format version reads {}", FORMAT_VERSION ^ 1024);
        // The segment that was begun with it says which program wrote it: the one before takes over.
        flip(&snapshot_name(1));
        let recovered = store.recover(&Settings::default()).unwrap();
        assert_eq!((recovered.snapshot, recovered.entries.len(), recovered.warnings.len()), (Some(0), 2, 1));
        let warning = &recovered.warnings[0];
        assert!(warning.contains(&damaged) && !warning.contains("run the newer program"), "{warning}");
        // The other way round the segment is needed, and damaged.
        flip(&journal_name(0));
        let refused = store.recover(&Settings::default()).unwrap_err().to_string();
        assert!(refused.contains(&format!("journal-000000000000 is damaged: {damaged}")), "{refused}");
        // No good one left: that is no other version either.
        flip(&journal_name(0));
        flip(&snapshot_name(0));
        let refused = store.recover(&Settings::default()).unwrap_err();
        assert!(matches!(&refused, StateError::NoGoodSnapshot { damaged } if damaged.len() == 1), "{refused}");
    }
}
