//! Contracts taken in, tokens verified, revocations carried out.

use std::{fs, hint::black_box, time::Instant};

use claw::{
    Hash,
    key::PrivateKey,
    token::{Claims, Demands, Issuers, Token},
};
use e2e::{World, registry::Registry};
use serde_json::json;

use crate::{
    Line,
    host::{addresses, contract},
    median,
};

/// A contract's way from the request to the kernel: signature, compilation, tables, disk.
pub(crate) fn contracts() -> Vec<Line> {
    let mut world = World::up();
    let mut lines = Vec::new();
    for (entries, promised, limit) in [(10_000, "50 ms", 50.0), (100_000, "500 ms", 500.0)] {
        let mut took = Vec::new();
        for _ in 0..5 {
            let payload = world.payload(contract(&addresses(entries), "tcp"));
            let body = format!("{{\"envelope\":{}}}", fs::read_to_string(world.sign(&payload)).unwrap());
            let started = Instant::now();
            let (status, answer) = world.api("PUT", "/v1/agents/timed/wpc", &body);
            took.push(started.elapsed().as_secs_f64() * 1e3);
            assert_eq!(status, 200, "{answer}");
        }
        let middle = median(&mut took);
        let what = format!("a contract of {entries} entries: verified, compiled, loaded, on disk");
        lines.push(Line::new(what, format!("{middle:.0} ms"), promised, middle <= limit));
    }
    lines
}

fn claims(job: &str, contract: Hash) -> Claims {
    let now = sys::clock::wall_ns() / 1_000_000_000;
    Claims {
        sub: PrivateKey::from_seed(&[0x44; 32]).did().to_string(),
        aud: vec!["clawguard".into()],
        scope: vec!["proxy:call".into()],
        iat: now,
        exp: now + 600,
        policy_hash_b64u: Some(contract.to_string()),
        mission_id: Some(job.into()),
        jti: Some(format!("{job}-{}", sys::clock::wall_ns())),
        ..Claims::default()
    }
}

/// Tokens verified and held against a job's demands, on one core; against the signature's verification alone.
pub(crate) fn tokens() -> Vec<Line> {
    const ROUND: u32 = 2000;
    let (issuer, contract) = (PrivateKey::from_seed(&[0x22; 32]), Hash::of(b"bench"));
    let token = Token::issue(claims("j", contract), "legacy", &issuer);
    let issuers = Issuers::new([issuer.did()]);
    let (audiences, scopes) = (vec!["clawguard".to_owned()], vec!["proxy:call".to_owned()]);
    let demands = Demands {
        now: sys::clock::wall_ns() / 1_000_000_000,
        audiences: &audiences,
        scopes: &scopes,
        job: "j",
        contract,
        longest_life: 900,
        require_scope_hash: true,
        require_pin: true,
    };
    let message = [7_u8; 600];
    let signature = issuer.sign(&message);
    let did = issuer.did();
    let (mut whole, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..9 {
        let started = Instant::now();
        for _ in 0..ROUND {
            let token = Token::verify(black_box(&token), &issuers).unwrap();
            token.claims.suit(black_box(&demands)).unwrap();
        }
        whole.push(f64::from(ROUND) / started.elapsed().as_secs_f64());
        let started = Instant::now();
        for _ in 0..ROUND {
            assert!(did.verifies(black_box(&message), black_box(&signature)));
        }
        bare.push(f64::from(ROUND) / started.elapsed().as_secs_f64());
    }
    let (whole, bare) = (median(&mut whole), median(&mut bare));
    vec![Line::new(
        "job tokens verified a second on one core",
        format!("{whole:.0}; the signature alone {bare:.0}; ratio {:.2}", whole / bare),
        "20 000",
        whole >= 20_000.0,
    )]
}

/// From the issuer's word to the end of the job's live connection.
pub(crate) fn revocation() -> Vec<Line> {
    const POLL: u32 = 2;
    let mut world = World::new();
    let registry = Registry::start();
    let issuer = PrivateKey::from_seed(&[0x22; 32]);
    let directory = world.directory.join("etc/clawguard/conf.d");
    fs::create_dir_all(&directory).unwrap();
    let text = format!(
        "[trust]\ncst_issuers = [\"{}\"]\n[registry]\nclawscope = \"{}\"\npoll_seconds = {POLL}\n\
         revocation_max_age_seconds = 30\ntoken = \"/dev/null\"\n",
        issuer.did(),
        registry.url()
    );
    fs::write(directory.join("50-tokens.toml"), text).unwrap();
    world.start();
    let used = world.use_contract("a", json!({ "egress": [{ "host": "crm.example", "tls": false }], "token": {} }));
    let contract: Hash = used["wpc_hash"].as_str().unwrap().parse().unwrap();
    world.eventually("the stream", |_| registry.followers() > 0);
    let probe = world.directory.join("probe");
    let stop = |name: &str, push: bool| {
        let token = Token::issue(claims(name, contract), "legacy", &issuer);
        let file = world.directory.join(name);
        fs::write(&file, &token).unwrap();
        let (file, probe) = (file.to_str().unwrap(), probe.to_str().unwrap());
        let words = ["run", "--agent", "a", "--user", "nobody", "--cst", file, "--", probe, "talk", "203.0.113.10:443"];
        let mut talk = world.clawguard_on(&words);
        talk.until("connected");
        // Somewhere in the interval between two polls.
        std::thread::sleep(std::time::Duration::from_millis(sys::clock::wall_ns() / 1000 % 2000));
        let started = Instant::now();
        registry.revoke(&token, push);
        talk.until("read");
        started.elapsed().as_secs_f64() * 1e3
    };
    let mut polled: Vec<f64> = (0..10).map(|n| stop(&format!("polled-{n}"), false)).collect();
    let mut pushed: Vec<f64> = (0..20).map(|n| stop(&format!("pushed-{n}"), true)).collect();
    let slowest = polled.iter().copied().fold(0.0, f64::max);
    let (p50, worst) = (median(&mut pushed), pushed.iter().copied().fold(0.0, f64::max));
    let _ = median(&mut polled);
    vec![
        Line::new(
            "revocation polled → the live connection's end, slowest of 10 (interval 2 s)",
            format!("{slowest:.0} ms"),
            "interval + 100 ms",
            slowest <= f64::from(POLL) * 1e3 + 100.0,
        ),
        Line::new(
            "revocation pushed → the live connection's end, p50 / slowest of 20",
            format!("{p50:.1} / {worst:.1} ms"),
            "at once",
            worst <= 100.0,
        ),
    ]
}
