//! How a world's names become addresses: a zone at the far end, and files that send this thread's processes there.

use std::{
    cell::Cell,
    fs,
    path::{Path, PathBuf},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};

use crate::{Far, World};

/// The name server of every world.
pub const RESOLVER: &str = "203.0.113.53";
/// The same by IPv6.
pub const RESOLVER6: &str = "2001:db8::53";

/// What the zone holds from the start. All names of 203.0.113.40 share that host, as customers of a large one do.
const ZONE: [&str; 19] = [
    "crm.example A 60 203.0.113.40",
    "crm.example AAAA 60 2001:db8::40",
    "customers.crm.example A 60 203.0.113.40",
    "evil.example A 60 203.0.113.40",
    "*.evil.example A 60 203.0.113.40",
    "shared.example A 60 203.0.113.41",
    "*.shared.example A 60 203.0.113.41",
    "other.example A 60 203.0.113.44",
    "git.example A 60 203.0.113.41",
    "chat.example A 60 203.0.113.41",
    "again.example A 60 203.0.113.42",
    "sink.example A 60 203.0.113.43",
    "alias.example CNAME 60 middle.example",
    "middle.example CNAME 60 crm.example",
    "stray.example CNAME 60 evil.example",
    "text.example TXT 60 some text",
    "rebound.example A 60 10.9.8.7",
    "hidden.example A 60 203.0.113.40",
    "hidden.example HTTPS 60 ech=0004fe0d0000 ipv4hint=203.0.113.99",
];

/// Starts the far end's name server and TLS hosts, and fills the zone.
pub(crate) fn serve(far: &mut Far, directory: &Path) {
    assert_eq!(far.ask(&format!("names {}", directory.display())), "up");
    for record in ZONE {
        assert_eq!(far.ask(&format!("zone add {record}")), "ok");
    }
}

/// A mount namespace for this thread and what it starts, in which names are asked for at the far end. The machine's own
/// files stay as they are.
pub(crate) fn files(directory: &Path) {
    thread_local! { static AGAIN: Cell<bool> = const { Cell::new(false) } }
    // On files of a world that is gone nothing can be mounted.
    let again = AGAIN.replace(true);
    unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
    // What others mount comes in; nothing goes out.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_SLAVE | MsFlags::MS_REC, None::<&str>).unwrap();
    let resolv = format!("nameserver {RESOLVER}\noptions timeout:1 attempts:1\n");
    let switch = "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n";
    for (path, text) in [("/etc/resolv.conf", resolv.as_str()), ("/etc/nsswitch.conf", switch)] {
        let own = directory.join(Path::new(path).file_name().unwrap());
        fs::write(&own, text).unwrap();
        // The file itself, where the path is only a link to it.
        let at = fs::canonicalize(path).unwrap_or_else(|error| panic!("{path}: {error}: please make it, even empty"));
        if again {
            umount2(&at, MntFlags::MNT_DETACH).unwrap();
        }
        mount(Some(&own), &at, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    }
    // A cache would ask from outside the world.
    for cache in ["/run/nscd", "/run/systemd/resolve/io.systemd.Resolve"].map(Path::new) {
        if cache.is_dir() {
            mount(Some("none"), cache, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        } else if cache.exists() {
            mount(Some("/dev/null"), cache, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        }
    }
}

impl World {
    /// Changes the zone: `add NAME TYPE TTL DATA…`, `del NAME`, `code NAME servfail|refused`, `silent`, `speak`.
    #[track_caller]
    pub fn zone(&mut self, change: &str) {
        assert_eq!(self.far.ask(&format!("zone {change}")), "ok");
    }

    /// The certificate of the authority that vouches for the far end's names, which any user can read.
    pub fn tls_ca(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// Puts a file where the TLS hosts serve it, under any name.
    pub fn publish(&self, path: &str, text: &str) {
        let path = self.directory.join("www").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

impl Far {
    /// How many questions for a name have arrived.
    pub fn asked(&mut self, name: &str) -> u64 {
        self.ask(&format!("asked {name}")).parse().unwrap()
    }

    /// How many questions have arrived.
    pub fn asked_at_all(&mut self) -> u64 {
        self.ask("asked").parse().unwrap()
    }

    /// How many questions have arrived for names that have this in them.
    pub fn asked_like(&mut self, part: &str) -> u64 {
        self.ask(&format!("asked-like {part}")).parse().unwrap()
    }

    /// How many ClientHellos for a name have arrived, in whatever pieces.
    pub fn sni_seen(&mut self, name: &str) -> u64 {
        self.ask(&format!("sni-seen {name}")).parse().unwrap()
    }

    /// The names in the ClientHellos that came to a port, `-` for each connection without any.
    pub fn hello_names(&mut self, port: u16) -> Vec<String> {
        self.ask(&format!("hello-names {port}")).split_whitespace().map(str::to_owned).collect()
    }

    /// In how many connections to a TLS host these bytes arrived, in upper or lower case, in whatever pieces.
    pub fn heard(&mut self, bytes: &[u8]) -> u64 {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        self.ask(&format!("heard {hex}")).parse().unwrap()
    }
}
