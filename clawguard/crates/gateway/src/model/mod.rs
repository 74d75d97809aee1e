//! The model gateway: an agent's only way to models.
//!
//! A request is read whole and strictly, what the contract wants left out is left out, and what remains is judged, recorded, and
//! sent under the host's own key. The answer goes by as it comes; its receipt is signed by the daemon before it ends.

mod answers;
mod call;
mod carry;
mod connections;
mod gate;
mod judge;
mod mask;
mod meter;
mod receipts;
mod redact;
mod refusals;
mod remote;
mod routes;
mod shapes;
mod tail;
mod ways;

use std::{io, sync::Arc};

use control::channel::{Ask, Told};
use tokio::{net::TcpStream, sync::watch};

use self::gate::Gate;
use crate::{
    callers::{self, Caller},
    mcp::gate::Gate as Shared,
};

pub(crate) use ways::Models;

/// Serves agents for ever, once the daemon knows where. `port` is where they look for it. What is in force, what a job may have at
/// once, and what a kill ends, is one with MCP.
pub(crate) async fn serve(port: u16, shared: &Arc<Shared>, known: &watch::Receiver<u64>) -> io::Result<()> {
    let (listener, at) = callers::listen().await?;
    let gate = Arc::new(Gate::new(port, Arc::clone(shared)));
    match shared.daemon.ask(Ask::Models { port: at }).await? {
        Told::Noted => {}
        _ => return Err(io::ErrorKind::InvalidData.into()),
    }
    tracing::info!(port, at, "serving models");
    let serve = {
        let gate = Arc::clone(&gate);
        move |stream, caller| speak(stream, caller, Arc::clone(&gate))
    };
    let away = {
        let gate = Arc::clone(&gate);
        // The kernel counted it too.
        move |slot| {
            if let Some(key) = gate.shared.standing().key(slot) {
                drop(gate.connections.accepted(Caller { slot, key }));
            }
        }
    };
    tokio::select! {
        () = callers::accept(&listener, shared, known, serve, away) => Ok(()),
        ended = gate.connections.tell(shared) => ended,
        ended = gate.refusals.tell(&shared.daemon) => ended,
    }
}

async fn speak(stream: TcpStream, caller: Caller, gate: Arc<Gate>) {
    let connection = Arc::new(gate.connections.accepted(caller));
    callers::speak(stream, |request| {
        // An idle connection has no room for a request's state.
        Box::pin(Arc::clone(&gate).answer(Arc::clone(&connection), request))
    })
    .await;
}

#[cfg(test)]
mod tests;
