//! The simulated world: one clock, one source of chance, one count of effects, and the moment at which the process dies.

use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use firstseen::time::{Span, Ticks};
use xxhash_rust::xxh3::Xxh3;

use super::broker::Broker;
use super::disk::Files;

/// What a crash unwinds with: no panic, and no panic hook hears of it.
pub(crate) struct Crash;

/// SplitMix64.
#[derive(Clone, Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Chance {
        Chance(seed.wrapping_mul(0xA076_1D64_78BD_642F) ^ 0x51_7C_C1_B7_27_22_0A_95)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Less than `n`, which is not zero.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub(crate) fn percent(&mut self, p: usize) -> bool {
        self.below(100) < p
    }

    /// True once in `n` times.
    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// From nothing up to `most`.
    pub(crate) fn span(&mut self, most: Span) -> Span {
        Span((self.next() % (most.0.max(0) as u64 + 1)) as i64)
    }

    /// 1 to 2^`bits`, small numbers as likely as large ones.
    pub(crate) fn log(&mut self, bits: u32) -> u64 {
        let bits = self.next() % u64::from(bits) + 1;
        1 + self.next() % (1 << bits)
    }
}

/// What a run is afflicted with. Each is on in some seeds and off in others: faults that always come together hide each other.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// Ends of processes, by a crash or in good order, before the last is left in peace.
    pub(crate) lives: usize,
    /// Some crashes are losses of power.
    pub(crate) power: bool,
    /// What was not synced comes back damaged, not only cut off.
    pub(crate) torn: bool,
    /// Some processes end in good order.
    pub(crate) drains: bool,
    /// What a dead process had on its way to the brokers may arrive after its successor has looked.
    pub(crate) late_writes: bool,
    /// The producer fails for good.
    pub(crate) produce_errors: bool,
    /// Messages are fetched twice.
    pub(crate) duplicates: bool,
    /// Partitions get their messages late, and give them late.
    pub(crate) lag: bool,
    /// The group takes all partitions back and gives them again.
    pub(crate) rebalance: bool,
    /// No broker answers for a while.
    pub(crate) broker_away: bool,
    /// Acknowledgements take long, and little may be on its way.
    pub(crate) slow_sink: bool,
    /// The disk is full for a while.
    pub(crate) full_disk: bool,
    /// A byte of the newest snapshot goes bad.
    pub(crate) rot: bool,
    /// Some syncs fail.
    pub(crate) failing_disk: bool,
    /// The dead letters' topic takes no larger values than this.
    pub(crate) largest: Option<usize>,
    /// Partitions are added to the input.
    pub(crate) partitions: bool,
    /// The host's wall clock is set forth and back.
    pub(crate) clock_steps: bool,
    /// The input counts as idle in pauses.
    pub(crate) idle: bool,
    /// Retention takes messages, read or not.
    pub(crate) gaps: bool,
    /// Starts have other settings than the ones before.
    pub(crate) settings: bool,
    /// There are suppression rules, and they change.
    pub(crate) rules: bool,
    /// With rules: what they match has a topic of its own.
    pub(crate) elsewhere: bool,
}

impl Faults {
    /// The undisturbed run's changes are promised, each with its revision: not when messages are gone that had been consumed, or
    /// when settings change between a crash and the next start.
    pub(crate) fn promise_is_exact(&self) -> bool {
        !self.gaps && !self.settings
    }

    /// Whether there is a topic of suppressed changes.
    pub(crate) fn two_topics(&self) -> bool {
        self.rules && self.elsewhere
    }

    pub(crate) fn of(chance: &mut Chance) -> Faults {
        let faults = Faults {
            lives: chance.below(8),
            power: chance.percent(70),
            torn: chance.percent(60),
            drains: chance.percent(30),
            late_writes: chance.percent(40),
            produce_errors: chance.percent(30),
            duplicates: chance.percent(40),
            lag: chance.percent(60),
            rebalance: chance.percent(40),
            broker_away: chance.percent(30),
            slow_sink: chance.percent(40),
            full_disk: chance.percent(30),
            rot: chance.percent(30),
            failing_disk: chance.percent(30),
            largest: chance.percent(30).then(|| chance.below(1500)),
            partitions: chance.percent(30),
            clock_steps: chance.percent(30),
            idle: chance.percent(60),
            gaps: chance.percent(20),
            settings: chance.percent(20),
            rules: chance.percent(30),
            elsewhere: chance.percent(60),
        };
        // Settings that are changed back within the delay after a kill are not promised to hold (docs/guarantees.md).
        Faults { late_writes: faults.late_writes && !faults.settings, ..faults }
    }
}

/// Everything that is not the process.
pub(crate) struct World {
    pub(crate) chance: Chance,
    pub(crate) now: Ticks,
    pub(crate) faults: Faults,
    pub(crate) files: Files,
    pub(crate) broker: Broker,
    pub(crate) effects: u64,
    pub(crate) crash_at: Option<u64>,
    hash: Xxh3,
    /// Tells every effect on standard error: for a look at a seed that fails.
    tell: bool,
}

/// The world, shared by the seams.
#[derive(Clone)]
pub(crate) struct Sim(Arc<Mutex<World>>);

impl Sim {
    pub(crate) fn new(chance: Chance, faults: Faults, broker: Broker, now: Ticks, tell: bool) -> Sim {
        Sim(Arc::new(Mutex::new(World {
            chance,
            now,
            faults,
            files: Files::default(),
            broker,
            effects: 0,
            crash_at: None,
            hash: Xxh3::new(),
            tell,
        })))
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something is about to be done that the world outside sees: it is noted, or the process dies before it is done.
    pub(crate) fn effect(&self, what: std::fmt::Arguments<'_>, bytes: &[u8]) {
        let mut world = self.world();
        world.effects += 1;
        let line = format!("{} {} {what} {}\n", world.effects, world.now.0, bytes.len());
        world.hash.update(line.as_bytes());
        world.hash.update(bytes);
        if world.tell {
            eprint!("{line}");
        }
        if world.crash_at == Some(world.effects) {
            world.crash_at = None;
            drop(world);
            resume_unwind(Box::new(Crash));
        }
    }

    /// A word on what the world does, when somebody looks.
    pub(crate) fn say(&self, what: std::fmt::Arguments<'_>) {
        if self.world().tell {
            eprintln!("-- {what}");
        }
    }

    /// Time passes, and the brokers work.
    pub(crate) fn pass(&self, span: Span) {
        {
            let mut world = self.world();
            world.now = world.now.plus(span);
        }
        self.brokers_work();
    }

    pub(crate) fn chance<T>(&self, ask: impl FnOnce(&mut Chance) -> T) -> T {
        ask(&mut self.world().chance)
    }

    pub(crate) fn now(&self) -> Ticks {
        self.world().now
    }

    pub(crate) fn faults(&self) -> Faults {
        self.world().faults
    }

    /// All effects so far as one number.
    pub(crate) fn digest(&self) -> u64 {
        self.world().hash.digest()
    }
}
