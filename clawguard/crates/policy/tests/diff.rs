//! What `diff` says of two contracts, and that it calls nothing narrower that allows more.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod naive;

use std::net::IpAddr;

use claw::{Value, json, json::Limits};
use naive::{
    Answer, Facts,
    generate::{self, ADDRESSES, NAMES, SERVERS, TOOLS, URIS, WORDS},
};
use policy::{Contract, diff, diff::ChangeKind};
use proptest::prelude::*;

fn value(text: &str) -> Value {
    json::parse(text.as_bytes(), Limits { bytes: 1 << 20, depth: 32 }).unwrap()
}

fn read(text: &str) -> Contract {
    Contract::read(&value(text)).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn registered(guard: &str) -> Contract {
    read(&format!(
        "{{\"policy_version\":\"1\",\"policy_id\":\"p\",\"issuer_did\":\"did:x\",\"metadata\":{{\"clawguard.v1\":{guard}}}}}"
    ))
}

fn told(old: &Contract, new: &Contract) -> Vec<String> {
    diff(old, new).into_iter().map(|c| format!("{}: {}: {}", c.kind.label(), c.path, c.text)).collect()
}

#[test]
fn changes_are_told_in_sentences_and_the_widening_first() {
    for (old, new, expected) in [
        (
            "{}",
            r#"{"egress":[{"host":"crm.example","class":"write","groups":["crm"]}]}"#,
            &["widens: egress: adds write access to crm.example:443/tcp (groups crm)"][..],
        ),
        (
            r#"{"egress":[{"cidr":"10.0.0.0/8","ports":[1]}]}"#,
            r#"{"egress":[{"host":"x.example","quic":true}]}"#,
            &[
                "widens: egress: adds access to x.example:443/tcp",
                "widens: egress: adds access to x.example:443/udp",
                "narrows: egress: takes away access to 10.0.0.0/8 port 1/tcp",
            ],
        ),
        (
            r#"{"egress":[{"host":"a.example","class":"read"}]}"#,
            r#"{"egress":[{"host":"a.example","class":"write","tls":false}]}"#,
            &[
                "widens: egress: changes a.example:443/tcp from class read to class write, which cannot be judged and so \
                 counts as wider",
                "widens: egress: no longer asks for TLS at a.example:443/tcp",
            ],
        ),
        (
            r#"{"egress":[{"host":"a.example"},{"host":"b.example","ech":true}]}"#,
            r#"{"egress":[{"host":"a.example","ech":true},{"host":"b.example"}]}"#,
            &[
                "widens: egress: allows encrypted ClientHellos at a.example:443/tcp",
                "narrows: egress: no longer allows encrypted ClientHellos at b.example:443/tcp",
            ],
        ),
        (
            r#"{"egress":[{"host":"*.example"},{"host":"*.a.example","ports":[1]}]}"#,
            r#"{"egress":[{"host":"*.example"}]}"#,
            &[
                "widens: egress: takes away what egress said of *.a.example itself, so that *.example decides about it, \
                 which cannot be judged and so counts as wider",
                "narrows: egress: takes away access to *.a.example:1/tcp",
            ],
        ),
        (
            r#"{"egress":[{"host":"*.a.example"},{"host":"x.a.example","ports":[1]}]}"#,
            r#"{"egress":[{"host":"*.a.example"}]}"#,
            &[
                "widens: egress: takes away what egress said of x.a.example itself, so that *.a.example decides about it, \
                 which cannot be judged and so counts as wider",
                "narrows: egress: takes away access to x.a.example:1/tcp",
            ],
        ),
        (
            r#"{"listen":[{"cidr":"127.0.0.0/8","ports":[1]}],"unix_sockets":true}"#,
            r#"{"listen":[{"cidr":"0.0.0.0/0","ports":[1]}]}"#,
            &[
                "widens: listen: adds callers from 0.0.0.0/0 port 1/tcp",
                "narrows: listen: takes away callers from 127.0.0.0/8 port 1/tcp",
                "narrows: unix_sockets: no longer allows unix sockets",
            ],
        ),
        (
            r#"{"tools":{"allow":["crm/get","crm/x"],"deny":["*/shell"]}}"#,
            r#"{"tools":{"allow":["crm/get","crm/*"],"approve":["crm/x"],"no_approval":["crm/get"]}}"#,
            &[
                "widens: tools: allows crm/*",
                "widens: tools: needs nobody's approval for crm/get at high risk",
                "widens: tools: no longer denies */shell",
                "narrows: tools: holds crm/x for a person",
                "narrows: tools: no longer allows crm/x",
            ],
        ),
        (
            r#"{"token":{"cst_max_ttl_seconds":900,"policy_hash_pinning":"required"}}"#,
            r#"{"token":{"cst_max_ttl_seconds":1800,"require_scope_hash":true}}"#,
            &[
                "widens: token: changes the longest life of a token from 900 s to 1800 s",
                "widens: token: no longer asks for the contract's hash in the token",
                "narrows: token: asks for the hash of a token's scope",
            ],
        ),
        (
            r#"{"sequence":1,"not_after":"2030-01-01T00:00:00Z","model":{"on_bypass":"halt"},"data_classes":{"deny":["secrets"],"allow":["secrets","credentials"]}}"#,
            r#"{"sequence":2,"model":{"require_proxy_receipts":true},"data_classes":{"allow":["secrets","b"],"redact":["secrets"]}}"#,
            &[
                "widens: data_classes: changes what becomes of secrets from denied to redacted",
                "widens: model: changes on_bypass from halt to alert",
                "widens: not_after: changes the end from 2030-01-01T00:00:00.000Z to never",
                "narrows: data_classes: changes what becomes of credentials from passed to denied",
                "narrows: model: asks for a receipt of every model call",
                "changes: data_classes.allow: adds b, which is no class that can be told by its form",
                "changes: sequence: changes from 1 to 2",
            ],
        ),
        (
            r#"{"mcp":{"resources":["docs/file:///a/*","docs/note:1"],"sampling":["docs"]}}"#,
            r#"{"mcp":{"resources":["docs/*"],"prompts":["docs/x"],"elicitation_url":["*"]}}"#,
            &[
                "widens: mcp.elicitation_url: adds the server *",
                "widens: mcp.prompts: adds the prompts docs/x",
                "widens: mcp.resources: adds the resources docs/*",
                "narrows: mcp.resources: takes away the resources docs/file:///a/*",
                "narrows: mcp.resources: takes away the resources docs/note:1",
                "narrows: mcp.sampling: takes away the server docs",
            ],
        ),
        (
            r#"{"data_classes":{}}"#,
            "{}",
            &["widens: mcp: no longer speaks about MCP: servers that egress names are open as a whole"],
        ),
        (r#"{"data_classes":{}}"#, r#"{"tools":{}}"#, &[]),
        (
            "{}",
            r#"{"mcp":{}}"#,
            &["narrows: mcp: speaks about MCP, so that the gateway is the only way to MCP servers"],
        ),
        (
            r#"{"groups":[{"name":"crm","risk":"low","tools":["crm/*"]}]}"#,
            r#"{"groups":[{"name":"crm","risk":"high","tools":["crm/a"]}]}"#,
            &[
                "widens: groups crm: takes away tools crm/*",
                "narrows: groups crm: adds tools crm/a",
                "narrows: groups crm: changes the risk of crm from low to high",
            ],
        ),
    ] {
        assert_eq!(told(&registered(old), &registered(new)), expected, "{old} {new}");
    }
}

#[test]
fn what_a_person_may_still_agree_to_is_not_called_gone() {
    let tools = |rules: &str| registered(&format!("{{\"tools\":{{\"allow\":[],\"approve\":[{rules}]}}}}"));
    let gone = "narrows: tools: no longer allows crm/get, not even with a person";
    assert_eq!(told(&tools(r#""crm/get""#), &tools("")), [gone]);
    assert_eq!(told(&tools(r#""crm/get","crm/a*""#), &tools(r#""crm/a*""#)), [gone]);
    let left =
        "narrows: tools: no longer allows crm/get once a person agrees, except for what other lines of approve name";
    for wide in ["crm/*", "*/get", "crm/g*"] {
        let line = format!("\"{wide}\"");
        assert_eq!(told(&tools(&format!("\"crm/get\",{line}")), &tools(&line)), [left], "{wide}");
    }
}

#[test]
fn a_token_has_a_longest_life_where_nobody_says_one() {
    let life = |of: &str| registered(&format!("{{\"token\":{{{of}}}}}"));
    let (hour, unsaid) = (life(r#""cst_max_ttl_seconds":3600"#), life(""));
    assert_eq!(diff(&hour, &unsaid), []);
    assert_eq!(diff(&unsaid, &hour), []);
    let text = "token: changes the longest life of a token from 3600 s (unsaid) to 7200 s";
    assert_eq!(told(&unsaid, &life(r#""cst_max_ttl_seconds":7200"#)), [format!("widens: {text}")]);
    let text = "token: changes the longest life of a token from 900 s to 3600 s (unsaid)";
    assert_eq!(told(&life(r#""cst_max_ttl_seconds":900"#), &unsaid), [format!("widens: {text}")]);
}

#[test]
fn metadata_of_others_is_told_apart_by_its_whole_name() {
    let long = "x".repeat(80);
    let contract = |members: &str| {
        read(&format!(
            "{{\"policy_version\":\"1\",\"policy_id\":\"p\",\"issuer_did\":\"did:x\",\"metadata\":{{{members}}}}}"
        ))
    };
    let two = contract(&format!("\"{long}a\":1,\"{long}b\":2"));
    assert_eq!(diff(&two, &two), []);
    let changed = contract(&format!("\"{long}a\":1,\"{long}b\":3"));
    assert_eq!(told(&two, &changed), [format!("changes: metadata.{long}...: changes; it is not ClawGuard's")]);
}

#[test]
fn forms_can_be_compared_with_each_other() {
    let listed = read(include_str!("vectors/listed.json"));
    let profiled = read(include_str!("vectors/profiled.json"));
    let told = told(&listed, &profiled);
    for line in [
        "widens: tools: allows microsoft_graph/mail.read",
        "widens: tools: no longer denies */shell",
        "widens: data_classes: changes what becomes of secrets from denied to passed",
        "widens: model: no longer asks for a receipt of every model call",
        "narrows: tools: changes the profile from none to readonly",
        "narrows: tools: adds the denial of OpenClaw's tool exec",
        "changes: policy_id: changes from mcp-enterprise-agent-minimal to m365-readonly-triage",
    ] {
        assert!(told.contains(&line.to_owned()), "{line}: {told:#?}");
    }
    let unknown = |url: &str| {
        let entry = format!("{{\"kind\":\"http\",\"url\":\"{url}\"}}");
        read(&format!("{{\"wpc_version\":\"v1\",\"policy_name\":\"p\",\"allowed_tools\":[{entry}]}}"))
    };
    assert_eq!(diff(&unknown("a"), &unknown("b"))[0].kind, ChangeKind::Widens);
    assert_eq!(diff(&unknown("a"), &unknown("a")), []);
}

/// Something that the new contract allows and the old one does not.
fn wider(old: &Value, new: &Value, facts: &Facts) -> Option<String> {
    let rank = |answer| match answer {
        Answer::No => 0,
        Answer::Held => 1,
        Answer::Yes => 2,
    };
    for to in ADDRESSES {
        let ip: IpAddr = to.parse().unwrap();
        for port in [80, 443, 8443] {
            for by in ["tcp", "udp"] {
                let reaches = |contract| naive::may_reach(contract, facts, ip, port, by);
                if reaches(new) && !reaches(old) {
                    return Some(format!("{to} port {port}/{by}"));
                }
            }
        }
    }
    for name in NAMES {
        for port in [80, 443, 8443] {
            let way = |contract| naive::may_call_for(contract, facts, name, port).unwrap_or((false, false, true));
            let ((tcp, udp, tls), (had_tcp, had_udp, had_tls)) = (way(new), way(old));
            if tcp && !had_tcp || udp && !had_udp || tcp && !tls && had_tls {
                return Some(format!("{name}:{port}"));
            }
        }
    }
    for server in SERVERS {
        for tool in TOOLS {
            let call = |contract| rank(naive::may_call(contract, facts, server, tool));
            if call(new) > call(old) {
                return Some(format!("{server}/{tool}"));
            }
        }
        let has = |contract, (member, name)| naive::may_have(contract, facts, server, member, name);
        let words = WORDS.map(|(word, _)| (word, None));
        let names =
            URIS.map(|uri| ("resources", Some(uri))).into_iter().chain(TOOLS.map(|tool| ("prompts", Some(tool))));
        let lists = [("resources", None), ("prompts", None)];
        if let Some(what) = names.chain(words).chain(lists).find(|what| has(new, *what) && !has(old, *what)) {
            return Some(format!("{server}: {what:?}"));
        }
    }
    None
}

fn compare(old: &serde_json::Value, new: &serde_json::Value, facts: &Facts) -> Result<(), TestCaseError> {
    let (old, new) = (value(&old.to_string()), value(&new.to_string()));
    let (Ok(before), Ok(after)) = (Contract::read(&old), Contract::read(&new)) else { return Ok(()) };
    let changes = diff(&before, &after);
    if changes.iter().all(|change| change.kind != ChangeKind::Widens) {
        prop_assert_eq!(wider(&old, &new, facts), None, "{} to {}: {:?}", old, new, changes);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_is_not_called_wider_is_not((whole, less) in generate::contract_and_less(), facts in generate::facts()) {
        compare(&whole, &less, &facts)?;
        compare(&less, &whole, &facts)?;
    }

    #[test]
    fn a_contract_does_not_differ_from_itself(payload in generate::contract()) {
        let contract = read(&payload.to_string());
        prop_assert_eq!(diff(&contract, &contract), []);
    }
}
