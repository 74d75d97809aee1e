//! What a stranger may take of the server's time and room; TLS; what the program refuses to start with.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

mod common;

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::{MetadataExt, PermissionsExt},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use authority::{AdminToken, Clock, Error, Ids, Limits, Server, Settings, Tls};
use common::{ADMIN, Client, Raw, World, fresh};
use serde_json::json;
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, crypto::ring, pki_types::ServerName,
};

#[test]
fn a_head_that_does_not_end_is_not_waited_for() {
    let world = World::with("loris", |settings| {
        settings.limits.head = Duration::from_millis(300);
        settings.limits.body = Duration::from_millis(300);
        settings.limits.connections = 4;
    });
    // As many as there are places, and more: none of them ever finishes its head.
    let slow: Vec<Raw> = (0..12).map(|_| Raw::connect(world.address)).collect();
    for raw in &slow {
        raw.send("GET /health HTTP/1.1\r\nhost: x\r\nx-slow: ");
    }
    assert_eq!(world.get("/health").status, 200, "who is honest gets a place");
    for raw in &slow {
        raw.ended();
    }
    // Nor is a connection that asks for nothing, or a body that does not come.
    Raw::connect(world.address).ended();
    let raw = Raw::connect(world.address);
    raw.send("POST /v1/tokens/introspect HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{");
    raw.until("BODY_READ_FAILED");
    raw.ended();
    assert_eq!(world.get("/health").status, 200);
}

#[test]
fn a_head_or_body_that_is_too_large_is_refused() {
    let world = World::with("large", |settings| settings.limits.wpc_bytes = 100_000);
    let introspect = |length: usize| world.call("POST", "/v1/tokens/introspect", &[], &" ".repeat(length));
    assert_eq!(introspect(64 << 10).error(), (400, "INVALID_JSON".into()));
    assert_eq!(introspect((64 << 10) + 1).error(), (413, "PAYLOAD_TOO_LARGE".into()));
    assert_eq!(world.admin("POST", "/v1/wpc", &" ".repeat(100_000)).wpc_error(), (400, "INVALID_JSON".into()));
    assert_eq!(world.admin("POST", "/v1/wpc", &" ".repeat(100_001)).wpc_error(), (413, "PAYLOAD_TOO_LARGE".into()));
    // A size that is said is not waited for; one that is not said is counted.
    let raw = Raw::connect(world.address);
    raw.send("POST /v1/tokens/bind HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n");
    raw.until("PAYLOAD_TOO_LARGE");
    let raw = Raw::connect(world.address);
    raw.send("POST /v1/tokens/bind HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n");
    raw.send(&format!("11000\r\n{}\r\n", " ".repeat(0x11000)));
    raw.until("PAYLOAD_TOO_LARGE");
    // Who may not is told so before anything is read.
    let raw = Raw::connect(world.address);
    raw.send("POST /v1/wpc HTTP/1.1\r\nhost: x\r\ncontent-length: 90000\r\n\r\n");
    raw.until("UNAUTHORIZED");
    let raw = Raw::connect(world.address);
    raw.send(&format!("GET /health HTTP/1.1\r\nhost: x\r\nx-large: {}\r\n\r\n", "x".repeat(40_000)));
    raw.until("431");
    assert_eq!(world.get("/health").status, 200);
}

#[test]
fn a_stranger_is_waited_for_less_and_keeps_no_connection_for_ever() {
    let world = World::with("stranger", |settings| {
        settings.limits.stranger = Duration::from_millis(300);
        settings.limits.requests = 3;
    });
    for path in ["introspect", "bind"] {
        let raw = Raw::connect(world.address);
        raw.send(&format!("POST /v1/tokens/{path} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{{"));
        let before = std::time::Instant::now();
        raw.until("BODY_READ_FAILED");
        assert!(before.elapsed() < Duration::from_secs(20));
    }
    let mut client = Client::new(world.address);
    for closes in [false, false, true] {
        let reply = client.call("GET", "/health", &[], "").unwrap();
        assert_eq!((reply.status, reply.head.contains("connection: close")), (200, closes));
    }
    assert!(client.call("GET", "/health", &[], "").is_err());
    let world = World::with("lifetime", |settings| settings.limits.lifetime = Duration::ZERO);
    assert!(world.get("/health").head.contains("connection: close"));
}

#[test]
fn one_peer_does_not_take_every_place() {
    // An address of this host that is not loopback: nothing is sent to find it.
    let Ok(socket) = std::net::UdpSocket::bind("0.0.0.0:0") else { return };
    if socket.connect("192.0.2.1:9").is_err() {
        return;
    }
    let own = socket.local_addr().unwrap().ip();
    if own.is_loopback() || own.is_unspecified() {
        return;
    }
    let data = fresh("peers");
    sys::file::directory(&data, 0o700).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["authority.example".to_owned()]).unwrap();
    let tls = Tls { certificates: data.join("cert.pem"), key: data.join("key.pem") };
    fs::write(&tls.certificates, pem("CERTIFICATE", params.self_signed(&key).unwrap().der())).unwrap();
    fs::write(&tls.key, pem("PRIVATE KEY", &key.serialize_der())).unwrap();
    let world = World::on(data, |settings| {
        settings.listen = "0.0.0.0:0".parse().unwrap();
        settings.tls = Some(tls);
        settings.limits.each = 2;
        settings.limits.head = Duration::from_secs(5);
    });
    let elsewhere = std::net::SocketAddr::new(own, world.address.port());
    let held: Vec<Raw> = (0..2).map(|_| Raw::connect(elsewhere)).collect();
    let before = std::time::Instant::now();
    assert_eq!(Raw::connect(elsewhere).ended(), "");
    assert!(before.elapsed() < Duration::from_secs(4), "a third one was served");
    drop(held);
}

#[test]
fn no_more_follow_than_there_is_room_for() {
    let world = World::with("places", |settings| settings.limits.streams = 2);
    let followers: Vec<Raw> = (0..2).map(|_| Raw::get(world.address, "/v1/revocations/stream")).collect();
    for follower in &followers {
        follower.until("retry");
    }
    assert_eq!(world.admin("GET", "/v1/revocations/stream", "").error(), (503, "BUSY".into()));
    drop(followers);
    let mut tries = 0;
    loop {
        let raw = Raw::get(world.address, "/v1/revocations/stream");
        raw.until("\r\n\r\n");
        if raw.head().contains("text/event-stream") {
            break;
        }
        tries += 1;
        assert!(tries < 600, "a follower that left kept its place");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn who_takes_nothing_of_a_large_contract_does_not_keep_it_from_others() {
    let world = World::with("stalled", |settings| {
        settings.limits.stall = Duration::from_millis(300);
        // Room for one.
        settings.limits.outgoing_kib = 24 << 10;
        settings.limits.wpc_bytes = 24 << 20;
    });
    // Larger than the sockets' buffers.
    let wpc = json!({ "wpc": {
        "policy_version": "1", "policy_id": "large", "issuer_did": "did:key:z1", "metadata": { "x": "x".repeat(20 << 20) },
    } });
    let created = world.admin("POST", "/v1/wpc", &wpc.to_string());
    assert_eq!(created.status, 201);
    let path = format!("/v1/wpc/{}", created.json()["policy_hash_b64u"].as_str().unwrap());
    let slow = Raw::with(world.address, &path, "");
    slow.until("\r\n\r\n");
    assert_eq!(world.get("/health").status, 200);
    assert_eq!(world.get(&path).body.len(), created.body.len() - "\"existed\":false,".len());
    assert!(slow.ended().len() < created.body.len(), "all of it was delivered");
}

fn pem(label: &str, der: &[u8]) -> String {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in der.chunks(3) {
        let bits = (0..3).fold(0_u32, |bits, i| bits << 8 | u32::from(three.get(i).copied().unwrap_or(0)));
        for i in 0..4 {
            let at = (bits >> (18 - 6 * i) & 63) as usize;
            text.push(if i <= three.len() { alphabet[at] as char } else { '=' });
        }
    }
    format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
}

#[test]
fn a_small_contract_does_not_wait_for_who_takes_a_large_one_slowly() {
    let world = World::with("small", |settings| {
        // Room for one, which is never taken.
        settings.limits.outgoing_kib = 24 << 10;
        settings.limits.wpc_bytes = 24 << 20;
        settings.limits.stall = Duration::from_secs(600);
        settings.limits.farewell = Duration::from_millis(100);
    });
    let wpc = |id: &str, size: usize| {
        let metadata = json!({ "x": "x".repeat(size) });
        let wpc = json!({ "policy_version": "1", "policy_id": id, "issuer_did": "did:key:z1", "metadata": metadata });
        json!({ "wpc": wpc }).to_string()
    };
    let path = |reply: &common::Reply| format!("/v1/wpc/{}", reply.json()["policy_hash_b64u"].as_str().unwrap());
    let large = path(&world.admin("POST", "/v1/wpc", &wpc("large", 20 << 20)));
    let slow = Raw::with(world.address, &large, "");
    slow.until("\r\n\r\n");
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let raw = Raw::connect(world.address);
            let body = wpc("large", 20 << 20);
            let head = format!("authorization: Bearer {ADMIN}\r\ncontent-length: {}", body.len());
            raw.send(&format!("POST /v1/wpc HTTP/1.1\r\nhost: x\r\n{head}\r\n\r\n{body}"));
            raw
        })
        .collect();
    // Nor for two that are registered and have no room for their answer.
    std::thread::sleep(Duration::from_secs(2));
    let before = std::time::Instant::now();
    let small = world.admin("POST", "/v1/wpc", &wpc("small", 10));
    assert_eq!(small.status, 201, "{}", small.body);
    assert_eq!(world.get(&path(&small)).status, 200);
    assert_eq!(world.get("/v1/wpc/QmMQ0aNYsYsYsYsYsYsYsYsYsYsYsYsYsYsYsYsYsYs").status, 404);
    // They would wait until those are given up, after a minute.
    assert!(before.elapsed() < Duration::from_secs(40));
    drop((slow, waiting));
}

#[test]
fn tls_is_spoken_with_the_certificate_that_was_given() {
    let data = fresh("tls");
    sys::file::directory(&data, 0o700).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["authority.example".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let tls = Tls { certificates: data.join("cert.pem"), key: data.join("key.pem") };
    fs::write(&tls.certificates, pem("CERTIFICATE", certificate.der())).unwrap();
    fs::write(&tls.key, pem("PRIVATE KEY", &key.serialize_der())).unwrap();
    let world = World::on(data, |settings| settings.tls = Some(tls));

    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let config = |roots| {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        Arc::new(
            builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots).with_no_client_auth(),
        )
    };
    let connect = |roots| {
        let name = ServerName::try_from("authority.example").unwrap();
        let client = ClientConnection::new(config(roots), name).unwrap();
        Client::over(StreamOwned::new(client, TcpStream::connect(world.address).unwrap()))
    };
    let mut client = connect(roots);
    assert_eq!(client.call("GET", "/health", &[], "").unwrap().status, 200);
    let token = client
        .call(
            "POST",
            "/v1/tokens/issue",
            &[("authorization", &format!("Bearer {ADMIN}"))],
            &json!({ "sub": "did:key:z1", "aud": "a", "scope": ["proxy:call"] }).to_string(),
        )
        .unwrap();
    assert_eq!(token.status, 200);
    assert!(
        connect(RootCertStore::empty()).call("GET", "/health", &[], "").is_err(),
        "the certificate was not checked"
    );
    // In the clear there is nothing.
    let mut clear = TcpStream::connect(world.address).unwrap();
    clear.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = clear.read_to_end(&mut answer);
    assert!(!String::from_utf8_lossy(&answer).contains("HTTP/1.1"));
}

fn settings(data: std::path::PathBuf) -> Settings {
    Settings {
        data,
        listen: "127.0.0.1:0".parse().unwrap(),
        tls: None,
        behind_proxy: false,
        admin: AdminToken::new(ADMIN),
        audiences: Vec::new(),
        limits: Limits::default(),
        clock: Clock::system(),
        ids: Ids::random(),
    }
}

#[test]
fn a_server_starts_only_where_its_secrets_are_its_own() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let bind = |settings| runtime.block_on(Server::bind(settings));
    let data = fresh("start");
    // In the clear for everybody.
    let listen = "0.0.0.0:0".parse().unwrap();
    assert!(matches!(bind(Settings { listen, ..settings(data.clone()) }), Err(Error::Clear(_))));
    let proxied = bind(Settings { listen, behind_proxy: true, ..settings(data.clone()) });
    assert!(proxied.is_ok());
    // A second server on the same store.
    assert!(matches!(bind(settings(data.clone())), Err(Error::Data(..))));
    drop(proxied);
    assert!(bind(settings(data.clone())).is_ok());
    fs::set_permissions(&data, fs::Permissions::from_mode(0o750)).unwrap();
    assert!(matches!(bind(settings(data.clone())), Err(Error::Data(..))));
    for file in ["store.sqlite", "keys/controls.jwk", "keys/scope.jwks"] {
        assert_eq!(fs::metadata(data.join(file)).unwrap().permissions().mode() & 0o777, 0o600, "{file}");
    }

    let token = data.join("token");
    AdminToken::make(&token).unwrap();
    let made = fs::read_to_string(&token).unwrap();
    AdminToken::make(&token).unwrap();
    assert_eq!(fs::read_to_string(&token).unwrap(), made, "a token that is there stays");
    assert!(AdminToken::read(&token).unwrap().is(made.trim()));
    assert!(!AdminToken::read(&token).unwrap().is(""));
    assert_eq!(fs::metadata(&token).unwrap().permissions().mode() & 0o777, 0o600);
    fs::set_permissions(&token, fs::Permissions::from_mode(0o604)).unwrap();
    assert!(AdminToken::read(&token).is_err());
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
    for (text, good) in [("a.word.of-twenty-characters", false), ("a.wo.rd.of-twenty-characters", true)] {
        fs::write(&token, text).unwrap();
        assert_eq!(AdminToken::read(&token).is_ok(), good, "{text}");
    }
    fs::write(&token, "short\n").unwrap();
    assert!(AdminToken::read(&token).is_err());
    fs::remove_dir_all(data).unwrap();
}

#[test]
fn the_program_refuses_to_be_root_and_ends_when_it_is_told_to() {
    let data = fresh("program");
    let program = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_clawguard-authority"));
        command.args(words).arg("--data").arg(&data).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let root = nix::unistd::geteuid().is_root();
    if root {
        let mut child = program(&["serve", "--listen", "127.0.0.1:0"]).spawn().unwrap();
        for _ in 0..200 {
            if child.try_wait().unwrap().is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        // One that runs is not refused; it must not outlive this test.
        let _ = child.kill();
        let refused = child.wait_with_output().unwrap();
        assert!(!refused.status.success());
        assert!(String::from_utf8_lossy(&refused.stderr).contains("--allow-root"));
        assert!(!data.exists(), "root left something behind");
    }
    let mut child = program(&["serve", "--listen", "127.0.0.1:0", "--allow-root"]).spawn().unwrap();
    let mut line = String::new();
    let mut said = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut said, &mut line).unwrap();
    let address = line.trim().strip_prefix("listening on http://").unwrap().parse().unwrap();
    let token = fs::read_to_string(data.join("admin-token")).unwrap();
    let bearer = format!("Bearer {}", token.trim());
    let body = json!({ "sub": "did:key:z1", "aud": "127.0.0.1", "scope": ["control:audit:read"] }).to_string();
    let issued = Client::new(address).call("POST", "/v1/tokens/issue", &[("authorization", &bearer)], &body).unwrap();
    let secret = issued.json()["token"].as_str().unwrap().to_owned();
    // The listening host is an audience.
    let headers = [("x-cst", secret.as_str())];
    assert_eq!(Client::new(address).call("GET", "/v1/revocations/events", &headers, "").unwrap().status, 200);

    let keys = String::from_utf8(program(&["key", "--json"]).output().unwrap().stdout).unwrap();
    let keys: serde_json::Value = serde_json::from_str(&keys).unwrap();
    let did = Client::new(address).call("GET", "/v1/did", &[], "").unwrap().json();
    assert_eq!(keys["scope"], did["did"]);
    assert!(keys["controls"].as_str().unwrap().starts_with("did:key:z6Mk"));
    let rotated = String::from_utf8(program(&["rotate", "--json"]).output().unwrap().stdout).unwrap();
    let rotated: serde_json::Value = serde_json::from_str(&rotated).unwrap();
    assert_ne!(rotated["scope"], did["did"]);
    assert_eq!(Client::new(address).call("GET", "/v1/did", &[], "").unwrap().json()["kid"], rotated["kid"]);
    let body = json!({ "token": secret }).to_string();
    assert_eq!(Client::new(address).call("POST", "/v1/tokens/introspect", &[], &body).unwrap().status, 200);

    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), nix::sys::signal::Signal::SIGTERM).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(log.contains("a token was issued who=admin"), "{log}");
    for word in [token.trim(), &secret, secret.rsplit('.').next().unwrap()] {
        assert!(!log.contains(word), "the log has a secret in it");
    }
    fs::remove_dir_all(data).unwrap();
}

#[test]
fn root_replaces_a_service_s_keys_as_the_service() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    // Below a directory that only root may pass, as a dynamic user's is.
    let private = fresh("private");
    let (data, victim) = (private.join("data"), private.join("victim"));
    let keys = data.join("keys");
    sys::file::directory(&private, 0o700).unwrap();
    sys::file::directory(&keys, 0o700).unwrap();
    for directory in [&data, &keys] {
        std::os::unix::fs::chown(directory, Some(54_321), Some(54_322)).unwrap();
    }
    let program = |word: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_clawguard-authority"));
        command.args([word, "--json", "--data"]).arg(&data).output().unwrap()
    };
    for word in ["key", "rotate"] {
        let output = program(word);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    for name in ["lock", "controls.jwk", "scope.jwks"] {
        let found = fs::metadata(keys.join(name)).unwrap();
        assert_eq!((found.uid(), found.gid(), found.mode() & 0o777), (54_321, 54_322, 0o600), "{name}");
    }
    // Names that the service made lead root nowhere.
    for name in ["lock", "scope.jwks.new"] {
        let link = keys.join(name);
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(&victim, &link).unwrap();
        // What is written anew is written beside such a link; a lock that is one is none.
        assert_eq!(program("rotate").status.success(), name != "lock", "{name}");
        assert!(!victim.exists(), "{name}");
        let _ = fs::remove_file(&link);
    }
    assert!(program("rotate").status.success());
    fs::remove_dir_all(private).unwrap();
}
