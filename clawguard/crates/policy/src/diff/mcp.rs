//! The rest of MCP, and whether the gateway is the only way to it.

use super::{ChangeKind, Changes};
use crate::contract::{Contract, Line, Mcp};

pub(super) fn of(changes: &mut Changes, old: &Contract, new: &Contract) {
    way(changes, old.speaks_of_mcp(), new.speaks_of_mcp());
    let none = Mcp::default();
    let (old, new) = (old.guard.mcp.as_ref().unwrap_or(&none), new.guard.mcp.as_ref().unwrap_or(&none));
    list(changes, "resources", "the resources", &old.resources, &new.resources);
    list(changes, "prompts", "the prompts", &old.prompts, &new.prompts);
    for ((name, before), (_, after)) in old.of_servers().into_iter().zip(new.of_servers()) {
        list(changes, name, "the server", before, after);
    }
}

fn list<P: ToString>(changes: &mut Changes, name: &str, what: &str, old: &[Line<P>], new: &[Line<P>]) {
    let texts = |lines: &[Line<P>]| lines.iter().map(|line| line.pattern.to_string()).collect::<Vec<_>>();
    let (old, new) = (texts(old), texts(new));
    let (old, new) = (old.iter().map(String::as_str), new.iter().map(String::as_str));
    changes.list(&format!("mcp.{name}"), what, false, old, new);
}

/// Without any word about MCP, servers' endpoints are like all others.
fn way(changes: &mut Changes, old: bool, new: bool) {
    match (old, new) {
        (false, true) => {
            let text = "speaks about MCP, so that the gateway is the only way to MCP servers";
            changes.push(ChangeKind::Narrows, "mcp", text);
        }
        (true, false) => {
            let text = "no longer speaks about MCP: servers that egress names are open as a whole";
            changes.push(ChangeKind::Widens, "mcp", text);
        }
        _ => {}
    }
}
