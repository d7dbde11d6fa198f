//! `firstseen backtest` against decoding alone and against the hunting query in DuckDB (row 2 of docs/benchmarks.md).
//!
//! A million records of a synthetic fleet, one a line as the Azure Storage export has them, are written once and kept. Decoding
//! alone is the same reader and the same number of decoding threads with nothing behind them. Both are child processes; they
//! alternate, and the best round of each counts. DuckDB reads the columns that the query needs from the same file, with all
//! cores, and runs the query once, at the end of the data; `backtest` answers at every instant.
//!
//! With `--report` it judges a what-if grid of 72 settings in the same pass; the ratio is to one plain backtest (row 10).
//!
//! And `firstseen backfill` of the same records as a Storage export, an hour and table a file, against decoding alone what the same reader
//! gives (row 9).

use firstseen::defender::{Batch, Decoder, Limits};
use firstseen::files::{FileSource, Line};
use firstseen::fleet::{Fleet, FleetOptions};
use firstseen::stage;
use firstseen::time::Span;
use serde_json::value::RawValue;
use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const RECORDS: u64 = 1_000_000;
const ROUNDS: usize = 4;
const BLOCK: usize = 1 << 20;
const LIMITS: Limits = Limits { independent_clock: None, max_clock_skew: Span::hours(1) };

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|a| a != "--bench");
    if arguments.next().as_deref() == Some("decode-alone") {
        let (threads, path) = (arguments.next().expect("threads"), arguments.next().expect("a file"));
        return decode_alone(threads.parse().expect("a number"), path.into());
    }
    let (path, now, records) = input();
    let bytes = fs::metadata(&path).expect("it was written").len();
    println!("{:.2} GB in {}", bytes as f64 / 1e9, path.display());
    warm(&path);
    let firstseen = env!("CARGO_BIN_EXE_firstseen");
    let me = std::env::current_exe().expect("a program has a path");
    let report = path.with_extension("report.json");
    for threads in [1, 2] {
        let threads = threads.to_string();
        let (mut decode, mut backtest, mut grid) = ([f64::MAX; 2], [f64::MAX; 2], [f64::MAX; 2]);
        let mut said = String::new();
        for _ in 0..ROUNDS {
            let (spent, _) = run(Command::new(&me).args(["decode-alone", &threads]).arg(&path));
            decode = [0, 1].map(|n| spent[n].min(decode[n]));
            let (spent, text) = run(Command::new(firstseen).args(["backtest", "--threads", &threads]).arg(&path));
            backtest = [0, 1].map(|n| spent[n].min(backtest[n]));
            said = text;
            let (spent, _) = run(Command::new(firstseen).args(["backtest", "--threads", &threads, "--report"]).arg(&report).arg(&path));
            grid = [0, 1].map(|n| spent[n].min(grid[n]));
        }
        println!("\n{threads} decoding thread(s), best of {ROUNDS} rounds:");
        for (name, [wall, cpu]) in [("decode alone", decode), ("backtest", backtest), ("with a report", grid)] {
            let rate = records as f64 / wall;
            println!("{name:<16}{wall:>8.2} s wall {cpu:>8.2} s CPU {rate:>12.0} records/s {:>8.0} MB/s", bytes as f64 / 1e6 / wall);
        }
        println!("ratio, wall time: {:.2}; CPU time: {:.2}", decode[0] / backtest[0], decode[1] / backtest[1]);
        println!("what-if grid to plain, wall time: {:.2}; CPU time: {:.2}", grid[0] / backtest[0], grid[1] / backtest[1]);
        said.lines().filter(|l| l.starts_with("findings") || l.contains(" records in ")).for_each(|l| println!("  {l}"));
    }
    history(&me, firstseen);
    let python = python();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/support/query_once.py");
    let query = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle/hunting-query.kql");
    let mut best = [f64::MAX; 2];
    for _ in 0..2 {
        let ([wall, cpu], said) = run(Command::new(&python).arg(&script).arg(&query).arg(&path).arg(&now));
        best = [wall.min(best[0]), cpu.min(best[1])];
        print!("\nDuckDB, the query once: {wall:.2} s wall, {cpu:.2} s CPU; {said}");
    }
    println!();
}

/// `backfill` against decoding alone, from hourly files.
fn history(me: &Path, firstseen: &str) {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bench-export-{RECORDS}"));
    let done = root.with_extension("records");
    if !done.exists() {
        let _ = fs::remove_dir_all(&root);
        firstseen::fleet::export::storage(&root, Fleet::new(&options())).expect("there is room in target");
        let records: u64 = Fleet::new(&options()).map(|message| u64::from(message.records)).sum();
        fs::write(&done, records.to_string()).expect("target is writable");
    }
    let records: f64 = fs::read_to_string(&done).expect("written above").parse().expect("a number");
    warm_all(&root);
    let state = root.with_extension("state");
    let config = root.with_extension("toml");
    fs::write(&config, format!("[state]\ndir = {state:?}\n")).expect("target is writable");
    for threads in ["1", "2"] {
        let (mut decode, mut backfill, mut said) = ([f64::MAX; 2], [f64::MAX; 2], String::new());
        for _ in 0..ROUNDS {
            let (spent, _) = run(Command::new(me).args(["decode-alone", threads]).arg(&root));
            decode = [0, 1].map(|n| spent[n].min(decode[n]));
            let _ = fs::remove_dir_all(&state);
            let (spent, text) = run(Command::new(firstseen).args(["backfill", "--threads", threads, "--config"]).arg(&config).arg(&root));
            backfill = [0, 1].map(|n| spent[n].min(backfill[n]));
            said = text;
        }
        println!("\nhistory, {threads} decoding thread(s), best of {ROUNDS} rounds:");
        for (name, [wall, cpu]) in [("decode alone", decode), ("backfill", backfill)] {
            println!("{name:<16}{wall:>8.2} s wall {cpu:>8.2} s CPU {:>12.0} records/s", records / wall);
        }
        println!("ratio, wall time: {:.2}; CPU time: {:.2}", decode[0] / backfill[0], decode[1] / backfill[1]);
        said.lines().filter(|l| l.contains(" records from ")).for_each(|l| println!("  {l}"));
    }
}

fn warm_all(directory: &Path) {
    for entry in fs::read_dir(directory).expect("it was written").map(|entry| entry.expect("it can be read").path()) {
        if entry.is_dir() { warm_all(&entry) } else { warm(&entry) }
    }
}

fn options() -> FleetOptions {
    FleetOptions { seed: 7, devices: 3_000, ..FleetOptions::default() }.with_total(RECORDS)
}

/// The records, one a line, the last arrival among them and how many they are; written when they are not there.
fn input() -> (PathBuf, String, u64) {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bench-fleet-{RECORDS}.ndjson"));
    let done = path.with_extension("now");
    if let Ok(text) = fs::read_to_string(&done)
        && let Some((now, records)) = text.split_once(' ')
    {
        return (path, now.to_owned(), records.parse().expect("written below"));
    }
    let options = options();
    let mut out = BufWriter::with_capacity(1 << 20, File::create(&path).expect("target is writable"));
    #[derive(serde::Deserialize)]
    struct Message<'a> {
        #[serde(borrow)]
        records: Vec<&'a RawValue>,
    }
    let (mut last, mut records) = (options.start, 0);
    for message in Fleet::new(&options) {
        last = message.arrival;
        records += u64::from(message.records);
        let parsed: Message<'_> = serde_json::from_slice(&message.bytes).expect("the fleet writes JSON");
        for record in parsed.records {
            out.write_all(record.get().as_bytes()).and_then(|()| out.write_all(b"\r\n")).expect("there is room in target");
        }
    }
    out.flush().expect("there is room in target");
    let now = last.to_string();
    fs::write(done, format!("{now} {records}")).expect("target is writable");
    (path, now, records)
}

/// Reads the file once, so that no contender pays for the disk.
fn warm(path: &Path) {
    let (mut file, mut buffer) = (File::open(path).expect("it was written"), vec![0; 1 << 20]);
    while file.read(&mut buffer).expect("it can be read") > 0 {}
}

/// Processor seconds of children that have ended.
fn children() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").expect("this is Linux");
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    // Fields 16 and 17 of the whole line, in hundredths of a second.
    after_name.split_whitespace().skip(13).take(2).filter_map(|n| n.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// Runs it to its end; wall and processor seconds, and what it said.
#[allow(clippy::disallowed_methods, reason = "a bench reads the clock")]
fn run(command: &mut Command) -> ([f64; 2], String) {
    let (before, start) = (children(), Instant::now());
    let output = command.stdin(Stdio::null()).output().expect("it can be run");
    let wall: Duration = start.elapsed();
    let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    ([wall.as_secs_f64(), children() - before], text)
}

/// What `backtest` does before its detector.
fn decode_alone(threads: usize, path: PathBuf) {
    let mut source = FileSource::open(&[path]).expect("the file is there");
    let make = || {
        let mut decoder = Decoder::new();
        move |(bytes, ends): (Vec<u8>, Vec<usize>)| {
            let (mut batch, mut start) = (Batch::with_room_for(bytes.len()), 0);
            for (n, end) in ends.iter().enumerate() {
                batch.push_bare(&mut decoder, n as u64, &bytes[start..*end], &LIMITS);
                start = *end;
            }
            batch
        }
    };
    let (mut inlet, mut outlet) = stage::spawn("decode", threads, 2, make).expect("threads can be started");
    std::thread::spawn(move || {
        let (mut line, mut bytes, mut ends) = (Line::default(), Vec::new(), Vec::new());
        loop {
            let more = source.read(&mut line).map(|read| read.expect("the file is good")).is_some();
            if more {
                bytes.extend_from_slice(&line.bytes);
                ends.push(bytes.len());
            }
            if !more || bytes.len() >= BLOCK {
                let taken = inlet.send((std::mem::take(&mut bytes), std::mem::take(&mut ends)));
                if !taken || !more {
                    return;
                }
            }
            if bytes.capacity() == 0 {
                bytes.reserve(BLOCK + (64 << 10));
            }
        }
    });
    let mut length = 0;
    while let Some(batch) = outlet.recv() {
        length += batch.len();
    }
    assert!(length > 0);
}

/// A Python with DuckDB and the KQL translator, as the oracle test pins them.
fn python() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let venv = manifest.join("target/tools/bench-duckdb");
    let python = venv.join("bin/python");
    let done = venv.join("complete");
    if !done.exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&venv));
        run(Command::new(&python).args(["-m", "pip", "install", "-q", "-r"]).arg(manifest.join("tests/oracle/requirements.txt")));
        fs::write(done, "").expect("target is writable");
    }
    python
}
