//! A machine: a real systemd in namespaces of its own, with ClawGuard installed as a package installs it.
//!
//! It sees the host's files through an overlay that is thrown away, a bpffs and a cgroup tree of its own, and the network
//! namespace of the thread that boots it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{Run, World, built};

/// What becomes the machine's first process.
const BOOT: &str = r#"
set -e
here="$1" cgroup="$2"
if [ -z "$3" ]; then
    echo 0 > "$cgroup/cgroup.procs"
    exec unshare --pid --mount --cgroup --uts --ipc --fork --kill-child --propagation private sh "$0" "$here" "$cgroup" inside
fi
mount -t tmpfs tmpfs "$here/layer"
mkdir "$here/layer/upper" "$here/layer/work"
mount -t overlay overlay -o "lowerdir=/,upperdir=$here/layer/upper,workdir=$here/layer/work" "$here/root"
cd "$here/root"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t bpf bpf sys/fs/bpf -o mode=700
mount --rbind /dev dev
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
cp -a "$here/package/." .
systemd-sysusers --root="$PWD" clawguard.conf
systemd-tmpfiles --root="$PWD" --create clawguard.conf
mkdir run/old
pivot_root . run/old
umount -l /run/old
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --log-target=console --log-level=notice --unit=basic.target
"#;

/// A booted machine. It is switched off when it is dropped.
pub struct Machine {
    unshare: Child,
    first: i32,
    cgroup: PathBuf,
    directory: PathBuf,
}

impl Machine {
    /// Boots a machine in a world's network, with these units of its own.
    #[track_caller]
    pub fn boot(world: &World, units: &[(&str, &str)]) -> Self {
        let directory = world.directory.join("machine");
        for name in ["layer", "root", "package"] {
            fs::create_dir_all(directory.join(name)).unwrap();
        }
        let package = directory.join("package");
        lay_out(&package);
        let own = package.join("etc/systemd/system");
        fs::create_dir_all(&own).unwrap();
        for (name, text) in units {
            fs::write(own.join(name), text).unwrap();
        }
        fs::write(directory.join("boot"), BOOT).unwrap();
        let cgroup = sys::cgroup::mount_point().unwrap().join(format!("{}-machine", world.prefix()));
        fs::create_dir(&cgroup).unwrap();
        let log = fs::File::create(directory.join("log")).unwrap();
        let unshare = Command::new("sh")
            .arg(directory.join("boot"))
            .args([&directory, &cgroup])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut machine = Self { unshare, first: 0, cgroup, directory };
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            machine.first = machine.find_first().unwrap_or(0);
            if machine.first != 0 && machine.sh("systemctl is-active basic.target").out == "active" {
                return machine;
            }
            assert!(Instant::now() < until, "the machine does not boot:\n{}", machine.log());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// systemd moves itself there.
    fn find_first(&self) -> Option<i32> {
        let text = fs::read_to_string(self.cgroup.join("init.scope/cgroup.procs")).ok()?;
        text.lines().next()?.parse().ok()
    }

    pub fn log(&self) -> String {
        let console = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        let journal = if self.first == 0 {
            String::new()
        } else {
            self.sh("journalctl -qn 40 -o cat _TRANSPORT=stdout + _TRANSPORT=journal + _PID=1").out
        };
        format!("{console}\n{journal}")
    }

    /// Runs a shell's words in the machine.
    pub fn sh(&self, words: &str) -> Run {
        let target = self.first.to_string();
        let mut command = Command::new("nsenter");
        command
            .args(["-t", &target, "-m", "-p", "-C", "-u", "-i", "sh", "-c", words])
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.env_remove("CLAWGUARD_ROOT");
        Run::of(&command.stdin(Stdio::null()).output().unwrap())
    }

    /// The same; it must end well.
    #[track_caller]
    pub fn ok(&self, words: &str) -> String {
        let run = self.sh(words);
        assert_eq!(run.status, 0, "{words}: {}\n{}\n{}", run.out, run.err, self.log());
        run.out
    }

    /// Waits until words end well.
    #[track_caller]
    pub fn eventually(&self, words: &str) {
        let until = Instant::now() + Duration::from_secs(30);
        while self.sh(words).status != 0 {
            assert!(Instant::now() < until, "not in time: {words}: {}\n{}", self.sh(words).out, self.log());
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Where a file of the machine's is, seen from outside.
    pub fn file(&self, path: &str) -> PathBuf {
        Path::new("/proc").join(self.first.to_string()).join("root").join(path.trim_start_matches('/'))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The last process of a pid namespace takes all others with it, and mounts go with theirs.
        let _ = fs::write(self.cgroup.join("cgroup.kill"), "1");
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        let until = Instant::now() + Duration::from_secs(10);
        while self.cgroup.exists() && Instant::now() < until {
            for directory in sys::cgroup::tree(&self.cgroup).unwrap_or_default().iter().rev() {
                let _ = fs::remove_dir(directory);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// What `cargo xtask package` lays out, from what is built for tests.
fn lay_out(package: &Path) {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("systemd");
    for directory in ["usr/bin", "usr/lib/systemd/system", "usr/lib/sysusers.d", "usr/lib/tmpfiles.d", "etc/clawguard"]
    {
        fs::create_dir_all(package.join(directory)).unwrap();
    }
    for executable in ["clawguard", "clawguard-gateway", "clawguard-authority", "probe"] {
        crate::copy(&built(executable), &package.join("usr/bin").join(executable));
    }
    for entry in fs::read_dir(sources).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        let to = match name.rsplit_once('.').unwrap().1 {
            "sysusers" => "usr/lib/sysusers.d/clawguard.conf".into(),
            "tmpfiles" => "usr/lib/tmpfiles.d/clawguard.conf".into(),
            "toml" => "etc/clawguard/clawguard.toml".into(),
            _ => format!("usr/lib/systemd/system/{name}"),
        };
        fs::copy(entry.path(), package.join(to)).unwrap();
    }
}
