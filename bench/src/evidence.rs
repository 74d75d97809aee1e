//! What it takes to verify evidence: bundles, and the audit chain. Beside each, the cryptography alone.

use std::{fs, hint::black_box, io::Write, sync::Mutex, time::Instant};

use ::daemon::audit::AuditLog;
use claw::{
    Hash, Value,
    envelope::{Envelope, Kind},
    json::{Limits, parse},
    key::PrivateKey,
    time::Instant as Time,
};
use evidence::{
    chain::{self, Head, Verifier},
    verify::{Options, Trust, verify_all},
};
use serde_json::json;

use crate::{Line, median};

const ROUNDS: usize = 7;
const BUNDLES: usize = 20;
const RECEIPTS: usize = 1000;

fn now() -> Time {
    Time(1_772_323_200_000_000_000)
}

fn sealed(payload: &serde_json::Value, kind: Kind, key: &PrivateKey) -> String {
    let payload = parse(payload.to_string().as_bytes(), Limits { bytes: 64 << 20, depth: 64 }).unwrap();
    Envelope::seal(payload, kind, key, now())
}

/// A run of one event to which a thousand calls are bound.
fn bundle(number: usize, agent: &PrivateKey, gateway: &PrivateKey) -> String {
    let (at, hash) = (now().format(), Hash::of(b"payload").to_string());
    let run = format!("run_{number}");
    let mut event = json!({ "event_id": "evt_0", "run_id": run, "event_type": "run_start", "timestamp": at,
        "payload_hash_b64u": hash, "prev_hash_b64u": null });
    // The header as it is hashed, whose members serde_json would sort.
    let names = ["event_id", "run_id", "event_type", "timestamp", "payload_hash_b64u", "prev_hash_b64u"];
    let text = |value: &serde_json::Value| value.as_str().map_or(Value::Null, |text| Value::String(text.into()));
    let header = Value::Object(names.map(|name| (name.into(), text(&event[name]))).into());
    let root = header.insertion_hash().to_string();
    event["event_hash_b64u"] = json!(root);
    let receipts: Vec<serde_json::Value> = (0..RECEIPTS)
        .map(|i| {
            let receipt = json!({
                "receipt_version": "1", "receipt_id": format!("rcpt_{number}_{i}"), "gateway_id": "did:web:gateway.example",
                "provider": "anthropic", "model": "claude-sonnet-4", "request_hash_b64u": Hash::of(&i.to_le_bytes()).to_string(),
                "response_hash_b64u": hash, "tokens_input": 0, "tokens_output": 0, "latency_ms": 12, "timestamp": at,
                "binding": { "run_id": run, "event_hash_b64u": root, "nonce": format!("nonce_{i}"), "policy_hash": hash,
                    "token_scope_hash_b64u": hash },
                "metadata": { "model_identity": { "model_identity_version": "1", "tier": "closed_opaque",
                    "model": { "provider": "anthropic", "name": "claude-sonnet-4" } } },
            });
            serde_json::from_str(&sealed(&receipt, Kind::GatewayReceipt, gateway)).unwrap()
        })
        .collect();
    let payload = json!({ "bundle_version": "1", "bundle_id": format!("bundle_{number}"), "agent_did": agent.did().to_string(),
        "event_chain": [event], "receipts": receipts });
    sealed(&payload, Kind::ProofBundle, agent)
}

/// Bundles of as many receipts as the format takes.
pub(crate) fn bundles() -> Vec<Line> {
    let (agent, gateway) = (PrivateKey::from_seed(&[1; 32]), PrivateKey::from_seed(&[2; 32]));
    let texts: Vec<String> = (0..BUNDLES).map(|number| bundle(number, &agent, &gateway)).collect();
    let bundles: Vec<&[u8]> = texts.iter().map(String::as_bytes).collect();
    let trust = Trust { receipt_signers: vec![gateway.did()], ..Trust::default() };
    let (message, verifier) = (Hash::of(b"one").to_string(), gateway.did().verifier().unwrap());
    let signature = gateway.sign(message.as_bytes());
    let (mut all, mut one, mut plain) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for (bundles, rates) in [(&bundles[..], &mut all), (&bundles[..1], &mut one)] {
            let started = Instant::now();
            let whole = verify_all(bundles, &trust, &Options::at(now()));
            rates.push((bundles.len() * RECEIPTS) as f64 / started.elapsed().as_secs_f64());
            assert_eq!(whole.broken, None);
        }
        const LOOP: usize = 5000;
        let started = Instant::now();
        for _ in 0..LOOP {
            assert!(verifier.verifies(black_box(message.as_bytes()), black_box(&signature)));
        }
        plain.push(LOOP as f64 / started.elapsed().as_secs_f64());
    }
    let (all, one, plain) = (median(&mut all), median(&mut one), median(&mut plain));
    vec![Line::new(
        "`bundle verify`, 20 bundles of 1 000 receipts, all of it on 2 processors",
        format!(
            "{all:.0} receipts a second; one bundle alone {one:.0}; a plain loop of Ed25519 on one processor {plain:.0}"
        ),
        "20 000 receipts a second",
        all >= 20_000.0,
    )]
}

/// A chain of tool calls, in memory: what a disk adds is the disk's.
pub(crate) fn audit() -> Vec<Line> {
    const RECORDS: usize = 200_000;
    let (mut head, mut text) = (Head::default(), Vec::new());
    for n in 0..RECORDS {
        let body = json!({ "job": "job_7f3a", "agent": "openclaw", "server": "crm-mcp", "tool": "search_customer",
            "method": "tools/call", "decision": "allow", "status": "success", "took_us": 1234, "n": n,
            "wpc_hash": "QmMQ0aNYNhEVSy7HuvraVk1SsiC7362h7kBTu5jL0i4" });
        let (line, next) = head.append(chain::Kind::Call, now(), body);
        text.extend_from_slice(line.as_bytes());
        head = next;
    }
    let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    let (mut checked, mut hashed) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (started, mut verifier) = (Instant::now(), Verifier::new(None));
        for line in &lines {
            verifier.check(line).unwrap();
        }
        checked.push(RECORDS as f64 / started.elapsed().as_secs_f64());
        assert_eq!(verifier.head(), head);
        let started = Instant::now();
        for line in &lines {
            black_box(Hash::of(line));
        }
        hashed.push(RECORDS as f64 / started.elapsed().as_secs_f64());
    }
    let (checked, hashed) = (median(&mut checked), median(&mut hashed));
    vec![Line::new(
        format!("`audit verify`, records of {} bytes, on one processor", text.len() / RECORDS),
        format!("{checked:.0} records a second; their SHA-256 alone {hashed:.0}"),
        "500 000 records a second",
        checked >= 500_000.0,
    )]
}

/// Records that are on disk before whoever wrote them goes on, and beside it the same bytes written and synced by nobody but
/// the disk.
pub(crate) fn kept() -> Vec<Line> {
    const WRITERS: usize = 16;
    const BATCH: usize = 64;
    const BATCHES: usize = 100;
    const RECORDS: usize = WRITERS * BATCH * BATCHES;
    let body = json!({ "job": "job_7f3a", "agent": "openclaw", "server": "crm-mcp", "tool": "search_customer",
        "method": "tools/call", "decision": "allow", "status": "success", "took_us": 1234,
        "wpc_hash": "QmMQ0aNYNhEVSy7HuvraVk1SsiC7362h7kBTu5jL0i4" });
    // On the disk and not in memory, as /tmp may be.
    let directory = std::env::current_dir().unwrap().join(format!("target/tmp/keep-audit-{}", std::process::id()));
    let (mut rates, mut plain) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let place = directory.join(round.to_string());
        fs::create_dir_all(&place).unwrap();
        let log = Mutex::new(AuditLog::open(&place, PrivateKey::from_seed(&[3; 32]), 64 << 20).unwrap().0);
        let started = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..WRITERS {
                scope.spawn(|| {
                    for _ in 0..BATCHES {
                        let mut last = None;
                        for _ in 0..BATCH {
                            last = Some(log.lock().unwrap().append(chain::Kind::Call, &body).unwrap());
                        }
                        last.unwrap().wait().unwrap();
                    }
                });
            }
        });
        rates.push(RECORDS as f64 / started.elapsed().as_secs_f64());
        let lines: Vec<u8> = fs::read(place.join("audit-000001.jsonl")).unwrap();
        let mut file = fs::File::create(place.join("plain")).unwrap();
        let started = Instant::now();
        for part in lines.chunks(lines.len() / BATCHES) {
            file.write_all(part).unwrap();
            file.sync_data().unwrap();
        }
        plain.push(RECORDS as f64 / started.elapsed().as_secs_f64());
        fs::remove_dir_all(&place).unwrap();
    }
    fs::remove_dir_all(&directory).unwrap();
    let (rate, plain) = (median(&mut rates), median(&mut plain));
    vec![Line::new(
        format!("audit records kept on disk, {WRITERS} writers that wait for each {BATCH} of theirs"),
        format!("{rate:.0} a second; the same bytes written and synced {BATCHES} times: {plain:.0}"),
        "50 000 records a second",
        rate >= 50_000.0,
    )]
}
