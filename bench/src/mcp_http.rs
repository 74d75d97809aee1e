//! As much of HTTP/1.1 as the measure's own ends need, so that what is timed is what lies between them.

use std::{
    borrow::Cow,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
};

/// One message, request or response.
pub(crate) struct Message<'a> {
    pub(crate) head: &'a str,
    pub(crate) body: Cow<'a, [u8]>,
    /// How many bytes it has altogether.
    pub(crate) length: usize,
}

impl<'a> Message<'a> {
    /// The first of these bytes; `None` while it is not all there.
    pub(crate) fn first(bytes: &'a [u8]) -> Option<Self> {
        let (head, rest) = split(bytes)?;
        if header(head, "transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            let (body, length) = chunks(rest)?;
            return Some(Self { head, body: body.into(), length: bytes.len() - rest.len() + length });
        }
        let length = header(head, "content-length").map_or(0, |length| length.parse().unwrap());
        let body = rest.get(..length)?;
        Some(Self { head, body: body.into(), length: bytes.len() - rest.len() + length })
    }

    pub(crate) fn header(&self, name: &str) -> Option<&'a str> {
        header(self.head, name)
    }

    /// Whether this is what a response begins with.
    pub(crate) fn has_status(&self, status: &str) -> bool {
        self.head.split(' ').nth(1) == Some(status)
    }

    pub(crate) fn body_has(&self, text: &[u8]) -> bool {
        self.body.windows(text.len()).any(|part| part == text)
    }
}

/// The head, without the empty line that ends it, and what follows.
pub(crate) fn split(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let end = bytes.windows(4).position(|part| part == b"\r\n\r\n")?;
    Some((std::str::from_utf8(&bytes[..end]).unwrap(), &bytes[end + 4..]))
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
    lines.find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

/// What chunks carry, and how long they are.
fn chunks(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let line = bytes[at..].windows(2).position(|part| part == b"\r\n")?;
        let size = std::str::from_utf8(&bytes[at..at + line]).unwrap();
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        let from = at + line + 2;
        body.extend_from_slice(bytes.get(from..from + size)?);
        at = from + size + 2;
        if bytes.len() < at {
            return None;
        }
        if size == 0 {
            return Some((body, at));
        }
    }
}

/// A connection, and what came of it that nobody has read yet.
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    pub(crate) came: Vec<u8>,
}

impl Connection {
    pub(crate) fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self { stream, came: Vec::new() }
    }

    pub(crate) fn to(at: SocketAddr) -> Self {
        Self::new(TcpStream::connect(at).unwrap())
    }

    /// Reads once. Answers whether the other end is still there.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> bool {
        match self.stream.read(buffer) {
            Ok(0) => false,
            Ok(count) => {
                self.came.extend_from_slice(&buffer[..count]);
                true
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => false,
            Err(error) => panic!("{error}"),
        }
    }

    /// Asks and takes the answer to pieces.
    pub(crate) fn ask<T>(&mut self, request: &[u8], take: impl Fn(&Message<'_>) -> T) -> T {
        self.stream.write_all(request).unwrap();
        let mut buffer = [0; 1 << 14];
        loop {
            if let Some(message) = Message::first(&self.came) {
                let (taken, length) = (take(&message), message.length);
                self.came.drain(..length);
                return taken;
            }
            assert!(self.read(&mut buffer), "hung up on: {}", String::from_utf8_lossy(request));
        }
    }
}
