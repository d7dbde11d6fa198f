//! Journal first, publish second: one thread that appends to the order journal, syncs it when changes wait, and publishes them.
//!
//! Invariant (INV-journal): a message is handed to the broker only after everything that the task consumed before it is synced.
//! Work that came in meanwhile is taken together: one sync for all (group sync).

use super::{ServiceError, crash};
use crate::host_clock;
use crate::kafka::sink::{Delivery, Outgoing, PublishError, Sink, SinkError};
use crate::metrics::Metrics;
use crate::planted::{self, Bug};
use crate::state::Store;
use crate::state::disk::DiskFile;
use crate::state::snapshot::Positions;
use crate::task::Publication;
use crate::time::Ticks;
use crossbeam_channel::{Receiver, Sender, TryRecvError};
use std::collections::BTreeMap;
use std::sync::Arc;
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
}

struct Waiting {
    topic: String,
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
    journal: Box<dyn DiskFile>,
    sink: P,
    metrics: Arc<Metrics>,
    /// End of each output partition, as far as it is known: nothing that is published from now on stands before it.
    output: Positions,
    work: Receiver<Work>,
    outstanding: BTreeMap<u64, Waiting>,
    next_token: u64,
    fences: Vec<Fence>,
    drains: Vec<Sender<()>>,
    unsynced: bool,
}

/// Work that is taken together before a sync.
const GROUP: usize = 256;
/// Bytes of publications with which a group is closed: what is taken waits in memory while the brokers are slow.
const GROUP_BYTES: usize = 4 << 20;

impl<P: Publish> Publisher<P> {
    /// Writes to `journal`, the segment just begun, and to `sink`; the output topics end at `output`.
    pub fn new(store: Store, journal: Box<dyn DiskFile>, sink: P, metrics: Arc<Metrics>, output: Positions, work: Receiver<Work>) -> Self {
        Publisher {
            store,
            journal,
            sink,
            metrics,
            output,
            work,
            outstanding: BTreeMap::new(),
            next_token: 0,
            fences: Vec::new(),
            drains: Vec::new(),
            unsynced: false,
        }
    }

    /// Works until the task is gone and everything is done.
    ///
    /// # Errors
    /// The journal can't be written, or the sink is beyond use.
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
                    Ok(first) => self.group(first)?,
                    Err(_) => return self.finish(),
                },
                Turn::TaskGone => return self.finish(),
            }
        }
    }

    /// Takes the work that waits and the deliveries that have come; waits for neither.
    ///
    /// # Errors
    /// The journal can't be written, or the sink is beyond use.
    pub fn turn(&mut self) -> Result<Turn, ServiceError> {
        let mut turn = match self.work.try_recv() {
            Ok(first) => {
                self.group(first)?;
                Turn::Busy
            }
            Err(TryRecvError::Empty) => Turn::Idle,
            Err(TryRecvError::Disconnected) => Turn::TaskGone,
        };
        while let Some(delivery) = self.sink.next_delivery(Duration::ZERO) {
            self.delivered(delivery)?;
            turn = Turn::Busy;
        }
        self.check()?;
        Ok(turn)
    }

    /// Takes `first` and what waits behind it, up to a bound, with one sync for all.
    fn group(&mut self, first: Work) -> Result<(), ServiceError> {
        let mut publications = Vec::new();
        let mut next = Some(first);
        let (mut taken, mut bytes) = (0, 0);
        while let Some(work) = next {
            match work {
                Work::Step { journal, publications: more } => {
                    if !journal.is_empty() {
                        self.journal.write_all(&journal).map_err(ServiceError::Journal)?;
                        self.unsynced = true;
                    }
                    bytes += more.iter().map(|p| p.outgoing.payload.len()).sum::<usize>();
                    publications.extend(more);
                }
                Work::Rotate { segment, fence } => {
                    self.publish(&mut publications)?;
                    self.rotate(segment, fence)?;
                }
                Work::Drain { done } => {
                    self.publish(&mut publications)?;
                    self.drains.push(done);
                    self.release();
                }
            }
            taken += 1;
            next = if taken < GROUP && bytes < GROUP_BYTES { self.work.try_recv().ok() } else { None };
        }
        self.publish(&mut publications)
    }

    fn sync(&mut self) -> Result<(), ServiceError> {
        if self.unsynced {
            let start = host_clock::monotonic();
            self.journal.flush().and_then(|()| self.journal.sync()).map_err(ServiceError::Journal)?;
            self.metrics.journal_synced(start.elapsed());
            self.unsynced = false;
        }
        Ok(())
    }

    fn publish(&mut self, publications: &mut Vec<Publication>) -> Result<(), ServiceError> {
        if publications.is_empty() {
            return Ok(());
        }
        if !planted::is(Bug::PublishBeforeSync) {
            self.sync()?;
        }
        crash::point("journal-synced");
        for Publication { mut outgoing, appended } in publications.drain(..) {
            outgoing.token = self.next_token;
            let shorter = without_value(&outgoing);
            self.outstanding.insert(self.next_token, Waiting { topic: outgoing.topic.clone(), appended, shorter });
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

    fn rotate(&mut self, segment: u64, fence: Sender<Positions>) -> Result<(), ServiceError> {
        self.sync()?;
        self.journal = self.store.begin_segment(segment).map_err(ServiceError::Journal)?;
        self.unsynced = true;
        let before = if planted::is(Bug::FenceNotAwaited) { 0 } else { self.next_token };
        self.fences.push(Fence { before, positions: self.output.clone(), tell: fence });
        self.release();
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
                self.metrics.finding_acknowledged(Duration::from_nanos(after.saturating_mul(100)));
            }
            let end = self.output.entry((waiting.topic, partition)).or_insert(0);
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
        self.sync()?;
        while !self.outstanding.is_empty() {
            if let Some(delivery) = self.sink.next_delivery(Duration::from_millis(50)) {
                self.delivered(delivery)?;
            }
            self.check()?;
        }
        Ok(())
    }
}
