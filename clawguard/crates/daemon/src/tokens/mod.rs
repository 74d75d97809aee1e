//! Job tokens: judged, bound to the one job that presents them, asked about, ended.
//!
//! The kernel holds a job to its token by one number, a moment: the earliest of the token's expiry and of the time for which the
//! issuer's last answer counts. Nothing of the daemon's is needed for that moment to come.

mod live;
mod take;

use std::collections::BTreeMap;

use claw::Hash;
use control::api::{Code, ErrorDetail};
use fence::{AgentName, JobId};
use policy::contract::TokenRules;
use serde::{Deserialize, Serialize};

use crate::config::{Config, Revocation};

pub(crate) use take::taken;

const SECOND: u64 = 1_000_000_000;
/// Seconds for which the end of a token is remembered after it: an expired token is refused as such anyway.
const REMEMBERED: u64 = 86_400;
/// Seconds by which the wall clock may go back without anybody's notice.
const BACK: u64 = 120;

/// What is known of tokens, on disk before it counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tokens {
    /// Whose each token is, by hash.
    #[serde(default)]
    pub bound: BTreeMap<String, Binding>,
    /// Tokens that an operator of this host or their issuer revoked, and until when (epoch seconds) that matters.
    #[serde(default)]
    pub revoked: BTreeMap<String, u64>,
    /// The latest wall clock (epoch seconds) at which a token was judged.
    #[serde(default)]
    pub latest: u64,
}

/// A token's job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    /// The job.
    pub job: String,
    /// Its agent.
    pub agent: String,
    /// The job's cgroup, by id.
    pub cgroup: u64,
    /// The job's number in the kernel, never used twice on one boot.
    pub key: u64,
    /// The boot on which it was presented.
    pub boot: String,
    /// When it was presented (RFC 3339).
    pub at: String,
    /// When it expires (epoch seconds).
    pub exp: u64,
}

impl Tokens {
    fn prune(&mut self, now: u64) {
        self.bound.retain(|_, binding| binding.exp.saturating_add(REMEMBERED) > now);
        self.revoked.retain(|_, until| until.saturating_add(REMEMBERED) > now);
    }
}

/// Who holds the agent's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum KeyHolder {
    /// This host, which minted it for the job.
    Host,
    /// Somebody else: the host cannot sign in the agent's name.
    Foreign,
}

/// A job's token.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct JobToken {
    /// The token itself, for asking its issuer.
    text: String,
    hash: String,
    kid: String,
    iat: u64,
    exp: u64,
    /// When it ends (epoch seconds): at `exp`, or with the delegation behind it.
    end: u64,
    pin: Option<String>,
    pub(crate) agent_did: String,
    pub(crate) agent_key: KeyHolder,
    scope_hash: Option<String>,
    /// When it expires, CLOCK_BOOTTIME: fixed when it is presented, so that no clock that is set back prolongs it.
    expires_ns: u64,
    /// When its issuer last said that it is good, CLOCK_BOOTTIME.
    checked_ns: u64,
    /// When its issuer is asked next, CLOCK_BOOTTIME.
    #[serde(skip)]
    ask_ns: u64,
    /// Why it counts no more, though it has not expired.
    ended: Option<String>,
    /// The boot whose clock the moments above are of.
    boot: String,
}

impl JobToken {
    /// SHA-256 of the token, in hexadecimal.
    pub(crate) fn hash(&self) -> &str {
        &self.hash
    }

    /// The hash of its scope, where it says one.
    pub(crate) fn scope_hash(&self) -> Option<&str> {
        self.scope_hash.as_deref()
    }

    /// The token itself. It goes to its issuer and to a clawproxy, and to nobody else.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

impl std::fmt::Debug for JobToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "JobToken({})", self.hash)
    }
}

/// What a job's contract, the host and the issuer say of tokens: enough to judge one without the daemon's lock.
pub(crate) struct Case {
    pub(crate) agent: AgentName,
    pub(crate) job: JobId,
    pub(crate) contract: Hash,
    pub(crate) rules: Option<TokenRules>,
}

/// Whether issuers have to be asked: where one is named, and where the host does not say that none need be.
fn asks(config: &Config) -> bool {
    config.registry.clawscope.is_some() || config.trust.revocation == Revocation::Required
}

/// A refused token, for an API caller.
fn refused(cause: &str, message: &str) -> ErrorDetail {
    let hint = match cause {
        "TOKEN_REQUIRED" => "`clawguard run --cst FILE`, or `clawguard cst present JOB FILE` for one that runs",
        "TOKEN_UNKNOWN_KID" => "name the issuer's key in [trust] cst_issuers, if you trust it",
        "TOKEN_REVOCATION_UNKNOWN" => {
            "`clawguard status` says whether the registry is there; without one, [trust] revocation = \"off\" lets tokens count"
        }
        "CLOCK_SET_BACK" => {
            "set the clock right; if the later time was the wrong one, stop the daemon and take \"latest\" out of ledger.json"
        }
        _ => "have a token issued for this job and this contract",
    };
    let mut detail = ErrorDetail::new(Code::TokenRefused, format!("{cause}: {message}"), hint);
    detail.cause = Some(cause.to_owned());
    detail
}

/// The ledger's part, for tests.
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bindings_outlive_their_tokens_for_a_day() {
        let binding = |exp| Binding {
            job: "j".into(),
            agent: "a".into(),
            cgroup: 1,
            key: 1,
            boot: String::new(),
            at: String::new(),
            exp,
        };
        let mut tokens = Tokens::default();
        tokens.bound.insert("old".into(), binding(1000));
        tokens.bound.insert("new".into(), binding(2000));
        tokens.revoked.insert("old".into(), 1000);
        tokens.prune(1000 + REMEMBERED);
        assert_eq!(tokens.bound.keys().collect::<Vec<_>>(), ["new"]);
        assert!(tokens.revoked.is_empty());
    }

    #[test]
    fn the_ledgers_file_keeps_them() {
        let text = r#"{"tokens":{"bound":{},"revoked":{"00":5},"latest":9}}"#;
        let read: crate::ledger::Ledger = serde_json::from_str(text).unwrap();
        assert_eq!((read.tokens.latest, read.tokens.revoked.len()), (9, 1));
    }
}
