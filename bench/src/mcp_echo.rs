//! An MCP server that does as little as one can: what a call takes beside it is the way there.

use std::{
    io::Write,
    net::{SocketAddr, TcpListener},
    os::fd::AsRawFd,
};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use serde_json::{Value, json};

use crate::mcp_http::{Connection, Message};

/// A place at which it tells how many calls wait.
const WAITING: &str = "GET /waiting ";

/// Of how many things is told at once.
const AT_ONCE: usize = 256;

struct Client {
    connection: Connection,
    /// A call of it is never answered.
    waits: bool,
}

#[derive(Default)]
struct Server {
    /// By their descriptors.
    clients: Vec<Option<Client>>,
    waiting: usize,
    sessions: usize,
}

/// Serves for ever, by one thread.
pub(crate) fn serve(at: SocketAddr) {
    let listener = TcpListener::bind(at).unwrap();
    nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(4096).unwrap()).unwrap();
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
    let watch = |fd: usize| EpollEvent::new(EpollFlags::EPOLLIN, fd as u64);
    let listens = listener.as_raw_fd() as usize;
    epoll.add(&listener, watch(listens)).unwrap();
    println!("ready");
    let mut server = Server::default();
    let (mut events, mut buffer) = ([EpollEvent::empty(); AT_ONCE], [0; 1 << 16]);
    loop {
        let count = epoll.wait(&mut events, EpollTimeout::NONE).unwrap();
        for event in &events[..count] {
            let fd = event.data() as usize;
            if fd == listens {
                let Ok((stream, _)) = listener.accept() else { continue };
                let fd = stream.as_raw_fd() as usize;
                epoll.add(&stream, watch(fd)).unwrap();
                server.clients.resize_with(server.clients.len().max(fd + 1), || None);
                server.clients[fd] = Some(Client { connection: Connection::new(stream), waits: false });
            } else if let Some(mut client) = server.clients[fd].take() {
                if client.connection.read(&mut buffer) && server.answer(&mut client) {
                    server.clients[fd] = Some(client);
                } else {
                    server.waiting -= usize::from(client.waits);
                }
            }
        }
    }
}

impl Server {
    /// Answers what came. Tells whether the client is still there.
    fn answer(&mut self, client: &mut Client) -> bool {
        let mut out = Vec::new();
        let mut read = 0;
        while let Some(message) = Message::first(&client.connection.came[read..]) {
            read += message.length;
            if message.head.starts_with(WAITING) {
                respond(&mut out, "200 OK", "text/plain", &self.waiting.to_string());
                // Whoever asks reads to the end.
                let _ = client.connection.stream.write_all(&out);
                return false;
            } else if message.head.starts_with("GET ") {
                // A stream on which nothing comes.
                out.extend_from_slice(
                    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
                );
            } else if message.head.starts_with("DELETE ") {
                respond(&mut out, "200 OK", "text/plain", "");
            } else {
                let asked: Value = serde_json::from_slice(&message.body).unwrap();
                self.called(&asked, &mut client.waits, &mut out);
            }
        }
        client.connection.came.drain(..read);
        client.connection.stream.write_all(&out).is_ok()
    }

    fn called(&mut self, asked: &Value, waits: &mut bool, out: &mut Vec<u8>) {
        let method = asked["method"].as_str().unwrap_or_default();
        let Some(id) = asked.get("id") else { return respond(out, "202 Accepted", "text/plain", "") };
        let mut session = String::new();
        let result = match method {
            "initialize" => {
                self.sessions += 1;
                session = format!("application/json\r\nMcp-Session-Id: session-{}", self.sessions);
                json!({ "protocolVersion": asked["params"]["protocolVersion"], "capabilities": { "tools": {} },
                    "serverInfo": { "name": "echo", "version": "1" } })
            }
            "tools/list" => json!({ "tools": tools() }),
            "tools/call" if asked["params"]["name"] == "wait" => {
                self.waiting += 1;
                *waits = true;
                return;
            }
            "tools/call" => json!({ "content": [{ "type": "text", "text": asked["params"]["arguments"]["message"] }] }),
            _ => json!({}),
        };
        let kind = if session.is_empty() { "application/json" } else { &session };
        respond(out, "200 OK", kind, &json!({ "jsonrpc": "2.0", "id": id, "result": result }).to_string());
    }
}

/// A handful.
fn tools() -> Vec<Value> {
    let schema = json!({ "type": "object", "properties": { "message": { "type": "string" } } });
    ["echo", "wait", "read_file", "list_files", "search"]
        .map(|name| json!({ "name": name, "description": format!("The tool {name}."), "inputSchema": schema }))
        .into()
}

fn respond(out: &mut Vec<u8>, status: &str, kind: &str, body: &str) {
    write!(out, "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
}
