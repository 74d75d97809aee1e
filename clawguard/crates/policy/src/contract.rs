//! The contract, form 1: Claw's Work Policy Contract v1 with ClawGuard's part in `metadata["clawguard.v1"]`.

use claw::{Value, time::Instant};

use crate::{
    group::{Class, Group, Risk},
    name::HostPattern,
    net::Cidr,
    read::{Fields, short},
};

/// A contract's text, read. What it grants is said by [`compile`](crate::compile()).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contract {
    /// `policy_id`
    pub policy_id: String,
    /// `issuer_did`. Claw does not authenticate it.
    pub issuer: String,
    /// `allowed_providers`
    pub allowed_providers: Option<Vec<String>>,
    /// `allowed_models`
    pub allowed_models: Option<Vec<String>>,
    /// `egress_allowlist`. Absent and empty both allow nothing; one that is there bounds `egress`.
    pub egress_allowlist: Option<Vec<Allowed>>,
    /// The other members of Claw's schema that are there, by name.
    pub model_rules: Vec<&'static str>,
    /// Members of `metadata` that are not ClawGuard's.
    pub foreign_metadata: Vec<String>,
    /// `metadata["clawguard.v1"]`
    pub guard: Guard,
}

/// An entry of `egress_allowlist`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// A host, or every host below one.
    Host(HostPattern),
    /// A range, which only permits the same range in `clawguard.v1.egress`.
    Range(Cidr),
}

/// `metadata["clawguard.v1"]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// Raised with every version of a contract; 0 where it is absent.
    pub sequence: u64,
    /// Not in force before this.
    pub not_before: Option<Instant>,
    /// Not in force from this on.
    pub not_after: Option<Instant>,
    /// Ports on which others may reach the agent.
    pub listen: Vec<Listen>,
    /// Whether the agent may make unix sockets.
    pub unix_sockets: bool,
    /// What the agent may reach.
    pub egress: Vec<Egress>,
    /// MCP tools.
    pub tools: Option<Tools>,
    /// The contract's own groups.
    pub groups: Vec<GroupSpec>,
    /// Model calls.
    pub model: Option<Model>,
    /// Whether there is a `data_classes`.
    pub data_classes: bool,
    /// Whether there is a `token`.
    pub token: bool,
}

/// An entry of `listen`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// From where others may come.
    pub from: Cidr,
    /// To which ports.
    pub ports: Vec<u16>,
    /// By which protocol.
    pub protocol: Protocol,
}

/// An entry of `egress`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Egress {
    /// Hosts or addresses.
    pub to: To,
    /// Ports; 443 if none are named.
    pub ports: Vec<u16>,
    /// By which protocol.
    pub protocol: Protocol,
    /// Whether TLS is spoken there.
    pub tls: bool,
    /// Whether QUIC is, on UDP at the same ports.
    pub quic: bool,
    /// What calls to it do.
    pub class: Option<Class>,
    /// Its groups.
    pub groups: Vec<Group>,
}

/// Where an egress entry leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum To {
    /// A host, or every host below one.
    Host(HostPattern),
    /// A range of addresses.
    Range(Cidr),
}

/// The protocols that pass at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// `tcp`
    Tcp,
    /// `udp`
    Udp,
}

/// `tools`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tools {
    /// Callable.
    pub allow: Option<Vec<ToolPattern>>,
    /// Not callable, whatever else is said.
    pub deny: Vec<ToolPattern>,
    /// Callable once a person agrees.
    pub approve: Vec<ToolPattern>,
}

/// `server/tool`, where either may be `*` and the tool may end in `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolPattern {
    /// Server name or `*`.
    pub server: String,
    /// Tool name, prefix with `*`, or `*`.
    pub tool: String,
}

impl ToolPattern {
    /// Whether it could concern a server.
    #[must_use]
    pub fn concerns(&self, server: &str) -> bool {
        self.server == "*" || self.server == server
    }

    fn parse(path: String, text: &str) -> Result<Self, Error> {
        let plain = |part: &str| {
            let name = part.strip_suffix('*').unwrap_or(part);
            part.len() <= 256 && !part.is_empty() && !name.contains(['*', '/', ' '])
        };
        match text.split_once('/') {
            Some((server, tool)) if plain(tool) && (server == "*" || (plain(server) && !server.ends_with('*'))) => {
                Ok(Self { server: server.to_owned(), tool: tool.to_owned() })
            }
            _ => Err(Error::Text {
                path,
                text: short(text),
                why: "a tool is written SERVER/TOOL, where either may be * and TOOL may end in *".into(),
            }),
        }
    }
}

/// An entry of `groups`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSpec {
    /// Its name.
    pub name: Group,
    /// How much harm its members could do.
    pub risk: Option<Risk>,
    /// The tools that belong to it.
    pub tools: Vec<ToolPattern>,
}

/// `model`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    /// Each model call must leave a receipt.
    pub require_proxy_receipts: bool,
    /// What happens when the agent tries another way to a model.
    pub on_bypass: OnBypass,
}

/// `model.on_bypass`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnBypass {
    /// Tell.
    #[default]
    Alert,
    /// Tell, and kill what writes.
    ReadOnly,
    /// Tell, and kill everything.
    Halt,
}

/// Why a contract is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A field that this form does not have.
    #[error("{path} is unknown: a field that is not understood cannot be enforced")]
    Unknown {
        /// Which.
        path: String,
    },
    /// A field that must be there.
    #[error("{path} is missing")]
    Missing {
        /// Which.
        path: String,
    },
    /// A value of another kind.
    #[error("{path} is {found}, not {expected}")]
    Wrong {
        /// Where.
        path: String,
        /// What should be there.
        expected: &'static str,
        /// What is there.
        found: &'static str,
    },
    /// A text that does not mean anything there.
    #[error("{path}: \"{text}\": {why}")]
    Text {
        /// Where.
        path: String,
        /// What is there.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// A value outside its bounds.
    #[error("{path}: {why}")]
    Bound {
        /// Where.
        path: String,
        /// What is wrong with it.
        why: String,
    },
}

/// The name of ClawGuard's part of `metadata`.
const GUARD: &str = "clawguard.v1";

impl Contract {
    /// Reads a payload. Every field must be known and of its kind.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub fn read(payload: &Value) -> Result<Self, Error> {
        let mut fields = Fields::of("", payload)?;
        match fields.text("policy_version")? {
            Some("1") => {}
            Some(other) => {
                let why = "this version reads policy_version \"1\"".into();
                return Err(Error::Text { path: "policy_version".into(), text: short(other), why });
            }
            None => return Err(Error::Missing { path: "policy_version".into() }),
        }
        let mut contract = Self {
            policy_id: bounded(&mut fields, "policy_id", 128)?,
            issuer: bounded(&mut fields, "issuer_did", 256)?,
            ..Self::default()
        };
        if !contract.issuer.starts_with("did:") {
            let why = "no DID".into();
            return Err(Error::Text { path: "issuer_did".into(), text: short(&contract.issuer), why });
        }
        contract.allowed_providers = words(&mut fields, "allowed_providers", &["openai", "anthropic", "google"])?;
        contract.allowed_models =
            fields.texts("allowed_models")?.map(|models| models.into_iter().map(str::to_owned).collect());
        contract.model_rules = model_rules(&mut fields)?;
        contract.egress_allowlist = allowlist(&mut fields)?;
        if let Some(metadata) = fields.take("metadata") {
            let Value::Object(members) = metadata else {
                return Err(Error::Wrong { path: "metadata".into(), expected: "an object", found: metadata.kind() });
            };
            contract.foreign_metadata =
                members.iter().filter(|(name, _)| &**name != GUARD).map(|(name, _)| short(name)).collect();
            if let Some(guard) = metadata.get(GUARD) {
                contract.guard = Guard::read(guard)?;
            }
        }
        fields.end()?;
        Ok(contract)
    }
}

fn bounded(fields: &mut Fields<'_>, name: &str, most: usize) -> Result<String, Error> {
    let text = fields.required_text(name)?;
    if text.is_empty() || text.chars().count() > most {
        return Err(Error::Bound { path: fields.path(name), why: format!("1 to {most} characters are accepted") });
    }
    Ok(text.to_owned())
}

fn words(fields: &mut Fields<'_>, name: &str, known: &[&str]) -> Result<Option<Vec<String>>, Error> {
    let Some(found) = fields.texts(name)? else { return Ok(None) };
    match found.iter().find(|word| !known.contains(word)) {
        Some(word) => {
            let why = format!("one of {} is expected", known.join(", "));
            Err(Error::Text { path: fields.path(name), text: short(word), why })
        }
        None => Ok(Some(found.into_iter().map(str::to_owned).collect())),
    }
}

/// The rules for model calls that only a model gateway could hold an agent to.
fn model_rules(fields: &mut Fields<'_>) -> Result<Vec<&'static str>, Error> {
    let mut found = Vec::new();
    let tiers = ["closed_opaque", "closed_provider_manifest", "openweights_hashable", "tee_measured"];
    for (name, known) in
        [("minimum_model_identity_tier", &tiers[..]), ("receipt_privacy_mode", &["hash_only", "encrypted"][..])]
    {
        if let Some(word) = fields.text(name)? {
            if !known.contains(&word) {
                let why = format!("one of {} is expected", known.join(", "));
                return Err(Error::Text { path: name.into(), text: short(word), why });
            }
            found.push(name);
        }
    }
    if fields.texts("required_audit_packs")?.is_some() {
        found.push("required_audit_packs");
    }
    if let Some(rules) = fields.list("redaction_rules")? {
        for (i, rule) in rules.iter().enumerate() {
            let mut rule = Fields::of(format!("redaction_rules[{i}]"), rule)?;
            rule.required_text("path")?;
            let action = rule.required_text("action")?;
            if !["remove", "hash", "mask"].contains(&action) {
                let why = "one of remove, hash, mask is expected".into();
                return Err(Error::Text { path: rule.path("action"), text: short(action), why });
            }
            rule.end()?;
        }
        found.push("redaction_rules");
    }
    Ok(found)
}

fn allowlist(fields: &mut Fields<'_>) -> Result<Option<Vec<Allowed>>, Error> {
    let Some(texts) = fields.texts("egress_allowlist")? else { return Ok(None) };
    let mut found = Vec::with_capacity(texts.len());
    for (i, text) in texts.into_iter().enumerate() {
        let path = || format!("egress_allowlist[{i}]");
        found.push(if text.contains('/') {
            let range = text.parse::<Cidr>();
            Allowed::Range(range.map_err(|e| Error::Text { path: path(), text: short(text), why: e.to_string() })?)
        } else {
            let host = text.parse::<HostPattern>();
            Allowed::Host(host.map_err(|_| Error::Text { path: path(), text: short(text), why: NO_HOST.into() })?)
        });
    }
    Ok(Some(found))
}

const NO_HOST: &str =
    "no host name and no *.NAME (lower-case letters, digits and hyphens; addresses are written as \"cidr\")";

impl Guard {
    fn read(value: &Value) -> Result<Self, Error> {
        let path = format!("metadata.{GUARD}");
        let mut fields = Fields::of(path, value)?;
        let guard = Self {
            sequence: fields.number("sequence")?.unwrap_or(0),
            not_before: fields.instant("not_before")?,
            not_after: fields.instant("not_after")?,
            listen: each(&mut fields, "listen", Listen::read)?,
            unix_sockets: fields.flag("unix_sockets")?.unwrap_or(false),
            egress: each(&mut fields, "egress", Egress::read)?,
            tools: fields.take("tools").map(|value| Tools::read(fields.path("tools"), value)).transpose()?,
            groups: each(&mut fields, "groups", GroupSpec::read)?,
            model: fields.take("model").map(|value| Model::read(fields.path("model"), value)).transpose()?,
            data_classes: data_classes(&mut fields)?,
            token: token(&mut fields)?,
        };
        if let (Some(from), Some(to)) = (guard.not_before, guard.not_after)
            && from >= to
        {
            let why = "it is not after not_before: the contract would never be in force".into();
            return Err(Error::Bound { path: fields.path("not_after"), why });
        }
        for (i, spec) in guard.groups.iter().enumerate() {
            if guard.groups[..i].iter().any(|other| other.name == spec.name) {
                let why = format!("the group {} is defined twice", spec.name);
                return Err(Error::Bound { path: format!("{}[{i}]", fields.path("groups")), why });
            }
        }
        fields.end()?;
        Ok(guard)
    }
}

fn each<T>(fields: &mut Fields<'_>, name: &str, read: fn(String, &Value) -> Result<T, Error>) -> Result<Vec<T>, Error> {
    let path = fields.path(name);
    let items = fields.list(name)?.unwrap_or(&[]);
    items.iter().enumerate().map(|(i, item)| read(format!("{path}[{i}]"), item)).collect()
}

fn ports(fields: &mut Fields<'_>) -> Result<Option<Vec<u16>>, Error> {
    let path = fields.path("ports");
    let Some(items) = fields.list("ports")? else { return Ok(None) };
    let mut found = Vec::with_capacity(items.len());
    for item in items {
        match item {
            Value::Number(n) if n.fract() == 0.0 && (1.0..=65535.0).contains(n) => found.push(*n as u16),
            _ => return Err(Error::Bound { path, why: "ports are whole numbers from 1 to 65535".into() }),
        }
    }
    if found.is_empty() {
        return Err(Error::Bound { path, why: "an empty list of ports allows nothing; leave the entry out".into() });
    }
    found.sort_unstable();
    found.dedup();
    Ok(Some(found))
}

fn protocol(fields: &mut Fields<'_>) -> Result<Protocol, Error> {
    match fields.text("protocol")? {
        None | Some("tcp") => Ok(Protocol::Tcp),
        Some("udp") => Ok(Protocol::Udp),
        Some(other) => {
            let why = "only tcp and udp pass at all".into();
            Err(Error::Text { path: fields.path("protocol"), text: short(other), why })
        }
    }
}

fn cidr(fields: &mut Fields<'_>) -> Result<Option<Cidr>, Error> {
    let Some(text) = fields.text("cidr")? else { return Ok(None) };
    let range = text.parse::<Cidr>();
    range.map(Some).map_err(|e| Error::Text { path: fields.path("cidr"), text: short(text), why: e.to_string() })
}

impl Listen {
    fn read(path: String, value: &Value) -> Result<Self, Error> {
        let mut fields = Fields::of(path, value)?;
        let missing = |fields: &Fields<'_>, name| Error::Missing { path: fields.path(name) };
        let from = cidr(&mut fields)?.ok_or_else(|| missing(&fields, "cidr"))?;
        let ports = ports(&mut fields)?.ok_or_else(|| missing(&fields, "ports"))?;
        let protocol = protocol(&mut fields)?;
        fields.end()?;
        Ok(Self { from, ports, protocol })
    }
}

impl Egress {
    fn read(path: String, value: &Value) -> Result<Self, Error> {
        let mut fields = Fields::of(path.clone(), value)?;
        let host: Option<HostPattern> = fields.parsed("host", NO_HOST)?;
        let to = match (host, cidr(&mut fields)?) {
            (Some(host), None) => To::Host(host),
            (None, Some(range)) => To::Range(range),
            _ => return Err(Error::Bound { path, why: "either host or cidr is needed, and not both".into() }),
        };
        let protocol = protocol(&mut fields)?;
        let ports = ports(&mut fields)?;
        let ports = match (&to, ports) {
            (_, Some(ports)) => ports,
            (To::Host(_), None) => vec![443],
            (To::Range(_), None) => return Err(Error::Missing { path: fields.path("ports") }),
        };
        let tls = fields.flag("tls")?;
        let quic = fields.flag("quic")?.unwrap_or(false);
        if (tls == Some(true) || quic) && protocol == Protocol::Udp {
            let why = "tls and quic describe a tcp entry; quic adds UDP to it".into();
            return Err(Error::Bound { path, why });
        }
        let class = fields.parsed("class", "read, write or irreversible is expected")?;
        let mut groups = Vec::new();
        for (i, name) in fields.texts("groups")?.unwrap_or_default().into_iter().enumerate() {
            let path = format!("{}[{i}]", fields.path("groups"));
            let group: Group = name
                .parse()
                .map_err(|e: crate::group::NotAGroup| Error::Bound { path: path.clone(), why: e.to_string() })?;
            if !group.definable() {
                let why = format!("{group} follows from what an entry is; a contract does not give it");
                return Err(Error::Bound { path, why });
            }
            groups.push(group);
        }
        groups.sort_unstable();
        groups.dedup();
        fields.end()?;
        let tls = tls.unwrap_or(protocol == Protocol::Tcp && matches!(to, To::Host(_)));
        Ok(Self { to, ports, protocol, tls, quic, class, groups })
    }
}

fn tool_patterns(fields: &mut Fields<'_>, name: &str) -> Result<Option<Vec<ToolPattern>>, Error> {
    let path = fields.path(name);
    let Some(texts) = fields.texts(name)? else { return Ok(None) };
    let parse = |(i, text): (usize, &str)| ToolPattern::parse(format!("{path}[{i}]"), text);
    texts.into_iter().enumerate().map(parse).collect::<Result<_, _>>().map(Some)
}

impl Tools {
    fn read(path: String, value: &Value) -> Result<Self, Error> {
        let mut fields = Fields::of(path, value)?;
        let tools = Self {
            allow: tool_patterns(&mut fields, "allow")?,
            deny: tool_patterns(&mut fields, "deny")?.unwrap_or_default(),
            approve: tool_patterns(&mut fields, "approve")?.unwrap_or_default(),
        };
        fields.end()?;
        Ok(tools)
    }
}

impl GroupSpec {
    fn read(path: String, value: &Value) -> Result<Self, Error> {
        let mut fields = Fields::of(path, value)?;
        let text = fields.required_text("name")?;
        let name: Group = text
            .parse()
            .map_err(|e: crate::group::NotAGroup| Error::Bound { path: fields.path("name"), why: e.to_string() })?;
        if !name.definable() {
            let why = format!("{name} is built in; a contract does not define it");
            return Err(Error::Bound { path: fields.path("name"), why });
        }
        let risk = fields.parsed("risk", "low, medium or high is expected")?;
        let tools = tool_patterns(&mut fields, "tools")?.unwrap_or_default();
        fields.end()?;
        Ok(Self { name, risk, tools })
    }
}

impl Model {
    fn read(path: String, value: &Value) -> Result<Self, Error> {
        let mut fields = Fields::of(path, value)?;
        let require_proxy_receipts = fields.flag("require_proxy_receipts")?.unwrap_or(false);
        let on_bypass = match fields.text("on_bypass")? {
            None | Some("alert") => OnBypass::Alert,
            Some("read-only") => OnBypass::ReadOnly,
            Some("halt") => OnBypass::Halt,
            Some(other) => {
                let why = "alert, read-only or halt is expected".into();
                return Err(Error::Text { path: fields.path("on_bypass"), text: short(other), why });
            }
        };
        fields.end()?;
        Ok(Self { require_proxy_receipts, on_bypass })
    }
}

fn data_classes(fields: &mut Fields<'_>) -> Result<bool, Error> {
    let Some(value) = fields.take("data_classes") else { return Ok(false) };
    let mut inner = Fields::of(fields.path("data_classes"), value)?;
    inner.texts("allow")?;
    inner.texts("deny")?;
    inner.end()?;
    Ok(true)
}

fn token(fields: &mut Fields<'_>) -> Result<bool, Error> {
    let Some(value) = fields.take("token") else { return Ok(false) };
    let mut inner = Fields::of(fields.path("token"), value)?;
    inner.number("cst_max_ttl_seconds")?;
    inner.flag("require_scope_hash")?;
    if let Some(pinning) = inner.text("policy_hash_pinning")?
        && !["required", "optional"].contains(&pinning)
    {
        let why = "required or optional is expected".into();
        return Err(Error::Text { path: inner.path("policy_hash_pinning"), text: short(pinning), why });
    }
    inner.end()?;
    Ok(true)
}
