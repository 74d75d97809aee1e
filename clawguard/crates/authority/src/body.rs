//! Bodies: what comes, with a bound; what goes, a piece at a time.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::{
    StatusCode,
    body::{Body, Frame, Incoming, SizeHint},
};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::{Instant, timeout},
};

use crate::reply::Refusal;

/// Bytes that are handed on at once.
const PIECE: usize = 64 << 10;

/// Reads a whole body.
pub(crate) async fn read(body: Incoming, most: usize, patience: Duration) -> Result<Bytes, Refusal> {
    let large = || {
        let message = format!("Request body exceeds {most} bytes");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "PAYLOAD_TOO_LARGE", message)
    };
    // What says that it is too large is not waited for.
    if body.size_hint().lower() > most as u64 {
        return Err(large());
    }
    let unread = |why: &str| Refusal::bad("BODY_READ_FAILED", format!("Request body could not be read: {why}"));
    match timeout(patience, Limited::new(body, most).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(large()),
        Ok(Err(_)) => Err(unread("it broke off")),
        Err(_) => Err(unread("it took too long to arrive")),
    }
}

/// The body of an answer.
pub(crate) enum Payload {
    /// All of it is there.
    Whole {
        left: Bytes,
        /// When who reads it this slowly is cut off.
        until: Instant,
        /// Given back with the last piece, or when the connection ends.
        room: Option<OwnedSemaphorePermit>,
    },
    /// It comes as it happens.
    Events(mpsc::Receiver<Bytes>),
}

/// Who takes an answer too slowly loses the connection.
#[derive(Debug, thiserror::Error)]
#[error("the answer was read too slowly")]
pub(crate) struct TooSlow;

impl From<Infallible> for TooSlow {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = TooSlow;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, TooSlow>>> {
        match self.get_mut() {
            Self::Whole { left, room, .. } if left.is_empty() => {
                drop(room.take());
                Poll::Ready(None)
            }
            Self::Whole { until, .. } if Instant::now() >= *until => Poll::Ready(Some(Err(TooSlow))),
            Self::Whole { left, .. } => {
                let piece = left.split_to(left.len().min(PIECE));
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            Self::Events(events) => events.poll_recv(cx).map(|frame| frame.map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole { left, .. } if left.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole { left, .. } => SizeHint::with_exact(left.len() as u64),
            Self::Events(_) => SizeHint::default(),
        }
    }
}
