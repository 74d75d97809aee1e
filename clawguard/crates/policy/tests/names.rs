//! What contracts compile to for names, told as promises.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{collections::BTreeSet, time::Instant};

use claw::{Hash, json, json::Limits};
use clawguard_common::{Reason, protocol, side};
use policy::{
    Contract, HostFacts, Outcome, Policy,
    compile::{Error, check, compile},
    group::{Class, Risk},
    host::{At, McpServer},
    names::NameIndex,
    net,
    sample::find,
};

const HASH: Hash = Hash([7; 32]);

fn host() -> HostFacts {
    let hosts =
        [("crm.example", "203.0.113.10"), ("a.wild.example", "203.0.113.30"), ("b.wild.example", "203.0.113.31")];
    HostFacts {
        hosts: hosts.iter().map(|(n, a)| (n.parse().unwrap(), BTreeSet::from([a.parse().unwrap()]))).collect(),
        mcp_servers: vec![McpServer {
            name: "tickets".into(),
            endpoint: Some((At::Name("tickets.example".parse().unwrap()), 443)),
            risk: Risk::Low,
            class: Class::Read,
            read: vec!["*".parse().unwrap()],
            write: Vec::new(),
            irreversible: Vec::new(),
        }],
        ..HostFacts::default()
    }
}

fn read(guard: &str) -> Contract {
    let text = format!(
        "{{\"policy_version\":\"1\",\"policy_id\":\"p\",\"issuer_did\":\"did:x\",\"metadata\":{{\"clawguard.v1\":{guard}}}}}"
    );
    Contract::read(&json::parse(text.as_bytes(), Limits { bytes: 1 << 26, depth: 32 }).unwrap()).unwrap()
}

fn policy(guard: &str) -> Policy {
    compile(&read(guard), HASH, &host()).unwrap()
}

fn egress(entries: &str) -> Policy {
    policy(&format!("{{\"egress\":[{entries}]}}"))
}

fn refused(guard: &str) -> Error {
    compile(&read(guard), HASH, &host()).unwrap_err()
}

/// The ports at which a name may be called for, and why others are denied.
fn ports(policy: &Policy, name: &str) -> (Vec<u16>, Option<Reason>) {
    let index = NameIndex::of(policy);
    let host = name.parse().unwrap();
    let found = index.rules(&host);
    (found.rules.iter().map(|rule| rule.port).collect(), found.denied)
}

fn groups(policy: &Policy, name: &str) -> Vec<String> {
    let index = NameIndex::of(policy);
    let host = name.parse().unwrap();
    let set = index.rules(&host).rules.first().unwrap().set;
    policy.sets[usize::from(set)].iter().map(ToString::to_string).collect()
}

fn in_group(policy: &Policy, name: &str, group: &str) -> bool {
    groups(policy, name).contains(&group.to_owned())
}

fn notes(guard: &str, path: &str) -> Vec<(Outcome, String)> {
    let (_, findings) = check(&read(guard), HASH, &host()).unwrap();
    findings.into_iter().filter(|f| f.path.ends_with(path)).map(|f| (f.outcome, f.note)).collect()
}

#[test]
fn a_name_without_fixed_addresses_is_opened_by_name() {
    let policy =
        egress(r#"{"host":"new.example","ports":[443,8443],"class":"read"},{"host":"u.example","protocol":"udp"}"#);
    assert_eq!(ports(&policy, "new.example"), (vec![443, 8443], None));
    assert_eq!(ports(&policy, "x.new.example"), (vec![], None));
    assert!(policy.rules.iter().all(|rule| rule.reason != Reason::Allowed) && policy.bound.is_empty());
    let [first, .., last] = &policy.names[..] else { panic!("{:?}", policy.names) };
    assert!(first.tls && first.tcp && !first.udp && !first.ech && first.number == 0);
    assert!(!last.tls && !last.tcp && last.udp && last.number == 1);
    // What only names belong to can be killed all the same.
    assert!(policy.kernel_groups.iter().any(|group| group.as_str() == "class:read"));
}

#[test]
fn a_narrower_pattern_takes_its_names_out_of_the_wider_at_all_ports() {
    let policy = egress(
        r#"{"host":"*.example","ports":[443,80,25],"tls":false},{"host":"*.wild.example","ports":[80],"tls":false},
           {"host":"a.wild.example","ports":[443,1]},{"host":"b.wild.example","protocol":"udp","ports":[53]}"#,
    );
    assert_eq!(ports(&policy, "far.example"), (vec![25, 80, 443], None));
    assert_eq!(ports(&policy, "c.wild.example"), (vec![80], Some(Reason::NotInContract)));
    assert_eq!(ports(&policy, "a.wild.example"), (vec![1, 443], Some(Reason::NotInContract)));
    assert_eq!(ports(&policy, "b.wild.example"), (vec![], Some(Reason::NotInContract)));
    let at = |to: &str, port| find(&policy, side::EGRESS, protocol::TCP, port, net::addr(to.parse().unwrap())).copied();
    // Fixed addresses follow their names.
    assert!(
        at("203.0.113.30", 443).unwrap().tls && at("203.0.113.30", 80).is_none() && at("203.0.113.30", 25).is_none()
    );
    assert!(at("203.0.113.31", 443).is_none() && !at("203.0.113.10", 443).unwrap().tls);
    let sorted: BTreeSet<_> = policy.names.iter().map(|rule| (rule.name.clone(), rule.port)).collect();
    assert!(sorted.into_iter().eq(policy.names.iter().map(|rule| (rule.name.clone(), rule.port))));
}

#[test]
fn what_one_entry_asks_of_an_address_no_other_undoes() {
    let shared = |entries: &str| {
        let mut host = host();
        host.hosts.insert("other.example".parse().unwrap(), BTreeSet::from(["203.0.113.10".parse().unwrap()]));
        compile(&read(&format!("{{\"egress\":[{entries}]}}")), HASH, &host)
    };
    for entries in [
        r#"{"host":"crm.example"},{"host":"other.example","tls":false}"#,
        r#"{"host":"crm.example","tls":false},{"host":"other.example"}"#,
        r#"{"host":"crm.example"},{"host":"crm.example","tls":false}"#,
        r#"{"host":"far.example"},{"host":"far.example","tls":false}"#,
    ] {
        assert!(matches!(shared(entries), Err(Error::Undone { .. })), "{entries}");
    }
    let both = shared(r#"{"host":"crm.example"},{"host":"other.example","ech":true}"#).unwrap();
    assert_eq!(both.bound.iter().map(|bound| bound.number).collect::<Vec<_>>(), [0, 1]);
    // The address cannot tell for which of them a ClientHello is; the name's own rule does.
    assert!(both.rules.iter().filter(|rule| rule.tls).all(|rule| rule.ech));
    assert_eq!(both.names.iter().map(|rule| rule.ech).collect::<Vec<_>>(), [false, true]);
    let groups = r#"{"host":"crm.example","groups":["a"]},{"host":"other.example","groups":["b"]}"#;
    assert!(matches!(shared(groups), Err(Error::Conflict { .. })));
    assert!(shared(r#"{"host":"crm.example"},{"host":"other.example","tls":false,"ports":[80]}"#).is_ok());
    let groups = r#"{"host":"far.example","groups":["a"]},{"host":"far.example","groups":["b"]}"#;
    assert!(matches!(shared(groups), Err(Error::Conflict { .. })));
    // A CIDR beside it opens no way without TLS.
    let cidr = shared(r#"{"cidr":"203.0.113.10/32","ports":[443]},{"host":"crm.example"}"#).unwrap();
    assert!(cidr.rules.iter().filter(|rule| rule.reason == Reason::Allowed).all(|rule| rule.tls));
}

#[test]
fn an_encrypted_client_hello_is_for_those_who_say_so() {
    let policy = egress(r#"{"host":"crm.example","ech":true},{"host":"far.example"}"#);
    assert_eq!(policy.names.iter().map(|rule| rule.ech).collect::<Vec<_>>(), [true, false]);
    assert!(policy.rules.iter().any(|rule| rule.tls && rule.ech));
    for entry in [
        r#"{"host":"crm.example","ech":true,"tls":false}"#,
        r#"{"host":"crm.example","ech":true,"protocol":"udp"}"#,
        r#"{"cidr":"203.0.113.0/24","ports":[443],"tls":true,"ech":true}"#,
    ] {
        let text = format!(
            "{{\"policy_version\":\"1\",\"policy_id\":\"p\",\"issuer_did\":\"did:x\",\
              \"metadata\":{{\"clawguard.v1\":{{\"egress\":[{entry}]}}}}}}"
        );
        let value = json::parse(text.as_bytes(), Limits { bytes: 1 << 20, depth: 32 }).unwrap();
        let error = Contract::read(&value).unwrap_err().to_string();
        assert!(error.contains("egress[0].ech"), "{entry}: {error}");
    }
}

#[test]
fn model_hosts_belong_to_the_models_wherever_they_are_named() {
    let exact = egress(r#"{"host":"api.openai.com"}"#);
    assert!(in_group(&exact, "api.openai.com", "model"));
    let below = egress(r#"{"host":"*.openai.com"},{"host":"*.azure.com"}"#);
    assert!(in_group(&below, "api.openai.com", "model") && !in_group(&below, "status.openai.com", "model"));
    // What is listed as a suffix, and what only a pattern inside a name could tell.
    assert!(in_group(&below, "mine.openai.azure.com", "model") && !in_group(&below, "portal.azure.com", "model"));
    let inside = egress(r#"{"host":"*.amazonaws.com"}"#);
    assert!(
        in_group(&inside, "bedrock.eu-west-1.amazonaws.com", "model") && in_group(&inside, "s3.amazonaws.com", "model")
    );
    let mut host = host();
    host.model_hosts = ["*.llm.example".parse().unwrap(), "own.example".parse().unwrap()].into();
    let policy = compile(&read(r#"{"egress":[{"host":"*.example"}]}"#), HASH, &host).unwrap();
    assert!(in_group(&policy, "a.llm.example", "model") && in_group(&policy, "own.example", "model"));
    assert!(!in_group(&policy, "far.example", "model"));
}

#[test]
fn where_receipts_are_wanted_no_name_leads_to_a_model() {
    let with = |egress: &str| format!("{{\"model\":{{\"require_proxy_receipts\":true}},\"egress\":[{egress}]}}");
    for entry in [
        r#"{"host":"api.openai.com"}"#,
        r#"{"host":"mine.openai.azure.com"}"#,
        r#"{"host":"*.openai.azure.com"}"#,
        r#"{"host":"*.amazonaws.com"}"#,
        r#"{"host":"*.eu-west-1.amazonaws.com"}"#,
        r#"{"host":"*.com"}"#,
    ] {
        let error = refused(&with(entry));
        assert!(matches!(&error, Error::Unenforceable { path, .. } if path.ends_with("receipts")), "{entry}: {error}");
    }
    let policy = policy(&with(r#"{"host":"*.openai.com","ports":[443,80],"tls":false},{"host":"*.azure.com"}"#));
    assert_eq!(ports(&policy, "api.openai.com"), (vec![], Some(Reason::ModelDirect)));
    assert_eq!(ports(&policy, "status.openai.com"), (vec![80, 443], None));
    assert_eq!(ports(&policy, "mine.openai.azure.com"), (vec![], Some(Reason::ModelDirect)));
    assert_eq!(ports(&policy, "portal.azure.com"), (vec![443], None));
}

#[test]
fn a_server_whose_tools_are_restricted_is_closed_by_name() {
    for entry in [r#"{"host":"tickets.example","ports":[443,8443]}"#, r#"{"host":"*.example","ports":[443,8443]}"#] {
        let guard = |tools: &str| format!("{{\"tools\":{tools},\"egress\":[{entry}]}}");
        let closed = guard(r#"{"allow":["tickets/get_it"]}"#);
        assert_eq!(ports(&policy(&closed), "tickets.example"), (vec![8443], Some(Reason::McpDirect)), "{entry}");
        assert!(notes(&closed, "egress[0]").iter().any(|(outcome, note)| *outcome == Outcome::Denied
            && note.starts_with("tickets.example:443 is the MCP server tickets")));
        let whole = guard(r#"{"allow":["tickets/*"]}"#);
        assert_eq!(ports(&policy(&whole), "tickets.example"), (vec![8443], Some(Reason::McpDirect)), "{entry}");
        let open = policy(&format!("{{\"egress\":[{entry}]}}"));
        assert_eq!(ports(&open, "tickets.example"), (vec![443, 8443], None), "{entry}");
        for group in ["mcp:tickets", "risk:low", "class:read"] {
            assert!(in_group(&open, "tickets.example", group), "{entry} {group}");
        }
    }
    // By an address that it shares, too.
    let mut host = host();
    host.hosts.insert("tickets.example".parse().unwrap(), BTreeSet::from(["203.0.113.10".parse().unwrap()]));
    let policy = compile(&read(r#"{"tools":{},"egress":[{"host":"*.example"}]}"#), HASH, &host).unwrap();
    assert_eq!(ports(&policy, "crm.example"), (vec![], Some(Reason::McpDirect)));
}

#[test]
fn names_are_asked_for_through_the_guard_alone() {
    let policy_ = egress(
        r#"{"host":"ns.example","ports":[53,853,443]},{"cidr":"203.0.113.53/32","ports":[53,80],"protocol":"udp"},
           {"host":"dns.google"},{"host":"*.google","ports":[443,853]},{"host":"*.one"}"#,
    );
    assert_eq!(ports(&policy_, "ns.example"), (vec![443], None));
    assert!(policy_.rules.iter().filter(|rule| rule.reason == Reason::Allowed).all(|rule| rule.port == 80));
    assert_eq!(ports(&policy_, "dns.google"), (vec![], Some(Reason::Dns)));
    assert_eq!(ports(&policy_, "one.one.one.one"), (vec![], Some(Reason::Dns)));
    assert_eq!(ports(&policy_, "far.google"), (vec![443], None));
    let guard = r#"{"egress":[{"host":"dns.google"},{"host":"ns.example","ports":[53]},{"cidr":"203.0.113.53/32","ports":[53]}]}"#;
    for path in ["egress[0]", "egress[1]", "egress[2]"] {
        let notes = notes(guard, path);
        assert!(
            matches!(&notes[..], [(Outcome::Denied, note)] if note.contains("through the DNS guard alone")),
            "{notes:?}"
        );
    }
}

#[test]
fn check_says_how_a_name_is_held() {
    let guard = r#"{"egress":[{"host":"far.example"},{"host":"far2.example","tls":false},{"host":"udp.example","protocol":"udp"},
        {"host":"crm.example"},{"host":"*.wild.example"},{"host":"mail.example","ports":[587]},{"host":"ech.example","ech":true}]}"#;
    for (i, expected) in [
        &["far.example:443, by the addresses that the DNS guard learns; the TLS name is judged"][..],
        &["far2.example:443, by the addresses that the DNS guard learns; no name is judged in what is sent"],
        &["udp.example:443, by the addresses that the DNS guard learns; no name is judged in what is sent"],
        &["crm.example:443, by address and port; the TLS name is judged"],
        &[
            "*.wild.example:443, by the addresses that the DNS guard learns; the TLS name is judged",
            "a.wild.example:443, by address and port; the TLS name is judged",
            "b.wild.example:443, by address and port; the TLS name is judged",
        ],
        &[
            "mail.example:587, by the addresses that the DNS guard learns; the TLS name is judged; STARTTLS is refused, since it \
             begins in the clear: where it is spoken, tls: false is needed",
        ],
        &[
            "ech.example:443, by the addresses that the DNS guard learns; the TLS name is judged, or the outer one of an encrypted \
             ClientHello",
        ],
    ]
    .into_iter()
    .enumerate()
    {
        let notes = notes(guard, &format!("egress[{i}]"));
        assert!(notes.iter().all(|(outcome, _)| *outcome == Outcome::Kernel), "{notes:?}");
        assert_eq!(notes.into_iter().map(|(_, note)| note).collect::<Vec<_>>(), expected);
    }
}

#[test]
fn a_hundred_thousand_names_compile_in_seconds() {
    let mut entries = vec![r#"{"host":"*.example","ports":[80,443],"tls":false}"#.to_owned()];
    entries.extend((0..100_000).map(|i| format!("{{\"host\":\"n{i}.example\"}}")));
    let contract = read(&format!("{{\"egress\":[{}]}}", entries.join(",")));
    let begun = Instant::now();
    let policy = compile(&contract, HASH, &host()).unwrap();
    assert!(policy.names.len() > 200_000, "{}", policy.names.len());
    // Each against each would be hours.
    assert!(begun.elapsed().as_secs() < 60, "{:?}", begun.elapsed());
    assert_eq!(ports(&policy, "n7.example"), (vec![443], Some(Reason::NotInContract)));
}
