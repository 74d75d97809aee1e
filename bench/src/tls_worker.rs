//! TLS as a process has it that is timed.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    client::Resumption,
    pki_types::{CertificateDer, ServerName},
};

use crate::{
    far::{AT_ONCE, CHUNK, NAME, numbered},
    median,
    names::name,
    worker::{hang_up_at_once, pin},
};

pub(crate) fn main(name: &str, words: &[&str]) {
    pin(0);
    match (name, words) {
        ("move", [how, megabytes, to, certificate]) => {
            println!("{}", moved(how.as_bytes()[0], megabytes.parse().unwrap(), to, certificate));
        }
        ("first-bytes", [count, checked, unchecked, certificate]) => {
            let [checked, unchecked] = first_bytes(count.parse().unwrap(), [checked, unchecked], certificate);
            println!("{checked} {unchecked}");
        }
        ("hellos", [count, names, port]) => {
            let [connect, hello] = hellos(count.parse().unwrap(), names.parse().unwrap(), port.parse().unwrap());
            println!("{connect} {hello}");
        }
        other => panic!("no such worker: {other:?}"),
    }
}

/// Whoever made the certificate is trusted; nothing is resumed.
fn config(certificate: Option<&str>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    if let Some(certificate) = certificate {
        roots.add(CertificateDer::from(fs::read(certificate).unwrap())).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = versions.with_root_certificates(roots).with_no_client_auth();
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

fn connect(config: &Arc<ClientConfig>, to: &str) -> StreamOwned<ClientConnection, TcpStream> {
    let connection = ClientConnection::new(Arc::clone(config), ServerName::try_from(NAME).unwrap()).unwrap();
    let stream = TcpStream::connect(to.parse::<SocketAddr>().unwrap()).unwrap();
    stream.set_nodelay(true).unwrap();
    StreamOwned::new(connection, stream)
}

/// Megabytes a second of one TLS stream, once it is established: `d`own or `u`p.
fn moved(how: u8, megabytes: u16, to: &str, certificate: &str) -> f64 {
    let mut stream = connect(&config(Some(certificate)), to);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).unwrap();
    }
    let [high, low] = megabytes.to_be_bytes();
    let mut buffer = vec![7; CHUNK];
    let started = Instant::now();
    stream.write_all(&[how, high, low]).unwrap();
    for _ in 0..usize::from(megabytes) * (1 << 20) / CHUNK {
        match how {
            b'd' => stream.read_exact(&mut buffer).unwrap(),
            _ => stream.write_all(&buffer).unwrap(),
        }
    }
    if how != b'd' {
        stream.read_exact(&mut buffer[..1]).unwrap();
    }
    f64::from(megabytes) / started.elapsed().as_secs_f64()
}

/// Nanoseconds to the median first byte of two endpoints: connect(2), handshake, request, answer. The endpoints take turns.
fn first_bytes(count: usize, to: [&str; 2], certificate: &str) -> [f64; 2] {
    let config = config(Some(certificate));
    let mut took = [Vec::new(), Vec::new()];
    for round in 0..count {
        for turn in [round % 2, 1 - round % 2] {
            let started = Instant::now();
            let mut stream = connect(&config, to[turn]);
            stream.write_all(&[b'd', 0, 0]).unwrap();
            stream.read_exact(&mut [0]).unwrap();
            took[turn].push(started.elapsed().as_nanos() as f64);
            hang_up_at_once(&stream.sock);
        }
    }
    took.map(|mut took| median(&mut took))
}

/// Nanoseconds of the median connect(2), and of the median send(2) of a ClientHello: each time to another address of these
/// names, as far as there are.
fn hellos(count: usize, names: usize, port: u16) -> [f64; 2] {
    let config = config(None);
    let hello = |number: usize| {
        let mut bytes = Vec::new();
        let name = ServerName::try_from(name(number)).unwrap();
        ClientConnection::new(Arc::clone(&config), name).unwrap().write_tls(&mut bytes).unwrap();
        bytes
    };
    let hellos: Vec<Vec<u8>> = (0..names).map(hello).collect();
    let mut took = [Vec::new(), Vec::new()];
    for n in 0..count {
        if n % 500 == 499 {
            // The server takes out of its queue what came.
            thread::sleep(Duration::from_millis(10));
        }
        // Far from the one before.
        let number = n * 7919 % (names * AT_ONCE);
        let (to, hello) = (SocketAddr::from((numbered(number), port)), &hellos[number / AT_ONCE]);
        let started = Instant::now();
        let mut stream = TcpStream::connect(to).unwrap();
        took[0].push(started.elapsed().as_nanos() as f64);
        let started = Instant::now();
        assert_eq!(stream.write(hello).unwrap(), hello.len());
        took[1].push(started.elapsed().as_nanos() as f64);
        hang_up_at_once(&stream);
    }
    took.map(|mut took| median(&mut took))
}
