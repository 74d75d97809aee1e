//! What it takes to sign receipts, beside the signature alone.

use std::{hint::black_box, time::Instant};

use claw::{
    Hash,
    key::PrivateKey,
    receipt::{Binding, GatewayReceipt},
    time::Instant as Time,
};

use crate::{Line, median};

const ROUNDS: usize = 7;
const RECEIPTS: u64 = 5000;

/// Receipts of model calls: from what is known of a call to the envelope that is written down.
pub(crate) fn signed() -> Vec<Line> {
    let key = PrivateKey::from_seed(&[3; 32]);
    let at = Time(1_772_323_200_000_000_000);
    let hash = Hash::of(b"something");
    let message = hash.to_string();
    let (mut rates, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let started = Instant::now();
        for i in 0..RECEIPTS {
            let receipt = GatewayReceipt {
                receipt_id: format!("rcpt_{i}"),
                gateway_id: "did:web:gateway.example".into(),
                provider: "anthropic".into(),
                model: "claude-sonnet-4".into(),
                request_hash: Hash(std::array::from_fn(|at| i.to_le_bytes()[at % 8])),
                response_hash: hash,
                tokens_input: i,
                tokens_output: 80,
                latency_ms: 900,
                timestamp: at,
                binding: Binding {
                    run_id: "run_bench_0".into(),
                    event_hash: hash,
                    nonce: Some(format!("nonce_{i}")),
                    policy_hash: Some(hash),
                    token_scope_hash: Some(hash),
                },
                metadata: None,
            };
            black_box(receipt.seal(&key, at));
        }
        rates.push(RECEIPTS as f64 / started.elapsed().as_secs_f64());
        let started = Instant::now();
        for _ in 0..RECEIPTS {
            black_box(key.sign(black_box(message.as_bytes())));
        }
        plain.push(RECEIPTS as f64 / started.elapsed().as_secs_f64());
    }
    let (rate, plain) = (median(&mut rates), median(&mut plain));
    vec![Line::new(
        "gateway receipts signed, on one core",
        format!("{rate:.0} a second (the signature alone: {plain:.0})"),
        "10 000 a second",
        rate >= 10_000.0,
    )]
}
