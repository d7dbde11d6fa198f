//! The grid's axes: the thresholds and lookbacks that are compared. The configured values are always among them.

use crate::detector::{MOST_CELLS, Settings};
use crate::time::Span;

/// What is compared, each ascending and without repeats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Axes {
    /// `query.prevalence_below`.
    pub prevalence_below: Vec<u32>,
    /// `query.vendor_servers_below`.
    pub vendor_servers_below: Vec<u32>,
    /// `query.lookback`.
    pub lookback: Vec<Span>,
}

/// What is asked for; empty: the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Thresholds of prevalence.
    pub prevalence_below: Vec<u32>,
    /// Thresholds of vendors.
    pub vendor_servers_below: Vec<u32>,
    /// Lookbacks.
    pub lookback: Vec<Span>,
}

/// Axes that make no grid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AxesError {
    /// A lookback by which no backtest would run.
    #[error(
        "a what-if lookback of {given} is too short: query.new_within ({new_within}) must be shorter and query.prevalence_window \
         ({prevalence_window}) not longer; leave it out, or shorten these"
    )]
    Lookback {
        /// As asked for.
        given: Span,
        /// As configured.
        new_within: Span,
        /// As configured.
        prevalence_window: Span,
    },
    /// More pairs of thresholds than are judged at once.
    #[error("{0} pairs of what-if thresholds, at most {MOST_CELLS}: give fewer values, or run twice (configured values are always added)")]
    TooMany(usize),
    /// More lookbacks than detectors that one machine should hold.
    #[error("{0} what-if lookbacks, at most {MOST_LOOKBACKS}: each takes the memory of a detector; give fewer, or run twice")]
    TooManyLookbacks(usize),
}

/// Each takes a thread and a detector's memory.
pub const MOST_LOOKBACKS: usize = 8;

const PREVALENCE: [u32; 6] = [2, 3, 4, 6, 8, 12];
const VENDOR_SERVERS: [u32; 4] = [2, 4, 6, 10];
const LOOKBACK_DAYS: [i64; 3] = [5, 7, 14];

impl Axes {
    /// What is wished for and what is configured; 6 × 4 × 3 cells by default.
    ///
    /// # Errors
    /// When a lookback fits no settings, or there are too many values.
    pub fn new(wish: &Wish, settings: &Settings) -> Result<Axes, AxesError> {
        let fits = |lookback: &Span| *lookback > settings.new_within && *lookback >= settings.prevalence_window;
        if let Some(given) = wish.lookback.iter().find(|lookback| !fits(lookback)) {
            let Settings { new_within, prevalence_window, .. } = *settings;
            return Err(AxesError::Lookback { given: *given, new_within, prevalence_window });
        }
        let defaults = LOOKBACK_DAYS.into_iter().map(Span::days).filter(fits).collect();
        let axes = Axes {
            prevalence_below: axis(&wish.prevalence_below, PREVALENCE.to_vec(), settings.prevalence_below),
            vendor_servers_below: axis(&wish.vendor_servers_below, VENDOR_SERVERS.to_vec(), settings.vendor_servers_below),
            lookback: axis(&wish.lookback, defaults, settings.lookback),
        };
        let pairs = axes.prevalence_below.len() * axes.vendor_servers_below.len();
        if pairs > MOST_CELLS {
            return Err(AxesError::TooMany(pairs));
        }
        if axes.lookback.len() > MOST_LOOKBACKS {
            return Err(AxesError::TooManyLookbacks(axes.lookback.len()));
        }
        Ok(axes)
    }

    /// How many cells the grid has.
    #[must_use]
    pub fn cells(&self) -> usize {
        self.prevalence_below.len() * self.vendor_servers_below.len() * self.lookback.len()
    }
}

fn axis<T: Ord + Copy>(wished: &[T], default: Vec<T>, configured: T) -> Vec<T> {
    let mut values = if wished.is_empty() { default } else { wished.to_vec() };
    values.push(configured);
    values.sort_unstable();
    values.dedup();
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_grid_has_72_cells_and_the_configured_values_are_in_every_grid() {
        let axes = Axes::new(&Wish::default(), &Settings::default()).unwrap();
        assert_eq!(axes.cells(), 72);
        let odd = Settings { prevalence_below: 5, vendor_servers_below: 11, lookback: Span::days(6), ..Settings::default() };
        let axes = Axes::new(&Wish { prevalence_below: vec![9, 3, 9], ..Wish::default() }, &odd).unwrap();
        assert_eq!((axes.prevalence_below, axes.vendor_servers_below), (vec![3, 5, 9], vec![2, 4, 6, 10, 11]));
        assert_eq!(axes.lookback, [5, 6, 7, 14].map(Span::days));
    }

    #[test]
    fn what_no_backtest_could_run_by_is_refused_and_not_among_the_defaults() {
        let wish = Wish { lookback: vec![Span::days(3)], ..Wish::default() };
        let error = Axes::new(&wish, &Settings::default()).unwrap_err().to_string();
        assert!(error.contains("3d") && error.contains("query.prevalence_window (5d)"), "{error}");
        let long = Settings { lookback: Span::days(30), prevalence_window: Span::days(10), ..Settings::default() };
        assert_eq!(Axes::new(&Wish::default(), &long).unwrap().lookback, [14, 30].map(Span::days));
    }

    #[test]
    fn more_than_can_be_judged_at_once_is_refused() {
        let wish = Wish { prevalence_below: (1..=33).collect(), vendor_servers_below: vec![1, 10], ..Wish::default() };
        assert_eq!(Axes::new(&wish, &Settings::default()), Err(AxesError::TooMany(66)));
        let wish = Wish { lookback: (6..14).map(Span::days).collect(), ..Wish::default() };
        assert_eq!(Axes::new(&wish, &Settings::default()), Err(AxesError::TooManyLookbacks(9)));
    }
}
