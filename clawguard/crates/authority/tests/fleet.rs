//! Two hundred hosts at once: one winner for each token, and every revocation seen by everybody, once and in order.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

mod common;

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Barrier, mpsc},
    thread,
    time::Duration,
};

use claw::token::TokenHash;
use common::{ADMIN, Client, World};
use serde_json::json;

const CLIENTS: usize = 200;

/// Runs something in as many threads as there are clients, started together.
fn together<T: Send + 'static>(work: impl Fn(usize) -> T + Send + Sync + 'static) -> Vec<T> {
    let (work, start) = (Arc::new(work), Arc::new(Barrier::new(CLIENTS)));
    let one = |i| {
        let (work, start) = (Arc::clone(&work), Arc::clone(&start));
        let work = move || {
            start.wait();
            work(i)
        };
        thread::Builder::new().stack_size(256 << 10).spawn(work).unwrap()
    };
    let threads: Vec<_> = (0..CLIENTS).map(one).collect();
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

#[test]
fn of_two_hundred_hosts_that_bring_one_token_exactly_one_gets_it() {
    let world = World::new("binders");
    let tokens: Vec<String> = (0..20).map(|_| world.token("proxy:call", "clawproxy.com")).collect();
    let (address, all) = (world.address, Arc::new(tokens));
    let tokens = Arc::clone(&all);
    let answers = together(move |i| {
        let mut client = Client::new(address);
        let one = |at: usize| {
            // Each host begins with another token, so that every token is raced for.
            let at = (at + i) % tokens.len();
            let body = json!({ "token": tokens[at], "binder": format!("host-{i}") }).to_string();
            let reply = client.call("POST", "/v1/tokens/bind", &[], &body).unwrap();
            match reply.status {
                200 => assert_eq!(reply.json()["binder"], format!("host-{i}")),
                _ => assert_eq!(reply.error(), (409, "TOKEN_REPLAYED".into())),
            }
            (at, reply.status)
        };
        (0..tokens.len()).map(one).collect::<Vec<_>>()
    });
    for (at, token) in all.iter().enumerate() {
        let winners: Vec<usize> = (0..CLIENTS).filter(|i| answers[*i].contains(&(at, 200))).collect();
        assert_eq!(winners.len(), 1, "token {at} was given to {winners:?}");
        // And it stays with that one.
        for (binder, status) in [(winners[0], 200), ((winners[0] + 1) % CLIENTS, 409)] {
            let body = json!({ "token": token, "binder": format!("host-{binder}") });
            assert_eq!(world.post("/v1/tokens/bind", &body).status, status);
        }
    }
}

/// A follower on a thread of its own: what it saw, once it saw as many.
fn follower(address: SocketAddr, path: &str, more: &str, many: usize) -> thread::JoinHandle<Vec<(u64, String)>> {
    let (path, more) = (path.to_owned(), more.to_owned());
    thread::spawn(move || {
        let mut seen = Vec::new();
        Client::new(address).follow(&path, &more, |id, event| {
            assert_eq!(event["sequence"], json!(id));
            seen.push((id, event["record"]["token_hash"].as_str().unwrap().to_owned()));
            seen.len() < many
        });
        seen
    })
}

#[test]
fn every_revocation_is_seen_by_everybody_once_and_in_order() {
    const EACH: usize = 5;
    let world = World::new("revocations");
    let address = world.address;
    let many = CLIENTS * EACH;
    let followers: Vec<_> = (0..20).map(|_| follower(address, "/v1/revocations/stream", "", many)).collect();
    let tokens: Arc<Vec<String>> = Arc::new((0..CLIENTS).map(|_| world.token("proxy:call", "clawproxy.com")).collect());
    // One follower loses its connection again and again, and goes on from where it was.
    let broken = thread::spawn(move || {
        let mut seen: Vec<(u64, String)> = Vec::new();
        while seen.len() < many {
            let resume = seen.last().map(|(id, _)| format!("last-event-id: {id}\r\n")).unwrap_or_default();
            let most = seen.len() + 37;
            Client::new(address).follow("/v1/revocations/stream", &resume, |id, event| {
                seen.push((id, event["record"]["token_hash"].as_str().unwrap().to_owned()));
                seen.len() < most.min(many)
            });
        }
        seen
    });
    let own = Arc::clone(&tokens);
    let acknowledged = together(move |i| {
        let mut client = Client::new(address);
        let bearer = format!("Bearer {ADMIN}");
        let admin = [("authorization", bearer.as_str())];
        let mut hashes = Vec::new();
        for n in 0..EACH {
            let (hash, body) = if n == 0 {
                (TokenHash::of(&own[i]), json!({ "token": own[i], "reason": "test" }))
            } else {
                let hash = TokenHash::of(&format!("{i}.{n}"));
                (hash, json!({ "token_hash": hash.to_string() }))
            };
            let reply = client.call("POST", "/v1/tokens/revoke", &admin, &body.to_string()).unwrap();
            assert_eq!((reply.status, &reply.json()["status"]), (200, &json!("revoked")));
            if n == 0 {
                // What was acknowledged is in force.
                let body = json!({ "token": own[i] }).to_string();
                let reply = client.call("POST", "/v1/tokens/introspect", &[], &body).unwrap();
                assert_eq!(reply.json()["active"], json!(false));
            }
            // Twice is once.
            if n == 1 {
                let reply = client.call("POST", "/v1/tokens/revoke", &admin, &body.to_string()).unwrap();
                assert_eq!(reply.json()["status"], "already_revoked");
            }
            hashes.push(hash.to_string());
        }
        hashes
    });
    let acknowledged: BTreeSet<String> = acknowledged.into_iter().flatten().collect();
    assert_eq!(acknowledged.len(), many);

    // The list, oldest first.
    let (mut listed, mut path) = (Vec::new(), "/v1/revocations/events?limit=200".to_owned());
    loop {
        let page = world.admin("GET", &path, "").json();
        listed.extend(page["events"].as_array().unwrap().iter().map(|event| {
            let hash = event["record"]["token_hash"].as_str().unwrap().to_owned();
            (event["sequence"].as_u64().unwrap(), hash)
        }));
        let Some(cursor) = page["cursor"].as_str() else { break };
        path = format!("/v1/revocations/events?limit=200&cursor={cursor}");
    }
    listed.reverse();
    assert!(listed.windows(2).all(|pair| pair[0].0 < pair[1].0));
    assert_eq!(listed.iter().map(|(_, hash)| hash.clone()).collect::<BTreeSet<_>>(), acknowledged);
    assert_eq!(listed.len(), many);
    for follower in followers {
        assert_eq!(follower.join().unwrap(), listed);
    }
    assert_eq!(broken.join().unwrap(), listed);

    // After a restart the file serves what memory served before.
    let half = listed[many / 2].0;
    let world = World::on(world.stop(), |_| {});
    let path = format!("/v1/revocations/stream?cursor={half}");
    assert_eq!(follower(world.address, &path, "", many - many / 2 - 1).join().unwrap(), listed[many / 2 + 1..]);
    // A cursor that was never given must not make a follower wait for what it will never get.
    let path = format!("/v1/revocations/stream?cursor={}", listed[many - 1].0 + 1);
    assert_eq!(follower(world.address, &path, "", many).join().unwrap(), listed);
    for token in tokens.iter() {
        assert_eq!(world.post("/v1/tokens/introspect", &json!({ "token": token })).json()["active"], json!(false));
    }
}

#[test]
fn a_revocation_is_pushed_and_silence_is_filled() {
    let world = World::with("pushed", |settings| settings.limits.keep_alive = Duration::from_millis(50));
    let (said, told) = mpsc::channel();
    let address = world.address;
    thread::spawn(move || {
        Client::new(address).follow("/v1/revocations/stream", "", |id, _| said.send(id).is_ok());
    });
    for id in 1..=3 {
        let hash = json!({ "token_hash": TokenHash::of(&id.to_string()).to_string() }).to_string();
        assert_eq!(world.admin("POST", "/v1/tokens/revoke", &hash).status, 200);
        assert_eq!(told.recv_timeout(Duration::from_secs(30)).unwrap(), id);
    }
    let raw = common::Raw::get(address, "/v1/revocations/stream?cursor=3");
    raw.until(": keep-alive\n\n: keep-alive");
    assert!(raw.head().contains("text/event-stream"));
}

#[test]
fn a_stream_ends_with_the_token_that_opened_it() {
    let world = World::with("ended", |settings| {
        settings.limits.keep_alive = Duration::from_millis(50);
        // The connection waits for another request before it ends.
        settings.limits.head = Duration::from_millis(500);
    });
    let expiring = world.token("control:audit:read", "clawscope.com");
    let revoked = world.token("control:audit:read", "clawscope.com");
    let open = |token: &str| {
        let raw = common::Raw::with(world.address, "/v1/revocations/stream", &format!("x-cst: {token}\r\n"));
        raw.until("keep-alive");
        raw
    };
    let stream = open(&revoked);
    world.admin("POST", "/v1/tokens/revoke", &json!({ "token": revoked }).to_string());
    stream.ended();
    let stream = open(&expiring);
    world.now.fetch_add(3600, std::sync::atomic::Ordering::SeqCst);
    stream.ended();
}

#[test]
fn a_server_that_stops_ends_its_streams() {
    // Nothing is cut off within the time that this test waits.
    let world = World::with("stops", |settings| settings.limits.farewell = Duration::from_secs(3600));
    let (said, told) = mpsc::channel();
    let address = world.address;
    thread::spawn(move || {
        Client::new(address).follow("/v1/revocations/stream", "", |id, _| said.send(id).is_ok());
    });
    let hash = json!({ "token_hash": TokenHash::of("x").to_string() }).to_string();
    world.admin("POST", "/v1/tokens/revoke", &hash);
    assert_eq!(told.recv_timeout(Duration::from_secs(30)).unwrap(), 1);
    let (ended, end) = mpsc::channel();
    thread::spawn(move || {
        drop(world);
        ended.send(()).unwrap();
    });
    end.recv_timeout(Duration::from_secs(20)).expect("the server did not stop");
    assert!(told.recv_timeout(Duration::from_secs(30)).is_err(), "the stream did not end");
}
