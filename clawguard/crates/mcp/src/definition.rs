//! Tools as their server defines them, and names that cannot be told apart.

use std::collections::{BTreeSet, HashMap};

use claw::Hash;

use crate::{era, json::Json};

/// Bytes that a tool's name may have; a contract's patterns have no longer ones.
pub const NAME: usize = 256;

/// A tool's definition, as it is pinned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// The tool's name.
    pub name: Box<str>,
    /// The whole tool's canonical JSON, `_meta`, annotations and what nobody knows included.
    pub text: String,
    /// The SHA-256 of that text.
    pub hash: Hash,
}

impl Definition {
    /// Of a tool as it stands in a list; nothing of what has no name.
    #[must_use]
    pub fn of(tool: &Json) -> Option<Self> {
        let text = tool.canonical();
        Some(Self { name: name(tool)?.into(), hash: Hash::of(text.as_bytes()), text })
    }
}

/// The name of a tool.
#[must_use]
pub fn name(tool: &Json) -> Option<&str> {
    tool.get("name").and_then(Json::as_str)
}

/// Who a server says it is, from its answer to `initialize` or `server/discover`: `serverInfo` and `instructions`. It is the same
/// in both eras, so that a server that speaks both is one.
#[must_use]
pub fn identity(greeting: &Json) -> Json {
    let here = greeting.get("serverInfo");
    let meta = greeting.at(&["_meta", era::SERVER_INFO]);
    let mut identity = Json::object([]);
    if let Some(info) = here.or(meta) {
        identity.set("serverInfo", info.clone());
    }
    // Each era's clients read another one of the two.
    if let (Some(here), Some(meta)) = (here, meta)
        && here.canonical() != meta.canonical()
    {
        identity.set(era::SERVER_INFO, meta.clone());
    }
    if let Some(instructions) = greeting.get("instructions") {
        identity.set("instructions", instructions.clone());
    }
    identity
}

/// The names among all of one server's tools that nobody can be held to, because they are not told apart from others'.
///
/// - A name that is not 1 to [`NAME`] characters of printable ASCII: no contract can name it, and letters that look alike, that
///   show nothing or that turn the text around are all beyond ASCII.
/// - Names that are one but for upper and lower case, for characters that are no letters and digits (`delete_repo`,
///   `delete-repo`, `delete.repo`), for `0` and `o`, or for `1` and `l`. `tool-` before what begins with no letter counts for
///   nothing, either: OpenClaw puts it there. **All of them** are refused, since none of them is more right than the others.
/// - A name that is another one's with `-2`, `-3` and so on behind it: so OpenClaw calls what it cannot tell apart. Only the longer
///   one is refused: the other one says what it means.
///
/// A name that no contract can name makes no other one ambiguous: it is shown to nobody.
#[must_use]
pub fn collisions<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeSet<&'a str> {
    let (names, mut refused): (BTreeSet<&str>, BTreeSet<&str>) = names.into_iter().partition(|name| is_nameable(name));
    let mut alike: HashMap<String, Vec<&str>> = HashMap::new();
    for name in &names {
        alike.entry(skeleton(name)).or_default().push(name);
    }
    refused.extend(alike.into_values().filter(|set| set.len() > 1).flatten());
    let safe: HashMap<String, &str> = names.iter().map(|name| (safe(name), *name)).collect();
    let is_alias =
        |name: &str| name.rsplit_once('-').is_some_and(|(base, number)| is_count(number) && safe.contains_key(base));
    refused.extend(safe.iter().filter(|(safe, _)| is_alias(safe)).map(|(_, name)| *name));
    refused
}

/// Whether a contract can name it.
#[must_use]
pub fn is_nameable(name: &str) -> bool {
    (1..=NAME).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic())
}

/// A name as OpenClaw makes it fit for a model, in lower case.
fn safe(name: &str) -> String {
    let fit = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '-') { c.to_ascii_lowercase() } else { '-' };
    let name: String = name.chars().map(fit).collect();
    if name.starts_with(|c: char| c.is_ascii_alphabetic()) { name } else { format!("tool-{name}") }
}

/// What a reader takes in of a name.
fn skeleton(name: &str) -> String {
    let seen = |c: char| match c {
        '_' => '-',
        '0' => 'o',
        '1' => 'l',
        c => c,
    };
    safe(name).chars().map(seen).collect()
}

/// 2, 3 and so on.
fn is_count(text: &str) -> bool {
    !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit()) && !matches!(text, "" | "1")
}

#[cfg(test)]
mod tests;
