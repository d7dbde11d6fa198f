//! What the deployment consumes: the fleet, with records in it that can't be read, in partitions that become more.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use crate::rig::{Message, PARTITIONS, Rig, fleet};
use crate::support::kafka::Broker;

/// One message in so many is followed by one that can't be read.
const BAD_EVERY: usize = 50;

/// The fleet's messages in their order, in pieces, as they are written to the input.
pub(super) struct Input {
    pieces: std::vec::IntoIter<&'static [Message]>,
    partitions: Cell<i32>,
    /// Next offsets, by partition.
    ends: RefCell<BTreeMap<i32, i64>>,
    /// What has to be a dead letter: partition and offset, and its bytes.
    bad: RefCell<BTreeMap<(i32, i64), Vec<u8>>>,
    written: Cell<usize>,
}

impl Input {
    /// The whole fleet in this many pieces.
    pub(super) fn in_pieces(pieces: usize) -> Input {
        let pieces: Vec<&'static [Message]> = fleet().chunks(fleet().len().div_ceil(pieces)).collect();
        Input {
            pieces: pieces.into_iter(),
            partitions: Cell::new(PARTITIONS),
            ends: RefCell::default(),
            bad: RefCell::default(),
            written: Cell::new(0),
        }
    }

    /// How many partitions the input has.
    pub(super) fn partitions(&self) -> i32 {
        self.partitions.get()
    }

    /// Writes the next piece to all partitions; false when there is none left. Only while nobody consumes: of what comes while it is
    /// consumed, the order is that of its coming, not the fleet's.
    pub(super) fn write_next(&mut self, rig: &Rig, broker: &Broker) -> bool {
        let Some(piece) = self.pieces.next() else { return false };
        // Those of the fleet for as long as there are as many.
        self.write(rig, broker, piece, |m, n| if self.partitions() == PARTITIONS { m.partition } else { n as i32 % self.partitions() });
        true
    }

    /// Gives the input one more partition, and writes the next piece to it alone: all that came before it stands in the other partitions,
    /// so that the order is the fleet's, also while it is consumed. Gives the last arrival in it.
    pub(super) fn grow(&mut self, rig: &Rig, broker: &Broker) -> Option<i64> {
        let new = self.partitions();
        broker.add_partitions(&rig.input, new as usize + 1);
        self.partitions.set(new + 1);
        let piece = self.pieces.next()?;
        self.write(rig, broker, piece, |_, _| new);
        piece.last().map(|m| m.arrival)
    }

    fn write(&self, rig: &Rig, broker: &Broker, piece: &[Message], partition: impl Fn(&Message, usize) -> i32) {
        let mut all: Vec<(i32, i64, Cow<'_, [u8]>)> = Vec::new();
        let (mut ends, mut bad) = (self.ends.borrow_mut(), self.bad.borrow_mut());
        for message in piece {
            let n = self.written.replace(self.written.get() + 1);
            let partition = partition(message, n);
            let end = ends.entry(partition).or_default();
            all.push((partition, message.timestamp, Cow::Borrowed(&message.bytes)));
            *end += 1;
            if n.is_multiple_of(BAD_EVERY) {
                let text = format!("not JSON, number {n}").into_bytes();
                bad.insert((partition, *end), text.clone());
                all.push((partition, message.timestamp, Cow::Owned(text)));
                *end += 1;
            }
        }
        broker.produce(&rig.input, all.iter().map(|(partition, timestamp, bytes)| (*partition, *timestamp, &**bytes)));
    }

    /// Asserts that the dead-letter topic holds each message that can't be read, once, and nothing else; gives how many. One whose topic
    /// refused it once may have lost its value, and says so.
    pub(super) fn dead_letters_are_there_once(&self, rig: &Rig) -> usize {
        let expected = self.bad.borrow();
        let mut found = BTreeSet::new();
        for letter in rig.read(&rig.dead_letters) {
            let number = |name: &str| letter.headers[name].parse::<i64>().unwrap();
            let place = (number("source-partition") as i32, number("source-offset"));
            assert!(found.insert(place), "{place:?} stands there twice");
            let whole = expected.get(&place).is_some_and(|bytes| *bytes == letter.payload);
            let omitted = letter.headers.contains_key("value-omitted") && letter.payload.is_empty();
            assert!(whole || omitted, "{place:?}: {letter:?}");
        }
        assert!(found.iter().eq(expected.keys()), "{} of {} dead letters", found.len(), expected.len());
        found.len()
    }
}
