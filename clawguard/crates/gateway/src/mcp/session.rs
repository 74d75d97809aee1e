//! What a client and a server have between them: a session of the era that has sessions, or what a job has with a server in the
//! one that has none.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use control::channel::Ask;
use hyper::header::HeaderValue;
use mcp::{decide::Judged, message::Id};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use super::{
    call::Pending,
    catalog::Catalog,
    limits::Place,
    standing::Standing,
    task::Task,
    upstream::{Duplex, Failure},
};
use crate::channel::Channel;

/// How long a session may lie unused.
const IDLE: Duration = Duration::from_secs(4 * 3600);
/// Requests of a server's that a client has not answered yet.
const MOST_ASKED: usize = 64;
/// Refusals on their way to a server at once.
const MOST_REFUSALS: usize = 8;
/// Calls of one session that wait for another stream.
const MOST_KEPT: usize = 1024;
/// Tasks of one session.
const MOST_TASKS: usize = 1024;

/// The way to the server.
pub(crate) enum Link {
    /// Requests of their own.
    Http,
    /// One connection for all.
    Duplex(Arc<Duplex>),
}

/// A session.
pub(crate) struct Session {
    /// The gateway's name for it; empty in the era without sessions.
    pub(crate) name: Box<str>,
    pub(crate) slot: u32,
    pub(crate) key: u64,
    pub(crate) server: Box<str>,
    pub(crate) link: Link,
    /// The server's own name for it.
    pub(crate) upstream: Option<HeaderValue>,
    pub(crate) catalog: Catalog,
    state: Mutex<State>,
    refusals: Arc<Semaphore>,
    /// The stdio server that belongs to it alone, and who can stop it.
    process: Option<(String, Arc<Channel>)>,
    _place: Option<Place>,
}

struct State {
    used: Instant,
    asked: HashSet<Id>,
    pending: HashMap<Id, Pending>,
    tasks: HashMap<Box<str>, Task>,
    streams: u32,
}

/// Whose it is, and with whom.
#[derive(Clone, Debug)]
pub(crate) struct Whose {
    pub(crate) slot: u32,
    pub(crate) key: u64,
    pub(crate) server: Box<str>,
}

impl Session {
    pub(crate) fn new(
        name: Box<str>,
        whose: Whose,
        link: Link,
        upstream: Option<HeaderValue>,
        process: Option<(String, Arc<Channel>)>,
        place: Option<Place>,
    ) -> Self {
        Self {
            name,
            slot: whose.slot,
            key: whose.key,
            server: whose.server,
            link,
            upstream,
            catalog: Catalog::default(),
            state: Mutex::new(State {
                used: Instant::now(),
                asked: HashSet::new(),
                pending: HashMap::new(),
                tasks: HashMap::new(),
                streams: 0,
            }),
            refusals: Arc::new(Semaphore::new(MOST_REFUSALS)),
            process,
            _place: place,
        }
    }

    /// The same under the names that both ends give it.
    pub(crate) fn named(mut self, name: Box<str>, upstream: Option<HeaderValue>) -> Self {
        self.name = name;
        self.upstream = upstream;
        self
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why there is no way to the server any more, if so.
    pub(crate) fn ended(&self) -> Option<Failure> {
        match &self.link {
            Link::Http => None,
            Link::Duplex(duplex) => duplex.ended(),
        }
    }

    /// Notes a request of the server's that the client is to answer. Answers whether there is room.
    pub(crate) fn ask(&self, id: Id) -> bool {
        let mut state = self.lock();
        state.asked.len() < MOST_ASKED && state.asked.insert(id)
    }

    /// Whether the client may answer this: once.
    pub(crate) fn answers(&self, id: &Id) -> bool {
        self.lock().asked.remove(id)
    }

    /// A place for the refusal of what the server asks, if it takes them in.
    pub(crate) fn refusal(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.refusals).try_acquire_owned().ok()
    }

    /// Keeps a call whose response may come by another stream.
    pub(crate) fn keep(&self, id: Id, pending: Pending) {
        let mut state = self.lock();
        if state.pending.len() < MOST_KEPT {
            state.pending.insert(id, pending);
        }
    }

    /// The call to which a response belongs.
    pub(crate) fn take(&self, id: &Id) -> Option<Pending> {
        self.lock().pending.remove(id)
    }

    /// Remembers which call a task came of.
    pub(crate) fn task(&self, id: &str, task: Task) {
        let mut state = self.lock();
        if state.tasks.len() < MOST_TASKS {
            state.tasks.insert(id.into(), task);
        }
    }

    /// The call that a task came of.
    pub(crate) fn call_of(&self, task: &str) -> Option<Arc<Judged>> {
        self.lock().tasks.get(task).map(|task| Arc::clone(&task.call.judged))
    }

    /// Notes that a task has ended: there is nothing to cancel any more.
    pub(crate) fn task_over(&self, task: &str) {
        if let Some(task) = self.lock().tasks.get_mut(task) {
            task.over = true;
        }
    }

    /// The tasks that go on although what is in force now does not allow their calls any more, each of them once.
    fn disallowed_tasks(&self, standing: &Standing) -> Vec<(Box<str>, Task)> {
        let mut found = Vec::new();
        for (id, task) in &mut self.lock().tasks {
            if !task.over && !task.call.stands(standing) {
                found.push((id.clone(), task.clone()));
                task.over = true;
            }
        }
        found
    }

    /// Counts a stream that is open.
    pub(crate) fn stream(self: &Arc<Self>) -> Stream {
        self.lock().streams += 1;
        Stream(Arc::clone(self))
    }
}

/// A stream that is open.
pub(crate) struct Stream(Arc<Session>);

impl Drop for Stream {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.streams = state.streams.saturating_sub(1);
        state.used = Instant::now();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let Some((id, daemon)) = self.process.take() else { return };
        // The daemon would notice at the job's end; but why should the process wait for that.
        tokio::spawn(async move {
            if let Err(error) = daemon.ask(Ask::Stop { id }).await {
                tracing::debug!(%error, "a stdio server was not stopped");
            }
        });
    }
}

/// A job's number and a server's name.
type Pair = (u64, Box<str>);

/// All sessions.
#[derive(Default)]
pub(crate) struct Sessions {
    named: Mutex<HashMap<Box<str>, Arc<Session>>>,
    /// Of the era without sessions: one for a job and a server.
    shared: Mutex<HashMap<Pair, Arc<Session>>>,
    opening: Mutex<HashMap<Pair, Opening>>,
}

/// Held while a way to a server is made; when that failed last, and why.
type Opening = Arc<tokio::sync::Mutex<Option<(Instant, Failure)>>>;

impl Sessions {
    /// A session's name that nobody can guess.
    pub(crate) fn name() -> std::io::Result<Box<str>> {
        let mut chance = [0_u8; 24];
        getrandom::fill(&mut chance).map_err(|error| std::io::Error::other(error.to_string()))?;
        Ok(claw::encoding::encode(&chance).into())
    }

    pub(crate) fn add(&self, session: &Arc<Session>) {
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        named.insert(session.name.clone(), Arc::clone(session));
    }

    /// The session of a name, if it is this job's and with this server.
    pub(crate) fn find(&self, name: &str, whose: &Whose) -> Option<Arc<Session>> {
        let named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        let session = named.get(name)?;
        if (session.key, session.slot, &session.server) != (whose.key, whose.slot, &whose.server) {
            return None;
        }
        session.lock().used = Instant::now();
        Some(Arc::clone(session))
    }

    pub(crate) fn remove(&self, session: &Session) {
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        named.remove(&session.name);
    }

    /// What a job has with a server in the era without sessions.
    pub(crate) fn shared(&self, whose: &Whose) -> Option<Arc<Session>> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (whose.key, whose.server.clone());
        let session = shared.get(&key)?;
        if session.ended().is_some() {
            shared.remove(&key);
            return None;
        }
        Some(Arc::clone(session))
    }

    /// The right to make a way to a server, for one at a time.
    pub(crate) fn opening(&self, whose: &Whose) -> Opening {
        let mut opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(opening.entry((whose.key, whose.server.clone())).or_default())
    }

    /// Makes this the one, unless another was quicker; answers the one that is.
    pub(crate) fn share(&self, session: Arc<Session>) -> Arc<Session> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(shared.entry((session.key, session.server.clone())).or_insert(session))
    }

    /// Cancels the tasks whose calls are not allowed any more. Answers how many.
    pub(crate) fn cancel_tasks(&self, standing: &Standing) -> u64 {
        let named = self.named.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect::<Vec<_>>();
        let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect::<Vec<_>>();
        let mut cancelled = 0;
        for session in named.into_iter().chain(shared) {
            let server = standing.servers.get(&*session.server);
            for (id, task) in session.disallowed_tasks(standing) {
                cancelled += 1;
                // A server that is gone from the configuration cannot be told.
                if let Some(server) = server {
                    task.cancel(&id, Arc::clone(&session), Arc::clone(server));
                }
            }
        }
        cancelled
    }

    /// Drops the sessions of jobs that are over and of servers that are gone, those that ended, and those that lie unused.
    pub(crate) fn tidy(&self, standing: &Standing) {
        let stays = |session: &Session| {
            standing.job(session.slot, session.key).is_some()
                && standing.servers.contains_key(&*session.server)
                && session.ended().is_none()
        };
        let unused = |session: &Session| {
            let state = session.lock();
            state.streams == 0 && state.used.elapsed() > IDLE
        };
        let overdue = |session: &Session| {
            let now = Instant::now();
            let mut state = session.lock();
            let over = |pending: &Pending| pending.until < now || pending.is_killed();
            state.pending.retain(|_, pending| !over(pending));
        };
        let keys: HashSet<u64> = standing.rules.jobs.iter().map(|job| job.key).collect();
        self.opening.lock().unwrap_or_else(PoisonError::into_inner).retain(|(key, _), _| keys.contains(key));
        // Dropped after the lock: what drops with a session may take a while.
        let mut gone = Vec::new();
        {
            let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
            named.retain(|_, session| {
                overdue(session);
                let keep = stays(session) && !unused(session);
                if !keep {
                    gone.push(Arc::clone(session));
                }
                keep
            });
            let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
            shared.retain(|_, session| {
                let keep = stays(session);
                if !keep {
                    gone.push(Arc::clone(session));
                }
                keep
            });
        }
        for session in &gone {
            // Calls that wait for another stream end with it.
            session.lock().pending.clear();
        }
    }
}
