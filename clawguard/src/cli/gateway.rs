//! `clawguard gateway`: the gateway is an executable of its own, so that nothing of it is linked into what runs as root.

use std::{ffi::CString, os::unix::ffi::OsStrExt, path::PathBuf};

use super::{Context, Done, Failure};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The daemon's channel, if it is not the instance's own.
    #[arg(long, value_name = "SOCKET")]
    channel: Option<PathBuf>,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> Done {
    let executable = std::env::current_exe()?.with_file_name("clawguard-gateway");
    let channel = arguments.channel.clone().unwrap_or_else(|| context.paths.gateway_socket());
    let text = |bytes: &[u8]| CString::new(bytes).map_err(|_| Failure::Usage("a path has a NUL in it".into()));
    let words = [text(executable.as_os_str().as_bytes())?, text(b"--channel")?, text(channel.as_os_str().as_bytes())?];
    match sys::process::execute(&words) {
        Ok(never) => match never {},
        Err(error) => Err(Failure::Failed(format!("{}: {error}", executable.display()))),
    }
}
