//! A message's strings side by side, and the way back from a place in them.
//!
//! `\0` ends a string and `\x01` a member's name before its string or number, so that a pattern can tell `{"password":"…"}` as
//! it tells `password=…`. Strings that are base64 of text stand there once more, decoded.

use std::{collections::BTreeMap, mem, ops::Range};

use base64::{
    Engine,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use policy::contract::DataClass;

use crate::json::Json;

/// Numbers with fewer characters are no card's.
const SHORTEST_NUMBER: usize = 12;

/// Strings with fewer bytes are not decoded.
const SHORTEST_ENCODED: usize = 24;

/// Bytes of a member's name in a path.
const LONGEST_NAME: usize = 64;

const CONFIG: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);
const PLAIN: GeneralPurpose = GeneralPurpose::new(&STANDARD, CONFIG);
const URL: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, CONFIG);

/// Where in a message something is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// Which of its names, strings and long numbers, counted as [`visit`] does.
    pub(super) string: usize,
    /// Which bytes of it.
    pub(super) bytes: Span,
    /// Whether it is there in base64, of which `bytes` is then all.
    pub(super) encoded: bool,
}

/// A range that can be sorted, unlike Rust's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Span {
    pub(super) start: usize,
    pub(super) end: usize,
}

/// Strings side by side.
pub(super) struct Text {
    bytes: Vec<u8>,
    pieces: Vec<Piece>,
}

struct Piece {
    start: usize,
    end: usize,
    /// Which string it is.
    string: usize,
    /// The bytes of the original that it stands for, if it is a decoded one.
    encoded: Option<usize>,
    /// Whether it is the name of the piece that follows.
    names: bool,
}

/// A string of a message.
enum Slot<'a> {
    Name { text: &'a str, of_text: bool },
    Value(&'a str),
}

fn of_text(json: &Json) -> bool {
    match json {
        Json::String(_) => true,
        Json::Number(text) => text.len() >= SHORTEST_NUMBER,
        _ => false,
    }
}

/// Names, strings and long numbers in the order in which they are written.
fn visit<'a>(json: &'a Json, each: &mut impl FnMut(Slot<'a>)) {
    match json {
        Json::String(text) => each(Slot::Value(text)),
        Json::Number(text) if of_text(json) => each(Slot::Value(text)),
        Json::Array(items) => items.iter().for_each(|item| visit(item, each)),
        Json::Object(members) => {
            for (name, value) in members {
                each(Slot::Name { text: name, of_text: of_text(value) });
                visit(value, each);
            }
        }
        Json::Null | Json::Bool(_) | Json::Number(_) => {}
    }
}

impl Text {
    pub(super) fn of(json: &Json) -> Self {
        let mut text = Self { bytes: vec![0], pieces: Vec::new() };
        let mut encoded = Vec::new();
        let mut string = 0;
        visit(json, &mut |slot| {
            match slot {
                Slot::Name { text: name, of_text } => text.push(name.as_bytes(), string, None, of_text),
                Slot::Value(value) => {
                    text.push(value.as_bytes(), string, None, false);
                    if let Some(decoded) = decoded(value) {
                        encoded.push((string, value.len(), decoded));
                    }
                }
            }
            string += 1;
        });
        for (string, bytes, decoded) in encoded {
            text.push(&decoded, string, Some(bytes), false);
        }
        text
    }

    fn push(&mut self, bytes: &[u8], string: usize, encoded: Option<usize>, names: bool) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        self.pieces.push(Piece { start, end: self.bytes.len(), string, encoded, names });
        self.bytes.push(u8::from(names));
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How far a match may go that begins here: to the end of the string, or of the string that it names. `piece` is the number of
    /// one at or before this place, and is moved on.
    pub(super) fn end(&self, at: usize, piece: &mut usize) -> Option<usize> {
        while self.pieces.get(*piece)?.end <= at {
            *piece += 1;
        }
        let here = self.pieces.get(*piece)?;
        let last = if here.names { self.pieces.get(*piece + 1)? } else { here };
        Some(last.end)
    }

    /// Where in the message a match is, which began in this piece. What does not lie in one string alone is cut.
    pub(super) fn place(&self, range: Range<usize>, piece: usize) -> Option<Place> {
        let here = self.pieces[piece..].iter().take(2).find(|piece| range.start < piece.end)?;
        if let Some(end) = here.encoded {
            return Some(Place { string: here.string, bytes: Span { start: 0, end }, encoded: true });
        }
        let (start, end) = (range.start.max(here.start) - here.start, range.end.min(here.end).checked_sub(here.start)?);
        (start < end).then_some(Place { string: here.string, bytes: Span { start, end }, encoded: false })
    }
}

/// The text that a whole string is the base64 of; also that of a `data:` URL.
fn decoded(value: &str) -> Option<Vec<u8>> {
    let value = match value.strip_prefix("data:") {
        Some(url) => url.get(..url.len().min(128)).and_then(|start| start.find(";base64,")).map(|at| &url[at + 8..])?,
        None => value,
    };
    let head = value.as_bytes().get(..SHORTEST_ENCODED)?;
    let engine = if value.bytes().any(|byte| byte == b'-' || byte == b'_') { URL } else { PLAIN };
    let is_text = |bytes: &[u8]| bytes.iter().all(|byte| *byte >= b' ' || matches!(byte, b'\t' | b'\n' | b'\r'));
    if !engine.decode(head).is_ok_and(|first| is_text(&first)) {
        return None;
    }
    let whole = if value.contains(['\n', '\r']) {
        engine.decode(value.replace(['\n', '\r'], "")).ok()?
    } else {
        engine.decode(value).ok()?
    };
    String::from_utf8(whole).ok().map(String::into_bytes)
}

/// Joins places that overlap. Answers how many are left.
pub(super) fn merged(places: &mut Vec<Place>) -> u64 {
    places.sort_unstable();
    let mut joined: Vec<Place> = Vec::with_capacity(places.len());
    for place in mem::take(places) {
        match joined.last_mut() {
            Some(last) if last.string == place.string && place.bytes.start < last.bytes.end => {
                last.bytes.end = last.bytes.end.max(place.bytes.end);
                last.encoded |= place.encoded;
            }
            _ => joined.push(place),
        }
    }
    *places = joined;
    places.len() as u64
}

/// What stands for what was found.
pub(super) fn mark(class: DataClass) -> String {
    format!("[redacted:{class}]")
}

/// JSON pointers to these strings, by their numbers. The names among them are not repeated.
pub(super) fn paths(json: &Json, marks: &BTreeMap<usize, DataClass>) -> BTreeMap<usize, String> {
    let mut walk = Paths { marks, next: 0, steps: Vec::new(), found: BTreeMap::new() };
    walk.walk(json);
    walk.found
}

struct Paths<'a> {
    marks: &'a BTreeMap<usize, DataClass>,
    next: usize,
    steps: Vec<Step<'a>>,
    found: BTreeMap<usize, String>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Item(usize),
    Member(&'a str),
    Marked(DataClass),
}

impl<'a> Paths<'a> {
    fn take(&mut self) {
        if self.marks.contains_key(&self.next) {
            let path = self.steps.iter().fold(String::new(), |path, step| {
                path + "/"
                    + &match step {
                        Step::Item(number) => number.to_string(),
                        Step::Marked(class) => mark(*class),
                        Step::Member(name) => {
                            name[..name.floor_char_boundary(LONGEST_NAME)].replace('~', "~0").replace('/', "~1")
                        }
                    }
            });
            self.found.insert(self.next, path);
        }
        self.next += 1;
    }

    fn walk(&mut self, json: &'a Json) {
        match json {
            Json::Array(items) => {
                for (number, item) in items.iter().enumerate() {
                    self.steps.push(Step::Item(number));
                    self.walk(item);
                    self.steps.pop();
                }
            }
            Json::Object(members) => {
                for (name, value) in members {
                    self.steps
                        .push(self.marks.get(&self.next).map_or(Step::Member(name), |class| Step::Marked(*class)));
                    self.take();
                    self.walk(value);
                    self.steps.pop();
                }
            }
            _ if of_text(json) => self.take(),
            _ => {}
        }
    }
}

/// Puts marks in these places; `whole` puts one in the place of each string that has any.
pub(super) fn redact(json: &mut Json, places: Vec<(Place, DataClass)>, whole: bool) {
    let mut by_string: BTreeMap<usize, Vec<(Place, DataClass)>> = BTreeMap::new();
    for (place, class) in places {
        by_string.entry(place.string).or_default().push((place, class));
    }
    Redaction { by_string, next: 0, whole }.walk(json);
}

struct Redaction {
    by_string: BTreeMap<usize, Vec<(Place, DataClass)>>,
    next: usize,
    whole: bool,
}

impl Redaction {
    /// What the next string becomes, if it changes.
    fn next(&mut self, text: &str) -> Option<String> {
        let places = self.by_string.remove(&self.next);
        self.next += 1;
        let mut places = places?;
        places.sort_unstable();
        if let Some((_, class)) = places.iter().find(|(place, _)| place.encoded) {
            // Who reads it expects base64.
            return Some(PLAIN.encode(mark(*class)));
        }
        if let (true, Some((_, class))) = (self.whole, places.first()) {
            return Some(mark(*class));
        }
        let (mut new, mut kept) = (String::with_capacity(text.len()), 0);
        for (place, class) in places {
            let (start, end) = (text.floor_char_boundary(place.bytes.start), text.ceil_char_boundary(place.bytes.end));
            if start >= kept {
                new.push_str(&text[kept..start]);
                new.push_str(&mark(class));
            }
            kept = kept.max(end);
        }
        new.push_str(&text[kept..]);
        Some(new)
    }

    fn walk(&mut self, json: &mut Json) {
        match json {
            Json::Number(_) if !of_text(json) => {}
            Json::Array(items) => items.iter_mut().for_each(|item| self.walk(item)),
            Json::Object(members) => {
                let mut renamed = false;
                for (name, value) in members.iter_mut() {
                    if let Some(new) = self.next(name) {
                        *name = new.into();
                        renamed = true;
                    }
                    self.walk(value);
                }
                if renamed {
                    let mut names = std::collections::HashSet::with_capacity(members.len());
                    for (name, _) in members {
                        let (first, mut number) = (name.clone(), 1);
                        while !names.insert(name.clone()) {
                            number += 1;
                            *name = format!("{first} ({number})").into();
                        }
                    }
                }
            }
            Json::String(text) | Json::Number(text) => {
                if let Some(new) = self.next(text) {
                    *json = Json::String(new.into());
                }
            }
            Json::Null | Json::Bool(_) => {}
        }
    }
}
