//! A model provider that answers at once and in OpenAI's form: what a call takes beside it is the way there.

use std::{
    fmt::Write as _,
    io::Write,
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::mcp_http::{Connection, Message};

/// Bytes of an event as OpenAI's and Anthropic's models stream a token; and of the largest reads that a gateway makes of a provider that is ahead.
const SMALL: usize = 200;
const LARGE: usize = 16 << 10;
/// How an event says when it was sent (nanoseconds, CLOCK_BOOTTIME).
pub(crate) const SENT: &str = "\"created\":";
/// Between two events of a stream that comes at a provider's pace.
pub(crate) const PACE: Duration = Duration::from_millis(10);

const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
const END: &str = "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";

/// Serves for ever, by a thread for each connection.
pub(crate) fn serve(at: SocketAddr) {
    let listener = TcpListener::bind(at).unwrap();
    nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(4096).unwrap()).unwrap();
    println!("ready");
    for stream in listener.incoming().flatten() {
        thread::spawn(move || talk(Connection::new(stream)));
    }
}

fn talk(mut connection: Connection) {
    let mut buffer = [0; 1 << 14];
    while connection.read(&mut buffer) {
        let Some(message) = Message::first(&connection.came) else { continue };
        let asked: Value = serde_json::from_slice(&message.body).unwrap();
        let length = message.length;
        connection.came.drain(..length);
        // Whoever asked may have gone.
        if answer(&mut connection.stream, asked["model"].as_str().unwrap()).is_err() {
            return;
        }
    }
}

/// What comes of a model's name: `gpt-small-64` streams 64 MB in small events.
fn answer(out: &mut TcpStream, model: &str) -> std::io::Result<()> {
    let words: Vec<&str> = model.split('-').skip(1).collect();
    match words.as_slice() {
        ["whole"] => whole(out, model),
        ["first"] => {
            out.write_all(format!("{HEAD}{}", chunk(&event(1, SMALL))).as_bytes())?;
            out.write_all(END.as_bytes())
        }
        ["small", megabytes] => stream(out, SMALL, megabytes),
        ["large", megabytes] => stream(out, LARGE, megabytes),
        ["paced", count] => paced(out, count.parse().unwrap()),
        _ => panic!("no such model: {model}"),
    }
}

fn whole(out: &mut TcpStream, model: &str) -> std::io::Result<()> {
    let text = format!(
        r#"{{"id":"chatcmpl-1","object":"chat.completion","model":"{model}","choices":[{{"index":0,"message":{{"role":"assistant","content":"{}"}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":9,"completion_tokens":60,"total_tokens":69}}}}"#,
        "word ".repeat(60)
    );
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", text.len());
    out.write_all(format!("{head}{text}").as_bytes())
}

/// An event of so many bytes.
fn event(sent: u64, bytes: usize) -> String {
    let (before, after) = (
        format!(
            r#"data: {{"id":"chatcmpl-1","object":"chat.completion.chunk",{SENT}{sent},"model":"gpt-5-mini","choices":[{{"index":0,"delta":{{"content":""#
        ),
        "\"},\"finish_reason\":null}]}\n\n",
    );
    format!("{before}{}{after}", "x".repeat(bytes.saturating_sub(before.len() + after.len())))
}

fn chunk(event: &str) -> String {
    format!("{:x}\r\n{event}\r\n", event.len())
}

/// So many megabytes, as fast as they are taken, each event a chunk and a write of its own.
fn stream(out: &mut TcpStream, size: usize, megabytes: &str) -> std::io::Result<()> {
    let chunk = chunk(&event(1, size));
    out.write_all(HEAD.as_bytes())?;
    for _ in 0..megabytes.parse::<usize>().unwrap() * 1_000_000 / size {
        out.write_all(chunk.as_bytes())?;
    }
    out.write_all(END.as_bytes())
}

/// So many events, each at its time, and each says when it was sent.
fn paced(out: &mut TcpStream, count: u32) -> std::io::Result<()> {
    out.write_all(HEAD.as_bytes())?;
    let (since, mut text) = (Instant::now(), String::new());
    for number in 0..count {
        thread::sleep((PACE * number).saturating_sub(since.elapsed()));
        text.clear();
        let _ = write!(text, "{}", chunk(&event(sys::clock::boot_ns(), SMALL)));
        out.write_all(text.as_bytes())?;
    }
    out.write_all(END.as_bytes())
}
