//! The job token (CST, scoped token): a compact JWS that binds a job to a contract.
//!
//! Three steps, each of which can refuse: the header (one algorithm, a known key), the signature over exactly the bytes that
//! came, and only then the claims. Whether a token suits a job is a further question, which [`Claims::suit`] answers.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use crate::{
    encoding::{self, Hash},
    json::{self, Limits, Value},
    key::{Did, PrivateKey, Verifier},
};

/// The longest token that is looked at, in bytes.
pub const LONGEST: usize = 16 << 10;
/// Keys of a set: those in use, and those that they replace.
const MOST_KEYS: usize = 16;
/// Seconds by which an issuer's clock may run ahead of this host's. Expiry has no such allowance.
const AHEAD: u64 = 60;
/// Seconds between issue and expiry where the contract sets no limit: the most that clawscope issues.
pub const LONGEST_LIFE: u64 = 3600;
/// Seconds: later than any clock, and whole in every double.
const LAST: f64 = 253_402_300_799.0;

/// Why a token is refused. [`Error::code`] names the cause for programs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a compact JWS.
    #[error("the token is no compact JWS: {0}")]
    Malformed(String),
    /// Signed in another way, or not at all.
    #[error("the token's alg is \"{0}\"; only EdDSA is accepted")]
    Algorithm(String),
    /// Signed by a key that nobody named.
    #[error("the token's key {0} is none of the issuers' keys")]
    UnknownKey(String),
    /// Not signed by the key that it names.
    #[error("the token's signature is not that of its key {0}")]
    Signature(String),
    /// Another version of the claims.
    #[error("the token's token_version is not \"1\"")]
    Version,
    /// Claims that are missing, unknown or of the wrong kind.
    #[error("the token's claim {claim} {why}")]
    Claims {
        /// Which.
        claim: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Over.
    #[error("the token expired at {exp} (epoch seconds), and it is {now}")]
    Expired {
        /// Its `exp`.
        exp: u64,
        /// The time by which it was judged.
        now: u64,
    },
    /// Not yet.
    #[error("the token is from the future: issued at {iat} (epoch seconds), and it is {now}")]
    Future {
        /// Its `iat`.
        iat: u64,
        /// The time by which it was judged.
        now: u64,
    },
    /// For somebody else.
    #[error("the token is for {0}, which is not this host ([trust] cst_audiences)")]
    Audience(String),
    /// Without the right to run an agent.
    #[error("the token's scope has none of {0} ([trust] cst_scopes)")]
    Scope(String),
    /// Its scope hash is missing though the contract demands one.
    #[error("the token has no token_scope_hash_b64u, which the contract demands")]
    NoScopeHash,
    /// Its scope hash is that of other claims.
    #[error("the token's token_scope_hash_b64u is not the hash of its claims, {computed}")]
    ScopeHash {
        /// What the claims give.
        computed: Hash,
    },
    /// Not pinned to a contract though the contract demands it.
    #[error("the token pins no contract (policy_hash_b64u), which the contract demands")]
    Unpinned,
    /// Pinned to another contract.
    #[error("the token pins the contract {pinned}, and {in_force} is in force")]
    Pin {
        /// What the token says.
        pinned: String,
        /// What is in force.
        in_force: Hash,
    },
    /// For another job, or for none.
    #[error("the token is for {mission}, not for the job {job} (mission_id)")]
    Mission {
        /// What the token says.
        mission: String,
        /// The job.
        job: String,
    },
    /// Longer than the contract allows.
    #[error("the token lives {seconds} s from issue to expiry; {limit} s are allowed")]
    Life {
        /// What the token says.
        seconds: u64,
        /// What is allowed.
        limit: u64,
    },
    /// The delegation behind it is over.
    #[error("the delegation behind the token expired at {0} (epoch seconds)")]
    Delegation(u64),
}

impl Error {
    /// The cause, for programs; clawscope's names where it has one.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "TOKEN_MALFORMED",
            Self::Algorithm(_) => "TOKEN_UNSUPPORTED_ALG",
            Self::UnknownKey(_) => "TOKEN_UNKNOWN_KID",
            Self::Signature(_) => "TOKEN_SIGNATURE_INVALID",
            Self::Version => "TOKEN_UNKNOWN_VERSION",
            Self::Claims { .. } => "TOKEN_INVALID_CLAIMS",
            Self::Expired { .. } => "TOKEN_EXPIRED",
            Self::Future { .. } => "TOKEN_NOT_YET_VALID",
            Self::Audience(_) => "TOKEN_AUDIENCE_MISMATCH",
            Self::Scope(_) => "TOKEN_INSUFFICIENT_SCOPE",
            Self::NoScopeHash => "TOKEN_SCOPE_HASH_MISSING",
            Self::ScopeHash { .. } => "TOKEN_SCOPE_HASH_MISMATCH",
            Self::Unpinned => "TOKEN_UNPINNED",
            Self::Pin { .. } => "POLICY_HASH_MISMATCH",
            Self::Mission { .. } => "TOKEN_MISSION_MISMATCH",
            Self::Life { .. } => "TOKEN_TTL_EXCEEDED",
            Self::Delegation(_) => "TOKEN_DELEGATION_EXPIRED",
        }
    }
}

/// SHA-256 of a whole compact token, by which it is revoked; written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenHash(pub [u8; 32]);

impl TokenHash {
    /// The hash of a token's text.
    #[must_use]
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }
}

impl std::fmt::Display for TokenHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TokenHash({self})")
    }
}

/// A text that is no token's hash.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no token hash: 64 lower-case hexadecimal digits are expected")]
pub struct NotATokenHash;

impl std::str::FromStr for TokenHash {
    type Err = NotATokenHash;

    fn from_str(text: &str) -> Result<Self, NotATokenHash> {
        let digit = |byte: &u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let mut bytes = [0; 32];
        if text.len() != 64 {
            return Err(NotATokenHash);
        }
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let [Some(high), Some(low)] = [digit(&pair[0]), digit(&pair[1])] else { return Err(NotATokenHash) };
            *byte = high << 4 | low;
        }
        Ok(Self(bytes))
    }
}

/// What a token says. Members as in `scoped_token_claims.v1.json`; times are seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Claims {
    /// The agent's DID.
    pub sub: String,
    /// For whom it is.
    pub aud: Vec<String>,
    /// What it permits.
    pub scope: Vec<String>,
    /// Issued at.
    pub iat: u64,
    /// Not valid from this on.
    pub exp: u64,
    /// The agent's DID, on the canonical lane.
    pub agent_did: Option<String>,
    /// The contract's hash: the pin.
    pub policy_hash_b64u: Option<String>,
    /// The hash of all that it permits.
    pub token_scope_hash_b64u: Option<String>,
    /// Most that may be spent.
    pub spend_cap: Option<f64>,
    /// The job.
    pub mission_id: Option<String>,
    /// When the delegation behind it ends.
    pub delegation_expires_at: Option<u64>,
    /// The token's own id.
    pub jti: Option<String>,
    /// A number used once.
    pub nonce: Option<String>,
    /// The members that are only carried, in [`CARRIED`]'s order.
    pub carried: [Option<String>; CARRIED.len()],
}

/// Members of which nothing is decided here; most of them belong to the scope hash.
pub const CARRIED: [&str; 10] = [
    "owner_ref",
    "owner_did",
    "controller_did",
    "control_plane_policy_hash_b64u",
    "payment_account_did",
    "delegation_id",
    "delegator_did",
    "delegate_did",
    "delegation_policy_hash_b64u",
    "delegation_spend_cap_minor",
];

/// The lane on which a token was issued: not part of what it permits.
const LANES: [&str; 2] = ["legacy", "canonical"];

/// The form of a carried or decided string claim.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    Did,
    Hash,
    Digits,
}

fn form(claim: &str) -> Form {
    match claim {
        "owner_did" | "controller_did" | "agent_did" | "payment_account_did" | "delegator_did" | "delegate_did" => {
            Form::Did
        }
        _ if claim.ends_with("_hash_b64u") => Form::Hash,
        "delegation_spend_cap_minor" => Form::Digits,
        _ => Form::Text,
    }
}

impl Form {
    /// As the schema's patterns have it.
    fn fits(self, text: &str) -> bool {
        let in_hash = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        match self {
            Self::Text => true,
            Self::Hash => text.len() == 43 && text.bytes().all(in_hash),
            Self::Digits => !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()),
            Self::Did => {
                let Some((method, id)) = text.strip_prefix("did:").and_then(|rest| rest.split_once(':')) else {
                    return false;
                };
                let in_id = |byte: u8| byte.is_ascii_alphanumeric() || b"._%-".contains(&byte);
                let in_method = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
                !method.is_empty() && method.bytes().all(in_method) && !id.is_empty() && id.bytes().all(in_id)
            }
        }
    }
}

fn wrong(claim: &str, why: &'static str) -> Error {
    Error::Claims { claim: claim.chars().take(64).collect(), why }
}

fn text_of(claim: &str, value: &Value) -> Result<String, Error> {
    match value {
        Value::String(text) if form(claim).fits(text) => Ok(text.to_string()),
        Value::String(_) => Err(wrong(claim, "does not have its form")),
        _ => Err(wrong(claim, "is no string")),
    }
}

fn seconds_of(claim: &str, value: &Value) -> Result<u64, Error> {
    match value {
        Value::Number(n) if n.fract() == 0.0 && (0.0..=LAST).contains(n) => Ok(*n as u64),
        _ => Err(wrong(claim, "is no time in whole seconds since 1970")),
    }
}

fn texts_of(claim: &str, value: &Value) -> Result<Vec<String>, Error> {
    let Value::Array(items) = value else { return Err(wrong(claim, "is no list of strings")) };
    items
        .iter()
        .map(|item| item.as_str().map(str::to_owned).ok_or_else(|| wrong(claim, "is no list of strings")))
        .collect()
}

impl Claims {
    fn read(value: &Value) -> Result<Self, Error> {
        let Value::Object(members) = value else { return Err(wrong("(all)", "is no object")) };
        if value.get("token_version").and_then(Value::as_str) != Some("1") {
            return Err(Error::Version);
        }
        let mut claims = Self::default();
        for (name, value) in members {
            match &**name {
                "token_version" => {}
                "sub" => claims.sub = text_of(name, value)?,
                "aud" => {
                    claims.aud = match value {
                        Value::String(one) => vec![one.to_string()],
                        other => texts_of(name, other)?,
                    }
                }
                "scope" => claims.scope = texts_of(name, value)?,
                "iat" => claims.iat = seconds_of(name, value)?,
                "exp" => claims.exp = seconds_of(name, value)?,
                "agent_did" => claims.agent_did = Some(text_of(name, value)?),
                "policy_hash_b64u" => claims.policy_hash_b64u = Some(text_of(name, value)?),
                "token_scope_hash_b64u" => claims.token_scope_hash_b64u = Some(text_of(name, value)?),
                "mission_id" => claims.mission_id = Some(text_of(name, value)?),
                "jti" => claims.jti = Some(text_of(name, value)?),
                "nonce" => claims.nonce = Some(text_of(name, value)?),
                "delegation_expires_at" => claims.delegation_expires_at = Some(seconds_of(name, value)?),
                "spend_cap" => match value {
                    Value::Number(n) if *n >= 0.0 => claims.spend_cap = Some(*n),
                    _ => return Err(wrong(name, "is no amount")),
                },
                "token_lane" => {
                    if !value.as_str().is_some_and(|lane| LANES.contains(&lane)) {
                        return Err(wrong(name, "is neither legacy nor canonical"));
                    }
                }
                other => match CARRIED.iter().position(|carried| *carried == other) {
                    Some(at) => claims.carried[at] = Some(text_of(other, value)?),
                    None => return Err(wrong(other, "is unknown: what is not understood cannot be held to")),
                },
            }
        }
        for (claim, there) in [
            ("sub", value.get("sub").is_some()),
            ("aud", !claims.aud.is_empty()),
            ("scope", !claims.scope.is_empty()),
            ("iat", value.get("iat").is_some()),
            ("exp", value.get("exp").is_some()),
        ] {
            if !there {
                return Err(wrong(claim, "is missing"));
            }
        }
        if claims.exp <= claims.iat {
            return Err(wrong("exp", "is not after iat"));
        }
        Ok(claims)
    }

    fn carried(&self, claim: &str) -> Option<&str> {
        CARRIED.iter().position(|carried| *carried == claim).and_then(|at| self.carried[at].as_deref())
    }

    /// Sets a member that is only carried; answers whether there is one of that name.
    pub fn carry(&mut self, claim: &str, text: &str) -> bool {
        let at = CARRIED.iter().position(|carried| *carried == claim);
        if let Some(at) = at {
            self.carried[at] = Some(text.to_owned());
        }
        at.is_some()
    }

    /// The hash of everything that the token permits: what stays the same when it is issued anew.
    #[must_use]
    pub fn scope_hash(&self) -> Hash {
        let list = |texts: &[String]| {
            let mut sorted: Vec<String> = texts.iter().map(|text| text.trim_matches(is_space).to_owned()).collect();
            sorted.sort_by(|a, b| a.encode_utf16().cmp(b.encode_utf16()));
            sorted.dedup();
            Value::Array(sorted.into_iter().map(|text| Value::String(text.into())).collect())
        };
        let mut members: Vec<(Box<str>, Value)> = vec![
            ("token_version".into(), Value::String("1".into())),
            ("sub".into(), Value::String(self.sub.as_str().into())),
            ("aud".into(), list(&self.aud)),
            ("scope".into(), list(&self.scope)),
        ];
        members.extend(self.bound());
        Value::Object(members).canonical_hash()
    }

    /// The optional members that belong to the scope hash, as far as they are there.
    fn bound(&self) -> Vec<(Box<str>, Value)> {
        let text = |name: &str, text: Option<&str>| text.map(|text| (name.into(), Value::String(text.into())));
        let mut members: Vec<(Box<str>, Value)> =
            CARRIED.iter().filter_map(|name| text(name, self.carried(name))).collect();
        members.extend(text("agent_did", self.agent_did.as_deref()));
        members.extend(text("policy_hash_b64u", self.policy_hash_b64u.as_deref()));
        members.extend(text("mission_id", self.mission_id.as_deref()));
        members.extend(self.spend_cap.map(|cap| ("spend_cap".into(), Value::Number(cap))));
        let until = self.delegation_expires_at.map(|at| Value::Number(at as f64));
        members.extend(until.map(|at| ("delegation_expires_at".into(), at)));
        members
    }

    /// The claims as clawscope writes them.
    #[must_use]
    pub fn to_value(&self, lane: &str) -> Value {
        let mut members: Vec<(Box<str>, Value)> = Vec::new();
        let mut put = |name: &str, value: Option<Value>| members.extend(value.map(|value| (name.into(), value)));
        let text = |text: Option<&str>| text.map(|text| Value::String(text.into()));
        let list =
            |texts: &[String]| Value::Array(texts.iter().map(|text| Value::String(text.as_str().into())).collect());
        put("token_version", text(Some("1")));
        put("sub", text(Some(&self.sub)));
        put("aud", Some(list(&self.aud)));
        put("scope", Some(list(&self.scope)));
        put("iat", Some(Value::Number(self.iat as f64)));
        put("exp", Some(Value::Number(self.exp as f64)));
        for name in ["owner_ref", "owner_did", "controller_did"] {
            put(name, text(self.carried(name)));
        }
        put("agent_did", text(self.agent_did.as_deref()));
        put("policy_hash_b64u", text(self.policy_hash_b64u.as_deref()));
        put("control_plane_policy_hash_b64u", text(self.carried("control_plane_policy_hash_b64u")));
        put("token_scope_hash_b64u", text(self.token_scope_hash_b64u.as_deref()));
        put("payment_account_did", text(self.carried("payment_account_did")));
        put("spend_cap", self.spend_cap.map(Value::Number));
        put("mission_id", text(self.mission_id.as_deref()));
        for name in &CARRIED[5..] {
            put(name, text(self.carried(name)));
        }
        put("delegation_expires_at", self.delegation_expires_at.map(|at| Value::Number(at as f64)));
        put("token_lane", text(Some(lane)));
        put("jti", text(self.jti.as_deref()));
        put("nonce", text(self.nonce.as_deref()));
        Value::Object(members)
    }

    /// Whose key speaks for the agent: `agent_did` where it is there, else `sub`.
    #[must_use]
    pub fn agent(&self) -> &str {
        self.agent_did.as_deref().unwrap_or(&self.sub)
    }

    /// Whether a verified token suits a job.
    ///
    /// # Errors
    ///
    /// The first reason why not; see [`Error`].
    pub fn suit(&self, demands: &Demands<'_>) -> Result<(), Error> {
        let now = demands.now;
        if now >= self.exp {
            return Err(Error::Expired { exp: self.exp, now });
        }
        if self.iat > now.saturating_add(AHEAD) {
            return Err(Error::Future { iat: self.iat, now });
        }
        if let Some(until) = self.delegation_expires_at.filter(|until| now >= *until) {
            return Err(Error::Delegation(until));
        }
        if !self.aud.iter().any(|aud| demands.audiences.iter().any(|known| known == aud)) {
            return Err(Error::Audience(self.aud.join(", ").chars().take(200).collect()));
        }
        let permits = |wanted: &String| self.scope.iter().any(|scope| scope_permits(scope, wanted));
        if !demands.scopes.iter().any(permits) {
            return Err(Error::Scope(demands.scopes.join(", ")));
        }
        let computed = self.scope_hash();
        match &self.token_scope_hash_b64u {
            Some(stated) if *stated != computed.to_string() => return Err(Error::ScopeHash { computed }),
            None if demands.require_scope_hash => return Err(Error::NoScopeHash),
            _ => {}
        }
        let job = || demands.job.to_owned();
        match &self.mission_id {
            Some(mission) if mission == demands.job => {}
            Some(mission) => {
                let mission = format!("the job {}", mission.chars().take(128).collect::<String>());
                return Err(Error::Mission { mission, job: job() });
            }
            None => return Err(Error::Mission { mission: "no job".into(), job: job() }),
        }
        match &self.policy_hash_b64u {
            Some(pinned) if *pinned != demands.contract.to_string() => {
                return Err(Error::Pin { pinned: pinned.clone(), in_force: demands.contract });
            }
            None if demands.require_pin => return Err(Error::Unpinned),
            _ => {}
        }
        let (seconds, limit) = (self.exp - self.iat, demands.longest_life);
        if seconds > limit { Err(Error::Life { seconds, limit }) } else { Ok(()) }
    }
}

/// What ECMAScript's `trim` takes away (ECMA-262, WhiteSpace and LineTerminator).
fn is_space(char: char) -> bool {
    (char.is_whitespace() && char != '\u{85}') || char == '\u{feff}'
}

/// Whether a scope permits what is wanted: the same words, or a `*` after a colon (`proxy:*` permits `proxy:call`), or all.
fn scope_permits(scope: &str, wanted: &str) -> bool {
    match scope.strip_suffix('*') {
        Some(before) => (before.is_empty() || before.ends_with(':')) && wanted.starts_with(before),
        None => scope == wanted,
    }
}

/// What a job asks of its token.
#[derive(Clone, Debug)]
pub struct Demands<'a> {
    /// Now, in seconds since 1970: never earlier than what was seen before.
    pub now: u64,
    /// The names under which this host takes tokens.
    pub audiences: &'a [String],
    /// Scopes of which one is enough.
    pub scopes: &'a [String],
    /// The job's id.
    pub job: &'a str,
    /// The contract in force for the job.
    pub contract: Hash,
    /// Seconds from issue to expiry.
    pub longest_life: u64,
    /// Whether a token without a scope hash is refused.
    pub require_scope_hash: bool,
    /// Whether a token without a pin is refused.
    pub require_pin: bool,
}

/// The issuers' keys, by key id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Issuers(BTreeMap<String, (Did, Verifier)>);

impl Issuers {
    /// From public keys.
    pub fn new(keys: impl IntoIterator<Item = Did>) -> Self {
        Self(keys.into_iter().filter_map(|key| Some((key.kid(), (key, key.verifier()?)))).collect())
    }

    /// Every key.
    pub fn keys(&self) -> impl Iterator<Item = &Did> {
        self.0.values().map(|(key, _)| key)
    }

    /// Whether one of them has this id.
    #[must_use]
    pub fn has(&self, kid: &str) -> bool {
        self.0.contains_key(kid)
    }
}

/// A token, read.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// The key that it names.
    pub kid: String,
    /// What it says.
    pub claims: Claims,
    /// The name under which it is revoked.
    pub hash: TokenHash,
}

fn malformed(why: impl Into<String>) -> Error {
    Error::Malformed(why.into())
}

/// The three parts of a compact JWS.
struct Parts<'a> {
    kid: String,
    /// What is signed.
    signed: &'a str,
    claims: &'a str,
    signature: [u8; 64],
}

fn split(text: &str) -> Result<Parts<'_>, Error> {
    if text.len() > LONGEST {
        return Err(malformed(format!("it has {} bytes, and {LONGEST} are accepted", text.len())));
    }
    let mut parts = text.split('.');
    let (Some(header), Some(claims), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(malformed("it has not three parts"));
    };
    let header_value = part(header, "header")?;
    let Value::Object(members) = &header_value else { return Err(malformed("its header is no object")) };
    let member = |name| header_value.get(name).and_then(Value::as_str);
    match member("alg") {
        Some("EdDSA") => {}
        other => return Err(Error::Algorithm(other.unwrap_or("missing").chars().take(32).collect())),
    }
    // A header that brings a key, a place to find one, or something critical is asking for more than it gets.
    if let Some((name, _)) = members.iter().find(|(name, _)| !["alg", "typ", "kid"].contains(&&**name)) {
        return Err(malformed(format!("its header has \"{}\"", name.chars().take(32).collect::<String>())));
    }
    if header_value.get("typ").is_some() && member("typ") != Some("JWT") {
        return Err(malformed("its header's typ is not JWT"));
    }
    let kid = member("kid").ok_or_else(|| malformed("its header has no kid"))?.chars().take(64).collect();
    let signature = encoding::decode::<64>(signature).ok_or_else(|| malformed("its signature is not 64 bytes"))?;
    let signed = &text[..header.len() + 1 + claims.len()];
    Ok(Parts { kid, signed, claims, signature })
}

fn part(text: &str, what: &str) -> Result<Value, Error> {
    let bytes = encoding::decode_any(text).ok_or_else(|| malformed(format!("its {what} is no base64url")))?;
    json::parse(&bytes, Limits { bytes: LONGEST, depth: 4 })
        .map_err(|error| malformed(format!("its {what} is no JSON that is accepted: {error}")))
}

impl Token {
    /// Reads a token and verifies its signature.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub fn verify(text: &str, issuers: &Issuers) -> Result<Self, Error> {
        let parts = split(text)?;
        let (_, key) = issuers.0.get(&parts.kid).ok_or_else(|| Error::UnknownKey(parts.kid.clone()))?;
        if !key.verifies(parts.signed.as_bytes(), &parts.signature) {
            return Err(Error::Signature(parts.kid));
        }
        Self::of(text, parts)
    }

    /// Reads a token without verifying it: for looking at it, never for relying on it.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub fn parse(text: &str) -> Result<Self, Error> {
        split(text).and_then(|parts| Self::of(text, parts))
    }

    fn of(text: &str, parts: Parts<'_>) -> Result<Self, Error> {
        let claims = Claims::read(&part(parts.claims, "payload")?)?;
        Ok(Self { kid: parts.kid, claims, hash: TokenHash::of(text) })
    }

    /// Issues a token: the claims, with their scope hash, signed.
    #[must_use]
    pub fn issue(mut claims: Claims, lane: &str, key: &PrivateKey) -> String {
        claims.token_scope_hash_b64u = Some(claims.scope_hash().to_string());
        let header = format!("{{\"alg\":\"EdDSA\",\"typ\":\"JWT\",\"kid\":\"{}\"}}", key.did().kid());
        let payload = claims.to_value(lane).to_string();
        let signed = format!("{}.{}", encoding::encode(header.as_bytes()), encoding::encode(payload.as_bytes()));
        let signature = encoding::encode(&key.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }
}

/// Reads a JSON Web Key Set: its Ed25519 keys. Others are left out; a kid that is not its key's is an error.
///
/// # Errors
///
/// [`Error::Malformed`].
pub fn read_jwks(text: &[u8]) -> Result<Vec<Did>, Error> {
    let value = json::parse(text, Limits { bytes: 64 << 10, depth: 6 })
        .map_err(|error| malformed(format!("the key set is no JSON that is accepted: {error}")))?;
    let Some(Value::Array(keys)) = value.get("keys") else { return Err(malformed("the key set has no keys")) };
    let mut found = BTreeSet::new();
    for key in keys {
        let member = |name| key.get(name).and_then(Value::as_str);
        if (member("kty"), member("crv")) != (Some("OKP"), Some("Ed25519")) {
            continue;
        }
        let did = member("x").and_then(encoding::decode::<32>).and_then(Did::from_public_key);
        let did = did.ok_or_else(|| malformed("a key of the key set is no Ed25519 key"))?;
        if member("kid").is_some_and(|kid| kid != did.kid()) {
            return Err(malformed("a key of the key set has another key's kid"));
        }
        found.insert(did);
    }
    if found.len() > MOST_KEYS {
        return Err(malformed(format!("the key set has {} keys, and {MOST_KEYS} are accepted", found.len())));
    }
    Ok(found.into_iter().collect())
}
