//! `firstseen backtest`: what would have been found in files, exactly.
//!
//! Feeds the detector what [`blocks`] gives, in arrival order. Changes are written in the order of `at` within
//! each tenant, as they come; at the end of the input the clocks stay where the input left them.

mod report;

use super::{config, selection};
use crate::cli;
use crate::defender::decode::Limits;
use crate::defender::reason::Reason;
use crate::detector::{Detector, Settings};
use crate::feed::{DeadLetter, Feed, Output};
use crate::files::blocks::{self, Place};
use crate::files::progress::Progress;
use crate::files::{FileError, FileSource, Retry};
use crate::finding::json::to_json;
use crate::finding::severity::Privileged;
use crate::finding::{Change, ChangeKind};
use crate::host_clock;
use crate::report::collect::Collector;
use crate::suppress::Suppression;
use crate::time::{Span, Ticks};
use anyhow::Context;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

pub(super) fn backtest(args: &cli::Backtest) -> anyhow::Result<ExitCode> {
    let config = config(args.config.as_deref())?;
    let settings = config.detector_settings();
    let begun = host_clock::now();
    let limits = Limits { independent_clock: Some(begun), max_clock_skew: settings.max_clock_skew };
    let selection = selection(&args.selection)?;
    let tenants = selection.tenants.clone();
    let source = FileSource::select(&args.paths, selection, Retry::default())?.horizon(begun.plus(settings.max_clock_skew));
    let privileged = Privileged::new(&config.detection.privileged_servers).unwrap_or_else(|_| Privileged::none());
    let suppression = config.suppression();
    let (reporting, collector) = report::Reporting::start(args, &settings, &suppression.rules, &privileged)?.unzip();
    let paths: Arc<Vec<PathBuf>> = Arc::new((0..source.files() as u32).map(|n| source.path(n).to_owned()).collect());
    let progress = Progress::new(&source);
    let (mut decoded, reading) = blocks::start(source, blocks::threads(args.threads), limits)?;
    let mut out = Writer {
        settings: settings.clone(),
        privileged,
        suppression,
        report: collector,
        suppressed: BTreeMap::new(),
        changes: args.changes.as_deref().map(create).transpose()?,
        dead_letters: args.dead_letters.as_deref().map(create).transpose()?,
        paths,
        lines: Vec::new(),
        place: None,
        first_offence: None,
        counts: BTreeMap::new(),
        open: 0,
        failed: None,
    };
    let mut feed = Feed::new(Detector::new(settings));
    feed.tenants = tenants;
    let mut damaged = 0;
    while let Some((block, batch)) = decoded.recv() {
        out.lines = block.lines;
        let batch = Arc::new(batch);
        if let Some(reporting) = &reporting {
            reporting.take(&batch);
        }
        feed.batch(&batch, &mut out);
        for error in &block.errors {
            progress.say(&format!("warning: {error}"));
            match error {
                FileError::LineTooLong { .. } => *feed.tally.dead.entry(Reason::TooLarge.as_str()).or_default() += 1,
                _ => damaged += 1,
            }
        }
        if let Some(error) = block.errors.into_iter().find(FileError::is_final) {
            progress.finish();
            return Err(error.into());
        }
        if let Some(error) = out.failed.take() {
            return Err(error.into());
        }
        progress.show(reading.bytes(), format!("{} records, {} findings open", feed.tally.records(), out.open));
    }
    progress.finish();
    out.flush()?;
    if let Some((reporting, collector)) = reporting.zip(out.report.take()) {
        reporting.finish(collector, &feed)?;
    }
    summary(&feed, &out);
    Ok(ExitCode::from(u8::from(damaged > 0)))
}

fn create(path: &Path) -> anyhow::Result<Box<dyn Write>> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(BufWriter::new(io::stdout())));
    }
    let file = File::create(path).with_context(|| format!("{} can't be written", path.display()))?;
    Ok(Box::new(BufWriter::with_capacity(1 << 18, file)))
}

/// Writes changes and dead letters, and counts them.
struct Writer {
    settings: Settings,
    privileged: Privileged,
    suppression: Suppression,
    report: Option<Collector>,
    /// Changes that each rule marked.
    suppressed: BTreeMap<Arc<str>, u64>,
    changes: Option<Box<dyn Write>>,
    dead_letters: Option<Box<dyn Write>>,
    paths: Arc<Vec<PathBuf>>,
    /// Of the batch being taken.
    lines: Vec<Place>,
    place: Option<Place>,
    first_offence: Option<String>,
    counts: BTreeMap<&'static str, u64>,
    open: u64,
    failed: Option<io::Error>,
}

impl Writer {
    fn line(to: &mut Option<Box<dyn Write>>, text: &str, failed: &mut Option<io::Error>) {
        if let Some(to) = to
            && let Err(error) = to.write_all(text.as_bytes()).and_then(|()| to.write_all(b"\n"))
        {
            failed.get_or_insert(error);
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        [&mut self.changes, &mut self.dead_letters].into_iter().flatten().try_for_each(|to| to.flush())
    }
}

impl Output for Writer {
    fn message(&mut self, source: u64) {
        self.place = self.lines.get(source as usize).copied();
    }

    fn change(&mut self, mut change: Box<Change>) {
        self.suppression.rules.mark(&mut change, &self.settings, &self.privileged);
        if let Some(rule) = &change.suppressed_by {
            *self.suppressed.entry(Arc::clone(rule)).or_default() += 1;
        }
        *self.counts.entry(change.kind.as_str()).or_default() += 1;
        match change.kind {
            ChangeKind::Opened => self.open += 1,
            ChangeKind::Updated => {}
            ChangeKind::Retracted | ChangeKind::Closed => self.open -= 1,
        }
        if let Some(report) = &mut self.report {
            report.take(&change);
        }
        if self.changes.is_some() && (self.suppression.topic().is_some() || self.suppression.lets_out(&change)) {
            let text = to_json(&change, &self.settings, &self.privileged);
            Self::line(&mut self.changes, &text, &mut self.failed);
        }
    }

    fn dead_letter(&mut self, letter: DeadLetter<'_>) {
        let path = self.place.and_then(|p| self.paths.get(p.file as usize));
        let (path, number) = (path.map_or("?".into(), |p| p.display().to_string()), self.place.map_or(0, |p| p.number));
        if self.first_offence.is_none() {
            let record = letter.index.map_or_else(String::new, |n| format!(", record {n}"));
            self.first_offence = Some(format!("{path}, line {number}{record}: {}", letter.error));
        }
        if self.dead_letters.is_some() {
            let line = serde_json::json!({
                "reason": letter.reason.as_str(), "error": letter.error, "file": path, "line": number, "record": letter.index,
                "raw": String::from_utf8_lossy(letter.raw),
            });
            Self::line(&mut self.dead_letters, &line.to_string(), &mut self.failed);
        }
    }
}

fn summary(feed: &Feed, out: &Writer) {
    let tally = &feed.tally;
    let count = |kind: ChangeKind| out.counts.get(kind.as_str()).copied().unwrap_or(0);
    let skipped: u64 = tally.skipped.values().sum();
    eprintln!(
        "{} records in {} messages: {} network events, {} inventory rows, {} of other tables, {} repeats",
        tally.records(),
        tally.messages,
        tally.network,
        tally.device,
        skipped,
        tally.repeats
    );
    if tally.other_tenants > 0 {
        eprintln!("{} records of tenants other than --tenant were passed over", tally.other_tenants);
    }
    for (tenant, clock) in feed.detector.clocks() {
        let since = feed.detector.observed_since(tenant).unwrap_or(clock);
        let days = Span(clock.0 - since.0).0 as f64 / Span::days(1).0 as f64;
        let name = if tenant.is_empty() { "(no tenant id)" } else { tenant };
        eprintln!("tenant {name}: {since} to {} ({days:.1} days)", Ticks(clock.0));
    }
    eprintln!(
        "findings: {} opened, {} updated, {} retracted, {} closed; {} open at the end",
        count(ChangeKind::Opened),
        count(ChangeKind::Updated),
        count(ChangeKind::Retracted),
        count(ChangeKind::Closed),
        out.open
    );
    for (rule, changes) in &out.suppressed {
        eprintln!("suppressed by {rule}: {changes} changes");
    }
    let dead: u64 = tally.dead.values().sum();
    if dead > 0 {
        let reasons: Vec<String> = tally.dead.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
        eprintln!("dead letters: {dead} ({}); look at them with --dead-letters FILE", reasons.join(", "));
    }
    if let Some(first) = &out.first_offence {
        eprintln!("first: {first}");
    }
}
