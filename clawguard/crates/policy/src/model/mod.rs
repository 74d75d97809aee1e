//! Which models an agent may call, and what of its requests is left out before they leave.
//!
//! | the contract has | it gives |
//! |---|---|
//! | `allowed_providers` and `allowed_models` | what both name |
//! | one of them | what it names, of whatever the other would |
//! | neither, but form 2's `model_egress` by `clawproxy` | every model that the host reaches |
//! | none of them | no model |
//!
//! An empty list gives nothing. Claw's own proxy takes what is absent, or empty, for everything: here it is the contract's word
//! alone that gives.

mod glob;
mod redact;

use std::fmt;

pub use glob::Glob;
pub use redact::{Action, NotAPath, Redaction, Step};

use crate::contract::{Contract, Form, Redact};

/// Bytes that the name of a model may have.
pub const NAME: usize = 256;

/// A contract's rules for model calls. The default gives none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelPolicy {
    /// Whether the contract speaks of models at all.
    given: bool,
    providers: Option<Vec<Box<str>>>,
    models: Option<Vec<Glob>>,
    /// What cannot be kept to, so that no call is made: why, and where it stands.
    kept: Option<(ModelReason, String)>,
    redactions: Vec<Redaction>,
}

/// What becomes of a model call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelJudgement {
    /// Why it is not made; `None` if it may be.
    pub denied: Option<ModelReason>,
    /// Where in the contract the line stands that decided: `allowed_models[2]`.
    pub rule: Option<String>,
}

/// Why a model call is not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ModelReason {
    /// The contract does not give the provider, or no model at all.
    Provider,
    /// It does not give the model.
    Model,
    /// It wants more to be known of a model than any provider lets be known.
    Tier,
    /// It wants receipts that hold what was said, encrypted.
    Privacy,
    /// It wants audits of a model, of which nothing is known here.
    Audit,
    /// It wants something left out that cannot be found by its path.
    Redaction,
}

impl ModelReason {
    /// The word for it in records and answers: clawproxy's, where it has one.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Provider => "POLICY_PROVIDER_NOT_ALLOWED",
            Self::Model => "POLICY_MODEL_NOT_ALLOWED",
            Self::Tier => "POLICY_MODEL_IDENTITY_TIER_TOO_LOW",
            Self::Privacy => "POLICY_PRIVACY_MODE_UNSUPPORTED",
            Self::Audit => "POLICY_AUDIT_PACKS_UNSUPPORTED",
            Self::Redaction => "POLICY_REDACTION_UNSUPPORTED",
        }
    }

    /// The same for whoever called.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Provider => "the contract does not give models of this provider",
            Self::Model => "the contract does not give this model",
            Self::Tier => {
                "the contract wants a model whose identity is known; of one behind a provider's API nothing is (closed_opaque)"
            }
            Self::Privacy => "the contract wants encrypted receipts, which this gateway does not make",
            Self::Audit => "the contract wants audits of a model, of which this gateway knows nothing",
            Self::Redaction => "the contract wants something left out by a path that this gateway does not understand",
        }
    }
}

impl fmt::Display for ModelReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// The tier of every model behind a provider's API.
const OBSERVED: &str = "closed_opaque";
/// The only privacy of receipts that is kept to: they hold hashes, and nothing of what was said.
const HASHES: &str = "hash_only";
/// Who mediates, in form 2. The gateway has its routes, and makes its receipts.
const MEDIATOR: &str = "clawproxy";

impl ModelPolicy {
    /// The one that gives none.
    pub const NONE: Self = Self { given: false, providers: None, models: None, kept: None, redactions: Vec::new() };

    /// What a contract says of model calls.
    #[must_use]
    pub fn of(contract: &Contract) -> Self {
        let mediated = match &contract.guard.model {
            Some(model) if contract.form != Form::Registered => model.provider.as_deref() == Some(MEDIATOR),
            _ => false,
        };
        let given = contract.allowed_providers.is_some() || contract.allowed_models.is_some() || mediated;
        if !given {
            return Self::default();
        }
        let providers = contract.allowed_providers.as_ref();
        let models = contract.allowed_models.as_ref();
        let mut policy = Self {
            given,
            providers: providers.map(|names| names.iter().map(|name| name.as_str().into()).collect()),
            models: models.map(|patterns| patterns.iter().map(|pattern| Glob::new(pattern)).collect()),
            kept: unkept(contract),
            redactions: Vec::with_capacity(contract.redactions.len()),
        };
        for (i, Redact { path, action }) in contract.redactions.iter().enumerate() {
            match Redaction::new(path, *action) {
                Ok(redaction) => policy.redactions.push(redaction),
                Err(_) => {
                    policy.kept.get_or_insert((ModelReason::Redaction, format!("redaction_rules[{i}].path")));
                }
            }
        }
        policy
    }

    /// Decides on a call: what the contract gives is given if everything that it wants of the call can be kept to.
    #[must_use]
    pub fn decide(&self, provider: &str, model: &str) -> ModelJudgement {
        let deny = |reason, rule: Option<String>| ModelJudgement { denied: Some(reason), rule };
        if !self.given {
            return deny(ModelReason::Provider, None);
        }
        let mut rule = None;
        if let Some(providers) = &self.providers {
            match providers.iter().position(|given| **given == *provider) {
                Some(at) => rule = Some(format!("allowed_providers[{at}]")),
                None => return deny(ModelReason::Provider, Some("allowed_providers".into())),
            }
        }
        if let Some(models) = &self.models {
            match models.iter().position(|pattern| pattern.matches(model)) {
                Some(at) => rule = Some(format!("allowed_models[{at}]")),
                None => return deny(ModelReason::Model, Some("allowed_models".into())),
            }
        }
        if let Some((reason, rule)) = &self.kept {
            return deny(*reason, Some(rule.clone()));
        }
        ModelJudgement { denied: None, rule }
    }

    /// Whether any call could be made under it: a provider and a model that it gives, and nothing that cannot be kept to.
    #[must_use]
    pub fn gives(&self) -> bool {
        let some = |empty: Option<bool>| empty.is_none_or(|empty| !empty);
        self.given
            && self.kept.is_none()
            && some(self.providers.as_ref().map(Vec::is_empty))
            && some(self.models.as_ref().map(Vec::is_empty))
    }

    /// What cannot be kept to, so that no call is made: why, and where in the contract it stands.
    #[must_use]
    pub fn unkept(&self) -> Option<(ModelReason, &str)> {
        self.kept.as_ref().map(|(reason, path)| (*reason, path.as_str()))
    }

    /// What is left out of requests, in this order.
    #[must_use]
    pub fn redactions(&self) -> &[Redaction] {
        &self.redactions
    }
}

/// A rule that nothing could hold a call to takes all of them away.
fn unkept(contract: &Contract) -> Option<(ModelReason, String)> {
    let kept = |name: &str, kept: &str| contract.model_rules.iter().all(|(rule, word)| *rule != name || word == kept);
    let rules = [
        ("minimum_model_identity_tier", OBSERVED, ModelReason::Tier),
        ("receipt_privacy_mode", HASHES, ModelReason::Privacy),
        ("required_audit_packs", "[]", ModelReason::Audit),
    ];
    rules.into_iter().find(|(name, word, _)| !kept(name, word)).map(|(name, _, reason)| (reason, name.into()))
}
