//! A world: this thread's network namespace, the far end, and an instance of ClawGuard under a directory of its own.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader, Write},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use claw::{
    envelope::{Envelope, Kind},
    json,
    key::PrivateKey,
    time::Instant as Wall,
};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, unshare},
};
use serde_json::{Value, json};

use crate::{Far, names};

/// The host that no contract names.
pub const fn evil4() -> &'static str {
    "203.0.113.99"
}

/// The same by IPv6.
pub const fn evil6() -> &'static str {
    "2001:db8::99"
}

/// Where cargo put an executable of this workspace.
pub fn built(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    // Tests lie one level below what they test.
    let beside = own.parent().unwrap().join(name);
    let path = if beside.exists() { beside } else { own.ancestors().nth(2).unwrap().join(name) };
    assert!(path.exists(), "{} is not built: `cargo xtask test` builds everything first", path.display());
    path
}

pub fn probe_path() -> PathBuf {
    built("probe")
}

/// Copies an executable by another process: a child forked meanwhile by another test would hold a descriptor of ours open
/// for writing, and the copy could not be executed.
pub fn copy(from: &Path, to: &Path) {
    let status = Command::new("install").args(["-m", "755"]).args([from, to]).status().unwrap();
    assert!(status.success());
}

/// As whom an agent runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// An unprivileged user of the host's.
    Nobody,
    /// Root of a user namespace.
    NamespaceRoot,
}

impl Identity {
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Nobody => &["--user", "nobody"],
            Self::NamespaceRoot => &["--userns-root"],
        }
    }
}

/// What something said and how it ended.
#[derive(Clone, Debug)]
pub struct Run {
    pub status: i32,
    pub out: String,
    pub err: String,
}

impl Run {
    pub(crate) fn of(output: &Output) -> Self {
        use std::os::unix::process::ExitStatusExt;
        Self {
            status: output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0)),
            out: String::from_utf8_lossy(&output.stdout).trim_end().to_owned(),
            err: String::from_utf8_lossy(&output.stderr).trim_end().to_owned(),
        }
    }

    /// It must have ended well.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.status, 0, "{}\n{}", self.out, self.err);
        self
    }

    /// What it printed, as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}\n{}", self.out, self.err))
    }
}

/// A process that goes on, with a conversation over its pipes.
pub struct Outside {
    child: Child,
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
}

impl Outside {
    fn start(mut command: Command) -> Self {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().expect("it starts");
        let to = child.stdin.take();
        let from = BufReader::new(child.stdout.take().unwrap());
        Self { child, to, from }
    }

    /// Its next line; empty at its end. One that never comes fails the test instead of holding it up.
    #[track_caller]
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        if !self.from.buffer().contains(&b'\n') {
            let mut readable = [PollFd::new(self.from.get_ref().as_fd(), PollFlags::POLLIN)];
            assert_ne!(poll(&mut readable, PollTimeout::try_from(120_000).unwrap()), Ok(0), "it says nothing");
        }
        self.from.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Reads lines until one begins like this; answers it.
    #[track_caller]
    pub fn until(&mut self, start: &str) -> String {
        loop {
            let line = self.line();
            if line.starts_with(start) {
                return line;
            }
            assert!(!line.is_empty(), "it ended without \"{start}\"");
        }
    }

    pub fn say(&mut self, text: &str) {
        writeln!(self.to.as_mut().unwrap(), "{text}").unwrap();
    }

    /// Says something and answers the lines up to one that begins with `start`.
    #[track_caller]
    pub fn ask(&mut self, text: &str, start: &str) -> String {
        self.say(text);
        self.until(start)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends its input and waits.
    pub fn finish(mut self) -> Run {
        drop(self.to.take());
        let mut out = String::new();
        std::io::Read::read_to_string(&mut self.from, &mut out).unwrap();
        let status = self.child.wait().unwrap();
        Run { status: status.code().unwrap_or(-1), out: out.trim_end().to_owned(), err: String::new() }
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A cgroup whose processes ClawGuard does not start. It goes when it is dropped.
pub struct Service {
    /// Its path below the root.
    pub name: String,
    pub directory: PathBuf,
    program: String,
}

impl Service {
    /// Its program, to be started in it as an unprivileged user.
    fn command(&self, words: &[&str]) -> Command {
        let script = format!("echo 0 > {}/cgroup.procs && exec \"$@\"", self.directory.display());
        let mut command = Command::new("sh");
        command.args([
            "-c",
            &script,
            "sh",
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            &self.program,
        ]);
        command.args(words);
        command
    }

    pub fn run(&self, words: &[&str]) -> Run {
        Run::of(&self.command(words).stdin(Stdio::null()).output().unwrap())
    }

    pub fn start(&self, words: &[&str]) -> Outside {
        Outside::start(self.command(words))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = fs::write(self.directory.join("cgroup.kill"), "1");
        let until = Instant::now() + Duration::from_secs(5);
        while fs::remove_dir(&self.directory).is_err() && self.directory.exists() && Instant::now() < until {
            thread::sleep(Duration::from_millis(10));
        }
    }
}

static WORLDS: AtomicU32 = AtomicU32::new(0);

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

pub struct World {
    pub directory: PathBuf,
    pub far: Far,
    key: PrivateKey,
    daemon: Option<Child>,
    sequence: u64,
    config: String,
}

/// Of the key that signs the contracts of tests.
const SEED: [u8; 32] = [7; 32];

const HOSTS: &str = "\n[hosts]\n\
    \"crm.example\" = [\"203.0.113.10\", \"2001:db8::10\"]\n\
    \"chat.example\" = [\"203.0.113.20\"]\n\
    \"video.example\" = [\"203.0.113.30\"]\n\
    \"evil.example\" = [\"203.0.113.99\"]\n\
    \"api.openai.com\" = [\"203.0.113.66\"]\n";

impl World {
    /// A network with a far end, and a configuration, but no daemon yet.
    #[track_caller]
    pub fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "these tests need root");
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        let name = format!("clawguard-test-{}-{}", std::process::id(), WORLDS.fetch_add(1, Ordering::SeqCst));
        let directory = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(directory.join("etc/clawguard")).unwrap();
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
        copy(&probe_path(), &directory.join("probe"));
        names::files(&directory);
        let mut far = Far::start(&directory.join("probe"));
        network(&mut far);
        names::serve(&mut far, &directory);
        let key = PrivateKey::from_seed(&SEED);
        let resolvers = format!("[names]\nresolvers = [\"{}\"]\n", names::RESOLVER);
        let config = format!("[trust]\nwpc_signers = [\"{}\"]\n{resolvers}{HOSTS}", key.did());
        let world = Self { directory, far, key, daemon: None, sequence: 0, config };
        world.configure("");
        world
    }

    /// The same, but no host has a fixed address: names are asked for.
    #[track_caller]
    pub fn named() -> Self {
        let mut world = Self::new();
        world.config = world.config.replace(HOSTS, "");
        world.configure("");
        world
    }

    /// The same with a running daemon.
    #[track_caller]
    pub fn named_up() -> Self {
        let mut world = Self::named();
        world.start();
        world
    }

    /// Another instance on the same host.
    pub fn sibling(&self) -> Self {
        let directory = self.directory.with_extension(format!("sibling-{}", WORLDS.fetch_add(1, Ordering::SeqCst)));
        fs::create_dir_all(directory.join("etc/clawguard")).unwrap();
        copy(&probe_path(), &directory.join("probe"));
        let far = Far::start(&directory.join("probe"));
        let world = Self {
            directory,
            far,
            key: PrivateKey::from_seed(&SEED),
            daemon: None,
            sequence: 0,
            config: self.config.clone(),
        };
        world.configure("[metrics]\nlisten = \"127.0.0.1:9478\"");
        world
    }

    /// Has the guard ask at another resolver.
    pub fn ask_at(&mut self, resolver: &str) {
        self.config = self.config.replace(names::RESOLVER, resolver);
        self.configure("");
    }

    /// Trusts one more signer of contracts.
    pub fn trust(&mut self, did: &str) {
        self.config = self.config.replace("wpc_signers = [", &format!("wpc_signers = [\"{did}\", "));
        self.configure("");
    }

    /// Trusts somebody else for something else.
    pub fn trust_also(&mut self, line: &str) {
        self.config = self.config.replace("[trust]\n", &format!("[trust]\n{line}\n"));
        self.configure("");
    }

    /// The same with a running daemon.
    #[track_caller]
    pub fn up() -> Self {
        let mut world = Self::new();
        world.start();
        world
    }

    /// Writes the configuration: what every world has, and more.
    pub fn configure(&self, more: &str) {
        fs::write(self.directory.join("etc/clawguard/clawguard.toml"), format!("{}\n{more}", self.config)).unwrap();
    }

    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env("CLAWGUARD_ROOT", &self.directory);
        command
    }

    /// Starts the daemon and waits until it is ready.
    #[track_caller]
    pub fn start(&mut self) {
        self.start_with(&built("clawguard"), &[]);
    }

    #[track_caller]
    pub fn start_with(&mut self, executable: &Path, words: &[&str]) {
        assert!(self.daemon.is_none());
        let before = if self.log().exists() { self.log_text().len() } else { 0 };
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log()).unwrap();
        let mut command = self.command(executable);
        command.arg("daemon").args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.daemon = Some(command.spawn().expect("the daemon starts"));
        let until = Instant::now() + Duration::from_secs(60);
        while self.clawguard(&["status"]).status != 0 {
            let daemon = self.daemon.as_mut().unwrap();
            if let Some(status) = daemon.try_wait().unwrap() {
                self.daemon = None;
                panic!("the daemon ended with {status}:\n{}", self.log_text());
            }
            assert!(Instant::now() < until, "the daemon is not ready:\n{}", self.log_text());
            thread::sleep(Duration::from_millis(20));
        }
        // The daemon is ready before its gateway is; nearly every test wants both. One that has none does not wait for ever.
        let until = Instant::now() + Duration::from_secs(4);
        let serves = |text: &str| text.contains("answering names") && text.contains("serving MCP");
        while words.is_empty() && !serves(self.log_text().get(before..).unwrap_or_default()) && Instant::now() < until {
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Starts the daemon where it must not start; answers what it said.
    pub fn start_refused(&mut self) -> String {
        let output = self.command(built("clawguard")).arg("daemon").output().unwrap();
        assert!(!output.status.success(), "the daemon started");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Starts a build whose file is gone by the time it needs it: its canary cannot start, after its programs are attached.
    /// Answers what it said.
    pub fn start_unlinked(&mut self, executable: &Path) -> String {
        let child = self.command(executable).arg("daemon").stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        fs::remove_file(executable).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(!output.status.success(), "the daemon started");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    pub fn running(&self) -> bool {
        self.daemon.is_some()
    }

    /// This instance's name in cgroups and on the bpffs.
    pub fn prefix(&self) -> String {
        let hash = claw::Hash::of(self.directory.as_os_str().as_encoded_bytes());
        format!("clawguard_{}", hash.0[..5].iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    }

    /// Where this instance's maps and links are pinned, by version.
    pub fn pins(&self) -> PathBuf {
        Path::new("/sys/fs/bpf").join(self.prefix())
    }

    /// The id of the program behind each pinned link.
    pub fn attached_programs(&self) -> BTreeMap<PathBuf, u32> {
        let mut programs = BTreeMap::new();
        for version in fs::read_dir(self.pins()).unwrap().flatten() {
            for link in fs::read_dir(version.path().join("links")).unwrap().flatten() {
                let info = sys::bpf::link_info(sys::bpf::pinned(&link.path()).unwrap()).unwrap();
                programs.insert(link.path(), info.program);
            }
        }
        programs
    }

    fn log(&self) -> PathBuf {
        self.directory.join("daemon.log")
    }

    pub fn log_text(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    pub fn daemon_pid(&self) -> i32 {
        self.daemon.as_ref().unwrap().id() as i32
    }

    pub fn signal_daemon(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.daemon_pid()), signal).unwrap();
    }

    /// Stops the daemon in good order.
    pub fn stop(&mut self) {
        if self.daemon.is_some() {
            self.signal_daemon(nix::sys::signal::Signal::SIGTERM);
            // A test that fails while it holds the daemon up would wait for ever.
            self.signal_daemon(nix::sys::signal::Signal::SIGCONT);
            self.daemon.take().unwrap().wait().unwrap();
        }
    }

    /// Stops it in none.
    pub fn sigkill(&mut self) {
        self.signal_daemon(nix::sys::signal::Signal::SIGKILL);
        self.daemon.take().unwrap().wait().unwrap();
    }

    /// Runs `clawguard` as an operator does.
    pub fn clawguard(&self, words: &[&str]) -> Run {
        Run::of(&self.command(built("clawguard")).args(words).stdin(Stdio::null()).output().unwrap())
    }

    /// The same with JSON for an answer.
    #[track_caller]
    pub fn json(&self, words: &[&str]) -> Value {
        let mut all = vec!["--json"];
        all.extend(words);
        self.clawguard(&all).ok().json()
    }

    /// Enrols a service's cgroup as its unit does before its first instruction: by root, from inside.
    pub fn enrol(&self, service: &Service, agent: &str) -> Run {
        let script = format!("echo 0 > {}/cgroup.procs && exec \"$@\"", service.directory.display());
        let clawguard = built("clawguard");
        let mut command = self.command("sh");
        command.args(["-c", &script, "sh", clawguard.to_str().unwrap(), "enrol", "--agent", agent]);
        Run::of(&command.stdin(Stdio::null()).output().unwrap())
    }

    /// A payload with this `clawguard.v1`, and the next sequence unless it has one.
    pub fn payload(&mut self, mut guard: Value) -> Value {
        self.sequence += 1;
        if guard.get("sequence").is_none() {
            guard["sequence"] = json!(self.sequence);
        }
        json!({ "policy_version": "1", "policy_id": "test", "issuer_did": self.key.did().to_string(),
            "metadata": { "clawguard.v1": guard } })
    }

    /// Signs a payload into a file.
    pub fn sign(&self, payload: &Value) -> PathBuf {
        self.sign_by(payload, &self.key)
    }

    pub fn sign_by(&self, payload: &Value, key: &PrivateKey) -> PathBuf {
        let text = payload.to_string();
        let value = json::parse(text.as_bytes(), json::Limits { bytes: 1 << 30, depth: 64 }).unwrap();
        let sealed = Envelope::seal(value, Kind::WorkPolicyContract, key, Wall(sys::clock::wall_ns()));
        let path = self.directory.join(format!("contract-{}.json", WORLDS.fetch_add(1, Ordering::SeqCst)));
        fs::write(&path, sealed).unwrap();
        path
    }

    /// Puts a contract in force for an agent.
    #[track_caller]
    pub fn use_contract(&mut self, agent: &str, guard: Value) -> Value {
        let payload = self.payload(guard);
        let path = self.sign(&payload);
        self.json(&["wpc", "use", path.to_str().unwrap(), "--agent", agent])
    }

    fn agent_command(&self, agent: &str, identity: Identity, words: &[&str]) -> Command {
        let mut command = self.command(built("clawguard"));
        command.args(["run", "--agent", agent]).args(identity.arguments()).arg("--").args(words);
        command
    }

    /// Where the probe lies that agents can run.
    pub fn probe(&self) -> String {
        self.directory.join("probe").to_str().unwrap().to_owned()
    }

    /// Runs the probe as an agent.
    pub fn agent(&self, agent: &str, identity: Identity, words: &[&str]) -> Run {
        let probe = self.probe();
        let mut all = vec![probe.as_str()];
        all.extend(words);
        self.agent_runs(agent, identity, &all)
    }

    /// Runs any command as an agent.
    pub fn agent_runs(&self, agent: &str, identity: Identity, words: &[&str]) -> Run {
        Run::of(&self.agent_command(agent, identity, words).stdin(Stdio::null()).output().unwrap())
    }

    /// Starts the probe as an agent that goes on.
    pub fn agent_on(&self, agent: &str, identity: Identity, words: &[&str]) -> Outside {
        let probe = self.probe();
        let mut all = vec![probe.as_str()];
        all.extend(words);
        Outside::start(self.agent_command(agent, identity, &all))
    }

    /// Starts any command as an agent that goes on.
    pub fn agent_runs_on(&self, agent: &str, identity: Identity, words: &[&str]) -> Outside {
        Outside::start(self.agent_command(agent, identity, words))
    }

    /// Starts `clawguard` as an operator does, to go on.
    pub fn clawguard_on(&self, words: &[&str]) -> Outside {
        let mut command = self.command(built("clawguard"));
        command.args(words);
        Outside::start(command)
    }

    /// Runs any command outside the fence.
    pub fn outside_runs(&self, words: &[&str]) -> Run {
        Run::of(&Command::new(words[0]).args(&words[1..]).stdin(Stdio::null()).output().unwrap())
    }

    /// Runs the probe outside the fence.
    pub fn outside(&self, words: &[&str]) -> Run {
        Run::of(&Command::new(self.probe()).args(words).stdin(Stdio::null()).output().unwrap())
    }

    /// Starts the probe outside the fence, to go on.
    pub fn outside_on(&self, words: &[&str]) -> Outside {
        let mut command = Command::new(self.probe());
        command.args(words);
        Outside::start(command)
    }

    /// The same as the user whom agents become.
    pub fn outside_as_nobody(&self, words: &[&str]) -> Outside {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(self.probe());
        command.args(words).uid(65534).gid(65534);
        Outside::start(command)
    }

    /// A cgroup of this world's own, as a service manager makes one for a service.
    pub fn service(&self, name: &str) -> Service {
        self.service_of(name, self.probe())
    }

    /// The same with another program than the probe.
    pub fn service_of(&self, name: &str, program: String) -> Service {
        let name = format!("{}-{name}.service", self.prefix());
        let directory = sys::cgroup::mount_point().unwrap().join(&name);
        fs::create_dir_all(&directory).unwrap();
        Service { name, directory, program }
    }

    /// A cgroup that is there already, in which something is started.
    pub fn in_cgroup(&self, directory: &Path) -> Service {
        let name = directory.strip_prefix(sys::cgroup::mount_point().unwrap()).unwrap().to_str().unwrap().to_owned();
        Service { name, directory: directory.to_owned(), program: self.probe() }
    }

    /// What the metrics say of a name with these labels.
    pub fn metric(&self, start: &str) -> f64 {
        let text = self.http_get("127.0.0.1:9477", "/metrics");
        let line = text.lines().find(|line| line.starts_with(start));
        line.and_then(|line| line.rsplit(' ').next()).map_or(0.0, |value| value.parse().unwrap())
    }

    /// Asks the control API; answers the status and the body.
    pub fn api(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        use std::io::Read;
        let socket = self.directory.join("run/clawguard/control.sock");
        let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
        write!(stream, "{method} {path} HTTP/1.0\r\nHost: clawguard\r\nContent-Length: {}\r\n\r\n{body}", body.len())
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}")))
    }

    pub fn http_get(&self, to: &str, path: &str) -> String {
        use std::io::Read;
        let until = Instant::now() + Duration::from_secs(5);
        loop {
            match std::net::TcpStream::connect(to) {
                Ok(mut stream) => {
                    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
                    let mut text = String::new();
                    stream.read_to_string(&mut text).unwrap();
                    return text;
                }
                Err(error) => assert!(Instant::now() < until, "{to}: {error}"),
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// The records of the audit chain of one kind.
    pub fn audit(&self, kind: &str) -> Vec<Value> {
        let mut found = Vec::new();
        let mut files: Vec<PathBuf> = fs::read_dir(self.directory.join("var/lib/clawguard/audit"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"))
            .collect();
        files.sort();
        for file in files {
            for line in fs::read_to_string(file).unwrap().lines() {
                let record: Value = serde_json::from_str(line).unwrap();
                if record["kind"] == kind {
                    found.push(record["body"].clone());
                }
            }
        }
        found
    }

    /// Waits until something is so.
    #[track_caller]
    pub fn eventually(&self, what: &str, mut so: impl FnMut(&Self) -> bool) {
        let until = Instant::now() + Duration::from_secs(20);
        while !so(self) {
            assert!(Instant::now() < until, "not in time: {what}\n{}", self.log_text());
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop();
        let removed = self.clawguard(&["uninstall"]);
        if removed.status != 0 && !thread::panicking() {
            panic!("{}", removed.err);
        }
        if thread::panicking() {
            eprintln!("--- the daemon's log ---\n{}", self.log_text());
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The veth between this thread's namespace and the far end's, and the addresses on both sides.
fn network(far: &mut Far) {
    let near = [
        "ip link set lo up".to_owned(),
        format!("ip link add near0 type veth peer name far0 netns {}", far.pid()),
        "sysctl -qw net.ipv6.conf.near0.accept_dad=0 net.ipv6.conf.near0.router_solicitations=0".into(),
        "sysctl -qw net.ipv4.ping_group_range='0 2147483647'".into(),
        "sysctl -qw net.ipv4.tcp_fastopen=3".into(),
        "ip addr add 203.0.113.1/24 dev near0".into(),
        "ip -6 addr add 2001:db8::1/64 dev near0 nodad".into(),
        "ip link set near0 up".into(),
        // Whatever has no better route goes to the far end, and no further.
        "ip route add default via 203.0.113.10 dev near0".into(),
        "ip -6 route add default via 2001:db8::10 dev near0".into(),
        "ip route add 239.0.0.0/8 dev near0".into(),
    ];
    for command in near {
        let output = Command::new("sh").args(["-c", &command]).output().unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let mut script = String::from(
        "ip link set lo up; sysctl -qw net.ipv6.conf.far0.accept_dad=0 net.ipv4.tcp_fastopen=3 \
         net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.far0.rp_filter=0; ip link set far0 up; ",
    );
    for host in [10, 20, 30, 40, 41, 42, 43, 44, 53, 66, 99] {
        script.push_str(&format!("ip addr add 203.0.113.{host}/24 dev far0; "));
    }
    for host in ["10", "40", "41", "53", "99"] {
        script.push_str(&format!("ip -6 addr add 2001:db8::{host}/64 dev far0 nodad; "));
    }
    for range in ["10.0.0.0/8", "169.254.169.254/32", "198.51.100.0/24", "192.0.2.0/24"] {
        script.push_str(&format!("ip route add local {range} dev lo; "));
    }
    for range in ["64:ff9b::/96", "2002::/16"] {
        script.push_str(&format!("ip -6 route add local {range} dev lo; "));
    }
    assert_eq!(far.ask(&format!("setup {script}")), "up");
}
