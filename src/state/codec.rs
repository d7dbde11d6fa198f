//! Frames with a kind, a length and a CRC-32C: the form of both state files.
//!
//! | kind | frame | in |
//! |---|---|---|
//! | 1–8 | the detector's sections, see [`crate::detector::snapshot::Section`] | snapshot |
//! | 32 | input positions: (topic, partition, next offset) | snapshot |
//! | 33 | output positions: (topic, partition, next offset) | snapshot |
//! | 34 | timestamps of the messages before the input positions | snapshot |
//! | 35 | how far history has been read, see [`super::history`]; only until `run` has taken over | snapshot |
//! | 48 | journal entries | journal |
//! | 127 | end: how many frames came before it; a snapshot without it is not whole, a journal segment without it was not ended in order | both |
//!
//! A file begins with eight bytes of magic and the format version. A frame is `kind u8, length u32, crc u32, payload`, all
//! little-endian; the checksum covers kind, length and payload.

use crate::planted::{self, Bug};
use std::io::{self, Read, Write};

/// Version of both files; a change of any row's layout raises it.
pub const FORMAT_VERSION: u32 = 3;
/// Input positions.
pub const INPUT_POSITIONS: u8 = 32;
/// Output positions.
pub const OUTPUT_POSITIONS: u8 = 33;
/// Timestamps of the messages before the input positions.
pub const INPUT_STAMPS: u8 = 34;
/// How far history has been read.
pub const HISTORY: u8 = 35;
/// A group of journal entries.
pub const JOURNAL_ENTRIES: u8 = 48;
/// The end of a snapshot.
pub const END: u8 = 127;

/// A frame longer than this is damage, not data.
const LONGEST_FRAME: u32 = 1 << 31;

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// All state at one point of the input.
    Snapshot,
    /// The order of the input since.
    Journal,
}

impl FileKind {
    fn magic(self) -> &'static [u8; 8] {
        match self {
            FileKind::Snapshot => b"1stSNAP\n",
            FileKind::Journal => b"1stJRNL\n",
        }
    }
}

/// Why a file can't be read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The file system.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It does not begin as such a file does.
    #[error("it is not a firstseen state file")]
    Magic,
    /// Written by another version.
    #[error("it has format version {version}, this program reads version {FORMAT_VERSION} and converts no other: {}", way_out(*.version))]
    Version {
        /// The version it has.
        version: u32,
    },
    /// Cut off inside a frame, or before the end.
    #[error("it is cut off at offset {offset}, after {frames} whole frames")]
    Cut {
        /// Whole frames before.
        frames: u64,
        /// Where the frame that is not whole begins, in bytes from the file's beginning.
        offset: u64,
    },
    /// A checksum is wrong.
    #[error("the checksum of frame {frame}, at offset {offset}, is wrong: the file is damaged")]
    Checksum {
        /// Frames before it.
        frame: u64,
        /// Where it begins, in bytes from the file's beginning.
        offset: u64,
    },
}

fn way_out(version: u32) -> &'static str {
    if version > FORMAT_VERSION {
        "run the newer program that wrote it, or move this state.dir away and start with a new state.dir, which is built again from the input topic (input.start = \"earliest\")"
    } else {
        "run the older program that wrote it, or move this state.dir away and start with a new state.dir, which is built again from the input topic (input.start = \"earliest\")"
    }
}

/// Bytes before the first frame.
pub const HEADER: u64 = 12;
/// Bytes of a frame before its payload.
pub const FRAME_HEAD: u64 = 9;

/// Writes a file's beginning.
///
/// # Errors
/// When the disk refuses.
pub fn write_header(out: &mut (impl Write + ?Sized), kind: FileKind) -> io::Result<()> {
    out.write_all(kind.magic())?;
    out.write_all(&FORMAT_VERSION.to_le_bytes())
}

/// One frame as bytes.
#[must_use]
pub fn frame_head(kind: u8, payload: &[u8]) -> [u8; 9] {
    let mut head = [0; 9];
    head[0] = kind;
    head[1..5].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&head[..5]), payload);
    head[5..9].copy_from_slice(&crc.to_le_bytes());
    head
}

/// Writes one frame.
///
/// # Errors
/// When the disk refuses.
pub fn write_frame(out: &mut (impl Write + ?Sized), kind: u8, payload: &[u8]) -> io::Result<()> {
    out.write_all(&frame_head(kind, payload))?;
    out.write_all(payload)
}

/// Reads the frames of one file.
pub struct Frames<R> {
    input: R,
    /// Whole frames read so far.
    pub frames: u64,
    /// Where the frame that was read last begins, or the one that could not be read; in bytes from the file's beginning.
    pub at: u64,
    /// Where the next one begins.
    next_at: u64,
}

impl<R: Read> Frames<R> {
    /// Checks the file's beginning.
    ///
    /// # Errors
    /// When it is another kind of file or another version; [`FrameError::Cut`] when it is shorter than its header.
    pub fn open(mut input: R, kind: FileKind) -> Result<Self, FrameError> {
        let mut header = [0; 12];
        if !fill(&mut input, &mut header)? {
            return Err(FrameError::Cut { frames: 0, offset: 0 });
        }
        let [magic @ .., a, b, c, d] = header;
        if &magic != kind.magic() {
            return Err(FrameError::Magic);
        }
        let version = u32::from_le_bytes([a, b, c, d]);
        if version != FORMAT_VERSION {
            return Err(FrameError::Version { version });
        }
        Ok(Frames { input, frames: 0, at: HEADER, next_at: HEADER })
    }

    /// The next frame's kind, its payload in `payload`; `None` at a clean end of the file.
    ///
    /// # Errors
    /// When the frame is cut off or damaged.
    pub fn next(&mut self, payload: &mut Vec<u8>) -> Result<Option<u8>, FrameError> {
        let mut head = [0; 9];
        let mut first = [0; 1];
        self.at = self.next_at;
        let cut = FrameError::Cut { frames: self.frames, offset: self.at };
        let damaged = FrameError::Checksum { frame: self.frames, offset: self.at };
        if !fill(&mut self.input, &mut first)? {
            return Ok(None);
        }
        let [kind] = first;
        head[0] = kind;
        if !fill(&mut self.input, &mut head[1..])? {
            return Err(cut);
        }
        let [_, l0, l1, l2, l3, ..] = head;
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        if length > LONGEST_FRAME {
            return Err(damaged);
        }
        payload.clear();
        // `take` reads as much as is there: a damaged length allocates no more than the file holds.
        (&mut self.input).take(u64::from(length)).read_to_end(payload)?;
        if payload.len() != length as usize {
            return Err(cut);
        }
        if frame_head(kind, payload) != head && !planted::is(Bug::ChecksumIgnored) {
            return Err(damaged);
        }
        self.frames += 1;
        self.next_at += FRAME_HEAD + u64::from(length);
        Ok(Some(kind))
    }
}

/// Fills `buffer`; false when the input ends first.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match input.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_all(bytes: &[u8]) -> Result<Vec<(u8, Vec<u8>)>, FrameError> {
        let mut frames = Frames::open(bytes, FileKind::Journal)?;
        let (mut all, mut payload) = (Vec::new(), Vec::new());
        while let Some(kind) = frames.next(&mut payload)? {
            all.push((kind, payload.clone()));
        }
        Ok(all)
    }

    proptest! {
        #[test]
        fn frames_round_trip_and_no_damage_goes_unseen(frames in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..40)), 0..6),
                                                       at in any::<prop::sample::Index>(), flip in 1u8..) {
            let mut bytes = Vec::new();
            write_header(&mut bytes, FileKind::Journal).unwrap();
            for (kind, payload) in &frames {
                write_frame(&mut bytes, *kind, payload).unwrap();
            }
            prop_assert_eq!(&read_all(&bytes).unwrap(), &frames);
            let at = at.index(bytes.len());
            let mut damaged = bytes.clone();
            damaged[at] ^= flip;
            prop_assert!(read_all(&damaged).is_err());
            let cut = read_all(&bytes[..at]);
            if let Ok(cut) = cut { prop_assert!(frames.starts_with(&cut) && cut.len() < frames.len()) }
        }
    }
}
