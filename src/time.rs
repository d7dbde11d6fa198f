//! Instants and durations in Defender's own resolution: ticks of 100 ns since the Unix epoch.
//!
//! Everything that decides a finding computes in [`Ticks`]; nothing here reads a clock. The text form is RFC 3339 in UTC,
//! with up to seven fractional digits, as Defender's streaming API writes it.

use std::fmt;
use std::time::Duration;

/// Ticks in one second.
pub const TICKS_PER_SECOND: i64 = 10_000_000;

/// An instant: 100 ns ticks since 1970-01-01T00:00:00Z (negative before it). Years 1 to 9999.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Ticks(pub i64);

impl Ticks {
    /// Earlier than every readable instant; stands for "never".
    pub const MIN: Ticks = Ticks(i64::MIN);
    /// Later than every readable instant.
    pub const MAX: Ticks = Ticks(i64::MAX);

    /// The instant `span` later; saturates.
    #[must_use]
    pub const fn plus(self, span: Span) -> Ticks {
        Ticks(self.0.saturating_add(span.0))
    }

    /// The instant `span` earlier; saturates, so `MIN` stays `MIN`.
    #[must_use]
    pub const fn minus(self, span: Span) -> Ticks {
        Ticks(self.0.saturating_sub(span.0))
    }

    /// From milliseconds since the Unix epoch (Kafka's record timestamps).
    #[must_use]
    pub const fn from_millis(millis: i64) -> Ticks {
        Ticks(millis.saturating_mul(10_000))
    }

    /// Seconds since the Unix epoch, for metrics.
    #[must_use]
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / TICKS_PER_SECOND as f64
    }

    /// Parses RFC 3339 (`2026-01-02T03:04:05[.1234567][Z|±hh:mm]`, `T` or a space between date and time; a missing zone is
    /// UTC). More than seven fractional digits are cut. `None` when the text is not such an instant of the years 1 to 9999.
    #[must_use]
    pub fn parse(text: &str) -> Option<Ticks> {
        let b = text.as_bytes();
        let number = |from: usize, len: usize| -> Option<i64> {
            b.get(from..from + len)?.iter().try_fold(0i64, |n, c| c.is_ascii_digit().then(|| n * 10 + i64::from(c - b'0')))
        };
        let is = |at: usize, c: u8| b.get(at) == Some(&c);
        if !(is(4, b'-') && is(7, b'-') && (is(10, b'T') || is(10, b't') || is(10, b' ')) && is(13, b':') && is(16, b':')) {
            return None;
        }
        let (year, month, day) = (number(0, 4)?, number(5, 2)?, number(8, 2)?);
        let (hour, minute, second) = (number(11, 2)?, number(14, 2)?, number(17, 2)?);
        if year == 0 || !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) || hour > 23 || minute > 59 || second > 59
        {
            return None;
        }
        let mut at = 19;
        let mut fraction = 0;
        if is(at, b'.') {
            at += 1;
            let start = at;
            let mut scale = TICKS_PER_SECOND / 10;
            while let Some(c) = b.get(at).filter(|c| c.is_ascii_digit()) {
                fraction += i64::from(c - b'0') * scale;
                scale /= 10;
                at += 1;
            }
            if at == start {
                return None;
            }
        }
        let offset = match b.get(at..)? {
            [] | [b'Z'] | [b'z'] => 0,
            [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
                let (h, m) = (number(at + 1, 2)?, number(at + 4, 2)?);
                if h > 23 || m > 59 {
                    return None;
                }
                (h * 3600 + m * 60) * if *sign == b'+' { 1 } else { -1 }
            }
            _ => return None,
        };
        let seconds = days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset;
        Some(Ticks(seconds * TICKS_PER_SECOND + fraction))
    }
}

/// RFC 3339 in UTC; seven fractional digits, trailing zeros trimmed as Defender does.
impl fmt::Display for Ticks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, fraction) = (self.0.div_euclid(TICKS_PER_SECOND), self.0.rem_euclid(TICKS_PER_SECOND));
        let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        let (year, month, day) = civil_from_days(days);
        write!(f, "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)?;
        if fraction != 0 {
            let digits = format!("{fraction:07}");
            write!(f, ".{}", digits.trim_end_matches('0'))?;
        }
        f.write_str("Z")
    }
}

impl fmt::Debug for Ticks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Ticks::MIN => f.write_str("never"),
            Ticks::MAX => f.write_str("for ever"),
            _ => fmt::Display::fmt(self, f),
        }
    }
}

impl serde::Serialize for Ticks {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A length of time in 100 ns ticks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Span(pub i64);

impl Span {
    /// No time at all.
    pub const ZERO: Span = Span(0);

    /// A span of whole seconds.
    #[must_use]
    pub const fn seconds(n: i64) -> Span {
        Span(n * TICKS_PER_SECOND)
    }

    /// A span of whole minutes.
    #[must_use]
    pub const fn minutes(n: i64) -> Span {
        Span::seconds(n * 60)
    }

    /// A span of whole hours.
    #[must_use]
    pub const fn hours(n: i64) -> Span {
        Span::seconds(n * 3600)
    }

    /// A span of whole days of 24 hours.
    #[must_use]
    pub const fn days(n: i64) -> Span {
        Span::seconds(n * 86_400)
    }

    /// The difference of two spans.
    #[must_use]
    pub const fn minus(self, other: Span) -> Span {
        Span(self.0 - other.0)
    }
}

impl From<Duration> for Span {
    fn from(d: Duration) -> Span {
        Span(i64::try_from(d.as_nanos() / 100).unwrap_or(i64::MAX))
    }
}

/// The shortest exact text: `14d`, `5d`, `90m`, `250ms`.
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, name) in
            [(Span::days(1).0, "d"), (Span::hours(1).0, "h"), (Span::minutes(1).0, "m"), (TICKS_PER_SECOND, "s"), (10_000, "ms")]
        {
            if self.0 % unit == 0 && self.0 != 0 {
                return write!(f, "{}{name}", self.0 / unit);
            }
        }
        if self.0 == 0 { f.write_str("0s") } else { write!(f, "{}ns", i128::from(self.0) * 100) }
    }
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 of a civil date (H. Hinnant, "chrono-compatible low-level date algorithms").
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let year_of_era = y - era * 400;
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The civil date of a number of days since 1970-01-01; the inverse of [`days_from_civil`].
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z - era * 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let mp = (5 * day_of_year + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day_of_year - (153 * mp + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_longest_spans_can_be_shown() {
        assert_eq!([Span(i64::MAX), Span(i64::MIN + 1)].map(|s| s.to_string()), ["922337203685477580700ns", "-922337203685477580700ns"]);
    }

    #[test]
    fn reads_every_form_that_defender_writes() {
        let t = Ticks::parse("2026-03-01T10:20:30.1234567Z").unwrap();
        assert_eq!(t.to_string(), "2026-03-01T10:20:30.1234567Z");
        assert_eq!(Ticks::parse("2026-03-01T10:20:30.12Z").unwrap().0 % TICKS_PER_SECOND, 1_200_000);
        assert_eq!(Ticks::parse("2026-03-01T10:20:30"), Ticks::parse("2026-03-01T10:20:30Z"));
        assert_eq!(Ticks::parse("2026-03-01T12:20:30+02:00"), Ticks::parse("2026-03-01T10:20:30Z"));
        assert_eq!(Ticks::parse("1970-01-01T00:00:00Z"), Some(Ticks(0)));
        assert_eq!(Ticks::parse("0001-01-01T00:00:00Z").unwrap().to_string(), "0001-01-01T00:00:00Z");
    }

    #[test]
    fn refuses_what_is_no_instant() {
        for text in [
            "",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01",
            "2026-01-01T00:00:00.Z",
            "0000-01-01T00:00:00Z",
            "2026-01-01T00:00:00Zz",
            "２026-01-01T00:00:00Z",
        ] {
            assert_eq!(Ticks::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_round_trips(ticks in -621_355_968_000_000_000i64..2_534_022_144_000_000_000) {
            prop_assert_eq!(Ticks::parse(&Ticks(ticks).to_string()), Some(Ticks(ticks)));
        }
    }
}
