//! Who may call which tool, told as promises.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use claw::{Hash, json, json::Limits};
use policy::{
    Contract, HostFacts, Policy, compile,
    group::{Class, Risk},
    host::McpServer,
    tool::{ToolReason, ToolVerdict},
};

const ALLOW: ToolVerdict = ToolVerdict::Allow;
const HOLD: ToolVerdict = ToolVerdict::Hold;

const fn deny(reason: ToolReason) -> ToolVerdict {
    ToolVerdict::Deny(reason)
}

fn server(name: &str, risk: Risk) -> McpServer {
    McpServer {
        name: name.into(),
        endpoint: None,
        risk,
        class: Class::Irreversible,
        read: vec!["get_*".parse().unwrap(), "export".parse().unwrap()],
        write: vec!["get_and_set".parse().unwrap()],
        irreversible: vec!["get_out".parse().unwrap()],
    }
}

fn policy(guard: &str) -> Policy {
    let text = format!(
        "{{\"policy_version\":\"1\",\"policy_id\":\"p\",\"issuer_did\":\"did:x\",\"metadata\":{{\"clawguard.v1\":{guard}}}}}"
    );
    let payload = json::parse(text.as_bytes(), Limits { bytes: 1 << 20, depth: 32 }).unwrap();
    let host =
        HostFacts { mcp_servers: vec![server("crm", Risk::Low), server("vault", Risk::High)], ..HostFacts::default() };
    compile(&Contract::read(&payload).unwrap(), Hash([7; 32]), &host).unwrap()
}

#[test]
fn nothing_is_callable_that_no_line_allows() {
    for guard in ["{}", r#"{"tools":{}}"#, r#"{"tools":{"allow":[]}}"#, r#"{"tools":{"no_approval":["crm/get_a"]}}"#] {
        assert_eq!(policy(guard).tools.decide("crm", "get_a"), deny(ToolReason::ToolNotAllowed), "{guard}");
    }
}

#[test]
fn a_denial_wins_over_everything() {
    let tools =
        policy(r#"{"tools":{"allow":["crm/get_a","vault/get_a"],"approve":["crm/*"],"deny":["*/get_*"]}}"#).tools;
    for server in ["crm", "vault", "elsewhere"] {
        assert_eq!(tools.decide(server, "get_a"), deny(ToolReason::ToolDenied));
    }
    assert_eq!(tools.judge("crm", "get_a").rule, Some("metadata.clawguard.v1.tools.deny[0]"));
}

#[test]
fn a_server_that_the_host_does_not_know_has_no_tools() {
    let tools = policy(r#"{"tools":{"allow":["*/*","elsewhere/get_a"]}}"#).tools;
    assert_eq!(tools.decide("elsewhere", "get_a"), deny(ToolReason::UnknownServer));
    assert_eq!(tools.decide("CRM", "get_a"), deny(ToolReason::UnknownServer));
    assert_eq!(tools.decide("crm", "get_a"), ALLOW);
}

#[test]
fn high_risk_needs_a_name_and_a_person() {
    let decide = |guard: &str| policy(guard).tools.decide("vault", "get_a");
    assert_eq!(decide(r#"{"tools":{"allow":["vault/*"]}}"#), deny(ToolReason::HighRiskNotNamed));
    assert_eq!(decide(r#"{"tools":{"allow":["*/get_a"]}}"#), deny(ToolReason::HighRiskNotNamed));
    assert_eq!(decide(r#"{"tools":{"approve":["vault/*"]}}"#), deny(ToolReason::HighRiskNotNamed));
    assert_eq!(decide(r#"{"tools":{"allow":["vault/get_a"]}}"#), HOLD);
    assert_eq!(decide(r#"{"tools":{"approve":["vault/get_a"]}}"#), HOLD);
    assert_eq!(decide(r#"{"tools":{"allow":["vault/get_a"],"no_approval":["vault/get_b"]}}"#), HOLD);
    assert_eq!(decide(r#"{"tools":{"allow":["vault/get_a"],"no_approval":["vault/get_a"]}}"#), ALLOW);
    assert_eq!(
        decide(r#"{"tools":{"allow":["vault/*"],"no_approval":["vault/get_a"]}}"#),
        deny(ToolReason::HighRiskNotNamed)
    );
    // Who asks for a person gets one.
    assert_eq!(decide(r#"{"tools":{"approve":["vault/get_a"],"no_approval":["vault/get_a"]}}"#), HOLD);
}

#[test]
fn the_higher_risk_counts_whoever_names_it() {
    let judged = |server: &str, risk: &str| {
        let guard = format!(
            "{{\"tools\":{{\"allow\":[\"*/get_a\",\"crm/get_a\"]}},\"groups\":[{{\"name\":\"g\",\"risk\":\"{risk}\",\"tools\":[\"*/get_*\"]}}]}}"
        );
        let policy = policy(&guard);
        let judgement = policy.tools.judge(server, "get_a");
        (judgement.risk, judgement.verdict)
    };
    assert_eq!(judged("crm", "low"), (Risk::Low, ALLOW));
    assert_eq!(judged("crm", "medium"), (Risk::Medium, ALLOW));
    assert_eq!(judged("crm", "high"), (Risk::High, HOLD));
    // A contract's low does not lower the host's high.
    assert_eq!(judged("vault", "low"), (Risk::High, deny(ToolReason::HighRiskNotNamed)));
}

#[test]
fn the_gravest_class_counts_and_the_name_where_nobody_said() {
    let policy = policy("{}");
    let class = |tool: &str| policy.tools.judge("crm", tool).class;
    assert_eq!(class("get_a"), Class::Read);
    assert_eq!(class("get_and_set"), Class::Write);
    assert_eq!(class("get_out"), Class::Irreversible);
    assert_eq!(class("export"), Class::Read);
    assert_eq!(class("list_a"), Class::Read);
    assert_eq!(class("comment_a"), Class::Write);
    assert_eq!(class("purge"), Class::Irreversible);
}

#[test]
fn a_tool_belongs_to_the_groups_that_follow_from_what_it_is() {
    let guard = r#"{"groups":[{"name":"a","tools":["crm/get_*"]},{"name":"b","tools":["vault/*"]},{"name":"c"}]}"#;
    let policy = policy(guard);
    let groups: Vec<String> = policy.tools.judge("crm", "get_a").groups.iter().map(ToString::to_string).collect();
    assert_eq!(groups, ["a", "all", "class:read", "mcp:crm", "mode:tools-off", "risk:low", "tool:crm/get_a"]);
}

#[test]
fn the_words_for_reasons_stay() {
    let labels = ToolReason::ALL.map(ToolReason::label);
    assert_eq!(
        labels,
        [
            "tool_denied",
            "unknown_server",
            "tool_not_allowed",
            "profile_readonly",
            "high_risk_not_named",
            "mcp_not_allowed"
        ]
    );
}
