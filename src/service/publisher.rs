//! Journal first, publish second: one thread that appends to the order journal, syncs it when changes wait, and publishes them.
//!
//! Invariant (INV-journal): a message is handed to the broker only after everything that the task consumed before it is synced.
//! Work that came in meanwhile is taken together: one sync for all (group sync).
//!
//! While the disk refuses, nothing is taken and nothing published; what was taken is kept and tried again.

use super::{ServiceError, Shared, crash};
use crate::host_clock;
use crate::kafka::sink::{Delivery, Outgoing, PublishError, Sink, SinkError};
use crate::planted::{self, Bug};
use crate::state::Store;
use crate::state::segment::Segment;
use crate::state::snapshot::Positions;
use crate::task::Publication;
use crate::time::Ticks;
use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::time::Duration;

/// The output topics, seen from here: the seam at which tests put a broker of their own.
pub trait Publish {
    /// Hands a message over; see [`Sink::publish`].
    ///
    /// # Errors
    /// It was not taken.
    fn publish(&self, outgoing: Outgoing) -> Result<(), PublishError>;
    /// What became of a message, if that is known within `wait`.
    fn next_delivery(&self, wait: Duration) -> Option<Delivery>;
    /// Why nothing can be published any more, if so.
    fn fatal(&self) -> Option<SinkError>;
}

impl Publish for Sink {
    fn publish(&self, outgoing: Outgoing) -> Result<(), PublishError> {
        Sink::publish(self, outgoing)
    }
    fn next_delivery(&self, wait: Duration) -> Option<Delivery> {
        if wait.is_zero() { self.deliveries().try_recv().ok() } else { self.deliveries().recv_timeout(wait).ok() }
    }
    fn fatal(&self) -> Option<SinkError> {
        Sink::fatal(self)
    }
}

/// What the publisher is asked to do, in order.
#[derive(Debug)]
pub enum Work {
    /// Append journal bytes, then publish.
    Step {
        /// Frames; may be empty.
        journal: Vec<u8>,
        /// Depend on these frames and those before.
        publications: Vec<Publication>,
    },
    /// Sync, and go on in a new segment.
    Rotate {
        /// Its number.
        segment: u64,
        /// Hears the output positions of this moment once all that was published before it is acknowledged: then a snapshot of
        /// this moment may count.
        fence: Sender<Positions>,
    },
    /// The output topics were read up to here: what is published from now on stands behind it.
    Read {
        /// Their ends.
        ends: Positions,
    },
    /// Wait until everything is acknowledged, then say so.
    Drain {
        /// Hears it.
        done: Sender<()>,
    },
}

/// What a turn of the publisher found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Something to do, and did it.
    Busy,
    /// Nothing to do.
    Idle,
    /// Nothing to do, and nothing will come: the task is gone.
    TaskGone,
    /// The disk refuses; tried again at the next turn.
    Stalled,
}

struct Waiting {
    topic: String,
    /// A dead letter: one that is written again, shorter, may stand behind what was published after it.
    is_letter: bool,
    appended: Option<Ticks>,
    /// What is written instead when a dead letter turns out to be larger than its topic takes.
    shorter: Option<Box<Outgoing>>,
}

/// A dead letter without its value, which is larger than the topic takes: the header `value-omitted` says how many bytes it has, and
/// where it stands the others say. One oversized record must not stop the service for ever. A finding has no such form.
fn without_value(outgoing: &Outgoing) -> Option<Box<Outgoing>> {
    let has = |wanted: &str| outgoing.headers.iter().any(|(name, _)| name == wanted);
    if !has("source-offset") || has(VALUE_OMITTED) {
        return None;
    }
    let mut headers = outgoing.headers.clone();
    headers.push((VALUE_OMITTED.to_owned(), outgoing.payload.len().to_string().into_bytes()));
    Some(Box::new(Outgoing {
        topic: outgoing.topic.clone(),
        key: outgoing.key.clone(),
        headers,
        payload: Vec::new(),
        token: outgoing.token,
    }))
}

const VALUE_OMITTED: &str = "value-omitted";

struct Fence {
    before: u64,
    positions: Positions,
    tell: Sender<Positions>,
}

/// The journal's and the sink's owner.
pub struct Publisher<P> {
    store: Store,
    journal: Segment,
    sink: P,
    shared: Shared,
    /// End of each output partition, as far as it is known: nothing that is published from now on stands before it.
    output: Positions,
    work: Receiver<Work>,
    outstanding: BTreeMap<u64, Waiting>,
    next_token: u64,
    fences: Vec<Fence>,
    drains: Vec<Sender<()>>,
    /// Taken, to be published once the journal is synced.
    publications: VecDeque<Publication>,
    /// Taken, to be done after that: a rotation or a drain.
    then: Option<Work>,
    /// The segment has its end frame, and the next one is not begun.
    ended: bool,
    /// The disk refused, and was not heard to take anything since.
    stalled: bool,
}

/// Work that is taken together before a sync.
const GROUP: usize = 256;
/// Bytes of publications with which a group is closed: what is taken waits in memory while the brokers are slow.
const GROUP_BYTES: usize = 4 << 20;
/// Bytes of the journal that may wait for a sync: they are kept in memory until then.
const UNSYNCED_BYTES: usize = 1 << 20;
/// How long a disk that refused rests.
const RETRY: Duration = Duration::from_millis(500);

impl<P: Publish> Publisher<P> {
    /// Writes to `journal`, the segment just begun, and to `sink`; the output topics end at `output`.
    pub fn new(store: Store, journal: Segment, sink: P, shared: &Shared, output: Positions, work: Receiver<Work>) -> Self {
        Publisher {
            store,
            journal,
            sink,
            shared: shared.clone(),
            output,
            work,
            outstanding: BTreeMap::new(),
            next_token: 0,
            fences: Vec::new(),
            drains: Vec::new(),
            publications: VecDeque::new(),
            then: None,
            ended: false,
            stalled: false,
        }
    }

    /// Works until the task is gone and everything is done.
    ///
    /// # Errors
    /// The sink is beyond use.
    pub fn run(mut self) -> Result<(), ServiceError> {
        loop {
            match self.turn()? {
                Turn::Busy => {}
                // Deliveries come on their own channel: look at both.
                Turn::Idle if !self.outstanding.is_empty() => {
                    if let Some(delivery) = self.sink.next_delivery(Duration::from_millis(1)) {
                        self.delivered(delivery)?;
                    }
                }
                Turn::Idle => match self.work.recv() {
                    Ok(first) => drop(self.group(first)?),
                    Err(_) => return self.finish(),
                },
                Turn::Stalled => {
                    if let Some(delivery) = self.sink.next_delivery(RETRY) {
                        self.delivered(delivery)?;
                    }
                }
                Turn::TaskGone => return self.finish(),
            }
        }
    }

    /// Takes the work that waits and the deliveries that have come; waits for neither.
    ///
    /// # Errors
    /// The sink is beyond use.
    pub fn turn(&mut self) -> Result<Turn, ServiceError> {
        let mut turn = if self.stalled && !self.carry_out()? {
            Turn::Stalled
        } else {
            match self.work.try_recv() {
                Ok(first) => {
                    if self.group(first)? {
                        Turn::Busy
                    } else {
                        Turn::Stalled
                    }
                }
                Err(TryRecvError::Empty) => Turn::Idle,
                Err(TryRecvError::Disconnected) => Turn::TaskGone,
            }
        };
        while let Some(delivery) = self.sink.next_delivery(Duration::ZERO) {
            self.delivered(delivery)?;
            turn = if turn == Turn::Stalled { turn } else { Turn::Busy };
        }
        self.check()?;
        Ok(turn)
    }

    /// Takes `first` and what waits behind it, up to a bound or a rotation, with one sync for all.
    /// False when the disk refuses.
    fn group(&mut self, first: Work) -> Result<bool, ServiceError> {
        let mut next = Some(first);
        let (mut taken, mut bytes) = (0, 0);
        while let Some(work) = next {
            match work {
                Work::Step { journal, publications: more } => {
                    self.journal.append(&journal);
                    bytes += more.iter().map(|p| p.outgoing.payload.len()).sum::<usize>();
                    self.publications.extend(more);
                }
                other => {
                    self.then = Some(other);
                    break;
                }
            }
            taken += 1;
            next = if taken < GROUP && bytes < GROUP_BYTES { self.work.try_recv().ok() } else { None };
        }
        self.carry_out()
    }

    /// Does all that was taken; false when the disk refuses, and what is left to do is kept.
    fn carry_out(&mut self) -> Result<bool, ServiceError> {
        if let Err(error) = self.journal.write() {
            return Ok(self.stall(&error));
        }
        if self.stalled || !self.publications.is_empty() || self.then.is_some() || self.journal.unsynced() > UNSYNCED_BYTES {
            if !planted::is(Bug::PublishBeforeSync)
                && let Err(error) = self.sync()
            {
                return Ok(self.stall(&error));
            }
            self.publish()?;
        }
        match self.then.take() {
            Some(Work::Rotate { segment, fence }) => {
                if let Err(error) = self.rotate(segment) {
                    self.then = Some(Work::Rotate { segment, fence });
                    return Ok(self.stall(&error));
                }
                let before = if planted::is(Bug::FenceNotAwaited) { 0 } else { self.next_token };
                self.fences.push(Fence { before, positions: self.output.clone(), tell: fence });
            }
            Some(Work::Drain { done }) => self.drains.push(done),
            Some(Work::Read { ends }) => {
                for (of, end) in ends {
                    let known = self.output.entry(of).or_insert(end);
                    *known = end.max(*known);
                }
            }
            Some(Work::Step { .. }) | None => {}
        }
        self.release();
        if std::mem::take(&mut self.stalled) {
            tracing::warn!("state.dir can be written again; going on, nothing is lost");
            self.shared.health.go_on();
        }
        Ok(true)
    }

    fn stall(&mut self, error: &io::Error) -> bool {
        self.shared.metrics.state_write_failed();
        if !std::mem::replace(&mut self.stalled, true) {
            let reason = format!(
                "state.dir can't be written: {error}; nothing is consumed or published until it can. Make room, or mend the disk: it goes on by itself"
            );
            tracing::error!("{reason}");
            self.shared.health.hold_up(reason);
        }
        if let Some(Work::Rotate { fence, .. }) = &mut self.then {
            // The snapshot is given up: its file may take the very room that is missing.
            *fence = bounded(1).0;
        }
        false
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.journal.unsynced() > 0 {
            let start = host_clock::monotonic();
            self.journal.sync()?;
            self.shared.metrics.journal_synced(start.elapsed());
        }
        Ok(())
    }

    fn publish(&mut self) -> Result<(), ServiceError> {
        if self.publications.is_empty() {
            return Ok(());
        }
        crash::point("journal-synced");
        while let Some(Publication { mut outgoing, appended }) = self.publications.pop_front() {
            outgoing.token = self.next_token;
            let shorter = without_value(&outgoing);
            self.outstanding
                .insert(self.next_token, Waiting { topic: outgoing.topic.clone(), is_letter: shorter.is_some(), appended, shorter });
            self.next_token += 1;
            let mut outgoing = Box::new(outgoing);
            loop {
                match self.sink.publish(*outgoing) {
                    Ok(()) => break,
                    Err(PublishError::Full(back)) => {
                        // Back-pressure: nothing more is taken in until the brokers acknowledge.
                        outgoing = back;
                        if let Some(delivery) = self.sink.next_delivery(Duration::from_millis(50)) {
                            self.delivered(delivery)?;
                        }
                        self.check()?;
                    }
                    Err(PublishError::Refused(back, error)) => outgoing = self.shorter(back.token, error)?,
                }
            }
        }
        crash::point("published");
        Ok(())
    }

    /// What is written instead of a message that is too large; any other failure ends the publisher.
    fn shorter(&mut self, token: u64, error: SinkError) -> Result<Box<Outgoing>, ServiceError> {
        let shorter = self.outstanding.get_mut(&token).and_then(|waiting| waiting.shorter.take());
        match (error, shorter) {
            (SinkError::TooLarge { topic }, Some(shorter)) => {
                tracing::warn!(
                    topic,
                    "a dead letter is larger than its topic takes: it is written without its value. Raise the topic's max.message.bytes"
                );
                Ok(shorter)
            }
            (error, _) => Err(ServiceError::Sink(error)),
        }
    }

    fn rotate(&mut self, segment: u64) -> io::Result<()> {
        if !std::mem::replace(&mut self.ended, true) {
            self.journal.append_end();
        }
        self.sync()?;
        self.journal = self.store.begin_segment(segment)?;
        self.ended = false;
        Ok(())
    }

    fn delivered(&mut self, delivery: Delivery) -> Result<(), ServiceError> {
        let (partition, offset) = match delivery.result {
            Ok(at) => at,
            Err(error) => {
                let mut next = self.shorter(delivery.token, error)?;
                // Room comes by itself: what counts as on its way does so until the producer, not this thread, is done with it.
                while let Err(refused) = self.sink.publish(*next) {
                    next = match refused {
                        PublishError::Full(back) => back,
                        PublishError::Refused(_, error) => return Err(ServiceError::Sink(error)),
                    };
                    self.check()?;
                    std::thread::park_timeout(Duration::from_millis(5));
                }
                return Ok(());
            }
        };
        crash::point("acknowledged");
        if let Some(waiting) = self.outstanding.remove(&delivery.token) {
            if let Some(appended) = waiting.appended {
                let after = host_clock::now().0.saturating_sub(appended.0).max(0) as u64;
                self.shared.metrics.finding_acknowledged(Duration::from_nanos(after.saturating_mul(100)));
            }
            let of = (waiting.topic, partition);
            // What was published before a snapshot stands before its positions, in every topic alike: what is read behind them later was
            // published after it.
            for fence in self.fences.iter_mut().filter(|fence| delivery.token < fence.before && !waiting.is_letter) {
                let end = fence.positions.entry(of.clone()).or_insert(0);
                *end = (offset + 1).max(*end);
            }
            let end = self.output.entry(of).or_insert(0);
            *end = (offset + 1).max(*end);
        }
        self.release();
        Ok(())
    }

    /// Tells those who wait for acknowledgements that have come.
    fn release(&mut self) {
        let oldest = self.outstanding.keys().next().copied().unwrap_or(u64::MAX);
        self.fences.retain_mut(|fence| {
            let waits = oldest < fence.before;
            if !waits {
                // The snapshot may have been given up meanwhile.
                let _ = fence.tell.send(std::mem::take(&mut fence.positions));
            }
            waits
        });
        if self.outstanding.is_empty() {
            for done in self.drains.drain(..) {
                let _ = done.send(());
            }
        }
    }

    fn check(&self) -> Result<(), ServiceError> {
        self.sink.fatal().map_or(Ok(()), |error| Err(ServiceError::Sink(error)))
    }

    fn finish(mut self) -> Result<(), ServiceError> {
        if let Err(error) = self.sync() {
            // Nothing that was published depends on it; a restart consumes it again.
            self.stall(&error);
        }
        while !self.outstanding.is_empty() {
            if let Some(delivery) = self.sink.next_delivery(Duration::from_millis(50)) {
                self.delivered(delivery)?;
            }
            self.check()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
