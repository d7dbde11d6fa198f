//! Changes of cells, counted by day.

use crate::detector::Settings;
use crate::feed::{DeadLetter, Output};
use crate::finding::severity::Privileged;
use crate::finding::{Change, ChangeKind};
use crate::suppress::Rules;
use crate::time::{Span, Ticks};
use std::collections::BTreeMap;

/// A day in UTC, by its first instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(pub Ticks);

impl Day {
    /// The day of an instant.
    #[must_use]
    pub fn of(at: Ticks) -> Day {
        Day(Ticks(at.0 - at.0.rem_euclid(Span::days(1).0)))
    }

    /// The day after.
    #[must_use]
    pub fn next(self) -> Day {
        Day(self.0.plus(Span::days(1)))
    }
}

impl std::fmt::Display for Day {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.to_string().get(..10).unwrap_or_default())
    }
}

/// Findings that were opened and that ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Ends {
    /// Entered the answer.
    pub opened: u64,
    /// Left it before their first day was over.
    pub retracted: u64,
    /// Their first day is over.
    pub closed: u64,
}

impl Ends {
    /// Counts a change; an update is none of these.
    pub fn count(&mut self, kind: ChangeKind) {
        match kind {
            ChangeKind::Opened => self.opened += 1,
            ChangeKind::Retracted => self.retracted += 1,
            ChangeKind::Closed => self.closed += 1,
            ChangeKind::Updated => {}
        }
    }

    /// Of both.
    #[must_use]
    pub fn and(self, other: Ends) -> Ends {
        Ends { opened: self.opened + other.opened, retracted: self.retracted + other.retracted, closed: self.closed + other.closed }
    }
}

/// What a backtest with these settings would have said.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    /// `query.lookback`.
    pub lookback: Span,
    /// `query.vendor_servers_below`.
    pub vendor_servers_below: u32,
    /// `query.prevalence_below`.
    pub prevalence_below: u32,
    /// By day, with suppression rules off: all changes. Days without any are absent.
    pub all: BTreeMap<Day, Ends>,
    /// The same with the rules on: changes that no rule matches.
    pub shown: BTreeMap<Day, Ends>,
}

impl Cell {
    /// Its thresholds.
    #[must_use]
    pub fn key(&self) -> (Span, u32, u32) {
        (self.lookback, self.vendor_servers_below, self.prevalence_below)
    }
}

/// Counts the changes of one detector's cells.
#[derive(Debug)]
pub(super) struct Tally {
    cells: Vec<(Cell, Settings)>,
    rules: Rules,
    privileged: Privileged,
}

impl Tally {
    pub(super) fn new(settings: &Settings, prevalence: &[u32], vendors: &[u32], rules: Rules, privileged: Privileged) -> Tally {
        let cell = |vendor_servers_below: u32, prevalence_below: u32| {
            let settings = Settings { vendor_servers_below, prevalence_below, ..settings.clone() };
            let (all, shown) = (BTreeMap::new(), BTreeMap::new());
            (Cell { lookback: settings.lookback, vendor_servers_below, prevalence_below, all, shown }, settings)
        };
        let cells = vendors.iter().flat_map(|v| prevalence.iter().map(|p| cell(*v, *p))).collect();
        Tally { cells, rules, privileged }
    }

    pub(super) fn into_cells(self) -> Vec<Cell> {
        self.cells.into_iter().map(|(cell, _)| cell).collect()
    }
}

impl Output for Tally {
    fn change(&mut self, _: Box<Change>) {}

    fn cells(&mut self, mut change: Box<Change>, mask: u64) {
        let (day, kind) = (Day::of(change.at), change.kind);
        // Beneath the greatest threshold; a cell with a lower one keeps those below its own.
        let vendors = std::mem::take(&mut change.vendors);
        for (n, (cell, settings)) in self.cells.iter_mut().enumerate().filter(|(n, _)| mask & 1 << n != 0) {
            debug_assert!(n < u64::BITS as usize);
            cell.all.entry(day).or_default().count(kind);
            if !self.rules.is_empty() {
                change.vendors = vendors.iter().filter(|(_, servers)| *servers < u64::from(cell.vendor_servers_below)).cloned().collect();
                self.rules.mark(&mut change, settings, &self.privileged);
            }
            if change.suppressed_by.is_none() {
                cell.shown.entry(day).or_default().count(kind);
            }
        }
    }

    fn dead_letter(&mut self, _: DeadLetter<'_>) {}
}
