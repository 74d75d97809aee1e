//! Proof bundles of a run: its events and what belongs to them, signed with the agent's key.
//!
//! A bundle has a thousand events at the most. A longer run is told in several, each a chain of its own with [`PART`] events;
//! `metadata["clawguard.v1"]` links them: `part` of `parts`, `previous_bundle_hash_b64u` (the payload's hash of the part before) and
//! `continues_from_event_hash_b64u` (its last event). A receipt lies in the part that has its event. Each part has a coverage
//! attestation of its own, bound to its first event, and an egress policy receipt bound to that too; both speak of the whole run.
//!
//! What is not there is told with its reason, in `absent`. Receipts of side effects and of approvals are never written: nothing
//! anchors them while no gateway's receipts carry spans, and the bundle would be invalid. Of approvals there are events.
//!
//! Nothing secret goes in: arguments, results and bodies as hashes alone.

mod run;

use std::collections::{BTreeSet, HashMap};

use claw::{
    Hash,
    envelope::Kind,
    json::{self, Limits},
    key::PrivateKey,
    receipt::{
        self, Binding, CoverageAttestation, EgressPolicyReceipt, GatewayReceipt, Hosts, Metrics, Object, ResultStatus,
        ToolReceipt,
    },
    time::Instant,
};

pub use run::{Counts, Gathering, Run, ToolResult};

use crate::{
    events::{Event, PART},
    pulse::{self, Pulse},
};

/// Receipts of one kind that a bundle may have.
const MOST_RECEIPTS: usize = 1000;
/// Bytes of a bundle's metadata.
const MOST_METADATA: usize = 16_384;
/// Characters of a reason that is told.
const LONGEST: usize = 240;
/// Contracts of a run that are named; how many there were is told.
const MOST_CONTRACTS: usize = 16;
/// Absences that are told.
const MOST_ABSENT: usize = 32;

/// What made the bundle.
#[derive(Clone, Debug)]
pub struct Harness<'a> {
    /// ClawGuard's version.
    pub version: &'a str,
    /// `host`
    pub runtime: &'a str,
    /// Hash of the host's configuration.
    pub config_hash: Option<Hash>,
}

/// What a job's egress was held to.
#[derive(Clone, Debug)]
pub struct Held {
    /// The way to models.
    pub clawproxy_url: String,
    /// Where that leads.
    pub proxy_destinations: Hosts,
    /// Where the job's processes may go.
    pub child_destinations: Hosts,
}

/// Something that is not in the bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Absent {
    /// What.
    pub what: String,
    /// Why.
    pub why: String,
}

/// What goes into a bundle beside the run.
#[derive(Debug)]
pub struct With<'a> {
    /// Signs the bundle: the key of the agent, or the one that the host minted for the job.
    pub agent: &'a PrivateKey,
    /// Signs the coverage attestation: the host's key.
    pub sentinel: &'a PrivateKey,
    /// The envelopes of gateway receipts.
    pub receipts: &'a [String],
    /// What the host saw of the run, or why there is nothing to say.
    pub coverage: Result<Metrics, String>,
    /// What the egress was held to, or why that cannot be said.
    pub egress: Result<Held, String>,
    /// The agent that the job's token names, if this host does not have its key.
    pub foreign_agent: Option<&'a str>,
    /// What else is not there.
    pub absent: &'a [Absent],
    /// What made this.
    pub harness: Harness<'a>,
    /// The present. What is signed is signed no earlier than the last thing that it speaks of.
    pub issued_at: Instant,
}

/// One bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The signed envelope, in one line without its end.
    pub text: String,
    /// The payload's hash.
    pub hash: Hash,
}

/// A run's bundles and what lies beside them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// In their order.
    pub parts: Vec<Part>,
    /// The manifest that each of them refers to.
    pub urm: String,
    /// The summary to which the manifest points.
    pub trust_pulse: String,
    /// Receipts that are in none, by their place among those that were given, and why.
    pub left_out: Vec<(usize, String)>,
}

/// Why there is no bundle.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nothing happened.
    #[error("the run has no events")]
    Empty,
    /// More receipts than the format takes. Each is bound to the event of its own call, so that there are fewer than events.
    #[error("part {part} has {count} receipts where the format takes {MOST_RECEIPTS}: several are bound to one event")]
    Receipts {
        /// From 1.
        part: usize,
        /// How many.
        count: usize,
    },
    /// More metadata than the format takes.
    #[error("the bundle's metadata is {0} bytes where the format takes {MOST_METADATA}")]
    Metadata(usize),
}

/// A part on its way.
struct Draft<'a> {
    number: usize,
    parts: usize,
    /// The run's event with which it begins.
    first: usize,
    events: &'a [Event],
    receipts: Vec<String>,
}

/// Writes a run's bundles.
///
/// # Errors
///
/// See [`Error`].
pub fn write(run: &Run, with: &With<'_>) -> Result<Export, Error> {
    let root = run.events.first().ok_or(Error::Empty)?;
    let (receipts, left_out, latest) = sorted(run, with.receipts);
    let last = run.events.iter().map(|event| event.timestamp).max().unwrap_or(root.timestamp);
    let issued_at = with.issued_at.max(last).max(latest);
    let pulse = Pulse::of(run, &with.agent.did(), issued_at);
    let parts = run.events.len().div_ceil(PART as usize);
    let manifest = pulse::manifest(&pulse, run, with, issued_at, (parts == 1).then_some(&root.event_hash));

    let mut written: Vec<Part> = Vec::with_capacity(parts);
    for (i, (events, receipts)) in run.events.chunks(PART as usize).zip(receipts).enumerate() {
        if receipts.len() > MOST_RECEIPTS {
            return Err(Error::Receipts { part: i + 1, count: receipts.len() });
        }
        let draft = Draft { number: i + 1, parts, first: i * PART as usize, events, receipts };
        let payload = payload(run, with, &draft, &manifest, written.last(), left_out.len(), issued_at)?;
        let hash = Hash::of(payload.as_bytes());
        written.push(Part { text: receipt::seal(&payload, Kind::ProofBundle, with.agent, issued_at), hash });
    }
    Ok(Export { parts: written, urm: manifest.text, trust_pulse: pulse.text, left_out })
}

/// Receipts by the part that has their event, those that are in none, and the last moment that one of them speaks of.
fn sorted(run: &Run, receipts: &[String]) -> (Vec<Vec<String>>, Vec<(usize, String)>, Instant) {
    let places: HashMap<Hash, usize> =
        run.events.iter().enumerate().map(|(i, event)| (event.event_hash, i / PART as usize)).collect();
    let mut parts = vec![Vec::new(); run.events.len().div_ceil(PART as usize)];
    let (mut left_out, mut seen, mut latest) = (Vec::new(), BTreeSet::new(), Instant(0));
    for (i, text) in receipts.iter().enumerate() {
        let mut leave = |why: String| left_out.push((i, why));
        let opened = match GatewayReceipt::open(text.as_bytes()) {
            Ok(opened) => opened,
            Err(error) => {
                leave(error.to_string());
                continue;
            }
        };
        let binding = &opened.receipt.binding;
        let place = places.get(&binding.event_hash).filter(|_| binding.run_id == *run.run_id);
        let Some(part) = place.and_then(|place| parts.get_mut(*place)) else {
            leave("it is bound to no event of this run".into());
            continue;
        };
        if !seen.insert(opened.receipt.receipt_id) {
            leave("there is a receipt of that id before".into());
            continue;
        }
        latest = latest.max(opened.issued_at);
        // Others may have written it with spaces: here it stands as it is hashed.
        let limits = Limits { bytes: text.len(), depth: 64 };
        part.push(json::parse(text.as_bytes(), limits).map_or_else(|_| text.clone(), |value| value.to_string()));
    }
    (parts, left_out, latest)
}

fn payload(
    run: &Run,
    with: &With<'_>,
    draft: &Draft<'_>,
    manifest: &pulse::Manifest,
    before: Option<&Part>,
    left_out: usize,
    issued_at: Instant,
) -> Result<String, Error> {
    let root = draft.events.first().ok_or(Error::Empty)?;
    let name = format!("{}_{}", run.run_id, draft.number);
    let coverage = with.coverage.as_ref().ok().and_then(|metrics| {
        let attestation = CoverageAttestation {
            attestation_id: format!("cov_{name}"),
            run_id: run.run_id.as_ref().into(),
            agent: with.agent.did(),
            sentinel: with.sentinel.did(),
            issued_at,
            chain_root: root.event_hash,
            metrics: *metrics,
            metadata: None,
        };
        attestation.seal(with.sentinel)
    });
    let mut payload = Object::default();
    payload.string("bundle_version", "1");
    payload.string("bundle_id", &format!("bundle_{name}_{}", issued_at.0 / 1_000_000));
    payload.string("agent_did", &with.agent.did().to_string());
    manifest.refer(&mut payload);
    let events: Vec<String> = draft.events.iter().map(Event::to_json).collect();
    payload.list("event_chain", events.iter().map(String::as_str));
    if !draft.receipts.is_empty() {
        payload.list("receipts", draft.receipts.iter().map(String::as_str));
    }
    if let Some(coverage) = &coverage {
        payload.list("coverage_attestations", [coverage.as_str()]);
    }
    let tools = tool_receipts(run, with, draft);
    if !tools.is_empty() {
        payload.list("tool_receipts", tools.iter().map(String::as_str));
    }
    payload.raw("metadata", &metadata(run, with, draft, before, left_out, issued_at)?);
    Ok(payload.end())
}

/// Receipts of the part's calls. In no envelope of their own: the key would be the bundle's.
fn tool_receipts(run: &Run, with: &With<'_>, draft: &Draft<'_>) -> Vec<String> {
    // They are in the order of their events.
    let before = |event: usize| run.results.partition_point(|result| result.event < event);
    let of_part = run.results.get(before(draft.first)..before(draft.first + draft.events.len()));
    let written = |result: &ToolResult| {
        let event = run.events.get(result.event)?;
        let began = event.timestamp.0.saturating_sub(result.duration_us.saturating_mul(1000));
        let receipt = ToolReceipt {
            receipt_id: format!("tool_{}_{}", run.run_id, event.event_id),
            tool_name: result.tool.clone(),
            tool_version: None,
            args_hash: result.args_hash,
            result_hash: result.result_hash,
            result_status: if result.good { ResultStatus::Success } else { ResultStatus::Error },
            agent: with.agent.did(),
            timestamp: Instant(began),
            latency_ms: result.duration_us / 1000,
            binding: Binding {
                run_id: run.run_id.as_ref().into(),
                event_hash: event.event_hash,
                nonce: None,
                policy_hash: result.contract,
                token_scope_hash: None,
            },
        };
        Some(receipt.payload())
    };
    of_part.unwrap_or_default().iter().filter_map(written).collect()
}

fn metadata(
    run: &Run,
    with: &With<'_>,
    draft: &Draft<'_>,
    before: Option<&Part>,
    left_out: usize,
    issued_at: Instant,
) -> Result<String, Error> {
    let observed = Err("the job's contract was only observed, not enforced".to_owned());
    let egress = if run.enforced { with.egress.clone() } else { observed };
    let text = metadata_with(run, with, draft, before, left_out, issued_at, &egress);
    if text.len() <= MOST_METADATA {
        return Ok(text);
    }
    // The hosts are the only part of it without a bound.
    let too_many = Err(format!("its hosts do not fit into the {MOST_METADATA} bytes of a bundle's metadata"));
    let text = metadata_with(run, with, draft, before, left_out, issued_at, &too_many);
    if text.len() <= MOST_METADATA { Ok(text) } else { Err(Error::Metadata(text.len())) }
}

fn metadata_with(
    run: &Run,
    with: &With<'_>,
    draft: &Draft<'_>,
    before: Option<&Part>,
    left_out: usize,
    issued_at: Instant,
    egress: &Result<Held, String>,
) -> String {
    let mut metadata = Object::default();
    metadata.object("harness", |harness| {
        harness.string("id", "clawguard");
        harness.string("version", with.harness.version);
        harness.string("runtime", with.harness.runtime);
        if let Some(hash) = &with.harness.config_hash {
            harness.hash("config_hash_b64u", hash);
        }
    });
    metadata.object("sentinels", |sentinels| {
        // The kernel's hooks stand in the job's system calls while its contract is enforced.
        sentinels.bool("interpose_active", run.enforced);
        let Counts { egress_allowed, egress_denied, egress_observed, alerts, .. } = run.counts;
        sentinels.number("net_events", egress_allowed.saturating_add(egress_denied).saturating_add(egress_observed));
        sentinels.number("net_suspicious", alerts);
        if let (Ok(held), Some(root)) = (egress, draft.events.first()) {
            let receipt = EgressPolicyReceipt {
                receipt_id: format!("egress_{}_{}", run.run_id, draft.number),
                clawproxy_url: held.clawproxy_url.clone(),
                proxy_destinations: held.proxy_destinations.clone(),
                child_destinations: held.child_destinations.clone(),
                effective_policy_hash: None,
                blocked_attempts: run.counts.egress_denied,
                timestamp: issued_at,
                run_id: run.run_id.as_ref().into(),
                event_hash: root.event_hash,
            };
            sentinels.raw("egress_policy_receipt", &receipt.seal(with.agent, issued_at));
        }
        if let Ok(Metrics { lineage, egress, .. }) = &with.coverage {
            sentinels.object("interpose_state", |state| {
                state.object("cldd", |cldd| {
                    cldd.number("unmediated_connections", egress.unmediated_connections);
                    cldd.number("unmonitored_spawns", lineage.unmonitored_spawns);
                    cldd.bool("escapes_suspected", lineage.escapes_suspected);
                });
            });
        }
    });
    metadata.object("clawguard.v1", |own| {
        own.string("job", &run.job);
        own.string("agent", &run.agent);
        own.string("sentinel_did", &with.sentinel.did().to_string());
        own.maybe("token_agent_did", with.foreign_agent);
        own.string("mode", if run.enforced { "enforce" } else { "observe" });
        if let Some(hash) = run.contract().and_then(|hash| hash.parse::<Hash>().ok()) {
            own.hash("wpc_hash_b64u", &hash);
        }
        own.strings("contracts", run.contracts.iter().rev().take(MOST_CONTRACTS).rev().map(String::as_str));
        own.number("contracts_total", run.contracts.len() as u64);
        own.instant("started_at", run.started_at);
        if let Some(end) = run.ended_at {
            own.instant("ended_at", end);
        }
        own.number("part", draft.number as u64);
        own.number("parts", draft.parts as u64);
        if let Some(before) = before {
            own.hash("previous_bundle_hash_b64u", &before.hash);
            let last = draft.first.checked_sub(1).and_then(|at| run.events.get(at));
            own.maybe("continues_from_event_hash_b64u", last.map(|event| event.event_hash.to_string()).as_deref());
        }
        own.object("counts", |counts| counts_of(&run.counts, counts));
        let absent: Vec<String> = absent(run, with, left_out, egress)
            .into_iter()
            .take(MOST_ABSENT)
            .map(|Absent { what, why }| {
                let mut one = Object::default();
                one.string("what", &cut(&what));
                one.string("why", &cut(&why));
                one.end()
            })
            .collect();
        own.list("absent", absent.iter().map(String::as_str));
    });
    metadata.end()
}

fn counts_of(counts: &Counts, into: &mut Object) {
    for (name, count) in [
        ("tool_calls", counts.tool_calls),
        ("tool_denied", counts.tool_denied),
        ("tool_held", counts.tool_held),
        ("model_calls", counts.model_calls),
        ("model_denied", counts.model_denied),
        ("flips", counts.flips),
        ("alerts", counts.alerts),
        ("egress_allowed", counts.egress_allowed),
        ("egress_denied", counts.egress_denied),
        ("egress_observed", counts.egress_observed),
    ] {
        into.number(name, count);
    }
}

/// Everything that is not there, and why.
fn absent(run: &Run, with: &With<'_>, left_out: usize, egress: &Result<Held, String>) -> Vec<Absent> {
    let absent = |what: &str, why: &str| Absent { what: what.into(), why: why.into() };
    let mut all = Vec::new();
    if let Some(did) = with.foreign_agent {
        let why = "this host does not have its key: the bundle is signed with the one that it minted for the job";
        all.push(absent(&format!("the signature of {did}, whom the job's token names"), why));
    }
    if run.ended_at.is_none() {
        all.push(absent("run_end", "the job was running when this was written"));
    }
    if let Err(why) = &with.coverage {
        all.push(absent("coverage_attestation", why));
    }
    if let Err(why) = egress {
        all.push(absent("egress_policy_receipt", why));
    }
    if left_out > 0 {
        let why = "they are bound to no event of this run, or are no receipts, or were there twice";
        all.push(absent(&format!("{left_out} gateway receipts"), why));
    }
    let made = run.counts.model_calls;
    let here = with.receipts.len() - left_out;
    if made > here as u64 {
        all.push(absent(&format!("receipts of {} model calls", made - here as u64), "there are none"));
    }
    let results = run.results.len() as u64;
    let called: u64 = run.tools.values().sum();
    if called > results {
        let why = "they gave no result: the format has no receipt of that, the event chain has them";
        all.push(absent(&format!("receipts of {} tool calls", called - results), why));
    }
    let spans = "nothing anchors them while no model gateway's receipts carry spans; the event chain has what happened";
    all.push(absent("human_approval_receipts and side_effect_receipts", spans));
    all.extend(with.absent.iter().cloned());
    all
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}\u{2026}", text.split_at(at).0),
        None => text.to_owned(),
    }
}
