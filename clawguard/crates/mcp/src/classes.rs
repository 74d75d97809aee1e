//! What calls and answers carry: data that can be told by its form, found and redacted.
//!
//! All strings, numbers and member names of a message are laid side by side in one text, and one pass over it finds the places
//! at which a pattern could begin; in the usual case there are few, and nothing else is done. What is found is never repeated:
//! a finding says which pattern, and where.
//!
//! Patterns are data (`data/classes.json`). What a regular expression cannot tell is told by a check that the pattern names.

mod check;
mod number;
mod pattern;
mod text;

use std::collections::{BTreeMap, BTreeSet};

use policy::contract::{DataClass, DataClasses, Handling};
use regex::bytes::{Regex, RegexSet};

pub use pattern::BadPatterns;

use self::{
    pattern::{Pattern, Patterns},
    text::{Place, Text},
};
use crate::json::Json;

/// As many bytes of a match are looked at by its expression. A token that goes on beyond is taken to its end.
const REACH: usize = 256;

/// So often is what was redacted looked through again, before a string in which still something is found goes as a whole.
const ROUNDS: usize = 3;

/// Looks through messages. Made once.
#[derive(Debug)]
pub struct Scanner {
    /// Where a pattern could begin.
    begins: Regex,
    /// Which ones do match there.
    which: RegexSet,
    patterns: Vec<Pattern>,
}

/// Something was found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Of which class.
    pub class: DataClass,
    /// By which pattern.
    pub pattern: String,
    /// Where: a JSON pointer (RFC 6901). A member's name that is itself a finding stands there as `[redacted:CLASS]`, and of a
    /// long one only the beginning.
    pub path: String,
}

/// What came of a contract's word on a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Looked {
    /// A class that was found and that the contract denies. Nothing was redacted then.
    pub denied: Option<DataClass>,
    /// How often each class was found, whatever became of it.
    pub counts: BTreeMap<DataClass, u64>,
}

/// Bytes of the text that a pattern matched.
struct Match {
    pattern: usize,
    place: Place,
}

impl Scanner {
    /// The patterns of this version.
    ///
    /// # Errors
    ///
    /// See [`BadPatterns`]; none of them for as long as the tests pass.
    pub fn new() -> Result<Self, BadPatterns> {
        Self::of(include_str!("../data/classes.json"))
    }

    fn of(text: &str) -> Result<Self, BadPatterns> {
        let Patterns { begins, which, patterns } = pattern::read(text)?;
        Ok(Self { begins, which, patterns })
    }

    /// Names of all patterns, with their classes.
    pub fn patterns(&self) -> impl Iterator<Item = (&str, DataClass)> {
        self.patterns.iter().map(|pattern| (&*pattern.id, pattern.class))
    }

    /// All that is found, in order of place.
    #[must_use]
    pub fn scan(&self, json: &Json) -> Vec<Finding> {
        let matches = self.matches(json);
        if matches.is_empty() {
            return Vec::new();
        }
        let mut marks: BTreeMap<usize, DataClass> = BTreeMap::new();
        for found in &matches {
            let class = self.class(found);
            marks.entry(found.place.string).and_modify(|there| *there = class.min(*there)).or_insert(class);
        }
        let paths = text::paths(json, &marks);
        let mut findings: Vec<_> = matches
            .iter()
            .map(|found| Finding {
                class: self.class(found),
                pattern: self.pattern(found).map(|pattern| pattern.id.clone()).unwrap_or_default(),
                path: paths.get(&found.place.string).cloned().unwrap_or_default(),
            })
            .collect();
        findings.dedup();
        findings
    }

    /// Puts a mark in the place of all that is found of these classes: `[redacted:CLASS]`. A number becomes a string, a member
    /// gets another name. Answers how often each class was found.
    pub fn redact(&self, json: &mut Json, classes: &BTreeSet<DataClass>) -> BTreeMap<DataClass, u64> {
        let matches = self.matches(json);
        let counts = self.counts(&matches, classes);
        self.redact_all(json, matches, classes);
        counts
    }

    fn redact_all(&self, json: &mut Json, mut matches: Vec<Match>, classes: &BTreeSet<DataClass>) {
        for round in 0..=ROUNDS {
            matches.retain(|found| classes.contains(&self.class(found)));
            if matches.is_empty() {
                break;
            }
            // By then it is made of what was found and marks, in a way that makes something new of both each time.
            let whole = round == ROUNDS;
            let places = matches.iter().map(|found| (found.place.clone(), self.class(found))).collect();
            text::redact(json, places, whole);
            matches = self.matches(json);
        }
    }

    /// Does what a contract says: tells what is denied, and redacts what is to be redacted, unless something is denied.
    pub fn look(&self, rules: &DataClasses, json: &mut Json) -> Looked {
        let all = BTreeSet::from(DataClass::ALL);
        let matches = self.matches(json);
        let counts = self.counts(&matches, &all);
        let of = |handling| move |class: &DataClass| rules.handling(*class) == handling;
        let denied = counts.keys().copied().find(of(Handling::Denied));
        if denied.is_none() {
            let redacted: BTreeSet<_> = counts.keys().copied().filter(of(Handling::Redacted)).collect();
            if !redacted.is_empty() {
                self.redact_all(json, matches, &redacted);
            }
        }
        Looked { denied, counts }
    }

    /// How many there are of each class. Those that overlap are one.
    fn counts(&self, matches: &[Match], classes: &BTreeSet<DataClass>) -> BTreeMap<DataClass, u64> {
        let mut counts = BTreeMap::new();
        for class in classes {
            let mut places: Vec<_> =
                matches.iter().filter(|found| self.class(found) == *class).map(|found| found.place.clone()).collect();
            let count = text::merged(&mut places);
            if count > 0 {
                counts.insert(*class, count);
            }
        }
        counts
    }

    fn pattern(&self, found: &Match) -> Option<&Pattern> {
        self.patterns.get(found.pattern)
    }

    fn class(&self, found: &Match) -> DataClass {
        self.pattern(found).map_or(DataClass::Secrets, |pattern| pattern.class)
    }

    fn matches(&self, json: &Json) -> Vec<Match> {
        let text = Text::of(json);
        let bytes = text.bytes();
        let mut found = Vec::new();
        let (mut at, mut piece, mut run) = (0, 0, 0..0);
        while let Some(hit) = self.begins.find_at(bytes, at) {
            let start = hit.start();
            at = start + 1;
            let Some(end) = text.end(start, &mut piece) else { break };
            let (window, before) = (&bytes[start..end.min(start + REACH)], bytes[..start].last().copied());
            for id in &self.which.matches(window) {
                let Some(pattern) = self.patterns.get(id).filter(|pattern| pattern.may_follow(before)) else {
                    continue;
                };
                let Some((mut range, open)) = pattern.find(&bytes[..end], start, window.len()) else { continue };
                if open {
                    // Once for all that begin in the same long token.
                    if !run.contains(&range.end) {
                        run = range.end..range.end + check::token(&bytes[range.end..end]);
                    }
                    range.end = range.end.max(run.end);
                }
                if let Some(place) = text.place(range, piece) {
                    found.push(Match { pattern: id, place });
                }
            }
        }
        found.sort_by(|a, b| a.place.cmp(&b.place).then(a.pattern.cmp(&b.pattern)));
        found
    }
}

#[cfg(test)]
mod tests;
