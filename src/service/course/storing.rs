//! When snapshots begin, and how they are copied between two batches.
//!
//! Invariant: none begins while the journal is replayed or something is held back: it would hold as done what is not.

use super::{Counts, Course, SnapshotUnderWay};
use crate::planted::{self, Bug};
use crate::service::ServiceError;
use crate::service::publisher::Work;
use crate::service::snapshots::Piece;
use crossbeam_channel::bounded;
use std::time::Instant;

impl Course {
    fn begin_snapshot(&mut self, now: Instant) -> Result<(), ServiceError> {
        self.segment += 1;
        let (fence_in, fence) = bounded(1);
        self.task.detector_mut().begin_snapshot();
        self.task.begin_segment();
        self.snapshot = Some(SnapshotUnderWay { fence, input: self.task.positions().clone(), stamps: self.task.stamps() });
        self.last_snapshot = Some(now);
        self.piece(Piece::Begin { n: self.segment });
        self.send(Work::Rotate { segment: self.segment, fence: fence_in })
    }

    /// Copies a little more of a snapshot under way, or begins one that is due.
    ///
    /// # Errors
    /// The publisher is gone.
    pub fn continue_snapshot(&mut self, now: Instant) -> Result<(), ServiceError> {
        if self.snapshot.is_some() {
            self.copy(self.timing.copy);
            return Ok(());
        }
        if let Some(done) = &self.snapshot_done {
            match done.try_recv() {
                Err(crossbeam_channel::TryRecvError::Empty) => return Ok(()),
                _ => self.snapshot_done = None,
            }
        }
        let due = now.duration_since(*self.last_snapshot.get_or_insert(now)) >= self.timing.snapshot_interval;
        if !due || self.must_not_store() || !self.owns_all {
            return Ok(());
        }
        self.begin_snapshot(now)
    }

    /// True when the snapshot is wholly handed to the writer.
    fn copy(&mut self, budget: usize) -> bool {
        let mut rows = std::mem::take(&mut self.rows);
        let whole = self.task.detector_mut().snapshot_step(budget, &mut rows);
        for (section, bytes) in rows.drain(..) {
            self.piece(Piece::Rows(section, bytes));
        }
        self.rows = rows;
        if whole && let Some(SnapshotUnderWay { fence, mut input, stamps }) = self.snapshot.take() {
            if planted::is(Bug::SnapshotPositionsLate) {
                input.clone_from(self.task.positions());
            }
            let (done_in, done) = bounded(1);
            self.piece(Piece::End { input, stamps, fence, done: done_in });
            self.snapshot_done = Some(done);
        }
        whole
    }

    /// A snapshot from beginning to end, instead of one that is being copied.
    ///
    /// # Errors
    /// The publisher is gone.
    pub fn whole_snapshot(&mut self, now: Instant) -> Result<Counts, ServiceError> {
        if self.snapshot.take().is_some() {
            self.task.detector_mut().abandon_snapshot();
            self.piece(Piece::Abandon);
        }
        self.begin_snapshot(now)?;
        while !self.copy(8 << 20) {}
        Ok(self.snapshot_done.take().expect("INV: a snapshot that is wholly copied has an end"))
    }

    /// The snapshot that was waited for counts: the one that must follow it at once, if so.
    ///
    /// # Errors
    /// The publisher is gone.
    pub fn another_snapshot(&mut self, now: Instant) -> Result<Option<Counts>, ServiceError> {
        if std::mem::take(&mut self.once_more) { self.whole_snapshot(now).map(Some) } else { Ok(None) }
    }

    /// The snapshot that is being written, if any: a drain waits for it, since one that comes later stands behind it.
    pub fn unfinished(&mut self) -> Option<Counts> {
        self.snapshot_done.take()
    }

    /// A snapshot would hold as done what the journal lists and was not replayed yet, or what is held back.
    fn must_not_store(&self) -> bool {
        self.task.is_replaying() || (self.task.is_holding() && !planted::is(Bug::SnapshotWhileHeld))
    }

    /// No more input: gives up a snapshot that is being copied and makes a last one; `None` when the one before stays the newest,
    /// since the replay is not done, or something is held back: the next start does both anew.
    ///
    /// # Errors
    /// The publisher is gone.
    pub fn last_snapshot(&mut self, now: Instant) -> Result<Option<Counts>, ServiceError> {
        if self.must_not_store() || self.is_new {
            return Ok(None);
        }
        self.whole_snapshot(now).map(Some)
    }
}
