//! Feeds decoded messages to the detector and counts what becomes of them: the step that the service and the backtest share.

use crate::defender::batch::{Batch, Item};
use crate::defender::reason::Reason;
use crate::defender::{Body, Record};
use crate::detector::{Detector, Effect, LOOK_AHEAD, Settings};
use crate::finding::Change;
use crate::planted::{self, Bug};
use crate::time::Ticks;
use std::collections::BTreeMap;

/// Table names of the records that are read.
const NETWORK: &str = "AdvancedHunting-DeviceNetworkEvents";
const DEVICE: &str = "AdvancedHunting-DeviceInfo";

/// A record, or a whole message, that could not be accepted.
#[derive(Clone, Copy, Debug)]
pub struct DeadLetter<'a> {
    /// Position in `records`; `None` for a whole message.
    pub index: Option<u32>,
    /// Why.
    pub reason: Reason,
    /// Why, in words.
    pub error: &'a str,
    /// Its own bytes.
    pub raw: &'a [u8],
}

/// Takes what comes of a message.
pub trait Output {
    /// What follows is of the message with this tag.
    fn message(&mut self, source: u64) {
        let _ = source;
    }
    /// A record was accepted.
    fn record(&mut self, record: &Record<'_>) {
        let _ = record;
    }
    /// A change of a finding.
    fn change(&mut self, change: Box<Change>);
    /// A change in these cells, of a detector that judges by many thresholds.
    fn cells(&mut self, change: Box<Change>, cells: u64) {
        let _ = (change, cells);
    }
    /// A dead letter.
    fn dead_letter(&mut self, letter: DeadLetter<'_>);
}

/// What became of records since the last look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Messages.
    pub messages: u64,
    /// Accepted rows of DeviceNetworkEvents.
    pub network: u64,
    /// Accepted rows of DeviceInfo.
    pub device: u64,
    /// Skipped records by category.
    pub skipped: BTreeMap<String, u64>,
    /// Dead letters by reason.
    pub dead: BTreeMap<&'static str, u64>,
    /// Accepted events that a candidate had counted before.
    pub repeats: u64,
    /// Records of tenants that are not wanted.
    pub other_tenants: u64,
    /// Records refused by the detector, by table (they are dead letters too).
    pub refused: BTreeMap<&'static str, u64>,
}

impl Tally {
    /// Records of all kinds.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.network + self.device + self.skipped.values().sum::<u64>() + self.dead.values().sum::<u64>()
    }

    /// (category, accepted records).
    #[must_use]
    pub fn accepted(&self) -> [(&'static str, u64); 2] {
        [(NETWORK, self.network), (DEVICE, self.device)]
    }
}

/// The detector and what has been counted of its input.
#[derive(Debug)]
pub struct Feed {
    /// The detector.
    pub detector: Detector,
    /// What became of records; the owner takes it when it reports.
    pub tally: Tally,
    /// The tenants whose records count; empty: all.
    pub tenants: Vec<String>,
    effects: Vec<Effect>,
}

impl Feed {
    /// Feeds `detector`.
    #[must_use]
    pub fn new(detector: Detector) -> Feed {
        Feed { detector, tally: Tally::default(), tenants: Vec::new(), effects: Vec::new() }
    }

    /// Takes all that is in a batch.
    pub fn batch(&mut self, batch: &Batch, output: &mut impl Output) {
        let mut rows = 0;
        for item in batch.items() {
            if !matches!(item, Item::Message { .. }) {
                if rows % LOOK_AHEAD == 0 {
                    self.detector.look_ahead(batch.upcoming(rows, LOOK_AHEAD));
                }
                rows += 1;
            }
            self.item(item, output);
        }
    }

    #[inline]
    fn item(&mut self, item: Item<'_>, output: &mut impl Output) {
        match item {
            Item::Message { source } => {
                self.tally.messages += 1;
                output.message(source);
            }
            Item::Record { record, .. } if !self.is_wanted(record.tenant) => self.tally.other_tenants += 1,
            Item::Record { index, record, raw } => {
                self.detector.record(&record, &mut self.effects);
                let mut accepted = true;
                for effect in self.effects.drain(..) {
                    match effect {
                        Effect::Change(change) => output.change(change),
                        Effect::Cells(change, cells) => output.cells(change, cells),
                        Effect::Repeat => self.tally.repeats += 1,
                        Effect::TimestampAhead => {
                            accepted = false;
                            let (reason, error) =
                                (Reason::TimestampAhead, "Timestamp is further ahead of the arrival clock than input.max_clock_skew");
                            output.dead_letter(DeadLetter { index: Some(index), reason, error, raw });
                        }
                    }
                }
                if accepted {
                    output.record(&record);
                }
                let table = if matches!(record.body, Body::Device(_)) { DEVICE } else { NETWORK };
                match record.body {
                    _ if !accepted => {
                        *self.tally.dead.entry(Reason::TimestampAhead.as_str()).or_default() += 1;
                        *self.tally.refused.entry(table).or_default() += 1;
                    }
                    Body::Network(_) => self.tally.network += 1,
                    Body::Device(_) => self.tally.device += 1,
                    Body::Skipped(category) => match self.tally.skipped.get_mut(category) {
                        Some(n) => *n += 1,
                        None => drop(self.tally.skipped.insert(category.to_owned(), 1)),
                    },
                }
            }
            Item::Dead { index, reason, error, raw } => {
                *self.tally.dead.entry(reason.as_str()).or_default() += 1;
                output.dead_letter(DeadLetter { index, reason, error: &error, raw });
            }
        }
    }

    /// Whether records of this tenant count.
    #[must_use]
    pub fn is_wanted(&self, tenant: &str) -> bool {
        self.tenants.is_empty() || self.tenants.iter().any(|wanted| wanted.eq_ignore_ascii_case(tenant))
    }

    /// Puts other settings in force.
    pub fn change_settings(&mut self, settings: Settings, output: &mut impl Output) {
        self.detector.change_settings(settings, &mut self.effects);
        for effect in self.effects.drain(..) {
            if let Effect::Change(change) = effect {
                output.change(change);
            }
        }
    }

    /// Moves a tenant's clock without a record.
    pub fn advance(&mut self, tenant: &str, to: Ticks, output: &mut impl Output) {
        self.detector.advance(tenant, to, &mut self.effects);
        for effect in self.effects.drain(..) {
            if let Effect::Change(change) = effect {
                if planted::is(Bug::TimerFiredTwice) {
                    output.change(change.clone());
                }
                output.change(change);
            }
        }
    }
}
