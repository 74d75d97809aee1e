//! What an answer says of itself as it goes by: tokens, its end, and the receipt that a clawproxy put in it.
//!
//! Nothing here changes or delays a byte. What is too long to be looked at is not looked at.

use claw::encoding;
use mcp::json::{self, Json};
use memchr::{memchr, memmem};
use sha2::{Digest, Sha256};

/// Bytes of a line of events that are looked at.
const LONGEST_LINE: usize = 256 << 10;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Tokens of the request, and of the answer.
    pub(crate) tokens: (Option<u64>, Option<u64>),
    /// Whether the provider said that this is all, before it ended its stream.
    pub(crate) complete: bool,
    /// The envelope of a clawproxy's receipt.
    pub(crate) receipt: Option<String>,
    /// The hash of what came to a clawproxy, where it put its receipt into one JSON text and that hash can be seen to be right.
    pub(crate) answer: Option<String>,
}

/// Looks at an answer.
pub(crate) enum Meter {
    /// One JSON text: kept up to so many bytes.
    Whole { kept: Vec<u8>, most: usize },
    /// Events, line by line.
    Lines { line: Vec<u8>, skipped: bool, found: Found },
    /// Nothing that could be understood.
    Blind,
}

impl Meter {
    pub(crate) fn push(&mut self, piece: &[u8]) {
        match self {
            Self::Blind => {}
            Self::Whole { kept, most } if kept.len() + piece.len() <= *most => kept.extend_from_slice(piece),
            Self::Whole { .. } => *self = Self::Blind,
            Self::Lines { line, skipped, found } => {
                let mut rest = piece;
                while let Some(end) = memchr(b'\n', rest) {
                    let (part, after) = rest.split_at(end);
                    if !std::mem::take(skipped) {
                        if line.is_empty() {
                            look(part, found);
                        } else if line.len() + part.len() <= LONGEST_LINE {
                            line.extend_from_slice(part);
                            look(line, found);
                        }
                    }
                    line.clear();
                    rest = after.get(1..).unwrap_or_default();
                }
                if line.len() + rest.len() > LONGEST_LINE {
                    line.clear();
                    *skipped = true;
                } else if !*skipped {
                    line.extend_from_slice(rest);
                }
            }
        }
    }

    /// Whether the provider said that this is all.
    pub(crate) fn is_complete(&self) -> bool {
        matches!(self, Self::Lines { found: Found { complete: true, .. }, .. })
    }

    /// All that was found.
    pub(crate) fn found(self) -> Found {
        match self {
            Self::Blind => Found::default(),
            Self::Lines { found, .. } => found,
            Self::Whole { kept, .. } => {
                let mut found = Found::default();
                if let Ok(value) = json::parse(&kept) {
                    tokens(&value, &mut found.tokens);
                    found.receipt = value.get("_receipt_envelope").map(|envelope| envelope.to_string());
                    found.answer = before_the_receipt(value);
                }
                found
            }
        }
    }
}

fn look(line: &[u8], found: &mut Found) {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if let Some(data) = line.strip_prefix(b"data:") {
        let data = data.strip_prefix(b" ").unwrap_or(data);
        found.complete |= data == b"[DONE]";
        if memmem::find(data, b"\"usage").is_some()
            && let Ok(value) = json::parse(data)
        {
            tokens(&value, &mut found.tokens);
        }
    } else if let Some(event) = line.strip_prefix(b"event:") {
        let last: [&[u8]; 4] = [b"message_stop", b"response.completed", b"response.failed", b"response.incomplete"];
        found.complete |= last.contains(&event.trim_ascii());
    } else if let Some(receipt) = line.strip_prefix(b":clawproxy_receipt_envelope_b64u=") {
        let text = std::str::from_utf8(receipt).ok().and_then(encoding::decode_any);
        found.receipt = text.and_then(|bytes| String::from_utf8(bytes).ok()).or(found.receipt.take());
    }
}

/// The hash that a clawproxy's receipt states of what came to it, if a text has it of which the clawproxy can have made its answer.
///
/// It reads the provider's text, puts its receipt in, and writes all of it anew, without white space: an error becomes `error`, what is
/// no JSON `data` or `raw`. Spaces and numbers that the provider wrote in another way cannot be written again.
fn before_the_receipt(mut answer: Json) -> Option<String> {
    let stated = answer.at(&["_receipt_envelope", "payload", "response_hash_b64u"])?.as_str()?.to_owned();
    answer.remove("_receipt_envelope");
    answer.remove("_receipt");
    let of = |bytes: &[u8]| encoding::encode(&Sha256::digest(bytes)) == stated;
    let written = |value: &Json| {
        let mut indented = Vec::new();
        indent(value, 0, &mut indented);
        [value.to_bytes(), indented].into_iter().any(|mut bytes| {
            let bare = of(&bytes);
            bytes.push(b'\n');
            bare || of(&bytes)
        })
    };
    // Only where nothing else stands beside it: that would be the clawproxy's own word.
    let only = |names: &[&str]| {
        answer.as_object().is_some_and(|members| members.iter().all(|(name, _)| names.contains(&name.as_ref())))
    };
    let text = |path: &[&str]| answer.at(path).and_then(Json::as_str).is_some_and(|text| of(text.as_bytes()));
    let wrapped = (only(&["data"]) && text(&["data"]))
        || (only(&["error", "status"]) && (text(&["error", "raw"]) || answer.get("error").is_some_and(written)));
    (wrapped || written(&answer)).then_some(stated)
}

/// Writes a value with two spaces for each level, as providers do.
fn indent(value: &Json, level: usize, into: &mut Vec<u8>) {
    let line = |level: usize, into: &mut Vec<u8>| {
        into.push(b'\n');
        into.resize(into.len() + 2 * level, b' ');
    };
    match value {
        Json::Array(items) if !items.is_empty() => {
            for (i, item) in items.iter().enumerate() {
                into.push(if i == 0 { b'[' } else { b',' });
                line(level + 1, into);
                indent(item, level + 1, into);
            }
            line(level, into);
            into.push(b']');
        }
        Json::Object(members) if !members.is_empty() => {
            for (i, (name, value)) in members.iter().enumerate() {
                into.push(if i == 0 { b'{' } else { b',' });
                line(level + 1, into);
                Json::from(name.as_ref()).write(into);
                into.extend_from_slice(b": ");
                indent(value, level + 1, into);
            }
            line(level, into);
            into.push(b'}');
        }
        other => other.write(into),
    }
}

/// Takes what a value says of tokens; what it does not say stays.
fn tokens(value: &Json, into: &mut (Option<u64>, Option<u64>)) {
    let places = [Some(value), value.get("response"), value.get("message")];
    for place in places.into_iter().flatten() {
        for usage in ["usage", "usageMetadata"].iter().filter_map(|name| place.get(name)) {
            let count = |names: &[&str]| {
                names.iter().find_map(|name| usage.get(name)?.as_i64()).and_then(|count| u64::try_from(count).ok())
            };
            into.0 = count(&["prompt_tokens", "input_tokens", "promptTokenCount"]).or(into.0);
            into.1 = count(&["completion_tokens", "output_tokens", "candidatesTokenCount"]).or(into.1);
        }
    }
}

/// The hash of what a provider sent. A clawproxy's own comments at the end are no part of it: its receipt is of what came to it.
pub(crate) struct Hashed {
    hash: Sha256,
    /// The beginning of a line that may become such a comment; `None` where there are none.
    begun: Option<Vec<u8>>,
    line: bool,
    over: bool,
}

/// How a clawproxy's comments begin.
const TRAILER: &[u8] = b":clawproxy_receipt";

impl Hashed {
    pub(crate) fn new(trailer: bool) -> Self {
        Self { hash: Sha256::new(), begun: trailer.then(Vec::new), line: true, over: false }
    }

    pub(crate) fn push(&mut self, piece: &[u8]) {
        let Some(begun) = &mut self.begun else { return self.hash.update(piece) };
        for line in piece.split_inclusive(|byte| *byte == b'\n') {
            if self.over {
                return;
            }
            let ends = line.ends_with(b"\n");
            if !self.line {
                self.hash.update(line);
            } else {
                begun.extend_from_slice(line);
                if begun.starts_with(TRAILER) {
                    self.over = true;
                } else if !TRAILER.starts_with(begun) {
                    self.hash.update(&*begun);
                    begun.clear();
                    self.line = false;
                }
            }
            if ends {
                self.line = true;
            }
        }
    }

    /// The hash, base64url.
    pub(crate) fn end(mut self) -> String {
        if let Some(begun) = self.begun.filter(|_| !self.over) {
            self.hash.update(&begun);
        }
        encoding::encode(&self.hash.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines() -> Meter {
        Meter::Lines { line: Vec::new(), skipped: false, found: Found::default() }
    }

    fn found(mut meter: Meter, text: &str, size: usize) -> Found {
        text.as_bytes().chunks(size).for_each(|piece| meter.push(piece));
        meter.found()
    }

    #[test]
    fn each_providers_tokens_are_read_however_the_answer_is_cut() {
        let chat = "data: {\"choices\":[]}\n\ndata: {\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":9}}\n\ndata: [DONE]\n\n";
        let messages = "event: message_start\ndata: {\"message\":{\"usage\":{\"input_tokens\":7,\"output_tokens\":1}}}\n\n\
            event: message_delta\ndata: {\"usage\":{\"output_tokens\":9}}\n\nevent: message_stop\r\ndata: {}\n\n";
        let responses =
            "event: response.completed\ndata: {\"response\":{\"usage\":{\"input_tokens\":7,\"output_tokens\":9}}}\n\n";
        for text in [chat, messages, responses] {
            for size in [1, 2, 7, 1000] {
                let found = found(lines(), text, size);
                assert_eq!((found.tokens, found.complete), ((Some(7), Some(9)), true), "{text}");
            }
        }
        let google = "data: {\"usageMetadata\":{\"promptTokenCount\":7,\"candidatesTokenCount\":9}}\r\n\r\n";
        assert_eq!(found(lines(), google, 5), Found { tokens: (Some(7), Some(9)), ..Found::default() });
        let whole = Meter::Whole { kept: Vec::new(), most: 100 };
        assert_eq!(found(whole, "{\"usage\":{\"input_tokens\":7}}", 3).tokens, (Some(7), None));
    }

    #[test]
    fn what_came_to_a_clawproxy_is_seen_in_what_it_made_of_it() {
        let answer = |sent: &str, made: &str| {
            let hash = claw::Hash::of(sent.as_bytes());
            let receipt = format!("{{\"payload\":{{\"response_hash_b64u\":\"{hash}\"}}}}");
            let text = made.replace('}', &format!(",\"_receipt\":{{\"a\":1}},\"_receipt_envelope\":{receipt}}}"));
            let answer = found(Meter::Whole { kept: Vec::new(), most: 10_000 }, &text, 7).answer;
            assert!(answer.is_none() || answer == Some(hash.to_string()));
            answer.is_some()
        };
        let compact = "{\"a\":[1,[],\"\u{e4}\"],\"b\":null}";
        let wide = "{\n  \"a\": [\n    1,\n    [],\n    \"\u{e4}\"\n  ],\n  \"b\": null\n}";
        for sent in [compact.to_owned(), wide.into(), format!("{compact}\n"), format!("{wide}\n")] {
            assert!(answer(&sent, compact), "{sent}");
            assert!(!answer(&sent, &compact.replace('1', "2")), "{sent}");
        }
        assert!(answer("no JSON", "{\"data\":\"no JSON\"}"));
        assert!(answer("[7]", "{\"error\":[7],\"status\":500}"));
        assert!(!answer("{\"a\" : 1}", "{\"a\":1}"));
    }

    #[test]
    fn what_is_too_long_is_not_kept() {
        let mut meter = lines();
        for _ in 0..100 {
            meter.push(&[b'x'; 64 << 10]);
            let Meter::Lines { line, .. } = &meter else { panic!() };
            assert!(line.len() <= LONGEST_LINE);
        }
        meter.push(b"\ndata: [DONE]\n");
        assert!(meter.is_complete());
        let mut meter = Meter::Whole { kept: Vec::new(), most: 10 };
        meter.push(b"{\"usage\":{}}");
        assert!(matches!(meter, Meter::Blind));
    }

    #[test]
    fn a_clawproxys_receipt_is_taken_and_no_part_of_what_is_hashed() {
        let sent = "data: 1\n\n:clawproxy\n:\n\ndata: [DONE]\n\n";
        let text = format!(
            "{sent}:clawproxy_receipt_envelope_b64u={}\n:clawproxy_receipt_b64u=x\n\n",
            encoding::encode(b"{\"a\":1}")
        );
        for size in 1..text.len() {
            let mut hashed = Hashed::new(true);
            text.as_bytes().chunks(size).for_each(|piece| hashed.push(piece));
            assert_eq!(hashed.end(), claw::Hash::of(sent.as_bytes()).to_string(), "{size}");
            assert_eq!(found(lines(), &text, size).receipt.as_deref(), Some("{\"a\":1}"));
        }
        for text in ["", "data: 1", ":clawproxy_rec", "a\n:clawproxy_"] {
            let mut hashed = Hashed::new(true);
            text.as_bytes().chunks(2).for_each(|piece| hashed.push(piece));
            assert_eq!(hashed.end(), claw::Hash::of(text.as_bytes()).to_string());
        }
    }
}
