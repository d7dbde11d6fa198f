//! The what-if grid as the report tells it.

use super::DayRow;
use super::input::warm_until;
use crate::detector::Settings;
use crate::time::{Span, Ticks};
use crate::whatif::{Axes, Cell, Day, Ends};
use serde::Serialize;
use std::collections::BTreeMap;

/// Findings a day by other settings.
#[derive(Clone, Debug, Default, Serialize)]
pub struct WhatIfReport {
    /// Thresholds of prevalence, ascending.
    pub prevalence_below: Vec<u32>,
    /// Thresholds of vendors, ascending.
    pub vendor_servers_below: Vec<u32>,
    /// Lookbacks, ascending, as `14d`.
    pub lookback: Vec<String>,
    /// Cells by lookback, then vendor threshold, then prevalence.
    pub cells: Vec<WhatIfCell>,
}

/// What a backtest with these settings would have said.
#[derive(Clone, Debug, Serialize)]
pub struct WhatIfCell {
    /// `query.lookback`.
    pub lookback: String,
    /// `query.vendor_servers_below`.
    pub vendor_servers_below: u32,
    /// `query.prevalence_below`.
    pub prevalence_below: u32,
    /// These are the configured settings.
    pub configured: bool,
    /// Findings opened a day over `days_counted`, with suppression rules off.
    pub opened_a_day: f64,
    /// The same with the rules on.
    pub shown_a_day: f64,
    /// Days after the warm-up of this lookback; all days where there is none, and then `warm_up` is true.
    pub days_counted: u64,
    /// Only days of warm-up were there to count.
    pub warm_up: bool,
    /// All days together, with the rules off.
    pub all: Ends,
    /// The same with the rules on.
    pub shown: Ends,
    /// Each day on which something happened.
    pub days: Vec<DayRow>,
}

/// The mean over settled days, or over all where there is none; how many days, and whether there was none.
pub(super) fn mean(days: &[DayRow], of: impl Fn(&DayRow) -> u64) -> (f64, u64, bool) {
    let settled = days.iter().filter(|day| !day.warm_up).count();
    let young = settled == 0;
    let counted = days.iter().filter(|day| young || !day.warm_up);
    let n = if young { days.len() } else { settled };
    (counted.map(of).sum::<u64>() as f64 / n.max(1) as f64, n as u64, young)
}

/// Each day of the range, the last `most` of them at most.
pub(super) fn days(
    (from, to): (Ticks, Ticks),
    warm_until: Ticks,
    all: &BTreeMap<Day, Ends>,
    shown: &BTreeMap<Day, Ends>,
    most: i64,
) -> Vec<DayRow> {
    let (first, last) = (Day::of(from), Day::of(to));
    let earliest = Day(last.0.minus(Span(Span::days(1).0 * (most - 1))));
    let mut rows = Vec::new();
    let mut day = first.max(earliest);
    while day <= last {
        let of = |ends: &BTreeMap<Day, Ends>| ends.get(&day).copied().unwrap_or_default();
        rows.push(DayRow { day, warm_up: day.0 < warm_until, all: of(all), shown: of(shown) });
        day = day.next();
    }
    rows
}

impl WhatIfReport {
    /// Of a grid over this range; `since` is the latest beginning of a tenant's baseline.
    #[must_use]
    pub fn of(axes: &Axes, cells: &[Cell], range: (Ticks, Ticks), since: Ticks, settings: &Settings) -> WhatIfReport {
        let configured = (settings.lookback, settings.vendor_servers_below, settings.prevalence_below);
        let cell = |cell: &Cell| {
            let rows =
                days(range, warm_until(since, cell.lookback, settings.new_within), &cell.all, &cell.shown, super::collect::MOST_DAYS);
            let (opened_a_day, days_counted, warm_up) = mean(&rows, |day| day.all.opened);
            let (shown_a_day, ..) = mean(&rows, |day| day.shown.opened);
            let total = |ends: &BTreeMap<Day, Ends>| ends.values().fold(Ends::default(), |sum, day| sum.and(*day));
            WhatIfCell {
                lookback: cell.lookback.to_string(),
                vendor_servers_below: cell.vendor_servers_below,
                prevalence_below: cell.prevalence_below,
                configured: cell.key() == configured,
                opened_a_day,
                shown_a_day,
                days_counted,
                warm_up,
                all: total(&cell.all),
                shown: total(&cell.shown),
                days: rows.into_iter().filter(|day| day.all != Ends::default()).collect(),
            }
        };
        WhatIfReport {
            prevalence_below: axes.prevalence_below.clone(),
            vendor_servers_below: axes.vendor_servers_below.clone(),
            lookback: axes.lookback.iter().map(Span::to_string).collect(),
            cells: cells.iter().map(cell).collect(),
        }
    }
}
