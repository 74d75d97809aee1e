//! Pins: which definition of a tool, which identity of a server, which executable was accepted.
//!
//! What a server says of a tool is what a model goes by. A definition counts once it is accepted, on disk and in the audit
//! chain, and another one of the same name does not. What is offered beside it is remembered, for somebody to look at.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

use claw::Hash;
use control::{
    api::{Code, Names, PinBody, PinView, ServerPins},
    calls::{Definition, Pin},
};
use evidence::chain::Kind;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use switch::Actor;

use crate::{
    audit::Ticket,
    config::Pinning,
    core::{Answer, Core, failed, refuse},
    ledger,
};

/// How the names begin under which the daemon itself pins something of a server, as its executable under `/stdio`: no tool of a
/// server's own may be called so.
const OWN: char = '/';

/// Names of one server.
const MOST: usize = 4096;
/// Definitions that are looked at in one question.
const MOST_ASKED: usize = 10_000;
/// Bytes of a definition's text that are kept; of a longer one only its hash is.
const LONGEST: usize = 64 << 10;
/// Bytes of one server's texts.
const LONGEST_OF_SERVER: usize = 16 << 20;
/// Characters of a name.
const LONGEST_NAME: usize = 256;
/// Offers of one name that are recorded, until somebody looks at it.
const RECORDED_OFFERS: u32 = 20;
/// Names in one record.
const MOST_IN_RECORD: usize = 256;

/// Who accepts what is seen first.
const FIRST_USE: &str = "first use";

/// An accepted definition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Accepted {
    /// SHA-256 of its canonical JSON, base64url; `None` for one that was withdrawn: the next one is not the first.
    hash: Option<String>,
    text: Option<String>,
    at: String,
    by: String,
    /// The hash that was accepted before.
    previous: Option<String>,
}

/// A definition that a server gives and that nobody accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Offered {
    hash: String,
    text: Option<String>,
    at: String,
    times: u32,
}

/// One server's pins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OfServer {
    #[serde(default)]
    accepted: BTreeMap<String, Accepted>,
    /// Only in memory: a server that still offers it says so again.
    #[serde(skip)]
    offered: BTreeMap<String, Offered>,
    /// How often an operator changed something.
    #[serde(skip)]
    changes: u64,
}

/// What a look at definitions changed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Looked {
    pins: Vec<Pin>,
    /// Accepted because they are the first of their names.
    first: Vec<(String, String)>,
    /// Offered for the first time, and hidden: name, hash, and the hash that is accepted.
    hidden: Vec<(String, String, Option<String>)>,
}

impl OfServer {
    /// Whether nothing is to be done about definitions: the usual case.
    fn all_accepted(&self, definitions: &[Definition]) -> bool {
        let accepted = |definition: &Definition| {
            let known = self.accepted.get(&definition.name);
            known.is_some_and(|known| known.hash.as_ref() == Some(&definition.hash))
                && !self.offered.contains_key(&definition.name)
        };
        definitions.len() <= MOST_ASKED && definitions.iter().all(accepted)
    }

    fn look(&mut self, definitions: &[Definition], pinning: Pinning, at: &str) -> Looked {
        let mut looked = Looked::default();
        for (i, definition) in definitions.iter().enumerate() {
            let pin = if i < MOST_ASKED { self.look_at(definition, pinning, at, &mut looked) } else { Pin::New };
            looked.pins.push(pin);
        }
        looked
    }

    fn look_at(&mut self, definition: &Definition, pinning: Pinning, at: &str, looked: &mut Looked) -> Pin {
        let Definition { name, hash, text } = definition;
        // What is kept is what was looked at, or the difference that somebody is shown is none.
        if name.chars().count() > LONGEST_NAME || Hash::of(text.as_bytes()).to_string() != *hash {
            return Pin::New;
        }
        let known = self.accepted.get(name);
        if known.is_some_and(|known| known.hash.as_ref() == Some(hash)) {
            self.offered.remove(name);
            return Pin::Accepted;
        }
        let room = self.accepted.len() + self.offered.len() < MOST;
        if known.is_none() && pinning == Pinning::FirstUse && room {
            let text = self.kept(text);
            let accepted =
                Accepted { hash: Some(hash.clone()), text, at: at.into(), by: FIRST_USE.into(), previous: None };
            self.accepted.insert(name.clone(), accepted);
            self.offered.remove(name);
            looked.first.push((name.clone(), hash.clone()));
            return Pin::Accepted;
        }
        let before = known.and_then(|known| known.hash.clone());
        let pin = if before.is_some() { Pin::Changed } else { Pin::New };
        match self.offered.get(name) {
            Some(offered) if offered.hash == *hash => {}
            None if !room => {}
            last => {
                let times = last.map_or(0, |last| last.times).saturating_add(1);
                let text = self.kept(text);
                self.offered.insert(name.clone(), Offered { hash: hash.clone(), text, at: at.into(), times });
                if times <= RECORDED_OFFERS {
                    looked.hidden.push((name.clone(), hash.clone(), before));
                }
            }
        }
        pin
    }

    /// A text that there is room to keep.
    fn kept(&self, text: &str) -> Option<String> {
        let accepted = self.accepted.values().filter_map(|accepted| accepted.text.as_ref());
        let all: usize =
            accepted.chain(self.offered.values().filter_map(|offered| offered.text.as_ref())).map(String::len).sum();
        (text.len() <= LONGEST && all + text.len() <= LONGEST_OF_SERVER).then(|| text.to_owned())
    }

    fn accept(&mut self, name: &str, by: &str, at: &str) -> Option<(String, Option<String>)> {
        let offered = self.offered.remove(name)?;
        let previous = self.accepted.get(name).and_then(|accepted| accepted.hash.clone());
        let accepted = Accepted {
            hash: Some(offered.hash.clone()),
            text: offered.text,
            at: at.into(),
            by: by.into(),
            previous: previous.clone(),
        };
        self.accepted.insert(name.to_owned(), accepted);
        Some((offered.hash, previous))
    }

    fn withdraw(&mut self, name: &str, by: &str, at: &str) -> Option<String> {
        let accepted = self.accepted.get_mut(name)?;
        let hash = accepted.hash.take()?;
        *accepted = Accepted { hash: None, text: None, at: at.into(), by: by.into(), previous: Some(hash.clone()) };
        Some(hash)
    }

    fn view(&self, texts: bool) -> BTreeMap<String, PinView> {
        let names: BTreeSet<&String> = self.accepted.keys().chain(self.offered.keys()).collect();
        let view = |name: &String| {
            let (accepted, offered) = (self.accepted.get(name), self.offered.get(name));
            let hash = accepted.and_then(|accepted| accepted.hash.clone());
            let state = match (&hash, offered) {
                (Some(_), None) => "accepted",
                (Some(_), Some(_)) => "changed",
                (None, _) => "new",
            };
            let known = accepted.filter(|accepted| accepted.hash.is_some());
            PinView {
                state: state.into(),
                accepted_at: known.map(|accepted| accepted.at.clone()),
                accepted_by: known.map(|accepted| accepted.by.clone()),
                accepted: known.filter(|_| texts).and_then(|accepted| accepted.text.clone()),
                accepted_sha256: hash,
                offered_sha256: offered.map(|offered| offered.hash.clone()),
                offered_at: offered.map(|offered| offered.at.clone()),
                offered: offered.filter(|_| texts).and_then(|offered| offered.text.clone()),
            }
        };
        names.into_iter().map(|name| (name.clone(), view(name))).collect()
    }
}

/// All servers' pins, in memory and on disk, a file each.
#[derive(Default)]
pub(crate) struct Pins {
    directory: PathBuf,
    servers: BTreeMap<String, OfServer>,
}

impl Pins {
    /// In a directory, from which a server's are read when they are first asked for.
    pub(crate) fn open(directory: &Path) -> io::Result<Self> {
        sys::file::directory(directory, 0o700)?;
        Ok(Self { directory: directory.to_owned(), servers: BTreeMap::new() })
    }

    fn path(&self, server: &str) -> PathBuf {
        self.directory.join(format!("{server}.json"))
    }

    /// A server's pins. While its file cannot be read or is damaged, nothing is taken for the first of its name.
    fn server(&mut self, name: &str) -> Result<&mut OfServer, ledger::Error> {
        if !self.servers.contains_key(name) {
            let read = ledger::read(&self.path(name))?;
            self.servers.insert(name.to_owned(), read);
        }
        Ok(self.servers.entry(name.to_owned()).or_default())
    }

    fn save(&self, server: &str, pins: &OfServer) -> io::Result<()> {
        ledger::write(&self.path(server), pins)
    }

    /// How often an operator changed something of a server's.
    pub(crate) fn changes(&self, server: &str) -> u64 {
        self.servers.get(server).map_or(0, |pins| pins.changes)
    }

    /// How many definitions of a server wait for an operator.
    pub(crate) fn waiting(&self, server: &str) -> u64 {
        self.servers.get(server).map_or(0, |pins| pins.offered.len() as u64)
    }
}

impl Core {
    /// How definitions stand that the gateway says a server gives.
    pub(crate) fn pins_asked(&mut self, server: &str, definitions: &[Definition]) -> Vec<Pin> {
        let own = |definition: &Definition| definition.name.starts_with(OWN);
        if definitions.iter().any(own) {
            tracing::warn!(server, "a tool has a name that the daemon itself uses: all that came with it stays hidden");
            return vec![Pin::New; definitions.len()];
        }
        self.pins_of(server, definitions).unwrap_or_else(|error| {
            tracing::error!(server, message = error.message, "definitions stay hidden");
            vec![Pin::New; definitions.len()]
        })
    }

    /// How definitions of a server stand, in their order. With `first-use`, the first of a name is accepted by this.
    ///
    /// # Errors
    ///
    /// If there is no such server, or what was accepted cannot be read, written or recorded. Nothing counts as accepted then.
    pub(crate) fn pins_of(&mut self, server: &str, definitions: &[Definition]) -> Answer<Vec<Pin>> {
        if !self.config.mcp.server.iter().any(|known| known.name == server) {
            return refuse(Code::NotFound, format!("there is no MCP server {}", shown(server)), "");
        }
        let (pinning, at) = (self.config.mcp.pins, Self::now().format());
        let known = self.server_pins(server)?;
        if known.all_accepted(definitions) {
            return Ok(vec![Pin::Accepted; definitions.len()]);
        }
        // What cannot be recorded or written down has not happened.
        let mut pins = known.clone();
        let looked = pins.look(definitions, pinning, &at);
        if !looked.first.is_empty() {
            // In force once it is in the chain and on disk: neither alone accepts anything.
            for names in looked.first.chunks(MOST_IN_RECORD) {
                let names: BTreeMap<&String, &String> = names.iter().map(|(name, hash)| (name, hash)).collect();
                let body = json!({ "result": "accepted", "server": server, "by": FIRST_USE, "definitions": names });
                drop(self.record_grant(Kind::Pin, &body)?);
            }
            self.pins.save(server, &pins).map_err(|error| failed("write the pins down", &error))?;
        }
        self.pins.servers.insert(server.to_owned(), pins);
        for (name, hash, accepted) in looked.hidden.iter().take(MOST_IN_RECORD) {
            tracing::warn!(server, name, "a definition waits for an operator: the tool is hidden");
            let result = if accepted.is_some() { "changed" } else { "new" };
            self.note(
                Kind::Pin,
                json!({ "result": result, "server": server, "name": name, "definition_sha256": hash, "accepted_sha256": accepted }),
            );
        }
        Ok(looked.pins)
    }

    fn server_pins(&mut self, server: &str) -> Answer<&mut OfServer> {
        self.pins.server(server).map_err(|error| failed("read the pins", &error))
    }

    /// All servers' pins, without their texts.
    pub(crate) fn pins_view(&mut self) -> Answer<Vec<ServerPins>> {
        let names: Vec<String> = self.config.mcp.server.iter().map(|server| server.name.clone()).collect();
        names.into_iter().map(|name| self.pins_view_of(&name, false)).collect()
    }

    /// One server's pins.
    pub(crate) fn pins_view_of(&mut self, server: &str, texts: bool) -> Answer<ServerPins> {
        self.known_server(server)?;
        let pins = self.server_pins(server)?.view(texts);
        Ok(ServerPins { server: server.into(), pins })
    }

    fn known_server(&self, server: &str) -> Answer<()> {
        if self.config.mcp.server.iter().any(|known| known.name == server) {
            return Ok(());
        }
        let names: Vec<&str> = self.config.mcp.server.iter().map(|known| known.name.as_str()).collect();
        refuse(
            Code::NotFound,
            format!("there is no MCP server {}", shown(server)),
            format!("[[mcp.server]] names {}", if names.is_empty() { "none".into() } else { names.join(", ") }),
        )
    }

    /// Accepts and withdraws definitions for an operator. All of it or nothing.
    pub(crate) fn set_pins(
        &mut self,
        server: &str,
        body: &PinBody,
        actor: &Actor,
    ) -> Answer<(ServerPins, Option<Ticket>)> {
        self.known_server(server)?;
        if body.reason.len() > 1000 {
            return refuse(Code::BadRequest, "a reason has at most 1000 bytes", "");
        }
        let by = actor.uid.map_or_else(|| actor.channel.clone(), |uid| format!("uid {uid}"));
        let at = Self::now().format();
        let mut pins = self.server_pins(server)?.clone();
        let (mut accepted, mut withdrawn) = (Vec::new(), Vec::new());
        for name in chosen(body.accept.as_ref(), pins.offered.keys()) {
            let offered = pins.offered.get(&name).map(|offered| offered.hash.clone());
            let seen = body.sha256.get(&name);
            if seen.is_some() && seen != offered.as_ref() {
                return refuse(
                    Code::Conflict,
                    format!("{server} offers another definition of {} by now", shown(&name)),
                    "`clawguard pins diff` shows it",
                );
            }
            let Some((hash, previous)) = pins.accept(&name, &by, &at) else {
                return refuse(
                    Code::NotFound,
                    format!("no definition of {} waits", shown(&name)),
                    "`clawguard pins` lists them",
                );
            };
            accepted.push(json!({ "name": name, "definition_sha256": hash, "previous": previous }));
        }
        for name in chosen(body.withdraw.as_ref(), pins.accepted.keys()) {
            match (pins.withdraw(&name, &by, &at), &body.withdraw) {
                (Some(hash), _) => withdrawn.push(json!({ "name": name, "definition_sha256": hash })),
                (None, Some(Names::These(_))) => {
                    return refuse(Code::NotFound, format!("no definition of {} is accepted", shown(&name)), "");
                }
                (None, _) => {}
            }
        }
        if accepted.is_empty() && withdrawn.is_empty() {
            return refuse(
                Code::Conflict,
                format!("nothing of {server} waits or is to be withdrawn"),
                "`clawguard pins` lists them",
            );
        }
        pins.changes += 1;
        let records = [("accepted", accepted), ("withdrawn", withdrawn)];
        let mut ticket = None;
        for (result, changed) in records {
            for names in changed.chunks(MOST_IN_RECORD) {
                let body: Value = json!({ "result": result, "server": server, "by": by, "definitions": names,
                    "reason": body.reason.trim(), "actor": actor });
                ticket = if result == "accepted" {
                    Some(self.record_grant(Kind::Pin, &body)?)
                } else {
                    self.record(Kind::Pin, body).ok()
                };
            }
        }
        let saved = self.pins.save(server, &pins);
        let takes_only = body.accept.is_none();
        if let Err(error) = saved {
            if takes_only {
                // Taken away all the same, until the daemon starts anew.
                self.pins.servers.insert(server.to_owned(), pins);
                self.publish();
            }
            return Err(failed("write the pins down", &error));
        }
        self.pins.servers.insert(server.to_owned(), pins);
        self.publish();
        Ok((self.pins_view_of(server, false)?, ticket))
    }
}

fn chosen<'a>(names: Option<&Names>, all: impl Iterator<Item = &'a String>) -> Vec<String> {
    match names {
        None => Vec::new(),
        Some(Names::All(_)) => all.cloned().collect(),
        Some(Names::These(names)) => names.clone(),
    }
}

/// As much of a name as an error has room for.
fn shown(name: &str) -> String {
    name.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(name: &str, text: &str) -> Definition {
        Definition { name: name.into(), hash: Hash::of(text.as_bytes()).to_string(), text: text.into() }
    }

    fn look(pins: &mut OfServer, pinning: Pinning, name: &str, text: &str) -> Pin {
        pins.look(&[definition(name, text)], pinning, "t").pins[0]
    }

    #[test]
    fn the_first_definition_of_a_name_is_accepted_and_every_other_one_is_not() {
        let mut pins = OfServer::default();
        assert_eq!(look(&mut pins, Pinning::FirstUse, "get", "{}"), Pin::Accepted);
        assert_eq!(look(&mut pins, Pinning::FirstUse, "get", "{\"x\":1}"), Pin::Changed);
        assert_eq!(look(&mut pins, Pinning::FirstUse, "get", "{}"), Pin::Accepted);
        assert_eq!(look(&mut pins, Pinning::FirstUse, "put", "{}"), Pin::Accepted);
        assert_eq!(look(&mut pins, Pinning::FirstUse, "get", "{\"x\":1}"), Pin::Changed);
    }

    #[test]
    fn with_approval_nothing_is_accepted_by_itself() {
        let mut pins = OfServer::default();
        for _ in 0..2 {
            assert_eq!(look(&mut pins, Pinning::Approval, "get", "{}"), Pin::New);
        }
        assert_eq!(pins.view(true)["get"].offered.as_deref(), Some("{}"));
        assert!(pins.accept("get", "uid 0", "t").is_some());
        assert_eq!(look(&mut pins, Pinning::Approval, "get", "{}"), Pin::Accepted);
        assert_eq!(look(&mut pins, Pinning::Approval, "get", "{\"x\":1}"), Pin::Changed);
    }

    #[test]
    fn what_is_withdrawn_is_not_accepted_as_the_first_again() {
        let mut pins = OfServer::default();
        look(&mut pins, Pinning::FirstUse, "get", "{}");
        assert!(pins.withdraw("get", "uid 0", "t").is_some());
        assert_eq!(look(&mut pins, Pinning::FirstUse, "get", "{}"), Pin::New);
        assert_eq!(pins.view(false)["get"].state, "new");
        assert!(pins.accept("get", "uid 0", "t").is_some());
        assert_eq!(look(&mut pins, Pinning::FirstUse, "get", "{}"), Pin::Accepted);
    }

    #[test]
    fn a_text_that_is_not_what_its_hash_says_is_never_accepted() {
        let mut pins = OfServer::default();
        let forged = Definition { text: "{\"x\":1}".into(), ..definition("get", "{}") };
        assert_eq!(pins.look(&[forged], Pinning::FirstUse, "t").pins, [Pin::New]);
        assert!(pins.accepted.is_empty() && pins.offered.is_empty());
    }

    #[test]
    fn long_texts_are_known_by_their_hash_alone_and_names_have_a_bound() {
        let mut pins = OfServer::default();
        let long = "x".repeat(LONGEST + 1);
        assert_eq!(look(&mut pins, Pinning::FirstUse, "get", &long), Pin::Accepted);
        assert_eq!(pins.accepted["get"].text, None);
        assert_eq!(look(&mut pins, Pinning::FirstUse, "get", &long), Pin::Accepted);
        assert_eq!(look(&mut pins, Pinning::FirstUse, &"n".repeat(LONGEST_NAME + 1), "{}"), Pin::New);
        for i in 0..MOST + 10 {
            look(&mut pins, Pinning::FirstUse, &format!("t{i}"), "{}");
        }
        assert_eq!(pins.accepted.len(), MOST);
        assert_eq!(look(&mut pins, Pinning::FirstUse, "one more", "{}"), Pin::New);
    }

    #[test]
    fn a_server_that_changes_its_mind_all_the_time_is_recorded_a_few_times() {
        let mut pins = OfServer::default();
        look(&mut pins, Pinning::FirstUse, "get", "{}");
        let hidden = |pins: &mut OfServer, i: u32| {
            pins.look(&[definition("get", &format!("[{i}]"))], Pinning::FirstUse, "t").hidden.len()
        };
        let told: usize = (0..100).map(|i| hidden(&mut pins, i)).sum();
        assert_eq!(told, RECORDED_OFFERS as usize);
        assert_eq!((pins.offered.len(), hidden(&mut pins, 99)), (1, 0));
    }

    #[test]
    fn pins_survive_their_file_and_damage_accepts_nothing() {
        let path = std::env::temp_dir().join(format!("clawguard-pins-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        let mut pins = Pins::open(&path).unwrap();
        let mut of = OfServer::default();
        look(&mut of, Pinning::FirstUse, "get", "{}");
        pins.save("crm", &of).unwrap();
        let mut again = Pins::open(&path).unwrap();
        assert_eq!(look(again.server("crm").unwrap(), Pinning::FirstUse, "get", "[]"), Pin::Changed);
        std::fs::write(pins.path("db"), "{").unwrap();
        assert!(pins.server("db").is_err() && Pins::open(&path).unwrap().server("db").is_err());
        std::fs::remove_dir_all(path).unwrap();
    }
}
