//! Many patterns, to be asked whether one of them covers or overlaps another: by look-ups, not one by one.

use std::{
    collections::{BTreeSet, HashMap},
    ops::Bound,
};

use crate::tool::{NamePattern, ServerPattern, ToolPattern};

/// The patterns of a list.
#[derive(Default)]
pub(super) struct Given<'a> {
    /// Those that name a server, by its name.
    of: HashMap<&'a str, Names<'a>>,
    /// Those for any server.
    any: Names<'a>,
    /// All of them, whosever they are.
    all: Names<'a>,
}

/// Names of tools.
#[derive(Default)]
struct Names<'a> {
    exact: BTreeSet<&'a str>,
    starts: BTreeSet<&'a str>,
}

impl<'a> Given<'a> {
    pub(super) fn of(patterns: impl IntoIterator<Item = &'a ToolPattern>) -> Self {
        let mut given = Self::default();
        for ToolPattern { server, tool } in patterns {
            given.all.add(tool);
            match server {
                ServerPattern::Any => given.any.add(tool),
                ServerPattern::Named(name) => given.of.entry(name).or_default().add(tool),
            }
        }
        given
    }

    /// Whether one of them stands for all that `tools` stands for.
    pub(super) fn covers(&self, tools: &ToolPattern) -> bool {
        self.any.covers(&tools.tool) || self.named(tools).is_some_and(|names| names.covers(&tools.tool))
    }

    /// Whether there could be a tool that `tools` and one of them stand for.
    pub(super) fn overlaps(&self, tools: &ToolPattern) -> bool {
        match tools.server {
            ServerPattern::Any => self.all.overlaps(&tools.tool),
            ServerPattern::Named(_) => {
                self.any.overlaps(&tools.tool) || self.named(tools).is_some_and(|names| names.overlaps(&tools.tool))
            }
        }
    }

    fn named(&self, tools: &ToolPattern) -> Option<&Names<'a>> {
        match &tools.server {
            ServerPattern::Any => None,
            ServerPattern::Named(name) => self.of.get(&**name),
        }
    }
}

impl<'a> Names<'a> {
    fn add(&mut self, tool: &'a NamePattern) {
        match tool {
            NamePattern::Exact(name) => self.exact.insert(name),
            NamePattern::Prefix(start) => self.starts.insert(start),
        };
    }

    fn covers(&self, tool: &NamePattern) -> bool {
        match tool {
            NamePattern::Exact(name) => self.exact.contains(&**name) || self.begins(name),
            NamePattern::Prefix(start) => self.begins(start),
        }
    }

    fn overlaps(&self, tool: &NamePattern) -> bool {
        let further = |names: &BTreeSet<&str>, start: &str| {
            let mut from = names.range::<str, _>((Bound::Included(start), Bound::Unbounded));
            from.next().is_some_and(|name| name.starts_with(start))
        };
        self.covers(tool)
            || match tool {
                NamePattern::Exact(_) => false,
                NamePattern::Prefix(start) => further(&self.exact, start) || further(&self.starts, start),
            }
    }

    /// Whether a wildcard stands for a name, or for all that begin so. Names are at most 256 bytes long.
    fn begins(&self, name: &str) -> bool {
        !self.starts.is_empty() && (0..=name.len()).any(|end| name.get(..end).is_some_and(|s| self.starts.contains(s)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn looking_up_agrees_with_asking_one_by_one(
            given in prop::collection::vec("(\\*|[ab])/([ab]{1,3}|[ab]{0,2}\\*)", 0..5),
            asked in "(\\*|[ab])/([ab]{1,3}|[ab]{0,2}\\*)",
        ) {
            let given: Vec<ToolPattern> = given.iter().map(|text| text.parse().unwrap()).collect();
            let asked: ToolPattern = asked.parse().unwrap();
            let found = Given::of(&given);
            prop_assert_eq!(found.covers(&asked), given.iter().any(|one| one.covers(&asked)));
            prop_assert_eq!(found.overlaps(&asked), given.iter().any(|one| one.overlaps(&asked)));
        }
    }
}
