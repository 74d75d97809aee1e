//! What a kill, and another contract, do to model calls.

use std::time::Duration;

use serde_json::json;
use tokio::time::timeout;

use super::world::{CHAT, Client, EVENTS, Got, Step, World, chunk, eventually};

const ASKED: &str = r#"{"model":"m","stream":true}"#;
const DELTA: &str = "data: 1\n\n";

/// A stream that runs.
async fn running(world: &World) -> (tokio::sync::mpsc::UnboundedSender<Step>, Client, Got) {
    let steps = world.provider.steps();
    let mut client = world.send("POST", CHAT, &[], ASKED).await;
    steps.send(Step::Send(EVENTS.into())).unwrap();
    steps.send(chunk(DELTA)).unwrap();
    let head = client.head().await;
    assert_eq!(client.piece(&head).await.as_deref(), Some(DELTA));
    (steps, client, head)
}

#[tokio::test]
async fn a_kill_ends_running_streams_at_once_and_refuses_new_calls() {
    for (group, own) in [("model", false), ("all", false), ("model", true)] {
        let mut world = World::open().await;
        let (steps, mut client, head) = running(&world).await;
        world.provider.heard().await;
        world
            .change(|rules| {
                let killed = if own { &mut rules.jobs[0].killed } else { &mut rules.killed };
                killed.insert(group.into());
            })
            .await;
        // Counted with those of MCP, in the daemon's answer to whoever kills.
        assert_eq!(world.daemon.kept.lock().unwrap().last().map(|(_, cancelled)| *cancelled), Some(1));
        let ended = timeout(Duration::from_secs(1), client.piece(&head)).await;
        assert_eq!(ended, Ok(None), "cut, and not ended");
        let end = world.daemon.end().await;
        assert_eq!((&*end.outcome, end.bytes_out), ("killed", DELTA.len() as u64));
        eventually("the provider is hung up on", || *world.provider.closed.lock().unwrap() == 1).await;
        drop(steps);
        let got = world.post(CHAT, &[], ASKED).await;
        assert_eq!((got.status, &*got.code(), got.header("x-should-retry")), (403, "MODEL_KILLED", Some("false")));
        assert!(world.provider.is_unasked());
        world
            .change(|rules| {
                rules.killed.clear();
                rules.jobs[0].killed.clear();
            })
            .await;
        assert_eq!(world.chat().await.status, 200);
    }
}

#[tokio::test]
async fn kills_of_other_groups_leave_models_alone() {
    let world = World::open().await;
    let (steps, mut client, head) = running(&world).await;
    let groups = ["mode:tools-off", "class:write", "class:irreversible", "mcp:crm", "risk:low"];
    world.change(|rules| rules.killed.extend(groups.map(str::to_owned))).await;
    assert_eq!(world.chat().await.status, 200);
    steps.send(chunk(DELTA)).unwrap();
    assert_eq!(client.piece(&head).await.as_deref(), Some(DELTA));
}

#[tokio::test]
async fn a_call_that_waits_for_its_answer_is_ended_too() {
    let mut world = World::open().await;
    let _steps = world.provider.steps();
    let mut client = world.send("POST", CHAT, &[], ASKED).await;
    world.provider.heard().await;
    world.change(|rules| rules.killed.extend(["model".to_owned()])).await;
    let got = client.get().await;
    assert_eq!((got.status, &*got.code()), (403, "MODEL_KILLED"));
    assert_eq!(world.daemon.end().await.outcome, "killed");
}

#[tokio::test]
async fn what_ends_a_jobs_right_ends_its_calls() {
    for what in ["contract", "stopped", "over", "gone"] {
        let world = World::open().await;
        let (_steps, mut client, head) = running(&world).await;
        if what == "contract" {
            *world.daemon.contract.lock().unwrap() = json!({ "policy_version": "1", "policy_id": "test", "issuer_did": "did:key:zTest", "allowed_models": ["n"] });
        }
        world
            .change(|rules| match what {
                "contract" => rules.jobs[0].contract = Some("another".into()),
                "stopped" => rules.jobs[0].stopped = Some("revoked".into()),
                "over" => rules.jobs.clear(),
                _ => rules.jobs[0].contract = None,
            })
            .await;
        assert_eq!(client.piece(&head).await, None, "{what}");
        assert_eq!(world.daemon.end().await.outcome, "killed", "{what}");
    }
    let world = World::open().await;
    let (steps, mut client, head) = running(&world).await;
    world.change(|rules| rules.jobs[0].contract = Some("as good".into())).await;
    steps.send(chunk(DELTA)).unwrap();
    assert_eq!(client.piece(&head).await.as_deref(), Some(DELTA));
}

#[tokio::test]
async fn a_kill_while_the_record_is_written_keeps_the_call_from_being_sent() {
    let mut world = World::open().await;
    let slow = std::sync::Arc::new(tokio::sync::Notify::new());
    *world.daemon.slow.lock().unwrap() = Some(std::sync::Arc::clone(&slow));
    let mut client = world.send("POST", CHAT, &[], ASKED).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    world.change(|rules| rules.killed.extend(["model".to_owned()])).await;
    slow.notify_one();
    assert_eq!(client.get().await.code(), "MODEL_KILLED");
    assert!(world.provider.is_unasked());
    assert_eq!(world.daemon.end().await.outcome, "killed");
}
