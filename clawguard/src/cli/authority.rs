//! `clawguard authority`: the server is an executable of its own, so that nothing of it is linked into what runs as root.

use std::{
    ffi::{CString, OsStr, OsString},
    os::unix::ffi::OsStrExt,
};

use super::{Context, Done, Failure};

/// Its words are the other executable's, `--help` included.
#[derive(clap::Args)]
#[command(disable_help_flag = true, disable_version_flag = true)]
pub(crate) struct Arguments {
    /// As of clawguard-authority(1): `clawguard authority --help` says which.
    #[arg(value_name = "ARGS", trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<OsString>,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> Done {
    let executable = std::env::current_exe()?.with_file_name("clawguard-authority");
    let words = [executable.clone().into()].into_iter().chain(words(context, &arguments.words));
    let text = |word: OsString| {
        CString::new(word.as_bytes()).map_err(|_| Failure::Usage("an argument has a NUL in it".into()))
    };
    let words = words.map(text).collect::<Result<Vec<_>, _>>()?;
    match sys::process::execute(&words) {
        Ok(never) => match never {},
        Err(error) => Err(Failure::Failed(format!("{}: {error}", executable.display()))),
    }
}

/// The words as they came, and what this command's own options mean for the other.
fn words(context: &Context, given: &[OsString]) -> Vec<OsString> {
    let mut words = given.to_vec();
    // `help` takes the name of a command and nothing else.
    if given.first().is_some_and(|word| word == "help") {
        return words;
    }
    let has = |name: &str| {
        let with_value = format!("{name}=");
        given.iter().any(|word| word == name || word.as_bytes().starts_with(with_value.as_bytes()))
    };
    // Another instance has its authority under its own root.
    if let Some(root) = &context.root
        && !has("--data")
    {
        words.extend([OsStr::new("--data").into(), root.join("authority").into()]);
    }
    if context.json && !has("--json") {
        words.push("--json".into());
    }
    words
}
