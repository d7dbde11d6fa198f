//! Lengths of time as text: `14d`, `10m`, `1h30m`, `250ms`. Exact in ticks; no fractions, no signs, no default unit.

use crate::time::Span;

/// Ten thousand years: far more than any window needs, far less than overflows an instant.
const LONGEST: Span = Span::days(3_650_000);

/// Reads a length of time: one or more whole numbers, each with its unit (`d`, `h`, `m`, `s`, `ms`), largest unit first.
/// `None` when the text is anything else or longer than ten thousand years.
#[must_use]
pub fn parse(text: &str) -> Option<Span> {
    let mut rest = text;
    let mut total: i64 = 0;
    let mut last_unit = i64::MAX;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, after) = rest.split_at(digits);
        let letters = after.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let unit = match unit {
            "d" => Span::days(1),
            "h" => Span::hours(1),
            "m" => Span::minutes(1),
            "s" => Span::seconds(1),
            "ms" => Span(10_000),
            _ => return None,
        };
        if unit.0 >= last_unit {
            return None;
        }
        last_unit = unit.0;
        total = total.checked_add(number.parse::<i64>().ok()?.checked_mul(unit.0)?)?;
        rest = after;
    }
    (!text.is_empty() && total <= LONGEST.0).then_some(Span(total))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_units_and_their_sums() {
        assert_eq!(parse("14d"), Some(Span::days(14)));
        assert_eq!(parse("1h30m"), Some(Span::minutes(90)));
        assert_eq!(parse("250ms"), Some(Span(2_500_000)));
        assert_eq!(parse("0s"), Some(Span::ZERO));
        assert_eq!(parse("0d"), Some(Span::ZERO));
    }

    #[test]
    fn refuses_everything_else() {
        for text in ["", "14", "d", "-1d", "1.5h", "1 d", "1D", "1w", "30m1h", "1d1d", "9999999999d", "99999999999999999999s", "1d ", "１d"]
        {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(millis in 0i64..10_000_000_000_000) {
            let span = Span(millis * 10_000);
            prop_assert_eq!(parse(&span.to_string()), Some(span));
        }
    }
}
