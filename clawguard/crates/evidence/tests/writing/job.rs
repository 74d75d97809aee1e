//! A job as a daemon would tell of it, for tests.

use claw::{
    Hash,
    key::PrivateKey,
    receipt::{Binding, Egress, GatewayReceipt, Hosts, Lineage, Liveness, LivenessStatus, Metrics},
    time::Instant,
};
use evidence::{
    bundle::{Export, Gathering, Harness, Held, Run, With, write},
    chain::{Head, Kind},
    events::{Event, Runs, Told},
    verify::{Options, Trust, Whole, verify_all},
};
use serde_json::{Value, json};

pub(crate) const CONTRACT: &str = "QmMQ0aNYNhEVSy7HuvraVk1SsiC7362h7kBTu5jL0i4";
const HASH: &str = "mNyARtiQcfVzpIa-KUML6J3ruHmMZdqUQfm2VBhBGCw";

pub(crate) fn key(seed: u8) -> PrivateKey {
    PrivateKey::from_seed(&[seed; 32])
}

pub(crate) const AGENT: u8 = 0x44;
pub(crate) const GATEWAY: u8 = 0x33;
pub(crate) const SENTINEL: u8 = 0x55;

pub(crate) fn at(seconds: u64) -> Instant {
    Instant(1_772_323_200_000_000_000 + seconds * 1_000_000_000)
}

/// A host that writes its audit chain, makes events as it does, and signs receipts.
#[derive(Default)]
pub(crate) struct Host {
    head: Head,
    runs: Runs,
    pub(crate) lines: Vec<String>,
    pub(crate) events: Vec<Event>,
    pub(crate) receipts: Vec<String>,
}

impl Host {
    pub(crate) fn record(&mut self, kind: Kind, body: &Value) -> Option<Event> {
        let (seq, text) = (self.head.next, body.to_string());
        let (line, head) = self.head.append(kind, at(seq), body);
        let made = self.runs.take(&Told { seq, at: at(seq), kind, body: &text });
        self.lines.push(line);
        self.head = head;
        let event = made.into_iter().find(|made| made.job == "j1").map(|made| made.event);
        self.events.extend(event.clone());
        event
    }

    pub(crate) fn begin(&mut self, mode: &str) {
        let body = json!({ "job": "j1", "agent": "bot", "wpc_hash": CONTRACT, "own_contract": false, "mode": mode,
            "origin": "run", "cgroup": "x", "actor": { "uid": 0 } });
        self.record(Kind::JobStart, &body);
    }

    pub(crate) fn call(&mut self, tool: &str, decision: &str, status: Option<&str>) {
        let result = status.filter(|status| ["ok", "tool_error"].contains(status)).map(|_| HASH);
        let body = json!({ "job": "j1", "agent": "bot", "server": "crm", "method": "tools/call", "tool": tool,
            "arguments_sha256": HASH, "decision": decision, "reason": "r", "status": status, "duration_us": 12_345,
            "result_sha256": result, "wpc_hash": CONTRACT });
        self.record(Kind::Call, &body);
    }

    /// A model call with its receipt.
    pub(crate) fn model(&mut self) {
        let event = self.record(Kind::Model, &json!({ "job": "j1", "decision": "allowed" })).unwrap();
        let number = self.receipts.len();
        let receipt = GatewayReceipt {
            receipt_id: format!("rcpt_{number}"),
            gateway_id: "did:web:clawproxy.com".into(),
            provider: "anthropic".into(),
            model: "claude-sonnet-4".into(),
            request_hash: Hash::of(b"request"),
            response_hash: Hash::of(b"response"),
            tokens_input: 3,
            tokens_output: 1,
            latency_ms: 20,
            timestamp: event.timestamp,
            binding: Binding {
                run_id: event.run_id.as_ref().into(),
                event_hash: event.event_hash,
                nonce: Some(format!("n{number}")),
                policy_hash: CONTRACT.parse().ok(),
                token_scope_hash: None,
            },
            metadata: None,
        };
        self.receipts.push(receipt.seal(&key(GATEWAY), event.timestamp));
    }

    pub(crate) fn end(&mut self) {
        self.record(Kind::JobEnd, &json!({ "job": "j1", "agent": "bot" }));
    }

    pub(crate) fn run(&self) -> Run {
        let mut gathering = Gathering::new("j1");
        for line in &self.lines {
            gathering.take(&Told::of_line(line.as_bytes()).unwrap());
        }
        gathering.finish().unwrap()
    }
}

/// A job to which something of everything happened.
pub(crate) fn eventful() -> Host {
    let mut host = Host::default();
    host.begin("enforce");
    host.record(Kind::Token, &json!({ "result": "presented", "job": "j1" }));
    host.model();
    host.call("search", "allowed", Some("ok"));
    host.call("search", "allowed", Some("tool_error"));
    host.call("delete", "held", None);
    host.call("delete", "denied", None);
    host.call("slow", "allowed", Some("timeout"));
    host.record(Kind::Approval, &json!({ "job": "j1", "result": "asked" }));
    host.record(Kind::Flip, &json!({ "flip": { "group": "crm", "state": "killed", "whose": "host" }, "reason": "r" }));
    host.record(Kind::Alert, &json!({ "job": "j1", "kind": "model_direct" }));
    let entry = |job: &str, verdict: &str, count: u64| json!({ "job": job, "verdict": verdict, "count": count });
    let decisions = [entry("j1", "allowed", 5), entry("j1", "denied", 2), entry("other", "denied", 100)];
    host.record(Kind::Decisions, &json!({ "decisions": decisions }));
    host.end();
    host
}

pub(crate) fn metrics() -> Metrics {
    Metrics {
        lineage: Lineage { root_pid: 4242, processes_tracked: 7, unmonitored_spawns: 0, escapes_suspected: false },
        egress: Egress { connections_total: 3, unmediated_connections: 0 },
        liveness: Liveness {
            status: LivenessStatus::Continuous,
            uptime_ms: 12_000,
            heartbeat_interval_ms: 250,
            max_gap_ms: 260,
        },
    }
}

pub(crate) fn held(hosts: &[String]) -> Held {
    Held {
        clawproxy_url: "http://127.0.0.1:9481/".into(),
        proxy_destinations: Hosts::new(["api.anthropic.com"]).unwrap(),
        child_destinations: Hosts::new(hosts.iter().map(String::as_str).chain(["127.0.0.1"])).unwrap(),
    }
}

pub(crate) struct Keys {
    agent: PrivateKey,
    sentinel: PrivateKey,
}

pub(crate) fn keys() -> Keys {
    Keys { agent: key(AGENT), sentinel: key(SENTINEL) }
}

pub(crate) fn with<'a>(keys: &'a Keys, receipts: &'a [String]) -> With<'a> {
    With {
        agent: &keys.agent,
        sentinel: &keys.sentinel,
        receipts,
        coverage: Ok(metrics()),
        egress: Ok(held(&[])),
        foreign_agent: None,
        absent: &[],
        harness: Harness { version: "0.1.0", runtime: "host", config_hash: Some(Hash::of(b"configuration")) },
        issued_at: at(1),
    }
}

pub(crate) fn export(host: &Host) -> Export {
    write(&host.run(), &with(&keys(), &host.receipts)).unwrap()
}

/// Everything demanded that can be.
pub(crate) fn judge(export: &Export) -> Whole {
    let trust =
        Trust { receipt_signers: vec![key(GATEWAY).did()], sentinels: vec![key(SENTINEL).did()], ..Trust::default() };
    let options = Options {
        require_host_evidence: true,
        urm: Some(export.urm.as_bytes()),
        trust_pulse: Some(export.trust_pulse.as_bytes()),
        ..Options::at(at(1 << 20))
    };
    let bundles: Vec<&[u8]> = export.parts.iter().map(|part| part.text.as_bytes()).collect();
    verify_all(&bundles, &trust, &options)
}
