//! Many patterns, to be asked for the first that stands for a tool.

use std::collections::HashMap;

use super::pattern::ToolPattern;

/// Patterns in their order. Exact ones are looked up; those with a wildcard, of which there are few, are gone through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Patterns {
    /// By server, then by tool.
    exact: HashMap<Box<str>, HashMap<Box<str>, usize>>,
    wide: Vec<(usize, ToolPattern)>,
}

impl Patterns {
    pub(super) fn of<'a>(patterns: impl IntoIterator<Item = &'a ToolPattern>) -> Self {
        let mut found = Self::default();
        for (i, pattern) in patterns.into_iter().enumerate() {
            match pattern.exact() {
                Some((server, tool)) => {
                    found.exact.entry(server.into()).or_default().entry(tool.into()).or_insert(i);
                }
                None => found.wide.push((i, pattern.clone())),
            }
        }
        found
    }

    /// The place of the one without a wildcard that stands for a tool.
    pub(super) fn exact(&self, server: &str, tool: &str) -> Option<usize> {
        self.exact.get(server)?.get(tool).copied()
    }

    /// Whether any stands for a tool of a server.
    pub(super) fn names(&self, server: &str) -> bool {
        self.exact.contains_key(server) || self.wide.iter().any(|(_, pattern)| pattern.server.matches(server))
    }

    /// The place of the first that stands for a tool.
    pub(super) fn first(&self, server: &str, tool: &str) -> Option<usize> {
        let wide = self.wide.iter().find(|(_, pattern)| pattern.matches(server, tool)).map(|(i, _)| *i);
        [self.exact(server, tool), wide].into_iter().flatten().min()
    }
}
