//! What a kill takes.

use std::time::Instant;

use e2e::Identity::Nobody;
use serde_json::{Value, json};

use crate::{
    Line,
    host::{Host, fsync_ms},
    median, percentile,
};

fn contract() -> Value {
    json!({ "egress": [
        { "host": "crm.example", "tls": false, "groups": ["crm"] },
        { "cidr": "203.0.113.10/32", "ports": [7002], "protocol": "udp", "groups": ["crm"] },
    ] })
}

/// The whole answer, with live connections to be destroyed.
pub(crate) fn kill() -> Vec<Line> {
    [(0, "20 ms", 20.0), (1_000, "40 ms", 40.0), (10_000, "300 ms", 300.0)]
        .into_iter()
        .map(|(connections, promised, most)| {
            // The far end does not hear of connections that end here, and keeps them: a new one for each ten thousand.
            let (hosts, kills) = if connections > 1_000 { (5, 1) } else { (1, 11) };
            let (mut took, mut fsync) = (Vec::new(), 0.0);
            for _ in 0..hosts {
                let mut host = Host::new();
                host.fence(contract());
                host.world.use_contract("a", contract());
                took.extend((0..kills).map(|_| kill_of(&host, connections)));
                fsync = fsync_ms(&host.world);
            }
            let took = median(&mut took);
            Line::new(
                format!("a kill's whole answer with {connections} live connections, p50"),
                format!("{took:.1} ms (an fsync here: {fsync:.2} ms)"),
                promised,
                took <= most + 2.0 * fsync,
            )
        })
        .collect()
}

/// Milliseconds of one kill's answer.
fn kill_of(host: &Host, connections: u64) -> f64 {
    let mut held = host.world.agent_on("a", Nobody, &["hold", &connections.to_string(), "203.0.113.10:443"]);
    held.until("holding");
    let started = Instant::now();
    let (status, answer) = host.world.api("POST", "/v1/groups/crm/kill", r#"{"reason":"bench"}"#);
    let took = started.elapsed().as_secs_f64() * 1e3;
    assert_eq!((status, answer["sockets_destroyed"].as_u64()), (200, Some(connections)), "{answer}");
    assert_eq!(answer["sockets_left"], 0);
    host.world.api("POST", "/v1/groups/crm/restore", r#"{"reason":"bench"}"#);
    held.finish();
    took
}

/// From the request to the first refusal, as the agent sees it.
pub(crate) fn refusal() -> Vec<Line> {
    let mut host = Host::new();
    host.fence(contract());
    let fenced = &host.fenced;
    host.world.use_contract("timed", contract());
    let mut agent = host.worker_on(fenced, &["spin", "203.0.113.10:7002"]);
    let mut took: Vec<f64> = (0..200)
        .map(|_| {
            let asked = sys::clock::boot_ns();
            let (_, answer) = host.world.api("POST", "/v1/groups/crm/kill", r#"{"reason":"bench"}"#);
            let refused: u64 = agent.until("refused").split(' ').nth(1).unwrap().parse().unwrap();
            host.world.api("POST", "/v1/groups/crm/restore", r#"{"reason":"bench"}"#);
            agent.until("restored");
            // The map is written so long after the daemon had the request, which was later than it was asked.
            let written = asked + answer["effective_ns"].as_u64().unwrap();
            refused.saturating_sub(written) as f64 / 1e6
        })
        .collect();
    let (half, most) = (median(&mut took.clone()), percentile(&mut took, 99));
    vec![Line::new(
        "kill: map written → first refusal, the request's way to the daemon included",
        format!("p50 {half:.3} ms, p99 {most:.3} ms"),
        "1 ms p99",
        most <= 1.0,
    )]
}
