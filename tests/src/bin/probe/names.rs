//! Asks for names, by each way in which programs do.

use std::{
    fmt::Write as _,
    io::{self, BufRead, Error, ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket},
    os::fd::AsRawFd,
    time::Duration,
};

use anyhow::bail;
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query},
    rr::{Name, RData, RecordType},
};

use crate::{agent::word, raw};

const MOMENT: Duration = Duration::from_millis(1500);

/// An answer as it came.
pub(crate) struct Answer {
    pub(crate) message: Message,
    /// Who seems to have sent it.
    from: String,
    /// Who getpeername(2) says is at the other end.
    peer: String,
}

pub(crate) fn run(words: &[&str]) -> anyhow::Result<()> {
    match words {
        ["ask", how, resolver, name, kind] => match ask(how, resolver_at(resolver)?, name, kind.parse()?) {
            Ok(answer) => println!("{}", told(&answer, kind.parse()?)),
            Err(error) => println!("{}", word(&error)),
        },
        // The same for each line of standard input, by one process.
        ["each-line"] => {
            for line in io::stdin().lock().lines() {
                let line = line?;
                let words: Vec<&str> = ["ask"].into_iter().chain(line.split_whitespace()).collect();
                run(&words)?;
            }
        }
        // getaddrinfo(3), which reads resolv.conf and the switch.
        ["look-up", name] => match addresses(name) {
            Ok(found) => println!("{}", found.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")),
            Err(_) => println!("none"),
        },
        ["ordinary"] => ordinary(),
        other => bail!("what is {other:?}?"),
    }
    Ok(())
}

/// An address, with its port if that is another than 53.
fn resolver_at(text: &str) -> anyhow::Result<SocketAddr> {
    Ok(match text.parse::<IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, 53),
        Err(_) => text.parse()?,
    })
}

/// The addresses of a name, in order.
pub(crate) fn addresses(name: &str) -> io::Result<Vec<IpAddr>> {
    let mut found: Vec<IpAddr> = (name, 443).to_socket_addrs()?.map(|at| at.ip()).collect();
    found.sort();
    found.dedup();
    Ok(found)
}

/// Code, data, the least time to live, and who it came from.
fn told(answer: &Answer, kind: RecordType) -> String {
    let fitting = || answer.message.answers.iter().filter(|record| record.record_type() == kind);
    let mut data: Vec<String> = fitting().map(|record| shown(&record.data)).collect();
    data.sort();
    let mut text = format!("{:?}", answer.message.metadata.response_code).to_uppercase();
    let _ = write!(text, " {}", if data.is_empty() { "-".into() } else { data.join(",") });
    let ttl = fitting().map(|record| record.ttl).min().map_or_else(|| "-".into(), |ttl| ttl.to_string());
    let _ = write!(text, " ttl {ttl} from {} peer {}", answer.from, answer.peer);
    text
}

fn shown(data: &RData) -> String {
    data.to_string().replace(' ', "_")
}

/// A question with recursion desired.
pub(crate) fn question(names: &[&str], kind: RecordType) -> io::Result<Vec<u8>> {
    let id = (std::process::id() as u16).wrapping_mul(31);
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    for name in names {
        let name = Name::from_ascii(format!("{}.", name.trim_end_matches('.'))).map_err(Error::other)?;
        message.add_query(Query::query(name, kind));
    }
    message.to_vec().map_err(Error::other)
}

/// Asks by `udp`, `udp-connected`, `sendmmsg` or `tcp`.
pub(crate) fn ask(how: &str, resolver: SocketAddr, name: &str, kind: RecordType) -> io::Result<Answer> {
    let question = question(&[name], kind)?;
    match how {
        "tcp" => by_stream(resolver, &question),
        _ => by_datagram(how, resolver, &question),
    }
}

fn by_datagram(how: &str, resolver: SocketAddr, question: &[u8]) -> io::Result<Answer> {
    let socket = UdpSocket::bind(if resolver.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.set_read_timeout(Some(MOMENT))?;
    match how {
        "udp-connected" => {
            socket.connect(resolver)?;
            socket.send(question)?;
        }
        "sendmmsg" => send_many(socket.as_raw_fd() as usize, &[(resolver, question)])?,
        _ => {
            socket.send_to(question, resolver)?;
        }
    }
    let mut buffer = [0; 65_536];
    let (count, from) = socket.recv_from(&mut buffer)?;
    let peer = socket.peer_addr().map_or_else(|_| "-".into(), |at| at.to_string());
    let message = Message::from_vec(&buffer[..count]).map_err(Error::other)?;
    Ok(Answer { message, from: from.to_string(), peer })
}

/// sendmmsg(2)
pub(crate) fn send_many(fd: usize, messages: &[(SocketAddr, &[u8])]) -> io::Result<()> {
    let to: Vec<Vec<u8>> = messages.iter().map(|(to, _)| raw::bytes(*to)).collect();
    let parts: Vec<[usize; 2]> = messages.iter().map(|(_, part)| [part.as_ptr() as usize, part.len()]).collect();
    let mut headers = Vec::new();
    for (to, part) in to.iter().zip(&parts) {
        // struct mmsghdr: name, namelen, iov, iovlen, control, controllen, flags, len.
        headers.extend([to.as_ptr() as usize, to.len(), part.as_ptr() as usize, 1, 0, 0, 0, 0]);
    }
    let sent = raw::call(libc::SYS_sendmmsg, [fd, headers.as_ptr() as usize, messages.len(), 0, 0, 0])?;
    if sent == messages.len() { Ok(()) } else { Err(ErrorKind::WriteZero.into()) }
}

fn by_stream(resolver: SocketAddr, question: &[u8]) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&resolver, MOMENT)?;
    stream.set_read_timeout(Some(MOMENT))?;
    stream.write_all(&framed(question))?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer)?;
    let message = Message::from_vec(&answer).map_err(Error::other)?;
    let peer = stream.peer_addr()?.to_string();
    Ok(Answer { message, from: peer.clone(), peer })
}

/// A message as it goes over TCP (RFC 1035 section 4.2.2).
pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    let mut bytes = (message.len() as u16).to_be_bytes().to_vec();
    bytes.extend_from_slice(message);
    bytes
}

/// All ways in which a process outside the fence asks, and what it is told: the same with a fence on the host as without.
fn ordinary() {
    let resolvers = ["203.0.113.53", "2001:db8::53", "::ffff:203.0.113.53"];
    for resolver in resolvers.map(|text| text.parse().map(|ip: IpAddr| SocketAddr::new(ip, 53))).into_iter().flatten() {
        for how in ["udp", "udp-connected", "sendmmsg", "tcp"] {
            for (name, kind) in [
                ("crm.example", RecordType::A),
                ("crm.example", RecordType::AAAA),
                ("alias.example", RecordType::A),
                ("nowhere.example", RecordType::A),
                ("text.example", RecordType::TXT),
                ("hidden.example", RecordType::HTTPS),
            ] {
                let said = ask(how, resolver, name, kind);
                let said = said.map_or_else(|error| word(&error), |answer| told(&answer, kind));
                println!("{how} {resolver} {name} {kind} {said}");
            }
        }
    }
    for name in ["crm.example", "alias.example", "nowhere.example"] {
        println!("{name} {:?}", addresses(name).ok());
    }
}
