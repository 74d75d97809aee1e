//! A name server whose zone the test writes, and which counts what it is asked.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    sync::{Arc, Mutex},
    thread,
};

use anyhow::{Context, bail};
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{
            A, AAAA, CNAME, HTTPS, SVCB, TXT,
            svcb::{EchConfigList, IpHint, SvcParamKey, SvcParamValue},
        },
    },
};

use super::{listen, lock, unhex};

/// Where it listens, over UDP and TCP.
const AT: [&str; 2] = ["203.0.113.53:53", "[2001:db8::53]:53"];
/// The longest answer over UDP to one who does not say more (RFC 1035 section 4.2.1).
const SHORT: u16 = 512;
/// The longest chain of aliases that is followed.
const CHAIN: usize = 16;

#[derive(Default)]
struct State {
    records: BTreeMap<String, Vec<(u32, RData)>>,
    codes: BTreeMap<String, ResponseCode>,
    asked: BTreeMap<String, u64>,
    silent: bool,
}

/// The zone and what was asked.
#[derive(Clone, Default)]
pub(super) struct Zone(Arc<Mutex<State>>);

/// A name as it is compared.
fn plain(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

impl Zone {
    /// `add NAME TYPE TTL DATA…`, `del NAME`, `code NAME servfail|refused`, `silent`, `speak`.
    pub(super) fn change(&self, words: &[&str]) -> anyhow::Result<()> {
        let mut state = lock(&self.0);
        match words {
            ["add", name, kind, ttl, data @ ..] => {
                let data = rdata(kind, data).with_context(|| format!("{words:?}"))?;
                state.records.entry(plain(name)).or_default().push((ttl.parse()?, data));
            }
            ["del", name] => {
                state.records.remove(&plain(name));
                state.codes.remove(&plain(name));
            }
            ["code", name, code] => {
                let code = if *code == "refused" { ResponseCode::Refused } else { ResponseCode::ServFail };
                state.codes.insert(plain(name), code);
            }
            ["silent"] => state.silent = true,
            ["speak"] => state.silent = false,
            other => bail!("what is zone {other:?}?"),
        }
        Ok(())
    }

    /// Forgets what was asked; the zone stays.
    pub(super) fn clear(&self) {
        lock(&self.0).asked.clear();
    }

    /// How often a name was asked for; any name, if it is empty.
    pub(super) fn asked(&self, name: &str) -> u64 {
        let state = lock(&self.0);
        if name.is_empty() { state.asked.values().sum() } else { state.asked.get(&plain(name)).copied().unwrap_or(0) }
    }

    /// How often names were asked for that have this in them.
    pub(super) fn asked_like(&self, part: &str) -> u64 {
        let part = part.to_ascii_lowercase();
        lock(&self.0).asked.iter().filter(|(name, _)| name.contains(&part)).map(|(_, count)| count).sum()
    }

    /// The answer to a question; none to what is no question, or while the server is silent.
    fn answer(&self, question: &[u8], datagram: bool) -> Option<Vec<u8>> {
        let mut message = Message::from_vec(question).ok()?;
        let query = message.queries.first()?.clone();
        let name = plain(&query.name().to_ascii());
        let mut state = lock(&self.0);
        for query in &message.queries {
            *state.asked.entry(plain(&query.name().to_ascii())).or_default() += 1;
        }
        if state.silent {
            return None;
        }
        let room = message.max_payload().max(SHORT);
        message = message.into_response();
        message.metadata.authoritative = false;
        message.metadata.recursion_available = true;
        let (code, answers) = state.look_up(&name, query.name(), query.query_type());
        message.metadata.response_code = code;
        message.add_answers(answers);
        let bytes = message.to_vec().ok()?;
        if datagram && bytes.len() > usize::from(room) { message.truncate().to_vec().ok() } else { Some(bytes) }
    }
}

impl State {
    /// The records of a name, or of the wildcard above it.
    fn of(&self, name: &str) -> Option<&Vec<(u32, RData)>> {
        let above = name.match_indices('.').map(|(at, _)| format!("*{}", &name[at..]));
        self.records.get(name).or_else(|| above.into_iter().find_map(|wild| self.records.get(&wild)))
    }

    fn look_up(&self, name: &str, asked: &Name, kind: RecordType) -> (ResponseCode, Vec<Record>) {
        if let Some(code) = self.codes.get(name) {
            return (*code, Vec::new());
        }
        let (mut answers, mut owner, mut name) = (Vec::new(), asked.clone(), name.to_owned());
        for _ in 0..CHAIN {
            let Some(records) = self.of(&name) else {
                return (ResponseCode::NXDomain, answers);
            };
            let fitting = records.iter().filter(|(_, data)| data.record_type() == kind);
            let before = answers.len();
            answers.extend(fitting.map(|(ttl, data)| Record::from_rdata(owner.clone(), *ttl, data.clone())));
            let alias = records.iter().find_map(|(ttl, data)| match data {
                RData::CNAME(to) => Some((*ttl, to.0.clone())),
                _ => None,
            });
            match alias {
                Some((ttl, to)) if answers.len() == before => {
                    answers.push(Record::from_rdata(owner, ttl, RData::CNAME(CNAME(to.clone()))));
                    name = plain(&to.to_ascii());
                    owner = to;
                }
                _ => break,
            }
        }
        (ResponseCode::NoError, answers)
    }
}

/// `A ADDRESS`, `AAAA ADDRESS`, `CNAME NAME`, `TXT WORD…`, `HTTPS [ech=HEX] [ipv4hint=ADDRESS]`.
fn rdata(kind: &str, data: &[&str]) -> anyhow::Result<RData> {
    Ok(match (kind, data) {
        ("A", [address]) => RData::A(A(address.parse()?)),
        ("AAAA", [address]) => RData::AAAA(AAAA(address.parse()?)),
        ("CNAME", [name]) => RData::CNAME(CNAME(Name::from_ascii(format!("{name}."))?)),
        ("TXT", words) => RData::TXT(TXT::new(words.iter().map(|word| (*word).to_owned()).collect())),
        ("HTTPS", words) => {
            let mut parameters = Vec::new();
            for word in words {
                parameters.push(match word.split_once('=').context("KEY=VALUE")? {
                    ("ipv4hint", address) => {
                        let hint = IpHint(vec![A(address.parse::<Ipv4Addr>()?)]);
                        (SvcParamKey::Ipv4Hint, SvcParamValue::Ipv4Hint(hint))
                    }
                    ("ech", hex) => {
                        (SvcParamKey::EchConfigList, SvcParamValue::EchConfigList(EchConfigList(unhex(hex)?)))
                    }
                    other => bail!("what is {other:?}?"),
                });
            }
            // Their order is part of the form (RFC 9460 section 2.2).
            parameters.sort_by_key(|(key, _)| u16::from(*key));
            RData::HTTPS(HTTPS(SVCB::new(1, Name::root(), parameters)))
        }
        other => bail!("what is {other:?}?"),
    })
}

/// Answers questions from now on.
pub(super) fn serve(zone: &Zone) -> anyhow::Result<()> {
    for at in AT {
        let at: SocketAddr = at.parse()?;
        let (socket, own) = (listen::udp(at)?, zone.clone());
        thread::spawn(move || datagrams(&socket, &own));
        let (listener, own) = (listen::tcp(at)?, zone.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let own = own.clone();
                thread::spawn(move || conversation(stream, &own));
            }
        });
    }
    Ok(())
}

fn datagrams(socket: &UdpSocket, zone: &Zone) {
    let mut buffer = [0; 65_536];
    loop {
        let Ok((count, from)) = socket.recv_from(&mut buffer) else { continue };
        if let Some(answer) = zone.answer(&buffer[..count], true) {
            // Nobody may be there any more; that is theirs to see.
            let _ = socket.send_to(&answer, from);
        }
    }
}

fn conversation(mut stream: TcpStream, zone: &Zone) {
    let mut length = [0; 2];
    while stream.read_exact(&mut length).is_ok() {
        let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
        if stream.read_exact(&mut question).is_err() {
            return;
        }
        let Some(answer) = zone.answer(&question, false) else { continue };
        let mut bytes = (answer.len() as u16).to_be_bytes().to_vec();
        bytes.extend_from_slice(&answer);
        if stream.write_all(&bytes).is_err() {
            return;
        }
    }
}
