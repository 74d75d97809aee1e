//! What becomes of a model call, and how whoever called is told.

use std::borrow::Cow;

use hyper::StatusCode;
use mcp::decide::Limit;
use policy::model::ModelReason;

/// Why a call is not made. The words are clawproxy's, where it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Two tokens, or one twice.
    StrictHeaders,
    /// Another token than the job's.
    Token,
    /// Another contract than the job's is asked for.
    PolicyHash,
    /// Nothing is in force for the job.
    NotInForce,
    /// Its group is killed.
    Killed,
    /// What the contract says.
    Contract(ModelReason),
    /// The provider would run a tool itself.
    RemoteTool,
    /// Nobody knows the provider.
    UnknownProvider,
    /// The host has no way to the provider.
    NotConfigured,
    /// The host's clawproxy has no such route.
    Route,
    /// Too many calls a minute, or at once.
    Limited(Limit),
    /// It cannot be recorded.
    Unrecordable,
    /// The client called another call so.
    InUse,
    /// It is no request.
    Invalid(Cow<'static, str>),
    /// It is too long.
    TooLarge(usize),
    /// It did not come in time.
    Slow,
    /// It is no JSON, by its own word.
    Media,
}

impl Refusal {
    /// The word for it in records and answers. It stays.
    pub(crate) const fn code(&self) -> &'static str {
        match self {
            Self::StrictHeaders => "STRICT_AUTH_HEADERS",
            Self::Token => "TOKEN_MISMATCH",
            Self::PolicyHash => "POLICY_HASH_MISMATCH",
            Self::NotInForce => "POLICY_REQUIRED",
            Self::Killed => "MODEL_KILLED",
            Self::Contract(reason) => reason.label(),
            Self::RemoteTool => "POLICY_PROVIDER_TOOL_NOT_ALLOWED",
            Self::UnknownProvider => "UNKNOWN_PROVIDER",
            Self::NotConfigured => "PROVIDER_NOT_CONFIGURED",
            Self::Route => "ROUTE_NOT_PROXIED",
            Self::Limited(Limit::Rate) => "RATE_LIMITED",
            Self::Limited(Limit::Concurrency) => "CONCURRENCY_LIMITED",
            Self::Unrecordable => "UNRECORDABLE",
            Self::InUse => "IDEMPOTENCY_KEY_IN_USE",
            Self::Invalid(_) => "INVALID_REQUEST",
            Self::TooLarge(_) => "PAYLOAD_TOO_LARGE",
            Self::Slow => "REQUEST_TIMEOUT",
            Self::Media => "UNSUPPORTED_MEDIA_TYPE",
        }
    }

    /// What HTTP has for it. Clients do not repeat what was refused with 403.
    pub(crate) const fn status(&self) -> StatusCode {
        match self {
            Self::StrictHeaders | Self::Route | Self::UnknownProvider | Self::Invalid(_) => StatusCode::BAD_REQUEST,
            Self::Token => StatusCode::UNAUTHORIZED,
            Self::PolicyHash
            | Self::NotInForce
            | Self::Killed
            | Self::Contract(_)
            | Self::RemoteTool
            | Self::NotConfigured => StatusCode::FORBIDDEN,
            Self::Limited(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Unrecordable => StatusCode::SERVICE_UNAVAILABLE,
            Self::InUse => StatusCode::CONFLICT,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::Media => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        }
    }

    /// Whether the same call may be made later.
    pub(crate) const fn passes(&self) -> bool {
        matches!(self, Self::Limited(_) | Self::Unrecordable)
    }

    /// The same for whoever called.
    pub(crate) fn message(&self) -> Cow<'static, str> {
        match self {
            Self::StrictHeaders => "X-CST and X-Scoped-Token are there, or one of them twice, and differ".into(),
            Self::Token => "the token of this request is not this job's".into(),
            Self::PolicyHash => "X-Policy-Hash is not the hash of this job's contract".into(),
            Self::NotInForce => "no contract is in force for this job".into(),
            Self::Killed => "an operator has switched this off; do not try again until it is given back".into(),
            Self::Contract(reason) => reason.sentence().into(),
            Self::RemoteTool => {
                "the request has a tool or a prompt that the provider would run itself, or an address that it would fetch: no \
                 contract gives that (a picture or file can be sent as a data: URL)"
                    .into()
            }
            Self::UnknownProvider => "openai, anthropic and google are known".into(),
            Self::NotConfigured => "this host reaches no models of this provider".into(),
            Self::Route => {
                "this host's model calls go to a clawproxy, which has no such route: POST /v1/proxy/google".into()
            }
            Self::Limited(Limit::Rate) => "this job calls too often; try again in a minute".into(),
            Self::Limited(Limit::Concurrency) => {
                "this job has too many calls under way; try again when one has ended".into()
            }
            Self::Unrecordable => "the host cannot record calls now, so none is made; try again later".into(),
            Self::InUse => "a call of this X-Idempotency-Key is known already, and is not made again".into(),
            Self::Invalid(why) => why.clone(),
            Self::TooLarge(limit) => format!("a request has at most {limit} bytes ([limits] message_bytes)").into(),
            Self::Slow => "the request did not come in time".into(),
            Self::Media => "Content-Type: application/json is expected, without a Content-Encoding".into(),
        }
    }
}

/// All that a decision rests on.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// Whether the job may call anything: it has a contract, in force, and the token that this demands.
    pub(crate) in_force: bool,
    /// Whether what the contract denies passes all the same.
    pub(crate) observe: bool,
    /// Whether a group of model calls is killed, for the host or for the job.
    pub(crate) killed: bool,
    /// What the contract says against it, if anything.
    pub(crate) contract: Option<Refusal>,
    /// What the host says against it, if anything.
    pub(crate) host: Option<Refusal>,
    /// Whether what is granted can be recorded.
    pub(crate) recordable: bool,
}

/// What becomes of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is made.
    Allow,
    /// It is made, because the agent is only watched; enforced, it would have been refused.
    Observe(Refusal),
    /// It is not made.
    Deny(Refusal),
}

/// Decides on a call. A kill holds whatever else is true; what the contract says is only watched where the agent is.
pub(crate) fn decide(facts: Facts) -> Verdict {
    if !facts.in_force && !facts.observe {
        return Verdict::Deny(Refusal::NotInForce);
    }
    if facts.killed {
        return Verdict::Deny(Refusal::Killed);
    }
    let (watched, denied) = if facts.observe { (facts.contract, None) } else { (None, facts.contract) };
    if let Some(refusal) = denied.or(facts.host) {
        return Verdict::Deny(refusal);
    }
    if !facts.recordable {
        return Verdict::Deny(Refusal::Unrecordable);
    }
    watched.map_or(Verdict::Allow, Verdict::Observe)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every combination, against the same said in words.
    #[test]
    fn nothing_passes_that_something_says_no_to() {
        let contract = Refusal::Contract(ModelReason::Model);
        for bits in 0_u8..64 {
            let bit = |n: u8| bits & (1 << n) != 0;
            let facts = Facts {
                in_force: bit(0),
                observe: bit(1),
                killed: bit(2),
                contract: bit(3).then(|| contract.clone()),
                host: bit(4).then_some(Refusal::NotConfigured),
                recordable: bit(5),
            };
            let enforced = !bit(1) && (!bit(0) || bit(3));
            let passes = !(bit(2) || bit(4) || !bit(5) || enforced);
            let verdict = decide(facts);
            assert_eq!(!matches!(verdict, Verdict::Deny(_)), passes, "{bits:06b}");
            if passes {
                assert_eq!(verdict == Verdict::Observe(contract.clone()), bit(3), "{bits:06b}");
            }
        }
    }

    #[test]
    fn what_will_never_pass_is_refused_so_that_clients_do_not_repeat_it() {
        for refusal in
            [Refusal::Killed, Refusal::NotInForce, Refusal::Contract(ModelReason::Provider), Refusal::RemoteTool]
        {
            assert_eq!((refusal.status(), refusal.passes()), (StatusCode::FORBIDDEN, false), "{refusal:?}");
        }
        assert!(Refusal::Limited(Limit::Rate).passes() && !Refusal::InUse.passes());
    }
}
