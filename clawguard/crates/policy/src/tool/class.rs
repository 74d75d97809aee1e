//! What a tool does, guessed from its name where nobody said.

use crate::group::Class;

/// First words of tools that change nothing.
const READ: [&str; 13] = [
    "get", "list", "search", "read", "find", "describe", "fetch", "lookup", "query", "count", "show", "view", "status",
];

/// First words of tools that change what can be changed back.
const WRITE: [&str; 13] =
    ["create", "update", "add", "set", "put", "post", "comment", "edit", "move", "rename", "assign", "upload", "write"];

/// Words of tools that change something for good, wherever in a name they stand. Short on purpose: it only has to find
/// what hides behind a harmless first word, since a first word that is not known is irreversible anyway.
const FOR_GOOD: [&str; 24] = [
    "delete",
    "remove",
    "drop",
    "destroy",
    "purge",
    "erase",
    "wipe",
    "clear",
    "reset",
    "replace",
    "overwrite",
    "send",
    "publish",
    "deploy",
    "execute",
    "exec",
    "run",
    "kill",
    "revoke",
    "grant",
    "approve",
    "pay",
    "refund",
    "transfer",
];

/// The class that a tool's name suggests: its first word decides, and a word that is not known means irreversible. A verb
/// further on makes it graver, never less grave: `get_or_create_user` writes, and `find_and_delete` is irreversible.
///
/// | first word | class |
/// |---|---|
/// | get list search read find describe fetch lookup query count show view status | read |
/// | create update add set put post comment edit move rename assign upload write | write |
/// | anything else | irreversible |
///
/// | a later word | class at least |
/// |---|---|
/// | one that means write as the first | write |
/// | delete remove drop destroy purge erase wipe clear reset replace overwrite send publish deploy execute exec run kill revoke grant approve pay refund transfer | irreversible |
///
/// Words end at `_`, `-`, `.` and where camelCase begins a new one, later ones at everything that is no letter; upper and
/// lower case do not differ. Names of the form `users.read`, which end in their verb, are irreversible by this: the host
/// says better in `[[mcp.server]] tools`.
#[must_use]
pub fn class_by_name(tool: &str) -> Class {
    let word = first_word(tool);
    let first = if among(&READ, word) {
        Class::Read
    } else if among(&WRITE, word) {
        Class::Write
    } else {
        return Class::Irreversible;
    };
    later_words(&tool[word.len()..]).fold(first, |gravest, word| gravest.max(later(word)))
}

fn later(word: &str) -> Class {
    if among(&FOR_GOOD, word) {
        Class::Irreversible
    } else if among(&WRITE, word) {
        Class::Write
    } else {
        Class::Read
    }
}

fn among(words: &[&str], word: &str) -> bool {
    words.iter().any(|known| word.eq_ignore_ascii_case(known))
}

fn later_words(rest: &str) -> impl Iterator<Item = &str> {
    rest.split(|c: char| !c.is_alphabetic()).flat_map(|mut part| {
        std::iter::from_fn(move || {
            let word = first_word(part);
            part = &part[word.len()..];
            (!word.is_empty()).then_some(word)
        })
    })
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

    #[test]
    fn a_graver_verb_further_on_counts() {
        for (name, class) in [
            ("list_delete", Class::Irreversible),
            ("find_and_delete", Class::Irreversible),
            ("findAndDelete", Class::Irreversible),
            ("findANDDelete", Class::Irreversible),
            ("query_drop_table", Class::Irreversible),
            ("query-DROP-table", Class::Irreversible),
            ("update_and_send", Class::Irreversible),
            ("get_delete2", Class::Irreversible),
            ("get_x:delete", Class::Irreversible),
            ("status.run", Class::Irreversible),
            ("get_or_create_user", Class::Write),
            ("status_update", Class::Write),
            ("getOrCreate", Class::Write),
            ("create_list", Class::Write),
            ("set_read", Class::Write),
            // No word of its own.
            ("get_settings", Class::Read),
            ("list_deleted", Class::Read),
            ("search_senders", Class::Read),
            ("get_case_2", Class::Read),
            ("get__", Class::Read),
        ] {
            assert_eq!(class_by_name(name), class, "{name:?}");
        }
    }

    #[test]
    fn the_documentation_has_the_same_words() {
        let text = include_str!("../../../../../docs/CONTRACTS.md").replace('\n', " ");
        for words in [&READ[..], &WRITE[..], &FOR_GOOD[..]] {
            assert!(text.contains(&words.join(" ")), "{words:?}");
        }
    }
}
