//! `clawguard keygen`

use std::path::PathBuf;

use claw::key::PrivateKey;
use serde_json::json;

use super::{Context, Done, Failure};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Where to write the private key (JWK, mode 0600). An existing file is not overwritten.
    #[arg(long, value_name = "FILE", default_value = "clawguard-key.jwk")]
    out: PathBuf,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> Done {
    let path = &arguments.out;
    if path.exists() {
        return Err(Failure::Failed(format!("{} exists already and is not overwritten", path.display())));
    }
    // A bare name lies in the current directory.
    let path = std::path::absolute(path)?;
    let key: PrivateKey = daemon::host_key(&path)?;
    let did = key.did();
    context.print(&json!({ "did": did.to_string(), "kid": did.kid(), "file": path }), |_| {
        format!("{did}\nwritten to {}; whoever has it can sign contracts in your name\n", path.display())
    })
}
