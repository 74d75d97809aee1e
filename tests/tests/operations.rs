//! What an operator does: configure, reload, look, leave; and that the API is the one that is described.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Command, Stdio},
};

use e2e::{Identity::Nobody, World, built};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

fn contract() -> Value {
    json!({ "egress": [{ "host": "crm.example", "tls": false, "groups": ["crm"] }] })
}

#[test]
fn a_configuration_that_is_wrong_is_refused_with_one_clear_error() {
    let mut world = World::new();
    for (wrong, words) in [
        ("[metrics]\nlisten = \"127.0.0.1:9477\"\nport = 1", ["unknown field", "port"]),
        ("[surplus]", ["unknown field", "surplus"]),
        ("[[agent]]\nname = \"a b\"", ["clawguard.toml", "a b"]),
        ("[[agent]]\nname = \"a\"\nmode = \"maybe\"", ["clawguard.toml", "maybe"]),
        ("[audit]\ninterval_seconds = \"x\"", ["clawguard.toml", "interval_seconds"]),
    ] {
        world.configure(wrong);
        let said = world.start_refused();
        assert!(said.contains("the configuration is not accepted"), "{said}");
        assert!(words.iter().all(|word| said.contains(word)), "{wrong}: {said}");
    }
    world.configure("");
    world.start();
}

#[test]
fn a_reload_takes_what_is_good_and_leaves_everything_if_it_is_not() {
    let mut world = World::up();
    world.use_contract("a", contract());
    world.configure("[surplus]");
    world.signal_daemon(Signal::SIGHUP);
    world.eventually("the problem", |world| world.clawguard(&["status"]).out.contains("surplus"));
    assert_eq!(world.agent("a", Nobody, &["tcp", "203.0.113.10:443", "x"]).ok().out, "ok x");
    world.configure("[[agent]]\nname = \"late\"\nmode = \"observe\"");
    world.signal_daemon(Signal::SIGHUP);
    world.eventually("the agent", |world| world.clawguard(&["status"]).out.contains("late"));
    assert!(!world.clawguard(&["status"]).out.contains("surplus"));
}

#[test]
fn there_is_one_daemon_of_an_instance() {
    let mut world = World::up();
    assert!(world.start_refused().contains("another daemon of this instance runs already"));
    let refused = world.clawguard(&["uninstall"]);
    assert_eq!(refused.status, 1);
    assert!(refused.err.contains("stop it first"), "{}", refused.err);
    world.stop();
    let unreachable = world.clawguard(&["status"]);
    assert_eq!(unreachable.status, 3);
    assert!(unreachable.err.contains("cannot be reached"), "{}", unreachable.err);
}

#[test]
fn the_fence_comes_off_when_the_daemon_cannot_start_and_that_is_recorded() {
    let mut world = World::up();
    world.use_contract("a", contract());
    let mut agent = world.agent_on("a", Nobody, &["each-line"]);
    assert_eq!(agent.ask("203.0.113.99:443", "tcp"), "tcp EPERM");
    world.sigkill();
    assert_eq!(agent.ask("203.0.113.99:443", "tcp"), "tcp EPERM");
    world.configure("[surplus]");
    world.start_refused();
    let refused = world.clawguard(&["break-glass", "--reason", " "]);
    assert_eq!(refused.status, 2);
    world.clawguard(&["break-glass", "--reason", "the daemon does not start"]).ok();
    assert_eq!(agent.ask("203.0.113.99:443", "tcp"), "tcp ok x");
    assert!(!world.pins().exists());
    let record = &world.audit("break_glass")[0];
    assert_eq!(record["reason"], "the daemon does not start");
    assert_eq!(record["uid"], 0);
    world.configure("");
    world.start();
    world.clawguard(&["audit", "verify"]).ok();
}

#[test]
fn nothing_of_an_instance_stays_when_it_is_uninstalled() {
    let mut world = World::up();
    world.use_contract("a", contract());
    world.agent("a", Nobody, &["tcp", "203.0.113.10:443", "x"]).ok();
    world.stop();
    world.clawguard(&["uninstall"]).ok();
    assert!(!world.pins().exists());
    let root = sys::cgroup::mount_point().unwrap();
    let left: Vec<_> = fs::read_dir(root)
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&world.prefix()))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn doctor_says_what_this_host_can_and_cannot_do() {
    let mut world = World::new();
    let without = world.clawguard(&["doctor"]);
    assert_eq!(without.status, 1);
    let line = |out: &str, what: &str| out.lines().find(|line| line.contains(what)).unwrap().to_owned();
    assert!(line(&without.out, " daemon ").starts_with("FAIL"), "{}", without.out);
    world.start();
    world.use_contract("a", contract());
    let with = world.clawguard(&["doctor"]).ok();
    assert!(line(&with.out, " daemon ").starts_with("ok") && !with.out.contains("FAIL"), "{}", with.out);
    assert!(world.json(&["doctor"]).is_array() || world.json(&["doctor"]).is_object());
}

#[test]
fn every_command_explains_itself() {
    let world = World::new();
    let help = world.clawguard(&["--help"]).ok().out;
    for command in ["run", "kill", "restore", "mode", "drill", "explain", "wpc", "audit", "break-glass", "doctor"] {
        assert!(help.contains(command), "{command}");
        assert!(world.clawguard(&[command, "--help"]).ok().out.contains("Usage:"));
    }
    assert_eq!(world.clawguard(&["no-such-command"]).status, 2);
}

/// docs/openapi.yaml, as far as it is needed here.
fn described() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.yaml");
    serde_yaml_ng::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Whether a value is as a schema says: members there, no others, of the right types.
fn fits(api: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.rsplit('/').next().unwrap();
        return fits(api, &api["components"]["schemas"][name], value, &format!("{at}<{name}>"));
    }
    if let Some(any) = schema["anyOf"].as_array() {
        let tried: Vec<_> = any.iter().map(|schema| fits(api, schema, value, at)).collect();
        return if tried.iter().any(Result::is_ok) { Ok(()) } else { Err(format!("{at}: {tried:?}")) };
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let kinds = schema["type"].as_array().cloned().unwrap_or_else(|| vec![schema["type"].clone()]);
    if !kinds.iter().any(|known| known == kind) {
        return Err(format!("{at} is {kind} and not {kinds:?}: {value}"));
    }
    for item in value.as_array().into_iter().flatten() {
        fits(api, &schema["items"], item, &format!("{at}[]"))?;
    }
    let Some(members) = value.as_object() else { return Ok(()) };
    for name in schema["required"].as_array().into_iter().flatten() {
        if !members.contains_key(name.as_str().unwrap()) {
            return Err(format!("{at} lacks {name}"));
        }
    }
    for (name, member) in members {
        let schema = match &schema["properties"][name] {
            Value::Null if schema["additionalProperties"].is_object() => &schema["additionalProperties"],
            Value::Null if schema["properties"].is_null() => continue,
            Value::Null => return Err(format!("{at}.{name} is not described")),
            schema => schema,
        };
        fits(api, schema, member, &format!("{at}.{name}"))?;
    }
    Ok(())
}

#[test]
fn the_api_is_the_one_that_is_described() {
    let mut world = World::up();
    world.use_contract("a", contract());
    world.agent("a", Nobody, &["tcp", "203.0.113.99:443", "x"]);
    let agent = world.agent_on("a", Nobody, &["each-line"]);
    world.eventually("the job", |world| !world.json(&["status"])["jobs"].as_array().unwrap().is_empty());
    let payload = world.payload(contract());
    let envelope = fs::read_to_string(world.sign(&payload)).unwrap();
    let api = described();
    let reason = r#"{"reason":"test"}"#.to_owned();
    let calls = [
        ("GET", "/v1/status", "/v1/status", String::new()),
        ("GET", "/v1/groups", "/v1/groups", String::new()),
        ("POST", "/v1/groups/{name}/kill", "/v1/groups/crm/kill", reason.clone()),
        ("POST", "/v1/groups/{name}/restore", "/v1/groups/crm/restore", reason),
        ("POST", "/v1/mode", "/v1/mode", r#"{"mode":"normal","reason":"test"}"#.into()),
        ("POST", "/v1/drill", "/v1/drill", r#"{"groups":["crm"]}"#.into()),
        ("GET", "/v1/jobs", "/v1/jobs", String::new()),
        ("POST", "/v1/jobs", "/v1/jobs", r#"{"agent":"a","id":"described"}"#.into()),
        ("DELETE", "/v1/jobs/{name}", "/v1/jobs/described", String::new()),
        ("POST", "/v1/jobs/{name}/processes", "/v1/jobs/gone/processes", r#"{"pid":1}"#.into()),
        ("PUT", "/v1/jobs/{name}/cst", "/v1/jobs/gone/cst", r#"{"cst":"x"}"#.into()),
        ("POST", "/v1/jobs/{name}/key", "/v1/jobs/described/key", String::new()),
        (
            "POST",
            "/v1/tokens/revoke",
            "/v1/tokens/revoke",
            format!("{{\"token_hash\":\"{}\",\"reason\":\"test\"}}", "0".repeat(64)),
        ),
        ("GET", "/v1/decisions", "/v1/decisions", String::new()),
        ("GET", "/v1/evidence/{name}", "/v1/evidence/described", String::new()),
        ("GET", "/v1/agents/{name}/wpc", "/v1/agents/a/wpc", String::new()),
        ("PUT", "/v1/agents/{name}/wpc", "/v1/agents/a/wpc", format!("{{\"envelope\":{envelope}}}")),
        ("GET", "/v1/agents/{name}/observed", "/v1/agents/a/observed", String::new()),
        ("DELETE", "/v1/agents/{name}/observed", "/v1/agents/a/observed", String::new()),
        ("GET", "/v1/approvals", "/v1/approvals", String::new()),
        ("POST", "/v1/approvals/{name}", "/v1/approvals/gone", r#"{"decision":"deny","reason":"test"}"#.into()),
        ("GET", "/v1/pins", "/v1/pins", String::new()),
        ("GET", "/v1/pins/{name}", "/v1/pins/gone", String::new()),
        ("POST", "/v1/pins/{name}", "/v1/pins/gone", r#"{"accept":"all"}"#.into()),
    ];
    let mut told = BTreeSet::new();
    for (method, path, actual, body) in calls {
        let (status, answer) = world.api(method, actual, &body);
        let responses = &api["paths"][path][method.to_lowercase()]["responses"];
        assert!(responses.is_object(), "{method} {path} is not described");
        let known = &responses[status.to_string()];
        let response = if known.is_null() { &responses["default"] } else { known };
        assert!(status < 300 || actual.contains("gone"), "{method} {actual}: {status} {answer}");
        let fitting = fits(&api, &response["content"]["application/json"]["schema"], &answer, "");
        assert_eq!(fitting, Ok(()), "{method} {actual}: {answer}");
        told.insert(format!("{method} {path}"));
    }
    let paths = api["paths"].as_object().unwrap().iter();
    let all: BTreeSet<String> = paths
        .flat_map(|(path, methods)| {
            methods.as_object().unwrap().keys().map(move |method| format!("{} {path}", method.to_uppercase()))
        })
        .collect();
    assert_eq!(told, all);
    drop(agent);
}

#[test]
fn the_executable_says_which_version_it_is() {
    let output = Command::new(built("clawguard")).arg("--version").output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("clawguard "));
}

#[test]
fn what_prints_for_ever_ends_in_good_order_when_nobody_reads() {
    let mut world = World::up();
    world.use_contract("a", contract());
    let children = ["status --watch", "explain --follow"].map(|words| {
        let script = format!("{{ timeout 20 \"$0\" {words}; echo \"{words}: $?\" >&2; }} | head -n 1");
        let mut command = Command::new("sh");
        command.arg("-c").arg(script).arg(built("clawguard")).env("CLAWGUARD_ROOT", &world.directory);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    });
    let [watch, mut follow] = children;
    // The first is read, and the next one finds nobody who reads.
    world.eventually("the follower's end", |world| {
        world.agent("a", Nobody, &["tcp", "203.0.113.99:443", "x"]);
        follow.try_wait().unwrap().is_some()
    });
    for (child, said) in [(watch, "status --watch: 0\n"), (follow, "explain --follow: 0\n")] {
        assert_eq!(String::from_utf8(child.wait_with_output().unwrap().stderr).unwrap(), said);
    }
}
