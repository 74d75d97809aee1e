//! The DNS guard: every question of every job comes here, whatever resolver the job meant to ask. It is answered with addresses
//! that the daemon has opened for this job, and with nothing else.

mod cache;
mod decide;
mod question;
mod rate;
mod socket;
#[cfg(test)]
mod tests;
mod tunnel;
mod upstream;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use control::channel::{Ask, Names, Told};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    task::yield_now,
    time::{sleep, timeout},
};

pub(crate) use self::{decide::Daemon, socket::Sockets};
use self::{
    decide::{Guard, Step},
    rate::Places,
    socket::{Back, Udp, job, met_at},
};

/// Connections, of all jobs and of one.
const MOST_CONNECTIONS: (usize, usize) = (64, 8);
/// How long a connection may wait for its next question, or take an answer.
const IDLE: Duration = Duration::from_secs(10);
/// The longest datagram that is read, in bytes. Questions are far shorter.
const LONGEST: usize = 2048;
/// Datagrams that are judged before others have their turn.
const AT_ONCE: u32 = 32;

/// Answers jobs for ever, once the daemon knows where.
pub(crate) async fn serve<D: Daemon>(sockets: Sockets, names: Names, daemon: Arc<D>) -> io::Result<()> {
    let Sockets { udp, tcp, v6, port } = sockets;
    match daemon.ask(Ask::Guard { port }).await? {
        Told::Noted => {}
        _ => return Err(io::ErrorKind::InvalidData.into()),
    }
    if names.resolvers.is_empty() {
        tracing::warn!("no resolver is known; no name is answered");
    }
    tracing::info!(port, "answering names");
    let guard = Arc::new(Guard::new(names, daemon));
    let places = Arc::new(Places::new(MOST_CONNECTIONS.0, MOST_CONNECTIONS.1));
    let over_v6 = async {
        match v6 {
            Some((udp, tcp)) => {
                tokio::select! {
                    () = serve_udp6(Arc::clone(&guard), Arc::new(udp)) => {}
                    () = serve_tcp(Arc::clone(&guard), tcp, Arc::clone(&places)) => {}
                }
            }
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = serve_udp(Arc::clone(&guard), Arc::new(udp)) => {}
        () = serve_tcp(Arc::clone(&guard), tcp, Arc::clone(&places)) => {}
        () = over_v6 => {}
        () = guard.tell_excess() => {}
    }
    Ok(())
}

async fn serve_udp<D: Daemon>(guard: Arc<Guard<D>>, udp: Arc<Udp>) {
    let mut buffer = vec![0; LONGEST];
    let mut strays = Strays::default();
    let mut in_a_row = 0;
    loop {
        in_a_row += 1;
        if in_a_row % AT_ONCE == 0 {
            yield_now().await;
        }
        let (length, ends) = match udp.receive(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                tracing::warn!(%error, "a question could not be received");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some((ends, job)) = ends.and_then(|ends| Some((ends, job(ends.at)?))) else {
            strays.count();
            continue;
        };
        judge(&guard, job, &buffer[..length], Back::V4(Arc::clone(&udp), ends));
    }
}

/// The same at `::1`: one after the other, because the daemon is asked whose each question is.
async fn serve_udp6<D: Daemon>(guard: Arc<Guard<D>>, udp: Arc<UdpSocket>) {
    let mut buffer = vec![0; LONGEST];
    let mut strays = Strays::default();
    loop {
        let (length, client) = match udp.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                tracing::warn!(%error, "a question could not be received");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        match guard.caller(client.port(), true).await {
            Some(job) => judge(&guard, job, &buffer[..length], Back::V6(Arc::clone(&udp), client)),
            None => strays.count(),
        }
    }
}

/// Answers a job's datagram, now or once its answer is there.
fn judge<D: Daemon>(guard: &Arc<Guard<D>>, job: u32, datagram: &[u8], back: Back) {
    // An answer that cannot be sent at once is lost, as datagrams are; the job asks again.
    match guard.receive(job, datagram) {
        Step::Drop => {}
        Step::Error(answer) => drop(back.try_send(&answer)),
        Step::Settled(question, reply) => {
            if let Some(answer) = question.answer(&reply, question.room()) {
                drop(back.try_send(&answer));
            }
        }
        Step::Ask(question, place) => {
            let guard = Arc::clone(guard);
            tokio::spawn(async move {
                let reply = guard.reply(job, &question).await;
                if let Some(answer) = question.answer(&reply, question.room())
                    && let Err(error) = back.send(&answer).await
                {
                    tracing::debug!(%error, job, "a job was not answered");
                }
                drop(place);
            });
        }
    }
}

async fn serve_tcp<D: Daemon>(guard: Arc<Guard<D>>, listener: TcpListener, places: Arc<Places>) {
    let mut strays = Strays::default();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let asker = match (stream.local_addr(), stream.peer_addr()) {
            (Ok(SocketAddr::V6(_)), Ok(client)) => guard.caller(client.port(), false).await,
            (Ok(at), _) => met_at(at).and_then(job),
            _ => None,
        };
        let Some(job) = asker else {
            strays.count();
            continue;
        };
        // Whoever has too many already is hung up on.
        let Some(place) = places.take(job) else { continue };
        let guard = Arc::clone(&guard);
        tokio::spawn(async move {
            if let Err(error) = answer_connection(&guard, job, stream).await {
                tracing::debug!(%error, job, "a connection ended early");
            }
            drop(place);
        });
    }
}

async fn answer_connection<D: Daemon>(guard: &Arc<Guard<D>>, job: u32, mut stream: TcpStream) -> io::Result<()> {
    let room = usize::from(u16::MAX);
    let mut message = Vec::new();
    loop {
        match timeout(IDLE, read(&mut stream, &mut message)).await? {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        }
        let answer = match guard.receive(job, &message) {
            Step::Drop => return Ok(()),
            Step::Error(answer) => Some(answer),
            Step::Settled(question, reply) => question.answer(&reply, room),
            Step::Ask(question, place) => {
                let reply = guard.reply(job, &question).await;
                drop(place);
                question.answer(&reply, room)
            }
        };
        let Some(answer) = answer else { return Ok(()) };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let framed = [&length.to_be_bytes(), answer.as_slice()].concat();
        timeout(IDLE, stream.write_all(&framed)).await??;
    }
}

async fn read(stream: &mut TcpStream, message: &mut Vec<u8>) -> io::Result<()> {
    let length = stream.read_u16().await?;
    message.resize(length.into(), 0);
    stream.read_exact(message).await?;
    Ok(())
}

/// What came to an address that is no job's: the kernel sends nothing there, so somebody tries it from outside.
#[derive(Default)]
struct Strays(u64);

impl Strays {
    fn count(&mut self) {
        self.0 += 1;
        // Told ever more seldom: it could be a flood.
        if self.0.is_power_of_two() {
            tracing::warn!(count = self.0, "questions came from outside of every job, and were dropped");
        }
    }
}
