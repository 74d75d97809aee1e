//! What a tool does, guessed from its name where nobody said.

use crate::group::Class;

/// First words of tools that change nothing.
const READ: [&str; 13] = [
    "get", "list", "search", "read", "find", "describe", "fetch", "lookup", "query", "count", "show", "view", "status",
];

/// First words of tools that change what can be changed back.
const WRITE: [&str; 13] =
    ["create", "update", "add", "set", "put", "post", "comment", "edit", "move", "rename", "assign", "upload", "write"];

/// The class that a tool's name suggests: its first word decides, and a word that is not known means irreversible.
///
/// | first word | class |
/// |---|---|
/// | get list search read find describe fetch lookup query count show view status | read |
/// | create update add set put post comment edit move rename assign upload write | write |
/// | anything else | irreversible |
///
/// Words end at `_`, `-`, `.` and where camelCase begins a new one; upper and lower case do not differ. Names of the form
/// `users.read`, which end in their verb, are irreversible by this: the host says better in `[[mcp.server]] tools`.
#[must_use]
pub fn class_by_name(tool: &str) -> Class {
    let word = first_word(tool).to_ascii_lowercase();
    if READ.contains(&word.as_str()) {
        Class::Read
    } else if WRITE.contains(&word.as_str()) {
        Class::Write
    } else {
        Class::Irreversible
    }
}

/// `get` of `get_case`, `getCase`, `GetCase` and `GETCase`.
fn first_word(name: &str) -> &str {
    let mut before: Option<char> = None;
    let mut rest = name.char_indices().peekable();
    while let Some((at, c)) = rest.next() {
        let next_is_lower = rest.peek().is_some_and(|(_, next)| next.is_lowercase());
        let begins = c.is_uppercase() && before.is_some_and(|b| !b.is_uppercase() || next_is_lower);
        if ['_', '-', '.'].contains(&c) || begins {
            return &name[..at];
        }
        before = Some(c);
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_decides() {
        for (name, class) in [
            ("get_case", Class::Read),
            ("getCase", Class::Read),
            ("GetCase", Class::Read),
            ("GETCase", Class::Read),
            ("get", Class::Read),
            ("list-users", Class::Read),
            ("status.page", Class::Read),
            ("comment_ticket", Class::Write),
            ("upload", Class::Write),
            ("delete_case", Class::Irreversible),
            ("getter", Class::Irreversible),
            ("get2", Class::Irreversible),
            ("users.read", Class::Irreversible),
            ("_get", Class::Irreversible),
            ("g\u{e9}t_x", Class::Irreversible),
            ("get case", Class::Irreversible),
            ("", Class::Irreversible),
        ] {
            assert_eq!(class_by_name(name), class, "{name:?}");
        }
    }
}
