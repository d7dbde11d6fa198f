//! Takes marked changes of findings as they come and keeps what the report tells of them.
//!
//! Memory is bounded by what is in the answer: an instant for each open finding, a counter for each name in a finding, and the details of
//! a limited number of findings, the most severe and newest.

use super::input::{self, Input};
use super::rows::{Details, Finding, HeatRow, Process, RetractionBucket, RetractionTimes, Top, TopRow};
use super::what_if::{self, WhatIfReport};
use super::{Findings, Report, SCHEMA};
use crate::detector::Settings;
use crate::finding::reason::reason;
use crate::finding::severity::{Privileged, Severity};
use crate::finding::{Change, ChangeKind, FindingId};
use crate::time::{Span, Ticks};
use crate::whatif::{Axes, Day, Ends, Grid};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Days that are listed: the last ones.
pub const MOST_DAYS: i64 = 400;
/// Rows of a top list.
const MOST_TOP: usize = 15;
/// Rows of the heat map.
const MOST_SERVERS: usize = 30;
/// URLs of a finding that are listed.
const MOST_URLS: usize = 10;
/// Characters of a command line that are kept.
const COMMAND_LINE: usize = 500;

const BUCKETS: [(&str, Span); 8] = [
    ("1m", Span::minutes(1)),
    ("10m", Span::minutes(10)),
    ("1h", Span::hours(1)),
    ("3h", Span::hours(3)),
    ("6h", Span::hours(6)),
    ("12h", Span::hours(12)),
    ("24h", Span::hours(24)),
    ("longer", Span(i64::MAX)),
];

/// What comes first in the list of findings.
type Rank = (Severity, bool, Ticks, FindingId);

#[derive(Debug, Default)]
struct Count {
    opened: u64,
    shown: u64,
    retracted: u64,
}

/// Names and how often each was seen.
#[derive(Debug, Default)]
struct Names(HashMap<String, Count>);

impl Names {
    fn count(&mut self, name: &str, kind: ChangeKind, shown: bool) {
        if !self.0.contains_key(name) {
            self.0.insert(name.to_owned(), Count::default());
        }
        let Some(count) = self.0.get_mut(name) else { return };
        match kind {
            ChangeKind::Opened => {
                count.opened += 1;
                count.shown += u64::from(shown);
            }
            ChangeKind::Retracted => count.retracted += 1,
            ChangeKind::Updated | ChangeKind::Closed => {}
        }
    }

    fn top(self) -> Vec<TopRow> {
        let row = |(name, count): (String, Count)| TopRow { name, opened: count.opened, shown: count.shown, retracted: count.retracted };
        let mut rows: Vec<TopRow> = self.0.into_iter().map(row).collect();
        rows.sort_by(|a, b| (b.opened, &a.name).cmp(&(a.opened, &b.name)));
        rows.truncate(MOST_TOP);
        rows
    }
}

/// Takes changes.
#[derive(Debug)]
pub struct Collector {
    settings: Settings,
    privileged: Privileged,
    most_findings: usize,
    all: BTreeMap<Day, Ends>,
    shown: BTreeMap<Day, Ends>,
    suppressed: BTreeMap<String, u64>,
    /// When each open finding was opened.
    open: HashMap<FindingId, Ticks>,
    /// Seconds from opening to retraction.
    retracted_after: Vec<f32>,
    devices: Names,
    destinations: Names,
    companies: Names,
    heat: HashMap<String, [u64; 24]>,
    findings: u64,
    details: HashMap<FindingId, (Rank, Finding)>,
    ranks: BTreeSet<Rank>,
}

impl Collector {
    /// Keeps the details of `most_findings` findings.
    #[must_use]
    pub fn new(settings: Settings, privileged: Privileged, most_findings: usize) -> Collector {
        Collector {
            settings,
            privileged,
            most_findings,
            all: BTreeMap::new(),
            shown: BTreeMap::new(),
            suppressed: BTreeMap::new(),
            open: HashMap::new(),
            retracted_after: Vec::new(),
            devices: Names::default(),
            destinations: Names::default(),
            companies: Names::default(),
            heat: HashMap::new(),
            findings: 0,
            details: HashMap::new(),
            ranks: BTreeSet::new(),
        }
    }

    /// Takes a change that the rules have marked.
    pub fn take(&mut self, change: &Change) {
        let shown = change.suppressed_by.is_none();
        if let Some(rule) = &change.suppressed_by {
            match self.suppressed.get_mut(&**rule) {
                Some(n) => *n += 1,
                None => drop(self.suppressed.insert(rule.to_string(), 1)),
            }
        }
        if change.kind != ChangeKind::Updated {
            self.all.entry(Day::of(change.at)).or_default().count(change.kind);
            if shown {
                self.shown.entry(Day::of(change.at)).or_default().count(change.kind);
            }
            self.devices.count(&change.device_name, change.kind, shown);
            self.destinations.count(&change.remote_ip, change.kind, shown);
            self.companies.count(&change.event.company, change.kind, shown);
        }
        match change.kind {
            ChangeKind::Opened => {
                self.findings += u64::from(change.revision == 1);
                self.open.insert(change.id, change.at);
                let hour = change.at.0.rem_euclid(Span::days(1).0) / Span::hours(1).0;
                if !self.heat.contains_key(&change.device_name) {
                    self.heat.insert(change.device_name.clone(), [0; 24]);
                }
                if let Some(n) = self.heat.get_mut(&change.device_name).and_then(|hours| hours.get_mut(hour as usize)) {
                    *n += 1;
                }
            }
            ChangeKind::Updated => {}
            ChangeKind::Retracted => {
                if let Some(opened) = self.open.remove(&change.id) {
                    self.retracted_after.push(((change.at.0 - opened.0) as f64 / Span::seconds(1).0 as f64) as f32);
                }
            }
            ChangeKind::Closed => drop(self.open.remove(&change.id)),
        }
        self.detail(change);
    }

    fn detail(&mut self, change: &Change) {
        if let Some((_, finding)) = self.details.get_mut(&change.id) {
            update(finding, change, &self.settings);
            return;
        }
        if change.kind != ChangeKind::Opened || self.most_findings == 0 {
            return;
        }
        let severity = Severity::of(change, &self.settings, &self.privileged);
        let rank: Rank = (severity, change.suppressed_by.is_none(), change.at, change.id);
        if self.details.len() >= self.most_findings {
            if self.ranks.first().is_some_and(|least| rank <= *least) {
                return;
            }
            if let Some(least) = self.ranks.pop_first() {
                self.details.remove(&least.3);
            }
        }
        self.ranks.insert(rank);
        let mut finding = finding(change, severity, &self.settings);
        update(&mut finding, change, &self.settings);
        self.details.insert(change.id, (rank, finding));
    }

    /// The report, when the input has ended.
    #[must_use]
    pub fn report(self, input: Input, axes: &Axes, grid: &Grid, generated: Ticks) -> Report {
        let settings = self.settings;
        let from = input.tenants.iter().map(|t| t.from).min();
        let to = input.tenants.iter().map(|t| t.to).max();
        let range = (from.unwrap_or(generated), to.unwrap_or(generated));
        let since = input.tenants.iter().map(|t| t.from).max().unwrap_or(generated);
        let warm_until = input::warm_until(since, settings.lookback, settings.new_within);
        let days = what_if::days(range, warm_until, &self.all, &self.shown, MOST_DAYS);
        let total = |ends: &BTreeMap<Day, Ends>| ends.values().fold(Ends::default(), |sum, day| sum.and(*day));
        let findings = Findings {
            all: total(&self.all),
            shown: total(&self.shown),
            open_at_end: self.open.len() as u64,
            opened_a_day: what_if::mean(&days, |day| day.shown.opened).0,
            suppressed: self.suppressed,
        };
        let mut heat_map: Vec<HeatRow> = self.heat.into_iter().map(|(device, hours)| HeatRow { device, hours }).collect();
        let sum = |row: &HeatRow| row.hours.iter().sum::<u64>();
        heat_map.sort_by(|a, b| (sum(b), &a.device).cmp(&(sum(a), &b.device)));
        heat_map.truncate(MOST_SERVERS);
        let mut details: Vec<(Rank, Finding)> = self.details.into_values().collect();
        details.sort_by_key(|(rank, _)| Reverse(*rank));
        Report {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            generated,
            settings: settings.described().into_iter().collect(),
            funnel: input::gates(&input, grid.funnel, findings.all.opened, &settings),
            what_if: WhatIfReport::of(axes, &grid.cells, range, since, &settings),
            input,
            findings,
            days,
            time_to_retraction: retraction_times(self.retracted_after),
            top: Top { devices: self.devices.top(), destinations: self.destinations.top(), companies: self.companies.top() },
            heat_map,
            details: Details { of: self.findings, findings: details.into_iter().map(|(_, finding)| finding).collect() },
        }
    }
}

fn retraction_times(mut seconds: Vec<f32>) -> RetractionTimes {
    seconds.sort_by(f32::total_cmp);
    let mut before = 0;
    let buckets = BUCKETS.map(|(within, span)| {
        let bound = (span.0 as f64 / Span::seconds(1).0 as f64) as f32;
        let until = seconds.partition_point(|s| *s <= bound);
        RetractionBucket { within, findings: (until - std::mem::replace(&mut before, until)) as u64 }
    });
    let median_seconds = seconds.get(seconds.len() / 2).map(|s| f64::from(*s));
    RetractionTimes { buckets: buckets.into(), median_seconds }
}

fn finding(change: &Change, severity: Severity, settings: &Settings) -> Finding {
    let event = &change.event;
    Finding {
        finding_id: change.id.to_string(),
        tenant: change.tenant.clone(),
        severity: severity.as_str(),
        state: "open",
        opened: change.at,
        ended: None,
        revision: change.revision,
        device: change.device_name.clone(),
        os_platform: change.os_platform.clone(),
        device_type: change.device_type.clone(),
        remote_ip: change.remote_ip.clone(),
        remote_port: change.remote_port,
        urls: Vec::new(),
        more_urls: 0,
        first_seen: change.first_seen,
        last_seen: change.last_seen,
        count: change.count,
        prevalence: change.prevalence,
        vendors: change.vendors.clone(),
        late: change.late,
        suppressed_by: None,
        reason: reason(change, settings),
        outcome: None,
        process: Process {
            file_name: event.file_name.clone(),
            folder_path: event.folder_path.clone(),
            command_line: event.command_line.chars().take(COMMAND_LINE).collect(),
            sha256: event.sha256.clone(),
            account: event.account.clone(),
            company: event.company.clone(),
            product: event.product.clone(),
        },
    }
}

fn update(finding: &mut Finding, change: &Change, settings: &Settings) {
    (finding.revision, finding.count, finding.prevalence) = (change.revision, change.count, change.prevalence);
    (finding.first_seen, finding.last_seen) = (change.first_seen, change.last_seen);
    finding.urls = change.urls.iter().take(MOST_URLS).cloned().collect();
    finding.more_urls = change.urls.len().saturating_sub(MOST_URLS);
    finding.suppressed_by = change.suppressed_by.as_deref().map(str::to_owned);
    finding.state = match change.kind {
        ChangeKind::Opened | ChangeKind::Updated => "open",
        ChangeKind::Retracted => "retracted",
        ChangeKind::Closed => "closed",
    };
    let ends = finding.state != "open";
    finding.ended = ends.then_some(change.at);
    finding.outcome = ends.then(|| reason(change, settings));
    if change.kind == ChangeKind::Opened {
        finding.opened = change.at;
        finding.reason = reason(change, settings);
    }
}
