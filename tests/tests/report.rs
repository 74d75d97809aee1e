//! The page of a job's evidence, in a real browser: what it shows, that nothing in it runs, and that it asks nobody.
//!
//! The browser runs in a network namespace without a route, and as nobody else's: its profile is the test's own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use claw::{
    Hash,
    key::PrivateKey,
    receipt::{Binding, Egress, GatewayReceipt, Hosts, Lineage, Liveness, LivenessStatus, Metrics},
    time::Instant,
};
use e2e::built;
use evidence::{
    bundle::{Gathering, Harness, Held, With, write},
    chain::{Head, Kind},
    events::{Runs, Told},
};
use serde_json::{Value, json};

/// Texts that an agent may spell, each of which would say so if it ran.
const HOSTILE: [&str; 7] = [
    "<script>console.error('it_ran')</script>",
    "<img src=x onerror=console.error('it_ran')>",
    "</title></style><svg onload=console.error('it_ran')>",
    "\" onmouseover=console.error('it_ran') x=\"",
    "javascript:console.error('it_ran')",
    "<meta http-equiv=refresh content='0;url=http://192.0.2.1/'><link rel=stylesheet href=http://192.0.2.1/x.css>",
    "\u{202e}gnp.exe\u{0}\u{1b}[2J]]>&lt;b&gt;",
];

fn key(seed: u8) -> PrivateKey {
    PrivateKey::from_seed(&[seed; 32])
}

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("clawguard-report-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.join(name), text).unwrap();
    }
}

/// A morning's work: records as a daemon writes them, one or a few seconds apart.
struct Host {
    head: Head,
    runs: Runs,
    lines: String,
    receipts: Vec<String>,
    clock: u64,
}

const CONTRACT: &str = "QmMQ0aNYNhEVSy7HuvraVk1SsiC7362h7kBTu5jL0i4";

impl Host {
    fn new() -> Self {
        Self { head: Head::default(), runs: Runs::default(), lines: String::new(), receipts: Vec::new(), clock: 0 }
    }

    fn record(&mut self, seconds: u64, kind: Kind, body: &Value) -> Option<evidence::events::Event> {
        self.clock += seconds;
        let at = Instant(1_772_353_800_000_000_000 + self.clock * 1_000_000_000);
        let (seq, text) = (self.head.next, body.to_string());
        let (line, head) = self.head.append(kind, at, body);
        (self.head, self.lines) = (head, std::mem::take(&mut self.lines) + &line);
        self.runs.take(&Told { seq, at, kind, body: &text }).into_iter().next().map(|made| made.event)
    }

    fn call(&mut self, seconds: u64, tool: &str, decision: &str, reason: &str) {
        let status = (decision == "allowed").then_some("ok");
        let hash = Hash::of(tool.as_bytes()).to_string();
        let body = json!({ "job": "triage-0301", "agent": "support-bot", "server": "crm", "method": "tools/call",
            "tool": tool, "arguments_sha256": hash, "decision": decision, "reason": reason, "status": status,
            "rule": "metadata.clawguard.v1.tools.allow[0]", "duration_us": 41_000, "result_sha256": status.map(|_| hash.clone()),
            "wpc_hash": CONTRACT });
        self.record(seconds, Kind::Call, &body);
    }

    fn model(&mut self, seconds: u64) {
        let body =
            json!({ "job": "triage-0301", "decision": "allowed", "provider": "anthropic", "model": "claude-sonnet-4" });
        let event = self.record(seconds, Kind::Model, &body).unwrap();
        let receipt = GatewayReceipt {
            receipt_id: format!("rcpt_{}", self.receipts.len()),
            gateway_id: "did:web:clawproxy.com".into(),
            provider: "anthropic".into(),
            model: "claude-sonnet-4".into(),
            request_hash: Hash::of(b"request"),
            response_hash: Hash::of(b"response"),
            tokens_input: 300,
            tokens_output: 120,
            latency_ms: 900,
            timestamp: event.timestamp,
            binding: Binding {
                run_id: event.run_id.as_ref().into(),
                event_hash: event.event_hash,
                nonce: None,
                policy_hash: CONTRACT.parse().ok(),
                token_scope_hash: None,
            },
            metadata: None,
        };
        self.receipts.push(receipt.seal(&key(0x33), event.timestamp));
    }

    fn traffic(&mut self, entries: &[(&str, &str, &str, u64)]) {
        let entry = |(name, remote, verdict, count): &(&str, &str, &str, u64)| {
            let reason = if *verdict == "denied" { "not_in_contract" } else { "allowed" };
            json!({ "job": "triage-0301", "agent": "support-bot", "verdict": verdict, "reason": reason, "name": name,
                "remote": remote, "count": count, "protocol": "tcp" })
        };
        self.record(9, Kind::Decisions, &json!({ "decisions": entries.iter().map(entry).collect::<Vec<_>>() }));
    }
}

/// A job with something of everything, and hostile words in every place that an agent can fill.
fn evidence(folder: &Folder) {
    let mut host = Host::new();
    let start = json!({ "job": "triage-0301", "agent": "support-bot", "wpc_hash": CONTRACT, "own_contract": false,
        "mode": "enforce", "origin": "run", "cgroup": "agents.slice", "actor": { "uid": 0 } });
    host.record(0, Kind::JobStart, &start);
    host.record(0, Kind::Token, &json!({ "result": "presented", "job": "triage-0301" }));
    host.model(3);
    for _ in 0..4 {
        host.call(2, "search_customer", "allowed", "allowed");
    }
    host.call(4, "export_all", "denied", "not_in_contract");
    host.traffic(&[
        ("crm.example.com", "203.0.113.10:443", "allowed", 21),
        ("tickets.example.com", "203.0.113.12:443", "allowed", 8),
        ("", "169.254.169.254:80", "denied", 2),
        ("paste.example.net", "198.51.100.7:443", "denied", 5),
    ]);
    host.model(12);
    host.call(5, "delete_case", "held", "approval");
    let asked = json!({ "job": "triage-0301", "result": "asked", "server": "crm", "tool": "delete_case" });
    host.record(0, Kind::Approval, &asked);
    let agreed =
        json!({ "job": "triage-0301", "result": "approved", "server": "crm", "tool": "delete_case", "by": "uid 1000" });
    host.record(31, Kind::Approval, &agreed);
    host.call(1, "delete_case", "allowed", "approved");
    let alert = json!({ "job": "triage-0301", "kind": "model_direct", "name": "api.openai.com", "command": "python3",
        "reason": "model_direct", "verdict": "denied" });
    host.record(20, Kind::Alert, &alert);
    let flip = json!({ "flip": { "group": "crm", "state": "killed", "whose": "agent support-bot", "effective_ns": 84_000,
        "sockets_destroyed": 3 }, "reason": "a shadow client" });
    host.record(6, Kind::Flip, &flip);
    for _ in 0..3 {
        host.call(2, "search_customer", "denied", "killed");
    }
    for text in HOSTILE {
        host.call(1, text, "denied", text);
        host.record(0, Kind::Alert, &json!({ "job": "triage-0301", "kind": text, "name": text, "command": text }));
        host.traffic(&[(text, "203.0.113.99:1", "denied", 1)]);
    }
    let back =
        json!({ "flip": { "group": "crm", "state": "live", "whose": "agent support-bot" }, "reason": "checked" });
    host.record(40, Kind::Flip, &back);
    let other = json!({ "agent": "support-bot", "wpc_hash": Hash::of(b"2").to_string(), "policy_id": "triage-2" });
    host.record(5, Kind::Contract, &other);
    host.model(10);
    host.record(8, Kind::JobEnd, &json!({ "job": "triage-0301", "agent": "support-bot", "sockets_destroyed": 1 }));

    let mut gathering = Gathering::new("triage-0301");
    host.lines.lines().for_each(|line| gathering.take(&Told::of_line(line.as_bytes()).unwrap()));
    let run = gathering.finish().unwrap();
    let (agent, sentinel) = (key(0x44), key(0x55));
    let with = With {
        agent: &agent,
        sentinel: &sentinel,
        receipts: &host.receipts,
        coverage: Ok(Metrics {
            lineage: Lineage { root_pid: 4242, processes_tracked: 9, unmonitored_spawns: 0, escapes_suspected: false },
            egress: Egress { connections_total: 29, unmediated_connections: 0 },
            liveness: Liveness {
                status: LivenessStatus::Continuous,
                uptime_ms: 300_000,
                heartbeat_interval_ms: 250,
                max_gap_ms: 262,
            },
        }),
        egress: Ok(Held {
            clawproxy_url: "http://127.0.0.1:9481".into(),
            proxy_destinations: Hosts::new(["api.anthropic.com"]).unwrap(),
            child_destinations: Hosts::new(["crm.example.com", "tickets.example.com"]).unwrap(),
        }),
        foreign_agent: None,
        absent: &[],
        harness: Harness { version: "0.1.0", runtime: "host", config_hash: None },
        issued_at: Instant(0),
    };
    let export = write(&run, &with).unwrap();
    assert_eq!(export.left_out, []);
    folder.write("bundle-1.json", &export.parts[0].text);
    folder.write("bundle-urm.json", &export.urm);
    folder.write("trust-pulse.json", &export.trust_pulse);
    folder.write("audit.jsonl", &host.lines);
}

fn report(folder: &Folder, more: &[&str]) -> std::process::Output {
    let dids = [key(0x33).did().to_string(), key(0x55).did().to_string()];
    Command::new(built("clawguard"))
        .arg("report")
        .arg(&folder.0)
        .args(["--receipt-signer", &dids[0], "--sentinel", &dids[1]])
        .args(more)
        .output()
        .unwrap()
}

/// What a browser did with a page.
struct Shown {
    /// What it wrote: among it everything that a page says on its console.
    said: String,
    /// The page as it stands in the end.
    dom: String,
    /// What it asked of the network, or tried to.
    asked: Vec<String>,
}

/// Opens a page in a namespace without a route.
fn show(folder: &Folder, page: &Path, more: &[&str]) -> Shown {
    let log = folder.join("net.json");
    let run = |arguments: &[&str]| {
        let output = Command::new("unshare")
            .args([
                "--net",
                "--",
                "chromium-headless-shell",
                "--no-sandbox",
                "--disable-gpu",
                "--enable-logging=stderr",
            ])
            .args(["--disable-dev-shm-usage", "--timeout=20000", "--virtual-time-budget=2000", "--hide-scrollbars"])
            .arg(format!("--user-data-dir={}", folder.join("profile").display()))
            .arg(format!("--log-net-log={}", log.display()))
            .args(more)
            .args(arguments)
            .arg(format!("file://{}", page.display()))
            .output()
            .expect("chromium-headless-shell: `cargo xtask setup` installs it");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        (String::from_utf8_lossy(&output.stdout).into_owned(), said)
    };
    let (dom, said) = run(&["--dump-dom"]);
    let asked = fs::read_to_string(&log).unwrap_or_default();
    let asked = asked.split('"').filter(|text| text.contains("192.0.2.1")).map(Into::into).collect();
    Shown { said, dom, asked }
}

fn console(said: &str) -> Vec<&str> {
    said.lines().filter(|line| line.contains(":CONSOLE")).collect()
}

/// A page that does all that the report must not: without it, silence would prove nothing.
#[test]
fn the_browser_would_tell() {
    let folder = Folder::new("would-tell");
    folder.write("page.html", &format!("<!doctype html><title>x</title>{}", HOSTILE[1]));
    let shown = show(&folder, &folder.join("page.html"), &[]);
    assert!(console(&shown.said).iter().any(|line| line.contains("it_ran")), "{}", shown.said);
    folder.write("page.html", "<!doctype html><title>x</title><link rel=stylesheet href=http://192.0.2.1/x.css>");
    let shown = show(&folder, &folder.join("page.html"), &[]);
    assert!(!shown.asked.is_empty(), "{}", shown.said);
}

#[test]
fn the_page_is_shown_without_a_word_on_the_console_and_nothing_that_an_agent_spelled_runs_or_loads() {
    let folder = Folder::new("shown");
    evidence(&folder);
    let output = report(&folder, &[]);
    assert!(output.status.success(), "{output:?}");
    let page = folder.join("report.html");
    for more in [&[][..], &["--blink-settings=preferredColorScheme=0"]] {
        let shown = show(&folder, &page, more);
        assert_eq!(console(&shown.said), [""; 0], "{}", shown.said);
        assert_eq!(shown.asked, [""; 0]);
        assert!(!shown.dom.contains("<script") && !shown.dom.contains("<img") && !shown.dom.contains("<link"));
        // All of it is there as text: the browser writes it as it was meant.
        assert!(shown.dom.contains("&lt;script&gt;console.error('it_ran')&lt;/script&gt;"), "{}", shown.dom);
        assert!(shown.dom.contains("\\u202egnp.exe\\u0000\\u001b[2J"), "{}", shown.dom);
        for text in ["Verified", "Killed: crm", "A person agreed", "api.openai.com", "169.254.169.254", "triage-2"] {
            assert!(shown.dom.contains(text), "{text}");
        }
        // The style counts: its hash is the one that the policy names.
        assert!(shown.dom.contains("class=\"verdict good\""));
    }
    // Pictures of it, in light, in the dark, and on paper.
    let pictures = [("light.png", &[][..]), ("dark.png", &["--blink-settings=preferredColorScheme=0"])];
    let sizes: Vec<u64> = pictures
        .into_iter()
        .map(|(name, more)| {
            let picture = folder.join(name);
            let screenshot = format!("--screenshot={}", picture.display());
            show(&folder, &page, &[more, &[&screenshot, "--window-size=1100,3600"]].concat());
            fs::metadata(picture).unwrap().len()
        })
        .collect();
    assert!(sizes.iter().all(|size| *size > 50_000), "{sizes:?}");
    let paper = folder.join("paper.pdf");
    show(&folder, &page, &[&format!("--print-to-pdf={}", paper.display()), "--no-pdf-header-footer"]);
    assert!(fs::metadata(&paper).unwrap().len() > 20_000);
    if let Some(kept) = std::env::var_os("CLAWGUARD_PICTURES") {
        for name in ["report.html", "light.png", "dark.png", "paper.pdf"] {
            fs::copy(folder.join(name), Path::new(&kept).join(name)).unwrap();
        }
    }
}

#[test]
fn a_bundle_that_was_changed_has_a_page_that_says_so_and_a_record_that_was_changed_is_not_told() {
    let folder = Folder::new("changed");
    evidence(&folder);
    let audit = fs::read_to_string(folder.join("audit.jsonl")).unwrap();
    folder.write("audit.jsonl", &audit.replace("export_all", "export_one"));
    let output = report(&folder, &[]);
    assert!(output.status.success(), "{output:?}");
    let page = fs::read_to_string(folder.join("report.html")).unwrap();
    assert!(page.contains("1 audit records are not those") && !page.contains("export_one"));
    let bundle = fs::read_to_string(folder.join("bundle-1.json")).unwrap();
    folder.write("bundle-1.json", &bundle.replacen("\"tool_denied\":", "\"tool_denied\":1", 1));
    let output = report(&folder, &["--out", folder.join("other.html").to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let page = fs::read_to_string(folder.join("other.html")).unwrap();
    assert!(page.contains("Not valid") && page.contains("HASH_MISMATCH"), "{page}");
    // Whom nobody trusts has signed nothing.
    folder.write("bundle-1.json", &bundle);
    let stranger = key(0x99).did().to_string();
    let output = Command::new(built("clawguard"))
        .arg("report")
        .arg(folder.join("bundle-1.json"))
        .args(["--receipt-signer", &stranger, "--sentinel", &stranger])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(fs::read_to_string(folder.join("bundle-1.html")).unwrap().contains("Not valid"));
}
