//! Patterns, read from data.

use std::ops::Range;

use policy::contract::DataClass;
use regex::bytes::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};

use super::check::{self, Check};
use crate::json::{self, Json};

/// Memory that the automata may take, in bytes: all states of all patterns lie well below.
const AUTOMATON: usize = 16 << 20;

/// Why patterns cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPatterns {
    /// No JSON, or of another shape.
    #[error("the data classes' patterns are not readable: {0} is wrong or missing")]
    Shape(String),
    /// A class that no contract knows.
    #[error("the pattern {id} is of the class {class}, which is none")]
    Class {
        /// The pattern.
        id: String,
        /// What it says.
        class: String,
    },
    /// A check that there is not.
    #[error("the pattern {id} names the check {check}, which is none")]
    Check {
        /// The pattern.
        id: String,
        /// What it says.
        check: String,
    },
    /// No regular expression.
    #[error("the pattern {id}: {why}")]
    Expression {
        /// The pattern.
        id: String,
        /// What is wrong with it.
        why: String,
    },
}

/// One way to tell a class.
#[derive(Debug)]
pub(super) struct Pattern {
    pub(super) id: String,
    pub(super) class: DataClass,
    after: After,
    /// Of the whole, from where it begins. The group `it` is what is found, or else all of it; there is no other group.
    expression: Regex,
    check: Check,
}

/// What may stand before a match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// Anything.
    Any,
    /// No letter, digit or `_`.
    Word,
    /// Nor a hyphen.
    Dash,
}

/// All patterns.
pub(super) struct Patterns {
    pub(super) begins: Regex,
    pub(super) which: RegexSet,
    pub(super) patterns: Vec<Pattern>,
}

impl Pattern {
    pub(super) fn may_follow(&self, before: Option<u8>) -> bool {
        let Some(byte) = before else { return true };
        match self.after {
            After::Any => true,
            After::Word => !check::word(byte),
            After::Dash => !check::word(byte) && byte != b'-',
        }
    }

    /// What is found in `text` at `start`; the expression, and most checks, see `reach` bytes of it. Answers also whether it
    /// goes on beyond them.
    pub(super) fn find(&self, text: &[u8], start: usize, reach: usize) -> Option<(Range<usize>, bool)> {
        let window = text.get(start..start + reach)?;
        // Groups cost more to tell.
        let it = match self.expression.captures_len() {
            1 => self.expression.find(window)?,
            _ => self.expression.captures(window)?.name("it")?,
        };
        let found = self.check.pass(text, start, start + it.start()..start + it.end())?;
        Some((found, it.end() == reach))
    }
}

/// Reads patterns.
pub(super) fn read(text: &str) -> Result<Patterns, BadPatterns> {
    let shape = |what: &str| BadPatterns::Shape(what.into());
    let json = json::parse(text.as_bytes()).map_err(|flaw| BadPatterns::Shape(flaw.to_string()))?;
    let parts: Vec<_> = json
        .get("parts")
        .and_then(Json::as_object)
        .ok_or_else(|| shape("parts"))?
        .iter()
        .filter_map(|(name, part)| Some((format!("<{name}>"), part.as_str()?)))
        .collect();
    let whole = |text: &str| parts.iter().fold(text.to_owned(), |text, (name, part)| text.replace(name, part));
    let (mut begins, mut wholes, mut patterns) = (Vec::new(), Vec::new(), Vec::new());
    for one in json.get("patterns").and_then(Json::as_array).ok_or_else(|| shape("patterns"))? {
        let id = one.get("id").and_then(Json::as_str).ok_or_else(|| shape("id"))?;
        let member = |name: &str| one.get(name).and_then(Json::as_str);
        let class = member("class").unwrap_or_default();
        let class = class.parse().map_err(|_| BadPatterns::Class { id: id.into(), class: class.into() })?;
        let after = match member("after") {
            None => After::Word,
            Some("dash") => After::Dash,
            Some("any") => After::Any,
            Some(_) => return Err(shape(id)),
        };
        let check = match member("check") {
            None => Check::Token,
            Some(name) => Check::of(name).ok_or_else(|| BadPatterns::Check { id: id.into(), check: name.into() })?,
        };
        let begin = whole(member("begins").ok_or_else(|| shape(id))?);
        let expression = format!("^(?:{begin}){}", whole(member("goes_on").unwrap_or_default()));
        patterns.push(Pattern { id: id.into(), class, after, expression: compile(id, &expression)?, check });
        wholes.push(expression);
        // The boundary here only spares a closer look; what may stand before is told by `after`.
        begins.push(if after == After::Any { begin } else { format!("\\b(?:{begin})") });
    }
    let which = RegexSetBuilder::new(&wholes)
        .unicode(false)
        .size_limit(AUTOMATON)
        .dfa_size_limit(AUTOMATON)
        .build()
        .map_err(|why| BadPatterns::Expression { id: "all".into(), why: why.to_string() })?;
    Ok(Patterns { begins: compile("all", &begins.join("|"))?, which, patterns })
}

/// Bytes are matched: an expression knows ASCII only, and everything beyond is as good as a letter that it does not name.
fn compile(id: &str, expression: &str) -> Result<Regex, BadPatterns> {
    RegexBuilder::new(expression)
        .unicode(false)
        .size_limit(AUTOMATON)
        .dfa_size_limit(AUTOMATON)
        .build()
        .map_err(|why| BadPatterns::Expression { id: id.into(), why: why.to_string() })
}
