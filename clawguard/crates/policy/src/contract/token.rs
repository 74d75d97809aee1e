//! What a contract asks of job tokens (CST).

use super::Error;
use crate::read::{Fields, short};

/// What a contract asks of job tokens. Where it asks anything, no job goes without one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenRules {
    /// Seconds from a token's issue to its expiry, at most.
    pub max_ttl_seconds: Option<u64>,
    /// A token must carry the hash of its scope.
    pub require_scope_hash: bool,
    /// A token must carry the hash of this contract. One that it does carry is checked in any case.
    pub require_pin: bool,
    /// A token is good for one job. Always so under ClawGuard, whatever the contract's text says.
    pub job_scoped: bool,
}

/// Sixty-eight years: more than that is a mistake.
const LONGEST: u64 = 1 << 31;

impl TokenRules {
    /// `token` of form 1 and `token_constraints` of form 2.
    pub(super) fn read(mut fields: Fields<'_>) -> Result<Self, Error> {
        let max_ttl_seconds = fields.number("cst_max_ttl_seconds")?;
        if max_ttl_seconds.is_some_and(|seconds| seconds == 0 || seconds > LONGEST) {
            let why = format!("1 to {LONGEST} seconds are accepted");
            return Err(Error::Bound { path: fields.path("cst_max_ttl_seconds"), why });
        }
        let require_scope_hash = fields.flag("require_scope_hash")?.unwrap_or(false);
        let require_pin = match fields.text("policy_hash_pinning")? {
            None | Some("optional") => false,
            Some("required") => true,
            Some(other) => {
                let why = "required or optional is expected".into();
                return Err(Error::Text { path: fields.path("policy_hash_pinning"), text: short(other), why });
            }
        };
        fields.end()?;
        Ok(Self { max_ttl_seconds, require_scope_hash, require_pin, job_scoped: true })
    }

    /// `token_binding` of form 3.
    pub(super) fn read_binding(mut fields: Fields<'_>) -> Result<Self, Error> {
        let rules = Self {
            max_ttl_seconds: None,
            require_scope_hash: fields.flag("require_cst_scope_hash")?.unwrap_or(false),
            require_pin: !fields.flag("optional_policy_hash_pinning")?.unwrap_or(true),
            job_scoped: fields.flag("job_scoped_anti_replay")?.unwrap_or(true),
        };
        fields.end()?;
        Ok(rules)
    }
}
