//! Real faults at random moments, one after the other, on one deployment: the service killed, the broker killed, paused and restarted,
//! a second instance started by mistake, partitions added under load, both output topics refusing writes. What stands on the findings
//! topic at the end is what `backtest` finds, each change once; each record that can't be read is a dead letter once. Where the promise
//! is another (`docs/operations.md`), a scenario of its own holds the service to it: `chaos/gaps.rs`, `chaos/recreated.rs`; so does `chaos/replicas.rs`, which
//! needs two brokers.
//!
//! `make chaos KILLS=200` does as many as asked; `CHAOS_SEED` chooses other moments.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod support;

#[path = "service/rig.rs"]
#[allow(dead_code, reason = "the service's tests use more of it")]
mod rig;

mod chaos {
    mod faults;
    mod gaps;
    mod input;
    mod recreated;
    mod replicas;
    mod schedule;
}

use std::time::Duration;

use firstseen::host_clock::monotonic;

use support::process::Process;

/// A number of the environment.
fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name}: a number, not {text:?}")))
}

/// How many SIGKILLs are asked for.
fn kills() -> u64 {
    number("CHAOS_KILLS", 8)
}

/// What all moments come from.
fn seed() -> u64 {
    number("CHAOS_SEED", 1)
}

/// Lets the process live for a random time: a kill is to come at any moment, the unlikely ones too. False when it ended by itself.
fn lives(process: &mut Process, longest: Duration, random: &mut impl FnMut() -> u64) -> bool {
    let until = monotonic() + longest.mul_f64((random() % 1000) as f64 / 1000.0);
    while monotonic() < until {
        if process.ended().is_some() {
            return false;
        }
        std::thread::park_timeout(Duration::from_millis(1));
    }
    true
}

/// The same where nothing may end it.
fn live(process: &mut Process, longest: Duration, random: &mut impl FnMut() -> u64) {
    assert!(lives(process, longest, random), "it ended by itself:\n{}", process.log());
}

/// Waits for `/readyz` to say yes.
fn ready(process: &mut Process) {
    process.wait_for("readiness", |p| (p.get("/readyz")?.0 == 200).then_some(()));
}
