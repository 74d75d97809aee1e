//! What the contract has left out of a request.

use mcp::json::Json;
use policy::model::{Action, Redaction, Step};

/// What stands where something is masked.
const MASK: &str = "[REDACTED]";

/// Applies the rules to a request's body, one after the other. Answers how many places they changed.
pub(crate) fn redact(body: &mut Json, rules: &[Redaction]) -> u64 {
    rules.iter().map(|rule| at(body, &rule.steps, rule.action)).sum()
}

fn at(value: &mut Json, steps: &[Step], action: Action) -> u64 {
    let Some((step, rest)) = steps.split_first() else { return 0 };
    match (step, value) {
        (Step::Member(name), Json::Object(members)) => {
            let Some(at) = members.iter().position(|(there, _)| there == name) else { return 0 };
            if rest.is_empty() && action == Action::Remove {
                members.remove(at);
                return 1;
            }
            members.get_mut(at).map_or(0, |(_, value)| within(value, rest, action))
        }
        (Step::Items, Json::Array(items)) if rest.is_empty() && action == Action::Remove => {
            let removed = items.len() as u64;
            items.clear();
            removed
        }
        (Step::Items, Json::Array(items)) => items.iter_mut().map(|item| within(item, rest, action)).sum(),
        (Step::Item(at), Json::Array(items)) if *at < items.len() && rest.is_empty() && action == Action::Remove => {
            items.remove(*at);
            1
        }
        (Step::Item(at), Json::Array(items)) => items.get_mut(*at).map_or(0, |item| within(item, rest, action)),
        _ => 0,
    }
}

fn within(value: &mut Json, rest: &[Step], action: Action) -> u64 {
    if !rest.is_empty() {
        return at(value, rest, action);
    }
    let instead = match action {
        Action::Hash => format!("[HASH:sha256:{}]", value.canonical_hash()),
        Action::Mask | Action::Remove => MASK.to_owned(),
    };
    *value = instead.into();
    1
}
