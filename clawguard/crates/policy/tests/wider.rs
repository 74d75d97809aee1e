//! No contract of any form compiles to more than its text says.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod naive;

use claw::{Hash, json, json::Limits};
use clawguard_common::{Reason, protocol, side};
use naive::{
    Answer,
    generate::{self, ADDRESSES, NAMES, SERVERS, TOOLS, URIS, WORDS},
};
use policy::{
    Contract, GatewayPolicy, Policy, compile, group::Risk, mcp::What, names::NameIndex, net, sample, tool::ToolVerdict,
};
use proptest::prelude::*;

fn read(value: &serde_json::Value) -> (claw::Value, Contract) {
    let text = value.to_string();
    let payload = json::parse(text.as_bytes(), Limits { bytes: 1 << 20, depth: 32 }).unwrap();
    let contract = Contract::read(&payload).unwrap_or_else(|error| panic!("{text}: {error}"));
    (payload, contract)
}

fn reaches(policy: &Policy, to: &str, port: u16, by: u8) -> bool {
    let to = net::addr(to.parse().unwrap());
    sample::find(policy, side::EGRESS, by, port, to).is_some_and(|rule| rule.reason == Reason::Allowed)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_the_kernel_lets_out_is_what_the_text_lets_out(payload in generate::contract(), facts in generate::facts()) {
        let (text, contract) = read(&payload);
        // A contract that is refused lets nothing out.
        let Ok(policy) = compile(&contract, Hash([7; 32]), &facts.host()) else { return Ok(()) };
        for to in ADDRESSES {
            for port in [80, 443, 8443] {
                for (by, name) in [(protocol::TCP, "tcp"), (protocol::UDP, "udp")] {
                    let expected = naive::may_reach(&text, &facts, to.parse().unwrap(), port, name);
                    prop_assert_eq!(reaches(&policy, to, port, by), expected, "{} {} {}: {}", to, port, name, payload);
                }
            }
        }
    }

    #[test]
    fn a_name_may_be_called_for_where_the_text_says_so(payload in generate::contract(), facts in generate::facts()) {
        let (text, contract) = read(&payload);
        let Ok(policy) = compile(&contract, Hash([7; 32]), &facts.host()) else { return Ok(()) };
        let index = NameIndex::of(&policy);
        for name in NAMES {
            let host = name.parse().unwrap();
            let found = index.rules(&host);
            for port in [80, 443, 8443] {
                let rule = found.rules.iter().find(|rule| rule.port == port);
                let way = rule.map(|rule| (rule.tcp, rule.udp, rule.tls));
                prop_assert_eq!(way, naive::may_call_for(&text, &facts, name, port), "{} {}: {}", name, port, payload);
            }
        }
    }

    /// Where TLS is asked for at a fixed address, the names that may be called for there are the host's own rules.
    #[test]
    fn a_fixed_address_is_bound_to_the_rules_of_its_names(payload in generate::contract(), facts in generate::facts()) {
        let (_, contract) = read(&payload);
        let Ok(policy) = compile(&contract, Hash([7; 32]), &facts.host()) else { return Ok(()) };
        let index = NameIndex::of(&policy);
        let mut expected = Vec::new();
        for (name, address) in &facts.hosts {
            let (host, addr) = (name.parse().unwrap(), net::addr(address.parse().unwrap()));
            for rule in index.rules(&host).rules.into_iter().filter(|rule| rule.tls) {
                let there = sample::find(&policy, side::EGRESS, protocol::TCP, rule.port, addr);
                let there = there.filter(|there| there.range.bits == 128 && there.reason == Reason::Allowed);
                if let Some(there) = there.filter(|there| there.tls) {
                    prop_assert_eq!((there.set, there.ech), (rule.set, rule.ech));
                    expected.push((rule.port, rule.number, addr));
                } else {
                    // A special range, which a name does not open, or what a CIDR opens by itself.
                    prop_assert!(*name == "inside.test" || there.is_some(), "{}: {}", name, payload);
                }
            }
        }
        expected.sort_unstable();
        let bound: Vec<_> = policy.bound.iter().map(|bound| (bound.port, bound.number, bound.addr)).collect();
        prop_assert_eq!(bound, expected, "{}", payload);
    }

    #[test]
    fn who_may_call_a_tool_is_who_may_by_the_text(payload in generate::contract(), facts in generate::facts()) {
        let (text, contract) = read(&payload);
        let Ok(policy) = compile(&contract, Hash([7; 32]), &facts.host()) else { return Ok(()) };
        for server in SERVERS {
            for tool in TOOLS {
                let decided = match policy.tools.decide(server, tool) {
                    ToolVerdict::Allow => Answer::Yes,
                    ToolVerdict::Hold => Answer::Held,
                    ToolVerdict::Deny(_) => Answer::No,
                };
                let expected = naive::may_call(&text, &facts, server, tool);
                prop_assert_eq!(decided, expected, "{}/{}: {} on {:?}", server, tool, payload, facts);
            }
        }
    }

    #[test]
    fn what_else_of_mcp_may_pass_is_what_may_by_the_text(payload in generate::contract(), facts in generate::facts()) {
        let (text, contract) = read(&payload);
        let host = facts.host();
        let policy = GatewayPolicy::of(&contract, &host.mcp_servers);
        for server in SERVERS {
            let pass = |what, member, name| {
                let expected = naive::may_have(&text, &facts, server, member, name);
                prop_assert_eq!(policy.mcp.may(server, what), expected, "{} {:?}: {} on {:?}", server, what, payload, facts);
                let judged = policy.other(server, what).verdict;
                prop_assert_eq!(judged == ToolVerdict::Allow, expected, "{} {:?}", server, what);
                Ok(())
            };
            pass(What::Resources, "resources", None)?;
            pass(What::Prompts, "prompts", None)?;
            for uri in URIS {
                pass(What::Resource(uri), "resources", Some(uri))?;
            }
            for name in TOOLS {
                pass(What::Prompt(name), "prompts", Some(name))?;
            }
            for (member, what) in WORDS {
                pass(what, member, None)?;
            }
        }
    }

    #[test]
    fn a_gateway_decides_what_the_host_has_compiled(payload in generate::contract(), facts in generate::facts()) {
        let (_, contract) = read(&payload);
        let host = facts.host();
        let Ok(policy) = compile(&contract, Hash([7; 32]), &host) else { return Ok(()) };
        let gateway = GatewayPolicy::of(&contract, &host.mcp_servers);
        prop_assert_eq!((&gateway.tools, &gateway.mcp, gateway.token), (&policy.tools, &policy.mcp, policy.token));
        // What a call belongs to can be switched off: its groups are the kernel's, the gateway's or built in.
        for server in ["crm", "graph", "local"] {
            let all = TOOLS.iter().map(|tool| gateway.tool(server, tool));
            for judged in all.chain(What::WHOLE.map(|what| gateway.other(server, what))) {
                if matches!(judged.verdict, ToolVerdict::Deny(_)) {
                    continue;
                }
                let always = |name: &str| matches!(name, "all" | "mode:tools-off") || name.starts_with("tool:");
                for group in judged.groups.iter().filter(|group| !always(group.as_str())) {
                    let known = policy.gateway_groups.contains(group) || policy.kernel_groups.contains(group);
                    let known = known || group.tool_of().is_some();
                    prop_assert!(known, "{} of {}: {}", group, server, payload);
                }
            }
        }
    }

    /// A wildcard gives nothing of high risk, and a denial is passed by nothing.
    #[test]
    fn nothing_of_high_risk_is_called_that_no_line_names(payload in generate::contract(), facts in generate::facts()) {
        let (_, contract) = read(&payload);
        let gateway = GatewayPolicy::of(&contract, &facts.host().mcp_servers);
        let lines = contract.guard.tools.iter().flat_map(|t| t.allow.iter().flatten().chain(&t.approve));
        let named: Vec<_> = lines.filter_map(|line| line.pattern.exact()).collect();
        let denied = |s: &str, t: &str| {
            contract.guard.tools.iter().flat_map(|tools| &tools.deny).any(|line| line.pattern.matches(s, t))
        };
        for server in SERVERS {
            for tool in TOOLS {
                let judged = gateway.tool(server, tool);
                if !matches!(judged.verdict, ToolVerdict::Deny(_)) {
                    prop_assert!(judged.risk < Risk::High || named.contains(&(server, tool)), "{server}/{tool}: {payload}");
                    prop_assert!(!denied(server, tool), "{server}/{tool}: {payload}");
                }
            }
        }
    }

    /// Where a contract speaks about MCP, no server is open to the kernel at all.
    #[test]
    fn no_endpoint_is_open_to_what_only_the_gateway_judges(payload in generate::contract(), facts in generate::facts()) {
        let (_, contract) = read(&payload);
        let Ok(policy) = compile(&contract, Hash([7; 32]), &facts.host()) else { return Ok(()) };
        let guard = &contract.guard;
        if guard.tools.is_none() && guard.mcp.is_none() && guard.data_classes.is_none() {
            return Ok(());
        }
        for address in ["198.51.100.7", "198.51.100.8", "127.0.0.1", "127.0.0.9"] {
            for by in [protocol::TCP, protocol::UDP] {
                prop_assert!(!reaches(&policy, address, 443, by), "{}: {}", address, payload);
            }
        }
    }
}

#[test]
fn the_generated_contracts_are_seldom_refused_and_allow_something() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut compiled, mut reached, mut called, mut had) = (0, 0, 0, 0);
    for _ in 0..1000 {
        let payload = generate::contract().new_tree(&mut runner).unwrap().current();
        let facts = generate::facts().new_tree(&mut runner).unwrap().current();
        let (_, contract) = read(&payload);
        if let Ok(policy) = compile(&contract, Hash([7; 32]), &facts.host()) {
            compiled += 1;
            reached += usize::from(ADDRESSES.iter().any(|to| reaches(&policy, to, 443, protocol::TCP)));
            let may = |server: &str| TOOLS.iter().any(|tool| policy.tools.decide(server, tool) == ToolVerdict::Allow);
            called += usize::from(may("crm"));
            had += usize::from(URIS.iter().any(|uri| policy.mcp.may("crm", What::Resource(uri))));
        }
    }
    assert!(compiled > 600 && reached > 150 && called > 60 && had > 20, "{compiled} {reached} {called} {had}");
}
