//! Following the revocations: each one once, in order, as soon as it is committed.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::timeout,
};

use crate::{access::Who, reply::Refusal, scope, server::State, store::Revocation};

/// Events that are sent together.
const TOGETHER: usize = 256;
/// Frames that wait for a slow follower, before the follower's turn waits.
const QUEUE: usize = 4;

/// Starts a follower after a sequence number.
pub(crate) fn start(state: &Arc<State>, after: u64, who: Who) -> Result<mpsc::Receiver<Bytes>, Refusal> {
    let Ok(place) = Arc::clone(&state.streams).try_acquire_owned() else {
        return Err(Refusal::busy("as many followers as this server has room for are there already"));
    };
    let (frames, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(follow(Arc::clone(state), after, who, frames, place));
    Ok(receiver)
}

async fn follow(state: Arc<State>, after: u64, who: Who, frames: mpsc::Sender<Bytes>, _place: OwnedSemaphorePermit) {
    let mut head = state.store.live().head();
    // A cursor that was never given is from another store, or from this one before it was restored.
    let mut after = if after > *head.borrow_and_update() { 0 } else { after };
    if frames.send(Bytes::from_static(b"retry: 1000\n\n")).await.is_err() {
        return;
    }
    while still_may(&state, &who) {
        head.mark_unchanged();
        let found = match next(&state, &mut after).await {
            Ok(found) => found,
            // Who follows comes back and goes on from where it was.
            Err(_) => return,
        };
        if let Some(last) = found.last() {
            after = last.sequence;
            if frames.send(write(&found)).await.is_err() {
                return;
            }
            continue;
        }
        let quiet = tokio::select! {
            () = frames.closed() => return,
            () = state.stopping() => return,
            changed = timeout(state.limits.keep_alive, head.changed()) => match changed {
                Ok(Ok(())) => false,
                Ok(Err(_)) => return,
                Err(_) => true,
            },
        };
        if quiet && frames.send(Bytes::from_static(b": keep-alive\n\n")).await.is_err() {
            return;
        }
    }
}

/// A token that is over, or revoked, shows nothing more.
fn still_may(state: &State, who: &Who) -> bool {
    match who {
        Who::Admin => true,
        Who::Holder { hash, exp, .. } => {
            let live = state.store.live();
            state.clock.seconds() < *exp && live.find(*hash).is_none() && live.pruned() < *exp
        }
    }
}

/// What comes after a sequence number: from memory, or from the file for who is further behind.
async fn next(state: &State, after: &mut u64) -> Result<Vec<Arc<Revocation>>, ()> {
    loop {
        let oldest = match state.store.live().after(*after, TOGETHER) {
            Ok(found) => return Ok(found),
            Err(oldest) => oldest,
        };
        match state.store.after(*after, TOGETHER).await {
            // Whatever there was up to where memory began, before the file was read, is pruned.
            Ok(found) if found.is_empty() => *after = oldest,
            Ok(found) => return Ok(found.into_iter().map(Arc::new).collect()),
            Err(error) => {
                tracing::error!(%error, "a follower could not be served");
                return Err(());
            }
        }
    }
}

fn write(found: &[Arc<Revocation>]) -> Bytes {
    let mut text = String::new();
    for revocation in found {
        text.push_str(&format!("id: {}\ndata: {}\n\n", revocation.sequence, scope::event(revocation)));
    }
    text.into()
}

/// How often a quiet stream shows that it is there.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(10);
