//! Coverage attestations: what a host's sentinel saw of the run, and what it says that it did not see.

use std::collections::{BTreeMap, BTreeSet};

use claw::Value;

use super::{
    Bundle, Coverage,
    fault::{At, Code, Fault, PAYLOAD},
    seal::{self, flag, items, number, text},
};

/// What both the harness and the sentinels count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Counted {
    unmediated: f64,
    unmonitored: f64,
    escapes: bool,
}

/// How many attestations there are, how many of them hold, and what the connections that the sentinels saw add up to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Covered {
    pub(super) attestations: usize,
    pub(super) held: usize,
    pub(super) connections: f64,
}

/// What the harness itself counted, if it says so.
pub(super) fn counted(bundle: &Bundle<'_>) -> Result<Option<Counted>, Fault> {
    let metadata = PAYLOAD.name("metadata");
    let sentinels = metadata.name("sentinels");
    let state_at = sentinels.name("interpose_state");
    let state = bundle.sentinels().and_then(|sentinels| sentinels.get("interpose_state"));
    let Some(cldd) = state.and_then(|state| state.get("cldd")) else { return Ok(None) };
    let at = state_at.name("cldd");
    let Value::Object(_) = cldd else {
        return Err(Fault::new(Code::Malformed, at, "it is no object"));
    };
    let count = |name| {
        let whole = number(cldd, name).filter(|number| *number >= 0.0 && number.fract() == 0.0);
        whole.ok_or_else(|| at.fault(name, Code::Malformed, "it is no whole number"))
    };
    let (unmediated, unmonitored) = (count("unmediated_connections")?, count("unmonitored_spawns")?);
    let Some(escapes) = flag(cldd, "escapes_suspected") else {
        return Err(at.fault("escapes_suspected", Code::Malformed, "it is neither true nor false"));
    };
    Ok(Some(Counted { unmediated, unmonitored, escapes }))
}

/// Every attestation; of those that do not hold the first is a fault, if coverage is enforced.
pub(super) fn check(
    bundle: &Bundle<'_>,
    claimed: Option<Counted>,
    flags: &mut BTreeSet<String>,
) -> Result<Covered, Fault> {
    let at = PAYLOAD.name("coverage_attestations");
    let all = items(bundle.payload, "coverage_attestations");
    let mut covered = Covered { attestations: all.len(), ..Covered::default() };
    let (mut first, mut attested) = (None, None);
    // A sentinel counts from the run's beginning: who says it twice has not seen twice as many.
    let mut connections: BTreeMap<&str, f64> = BTreeMap::new();
    for (i, attestation) in all.iter().enumerate() {
        let faults = check_one(bundle, attestation, at.index(i));
        // Whose signature holds is heard, whatever else is wrong with it.
        if !faults.iter().any(|(flag, _)| *flag == UNVERIFIED) {
            attested = Some(most(attested, attestation));
        }
        if faults.is_empty() {
            covered.held += 1;
            let told = number(&metrics(attestation, "egress"), "connections_total").unwrap_or_default();
            let most = connections.entry(text(attestation, "signer_did")).or_default();
            *most = most.max(told);
        }
        for (flag, fault) in faults {
            flags.insert(flag.to_owned());
            first.get_or_insert(fault);
        }
    }
    covered.connections = connections.values().sum();
    if first.is_some() {
        flags.insert("COVERAGE_ATTESTATION_VERIFY_PARTIAL_FAILURE".into());
        flags.insert("COVERAGE_INVARIANT_FAILED".into());
    }
    let enforced = bundle.options.coverage == Coverage::Enforce;
    if let (Some(claimed), Some(attested)) = (claimed, attested)
        && claimed != attested
    {
        flags.insert("COVERAGE_CLDD_DISCREPANCY".into());
        for (differs, flag) in [
            (claimed.unmediated != attested.unmediated, "COVERAGE_CLDD_UNMEDIATED_CONNECTIONS_MISMATCH"),
            (claimed.unmonitored != attested.unmonitored, "COVERAGE_CLDD_UNMONITORED_SPAWNS_MISMATCH"),
            (claimed.escapes != attested.escapes, "COVERAGE_CLDD_ESCAPES_SUSPECTED_MISMATCH"),
        ] {
            if differs {
                flags.insert(flag.into());
            }
        }
        if enforced {
            return Err(Fault::new(Code::Discrepancy, at, "the sentinel counted otherwise than the harness"));
        }
    }
    if all.is_empty() {
        absent(bundle, flags)?;
    }
    match first {
        Some(fault) if enforced => Err(fault),
        _ => Ok(covered),
    }
}

/// What it means that there is none.
fn absent(bundle: &Bundle<'_>, flags: &mut BTreeSet<String>) -> Result<(), Fault> {
    if bundle.sentinels().and_then(|sentinels| flag(sentinels, "interpose_active")) == Some(true) {
        flags.insert("COVERAGE_DEGRADED_NO_INTERPOSE".into());
        flags.insert("COVERAGE_INTERPOSE_CLAIM_WITHOUT_ATTESTATION".into());
    }
    let said = bundle.metadata().and_then(|metadata| metadata.get("coverage_enforcement"));
    if bundle.options.require_host_evidence || said.and_then(|said| flag(said, "required")) == Some(true) {
        flags.insert("COVERAGE_REQUIRED_MISSING".into());
        if bundle.options.require_host_evidence || bundle.options.coverage == Coverage::Enforce {
            return Err(PAYLOAD.fault("coverage_attestations", Code::Evidence, "one is demanded, and not there"));
        }
    }
    Ok(())
}

fn metrics(attestation: &Value, of: &str) -> Value {
    let payload = attestation.get("payload");
    payload.and_then(|payload| payload.get("metrics")?.get(of)).cloned().unwrap_or(Value::Null)
}

/// The worst of what is counted so far and of one more attestation.
fn most(so_far: Option<Counted>, attestation: &Value) -> Counted {
    let so_far = so_far.unwrap_or(Counted { unmediated: 0.0, unmonitored: 0.0, escapes: false });
    let (egress, lineage) = (metrics(attestation, "egress"), metrics(attestation, "lineage"));
    Counted {
        unmediated: so_far.unmediated.max(number(&egress, "unmediated_connections").unwrap_or_default()),
        unmonitored: so_far.unmonitored.max(number(&lineage, "unmonitored_spawns").unwrap_or_default()),
        escapes: so_far.escapes || flag(&lineage, "escapes_suspected") == Some(true),
    }
}

/// The flag of an attestation that nobody who is trusted signed.
const UNVERIFIED: &str = "COVERAGE_ATTESTATION_VERIFY_FAILED";

/// What is wrong with one of them, each with the flag under which it is known.
fn check_one(bundle: &Bundle<'_>, attestation: &Value, at: At<'_>) -> Vec<(&'static str, Fault)> {
    let unverified = |name: &str, text: &str| vec![(UNVERIFIED, at.fault(name, Code::Evidence, text))];
    let signer = text(attestation, "signer_did");
    if !bundle.trust.sentinels.iter().any(|did| did.to_string() == signer) {
        return unverified("signer_did", "its signer is not a sentinel that is trusted");
    }
    if seal::expired(attestation, bundle.options.now) {
        return unverified("expires_at", "it has expired");
    }
    if !seal::hashed(attestation) {
        return unverified("payload_hash_b64u", "it was changed after it was signed");
    }
    if !seal::key(signer).is_some_and(|key| seal::signed(attestation, &key)) {
        return unverified("signature_b64u", "it is not the sentinel's signature");
    }
    let payload = attestation.get("payload").unwrap_or(&Value::Null);
    let payload_at = at.name("payload");
    if text(payload, "sentinel_did") != signer {
        let fault = payload_at.fault("sentinel_did", Code::Evidence, "it is not the one who signed");
        return vec![(UNVERIFIED, fault)];
    }
    let mut faults = Vec::new();
    let mut unless = |holds: bool, flag: &'static str, at: At<'_>, name: &str, text: &str| {
        if !holds {
            faults.push((flag, at.fault(name, Code::Evidence, text)));
        }
    };
    let agent = text(payload, "agent_did") == bundle.agent;
    unless(agent, "COVERAGE_ATTESTATION_AGENT_MISMATCH", payload_at, "agent_did", "it is another agent");
    let (binding, binding_at) = (payload.get("binding").unwrap_or(&Value::Null), payload_at.name("binding"));
    let root = text(binding, "event_chain_root_hash_b64u");
    match (bundle.run, bundle.root) {
        (Some(run), Some(first)) => {
            let same = text(payload, "run_id") == run;
            unless(same, "COVERAGE_ATTESTATION_RUN_ID_MISMATCH", payload_at, "run_id", "it is another run");
            let (flag, name) = ("COVERAGE_ATTESTATION_CHAIN_ROOT_MISMATCH", "event_chain_root_hash_b64u");
            unless(root == first, flag, binding_at, name, "it is not the hash of the first event");
        }
        _ => {
            let flag = "COVERAGE_ATTESTATION_BINDING_CONTEXT_MISSING";
            unless(false, flag, payload_at, "binding", "there is no event chain that it could be bound to");
        }
    }
    let metrics_at = payload_at.name("metrics");
    let (lineage, egress, liveness) =
        (metrics(attestation, "lineage"), metrics(attestation, "egress"), metrics(attestation, "liveness"));
    let none = |of: &Value, name: &str| number(of, name) == Some(0.0);
    let at = metrics_at.name("lineage");
    let spawns = none(&lineage, "unmonitored_spawns");
    unless(spawns, "COVERAGE_UNMONITORED_SPAWNS", at, "unmonitored_spawns", "processes were not watched");
    let inside = flag(&lineage, "escapes_suspected") == Some(false);
    unless(inside, "COVERAGE_ESCAPES_SUSPECTED", at, "escapes_suspected", "an escape is suspected");
    let at = metrics_at.name("egress");
    let mediated = none(&egress, "unmediated_connections");
    unless(mediated, "COVERAGE_UNMEDIATED_EGRESS", at, "unmediated_connections", "connections went around");
    let at = metrics_at.name("liveness");
    let continuous = text(&liveness, "status") == "continuous";
    unless(continuous, "COVERAGE_LIVENESS_INTERRUPTED", at, "status", "the sentinel was interrupted");
    let heard = number(&liveness, "max_gap_ms").is_some_and(|gap| gap <= bundle.options.max_gap_ms);
    unless(heard, "COVERAGE_LIVENESS_GAP_EXCEEDED", at, "max_gap_ms", "the sentinel was silent for too long");
    faults
}
