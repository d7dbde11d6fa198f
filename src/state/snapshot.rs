//! Snapshot files: written aside, synced, then renamed, so that a file of that name is whole or damaged, never half.

use super::codec::{END, FileKind, FrameError, Frames, INPUT_POSITIONS, OUTPUT_POSITIONS, write_frame, write_header};
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
    /// Its rows.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// Its positions.
    #[error("positions: {0}")]
    Positions(#[from] WireError),
    /// A frame that no version wrote.
    #[error("a frame of unknown kind {0}")]
    Kind(u8),
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
}

impl Writer {
    /// Begins the file `name`, under another name until it is whole.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn begin(disk: Arc<dyn Disk>, name: &str) -> io::Result<Writer> {
        let mut file = disk.create(&temporary(name))?;
        write_header(&mut *file, FileKind::Snapshot)?;
        Ok(Writer { disk, file, name: name.to_owned(), frames: 0, bytes: 12 })
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
    pub fn rename(self) -> io::Result<u64> {
        drop(self.file);
        self.disk.rename(&temporary(&self.name), &self.name)?;
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

fn encode_positions(positions: &Positions) -> Vec<u8> {
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
    /// Nothing that the detector says after the snapshot stands before these in the output topics.
    pub output: Positions,
}

/// Reads a snapshot.
///
/// # Errors
/// When it is damaged, not whole, of another version, or was kept by other settings.
pub fn read(input: Box<dyn Read + Send>, settings: Settings) -> Result<Loaded, SnapshotError> {
    let mut frames = Frames::open(BufReader::with_capacity(1 << 20, input), FileKind::Snapshot)?;
    let mut loaded = Loaded { detector: Detector::new(settings), input: Positions::new(), output: Positions::new() };
    let mut payload = Vec::new();
    while let Some(kind) = frames.next(&mut payload)? {
        match kind {
            INPUT_POSITIONS => loaded.input = decode_positions(&payload)?,
            OUTPUT_POSITIONS => loaded.output = decode_positions(&payload)?,
            END => {
                if payload != (frames.frames - 1).to_le_bytes() {
                    return Err(SnapshotError::NotWhole);
                }
                loaded.detector.finish_restore()?;
                return Ok(loaded);
            }
            number => {
                let section = Section::from_number(number).ok_or(SnapshotError::Kind(number))?;
                loaded.detector.restore_section(section, &payload)?;
            }
        }
    }
    Err(SnapshotError::NotWhole)
}
