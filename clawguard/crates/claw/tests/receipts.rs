//! Receipts and attestations, against the worked example of Claw's own code and against themselves.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that goes wrong stops")]

use claw::{
    Hash,
    envelope::Envelope,
    envelope::Kind,
    json::{self, Canon, Limits, Value},
    key::PrivateKey,
    receipt::{
        Binding, CoverageAttestation, Egress, EgressPolicyReceipt, Error, GatewayReceipt, Hosts, Lineage, Liveness,
        LivenessStatus, Metrics, NotHosts, ResultStatus, ToolReceipt,
    },
    time::Instant,
};
use proptest::prelude::*;

const RUN: &str = "run_7f3a";
const FIRST: &str = "WdbrSkLQOBj8yHd6BPQx0IUk1SAFz9gQ_EYckiawu9o";
const SECOND: &str = "X0UO4gtr_PeZEMLY2wCBul8noQCL-WkcmUa4bvFRGHk";
const THIRD: &str = "-2jHtaHhPhBT47vEB8Qq7QIViN1ctULK6qsXU6mfTJY";

fn example() -> Value {
    parse(include_str!("vectors/worked_example.json"))
}

fn parse(text: &str) -> Value {
    json::parse(text.as_bytes(), Limits { bytes: 1 << 20, depth: 64 }).unwrap()
}

fn at<'a>(value: &'a Value, path: &[&str]) -> &'a Value {
    path.iter().fold(value, |value, name| match value {
        Value::Array(items) => &items[name.parse::<usize>().unwrap()],
        _ => value.get(name).unwrap(),
    })
}

fn host_evidence(example: &Value) -> &Value {
    at(example, &["bundles", "host_evidence", "envelope", "payload"])
}

fn key(seed: u8) -> PrivateKey {
    PrivateKey::from_seed(&[seed; 32])
}

fn seconds(seconds: u64) -> Instant {
    Instant(Instant::parse("2026-03-01T00:00:00.000Z").unwrap().0 + seconds * 1_000_000_000)
}

fn hash(text: &str) -> Hash {
    text.parse().unwrap()
}

fn binding(event: &str) -> Binding {
    Binding {
        run_id: RUN.into(),
        event_hash: hash(event),
        nonce: None,
        policy_hash: Some(hash("QmMQ0aNYNhEVSy7HuvraVk1SsiC7362h7kBTu5jL0i4")),
        token_scope_hash: Some(hash("2bx4Qyw9DF0tdY9Ji6Lo5X_D-DGo1roP9ZgpOCzQeKo")),
    }
}

fn gateway_receipt(example: &Value) -> GatewayReceipt {
    GatewayReceipt {
        receipt_id: "rcpt_00000000-0000-4000-8000-000000000009".into(),
        gateway_id: "did:web:clawproxy.com".into(),
        provider: "anthropic".into(),
        model: "claude-sonnet-4".into(),
        request_hash: hash("9C8hJRLdMuPlQGYOrYVUtzkjM1OrkZXwXZ4DJ3UAOmk"),
        response_hash: hash("F3-rZHP4AwepXrzsv_EWRttXvMauTw3TRpKqcespU-w"),
        tokens_input: 0,
        tokens_output: 0,
        latency_ms: 0,
        timestamp: seconds(0),
        binding: binding(SECOND),
        metadata: Some(at(host_evidence(example), &["receipts", "0", "payload", "metadata"]).clone()),
    }
}

fn coverage() -> CoverageAttestation {
    CoverageAttestation {
        attestation_id: "cov_1".into(),
        run_id: RUN.into(),
        agent: key(0x44).did(),
        sentinel: key(0x55).did(),
        issued_at: seconds(3),
        chain_root: hash(FIRST),
        metrics: Metrics {
            lineage: Lineage { root_pid: 4242, processes_tracked: 7, unmonitored_spawns: 0, escapes_suspected: false },
            egress: Egress { connections_total: 3, unmediated_connections: 0 },
            liveness: Liveness {
                status: LivenessStatus::Continuous,
                uptime_ms: 12_000,
                heartbeat_interval_ms: 500,
                max_gap_ms: 200,
            },
        },
        metadata: None,
    }
}

fn egress() -> EgressPolicyReceipt {
    EgressPolicyReceipt {
        receipt_id: "epr_1".into(),
        clawproxy_url: "https://clawproxy.com/".into(),
        proxy_destinations: Hosts::new(["clawproxy.com"]).unwrap(),
        child_destinations: Hosts::new(["LOCALHOST", "127.0.0.1", "::1", "localhost"]).unwrap(),
        effective_policy_hash: None,
        blocked_attempts: 1,
        timestamp: seconds(3),
        run_id: RUN.into(),
        event_hash: hash(FIRST),
    }
}

#[test]
fn a_gateway_receipt_has_the_bytes_of_claws_own() {
    let example = example();
    let receipt = gateway_receipt(&example);
    assert_eq!(receipt.payload(), at(&example, &["proxy", "receipt_payload_json"]).as_str().unwrap());
    let sealed = receipt.seal(&key(0x33), seconds(0));
    assert!(sealed.contains("2AUz2BUVS-dZA2T8ZNznkiLU-cTjEqGU-ejgl409C48"));
    assert!(sealed.contains("zhijAnluycGtLmjiihamJo0yHMZFXEy7fOln-BN7K1_ug8FcKeTrOTdMt2dBO0mkeMXuzAvpIqeZkVzQCzARCg"));
    assert_eq!(sealed, at(host_evidence(&example), &["receipts", "0"]).to_string());
    let opened = GatewayReceipt::open(sealed.as_bytes()).unwrap();
    assert_eq!((opened.receipt, opened.signer), (receipt, key(0x33).did()));
}

#[test]
fn a_coverage_attestation_has_the_bytes_of_claws_own() {
    let example = example();
    let sealed = coverage().seal(&key(0x55)).unwrap();
    assert!(sealed.contains("Y_7ZcR8pbsJ_PUk1DriiulVJQBjANXDuxzLsbjDw9Z0"));
    assert!(sealed.contains("ThhZwbIdHU-6URGdtxwb2xb9Mi8FuvquaASEI_-jv_yElXv7f_YkDphU8wILtl7NMbXc16XQ0Y1EqNHUwUpvCQ"));
    assert_eq!(sealed, at(&example, &["coverage", "envelope"]).to_string());
    assert_eq!(CoverageAttestation::open(sealed.as_bytes()).unwrap().receipt, coverage());
}

#[test]
fn a_bundle_that_is_sealed_has_the_bytes_of_claws_own() {
    let example = example();
    for name in ["minimal", "host_evidence", "host_evidence_no_receipts"] {
        let envelope = at(&example, &["bundles", name, "envelope"]);
        let payload = at(envelope, &["payload"]).to_string();
        assert_eq!(claw::receipt::seal(&payload, Kind::ProofBundle, &key(0x44), seconds(5)), envelope.to_string());
    }
}

#[test]
fn nobody_attests_for_another_sentinel() {
    assert_eq!(coverage().seal(&key(0x44)), None);
    let forged = claw::receipt::seal(&coverage().payload(), Kind::CoverageAttestation, &key(0x44), seconds(3));
    let error = CoverageAttestation::open(forged.as_bytes()).unwrap_err();
    assert_eq!(error, Error::Wrong { name: "sentinel_did".into(), expected: "the signer" });
}

#[test]
fn an_egress_policy_receipt_has_the_bytes_of_claws_own() {
    let example = example();
    assert_eq!(egress().policy_hash(), hash("7CsyJ0IuHsDNeFa-4CZGE045u7tXsgrDbTkO3BcJuFg"));
    let sealed = egress().seal(&key(0x44), seconds(3));
    assert!(sealed.contains("QWJJucOeg2OzDe5jjnW2DSfKbt-UHfkJCijxWGQlqQY"));
    assert_eq!(sealed, at(&example, &["egress_policy", "envelope"]).to_string());
}

#[test]
fn a_tool_receipt_has_the_bytes_of_claws_own() {
    let example = example();
    let receipt = ToolReceipt {
        receipt_id: "tr_1".into(),
        tool_name: "mcp.crm.search_customer".into(),
        tool_version: None,
        args_hash: hash("mNyARtiQcfVzpIa-KUML6J3ruHmMZdqUQfm2VBhBGCw"),
        result_hash: hash("Ixk9Om9mdhvLEtphA57C5wH2vcjrMA17cL_joQ-6Cbo"),
        result_status: ResultStatus::Success,
        agent: key(0x44).did(),
        timestamp: seconds(2),
        latency_ms: 12,
        binding: Binding { policy_hash: None, token_scope_hash: None, ..binding(THIRD) },
    };
    assert_eq!(receipt.payload(), at(&example, &["tool_receipt"]).to_string());
    let sealed = receipt.seal(&key(0x44), seconds(2));
    assert_eq!(ToolReceipt::open(sealed.as_bytes()).unwrap().receipt, receipt);
}

#[test]
fn hosts_are_listed_as_icu_sorts_them_and_only_what_can_be_listed() {
    let hosts = |hosts: &[&str]| Hosts::new(hosts.iter().copied());
    let listed = |receipt: Hosts| EgressPolicyReceipt { child_destinations: receipt, ..egress() }.payload(&key(0x44));
    let text = listed(hosts(&["a.b", "localhost", "a-b", "A.B", "*.a", "127.0.0.1", "::1"]).unwrap());
    assert!(text.contains(r#"["::1","*.a","127.0.0.1","a-b","a.b","localhost"]"#), "{text}");
    assert_eq!(hosts(&[]), Err(NotHosts::None));
    for wrong in ["10.0.0.0/8", "a_b", "ä.example", "a b", "", "[::1]"] {
        assert_eq!(hosts(&["a", wrong]), Err(NotHosts::Character(wrong.into())), "{wrong}");
    }
}

#[test]
fn a_receipt_that_was_changed_is_refused() {
    let sealed = gateway_receipt(&example()).seal(&key(0x33), seconds(0));
    for (from, to) in [("\"latency_ms\":0", "\"latency_ms\":1"), (RUN, "run_7f3b"), ("anthropic", "openai")] {
        let error = GatewayReceipt::open(sealed.replacen(from, to, 1).as_bytes()).unwrap_err();
        assert!(matches!(error, Error::Envelope(claw::envelope::Error::Hash { .. })), "{from}: {error}");
    }
    // Signed, but no receipt.
    let payload = gateway_receipt(&example()).payload();
    let wrong = |from: &str, to: &str| {
        let changed = payload.replacen(from, to, 1);
        assert_ne!(changed, payload);
        let sealed = claw::receipt::seal(&changed, Kind::GatewayReceipt, &key(0x33), seconds(0));
        GatewayReceipt::open(sealed.as_bytes()).unwrap_err().to_string()
    };
    assert!(wrong("\"receipt_version\":\"1\"", "\"receipt_version\":\"2\"").contains("receipt_version"));
    assert!(wrong("\"latency_ms\":0", "\"latency_ms\":-1").contains("latency_ms"));
    assert!(wrong("\"provider\":\"anthropic\"", "\"provider\":\"\"").contains("provider"));
    assert!(wrong("\"provider\":\"anthropic\"", "\"vendor\":\"anthropic\"").contains("unknown member \"vendor\""));
    assert!(wrong("\"run_id\":\"run_7f3a\",", "").contains("binding.run_id"));
    assert!(wrong("\"policy_hash\":", "\"policy\":").contains("binding.policy"));
}

#[test]
fn a_receipt_with_a_span_is_anothers_and_is_read() {
    let example = example();
    let text = at(&example, &["receipt_with_span"]).to_string();
    assert_eq!(GatewayReceipt::open(text.as_bytes()).unwrap().receipt.latency_ms, 5);
}

proptest! {
    /// What is hashed is what V8 writes when it reads the text: whatever anybody put into it.
    #[test]
    fn what_is_hashed_is_what_v8_would_write(
        texts in prop::array::uniform4(any::<String>()), numbers in any::<[u64; 3]>(), name in "\\PC{1,9}|[0-9]{1,11}",
    ) {
        let [provider, model, nonce, value] = texts;
        let (tokens_input, tokens_output) = (numbers[0], numbers[1]);
        let members = vec![("z".into(), Value::Null), (name.into(), Value::String(value.into()))];
        let receipt = GatewayReceipt {
            provider, model, tokens_input, tokens_output,
            latency_ms: numbers[2],
            binding: Binding { nonce: Some(nonce), ..binding(SECOND) },
            metadata: Some(Value::Object(members)),
            ..gateway_receipt(&example())
        };
        let payload = receipt.payload();
        let parsed = json::parse(payload.as_bytes(), Limits { bytes: 1 << 20, depth: 8 });
        // Only a metadata member of the name "z" is there twice.
        prop_assume!(parsed.is_ok() || payload.matches("\"z\":").count() > 1);
        if let Ok(parsed) = parsed {
            prop_assert_eq!(parsed.to_string(), payload.clone());
            prop_assert_eq!(parsed.hash(Canon::Insertion), Hash::of(payload.as_bytes()));
            let sealed = receipt.seal(&key(0x33), seconds(0));
            prop_assert!(Envelope::open(sealed.as_bytes(), Kind::GatewayReceipt).is_ok());
        }
    }
}
