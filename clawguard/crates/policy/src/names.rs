//! Names as they are asked for: what a policy says of one, and what one is that it does not say.

use std::{collections::HashMap, ops::Range};

use clawguard_common::Reason;

use crate::{
    compile::{NameRule, Policy},
    host::HostFacts,
    models,
    name::{HostName, HostPattern},
};

/// A policy's names, to be asked by look-ups.
#[derive(Clone, Debug, Default)]
pub struct NameIndex {
    /// As in the policy: those of one pattern side by side.
    rules: Vec<NameRule>,
    exact: HashMap<HostName, Range<usize>>,
    below: HashMap<HostName, Range<usize>>,
}

/// What a policy says of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found<'a> {
    /// The rules that allow it, one for each port at most.
    pub rules: Vec<&'a NameRule>,
    /// Why some port of it is denied, if a rule says so: what says more than [`Reason::NotInContract`] comes first.
    pub denied: Option<Reason>,
    /// Whether one of `rules` is a wildcard's: whoever asks can have made the name up.
    pub wildcard: bool,
}

impl NameIndex {
    /// Of a policy's names.
    #[must_use]
    pub fn of(policy: &Policy) -> Self {
        Self::new(policy.names.clone())
    }

    /// Of rules that are sorted as [`Policy::names`] are.
    pub(crate) fn new(rules: Vec<NameRule>) -> Self {
        let (mut exact, mut below) = (HashMap::new(), HashMap::new());
        let mut at = 0;
        for same in rules.chunk_by(|one, other| one.name == other.name) {
            let range = at..at + same.len();
            at = range.end;
            match same.first().map(|rule| &rule.name) {
                Some(HostPattern::Exact(name)) => exact.insert(name.clone(), range),
                Some(HostPattern::Below(name)) => below.insert(name.clone(), range),
                None => None,
            };
        }
        Self { rules, exact, below }
    }

    pub(crate) fn into_rules(self) -> Vec<NameRule> {
        self.rules
    }

    /// What is said of a host. At each port the narrowest pattern that has the port decides, as in the kernel.
    #[must_use]
    pub fn rules(&self, host: &HostName) -> Found<'_> {
        let around = host.parents_as_text().filter_map(|parent| self.below.get(parent));
        let mut found = Found { rules: Vec::new(), denied: None, wildcard: false };
        let mut decided: Vec<u16> = Vec::new();
        for range in self.exact.get(host).into_iter().chain(around) {
            let rules = self.rules.get(range.clone()).unwrap_or_default();
            let before = decided.len();
            for rule in rules {
                // Each pattern's ports are sorted, and few patterns lie around a host.
                if decided[..before].contains(&rule.port) {
                    continue;
                }
                decided.push(rule.port);
                if rule.reason == Reason::Allowed {
                    found.wildcard |= matches!(rule.name, HostPattern::Below(_));
                    found.rules.push(rule);
                } else if found.denied.is_none_or(|reason| reason == Reason::NotInContract) {
                    found.denied = Some(rule.reason);
                }
            }
        }
        found.rules.sort_by_key(|rule| rule.port);
        found
    }
}

/// What a name is that a contract does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Suspect {
    /// A model provider's host.
    Model,
    /// By its words a model's.
    LikelyModel,
    /// The host of a configured MCP server.
    Mcp,
    /// By its words an MCP server's.
    LikelyMcp,
    /// A resolver that is asked by HTTPS.
    Resolver,
}

/// Words that names of model APIs are made of.
const MODEL_WORDS: [&str; 26] = [
    "aiplatform",
    "anthropic",
    "bedrock",
    "chatgpt",
    "claude",
    "cohere",
    "completions",
    "deepseek",
    "gemini",
    "genai",
    "gpt",
    "groq",
    "huggingface",
    "inference",
    "litellm",
    "llama",
    "llm",
    "llms",
    "lmstudio",
    "mistral",
    "ollama",
    "openai",
    "openrouter",
    "qwen",
    "sglang",
    "vllm",
];

/// What is known or likely of a name, the known first.
#[must_use]
pub fn suspect(host: &HostName, facts: &HostFacts) -> Option<Suspect> {
    if facts.is_model_host(host) {
        return Some(Suspect::Model);
    }
    if facts.mcp_servers.iter().any(|server| server.host() == Some(host)) {
        return Some(Suspect::Mcp);
    }
    if models::listed_around(models::resolvers(), &HostPattern::Exact(host.clone())) {
        return Some(Suspect::Resolver);
    }
    // A number after a word makes no other word: `gpt4`, `mcp2`.
    let words = || {
        let words = host.as_str().split(['.', '-']);
        words.flat_map(|word| [word, word.trim_end_matches(|c: char| c.is_ascii_digit())])
    };
    if words().any(|word| word == "mcp") {
        return Some(Suspect::LikelyMcp);
    }
    words().any(|word| MODEL_WORDS.contains(&word)).then_some(Suspect::LikelyModel)
}

/// The model runtime that listens on a port by default, if one does.
#[must_use]
pub fn model_port(port: u16) -> Option<&'static str> {
    models::runtime(port)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn host(text: &str) -> HostName {
        text.parse().unwrap()
    }

    /// The kernel's trie, naively: the longest key that the name's key begins with.
    fn longest<'a>(rules: &'a [NameRule], name: &str, port: u16) -> Option<&'a NameRule> {
        let reversed = |text: &str| text.bytes().rev().collect::<Vec<u8>>();
        let mut asked = reversed(name);
        asked.push(0);
        let key = |rule: &NameRule| match &rule.name {
            HostPattern::Exact(name) => [reversed(name.as_str()), vec![0]].concat(),
            HostPattern::Below(name) => [reversed(name.as_str()), vec![b'.']].concat(),
        };
        rules
            .iter()
            .filter(|rule| rule.port == port && asked.starts_with(&key(rule)))
            .max_by_key(|rule| key(rule).len())
    }

    proptest! {
        #[test]
        fn the_index_finds_what_the_kernels_trie_finds(
            rules in prop::collection::btree_map(
                ("(\\*\\.)?([ab]{1,2}\\.){0,2}[ab]{1,2}", 1_u16..4),
                (0_usize..4, 0_u16..3),
                0..20,
            ),
            name in "([ab]{1,2}\\.){0,4}[ab]{1,2}",
        ) {
            let reasons = [Reason::Allowed, Reason::NotInContract, Reason::Dns, Reason::Allowed];
            let mut rules: Vec<NameRule> = rules.into_iter().map(|((name, port), (reason, set))| NameRule {
                name: name.parse().unwrap(), port, set, reason: reasons[reason],
                tcp: true, udp: false, tls: true, ech: false, number: 0,
            }).collect();
            rules.sort();
            let by_port: BTreeMap<u16, &NameRule> =
                (1..4).filter_map(|port| Some((port, longest(&rules, &name, port)?))).collect();
            let index = NameIndex::new(rules.clone());
            let found = index.rules(&host(&name));
            let allowed: Vec<&NameRule> = by_port.values().copied().filter(|rule| rule.reason == Reason::Allowed).collect();
            prop_assert_eq!(&found.rules, &allowed);
            let denied = |reason| by_port.values().any(|rule| rule.reason == reason);
            let expected = [Reason::Dns, Reason::NotInContract].into_iter().find(|reason| denied(*reason));
            prop_assert_eq!(found.denied, expected);
            prop_assert_eq!(found.wildcard, allowed.iter().any(|rule| rule.name.to_string().starts_with('*')));
        }
    }

    #[test]
    fn what_is_refused_is_known_for_what_it_is() {
        let facts = HostFacts { model_hosts: ["*.models.example".parse().unwrap()].into(), ..HostFacts::default() };
        for (name, expected) in [
            ("api.openai.com", Some(Suspect::Model)),
            ("mine.openai.azure.com", Some(Suspect::Model)),
            ("a.models.example", Some(Suspect::Model)),
            ("models.example", None),
            ("dns.google", Some(Suspect::Resolver)),
            ("abc123.dns.nextdns.io", Some(Suspect::Resolver)),
            ("mcp.example", Some(Suspect::LikelyMcp)),
            ("crm-mcp.example", Some(Suspect::LikelyMcp)),
            ("mcp2-eu.example", Some(Suspect::LikelyMcp)),
            ("mcphersons.example", None),
            ("llm.corp.example", Some(Suspect::LikelyModel)),
            ("my-llm.example", Some(Suspect::LikelyModel)),
            ("gpt4.example", Some(Suspect::LikelyModel)),
            ("inference-eu.example", Some(Suspect::LikelyModel)),
            ("fulfillment.example", None),
            ("crm.example", None),
        ] {
            assert_eq!(suspect(&host(name), &facts), expected, "{name}");
        }
    }

    #[test]
    fn runtimes_on_ones_own_machine_are_known_by_their_ports() {
        for (port, name) in
            [(11434, Some("ollama")), (4000, Some("litellm")), (12434, Some("docker-model-runner")), (443, None)]
        {
            assert_eq!(model_port(port), name, "{port}");
        }
    }
}
