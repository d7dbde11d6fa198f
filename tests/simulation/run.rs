//! One seed: a process that works, dies and comes back, until the last life is left in peace; then the output topics are judged.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError, bounded, unbounded};
use firstseen::defender::Batch;
use firstseen::finding::json::key;
use firstseen::finding::severity::Privileged;
use firstseen::kafka::source::SourceEvent;
use firstseen::service::course::{Course, Timing, Wait};
use firstseen::service::publisher::{Publisher, Turn, Work};
use firstseen::service::restore::{Restored, restore};
use firstseen::service::snapshots::{Piece, SnapshotWriter};
use firstseen::service::{ServiceError, Shared};
use firstseen::state::journal::Entry;
use firstseen::state::{Recovered, StateError, Store};
use firstseen::suppress::{Fate, Rules, Suppression};
use firstseen::task::Format;
use firstseen::time::{Span, Ticks};

use super::broker::{Broker, SETTLE, SimOutputs, SimSink};
use super::disk::SimDisk;
use super::input::{DEAD_LETTERS, FINDINGS, Input, RULES, SUPPRESSED, Step, input, log_of, other_settings, rules, settings};
use super::judge::{Open, judge};
use super::source::Source;
use super::world::{Chance, Crash, Faults, Sim};

/// Steps of publisher work that may wait.
const STEPS: usize = 16;
/// More turns than any run that goes on needs.
const TURNS: usize = 400_000;

/// Why a life is over.
#[derive(Debug)]
pub(crate) enum Ended {
    /// As it must never be.
    Wrong(String),
    /// As the service ends when something outside fails; it is started again.
    Failed(ServiceError),
}

impl From<ServiceError> for Ended {
    fn from(error: ServiceError) -> Ended {
        match error {
            ServiceError::State(StateError::Io(_)) | ServiceError::Journal(_) => Ended::Failed(error),
            ServiceError::Sink(_) => Ended::Failed(error),
            ServiceError::Readback(firstseen::kafka::readback::ReadbackError::Stalled { .. }) => Ended::Failed(error),
            other => Ended::Wrong(other.to_string()),
        }
    }
}

/// What a seed came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Of every effect, in order.
    pub(crate) digest: u64,
    pub(crate) effects: u64,
    pub(crate) crashes: u64,
    pub(crate) power_losses: u64,
    pub(crate) failures: u64,
    pub(crate) drains: u64,
    pub(crate) replayed: u64,
    /// Messages that were held back until the output topics had settled.
    pub(crate) held: u64,
    pub(crate) messages: u64,
    pub(crate) advances: u64,
    pub(crate) changes: u64,
    pub(crate) dead_letters: u64,
    /// Times that messages were gone.
    pub(crate) gaps: u64,
    /// Starts with other settings than the state's.
    pub(crate) settings: u64,
    /// Changes that a rule marked.
    pub(crate) suppressed: u64,
}

/// What really happened: the order in which the input was consumed, as it counts.
#[derive(Default)]
struct Truth {
    order: Vec<Step>,
    /// How much of it this life has been through; less than all while it replays.
    at: usize,
    snapshots: HashMap<u64, (Vec<Step>, bool)>,
    /// Messages were gone, and the state has to know it.
    gap: bool,
}

impl Truth {
    /// A process starts with what it recovered.
    fn recovered(&mut self, recovered: &Recovered, sim: &Sim) -> Result<(), Ended> {
        let (base, gap) = match recovered.snapshot {
            None => (Vec::new(), false),
            Some(n) => self.snapshots.get(&n).cloned().ok_or_else(|| Ended::Wrong(format!("snapshot {n} was never begun")))?,
        };
        self.gap = gap;
        let at = base.len();
        let mut order = base;
        for entry in &recovered.entries {
            match entry {
                Entry::Advance { tenant, to } => order.push(Step::Advance(tenant.clone(), *to)),
                Entry::Run { topic, partition, upto } => {
                    let n = log_of(topic, *partition).ok_or_else(|| Ended::Wrong(format!("the journal lists {topic}")))?;
                    let last = order.iter().rev().find_map(|step| match step {
                        Step::Message(of, offset) if *of == n => Some(*offset),
                        _ => None,
                    });
                    let world = sim.world();
                    let log = world.broker.input.get(n as usize).map_or(&[][..], |log| &log.messages);
                    let run = log.iter().map(|m| m.offset).filter(|offset| last.is_none_or(|last| *offset > last) && offset < upto);
                    // What was gone before it was read stands in no run.
                    let run = run.map(|offset| Step::Message(n, offset));
                    order.extend(run.filter(|step| !is_passed_over(step, &world.broker.input) || self.order.contains(step)));
                }
            }
        }
        if !self.order.starts_with(&order) {
            let same = self.order.iter().zip(&order).take_while(|(a, b)| a == b).count();
            let (was, is) = (self.order.get(same), order.get(same));
            return Err(Ended::Wrong(format!("step {same} was {was:?} when it was consumed, recovery says {is:?}")));
        }
        self.order = order;
        self.at = at;
        Ok(())
    }

    fn message(&mut self, log: i32, offset: i64, input: &Input) -> Result<(), Ended> {
        let step = Step::Message(log, offset);
        while self.order.get(self.at).is_some_and(|next| *next != step && is_passed_over(next, input)) {
            self.at += 1;
        }
        match self.order.get(self.at) {
            None => self.order.push(step),
            Some(wanted) if *wanted == step => {}
            Some(wanted) => return Err(Ended::Wrong(format!("step {} is replayed as {step:?}, it was {wanted:?}", self.at))),
        }
        self.at += 1;
        Ok(())
    }

    fn replay_done(&mut self, input: &Input) -> Result<(), Ended> {
        match self.order[self.at..].iter().find(|step| !is_passed_over(step, input)) {
            Some(missing) => Err(Ended::Wrong(format!("the replay ends before {missing:?}"))),
            None => {
                self.at = self.order.len();
                Ok(())
            }
        }
    }
}

/// Whether a replay has no message for this step: a clock was moved, or the message is gone.
fn is_passed_over(step: &Step, input: &Input) -> bool {
    match step {
        Step::Advance(..) => true,
        Step::Message(log, offset) => input.get(*log as usize).is_some_and(|log| *offset < log.low),
    }
}

/// How often each part of the process gets its turn.
struct Pace {
    source: usize,
    task: usize,
    publisher: usize,
    writer: usize,
    time: usize,
}

/// The process' own clock at this time.
fn instant(begun: (Ticks, Instant), at: Ticks) -> Instant {
    begun.1 + Duration::from_nanos((at.0 - begun.0.0).max(0) as u64 * 100)
}

/// One process.
struct Life<'a> {
    sim: &'a Sim,
    truth: &'a mut Truth,
    outcome: &'a mut Outcome,
    begun: (Ticks, Instant),
    source: Source,
    course: Course,
    publisher: Publisher<SimSink>,
    waiting: Receiver<Work>,
    writer: SnapshotWriter,
    pieces_out: Receiver<Piece>,
    pieces: VecDeque<Piece>,
    pace: Pace,
    /// How far the host's wall clock is wrong, in ticks.
    wrong_by: i64,
}

impl<'a> Life<'a> {
    fn start(sim: &'a Sim, truth: &'a mut Truth, outcome: &'a mut Outcome, begun: (Ticks, Instant)) -> Result<Life<'a>, Ended> {
        let shared = Shared::default();
        let store = Store::new(Arc::new(SimDisk(sim.clone())));
        let faults = sim.faults();
        let configured = if faults.settings { other_settings(sim.chance(|c| c.below(3))) } else { settings() };
        let recovered = store.recover(&configured).map_err(ServiceError::from)?;
        outcome.settings += u64::from(*recovered.detector.settings() != configured);
        truth.recovered(&recovered, sim)?;
        sim.say(format_args!("start: snapshot {:?}, {} entries", recovered.snapshot, recovered.entries.len()));
        let format = Format {
            findings_topic: FINDINGS.to_owned(),
            dead_letter_topic: DEAD_LETTERS.to_owned(),
            settings: configured,
            privileged: Privileged::none(),
            suppression: Suppression {
                rules: if faults.rules { rules(sim.chance(|c| c.below(RULES))) } else { Rules::default() },
                fate: if faults.two_topics() { Fate::Topic(SUPPRESSED.to_owned()) } else { Fate::Mark },
            },
        };
        let mut outputs = SimOutputs(sim.clone());
        let Restored { task, positions, replay, ends, next_segment, is_new, after_a_crash, .. } = restore(recovered, format, &mut outputs)?;
        let journal = store.begin_segment(next_segment).map_err(ServiceError::Journal)?;
        let (work, work_out) = unbounded();
        let (pieces, pieces_out) = unbounded();
        let waiting = work_out.clone();
        let publisher = Publisher::new(store.clone(), journal, SimSink(sim.clone()), &shared, ends.clone(), work_out);
        let writer = SnapshotWriter::new(store, Arc::clone(&shared.metrics));
        let source = Source::new(sim, task.partitions().clone(), positions, replay);
        let timing = sim.chance(|c| Timing {
            snapshot_interval: Duration::from_secs(c.next() % 86_400 * [1, 5][c.below(2)]),
            idle_delay: None,
            copy: 1 << (6 + c.below(10)),
        });
        let idle_delay = sim.faults().idle.then(|| sim.chance(|c| c.span(Span::hours(6))));
        let mut course = Course::new(task, shared, Timing { idle_delay, ..timing }, work, pieces, next_segment, is_new);
        if after_a_crash {
            course = course.settling(Box::new(outputs), ends, instant(begun, sim.now().plus(SETTLE)));
        }
        let pace = sim.chance(|c| {
            // A part that is rarely at work shows what the others do without it.
            let mut n = || if c.one_in(4) { 1 } else { 3 + c.below(30) };
            Pace { source: n(), task: n(), publisher: n(), writer: n(), time: 1 }
        });
        Ok(Life {
            sim,
            truth,
            outcome,
            begun,
            source,
            course,
            publisher,
            waiting,
            writer,
            pieces_out,
            pieces: VecDeque::new(),
            pace,
            wrong_by: 0,
        })
    }

    /// The process' own clock.
    fn clock(&self) -> Instant {
        instant(self.begun, self.sim.now())
    }

    /// Lets the output topics settle, if it is time; whether nothing waits for that any more.
    fn settle(&mut self) -> Result<bool, Ended> {
        let (now, held) = (self.clock(), self.course.task().held().1);
        self.course.settle(now)?;
        let settled = self.course.settles().is_none();
        if settled {
            self.outcome.held += held as u64;
        }
        Ok(settled)
    }

    /// Works until all input is answered, or until `turns` are over, when it ends in good order.
    fn work(&mut self, turns: Option<u64>) -> Result<(), Ended> {
        let mut idle = 0;
        for turn in 0..TURNS {
            if turns.is_some_and(|turns| turn as u64 >= turns) {
                return self.drain();
            }
            if self.is_done() {
                // What the publisher has taken may wait for the disk.
                let done = self.course.acknowledged()?;
                return self.until(&done);
            }
            let Pace { source, task, publisher, writer, time } = self.pace;
            let mut pick = self.sim.chance(|c| c.below(source + task + publisher + writer + time));
            let mut is = |weight: usize| {
                let it = pick < weight;
                pick = pick.wrapping_sub(if it { 0 } else { weight });
                it
            };
            let busy = if is(source) {
                self.source.step()?
            } else if is(task) {
                self.task()?
            } else if is(publisher) {
                self.publisher.turn()? == Turn::Busy
            } else if is(writer) {
                self.write()
            } else {
                self.sim.pass(self.sim.chance(|c| c.span(Span::minutes(40))));
                false
            };
            idle = if busy { 0 } else { idle + 1 };
            if idle > 30 {
                self.wait();
                idle = 0;
            }
        }
        Err(Ended::Wrong(format!("nothing comes to an end in {TURNS} turns")))
    }

    /// Nobody has anything to do: until something happens.
    fn wait(&self) {
        let now = self.sim.now();
        let broker = self.sim.world().broker.next().filter(|at| *at > now);
        let settles = self.course.settles().map(|at| self.begun.0.plus((at - self.begun.1).into())).filter(|at| *at > now);
        let next = broker.into_iter().chain(self.source.next()).chain(settles).min().map_or(Span::minutes(30), |at| Span(at.0 - now.0));
        let some = self.sim.chance(|c| c.span(Span::minutes(1)));
        self.sim.pass(Span(next.0 + some.0));
    }

    fn is_done(&self) -> bool {
        self.source.is_done()
            && !self.course.task().is_replaying()
            && self.course.settles().is_none()
            && self.waiting.is_empty()
            && self.pieces.is_empty()
            && !self.course.is_copying()
            && self.sim.world().broker.is_quiet()
    }

    /// The task's thread, once around.
    fn task(&mut self) -> Result<bool, Ended> {
        if self.waiting.len() >= STEPS {
            return Ok(false);
        }
        if self.sim.faults().rules && self.sim.chance(|c| c.one_in(60)) {
            self.course.set_rules(rules(self.sim.chance(|c| c.below(RULES))));
        }
        if self.sim.faults().gaps && self.sim.chance(|c| c.one_in(400)) {
            self.sim.world().retention();
        }
        let copying = self.course.is_copying();
        let event = self.source.events.pop_front();
        let busy = event.is_some() || copying;
        match event {
            Some(event) => self.event(event)?,
            None => self.idle()?,
        }
        self.settle()?;
        let now = self.clock();
        self.course.continue_snapshot(now)?;
        self.take_pieces();
        Ok(busy)
    }

    fn event(&mut self, event: SourceEvent<Batch>) -> Result<(), Ended> {
        if !matches!(event, SourceEvent::Messages(_)) {
            self.sim.say(format_args!("{event:?}"));
        }
        match event {
            SourceEvent::Messages(messages) => {
                for message in &messages {
                    let of = self.course.task().partitions().get(message.partition);
                    let n = of.and_then(|of| log_of(&of.topic, of.partition));
                    let n = n.ok_or_else(|| Ended::Wrong("a message of no partition".to_owned()))?;
                    self.truth.message(n, message.offset, &self.sim.world().broker.input)?;
                }
                if self.course.task().is_replaying() {
                    self.outcome.replayed += messages.len() as u64;
                }
                let now = self.clock();
                Ok(self.course.messages(&messages, now)?)
            }
            event => {
                match &event {
                    SourceEvent::ReplayDone => self.truth.replay_done(&self.sim.world().broker.input)?,
                    SourceEvent::Gap { .. } => (self.outcome.gaps, self.truth.gap) = (self.outcome.gaps + 1, true),
                    _ => {}
                }
                let now = self.clock();
                match self.course.event(event, now)? {
                    None => {}
                    Some(Wait::Settled(event)) => {
                        while !self.settle()? {
                            self.others_work()?;
                        }
                        return self.event(event);
                    }
                    Some(Wait::Snapshot(mut counts)) => {
                        self.take_pieces();
                        loop {
                            let now = self.clock();
                            counts = if !self.until(&counts)? {
                                self.sim.pass(Span::minutes(5));
                                self.course.whole_snapshot(now)?
                            } else if let Some(another) = self.course.another_snapshot(now)? {
                                another
                            } else {
                                break;
                            };
                            self.take_pieces();
                        }
                    }
                }
                Ok(())
            }
        }
    }

    fn idle(&mut self) -> Result<(), Ended> {
        let clocks = |course: &Course| -> Vec<(String, Ticks)> {
            course.task().detector().clocks().map(|(tenant, clock)| (tenant.to_owned(), clock)).collect()
        };
        let before = clocks(&self.course);
        if self.sim.faults().clock_steps && self.sim.chance(|c| c.one_in(50)) {
            self.wrong_by = self.sim.chance(|c| c.span(Span::days(8))).0 - Span::days(4).0;
        }
        let now = self.sim.now();
        let moved = self.course.idle(now.plus(Span(self.wrong_by)), self.clock());
        for ((tenant, before), (_, after)) in before.into_iter().zip(clocks(&self.course)) {
            if before != after {
                self.outcome.advances += 1;
                // Envelopes may be ahead of the broker by as much as the skew that is allowed.
                if after > now.plus(settings().max_clock_skew) {
                    return Err(Ended::Wrong(format!("the clock of {tenant} was moved from {before} to {after}, it is {now}")));
                }
                self.truth.order.push(Step::Advance(tenant, after));
                self.truth.at += 1;
            }
        }
        Ok(moved?)
    }

    /// What the task has given the snapshot writer; where a snapshot begins, the order so far is what it holds.
    fn take_pieces(&mut self) {
        while let Ok(piece) = self.pieces_out.try_recv() {
            if let Piece::Begin { n } = &piece {
                self.truth.snapshots.insert(*n, (self.truth.order.clone(), self.truth.gap));
            }
            self.pieces.push_back(piece);
        }
    }

    /// The snapshot writer's thread, once around.
    fn write(&mut self) -> bool {
        if let Some(Piece::End { fence, .. }) = self.pieces.front_mut() {
            match fence.try_recv() {
                Err(TryRecvError::Empty) => return false,
                Err(TryRecvError::Disconnected) => {}
                Ok(positions) => {
                    // Seen, and put back for the writer.
                    let (put, back) = bounded(1);
                    *fence = back;
                    let _ = put.send(positions);
                }
            }
        }
        let Some(piece) = self.pieces.pop_front() else { return false };
        self.writer.write(piece);
        true
    }

    /// The other threads go on until this is said.
    fn until<T>(&mut self, said: &Receiver<T>) -> Result<T, Ended> {
        for _ in 0..TURNS {
            if let Ok(said) = said.try_recv() {
                return Ok(said);
            }
            self.others_work()?;
        }
        Err(Ended::Wrong("what is waited for is never said".to_owned()))
    }

    /// The publisher's and the writer's threads, while the task's waits.
    fn others_work(&mut self) -> Result<(), Ended> {
        let busy = if self.sim.chance(|c| c.percent(50)) { self.write() } else { self.publisher.turn()? == Turn::Busy };
        if !busy && self.sim.chance(|c| c.percent(30)) {
            self.sim.pass(self.sim.chance(|c| c.span(Span::minutes(20))));
        }
        Ok(())
    }

    /// The end in good order, as `core` has it.
    fn drain(&mut self) -> Result<(), Ended> {
        self.sim.say(format_args!("drain"));
        self.outcome.drains += 1;
        if self.sim.chance(|c| c.percent(50)) && !self.course.task().is_replaying() {
            // The topics settle before it has to end.
            while !self.settle()? {
                self.others_work()?;
            }
        }
        if let Some(unfinished) = self.course.unfinished() {
            self.until(&unfinished)?;
        }
        let now = self.clock();
        let last = self.course.last_snapshot(now)?;
        self.take_pieces();
        if let Some(last) = last {
            self.until(&last)?;
        }
        let done = self.course.acknowledged()?;
        self.until(&done)
    }
}

/// Runs one seed; what is wrong with it otherwise.
pub(crate) fn run(seed: u64, tell: bool) -> Result<Outcome, String> {
    let mut chance = Chance::new(seed);
    let faults = Faults::of(&mut chance);
    let input = input(seed, &mut chance, faults);
    let now = input.iter().flat_map(|log| &log.messages).map(|m| m.appended).min().unwrap_or(Ticks(0));
    let sim = Sim::new(chance, faults, Broker::new(input), now, tell);
    sim.say(format_args!("{faults:?}"));
    let mut outcome =
        Outcome { messages: sim.world().broker.input.iter().map(|log| log.messages.len() as u64).sum(), ..Outcome::default() };
    let (mut truth, begun) = (Truth::default(), (now, firstseen::host_clock::monotonic()));
    let (mut lives, mut starts) = (faults.lives, 0);
    let open = loop {
        starts += 1;
        if starts > 200 {
            return Err("it never gets through".to_owned());
        }
        let mut turns = None;
        if lives > 0 {
            lives -= 1;
            let mut world = sim.world();
            if faults.drains && world.chance.percent(40) {
                turns = Some(world.chance.log(11));
            } else {
                world.crash_at = Some(match world.chance.below(4) {
                    0 => world.effects + world.chance.log(13),
                    1 => world.effects + 1 + world.chance.below(70) as u64,
                    _ => world.effects + 1 + world.chance.below(700) as u64,
                });
            }
        } else {
            sim.world().crash_at = None;
        }
        let life = catch_unwind(AssertUnwindSafe(|| {
            let mut life = Life::start(&sim, &mut truth, &mut outcome, begun)?;
            life.work(turns)?;
            let detector = life.course.task().detector();
            if life.truth.gap && !detector.in_gap() && detector.last_gap().is_none() {
                return Err(Ended::Wrong("messages were gone, and the state does not know it".to_owned()));
            }
            let open = life.course.task().detector().open_findings();
            Ok::<Open, Ended>(open.map(|change| (key(&change).into_bytes(), change.revision)).collect())
        }));
        match life {
            Ok(Ok(open)) if turns.is_none() => break open,
            Ok(Ok(_)) => {}
            Ok(Err(Ended::Wrong(what))) => return Err(what),
            Ok(Err(Ended::Failed(error))) => {
                sim.say(format_args!("ends: {error}"));
                outcome.failures += 1;
            }
            Err(payload) if payload.is::<Crash>() => {
                outcome.crashes += 1;
                let mut world = sim.world();
                if faults.power && world.chance.percent(60) {
                    outcome.power_losses += 1;
                    let mut chance = world.chance.clone();
                    world.files.power_loss(&mut chance, faults.torn);
                    world.chance = chance;
                }
                if faults.rot && world.chance.percent(50) {
                    let mut chance = world.chance.clone();
                    world.files.rot(&mut chance);
                    world.chance = chance;
                }
                drop(world);
                sim.say(format_args!("crash"));
            }
            // What it said stands on standard error.
            Err(_) => return Err("it panicked".to_owned()),
        }
        sim.world().producer_died();
        if faults.gaps && sim.chance(|c| c.percent(50)) {
            sim.world().retention();
        }
        let rest = sim.chance(|c| if c.percent(50) { c.span(Span::seconds(20)) } else { c.span(Span::hours(4)) });
        sim.pass(rest);
    };
    judge(&sim, &truth.order, &open, &mut outcome)?;
    outcome.digest = sim.digest();
    outcome.effects = sim.world().effects;
    Ok(outcome)
}
