//! No contract stops the compiler, and one contract compiles to one policy: rules sorted, no two for one place.
#![no_main]

use std::{collections::BTreeSet, sync::LazyLock};

use claw::json::{Limits, parse};
use libfuzzer_sys::fuzz_target;
use policy::{
    Contract, HostFacts,
    compile::{Rule, check, compile},
    group::{Class, Risk},
    host::{At, McpServer},
    tool::ToolVerdict,
};

static HOST: LazyLock<HostFacts> = LazyLock::new(|| {
    let hosts = [
        ("a.example", "203.0.113.10"),
        ("b.w.example", "203.0.113.31"),
        ("w.example", "203.0.113.32"),
        ("lan.example", "10.1.2.3"),
        ("meta.example", "169.254.169.254"),
        ("six.example", "2001:db8::5"),
        ("api.openai.com", "203.0.113.66"),
    ];
    let named = |(name, addr): (&str, &str)| {
        (name.parse().expect("a host name"), BTreeSet::from([addr.parse().expect("an address")]))
    };
    HostFacts {
        hosts: hosts.into_iter().map(named).collect(),
        mcp_servers: vec![McpServer {
            name: "mcp".into(),
            endpoint: Some((At::Name("a.example".parse().expect("a host name")), 443)),
            risk: Risk::Medium,
            class: Class::Write,
            read: vec!["get_*".parse().expect("a pattern")],
            write: vec!["update_*".parse().expect("a pattern")],
            irreversible: Vec::new(),
        }],
        ..HostFacts::default()
    }
});

fuzz_target!(|data: &[u8]| {
    let Ok(value) = parse(data, Limits { bytes: 1 << 16, depth: 32 }) else { return };
    let Ok(mut contract) = Contract::read(&value) else { return };
    // The order of members says nothing; what is foreign is listed as it comes.
    let sorted = parse(value.canonical().as_bytes(), Limits { bytes: 1 << 20, depth: 32 }).expect("canonical JSON");
    let mut again = Contract::read(&sorted).expect("a contract in another order is a contract");
    again.foreign_metadata.sort_unstable();
    contract.foreign_metadata.sort_unstable();
    assert_eq!(again, contract);

    let hash = value.canonical_hash();
    let first = compile(&contract, hash, &HOST);
    assert_eq!(first, compile(&contract, hash, &HOST));
    let checked = check(&contract, hash, &HOST);
    assert_eq!(checked.as_ref().map(|(policy, _)| policy).map_err(Clone::clone), first.as_ref().map_err(Clone::clone));
    let Ok(policy) = first else { return };
    let place = |rule: &Rule| (rule.side, rule.protocol, rule.port, rule.range.addr.bytes(), rule.range.bits);
    let places: Vec<_> = policy.rules.iter().map(place).collect();
    assert!(places.is_sorted(), "{places:?}");
    assert!(places.windows(2).all(|pair| pair[0] != pair[1]), "{places:?}");
    assert!(policy.rules.iter().all(|rule| usize::from(rule.set) < policy.sets.len()));
    // Whatever the contract's text, a tool of a server that the host does not know is denied.
    assert!(matches!(policy.tools.decide("elsewhere", "get_it"), ToolVerdict::Deny(_)));
});
