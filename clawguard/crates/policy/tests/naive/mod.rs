//! Contracts read a second time, from their text alone and as naively as possible: nothing here is the crate's own.
#![allow(dead_code, reason = "each test uses its part")]

pub(crate) mod generate;

use std::net::IpAddr;

use claw::Value;

/// What the host says, in words.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) hosts: Vec<(&'static str, &'static str)>,
    pub(crate) servers: Vec<Server>,
}

#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) name: &'static str,
    pub(crate) host: &'static str,
    pub(crate) risk: &'static str,
    pub(crate) read: Vec<&'static str>,
    pub(crate) write: Vec<&'static str>,
    pub(crate) irreversible: Vec<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Answer {
    No,
    Held,
    Yes,
}

fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, after)) => {
            assert_eq!(after, "");
            text.len() >= before.len() && text.as_bytes()[..before.len()] == *before.as_bytes()
        }
    }
}

fn list(value: Option<&Value>) -> Vec<&Value> {
    match value {
        Some(Value::Array(items)) => items.iter().collect(),
        _ => Vec::new(),
    }
}

fn texts(value: Option<&Value>) -> Vec<&str> {
    list(value).into_iter().map(|item| item.as_str().unwrap()).collect()
}

fn at<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, name| value.get(name))
}

/// All pairs of server and tool patterns of a list, in any form.
fn pairs(value: Option<&Value>, mcp: bool, denied: bool) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for item in list(value) {
        if let Some(text) = item.as_str() {
            let dotted = text.strip_prefix("mcp.").filter(|_| mcp).and_then(|rest| rest.split_once('.'));
            if let Some((server, tool)) = dotted.or_else(|| text.split_once('/')) {
                found.push((server.to_owned(), tool.to_owned()));
            } else if text == "*" && denied {
                found.push(("*".to_owned(), "*".to_owned()));
            }
        } else if item.get("kind").and_then(Value::as_str) == Some("mcp") {
            let server = item.get("server").and_then(Value::as_str).unwrap();
            found.extend(texts(item.get("tools")).into_iter().map(|tool| (server.to_owned(), tool.to_owned())));
        }
    }
    found
}

fn class(server: &Server, tool: &str) -> &'static str {
    for (patterns, class) in [(&server.irreversible, "irreversible"), (&server.write, "write"), (&server.read, "read")]
    {
        if patterns.iter().any(|pattern| glob(pattern, tool)) {
            return class;
        }
    }
    for (words, class) in [
        ("get list search read find describe fetch lookup query count show view status", "read"),
        ("create update add set put post comment edit move rename assign upload write", "write"),
    ] {
        for word in words.split(' ') {
            let same = tool.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
            let rest: Vec<char> = tool.chars().skip(word.len()).take(2).collect();
            let upper = tool.get(..word.len()).is_some_and(|start| start.ends_with(|c: char| c.is_uppercase()));
            let ends = match rest[..] {
                [] | ['_' | '-' | '.', ..] => true,
                // camelCase: a capital after a small letter, or the last one of several before a small letter.
                [c, ref more @ ..] => {
                    c.is_uppercase() && (!upper || more.first().is_some_and(|next| next.is_lowercase()))
                }
            };
            if same && ends && !camel_inside(&tool[..word.len()]) {
                return class;
            }
        }
    }
    "irreversible"
}

/// `gEt` is no one word.
fn camel_inside(word: &str) -> bool {
    let chars: Vec<char> = word.chars().collect();
    chars.windows(2).any(|two| two[0].is_lowercase() && two[1].is_uppercase())
        || chars.windows(3).any(|three| three[..2].iter().all(|c| c.is_uppercase()) && three[2].is_lowercase())
}

/// May the agent call the tool?
pub(crate) fn may_call(payload: &Value, facts: &Facts, server: &str, tool: &str) -> Answer {
    let guard = at(payload, &["metadata", "clawguard.v1"]);
    let (allow, deny, approve, free) = if payload.get("policy_version").is_some() {
        let lines = |name| pairs(guard.and_then(|guard| at(guard, &["tools", name])), false, false);
        (lines("allow"), lines("deny"), lines("approve"), lines("no_approval"))
    } else if payload.get("tools").is_some() || payload.get("token_binding").is_some() {
        let lines = |name, denied| pairs(at(payload, &["tools", name]), true, denied);
        (lines("allow", false), lines("deny", true), Vec::new(), Vec::new())
    } else {
        let lines = |name| pairs(payload.get(name), true, true);
        (lines("allowed_tools"), lines("denied_tools"), Vec::new(), Vec::new())
    };
    let hit = |pairs: &[(String, String)]| pairs.iter().any(|(s, t)| (s == "*" || s == server) && glob(t, tool));
    let by_name = |pairs: &[(String, String)]| pairs.iter().any(|(s, t)| !t.contains('*') && s == server && t == tool);
    if hit(&deny) {
        return Answer::No;
    }
    let Some(known) = facts.servers.iter().find(|known| known.name == server) else { return Answer::No };
    if !hit(&allow) && !hit(&approve) {
        return Answer::No;
    }
    let readonly = at(payload, &["tools", "profile"]).and_then(Value::as_str) == Some("readonly");
    if readonly && class(known, tool) != "read" {
        return Answer::No;
    }
    let group_is_high = |group: &&Value| {
        group.get("risk").and_then(Value::as_str) == Some("high") && hit(&pairs(group.get("tools"), false, false))
    };
    let high = known.risk == "high" || list(guard.and_then(|guard| guard.get("groups"))).iter().any(group_is_high);
    if high && !by_name(&allow) && !by_name(&approve) {
        return Answer::No;
    }
    if hit(&approve) || (high && !by_name(&free)) { Answer::Held } else { Answer::Yes }
}

fn bits(ip: IpAddr) -> Vec<bool> {
    let bytes = match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1 == 1)).collect()
}

/// The prefix's length, if the address lies in the range.
fn inside(ip: IpAddr, range: &str) -> Option<usize> {
    let (first, length) = range.split_once('/').unwrap();
    let (first, length): (IpAddr, usize) = (first.parse().unwrap(), length.parse().unwrap());
    (ip.is_ipv4() == first.is_ipv4() && bits(ip)[..length] == bits(first)[..length]).then_some(length)
}

/// The special ranges that the generated contracts come near.
fn special(ip: IpAddr) -> Option<usize> {
    ["10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "169.254.169.254/32"]
        .iter()
        .filter_map(|range| inside(ip, range))
        .max()
}

fn host_is(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(suffix) => name.ends_with(suffix) && name != &suffix[1..],
        None => pattern == name,
    }
}

/// Whether a pattern that stands for the same name comes before the other.
fn narrower(one: &str, other: &str) -> bool {
    other.starts_with('*') && (!one.starts_with('*') || one.len() > other.len())
}

/// How a name may be called for at a port: by TCP, by UDP, and whether TLS is judged.
pub(crate) fn may_call_for(payload: &Value, facts: &Facts, name: &str, port: u16) -> Option<(bool, bool, bool)> {
    payload.get("policy_version")?;
    let address = facts.hosts.iter().find(|(host, _)| *host == name).map(|(_, ip)| ip.parse::<IpAddr>().unwrap());
    if address.is_some_and(|ip| tools_close(payload, facts, ip, port)) {
        return None;
    }
    let egress = list(at(payload, &["metadata", "clawguard.v1", "egress"]));
    let host = |entry: &Value| entry.get("host").and_then(Value::as_str).map(str::to_owned);
    let about: Vec<String> = egress.iter().filter_map(|entry| host(entry)).filter(|p| host_is(p, name)).collect();
    let Some(decides) = about.iter().find(|one| about.iter().all(|other| !narrower(other, one))) else {
        let listed = texts(payload.get("egress_allowlist")).iter().any(|pattern| host_is(pattern, name));
        return (listed && port == 443).then_some((true, false, true));
    };
    // Two that do not agree on TLS are refused; none of them asks for it.
    let (mut found, mut plain) = (None, false);
    for entry in egress.iter().filter(|entry| host(entry).as_ref() == Some(decides)) {
        let ports = list(entry.get("ports"));
        let fits = if ports.is_empty() { port == 443 } else { ports.contains(&&Value::Number(f64::from(port))) };
        if fits {
            let tcp = entry.get("protocol").and_then(Value::as_str) != Some("udp");
            let udp = !tcp || entry.get("quic") == Some(&Value::Bool(true));
            plain |= tcp && entry.get("tls") == Some(&Value::Bool(false));
            let (t, u) = found.unwrap_or((false, false));
            found = Some((t || tcp, u || udp));
        }
    }
    found.map(|(tcp, udp)| (tcp, udp, tcp && !plain))
}

/// May the agent send to the address?
pub(crate) fn may_reach(payload: &Value, facts: &Facts, ip: IpAddr, port: u16, protocol: &str) -> bool {
    if payload.get("policy_version").is_none() {
        return false;
    }
    let guard = at(payload, &["metadata", "clawguard.v1"]);
    let egress = list(guard.and_then(|guard| guard.get("egress")));
    let named: Vec<&str> = egress.iter().filter_map(|entry| entry.get("host").and_then(Value::as_str)).collect();
    let names: Vec<&str> =
        facts.hosts.iter().filter(|(_, a)| a.parse::<IpAddr>().unwrap() == ip).map(|(name, _)| *name).collect();
    let opens = |entry: &Value| {
        let ports = list(entry.get("ports"));
        let port_fits = if ports.is_empty() {
            port == 443
        } else {
            ports.iter().any(|number| **number == Value::Number(f64::from(port)))
        };
        let by = entry.get("protocol").and_then(Value::as_str).unwrap_or("tcp");
        port_fits && (by == protocol || (entry.get("quic") == Some(&Value::Bool(true)) && protocol == "udp"))
    };
    let by_host = |pattern: &str| {
        special(ip).is_none()
            && names.iter().any(|name| {
                let spoken_for = named.iter().any(|other| narrower(other, pattern) && host_is(other, name));
                host_is(pattern, name) && !spoken_for && !tools_close(payload, facts, ip, port)
            })
    };
    let mut by_range = false;
    for entry in egress.iter().filter(|entry| opens(entry)) {
        if entry.get("host").and_then(Value::as_str).is_some_and(by_host) {
            return true;
        }
        if let Some(length) = entry.get("cidr").and_then(Value::as_str).and_then(|range| inside(ip, range)) {
            if length == 32 {
                if tools_close(payload, facts, ip, port) {
                    continue;
                }
                return true;
            }
            by_range |= length >= special(ip).unwrap_or(0);
        }
    }
    // What egress speaks about, egress decides.
    let spoken = |pattern: &str| {
        named.iter().any(|other| *other == pattern || (other.starts_with('*') && host_is(other, pattern)))
    };
    let silent = |name: &&&str| !named.iter().any(|other| host_is(other, name));
    for pattern in texts(payload.get("egress_allowlist")) {
        let mut hosts = names.iter().filter(silent).filter(|name| host_is(pattern, name));
        let tls = port == 443 && protocol == "tcp" && special(ip).is_none();
        if tls && !spoken(pattern) && hosts.next().is_some() && !tools_close(payload, facts, ip, port) {
            return true;
        }
    }
    // A range opens no model's address, and no MCP server's: those are named, or not opened.
    let model = names.contains(&"api.openai.com");
    let server = port == 443 && (servers_at(facts, ip).next().is_some() || tools_close(payload, facts, ip, port));
    by_range && !model && !server
}

fn servers_at(facts: &Facts, ip: IpAddr) -> impl Iterator<Item = &Server> {
    facts.servers.iter().filter(move |server| addresses(facts, server.host).contains(&ip))
}

fn addresses(facts: &Facts, host: &str) -> Vec<IpAddr> {
    let fixed = facts.hosts.iter().filter(|(name, _)| *name == host).map(|(_, address)| address.parse().unwrap());
    fixed.chain(host.parse()).collect()
}

/// Whether what a contract says of MCP leaves the gateway as the only way to what is at a place.
fn tools_close(payload: &Value, facts: &Facts, ip: IpAddr, port: u16) -> bool {
    let guard = at(payload, &["metadata", "clawguard.v1"]);
    let says = ["tools", "mcp", "data_classes"].iter().any(|name| guard.and_then(|guard| guard.get(name)).is_some());
    let near = |other: &IpAddr| *other == ip || (other.is_loopback() && ip.is_loopback());
    says && port == 443 && facts.servers.iter().any(|server| addresses(facts, server.host).iter().any(near))
}

/// May what is no tool pass? The name is a resource's or a prompt's; without one the list of them is meant.
pub(crate) fn may_have(payload: &Value, facts: &Facts, server: &str, member: &str, name: Option<&str>) -> bool {
    let guard = at(payload, &["metadata", "clawguard.v1"]);
    let Some(known) = facts.servers.iter().find(|known| known.name == server) else { return false };
    let about = |text: &&str| text.starts_with("*/") || text.split('/').next() == Some(server);
    let risky = |group: &&Value| {
        group.get("risk").and_then(Value::as_str) == Some("high") && texts(group.get("tools")).iter().any(about)
    };
    let high = known.risk == "high" || list(guard.and_then(|guard| guard.get("groups"))).iter().any(risky);
    let fits = |whose: &str| whose == server || (whose == "*" && !high);
    texts(guard.and_then(|guard| at(guard, &["mcp", member]))).into_iter().any(|line| {
        let (whose, which) = line.split_once('/').unwrap_or((line, ""));
        let named = match name {
            None => true,
            Some(name) if member == "resources" && which.len() > 1 && which.ends_with('*') => {
                let mut plain = name.to_owned();
                for _ in 0..5 {
                    plain = plain.to_lowercase().replace("%25", "%").replace("%2e", ".").replace("%2f", "/");
                }
                let dots = ["/./", "/../", "?../"].iter().any(|dots| format!("{plain}/").contains(dots));
                glob(which, name) && !dots && name.chars().all(|c| ('!'..='~').contains(&c))
            }
            Some(name) => glob(which, name),
        };
        fits(whose) && named
    })
}
