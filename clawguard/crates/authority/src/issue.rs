//! What a token request asks for, checked the way clawscope does, but strict: a member that is not known, or is of another
//! kind, is an error rather than a token that says less than was asked for.

use claw::{
    Value,
    token::{CARRIED, Claims},
};

use crate::{LONGEST_LIFE, reply::Refusal};

const MOST_SCOPES: usize = 64;
const LONGEST_SCOPE: usize = 128;
const LONGEST_TEXT: usize = 256;
/// Seconds, where the request does not say.
const USUAL_LIFE: u64 = 600;
const PREFIXES: [&str; 5] = ["proxy:", "clawproxy:", "clawbounties:", "clawincome:", "control:"];
/// Seconds: whole in every double.
const LAST: f64 = 253_402_300_799.0;

/// The two ways in which tokens are issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    Legacy,
    Canonical,
}

impl Lane {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::Canonical => "canonical",
        }
    }
}

fn invalid(message: impl Into<String>) -> Refusal {
    Refusal::bad("INVALID_REQUEST", message)
}

/// The claims that a request asks for; without the ids.
pub(crate) fn read(body: &Value, lane: Lane, now: u64) -> Result<Claims, Refusal> {
    let Value::Object(members) = body else { return Err(invalid("Request body must be a JSON object")) };
    let mut claims = Claims { iat: now, ..Claims::default() };
    let (mut ttl, mut until) = (None, None);
    for (name, value) in members {
        match &**name {
            "sub" => claims.sub = string(name, value)?,
            "aud" => claims.aud = audiences(value)?,
            "scope" => claims.scope = scopes(value)?,
            "ttl_sec" => ttl = Some(amount(value, "INVALID_TTL", "ttl_sec must be a positive number")?),
            "exp" => until = Some(amount(value, "INVALID_EXP", "exp must be a positive number")?),
            "tier" | "token_lane" => named(name, value, lane)?,
            "spend_cap" => match value {
                Value::Number(cap) if *cap >= 0.0 => claims.spend_cap = Some(*cap),
                _ => return Err(invalid("spend_cap must be a number from 0")),
            },
            "mission_id" => claims.mission_id = Some(string(name, value)?),
            "agent_did" => claims.agent_did = Some(did(name, value)?),
            "policy_hash_b64u" => claims.policy_hash_b64u = Some(hash(name, value)?),
            "delegation_expires_at" => match value {
                Value::Number(at) if (0.0..=LAST).contains(at) => {
                    claims.delegation_expires_at = Some(at.floor() as u64);
                }
                _ => return Err(invalid("delegation_expires_at must be a time in seconds since 1970")),
            },
            other if CARRIED.contains(&other) => {
                let text = match other {
                    _ if other.ends_with("_did") => did(other, value)?,
                    _ if other.ends_with("_hash_b64u") => hash(other, value)?,
                    "delegation_spend_cap_minor" => digits(value)?,
                    _ => string(other, value)?,
                };
                claims.carry(other, &text);
            }
            other => {
                let name: String = other.chars().take(64).collect();
                return Err(invalid(format!("{name} is unknown: a token without it would not be what was asked for")));
            }
        }
    }
    for (name, missing) in [
        ("sub is required", claims.sub.is_empty()),
        ("aud is required", claims.aud.is_empty()),
        ("scope must be a non-empty array of strings", claims.scope.is_empty()),
    ] {
        if missing {
            return Err(invalid(name));
        }
    }
    if lane == Lane::Canonical && claims.agent_did.get_or_insert_with(|| claims.sub.clone()) != &claims.sub {
        let message = "agent_did must match sub for canonical lane";
        return Err(Refusal::bad("CANONICAL_AGENT_SUB_MISMATCH", message));
    }
    delegated(&claims, body, lane)?;
    claims.exp = until.unwrap_or_else(|| now.saturating_add(ttl.unwrap_or(USUAL_LIFE.min(LONGEST_LIFE))));
    match claims.exp.checked_sub(now) {
        None | Some(0) => Err(Refusal::bad("TTL_EXPIRED", "exp must be in the future")),
        Some(life) if life > LONGEST_LIFE => {
            Err(Refusal::bad("TTL_TOO_LONG", format!("ttl exceeds max ({LONGEST_LIFE}s)")))
        }
        Some(_) => Ok(claims),
    }
}

fn delegated(claims: &Claims, body: &Value, lane: Lane) -> Result<(), Refusal> {
    let given = |name: &str| body.get(name).and_then(Value::as_str).map(str::trim);
    if given("delegate_did").is_some_and(|delegate| delegate != claims.sub) {
        let message = "delegate_did must match sub for delegated tokens";
        return Err(Refusal::bad("DELEGATE_DID_SUB_MISMATCH", message));
    }
    if let (Some(delegator), Some(owner)) = (given("delegator_did"), given("owner_did"))
        && delegator != owner
    {
        let message = "delegator_did must match owner_did when both are set";
        return Err(Refusal::bad("DELEGATOR_OWNER_MISMATCH", message));
    }
    let names = ["delegator_did", "delegate_did"];
    let Value::Object(members) = body else { return Ok(()) };
    let any = members.iter().any(|(name, _)| name.starts_with("delegation_") || names.contains(&&**name));
    if any && lane != Lane::Canonical {
        let message = "delegation claims require the canonical lane";
        return Err(Refusal::bad("DELEGATION_CANONICAL_REQUIRED", message));
    }
    Ok(())
}

fn string(name: &str, value: &Value) -> Result<String, Refusal> {
    match value.as_str().map(str::trim) {
        // These are written into logs.
        Some(text)
            if !text.is_empty() && text.chars().count() <= LONGEST_TEXT && !text.chars().any(char::is_control) =>
        {
            Ok(text.to_owned())
        }
        _ => Err(invalid(format!("{name} must be a string of 1 to {LONGEST_TEXT} characters, none of them control"))),
    }
}

/// The tier and the lane, of which there is one for each route.
fn named(name: &str, value: &Value, lane: Lane) -> Result<(), Refusal> {
    match (name, value.as_str()) {
        ("tier", Some("default")) => Ok(()),
        ("token_lane", Some(text)) if text == lane.name() => Ok(()),
        ("tier", _) => Err(invalid("tier must be \"default\": there is no other")),
        _ => Err(Refusal::bad("TOKEN_LANE_INVALID", format!("token_lane must be \"{}\" on this route", lane.name()))),
    }
}

fn audiences(value: &Value) -> Result<Vec<String>, Refusal> {
    let wrong = || invalid(format!("aud must be a string or an array of at most {MOST_SCOPES} strings"));
    match value {
        Value::String(_) => Ok(vec![string("aud", value)?]),
        Value::Array(items) if items.len() <= MOST_SCOPES => items.iter().map(|item| string("aud", item)).collect(),
        _ => Err(wrong()),
    }
}

fn scopes(value: &Value) -> Result<Vec<String>, Refusal> {
    let Value::Array(items) = value else { return Err(invalid("scope must be a non-empty array of strings")) };
    if items.len() > MOST_SCOPES {
        return Err(Refusal::bad("SCOPE_TOO_LARGE", format!("scope must have <= {MOST_SCOPES} items")));
    }
    let mut scopes = Vec::with_capacity(items.len());
    for item in items {
        let Some(text) = item.as_str() else { return Err(invalid("scope must be a non-empty array of strings")) };
        let text = text.trim();
        if text.is_empty() || text.len() > LONGEST_SCOPE {
            let message = format!("scope entries must be 1 to {LONGEST_SCOPE} chars");
            return Err(Refusal::bad("SCOPE_ITEM_TOO_LONG", message));
        }
        if text.contains('*') {
            return Err(Refusal::bad("SCOPE_WILDCARD_NOT_ALLOWED", "wildcard scopes are not allowed by policy"));
        }
        if !PREFIXES.iter().any(|prefix| text.starts_with(prefix)) {
            return Err(Refusal::bad("SCOPE_NOT_ALLOWED", format!("scope '{text}' is not allowed for tier 'default'")));
        }
        scopes.push(text.to_owned());
    }
    Ok(scopes)
}

fn amount(value: &Value, code: &'static str, message: &str) -> Result<u64, Refusal> {
    match value {
        Value::Number(n) if *n > 0.0 && *n <= LAST => Ok(n.floor() as u64),
        _ => Err(Refusal::bad(code, message)),
    }
}

/// The error code that clawscope has for a member of the wrong form.
fn code_of(name: &str) -> &'static str {
    match name {
        "owner_did" => "OWNER_DID_INVALID",
        "controller_did" => "CONTROLLER_DID_INVALID",
        "agent_did" => "AGENT_DID_INVALID",
        "delegator_did" => "DELEGATOR_DID_INVALID",
        "delegate_did" => "DELEGATE_DID_INVALID",
        "payment_account_did" => "PAYMENT_ACCOUNT_CLAIM_INVALID",
        "policy_hash_b64u" => "POLICY_HASH_INVALID",
        "control_plane_policy_hash_b64u" => "CONTROL_POLICY_HASH_INVALID",
        "delegation_policy_hash_b64u" => "DELEGATION_POLICY_HASH_INVALID",
        _ => "INVALID_REQUEST",
    }
}

fn did(name: &str, value: &Value) -> Result<String, Refusal> {
    let in_method = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let in_id = |byte: u8| byte.is_ascii_alphanumeric() || b"._%-".contains(&byte);
    let fits = |text: &str| {
        text.len() <= LONGEST_TEXT
            && text.strip_prefix("did:").and_then(|rest| rest.split_once(':')).is_some_and(|(method, id)| {
                !method.is_empty() && method.bytes().all(in_method) && !id.is_empty() && id.bytes().all(in_id)
            })
    };
    match value.as_str().map(str::trim) {
        Some(text) if fits(text) => Ok(text.to_owned()),
        _ => Err(Refusal::bad(code_of(name), format!("{name} must be a valid DID string"))),
    }
}

fn hash(name: &str, value: &Value) -> Result<String, Refusal> {
    let in_hash = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let fits = |text: &str| match name {
        // The pin is compared with contracts' hashes: a text that is none could never be met.
        "policy_hash_b64u" => text.parse::<claw::Hash>().is_ok(),
        _ => text.len() == 43 && text.bytes().all(in_hash),
    };
    match value.as_str().map(str::trim) {
        Some(text) if fits(text) => Ok(text.to_owned()),
        _ => {
            let message = format!("{name} must be a SHA-256 base64url hash (length 43)");
            Err(Refusal::bad(code_of(name), message))
        }
    }
}

fn digits(value: &Value) -> Result<String, Refusal> {
    match value.as_str().map(str::trim) {
        Some(text) if (1..=30).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit()) => {
            Ok(text.to_owned())
        }
        _ => {
            let message = "delegation_spend_cap_minor must be an integer string";
            Err(Refusal::bad("DELEGATION_SPEND_CAP_INVALID", message))
        }
    }
}
