//! The event chain: each event names the hash of the one before, and the bundle's agent signs them all.

use std::collections::HashSet;

use claw::{Value, json};

use super::{
    Bundle,
    fault::{Code, Fault, PAYLOAD},
    seal::{items, milliseconds, number, text},
};

/// What an event's hash is made of, in the order in which it is written.
const HEADER: [&str; 6] = ["event_id", "run_id", "event_type", "timestamp", "payload_hash_b64u", "prev_hash_b64u"];

/// No event is there for the second time.
pub(super) fn once(payload: &Value) -> Result<(), Fault> {
    let (chain, mut seen) = (PAYLOAD.name("event_chain"), HashSet::new());
    for (i, event) in items(payload, "event_chain").iter().enumerate() {
        if !seen.insert(text(event, "event_id")) {
            return Err(chain.index(i).fault("event_id", Code::Malformed, "there is an event of that id before"));
        }
    }
    Ok(())
}

/// One run, linked from the first event to the last, every hash computed anew.
pub(super) fn check<'a>(bundle: &mut Bundle<'a>) -> Result<(), Fault> {
    let chain = PAYLOAD.name("event_chain");
    let events = items(bundle.payload, "event_chain");
    let mut before: Option<&'a Value> = None;
    for (i, event) in events.iter().enumerate() {
        let at = chain.index(i);
        if before.is_some_and(|before| text(before, "run_id") != text(event, "run_id")) {
            return Err(at.fault("run_id", Code::Malformed, "it is another run's than the event before"));
        }
        let linked = match before {
            None => event.get("prev_hash_b64u") == Some(&Value::Null),
            Some(before) => {
                event.get("prev_hash_b64u").and_then(Value::as_str) == Some(text(before, "event_hash_b64u"))
            }
        };
        if !linked {
            let said = if i == 0 { "the first event follows none" } else { "it is not the hash of the event before" };
            return Err(at.fault("prev_hash_b64u", Code::Malformed, said));
        }
        before = Some(event);
    }
    for (i, event) in events.iter().enumerate() {
        if hash(event) != text(event, "event_hash_b64u") {
            return Err(chain.index(i).fault(
                "event_hash_b64u",
                Code::Hash,
                "it is not the hash of this event: one of the two was changed",
            ));
        }
    }
    bundle.run = events.first().map(|event| text(event, "run_id"));
    bundle.root = events.first().map(|event| text(event, "event_hash_b64u"));
    bundle.events = events.iter().map(|event| text(event, "event_hash_b64u")).collect();
    Ok(())
}

/// An event's hash, as it is written.
pub(super) fn hash(event: &Value) -> String {
    let member = |name: &str| (name.into(), event.get(name).cloned().unwrap_or(Value::Null));
    Value::Object(HEADER.map(member).into()).hash(json::Canon::Insertion).to_string()
}

/// Claims that a rate was kept, where there are any.
pub(super) fn rate_limits(bundle: &Bundle<'_>) -> Result<(), Fault> {
    let list = PAYLOAD.name("rate_limit_claims");
    for (i, claim) in items(bundle.payload, "rate_limit_claims").iter().enumerate() {
        let at = list.index(i);
        if milliseconds(claim, "window_start") > milliseconds(claim, "window_end") {
            return Err(at.fault("window_start", Code::RateWindow, "the window ends before it begins"));
        }
        for (most, observed) in [
            ("max_requests", "observed_requests"),
            ("max_tokens_input", "observed_tokens_input"),
            ("max_tokens_output", "observed_tokens_output"),
        ] {
            match (number(claim, most), number(claim, observed)) {
                (Some(most), Some(seen)) if seen > most => {
                    return Err(at.fault(observed, Code::RateExceeded, "more than the claim allows"));
                }
                (Some(_), None) | (None, Some(_)) => {
                    let text = format!("{most} and {observed} say nothing without each other");
                    return Err(Fault::new(Code::RateClaim, at, text));
                }
                _ => {}
            }
        }
        if bundle.run.is_some() && claim.get("run_id").is_some() && bundle.run != Some(text(claim, "run_id")) {
            return Err(at.fault("run_id", Code::RateClaim, "it is another run's"));
        }
    }
    Ok(())
}
