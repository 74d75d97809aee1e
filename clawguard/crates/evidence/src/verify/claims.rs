//! Grades: what each claim of a valid bundle is worth.

use super::{
    Bundle, Coverage,
    beside::{Contracts, Pulse},
    causal,
    coverage::Covered,
    models::Models,
    seal::items,
    tools,
    verdict::{Claim, Grade, ProofTier, TrustTier, Verdict},
};

/// What the steps found.
pub(super) struct Found {
    pub(super) urm: bool,
    pub(super) egress: Option<f64>,
    pub(super) models: Models,
    pub(super) attested: (usize, usize),
    pub(super) covered: Covered,
    /// And how many more are named, and not there.
    pub(super) contracts: (Contracts, usize),
    pub(super) pulse: Pulse,
}

/// Tiers and claims.
pub(super) fn conclude(bundle: &Bundle<'_>, found: &Found, verdict: &mut Verdict) {
    verdict.trust_tier =
        if bundle.run.is_some() || found.models.receipts > 0 { TrustTier::Verified } else { TrustTier::Basic };
    verdict.proof_tier = match (found.attested, found.models.receipts) {
        ((_, 1..), _) => ProofTier::Sandbox,
        (_, 1..) => ProofTier::Gateway,
        _ => ProofTier::Own,
    };
    verdict.model_identity_tier = found.models.tier;
    verdict.risk_flags.extend(found.models.flags.iter().map(|flag| (*flag).to_owned()));
    verdict.claims = vec![
        event_chain(bundle),
        model_calls(&found.models),
        contract(&found.contracts),
        coverage(bundle, found.covered),
        egress(found.egress),
        tool_calls(bundle),
        unsigned(bundle, "approvals", "human_approval_receipts", "approval"),
        unsigned(bundle, "side_effects", "side_effect_receipts", "side_effect"),
        manifest(found.urm),
        pulse(found.pulse),
        attestations(found.attested),
        whole_job(verdict),
    ];
}

/// A number of things, as one says it.
fn of(n: usize, thing: &str) -> String {
    if n == 1 { format!("1 {thing}") } else { format!("{n} {thing}s") }
}

fn claim(about: &'static str, grade: Grade, says: impl Into<String>) -> Claim {
    Claim { about, grade, says: says.into() }
}

fn event_chain(bundle: &Bundle<'_>) -> Claim {
    match items(bundle.payload, "event_chain").len() {
        0 => claim("event_chain", Grade::Absent, "no events"),
        n => claim(
            "event_chain",
            Grade::Verified,
            format!(
                "{}, unchanged since the agent's key signed them; that they are all, the signer says",
                of(n, "event")
            ),
        ),
    }
}

fn model_calls(models: &Models) -> Claim {
    match models.receipts {
        0 => claim("model_calls", Grade::Absent, "no gateway's receipts"),
        n => {
            // Claw's verifiers take that, and gateways of theirs may do it; a host's own binds each to its own event.
            let again = match models.again {
                0 => String::new(),
                again => format!("; {again} of them at an event that has another one"),
            };
            let says = format!("{}, each signed by a gateway that is trusted{again}", of(n, "receipt"));
            claim("model_calls", Grade::Verified, says)
        }
    }
}

fn contract((contracts, missing): &(Contracts, usize)) -> Claim {
    let (grade, mut says) = match contracts {
        Contracts::Signed(n) => {
            (Grade::Verified, format!("{} by trusted signers, to which the run is bound", of(*n, "contract")))
        }
        Contracts::SignedAndTold(n) => (
            Grade::SelfReported,
            format!("{} by trusted signers; that the run is bound to it only the agent's key says", of(*n, "contract")),
        ),
        Contracts::Unpinned(n) => (
            Grade::Inferred,
            format!("{} to which the run is bound; nobody is trusted to sign contracts", of(*n, "contract")),
        ),
        Contracts::Receipts(hash) => {
            (Grade::Inferred, format!("{hash}, as gateways signed; the contract is not there"))
        }
        Contracts::Told(hash) => {
            (Grade::SelfReported, format!("{hash}, as the agent's key signed; nobody else says so"))
        }
        Contracts::None => (Grade::Absent, "no contract is named".into()),
    };
    if *missing > 0 {
        says += &format!("; not there: {} that the bundle names", of(*missing, "contract"));
    }
    claim("contract", grade, says)
}

fn coverage(bundle: &Bundle<'_>, covered: Covered) -> Claim {
    let Covered { attestations, held, connections } = covered;
    match attestations {
        0 => claim("coverage", Grade::Absent, "no sentinel says what it saw"),
        n if held == n => claim(
            "coverage",
            Grade::Verified,
            format!(
                "{} by trusted sentinels: {} counted, none around, nothing unwatched",
                of(n, "attestation"),
                of(connections as usize, "connection")
            ),
        ),
        n => {
            let observed = if bundle.options.coverage == Coverage::Observe { " (only observed)" } else { "" };
            claim("coverage", Grade::SelfReported, format!("{} of {n} attestations do not hold{observed}", n - held))
        }
    }
}

fn egress(blocked: Option<f64>) -> Claim {
    match blocked {
        None => claim("egress_policy", Grade::Absent, "no receipt of the agent's egress policy"),
        Some(blocked) => claim(
            "egress_policy",
            Grade::Verified,
            format!("signed with the agent's key, bound to this run; {} blocked", of(blocked as usize, "attempt")),
        ),
    }
}

fn tool_calls(bundle: &Bundle<'_>) -> Claim {
    match tools::count(bundle.payload) {
        (0, _) => claim("tool_calls", Grade::Absent, "no receipts of tools"),
        (all, signed) if all == signed => {
            claim("tool_calls", Grade::Verified, format!("{}, each signed with the agent's key", of(all, "receipt")))
        }
        (all, signed) => claim(
            "tool_calls",
            Grade::SelfReported,
            format!("{}, {signed} of them signed; of the others only the bundle is", of(all, "receipt")),
        ),
    }
}

/// What has receipts without signatures, or only events.
fn unsigned(bundle: &Bundle<'_>, about: &'static str, list: &str, event: &str) -> Claim {
    match (causal::claimed(bundle.payload, list), causal::event(bundle.payload, event)) {
        (0, None) => claim(about, Grade::Absent, "none are told"),
        (0, Some(kind)) => {
            claim(about, Grade::Inferred, format!("the event chain has \"{kind}\"; what it was, only its hash says"))
        }
        (n, _) => claim(
            about,
            Grade::SelfReported,
            format!("{} without a signature of its own, anchored in model calls", of(n, "receipt")),
        ),
    }
}

fn manifest(there: bool) -> Claim {
    match there {
        true => claim("manifest", Grade::Verified, "the run's manifest is the one that the bundle names"),
        false => claim("manifest", Grade::Absent, "the bundle names none"),
    }
}

fn pulse(pulse: Pulse) -> Claim {
    match pulse {
        Pulse::None => claim("trust_pulse", Grade::Absent, "no summary"),
        // It is never more, whoever pins its hash.
        Pulse::Pinned => {
            claim("trust_pulse", Grade::SelfReported, "the run's own summary, the one that the manifest names")
        }
        Pulse::Loose => claim("trust_pulse", Grade::SelfReported, "the run's own summary; no manifest names it"),
    }
}

fn attestations((all, trusted): (usize, usize)) -> Claim {
    match (all, trusted) {
        (0, _) => claim("attestations", Grade::Absent, "nobody attests the agent"),
        (_, 0) => claim("attestations", Grade::SelfReported, format!("{all} by attesters of whom none is trusted")),
        _ => claim("attestations", Grade::Verified, format!("{trusted} of {all} by attesters who are trusted")),
    }
}

fn whole_job(verdict: &Verdict) -> Claim {
    match &verdict.part {
        Some(part) if part.parts > 1 => claim(
            "whole_job",
            Grade::Absent,
            format!("this is part {} of {}: the others are not in it", part.part, part.parts),
        ),
        _ => claim("whole_job", Grade::SelfReported, "the signer says that this is all"),
    }
}
