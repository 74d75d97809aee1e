//! Model providers' hosts: the list that is compiled in (`data/model_hosts.json`).

use std::{collections::BTreeSet, sync::LazyLock};

use serde::Deserialize;

#[derive(Deserialize)]
struct List {
    hosts: BTreeSet<String>,
    /// `*` stands for one or more characters of one label.
    patterns: Vec<String>,
    suffixes: Vec<String>,
}

static LIST: LazyLock<List> = LazyLock::new(|| {
    // A test reads the file; an unreadable list could only be built in.
    serde_json::from_str(include_str!("../data/model_hosts.json")).unwrap_or(List {
        hosts: BTreeSet::new(),
        patterns: Vec::new(),
        suffixes: Vec::new(),
    })
});

/// Whether the list names this host.
pub(crate) fn is_model_host(host: &str) -> bool {
    LIST.hosts.contains(host)
        || LIST.suffixes.iter().any(|suffix| host.ends_with(suffix.as_str()))
        || LIST.patterns.iter().any(|pattern| matches(pattern, host))
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
}
