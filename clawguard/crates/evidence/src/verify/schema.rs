//! Claw's schemas of a proof bundle and of what lies in it, as tables (`claw.poh.proof_bundle_envelope.v1` and what it refers to).
//!
//! A test makes a bundle wrong in every way in which the schemas' own files say that it would be, and each has to be refused.

pub(super) mod gateway;

use super::{
    fault::Code,
    shape::{
        AMOUNT, COUNT, DID, FREE, Form, HASH, HOST, OBJECT, ONE, SOME, Shape, TIME, URI, closed, envelope, list, maybe,
        needed, open,
    },
};

/// A whole bundle.
pub(super) const ENVELOPE: Shape = envelope!("proof_bundle", BUNDLE, BOTH);

/// What the schemas take; the second of the two is implemented by nobody.
const BOTH: &[&str] = &["SHA-256", "BLAKE3"];
const SHA256: Shape = Shape::Word(&["SHA-256"]);
const FOREIGN: Shape = Shape::Foreign(Code::UnknownSchema);

const BUNDLE: Shape = Shape::With(
    &[
        "urm",
        "event_chain",
        "receipts",
        "vir_receipts",
        "web_receipts",
        "binary_semantic_evidence_attestations",
        "tool_receipts",
        "side_effect_receipts",
        "human_approval_receipts",
        "delegation_receipts",
        "attestations",
    ],
    &closed(&[
        needed("bundle_version", ONE),
        needed("bundle_id", SOME),
        needed("agent_did", DID),
        maybe("eip8004_agent_id", Shape::Text { least: 0, most: usize::MAX, form: Form::Digits }),
        maybe("eip8004_registry", Shape::Text { least: 0, most: usize::MAX, form: Form::Account }),
        maybe(
            "urm",
            closed(&[
                needed("urm_version", ONE),
                needed("urm_id", SOME),
                needed("resource_type", SOME),
                needed("resource_hash_b64u", HASH),
                maybe("metadata", OBJECT),
            ]),
        ),
        maybe("event_chain", list(1, usize::MAX, &EVENT)),
        maybe("vir_receipts", list(1, usize::MAX, &FOREIGN)),
        maybe("receipts", list(1, usize::MAX, &gateway::IN_A_BUNDLE)),
        maybe("web_receipts", list(1, usize::MAX, &FOREIGN)),
        maybe("coverage_attestations", list(0, usize::MAX, &COVERAGE)),
        maybe("binary_semantic_evidence_attestations", list(0, usize::MAX, &FOREIGN)),
        maybe("tool_receipts", list(0, 1000, &TOOL)),
        maybe("side_effect_receipts", list(0, 1000, &SIDE_EFFECT)),
        maybe("human_approval_receipts", list(0, 1000, &APPROVAL)),
        maybe("delegation_receipts", list(0, 1000, &DELEGATION)),
        maybe("rate_limit_claims", list(0, 256, &RATE_LIMIT)),
        maybe("attestations", list(1, usize::MAX, &ATTESTATION)),
        maybe("metadata", METADATA),
    ]),
);

const EVENT: Shape = closed(&[
    needed("event_id", SOME),
    needed("run_id", SOME),
    needed("event_type", SOME),
    needed("timestamp", TIME),
    needed("payload_hash_b64u", HASH),
    needed("prev_hash_b64u", Shape::Nullable(&HASH)),
    needed("event_hash_b64u", HASH),
]);

const COVERAGE: Shape = envelope!(
    "coverage_attestation",
    closed(&[
        needed("attestation_version", ONE),
        needed("attestation_id", SOME),
        needed("run_id", SOME),
        needed("agent_did", DID),
        needed("sentinel_did", DID),
        needed("issued_at", TIME),
        needed("binding", closed(&[needed("event_chain_root_hash_b64u", HASH)])),
        needed(
            "metrics",
            closed(&[
                needed(
                    "lineage",
                    closed(&[
                        needed("root_pid", POSITIVE),
                        needed("processes_tracked", COUNT),
                        needed("unmonitored_spawns", COUNT),
                        needed("escapes_suspected", Shape::Flag),
                    ]),
                ),
                needed(
                    "egress",
                    closed(&[needed("connections_total", COUNT), needed("unmediated_connections", COUNT)])
                ),
                needed(
                    "liveness",
                    closed(&[
                        needed("status", Shape::Word(&["continuous", "interrupted"])),
                        needed("uptime_ms", COUNT),
                        needed("heartbeat_interval_ms", POSITIVE),
                        needed("max_gap_ms", COUNT),
                    ]),
                ),
            ]),
        ),
        maybe("metadata", OBJECT),
    ]),
    BOTH
);

const POSITIVE: Shape = Shape::Number { least: 1.0, most: f64::MAX, whole: true };

const TOOL: Shape = Shape::Either("envelope_version", &TOOL_ENVELOPE, &TOOL_RECEIPT);

const TOOL_ENVELOPE: Shape = closed(&[
    needed("envelope_version", ONE),
    needed("envelope_type", Shape::Word(&["tool_receipt"])),
    needed("payload", TOOL_RECEIPT),
    needed("payload_hash_b64u", SOME),
    needed("hash_algorithm", SHA256),
    needed("signature_b64u", SOME),
    needed("algorithm", Shape::Word(&["Ed25519"])),
    needed("signer_did", SOME),
    needed("issued_at", TIME),
    maybe("expires_at", TIME),
]);

const TOOL_RECEIPT: Shape = closed(&[
    needed("receipt_version", ONE),
    needed("receipt_id", SOME),
    needed("tool_name", SOME),
    maybe("tool_version", FREE),
    needed("args_hash_b64u", SOME),
    needed("result_hash_b64u", SOME),
    maybe("result_status", Shape::Word(&["success", "error", "timeout"])),
    needed("hash_algorithm", SHA256),
    needed("agent_did", SOME),
    needed("timestamp", TIME),
    needed("latency_ms", AMOUNT),
    maybe(
        "binding",
        open(&[
            maybe("run_id", FREE),
            maybe("event_hash_b64u", FREE),
            maybe("nonce", FREE),
            maybe("policy_hash", FREE),
            maybe("token_scope_hash_b64u", FREE),
        ]),
    ),
]);

const SIDE_EFFECT: Shape = open(&[
    needed("receipt_version", ONE),
    needed("receipt_id", SOME),
    needed("effect_class", Shape::Word(&["network_egress", "filesystem_write", "external_api_write"])),
    maybe("target_digest", FREE),
    maybe("request_digest", FREE),
    maybe("response_digest", FREE),
    needed("hash_algorithm", Shape::Word(BOTH)),
    maybe("vendor_id", FREE),
    maybe("bytes_written", AMOUNT),
    needed("agent_did", DID),
    needed("timestamp", TIME),
    maybe("binding", OBJECT),
]);

const APPROVAL: Shape = open(&[
    needed("receipt_version", ONE),
    needed("receipt_id", SOME),
    needed("approval_type", Shape::Word(&["explicit_approve", "explicit_deny", "auto_approve", "timeout_deny"])),
    maybe("scope_hash_b64u", FREE),
    maybe("plan_hash_b64u", FREE),
    maybe("approver_subject", FREE),
    maybe("capability_minted", Shape::Flag),
    maybe("policy_hash_b64u", FREE),
    needed("agent_did", DID),
    needed("timestamp", TIME),
    maybe("binding", OBJECT),
]);

const DELEGATION: Shape = open(&[
    needed("receipt_version", ONE),
    needed("receipt_id", SOME),
    needed("delegator_did", DID),
    needed("delegate_did", DID),
    needed("task_description_hash_b64u", HASH),
    needed("delegate_bundle_hash_b64u", HASH),
    maybe("delegation_policy", FREE),
    needed("hash_algorithm", Shape::Word(BOTH)),
    needed("delegated_at", TIME),
    maybe("completed_at", TIME),
    maybe("binding", OBJECT),
]);

const RATE_LIMIT: Shape = closed(&[
    needed("claim_version", ONE),
    needed("scope", Shape::Word(&["agent", "model", "tool"])),
    needed("scope_key", SOME),
    needed("window_start", TIME),
    needed("window_end", TIME),
    needed("max_requests", AMOUNT),
    needed("observed_requests", AMOUNT),
    maybe("max_tokens_input", AMOUNT),
    maybe("observed_tokens_input", AMOUNT),
    maybe("max_tokens_output", AMOUNT),
    maybe("observed_tokens_output", AMOUNT),
    maybe("run_id", SOME),
]);

const ATTESTATION: Shape = closed(&[
    needed("attestation_id", SOME),
    needed("attestation_type", Shape::Word(&["owner", "third_party"])),
    needed("attester_did", DID),
    needed("subject_did", DID),
    maybe("expires_at", TIME),
    needed("signature_b64u", HASH),
]);

const METADATA: Shape = open(&[
    maybe(
        "harness",
        open(&[needed("id", SOME), needed("version", SOME), maybe("runtime", FREE), maybe("config_hash_b64u", HASH)]),
    ),
    maybe(
        "sentinels",
        closed(&[
            needed("interpose_active", Shape::Flag),
            maybe("shell_events", AMOUNT),
            maybe("fs_events", AMOUNT),
            maybe("net_events", AMOUNT),
            maybe("net_suspicious", AMOUNT),
            maybe("interpose_events", AMOUNT),
            maybe("interpose_gateway", AMOUNT),
            maybe("interpose_transcript", AMOUNT),
            maybe("interpose_tool_calls", AMOUNT),
            maybe("interpose_anomalies", AMOUNT),
            maybe("preload_llm_events", AMOUNT),
            maybe("tls_sni_events", AMOUNT),
            maybe("tls_sni_receipts", AMOUNT),
            maybe("tls_decrypt_receipts", AMOUNT),
            maybe("vir_receipts", AMOUNT),
            maybe("runtime_profile", OBJECT),
            maybe("runtime_hygiene", OBJECT),
            maybe("egress_policy_receipt", EGRESS),
            maybe("interpose_state", OBJECT),
        ]),
    ),
    // What these claim is bound to the run by rules that are not kept here.
    maybe("prompt_pack", FOREIGN),
    maybe("system_prompt_report", FOREIGN),
    maybe("policy_binding", FOREIGN),
    maybe("data_handling", FOREIGN),
    maybe("processor_policy", FOREIGN),
    maybe("runner_measurement", FOREIGN),
    maybe("runner_attestation_receipt", FOREIGN),
    maybe("reviewer_signoff_receipts", FOREIGN),
    maybe("clawguard.v1", super::parts::SHAPE),
]);

const EGRESS: Shape = closed(&[
    needed("envelope_version", ONE),
    needed("envelope_type", Shape::Word(&["egress_policy_receipt"])),
    needed(
        "payload",
        closed(&[
            needed("receipt_version", ONE),
            needed("receipt_id", SOME),
            needed("policy_version", ONE),
            needed("policy_hash_b64u", HASH),
            maybe("effective_policy_hash_b64u", HASH),
            needed("proofed_mode", Shape::Only(true)),
            needed("clawproxy_url", URI),
            needed("allowed_proxy_destinations", list(1, usize::MAX, &HOST)),
            needed("allowed_child_destinations", list(1, usize::MAX, &HOST)),
            needed("direct_provider_access_blocked", Shape::Only(true)),
            needed("blocked_attempt_count", COUNT),
            needed("blocked_attempts_observed", Shape::Flag),
            needed("hash_algorithm", SHA256),
            needed("agent_did", DID),
            needed("timestamp", TIME),
            needed("binding", closed(&[needed("run_id", SOME), needed("event_hash_b64u", HASH)])),
            // An anchor in a transparency log, which is not looked up here.
            maybe("transparency", FOREIGN),
        ]),
    ),
    needed("payload_hash_b64u", HASH),
    needed("hash_algorithm", SHA256),
    needed("signature_b64u", HASH),
    needed("algorithm", Shape::Word(&["Ed25519"])),
    needed("signer_did", DID),
    needed("issued_at", TIME),
]);

/// `claw.poh.urm.v1`: the manifest that lies beside a bundle.
pub(super) const URM: Shape = closed(&[
    needed("urm_version", ONE),
    needed("urm_id", SOME),
    needed("run_id", SOME),
    needed("agent_did", DID),
    needed("issued_at", TIME),
    needed(
        "harness",
        closed(&[
            needed("id", SOME),
            needed("version", SOME),
            maybe("runtime", FREE),
            maybe("config_hash_b64u", HASH),
            maybe("metadata", OBJECT),
        ]),
    ),
    needed("inputs", list(0, usize::MAX, &RESOURCE)),
    needed("outputs", list(0, usize::MAX, &RESOURCE)),
    maybe("event_chain_root_hash_b64u", HASH),
    maybe("receipts_root_hash_b64u", HASH),
    maybe("proof_bundle_hash_b64u", HASH),
    maybe("metadata", OBJECT),
]);

const RESOURCE: Shape = closed(&[
    needed("type", SOME),
    needed("hash_b64u", HASH),
    maybe("content_type", FREE),
    maybe("uri", URI),
    maybe("path", FREE),
    maybe("size_bytes", COUNT),
    maybe("metadata", OBJECT),
]);

/// `claw.poh.trust_pulse.v1`: what a run says of itself, beside the bundle.
pub(super) const TRUST_PULSE: Shape = closed(&[
    needed("trust_pulse_version", ONE),
    maybe("trust_pulse_id", SOME),
    needed("run_id", SOME),
    needed("agent_did", DID),
    needed("issued_at", TIME),
    needed("evidence_class", Shape::Word(&["self_reported"])),
    needed("tier_uplift", Shape::Only(false)),
    maybe("started_at", TIME),
    maybe("ended_at", TIME),
    maybe("duration_ms", COUNT),
    needed(
        "tools",
        list(
            0,
            128,
            &closed(&[needed("name", Shape::Text { least: 1, most: 128, form: Form::Free }), needed("calls", COUNT)]),
        ),
    ),
    needed(
        "files",
        list(
            0,
            512,
            &closed(&[
                needed("path", Shape::Text { least: 1, most: 1024, form: Form::Path }),
                needed("touches", COUNT),
            ]),
        ),
    ),
]);

#[cfg(test)]
mod tests;
