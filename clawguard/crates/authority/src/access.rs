//! Who may: the administrator by a bearer token, or the holder of a token that this server issued for the purpose.

use std::{fmt, sync::Arc};

use claw::{
    Value, encoding,
    json::{self, Limits},
    token::{self, Token, TokenHash},
};
use hyper::{HeaderMap, StatusCode, header::AUTHORIZATION};

use crate::{keys::Known, reply::Refusal, server::State, store::Revocation};

/// Who asks for something that not everybody may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Admin,
    /// The holder of a token.
    Holder {
        sub: String,
        hash: TokenHash,
        exp: u64,
    },
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admin => f.write_str("admin"),
            Self::Holder { sub, .. } => f.write_str(sub),
        }
    }
}

/// A token whose signature is right and whose time is now.
pub(crate) struct Checked {
    pub(crate) token: Token,
    /// The claims as they were signed, in their order.
    pub(crate) claims: Value,
    pub(crate) revoked: Option<Arc<Revocation>>,
}

/// Judges a token the way clawscope's introspection does, and in its order.
pub(crate) fn check(state: &State, text: &str) -> Result<Checked, Refusal> {
    let refused = |error: token::Error| {
        let message = match &error {
            token::Error::Algorithm(_) => "Unsupported token algorithm (expected EdDSA)".into(),
            token::Error::Version => "Unknown token_version".into(),
            token::Error::Signature(_) => "Token signature verification failed".into(),
            token::Error::UnknownKey(_) => "Unknown token kid".into(),
            token::Error::Claims { .. } => {
                format!("Token claims do not match scoped_token_claims.v1 schema: {error}")
            }
            other => other.to_string(),
        };
        Refusal::unauthorized(error.code(), message)
    };
    let now = state.clock.seconds();
    let read = Token::parse(text).map_err(refused)?;
    let revoked = state.store.live().find(read.hash);
    if now >= read.claims.exp || read.claims.exp <= state.store.live().pruned() {
        return Err(expired());
    }
    let keys = state.keys.scope();
    match keys.knows(&read.kid, now) {
        Known::Accepted => {}
        Known::Over => {
            let message = "Token kid is no longer within accepted overlap window";
            return Err(Refusal::unauthorized("TOKEN_KID_EXPIRED", message));
        }
        Known::Unknown => return Err(Refusal::unauthorized("TOKEN_UNKNOWN_KID", "Unknown token kid")),
    }
    let token = Token::verify(text, &keys.issuers(now)).map_err(refused)?;
    let claims = text
        .split('.')
        .nth(1)
        .and_then(encoding::decode_any)
        .and_then(|bytes| json::parse(&bytes, Limits { bytes: token::LONGEST, depth: 4 }).ok())
        .ok_or_else(|| Refusal::unauthorized("TOKEN_MALFORMED", "the token's payload cannot be read"))?;
    Ok(Checked { token, claims, revoked })
}

/// The answer for a token that is over, or of which it may be forgotten that it was revoked or bound.
pub(crate) fn expired() -> Refusal {
    Refusal::unauthorized("TOKEN_EXPIRED", "Token has expired")
}

/// What follows `Bearer`.
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let (first, second) = (values.next(), values.next());
    if second.is_some() {
        return Err(Refusal::unauthorized("TOKEN_MALFORMED", format!("the header {name} is there twice")));
    }
    first
        .map(|value| value.to_str().map(str::trim))
        .transpose()
        .map_err(|_| Refusal::unauthorized("TOKEN_MALFORMED", format!("the header {name} is no text")))
}

/// Only the administrator.
pub(crate) fn admin(state: &State, headers: &HeaderMap) -> Result<Who, Refusal> {
    let Some(value) = header(headers, AUTHORIZATION.as_str())? else {
        return Err(Refusal::unauthorized("UNAUTHORIZED", "Missing Authorization header"));
    };
    match bearer(value) {
        Some(token) if state.admin.is(token) => Ok(Who::Admin),
        _ => Err(Refusal::unauthorized("UNAUTHORIZED", "Invalid admin token")),
    }
}

/// The administrator, or the holder of a token with a scope. A token that is there decides, whoever else is named.
pub(crate) fn admin_or_holder(
    state: &State,
    headers: &HeaderMap,
    scope: &'static str,
    nobody: Refusal,
) -> Result<Who, Refusal> {
    let plain = |value: &'_ str| bearer(value).unwrap_or(value).to_owned();
    let (cst, scoped) = (header(headers, "x-cst")?.map(plain), header(headers, "x-scoped-token")?.map(plain));
    if let (Some(one), Some(other)) = (&cst, &scoped)
        && one != other
    {
        let message = "Conflicting CST headers: X-CST and X-Scoped-Token differ";
        return Err(Refusal::unauthorized("TOKEN_MALFORMED", message));
    }
    if let Some(token) = cst.or(scoped) {
        return holder(state, &token, scope);
    }
    match header(headers, AUTHORIZATION.as_str())?.map(bearer) {
        None => Err(nobody),
        Some(Some(token)) if token.split('.').count() == 3 => holder(state, token, scope),
        Some(_) => admin(state, headers),
    }
}

fn holder(state: &State, text: &str, scope: &'static str) -> Result<Who, Refusal> {
    let Checked { token, revoked, .. } = check(state, text)?;
    if revoked.is_some() {
        let message = "Token is revoked and cannot authorize protected operations";
        return Err(Refusal::unauthorized("TOKEN_REVOKED", message));
    }
    let claims = token.claims;
    if !claims.aud.iter().any(|aud| state.audiences.contains(aud)) {
        let message = format!("Token is not for this server; its audiences are {}", state.audiences.join(", "));
        return Err(Refusal::unauthorized("TOKEN_AUDIENCE_MISMATCH", message));
    }
    if !claims.scope.iter().any(|granted| granted == scope) {
        let message = format!("Token does not include required scope(s): {scope}");
        return Err(Refusal::new(StatusCode::FORBIDDEN, "TOKEN_INSUFFICIENT_SCOPE", message));
    }
    Ok(Who::Holder { sub: claims.sub, hash: token.hash, exp: claims.exp })
}
