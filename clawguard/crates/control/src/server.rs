//! The server's side: one connection a task, a bound on how many, on how long and on how much.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Request, Response, StatusCode,
    body::{Body, Frame, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use sys::peer::Peer;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc},
    time::timeout,
};

use crate::{
    api::{Code, ErrorBody, ErrorDetail},
    route::{self, NoRoute, Route},
};

/// Connections that are served at once; more wait in the socket's queue.
const MOST_CONNECTIONS: usize = 32;
/// How long a request may take to arrive.
const PATIENCE: Duration = Duration::from_secs(10);
/// The largest body: a contract of a million entries.
const MOST_BYTES: usize = 128 << 20;
/// The largest body on other routes.
const SMALL: usize = 64 << 10;

/// A request that was understood as far as its route.
#[derive(Debug)]
pub struct Call {
    /// Who asks.
    pub peer: Peer,
    /// For what.
    pub route: Route,
    /// The name in the path, on routes that have one.
    pub name: String,
    /// The values of the query.
    pub query: Vec<(String, String)>,
    /// Whether an event stream is wanted.
    pub stream: bool,
    /// The body.
    pub body: Bytes,
}

impl Call {
    /// A value of the query.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The body as what the route takes.
    ///
    /// # Errors
    ///
    /// [`ErrorDetail`], ready to be answered.
    pub fn body<T: serde::de::DeserializeOwned>(&self) -> Result<T, ErrorDetail> {
        serde_json::from_slice(&self.body).map_err(|error| {
            let message = format!("the body is not what this route takes: {error}");
            ErrorDetail::new(Code::BadRequest, message, "docs/openapi.yaml has its form")
        })
    }
}

/// What is answered.
pub enum Reply {
    /// JSON with status 200.
    Json(serde_json::Value),
    /// JSON with status 201.
    Created(serde_json::Value),
    /// An error.
    Error(ErrorDetail),
    /// An event stream: each text is one event's data.
    Events(mpsc::Receiver<String>),
}

impl Reply {
    /// A value as JSON.
    #[must_use]
    pub fn json(value: &impl Serialize) -> Self {
        match serde_json::to_value(value) {
            Ok(value) => Self::Json(value),
            Err(error) => {
                Self::Error(ErrorDetail::new(Code::Internal, format!("the answer cannot be written: {error}"), ""))
            }
        }
    }
}

/// What answers calls.
pub type Handler = dyn Fn(Call) -> Pin<Box<dyn Future<Output = Reply> + Send>> + Send + Sync;

/// Serves a listener until it is dropped.
pub async fn serve(listener: UnixListener, handler: Arc<Handler>) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let handler = Arc::clone(&handler);
                tokio::spawn(async move {
                    connection(stream, handler).await;
                    drop(place);
                });
            }
            // Out of descriptors, or the peer is gone already: neither ends the server.
            Err(error) => {
                tracing::warn!(%error, "a control connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(stream: UnixStream, handler: Arc<Handler>) {
    let peer = match sys::peer::peer(&stream) {
        Ok(peer) => peer,
        Err(error) => {
            tracing::warn!(%error, "a control peer could not be identified and is not served");
            return;
        }
    };
    let service = service_fn(|request| {
        let (peer, handler) = (peer.clone(), Arc::clone(&handler));
        async move { Ok::<_, Infallible>(answer(peer, request, &*handler).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a control connection ended early");
    }
}

/// A body: all at once, or one event after the other.
enum Payload {
    Whole(Full<Bytes>),
    Events(mpsc::Receiver<String>),
}

impl Body for Payload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(cx),
            Self::Events(events) => events
                .poll_recv(cx)
                .map(|event| event.map(|data| Ok(Frame::data(Bytes::from(format!("data: {data}\n\n")))))),
        }
    }
}

async fn answer(peer: Peer, request: Request<Incoming>, handler: &Handler) -> Response<Payload> {
    let call = match understood(peer, request).await {
        Ok(call) => call,
        Err(detail) => return respond(Reply::Error(detail)),
    };
    respond(handler(call).await)
}

async fn understood(peer: Peer, request: Request<Incoming>) -> Result<Call, ErrorDetail> {
    let wrong = |code, message: String| ErrorDetail::new(code, message, "docs/openapi.yaml lists the routes");
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    let (route, name) = route::find(parts.method.as_str(), path).map_err(|none| match none {
        NoRoute::Path => wrong(Code::NotFound, format!("there is nothing at {path}")),
        NoRoute::Method => wrong(Code::BadRequest, format!("{path} does not take {}", parts.method)),
    })?;
    let most = if matches!(route, Route::UseContract | Route::StartJob) { MOST_BYTES } else { SMALL };
    let body = match timeout(PATIENCE, Limited::new(body, most).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) => return Err(wrong(Code::BadRequest, format!("the body cannot be read: {error}"))),
        Err(_) => return Err(wrong(Code::BadRequest, "the body took too long to arrive".into())),
    };
    let stream = parts.headers.get("accept").is_some_and(|accept| accept.as_bytes().starts_with(b"text/event-stream"));
    let query = route::query(parts.uri.query());
    Ok(Call { peer, route, name: name.unwrap_or_default(), query, stream, body })
}

fn respond(reply: Reply) -> Response<Payload> {
    let json = |status: StatusCode, text: String| {
        let mut response = Response::new(Payload::Whole(Full::new(Bytes::from(text))));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    };
    match reply {
        Reply::Json(value) => json(StatusCode::OK, value.to_string()),
        Reply::Created(value) => json(StatusCode::CREATED, value.to_string()),
        Reply::Error(detail) => {
            let status = StatusCode::from_u16(detail.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            json(status, serde_json::to_string(&ErrorBody { error: detail }).unwrap_or_default())
        }
        Reply::Events(events) => {
            let mut response = Response::new(Payload::Events(events));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
            response
        }
    }
}
