//! A bundle as a page that a person reads: one HTML file, with no script and nothing from elsewhere.
//!
//! What a bundle says is hashes, times and counts. With the audit records of the job beside it the page tells what was called,
//! refused, held and killed: of a record only if its hash is the one that the bundle's signed event names, else the record is not
//! believed and that is told. Everything in it may come from an agent, and is text on the page, whatever it spells.

mod html;
mod picture;
mod sections;
mod story;
mod words;

use claw::{Value, time::Instant};

use crate::verify::Whole;

/// A difference between two contracts, told by whoever understands them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// `widens`, `narrows` or `changes`.
    pub kind: String,
    /// What.
    pub text: String,
}

/// What a page is made of.
pub struct Input<'a> {
    /// The bundles of one job, in order.
    pub bundles: &'a [&'a [u8]],
    /// What was found when they were verified.
    pub whole: &'a Whole,
    /// Lines of the audit chain: the job's, with others between them or without.
    pub records: &'a [&'a [u8]],
    /// The contract's payload, by which traffic is told apart by group.
    pub contract: Option<&'a Value>,
    /// How the last contract differs from the first.
    pub changes: &'a [Change],
    /// How text that shows nothing, or turns other text around, is made to be seen.
    pub visible: fn(&str) -> String,
    /// ClawGuard's version.
    pub version: &'a str,
    /// When the page is made.
    pub made_at: Instant,
}

/// Writes the page.
#[must_use]
pub fn page(input: &Input<'_>) -> String {
    let story = story::Story::read(input);
    html::page(input, &story)
}
