//! Form 1: Claw's Work Policy Contract v1 with ClawGuard's part in `metadata["clawguard.v1"]`.

use claw::Value;

use super::{Contract, Error, Form, Guard, bounded, guard::NO_HOST};
use crate::{
    model::Action,
    name::HostPattern,
    net::Cidr,
    read::{Fields, short},
};

/// An entry of `egress_allowlist`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// A host, or every host below one.
    Host(HostPattern),
    /// A range, which only permits the same range in `clawguard.v1.egress`.
    Range(Cidr),
}

/// A rule of `redaction_rules`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redact {
    /// Where in a request, as the contract writes it.
    pub path: String,
    /// What becomes of what is there.
    pub action: Action,
}

/// The name of ClawGuard's part of `metadata`.
pub(super) const GUARD: &str = "clawguard.v1";

pub(super) fn read(mut fields: Fields<'_>) -> Result<Contract, Error> {
    let mut contract =
        Contract { form: Form::Registered, policy_id: bounded(&mut fields, "policy_id", 128)?, ..Contract::default() };
    let issuer = bounded(&mut fields, "issuer_did", 256)?;
    if !issuer.starts_with("did:") {
        return Err(Error::Text { path: "issuer_did".into(), text: short(&issuer), why: "no DID".into() });
    }
    contract.issuer = Some(issuer);
    contract.allowed_providers = words(&mut fields, "allowed_providers", &["openai", "anthropic", "google"])?;
    contract.allowed_models =
        fields.texts("allowed_models")?.map(|models| models.into_iter().map(str::to_owned).collect());
    (contract.model_rules, contract.redactions) = model_rules(&mut fields)?;
    contract.egress_allowlist = allowlist(&mut fields)?;
    if let Some(metadata) = fields.take("metadata") {
        let Value::Object(members) = metadata else {
            return Err(Error::Wrong { path: "metadata".into(), expected: "an object", found: metadata.kind() });
        };
        contract.foreign_metadata = members
            .iter()
            .filter(|(name, _)| &**name != GUARD)
            .map(|(name, value)| (name.to_string(), value.canonical_hash()))
            .collect();
        if let Some(guard) = metadata.get(GUARD) {
            contract.guard = Guard::read(guard)?;
        }
    }
    fields.end()?;
    Ok(contract)
}

fn words(fields: &mut Fields<'_>, name: &str, known: &[&str]) -> Result<Option<Vec<String>>, Error> {
    let Some(found) = fields.texts(name)? else { return Ok(None) };
    match found.iter().find(|word| !known.contains(word)) {
        Some(word) => {
            let why = format!("one of {} is expected", known.join(", "));
            Err(Error::Text { path: fields.path(name), text: short(word), why })
        }
        None => Ok(Some(found.into_iter().map(str::to_owned).collect())),
    }
}

/// Rules by their names, with what they say.
type Rules = Vec<(&'static str, String)>;

/// The rules for model calls that only a model gateway could hold an agent to, and among them those on what is left out.
fn model_rules(fields: &mut Fields<'_>) -> Result<(Rules, Vec<Redact>), Error> {
    let mut found = Vec::new();
    let mut redactions = Vec::new();
    let tiers = ["closed_opaque", "closed_provider_manifest", "openweights_hashable", "tee_measured"];
    for (name, known) in
        [("minimum_model_identity_tier", &tiers[..]), ("receipt_privacy_mode", &["hash_only", "encrypted"][..])]
    {
        if let Some(word) = fields.text(name)? {
            if !known.contains(&word) {
                let why = format!("one of {} is expected", known.join(", "));
                return Err(Error::Text { path: name.into(), text: short(word), why });
            }
            found.push((name, word.to_owned()));
        }
    }
    if let Some(packs) = fields.texts("required_audit_packs")? {
        let packs = packs.into_iter().map(|pack| Value::String(pack.into())).collect();
        found.push(("required_audit_packs", Value::Array(packs).canonical()));
    }
    if let Some(rules) = fields.list("redaction_rules")? {
        for (i, rule) in rules.iter().enumerate() {
            let mut rule = Fields::of(format!("redaction_rules[{i}]"), rule)?;
            let path = rule.required_text("path")?.to_owned();
            let action = rule.required_text("action")?;
            let Some(action) = Action::ALL.into_iter().find(|known| known.label() == action) else {
                let why = "one of remove, hash, mask is expected".into();
                return Err(Error::Text { path: rule.path("action"), text: short(action), why });
            };
            rule.end()?;
            redactions.push(Redact { path, action });
        }
        found.push(("redaction_rules", Value::Array(rules.to_vec()).canonical()));
    }
    Ok((found, redactions))
}

fn allowlist(fields: &mut Fields<'_>) -> Result<Option<Vec<Allowed>>, Error> {
    let Some(texts) = fields.texts("egress_allowlist")? else { return Ok(None) };
    let mut found = Vec::with_capacity(texts.len());
    for (i, text) in texts.into_iter().enumerate() {
        let path = || format!("egress_allowlist[{i}]");
        found.push(if text.contains('/') {
            let range = text.parse::<Cidr>();
            Allowed::Range(range.map_err(|e| Error::Text { path: path(), text: short(text), why: e.to_string() })?)
        } else {
            let host = text.parse::<HostPattern>();
            Allowed::Host(host.map_err(|_| Error::Text { path: path(), text: short(text), why: NO_HOST.into() })?)
        });
    }
    Ok(Some(found))
}
