//! What if: how many findings a day there would be by other thresholds and lookbacks, from one pass over the input.
//!
//! For each lookback a detector of cells judges all pairs of thresholds, on a thread of its own; all take the same decoded batches.
//! Each cell's numbers are those of a separate backtest with that cell's settings, with and without what suppression rules match. A rule's
//! expression that reads a finding's id or revision is the one thing that can't be answered here: both are those of no cell.

pub mod axes;
mod tally;

pub use axes::{Axes, AxesError};
pub use tally::{Cell, Day, Ends};

use crate::defender::batch::Batch;
use crate::detector::{Detector, Funnel, Settings};
use crate::feed::Feed;
use crate::finding::severity::Privileged;
use crate::suppress::Rules;
use crate::time::Span;
use crossbeam_channel::{Sender, bounded};
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use tally::Tally;

/// Batches that wait before each detector.
const DEPTH: usize = 2;

/// The answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Grid {
    /// By lookback, then by the vendor threshold, then by prevalence, each ascending.
    pub cells: Vec<Cell>,
    /// Events past each gate of the configured settings.
    pub funnel: Funnel,
}

/// A detector's thread and how it is fed.
#[derive(Debug)]
struct Worker {
    batches: Sender<Arc<Batch>>,
    /// Gives its cells and its funnel when the input has ended.
    thread: JoinHandle<(Vec<Cell>, Funnel)>,
    is_configured: bool,
}

/// A grid at work.
#[derive(Debug)]
pub struct WhatIf(Vec<Worker>);

impl WhatIf {
    /// Starts a thread for each lookback of the grid. `tenants` are those whose records count; empty: all.
    ///
    /// # Errors
    /// When a thread can't be started.
    pub fn start(axes: &Axes, settings: &Settings, rules: &Rules, privileged: &Privileged, tenants: &[String]) -> io::Result<WhatIf> {
        let worker = |lookback: Span| {
            let is_configured = lookback == settings.lookback;
            let settings = Settings { lookback, ..settings.clone() };
            let (prevalence, vendors) = (axes.prevalence_below.clone(), axes.vendor_servers_below.clone());
            let mut tally = Tally::new(&settings, &prevalence, &vendors, rules.clone(), privileged.clone());
            let mut feed = Feed::new(Detector::of_cells(settings, &prevalence, &vendors, is_configured));
            feed.tenants = tenants.to_vec();
            let (batches, taken) = bounded::<Arc<Batch>>(DEPTH);
            let work = move || {
                for batch in taken {
                    feed.batch(&batch, &mut tally);
                }
                (tally.into_cells(), feed.detector.funnel().unwrap_or_default())
            };
            Ok(Worker { batches, thread: thread::Builder::new().name("what-if".into()).spawn(work)?, is_configured })
        };
        let workers = axes.lookback.iter().map(|lookback| worker(*lookback));
        Ok(WhatIf(workers.collect::<io::Result<_>>()?))
    }

    /// Takes the next batch; waits while a detector is behind.
    pub fn take(&self, batch: &Arc<Batch>) {
        for worker in &self.0 {
            // A thread that ended early panicked: `finish` says so.
            let _ = worker.batches.send(Arc::clone(batch));
        }
    }

    /// The input has ended.
    ///
    /// # Errors
    /// When a thread broke.
    pub fn finish(self) -> io::Result<Grid> {
        let mut grid = Grid::default();
        for Worker { batches, thread, is_configured } in self.0 {
            drop(batches);
            let (cells, funnel) = thread.join().map_err(|_| io::Error::other("a what-if detector broke: please report this"))?;
            grid.cells.extend(cells);
            if is_configured {
                grid.funnel = funnel;
            }
        }
        Ok(grid)
    }
}
