//! `[model]`: the way to models, and what the gateway is told of it.

use std::{collections::BTreeMap, fs, path::PathBuf};

use clawguard_common::Addr;
use control::model::{ModelRules, ProviderRules};
use policy::name::HostPattern;
use serde::Deserialize;

use super::{Config, Error, Place, Text, place, secret};

/// The providers whose calls are understood, and where they answer.
const PROVIDERS: [(&str, &str); 3] = [
    ("openai", "https://api.openai.com"),
    ("anthropic", "https://api.anthropic.com"),
    ("google", "https://generativelanguage.googleapis.com"),
];
/// The gateway makes the calls itself and signs their receipts.
const BUILTIN: &str = "builtin";

/// `[model]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Model {
    /// The TCP port of loopback at which agents find the model gateway: `http://127.0.0.1:PORT/v1/…`.
    pub port: u16,
    /// `builtin`, or clawproxy's URL. Without it no model is reached by the gateway.
    pub proxy: Option<String>,
    /// Provider to the host's key for it: the value itself, `file:PATH` or `credential:NAME`.
    pub keys: BTreeMap<String, String>,
    /// Provider to another URL than its public one.
    pub endpoints: BTreeMap<String, String>,
    /// The only certificates (PEM) by which providers, or clawproxy, are trusted, instead of the platform's.
    pub ca: Option<PathBuf>,
    /// Hosts that serve models, beyond the built-in list: names, or `*.x` for all below one.
    pub hosts: Vec<Text<HostPattern>>,
}

impl Default for Model {
    fn default() -> Self {
        Self { port: 9481, proxy: None, keys: BTreeMap::new(), endpoints: BTreeMap::new(), ca: None, hosts: Vec::new() }
    }
}

/// Who makes model calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelGateway<'a> {
    /// Nobody.
    None,
    /// This host's gateway.
    Builtin,
    /// A clawproxy, at this URL.
    Clawproxy(&'a str),
}

impl Model {
    /// Who makes model calls.
    #[must_use]
    pub fn gateway(&self) -> ModelGateway<'_> {
        match self.proxy.as_deref() {
            None => ModelGateway::None,
            Some(BUILTIN) => ModelGateway::Builtin,
            Some(url) => ModelGateway::Clawproxy(url.trim_end_matches('/')),
        }
    }

    pub(super) fn check(&self, tools: u16) -> Result<(), Error> {
        let wrong = |key: &str, why: String| Err(Error::Value { key: format!("model.{key}"), why });
        if self.port == 0 || self.port == clawguard_common::guard::DNS_PORT || self.port == tools {
            return wrong("port", "a port is expected that nothing else on this host uses, [mcp] included".into());
        }
        for (table, names) in [("keys", &self.keys), ("endpoints", &self.endpoints)] {
            if let Some(name) = names.keys().find(|name| !PROVIDERS.iter().any(|(known, _)| known == name)) {
                let why = format!(
                    "\"{name}\" is no provider: openai, anthropic and google are known. One that speaks OpenAI's API is \
                     reached as openai, with its URL in [model.endpoints]"
                );
                return wrong(table, why);
            }
        }
        for (name, url) in &self.endpoints {
            if base(url).is_none() {
                let why =
                    format!("{name}: https://HOST[:PORT][/PATH] is expected (http:// for a loopback address alone)");
                return wrong("endpoints", why);
            }
        }
        if let ModelGateway::Clawproxy(url) = self.gateway() {
            if place(url).is_none() {
                let why = "\"builtin\" is expected, or clawproxy's https://HOST[:PORT] (http:// for a loopback address alone)";
                return wrong("proxy", why.into());
            }
            if !self.endpoints.is_empty() {
                return wrong("endpoints", "clawproxy knows where its providers are: leave them out".into());
            }
        }
        Ok(())
    }

    /// The providers that calls may go to, each with its URL: in a clawproxy's hands all of them, else those of which the host has
    /// a key or says where they are.
    fn providers(&self) -> Vec<(&'static str, &str)> {
        let gateway = self.gateway();
        let known = PROVIDERS.iter().filter_map(|(name, public)| match gateway {
            ModelGateway::None => None,
            ModelGateway::Clawproxy(url) => Some((*name, url)),
            ModelGateway::Builtin => match self.endpoints.get(*name) {
                Some(url) => Some((*name, url.as_str())),
                None => self.keys.contains_key(*name).then_some((*name, *public)),
            },
        });
        known.collect()
    }

    /// The places that the gateway has to reach.
    pub(crate) fn places(&self) -> Vec<&str> {
        self.providers().into_iter().filter_map(|(_, url)| base(url)).map(|(origin, ..)| origin).collect()
    }

    /// The hosts and addresses that the gateway's model calls go to.
    pub(crate) fn destinations(&self) -> Vec<String> {
        let places = self.providers().into_iter().filter_map(|(_, url)| base(url));
        places
            .map(|(_, place, _)| match place {
                Place::Name(name) => name.to_string(),
                Place::Address(address) => address.to_string(),
            })
            .collect()
    }

    /// The hosts that serve models here beside the public ones: whoever goes there himself has gone around the gateway.
    pub(super) fn own_hosts(&self) -> impl Iterator<Item = HostPattern> {
        self.providers().into_iter().filter_map(|(_, url)| match base(url)? {
            (_, Place::Name(name), _) => Some(HostPattern::Exact(name)),
            (_, Place::Address(_), _) => None,
        })
    }

    /// The same of those that have no name.
    pub(super) fn own_places(&self) -> impl Iterator<Item = (Addr, u16)> {
        self.providers().into_iter().filter_map(|(_, url)| match base(url)? {
            (_, Place::Address(address), port) => Some((policy::net::addr(address), port)),
            (_, Place::Name(_), _) => None,
        })
    }

    /// Whether a provider is one whose calls are understood: others are told apart in no metric.
    pub(crate) fn knows(provider: &str) -> bool {
        PROVIDERS.iter().any(|(name, _)| *name == provider)
    }
}

/// The origin of a URL without its path, and where that is.
fn base(url: &str) -> Option<(&str, Place, u16)> {
    let scheme = url.find("://")? + 3;
    let rest = url.get(scheme..)?;
    if rest.contains(['?', '#', '@', ' ']) {
        return None;
    }
    let end = rest.find('/').map_or(url.len(), |at| scheme + at);
    let origin = url.get(..end)?;
    place(origin).map(|(place, port)| (origin, place, port))
}

/// What the gateway is told of the way to models, with the secrets read; and what is wrong with the providers that are left out.
#[must_use]
pub fn model_rules(config: &Config, signer: String) -> (ModelRules, Vec<String>) {
    let model = &config.model;
    let mut problems = Vec::new();
    let ca = match model.ca.as_deref().map(|path| (path, fs::read_to_string(path))) {
        None => None,
        Some((_, Ok(text))) => Some(text),
        Some((path, Err(error))) => {
            problems.push(format!("no model is reached: {}: {error}", path.display()));
            return (ModelRules::default(), problems);
        }
    };
    let mut rules =
        ModelRules { providers: Vec::new(), proxied: matches!(model.gateway(), ModelGateway::Clawproxy(_)), signer };
    for (name, url) in model.providers() {
        let key = match model.keys.get(name).map(|named| secret(named)).transpose() {
            Ok(Some(key)) if key.trim().is_empty() => Err("the key is empty".to_owned()),
            other => other,
        };
        match key {
            Ok(key) => rules.providers.push(ProviderRules {
                name: name.into(),
                url: url.trim_end_matches('/').into(),
                addresses: base(url).map(|(origin, ..)| config.addresses_of(origin)).unwrap_or_default(),
                ca: ca.clone(),
                key,
            }),
            Err(why) => problems.push(format!("models of {name} are not reached: {why}")),
        }
    }
    (rules, problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Result<Config, String> {
        let text = format!("[hosts]\n\"llm.example\" = [\"203.0.113.30\"]\n[model]\n{text}");
        let config: Config = toml::from_str(&text).map_err(|error| error.to_string())?;
        config.check().map_err(|error| error.to_string())?;
        Ok(config)
    }

    fn rules(text: &str) -> (ModelRules, Vec<String>) {
        model_rules(&config(text).unwrap(), "did:key:z".into())
    }

    #[test]
    fn a_provider_is_reached_where_the_host_has_its_key_or_says_where_it_is() {
        let (found, problems) = rules(
            "proxy = \"builtin\"\nkeys = { anthropic = \"sk-1\" }\nendpoints = { openai = \"https://llm.example:8443/openai/\" }",
        );
        assert!(problems.is_empty());
        let told: Vec<_> =
            found.providers.iter().map(|p| (p.name.as_str(), p.url.as_str(), p.key.as_deref())).collect();
        assert_eq!(
            told,
            [
                ("openai", "https://llm.example:8443/openai", None),
                ("anthropic", "https://api.anthropic.com", Some("sk-1"))
            ]
        );
        assert_eq!(found.providers[0].addresses, ["203.0.113.30".parse::<std::net::IpAddr>().unwrap()]);
        assert!(!found.proxied && rules("keys = { openai = \"sk-1\" }").0.providers.is_empty());
    }

    #[test]
    fn a_clawproxy_stands_for_all_providers() {
        let (found, _) = rules("proxy = \"https://proxy.example/\"\nkeys = { openai = \"sk-1\" }");
        assert!(found.proxied);
        assert!(found.providers.iter().all(|provider| provider.url == "https://proxy.example"));
        assert_eq!(found.providers.len(), 3);
    }

    #[test]
    fn a_provider_whose_key_cannot_be_had_is_left_out_and_told() {
        let (found, problems) = rules("proxy = \"builtin\"\nkeys = { openai = \"file:/nowhere/key\", google = \"k\" }");
        assert_eq!(found.providers.len(), 1);
        assert!(problems[0].contains("models of openai are not reached: /nowhere/key"), "{problems:?}");
        let (found, problems) = rules("proxy = \"builtin\"\nkeys = { google = \" \" }");
        assert!(found.providers.is_empty() && problems[0].contains("empty"));
        let (found, problems) = rules("proxy = \"builtin\"\nca = \"/nowhere/ca.pem\"\nkeys = { google = \"k\" }");
        assert!(found.providers.is_empty() && problems[0].contains("/nowhere/ca.pem"));
    }

    #[test]
    fn what_is_wrong_is_named_with_what_to_do() {
        for (text, expected) in [
            ("keys = { openia = \"k\" }", "openai, anthropic and google are known"),
            ("endpoints = { mistral = \"https://x.example\" }", "reached as openai"),
            ("endpoints = { openai = \"http://llm.example\" }", "http:// for a loopback address alone"),
            ("endpoints = { openai = \"https://llm.example/v1?x\" }", "https://HOST"),
            ("proxy = \"http://proxy.example\"", "clawproxy's https://HOST"),
            ("proxy = \"buildin\"", "\"builtin\" is expected"),
            ("proxy = \"https://p.example\"\nendpoints = { openai = \"https://x.example\" }", "leave them out"),
            ("port = 9480", "nothing else on this host uses"),
            ("port = 53", "nothing else on this host uses"),
        ] {
            let error = config(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let bare = config("proxy = \"builtin\"\nendpoints = { openai = \"http://127.0.0.1:8000/v9\" }").unwrap();
        let facts = bare.facts();
        assert!(facts.is_model_place(policy::net::addr("127.0.0.1".parse().unwrap()), 8000));
        assert!(!facts.is_model_place(policy::net::addr("127.0.0.1".parse().unwrap()), 8001));
    }
}
