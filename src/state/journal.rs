//! The order journal: in which order the input was consumed since a snapshot. A few bytes a run of messages.
//!
//! A segment is a sequence of frames, each a group of entries; a run names its partition by a number that an earlier entry of
//! the same segment defined. A segment that was ended in order has an end frame, synced before the next segment begins: every byte
//! of it counts, and one that can't be read is damage. One without it was left by a crash, or is still written: where it stops making
//! sense it was torn, what follows was never synced, and so never depended on. Reading stops there.

use super::codec::{END, FRAME_HEAD, FileKind, FrameError, Frames, JOURNAL_ENTRIES, frame_head};
use crate::detector::wire::WireError;
use crate::planted::{self, Bug};
use crate::time::Ticks;
use std::collections::HashMap;
use std::io::Read;

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

/// What a segment holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Its entries, in order.
    pub entries: Vec<Entry>,
    /// Where it was torn by a crash: the offset of the first frame that is not whole.
    pub torn: Option<u64>,
    /// It was ended in order: nothing of it may be missing.
    pub ended: bool,
    /// Whole frames.
    pub frames: u64,
}

/// What the end frame of a segment holds.
pub(super) const END_PAYLOAD: &[u8] = b"ended";

/// Whether the last bytes of a segment are its end frame.
fn has_end(bytes: &[u8]) -> bool {
    let tail = bytes.len().checked_sub(FRAME_HEAD as usize + END_PAYLOAD.len()).and_then(|at| bytes.get(at..));
    tail.and_then(|tail| tail.split_first_chunk::<9>())
        .is_some_and(|(head, payload)| payload == END_PAYLOAD && *head == frame_head(END, payload))
}

/// Reads a segment up to its end or to where it was torn.
///
/// # Errors
/// When the file can't be read, is of another version, or is damaged though it was ended in order.
pub fn read(mut input: impl Read) -> Result<Segment, FrameError> {
    let mut bytes = Vec::new();
    // A few bytes a run: small beside the entries that come of it.
    input.read_to_end(&mut bytes)?;
    let mut segment = Segment { ended: has_end(&bytes), ..Segment::default() };
    let mut payload = Vec::new();
    let torn = |segment: &mut Segment, error: FrameError| match error {
        FrameError::Cut { offset, .. } | FrameError::Checksum { offset, .. } if !segment.ended => {
            segment.torn = Some(offset);
            Ok(())
        }
        error => Err(error),
    };
    let mut frames = match Frames::open(&bytes[..], FileKind::Journal) {
        Ok(frames) => frames,
        Err(error) => return torn(&mut segment, error).map(|()| segment),
    };
    let mut partitions = HashMap::new();
    loop {
        match frames.next(&mut payload) {
            Ok(None) => return Ok(segment),
            Ok(Some(JOURNAL_ENTRIES)) => {
                if read_group(&payload, &mut partitions, &mut segment.entries).is_err() {
                    return Err(FrameError::Checksum { frame: frames.frames - 1, offset: frames.at });
                }
            }
            Ok(Some(END)) => {}
            Ok(Some(_)) => return Err(FrameError::Magic),
            Err(error) => {
                if planted::is(Bug::TornTailAccepted) {
                    let _ = read_group(&payload, &mut partitions, &mut segment.entries);
                }
                return torn(&mut segment, error).map(|()| segment);
            }
        }
        segment.frames = frames.frames;
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
    use crate::state::codec::{write_frame, write_header};
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
            prop_assert!(segment.torn.is_none() && !segment.ended);
            prop_assert_eq!(joined(segment.entries), joined(entries.clone()));
            let torn = read(&bytes[..cut.index(bytes.len())]).unwrap();
            let (torn, whole) = (joined(torn.entries), joined(entries));
            prop_assert!(torn.len() <= whole.len());
        }

        /// Of a segment that was ended in order no damage passes for a torn tail.
        #[test]
        fn an_ended_segment_is_whole_or_damaged(steps in prop::collection::vec((0u8..3, 0i64..1 << 40), 0..20), at in any::<prop::sample::Index>(), flip in 1u8..) {
            let (mut bytes, _) = written(&steps, 3);
            let end = bytes.len();
            write_frame(&mut bytes, END, END_PAYLOAD).unwrap();
            let segment = read(&bytes[..]).unwrap();
            prop_assert!(segment.ended && segment.torn.is_none());
            bytes[at.index(end)] ^= flip;
            prop_assert!(read(&bytes[..]).is_err());
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
