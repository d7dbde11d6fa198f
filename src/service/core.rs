//! The thread that owns the task: takes decoded events in order, waits for what [`Course`] says is to be waited for, and reports.
//! What is decided about them is `course`'s.

use super::course::{Counts, Course, Wait};
use super::limits::LimitWatch;
use super::{DRAIN_WITHIN, ServiceError, Shared};
use crate::defender::batch::Batch;
use crate::host_clock;
use crate::kafka::position::NextOffset;
use crate::kafka::source::{InputMessage, SourceEvent, SourceHandle};
use crate::metrics::{Outcome, Tracked};
use crate::state::Store;
use crate::suppress::Rules;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longest wait for an event: how soon a stop, a snapshot that is due or idle time is noticed.
const TICK: Duration = Duration::from_millis(100);
/// How often metrics of the state and positions are brought up to date.
const REPORT: Duration = Duration::from_secs(1);
/// How long a disk that refused rests.
const RETRY: Duration = Duration::from_secs(1);

pub(super) struct Core {
    course: Course,
    shared: Shared,
    source: SourceHandle<Batch>,
    snapshot_thread: JoinHandle<()>,
    failed: Receiver<Result<(), ServiceError>>,
    last_report: Instant,
    limits: LimitWatch,
    /// Suppression rules that changed.
    rules: Option<Receiver<Rules>>,
}

impl Core {
    pub(super) fn new(
        course: Course,
        shared: Shared,
        store: Store,
        source: SourceHandle<Batch>,
        snapshot_thread: JoinHandle<()>,
        failed: Receiver<Result<(), ServiceError>>,
    ) -> Core {
        // These go on changing while this thread waits for the publisher, and that for the disk.
        let behind = source.behind();
        shared.metrics.look(move |metrics| {
            for lag in behind.lag() {
                metrics.set_consumer_lag(&lag.partition.topic, lag.partition.partition, lag.messages.max(0) as u64);
            }
            if let Ok(bytes) = store.bytes() {
                metrics.set_state_disk_bytes(bytes);
            }
        });
        Core {
            course,
            shared,
            source,
            snapshot_thread,
            failed,
            last_report: host_clock::monotonic(),
            limits: LimitWatch::default(),
            rules: None,
        }
    }

    /// Takes changed suppression rules from here.
    pub(super) fn with_rules(self, rules: Receiver<Rules>) -> Core {
        Core { rules: Some(rules), ..self }
    }

    pub(super) fn run(mut self) -> Result<(), ServiceError> {
        let (shared, failed) = (self.shared.clone(), self.failed.clone());
        let result = self.work_until_stopped().and_then(|()| self.drain());
        result.map_err(|error| {
            // Why the publisher ended is the publisher's to say.
            let error = match error {
                ServiceError::Ended("publisher") => failed.recv_timeout(TICK).ok().and_then(Result::err).unwrap_or(error),
                other => other,
            };
            shared.health.set_unready(error.to_string());
            error
        })
    }

    fn work_until_stopped(&mut self) -> Result<(), ServiceError> {
        while !self.is_over()? {
            match self.next() {
                Ok(SourceEvent::Messages(messages)) => self.messages(&messages)?,
                Ok(event) => self.event(event)?,
                Err(RecvTimeoutError::Timeout) => self.course.idle(host_clock::now(), host_clock::monotonic())?,
                Err(RecvTimeoutError::Disconnected) => return Err(ServiceError::Ended("input")),
            }
            if let Some(rules) = self.rules.as_ref().and_then(|rules| rules.try_recv().ok()) {
                self.course.set_rules(rules);
            }
            self.shared.questions.answer_one(self.course.task().detector());
            self.course.settle(host_clock::monotonic())?;
            self.course.continue_snapshot(host_clock::monotonic())?;
            self.report();
        }
        Ok(())
    }

    /// What the source says next, unless nothing may be taken now.
    fn next(&self) -> Result<SourceEvent<Batch>, RecvTimeoutError> {
        if self.course.is_full() {
            std::thread::park_timeout(TICK);
            return Err(RecvTimeoutError::Timeout);
        }
        self.source.events.recv_timeout(if self.course.is_copying() { Duration::from_millis(1) } else { TICK })
    }

    fn messages(&mut self, messages: &[InputMessage<Batch>]) -> Result<(), ServiceError> {
        self.course.messages(messages, host_clock::monotonic())?;
        self.shared.consumed.fetch_add(messages.len() as u64, Ordering::AcqRel);
        self.count(messages);
        Ok(())
    }

    fn event(&mut self, event: SourceEvent<Batch>) -> Result<(), ServiceError> {
        match self.course.event(event, host_clock::monotonic())? {
            None => Ok(()),
            Some(Wait::Snapshot(counts)) => self.until_it_counts(counts),
            Some(Wait::Settled(event)) => {
                self.shared.health.hold_up("what must be written now rests on what a killed process got written: waiting until output.settle_delay is over and the output topics are read again");
                while self.course.settles().is_some() {
                    if self.is_over()? {
                        return Ok(());
                    }
                    std::thread::park_timeout(TICK);
                    self.course.settle(host_clock::monotonic())?;
                    self.report();
                }
                self.shared.health.go_on();
                self.event(event)
            }
        }
    }

    fn until_it_counts(&mut self, mut snapshot: Counts) -> Result<(), ServiceError> {
        let mut failed_before = false;
        while !self.is_over()? {
            self.report();
            match snapshot.recv_timeout(TICK) {
                Ok(true) => {
                    if std::mem::take(&mut failed_before) {
                        self.shared.health.go_on();
                    }
                    match self.course.another_snapshot(host_clock::monotonic())? {
                        Some(another) => snapshot = another,
                        None => return Ok(()),
                    }
                }
                Ok(false) => {
                    failed_before = true;
                    self.shared.health.hold_up("a snapshot that must come first can't be written (its error is logged); nothing is consumed until it can. Make room in state.dir: it goes on by itself");
                    std::thread::park_timeout(RETRY);
                    snapshot = self.course.whole_snapshot(host_clock::monotonic())?;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(ServiceError::Ended("snapshots")),
            }
        }
        Ok(())
    }

    /// Whether a stop was asked for.
    ///
    /// # Errors
    /// The publisher has ended.
    fn is_over(&self) -> Result<bool, ServiceError> {
        match self.failed.try_recv() {
            Ok(outcome) => outcome.and(Err(ServiceError::Ended("publisher"))),
            Err(_) => Ok(self.shared.stop.load(Ordering::Acquire)),
        }
    }

    fn count(&mut self, messages: &[InputMessage<Batch>]) {
        let (metrics, tally) = (&self.shared.metrics, self.course.task_mut().take_tally());
        let mut runs: Vec<(crate::kafka::position::PartitionId, u64)> = Vec::new();
        for message in messages {
            match runs.iter_mut().find(|(partition, _)| *partition == message.partition) {
                Some((_, n)) => *n += 1,
                None => runs.push((message.partition, 1)),
            }
        }
        for (partition, n) in runs {
            if let Some(of) = self.course.task().partitions().get(partition) {
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

    fn report(&mut self) {
        if self.last_report.elapsed() < REPORT {
            return;
        }
        self.last_report = host_clock::monotonic();
        let metrics = &self.shared.metrics;
        if let Some(by) = self.course.host_clock_step(host_clock::now(), self.last_report) {
            let seconds = by / crate::time::TICKS_PER_SECOND;
            tracing::warn!(seconds, "the host's clock was stepped; the arrival clock does not follow, and no state is lost by it");
            metrics.host_clock_stepped();
        }
        let tracked = self.course.task().detector().tracked();
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
        let usage = self.course.task_mut().detector_mut().take_usage();
        self.limits.report(usage, metrics).into_iter().for_each(|warning| tracing::warn!("{warning}"));
        metrics.set_open_findings(tracked.open_findings as u64);
        for (tenant, clock) in self.course.task().detector().clocks() {
            metrics.set_arrival_clock(tenant, clock);
            self.shared.view.set_arrival_clock(tenant, clock);
            if let Some(since) = self.course.task().detector().observed_since(tenant) {
                metrics.set_observed_since(tenant, since);
            }
        }
        self.commit();
    }

    /// Positions for other people's tools; the truth is in the state directory.
    fn commit(&self) {
        if !self.course.may_commit() {
            return;
        }
        let task = self.course.task();
        let ids = |((topic, partition), next): (&(String, i32), &i64)| Some((task.partitions().id(topic, *partition)?, NextOffset(*next)));
        self.source.commit(&task.positions().iter().filter_map(ids).collect::<Vec<_>>());
    }

    /// No more input; a last snapshot; everything acknowledged; positions committed.
    fn drain(mut self) -> Result<(), ServiceError> {
        self.shared.health.set_unready("draining");
        let begun = host_clock::monotonic();
        let deadline = begun + DRAIN_WITHIN;
        self.commit();
        self.settle_by(deadline)?;
        if let Some(unfinished) = self.course.unfinished() {
            // Whether that one counts or not, a newer one follows.
            let _ = counts(&unfinished, deadline);
        }
        let whole = self.course.last_snapshot(begun)?.is_some_and(|last| counts(&last, deadline));
        let done = self.course.acknowledged()?;
        let acknowledged = done.recv_deadline(deadline.max(host_clock::monotonic() + Duration::from_millis(100))).is_ok();
        if !acknowledged {
            tracing::warn!("not everything was acknowledged in time; the next start publishes what is missing, once");
        }
        let held = self.course.task().held().1;
        let Core { course, source, failed, snapshot_thread, .. } = self;
        source.stop();
        drop(course);
        if acknowledged {
            let _ = failed.recv_timeout(Duration::from_secs(1));
            let _ = snapshot_thread.join();
        }
        if held > 0 {
            tracing::warn!(
                held,
                "stopped so soon after a crash that what the killed process may have sent is still held back: the next start publishes what is missing, once"
            );
        }
        tracing::info!(snapshot = whole, seconds = begun.elapsed().as_secs_f64(), "drained");
        Ok(())
    }

    /// Waits for the output topics to settle, if they do in time.
    fn settle_by(&mut self, deadline: Instant) -> Result<(), ServiceError> {
        while let Some(due) = self.course.settles().filter(|due| *due <= deadline && !self.course.task().is_replaying()) {
            std::thread::park_timeout(due.saturating_duration_since(host_clock::monotonic()));
            self.course.settle(host_clock::monotonic())?;
        }
        Ok(())
    }
}

fn counts(snapshot: &Counts, deadline: Instant) -> bool {
    snapshot.recv_deadline(deadline).unwrap_or(false)
}
