//! The attack table: every way around a fence that is known, first unfenced, so that it is seen to work, then fenced. The
//! judge is the far end.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{collections::BTreeMap, net::TcpStream, os::fd::AsRawFd, thread, time::Duration};

use e2e::{Identity, Outside, World, evil4, evil6};
use serde_json::json;

/// How an attack fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fared {
    Reached,
    Stopped,
}

/// The host process that would act for an agent, of the same user as the agent.
struct Accomplice {
    process: Outside,
    unix: String,
    word: String,
}

const RELAY: &str = "7555";

fn accomplice(world: &World) -> Accomplice {
    let unix = world.directory.join("accomplice").to_str().unwrap().to_owned();
    let datagrams = format!("{}:7003", evil4());
    let streams = format!("{}:7001", evil4());
    let open: std::fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(&world.directory, open).unwrap();
    let mut process = world.outside_as_nobody(&["helper", &datagrams, &streams, RELAY, &unix]);
    let line = process.line();
    let (_, word) = line.split_once(' ').unwrap();
    Accomplice { word: word.to_owned(), process, unix }
}

/// Eight bytes that no other attack sends.
fn marker(n: usize) -> String {
    format!("CG{n:06}")
}

/// Runs one attack and asks the far end. `run` starts the probe with these words.
fn judge(
    world: &mut World,
    id: &str,
    n: usize,
    accomplice: &Accomplice,
    run: impl Fn(&World, &[&str]) -> String,
) -> (Fared, String) {
    let marker = marker(n);
    let victim = accomplice.process.pid().to_string();
    // For the attack that uses what was left open.
    let left_open = (id == "inherited-fd").then(|| TcpStream::connect(format!("{}:7001", evil4())).unwrap());
    if let Some(stream) = &left_open {
        let flags = nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty());
        nix::fcntl::fcntl(stream, flags).unwrap();
        assert!(stream.as_raw_fd() > 2);
        thread::sleep(Duration::from_millis(20));
    }
    world.far.clear();
    let words =
        ["attack", id, &marker, evil4(), evil6(), "203.0.113.1", RELAY, &accomplice.unix, &victim, &accomplice.word];
    if id.starts_with("inbound") {
        // The far end calls while the attack listens.
        let verb = if id.contains("udp") { "datagram" } else { "call" };
        world.far.visit(verb, "203.0.113.1:7777", &marker);
    }
    let said = run(world, &words);
    thread::sleep(Duration::from_millis(30));
    let traffic = match id {
        // Connections that the test itself made say goodbye; calls from the far end are not the agent's.
        "inherited-fd" => 0,
        _ if id.starts_with("inbound") => 0,
        _ => world.far.traffic(),
    };
    let reached = world.far.seen(marker.as_bytes()) > 0
        // A report to the network carries the group's address, three bytes of which are the marker's.
        || (id.starts_with("igmp") && world.far.seen(&marker.as_bytes()[5..8]) > 0)
        || (traffic > 0 && !goes_to_allowed_hosts_too(id));
    if reached && n >= 1000 {
        println!("frames: {}", world.far.ask("dump"));
    }
    if left_open.is_some() {
        drop(left_open);
        // Its goodbye is not the next attack's.
        thread::sleep(Duration::from_millis(100));
    }
    if id.starts_with("inbound") {
        // Nor is what the kernel answers to calls that come too late.
        thread::sleep(Duration::from_millis(2000));
    }
    (if reached { Fared::Reached } else { Fared::Stopped }, said)
}

/// Attacks that send harmless things to allowed hosts on the way: only the marker counts.
fn goes_to_allowed_hosts_too(id: &str) -> bool {
    ["tcp-reconnect", "udp-connect-then-other", "udp-sendmmsg", "ip-options", "ip-options-cmsg"].contains(&id)
        || id.starts_with("ipv6-")
}

/// What the contract of the attacked fence allows: something, so that it is a contract and not a wall.
fn contract() -> serde_json::Value {
    json!({ "egress": [
        { "host": "crm.example", "tls": false, "quic": true },
        { "cidr": "203.0.113.20/32", "ports": [443], "protocol": "udp" },
    ]})
}

/// Rows that this kernel or this host cannot show, by the result of the run without a fence.
fn table(world: &mut World, accomplice: &Accomplice) -> (Vec<(String, String)>, BTreeMap<String, String>) {
    let listed = world.outside(&["attacks"]).ok();
    let (mut runnable, mut not_run) = (Vec::new(), BTreeMap::new());
    for (n, line) in listed.out.lines().enumerate() {
        let (id, source) = line.split_once('\t').unwrap();
        if ["bpf-detach", "unpin", "kill-daemon", "sysctl-write"].contains(&id) {
            // Not tried unfenced: host root would really take this host's fences off. Whether the fence holds is asked
            // below all the same; that its tools work is shown by `break-glass`'s own test.
            runnable.push((id.to_owned(), source.to_owned()));
            continue;
        }
        let (fared, said) = judge(world, id, n, accomplice, |world, words| world.outside(words).out);
        match fared {
            Fared::Reached => runnable.push((id.to_owned(), source.to_owned())),
            Fared::Stopped => {
                not_run.insert(id.to_owned(), said);
            }
        }
    }
    (runnable, not_run)
}

/// Rows that may be missing where this is run: the reason is in the name.
const MAY_NOT_RUN: [&str; 12] = [
    "sctp",                // module not there
    "dccp",                // removed from Linux
    "smc",                 // module not there
    "io-uring-connect",    // disabled by sysctl on some hosts
    "int80-connect",       // no 32-bit emulation
    "setuid-helper",       // no ping(8)
    "mount-cgroup2",       // needs rights in the root cgroup that a new user namespace has not
    "unshare-user-raw",    // likewise
    "v4-compatible",       // the kernel itself refuses the address
    "ipv6-routing-header", // the kernel sends only types it knows
    "child-cgroup",        // the root cgroup may take no children
    "move-to-root-cgroup", // likewise
];

/// Rows that reach the far end from a service that was matched in place, whose processes ClawGuard did not start: others
/// act for it, or hand it what they made. THREAT-MODEL.md says what to do about each.
const IN_PLACE: [&str; 9] = [
    "unix-relay",
    "unix-relay-abstract",
    "unix-datagram-pair",
    "scm-rights-connected",
    "inherited-fd",
    "pidfd-getfd",
    "process-vm-writev",
    "proc-mem",
    "ptrace-poke",
];

/// Runs every row with `run` as the fenced party; answers those that reached the far end.
fn attack(world: &mut World, run: impl Fn(&World, &[&str]) -> String) -> Vec<String> {
    let accomplice = accomplice(world);
    let (runnable, not_run) = table(world, &accomplice);
    for (id, said) in &not_run {
        println!("not run   {id:28} ({said})");
        assert!(MAY_NOT_RUN.contains(&id.as_str()), "{id} does not reach the far end even without a fence: {said}");
    }
    assert!(runnable.len() >= 75, "only {} rows could be shown to work", runnable.len());
    let mut reached = Vec::new();
    for (n, (id, source)) in runnable.iter().enumerate() {
        let (fared, said) = judge(world, id, 1000 + n, &accomplice, &run);
        println!("{:9} {id:28} {source:12} {said}", format!("{fared:?}").to_lowercase());
        if fared == Fared::Reached {
            reached.push(id.clone());
        }
    }
    println!("{} rows tried, {} not run, {} reached the far end", runnable.len(), not_run.len(), reached.len());
    // And the fence is no wall.
    assert_eq!(run(world, &["tcp", "203.0.113.10:443", "hello"]), "ok hello");
    reached
}

fn fenced(identity: Identity) {
    let mut world = World::up();
    world.use_contract("prey", contract());
    let reached = attack(&mut world, |world, words| world.agent("prey", identity, words).out);
    assert!(reached.is_empty(), "reached the far end: {reached:?}");
}

#[test]
fn no_attack_of_an_unprivileged_user_reaches_the_far_end() {
    fenced(Identity::Nobody);
}

#[test]
fn no_attack_of_a_namespaces_root_reaches_the_far_end() {
    fenced(Identity::NamespaceRoot);
}

#[test]
fn what_a_service_matched_in_place_can_still_do_is_known() {
    let mut world = World::new();
    let service = world.service("prey");
    world.configure(&format!("[[agent]]\nname = \"prey\"\nmatch = {{ cgroup = \"{}\" }}", service.name));
    world.start();
    world.use_contract("prey", contract());
    let reached = attack(&mut world, |_, words| service.run(words).out);
    assert_eq!(reached, IN_PLACE);
}
