//! HTTP+SSE of 2024-11-05: one stream of events from the server, whose first says where messages go to.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use hyper::{
    HeaderMap, Method, StatusCode, Uri,
    header::{ACCEPT, CONTENT_TYPE, HeaderValue},
};
use mcp::sse::{Decoder, Event};
use tokio::time::timeout;

use super::{Answer, Duplex, Failure, Http, arrivals::read};

/// How long the first event may take.
const FIRST: Duration = Duration::from_secs(10);

impl Duplex {
    /// Connects to a server's stream of events.
    pub(crate) async fn over_events(server: &Arc<Http>, limit: usize) -> Result<Arc<Self>, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        let mut answer = server.send(Method::GET, server.target(), headers, Bytes::new()).await?;
        if answer.status != StatusCode::OK {
            return Err(Failure::Status(answer.status.as_u16()));
        }
        let mut decoder = Decoder::new(limit);
        let mut early = Vec::new();
        let target = timeout(FIRST, endpoint(server, &mut answer, &mut decoder, &mut early))
            .await
            .map_err(|_| Failure::Late)??;
        let (duplex, mut messages) = Self::new(limit);
        let (writing, to) = (Arc::clone(&duplex), Arc::clone(server));
        tokio::spawn(async move {
            while let Some(message) = writing.next(&mut messages).await {
                if let Err(failure) = post(&to, &target, message).await {
                    writing.end(failure);
                    return;
                }
            }
        });
        let reading = Arc::clone(&duplex);
        tokio::spawn(async move {
            let failure = follow(&reading, answer, decoder, early).await;
            reading.end(failure);
        });
        Ok(duplex)
    }
}

/// Waits for the event that names the endpoint. Only the server's own host is taken.
async fn endpoint(
    server: &Http,
    answer: &mut Answer,
    decoder: &mut Decoder,
    early: &mut Vec<Event>,
) -> Result<Uri, Failure> {
    loop {
        let Some(bytes) = answer.next().await? else { return Err(Failure::Broken("the stream has ended".into())) };
        let mut events = events(decoder, &bytes)?.into_iter();
        while let Some(event) = events.next() {
            if event.event.as_deref() == Some("endpoint") {
                early.extend(events);
                return server.own_target(event.data.trim()).ok_or(Failure::Redirected);
            }
        }
    }
}

async fn post(server: &Arc<Http>, target: &Uri, message: Vec<u8>) -> Result<(), Failure> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let mut answer = server.send(Method::POST, target, headers, message.into()).await?;
    let status = answer.status;
    answer.whole(1 << 16).await?;
    if status.is_success() { Ok(()) } else { Err(Failure::Status(status.as_u16())) }
}

async fn follow(duplex: &Duplex, mut answer: Answer, mut decoder: Decoder, early: Vec<Event>) -> Failure {
    let mut ready = early;
    loop {
        for event in ready.drain(..) {
            if event.data.is_empty() || event.event.as_deref().is_some_and(|event| event != "message") {
                continue;
            }
            match read(event.data.as_bytes()) {
                Ok(message) => duplex.arrived(message).await,
                Err(failure) => return failure,
            }
        }
        match answer.next().await {
            Ok(Some(bytes)) => match events(&mut decoder, &bytes) {
                Ok(events) => ready.extend(events),
                Err(failure) => return failure,
            },
            Ok(None) => return Failure::Broken("the stream has ended".into()),
            Err(failure) => return failure,
        }
    }
}

fn events(decoder: &mut Decoder, bytes: &[u8]) -> Result<Vec<Event>, Failure> {
    decoder.push(bytes).map_err(|flaw| Failure::Garbage(flaw.to_string()))
}
