//! The egress policy receipt: what the agent's egress was held to, signed with the agent's key.

use std::{
    cmp::Ordering,
    net::{Ipv4Addr, Ipv6Addr},
};

use claw::{Value, collation, json};

use super::{
    Bundle,
    fault::{Code, Fault, PAYLOAD},
    seal::{self, flag, items, number, text},
    shape,
};

/// What the policy's hash is made of, in the order in which it is written.
const DESCRIPTOR: [&str; 6] = [
    "policy_version",
    "proofed_mode",
    "clawproxy_url",
    "allowed_proxy_destinations",
    "allowed_child_destinations",
    "direct_provider_access_blocked",
];

/// The attempts that were blocked, if there is such a receipt and it holds.
pub(super) fn check(bundle: &Bundle<'_>) -> Result<Option<f64>, Fault> {
    let metadata = PAYLOAD.name("metadata");
    let sentinels = metadata.name("sentinels");
    let Some(receipt) = bundle.sentinels().and_then(|sentinels| sentinels.get("egress_policy_receipt")) else {
        if bundle.options.require_host_evidence {
            return Err(sentinels.fault("egress_policy_receipt", Code::Missing, "it is demanded, and not there"));
        }
        return Ok(None);
    };
    let at = sentinels.name("egress_policy_receipt");
    let payload_at = at.name("payload");
    let payload = receipt.get("payload").unwrap_or(&Value::Null);
    if !is_web(text(payload, "clawproxy_url")) {
        return Err(payload_at.fault("clawproxy_url", Code::Malformed, "it is no address of http or https"));
    }
    for name in ["allowed_proxy_destinations", "allowed_child_destinations"] {
        if !sorted(items(payload, name)) {
            return Err(payload_at.fault(name, Code::Malformed, "its hosts are not in order, each once"));
        }
    }
    let blocked = number(payload, "blocked_attempt_count").unwrap_or_default();
    if flag(payload, "blocked_attempts_observed") != Some(blocked > 0.0) {
        let said = "it contradicts the number of blocked attempts";
        return Err(payload_at.fault("blocked_attempts_observed", Code::Evidence, said));
    }
    let (signer, agent) = (text(receipt, "signer_did"), text(payload, "agent_did"));
    for (at, name, did) in [(at, "signer_did", signer), (payload_at, "agent_did", agent)] {
        if !shape::is_did(did) {
            return Err(at.fault(name, Code::Did, "it is no did:key or did:web"));
        }
        if did != bundle.agent {
            return Err(at.fault(name, Code::Evidence, "it is not the bundle's agent"));
        }
    }
    let binding_at = payload_at.name("binding");
    let binding = payload.get("binding").unwrap_or(&Value::Null);
    if bundle.run.is_some_and(|run| run != text(binding, "run_id")) {
        return Err(binding_at.fault("run_id", Code::Evidence, "it is another run's"));
    }
    if !bundle.events.contains(text(binding, "event_hash_b64u")) {
        return Err(binding_at.fault("event_hash_b64u", Code::Evidence, "it is no event of this bundle"));
    }
    if descriptor_hash(payload) != text(payload, "policy_hash_b64u") {
        return Err(payload_at.fault("policy_hash_b64u", Code::Hash, "it is not the hash of the policy that is told"));
    }
    if !seal::hashed(receipt) {
        return Err(at.fault("payload_hash_b64u", Code::Hash, "the receipt was changed after it was hashed"));
    }
    let Some(key) = seal::key(signer) else {
        return Err(at.fault("signer_did", Code::Did, "it is no Ed25519 key"));
    };
    if !seal::signed(receipt, &key) {
        return Err(at.fault("signature_b64u", Code::Signature, "it is not the agent's signature"));
    }
    Ok(Some(blocked))
}

/// Whether a URI is an address of http or https: a name or an address, and perhaps a port.
fn is_web(uri: &str) -> bool {
    let Some(rest) = uri.strip_prefix("https://").or_else(|| uri.strip_prefix("http://")) else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (host, port) = match authority.strip_prefix('[').map(|six| six.split_once(']')) {
        Some(Some((six, port))) if six.parse::<Ipv6Addr>().is_ok() => (None, port),
        Some(_) => return false,
        None => match authority.split_once(':') {
            Some((host, _)) => (Some(host), authority.get(host.len()..).unwrap_or_default()),
            None => (Some(authority), ""),
        },
    };
    let named = |host: &str| {
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        // What ends in a number is an address, and has to be one.
        let number = host.rsplit('.').next().is_some_and(|last| last.starts_with(|c: char| c.is_ascii_digit()));
        !host.is_empty() && host.bytes().all(letter) && (!number || host.parse::<Ipv4Addr>().is_ok())
    };
    let numbered = |port: &str| {
        port.is_empty()
            || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok() && !port.starts_with('+'))
    };
    host.is_none_or(named) && numbered(port)
}

/// Ascending by collation, which no two equal hosts are.
fn sorted(hosts: &[Value]) -> bool {
    let order = |a: &Value, b: &Value| collation::compare(a.as_str()?, b.as_str()?);
    hosts.is_sorted_by(|a, b| order(a, b) == Some(Ordering::Less))
}

fn descriptor_hash(payload: &Value) -> String {
    let member = |name: &str| (name.into(), payload.get(name).cloned().unwrap_or(Value::Null));
    Value::Object(DESCRIPTOR.map(member).into()).hash(json::Canon::Insertion).to_string()
}
