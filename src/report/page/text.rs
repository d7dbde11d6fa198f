//! Foreign text on the page: maud escapes what is markup, this what hides, moves or reorders text.

use crate::finding::reason::is_unsafe;
use maud::{Markup, Render, html};
use std::fmt::Write as _;

/// A text from the input. Control, format and direction characters are written out.
pub(super) struct Foreign<'a>(pub(super) &'a str);

impl Render for Foreign<'_> {
    fn render(&self) -> Markup {
        let mut safe = String::with_capacity(self.0.len());
        for c in self.0.chars() {
            if is_unsafe(c) {
                let _ = write!(safe, "\\u{{{:x}}}", u32::from(c));
            } else {
                safe.push(c);
            }
        }
        // Isolated: a name in a right-to-left script must not reorder what stands beside it.
        html! { bdi { (safe) } }
    }
}

/// A text from the input, or a word for its absence.
pub(super) fn or_unknown(text: &str) -> Markup {
    html! { @if text.is_empty() { span.unknown { "not known" } } @else { (Foreign(text)) } }
}

/// A number with its thousands apart.
pub(super) fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

/// A mean for people: three digits that count.
pub(super) fn mean(n: f64) -> String {
    if n >= 100.0 {
        number(n.round() as u64)
    } else if n >= 10.0 || n == 0.0 {
        format!("{n:.0}")
    } else if n >= 0.095 {
        format!("{n:.1}")
    } else {
        format!("{n:.2}")
    }
}

/// Seconds as people say them.
pub(super) fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_shown_and_does_nothing() {
        let text = Foreign("<script>\u{202e}a\u{7}&\"'").render().into_string();
        assert_eq!(text, r#"<bdi>&lt;script&gt;\u{202e}a\u{7}&amp;&quot;'</bdi>"#);
        assert!(or_unknown("").into_string().contains("not known"));
    }

    #[test]
    fn numbers_are_for_people() {
        assert_eq!([0, 999, 1000, 1234567].map(number), ["0", "999", "1\u{202f}000", "1\u{202f}234\u{202f}567"]);
        assert_eq!([0.0, 0.04, 0.4, 9.96, 12.4, 1234.5].map(mean), ["0", "0.04", "0.4", "10.0", "12", "1\u{202f}235"]);
        assert_eq!([0.0, 89.0, 600.0, 9000.0].map(duration), ["0 s", "89 s", "10 min", "2.5 h"]);
    }
}
