//! What contracts compile to, told as promises.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;

use claw::{Hash, json, json::Limits};
use clawguard_common::{Addr, Reason, protocol, side};
use policy::{
    Contract, Finding, Group, HostFacts, Outcome, Policy,
    compile::{Error, check, compile},
    contract::{self, TokenRules},
    group::{Class, Risk},
    host::{At, McpServer},
    net,
    sample::{find, sample},
};
use proptest::prelude::*;

const HASH: Hash = Hash([7; 32]);

fn host() -> HostFacts {
    let hosts = [
        ("crm.example", "203.0.113.10"),
        ("chat.example", "203.0.113.20"),
        ("a.wild.example", "203.0.113.30"),
        ("b.wild.example", "203.0.113.31"),
        ("wild.example", "203.0.113.32"),
        ("intranet.example", "10.1.2.3"),
        ("metadata.example", "169.254.169.254"),
        ("api.openai.com", "203.0.113.66"),
        ("six.example", "2001:db8::5"),
    ];
    HostFacts {
        hosts: hosts.iter().map(|(n, a)| (n.parse().unwrap(), BTreeSet::from([a.parse().unwrap()]))).collect(),
        mcp_servers: vec![McpServer {
            name: "crm-mcp".into(),
            endpoint: Some((At::Name("crm.example".parse().unwrap()), 443)),
            risk: Risk::Medium,
            class: Class::Write,
            read: vec!["get_*".parse().unwrap()],
            write: vec!["update_*".parse().unwrap()],
            irreversible: Vec::new(),
        }],
        ..HostFacts::default()
    }
}

fn payload(allowlist: Option<&str>, guard: &str) -> String {
    let allowlist = allowlist.map_or_else(String::new, |list| format!("\"egress_allowlist\":{list},"));
    format!(
        "{{\"policy_version\":\"1\",\"policy_id\":\"p\",\"issuer_did\":\"did:key:z\",{allowlist}\"metadata\":{{\"clawguard.v1\":{guard}}}}}"
    )
}

fn read(text: &str) -> Result<Contract, contract::Error> {
    Contract::read(&json::parse(text.as_bytes(), Limits { bytes: 1 << 24, depth: 32 }).unwrap())
}

fn policy(guard: &str) -> Policy {
    compile(&read(&payload(None, guard)).unwrap(), HASH, &host()).unwrap()
}

fn refused(guard: &str) -> Error {
    compile(&read(&payload(None, guard)).unwrap(), HASH, &host()).unwrap_err()
}

fn unread(guard: &str) -> String {
    read(&payload(None, guard)).unwrap_err().to_string()
}

fn addr(text: &str) -> Addr {
    net::addr(text.parse().unwrap())
}

fn reason(policy: &Policy, protocol: u8, to: &str, port: u16) -> Reason {
    find(policy, side::EGRESS, protocol, port, addr(to)).map_or(Reason::NotInContract, |rule| rule.reason)
}

fn tcp(policy: &Policy, to: &str, port: u16) -> Reason {
    reason(policy, protocol::TCP, to, port)
}

fn groups(policy: &Policy, to: &str, port: u16) -> Vec<String> {
    let rule = find(policy, side::EGRESS, protocol::TCP, port, addr(to)).unwrap();
    policy.sets[usize::from(rule.set)].iter().map(ToString::to_string).collect()
}

#[test]
fn an_empty_or_absent_allowlist_allows_nothing() {
    for allowlist in [None, Some("[]")] {
        let policy = compile(&read(&payload(allowlist, "{}")).unwrap(), HASH, &host()).unwrap();
        assert!(policy.rules.iter().all(|rule| rule.reason != Reason::Allowed));
    }
}

#[test]
fn a_host_is_reached_at_its_addresses_and_ports_only() {
    let policy = policy(r#"{"egress":[{"host":"crm.example","ports":[443,8443]},{"host":"six.example"}]}"#);
    assert_eq!(tcp(&policy, "203.0.113.10", 443), Reason::Allowed);
    assert_eq!(tcp(&policy, "203.0.113.10", 8443), Reason::Allowed);
    assert_eq!(tcp(&policy, "203.0.113.10", 80), Reason::NotInContract);
    assert_eq!(tcp(&policy, "203.0.113.11", 443), Reason::NotInContract);
    assert_eq!(reason(&policy, protocol::UDP, "203.0.113.10", 443), Reason::NotInContract);
    assert_eq!(tcp(&policy, "2001:db8::5", 443), Reason::Allowed);
}

#[test]
fn quic_opens_udp_on_the_same_ports() {
    let policy = policy(r#"{"egress":[{"host":"chat.example","quic":true}]}"#);
    assert_eq!(reason(&policy, protocol::UDP, "203.0.113.20", 443), Reason::Allowed);
    assert_eq!(tcp(&policy, "203.0.113.20", 443), Reason::Allowed);
}

#[test]
fn a_wildcard_leaves_out_the_apex_and_what_an_exact_entry_says() {
    let policy = policy(
        r#"{"egress":[{"host":"*.wild.example","groups":["w"]},{"host":"b.wild.example","ports":[80],"tls":false}]}"#,
    );
    assert_eq!(tcp(&policy, "203.0.113.30", 443), Reason::Allowed);
    assert_eq!(tcp(&policy, "203.0.113.31", 443), Reason::NotInContract);
    assert_eq!(tcp(&policy, "203.0.113.31", 80), Reason::Allowed);
    assert_eq!(tcp(&policy, "203.0.113.32", 443), Reason::NotInContract);
}

#[test]
fn the_allowlist_opens_tls_to_what_egress_says_nothing_about() {
    let guard = r#"{"egress":[{"host":"crm.example","ports":[8443],"groups":["crm"]}]}"#;
    let text = payload(Some(r#"["crm.example","chat.example","*.wild.example"]"#), guard);
    let policy = compile(&read(&text).unwrap(), HASH, &host()).unwrap();
    assert_eq!(tcp(&policy, "203.0.113.10", 443), Reason::NotInContract);
    assert_eq!(tcp(&policy, "203.0.113.10", 8443), Reason::Allowed);
    assert_eq!(tcp(&policy, "203.0.113.20", 443), Reason::Allowed);
    assert_eq!(tcp(&policy, "203.0.113.30", 443), Reason::Allowed);
    assert_eq!(tcp(&policy, "203.0.113.32", 443), Reason::NotInContract);
}

#[test]
fn an_egress_entry_outside_the_allowlist_refuses_the_contract() {
    for entry in
        [r#"{"host":"chat.example"}"#, r#"{"host":"*.crm.example"}"#, r#"{"cidr":"203.0.113.0/24","ports":[443]}"#]
    {
        let text = payload(Some(r#"["crm.example"]"#), &format!("{{\"egress\":[{entry}]}}"));
        let error = compile(&read(&text).unwrap(), HASH, &host()).unwrap_err();
        assert_eq!(error, Error::OutsideAllowlist { path: "metadata.clawguard.v1.egress[0]".into() }, "{entry}");
    }
    let text = payload(Some(r#"["203.0.113.0/24"]"#), r#"{"egress":[{"cidr":"203.0.113.0/28","ports":[443]}]}"#);
    assert!(compile(&read(&text).unwrap(), HASH, &host()).is_ok());
}

#[test]
fn private_and_metadata_addresses_need_a_cidr_of_their_own() {
    let by_name =
        policy(r#"{"egress":[{"host":"intranet.example"},{"host":"metadata.example","ports":[80],"tls":false}]}"#);
    assert_eq!(tcp(&by_name, "10.1.2.3", 443), Reason::NotInContract);
    assert_eq!(tcp(&by_name, "169.254.169.254", 80), Reason::NotInContract);

    let wide = policy(r#"{"egress":[{"cidr":"0.0.0.0/0","ports":[80]},{"cidr":"::/0","ports":[80]}]}"#);
    assert_eq!(tcp(&wide, "198.51.100.1", 80), Reason::Allowed);
    assert_eq!(tcp(&wide, "2001:db8::1", 80), Reason::Allowed);
    for (to, expected) in [
        ("10.1.2.3", Reason::SpecialRange),
        ("192.168.0.1", Reason::SpecialRange),
        ("127.0.0.1", Reason::SpecialRange),
        ("169.254.169.254", Reason::Metadata),
        ("168.63.129.16", Reason::Metadata),
        ("fe80::1", Reason::SpecialRange),
        ("fd00:ec2::254", Reason::Metadata),
        ("::1", Reason::SpecialRange),
        ("64:ff9b::a9fe:a9fe", Reason::Metadata),
    ] {
        assert_eq!(tcp(&wide, to, 80), expected, "{to}");
    }

    let explicit = policy(r#"{"egress":[{"cidr":"10.0.0.0/8","ports":[443]},{"cidr":"169.254.0.0/16","ports":[80]}]}"#);
    assert_eq!(tcp(&explicit, "10.1.2.3", 443), Reason::Allowed);
    assert_eq!(tcp(&explicit, "169.254.1.1", 80), Reason::Allowed);
    assert_eq!(tcp(&explicit, "169.254.169.254", 80), Reason::Metadata);

    let named = policy(r#"{"egress":[{"cidr":"169.254.169.254/32","ports":[80]}]}"#);
    assert_eq!(tcp(&named, "169.254.169.254", 80), Reason::Allowed);

    let both = policy(r#"{"egress":[{"host":"intranet.example"},{"cidr":"10.1.0.0/16","ports":[443]}]}"#);
    assert_eq!(tcp(&both, "10.1.2.3", 443), Reason::Allowed);
}

#[test]
fn all_of_ipv6_does_not_contain_ipv4() {
    let policy = policy(r#"{"egress":[{"cidr":"::/0","ports":[80]}],"listen":[{"cidr":"::/0","ports":[7]}]}"#);
    assert_eq!(tcp(&policy, "198.51.100.1", 80), Reason::NotInContract);
    assert_eq!(find(&policy, side::LISTEN, protocol::TCP, 7, addr("198.51.100.1")).unwrap().reason, Reason::Inbound);
    assert_eq!(find(&policy, side::LISTEN, protocol::TCP, 7, addr("2001:db8::9")).unwrap().reason, Reason::Allowed);
}

#[test]
fn two_rules_for_one_place_with_different_groups_refuse_the_contract() {
    for entries in [
        r#"[{"host":"crm.example","groups":["a"]},{"host":"crm.example","groups":["b"]}]"#,
        r#"[{"cidr":"198.51.100.0/24","ports":[443],"groups":["a"]},{"cidr":"198.51.100.0/24","ports":[443],"groups":["b"]}]"#,
        r#"[{"cidr":"198.51.100.0/24","ports":[443],"groups":["a"]},{"cidr":"198.51.100.8/32","ports":[443],"groups":["b"]}]"#,
        r#"[{"cidr":"0.0.0.0/0","ports":[443],"groups":["a"]},{"cidr":"198.51.100.0/24","ports":[443],"groups":["b"]}]"#,
        r#"[{"host":"chat.example","groups":["a"],"class":"read"},{"host":"chat.example","groups":["a"],"class":"write"}]"#,
    ] {
        let error = refused(&format!("{{\"egress\":{entries}}}"));
        assert!(matches!(error, Error::Conflict { .. }), "{entries}: {error}");
    }
    // The same groups, another port, another protocol, or a special range in between: no conflict.
    policy(r#"{"egress":[{"host":"crm.example","groups":["a"]},{"host":"crm.example","groups":["a"]}]}"#);
    policy(
        r#"{"egress":[{"host":"chat.example","groups":["a"]},{"host":"chat.example","ports":[80],"groups":["b"]}]}"#,
    );
    policy(
        r#"{"egress":[{"cidr":"0.0.0.0/0","ports":[443],"groups":["a"]},{"cidr":"10.0.0.0/24","ports":[443],"groups":["b"]}]}"#,
    );
}

#[test]
fn two_hosts_at_one_address_with_different_groups_refuse_the_contract() {
    let mut host = host();
    host.hosts.insert("other.example".parse().unwrap(), BTreeSet::from(["203.0.113.20".parse().unwrap()]));
    let text =
        payload(None, r#"{"egress":[{"host":"chat.example","groups":["a"]},{"host":"other.example","groups":["b"]}]}"#);
    let error = compile(&read(&text).unwrap(), HASH, &host).unwrap_err();
    assert_eq!(
        error.to_string(),
        "metadata.clawguard.v1.egress[0] and metadata.clawguard.v1.egress[1] both name 203.0.113.20/32 port tcp/443 but \
         belong to different groups (a all class:irreversible mode:tools-off risk:high / \
         all b class:irreversible mode:tools-off risk:high): a kill of one could not spare the other"
    );
}

#[test]
fn an_entry_belongs_to_the_groups_that_follow_from_what_it_is() {
    let policy = policy(
        r#"{"groups":[{"name":"crm","risk":"low","tools":["crm-mcp/*"]}],
            "egress":[{"host":"crm.example"},{"host":"chat.example","groups":["channel"]},{"host":"six.example","class":"read"}]}"#,
    );
    let crm = groups(&policy, "203.0.113.10", 443);
    assert_eq!(crm, ["all", "class:write", "crm", "mcp:crm-mcp", "mode:tools-off", "risk:medium"]);
    // Chat has no risk and no class of its own making: no kill of either takes it away.
    assert_eq!(groups(&policy, "203.0.113.20", 443), ["all", "channel"]);
    assert_eq!(groups(&policy, "2001:db8::5", 443), ["all", "class:read", "mode:tools-off", "risk:high"]);
}

#[test]
fn a_model_host_that_no_entry_opens_is_held_back_by_name() {
    let policy_ = policy(r#"{"egress":[{"cidr":"203.0.113.0/24","ports":[443]}]}"#);
    assert_eq!(tcp(&policy_, "203.0.113.66", 443), Reason::ModelDirect);
    assert_eq!(tcp(&policy_, "203.0.113.67", 443), Reason::Allowed);
    assert_eq!(tcp(&policy("{}"), "203.0.113.66", 443), Reason::ModelDirect);
    let opened = policy(r#"{"egress":[{"host":"api.openai.com"}]}"#);
    assert_eq!(tcp(&opened, "203.0.113.66", 443), Reason::Allowed);
    assert!(groups(&opened, "203.0.113.66", 443).contains(&"model".to_owned()));
}

#[test]
fn receipts_that_no_proxy_would_give_refuse_the_contract() {
    let error = refused(r#"{"egress":[{"host":"api.openai.com"}],"model":{"require_proxy_receipts":true}}"#);
    assert!(matches!(error, Error::Unenforceable { .. }), "{error}");
    policy(r#"{"egress":[{"host":"crm.example"}],"model":{"require_proxy_receipts":true}}"#);
}

#[test]
fn where_the_gateway_calls_models_their_own_hosts_stay_closed_to_a_contract_with_rules_for_them() {
    let host = HostFacts { model_gateway: true, ..host() };
    let egress = r#""egress":[{"host":"api.openai.com"},{"host":"crm.example"}]"#;
    let of = |guard: &str, providers: &str| {
        let text = payload(None, guard).replacen("\"policy_id\"", &format!("{providers}\"policy_id\""), 1);
        check(&read(&text).unwrap(), HASH, &host)
    };
    for (guard, providers) in [
        (format!(r#"{{{egress},"model":{{"require_proxy_receipts":true}}}}"#), ""),
        (format!("{{{egress}}}"), r#""allowed_providers":["openai"],"#),
        (format!("{{{egress}}}"), r#""allowed_models":["gpt-*"],"#),
    ] {
        let (policy, findings) = of(&guard, providers).unwrap();
        assert_eq!(tcp(&policy, "203.0.113.66", 443), Reason::ModelDirect, "{guard}");
        assert_eq!(tcp(&policy, "203.0.113.10", 443), Reason::Allowed, "{guard}");
        let told = findings.iter().find(|finding| finding.path.ends_with("egress[0]")).unwrap();
        assert!(told.outcome == Outcome::Denied && told.note.contains("the only way there"), "{told:?}");
        assert_eq!(policy.receipts, providers.is_empty());
    }
    // What cannot be told apart from a way to models is refused as before; and a contract that says nothing of them opens what it
    // names.
    let wide = r#"{"egress":[{"cidr":"0.0.0.0/0","ports":[443]}],"model":{"require_proxy_receipts":true}}"#;
    assert!(of(wide, "").unwrap_err().to_string().contains("around the model gateway"));
    let (open, _) = of(&format!("{{{egress}}}"), "").unwrap();
    assert_eq!(tcp(&open, "203.0.113.66", 443), Reason::Allowed);
}

#[test]
fn a_model_that_is_called_by_its_bare_address_is_no_plain_endpoint() {
    let places = [("198.51.100.9", 8443), ("127.0.0.1", 11_434)];
    let places = places.map(|(address, port)| (net::addr(address.parse().unwrap()), port));
    let host = HostFacts { model_gateway: true, model_places: places.into(), ..host() };
    let of = |guard: &str, providers: &str| {
        let text = payload(None, guard).replacen("\"policy_id\"", &format!("{providers}\"policy_id\""), 1);
        check(&read(&text).unwrap(), HASH, &host)
    };
    let egress = r#"{"egress":[{"cidr":"198.51.100.9/32","ports":[8443,443]},{"cidr":"127.0.0.0/8","ports":[11434,5432]},
        {"cidr":"198.51.100.0/24","ports":[8443]}]}"#;
    let reached = [("198.51.100.9", 8443), ("127.0.0.1", 11_434), ("127.3.2.1", 11_434)];
    let (policy, findings) = of(egress, r#""allowed_models":["*"],"#).unwrap();
    for (address, port) in reached {
        assert_ne!(tcp(&policy, address, port), Reason::Allowed, "{address}");
    }
    for (address, port) in [("198.51.100.9", 8443), ("127.0.0.1", 11_434)] {
        assert_eq!(tcp(&policy, address, port), Reason::ModelDirect, "{address}");
    }
    for (address, port) in [("198.51.100.9", 443), ("127.0.0.1", 5432), ("198.51.100.8", 8443)] {
        assert_eq!(tcp(&policy, address, port), Reason::Allowed, "{address}");
    }
    let told = |finding: &&Finding| finding.outcome == Outcome::Denied && finding.note.contains("a model's own place");
    assert_eq!(findings.iter().filter(told).count(), 2, "{findings:?}");
    // Without a word about models it is opened, and is a model's all the same: counted as such, and ended by its kill.
    let (open, _) = of(r#"{"egress":[{"cidr":"198.51.100.9/32","ports":[8443]}]}"#, "").unwrap();
    assert_eq!(tcp(&open, "198.51.100.9", 8443), Reason::Allowed);
    assert!(open.kernel_groups.contains(&Group::model()));
    // By a name that the host gives the same address there is no other way.
    let hosts = [("llm.example".parse().unwrap(), BTreeSet::from(["198.51.100.9".parse().unwrap()]))].into();
    let named = HostFacts { hosts, ..host.clone() };
    let text = payload(None, r#"{"egress":[{"host":"llm.example","ports":[8443]}]}"#);
    let text = text.replacen("\"policy_id\"", "\"allowed_models\":[\"*\"],\"policy_id\"", 1);
    assert!(check(&read(&text).unwrap(), HASH, &named).is_err());
}

#[test]
fn once_a_contract_speaks_about_mcp_the_gateway_is_the_only_way_to_a_server() {
    for rules in [
        r#""tools":{"allow":["crm-mcp/get_*"]}"#,
        r#""tools":{"allow":["crm-mcp/*"]}"#,
        r#""tools":{"allow":["*/*"]}"#,
        r#""tools":{"deny":["*/http_request"]}"#,
        r#""tools":{"approve":["crm-mcp/update"]}"#,
        r#""tools":{"allow":[]}"#,
        r#""tools":{}"#,
        r#""tools":{"allow":["other/x"]}"#,
        r#""mcp":{"resources":["crm-mcp/*"]}"#,
        r#""mcp":{}"#,
        r#""data_classes":{"deny":["secrets"]}"#,
    ] {
        let mut host = host();
        host.mcp_servers[0].risk = Risk::Low;
        let guard = format!("{{{rules},\"egress\":[{{\"host\":\"crm.example\"}},{{\"host\":\"chat.example\"}}]}}");
        let policy = compile(&read(&payload(None, &guard)).unwrap(), HASH, &host).unwrap();
        assert_eq!(tcp(&policy, "203.0.113.10", 443), Reason::NotInContract, "{rules}");
        assert_eq!(tcp(&policy, "203.0.113.20", 443), Reason::Allowed, "{rules}");
    }
    let silent = policy(r#"{"egress":[{"host":"crm.example"}]}"#);
    assert_eq!(tcp(&silent, "203.0.113.10", 443), Reason::Allowed);
    assert_eq!(
        groups(&silent, "203.0.113.10", 443),
        ["all", "class:write", "mcp:crm-mcp", "mode:tools-off", "risk:medium"]
    );
}

fn local(at: At, guard: &str) -> (Policy, Vec<Finding>) {
    let mut host = host();
    host.mcp_servers[0].endpoint = Some((at, 3001));
    check(&read(&payload(None, guard)).unwrap(), HASH, &host).unwrap()
}

#[test]
fn a_server_that_is_configured_by_address_is_as_closed_as_one_with_a_name() {
    let here = At::Address("2001:db8::9".parse().unwrap());
    for egress in [r#"{"cidr":"2001:db8::9/128","ports":[3001,80]}"#, r#"{"cidr":"2001:db8::/32","ports":[3001,80]}"#] {
        let (policy, findings) = local(here.clone(), &format!("{{\"tools\":{{}},\"egress\":[{egress}]}}"));
        assert_eq!(tcp(&policy, "2001:db8::9", 3001), Reason::NotInContract, "{egress}");
        assert_eq!(tcp(&policy, "2001:db8::9", 80), Reason::Allowed, "{egress}");
        assert!(
            findings.iter().any(|f| f.outcome == Outcome::Denied && f.note.contains("the MCP server crm-mcp")),
            "{findings:?}"
        );
    }
    let (policy, _) = local(here.clone(), r#"{"egress":[{"cidr":"2001:db8::/32","ports":[3001]}]}"#);
    assert_eq!(tcp(&policy, "2001:db8::9", 3001), Reason::NotInContract);
    let (policy, _) = local(here, r#"{"egress":[{"cidr":"2001:db8::9/128","ports":[3001]}]}"#);
    assert_eq!(tcp(&policy, "2001:db8::9", 3001), Reason::Allowed);
    assert!(groups(&policy, "2001:db8::9", 3001).contains(&"mcp:crm-mcp".to_owned()));
}

/// What listens on loopback may listen at all of its addresses.
#[test]
fn no_entry_for_loopback_opens_a_server_there() {
    let all = ["127.0.0.1", "127.0.0.2", "127.9.9.9", "::1"];
    for at in [
        At::Address("127.0.0.1".parse().unwrap()),
        At::Address("::1".parse().unwrap()),
        At::Name("localhost".parse().unwrap()),
        At::Name("tools.localhost".parse().unwrap()),
    ] {
        for egress in [
            r#"{"cidr":"127.0.0.0/8","ports":[3001,8000]}"#,
            r#"{"cidr":"127.0.0.0/31","ports":[3001,8000]},{"cidr":"127.0.0.2/31","ports":[3001,8000]}"#,
            r#"{"cidr":"127.0.0.1/32","ports":[3001]},{"cidr":"127.0.0.2/32","ports":[3001]},{"cidr":"::1/128","ports":[3001]}"#,
            r#"{"cidr":"0.0.0.0/0","ports":[3001]},{"cidr":"::/0","ports":[3001]}"#,
        ] {
            let (policy, _) = local(at.clone(), &format!("{{\"tools\":{{}},\"egress\":[{egress}]}}"));
            for to in all {
                assert_ne!(tcp(&policy, to, 3001), Reason::Allowed, "{at:?} {egress}: {to}");
            }
            if egress.starts_with("{\"cidr\":\"127.0.0.0/8") {
                assert_eq!(tcp(&policy, "127.0.0.1", 8000), Reason::Allowed, "{at:?}");
            }
        }
    }
    // Without a word about MCP an entry of its own opens it, and it goes with its server's groups.
    let at = At::Address("127.0.0.1".parse().unwrap());
    let (policy, findings) = local(at, r#"{"egress":[{"cidr":"127.0.0.2/32","ports":[3001]}]}"#);
    assert!(groups(&policy, "127.0.0.2", 3001).contains(&"mcp:crm-mcp".to_owned()));
    assert!(findings.iter().any(|f| f.note.contains("no rule about tools holds on this way")), "{findings:?}");
}

#[test]
fn what_tool_rules_close_is_closed_by_every_way_there() {
    for tools in
        [r#"{"deny":["crm-mcp/delete"]}"#, r#"{"allow":["crm-mcp/get_it"]}"#, "{}", r#"{"no_approval":["crm-mcp/x"]}"#]
    {
        for egress in [
            r#"{"host":"crm.example"}"#,
            r#"{"cidr":"203.0.113.10/32","ports":[443]}"#,
            r#"{"cidr":"203.0.113.0/24","ports":[443]}"#,
            r#"{"host":"alias.example"}"#,
        ] {
            let mut host = host();
            host.hosts.insert("alias.example".parse().unwrap(), BTreeSet::from(["203.0.113.10".parse().unwrap()]));
            let text = payload(None, &format!("{{\"tools\":{tools},\"egress\":[{egress}]}}"));
            let policy = compile(&read(&text).unwrap(), HASH, &host).unwrap();
            assert_eq!(tcp(&policy, "203.0.113.10", 443), Reason::NotInContract, "{text}");
        }
    }
}

#[test]
fn a_range_opens_no_server_and_no_model_inside_it() {
    let wide = policy(r#"{"egress":[{"cidr":"203.0.113.0/24","ports":[443,8443]}]}"#);
    assert_eq!(tcp(&wide, "203.0.113.10", 443), Reason::NotInContract);
    assert_eq!(tcp(&wide, "203.0.113.10", 8443), Reason::Allowed);
    for port in [443, 8443] {
        assert_eq!(tcp(&wide, "203.0.113.66", port), Reason::ModelDirect, "{port}");
    }
    // Coming in from there is not going out to there.
    let listening = policy(
        r#"{"listen":[{"cidr":"203.0.113.66/32","ports":[443]}],"egress":[{"cidr":"203.0.113.0/24","ports":[443]}]}"#,
    );
    assert_eq!(tcp(&listening, "203.0.113.66", 443), Reason::ModelDirect);
}

#[test]
fn a_contract_that_wants_receipts_opens_no_way_around_them() {
    for egress in [
        r#"{"host":"api.openai.com"}"#,
        r#"{"cidr":"203.0.113.66/32","ports":[8443]}"#,
        r#"{"cidr":"203.0.113.0/24","ports":[443]}"#,
        r#"{"cidr":"0.0.0.0/0","ports":[443]}"#,
        r#"{"cidr":"10.0.0.5/32","ports":[11434],"groups":["model"]}"#,
    ] {
        let error = refused(&format!("{{\"model\":{{\"require_proxy_receipts\":true}},\"egress\":[{egress}]}}"));
        assert!(matches!(&error, Error::Unenforceable { path, .. } if path.ends_with("receipts")), "{egress}: {error}");
    }
    policy(
        r#"{"model":{"require_proxy_receipts":true},"egress":[{"cidr":"10.0.0.0/24","ports":[443]},{"host":"crm.example"}]}"#,
    );
}

#[test]
fn what_a_contract_asks_of_tokens_is_part_of_its_policy() {
    let rules = |guard| policy(guard).token;
    assert_eq!(rules("{}"), None);
    let none = TokenRules { max_ttl_seconds: None, require_scope_hash: false, require_pin: false, job_scoped: true };
    assert_eq!(rules(r#"{"token":{}}"#), Some(none));
    assert_eq!(rules(r#"{"token":{"policy_hash_pinning":"optional"}}"#), Some(none));
    assert_eq!(
        rules(r#"{"token":{"cst_max_ttl_seconds":900,"require_scope_hash":true,"policy_hash_pinning":"required"}}"#),
        Some(TokenRules { max_ttl_seconds: Some(900), require_scope_hash: true, require_pin: true, job_scoped: true })
    );
}

#[test]
fn what_is_not_understood_is_refused_and_named() {
    for (guard, expected) in [
        (r#"{"egres":[]}"#, "metadata.clawguard.v1.egres is unknown"),
        (r#"{"egress":[{"host":"crm.example","prot":"tcp"}]}"#, "metadata.clawguard.v1.egress[0].prot is unknown"),
        (r#"{"egress":[{"host":"crm.example","cidr":"10.0.0.0/8"}]}"#, "either host or cidr"),
        (r#"{"egress":[{}]}"#, "either host or cidr"),
        (r#"{"egress":[{"cidr":"198.51.100.0/24"}]}"#, "metadata.clawguard.v1.egress[0].ports is missing"),
        (r#"{"egress":[{"host":"crm.example","ports":[]}]}"#, "an empty list of ports allows nothing"),
        (r#"{"egress":[{"host":"crm.example","ports":[0]}]}"#, "1 to 65535"),
        (r#"{"egress":[{"host":"crm.example","ports":[65536]}]}"#, "1 to 65535"),
        (r#"{"egress":[{"host":"crm.example","ports":["443"]}]}"#, "1 to 65535"),
        (r#"{"egress":[{"host":"crm.example","protocol":"sctp"}]}"#, "only tcp and udp pass at all"),
        (r#"{"egress":[{"host":"CRM.example"}]}"#, "no host name"),
        (r#"{"egress":[{"host":"203.0.113.10"}]}"#, "no host name"),
        (r#"{"egress":[{"host":"crm.example","groups":["risk:low"]}]}"#, "a contract does not give it"),
        (r#"{"egress":[{"host":"crm.example","class":"harmless"}]}"#, "read, write or irreversible"),
        (r#"{"egress":[{"cidr":"198.51.100.1/24","ports":[1]}]}"#, "bits set beyond its prefix"),
        (r#"{"listen":[{"ports":[1]}]}"#, "metadata.clawguard.v1.listen[0].cidr is missing"),
        (r#"{"listen":[{"cidr":"0.0.0.0/0"}]}"#, "metadata.clawguard.v1.listen[0].ports is missing"),
        (r#"{"groups":[{"name":"all"}]}"#, "built in"),
        (r#"{"groups":[{"name":"a"},{"name":"a"}]}"#, "defined twice"),
        (r#"{"sequence":-1}"#, "a whole number"),
        (r#"{"sequence":1.5}"#, "a whole number"),
        (r#"{"not_after":"tomorrow"}"#, "no RFC 3339 date-time"),
        (r#"{"not_before":"2026-02-01T00:00:00Z","not_after":"2026-01-01T00:00:00Z"}"#, "never be in force"),
        (r#"{"tools":{"allow":["crm-mcp"]}}"#, "SERVER/TOOL"),
        (r#"{"tools":{"allow":["crm*/x"]}}"#, "SERVER/TOOL"),
        (r#"{"model":{"on_bypass":"ignore"}}"#, "alert, read-only or halt"),
        (r#"{"unix_sockets":"yes"}"#, "not true or false"),
        (r#"{"data_classes":{"denied":[]}}"#, "metadata.clawguard.v1.data_classes.denied is unknown"),
        (r#"{"token":{"cst_max_ttl_seconds":0}}"#, "1 to 2147483648 seconds"),
        (r#"{"token":{"cst_max_ttl_seconds":2147483649}}"#, "1 to 2147483648 seconds"),
        (r#"{"token":{"policy_hash_pinning":"maybe"}}"#, "required or optional"),
        (r#"{"tools":{"no_approval":["crm-mcp/*"]}}"#, "named exactly"),
        (r#"[]"#, "metadata.clawguard.v1 is a list, not an object"),
    ] {
        let error = unread(guard);
        assert!(error.contains(expected), "{guard}: {error}");
    }
    for (text, expected) in [
        (r#"{}"#, "policy_version is missing"),
        (r#"{"policy_version":"2"}"#, "policy_version: \"2\""),
        (r#"{"policy_version":"1","issuer_did":"did:x"}"#, "policy_id is missing"),
        (r#"{"policy_version":"1","policy_id":"","issuer_did":"did:x"}"#, "1 to 128 characters"),
        (r#"{"policy_version":"1","policy_id":"p","issuer_did":"x"}"#, "no DID"),
        (r#"{"policy_version":"1","policy_id":"p","issuer_did":"did:x","egress":[]}"#, "egress is unknown"),
        (
            r#"{"policy_version":"1","policy_id":"p","issuer_did":"did:x","allowed_providers":["aws"]}"#,
            "openai, anthropic, google",
        ),
    ] {
        let error = read(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn every_group_of_the_kernels_has_an_endpoint_to_try() {
    for guard in [
        r#"{"egress":[{"host":"crm.example","groups":["crm"]},{"host":"six.example","groups":["channel"]}]}"#,
        r#"{"egress":[{"cidr":"0.0.0.0/0","ports":[443],"groups":["wide"]},{"cidr":"::/0","ports":[443],"groups":["wide"]}]}"#,
        r#"{"egress":[{"cidr":"203.0.113.64/30","ports":[443],"groups":["near-a-model"]}]}"#,
    ] {
        let policy = policy(guard);
        for group in &policy.kernel_groups {
            let to = sample(&policy, group).unwrap_or_else(|| panic!("{guard}: {group}"));
            let rule = find(&policy, side::EGRESS, to.protocol, to.port, to.addr).unwrap();
            assert_eq!(rule.reason, Reason::Allowed);
            assert!(policy.sets[usize::from(rule.set)].contains(group));
        }
    }
    assert_eq!(sample(&policy("{}"), &Group::all()), None);
}

#[test]
fn check_says_what_became_of_every_line() {
    let text = r#"{"policy_version":"1","policy_id":"p","issuer_did":"did:x","allowed_models":["m*"],"receipt_privacy_mode":"hash_only",
        "metadata":{"ticket":"OPS-1","clawguard.v1":{"sequence":3,"not_after":"2030-01-01T00:00:00Z",
        "listen":[{"cidr":"127.0.0.0/8","ports":[18789]}],
        "egress":[{"host":"crm.example","groups":["crm"]},{"host":"unknown.example"},{"host":"intranet.example"}],
        "tools":{"allow":["crm-mcp/*","nowhere/x"]},"data_classes":{"deny":["secrets"]},
        "mcp":{"resources":["crm-mcp/note:*","nowhere/*"],"sampling":["*"]},
        "groups":[{"name":"crm"},{"name":"far","tools":["x/y"]},{"name":"none"}],
        "model":{"require_proxy_receipts":true,"on_bypass":"halt"}}}}"#;
    let (policy, findings) = check(&read(text).unwrap(), HASH, &host()).unwrap();
    let outcome = |path: &str| -> Vec<Outcome> {
        findings.iter().filter(|f: &&Finding| f.path == path).map(|f| f.outcome).collect()
    };
    let guard = |name: &str| format!("metadata.clawguard.v1.{name}");
    assert_eq!(outcome(&guard("egress[0]")), [Outcome::Denied]);
    assert_eq!(outcome(&guard("egress[1]")), [Outcome::Kernel]);
    assert!(outcome(&guard("egress[2]")).contains(&Outcome::Denied));
    assert_eq!(outcome(&guard("listen[0]")), [Outcome::Kernel]);
    assert_eq!(outcome(&guard("not_after")), [Outcome::Kernel]);
    assert_eq!(outcome("allowed_models"), [Outcome::Denied]);
    assert_eq!(outcome("receipt_privacy_mode"), [Outcome::Denied]);
    assert_eq!(outcome(&guard("tools.allow")), [Outcome::Gateway]);
    assert_eq!(outcome(&guard("tools.allow[0]")), [Outcome::Gateway]);
    assert_eq!(outcome(&guard("tools.allow[1]")), [Outcome::Denied]);
    assert_eq!(outcome(&guard("mcp.resources[0]")), [Outcome::Gateway]);
    assert_eq!(outcome(&guard("mcp.resources[1]")), [Outcome::Denied]);
    assert_eq!(outcome(&guard("mcp.sampling[0]")), [Outcome::Gateway]);
    assert_eq!(outcome(&guard("data_classes.deny")), [Outcome::Gateway]);
    assert_eq!(outcome(&guard("model.on_bypass")), [Outcome::Daemon]);
    assert_eq!(outcome(&guard("groups[0]")), [Outcome::Recorded]);
    assert_eq!(outcome(&guard("groups[1]")), [Outcome::Gateway]);
    assert_eq!(outcome(&guard("groups[2]")), [Outcome::Recorded]);
    assert_eq!(outcome("metadata.ticket"), [Outcome::Recorded]);
    assert_eq!(outcome("policy_id"), [Outcome::Recorded]);
    let told: Vec<String> = policy.gateway_groups.iter().map(ToString::to_string).collect();
    assert_eq!(told, ["class:read", "class:write", "crm", "far", "mcp:crm-mcp", "none", "risk:medium"]);
}

proptest! {
    /// No contract compiles to a policy wider than its text: a naive reading of the text decides every probe the same way.
    #[test]
    fn the_kernels_rules_agree_with_a_naive_reading(
        entries in prop::collection::vec((0_u8..3, 20_u8..=32, any::<u32>(), 1_u16..4), 0..12),
        probes in prop::collection::vec((0_u8..3, any::<u32>(), 1_u16..4), 1..40),
    ) {
        // Few address bits and few ports, so that entries overlap; one group set, so that they may.
        let base = [0xcb00_7100_u32, 0x0a00_0000, 0xa9fe_a900];
        let ranges: Vec<(u32, u8, u16)> = entries.iter().map(|(block, bits, low, port)| {
            let mask = u32::MAX.checked_shl(32 - u32::from(*bits)).unwrap_or(0);
            ((base[usize::from(*block)] | (low & 0xff)) & mask, *bits, *port)
        }).collect();
        let texts: Vec<String> = ranges.iter().map(|(first, bits, port)| {
            format!("{{\"cidr\":\"{}/{bits}\",\"ports\":[{port}]}}", std::net::Ipv4Addr::from(*first))
        }).collect();
        let policy = policy(&format!("{{\"egress\":[{}]}}", texts.join(",")));
        for (block, low, port) in probes {
            let ip = base[usize::from(block)] | (low & 0xff);
            let special = |first: u32, bits: u32| ip >> (32 - bits) == first >> (32 - bits);
            // The narrowest special range that the address is in has to contain the entry.
            let narrowest = [(0xa9fe_a9fe, 32), (0xa9fe_a9fd, 32), (0xa9fe_0000, 16), (0x0a00_0000, 8)]
                .into_iter().find(|(first, bits)| special(*first, *bits)).map_or(0, |(_, bits)| bits);
            let naive = ranges.iter().any(|(first, bits, p)| {
                *p == port && u32::from(*bits) >= narrowest && ip >> (32 - u32::from(*bits)) == first >> (32 - u32::from(*bits))
            });
            // A model's address is held back inside a range, and opened by its own name or address alone.
            let model = ip == 0xcb00_7142;
            let exact = ranges.iter().any(|(first, bits, p)| *p == port && *bits == 32 && ip == *first);
            let naive = naive && (!model || exact);
            let kernel = tcp(&policy, &std::net::Ipv4Addr::from(ip).to_string(), port) == Reason::Allowed;
            prop_assert_eq!(kernel, naive, "{} port {}", std::net::Ipv4Addr::from(ip), port);
        }
    }
}
