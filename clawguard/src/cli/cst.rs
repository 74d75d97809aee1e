//! `clawguard cst`

use std::{
    fs,
    path::{Path, PathBuf},
};

use claw::{
    Hash,
    key::PrivateKey,
    time::Instant,
    token::{Claims, Demands, Issuers, LONGEST_LIFE, Token, TokenHash},
};
use control::{
    api::{ContractView, KeyView, PresentBody, RevokeAnswer, RevokeBody, TokenView},
    client::encode,
};
use hyper::Method;
use serde_json::{Value, json};

use super::{
    Context, Done, Failure,
    remote::{Remote, Which},
};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Issue a token for a job: by a registry, or with a key of one's own.
    Issue(Issue),
    /// Say what is in a token and whether it is good.
    Inspect {
        /// The token's file.
        file: PathBuf,
        /// Ask its issuer too.
        #[arg(long)]
        online: bool,
        #[command(flatten)]
        remote: Remote,
    },
    /// Revoke a token: at its registry, or on this host alone.
    Revoke {
        /// The token's file, or its SHA-256 in hexadecimal.
        token: String,
        /// Why; it is recorded.
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// On this host, whatever the registry says.
        #[arg(long, conflicts_with_all = ["authority", "admin_token"])]
        here: bool,
        #[command(flatten)]
        remote: Remote,
    },
    /// Give a job that runs its token: the first, or the next one.
    Present {
        /// The job.
        job: String,
        /// The token's file.
        file: PathBuf,
    },
    /// Make the key that this host will hold for a job's agent, and print its DID for the token to name.
    Key {
        /// The job, which need not have begun.
        job: String,
    },
}

#[derive(clap::Args)]
struct Issue {
    /// The job: the token's mission_id.
    #[arg(long, value_name = "ID")]
    job: String,
    /// The contract that the token pins: its hash or its file. Without it, the agent's contract in force.
    #[arg(long, value_name = "HASH|FILE")]
    wpc: Option<String>,
    /// The agent whose contract in force is pinned.
    #[arg(long, value_name = "NAME", default_value = "default")]
    agent: String,
    /// The agent's DID. Without it, this host mints a key for the job.
    #[arg(long, value_name = "DID")]
    agent_did: Option<String>,
    /// Whose agent it is.
    #[arg(long, value_name = "DID")]
    owner_did: Option<String>,
    /// Who controls it.
    #[arg(long, value_name = "DID")]
    controller_did: Option<String>,
    /// Seconds until it expires.
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=LONGEST_LIFE))]
    ttl: u64,
    /// For whom it is; may be given more than once.
    #[arg(long, value_name = "NAME", default_values_t = [String::from("clawguard"), String::from("clawproxy.com")])]
    aud: Vec<String>,
    /// What it permits; may be given more than once.
    #[arg(long, value_name = "SCOPE", default_values_t = [String::from("proxy:call"), String::from("clawproxy:call")])]
    scope: Vec<String>,
    /// Sign it with this key (JWK) instead of asking a registry.
    #[arg(long, value_name = "FILE", conflicts_with = "authority")]
    key: Option<PathBuf>,
    /// Where to write it (mode 0600) instead of printing it.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    remote: Remote,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> Done {
    match &arguments.verb {
        Verb::Issue(issue) => self::issue(context, issue),
        Verb::Inspect { file, online, remote } => inspect(context, file, online.then_some(remote)),
        Verb::Revoke { token, reason, here, remote } => revoke(context, token, reason, *here, remote),
        Verb::Present { job, file } => {
            let body = PresentBody { cst: read(file)? };
            let client = context.client();
            let path = format!("/v1/jobs/{}/cst", encode(job));
            let view: TokenView = context.wait(client.send(Method::PUT, &path, &body))?;
            context.print(&view, |view| {
                format!(
                    "the job {job} has the token {} until {}\n",
                    view.token_hash.as_deref().unwrap_or("-"),
                    view.expires_at.as_deref().unwrap_or("-")
                )
            })
        }
        Verb::Key { job } => {
            let view = minted(context, job)?;
            context.print(&view, |view| format!("{}\n", view.agent_did))
        }
    }
}

/// A token's text.
pub(crate) fn read(file: &Path) -> Result<String, Failure> {
    let text = fs::read_to_string(file).map_err(|error| Failure::Failed(format!("{}: {error}", file.display())))?;
    Ok(text.trim().to_owned())
}

fn minted(context: &Context, job: &str) -> Result<KeyView, Failure> {
    let client = context.client();
    context.wait(client.send(Method::POST, &format!("/v1/jobs/{}/key", encode(job)), &json!({})))
}

/// The hash of the contract that a token is to pin.
fn pin(context: &Context, issue: &Issue) -> Result<String, Failure> {
    let Some(contract) = &issue.wpc else {
        let client = context.client();
        let path = format!("/v1/agents/{}/wpc", encode(&issue.agent));
        let view: ContractView = context.wait(client.get(&path))?;
        return Ok(view.wpc_hash);
    };
    if contract.parse::<Hash>().is_ok() && !Path::new(contract).exists() {
        return Ok(contract.clone());
    }
    super::wpc::hash_of(Path::new(contract)).map(|hash| hash.to_string())
}

/// Sixteen bytes of chance, as a UUID of version 4 (RFC 9562).
fn uuid() -> Result<String, Failure> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).map_err(|error| Failure::Failed(error.to_string()))?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}

fn issue(context: &Context, issue: &Issue) -> Done {
    let pin = pin(context, issue)?;
    let agent_did = match &issue.agent_did {
        Some(did) => did.clone(),
        None => minted(context, &issue.job)?.agent_did,
    };
    let token = match &issue.key {
        Some(key) => signed_here(issue, &pin, &agent_did, key)?,
        None => issued_there(context, issue, &pin, &agent_did)?,
    };
    let parsed = Token::parse(&token).map_err(|error| Failure::Failed(error.to_string()))?;
    let said = (parsed.claims.mission_id.as_deref(), parsed.claims.policy_hash_b64u.as_deref());
    if said != (Some(issue.job.as_str()), Some(pin.as_str())) || parsed.claims.agent() != agent_did {
        let text = "the registry issued another token than the one that was asked for: another job, contract or agent";
        return Err(Failure::Failed(text.into()));
    }
    if let Some(out) = &issue.out {
        sys::file::replace(&std::path::absolute(out)?, format!("{token}\n").as_bytes(), 0o600)?;
    }
    // Written to a file, it is nobody else's to read.
    let shown = issue.out.is_none().then_some(&token);
    let value = json!({ "token": shown, "token_hash": parsed.hash.to_string(), "claims": claims(&parsed.claims),
        "kid": parsed.kid, "file": issue.out });
    context.print(&value, |_| match &issue.out {
        None => format!("{token}\n"),
        Some(out) => format!(
            "token {} for the job {} under {pin}, until {}\nwritten to {}\n",
            parsed.hash,
            issue.job,
            time(parsed.claims.exp),
            out.display()
        ),
    })
}

fn signed_here(issue: &Issue, pin: &str, agent_did: &str, key: &Path) -> Result<String, Failure> {
    let text = fs::read_to_string(key).map_err(|error| Failure::Failed(format!("{}: {error}", key.display())))?;
    let key = PrivateKey::from_jwk(&text).map_err(|error| Failure::Failed(format!("{}: {error}", key.display())))?;
    let now = sys::clock::wall_ns() / 1_000_000_000;
    let mut claims = Claims {
        sub: agent_did.to_owned(),
        aud: issue.aud.clone(),
        scope: issue.scope.clone(),
        iat: now,
        exp: now + issue.ttl,
        agent_did: Some(agent_did.to_owned()),
        policy_hash_b64u: Some(pin.to_owned()),
        mission_id: Some(issue.job.clone()),
        jti: Some(uuid()?),
        nonce: Some(uuid()?),
        ..Claims::default()
    };
    for (name, did) in [("owner_did", &issue.owner_did), ("controller_did", &issue.controller_did)] {
        if let Some(did) = did {
            claims.carry(name, did);
        }
    }
    Ok(Token::issue(claims, "legacy", &key))
}

fn issued_there(context: &Context, issue: &Issue, pin: &str, agent_did: &str) -> Result<String, Failure> {
    let mut body = json!({ "sub": agent_did, "agent_did": agent_did, "aud": issue.aud, "scope": issue.scope,
        "ttl_sec": issue.ttl, "policy_hash_b64u": pin, "mission_id": issue.job });
    if let Value::Object(members) = &mut body {
        for (name, did) in [("owner_did", &issue.owner_did), ("controller_did", &issue.controller_did)] {
            if let Some(did) = did {
                members.insert(name.into(), Value::String(did.clone()));
            }
        }
    }
    // The canonical lane needs the whole chain of control.
    let whole = issue.owner_did.is_some() && issue.controller_did.is_some();
    let path = if whole { "/v1/tokens/issue/canonical" } else { "/v1/tokens/issue" };
    let answer = issue.remote.ask(context, Which::Clawscope, "POST", path, Some(&body.to_string()))?;
    let value = answer.accept_only(&[200, 201])?;
    let token = value.get("token").and_then(Value::as_str);
    token.map(str::to_owned).ok_or_else(|| Failure::Failed("the registry's answer has no token".into()))
}

fn time(seconds: u64) -> String {
    Instant(seconds.saturating_mul(1_000_000_000)).format()
}

/// The claims as JSON for people: without the members that nobody set.
fn claims(claims: &Claims) -> Value {
    serde_json::from_str(&claims.to_value("legacy").to_string()).map_or(Value::Null, |mut value: Value| {
        if let Value::Object(members) = &mut value {
            members.remove("token_lane");
        }
        value
    })
}

/// What an issuer says of a token, if it is asked.
fn standing(context: &Context, text: &str, hash: &TokenHash, remote: &Remote) -> Result<(bool, Value), Failure> {
    let body = json!({ "token": text }).to_string();
    let answer = remote.ask(context, Which::Clawscope, "POST", "/v1/tokens/introspect", Some(&body))?;
    let value: Value = serde_json::from_str(&answer.body).unwrap_or(Value::Null);
    let active = answer.status == 200
        && value["active"] == true
        && value["revoked"] != true
        && value["token_hash"] == hash.to_string();
    let told = json!({ "status": answer.status, "active": value["active"], "revoked": value["revoked"],
        "token_hash": value["token_hash"], "error": value["error"] });
    Ok((active, told))
}

fn inspect(context: &Context, file: &Path, online: Option<&Remote>) -> Done {
    let text = read(file)?;
    let token = Token::parse(&text).map_err(|error| Failure::Failed(format!("{}: {error}", error.code())))?;
    let config = super::remote::config(context)?;
    let trusted = Issuers::new(config.trust.cst_issuers.iter().map(|did| did.0));
    let signature = Token::verify(&text, &trusted).err();
    let claims = &token.claims;
    // All that can be said without a job: it is judged for the one that it names, under the contract that it pins.
    let pinned = claims.policy_hash_b64u.as_ref().and_then(|pin| pin.parse().ok());
    let fit = claims
        .suit(&Demands {
            now: sys::clock::wall_ns() / 1_000_000_000,
            audiences: &config.trust.cst_audiences,
            scopes: &config.trust.cst_scopes,
            job: claims.mission_id.as_deref().unwrap_or_default(),
            contract: pinned.unwrap_or(Hash([0; 32])),
            longest_life: LONGEST_LIFE,
            require_scope_hash: false,
            require_pin: false,
        })
        .err();
    let standing = online.map(|remote| standing(context, &text, &token.hash, remote)).transpose()?;
    let good = signature.is_none() && fit.is_none() && standing.as_ref().is_none_or(|(active, _)| *active);
    let unchecked = "the contract in force, the job, whether another presented it, and whether this host revoked it";
    let value = json!({
        "good": good,
        "token_hash": token.hash.to_string(),
        "kid": token.kid,
        "signature": signature.as_ref().map_or("verified", |error| error.code()),
        "claims_fit": fit.as_ref().map_or("yes", |error| error.code()),
        "claims": self::claims(claims),
        "issuer": standing.as_ref().map(|(_, told)| told),
        "not_checked": unchecked,
    });
    context.print(&value, |_| {
        let mut lines = vec![
            format!("token {}", token.hash),
            match &signature {
                None => format!("signed by the key {}, which [trust] cst_issuers names", token.kid),
                Some(error) => format!("NOT VERIFIED: {error}"),
            },
            format!("for the job {}", claims.mission_id.as_deref().unwrap_or("(none)")),
            format!("under the contract {}", claims.policy_hash_b64u.as_deref().unwrap_or("(none pinned)")),
            format!("agent {}", claims.agent()),
            format!("audience {}; scope {}", claims.aud.join(" "), claims.scope.join(" ")),
            format!("issued {}, expires {}", time(claims.iat), time(claims.exp)),
        ];
        if let Some(error) = &fit {
            lines.push(format!("NOT GOOD HERE: {}: {error}", error.code()));
        }
        match (&standing, online) {
            (Some((true, _)), _) => lines.push("its issuer says that it is good".into()),
            (Some((false, told)), _) => lines.push(format!("ITS ISSUER SAYS: {told}")),
            (None, _) => lines.push("its issuer was not asked (--online)".into()),
        }
        lines.push(format!("not checked: {unchecked}"));
        lines.join("\n") + "\n"
    })?;
    if good { Ok(()) } else { Err(Failure::Status(1)) }
}

fn revoke(context: &Context, token: &str, reason: &str, here: bool, remote: &Remote) -> Done {
    let (text, hash) = match token.parse::<TokenHash>() {
        Ok(hash) if !Path::new(token).exists() => (None, hash),
        _ => {
            let text = read(Path::new(token))?;
            let hash = TokenHash::of(&text);
            (Some(text), hash)
        }
    };
    if here {
        let token_hash = text.is_none().then(|| hash.to_string());
        let body = RevokeBody { token: text, token_hash, reason: reason.into() };
        let client = context.client();
        let answer: RevokeAnswer = context.wait(client.send(Method::POST, "/v1/tokens/revoke", &body))?;
        return context.print(&answer, |answer| {
            let jobs = if answer.jobs_stopped.is_empty() { "none".into() } else { answer.jobs_stopped.join(" ") };
            format!(
                "revoked on this host: {}\njobs stopped: {jobs}\nlive connections ended: {}\n",
                answer.token_hash, answer.sockets_destroyed
            )
        });
    }
    if !remote.known(context, Which::Clawscope)? {
        let text =
            "no registry is known: give --authority URL, set [registry] clawscope, or say --here for this host alone";
        return Err(Failure::Usage(text.into()));
    }
    let body = match &text {
        Some(text) => json!({ "token": text, "reason": reason }),
        None => json!({ "token_hash": hash.to_string(), "reason": reason }),
    };
    let answer = remote.ask(context, Which::Clawscope, "POST", "/v1/tokens/revoke", Some(&body.to_string()))?;
    let value = answer.accept_only(&[200])?;
    context.print(&value, |_| {
        format!("revoked: {hash}\nhosts that follow the registry stop it now, others when they ask next\n")
    })
}
