//! What else of MCP than tools may pass, told as promises.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use claw::{json, json::Limits};
use policy::{
    Contract, GatewayPolicy,
    contract::Error,
    group::Risk,
    host::McpServer,
    mcp::{ResourcePattern, What},
    tool::{NotAPattern, ToolReason, ToolVerdict},
};
use proptest::prelude::*;

fn read(guard: &str) -> Result<Contract, Error> {
    let text = format!(
        "{{\"policy_version\":\"1\",\"policy_id\":\"p\",\"issuer_did\":\"did:x\",\"metadata\":{{\"clawguard.v1\":{guard}}}}}"
    );
    Contract::read(&json::parse(text.as_bytes(), Limits { bytes: 1 << 24, depth: 32 }).unwrap())
}

fn policy(guard: &str) -> GatewayPolicy {
    let server = |name: &str, risk| McpServer::new(name.into(), None, risk, [vec![], vec![], vec![]]);
    let servers = [server("docs", Risk::Low), server("crm", Risk::Medium), server("vault", Risk::High)];
    GatewayPolicy::of(&read(guard).unwrap(), &servers)
}

const ALL: [What<'_>; 11] = [
    What::Resources,
    What::Resource("file:///srv/a"),
    What::Prompts,
    What::Prompt("greet"),
    What::Completion,
    What::Sampling,
    What::Elicitation,
    What::ElicitationUrl,
    What::Roots,
    What::Tasks,
    What::Logging,
];

#[test]
fn nothing_passes_that_no_line_gives() {
    for guard in
        ["{}", r#"{"mcp":{}}"#, r#"{"mcp":{"resources":[],"sampling":[]}}"#, r#"{"tools":{"allow":["docs/*"]}}"#]
    {
        let policy = policy(guard);
        for what in ALL {
            assert!(!policy.mcp.may("docs", what), "{guard} {what:?}");
            assert_eq!(policy.other("docs", what).verdict, ToolVerdict::Deny(ToolReason::McpNotAllowed), "{what:?}");
        }
    }
}

#[test]
fn forms_without_such_rules_give_none_of_it() {
    for text in [
        r#"{"wpc_version":"v1","policy_name":"p","allowed_tools":[{"kind":"mcp","server":"docs","tools":["*"]}]}"#,
        r#"{"wpc_version":"v1","policy_name":"p","tools":{"allow":["mcp.docs.*"]}}"#,
    ] {
        let contract = Contract::read(&json::parse(text.as_bytes(), Limits { bytes: 1 << 20, depth: 32 }).unwrap());
        let servers = [McpServer::new("docs".into(), None, Risk::Low, [vec![], vec![], vec![]])];
        let policy = GatewayPolicy::of(&contract.unwrap(), &servers);
        assert_eq!(policy.tool("docs", "get").verdict, ToolVerdict::Allow);
        for what in ALL {
            assert!(!policy.mcp.may("docs", what), "{what:?}");
        }
    }
}

#[test]
fn each_word_gives_what_it_says_and_nothing_else() {
    for (lines, given) in [
        (r#""resources":["docs/file:///srv/*"]"#, vec![What::Resources, What::Resource("file:///srv/a")]),
        (r#""resources":["docs/note:1"]"#, vec![What::Resources]),
        (r#""prompts":["docs/greet"]"#, vec![What::Prompts, What::Prompt("greet")]),
        (r#""prompts":["docs/g*"]"#, vec![What::Prompts, What::Prompt("greet")]),
        (r#""prompts":["docs/x"]"#, vec![What::Prompts]),
        (r#""completion":["docs"]"#, vec![What::Completion]),
        (r#""sampling":["docs"]"#, vec![What::Sampling]),
        (r#""elicitation":["docs"]"#, vec![What::Elicitation]),
        (r#""elicitation_url":["docs"]"#, vec![What::ElicitationUrl]),
        (r#""roots":["docs"]"#, vec![What::Roots]),
        (r#""tasks":["docs"]"#, vec![What::Tasks]),
        (r#""logging":["docs"]"#, vec![What::Logging]),
    ] {
        let policy = policy(&format!("{{\"mcp\":{{{lines}}}}}"));
        for what in ALL {
            assert_eq!(policy.mcp.may("docs", what), given.contains(&what), "{lines} {what:?}");
            assert!(!policy.mcp.may("crm", what), "{lines} {what:?}");
            assert!(!lines.starts_with(&format!("\"{}\"", what.member())) || what.member() == given[0].member());
        }
    }
}

#[test]
fn any_server_is_none_of_high_risk_and_none_that_the_host_does_not_know() {
    let every = r#""mcp":{"resources":["*/*"],"prompts":["*/*"],"completion":["*"],"sampling":["*"],"elicitation":["*"],
        "elicitation_url":["*"],"roots":["*"],"tasks":["*"],"logging":["*"]}"#;
    let policy_ = policy(&format!("{{{every}}}"));
    for what in ALL {
        assert!(policy_.mcp.may("docs", what) && policy_.mcp.may("crm", what), "{what:?}");
        assert!(!policy_.mcp.may("vault", what) && !policy_.mcp.may("elsewhere", what), "{what:?}");
        assert_eq!(policy_.other("elsewhere", what).verdict, ToolVerdict::Deny(ToolReason::UnknownServer));
    }
    // A group of the contract makes it as risky as its riskiest tool.
    let grouped =
        policy(&format!("{{{every},\"groups\":[{{\"name\":\"g\",\"risk\":\"high\",\"tools\":[\"crm/x\"]}}]}}"));
    assert!(grouped.mcp.may("docs", What::Sampling) && !grouped.mcp.may("crm", What::Sampling));
    let named = policy(r#"{"mcp":{"resources":["vault/*"],"sampling":["vault"]}}"#);
    assert!(named.mcp.may("vault", What::Resource("any")) && named.mcp.may("vault", What::Sampling));
}

#[test]
fn what_is_no_tool_goes_with_every_group_of_its_server() {
    let guard = r#"{"mcp":{"resources":["crm/*"],"sampling":["crm"]},"groups":[{"name":"a","risk":"low","tools":["crm/get"]},
        {"name":"b","tools":["docs/*"]},{"name":"c","tools":["*/x"]}]}"#;
    let groups = |what| policy(guard).other("crm", what).groups.iter().map(ToString::to_string).collect::<Vec<_>>();
    let of = |class: &str| ["a", "all", "c", class, "mcp:crm", "mode:tools-off", "risk:medium"].map(str::to_owned);
    assert_eq!(groups(What::Resource("x")), of("class:read"));
    assert_eq!(groups(What::Sampling), of("class:write"));
    assert_eq!(policy(guard).other("crm", What::Sampling).rule, Some("metadata.clawguard.v1.mcp.sampling[0]"));
}

#[test]
fn a_wildcard_of_resources_leads_nowhere_else() {
    let pattern: ResourcePattern = "docs/file:///srv/docs/*".parse().unwrap();
    for inside in ["", "a.md", "a/b", "a..b", "..a", "a...", "%41", "a%2fb", "%", "%zz", "?q=1#f", "a:b", "..."] {
        assert!(pattern.matches("docs", &format!("file:///srv/docs/{inside}")), "{inside}");
    }
    for outside in [
        "..",
        "../etc/passwd",
        "a/../../x",
        ".",
        "./x",
        "%2e%2e/x",
        "%2E./x",
        ".%2e/x",
        "..%2fx",
        "%2e%2e%2fx",
        "%252e%252e/x",
        "%25252e%25252e%25252fx",
        "..\\x",
        "a\\..\\x",
        "..%5cx",
        "a?x=../y",
        "a#../x",
        "..;/x",
        "\u{ff0e}\u{ff0e}/x",
        "a b",
        "\u{e9}",
        "\n",
        "..?x",
        "a;..",
        "%2%65%2%65/x",
    ] {
        let uri = format!("file:///srv/docs/{outside}");
        assert!(!pattern.matches("docs", &uri), "{outside}");
        // By its exact text, or by everything, it is what somebody meant.
        assert!("docs/*".parse::<ResourcePattern>().unwrap().matches("docs", &uri), "{outside}");
    }
    assert!(!pattern.matches("docs", "FILE:///srv/docs/a") && !pattern.matches("docs", "file:///srv/doc"));
    assert!(!pattern.matches("docs", &format!("file:///srv/docs/{}", "a".repeat(2048))));
    let exact: ResourcePattern = "docs/file:///srv/docs/../x".parse().unwrap();
    assert!(exact.matches("docs", "file:///srv/docs/../x"));
}

#[test]
fn resources_are_written_in_one_way() {
    for text in [
        "docs/file:///srv/a.md",
        "docs/file:///srv/*",
        "docs/*",
        "*/*",
        "*/note:1",
        "a.b/x",
        "d/https://docs.example/*",
        "d/https://docs.example/a",
        "d/https://docs.example",
        "d/note://pro*",
        "d/https://*",
        "d/h*",
    ] {
        assert_eq!(text.parse::<ResourcePattern>().unwrap().to_string(), text);
    }
    let long = format!("a/{}", "x".repeat(2049));
    for wrong in
        ["", "a", "/", "a/", "/b", "a*/b", "a/b*c", "a/*b", "a/**", "a b/c", "a/b c", "a/b\n", "a/\u{e9}", &long]
    {
        assert_eq!(wrong.parse::<ResourcePattern>(), Err(NotAPattern::Resource), "{wrong:?}");
    }
    for host in ["d/https://docs.example*", "d/HTTP://d*", "d/https://docs.example:8*", "d/https://docs.example?x*"] {
        assert_eq!(host.parse::<ResourcePattern>(), Err(NotAPattern::HostPart), "{host:?}");
    }
}

#[test]
fn what_is_not_understood_is_refused_and_named() {
    let many = format!("{{\"roots\":[{}]}}", vec!["\"docs\""; 10_001].join(","));
    for (mcp, expected) in [
        (r#"{"resource":[]}"#, "metadata.clawguard.v1.mcp.resource is unknown"),
        (r#"{"instructions":["docs"]}"#, "metadata.clawguard.v1.mcp.instructions is unknown"),
        (r#"{"resources":"docs/*"}"#, "metadata.clawguard.v1.mcp.resources is a string, not a list"),
        (r#"{"resources":["docs"]}"#, "mcp.resources[0]: \"docs\": resources are written SERVER/URI"),
        (r#"{"resources":["a/https://b*"]}"#, "stands in a host's name"),
        (r#"{"prompts":["docs/a","docs/b/c"]}"#, "mcp.prompts[1]: \"docs/b/c\""),
        (r#"{"sampling":["docs/x"]}"#, "mcp.sampling[0]: \"docs/x\": a server is *"),
        (r#"{"sampling":true}"#, "mcp.sampling is a boolean, not a list"),
        (r#"{"tasks":[1]}"#, "mcp.tasks[0] is a number"),
        (r#"[]"#, "metadata.clawguard.v1.mcp is a list, not an object"),
        (&many, "mcp.roots: 10000 lines at most"),
    ] {
        let error = read(&format!("{{\"mcp\":{mcp}}}")).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn the_documentation_has_every_word_and_its_example_is_understood() {
    let text = include_str!("../../../../docs/CONTRACTS.md");
    for what in ALL {
        assert!(text.contains(&format!("\n| `{}` | `SERVER", what.member())), "{what:?}");
    }
    let blocks = text.split("```json\n").filter_map(|rest| rest.split_once("```"));
    let example = blocks.map(|(block, _)| block).find(|block| block.starts_with("\"mcp\": ")).unwrap();
    let policy = policy(&format!("{{{example}}}"));
    assert!(policy.mcp.may("docs", What::Resource("file:///srv/docs/a.md")));
    assert!(policy.mcp.may("docs", What::Prompt("any")) && !policy.mcp.may("docs", What::Sampling));
}

proptest! {
    #[test]
    fn a_pattern_that_covers_another_matches_what_it_matches(
        a in "(\\*|[ab])/([ab]{1,2}|[ab/.]{0,3}\\*)", b in "(\\*|[ab])/([ab]{1,2}|[ab/.]{0,3}\\*)",
        s in "[ab]", uri in "[ab/.%2e]{1,6}",
    ) {
        let (a, b): (ResourcePattern, ResourcePattern) = (a.parse().unwrap(), b.parse().unwrap());
        if b.matches(&s, &uri) && a.covers(&b) {
            prop_assert!(a.matches(&s, &uri), "{} {} {}", a, b, uri);
        }
    }

    /// However a path is written: what is read of it never leaves the folder that a wildcard names.
    #[test]
    fn no_spelling_of_a_path_leaves_the_folder(uri in "file:///srv/docs/([ab./\\\\]|%2[eEfF5]|%5[cC]|%25|2e|2f|[?#;]){0,12}") {
        let pattern: ResourcePattern = "docs/file:///srv/docs/*".parse().unwrap();
        if pattern.matches("docs", &uri) {
            let mut text = uri.clone();
            for _ in 0..20 {
                let mut depth = 0_i32;
                for part in text.trim_start_matches("file:///srv/docs/").split(['/', '\\', '?', '#', ';']) {
                    depth += match part { "" | "." => 0, ".." => -1, _ => 1 };
                    prop_assert!(depth >= 0, "{} as {}", uri, text);
                }
                text = text.replace("%2e", ".").replace("%2E", ".").replace("%2f", "/").replace("%2F", "/")
                    .replace("%5c", "\\").replace("%5C", "\\").replace("%25", "%");
            }
        }
    }
}
