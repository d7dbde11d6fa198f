//! The answer to a disk that is full or fails, on a disk that forgets what it could not sync, as systems do.

use super::*;
use crate::defender::{Body, DeviceInfo, Record};
use crate::detector::{Detector, Settings};
use crate::finding::FindingId;
use crate::state::disk::{Disk, DiskFile};
use crate::state::journal::{Encoder, Entry};
use std::io::{Read, Write};
use std::sync::{Arc, Mutex};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Good,
    /// Half of a write is taken, and no file is created.
    Full,
    /// A sync fails, and what it should have written is forgotten: a second sync would say that all is well.
    Failing,
}

/// A file as the system shows it, what survives, and what is to be written by a sync.
#[derive(Default)]
struct Content {
    shown: Vec<u8>,
    durable: Vec<u8>,
    dirty: Vec<(usize, Vec<u8>)>,
}

struct Inner {
    mode: Mode,
    files: BTreeMap<String, Content>,
}

impl Inner {
    /// The file that was opened under this name, also after its rename.
    fn held(&mut self, name: &str) -> &mut Content {
        let name = if self.files.contains_key(name) { name } else { name.trim_end_matches(".tmp") };
        self.files.get_mut(name).unwrap()
    }
}

#[derive(Clone)]
struct Faulty(Arc<Mutex<Inner>>);

struct Handle(Faulty, String);

impl Faulty {
    fn new() -> Faulty {
        Faulty(Arc::new(Mutex::new(Inner { mode: Mode::Good, files: BTreeMap::new() })))
    }

    fn set(&self, mode: Mode) {
        self.0.lock().unwrap().mode = mode;
    }

    /// The disk after a loss of power.
    fn after_power_loss(&self) -> Faulty {
        let lost = Faulty::new();
        for (name, content) in &self.0.lock().unwrap().files {
            let bytes = content.durable.clone();
            lost.0.lock().unwrap().files.insert(name.clone(), Content { shown: bytes.clone(), durable: bytes, dirty: Vec::new() });
        }
        lost
    }
}

impl Write for Handle {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut inner = self.0.0.lock().unwrap();
        let full = inner.mode == Mode::Full;
        let file = inner.held(&self.1);
        let n = if full { bytes.len() / 2 } else { bytes.len() };
        file.dirty.push((file.shown.len(), bytes[..n].to_vec()));
        file.shown.extend_from_slice(&bytes[..n]);
        if n == 0 { Err(io::Error::from(io::ErrorKind::StorageFull)) } else { Ok(n) }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl DiskFile for Handle {
    fn sync(&mut self) -> io::Result<()> {
        let mut inner = self.0.0.lock().unwrap();
        let failing = inner.mode == Mode::Failing;
        let file = inner.held(&self.1);
        let dirty = std::mem::take(&mut file.dirty);
        if failing {
            return Err(io::Error::other("Input/output error"));
        }
        for (at, bytes) in dirty {
            file.durable.resize(file.durable.len().max(at + bytes.len()), 0);
            file.durable[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        Ok(())
    }
}

impl Disk for Faulty {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        Ok(self.0.lock().unwrap().files.iter().map(|(name, c)| (name.clone(), c.shown.len() as u64)).collect())
    }
    fn open(&self, name: &str) -> io::Result<Box<dyn Read + Send>> {
        let inner = self.0.lock().unwrap();
        let content = inner.files.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(io::Cursor::new(content.shown.clone())))
    }
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut inner = self.0.lock().unwrap();
        if inner.mode == Mode::Full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        inner.files.insert(name.to_owned(), Content::default());
        Ok(Box::new(Handle(self.clone(), name.to_owned())))
    }
    fn reopen(&self, name: &str, at: u64) -> io::Result<Box<dyn DiskFile>> {
        let mut inner = self.0.lock().unwrap();
        let file = inner.files.get_mut(name).ok_or(io::ErrorKind::NotFound)?;
        file.shown.truncate(at as usize);
        file.durable.truncate(at as usize);
        Ok(Box::new(Handle(self.clone(), name.to_owned())))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.0.lock().unwrap();
        let content = inner.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        inner.files.insert(to.to_owned(), content);
        Ok(())
    }
    fn sync_names(&self) -> io::Result<()> {
        Ok(())
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.lock().unwrap().files.remove(name).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// What a topic holds, and acknowledgements that were not taken yet.
type Held = (Vec<Vec<u8>>, VecDeque<Delivery>);

/// Acknowledges everything at once.
#[derive(Clone, Default)]
struct Topic(Arc<Mutex<Held>>);

impl Publish for Topic {
    fn publish(&self, outgoing: Outgoing) -> Result<(), PublishError> {
        let (published, deliveries) = &mut *self.0.lock().unwrap();
        deliveries.push_back(Delivery { token: outgoing.token, result: Ok((0, published.len() as i64)) });
        published.push(outgoing.payload);
        Ok(())
    }
    fn next_delivery(&self, _: Duration) -> Option<Delivery> {
        self.0.lock().unwrap().1.pop_front()
    }
    fn fatal(&self) -> Option<SinkError> {
        None
    }
}

struct Rig {
    disk: Faulty,
    topic: Topic,
    shared: Shared,
    publisher: Publisher<Topic>,
    work: Sender<Work>,
    encoder: Encoder,
    consumed: i64,
}

impl Rig {
    /// A state directory with a first snapshot, and segment 0 begun.
    fn new() -> Rig {
        let disk = Faulty::new();
        let store = Store::new(Arc::new(disk.clone()));
        let mut detector = Detector::new(Settings::default());
        let info = DeviceInfo { timestamp: Ticks(1), device_id: "s", device_name: "s", os_platform: "Linux", device_type: "Server" };
        detector.record(&Record { arrival: Ticks(1), tenant: "t", body: Body::Device(info) }, &mut Vec::new());
        let mut writer = store.begin_snapshot(0).unwrap();
        let mut sections = Vec::new();
        detector.begin_snapshot();
        while !detector.snapshot_step(1 << 20, &mut sections) {}
        for (section, bytes) in sections {
            writer.section(section, &bytes).unwrap();
        }
        writer.finish(&Positions::new(), &Positions::new()).unwrap();
        let journal = store.begin_segment(0).unwrap();
        let (topic, shared) = (Topic::default(), Shared::default());
        shared.health.set_ready();
        let (work, work_out) = bounded(16);
        let publisher = Publisher::new(store, journal, topic.clone(), &shared, Positions::new(), work_out);
        Rig { disk, topic, shared, publisher, work, encoder: Encoder::default(), consumed: 0 }
    }

    /// The task consumed a message, and a change came of it.
    fn step(&mut self) {
        self.consumed += 1;
        self.encoder.message("defender", 0, self.consumed);
        let outgoing = Outgoing {
            topic: "findings".to_owned(),
            key: FindingId([0; 16]).to_string().into_bytes(),
            headers: Vec::new(),
            payload: self.consumed.to_string().into_bytes(),
            token: 0,
        };
        let publications = vec![Publication { outgoing, appended: None }];
        self.work.send(Work::Step { journal: self.encoder.take_frame(), publications }).unwrap();
    }

    /// What is published, checked: 1, 2, 3 … each once.
    fn published(&self) -> i64 {
        let published = &self.topic.0.lock().unwrap().0;
        for (n, payload) in (1..).zip(published) {
            assert_eq!(*payload, i64::to_string(&n).into_bytes());
        }
        published.len() as i64
    }

    /// Up to where a process that starts after a loss of power would replay.
    fn recovered(&self) -> i64 {
        let recovered = Store::new(Arc::new(self.disk.after_power_loss())).recover(&Settings::default()).unwrap();
        // A frame a message: none may be missing.
        for (n, entry) in (1..).zip(&recovered.entries) {
            assert!(matches!(entry, Entry::Run { upto, .. } if *upto == n), "{:?}", recovered.entries);
        }
        recovered.entries.len() as i64
    }
}

#[test]
fn answer_disk_full_or_failing() {
    let mut rig = Rig::new();
    rig.step();
    assert_eq!((rig.publisher.turn().unwrap(), rig.published(), rig.recovered()), (Turn::Busy, 1, 1));
    let mut told = Vec::new();
    for mode in [Mode::Full, Mode::Failing, Mode::Full, Mode::Failing] {
        let before = rig.published();
        rig.disk.set(mode);
        rig.step();
        for _ in 0..3 {
            assert_eq!((rig.publisher.turn().unwrap(), rig.published()), (Turn::Stalled, before), "{mode:?}");
        }
        // What comes meanwhile is not taken: the queue fills, and the task waits.
        rig.step();
        assert_eq!((rig.publisher.turn().unwrap(), rig.work.len()), (Turn::Stalled, 1));
        told.push(rig.shared.health.not_ready().expect("not ready while the disk refuses"));
        assert_eq!(rig.recovered(), before, "{mode:?}: a process that starts now has what was published");
        rig.disk.set(Mode::Good);
        assert_eq!(rig.publisher.turn().unwrap(), Turn::Busy);
        assert_eq!((rig.published(), rig.shared.health.not_ready()), (before + 2, None), "it goes on by itself");
        assert_eq!(rig.recovered(), before + 2, "{mode:?}: and a loss of power costs nothing that was published");
    }
    assert!(told[0].contains("state.dir can't be written: no storage space") && told[1].contains("Input/output error"), "{told:?}");

    // A rotation: the snapshot that waits for it is given up, and segments stay whole.
    for (segment, mode) in [(1, Mode::Full), (2, Mode::Failing)] {
        rig.disk.set(mode);
        rig.step();
        let (fence, fenced) = bounded(1);
        rig.work.send(Work::Rotate { segment, fence }).unwrap();
        rig.encoder = Encoder::default();
        rig.step();
        assert_eq!(rig.publisher.turn().unwrap(), Turn::Stalled);
        assert!(fenced.recv().is_err(), "the room that its file takes is needed");
        rig.disk.set(Mode::Good);
        while rig.publisher.turn().unwrap() == Turn::Busy {}
        assert_eq!((rig.published(), rig.recovered()), (rig.consumed, rig.consumed));
    }
    let metrics = rig.shared.metrics.text(host_clock::monotonic());
    let failures = metrics.lines().find_map(|l| l.strip_prefix("firstseen_state_write_failures_total ")).unwrap();
    let mut uncaptured = io::stdout();
    writeln!(
        uncaptured,
        "answer, disk full or failing: ENOSPC and EIO 3 times each, {failures} refusals: not ready, nothing published meanwhile, {} of {} changes published once each after it, all of them journaled after a loss of power",
        rig.published(),
        rig.consumed
    )
    .unwrap();
}

#[test]
fn a_snapshot_that_is_given_up_takes_no_room() {
    let rig = Rig::new();
    let writer = rig.publisher.store.begin_snapshot(1).unwrap();
    assert!(rig.disk.list().unwrap().iter().any(|(name, _)| name.ends_with(".tmp")));
    drop(writer);
    assert!(!rig.disk.list().unwrap().iter().any(|(name, _)| name.ends_with(".tmp")));
}
