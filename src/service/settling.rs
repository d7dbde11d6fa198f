//! When the output topics have settled after a crash, and what stands in them by then.
//!
//! A process that was killed may have had requests on their way which a broker takes, or shows, only after its successor has looked. After
//! `output.settle_delay` that is over (docs/guarantees.md says what that assumes), and the topics are read once more, from where the
//! start's reading ended.

use super::ServiceError;
use super::restore::{Outputs, published_since};
use crate::planted::{self, Bug};
use crate::state::snapshot::Positions;
use crate::task::Published;
use std::time::{Duration, Instant};

/// How long a reading rests that no broker answered.
const RETRY: Duration = Duration::from_secs(5);

/// What is to be read again, and when.
pub(super) struct Settling {
    outputs: Box<dyn Outputs>,
    from: Positions,
    due: Instant,
}

impl Settling {
    /// The topics settle at `due`; they were read up to `from`.
    pub(super) fn new(outputs: Box<dyn Outputs>, from: Positions, due: Instant) -> Settling {
        Settling { outputs, from, due }
    }

    /// When it is to be looked again.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Reads what came since, and where the topics end now; `None` when no broker answers, which is tried again later.
    ///
    /// # Errors
    /// The topics can't be read.
    pub(super) fn read(&mut self, now: Instant) -> Result<Option<(Published, Positions)>, ServiceError> {
        if planted::is(Bug::LateWritesNotLookedFor) {
            return Ok(Some((Published::default(), self.from.clone())));
        }
        match published_since(&mut *self.outputs, &self.from) {
            Ok(read) => Ok(Some(read)),
            Err(error) if error.is_an_outage() => {
                tracing::warn!(%error, "the output topics can't be read again; what a killed process may have sent stays held back");
                self.due = now + RETRY;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}
