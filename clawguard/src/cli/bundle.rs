//! `clawguard bundle`

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use claw::{key::Did, time::Instant};
use daemon::{config::Config, host_did};
use evidence::verify::{Broken, Code, Coverage, Options, Trust, Verdict, Whole, verify_all};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Context, Done, Failure};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Write a job's proof bundles and what is needed to verify them: manifest, summary, contracts, this host's public keys.
    Export(super::export::Arguments),
    /// Verify proof bundles offline, and grade what they claim; says the first bad place.
    ///
    /// Exit status: 0 all of them are valid; 1 one of them is not; 2 wrong usage.
    Verify(VerifyArguments),
}

#[derive(clap::Args)]
struct VerifyArguments {
    /// Bundles, or a directory with a job's: bundle-1.json and so on, and what lies beside them. All parts of a job have to
    /// be there.
    #[arg(required = true, value_name = "FILE|DIR")]
    paths: Vec<PathBuf>,
    /// A gateway that may have signed receipts of model calls.
    #[arg(long, value_name = "DID")]
    receipt_signer: Vec<Did>,
    /// A host whose sentinel may have signed what it saw.
    #[arg(long, value_name = "DID")]
    sentinel: Vec<Did>,
    /// Who may have signed contracts.
    #[arg(long, value_name = "DID")]
    wpc_signer: Vec<Did>,
    /// Who may have attested the agent.
    #[arg(long, value_name = "DID")]
    attester: Vec<Did>,
    /// All of these in a file: {"receipt_signers": […], "sentinels": […], "wpc_signers": […], "attesters": […]}. Where nobody is
    /// named at all, this host's [trust] and its own keys count, as far as they can be read.
    #[arg(long, value_name = "FILE")]
    trust: Option<PathBuf>,
    /// The envelope of a contract that the job ran under.
    #[arg(long, value_name = "FILE")]
    contract: Vec<PathBuf>,
    /// The manifest that the bundles refer to. Without it: bundle-urm.json beside them, or NAME-urm.json beside NAME-bundle.json.
    #[arg(long, value_name = "FILE")]
    urm: Option<PathBuf>,
    /// The job's own summary, to which the manifest points.
    #[arg(long, value_name = "FILE")]
    trust_pulse: Option<PathBuf>,
    /// Refuse a bundle without a coverage attestation or an egress policy receipt.
    #[arg(long)]
    require_host_evidence: bool,
    /// Tell of coverage attestations that do not hold, and refuse nothing for it.
    #[arg(long)]
    observe: bool,
}

/// What `--trust` names. `host`, whose chain the job lies in, is taken and not needed.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TrustFile {
    receipt_signers: Vec<String>,
    sentinels: Vec<String>,
    wpc_signers: Vec<String>,
    attesters: Vec<String>,
    #[serde(rename = "host")]
    _host: Option<String>,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> Done {
    match &arguments.verb {
        Verb::Export(arguments) => super::export::run(context, arguments),
        Verb::Verify(arguments) => verify(context, arguments),
    }
}

fn verify(context: &Context, arguments: &VerifyArguments) -> Done {
    let trust = trust(context, arguments)?;
    let (mut files, mut contracts) = (Vec::new(), arguments.contract.clone());
    for path in &arguments.paths {
        if path.is_dir() {
            files.extend(numbered(path, "bundle")?);
            contracts.extend(numbered(path, "wpc")?);
        } else {
            files.push(path.clone());
        }
    }
    if files.is_empty() {
        return Err(Failure::Failed("there is no bundle-N.json in that directory".into()));
    }
    // A shell puts bundle-10.json before bundle-2.json.
    if files.iter().all(|file| place(file).is_some()) {
        files.sort_by_key(|file| place(file));
    }
    let texts = files.iter().map(|file| read(file)).collect::<Result<Vec<_>, _>>()?;
    let bundles: Vec<&[u8]> = texts.iter().map(Vec::as_slice).collect();
    let contracts = contracts.iter().map(|file| read(file)).collect::<Result<Vec<_>, _>>()?;
    let given = |file: &Option<PathBuf>| file.as_deref().map(read).transpose();
    let (mut urm, mut pulse) = (given(&arguments.urm)?, given(&arguments.trust_pulse)?);
    let judge = |urm: &Option<Vec<u8>>, pulse: &Option<Vec<u8>>| {
        let options = Options {
            coverage: if arguments.observe { Coverage::Observe } else { Coverage::Enforce },
            require_host_evidence: arguments.require_host_evidence,
            contracts: contracts.iter().map(Vec::as_slice).collect(),
            urm: urm.as_deref(),
            trust_pulse: pulse.as_deref(),
            ..Options::at(now())
        };
        verify_all(&bundles, &trust, &options)
    };
    let mut whole = judge(&urm, &pulse);
    if whole.broken.as_ref().is_some_and(|broken| broken.fault.code == Code::UrmMissing)
        && let Some(beside) = files.first().and_then(|file| manifest_beside(file))
    {
        urm = Some(read(&beside)?);
        let summary = beside.with_file_name("trust-pulse.json");
        if pulse.is_none() && summary.is_file() {
            pulse = Some(read(&summary)?);
        }
        whole = judge(&urm, &pulse);
    }
    context.print(&told(&files, &whole), |_| shown(&files, &whole))?;
    if whole.broken.is_some() { Err(Failure::Status(1)) } else { Ok(()) }
}

fn now() -> Instant {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Instant(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// A file, unless it is longer than any bundle.
fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    const MOST: u64 = 64 << 20;
    let failed = |error: std::io::Error| Failure::Failed(format!("{}: {error}", path.display()));
    let mut text = Vec::new();
    File::open(path).map_err(failed)?.take(MOST + 1).read_to_end(&mut text).map_err(failed)?;
    Ok(text)
}

/// What `NAME-7.json` is, and which of them.
fn place(file: &Path) -> Option<(PathBuf, String, u64)> {
    let (name, number) = file.file_name()?.to_str()?.strip_suffix(".json")?.rsplit_once('-')?;
    Some((file.parent()?.to_owned(), name.to_owned(), number.parse().ok()?))
}

/// `NAME.json`, or `NAME-1.json` and on in the order of their numbers.
fn numbered(directory: &Path, name: &str) -> Result<Vec<PathBuf>, Failure> {
    let entries =
        fs::read_dir(directory).map_err(|error| Failure::Failed(format!("{}: {error}", directory.display())))?;
    let number = |path: &Path| {
        let rest = path.file_name()?.to_str()?.strip_prefix(name)?.strip_suffix(".json")?;
        if rest.is_empty() { Some(0) } else { rest.strip_prefix('-')?.parse::<u64>().ok() }
    };
    let mut found: Vec<(u64, PathBuf)> =
        entries.flatten().filter_map(|entry| Some((number(&entry.path())?, entry.path()))).collect();
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

fn manifest_beside(bundle: &Path) -> Option<PathBuf> {
    let name = bundle.file_name()?.to_str()?;
    let own = name.strip_suffix("-bundle.json").map(|name| format!("{name}-urm.json"));
    let names = own.into_iter().chain(["bundle-urm.json".to_owned()]);
    names.map(|name| bundle.with_file_name(name)).find(|file| file.is_file())
}

fn trust(context: &Context, arguments: &VerifyArguments) -> Result<Trust, Failure> {
    let mut trust = Trust {
        receipt_signers: arguments.receipt_signer.clone(),
        sentinels: arguments.sentinel.clone(),
        wpc_signers: arguments.wpc_signer.clone(),
        attesters: arguments.attester.clone(),
    };
    if let Some(path) = &arguments.trust {
        named(path, &mut trust)?;
        return Ok(trust);
    }
    let named = [&trust.receipt_signers, &trust.sentinels, &trust.wpc_signers, &trust.attesters];
    if named.iter().any(|names| !names.is_empty()) {
        return Ok(trust);
    }
    if let Ok(config) = Config::read(&context.paths.config()) {
        trust.receipt_signers = config.trust.receipt_signers.iter().map(|did| did.0).collect();
        trust.wpc_signers = config.trust.wpc_signers.iter().map(|did| did.0).collect();
    }
    trust.receipt_signers.extend(host_did(&context.paths.receipt_key()));
    trust.sentinels.extend(host_did(&context.paths.sentinel_key()));
    Ok(trust)
}

/// Adds whom a file names to those who are trusted.
pub(super) fn named(path: &Path, trust: &mut Trust) -> Done {
    let wrong = |error: String| Failure::Usage(format!("--trust {}: {error}", path.display()));
    let text = fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let file: TrustFile = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
    for (names, into) in [
        (file.receipt_signers, &mut trust.receipt_signers),
        (file.sentinels, &mut trust.sentinels),
        (file.wpc_signers, &mut trust.wpc_signers),
        (file.attesters, &mut trust.attesters),
    ] {
        for name in names {
            into.push(name.parse().map_err(|error: claw::key::NotADid| wrong(error.to_string()))?);
        }
    }
    Ok(())
}

fn told(files: &[PathBuf], whole: &Whole) -> Value {
    let one = |(file, verdict): (&PathBuf, &Verdict)| {
        json!({
            "file": file,
            "status": if verdict.is_valid() { "VALID" } else { "INVALID" },
            "fault": verdict.fault,
            "bundle_id": verdict.bundle_id,
            "agent_did": verdict.agent_did,
            "run_id": verdict.run_id,
            "payload_hash_b64u": verdict.hash.map(|hash| hash.to_string()),
            "part": verdict.part,
            "trust_tier": verdict.trust_tier,
            "proof_tier": verdict.proof_tier,
            "model_identity_tier": verdict.model_identity_tier,
            "risk_flags": verdict.risk_flags,
            "claims": verdict.claims,
        })
    };
    json!({
        "status": if whole.broken.is_none() { "VALID" } else { "INVALID" },
        "fault": whole.broken.as_ref().map(|Broken { bundle, fault }| json!({
            "file": files.get(*bundle), "code": fault.code, "place": fault.place, "text": fault.text,
        })),
        "bundles": files.iter().zip(&whole.verdicts).map(one).collect::<Vec<_>>(),
    })
}

fn shown(files: &[PathBuf], whole: &Whole) -> String {
    let mut text = String::new();
    for (file, verdict) in files.iter().zip(&whole.verdicts) {
        if let Some(fault) = &verdict.fault {
            text += &format!("INVALID  {}: {fault}\n", file.display());
            continue;
        }
        let word = |tier: Value| tier.as_str().unwrap_or_default().to_owned();
        text += &format!(
            "VALID    {}: {}, run {}, of {}\n         trust {}, proof {}, models {}\n",
            file.display(),
            verdict.bundle_id.as_deref().unwrap_or_default(),
            verdict.run_id.as_deref().unwrap_or("of none"),
            verdict.agent_did.as_deref().unwrap_or_default(),
            word(json!(verdict.trust_tier)),
            word(json!(verdict.proof_tier)),
            word(json!(verdict.model_identity_tier)),
        );
        for claim in &verdict.claims {
            text += &format!("         {:14} {:14} {}\n", claim.grade.name(), claim.about, claim.says);
        }
        if !verdict.risk_flags.is_empty() {
            let flags: Vec<&str> = verdict.risk_flags.iter().map(String::as_str).collect();
            text += &format!("         flags: {}\n", flags.join(" "));
        }
    }
    if let Some(Broken { bundle, fault }) = &whole.broken
        && whole.verdicts.get(*bundle).is_some_and(Verdict::is_valid)
    {
        let file = files.get(*bundle).map(|file| file.display().to_string()).unwrap_or_default();
        text += &format!("INVALID  together, {file}: {fault}\n");
    }
    text
}
