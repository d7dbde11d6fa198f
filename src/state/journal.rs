//! The order journal: in which order the input was consumed since a snapshot. A few bytes a run of messages.
//!
//! A segment is a sequence of frames, each a group of entries; a run names its partition by a number that an earlier entry of
//! the same segment defined. A segment that ends inside a frame was torn by a crash: what was never synced, and so never
//! depended on. Reading stops there.

use super::codec::{FileKind, FrameError, Frames, JOURNAL_ENTRIES, frame_head, write_header};
use super::disk::DiskFile;
use crate::detector::wire::WireError;
use crate::planted::{self, Bug};
use crate::time::Ticks;
use std::collections::HashMap;
use std::io::{self, Read, Write};

/// One step of the input's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Messages of one partition, up to (not including) the offset `upto`, were consumed.
    Run {
        /// Topic.
        topic: String,
        /// Partition.
        partition: i32,
        /// Next offset after the run.
        upto: i64,
    },
    /// The arrival clock of a tenant was moved without a record.
    Advance {
        /// Tenant.
        tenant: String,
        /// To this instant.
        to: Ticks,
    },
}

const PARTITION: u8 = 1;
const RUN: u8 = 2;
const ADVANCE: u8 = 3;

/// Turns entries into the bytes of a segment's frames; runs of one partition that follow each other become one.
#[derive(Debug, Default)]
pub struct Encoder {
    partitions: HashMap<(String, i32), u64>,
    group: Vec<u8>,
    open: Option<(u64, i64)>,
}

fn put_varint(out: &mut Vec<u8>, mut v: u64) {
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_varint(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

impl Encoder {
    /// A message at `upto − 1` of a partition was consumed.
    pub fn message(&mut self, topic: &str, partition: i32, upto: i64) {
        let next = self.partitions.len() as u64;
        // A look-up by borrowed parts would need an own key type; the string is only made for a new partition.
        let known = self.partitions.iter().find(|((t, p), _)| *p == partition && t == topic).map(|(_, n)| *n);
        let number = known.unwrap_or_else(|| {
            self.close();
            self.partitions.insert((topic.to_owned(), partition), next);
            self.group.push(PARTITION);
            put_varint(&mut self.group, next);
            put_text(&mut self.group, topic);
            put_varint(&mut self.group, partition as u64);
            next
        });
        if self.open.is_none_or(|(open, _)| open != number) {
            self.close();
        }
        self.open = Some((number, upto));
    }

    /// A clock was moved without a record.
    pub fn advance(&mut self, tenant: &str, to: Ticks) {
        self.close();
        self.group.push(ADVANCE);
        put_text(&mut self.group, tenant);
        put_varint(&mut self.group, to.0 as u64);
    }

    fn close(&mut self) {
        if let Some((number, upto)) = self.open.take() {
            self.group.push(RUN);
            put_varint(&mut self.group, number);
            put_varint(&mut self.group, upto as u64);
        }
    }

    /// The entries since the last call as one frame; empty when there are none.
    #[must_use]
    pub fn take_frame(&mut self) -> Vec<u8> {
        self.close();
        if self.group.is_empty() {
            return Vec::new();
        }
        let mut frame = Vec::with_capacity(self.group.len() + 9);
        frame.extend_from_slice(&frame_head(JOURNAL_ENTRIES, &self.group));
        frame.append(&mut self.group);
        frame
    }
}

/// Begins a segment's file.
///
/// # Errors
/// When the disk refuses.
pub fn begin(mut file: Box<dyn DiskFile>) -> io::Result<Box<dyn DiskFile>> {
    write_header(&mut *file, FileKind::Journal)?;
    file.flush()?;
    Ok(file)
}

/// What a segment holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Its entries, in order.
    pub entries: Vec<Entry>,
    /// It ends inside a frame, or before its header: torn by a crash.
    pub torn: bool,
}

/// Reads a segment up to its end or to where it was torn.
///
/// # Errors
/// When the file can't be read, or is of another version.
pub fn read(input: impl Read) -> Result<Segment, FrameError> {
    let mut segment = Segment::default();
    let mut frames = match Frames::open(input, FileKind::Journal) {
        Ok(frames) => frames,
        Err(FrameError::Cut(_)) => return Ok(Segment { torn: true, ..segment }),
        Err(error) => return Err(error),
    };
    let (mut payload, mut partitions) = (Vec::new(), HashMap::new());
    loop {
        match frames.next(&mut payload) {
            Ok(None) => return Ok(segment),
            Ok(Some(JOURNAL_ENTRIES)) => {
                if read_group(&payload, &mut partitions, &mut segment.entries).is_err() {
                    return Err(FrameError::Checksum(frames.frames));
                }
            }
            Ok(Some(_)) => return Err(FrameError::Magic),
            Err(FrameError::Cut(_) | FrameError::Checksum(_)) => {
                if planted::is(Bug::TornTailAccepted) {
                    let _ = read_group(&payload, &mut partitions, &mut segment.entries);
                }
                segment.torn = true;
                return Ok(segment);
            }
            Err(error) => return Err(error),
        }
    }
}

fn read_group(bytes: &[u8], partitions: &mut HashMap<u64, (String, i32)>, entries: &mut Vec<Entry>) -> Result<(), WireError> {
    let mut at = bytes;
    while let Some((tag, rest)) = at.split_first() {
        at = rest;
        match *tag {
            PARTITION => {
                let (number, topic, partition) = (varint(&mut at)?, text(&mut at)?, varint(&mut at)?);
                partitions.insert(number, (topic, partition as i32));
            }
            RUN => {
                let (number, upto) = (varint(&mut at)?, varint(&mut at)? as i64);
                let (topic, partition) = partitions.get(&number).cloned().ok_or(WireError::Invalid("partition number"))?;
                entries.push(Entry::Run { topic, partition, upto });
            }
            ADVANCE => entries.push(Entry::Advance { tenant: text(&mut at)?, to: Ticks(varint(&mut at)? as i64) }),
            _ => return Err(WireError::Invalid("journal entry")),
        }
    }
    Ok(())
}

fn varint(at: &mut &[u8]) -> Result<u64, WireError> {
    let mut v = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = at.split_first().ok_or(WireError::Short)?;
        *at = rest;
        v |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(v);
        }
    }
    Err(WireError::Invalid("varint"))
}

fn text(at: &mut &[u8]) -> Result<String, WireError> {
    let n = varint(at)? as usize;
    let (head, rest) = at.split_at_checked(n).ok_or(WireError::Short)?;
    *at = rest;
    std::str::from_utf8(head).map(str::to_owned).map_err(|_| WireError::Invalid("text"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(steps: &[(u8, i64)], group: usize) -> (Vec<u8>, Vec<Entry>) {
        let (mut bytes, mut encoder, mut entries) = (Vec::new(), Encoder::default(), Vec::<Entry>::new());
        write_header(&mut bytes, FileKind::Journal).unwrap();
        for (i, (partition, n)) in steps.iter().enumerate() {
            if *partition == 9 {
                encoder.advance("tenant", Ticks(*n));
                entries.push(Entry::Advance { tenant: "tenant".into(), to: Ticks(*n) });
            } else {
                encoder.message("topic", i32::from(*partition), *n);
                entries.push(Entry::Run { topic: "topic".into(), partition: i32::from(*partition), upto: *n });
            }
            if i % group == 0 {
                bytes.extend(encoder.take_frame());
            }
        }
        bytes.extend(encoder.take_frame());
        (bytes, entries)
    }

    /// Runs of one partition that follow each other say the same as one.
    fn joined(entries: Vec<Entry>) -> Vec<Entry> {
        let mut out: Vec<Entry> = Vec::new();
        for entry in entries {
            if let (Some(Entry::Run { partition: last, upto: end, .. }), Entry::Run { partition, upto, .. }) = (out.last_mut(), &entry)
                && last == partition
            {
                *end = *upto;
                continue;
            }
            out.push(entry);
        }
        out
    }

    proptest! {
        #[test]
        fn a_segment_round_trips_and_a_torn_tail_ends_it(steps in prop::collection::vec((prop_oneof![0u8..3, Just(9)], 0i64..1 << 40), 0..40), group in 1usize..9,
                                                         cut in any::<prop::sample::Index>()) {
            let (bytes, entries) = written(&steps, group);
            let segment = read(&bytes[..]).unwrap();
            prop_assert!(!segment.torn);
            prop_assert_eq!(joined(segment.entries), joined(entries.clone()));
            let torn = read(&bytes[..cut.index(bytes.len())]).unwrap();
            let (torn, whole) = (joined(torn.entries), joined(entries));
            prop_assert!(torn.len() <= whole.len());
        }
    }

    #[test]
    fn a_run_costs_a_few_bytes() {
        let mut encoder = Encoder::default();
        encoder.message("defender", 0, 1);
        let first = encoder.take_frame().len();
        for offset in 2..1000 {
            encoder.message("defender", 0, offset);
        }
        assert!(encoder.take_frame().len() < 16 && first < 40);
    }
}
