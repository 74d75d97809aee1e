//! Contracts, hosts and questions at random, near enough to each other to meet.

use std::collections::BTreeSet;

use policy::{
    HostFacts,
    group::{Class, Risk},
    host::{At, McpServer},
    mcp::What,
};
use proptest::{option, prelude::*, sample::select};
use serde_json::{Value, json};

use super::{Facts, Server};

pub(crate) const TOOLS: [&str; 12] =
    ["get_a", "getA", "GETa", "get_", "delete_a", "users.read", "mail.send", "update_x", "listing", "a/b", "", "GET_A"];
pub(crate) const SERVERS: [&str; 4] = ["crm", "graph", "local", "ghost"];
pub(crate) const URIS: [&str; 12] = [
    "file:///srv/a.md",
    "file:///srv/",
    "file:///srv/../etc/x",
    "file:///srv/%2e%2E/x",
    "file:///srv/%252e%252e%252fx",
    "file:///srv/..%2fetc",
    "file:///srv/./x",
    "file:///srv/a..b",
    "file:///srv/a?../x",
    "file:///srv/\u{e9}",
    "note:1",
    "",
];
/// What is no tool, resource and prompt.
pub(crate) const WORDS: [(&str, What<'_>); 7] = [
    ("completion", What::Completion),
    ("sampling", What::Sampling),
    ("elicitation", What::Elicitation),
    ("elicitation_url", What::ElicitationUrl),
    ("roots", What::Roots),
    ("tasks", What::Tasks),
    ("logging", What::Logging),
];
pub(crate) const ADDRESSES: [&str; 13] = [
    "203.0.113.1",
    "203.0.113.2",
    "203.0.113.3",
    "203.0.113.4",
    "203.0.113.66",
    "203.0.113.200",
    "198.51.100.7",
    "198.51.100.8",
    "10.0.0.1",
    "169.254.169.254",
    "2001:db8::5",
    "127.0.0.1",
    "127.0.0.9",
];
/// Names to ask for: the hosts', and some that have no fixed address.
pub(crate) const NAMES: [&str; 14] = [
    "a.test",
    "x.a.test",
    "y.x.a.test",
    "b.test",
    "api.openai.com",
    "crm.mcp",
    "graph.mcp",
    "inside.test",
    "six.test",
    "far.test",
    "far.a.test",
    "far.x.a.test",
    "far.mcp",
    "far.example",
];
const HOSTS: [(&str, &str); 9] = [
    ("a.test", "203.0.113.1"),
    ("x.a.test", "203.0.113.2"),
    ("y.x.a.test", "203.0.113.3"),
    ("b.test", "203.0.113.4"),
    ("api.openai.com", "203.0.113.66"),
    ("crm.mcp", "198.51.100.7"),
    ("graph.mcp", "198.51.100.8"),
    ("inside.test", "10.0.0.1"),
    ("six.test", "2001:db8::5"),
];

impl Facts {
    /// The same in the crate's words.
    pub(crate) fn host(&self) -> HostFacts {
        let name = |server: &Server| At::Name(server.host.parse().unwrap());
        let server = |server: &Server| {
            let patterns = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
            McpServer {
                name: server.name.into(),
                endpoint: Some((server.host.parse().map_or_else(|_| name(server), At::Address), 443)),
                risk: server.risk.parse::<Risk>().unwrap(),
                class: Class::Irreversible,
                read: patterns(&server.read),
                write: patterns(&server.write),
                irreversible: patterns(&server.irreversible),
            }
        };
        HostFacts {
            hosts: self.hosts.iter().map(|(n, a)| (n.parse().unwrap(), BTreeSet::from([a.parse().unwrap()]))).collect(),
            mcp_servers: self.servers.iter().map(server).collect(),
            ..HostFacts::default()
        }
    }
}

fn names() -> impl Strategy<Value = &'static str> {
    select(&["get_a", "get_*", "*", "users.read", "users.*", "delete_a", "update_x", "getA", "mail.*", "GET*"][..])
}

fn some(names: impl Strategy<Value = &'static str>) -> impl Strategy<Value = Vec<&'static str>> {
    prop::collection::vec(names, 0..2)
}

pub(crate) fn facts() -> impl Strategy<Value = Facts> {
    let server = |name, host| {
        (select(&["low", "medium", "high"][..]), some(names()), some(names()), some(names()))
            .prop_map(move |(risk, read, write, irreversible)| Server { name, host, risk, read, write, irreversible })
    };
    (server("crm", "crm.mcp"), server("graph", "graph.mcp"), server("local", "127.0.0.1"))
        .prop_map(|(crm, graph, local)| Facts { hosts: HOSTS.to_vec(), servers: vec![crm, graph, local] })
}

fn pattern() -> impl Strategy<Value = String> {
    (select(&["crm", "graph", "local", "ghost", "*", "crm"][..]), names())
        .prop_map(|(server, tool)| format!("{server}/{tool}"))
}

fn patterns() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(pattern(), 0..4)
}

/// Without the members that are not there.
fn members(members: Vec<(&str, Option<Value>)>) -> Value {
    Value::Object(members.into_iter().filter_map(|(name, value)| Some((name.into(), value?))).collect())
}

fn tools() -> impl Strategy<Value = Value> {
    let exact = (select(&["crm", "graph"][..]), select(&["get_a", "users.read", "delete_a"][..]))
        .prop_map(|(server, tool)| format!("{server}/{tool}"));
    (
        option::of(patterns()),
        option::of(patterns()),
        option::of(patterns()),
        option::of(prop::collection::vec(exact, 0..3)),
    )
        .prop_map(|(allow, deny, approve, free)| {
            members(vec![
                ("allow", allow.map(Value::from)),
                ("deny", deny.map(Value::from)),
                ("approve", approve.map(Value::from)),
                ("no_approval", free.map(Value::from)),
            ])
        })
}

fn mcp() -> impl Strategy<Value = Value> {
    let server = || select(&["crm", "graph", "local", "ghost", "*"][..]);
    let uri = select(&["*", "file:*", "file:///srv/*", "file:///srv/a.md", "file:///srv/../etc/x", "note:1"][..]);
    let resource = (server(), uri).prop_map(|(server, uri)| format!("{server}/{uri}"));
    let words = prop::collection::vec((select(WORDS.map(|(word, _)| word).to_vec()), server()), 0..8);
    (option::of(prop::collection::vec(resource, 0..4)), option::of(patterns()), words).prop_map(
        |(resources, prompts, words)| {
            let mut found =
                members(vec![("resources", resources.map(Value::from)), ("prompts", prompts.map(Value::from))]);
            for (word, server) in words {
                let list = found.as_object_mut().unwrap().entry(word).or_insert_with(|| json!([]));
                list.as_array_mut().unwrap().push(server.into());
            }
            found
        },
    )
}

fn host_pattern() -> impl Strategy<Value = &'static str> {
    let all = [
        "a.test",
        "x.a.test",
        "y.x.a.test",
        "b.test",
        "api.openai.com",
        "crm.mcp",
        "graph.mcp",
        "inside.test",
        "six.test",
        "*.a.test",
        "*.x.a.test",
        "*.test",
        "*.mcp",
    ];
    select(all.to_vec())
}

fn range() -> impl Strategy<Value = &'static str> {
    let all = [
        "203.0.113.0/24",
        "203.0.113.0/30",
        "203.0.113.2/32",
        "203.0.113.66/32",
        "10.0.0.0/8",
        "10.0.0.1/32",
        "0.0.0.0/0",
        "169.254.0.0/16",
        "2001:db8::/32",
        "::/0",
        "127.0.0.0/8",
        "127.0.0.0/29",
        "127.0.0.1/32",
        "127.0.0.9/32",
    ];
    select(all.to_vec())
}

fn ports() -> impl Strategy<Value = Vec<u16>> {
    prop::sample::subsequence(vec![80, 443, 8443], 1..3)
}

fn egress() -> impl Strategy<Value = Value> {
    let plain = prop::bool::weighted(0.1);
    let host = (host_pattern(), option::of(ports()), any::<bool>(), select(&["tcp", "tcp", "udp"][..]), plain)
        .prop_map(|(host, ports, quic, protocol, plain)| {
            members(vec![
                ("host", Some(host.into())),
                ("ports", ports.map(Value::from)),
                ("quic", (quic && protocol == "tcp").then_some(true.into())),
                ("protocol", Some(protocol.into())),
                ("tls", (plain && protocol == "tcp").then_some(false.into())),
            ])
        });
    let range = (range(), ports(), select(&["tcp", "udp"][..]))
        .prop_map(|(cidr, ports, protocol)| json!({ "cidr": cidr, "ports": ports, "protocol": protocol }));
    prop_oneof![2 => host, 1 => range]
}

fn groups() -> impl Strategy<Value = Option<Value>> {
    let group = (option::of(select(&["low", "medium", "high"][..])), patterns()).prop_map(|(risk, tools)| {
        members(vec![("name", Some("g".into())), ("risk", risk.map(Value::from)), ("tools", Some(tools.into()))])
    });
    option::of(group.prop_map(|group| json!([group])))
}

/// A contract of form 1.
pub(crate) fn registered() -> impl Strategy<Value = Value> {
    let allowlist = prop_oneof![
        4 => Just(None),
        1 => Just(Some(json!(["*.test", "*.mcp", "api.openai.com", "0.0.0.0/0", "::/0"]))),
        2 => prop::collection::vec(host_pattern(), 0..4).prop_map(|hosts| Some(hosts.into())),
    ];
    let data = prop::bool::weighted(0.1).prop_map(|there| there.then(|| json!({ "deny": ["secrets"] })));
    let speaks = (option::of(tools()), option::weighted(0.3, mcp()), data);
    (allowlist, option::of(prop::collection::vec(egress(), 0..5)), speaks, groups()).prop_map(
        |(allowlist, egress, (tools, mcp, data), groups)| {
            let guard = members(vec![
                ("egress", egress.map(Value::from)),
                ("tools", tools),
                ("mcp", mcp),
                ("data_classes", data),
                ("groups", groups),
            ]);
            members(vec![
                ("policy_version", Some("1".into())),
                ("policy_id", Some("p".into())),
                ("issuer_did", Some("did:x".into())),
                ("egress_allowlist", allowlist),
                ("metadata", Some(json!({ "clawguard.v1": guard }))),
            ])
        },
    )
}

/// A contract of form 2.
pub(crate) fn listed() -> impl Strategy<Value = Value> {
    let entry = || {
        (select(&["crm", "graph", "ghost", "*"][..]), prop::collection::vec(names(), 0..3))
            .prop_map(|(server, tools)| json!({ "kind": "mcp", "server": server, "tools": tools }))
    };
    let other = Just(json!({ "kind": "http", "server": "crm", "tools": ["*"] }));
    let allowed = option::of(prop::collection::vec(prop_oneof![5 => entry(), 1 => other], 0..4));
    let denied = option::of(prop::collection::vec(entry(), 0..3));
    (allowed, denied, any::<bool>()).prop_map(|(allowed, denied, receipts)| {
        members(vec![
            ("wpc_version", Some("v1".into())),
            ("policy_name", Some("p".into())),
            ("allowed_tools", allowed.map(Value::from)),
            ("denied_tools", denied.map(Value::from)),
            ("model_egress", Some(json!({ "require_proxy_receipts": receipts }))),
        ])
    })
}

/// A contract of form 3.
pub(crate) fn profiled() -> impl Strategy<Value = Value> {
    let line = || {
        let dotted = (select(&["crm", "graph", "ghost", "*"][..]), names()).prop_map(|(s, t)| format!("mcp.{s}.{t}"));
        let own = select(&["exec", "web.get", "tools.elevated.*", "*"][..]).prop_map(str::to_owned);
        prop_oneof![4 => dotted, 4 => pattern(), 1 => own]
    };
    let lines = move || option::of(prop::collection::vec(line(), 0..5));
    (option::of(select(&["readonly", "full"][..])), lines(), lines()).prop_map(|(profile, allow, deny)| {
        let tools = members(vec![
            ("profile", profile.map(Value::from)),
            ("allow", allow.map(Value::from)),
            ("deny", deny.map(Value::from)),
        ]);
        json!({ "wpc_version": "v1", "policy_name": "p", "tools": tools })
    })
}

pub(crate) fn contract() -> impl Strategy<Value = Value> {
    prop_oneof![3 => registered(), 1 => listed(), 1 => profiled()]
}

/// A contract and another that lacks some of its members and entries.
pub(crate) fn contract_and_less() -> impl Strategy<Value = (Value, Value)> {
    (contract(), prop::collection::vec(any::<usize>(), 1..4)).prop_map(|(whole, picks)| {
        let mut less = whole.clone();
        for pick in picks {
            let mut left = pick % parts(&less).max(1);
            take(&mut less, &mut left);
        }
        (whole, less)
    })
}

fn parts(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.iter().map(|item| 1 + parts(item)).sum(),
        Value::Object(members) => members.values().map(|member| 1 + parts(member)).sum(),
        _ => 0,
    }
}

/// Takes the part with this number out; answers whether it did.
fn take(value: &mut Value, left: &mut usize) -> bool {
    let here = |left: &mut usize| {
        let found = *left == 0;
        *left = left.wrapping_sub(1);
        found
    };
    match value {
        Value::Array(items) => {
            for i in 0..items.len() {
                if here(left) {
                    items.remove(i);
                    return true;
                }
                if take(&mut items[i], left) {
                    return true;
                }
            }
            false
        }
        Value::Object(members) => {
            let names: Vec<String> = members.keys().cloned().collect();
            for name in names {
                if here(left) {
                    members.remove(&name);
                    return true;
                }
                if take(&mut members[&name], left) {
                    return true;
                }
            }
            false
        }
        _ => false,
    }
}
