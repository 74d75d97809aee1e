//! A process's standard input and output: one message a line.

use std::{os::fd::OwnedFd, sync::Arc};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::unix::pipe,
};

use super::{Duplex, Failure, arrivals::read};

impl Duplex {
    /// Speaks over the pipes of a server that was started.
    pub(crate) fn over_pipes(input: OwnedFd, output: OwnedFd, limit: usize) -> std::io::Result<Arc<Self>> {
        let mut input = pipe::Sender::from_owned_fd(input)?;
        let output = pipe::Receiver::from_owned_fd(output)?;
        let (duplex, mut lines) = Self::new(limit);
        let writing = Arc::clone(&duplex);
        tokio::spawn(async move {
            while let Some(mut line) = writing.next(&mut lines).await {
                line.push(b'\n');
                if let Err(error) = input.write_all(&line).await {
                    writing.end(Failure::Broken(error.to_string()));
                    return;
                }
            }
        });
        let reading = Arc::clone(&duplex);
        tokio::spawn(async move {
            let failure = follow(&reading, output, limit).await;
            reading.end(failure);
        });
        Ok(duplex)
    }
}

async fn follow(duplex: &Duplex, output: pipe::Receiver, limit: usize) -> Failure {
    let mut output = BufReader::new(output).take(0);
    let mut line = Vec::new();
    loop {
        line.clear();
        output.set_limit(limit as u64 + 1);
        match output.read_until(b'\n', &mut line).await {
            Ok(0) => return Failure::Broken("the server's process has ended".into()),
            Ok(_) => {}
            Err(error) => return Failure::Broken(error.to_string()),
        }
        if line.last() != Some(&b'\n') && line.len() > limit {
            return Failure::TooLong(limit);
        }
        let text = line.trim_ascii();
        if text.is_empty() {
            continue;
        }
        match read(text) {
            Ok(message) => duplex.arrived(message).await,
            // Some print what is meant for people; what is no message is not passed on.
            Err(failure) => tracing::warn!(detail = failure.detail(), "a stdio server printed what is no message"),
        }
    }
}
