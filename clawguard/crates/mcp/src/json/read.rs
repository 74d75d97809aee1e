//! The one way in.

use std::collections::HashSet;

use super::{Json, Member};

/// How deep lists and objects may lie in each other.
pub const DEPTH: usize = 64;

/// Bytes that the text of a number may have.
pub const NUMBER: usize = 64;

/// Values that a text may have: a value takes more memory than the two bytes in which it can be written.
pub const VALUES: usize = 1 << 18;

/// Why a text is not read, and at which of its bytes. It repeats nothing of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// Bytes that are no text.
    #[error("byte {at}: this is not UTF-8")]
    Encoding {
        /// Where.
        at: usize,
    },
    /// Not JSON.
    #[error("byte {at}: {expected} is expected")]
    Syntax {
        /// Where.
        at: usize,
        /// What would be right there.
        expected: &'static str,
    },
    /// A member's name for the second time.
    #[error("byte {at}: an object that ends here has two members of the same name")]
    Twice {
        /// Where the object ends.
        at: usize,
    },
    /// A number that readers would read differently.
    #[error("byte {at}: a number begins here that a double cannot hold, or that has more than {NUMBER} bytes")]
    Number {
        /// Where it begins.
        at: usize,
    },
    /// Too deep to look into.
    #[error("byte {at}: lists and objects lie more than {DEPTH} deep")]
    Deep {
        /// Where the limit was passed.
        at: usize,
    },
    /// Too much to keep.
    #[error("byte {at}: there are more than {VALUES} values")]
    Many {
        /// Where the limit was passed.
        at: usize,
    },
}

/// Reads a whole text: RFC 8259 and nothing beyond it, in UTF-8 without a byte order mark; each member name once in its
/// object (as it reads, not as it is spelled), whole surrogate pairs, numbers that a double can hold.
///
/// # Errors
///
/// The first [`Flaw`] found. How long a text may be is for the caller to say.
pub fn parse(bytes: &[u8]) -> Result<Json, Flaw> {
    let text = std::str::from_utf8(bytes).map_err(|error| Flaw::Encoding { at: error.valid_up_to() })?;
    let mut reader = Reader { text, at: 0, depth: 0, values: 0 };
    reader.space();
    let value = reader.value()?;
    reader.space();
    if reader.at == text.len() { Ok(value) } else { reader.fail("the end of the text") }
}

/// How many of the first bytes stand for themselves within a string: up to a quotation mark, a backslash or a control.
pub(super) fn plain(bytes: &[u8]) -> usize {
    let (words, _) = bytes.as_chunks::<8>();
    let mut at = 0;
    for word in words {
        let hits = hits(u64::from_le_bytes(*word));
        if hits != 0 {
            return at + hits.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let rest = &bytes[at..];
    at + rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20)).unwrap_or(rest.len())
}

/// The same byte eight times.
pub(super) const fn eight(byte: u8) -> u64 {
    0x0101_0101_0101_0101 * byte as u64
}

/// Marks by its highest bit where eight bytes have this one. Borrows run upwards: only the lowest mark is sure to be right, and it
/// is the one that is asked for.
pub(super) const fn marks(word: u64, byte: u8) -> u64 {
    let zero = word ^ eight(byte);
    zero.wrapping_sub(eight(1)) & !zero & eight(0x80)
}

/// Marks quotation marks, backslashes and controls, likewise.
pub(super) const fn hits(word: u64) -> u64 {
    let control = word.wrapping_sub(eight(0x20)) & !word & eight(0x80);
    marks(word, b'"') | marks(word, b'\\') | control
}

/// Whether a name is there for the second time.
fn twice(members: &[Member]) -> bool {
    /// Up to here looking at all pairs is faster than a set.
    const FEW: usize = 16;
    let mut names = members.iter().map(|(name, _)| &**name);
    if members.len() <= FEW {
        return names.enumerate().any(|(i, name)| members[..i].iter().any(|(n, _)| **n == *name));
    }
    // What somebody sorted is seen in one look.
    if members.is_sorted_by(|(a, _), (b, _)| a < b) {
        return false;
    }
    let mut seen = HashSet::with_capacity(members.len());
    names.any(|name| !seen.insert(name))
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    values: usize,
}

impl Reader<'_> {
    fn fail<T>(&self, expected: &'static str) -> Result<T, Flaw> {
        Err(Flaw::Syntax { at: self.at, expected })
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn word(&mut self, word: &'static str, value: Json) -> Result<Json, Flaw> {
        if self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            Ok(value)
        } else {
            self.fail("a value")
        }
    }

    fn value(&mut self) -> Result<Json, Flaw> {
        self.values += 1;
        if self.values > VALUES {
            return Err(Flaw::Many { at: self.at });
        }
        match self.peek() {
            Some(b'"') => Ok(Json::String(self.string()?)),
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::array),
            Some(b't') => self.word("true", Json::Bool(true)),
            Some(b'f') => self.word("false", Json::Bool(false)),
            Some(b'n') => self.word("null", Json::Null),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => self.fail("a value"),
        }
    }

    fn nested(&mut self, inner: fn(&mut Self) -> Result<Json, Flaw>) -> Result<Json, Flaw> {
        if self.depth == DEPTH {
            return Err(Flaw::Deep { at: self.at });
        }
        self.depth += 1;
        self.at += 1;
        self.space();
        let value = inner(self)?;
        self.depth -= 1;
        Ok(value)
    }

    fn array(&mut self) -> Result<Json, Flaw> {
        let mut items = Vec::new();
        if self.eat(b']') {
            return Ok(Json::Array(items));
        }
        loop {
            items.push(self.value()?);
            self.space();
            if self.eat(b']') {
                return Ok(Json::Array(items));
            }
            if !self.eat(b',') {
                return self.fail("a comma or the end of the list");
            }
            self.space();
        }
    }

    fn object(&mut self) -> Result<Json, Flaw> {
        let mut members = Vec::new();
        if self.eat(b'}') {
            return Ok(Json::Object(members));
        }
        loop {
            if self.peek() != Some(b'"') {
                return self.fail("a member's name");
            }
            let name = self.string()?;
            self.space();
            if !self.eat(b':') {
                return self.fail("a colon");
            }
            self.space();
            members.push((name, self.value()?));
            self.space();
            if self.eat(b'}') {
                break;
            }
            if !self.eat(b',') {
                return self.fail("a comma or the end of the object");
            }
            self.space();
        }
        if twice(&members) { Err(Flaw::Twice { at: self.at }) } else { Ok(Json::Object(members)) }
    }

    fn string(&mut self) -> Result<Box<str>, Flaw> {
        self.at += 1;
        let start = self.at;
        self.at += plain(&self.text.as_bytes()[start..]);
        // Most strings have no escapes and are taken as they stand.
        if self.peek() == Some(b'"') {
            let text = self.text[start..self.at].into();
            self.at += 1;
            return Ok(text);
        }
        let mut text = String::from(&self.text[start..self.at]);
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(text.into());
                }
                Some(b'\\') => text.push(self.escape()?),
                _ => return self.fail("a character of a string"),
            }
            let from = self.at;
            self.at += plain(&self.text.as_bytes()[from..]);
            text.push_str(&self.text[from..self.at]);
        }
    }

    fn escape(&mut self) -> Result<char, Flaw> {
        self.at += 1;
        let Some(byte) = self.peek() else { return self.fail("an escape") };
        let char = match byte {
            b'"' | b'\\' | b'/' => char::from(byte),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                self.at += 1;
                return self.unicode();
            }
            _ => return self.fail("an escape"),
        };
        self.at += 1;
        Ok(char)
    }

    fn unicode(&mut self) -> Result<char, Flaw> {
        let high = self.hex()?;
        let code = if (0xd800..0xdc00).contains(&high) {
            if !(self.eat(b'\\') && self.eat(b'u')) {
                return self.fail("the second half of a surrogate pair");
            }
            let low = self.hex()?;
            if !(0xdc00..0xe000).contains(&low) {
                return self.fail("the second half of a surrogate pair");
            }
            0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00)
        } else {
            high
        };
        match char::from_u32(code) {
            Some(char) => Ok(char),
            None => self.fail("the first half of a surrogate pair"),
        }
    }

    fn hex(&mut self) -> Result<u32, Flaw> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4).unwrap_or_default();
        let code = digits.iter().try_fold(0, |code, digit| Some(code * 16 + char::from(*digit).to_digit(16)?));
        let Some(code) = code.filter(|_| digits.len() == 4) else { return self.fail("four hexadecimal digits") };
        self.at += 4;
        Ok(code)
    }

    /// At least one digit, and all that follow.
    fn digits(&mut self) -> Result<(), Flaw> {
        let rest = &self.text.as_bytes()[self.at..];
        let count = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
        self.at += count;
        if count == 0 { self.fail("a digit") } else { Ok(()) }
    }

    fn number(&mut self) -> Result<Json, Flaw> {
        /// Whatever has so few digits and no exponent is finite.
        const SURELY: usize = 300;
        const { assert!(NUMBER < SURELY) };
        let start = self.at;
        self.eat(b'-');
        if !self.eat(b'0') {
            self.digits()?;
        }
        if self.eat(b'.') {
            self.digits()?;
        }
        let exponent = matches!(self.peek(), Some(b'e' | b'E'));
        if exponent {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        let text = &self.text[start..self.at];
        let held = |text: &str| text.parse().is_ok_and(f64::is_finite);
        if text.len() > NUMBER || exponent && !held(text) {
            return Err(Flaw::Number { at: start });
        }
        Ok(Json::Number(text.into()))
    }
}
