//! Jobs that are too long for one bundle: several, of which each names the one before.
//!
//! A bundle's first event follows none, so each part has a chain of its own. What links them is `payload.metadata["clawguard.v1"]`:
//!
//! ```json
//! { "job": "…", "wpc_hash_b64u": "…", "part": 2, "parts": 3,
//!   "previous_bundle_hash_b64u": "<payload hash of part 1>", "continues_from_event_hash_b64u": "<hash of part 1's last event>" }
//! ```
//!
//! The first part names neither of the two. All of it is signed with the bundle.

use std::collections::{BTreeMap, HashSet};

use claw::{
    Value,
    json::{self, Limits},
};
use serde::Serialize;

use super::{
    DEEPEST, MOST_BYTES, Options, Trust,
    fault::{At, Code, Fault, PAYLOAD},
    judge,
    seal::{items, number, text},
    shape::{FREE, HASH, SOME, Shape, maybe, open},
    verdict::{Grade, Verdict},
    workers,
};

/// Where ClawGuard writes what the format has no member for.
pub(super) const NAME: &str = "clawguard.v1";
/// The member with the contract's hash.
pub(super) const CONTRACT: &str = "wpc_hash_b64u";
/// The member with those of all contracts that the job was under.
const CONTRACTS: &str = "contracts";

const POSITIVE: Shape = Shape::Number { least: 1.0, most: 1_000_000.0, whole: true };

pub(super) const SHAPE: Shape = open(&[
    maybe("job", FREE),
    maybe(CONTRACT, Shape::Nullable(&HASH)),
    maybe("part", POSITIVE),
    maybe("parts", POSITIVE),
    maybe("previous_bundle_hash_b64u", Shape::Nullable(&HASH)),
    maybe("continues_from_event_hash_b64u", Shape::Nullable(&HASH)),
    maybe("host_did", SOME),
]);

/// Which part of a job a bundle is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// From 1.
    pub part: u64,
    /// Of so many.
    pub parts: u64,
    /// The payload hash of the part before.
    pub previous_bundle_hash_b64u: Option<String>,
    /// The hash of its last event.
    pub continues_from_event_hash_b64u: Option<String>,
    /// The job.
    pub job: Option<String>,
    /// The hash of its contract.
    pub wpc_hash_b64u: Option<String>,
}

fn own(payload: &Value) -> Option<&Value> {
    payload.get("metadata")?.get(NAME)
}

/// The contract's hash, as the bundle itself tells it.
pub(super) fn contract(payload: &Value) -> Option<&str> {
    own(payload)?.get(CONTRACT)?.as_str()
}

/// The hashes of all contracts that the bundle itself tells, as far as there is room for them.
pub(super) fn contracts(payload: &Value) -> impl Iterator<Item = &str> {
    let list = own(payload).map(|own| items(own, CONTRACTS)).unwrap_or_default();
    contract(payload).into_iter().chain(list.iter().filter_map(Value::as_str))
}

/// What a bundle says of its place in a job.
pub(super) fn of(payload: &Value) -> Option<Part> {
    let own = own(payload)?;
    let text = |name: &str| own.get(name).and_then(Value::as_str).map(str::to_owned);
    Some(Part {
        part: number(own, "part").unwrap_or(1.0) as u64,
        parts: number(own, "parts").unwrap_or(1.0) as u64,
        previous_bundle_hash_b64u: text("previous_bundle_hash_b64u"),
        continues_from_event_hash_b64u: text("continues_from_event_hash_b64u"),
        job: text("job"),
        wpc_hash_b64u: text(CONTRACT),
    })
}

/// A fault between bundles, or within one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Broken {
    /// Which of the bundles, from 0, as they were given.
    pub bundle: usize,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What is said of several bundles.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Whole {
    /// Of each, in the order in which they were given.
    pub verdicts: Vec<Verdict>,
    /// The first fault.
    pub broken: Option<Broken>,
}

/// Verifies bundles and what links them: of each job that lies in parts, all are there, once, in order.
#[must_use]
pub fn verify_all(bundles: &[&[u8]], trust: &Trust, options: &Options<'_>) -> Whole {
    let workers = workers::count(bundles.len(), 1);
    let work = |_, some: &[&[u8]]| -> Vec<Verdict> {
        some.iter().map(|bundle| judge(bundle, trust, options, workers == 1)).collect()
    };
    let mut verdicts = workers::split(bundles, workers, &work).concat();
    let alone = verdicts
        .iter()
        .enumerate()
        .find_map(|(bundle, verdict)| verdict.fault.clone().map(|fault| Broken { bundle, fault }));
    let broken = alone.or_else(|| linked(bundles, &verdicts).err());
    if broken.is_none() {
        for verdict in &mut verdicts {
            let Some(parts) = verdict.part.as_ref().map(|part| part.parts).filter(|parts| *parts > 1) else { continue };
            if let Some(claim) = verdict.claims.iter_mut().find(|claim| claim.about == "whole_job") {
                claim.grade = Grade::SelfReported;
                claim.says =
                    format!("all {parts} parts are here and follow from each other; the signer says that this is all");
            }
        }
    }
    Whole { verdicts, broken }
}

/// A part: which of the bundles it is, what was found of it, what it says of itself.
type Placed<'a> = (usize, &'a Verdict, &'a Part);

fn linked(bundles: &[&[u8]], verdicts: &[Verdict]) -> Result<(), Broken> {
    let mut runs: BTreeMap<(&str, &str), Vec<Placed<'_>>> = BTreeMap::new();
    for (i, verdict) in verdicts.iter().enumerate() {
        let Some(part) = verdict.part.as_ref().filter(|part| part.part > 1 || part.parts > 1) else { continue };
        let (agent, run) = (verdict.agent_did.as_deref(), verdict.run_id.as_deref());
        runs.entry((agent.unwrap_or_default(), run.unwrap_or_default())).or_default().push((i, verdict, part));
    }
    for parts in runs.values() {
        in_order(parts)?;
        nothing_twice(bundles, parts)?;
    }
    Ok(())
}

fn broken(bundle: usize, name: &str, code: Code, text: impl Into<String>) -> Broken {
    let metadata = PAYLOAD.name("metadata");
    let at = metadata.name(NAME);
    Broken { bundle, fault: at.fault(name, code, text) }
}

/// One part after the other, each naming the one before.
fn in_order(parts: &[Placed<'_>]) -> Result<(), Broken> {
    let mut before: Option<(&Verdict, &Part)> = None;
    for (expected, (bundle, verdict, part)) in (1..).zip(parts) {
        let wrong = |name: &str, text: String| Err(broken(*bundle, name, Code::Evidence, text));
        if part.part != expected {
            return wrong("part", format!("part {expected} has to be here, and this is part {}", part.part));
        }
        let (hash, event) = match before {
            None => (None, None),
            Some((verdict, first)) => {
                if part.parts != first.parts || part.job != first.job || part.wpc_hash_b64u != first.wpc_hash_b64u {
                    return wrong(
                        "parts",
                        "it is of another job, contract or number of parts than the one before".into(),
                    );
                }
                (verdict.hash.map(|hash| hash.to_string()), verdict.last_event_hash_b64u.clone())
            }
        };
        if part.previous_bundle_hash_b64u != hash {
            return wrong("previous_bundle_hash_b64u", "it is not the hash of the part before".into());
        }
        if part.continues_from_event_hash_b64u != event {
            return wrong("continues_from_event_hash_b64u", "it is not the last event of the part before".into());
        }
        before = Some((verdict, part));
    }
    match (parts.last(), before) {
        (Some((bundle, ..)), Some((_, last))) if last.part != last.parts => {
            let text = format!("part {} of {} is not here", last.part + 1, last.parts);
            Err(broken(*bundle, "parts", Code::Missing, text))
        }
        _ => Ok(()),
    }
}

/// No event and no receipt of one part is in another one.
fn nothing_twice(bundles: &[&[u8]], parts: &[Placed<'_>]) -> Result<(), Broken> {
    let limits = Limits { bytes: MOST_BYTES, depth: DEEPEST };
    let (mut events, mut receipts) = (HashSet::new(), HashSet::new());
    for (bundle, ..) in parts {
        let value = bundles.get(*bundle).and_then(|text| json::parse(text, limits).ok()).unwrap_or(Value::Null);
        let payload = value.get("payload").unwrap_or(&Value::Null);
        let again = |at: At<'_>, name: &str, code, text: &str| {
            Err(Broken { bundle: *bundle, fault: at.fault(name, code, text) })
        };
        let list = PAYLOAD.name("event_chain");
        for (i, event) in items(payload, "event_chain").iter().enumerate() {
            if !events.insert(text(event, "event_id").to_owned()) {
                return again(list.index(i), "event_id", Code::Malformed, "an earlier part has an event of that id");
            }
        }
        let list = PAYLOAD.name("receipts");
        for (i, receipt) in items(payload, "receipts").iter().enumerate() {
            let id = receipt.get("payload").map(|payload| text(payload, "receipt_id")).unwrap_or_default();
            if !receipts.insert(id.to_owned()) {
                let item = list.index(i);
                return again(item.name("payload"), "receipt_id", Code::Replay, "an earlier part has that receipt");
            }
        }
    }
    Ok(())
}
