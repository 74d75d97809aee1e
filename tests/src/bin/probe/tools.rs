//! An agent's MCP client, as small as one can be: `tools list URL`, `tools call URL NAME ARGUMENTS` and so on.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

struct Answer {
    status: u16,
    session: Option<String>,
    body: String,
}

impl Answer {
    /// The last message, whichever way it came.
    fn message(&self) -> Result<Value> {
        let last = self.body.lines().filter_map(|line| line.strip_prefix("data: ")).rfind(|data| !data.is_empty());
        serde_json::from_str(last.unwrap_or(&self.body)).with_context(|| format!("HTTP {}: {}", self.status, self.body))
    }
}

pub(crate) fn run(words: &[&str]) -> Result<()> {
    match words {
        ["list", url] => {
            let session = begin(url)?;
            let listed =
                post(url, &session, &json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" }))?.message()?;
            let tools = listed["result"]["tools"].as_array().cloned().unwrap_or_default();
            let names: Vec<&str> = tools.iter().filter_map(|tool| tool["name"].as_str()).collect();
            println!("{}", names.join(" "));
        }
        ["call", url, tool, arguments] => {
            let session = begin(url)?;
            println!("{}", call(url, &session, tool, arguments)?);
        }
        // The same again for each line that comes.
        ["calls", url, tool, arguments] => {
            let session = begin(url)?;
            println!("ready {session}");
            for line in std::io::stdin().lines() {
                line?;
                match call(url, &session, tool, arguments) {
                    Ok(answer) => println!("answer {answer}"),
                    Err(error) => println!("failed {error:#}"),
                }
            }
        }
        ["large", url, bytes] => {
            let name = "x".repeat(bytes.parse()?);
            let hello = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": { "x": name } });
            println!("{}", post(url, "", &hello)?.status);
        }
        ["raw", url, session, body] => {
            let answer = post(url, session, &serde_json::from_str(body)?)?;
            println!("{} {}", answer.status, answer.body);
        }
        other => bail!("no such client: {other:?}"),
    }
    Ok(())
}

fn begin(url: &str) -> Result<String> {
    let hello = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": { "protocolVersion": "2025-11-25",
        "capabilities": {}, "clientInfo": { "name": "probe", "version": "0" } } });
    let answer = post(url, "", &hello)?;
    let session = answer.session.with_context(|| format!("HTTP {}: {}", answer.status, answer.body))?;
    post(url, &session, &json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }))?;
    Ok(session)
}

fn call(url: &str, session: &str, tool: &str, arguments: &str) -> Result<Value> {
    let arguments: Value = serde_json::from_str(arguments)?;
    let params = json!({ "name": tool, "arguments": arguments });
    post(url, session, &json!({ "jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params }))?.message()
}

fn post(url: &str, session: &str, message: &Value) -> Result<Answer> {
    let rest = url.strip_prefix("http://").context("http:// is expected")?;
    let (host, path) = rest.split_once('/').context("a path is expected")?;
    let mut stream = TcpStream::connect(host)?;
    let body = message.to_string();
    let session = if session.is_empty() { String::new() } else { format!("Mcp-Session-Id: {session}\r\n") };
    write!(
        stream,
        "POST /{path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\n\
         Connection: close\r\n{session}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").context("no answer")?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    let header = |name: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
    };
    let chunked = header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"));
    let body = if chunked { unchunked(body) } else { body.to_owned() };
    Ok(Answer { status, session: header("mcp-session-id"), body })
}

fn unchunked(mut rest: &str) -> String {
    let mut whole = String::new();
    while let Some((length, after)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length.trim(), 16).unwrap_or(0);
        if length == 0 || after.len() < length {
            break;
        }
        whole.push_str(&after[..length]);
        rest = after[length..].trim_start_matches("\r\n");
    }
    whole
}
