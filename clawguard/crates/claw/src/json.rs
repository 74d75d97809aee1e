//! JSON that keeps the order of its members, and the two forms in which Claw hashes it: sorted (RFC 8785, JCS), and as
//! V8 writes again what it read (`JSON.stringify(JSON.parse(text))`, "insertion order").
//!
//! Strict where a lenient reader would let two readers see two things: no duplicate member names, no lone surrogates, no
//! numbers beyond a double, no depth or size without bound. V8 takes all of these (it keeps the last of two members, and
//! writes `1e400` as `null`). Here they are refused: what was signed over such a text has no hash here, and so is not
//! believed. For every text that is accepted, both forms are V8's, byte for byte.

mod written;

use std::{
    cmp::Ordering,
    collections::HashSet,
    fmt::{self, Write},
};

use sha2::{Digest, Sha256};

pub use written::is_written;

use crate::encoding::Hash;

/// A JSON value. Objects keep their members in order of appearance.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A finite double.
    Number(f64),
    /// A string of Unicode scalar values.
    String(Box<str>),
    /// A list.
    Array(Vec<Value>),
    /// Members, each name once.
    Object(Vec<(Box<str>, Value)>),
}

impl Value {
    /// The member of an object.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Object(members) => members.iter().find(|(n, _)| **n == *name).map(|(_, value)| value),
            _ => None,
        }
    }

    /// The text of a string.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// What kind of value it is, for error texts.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::String(_) => "a string",
            Self::Array(_) => "a list",
            Self::Object(_) => "an object",
        }
    }

    /// The canonical form (JCS): members sorted by the UTF-16 code units of their names, numbers as ECMAScript prints
    /// them, no white space.
    #[must_use]
    pub fn canonical(&self) -> String {
        let mut text = String::new();
        // A string takes everything that is poured into it.
        let _ = Writer::write(self, Canon::Sorted, &mut |part| {
            text.push_str(part);
            Ok(())
        });
        text
    }

    /// The SHA-256 of the canonical form, without making it.
    #[must_use]
    pub fn canonical_hash(&self) -> Hash {
        self.hash(Canon::Sorted)
    }

    /// The SHA-256 of what V8 would write for this value (which is what [`Display`](fmt::Display) writes), without
    /// making it.
    #[must_use]
    pub fn insertion_hash(&self) -> Hash {
        self.hash(Canon::Insertion)
    }

    /// The SHA-256 of one of the two forms.
    #[must_use]
    pub fn hash(&self, canon: Canon) -> Hash {
        let mut hasher = Sha256::new();
        // A hasher takes everything, too.
        let _ = Writer::write(self, canon, &mut |part| {
            hasher.update(part);
            Ok(())
        });
        Hash(hasher.finalize().into())
    }
}

/// The form in which a value is hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Canon {
    /// JCS, RFC 8785.
    Sorted,
    /// `JSON.stringify(JSON.parse(text))`, as V8 does it.
    Insertion,
}

/// Compact JSON as V8 writes it: names that are array indices first, in ascending order, then all others in order of
/// appearance.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Writer::write(self, Canon::Insertion, &mut |part| f.write_str(part))
    }
}

/// Writes a value, and pours out what it wrote by the bucket: a hasher likes whole blocks better than single commas.
struct Writer<'a> {
    text: String,
    canon: Canon,
    pour: &'a mut dyn FnMut(&str) -> fmt::Result,
}

impl Writer<'_> {
    /// A bucket.
    const ENOUGH: usize = 4096;

    fn write(value: &Value, canon: Canon, pour: &mut dyn FnMut(&str) -> fmt::Result) -> fmt::Result {
        let mut writer = Writer { text: String::new(), canon, pour };
        writer.value(value)?;
        (writer.pour)(&writer.text)
    }

    fn pour(&mut self) -> fmt::Result {
        (self.pour)(&self.text)?;
        self.text.clear();
        Ok(())
    }

    fn value(&mut self, value: &Value) -> fmt::Result {
        match value {
            Value::Null => self.text.push_str("null"),
            Value::Bool(true) => self.text.push_str("true"),
            Value::Bool(false) => self.text.push_str("false"),
            Value::Number(number) => self.number(*number)?,
            Value::String(text) => self.string(text)?,
            Value::Array(items) => {
                self.text.push('[');
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        self.text.push(',');
                    }
                    self.value(item)?;
                }
                self.text.push(']');
            }
            Value::Object(members) => match order(members, self.canon) {
                None => self.members(members.iter())?,
                Some(order) => self.members(order.into_iter())?,
            },
        }
        if self.text.len() < Self::ENOUGH { Ok(()) } else { self.pour() }
    }

    fn members<'m>(&mut self, members: impl Iterator<Item = &'m Member>) -> fmt::Result {
        self.text.push('{');
        for (i, (name, value)) in members.enumerate() {
            if i > 0 {
                self.text.push(',');
            }
            self.string(name)?;
            self.text.push(':');
            self.value(value)?;
        }
        self.text.push('}');
        Ok(())
    }

    fn number(&mut self, number: f64) -> fmt::Result {
        // Most numbers are ports, and need no search for the shortest digits. Minus zero is written as zero.
        let whole = number as i32;
        if f64::from(whole) == number {
            return write!(self.text, "{whole}");
        }
        self.text.push_str(ryu_js::Buffer::new().format(number));
        Ok(())
    }

    fn string(&mut self, text: &str) -> fmt::Result {
        self.text.push('"');
        let mut rest = text;
        while let Some(at) = special(rest) {
            self.plain(&rest[..at])?;
            escape(rest.as_bytes()[at], &mut self.text);
            rest = &rest[at + 1..];
        }
        self.plain(rest)?;
        self.text.push('"');
        Ok(())
    }

    fn plain(&mut self, text: &str) -> fmt::Result {
        if text.len() < Self::ENOUGH {
            self.text.push_str(text);
            return Ok(());
        }
        // Long enough to be poured out without a copy.
        self.pour()?;
        (self.pour)(text)
    }
}

/// Writes a string as both forms have it, for whoever writes JSON as it is to be hashed.
pub fn quote(text: &str, into: &mut String) {
    into.push('"');
    let mut rest = text;
    while let Some(at) = special(rest) {
        into.push_str(&rest[..at]);
        escape(rest.as_bytes()[at], into);
        rest = &rest[at + 1..];
    }
    into.push_str(rest);
    into.push('"');
}

/// Where the first byte is that does not stand for itself in a string.
fn special(text: &str) -> Option<usize> {
    /// So many are looked at in one instruction.
    const AT_ONCE: usize = 16;
    let is = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..0x20);
    let bytes = text.as_bytes();
    let (pieces, _) = bytes.as_chunks::<AT_ONCE>();
    let plain = pieces.iter().take_while(|piece| !piece.iter().fold(false, |any, byte| any | is(byte))).count();
    let from = plain * AT_ONCE;
    bytes[from..].iter().position(is).map(|at| from + at)
}

fn escape(byte: u8, into: &mut String) {
    match byte {
        b'"' => into.push_str("\\\""),
        b'\\' => into.push_str("\\\\"),
        0x08 => into.push_str("\\b"),
        0x09 => into.push_str("\\t"),
        0x0a => into.push_str("\\n"),
        0x0c => into.push_str("\\f"),
        0x0d => into.push_str("\\r"),
        control => {
            let _ = write!(into, "\\u{control:04x}");
        }
    }
}

type Member = (Box<str>, Value);

/// The members in the order in which they are written, where that is not the order in which they lie.
fn order(members: &[Member], canon: Canon) -> Option<Vec<&Member>> {
    match canon {
        Canon::Sorted => {
            if members.is_sorted_by(|(a, _), (b, _)| by_utf16(a, b).is_lt()) {
                return None;
            }
            let mut order: Vec<&Member> = members.iter().collect();
            order.sort_unstable_by(|(a, _), (b, _)| by_utf16(a, b));
            Some(order)
        }
        Canon::Insertion => {
            if members.iter().all(|(name, _)| index(name).is_none()) {
                return None;
            }
            let mut order: Vec<&Member> = members.iter().collect();
            // Stable: names that are no index stay as they came.
            order.sort_by_cached_key(|(name, _)| index(name).unwrap_or(u32::MAX));
            Some(order)
        }
    }
}

/// Compares the UTF-16 code units of two texts. They differ from UTF-8's bytes in one thing: what needs a surrogate pair
/// (first byte F0 and up) comes before U+E000 to U+FFFF (first byte EE or EF).
#[must_use]
pub fn by_utf16(a: &str, b: &str) -> Ordering {
    let rank = |byte: u8| if matches!(byte, 0xee | 0xef) { byte + 0x10 } else { byte };
    match a.bytes().zip(b.bytes()).find(|(a, b)| a != b) {
        Some((a, b)) => rank(a).cmp(&rank(b)),
        None => a.len().cmp(&b.len()),
    }
}

/// The array index that a name spells (ECMA-262 section 6.1.7): 0 to 2^32 - 2 in decimal, without leading zeros.
fn index(name: &str) -> Option<u32> {
    let digits = name.as_bytes();
    // Most names are found out by their first byte.
    if !matches!(digits, [b'0'] | [b'1'..=b'9', ..]) || digits.len() > 10 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    name.parse().ok().filter(|index| *index != u32::MAX)
}

/// How much a text may ask of its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of text.
    pub bytes: usize,
    /// Lists and objects within each other.
    pub depth: usize,
}

/// Why a text is no JSON that is accepted here, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Too long to look at.
    #[error("{bytes} bytes of JSON where at most {limit} are accepted")]
    Long {
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        limit: usize,
    },
    /// Too deep to look into.
    #[error("byte {at}: lists and objects lie more than {limit} deep")]
    Deep {
        /// Where the limit was passed.
        at: usize,
        /// How deep they may lie.
        limit: usize,
    },
    /// A member name for the second time.
    #[error("byte {at}: the member \"{name}\" is there twice")]
    Duplicate {
        /// Where the object ends.
        at: usize,
        /// Which name.
        name: String,
    },
    /// Not JSON.
    #[error("byte {at}: {expected} is expected")]
    Syntax {
        /// Where.
        at: usize,
        /// What would be right there.
        expected: &'static str,
    },
}

/// Parses a whole text.
///
/// # Errors
///
/// See [`Error`]; the first one found.
pub fn parse(text: &[u8], limits: Limits) -> Result<Value, Error> {
    if text.len() > limits.bytes {
        return Err(Error::Long { bytes: text.len(), limit: limits.bytes });
    }
    let text =
        std::str::from_utf8(text).map_err(|error| Error::Syntax { at: error.valid_up_to(), expected: "UTF-8" })?;
    let mut parser = Parser { text, at: 0, depth: 0, limit: limits.depth, members: Vec::new() };
    parser.space();
    let value = parser.value()?;
    parser.space();
    if parser.at == text.len() { Ok(value) } else { parser.fail("the end of the text") }
}

/// A name that is there for the second time.
fn twice(members: &[Member]) -> Option<&str> {
    /// Up to here looking at all pairs is faster than a set.
    const FEW: usize = 16;
    let mut names = members.iter().map(|(name, _)| &**name);
    if members.len() <= FEW {
        return names
            .enumerate()
            .find(|(i, name)| members[..*i].iter().any(|(n, _)| **n == **name))
            .map(|(_, name)| name);
    }
    // What somebody sorted, ourselves for instance, is seen in one look.
    if members.is_sorted_by(|(a, _), (b, _)| a < b) {
        return None;
    }
    let mut seen = HashSet::with_capacity(members.len());
    names.find(|name| !seen.insert(*name))
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    limit: usize,
    /// Those of all objects that are open: each object takes its own from here when it ends, and no place too many.
    members: Vec<Member>,
}

impl Parser<'_> {
    fn fail<T>(&self, expected: &'static str) -> Result<T, Error> {
        Err(Error::Syntax { at: self.at, expected })
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

    fn word(&mut self, word: &'static str, value: Value) -> Result<Value, Error> {
        if self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            Ok(value)
        } else {
            self.fail("a value")
        }
    }

    fn value(&mut self) -> Result<Value, Error> {
        match self.peek() {
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::array),
            Some(b'"') => Ok(Value::String(self.string()?)),
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            Some(b'n') => self.word("null", Value::Null),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => self.fail("a value"),
        }
    }

    fn nested(&mut self, inner: fn(&mut Self) -> Result<Value, Error>) -> Result<Value, Error> {
        if self.depth == self.limit {
            return Err(Error::Deep { at: self.at, limit: self.limit });
        }
        self.depth += 1;
        self.at += 1;
        self.space();
        let value = inner(self)?;
        self.depth -= 1;
        Ok(value)
    }

    fn array(&mut self) -> Result<Value, Error> {
        let mut items = Vec::new();
        if self.eat(b']') {
            return Ok(Value::Array(items));
        }
        loop {
            items.push(self.value()?);
            self.space();
            if self.eat(b']') {
                return Ok(Value::Array(items));
            }
            if !self.eat(b',') {
                return self.fail("a comma or the end of the list");
            }
            self.space();
        }
    }

    fn object(&mut self) -> Result<Value, Error> {
        if self.eat(b'}') {
            return Ok(Value::Object(Vec::new()));
        }
        let first = self.members.len();
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
            let value = self.value()?;
            self.members.push((name, value));
            self.space();
            if self.eat(b'}') {
                break;
            }
            if !self.eat(b',') {
                return self.fail("a comma or the end of the object");
            }
            self.space();
        }
        let members: Vec<Member> = self.members.drain(first..).collect();
        match twice(&members) {
            Some(name) => Err(Error::Duplicate { at: self.at, name: name.chars().take(64).collect() }),
            None => Ok(Value::Object(members)),
        }
    }

    fn string(&mut self) -> Result<Box<str>, Error> {
        self.at += 1;
        let start = self.at;
        self.plain();
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
            self.plain();
            text.push_str(&self.text[from..self.at]);
        }
    }

    /// To the next byte of a string that does not stand for itself.
    fn plain(&mut self) {
        let rest = &self.text.as_bytes()[self.at..];
        self.at += rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20)).unwrap_or(rest.len());
    }

    fn escape(&mut self) -> Result<char, Error> {
        self.at += 1;
        let Some(byte) = self.peek() else { return self.fail("an escape") };
        self.at += 1;
        Ok(match byte {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
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
                    Some(char) => char,
                    None => return self.fail("the first half of a surrogate pair"),
                }
            }
            _ => return self.fail("an escape"),
        })
    }

    fn hex(&mut self) -> Result<u32, Error> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4);
        let Some(digits) = digits.filter(|digits| digits.iter().all(u8::is_ascii_hexdigit)) else {
            return self.fail("four hexadecimal digits");
        };
        let code = digits.iter().fold(0, |code, digit| code * 16 + char::from(*digit).to_digit(16).unwrap_or(0));
        self.at += 4;
        Ok(code)
    }

    fn digits(&mut self) -> Result<(), Error> {
        if !matches!(self.peek(), Some(b'0'..=b'9')) {
            return self.fail("a digit");
        }
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<Value, Error> {
        let start = self.at;
        self.eat(b'-');
        if !self.eat(b'0') {
            self.digits()?;
        }
        // Up to 2^31 a double is exact, and most numbers are ports.
        if !matches!(self.peek(), Some(b'.' | b'e' | b'E'))
            && let Ok(number @ 1..) = self.text[start..self.at].parse::<i32>()
        {
            return Ok(Value::Number(number.into()));
        }
        if self.eat(b'.') {
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        match self.text[start..self.at].parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Value::Number(number)),
            _ => Err(Error::Syntax { at: start, expected: "a number that a double can hold" }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { bytes: 1 << 20, depth: 64 };

    fn canonical(text: &str) -> String {
        parse(text.as_bytes(), LIMITS).unwrap().canonical()
    }

    fn error(text: &str) -> String {
        parse(text.as_bytes(), LIMITS).unwrap_err().to_string()
    }

    #[test]
    fn names_sort_by_utf16_code_units() {
        // U+1F600 is a surrogate pair (d83d…) and sorts before U+FFFD, though its scalar value is higher.
        assert_eq!(canonical(r#"{"😀":1,"\ufffd":2,"a":3,"B":4}"#), "{\"B\":4,\"a\":3,\"😀\":1,\"\u{fffd}\":2}");
    }

    #[test]
    fn numbers_print_as_ecmascript_does() {
        assert_eq!(
            canonical("[1.0,-0,1e21,1e-7,0.000001,123456789012345680000,9007199254740993,1e20,5e-324,0.1]"),
            "[1,0,1e+21,1e-7,0.000001,123456789012345680000,9007199254740992,100000000000000000000,5e-324,0.1]"
        );
    }

    #[test]
    fn strings_escape_as_json_stringify_does() {
        assert_eq!(
            canonical(r#""\u0000\b\t\n\f\r\u001f\"\\\/\u007f\u2028é😀""#),
            "\"\\u0000\\b\\t\\n\\f\\r\\u001f\\\"\\\\/\u{7f}\u{2028}é😀\""
        );
    }

    #[test]
    fn order_is_kept_where_it_is_not_canonical() {
        assert_eq!(parse(br#"{"b":1,"a":[true,null]}"#, LIMITS).unwrap().to_string(), r#"{"b":1,"a":[true,null]}"#);
    }

    #[test]
    fn array_indices_come_first_in_ascending_order() {
        let text = r#"{"b":1,"4294967295":1,"10":1,"01":1,"9":{"1":2,"0":3},"-1":1,"4294967294":1,"1e1":1,"0":1,"":1}"#;
        assert_eq!(
            parse(text.as_bytes(), LIMITS).unwrap().to_string(),
            r#"{"0":1,"9":{"0":3,"1":2},"10":1,"4294967294":1,"b":1,"4294967295":1,"01":1,"-1":1,"1e1":1,"":1}"#
        );
        for name in ["00", "+1", "1.0", " 1", "1 ", "٣", "4294967295", "4294967296", "42949672950", "99999999999"] {
            assert_eq!(index(name), None, "{name}");
        }
    }

    #[test]
    fn utf16_order_is_that_of_the_code_units() {
        let edges =
            ["", "a", "b", "ab", "é", "\u{d7ff}", "\u{e000}", "\u{ffff}", "\u{10000}", "😀", "😁", "\u{10ffff}"];
        for a in edges {
            for b in edges.into_iter().flat_map(|b| [b.to_owned(), format!("{a}{b}"), format!("{b}{a}")]) {
                assert_eq!(by_utf16(a, &b), a.encode_utf16().cmp(b.encode_utf16()), "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn the_hashes_are_of_the_forms_however_long_they_are() {
        let long = "long \\n".repeat(3 * Writer::ENOUGH / 7);
        let many = "\"x\",".repeat(Writer::ENOUGH);
        let text =
            format!(r#"{{"b":[1,{{"y":2,"x":"\u00e9"}}],"a":null,"7":"{long}","0":[{many}0,"{}"]}}"#, "é".repeat(9999));
        let value = parse(text.as_bytes(), LIMITS).unwrap();
        assert_eq!(value.canonical_hash(), Hash::of(value.canonical().as_bytes()));
        assert_eq!(value.insertion_hash(), Hash::of(value.to_string().as_bytes()));
        assert_ne!(value.canonical_hash(), value.insertion_hash());
        assert_eq!(parse(value.to_string().as_bytes(), LIMITS).unwrap().canonical(), value.canonical());
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        assert_eq!(error(r#"{"a":1,"b":2,"a":3}"#), "byte 19: the member \"a\" is there twice");
        assert_eq!(error(r#"{"a":1,"\u0061":3}"#), "byte 18: the member \"a\" is there twice");
        assert!(error(r#""\ud800""#).contains("surrogate"));
        assert!(error(r#""\udc00\ud800""#).contains("surrogate"));
        assert!(error("1e400").contains("double"));
        let many: String = (0..100).map(|i| format!("\"{}\":0,", i * 37 % 100)).collect();
        let again = format!("{{{many}\"x\":0,\"73\":1}}");
        assert_eq!(error(&again), format!("byte {}: the member \"73\" is there twice", again.len()));
        assert!(parse(format!("{{{many}\"x\":0}}").as_bytes(), LIMITS).is_ok());
        let sorted: String = (10..99).map(|i| format!("\"{i}\":0,")).collect();
        assert!(parse(format!("{{{sorted}\"99\":0}}").as_bytes(), LIMITS).is_ok());
        assert!(error(&format!("{{{sorted}\"98\":0}}")).contains("the member \"98\" is there twice"));
        assert!(parse(b"\"\xff\"", LIMITS).unwrap_err().to_string().contains("UTF-8"));
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for text in [
            "",
            " ",
            "{",
            "[1,]",
            "{\"a\":1,}",
            "01",
            "+1",
            ".5",
            "1.",
            "1e",
            "-",
            "nul",
            "truex",
            "'a'",
            "\"\t\"",
            "\"\\x\"",
            "[1] 2",
            "{a:1}",
            "{\"a\" 1}",
            "NaN",
            "Infinity",
            "//",
            "\"\\u12\"",
            "\u{feff}1",
        ] {
            assert!(parse(text.as_bytes(), LIMITS).is_err(), "{text:?}");
        }
    }

    #[test]
    fn depth_and_size_are_bounded() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse(nested(64).as_bytes(), LIMITS).is_ok());
        assert_eq!(error(&nested(65)), "byte 64: lists and objects lie more than 64 deep");
        let ten_megabytes = "[".repeat(10 << 20);
        assert!(matches!(parse(ten_megabytes.as_bytes(), LIMITS), Err(Error::Long { .. })));
        assert!(matches!(
            parse(ten_megabytes.as_bytes(), Limits { bytes: 1 << 30, depth: 64 }),
            Err(Error::Deep { at: 64, limit: 64 })
        ));
    }
}
