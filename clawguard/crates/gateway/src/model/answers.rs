//! What callers get: bodies, whole or as they come, and errors.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::{
    Response, StatusCode,
    body::{Body, Frame, SizeHint},
    header::{CONTENT_TYPE, HeaderName, HeaderValue},
};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::judge::Refusal;

/// What the SDKs of OpenAI and Anthropic look at before they repeat a request.
const REPEAT: HeaderName = HeaderName::from_static("x-should-retry");

/// Pieces that wait for their reader; then the provider waits.
const MOST_UNREAD: usize = 16;

/// A piece of an answer.
#[derive(Debug)]
pub(crate) enum Piece {
    /// Some bytes.
    Bytes(Bytes),
    /// There is no more. An answer that ends without this one is cut.
    End,
}

/// A body: whole, or in pieces.
#[derive(Debug)]
pub(crate) enum Outgoing {
    Whole(Option<Bytes>),
    Pieces {
        pieces: mpsc::Receiver<Piece>,
        /// Whether what came before a cut had its chance to leave.
        flushed: bool,
    },
}

impl Outgoing {
    /// A body that whoever has the sender writes.
    pub(crate) fn pieces() -> (mpsc::Sender<Piece>, Self) {
        let (sender, pieces) = mpsc::channel(MOST_UNREAD);
        (sender, Self::Pieces { pieces, flushed: false })
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Pieces { pieces, flushed } => match pieces.poll_recv(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Some(Piece::Bytes(bytes))) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Poll::Ready(Some(Piece::End)) => Poll::Ready(None),
                Poll::Ready(None) if !std::mem::replace(flushed, true) => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                Poll::Ready(None) => Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into()))),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Pieces { .. } => SizeHint::default(),
        }
    }
}

/// A JSON answer.
pub(crate) fn json(status: StatusCode, value: &Value) -> Response<Outgoing> {
    text(status, value.to_string())
}

/// The same, of a text that is JSON.
pub(crate) fn text(status: StatusCode, text: String) -> Response<Outgoing> {
    let mut response = Response::new(Outgoing::Whole(Some(text.into())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// An error, in clawproxy's shape.
pub(crate) fn error(status: StatusCode, code: &str, message: &str) -> Response<Outgoing> {
    json(status, &json!({ "error": { "code": code, "message": message } }))
}

/// An error that is the same if it is asked again.
pub(crate) fn last(status: StatusCode, code: &str, message: &str) -> Response<Outgoing> {
    let mut response = error(status, code, message);
    response.headers_mut().insert(REPEAT, HeaderValue::from_static("false"));
    response
}

/// What whoever called gets instead of an answer.
pub(crate) fn refused(refusal: &Refusal) -> Response<Outgoing> {
    let make = if refusal.passes() { error } else { last };
    make(refusal.status(), refusal.code(), &refusal.message())
}
