//! `clawguard wpc`

use std::{
    fs,
    path::{Path, PathBuf},
};

use claw::{
    Hash, Value,
    envelope::{Envelope, Kind},
    json,
    key::{Did, PrivateKey},
    time::Instant,
};
use control::{
    api::{ContractView, UseBody},
    client::encode,
};
use daemon::config::Config;
use hyper::Method;
use policy::{Contract, HostFacts, compile, diff};
use serde_json::{json, value::RawValue};

use super::{
    Context, Done, Failure,
    remote::{Remote, Which},
    shown::{cut, lines},
    stdio,
    table::table,
};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Print a contract to begin with, or the narrowest that would have allowed what an agent in observe mode did.
    New {
        /// Its policy_id: `my-agent`, or that of the contract in force for the agent.
        #[arg(long, value_name = "ID")]
        policy_id: Option<String>,
        /// What this agent was seen to do: its contract with that added. What is left out is told, with why.
        #[arg(long, value_name = "AGENT")]
        from_observed: Option<String>,
        /// Where to write the payload instead of printing it.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Print a payload's hash.
    Hash {
        /// A payload, or an envelope.
        file: PathBuf,
    },
    /// Sign a payload and print the envelope.
    Sign {
        /// The payload.
        file: PathBuf,
        /// The private key (JWK), as `clawguard keygen` writes it.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// Where to write the envelope instead of printing it.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Verify an envelope: shape, hash, signature.
    Verify {
        /// The envelope.
        file: PathBuf,
        /// Who must have signed it.
        #[arg(long, value_name = "DID")]
        signer: Option<Did>,
    },
    /// Show what is in an envelope.
    Show {
        /// The envelope.
        file: PathBuf,
    },
    /// Say what changes from one contract to another, by what they allow.
    Diff {
        /// The envelope that is in force, or its payload; or the hash of a contract that this host keeps, whoever was under it.
        #[arg(required_unless_present = "job")]
        old: Option<String>,
        /// The one that is to follow, likewise.
        #[arg(required_unless_present = "job")]
        new: Option<String>,
        /// Instead: what changed for this job while it ran, contract by contract.
        #[arg(long, value_name = "ID", conflicts_with_all = ["old", "new"])]
        job: Option<String>,
    },
    /// Say what would become of every line of a contract on this host.
    Check {
        /// The envelope, or its payload.
        file: PathBuf,
        /// The host's configuration, if it is not this instance's.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Fetch a contract from the registry, verified, by its hash.
    Fetch {
        /// Its hash.
        hash: Hash,
        /// Where to write the envelope instead of printing it.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Who must have signed it. Without it, one of [trust] wpc_signers, where the configuration can be read.
        #[arg(long, value_name = "DID")]
        signer: Option<Did>,
        #[command(flatten)]
        remote: Remote,
    },
    /// Give a contract to the registry: an envelope as it is, or a payload for the registry to sign.
    Publish {
        /// The envelope, or its payload.
        file: PathBuf,
        #[command(flatten)]
        remote: Remote,
    },
    /// Put a contract in force for an agent.
    Use {
        /// The envelope's file, or the hash of a contract that the daemon has.
        contract: String,
        /// The agent.
        #[arg(long, value_name = "NAME", default_value = "default")]
        agent: String,
        /// Accept a lower sequence than one accepted before.
        #[arg(long, requires = "reason")]
        allow_rollback: bool,
        /// Why; it is recorded.
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
    },
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> Done {
    match &arguments.verb {
        Verb::New { policy_id, from_observed: Some(agent), out } => {
            super::observed::new(context, agent, policy_id.clone(), out.as_deref())
        }
        Verb::New { policy_id, from_observed: None, out } => {
            new(policy_id.as_deref().unwrap_or("my-agent"), out.as_deref())
        }
        Verb::Hash { file } => {
            let (_, payload) = payload(file)?;
            let hash = payload.canonical_hash().to_string();
            context.print(&json!({ "wpc_hash": hash }), |_| format!("{hash}\n"))
        }
        Verb::Sign { file, key, out } => sign(context, file, key, out.as_deref()),
        Verb::Verify { file, signer } => verify(context, file, *signer),
        Verb::Show { file } => show(context, file),
        Verb::Diff { job: Some(job), .. } => differences_of(context, job),
        Verb::Diff { old, new, .. } => differences(context, old.as_deref(), new.as_deref()),
        Verb::Check { file, config } => check(context, file, config.as_deref()),
        Verb::Fetch { hash, out, signer, remote } => fetch(context, *hash, out.as_deref(), *signer, remote),
        Verb::Publish { file, remote } => publish(context, file, remote),
        Verb::Use { contract, agent, allow_rollback, reason } => {
            put_in_force(context, contract, agent, *allow_rollback, reason)
        }
    }
}

fn bytes(file: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(file).map_err(|error| Failure::Failed(format!("{}: {error}", file.display())))
}

fn of(file: &Path) -> impl Fn(&dyn std::fmt::Display) -> Failure + '_ {
    move |error| Failure::Failed(format!("{}: {error}", file.display()))
}

/// The payload of an envelope or of a bare payload's file. The envelope, where it is one, is verified.
fn payload(file: &Path) -> Result<(Option<Envelope>, Value), Failure> {
    payload_of(&bytes(file)?).map_err(|error| of(file)(&error))
}

fn payload_of(text: &[u8]) -> anyhow::Result<(Option<Envelope>, Value)> {
    let limits = json::Limits { bytes: 128 << 20, depth: 32 };
    let value = json::parse(text, limits)?;
    if value.get("envelope_version").is_none() {
        return Ok((None, value));
    }
    let envelope = Envelope::open(text, Kind::WorkPolicyContract)?;
    let payload = envelope.payload.clone();
    Ok((Some(envelope), payload))
}

/// When a contract that is begun today ends, unless somebody writes otherwise.
pub(crate) fn in_a_month() -> Instant {
    Instant(sys::clock::wall_ns().saturating_add(30 * 86_400 * 1_000_000_000))
}

/// The issuer of a payload that nobody has claimed yet.
pub(crate) const NOBODY: &str = "did:key:REPLACE-WITH-YOURS";

fn new(policy_id: &str, out: Option<&Path>) -> Done {
    let not_after = in_a_month().format();
    let template = json!({
        "policy_version": "1",
        "policy_id": policy_id,
        "issuer_did": NOBODY,
        "metadata": { "clawguard.v1": {
            "sequence": 1,
            "not_after": not_after,
            "egress": [
                { "host": "docs.example", "class": "read", "groups": ["docs"] },
                { "host": "api.telegram.org", "groups": ["channel"] },
                { "cidr": "10.1.2.0/24", "ports": [5432], "groups": ["db"] },
            ],
            "tools": {
                "allow": ["crm-mcp/search_customer", "crm-mcp/get_*"],
                "approve": ["crm-mcp/update_case"],
                "deny": ["*/http_request"],
            },
            "mcp": { "resources": ["crm-mcp/case://*"], "prompts": ["crm-mcp/summary"] },
            "groups": [{ "name": "docs", "risk": "low" }, { "name": "crm", "tools": ["crm-mcp/*"] }],
        }}
    });
    let text = format!("{}\n", serde_json::to_string_pretty(&template).unwrap_or_default());
    match out {
        None => stdio::say(&text).map(drop),
        Some(out) => fs::write(out, text).map_err(|error| of(out)(&error)),
    }
}

fn sign(context: &Context, file: &Path, key: &Path, out: Option<&Path>) -> Done {
    let (envelope, payload) = payload(file)?;
    if envelope.is_some() {
        return Err(Failure::Usage(format!("{} is an envelope already; sign its payload", file.display())));
    }
    // What the daemon would refuse to read is not signed.
    Contract::read(&payload).map_err(|error| of(file)(&error))?;
    let text = bytes(key)?;
    let key = PrivateKey::from_jwk(&String::from_utf8_lossy(&text)).map_err(|error| of(key)(&error))?;
    let hash = payload.canonical_hash();
    let sealed = Envelope::seal(payload, Kind::WorkPolicyContract, &key, Instant(sys::clock::wall_ns()));
    match out {
        None => stdio::say(&sealed).map(drop),
        Some(out) => {
            fs::write(out, sealed).map_err(|error| of(out)(&error))?;
            let value = json!({ "wpc_hash": hash.to_string(), "signer": key.did().to_string(), "file": out });
            context.print(&value, |_| format!("{hash} signed by {}\nwritten to {}\n", key.did(), out.display()))
        }
    }
}

fn verify(context: &Context, file: &Path, signer: Option<Did>) -> Done {
    let envelope = Envelope::open(&bytes(file)?, Kind::WorkPolicyContract).map_err(|error| of(file)(&error))?;
    if let Some(expected) = signer
        && expected != envelope.signer
    {
        return Err(Failure::Failed(format!("{}: signed by {}, not by {expected}", file.display(), envelope.signer)));
    }
    let value = json!({
        "verified": true,
        "wpc_hash": envelope.hash.to_string(),
        "signer": envelope.signer.to_string(),
        "issued_at": envelope.issued_at.format(),
    });
    context.print(&value, |_| {
        format!(
            "verified: {}\nsigned by {}{}\nissued at {} (not covered by the signature)\n",
            envelope.hash,
            envelope.signer,
            if signer.is_some() { "" } else { " (whether you trust that key is for you to say)" },
            envelope.issued_at.format()
        )
    })
}

fn show(context: &Context, file: &Path) -> Done {
    let (envelope, payload) = payload(file)?;
    let text = payload.to_string();
    let value: serde_json::Value = serde_json::from_str(&text).map_err(|error| of(file)(&error))?;
    if context.json {
        return context.print(&value, |_| String::new());
    }
    let mut text = String::new();
    if let Some(envelope) = envelope {
        let (signer, at) = (envelope.signer, envelope.issued_at.format());
        text = format!("contract {}\nsigned by {signer} at {at}\n\n", envelope.hash);
    }
    text += &serde_json::to_string_pretty(&value).unwrap_or_default();
    stdio::say(&(lines(&text) + "\n")).map(drop)
}

/// A contract by file, or by the hash of one that this host keeps.
fn kept(context: &Context, named: Option<&str>) -> Result<Vec<u8>, Failure> {
    let named = named.unwrap_or_default();
    let path = match named.parse::<Hash>() {
        Ok(hash) if !Path::new(named).exists() => {
            let name = format!("{hash}.json");
            let places = [context.paths.contracts(), context.paths.offered_contracts()];
            let found = places.iter().map(|place| place.join(&name)).find(|path| path.exists());
            found.ok_or_else(|| Failure::Failed(format!("no contract {hash} is kept on this host")))?
        }
        _ => PathBuf::from(named),
    };
    bytes(&path)
}

/// What changes from one contract to another, by what they allow.
pub(crate) fn changes(old: &[u8], new: &[u8]) -> Result<serde_json::Value, Failure> {
    let read = |text: &[u8]| -> Result<(Hash, Contract), Failure> {
        let payload = payload_of(text).map_err(|error| Failure::Failed(error.to_string()))?.1;
        let contract = Contract::read(&payload).map_err(|error| Failure::Failed(error.to_string()))?;
        Ok((payload.canonical_hash(), contract))
    };
    let ((from, old), (to, new)) = (read(old)?, read(new)?);
    Ok(json!({ "from": from.to_string(), "to": to.to_string(), "changes": diff(&old, &new) }))
}

fn differences(context: &Context, old: Option<&str>, new: Option<&str>) -> Done {
    let value = changes(&kept(context, old)?, &kept(context, new)?)?;
    context.print(&value, changes_text)
}

/// What changed for a job, from each of its contracts to the next.
fn differences_of(context: &Context, job: &str) -> Done {
    let (_, files) = super::export::fetch(context, job)?;
    let contracts: Vec<&[u8]> =
        files.iter().filter(|file| file.name.starts_with("wpc")).map(|file| file.text.as_bytes()).collect();
    let steps = contracts.windows(2).map(|pair| match pair {
        [old, new] => changes(old, new),
        _ => Ok(serde_json::Value::Null),
    });
    let steps: Vec<serde_json::Value> = steps.collect::<Result<_, _>>()?;
    context.print(&steps, |steps| match steps.is_empty() {
        true => format!("The job {job} was under one contract alone.\n"),
        false => steps.iter().map(changes_text).collect::<Vec<_>>().join("\n"),
    })
}

fn changes_text(value: &serde_json::Value) -> String {
    let text = |value: &serde_json::Value, name: &str| {
        value.get(name).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
    };
    let changes = value.get("changes").and_then(serde_json::Value::as_array).cloned().unwrap_or_default();
    let rows: Vec<Vec<String>> =
        changes.iter().map(|change| ["kind", "path", "text"].map(|name| text(change, name)).into()).collect();
    let rows = match rows.is_empty() {
        true => "They say the same.\n".into(),
        false => table(&["KIND", "FIELD", "WHAT"], &rows),
    };
    format!("from {}\nto   {}\n\n{rows}", text(value, "from"), text(value, "to"))
}

fn check(context: &Context, file: &Path, config: Option<&Path>) -> Done {
    let (envelope, payload) = payload(file)?;
    let path = config.map_or_else(|| context.paths.config(), Path::to_owned);
    let config = Config::read(&path).map_err(|error| Failure::Failed(error.to_string()))?;
    let facts: HostFacts = config.facts();
    let refused = |error: &dyn std::fmt::Display| Failure::Refused(format!("{}: {error}", file.display()));
    let contract = Contract::read(&payload).map_err(|error| refused(&error))?;
    let hash = payload.canonical_hash();
    let (policy, findings) = compile::check(&contract, hash, &facts).map_err(|error| refused(&error))?;
    let trusted = envelope.as_ref().map(|envelope| config.trust.wpc_signers.iter().any(|did| did.0 == envelope.signer));
    let groups: Vec<String> = policy.kernel_groups.iter().map(ToString::to_string).collect();
    let value = json!({
        "wpc_hash": hash.to_string(),
        "signed": envelope.is_some(),
        "signer_trusted": trusted,
        "rules": policy.rules.len(),
        "groups": groups,
        "findings": findings,
    });
    context.print(&value, |_| {
        let rows: Vec<Vec<String>> = findings
            .iter()
            .map(|finding| vec![finding.outcome.label().into(), cut(&finding.path), finding.note.clone()])
            .collect();
        let signed = signed(envelope.as_ref().map(|envelope| envelope.signer), trusted == Some(true));
        format!(
            "contract {hash}\n{signed}\n\n{}\n{} rules in the kernel; groups: {}\n",
            table(&["OUTCOME", "FIELD", "HOW"], &rows),
            policy.rules.len(),
            groups.join(" ")
        )
    })?;
    // An envelope that the daemon would refuse is no success. A payload is looked at before it is signed: that it would not
    // be taken as it is has been said above, and is no failure.
    let now = Instant(sys::clock::wall_ns());
    let why = match (trusted, policy.not_before, policy.not_after) {
        (Some(false), _, _) => "its signer is not trusted here",
        (_, Some(from), _) if from > now => "it is not in force yet",
        (_, _, Some(to)) if to <= now => "it has expired",
        _ => return Ok(()),
    };
    Err(refused(&format!("it would be refused: {why}")))
}

/// By whom a contract is signed, and whether it would be taken for that.
fn signed(signer: Option<Did>, trusted: bool) -> String {
    match signer {
        None => "NOT signed: as it is it would be refused; `clawguard wpc sign` makes the envelope".into(),
        Some(signer) if trusted => format!("signed by {signer}, who is trusted here"),
        Some(signer) => format!("signed by {signer}, who is NOT trusted here: it would be refused"),
    }
}

/// The hash of an envelope's payload, or of a bare payload.
pub(crate) fn hash_of(file: &Path) -> Result<Hash, Failure> {
    payload(file).map(|(_, payload)| payload.canonical_hash())
}

fn fetch(context: &Context, hash: Hash, out: Option<&Path>, signer: Option<Did>, remote: &Remote) -> Done {
    let answer = remote.ask(context, Which::Clawcontrols, "GET", &format!("/v1/wpc/{hash}"), None)?;
    answer.accept_only(&[200])?;
    let wrapped = json::parse(answer.body.as_bytes(), json::Limits { bytes: 128 << 20, depth: 34 })
        .map_err(|error| Failure::Failed(format!("the registry's answer: {error}")))?;
    let text = wrapped.get("envelope").map(ToString::to_string).unwrap_or_default();
    let envelope = Envelope::open(text.as_bytes(), Kind::WorkPolicyContract)
        .map_err(|error| Failure::Failed(format!("the registry's answer: {error}")))?;
    if envelope.hash != hash {
        return Err(Failure::Failed(format!("the registry gave {} for {hash}", envelope.hash)));
    }
    let trusted = match signer {
        Some(signer) => Some(signer == envelope.signer),
        None => {
            let config = super::remote::config(context)?;
            let signers = config.trust.wpc_signers;
            (!signers.is_empty()).then(|| signers.iter().any(|did| did.0 == envelope.signer))
        }
    };
    if trusted == Some(false) {
        return Err(Failure::Refused(format!("{hash} is signed by {}, who is not trusted", envelope.signer)));
    }
    let Some(out) = out else {
        return stdio::say(&format!("{text}\n")).map(drop);
    };
    fs::write(out, format!("{text}\n")).map_err(|error| of(out)(&error))?;
    let value = json!({ "wpc_hash": hash.to_string(), "signer": envelope.signer.to_string(), "file": out });
    context.print(&value, |_| {
        let whether = if trusted.is_none() { " (whether you trust that key is for you to say)" } else { "" };
        format!("{hash}\nsigned by {}{whether}\nwritten to {}\n", envelope.signer, out.display())
    })
}

fn publish(context: &Context, file: &Path, remote: &Remote) -> Done {
    let (envelope, value) = payload(file)?;
    Contract::read(&value).map_err(|error| of(file)(&error))?;
    let hash = value.canonical_hash();
    let (method, path, body) = match envelope {
        Some(_) => ("PUT", format!("/v1/wpc/{hash}"), String::from_utf8_lossy(&bytes(file)?).into_owned()),
        None => ("POST", "/v1/wpc".into(), format!("{{\"wpc\":{value}}}")),
    };
    let answer = remote.ask(context, Which::Clawcontrols, method, &path, Some(&body))?;
    let told = answer.accept_only(&[200, 201])?;
    if told.get("policy_hash_b64u").and_then(serde_json::Value::as_str) != Some(hash.to_string().as_str()) {
        return Err(Failure::Failed(format!("the registry answers for another contract than {hash}")));
    }
    context.print(&told, |told| {
        let before = told.get("existed") == Some(&serde_json::Value::Bool(true));
        format!("{hash}\n{}\n", if before { "was there before" } else { "is there now" })
    })
}

/// A contract by file or by hash, as a request's body has it.
pub(crate) fn named(contract: &str) -> Result<(Option<Box<RawValue>>, Option<String>), Failure> {
    if contract.parse::<Hash>().is_ok() && !Path::new(contract).exists() {
        return Ok((None, Some(contract.to_owned())));
    }
    let file = Path::new(contract);
    let text = bytes(file)?;
    let raw = serde_json::from_slice::<Box<RawValue>>(&text).map_err(|error| of(file)(&error))?;
    Ok((Some(raw), None))
}

fn put_in_force(context: &Context, contract: &str, agent: &str, allow_rollback: bool, reason: &str) -> Done {
    let (envelope, wpc_hash) = named(contract)?;
    let body = UseBody { envelope, wpc_hash, allow_rollback, reason: reason.into() };
    let client = context.client();
    let path = format!("/v1/agents/{}/wpc", encode(agent));
    let view: ContractView = context.wait(client.send(Method::PUT, &path, &body))?;
    context.print(&view, |view| {
        format!(
            "in force for {agent}: {} ({}, sequence {}, {} rules{})\nbefore: {}\nlive connections it does not allow, ended: {}\n",
            view.wpc_hash,
            view.policy_id,
            view.sequence,
            view.entries,
            view.expires_at.as_ref().map_or_else(String::new, |at| format!(", expires {at}")),
            view.previous.as_deref().unwrap_or("none"),
            view.sockets_destroyed,
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_says_that_what_is_not_signed_would_not_be_taken() {
        assert!(signed(None, false).starts_with("NOT signed: as it is it would be refused"));
    }
}
