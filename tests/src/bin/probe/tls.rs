//! A TLS client as programs have one, and one that sends what it is told to.

use std::{
    io::{self, BufRead, Error, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context, bail};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};

use crate::{agent::word, hello::Hello, names};

const MOMENT: Duration = Duration::from_millis(1500);

pub(crate) fn run(words: &[&str]) -> anyhow::Result<()> {
    match words {
        ["to", at, name] => println!("{}", greeted(at.parse()?, name)?),
        // As a program does that has a name and nothing else.
        ["name", name] => println!("{}", by_name(name)?),
        ["hello", how, at, name] => println!("{}", by_hand(how, at.parse()?, name)),
        // One connection that goes on: each line of standard input is a request more.
        ["hold", at, name] => hold(at.parse()?, name)?,
        other => bail!("what is {other:?}?"),
    }
    Ok(())
}

fn by_name(name: &str) -> anyhow::Result<String> {
    let Ok(found) = names::addresses(name) else { return Ok("none".into()) };
    let mut said = "none".into();
    for ip in found {
        said = greeted(SocketAddr::new(ip, 443), name)?;
        if said.starts_with("hello") {
            break;
        }
    }
    Ok(said)
}

/// The authority's certificate lies beside this program.
fn config() -> anyhow::Result<Arc<ClientConfig>> {
    let path = std::env::current_exe()?.with_file_name("ca.pem");
    let certificate = CertificateDer::from_pem_file(&path).with_context(|| path.display().to_string())?;
    let mut roots = RootCertStore::empty();
    roots.add(certificate)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(Arc::new(versions.with_root_certificates(roots).with_no_client_auth()))
}

/// Connects and asks for `/`: the greeting, or the word for why there is none.
fn greeted(to: SocketAddr, name: &str) -> anyhow::Result<String> {
    let connection = ClientConnection::new(config()?, ServerName::try_from(name.to_owned())?)?;
    let talk = || -> io::Result<String> {
        let stream = TcpStream::connect_timeout(&to, MOMENT)?;
        stream.set_read_timeout(Some(MOMENT))?;
        let mut stream = StreamOwned::new(connection, stream);
        write!(stream, "GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).ok_or_else(|| ErrorKind::InvalidData.into())
    };
    Ok(talk().unwrap_or_else(|error| word(&error)))
}

fn hold(to: SocketAddr, name: &str) -> anyhow::Result<()> {
    let connection = ClientConnection::new(config()?, ServerName::try_from(name.to_owned())?)?;
    let stream = TcpStream::connect_timeout(&to, MOMENT)?;
    stream.set_read_timeout(Some(MOMENT))?;
    let mut stream = StreamOwned::new(connection, stream);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    println!("connected");
    for line in io::stdin().lock().lines() {
        // A request ends with an empty line.
        let line = line?;
        let sent = stream.write_all(format!("{line}\r\n").as_bytes()).and_then(|()| stream.flush());
        println!("sent {}", sent.map_or_else(|error| word(&error), |()| "ok".into()));
        if line.is_empty() {
            let mut answer = String::new();
            let got = stream.read_to_string(&mut answer);
            println!(
                "got {}",
                got.map_or_else(|error| word(&error), |_| answer.lines().last().unwrap_or("").to_owned())
            );
        }
    }
    Ok(())
}

/// Connects and sends a ClientHello that is well-formed, by some way; `answered` if the server said anything to it.
fn by_hand(how: &str, to: SocketAddr, name: &str) -> String {
    let done = || -> io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&to, MOMENT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(MOMENT))?;
        let hello = Hello::to(name);
        match how {
            "whole" => stream.write_all(&hello.bytes())?,
            "bytes" => slowly(&mut stream, &hello.bytes())?,
            "large" => stream.write_all(&hello.post_quantum().bytes())?,
            "versions" => stream.write_all(&hello.record_version(0x0303).bytes())?,
            other => return Err(Error::new(ErrorKind::InvalidInput, other)),
        }
        let mut first = [0];
        match stream.read(&mut first)? {
            0 => Ok("closed".into()),
            _ => Ok("answered".into()),
        }
    };
    done().unwrap_or_else(|error| word(&error))
}

/// Each byte in a segment of its own.
pub(crate) fn slowly(stream: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    for byte in bytes {
        stream.write_all(&[*byte])?;
        thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}
