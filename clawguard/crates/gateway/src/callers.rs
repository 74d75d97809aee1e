//! Agents' connections: whose each is, and how many there may be at once.
//!
//! A connection's own address tells whose it is, because the kernel lets each job to its own address alone.

use std::{
    convert::Infallible,
    error::Error,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use clawguard_common::{Addr, guard};
use control::channel::{Ask, Told};
use hyper::{
    Request, Response,
    body::{Body, Incoming},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};

use crate::mcp::gate::Gate;

/// Connections at once. More are hung up on: what waited in the socket's queue would be counted by the kernel and told of by nobody, and
/// the jobs that have many would make it look as if another one's were hidden.
const MOST_CONNECTIONS: usize = 8192;
/// How long a request's head may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the rules may take to know a job that connects.
const ACQUAINTED: Duration = Duration::from_secs(3);

/// Whose connection it is, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Caller {
    pub(crate) slot: u32,
    pub(crate) key: u64,
}

/// Accepts connections for ever, and has each of them served. Of those that are hung up on `away` learns the slot.
pub(crate) async fn accept<F: Future<Output = ()> + Send + 'static>(
    listener: &TcpListener,
    gate: &Arc<Gate>,
    known: &watch::Receiver<u64>,
    serve: impl Fn(TcpStream, Caller) -> F + Clone + Send + 'static,
    away: impl Fn(u32) + Clone + Send + 'static,
) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "an agent's connection could not be accepted");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(slot) = stream.local_addr().ok().and_then(slot) else {
            tracing::warn!("somebody outside of every job called the gateway");
            continue;
        };
        // Whoever has so many is hung up on, and takes no place from others.
        let room = Arc::clone(&gate.limits.room(slot).connections).try_acquire_owned();
        let (Ok(room), Ok(place)) = (room, Arc::clone(&places).try_acquire_owned()) else {
            away(slot);
            continue;
        };
        let (gate, known, serve, away) = (Arc::clone(gate), known.clone(), serve.clone(), away.clone());
        tokio::spawn(async move {
            match caller(slot, &gate, known).await {
                Some(caller) => serve(stream, caller).await,
                None => away(slot),
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

/// Speaks HTTP on a connection, for as long as the other side wants.
pub(crate) async fn speak<B, F>(stream: TcpStream, answer: impl Fn(Request<Incoming>) -> F)
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
    F: Future<Output = Response<B>>,
{
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection is slower than it could be");
    }
    let service = service_fn(|request| {
        let answered = answer(request);
        async move { Ok::<_, Infallible>(answered.await) }
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

/// Listens at whatever port is free: the kernel turns agents' connections there, and nobody else finds anything where agents look.
pub(crate) async fn listen() -> io::Result<(TcpListener, u16)> {
    let listener = TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, 0)).await?;
    let at = listener.local_addr()?.port();
    Ok((listener, at))
}
