//! Snapshot files: written aside, synced, then renamed, so that a file of that name is whole or damaged, never half.

use super::codec::{
    END, FORMAT_VERSION, FileKind, FrameError, Frames, INPUT_POSITIONS, INPUT_STAMPS, OUTPUT_POSITIONS, write_frame, write_header,
};
use super::disk::{Disk, DiskFile};
use crate::detector::snapshot::{RestoreError, Section};
use crate::detector::wire::{Get, Put, WireError};
use crate::detector::{Detector, Settings};
use crate::planted::{self, Bug};
use std::collections::BTreeMap;
use std::io::{self, BufReader, Read};
use std::sync::Arc;

/// Next offsets by (topic, partition).
pub type Positions = BTreeMap<(String, i32), i64>;

/// Why a snapshot can't be read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Its frames.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// Rows of one frame.
    #[error("the frame at offset {offset}: {error}")]
    Section {
        /// Where the frame begins, in bytes from the file's beginning.
        offset: u64,
        /// What is wrong.
        error: RestoreError,
    },
    /// Its rows together.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// Its positions.
    #[error("the positions at offset {offset}: {error}")]
    Positions {
        /// Where the frame begins, in bytes from the file's beginning.
        offset: u64,
        /// What is wrong.
        error: WireError,
    },
    /// A frame that no version wrote.
    #[error("the frame at offset {offset} is of unknown kind {kind}")]
    Kind {
        /// The kind.
        kind: u8,
        /// Where the frame begins, in bytes from the file's beginning.
        offset: u64,
    },
    /// Its version is another than that of the journal segment that was begun with it, by the same program.
    #[error("its format version reads {version}, and {FORMAT_VERSION} in the journal segment that was begun with it: the file is damaged")]
    VersionDamaged {
        /// What it reads.
        version: u32,
    },
    /// It has no end frame, or the end counts other frames.
    #[error("it is not whole")]
    NotWhole,
}

/// A snapshot being written.
pub struct Writer {
    disk: Arc<dyn Disk>,
    file: Box<dyn DiskFile>,
    name: String,
    frames: u64,
    /// Bytes written so far.
    pub bytes: u64,
    named: bool,
}

/// A snapshot that is given up must not take the room that the next one needs.
impl Drop for Writer {
    fn drop(&mut self) {
        if !self.named {
            // What can't be removed is at the next start.
            let _ = self.disk.remove(&temporary(&self.name));
        }
    }
}

impl Writer {
    /// Begins the file `name`, under another name until it is whole.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn begin(disk: Arc<dyn Disk>, name: &str) -> io::Result<Writer> {
        let file = disk.create(&temporary(name))?;
        let mut writer = Writer { disk, file, name: name.to_owned(), frames: 0, bytes: 12, named: false };
        write_header(&mut *writer.file, FileKind::Snapshot)?;
        Ok(writer)
    }

    fn frame(&mut self, kind: u8, payload: &[u8]) -> io::Result<()> {
        write_frame(&mut *self.file, kind, payload)?;
        self.frames += 1;
        self.bytes += payload.len() as u64 + 9;
        Ok(())
    }

    /// Writes a piece of a section.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn section(&mut self, section: Section, bytes: &[u8]) -> io::Result<()> {
        self.frame(section as u8, bytes)
    }

    /// Writes positions and the end, syncs, and gives the file its name.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn finish(mut self, input: &Positions, output: &Positions) -> io::Result<u64> {
        self.seal(input, output)?;
        self.rename()
    }

    /// Writes the broker's timestamps, in ticks, of the messages before the input positions, as far as they are known.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn stamps(&mut self, stamps: &Positions) -> io::Result<()> {
        self.frame(INPUT_STAMPS, &encode_positions(stamps))
    }

    /// Writes positions and the end, and syncs: the file is whole, and does not count before [`Writer::rename`].
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn seal(&mut self, input: &Positions, output: &Positions) -> io::Result<()> {
        if !planted::is(Bug::SnapshotWithoutPositions) {
            self.frame(INPUT_POSITIONS, &encode_positions(input))?;
        }
        self.frame(OUTPUT_POSITIONS, &encode_positions(output))?;
        let frames = self.frames.to_le_bytes();
        self.frame(END, &frames)?;
        self.file.flush()?;
        if planted::is(Bug::RenamedBeforeSync) { Ok(()) } else { self.file.sync() }
    }

    /// Gives the sealed file its name, and returns once that survives a loss of power.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn rename(mut self) -> io::Result<u64> {
        self.disk.rename(&temporary(&self.name), &self.name)?;
        self.named = true;
        if !planted::is(Bug::SnapshotNameNotSynced) {
            self.disk.sync_names()?;
        }
        Ok(self.bytes)
    }
}

/// The name of a file that is not whole yet.
#[must_use]
pub fn temporary(name: &str) -> String {
    format!("{name}.tmp")
}

pub(crate) fn encode_positions(positions: &Positions) -> Vec<u8> {
    let mut out = Vec::new();
    for ((topic, partition), next) in positions {
        out.put_str(topic);
        out.put_u32(*partition as u32);
        out.put_u64(*next as u64);
    }
    out
}

fn decode_positions(bytes: &[u8]) -> Result<Positions, WireError> {
    let (mut get, mut positions) = (Get(bytes), Positions::new());
    while !get.is_empty() {
        positions.insert((get.str()?.to_owned(), get.u32()? as i32), get.u64()? as i64);
    }
    Ok(positions)
}

/// What a snapshot holds.
#[derive(Debug)]
pub struct Loaded {
    /// The detector, as it was.
    pub detector: Detector,
    /// Where the input stood.
    pub input: Positions,
    /// The broker's timestamps of the messages before these, in ticks, as far as they are known.
    pub stamps: Positions,
    /// Nothing that the detector says after the snapshot stands before these in the output topics.
    pub output: Positions,
    /// Payload bytes by kind of frame.
    pub bytes: BTreeMap<u8, u64>,
    /// Frames, the end included.
    pub frames: u64,
}

/// Reads a snapshot.
///
/// # Errors
/// When it is damaged, not whole, or of another version.
pub fn read(input: Box<dyn Read + Send>) -> Result<Loaded, SnapshotError> {
    let mut frames = Frames::open(BufReader::with_capacity(1 << 20, input), FileKind::Snapshot)?;
    let (mut detector, mut bytes) = (Detector::new(Settings::default()), BTreeMap::new());
    let (mut input, mut output, mut payload) = (Positions::new(), Positions::new(), Vec::new());
    let mut stamps = Positions::new();
    while let Some(kind) = frames.next(&mut payload)? {
        let offset = frames.at;
        let positions = |payload| decode_positions(payload).map_err(|error| SnapshotError::Positions { offset, error });
        *bytes.entry(kind).or_default() += payload.len() as u64;
        match kind {
            INPUT_POSITIONS => input = positions(&payload)?,
            INPUT_STAMPS => stamps = positions(&payload)?,
            OUTPUT_POSITIONS => output = positions(&payload)?,
            END => {
                // The first frame holds the settings: without them the rows mean nothing.
                if payload != (frames.frames - 1).to_le_bytes() || !bytes.contains_key(&(Section::Settings as u8)) {
                    return Err(SnapshotError::NotWhole);
                }
                detector.finish_restore()?;
                return Ok(Loaded { detector, input, stamps, output, bytes, frames: frames.frames });
            }
            kind => {
                let section = Section::from_number(kind).ok_or(SnapshotError::Kind { kind, offset })?;
                detector.restore_section(section, &payload).map_err(|error| SnapshotError::Section { offset, error })?;
            }
        }
    }
    Err(SnapshotError::NotWhole)
}
