//! `claw.poh.gateway_receipt_envelope.v1`, and what a receipt says of its model.

use super::{
    super::shape::{
        AMOUNT, DID, FREE, HASH, Member, OBJECT, ONE, REAL, SOME, Shape, TIME, WHOLE, closed, envelope, list, maybe,
        needed, open,
    },
    FOREIGN,
};

macro_rules! gateway_receipt {
    ($metadata:expr) => {
        closed(&[
            needed("receipt_version", ONE),
            needed("receipt_id", SOME),
            needed("gateway_id", SOME),
            needed("provider", SOME),
            needed("model", SOME),
            needed("request_hash_b64u", HASH),
            needed("response_hash_b64u", HASH),
            needed("tokens_input", AMOUNT),
            needed("tokens_output", AMOUNT),
            needed("latency_ms", AMOUNT),
            needed("timestamp", TIME),
            maybe("binding", closed(BINDING)),
            maybe("metadata", open($metadata)),
        ])
    };
}

/// A gateway's receipt as the bundle's schema has it, which is open in its metadata.
pub(in super::super) const IN_A_BUNDLE: Shape =
    envelope!("gateway_receipt", gateway_receipt!(&[MODEL, MODEL_HASH, AUDITS]), super::BOTH);
/// The same by its own schema.
#[cfg(test)]
pub(in super::super) const RECEIPT: Shape =
    envelope!("gateway_receipt", gateway_receipt!(RECEIPT_METADATA), super::BOTH);

const BINDING: &[Member] = &[
    maybe("run_id", SOME),
    maybe("event_hash_b64u", HASH),
    maybe("nonce", SOME),
    maybe("policy_hash", SOME),
    maybe("token_scope_hash_b64u", HASH),
    maybe("span_id", SOME),
    maybe("spanId", SOME),
    maybe("parent_span_id", SOME),
    maybe("parentSpanId", SOME),
    maybe("tool_span_id", SOME),
    maybe("toolSpanId", SOME),
    maybe(
        "phase",
        Shape::Word(&["setup", "planning", "reasoning", "execution", "observation", "reflection", "teardown"]),
    ),
    maybe("attribution_confidence", REAL),
    maybe("attributionConfidence", REAL),
];

const MODEL: Member = maybe("model_identity", MODEL_IDENTITY);
const MODEL_HASH: Member = maybe("model_identity_hash_b64u", HASH);
const AUDITS: Member = maybe("audit_result_refs", list(0, usize::MAX, &closed(REFERENCE)));

/// What a receipt's own schema says of its metadata, which the bundle's leaves open.
pub(in super::super) const METADATA: Shape = open(RECEIPT_METADATA);

const RECEIPT_METADATA: &[Member] = &[
    MODEL,
    MODEL_HASH,
    AUDITS,
    // Payments are bound to calls by rules that are not kept here.
    maybe("x402_payment_ref", FOREIGN),
    maybe("x402_amount_minor", FOREIGN),
    maybe("x402_currency", FOREIGN),
    maybe("x402_network", FOREIGN),
    maybe("x402_payment_auth_hash_b64u", FOREIGN),
    maybe("log_inclusion_proof", INCLUSION),
    maybe(
        "kinematic_fingerprint",
        closed(&[
            needed("ttft_ms", REAL),
            needed("itl_p50_ms", REAL),
            needed("itl_p95_ms", REAL),
            needed("itl_stddev_ms", REAL),
            needed("chunk_count", WHOLE),
            needed("burst_signature_b64u", FREE),
            maybe("hardware_inferred", FREE),
            maybe("confidence_score", Shape::Number { least: 0.0, most: 1.0, whole: false }),
            maybe("total_tokens", WHOLE),
            maybe("total_duration_ms", REAL),
        ]),
    ),
    maybe(
        "sentinel_anomaly_report",
        closed(&[
            needed("threat_score", Shape::Number { least: 0.0, most: 100.0, whole: false }),
            needed(
                "anomaly_type",
                Shape::Word(&[
                    "benign",
                    "prompt_injection_suspected",
                    "data_exfiltration_topology",
                    "alien_trajectory",
                    "model_impersonation",
                ]),
            ),
            maybe("global_prevalence", WHOLE),
            maybe("nearest_neighbors", list(0, usize::MAX, &FREE)),
            maybe("confidence", Shape::Number { least: 0.0, most: 1.0, whole: false }),
        ]),
    ),
];

const REFERENCE: &[Member] = &[maybe("resource_type", FREE), needed("resource_hash_b64u", HASH), maybe("uri", FREE)];
const TYPED_REFERENCE: &[Member] =
    &[needed("resource_type", SOME), needed("resource_hash_b64u", HASH), maybe("uri", FREE)];

const INCLUSION: Shape = closed(&[
    needed("proof_version", ONE),
    needed("log_id", SOME),
    needed("tree_size", AMOUNT),
    needed("leaf_hash_b64u", HASH),
    needed("root_hash_b64u", HASH),
    needed("audit_path", list(0, usize::MAX, &HASH)),
    needed("root_published_at", TIME),
    needed("root_signature", closed(&[needed("signer_did", DID), needed("sig_b64u", HASH)])),
    maybe("metadata", OBJECT),
]);

const MODEL_IDENTITY: Shape = closed(&[
    needed("model_identity_version", ONE),
    needed("tier", Shape::Word(&["closed_opaque", "closed_provider_manifest", "openweights_hashable", "tee_measured"])),
    needed(
        "model",
        closed(&[
            needed("provider", SOME),
            needed("name", SOME),
            maybe("family", FREE),
            maybe("endpoint", FREE),
            maybe("region", FREE),
            maybe("deployment_id", FREE),
            maybe("revision", FREE),
        ]),
    ),
    maybe(
        "gateway_observed",
        closed(&[
            needed("gateway_id", DID),
            needed("observed_at", TIME),
            maybe("request_id", FREE),
            maybe("provider_response_fingerprint", FREE),
            maybe(
                "transport",
                closed(&[maybe("provider_api", FREE), maybe("http_status", AMOUNT), maybe("latency_ms", AMOUNT)]),
            ),
        ]),
    ),
    maybe("artifacts", closed(ARTIFACTS)),
    maybe("metadata", OBJECT),
]);

const ARTIFACTS: &[Member] = &[
    maybe(
        "provider_manifest",
        closed(&[
            needed("manifest_type", Shape::Word(&["provider_build_manifest"])),
            maybe("uri", FREE),
            needed("hash_b64u", HASH),
            maybe("content_type", FREE),
            maybe(
                "signature",
                closed(&[needed("signer_did", DID), needed("signature_envelope_ref", closed(TYPED_REFERENCE))]),
            ),
        ]),
    ),
    maybe(
        "openweights",
        closed(&[
            maybe("weights_format", FREE),
            maybe(
                "weights",
                list(
                    0,
                    usize::MAX,
                    &closed(&[maybe("file_name", FREE), needed("hash_b64u", HASH), maybe("size_bytes", AMOUNT)]),
                ),
            ),
            maybe("tokenizer", OBJECT),
            maybe("config", OBJECT),
            maybe("serving_code", OBJECT),
        ]),
    ),
    maybe(
        "tee_measurement",
        closed(&[
            maybe("attestation_type", FREE),
            maybe("attestation_report_ref", closed(TYPED_REFERENCE)),
            maybe("measurement", OBJECT),
            maybe("tcb", OBJECT),
        ]),
    ),
];
