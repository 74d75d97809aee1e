//! `GET /metrics`

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{CONTENT_TYPE, HeaderValue},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::Semaphore, time::timeout};

use crate::channel::Channel;

/// Scrapers at once; more wait in the socket's queue.
const MOST_CONNECTIONS: usize = 16;
/// How long the daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Serves scrapers for ever. Ends with the channel, because a gateway without its daemon has nothing to say.
pub(crate) async fn serve(listen: SocketAddr, daemon: Arc<Channel>) -> io::Result<()> {
    let listener = TcpListener::bind(listen).await?;
    tracing::info!(%listen, "serving metrics");
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let (broken, mut ended) = tokio::sync::mpsc::channel::<io::Error>(1);
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return Ok(()) };
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a scraper could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            error = ended.recv() => return Err(error.unwrap_or_else(|| io::ErrorKind::BrokenPipe.into())),
        };
        let (daemon, broken) = (Arc::clone(&daemon), broken.clone());
        tokio::spawn(async move {
            let service = service_fn(|request| answer(request, &daemon, &broken));
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                tracing::debug!(%error, "a scraper's connection ended early");
            }
            drop(place);
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    daemon: &Channel,
    broken: &tokio::sync::mpsc::Sender<io::Error>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, kind, text) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => match timeout(PATIENCE, daemon.metrics()).await {
            Ok(Ok(text)) => (StatusCode::OK, "text/plain; version=0.0.4", text),
            Ok(Err(error)) => {
                let text = format!("the daemon does not answer: {error}\n");
                // Whoever reads the other end of the queue ends the process; a full queue means it is being done.
                let _ = broken.try_send(error);
                (StatusCode::SERVICE_UNAVAILABLE, "text/plain", text)
            }
            Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "text/plain", "the daemon does not answer in time\n".into()),
        },
        (&Method::GET, _) => (StatusCode::NOT_FOUND, "text/plain", "there is /metrics here\n".into()),
        _ => (StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET is answered\n".into()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    Ok(response)
}
