//! `clawguard mcp-stdio`: what an agent configures in place of a stdio server's command. The gateway's executable speaks HTTP, as
//! whoever calls.

use std::{ffi::CString, os::unix::ffi::OsStrExt};

use super::{Context, Done, Failure};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The server's name, as `[[mcp.server]]` has it.
    server: String,
    /// The gateway's port, if it is not the one of the configuration (`[mcp] port`).
    #[arg(long, env = "CLAWGUARD_MCP_PORT", value_name = "PORT")]
    port: Option<u16>,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> Done {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
    if arguments.server.is_empty() || !arguments.server.bytes().all(plain) {
        return Err(Failure::Usage(format!("\"{}\" is no server's name", arguments.server)));
    }
    // An agent may not be able to read the configuration; then it has the usual port, or is told another one.
    let configured = || daemon::config::Config::read(&context.paths.config()).ok().map(|config| config.mcp.port);
    let port = arguments.port.or_else(configured).unwrap_or_else(|| daemon::config::Mcp::default().port);
    let url = format!("http://127.0.0.1:{port}/s/{}/mcp", arguments.server);
    let executable = std::env::current_exe()?.with_file_name("clawguard-gateway");
    let text = |bytes: &[u8]| CString::new(bytes).map_err(|_| Failure::Usage("a path has a NUL in it".into()));
    let words = [text(executable.as_os_str().as_bytes())?, text(b"--stdio")?, text(url.as_bytes())?];
    match sys::process::execute(&words) {
        Ok(never) => match never {},
        Err(error) => Err(Failure::Failed(format!("{}: {error}", executable.display()))),
    }
}
