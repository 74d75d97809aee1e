//! The server: who connects, what is asked for, how long and how much.

use std::{
    convert::Infallible,
    fs::File,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use claw::{
    Value,
    json::{self, Limits as JsonLimits},
};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::{Instant, sleep, timeout},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

use crate::{
    AdminToken, Clock, Ids,
    access::{admin, admin_or_holder},
    body::{self, Payload},
    controls, follow,
    issue::Lane,
    keys::{Directory, Keyring},
    peers::Peers,
    reply::{Answer, Refusal, Reply, Shape},
    scope,
    stall::Stall,
    store::{self, Store},
};

/// The largest body on routes that take no contract.
const SMALL: usize = 64 << 10;
/// Bytes of a request's head: a token in a header has room.
const HEAD: usize = 32 << 10;
/// Contracts that are read at once.
const PUBLISHERS: usize = 2;
/// How often what is over is forgotten.
const PRUNE: Duration = Duration::from_secs(600);

/// Certificate chain and private key, in PEM.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The chain, the server's own certificate first.
    pub certificates: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// How much and how long.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections that are served at once; more wait in the socket's queue.
    pub connections: usize,
    /// Those of one peer among them, where no proxy is in front. Loopback is not counted.
    pub each: usize,
    /// Followers among them.
    pub streams: usize,
    /// Bytes of a request that registers a contract.
    pub wpc_bytes: usize,
    /// KiB of contracts that are on their way to clients.
    pub outgoing_kib: u32,
    /// For a request's head, and for TLS's handshake.
    pub head: Duration,
    /// For a request's body.
    pub body: Duration,
    /// For the body of a request that anybody may make.
    pub stranger: Duration,
    /// Requests on one connection, before it is closed.
    pub requests: usize,
    /// How long a connection may last before an answer closes it.
    pub lifetime: Duration,
    /// From a request's head to its answer.
    pub request: Duration,
    /// For a peer that takes nothing.
    pub stall: Duration,
    /// For a peer that takes an answer slowly.
    pub answer: Duration,
    /// For connections to end when the server stops.
    pub farewell: Duration,
    /// Silence on a stream before it shows that it is there.
    pub keep_alive: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 512,
            each: 64,
            streams: 256,
            wpc_bytes: 8 << 20,
            outgoing_kib: 128 << 10,
            head: Duration::from_secs(10),
            body: Duration::from_secs(30),
            stranger: Duration::from_secs(5),
            requests: 1000,
            lifetime: Duration::from_secs(600),
            request: Duration::from_secs(60),
            stall: Duration::from_secs(30),
            answer: Duration::from_secs(120),
            farewell: Duration::from_secs(5),
            keep_alive: follow::KEEP_ALIVE,
        }
    }
}

/// What a server is started with.
#[derive(Clone)]
pub struct Settings {
    /// The directory of the store and the keys.
    pub data: PathBuf,
    /// Where to listen.
    pub listen: SocketAddr,
    /// Without it, HTTP is served in the clear.
    pub tls: Option<Tls>,
    /// Whether a proxy speaks TLS in front of it.
    pub behind_proxy: bool,
    /// The administrator's token.
    pub admin: AdminToken,
    /// The names under which tokens are for this server.
    pub audiences: Vec<String>,
    /// How much and how long.
    pub limits: Limits,
    /// The time of day.
    pub clock: Clock,
    /// The tokens' ids.
    pub ids: Ids,
}

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data directory is open to others, or in use.
    #[error("{0}: {1}")]
    Data(PathBuf, &'static str),
    /// A file or socket.
    #[error("{0}: {1}")]
    System(String, #[source] io::Error),
    /// In the clear, for everybody to read.
    #[error(
        "{0} is not loopback, and tokens would pass it in the clear: give --tls-cert and --tls-key, or --behind-proxy"
    )]
    Clear(SocketAddr),
    /// Certificate or key.
    #[error("{0}: {1}")]
    Tls(PathBuf, String),
    /// The store.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// What every request needs.
pub(crate) struct State {
    pub(crate) store: Store,
    pub(crate) keys: Keyring,
    pub(crate) admin: AdminToken,
    pub(crate) audiences: Vec<String>,
    pub(crate) limits: Limits,
    pub(crate) clock: Clock,
    pub(crate) ids: Ids,
    pub(crate) publishers: Semaphore,
    pub(crate) outgoing: Arc<Semaphore>,
    pub(crate) streams: Arc<Semaphore>,
    stop: watch::Sender<bool>,
    /// Held as long as this server lives: a second one on the same store would not tell this one's followers.
    _lock: File,
}

impl State {
    /// Until the server is to stop.
    pub(crate) async fn stopping(&self) {
        // The sender lives as long as the state.
        let _ = self.stop.subscribe().wait_for(|stop| *stop).await;
    }
}

/// A server that listens.
pub struct Server {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    /// Connections of one peer; with a proxy in front all are the proxy's.
    each: usize,
    state: Arc<State>,
}

impl Server {
    /// Opens the store, reads the keys (or makes them) and listens.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn bind(settings: Settings) -> Result<Self, Error> {
        if settings.tls.is_none() && !settings.behind_proxy && !settings.listen.ip().is_loopback() {
            return Err(Error::Clear(settings.listen));
        }
        let lock = lock(&settings.data)?;
        let system = |what: String| move |error| Error::System(what, error);
        let keys = Directory::open(&settings.data)
            .and_then(Keyring::open)
            .map_err(system(format!("the keys under {}", settings.data.display())))?;
        let tls = settings.tls.as_ref().map(acceptor).transpose()?;
        let store = Store::open(&settings.data)?;
        let listener = TcpListener::bind(settings.listen).await.map_err(system(settings.listen.to_string()))?;
        let limits = settings.limits;
        let each = if settings.behind_proxy { usize::MAX } else { limits.each };
        let state = State {
            store,
            keys,
            admin: settings.admin,
            audiences: settings.audiences,
            clock: settings.clock,
            ids: settings.ids,
            publishers: Semaphore::new(PUBLISHERS),
            outgoing: Arc::new(Semaphore::new(limits.outgoing_kib as usize)),
            streams: Arc::new(Semaphore::new(limits.streams)),
            limits,
            stop: watch::Sender::new(false),
            _lock: lock,
        };
        Ok(Self { listener, tls, each, state: Arc::new(state) })
    }

    /// Where it listens.
    ///
    /// # Errors
    ///
    /// If the system does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop` is done; then ends what is under way and commits what waits.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let Self { listener, tls, each, state } = self;
        let places = Arc::new(Semaphore::new(state.limits.connections));
        let peers = Arc::new(Peers::default());
        let pruning = tokio::spawn(prune(Arc::clone(&state)));
        tokio::pin!(stop);
        loop {
            let accepted = async {
                let place = Arc::clone(&places).acquire_owned().await;
                (place, listener.accept().await)
            };
            let (place, accepted) = tokio::select! {
                accepted = accepted => accepted,
                () = &mut stop => break,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let Some(seat) = peers.seat(peer.ip(), each) else {
                        tracing::debug!(%peer, "a peer has as many connections as one may have");
                        continue;
                    };
                    let (state, tls) = (Arc::clone(&state), tls.clone());
                    tokio::spawn(async move {
                        admit(stream, tls, state).await;
                        drop((place, seat));
                    });
                }
                // Out of descriptors, or the peer is gone already: neither ends the server.
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
        drop(listener);
        pruning.abort();
        state.stop.send_replace(true);
        let all = u32::try_from(state.limits.connections).unwrap_or(u32::MAX);
        if timeout(state.limits.farewell, places.acquire_many(all)).await.is_err() {
            tracing::warn!("connections were cut off");
        }
        state.store.close();
    }
}

/// The data directory, for its owner alone, and for one server at a time.
fn lock(data: &Path) -> Result<File, Error> {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    let system = |error| Error::System(data.display().to_string(), error);
    sys::file::directory(data, 0o700).map_err(system)?;
    if std::fs::metadata(data).map_err(system)?.permissions().mode() & 0o077 != 0 {
        return Err(Error::Data(
            data.to_owned(),
            "the keys lie here, and others than its owner may look in: chmod 700",
        ));
    }
    let path = data.join("lock");
    let file = File::options().write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(system)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            Err(Error::Data(data.to_owned(), "another server works on this directory"))
        }
        Err(std::fs::TryLockError::Error(error)) => Err(system(error)),
    }
}

fn acceptor(tls: &Tls) -> Result<TlsAcceptor, Error> {
    let certificates = CertificateDer::pem_file_iter(&tls.certificates)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| Error::Tls(tls.certificates.clone(), error.to_string()))?;
    let wrong = |error: &dyn std::fmt::Display| Error::Tls(tls.key.clone(), error.to_string());
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|error| wrong(&error))?;
    let config = || -> Result<ServerConfig, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(certificates, key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    };
    Ok(TlsAcceptor::from(Arc::new(config().map_err(|error| wrong(&error))?)))
}

async fn prune(state: Arc<State>) {
    loop {
        match state.store.prune(state.clock.seconds()).await {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "records of tokens that expired more than a day ago were forgotten"),
            Err(error) => tracing::error!(%error, "what is over could not be forgotten"),
        }
        sleep(PRUNE).await;
    }
}

async fn admit(stream: TcpStream, tls: Option<TlsAcceptor>, state: Arc<State>) {
    // Small answers and events leave at once.
    let _ = stream.set_nodelay(true);
    let stream = Stall::new(stream, state.limits.stall);
    match tls {
        None => connection(stream, state).await,
        Some(tls) => match timeout(state.limits.head, tls.accept(stream)).await {
            Ok(Ok(stream)) => connection(stream, state).await,
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
            Err(_) => tracing::debug!("a TLS handshake took too long"),
        },
    }
}

async fn connection(stream: impl AsyncRead + AsyncWrite + Unpin, state: Arc<State>) {
    let (since, left) = (Instant::now(), AtomicUsize::new(state.limits.requests));
    let service = service_fn(|request| {
        let state = Arc::clone(&state);
        // One at a time; what a client sends ahead is not begun before.
        let last = left.fetch_sub(1, Ordering::Relaxed) <= 1;
        async move {
            let mut response = answer(&state, request).await;
            if last || since.elapsed() >= state.limits.lifetime {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(state.limits.head)
        .max_header_size(HEAD)
        .max_buf_size(2 * HEAD)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = state.stopping() => {
            served.as_mut().graceful_shutdown();
            match timeout(state.limits.farewell, served).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

async fn answer(state: &Arc<State>, request: Request<Incoming>) -> Response<Payload> {
    let path = request.uri().path();
    let contracts = path == "/v1/wpc" || path.starts_with("/v1/wpc/");
    let shape = if contracts { Shape::Controls } else { Shape::Scope };
    let reply = match timeout(state.limits.request, route(state, request)).await {
        Ok(reply) => reply,
        Err(_) => Err(Refusal::busy("the request took too long")),
    };
    respond(state, reply, shape, contracts)
}

async fn route(state: &Arc<State>, request: Request<Incoming>) -> Answer {
    let (head, incoming) = request.into_parts();
    let (headers, path) = (&head.headers, head.uri.path());
    let query = || query(head.uri.query());
    let (patience, stranger) = (state.limits.body, state.limits.body.min(state.limits.stranger));
    // Who may not is told so before a body is read.
    match (&head.method, path) {
        (&Method::GET, "/health") => controls::health(state),
        (&Method::GET, "/v1/did") => scope::did(state),
        (&Method::GET, "/v1/jwks") => scope::jwks(state),
        (&Method::GET, "/v1/keys/rotation-contract") => scope::rotation(state),
        (&Method::POST, "/v1/tokens/issue" | "/v1/tokens/issue/canonical") => {
            let who = admin(state, headers)?;
            let lane = if path.ends_with("/canonical") { Lane::Canonical } else { Lane::Legacy };
            scope::issue(state, &object_of(incoming, patience).await?, lane, &who).await
        }
        (&Method::POST, "/v1/tokens/revoke") => {
            let who = admin_or_holder(state, headers, "control:token:revoke", scope_nobody())?;
            scope::revoke(state, &object_of(incoming, patience).await?, &who).await
        }
        (&Method::POST, "/v1/tokens/introspect") => scope::introspect(state, &object_of(incoming, stranger).await?),
        (&Method::POST, "/v1/tokens/bind") => scope::bind(state, &object_of(incoming, stranger).await?).await,
        (&Method::GET, "/v1/revocations/events") => {
            admin_or_holder(state, headers, "control:audit:read", scope_nobody())?;
            scope::events(state, &query(), false).await
        }
        (&Method::GET, "/v1/revocations/stream") => {
            let who = admin_or_holder(state, headers, "control:audit:read", scope_nobody())?;
            scope::stream(state, headers, &query(), who).await
        }
        (&Method::POST, "/v1/wpc") => {
            let who = admin_or_holder(state, headers, "control:policy:update", controls::nobody())?;
            let body = body::read(incoming, state.limits.wpc_bytes, state.limits.body).await?;
            controls::register(state, body, &who).await
        }
        (&Method::PUT, path) if path.starts_with("/v1/wpc/") => {
            let who = admin(state, headers)?;
            let body = body::read(incoming, state.limits.wpc_bytes, state.limits.body).await?;
            controls::deposit(state, &path["/v1/wpc/".len()..], body, &who).await
        }
        (&Method::GET, path) if path.starts_with("/v1/wpc/") => controls::fetch(state, &path["/v1/wpc/".len()..]).await,
        _ => Err(Refusal::new(StatusCode::NOT_FOUND, "NOT_FOUND", "Not found")),
    }
}

fn scope_nobody() -> Refusal {
    Refusal::unauthorized("TOKEN_REQUIRED", "Canonical CST token is required (X-CST or X-Scoped-Token)")
}

/// The body of a small request.
async fn object_of(incoming: Incoming, patience: Duration) -> Result<Value, Refusal> {
    let body = body::read(incoming, SMALL, patience).await?;
    let value = json::parse(&body, JsonLimits { bytes: SMALL, depth: 8 })
        .map_err(|error| Refusal::bad("INVALID_JSON", format!("Request body must be valid JSON: {error}")))?;
    match value {
        Value::Object(_) => Ok(value),
        _ => Err(Refusal::bad("INVALID_REQUEST", "Request body must be a JSON object")),
    }
}

/// The query's names and values. None of those that are looked for needs an escape.
fn query(query: Option<&str>) -> Vec<(String, String)> {
    let pair = |part: &str| part.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    query.unwrap_or_default().split('&').filter_map(pair).collect()
}

fn respond(state: &State, answer: Answer, shape: Shape, contracts: bool) -> Response<Payload> {
    let until = Instant::now() + state.limits.answer;
    let whole = |body: bytes::Bytes, room| Payload::Whole { left: body, until, room };
    let json = HeaderValue::from_static("application/json; charset=utf-8");
    let (status, kind, cache, payload) = match answer {
        Ok(Reply::Json { status, body, cache, room }) => (status, json, cache, whole(body, room)),
        Ok(Reply::Events(events)) => {
            let kind = HeaderValue::from_static("text/event-stream");
            (StatusCode::OK, kind, Some("no-store"), Payload::Events(events))
        }
        Err(refusal) => (refusal.status, json, Some("no-store"), whole(refusal.write(shape).into(), None)),
    };
    let mut response = Response::new(payload);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, kind);
    // A token must not stay in a cache on the way.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(cache.unwrap_or("no-store")));
    if contracts {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    }
    response
}
