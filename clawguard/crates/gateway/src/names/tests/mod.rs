//! The guard on real sockets, between a daemon and a resolver that are made up.

mod promises;
mod upstreams;

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use control::channel::{Ask, Named, Names, Told};
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::CNAME},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};

use super::{Daemon, Sockets, rate::lock};

/// A daemon that allows every name and opens every address, unless it was told otherwise.
struct Fake {
    port: watch::Sender<u16>,
    asked: Mutex<Vec<Ask>>,
    names: Mutex<HashMap<String, Named>>,
    /// What becomes of everything that is learnt, instead of being opened.
    learnt: Mutex<Option<Named>>,
    /// Learning waits for a permit.
    learning: Semaphore,
}

/// Whether the slot's job has another number by now.
fn is_anothers(named: &Named, key: u64) -> bool {
    matches!(named, Named::Resolve { key: own, .. } if *own != key)
}

impl Daemon for Fake {
    async fn ask(&self, ask: Ask) -> io::Result<Told> {
        lock(&self.asked).push(ask.clone());
        let named = match ask {
            Ask::Guard { port } => {
                self.port.send_replace(port);
                return Ok(Told::Noted);
            }
            Ask::Name { name, .. } => {
                lock(&self.names).get(&name).cloned().unwrap_or(Named::Resolve { wildcard: false, key: 1 })
            }
            Ask::Learn { key, .. } if lock(&self.names).values().any(|named| is_anothers(named, key)) => Named::Stale,
            Ask::Learn { addresses, ttl_seconds, .. } => {
                self.learning.acquire().await.unwrap().forget();
                lock(&self.learnt).clone().unwrap_or(Named::Open { addresses, ttl_seconds })
            }
            _ => return Ok(Told::Noted),
        };
        Ok(Told::Named(named))
    }
}

impl Fake {
    fn says(&self, name: &str, named: Named) {
        lock(&self.names).insert(name.into(), named);
    }

    fn asked(&self, what: impl Fn(&Ask) -> bool) -> usize {
        lock(&self.asked).iter().filter(|ask| what(ask)).count()
    }

    fn learnt(&self) -> Vec<(u32, Vec<IpAddr>, u32)> {
        let learnt = |ask: &Ask| match ask {
            Ask::Learn { job, addresses, ttl_seconds, .. } => Some((*job, addresses.clone(), *ttl_seconds)),
            _ => None,
        };
        lock(&self.asked).iter().filter_map(learnt).collect()
    }

    /// How often it was told that a job asked too much.
    fn excess(&self, of: u32) -> u64 {
        let count = |ask: &Ask| match ask {
            Ask::Excess { job, count, .. } if *job == of => *count,
            _ => 0,
        };
        lock(&self.asked).iter().map(count).sum()
    }
}

/// A resolver that answers every message with as many as it likes.
struct Resolver {
    at: SocketAddr,
    asked: Arc<AtomicU32>,
}

impl Resolver {
    async fn new(answers: impl Fn(Message, bool) -> Vec<Vec<u8>> + Send + Sync + 'static) -> Self {
        // A port that is free for UDP may be another test's for TCP.
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let at = udp.local_addr().unwrap();
        let (asked, answers) = (Arc::new(AtomicU32::new(0)), Arc::new(answers));
        tokio::spawn({
            let (asked, answers) = (Arc::clone(&asked), Arc::clone(&answers));
            async move {
                let mut buffer = [0; 4096];
                loop {
                    let Ok((length, client)) = udp.recv_from(&mut buffer).await else { return };
                    asked.fetch_add(1, Ordering::SeqCst);
                    // Long enough for others to ask the same.
                    sleep(Duration::from_millis(50)).await;
                    for answer in answers(Message::from_vec(&buffer[..length]).unwrap(), false) {
                        udp.send_to(&answer, client).await.unwrap();
                    }
                }
            }
        });
        tokio::spawn(async move {
            loop {
                let Ok((mut stream, _)) = tcp.accept().await else { return };
                let message = read_framed(&mut stream).await.unwrap();
                for answer in answers(message, true) {
                    stream.write_all(&framed(&answer)).await.unwrap();
                }
            }
        });
        Self { at, asked }
    }

    /// Answers with records for each question.
    async fn with(records: impl Fn(&Query) -> Vec<Record> + Send + Sync + 'static) -> Self {
        Self::new(move |message, _| {
            let mut answer = answer_to(&message);
            answer.add_answers(records(&message.queries[0]));
            vec![answer.to_vec().unwrap()]
        })
        .await
    }

    /// Every name has 203.0.113.1 or 2001:db8::1.
    async fn plain() -> Self {
        Self::with(|query| vec![address(&query.name, 300, fixed(query.query_type))]).await
    }

    /// Nobody reads what comes.
    async fn dead() -> (UdpSocket, SocketAddr) {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let at = socket.local_addr().unwrap();
        (socket, at)
    }

    fn asked(&self) -> u32 {
        self.asked.load(Ordering::SeqCst)
    }
}

fn fixed(kind: RecordType) -> &'static str {
    if kind == RecordType::A { "203.0.113.1" } else { "2001:db8::1" }
}

fn answer_to(message: &Message) -> Message {
    let mut answer = Message::new(message.metadata.id, MessageType::Response, OpCode::Query);
    answer.add_query(message.queries[0].clone());
    answer
}

fn address(name: &Name, ttl: u32, address: &str) -> Record {
    let data = match address.parse().unwrap() {
        IpAddr::V4(address) => RData::A(address.into()),
        IpAddr::V6(address) => RData::AAAA(address.into()),
    };
    Record::from_rdata(name.clone(), ttl, data)
}

fn alias(name: &Name, ttl: u32, target: &str) -> Record {
    Record::from_rdata(name.clone(), ttl, RData::CNAME(CNAME(fqdn(target))))
}

fn fqdn(name: &str) -> Name {
    let mut name = Name::from_ascii(name).unwrap();
    name.set_fqdn(true);
    name
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&u16::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
}

async fn read_framed(stream: &mut TcpStream) -> io::Result<Message> {
    let mut buffer = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut buffer).await?;
    Ok(Message::from_vec(&buffer).unwrap())
}

/// A guard that runs.
struct Rig {
    port: u16,
    daemon: Arc<Fake>,
}

impl Rig {
    async fn new(resolvers: &[SocketAddr]) -> Self {
        Self::limited(resolvers, 1000, 1000).await
    }

    async fn limited(resolvers: &[SocketAddr], per_second: u32, new_names_per_minute: u32) -> Self {
        let (port, mut listens) = watch::channel(0);
        let daemon = Arc::new(Fake {
            port,
            asked: Mutex::default(),
            names: Mutex::default(),
            learnt: Mutex::default(),
            learning: Semaphore::new(1_000_000),
        });
        let names = Names { resolvers: resolvers.to_vec(), per_second, new_names_per_minute, ttl_floor_seconds: 30 };
        let sockets = Sockets::open().await.unwrap();
        tokio::spawn(super::serve(sockets, names, Arc::clone(&daemon)));
        let port = *listens.wait_for(|port| *port != 0).await.unwrap();
        Self { port, daemon }
    }

    /// The guard's address for a job.
    fn at(&self, job: u8) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::new(127, 67, 0, job), self.port)
    }

    /// A job's socket: it takes answers from nowhere else than where it asks.
    async fn client(&self, job: u8) -> UdpSocket {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        socket.connect(self.at(job)).await.unwrap();
        socket
    }

    async fn send(&self, job: u8, message: &[u8]) -> Option<Message> {
        let socket = self.client(job).await;
        socket.send(message).await.unwrap();
        receive(&socket, Duration::from_secs(8)).await
    }

    async fn ask(&self, job: u8, name: &str, kind: RecordType) -> Message {
        let question = question(name, kind);
        let answer = self.send(job, &question.to_vec().unwrap()).await.expect("an answer");
        assert_eq!((answer.metadata.id, &answer.queries), (question.metadata.id, &question.queries));
        answer
    }

    /// The addresses of a name, or why there are none.
    async fn addresses(&self, job: u8, name: &str) -> Result<Vec<String>, ResponseCode> {
        told(&self.ask(job, name, RecordType::A).await)
    }
}

async fn receive(socket: &UdpSocket, patience: Duration) -> Option<Message> {
    let mut buffer = [0; 4096];
    let length = timeout(patience, socket.recv(&mut buffer)).await.ok()?.unwrap();
    Some(Message::from_vec(&buffer[..length]).unwrap())
}

/// With EDNS, as clients ask.
fn question(name: &str, kind: RecordType) -> Message {
    static LAST: AtomicU32 = AtomicU32::new(0);
    let id = LAST.fetch_add(1, Ordering::SeqCst) as u16;
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(fqdn(name), kind));
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    message.set_edns(edns);
    message
}

fn told(answer: &Message) -> Result<Vec<String>, ResponseCode> {
    match answer.metadata.response_code {
        ResponseCode::NoError => Ok(answer.answers.iter().map(|record| record.data.to_string()).collect()),
        code => Err(code),
    }
}
