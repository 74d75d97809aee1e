//! What becomes of a question. Nothing is told before the daemon has opened it for the job, each time anew.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use control::channel::{Ask, Named, Names, Told};
use hickory_proto::rr::RecordType;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};

use super::{
    cache::{Cache, Key, Known},
    question::{self, Question, Read, Reply},
    rate::{NewNames, Place, Places, Rate, lock},
    tunnel, upstream,
};

/// How long the daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Questions under way, of all jobs and of one.
const MOST_QUESTIONS: (usize, usize) = (2048, 256);
/// Of them, those that resolvers are being asked.
const MOST_UPSTREAM: (usize, usize) = (256, 32);
/// Answers that are kept, of all jobs and of one.
const MOST_KEPT: (usize, usize) = (65_536, 4096);
/// How often it is told, at most, that a job asks too much.
const TOLD_EVERY: Duration = Duration::from_secs(1);

const TOO_MANY: &str = "too many questions a second";
const TOO_MANY_NEW: &str = "too many new names below a wildcard in a minute";
const LIKE_DATA: &str = "a name below a wildcard that looks as if it carried data";
const NO_HOST: &str = "no name of a host";

/// Who decides: the daemon, or what stands for it in a test.
pub(crate) trait Daemon: Send + Sync + 'static {
    /// Asks and waits for the answer. May be given up at any time.
    fn ask(&self, ask: Ask) -> impl Future<Output = io::Result<Told>> + Send;
}

/// What a look-up found; it is shared by all who wait for it.
#[derive(Clone)]
enum Found {
    /// Resolvers answered; it is to be learnt before it is told.
    Known(Known),
    /// The daemon has opened these itself.
    Open(Arc<[IpAddr]>, u32),
    Prohibited,
    Failed,
}

/// What a job asked too much, since the daemon was last told.
struct Excess {
    /// The first of them.
    name: String,
    count: u64,
}

/// What becomes of a message at once.
pub(super) enum Step {
    /// Nothing is answered.
    Drop,
    /// An error, as bytes: it was no question.
    Error(Vec<u8>),
    /// The answer is known without anybody being asked.
    Settled(Box<Question>, Reply),
    /// The daemon is to be asked; the place is held until it was.
    Ask(Box<Question>, Place),
}

/// The guard's decisions, without its sockets.
pub(super) struct Guard<D> {
    daemon: Arc<D>,
    resolvers: Vec<SocketAddr>,
    /// The shortest that addresses are good, in seconds.
    ttl_floor: u32,
    rate: Mutex<Rate>,
    new_names: Mutex<NewNames>,
    cache: Mutex<Cache>,
    looked_up: Mutex<HashMap<Key, watch::Receiver<Option<Found>>>>,
    questions: Places,
    upstream: Places,
    excess: Mutex<HashMap<(u32, &'static str), Excess>>,
    exceeded: Notify,
}

impl<D: Daemon> Guard<D> {
    pub(super) fn new(names: Names, daemon: Arc<D>) -> Self {
        Self {
            daemon,
            resolvers: names.resolvers,
            ttl_floor: names.ttl_floor_seconds,
            rate: Mutex::new(Rate::new(names.per_second)),
            new_names: Mutex::new(NewNames::new(names.new_names_per_minute)),
            cache: Mutex::new(Cache::new(MOST_KEPT.0, MOST_KEPT.1)),
            looked_up: Mutex::default(),
            questions: Places::new(MOST_QUESTIONS.0, MOST_QUESTIONS.1),
            upstream: Places::new(MOST_UPSTREAM.0, MOST_UPSTREAM.1),
            excess: Mutex::default(),
            exceeded: Notify::new(),
        }
    }

    /// Judges a message as far as that takes nobody else.
    pub(super) fn receive(&self, job: u32, message: &[u8]) -> Step {
        let may = lock(&self.rate).take(job, Instant::now());
        match question::read(message) {
            Read::Question(question) if !may => {
                self.exceed(job, TOO_MANY, || question.shown());
                Step::Settled(question, Reply::Refused)
            }
            Read::Question(question) => {
                if let Some(reply) = question.settled() {
                    return Step::Settled(question, reply);
                }
                match self.questions.take(job) {
                    Some(place) => Step::Ask(question, place),
                    _ => Step::Settled(question, Reply::Failed),
                }
            }
            Read::Error(answer) if may => Step::Error(answer),
            Read::Error(_) | Read::Nothing => {
                if !may {
                    self.exceed(job, TOO_MANY, String::new);
                }
                Step::Drop
            }
        }
    }

    /// What a job is answered.
    pub(super) async fn reply(self: &Arc<Self>, job: u32, question: &Question) -> Reply {
        let Some(name) = question.name() else {
            self.exceed(job, NO_HOST, || question.shown());
            return Reply::Prohibited;
        };
        let v6 = match question.kind() {
            RecordType::A => false,
            RecordType::AAAA => true,
            other => return self.of_no_address(job, name, other).await,
        };
        let key = Key { job, name: name.into(), v6 };
        let known = lock(&self.cache).get(&key, Instant::now());
        let found = match known {
            Some(known) => Found::Known(known),
            None => self.look_up_once(&key).await,
        };
        let found = match found {
            Found::Known(known) => match self.learn(&key, &known).await {
                Some(reply) => return reply,
                // The slot's former job had asked for it.
                None => {
                    lock(&self.cache).remove(&key);
                    self.look_up_once(&key).await
                }
            },
            other => other,
        };
        match found {
            Found::Known(known) => self.learn(&key, &known).await.unwrap_or(Reply::Failed),
            Found::Open(addresses, ttl) => Reply::Addresses(of_family(addresses.iter().copied(), v6), ttl),
            Found::Prohibited => Reply::Prohibited,
            Found::Failed => Reply::Failed,
        }
    }

    /// Keys, hints of addresses and texts are told of no name: an address that is not learnt is not open, and texts carry
    /// anything. So nobody else is asked for them.
    async fn of_no_address(&self, job: u32, name: String, kind: RecordType) -> Reply {
        match self.ask(Ask::Name { job, name, kind: kind.into() }).await {
            Named::Resolve { .. } | Named::Open { .. } => Reply::Addresses(Vec::new(), 0),
            Named::Refused => Reply::Prohibited,
            Named::Failed | Named::Stale => Reply::Failed,
        }
    }

    /// Looks a name up, or waits for whoever is at it for the same job.
    async fn look_up_once(self: &Arc<Self>, key: &Key) -> Found {
        let mut found = {
            let mut looked_up = lock(&self.looked_up);
            match looked_up.get(key) {
                Some(found) => found.clone(),
                None => {
                    let (sender, receiver) = watch::channel(None);
                    looked_up.insert(key.clone(), receiver.clone());
                    // In a task of its own: others wait for it, even if this one does not.
                    tokio::spawn(Arc::clone(self).look_up(key.clone(), sender));
                    receiver
                }
            }
        };
        let found = found.wait_for(Option::is_some).await;
        found.ok().and_then(|found| found.clone()).unwrap_or(Found::Failed)
    }

    async fn look_up(self: Arc<Self>, key: Key, waiting: watch::Sender<Option<Found>>) {
        let kind = if key.v6 { RecordType::AAAA } else { RecordType::A };
        let ask = Ask::Name { job: key.job, name: key.name.to_string(), kind: kind.into() };
        let found = match self.ask(ask).await {
            Named::Resolve { wildcard: true, .. } if !self.may_leave(&key) => Found::Prohibited,
            Named::Resolve { key: number, .. } => self.resolve(&key, number).await,
            Named::Open { addresses, ttl_seconds } => Found::Open(addresses.into(), ttl_seconds),
            Named::Refused => Found::Prohibited,
            Named::Failed | Named::Stale => Found::Failed,
        };
        if let Found::Known(known) = &found {
            lock(&self.cache).put(key.clone(), known.clone());
        }
        lock(&self.looked_up).remove(&key);
        // Whoever asked may have given up.
        let _ = waiting.send(Some(found));
    }

    /// Whether a name that only a wildcard allows may go to whoever runs that domain.
    fn may_leave(&self, key: &Key) -> bool {
        if tunnel::looks_like_data(&key.name) {
            self.exceed(key.job, LIKE_DATA, || key.name.to_string());
            return false;
        }
        let may = lock(&self.new_names).take(key.job, &key.name, Instant::now());
        if !may {
            self.exceed(key.job, TOO_MANY_NEW, || key.name.to_string());
        }
        may
    }

    async fn resolve(&self, key: &Key, number: u64) -> Found {
        let Some(_place) = self.upstream.take(key.job) else { return Found::Failed };
        match upstream::ask(&self.resolvers, &key.name, key.v6).await {
            Some(answered) => {
                let floor = if answered.addresses.is_empty() { 0 } else { self.ttl_floor };
                Found::Known(Known {
                    number,
                    addresses: answered.addresses.into(),
                    missing: answered.missing,
                    until: Instant::now() + Duration::from_secs(answered.ttl_seconds.max(floor).into()),
                })
            }
            None => Found::Failed,
        }
    }

    /// Lets the daemon open what resolvers answered, and tells what it opened; nothing if that was another job's answer.
    async fn learn(&self, key: &Key, known: &Known) -> Option<Reply> {
        let ask = Ask::Learn {
            job: key.job,
            key: known.number,
            name: key.name.to_string(),
            addresses: known.addresses.to_vec(),
            ttl_seconds: known.seconds_left(Instant::now()).unwrap_or(1),
        };
        Some(match self.ask(ask).await {
            Named::Open { .. } if known.missing => Reply::Missing,
            Named::Open { addresses, ttl_seconds } => {
                Reply::Addresses(of_family(addresses.into_iter(), key.v6), ttl_seconds)
            }
            Named::Refused => Reply::Prohibited,
            Named::Resolve { .. } | Named::Failed => Reply::Failed,
            Named::Stale => return None,
        })
    }

    /// Which job asks from a port of `::1`; none if the daemon does not say so in time.
    pub(super) async fn caller(&self, port: u16, udp: bool) -> Option<u32> {
        match timeout(PATIENCE, self.daemon.ask(Ask::Caller { port, udp })).await {
            Ok(Ok(Told::Caller(job))) => job,
            _ => None,
        }
    }

    /// Asks about a name; what does not come, or does not come in time, has failed.
    async fn ask(&self, ask: Ask) -> Named {
        match timeout(PATIENCE, self.daemon.ask(ask)).await {
            Ok(Ok(Told::Named(named))) => named,
            Ok(Ok(_)) => Named::Failed,
            Ok(Err(error)) => {
                tracing::debug!(%error, "the daemon was not asked about a name");
                Named::Failed
            }
            Err(_) => {
                tracing::debug!("the daemon does not answer about a name in time");
                Named::Failed
            }
        }
    }

    fn exceed(&self, job: u32, why: &'static str, name: impl FnOnce() -> String) {
        lock(&self.excess).entry((job, why)).or_insert_with(|| Excess { name: name(), count: 0 }).count += 1;
        self.exceeded.notify_one();
    }

    /// Tells the daemon what was too much, for ever.
    pub(super) async fn tell_excess(&self) {
        loop {
            self.exceeded.notified().await;
            let excess = std::mem::take(&mut *lock(&self.excess));
            for ((job, why), Excess { name, count }) in excess {
                let ask = Ask::Excess { job, name, why: why.into(), count };
                if !matches!(timeout(PATIENCE, self.daemon.ask(ask)).await, Ok(Ok(_))) {
                    tracing::warn!(job, count, why, "the daemon was not told what a job asked too much");
                }
            }
            sleep(TOLD_EVERY).await;
        }
    }
}

fn of_family(addresses: impl Iterator<Item = IpAddr>, v6: bool) -> Vec<IpAddr> {
    addresses.filter(|address| address.is_ipv6() == v6).collect()
}
