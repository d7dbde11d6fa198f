//! Runs the detector beside the model, step by step, and says the first difference.
//!
//! Owns: the open set as a consumer of findings would keep it, and the rules every sequence of changes must obey. A step is
//! either time alone (up to a record's arrival) or one record. Findings beyond the query (`late`) are counted and left out.

use std::collections::{BTreeMap, HashMap};

use firstseen::defender::Record;
use firstseen::detector::{Detector, Effect, Settings, Tracked};
use firstseen::finding::{Change, ChangeKind, FindingId};
use firstseen::time::{Span, Ticks};

use super::fleet::{Owned, Rng};
use crate::model::changes::{ChangeModel, Expected, Outcome};
use crate::model::{Key, Row};

/// What is judged: the detector, or one with a fault that the judge must see.
pub(crate) trait Subject {
    fn record(&mut self, record: &Record<'_>, effects: &mut Vec<Effect>);
    fn advance(&mut self, tenant: &str, to: Ticks, effects: &mut Vec<Effect>);
}

impl Subject for Detector {
    fn record(&mut self, record: &Record<'_>, effects: &mut Vec<Effect>) {
        Detector::record(self, record, effects);
    }

    fn advance(&mut self, tenant: &str, to: Ticks, effects: &mut Vec<Effect>) {
        Detector::advance(self, tenant, to, effects);
    }
}

/// How much a run has seen.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) fleets: u64,
    pub(crate) records: u64,
    pub(crate) instants: u64,
    pub(crate) rows: u64,
    pub(crate) opened: u64,
    pub(crate) updated: u64,
    pub(crate) retracted: u64,
    pub(crate) closed: u64,
    pub(crate) reopened: u64,
    pub(crate) late: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, other: Tally) {
        self.fleets += other.fleets;
        self.records += other.records;
        self.instants += other.instants;
        self.rows += other.rows;
        self.opened += other.opened;
        self.updated += other.updated;
        self.retracted += other.retracted;
        self.closed += other.closed;
        self.reopened += other.reopened;
        self.late += other.late;
    }

    fn count(&mut self, change: &Change) {
        match change.kind {
            _ if change.late => self.late += 1,
            ChangeKind::Opened => {
                self.opened += 1;
                self.reopened += u64::from(change.revision > 1);
            }
            ChangeKind::Updated => self.updated += 1,
            ChangeKind::Retracted => self.retracted += 1,
            ChangeKind::Closed => self.closed += 1,
        }
    }
}

/// The open findings of a tenant as its changes tell them.
#[derive(Debug, Default)]
pub(crate) struct Open {
    pub(crate) rows: BTreeMap<Key, (FindingId, Row)>,
}

impl Open {
    /// Applies a change; an error when it can't follow what came before.
    pub(crate) fn apply(&mut self, change: &Change) -> Result<(), String> {
        let key = key_of(change);
        match (change.kind, self.rows.get(&key)) {
            (ChangeKind::Opened, None) => {}
            (ChangeKind::Updated | ChangeKind::Retracted | ChangeKind::Closed, Some((id, _))) if *id == change.id => {}
            (kind, held) => return Err(format!("{kind:?} of {key:?} ({}), but open is {:?}", change.id, held.map(|(id, _)| id))),
        }
        match change.kind {
            ChangeKind::Opened | ChangeKind::Updated => self.rows.insert(key, (change.id, row_of(change))),
            ChangeKind::Retracted | ChangeKind::Closed => self.rows.remove(&key),
        };
        Ok(())
    }
}

pub(crate) fn key_of(change: &Change) -> Key {
    (change.device_name.clone(), change.remote_ip.clone(), change.remote_port)
}

pub(crate) fn row_of(change: &Change) -> Row {
    Row {
        count: change.count,
        prevalence: change.prevalence,
        urls: change.urls.iter().cloned().collect(),
        first: change.first_seen,
        last: change.last_seen,
        vendors: change.vendors.iter().cloned().collect(),
    }
}

struct Tenant {
    model: ChangeModel,
    open: Open,
    /// Open findings beyond the query.
    late: Open,
    /// Which finding a candidate's life is, and the other way.
    ids: HashMap<(Key, u32), FindingId>,
    lives: HashMap<FindingId, (Key, u32)>,
    revisions: HashMap<FindingId, u32>,
    last_at: Ticks,
}

/// Feeds `records` to a fresh detector and to the model. The error is the first difference, with all that is needed to look into it.
pub(crate) fn run(records: &[Owned], settings: &Settings, seed: u64) -> Result<Tally, String> {
    let mut detector = Detector::new(settings.clone());
    let tally = judge(&mut detector, records, settings, seed)?;
    // Nothing is kept for ever: when every window is over, so is the state.
    let clocks: Vec<(String, Ticks)> = detector.clocks().map(|(tenant, clock)| (tenant.to_owned(), clock)).collect();
    let mut effects = Vec::new();
    for (tenant, clock) in clocks {
        detector.advance(&tenant, clock.plus(Span::days(30)), &mut effects);
    }
    match (effects.is_empty(), detector.tracked()) {
        (true, tracked) if tracked == Tracked::default() => Ok(tally),
        (_, tracked) => Err(format!("46 days after the last record there is still {tracked:?}, and {effects:?} was said")),
    }
}

/// As [`run`], for any subject.
pub(crate) fn judge(detector: &mut impl Subject, records: &[Owned], settings: &Settings, seed: u64) -> Result<Tally, String> {
    let mut tenants: BTreeMap<&'static str, Tenant> = BTreeMap::new();
    let mut tally = Tally { fleets: 1, ..Tally::default() };
    let mut rng = Rng::new(seed ^ 0xAD7A);
    for (n, owned) in records.iter().enumerate() {
        let record = owned.record();
        let tenant = tenants.entry(owned.tenant).or_insert_with(|| Tenant {
            model: ChangeModel::new(settings.clone()),
            open: Open::default(),
            late: Open::default(),
            ids: HashMap::new(),
            lives: HashMap::new(),
            revisions: HashMap::new(),
            last_at: Ticks::MIN,
        });
        let place = |what: &str| format!("record {n} ({owned:?}), {what}");
        let (before, accepted) = (tenant.model.clock(), tenant.model.clock_for(&record));
        // Time alone, as far as this record moves it; now and then in two strides, so that idle advances are seen, too.
        if let (Some(from), Some(to)) = (before, accepted) {
            let halfway = if rng.percent(30) && from < to { rng.ticks(from, to) } else { to };
            for to in [halfway, to] {
                let mut effects = Vec::new();
                detector.advance(owned.tenant, to, &mut effects);
                let expected = tenant.model.advance(to);
                tenant.check(&expected, &effects, None, &mut tally).map_err(|e| format!("{}: {e}", place(&format!("time up to {to}"))))?;
                tenant.check_answer(to, settings, &mut tally).map_err(|e| format!("{}: {e}", place(&format!("at {to}"))))?;
            }
        } else if let Some(to) = accepted {
            tenant.model.advance(to);
        }
        let mut effects = Vec::new();
        detector.record(&record, &mut effects);
        let (outcome, expected) = tenant.model.record(&record);
        tenant.check(&expected, &effects, Some(outcome), &mut tally).map_err(|e| format!("{}: {e}", place("the record")))?;
        if let Some(now) = tenant.model.clock() {
            tenant.check_answer(now, settings, &mut tally).map_err(|e| format!("{}: {e}", place(&format!("after it at {now}"))))?;
        }
        tally.records += 1;
    }
    // Out of the last windows, in odd strides.
    for (name, tenant) in &mut tenants {
        let Some(mut to) = tenant.model.clock() else { continue };
        let end = to.plus(Span::days(16));
        while to < end {
            to = to.plus(Span(1 + Span::hours(31).0));
            let mut effects = Vec::new();
            detector.advance(name, to, &mut effects);
            let expected = tenant.model.advance(to);
            tenant.check(&expected, &effects, None, &mut tally).map_err(|e| format!("at the end, {name}, time up to {to}: {e}"))?;
            tenant.check_answer(to, settings, &mut tally)?;
        }
        if !tenant.open.rows.is_empty() || !tenant.late.rows.is_empty() {
            return Err(format!("findings are open 16 days after the last record: {:?} {:?}", tenant.open.rows, tenant.late.rows));
        }
    }
    Ok(tally)
}

impl Tenant {
    /// One step's effects against what the model says of it.
    fn check(&mut self, expected: &[Expected], effects: &[Effect], outcome: Option<Outcome>, tally: &mut Tally) -> Result<(), String> {
        let mut changes = Vec::new();
        for effect in effects {
            match (effect, outcome) {
                (Effect::Change(change), _) => changes.push(&**change),
                (Effect::TimestampAhead, Some(Outcome::Ahead)) | (Effect::Repeat, Some(Outcome::Repeat)) => {}
                _ => return Err(format!("{effect:?}, but the record is {outcome:?}")),
            }
        }
        if outcome == Some(Outcome::Ahead) && *effects != [Effect::TimestampAhead] {
            return Err(format!("the record is ahead, but the effects are {effects:?}"));
        }
        for change in &changes {
            self.check_sequence(change)?;
            tally.count(change);
            if change.late {
                self.late.apply(change)?;
            }
        }
        let got: Vec<&Change> = changes.into_iter().filter(|change| !change.late).collect();
        let listing = || {
            let said: Vec<String> =
                got.iter().map(|c| format!("    {:?} {} {:?} r{} {:?}", c.kind, c.at, key_of(c), c.revision, row_of(c))).collect();
            let want: Vec<String> =
                expected.iter().map(|e| format!("    {:?} {} {:?} r{} {:?}", e.kind, e.at, e.key, e.revision, e.row)).collect();
            format!("\n  expected\n{}\n  got\n{}", want.join("\n"), said.join("\n"))
        };
        if got.len() != expected.len() {
            return Err(format!("{} changes, expected {}{}", got.len(), expected.len(), listing()));
        }
        for (change, expected) in got.iter().zip(expected) {
            self.check_change(change, expected).map_err(|e| format!("{e}{}", listing()))?;
            self.open.apply(change)?;
        }
        Ok(())
    }

    /// What holds for every finding, also a late one.
    fn check_sequence(&mut self, change: &Change) -> Result<(), String> {
        let revision = self.revisions.entry(change.id).or_insert(0);
        *revision += 1;
        if *revision != change.revision {
            return Err(format!("revision {} where {revision} is next: {change:?}", change.revision));
        }
        if change.at < self.last_at {
            return Err(format!("said after a change at {}: {change:?}", self.last_at));
        }
        self.last_at = change.at;
        if (change.kind == ChangeKind::Retracted) == change.cause.is_empty() {
            return Err(format!("a retraction, and nothing else, has a cause: {change:?}"));
        }
        if change.urls.is_sorted() && change.vendors.is_sorted() { Ok(()) } else { Err(format!("lists are not sorted: {change:?}")) }
    }

    fn check_change(&mut self, change: &Change, expected: &Expected) -> Result<(), String> {
        let mut row = row_of(change);
        if matches!(change.kind, ChangeKind::Retracted | ChangeKind::Closed) {
            row.vendors.clear();
        }
        let got = (change.kind, change.at, key_of(change), change.revision, row);
        let want = (expected.kind, expected.at, expected.key.clone(), expected.revision, expected.row.clone());
        if got != want {
            return Err(format!("a change differs: got {got:?}, expected {want:?}"));
        }
        let life = (expected.key.clone(), expected.life);
        let known = (self.ids.get(&life).copied(), self.lives.get(&change.id).cloned());
        match known {
            (None, None) => {
                self.ids.insert(life.clone(), change.id);
                self.lives.insert(change.id, life);
            }
            (Some(id), Some(of)) if id == change.id && of == life => {}
            other => return Err(format!("finding {} is life {life:?}, but known is {other:?}", change.id)),
        }
        // Rows that were already out of the lookback when they came are in no window, and need not be known.
        if let Some(previous) = change.previous_seen
            && expected.kind == ChangeKind::Opened
            && !self.model.rows.has_before(&expected.key, expected.row.first, previous)
        {
            return Err(format!("previous_seen {previous} is no row before the first: {change:?}"));
        }
        Ok(())
    }

    /// The promise itself, said without the change model: the open set is the answer.
    fn check_answer(&mut self, now: Ticks, settings: &Settings, tally: &mut Tally) -> Result<(), String> {
        let answer = self.model.rows.answer(now);
        tally.instants += 1;
        tally.rows += answer.len() as u64;
        let keys_equal = answer.keys().eq(self.open.rows.keys());
        let values_equal = || {
            answer.values().zip(self.open.rows.values()).all(|(row, (_, open))| {
                (row.count, row.prevalence, &row.urls, row.first, row.last)
                    == (open.count, open.prevalence, &open.urls, open.first, open.last)
            })
        };
        // A late finding is one that the query never shows.
        for (key, (id, row)) in &self.late.rows {
            if answer.contains_key(key) || row.first.plus(settings.new_within) > now {
                return Err(format!("{id} of {key:?} is open as late, but the query can show it: {row:?}"));
            }
        }
        // With an update interval the values may lag; the change model says by how much.
        if keys_equal && (settings.update_interval > Span::ZERO || values_equal()) {
            return Ok(());
        }
        Err(format!("the answer is {answer:#?}\nbut open is {:#?}", self.open.rows))
    }
}

/// The smallest part of `records` found that still makes `differs` say something; for the report, when there is one.
pub(crate) fn shrink(records: &[Owned], differs: impl Fn(&[Owned]) -> Option<String>) -> (Vec<Owned>, String) {
    let mut kept = records.to_vec();
    let mut said = differs(&kept).unwrap_or_default();
    let mut chunk = kept.len().div_ceil(2);
    while chunk > 0 {
        let mut from = 0;
        while from < kept.len() {
            let fewer: Vec<Owned> =
                kept.iter().enumerate().filter(|(i, _)| *i < from || *i >= from + chunk).map(|(_, r)| r.clone()).collect();
            match differs(&fewer) {
                Some(text) => (kept, said) = (fewer, text),
                None => from += chunk,
            }
        }
        chunk /= 2;
    }
    (kept, said)
}
