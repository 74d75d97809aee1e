//! The ways to models, as the daemon's rules have them.

use std::{collections::HashMap, sync::Arc};

use control::model::{ModelRules, ProviderRules};
use hyper::header::HeaderValue;

use crate::mcp::upstream::Http;

/// All ways.
#[derive(Default)]
pub(crate) struct Models {
    providers: HashMap<String, Arc<Provider>>,
    /// Whether they lead to a clawproxy.
    pub(crate) proxied: bool,
    /// Whose receipts callers are given, as a DID; empty where that is not known.
    pub(crate) signer: String,
}

/// The way to a provider's models.
pub(crate) struct Provider {
    pub(crate) http: Arc<Http>,
    /// The host's key, bare and behind `Bearer`.
    pub(crate) key: Option<(HeaderValue, HeaderValue)>,
    /// What a call's path is put behind.
    pub(crate) base: String,
}

impl Models {
    pub(crate) fn new(rules: &ModelRules) -> Self {
        let mut providers = HashMap::new();
        for rules in &rules.providers {
            match Provider::new(rules) {
                Ok(provider) => drop(providers.insert(rules.name.clone(), Arc::new(provider))),
                Err(why) => {
                    tracing::error!(provider = rules.name, why, "a model provider's configuration cannot be used");
                }
            }
        }
        Self { providers, proxied: rules.proxied, signer: rules.signer.clone() }
    }

    pub(crate) fn provider(&self, name: &str) -> Option<&Arc<Provider>> {
        self.providers.get(name)
    }
}

impl Provider {
    fn new(rules: &ProviderRules) -> Result<Self, String> {
        let http = Http::new(&rules.url, &rules.addresses, rules.ca.as_deref(), std::iter::empty())?;
        let secret = |text: &str| {
            let mut value = HeaderValue::from_str(text).map_err(|_| "the key cannot be in a header".to_owned())?;
            value.set_sensitive(true);
            Ok::<_, String>(value)
        };
        let key = match rules.key.as_deref().map(str::trim) {
            Some(key) => Some((secret(key)?, secret(&format!("Bearer {key}"))?)),
            None => None,
        };
        let base = http.target().path().trim_end_matches('/').to_owned();
        Ok(Self { http: Arc::new(http), key, base })
    }
}
