//! A call that may be made: recorded, sent, and followed to its end whatever becomes of whoever called.

use std::{
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use bytes::Bytes;
use control::{
    channel::{Ask, Told},
    model::{ModelCall, ModelEnd, ModelGrant, Receipt},
};
use hyper::{
    HeaderMap, Method, Response, StatusCode, Uri,
    header::{
        ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT,
    },
};
use mcp::decide::Judged;
use policy::{
    Group,
    group::{Class, Risk},
    tool::ToolVerdict,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::sleep,
};

use super::{
    answers::{self, Outgoing, Piece, refused},
    carry::{Carried, carry},
    gate::Gate,
    judge::Refusal,
    mask::Mask,
    meter::Found,
    receipts::{Kept, Ticket},
    shapes::{Asked, Credential},
    ways::Provider,
};
use crate::mcp::{
    limits::Place,
    running::{Called, Held},
    standing::Standing,
    upstream::{Answer, Failure},
};

const RUN: HeaderName = HeaderName::from_static("x-run-id");
const EVENT: HeaderName = HeaderName::from_static("x-event-hash");
const NONCE: HeaderName = HeaderName::from_static("x-idempotency-key");
const POLICY: HeaderName = HeaderName::from_static("x-policy-hash");
const TOKEN: HeaderName = HeaderName::from_static("x-cst");
const PROVIDER_KEY: HeaderName = HeaderName::from_static("x-provider-api-key");
const VERSION: HeaderName = HeaderName::from_static("anthropic-version");

/// What of a client's headers goes on: nothing by which a provider knows who calls.
const PASSED: [HeaderName; 5] =
    [ACCEPT, USER_AGENT, VERSION, HeaderName::from_static("anthropic-beta"), HeaderName::from_static("openai-beta")];
/// What is between two hops only (RFC 9110 section 7.6.1), and the length, which a receipt changes.
const HOP: [HeaderName; 9] = [
    hyper::header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    hyper::header::PROXY_AUTHENTICATE,
    hyper::header::PROXY_AUTHORIZATION,
    hyper::header::TE,
    hyper::header::TRAILER,
    hyper::header::TRANSFER_ENCODING,
    hyper::header::UPGRADE,
    CONTENT_LENGTH,
];

/// The groups that model calls belong to.
pub(crate) fn groups() -> Arc<Judged> {
    static GROUPS: LazyLock<Arc<Judged>> = LazyLock::new(|| {
        let groups = [Group::all(), Group::model()].iter().map(|group| group.as_str().into()).collect();
        Arc::new(Judged { verdict: ToolVerdict::Allow, risk: Risk::Low, class: Class::Read, groups, rule: None })
    });
    Arc::clone(&GROUPS)
}

/// What a provider gets beside the body.
pub(crate) fn headers(from: &HeaderMap, asked: &Asked, provider: &Provider, proxied: bool) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for name in &PASSED {
        for value in from.get_all(name) {
            headers.append(name, value.clone());
        }
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // What is packed could neither be looked at nor have a receipt put in it.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if asked.credential == Credential::Anthropic && !headers.contains_key(VERSION) {
        headers.insert(VERSION, HeaderValue::from_static("2023-06-01"));
    }
    if let Some((key, bearer)) = &provider.key {
        let (name, value) = match asked.credential {
            _ if proxied => (PROVIDER_KEY, key),
            Credential::Bearer => (AUTHORIZATION, bearer),
            Credential::Anthropic => (HeaderName::from_static("x-api-key"), key),
            Credential::Google => (HeaderName::from_static("x-goog-api-key"), key),
        };
        headers.insert(name, value.clone());
    }
    headers
}

/// A call that may be made.
pub(crate) struct Made {
    pub(crate) gate: Arc<Gate>,
    pub(crate) call: ModelCall,
    pub(crate) asked: Asked,
    pub(crate) body: Bytes,
    pub(crate) provider: Arc<Provider>,
    pub(crate) proxied: bool,
    pub(crate) headers: HeaderMap,
    pub(crate) ticket: Ticket,
    /// Given back when the call has ended.
    pub(crate) _place: Place,
    /// How long the provider may be silent.
    pub(crate) patience: Duration,
    /// Bytes of an answer that are kept to be looked at, where that is needed.
    pub(crate) longest: usize,
}

/// Why a call ended otherwise than by its answer's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    Killed,
    Gone,
    Late,
    Unreachable,
    /// The provider stopped in the middle.
    Broken,
}

impl Cut {
    const fn outcome(self) -> &'static str {
        match self {
            Self::Killed => "killed",
            Self::Gone => "client_gone",
            Self::Late => "timeout",
            Self::Unreachable => "unreachable",
            Self::Broken => "cut",
        }
    }
}

impl Made {
    /// Makes the call, and gives its answer as far as that is known; what follows comes by itself. Whoever goes away does not keep
    /// it from being recorded.
    pub(crate) async fn answered(self, standing: Arc<Standing>, groups: Arc<Judged>) -> Response<Outgoing> {
        let running = &self.gate.shared.running;
        let called = Called::Model(self.asked.provider.into(), self.asked.model.clone());
        let held = running.begin((self.call.slot, self.call.key), groups, called);
        // Between the look at the rules and now a kill may have passed by.
        let now = self.gate.shared.standing();
        if !Arc::ptr_eq(&now, &standing) {
            running.look_again(&held, &now);
        }
        let (sender, receiver) = oneshot::channel();
        tokio::spawn(self.run(held, sender));
        receiver
            .await
            .unwrap_or_else(|_| answers::error(StatusCode::BAD_GATEWAY, "PROXY_ERROR", "the call was given up"))
    }

    async fn run(mut self, held: Held, mut head: oneshot::Sender<Response<Outgoing>>) {
        let daemon = Arc::clone(&self.gate.shared.daemon);
        if held.call.is_killed() {
            let refusal = self.gate.refuse(self.call, Refusal::Killed).await;
            drop(head.send(refusal));
            return;
        }
        let (number, proxied) = (self.call.number, self.proxied);
        let grant = match daemon.ask(Ask::Model(Box::new(self.call.clone()))).await {
            Ok(Told::Model(grant)) => *grant,
            told => {
                tracing::error!(?told, "a model call could not be recorded, and is not made");
                drop(head.send(refused(&Refusal::Unrecordable)));
                return;
            }
        };
        // From here on the call ends with its receipt, whatever happens.
        let since = Instant::now();
        let answer = self.sent(&grant, &held, &mut head).await;
        let micros = || u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
        let end = |outcome: &str, status: u16, carried: Option<Carried>| {
            let (hash, bytes, first, found) = match carried {
                None => (claw::Hash::of(b"").to_string(), 0, None, Found::default()),
                Some(carried) => {
                    let (hash, found) = (carried.hash.end(), carried.meter.found());
                    // What came to a clawproxy, where that can be seen in what it made of it.
                    let hash = found.answer.clone().filter(|_| proxied).unwrap_or(hash);
                    (hash, carried.bytes, carried.first, found)
                }
            };
            ModelEnd {
                number,
                outcome: outcome.into(),
                status,
                response_hash: hash,
                bytes_out: bytes,
                first_byte_us: first
                    .map(|first: Instant| u64::try_from((first - since).as_micros()).unwrap_or(u64::MAX)),
                duration_us: micros(),
                tokens_input: found.tokens.0,
                tokens_output: found.tokens.1,
                // Of a provider it would be one that it made up.
                receipt: found.receipt.filter(|_| proxied),
            }
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(cut) => {
                let end = end(cut.outcome(), 0, None);
                // Before whoever called hears of it.
                let _ = self.receipt(&grant, end).await;
                drop(head.send(failed(cut)));
                return;
            }
        };
        let status = answer.status;
        let (out, response) = self.head(&grant, &answer);
        if head.send(response).is_err() {
            let end = end(Cut::Gone.outcome(), status.as_u16(), None);
            let _ = self.receipt(&grant, end).await;
            return;
        }
        let (mut carried, cut) = carry(answer, &out, &held, &self).await;
        let outcome = match cut {
            None if status.is_success() => "ok",
            None => "provider_error",
            Some(cut) => {
                // What is cut is cut at once.
                drop(out);
                let end = end(cut.outcome(), status.as_u16(), Some(carried));
                let _ = self.receipt(&grant, end).await;
                return;
            }
        };
        let mut tail = std::mem::replace(&mut carried.tail, super::tail::Tail::Plain);
        let end = end(outcome, status.as_u16(), Some(carried));
        // A clawproxy's receipt stands in the answer already.
        let there = end.receipt.is_some();
        let receipt = match self.receipt(&grant, end).await {
            Some(receipt) => receipt,
            // What could not be recorded does not end as if it were.
            None => return,
        };
        let receipt = receipt.filter(|_| !there);
        for piece in tail.end(receipt.as_deref()).map(Piece::Bytes).into_iter().chain([Piece::End]) {
            if out.send(piece).await.is_err() {
                return;
            }
        }
    }

    /// Sends the request, and waits for the answer's beginning.
    async fn sent(
        &mut self,
        grant: &ModelGrant,
        held: &Held,
        head: &mut oneshot::Sender<Response<Outgoing>>,
    ) -> Result<Answer, Cut> {
        let mut headers = std::mem::take(&mut self.headers);
        if self.proxied {
            self.bind(grant, &mut headers);
        }
        let target = format!("{}{}", self.provider.base, self.asked.target);
        let Ok(target) = target.parse::<Uri>() else { return Err(Cut::Unreachable) };
        let sending = self.provider.http.exchange(Method::POST, &target, headers, std::mem::take(&mut self.body));
        tokio::select! {
            biased;
            () = held.call.killed() => Err(Cut::Killed),
            () = head.closed() => Err(Cut::Gone),
            sent = sending => sent.map_err(|failure: Failure| {
                tracing::warn!(provider = self.asked.provider, %failure, detail = failure.detail(), "a model call was not answered");
                Cut::Unreachable
            }),
            () = sleep(self.patience) => Err(Cut::Late),
        }
    }

    /// What a clawproxy binds its receipt to.
    fn bind(&self, grant: &ModelGrant, headers: &mut HeaderMap) {
        let texts = [
            (RUN, Some(&grant.run_id)),
            (EVENT, Some(&grant.event_hash)),
            (NONCE, Some(&self.call.nonce)),
            (POLICY, Some(&self.call.contract).filter(|hash| !hash.is_empty())),
            (TOKEN, grant.token.as_ref()),
        ];
        for (name, text) in texts {
            if let Some(Ok(mut value)) = text.map(|text| HeaderValue::from_str(text)) {
                value.set_sensitive(name == TOKEN);
                headers.insert(name, value);
            }
        }
    }

    /// What hides the host's key in an answer, if that is an error.
    pub(crate) fn mask(&self, answer: &Answer) -> Option<Mask> {
        let (key, _) = self.provider.key.as_ref().filter(|_| !answer.status.is_success())?;
        Some(Mask::new(key.as_bytes()))
    }

    /// The beginning of the answer for whoever called: the provider's, and what its receipt is bound to.
    fn head(&self, grant: &ModelGrant, answer: &Answer) -> (mpsc::Sender<Piece>, Response<Outgoing>) {
        let (out, body) = Outgoing::pieces();
        let mut response = Response::new(body);
        *response.status_mut() = answer.status;
        let named: Vec<HeaderName> = answer
            .headers
            .get_all(hyper::header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|names| names.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .collect();
        let mask = self.mask(answer);
        for (name, value) in &answer.headers {
            if !HOP.contains(name) && !named.contains(name) {
                // With stars in it, it is a header's value as it was.
                let masked = mask.as_ref().and_then(|mask| HeaderValue::from_bytes(&mask.whole(value.as_bytes())).ok());
                response.headers_mut().append(name, masked.unwrap_or_else(|| value.clone()));
            }
        }
        for (name, text) in [(RUN, &grant.run_id), (EVENT, &grant.event_hash), (NONCE, &self.call.nonce)] {
            if let Ok(value) = HeaderValue::from_str(text) {
                response.headers_mut().insert(name, value);
            }
        }
        (out, response)
    }

    /// Has the end recorded and the receipt signed, and keeps it; `None` if that could not be.
    async fn receipt(self, grant: &ModelGrant, end: ModelEnd) -> Option<Option<String>> {
        let status = end.status;
        let told = self.gate.shared.daemon.ask(Ask::Receipt(Box::new(end))).await;
        let (recorded, receipt) = match told {
            Ok(Told::Receipt(Receipt::Signed(envelope))) => (true, Ok(envelope)),
            Ok(Told::Receipt(Receipt::Missing(why))) => {
                tracing::warn!(why, nonce = self.ticket.name(), "a model call has no receipt");
                (true, Err(why))
            }
            told => {
                tracing::error!(?told, nonce = self.ticket.name(), "the end of a model call could not be recorded");
                (false, Err("the end of the call could not be recorded".to_owned()))
            }
        };
        let given = receipt.as_ref().ok().cloned();
        let (run_id, event_hash) = (grant.run_id.clone(), grant.event_hash.clone());
        // It was made, recorded or not: its name is not free.
        self.ticket.keep(Kept { run_id, event_hash, status, receipt });
        recorded.then_some(given)
    }
}

/// What whoever called gets when no answer came.
fn failed(cut: Cut) -> Response<Outgoing> {
    match cut {
        Cut::Killed => refused(&Refusal::Killed),
        Cut::Late => {
            answers::error(StatusCode::GATEWAY_TIMEOUT, "PROVIDER_TIMEOUT", "the provider did not answer in time")
        }
        Cut::Gone | Cut::Unreachable | Cut::Broken => {
            answers::error(StatusCode::BAD_GATEWAY, "PROVIDER_ERROR", "the provider did not answer")
        }
    }
}
