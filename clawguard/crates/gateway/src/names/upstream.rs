//! Asks the resolvers: one after the other, each question from a port of its own and under a number of its own, and nothing is
//! believed that does not fit.

use std::{
    collections::HashSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RData, RecordType},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

/// How long one resolver may take, each time it is asked.
const PATIENCE: Duration = Duration::from_millis(1500);
/// How often each is asked.
const ROUNDS: usize = 2;
/// What is taken over UDP, in bytes: what passes everywhere in one piece.
const LARGEST: u16 = 1232;
/// Aliases that are followed.
const LONGEST_CHAIN: usize = 16;
/// Addresses of one name that are kept.
const MOST_ADDRESSES: usize = 48;
/// The longest that addresses are good, in seconds.
const ADDRESSES_GOOD: u32 = 86_400;
/// Shortest and longest that it is good that there are none, in seconds.
const NONE_GOOD: (u32, u32) = (5, 300);

/// What a resolver says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answered {
    /// Of the asked family, by whatever aliases.
    pub(super) addresses: Vec<IpAddr>,
    /// The name does not exist at all.
    pub(super) missing: bool,
    pub(super) ttl_seconds: u32,
}

/// Asks for a name's addresses; `None` if no resolver has an answer.
pub(super) async fn ask(resolvers: &[SocketAddr], name: &str, v6: bool) -> Option<Answered> {
    let mut fqdn = Name::from_ascii(name).ok()?;
    fqdn.set_fqdn(true);
    let query = Query::query(fqdn, if v6 { RecordType::AAAA } else { RecordType::A });
    for _ in 0..ROUNDS {
        for resolver in resolvers {
            let answered = match timeout(PATIENCE, over_udp(*resolver, &query)).await {
                Ok(Ok(Some(message))) => Ok(Ok(message)),
                Ok(Ok(None)) => timeout(PATIENCE, over_tcp(*resolver, &query)).await,
                Ok(Err(error)) => Ok(Err(error)),
                Err(elapsed) => Err(elapsed),
            };
            match answered {
                Ok(Ok(message)) => match understand(&message, &query) {
                    Some(answered) => return Some(answered),
                    None => tracing::debug!(%resolver, code = %message.metadata.response_code, "no usable answer"),
                },
                Ok(Err(error)) => tracing::debug!(%resolver, %error, "a resolver cannot be asked"),
                Err(_) => tracing::debug!(%resolver, "a resolver does not answer"),
            }
        }
    }
    None
}

fn question(query: &Query) -> io::Result<(Message, Vec<u8>)> {
    let mut id = [0; 2];
    getrandom::fill(&mut id).map_err(|error| io::Error::other(error.to_string()))?;
    let mut message = Message::new(u16::from_ne_bytes(id), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(query.clone());
    let mut edns = Edns::new();
    edns.set_max_payload(LARGEST);
    message.set_edns(edns);
    let bytes = message.to_vec().map_err(io::Error::other)?;
    Ok((message, bytes))
}

/// Whether a message is the answer to this question.
fn fits(answer: &Message, asked: &Message) -> bool {
    answer.metadata.id == asked.metadata.id
        && answer.metadata.message_type == MessageType::Response
        && answer.metadata.op_code == OpCode::Query
        && answer.queries == asked.queries
}

/// `None` for an answer that did not fit.
async fn over_udp(resolver: SocketAddr, query: &Query) -> io::Result<Option<Message>> {
    let any: IpAddr = if resolver.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // The kernel chooses a random port, and hands over only what comes from where the socket is connected to.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(resolver).await?;
    let (asked, bytes) = question(query)?;
    socket.send(&bytes).await?;
    let mut buffer = [0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // What does not fit was forged, or is late; the right answer may still come.
        let Ok(answer) = Message::from_vec(&buffer[..length]) else { continue };
        if fits(&answer, &asked) {
            return Ok(if answer.metadata.truncation { None } else { Some(answer) });
        }
    }
}

async fn over_tcp(resolver: SocketAddr, query: &Query) -> io::Result<Message> {
    let mut stream = TcpStream::connect(resolver).await?;
    let (asked, bytes) = question(query)?;
    let mut framed = u16::try_from(bytes.len()).map_err(io::Error::other)?.to_be_bytes().to_vec();
    framed.extend_from_slice(&bytes);
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut buffer = vec![0; length.into()];
    stream.read_exact(&mut buffer).await?;
    let answer = Message::from_vec(&buffer).map_err(io::Error::other)?;
    if fits(&answer, &asked) { Ok(answer) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// The addresses at the end of the aliases. Records that are on no way from the asked name are nobody's.
fn understand(message: &Message, query: &Query) -> Option<Answered> {
    let missing = match message.metadata.response_code {
        ResponseCode::NoError => false,
        ResponseCode::NXDomain => true,
        _ => return None,
    };
    let mut owner = query.name();
    let mut ttl = u32::MAX;
    let mut addresses = Vec::new();
    let mut seen = HashSet::new();
    for _ in 0..=LONGEST_CHAIN {
        let mut alias = None;
        for record in message.answers.iter().filter(|record| record.name == *owner && record.dns_class == DNSClass::IN)
        {
            let address = match (&record.data, query.query_type()) {
                (RData::A(address), RecordType::A) => IpAddr::V4(address.0),
                (RData::AAAA(address), RecordType::AAAA) => IpAddr::V6(address.0),
                (RData::CNAME(target), _) => {
                    alias = alias.or(Some((&target.0, record.ttl)));
                    continue;
                }
                _ => continue,
            };
            ttl = ttl.min(record.ttl);
            if addresses.len() < MOST_ADDRESSES && seen.insert(address) {
                addresses.push(address);
            }
        }
        if !addresses.is_empty() {
            let ttl_seconds = ttl.min(ADDRESSES_GOOD);
            return Some(Answered { addresses, missing: false, ttl_seconds });
        }
        let Some((target, good)) = alias else {
            let ttl_seconds = ttl.min(none_good(message)).clamp(NONE_GOOD.0, NONE_GOOD.1);
            return Some(Answered { addresses, missing, ttl_seconds });
        };
        ttl = ttl.min(good);
        owner = target;
    }
    // The aliases go round in a circle.
    None
}

/// How long it is good that there is nothing, in seconds (RFC 2308 section 5).
fn none_good(message: &Message) -> u32 {
    let soa = message.authorities.iter().find_map(|record| match &record.data {
        RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
        _ => None,
    });
    soa.unwrap_or(0)
}
