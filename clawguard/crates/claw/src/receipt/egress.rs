//! What a job's egress was held to.

use std::cmp::Ordering;

use super::{Object, seal};
use crate::{collation, encoding::Hash, envelope::Kind, key::PrivateKey, time::Instant};

/// Hosts in the form and order in which Claw lists them: lower case, each once, sorted as ICU sorts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hosts(Vec<String>);

/// Why hosts cannot be listed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotHosts {
    /// None.
    #[error("there is no host, and the format wants at least one")]
    None,
    /// A text that has no place there.
    #[error("\"{0}\" cannot be listed: letters, digits, dots, colons, hyphens and asterisks can")]
    Character(String),
}

impl Hosts {
    /// Of hosts and addresses in any order.
    ///
    /// # Errors
    ///
    /// [`NotHosts`]
    pub fn new<T: AsRef<str>>(hosts: impl IntoIterator<Item = T>) -> Result<Self, NotHosts> {
        let mut sorted = Vec::new();
        for host in hosts {
            let host = host.as_ref().to_ascii_lowercase();
            let listed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".*:-".contains(&byte);
            if host.is_empty() || !host.bytes().all(listed) {
                return Err(NotHosts::Character(host.chars().take(64).collect()));
            }
            sorted.push(host);
        }
        // Of what can be listed, all has a place in the order.
        sorted.sort_by(|a, b| collation::compare(a, b).unwrap_or(Ordering::Equal));
        sorted.dedup();
        if sorted.is_empty() { Err(NotHosts::None) } else { Ok(Self(sorted)) }
    }

    fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

/// `egress_policy_receipt`, version 1. It says that the run was held to the destinations and could reach no model provider
/// directly: only a job whose contract is enforced may have one. It is signed by the agent of the bundle in which it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressPolicyReceipt {
    /// Its id.
    pub receipt_id: String,
    /// The way to models: a URL.
    pub clawproxy_url: String,
    /// Where the way to models itself leads.
    pub proxy_destinations: Hosts,
    /// Where the job's processes may go.
    pub child_destinations: Hosts,
    /// Hash of the policy that was resolved from a signed policy bundle, where there is one.
    pub effective_policy_hash: Option<Hash>,
    /// How many attempts to go elsewhere were refused.
    pub blocked_attempts: u64,
    /// When.
    pub timestamp: Instant,
    /// The run.
    pub run_id: String,
    /// Hash of an event of the bundle's chain.
    pub event_hash: Hash,
}

impl EgressPolicyReceipt {
    /// The members that are hashed as the policy. That hash is neither a contract's nor a policy bundle's.
    fn policy(&self, into: &mut Object) {
        into.bool("proofed_mode", true);
        into.string("clawproxy_url", &self.clawproxy_url);
        into.strings("allowed_proxy_destinations", self.proxy_destinations.iter());
        into.strings("allowed_child_destinations", self.child_destinations.iter());
        into.bool("direct_provider_access_blocked", true);
    }

    /// The hash of the descriptor: what the receipt calls its `policy_hash_b64u`.
    #[must_use]
    pub fn policy_hash(&self) -> Hash {
        let mut descriptor = Object::default();
        descriptor.string("policy_version", "1");
        self.policy(&mut descriptor);
        Hash::of(descriptor.end().as_bytes())
    }

    /// The payload, as it is hashed. The agent is whoever signs.
    #[must_use]
    pub fn payload(&self, key: &PrivateKey) -> String {
        let mut payload = Object::default();
        payload.string("receipt_version", "1");
        payload.string("receipt_id", &self.receipt_id);
        payload.string("policy_version", "1");
        payload.hash("policy_hash_b64u", &self.policy_hash());
        if let Some(hash) = &self.effective_policy_hash {
            payload.hash("effective_policy_hash_b64u", hash);
        }
        self.policy(&mut payload);
        payload.number("blocked_attempt_count", self.blocked_attempts);
        payload.bool("blocked_attempts_observed", self.blocked_attempts > 0);
        payload.string("hash_algorithm", "SHA-256");
        payload.string("agent_did", &key.did().to_string());
        payload.instant("timestamp", self.timestamp);
        payload.object("binding", |binding| {
            binding.string("run_id", &self.run_id);
            binding.hash("event_hash_b64u", &self.event_hash);
        });
        payload.end()
    }

    /// The signed envelope, in one line without its end.
    #[must_use]
    pub fn seal(&self, key: &PrivateKey, issued_at: Instant) -> String {
        seal(&self.payload(key), Kind::EgressPolicyReceipt, key, issued_at)
    }
}
