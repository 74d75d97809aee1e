//! Lists and objects without anything in them: a line of a contract even so.

use claw::Value;

use super::registered::GUARD;

/// Where they are. What is in `metadata` and not ClawGuard's is left out, and so is what lies in an entry of a list, which
/// is told of as a whole.
pub(super) fn paths(payload: &Value) -> Vec<String> {
    let mut found = Vec::new();
    look(payload, "", &mut found);
    found
}

fn look(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Array(items) if items.is_empty() => found.push(path.to_owned()),
        Value::Object(members) if members.is_empty() => found.push(path.to_owned()),
        Value::Object(members) => {
            for (name, value) in members {
                let foreign = path == "metadata" && **name != *GUARD;
                if !foreign && matches!(value, Value::Array(_) | Value::Object(_)) {
                    let dot = if path.is_empty() { "" } else { "." };
                    look(value, &format!("{path}{dot}{name}"), found);
                }
            }
        }
        _ => {}
    }
}
