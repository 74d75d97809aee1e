//! Forms 2 and 3, and what became of every line of a contract in any form.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;

use claw::{Hash, Value, json, json::Limits};
use clawguard_common::Reason;
use policy::{
    Contract, Finding, HostFacts, Policy,
    compile::check,
    contract::{Form, Lifetime, Profile, TokenRules},
    group::{Class, Risk},
    host::{At, McpServer},
    tool::{ToolReason, ToolVerdict},
};

const HASH: Hash = Hash([7; 32]);
/// As Claw's documentation prints them, byte for byte.
const LISTED: &str = include_str!("vectors/listed.json");
const PROFILED: &str = include_str!("vectors/profiled.json");

fn server(name: &str, risk: Risk, read: &[&str]) -> McpServer {
    McpServer {
        name: name.into(),
        endpoint: Some((At::Name(format!("{name}.example").replace('_', "-").parse().unwrap()), 443)),
        risk,
        class: Class::Irreversible,
        read: read.iter().map(|text| text.parse().unwrap()).collect(),
        write: Vec::new(),
        irreversible: Vec::new(),
    }
}

fn host() -> HostFacts {
    HostFacts {
        hosts: [("api.openai.com".parse().unwrap(), BTreeSet::from(["203.0.113.66".parse().unwrap()]))].into(),
        mcp_servers: vec![
            server("crm-mcp", Risk::Medium, &[]),
            server("tickets-mcp", Risk::High, &[]),
            server("microsoft_graph", Risk::Low, &["users.read", "mail.*"]),
        ],
        ..HostFacts::default()
    }
}

fn value(text: &str) -> Value {
    json::parse(text.as_bytes(), Limits { bytes: 1 << 20, depth: 32 }).unwrap()
}

fn checked(text: &str) -> (Contract, Policy, Vec<Finding>) {
    let contract = Contract::read(&value(text)).unwrap();
    let (policy, findings) = check(&contract, HASH, &host()).unwrap();
    (contract, policy, findings)
}

fn unread(text: &str) -> String {
    Contract::read(&value(text)).unwrap_err().to_string()
}

fn lines(findings: &[Finding]) -> String {
    findings.iter().map(|f| format!("{}: {}: {}\n", f.path, f.outcome.label(), f.note)).collect()
}

/// Paths of all values that have none inside them.
fn leaves(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (name, value) in members {
                leaves(value, &if path.is_empty() { name.to_string() } else { format!("{path}.{name}") }, found);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (i, item) in items.iter().enumerate() {
                leaves(item, &format!("{path}[{i}]"), found);
            }
        }
        _ => found.push(path.to_owned()),
    }
}

/// Lines of which no finding says what became of them.
fn dropped(text: &str, findings: &[Finding]) -> Vec<String> {
    let mut found = Vec::new();
    leaves(&value(text), "", &mut found);
    let covers = |finding: &Finding, leaf: &str| {
        leaf.strip_prefix(&*finding.path).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    found.retain(|leaf| !findings.iter().any(|finding| covers(finding, leaf)));
    found
}

#[test]
fn the_listed_form_of_the_documentation_is_read_as_it_stands() {
    let (contract, policy, _) = checked(LISTED);
    assert_eq!(contract.form, Form::Listed);
    assert_eq!(contract.policy_id, "mcp-enterprise-agent-minimal");
    assert_eq!((contract.issuer, policy.sequence, policy.not_after), (None, 0, None));
    assert_eq!(policy.lifetime, Lifetime::Default);
    assert!(policy.rules.iter().all(|rule| rule.reason != Reason::Allowed));
    let rules =
        TokenRules { max_ttl_seconds: Some(900), require_scope_hash: true, require_pin: true, job_scoped: true };
    assert_eq!(policy.token, Some(rules));
    let decide = |server, tool| policy.tools.decide(server, tool);
    assert_eq!(decide("crm-mcp", "search_customer"), ToolVerdict::Allow);
    assert_eq!(decide("crm-mcp", "get_case"), ToolVerdict::Allow);
    // Its risk is high, and form 2 cannot say that no person is needed.
    assert_eq!(decide("tickets-mcp", "comment_ticket"), ToolVerdict::Hold);
    assert_eq!(decide("crm-mcp", "delete_case"), ToolVerdict::Deny(ToolReason::ToolNotAllowed));
    assert_eq!(decide("crm-mcp", "shell"), ToolVerdict::Deny(ToolReason::ToolDenied));
    assert_eq!(decide("elsewhere", "file_write"), ToolVerdict::Deny(ToolReason::ToolDenied));
    assert_eq!(decide("elsewhere", "search_customer"), ToolVerdict::Deny(ToolReason::UnknownServer));
    let groups: Vec<String> = policy.gateway_groups.iter().map(ToString::to_string).collect();
    assert_eq!(groups, ["class:read", "class:write", "mcp:crm-mcp", "mcp:tickets-mcp", "risk:high", "risk:medium"]);
}

#[test]
fn the_profiled_form_of_the_documentation_is_read_as_it_stands() {
    let (contract, policy, _) = checked(PROFILED);
    assert_eq!(contract.form, Form::Profiled);
    assert_eq!(contract.guard.tools.as_ref().unwrap().profile, Some(Profile::Readonly));
    let names = |lines: &[policy::contract::OpenClawLine]| lines.iter().map(|l| l.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&contract.guard.openclaw.allow), ["web.get", "text.search"]);
    assert_eq!(names(&contract.guard.openclaw.deny), ["exec", "write", "apply_patch", "tools.elevated.*"]);
    assert_eq!(policy.lifetime, Lifetime::Default);
    let rules = TokenRules { max_ttl_seconds: None, require_scope_hash: true, require_pin: false, job_scoped: true };
    assert_eq!(policy.token, Some(rules));
    let decide = |tool| policy.tools.decide("microsoft_graph", tool);
    assert_eq!(decide("users.read"), ToolVerdict::Allow);
    assert_eq!(decide("mail.read"), ToolVerdict::Allow);
    // Nobody said what it does, and its first word is no verb that only reads.
    assert_eq!(decide("calendar.read"), ToolVerdict::Deny(ToolReason::ProfileReadonly));
    assert_eq!(decide("mail.send"), ToolVerdict::Deny(ToolReason::ToolDenied));
    assert_eq!(decide("mail.list"), ToolVerdict::Deny(ToolReason::ToolNotAllowed));
}

#[test]
fn openclaws_words_for_all_mcp_tools_deny_them_here() {
    for word in ["*", "bundle-mcp", "group:plugins"] {
        let text = format!(
            "{{\"wpc_version\":\"v1\",\"policy_name\":\"p\",\"tools\":{{\"allow\":[\"crm-mcp/get_case\"],\"deny\":[\"{word}\"]}}}}"
        );
        let (contract, policy, findings) = checked(&text);
        assert_eq!(policy.tools.decide("crm-mcp", "get_case"), ToolVerdict::Deny(ToolReason::ToolDenied), "{word}");
        assert_eq!(contract.guard.openclaw.deny[0].name, word);
        assert_eq!(dropped(&text, &findings), [""; 0], "{}", lines(&findings));
    }
}

#[test]
fn check_tells_the_documentations_contracts_line_by_line() {
    for (text, golden, file) in [
        (LISTED, include_str!("vectors/listed.findings.txt"), "listed"),
        (PROFILED, include_str!("vectors/profiled.findings.txt"), "profiled"),
    ] {
        let (_, _, findings) = checked(text);
        assert_eq!(lines(&findings), golden, "{file}");
    }
}

#[test]
fn no_line_of_a_contract_is_dropped_in_silence() {
    let registered = r#"{"policy_version":"1","policy_id":"p","issuer_did":"did:x","allowed_models":["m*"],
        "allowed_providers":["openai"],"minimum_model_identity_tier":"tee_measured","receipt_privacy_mode":"hash_only",
        "required_audit_packs":["a"],"redaction_rules":[{"path":"$.x","action":"hash"}],
        "egress_allowlist":["crm.example","*.x.example","10.0.0.0/8","api.example"],
        "metadata":{"ticket":{"of":["OPS-1"]},"clawguard.v1":{"sequence":3,
        "not_before":"2025-01-01T00:00:00Z","not_after":"2030-01-01T00:00:00Z","unix_sockets":true,
        "listen":[{"cidr":"127.0.0.0/8","ports":[18789],"protocol":"udp"}],
        "egress":[{"host":"crm.example","groups":["crm"],"quic":true,"class":"read"},{"cidr":"10.1.0.0/16","ports":[1]}],
        "tools":{"allow":["crm-mcp/*","x/y"],"deny":["*/z"],"approve":["crm-mcp/a"],"no_approval":["x/y"]},
        "mcp":{"resources":["crm-mcp/note:*"],"prompts":["x/*"],"completion":["*"],"sampling":["crm-mcp"],"elicitation":["x"],
        "elicitation_url":["x"],"roots":["crm-mcp"],"tasks":["crm-mcp"],"logging":["crm-mcp"]},
        "data_classes":{"allow":["a"],"deny":["secrets"],"redact":["credentials"]},"groups":[{"name":"crm","risk":"low","tools":["x/*"]}],
        "model":{"require_proxy_receipts":false,"on_bypass":"halt"},
        "token":{"cst_max_ttl_seconds":9,"require_scope_hash":false,"policy_hash_pinning":"optional"}}}}"#;
    let empty = r#"{"policy_version":"1","policy_id":"p","issuer_did":"did:x","allowed_models":[],"allowed_providers":[],
        "required_audit_packs":[],"redaction_rules":[],"egress_allowlist":[],"metadata":{"clawguard.v1":{"listen":[],
        "egress":[],"tools":{"allow":[],"deny":[],"approve":[],"no_approval":[]},"data_classes":{"allow":[],"deny":[],"redact":[]},
        "mcp":{"resources":[],"prompts":[],"completion":[],"sampling":[],"elicitation":[],"elicitation_url":[],"roots":[],
        "tasks":[],"logging":[]},"groups":[],"model":{},"token":{}}}}"#;
    for text in [
        registered,
        empty,
        &empty.replace(r#""allow":[],"deny":[],"approve":[],"no_approval":[]"#, ""),
        r#"{"policy_version":"1","policy_id":"p","issuer_did":"did:x","metadata":{}}"#,
        r#"{"policy_version":"1","policy_id":"p","issuer_did":"did:x","metadata":{"clawguard.v1":{}}}"#,
        LISTED,
        PROFILED,
        r#"{"wpc_version":"v1","policy_name":"p","allowed_tools":[{"kind":"mcp","server":"*","tools":[]},
            {"kind":"mcp","server":"*","tools":["a*"]},{"kind":"http","url":["x"]}],"denied_tools":[],"data_classes":{},
            "model_egress":{},"token_constraints":{"policy_hash_pinning":"optional"}}"#,
        r#"{"wpc_version":"v1","policy_name":"p","model_egress":{"require_proxy_receipts":false,"provider":"x"}}"#,
        r#"{"wpc_version":"v1","policy_name":"p","tools":{},"token_binding":{}}"#,
        r#"{"wpc_version":"v1","policy_name":"p","tools":{"profile":"full","allow":["*","a/b"],"deny":["*","a/b"]},
            "token_binding":{"job_scoped_anti_replay":false,"optional_policy_hash_pinning":false}}"#,
    ] {
        let (_, _, findings) = checked(text);
        assert_eq!(dropped(text, &findings), [""; 0], "{text}\n{}", lines(&findings));
    }
}

#[test]
fn a_contract_has_one_form_and_only_that_forms_fields() {
    for (text, expected) in [
        (r#"{"policy_version":"1","wpc_version":"v1"}"#, "wpc_version: policy_version is there too"),
        (r#"{"wpc_version":"v2","policy_name":"p","tools":{}}"#, "wpc_version: \"v2\": this version reads"),
        (r#"{"wpc_version":1,"policy_name":"p","tools":{}}"#, "wpc_version is a number, not a string"),
        (r#"{"wpc_version":"v1","policy_name":"p"}"#, "neither allowed_tools nor tools"),
        (
            r#"{"wpc_version":"v1","policy_name":"p","tools":{},"data_classes":{}}"#,
            "tools: data_classes is there too, which belongs to another form",
        ),
        (r#"{"wpc_version":"v1","tools":{}}"#, "policy_name is missing"),
        (r#"{"wpc_version":"v1","policy_name":"","tools":{}}"#, "policy_name: 1 to 128 characters"),
        (r#"{"wpc_version":"v1","policy_name":"p","tools":{},"sequence":1}"#, "sequence is unknown"),
        (r#"{"wpc_version":"v1","policy_name":"p","tools":{"approve":[]}}"#, "tools.approve is unknown"),
        (r#"{"wpc_version":"v1","policy_name":"p","tools":{"no_approval":[]}}"#, "tools.no_approval is unknown"),
        (r#"{"wpc_version":"v1","policy_name":"p","tools":{"profile":"coding"}}"#, "tools.profile: \"coding\""),
        (r#"{"wpc_version":"v1","policy_name":"p","tools":{"allow":["mcp.crm"]}}"#, "tools.allow[0]: \"mcp.crm\""),
        (r#"{"wpc_version":"v1","policy_name":"p","tools":{"deny":[1]}}"#, "tools.deny[0] is a number"),
        (r#"{"wpc_version":"v1","policy_name":"p","tools":{"deny":["*.send"]}}"#, "could stand for MCP tools"),
        (
            r#"{"wpc_version":"v1","policy_name":"p","tools":{"deny":["crm__get"]}}"#,
            "write what is denied as SERVER/TOOL",
        ),
        (
            r#"{"wpc_version":"v1","policy_name":"p","token_binding":{"cst_max_ttl_seconds":9}}"#,
            "token_binding.cst_max_ttl_seconds is unknown",
        ),
        (
            r#"{"wpc_version":"v1","policy_name":"p","allowed_tools":[{"kind":"mcp","server":"a"}]}"#,
            "allowed_tools[0].tools is missing",
        ),
        (
            r#"{"wpc_version":"v1","policy_name":"p","allowed_tools":[{"kind":"mcp","server":"a/b","tools":[]}]}"#,
            "allowed_tools[0].server: \"a/b\"",
        ),
        (
            r#"{"wpc_version":"v1","policy_name":"p","allowed_tools":[{"kind":"mcp","server":"a","tools":["b/c"]}]}"#,
            "allowed_tools[0].tools[0]: \"b/c\"",
        ),
        (
            r#"{"wpc_version":"v1","policy_name":"p","allowed_tools":[{"kind":"mcp","server":"a","tools":[],"x":1}]}"#,
            "allowed_tools[0].x is unknown",
        ),
        (
            r#"{"wpc_version":"v1","policy_name":"p","denied_tools":[{"kind":"shell","names":["rm"]}]}"#,
            "denied_tools[0].kind: \"shell\": a kind of tools that this version does not know",
        ),
        (
            r#"{"wpc_version":"v1","policy_name":"p","model_egress":{"on_bypass":"halt"}}"#,
            "model_egress.on_bypass is unknown",
        ),
        (r#"{"policy_version":"1","policy_id":"p","issuer_did":"did:x","tools":{}}"#, "tools is unknown"),
    ] {
        let error = unread(text);
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn a_pin_is_required_where_a_contract_says_that_it_is_not_optional() {
    let pin = |binding: &str| {
        let text = format!("{{\"wpc_version\":\"v1\",\"policy_name\":\"p\",\"token_binding\":{binding}}}");
        checked(&text).1.token.map(|rules| (rules.require_pin, rules.job_scoped))
    };
    assert_eq!(pin("{}"), Some((false, true)));
    assert_eq!(pin(r#"{"optional_policy_hash_pinning":true}"#), Some((false, true)));
    assert_eq!(pin(r#"{"optional_policy_hash_pinning":false}"#), Some((true, true)));
    assert_eq!(pin(r#"{"job_scoped_anti_replay":false}"#), Some((false, true)));
}
