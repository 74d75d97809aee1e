//! What the receipts say of the models: an axis of its own, which says nothing of how a job ran.

use std::collections::{BTreeSet, HashSet};

use claw::Value;
use serde::Serialize;

use super::seal::{items, text};

/// How well the models are known: the least of what the receipts say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelTier {
    /// Nothing is known, or what is said contradicts itself.
    #[default]
    Unknown,
    /// A closed provider's name for it.
    ClosedOpaque,
    /// A provider's manifest.
    ClosedProviderManifest,
    /// Weights by their hashes.
    OpenweightsHashable,
    /// Measured in a trusted execution environment.
    TeeMeasured,
}

/// Verified receipts, and what they say of their models.
#[derive(Default)]
pub(super) struct Models {
    pub(super) receipts: usize,
    /// How many are bound to an event to which another one is bound before.
    pub(super) again: usize,
    pub(super) tier: ModelTier,
    pub(super) flags: BTreeSet<&'static str>,
}

impl Models {
    /// Of receipts that were verified.
    pub(super) fn of(receipts: &[Value]) -> Self {
        let mut flags = BTreeSet::new();
        let payloads = receipts.iter().filter_map(|receipt| receipt.get("payload"));
        let tiers: BTreeSet<ModelTier> = payloads.map(|payload| tier(payload, &mut flags)).collect();
        if tiers.len() > 1 {
            flags.insert("MODEL_IDENTITY_HETEROGENEOUS");
        }
        let events: HashSet<&str> = receipts.iter().filter_map(event).collect();
        let again = receipts.len().saturating_sub(events.len());
        Self { receipts: receipts.len(), again, tier: tiers.first().copied().unwrap_or_default(), flags }
    }
}

/// The hash of the event to which a receipt is bound.
fn event(receipt: &Value) -> Option<&str> {
    receipt.get("payload")?.get("binding")?.get("event_hash_b64u")?.as_str()
}

fn tier(payload: &Value, flags: &mut BTreeSet<&'static str>) -> ModelTier {
    let metadata = payload.get("metadata");
    let assumed;
    let identity = match metadata.and_then(|metadata| metadata.get("model_identity")) {
        Some(identity) => identity,
        None => {
            flags.insert("MODEL_IDENTITY_MISSING_DEFAULTED");
            assumed = opaque(payload);
            &assumed
        }
    };
    let model = identity.get("model").unwrap_or(&Value::Null);
    if text(model, "provider") != text(payload, "provider") || text(model, "name") != text(payload, "model") {
        flags.insert("MODEL_IDENTITY_MODEL_MISMATCH");
        return ModelTier::Unknown;
    }
    match metadata.map_or("", |metadata| text(metadata, "model_identity_hash_b64u")) {
        "" => _ = flags.insert("MODEL_IDENTITY_HASH_MISSING"),
        hash if hash == identity.canonical_hash().to_string() => {}
        _ => {
            flags.insert("MODEL_IDENTITY_HASH_MISMATCH");
            return ModelTier::Unknown;
        }
    }
    let artifact = |name| identity.get("artifacts").and_then(|artifacts| artifacts.get(name));
    let (tier, proven) = match text(identity, "tier") {
        "closed_provider_manifest" => (ModelTier::ClosedProviderManifest, artifact("provider_manifest").is_some()),
        "openweights_hashable" => {
            let weights = artifact("openweights").is_some_and(|weights| !items(weights, "weights").is_empty());
            (ModelTier::OpenweightsHashable, weights)
        }
        "tee_measured" => {
            let report = artifact("tee_measurement").and_then(|measured| measured.get("attestation_report_ref"));
            (ModelTier::TeeMeasured, report.is_some())
        }
        _ => {
            flags.insert("MODEL_IDENTITY_OPAQUE");
            (ModelTier::ClosedOpaque, true)
        }
    };
    if !proven {
        flags.insert("MODEL_IDENTITY_EVIDENCE_MISSING");
        return ModelTier::Unknown;
    }
    tier
}

/// The least that a receipt says of its model: the provider's name for it.
fn opaque(payload: &Value) -> Value {
    let text = |text: &str| Value::String(text.into());
    let model = [
        ("provider", text(super::seal::text(payload, "provider"))),
        ("name", text(super::seal::text(payload, "model"))),
    ];
    let object = |members: Vec<(&str, Value)>| Value::Object(members.into_iter().map(|(n, v)| (n.into(), v)).collect());
    object(vec![
        ("model_identity_version", text("1")),
        ("tier", text("closed_opaque")),
        ("model", object(model.into())),
    ])
}
