//! From the start to the end of the daemon.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fs::{self, File},
    io,
    os::{fd::AsFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use claw::{Hash, key::PrivateKey};
use evidence::chain::Kind;
use fence::{AgentName, Canary, Fence, Places};
use nix::fcntl::{Flock, FlockArg};
use sd_notify::NotifyState;
use serde_json::json;
use sys::{
    clock::{ClockWatch, taken, ticker},
    reactor,
};
use tokio::{
    net::UnixListener,
    signal::unix::{SignalKind, signal},
};

use crate::{
    approvals::Approvals,
    audit::{AuditLog, found_record},
    config::{self, AgentMode, Config},
    contracts::{Loading, Terms, Use, judge},
    core::{Agent, Core, SWITCH, Shared},
    decisions::Recent,
    gateway::{self, Gateway},
    hooks::Hooks,
    ledger::{self, Ledger},
    metrics::Counters,
    paths::Paths,
    pins::Pins,
    registry::Registries,
    watch::Watch,
};

/// How the daemon is started.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Another root for all files.
    pub root: Option<PathBuf>,
    /// Another configuration file.
    pub config: Option<PathBuf>,
    /// The gateway is started by somebody else.
    pub external_gateway: bool,
}

/// Why the daemon does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration.
    #[error("the configuration is not accepted: {0}")]
    Config(#[from] config::Error),
    /// The fence.
    #[error("{0}")]
    Fence(#[from] fence::Error),
    /// A state file.
    #[error("{0}")]
    State(#[from] ledger::Error),
    /// Another daemon.
    #[error("another daemon of this instance runs already ({} is locked)", .0.display())]
    Running(PathBuf),
    /// The system.
    #[error("could not {what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let what = what.into();
    move |source| Error::System { what, source }
}

/// How often the daemon says that it lives.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Heartbeats between two checkpoints of the audit chain.
const CHECKPOINT_BEATS: u64 = 60;

/// Runs the daemon until it is told to stop. What it has put in force stays.
///
/// # Errors
///
/// See [`Error`]. What was in force before still is.
pub fn run(options: &Options) -> Result<(), Error> {
    let paths = Paths::new(options.root.as_deref()).map_err(system("find the root directory"))?;
    let file = options.config.clone().unwrap_or_else(|| paths.config());
    let config = Config::read(&file)?;
    for line in config.without_effect() {
        tracing::warn!("{line}");
    }
    for (directory, mode) in [(paths.run(), 0o755), (paths.state(), 0o700), (paths.contracts(), 0o700)] {
        sys::file::directory(&directory, mode).map_err(system(format!("make {}", directory.display())))?;
    }
    let _lock = only_one(&paths.run().join("daemon.lock"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(8)
        .thread_keep_alive(Duration::from_secs(5))
        .build()
        .map_err(system("start the runtime"))?;
    let core = start(paths, config)?;
    crate::coverage::beat(core.fence.pulse()?).map_err(system("start the daemon's pulse"))?;
    let shared = Arc::new(Shared::new(core));
    crate::model::start(&shared).map_err(system("start the thread of receipts"))?;
    // Found before contracts are loaded, so that they are pointed to their agent's as soon as that is.
    if let Err(error) = shared.lock().adopt_jobs() {
        tracing::error!(%error, "the jobs of the daemon before are not known: they reach nothing");
    }
    shared.lock().adopt_kills()?;
    shared.lock().adopt_observed();
    put_contracts_in_force(&shared);
    shared.lock().end_left_servers();
    shared.lock().end_left_runs();
    crate::coverage::look_after(&shared).map_err(system("look after the jobs' processes"))?;
    let served = runtime.block_on(serve(Arc::clone(&shared), options, &file));
    shared.models.stop();
    let mut core = shared.lock();
    // Whatever the gateway was making when its channel ended with this daemon.
    core.record_calls(&shared.calls.all_closed());
    core.stop_servers("the daemon stops", |_| true);
    core.end_interval();
    core.save_observed(true);
    // With what issuers said last, so that the next daemon need not ask before anything goes on.
    core.mind_the_clock(true);
    core.save_jobs();
    core.note(Kind::Stop, json!({}));
    if core.audit.owed() > 0 {
        tracing::error!(records = core.audit.owed(), "records are lost: the disk had no room for them to the end");
    }
    if let Err(error) = core.audit.checkpoint() {
        tracing::error!(%error, "the audit chain ends without a signature");
    }
    if let Some(canary) = core.canary.take()
        && let Err(error) = canary.stop(&mut core.fence)
    {
        tracing::warn!(%error, "what is left of the canary could not be removed");
    }
    served
}

/// One daemon an instance.
fn only_one(path: &Path) -> Result<Flock<File>, Error> {
    let file = File::create(path).map_err(system(format!("make {}", path.display())))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| Error::Running(path.to_owned()))
}

/// Whose key signs this host's chain, if it has one that the caller may read.
#[must_use]
pub fn host_did(path: &Path) -> Option<claw::key::Did> {
    let text = fs::read_to_string(path).ok()?;
    PrivateKey::from_jwk(&text).ok().map(|key| key.did())
}

/// A key of the host's own; made when there is none.
///
/// # Errors
///
/// If the file cannot be read, understood or made.
pub fn host_key(path: &Path) -> io::Result<PrivateKey> {
    match fs::read_to_string(path) {
        Ok(text) => PrivateKey::from_jwk(&text)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(directory) = path.parent() {
                sys::file::directory(directory, 0o700)?;
            }
            let mut seed = [0; 32];
            getrandom::fill(&mut seed).map_err(|error| io::Error::other(error.to_string()))?;
            let key = PrivateKey::from_seed(&seed);
            sys::file::replace(path, key.to_jwk().as_bytes(), 0o600)?;
            Ok(key)
        }
        Err(error) => Err(error),
    }
}

/// Everything up to the moment at which contracts can be put in force.
fn start(paths: Paths, config: Config) -> Result<Core, Error> {
    let key = host_key(&paths.host_key()).map_err(system("read the host's key"))?;
    let receipt_key = host_key(&paths.receipt_key()).map_err(system("read the key of receipts"))?;
    let _ = host_key(&paths.sentinel_key()).map_err(system("read the sentinel's key"))?;
    let rotate_at = config.audit.rotate_megabytes.max(1) << 20;
    let (audit, found) = AuditLog::open(&paths.audit(), key, rotate_at).map_err(system("open the audit chain"))?;
    let ledger: Ledger = ledger::read(&paths.ledger())?;
    let switch: switch::State = ledger::read(&paths.switch())?;
    let places = Places::of(paths.instance()).map_err(system("find the cgroup hierarchy"))?;
    let fence = Fence::open(places)?;
    let executable = std::env::current_exe().map_err(system("find the daemon's executable"))?;
    let mut core = Core {
        facts: config.facts(),
        watch: Watch::new().map_err(system("watch cgroups"))?,
        counters: Counters::new().map_err(|error| system("make the counters")(io::Error::other(error)))?,
        recent: Recent::default(),
        learned: crate::learned::Learned::default(),
        observed: crate::observed::Observed::default(),
        canary: None,
        armed: false,
        contracts: BTreeMap::new(),
        agents: BTreeMap::new(),
        jobs: BTreeMap::new(),
        owners: HashMap::new(),
        serials: HashMap::new(),
        loading: Vec::new(),
        untidy: false,
        deadlines: BTreeMap::new(),
        problems: BTreeMap::new(),
        imported_told: std::collections::HashSet::new(),
        followers: VecDeque::new(),
        registries: Registries::default(),
        errands: Arc::default(),
        rulebook: Arc::default(),
        servers: Vec::new(),
        model: control::model::ModelRules::default(),
        receipt_key: Arc::new(receipt_key),
        models_at: None,
        join: crate::model::join::Join::default(),
        approvals: Approvals::open(&paths.approvals()).map_err(system("read the approvals"))?,
        hooks: Hooks::new(&paths.run()),
        pins: Pins::open(&paths.pins()).map_err(system("make the directory of pins"))?,
        stdio: crate::stdio::Stdio::default(),
        seen: crate::coverage::Seen::default(),
        started_at: Core::now(),
        executable,
        paths,
        config,
        fence,
        ledger,
        switch,
        audit,
        retired: Vec::new(),
    };
    let config = core.config.clone();
    core.registries_anew(&config);
    core.servers_anew();
    core.models_anew();
    if let Err(error) = ledger::set_aside(&core.paths.reserve()) {
        tracing::warn!(%error, "no room could be set aside on the disk");
    }
    // The new programs stand only if they do what they must.
    let program = core.executable.to_string_lossy().into_owned();
    let mut canary = Canary::start(&mut core.fence, &program, crate::CANARY)?;
    let tested = canary.self_test(&core.fence);
    core.canary = Some(canary);
    if let Err(error) = tested {
        core.note(Kind::Stop, json!({ "self_test": error.to_string() }));
        return Err(error.into());
    }
    core.fence.keep();
    core.armed = true;
    core.note(
        Kind::Start,
        json!({ "version": env!("CARGO_PKG_VERSION"), "abi": clawguard_common::ABI,
        "host_did": core.host_did().to_string() }),
    );
    core.note_configuration();
    if let Some(body) = found_record(&found) {
        tracing::error!(%body, "the audit chain was found damaged");
        core.problems.insert("audit-found".into(), format!("the audit chain was found damaged at start: {body}"));
        core.note(Kind::Torn, body);
    }
    Ok(core)
}

/// Loads what agents and jobs are under, points them to it, and applies the switch. Before the daemon says that it is ready.
fn put_contracts_in_force(shared: &Shared) {
    let agents: Vec<config::Agent> = shared.lock().config.agent.clone();
    for agent in &agents {
        let mut core = shared.lock();
        match core.agent(&agent.name) {
            Ok(entry) => {
                entry.mode = agent.mode;
                entry.matches.clone_from(&agent.r#match);
            }
            Err(error) => tracing::error!(agent = %agent.name, message = error.message, "the agent has no place"),
        }
    }
    // A stdio server is an agent of its own, which nobody but the daemon can start.
    let servers: Vec<(AgentName, Option<String>)> = {
        let core = shared.lock();
        let stdio = core.config.mcp.server.iter().filter(|server| server.command.is_some());
        stdio.filter_map(|server| Some((crate::stdio::agent(&server.name).parse().ok()?, server.wpc.clone()))).collect()
    };
    for (name, _) in &servers {
        if let Err(error) = shared.lock().agent(name) {
            tracing::error!(agent = %name, message = error.message, "the stdio server has no place");
        }
    }
    // Agents that an operator made by `run` or `wpc use` are in the ledger only.
    let known: Vec<AgentName> = shared.lock().ledger.agents.keys().cloned().collect();
    for name in known {
        let server = servers.iter().find(|(agent, _)| *agent == name).and_then(|(_, wpc)| wpc.clone());
        let configured = agents.iter().find(|agent| agent.name == name).and_then(|agent| agent.wpc.clone()).or(server);
        if let Err(message) = restore_agent(shared, &name, configured.as_deref()) {
            tracing::error!(agent = %name, message, "no contract is in force for the agent: it reaches nothing");
            if let Ok(entry) = shared.lock().agent(&name) {
                entry.problem = Some(message);
            }
        }
    }
    let mut core = shared.lock();
    if let Err(error) = core.contract_for_gateway() {
        core.problems.insert("gateway".into(), error.message);
    }
    let wanted: std::collections::BTreeSet<Hash> = core.jobs.values().filter_map(|job| job.wpc).collect();
    drop(core);
    let mut loading = Vec::new();
    for hash in wanted {
        match load_by_hash(shared, hash) {
            Ok(loaded) => loading.push(loaded),
            Err(message) => {
                tracing::error!(%hash, message, "a job's own contract is no longer accepted: it reaches nothing");
            }
        }
    }
    let mut core = shared.lock();
    core.point_jobs();
    core.settle_tokens();
    core.apply_switch();
    if let Err(error) = core.fence.drop_left_in_force() {
        tracing::warn!(%error, "tables of the daemon before stay");
    }
    // What changed while nobody was there to see it: contracts, hosts, the configuration.
    if let Err(error) = core.end_disallowed(|_, _| true) {
        tracing::error!(message = error.message, "live connections were not looked through");
    }
    core.bury_all();
    core.drop_unused_contracts();
    core.publish();
}

fn load_by_hash(shared: &Shared, hash: Hash) -> Result<Loading<'_>, String> {
    let bytes = shared.lock().contract_bytes(hash).map_err(|error| error.message)?;
    let judged = judge(bytes, &shared.bench(), Use::Again(hash)).map_err(|error| error.message)?;
    shared.load(&judged).map_err(|error| error.message)
}

/// Puts an agent's contract in force again: the one that was, unless the configuration says something new.
fn restore_agent(shared: &Shared, name: &AgentName, configured: Option<&str>) -> Result<(), String> {
    let entry = shared.lock().ledger.agents.get(name).cloned();
    let last = entry.as_ref().and_then(|entry| entry.wpc.clone());
    let said = entry.and_then(|entry| entry.configured);
    shared.lock().agent(name).map_err(|error| error.message)?;
    match (last, configured) {
        (Some(hash), _) if said.as_deref() == configured => {
            let hash: Hash = hash.parse().map_err(|error| format!("{error}"))?;
            let _loading = load_by_hash(shared, hash)?;
            let pointed = shared.lock().point(name, hash).map(drop);
            pointed.map_err(|error| error.message)
        }
        (_, Some(wanted)) => {
            let bytes = match wanted.parse::<Hash>() {
                Ok(hash) => shared.lock().contract_bytes(hash).map_err(|error| error.message)?,
                Err(_) => fs::read(wanted).map_err(|error| format!("{wanted}: {error}"))?,
            };
            let terms =
                Terms { configured: configured.map(str::to_owned), expected: wanted.parse().ok(), ..Terms::default() };
            shared.put_in_force(name, bytes, &terms).map(drop).map_err(|error| error.message)
        }
        // The configuration no longer names one: what an operator put in force by hand goes with it.
        (Some(_), None) | (None, None) => {
            if let Ok(entry) = shared.lock().agent(name) {
                entry.wpc = None;
            }
            Ok(())
        }
    }
}

impl Core {
    /// Points each job to what it is under: its own contract or its agent's, as far as they are loaded.
    fn point_jobs(&mut self) {
        for job in self.jobs.values() {
            let contract = self.job_contract(job).and_then(|hash| self.contracts.get(&hash));
            self.fence.set_policy(job.enrolled.slot, contract.map_or(0, |contract| contract.slot));
            let observe = self.agents.get(&job.agent).is_some_and(|agent| agent.mode == AgentMode::Observe);
            if !job.over {
                self.fence.set_observe(job.enrolled.slot, observe);
            }
        }
    }
}

/// Takes the configuration anew. If it is not accepted, the old one stays.
fn reload(shared: &Shared, file: &Path) {
    let config = match Config::read(file) {
        Ok(config) => config,
        Err(error) => {
            tracing::error!(%error, "the new configuration is not accepted: the old one stays");
            shared.lock().problems.insert("config".into(), format!("the new configuration is not accepted: {error}"));
            return;
        }
    };
    {
        let mut core = shared.lock();
        core.problems.remove("config");
        core.facts = config.facts();
        core.registries_anew(&config);
        core.config = config;
        core.servers_anew();
        core.models_anew();
        for agent in core.agents.values_mut() {
            *agent = Agent { slot: agent.slot, wpc: agent.wpc, ..Agent::default() };
        }
        // What the facts of the host make of a contract may have changed: all are compiled anew. The old tables stay in
        // force until each agent is pointed to the new ones.
        core.retire_contracts();
    }
    put_contracts_in_force(shared);
    let mut core = shared.lock();
    core.drop_retired_contracts();
    core.route_models();
    core.note_configuration();
    drop(core);
    tracing::info!("the configuration was taken anew");
}

async fn serve(shared: Arc<Shared>, options: &Options, file: &Path) -> Result<(), Error> {
    let (control, channel, ring, watch, pace) = {
        let core = shared.lock();
        let control = listen(&core.paths.control_socket(), 0o660).map_err(system("listen on the control socket"))?;
        let channel = listen(&core.paths.gateway_socket(), 0o666).map_err(system("listen on the gateway's channel"))?;
        let ring = core.fence.ring().try_clone_to_owned().map_err(system("watch the kernel's events"))?;
        let watch = core.watch.as_fd().try_clone_to_owned().map_err(system("watch cgroups"))?;
        (control, channel, ring, watch, core.config.audit.clone())
    };
    let watched = |error| system("wait for events")(error);
    let set = ClockWatch::new().map_err(watched)?;
    let clock = set.as_fd().try_clone_to_owned().map_err(watched)?;
    let (ring, watch, clock) = (
        reactor::watch(ring).map_err(watched)?,
        reactor::watch(watch).map_err(watched)?,
        reactor::watch(clock).map_err(watched)?,
    );
    let mut stop = signal(SignalKind::terminate()).map_err(watched)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(watched)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(watched)?;
    tokio::spawn(control::server::serve(control, crate::api::handler(Arc::clone(&shared))));
    tokio::spawn(serve_channel(channel, Arc::clone(&shared)));
    let mut gateway = (!options.external_gateway).then(Gateway::new);
    let beat = reactor::watch(ticker(HEARTBEAT).map_err(watched)?).map_err(watched)?;
    let mut beats = 0_u64;
    loop {
        tokio::select! {
            ready = beat.readable() => {
                if let Ok(mut ready) = ready {
                    taken(beat.get_ref());
                    ready.clear_ready();
                }
                tend_gateway(gateway.as_mut(), &shared);
                on_beat(&mut shared.lock(), beats, &pace);
                if beats == 0 {
                    tell_systemd(&[NotifyState::Ready, NotifyState::Status("armed")]);
                    tracing::info!("ready");
                }
                tell_systemd(&[NotifyState::Watchdog]);
                beats += 1;
            }
            ready = ring.readable() => {
                if let Ok(mut ready) = ready {
                    ready.clear_ready();
                    while shared.lock().take_events() {
                        tokio::task::yield_now().await;
                    }
                }
            }
            ready = watch.readable() => {
                if let Ok(mut ready) = ready {
                    ready.clear_ready();
                    let mut core = shared.lock();
                    for job in core.watch.changed() {
                        core.stirred(&job);
                    }
                }
            }
            ready = clock.readable() => {
                if let Ok(mut ready) = ready {
                    taken(&set);
                    ready.clear_ready();
                    if let Err(error) = set.arm() {
                        tracing::error!(%error, "changes of the clock are no longer noticed");
                    }
                    shared.lock().clock_was_set();
                }
            }
            _ = hangup.recv() => {
                let (shared, file) = (Arc::clone(&shared), file.to_owned());
                tell_systemd(&[NotifyState::Reloading]);
                let _ = tokio::task::spawn_blocking(move || reload(&shared, &file)).await;
                tell_systemd(&[NotifyState::Ready]);
            }
            _ = stop.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    tell_systemd(&[NotifyState::Stopping]);
    if let Some(mut gateway) = gateway {
        gateway.stop();
    }
    Ok(())
}

fn tell_systemd(states: &[NotifyState<'_>]) {
    // Without systemd there is nobody to tell.
    let _ = sd_notify::notify(false, states);
}

fn tend_gateway(gateway: Option<&mut Gateway>, shared: &Arc<Shared>) {
    let Some(channel) = gateway.and_then(|gateway| gateway.tend(shared)) else { return };
    drop(tokio::spawn(gateway::serve(channel, Arc::clone(shared))));
}

/// What is done once a second; most of it only when there is something to do.
fn on_beat(core: &mut Core, beats: u64, pace: &config::Audit) {
    if std::mem::take(&mut core.untidy) {
        core.drop_unused_contracts();
    }
    core.tell_expiries();
    core.tell_token_ends();
    core.mind_the_clock(beats > 0 && beats.is_multiple_of(CHECKPOINT_BEATS));
    core.tend_registries(beats);
    core.match_agents();
    core.tend_audit();
    if core.problems.contains_key(SWITCH) {
        core.switch_is_saved();
    }
    // What ends by the clock, and whatever nobody told.
    core.publish();
    core.mind_the_gateway();
    core.join_models();
    core.reap_servers();
    core.tend_approvals();
    let every = |seconds: u64| beats.is_multiple_of(seconds.max(1));
    if every(pace.imported_interval_seconds) {
        core.look_for_all_imported();
    }
    if every(pace.interval_seconds) {
        core.end_interval();
        core.save_observed(false);
        core.bury_all();
        core.forget_names();
    } else {
        core.end_full_interval();
    }
    if every(CHECKPOINT_BEATS)
        && let Err(error) = core.audit.checkpoint()
    {
        tracing::error!(%error, "the audit chain could not be signed");
    }
}

/// Serves gateways that come by the channel's socket, two at a time: one that goes while the next one comes.
async fn serve_channel(listener: UnixListener, shared: Arc<Shared>) {
    let places = Arc::new(tokio::sync::Semaphore::new(2));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(HEARTBEAT).await;
            continue;
        };
        let known = sys::peer::peer(&stream).is_ok_and(|peer| gateway::is_gateway(&shared.lock(), &peer));
        if known {
            let shared = Arc::clone(&shared);
            tokio::spawn(async move {
                match stream.into_std() {
                    Ok(stream) => gateway::serve(stream, shared).await,
                    Err(error) => tracing::error!(%error, "the gateway's channel cannot be opened"),
                }
                drop(place);
            });
        } else {
            tracing::warn!("somebody else than the gateway called its channel");
        }
    }
}

/// Listens on a unix socket that is nobody else's from its first moment.
fn listen(path: &Path, mode: u32) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
    let bound = UnixListener::bind(path);
    nix::sys::stat::umask(before);
    let listener = bound?;
    // First the group, then what it may: never the other way round.
    if let Ok(Some(group)) = nix::unistd::Group::from_name("clawguard") {
        std::os::unix::fs::chown(path, None, Some(group.gid.as_raw()))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    Ok(listener)
}
