//! A line of the chain, looked through without being taken apart: for whoever only wants to know that it follows.
//!
//! What is accepted here is the form in which lines are written, and of its body any JSON that serde_json takes as well. All else is
//! none of this reader's business: it says nothing, and the line is read in the other way, which says what is wrong with it.

use super::Kind;

/// Lists and objects within each other. Fewer than serde_json takes.
const DEEPEST: usize = 100;

/// What a line says of its place.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Scanned<'a> {
    pub(super) seq: u64,
    pub(super) prev: Option<&'a [u8]>,
    pub(super) kind: Kind,
}

impl<'a> Scanned<'a> {
    /// Of a line without its newline, if it is written as this crate writes it.
    pub(super) fn of(line: &'a [u8]) -> Option<Self> {
        // A body may have any text in it, and what is no UTF-8 is no JSON.
        std::str::from_utf8(line).ok()?;
        let mut scan = Scan { rest: line };
        scan.expect(b"{\"seq\":")?;
        let seq = scan.seq()?;
        scan.expect(b",\"at\":\"")?;
        scan.plain()?;
        scan.expect(b",\"prev\":")?;
        let prev = match scan.expect(b"null") {
            Some(()) => None,
            None => {
                scan.expect(b"\"")?;
                Some(scan.plain()?)
            }
        };
        scan.expect(b",\"kind\":\"")?;
        let kind = kind(scan.plain()?)?;
        scan.expect(b",\"body\":")?;
        let body = scan.rest.strip_suffix(b"}")?;
        is_json(body).then_some(Self { seq, prev, kind })
    }
}

fn kind(name: &[u8]) -> Option<Kind> {
    use serde::{Deserialize, de::value::StrDeserializer};
    let name = std::str::from_utf8(name).ok()?;
    Kind::deserialize(StrDeserializer::<serde::de::value::Error>::new(name)).ok()
}

struct Scan<'a> {
    rest: &'a [u8],
}

impl<'a> Scan<'a> {
    fn expect(&mut self, bytes: &[u8]) -> Option<()> {
        self.rest = self.rest.strip_prefix(bytes)?;
        Some(())
    }

    /// A number without leading zeros.
    fn seq(&mut self) -> Option<u64> {
        let digits = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (number, rest) = self.rest.split_at_checked(digits)?;
        if number.len() > 1 && number.starts_with(b"0") {
            return None;
        }
        self.rest = rest;
        std::str::from_utf8(number).ok()?.parse().ok()
    }

    /// The rest of a string in which every byte stands for itself, with its end.
    fn plain(&mut self) -> Option<&'a [u8]> {
        let end = self.rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20))?;
        let (text, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest.strip_prefix(b"\"")?;
        Some(text)
    }
}

/// Bytes by what they mean within a string: 0 stands for itself.
const SPECIAL: [bool; 256] = {
    let mut special = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        special[byte] = true;
        byte += 1;
    }
    special[b'"' as usize] = true;
    special[b'\\' as usize] = true;
    special
};

/// What may come next.
#[derive(Clone, Copy, PartialEq)]
enum Next {
    Value,
    /// A value, or the end of a list that has just begun.
    ValueOrEnd,
    Name,
    /// A name, or the end of an object that has just begun.
    NameOrEnd,
    /// A comma, or the end of what it is in.
    More,
}

/// Whether a text without white space is one JSON value; `false` also for what is left to a slower reader (exponents, surrogates,
/// great depth, white space).
fn is_json(text: &[u8]) -> bool {
    let mut open = [0_u8; DEEPEST];
    let (mut at, mut depth, mut next) = (0, 0, Next::Value);
    loop {
        let Some(&byte) = text.get(at) else {
            return depth == 0 && next == Next::More;
        };
        at += 1;
        match (next, byte) {
            (Next::Value | Next::ValueOrEnd, b'{' | b'[') => {
                let Some(slot) = open.get_mut(depth) else { return false };
                *slot = byte;
                depth += 1;
                next = if byte == b'{' { Next::NameOrEnd } else { Next::ValueOrEnd };
            }
            (Next::NameOrEnd, b'}') | (Next::ValueOrEnd, b']') => {
                depth -= 1;
                next = Next::More;
            }
            (Next::More, b'}' | b']') => {
                let within = depth.checked_sub(1).and_then(|outer| open.get(outer).copied());
                if within != Some(if byte == b'}' { b'{' } else { b'[' }) {
                    return false;
                }
                depth -= 1;
            }
            (Next::More, b',') => {
                let within = depth.checked_sub(1).and_then(|outer| open.get(outer).copied());
                next = match within {
                    Some(b'{') => Next::Name,
                    Some(_) => Next::Value,
                    None => return false,
                };
            }
            (Next::Name | Next::NameOrEnd, b'"') => {
                let Some(end) = string(text, at) else { return false };
                if text.get(end) != Some(&b':') {
                    return false;
                }
                at = end + 1;
                next = Next::Value;
            }
            (Next::Value | Next::ValueOrEnd, b'"') => {
                let Some(end) = string(text, at) else { return false };
                at = end;
                next = Next::More;
            }
            (Next::Value | Next::ValueOrEnd, _) => {
                let Some(end) = scalar(text, at - 1) else { return false };
                at = end;
                next = Next::More;
            }
            _ => return false,
        }
    }
}

/// The end of a string whose first character is at that place.
fn string(text: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let rest = text.get(at..)?;
        at += rest.iter().position(|byte| SPECIAL.get(usize::from(*byte)).copied().unwrap_or(true))?;
        match text.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => match text.get(at + 1)? {
                b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => at += 2,
                b'u' => {
                    // Half a surrogate pair is a question of what follows.
                    let digits = text.get(at + 2..at + 6)?;
                    if !digits.iter().all(u8::is_ascii_hexdigit)
                        || matches!(digits, [b'd' | b'D', b'8'..=b'9' | b'a'..=b'f' | b'A'..=b'F', ..])
                    {
                        return None;
                    }
                    at += 6;
                }
                _ => return None,
            },
            _ => return None,
        }
    }
}

/// The end of a number, or of one of three words.
fn scalar(text: &[u8], at: usize) -> Option<usize> {
    let rest = text.get(at..)?;
    for word in [&b"true"[..], b"false", b"null"] {
        if rest.starts_with(word) {
            return Some(at + word.len());
        }
    }
    let digits =
        |from: usize| text.get(from..).map(|rest| rest.iter().take_while(|byte| byte.is_ascii_digit()).count());
    let first = if rest.starts_with(b"-") { at + 1 } else { at };
    let whole = digits(first)?;
    // No double holds more digits than this before its point.
    if whole == 0 || whole > 300 || (whole > 1 && text.get(first) == Some(&b'0')) {
        return None;
    }
    let mut end = first + whole;
    if text.get(end) == Some(&b'.') {
        let more = digits(end + 1)?;
        if more == 0 {
            return None;
        }
        end += 1 + more;
    }
    match text.get(end) {
        Some(b'e' | b'E') => None,
        _ => Some(end),
    }
}
