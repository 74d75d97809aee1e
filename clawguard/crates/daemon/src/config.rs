//! `clawguard.toml` and `conf.d`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use claw::key::Did;
use fence::AgentName;
use policy::{HostFacts, name::HostName};
use serde::{Deserialize, de};

mod mcp;
mod model;
mod names;
mod servers;

pub use mcp::{Limits, Mcp, Pinning, Server, ServerTools};
pub use model::{Model, ModelGateway, model_rules};
pub use names::Names;
pub use servers::{secret, secrets};

/// The configuration of an instance. Unknown keys are errors.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Who is trusted.
    pub trust: Trust,
    /// Where contracts and tokens come from.
    pub registry: Registry,
    /// The way to models.
    pub model: Model,
    /// Fixed addresses.
    pub hosts: BTreeMap<Text<HostName>, Vec<IpAddr>>,
    /// How names become addresses.
    pub names: Names,
    /// Limits per job.
    pub limits: Limits,
    /// The metrics' listener.
    pub metrics: Metrics,
    /// The audit chain and what is looked for.
    pub audit: Audit,
    /// MCP servers.
    pub mcp: Mcp,
    /// Agents.
    pub agent: Vec<Agent>,
}

/// `[trust]`: nobody is trusted unless named here.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Trust {
    /// Who may sign contracts.
    pub wpc_signers: Vec<Text<Did>>,
    /// Who may issue job tokens.
    pub cst_issuers: Vec<Text<Did>>,
    /// The names under which this host takes job tokens.
    pub cst_audiences: Vec<String>,
    /// Scopes of which a job token needs one.
    pub cst_scopes: Vec<String>,
    /// Whether a job token counts that no issuer can be asked about.
    pub revocation: Revocation,
    /// Who may sign receipts.
    pub receipt_signers: Vec<Text<Did>>,
    /// How long a contract without an expiry of its own is in force: `7d`, `12h`, `30m`.
    pub default_lifetime: Lifetime,
}

impl Default for Trust {
    fn default() -> Self {
        Self {
            wpc_signers: Vec::new(),
            cst_issuers: Vec::new(),
            cst_audiences: vec!["clawguard".into(), "clawproxy.com".into()],
            cst_scopes: vec!["proxy:call".into(), "clawproxy:call".into()],
            revocation: Revocation::default(),
            receipt_signers: Vec::new(),
            default_lifetime: Lifetime::default(),
        }
    }
}

/// `[trust] revocation`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Revocation {
    /// A token whose issuer cannot be asked is refused.
    #[default]
    Required,
    /// Where no clawscope is named, tokens count until they expire or an operator of this host revokes them. One that is named
    /// is asked all the same.
    Off,
}

/// A span of time, in whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime(pub u64);

impl Default for Lifetime {
    fn default() -> Self {
        Self(7 * 86_400)
    }
}

impl<'de> Deserialize<'de> for Lifetime {
    fn deserialize<D: de::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let parse = || {
            let unit = match text.chars().last()? {
                's' => 1,
                'm' => 60,
                'h' => 3600,
                'd' => 86_400,
                _ => return None,
            };
            let count: u64 = text[..text.len() - 1].parse().ok()?;
            count.checked_mul(unit).filter(|seconds| (1..=3650 * 86_400).contains(seconds)).map(Self)
        };
        parse().ok_or_else(|| de::Error::custom(format!("\"{text}\" is no time such as 30m, 12h or 7d")))
    }
}

/// `[registry]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Registry {
    /// clawcontrols' URL.
    pub clawcontrols: Option<String>,
    /// clawscope's URL.
    pub clawscope: Option<String>,
    /// The only certificates (PEM) by which the registries are trusted, instead of the platform's.
    pub ca: Option<PathBuf>,
    /// A file with what proves to clawscope that this host may follow its revocations.
    pub token: Option<PathBuf>,
    /// Whether clawscope's key set is trusted beside `[trust] cst_issuers`.
    pub jwks: bool,
    /// Seconds between two questions about a live token.
    pub poll_seconds: u64,
    /// Seconds for which an answer about a token counts. What is older ends the job's egress.
    pub revocation_max_age_seconds: u64,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            clawcontrols: None,
            clawscope: None,
            ca: None,
            token: None,
            jwks: false,
            poll_seconds: 10,
            revocation_max_age_seconds: 60,
        }
    }
}

/// `[metrics]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    /// Where Prometheus finds `/metrics`.
    pub listen: SocketAddr,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 9477)) }
    }
}

/// `[audit]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Audit {
    /// Seconds over which the kernel's decisions are added up before they are recorded.
    pub interval_seconds: u64,
    /// Seconds between two looks for sockets from outside.
    pub imported_interval_seconds: u64,
    /// Megabytes after which a new file is begun.
    pub rotate_megabytes: u64,
}

impl Default for Audit {
    fn default() -> Self {
        Self { interval_seconds: 10, imported_interval_seconds: 2, rotate_megabytes: 64 }
    }
}

impl Audit {
    /// The interval of decisions.
    #[must_use]
    pub fn interval(&self) -> Duration {
        Duration::from_secs(self.interval_seconds.max(1))
    }
}

/// `[[agent]]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agent {
    /// Its name.
    pub name: AgentName,
    /// What already runs and belongs to it.
    pub r#match: Option<Match>,
    /// Its contract: a hash or a file.
    pub wpc: Option<String>,
    /// Whether the contract is enforced or only watched.
    #[serde(default)]
    pub mode: AgentMode,
}

/// `match`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
pub enum Match {
    /// A cgroup's path below the root.
    Cgroup(String),
    /// A systemd unit.
    Unit(String),
    /// All that a user runs.
    User(String),
}

impl std::fmt::Display for Match {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cgroup(path) => write!(f, "cgroup {path}"),
            Self::Unit(unit) => write!(f, "unit {unit}"),
            Self::User(user) => write!(f, "user {user}"),
        }
    }
}

/// `mode`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AgentMode {
    /// What the contract does not allow is refused.
    #[default]
    Enforce,
    /// Everything passes; what would be refused is recorded.
    Observe,
}

impl AgentMode {
    /// The word for it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
        }
    }
}

/// A value of a type that is written as text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Text<T>(pub T);

impl<'de, T> Deserialize<'de> for Text<T>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    fn deserialize<D: de::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map(Self).map_err(de::Error::custom)
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file that is not understood.
    #[error("{}: {source}", path.display())]
    Parse {
        /// Which.
        path: PathBuf,
        /// What is wrong, and where.
        source: Box<toml::de::Error>,
    },
    /// Two files that say different things.
    #[error("{}: {key} is set here and in another file", path.display())]
    Twice {
        /// The second file.
        path: PathBuf,
        /// Which key.
        key: String,
    },
    /// A value that makes no sense.
    #[error("{key}: {why}")]
    Value {
        /// Where.
        key: String,
        /// What is wrong with it.
        why: String,
    },
}

impl Config {
    /// Reads the file and those of `conf.d` beside it, in order of their names. Tables are joined, lists appended; a value
    /// may be set once. A file that is not there is empty.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub fn read(file: &Path) -> Result<Self, Error> {
        let mut files = vec![file.to_owned()];
        let directory = file.with_file_name("conf.d");
        let read = |path: &Path, source| Error::Read { path: path.to_owned(), source };
        match fs::read_dir(&directory) {
            Ok(entries) => {
                let mut found: Vec<PathBuf> = entries
                    .flatten()
                    .map(|entry| entry.path())
                    .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
                    .collect();
                found.sort();
                files.extend(found);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(read(&directory, error)),
        }
        let mut whole = toml::Table::new();
        for path in files {
            let text = match fs::read_to_string(&path) {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(read(&path, error)),
            };
            let parse = |source| Error::Parse { path: path.clone(), source: Box::new(source) };
            // Each file by itself first: an error then names its own line.
            let _: Self = toml::from_str(&text).map_err(parse)?;
            let table: toml::Table = toml::from_str(&text).map_err(parse)?;
            join(&mut whole, table, "").map_err(|key| Error::Twice { path: path.clone(), key })?;
        }
        let config = Self::deserialize(whole)
            .map_err(|source| Error::Parse { path: file.to_owned(), source: Box::new(source) })?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), Error> {
        let wrong = |key: String, why: &str| Err(Error::Value { key, why: why.into() });
        let mut names = BTreeSet::new();
        for agent in &self.agent {
            if !names.insert(&agent.name) {
                return wrong(format!("[[agent]] {}", agent.name), "the agent is there twice");
            }
            if agent.name.as_str() == crate::GATEWAY {
                return wrong(format!("[[agent]] {}", agent.name), "the name is the gateway's own");
            }
        }
        self.mcp.check()?;
        for server in self.mcp.server.iter().filter(|server| server.command.is_some()) {
            let agent = crate::stdio::agent(&server.name);
            let key = format!("[[mcp.server]] {}", server.name);
            match agent.parse::<AgentName>() {
                Ok(agent) if names.contains(&agent) => {
                    return wrong(
                        key,
                        "[[agent]] has a name that is the stdio server's own: mcp- and the server's name",
                    );
                }
                Ok(_) => {}
                Err(_) => return wrong(key, "a stdio server's name has 44 characters at most"),
            }
        }
        self.limits.check()?;
        self.model.check(self.mcp.port)?;
        self.registry.check()
    }

    /// What of this has no effect in this version: said at start and by `doctor`.
    #[must_use]
    pub fn without_effect(&self) -> Vec<&'static str> {
        let mediated = self.model.gateway() != ModelGateway::None;
        let keys = !self.model.keys.is_empty() || !self.model.endpoints.is_empty();
        let signers = !self.trust.receipt_signers.is_empty();
        let parts = [
            (keys && !mediated, "[model]: no model call is mediated, because proxy says neither \"builtin\" nor a URL"),
            (
                signers && !matches!(self.model.gateway(), ModelGateway::Clawproxy(_)),
                "[trust] receipt_signers: only a clawproxy's receipts are judged by them, and [model] proxy names none",
            ),
        ];
        parts.into_iter().filter_map(|(there, text)| there.then_some(text)).collect()
    }

    /// What `[hosts]` says of a URL's host.
    #[must_use]
    pub fn addresses_of(&self, url: &str) -> Vec<IpAddr> {
        match place(url) {
            Some((Place::Address(address), _)) => vec![address],
            Some((Place::Name(name), _)) => self.hosts.get(&Text(name)).cloned().unwrap_or_default(),
            None => Vec::new(),
        }
    }

    /// What contracts are compiled with.
    #[must_use]
    pub fn facts(&self) -> HostFacts {
        HostFacts {
            hosts: self
                .hosts
                .iter()
                .map(|(name, addresses)| (name.0.clone(), addresses.iter().copied().collect()))
                .collect(),
            mcp_servers: self.mcp.server.iter().map(Server::fact).collect(),
            model_hosts: self.model.hosts.iter().map(|name| name.0.clone()).chain(self.model.own_hosts()).collect(),
            model_places: self.model.own_places().collect(),
            model_gateway: self.model.gateway() != ModelGateway::None,
        }
    }
}

impl Registry {
    fn check(&self) -> Result<(), Error> {
        let wrong = |key: &str, why: &str| Err(Error::Value { key: format!("registry.{key}"), why: why.into() });
        for (key, url) in [("clawcontrols", &self.clawcontrols), ("clawscope", &self.clawscope)] {
            if url.as_deref().is_some_and(|url| place(url).is_none()) {
                return wrong(key, "https://HOST[:PORT] is expected (http:// for a loopback address alone)");
            }
        }
        if self.poll_seconds == 0 || self.poll_seconds >= self.revocation_max_age_seconds {
            return wrong("poll_seconds", "1 or more is expected, and less than revocation_max_age_seconds");
        }
        if self.jwks && self.clawscope.is_none() {
            return wrong("jwks", "the key set is clawscope's, which is not set");
        }
        Ok(())
    }
}

/// Where a registry is: a name or an address, and a port.
pub(crate) fn place(url: &str) -> Option<(Place, u16)> {
    let (rest, plain) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => (rest, false),
        (_, Some(rest)) => (rest, true),
        _ => return None,
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#', '@']) {
        return None;
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok().filter(|port| *port != 0)?),
        _ => (authority, if plain { 80 } else { 443 }),
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let place = match bare.parse::<IpAddr>() {
        // An IPv6 address stands in brackets; without them nobody could tell where its port begins.
        Ok(IpAddr::V6(_)) if bare.len() == host.len() => return None,
        Ok(address) => Place::Address(address),
        Err(_) => Place::Name(host.parse().ok()?),
    };
    let local = matches!(place, Place::Address(address) if address.is_loopback());
    (!plain || local).then_some((place, port))
}

/// A registry's host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// An address.
    Address(IpAddr),
    /// A name, to be resolved.
    Name(HostName),
}

/// Adds a table to another; answers the key that both set.
fn join(to: &mut toml::Table, from: toml::Table, path: &str) -> Result<(), String> {
    use toml::Value;
    for (key, value) in from {
        let place = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match (to.get_mut(&key), value) {
            (None, value) => {
                to.insert(key, value);
            }
            (Some(Value::Table(to)), Value::Table(from)) => join(to, from, &place)?,
            (Some(Value::Array(to)), Value::Array(mut from)) => to.append(&mut from),
            (Some(_), _) => return Err(place),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use policy::{group::Class, host::At};

    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        let config: Config = toml::from_str(text).map_err(|error| error.to_string())?;
        config.check().map_err(|error| error.to_string())?;
        Ok(config)
    }

    /// The example of the manual.
    const EXAMPLE: &str = r#"
        [trust]
        wpc_signers     = ["did:key:z6MktULudTtAsAhRegYPiZ6631RV3viv12qd4GQF8z1xB22S"]
        [registry]
        clawcontrols = "https://controls.example"
        [model]
        proxy = "builtin"
        [model.keys]
        openai = "credential:openai"
        [hosts]
        "crm.example" = ["203.0.113.10"]
        [limits]
        calls_per_minute = 600
        [metrics]
        listen = "127.0.0.1:9477"
        [[mcp.server]]
        name  = "crm-mcp"
        url   = "https://crm.example/mcp"
        risk  = "high"
        tools = { read = ["get_*", "search_*"], write = ["update_*"] }
        [[agent]]
        name  = "openclaw"
        match = { unit = "openclaw-gateway.service" }
        wpc   = "QmMQ0aNYNhEVSy7HuvraVk1SsiC7362h7kBTu5jL0i4"
        mode  = "observe"
    "#;

    #[test]
    fn the_manuals_example_is_understood() {
        let config = parse(EXAMPLE).unwrap();
        assert_eq!(config.agent[0].mode, AgentMode::Observe);
        assert_eq!(config.agent[0].r#match, Some(Match::Unit("openclaw-gateway.service".into())));
        let facts = config.facts();
        assert_eq!(facts.mcp_servers[0].endpoint, Some((At::Name("crm.example".parse().unwrap()), 443)));
        assert_eq!(facts.mcp_servers[0].class, Class::Irreversible);
        assert_eq!(facts.mcp_servers[0].class_of("search_customer"), Some(Class::Read));
        assert_eq!(facts.mcp_servers[0].class_of("delete_customer"), None);
        assert!(config.without_effect().is_empty());
        let idle = parse("[trust]\nreceipt_signers = []\n[model.keys]\nopenai = \"k\"").unwrap();
        assert_eq!(idle.without_effect().len(), 1);
    }

    #[test]
    fn nothing_set_is_nothing_trusted() {
        let config = parse("").unwrap();
        assert!(config.trust.wpc_signers.is_empty());
        assert_eq!(config.metrics.listen.port(), 9477);
        assert!(config.without_effect().is_empty());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, expected) in [
            ("[trust]\nwpc_signer = []", "unknown field `wpc_signer`"),
            ("[trust]\nwpc_signers = [\"did:web:x\"]", "no Ed25519 key"),
            ("[hosts]\n\"CRM.example\" = []", "no host name"),
            ("[hosts]\n\"crm.example\" = [\"203.0.113.300\"]", "invalid IP address"),
            ("[[agent]]\nname = \"a/b\"", "cannot name an agent"),
            ("[[agent]]\nname = \"a\"\nmatch = { unit = \"x\", user = \"y\" }", "match"),
            ("[[agent]]\nname = \"a\"\n[[agent]]\nname = \"a\"", "the agent is there twice"),
            ("[[agent]]\nname = \"gateway\"", "the gateway's own"),
            ("[trust]\ndefault_lifetime = \"7 days\"", "no time such as"),
            ("[registry]\nclawscope = \"http://scope.example\"", "registry.clawscope: https://"),
            ("[registry]\nclawscope = \"https://scope.example/v1\"", "registry.clawscope: https://"),
            ("[registry]\nclawscope = \"https://a@scope.example\"", "registry.clawscope: https://"),
            ("[registry]\npoll_seconds = 60", "less than revocation_max_age_seconds"),
            ("[registry]\njwks = true", "clawscope's, which is not set"),
            ("[[mcp.server]]\nname = \"a\"", "either url or command"),
            ("[[mcp.server]]\nname = \"a\"\nurl = \"ftp://x\"", "url is not https"),
            ("[[mcp.server]]\nname = \"a\"\nurl = \"https://224.0.0.1/\"", "url is not https"),
            (
                "[[mcp.server]]\nname = \"a\"\nurl = \"https://x.example/\"\ntools = { read = [\"get_*_all\"] }",
                "a tool's name has at most 256 bytes",
            ),
            ("[[mcp.server]]\nname = \"A B\"\nurl = \"https://x.example/\"", "a server's name"),
            ("[[mcp.server]]\nname = \"graph.v2\"\nurl = \"https://x.example/\"", "a server's name"),
            ("[[mcp.server]]\nname = \"graph:v2\"\nurl = \"https://x.example/\"", "a server's name"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn files_of_conf_d_are_joined_and_may_not_contradict() {
        let directory = std::env::temp_dir().join(format!("clawguard-config-{}", std::process::id()));
        fs::create_dir_all(directory.join("conf.d")).unwrap();
        let file = directory.join("clawguard.toml");
        fs::write(&file, EXAMPLE).unwrap();
        fs::write(
            directory.join("conf.d/10.toml"),
            "[hosts]\n\"b.example\" = [\"203.0.113.11\"]\n[[agent]]\nname = \"two\"",
        )
        .unwrap();
        fs::write(directory.join("conf.d/ignored"), "not toml").unwrap();
        let config = Config::read(&file).unwrap();
        assert_eq!((config.hosts.len(), config.agent.len()), (2, 2));
        fs::write(directory.join("conf.d/20.toml"), "[metrics]\nlisten = \"127.0.0.1:1\"").unwrap();
        let error = Config::read(&file).unwrap_err().to_string();
        assert!(error.contains("20.toml: metrics.listen is set here and in another file"), "{error}");
        fs::remove_dir_all(directory).unwrap();
    }
}
