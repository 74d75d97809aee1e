//! What a job did can be shown to others: honest numbers, and everything that is handed out.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use e2e::{Identity::Nobody, McpServer, Outside, Run, World};
use serde_json::{Value, json};

fn contract() -> Value {
    json!({ "egress": [{ "host": "crm.example", "tls": false }] })
}

fn world() -> World {
    let mut world = World::new();
    world.configure("[audit]\ninterval_seconds = 1");
    world.start();
    world.use_contract("a", contract());
    world
}

/// An agent's job that runs; empty if none does.
fn job_of(world: &World, agent: &str) -> String {
    let jobs = world.json(&["status"])["jobs"].as_array().unwrap().clone();
    let own = jobs.iter().find(|job| job["agent"] == agent && job["state"] == "running");
    own.map_or_else(String::new, |job| job["id"].as_str().unwrap().to_owned())
}

/// Ends an agent's job.
fn end(world: &World, agent: &str) {
    let (status, body) = world.api("DELETE", &format!("/v1/jobs/{}", job_of(world, agent)), "");
    assert_eq!(status, 200, "{body}");
}

/// The numbers of an agent's last job that ended.
fn coverage(world: &World, agent: &str) -> Value {
    world.eventually("the record", |world| world.audit("coverage").iter().any(|body| body["agent"] == agent));
    world.audit("coverage").into_iter().rfind(|body| body["agent"] == agent).unwrap()
}

#[test]
fn connections_denials_and_processes_of_a_job_are_counted_exactly() {
    let world = world();
    let probe = world.probe();
    let script = format!(
        "for i in 1 2 3; do {probe} tcp 203.0.113.10:443 x; done; {probe} tcp 203.0.113.99:443 x; \
         {probe} tcp 203.0.113.99:443 x; (true; /bin/true) & wait; exit 0"
    );
    world.agent_runs("a", Nobody, &["sh", "-c", &script]).ok();
    let facts = coverage(&world, "a");
    assert_eq!(facts["lineage"], "counted", "{facts}");
    assert_eq!((facts["connections_total"].as_u64(), facts["unmediated_connections"].as_u64()), (Some(3), Some(0)));
    assert_eq!(facts["denied"], 2, "{facts}");
    // The first process, which looks after the others, the shell, five probes, and the subshell, which becomes /bin/true.
    assert_eq!(facts["processes_tracked"], 8, "{facts}");
    assert!(facts["root_pid"].as_u64().unwrap() > 1, "{facts}");
    assert_eq!((&facts["unmonitored_spawns"], &facts["escapes_suspected"]), (&json!(0), &json!(false)));
    assert_eq!((&facts["status"], &facts["heartbeat_interval_ms"]), (&json!("continuous"), &json!(250)), "{facts}");
    assert!(facts["max_gap_ms"].as_u64().unwrap() <= 1000, "{facts}");
}

#[test]
fn a_daemon_that_was_gone_for_more_than_a_second_says_that_it_was_interrupted() {
    let mut world = world();
    let job = world.agent_runs_on("a", Nobody, &["sleep", "60"]);
    world.eventually("the job", |world| !job_of(world, "a").is_empty());
    world.sigkill();
    thread::sleep(Duration::from_millis(1500));
    world.start();
    end(&world, "a");
    drop(job);
    let facts = coverage(&world, "a");
    assert_eq!(facts["status"], "interrupted", "{facts}");
    assert!(facts["max_gap_ms"].as_u64().unwrap() >= 1500, "{facts}");
    world.clawguard(&["audit", "verify"]).ok();
}

const URL: &str = "http://127.0.0.1:9480/s/crm-mcp/mcp";
/// What stands in the calls' arguments, and must stand in nothing that is handed out.
const SECRET: &str = "s3cret-of-the-customer";

/// A world with a server, and an agent under a contract with a host, tools, and a tool that waits for a person.
fn world_with_tools() -> (World, McpServer) {
    let mut world = World::new();
    let server = McpServer::start("127.0.0.1:3901");
    let mcp = "[mcp]\napproval_wait_seconds = 0\n[audit]\ninterval_seconds = 1\n[limits]\ncalls_per_minute = 1000000\n";
    world.configure(&format!("{mcp}{}", server.configuration("crm-mcp", "low")));
    world.start();
    world.use_contract("a", with_tools());
    world.eventually("the gateway serves MCP", |world| {
        let run = world.agent("a", Nobody, &["tools", "list", URL]);
        run.status == 0 && !run.out.is_empty()
    });
    (world, server)
}

fn with_tools() -> Value {
    json!({ "egress": [{ "host": "crm.example", "tls": false, "groups": ["crm"] }],
        "tools": { "allow": ["crm-mcp/get_case"], "approve": ["crm-mcp/update_case"], "deny": ["crm-mcp/delete_case"] } })
}

/// One job that runs what it is told, a command a line, with `$P` for the probe.
fn job(world: &World) -> (Outside, String) {
    let script =
        format!("P={}; echo ready; while read -r line; do eval \"$line\" 2>&1; echo done; done", world.probe());
    let mut job = world.agent_runs_on("a", Nobody, &["sh", "-c", &script]);
    job.until("ready");
    (job, job_of(world, "a"))
}

fn call(job: &mut Outside, tool: &str) {
    job.ask(&format!("$P tools call {URL} {tool} '{{\"id\":1,\"note\":\"{SECRET}\"}}'"), "done");
}

/// A job with calls that were allowed, denied, held and approved, with connections, and with a kill. Answers its name.
fn an_eventful_job(world: &mut World) -> String {
    let (mut job, id) = job(world);
    for tool in ["get_case", "delete_case", "update_case"] {
        call(&mut job, tool);
    }
    let waits = world.json(&["approvals"]);
    let approval = waits.as_array().unwrap().iter().find(|approval| approval["state"] == "pending").unwrap();
    world.clawguard(&["approve", approval["id"].as_str().unwrap(), "--reason", "seen"]).ok();
    call(&mut job, "update_case");
    job.ask("$P tcp 203.0.113.10:443 x", "done");
    job.ask("$P tcp 203.0.113.99:443 x", "done");
    // Another contract, which allows less.
    world.use_contract("a", {
        let mut contract = with_tools();
        contract["tools"]["approve"] = json!([]);
        contract
    });
    job.ask("$P tcp 203.0.113.10:443 x", "done");
    world.json(&["kill", "crm", "--reason", "an exercise"]);
    job.ask("$P tcp 203.0.113.10:443 x", "done");
    world.json(&["restore", "crm", "--reason", "over"]);
    assert_eq!(job.finish().status, 0);
    world.eventually("the job's end", |world| world.audit("job_end").iter().any(|body| body["job"] == id.as_str()));
    id
}

/// Exports a job into a directory of its own; answers that and what was said.
fn export(world: &World, job: &str) -> (PathBuf, Value) {
    let out = world.directory.join(format!("export-{job}"));
    let said = world.json(&["bundle", "export", job, "--out", out.to_str().unwrap()]);
    (out, said)
}

/// Verifies a directory of bundles by the keys that lie there, and demands host evidence.
fn verdict(world: &World, out: &Path) -> Run {
    let trust = out.join("trust.json");
    let words = ["--json", "bundle", "verify", out.to_str().unwrap(), "--trust", trust.to_str().unwrap()];
    world.clawguard(&[&words[..], &["--require-host-evidence"]].concat())
}

fn payload(out: &Path, name: &str) -> Value {
    let text = fs::read_to_string(out.join(name)).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["payload"].clone()
}

#[test]
fn a_jobs_bundle_is_valid_by_the_strictest_rules_and_a_changed_one_is_not() {
    let (mut world, _server) = world_with_tools();
    let id = an_eventful_job(&mut world);
    let (out, said) = export(&world, &id);
    assert_eq!((said["parts"].as_u64(), said["running"].as_bool()), (Some(1), Some(false)), "{said}");
    let run = verdict(&world, &out);
    assert_eq!((run.status, run.json()["status"].as_str()), (0, Some("VALID")), "{}", run.out);
    let payload = payload(&out, "bundle-1.json");
    let types: Vec<&str> =
        payload["event_chain"].as_array().unwrap().iter().map(|event| event["event_type"].as_str().unwrap()).collect();
    for expected in [
        "run_start",
        "tool_call",
        "tool_denied",
        "tool_held",
        "approval",
        "policy_in_force",
        "tool_group_killed",
        "run_end",
    ] {
        assert!(types.contains(&expected), "{expected} is not in {types:?}");
    }
    let metrics = &payload["coverage_attestations"][0]["payload"]["metrics"];
    assert_eq!(metrics["egress"]["unmediated_connections"], 0, "{metrics}");
    // Two to the host, and those to the MCP gateway.
    assert!(metrics["egress"]["connections_total"].as_u64().unwrap() >= 2 + 4, "{metrics}");
    assert_eq!(metrics["liveness"]["status"], "continuous", "{metrics}");
    let egress = &payload["metadata"]["sentinels"]["egress_policy_receipt"]["payload"];
    assert_eq!(egress["allowed_child_destinations"], json!(["::1", "127.0.0.1", "crm.example", "localhost"]));
    assert_eq!(egress["blocked_attempt_count"], 2, "{egress}");
    assert!(out.join("wpc-1.json").is_file() && out.join("wpc-2.json").is_file());
    // The page says of it what it is worth by the keys that it is given.
    let page = |trust: &Path| {
        let (page, file) = (world.directory.join("page.html"), out.join("bundle-1.json"));
        let words =
            ["report", file.to_str().unwrap(), "--trust", trust.to_str().unwrap(), "--out", page.to_str().unwrap()];
        let run = world.clawguard(&words);
        (run.status, fs::read_to_string(page).unwrap().contains("by trusted sentinels"))
    };
    let nobody = world.directory.join("nobody.json");
    fs::write(&nobody, "{}").unwrap();
    assert_eq!((page(&out.join("trust.json")), page(&nobody)), ((0, true), (1, false)));
    // Each part of it matters.
    let whole = fs::read_to_string(out.join("bundle-1.json")).unwrap();
    for (from, to) in [
        ("tool_denied", "tool_call"),
        ("\"unmediated_connections\":0", "\"unmediated_connections\":1"),
        ("crm.example", "evi.example"),
        ("\"blocked_attempt_count\":2", "\"blocked_attempt_count\":0"),
    ] {
        assert!(whole.contains(from), "{from}");
        fs::write(out.join("bundle-1.json"), whole.replacen(from, to, 1)).unwrap();
        let run = verdict(&world, &out);
        assert_eq!((run.status, run.json()["status"].as_str()), (1, Some("INVALID")), "{from}: {}", run.out);
    }
}

#[test]
fn nothing_secret_is_in_anything_that_is_handed_out() {
    let (mut world, _server) = world_with_tools();
    let id = an_eventful_job(&mut world);
    let out = world.directory.join("evidence");
    world.clawguard(&["evidence", &id, out.to_str().unwrap()]).ok();
    let keys: Vec<String> = ["keys/host.jwk", "keys/sentinel.jwk", "keys/receipts.jwk", &format!("keys/jobs/{id}.jwk")]
        .iter()
        .map(|name| fs::read_to_string(world.directory.join("var/lib/clawguard").join(name)).unwrap())
        .map(|text| serde_json::from_str::<Value>(&text).unwrap()["d"].as_str().unwrap().to_owned())
        .collect();
    let csv = world.clawguard(&["audit", "export", "--job", &id, "--format", "csv"]).ok().out;
    let (status, body) = world.api("GET", &format!("/v1/evidence/{id}"), "");
    assert_eq!(status, 200);
    let mut texts = vec![("csv".to_owned(), csv), ("api".into(), body.to_string())];
    for entry in fs::read_dir(&out).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        texts.push((name, fs::read_to_string(entry.path()).unwrap()));
    }
    for (name, text) in &texts {
        for secret in keys.iter().map(String::as_str).chain([SECRET, "of-the-host"]) {
            assert!(!text.contains(secret), "{name} has {secret}");
        }
    }
}

#[test]
fn what_there_is_about_an_incident_lies_in_one_directory_with_checksums() {
    let (mut world, _server) = world_with_tools();
    let id = an_eventful_job(&mut world);
    let out = world.directory.join("evidence");
    let said = world.json(&["evidence", &id, out.to_str().unwrap()]);
    assert_eq!(said["chain"], Value::Null, "{said}");
    let checked =
        world.outside_runs(&["sh", "-c", &format!("cd {} && sha256sum -c SHA256SUMS", out.display())]).ok().out;
    for name in [
        "bundle-1.json",
        "bundle-urm.json",
        "trust-pulse.json",
        "trust.json",
        "wpc-1.json",
        "wpc-2.json",
        "changes-to-wpc-2.json",
        "audit.jsonl",
        "audit-head.json",
        "calls.jsonl",
        "approvals.jsonl",
        "decisions.jsonl",
        "flips.jsonl",
        "kills.json",
        "kills.txt",
        "status.json",
        "doctor.json",
        "report.html",
        "run.json",
    ] {
        assert!(checked.contains(&format!("{name}: OK")), "{name}: {checked}");
    }
    assert_eq!(verdict(&world, &out).status, 0);
    let changes = fs::read_to_string(out.join("changes-to-wpc-2.json")).unwrap();
    assert!(changes.contains("narrows") && changes.contains("update_case"), "{changes}");
    // What passed last, and what did not first.
    let kills: Value = serde_json::from_str(&fs::read_to_string(out.join("kills.json")).unwrap()).unwrap();
    assert_eq!(kills.as_array().unwrap().len(), 1, "{kills}");
    let (last, first) = (&kills[0]["last_allowed"], &kills[0]["first_blocked"]);
    for (seen, reason) in [(last, "allowed"), (first, "killed")] {
        assert_eq!((&seen["what"], &seen["reason"]), (&json!("tcp 203.0.113.10:443"), &json!(reason)), "{kills}");
    }
    let at = |value: &Value| value["at"].as_str().unwrap().to_owned();
    assert!(at(last) <= at(&kills[0]) && at(&kills[0]) <= at(first), "{kills}");
    // Each record of the extract stands in the chain, and each says its place.
    let chain: Vec<String> = chain(&world);
    for line in fs::read_to_string(out.join("audit.jsonl")).unwrap().lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        assert_eq!(chain[record["seq"].as_u64().unwrap() as usize], line);
    }
    // The same by other ways.
    let lines = world.clawguard(&["audit", "export", "--job", &id, "--since", "1h"]).ok().out;
    let kill = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .find(|line| !line["first_blocked"].is_null());
    assert_eq!(kill.unwrap()["event"], "tool_group_killed");
    assert_eq!(world.clawguard(&["audit", "export", "--job", &id, "--until", "2020-01-01T00:00:00Z"]).ok().out, "");
    let diff = world.json(&["wpc", "diff", "--job", &id]);
    let hashes = [&diff[0]["from"], &diff[0]["to"]].map(|hash| hash.as_str().unwrap().to_owned());
    assert_eq!(world.json(&["wpc", "diff", &hashes[0], &hashes[1]])["changes"], diff[0]["changes"]);
}

/// The lines of the audit chain.
fn chain(world: &World) -> Vec<String> {
    let mut files: Vec<PathBuf> = fs::read_dir(world.directory.join("var/lib/clawguard/audit"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"))
        .collect();
    files.sort();
    files
        .iter()
        .flat_map(|file| fs::read_to_string(file).unwrap().lines().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

#[test]
fn a_job_of_more_than_a_thousand_events_is_split_and_loses_none() {
    let (world, _server) = world_with_tools();
    let (mut job, id) = job(&world);
    let (turns, in_a_turn) = (6, 180);
    for _ in 0..turns {
        let call = format!("yes x | head -n {in_a_turn} | $P tools calls {URL} get_case '{{}}' >/dev/null");
        job.ask(&call, "done");
    }
    let calls = turns * in_a_turn;
    // As of now, while it runs.
    let (out, said) = export(&world, &id);
    assert_eq!((said["parts"].as_u64(), said["running"].as_bool()), (Some(2), Some(true)), "{said}");
    let run = verdict(&world, &out);
    assert_eq!(run.status, 0, "{}", run.out);
    let events: Vec<Value> = ["bundle-1.json", "bundle-2.json"]
        .iter()
        .flat_map(|name| payload(&out, name)["event_chain"].as_array().unwrap().clone())
        .collect();
    let made = events.iter().filter(|event| event["event_type"] == "tool_call").count();
    let recorded =
        world.audit("call").iter().filter(|body| body["job"] == id.as_str() && body["decision"] == "allowed").count();
    assert!(made >= calls && made == recorded, "{made} of {recorded}");
    // Without one of them the rest is not valid.
    fs::remove_file(out.join("bundle-1.json")).unwrap();
    assert_eq!(verdict(&world, &out).status, 1);
}

#[test]
fn a_bundle_says_that_nobody_watched_while_the_daemon_was_gone() {
    let (mut world, _server) = world_with_tools();
    let (job, id) = job(&world);
    world.sigkill();
    thread::sleep(Duration::from_millis(1500));
    world.start();
    end(&world, "a");
    drop(job);
    let (out, _) = export(&world, &id);
    world.clawguard(&["audit", "verify"]).ok();
    let liveness = payload(&out, "bundle-1.json")["coverage_attestations"][0]["payload"]["metrics"]["liveness"].clone();
    assert_eq!(liveness["status"], "interrupted", "{liveness}");
    let run = verdict(&world, &out);
    assert_eq!((run.status, run.json()["fault"]["code"].as_str()), (1, Some("EVIDENCE_MISMATCH")), "{}", run.out);
}

/// The directory of the cgroup that a job was given, as the daemon remembers it.
fn cgroup_of(world: &World, job: &str) -> PathBuf {
    let text = fs::read_to_string(world.directory.join("run/clawguard/jobs.json")).unwrap();
    let jobs: Value = serde_json::from_str(&text).unwrap();
    let own = jobs.as_array().unwrap().iter().find(|entry| entry["id"] == job).unwrap();
    own["directory"].as_str().unwrap().into()
}

#[test]
fn a_process_that_root_takes_out_of_its_jobs_cgroup_is_told_counted_and_attested() {
    let world = world();
    let outside = world.service("elsewhere");
    let mut agent = world.agent_runs_on("a", Nobody, &["sh", "-c", "sleep 600 & sleep 601 & echo started; wait"]);
    agent.until("started");
    let id = job_of(&world, "a");
    let sleepers = || -> Vec<i32> {
        let is_one = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "sleep\n");
        sys::cgroup::processes(&cgroup_of(&world, &id)).unwrap().into_iter().filter(is_one).collect()
    };
    world.eventually("both sleep", |_| sleepers().len() == 2);
    // It is looked who is there once a second.
    thread::sleep(Duration::from_millis(2500));
    let (_, said) = export(&world, &id);
    assert_eq!(said["running"], true, "{said}");
    let pid = sleepers()[0];
    fs::write(outside.directory.join("cgroup.procs"), pid.to_string()).unwrap();
    let escapes = || -> Vec<Value> {
        world.audit("alert").into_iter().filter(|alert| alert["kind"] == "cgroup_escape").collect()
    };
    world.eventually("the escape is told, of whom and how many", |_| escapes().len() == 2);
    thread::sleep(Duration::from_millis(2500));
    let (who, many): (Vec<_>, Vec<_>) = escapes().into_iter().partition(|alert| alert["pid"].is_number());
    assert_eq!((who.len(), many.len()), (1, 1), "{who:?} {many:?}");
    assert_eq!((&who[0]["pid"], &who[0]["command"], &who[0]["job"]), (&json!(pid), &json!("sleep"), &json!(id)));
    assert!(who[0]["cgroup"].as_str().unwrap().contains(&outside.name), "{who:?}");
    assert_eq!(many[0]["count"], 1, "{many:?}");
    assert_eq!(world.metric("clawguard_bypass_alerts_total{agent=\"a\",kind=\"cgroup_escape\""), 2.0);
    end(&world, "a");
    let facts = coverage(&world, "a");
    assert_eq!((&facts["escapes_suspected"], &facts["unmonitored_spawns"]), (&json!(true), &json!(1)), "{facts}");
    let (out, _) = export(&world, &id);
    let lineage = &payload(&out, "bundle-1.json")["coverage_attestations"][0]["payload"]["metrics"]["lineage"];
    assert_eq!((&lineage["escapes_suspected"], &lineage["unmonitored_spawns"]), (&json!(true), &json!(1)));
    // Nobody who demands that the job was watched is content with it.
    let run = verdict(&world, &out);
    assert_eq!((run.status, run.json()["fault"]["code"].as_str()), (1, Some("EVIDENCE_MISMATCH")), "{}", run.out);
    assert!(run.out.contains("unmonitored_spawns") || run.out.contains("escapes_suspected"), "{}", run.out);
}

#[test]
fn what_a_job_that_is_only_observed_did_is_counted_and_its_bundle_says_so() {
    let mut world = World::new();
    world.configure("[audit]\ninterval_seconds = 1\n[[agent]]\nname = \"a\"\nmode = \"observe\"");
    world.start();
    world.use_contract("a", contract());
    let probe = world.probe();
    // One that the contract allows, and two that it does not.
    let to = ["203.0.113.10:443", "203.0.113.99:443", "203.0.113.20:443"];
    let script = to.map(|to| format!("{probe} tcp {to} x;")).concat();
    let run = world.agent_runs("a", Nobody, &["sh", "-c", &script]).ok();
    assert_eq!(run.out.lines().filter(|line| line.starts_with("ok")).count(), 3, "{}", run.out);
    let facts = coverage(&world, "a");
    let number = |name: &str| facts[name].as_u64().unwrap();
    assert_eq!([number("connections_total"), number("unmediated_connections"), number("denied")], [3, 2, 0], "{facts}");
    assert_eq!((number("processes_tracked"), &facts["escapes_suspected"]), (5, &json!(false)), "{facts}");
    let (out, _) = export(&world, facts["job"].as_str().unwrap());
    let payload = payload(&out, "bundle-1.json");
    let attested = &payload["coverage_attestations"][0]["payload"]["metrics"];
    assert_eq!(attested["egress"], json!({ "connections_total": 3, "unmediated_connections": 2 }), "{attested}");
    assert_eq!(attested["lineage"]["processes_tracked"], 5, "{attested}");
    assert!(payload["metadata"]["sentinels"]["egress_policy_receipt"].is_null(), "{payload}");
    assert!(payload["metadata"].to_string().contains("the job's contract was only observed"), "{payload}");
    // Whoever only wants to be told learns it; whoever demands that all was mediated does not believe that it was.
    let trust = out.join("trust.json");
    let words = ["--json", "bundle", "verify", out.to_str().unwrap(), "--trust", trust.to_str().unwrap()];
    let run = world.clawguard(&[&words[..], &["--observe"]].concat());
    assert_eq!((run.status, run.json()["status"].as_str()), (0, Some("VALID")), "{}", run.out);
    assert!(run.out.contains("COVERAGE_UNMEDIATED_EGRESS"), "{}", run.out);
    let run = world.clawguard(&words);
    assert_eq!((run.status, run.json()["fault"]["code"].as_str()), (1, Some("EVIDENCE_MISMATCH")), "{}", run.out);
}

#[test]
fn of_a_job_that_never_was_there_is_nothing_to_hand_out() {
    let world = world();
    let run = world.clawguard(&["bundle", "export", "no-such-job"]);
    assert!(run.status == 1 && run.err.contains("knows of no job"), "{run:?}");
    assert!(!world.directory.join("var/lib/clawguard/keys/jobs/no-such-job.jwk").exists());
}
