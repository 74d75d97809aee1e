//! `clawguard authority`: the server is an executable of its own, so that nothing of it is linked into what runs as root.

use std::{
    ffi::{CString, OsStr, OsString},
    net::SocketAddr,
    os::unix::ffi::OsStrExt,
    path::PathBuf,
};

use super::{Context, Done, Failure};

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Serve,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Serve (the default).
    Serve(Serve),
    /// Replace the key that signs tokens; the old one verifies for another hour.
    Rotate(Data),
    /// Print the names of the keys, for `[trust]` in the hosts' configuration.
    Key(Data),
}

#[derive(clap::Args)]
struct Data {
    /// The directory of the store and the keys, mode 0700 [default: /var/lib/clawguard-authority].
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

#[derive(clap::Args)]
struct Serve {
    #[command(flatten)]
    data: Data,
    /// Where to listen [default: 127.0.0.1:9480].
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// The certificate chain (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Serve plain HTTP also where it is not loopback: a proxy in front speaks TLS.
    #[arg(long)]
    behind_proxy: bool,
    /// The administrator's bearer token (DIR/admin-token by default, made if it is not there).
    #[arg(long, value_name = "FILE")]
    admin_token_file: Option<PathBuf>,
    /// The largest contract, in bytes of its request [default: 8388608].
    #[arg(long, value_name = "N")]
    max_wpc_bytes: Option<usize>,
    /// A name under which tokens are for this server; may be repeated
    /// [default: clawcontrols.com, clawscope.com and the listening host].
    #[arg(long, value_name = "NAME")]
    audience: Vec<String>,
    /// Run as root all the same.
    #[arg(long)]
    allow_root: bool,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> Done {
    let executable = std::env::current_exe()?.with_file_name("clawguard-authority");
    let mut words = Words(vec![executable.clone().into()]);
    match &arguments.command {
        None => words.serve(context, &arguments.serve),
        Some(Command::Serve(serve)) => words.serve(context, serve),
        Some(Command::Rotate(data)) => words.keys(context, "rotate", data),
        Some(Command::Key(data)) => words.keys(context, "key", data),
    }
    let text = |word: &OsString| {
        CString::new(word.as_bytes()).map_err(|_| Failure::Usage("an argument has a NUL in it".into()))
    };
    let words = words.0.iter().map(text).collect::<Result<Vec<_>, _>>()?;
    match sys::process::execute(&words) {
        Ok(never) => match never {},
        Err(error) => Err(Failure::Failed(format!("{}: {error}", executable.display()))),
    }
}

/// The other executable's command line.
struct Words(Vec<OsString>);

impl Words {
    fn option(&mut self, name: &str, value: Option<impl AsRef<OsStr>>) {
        if let Some(value) = value {
            self.0.extend([name.into(), value.as_ref().into()]);
        }
    }

    fn flag(&mut self, name: &str, given: bool) {
        self.0.extend(given.then(|| name.into()));
    }

    /// Another instance has its authority under its own root.
    fn data(&mut self, context: &Context, data: &Data) {
        let own = context.root.as_ref().map(|root| root.join("authority"));
        self.option("--data", data.data.as_ref().or(own.as_ref()));
    }

    fn keys(&mut self, context: &Context, command: &str, data: &Data) {
        self.0.push(command.into());
        self.data(context, data);
        self.flag("--json", context.json);
    }

    fn serve(&mut self, context: &Context, serve: &Serve) {
        self.0.push("serve".into());
        self.data(context, &serve.data);
        self.option("--listen", serve.listen.map(|address| address.to_string()));
        self.option("--tls-cert", serve.tls_cert.as_ref());
        self.option("--tls-key", serve.tls_key.as_ref());
        self.flag("--behind-proxy", serve.behind_proxy);
        self.option("--admin-token-file", serve.admin_token_file.as_ref());
        self.option("--max-wpc-bytes", serve.max_wpc_bytes.map(|bytes| bytes.to_string()));
        for audience in &serve.audience {
            self.option("--audience", Some(audience));
        }
        self.flag("--allow-root", serve.allow_root);
    }
}
