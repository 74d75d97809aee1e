//! The bench's host: a world, cgroups to be timed in, and nftables with the same rules.

use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
};

use e2e::{Outside, Service, World};
use serde_json::{Value, json};

/// Where the timed calls go: this host's own address, over loopback, so that no other machine's noise is in it.
pub(crate) const TARGET: &str = "203.0.113.1";

/// A world whose agent `timed` is what runs in one cgroup of its own.
pub(crate) struct Host {
    pub(crate) world: World,
    /// Fenced whenever the daemon has run.
    pub(crate) fenced: Service,
    /// Another agent's, `other`.
    pub(crate) other: Service,
    /// Nobody's.
    pub(crate) plain: Service,
    /// nftables' rules are for this one.
    pub(crate) filtered: Service,
}

impl Host {
    pub(crate) fn new() -> Self {
        Self::of(World::new(), "")
    }

    /// A host whose names are asked for at `resolver`, with these limits of `[names]`.
    pub(crate) fn named(resolver: &str, limits: &str) -> Self {
        let mut world = World::named();
        world.ask_at(resolver);
        Self::of(world, limits)
    }

    /// A host with more in its configuration.
    pub(crate) fn with(more: &str) -> Self {
        Self::of(World::new(), more)
    }

    fn of(world: World, limits: &str) -> Self {
        let worker = world.directory.join("worker");
        e2e::copy(&std::env::current_exe().unwrap(), &worker);
        let [fenced, plain, filtered] =
            ["fenced", "plain", "filtered"].map(|name| world.service_of(name, worker.to_str().unwrap().to_owned()));
        let other = world.service_of("other", worker.to_str().unwrap().to_owned());
        let agent = |name: &str, service: &Service| {
            format!("[[agent]]\nname = \"{name}\"\nmatch = {{ cgroup = \"{}\" }}\n", service.name)
        };
        world.configure(&format!("{limits}\n{}{}", agent("timed", &fenced), agent("other", &other)));
        Self { world, fenced, other, plain, filtered }
    }

    /// Puts a contract in force and starts the daemon.
    pub(crate) fn fence(&mut self, contract: Value) {
        self.world.start();
        self.world.use_contract("timed", contract);
    }

    /// Takes everything of ClawGuard's off the host.
    pub(crate) fn unfence(&mut self) {
        self.world.stop();
        self.world.clawguard(&["uninstall"]).ok();
    }

    /// The gateway's process, which the daemon started.
    pub(crate) fn gateway(&self) -> i32 {
        let daemon = self.world.daemon_pid();
        let mut all = fs::read_dir("/proc").unwrap().flatten();
        all.find_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let text = fs::read_to_string(entry.path().join("status")).ok()?;
            let is = text.starts_with("Name:\tclawguard-gatew") && text.contains(&format!("\nPPid:\t{daemon}\n"));
            is.then_some(pid)
        })
        .unwrap()
    }

    /// The bench's own executable, as a worker in a cgroup.
    pub(crate) fn worker(&self, service: &Service, words: &[&str]) -> f64 {
        self.figures(service, words)[0]
    }

    /// The same, where it says several figures.
    pub(crate) fn figures(&self, service: &Service, words: &[&str]) -> Vec<f64> {
        figures(&service.run(&[&["worker"], words].concat()).ok().out)
    }

    pub(crate) fn worker_on(&self, service: &Service, words: &[&str]) -> Outside {
        let mut worker = service.start(&[&["worker"], words].concat());
        assert_eq!(worker.line(), "ready");
        worker
    }

    /// nftables' version of the contract for the cgroup `filtered`: protocol, port and address must be in the set.
    pub(crate) fn nftables(&self, addresses: &[String], protocol: &str, intervals: bool) {
        // What is not in the set is refused and counted, as by the fence. Ranges with ports would make nftables walk a list.
        if intervals {
            return self.load("ipv4_addr; flags interval", "ip daddr", "ip saddr", "", addresses);
        }
        let by = |port, addr| format!("meta l4proto . th {port} . ip {addr}");
        let (out, inward) = (by("dport", "daddr"), by("sport", "saddr"));
        self.load("inet_proto . inet_service . ipv4_addr", &out, &inward, &format!("{protocol} . 9100 . "), addresses);
    }

    fn load(&self, kind: &str, out: &str, inward: &str, prefix: &str, addresses: &[String]) {
        let level = self.filtered.name.split('/').count();
        let group = format!("socket cgroupv2 level {level} \"{}\"", self.filtered.name);
        let elements: Vec<String> = addresses.iter().map(|address| format!("{prefix}{address}")).collect();
        let rules = format!(
            "table ip bench {{\n set allowed {{ type {kind}; elements = {{ {} }} }}\n\
             chain out {{ type filter hook output priority 0; {group} {out} != @allowed counter reject; }}\n\
             chain in {{ type filter hook input priority 0; {group} {inward} != @allowed counter drop; }}\n}}\n",
            elements.join(", ")
        );
        // nft looks for cgroups below /sys/fs/cgroup and nowhere else.
        let mount = sys::cgroup::mount_point().unwrap();
        let script = format!("[ {0} = /sys/fs/cgroup ] || mount --bind {0} /sys/fs/cgroup; nft -f -", mount.display());
        let mut nft = Command::new("unshare").args(["-m", "sh", "-c", &script]).stdin(Stdio::piped()).spawn().unwrap();
        nft.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
        assert!(nft.wait().unwrap().success(), "nft refused the rules");
    }

    pub(crate) fn no_nftables(&self) {
        assert!(Command::new("nft").args(["flush", "ruleset"]).status().unwrap().success());
    }
}

/// What a worker said.
pub(crate) fn figures(out: &str) -> Vec<f64> {
    out.split_whitespace().map(|word| word.parse().unwrap_or_else(|error| panic!("{error}: {out}"))).collect()
}

/// So many addresses, the target among them, none of them anybody's.
pub(crate) fn addresses(count: usize) -> Vec<String> {
    let others = (0..count as u32 - 1).map(|n| {
        let [_, a, b, c] = n.wrapping_mul(2_654_435_761 % (1 << 24)).to_be_bytes();
        format!("10.{a}.{b}.{c}")
    });
    let mut all: Vec<String> = others.chain([TARGET.to_owned()]).collect();
    all.sort();
    all.dedup();
    all
}

/// The contract that allows these addresses, or ranges, by one protocol.
pub(crate) fn contract(addresses: &[String], protocol: &str) -> Value {
    let entry = |address: &String| {
        let cidr = if address.contains('/') { address.clone() } else { format!("{address}/32") };
        json!({ "cidr": cidr, "protocol": protocol, "ports": [9100], "groups": ["timed"] })
    };
    json!({ "egress": addresses.iter().map(entry).collect::<Vec<_>>() })
}

/// Milliseconds of an fsync(2) where the instance keeps its state.
pub(crate) fn fsync_ms(world: &World) -> f64 {
    let mut took: Vec<f64> = (0..20)
        .map(|_| {
            let mut file = fs::File::create(world.directory.join("fsync")).unwrap();
            file.write_all(&[7; 4096]).unwrap();
            let started = std::time::Instant::now();
            file.sync_all().unwrap();
            started.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    crate::median(&mut took)
}
