//! Window arithmetic: a window of length `w` holds the events with `t > now − w` (the query's `Timestamp > ago(w)`).

use crate::time::{Span, Ticks};

/// Whether an event at `t` is in the window at `now`. There is no upper bound.
#[inline]
pub(crate) fn holds(t: Ticks, now: Ticks, window: Span) -> bool {
    t > now.minus(window)
}

/// The first instant at which an event at `t` is no longer in the window.
#[inline]
pub(crate) fn ends(t: Ticks, window: Span) -> Ticks {
    t.plus(window)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_event_is_held_until_the_instant_before_its_end(t in -1_000_000i64..1_000_000, w in 1i64..1_000_000, d in -2_000_000i64..2_000_000) {
            let (t, w) = (Ticks(t), Span(w));
            let now = Ticks(t.0 + d);
            prop_assert_eq!(holds(t, now, w), now < ends(t, w));
        }
    }
}
