//! The server is killed at any moment, again and again: what it acknowledged is there afterwards.
//!
//! `AUTHORITY_ROUNDS` says how often (50), `AUTHORITY_SEED` when.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use claw::token::TokenHash;
use common::{Client, fresh};
use serde_json::{Value, json};

const WORKERS: u64 = 6;

/// What the clients were told is done.
#[derive(Default)]
struct Acknowledged {
    /// In the order of their acknowledgement, like all of them.
    revoked: Vec<String>,
    /// Token by token, who was told that it is theirs.
    bound: BTreeMap<String, BTreeSet<String>>,
    /// Hash and envelope.
    wpc: Vec<(String, String)>,
    /// Tokens whose issue was acknowledged.
    issued: Vec<String>,
}

/// SplitMix64: the same numbers for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// A server that does not outlive its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(data: &Path) -> (Running, SocketAddr) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_clawguard-authority"))
        .args(["serve", "--listen", "127.0.0.1:0", "--allow-root", "--data"])
        .arg(data)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("listening on http://").expect("the server did not start").parse().unwrap();
    (Running(child), address)
}

/// One client: what it does until its server is gone.
fn work(worker: u64, mut client: Client, bearer: &str, serial: &AtomicU64, seed: u64, known: &Mutex<Acknowledged>) {
    let mut random = Random(seed);
    let admin = [("authorization", bearer)];
    loop {
        let serial = serial.fetch_add(1, Ordering::Relaxed);
        match random.next() % 4 {
            0 => {
                let body = json!({ "sub": "did:key:z1", "aud": "a", "scope": ["proxy:call"], "ttl_sec": 3600 });
                let Ok(reply) = client.call("POST", "/v1/tokens/issue", &admin, &body.to_string()) else { return };
                assert_eq!(reply.status, 200, "{}", reply.body);
                known.lock().unwrap().issued.push(reply.json()["token"].as_str().unwrap().to_owned());
            }
            1 => {
                let hash = TokenHash::of(&format!("never issued {serial}")).to_string();
                let body = json!({ "token_hash": hash, "reason": "killed" }).to_string();
                let Ok(reply) = client.call("POST", "/v1/tokens/revoke", &admin, &body) else { return };
                assert_eq!(reply.status, 200, "{}", reply.body);
                known.lock().unwrap().revoked.push(hash);
            }
            2 => {
                // The same few tokens by everybody, so that they race; also across a kill.
                let token = {
                    let known = known.lock().unwrap();
                    let many = known.issued.len();
                    (many > 0).then(|| known.issued[many - 1 - (random.next() as usize) % many.min(4)].clone())
                };
                let Some(token) = token else { continue };
                let binder = format!("host-{worker}");
                let body = json!({ "token": token, "binder": binder }).to_string();
                let Ok(reply) = client.call("POST", "/v1/tokens/bind", &[], &body) else { return };
                match reply.status {
                    200 => {
                        known.lock().unwrap().bound.entry(token).or_default().insert(binder);
                    }
                    _ => assert_eq!(reply.error(), (409, "TOKEN_REPLAYED".into())),
                }
            }
            _ => {
                let wpc = json!({ "wpc": {
                    "policy_version": "1", "policy_id": format!("p{serial}"), "issuer_did": "did:key:z1",
                    "metadata": { "x": "x".repeat((random.next() % 20_000) as usize) },
                } });
                let Ok(reply) = client.call("POST", "/v1/wpc", &admin, &wpc.to_string()) else { return };
                assert_eq!(reply.status, 201, "{}", reply.body);
                let value = reply.json();
                let hash = value["policy_hash_b64u"].as_str().unwrap().to_owned();
                known.lock().unwrap().wpc.push((hash, value["envelope"].to_string()));
            }
        }
    }
}

/// Looks for what was acknowledged: the newest, which a kill could have taken, and some of the older; now and then, and in
/// the last round, for all of it.
fn check(address: SocketAddr, bearer: &str, known: &Acknowledged, last_round: bool, random: &mut Random) {
    const NEWEST: usize = 300;
    let all = last_round || random.next().is_multiple_of(100);
    let mut client = Client::new(address);
    let admin = [("authorization", bearer)];
    let (mut listed, mut path, mut last) = (BTreeSet::new(), "/v1/revocations/events?limit=200".to_owned(), u64::MAX);
    // Twice as many as are looked for: what was not acknowledged may be there as well.
    while all || listed.len() < 2 * NEWEST {
        let page = client.call("GET", &path, &admin, "").unwrap().json();
        for event in page["events"].as_array().unwrap() {
            let sequence = event["sequence"].as_u64().unwrap();
            assert!(sequence < last, "the order changed");
            last = sequence;
            assert!(listed.insert(event["record"]["token_hash"].as_str().unwrap().to_owned()), "listed twice");
        }
        let Some(cursor) = page["cursor"].as_str() else { break };
        path = format!("/v1/revocations/events?limit=200&cursor={cursor}");
    }
    let sought = if all { &known.revoked[..] } else { &known.revoked[known.revoked.len().saturating_sub(NEWEST)..] };
    let lost: Vec<_> = sought.iter().filter(|hash| !listed.contains(*hash)).collect();
    assert!(lost.is_empty(), "revocations were lost: {lost:?}");
    let mut pick = |many: usize| -> Vec<bool> {
        let older = (many / 40).max(1) as u64;
        (0..many).map(|i| all || i + 40 >= many || random.next().is_multiple_of(older)).collect()
    };
    let kept = pick(known.issued.len());
    for (token, _) in known.issued.iter().zip(kept).filter(|(_, kept)| *kept) {
        let Some(binders) = known.bound.get(token) else { continue };
        assert_eq!(binders.len(), 1, "{token} was given to {binders:?}");
        let winner = binders.first().unwrap();
        for (binder, status) in [("a stranger", 409), (winner.as_str(), 200)] {
            let body = json!({ "token": token, "binder": binder }).to_string();
            // A connection serves a thousand requests.
            let reply = Client::new(address).call("POST", "/v1/tokens/bind", &[], &body).unwrap();
            assert_eq!(reply.status, status, "{token} {binder}");
        }
    }
    let kept = pick(known.wpc.len());
    for ((hash, envelope), _) in known.wpc.iter().zip(kept).filter(|(_, kept)| *kept) {
        let fetched = Client::new(address).call("GET", &format!("/v1/wpc/{hash}"), &[], "").unwrap();
        assert_eq!(fetched.status, 200, "{hash} was lost");
        assert_eq!(&fetched.json()["envelope"].to_string(), envelope);
    }
}

#[test]
fn what_was_acknowledged_survives_a_kill_at_any_moment() {
    let rounds = number("AUTHORITY_ROUNDS").unwrap_or(50);
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seed = number("AUTHORITY_SEED").unwrap_or_else(clock);
    println!("AUTHORITY_SEED={seed} AUTHORITY_ROUNDS={rounds}");
    let mut random = Random(seed);
    let data = fresh("kill");
    let known = Arc::new(Mutex::new(Acknowledged::default()));
    let serial = Arc::new(AtomicU64::new(0));
    // A follower that goes on from where it was, through every kill.
    let followed: Arc<Mutex<Vec<(u64, String)>>> = Arc::default();
    for round in 0..=rounds {
        let (child, address) = start(&data);
        let bearer = format!("Bearer {}", fs::read_to_string(data.join("admin-token")).unwrap().trim());
        check(address, &bearer, &known.lock().unwrap(), round == rounds, &mut random);
        let stopped = Arc::new(AtomicBool::new(false));
        let follower = {
            let (followed, stopped, bearer) = (Arc::clone(&followed), Arc::clone(&stopped), bearer.clone());
            let client = Client::new(address);
            thread::spawn(move || follow(client, &bearer, &followed, &stopped))
        };
        let mut workers = Vec::new();
        for worker in 0..if round == rounds { 0 } else { WORKERS } {
            let (known, serial, bearer) = (Arc::clone(&known), Arc::clone(&serial), bearer.clone());
            let seed = random.next();
            // Connected while the server lives for certain.
            let client = Client::new(address);
            workers.push(thread::spawn(move || work(worker, client, &bearer, &serial, seed, &known)));
        }
        if round == rounds {
            // It catches up.
            for _ in 0..600 {
                let seen: BTreeSet<String> = followed.lock().unwrap().iter().map(|(_, hash)| hash.clone()).collect();
                if known.lock().unwrap().revoked.iter().all(|hash| seen.contains(hash)) {
                    break;
                }
                thread::sleep(Duration::from_millis(50));
            }
        } else {
            thread::sleep(Duration::from_micros(20_000 + random.next() % 250_000));
        }
        stopped.store(true, Ordering::SeqCst);
        // SIGKILL.
        drop(child);
        for worker in workers {
            worker.join().unwrap_or_else(|_| panic!("round {round} of AUTHORITY_SEED={seed}"));
        }
        follower.join().unwrap();
    }
    let (known, followed) = (known.lock().unwrap(), followed.lock().unwrap());
    assert!(followed.windows(2).all(|pair| pair[0].0 < pair[1].0), "the follower saw one twice, or out of order");
    let seen: BTreeSet<&String> = followed.iter().map(|(_, hash)| hash).collect();
    assert_eq!(seen.len(), followed.len());
    assert!(known.revoked.iter().all(|hash| seen.contains(hash)), "the follower missed one");
    println!(
        "{} revocations, {} bindings, {} contracts, {} tokens survived {rounds} kills",
        known.revoked.len(),
        known.bound.len(),
        known.wpc.len(),
        known.issued.len()
    );
    fs::remove_dir_all(data).unwrap();
}

fn follow(client: Client, bearer: &str, followed: &Mutex<Vec<(u64, String)>>, stopped: &AtomicBool) {
    let cursor = followed.lock().unwrap().last().map_or(0, |(id, _)| *id);
    let path = format!("/v1/revocations/stream?cursor={cursor}");
    let more = format!("authorization: {bearer}\r\n");
    client.follow_as(&path, &more, |id, event: Value| {
        followed.lock().unwrap().push((id, event["record"]["token_hash"].as_str().unwrap().to_owned()));
        !stopped.load(Ordering::SeqCst)
    });
}
