//! How far the arrival clock may be moved while the input is idle, from clocks that are given, not read.
//!
//! Invariant (INV-idle): the clock is never moved further than the broker's timestamp of the data (where there is none, the arrival
//! clock) plus the monotonic time since that data came, less `input.idle_delay`; and never past the host's clock less that delay.
//! So a host's clock that jumps ahead, by a wrong battery clock, an administrator or a suspended machine, expires nobody's state: the
//! monotonic clock knows of no jumps. Moving the clock and journaling it is the task's.

use crate::planted::{self, Bug};
use crate::time::{Span, Ticks};
use std::time::Instant;

/// The bound of idle advances.
#[derive(Debug)]
pub(super) struct IdleClock {
    delay: Span,
    /// The latest that the data says it is, and when it said so.
    data: Option<(Ticks, Instant)>,
    /// The host's clock when it was first read, or after its last step.
    host: Option<(Ticks, Instant)>,
}

/// The host's clock and the monotonic one may part by this much without being told: time servers slew.
const SLEW: Span = Span::minutes(1);

fn after((at, since): (Ticks, Instant), now: Instant) -> Ticks {
    at.plus(Span::from(now.saturating_duration_since(since)))
}

impl IdleClock {
    pub(super) fn new(delay: Span) -> IdleClock {
        IdleClock { delay, data: None, host: None }
    }

    /// Data came that the broker appended at this instant.
    pub(super) fn data(&mut self, at: Ticks, now: Instant) {
        if self.data.is_none_or(|data| after(data, now) < at) {
            self.data = Some((at, now));
        }
    }

    /// Where the arrival clock stood when no data had come yet.
    pub(super) fn begin(&mut self, at: Ticks, now: Instant) {
        self.data.get_or_insert((at, now));
    }

    /// Where the arrival clock may be moved to now, in whole seconds: one journal entry a second at most. `None` before any data.
    pub(super) fn advance(&self, host: Ticks, now: Instant) -> Option<Ticks> {
        let second = crate::time::TICKS_PER_SECOND;
        let data = after(self.data?, now);
        let bound = if planted::is(Bug::HostClockBelieved) { host } else { data.min(host) }.minus(self.delay);
        Some(Ticks(bound.0.div_euclid(second) * second))
    }

    /// How far the host's clock was stepped since the last call, in ticks; `None` when it went as the monotonic one did.
    pub(super) fn step(&mut self, host: Ticks, now: Instant) -> Option<i64> {
        let by = host.0 - after(*self.host.get_or_insert((host, now)), now).0;
        if by.abs() <= SLEW.0 {
            return None;
        }
        self.host = Some((host, now));
        Some(by)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::defender::{Body, DeviceInfo, NetworkEvent, Record};
    use crate::detector::{Detector, Effect, Settings};
    use crate::host_clock::monotonic;
    use proptest::prelude::*;
    use std::io::Write;
    use std::time::Duration;

    const DELAY: Span = Span::minutes(10);
    const YEAR: i64 = Span::days(365).0;
    const START: Ticks = Ticks(1_790_000_000 * crate::time::TICKS_PER_SECOND);

    #[test]
    fn a_steady_clock_is_followed_less_the_delay() {
        let (mut clock, begun) = (IdleClock::new(DELAY), monotonic());
        assert_eq!(clock.advance(START, begun), None, "before any data");
        clock.data(START, begun);
        let later = begun + Duration::from_secs(3600);
        let now = START.plus(Span::hours(1));
        assert_eq!(clock.advance(now, later), Some(now.minus(DELAY)));
        // Old data does not hold it back, a host that is behind does.
        clock.data(START.minus(Span::days(9)), later);
        assert_eq!(clock.advance(now, later), Some(now.minus(DELAY)));
        assert_eq!(clock.advance(now.minus(Span::minutes(30)), later), Some(now.minus(Span::minutes(40))));
    }

    #[test]
    fn a_step_is_told_once() {
        let (mut clock, begun) = (IdleClock::new(DELAY), monotonic());
        assert_eq!(clock.step(START, begun), None);
        let later = begun + Duration::from_secs(60);
        assert_eq!(clock.step(START.plus(Span::seconds(70)), later), None, "slewed");
        assert_eq!(clock.step(START.plus(Span::days(365)), later), Some(YEAR - Span::minutes(1).0));
        assert_eq!(clock.step(START.plus(Span::days(365)), later), None);
        assert_eq!(clock.step(START.plus(Span::minutes(1)), later), Some(Span::minutes(1).0 - YEAR));
    }

    proptest! {
        /// INV-idle, whatever the host's clock says.
        #[test]
        fn no_host_clock_moves_it_past_the_data_and_the_time_since(steps in prop::collection::vec((0u64..100_000, -2 * YEAR..2 * YEAR, any::<bool>()), 1..60)) {
            let (mut clock, begun) = (IdleClock::new(DELAY), monotonic());
            let (mut now, mut elapsed) = (begun, 0i64);
            clock.data(START, begun);
            for (seconds, jump, data) in steps {
                now += Duration::from_secs(seconds);
                elapsed += Span::seconds(seconds as i64).0;
                let truth = START.plus(Span(elapsed));
                if data { clock.data(truth, now) }
                let host = Ticks(truth.0 + jump);
                let to = clock.advance(host, now).unwrap();
                prop_assert!(to <= truth.minus(DELAY) && to <= host.minus(DELAY));
                prop_assert!(jump < 0 || to == truth.minus(DELAY), "a host that is ahead is as good as one that is right");
            }
        }
    }

    #[test]
    fn answer_host_clock_jumps() {
        let mut detector = Detector::new(Settings::default());
        let mut effects = Vec::new();
        let info = DeviceInfo { timestamp: START, device_id: "s", device_name: "s", os_platform: "Linux", device_type: "Server" };
        detector.record(&Record { arrival: START, tenant: "t", body: Body::Device(info) }, &mut effects);
        let event = NetworkEvent {
            timestamp: START,
            device_id: "s".into(),
            device_name: "s",
            remote_ip: "203.0.113.1",
            company: "Acme",
            ..NetworkEvent::default()
        };
        detector.record(&Record { arrival: START, tenant: "t", body: Body::Network(event) }, &mut effects);
        assert!(matches!(effects.drain(..).next(), Some(Effect::Change(_))));
        let before = detector.tracked();
        let (mut clock, begun) = (IdleClock::new(DELAY), monotonic());
        clock.data(START, begun);
        // A year ahead, a year back, a machine that slept for a month (its monotonic clock did not), an hour of quiet between.
        let mut now = begun;
        for jump in [Span(YEAR), Span(-YEAR), Span::days(30)] {
            now += Duration::from_secs(3600);
            let host = Ticks(START.0 + jump.0).plus(Span::from(now - begun));
            detector.advance("t", clock.advance(host, now).unwrap(), &mut effects);
        }
        let (_, at) = detector.clocks().next().unwrap();
        assert_eq!((effects.len(), detector.tracked()), (0, before), "no state is lost and nothing is said");
        assert_eq!(at, START.plus(Span::hours(3)).minus(DELAY));
        let mut uncaptured = std::io::stdout();
        writeln!(uncaptured, "answer, host clock jumps: a year ahead, a year back, 30 days asleep: the arrival clock went 2h50m in 3h, 0 changes, 0 rows lost").unwrap();
    }
}
