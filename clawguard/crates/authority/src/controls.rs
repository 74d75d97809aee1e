//! clawcontrols' routes: contracts by their hash, signed here or by who wrote them.

use std::sync::Arc;

use bytes::Bytes;
use claw::{
    Hash, Value,
    envelope::{self, Envelope, Kind},
    json::{self, Limits},
};
use hyper::StatusCode;
use policy::Contract;
use tokio::sync::{OwnedSemaphorePermit, SemaphorePermit};

use crate::{
    access::Who,
    reply::{Answer, Refusal, Reply, object, text},
    scope::unavailable,
    server::State,
    store::{self, Published},
};

/// As deep as an envelope may be (`claw::envelope`).
const DEEPEST: usize = 32;
/// Bytes of a contract that is answered without asking for room.
const SMALL: usize = 64 << 10;
/// The part of `metadata` that ClawGuard's hosts read and upstream's registry does not.
const GUARD: &str = "clawguard.v1";

/// `GET /v1/wpc/{hash}`
pub(crate) async fn fetch(state: &State, name: &str) -> Answer {
    let hash = hash_of(name)?;
    // There is room for it before it is read: who asks for large contracts and takes them slowly must not fill the memory.
    let bytes = state.store.size(hash).await.map_err(|error| unavailable(&error))?;
    let room = room(state, bytes.unwrap_or(0)).await?;
    match state.store.envelope(hash).await {
        Ok(Some(envelope)) => Ok(registered(StatusCode::OK, None, hash, &envelope, room)),
        Ok(None) => Err(Refusal::new(StatusCode::NOT_FOUND, "WPC_NOT_FOUND", "WPC not found")),
        Err(store::Error::Corrupted) => Err(corrupted(hash)),
        Err(error) => Err(unavailable(&error)),
    }
}

/// `POST /v1/wpc`: a payload, signed with this server's key.
pub(crate) async fn register(state: &Arc<State>, body: Bytes, who: &Who) -> Answer {
    let (place, now) = (place(state).await?, state.clock.now());
    let signer = Arc::clone(state);
    let (hash, envelope) = aside(move || {
        let limits = Limits { bytes: body.len(), depth: DEEPEST };
        let value = json::parse(&body, limits)
            .map_err(|error| Refusal::bad("INVALID_JSON", format!("Request body must be valid JSON: {error}")))?;
        let Value::Object(members) = value else {
            return Err(Refusal::bad("INVALID_REQUEST", "Request body must be a JSON object"));
        };
        let wpc = members.into_iter().find_map(|(name, value)| (&*name == "wpc").then_some(value));
        let wpc = wpc.ok_or_else(|| Refusal::bad("INVALID_REQUEST", "wpc is required"))?;
        well_formed(&wpc)?;
        let hash = wpc.canonical_hash();
        let sealed = Envelope::seal(wpc, Kind::WorkPolicyContract, &signer.keys.controls, now);
        Ok((hash, Bytes::from(sealed.trim_end().to_owned())))
    })
    .await?;
    let published = publish(state, hash, envelope, who).await?;
    drop(place);
    stored(state, hash, &published).await
}

/// `PUT /v1/wpc/{hash}`: an envelope that was signed elsewhere, stored byte for byte.
pub(crate) async fn deposit(state: &Arc<State>, name: &str, body: Bytes, who: &Who) -> Answer {
    let wanted = hash_of(name)?;
    let place = place(state).await?;
    let text = body.clone();
    let signer = aside(move || {
        let envelope = Envelope::open(&text, Kind::WorkPolicyContract).map_err(|error| {
            let code = match &error {
                envelope::Error::Json(_) => "INVALID_JSON",
                envelope::Error::Hash { .. } => "WPC_HASH_MISMATCH",
                envelope::Error::Signature { .. } => "WPC_SIGNATURE_INVALID",
                _ => "WPC_ENVELOPE_INVALID",
            };
            Refusal::bad(code, error.to_string())
        })?;
        if envelope.hash != wanted {
            let message = format!("the envelope is of {}, and the path says {wanted}", envelope.hash);
            return Err(Refusal::bad("WPC_HASH_MISMATCH", message));
        }
        well_formed(&envelope.payload)?;
        Ok(envelope.signer)
    })
    .await?;
    let published = publish(state, wanted, body.clone(), who).await?;
    // The first envelope stays. That of another signer is another statement, which must not pass for stored. What the store
    // kept is asked, and not what was there before: of two that come at once one is the first.
    if published.envelope != body {
        let there = published.envelope.clone();
        let known = aside(move || Ok(Envelope::open(&there, Kind::WorkPolicyContract).map(|found| found.signer)));
        if let Ok(known) = known.await?
            && known != signer
        {
            let message = format!("WPC is registered already, signed by {known}; it is not replaced");
            return Err(Refusal::new(StatusCode::CONFLICT, "WPC_SIGNER_CONFLICT", message));
        }
    }
    // Who takes answers slowly does not keep others from being read.
    drop(place);
    stored(state, wanted, &published).await
}

async fn publish(state: &State, hash: Hash, envelope: Bytes, who: &Who) -> Result<Published, Refusal> {
    let bytes = envelope.len();
    let published = state.store.publish(hash, envelope, state.clock.seconds(), who.to_string()).await;
    let published = published.map_err(|error| unavailable(&error))?;
    if !published.existed {
        tracing::info!(%who, %hash, bytes, "a contract was registered");
        return Ok(published);
    }
    aside(move || if Hash::of(&published.envelope) == published.digest { Ok(published) } else { Err(corrupted(hash)) })
        .await
}

async fn stored(state: &State, hash: Hash, published: &Published) -> Answer {
    let status = if published.existed { StatusCode::OK } else { StatusCode::CREATED };
    let room = room(state, published.envelope.len()).await?;
    Ok(registered(status, Some(published.existed), hash, &published.envelope, room))
}

fn corrupted(hash: Hash) -> Refusal {
    tracing::error!(%hash, "a stored contract is not what was stored");
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "WPC_CORRUPTED", "Stored WPC is corrupted")
}

/// Room for an answer. Small ones need none: they do not wait for those who take large ones slowly.
async fn room(state: &State, bytes: usize) -> Result<Option<OwnedSemaphorePermit>, Refusal> {
    if bytes <= SMALL {
        return Ok(None);
    }
    let kibibytes = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX).min(state.limits.outgoing_kib);
    let room = Arc::clone(&state.outgoing).acquire_many_owned(kibibytes).await;
    room.map(Some).map_err(|_| Refusal::busy("the server is stopping"))
}

/// The answer that carries an envelope, whose bytes are put in as they are.
fn registered(
    status: StatusCode,
    existed: Option<bool>,
    hash: Hash,
    envelope: &[u8],
    room: Option<OwnedSemaphorePermit>,
) -> Reply {
    let existed = existed.map_or(String::new(), |existed| format!("\"existed\":{existed},"));
    let mut body = format!("{{\"ok\":true,{existed}\"policy_hash_b64u\":\"{hash}\",\"envelope\":").into_bytes();
    body.extend_from_slice(envelope);
    body.push(b'}');
    Reply::Json { status, body: body.into(), cache: None, room }
}

fn hash_of(name: &str) -> Result<Hash, Refusal> {
    let wrong = |_| Refusal::bad("INVALID_POLICY_HASH", "policy_hash_b64u must be SHA-256 base64url length 43");
    name.parse().map_err(wrong)
}

/// Whether a payload has the form that it says it has.
///
/// What upstream's registry accepts is accepted: it does not look into `metadata`. A contract whose ClawGuard part no host
/// would take is refused by the hosts, by name, and told of here.
fn well_formed(payload: &Value) -> Result<(), Refusal> {
    let wrong = |error: &dyn std::fmt::Display| {
        Refusal::bad("INVALID_WPC", format!("WPC does not match work_policy_contract.v1 shape: {error}"))
    };
    let Err(error) = Contract::read(payload) else { return Ok(()) };
    let bare = without_guard(payload).ok_or_else(|| wrong(&error))?;
    Contract::read(&bare).map_err(|error| wrong(&error))?;
    tracing::warn!(hash = %payload.canonical_hash(), %error, "a contract is registered that no host would put in force");
    Ok(())
}

/// The payload without ClawGuard's part, if it has one.
fn without_guard(payload: &Value) -> Option<Value> {
    payload.get("metadata")?.get(GUARD)?;
    let mut bare = payload.clone();
    if let Value::Object(members) = &mut bare {
        for (name, value) in members {
            if let ("metadata", Value::Object(metadata)) = (&**name, value) {
                metadata.retain(|(name, _)| &**name != GUARD);
            }
        }
    }
    Some(bare)
}

/// A large contract takes much memory to read: a few at a time.
async fn place(state: &State) -> Result<SemaphorePermit<'_>, Refusal> {
    state.publishers.acquire().await.map_err(|_| Refusal::busy("the server is stopping"))
}

/// Work that takes long, beside the tasks that serve others.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> Result<T, Refusal> + Send + 'static) -> Result<T, Refusal> {
    let failed =
        |_| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL", "the request could not be carried out");
    tokio::task::spawn_blocking(work).await.map_err(failed)?
}

/// The answer where nobody is named.
pub(crate) fn nobody() -> Refusal {
    Refusal::unauthorized("UNAUTHORIZED", "Admin token required")
}

/// `GET /health`
pub(crate) fn health(state: &State) -> Answer {
    let works = state.store.works();
    let status = if works { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok(Reply::json(
        status,
        &object([
            ("status", text(if works { "ok" } else { "failing" })),
            ("service", text("clawguard-authority")),
            ("version", text(env!("CARGO_PKG_VERSION"))),
            ("signingEnabled", Value::Bool(true)),
            ("control_require_canonical_cst", Value::Bool(false)),
        ]),
    ))
}
