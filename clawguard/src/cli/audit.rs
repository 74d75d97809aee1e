//! `clawguard audit`

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

use claw::key::Did;
use evidence::chain::{Broken, Record, Verifier};
use serde_json::json;

use super::{Context, Done, Failure, records, shown::within, stdio};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Verify the chain offline; says the first bad place.
    Verify {
        /// A directory of audit files, or one file, instead of this host's.
        path: Option<PathBuf>,
        /// Whose checkpoints count. Without it: this host's, for its own chain; of another, whose they are is said.
        #[arg(long, value_name = "DID")]
        signer: Option<Did>,
    },
    /// Print the last records.
    Tail {
        /// How many.
        #[arg(short = 'n', long, default_value_t = 20)]
        lines: usize,
    },
    /// Print records for other programs: of one job or all, of a span of time or all of it.
    Export(records::Arguments),
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> Done {
    match &arguments.verb {
        Verb::Verify { path, signer } => {
            // This host's own chain counts by this host's own key.
            let own = if path.is_none() { ::daemon::host_did(&context.paths.host_key()) } else { None };
            let path = path.clone().unwrap_or_else(|| context.paths.audit());
            verify(context, &path, signer.or(own))
        }
        Verb::Tail { lines } => tail(context, *lines),
        Verb::Export(arguments) => records::run(context, arguments),
    }
}

/// The files of a chain in order.
fn files(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let found = daemon::audit::files(path).map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))?;
    if found.is_empty() {
        return Err(Failure::Failed(format!("there is no audit chain in {}", path.display())));
    }
    Ok(found.into_iter().map(|(_, file)| file).collect())
}

/// Reads a chain; answers where it breaks, if it does.
pub(super) fn read(
    path: &Path,
    verifier: &mut Verifier,
    mut each: impl FnMut(&[u8], Record),
) -> Result<Option<(PathBuf, Broken)>, Failure> {
    lines(path, |line| verifier.read(line).map(|record| each(line, record)))
}

/// Goes through a chain line by line, to the first that is broken.
fn lines(path: &Path, mut each: impl FnMut(&[u8]) -> Result<(), Broken>) -> Result<Option<(PathBuf, Broken)>, Failure> {
    /// A chain is long, and a system call costs more than what it says of a record.
    const AT_ONCE: usize = 1 << 20;
    let mut line = Vec::new();
    for file in files(path)? {
        let mut reader = BufReader::with_capacity(AT_ONCE, File::open(&file)?);
        loop {
            line.clear();
            if reader.read_until(b'\n', &mut line)? == 0 {
                break;
            }
            if let Err(broken) = each(&line) {
                return Ok(Some((file, broken)));
            }
        }
    }
    Ok(None)
}

fn verify(context: &Context, path: &Path, signer: Option<Did>) -> Done {
    let mut verifier = Verifier::new(signer);
    let broken = lines(path, |line| verifier.check(line))?;
    let value = json!({
        "verified": broken.is_none(),
        "records": verifier.head().next,
        "checkpoints": verifier.checkpoints(),
        "unsealed": verifier.unsealed(),
        "signer": verifier.signer().map(|did| did.to_string()),
        "broken": broken.as_ref().map(|(file, broken)| json!({
            "file": file, "record": broken.seq, "fault": broken.fault.to_string(),
        })),
    });
    context.print(&value, |_| match &broken {
        Some((file, broken)) => format!("BROKEN in {}: {broken}\n", file.display()),
        None => {
            let signed = match verifier.signer() {
                Some(did) => format!("{} checkpoints signed by {did}", verifier.checkpoints()),
                None => "no checkpoint yet".into(),
            };
            format!(
                "verified: {} records, {signed}, {} after the last checkpoint\n",
                verifier.head().next,
                verifier.unsealed()
            )
        }
    })?;
    if broken.is_some() {
        return Err(Failure::Status(1));
    }
    if verifier.head().next == 0 {
        return Err(Failure::Failed("the chain is empty, and proves nothing".into()));
    }
    Ok(())
}

fn tail(context: &Context, lines: usize) -> Done {
    let mut last = std::collections::VecDeque::new();
    let broken = read(&context.paths.audit(), &mut Verifier::new(None), |line, record| {
        if last.len() == lines {
            last.pop_front();
        }
        last.push_back((String::from_utf8_lossy(line).into_owned(), record));
    })?;
    for (line, record) in last {
        let text = if context.json {
            line
        } else {
            let kind = serde_json::to_string(&record.kind).unwrap_or_default();
            within(&format!("{} {} {} {}", record.seq, record.at, kind.trim_matches('"'), record.body)) + "\n"
        };
        if !stdio::say(&text)? {
            break;
        }
    }
    match broken {
        Some((file, broken)) => Err(Failure::Failed(format!("the chain is broken in {}: {broken}", file.display()))),
        None => Ok(()),
    }
}
