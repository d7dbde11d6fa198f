//! `firstseen backfill`: history into the state directory, with a progress bar and a summary.

use super::{config, selection};
use crate::backfill::Backfill;
use crate::cli;
use crate::config::Config;
use crate::defender::decode::Limits;
use crate::defender::reason::Reason;
use crate::feed::DeadLetter;
use crate::files::blocks::{self, Block};
use crate::files::progress::Progress;
use crate::files::{FileError, FileSource, Retry};
use crate::host_clock;
use crate::state::Store;
use crate::state::disk::Directory;
use crate::state::history::Table;
use crate::time::{Span, Ticks};
use anyhow::Context;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// A snapshot is due after this time, or this much input,
const SNAPSHOT_INTERVAL: Duration = Duration::from_secs(20);
const SNAPSHOT_INPUT: u64 = 16 << 20;
/// but not before this many times what the last one took.
const SNAPSHOT_SHARE: u32 = 30;

/// What could not be read.
struct Letters {
    out: Option<BufWriter<File>>,
    first: Option<String>,
    failed: Option<std::io::Error>,
}

impl Letters {
    fn write(&mut self, path: &str, number: u64, letter: &DeadLetter<'_>) {
        if self.first.is_none() {
            let record = letter.index.map_or_else(String::new, |n| format!(", record {n}"));
            self.first = Some(format!("{path}, line {number}{record}: {}", letter.error));
        }
        let Some(out) = &mut self.out else { return };
        let line = serde_json::json!({
            "reason": letter.reason.as_str(), "error": letter.error, "file": path, "line": number, "record": letter.index,
            "raw": String::from_utf8_lossy(letter.raw),
        });
        if let Err(error) = writeln!(out, "{line}") {
            self.failed.get_or_insert(error);
        }
    }
}

pub(super) fn backfill(args: &cli::Backfill) -> anyhow::Result<ExitCode> {
    let config = config(Some(&args.config))?;
    let selection = selection(&args.selection)?;
    let settings = config.service_settings();
    let begun = host_clock::now();
    let limits = Limits { independent_clock: Some(begun), max_clock_skew: settings.max_clock_skew };
    let store = Store::new(Arc::new(Directory::open(&config.state.dir)?));
    let mut state = Backfill::open(store, &settings, selection.from)?;
    state.feed.tenants.clone_from(&selection.tenants);

    let source = FileSource::select(&args.paths, selection, Retry::default())?.horizon(begun.plus(settings.max_clock_skew));
    let source = source.growing().resume(&state.history().files)?;
    let files = source.files();
    let paths: Vec<PathBuf> = (0..files as u32).map(|n| source.path(n).to_owned()).collect();
    state.name_files((0..files as u32).map(|n| source.name(n).to_owned()).collect());
    let progress = Progress::new(&source);
    let (mut decoded, reading) = blocks::start(source, blocks::threads(args.threads), limits)?;

    let dead_letters = args.dead_letters.as_deref();
    let out = dead_letters.map(|path| File::create(path).with_context(|| format!("{} can't be written", path.display()))).transpose()?;
    let mut letters = Letters { out: out.map(BufWriter::new), first: None, failed: None };
    let mut outcome = Outcome::default();
    let start = host_clock::monotonic();
    let (mut stored, mut rest, mut read) = (start, Duration::ZERO, reading.bytes());
    while let Some((mut block, batch)) = decoded.recv() {
        state.take(&block, &batch, |tag, letter| {
            let place = block.lines.get(tag as usize);
            let path = place.and_then(|p| paths.get(p.file as usize)).map_or("?".into(), |p| p.display().to_string());
            letters.write(&path, place.map_or(0, |p| p.number), &letter);
        });
        outcome.note(&mut block, &mut state, &progress);
        if let Some(error) = letters.failed.take() {
            return Err(anyhow::Error::new(error).context("the dead letters can't be written"));
        }
        let now = host_clock::monotonic();
        let since = now.duration_since(stored);
        if since >= rest && (since >= SNAPSHOT_INTERVAL || reading.bytes().saturating_sub(read) >= SNAPSHOT_INPUT) {
            state.store()?;
            (stored, read) = (host_clock::monotonic(), reading.bytes());
            rest = stored.duration_since(now) * SNAPSHOT_SHARE;
        }
        let rate = state.feed.tally.records() as f64 / now.duration_since(start).as_secs_f64().max(0.001);
        progress.show(reading.bytes(), words(&state, rate));
    }
    state.store()?;
    progress.finish();
    if let Some(out) = &mut letters.out {
        out.flush().context("the dead letters can't be written")?;
    }
    summary(&state, &config, files, &outcome, letters.first.as_deref());
    // The process ends: millions of rows need not be given back one by one.
    std::mem::forget(state);
    if let Some(error) = outcome.stopped {
        return Err(error.into());
    }
    if outcome.damaged > 0 {
        anyhow::bail!(
            "{} of {files} files could not be read to their end (see the warnings): put them right and start again, it reads only what is missing",
            outcome.damaged
        );
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Default)]
struct Outcome {
    damaged: u64,
    unfinished: u64,
    stopped: Option<FileError>,
}

impl Outcome {
    fn note(&mut self, block: &mut Block, state: &mut Backfill, progress: &Progress) {
        self.unfinished = block.unfinished;
        for error in std::mem::take(&mut block.errors) {
            match error {
                FileError::LineTooLong { .. } => *state.feed.tally.dead.entry(Reason::TooLarge.as_str()).or_default() += 1,
                error if error.is_final() => {
                    self.stopped = Some(error);
                    continue;
                }
                _ => self.damaged += 1,
            }
            progress.say(&format!("warning: {error}"));
        }
    }
}

fn words(state: &Backfill, rate: f64) -> String {
    let hour = state.detector().clocks().map(|(_, clock)| clock).max().map_or_else(String::new, |clock| clock.to_string());
    format!("{}h  {rate:.0} records/s", hour.get(..13).unwrap_or_default())
}

fn days(span: i64) -> f64 {
    span as f64 / Span::days(1).0 as f64
}

fn shown(tenant: &str) -> &str {
    if tenant.is_empty() { "(no tenant id)" } else { tenant }
}

fn summary(state: &Backfill, config: &Config, files: usize, outcome: &Outcome, first: Option<&str>) {
    let tally = &state.feed.tally;
    eprintln!(
        "{} records from {files} files: {} network events, {} inventory rows, {} of other tables, {} repeats",
        tally.records(),
        tally.network,
        tally.device,
        tally.skipped.values().sum::<u64>(),
        tally.repeats
    );
    if tally.other_tenants > 0 {
        eprintln!("{} records of tenants other than --tenant were passed over", tally.other_tenants);
    }
    if outcome.unfinished > 0 {
        eprintln!("{} files end in half a line, as files do that are still being written: it is read next time", outcome.unfinished);
    }
    baseline(state);
    let dead: u64 = tally.dead.values().sum();
    if dead > 0 {
        let reasons: Vec<String> = tally.dead.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
        eprintln!("dead letters: {dead} ({}); look at them with --dead-letters FILE", reasons.join(", "));
    }
    if let Some(first) = first {
        eprintln!("first: {first}");
    }
    if let Some(at) = state.history().handed_over_at() {
        eprintln!(
            "hand-over: `firstseen run` reads its topics from {} on (input.handover_overlap before {at}); they must still hold that when it starts",
            at.minus(config.input.handover_overlap)
        );
    }
}

/// What the baseline covers, over this run and those before it.
fn baseline(state: &Backfill) {
    let (detector, history) = (state.detector(), state.history());
    let lookback = detector.settings().lookback;
    for (tenant, clock) in detector.clocks() {
        let since = detector.observed_since(tenant).unwrap_or(clock);
        let short = lookback.0 - (clock.0 - since.0);
        let covers = match short {
            ..=0 => "the whole lookback".to_owned(),
            short => format!("{:.1} days less than the lookback: what was last seen before that looks new", days(short)),
        };
        eprintln!("tenant {}: {since} to {clock} ({:.1} days, {covers})", shown(tenant), days(clock.0 - since.0));
        for table in [Table::Network, Table::Device] {
            match history.tables.get(&(tenant.to_owned(), table)) {
                None => eprintln!("  {}: no rows at all; {}", table.as_str(), without(table)),
                Some(seen) => gaps(table, &seen.gaps()),
            }
        }
    }
    let tracked = detector.tracked();
    eprintln!(
        "baseline: {} connections of {} devices to {} destinations, {} companies; {} findings are open, `firstseen run` publishes them",
        tracked.connections, tracked.devices, tracked.destinations, tracked.vendors, tracked.open_findings
    );
}

fn without(table: Table) -> &'static str {
    match table {
        Table::Network => "there is nothing to compare live connections with",
        Table::Device => "without it nothing is known to be a server, and nothing is found until it comes in live",
    }
}

fn gaps(table: Table, gaps: &[(Ticks, Ticks)]) {
    if gaps.is_empty() {
        return;
    }
    let hours: i64 = gaps.iter().map(|(from, to)| (to.0 - from.0) / Span::hours(1).0).sum();
    let shown: Vec<String> = gaps.iter().take(3).map(|(from, to)| format!("{from} to {to}")).collect();
    let more = if gaps.len() > 3 { ", …" } else { "" };
    eprintln!("  {}: no rows in {hours} hours ({}{more})", table.as_str(), shown.join(", "));
}
