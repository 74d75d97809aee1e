//! Fetches what the daemon asks for: contracts, key sets, how tokens stand, revocations as they happen.

use std::{io, sync::Arc};

use control::channel::{Ask, Errand, Outcome, What};
use tokio::{sync::Semaphore, task::spawn_blocking};

use crate::channel::Channel;

/// Errands at once; more wait.
const MOST_AT_ONCE: usize = 16;
/// Revocations that are told at once.
const MOST_TOLD: usize = 256;

/// Runs errands until the daemon hangs up.
pub(crate) async fn run(daemon: Arc<Channel>) -> io::Result<()> {
    let places = Arc::new(Semaphore::new(MOST_AT_ONCE));
    loop {
        for errand in daemon.errands().await? {
            let daemon = Arc::clone(&daemon);
            if errand.what == What::Revocations {
                // Runs for minutes, and takes no place from the others. The daemon asks for one at a time.
                tokio::spawn(follow(daemon, errand));
                continue;
            }
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return Ok(()) };
            tokio::spawn(async move {
                let id = errand.id;
                let outcome = spawn_blocking(move || remote::carry_out(&errand)).await;
                drop(place);
                done(&daemon, id, outcome).await;
            });
        }
    }
}

async fn follow(daemon: Arc<Channel>, errand: Errand) {
    let (sender, mut receiver) = tokio::sync::mpsc::channel::<String>(1024);
    let id = errand.id;
    let stream = spawn_blocking(move || {
        remote::follow_revocations(&errand, |token| {
            // A daemon that is slow holds the stream up; nothing of it is lost.
            let _ = sender.blocking_send(token.to_string());
        })
    });
    while let Some(first) = receiver.recv().await {
        let mut tokens = vec![first];
        while tokens.len() < MOST_TOLD
            && let Ok(more) = receiver.try_recv()
        {
            tokens.push(more);
        }
        if daemon.ask(Ask::Revoked { tokens }).await.is_err() {
            return;
        }
    }
    done(&daemon, id, stream.await).await;
}

async fn done(daemon: &Channel, errand: u64, outcome: Result<Outcome, tokio::task::JoinError>) {
    let outcome = outcome.unwrap_or_else(|error| Outcome::Failed(format!("the errand was not finished: {error}")));
    if let Outcome::Failed(why) = &outcome {
        tracing::warn!(errand, why, "nothing was fetched");
    }
    if let Err(error) = daemon.ask(Ask::Done { errand, outcome }).await {
        tracing::warn!(%error, errand, "the daemon was not told what came of an errand");
    }
}
