//! A strict JSON scanner over text: finds where values begin and end, checks every byte of them, builds nothing.
//!
//! Invariant: it accepts exactly RFC 8259 (the grammar that `serde_json` accepts), whether a value is kept or skipped, and
//! it neither recurses nor allocates by depth more than one byte a level, so that no nesting can exhaust the stack.
//! Strings are looked at sixteen bytes at a time. What a value means is left to [`row`](super::row); that the text is UTF-8
//! is the caller's promise, by type.

use std::fmt;

/// Set in [`Text::start`] when the string lies in the arena of unescaped strings, not in the message.
const IN_ARENA: u32 = 1 << 31;

/// Where a string lies: in the message itself (its escapes, if any, still in place), or unescaped in an arena beside it.
///
/// Offsets count from the start of the message, or of the message's part of the arena.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Text {
    start: u32,
    len: u32,
}

impl Text {
    /// The empty string.
    pub(super) const EMPTY: Text = Text { start: 0, len: 0 };

    /// What was appended to the arena since it was `start` long (counted from the message's part).
    pub(super) fn in_arena(start: usize, end: usize) -> Text {
        Text { start: start as u32 | IN_ARENA, len: (end - start) as u32 }
    }

    /// The string itself, given the message and its part of the arena.
    #[inline]
    pub(super) fn resolve<'a>(self, message: &'a str, arena: &'a str) -> &'a str {
        let from = if self.start & IN_ARENA == 0 { message } else { arena };
        let start = (self.start & !IN_ARENA) as usize;
        from.get(start..start + self.len as usize).expect("INV: a Text is only resolved against the message it was found in")
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
    const NUMBER: u64 = 4;
    const PLAIN: u64 = 5;
    const ESCAPED: u64 = 6;

    /// Start in 32 bits, length in 28 (messages are shorter), kind in the highest four.
    #[inline]
    fn spanning(kind: u64, start: usize, end: usize) -> Token {
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

/// Where and why the text is not JSON: the byte offset in 32 bits, the [`What`] above it; one word like a [`Token`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Syntax(u64);

#[derive(Clone, Copy)]
enum What {
    End,
    Value,
    Key,
    Colon,
    CommaOrBrace,
    CommaOrBracket,
    Number,
    Control,
    Escape,
    Trailing,
}

impl What {
    const TEXTS: [&str; 10] = [
        "it ends in the middle of a value",
        "expected a value",
        "expected a key in quotes",
        "expected a colon",
        "expected a comma or a closing brace",
        "expected a comma or a closing bracket",
        "a number is written wrongly",
        "a control character stands unescaped in a string",
        "an escape in a string is written wrongly",
        "something follows the value",
    ];
}

impl fmt::Display for Syntax {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = What::TEXTS.get((self.0 >> 32) as usize).copied().unwrap_or_default();
        write!(f, "{what} at byte {}", self.0 as u32)
    }
}

type Scan<T> = Result<T, Syntax>;

/// The scanner: a position in a text. It never moves back.
pub(super) struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Kinds of the containers that are open in the value being skipped.
    open: &'a mut Vec<u8>,
    /// Deepest nesting of any value skipped since the last [`Scanner::take_depth`].
    deepest: usize,
}

impl<'a> Scanner<'a> {
    /// Starts at byte `at` of `text`; `open` is scratch space.
    pub(super) fn new(text: &'a str, at: usize, open: &'a mut Vec<u8>) -> Self {
        Scanner { bytes: text.as_bytes(), at, open, deepest: 0 }
    }

    /// Offset of the next byte.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Levels of nesting of the deepest container skipped since this was last asked.
    pub(super) fn take_depth(&mut self) -> usize {
        std::mem::take(&mut self.deepest)
    }

    #[cold]
    fn fail<T>(&self, at: usize, what: What) -> Scan<T> {
        let what = if at >= self.bytes.len() { What::End } else { what };
        Err(Syntax((what as u64) << 32 | at as u64))
    }

    /// The next byte that is not white space, not consumed; 0 at the end (a NUL is no start of anything in JSON).
    #[inline]
    pub(super) fn peek(&mut self) -> u8 {
        loop {
            match self.bytes.get(self.at) {
                Some(b' ' | b'\n' | b'\r' | b'\t') => self.at += 1,
                Some(&c) => return c,
                None => return 0,
            }
        }
    }

    /// Consumes the byte that [`Scanner::peek`] has just shown.
    #[inline]
    pub(super) fn bump(&mut self) {
        self.at += 1;
    }

    /// Nothing but white space may follow.
    pub(super) fn end(&mut self) -> Scan<()> {
        self.peek();
        if self.at == self.bytes.len() { Ok(()) } else { self.fail(self.at, What::Trailing) }
    }

    /// After an opening brace or a comma's pair: true if the object goes on with a key, false if it has been closed.
    /// `first` says that no pair has been read yet.
    #[inline]
    pub(super) fn object_goes_on(&mut self, first: bool) -> Scan<bool> {
        match self.peek() {
            b'}' => {
                self.bump();
                Ok(false)
            }
            b',' if !first => {
                self.bump();
                if self.peek() == b'"' { Ok(true) } else { self.fail(self.at, What::Key) }
            }
            b'"' if first => Ok(true),
            _ => self.fail(self.at, if first { What::Key } else { What::CommaOrBrace }),
        }
    }

    /// The same for an array: true if another element follows.
    #[inline]
    pub(super) fn array_goes_on(&mut self, first: bool) -> Scan<bool> {
        match self.peek() {
            b']' => {
                self.bump();
                Ok(false)
            }
            b',' if !first => {
                self.bump();
                Ok(true)
            }
            _ if first => Ok(true),
            _ => self.fail(self.at, What::CommaOrBracket),
        }
    }

    /// A key and its colon, after [`Scanner::object_goes_on`] said that one stands here.
    #[inline]
    pub(super) fn key(&mut self) -> Scan<Token> {
        self.bump();
        let key = self.string()?;
        if self.peek() == b':' {
            self.bump();
            Ok(key)
        } else {
            self.fail(self.at, What::Colon)
        }
    }

    /// The key's bytes, unless it holds escapes (then its meaning needs [`unescape`]).
    #[inline]
    pub(super) fn plain(&self, text: Text) -> &'a [u8] {
        let start = text.start as usize;
        self.bytes.get(start..start + text.len as usize).unwrap_or_default()
    }

    /// Any value, checked to its end.
    #[inline]
    pub(super) fn value(&mut self) -> Scan<Token> {
        match self.peek() {
            b'"' => {
                self.bump();
                self.string()
            }
            b'{' => self.containers().map(|()| Token::OBJECT),
            b'[' => self.containers().map(|()| Token::ARRAY),
            first => self.scalar(first),
        }
    }

    #[inline]
    fn scalar(&mut self, first: u8) -> Scan<Token> {
        match first {
            b'n' => self.literal(b"null", Token::NULL),
            b't' => self.literal(b"true", Token::BOOL),
            b'f' => self.literal(b"false", Token::BOOL),
            b'-' | b'0'..=b'9' => self.number(),
            _ => self.fail(self.at, What::Value),
        }
    }

    #[inline]
    fn literal(&mut self, word: &[u8], token: Token) -> Scan<Token> {
        if self.bytes.get(self.at..).is_some_and(|rest| rest.starts_with(word)) {
            self.at += word.len();
            Ok(token)
        } else {
            self.fail(self.at, What::Value)
        }
    }

    fn number(&mut self) -> Scan<Token> {
        let start = self.at;
        if self.byte() == b'-' {
            self.at += 1;
        }
        match self.byte() {
            b'0' => self.at += 1,
            b'1'..=b'9' => self.digits(),
            _ => return self.fail(self.at, What::Number),
        }
        if self.byte().is_ascii_digit() {
            return self.fail(self.at, What::Number);
        }
        if self.byte() == b'.' {
            self.at += 1;
            self.some_digits()?;
        }
        if matches!(self.byte(), b'e' | b'E') {
            self.at += 1;
            if matches!(self.byte(), b'+' | b'-') {
                self.at += 1;
            }
            self.some_digits()?;
        }
        Ok(Token::spanning(Token::NUMBER, start, self.at))
    }

    #[inline]
    fn byte(&self) -> u8 {
        self.bytes.get(self.at).copied().unwrap_or(0)
    }

    #[inline]
    fn digits(&mut self) {
        while self.byte().is_ascii_digit() {
            self.at += 1;
        }
    }

    fn some_digits(&mut self) -> Scan<()> {
        if !self.byte().is_ascii_digit() {
            return self.fail(self.at, What::Number);
        }
        self.digits();
        Ok(())
    }

    /// A string whose opening quote has been consumed.
    #[inline]
    fn string(&mut self) -> Scan<Token> {
        let start = self.at;
        let end = self.special(start);
        if self.bytes.get(end) == Some(&b'"') {
            self.at = end + 1;
            return Ok(Token::spanning(Token::PLAIN, start, end));
        }
        self.string_with_escapes(start, end)
    }

    #[inline(never)]
    fn string_with_escapes(&mut self, start: usize, mut at: usize) -> Scan<Token> {
        loop {
            match self.bytes.get(at) {
                Some(b'"') => {
                    self.at = at + 1;
                    return Ok(Token::spanning(Token::ESCAPED, start, at));
                }
                Some(b'\\') => match self.bytes.get(at + 1) {
                    Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => at += 2,
                    Some(b'u') => match self.bytes.get(at + 2..at + 6) {
                        Some(hex) if hex.iter().all(u8::is_ascii_hexdigit) => at += 6,
                        Some(_) => return self.fail(at, What::Escape),
                        None => return self.fail(self.bytes.len(), What::End),
                    },
                    Some(_) => return self.fail(at, What::Escape),
                    None => return self.fail(self.bytes.len(), What::End),
                },
                _ => return self.fail(at, What::Control),
            }
            at = self.special(at);
        }
    }

    /// Offset of the next quote, backslash or control character at or after `from`; the text's length if there is none.
    #[inline]
    fn special(&self, from: usize) -> usize {
        let mut at = from;
        while let Some(chunk) = self.bytes.get(at..).and_then(|rest| rest.first_chunk::<LANES>()) {
            if let Some(n) = first_special(chunk) {
                return at + n;
            }
            at += LANES;
        }
        while self.bytes.get(at).is_some_and(|&c| c >= 0x20 && c != b'"' && c != b'\\') {
            at += 1;
        }
        at
    }

    /// An object or array, and whatever it holds, without recursion.
    #[inline(never)]
    fn containers(&mut self) -> Scan<()> {
        self.open.clear();
        'value: loop {
            match self.peek() {
                b'{' => {
                    self.bump();
                    if self.object_goes_on(true)? {
                        self.enter(b'{');
                        self.key()?;
                        continue 'value;
                    }
                    self.deepest = self.deepest.max(self.open.len() + 1);
                }
                b'[' => {
                    self.bump();
                    if self.array_goes_on(true)? {
                        self.enter(b'[');
                        continue 'value;
                    }
                    self.deepest = self.deepest.max(self.open.len() + 1);
                }
                b'"' => {
                    self.bump();
                    self.string()?;
                }
                first => {
                    self.scalar(first)?;
                }
            }
            // A value is complete: close what ends here, until a container goes on.
            loop {
                match self.open.last() {
                    None => return Ok(()),
                    Some(b'{') => {
                        if self.object_goes_on(false)? {
                            self.key()?;
                            continue 'value;
                        }
                    }
                    Some(_) => {
                        if self.array_goes_on(false)? {
                            continue 'value;
                        }
                    }
                }
                self.open.pop();
            }
        }
    }

    fn enter(&mut self, kind: u8) {
        self.open.push(kind);
        self.deepest = self.deepest.max(self.open.len());
    }
}

/// Bytes looked at in one step.
const LANES: usize = 16;

/// Position of the first quote, backslash or control character in the chunk. SSE2 belongs to every x86-64.
#[cfg(target_arch = "x86_64")]
#[inline]
fn first_special(chunk: &[u8; LANES]) -> Option<usize> {
    use safe_arch::{bitor_m128i, cmp_eq_mask_i8_m128i, load_unaligned_m128i, min_u8_m128i, move_mask_i8_m128i, set_splat_i8_m128i};
    let bytes = load_unaligned_m128i(chunk);
    let quotes = cmp_eq_mask_i8_m128i(bytes, set_splat_i8_m128i(b'"' as i8));
    let backslashes = cmp_eq_mask_i8_m128i(bytes, set_splat_i8_m128i(b'\\' as i8));
    let controls = cmp_eq_mask_i8_m128i(min_u8_m128i(bytes, set_splat_i8_m128i(0x1f)), bytes);
    let mask = move_mask_i8_m128i(bitor_m128i(bitor_m128i(quotes, backslashes), controls));
    (mask != 0).then(|| mask.trailing_zeros() as usize)
}

/// The same in machine words, for other processors.
#[cfg(any(test, not(target_arch = "x86_64")))]
fn first_special_by_words(chunk: &[u8; LANES]) -> Option<usize> {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const HIGHS: u64 = ONES << 7;
    // The lowest byte marked is exact: a subtraction can borrow only from the bytes above one that is marked rightly.
    let marks = |bytes: u64| {
        let quotes = (bytes ^ (ONES * b'"' as u64)).wrapping_sub(ONES);
        let backslashes = (bytes ^ (ONES * b'\\' as u64)).wrapping_sub(ONES);
        let controls = bytes.wrapping_sub(ONES * 0x20);
        (quotes | backslashes | controls) & !bytes & HIGHS
    };
    let bits = u128::from_le_bytes(*chunk);
    let (low, high) = (marks(bits as u64), marks((bits >> 64) as u64));
    match (low, high) {
        (0, 0) => None,
        (0, _) => Some(8 + high.trailing_zeros() as usize / 8),
        _ => Some(low.trailing_zeros() as usize / 8),
    }
}

#[cfg(not(target_arch = "x86_64"))]
use first_special_by_words as first_special;

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
    use proptest::prelude::*;

    #[test]
    fn the_first_special_byte_is_found_by_words_as_by_lanes() {
        for byte in 0..=255u8 {
            for place in 0..LANES {
                for rest in [b' ', 0x7F, 0x80, 0xFF, b'!', b'#', b'[', b']'] {
                    let mut chunk = [rest; LANES];
                    chunk[place] = byte;
                    let expected = (byte < 0x20 || byte == b'"' || byte == b'\\').then_some(place);
                    assert_eq!(first_special(&chunk), expected, "{chunk:?}");
                    assert_eq!(first_special_by_words(&chunk), expected, "{chunk:?}");
                }
            }
        }
    }

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

    proptest! {
        #[test]
        fn the_first_special_of_any_chunk_is_the_same_both_ways(chunk: [u8; LANES]) {
            prop_assert_eq!(first_special(&chunk), first_special_by_words(&chunk));
        }
    }
}
