use std::collections::BTreeSet;

use claw::time::Instant;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    group::{Class, Risk},
    host::{At, McpServer},
};

fn facts() -> HostFacts {
    let fixed =
        [("api.openai.com", "203.0.113.66"), ("tools.example", "203.0.113.70"), ("crm.example", "203.0.113.10")];
    HostFacts {
        hosts: fixed.iter().map(|(n, a)| (n.parse().unwrap(), BTreeSet::from([a.parse().unwrap()]))).collect(),
        mcp_servers: vec![McpServer {
            name: "tools".into(),
            endpoint: Some((At::Name("tools.example".parse().unwrap()), 443)),
            risk: Risk::High,
            class: Class::Write,
            read: Vec::new(),
            write: Vec::new(),
            irreversible: Vec::new(),
        }],
        model_hosts: ["*.models.example".parse().unwrap()].into(),
        model_places: BTreeSet::new(),
        model_gateway: false,
    }
}

fn terms() -> Terms {
    let at = |text: &str| Instant::parse(text).unwrap();
    Terms {
        policy_id: None,
        issuer: "did:key:REPLACE-WITH-YOURS".into(),
        now: at("2030-01-01T00:00:00Z"),
        not_after: at("2030-02-01T00:00:00Z"),
    }
}

fn host(name: &str, port: u16) -> What {
    What::Host { name: name.parse().unwrap(), protocol: Protocol::Tcp, port, tls: false, shared: false }
}

fn udp(name: &str, port: u16) -> What {
    What::Host { name: name.parse().unwrap(), protocol: Protocol::Udp, port, tls: false, shared: false }
}

fn address(addr: &str, port: u16) -> What {
    What::Address { addr: addr.parse().unwrap(), protocol: Protocol::Tcp, port }
}

fn seen(what: What) -> Observation {
    Observation { what, reason: Reason::NotInContract, count: 1 }
}

fn refused(what: What, reason: Reason) -> Observation {
    Observation { what, reason, count: 1 }
}

fn drafted(base: Option<&Value>, seen: &[Observation]) -> Draft {
    draft(base, seen, &facts(), &terms()).unwrap()
}

fn guard(draft: &Draft) -> &Value {
    &draft.payload["metadata"]["clawguard.v1"]
}

#[test]
fn hosts_get_their_ports_and_nothing_more() {
    let draft = drafted(
        None,
        &[
            seen(host("git.example", 443)),
            seen(host("git.example", 22)),
            seen(udp("video.example", 443)),
            seen(host("video.example", 443)),
            seen(udp("time.example", 123)),
            seen(What::Host {
                name: "mail.example".parse().unwrap(),
                protocol: Protocol::Tcp,
                port: 465,
                tls: true,
                shared: false,
            }),
            seen(address("198.51.100.7", 7001)),
            seen(address("2001:db8::7", 7001)),
            seen(What::Inbound { from: "203.0.113.20".parse().unwrap(), protocol: Protocol::Tcp, port: 8080 }),
        ],
    );
    assert_eq!(
        guard(&draft),
        &json!({
            "sequence": 1,
            "not_after": "2030-02-01T00:00:00.000Z",
            "egress": [
                { "host": "git.example", "ports": [443], "tls": true },
                { "host": "git.example", "ports": [22], "tls": false },
                { "host": "mail.example", "ports": [465], "tls": true },
                { "host": "time.example", "ports": [123], "protocol": "udp" },
                { "host": "video.example", "ports": [443], "tls": true, "quic": true },
                { "cidr": "198.51.100.7/32", "ports": [7001], "protocol": "tcp" },
                { "cidr": "2001:db8::7/128", "ports": [7001], "protocol": "tcp" },
            ],
            "listen": [{ "cidr": "203.0.113.20/32", "ports": [8080], "protocol": "tcp" }],
        })
    );
    assert_eq!((draft.added.len(), draft.left_out.len()), (9, 0));
    let plain = draft.added.iter().find(|added| added.what == "git.example:22/tcp").unwrap();
    assert!(plain.review[0].starts_with("tls: false"), "{plain:?}");
}

#[test]
fn what_belongs_elsewhere_or_nowhere_is_left_out_with_why() {
    let word = |text: &str| What::Other(text.into());
    for (observation, why) in [
        (seen(host("api.openai.com", 443)), "model proxy"),
        (seen(host("eu.models.example", 443)), "model proxy"),
        (seen(address("203.0.113.66", 8443)), "model proxy"),
        (refused(address("127.0.0.1", 11434), Reason::Loopback), "model proxy"),
        (refused(address("10.1.2.3", 11434), Reason::SpecialRange), "model proxy"),
        (seen(host("tools.example", 443)), "MCP gateway"),
        (seen(address("203.0.113.70", 443)), "MCP gateway"),
        (seen(host("dns.google", 443)), "DNS guard"),
        (seen(address("203.0.113.53", 53)), "DNS guard"),
        (seen(udp("quad.example", 853)), "DNS guard"),
        (refused(address("169.254.169.254", 80), Reason::Metadata), "by hand"),
        (refused(address("169.254.169.254", 80), Reason::NoContract), "by hand"),
        (refused(address("239.1.2.3", 1900), Reason::SpecialRange), "no one host's"),
        (refused(address("255.255.255.255", 67), Reason::SpecialRange), "no one host's"),
        (refused(address("::", 80), Reason::SpecialRange), "no one host's"),
        (refused(word("raw protocol 1"), Reason::RawSocket), "no contract"),
        (refused(word("level 0 option 4"), Reason::SocketOption), "no contract"),
        (refused(word("other protocol 136"), Reason::Protocol), "TCP and UDP"),
        (refused(word("any"), Reason::ForeignSocket), "outside the job"),
        (seen(word("any")), "no rule can name it"),
        (seen(What::Name("seen.example".into())), "asked for"),
        (seen(What::Name("Not A Name".into())), "no host name"),
        (seen(What::Name("api.openai.com".into())), "model proxy"),
        (refused(host("crm.example", 443), Reason::Ech), "ech: true"),
        (
            refused(
                What::Inbound { from: "203.0.113.20".parse().unwrap(), protocol: Protocol::Udp, port: 0 },
                Reason::NotInContract,
            ),
            "not known",
        ),
    ] {
        let draft = drafted(None, std::slice::from_ref(&observation));
        assert_eq!(draft.added, [], "{observation:?}");
        let [left_out] = &draft.left_out[..] else { panic!("{observation:?}: {:?}", draft.left_out) };
        assert!(left_out.why.contains(why), "{observation:?}: {}", left_out.why);
        assert_eq!(left_out.reason, observation.reason.label());
        assert_eq!(guard(&draft).get("egress"), None, "{observation:?}");
        assert_eq!(guard(&draft).get("listen"), None, "{observation:?}");
    }
}

#[test]
fn private_addresses_are_written_one_by_one_and_marked() {
    let draft = drafted(None, &[refused(address("10.1.2.3", 5432), Reason::SpecialRange)]);
    assert_eq!(guard(&draft)["egress"], json!([{ "cidr": "10.1.2.3/32", "ports": [5432], "protocol": "tcp" }]));
    assert!(draft.added[0].review[0].contains("10.0.0.0/8"), "{:?}", draft.added);
}

#[test]
fn a_name_that_was_asked_for_is_allowed_by_what_was_sent_to_it() {
    let draft = drafted(None, &[seen(What::Name("git.example".into())), seen(host("git.example", 443))]);
    assert_eq!((draft.added.len(), draft.left_out.len()), (1, 0));
}

fn base() -> Value {
    json!({
        "policy_version": "1", "policy_id": "base", "issuer_did": "did:key:base",
        "egress_allowlist": ["crm.example", "*.shared.example", "bare.example", "*.bare.example"],
        "metadata": { "other": [1], "clawguard.v1": {
            "sequence": 4, "not_after": "2031-01-01T00:00:00Z",
            "egress": [
                { "host": "crm.example", "groups": ["crm"], "class": "read" },
                { "host": "*.shared.example", "ports": [443, 8443], "groups": ["shared"] },
            ],
        } },
    })
}

#[test]
fn the_contract_in_force_is_kept_and_added_to() {
    let draft = drafted(
        Some(&base()),
        &[
            seen(host("crm.example", 443)),
            seen(udp("crm.example", 443)),
            seen(host("one.shared.example", 22)),
            seen(host("bare.example", 22)),
            seen(host("deep.bare.example", 22)),
            seen(address("198.51.100.7", 7001)),
        ],
    );
    assert_eq!(draft.known, 1);
    assert_eq!(draft.left_out, []);
    let guard = guard(&draft);
    assert_eq!((&guard["sequence"], &guard["not_after"]), (&json!(5), &json!("2031-01-01T00:00:00Z")));
    assert_eq!(draft.payload["metadata"]["other"], json!([1]));
    assert_eq!((&draft.payload["policy_id"], &draft.payload["issuer_did"]), (&json!("base"), &json!("did:key:base")));
    let all = Compiled::of(&draft.payload, &facts()).unwrap();
    let before = Compiled::of(&base(), &facts()).unwrap();
    for what in [
        host("crm.example", 443),
        host("one.shared.example", 443),
        host("one.shared.example", 8443),
        host("two.shared.example", 443),
        host("bare.example", 443),
        host("deep.bare.example", 443),
    ] {
        assert!(before.allows(&what) && all.allows(&what), "{what}");
    }
    let groups: Vec<_> = guard["egress"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["host"] == "one.shared.example")
        .map(|entry| &entry["groups"])
        .collect();
    assert_eq!(groups, [&json!(["shared"]); 2]);
}

#[test]
fn a_contract_that_has_ended_gets_a_new_end() {
    let mut base = base();
    base["metadata"]["clawguard.v1"]["not_after"] = json!("2029-01-01T00:00:00Z");
    let draft = drafted(Some(&base), &[refused(host("crm.example", 443), Reason::Expired)]);
    assert_eq!(guard(&draft)["not_after"], json!("2030-02-01T00:00:00.000Z"));
    assert_eq!((draft.known, draft.left_out.len()), (1, 0));
}

#[test]
fn of_too_many_the_least_used_are_left_out() {
    let all: Vec<Observation> = (0..MOST + 3)
        .map(|n| Observation { count: n as u64 + 1, ..seen(host(&format!("h{n:04}.example"), 443)) })
        .collect();
    let draft = drafted(None, &all);
    assert_eq!(draft.added.len(), MOST);
    let left_out: Vec<&str> = draft.left_out.iter().map(|left| left.what.as_str()).collect();
    assert_eq!(left_out, ["h0000.example:443/tcp", "h0001.example:443/tcp", "h0002.example:443/tcp"]);
}

#[test]
fn what_does_not_go_together_is_left_out_alone() {
    // The one address is the other name's too, where TLS is demanded.
    let mut facts = facts();
    facts.hosts.insert("twin.example".parse().unwrap(), BTreeSet::from(["203.0.113.10".parse().unwrap()]));
    let plain = What::Host {
        name: "twin.example".parse().unwrap(),
        protocol: Protocol::Tcp,
        port: 8443,
        tls: true,
        shared: false,
    };
    let all = [seen(plain), seen(host("crm.example", 8443)), seen(host("git.example", 443))];
    let draft = draft(None, &all, &facts, &terms()).unwrap();
    assert_eq!((draft.added.len(), draft.left_out.len()), (2, 1));
    assert!(draft.left_out[0].why.contains("go together"), "{:?}", draft.left_out);
}

/// Something that was seen, and whether a draft must allow it.
fn anything() -> impl Strategy<Value = (Observation, bool)> {
    let ports = prop::sample::select(vec![22_u16, 443, 853, 5432, 8443, 11434]);
    let protocols = prop::sample::select(vec![Protocol::Tcp, Protocol::Udp]);
    let names = prop::sample::select(vec![
        ("git.example", true),
        ("crm.example", true),
        ("one.shared.example", true),
        ("deep.bare.example", true),
        ("bare.example", true),
        ("api.openai.com", false),
        ("tools.example", true),
        ("dns.google", false),
    ]);
    let addresses = prop::sample::select(vec![
        ("198.51.100.7", true),
        ("203.0.113.10", true),
        ("203.0.113.66", false),
        ("10.1.2.3", true),
        ("127.0.0.1", true),
        ("169.254.169.254", false),
        ("2001:db8::7", true),
        ("ff02::fb", false),
    ]);
    let reasons = prop::sample::select(vec![
        (Reason::NotInContract, true),
        (Reason::NoContract, true),
        (Reason::Expired, true),
        (Reason::SniMismatch, true),
        (Reason::ModelDirect, false),
        (Reason::RawSocket, false),
    ]);
    let what = (0..3_u8, names, addresses, ports, protocols, any::<(bool, bool)>()).prop_map(
        |(kind, (name, named), (addr, open), port, protocol, (tls, shared))| {
            let other = port != 853;
            match kind {
                0 => {
                    let server = name == "tools.example";
                    let tls = tls && protocol == Protocol::Tcp;
                    (What::Host { name: name.parse().unwrap(), protocol, port, tls, shared }, named && other && !server)
                }
                1 => {
                    let local = protocol == Protocol::Tcp && port == 11434 && ["10.1.2.3", "127.0.0.1"].contains(&addr);
                    (What::Address { addr: addr.parse().unwrap(), protocol, port }, open && other && !local)
                }
                _ => (What::Inbound { from: addr.parse().unwrap(), protocol, port }, true),
            }
        },
    );
    (what, reasons, 1_u64..9)
        .prop_map(|((what, allowed), (reason, rules), count)| (Observation { what, reason, count }, allowed && rules))
}

proptest! {
    /// The contract allows everything that was seen and is not told to be left out, and leaves out nothing else.
    #[test]
    fn what_is_written_allows_what_was_seen(all in prop::collection::vec(anything(), 0..24), on_base: bool) {
        // At [hosts]' address a flow by address and one by name may disagree on TLS: that is told, and is not asked here.
        let (contract, facts) = (base(), HostFacts { hosts: facts().hosts.into_iter().filter(|(name, _)| name.as_str() != "crm.example").collect(), ..facts() });
        let observations: Vec<Observation> = all.iter().map(|(observation, _)| observation.clone()).collect();
        let draft = draft(on_base.then_some(&contract), &observations, &facts, &terms()).unwrap();
        let compiled = Compiled::of(&draft.payload, &facts).unwrap();
        let left_out = |what: &What| draft.left_out.iter().any(|left| left.what == what.to_string());
        for (Observation { what, reason, .. }, must) in &all {
            prop_assert!(left_out(what) || compiled.allows(what), "{what:?}");
            if *must {
                prop_assert!(compiled.allows(what), "{what:?} {reason:?}: {:?}", draft.left_out);
            }
        }
        // Nothing that was allowed before is taken away, no wildcard is added, and no address but those that were seen is opened.
        let before = if on_base { contract.clone() } else { json!({ "metadata": { "clawguard.v1": {} } }) };
        let entries = |payload: &Value| payload["metadata"]["clawguard.v1"]["egress"].as_array().cloned().unwrap_or_default();
        let (old, new) = (entries(&before), entries(&draft.payload));
        prop_assert_eq!(&new[..old.len()], &old[..]);
        for entry in &new[old.len()..] {
            let text = entry["host"].as_str().or(entry["cidr"].as_str()).unwrap();
            let exact = text.ends_with("/32") || text.ends_with("/128") || !text.contains(['*', '/']);
            prop_assert!(exact, "{entry}");
        }
        // The order in which it was seen does not matter.
        let mut turned = observations;
        turned.reverse();
        prop_assert_eq!(super::draft(on_base.then_some(&contract), &turned, &facts, &terms()).unwrap().payload, draft.payload);
    }
}
