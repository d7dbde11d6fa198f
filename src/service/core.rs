//! The thread that owns the task: takes decoded events in order, hands on what they cause, and has snapshots made.

use super::idle::IdleClock;
use super::publisher::Work;
use super::snapshots::Piece;
use super::{DRAIN_WITHIN, ServiceError, Shared, crash};
use crate::config::Config;
use crate::defender::batch::Batch;
use crate::defender::decode::{Decoder, Limits};
use crate::host_clock;
use crate::kafka::position::NextOffset;
use crate::kafka::source::{SourceEvent, SourceHandle};
use crate::metrics::{Outcome, Tracked};
use crate::stage::Outlet;
use crate::state::Store;
use crate::task::{Origin, Task, Turnout};
use crate::time::Ticks;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// An event of the source with its messages decoded.
pub(super) enum Decoded {
    Messages { batch: Batch, origins: Vec<Origin> },
    Other(SourceEvent),
}

/// Decodes the messages of an event.
pub(super) fn decode(decoder: &mut Decoder, event: SourceEvent, limits: impl Fn(Option<Ticks>) -> Limits) -> Decoded {
    let SourceEvent::Messages(messages) = event else { return Decoded::Other(event) };
    let (mut batch, mut origins) = (Batch::new(), Vec::with_capacity(messages.len()));
    for message in messages {
        batch.push_message(decoder, origins.len() as u64, &message.payload, &limits(message.timestamp));
        origins.push(Origin { partition: message.partition, offset: message.offset, timestamp: message.timestamp });
    }
    Decoded::Messages { batch, origins }
}

/// Longest wait for an event: how soon a stop, a snapshot that is due or idle time is noticed.
const TICK: Duration = Duration::from_millis(100);
/// How often metrics of the state, lag and positions are brought up to date.
const REPORT: Duration = Duration::from_secs(1);
/// Bytes of a snapshot that are copied between two batches, and while nothing comes.
const COPY: usize = 512 << 10;

struct SnapshotUnderWay {
    fence: Receiver<crate::state::snapshot::Positions>,
    input: crate::state::snapshot::Positions,
}

pub(super) struct Core {
    shared: Shared,
    task: Task,
    store: Store,
    source: Option<SourceHandle>,
    decoded: Outlet<Decoded>,
    work: Option<Sender<Work>>,
    pieces: Option<Sender<Piece>>,
    snapshot_thread: Option<JoinHandle<()>>,
    failed: Receiver<Result<(), ServiceError>>,
    segment: u64,
    snapshot: Option<SnapshotUnderWay>,
    snapshot_done: Option<Receiver<bool>>,
    last_snapshot: Instant,
    snapshot_interval: Duration,
    idle_clock: IdleClock,
    /// The host's clock moves the arrival clock while the input is idle.
    idle_advance: bool,
    caught_up: bool,
    owns_all: bool,
    /// A partition holds the others back, and readiness says so.
    waiting: bool,
    is_new: bool,
    last_report: Instant,
    turnout: Turnout,
    rows: Vec<(crate::detector::snapshot::Section, Vec<u8>)>,
}

impl Core {
    #[allow(clippy::too_many_arguments)]
    pub(super) fn new(
        config: &Config,
        shared: Shared,
        task: Task,
        store: Store,
        source: SourceHandle,
        decoded: Outlet<Decoded>,
        work: Sender<Work>,
        pieces: Sender<Piece>,
        snapshot_thread: JoinHandle<()>,
        failed: Receiver<Result<(), ServiceError>>,
        segment: u64,
        is_new: bool,
    ) -> Core {
        let now = host_clock::monotonic();
        Core {
            shared,
            task,
            store,
            source: Some(source),
            decoded,
            work: Some(work),
            pieces: Some(pieces),
            snapshot_thread: Some(snapshot_thread),
            failed,
            segment,
            snapshot: None,
            snapshot_done: None,
            last_snapshot: now,
            snapshot_interval: Duration::from_nanos((config.state.snapshot_interval.0 as u64).saturating_mul(100)),
            idle_clock: IdleClock::new(config.input.idle_delay),
            idle_advance: config.input.idle_advance,
            caught_up: false,
            owns_all: false,
            waiting: false,
            is_new,
            last_report: now,
            turnout: Turnout::default(),
            rows: Vec::new(),
        }
    }

    pub(super) fn run(mut self) -> Result<(), ServiceError> {
        let result = self.work_until_stopped();
        match result {
            Ok(()) => self.drain(),
            Err(error) => {
                self.shared.health.set_unready(error.to_string());
                Err(error)
            }
        }
    }

    fn work_until_stopped(&mut self) -> Result<(), ServiceError> {
        while !self.shared.stop.load(Ordering::Acquire) {
            match self.decoded.recv_timeout(if self.snapshot.is_some() { Duration::from_millis(1) } else { TICK }) {
                Ok(Decoded::Messages { batch, origins }) => self.messages(&batch, &origins)?,
                Ok(Decoded::Other(event)) => self.event(event)?,
                Err(RecvTimeoutError::Timeout) => self.idle()?,
                Err(RecvTimeoutError::Disconnected) => return Err(ServiceError::Ended("input")),
            }
            self.continue_snapshot()?;
            self.report();
            if let Ok(outcome) = self.failed.try_recv() {
                return outcome.and(Err(ServiceError::Ended("publisher")));
            }
        }
        Ok(())
    }

    fn messages(&mut self, batch: &Batch, origins: &[Origin]) -> Result<(), ServiceError> {
        self.caught_up = false;
        if let Some(appended) = origins.iter().filter_map(|origin| origin.timestamp).max() {
            self.idle_clock.data(appended, host_clock::monotonic());
        }
        if std::mem::take(&mut self.waiting) && self.owns_all && !self.task.is_replaying() {
            self.shared.health.set_ready();
        }
        self.task.batch(batch, origins, &mut self.turnout);
        if self.task.is_replaying() {
            origins.iter().for_each(|_| crash::point("replayed"));
        }
        self.shared.consumed.fetch_add(origins.len() as u64, Ordering::AcqRel);
        self.count(origins);
        self.hand_on()
    }

    fn count(&mut self, origins: &[Origin]) {
        let (metrics, tally) = (&self.shared.metrics, self.task.take_tally());
        let mut runs: Vec<(crate::kafka::position::PartitionId, u64)> = Vec::new();
        for origin in origins {
            match runs.iter_mut().find(|(partition, _)| *partition == origin.partition) {
                Some((_, n)) => *n += 1,
                None => runs.push((origin.partition, 1)),
            }
        }
        for (partition, n) in runs {
            if let Some(of) = self.task.partitions().get(partition) {
                metrics.messages_read(&of.topic, n);
            }
        }
        for (category, n) in tally.accepted().into_iter().filter(|(_, n)| *n > 0) {
            metrics.records_done(category, Outcome::Accepted, n);
        }
        for (category, n) in &tally.skipped {
            metrics.records_done(category, Outcome::Skipped, *n);
        }
        for (category, n) in &tally.refused {
            metrics.records_done(category, Outcome::DeadLettered, *n);
        }
        for (reason, n) in &tally.dead {
            (0..*n).for_each(|_| metrics.dead_lettered(reason));
        }
        metrics.repeats_seen(tally.repeats);
    }

    /// Gives the publisher what the task wants written, and the view what has changed. Waits while the publisher is full.
    fn hand_on(&mut self) -> Result<(), ServiceError> {
        if self.turnout.is_empty() {
            return Ok(());
        }
        let turnout = std::mem::take(&mut self.turnout);
        for change in &turnout.changes {
            self.shared.view.apply(change);
            self.shared.metrics.finding_changed(change.kind);
        }
        if turnout.journal.is_empty() && turnout.publications.is_empty() {
            return Ok(());
        }
        self.send(Work::Step { journal: turnout.journal, publications: turnout.publications })
    }

    fn send(&mut self, work: Work) -> Result<(), ServiceError> {
        let sent = self.work.as_ref().is_some_and(|to| to.send(work).is_ok());
        if sent {
            return Ok(());
        }
        match self.failed.recv_timeout(TICK) {
            Ok(Err(error)) => Err(error),
            _ => Err(ServiceError::Ended("publisher")),
        }
    }

    fn event(&mut self, event: SourceEvent) -> Result<(), ServiceError> {
        let health = &self.shared.health;
        match event {
            SourceEvent::Messages(_) => {}
            SourceEvent::Assigned(partitions) => {
                for assigned in &partitions {
                    self.task.assigned(&assigned.of.topic, assigned.of.partition, assigned.position);
                }
                tracing::info!(partitions = partitions.len(), "all input partitions are assigned");
                self.owns_all = true;
                if self.is_new {
                    // Where reading began must be known to a restart before anything depends on it.
                    self.is_new = false;
                    if !self.whole_snapshot(host_clock::monotonic() + DRAIN_WITHIN)? {
                        return Err(ServiceError::FirstSnapshot);
                    }
                }
                if !self.task.is_replaying() {
                    self.shared.health.set_ready();
                }
            }
            SourceEvent::Revoked => {
                self.owns_all = false;
                self.caught_up = false;
                health.set_unready("partitions are being redistributed in the consumer group");
            }
            SourceEvent::PartialAssignment { owned, total } => {
                self.owns_all = false;
                let reason = format!(
                    "another instance is in the consumer group: this one was given {owned} of {total} partitions and answers nothing from part of the data; stop the other instance, or give one of them another input.group_id"
                );
                tracing::error!("{reason}");
                health.set_unready(reason);
            }
            SourceEvent::ReplayDone => {
                self.task.replay_done(&mut self.turnout);
                self.shared.metrics.messages_replayed(self.task.replayed);
                if self.task.replayed > 0 {
                    tracing::info!(messages = self.task.replayed, "the journal is replayed");
                }
                self.hand_on()?;
                self.shared.health.set_ready();
            }
            SourceEvent::CaughtUp => {
                self.caught_up = true;
                if self.owns_all && !self.task.is_replaying() {
                    self.shared.health.set_ready();
                }
            }
            SourceEvent::Gap { partition, from, to } => {
                let of = self.task.partitions().get(partition).map(ToString::to_string).unwrap_or_default();
                tracing::error!(partition = of, %from, %to, "messages are gone from the input: retention passed the stored position; findings may be missing or wrong for what they held");
                self.shared.metrics.messages_gone((to.0 - from.0).max(0) as u64);
                self.task.skipped_to(partition, to);
            }
            SourceEvent::Waiting { partition } => {
                let of = self.task.partitions().get(partition).map(ToString::to_string).unwrap_or_default();
                tracing::warn!(partition = of, "waiting for a partition that is behind its end; its broker gives nothing");
                self.waiting = true;
                health.set_unready(format!("waiting for {of}, which is behind its end and whose broker gives nothing"));
            }
            SourceEvent::Error(error) => tracing::warn!(%error, "reading the input failed; trying again"),
            SourceEvent::Fatal(error) => return Err(ServiceError::Source(error)),
        }
        Ok(())
    }

    /// Nothing came for a while.
    fn idle(&mut self) -> Result<(), ServiceError> {
        if !self.idle_advance || !self.caught_up || !self.owns_all || self.task.is_replaying() {
            return Ok(());
        }
        let now = host_clock::monotonic();
        if let Some(clock) = self.task.detector().clocks().map(|(_, clock)| clock).max() {
            self.idle_clock.begin(clock, now);
        }
        let Some(to) = self.idle_clock.advance(host_clock::now(), now) else { return Ok(()) };
        self.task.idle(to, &mut self.turnout);
        self.hand_on()
    }

    fn begin_snapshot(&mut self) -> Result<(), ServiceError> {
        self.segment += 1;
        let (fence_in, fence) = bounded(1);
        self.task.detector_mut().begin_snapshot();
        self.task.begin_segment();
        self.snapshot = Some(SnapshotUnderWay { fence, input: self.task.positions().clone() });
        self.last_snapshot = host_clock::monotonic();
        self.piece(Piece::Begin { n: self.segment });
        self.send(Work::Rotate { segment: self.segment, fence: fence_in })
    }

    fn piece(&mut self, piece: Piece) {
        if let Some(pieces) = &self.pieces {
            // The writer outlives the task but for a panic, which is reported where it happens.
            let _ = pieces.send(piece);
        }
    }

    /// Copies a little more of a snapshot under way, or begins one that is due.
    fn continue_snapshot(&mut self) -> Result<(), ServiceError> {
        if self.snapshot.is_none() {
            if let Some(done) = &self.snapshot_done {
                match done.try_recv() {
                    Err(crossbeam_channel::TryRecvError::Empty) => return Ok(()),
                    _ => self.snapshot_done = None,
                }
            }
            let due = self.last_snapshot.elapsed() >= self.snapshot_interval;
            if !due || self.task.is_replaying() || !self.owns_all {
                return Ok(());
            }
            return self.begin_snapshot();
        }
        self.copy(COPY);
        Ok(())
    }

    /// True when the snapshot is wholly handed to the writer.
    fn copy(&mut self, budget: usize) -> bool {
        let mut rows = std::mem::take(&mut self.rows);
        let whole = self.task.detector_mut().snapshot_step(budget, &mut rows);
        for (section, bytes) in rows.drain(..) {
            self.piece(Piece::Rows(section, bytes));
        }
        self.rows = rows;
        if whole && let Some(SnapshotUnderWay { fence, input }) = self.snapshot.take() {
            let (done_in, done) = bounded(1);
            self.piece(Piece::End { input, fence, done: done_in });
            self.snapshot_done = Some(done);
        }
        whole
    }

    /// A snapshot from beginning to end, waited for until `deadline`.
    fn whole_snapshot(&mut self, deadline: Instant) -> Result<bool, ServiceError> {
        self.begin_snapshot()?;
        while !self.copy(8 << 20) {}
        Ok(self.snapshot_done.take().is_some_and(|done| done.recv_deadline(deadline).unwrap_or(false)))
    }

    fn report(&mut self) {
        if self.last_report.elapsed() < REPORT {
            return;
        }
        self.last_report = host_clock::monotonic();
        let metrics = &self.shared.metrics;
        if let Some(by) = self.idle_clock.step(host_clock::now(), self.last_report) {
            let seconds = by / crate::time::TICKS_PER_SECOND;
            tracing::warn!(seconds, "the host's clock was stepped; the arrival clock does not follow, and no state is lost by it");
            metrics.host_clock_stepped();
        }
        let tracked = self.task.detector().tracked();
        for (kind, n) in [
            (Tracked::Connection, tracked.connections),
            (Tracked::Candidate, tracked.candidates),
            (Tracked::Destination, tracked.destinations),
            (Tracked::Vendor, tracked.vendors),
            (Tracked::Device, tracked.devices),
        ] {
            metrics.set_tracked(kind, n as u64);
        }
        metrics.set_timers(tracked.timers as u64);
        metrics.set_open_findings(tracked.open_findings as u64);
        for (tenant, clock) in self.task.detector().clocks() {
            metrics.set_arrival_clock(tenant, clock);
            self.shared.view.set_arrival_clock(tenant, clock);
        }
        if let Ok(bytes) = self.store.bytes() {
            metrics.set_state_disk_bytes(bytes);
        }
        if let Some(source) = &self.source {
            for lag in source.lag() {
                metrics.set_consumer_lag(&lag.partition.topic, lag.partition.partition, lag.messages.max(0) as u64);
            }
        }
        self.commit();
    }

    /// Positions for other people's tools; the truth is in the state directory.
    fn commit(&self) {
        let Some(source) = self.source.as_ref().filter(|_| self.owns_all && !self.task.is_replaying()) else { return };
        let ids =
            |((topic, partition), next): (&(String, i32), &i64)| Some((self.task.partitions().id(topic, *partition)?, NextOffset(*next)));
        source.commit(&self.task.positions().iter().filter_map(ids).collect::<Vec<_>>());
    }

    /// No more input; a last snapshot; everything acknowledged; positions committed.
    fn drain(mut self) -> Result<(), ServiceError> {
        self.shared.health.set_unready("draining");
        let begun = host_clock::monotonic();
        let deadline = begun + DRAIN_WITHIN;
        self.commit();
        if let Some(done) = self.snapshot_done.take() {
            // Whether that one counts or not, a newer one follows.
            let _ = done.recv_deadline(deadline);
        }
        if self.snapshot.take().is_some() {
            self.task.detector_mut().abandon_snapshot();
            self.piece(Piece::Abandon);
        }
        // What the journal lists and was not replayed yet is in no snapshot: the one before stays the newest.
        let stays = self.task.is_replaying() || self.is_new;
        let whole = !stays && self.whole_snapshot(deadline)?;
        let (done_in, done) = bounded(1);
        self.send(Work::Drain { done: done_in })?;
        let acknowledged = done.recv_deadline(deadline.max(host_clock::monotonic() + Duration::from_millis(100))).is_ok();
        if !acknowledged {
            tracing::warn!("not everything was acknowledged in time; the next start publishes what is missing, once");
        }
        if let Some(source) = self.source.take() {
            source.stop();
        }
        self.pieces = None;
        if acknowledged {
            self.work = None;
            let _ = self.failed.recv_timeout(Duration::from_secs(1));
            if let Some(thread) = self.snapshot_thread.take() {
                let _ = thread.join();
            }
        }
        tracing::info!(snapshot = whole, seconds = begun.elapsed().as_secs_f64(), "drained");
        Ok(())
    }
}
