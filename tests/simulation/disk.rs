//! A disk on which a write is not durable before it is synced, nor a name before the directory is.

use std::collections::BTreeMap;
use std::io::{self, Cursor, Read, Write};

use firstseen::state::disk::{Disk, DiskFile};
use firstseen::time::{Span, Ticks};

use super::world::{Chance, Sim};

#[derive(Debug, Default)]
struct File {
    bytes: Vec<u8>,
    /// How many of them survive a loss of power.
    synced: usize,
}

#[derive(Clone, Debug)]
enum Naming {
    Given(String, usize),
    Changed(String, String, usize),
    Removed(String),
}

impl Naming {
    fn carry_out(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Naming::Given(name, file) => drop(names.insert(name.clone(), *file)),
            Naming::Changed(from, to, file) => {
                names.remove(from);
                names.insert(to.clone(), *file);
            }
            Naming::Removed(name) => drop(names.remove(name)),
        }
    }
}

/// The directory's contents, as processes see them and as they survive.
#[derive(Debug, Default)]
pub(crate) struct Files {
    files: Vec<File>,
    names: BTreeMap<String, usize>,
    durable: BTreeMap<String, usize>,
    pending: Vec<Naming>,
    full_until: Option<Ticks>,
    /// Snapshots that have got a durable name.
    snapshots: usize,
    rotten: bool,
}

impl Files {
    /// One byte of the newest snapshot goes bad, once, when there must be one before it. Not one of the format version, which is
    /// believed: a file of another version is no damaged one.
    pub(crate) fn rot(&mut self, chance: &mut Chance) {
        if self.rotten || self.snapshots < 2 {
            return;
        }
        let newest = self.names.iter().rev().find(|(name, _)| name.starts_with("snapshot-") && !name.ends_with(".tmp"));
        let Some(file) = newest.and_then(|(_, file)| self.files.get_mut(*file)).filter(|file| file.bytes.len() > 12) else { return };
        let at = 12 + chance.below(file.bytes.len() - 12);
        file.bytes[at] ^= 1 << chance.below(8);
        self.rotten = true;
    }

    fn name(&mut self, naming: Naming) {
        naming.carry_out(&mut self.names);
        self.pending.push(naming);
    }

    /// The power goes: what was not synced is lost, or comes back in part, or damaged.
    pub(crate) fn power_loss(&mut self, chance: &mut Chance, torn: bool) {
        let kept = match chance.below(3) {
            0 => 0,
            1 => 100,
            _ => 50,
        };
        for naming in std::mem::take(&mut self.pending) {
            if chance.percent(kept) {
                naming.carry_out(&mut self.durable);
            }
        }
        self.names = self.durable.clone();
        for file in &mut self.files {
            let unsynced = file.bytes.len() - file.synced;
            let kept = if chance.percent(40) { 0 } else { chance.below(unsynced + 1) };
            file.bytes.truncate(file.synced + kept);
            if torn && kept > 0 && chance.percent(70) {
                let from = file.synced + if chance.percent(30) { 0 } else { chance.below(kept) };
                let to = from + 1 + chance.below(file.bytes.len() - from);
                let zeros = chance.percent(50);
                file.bytes[from..to].iter_mut().for_each(|b| *b = if zeros { 0 } else { *b ^ 0x5A });
            }
            file.synced = file.bytes.len();
        }
    }
}

pub(crate) struct SimDisk(pub(crate) Sim);

impl SimDisk {
    /// Whether there is room now; the disk fills up, and is made room on, as the seed says.
    fn room(&self) -> io::Result<()> {
        let mut world = self.0.world();
        let (now, on) = (world.now, world.faults.full_disk);
        if world.files.full_until.is_some_and(|until| now < until) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        world.files.full_until = None;
        if on && world.chance.one_in(800) {
            let until = now.plus(Span::hours(1)).plus(world.chance.span(Span::days(1)));
            world.files.full_until = Some(until);
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn file(&self, name: &str) -> io::Result<usize> {
        self.0.world().files.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

struct Open {
    sim: Sim,
    file: usize,
    name: String,
}

impl Write for Open {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sim.effect(format_args!("write {}", self.name), bytes);
        let room = SimDisk(self.sim.clone()).room();
        let mut world = self.sim.world();
        let n = match room {
            Ok(()) => bytes.len(),
            // The last bytes that fit.
            Err(_) => world.chance.below(bytes.len().min(8) + 1).min(bytes.len()),
        };
        let file = self.file;
        world.files.files[file].bytes.extend_from_slice(&bytes[..n]);
        room.map(|()| n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl DiskFile for Open {
    fn sync(&mut self) -> io::Result<()> {
        self.sim.effect(format_args!("sync {}", self.name), &[]);
        let mut world = self.sim.world();
        let file = &mut world.files.files[self.file];
        file.synced = file.bytes.len();
        Ok(())
    }
}

impl Disk for SimDisk {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let world = self.0.world();
        let files = &world.files;
        Ok(files.names.iter().map(|(name, file)| (name.clone(), files.files[*file].bytes.len() as u64)).collect())
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn Read + Send>> {
        let file = self.file(name)?;
        let bytes = self.0.world().files.files[file].bytes.clone();
        self.0.effect(format_args!("read {name}"), &bytes);
        Ok(Box::new(Cursor::new(bytes)))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.0.effect(format_args!("create {name}"), &[]);
        self.room()?;
        let mut world = self.0.world();
        let file = world.files.files.len();
        world.files.files.push(File::default());
        world.files.name(Naming::Given(name.to_owned(), file));
        drop(world);
        Ok(Box::new(Open { sim: self.0.clone(), file, name: name.to_owned() }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.effect(format_args!("rename {from} {to}"), &[]);
        let file = self.file(from)?;
        self.0.world().files.name(Naming::Changed(from.to_owned(), to.to_owned(), file));
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        self.0.effect(format_args!("sync-names"), &[]);
        let mut world = self.0.world();
        let named = |naming: &&Naming| matches!(naming, Naming::Changed(_, to, _) if to.starts_with("snapshot-"));
        world.files.snapshots += world.files.pending.iter().filter(named).count();
        world.files.durable = world.files.names.clone();
        world.files.pending.clear();
        Ok(())
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        self.0.effect(format_args!("sync {name}"), &[]);
        let file = self.file(name)?;
        let mut world = self.0.world();
        let file = &mut world.files.files[file];
        file.synced = file.bytes.len();
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.effect(format_args!("remove {name}"), &[]);
        self.file(name)?;
        self.0.world().files.name(Naming::Removed(name.to_owned()));
        Ok(())
    }
}
