//! Answers: JSON in upstream's two shapes.

use bytes::Bytes;
use claw::Value;
use hyper::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// An object from its members.
pub(crate) fn object<const N: usize>(members: [(&'static str, Value); N]) -> Value {
    Value::Object(members.into_iter().map(|(name, value)| (name.into(), value)).collect())
}

/// A string.
pub(crate) fn text(text: impl Into<Box<str>>) -> Value {
    Value::String(text.into())
}

/// A whole number that a double holds.
pub(crate) fn number(number: u64) -> Value {
    Value::Number(number as f64)
}

/// Which service's errors a route answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// clawcontrols: `{"ok":false,"error":{"code","message"}}`
    Controls,
    /// clawscope: `{"error":CODE,"message"}`
    Scope,
}

/// An error, ready to be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    /// 400
    pub(crate) fn bad(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// 401
    pub(crate) fn unauthorized(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, code, message)
    }

    /// 503
    pub(crate) fn busy(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "BUSY", message)
    }

    pub(crate) fn write(&self, shape: Shape) -> String {
        let (code, message) = (text(self.code), text(self.message.as_str()));
        match shape {
            Shape::Controls => {
                object([("ok", Value::Bool(false)), ("error", object([("code", code), ("message", message)]))])
            }
            Shape::Scope => object([("error", code), ("message", message)]),
        }
        .to_string()
    }
}

/// What is answered.
pub(crate) enum Reply {
    /// JSON.
    Json {
        status: StatusCode,
        body: Bytes,
        /// `Cache-Control`.
        cache: Option<&'static str>,
        /// Room that a large answer takes while it is on its way.
        room: Option<OwnedSemaphorePermit>,
    },
    /// Server-Sent Events.
    Events(mpsc::Receiver<Bytes>),
}

impl Reply {
    /// JSON with a status.
    pub(crate) fn json(status: StatusCode, value: &Value) -> Self {
        Self::Json { status, body: value.to_string().into(), cache: None, room: None }
    }

    /// JSON with status 200.
    pub(crate) fn ok(value: &Value) -> Self {
        Self::json(StatusCode::OK, value)
    }
}

/// What a route answers.
pub(crate) type Answer = Result<Reply, Refusal>;
