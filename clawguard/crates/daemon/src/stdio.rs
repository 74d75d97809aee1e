//! Stdio servers: MCP servers that are processes of this host's own. Each is started for one job, in a cgroup, a job and a pid
//! namespace of its own, as a user who is not root, with an environment that is made here. It ends with the job that it was started
//! for, with the gateway that asked for it, and when a group is killed that it belongs to as a whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, PipeReader, Read},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use claw::Hash;
use control::calls::{Definition, Pin, Spawned};
use fence::{AgentName, JobId};
use nix::sched::CloneFlags;
use policy::Group;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use switch::{State, Whose};
use sys::{
    cgroup,
    process::{Child, Program},
};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

use crate::{
    config::{Server, secrets},
    core::{Answer, Core, Shared, failed, refuse},
    jobs::{Job, NewJob, Origin},
};

/// The name under which what is started is pinned. No tool can have it.
const PIN: &str = "/stdio";
/// Bytes of executable and argument files together that are looked at.
const MOST_BYTES: u64 = 512 << 20;
/// Servers that run at once, for one job and for all.
const MOST: (usize, usize) = (16, 512);
/// Bytes of a plan: as many as a pipe holds while nobody reads.
const LONGEST_PLAN: usize = 60_000;
/// Where a command without a slash is looked for.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// Lines of a server's standard error that are logged, and bytes of each. The rest is read and thrown away.
const MOST_LINES: usize = 200;
const LONGEST_LINE: u64 = 1024;

/// What a server's first process is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerPlan {
    /// Whom the server becomes.
    pub uid: u32,
    /// That user's group.
    pub gid: u32,
    /// That user's name.
    pub user_name: String,
    /// That user's home.
    pub home: String,
    /// Where the server starts.
    pub directory: PathBuf,
    /// The executable's path, and its arguments.
    pub command: Vec<String>,
    /// All of its environment, beside the user's names.
    pub environment: Vec<(String, String)>,
    /// Whether it may make unix sockets.
    pub unix_sockets: bool,
    /// Bytes of memory of each of its processes, where its cgroup cannot bound them all together.
    pub memory: Option<u64>,
    /// Processes and threads of its user, where its cgroup cannot bound its own.
    pub processes: Option<u64>,
}

/// A server that runs.
struct Running {
    server: String,
    /// Number of the job that it was started for.
    owner: u64,
    /// The gateway's channel.
    channel: u64,
    child: Child,
}

/// All of them.
#[derive(Default)]
pub(crate) struct Stdio {
    running: BTreeMap<JobId, Running>,
    /// Processes that were killed or ended and are not waited for yet.
    ended: Vec<Child>,
    channels: BTreeSet<u64>,
}

/// A server that was started: the ends of its pipes.
pub(crate) struct Started {
    id: JobId,
    pub(crate) input: OwnedFd,
    pub(crate) output: OwnedFd,
    errors: PipeReader,
}

/// The agent that a stdio server is.
pub(crate) fn agent(server: &str) -> String {
    format!("mcp-{server}")
}

/// What is to be started, and the hash of it.
struct Prepared {
    plan: ServerPlan,
    definition: Definition,
}

/// Starts a server for a job.
pub(crate) fn spawn(shared: &Shared, channel: u64, whose: (u32, u64), name: &str) -> (Spawned, Option<Started>) {
    let started = (|| {
        let server = shared.lock().may_spawn(channel, whose, name)?;
        // Reading whole executables holds nobody up. They are read each time: a file's times do not say that it is the same, since
        // what is written through a mapping may change them later, within one tick not at all, and a FUSE file system says what it likes.
        let prepared = prepare(&server).map_err(|why| failed(&format!("start {name}"), &why))?;
        let mut core = shared.lock();
        core.may_spawn(channel, whose, name)?;
        match core.pins_of(name, std::slice::from_ref(&prepared.definition))?.first() {
            Some(Pin::Accepted) => {}
            Some(Pin::New) => return unaccepted(name, "nobody has accepted what the server's command starts"),
            Some(Pin::Changed) | None => {
                return unaccepted(name, "what the server's command starts is not what was accepted");
            }
        }
        core.start_server(channel, whose.1, &server, prepared.plan)
    })();
    match started {
        Ok(started) => (Spawned::Running { id: started.id.to_string() }, Some(started)),
        Err(error) => {
            tracing::error!(server = name, message = error.message, "a stdio server was not started");
            let hint = if error.hint.is_empty() { String::new() } else { format!(" ({})", error.hint) };
            (Spawned::Refused(format!("{}{hint}", error.message)), None)
        }
    }
}

fn unaccepted<T>(name: &str, what: &str) -> Answer<T> {
    refuse(control::api::Code::Conflict, format!("{what}: its files or its command line"), {
        format!("`clawguard pins accept {name} {PIN}`, once it is known why")
    })
}

impl Started {
    /// Logs what the server prints for people, as far as that is bounded.
    pub(crate) async fn log_errors(self, server: String) {
        let Ok(pipe) = tokio::net::unix::pipe::Receiver::from_owned_fd(self.errors.into()) else { return };
        drop((self.input, self.output));
        let mut read = BufReader::new(pipe).take(0);
        let mut line = Vec::new();
        for count in 0_usize.. {
            line.clear();
            read.set_limit(LONGEST_LINE);
            if !matches!(read.read_until(b'\n', &mut line).await, Ok(1..)) {
                return;
            }
            if count < MOST_LINES {
                let said = String::from_utf8_lossy(line.trim_ascii_end());
                tracing::info!(server, job = %self.id, ?said, "a stdio server wrote to its standard error");
            }
        }
    }
}

impl Core {
    /// Whether an agent is a stdio server of the configuration.
    pub(crate) fn is_servers(&self, name: &AgentName) -> bool {
        let stdio = self.config.mcp.server.iter().filter(|server| server.command.is_some());
        stdio.map(|server| agent(&server.name)).any(|agent| agent == name.as_str())
    }

    /// A gateway's channel begins.
    pub(crate) fn servers_opened(&mut self, channel: u64) {
        self.stdio.channels.insert(channel);
    }

    /// A gateway's channel ended: nobody talks to the servers that it asked for.
    pub(crate) fn servers_closed(&mut self, channel: u64) {
        self.stdio.channels.remove(&channel);
        self.stop_servers("the gateway is gone", |server| server.channel == channel);
    }

    /// The server's configuration, if a job may have it started now.
    fn may_spawn(&mut self, channel: u64, (slot, key): (u32, u64), name: &str) -> Answer<Server> {
        use control::api::Code::{Conflict, NotFound};
        self.may_grant()?;
        let of_slot = |job: &Job| job.enrolled.slot == slot && job.enrolled.key == key && !job.over;
        if !self.stdio.channels.contains(&channel) || !self.jobs.values().any(of_slot) {
            return refuse(Conflict, "the job that it is for is over", "");
        }
        let known = self.config.mcp.server.iter().find(|server| server.name == name && server.command.is_some());
        let Some(server) = known.cloned() else {
            return refuse(NotFound, "there is no such stdio server", "");
        };
        if let Some(problem) = self.server_problem(name) {
            return refuse(Conflict, problem, "");
        }
        if self.is_server_killed(&self.switch, name, key, None) {
            return refuse(Conflict, format!("{name} is killed"), "");
        }
        let all = self.stdio.running.len();
        let own = self.stdio.running.values().filter(|running| running.owner == key).count();
        if own >= MOST.0 || all >= MOST.1 {
            return refuse(
                Conflict,
                "more stdio servers are not started",
                format!("{own} run for this job, {all} in all"),
            );
        }
        Ok(server)
    }

    fn start_server(&mut self, channel: u64, owner: u64, server: &Server, mut plan: ServerPlan) -> Answer<Started> {
        let start = |error: io::Error| failed(&format!("start {}", server.name), &error);
        let wrong = || start(io::ErrorKind::InvalidInput.into());
        let agent: AgentName = agent(&server.name).parse().map_err(|_| wrong())?;
        let id: JobId = crate::unique("mcp").parse().map_err(|_| wrong())?;
        let contract = self.agent(&agent)?.wpc.and_then(|hash| self.contracts.get(&hash));
        plan.unix_sockets = contract.is_some_and(|contract| contract.unix_sockets);
        let owners = self.owners.get(&owner).map(|(job, agent)| (job.to_string(), agent.to_string()));
        let (job, of) = owners.unwrap_or_default();
        let directory = self.fence.places().job(&agent, &id);
        let actor = json!({ "channel": "gateway", "server": server.name, "for_job": job, "for_agent": of });
        let new = NewJob {
            id: id.clone(),
            agent,
            wpc: None,
            directory: directory.clone(),
            origin: Origin::Server,
            token: None,
            actor,
        };
        drop(self.make_job(new)?);
        let begun = self.begin_server(&directory, server, plan);
        match begun {
            Ok((child, input, output, errors)) => {
                let running = Running { server: server.name.clone(), owner, channel, child };
                self.stdio.running.insert(id.clone(), running);
                Ok(Started { id, input, output, errors })
            }
            Err(error) => {
                drop(self.finish_job(&id, None));
                self.bury(&id);
                Err(start(error))
            }
        }
    }

    /// Starts the server's first process in its cgroup, which is fenced already.
    fn begin_server(
        &self,
        directory: &Path,
        server: &Server,
        mut plan: ServerPlan,
    ) -> io::Result<(Child, OwnedFd, OwnedFd, PipeReader)> {
        let (memory, processes) = (u64::from(server.memory_megabytes) << 20, u64::from(server.processes));
        let (bounds_memory, bounds_processes) =
            cgroup::limit(&self.fence.places().cgroup_root, directory, memory, processes);
        plan.memory = (!bounds_memory).then_some(memory);
        plan.processes = (!bounds_processes).then_some(processes);
        let mut line = serde_json::to_vec(&plan)?;
        line.push(b'\n');
        if line.len() > LONGEST_PLAN {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "its command and environment are too long"));
        }
        let (stdin, mut input) = io::pipe()?;
        let (output, stdout) = io::pipe()?;
        let (errors, stderr) = io::pipe()?;
        io::Write::write_all(&mut input, &line)?;
        let mut program = Program::new(&self.executable.to_string_lossy(), &[crate::SERVER], &[])?;
        program.namespaces = CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS;
        let cgroup = File::open(directory)?;
        let child = program.start(cgroup.as_fd(), [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()])?;
        Ok((child, input.into(), output.into(), errors))
    }

    /// Ends a server for the gateway that asked for it.
    pub(crate) fn stop_server(&mut self, channel: u64, id: &str) {
        let Ok(id) = id.parse::<JobId>() else { return };
        if self.stdio.running.get(&id).is_some_and(|server| server.channel == channel) {
            self.end_servers(&[id], "the gateway needs it no longer");
        }
    }

    /// Ends the servers that are chosen; answers how many.
    pub(crate) fn stop_servers(&mut self, why: &str, which: impl Fn(&ServerOf) -> bool) -> usize {
        let chosen = |server: &Running| which(&ServerOf { owner: server.owner, channel: server.channel });
        let ids: Vec<JobId> =
            self.stdio.running.iter().filter(|(_, server)| chosen(server)).map(|(id, _)| id.clone()).collect();
        self.end_servers(&ids, why);
        ids.len()
    }

    /// Ends the servers that a daemon before this one started: nobody talks to them.
    pub(crate) fn end_left_servers(&mut self) {
        let left = self.jobs.iter().filter(|(_, job)| job.origin == Origin::Server && !job.over);
        let left: Vec<JobId> = left.map(|(id, _)| id.clone()).collect();
        self.end_servers(&left, "the daemon that started it is gone");
    }

    pub(crate) fn end_servers(&mut self, ids: &[JobId], why: &str) {
        self.cut_servers(ids);
        for id in ids {
            drop(self.finish_job(id, Some(&json!({ "channel": "daemon", "why": why }))));
            self.bury(id);
        }
    }

    /// Kills all processes of servers; their jobs are still to be ended. The kernel lets none of them fork itself away.
    pub(crate) fn cut_servers(&self, ids: &[JobId]) {
        for job in ids.iter().filter_map(|id| self.jobs.get(id)) {
            if let Err(error) = fs::write(job.directory.join("cgroup.kill"), "1") {
                tracing::error!(%error, cgroup = %job.directory.display(), "a stdio server cannot be killed");
            }
        }
    }

    /// The servers that a state of the switch takes away as a whole.
    pub(crate) fn servers_killed_by(&self, state: &State) -> Vec<JobId> {
        let killed =
            |(id, server): &(&JobId, &Running)| self.is_server_killed(state, &server.server, server.owner, Some(id));
        self.stdio.running.iter().filter(killed).map(|(id, _)| id.clone()).collect()
    }

    /// Whether a group is killed that a server belongs to as a whole: for the host, for whom it runs, or for itself.
    fn is_server_killed(&self, state: &State, name: &str, owner: u64, own: Option<&JobId>) -> bool {
        let risk = self.config.mcp.server.iter().find(|server| server.name == name).map(|server| server.risk);
        let groups = [Some(Group::all()), Some(Group::tools()), Some(Group::mcp(name)), risk.map(Group::risk)];
        let mut whose = vec![Whose::Host];
        whose.extend(agent(name).parse().ok().map(Whose::Agent));
        whose.extend(own.cloned().map(Whose::Job));
        if let Some((job, agent)) = self.owners.get(&owner) {
            whose.extend([Whose::Agent(agent.clone()), Whose::Job(job.clone())]);
        }
        let mode = state.mode.groups();
        let by_mode = |group: &Group| group.built_in().is_some_and(|number| mode.contains(number));
        let mut groups = groups.iter().flatten();
        groups.any(|group| by_mode(group) || whose.iter().any(|whose| state.killed(group, whose).is_some()))
    }

    /// A server's job is over.
    pub(crate) fn forget_server(&mut self, id: &JobId) {
        if let Some(server) = self.stdio.running.remove(id) {
            self.stdio.ended.push(server.child);
        }
    }

    /// Waits for the processes that have ended.
    pub(crate) fn reap_servers(&mut self) {
        self.stdio.ended.retain(|child| match child.ended() {
            Ok(true) => child.wait().is_err(),
            Ok(false) => true,
            Err(_) => false,
        });
    }
}

/// By what servers are chosen.
pub(crate) struct ServerOf {
    pub(crate) owner: u64,
    pub(crate) channel: u64,
}

/// Reads all that a server's start depends on. Not under the lock: files can be large.
fn prepare(server: &Server) -> Result<Prepared, String> {
    let wanted = server.command.as_deref().unwrap_or_default();
    let (program, arguments) = wanted.split_first().ok_or("its command is empty")?;
    let name = server.user.as_deref().unwrap_or("nobody");
    let user = nix::unistd::User::from_name(name).ok().flatten().ok_or_else(|| format!("there is no user {name}"))?;
    if user.uid.is_root() {
        return Err("a stdio server is never host root: give it a user of its own ([[mcp.server]] user)".into());
    }
    let mut environment: BTreeMap<String, String> =
        [("PATH", PATH), ("LANG", "C.UTF-8")].map(|(name, value)| (name.into(), value.into())).into();
    environment.extend(secrets(&server.env)?);
    if let Some(name) = environment.keys().find(|name| name.is_empty() || name.contains(['=', '\0'])) {
        return Err(format!("{name:?} cannot name a variable of its environment"));
    }
    let directory = server.directory.clone().unwrap_or_else(|| "/".into());
    let executable = find(program, environment.get("PATH").map_or(PATH, String::as_str))?;
    let mut command = vec![executable.to_str().ok_or("its executable's path is not UTF-8")?.to_owned()];
    command.extend_from_slice(arguments);
    let definition = definition(&command, &directory)?;
    let plan = ServerPlan {
        uid: user.uid.as_raw(),
        gid: user.gid.as_raw(),
        user_name: user.name,
        home: user.dir.to_string_lossy().into_owned(),
        directory,
        command,
        environment: environment.into_iter().collect(),
        unix_sockets: false,
        memory: None,
        processes: None,
    };
    Ok(Prepared { plan, definition })
}

/// The file that a command is.
fn find(program: &str, path: &str) -> Result<PathBuf, String> {
    let found = if program.contains('/') {
        Some(PathBuf::from(program)).filter(|path| path.is_absolute() && path.is_file())
    } else {
        path.split(':').map(|place| Path::new(place).join(program)).find(|path| path.is_absolute() && path.is_file())
    };
    found.ok_or_else(|| format!("there is no executable {program} (a whole path, or a name in PATH)"))
}

/// What is pinned of a server's start: the command line, and what is in the executable and in each file that an argument names.
fn definition(command: &[String], directory: &Path) -> Result<Definition, String> {
    let mut left = MOST_BYTES;
    let mut files = BTreeMap::new();
    for word in command {
        let path = directory.join(word);
        if path.is_file() {
            let digest = digest(&path, &mut left).map_err(|error| format!("{}: {error}", path.display()))?;
            files.insert(path.to_string_lossy().into_owned(), digest.to_string());
        }
    }
    let text = json!({ "command": command, "files": files }).to_string();
    Ok(Definition { name: PIN.into(), hash: Hash::of(text.as_bytes()).to_string(), text })
}

fn digest(path: &Path, left: &mut u64) -> io::Result<Hash> {
    let mut file = File::open(path)?;
    let (mut hash, mut room) = (Sha256::new(), vec![0; 256 << 10]);
    loop {
        let count = file.read(&mut room)?;
        if count == 0 {
            return Ok(Hash(hash.finalize().into()));
        }
        *left = left.checked_sub(count as u64).ok_or_else(|| io::Error::other("more than 512 MB are not looked at"))?;
        hash.update(room.get(..count).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(text: &str) -> Server {
        toml::from_str(&format!("name = \"x\"\n{text}")).unwrap()
    }

    #[test]
    fn what_is_started_is_told_apart_by_its_command_line_and_by_what_is_in_its_files() {
        let directory = std::env::temp_dir().join(format!("clawguard-stdio-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let (program, script) = (directory.join("program"), directory.join("script"));
        fs::write(&program, "one").unwrap();
        fs::write(&script, "two").unwrap();
        let start = |arguments: &str| {
            let text = format!("command = [{program:?}, {arguments}]\ndirectory = {directory:?}");
            prepare(&server(&text)).unwrap().definition
        };
        let whole = start("\"script\", \"--flag\"");
        assert_eq!((whole.name.as_str(), &whole), (PIN, &start("\"script\", \"--flag\"")));
        assert!(
            whole.text.contains(&Hash::of(b"one").to_string()) && whole.text.contains(&Hash::of(b"two").to_string())
        );
        assert_ne!(start("\"script\", \"--other\"").hash, whole.hash);
        fs::write(&script, "three").unwrap();
        let changed = start("\"script\", \"--flag\"");
        assert_ne!(changed.hash, whole.hash);
        fs::write(&program, "four").unwrap();
        assert_ne!(start("\"script\", \"--flag\"").hash, changed.hash);
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn what_cannot_be_started_as_it_should_is_not_started() {
        for (text, why) in [
            ("command = [\"/bin/sh\"]\nuser = \"root\"", "never host root"),
            ("command = [\"/bin/sh\"]\nuser = \"nobody-at-all\"", "there is no user"),
            ("command = [\"bin/sh\"]", "no executable"),
            ("command = [\"no-such-program\"]", "no executable"),
            ("command = [\"/bin\"]", "no executable"),
            ("command = [\"sh\"]\nenv = { KEY = \"file:/nowhere/key\" }", "KEY: /nowhere/key"),
            ("command = [\"sh\"]\nenv = { \"A=B\" = \"x\" }", "cannot name a variable"),
        ] {
            let refused = prepare(&server(text)).map(drop).unwrap_err();
            assert!(refused.contains(why), "{text}: {refused}");
        }
        let plan = prepare(&server("command = [\"sh\"]\nenv = { KEY = \"value\" }")).unwrap().plan;
        assert!(plan.command[0].ends_with("/bin/sh") && plan.uid != 0, "{plan:?}");
        let names: Vec<&str> = plan.environment.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["KEY", "LANG", "PATH"]);
    }
}
