//! Where a receipt goes in an answer: behind everything that the provider sent, without waiting for the end of it.

use std::fmt::Write;

use bytes::{Bytes, BytesMut};
use memchr::memchr2;

use super::mask::Mask;

/// The member that has the receipt in a JSON object.
const MEMBER: &str = "_receipt_envelope";
/// The comment that has it in a stream of events.
const COMMENT: &str = ":clawproxy_receipt_envelope_b64u=";

/// White space behind a JSON object that is held back with its brace.
const MOST_HELD: usize = 4096;

/// What of an answer is held back, so that a receipt fits.
#[derive(Debug)]
pub(crate) enum Tail {
    /// A JSON object: its last brace.
    Object(Object),
    /// Events: nothing, but it is looked whether they end where an event does.
    Events(Events),
    /// An error: no quote of the host's key passes. There is no place for a receipt.
    Masked(Mask),
    /// Anything else: there is no place for one either.
    Plain,
}

impl Tail {
    /// Takes a piece, and gives what of it, and of what was held back, may leave.
    pub(crate) fn push(&mut self, piece: Bytes) -> [Option<Bytes>; 2] {
        match self {
            Self::Object(object) => object.push(piece),
            Self::Events(events) => {
                events.push(&piece);
                [Some(piece), None]
            }
            Self::Masked(mask) => [Some(mask.push(&piece)), None],
            Self::Plain => [Some(piece), None],
        }
    }

    /// The end, with a receipt (the text of its envelope) where one fits.
    pub(crate) fn end(&mut self, receipt: Option<&str>) -> Option<Bytes> {
        match (self, receipt) {
            (Self::Object(object), receipt) => object.end(receipt),
            (Self::Masked(mask), _) => Some(mask.end()),
            (Self::Events(events), Some(receipt)) if events.at_border() => {
                let mut text = String::with_capacity(receipt.len() * 4 / 3 + 64);
                // A text takes every writing.
                let _ = write!(text, "{COMMENT}{}\n\n", claw::encoding::encode(receipt.as_bytes()));
                Some(text.into())
            }
            _ => None,
        }
    }
}

/// A JSON object as it goes by.
#[derive(Debug, Default)]
pub(crate) struct Object {
    depth: u32,
    in_string: bool,
    escaped: bool,
    /// Whether it has any member.
    filled: bool,
    state: State,
    held: BytesMut,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Before the first brace.
    #[default]
    Before,
    Within,
    /// Behind the last: it is held back, and white space with it.
    Closed,
    /// It is no object after all.
    Broken,
}

impl Object {
    fn push(&mut self, mut piece: Bytes) -> [Option<Bytes>; 2] {
        if self.state == State::Broken {
            return [Some(piece), None];
        }
        let before = self.state == State::Closed;
        match self.closes(&piece) {
            // What was held back leaves if something follows that is none of the object's.
            _ if self.state == State::Broken => [before.then(|| self.held.split().freeze()), Some(piece)],
            Some(at) if self.state == State::Closed => {
                self.held.extend_from_slice(&piece.split_off(at));
                [Some(piece), None]
            }
            _ => [Some(piece), None],
        }
    }

    /// Where in a piece the part begins that is held back, if any does.
    fn closes(&mut self, piece: &[u8]) -> Option<usize> {
        let mut held = (self.state == State::Closed).then_some(0);
        let mut at = 0;
        while let Some(rest) = piece.get(at..).filter(|rest| !rest.is_empty()) {
            if self.in_string && !self.escaped {
                // What is no end of a string and no escape is passed over.
                match memchr2(b'"', b'\\', rest) {
                    Some(skip) => at += skip,
                    None => return held,
                }
            }
            let Some(byte) = piece.get(at).copied() else { break };
            let space = matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
            match self.state {
                State::Before if space => {}
                State::Before if byte == b'{' => {
                    self.depth = 1;
                    self.state = State::Within;
                }
                State::Within => self.within(byte, space),
                State::Closed if space && self.held.len() < MOST_HELD => {}
                State::Before | State::Closed | State::Broken => self.state = State::Broken,
            }
            match self.state {
                State::Broken => return None,
                State::Closed if held.is_none() => held = Some(at),
                _ => {}
            }
            at += 1;
        }
        held
    }

    fn within(&mut self, byte: u8, space: bool) {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return;
        }
        match byte {
            b'}' | b']' => {
                self.depth -= 1;
                if self.depth == 0 {
                    self.state = if byte == b'}' { State::Closed } else { State::Broken };
                }
                return;
            }
            b'{' | b'[' => self.depth = self.depth.saturating_add(1),
            b'"' => self.in_string = true,
            _ => {}
        }
        self.filled |= !space;
    }

    fn end(&mut self, receipt: Option<&str>) -> Option<Bytes> {
        let held = self.held.split().freeze();
        let Some(receipt) = receipt.filter(|_| self.state == State::Closed) else {
            return (!held.is_empty()).then_some(held);
        };
        let comma = if self.filled { "," } else { "" };
        let mut all = format!("{comma}\"{MEMBER}\":{receipt}").into_bytes();
        all.extend_from_slice(&held);
        Some(all.into())
    }
}

/// The last bytes of a stream of events.
#[derive(Debug, Default)]
pub(crate) struct Events {
    last: [u8; 4],
    some: bool,
}

impl Events {
    fn push(&mut self, piece: &[u8]) {
        self.some |= !piece.is_empty();
        for byte in piece.iter().skip(piece.len().saturating_sub(self.last.len())) {
            self.last.rotate_left(1);
            if let Some(last) = self.last.last_mut() {
                *last = *byte;
            }
        }
    }

    /// Whether an event ends here: what follows is no part of one.
    fn at_border(&self) -> bool {
        !self.some || matches!(self.last, [.., b'\n', b'\n'] | [.., b'\r', b'\r'] | [_, b'\n', b'\r', b'\n'])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What leaves, of a text that comes in pieces of so many bytes.
    fn passed(mut tail: Tail, text: &str, size: usize, receipt: Option<&str>) -> String {
        let mut all = Vec::new();
        for piece in text.as_bytes().chunks(size) {
            for out in tail.push(Bytes::copy_from_slice(piece)).into_iter().flatten() {
                all.extend_from_slice(&out);
            }
        }
        all.extend(tail.end(receipt).into_iter().flatten());
        String::from_utf8(all).unwrap()
    }

    #[test]
    fn an_objects_receipt_is_its_last_member_however_the_object_is_cut() {
        for text in [
            "{}",
            " { } \n",
            r#"{"a":{"b":[1,{}]},"c":"}\"{\\"}"#,
            "{\"usage\":{\"n\":1}}\r\n",
            r#"{"_receipt_envelope":1,"x":"\u007d"}"#,
        ] {
            for size in 1..=text.len() {
                let got = passed(Tail::Object(Object::default()), text, size, Some(r#"{"r":1}"#));
                let was: serde_json::Value = serde_json::from_str(text).unwrap();
                let mut is: serde_json::Value = serde_json::from_str(&got).unwrap();
                let receipt = is.as_object_mut().unwrap().remove(MEMBER);
                assert_eq!(receipt, Some(serde_json::json!({ "r": 1 })), "{got}");
                let members = |value: &serde_json::Value| {
                    value.as_object().unwrap().keys().filter(|key| *key != MEMBER).cloned().collect::<Vec<_>>()
                };
                assert_eq!(members(&is), members(&was), "{got}");
                assert_eq!(passed(Tail::Object(Object::default()), text, size, None), text);
            }
        }
    }

    #[test]
    fn what_is_no_object_passes_unchanged() {
        let long = format!("{{}}{}", " ".repeat(2 * MOST_HELD));
        for text in ["[1]", "", "x", "{]", "{\"a\":1", "{\"a\":\"}", "{}{}", "{} x", "{}}", "\u{feff}{}", &long] {
            for size in [1, 2, 3, 1000] {
                assert_eq!(passed(Tail::Object(Object::default()), text, size, Some("{}")), text, "{size}");
            }
        }
    }

    #[test]
    fn events_get_a_comment_only_where_none_is_cut_by_it() {
        for whole in ["", "data: 1\n\n", "data: 1\r\n\r\n", "data: 1\r\r", "data: 1\n\r\n"] {
            for size in 1..8 {
                let got = passed(Tail::Events(Events::default()), whole, size, Some("{}"));
                assert_eq!(got, format!("{whole}:clawproxy_receipt_envelope_b64u=e30\n\n"), "{whole:?}");
                assert_eq!(passed(Tail::Events(Events::default()), whole, size, None), whole);
            }
        }
        for amid in ["data: 1", "data: 1\n", "data: 1\r\n", "\r"] {
            assert_eq!(passed(Tail::Events(Events::default()), amid, 3, Some("{}")), amid);
        }
    }
}
