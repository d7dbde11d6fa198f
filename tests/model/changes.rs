//! What must be said, and when: the answers at every instant at which they can differ, compared one with the next.
//!
//! Owns: the agenda of instants (each row's time plus each window), the open rows, ids and revisions of their findings.
//! Invariant: between two instants of the agenda, with no record between them, the answer can't change, because every
//! definition asks only `timestamp > now − w`. Late findings are beyond the query and are not said here.

use std::collections::{BTreeMap, BTreeSet};

use firstseen::defender::Record;
use firstseen::detector::Settings;
use firstseen::finding::ChangeKind;
use firstseen::time::Ticks;

use super::{Key, Model, Row};

/// One change that must be said.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Expected {
    pub(crate) kind: ChangeKind,
    pub(crate) at: Ticks,
    pub(crate) key: Key,
    /// Which of the key's candidates this is: 1, 2, 3 …; a finding's id must change exactly when this does.
    pub(crate) life: u32,
    pub(crate) revision: u32,
    /// The row's values at `at`; for one that left, those that ended it. `vendors` is empty for one that left.
    pub(crate) row: Row,
}

#[derive(Debug)]
struct Life {
    number: u32,
    revision: u32,
    /// When the candidate's first day ends, as last known.
    ends: Ticks,
    /// The row as last written, while it is open.
    written: Option<Row>,
    written_at: Ticks,
}

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Accepted,
    Repeat,
    Ahead,
}

/// The model of one tenant's changes.
#[derive(Debug)]
pub(crate) struct ChangeModel {
    settings: Settings,
    pub(crate) rows: Model,
    clock: Option<Ticks>,
    agenda: BTreeSet<Ticks>,
    lives: BTreeMap<Key, Life>,
}

impl ChangeModel {
    pub(crate) fn new(settings: Settings) -> ChangeModel {
        ChangeModel { rows: Model::new(settings.clone()), settings, clock: None, agenda: BTreeSet::new(), lives: BTreeMap::new() }
    }

    /// The tenant's arrival clock.
    pub(crate) fn clock(&self) -> Option<Ticks> {
        self.clock
    }

    /// Where the tenant's clock will stand when this record is applied; `None` when the record is too far ahead of it.
    pub(crate) fn clock_for(&self, record: &Record<'_>) -> Option<Ticks> {
        let clock = self.clock.map_or(record.arrival, |clock| clock.max(record.arrival));
        let ahead = Model::event_time(record).is_some_and(|t| t > clock.plus(self.settings.max_clock_skew));
        (!ahead).then_some(clock)
    }

    /// Moves the clock, and says what time alone changes.
    pub(crate) fn advance(&mut self, to: Ticks) -> Vec<Expected> {
        let mut said = Vec::new();
        while let Some(at) = self.agenda.first().copied().filter(|at| *at <= to) {
            self.agenda.pop_first();
            // A window of a row that was late when it came may have ended before now: nothing can change then.
            if self.clock.is_none_or(|clock| at > clock) {
                self.judge(at, &mut said);
            }
        }
        self.clock = Some(self.clock.map_or(to, |clock| clock.max(to)));
        said
    }

    /// Applies one record at its arrival. Time up to then must have been said by [`ChangeModel::advance`].
    pub(crate) fn record(&mut self, record: &Record<'_>) -> (Outcome, Vec<Expected>) {
        let Some(now) = self.clock_for(record) else { return (Outcome::Ahead, Vec::new()) };
        assert!(self.clock == Some(now), "advance to the record's arrival first");
        if !self.rows.insert(record) {
            return (Outcome::Repeat, Vec::new());
        }
        if let Some(t) = Model::event_time(record) {
            let windows = [self.settings.lookback, self.settings.new_within, self.settings.prevalence_window];
            self.agenda.extend(windows.into_iter().map(|window| t.plus(window)).filter(|end| *end > now));
        }
        let mut said = Vec::new();
        self.judge(now, &mut said);
        (Outcome::Accepted, said)
    }

    fn judge(&mut self, now: Ticks, said: &mut Vec<Expected>) {
        let mut answer = self.rows.answer(now);
        let open = self.lives.iter().filter(|(_, life)| life.written.is_some()).map(|(key, _)| key.clone());
        let keys: BTreeSet<Key> = answer.keys().cloned().chain(open).collect();
        for key in keys {
            match answer.remove(&key) {
                Some(row) => self.judge_row(now, key, row, said),
                None => self.leave(now, key, said),
            }
        }
    }

    fn judge_row(&mut self, now: Ticks, key: Key, row: Row, said: &mut Vec<Expected>) {
        let ends = row.first.plus(self.settings.new_within);
        let life = self.lives.entry(key.clone()).or_insert(Life { number: 1, revision: 0, ends, written: None, written_at: now });
        let kind = match &life.written {
            None => {
                if now >= life.ends {
                    (life.number, life.revision) = (life.number + 1, 0);
                }
                ChangeKind::Opened
            }
            Some(written) if (written.count, written.prevalence, &written.urls) == (row.count, row.prevalence, &row.urls) => {
                life.ends = ends;
                return;
            }
            Some(_) => {
                let due = life.written_at.plus(self.settings.update_interval);
                if now < due {
                    life.ends = ends;
                    self.agenda.insert(due);
                    return;
                }
                ChangeKind::Updated
            }
        };
        life.revision += 1;
        life.ends = ends;
        life.written = Some(row.clone());
        life.written_at = now;
        said.push(Expected { kind, at: now, key, life: life.number, revision: life.revision, row });
    }

    fn leave(&mut self, now: Ticks, key: Key, said: &mut Vec<Expected>) {
        let Some(life) = self.lives.get_mut(&key) else { return };
        life.written = None;
        life.revision += 1;
        let kind = if now >= life.ends { ChangeKind::Closed } else { ChangeKind::Retracted };
        // What ended it may have moved its first event, too, if that is still of its first day.
        let in_time = self.rows.first_after(&key, now.minus(self.settings.new_within));
        let first = in_time.map_or(life.ends.minus(self.settings.new_within), |t| t.min(life.ends.minus(self.settings.new_within)));
        life.ends = first.plus(self.settings.new_within);
        let (count, last) = self.rows.since(&key, first);
        let (prevalence, urls) = self.rows.destination(&key.1, now);
        let row = Row { count, prevalence, urls, first, last, vendors: BTreeMap::new() };
        said.push(Expected { kind, at: now, key, life: life.number, revision: life.revision, row });
    }
}
