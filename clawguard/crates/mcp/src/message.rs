//! JSON-RPC 2.0 as MCP has it: one message at a time, and nothing in it but what the protocol names.
//!
//! What is read is taken apart, judged, and put together anew: what is forwarded holds no member that nobody looked at.

use std::fmt;

use crate::json::{self, Json};

/// The version, the only one there is.
const VERSION: &str = "2.0";

/// Bytes that a method's name may have.
pub const METHOD: usize = 128;

/// Bytes that an id may have, if it is a string.
pub const ID: usize = 256;

/// Whole numbers up to this one are the same for every reader: 2^53 - 1.
pub const WHOLE: i64 = (1 << 53) - 1;

/// Codes of JSON-RPC 2.0, section 5.1.
pub mod code {
    /// Not JSON, or not JSON that is read here.
    pub const PARSE: i64 = -32700;
    /// JSON, but no message.
    pub const INVALID_REQUEST: i64 = -32600;
    /// No such method.
    pub const METHOD_NOT_FOUND: i64 = -32601;
    /// Parameters that do not fit; in MCP also a tool, prompt or resource that does not exist.
    pub const INVALID_PARAMS: i64 = -32602;
    /// Something went wrong.
    pub const INTERNAL: i64 = -32603;
}

/// What a request is answered by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Id {
    /// A whole number, between -[`WHOLE`] and [`WHOLE`].
    Number(i64),
    /// A text of at most [`ID`] bytes.
    String(Box<str>),
}

impl Id {
    /// Reads an id: a string, or a number that is written as a whole one.
    #[must_use]
    pub fn read(json: &Json) -> Option<Self> {
        match json {
            Json::String(text) if text.len() <= ID => Some(Self::String(text.clone())),
            Json::Number(_) => json.as_i64().filter(|number| (-WHOLE..=WHOLE).contains(number)).map(Self::Number),
            _ => None,
        }
    }
}

impl From<Id> for Json {
    fn from(id: Id) -> Self {
        match id {
            Id::Number(number) => number.into(),
            Id::String(text) => Self::String(text),
        }
    }
}

/// As it stands in a message: a string in quotation marks, so that `1` and `"1"` differ.
impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Json::from(self.clone()).fmt(f)
    }
}

/// Something that is asked, and will be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What the answer will name.
    pub id: Id,
    /// What is asked for.
    pub method: Box<str>,
    /// An object, if it is there.
    pub params: Option<Json>,
}

/// Something that is told, and is not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// What is told.
    pub method: Box<str>,
    /// An object, if it is there.
    pub params: Option<Json>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Which request it answers. Only an error may lack it: of a request whose id could not be read.
    pub id: Option<Id>,
    /// What became of the request.
    pub outcome: Outcome,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done: an object.
    Result(Json),
    /// It was not.
    Error(Error),
}

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The kind of error, see [`code`].
    pub code: i64,
    /// A short sentence.
    pub message: Box<str>,
    /// Anything beyond.
    pub data: Option<Json>,
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Something that is asked.
    Request(Request),
    /// Something that is told.
    Notification(Notification),
    /// An answer.
    Response(Response),
}

/// Why something is no message. It repeats nothing of what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// No JSON that is read here.
    #[error(transparent)]
    Json(#[from] json::Flaw),
    /// Several messages at once.
    #[error("a list of messages (a batch) is not taken, send one message at a time")]
    Batch,
    /// No object.
    #[error("a message is an object")]
    NotAnObject,
    /// Another protocol.
    #[error("the member \"jsonrpc\" has to be \"2.0\"")]
    Version,
    /// A member that JSON-RPC does not know, or not in this kind of message.
    #[error("a message has a member that does not belong there")]
    Member,
    /// No message of any kind.
    #[error("a message has a \"method\", a \"result\" or an \"error\"")]
    Kind,
    /// No id that can be given back as it came.
    #[error("the member \"id\" has to be a string of at most {ID} bytes or a whole number of at most 53 bits")]
    Id,
    /// No name of a method.
    #[error("the member \"method\" has to be a string of 1 to {METHOD} printable ASCII characters")]
    Method,
    /// No object.
    #[error("the member \"params\" has to be an object, or not be there")]
    Params,
    /// No object.
    #[error("the member \"result\" has to be an object")]
    Result,
    /// No error as JSON-RPC has it.
    #[error(
        "the member \"error\" has to be an object with a whole number \"code\", a string \"message\" and at most \"data\""
    )]
    Error,
}

impl Flaw {
    /// The code by which it is answered.
    #[must_use]
    pub const fn code(self) -> i64 {
        match self {
            Self::Json(_) => code::PARSE,
            Self::Params => code::INVALID_PARAMS,
            _ => code::INVALID_REQUEST,
        }
    }
}

/// The members of a message, as they came.
#[derive(Default)]
struct Members {
    version: bool,
    id: Option<Json>,
    method: Option<Json>,
    params: Option<Json>,
    result: Option<Json>,
    error: Option<Json>,
}

impl Message {
    /// Reads a message from its text.
    ///
    /// # Errors
    ///
    /// The first [`Flaw`] found.
    pub fn parse(bytes: &[u8]) -> Result<Self, Flaw> {
        Self::read(json::parse(bytes)?)
    }

    /// Reads a message.
    ///
    /// # Errors
    ///
    /// The first [`Flaw`] found.
    pub fn read(json: Json) -> Result<Self, Flaw> {
        let members = match json {
            Json::Object(members) => members,
            Json::Array(_) => return Err(Flaw::Batch),
            _ => return Err(Flaw::NotAnObject),
        };
        let mut there = Members::default();
        for (name, value) in members {
            let place = match &*name {
                "jsonrpc" => {
                    there.version = value.as_str() == Some(VERSION);
                    continue;
                }
                "id" => &mut there.id,
                "method" => &mut there.method,
                "params" => &mut there.params,
                "result" => &mut there.result,
                "error" => &mut there.error,
                _ => return Err(Flaw::Member),
            };
            *place = Some(value);
        }
        there.message()
    }

    /// What it asks for or tells; an answer has no method.
    #[must_use]
    pub fn method(&self) -> Option<&str> {
        match self {
            Self::Request(Request { method, .. }) | Self::Notification(Notification { method, .. }) => Some(method),
            Self::Response(_) => None,
        }
    }

    /// The parameters of what it asks for or tells.
    #[must_use]
    pub const fn params(&self) -> Option<&Json> {
        match self {
            Self::Request(Request { params, .. }) | Self::Notification(Notification { params, .. }) => params.as_ref(),
            Self::Response(_) => None,
        }
    }

    /// The id of a request or an answer.
    #[must_use]
    pub const fn id(&self) -> Option<&Id> {
        match self {
            Self::Request(request) => Some(&request.id),
            Self::Response(response) => response.id.as_ref(),
            Self::Notification(_) => None,
        }
    }

    /// Writes it on one line, without the line's end: exactly what was judged.
    pub fn write(&self, into: &mut Vec<u8>) {
        match self {
            Self::Request(request) => {
                opening(into, Some(&request.id));
                asked(into, &request.method, request.params.as_ref());
            }
            Self::Notification(notification) => {
                opening(into, None);
                asked(into, &notification.method, notification.params.as_ref());
            }
            Self::Response(response) => {
                opening(into, response.id.as_ref());
                match &response.outcome {
                    Outcome::Result(result) => {
                        into.extend_from_slice(b",\"result\":");
                        result.write(into);
                    }
                    Outcome::Error(error) => {
                        // JSON-RPC 2.0 section 5: null where the id is not known.
                        if response.id.is_none() {
                            into.extend_from_slice(b",\"id\":null");
                        }
                        into.extend_from_slice(b",\"error\":{\"code\":");
                        into.extend_from_slice(error.code.to_string().as_bytes());
                        into.extend_from_slice(b",\"message\":");
                        text(into, &error.message);
                        if let Some(data) = &error.data {
                            into.extend_from_slice(b",\"data\":");
                            data.write(into);
                        }
                        into.push(b'}');
                    }
                }
            }
        }
        into.push(b'}');
    }

    /// What [`Message::write`] writes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(512);
        self.write(&mut bytes);
        bytes
    }
}

fn opening(into: &mut Vec<u8>, id: Option<&Id>) {
    into.extend_from_slice(b"{\"jsonrpc\":\"2.0\"");
    if let Some(id) = id {
        into.extend_from_slice(b",\"id\":");
        match id {
            Id::Number(number) => into.extend_from_slice(number.to_string().as_bytes()),
            Id::String(id) => text(into, id),
        }
    }
}

fn asked(into: &mut Vec<u8>, method: &str, params: Option<&Json>) {
    into.extend_from_slice(b",\"method\":");
    text(into, method);
    if let Some(params) = params {
        into.extend_from_slice(b",\"params\":");
        params.write(into);
    }
}

fn text(into: &mut Vec<u8>, text: &str) {
    json::write_str(text, into);
}

impl Members {
    fn message(self) -> Result<Message, Flaw> {
        if !self.version {
            return Err(Flaw::Version);
        }
        match (self.method, self.result, self.error) {
            (Some(method), None, None) => {
                let Json::String(method) = method else { return Err(Flaw::Method) };
                if !(1..=METHOD).contains(&method.len()) || !method.bytes().all(|byte| byte.is_ascii_graphic()) {
                    return Err(Flaw::Method);
                }
                if self.params.as_ref().is_some_and(|params| !params.is_object()) {
                    return Err(Flaw::Params);
                }
                let params = self.params;
                Ok(match self.id {
                    None => Message::Notification(Notification { method, params }),
                    Some(id) => Message::Request(Request { id: Id::read(&id).ok_or(Flaw::Id)?, method, params }),
                })
            }
            (None, Some(result), None) if self.params.is_none() => {
                let id = self.id.as_ref().and_then(Id::read).ok_or(Flaw::Id)?;
                if result.is_object() { Ok(self::result(id, result)) } else { Err(Flaw::Result) }
            }
            (None, None, Some(error)) if self.params.is_none() => {
                let id = match self.id {
                    None | Some(Json::Null) => None,
                    Some(id) => Some(Id::read(&id).ok_or(Flaw::Id)?),
                };
                let error = Error::read(error).ok_or(Flaw::Error)?;
                Ok(Message::Response(Response { id, outcome: Outcome::Error(error) }))
            }
            (None, None, None) => Err(Flaw::Kind),
            _ => Err(Flaw::Member),
        }
    }
}

impl Error {
    /// Reads what an answer has as "error".
    fn read(json: Json) -> Option<Self> {
        let Json::Object(members) = json else { return None };
        let (mut code, mut message, mut data) = (None, None, None);
        for (name, value) in members {
            match (&*name, value) {
                ("code", value) => code = Some(value.as_i64().filter(|code| (-WHOLE..=WHOLE).contains(code))?),
                ("message", Json::String(text)) => message = Some(text),
                ("data", value) => data = Some(value),
                _ => return None,
            }
        }
        Some(Self { code: code?, message: message?, data })
    }
}

/// The answer to a request that was done. What is given is to be an object.
#[must_use]
pub const fn result(id: Id, result: Json) -> Message {
    Message::Response(Response { id: Some(id), outcome: Outcome::Result(result) })
}

/// The answer to a request that was not done.
#[must_use]
pub fn error(id: Option<Id>, code: i64, message: &str, data: Option<Json>) -> Message {
    Message::Response(Response { id, outcome: Outcome::Error(Error { code, message: message.into(), data }) })
}

/// Something that is told.
#[must_use]
pub fn notification(method: &str, params: Option<Json>) -> Message {
    Message::Notification(Notification { method: method.into(), params })
}

/// Something that is asked.
#[must_use]
pub fn request(id: Id, method: &str, params: Option<Json>) -> Message {
    Message::Request(Request { id, method: method.into(), params })
}

/// The id of something that may be no message, so that what refuses it can name it.
#[must_use]
pub fn id_of(json: &Json) -> Option<Id> {
    json.get("id").and_then(Id::read)
}

#[cfg(test)]
mod tests;
