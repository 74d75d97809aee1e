//! What servers got: the bytes of each connection in their order, whatever segments they came in.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use super::lock;

/// Bytes kept of each connection.
const KEPT: usize = 256 << 10;

const CHANGE_CIPHER_SPEC: u8 = 20;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: usize = 0;

struct Stream {
    port: u16,
    bytes: Vec<u8>,
}

/// All connections since the last `clear`.
#[derive(Clone, Default)]
pub(super) struct Witness(Arc<Mutex<BTreeMap<u64, Stream>>>);

/// Listens to one connection.
pub(super) struct Ear {
    witness: Witness,
    id: u64,
    port: u16,
}

impl Ear {
    /// Keeps what was read.
    pub(super) fn hears(&self, bytes: &[u8]) {
        // The end of a connection from before the last `clear` is no connection since.
        if bytes.is_empty() {
            return;
        }
        let mut streams = lock(&self.witness.0);
        let stream = streams.entry(self.id).or_insert_with(|| Stream { port: self.port, bytes: Vec::new() });
        let room = KEPT.saturating_sub(stream.bytes.len()).min(bytes.len());
        stream.bytes.extend_from_slice(&bytes[..room]);
    }
}

impl Witness {
    /// For a new connection to a port.
    pub(super) fn ear(&self, port: u16) -> Ear {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Ear { witness: self.clone(), id: NEXT.fetch_add(1, Ordering::Relaxed), port }
    }

    pub(super) fn clear(&self) {
        lock(&self.0).clear();
    }

    /// In how many connections these bytes came, in upper or lower case, in one record or over several.
    pub(super) fn heard(&self, wanted: &[u8]) -> usize {
        let holds = |bytes: &[u8]| bytes.windows(wanted.len()).any(|part| part.eq_ignore_ascii_case(wanted));
        lock(&self.0).values().filter(|stream| holds(&stream.bytes) || holds(&handshake(&stream.bytes))).count()
    }

    /// How many ClientHellos called for a name.
    pub(super) fn named(&self, name: &str) -> usize {
        let streams = lock(&self.0);
        let names = streams.values().flat_map(|stream| names(&stream.bytes));
        names.filter(|called| called.eq_ignore_ascii_case(name)).count()
    }

    /// The names in the ClientHellos that came to a port; `-` for a connection without any.
    pub(super) fn names(&self, port: u16) -> Vec<String> {
        let mut all = Vec::new();
        for stream in lock(&self.0).values().filter(|stream| stream.port == port) {
            let names = names(&stream.bytes);
            all.extend(if names.is_empty() { vec!["-".into()] } else { names });
        }
        all
    }

    /// The beginnings of all connections, for the reader of a failed test.
    pub(super) fn dump(&self, hex: fn(&[u8]) -> String) -> String {
        let streams = lock(&self.0);
        let beginnings = streams.values().map(|stream| hex(&stream.bytes[..stream.bytes.len().min(512)]));
        beginnings.collect::<Vec<_>>().join(" ")
    }
}

/// The handshake messages of a connection without the records that carry them.
fn handshake(stream: &[u8]) -> Vec<u8> {
    let (mut messages, mut rest) = (Vec::new(), stream);
    while let [kind @ (HANDSHAKE | CHANGE_CIPHER_SPEC), _, _, high, low, more @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(more.len());
        if *kind == HANDSHAKE {
            messages.extend_from_slice(&more[..length]);
        }
        rest = &more[length..];
    }
    messages
}

/// Every name in every ClientHello of a connection, as the most lenient server would find them: over any records, in any
/// order, whole or not. This shares nothing with what it is compared with.
fn names(stream: &[u8]) -> Vec<String> {
    let messages = handshake(stream);
    let (mut found, mut rest) = (Vec::new(), messages.as_slice());
    while let [kind, a, b, c, more @ ..] = rest {
        let length = (usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c)).min(more.len());
        if *kind == CLIENT_HELLO {
            of_hello(&more[..length], &mut found);
        }
        rest = &more[length..];
    }
    found
}

/// Takes what a length of `size` bytes says, or all there is.
fn taken<'a>(bytes: &mut &'a [u8], size: usize) -> Option<&'a [u8]> {
    let length = bytes.get(..size)?.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    let end = (size + length).min(bytes.len());
    let (part, rest) = (&bytes[size..end], &bytes[end..]);
    *bytes = rest;
    Some(part)
}

/// The names of a ClientHello (RFC 8446 section 4.1.2, RFC 6066 section 3).
fn of_hello(hello: &[u8], found: &mut Vec<String>) -> Option<()> {
    let mut rest = hello.get(2 + 32..)?;
    taken(&mut rest, 1)?;
    taken(&mut rest, 2)?;
    taken(&mut rest, 1)?;
    let mut extensions = taken(&mut rest, 2)?;
    while let Some(kind) = extensions.get(..2) {
        let kind = usize::from(u16::from_be_bytes([kind[0], kind[1]]));
        extensions = &extensions[2..];
        let mut data = taken(&mut extensions, 2)?;
        if kind != SERVER_NAME {
            continue;
        }
        let mut list = taken(&mut data, 2)?;
        while !list.is_empty() {
            list = &list[1..];
            found.push(String::from_utf8_lossy(taken(&mut list, 2)?).into_owned());
        }
    }
    Some(())
}
