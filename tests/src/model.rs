//! A model provider of a test's own, or a clawproxy: on loopback of the test's network namespace, outside the fence.

use std::{
    collections::BTreeMap,
    io::{BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use claw::{
    Hash, encoding,
    key::PrivateKey,
    receipt::{Binding, GatewayReceipt},
    time::Instant,
};
use serde_json::{Value, json};

use crate::mcp::head;

/// A request that arrived.
#[derive(Clone, Debug)]
pub struct Asked {
    pub path: String,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

type Change = Arc<dyn Fn(&mut GatewayReceipt) + Send + Sync>;

/// How a clawproxy signs.
#[derive(Clone)]
struct Signs {
    seed: [u8; 32],
    change: Option<Change>,
}

/// The provider. Its threads end with the process.
#[derive(Clone)]
pub struct Provider {
    pub at: SocketAddr,
    heard: Arc<Mutex<Vec<Asked>>>,
    signs: Arc<Mutex<Option<Signs>>>,
}

impl Provider {
    /// Listens in this thread's network namespace. It answers in OpenAI's form: the model `slow` is not done before its caller is.
    pub fn start(at: &str) -> Self {
        let listener = TcpListener::bind(at).unwrap();
        let provider = Self { at: listener.local_addr().unwrap(), heard: Arc::default(), signs: Arc::default() };
        let serving = provider.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let serving = serving.clone();
                thread::spawn(move || serving.serve(stream));
            }
        });
        provider
    }

    /// The configuration by which it stands for OpenAI.
    pub fn configuration(&self) -> String {
        format!(
            "[model]\nproxy = \"builtin\"\nkeys = {{ openai = \"sk-of-the-host\" }}\nendpoints = {{ openai = \"http://{}\" }}\n",
            self.at
        )
    }

    /// Becomes a clawproxy that signs by this key, and what it says of each receipt before.
    pub fn signs(&self, seed: [u8; 32], change: Option<fn(&mut GatewayReceipt)>) {
        let change = change.map(|change| Arc::new(change) as Change);
        *self.signs.lock().unwrap() = Some(Signs { seed, change });
    }

    /// What arrived so far.
    pub fn heard(&self) -> Vec<Asked> {
        self.heard.lock().unwrap().clone()
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
            let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
            let asked = Asked { path, headers, body };
            self.heard.lock().unwrap().push(asked.clone());
            if self.answer(&mut stream, &asked).is_err() {
                return;
            }
        }
    }

    fn answer(&self, stream: &mut TcpStream, asked: &Asked) -> std::io::Result<()> {
        let body: Value = serde_json::from_slice(&asked.body).unwrap_or_default();
        let slow = body["model"] == "slow";
        if body["stream"] == true {
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            let mut all = Vec::new();
            for turn in 0..if slow { 600 } else { 3 } {
                let event =
                    format!("data: {}\n\n", json!({ "choices": [{ "delta": { "content": format!("{turn} ") } }] }));
                all.extend_from_slice(event.as_bytes());
                write!(stream, "{:x}\r\n{event}\r\n", event.len())?;
                stream.flush()?;
                if slow {
                    thread::sleep(Duration::from_millis(100));
                }
            }
            let mut end = String::from("data: [DONE]\n\n");
            all.extend_from_slice(end.as_bytes());
            if let Some(envelope) = self.receipt(asked, &all) {
                end.push_str(&format!(
                    ":clawproxy_receipt_envelope_b64u={}\n\n",
                    encoding::encode(envelope.as_bytes())
                ));
            }
            return write!(stream, "{:x}\r\n{end}\r\n0\r\n\r\n", end.len());
        }
        if slow {
            thread::sleep(Duration::from_secs(60));
        }
        let mut text = json!({ "id": "chatcmpl-1", "object": "chat.completion", "model": body["model"],
            "choices": [{ "index": 0, "message": { "role": "assistant", "content": "hello" }, "finish_reason": "stop" }],
            "usage": { "prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10 } })
        .to_string();
        if let Some(envelope) = self.receipt(asked, text.as_bytes()) {
            text.truncate(text.len() - 1);
            text.push_str(&format!(",\"_receipt_envelope\":{envelope}}}"));
        }
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{text}",
            text.len()
        )
    }

    fn receipt(&self, asked: &Asked, response: &[u8]) -> Option<String> {
        let signs = self.signs.lock().unwrap().clone()?;
        let key = PrivateKey::from_seed(&signs.seed);
        let header = |name: &str| asked.headers.get(name).cloned().unwrap_or_default();
        let now = Instant(sys::clock::wall_ns());
        let mut receipt = GatewayReceipt {
            receipt_id: "rcpt_1".into(),
            gateway_id: "did:web:clawproxy.example".into(),
            provider: "openai".into(),
            model: "gpt-test".into(),
            request_hash: Hash::of(&asked.body),
            response_hash: Hash::of(response),
            tokens_input: 0,
            tokens_output: 0,
            latency_ms: 1,
            timestamp: now,
            binding: Binding {
                run_id: header("x-run-id"),
                event_hash: header("x-event-hash").parse().ok()?,
                nonce: Some(header("x-idempotency-key")),
                policy_hash: header("x-policy-hash").parse().ok(),
                token_scope_hash: None,
            },
            metadata: None,
        };
        if let Some(change) = &signs.change {
            change(&mut receipt);
        }
        Some(receipt.seal(&key, now))
    }
}
