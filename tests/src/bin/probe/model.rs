//! A client of model providers that needs nothing of its host: what it says and hears is plain HTTP/1.1.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, bail};

const PATH: &str = "/v1/chat/completions";

pub(crate) fn run(words: &[&str]) -> anyhow::Result<()> {
    match words {
        // One call: its status, and its answer.
        ["call", to, body] => {
            let (status, text) = Client::to(to.parse()?)?.post(PATH, body)?;
            println!("{status} {}", text.replace('\n', "\\n"));
        }
        // A call for each line that is said: its status, and its answer.
        ["calls", to, body] => {
            println!("ready");
            let mut line = String::new();
            while std::io::stdin().read_line(&mut line)? > 0 {
                let answer = Client::to(to.parse()?).and_then(|mut client| client.post(PATH, body));
                match answer {
                    Ok((status, text)) => println!("answer {status} {}", text.replace('\n', "\\n")),
                    Err(error) => println!("answer none {error}"),
                }
                line.clear();
            }
        }
        // What a provider's other paths say.
        ["get", to, path] => {
            let (status, text) = Client::to(to.parse()?)?.ask(&format!("GET {path}"), "")?;
            println!("{status} {text}");
        }
        // One call whose answer is told line by line, after "go" was said.
        ["stream", to, body] => stream(to.parse()?, body)?,
        // So many connections, each for so many calls, once "go" was said; then how many were answered, and "done".
        ["load", to, connections, calls, body] => load(to.parse()?, connections.parse()?, calls.parse()?, body)?,
        other => bail!("no such client: {other:?}"),
    }
    Ok(())
}

struct Client {
    to: SocketAddr,
    stream: BufReader<TcpStream>,
}

impl Client {
    fn to(to: SocketAddr) -> anyhow::Result<Self> {
        // Whoever calls while a gateway is being killed is told nothing.
        let stream = TcpStream::connect_timeout(&to, Duration::from_secs(10))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(Self { to, stream: BufReader::new(stream) })
    }

    fn post(&mut self, path: &str, body: &str) -> anyhow::Result<(u16, String)> {
        self.ask(&format!("POST {path}"), body)
    }

    fn ask(&mut self, what: &str, body: &str) -> anyhow::Result<(u16, String)> {
        let (status, length) = self.head(what, body)?;
        let mut all = Vec::new();
        match length {
            Some(length) => {
                all.resize(length, 0);
                self.stream.read_exact(&mut all)?;
            }
            None => {
                while let Some(part) = self.chunk()? {
                    all.extend(part);
                }
            }
        }
        Ok((status, String::from_utf8_lossy(&all).into_owned()))
    }

    /// Sends a request and reads the answer's head: its status, and its length unless it comes in chunks.
    fn head(&mut self, what: &str, body: &str) -> anyhow::Result<(u16, Option<usize>)> {
        write!(
            self.stream.get_mut(),
            "{what} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer sk-dummy\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            self.to,
            body.len()
        )?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).context("no answer")?.parse()?;
        let mut length = None;
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = Some(value.trim().parse()?);
            }
        }
        Ok((status, length))
    }

    fn chunk(&mut self) -> anyhow::Result<Option<Vec<u8>>> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            bail!("cut");
        }
        let size = usize::from_str_radix(line.trim_end().split(';').next().unwrap_or_default(), 16)?;
        let mut part = vec![0; size];
        self.stream.read_exact(&mut part)?;
        self.stream.read_exact(&mut [0; 2])?;
        Ok((size > 0).then_some(part))
    }
}

fn said() -> anyhow::Result<()> {
    println!("ready");
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}

fn stream(to: SocketAddr, body: &str) -> anyhow::Result<()> {
    said()?;
    let mut client = Client::to(to)?;
    let (status, _) = client.head(&format!("POST {PATH}"), body)?;
    println!("status {status}");
    loop {
        match client.chunk() {
            Ok(Some(part)) => {
                let text = String::from_utf8_lossy(&part);
                text.lines().filter(|line| !line.is_empty()).for_each(|line| println!("{line}"));
            }
            Ok(None) => break println!("end"),
            Err(error) => break println!("cut {error}"),
        }
    }
    // Its job goes on until somebody has looked.
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}

fn load(to: SocketAddr, connections: usize, calls: usize, body: &str) -> anyhow::Result<()> {
    said()?;
    let mut answered = 0;
    for _ in 0..connections {
        match by_one(to, calls, body) {
            Ok(count) => answered += count,
            Err(error) => println!("failed {error:#}"),
        }
    }
    println!("answered {answered}");
    println!("done");
    // Its job goes on until somebody has looked; and makes one more call for each line that is said.
    let mut line = String::new();
    while std::io::stdin().read_line(&mut line)? > 0 {
        by_one(to, 1, body)?;
        println!("done");
        line.clear();
    }
    Ok(())
}

/// So many calls over one connection; how many were answered with a receipt.
fn by_one(to: SocketAddr, calls: usize, body: &str) -> anyhow::Result<usize> {
    let mut client = Client::to(to)?;
    let mut answered = 0;
    for _ in 0..calls {
        let (status, text) = client.post(PATH, body)?;
        if status != 200 || !text.contains("_receipt_envelope") {
            bail!("{status} {text}");
        }
        answered += 1;
    }
    Ok(answered)
}
