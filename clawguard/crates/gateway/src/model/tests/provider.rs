//! A provider of a test's own: it sends what it is told, byte by byte.

use std::{
    collections::VecDeque,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};

/// A provider that answers with these bytes, as they come. It hears what it is sent, and when the other side hangs up.
pub(super) struct Provider {
    pub(super) at: SocketAddr,
    heard: mpsc::UnboundedReceiver<Request>,
    answers: Arc<Mutex<VecDeque<mpsc::UnboundedReceiver<Step>>>>,
    /// Connections that were hung up on it.
    pub(super) closed: Arc<Mutex<usize>>,
}

/// What a provider does next.
pub(super) enum Step {
    Send(Vec<u8>),
    /// Hangs up.
    Close,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(super) struct Request {
    /// The line and the headers.
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

impl Request {
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// A header's values.
    pub(super) fn header(&self, name: &str) -> Vec<String> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned()).collect()
    }

    pub(super) fn path(&self) -> &str {
        self.head.split(' ').nth(1).unwrap()
    }
}

async fn read_request(stream: &mut BufReader<TcpStream>) -> io::Result<Request> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await?;
    Ok(Request { head, body })
}

impl Provider {
    pub(super) async fn new() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let at = listener.local_addr().unwrap();
        let (told, heard) = mpsc::unbounded_channel();
        let answers: Arc<Mutex<VecDeque<mpsc::UnboundedReceiver<Step>>>> = Arc::default();
        let closed: Arc<Mutex<usize>> = Arc::default();
        let provider = Self { at, heard, answers: Arc::clone(&answers), closed: Arc::clone(&closed) };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (told, answers, closed) = (told.clone(), Arc::clone(&answers), Arc::clone(&closed));
                tokio::spawn(async move {
                    let mut stream = BufReader::new(stream);
                    while let Ok(request) = read_request(&mut stream).await {
                        let _ = told.send(request);
                        let Some(mut steps) = answers.lock().unwrap().pop_front() else { return };
                        loop {
                            let mut byte = [0];
                            tokio::select! {
                                step = steps.recv() => match step {
                                    Some(Step::Send(bytes)) => {
                                        if stream.write_all(&bytes).await.is_err() {
                                            break;
                                        }
                                        let _ = stream.flush().await;
                                    }
                                    Some(Step::Close) => return,
                                    None => break,
                                },
                                read = stream.read(&mut byte) => {
                                    // Nothing is sent before an answer's end: this is the other side's end.
                                    assert!(!matches!(read, Ok(1)));
                                    *closed.lock().unwrap() += 1;
                                    return;
                                }
                            }
                        }
                    }
                });
            }
        });
        provider
    }

    /// Has the next request answered step by step; the answer ends when the sender does.
    pub(super) fn steps(&self) -> mpsc::UnboundedSender<Step> {
        let (sender, steps) = mpsc::unbounded_channel();
        self.answers.lock().unwrap().push_back(steps);
        sender
    }

    /// Has it answered with these bytes.
    pub(super) fn raw(&self, bytes: impl AsRef<[u8]>) {
        self.steps().send(Step::Send(bytes.as_ref().to_vec())).unwrap_or_default();
    }

    /// Has it answered with this body.
    pub(super) fn body(&self, status: u16, kind: &str, body: &str) {
        let length = body.len();
        self.raw(format!("HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n{body}"));
    }

    /// What it was asked next.
    pub(super) async fn heard(&mut self) -> Request {
        timeout(Duration::from_secs(10), self.heard.recv()).await.expect("a request").unwrap()
    }

    pub(super) fn is_unasked(&mut self) -> bool {
        self.heard.try_recv().is_err()
    }
}

pub(super) fn chunk(text: &str) -> Step {
    Step::Send(format!("{:x}\r\n{text}\r\n", text.len()).into_bytes())
}

pub(super) const EVENTS: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n";
