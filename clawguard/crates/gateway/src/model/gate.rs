//! What all callers pass: who calls, what of HTTP is taken, what is asked, and what becomes of it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use claw::{encoding, key::Did};
use control::{
    calls::Decision,
    channel::{Ask, Told},
    model::ModelCall,
};
use hyper::{
    HeaderMap, Request, Response, StatusCode,
    body::Incoming,
    header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName},
    http::request::Parts,
};
use mcp::json;
use policy::model::ModelReason;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::time::timeout;

use super::{
    answers::{self, Outgoing, refused},
    call::{self, Made},
    connections::{Connection, Connections},
    judge::{Facts, Refusal, Verdict, decide},
    receipts::{Asked as Known, Receipts, is_name},
    redact::redact,
    refusals::Refusals,
    routes::{Api, Route, query, route},
    shapes::{self, Asked, Flaw},
};
use crate::mcp::{
    gate::{Gate as Shared, READING, Unread, own, whole},
    standing::{Job, Standing},
};

const TOKENS: [HeaderName; 2] = [HeaderName::from_static("x-cst"), HeaderName::from_static("x-scoped-token")];
const NONCE: HeaderName = HeaderName::from_static("x-idempotency-key");
const POLICY: HeaderName = HeaderName::from_static("x-policy-hash");
const PRIVACY: HeaderName = HeaderName::from_static("x-receipt-privacy-mode");
/// Characters of what a caller chose that a record has.
const RECORDED: usize = 256;

/// All that requests share.
pub(crate) struct Gate {
    pub(crate) shared: Arc<Shared>,
    port: u16,
    last: AtomicU64,
    pub(crate) receipts: Arc<Receipts>,
    pub(crate) refusals: Refusals,
    pub(crate) connections: Arc<Connections>,
}

/// A request that was read, whatever becomes of it.
struct Read {
    /// What it asks for; or why it is none.
    asked: Result<(Asked, Bytes), Refusal>,
    /// For the record.
    call: ModelCall,
}

impl Gate {
    pub(crate) fn new(port: u16, shared: Arc<Shared>) -> Self {
        Self {
            shared,
            port,
            last: AtomicU64::new(0),
            receipts: Arc::default(),
            refusals: Refusals::default(),
            connections: Arc::default(),
        }
    }

    /// Answers a request.
    pub(crate) async fn answer(
        self: Arc<Self>,
        connection: Arc<Connection>,
        request: Request<Incoming>,
    ) -> Response<Outgoing> {
        let (head, body) = request.into_parts();
        if let Err(why) = own(&head.headers, self.port) {
            return answers::last(StatusCode::FORBIDDEN, "INVALID_REQUEST", why);
        }
        match route(&head.method, head.uri.path()) {
            Route::Health => self.health(),
            Route::Did => self.did(),
            Route::Receipt(nonce) => self.receipt(&connection, nonce, head.uri.query()).await,
            Route::Call(api) => self.call(&connection, &head, body, api).await,
            Route::Method => answers::last(
                StatusCode::METHOD_NOT_ALLOWED,
                "METHOD_NOT_ALLOWED",
                "this path is there by another method",
            ),
            Route::Unknown => answers::last(
                StatusCode::NOT_FOUND,
                "NOT_FOUND",
                "/v1/chat/completions, /v1/responses, /v1/messages, /v1/proxy/PROVIDER, /v1beta/models/MODEL:generateContent and \
                 :streamGenerateContent, /v1/receipt/NONCE, /v1/did and /health are there",
            ),
        }
    }

    fn health(&self) -> Response<Outgoing> {
        let signing = !self.shared.standing().models.signer.is_empty();
        let text = json!({ "status": "ok", "version": env!("CARGO_PKG_VERSION"), "signingEnabled": signing });
        answers::json(StatusCode::OK, &text)
    }

    /// Whose receipts callers are given, in clawproxy's shape of it.
    fn did(&self) -> Response<Outgoing> {
        let standing = self.shared.standing();
        let signer = &standing.models.signer;
        let Ok(did) = signer.parse::<Did>() else {
            let why = "no one signer of receipts is known on this host";
            return answers::error(StatusCode::SERVICE_UNAVAILABLE, "SIGNING_NOT_CONFIGURED", why);
        };
        let key = format!("{signer}#{}", did.kid());
        let text = json!({
            "@context": ["https://www.w3.org/ns/did/v1", "https://w3id.org/security/suites/ed25519-2020/v1"],
            "id": signer,
            "verificationMethod": [{
                "id": key,
                "type": "Ed25519VerificationKey2020",
                "controller": signer,
                "publicKeyMultibase": format!("u{}", encoding::encode(did.public_key())),
            }],
            "authentication": [key],
            "assertionMethod": [key],
            "deployment": {
                "version": env!("CARGO_PKG_VERSION"),
                "signingEnabled": true,
                "encryptionEnabled": false,
                "service": if standing.models.proxied { "clawproxy" } else { "clawguard" },
                "receiptSignerDidKey": signer,
            },
        });
        answers::json(StatusCode::OK, &text)
    }

    /// The receipt of one of the caller's own calls.
    async fn receipt(&self, connection: &Connection, nonce: &str, query: Option<&str>) -> Response<Outgoing> {
        let not_found = |why: &str| answers::last(StatusCode::NOT_FOUND, "RECEIPT_NOT_FOUND", why);
        let kept = match self.receipts.wait(connection.caller.key, nonce).await {
            Known::Unknown => return not_found("no call of this job's of late was called so"),
            Known::UnderWay => {
                let why = "the call is under way; its receipt is there when it has ended";
                return answers::error(StatusCode::CONFLICT, "RECEIPT_INFLIGHT", why);
            }
            Known::Ended(kept) => kept,
        };
        let asked = |name: &str| {
            let mut pairs = query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
        };
        if asked("run_id").is_some_and(|run| run != kept.run_id)
            || asked("event_hash_b64u").is_some_and(|hash| hash != kept.event_hash)
        {
            let why = "the receipt is bound to another run or event";
            return answers::last(StatusCode::CONFLICT, "RECEIPT_BINDING_MISMATCH", why);
        }
        match &kept.receipt {
            Err(why) => not_found(why),
            // What the daemon signed is passed on by its own text.
            Ok(envelope) => {
                let binding = json!({ "run_id": kept.run_id, "event_hash_b64u": kept.event_hash });
                let text = format!(
                    "{{\"ok\":true,\"nonce\":\"{nonce}\",\"status\":{},\"truncated\":false,\"receipt_envelope\":{envelope},\
                     \"receipt\":null,\"binding\":{binding}}}",
                    kept.status
                );
                answers::text(StatusCode::OK, text)
            }
        }
    }

    async fn call(
        self: &Arc<Self>,
        connection: &Connection,
        head: &Parts,
        body: Incoming,
        api: Api<'_>,
    ) -> Response<Outgoing> {
        let caller = connection.caller;
        let standing = self.shared.standing();
        let limit = standing.rules.limits.message_bytes as usize;
        let room = self.shared.limits.room(caller.slot);
        // As long as it waits for its answer, a large request takes the place of another large message.
        let (body, _large) = match timeout(READING, whole(body, limit, &room)).await {
            Ok(Ok((body, large))) => (Ok(body), large),
            Ok(Err(Unread::TooLong(limit))) => (Err(Refusal::TooLarge(limit)), None),
            Ok(Err(Unread::Broken)) => (Err(Refusal::Invalid("the body broke off".into())), None),
            Err(_) => (Err(Refusal::Slow), None),
        };
        // Whoever takes long to send is not judged by what was in force when he began.
        let standing = self.shared.standing();
        let Some(job) = standing.job(caller.slot, caller.key).map(Arc::clone) else {
            return answers::last(StatusCode::FORBIDDEN, "JOB_OVER", "this job is over");
        };
        connection.called();
        let Read { asked, mut call } = self.read(&standing, &job, head, &body, api);
        let (asked, body) = match asked {
            Ok(asked) => asked,
            Err(refusal) => return self.refuse(call, refusal).await,
        };
        let judged = job.models().decide(asked.provider, &asked.model);
        call.rule = judged.rule;
        let contract = match judged.denied {
            Some(reason) => Some(Refusal::Contract(reason)),
            None => asked.remote_tool.then_some(Refusal::RemoteTool),
        };
        let provider = standing.models.provider(asked.provider).map(Arc::clone);
        let place = self.shared.limits.call(caller.key, &standing.rules.limits);
        let groups = call::groups();
        let facts = Facts {
            in_force: job.rules.stopped.is_none() && job.contract.is_some(),
            observe: job.rules.observe,
            killed: groups.killed([&standing.rules.killed, &job.rules.killed]).is_some(),
            contract,
            host: match (&provider, &place) {
                (None, _) => Some(Refusal::NotConfigured),
                (_, Err(limit)) => Some(Refusal::Limited(*limit)),
                _ => None,
            },
            recordable: standing.rules.closed.is_none(),
        };
        match decide(facts) {
            Verdict::Allow => call.reason = "allowed".into(),
            Verdict::Observe(refusal) => call.reason = refusal.code().into(),
            Verdict::Deny(refusal) => return self.refuse(call, refusal).await,
        }
        let (Some(provider), Ok(place)) = (provider, place) else {
            return self.refuse(call, Refusal::NotConfigured).await;
        };
        let Some(ticket) = self.receipts.take(caller.key, &call.nonce) else {
            return self.refuse(call, Refusal::InUse).await;
        };
        call.decision = Decision::Allowed;
        let patience = std::time::Duration::from_secs(standing.rules.limits.call_seconds.into());
        let headers = call::headers(&head.headers, &asked, &provider, standing.models.proxied);
        let made = Made {
            gate: Arc::clone(self),
            call,
            asked,
            body,
            provider,
            proxied: standing.models.proxied,
            headers,
            ticket,
            _place: place,
            patience,
            longest: limit,
        };
        made.answered(standing, groups).await
    }

    /// Reads a request: what is judged, and what is sent if it may be.
    fn read(&self, standing: &Standing, job: &Job, head: &Parts, body: &Result<Bytes, Refusal>, api: Api<'_>) -> Read {
        let rules = &job.rules;
        let received: &[u8] = body.as_ref().map_or(&[], |body| body);
        let mut call = ModelCall {
            number: self.last.fetch_add(1, Ordering::Relaxed) + 1,
            slot: rules.slot,
            key: rules.key,
            provider: String::new(),
            model: String::new(),
            route: head.uri.path().chars().take(RECORDED).collect(),
            streamed: false,
            nonce: String::new(),
            request_hash: String::new(),
            bytes_in: received.len() as u64,
            redactions: 0,
            decision: Decision::Denied,
            reason: String::new(),
            rule: None,
            contract: rules.contract.clone().unwrap_or_default(),
            token: rules.token.clone(),
            count: 1,
        };
        let asked = match nonce(&head.headers) {
            Ok(nonce) => {
                call.nonce = nonce;
                let body = body.as_ref().map_err(Refusal::clone);
                body.and_then(|body| ask(standing, job, head, body, api, &mut call))
            }
            Err(refusal) => Err(refusal),
        };
        let sent = asked.as_ref().map_or(received, |(_, body)| body);
        call.request_hash = encoding::encode(&Sha256::digest(sent));
        Read { asked, call }
    }

    /// Records that a call is not made, and tells whoever called.
    pub(crate) async fn refuse(&self, mut call: ModelCall, refusal: Refusal) -> Response<Outgoing> {
        call.decision = Decision::Denied;
        call.reason = refusal.code().into();
        if let Some(call) = self.refusals.count(call) {
            match self.shared.daemon.ask(Ask::Model(Box::new(call))).await {
                Ok(Told::Unrecorded(why)) => tracing::error!(why, "a refusal could not be recorded"),
                Ok(_) => {}
                Err(error) => tracing::error!(%error, "a refusal could not be recorded"),
            }
        }
        refused(&refusal)
    }
}

/// Reads what is asked for, and leaves out what the contract wants left out.
fn ask(
    standing: &Standing,
    job: &Job,
    head: &Parts,
    body: &[u8],
    api: Api<'_>,
    call: &mut ModelCall,
) -> Result<(Asked, Bytes), Refusal> {
    if let Api::Proxy(provider) = api {
        call.provider = provider.chars().take(RECORDED).collect();
    }
    credentials(&head.headers, job)?;
    media(&head.headers)?;
    let query = query(head.uri.query()).map_err(|why| Refusal::Invalid(why.into()))?;
    let mut body = json::parse(body).map_err(|flaw| Refusal::Invalid(flaw.to_string().into()))?;
    // Of an agent that is only watched nothing is changed.
    if !job.rules.observe {
        call.redactions = redact(&mut body, job.models().redactions());
    }
    let asked = shapes::read(api, query, &body, standing.models.proxied).map_err(|flaw| match flaw {
        Flaw::Provider => Refusal::UnknownProvider,
        Flaw::Request(why) => Refusal::Invalid(why.into()),
        Flaw::Route => Refusal::Route,
    })?;
    call.provider = asked.provider.into();
    call.model = asked.model.clone().into();
    call.streamed = asked.streamed;
    Ok((asked, body.to_bytes().into()))
}

/// What a client says of who it is and what it is under has to be true. It is not needed.
fn credentials(headers: &HeaderMap, job: &Job) -> Result<(), Refusal> {
    let mut tokens = TOKENS.into_iter().flat_map(|name| headers.get_all(name)).peekable();
    if let Some(first) = tokens.next() {
        if tokens.any(|other| other != first) {
            return Err(Refusal::StrictHeaders);
        }
        let hash: String = Sha256::digest(first.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        if job.rules.token.as_ref() != Some(&hash) {
            return Err(Refusal::Token);
        }
    }
    let contract = job.rules.contract.as_deref().unwrap_or_default();
    if headers.get_all(POLICY).iter().any(|hash| hash.as_bytes() != contract.as_bytes()) {
        return Err(Refusal::PolicyHash);
    }
    if headers.get_all(PRIVACY).iter().any(|mode| mode.as_bytes() != b"hash_only") {
        return Err(Refusal::Contract(ModelReason::Privacy));
    }
    Ok(())
}

fn media(headers: &HeaderMap) -> Result<(), Refusal> {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    let plain =
        headers.get_all(CONTENT_ENCODING).iter().all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity"));
    if kind.eq_ignore_ascii_case("application/json") && plain { Ok(()) } else { Err(Refusal::Media) }
}

/// What a call is called: by the client's own word, or by one that nobody knows.
fn nonce(headers: &HeaderMap) -> Result<String, Refusal> {
    let mut named = headers.get_all(NONCE).iter();
    let invalid = |why: &'static str| Err(Refusal::Invalid(why.into()));
    match (named.next(), named.next()) {
        (None, _) => {
            let mut random = [0; 18];
            getrandom::fill(&mut random).map_err(|_| Refusal::Unrecordable)?;
            Ok(encoding::encode(&random))
        }
        (Some(name), None) => match name.to_str() {
            Ok(name) if is_name(name) => Ok(name.into()),
            _ => invalid("X-Idempotency-Key has 1 to 128 letters, digits, and - _ . ~ :"),
        },
        _ => invalid("X-Idempotency-Key is there twice"),
    }
}
