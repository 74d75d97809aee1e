//! Tokens in use: how long each counts, what its issuer says of it, its end.

use std::collections::{BTreeMap, BTreeSet};

use claw::{
    Hash,
    time::Instant,
    token::{self, Token, TokenHash},
};
use clawguard_common::NEVER;
use control::{
    api::{Code, RevokeAnswer, RevokeBody, TokenView},
    channel::{Standing, What},
};
use evidence::chain::Kind;
use fence::{AgentName, Enrolled, JobId, Severed};
use policy::contract::TokenRules;
use serde_json::{Value, json};
use sys::clock;

use super::{Binding, JobToken, KeyHolder, SECOND, asks};
use crate::{
    config::AgentMode,
    core::{Answer, Core, Shared, refuse},
    errands::{Purpose, Registry},
    jobs::Job,
};
impl Shared {
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

impl Core {
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
        if self.settled(id) {
            self.publish();
        }
    }

    /// The same for all jobs: after a contract came into force, or the configuration changed.
    pub(crate) fn settle_tokens(&mut self) {
        let ids: Vec<JobId> = self.jobs.keys().cloned().collect();
        let changed = ids.iter().filter(|id| self.settled(id)).count();
        if changed > 0 {
            self.publish();
        }
    }

    /// Answers whether the job is stopped now and was not, or the other way round.
    fn settled(&mut self, id: &JobId) -> bool {
        let Some(job) = self.jobs.get(id).filter(|job| job.failed.is_none()) else { return false };
        let (slot, now) = (job.enrolled.slot, clock::boot_ns());
        let before = self.fence.deadline(slot);
        let deadline = self.job_contract(job).and_then(|hash| self.token_deadline(hash, job.token.as_ref()));
        match deadline.filter(|deadline| *deadline != before) {
            Some(deadline) => {
                self.fence.set_deadline(slot, deadline);
                (now < before) != (now < deadline)
            }
            None => false,
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
        self.publish();
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

    pub(crate) fn end_sockets_of(&self, slots: &BTreeSet<u32>) -> Severed {
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

    /// When the first of each agent's good tokens ends: epoch seconds.
    pub(crate) fn next_token_ends(&self) -> BTreeMap<&AgentName, u64> {
        let mut ends = BTreeMap::new();
        for job in self.jobs.values().filter(|job| !job.over && self.token_state(job) == "valid") {
            let Some(token) = &job.token else { continue };
            ends.entry(&job.agent).and_modify(|end: &mut u64| *end = token.end.min(*end)).or_insert(token.end);
        }
        ends
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
}
