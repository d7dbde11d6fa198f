//! The only place that reads the host's clocks. `clippy.toml` bans the calls everywhere else, so whoever needs a clock says so by
//! naming this module; nothing that decides a finding may.

use crate::time::{Span, Ticks};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The host's wall clock. A clock before 1970 counts as 1970.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one reading of the wall clock that edges share")]
pub fn now() -> Ticks {
    Ticks(0).plus(Span::from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()))
}

/// The host's monotonic clock: for deadlines, rates and latencies.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one reading of the monotonic clock that edges share")]
pub fn monotonic() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wall_clock_is_after_this_code_was_written() {
        assert!(now() > Ticks::parse("2025-01-01T00:00:00Z").unwrap());
    }
}
