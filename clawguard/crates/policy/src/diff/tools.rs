//! Tools, the contract's groups, and OpenClaw's own tools.

use std::collections::{BTreeMap, BTreeSet};

use super::{ChangeKind, Changes, given::Given};
use crate::{
    contract::{Contract, GroupSpec, OpenClawLine, Profile, ToolLine, Tools},
    group::Group,
    tool::ToolPattern,
};

const TOOLS: &str = "tools";

pub(super) fn of(changes: &mut Changes, old: &Contract, new: &Contract) {
    let none = Tools::default();
    let (old_tools, new_tools) = (old.guard.tools.as_ref().unwrap_or(&none), new.guard.tools.as_ref().unwrap_or(&none));
    let (before, after) = (Rules::of(old_tools), Rules::of(new_tools));
    for tool in after.allow.difference(&before.allow) {
        changes.push(ChangeKind::Widens, TOOLS, format!("allows {tool}"));
    }
    for tool in before.allow.difference(&after.allow) {
        changes.push(ChangeKind::Narrows, TOOLS, format!("no longer allows {tool}"));
    }
    for tool in after.deny.difference(&before.deny) {
        changes.push(ChangeKind::Narrows, TOOLS, format!("denies {tool}"));
    }
    for tool in before.deny.difference(&after.deny) {
        changes.push(ChangeKind::Widens, TOOLS, format!("no longer denies {tool}"));
    }
    for tool in after.approve.difference(&before.approve) {
        if before.gave(tool) {
            changes.push(ChangeKind::Narrows, TOOLS, format!("holds {tool} for a person"));
        } else {
            changes.push(ChangeKind::Widens, TOOLS, format!("allows {tool} once a person agrees"));
        }
    }
    let (allows, holds) = (Given::of(after.allow.iter().copied()), Given::of(after.approve.iter().copied()));
    for tool in before.approve.difference(&after.approve) {
        if allows.overlaps(tool) {
            changes.push(ChangeKind::Widens, TOOLS, format!("no longer holds {tool} for a person"));
        } else if holds.overlaps(tool) {
            let text =
                format!("no longer allows {tool} once a person agrees, except for what other lines of approve name");
            changes.push(ChangeKind::Narrows, TOOLS, text);
        } else {
            changes.push(ChangeKind::Narrows, TOOLS, format!("no longer allows {tool}, not even with a person"));
        }
    }
    for tool in after.no_approval.difference(&before.no_approval) {
        changes.push(ChangeKind::Widens, TOOLS, format!("needs nobody's approval for {tool} at high risk"));
    }
    for tool in before.no_approval.difference(&after.no_approval) {
        changes.push(ChangeKind::Narrows, TOOLS, format!("needs a person's approval for {tool} at high risk"));
    }
    profile(changes, old_tools.profile, new_tools.profile);
    unknown_kinds(changes, old_tools, new_tools);
    let name = |line: &OpenClawLine| line.name.clone();
    let (old_own, new_own) = (&old.guard.openclaw, &new.guard.openclaw);
    for (what, narrow, before, after) in [
        ("OpenClaw's tool", false, &old_own.allow, &new_own.allow),
        ("the denial of OpenClaw's tool", true, &old_own.deny, &new_own.deny),
    ] {
        let (before, after): (Vec<String>, Vec<String>) =
            (before.iter().map(name).collect(), after.iter().map(name).collect());
        let (before, after) = (before.iter().map(String::as_str), after.iter().map(String::as_str));
        changes.list(TOOLS, what, narrow, before, after);
    }
    groups(changes, &old.guard.groups, &new.guard.groups);
}

/// The rules of a contract, as sets.
struct Rules<'a> {
    allow: BTreeSet<&'a ToolPattern>,
    deny: BTreeSet<&'a ToolPattern>,
    approve: BTreeSet<&'a ToolPattern>,
    no_approval: BTreeSet<&'a ToolPattern>,
    /// What `allow` and `approve` name.
    given: Given<'a>,
}

impl<'a> Rules<'a> {
    fn of(tools: &'a Tools) -> Self {
        fn set(lines: &[ToolLine]) -> BTreeSet<&ToolPattern> {
            lines.iter().map(|line| &line.pattern).collect()
        }
        let allow = tools.allow.as_deref().unwrap_or_default();
        Self {
            allow: set(allow),
            deny: set(&tools.deny),
            approve: set(&tools.approve),
            no_approval: set(&tools.no_approval),
            given: Given::of(allow.iter().chain(&tools.approve).map(|line| &line.pattern)),
        }
    }

    /// Whether it gave these tools already. A tool of high risk is given only by its exact name.
    fn gave(&self, tools: &ToolPattern) -> bool {
        match tools.exact() {
            Some(_) => self.allow.contains(tools) || self.approve.contains(tools),
            None => self.given.covers(tools),
        }
    }
}

fn profile(changes: &mut Changes, old: Option<Profile>, new: Option<Profile>) {
    let readonly = |profile| profile == Some(Profile::Readonly);
    let label = |profile: Option<Profile>| profile.map_or("none", Profile::label);
    let kind = match (readonly(old), readonly(new)) {
        (false, true) => ChangeKind::Narrows,
        (true, false) => ChangeKind::Widens,
        _ if old == new => return,
        _ => ChangeKind::Changes,
    };
    changes.push(kind, TOOLS, format!("changes the profile from {} to {}", label(old), label(new)));
}

/// Grants that this version does not give; another one may.
fn unknown_kinds(changes: &mut Changes, old: &Tools, new: &Tools) {
    let hashes = |tools: &Tools| -> BTreeSet<[u8; 32]> {
        tools.entries.iter().filter(|entry| entry.server.is_none()).map(|entry| entry.hash.0).collect()
    };
    if hashes(old) != hashes(new) {
        changes.unjudged(TOOLS, "changes what is allowed of kinds of tools that are not known here");
    }
}

fn groups(changes: &mut Changes, old: &[GroupSpec], new: &[GroupSpec]) {
    fn by_name(specs: &[GroupSpec]) -> BTreeMap<&Group, &GroupSpec> {
        specs.iter().map(|spec| (&spec.name, spec)).collect()
    }
    let (before, after) = (by_name(old), by_name(new));
    let risk = |spec: Option<&GroupSpec>| spec.and_then(|spec| spec.risk);
    for name in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
        let path = format!("groups {name}");
        let (was, is) = (before.get(*name).copied(), after.get(*name).copied());
        if risk(was) != risk(is) {
            let word = |spec| risk(spec).map_or_else(|| "unsaid".to_owned(), |risk| risk.to_string());
            let text = format!("changes the risk of {name} from {} to {}", word(was), word(is));
            if risk(was).is_some() && risk(was) < risk(is) {
                changes.push(ChangeKind::Narrows, path.as_str(), text);
            } else {
                // An endpoint that no group calls low or medium counts as high.
                changes.unjudged(path.as_str(), text);
            }
        }
        match (was.is_some(), is.is_some()) {
            (false, true) => changes.push(ChangeKind::Changes, path.as_str(), "defines the group"),
            (true, false) => changes.push(ChangeKind::Changes, path.as_str(), "no longer defines the group"),
            _ => {}
        }
        let tools = |spec: Option<&GroupSpec>| -> Vec<String> {
            spec.map(|spec| spec.tools.iter().map(ToString::to_string).collect()).unwrap_or_default()
        };
        let (was, is) = (tools(was), tools(is));
        changes.list(&path, "tools", true, was.iter().map(String::as_str), is.iter().map(String::as_str));
    }
}
