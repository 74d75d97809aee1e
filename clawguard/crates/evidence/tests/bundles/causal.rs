//! What receipts say of causes.

use claw::Value;
use evidence::verify::Grade;

use crate::support::{
    AGENT, GATEWAY, bundle, enforcing, fault, judge, observing, receipts, refused, remove, seal, set, text, value,
};

const RECEIPT: &str = "payload.receipts[0]";
const BINDING: &str = "payload.receipts[0].payload.binding";

/// The bundle with one thing changed in its receipt's binding, signed again by the gateway and the agent.
fn bound(members: &[(&str, Value)]) -> Value {
    let mut made = bundle("host_evidence");
    for (name, to) in members {
        set(&mut made, BINDING, name, to.clone());
    }
    seal(&mut made, RECEIPT, GATEWAY);
    seal(&mut made, "", AGENT);
    made
}

#[test]
fn spans_are_read_strictly() {
    for (members, code, name) in [
        (vec![("span_id", value!(" "))], "CAUSAL_BINDING_NORMALIZATION_FAILED", "span_id"),
        (vec![("span_id", value!(4))], "CAUSAL_BINDING_NORMALIZATION_FAILED", "span_id"),
        (vec![("span_id", value!("a")), ("spanId", value!("b"))], "CAUSAL_BINDING_FIELD_CONFLICT", "span_id"),
        (vec![("phase", value!("dreaming"))], "CAUSAL_PHASE_INVALID", "phase"),
        (vec![("attribution_confidence", value!("x"))], "CAUSAL_CONFIDENCE_OUT_OF_RANGE", "attribution_confidence"),
        (vec![("attributionConfidence", value!(2))], "CAUSAL_CONFIDENCE_OUT_OF_RANGE", "attributionConfidence"),
        (
            vec![("attribution_confidence", value!(0.1)), ("attributionConfidence", value!(0.2))],
            "CAUSAL_BINDING_FIELD_CONFLICT",
            "attribution_confidence",
        ),
        (
            vec![("attribution_confidence", value!(0.1))],
            "CAUSAL_CONFIDENCE_EVIDENCE_INCONSISTENT",
            "attribution_confidence",
        ),
        (
            vec![("span_id", value!("a")), ("attribution_confidence", value!(0.6))],
            "CAUSAL_CONFIDENCE_EVIDENCE_INCONSISTENT",
            "attribution_confidence",
        ),
        (
            vec![("span_id", value!("a")), ("parent_span_id", value!("b"))],
            "CAUSAL_REFERENCE_DANGLING",
            "parent_span_id",
        ),
        (vec![("toolSpanId", value!("b"))], "CAUSAL_REFERENCE_DANGLING", "toolSpanId"),
        (vec![("span_id", value!("a")), ("parent_span_id", value!("a"))], "CAUSAL_CYCLE_DETECTED", "parent_span_id"),
    ] {
        refused(&bound(&members), &enforcing(), code, &format!("{BINDING}.{name}"));
    }
    for members in [
        vec![("span_id", value!("a"))],
        vec![("span_id", value!("a")), ("spanId", value!(" a "))],
        vec![("phase", value!("setup"))],
        vec![("span_id", value!("a")), ("attribution_confidence", value!(0.5))],
    ] {
        assert_eq!(fault(&bound(&members)), None, "{members:?}");
    }
}

#[test]
fn causes_come_before_effects_and_hang_together() {
    let later = "2026-03-01T00:00:05Z";
    for (bindings, code, place) in [
        (
            value!([{"span_id":"a","timestamp":later},{"span_id":"b","parent_span_id":"a"}]),
            "CAUSAL_CLOCK_CONTRADICTION",
            "payload.receipts[1].payload.timestamp",
        ),
        (
            value!([{"span_id":"a"},{"span_id":"a","timestamp":later}]),
            "CAUSAL_CLOCK_CONTRADICTION",
            "payload.receipts[1].payload.timestamp",
        ),
        (
            value!([{"span_id":"a","phase":"setup"},{"span_id":"a","phase":"planning"}]),
            "CAUSAL_SPAN_REUSE_CONFLICT",
            "payload.receipts[1].payload.binding.span_id",
        ),
        (
            value!([{"span_id":"a","phase":"teardown"},{"span_id":"b","tool_span_id":"a","phase":"setup"}]),
            "CAUSAL_PHASE_TRANSITION_INVALID",
            "payload.receipts[1].payload.binding.phase",
        ),
        (
            value!([{"span_id":"r"},{"span_id":"a","parent_span_id":"b"},{"span_id":"b","parent_span_id":"a"}]),
            "CAUSAL_CYCLE_DETECTED",
            "payload.receipts[1].payload.binding.parent_span_id",
        ),
        (
            value!([{"span_id":"a"},{"span_id":"b"}]),
            "CAUSAL_GRAPH_DISCONNECTED",
            "payload.receipts[1].payload.binding.span_id",
        ),
        (
            value!([{"span_id":"a","tool_span_id":"b"},{"span_id":"b","tool_span_id":"a"}]),
            "CAUSAL_GRAPH_DISCONNECTED",
            "payload.receipts[0].payload.binding.span_id",
        ),
        (
            value!([{"span_id":"r"},{"span_id":"a","tool_span_id":"b"},{"span_id":"b","tool_span_id":"a"}]),
            "CAUSAL_GRAPH_DISCONNECTED",
            "payload.receipts[1].payload.binding.span_id",
        ),
    ] {
        let Value::Array(bindings) = bindings else { panic!() };
        refused(&receipts(&bindings), &enforcing(), code, place);
    }
    let tree = value!([
        {"span_id":"a","phase":"setup"}, {"span_id":"b","parent_span_id":"a","phase":"planning"},
        {"span_id":"c","tool_span_id":"b","phase":"execution","attribution_confidence":1}, {"spanId":"a"}, {}
    ]);
    let Value::Array(tree) = tree else { panic!() };
    assert_eq!(fault(&receipts(&tree)), None);
    // Any bound receipt, with a span or without.
    let mut late = bundle("minimal");
    set(&mut late, &format!("{RECEIPT}.payload"), "timestamp", text("2026-03-01T00:00:09.000Z"));
    seal(&mut late, RECEIPT, GATEWAY);
    seal(&mut late, "", AGENT);
    refused(&late, &observing(), "CAUSAL_CLOCK_CONTRADICTION", "payload.receipts[0].payload.timestamp");
}

#[test]
fn a_side_effect_is_anchored_or_the_bundle_is_refused() {
    let anchored = bundle("side_effect_anchored");
    let verdict = judge(&anchored, &enforcing());
    assert_eq!((verdict.fault.clone(), verdict.claim("side_effects").unwrap().grade), (None, Grade::SelfReported));
    let effect = "payload.side_effect_receipts[0]";
    for (name, to, code) in [
        ("agent_did", "did:key:zOther", "PROOF_BUNDLE_AGENT_MISMATCH"),
        ("hash_algorithm", "BLAKE3", "UNKNOWN_HASH_ALGORITHM"),
    ] {
        let mut changed = anchored.clone();
        set(&mut changed, effect, name, text(to));
        seal(&mut changed, "", AGENT);
        refused(&changed, &enforcing(), code, &format!("{effect}.{name}"));
    }
    let mut loose = anchored;
    remove(&mut loose, effect, "binding");
    seal(&mut loose, "", AGENT);
    refused(&loose, &enforcing(), "CAUSAL_SIDE_EFFECT_ORPHANED", &format!("{effect}.binding"));
}
