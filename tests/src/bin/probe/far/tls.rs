//! TLS hosts: one certificate for all names that tests use, and an answer that tells which of them was called for.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::Context;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};

use super::{
    listen,
    witness::{Ear, Witness},
};
use crate::raw;

/// Hosts that speak TLS. 203.0.113.40 has many names, those of others among them, as a shared host has.
const HOSTS: [&str; 5] =
    ["203.0.113.40:443", "203.0.113.41:443", "203.0.113.44:443", "[2001:db8::40]:443", "[2001:db8::41]:443"];
/// A host that answers the first ClientHello by asking for another.
const AGAIN: &str = "203.0.113.42:443";
/// A host that only listens.
const SINK: &str = "203.0.113.43:443";

/// What the certificate is for.
const NAMES: [&str; 11] = [
    "crm.example",
    "*.crm.example",
    "evil.example",
    "*.evil.example",
    "shared.example",
    "*.shared.example",
    "other.example",
    "alias.example",
    "again.example",
    "git.example",
    "chat.example",
];

/// A connection whose bytes are kept as they are read.
struct Tapped {
    stream: TcpStream,
    ear: Ear,
}

impl Read for Tapped {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(buffer)?;
        self.ear.hears(&buffer[..count]);
        Ok(count)
    }
}

impl Write for Tapped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl Tapped {
    /// Reads on, whatever comes, until nothing does.
    fn drain(&mut self) {
        let mut buffer = vec![0; 65_536];
        while let Ok(1..) = self.read(&mut buffer) {}
    }
}

/// Serves from now on. The certificate of the authority is in `directory/ca.pem`, and files below `directory/www` are served.
pub(super) fn serve(directory: &Path, witness: &Witness) -> anyhow::Result<()> {
    let config = Arc::new(config(directory)?);
    let files = directory.join("www");
    for at in HOSTS {
        let (config, files) = (Arc::clone(&config), files.clone());
        each(listener(at)?, witness, move |tapped| greet(tapped, &config, &files));
    }
    each(listener(AGAIN)?, witness, ask_again);
    each(listener(SINK)?, witness, |mut tapped| tapped.drain());
    Ok(())
}

fn config(directory: &Path) -> anyhow::Result<ServerConfig> {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    authority.distinguished_name.push(DnType::CommonName, "the test's authority");
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let mut host = CertificateParams::new(NAMES.map(str::to_owned).to_vec())?;
    // Some clients look for it.
    host.use_authority_key_identifier_extension = true;
    let host = host.signed_by(&key, &authority)?;
    std::fs::write(directory.join("ca.pem"), authority.pem()).context("write the authority's certificate")?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(versions.with_no_client_auth().with_single_cert(vec![host.der().clone()], key)?)
}

/// These hosts lie behind another: what has no hop left does not arrive. What arrives early (TCP Fast Open) is taken.
fn listener(at: &str) -> anyhow::Result<TcpListener> {
    let at: SocketAddr = at.parse()?;
    let listener = listen::tcp(at)?;
    let fd = listener.as_raw_fd() as usize;
    let (level, option) = match at {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MINTTL),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT),
    };
    raw::option(fd, level, option, &2_i32.to_ne_bytes())?;
    raw::option(fd, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, &16_i32.to_ne_bytes())?;
    Ok(listener)
}

fn each(listener: TcpListener, witness: &Witness, serve: impl Fn(Tapped) + Clone + Send + 'static) {
    let witness = witness.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Nobody waits for ever for one who says no more.
            let _ = stream.set_read_timeout(Some(Duration::from_secs(20)));
            let tapped = Tapped { stream, ear: witness.ear(443) };
            let serve = serve.clone();
            thread::spawn(move || serve(tapped));
        }
    });
}

/// Speaks TLS, and HTTP in it. What is neither is listened to all the same.
fn greet(tapped: Tapped, config: &Arc<ServerConfig>, files: &Path) {
    let Ok(connection) = ServerConnection::new(Arc::clone(config)) else { return };
    let mut stream = StreamOwned::new(connection, tapped);
    let _ = converse(&mut stream, files);
    stream.sock.drain();
}

fn converse(stream: &mut StreamOwned<ServerConnection, Tapped>, files: &Path) -> io::Result<()> {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    while !request.windows(4).any(|part| part == b"\r\n\r\n") {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            count => request.extend_from_slice(&buffer[..count]),
        }
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let path = request.split(' ').nth(1).unwrap_or("/").split('?').next().unwrap_or("/");
    let name = stream.conn.server_name().unwrap_or("-");
    let (status, body) = match file(files, path) {
        _ if path == "/" => ("200 OK", format!("hello from {name}").into_bytes()),
        Some(file) => ("200 OK", std::fs::read(file)?),
        None => ("404 Not Found", Vec::new()),
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all(head.as_bytes())?;
    stream.write_all(&body)?;
    stream.conn.send_close_notify();
    stream.flush()
}

fn file(files: &Path, path: &str) -> Option<PathBuf> {
    let path = files.join(path.trim_start_matches('/'));
    (path.is_file() && !path.components().any(|part| part.as_os_str() == "..")).then_some(path)
}

/// Answers a ClientHello with a HelloRetryRequest (RFC 8446 section 4.1.4) and listens.
fn ask_again(mut tapped: Tapped) {
    let mut hello = Vec::new();
    let mut buffer = [0; 4096];
    let whole = |hello: &[u8]| {
        matches!(hello, [_, _, _, high, low, more @ ..]
            if more.len() >= usize::from(u16::from_be_bytes([*high, *low])))
    };
    while !whole(&hello) {
        match tapped.read(&mut buffer) {
            Ok(count @ 1..) => hello.extend_from_slice(&buffer[..count]),
            _ => return,
        }
    }
    // The record's header, the message's, the version, and the random come before the session.
    const SESSION: usize = 5 + 4 + 2 + 32;
    let length = hello.get(SESSION).copied().unwrap_or(0);
    let session = hello.get(SESSION + 1..SESSION + 1 + usize::from(length)).unwrap_or_default();
    if tapped.write_all(&retry_request(session)).is_ok() {
        tapped.drain();
    }
}

fn retry_request(session: &[u8]) -> Vec<u8> {
    const RANDOM: [u8; 32] = [
        0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2, 0xa2,
        0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
    ];
    let mut body = vec![3, 3];
    body.extend_from_slice(&RANDOM);
    body.push(session.len() as u8);
    body.extend_from_slice(session);
    // TLS_AES_128_GCM_SHA256 without compression; TLS 1.3, with a key share of secp256r1.
    body.extend_from_slice(&[0x13, 0x01, 0, 0, 12, 0, 43, 0, 2, 3, 4, 0, 51, 0, 2, 0, 23]);
    let mut message = vec![2, 0, 0, body.len() as u8];
    message.extend_from_slice(&body);
    let mut record = vec![22, 3, 3, 0, message.len() as u8];
    record.extend_from_slice(&message);
    record
}
