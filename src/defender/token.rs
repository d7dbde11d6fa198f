//! Places of scanned values: a word each, meaning something only beside the message that they were found in.
//!
//! Invariant: a [`Text`] is resolved against the message, or the arena, that it was made for; that both outlive
//! it is up to who keeps it. Finding values is left to [`scan`](super::scan).

use std::ops::Range;

/// Set in [`Text::start`] when the string lies in the arena of unescaped strings, not in the message.
const IN_ARENA: u32 = 1 << 31;

/// Where a string lies: in the message itself (its escapes, if any, still in place), or unescaped in an arena beside it.
///
/// Offsets count from the start of the message, or of the arena.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Text {
    pub(super) start: u32,
    pub(super) len: u32,
}

impl Text {
    /// The empty string.
    pub(super) const EMPTY: Text = Text { start: 0, len: 0 };

    /// What was appended to the arena since it was `start` long .
    pub(super) fn in_arena(start: usize, end: usize) -> Text {
        Text { start: start as u32 | IN_ARENA, len: (end - start) as u32 }
    }

    /// Whether it lies in the arena.
    #[inline]
    pub(super) fn is_in_arena(self) -> bool {
        self.start & IN_ARENA != 0
    }

    /// The string itself, given the message and the arena.
    #[inline]
    pub(super) fn resolve<'a>(self, message: &'a str, arena: &'a str) -> &'a str {
        let (from, range) = self.place(message, arena);
        from.get(range).expect("INV: a Text is only resolved against the message it was found in")
    }

    /// The string's bytes, without a look at them.
    #[inline]
    pub(super) fn bytes<'a>(self, message: &'a str, arena: &'a str) -> &'a [u8] {
        let (from, range) = self.place(message, arena);
        from.as_bytes().get(range).expect("INV: a Text is only resolved against the message it was found in")
    }

    #[inline]
    fn place<'a>(self, message: &'a str, arena: &'a str) -> (&'a str, Range<usize>) {
        let from = if self.start & IN_ARENA == 0 { message } else { arena };
        let start = (self.start & !IN_ARENA) as usize;
        (from, start..start + self.len as usize)
    }
}

/// A scanned value: what it is and where it lies, in one word, so that it travels in a register. (As an enum it was stored
/// in pieces and read back whole, which stalled the processor at each key and value.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Token(u64);

/// A [`Token`], unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// `null`; also the start value of a column that never came.
    Null,
    /// A string without escapes: between its quotes.
    Plain(Text),
    /// A string with escapes, still in place.
    Escaped(Text),
    /// A number, as it was written.
    Number(Text),
    /// `true` or `false`.
    Bool,
    /// An object.
    Object,
    /// An array.
    Array,
}

impl Token {
    /// `null`.
    pub(super) const NULL: Token = Token(0);
    /// `true` or `false`.
    pub(super) const BOOL: Token = Token(1 << KIND);
    /// An object.
    pub(super) const OBJECT: Token = Token(2 << KIND);
    /// An array.
    pub(super) const ARRAY: Token = Token(3 << KIND);
    pub(super) const NUMBER: u64 = 4;
    pub(super) const PLAIN: u64 = 5;
    pub(super) const ESCAPED: u64 = 6;

    /// Start in 32 bits, length in 28 (messages are shorter), kind in the highest four.
    #[inline]
    pub(super) fn spanning(kind: u64, start: usize, end: usize) -> Token {
        Token(kind << KIND | ((end - start) as u64) << 32 | start as u64)
    }

    /// What it is.
    #[inline]
    pub(super) fn unpack(self) -> Value {
        let text = Text { start: self.0 as u32, len: (self.0 >> 32) as u32 & 0x0FFF_FFFF };
        match self.0 >> KIND {
            Token::PLAIN => Value::Plain(text),
            Token::ESCAPED => Value::Escaped(text),
            Token::NUMBER => Value::Number(text),
            3 => Value::Array,
            2 => Value::Object,
            1 => Value::Bool,
            _ => Value::Null,
        }
    }

    /// The type's name with its article, for error texts.
    pub(super) fn describe(self) -> &'static str {
        match self.unpack() {
            Value::Null => "null",
            Value::Plain(_) | Value::Escaped(_) => "a string",
            Value::Number(_) => "a number",
            Value::Bool => "a boolean",
            Value::Object => "an object",
            Value::Array => "an array",
        }
    }
}

/// Lowest bit of a token's kind.
const KIND: u32 = 60;

/// Appends the meaning of a string whose escapes the scanner has checked. A lone surrogate becomes U+FFFD.
pub(super) fn unescape(mut raw: &str, out: &mut String) {
    while let Some((plain, escaped)) = raw.split_once('\\') {
        out.push_str(plain);
        let mut rest = escaped.chars();
        match rest.next() {
            Some('u') => {
                let (unit, tail) = hex(rest.as_str());
                raw = tail;
                let paired = (0xD800..0xDC00)
                    .contains(&unit)
                    .then(|| tail.strip_prefix("\\u").map(hex).filter(|(low, _)| (0xDC00..0xE000).contains(low)))
                    .flatten();
                match paired {
                    Some((low, tail)) => {
                        out.push(char::from_u32(0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00)).unwrap_or(char::REPLACEMENT_CHARACTER));
                        raw = tail;
                    }
                    None => out.push(char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER)),
                }
                continue;
            }
            Some('b') => out.push('\u{8}'),
            Some('f') => out.push('\u{c}'),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('t') => out.push('\t'),
            Some(itself) => out.push(itself),
            None => {}
        }
        raw = rest.as_str();
    }
    out.push_str(raw);
}

/// The code unit of the four hexadecimal digits at the start, and what follows them.
fn hex(text: &str) -> (u32, &str) {
    let (digits, tail) = text.split_at_checked(4).expect("INV: the scanner has checked that four digits follow \\u");
    (u32::from_str_radix(digits, 16).unwrap_or(0xFFFD), tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn surrogates_pair_up_or_are_replaced() {
        let meaning = |raw: &str| {
            let mut out = String::new();
            unescape(raw, &mut out);
            out
        };
        assert_eq!(meaning(r"a\\b\/\n\u0041\u0000"), "a\\b/\nA\0");
        assert_eq!(meaning(r"\ud83d\ude00"), "😀");
        assert_eq!(meaning(r"\ud83d\ud83d\ude00"), "\u{FFFD}😀");
        assert_eq!(meaning(r"\ude00\ud83d"), "\u{FFFD}\u{FFFD}");
        assert_eq!(meaning(r"\ud83dx\ude00"), "\u{FFFD}x\u{FFFD}");
        assert_eq!(meaning(r"\ud83d\\ude00"), "\u{FFFD}\\ude00");
        assert_eq!(meaning(r"\ud83d\u0041"), "\u{FFFD}A");
    }
}
