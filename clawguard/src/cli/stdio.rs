//! What is printed. Whoever reads it may stop (`| head`): that is no failure of the command, whose exit status goes on saying
//! what it found or did.

use std::io::{self, ErrorKind, Write};

use super::Failure;

/// Writes to standard output. Answers whether somebody still reads; what prints for ever ends when nobody does.
///
/// # Errors
///
/// If it cannot be written for any other reason: a disk that is full holds half of what was asked for.
pub(crate) fn say(text: &str) -> Result<bool, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::Failed(format!("write to standard output: {error}"))),
    }
}

/// Writes a line to standard error, if it can be: what is left to do is done without.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "clawguard: {text}");
}
