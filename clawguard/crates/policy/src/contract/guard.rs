//! What ClawGuard acts on: `metadata["clawguard.v1"]`, and what the other forms say of the same things.

use std::collections::HashSet;

use claw::{Value, time::Instant};

use super::{DataClasses, Error, Mcp, OpenClaw, TokenRules, Tools, object, registered::GUARD, tools::patterns};
use crate::{
    group::{Class, Group, Risk},
    name::HostPattern,
    net::Cidr,
    read::{Fields, short},
    tool::ToolPattern,
};

/// `metadata["clawguard.v1"]`, or what the other forms say of the same things.
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
    /// What else of MCP; only form 1 says so.
    pub mcp: Option<Mcp>,
    /// The contract's own groups.
    pub groups: Vec<GroupSpec>,
    /// Model calls.
    pub model: Option<Model>,
    /// Kinds of data.
    pub data_classes: Option<DataClasses>,
    /// Job tokens. Where it is there, no job goes without one.
    pub token: Option<TokenRules>,
    /// Tools of OpenClaw's own.
    pub openclaw: OpenClaw,
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
    /// Whether a ClientHello may be an encrypted one, whose outer name alone is judged.
    pub ech: bool,
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

impl Protocol {
    /// The word for it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    /// IP protocol number.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => clawguard_common::protocol::TCP,
            Self::Udp => clawguard_common::protocol::UDP,
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

/// `model`, or form 2's `model_egress`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    /// Each model call must leave a receipt.
    pub require_proxy_receipts: bool,
    /// Who answers model calls; only form 2 says so.
    pub provider: Option<String>,
    /// What happens when the agent tries another way to a model.
    pub on_bypass: OnBypass,
}

/// `model.on_bypass`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum OnBypass {
    /// Tell.
    #[default]
    Alert,
    /// Tell, and kill what writes.
    ReadOnly,
    /// Tell, and kill everything.
    Halt,
}

impl OnBypass {
    /// The word for it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Alert => "alert",
            Self::ReadOnly => "read-only",
            Self::Halt => "halt",
        }
    }
}

pub(super) const NO_HOST: &str =
    "no host name and no *.NAME (lower-case letters, digits and hyphens; addresses are written as \"cidr\")";

impl Guard {
    pub(super) fn read(value: &Value) -> Result<Self, Error> {
        let path = format!("metadata.{GUARD}");
        let mut fields = Fields::of(path, value)?;
        let guard = Self {
            sequence: fields.number("sequence")?.unwrap_or(0),
            not_before: fields.instant("not_before")?,
            not_after: fields.instant("not_after")?,
            listen: each(&mut fields, "listen", Listen::read)?,
            unix_sockets: fields.flag("unix_sockets")?.unwrap_or(false),
            egress: each(&mut fields, "egress", Egress::read)?,
            tools: object(&mut fields, "tools", Tools::read)?,
            mcp: object(&mut fields, "mcp", Mcp::read)?,
            groups: each(&mut fields, "groups", GroupSpec::read)?,
            model: object(&mut fields, "model", Model::read)?,
            data_classes: object(&mut fields, "data_classes", DataClasses::read)?,
            token: object(&mut fields, "token", TokenRules::read)?,
            openclaw: OpenClaw::default(),
        };
        if let (Some(from), Some(to)) = (guard.not_before, guard.not_after)
            && from >= to
        {
            let why = "it is not after not_before: the contract would never be in force".into();
            return Err(Error::Bound { path: fields.path("not_after"), why });
        }
        let mut names = HashSet::with_capacity(guard.groups.len());
        for (i, spec) in guard.groups.iter().enumerate() {
            if !names.insert(&spec.name) {
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
        let ech = fields.flag("ech")?.unwrap_or(false);
        let named = protocol == Protocol::Tcp && matches!(to, To::Host(_));
        let tls = tls.unwrap_or(named);
        if ech && !(tls && named) {
            let why = "it says how TLS begins, and is for hosts at which TLS is spoken".into();
            return Err(Error::Bound { path: fields.path("ech"), why });
        }
        fields.end()?;
        Ok(Self { to, ports, protocol, tls, ech, quic, class, groups })
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
        let tools = patterns(&mut fields, "tools")?.unwrap_or_default().into_iter().map(|line| line.pattern).collect();
        fields.end()?;
        Ok(Self { name, risk, tools })
    }
}

impl Model {
    fn read(mut fields: Fields<'_>) -> Result<Self, Error> {
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
        Ok(Self { require_proxy_receipts, provider: None, on_bypass })
    }
}
