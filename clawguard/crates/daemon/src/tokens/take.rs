//! Tokens taken: judged, bound to the job that presents them, or refused.

use claw::{
    Hash,
    key::PrivateKey,
    time::Instant,
    token::{self, Demands, Token, TokenHash},
};
use control::{
    api::{Code, ErrorDetail, KeyView, PresentBody, TokenView},
    channel::{Outcome, Source, Standing, What},
};
use evidence::chain::Kind;
use fence::{AgentName, Enrolled, JobId};
use policy::contract::TokenRules;
use serde_json::{Value, json};
use sys::clock;

use super::{BACK, Binding, Case, JobToken, KeyHolder, SECOND, asks, refused};
use crate::{
    core::{Answer, Core, Shared, failed, refuse},
    errands::Registry,
};
impl Shared {
    /// Judges a token for a job and asks its issuer. Takes the lock for moments only.
    pub(crate) fn judge_token(&self, text: &str, case: &Case) -> Answer<JobToken> {
        let judged = self.judged_token(text, case);
        if let Err(error) = &judged {
            self.lock().token_refused(text, &case.agent, &case.job, error);
        }
        judged
    }

    fn judged_token(&self, text: &str, case: &Case) -> Answer<JobToken> {
        let text = text.trim();
        let (config, issuers, host, key) = {
            let core = self.lock();
            (core.config.clone(), core.registries.issuers(&core.config), core.host_did(), core.minted_key(&case.job))
        };
        let wrong = |error: token::Error| refused(error.code(), &error.to_string());
        let token = match Token::verify(text, &issuers) {
            // The issuer may have a new key since its set was fetched.
            Err(token::Error::UnknownKey(_)) if self.fetch_keys() => {
                let core = self.lock();
                Token::verify(text, &core.registries.issuers(&core.config))
            }
            judged => judged,
        };
        let token = token.map_err(wrong)?;
        // Before the clock that it is judged by: what takes time from here on is taken from the token.
        let boot = clock::boot_ns();
        let now = self.lock().token_clock()?;
        let rules = case.rules.as_ref();
        let demands = Demands {
            now,
            audiences: &config.trust.cst_audiences,
            scopes: &config.trust.cst_scopes,
            job: case.job.as_str(),
            contract: case.contract,
            longest_life: rules.and_then(|rules| rules.max_ttl_seconds).unwrap_or(token::LONGEST_LIFE),
            require_scope_hash: rules.is_some_and(|rules| rules.require_scope_hash),
            require_pin: rules.is_some_and(|rules| rules.require_pin),
        };
        token.claims.suit(&demands).map_err(wrong)?;
        let end = token.claims.delegation_expires_at.map_or(token.claims.exp, |until| until.min(token.claims.exp));
        let expires_ns = boot
            .saturating_add(end.saturating_sub(now).saturating_mul(SECOND))
            .min(clock::boot_deadline(end.saturating_mul(SECOND)));
        let scope = {
            let core = self.lock();
            core.not_replayed(&token, &case.job)?;
            core.registries.source(Registry::Clawscope).cloned()
        };
        match scope {
            Some(scope) => self.ask_issuer(&scope, text, format!("{host}/{}", case.job))?,
            None if asks(&config) => {
                return Err(refused("TOKEN_REVOCATION_UNKNOWN", "nobody can be asked whether the token was revoked"));
            }
            None => {}
        }
        if clock::boot_ns() >= expires_ns {
            return Err(wrong(token::Error::Expired { exp: end, now: clock::wall_ns() / SECOND }));
        }
        let agent_did = token.claims.agent().to_owned();
        let minted = key.is_some_and(|key| key.did().to_string() == agent_did);
        Ok(JobToken {
            text: text.to_owned(),
            hash: token.hash.to_string(),
            kid: token.kid,
            iat: token.claims.iat,
            exp: token.claims.exp,
            end,
            pin: token.claims.policy_hash_b64u,
            agent_did,
            agent_key: if minted { KeyHolder::Host } else { KeyHolder::Foreign },
            scope_hash: token.claims.token_scope_hash_b64u,
            expires_ns,
            // When it was asked, not when the answer came.
            checked_ns: boot,
            ask_ns: 0,
            ended: None,
            boot: clock::boot_id(),
        })
    }

    fn ask_issuer(&self, scope: &Source, token: &str, binder: String) -> Answer<()> {
        let outcome = self.errands.ask(scope, What::Token { token: token.to_owned(), binder });
        let unknown =
            |why: &str| Err(refused("TOKEN_REVOCATION_UNKNOWN", &format!("its issuer cannot be asked: {why}")));
        let fared = match &outcome {
            Ok(Outcome::Failed(why)) => Err(why.clone()),
            Err(error) => Err(error.message.clone()),
            Ok(_) => Ok(()),
        };
        self.lock().registries.fared(Registry::Clawscope, fared);
        match outcome {
            Ok(Outcome::Token(Standing::Active)) => Ok(()),
            Ok(Outcome::Token(Standing::Revoked)) => Err(refused("TOKEN_REVOKED", "its issuer revoked it")),
            Ok(Outcome::Token(Standing::BoundElsewhere)) => {
                Err(refused("TOKEN_REPLAYED", "another host or another job presented it before (its issuer says)"))
            }
            Ok(Outcome::Token(Standing::Refused(code))) => {
                Err(refused("TOKEN_INACTIVE", &format!("its issuer does not take it: {code}")))
            }
            Ok(Outcome::Failed(why)) => unknown(&why),
            Ok(_) => unknown("the gateway brought something else"),
            Err(error) => unknown(&error.message),
        }
    }

    /// Takes a token for a job that runs: its first, or the next one before the last has ended.
    pub(crate) fn present_token(&self, name: &str, body: &PresentBody, actor: &Value) -> Answer<TokenView> {
        let case = self.lock().case_of(name)?;
        let token = self.judge_token(&body.cst, &case)?;
        self.acknowledged(|core| {
            // The contract may have changed meanwhile; a pin on the former one would not suit.
            let again = core.case_of(name)?;
            if (again.contract, &again.rules) != (case.contract, &case.rules) {
                return refuse(Code::Conflict, "the job's contract changed while its token was judged", "try again");
            }
            let enrolled = core.jobs.get(&case.job).map(|job| job.enrolled.clone());
            // Of two that come at once, the one that counts for longer. Two clocks are read, so the same token's end differs a
            // little each time; tokens end at whole seconds.
            let counts = |token| core.token_deadline(case.contract, token).unwrap_or(0);
            let before = core.jobs.get(&case.job).and_then(|job| job.token.as_ref());
            if before.is_some() && counts(before) >= counts(Some(&token)).saturating_add(SECOND) {
                return refuse(
                    Code::Conflict,
                    "the job's token counts for longer than this one",
                    "present a longer one",
                );
            }
            core.bind_token(&token, &case, enrolled.as_ref())?;
            let ticket = core.record_grant(Kind::Token, &taken(&case, &token, "presented", actor))?;
            core.counters.token("accepted", "");
            if let Some(job) = core.jobs.get_mut(&case.job) {
                job.token = Some(token);
            }
            core.settle_token(&case.job);
            core.publish();
            core.save_jobs();
            let view = core.jobs.get(&case.job).and_then(|job| core.token_view(job));
            view.map(|view| (view, Some(ticket))).ok_or_else(|| failed("find the job", &case.job))
        })
    }
}

/// The record of a token that was taken.
pub(crate) fn taken(case: &Case, token: &JobToken, how: &str, actor: &Value) -> Value {
    json!({ "result": how, "job": case.job.as_str(), "agent": case.agent.as_str(), "token_hash": token.hash,
        "kid": token.kid, "exp": token.exp, "scope_hash": token.scope_hash, "pin": token.pin,
        "wpc_hash": case.contract.to_string(), "agent_did": token.agent_did, "agent_key": token.agent_key, "actor": actor })
}

impl Core {
    /// The case of a job that runs.
    fn case_of(&self, name: &str) -> Answer<Case> {
        let found = name.parse::<JobId>().ok().and_then(|id| Some((id.clone(), self.jobs.get(&id)?)));
        let Some((id, job)) = found.filter(|(_, job)| !job.over) else {
            return refuse(Code::NotFound, format!("there is no job {name}"), "`clawguard status` lists them");
        };
        let Some(contract) = self.job_contract(job) else {
            return refuse(Code::Conflict, format!("no contract is in force for the job {id}"), "");
        };
        Ok(Case { agent: job.agent.clone(), job: id, contract, rules: self.token_rules(contract)? })
    }

    /// What a contract in force asks of tokens. One whose tables are not there asks for more than anybody knows.
    pub(crate) fn token_rules(&self, contract: Hash) -> Answer<Option<TokenRules>> {
        match self.contracts.get(&contract) {
            Some(contract) => Ok(contract.token),
            None => refuse(Code::Conflict, format!("the contract {contract} is being loaded"), "try again"),
        }
    }

    /// The time by which tokens are judged: the wall clock, unless that was set back since a token was last judged.
    fn token_clock(&mut self) -> Answer<u64> {
        let wall = clock::wall_ns() / SECOND;
        let latest = self.ledger.tokens.latest;
        if wall.saturating_add(BACK) < latest {
            let message = format!(
                "the clock says {}, and it was {} when a token was judged before",
                Instant(wall.saturating_mul(SECOND)).format(),
                Instant(latest.saturating_mul(SECOND)).format()
            );
            return Err(refused("CLOCK_SET_BACK", &message));
        }
        // On disk with the next token that is taken.
        self.ledger.tokens.latest = wall.max(latest);
        Ok(self.ledger.tokens.latest)
    }

    /// A token is good for the first job that presented it, and for no second presentation of another's.
    fn not_replayed(&self, token: &Token, job: &JobId) -> Answer<()> {
        let hash = token.hash.to_string();
        if self.ledger.tokens.revoked.contains_key(&hash) {
            return Err(refused("TOKEN_REVOKED", "it was revoked"));
        }
        let Some(binding) = self.ledger.tokens.bound.get(&hash) else { return Ok(()) };
        let same = self.jobs.get(job).is_some_and(|running| {
            let enrolled = &running.enrolled;
            let bound = (binding.job.as_str(), binding.cgroup, binding.key, binding.boot.as_str());
            bound == (job.as_str(), enrolled.cgroup, enrolled.key, clock::boot_id().as_str()) && !running.over
        });
        if same {
            return Ok(());
        }
        let message = format!("the job {} (cgroup {}) presented it at {}", binding.job, binding.cgroup, binding.at);
        Err(refused("TOKEN_REPLAYED", &message))
    }

    /// Binds a token to a job: on disk before it counts.
    pub(crate) fn bind_token(&mut self, token: &JobToken, case: &Case, to: Option<&Enrolled>) -> Answer<()> {
        let text = token.text.clone();
        // Somebody may have been faster.
        if let Ok(parsed) = Token::parse(&text) {
            self.not_replayed(&parsed, &case.job)
                .inspect_err(|error| self.token_refused(&text, &case.agent, &case.job, error))?;
        }
        let before = self.ledger.tokens.clone();
        self.ledger.tokens.prune(before.latest);
        let binding = Binding {
            job: case.job.to_string(),
            agent: case.agent.to_string(),
            cgroup: to.map_or(0, |job| job.cgroup),
            key: to.map_or(0, |job| job.key),
            boot: clock::boot_id(),
            at: Self::now().format(),
            exp: token.exp,
        };
        self.ledger.tokens.bound.insert(token.hash.clone(), binding);
        self.save_ledger().inspect_err(|_| self.ledger.tokens = before)
    }

    /// Notes the cgroup of the job to which a token is bound.
    pub(crate) fn bind_cgroup(&mut self, token: &JobToken, to: &Enrolled) -> Answer<()> {
        if let Some(binding) = self.ledger.tokens.bound.get_mut(&token.hash) {
            (binding.cgroup, binding.key) = (to.cgroup, to.key);
        }
        self.save_ledger()
    }

    /// Undoes a binding whose job did not come to be.
    pub(crate) fn unbind_token(&mut self, token: &JobToken) {
        self.ledger.tokens.bound.remove(&token.hash);
        if let Err(error) = self.save_ledger() {
            tracing::warn!(message = error.message, "a token stays bound to a job that did not begin");
        }
    }

    /// Counts, records and, where it was a replay, raises an alert.
    fn token_refused(&mut self, text: &str, agent: &AgentName, job: &JobId, error: &ErrorDetail) {
        let Some(cause) = error.cause.clone() else { return };
        self.counters.token("refused", &cause);
        let hash = TokenHash::of(text.trim()).to_string();
        tracing::warn!(%job, %agent, token = hash, message = error.message, "a job token is refused");
        let body = json!({ "result": "refused", "cause": cause, "job": job.as_str(), "agent": agent.as_str(),
            "token_hash": hash, "message": error.message });
        self.note(Kind::Token, body);
        if cause == "TOKEN_REPLAYED" {
            self.counters.alert(agent, "token_replayed", 1);
            let body =
                json!({ "kind": "token_replayed", "job": job.as_str(), "agent": agent.as_str(), "token_hash": hash });
            self.note(Kind::Alert, body);
        }
    }

    /// A job without a token whose contract demands one is refused, and that is counted too.
    pub(crate) fn token_required(&mut self, agent: &AgentName, job: &JobId, contract: Hash) -> ErrorDetail {
        let error = refused("TOKEN_REQUIRED", &format!("the contract {contract} demands a job token"));
        self.token_refused("", agent, job, &error);
        error
    }

    /// The key that this host minted for a job.
    pub(crate) fn minted_key(&self, job: &JobId) -> Option<PrivateKey> {
        let text = std::fs::read_to_string(self.paths.job_key(job)).ok()?;
        PrivateKey::from_jwk(&text).ok()
    }

    /// Mints the key that a job's agent will have, so that a token can name it before the job begins.
    pub(crate) fn mint_key(&self, name: &str) -> Answer<KeyView> {
        let job: JobId =
            name.parse().or_else(|error: fence::NotAName| refuse(Code::BadRequest, error.to_string(), ""))?;
        let key = crate::host_key(&self.paths.job_key(&job)).map_err(|error| failed("make the job's key", &error))?;
        Ok(KeyView { job: job.to_string(), agent_did: key.did().to_string() })
    }
}
