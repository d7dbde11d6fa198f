//! `backtest --report`: what would have been found, and by which settings it would have been less, for people and for programs.
//!
//! [`collect`] takes changes as they come and keeps what the report tells, bounded. [`Report`] is all its numbers, the JSON form
//! (`firstseen.report/1`, docs/report.md); [`page`] draws the same numbers as one page of HTML that needs no network and runs no script.

pub mod collect;
mod input;
pub mod page;
mod rows;
mod what_if;

pub use input::{Gate, Input, TenantRange};
pub use rows::{Details, Finding, HeatRow, RetractionTimes, Top, TopRow};
pub use what_if::{WhatIfCell, WhatIfReport};

use crate::time::Ticks;
use crate::whatif::{Day, Ends};
use serde::Serialize;
use std::collections::BTreeMap;

/// The schema's name and version.
pub const SCHEMA: &str = "firstseen.report/1";

/// All numbers of a report.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// Of the program.
    pub version: &'static str,
    /// When it was made.
    pub generated: Ticks,
    /// Configuration key and value of all that the answer depends on.
    pub settings: BTreeMap<&'static str, String>,
    /// What was read.
    pub input: Input,
    /// Records past each gate of the query, each judged as it arrived.
    pub funnel: Vec<Gate>,
    /// Findings of the whole range.
    pub findings: Findings,
    /// Each day of the range, the last 400 at most.
    pub days: Vec<DayRow>,
    /// From an opening to its retraction.
    pub time_to_retraction: RetractionTimes,
    /// Where findings were opened most.
    pub top: Top,
    /// Openings by server and hour of the day in UTC.
    pub heat_map: Vec<HeatRow>,
    /// The findings themselves, the most severe and newest.
    pub details: Details,
    /// Findings a day by other settings.
    pub what_if: WhatIfReport,
}

/// Findings of the whole range. What suppression rules match is in `all` and not in `shown`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Findings {
    /// With the rules off.
    pub all: Ends,
    /// With the rules on.
    pub shown: Ends,
    /// Open at the end of the input.
    pub open_at_end: u64,
    /// Opened a day, with the rules on, over the days after warm-up; over all days where there is none.
    pub opened_a_day: f64,
    /// Changes that each rule matched.
    pub suppressed: BTreeMap<String, u64>,
}

/// What happened on a day (UTC).
#[derive(Clone, Debug, Serialize)]
pub struct DayRow {
    /// As `2026-03-01`.
    #[serde(serialize_with = "as_text")]
    pub day: Day,
    /// The baseline was young on some of it: "never seen" may mean "not watched".
    pub warm_up: bool,
    /// With suppression rules off.
    pub all: Ends,
    /// With suppression rules on.
    pub shown: Ends,
}

fn as_text<T: std::fmt::Display, S: serde::Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

impl Report {
    /// One JSON object, for people to read as well.
    ///
    /// # Errors
    /// Those of writing.
    pub fn write_json(&self, to: &mut dyn std::io::Write) -> std::io::Result<()> {
        serde_json::to_writer_pretty(&mut *to, self)?;
        to.write_all(b"\n")
    }

    /// Whether any suppression rule was in force and matched.
    #[must_use]
    pub fn is_suppressing(&self) -> bool {
        !self.findings.suppressed.is_empty()
    }
}
