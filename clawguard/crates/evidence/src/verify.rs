//! Verifies proof bundles offline, with keys that the caller pins.
//!
//! There are two public verifiers of these bundles, and they differ. This one is at every step at least as strict as the stricter
//! of the two, takes the steps in their order, and gives their reasons by their names. Where it is stricter than both: JSON that
//! two readers could read differently, base64url with stray bits, a receipt that is there twice or cannot be verified, evidence
//! of a kind for which there is no rule here, an attestation or envelope of which any part is only claimed.
//!
//! A signature says who speaks, not that it is true. The verdict therefore grades each claim: what has its signature (*verified*),
//! what the host or the agent says of itself (*self-reported*), what follows from something else (*inferred*), and what nobody
//! says (*absent*).

mod attestations;
mod beside;
mod causal;
mod claims;
mod coverage;
mod egress;
mod events;
mod fault;
mod models;
mod parts;
mod receipts;
mod schema;
mod seal;
mod shape;
mod tools;
mod verdict;
mod workers;

use std::collections::BTreeSet;

use claw::{
    Hash, Value,
    json::{self, Limits},
    key::Did,
    time::Instant,
};

use fault::{At, PAYLOAD};
pub use fault::{Code, Fault};
pub use parts::{Broken, Part, Whole, verify_all};
pub use receipts::receipt;
use seal::{items, text};
pub use verdict::{Claim, Grade, ModelTier, ProofTier, TrustTier, Verdict};

/// Bytes of a bundle: a thousand receipts with all the metadata that they may have.
const MOST_BYTES: usize = 64 << 20;
/// Deep enough for everything that the schemas know, and for metadata.
const DEEPEST: usize = 64;
/// What the format allows, in one bundle.
const MOST_EVENTS: usize = 1000;
const MOST_RECEIPTS: usize = 1000;
const MOST_ATTESTATIONS: usize = 100;
const MOST_METADATA: usize = 16 * 1024;

/// Who may have signed what. Nobody is trusted unless named here.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// Gateways, for model calls.
    pub receipt_signers: Vec<Did>,
    /// Hosts, for what their kernels saw.
    pub sentinels: Vec<Did>,
    /// Registries and owners, for contracts.
    pub wpc_signers: Vec<Did>,
    /// Owners and third parties, for attestations of an agent.
    pub attesters: Vec<Did>,
}

/// What becomes of a coverage attestation that does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// It is told.
    Observe,
    /// The bundle is refused.
    Enforce,
}

/// How strictly, and with what beside the bundle.
#[derive(Clone, Debug)]
pub struct Options<'a> {
    /// The present: what has expired by then is refused.
    pub now: Instant,
    /// Coverage attestations that are there.
    pub coverage: Coverage,
    /// Whether a coverage attestation and an egress policy receipt have to be there.
    pub require_host_evidence: bool,
    /// The longest silence of a sentinel, in milliseconds.
    pub max_gap_ms: f64,
    /// Envelopes of the contracts that the job ran under.
    pub contracts: Vec<&'a [u8]>,
    /// The manifest that the bundle refers to.
    pub urm: Option<&'a [u8]>,
    /// The run's own summary, to which the manifest points.
    pub trust_pulse: Option<&'a [u8]>,
}

impl Options<'_> {
    /// What is there must hold; nothing has to be there.
    #[must_use]
    pub const fn at(now: Instant) -> Self {
        Self {
            now,
            coverage: Coverage::Enforce,
            require_host_evidence: false,
            max_gap_ms: 1000.0,
            contracts: Vec::new(),
            urm: None,
            trust_pulse: None,
        }
    }
}

/// Verifies one bundle.
#[must_use]
pub fn verify(bundle: &[u8], trust: &Trust, options: &Options<'_>) -> Verdict {
    judge(bundle, trust, options, true)
}

/// As [`verify`]; on all processors only if this is the only bundle that is looked at.
fn judge(bundle: &[u8], trust: &Trust, options: &Options<'_>, alone: bool) -> Verdict {
    let mut verdict = Verdict::default();
    verdict.fault = examine(bundle, trust, options, alone, &mut verdict).err();
    verdict
}

/// A bundle whose shape, hash and signature are right, and what is known of it.
struct Bundle<'a> {
    payload: &'a Value,
    agent: &'a str,
    trust: &'a Trust,
    options: &'a Options<'a>,
    /// Whether no other bundle is looked at meanwhile.
    alone: bool,
    /// The run of its events.
    run: Option<&'a str>,
    /// The hash of its first event.
    root: Option<&'a str>,
    /// The hashes of all of them.
    events: BTreeSet<&'a str>,
}

impl Bundle<'_> {
    fn metadata(&self) -> Option<&Value> {
        self.payload.get("metadata")
    }

    fn sentinels(&self) -> Option<&Value> {
        self.metadata()?.get("sentinels")
    }
}

fn examine(text: &[u8], trust: &Trust, options: &Options<'_>, alone: bool, verdict: &mut Verdict) -> Result<(), Fault> {
    let limits = Limits { bytes: MOST_BYTES, depth: DEEPEST };
    let envelope = json::parse(text, limits).map_err(|error| Fault::new(Code::Parse, At::Root, error.to_string()))?;
    outside(&envelope, options.now)?;
    schema::ENVELOPE.check(&envelope, At::Root).map_err(causal::of_schema)?;
    let payload = envelope.get("payload").unwrap_or(&Value::Null);
    sizes(payload)?;
    verdict.bundle_id = Some(seal::text(payload, "bundle_id").to_owned());
    let agent = seal::text(payload, "agent_did");
    verdict.agent_did = Some(agent.to_owned());
    verdict.hash = Some(sealed(&envelope, payload, agent)?);

    let mut bundle = Bundle { payload, agent, trust, options, alone, run: None, root: None, events: BTreeSet::new() };
    events::check(&mut bundle)?;
    verdict.run_id = bundle.run.map(str::to_owned);
    verdict.part = parts::of(payload);
    verdict.last_event_hash_b64u =
        items(payload, "event_chain").last().map(|event| seal::text(event, "event_hash_b64u").to_owned());
    events::rate_limits(&bundle)?;
    let urm = beside::urm(&bundle)?;
    let egress = egress::check(&bundle)?;
    let counted = coverage::counted(&bundle)?;
    tools::check(&bundle)?;
    causal::check(&bundle)?;
    let models = receipts::check(&bundle)?;
    let attested = attestations::check(&bundle)?;
    let covered = coverage::check(&bundle, counted, &mut verdict.risk_flags)?;
    let contracts = beside::contracts(&bundle)?;
    let pulse = beside::trust_pulse(&bundle, urm.as_ref())?;
    let found = claims::Found { urm: urm.is_some(), egress, models, attested, covered, contracts, pulse };
    claims::conclude(&bundle, &found, verdict);
    Ok(())
}

/// The envelope, member by member, before anything is looked up in a schema.
fn outside(envelope: &Value, now: Instant) -> Result<(), Fault> {
    const MEMBERS: [&str; 9] = [
        "envelope_version",
        "envelope_type",
        "payload",
        "payload_hash_b64u",
        "hash_algorithm",
        "signature_b64u",
        "algorithm",
        "signer_did",
        "issued_at",
    ];
    let root = At::Root;
    let Value::Object(_) = envelope else {
        return Err(Fault::new(Code::Malformed, root, format!("it is {}, not an envelope", envelope.kind())));
    };
    if let Some(missing) = MEMBERS.iter().find(|name| envelope.get(name).is_none()) {
        // A payload without its envelope is signed by nobody.
        return Err(root.fault(missing, Code::Malformed, "it is missing: this is no signed envelope"));
    }
    let words: [(&str, &[&str], Code); 4] = [
        ("envelope_version", &["1"], Code::EnvelopeVersion),
        ("envelope_type", &["proof_bundle"], Code::EnvelopeType),
        ("algorithm", &["Ed25519"], Code::Algorithm),
        ("hash_algorithm", &["SHA-256", "BLAKE3"], Code::HashAlgorithm),
    ];
    for (name, allowed, code) in words {
        if !allowed.contains(&text(envelope, name)) {
            return Err(root.fault(name, code, format!("it is not {}", allowed.join(" or "))));
        }
    }
    if !shape::is_did(text(envelope, "signer_did")) {
        return Err(root.fault("signer_did", Code::Did, "it is no did:key or did:web"));
    }
    for name in ["issued_at", "expires_at"] {
        let Some(value) = envelope.get(name) else { continue };
        // A day without a time is a date, and left to the schema.
        if !value.as_str().is_some_and(|text| Instant::parse(text).is_some() || is_day(text)) {
            return Err(root.fault(name, Code::Malformed, "it is no date"));
        }
    }
    if envelope.get("expires_at").is_some() && seal::instant(envelope, "expires_at").is_some_and(|end| now > end) {
        return Err(root.fault("expires_at", Code::Expired, "the bundle has expired"));
    }
    for name in ["payload_hash_b64u", "signature_b64u"] {
        if !shape::is_base64url(text(envelope, name)) {
            return Err(root.fault(name, Code::Malformed, "it is no base64url"));
        }
    }
    Ok(())
}

fn is_day(text: &str) -> bool {
    text.len() == 10 && Instant::parse(&format!("{text}T00:00:00Z")).is_some()
}

/// What the format bounds, and what has to be there once.
fn sizes(payload: &Value) -> Result<(), Fault> {
    let at = PAYLOAD;
    let evidence = ["urm", "event_chain", "receipts", "attestations"];
    if evidence.iter().all(|name| payload.get(name).is_none()) {
        return Err(Fault::new(
            Code::Malformed,
            at,
            "it has no event chain, no receipts, no manifest and no attestation",
        ));
    }
    for (name, most) in [("event_chain", MOST_EVENTS), ("receipts", MOST_RECEIPTS), ("attestations", MOST_ATTESTATIONS)]
    {
        if items(payload, name).len() > most {
            return Err(at.fault(name, Code::Malformed, format!("it has more than {most} items")));
        }
    }
    let large = metadata_too_large;
    let too_large =
        |at: At<'_>| Err(at.fault("metadata", Code::Malformed, format!("it has more than {MOST_METADATA} bytes")));
    if large(payload) {
        return too_large(at);
    }
    if payload.get("urm").is_some_and(large) {
        return too_large(at.name("urm"));
    }
    let list = at.name("receipts");
    for (i, receipt) in items(payload, "receipts").iter().enumerate() {
        if receipt.get("payload").is_some_and(large) {
            return too_large(list.index(i).name("payload"));
        }
    }
    events::once(payload)?;
    receipts::once(payload, false)
}

fn metadata_too_large(holder: &Value) -> bool {
    let metadata = holder.get("metadata");
    metadata.is_some_and(|value| at_most(value) > MOST_METADATA && value.to_string().len() > MOST_METADATA)
}

/// Bytes of which a value needs no more when it is written.
fn at_most(value: &Value) -> usize {
    // A control character is written as six.
    let string = |text: &str| 6 * text.len() + 4;
    match value {
        Value::Null | Value::Bool(_) => 6,
        Value::Number(_) => 32,
        Value::String(text) => string(text),
        Value::Array(items) => 2 + items.iter().map(at_most).sum::<usize>(),
        Value::Object(members) => 2 + members.iter().map(|(name, value)| string(name) + at_most(value)).sum::<usize>(),
    }
}

/// The signer, the payload's hash and the signature.
fn sealed(envelope: &Value, payload: &Value, agent: &str) -> Result<Hash, Fault> {
    let root = At::Root;
    if !shape::is_did(agent) {
        return Err(PAYLOAD.fault("agent_did", Code::Did, "it is no did:key or did:web"));
    }
    if text(envelope, "signer_did") != agent {
        return Err(root.fault("signer_did", Code::Did, "the signer is not the bundle's agent"));
    }
    if text(envelope, "hash_algorithm") != "SHA-256" {
        return Err(root.fault("hash_algorithm", Code::Hash, "nobody computes that hash"));
    }
    let hash = payload.insertion_hash();
    if hash.to_string() != text(envelope, "payload_hash_b64u") {
        return Err(changed(payload));
    }
    let Some(signer) = seal::key(agent) else {
        return Err(root.fault("signer_did", Code::Did, "it is no Ed25519 key"));
    };
    if !seal::signed(envelope, &signer) {
        return Err(root.fault("signature_b64u", Code::Signature, "it is not the agent's signature of that hash"));
    }
    Ok(hash)
}

/// Where a payload was changed that is not the one that was hashed: in what has a hash of its own, if that differs too.
fn changed(payload: &Value) -> Fault {
    const TEXT: &str = "the payload was changed after it was hashed";
    let narrowed = |at: At<'_>| Fault::new(Code::Hash, at, format!("{TEXT}, and here its own hash differs, too"));
    let list = PAYLOAD.name("event_chain");
    for (i, event) in items(payload, "event_chain").iter().enumerate() {
        if events::hash(event) != text(event, "event_hash_b64u") {
            return narrowed(list.index(i).name("event_hash_b64u"));
        }
    }
    for name in ["receipts", "coverage_attestations"] {
        let list = PAYLOAD.name(name);
        for (i, envelope) in items(payload, name).iter().enumerate() {
            if !seal::hashed(envelope) {
                return narrowed(list.index(i).name("payload_hash_b64u"));
            }
        }
    }
    let metadata = PAYLOAD.name("metadata");
    let sentinels = metadata.name("sentinels");
    let receipt = payload.get("metadata").and_then(|metadata| metadata.get("sentinels")?.get("egress_policy_receipt"));
    if receipt.is_some_and(|receipt| !seal::hashed(receipt)) {
        return narrowed(sentinels.name("egress_policy_receipt").name("payload_hash_b64u"));
    }
    At::Root.fault("payload_hash_b64u", Code::Hash, TEXT)
}
