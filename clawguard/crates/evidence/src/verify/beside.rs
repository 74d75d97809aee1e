//! What lies beside a bundle: contracts, the run's manifest, its own summary.

use std::collections::BTreeSet;

use claw::{
    Hash, Value,
    envelope::{self, Envelope},
    json::{self, Limits},
};

use super::{
    Bundle,
    fault::{At, Code, Fault, PAYLOAD},
    parts, schema,
    seal::{items, text},
    shape::Shape,
};

const LIMITS: Limits = Limits { bytes: 4 << 20, depth: 64 };

fn read(document: &[u8], shape: &Shape, at: At<'_>) -> Result<Value, Fault> {
    let value = json::parse(document, LIMITS).map_err(|error| Fault::new(Code::Parse, at, error.to_string()))?;
    shape.check(&value, at)?;
    Ok(value)
}

/// The manifest that the bundle refers to. It must be there if the bundle refers to one.
pub(super) fn urm(bundle: &Bundle<'_>) -> Result<Option<Value>, Fault> {
    let root = At::Root;
    let at = root.name("urm");
    let Some(reference) = bundle.payload.get("urm") else {
        return match bundle.options.urm {
            Some(_) => Err(PAYLOAD.fault("urm", Code::Urm, "the bundle refers to no manifest")),
            None => Ok(None),
        };
    };
    let Some(document) = bundle.options.urm else {
        return Err(Fault::new(Code::UrmMissing, at, "the bundle refers to a manifest that is not given"));
    };
    let urm = read(document, &schema::URM, at)?;
    let told = text(&urm, "event_chain_root_hash_b64u");
    for (name, same) in [
        ("urm_id", text(&urm, "urm_id") == text(reference, "urm_id")),
        ("agent_did", text(&urm, "agent_did") == bundle.agent),
        ("run_id", bundle.run.is_none_or(|run| run == text(&urm, "run_id"))),
        ("event_chain_root_hash_b64u", told.is_empty() || bundle.root.is_none_or(|root| root == told)),
    ] {
        if !same {
            return Err(at.fault(name, Code::Urm, "it is not the bundle's"));
        }
    }
    if urm.insertion_hash().to_string() != text(reference, "resource_hash_b64u") {
        let at = PAYLOAD.name("urm");
        return Err(at.fault("resource_hash_b64u", Code::Hash, "it is not the manifest's hash"));
    }
    Ok(Some(urm))
}

/// A run's own summary.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pulse {
    /// There is none.
    None,
    /// The manifest names its hash.
    Pinned,
    /// Nothing names it.
    Loose,
}

/// The trust pulse, if it is given: its shape, whose it is, and the hash by which the manifest names it.
pub(super) fn trust_pulse(bundle: &Bundle<'_>, urm: Option<&Value>) -> Result<Pulse, Fault> {
    let root = At::Root;
    let at = root.name("trust_pulse");
    let Some(document) = bundle.options.trust_pulse else { return Ok(Pulse::None) };
    let pulse = read(document, &schema::TRUST_PULSE, at)?;
    if text(&pulse, "agent_did") != bundle.agent {
        return Err(at.fault("agent_did", Code::Agent, "it is another agent's"));
    }
    if bundle.run.is_some_and(|run| run != text(&pulse, "run_id")) {
        return Err(at.fault("run_id", Code::Evidence, "it is another run's"));
    }
    let pointer = urm.and_then(|urm| urm.get("metadata")?.get("trust_pulse"));
    let Some(pointer) = pointer else { return Ok(Pulse::Loose) };
    if text(pointer, "artifact_hash_b64u") != pulse.insertion_hash().to_string() {
        return Err(Fault::new(Code::Hash, at, "it is not the one that the manifest names"));
    }
    Ok(Pulse::Pinned)
}

/// What is known of the contracts that the run was held to. Those that nothing in the bundle names are not counted.
pub(super) enum Contracts {
    /// So many are there, signed by those who may, and gateways signed that the run is bound to them.
    Signed(usize),
    /// So many are there, signed by those who may; that the run is bound to them only the bundle itself says.
    SignedAndTold(usize),
    /// So many are there; nobody is pinned who may sign them.
    Unpinned(usize),
    /// None is there; gateways signed for this hash.
    Receipts(String),
    /// None is there; only the bundle itself says so.
    Told(String),
    /// None is named.
    None,
}

/// The contracts that are given, against the hashes that receipts and metadata name; and how many are named and not given, where
/// any are.
pub(super) fn contracts(bundle: &Bundle<'_>) -> Result<(Contracts, usize), Fault> {
    let told = parts::contract(bundle.payload);
    let given = &bundle.options.contracts;
    let mut hashes: BTreeSet<String> = BTreeSet::new();
    let root = At::Root;
    let at = root.name("contracts");
    for (i, contract) in given.iter().enumerate() {
        hashes.insert(opened(bundle, contract, at.index(i))?.to_string());
    }
    let list = PAYLOAD.name("receipts");
    let (mut bound, mut signed) = (None, BTreeSet::new());
    for (i, receipt) in items(bundle.payload, "receipts").iter().enumerate() {
        let binding = receipt.get("payload").and_then(|payload| payload.get("binding")).unwrap_or(&Value::Null);
        let hash = text(binding, "policy_hash");
        if hash.is_empty() {
            continue;
        }
        if !given.is_empty() && !hashes.contains(hash) {
            let (item, text) = (list.index(i), "it is not the hash of a contract that is given");
            return Err(item.name("payload").name("binding").fault("policy_hash", Code::Evidence, text));
        }
        bound.get_or_insert(hash);
        signed.insert(hash);
    }
    if let Some(hash) = told
        && !given.is_empty()
        && !hashes.contains(hash)
    {
        let metadata = PAYLOAD.name("metadata");
        let own = metadata.name(parts::NAME);
        return Err(own.fault(parts::CONTRACT, Code::Evidence, "it is not the hash of a contract that is given"));
    }
    let named: BTreeSet<&str> = parts::contracts(bundle.payload).chain(signed.iter().copied()).collect();
    let there = |of: &BTreeSet<&str>| of.iter().filter(|hash| hashes.contains(**hash)).count();
    let (by_gateways, by_any) = (there(&signed), there(&named));
    let missing = if given.is_empty() { 0 } else { named.len().saturating_sub(by_any) };
    let found = match (if by_gateways > 0 { by_gateways } else { by_any }, bound, told) {
        // A contract that nothing in the bundle names says nothing of the run.
        (0, None, None) => Contracts::None,
        (n, ..) if n > 0 && bundle.trust.wpc_signers.is_empty() => Contracts::Unpinned(n),
        (n, Some(_), _) if n > 0 => Contracts::Signed(n),
        (n, None, _) if n > 0 => Contracts::SignedAndTold(n),
        (_, Some(hash), _) => Contracts::Receipts(hash.to_owned()),
        (_, None, Some(hash)) => Contracts::Told(hash.to_owned()),
        (_, None, None) => Contracts::None,
    };
    Ok((found, missing))
}

fn opened(bundle: &Bundle<'_>, contract: &[u8], at: At<'_>) -> Result<Hash, Fault> {
    use envelope::Error;
    let opened = Envelope::open(contract, envelope::Kind::WorkPolicyContract).map_err(|error| {
        let code = match error {
            Error::Hash { .. } => Code::Hash,
            Error::Signature { .. } => Code::Signature,
            Error::Json(_) => Code::Parse,
            _ => Code::Malformed,
        };
        Fault::new(code, at, error.to_string())
    })?;
    let signers = &bundle.trust.wpc_signers;
    if !signers.is_empty() && !signers.contains(&opened.signer) {
        return Err(at.fault("signer_did", Code::NotTrusted, format!("{} may not sign contracts", opened.signer)));
    }
    Ok(opened.hash)
}
