//! A stdio MCP server that tells what it sees of the host, and tries what it is told.

use std::{
    fs,
    io::{self, BufRead, Write},
};

use serde_json::{Value, json};

const TOOLS: [&str; 4] = ["about", "reach", "open", "wait"];

/// Answers one message a line until its input ends.
pub(crate) fn serve() -> anyhow::Result<()> {
    eprintln!("a stdio server speaks to people");
    let mut out = io::stdout();
    for line in io::stdin().lock().lines() {
        let message: Value = serde_json::from_str(&line?)?;
        let Some(id) = message.get("id") else { continue };
        let params = &message["params"];
        let result = match message["method"].as_str() {
            Some("initialize") => {
                json!({ "protocolVersion": params["protocolVersion"], "capabilities": { "tools": {} },
                "serverInfo": { "name": "probe", "version": "1" } })
            }
            Some("tools/list") => json!({ "tools": TOOLS.map(|name| json!({ "name": name, "description": "a tool",
                "inputSchema": { "type": "object" } })) }),
            Some("tools/call") => {
                let text = called(params["name"].as_str().unwrap_or_default(), &params["arguments"]);
                json!({ "content": [{ "type": "text", "text": text }] })
            }
            _ => json!({}),
        };
        writeln!(out, "{}", json!({ "jsonrpc": "2.0", "id": id, "result": result }))?;
        out.flush()?;
    }
    Ok(())
}

fn called(tool: &str, arguments: &Value) -> String {
    let to = arguments["to"].as_str().unwrap_or_default();
    match tool {
        "about" => about().to_string(),
        "reach" => match to.parse() {
            Ok(to) => crate::agent::tcp(to, "from a server"),
            Err(error) => format!("{error}"),
        },
        "open" => fs::write(to, "a server was here").map_or_else(|error| crate::agent::word(&error), |()| "ok".into()),
        "wait" => loop {
            std::thread::sleep(std::time::Duration::from_secs(1));
        },
        other => format!("what is {other}?"),
    }
}

/// What this process sees of itself.
fn about() -> Value {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).unwrap_or_default()
    };
    let environment: Vec<String> = std::env::vars().map(|(name, value)| format!("{name}={value}")).collect();
    let mut descriptors: Vec<String> = Vec::new();
    // The directory's own descriptor is open only while it is read.
    let numbers: Vec<String> = fs::read_dir("/proc/self/fd")
        .map(|found| found.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default();
    for number in numbers {
        if let Ok(to) = fs::read_link(format!("/proc/self/fd/{number}")) {
            let to = to.to_string_lossy().into_owned();
            descriptors.push(format!("{number} {}", to.split(':').next().unwrap_or_default()));
        }
    }
    descriptors.sort();
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let limit = |name: &str| {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line[name.len()..].split_whitespace().next().unwrap_or_default().to_owned()
    };
    let processes = fs::read_dir("/proc")
        .map(|found| found.flatten().filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok()).count())
        .unwrap_or_default();
    json!({ "uid": field("Uid:"), "groups": field("Groups:"), "capabilities": field("CapEff:"), "bounding": field("CapBnd:"),
        "no_new_privs": field("NoNewPrivs:"), "seccomp": field("Seccomp:"), "environment": environment,
        "descriptors": descriptors, "data": limit("Max data size"), "threads": limit("Max processes"),
        "directory": std::env::current_dir().unwrap_or_default(), "processes": processes,
        "cgroup": fs::read_to_string("/proc/self/cgroup").unwrap_or_default() })
}
