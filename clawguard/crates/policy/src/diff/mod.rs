//! What changes from one contract to another, told by what they allow.
//!
//! Two contracts are compared by their text alone, without a host. What is judged to be wider may in truth change nothing
//! (a host that a wildcard had opened before): the other mistake is not made. A change of which it cannot be told
//! counts as wider, and says so.

mod egress;
mod given;
mod mcp;
mod rest;
mod tools;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::contract::Contract;

/// Which way a change goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// The new contract allows more, or it cannot be told.
    Widens,
    /// It allows less.
    Narrows,
    /// It allows the same and says something else.
    Changes,
}

impl ChangeKind {
    /// The word for it in tables.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Widens => "widens",
            Self::Narrows => "narrows",
            Self::Changes => "changes",
        }
    }
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Which way it goes.
    pub kind: ChangeKind,
    /// Which member it concerns.
    pub path: String,
    /// What changes: `adds write access to crm.example:443/tcp (groups crm)`.
    pub text: String,
}

/// What changes from `old` to `new`, the widening first.
#[must_use]
pub fn diff(old: &Contract, new: &Contract) -> Vec<Change> {
    let mut changes = Changes::default();
    rest::of(&mut changes, old, new);
    egress::of(&mut changes, old, new);
    tools::of(&mut changes, old, new);
    mcp::of(&mut changes, old, new);
    let mut found = changes.0;
    found.sort_by(|a, b| (a.kind, &a.path, &a.text).cmp(&(b.kind, &b.path, &b.text)));
    found.dedup();
    found
}

/// How a change that nobody can judge is marked.
const UNJUDGED: &str = "which cannot be judged and so counts as wider";

#[derive(Default)]
struct Changes(Vec<Change>);

impl Changes {
    fn push(&mut self, kind: ChangeKind, path: impl Into<String>, text: impl Into<String>) {
        self.0.push(Change { kind, path: path.into(), text: text.into() });
    }

    /// A change that cannot be judged.
    fn unjudged(&mut self, path: impl Into<String>, text: impl AsRef<str>) {
        self.push(ChangeKind::Widens, path, format!("{}, {UNJUDGED}", text.as_ref()));
    }

    /// Members of a list of which more means wider (or, where `narrow`, narrower).
    fn list<'a>(
        &mut self,
        path: &str,
        what: &str,
        narrow: bool,
        old: impl Iterator<Item = &'a str>,
        new: impl Iterator<Item = &'a str>,
    ) {
        let (more, less) =
            if narrow { (ChangeKind::Narrows, ChangeKind::Widens) } else { (ChangeKind::Widens, ChangeKind::Narrows) };
        let (old, new): (BTreeSet<&str>, BTreeSet<&str>) = (old.collect(), new.collect());
        for text in new.difference(&old) {
            self.push(more, path, format!("adds {what} {text}"));
        }
        for text in old.difference(&new) {
            self.push(less, path, format!("takes away {what} {text}"));
        }
    }

    /// A switch that is wider when it is on.
    fn flag(&mut self, path: &str, what: &str, old: bool, new: bool) {
        match (old, new) {
            (false, true) => self.push(ChangeKind::Widens, path, format!("allows {what}")),
            (true, false) => self.push(ChangeKind::Narrows, path, format!("no longer allows {what}")),
            _ => {}
        }
    }

    /// A demand: narrower when it is there.
    fn demand(&mut self, path: &str, what: &str, old: bool, new: bool) {
        match (old, new) {
            (false, true) => self.push(ChangeKind::Narrows, path, format!("asks for {what}")),
            (true, false) => self.push(ChangeKind::Widens, path, format!("no longer asks for {what}")),
            _ => {}
        }
    }
}
