//! The promise that nothing is lost and nothing doubled, whatever fails: the real pipeline under a simulated disk, broker and clock.
//!
//! A seed decides everything: input, faults, who works when, where the process dies, what a loss of power leaves. Single-threaded: what
//! the service's threads decide (`course`, `publisher`, `snapshots`, the source's merge and plan) is driven here in any order. In the
//! end the output topics must hold what an undisturbed run writes that takes its input in the same order; where retention took messages
//! or settings changed on the way, what a consumer may rely on (`judge`).
//!
//! Leaves to others: threads and librdkafka (`tests/service`, `tests/kafka`), and whether the answer is right (`tests/oracle`).

// A test says what is wrong by panicking.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "oracle"]
mod oracle {
    #[allow(dead_code, reason = "other tests use the rest")]
    pub(crate) mod fleet;
}

mod simulation {
    mod broker;
    mod disk;
    mod input;
    mod judge;
    pub(crate) mod run;
    mod source;
    mod world;
}

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use simulation::run::{Outcome, run};

/// Past the test runner's capture, so that the figures stand in every log.
fn say(line: &str) {
    let mut uncaptured = std::io::stdout();
    writeln!(uncaptured, "{line}").unwrap();
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|n| n.parse().unwrap())
}

/// What is to be typed to see a seed fail again.
fn again(seed: u64) -> String {
    format!("SEED={seed} cargo test --test simulation replay -- --nocapture")
}

#[test]
fn what_is_published_is_the_undisturbed_runs_whatever_fails() {
    let seeds = number("SEEDS").unwrap_or(300);
    let from = number("FROM").unwrap_or(0);
    let begun = firstseen::host_clock::monotonic();
    let next = AtomicU64::new(from);
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let (mut failed, mut all) = (Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        let work = || {
            let (mut failed, mut all) = (Vec::new(), Vec::new());
            loop {
                let seed = next.fetch_add(1, Ordering::AcqRel);
                if seed >= from + seeds || failed.len() > 5 {
                    return (failed, all);
                }
                match run(seed, false) {
                    Ok(outcome) => all.push(outcome),
                    Err(what) => failed.push((seed, what)),
                }
            }
        };
        for worker in (0..workers).map(|_| scope.spawn(work)).collect::<Vec<_>>() {
            let (f, a) = worker.join().unwrap();
            failed.extend(f);
            all.extend(a);
        }
    });
    let took = begun.elapsed().as_secs_f64();
    let sum = |of: fn(&Outcome) -> u64| all.iter().map(of).sum::<u64>();
    say(&format!(
        "simulation: {} seeds in {took:.1} s ({:.1} a second), {} effects, {} crashes ({} with loss of power), {} failures, {} drains, {} of {} messages replayed, {} held back, {} clock advances, {} changes ({} suppressed) and {} dead letters compared, {} gaps, {} changes of settings",
        all.len(),
        all.len() as f64 / took,
        sum(|o| o.effects),
        sum(|o| o.crashes),
        sum(|o| o.power_losses),
        sum(|o| o.failures),
        sum(|o| o.drains),
        sum(|o| o.replayed),
        sum(|o| o.messages),
        sum(|o| o.held),
        sum(|o| o.advances),
        sum(|o| o.changes),
        sum(|o| o.suppressed),
        sum(|o| o.dead_letters),
        sum(|o| o.gaps),
        sum(|o| o.settings),
    ));
    let floor = [
        sum(|o| o.crashes),
        sum(|o| o.power_losses),
        sum(|o| o.failures),
        sum(|o| o.drains),
        sum(|o| o.replayed),
        sum(|o| o.held),
        sum(|o| o.advances),
        sum(|o| o.changes),
        sum(|o| o.suppressed),
        sum(|o| o.dead_letters),
        sum(|o| o.gaps),
        sum(|o| o.settings),
    ];
    failed.sort();
    let list: Vec<String> = failed.iter().map(|(seed, what)| format!("seed {seed}: {what}\n  {}", again(*seed))).collect();
    assert!(failed.is_empty(), "{} seeds fail:\n{}", failed.len(), list.join("\n"));
    // Seeds in which nothing fails prove nothing.
    assert!(seeds < 100 || floor.iter().all(|n| *n * 10 >= seeds), "too little happened");
}

/// `SEED=n` is run once more, and tells every effect; without it, a seed is as good as any.
#[test]
fn replay() {
    let seed = number("SEED");
    let outcome = run(seed.unwrap_or(1), seed.is_some()).unwrap();
    say(&format!("simulation: {outcome:?}"));
}

#[test]
fn a_seed_run_twice_does_the_same_twice() {
    for seed in 1000..1012 {
        assert_eq!(run(seed, false), run(seed, false), "{}", again(seed));
    }
}

/// A promise that could be broken unseen would be none: each of these bugs must fail some seed.
#[cfg(debug_assertions)]
#[test]
fn every_planted_bug_is_caught() {
    use firstseen::planted::{Bug, plant};
    use std::fmt::Write as _;

    /// No bug may hide for longer.
    const SEEDS: u64 = 1000;

    let only = std::env::var("BUG").ok();
    let bugs: Vec<Bug> = Bug::ALL.iter().copied().filter(|bug| only.as_ref().is_none_or(|only| format!("{bug:?}") == *only)).collect();
    let next = AtomicU64::new(0);
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let mut found: Vec<(usize, Option<(u64, String)>)> = std::thread::scope(|scope| {
        let work = || {
            let mut found = Vec::new();
            loop {
                let n = next.fetch_add(1, Ordering::AcqRel) as usize;
                let Some(bug) = bugs.get(n) else { return found };
                plant(Some(*bug));
                found.push((n, (0..SEEDS).find_map(|seed| run(seed, false).err().map(|what| (seed, what)))));
                plant(None);
            }
        };
        (0..workers).map(|_| scope.spawn(work)).collect::<Vec<_>>().into_iter().flat_map(|w| w.join().unwrap()).collect()
    });
    found.sort();
    let mut table = String::new();
    for (n, found) in &found {
        let (seeds, what) = found.as_ref().map_or(("none".to_owned(), ""), |(seed, what)| ((seed + 1).to_string(), what.as_str()));
        let what: String = what.lines().next().unwrap_or_default().chars().take(110).collect();
        writeln!(table, "  {:<28} {seeds:>4}  {what}", format!("{:?}", bugs[*n])).unwrap();
    }
    let unseen = found.iter().filter(|(_, found)| found.is_none()).count();
    say(&format!(
        "simulation, planted bugs: {} of {} caught; after how many seeds, and by what:\n{table}",
        found.len() - unseen,
        found.len()
    ));
    assert_eq!(unseen, 0, "bugs that nobody notices:\n{table}");
}
