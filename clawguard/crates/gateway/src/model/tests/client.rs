//! A client that reads HTTP by itself, so that it sees how an answer ends.

use std::time::Duration;

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::TcpStream,
    time::timeout,
};

/// An answer of the gateway's, as it came.
#[derive(Clone, Debug)]
pub(super) struct Got {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: String,
    /// Whether it ended as an answer does, and was not cut.
    pub(super) whole: bool,
}

impl Got {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(super) fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// A client's side of a connection. It reads HTTP by itself, so that it sees how an answer ends.
pub(super) struct Client {
    pub(super) stream: BufReader<TcpStream>,
}

impl Client {
    pub(super) async fn get(&mut self) -> Got {
        let mut got = self.head().await;
        got.whole = loop {
            match self.piece(&got).await {
                Some(piece) if piece.is_empty() => break true,
                Some(piece) => got.body += &piece,
                None => break false,
            }
        };
        got
    }

    pub(super) async fn head(&mut self) -> Got {
        let read = async {
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                assert_ne!(self.stream.read_line(&mut head).await.unwrap(), 0, "{head}");
            }
            head
        };
        let head = timeout(Duration::from_secs(10), read).await.expect("an answer");
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Got { status, head, body: String::new(), whole: false }
    }

    /// The next piece: empty at the end, `None` where it was cut.
    pub(super) async fn piece(&mut self, of: &Got) -> Option<String> {
        timeout(Duration::from_secs(20), self.next(of)).await.expect("a piece")
    }

    async fn next(&mut self, of: &Got) -> Option<String> {
        let text = |bytes: Vec<u8>| Some(String::from_utf8(bytes).unwrap());
        if let Some(length) = of.header("content-length") {
            let mut all = vec![0; length.parse().unwrap()];
            if of.body.len() == all.len() {
                return Some(String::new());
            }
            return self.stream.read_exact(&mut all).await.ok().and_then(|_| text(all));
        }
        let mut size = String::new();
        if self.stream.read_line(&mut size).await.ok()? == 0 {
            return None;
        }
        let mut bytes = vec![0; usize::from_str_radix(size.trim(), 16).unwrap() + 2];
        self.stream.read_exact(&mut bytes).await.ok()?;
        bytes.truncate(bytes.len() - 2);
        text(bytes)
    }
}
