//! Clients of models as a process has them that is timed.

use std::{io::Write, net::SocketAddr, time::Instant};

use nix::sys::epoll::EpollTimeout;

use crate::{
    mcp_http::{Connection, split},
    mcp_worker::watch,
    median,
    model_provider::{self, SENT},
    percentile,
};
use nix::sys::epoll::EpollEvent;

/// Calls before the first that counts.
const WARM: usize = 20;
/// What an agent says before it asks: some bytes of instructions.
const INSTRUCTIONS: usize = 2000;
/// How every answer in chunks ends.
const END: &[u8] = b"\r\n0\r\n\r\n";

pub(crate) fn main(name: &str, words: &[&str]) {
    match (name, words) {
        ("model-provider", [at]) => model_provider::serve(at.parse().unwrap()),
        ("model-call", [at, model, count]) => print(&calls(at.parse().unwrap(), model, count.parse().unwrap())),
        ("model-stream", [at, model]) => print(&[stream(at.parse().unwrap(), model)]),
        ("model-pace", [at, streams, events]) => {
            print(&pace(at.parse().unwrap(), streams.parse().unwrap(), events.parse().unwrap()));
        }
        other => panic!("no such worker: {other:?}"),
    }
}

fn print(figures: &[f64]) {
    println!("{}", figures.iter().map(f64::to_string).collect::<Vec<_>>().join(" "));
}

/// A request as OpenAI's clients make it.
fn request(at: SocketAddr, model: &str) -> Vec<u8> {
    let (streams, instructions) = (model != "gpt-whole", "Be brief. ".repeat(INSTRUCTIONS / 10));
    let body = format!(
        r#"{{"model":"{model}","stream":{streams},"messages":[{{"role":"system","content":"{instructions}"}},{{"role":"user","content":"How is the weather in Lisbon today?"}}]}}"#
    );
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: {at}\r\nAccept: application/json\r\nContent-Type: application/json\r\n\
         Authorization: Bearer none\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into()
}

/// The body's beginning, once there is some of it: behind the head, and behind the first chunk's length.
fn body(came: &[u8]) -> Option<&[u8]> {
    let (head, rest) = split(came)?;
    assert!(head.starts_with("HTTP/1.1 200"), "{}", String::from_utf8_lossy(came));
    let at = if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        rest.windows(2).position(|part| part == b"\r\n")? + 2
    } else {
        0
    };
    rest.get(at..).filter(|body| !body.is_empty())
}

/// Whether an answer is all there.
fn is_whole(came: &[u8]) -> bool {
    came.ends_with(END) || crate::mcp_http::Message::first(came).is_some()
}

/// One caller's calls, one after another. Answers nanoseconds until the body's first byte, its median and the 99th of 100; and the
/// same until its last.
fn calls(at: SocketAddr, model: &str, count: usize) -> [f64; 4] {
    let (mut connection, request) = (Connection::to(at), request(at, model));
    let (mut first, mut last, mut buffer) = (Vec::new(), Vec::new(), [0; 1 << 14]);
    for number in 0..WARM + count {
        let (since, mut begun) = (Instant::now(), None);
        connection.stream.write_all(&request).unwrap();
        while !is_whole(&connection.came) {
            assert!(connection.read(&mut buffer), "hung up on");
            if begun.is_none() && body(&connection.came).is_some() {
                begun = Some(since.elapsed());
            }
        }
        let ended = since.elapsed();
        assert!(body(&connection.came).unwrap().starts_with(if model == "gpt-whole" { b"{\"id\"" } else { b"data:" }));
        connection.came.clear();
        if number >= WARM {
            first.push(begun.unwrap().as_nanos() as f64);
            last.push(ended.as_nanos() as f64);
        }
    }
    [median(&mut first.clone()), percentile(&mut first, 99), median(&mut last.clone()), percentile(&mut last, 99)]
}

/// What a body in chunks carries, counted as it comes.
#[derive(Default)]
struct Counted {
    bytes: u64,
    /// Of the chunk that is being read: what is missing, the end of its line included.
    missing: usize,
    /// A length's line that is not all there.
    line: Vec<u8>,
    ended: bool,
}

impl Counted {
    fn take(&mut self, mut came: &[u8]) {
        while !came.is_empty() {
            if self.missing > 0 {
                let part = self.missing.min(came.len());
                self.missing -= part;
                came = &came[part..];
                continue;
            }
            let end = came.iter().position(|byte| *byte == b'\n').map_or(came.len(), |at| at + 1);
            self.line.extend_from_slice(&came[..end]);
            came = &came[end..];
            if self.line.ends_with(b"\r\n") {
                let length = usize::from_str_radix(std::str::from_utf8(&self.line).unwrap().trim(), 16).unwrap();
                self.line.clear();
                self.bytes += length as u64;
                self.missing = length + 2;
                self.ended |= length == 0;
            }
        }
    }
}

/// Megabytes a second of one answer, from the request to its end.
fn stream(at: SocketAddr, model: &str) -> f64 {
    let (mut connection, request) = (Connection::to(at), request(at, model));
    let (mut buffer, mut counted) = (vec![0; 1 << 17], Counted::default());
    let since = Instant::now();
    connection.stream.write_all(&request).unwrap();
    while body(&connection.came).is_none() {
        assert!(connection.read(&mut buffer), "hung up on");
    }
    counted.take(split(&connection.came).unwrap().1);
    while !counted.ended {
        connection.came.clear();
        assert!(connection.read(&mut buffer), "hung up on");
        counted.take(&connection.came);
    }
    let megabytes = counted.bytes as f64 / 1e6;
    // All that the provider sent is there.
    let promised: f64 = model.rsplit('-').next().unwrap().parse().unwrap();
    assert!(megabytes > 0.99 * promised, "{megabytes} of {promised} MB");
    megabytes / since.elapsed().as_secs_f64()
}

/// So many streams at once, of so many events each, at a provider's pace, read by one thread. Answers of each event's nanoseconds on its way
/// the median, the 99th of 100 and the 999th of 1000; how many of a million took over a millisecond; and how many came in a second.
fn pace(at: SocketAddr, streams: usize, events: usize) -> [f64; 5] {
    let mut connections: Vec<Connection> = (0..streams).map(|_| Connection::to(at)).collect();
    let epoll = watch(connections.iter());
    let request = request(at, &format!("gpt-paced-{events}"));
    let (mut ready, mut buffer) = ([EpollEvent::empty(); 256], [0; 1 << 14]);
    let (mut took, mut left, since) = (Vec::with_capacity(streams * events), streams, Instant::now());
    for connection in &mut connections {
        connection.stream.write_all(&request).unwrap();
        // Not all of them at the same moment of their pace.
        std::thread::sleep(model_provider::PACE / u32::try_from(streams).unwrap());
    }
    while left > 0 {
        let count = epoll.wait(&mut ready, EpollTimeout::NONE).unwrap();
        for event in &ready[..count] {
            let connection = &mut connections[event.data() as usize];
            assert!(connection.read(&mut buffer), "hung up on");
            let now = sys::clock::boot_ns();
            while let Some((sent, length)) = sent(&connection.came) {
                took.push(now.saturating_sub(sent) as f64);
                connection.came.drain(..length);
            }
            if connection.came.ends_with(END) {
                connection.came.clear();
                left -= 1;
            }
        }
    }
    assert_eq!(took.len(), streams * events, "not all events came");
    let late = took.iter().filter(|took| **took > 1e6).count() as f64 * 1e6 / took.len() as f64;
    let rate = took.len() as f64 / since.elapsed().as_secs_f64();
    let thousandth = took.len() / 1000;
    [median(&mut took), percentile(&mut took, 99), took[took.len() - 1 - thousandth], late, rate]
}

/// When the first event that is all there was sent, and up to where it goes.
fn sent(came: &[u8]) -> Option<(u64, usize)> {
    let from = came.windows(SENT.len()).position(|part| part == SENT.as_bytes())? + SENT.len();
    let length = came[from..].iter().position(|byte| !byte.is_ascii_digit())?;
    let end = came[from..].windows(2).position(|part| part == b"\n\n")? + from + 2;
    Some((std::str::from_utf8(&came[from..from + length]).unwrap().parse().unwrap(), end))
}
