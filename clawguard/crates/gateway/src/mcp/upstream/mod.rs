//! The ways to servers: HTTP, and two ways of messages to and fro (a process's standard input and output, HTTP+SSE of 2024-11-05).

mod arrivals;
mod duplex;
mod http;
mod sse;
mod stdio;

pub(crate) use arrivals::{Arrivals, Arrived};
pub(crate) use duplex::{Asked, Duplex};
pub(crate) use http::{Answer, Http};

/// Why a server did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// There is no connection to it.
    #[error("the server cannot be reached")]
    Unreachable(String),
    /// It broke off.
    #[error("the server broke off")]
    Broken(String),
    /// It sent more than is taken.
    #[error("the server sent more than {0} bytes in one message")]
    TooLong(usize),
    /// It sent the caller elsewhere.
    #[error("the server redirects, which is never followed")]
    Redirected,
    /// It sent what is no message.
    #[error("the server sent what is no MCP message")]
    Garbage(String),
    /// It answered with a status of HTTP that says no.
    #[error("the server refused with HTTP status {0}")]
    Status(u16),
    /// It was not started.
    #[error("the server was not started")]
    NotStarted(String),
    /// It did not answer in time.
    #[error("the server did not answer in time")]
    Late,
}

impl Failure {
    /// What the operator's log has more than the caller is told.
    pub(crate) fn detail(&self) -> &str {
        match self {
            Self::Unreachable(why) | Self::Broken(why) | Self::Garbage(why) | Self::NotStarted(why) => why,
            _ => "",
        }
    }
}
