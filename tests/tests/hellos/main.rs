//! The ClientHellos of the TLS stacks that agents have: each is read as one, and its name is the one the client was given.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod ear;
mod rustls;

use std::{
    fs,
    io::Write,
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use clawguard_common::hello::{AGAIN_RANDOM, ANSWER_RANDOM, GREETING_BUFFER, Reader, Step, seen};
use e2e::World;
use ear::{Ear, Random, Tally, all, each, record, start};

fn stack(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("stacks").join(file)
}

fn openssl(random: &mut Random, port: &str, name: Option<&str>) -> Command {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &format!("127.0.0.1:{port}")]);
    match name {
        Some(name) => command.args(["-servername", name]),
        None => command.arg("-noservername"),
    };
    let version = random.pick(&["", "-tls1_2", "-tls1_3"]);
    if !version.is_empty() {
        command.arg(version);
    }
    if random.below(2) == 0 {
        let groups = random.some(&["X25519", "P-256", "P-384", "P-521", "X448", "ffdhe2048", "ffdhe3072"]);
        command.args(["-groups", &groups.join(":")]);
    }
    if random.below(3) == 0 {
        let suites = random.some(&["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"]);
        command.args(["-ciphersuites", &suites.join(":")]);
    }
    if random.below(3) == 0 {
        command.args(["-cipher", random.pick(&["DEFAULT", "HIGH", "ECDHE+AESGCM", "ALL:@SECLEVEL=0"])]);
    }
    if random.below(3) == 0 {
        command.args(["-alpn", &random.protocols()]);
    }
    if random.below(4) == 0 {
        let schemes = random.some(&["ECDSA+SHA256", "RSA-PSS+SHA256", "RSA+SHA512", "ed25519"]);
        command.args(["-sigalgs", &schemes.join(":")]);
    }
    if random.below(5) == 0 {
        command.args(["-psk", "00ff00ff", "-psk_identity", &random.label(100)]);
    }
    for (word, value) in [
        ("-status", ""),
        ("-no_ticket", ""),
        ("-no_etm", ""),
        ("-enable_pha", ""),
        ("-no_middlebox", ""),
        ("-fallback_scsv", ""),
        ("-comp", ""),
        ("-bugs", ""),
        ("-use_srtp", "SRTP_AES128_CM_SHA1_80"),
        ("-maxfraglen", "1024"),
        ("-serverinfo", "1000,2000"),
    ] {
        if random.below(7) == 0 {
            command.arg(word).args(Some(value).filter(|value| !value.is_empty()));
        }
    }
    command
}

#[test]
fn hellos_of_openssl_are_read_with_their_names() {
    let tally = each(300, openssl);
    tally.is(300);
    assert!(tally.longer_than_a_segment > 0);
}

#[test]
fn hellos_of_curl_are_read_with_their_names() {
    let tally = each(100, |random, port, name| {
        let mut command = Command::new("curl");
        command.args(["--silent", "--insecure", "--noproxy", "*", "--max-time", "30"]);
        let host = name.unwrap_or("127.0.0.1");
        command.args(["--resolve", &format!("{host}:{port}:127.0.0.1")]);
        for words in [
            &["--http1.1"][..],
            &["--no-alpn"],
            &["--curves", "P-384:X25519"],
            &["--ciphers", "ECDHE+AESGCM"],
            &["--tls13-ciphers", "TLS_AES_128_GCM_SHA256"],
            &["--cert-status"],
            &["--no-sessionid"],
        ] {
            if random.below(5) == 0 {
                command.args(words);
            }
        }
        command.args(random.pick(&[&[][..], &["--tlsv1.3"], &["--tlsv1.2", "--tls-max", "1.2"]]));
        command.arg(format!("https://{host}:{port}/"));
        command
    });
    tally.is(100);
}

#[test]
fn hellos_of_gnutls_are_read_with_their_names() {
    let tally = each(100, |random, port, name| {
        let mut command = Command::new("gnutls-cli");
        command.args(["--no-ca-verification", "--port", port]);
        match name {
            Some(name) => command.args(["--sni-hostname", name]),
            None => command.arg("--disable-sni"),
        };
        let base = ["NORMAL", "SECURE128", "SECURE256", "PFS", "PERFORMANCE", "NORMAL:-VERS-ALL:+VERS-TLS1.2"];
        let mut priority = random.pick(&base).to_owned();
        for more in [
            "-GROUP-ALL:+GROUP-SECP384R1",
            "-GROUP-ALL:+GROUP-X25519:+GROUP-SECP256R1:+GROUP-FFDHE2048",
            "%COMPAT",
            "%DUMBFW",
            "%NO_TICKETS",
            "%NO_ETM",
            "%DISABLE_TLS13_COMPAT_MODE",
            "%FALLBACK_SCSV",
            "%LATEST_RECORD_VERSION",
        ] {
            if random.below(6) == 0 {
                priority = format!("{priority}:{more}");
            }
        }
        command.args(["--priority", &priority]);
        for _ in 0..random.below(4) {
            command.args(["--alpn", &random.label(30)]);
        }
        command.arg("127.0.0.1");
        command
    });
    tally.is(100);
}

#[test]
fn hellos_of_nss_are_read_with_their_names_and_so_are_those_that_seem_encrypted() {
    let tally = each(80, |random, port, name| {
        let mut command = Command::new("tstclnt");
        // Without a database, and it ends after the handshake.
        command.args(["-D", "-o", "-Q", "-h", "127.0.0.1", "-p", port]);
        command.args(name.iter().flat_map(|name| ["-a", name]));
        command.args(["-V", random.pick(&["tls1.2:tls1.2", "tls1.2:tls1.3", "tls1.3:tls1.3"])]);
        if random.below(2) == 0 {
            command.args(["-i", &(1 + random.below(255)).to_string()]);
        }
        if random.below(3) == 0 {
            command.args(["-I", &random.some(&["P256", "P384", "P521", "x25519", "FF2048", "FF3072"]).join(",")]);
        }
        for word in ["-u", "-g", "-G", "-T", "-U", "-B", "-K"] {
            if random.below(4) == 0 {
                command.arg(word);
            }
        }
        command
    });
    tally.is(80);
    assert!(tally.encrypted > 0);
}

#[test]
fn hellos_of_python_are_read_with_their_names() {
    let tally = all(150, |_| {
        let mut command = Command::new("python3");
        command.arg(stack("client.py"));
        command
    });
    tally.is(150);
    assert!(tally.longer_than_a_segment > 0);
}

#[test]
fn hellos_of_node_are_read_with_their_names() {
    let tally = all(150, |_| {
        let mut command = Command::new("node");
        command.arg(stack("client.js"));
        command
    });
    tally.is(150);
}

#[test]
fn hellos_of_go_are_read_with_their_names() {
    let tally = all(150, |world| {
        let program = world.directory.join("client");
        let mut build = Command::new("go");
        build.args(["build", "-o"]).args([&program, &stack("client.go")]);
        build.env("GOCACHE", world.directory.join("go-cache")).env("GOTOOLCHAIN", "local").env("CGO_ENABLED", "0");
        let status = build.status().unwrap_or_else(|error| panic!("go: {error}; `cargo xtask setup` gets it"));
        assert!(status.success());
        Command::new(program)
    });
    tally.is(150);
    assert!(tally.longer_than_a_segment > 0);
}

/// A server of OpenSSL's that speaks for itself.
struct Server {
    child: Child,
    port: u16,
    directory: PathBuf,
}

impl Server {
    fn start(world: &World, port: u16, words: &[&str]) -> Self {
        let made = rcgen::generate_simple_self_signed(["crm.example".to_owned()]).unwrap();
        let (certificate, key) = (world.directory.join("certificate.pem"), world.directory.join("key.pem"));
        fs::write(&certificate, made.cert.pem()).unwrap();
        fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let mut command = Command::new("openssl");
        command.args(["s_server", "-www", "-accept", &format!("127.0.0.1:{port}"), "-cert"]).arg(certificate);
        let child = start(command.arg("-key").arg(key).args(words));
        let server = Self { child, port, directory: world.directory.clone() };
        drop(server.call());
        server
    }

    fn call(&self) -> TcpStream {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            if let Ok(stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)) {
                return stream;
            }
            assert!(Instant::now() < until, "the server does not listen");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// A session of theirs, to be resumed.
    fn session(&self, version: &str) -> PathBuf {
        let file = self.directory.join(format!("session{version}"));
        let mut command = Command::new("openssl");
        command.args(["s_client", "-quiet", version, "-connect", &format!("127.0.0.1:{}", self.port), "-sess_out"]);
        command.arg(&file).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        child.stdin.as_mut().unwrap().write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        child.wait().unwrap();
        assert!(file.exists(), "no session of {version}");
        file
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn hellos_that_resume_a_session_are_read_with_their_names() {
    let world = World::new();
    let server = Server::start(&world, 4433, &[]);
    let (ear, mut random, mut tally) = (Ear::new(), Random::new(), Tally::default());
    for version in ["-tls1_2", "-tls1_3"] {
        let session = server.session(version);
        for _ in 0..20 {
            let name = random.name();
            let mut command = Command::new("openssl");
            command.args(["s_client", version, "-connect", &format!("127.0.0.1:{}", ear.port()), "-sess_in"]);
            command.arg(&session);
            match &name {
                Some(name) => command.args(["-servername", name]),
                None => command.arg("-noservername"),
            };
            let mut child = start(&mut command);
            let hello = ear.hello(version);
            child.wait().unwrap();
            tally.check(&hello, name.as_deref(), version);
        }
    }
    tally.is(40);
}

/// Goes on to the next end. Answers the name, where one was found.
fn next(reader: &mut Reader, bytes: &[u8]) -> (Step, Option<String>) {
    let mut buffer = [0; GREETING_BUFFER];
    buffer[..bytes.len()].copy_from_slice(bytes);
    let mut name = None;
    loop {
        match reader.step(&buffer, bytes.len() as u32) {
            Step::More => {}
            Step::Name(at, length) => {
                name = Some(String::from_utf8_lossy(&buffer[at as usize..(at + length) as usize]).into_owned());
            }
            end => return (end, name),
        }
    }
}

#[test]
fn a_hello_that_the_server_asks_for_again_is_read_behind_the_first() {
    let world = World::new();
    let server = Server::start(&world, 4433, &["-groups", "P-384"]);
    let ear = Ear::new();
    for (words, change) in [(&[][..], true), (&["-no_middlebox"], false)] {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-groups", "X25519:P-384", "-servername", "crm.example", "-connect"]);
        let mut child = start(command.arg(format!("127.0.0.1:{}", ear.port())).args(words));
        let (mut client, mut server) = (ear.accept("s_client"), server.call());

        let mut greeting = record(&mut client, "s_client");
        let mut reader = Reader::default();
        assert_eq!(next(&mut reader, &greeting), (Step::Done, Some("crm.example".to_owned())));
        server.write_all(&greeting).unwrap();
        let answer = record(&mut server, "s_server");
        assert_eq!(answer[ANSWER_RANDOM as usize..][..32], AGAIN_RANDOM.map(u64::to_ne_bytes).concat());
        client.write_all(&answer).unwrap();

        reader.again();
        if change {
            greeting.extend(record(&mut client, "s_client"));
            assert_eq!(next(&mut reader, &greeting), (Step::Wait, None));
        }
        greeting.extend(record(&mut client, "s_client"));
        assert_eq!(next(&mut reader, &greeting), (Step::Done, Some("crm.example".to_owned())));
        assert_eq!(reader.seen & seen::CHANGE != 0, change);
        drop((client, server));
        child.wait().unwrap();
    }
}
