//! `clawguard run`: what it hands in, what it keeps out, and that otherwise it is as if it were not there.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
    thread,
};

use e2e::{
    Identity::{self, NamespaceRoot, Nobody},
    Run, World,
};
use serde_json::json;

const BOTH: [Identity; 2] = [Nobody, NamespaceRoot];

fn world() -> World {
    let mut world = World::up();
    world.use_contract("a", json!({ "egress": [{ "host": "crm.example", "tls": false }] }));
    world
}

fn shell(world: &World, identity: Identity, script: &str) -> Run {
    world.agent_runs("a", identity, &["sh", "-c", script])
}

#[test]
fn the_exit_status_is_the_commands() {
    let world = world();
    for identity in BOTH {
        assert_eq!(world.agent_runs("a", identity, &["true"]).status, 0);
        assert_eq!(shell(&world, identity, "exit 7").status, 7);
        assert_eq!(shell(&world, identity, "kill -9 $$").status, 137);
        let absent = world.agent_runs("a", identity, &["/no/such/program"]);
        assert_eq!((absent.status, absent.err.lines().count()), (127, 1), "{}", absent.err);
        assert_eq!(world.agent_runs("a", identity, &["/etc/passwd"]).status, 126);
    }
}

#[test]
fn output_and_input_pass_through() {
    let world = world();
    for identity in BOTH {
        let run = shell(&world, identity, "echo out; echo err >&2");
        assert_eq!((run.out.as_str(), run.err.as_str()), ("out", "err"));
    }
    let mut talk = world.agent_on("a", Nobody, &["each-line"]);
    assert_eq!(talk.ask("203.0.113.10:443", "tcp"), "tcp ok x");
}

#[test]
fn signals_are_handed_on() {
    let world = world();
    for identity in BOTH {
        let script = "trap 'echo got it; exit 42' TERM; echo ready; while :; do sleep 0.05; done";
        let mut run = world.agent_runs_on("a", identity, &["sh", "-c", script]);
        run.until("ready");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(run.pid() as i32), nix::sys::signal::Signal::SIGTERM)
            .unwrap();
        assert_eq!(run.until("got"), "got it");
        assert_eq!(run.finish().status, 42);
    }
}

#[test]
fn when_run_is_killed_the_job_ends_with_it() {
    let world = world();
    for identity in BOTH {
        let mut run = world.agent_on("a", identity, &["talk", "203.0.113.10:443"]);
        run.until("connected");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(run.pid() as i32), nix::sys::signal::Signal::SIGKILL)
            .unwrap();
        world.eventually("the job is over", |world| {
            world.json(&["status"])["jobs"].as_array().unwrap().iter().all(|job| job["agent"] != "a")
        });
    }
}

#[test]
fn the_environment_is_the_callers_with_what_the_job_is() {
    let world = world();
    let run =
        shell(&world, Nobody, "echo $CLAWGUARD_AGENT; echo $CLAWGUARD_JOB; cat $CLAWGUARD_DENIALS; echo $HOME $USER");
    let lines: Vec<&str> = run.out.lines().collect();
    let [agent, job, home] = lines[..] else { panic!("{lines:?}") };
    assert_eq!((agent, home), ("a", "/nonexistent nobody"));
    assert!(job.starts_with("job-"));
    let named = world.clawguard(&[
        "run",
        "--agent",
        "a",
        "--job",
        "mine",
        "--user",
        "nobody",
        "--",
        "sh",
        "-c",
        "echo $CLAWGUARD_JOB",
    ]);
    assert_eq!(named.ok().out, "mine");
}

#[test]
fn no_descriptor_but_stdio_goes_in() {
    let world = world();
    for identity in BOTH {
        let words = if identity == Nobody { "--user nobody" } else { "--userns-root" };
        let script = format!(
            "exec 5</etc/passwd 9<>/dev/null; exec {} run --agent a {words} -- ls /proc/self/fd",
            e2e::built("clawguard").display()
        );
        let output = Command::new("sh").args(["-c", &script]).env("CLAWGUARD_ROOT", &world.directory).output().unwrap();
        // The last is ls's own.
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "0\n1\n2\n3\n",
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[test]
fn stdio_that_could_hand_sockets_in_is_refused() {
    let world = world();
    let try_with = |stdin: Stdio| {
        let mut command = Command::new(e2e::built("clawguard"));
        command.env("CLAWGUARD_ROOT", &world.directory).args(["run", "--agent", "a", "--user", "nobody", "--", "true"]);
        let output = command.stdin(stdin).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (status, said) = try_with(Stdio::from(std::os::fd::OwnedFd::from(stream)));
    assert!(status == 4 && said.contains("stdin is an internet socket"), "{status} {said}");
    // A pair of the caller's own, as some programs have it in place of pipes, and a stranger's.
    let (_theirs, ours) = std::os::unix::net::UnixStream::pair().unwrap();
    let (status, said) = try_with(Stdio::from(std::os::fd::OwnedFd::from(ours)));
    assert_eq!(status, 0, "{said}");
    let path = world.directory.join("stranger");
    let mut stranger = world.outside_on(&["unix-listen", path.to_str().unwrap()]);
    stranger.until("listening");
    let foreign = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let (status, said) = try_with(Stdio::from(std::os::fd::OwnedFd::from(foreign)));
    assert!(status == 4 && said.contains("stdin is a unix socket to process"), "{status} {said}");
    let (status, said) = try_with(Stdio::null());
    assert_eq!(status, 0, "{said}");
}

#[test]
fn host_root_is_never_given() {
    let world = world();
    for words in [
        &["run", "--agent", "a", "--", "true"][..],
        &["run", "--agent", "a", "--user", "root", "--", "true"],
        &["run", "--agent", "a", "--user", "0", "--", "true"],
        &["run", "--agent", "a", "--user", "no-such", "--", "true"],
    ] {
        let run = world.clawguard(words);
        assert_eq!(run.status, 2, "{words:?} {}", run.err);
    }
    assert_eq!(shell(&world, Nobody, "id -u; id -G").out, "65534\n65534");
    assert_eq!(shell(&world, NamespaceRoot, "id -u; id -G").out, "0\n0");
    // Root of the namespace is nobody to the host's files.
    let secret = world.directory.join("secret");
    fs::write(&secret, "x").unwrap();
    fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
    for identity in BOTH {
        let run = shell(
            &world,
            identity,
            &format!("cat {0}; chmod 777 {0}; touch /etc/clawguard-was-here", secret.display()),
        );
        assert!(run.status != 0 && run.out.is_empty(), "{run:?}");
        assert_eq!(fs::metadata(&secret).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn privileges_are_gone_for_good() {
    let world = world();
    let status = |identity| {
        let run = shell(&world, identity, "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status | tr -d '\\t'");
        run.ok().out
    };
    let none = "0000000000000000";
    assert_eq!(
        status(Nobody),
        format!("CapInh:{none}\nCapPrm:{none}\nCapEff:{none}\nCapBnd:{none}\nCapAmb:{none}\nNoNewPrivs:1\nSeccomp:2")
    );
    // Root of a namespace has its capabilities there.
    let root = status(NamespaceRoot);
    assert!(root.ends_with("NoNewPrivs:1\nSeccomp:2"), "{root}");
    // A program with the set-user-ID bit gives nothing.
    let run = shell(&world, Nobody, "su -c id root < /dev/null; mount 2>&1 -t tmpfs none /mnt");
    assert!(!run.out.contains("uid=0"), "{run:?}");
}

#[test]
fn what_could_undo_the_fence_is_out_of_reach() {
    let world = world();
    let root = sys::cgroup::mount_point().unwrap();
    let bpffs = world.pins();
    for identity in BOTH {
        for script in [
            format!("mkdir {}/escape", root.display()),
            format!("echo $$ > {}/cgroup.procs", root.display()),
            "mkdir /tmp/cg; mount -t cgroup2 none /tmp/cg && echo $$ > /tmp/cg/cgroup.procs".into(),
            format!("ls {}", bpffs.display()),
            "mkdir -p /tmp/bpf; mount -t bpf none /tmp/bpf && ls /tmp/bpf/clawguard*".into(),
            "echo 0 > /proc/sys/net/ipv4/ip_forward".into(),
            "echo x > /proc/sys/kernel/core_pattern".into(),
            "echo b > /proc/sysrq-trigger".into(),
            "umount -l /sys/fs/cgroup/unified && false; cat /proc/1/environ | grep -q CLAWGUARD_ROOT".into(),
            "nsenter -t 1 -n true".into(),
            "kill -9 $PPID && sleep 0.2; test -d /proc/1 && false".into(),
        ] {
            let run = shell(&world, identity, &script);
            assert_ne!(run.status, 0, "{identity:?}: {script}: {run:?}");
        }
        // Nobody outside is even there to be signalled.
        let run = shell(&world, identity, "ls /proc | grep -c '^[0-9]*$'");
        assert!(run.out.parse::<u32>().unwrap() <= 6, "{run:?}");
    }
}

#[test]
fn a_user_without_root_runs_an_agent_as_itself() {
    let world = world();
    let socket = world.directory.join("run/clawguard/control.sock");
    // In an installation it is the group clawguard that may.
    fs::set_permissions(&socket, PermissionsExt::from_mode(0o666)).unwrap();
    let binary = world.directory.join("clawguard");
    e2e::copy(&e2e::built("clawguard"), &binary);
    let probe = world.directory.join("probe");
    let run = |words: &[&str]| {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&binary)
            .args(["run", "--agent", "a"])
            .args(words);
        let output = command.env("CLAWGUARD_ROOT", &world.directory).stdin(Stdio::null()).output().unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let tries = [
        probe.to_str().unwrap(),
        "each",
        "tcp",
        "203.0.113.10:443",
        "tcp",
        "203.0.113.99:443",
        "udp",
        "203.0.113.99:443",
    ];
    let fenced = "tcp 203.0.113.10:443 ok hello\ntcp 203.0.113.99:443 EPERM\nudp 203.0.113.99:443 EPERM\n";
    for identity in [&["--"][..], &["--userns-root", "--"]] {
        let words: Vec<&str> = identity.iter().chain(&tries).copied().collect();
        let (status, out, err) = run(&words);
        assert_eq!((status, out.as_str()), (Some(0), fenced), "{identity:?}: {err}");
    }
    let (_, out, err) = run(&["--", "id", "-u"]);
    assert_eq!(out, "65534\n", "{err}");
    let (status, _, err) = run(&["--user", "daemon", "--", "true"]);
    assert_eq!(status, Some(2), "{err}");
}

#[test]
fn an_ended_job_reaches_nothing_though_it_still_runs() {
    let mut world = world();
    let mut agent = world.agent_on("a", Nobody, &["each-line"]);
    let mut talk = world.agent_on("a", Nobody, &["talk", "203.0.113.10:443"]);
    assert_eq!(agent.ask("203.0.113.10:443", "tcp"), "tcp ok x");
    talk.until("connected");
    let jobs = world.json(&["status"])["jobs"].clone();
    for job in jobs.as_array().unwrap().iter().filter(|job| job["agent"] == "a") {
        let (status, body) = world.api("DELETE", &format!("/v1/jobs/{}", job["id"].as_str().unwrap()), "");
        assert_eq!((status, body["state"].as_str()), (200, Some("over")), "{body}");
    }
    assert_eq!(talk.until("read"), "read ECONNABORTED");
    world.far.clear();
    assert_eq!(agent.ask("203.0.113.10:443", "tcp"), "tcp EPERM");
    // A new life of the daemon does not revive it.
    world.sigkill();
    assert_eq!(agent.ask("203.0.113.10:443", "tcp"), "tcp EPERM");
    world.start();
    assert_eq!(agent.ask("203.0.113.10:443", "tcp"), "tcp EPERM");
    assert_eq!(world.far.traffic(), 0);
    assert_eq!((agent.finish().status, talk.finish().status), (0, 0));
    world.eventually("the jobs are gone", |world| {
        world.json(&["status"])["jobs"].as_array().unwrap().iter().all(|job| job["agent"] != "a")
    });
    let ends = world.audit("job_end");
    assert_eq!(ends.iter().filter(|end| end["orphans"] == true).count(), 2);
}

#[test]
fn what_makes_no_job_is_refused_with_one_clear_error() {
    let world = world();
    let run = |words: &[&str]| {
        let mut all = vec!["run", "--user", "nobody"];
        all.extend(words);
        all.extend(["--", "true"]);
        world.clawguard(&all)
    };
    for (words, status, expected) in [
        (&["--agent", "b"][..], 1, "the agent b has no contract in force"),
        (&["--agent", "../x"], 2, "cannot name an agent"),
        (&["--agent", "a", "--job", "a/b"], 2, "cannot name a job"),
        (&["--agent", "gateway"], 2, "the gateway's own name"),
        (&["--agent", "a", "--wpc", "/no/such/file"], 1, "/no/such/file"),
        (&["--agent", "a", "--wpc", "QmMQ0aNYQmMQ0aNYQmMQ0aNYQmMQ0aNYQmMQ0aNYQm0"], 1, "contract"),
    ] {
        let run = run(words);
        assert_eq!(run.status, status, "{words:?}: {}", run.err);
        assert!(run.err.contains(expected) && run.err.lines().count() <= 2, "{words:?}: {}", run.err);
    }
    let _first = world.agent_on("a", Nobody, &["spin"]);
    let mut held = world.clawguard_on(&[
        "run",
        "--agent",
        "a",
        "--job",
        "twice",
        "--user",
        "nobody",
        "--",
        "sh",
        "-c",
        "echo on; cat",
    ]);
    held.until("on");
    let second = run(&["--agent", "a", "--job", "twice"]);
    assert!(second.status == 1 && second.err.contains("there is a job twice already"), "{second:?}");
}

#[test]
fn jobs_give_their_room_back() {
    let world = world();
    let in_use = |world: &World| world.json(&["status"])["maps"]["jobs"][0].as_u64().unwrap();
    // The gateway is a job, too.
    world.eventually("the gateway's job", |world| !world.json(&["status"])["jobs"].as_array().unwrap().is_empty());
    let before = in_use(&world);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..25 {
                    assert_eq!(world.agent_runs("a", Nobody, &["true"]).status, 0);
                }
            });
        }
    });
    world.eventually("their room is free", |world| in_use(world) == before);
    assert_eq!(world.audit("job_start").len(), 100 + 1);
    // The cgroups went with them.
    let root = sys::cgroup::mount_point().unwrap();
    let left = sys::cgroup::tree(&root.join(format!("{}.slice", world.prefix()))).unwrap();
    let jobs = left.iter().filter(|path| path.to_str().unwrap().contains("/job-")).count();
    assert_eq!(jobs, 0);
}

#[test]
fn a_job_of_the_same_name_may_follow_at_once() {
    let world = world();
    for turn in 0..20 {
        let run = world.clawguard(&["run", "--agent", "a", "--job", "next", "--user", "nobody", "--", "true"]);
        assert_eq!(run.status, 0, "{turn}: {}", run.err);
    }
    assert_eq!(world.audit("job_start").iter().filter(|start| start["job"] == "next").count(), 20);
}
