//! Memory, snapshots and the cost of an event at 100 thousand, 1 and 10 million tracked connections (rows 5 and 6 of
//! docs/benchmarks.md).
//!
//! The largest state is filled first, for the resident memory a connection takes. Then rounds of live traffic alternate between
//! the sizes, long enough that caches settle, and the best round of each counts, in processor time, so that neighbours on the
//! machine count less. Last a snapshot is written to disk while traffic goes on, and read back.

#[path = "support/crowd.rs"]
mod crowd;

use cpu_time::{ProcessTime, ThreadTime};
use crowd::Crowd;
use firstseen::defender::{Batch, Body, Decoder, Limits, Record};
use firstseen::detector::snapshot::Section;
use firstseen::detector::{Detector, Effect, Settings};
use firstseen::feed::{DeadLetter, Feed, Output};
use firstseen::finding::Change;
use firstseen::fleet::render;
use firstseen::state::Store;
use firstseen::state::disk::Directory;
use firstseen::time::Span;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const LIMITS: Limits = Limits { independent_clock: None, max_clock_skew: Span::hours(1) };
const ROUNDS: usize = 7;
const EVENTS_A_ROUND: usize = 60_000;
/// Records that are decoded together, as `backtest` and `run` do.
const BATCH: usize = 400;

/// What comes of the records is not what is measured.
struct Nowhere;

impl Output for Nowhere {
    fn change(&mut self, _: Box<Change>) {}
    fn dead_letter(&mut self, letter: DeadLetter<'_>) {
        assert!(letter.error.is_empty(), "a record was refused: {}", letter.error);
    }
}

struct Size {
    feed: Feed,
    crowd: Crowd,
    decode: Duration,
    detect: Duration,
}

#[allow(clippy::disallowed_methods, reason = "a bench reads the clock")]
fn main() {
    let arguments: Vec<u64> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let sizes = if arguments.is_empty() { vec![10_000_000, 1_000_000, 100_000] } else { arguments };
    let mut states: Vec<Size> = Vec::new();
    for (n, connections) in sizes.iter().enumerate() {
        let state = fill(*connections, n == 0);
        states.push(state);
    }
    for _ in 0..ROUNDS {
        for state in &mut states {
            round(state);
        }
    }
    println!("\ncost per event of live traffic, best of {ROUNDS} rounds of {EVENTS_A_ROUND}");
    println!("{:>12} {:>14} {:>14} {:>18}", "connections", "decode ns", "detector ns", "together, ns");
    let each = |d: Duration| d.as_nanos() as f64 / EVENTS_A_ROUND as f64;
    for state in &states {
        let (decode, detect) = (each(state.decode), each(state.detect));
        println!("{:>12} {decode:>14.0} {detect:>14.0} {:>18.0}", state.feed.detector.tracked().connections, decode + detect);
    }
    if let (Some(first), Some(last)) = (states.first(), states.last()) {
        let (big, small) = (each(first.detect), each(last.detect));
        println!(
            "largest against smallest: detector {:.2}, decode and detector {:.2}",
            big / small,
            (big + each(first.decode)) / (small + each(last.decode))
        );
    }
    let Size { feed, crowd, .. } = states.swap_remove(0);
    drop(states);
    snapshot(feed.detector, crowd);
}

/// Resident bytes of this process.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("this is Linux");
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).expect("the status tells it");
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<u64>().ok()).expect("in kB") * 1024
}

#[allow(clippy::disallowed_methods, reason = "a bench reads the clock")]
fn fill(connections: u64, report: bool) -> Size {
    let mut crowd = Crowd::new(connections);
    let mut detector = Detector::new(Settings::default());
    let mut effects: Vec<Effect> = Vec::with_capacity(1024);
    let before = resident();
    let begun = Instant::now();
    let (mut records, mut changes) = (0u64, 0u64);
    crowd.two_weeks(|record| {
        detector.record(record, &mut effects);
        records += 1;
        changes += effects.len() as u64;
        effects.clear();
    });
    let after = resident();
    if report {
        let tracked = detector.tracked();
        println!("{tracked:?}");
        println!("{records} records in {:.1} s, generator included; {changes} changes", begun.elapsed().as_secs_f64());
        let bytes = after - before;
        println!("resident: {:.0} MB, {:.1} bytes a connection", bytes as f64 / 1e6, bytes as f64 / tracked.connections as f64);
    }
    Size { feed: Feed::new(detector), crowd, decode: Duration::MAX, detect: Duration::MAX }
}

/// `BATCH` records of live traffic as messages of 20.
fn messages(crowd: &mut Crowd) -> Vec<Vec<u8>> {
    (0..BATCH / 20)
        .map(|_| {
            let records: Vec<Vec<u8>> = (0..20)
                .map(|_| {
                    let (mut out, record) = (Vec::with_capacity(3200), crowd.live());
                    let Record { arrival, tenant, body: Body::Network(event) } = record else {
                        unreachable!("live traffic is network rows")
                    };
                    render::render_network(&mut out, arrival, tenant, &event, true);
                    out
                })
                .collect();
            render::message(&records)
        })
        .collect()
}

#[allow(clippy::disallowed_methods, reason = "a bench reads the clock")]
fn round(state: &mut Size) {
    let (mut decode, mut detect) = (Duration::ZERO, Duration::ZERO);
    let (mut decoder, mut batch) = (Decoder::new(), Batch::new());
    for _ in 0..EVENTS_A_ROUND / BATCH {
        let messages = messages(&mut state.crowd);
        let begun = ThreadTime::now();
        messages.iter().for_each(|m| batch.push_message(&mut decoder, 0, m, &LIMITS));
        decode += begun.elapsed();
        let begun = ThreadTime::now();
        state.feed.batch(&batch, &mut Nowhere);
        detect += begun.elapsed();
        batch.clear();
    }
    state.decode = state.decode.min(decode);
    state.detect = state.detect.min(detect);
}

/// Writes a snapshot while traffic goes on, and loads it.
#[allow(clippy::disallowed_methods, reason = "a bench reads the clock")]
fn snapshot(mut detector: Detector, mut crowd: Crowd) {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-state");
    let _ = std::fs::remove_dir_all(&path);
    let store = Store::new(Arc::new(Directory::open(&path).expect("target is writable")));
    let (to_writer, pieces) = crossbeam_channel::unbounded::<(Section, Vec<u8>)>();
    let begun = Instant::now();
    let thread = {
        let store = store.clone();
        std::thread::spawn(move || {
            let mut writer = store.begin_snapshot(1).expect("the disk takes it");
            pieces.iter().for_each(|(section, bytes)| writer.section(section, &bytes).expect("the disk takes it"));
            writer.finish(&Default::default(), &Default::default()).expect("the disk takes it")
        })
    };
    let (mut worst, mut worst_cpu, mut steps, mut effects, mut rows) = (Duration::ZERO, Duration::ZERO, 0u64, Vec::new(), Vec::new());
    let start = Instant::now();
    detector.begin_snapshot();
    let beginning = start.elapsed();
    loop {
        let record = crowd.live();
        let (start, cpu) = (Instant::now(), ThreadTime::now());
        detector.record(&record, &mut effects);
        let whole = detector.snapshot_step(512 << 10, &mut rows);
        rows.drain(..).for_each(|piece| to_writer.send(piece).expect("the writer waits for it"));
        worst_cpu = worst_cpu.max(cpu.elapsed());
        worst = worst.max(start.elapsed());
        effects.clear();
        steps += 1;
        if whole {
            break;
        }
    }
    let copied = begun.elapsed();
    drop(to_writer);
    let bytes = thread.join().expect("the writer does not panic");
    println!(
        "\nsnapshot: {:.0} MB, begun in {beginning:?}, copied in {steps} steps and {:.2} s, on disk after {:.2} s; longest time of a record and a step: {:.1} ms ({:.1} ms of processor time)",
        bytes as f64 / 1e6,
        copied.as_secs_f64(),
        begun.elapsed().as_secs_f64(),
        worst.as_secs_f64() * 1e3,
        worst_cpu.as_secs_f64() * 1e3
    );
    let tracked = detector.tracked();
    drop(detector);
    for round in 0..3 {
        let before = resident();
        let (begun, cpu) = (Instant::now(), ProcessTime::now());
        let recovered = store.recover(&Settings::default()).expect("the snapshot is good");
        println!(
            "loaded {} of {} connections in {:.2} s ({:.2} s of processor time)",
            recovered.detector.tracked().connections,
            tracked.connections,
            begun.elapsed().as_secs_f64(),
            cpu.elapsed().as_secs_f64()
        );
        if round == 0 {
            println!("resident after the load: {:.0} MB more than before it", (resident() as f64 - before as f64) / 1e6);
        }
    }
    let _ = std::fs::remove_dir_all(&path);
}
