//! An MCP server of a test's own: streamable HTTP of 2025-11-25, on loopback of the test's network namespace, outside the fence.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

/// What a server has heard and how it behaves.
#[derive(Default)]
struct State {
    heard: Vec<(Value, BTreeMap<String, String>)>,
    tools: Vec<Value>,
    identity: String,
    redirect: Option<String>,
}

/// The server. Its threads end with the process.
#[derive(Clone)]
pub struct McpServer {
    pub at: SocketAddr,
    state: Arc<Mutex<State>>,
}

fn tool(name: &str, description: &str) -> Value {
    json!({ "name": name, "description": description, "inputSchema": { "type": "object" } })
}

impl McpServer {
    /// Listens in this thread's network namespace. `slow` is not done before its caller is.
    pub fn start(at: &str) -> Self {
        let listener = TcpListener::bind(at).unwrap();
        let names = ["get_case", "search_customer", "update_case", "delete_case", "slow"];
        let tools = names.map(|name| tool(name, "as it was")).to_vec();
        let state = State { tools, identity: "1".into(), ..State::default() };
        let server = Self { at: listener.local_addr().unwrap(), state: Arc::new(Mutex::new(state)) };
        let serving = server.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let serving = serving.clone();
                thread::spawn(move || serving.serve(stream));
            }
        });
        server
    }

    /// The configuration that names it.
    pub fn configuration(&self, name: &str, risk: &str) -> String {
        format!(
            "[[mcp.server]]\nname = \"{name}\"\nurl = \"http://{}/mcp\"\nrisk = \"{risk}\"\n\
             headers = {{ Authorization = \"Bearer of-the-host\" }}\n",
            self.at
        )
    }

    /// Messages of a method that arrived, with their headers.
    pub fn heard(&self, method: &str) -> Vec<(Value, BTreeMap<String, String>)> {
        self.state.lock().unwrap().heard.iter().filter(|(message, _)| message["method"] == method).cloned().collect()
    }

    /// Names of tools that were really called.
    pub fn called(&self) -> Vec<String> {
        self.heard("tools/call")
            .iter()
            .map(|(message, _)| message["params"]["name"].as_str().unwrap().to_owned())
            .collect()
    }

    pub fn clear(&self) {
        self.state.lock().unwrap().heard.clear();
    }

    /// Gives a tool another definition.
    pub fn redefine(&self, name: &str, description: &str) {
        let mut state = self.state.lock().unwrap();
        state.tools.retain(|known| known["name"] != name);
        state.tools.push(tool(name, description));
    }

    /// Becomes another server.
    pub fn become_another(&self, version: &str) {
        self.state.lock().unwrap().identity = version.into();
    }

    /// Sends whoever calls a tool elsewhere.
    pub fn redirect(&self, to: &str) {
        self.state.lock().unwrap().redirect = Some(to.into());
    }

    fn serve(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut stream = stream;
        while let Some((line, headers)) = head(&mut reader) {
            let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
            let mut body = vec![0; length];
            if reader.read_exact(&mut body).is_err() {
                return;
            }
            let message: Value = serde_json::from_slice(&body).unwrap_or_default();
            self.state.lock().unwrap().heard.push((message.clone(), headers));
            let answered = if line.starts_with("POST") {
                self.answer(&mut stream, &message)
            } else {
                write!(stream, "HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n")
            };
            if answered.is_err() {
                return;
            }
        }
    }

    fn answer(&self, stream: &mut TcpStream, message: &Value) -> std::io::Result<()> {
        let (tools, identity, redirect) = {
            let state = self.state.lock().unwrap();
            (state.tools.clone(), state.identity.clone(), state.redirect.clone())
        };
        let params = &message["params"];
        let result = match message["method"].as_str().unwrap_or_default() {
            "initialize" => json!({ "protocolVersion": "2025-11-25", "capabilities": { "tools": {} },
                "serverInfo": { "name": "crm", "version": identity } }),
            "tools/list" => json!({ "tools": tools }),
            "tools/call" if redirect.is_some() => {
                return write!(
                    stream,
                    "HTTP/1.1 307 Temporary Redirect\r\nLocation: {}\r\nContent-Length: 0\r\n\r\n",
                    redirect.unwrap()
                );
            }
            "tools/call" if params["name"] == "slow" => return Self::slow(stream),
            "tools/call" => {
                json!({ "content": [{ "type": "text", "text": format!("did {}", params["name"].as_str().unwrap()) }] })
            }
            _ => return write!(stream, "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"),
        };
        let body = json!({ "jsonrpc": "2.0", "id": message["id"], "result": result }).to_string();
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nMcp-Session-Id: of-the-server\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    /// Says every now and then that it goes on, until nobody listens any more.
    fn slow(stream: &mut TcpStream) -> std::io::Result<()> {
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        let told = json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": { "level": "info", "data": "still" } });
        let event = format!("data: {told}\n\n");
        for _ in 0..600 {
            write!(stream, "{:x}\r\n{event}\r\n", event.len())?;
            stream.flush()?;
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

pub(crate) fn head(reader: &mut BufReader<TcpStream>) -> Option<(String, BTreeMap<String, String>)> {
    let mut line = String::new();
    if reader.read_line(&mut line).ok()? == 0 {
        return None;
    }
    let first = line.trim_end().to_owned();
    let mut headers = BTreeMap::new();
    loop {
        line.clear();
        reader.read_line(&mut line).ok()?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => drop(headers.insert(name.to_ascii_lowercase(), value.trim().to_owned())),
            None => return Some((first, headers)),
        }
    }
}
