//! The operator's command that is started for each call that waits for a person.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, Seek, Write},
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use sys::{cgroup, process::Program};

/// Hooks that run at once.
const MOST: usize = 4;
/// Hooks that wait for a place; more are not started.
const MOST_WAITING: usize = 256;
/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// As whom they run.
const NOBODY: (u32, u32) = (65534, 65534);

/// The hooks that run or wait.
#[derive(Clone, Default)]
pub(crate) struct Hooks {
    directory: PathBuf,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    waiting: VecDeque<(Vec<String>, String)>,
    running: usize,
    started: u64,
}

impl Hooks {
    /// With a directory for what they read.
    pub(crate) fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), inner: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a command with a text on its standard input, now or when there is a place. Nobody waits for it.
    pub(crate) fn start(&self, command: &[String], input: String) {
        let mut inner = self.lock();
        if inner.waiting.len() >= MOST_WAITING {
            tracing::error!("the approval hook is not started: {MOST_WAITING} wait already");
            return;
        }
        inner.waiting.push_back((command.to_vec(), input));
        if inner.running >= MOST {
            return;
        }
        inner.running += 1;
        drop(inner);
        let hooks = self.clone();
        let started = thread::Builder::new().name("hook".into()).spawn(move || hooks.work());
        if let Err(error) = started {
            self.lock().running -= 1;
            tracing::error!(%error, "the approval hook cannot be started");
        }
    }

    fn work(&self) {
        loop {
            let mut inner = self.lock();
            let Some((command, input)) = inner.waiting.pop_front() else {
                inner.running -= 1;
                return;
            };
            inner.started += 1;
            let number = inner.started;
            drop(inner);
            match self.run(number, &command, &input) {
                Ok(None) => {}
                Ok(Some(how)) => tracing::error!(how, "the approval hook failed"),
                Err(error) => tracing::error!(%error, "the approval hook could not be run"),
            }
        }
    }

    /// Runs a command to its end, in a cgroup of its own so that nothing of it is left. Answers how it failed, if it did.
    fn run(&self, number: u64, command: &[String], input: &str) -> io::Result<Option<String>> {
        let (path, arguments) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let environment = [("PATH", "/usr/local/bin:/usr/bin:/bin"), ("LANG", "C.UTF-8"), ("HOME", "/")];
        let mut program = Program::new(path, &arguments, &environment)?;
        program.user = Some(NOBODY);
        let stdin = self.input(number, input)?;
        let own = cgroup::of_process(std::process::id() as i32)?;
        let own = cgroup::mount_point()?.join(own.trim_start_matches('/'));
        let place = own.join(format!("hook-{number}"));
        fs::create_dir(&place)?;
        let ran = (|| {
            let null = OpenOptions::new().write(true).open("/dev/null")?;
            let stderr = io::stderr();
            let cgroup = File::open(&place)?;
            let child = program.start(cgroup.as_fd(), [stdin.as_fd(), null.as_fd(), stderr.as_fd()])?;
            let until = Instant::now() + PATIENCE;
            while !child.ended()? && Instant::now() < until {
                thread::sleep(Duration::from_millis(20));
            }
            let late = !child.ended()?;
            fs::write(place.join("cgroup.kill"), "1")?;
            let status = child.wait()?;
            let well = matches!(status, nix::sys::wait::WaitStatus::Exited(_, 0));
            Ok(match (late, well) {
                (true, _) => Some(format!("it took more than {} seconds and was killed", PATIENCE.as_secs())),
                (false, true) => None,
                (false, false) => Some(format!("{status:?}")),
            })
        })();
        for _ in 0..50 {
            if cgroup::remove(&place).is_ok() {
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
        ran
    }

    /// A file without a name that has the text: a hook that does not read holds nobody up.
    fn input(&self, number: u64, text: &str) -> io::Result<File> {
        let path = self.directory.join(format!("hook-{number}"));
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        fs::remove_file(&path)?;
        file.write_all(text.as_bytes())?;
        file.rewind()?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_is_nobody_reads_its_approval_and_does_not_last() {
        if !nix::unistd::geteuid().is_root() || cgroup::mount_point().is_err() {
            return;
        }
        let directory = std::env::temp_dir().join(format!("clawguard-hooks-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let hooks = Hooks::new(&directory);
        let run = |script: &str| {
            let command = ["/bin/sh".into(), "-c".into(), script.into()];
            hooks.run(1, &command, "{\"id\":\"ap-1\"}").unwrap()
        };
        assert_eq!(run("test $(id -u) = 65534 && read line; test \"$line\" = '{\"id\":\"ap-1\"}'"), None);
        assert!(run("exit 3").unwrap().contains("3"));
        let began = Instant::now();
        assert!(run("sleep 60 & sleep 60").unwrap().contains("was killed"));
        assert!(began.elapsed() < PATIENCE * 2);
        fs::remove_dir_all(&directory).unwrap();
    }
}
