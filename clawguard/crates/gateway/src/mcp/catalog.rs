//! The tools of a server, as it gave them last: their definitions' hashes, and how they stand with the operator.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use control::{
    calls::{Definition, Pin},
    channel::{Ask, Told},
};
use mcp::{
    decide::Defined,
    definition::{self, collisions},
    header::{self, Param},
    json::Json,
};

use crate::channel::Channel;

/// How long a list is good. Afterwards it is asked for anew before the next call: a server need not say that it changed.
const GOOD: Duration = Duration::from_secs(60);
/// Tools of one server, and of one page; what is beyond is not shown.
const MOST_TOOLS: usize = 4096;
/// Bytes of a server's identity that a session keeps, to ask for it anew; with a longer one a new session is needed.
const LONGEST_IDENTITY: usize = 64 << 10;

/// What is known of a server's tools in one session.
#[derive(Default)]
pub(crate) struct Catalog {
    listed: Mutex<Listed>,
}

#[derive(Default)]
struct Listed {
    tools: HashMap<Box<str>, Tool>,
    ambiguous: HashSet<Box<str>>,
    identity: Option<Pin>,
    /// Who the server says it is.
    known: Option<Definition>,
    /// Whether the first page came, and the last not yet: a client may begin anywhere, and then nobody saw the whole.
    begun: bool,
    /// When the last page came; `None` while pages are missing.
    whole: Option<Instant>,
    /// [`control::calls::ServerRules::pins`] at that time.
    pins: u64,
}

struct Tool {
    hash: Box<str>,
    pin: Pin,
    /// The arguments that headers repeat.
    params: Arc<[Param]>,
}

/// A tool, as it was given.
struct Given {
    name: Box<str>,
    hash: String,
    text: String,
    params: Arc<[Param]>,
}

impl Catalog {
    fn lock(&self) -> std::sync::MutexGuard<'_, Listed> {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How a tool is defined, and its definition's hash; `None` while the list has to be asked for.
    pub(crate) fn defined(&self, name: &str, pins: u64) -> Option<(Defined, Option<String>)> {
        let listed = self.lock();
        if listed.pins != pins || listed.identity.is_none() || listed.whole.is_none_or(|at| at.elapsed() > GOOD) {
            return None;
        }
        Some(listed.defined(name))
    }

    /// Whether the server itself is the one that was accepted; `None` while nobody asked.
    pub(crate) fn identity(&self, pins: u64) -> Option<Pin> {
        let listed = self.lock();
        listed.identity.filter(|_| listed.pins == pins)
    }

    /// The arguments of a tool that headers repeat.
    pub(crate) fn params(&self, name: &str) -> Arc<[Param]> {
        self.lock().tools.get(name).map(|tool| Arc::clone(&tool.params)).unwrap_or_default()
    }

    /// Forgets the list: the server said that it changed.
    pub(crate) fn changed(&self) {
        self.lock().whole = None;
    }

    /// Takes the server's identity.
    pub(crate) async fn identify(
        &self,
        server: &str,
        pins: u64,
        result: &Json,
        daemon: &Channel,
    ) -> std::io::Result<Pin> {
        let text = definition::identity(result).canonical();
        let definition = Definition { name: String::new(), hash: claw::Hash::of(text.as_bytes()).to_string(), text };
        let pin = ask(daemon, server, vec![definition.clone()]).await?.pop().unwrap_or(Pin::New);
        let mut listed = self.lock();
        listed.anew(pins);
        listed.known = Some(definition).filter(|definition| definition.text.len() <= LONGEST_IDENTITY);
        listed.identity = Some(pin);
        Ok(pin)
    }

    /// Asks anew for how the server stands that was met before; `None` if none was.
    pub(crate) async fn identify_again(
        &self,
        server: &str,
        pins: u64,
        daemon: &Channel,
    ) -> std::io::Result<Option<Pin>> {
        let Some(known) = self.lock().known.clone() else { return Ok(None) };
        let pin = ask(daemon, server, vec![known]).await?.pop().unwrap_or(Pin::New);
        let mut listed = self.lock();
        listed.anew(pins);
        listed.identity = Some(pin);
        Ok(Some(pin))
    }

    /// Takes a page of the server's tools. Answers which of them may be shown, as far as their definitions go.
    pub(crate) async fn page(
        &self,
        server: &str,
        pins: u64,
        (first, last): (bool, bool),
        tools: &[Json],
        daemon: &Channel,
    ) -> std::io::Result<HashMap<Box<str>, Defined>> {
        let mut given: Vec<Given> = Vec::new();
        let mut names = HashSet::new();
        for tool in tools.iter().take(MOST_TOOLS) {
            // What has no name that anybody could allow is no tool; what comes twice counts once.
            let Some(name) = definition::name(tool).filter(|name| name.len() <= definition::NAME) else { continue };
            if !names.insert(name) {
                continue;
            }
            // One whose headers would say what nobody can compare is not called.
            let Ok(params) = header::params(tool) else { continue };
            let text = tool.canonical();
            let hash = claw::Hash::of(text.as_bytes()).to_string();
            given.push(Given { name: name.into(), hash, text, params: params.into() });
        }
        let unknown: Vec<Definition> = {
            let listed = self.lock();
            let known = |name: &str, hash: &str| {
                listed.pins == pins && listed.tools.get(name).is_some_and(|tool| *tool.hash == *hash)
            };
            let unknown = given.iter().filter(|given| !known(&given.name, &given.hash));
            let definition = |given: &Given| Definition {
                name: given.name.to_string(),
                hash: given.hash.clone(),
                text: given.text.clone(),
            };
            unknown.map(definition).collect()
        };
        let names: Vec<String> = unknown.iter().map(|definition| definition.name.clone()).collect();
        let found = if unknown.is_empty() { Vec::new() } else { ask(daemon, server, unknown).await? };
        let mut found: HashMap<String, Pin> = names.into_iter().zip(found).collect();
        let mut listed = self.lock();
        listed.anew(pins);
        let mut before = std::mem::take(&mut listed.tools);
        if !first {
            listed.tools = std::mem::take(&mut before);
        }
        for tool in &given {
            let pin = found.remove(&*tool.name).or_else(|| {
                let known = before.get(&tool.name).or_else(|| listed.tools.get(&tool.name));
                known.filter(|known| *known.hash == *tool.hash).map(|known| known.pin)
            });
            if listed.tools.len() < MOST_TOOLS {
                let (hash, pin) = (tool.hash.as_str().into(), pin.unwrap_or(Pin::New));
                listed.tools.insert(tool.name.clone(), Tool { hash, pin, params: Arc::clone(&tool.params) });
            }
        }
        listed.ambiguous = collisions(listed.tools.keys().map(AsRef::as_ref)).into_iter().map(Box::from).collect();
        listed.begun |= first;
        listed.whole = (last && listed.begun).then(Instant::now);
        listed.begun &= !last;
        let defined = |given: Given| {
            let defined = listed.defined(&given.name).0;
            (given.name, defined)
        };
        Ok(given.into_iter().map(defined).collect())
    }
}

impl Listed {
    /// Forgets what was said of definitions under other pins.
    fn anew(&mut self, pins: u64) {
        if self.pins != pins {
            *self = Self { pins, known: self.known.take(), ..Self::default() };
        }
    }

    fn defined(&self, name: &str) -> (Defined, Option<String>) {
        let Some(tool) = self.tools.get(name) else { return (Defined::Unseen, None) };
        let hash = Some(tool.hash.to_string());
        let defined = match (self.identity, tool.pin) {
            (None | Some(Pin::New), _) => Defined::New,
            (Some(Pin::Changed), _) | (_, Pin::Changed) => Defined::Changed,
            (_, Pin::New) => Defined::New,
            (Some(Pin::Accepted), Pin::Accepted) if self.ambiguous.contains(name) => Defined::Ambiguous,
            (Some(Pin::Accepted), Pin::Accepted) => Defined::Accepted,
        };
        (defined, hash)
    }
}

async fn ask(daemon: &Channel, server: &str, definitions: Vec<Definition>) -> std::io::Result<Vec<Pin>> {
    let count = definitions.len();
    match daemon.ask(Ask::Pins { server: server.into(), definitions }).await? {
        Told::Pins(pins) if pins.len() == count => Ok(pins),
        Told::Unrecorded(why) => Err(std::io::Error::other(why)),
        _ => Err(std::io::ErrorKind::InvalidData.into()),
    }
}
