//! An operator's requests to registries. The gateway's executable makes them, as the operator's own user: what runs as root
//! links no TLS.

use std::{
    fs,
    io::Write,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use control::channel::Source;
use daemon::config::Config;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Context, Failure, stdio};

/// Where a registry is, and what opens it.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct Remote {
    /// The registry, if it is not the one of the configuration.
    #[arg(long, value_name = "URL")]
    authority: Option<String>,
    /// A file with the registry's admin token, or with a token that has the scope.
    #[arg(long, value_name = "FILE")]
    admin_token: Option<PathBuf>,
    /// The only certificates (PEM) by which the registry is trusted, instead of the platform's.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

/// Which registry the configuration is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Which {
    /// Contracts.
    Clawcontrols,
    /// Tokens.
    Clawscope,
}

/// An answer, whatever its status.
#[derive(Debug, Deserialize)]
pub(crate) struct Answer {
    /// HTTP status.
    pub(crate) status: u16,
    /// Its text.
    pub(crate) body: String,
}

impl Answer {
    /// The body as JSON; anything but these statuses is a failure that says what came.
    pub(crate) fn accept_only(&self, statuses: &[u16]) -> Result<Value, Failure> {
        let value: Value = serde_json::from_str(&self.body).unwrap_or(Value::Null);
        if statuses.contains(&self.status) {
            return Ok(value);
        }
        // clawcontrols' shape, and clawscope's.
        let (code, message) = match value.get("error") {
            Some(Value::Object(error)) => (error.get("code"), error.get("message")),
            Some(code) => (Some(code), value.get("message")),
            None => (None, None),
        };
        let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or("").to_owned();
        let words = format!("the registry answers {} {} {}", self.status, text(code), text(message));
        Err(match self.status {
            401 | 403 => Failure::Refused(words.trim().into()),
            _ => Failure::Failed(words.trim().into()),
        })
    }
}

/// The instance's configuration. One that this user may not read says nothing; one that is wrong is an error, because what it
/// says of certificates would be left out.
pub(crate) fn config(context: &Context) -> Result<Config, Failure> {
    let path = context.paths.config();
    match Config::read(&path) {
        Err(error) if matches!(&error, daemon::config::Error::Read { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied) =>
        {
            stdio::complain(&format!("{error}; going on without it"));
            Ok(Config::default())
        }
        other => other.map_err(|error| Failure::Failed(error.to_string())),
    }
}

fn configured(config: &Config, which: Which) -> (&'static str, Option<&String>) {
    match which {
        Which::Clawcontrols => ("clawcontrols", config.registry.clawcontrols.as_ref()),
        Which::Clawscope => ("clawscope", config.registry.clawscope.as_ref()),
    }
}

fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))
}

impl Remote {
    /// Whether a registry is named, here or in the configuration.
    pub(crate) fn known(&self, context: &Context, which: Which) -> Result<bool, Failure> {
        Ok(self.authority.is_some() || configured(&config(context)?, which).1.is_some())
    }

    fn source(&self, context: &Context, which: Which) -> Result<Source, Failure> {
        let config = config(context)?;
        let (name, configured) = configured(&config, which);
        let Some(base) = self.authority.as_ref().or(configured) else {
            return Err(Failure::Usage(format!(
                "no registry is known: give --authority URL, or set [registry] {name}"
            )));
        };
        let own = configured == Some(base);
        let ca = self.ca.as_ref().or(config.registry.ca.as_ref().filter(|_| own));
        let addresses: Vec<IpAddr> = if own { config.addresses_of(base) } else { Vec::new() };
        Ok(Source {
            base: base.trim_end_matches('/').to_owned(),
            addresses,
            ca: ca.map(|path| read(path)).transpose()?,
            bearer: self.admin_token.as_deref().map(read).transpose()?.map(|text| text.trim().to_owned()),
        })
    }

    /// Asks the registry.
    pub(crate) fn ask(
        &self,
        context: &Context,
        which: Which,
        method: &str,
        path: &str,
        body: Option<&str>,
    ) -> Result<Answer, Failure> {
        let request = json!({ "to": self.source(context, which)?, "method": method, "path": path, "body": body });
        let executable = std::env::current_exe()?.with_file_name("clawguard-gateway");
        let mut child = Command::new(&executable)
            .arg("--fetch")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| Failure::Failed(format!("{}: {error}", executable.display())))?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(request.to_string().as_bytes())?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            // It has said why.
            return Err(Failure::Status(1));
        }
        serde_json::from_slice(&output.stdout).map_err(|error| Failure::Failed(format!("the answer: {error}")))
    }
}
