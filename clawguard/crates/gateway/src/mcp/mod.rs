//! The MCP gateway: an agent's only way to its servers.
//!
//! A connection's own address tells whose it is, because the kernel lets each job to its own address alone. Every message is read
//! whole and strictly, judged, and written anew; what is not understood is not passed on.

mod answer;
mod ask;
mod bridge;
mod call;
mod carry;
mod catalog;
mod context;
mod data;
mod gate;
mod limits;
mod message;
mod record;
mod reply;
mod running;
mod session;
mod settle;
mod shut;
mod standing;
mod stream;
mod upstream;

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use clawguard_common::{Addr, guard};
use control::{
    calls::Rules,
    channel::{Ask, Told},
};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};

use self::{
    data::Data,
    gate::{Caller, Gate},
    standing::Standing,
};
use crate::channel::Channel;

pub(crate) use bridge::run as bridge;

/// Connections at once; more wait in the socket's queue.
const MOST_CONNECTIONS: usize = 8192;
/// How long a request's head may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the rules may take to know a job that connects.
const ACQUAINTED: Duration = Duration::from_secs(3);
/// How often calls that nobody answers, and sessions that nobody uses, are looked for.
const TIDY: Duration = Duration::from_secs(5);

/// Serves agents for ever, once the daemon knows where. `port` is where they look for it.
pub(crate) async fn serve(port: u16, daemon: Arc<Channel>) -> io::Result<()> {
    // At whatever port is free: the kernel turns agents' connections there, and nobody else finds anything at `port`.
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    let at = listener.local_addr()?.port();
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
    tokio::select! {
        ended = follow(&gate, &known) => ended,
        ended = recorder.run(&daemon) => ended,
        () = accept(&listener, &gate, &acquainted) => Ok(()),
        () = tidy(&gate) => Ok(()),
    }
}

/// Keeps to the rules, whatever they become.
async fn follow(gate: &Gate, known: &watch::Sender<u64>) -> io::Result<()> {
    loop {
        follow_once(gate, known).await?;
    }
}

async fn follow_once(gate: &Gate, known: &watch::Sender<u64>) -> io::Result<()> {
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

async fn accept(listener: &TcpListener, gate: &Arc<Gate>, known: &watch::Receiver<u64>) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "an agent's connection could not be accepted");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(slot) = stream.local_addr().ok().and_then(slot) else {
            tracing::warn!("somebody outside of every job called the MCP gateway");
            continue;
        };
        // Whoever has so many is hung up on, and takes no place from others.
        let Ok(room) = Arc::clone(&gate.limits.room(slot).connections).try_acquire_owned() else { continue };
        let (gate, known) = (Arc::clone(gate), known.clone());
        tokio::spawn(async move {
            if let Some(caller) = caller(slot, &gate, known).await {
                speak(stream, caller, gate).await;
            }
            drop((place, room));
        });
    }
}

/// Whose connection it is. Nobody's is hung up on.
async fn caller(slot: u32, gate: &Gate, mut known: watch::Receiver<u64>) -> Option<Caller> {
    let (key, serial) = match gate.daemon.ask(Ask::Job { slot }).await {
        Ok(Told::Job(Some(job))) => job,
        _ => return None,
    };
    // The rules that have the job are on their way.
    let there = timeout(ACQUAINTED, known.wait_for(|known| *known >= serial)).await;
    matches!(there, Ok(Ok(_))).then_some(Caller { slot, key })
}

/// The job for which an address is the gateway's.
fn slot(at: SocketAddr) -> Option<u32> {
    let IpAddr::V4(at) = at.ip() else { return None };
    guard::job(Addr::from_v4(u32::from_ne_bytes(at.octets())))
}

async fn speak(stream: TcpStream, caller: Caller, gate: Arc<Gate>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection is slower than it could be");
    }
    let service = service_fn(|request| {
        let gate = Arc::clone(&gate);
        // An idle connection has no room for a request's state.
        async move { Ok::<_, Infallible>(Box::pin(gate.answer(caller, request)).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "an agent's connection ended early");
    }
}

#[cfg(test)]
mod tests;
