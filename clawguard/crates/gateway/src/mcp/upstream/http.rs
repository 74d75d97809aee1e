//! Requests to one HTTP server: to the addresses that the host gives it, under the host's own credentials, redirects never followed.

use std::{
    future::poll_fn,
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Uri,
    body::Incoming,
    client::conn::http1::{SendRequest, handshake},
    header::{HOST, HeaderName, HeaderValue},
    http::uri::Scheme,
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

use super::Failure;

/// How long connecting may take, TLS included.
const CONNECTING: Duration = Duration::from_secs(5);
/// Connections that wait for their next request, at the most.
const MOST_IDLE: usize = 128;
/// Bytes that are passed on together.
const MOST_TOGETHER: usize = 16 << 10;
/// Pieces that leave together: each costs a turn, in which nothing leaves and nobody looks for a kill.
const PIECES_TOGETHER: usize = 64;

type Sender = SendRequest<Full<Bytes>>;

/// One server.
pub(crate) struct Http {
    host: String,
    port: u16,
    addresses: Vec<IpAddr>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    /// The path with its query, by which requests are made.
    target: Uri,
    /// What every request has: the host, and the host's own headers.
    headers: HeaderMap,
    idle: Mutex<Vec<Sender>>,
}

/// A connection's answer. The connection is used again once the answer was read to its end.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    body: Incoming,
    sender: Option<Sender>,
    server: Arc<Http>,
    /// What was read ahead of its turn.
    ahead: Option<Result<Option<Bytes>, Failure>>,
}

impl Answer {
    /// The next bytes; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        if let Some(ahead) = self.ahead.take() {
            return ahead;
        }
        loop {
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Some(Err(error)) => {
                    self.sender = None;
                    return Err(Failure::Broken(error.to_string()));
                }
                None => {
                    if let Some(sender) = self.sender.take() {
                        self.server.keep(sender);
                    }
                    return Ok(None);
                }
            }
        }
    }

    /// A piece, with those behind it that are there already: what a server writes in many small ones need not be passed on in as many.
    /// What is not there yet is not waited for.
    pub(crate) async fn together(&mut self, piece: Bytes) -> Bytes {
        if piece.len() >= MOST_TOGETHER {
            return piece;
        }
        let mut all = BytesMut::new();
        for _ in 0..PIECES_TOGETHER {
            // The connection hands out one at a time, when it has its turn.
            turn().await;
            match poll_fn(|context| Poll::Ready(pin!(self.next()).poll(context))).await {
                Poll::Pending => break,
                Poll::Ready(Ok(Some(next))) if all.len().max(piece.len()) + next.len() <= MOST_TOGETHER => {
                    all.extend_from_slice(if all.is_empty() { &piece } else { &[] });
                    all.extend_from_slice(&next);
                }
                Poll::Ready(other) => {
                    self.ahead = Some(other);
                    break;
                }
            }
        }
        if all.is_empty() { piece } else { all.freeze() }
    }

    /// All of it, up to a limit.
    pub(crate) async fn whole(&mut self, limit: usize) -> Result<Bytes, Failure> {
        let Some(first) = self.next().await? else { return Ok(Bytes::new()) };
        if first.len() > limit {
            return Err(Failure::TooLong(limit));
        }
        let Some(second) = self.next().await? else { return Ok(first) };
        let mut all = first.to_vec();
        let mut more = Some(second);
        while let Some(part) = more {
            if all.len() + part.len() > limit {
                return Err(Failure::TooLong(limit));
            }
            all.extend_from_slice(&part);
            more = self.next().await?;
        }
        Ok(all.into())
    }
}

impl Http {
    /// Takes a server from the configuration.
    ///
    /// # Errors
    ///
    /// A sentence that says what of the configuration cannot be used.
    pub(crate) fn new(
        url: &str,
        addresses: &[IpAddr],
        ca: Option<&str>,
        own: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|error| format!("{url}: {error}"))?;
        let authority = uri.authority().ok_or_else(|| format!("{url} has no host"))?;
        let tls = uri.scheme() == Some(&Scheme::HTTPS);
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let mut headers = HeaderMap::new();
        let value = |text: &str| HeaderValue::from_str(text).map_err(|_| format!("{url}: a header's value is none"));
        headers.insert(HOST, value(authority.as_str())?);
        for (name, text) in own {
            let name: HeaderName = name.parse().map_err(|_| format!("{url}: \"{name}\" is no header's name"))?;
            let mut value = value(&text)?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        let target = uri.path_and_query().map_or("/", |path| path.as_str());
        let target = target.parse().map_err(|error| format!("{url}: {error}"))?;
        let tls = if tls {
            let name = ServerName::try_from(host.clone()).map_err(|error| format!("{url}: {error}"))?;
            Some((TlsConnector::from(Arc::new(tls_config(ca).map_err(|error| format!("{url}: {error}"))?)), name))
        } else {
            None
        };
        let fixed = host.parse::<IpAddr>().ok();
        let addresses = fixed.map_or_else(|| addresses.to_vec(), |address| vec![address]);
        Ok(Self { host, port, addresses, tls, target, headers, idle: Mutex::new(Vec::new()) })
    }

    /// The path by which requests are made.
    pub(crate) fn target(&self) -> &Uri {
        &self.target
    }

    /// Makes a request. It is sent again, on a connection of its own, only if nothing of it has left.
    ///
    /// # Errors
    ///
    /// See [`Failure`]. Answers of any status are none, but a redirect is.
    pub(crate) async fn send(
        self: &Arc<Self>,
        method: Method,
        target: &Uri,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Answer, Failure> {
        let answer = self.exchange(method, target, headers, body).await?;
        // Whoever is sent elsewhere by an approved server would carry the call with it.
        if answer.status.is_redirection() { Err(Failure::Redirected) } else { Ok(answer) }
    }

    /// The same, where a redirect is an answer like others: it is not followed either.
    ///
    /// # Errors
    ///
    /// See [`Failure`]. Answers of any status are none.
    pub(crate) async fn exchange(
        self: &Arc<Self>,
        method: Method,
        target: &Uri,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Answer, Failure> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = target.clone();
        *request.headers_mut() = headers;
        for (name, value) in &self.headers {
            request.headers_mut().insert(name, value.clone());
        }
        while let Some(mut sender) = self.waiting() {
            match sender.try_send_request(request).await {
                Ok(response) => return Ok(self.answer(response, sender)),
                // A connection that the server has closed meanwhile.
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(Failure::Broken(error.into_error().to_string())),
                },
            }
        }
        // Rare, and large: what waits for an answer has no room for it.
        let mut sender = Box::pin(self.connect()).await?;
        let response = sender.send_request(request).await.map_err(|error| Failure::Broken(error.to_string()))?;
        Ok(self.answer(response, sender))
    }

    fn answer(self: &Arc<Self>, response: Response<Incoming>, sender: Sender) -> Answer {
        let (head, body) = response.into_parts();
        let server = Arc::clone(self);
        Answer { status: head.status, headers: head.headers, body, sender: Some(sender), server, ahead: None }
    }

    fn waiting(&self) -> Option<Sender> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(sender) = idle.pop() {
            if sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    fn keep(&self, sender: Sender) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MOST_IDLE && !sender.is_closed() {
            idle.push(sender);
        }
    }

    async fn connect(&self) -> Result<Sender, Failure> {
        let connected = timeout(CONNECTING, async {
            let stream = self.stream().await?;
            match &self.tls {
                None => begin(stream).await,
                Some((tls, name)) => begin(tls.connect(name.clone(), stream).await?).await,
            }
        });
        match connected.await {
            Ok(connected) => connected.map_err(|error| Failure::Unreachable(error.to_string())),
            Err(_) => Err(Failure::Unreachable(format!("no connection within {} s", CONNECTING.as_secs()))),
        }
    }

    async fn stream(&self) -> io::Result<TcpStream> {
        let found: Vec<SocketAddr> = if self.addresses.is_empty() {
            tokio::net::lookup_host((self.host.as_str(), self.port)).await?.collect()
        } else {
            self.addresses.iter().map(|address| SocketAddr::new(*address, self.port)).collect()
        };
        let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{} has no address", self.host));
        for address in found {
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    return Ok(stream);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// Lets every other task that is ready have its turn.
async fn turn() {
    let mut had = false;
    poll_fn(|context| {
        if std::mem::replace(&mut had, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

async fn begin<S>(stream: S) -> io::Result<Sender>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to a server ended early");
        }
    });
    Ok(sender)
}

/// TLS with the platform's roots, or with these alone.
fn tls_config(ca: Option<&str>) -> Result<ClientConfig, String> {
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let Some(pem) = ca else {
        let verifier = rustls_platform_verifier::Verifier::new(provider).map_err(|error| error.to_string())?;
        return Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth());
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| format!("ca holds no certificate that can be read: {error}"))?;
        roots.add(certificate).map_err(|error| format!("ca: {error}"))?;
    }
    if roots.is_empty() {
        return Err("ca holds no certificate".into());
    }
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

impl Http {
    /// The path of a URL that the server itself named, if it is on the same host: nowhere else is anything sent.
    pub(crate) fn own_target(&self, url: &str) -> Option<Uri> {
        let uri: Uri = url.parse().ok()?;
        if let Some(authority) = uri.authority() {
            let own = self.headers.get(HOST)?.to_str().ok()?;
            let scheme = if self.tls.is_some() { "https" } else { "http" };
            if !authority.as_str().eq_ignore_ascii_case(own) || uri.scheme_str() != Some(scheme) {
                return None;
            }
        }
        let path = uri.path_and_query()?.as_str();
        // What begins with two slashes names a host.
        if path.starts_with('/') && !path.starts_with("//") { path.parse().ok() } else { None }
    }
}
