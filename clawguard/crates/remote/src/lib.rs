//! HTTPS to registries: one request at a time, bounded in time and size, redirects never followed, answers of any other shape
//! than the expected one refused.
//!
//! Runs in the unprivileged gateway and for an operator's own commands, never in what has privileges.
#![forbid(unsafe_code)]

mod registry;

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use control::channel::Source;
use serde::{Deserialize, Serialize};
use ureq::{
    Agent, Body,
    http::{Response, Uri},
    tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem},
    unversioned::{
        resolver::{ArrayVec, DefaultResolver, ResolvedSocketAddrs, Resolver},
        transport::{DefaultConnector, NextTimeout},
    },
};

pub use registry::{carry_out, follow_revocations};

/// How long connecting may take.
const CONNECTING: Duration = Duration::from_secs(3);
/// How long a whole request may take.
const WHOLE: Duration = Duration::from_secs(6);
/// How long a stream is followed before it is opened anew.
const STREAM: Duration = Duration::from_secs(300);
/// The largest answer but for contracts, in bytes.
pub const SMALL: usize = 256 << 10;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL is none that may be asked.
    #[error("{0} is not https://HOST (http:// is accepted for a loopback address alone)")]
    Url(String),
    /// The certificates are none.
    #[error("the registry's ca holds no certificate that can be read: {0}")]
    Certificates(String),
    /// No answer.
    #[error("{base} does not answer: {source}")]
    Unreachable {
        /// Which registry.
        base: String,
        /// What went wrong.
        source: Box<ureq::Error>,
    },
    /// An answer that is too long, or breaks off.
    #[error("{base} answered more than {limit} bytes, or broke off: {source}")]
    Body {
        /// Which registry.
        base: String,
        /// How many bytes are accepted.
        limit: usize,
        /// What went wrong.
        source: Box<ureq::Error>,
    },
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// To whom.
    pub to: Source,
    /// `GET`, `POST` or `PUT`.
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// The JSON to send.
    pub body: Option<String>,
}

/// An answer, whatever its status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Its text.
    pub body: String,
}

/// Answers a registry's addresses from what the host fixed, else as the platform does.
#[derive(Debug)]
struct Fixed(Vec<IpAddr>);

impl Resolver for Fixed {
    fn resolve(
        &self,
        uri: &Uri,
        config: &ureq::config::Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        if self.0.is_empty() {
            return DefaultResolver::default().resolve(uri, config, timeout);
        }
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("http") { 80 } else { 443 });
        let mut found: ResolvedSocketAddrs = ArrayVec::from_fn(|_| SocketAddr::from(([0, 0, 0, 0], 0)));
        for address in self.0.iter().take(8) {
            found.push(SocketAddr::from((*address, port)));
        }
        Ok(found)
    }
}

/// Whether a registry may be asked under this URL: over TLS, or on this very machine.
#[must_use]
pub fn may_ask(base: &str) -> bool {
    let Ok(uri) = base.parse::<Uri>() else { return false };
    let Some(host) = uri.host() else { return false };
    let local = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    let plain = uri.query().is_none() && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
    plain && (uri.scheme_str() == Some("https") || (uri.scheme_str() == Some("http") && local))
}

fn agent(to: &Source, whole: Duration) -> Result<Agent, Error> {
    if !may_ask(&to.base) {
        return Err(Error::Url(to.base.clone()));
    }
    let roots = match &to.ca {
        None => RootCerts::PlatformVerifier,
        Some(text) => {
            let wrong = |why: String| Error::Certificates(why);
            let mut found: Vec<Certificate<'static>> = Vec::new();
            for item in parse_pem(text.as_bytes()) {
                if let PemItem::Certificate(certificate) = item.map_err(|error| wrong(error.to_string()))? {
                    found.push(certificate);
                }
            }
            if found.is_empty() {
                return Err(wrong("there is none".into()));
            }
            RootCerts::new_with_certs(&found)
        }
    };
    let config = Agent::config_builder()
        .tls_config(TlsConfig::builder().root_certs(roots).build())
        .proxy(None)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .http_status_as_error(false)
        .timeout_connect(Some(CONNECTING))
        .timeout_global(Some(whole))
        .user_agent(concat!("clawguard/", env!("CARGO_PKG_VERSION")))
        .build();
    Ok(Agent::with_parts(config, DefaultConnector::default(), Fixed(to.addresses.clone())))
}

fn call(request: &Request, whole: Duration) -> Result<Response<Body>, Error> {
    let agent = agent(&request.to, whole)?;
    let url = format!("{}{}", request.to.base.trim_end_matches('/'), request.path);
    let mut builder = ureq::http::Request::builder().method(request.method.as_str()).uri(&url);
    if let Some(bearer) = &request.to.bearer {
        // A token of the same kind as a job's goes where clawscope and clawcontrols look for it.
        builder = match bearer.matches('.').count() {
            2 => builder.header("x-cst", bearer),
            _ => builder.header("authorization", format!("Bearer {bearer}")),
        };
    }
    let accept = if request.path.ends_with("/stream") { "text/event-stream" } else { "application/json" };
    builder = builder.header("accept", accept);
    let unreachable =
        |source: ureq::Error| Error::Unreachable { base: request.to.base.clone(), source: Box::new(source) };
    let answered = match &request.body {
        Some(body) => {
            let request = builder.header("content-type", "application/json").body(body.as_str());
            agent.run(request.map_err(|error| unreachable(error.into()))?)
        }
        None => agent.run(builder.body(()).map_err(|error| unreachable(error.into()))?),
    };
    answered.map_err(unreachable)
}

/// Asks and answers what came, up to `limit` bytes of it.
///
/// # Errors
///
/// See [`Error`].
pub fn ask(request: &Request, limit: usize) -> Result<Answer, Error> {
    let mut response = call(request, WHOLE)?;
    let status = response.status().as_u16();
    let body = response.body_mut().with_config().limit(limit as u64).read_to_string();
    let body = body.map_err(|source| Error::Body { base: request.to.base.clone(), limit, source: Box::new(source) })?;
    Ok(Answer { status, body })
}
