//! The gateway's side of the daemon: its contract, its process where systemd does not start it, its channel.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    sync::Arc,
    time::{Duration, Instant},
};

use claw::Hash;
use clawguard_common::{Addr, Reason, protocol, side};
use control::{
    calls::{Called, Spawned},
    channel::{Answer, Ask, LONGEST, Named, Question, Told},
    ends::{Writes, ends},
};
use evidence::chain::Kind;
use fence::{AgentName, JobId};
use policy::{
    Policy, ToolPolicy,
    compile::{Rule, Source},
    contract::{Lifetime, OnBypass},
    net::{self, Cidr},
    special,
};
use serde_json::json;
use sys::process::{Child, Program};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    sync::{OwnedSemaphorePermit, Semaphore},
};

use crate::{
    calls::Past,
    config::{self, Config},
    contracts::Judged,
    core::{self, Core, Shared, failed},
    jobs::{NewJob, Origin},
    stdio,
};

/// The user whom the gateway becomes.
const USER: &str = "clawguard-gateway";
/// The job in which a gateway of the daemon's own runs.
const JOB: &str = "gateway";
/// Questions that are answered at once; more wait in the channel.
const MOST_QUESTIONS: usize = 16;
/// Bytes of the questions that wait for news, beside those, and what each of them counts at least.
const MOST_WAITING: usize = 64 << 20;
const LEAST_WAITING: usize = 4 << 10;
/// Records that are written without a thread.
const FEW: usize = 128;
/// How many of the daemon's blocking threads gateways may have at once, all together.
pub(crate) const MOST_THREADS: usize = 2;
/// Errands of a channel that are remembered, for when it ends.
const MOST_REMEMBERED: usize = 2048;
/// Revoked tokens that are looked at in one message; the gateway sends fewer.
const MOST_REVOKED: usize = 1024;
/// How long an answer may lie unread.
const UNREAD: Duration = Duration::from_secs(10);
/// Bytes of a line that may stay in memory for the next.
const SHORT: usize = 64 << 10;
/// How long a gateway may take to end when it is told to.
const GOES: Duration = Duration::from_secs(3);
/// How long a gateway that ended is left alone, at first and at most.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// A gateway that the daemon started.
pub(crate) struct Gateway {
    child: Option<Child>,
    again: Instant,
    patience: Duration,
}

impl Gateway {
    pub(crate) fn new() -> Self {
        Self { child: None, again: Instant::now(), patience: PATIENCE.0 }
    }

    /// Starts the gateway if it does not run. Answers the daemon's end of a new channel.
    pub(crate) fn tend(&mut self, shared: &Shared) -> Option<UnixStream> {
        if self.child.as_ref().is_some_and(|child| child.ended().is_ok_and(|ended| !ended)) {
            return None;
        }
        if let Some(ended) = self.child.take() {
            tracing::warn!(status = ?ended.wait().ok(), "the gateway ended and is started again");
            self.again = Instant::now() + self.patience;
            self.patience = (self.patience * 2).min(PATIENCE.1);
        }
        if Instant::now() < self.again {
            return None;
        }
        let mut core = shared.lock();
        match core.start_gateway() {
            Ok((child, channel)) => {
                core.problems.remove("gateway");
                self.child = Some(child);
                Some(channel)
            }
            Err(error) => {
                tracing::error!(message = error.message, "the gateway cannot be started");
                core.problems.insert("gateway".into(), error.message);
                self.again = Instant::now() + self.patience;
                self.patience = (self.patience * 2).min(PATIENCE.1);
                None
            }
        }
    }

    /// Ends it.
    pub(crate) fn stop(&mut self) {
        let Some(child) = self.child.take() else { return };
        let _ = child.signal(15);
        let until = Instant::now() + GOES;
        while child.ended().is_ok_and(|ended| !ended) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        // One that hangs, or is stopped, hears nothing.
        let _ = child.signal(9);
        let _ = child.wait();
    }
}

/// The contract that the gateway itself is held to: whoever may scrape the metrics may come in, and it reaches the registries,
/// the MCP servers and the model providers.
///
/// What is named by an address, or whose addresses the host fixes, is opened at those alone; for any other name its port is open
/// everywhere but in the special ranges, and so are the host's resolvers. That agents come to it is no rule's: the kernel knows.
fn contract(config: &Config) -> Policy {
    let listen = config.metrics.listen;
    let from: &[(IpAddr, u8)] = match listen.ip() {
        ip if ip.is_loopback() => {
            &[(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 104), (IpAddr::V6(Ipv6Addr::LOCALHOST), 128)]
        }
        _ => &[(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 96), (IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0)],
    };
    let rule = |side, protocol, port, range: Cidr, reason| Rule {
        side,
        protocol,
        port,
        range,
        set: 0,
        reason,
        number: Source::BuiltIn.number(),
        tls: false,
        ech: false,
    };
    let range = |ip: IpAddr, bits| Cidr { addr: net::addr(ip), bits };
    let mut rules: Vec<Rule> = from
        .iter()
        .map(|(ip, bits)| rule(side::LISTEN, protocol::TCP, listen.port(), range(*ip, *bits), Reason::Allowed))
        .collect();
    let registries =
        [&config.registry.clawcontrols, &config.registry.clawscope].into_iter().flatten().filter_map(|url| {
            let (_, port) = config::place(url)?;
            Some((port, config.addresses_of(url).into_iter().map(net::addr).collect()))
        });
    let facts = config.facts();
    let servers = facts.mcp_servers.iter().filter_map(|server| {
        let (_, port) = server.endpoint.as_ref()?;
        Some((*port, facts.places(server).map(|(addr, _)| addr).collect()))
    });
    let models = config.model.places().into_iter().filter_map(|url| {
        let (_, port) = config::place(url)?;
        Some((port, config.addresses_of(url).into_iter().map(net::addr).collect()))
    });
    let reached: Vec<(u16, Vec<Addr>)> = registries.chain(servers).chain(models).collect();
    for (port, fixed) in reached {
        let open = |range, reason| rule(side::EGRESS, protocol::TCP, port, range, reason);
        rules.extend(fixed.iter().map(|addr| open(Cidr { addr: *addr, bits: 128 }, Reason::Allowed)));
        if fixed.is_empty() {
            rules.push(open(Cidr::V4, Reason::Allowed));
            rules.push(open(range(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0), Reason::Allowed));
            rules.extend(special::all().iter().map(|special| open(special.range, special.reason)));
        }
    }
    for resolver in config.names.resolvers() {
        for protocol in [protocol::UDP, protocol::TCP] {
            rules.push(rule(side::EGRESS, protocol, resolver.port(), range(resolver.ip(), 128), Reason::Allowed));
        }
    }
    rules.sort_by_key(|rule| (rule.side, rule.protocol, rule.port, rule.range, rule.reason));
    rules.dedup_by_key(|rule| (rule.side, rule.protocol, rule.port, rule.range));
    Policy {
        hash: Hash::of(format!("clawguard gateway {rules:?}").as_bytes()),
        id: "clawguard:gateway".into(),
        sequence: 0,
        lifetime: Lifetime::Stated,
        not_before: None,
        not_after: None,
        unix_sockets: true,
        on_bypass: OnBypass::Alert,
        // In no group: who takes everything away from the agents still wants to see what they try.
        sets: vec![BTreeSet::new()],
        rules,
        names: Vec::new(),
        bound: Vec::new(),
        kernel_groups: BTreeSet::new(),
        gateway_groups: BTreeSet::new(),
        tools: ToolPolicy::default(),
        mcp: policy::McpRules::default(),
        receipts: false,
        token: None,
    }
}

impl Core {
    /// Puts the gateway's own contract in force.
    pub(crate) fn contract_for_gateway(&mut self) -> core::Answer<()> {
        let Ok(name) = crate::GATEWAY.parse::<AgentName>() else { return Ok(()) };
        let policy = contract(&self.config);
        let hash = policy.hash;
        let judged = Judged { bytes: Vec::new(), policy, signer: "builtin".into() };
        if !self.contracts.contains_key(&hash) {
            let lowered = fence::lower(&judged.policy, &self.ledger.numbers)
                .map_err(|error| failed("write the gateway's contract", &error))?;
            self.enter(&judged, lowered)?;
        }
        self.point(&name, hash)?;
        self.drop_unused_contracts();
        Ok(())
    }

    /// The gateway's DNS guard listens: managed tasks' questions go there from now on.
    fn guard_listens(&mut self, port: u16) {
        let gateway = self.jobs.values().find(|job| job.agent.as_str() == crate::GATEWAY && !job.over);
        match gateway {
            Some(job) => self.fence.set_guard(port, job.enrolled.key),
            None => tracing::error!("a DNS guard that is no job of this daemon's is not used"),
        }
    }

    /// The MCP gateway listens: what managed tasks want of own loopback at the port of `[mcp]` goes there from now on.
    fn tools_listen(&mut self, at: u16) {
        let gateway = self.jobs.values().find(|job| job.agent.as_str() == crate::GATEWAY && !job.over);
        match gateway {
            Some(job) => self.fence.set_tools(self.config.mcp.port, at, job.enrolled.key),
            None => tracing::error!("an MCP gateway that is no job of this daemon's is not used"),
        }
    }

    /// Ends the gateway, with everything that it is doing, because nobody can say that it does what it was told. Whoever started
    /// it starts it again. Answers whether that could be done.
    pub(crate) fn kill_gateway(&mut self, why: &str) -> bool {
        let gateways = self.jobs.iter().filter(|(_, job)| job.agent.as_str() == crate::GATEWAY && !job.over);
        let mut killed = Vec::new();
        let mut all = true;
        for (id, job) in gateways {
            match fs::write(job.directory.join("cgroup.kill"), "1") {
                Ok(()) => killed.push(id.to_string()),
                Err(error) => {
                    all = false;
                    tracing::error!(%error, job = %id, "the gateway cannot be killed");
                }
            }
        }
        tracing::error!(why, "the gateway is killed: everything that it was doing ends");
        self.note(Kind::Alert, json!({ "alert": "gateway_killed", "why": why, "jobs": killed, "killed": all }));
        all && !killed.is_empty()
    }

    /// Ends a gateway that does not keep to what is in force.
    pub(crate) fn mind_the_gateway(&mut self) {
        if self.rulebook.overdue() {
            self.kill_gateway("it did not keep to the rules in force");
        }
    }

    fn start_gateway(&mut self) -> core::Answer<(Child, UnixStream)> {
        let failed = |error: io::Error| failed("start the gateway", &error);
        let (Ok(agent), Ok(id)) = (crate::GATEWAY.parse::<AgentName>(), JOB.parse::<JobId>()) else {
            return Err(failed(io::ErrorKind::InvalidInput.into()));
        };
        // A gateway of an earlier daemon does not know this one.
        if let Some(job) = self.jobs.get(&id) {
            let _ = fs::write(job.directory.join("cgroup.kill"), "1");
            // What the kernel sends for its sockets when they close is told to its clients only while it is a job.
            for _ in 0..50 {
                if sys::cgroup::populated(&job.directory).is_ok_and(|populated| !populated) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            drop(self.end_job(JOB, &json!({ "channel": "daemon" })));
            self.await_empty(&id);
        }
        let executable = self.executable.with_file_name("clawguard-gateway");
        if !executable.exists() {
            let error = io::Error::new(io::ErrorKind::NotFound, format!("{} is not there", executable.display()));
            return Err(failed(error));
        }
        let directory = self.fence.places().job(&agent, &id);
        let actor = json!({ "channel": "daemon" });
        let new =
            NewJob { id, agent, wpc: None, directory: directory.clone(), origin: Origin::Gateway, token: None, actor };
        drop(self.make_job(new)?);
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let path = executable.to_string_lossy();
        let mut program = Program::new(&path, &["--channel", "stdin"], &[]).map_err(failed)?;
        program.user = Some(user());
        let cgroup = File::open(directory).map_err(failed)?;
        let null = File::options().write(true).open("/dev/null").map_err(failed)?;
        let stderr = io::stderr();
        let child = program.start(cgroup.as_fd(), [theirs.as_fd(), null.as_fd(), stderr.as_fd()]).map_err(failed)?;
        Ok((child, ours))
    }

    /// Waits a moment for a job that was killed to be gone.
    fn await_empty(&mut self, id: &JobId) {
        for _ in 0..50 {
            self.bury(id);
            if !self.jobs.contains_key(id) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The gateway's user and group; where the package's user does not exist, nobody.
fn user() -> (u32, u32) {
    match nix::unistd::User::from_name(USER) {
        Ok(Some(user)) => (user.uid.as_raw(), user.gid.as_raw()),
        _ => (65534, 65534),
    }
}

/// Whether a peer of the channel's socket is the gateway.
pub(crate) fn is_gateway(core: &Core, peer: &sys::peer::Peer) -> bool {
    let own = match core.hands(&peer.cgroup) {
        crate::jobs::Hands::Job(id) => core.jobs.get(&id).is_some_and(|job| job.agent.as_str() == crate::GATEWAY),
        _ => false,
    };
    own && peer.uid == user().0
}

/// A channel's end to write to. Answers come in any order.
#[derive(Clone)]
struct Answers(Arc<tokio::sync::Mutex<Writes>>);

impl Answers {
    async fn write(&self, id: u64, told: Told) {
        self.write_with(id, told, &[]).await;
    }

    /// Writes an answer, and with its first byte these descriptors.
    async fn write_with(&self, id: u64, told: Told, descriptors: &[BorrowedFd<'_>]) {
        let Ok(mut text) = serde_json::to_string(&Answer { id, told }) else { return };
        text.push('\n');
        // A gateway that hung up is noticed by whoever reads.
        let written = tokio::time::timeout(UNREAD, async {
            let write = self.0.lock().await;
            let mut sent = 0;
            while sent == 0 && !descriptors.is_empty() {
                match sys::rights::send(write.socket().as_fd(), text.as_bytes(), descriptors) {
                    Ok(count) => sent = count,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => write.writable().await?,
                    Err(error) => return Err(error),
                }
            }
            write.write_all(text.as_bytes().get(sent..).unwrap_or_default()).await
        });
        if !matches!(written.await, Ok(Ok(()))) {
            // Half a line may be out: nothing more can be said on this channel.
            let _ = self.0.lock().await.shut();
        }
    }
}

/// Answers the gateway until it hangs up: each question by itself, because some wait. What it took and did not bring back is
/// then asked for anew, and the calls that it was making are recorded.
pub(crate) async fn serve(channel: UnixStream, shared: Arc<Shared>) {
    let (read, write) = match ends(channel) {
        Ok(ends) => ends,
        Err(error) => return tracing::error!(%error, "the gateway's channel cannot be opened"),
    };
    let (number, under_way) = shared.calls.opened();
    shared.lock().servers_opened(number);
    let write = Answers(Arc::new(tokio::sync::Mutex::new(write)));
    let places = Arc::new(Semaphore::new(MOST_QUESTIONS));
    let waits = Arc::new(Semaphore::new(MOST_WAITING));
    let taken = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (mut answers, mut records) = (tokio::task::JoinSet::new(), tokio::task::JoinSet::new());
    let mut read = BufReader::with_capacity(SHORT, read).take(LONGEST as u64);
    let mut line = String::new();
    loop {
        line.clear();
        read.set_limit(LONGEST as u64);
        match read.read_line(&mut line).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        let Ok(Question { id, ask }) = serde_json::from_str::<Question>(&line) else {
            tracing::warn!("the gateway asked something that there is not");
            break;
        };
        let bytes = line.len();
        if line.capacity() > SHORT {
            line = String::new();
        }
        // Whoever waits for news takes no place from those who want an answer.
        let waiting =
            matches!(ask, Ask::Errands | Ask::Rules { .. } | Ask::Kept { .. } | Ask::Decided { .. } | Ask::Receipt(_));
        // An honest one asks for these one at a time, and their answers can be long.
        let bytes = if matches!(ask, Ask::Errands | Ask::Rules { .. }) { MOST_WAITING / 4 } else { bytes };
        let waiting = waiting.then(|| place_to_wait(&waits, bytes)).flatten();
        // Held until the answer is written: a gateway that does not read is not served either.
        let place = match waiting {
            Some(place) => place,
            None => match Arc::clone(&places).acquire_owned().await {
                Ok(place) => place,
                Err(_) => break,
            },
        };
        let (shared, write, taken) = (Arc::clone(&shared), write.clone(), Arc::clone(&taken));
        while answers.try_join_next().is_some() {}
        while records.try_join_next().is_some() {}
        if let Ask::Calls(called) = ask {
            let answered = called.iter().any(Called::is_answered);
            // Sorted here, in the order in which they came; and recorded whatever becomes of the channel.
            let (past, honest) = under_way.sort(called);
            if !honest {
                tracing::warn!("the gateway wrote a beginning that is none");
                recorded(&shared, past).await;
                break;
            }
            if past.is_empty() && !answered {
                continue;
            }
            match recorded_at_once(&shared, &past) {
                Some(told) => write.write(id, told).await,
                None => drop(records.spawn(async move {
                    if let Some(told) = recorded(&shared, past).await {
                        write.write(id, told).await;
                    }
                    drop(place);
                })),
            }
            continue;
        }
        if matches!(ask, Ask::Beginnings) {
            let pipe = match under_way.beginnings() {
                Ok(pipe) => pipe,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    tracing::warn!("the gateway asked for a second way for its beginnings");
                    break;
                }
                Err(error) => {
                    tracing::warn!(%error, "calls that begin have no way beside the channel: they come by it");
                    write.write(id, Told::Noted).await;
                    continue;
                }
            };
            write.write_with(id, Told::Beginnings, &[pipe.as_fd()]).await;
            continue;
        }
        answers.spawn(async move {
            if let Ask::Spawn { slot, key, server } = ask {
                if let Some((spawned, started)) = spawned(&shared, number, (slot, key), &server).await {
                    let descriptors = started.as_ref().map(|started| [started.input.as_fd(), started.output.as_fd()]);
                    let descriptors = descriptors.as_ref().map_or(&[][..], |both| &both[..]);
                    write.write_with(id, Told::Spawned(spawned), descriptors).await;
                    if let Some(started) = started {
                        tokio::spawn(started.log_errors(server));
                    }
                }
                return drop(place);
            }
            let Some(told) = told(&shared, number, ask).await else { return };
            if let Told::Errands(errands) = &told {
                let mut taken = taken.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                taken.extend(errands.iter().map(|errand| errand.id));
                // The oldest are done, or given up, long since.
                let surplus = taken.len().saturating_sub(MOST_REMEMBERED);
                taken.drain(..surplus);
            }
            write.write(id, told).await;
            drop(place);
        });
    }
    shared.rulebook.hung_up(number);
    shared.lock().servers_closed(number);
    answers.shutdown().await;
    let taken = taken.lock().map_or_else(|broken| broken.into_inner().clone(), |taken| taken.clone());
    shared.errands_lost(&taken);
    while records.join_next().await.is_some() {}
    shared.models.hung_up(number);
    let lost = shared.calls.closed(number);
    recorded(&shared, lost).await;
}

/// A place for a question of so many bytes that waits for news, if there is one.
fn place_to_wait(waits: &Arc<Semaphore>, bytes: usize) -> Option<OwnedSemaphorePermit> {
    let counts = u32::try_from(bytes.max(LEAST_WAITING)).ok()?;
    Arc::clone(waits).try_acquire_many_owned(counts).ok()
}

/// Records calls and answers, if they are a few lines of a file and nobody has the lock: nobody waits for a disk.
fn recorded_at_once(shared: &Shared, calls: &[Past]) -> Option<Told> {
    if calls.len() > FEW {
        return None;
    }
    shared.try_lock().map(|mut core| core.record_calls(calls))
}

/// Answers once calls are recorded. The gateway never has more than a few of the threads on which the API's calls are answered
/// too.
async fn recorded(shared: &Arc<Shared>, calls: Vec<Past>) -> Option<Told> {
    if calls.is_empty() {
        return Some(Told::Noted);
    }
    let _thread = shared.gateway_threads.acquire().await.ok()?;
    let shared = Arc::clone(shared);
    tokio::task::spawn_blocking(move || shared.lock().record_calls(&calls)).await.ok()
}

/// Starts a stdio server.
async fn spawned(
    shared: &Arc<Shared>,
    channel: u64,
    whose: (u32, u64),
    server: &str,
) -> Option<(Spawned, Option<stdio::Started>)> {
    let _thread = shared.gateway_threads.acquire().await.ok()?;
    let (shared, server) = (Arc::clone(shared), server.to_owned());
    tokio::task::spawn_blocking(move || stdio::spawn(&shared, channel, whose, &server)).await.ok()
}

/// Answers a question; the ones that wait, without a thread.
async fn told(shared: &Arc<Shared>, channel: u64, ask: Ask) -> Option<Told> {
    let ask = match ask {
        Ask::Errands => return Some(Told::Errands(shared.errands.take().await)),
        Ask::Rules { seen } => {
            let rules = shared.rulebook.after(channel, seen).await;
            return Some(Told::Rules(Box::new((*rules).clone())));
        }
        Ask::Kept { serial, cancelled } => {
            shared.rulebook.kept(channel, serial, cancelled);
            return Some(Told::Noted);
        }
        Ask::Decided { id } => {
            shared.undecided.decided(&id).await;
            return Some(Told::Noted);
        }
        Ask::Receipt(end) => return shared.model_ended(channel, end).await,
        // A line of a file, and nobody waits for a disk: that is done at once, unless somebody has the lock.
        Ask::Model(call) => match shared.try_lock() {
            Some(mut core) => return Some(core.model_called(&shared.models, channel, call)),
            None => Ask::Model(call),
        },
        ask => ask,
    };
    let _thread = shared.gateway_threads.acquire().await.ok()?;
    let shared = Arc::clone(shared);
    tokio::task::spawn_blocking(move || match ask {
        Ask::Stop { id } => {
            shared.lock().stop_server(channel, &id);
            Told::Noted
        }
        Ask::Model(call) => shared.lock().model_called(&shared.models, channel, call),
        Ask::Connected(told) => {
            shared.lock().models_connected(channel, &told);
            Told::Noted
        }
        Ask::Models { port } => {
            shared.lock().models_listen(channel, port);
            Told::Noted
        }
        ask => tell(&shared, ask),
    })
    .await
    .ok()
}

fn tell(shared: &Shared, ask: Ask) -> Told {
    match ask {
        Ask::Settings => {
            let core = shared.lock();
            Told::Settings {
                metrics: core.config.metrics.listen,
                tools: core.config.mcp.port,
                models: core.config.model.port,
                names: core.config.names.for_guard(),
            }
        }
        Ask::Guard { port } => {
            shared.lock().guard_listens(port);
            Told::Noted
        }
        Ask::Tools { port } => {
            shared.lock().tools_listen(port);
            Told::Noted
        }
        Ask::Caller { port, udp } => Told::Caller(shared.lock().fence.caller(port, udp)),
        Ask::Name { job, name, kind } => Told::Named(shared.lock().name_asked(job, &name, kind)),
        Ask::Learn { job, key, name, addresses, ttl_seconds } => {
            let mut core = shared.lock();
            let stale = core.fence.job_key(job) != key;
            let named = if stale { Named::Stale } else { core.name_learned(job, &name, &addresses, ttl_seconds) };
            Told::Named(named)
        }
        Ask::Excess { job, name, why, count } => {
            shared.lock().names_exceeded(job, &name, &why, count);
            Told::Noted
        }
        Ask::Metrics => Told::Metrics(shared.lock().metrics().unwrap_or_else(|error| {
            tracing::error!(%error, "the metrics cannot be written");
            String::new()
        })),
        Ask::Done { errand, outcome } => {
            shared.errand_done(errand, outcome);
            Told::Noted
        }
        Ask::Revoked { tokens } => {
            shared.lock().tokens_revoked(&tokens[..tokens.len().min(MOST_REVOKED)]);
            Told::Noted
        }
        ask => crate::calls::tell(shared, ask),
    }
}

#[cfg(test)]
mod tests;
