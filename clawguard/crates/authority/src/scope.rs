//! clawscope's routes: keys, tokens, revocations; and the binding of a token to one host, which is ClawGuard's own.

use std::sync::Arc;

use claw::{
    Value, encoding,
    key::Did,
    time::Instant,
    token::{Claims, Token, TokenHash},
};
use hyper::{HeaderMap, StatusCode};

use crate::{
    LONGEST_LIFE,
    access::{self, Checked, Who},
    follow,
    issue::{self, Lane},
    reply::{Answer, Refusal, Reply, number, object, text},
    server::State,
    store::{self, Bound, Revocation, Revoked},
};

const LONGEST_REASON: usize = 256;
const LONGEST_BINDER: usize = 256;
const MOST_EVENTS: usize = 200;
const USUAL_EVENTS: usize = 50;
/// The largest ten-digit time: upstream turns times around with it, so that the newest key sorts first.
const LAST_TIME: u64 = 9_999_999_999;

/// The store's trouble, as it is answered.
pub(crate) fn unavailable(error: &store::Error) -> Refusal {
    tracing::error!(%error, "the store failed");
    let message = "the store failed; nothing was acknowledged";
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "STORE_UNAVAILABLE", message)
}

/// `GET /v1/did`
pub(crate) fn did(state: &State) -> Answer {
    let key = state.keys.scope().active.did();
    Ok(Reply::ok(&object([
        ("did", text(key.to_string())),
        ("kid", text(key.kid())),
        ("public_key_b64u", text(encoding::encode(key.public_key()))),
    ])))
}

/// `GET /v1/jwks`
pub(crate) fn jwks(state: &State) -> Answer {
    let keys = state.keys.scope();
    let one = |(key, _): (Did, Option<u64>)| {
        object([
            ("kty", text("OKP")),
            ("crv", text("Ed25519")),
            ("x", text(encoding::encode(key.public_key()))),
            ("kid", text(key.kid())),
            ("alg", text("EdDSA")),
            ("use", text("sig")),
            ("ext", Value::Bool(true)),
        ])
    };
    let body = object([("keys", Value::Array(keys.accepted(state.clock.seconds()).map(one).collect()))]);
    Ok(Reply::Json {
        status: StatusCode::OK,
        body: body.to_string().into(),
        cache: Some("public, max-age=300"),
        room: None,
    })
}

/// `GET /v1/keys/rotation-contract`
pub(crate) fn rotation(state: &State) -> Answer {
    let keys = state.keys.scope();
    let accepted: Vec<(Did, Option<u64>)> = keys.accepted(state.clock.seconds()).collect();
    let kids = |of: &[(Did, Option<u64>)]| Value::Array(of.iter().map(|(key, _)| text(key.kid())).collect());
    let leaving: Vec<Value> = accepted
        .iter()
        .filter_map(|(key, until)| Some(object([("kid", text(key.kid())), ("not_after_unix", number((*until)?))])))
        .collect();
    Ok(Reply::ok(&object([
        ("contract_version", text("2")),
        ("key_algorithm", text("Ed25519")),
        ("active_kid", text(keys.active.did().kid())),
        ("accepted_kids", kids(&accepted)),
        ("signing_kids", kids(&accepted[..1])),
        ("verify_only_kids", kids(&accepted[1..])),
        ("overlap_seconds", number(LONGEST_LIFE)),
        ("overlap_window_open", Value::Bool(accepted.len() > 1)),
        ("expiring_kids", Value::Array(leaving)),
        ("revocation_stream_endpoint", text("/v1/revocations/stream")),
        ("jwks_endpoint", text("/v1/jwks")),
    ])))
}

/// Claims that an issued token's answer repeats; the first four on the canonical lane only.
const REPEATED: [&str; 14] = [
    "owner_did",
    "controller_did",
    "agent_did",
    "control_plane_policy_hash_b64u",
    "policy_hash_b64u",
    "token_scope_hash_b64u",
    "payment_account_did",
    "mission_id",
    "delegation_id",
    "delegator_did",
    "delegate_did",
    "delegation_policy_hash_b64u",
    "delegation_spend_cap_minor",
    "delegation_expires_at",
];

/// `POST /v1/tokens/issue` and `/v1/tokens/issue/canonical`
pub(crate) async fn issue(state: &State, body: &Value, lane: Lane, who: &Who) -> Answer {
    let mut claims = issue::read(body, lane, state.clock.seconds())?;
    let failed = || Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "ISSUE_FAILED", "Failed to issue token");
    claims.jti = Some(state.ids.next().ok_or_else(failed)?);
    claims.nonce = Some(state.ids.next().ok_or_else(failed)?);
    claims.token_scope_hash_b64u = Some(claims.scope_hash().to_string());
    let keys = state.keys.scope();
    let token = Token::issue(claims.clone(), lane.name(), &keys.active);
    // What a host would refuse to read is not handed out.
    if let Err(error) = Token::parse(&token) {
        return Err(Refusal::bad("INVALID_REQUEST", format!("no host would take this token: {error}")));
    }
    let (hash, kid) = (TokenHash::of(&token), keys.active.did().kid());
    let record = claims.to_value(lane.name());
    state.store.issued(hash, claims.iat, claims.exp, record.to_string()).await.map_err(|error| unavailable(&error))?;
    tracing::info!(
        %who, token_hash = %hash, sub = ?claims.sub, lane = lane.name(), mission_id = ?claims.mission_id,
        policy_hash = ?claims.policy_hash_b64u, exp = claims.exp, "a token was issued"
    );
    Ok(Reply::ok(&issued(&token, hash, &claims, record, lane, &kid)))
}

fn issued(token: &str, hash: TokenHash, claims: &Claims, record: Value, lane: Lane, kid: &str) -> Value {
    let mut members: Vec<(Box<str>, Value)> = vec![
        ("token".into(), text(token)),
        ("token_hash".into(), text(hash.to_string())),
        ("token_lane".into(), text(lane.name())),
    ];
    if lane == Lane::Legacy {
        members.push(("legacy_exchange_mode".into(), text("enabled")));
        members.push(("migration_notice".into(), Value::Null));
    }
    let told = if lane == Lane::Canonical { &REPEATED[..] } else { &REPEATED[4..] };
    members.extend(told.iter().filter_map(|name| Some(((*name).into(), record.get(name)?.clone()))));
    members.extend([
        ("policy_version".into(), text("1")),
        ("policy_tier".into(), text("default")),
        ("kid".into(), text(kid)),
        ("iat".into(), number(claims.iat)),
        ("exp".into(), number(claims.exp)),
        ("claims".into(), record),
    ]);
    Value::Object(members)
}

fn iso(seconds: u64) -> String {
    Instant(seconds.saturating_mul(1_000_000_000)).format()
}

fn member<'a>(body: &'a Value, name: &str) -> Option<&'a str> {
    body.get(name).and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty())
}

fn event_key(revocation: &Revocation) -> String {
    format!("events:revocations:{:010}:{}", LAST_TIME.saturating_sub(revocation.at), revocation.hash)
}

/// `POST /v1/tokens/revoke`
pub(crate) async fn revoke(state: &State, body: &Value, who: &Who) -> Answer {
    let hash = match (member(body, "token"), member(body, "token_hash")) {
        // Another token than the one that was meant would be revoked, and the one that was meant would not.
        (Some(_), Some(_)) => return Err(Refusal::bad("INVALID_REQUEST", "token or token_hash is expected, not both")),
        (Some(token), None) => {
            Token::parse(token)
                .map_err(|error| Refusal::bad("INVALID_REQUEST", format!("token is no token: {error}")))?
                .hash
        }
        (None, Some(hash)) => hash
            .to_ascii_lowercase()
            .parse()
            .map_err(|_| Refusal::bad("INVALID_TOKEN_HASH", "token_hash must be a 64-character hex SHA-256"))?,
        (None, None) => return Err(Refusal::bad("INVALID_REQUEST", "token or token_hash is required")),
    };
    let reason = member(body, "reason").map(|reason| reason.chars().take(LONGEST_REASON).collect::<String>());
    let by = who.to_string();
    let Revoked { revocation, before } =
        state.store.revoke(hash, state.clock.seconds(), reason, by).await.map_err(|error| unavailable(&error))?;
    if !before {
        tracing::info!(%who, token_hash = %hash, reason = ?revocation.reason, "a token was revoked");
    }
    let mut members = vec![
        ("status", text(if before { "already_revoked" } else { "revoked" })),
        ("token_hash", text(hash.to_string())),
        ("revoked_at", number(revocation.at)),
        ("revoked_at_iso", text(iso(revocation.at))),
    ];
    if !before {
        members.push(("event_key", text(event_key(&revocation))));
    }
    Ok(Reply::ok(&Value::Object(members.into_iter().map(|(name, value)| (name.into(), value)).collect())))
}

/// What introspection tells of a token, in upstream's order.
const TOLD: [&str; 22] = [
    "sub",
    "aud",
    "scope",
    "owner_ref",
    "owner_did",
    "controller_did",
    "agent_did",
    "policy_hash_b64u",
    "control_plane_policy_hash_b64u",
    "token_scope_hash_b64u",
    "payment_account_did",
    "spend_cap",
    "mission_id",
    "delegation_id",
    "delegator_did",
    "delegate_did",
    "delegation_policy_hash_b64u",
    "delegation_spend_cap_minor",
    "delegation_expires_at",
    "token_lane",
    "iat",
    "exp",
];

/// `POST /v1/tokens/introspect`
pub(crate) fn introspect(state: &State, body: &Value) -> Answer {
    let token = member(body, "token").ok_or_else(|| Refusal::bad("INVALID_REQUEST", "token is required"))?;
    let Checked { token, claims, revoked } = access::check(state, token)?;
    let mut members: Vec<(Box<str>, Value)> = vec![("active".into(), Value::Bool(revoked.is_none()))];
    if revoked.is_some() {
        members.push(("revoked".into(), Value::Bool(true)));
    }
    members.push(("token_hash".into(), text(token.hash.to_string())));
    members.extend(TOLD.iter().filter_map(|name| Some(((*name).into(), claims.get(name)?.clone()))));
    members.push(("kid".into(), text(token.kid)));
    members.push(("kid_source".into(), text("header")));
    if let Some(revocation) = revoked {
        members.push(("revoked_at".into(), number(revocation.at)));
        members.push(("revoked_at_iso".into(), text(iso(revocation.at))));
    }
    Ok(Reply::ok(&Value::Object(members)))
}

/// `POST /v1/tokens/bind`: the first host that brings a token keeps it. The token is the proof.
pub(crate) async fn bind(state: &State, body: &Value) -> Answer {
    let token = member(body, "token").ok_or_else(|| Refusal::bad("INVALID_REQUEST", "token is required"))?;
    let binder = member(body, "binder")
        .filter(|binder| binder.len() <= LONGEST_BINDER && !binder.chars().any(char::is_control))
        .ok_or_else(|| {
            let message = format!("binder must be a string of 1 to {LONGEST_BINDER} bytes without control characters");
            Refusal::bad("INVALID_REQUEST", message)
        })?;
    let token = access::check(state, token)?.token;
    let bound = state
        .store
        .bind(token.hash, binder.to_owned(), state.clock.seconds(), token.claims.exp)
        .await
        .map_err(|error| unavailable(&error))?;
    match bound {
        Bound::Here { before } => {
            if !before {
                tracing::info!(who = ?token.claims.sub, token_hash = %token.hash, ?binder, "a token was bound");
            }
            Ok(Reply::ok(&object([
                ("bound", Value::Bool(true)),
                ("token_hash", text(token.hash.to_string())),
                ("binder", text(binder)),
            ])))
        }
        Bound::Elsewhere => {
            tracing::warn!(who = ?token.claims.sub, token_hash = %token.hash, ?binder, "a bound token was used again");
            let message = "Token is bound to another binder";
            Err(Refusal::new(StatusCode::CONFLICT, "TOKEN_REPLAYED", message))
        }
        Bound::Over => Err(access::expired()),
        Bound::Revoked => Err(Refusal::new(StatusCode::FORBIDDEN, "TOKEN_REVOKED", "Token is revoked")),
    }
}

/// A revocation as upstream lists it, with its place in the order of all.
pub(crate) fn event(revocation: &Revocation) -> Value {
    let mut record = vec![
        ("token_hash".into(), text(revocation.hash.to_string())),
        ("revoked_at".into(), number(revocation.at)),
        ("revoked_at_iso".into(), text(iso(revocation.at))),
    ];
    record.extend(revocation.reason.as_deref().map(|reason| ("reason".into(), text(reason))));
    record.push(("revoked_by".into(), text(revocation.by.as_str())));
    object([
        ("sequence", number(revocation.sequence)),
        ("key", text(event_key(revocation))),
        ("record", Value::Object(record)),
    ])
}

fn cursor(query: &[(String, String)]) -> Result<Option<u64>, Refusal> {
    let found = query.iter().find(|(name, _)| name == "cursor").map(|(_, value)| value.as_str());
    found.map(str::parse).transpose().map_err(|_| Refusal::bad("INVALID_REQUEST", "cursor must be one that was given"))
}

/// `GET /v1/revocations/events`: newest first; a cursor asks for what is older.
pub(crate) async fn events(state: &State, query: &[(String, String)], versioned: bool) -> Answer {
    let limit = query.iter().find(|(name, _)| name == "limit").and_then(|(_, value)| value.parse::<usize>().ok());
    let limit = limit.unwrap_or(USUAL_EVENTS).clamp(1, MOST_EVENTS);
    let before = cursor(query)?.unwrap_or(u64::MAX);
    let (found, more) = state.store.before(before, limit).await.map_err(|error| unavailable(&error))?;
    let next = found.last().filter(|_| more).map_or(Value::Null, |last| text(last.sequence.to_string()));
    let mut members: Vec<(Box<str>, Value)> = Vec::new();
    if versioned {
        members.push(("stream_version".into(), text("1")));
    }
    members.extend([
        ("events".into(), Value::Array(found.iter().map(event).collect())),
        ("cursor".into(), next),
        ("list_complete".into(), Value::Bool(!more)),
    ]);
    Ok(Reply::ok(&Value::Object(members)))
}

/// `GET /v1/revocations/stream`: upstream's page for who asks for JSON, else every revocation as it happens.
pub(crate) async fn stream(state: &Arc<State>, headers: &HeaderMap, query: &[(String, String)], who: Who) -> Answer {
    let accepts = |what: &str| {
        headers.get_all("accept").iter().any(|accept| accept.to_str().is_ok_and(|accept| accept.contains(what)))
    };
    if accepts("application/json") && !accepts("text/event-stream") {
        return events(state, query, true).await;
    }
    let resumed = headers.get("last-event-id").and_then(|id| id.to_str().ok()).map(str::trim);
    let after = match resumed {
        Some(id) => {
            let wrong = || Refusal::bad("INVALID_REQUEST", "Last-Event-ID must be one that was given");
            id.parse().map_err(|_| wrong())?
        }
        None => cursor(query)?.unwrap_or(0),
    };
    follow::start(state, after, who).map(Reply::Events)
}
