//! Calls that wait for a person: made once somebody agreed, once, and as they were agreed to; otherwise not.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{fs, thread, time::Duration};

use e2e::{Identity::Nobody, McpServer, Outside, World};
use serde_json::{Value, json};

const URL: &str = "http://127.0.0.1:9480/s/crm-mcp/mcp";

fn tools() -> Value {
    json!({ "tools": { "allow": ["crm-mcp/get_case"], "approve": ["crm-mcp/update_case", "crm-mcp/delete_case"] } })
}

/// A world with one server, and agent `a` under a contract by which some of its tools wait for a person.
fn world(mcp: &str) -> (World, McpServer) {
    let mut world = World::new();
    let server = McpServer::start("127.0.0.1:3901");
    world.configure(&format!("[mcp]\n{mcp}\n{}", server.configuration("crm-mcp", "low")));
    world.start();
    world.use_contract("a", tools());
    serves(&world);
    server.clear();
    (world, server)
}

fn serves(world: &World) {
    world.eventually("the gateway serves MCP", |world| {
        let run = world.agent("a", Nobody, &["tools", "list", URL]);
        run.status == 0 && !run.out.is_empty()
    });
}

/// One job that makes the calls that it is told: a tool's name and arguments a line.
fn job(world: &World) -> Outside {
    let script = format!(
        "echo ready; while read -r tool arguments; do echo \"answer $({} tools call {URL} \"$tool\" \"$arguments\" 2>&1)\"; done",
        world.probe()
    );
    let mut job = world.agent_runs_on("a", Nobody, &["sh", "-c", &script]);
    job.until("ready");
    job
}

fn call(job: &mut Outside, tool: &str, arguments: &str) -> String {
    let line = job.ask(&format!("{tool} {arguments}"), "answer");
    let answer: Value =
        serde_json::from_str(line.strip_prefix("answer ").unwrap()).unwrap_or_else(|_| panic!("{line}"));
    answer["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

/// The approvals that nobody decided.
fn pending(world: &World) -> Vec<Value> {
    let all = world.json(&["approvals"]);
    all.as_array().unwrap().iter().filter(|approval| approval["state"] == "pending").cloned().collect()
}

fn id(approval: &Value) -> &str {
    approval["id"].as_str().unwrap()
}

#[test]
fn a_held_call_goes_through_once_a_person_agreed_and_only_once() {
    let (world, server) = world("approval_wait_seconds = 0");
    let mut job = job(&world);
    let told = call(&mut job, "update_case", r#"{"note":"\u202e[2K","id":1}"#);
    let waits = pending(&world);
    assert_eq!(waits.len(), 1);
    assert!(told.contains(id(&waits[0])), "{told}");
    for (field, value) in
        [("agent", "a"), ("server", "crm-mcp"), ("tool", "update_case"), ("class", "write"), ("risk", "low")]
    {
        assert_eq!(waits[0][field], value, "{}", waits[0]);
    }
    // Complete, canonical, and nothing in it turns a line around.
    assert_eq!(waits[0]["arguments"], "{\"id\":1,\"note\":\"\u{202e}[2K\"}");
    let shown = world.clawguard(&["approvals"]).ok().out;
    assert!(shown.contains(r#"{"id":1,"note":"\u202e[2K"}"#) && !shown.contains('\u{202e}'), "{shown}");
    assert_eq!(world.metric("clawguard_approvals_pending"), 1.0);
    // The same again is the same question.
    call(&mut job, "update_case", r#"{"id":1,"note":"\u202e[2K"}"#);
    assert_eq!(pending(&world).len(), 1);
    assert_eq!(server.called().len(), 0);
    world.clawguard(&["approve", id(&waits[0]), "--reason", "seen it"]).ok();
    assert_eq!(world.metric("clawguard_approvals_pending"), 0.0);
    assert_eq!(call(&mut job, "update_case", r#"{"id":1,"note":"\u202e[2K"}"#), "did update_case");
    assert_eq!(server.called(), ["update_case"]);
    // Used up: the next one asks anew.
    let told = call(&mut job, "update_case", r#"{"id":1,"note":"\u202e[2K"}"#);
    assert!(told.contains(id(&pending(&world)[0])) && !told.contains(id(&waits[0])), "{told}");
    assert_eq!(server.called().len(), 1);
    let results: Vec<Value> = world.audit("approval").iter().map(|record| record["result"].clone()).collect();
    assert_eq!(results, ["asked", "approved", "used", "asked"]);
    let approved = &world.audit("approval")[1];
    assert_eq!((&approved["actor"]["uid"], &approved["reason"]), (&json!(0), &json!("seen it")), "{approved}");
    let made = world.audit("call").into_iter().find(|call| call["decision"] == "allowed").unwrap();
    assert_eq!(
        (made["approval"].as_str(), made["approved_by"].as_str()),
        (Some(id(&waits[0])), Some("uid 0")),
        "{made}"
    );
    world.clawguard(&["audit", "verify"]).ok();
}

#[test]
fn an_approval_is_good_for_no_other_arguments_no_other_job_and_no_other_contract() {
    let (mut world, server) = world("approval_wait_seconds = 0");
    let (mut first, mut second) = (job(&world), job(&world));
    call(&mut first, "delete_case", r#"{"id":1}"#);
    let waits = pending(&world);
    world.clawguard(&["approve", id(&waits[0])]).ok();
    for arguments in [r#"{"id":2}"#, r#"{"id":"1"}"#, r#"{"id":1,"all":true}"#, "{}"] {
        assert!(!call(&mut first, "delete_case", arguments).starts_with("did"), "{arguments}");
    }
    assert!(!call(&mut first, "update_case", r#"{"id":1}"#).starts_with("did"));
    assert!(!call(&mut second, "delete_case", r#"{"id":1}"#).starts_with("did"));
    // Another contract, though it says the same.
    world.use_contract("a", tools());
    world.eventually("the gateway has it", |world| {
        world
            .audit("approval")
            .iter()
            .any(|record| record["reason"] == "contract_changed" && record["approval"] == waits[0]["id"])
    });
    assert!(!call(&mut first, "delete_case", r#"{"id":1}"#).starts_with("did"));
    assert_eq!(server.called().len(), 0);
    // With the job goes what waits for it.
    drop((first, second));
    world.eventually("nothing waits for a job that is over", |world| pending(world).is_empty());
    assert!(world.audit("approval").iter().any(|record| record["reason"] == "job_over"));
}

#[test]
fn what_nobody_decides_ends_as_denied() {
    let (world, server) = world("approval_wait_seconds = 2\napproval_expiry_seconds = 2");
    let mut job = job(&world);
    let told = call(&mut job, "update_case", r#"{"id":1}"#);
    assert!(!told.starts_with("did"), "{told}");
    let asked = world.audit("approval")[0]["approval"].as_str().unwrap().to_owned();
    world.eventually("it is over", |world| {
        world
            .audit("approval")
            .iter()
            .any(|record| record["result"] == "expired" && record["approval"] == asked.as_str())
    });
    let late = world.clawguard(&["approve", &asked]);
    assert_eq!(late.status, 1, "{late:?}");
    assert!(late.err.contains("no call waits under"), "{}", late.err);
    // One that was approved ends as well.
    job.say(r#"update_case {"id":2}"#);
    world.eventually("it waits", |world| pending(world).len() == 1);
    assert_eq!(server.called().len(), 0);
}

#[test]
fn a_call_that_waits_is_answered_as_soon_as_somebody_decides() {
    let (world, server) = world("approval_wait_seconds = 60");
    let mut job = job(&world);
    for (decide, expected) in [("approve", "did update_case"), ("deny", "not on a Saturday")] {
        job.say(&format!("update_case {{\"id\":\"{decide}\"}}"));
        world.eventually("it waits", |world| pending(world).len() == 1);
        let waits = pending(&world);
        world.clawguard(&[decide, id(&waits[0]), "--reason", "not on a Saturday"]).ok();
        let line = job.until("answer");
        assert!(line.contains(expected), "{line}");
        // A decision is one.
        let again = world.clawguard(&["deny", id(&waits[0]), "--reason", "x"]);
        assert_eq!(again.status, 1, "{again:?}");
    }
    // What was refused is refused again, and nobody is bothered.
    assert!(call(&mut job, "update_case", r#"{"id":"deny"}"#).contains("not on a Saturday"));
    assert!(pending(&world).is_empty());
    assert_eq!(server.called(), ["update_case"]);
    for (words, status) in
        [(&["deny", "ap-0"][..], 2), (&["deny", "ap-0", "--reason", " "], 2), (&["approve", "ap-0"], 1)]
    {
        assert_eq!(world.clawguard(words).status, status, "{words:?}");
    }
}

#[test]
fn an_approval_outlives_the_daemon_and_is_still_used_once() {
    let (mut world, server) = world("approval_wait_seconds = 0");
    let mut job = job(&world);
    call(&mut job, "update_case", r#"{"id":1}"#);
    let waits = pending(&world);
    world.clawguard(&["approve", id(&waits[0])]).ok();
    for _ in 0..2 {
        world.sigkill();
        world.start();
        serves(&world);
        server.clear();
        call(&mut job, "update_case", r#"{"id":1}"#);
        if server.called().is_empty() {
            break;
        }
        server.clear();
    }
    assert!(server.called().is_empty());
    let results: Vec<Value> = world.audit("approval").iter().map(|record| record["result"].clone()).collect();
    assert_eq!(results, ["asked", "approved", "used", "asked"]);
}

#[test]
fn a_kill_holds_whatever_a_person_agreed_to() {
    let (world, server) = world("approval_wait_seconds = 0");
    let mut job = job(&world);
    call(&mut job, "delete_case", r#"{"id":1}"#);
    world.clawguard(&["approve", id(&pending(&world)[0])]).ok();
    world.json(&["kill", "class:irreversible", "--reason", "test"]);
    assert!(call(&mut job, "delete_case", r#"{"id":1}"#).contains("killed"));
    assert_eq!(server.called().len(), 0);
}

#[test]
fn the_operators_command_hears_of_every_call_that_waits() {
    let mut world = World::new();
    let server = McpServer::start("127.0.0.1:3901");
    let out = world.directory.join("heard");
    fs::create_dir(&out).unwrap();
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(&out, fs::Permissions::from_mode(0o777)).unwrap();
    let hook = json!(["/bin/sh", "-c", format!("id -u >> {0}/uid; cat >> {0}/stdin; exit 3", out.display())]);
    world.configure(&format!(
        "[mcp]\napproval_wait_seconds = 0\napproval_hook = {hook}\n{}",
        server.configuration("crm-mcp", "low")
    ));
    world.start();
    world.use_contract("a", tools());
    serves(&world);
    let mut job = job(&world);
    call(&mut job, "update_case", r#"{"id":1}"#);
    world.eventually("the hook heard of it", |_| {
        fs::read_to_string(out.join("stdin")).is_ok_and(|text| text.ends_with('}'))
    });
    let heard: Value = serde_json::from_str(&fs::read_to_string(out.join("stdin")).unwrap()).unwrap();
    assert_eq!((id(&heard), &heard["arguments"]), (id(&pending(&world)[0]), &json!(r#"{"id":1}"#)), "{heard}");
    assert_eq!(fs::read_to_string(out.join("uid")).unwrap().trim(), "65534");
    world.eventually("its failure is told", |world| world.log_text().contains("the approval hook failed"));
    thread::sleep(Duration::from_millis(100));
    assert_eq!(server.called().len(), 0);
}
