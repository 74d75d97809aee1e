//! `[mcp]`, `[[mcp.server]]` and `[limits]`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use control::calls::CallLimits;
use policy::{
    group::Risk,
    host::{At, McpServer},
    tool::NamePattern,
};
use serde::Deserialize;

use super::{Error, Text};

/// `[limits]`, per job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Tool calls a minute.
    pub calls_per_minute: Option<u32>,
    /// Tool calls that are under way at once.
    pub concurrent_calls: Option<u32>,
    /// MCP sessions at once.
    pub sessions: Option<u32>,
    /// Bytes of one MCP message.
    pub message_bytes: Option<u32>,
    /// Seconds that one tool call may take.
    pub call_seconds: Option<u32>,
}

impl Limits {
    pub(super) fn check(&self) -> Result<(), Error> {
        let parts = [
            ("calls_per_minute", self.calls_per_minute, u32::MAX),
            ("concurrent_calls", self.concurrent_calls, 100_000),
            ("sessions", self.sessions, 100_000),
            ("message_bytes", self.message_bytes, 16 << 20),
            ("call_seconds", self.call_seconds, 86_400),
        ];
        for (key, value, most) in parts {
            if value.is_some_and(|value| value == 0 || value > most) {
                return Err(Error::Value { key: format!("limits.{key}"), why: format!("1 to {most} is expected") });
            }
        }
        Ok(())
    }

    /// The limits with what nobody set.
    #[must_use]
    pub fn for_gateway(&self) -> CallLimits {
        let usual = CallLimits::default();
        CallLimits {
            calls_per_minute: self.calls_per_minute.unwrap_or(usual.calls_per_minute),
            concurrent_calls: self.concurrent_calls.unwrap_or(usual.concurrent_calls),
            sessions: self.sessions.unwrap_or(usual.sessions),
            message_bytes: self.message_bytes.unwrap_or(usual.message_bytes),
            call_seconds: self.call_seconds.unwrap_or(usual.call_seconds),
        }
    }
}

/// `[mcp]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mcp {
    /// The TCP port of loopback at which agents find their servers: `http://127.0.0.1:PORT/s/SERVER/mcp`.
    pub port: u16,
    /// What is done with a definition that nobody accepted yet.
    pub pins: Pinning,
    /// How long a held call waits for a person before its caller is told that it is pending.
    pub approval_wait_seconds: u64,
    /// How long a person has to decide; afterwards the call is denied.
    pub approval_expiry_seconds: u64,
    /// A command that is started, unprivileged, for each call that waits; it has the approval as JSON on its standard input.
    pub approval_hook: Vec<String>,
    /// Whether records have the arguments of calls beside their hash.
    pub record_arguments: bool,
    /// `[[mcp.server]]`
    pub server: Vec<Server>,
}

impl Default for Mcp {
    fn default() -> Self {
        Self {
            port: 9480,
            pins: Pinning::default(),
            approval_wait_seconds: 45,
            approval_expiry_seconds: 900,
            approval_hook: Vec::new(),
            record_arguments: false,
            server: Vec::new(),
        }
    }
}

/// `[mcp] pins`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pinning {
    /// The first definition of a name is accepted, and every other one needs an operator.
    #[default]
    FirstUse,
    /// Every definition needs an operator.
    Approval,
}

/// `[[mcp.server]]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Its name.
    pub name: String,
    /// Where it is, for HTTP.
    pub url: Option<String>,
    /// How it is started, for stdio.
    pub command: Option<Vec<String>>,
    /// Whether it speaks HTTP+SSE of 2024-11-05 instead of streamable HTTP.
    #[serde(default)]
    pub sse: bool,
    /// Headers of the host's own for an HTTP server: the value itself, `file:PATH` or `credential:NAME`.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// The only certificates (PEM) by which an HTTP server is trusted, instead of the platform's.
    pub ca: Option<PathBuf>,
    /// Environment of a stdio server, beside `PATH`, `HOME` and `LANG`; nothing of the daemon's own is inherited. Values as in
    /// `headers`.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// As whom a stdio server runs; `nobody` if nothing is said.
    pub user: Option<String>,
    /// Where a stdio server runs; `/` if nothing is said.
    pub directory: Option<PathBuf>,
    /// The contract of a stdio server itself, by hash or file: what it may reach. Without one it reaches nothing.
    pub wpc: Option<String>,
    /// Megabytes of memory that a stdio server may have.
    #[serde(default = "memory")]
    pub memory_megabytes: u32,
    /// Processes and threads that a stdio server may have.
    #[serde(default = "processes")]
    pub processes: u32,
    /// How much harm it could do; unknown is high.
    #[serde(default = "high")]
    pub risk: Risk,
    /// What its tools do.
    #[serde(default)]
    pub tools: ServerTools,
}

const fn high() -> Risk {
    Risk::High
}

const fn memory() -> u32 {
    1024
}

const fn processes() -> u32 {
    256
}

/// Tool names by what they do: a name, or the beginning of names and `*`. A tool that several of them name is of the
/// gravest class, and one that none of them names is judged by its name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerTools {
    /// Change nothing.
    pub read: Vec<Text<NamePattern>>,
    /// Change what can be changed back.
    pub write: Vec<Text<NamePattern>>,
    /// Change for good.
    pub irreversible: Vec<Text<NamePattern>>,
}

impl Mcp {
    pub(super) fn check(&self) -> Result<(), Error> {
        let wrong = |key: String, why: &str| Err(Error::Value { key, why: why.into() });
        if self.port == 0 || self.port == clawguard_common::guard::DNS_PORT {
            return wrong("mcp.port".into(), "a port is expected that nothing else on this host uses");
        }
        if self.approval_expiry_seconds == 0 || self.approval_expiry_seconds > 86_400 {
            return wrong("mcp.approval_expiry_seconds".into(), "1 to 86400 is expected");
        }
        if self.approval_wait_seconds > self.approval_expiry_seconds {
            return wrong("mcp.approval_wait_seconds".into(), "it is longer than approval_expiry_seconds");
        }
        if self.approval_hook.first().is_some_and(|path| !path.starts_with('/')) {
            return wrong("mcp.approval_hook".into(), "a command with its whole path is expected");
        }
        let mut servers = BTreeSet::new();
        for server in &self.server {
            let key = format!("[[mcp.server]] {}", server.name);
            if !servers.insert(&server.name) {
                return wrong(key, "the server is there twice");
            }
            // In mcp.SERVER.TOOL the server ends at the first dot, and in the group mcp:SERVER nothing may follow.
            let split = server.name.contains(['.', ':']);
            if split || format!("mcp:{}", server.name).parse::<policy::Group>().is_err() {
                return wrong(key, "a server's name has lower-case letters, digits, \"-\" and \"_\", 60 at most");
            }
            match (&server.url, &server.command) {
                (Some(url), None) => {
                    if endpoint(url).is_none() {
                        return wrong(
                            key,
                            "url is not https://HOST[:PORT][/PATH] (or http://) with a host name, an IPv4 address or an [IPv6 address]",
                        );
                    }
                }
                (None, Some(command)) if !command.is_empty() => {}
                _ => return wrong(key, "either url or command is needed"),
            }
        }
        Ok(())
    }
}

impl Server {
    pub(super) fn fact(&self) -> McpServer {
        let patterns = |texts: &[Text<NamePattern>]| texts.iter().map(|text| text.0.clone()).collect();
        let tools = [patterns(&self.tools.read), patterns(&self.tools.write), patterns(&self.tools.irreversible)];
        McpServer::new(self.name.clone(), self.url.as_deref().and_then(endpoint), self.risk, tools)
    }
}

/// Host or address, and port, of an HTTP URL.
fn endpoint(url: &str) -> Option<(At, u16)> {
    let (rest, default) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => (rest, 443),
        (_, Some(rest)) => (rest, 80),
        _ => return None,
    };
    let authority = rest.split(['/', '?', '#']).next()?;
    let (host, after) = match authority.strip_prefix('[').map(|rest| rest.split_once(']')) {
        Some(bracketed) => bracketed?,
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let port = match after.strip_prefix(':') {
        // No sign, no other digits than these.
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse().ok().filter(|port| *port > 0)?
        }
        None if after.is_empty() => default,
        _ => return None,
    };
    let at = if authority.starts_with('[') {
        At::Address(host.parse::<Ipv6Addr>().ok()?.to_canonical())
    } else if let Ok(address) = host.parse::<Ipv4Addr>() {
        At::Address(address.into())
    } else {
        At::Name(host.parse().ok()?)
    };
    let nowhere = matches!(&at, At::Address(address) if address.is_unspecified() || address.is_multicast());
    (!nowhere).then_some((at, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_at_a_name_or_an_address_and_a_port() {
        for (url, host, port) in [
            ("https://crm.example/mcp", "crm.example", 443),
            ("http://crm.example", "crm.example", 80),
            ("https://crm.example:8443?x=1", "crm.example", 8443),
            ("http://localhost:3001/mcp", "localhost", 3001),
            ("http://127.0.0.1:3001/mcp", "127.0.0.1", 3001),
            ("https://203.0.113.7#x", "203.0.113.7", 443),
            ("http://[2001:db8::5]:80/mcp", "2001:db8::5", 80),
            ("https://[::1]", "::1", 443),
            // Its own form, and no other way to write it.
            ("https://[::ffff:127.0.0.1]:1/", "127.0.0.1", 1),
        ] {
            let at = host.parse().map_or_else(|_| At::Name(host.parse().unwrap()), At::Address);
            assert_eq!(endpoint(url), Some((at, port)), "{url}");
        }
        for url in [
            "crm.example",
            "ws://crm.example",
            "https://",
            "https:///mcp",
            "https://CRM.example",
            "https://user@crm.example",
            "https://crm.example:443@other.example",
            "https://crm.example\\@other.example",
            "https://crm.example:",
            "https://crm.example:+1",
            "https://crm.example:0",
            "https://crm.example:65536",
            "https://crm.example:443:443",
            "https://127.1/",
            "https://2130706433/",
            "https://0x7f.0.0.1/",
            "https://0x7f000001/",
            "https://0177.0.0.1/",
            "https://[::1",
            "https://[::1]x",
            "https://[127.0.0.1]",
            "https://[fe80::1%25eth0]",
            "https://::1/",
            "https://0.0.0.0/",
            "https://[::]/",
            "https://[::ffff:0.0.0.0]/",
            "https://224.0.0.1/",
        ] {
            assert_eq!(endpoint(url), None, "{url}");
        }
    }
}
