//! The alert rules for operators: sound, complete, and raised by a real Prometheus over a real daemon.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use e2e::{Identity::Nobody, World, built};
use serde_json::{Value, json};

/// What a daemon may call an attempt to go around the fence.
const KINDS: [&str; 14] = [
    "model_direct",
    "mcp_direct",
    "dns",
    "sni_mismatch",
    "no_sni",
    "ech",
    "quic",
    "raw_socket",
    "packet_socket",
    "imported_socket",
    "cgroup_escape",
    "receipt_missing",
    "tool_unseen",
    "token_replayed",
];

fn shipped(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/prometheus").join(file).canonicalize().unwrap()
}

/// The host's own tool, or the one that `cargo xtask setup` unpacked.
fn tool(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let target = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned();
    let unpacked = target.join("tools/prometheus/usr/bin");
    let mut places = std::env::split_paths(&path).chain([unpacked]).map(|place| place.join(name));
    places.find(|file| file.is_file()).unwrap_or_else(|| panic!("{name} is not here: `cargo xtask setup` gets it"))
}

/// The rules: recorded ones and alerts.
fn rules() -> Vec<Value> {
    let text = fs::read_to_string(shipped("clawguard.rules.yml")).unwrap();
    let file: Value = serde_yaml_ng::from_str(&text).unwrap();
    let groups = file["groups"].as_array().unwrap();
    groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

fn alerts() -> Vec<Value> {
    rules().into_iter().filter(|rule| rule["alert"].is_string()).collect()
}

/// The words of a text that begin like this and go on with small letters and underscores.
fn words<'a>(text: &'a str, start: &str) -> BTreeSet<&'a str> {
    let parts = text.split(|c: char| !(c.is_ascii_lowercase() || c == '_' || c == ':'));
    parts.filter(|word| word.starts_with(start)).collect()
}

#[test]
fn the_rules_are_sound_and_do_what_their_tests_say() {
    for (verb, file) in [("check", "clawguard.rules.yml"), ("test", "clawguard.rules.test.yml")] {
        let output = Command::new(tool("promtool")).args([verb, "rules"]).arg(shipped(file)).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{verb} {file}: {said}");
    }
    let tests = fs::read_to_string(shipped("clawguard.rules.test.yml")).unwrap();
    for alert in alerts() {
        let name = alert["alert"].as_str().unwrap();
        assert!(tests.contains(&format!("\"{name}\", alertstate=\"firing\"")), "no test sees {name} fire");
    }
}

#[test]
fn every_metric_of_the_rules_is_one_of_the_daemons() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../clawguard/crates/daemon/src/metrics.rs");
    let source = fs::read_to_string(source).unwrap();
    let exported = words(&source, "clawguard_");
    for rule in rules() {
        let expression = rule["expr"].as_str().unwrap();
        for metric in words(expression, "clawguard_") {
            assert!(exported.contains(metric), "{metric} is no metric: {expression}");
        }
    }
}

#[test]
fn every_kind_of_attempt_has_one_alert_and_the_rest_another() {
    let expressions: Vec<String> = alerts().iter().map(|alert| alert["expr"].as_str().unwrap().to_owned()).collect();
    for kind in KINDS {
        let own = format!("{{kind=\"{kind}\"}}");
        assert_eq!(expressions.iter().filter(|expression| expression.contains(&own)).count(), 1, "{kind}");
    }
    let rest = expressions.iter().find_map(|expression| expression.split_once("kind!~\"")).unwrap().1;
    let named: BTreeSet<&str> = rest.split_once('"').unwrap().0.split('|').collect();
    assert_eq!(named, BTreeSet::from(KINDS));
}

#[test]
fn every_alert_says_what_where_and_which_command_helps() {
    for alert in alerts() {
        let name = alert["alert"].as_str().unwrap();
        let severity = alert["labels"]["severity"].as_str().unwrap();
        assert!(["critical", "warning"].contains(&severity), "{name}: {severity}");
        let text = |what: &str| alert["annotations"][what].as_str().unwrap_or_else(|| panic!("{name} has no {what}"));
        assert!(!text("summary").is_empty());
        assert!(text("description").contains("{{ $labels."), "{name}");
        let commands: Vec<String> =
            text("runbook").split('`').skip(1).step_by(2).map(|command| command.replace("{{ $labels.", "X")).collect();
        assert!(commands.iter().any(|command| command.starts_with("clawguard ")), "{name} names no command");
        for command in commands.iter().filter_map(|command| command.strip_prefix("clawguard ")) {
            let known: Vec<&str> = command.split_whitespace().take_while(|word| !word.starts_with('-')).collect();
            let known = known.into_iter().filter(|word| word.bytes().all(|byte| byte.is_ascii_lowercase()));
            let output = Command::new(built("clawguard")).args(known).arg("--help").output().unwrap();
            let help = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{name}: clawguard {command}: {output:?}");
            for option in command.split_whitespace().filter(|word| word.starts_with('-')) {
                let there = [" ", ","].iter().any(|end| help.contains(&format!("{option}{end}")));
                assert!(there, "{name}: clawguard {command}: no {option}\n{help}");
            }
        }
    }
}

/// A running Prometheus; it ends with its owner.
struct Prometheus(Child);

impl Prometheus {
    const ADDRESS: &str = "127.0.0.1:9490";

    /// Starts it in this world's network, configured as the README says, but quicker.
    fn start(world: &World) -> Self {
        let readme = fs::read_to_string(shipped("README.md")).unwrap();
        let documented = readme.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
        let mut config: Value = serde_yaml_ng::from_str(documented).unwrap();
        config["rule_files"] = json!([shipped("clawguard.rules.yml")]);
        config["global"] = json!({ "scrape_interval": "1s", "evaluation_interval": "1s" });
        let directory = world.directory.join("prometheus");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("prometheus.yml"), config.to_string()).unwrap();
        let log = fs::File::create(directory.join("log")).unwrap();
        let mut command = Command::new(tool("prometheus"));
        command.arg(format!("--config.file={}", directory.join("prometheus.yml").display()));
        command.arg(format!("--storage.tsdb.path={}", directory.join("data").display()));
        command.arg(format!("--web.listen-address={}", Self::ADDRESS)).current_dir(directory);
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }

    /// What its API answers; nothing while it is not there yet.
    fn get(&self, path: &str) -> Value {
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(Self::ADDRESS)?;
            // Of this version, so that the answer comes in one piece.
            write!(stream, "GET {path} HTTP/1.0\r\nHost: x\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        };
        let text = ask().unwrap_or_default();
        let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        serde_json::from_str::<Value>(body).map_or(Value::Null, |mut answer| answer["data"].take())
    }

    /// Pending and firing alerts: name, state and labels.
    fn alerts(&self) -> Vec<(String, String, Value)> {
        let data = self.get("/api/v1/alerts");
        let alerts = data["alerts"].as_array().cloned().unwrap_or_default();
        let one = |mut alert: Value| {
            let name = alert["labels"]["alertname"].as_str().unwrap().to_owned();
            (name, alert["state"].as_str().unwrap().to_owned(), alert["labels"].take())
        };
        alerts.into_iter().map(one).collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_real_prometheus_raises_what_a_real_daemon_tells() {
    let mut world = World::up();
    world.use_contract("a", json!({ "egress": [{ "host": "crm.example", "tls": false }] }));
    let prometheus = Prometheus::start(&world);
    world.eventually("a scrape", |_| {
        let up = prometheus.get("/api/v1/query?query=up%7Bjob%3D%22clawguard%22%7D%20%3D%3D%201");
        up["result"].as_array().is_some_and(|found| !found.is_empty())
    });
    world.eventually("an evaluation", |_| {
        let data = prometheus.get("/api/v1/rules");
        let groups = data["groups"].as_array().cloned().unwrap_or_default();
        let all: Vec<&Value> = groups.iter().flat_map(|group| group["rules"].as_array().unwrap()).collect();
        all.len() == rules().len() && all.iter().all(|rule| rule["health"] == "ok")
    });
    // All is well; what was so before the first scrape is not a thing of now.
    world.eventually("quiet", |_| prometheus.alerts().is_empty());
    world.agent("a", Nobody, &["families"]).ok();
    world.eventually("the alert", |_| !prometheus.alerts().is_empty());
    let (name, state, labels) = prometheus.alerts().swap_remove(0);
    assert_eq!((name.as_str(), state.as_str()), ("ClawGuardBypassRawSocket", "firing"));
    assert_eq!(
        labels,
        json!({ "alertname": name, "severity": "warning", "agent": "a", "kind": "raw_socket",
            "job": "clawguard", "instance": "127.0.0.1:9477" })
    );
    world.clawguard(&["kill", "all", "--reason", "test"]).ok();
    let has = |name: &str, state: &str| prometheus.alerts().iter().any(|alert| (&*alert.0, &*alert.1) == (name, state));
    world.eventually("the killed group", |_| has("ClawGuardGroupKilled", "pending"));
    world.sigkill();
    world.eventually("the daemon's end", |_| has("ClawGuardDown", "pending"));
}
