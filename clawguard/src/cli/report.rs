//! `clawguard report`

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

use ::daemon::{config::Config, host_did};
use claw::{
    Value,
    envelope::{Envelope, Kind},
    json::{self, Limits},
    key::Did,
    time::Instant,
};
use evidence::{
    events::Told,
    report::{self, Change},
    verify::{Options, Trust, verify_all},
};
use policy::{Contract, diff};
use serde_json::json;

use super::{Context, Done, Failure, bundle, shown};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// A bundle, or a directory as `bundle export` and `evidence` write it.
    path: PathBuf,
    /// Audit records of the job, as JSON lines, or a directory of audit files: then the page says what was called, and why not.
    #[arg(long, value_name = "PATH")]
    audit: Option<PathBuf>,
    /// Who may have signed gateway receipts; without any of these, this host's [trust] and its own keys count.
    #[arg(long, value_name = "DID")]
    receipt_signer: Vec<Did>,
    /// Who may have signed coverage attestations.
    #[arg(long, value_name = "DID")]
    sentinel: Vec<Did>,
    /// Who may have signed contracts.
    #[arg(long, value_name = "DID")]
    wpc_signer: Vec<Did>,
    /// All of these in a file, as `bundle verify` takes it.
    #[arg(long, value_name = "FILE")]
    trust: Option<PathBuf>,
    /// Where the page goes; without it, beside the bundle.
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// What was found at a path.
#[derive(Default)]
struct Found {
    bundles: Vec<Vec<u8>>,
    contracts: Vec<Vec<u8>>,
    urm: Option<Vec<u8>>,
    trust_pulse: Option<Vec<u8>>,
    audit: Option<PathBuf>,
}

/// A page that was written.
pub(crate) struct Written {
    page: PathBuf,
    records: usize,
    /// Why the evidence is not valid, if so.
    pub(crate) fault: Option<String>,
}

impl Arguments {
    /// Of a directory, with everything else as it is without a word.
    pub(crate) fn of(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            audit: None,
            receipt_signer: Vec::new(),
            sentinel: Vec::new(),
            wpc_signer: Vec::new(),
            trust: None,
            out: None,
        }
    }
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> Done {
    let written = write(context, arguments)?;
    let Written { page, fault, records } = &written;
    let value = json!({ "page": page, "verified": fault.is_none(), "fault": fault, "records": records });
    context.print(&value, |_| match fault {
        None => format!("{}\n", page.display()),
        Some(fault) => format!("NOT VALID: {fault}\n{}\n", page.display()),
    })?;
    if fault.is_some() { Err(Failure::Status(1)) } else { Ok(()) }
}

/// Writes the page.
pub(crate) fn write(context: &Context, arguments: &Arguments) -> Result<Written, Failure> {
    let found = find(&arguments.path)?;
    let bundles: Vec<&[u8]> = found.bundles.iter().map(Vec::as_slice).collect();
    let now = Instant(sys::clock::wall_ns());
    let options = Options {
        contracts: found.contracts.iter().map(Vec::as_slice).collect(),
        urm: found.urm.as_deref(),
        trust_pulse: found.trust_pulse.as_deref(),
        ..Options::at(now)
    };
    let whole = verify_all(&bundles, &trust(context, arguments)?, &options);
    let records = match arguments.audit.as_ref().or(found.audit.as_ref()) {
        Some(path) => records(path, &events(&found.bundles))?,
        None => Vec::new(),
    };
    let payloads: Vec<Value> = found.contracts.iter().filter_map(|contract| opened(contract)).collect();
    let page = report::page(&report::Input {
        bundles: &bundles,
        whole: &whole,
        records: &records.iter().map(Vec::as_slice).collect::<Vec<_>>(),
        contract: payloads.last(),
        changes: &changes(&payloads),
        visible: shown::within,
        version: env!("CARGO_PKG_VERSION"),
        made_at: now,
    });
    // A place that was named may be anything that can be written to. What is made up follows no link that an agent laid.
    let (out, written) = match &arguments.out {
        Some(out) => (out.clone(), fs::write(out, page)),
        None => {
            let out = beside(&arguments.path);
            let written = sys::file::replace(&out, page.as_bytes(), 0o644);
            (out, written)
        }
    };
    written.map_err(|error| Failure::Failed(format!("{}: {error}", out.display())))?;
    let fault = whole.broken.as_ref().map(|broken| broken.fault.to_string());
    Ok(Written { page: out, records: records.len(), fault })
}

fn trust(context: &Context, arguments: &Arguments) -> Result<Trust, Failure> {
    let (receipts, sentinels) = (&arguments.receipt_signer, &arguments.sentinel);
    let mut trust = Trust {
        receipt_signers: receipts.clone(),
        sentinels: sentinels.clone(),
        wpc_signers: arguments.wpc_signer.clone(),
        attesters: Vec::new(),
    };
    if let Some(path) = &arguments.trust {
        bundle::named(path, &mut trust)?;
        return Ok(trust);
    }
    if receipts.is_empty() && sentinels.is_empty() && arguments.wpc_signer.is_empty() {
        if let Ok(config) = Config::read(&context.paths.config()) {
            trust.receipt_signers = config.trust.receipt_signers.iter().map(|did| did.0).collect();
            trust.wpc_signers = config.trust.wpc_signers.iter().map(|did| did.0).collect();
        }
        // Readable for root alone, who has them on this host.
        trust.receipt_signers.extend(host_did(&context.paths.receipt_key()));
        trust.sentinels.extend(host_did(&context.paths.sentinel_key()));
    }
    Ok(trust)
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))
}

fn find(path: &Path) -> Result<Found, Failure> {
    if !path.is_dir() {
        let beside = |name: &str| path.parent().map(|directory| directory.join(name)).filter(|file| file.is_file());
        let optional = |name: &str| beside(name).map(|file| read(&file)).transpose();
        return Ok(Found {
            bundles: vec![read(path)?],
            urm: optional("bundle-urm.json")?,
            trust_pulse: optional("trust-pulse.json")?,
            ..Found::default()
        });
    }
    let optional = |name: &str| {
        let file = path.join(name);
        if file.is_file() { read(&file).map(Some) } else { Ok(None) }
    };
    let numbered = |word: &str| -> Result<Vec<Vec<u8>>, Failure> {
        (1..).map(|i| optional(&format!("{word}-{i}.json"))).map_while(Result::transpose).collect()
    };
    let bundles = numbered("bundle")?;
    if bundles.is_empty() {
        return Err(Failure::Failed(format!("there is no bundle-1.json in {}", path.display())));
    }
    let mut contracts = numbered("wpc")?;
    contracts.extend(optional("wpc.json")?);
    let audit = path.join("audit.jsonl");
    Ok(Found {
        bundles,
        contracts,
        urm: optional("bundle-urm.json")?,
        trust_pulse: optional("trust-pulse.json")?,
        audit: audit.is_file().then_some(audit),
    })
}

/// Numbers of the records that bundles name.
fn events(bundles: &[Vec<u8>]) -> BTreeSet<u64> {
    let mut named = BTreeSet::new();
    for bundle in bundles {
        let Ok(envelope) = json::parse(bundle, Limits { bytes: 64 << 20, depth: 64 }) else { continue };
        let chain = envelope.get("payload").and_then(|payload| payload.get("event_chain"));
        let Some(Value::Array(events)) = chain else { continue };
        let number = |event: &Value| event.get("event_id")?.as_str()?.strip_prefix("evt_")?.parse::<u64>().ok();
        named.extend(events.iter().filter_map(number));
    }
    named
}

/// The records of those numbers.
fn records(path: &Path, wanted: &BTreeSet<u64>) -> Result<Vec<Vec<u8>>, Failure> {
    let failed = |path: &Path, error: std::io::Error| Failure::Failed(format!("{}: {error}", path.display()));
    let files = if path.is_dir() {
        let found = ::daemon::audit::files(path).map_err(|error| failed(path, error))?;
        found.into_iter().map(|(_, file)| file).collect()
    } else {
        vec![path.to_owned()]
    };
    let mut records = Vec::new();
    for file in files {
        let opened = File::open(&file).map_err(|error| failed(&file, error))?;
        for line in BufReader::new(opened).split(b'\n') {
            let line = line.map_err(|error| failed(&file, error))?;
            if Told::of_line(&line).is_some_and(|told| wanted.contains(&told.seq)) {
                records.push(line);
            }
        }
    }
    Ok(records)
}

/// A contract's payload. Whether it counts, the verification says.
fn opened(contract: &[u8]) -> Option<Value> {
    Envelope::open(contract, Kind::WorkPolicyContract).ok().map(|envelope| envelope.payload)
}

/// How the last contract differs from the first.
fn changes(payloads: &[Value]) -> Vec<Change> {
    let (Some(first), Some(last)) = (payloads.first(), payloads.last()) else { return Vec::new() };
    let (Ok(first), Ok(last)) = (Contract::read(first), Contract::read(last)) else { return Vec::new() };
    let changes = diff(&first, &last).into_iter();
    changes.map(|change| Change { kind: change.kind.label().into(), text: change.text }).collect()
}

fn beside(path: &Path) -> PathBuf {
    if path.is_dir() { path.join("report.html") } else { path.with_extension("html") }
}
