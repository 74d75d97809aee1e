//! Model providers' hosts: the list that is compiled in (`data/model_hosts.json`), and other names that are told apart.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use serde::Deserialize;

use crate::name::{HostName, HostPattern};

#[derive(Default, Deserialize)]
struct List {
    hosts: BTreeSet<String>,
    /// `*` stands for one or more characters of one label.
    patterns: Vec<String>,
    suffixes: Vec<String>,
    /// Where runtimes on one's own machine listen.
    ports: BTreeMap<String, Vec<u16>>,
}

// A test reads the file; an unreadable list could only be built in.
static LIST: LazyLock<List> =
    LazyLock::new(|| serde_json::from_str(include_str!("../data/model_hosts.json")).unwrap_or_default());

/// What of the list a contract's patterns can say: its hosts, and what lies below one.
static LISTED: LazyLock<BTreeSet<HostPattern>> = LazyLock::new(|| {
    let below = LIST.suffixes.iter().filter_map(|suffix| suffix.strip_prefix('.'));
    // A pattern stands for one label only. To call more than that a model's takes nothing from the kill of models.
    let starred =
        LIST.patterns.iter().filter_map(|pattern| pattern.strip_prefix("*.")).filter(|rest| !rest.contains('*'));
    let below = below.chain(starred).filter_map(|name| name.parse().ok().map(HostPattern::Below));
    LIST.hosts.iter().filter_map(|host| host.parse().ok().map(HostPattern::Exact)).chain(below).collect()
});

/// What of the list no pattern of a contract's can say.
static UNLISTED: LazyLock<Vec<String>> = LazyLock::new(|| {
    let listed: BTreeSet<String> = LISTED.iter().map(HostPattern::to_string).collect();
    let suffixes = LIST.suffixes.iter().filter(|suffix| !suffix.starts_with('.')).map(|suffix| format!("*{suffix}"));
    LIST.patterns.iter().filter(|pattern| !listed.contains(*pattern)).cloned().chain(suffixes).collect()
});

/// Resolvers that are asked by HTTPS: they answer for names that the guard would not.
const RESOLVERS: [&str; 33] = [
    "dns.google",
    "dns64.dns.google",
    "8888.google",
    "cloudflare-dns.com",
    "*.cloudflare-dns.com",
    "one.one.one.one",
    "*.cloudflare-gateway.com",
    "dns.quad9.net",
    "dns9.quad9.net",
    "dns10.quad9.net",
    "dns11.quad9.net",
    "dns12.quad9.net",
    "doh.opendns.com",
    "doh.familyshield.opendns.com",
    "doh.sandbox.opendns.com",
    "doh.umbrella.com",
    "dns.umbrella.com",
    "dns.nextdns.io",
    "*.dns.nextdns.io",
    "doh.cleanbrowsing.org",
    "dns.adguard.com",
    "*.adguard-dns.com",
    "freedns.controld.com",
    "dns.controld.com",
    "*.dns.controld.com",
    "doh.mullvad.net",
    "dns.mullvad.net",
    "doh.dns.sb",
    "dns.alidns.com",
    "doh.pub",
    "doh.360.cn",
    "doh.libredns.gr",
    "doh.applied-privacy.net",
];

static DOH: LazyLock<BTreeSet<HostPattern>> =
    LazyLock::new(|| RESOLVERS.iter().filter_map(|text| text.parse().ok()).collect());

/// Whether the list names this host.
pub(crate) fn is_model_host(host: &str) -> bool {
    LIST.hosts.contains(host)
        || LIST.suffixes.iter().any(|suffix| host.ends_with(suffix.as_str()))
        || LIST.patterns.iter().any(|pattern| matches(pattern, host))
}

/// Model hosts as a contract's patterns would name them. [`between`] tells of those that no such pattern names.
pub(crate) fn listed() -> &'static BTreeSet<HostPattern> {
    &LISTED
}

/// Whether every host below this name is a model's.
pub(crate) fn all_below(name: &HostName) -> bool {
    let pattern = HostPattern::Below(name.clone());
    let below = format!(".{name}");
    listed_around(&LISTED, &pattern) || LIST.suffixes.iter().any(|suffix| below.ends_with(suffix.as_str()))
}

/// Whether a model's host may lie below this name that [`listed`] does not name.
pub(crate) fn between(name: &HostName) -> bool {
    UNLISTED.iter().any(|pattern| reaches_below(pattern, name.as_str()))
}

/// Resolvers that are asked by HTTPS.
pub(crate) fn resolvers() -> &'static BTreeSet<HostPattern> {
    &DOH
}

/// Whether one of the patterns covers this one.
pub(crate) fn listed_around(patterns: &BTreeSet<HostPattern>, pattern: &HostPattern) -> bool {
    let (HostPattern::Exact(name) | HostPattern::Below(name)) = pattern;
    patterns.contains(pattern) || name.parents().any(|parent| patterns.contains(&HostPattern::Below(parent)))
}

/// The runtime that listens on a port by default, if one does.
pub(crate) fn runtime(port: u16) -> Option<&'static str> {
    LIST.ports.iter().find(|(_, ports)| ports.contains(&port)).map(|(name, _)| name.as_str())
}

/// Whether a host below `name` may be of the pattern, each star of which stays in its label.
fn reaches_below(pattern: &str, name: &str) -> bool {
    let (mut labels, mut below) = (pattern.rsplit('.'), name.rsplit('.'));
    below.all(|label| labels.next().is_some_and(|pattern| matches(pattern, label))) && labels.next().is_some()
}

fn matches(pattern: &str, host: &str) -> bool {
    let Some((before, after)) = pattern.split_once('*') else {
        return pattern == host;
    };
    let Some(rest) = host.strip_prefix(before) else { return false };
    let label = rest.find('.').unwrap_or(rest.len());
    (1..=label).any(|taken| matches(after, &rest[taken..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_there_and_names_the_large_providers() {
        assert!(LIST.hosts.len() > 200 && !LIST.patterns.is_empty() && !LIST.suffixes.is_empty());
        for host in ["api.openai.com", "api.anthropic.com", "generativelanguage.googleapis.com", "openrouter.ai"] {
            assert!(is_model_host(host), "{host}");
        }
        let dotted = LIST.suffixes.iter().filter(|suffix| suffix.starts_with('.')).count();
        assert!(LISTED.len() >= LIST.hosts.len() + dotted, "every host of the list is a host's name");
        assert_eq!(DOH.len(), RESOLVERS.len());
    }

    #[test]
    fn patterns_match_inside_one_label() {
        assert!(is_model_host("bedrock-runtime.eu-west-1.amazonaws.com"));
        assert!(is_model_host("europe-west4-aiplatform.googleapis.com"));
        assert!(is_model_host("mine.openai.azure.com"));
        assert!(!is_model_host("bedrock-runtime.amazonaws.com"));
        assert!(!is_model_host("bedrock-runtime.a.b.amazonaws.com"));
        assert!(!is_model_host("s3.amazonaws.com"));
        assert!(!is_model_host("example.com"));
    }

    #[test]
    fn it_is_known_below_which_names_a_model_may_lie_that_no_pattern_names() {
        let between = |name: &str| between(&name.parse().unwrap());
        for name in
            ["com", "amazonaws.com", "eu-west-1.amazonaws.com", "googleapis.com", "baseten.co", "api.baseten.co"]
        {
            assert!(between(name), "{name}");
        }
        for name in ["example", "azure.com", "s3.eu-west-1.amazonaws.com", "storage.googleapis.com", "openai.com"] {
            assert!(!between(name), "{name}");
        }
        let all = |name: &str| all_below(&name.parse().unwrap());
        assert!(all("openai.azure.com") && all("x.openai.azure.com") && all("eu-aiplatform.googleapis.com"));
        assert!(!all("azure.com") && !all("googleapis.com") && !all("openai.com"));
    }
}
