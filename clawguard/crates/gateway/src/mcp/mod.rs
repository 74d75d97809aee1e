//! The MCP gateway: an agent's only way to its servers.
//!
//! Every message is read whole and strictly, judged, and written anew; what is not understood is not passed on.

mod answer;
mod ask;
mod bridge;
mod call;
mod carry;
mod catalog;
mod context;
mod data;
pub(crate) mod gate;
pub(crate) mod limits;
mod message;
mod record;
mod reply;
pub(crate) mod running;
mod session;
mod settle;
mod shut;
pub(crate) mod standing;
mod stream;
mod task;
pub(crate) mod upstream;

use std::{io, sync::Arc, time::Duration};

use control::{
    calls::Rules,
    channel::{Ask, Told},
};
use tokio::{net::TcpStream, sync::watch, time::sleep};

use self::{data::Data, gate::Gate, standing::Standing};
use crate::{
    callers::{self, Caller},
    channel::Channel,
    model,
};

pub(crate) use bridge::run as bridge;

/// How often calls that nobody answers, and sessions that nobody uses, are looked for.
const TIDY: Duration = Duration::from_secs(5);

/// Serves agents for ever, once the daemon knows where: MCP servers, and models. `port` and `models` are where they look for them.
pub(crate) async fn serve(port: u16, models: u16, daemon: Arc<Channel>) -> io::Result<()> {
    let (listener, at) = callers::listen().await?;
    // The patterns take a while to be read; names are answered meanwhile.
    let data = tokio::task::spawn_blocking(Data::new).await.map_err(io::Error::other)?.map_err(io::Error::other)?;
    let gate = Arc::new(Gate::new(Arc::clone(&daemon), port, data));
    let (known, acquainted) = watch::channel(0);
    // Nobody is sent here before the rules are known.
    follow_once(&gate, &known).await?;
    match daemon.ask(Ask::Tools { port: at }).await? {
        Told::Noted => {}
        _ => return Err(io::ErrorKind::InvalidData.into()),
    }
    tracing::info!(port, at, "serving MCP");
    let recorder = Arc::clone(&gate.recorder);
    let serve = {
        let gate = Arc::clone(&gate);
        move |stream, caller| speak(stream, caller, Arc::clone(&gate))
    };
    tokio::select! {
        ended = follow(&gate, &known) => ended,
        ended = recorder.run(&daemon) => ended,
        () = callers::accept(&listener, &gate, &acquainted, serve, |_| {}) => Ok(()),
        ended = model::serve(models, &gate, &acquainted) => ended,
        () = tidy(&gate) => Ok(()),
    }
}

/// Keeps to the rules, whatever they become.
pub(crate) async fn follow(gate: &Gate, known: &watch::Sender<u64>) -> io::Result<()> {
    loop {
        follow_once(gate, known).await?;
    }
}

pub(crate) async fn follow_once(gate: &Gate, known: &watch::Sender<u64>) -> io::Result<()> {
    let before = gate.standing();
    let rules: Rules = match gate.daemon.ask(Ask::Rules { seen: before.rules.serial }).await? {
        Told::Rules(rules) => *rules,
        _ => return Err(io::ErrorKind::InvalidData.into()),
    };
    let serial = rules.serial;
    let cancelled = gate.put_in_force(Standing::next(&before, rules, &gate.daemon).await?);
    known.send_replace(serial);
    match gate.daemon.ask(Ask::Kept { serial, cancelled }).await? {
        Told::Noted => Ok(()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

async fn tidy(gate: &Gate) {
    loop {
        sleep(TIDY).await;
        gate.sessions.tidy(&gate.standing());
        gate.limits.tell_refused(&gate.recorder);
    }
}

async fn speak(stream: TcpStream, caller: Caller, gate: Arc<Gate>) {
    // An idle connection has no room for a request's state.
    callers::speak(stream, |request| Box::pin(Arc::clone(&gate).answer(caller, request))).await;
}

/// What looks through data, for tests of rooms that do not.
#[cfg(test)]
pub(crate) fn data() -> Data {
    Data::new().unwrap()
}

#[cfg(test)]
mod tests;
