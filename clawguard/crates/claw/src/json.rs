//! JSON that keeps the order of its members, and its canonical form (RFC 8785, JCS).
//!
//! Strict where a lenient reader would let two readers see two things: no duplicate member names, no lone surrogates, no
//! numbers beyond a double, no depth or size without bound.

use std::fmt;

use sha2::{Digest, Sha256};

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
        write(self, true, &mut |part| text.push_str(part));
        text
    }

    /// The SHA-256 of the canonical form, without making it.
    #[must_use]
    pub fn canonical_hash(&self) -> Hash {
        let mut hasher = Sha256::new();
        write(self, true, &mut |part| hasher.update(part.as_bytes()));
        Hash(hasher.finalize().into())
    }
}

/// Compact JSON, members in order.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut answer = Ok(());
        write(self, false, &mut |part| {
            if answer.is_ok() {
                answer = f.write_str(part);
            }
        });
        answer
    }
}

fn write(value: &Value, sorted: bool, to: &mut dyn FnMut(&str)) {
    match value {
        Value::Null => to("null"),
        Value::Bool(true) => to("true"),
        Value::Bool(false) => to("false"),
        Value::Number(number) => to(ryu_js::Buffer::new().format(*number)),
        Value::String(text) => write_string(text, to),
        Value::Array(items) => {
            to("[");
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    to(",");
                }
                write(item, sorted, to);
            }
            to("]");
        }
        Value::Object(members) => {
            let mut order: Vec<&(Box<str>, Value)> = members.iter().collect();
            if sorted {
                order.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
            }
            to("{");
            for (i, (name, value)) in order.into_iter().enumerate() {
                if i > 0 {
                    to(",");
                }
                write_string(name, to);
                to(":");
                write(value, sorted, to);
            }
            to("}");
        }
    }
}

fn write_string(text: &str, to: &mut dyn FnMut(&str)) {
    to("\"");
    let mut plain = 0;
    for (at, byte) in text.bytes().enumerate() {
        let escape: &str = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            0x08 => "\\b",
            0x09 => "\\t",
            0x0a => "\\n",
            0x0c => "\\f",
            0x0d => "\\r",
            0..0x20 => &format!("\\u{byte:04x}"),
            _ => continue,
        };
        to(&text[plain..at]);
        to(escape);
        plain = at + 1;
    }
    to(&text[plain..]);
    to("\"");
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
    let mut parser = Parser { text, at: 0, depth: 0, limit: limits.depth };
    parser.space();
    let value = parser.value()?;
    parser.space();
    if parser.at == text.len() { Ok(value) } else { parser.fail("the end of the text") }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    limit: usize,
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
        let mut members = Vec::new();
        if self.eat(b'}') {
            return Ok(Value::Object(members));
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
        let mut names: Vec<&str> = members.iter().map(|(name, _)| &**name).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::Duplicate { at: self.at, name: twice[0].chars().take(64).collect() });
        }
        Ok(Value::Object(members))
    }

    fn string(&mut self) -> Result<Box<str>, Error> {
        self.at += 1;
        let start = self.at;
        // Most strings have no escapes and are taken as they stand.
        loop {
            match self.peek() {
                Some(b'"') => {
                    let text = self.text[start..self.at].into();
                    self.at += 1;
                    return Ok(text);
                }
                Some(b'\\') => break,
                Some(0..0x20) | None => return self.fail("a character of a string"),
                Some(_) => self.at += 1,
            }
        }
        let mut text = String::from(&self.text[start..self.at]);
        loop {
            let from = self.at;
            while !matches!(self.peek(), Some(b'"' | b'\\' | 0..0x20) | None) {
                self.at += 1;
            }
            text.push_str(&self.text[from..self.at]);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(text.into());
                }
                Some(b'\\') => text.push(self.escape()?),
                _ => return self.fail("a character of a string"),
            }
        }
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
    fn the_hash_is_of_the_canonical_form() {
        let value = parse(br#"{"b":[1,{"y":2,"x":"\u00e9"}],"a":null}"#, LIMITS).unwrap();
        assert_eq!(value.canonical_hash(), Hash::of(value.canonical().as_bytes()));
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        assert_eq!(error(r#"{"a":1,"b":2,"a":3}"#), "byte 19: the member \"a\" is there twice");
        assert_eq!(error(r#"{"a":1,"\u0061":3}"#), "byte 18: the member \"a\" is there twice");
        assert!(error(r#""\ud800""#).contains("surrogate"));
        assert!(error(r#""\udc00\ud800""#).contains("surrogate"));
        assert!(error("1e400").contains("double"));
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
