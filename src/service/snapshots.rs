//! Writes snapshots on a thread of its own, so that neither the task nor the publisher waits for the disk.

use super::crash;
use crate::detector::snapshot::Section;
use crate::host_clock;
use crate::metrics::Metrics;
use crate::state::Store;
use crate::state::snapshot::{Positions, Writer};
use crossbeam_channel::{Receiver, Sender};
use std::io;
use std::sync::Arc;
use std::time::Instant;

/// What the writer is asked to do, in order.
#[derive(Debug)]
pub enum Piece {
    /// A snapshot begins: the state before segment `n`.
    Begin {
        /// The segment's number.
        n: u64,
    },
    /// Rows of it.
    Rows(Section, Vec<u8>),
    /// It is whole, as far as the detector is concerned.
    End {
        /// Where the input stood.
        input: Positions,
        /// The broker's timestamps of the messages before these, in ticks.
        stamps: Positions,
        /// It counts when this has said that what was published before it is acknowledged, with the output positions.
        fence: Receiver<Positions>,
        /// Hears whether it counts.
        done: Sender<bool>,
    },
    /// It was given up.
    Abandon,
}

/// Writes what it is given.
pub struct SnapshotWriter {
    store: Store,
    metrics: Arc<Metrics>,
    writer: Option<Writer>,
    begun: Instant,
}

impl SnapshotWriter {
    /// Writes to `store`.
    #[must_use]
    pub fn new(store: Store, metrics: Arc<Metrics>) -> SnapshotWriter {
        SnapshotWriter { store, metrics, writer: None, begun: host_clock::monotonic() }
    }

    /// Works until nobody gives anything any more.
    pub fn run(mut self, pieces: &Receiver<Piece>) {
        for piece in pieces {
            self.write(piece);
        }
    }

    /// Carries out one piece; waits for the fence of an end. A snapshot that can't be written is given up, with an error in the log.
    pub fn write(&mut self, piece: Piece) {
        if let Err(error) = self.piece(piece) {
            self.writer = None;
            self.metrics.state_write_failed();
            tracing::error!(%error, "a snapshot could not be written; the one before it and the journal still hold everything. Make room in state.dir");
        }
    }

    fn piece(&mut self, piece: Piece) -> io::Result<()> {
        match piece {
            Piece::Begin { n } => {
                self.begun = host_clock::monotonic();
                self.writer = Some(self.store.begin_snapshot(n)?);
                Ok(())
            }
            Piece::Rows(section, bytes) => {
                let outcome = self.writer.as_mut().map_or(Ok(()), |w| w.section(section, &bytes));
                crash::point("snapshot-rows");
                outcome
            }
            Piece::Abandon => {
                self.writer = None;
                Ok(())
            }
            Piece::End { input, stamps, fence, done } => {
                let outcome = self.end(&input, &stamps, &fence);
                // Nobody may be waiting for it.
                let _ = done.send(outcome.is_ok());
                let (bytes, took) = (outcome?, self.begun.elapsed());
                self.metrics.snapshot_written(host_clock::monotonic(), took);
                tracing::debug!(bytes, seconds = took.as_secs_f64(), "snapshot written");
                Ok(())
            }
        }
    }

    fn end(&mut self, input: &Positions, stamps: &Positions, fence: &Receiver<Positions>) -> io::Result<u64> {
        let mut writer = self.writer.take().ok_or_else(|| io::Error::other("an earlier write of it failed"))?;
        let output = fence.recv().map_err(|_| io::Error::other("the changes before it were not acknowledged"))?;
        writer.stamps(stamps)?;
        writer.seal(input, &output)?;
        crash::point("snapshot-rename");
        let bytes = writer.rename()?;
        self.store.remove_old()?;
        Ok(bytes)
    }
}
