//! A journal segment being written.
//!
//! Invariant: what is not synced yet is kept here until it is. After a write or a sync that failed, nothing is believed that the
//! file holds behind its synced part: a system that fails to sync may forget the bytes and say so only once. The file is cut
//! there, and what was kept is written anew.

use super::codec::{END, FileKind, write_frame, write_header};
use super::disk::{Disk, DiskFile};
use super::journal::END_PAYLOAD;
use super::snapshot::temporary;
use crate::planted::{self, Bug};
use std::io;
use std::sync::Arc;

/// The segment that is being written.
pub struct Segment {
    disk: Arc<dyn Disk>,
    name: String,
    /// `None` after a failure, until the file is opened anew.
    file: Option<Box<dyn DiskFile>>,
    /// Bytes of the file that survive a loss of power.
    synced: u64,
    /// What follows them.
    unsynced: Vec<u8>,
    /// How much of it the system has taken.
    written: usize,
}

impl Segment {
    /// Begins the file, under another name until its header is synced: a header that a loss of power took could not be told from
    /// damage. The name survives a loss of power when this returns.
    pub(super) fn begin(disk: Arc<dyn Disk>, name: String) -> io::Result<Segment> {
        let aside = if planted::is(Bug::SegmentHeaderNotSynced) { name.clone() } else { temporary(&name) };
        let mut file = disk.create(&aside)?;
        let mut header = Vec::new();
        write_header(&mut header, FileKind::Journal)?;
        file.write_all(&header)?;
        file.flush()?;
        if aside != name {
            file.sync()?;
            disk.rename(&aside, &name)?;
        }
        if !planted::is(Bug::SegmentNameNotSynced) {
            disk.sync_names()?;
        }
        Ok(Segment { disk, name, file: Some(file), synced: header.len() as u64, unsynced: Vec::new(), written: 0 })
    }

    /// Takes frames; they are kept until they are synced.
    pub fn append(&mut self, frames: &[u8]) {
        self.unsynced.extend_from_slice(frames);
    }

    /// Takes the end frame: a segment that has it is whole or damaged, never torn.
    pub fn append_end(&mut self) {
        write_frame(&mut self.unsynced, END, END_PAYLOAD).expect("INV: writing to memory does not fail");
    }

    /// How many bytes are kept because they are not synced.
    #[must_use]
    pub fn unsynced(&self) -> usize {
        self.unsynced.len()
    }

    /// Hands what was taken to the system: it survives this process, not a loss of power.
    ///
    /// # Errors
    /// When the disk refuses. Nothing is lost: the next call writes it again.
    pub fn write(&mut self) -> io::Result<()> {
        let outcome = self.try_write();
        self.keep(outcome)
    }

    /// Returns once all that was taken survives a loss of power.
    ///
    /// # Errors
    /// When the disk refuses. Nothing is lost: the next call writes it again.
    pub fn sync(&mut self) -> io::Result<()> {
        let outcome = self.try_write().and_then(|()| self.file.as_mut().map_or(Ok(()), |file| file.sync()));
        self.keep(outcome)?;
        self.synced += self.unsynced.len() as u64;
        self.unsynced.clear();
        self.written = 0;
        Ok(())
    }

    fn try_write(&mut self) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                self.written = 0;
                self.file.insert(self.disk.reopen(&self.name, self.synced)?)
            }
        };
        file.write_all(self.unsynced.get(self.written..).unwrap_or_default())?;
        file.flush()?;
        self.written = self.unsynced.len();
        Ok(())
    }

    fn keep(&mut self, outcome: io::Result<()>) -> io::Result<()> {
        if outcome.is_err() && !planted::is(Bug::FailedSyncBelieved) {
            self.file = None;
        }
        outcome
    }
}
