//! Job tokens: judged, bound to the one job that presents them, asked about, ended.
//!
//! The kernel holds a job to its token by one number, a moment: the earliest of the token's expiry and of the time for which the
//! issuer's last answer counts. Nothing of the daemon's is needed for that moment to come.

use std::collections::BTreeMap;

use claw::{
    Hash,
    key::PrivateKey,
    time::Instant,
    token::{self, Claims, Demands, Token, TokenHash},
};
use clawguard_common::NEVER;
use control::{
    api::{Code, ErrorDetail, KeyView, PresentBody, RevokeAnswer, RevokeBody, TokenView},
    channel::{Outcome, Source, Standing, What},
};
use evidence::chain::Kind;
use fence::{AgentName, JobId};
use policy::contract::TokenRules;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sys::clock;

use crate::{
    config::Revocation,
    core::{Answer, Core, Shared, failed, refuse},
    errands::{Purpose, Registry},
    jobs::Job,
};

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
    exp: u64,
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
    /// Whether its end was told.
    told: bool,
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

/// A refused token, for an API caller.
fn refused(cause: &str, message: &str) -> ErrorDetail {
    let hint = match cause {
        "TOKEN_REQUIRED" => "`clawguard run --cst FILE`, or `clawguard cst present JOB FILE` for one that runs",
        "TOKEN_UNKNOWN_KID" => "name the issuer's key in [trust] cst_issuers, if you trust it",
        "TOKEN_REVOCATION_UNKNOWN" => {
            "set [registry] clawscope, or [trust] revocation = \"off\" if tokens are to count until they expire"
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
        let token = Token::verify(text, &issuers).map_err(wrong)?;
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
        let scope = {
            let core = self.lock();
            core.not_replayed(&token, &case.job)?;
            core.registries.source(Registry::Clawscope).cloned()
        };
        let binder = format!("{host}/{}", case.job);
        match (scope, config.trust.revocation) {
            (Some(scope), _) => self.ask_issuer(&scope, text, binder)?,
            (None, Revocation::Off) => {}
            (None, Revocation::Required) => {
                return Err(refused("TOKEN_REVOCATION_UNKNOWN", "nobody can be asked whether the token was revoked"));
            }
        }
        let boot = clock::boot_ns();
        let Claims { exp, policy_hash_b64u, token_scope_hash_b64u, .. } = token.claims.clone();
        let agent_did = token.claims.agent().to_owned();
        let minted = key.is_some_and(|key| key.did().to_string() == agent_did);
        Ok(JobToken {
            text: text.to_owned(),
            hash: token.hash.to_string(),
            kid: token.kid,
            exp,
            pin: policy_hash_b64u,
            agent_did,
            agent_key: if minted { KeyHolder::Host } else { KeyHolder::Foreign },
            scope_hash: token_scope_hash_b64u,
            // From the clock that it was judged by, which may be ahead of the wall clock.
            expires_ns: boot.saturating_add((exp - now).saturating_mul(SECOND)),
            checked_ns: boot,
            ask_ns: 0,
            ended: None,
            told: false,
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
            if again.contract != case.contract {
                return refuse(Code::Conflict, "the job's contract changed while its token was judged", "try again");
            }
            let job = core.jobs.get(&case.job).map_or(0, |job| job.enrolled.cgroup);
            core.bind_token(&token, &case, job)?;
            let ticket = core.record_grant(Kind::Token, &taken(&case, &token, "presented", actor))?;
            if let Some(job) = core.jobs.get_mut(&case.job) {
                job.token = Some(token);
            }
            core.settle_token(&case.job);
            core.save_jobs();
            core.counters.token("accepted", "");
            let view = core.jobs.get(&case.job).and_then(|job| core.token_view(job));
            view.map(|view| (view, Some(ticket))).ok_or_else(|| failed("find the job", &case.job))
        })
    }

    /// Revokes a token on this host, whatever its issuer says of it.
    pub(crate) fn revoke_token(&self, body: &RevokeBody, actor: &Value) -> Answer<RevokeAnswer> {
        let hash = match (&body.token, &body.token_hash) {
            (Some(text), None) => TokenHash::of(text.trim()),
            (None, Some(hash)) => {
                hash.parse().or_else(|error: token::NotATokenHash| refuse(Code::BadRequest, error.to_string(), ""))?
            }
            _ => return refuse(Code::BadRequest, "either a token or its hash is needed", ""),
        };
        if body.reason.trim().is_empty() {
            return refuse(Code::BadRequest, "a reason is needed", "it is recorded");
        }
        self.acknowledged(|core| {
            let (jobs, destroyed) = core.end_token(hash, "TOKEN_REVOKED")?;
            let told = json!({ "result": "revoked", "token_hash": hash.to_string(), "reason": body.reason, "by": "operator",
                "jobs": jobs, "sockets_destroyed": destroyed, "actor": actor });
            let ticket = core.record(Kind::Token, told).ok();
            let answer =
                RevokeAnswer { token_hash: hash.to_string(), jobs_stopped: jobs, sockets_destroyed: destroyed };
            Ok((answer, ticket))
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
        Ok(Case { agent: job.agent.clone(), job: id, contract, rules: self.token_rules(contract) })
    }

    /// What a contract in force asks of tokens.
    pub(crate) fn token_rules(&self, contract: Hash) -> Option<TokenRules> {
        self.contracts.get(&contract).and_then(|contract| contract.token.clone())
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
            binding.job == job.as_str() && binding.cgroup == running.enrolled.cgroup && !running.over
        });
        if same {
            return Ok(());
        }
        let message = format!("the job {} (cgroup {}) presented it at {}", binding.job, binding.cgroup, binding.at);
        Err(refused("TOKEN_REPLAYED", &message))
    }

    /// Binds a token to a job: on disk before it counts.
    pub(crate) fn bind_token(&mut self, token: &JobToken, case: &Case, cgroup: u64) -> Answer<()> {
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
            cgroup,
            at: Self::now().format(),
            exp: token.exp,
        };
        self.ledger.tokens.bound.insert(token.hash.clone(), binding);
        self.save_ledger().inspect_err(|_| self.ledger.tokens = before)
    }

    /// Notes the cgroup of the job to which a token is bound.
    pub(crate) fn bind_cgroup(&mut self, token: &JobToken, cgroup: u64) -> Answer<()> {
        if let Some(binding) = self.ledger.tokens.bound.get_mut(&token.hash) {
            binding.cgroup = cgroup;
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

    /// Until when a job's egress lasts, as far as tokens go.
    pub(crate) fn token_deadline(&self, contract: Option<Hash>, token: Option<&JobToken>) -> u64 {
        let rules = contract.and_then(|hash| self.token_rules(hash));
        let Some(token) = token else { return if rules.is_some() { 0 } else { NEVER } };
        let pinned = match (&token.pin, contract) {
            (Some(pin), Some(contract)) => *pin == contract.to_string(),
            (Some(_), None) => false,
            (None, _) => !rules.is_some_and(|rules| rules.require_pin),
        };
        if token.ended.is_some() || !pinned {
            return 0;
        }
        let asked = self.config.trust.revocation == Revocation::Required
            || self.registries.source(Registry::Clawscope).is_some();
        let counts = self.config.registry.revocation_max_age_seconds.saturating_mul(SECOND);
        token.expires_ns.min(if asked { token.checked_ns.saturating_add(counts) } else { NEVER })
    }

    /// Tells the kernel how long a job's token lasts.
    pub(crate) fn settle_token(&mut self, id: &JobId) {
        let Some(job) = self.jobs.get(id) else { return };
        let deadline = self.token_deadline(self.job_contract(job), job.token.as_ref());
        if self.fence.deadline(job.enrolled.slot) != deadline {
            self.fence.set_deadline(job.enrolled.slot, deadline);
        }
    }

    /// The same for all jobs: after a contract came into force, or the configuration changed.
    pub(crate) fn settle_tokens(&mut self) {
        let ids: Vec<JobId> = self.jobs.keys().cloned().collect();
        for id in &ids {
            self.settle_token(id);
        }
    }

    /// After the wall clock was set: what ends earlier now does; nothing ends later.
    pub(crate) fn bring_tokens_forward(&mut self) {
        for job in self.jobs.values_mut() {
            if let Some(token) = &mut job.token {
                token.expires_ns = token.expires_ns.min(clock::boot_deadline(token.exp.saturating_mul(SECOND)));
            }
        }
        self.settle_tokens();
    }

    /// Asks the issuer about the tokens whose turn it is.
    pub(crate) fn ask_about_tokens(&mut self) {
        let Some(scope) = self.registries.source(Registry::Clawscope).cloned() else { return };
        let (now, pace) = (clock::boot_ns(), self.config.registry.poll_seconds.saturating_mul(SECOND));
        for (id, job) in &mut self.jobs {
            let Some(token) = job.token.as_mut().filter(|token| token.ended.is_none() && now < token.expires_ns) else {
                continue;
            };
            let Ok(hash) = token.hash.parse::<TokenHash>() else { continue };
            if job.over || now < token.ask_ns {
                continue;
            }
            // It is bound already.
            let what = What::Token { token: token.text.clone(), binder: String::new() };
            if self.errands.send(&scope, what, Purpose::Token(id.clone(), hash)) {
                // Half a beat less: a beat that comes a moment early still counts.
                token.ask_ns = now.saturating_add(pace.saturating_sub(SECOND / 2));
            }
        }
    }

    /// The issuer said how a job's token stands.
    pub(crate) fn token_stands(&mut self, id: &JobId, hash: TokenHash, standing: &Standing) {
        let text = hash.to_string();
        let cause = match standing {
            Standing::Active => {
                if let Some(token) = self.jobs.get_mut(id).and_then(|job| job.token.as_mut())
                    && token.hash == text
                {
                    token.checked_ns = clock::boot_ns();
                    self.settle_token(id);
                }
                return;
            }
            Standing::Revoked => "TOKEN_REVOKED",
            Standing::BoundElsewhere => "TOKEN_REPLAYED",
            Standing::Refused(_) => "TOKEN_INACTIVE",
        };
        self.token_was_ended(hash, cause);
    }

    /// Tokens that their issuer just revoked.
    pub(crate) fn tokens_revoked(&mut self, hashes: &[String]) {
        let live = |hash: &String| {
            self.jobs.values().any(|job| job.token.as_ref().is_some_and(|token| token.hash == *hash && !job.over))
        };
        let concerned: Vec<TokenHash> =
            hashes.iter().filter(|hash| live(hash)).filter_map(|hash| hash.parse().ok()).collect();
        for hash in concerned {
            self.token_was_ended(hash, "TOKEN_REVOKED");
        }
    }

    fn token_was_ended(&mut self, hash: TokenHash, cause: &'static str) {
        match self.end_token(hash, cause) {
            Ok((jobs, destroyed)) if !jobs.is_empty() => {
                let body = json!({ "result": "ended", "cause": cause, "by": "issuer", "token_hash": hash.to_string(),
                    "jobs": jobs, "sockets_destroyed": destroyed });
                self.note(Kind::Token, body);
            }
            Ok(_) => {}
            Err(error) => tracing::error!(message = error.message, "a token's end could not be written down"),
        }
    }

    /// Ends a token: its jobs' egress first, then the disk. Answers the jobs and how many live connections were ended.
    fn end_token(&mut self, hash: TokenHash, cause: &'static str) -> Answer<(Vec<String>, u64)> {
        let text = hash.to_string();
        let (mut jobs, mut slots, mut until) = (Vec::new(), Vec::new(), clock::wall_ns() / SECOND);
        for (id, job) in &mut self.jobs {
            let Some(token) = job.token.as_mut().filter(|token| token.hash == text) else { continue };
            until = until.max(token.exp);
            if token.ended.is_none() {
                token.ended = Some(cause.to_owned());
                token.told = true;
                jobs.push(id.to_string());
                slots.push(job.enrolled.slot);
                self.fence.set_deadline(job.enrolled.slot, 0);
            }
        }
        let severed = match slots.is_empty() {
            true => fence::Severed::default(),
            false => self.fence.sever(|flow| slots.contains(&flow.stamp.job)).unwrap_or_default(),
        };
        self.counters.sockets_destroyed.inc_by(severed.destroyed as u64);
        for job in &jobs {
            tracing::warn!(job, token = text, cause, "the job's token has ended: nothing is allowed to it");
            self.counters.token("ended", cause);
        }
        self.save_jobs();
        self.ledger.tokens.revoked.insert(text, until);
        self.save_ledger()?;
        Ok((jobs, severed.destroyed as u64))
    }

    /// Tells of tokens whose time has come, and ends what still runs under them. The kernel has let nothing through since that
    /// very moment.
    pub(crate) fn tell_token_ends(&mut self) {
        let now = clock::boot_ns();
        let mut told = Vec::new();
        for (id, job) in &mut self.jobs {
            let Some(token) = &mut job.token else { continue };
            let over = now >= self.fence.deadline(job.enrolled.slot);
            if over != token.told {
                token.told = over;
                told.push((id.clone(), job.enrolled.slot, token.hash.clone(), over));
            }
        }
        for (id, slot, hash, over) in told {
            if !over {
                self.note(Kind::Token, json!({ "result": "good_again", "job": id.as_str(), "token_hash": hash }));
                continue;
            }
            let cause = match self.jobs.get(&id).map(|job| self.token_state(job)) {
                Some("expired") => "TOKEN_EXPIRED",
                Some("mismatched") => "POLICY_HASH_MISMATCH",
                Some("stale") => "TOKEN_REVOCATION_UNKNOWN",
                _ => "TOKEN_INACTIVE",
            };
            tracing::warn!(job = %id, token = hash, cause, "the job's token has ended: nothing is allowed to it");
            let severed = self.fence.sever(|flow| flow.stamp.job == slot).unwrap_or_default();
            self.counters.sockets_destroyed.inc_by(severed.destroyed as u64);
            self.counters.token("ended", cause);
            let body = json!({ "result": "ended", "cause": cause, "job": id.as_str(), "token_hash": hash,
                "sockets_destroyed": severed.destroyed, "sockets_left": severed.left });
            self.note(Kind::Token, body);
        }
    }

    /// How a job stands with its token, in a word.
    fn token_state(&self, job: &Job) -> &'static str {
        let Some(token) = &job.token else { return "missing" };
        let now = clock::boot_ns();
        match token.ended.as_deref() {
            Some("TOKEN_REVOKED") => "revoked",
            Some(_) => "refused",
            None if now >= token.expires_ns => "expired",
            None if self.token_deadline(self.job_contract(job), Some(token)) == 0 => "mismatched",
            None if now >= self.fence.deadline(job.enrolled.slot) => "stale",
            None => "valid",
        }
    }

    /// What is known of a job's token; `None` for a job that has and needs none.
    pub(crate) fn token_view(&self, job: &Job) -> Option<TokenView> {
        let state = self.token_state(job).to_owned();
        let Some(token) = &job.token else {
            let demanded = self.job_contract(job).and_then(|hash| self.token_rules(hash)).is_some();
            return demanded.then(|| TokenView { state, ..TokenView::default() });
        };
        Some(TokenView {
            state,
            token_hash: Some(token.hash.clone()),
            kid: Some(token.kid.clone()),
            expires_at: Some(Instant(token.exp.saturating_mul(SECOND)).format()),
            checked_at: Some(Self::wall(token.checked_ns)),
            agent_did: Some(token.agent_did.clone()),
            agent_key: Some(if token.agent_key == KeyHolder::Host { "host" } else { "foreign" }.into()),
        })
    }

    /// A token of the daemon before: what its issuer said last still counts as long as it did.
    pub(crate) fn adopt_token(&self, slot: u32, token: &mut JobToken) {
        let counts = self.config.registry.revocation_max_age_seconds.saturating_mul(SECOND);
        let deadline = self.fence.deadline(slot);
        if deadline != NEVER {
            token.checked_ns = token.checked_ns.max(deadline.saturating_sub(counts)).min(clock::boot_ns());
        }
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

/// The ledger's part, for tests.
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bindings_outlive_their_tokens_for_a_day() {
        let binding = |exp| Binding { job: "j".into(), agent: "a".into(), cgroup: 1, at: String::new(), exp };
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
