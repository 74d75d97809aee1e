//! What a job asks, and the answer in the same words. Nothing of a question goes anywhere else but its name and type.

use std::net::IpAddr;

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType, rdata::opt::EdnsOption},
};

/// Bytes of a message's header (RFC 1035 section 4.1.1).
const HEADER: usize = 12;
/// What every client takes over UDP, in bytes (RFC 1035 section 4.2.1).
const SMALLEST: usize = 512;
/// What passes everywhere in one piece, in bytes.
const LARGEST: usize = 1232;
/// Number of the option that says why (RFC 8914 section 2).
const EDE: u16 = 15;
/// Extended error "Prohibited" (RFC 8914 section 4.19).
const PROHIBITED: [u8; 2] = [0, 18];

/// What came.
pub(super) enum Read {
    /// A question.
    Question(Box<Question>),
    /// What can only be answered with an error, which is this.
    Error(Vec<u8>),
    /// Nothing that could be answered.
    Nothing,
}

/// A question of one job.
pub(super) struct Question {
    id: u16,
    recursion_desired: bool,
    /// As it was asked: the answer keeps its case.
    query: Query,
    /// The size that the client takes and the version that it speaks, if it speaks EDNS at all.
    edns: Option<(usize, u8)>,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// These addresses, for so many seconds. None: the name exists, and has none.
    Addresses(Vec<IpAddr>, u32),
    /// The name does not exist.
    Missing,
    /// The job may not know it.
    Prohibited,
    /// It cannot be answered now.
    Failed,
    /// The job asks too much, or for what is not of the internet.
    Refused,
    /// Another version of EDNS.
    BadVersion,
}

/// Reads a question. Never fails: what is no question says so itself.
pub(super) fn read(bytes: &[u8]) -> Read {
    let Some(header) = bytes.get(..HEADER) else { return Read::Nothing };
    // An answer is never answered.
    if header[2] & 0x80 != 0 {
        return Read::Nothing;
    }
    if header[2] >> 3 & 0xf != 0 {
        return error(header, ResponseCode::NotImp);
    }
    let Ok(mut message) = Message::from_vec(bytes) else { return error(header, ResponseCode::FormErr) };
    let (Some(query), true) = (message.queries.pop(), message.queries.is_empty()) else {
        return error(header, ResponseCode::FormErr);
    };
    let edns = message.edns.as_ref().map(|edns| (usize::from(edns.max_payload()), edns.version()));
    Read::Question(Box::new(Question {
        id: message.metadata.id,
        recursion_desired: message.metadata.recursion_desired,
        query,
        edns,
    }))
}

fn error(header: &[u8], code: ResponseCode) -> Read {
    // The question is not repeated: it could not be read.
    let mut answer = [0; HEADER];
    answer[..2].copy_from_slice(&header[..2]);
    answer[2] = 0x80 | header[2] & 0x79;
    answer[3] = 0x80 | code.low();
    Read::Error(answer.to_vec())
}

/// A name in lower case and without the root's dot; `None` for what cannot be a host's.
pub(super) fn text(name: &Name) -> Option<String> {
    let mut text = String::with_capacity(name.len());
    for label in name {
        if !text.is_empty() {
            text.push('.');
        }
        for byte in label {
            if !byte.is_ascii_alphanumeric() && !matches!(byte, b'-' | b'_') {
                return None;
            }
            text.push(char::from(byte.to_ascii_lowercase()));
        }
    }
    if text.is_empty() { None } else { Some(text) }
}

impl Question {
    /// What is answered without knowing the name.
    pub(super) fn settled(&self) -> Option<Reply> {
        if self.edns.is_some_and(|(_, version)| version != 0) {
            return Some(Reply::BadVersion);
        }
        if self.query.query_class() != DNSClass::IN { Some(Reply::Refused) } else { None }
    }

    /// The name in lower case and without the root's dot; `None` for what cannot be a host's.
    pub(super) fn name(&self) -> Option<String> {
        text(self.query.name())
    }

    /// The name for a record of what happened: what cannot be a host's is escaped (RFC 1035 section 5.1).
    pub(super) fn shown(&self) -> String {
        self.name().unwrap_or_else(|| {
            let escaped = self.query.name().to_ascii().to_ascii_lowercase();
            escaped.strip_suffix('.').map(str::to_string).unwrap_or(escaped)
        })
    }

    /// What is asked for.
    pub(super) fn kind(&self) -> RecordType {
        self.query.query_type()
    }

    /// How long an answer over UDP may be, in bytes.
    pub(super) fn room(&self) -> usize {
        self.edns.map_or(SMALLEST, |(size, _)| size.clamp(SMALLEST, LARGEST))
    }

    /// The answer, in at most so many bytes: one that is longer says only that it is, and is asked for again over TCP.
    pub(super) fn answer(&self, reply: &Reply, room: usize) -> Option<Vec<u8>> {
        let mut message = Message::new(self.id, MessageType::Response, OpCode::Query);
        message.metadata.recursion_desired = self.recursion_desired;
        message.metadata.recursion_available = true;
        message.metadata.response_code = reply.code();
        message.add_query(self.query.clone());
        if let Reply::Addresses(addresses, ttl) = reply {
            message.add_answers(addresses.iter().filter_map(|address| self.record(*address, *ttl)));
        }
        if self.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(LARGEST as u16);
            if *reply == Reply::Prohibited {
                edns.options_mut().insert(EdnsOption::Unknown(EDE, PROHIBITED.to_vec()));
            }
            message.set_edns(edns);
        }
        let answer = message.to_vec().ok()?;
        if answer.len() <= room {
            return Some(answer);
        }
        message.answers.clear();
        message.metadata.truncation = true;
        message.to_vec().ok()
    }

    fn record(&self, address: IpAddr, ttl: u32) -> Option<Record> {
        let data = match (address, self.kind()) {
            (IpAddr::V4(address), RecordType::A) => RData::A(address.into()),
            (IpAddr::V6(address), RecordType::AAAA) => RData::AAAA(address.into()),
            _ => return None,
        };
        Some(Record::from_rdata(self.query.name().clone(), ttl, data))
    }
}

impl Reply {
    fn code(&self) -> ResponseCode {
        match self {
            Self::Addresses(..) => ResponseCode::NoError,
            Self::Missing | Self::Prohibited => ResponseCode::NXDomain,
            Self::Failed => ResponseCode::ServFail,
            Self::Refused => ResponseCode::Refused,
            Self::BadVersion => ResponseCode::BADVERS,
        }
    }
}
