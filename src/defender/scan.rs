//! A strict JSON scanner over text: finds where values begin and end, checks every byte of them, builds nothing.
//!
//! Invariant: it accepts exactly RFC 8259 (the grammar that `serde_json` accepts), whether a value is kept or skipped, and
//! it neither recurses nor allocates by depth more than one byte a level, so that no nesting can exhaust the stack.
//! Strings are looked at a machine word at a time. What a value means is left to [`row`](super::row); that the text is UTF-8
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

    fn in_message(start: usize, end: usize) -> Text {
        Text { start: start as u32, len: (end - start) as u32 }
    }

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

/// A value that has been scanned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Token {
    /// `null`; also the start value of a column that never came.
    #[default]
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
    /// The type's name with its article, for error texts.
    pub(super) fn describe(self) -> &'static str {
        match self {
            Token::Null => "null",
            Token::Plain(_) | Token::Escaped(_) => "a string",
            Token::Number(_) => "a number",
            Token::Bool => "a boolean",
            Token::Object => "an object",
            Token::Array => "an array",
        }
    }
}

/// Where and why the text is not JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Syntax {
    /// Byte offset into the scanned text.
    pub(super) at: u32,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

impl fmt::Display for Syntax {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.what {
            What::End => "it ends in the middle of a value",
            What::Value => "expected a value",
            What::Key => "expected a key in quotes",
            What::Colon => "expected a colon",
            What::CommaOrBrace => "expected a comma or a closing brace",
            What::CommaOrBracket => "expected a comma or a closing bracket",
            What::Number => "a number is written wrongly",
            What::Control => "a control character stands unescaped in a string",
            What::Escape => "an escape in a string is written wrongly",
            What::Trailing => "something follows the value",
        };
        write!(f, "{what} at byte {}", self.at)
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
        Err(Syntax { at: at as u32, what })
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
            b'{' => self.containers().map(|()| Token::Object),
            b'[' => self.containers().map(|()| Token::Array),
            first => self.scalar(first),
        }
    }

    #[inline]
    fn scalar(&mut self, first: u8) -> Scan<Token> {
        match first {
            b'n' => self.literal(b"null", Token::Null),
            b't' => self.literal(b"true", Token::Bool),
            b'f' => self.literal(b"false", Token::Bool),
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
        Ok(Token::Number(Text::in_message(start, self.at)))
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
            return Ok(Token::Plain(Text::in_message(start, end)));
        }
        self.string_with_escapes(start, end)
    }

    #[inline(never)]
    fn string_with_escapes(&mut self, start: usize, mut at: usize) -> Scan<Token> {
        loop {
            match self.bytes.get(at) {
                Some(b'"') => {
                    self.at = at + 1;
                    return Ok(Token::Escaped(Text::in_message(start, at)));
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

/// Bytes looked at in one step: a machine word.
const LANES: usize = 8;

/// Position of the first quote, backslash or control character in the chunk.
#[inline]
fn first_special(chunk: &[u8; LANES]) -> Option<usize> {
    const ONES: u64 = u64::from_le_bytes([1; LANES]);
    const HIGHS: u64 = ONES << 7;
    let bytes = u64::from_le_bytes(*chunk);
    let quotes = (bytes ^ (ONES * b'"' as u64)).wrapping_sub(ONES);
    let backslashes = (bytes ^ (ONES * b'\\' as u64)).wrapping_sub(ONES);
    let controls = bytes.wrapping_sub(ONES * 0x20);
    // The lowest byte marked is exact: a subtraction can borrow only from the bytes above one that is marked rightly.
    let mask = (quotes | backslashes | controls) & !bytes & HIGHS;
    (mask != 0).then(|| mask.trailing_zeros() as usize / 8)
}

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
