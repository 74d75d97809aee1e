//! What a server sends back, message by message.

use std::collections::VecDeque;

use hyper::HeaderMap;
use mcp::{
    json,
    message::Message,
    sse::{Decoder, Event},
};
use tokio::sync::mpsc;

use super::{Answer, Failure};

/// Messages, as they come.
pub(crate) struct Arrivals {
    from: From,
    limit: usize,
}

enum From {
    /// One message in a body.
    Body(Option<Answer>),
    /// Server-sent events.
    Events { answer: Answer, decoder: Decoder, ready: VecDeque<Event> },
    /// Those of a connection that many share.
    Shared(mpsc::Receiver<Message>),
}

/// Something that came.
#[derive(Debug)]
pub(crate) struct Arrived {
    /// The event's id and retry, where there was an event.
    pub(crate) id: Option<Box<str>>,
    pub(crate) retry: Option<u64>,
    /// `None` for an event that only says where to go on from, or that the connection lives.
    pub(crate) message: Option<Message>,
}

impl Arrivals {
    pub(crate) fn body(answer: Answer, limit: usize) -> Self {
        Self { from: From::Body(Some(answer)), limit }
    }

    pub(crate) fn events(mut answer: Answer, limit: usize) -> Self {
        // They lie in what was read first, for as long as there are events.
        answer.headers = HeaderMap::new();
        Self { from: From::Events { answer, decoder: Decoder::new(limit), ready: VecDeque::new() }, limit }
    }

    pub(crate) fn shared(messages: mpsc::Receiver<Message>, limit: usize) -> Self {
        Self { from: From::Shared(messages), limit }
    }

    /// Nothing at all.
    pub(crate) fn nothing(limit: usize) -> Self {
        Self { from: From::Body(None), limit }
    }

    /// Whether the messages come over a connection that many share.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self.from, From::Shared(_))
    }

    /// Reads on without a look at what comes; answers whether there was anything.
    pub(crate) async fn skip(&mut self) -> Result<bool, Failure> {
        match &mut self.from {
            From::Body(body) => match body.take() {
                Some(mut answer) => answer.whole(self.limit).await.map(|_| true),
                None => Ok(false),
            },
            From::Events { answer, .. } => answer.next().await.map(|bytes| bytes.is_some()),
            From::Shared(_) => Ok(false),
        }
    }

    /// Whether there is one message and no more.
    pub(crate) fn is_one(&self) -> bool {
        matches!(self.from, From::Body(_))
    }

    /// The next one; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Arrived>, Failure> {
        match &mut self.from {
            From::Body(body) => {
                let Some(mut answer) = body.take() else { return Ok(None) };
                let bytes = answer.whole(self.limit).await?;
                Ok(Some(Arrived { id: None, retry: None, message: Some(read(&bytes)?) }))
            }
            From::Events { answer, decoder, ready } => loop {
                if let Some(event) = ready.pop_front() {
                    return arrived(event).map(Some);
                }
                let Some(bytes) = answer.next().await? else { return Ok(None) };
                ready.extend(decoder.push(&bytes).map_err(|flaw| Failure::Garbage(flaw.to_string()))?);
            },
            From::Shared(messages) => {
                Ok(messages.recv().await.map(|message| Arrived { id: None, retry: None, message: Some(message) }))
            }
        }
    }
}

fn arrived(event: Event) -> Result<Arrived, Failure> {
    let message = if event.data.is_empty() { None } else { Some(read(event.data.as_bytes())?) };
    Ok(Arrived { id: event.id, retry: event.retry, message })
}

/// Reads one message.
pub(super) fn read(bytes: &[u8]) -> Result<Message, Failure> {
    let value = json::parse(bytes).map_err(|flaw| Failure::Garbage(flaw.to_string()))?;
    Message::read(value).map_err(|flaw| Failure::Garbage(flaw.to_string()))
}
