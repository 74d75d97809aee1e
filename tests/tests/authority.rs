//! A fleet without anybody's cloud: an authority of one's own gives contracts and tokens, and takes them back.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{
    fs,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use e2e::{World, built};
use serde_json::{Value, json};

const CRM: &str = "203.0.113.10:443";
const NOBODY: u32 = 65534;
/// So rarely that what ends within a test was told by the stream.
const POLL: u32 = 50;

/// A running authority; it ends with its owner.
struct Authority {
    child: Child,
    data: PathBuf,
    words: Vec<String>,
}

impl Authority {
    /// Starts it as an unprivileged user, in this world's own network namespace.
    fn start(world: &World, more: &[&str]) -> Self {
        let data = world.directory.join("authority");
        fs::create_dir_all(&data).unwrap();
        std::os::unix::fs::chown(&data, Some(NOBODY), Some(NOBODY)).unwrap();
        fs::set_permissions(&data, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let mut words = vec!["--data".to_owned(), data.to_str().unwrap().to_owned()];
        words.extend(more.iter().map(|word| (*word).to_owned()));
        Self { child: Self::spawn(world, &data, &words), data, words }
    }

    fn spawn(world: &World, data: &std::path::Path, words: &[String]) -> Child {
        let executable = world.directory.join("clawguard-authority");
        if !executable.exists() {
            e2e::copy(&built("clawguard-authority"), &executable);
        }
        let log = fs::OpenOptions::new().create(true).append(true).open(world.directory.join("authority.log")).unwrap();
        let mut command = Command::new(executable);
        command.args(words).uid(NOBODY).gid(NOBODY).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().unwrap();
        let until = Instant::now() + Duration::from_secs(30);
        while std::net::TcpStream::connect("127.0.0.1:9480").is_err() || !data.join("admin-token").exists() {
            assert!(Instant::now() < until, "{}", fs::read_to_string(world.directory.join("authority.log")).unwrap());
            std::thread::sleep(Duration::from_millis(20));
        }
        child
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn again(&mut self, world: &World) {
        self.child = Self::spawn(world, &self.data, &self.words);
    }

    fn admin(&self) -> String {
        self.data.join("admin-token").to_str().unwrap().to_owned()
    }

    /// Its keys' DIDs: of contracts, and of tokens.
    fn keys(&self, world: &World) -> (String, String) {
        let answer = world.json(&["authority", "key", "--data", self.data.to_str().unwrap()]);
        let did = |name: &str| answer[name]["did"].as_str().or(answer[name].as_str()).unwrap().to_owned();
        (did("controls"), did("scope"))
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn trusting(world: &World, url: &str, keys: &(String, String), admin: &str, more: &str) {
    let directory = world.directory.join("etc/clawguard/conf.d");
    fs::create_dir_all(&directory).unwrap();
    let text = format!(
        "[trust]\ncst_issuers = [\"{}\"]\n[registry]\nclawcontrols = \"{url}\"\nclawscope = \"{url}\"\ntoken = \"{admin}\"\n\
         poll_seconds = {POLL}\nrevocation_max_age_seconds = 60\n{more}\n",
        keys.1
    );
    fs::write(directory.join("50-authority.toml"), text).unwrap();
}

fn guard() -> Value {
    json!({ "egress": [{ "host": "crm.example", "tls": false, "groups": ["crm"] }],
        "token": { "cst_max_ttl_seconds": 900, "require_scope_hash": true, "policy_hash_pinning": "required" } })
}

#[test]
fn an_operator_runs_a_fleet_with_an_authority_of_their_own() {
    let mut world = World::new();
    let mut authority = Authority::start(&world, &[]);
    let (keys, admin) = (authority.keys(&world), authority.admin());
    let url = "http://127.0.0.1:9480";
    world.trust(&keys.0);
    trusting(&world, url, &keys, &admin, "");
    world.start();
    // One contract signed here, one by the authority.
    let payload = world.payload(guard());
    let signed = world.sign(&payload);
    let published = world.json(&["wpc", "publish", signed.to_str().unwrap(), "--admin-token", &admin]);
    let payload = world.payload(guard());
    let bare = world.directory.join("bare.json");
    fs::write(&bare, payload.to_string()).unwrap();
    let theirs = world.json(&["wpc", "publish", bare.to_str().unwrap(), "--admin-token", &admin]);
    let run = world.clawguard(&["wpc", "publish", bare.to_str().unwrap()]);
    assert!(run.status == 4 && run.err.contains("401"), "{run:?}");
    for told in [&published, &theirs] {
        world.clawguard(&["wpc", "use", told["policy_hash_b64u"].as_str().unwrap(), "--agent", "a"]).ok();
    }
    // A token from the authority, for an agent whose key this host holds.
    let token = world.directory.join("token");
    let token = token.to_str().unwrap();
    let issue = ["cst", "issue", "--job", "j", "--agent", "a", "--out", token, "--admin-token", &admin];
    assert_eq!(world.json(&issue)["claims"]["policy_hash_b64u"], theirs["policy_hash_b64u"]);
    world.clawguard(&["cst", "inspect", token, "--online"]).ok();
    let probe = world.directory.join("probe");
    let probe = probe.to_str().unwrap();
    let words = ["run", "--agent", "a", "--user", "nobody", "--cst", token, "--", probe, "talk", CRM];
    let mut talk = world.clawguard_on(&words);
    talk.until("connected");
    assert_eq!(talk.ask("hello", "got"), "got hello");
    // The authority may die and come back within the time that its last answer counts, and is followed again.
    authority.kill();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(talk.ask("still", "got"), "got still");
    authority.again(&world);
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(talk.ask("on", "got"), "got on");
    assert!(!world.clawguard(&["status"]).ok().out.contains("revocations are not followed"));
    // Revoked there, stopped here.
    world.clawguard(&["cst", "revoke", token, "--reason", "test", "--admin-token", &admin]).ok();
    assert_eq!(talk.until("read"), "read ECONNABORTED");
    assert_eq!(world.clawguard(&["cst", "inspect", token, "--online"]).status, 1);
    let run = world.clawguard(&words);
    assert!(run.status == 4 && run.err.contains("TOKEN_RE"), "{run:?}");
}

#[test]
fn a_token_that_one_host_has_is_no_good_on_another() {
    let mut world = World::new();
    let authority = Authority::start(&world, &[]);
    let (keys, admin) = (authority.keys(&world), authority.admin());
    trusting(&world, "http://127.0.0.1:9480", &keys, &admin, "");
    world.start();
    let used = world.use_contract("a", guard());
    let mut other = world.sibling();
    trusting(&other, "http://127.0.0.1:9480", &keys, &admin, "");
    other.start();
    // The very same contract on both.
    let hash = used["wpc_hash"].as_str().unwrap();
    let kept = world.directory.join(format!("var/lib/clawguard/contracts/{hash}.json"));
    other.clawguard(&["wpc", "use", kept.to_str().unwrap(), "--agent", "a"]).ok();
    let token = world.directory.join("token");
    let token = token.to_str().unwrap();
    world.clawguard(&["cst", "issue", "--job", "j", "--agent", "a", "--out", token, "--admin-token", &admin]).ok();
    let start = |world: &World| {
        let probe = world.directory.join("probe");
        let probe = probe.to_str().unwrap();
        world.clawguard(&["run", "--agent", "a", "--user", "nobody", "--cst", token, "--", probe, "tcp", CRM, "x"])
    };
    assert_eq!(start(&world).ok().out, "ok x");
    let run = start(&other);
    assert!(run.status == 4 && run.err.contains("TOKEN_REPLAYED"), "{run:?}");
}

#[test]
fn over_tls_only_the_named_certificates_count() {
    let mut world = World::new();
    let certificate = |name: &str| {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let path = |what: &str| world.directory.join(format!("{name}.{what}"));
        fs::write(path("crt"), made.cert.pem()).unwrap();
        fs::write(path("key"), made.signing_key.serialize_pem()).unwrap();
        std::os::unix::fs::chown(path("key"), Some(NOBODY), Some(NOBODY)).unwrap();
        (path("crt").to_str().unwrap().to_owned(), path("key").to_str().unwrap().to_owned())
    };
    let (good, key) = certificate("authority.example");
    let (other, _) = certificate("other.example");
    let authority = Authority::start(&world, &["--tls-cert", &good, "--tls-key", &key]);
    let (keys, admin) = (authority.keys(&world), authority.admin());
    let hosts = "[hosts]\n\"authority.example\" = [\"127.0.0.1\"]\n\"other.example\" = [\"127.0.0.1\"]";
    let url = "https://authority.example:9480";
    trusting(&world, url, &keys, &admin, &format!("ca = \"{good}\"\n{hosts}"));
    world.start();
    let payload = world.payload(json!({ "egress": [{ "host": "crm.example", "tls": false }] }));
    let signed = world.sign(&payload);
    let told = world.json(&["wpc", "publish", signed.to_str().unwrap(), "--admin-token", &admin]);
    let hash = told["policy_hash_b64u"].as_str().unwrap().to_owned();
    world.clawguard(&["wpc", "use", &hash, "--agent", "a"]).ok();
    // Another certificate, the platform's, or the right one under another name: nothing comes.
    let payload = world.payload(json!({ "egress": [{ "host": "crm.example", "tls": false }] }));
    let signed = world.sign(&payload);
    let told = world.json(&["wpc", "publish", signed.to_str().unwrap(), "--admin-token", &admin]);
    let hash = told["policy_hash_b64u"].as_str().unwrap().to_owned();
    let wrong = [
        (url, format!("ca = \"{other}\"\n{hosts}")),
        (url, hosts.to_owned()),
        ("https://other.example:9480", format!("ca = \"{good}\"\n{hosts}")),
    ];
    for (url, more) in wrong {
        trusting(&world, url, &keys, &admin, &more);
        world.signal_daemon(nix::sys::signal::Signal::SIGHUP);
        world.eventually("the new configuration", |world| {
            let status = world.json(&["status"]);
            status["registries"][0]["url"] == url && status["registries"][0]["up"] != true
        });
        let run = world.clawguard(&["wpc", "use", &hash, "--agent", "a"]);
        assert!(run.status == 1 && run.err.contains("does not answer"), "{run:?}");
    }
    trusting(&world, url, &keys, &admin, &format!("ca = \"{good}\"\n{hosts}"));
    world.signal_daemon(nix::sys::signal::Signal::SIGHUP);
    world
        .eventually("the right one again", |world| world.clawguard(&["wpc", "use", &hash, "--agent", "a"]).status == 0);
}
