//! Job tokens: judged, bound to the one job that presents them, asked about, ended.
//!
//! The kernel holds a job to its token by one number, a moment: the earliest of the token's expiry and of the time for which the
//! issuer's last answer counts. Nothing of the daemon's is needed for that moment to come.

use std::collections::{BTreeMap, BTreeSet};

use claw::{
    Hash,
    key::PrivateKey,
    time::Instant,
    token::{self, Demands, Token, TokenHash},
};
use clawguard_common::NEVER;
use control::{
    api::{Code, ErrorDetail, KeyView, PresentBody, RevokeAnswer, RevokeBody, TokenView},
    channel::{Outcome, Source, Standing, What},
};
use evidence::chain::Kind;
use fence::{AgentName, Enrolled, JobId, Severed};
use policy::contract::TokenRules;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sys::clock;

use crate::{
    config::{AgentMode, Config, Revocation},
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
            // Of two that come at once, the one that counts for longer.
            let counts = |token| core.token_deadline(case.contract, token);
            let before = core.jobs.get(&case.job).and_then(|job| job.token.as_ref());
            if before.is_some() && counts(before) > counts(Some(&token)) {
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
            core.save_jobs();
            let view = core.jobs.get(&case.job).and_then(|job| core.token_view(job));
            view.map(|view| (view, Some(ticket))).ok_or_else(|| failed("find the job", &case.job))
        })
    }

    /// Revokes a token on this host, whatever its issuer says of it.
    pub(crate) fn revoke_token(&self, body: &RevokeBody, actor: &Value) -> Answer<RevokeAnswer> {
        let (hash, end) = match (&body.token, &body.token_hash) {
            (Some(text), None) => {
                let read = Token::parse(text.trim()).ok();
                (TokenHash::of(text.trim()), read.map(|token| token.claims.exp))
            }
            (None, Some(hash)) => (
                hash.parse().or_else(|error: token::NotATokenHash| refuse(Code::BadRequest, error.to_string(), ""))?,
                None,
            ),
            _ => return refuse(Code::BadRequest, "either a token or its hash is needed", ""),
        };
        if body.reason.trim().is_empty() {
            return refuse(Code::BadRequest, "a reason is needed", "it is recorded");
        }
        self.acknowledged(|core| {
            let ended = core.end_tokens(&[(hash, end)], "TOKEN_REVOKED");
            let told = json!({ "result": "revoked", "token_hash": hash.to_string(), "reason": body.reason, "by": "operator",
                "jobs": ended.jobs, "observed": ended.observed, "sockets_destroyed": ended.destroyed, "actor": actor });
            let ticket = core.record(Kind::Token, told).ok();
            // In force, and told; but it must not be lost either.
            ended.saved?;
            let answer = RevokeAnswer {
                token_hash: hash.to_string(),
                jobs_stopped: ended.jobs,
                sockets_destroyed: ended.destroyed,
            };
            Ok((answer, ticket))
        })
    }
}

/// What became of tokens that were ended.
struct Ended {
    jobs: Vec<String>,
    /// Jobs that go on, because they are only observed.
    observed: Vec<String>,
    destroyed: u64,
    /// Whether that is on disk.
    saved: Answer<()>,
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

    /// Until when a job's egress lasts, as far as tokens go; `None` where that cannot be said, because the contract is not
    /// loaded.
    pub(crate) fn token_deadline(&self, contract: Hash, token: Option<&JobToken>) -> Option<u64> {
        let rules = self.contracts.get(&contract)?.token;
        let Some(token) = token else { return Some(if rules.is_some() { 0 } else { NEVER }) };
        if token.ended.is_some() || !self.fits(contract, rules, token) || !self.is_issuer(&token.kid) {
            return Some(0);
        }
        let counts = self.config.registry.revocation_max_age_seconds.saturating_mul(SECOND);
        let answered = if asks(&self.config) { token.checked_ns.saturating_add(counts) } else { NEVER };
        Some(token.expires_ns.min(answered))
    }

    /// Whether a token that was taken is one for this contract: the one that it was taken for, or another since.
    fn fits(&self, contract: Hash, rules: Option<TokenRules>, token: &JobToken) -> bool {
        let rules = rules.unwrap_or_default();
        let pinned = token.pin.as_ref().map_or(!rules.require_pin, |pin| *pin == contract.to_string());
        let hashed = token.scope_hash.is_some() || !rules.require_scope_hash;
        let short = token.exp.saturating_sub(token.iat) <= rules.max_ttl_seconds.unwrap_or(token::LONGEST_LIFE);
        pinned && hashed && short
    }

    /// Whether a key may have issued tokens: a pinned one, or one of the key set, once that has come.
    fn is_issuer(&self, kid: &str) -> bool {
        self.config.trust.cst_issuers.iter().any(|did| did.0.kid() == kid)
            || self.registries.counts_key(&self.config, kid)
    }

    /// Tells the kernel how long a job's token lasts. While that cannot be said, nothing changes.
    pub(crate) fn settle_token(&mut self, id: &JobId) {
        let Some(job) = self.jobs.get(id) else { return };
        let deadline = self.job_contract(job).and_then(|hash| self.token_deadline(hash, job.token.as_ref()));
        if let Some(deadline) = deadline.filter(|deadline| self.fence.deadline(job.enrolled.slot) != *deadline) {
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
                token.expires_ns = token.expires_ns.min(clock::boot_deadline(token.end.saturating_mul(SECOND)));
            }
        }
        self.settle_tokens();
    }

    /// Keeps in mind how late it is, for as long as tokens are bound; on disk with the ledger.
    pub(crate) fn mind_the_clock(&mut self, save: bool) {
        let tokens = &mut self.ledger.tokens;
        if tokens.bound.is_empty() {
            return;
        }
        tokens.latest = tokens.latest.max(clock::wall_ns() / SECOND);
        if save && let Err(error) = self.save_ledger() {
            tracing::warn!(message = error.message, "how late it is could not be written down");
        }
    }

    /// Asks the issuer about the tokens whose turn it is, those first of which least is known.
    pub(crate) fn ask_about_tokens(&mut self) {
        let Some(scope) = self.registries.source(Registry::Clawscope).cloned() else { return };
        let (now, pace) = (clock::boot_ns(), self.config.registry.poll_seconds.saturating_mul(SECOND));
        let mut due: Vec<(u64, JobId)> = self
            .jobs
            .iter()
            .filter(|(_, job)| !job.over)
            .filter_map(|(id, job)| Some((id, job.token.as_ref()?)))
            .filter(|(_, token)| token.ended.is_none() && now < token.expires_ns && now >= token.ask_ns)
            .map(|(id, token)| (token.checked_ns, id.clone()))
            .collect();
        due.sort_unstable();
        for (_, id) in due {
            let asked = |purpose: &Purpose| matches!(purpose, Purpose::Token { job, .. } if *job == id);
            if self.errands.under_way(asked) {
                continue;
            }
            let Some(token) = self.jobs.get_mut(&id).and_then(|job| job.token.as_mut()) else { continue };
            let Ok(hash) = token.hash.parse::<TokenHash>() else { continue };
            // It is bound already.
            let what = What::Token { token: token.text.clone(), binder: String::new() };
            if self.errands.send(&scope, what, Purpose::Token { job: id, token: hash, asked_ns: now }) {
                // Half a beat less: a beat that comes a moment early still counts.
                token.ask_ns = now.saturating_add(pace.saturating_sub(SECOND / 2));
            } else {
                // No room for this one, and so for none.
                return;
            }
        }
    }

    /// Nothing came of asking about a job's token: it is asked again at the next beat, not after a whole interval.
    pub(crate) fn ask_soon(&mut self, job: &JobId) {
        if let Some(token) = self.jobs.get_mut(job).and_then(|job| job.token.as_mut()) {
            token.ask_ns = 0;
        }
    }

    /// The issuer said how a job's token stands, when it was asked.
    pub(crate) fn token_stands(&mut self, id: &JobId, hash: TokenHash, asked_ns: u64, standing: &Standing) {
        let cause = match standing {
            Standing::Active => {
                if let Some(token) = self.jobs.get_mut(id).and_then(|job| job.token.as_mut())
                    && token.hash == hash.to_string()
                {
                    token.checked_ns = token.checked_ns.max(asked_ns);
                    self.settle_token(id);
                }
                return;
            }
            Standing::Revoked => "TOKEN_REVOKED",
            Standing::BoundElsewhere => "TOKEN_REPLAYED",
            Standing::Refused(_) => "TOKEN_INACTIVE",
        };
        self.issuer_ended(&[(hash, None)], cause);
    }

    /// Tokens that their issuer just revoked.
    pub(crate) fn tokens_revoked(&mut self, hashes: &[String]) {
        let live = self.jobs.values().filter_map(|job| job.token.as_ref()).filter(|token| token.ended.is_none());
        let live: BTreeSet<&str> = live.map(|token| token.hash.as_str()).collect();
        let concerned: Vec<(TokenHash, Option<u64>)> = hashes
            .iter()
            .filter(|hash| live.contains(hash.as_str()))
            .filter_map(|hash| hash.parse().ok())
            .map(|hash| (hash, None))
            .collect();
        if !concerned.is_empty() {
            self.issuer_ended(&concerned, "TOKEN_REVOKED");
        }
    }

    fn issuer_ended(&mut self, tokens: &[(TokenHash, Option<u64>)], cause: &'static str) {
        let ended = self.end_tokens(tokens, cause);
        if let Err(error) = &ended.saved {
            tracing::error!(message = error.message, "tokens' ends could not be written down");
        }
        if !ended.jobs.is_empty() || !ended.observed.is_empty() {
            let hashes: Vec<String> = tokens.iter().map(|(hash, _)| hash.to_string()).collect();
            let body = json!({ "result": "ended", "cause": cause, "by": "issuer", "token_hashes": hashes,
                "jobs": ended.jobs, "observed": ended.observed, "sockets_destroyed": ended.destroyed });
            self.note(Kind::Token, body);
        }
    }

    /// Ends tokens, each with the time (epoch seconds) at which it would have ended anyway, if that is known: all their jobs'
    /// egress first, then their connections, then the disk.
    fn end_tokens(&mut self, tokens: &[(TokenHash, Option<u64>)], cause: &'static str) -> Ended {
        let (mut jobs, mut observed, mut slots) = (Vec::new(), Vec::new(), BTreeSet::new());
        let named: BTreeMap<String, Option<u64>> = tokens.iter().map(|(hash, end)| (hash.to_string(), *end)).collect();
        for (id, job) in &mut self.jobs {
            let concerned = |token: &&mut JobToken| token.ended.is_none() && named.contains_key(&token.hash);
            let Some(token) = job.token.as_mut().filter(concerned) else { continue };
            token.ended = Some(cause.to_owned());
            self.fence.set_deadline(job.enrolled.slot, 0);
            job.token_told = true;
            self.counters.token("ended", cause);
            if self.agents.get(&job.agent).is_some_and(|agent| agent.mode == AgentMode::Observe) {
                tracing::warn!(job = %id, token = token.hash, cause, "the token of a job that is only observed has ended");
                observed.push(id.to_string());
                continue;
            }
            tracing::warn!(job = %id, token = token.hash, cause, "the job's token has ended: nothing is allowed to it");
            jobs.push(id.to_string());
            slots.insert(job.enrolled.slot);
        }
        let destroyed = self.end_sockets_of(&slots).destroyed as u64;
        let known = &mut self.ledger.tokens;
        for (hash, end) in named {
            let bound = known.bound.get(&hash).map(|binding| binding.exp);
            // What is not known to end is remembered for good.
            known.revoked.insert(hash, end.or(bound).unwrap_or(u64::MAX));
        }
        let saved = self.save_ledger();
        self.save_jobs();
        Ended { jobs, observed, destroyed, saved }
    }

    fn end_sockets_of(&self, slots: &BTreeSet<u32>) -> Severed {
        if slots.is_empty() {
            return Severed::default();
        }
        let severed = self.fence.sever(|flow| slots.contains(&flow.stamp.job)).unwrap_or_default();
        self.counters.sockets_destroyed.inc_by(severed.destroyed as u64);
        severed
    }

    /// Tells of tokens whose time has come, and ends what still runs under them. The kernel has let nothing through since that
    /// very moment.
    pub(crate) fn tell_token_ends(&mut self) {
        let now = clock::boot_ns();
        let (mut told, mut slots) = (Vec::new(), BTreeSet::new());
        for (id, job) in self.jobs.iter_mut().filter(|(_, job)| !job.over) {
            let over = now >= self.fence.deadline(job.enrolled.slot);
            if over != job.token_told {
                job.token_told = over;
                told.push((id.clone(), over));
                let observed = self.agents.get(&job.agent).is_some_and(|agent| agent.mode == AgentMode::Observe);
                if over && !observed {
                    slots.insert(job.enrolled.slot);
                }
            }
        }
        let severed = self.end_sockets_of(&slots);
        for (id, over) in told {
            let Some(job) = self.jobs.get(&id) else { continue };
            let hash = job.token.as_ref().map(|token| token.hash.clone());
            if !over {
                self.note(Kind::Token, json!({ "result": "good_again", "job": id.as_str(), "token_hash": hash }));
                continue;
            }
            let cause = match self.token_state(job) {
                "missing" => "TOKEN_REQUIRED",
                "expired" => "TOKEN_EXPIRED",
                "mismatched" => "POLICY_HASH_MISMATCH",
                "stale" => "TOKEN_REVOCATION_UNKNOWN",
                "untrusted" => "TOKEN_UNKNOWN_KID",
                _ => "TOKEN_INACTIVE",
            };
            tracing::warn!(job = %id, token = hash, cause, "the job's token has ended: nothing is allowed to it");
            self.counters.token("ended", cause);
            // Of all that ended in this moment together.
            let body = json!({ "result": "ended", "cause": cause, "job": id.as_str(), "token_hash": hash,
                "sockets_destroyed": severed.destroyed, "sockets_left": severed.left });
            self.note(Kind::Token, body);
        }
    }

    /// How a job stands with its token, in a word.
    fn token_state(&self, job: &Job) -> &'static str {
        let Some(token) = &job.token else { return "missing" };
        let now = clock::boot_ns();
        let contract = self.job_contract(job);
        let deadline = contract.and_then(|hash| self.token_deadline(hash, Some(token)));
        match token.ended.as_deref() {
            Some("TOKEN_REVOKED") => "revoked",
            Some(_) => "refused",
            None if now >= token.expires_ns => "expired",
            None if !self.is_issuer(&token.kid) => "untrusted",
            None if deadline == Some(0) => "mismatched",
            None if now >= self.fence.deadline(job.enrolled.slot) => "stale",
            None => "valid",
        }
    }

    /// What is known of a job's token; `None` for a job that has and needs none.
    pub(crate) fn token_view(&self, job: &Job) -> Option<TokenView> {
        let state = self.token_state(job).to_owned();
        let Some(token) = &job.token else {
            let demanded = self.job_contract(job).map(|hash| self.token_rules(hash));
            return matches!(demanded, Some(Ok(Some(_)) | Err(_))).then(|| TokenView { state, ..TokenView::default() });
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

    /// After an upgrade that enrolled a job anew, its token is bound to its new number.
    pub(crate) fn rebind(&mut self, job: &JobId, enrolled: &Enrolled) {
        let here = |binding: &&mut Binding| {
            binding.job == job.as_str() && binding.cgroup == enrolled.cgroup && binding.boot == clock::boot_id()
        };
        for binding in self.ledger.tokens.bound.values_mut().filter(here) {
            binding.key = enrolled.key;
        }
    }

    /// A token of the daemon before: what its issuer said last still counts as long as it did. One of another boot counts no
    /// more: nobody knows what became of its job.
    pub(crate) fn adopt_token(&self, slot: u32, token: JobToken) -> Option<JobToken> {
        let mut token = token;
        if token.boot != clock::boot_id() {
            return None;
        }
        let counts = self.config.registry.revocation_max_age_seconds.saturating_mul(SECOND);
        let deadline = self.fence.deadline(slot);
        if deadline != NEVER {
            token.checked_ns = token.checked_ns.max(deadline.saturating_sub(counts));
        }
        token.checked_ns = token.checked_ns.min(clock::boot_ns());
        token.expires_ns = token.expires_ns.min(clock::boot_deadline(token.end.saturating_mul(SECOND)));
        if token.ended.is_none() && self.ledger.tokens.revoked.contains_key(&token.hash) {
            token.ended = Some("TOKEN_REVOKED".into());
        }
        Some(token)
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
