//! Refusals, in the shapes that clients understand.

use bytes::Bytes;
use hyper::{Response, StatusCode};
use mcp::{
    decide::Reason,
    era::{self, Era},
    json::Json,
    message::{self, Id, Message, code},
};

use super::{
    ask::Kind,
    reply::{self, Reply},
    upstream::Failure,
};

/// Refused by policy. Outside of what JSON-RPC and MCP have for themselves.
pub(crate) const REFUSED: i64 = -31000;

/// A refusal for whoever asked, before it is known what was asked.
pub(crate) fn plain(status: StatusCode, code: i64, message: &str) -> Response<Reply> {
    reply::json(status, message::error(None, code, message, None).to_bytes())
}

/// A text as the result of a tool that did not do what it was asked.
pub(crate) fn tool_error(id: &Id, text: &str, era: Era) -> Message {
    let content = Json::object([("type", Json::String("text".into())), ("text", Json::String(text.into()))]);
    let mut result = Json::object([("content", Json::Array(vec![content])), ("isError", Json::Bool(true))]);
    if era == Era::Modern {
        result.set("resultType", Json::String("complete".into()));
    }
    message::result(id.clone(), result)
}

/// What becomes of a call of a tool that is not made.
pub(crate) fn tool_refused(id: &Id, tool: &str, reason: Reason, note: Option<&str>, era: Era) -> Message {
    if reason.hides() {
        return message::error(Some(id.clone()), code::INVALID_PARAMS, &format!("Unknown tool: {tool}"), None);
    }
    let mut text = format!("ClawGuard did not make this call ({reason}): {}.", reason.sentence());
    if let Some(note) = note {
        text.push(' ');
        text.push_str(note);
    }
    tool_error(id, &text, era)
}

/// What becomes of anything else that is not passed on.
pub(crate) fn refused(id: &Id, method: &str, target: &str, reason: Reason) -> Message {
    let id = Some(id.clone());
    if !reason.hides() {
        return message::error(id, REFUSED, &format!("refused ({reason}): {}", reason.sentence()), None);
    }
    match method {
        // As a server says it that has no such thing.
        "resources/read" | "resources/subscribe" | "resources/unsubscribe" => {
            message::error(id, code::INVALID_PARAMS, &format!("Resource not found: {target}"), None)
        }
        "prompts/get" => message::error(id, code::INVALID_PARAMS, &format!("Unknown prompt: {target}"), None),
        _ => message::error(id, code::METHOD_NOT_FOUND, &format!("Method not found: {method}"), None),
    }
}

/// Whether a request's client declares that it knows of tasks.
pub(crate) fn knows_of_tasks(params: Option<&Json>) -> bool {
    params.and_then(|params| params.at(&["_meta", era::CLIENT_CAPABILITIES, "extensions", era::TASKS])).is_some()
}

/// The answer to one that does not.
pub(crate) fn without_tasks(id: &Id) -> Message {
    let extensions = Json::object([(era::TASKS, Json::object([]))]);
    let data = Json::object([("requiredCapabilities", Json::object([("extensions", extensions)]))]);
    let text = "the client did not declare the extension for tasks";
    message::error(Some(id.clone()), era::code::MISSING_CAPABILITY, text, Some(data))
}

/// What becomes of a request that the server did not answer.
pub(crate) fn failed(id: &Id, is_tool: bool, failure: &Failure, era: Era) -> Message {
    if is_tool {
        tool_error(id, &format!("The call was made, but {failure}."), era)
    } else {
        message::error(Some(id.clone()), code::INTERNAL, &failure.to_string(), None)
    }
}

/// A message as a reply.
pub(crate) fn reply(status: StatusCode, message: &Message) -> Response<Reply> {
    reply::json(status, Bytes::from(message.to_bytes()))
}

/// What becomes of a call that a kill ended.
pub(crate) fn killed(id: &Id, is_tool: bool, era: Era) -> Message {
    let reason = Reason::Killed;
    let text = format!("ClawGuard ended this call ({reason}): {}.", reason.sentence());
    refusal(id, is_tool, &text, era)
}

/// What becomes of an answer that could not be recorded.
pub(crate) fn unrecorded(id: &Id, is_tool: bool, era: Era) -> Message {
    let text = "The call was made, but its answer is withheld: the host could not record it.";
    refusal(id, is_tool, text, era)
}

/// What becomes of an answer that carries what the contract denies.
pub(crate) fn denied_content(id: &Id, kind: &Kind, text: &str, era: Era) -> Message {
    refusal(id, *kind == Kind::Tool, text, era)
}

fn refusal(id: &Id, is_tool: bool, text: &str, era: Era) -> Message {
    if is_tool { tool_error(id, text, era) } else { message::error(Some(id.clone()), REFUSED, text, None) }
}
