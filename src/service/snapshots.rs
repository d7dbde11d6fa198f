//! Writes snapshots on a thread of its own, so that neither the task nor the publisher waits for the disk.

use super::crash;
use crate::detector::snapshot::Section;
use crate::host_clock;
use crate::metrics::Metrics;
use crate::state::Store;
use crate::state::snapshot::Positions;
use crossbeam_channel::{Receiver, Sender};
use std::io;
use std::sync::Arc;

/// What the writer is asked to do, in order.
pub(super) enum Piece {
    /// A snapshot begins: the state before segment `n`.
    Begin { n: u64 },
    /// Rows of it.
    Rows(Section, Vec<u8>),
    /// It is whole, as far as the detector is concerned. It counts when `fence` has said that what was published before it is
    /// acknowledged. `done` hears whether it counts.
    End { input: Positions, fence: Receiver<Positions>, done: Sender<bool> },
    /// It was given up.
    Abandon,
}

pub(super) fn run(store: &Store, metrics: &Arc<Metrics>, pieces: &Receiver<Piece>) {
    let mut writer = None;
    let mut begun = host_clock::monotonic();
    for piece in pieces {
        let outcome = match piece {
            Piece::Begin { n } => {
                begun = host_clock::monotonic();
                store.begin_snapshot(n).map(|w| writer = Some(w))
            }
            Piece::Rows(section, bytes) => {
                let outcome = writer.as_mut().map_or(Ok(()), |w| w.section(section, &bytes));
                crash::point("snapshot-rows");
                outcome
            }
            Piece::Abandon => {
                writer = None;
                Ok(())
            }
            Piece::End { input, fence, done } => {
                let outcome = match (writer.take(), fence.recv()) {
                    (Some(mut writer), Ok(output)) => writer.seal(&input, &output).and_then(|()| {
                        crash::point("snapshot-rename");
                        let bytes = writer.rename()?;
                        store.remove_old()?;
                        Ok(bytes)
                    }),
                    (None, _) => Err(io::Error::other("an earlier write of it failed")),
                    (_, Err(_)) => Err(io::Error::other("the changes before it were not acknowledged")),
                };
                // Nobody may be waiting for it.
                let _ = done.send(outcome.is_ok());
                outcome.map(|bytes| {
                    let took = begun.elapsed();
                    metrics.snapshot_written(host_clock::monotonic(), took);
                    tracing::debug!(bytes, seconds = took.as_secs_f64(), "snapshot written");
                })
            }
        };
        if let Err(error) = outcome {
            writer = None;
            tracing::error!(%error, "a snapshot could not be written; the one before it and the journal still hold everything. Make room in state.dir");
        }
    }
}
