//! The two eras of MCP: with a session that `initialize` begins, and without one, every request for itself.
//!
//! | | legacy, up to 2025-11-25 | modern, from 2026-07-28 |
//! |---|---|---|
//! | version | agreed on once; the header repeats it | in `_meta` of every request; the header repeats it |
//! | what the server asks back | requests of its own | inside of results |
//! | unknown method | an error | an error, with HTTP 404 |

use crate::{
    header::Headers,
    json::Json,
    message::{self, Id, Message, code as rpc},
};

/// Versions that begin with `initialize`, oldest first.
pub const LEGACY: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];

/// The version in which every request stands for itself.
pub const MODERN: &str = "2026-07-28";

/// What a request's `_meta` calls its version.
pub const PROTOCOL_VERSION: &str = "io.modelcontextprotocol/protocolVersion";

/// What a request's `_meta` calls the client's capabilities.
pub const CLIENT_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";

/// What a request's `_meta` calls its sender.
pub const CLIENT_INFO: &str = "io.modelcontextprotocol/clientInfo";

/// What a result's `_meta` calls its sender.
pub const SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";

/// What a notification's `_meta` calls the request that opened its stream.
pub const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";
/// What a client of the newer era has to declare before it speaks of tasks.
pub const TASKS: &str = "io.modelcontextprotocol/tasks";

/// Codes that MCP itself has (2026-07-28, Overview, section "Error Codes").
pub mod code {
    /// A header does not say what the body says.
    pub const HEADER_MISMATCH: i64 = -32020;
    /// The client did not declare a capability that is needed.
    pub const MISSING_CAPABILITY: i64 = -32021;
    /// The version is none that is spoken here.
    pub const UNSUPPORTED_VERSION: i64 = -32022;
}

/// The HTTP status that an error of the modern era has to come with; where there is none, an answer is an answer (200).
///
/// Parameters that do not fit (`-32602`) come with 400 only where `_meta` is what does not fit, which is [`Flaw::status`]'s.
#[must_use]
pub const fn status(code: i64) -> Option<u16> {
    match code {
        code::HEADER_MISMATCH
        | code::MISSING_CAPABILITY
        | code::UNSUPPORTED_VERSION
        | rpc::PARSE
        | rpc::INVALID_REQUEST => Some(400),
        rpc::METHOD_NOT_FOUND => Some(404),
        _ => None,
    }
}

/// An era.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Era {
    /// With sessions.
    Legacy,
    /// Without.
    Modern,
}

/// Why a message is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// A header is missing, or does not say what the body says.
    #[error("the header {header} {what}")]
    Header {
        /// Which.
        header: Box<str>,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Something in `_meta` is missing, or of another type.
    #[error("params._meta has to have {0}")]
    Meta(&'static str),
    /// A version that is not spoken here.
    #[error("Unsupported protocol version")]
    Version {
        /// What was asked for, not more than 64 characters of it.
        requested: Box<str>,
    },
    /// An answer, where a client has nothing to answer.
    #[error("in this version a client sends no answers: they go into inputResponses of the request that is repeated")]
    Response,
}

impl Flaw {
    /// The code by which it is answered.
    #[must_use]
    pub const fn code(&self) -> i64 {
        match self {
            Self::Header { .. } => code::HEADER_MISMATCH,
            Self::Meta(_) => rpc::INVALID_PARAMS,
            Self::Version { .. } => code::UNSUPPORTED_VERSION,
            Self::Response => rpc::INVALID_REQUEST,
        }
    }

    /// The HTTP status with which it is answered.
    #[must_use]
    pub const fn status(&self) -> u16 {
        400
    }

    /// What the answer says beyond. The versions named are those of this era that are spoken here: a client that asks by version
    /// speaks no other era.
    #[must_use]
    pub fn data(&self) -> Option<Json> {
        let Self::Version { requested } = self else { return None };
        let supported = Json::Array(vec![MODERN.into()]);
        Some(Json::object([("supported", supported), ("requested", (&**requested).into())]))
    }

    /// The answer.
    #[must_use]
    pub fn answer(&self, id: Option<Id>) -> Message {
        message::error(id, self.code(), &self.to_string(), self.data())
    }
}

/// Tells which era a client's message over HTTP is of, and whether it is right in it, so far as it can be said without knowing
/// what it is about. What it says of itself decides; the header only where it says nothing: no header makes a legacy message of
/// one that has a version in it, or the other way round.
///
/// # Errors
///
/// The first [`Flaw`] found: what a server of that era has to refuse.
pub fn check(headers: &Headers<'_>, message: &Message) -> Result<Era, Flaw> {
    let said = message.params().and_then(|params| params.at(&["_meta", PROTOCOL_VERSION]));
    match (said, headers.version) {
        (None, None) => return Ok(Era::Legacy),
        (None, Some(version)) if LEGACY.contains(&version) => return Ok(Era::Legacy),
        (None, Some(version)) if version != MODERN => return known(Some(version)),
        _ => {}
    }
    // Headers first: they are compared with what is there, and what is not there is missed afterwards.
    let version = said.and_then(Json::as_str);
    headers.say_version(version)?;
    let request = match message {
        Message::Response(_) => return Err(Flaw::Response),
        Message::Notification(told) => {
            // The revision does not say what headers these have; those that are there do not lie.
            headers.say_method(&told.method, false)?;
            return known(headers.version);
        }
        Message::Request(request) => {
            headers.say_method(&request.method, true)?;
            headers.say_name(&request.method, request.params.as_ref())?;
            request
        }
    };
    let meta = request.params.as_ref().and_then(|params| params.get("_meta")).filter(|meta| meta.is_object());
    let Some(meta) = meta else { return Err(Flaw::Meta("a version and the client's capabilities: it is no object")) };
    if version.is_none() {
        return Err(Flaw::Meta("the version of the protocol, io.modelcontextprotocol/protocolVersion, a string"));
    }
    known(version)?;
    if !meta.get(CLIENT_CAPABILITIES).is_some_and(Json::is_object) {
        return Err(Flaw::Meta("the client's capabilities, io.modelcontextprotocol/clientCapabilities, an object"));
    }
    if meta.get(CLIENT_INFO).is_some_and(|info| !info.is_object()) {
        return Err(Flaw::Meta("an object as io.modelcontextprotocol/clientInfo, or none"));
    }
    Ok(Era::Modern)
}

fn known(version: Option<&str>) -> Result<Era, Flaw> {
    match version {
        Some(MODERN) => Ok(Era::Modern),
        version => Err(Flaw::Version { requested: version.unwrap_or_default().chars().take(64).collect() }),
    }
}

/// `_meta` of a request that the gateway makes by itself.
#[must_use]
pub fn own_meta() -> Json {
    let info = Json::object([("name", "clawguard".into()), ("version", env!("CARGO_PKG_VERSION").into())]);
    Json::object([(PROTOCOL_VERSION, MODERN.into()), (CLIENT_INFO, info), (CLIENT_CAPABILITIES, Json::object([]))])
}

/// The same of a request about a task: servers want to hear that whoever asks knows of them.
#[must_use]
pub fn own_meta_with_tasks() -> Json {
    let mut meta = own_meta();
    let extensions = Json::object([(TASKS, Json::object([]))]);
    meta.set(CLIENT_CAPABILITIES, Json::object([("extensions", extensions)]));
    meta
}

impl Era {
    /// Whether a client may ask this of a server. Those of the extension for tasks are among them, which 2025-11-25 had in itself.
    #[must_use]
    pub fn asks(self, method: &str) -> bool {
        match method {
            "completion/complete"
            | "prompts/get"
            | "prompts/list"
            | "resources/list"
            | "resources/read"
            | "resources/templates/list"
            | "tasks/cancel"
            | "tasks/get"
            | "tools/call"
            | "tools/list" => true,
            "initialize"
            | "logging/setLevel"
            | "ping"
            | "resources/subscribe"
            | "resources/unsubscribe"
            | "tasks/list"
            | "tasks/result" => self == Self::Legacy,
            "server/discover" | "subscriptions/listen" | "tasks/update" => self == Self::Modern,
            _ => false,
        }
    }

    /// Whether a client may tell a server this.
    #[must_use]
    pub fn tells(self, method: &str) -> bool {
        match method {
            "notifications/cancelled" => true,
            "notifications/initialized"
            | "notifications/progress"
            | "notifications/roots/list_changed"
            | "notifications/tasks/status" => self == Self::Legacy,
            _ => false,
        }
    }

    /// Whether a server may ask this of a client: by a request of its own, or inside of a result.
    #[must_use]
    pub fn asks_back(self, method: &str) -> bool {
        match method {
            "elicitation/create" | "roots/list" | "sampling/createMessage" => true,
            "ping" | "tasks/cancel" | "tasks/get" | "tasks/list" | "tasks/result" => self == Self::Legacy,
            _ => false,
        }
    }

    /// Whether a server may tell a client this.
    #[must_use]
    pub fn tells_back(self, method: &str) -> bool {
        match method {
            "notifications/cancelled"
            | "notifications/message"
            | "notifications/progress"
            | "notifications/prompts/list_changed"
            | "notifications/resources/list_changed"
            | "notifications/resources/updated"
            | "notifications/tools/list_changed" => true,
            "notifications/elicitation/complete" | "notifications/tasks/status" => self == Self::Legacy,
            "notifications/subscriptions/acknowledged" | "notifications/tasks" => self == Self::Modern,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests;
