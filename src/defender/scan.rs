//! A strict JSON scanner over text: finds where values begin and end, checks every byte of them, builds nothing.
//!
//! Invariant: it accepts exactly RFC 8259 (the grammar that `serde_json` accepts), whether a value is kept or skipped, and
//! it neither recurses nor allocates by depth more than one byte a level, so that no nesting can exhaust the stack.
//! Strings are looked at sixteen bytes at a time. What a value means is left to [`row`](super::row); that the text is UTF-8
//! is the caller's promise, by type.

use super::lanes::{LANES, first_special};
use super::token::{Text, Token};
use std::fmt;

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

    /// The bytes of a string that holds no escapes.
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
            // A digit behind it is then no comma or bracket, which is fault enough.
            b'0' => self.at += 1,
            b'1'..=b'9' => self.digits(),
            _ => return self.fail(self.at, What::Number),
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
