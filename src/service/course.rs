//! What the task's thread decides: when the input counts as owned and idle, when snapshots begin, what a drain leaves behind.
//!
//! Invariant: work for the publisher is handed on in the order in which the task consumed its input, and a snapshot's fence
//! stands between what the snapshot holds and what comes after. Nothing is waited for here and no clock is read: the owner
//! (`core`'s thread, or a simulation) brings events, instants and patience.

use super::idle::IdleClock;
use super::publisher::Work;
use super::restore::Outputs;
use super::settling::Settling;
use super::snapshots::Piece;
use super::{ServiceError, Shared, crash};
use crate::config::Config;
use crate::defender::batch::Batch;
use crate::defender::decode::{Decoder, Limits};
use crate::detector::snapshot::Section;
use crate::kafka::source::{InputMessage, Kept, Reader, SourceEvent};
use crate::planted::{self, Bug};
use crate::state::snapshot::Positions;
use crate::suppress::Rules;
use crate::task::{Origin, Task, Turnout};
use crate::time::{Span, Ticks};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Decodes each message where the source has it: of its bytes only what the detector needs goes further.
#[must_use]
pub fn reader(replayed: Span, live: Span) -> Reader<Batch> {
    let mut decoder = Decoder::new();
    Box::new(move |value, timestamp, is_replayed| {
        let mut batch = Batch::with_room_for(value.len());
        let max_clock_skew = if is_replayed { replayed } else { live };
        batch.push_message(&mut decoder, 0, value, &Limits { independent_clock: timestamp, max_clock_skew });
        batch
    })
}

impl Kept for Batch {
    fn bytes(&self) -> usize {
        Batch::bytes(self)
    }
}

/// How often what is done by time.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Between the beginnings of two snapshots.
    pub snapshot_interval: Duration,
    /// How far behind the wall clock the arrival clocks are held while the input is idle; `None`: they stay.
    pub idle_delay: Option<Span>,
    /// Bytes of a snapshot that are copied between two batches, and while nothing comes.
    pub copy: usize,
}

impl Timing {
    /// As configured.
    #[must_use]
    pub fn of(config: &Config) -> Timing {
        Timing {
            snapshot_interval: duration(config.state.snapshot_interval),
            idle_delay: config.input.idle_advance.then_some(config.input.idle_delay),
            copy: 512 << 10,
        }
    }
}

/// The same length of time; none when it is negative.
pub(super) fn duration(span: Span) -> Duration {
    Duration::from_nanos(u64::try_from(span.0).unwrap_or(0).saturating_mul(100))
}

struct SnapshotUnderWay {
    fence: Receiver<Positions>,
    input: Positions,
    stamps: Positions,
}

/// Hears whether a snapshot that the owner has to wait for counts.
pub type Counts = Receiver<bool>;

/// What the owner has to wait for before it gives a [`Course`] anything more.
#[derive(Debug)]
pub enum Wait {
    /// For true: what a restart could not find out again (where reading began) must be stored before anything depends on it. When it
    /// says false, [`Course::whole_snapshot`] tries again; when true, [`Course::another_snapshot`] says what is to be waited for next.
    Snapshot(Counts),
    /// Until the output topics have settled ([`Course::settle`]); then this event is to be given again.
    Settled(SourceEvent<Batch>),
}

/// Bytes that may be held back until the output topics have settled; with more, nothing is consumed till then.
const HELD_BYTES: usize = 32 << 20;

/// Keys, headers and payloads that may wait for the publisher before more is taken; a step with one message full of dead letters goes beyond
/// it alone. In memory they take about five times as much.
const WAITING_BYTES: usize = 8 << 20;

/// A task under way.
pub struct Course {
    task: Task,
    /// The output topics settle; `None` when nothing waits for it.
    settling: Option<Settling>,
    shared: Shared,
    timing: Timing,
    work: Sender<Work>,
    /// Bytes of the latest pieces of work, as many as may be waiting.
    sizes: VecDeque<usize>,
    pieces: Sender<Piece>,
    segment: u64,
    snapshot: Option<SnapshotUnderWay>,
    snapshot_done: Option<Counts>,
    last_snapshot: Option<Instant>,
    idle_clock: IdleClock,
    caught_up: bool,
    owns_all: bool,
    /// A partition holds the others back, and readiness says so.
    waiting: bool,
    /// One more snapshot is to follow the one that is waited for.
    once_more: bool,
    is_new: bool,
    stop_on_gap: bool,
    turnout: Turnout,
    rows: Vec<(Section, Vec<u8>)>,
}

impl Course {
    /// Begins with a restored task; `segment` is the journal segment just begun.
    #[must_use]
    pub fn new(
        task: Task,
        shared: Shared,
        timing: Timing,
        work: Sender<Work>,
        pieces: Sender<Piece>,
        segment: u64,
        is_new: bool,
    ) -> Course {
        Course {
            task,
            settling: None,
            shared,
            timing,
            work,
            sizes: VecDeque::new(),
            pieces,
            segment,
            snapshot: None,
            snapshot_done: None,
            last_snapshot: None,
            idle_clock: IdleClock::new(timing.idle_delay.unwrap_or(Span::ZERO)),
            caught_up: false,
            owns_all: false,
            waiting: false,
            once_more: false,
            is_new,
            stop_on_gap: false,
            turnout: Turnout::default(),
            rows: Vec::new(),
        }
    }

    /// Holds back what the replay finds missing from the output topics until they have settled, at `due`: the state was left by a
    /// crash, and the dead process may have had it on its way. Then they are read once more, from `ends` on.
    #[must_use]
    pub fn settling(mut self, outputs: Box<dyn Outputs>, ends: Positions, due: Instant) -> Course {
        self.settling = Some(Settling::new(outputs, ends, due));
        self.task.hold();
        self
    }

    /// Ends at a gap in the input instead of going on.
    #[must_use]
    pub fn stopping_on_gaps(self, stop_on_gap: bool) -> Course {
        Course { stop_on_gap, ..self }
    }

    /// The task, to read.
    #[must_use]
    pub fn task(&self) -> &Task {
        &self.task
    }

    /// The task, to take its tally.
    pub(super) fn task_mut(&mut self) -> &mut Task {
        &mut self.task
    }

    /// Puts other suppression rules in force, between two batches.
    pub fn set_rules(&mut self, rules: Rules) {
        tracing::info!(rules = rules.len(), "the suppression rules changed and are in force");
        self.shared.view.set_rules(&rules);
        self.task.set_rules(rules);
        self.shared.view.mark_all(|change| self.task.mark(change));
    }

    /// Whether a snapshot is being copied.
    #[must_use]
    pub fn is_copying(&self) -> bool {
        self.snapshot.is_some()
    }

    /// When [`Course::settle`] is due, while anything waits for the output topics to settle.
    #[must_use]
    pub fn settles(&self) -> Option<Instant> {
        self.settling.as_ref().filter(|_| self.task.is_holding()).map(Settling::due)
    }

    /// Whether as much waits as may, for the output topics to settle or for the publisher: nothing more is to be given until it is less.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let waiting: usize = self.sizes.iter().rev().take(self.work.len()).sum();
        self.task.held().0 > HELD_BYTES || waiting > WAITING_BYTES
    }

    /// Publishes what is held back, once the output topics have settled, and without what stands there by then.
    ///
    /// # Errors
    /// The topics can't be read, or the publisher is gone.
    pub fn settle(&mut self, now: Instant) -> Result<(), ServiceError> {
        let Some(settling) = self.settling.as_mut().filter(|settling| self.task.is_holding() && settling.due() <= now) else {
            return Ok(());
        };
        let Some((more, ends)) = settling.read(now)? else { return Ok(()) };
        let held = self.task.held().1;
        self.task.settled(more, &mut self.turnout);
        let missing = self.turnout.publications.len();
        tracing::info!(held, missing, "the output topics have settled; what a killed process did not get written is published");
        self.hand_on()?;
        self.send(Work::Read { ends })?;
        self.settling = None;
        Ok(())
    }

    /// Whether positions may be told to the consumer group.
    #[must_use]
    pub fn may_commit(&self) -> bool {
        self.owns_all && !self.task.is_replaying()
    }

    /// Takes messages in merged order; `now` is when they came.
    ///
    /// # Errors
    /// The publisher is gone.
    pub fn messages(&mut self, messages: &[InputMessage<Batch>], now: Instant) -> Result<(), ServiceError> {
        self.caught_up = false;
        if let Some(appended) = messages.iter().filter_map(|message| message.timestamp).max() {
            self.idle_clock.data(appended, now);
        }
        if std::mem::take(&mut self.waiting) && self.owns_all && !self.task.is_replaying() {
            self.shared.health.set_ready();
        }
        let origin = |of: &InputMessage<Batch>| Origin { partition: of.partition, offset: of.offset, timestamp: of.timestamp };
        self.task.messages(messages.iter().map(|message| (origin(message), &message.content)), &mut self.turnout);
        if self.task.is_replaying() {
            messages.iter().for_each(|_| crash::point("replayed"));
        }
        self.hand_on()
    }

    /// Gives the publisher what the task wants written, and the view what has changed. Waits while the publisher is full.
    fn hand_on(&mut self) -> Result<(), ServiceError> {
        if self.settling.is_some() {
            self.shared.metrics.set_held_back(self.task.held().1 as u64);
        }
        if self.turnout.is_empty() {
            return Ok(());
        }
        let turnout = std::mem::take(&mut self.turnout);
        for change in &turnout.changes {
            self.shared.view.apply(change);
            self.shared.metrics.finding_changed(change.kind);
            if let Some(rule) = &change.suppressed_by {
                self.shared.metrics.change_suppressed(rule);
                self.shared.view.rule_hit(rule, change.at);
            }
        }
        if turnout.journal.is_empty() && turnout.publications.is_empty() {
            return Ok(());
        }
        self.send(Work::Step { journal: turnout.journal, publications: turnout.publications })
    }

    fn send(&mut self, work: Work) -> Result<(), ServiceError> {
        let gone = self.sizes.len().saturating_sub(self.work.len());
        self.sizes.drain(..gone);
        self.sizes.push_back(match &work {
            Work::Step { publications, .. } => publications.iter().map(|publication| publication.outgoing.bytes()).sum(),
            Work::Rotate { .. } | Work::Drain { .. } | Work::Read { .. } => 0,
        });
        self.work.send(work).map_err(|_| ServiceError::Ended("publisher"))
    }

    fn piece(&mut self, piece: Piece) {
        // The writer outlives the task but for a panic, which is reported where it happens.
        let _ = self.pieces.send(piece);
    }

    /// Takes an event that is not messages. When it gives a [`Wait`], nothing more may be taken before that is over.
    ///
    /// # Errors
    /// The source failed for good, or the publisher is gone.
    pub fn event(&mut self, event: SourceEvent<Batch>, now: Instant) -> Result<Option<Wait>, ServiceError> {
        let must_store = match event {
            SourceEvent::ReplayDone => {
                self.task.finish_replay(&mut self.turnout);
                self.task.must_store()
            }
            SourceEvent::Gap { .. } => !self.task.is_replaying() && !self.stop_on_gap,
            _ => false,
        };
        if must_store && self.settles().is_some() && !planted::is(Bug::SnapshotWhileHeld) {
            return Ok(Some(Wait::Settled(event)));
        }
        let health = &self.shared.health;
        match event {
            SourceEvent::Messages(_) => {}
            SourceEvent::Assigned(partitions) => {
                // Where reading begins in a partition stands in no journal; a start reads it from the snapshot.
                let begins = partitions.iter().any(|of| !self.task.positions().contains_key(&(of.of.topic.clone(), of.of.partition)));
                for assigned in &partitions {
                    let id = self.task.assigned(&assigned.of.topic, assigned.of.partition, assigned.position);
                    debug_assert_eq!(id, assigned.id, "source and task call a partition by the same id");
                }
                tracing::info!(partitions = partitions.len(), "all input partitions are assigned");
                self.owns_all = true;
                if !self.task.is_replaying() {
                    health.set_ready();
                }
                let must_store = begins && !self.task.is_replaying() && self.settles().is_none();
                if std::mem::take(&mut self.is_new) || must_store {
                    let counts = self.whole_snapshot(now)?;
                    return Ok(Some(Wait::Snapshot(counts)).filter(|_| !planted::is(Bug::FirstSnapshotNotAwaited)));
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
                let must_store = self.task.replay_done(&mut self.turnout);
                self.shared.metrics.messages_replayed(self.task.replayed);
                if self.task.replayed > 0 {
                    tracing::info!(messages = self.task.replayed, "the journal is replayed");
                }
                self.hand_on()?;
                self.shared.health.set_ready();
                if must_store {
                    // What was said stands in no journal: no snapshot of before may take over from one that turns out to be damaged.
                    self.once_more = !planted::is(Bug::OneSnapshotOfWhatNoJournalHolds);
                    return self.whole_snapshot(now).map(Wait::Snapshot).map(Some);
                }
            }
            SourceEvent::CaughtUp => {
                self.caught_up = true;
                if self.owns_all && !self.task.is_replaying() {
                    self.shared.health.set_ready();
                }
            }
            SourceEvent::Gap { partition, from, to } => {
                let of = self.task.partitions().get(partition).map(ToString::to_string).unwrap_or_default();
                if self.stop_on_gap {
                    return Err(ServiceError::Gap { partition: of, from, to });
                }
                tracing::error!(partition = of, %from, %to, "messages are gone from the input: retention passed the stored position; findings may be missing or wrong for what they held, and say so by baseline.gap");
                self.shared.metrics.messages_gone((to.0 - from.0).max(0) as u64);
                self.task.skipped_to(partition, to);
                if !self.task.is_replaying() {
                    return self.whole_snapshot(now).map(Wait::Snapshot).map(Some);
                }
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
        Ok(None)
    }

    /// Nothing came for a while; `wall` is the host's wall clock, which a step of it can't move past what the data and the monotonic
    /// time since bear out.
    ///
    /// # Errors
    /// The publisher is gone.
    pub fn idle(&mut self, wall: Ticks, now: Instant) -> Result<(), ServiceError> {
        if self.timing.idle_delay.is_none() || !self.caught_up || !self.owns_all || self.task.is_replaying() {
            return Ok(());
        }
        if let Some(clock) = self.task.detector().clocks().map(|(_, clock)| clock).max() {
            self.idle_clock.begin(clock, now);
        }
        let Some(to) = self.idle_clock.advance(wall, now) else { return Ok(()) };
        self.task.idle(to, &mut self.turnout);
        self.hand_on()
    }

    /// How far the host's clock was stepped since the last call, in ticks; `None` when it was not.
    pub fn host_clock_step(&mut self, wall: Ticks, now: Instant) -> Option<i64> {
        self.idle_clock.step(wall, now)
    }

    /// Hears when everything that was handed on is acknowledged.
    ///
    /// # Errors
    /// The publisher is gone.
    pub fn acknowledged(&mut self) -> Result<Receiver<()>, ServiceError> {
        let (done_in, done) = bounded(1);
        self.send(Work::Drain { done: done_in })?;
        Ok(done)
    }
}

mod storing;
#[cfg(test)]
mod tests;
