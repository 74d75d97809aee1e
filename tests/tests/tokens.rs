//! A job goes by its token: the right one, once, until it ends.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use claw::{
    Hash,
    encoding::encode,
    key::PrivateKey,
    token::{Claims, Token, TokenHash},
};
use e2e::{
    Identity::Nobody,
    Outside, Run, World,
    registry::{Mood, Registry},
};
use serde_json::{Value, json};

/// The issuer's key.
const ISSUER: [u8; 32] = [0x22; 32];
const CRM: &str = "203.0.113.10:443";

fn issuer() -> PrivateKey {
    PrivateKey::from_seed(&ISSUER)
}

fn now() -> u64 {
    sys::clock::wall_ns() / 1_000_000_000
}

/// A configuration that trusts the issuer, with this in `[registry]` and this in `[trust]`.
fn trusting(world: &World, registry: &str, trust: &str) {
    let directory = world.directory.join("etc/clawguard/conf.d");
    fs::create_dir_all(&directory).unwrap();
    let text = format!("[trust]\ncst_issuers = [\"{}\"]\n{trust}\n[registry]\n{registry}\n", issuer().did());
    fs::write(directory.join("50-tokens.toml"), text).unwrap();
}

fn demanding() -> Value {
    json!({ "egress": [{ "host": "crm.example", "tls": false, "groups": ["crm"] }],
        "token": { "cst_max_ttl_seconds": 900, "require_scope_hash": true, "policy_hash_pinning": "required" } })
}

/// A world whose agent `a` is under a contract that demands a token, without a registry.
fn alone() -> (World, Hash) {
    let mut world = World::new();
    trusting(&world, "", "revocation = \"off\"");
    world.start();
    let hash = under(&mut world, demanding());
    (world, hash)
}

fn under(world: &mut World, guard: Value) -> Hash {
    world.use_contract("a", guard)["wpc_hash"].as_str().unwrap().parse().unwrap()
}

/// The same with a registry that is asked every second.
fn with_registry(more: &str) -> (World, Registry, Hash) {
    let mut world = World::new();
    let registry = Registry::start();
    let lines = format!("clawscope = \"{}\"\npoll_seconds = 1\nrevocation_max_age_seconds = 4\n{more}", registry.url());
    trusting(&world, &lines, "");
    world.start();
    let hash = under(&mut world, demanding());
    (world, registry, hash)
}

fn claims(job: &str, contract: Hash) -> Claims {
    let agent = PrivateKey::from_seed(&[0x44; 32]).did().to_string();
    Claims {
        sub: agent.clone(),
        aud: vec!["clawguard".into()],
        scope: vec!["proxy:call".into()],
        iat: now(),
        exp: now() + 600,
        agent_did: Some(agent),
        policy_hash_b64u: Some(contract.to_string()),
        mission_id: Some(job.into()),
        jti: Some(format!("{job}-{}", sys::clock::wall_ns())),
        ..Claims::default()
    }
}

fn good(job: &str, contract: Hash) -> String {
    Token::issue(claims(job, contract), "legacy", &issuer())
}

fn lasting(job: &str, contract: Hash, seconds: u64) -> String {
    let claims = claims(job, contract);
    Token::issue(Claims { exp: claims.iat + seconds, ..claims }, "legacy", &issuer())
}

fn file(world: &World, token: &str) -> PathBuf {
    let path = world.directory.join(format!("token-{}", TokenHash::of(token)));
    fs::write(&path, format!("{token}\n")).unwrap();
    path
}

fn words<'a>(job: &'a str, token: &'a str, probe: &'a str, rest: &[&'a str]) -> Vec<&'a str> {
    let mut all = vec!["run", "--agent", "a", "--job", job, "--user", "nobody", "--cst", token, "--", probe];
    all.extend(rest);
    all
}

fn job(world: &World, job: &str, token: &str, rest: &[&str]) -> Run {
    let (path, probe) = (file(world, token), world.directory.join("probe"));
    world.clawguard(&words(job, path.to_str().unwrap(), probe.to_str().unwrap(), rest))
}

fn job_on(world: &World, job: &str, token: &str, rest: &[&str]) -> Outside {
    let (path, probe) = (file(world, token), world.directory.join("probe"));
    world.clawguard_on(&words(job, path.to_str().unwrap(), probe.to_str().unwrap(), rest))
}

/// A refused start: its cause in the error, in the counter and in the chain, and nothing was sent.
#[track_caller]
fn refused(world: &mut World, name: &str, token: &str, cause: &str) {
    let counted = |world: &World| world.metric(&format!("clawguard_cst_total{{cause=\"{cause}\",result=\"refused\"}}"));
    let before = counted(world);
    world.far.clear();
    let run = job(world, name, token, &["tcp", CRM, "x"]);
    assert_eq!(run.status, 4, "{cause}: {run:?}");
    assert!(run.err.contains(&format!("{cause}: ")), "{cause}: {run:?}");
    assert_eq!(counted(world), before + 1.0, "{cause}");
    let hash = TokenHash::of(token).to_string();
    let told = |body: &Value| {
        body["cause"] == cause && body["result"] == "refused" && body["token_hash"] == hash && body["job"] == name
    };
    assert!(world.audit("token").iter().any(told), "{cause}");
    assert_eq!(world.far.traffic(), 0, "{cause}");
    assert!(world.json(&["status"])["jobs"].as_array().unwrap().iter().all(|job| job["id"] != name), "{cause}");
}

fn state(world: &World, job: &str) -> String {
    let status = world.json(&["status"]);
    let found = status["jobs"].as_array().unwrap().iter().find(|view| view["id"] == job).cloned().unwrap();
    found["token"]["state"].as_str().unwrap_or("none").to_owned()
}

#[track_caller]
fn present(world: &World, job: &str, token: &str) -> Run {
    world.clawguard(&["cst", "present", job, file(world, token).to_str().unwrap()])
}

/// Rightly signed, with any header and any payload.
fn signed(header: &str, payload: &str) -> String {
    let signed = format!("{}.{}", encode(header.as_bytes()), encode(payload.as_bytes()));
    format!("{signed}.{}", encode(&issuer().sign(signed.as_bytes())))
}

#[test]
fn a_token_that_is_wrong_in_any_way_starts_no_job_and_says_why() {
    let (mut world, contract) = alone();
    let with = |change: &dyn Fn(&mut Claims)| {
        let mut claims = claims("j", contract);
        change(&mut claims);
        Token::issue(claims, "legacy", &issuer())
    };
    let kid = issuer().did().kid();
    let payload = claims("j", contract).to_value("legacy").to_string();
    let good_one = good("j", contract);
    let (signed_part, _) = good_one.rsplit_once('.').unwrap();
    let table = [
        (with(&|claims| (claims.iat, claims.exp) = (now() - 700, now() - 100)), "TOKEN_EXPIRED"),
        (with(&|claims| (claims.iat, claims.exp) = (now() + 600, now() + 900)), "TOKEN_NOT_YET_VALID"),
        (with(&|claims| claims.aud = vec!["elsewhere.example".into()]), "TOKEN_AUDIENCE_MISMATCH"),
        (with(&|claims| claims.scope = vec!["control:audit:read".into()]), "TOKEN_INSUFFICIENT_SCOPE"),
        (with(&|claims| claims.exp = claims.iat + 901), "TOKEN_TTL_EXCEEDED"),
        (with(&|claims| claims.policy_hash_b64u = None), "TOKEN_UNPINNED"),
        (with(&|claims| claims.policy_hash_b64u = Some(Hash::of(b"x").to_string())), "POLICY_HASH_MISMATCH"),
        (with(&|claims| claims.mission_id = Some("k".into())), "TOKEN_MISSION_MISMATCH"),
        (with(&|claims| claims.mission_id = None), "TOKEN_MISSION_MISMATCH"),
        (with(&|claims| claims.delegation_expires_at = Some(now() - 1)), "TOKEN_DELEGATION_EXPIRED"),
        (signed(&format!("{{\"alg\":\"none\",\"kid\":\"{kid}\"}}"), &payload), "TOKEN_UNSUPPORTED_ALG"),
        (signed(&format!("{{\"alg\":\"HS256\",\"kid\":\"{kid}\"}}"), &payload), "TOKEN_UNSUPPORTED_ALG"),
        (signed("{\"alg\":\"EdDSA\",\"kid\":\"0123456789abcdef\"}", &payload), "TOKEN_UNKNOWN_KID"),
        (Token::issue(claims("j", contract), "legacy", &PrivateKey::from_seed(&[9; 32])), "TOKEN_UNKNOWN_KID"),
        (format!("{signed_part}.{}", encode(&[7; 64])), "TOKEN_SIGNATURE_INVALID"),
        (signed(&format!("{{\"alg\":\"EdDSA\",\"kid\":\"{kid}\"}}"), &payload), "TOKEN_SCOPE_HASH_MISSING"),
        (
            signed(
                &format!("{{\"alg\":\"EdDSA\",\"kid\":\"{kid}\"}}"),
                &payload.replacen('{', &format!("{{\"token_scope_hash_b64u\":\"{}\",", Hash::of(b"x")), 1),
            ),
            "TOKEN_SCOPE_HASH_MISMATCH",
        ),
        (
            signed(&format!("{{\"alg\":\"EdDSA\",\"kid\":\"{kid}\"}}"), "{\"token_version\":\"2\"}"),
            "TOKEN_UNKNOWN_VERSION",
        ),
        (
            signed(&format!("{{\"alg\":\"EdDSA\",\"kid\":\"{kid}\"}}"), "{\"token_version\":\"1\"}"),
            "TOKEN_INVALID_CLAIMS",
        ),
        ("garbage".to_owned(), "TOKEN_MALFORMED"),
    ];
    for (token, cause) in &table {
        refused(&mut world, "j", token, cause);
    }
    // None at all.
    let probe = world.directory.join("probe");
    let run =
        world.clawguard(&["run", "--agent", "a", "--user", "nobody", "--", probe.to_str().unwrap(), "tcp", CRM, "x"]);
    assert!(run.status == 4 && run.err.contains("TOKEN_REQUIRED: "), "{run:?}");
    // And the right one goes.
    assert_eq!(job(&world, "j", &good_one, &["tcp", CRM, "x"]).ok().out, "ok x");
    assert_eq!(world.metric("clawguard_cst_total{cause=\"\",result=\"accepted\"}"), 1.0);
    let body = world.audit("token").pop().unwrap();
    assert_eq!((&body["result"], &body["pin"]), (&json!("presented"), &json!(contract.to_string())));
    assert_eq!((&body["agent_key"], &body["job"]), (&json!("foreign"), &json!("j")));
    // The token itself is a secret: it stands in no log and in no record.
    for text in [world.log_text(), world.clawguard(&["audit", "tail", "--last", "1000"]).out] {
        assert!(!text.contains(&good_one[good_one.len() - 40..]), "{text}");
    }
}

#[test]
fn without_a_way_to_ask_no_token_counts_unless_the_host_says_so() {
    let mut world = World::new();
    trusting(&world, "", "");
    world.start();
    let contract = under(&mut world, demanding());
    refused(&mut world, "j", &good("j", contract), "TOKEN_REVOCATION_UNKNOWN");
}

/// Waits until the daemon has seen that a job's last process is gone.
fn has_ended(world: &World, id: &str) {
    world.eventually("the job's end", |world| {
        world.json(&["status"])["jobs"].as_array().unwrap().iter().all(|job| job["id"] != id)
    });
}

#[test]
fn a_token_belongs_to_the_job_that_presented_it_also_after_a_restart() {
    let (mut world, contract) = alone();
    let token = good("j", contract);
    let mut first = job_on(&world, "j", &token, &["talk", CRM]);
    first.until("connected");
    // For a second job it is the wrong one; for the same name there is a job already; and what it names cannot be taken over.
    refused(&mut world, "k", &token, "TOKEN_MISSION_MISMATCH");
    let again = job(&world, "j", &token, &["tcp", CRM, "x"]);
    assert!(again.status != 0 && again.err.contains("there is a job j already"), "{again:?}");
    assert_eq!(first.ask("still here", "got"), "got still here");
    // The same job may say it again.
    present(&world, "j", &token).ok();
    drop(first.finish());
    has_ended(&world, "j");
    refused(&mut world, "j", &token, "TOKEN_REPLAYED");
    world.stop();
    world.start();
    refused(&mut world, "j", &token, "TOKEN_REPLAYED");
    world.sigkill();
    world.start();
    refused(&mut world, "j", &token, "TOKEN_REPLAYED");
    assert_eq!(world.metric("clawguard_bypass_alerts_total{agent=\"a\",kind=\"token_replayed\"}"), 1.0);
    let alerts = world.audit("alert");
    assert!(alerts.iter().all(|body| body["kind"] == "token_replayed") && alerts.len() == 3, "{alerts:?}");
    // Another token for the same job is another start.
    assert_eq!(job(&world, "j", &good("j", contract), &["tcp", CRM, "x"]).ok().out, "ok x");
}

#[test]
fn at_its_expiry_a_job_stops_without_the_daemons_help() {
    let (mut world, contract) = alone();
    let token = lasting("j", contract, 5);
    let mut talk = job_on(&world, "j", &token, &["talk", CRM]);
    let mut each = job_on(&world, "k", &lasting("k", contract, 5), &["each-line"]);
    talk.until("connected");
    assert_eq!(talk.ask("before", "got"), "got before");
    assert_eq!(each.ask(CRM, "tcp"), "tcp ok x");
    world.sigkill();
    thread::sleep(Duration::from_secs(6));
    world.far.clear();
    talk.say("after");
    assert_eq!(each.ask(CRM, "tcp"), "tcp EPERM");
    thread::sleep(Duration::from_millis(500));
    assert_eq!((world.far.seen(b"after"), world.far.traffic()), (0, 0));
    // The daemon that comes back tells it, and ends what is left.
    world.start();
    assert_eq!(state(&world, "j"), "expired");
    assert_eq!(talk.until("read"), "read ECONNABORTED");
    world.eventually("the record", |world| {
        let ended = |body: &Value| body["result"] == "ended" && body["cause"] == "TOKEN_EXPIRED" && body["job"] == "j";
        world.audit("token").iter().any(ended)
    });
    let explained = world.clawguard(&["explain", "--last", "20"]).ok().out;
    assert!(explained.contains("token has ended"), "{explained}");
}

#[test]
fn renewed_in_time_a_job_goes_on_without_a_gap() {
    let (world, contract) = alone();
    let mut talk = job_on(&world, "j", &lasting("j", contract, 3), &["talk", CRM]);
    talk.until("connected");
    let until = Instant::now() + Duration::from_secs(9);
    let mut next = Instant::now() + Duration::from_secs(1);
    let mut said = 0;
    while Instant::now() < until {
        if Instant::now() >= next {
            present(&world, "j", &lasting("j", contract, 3)).ok();
            next += Duration::from_secs(1);
        }
        said += 1;
        assert_eq!(talk.ask(&format!("n{said}"), "got"), format!("got n{said}"));
    }
    // A next one for another job, or under another contract, changes nothing.
    for (token, cause) in
        [(good("k", contract), "TOKEN_MISSION_MISMATCH"), (good("j", Hash::of(b"another")), "POLICY_HASH_MISMATCH")]
    {
        let run = present(&world, "j", &token);
        assert!(run.status == 4 && run.err.contains(cause), "{run:?}");
    }
    assert_eq!(talk.ask("on", "got"), "got on");
    thread::sleep(Duration::from_secs(4));
    assert_eq!(state(&world, "j"), "expired");
}

#[test]
fn a_revoked_token_stops_its_job_by_poll_by_push_and_by_hand() {
    let (mut world, registry, contract) = with_registry("token = \"/dev/null\"");
    world.eventually("the stream", |_| registry.followers() == 1);
    for (name, how) in [("polled", "poll"), ("pushed", "push"), ("by-hand", "hand")] {
        let token = good(name, contract);
        let mut talk = job_on(&world, name, &token, &["talk", CRM]);
        let mut each = job_on(&world, "other", &good("other", contract), &["each-line"]);
        talk.until("connected");
        assert_eq!(talk.ask("before", "got"), "got before");
        match how {
            "poll" => registry.revoke(&token, false),
            "push" => registry.revoke(&token, true),
            _ => {
                let path = file(&world, &token);
                let words = ["cst", "revoke", path.to_str().unwrap(), "--here", "--reason", "test"];
                let answer = world.json(&words);
                assert_eq!((&answer["jobs_stopped"], &answer["sockets_destroyed"]), (&json!([name]), &json!(1)));
            }
        }
        assert_eq!(talk.until("read"), "read ECONNABORTED", "{how}");
        world.far.clear();
        talk.say("after");
        // Nobody else's token ended.
        assert_eq!(each.ask(CRM, "tcp"), "tcp ok x", "{how}");
        assert_eq!(world.far.seen(b"after"), 0, "{how}");
        assert_eq!(state(&world, name), "revoked");
        drop((talk.finish(), each.finish()));
        let gone =
            |world: &World| world.json(&["status"])["jobs"].as_array().unwrap().iter().all(|job| job["agent"] != "a");
        world.eventually("the jobs' end", gone);
        refused(&mut world, name, &token, "TOKEN_REVOKED");
    }
    // What was revoked stays so, whoever is asked.
    let token = good("late", contract);
    registry.revoke(&token, false);
    refused(&mut world, "late", &token, "TOKEN_REVOKED");
}

#[test]
fn an_issuer_that_cannot_be_asked_for_too_long_ends_the_job_until_it_can() {
    for mood in [Mood::Down, Mood::Silent, Mood::Redirects] {
        let (mut world, registry, contract) = with_registry("");
        let token = good("j", contract);
        let mut each = job_on(&world, "j", &token, &["each-line"]);
        assert_eq!(each.ask(CRM, "tcp"), "tcp ok x");
        let end = |world: &World| world.metric("clawguard_cst_expiry_timestamp_seconds{agent=\"a\"}");
        assert_eq!(end(&world), Token::parse(&token).unwrap().claims.exp as f64);
        registry.mood(mood);
        world.eventually("the job's stop", |_| each.ask(CRM, "tcp") == "tcp EPERM");
        assert_eq!(state(&world, "j"), "stale", "{mood:?}");
        assert_eq!(end(&world), 0.0, "of a token that is not good there is nothing to wait for");
        // Nobody starts meanwhile.
        refused(&mut world, "k", &good("k", contract), "TOKEN_REVOCATION_UNKNOWN");
        let up = |world: &World| world.metric("clawguard_registry_up{registry=\"clawscope\"}");
        assert_eq!(up(&world), 0.0, "{mood:?}");
        registry.mood(Mood::Well);
        world.eventually("the job goes on", |_| each.ask(CRM, "tcp") == "tcp ok x");
        world.eventually("the registry is up", |world| up(world) == 1.0);
        assert_eq!(state(&world, "j"), "valid", "{mood:?}");
    }
}

#[test]
fn a_token_that_another_host_bound_is_a_replayed_one() {
    let (mut world, registry, contract) = with_registry("");
    let token = good("j", contract);
    let hash = TokenHash::of(&token).to_string();
    registry.state().bound.insert(hash, "did:key:another/j".into());
    refused(&mut world, "j", &token, "TOKEN_REPLAYED");
    // An issuer without bindings leaves it to the host's own.
    registry.state().binds = false;
    assert_eq!(job(&world, "j", &token, &["tcp", CRM, "x"]).ok().out, "ok x");
    has_ended(&world, "j");
    refused(&mut world, "j", &token, "TOKEN_REPLAYED");
}

#[test]
fn keys_of_an_issuers_set_count_only_where_the_host_says_so_and_may_rotate() {
    let mut world = World::new();
    let registry = Registry::start();
    let (old, new) = (PrivateKey::from_seed(&[0x31; 32]), PrivateKey::from_seed(&[0x32; 32]));
    let lines = |jwks: bool| {
        format!("clawscope = \"{}\"\npoll_seconds = 1\nrevocation_max_age_seconds = 4\njwks = {jwks}", registry.url())
    };
    registry.state().keys = vec![old.did()];
    trusting(&world, &lines(false), "");
    world.start();
    let contract = under(&mut world, demanding());
    let by = |key: &PrivateKey, job: &str| Token::issue(claims(job, contract), "legacy", key);
    refused(&mut world, "j", &by(&old, "j"), "TOKEN_UNKNOWN_KID");
    assert_eq!(registry.asked("GET /v1/jwks"), 0);
    trusting(&world, &lines(true), "");
    world.signal_daemon(nix::sys::signal::Signal::SIGHUP);
    world.eventually("the key set", |_| registry.asked("GET /v1/jwks") > 0);
    world.eventually("the key counts", |world| job(world, "j", &by(&old, "j"), &["tcp", CRM, "x"]).status == 0);
    refused(&mut world, "k", &by(&new, "k"), "TOKEN_UNKNOWN_KID");
    // A key that is not known is looked for in the set, now and then.
    registry.state().keys = vec![old.did(), new.did()];
    world.eventually("the new key counts", |world| job(world, "k", &by(&new, "k"), &["tcp", CRM, "x"]).status == 0);
}

#[test]
fn another_contract_ends_the_token_of_the_former_and_a_new_one_goes_on() {
    let (mut world, contract) = alone();
    let mut each = job_on(&world, "j", &good("j", contract), &["each-line"]);
    assert_eq!(each.ask(CRM, "tcp"), "tcp ok x");
    let next = under(&mut world, demanding());
    assert_eq!(each.ask(CRM, "tcp"), "tcp EPERM");
    assert_eq!(state(&world, "j"), "mismatched");
    let run = present(&world, "j", &good("j", contract));
    assert!(run.status == 4 && run.err.contains("POLICY_HASH_MISMATCH"), "{run:?}");
    // One that ends earlier than the former would have, because that counts no more.
    present(&world, "j", &lasting("j", next, 120)).ok();
    assert_eq!(each.ask(CRM, "tcp"), "tcp ok x");
    // And one that would only shorten what is there changes nothing.
    let run = present(&world, "j", &lasting("j", next, 60));
    assert!(run.status == 1 && run.err.contains("counts for longer"), "{run:?}");
    assert_eq!(each.ask(CRM, "tcp"), "tcp ok x");
}

#[test]
fn tokens_of_an_issuer_that_is_no_longer_trusted_end() {
    let (world, contract) = alone();
    let mut each = job_on(&world, "j", &good("j", contract), &["each-line"]);
    assert_eq!(each.ask(CRM, "tcp"), "tcp ok x");
    let other = PrivateKey::from_seed(&[0x77; 32]).did();
    let text = format!("[trust]\ncst_issuers = [\"{other}\"]\nrevocation = \"off\"\n");
    fs::write(world.directory.join("etc/clawguard/conf.d/50-tokens.toml"), text).unwrap();
    world.signal_daemon(nix::sys::signal::Signal::SIGHUP);
    world.eventually("the job's stop", |_| each.ask(CRM, "tcp") == "tcp EPERM");
    assert_eq!(state(&world, "j"), "untrusted");
}

#[test]
fn a_contract_that_begins_to_demand_tokens_ends_what_goes_without_one() {
    let (mut world, _) = alone();
    under(&mut world, json!({ "egress": [{ "host": "crm.example", "tls": false }] }));
    let mut talk = world.agent_on("a", Nobody, &["talk", CRM]);
    talk.until("connected");
    under(&mut world, demanding());
    assert_eq!(talk.until("read"), "read ECONNABORTED");
    let ended = |body: &Value| body["result"] == "ended" && body["cause"] == "TOKEN_REQUIRED";
    world.eventually("the record", |world| world.audit("token").iter().any(ended));
    // A restart or a reload changes nothing about that.
    let jobs = world.json(&["status"])["jobs"].as_array().unwrap().clone();
    let name = jobs.iter().find(|job| job["agent"] == "a").unwrap()["id"].as_str().unwrap().to_owned();
    for how in ["reload", "restart"] {
        if how == "reload" {
            world.signal_daemon(nix::sys::signal::Signal::SIGHUP);
            thread::sleep(Duration::from_secs(1));
        } else {
            world.stop();
            world.start();
        }
        assert_eq!(state(&world, &name), "missing", "{how}");
    }
}

#[test]
fn a_revocation_on_this_host_is_remembered_by_hash_for_good() {
    let (mut world, contract) = alone();
    let token = good("j", contract);
    let hash = TokenHash::of(&token).to_string();
    world.clawguard(&["cst", "revoke", &hash, "--here", "--reason", "seen elsewhere"]).ok();
    refused(&mut world, "j", &token, "TOKEN_REVOKED");
    world.sigkill();
    world.start();
    refused(&mut world, "j", &token, "TOKEN_REVOKED");
    let ledger = fs::read_to_string(world.directory.join("var/lib/clawguard/ledger.json")).unwrap();
    let ledger: Value = serde_json::from_str(&ledger).unwrap();
    assert_eq!(ledger["tokens"]["revoked"][&hash], json!(u64::MAX));
}

/// What the answer takes is taken from the token, not added to it.
#[test]
fn a_slow_issuer_gives_a_token_no_more_time() {
    let (mut world, registry, contract) = with_registry("");
    registry.delay(Duration::from_secs(2));
    refused(&mut world, "j", &lasting("j", contract, 3), "TOKEN_EXPIRED");
}

#[test]
fn a_service_waits_for_its_token_with_the_fence_around_it() {
    let mut world = World::new();
    trusting(&world, "", "revocation = \"off\"");
    let service = world.service("svc");
    let path = service.name.clone();
    world.configure(&format!("[[agent]]\nname = \"a\"\nmatch = {{ cgroup = \"{path}\" }}\n"));
    world.start();
    let contract = under(&mut world, demanding());
    let name = || {
        let status = world.json(&["status"]);
        let jobs = status["jobs"].as_array().unwrap().clone();
        jobs.into_iter().find(|job| job["agent"] == "a").map(|job| job["id"].as_str().unwrap().to_owned())
    };
    world.eventually("the job", |_| name().is_some());
    let name = name().unwrap();
    assert_eq!(state(&world, &name), "missing");
    assert_eq!(service.run(&["tcp", CRM, "x"]).out, "EPERM");
    present(&world, &name, &good(&name, contract)).ok();
    assert_eq!(service.run(&["tcp", CRM, "x"]).ok().out, "ok x");
    assert_eq!(state(&world, &name), "valid");
}

#[test]
fn tokens_bring_no_clock_back() {
    let (mut world, contract) = alone();
    job(&world, "j", &good("j", contract), &["tcp", CRM, "x"]).ok();
    world.stop();
    // As if the clock had been an hour ahead when the last token was judged.
    let ledger = world.directory.join("var/lib/clawguard/ledger.json");
    let mut value: Value = serde_json::from_str(&fs::read_to_string(&ledger).unwrap()).unwrap();
    assert!(value["tokens"]["latest"].as_u64().unwrap() <= now());
    value["tokens"]["latest"] = json!(now() + 3600);
    fs::write(&ledger, value.to_string()).unwrap();
    world.start();
    refused(&mut world, "k", &good("k", contract), "CLOCK_SET_BACK");
}

#[test]
fn the_host_mints_the_key_that_a_token_names() {
    let (world, contract) = alone();
    let key = world.directory.join("issuer.jwk");
    fs::write(&key, issuer().to_jwk().as_bytes()).unwrap();
    let token = world.directory.join("cst");
    let (key, token) = (key.to_str().unwrap(), token.to_str().unwrap());
    let issued = world.json(&["cst", "issue", "--job", "mine", "--agent", "a", "--key", key, "--out", token]);
    assert_eq!(issued["claims"]["policy_hash_b64u"], contract.to_string());
    let minted = world.json(&["cst", "key", "mine"]);
    assert_eq!(issued["claims"]["agent_did"], minted["agent_did"]);
    world.clawguard(&["cst", "inspect", token]).ok();
    // Without --job, the token names it.
    let probe = world.directory.join("probe");
    let probe = probe.to_str().unwrap();
    let run =
        world.clawguard(&["run", "--agent", "a", "--user", "nobody", "--cst", token, "--", probe, "tcp", CRM, "x"]);
    assert_eq!(run.ok().out, "ok x");
    let presented = world.audit("token").pop().unwrap();
    assert_eq!((&presented["job"], &presented["agent_key"]), (&json!("mine"), &json!("host")));
    use std::os::unix::fs::PermissionsExt;
    let kept = world.directory.join("var/lib/clawguard/keys/jobs/mine.jwk");
    assert_eq!(fs::metadata(kept).unwrap().permissions().mode() & 0o777, 0o600);
    // What was changed is no longer good, and a look says so.
    let text = fs::read_to_string(token).unwrap();
    fs::write(token, text.replace('a', "b")).unwrap();
    assert_eq!(world.clawguard(&["cst", "inspect", token]).status, 1);
}

/// Three ways to stop a job, none of which needs another: a contract that allows nothing, the token's end, and the switch.
#[test]
fn a_halt_contract_a_revocation_and_a_kill_each_stop_a_job_alone() {
    for way in ["contract", "revocation", "kill"] {
        let (mut world, contract) = alone();
        // Only the way by the token has a token in it: a pin would end with its contract.
        let tokens = [good("j", contract), good("k", contract)];
        let (mut talk, mut each) = if way == "revocation" {
            (job_on(&world, "j", &tokens[0], &["talk", CRM]), job_on(&world, "k", &tokens[1], &["each-line"]))
        } else {
            under(&mut world, json!({ "egress": [{ "host": "crm.example", "tls": false }] }));
            (world.agent_on("a", Nobody, &["talk", CRM]), world.agent_on("a", Nobody, &["each-line"]))
        };
        talk.until("connected");
        assert_eq!(talk.ask("before", "got"), "got before");
        assert_eq!(each.ask(CRM, "tcp"), "tcp ok x");
        match way {
            "contract" => drop(under(&mut world, json!({}))),
            "revocation" => {
                for token in &tokens {
                    let hash = TokenHash::of(token).to_string();
                    world.clawguard(&["cst", "revoke", &hash, "--here", "--reason", "halt"]).ok();
                }
            }
            _ => drop(world.clawguard(&["kill", "all", "--agent", "a", "--reason", "halt"]).ok()),
        }
        assert_eq!(talk.until("read"), "read ECONNABORTED", "{way}");
        world.far.clear();
        talk.say("after");
        assert_eq!(each.ask(CRM, "tcp"), "tcp EPERM", "{way}");
        thread::sleep(Duration::from_millis(200));
        assert_eq!(world.far.traffic(), 0, "{way}");
    }
}
