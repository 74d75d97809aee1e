//! What a request asks for, so that it can be judged.

use mcp::{era::Era, json::Json};
use policy::mcp::What;

/// What a request needs to be passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asks<'a> {
    /// Nothing: it concerns the two ends only.
    Free,
    /// The contract's word on a tool.
    Tool,
    /// The contract's word on each of these; and whether the call belongs in the audit chain.
    Others(Vec<What<'a>>, bool),
    /// It is no request of this era, or does not say what it is about.
    Unknown,
}

/// What is to be made of the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It passes as it is.
    Plain,
    /// Capabilities, and who the server is.
    Greeting,
    /// A list of tools; whether it begins here.
    Tools { first: bool },
    /// A list of something else.
    List(&'static str),
    /// What a tool gave, or a resource or prompt: it is looked through for data.
    Content,
    /// The same of a call that may come as a task.
    Tool,
    /// Notifications that a client asked for; whether it wants to know that tools changed.
    Listen { tools: bool },
}

/// Tells what a request asks for.
pub(crate) fn asks<'a>(method: &str, params: Option<&'a Json>, era: Era) -> (Asks<'a>, Kind) {
    let text = |name: &str| params.and_then(|params| params.get(name)).and_then(Json::as_str);
    let legacy = era == Era::Legacy;
    let of = |what: Option<What<'a>>, kind| match what {
        Some(what) => (Asks::Others(vec![what], kind == Kind::Content), kind),
        None => (Asks::Unknown, Kind::Plain),
    };
    match method {
        "tools/call" => (Asks::Tool, Kind::Tool),
        "tools/list" => (Asks::Free, Kind::Tools { first: text("cursor").is_none() }),
        "server/discover" if !legacy => (Asks::Free, Kind::Greeting),
        "subscriptions/listen" if !legacy => {
            let wanted = params.and_then(|params| params.get("notifications")?.get("resourceSubscriptions"));
            let uris = wanted.and_then(Json::as_array).unwrap_or_default();
            let resources: Option<Vec<What<'_>>> = uris.iter().map(|uri| uri.as_str().map(What::Resource)).collect();
            let tools = params.and_then(|params| params.at(&["notifications", "toolsListChanged"]));
            let kind = Kind::Listen { tools: tools.and_then(Json::as_bool) == Some(true) };
            match resources {
                Some(whats) => (Asks::Others(whats, false), kind),
                None => (Asks::Unknown, Kind::Plain),
            }
        }
        "ping" if legacy => (Asks::Free, Kind::Plain),
        "resources/list" => of(Some(What::Resources), Kind::List("resources")),
        "resources/templates/list" => of(Some(What::Resources), Kind::List("resourceTemplates")),
        "resources/read" => of(text("uri").map(What::Resource), Kind::Content),
        "resources/subscribe" | "resources/unsubscribe" if legacy => of(text("uri").map(What::Resource), Kind::Plain),
        "prompts/list" => of(Some(What::Prompts), Kind::List("prompts")),
        "prompts/get" => of(text("name").map(What::Prompt), Kind::Content),
        "completion/complete" => {
            let about = params.and_then(|params| params.get("ref"));
            let member = |name: &str| about.and_then(|about| about.get(name)).and_then(Json::as_str);
            let about = match member("type") {
                Some("ref/prompt") => member("name").map(What::Prompt),
                Some("ref/resource") => member("uri").map(What::Resource),
                _ => None,
            };
            match about {
                Some(about) => (Asks::Others(vec![What::Completion, about], true), Kind::Content),
                None => (Asks::Unknown, Kind::Plain),
            }
        }
        "logging/setLevel" if legacy => of(Some(What::Logging), Kind::Plain),
        // Which tasks are whose is looked at where they are known.
        "tasks/result" if legacy => of(Some(What::Tasks), Kind::Content),
        // The newer era has no other way to the result, and servers ask for input in it.
        "tasks/get" if !legacy => of(Some(What::Tasks), Kind::Content),
        "tasks/update" if !legacy => of(Some(What::Tasks), Kind::Plain),
        "tasks/get" | "tasks/cancel" => of(Some(What::Tasks), Kind::Plain),
        "tasks/list" if legacy => of(Some(What::Tasks), Kind::List("tasks")),
        _ => (Asks::Unknown, Kind::Plain),
    }
}

/// What a server asks of a client; `None` for what no contract gives.
pub(crate) fn asked_back<'a>(method: &str, params: Option<&'a Json>) -> Option<What<'a>> {
    let mode = params.and_then(|params| params.get("mode")).and_then(Json::as_str);
    match method {
        "sampling/createMessage" => Some(What::Sampling),
        "elicitation/create" => {
            Some(if matches!(mode, None | Some("form")) { What::Elicitation } else { What::ElicitationUrl })
        }
        "roots/list" => Some(What::Roots),
        _ => None,
    }
}

/// The notifications that a client may send.
pub(crate) fn told(method: &str, era: Era) -> Option<Option<What<'static>>> {
    match method {
        "notifications/cancelled" => Some(None),
        "notifications/initialized" | "notifications/progress" if era == Era::Legacy => Some(None),
        "notifications/roots/list_changed" if era == Era::Legacy => Some(Some(What::Roots)),
        _ => None,
    }
}

/// The capabilities that a server declares, and what of a contract would be needed for any use of them.
pub(crate) const CAPABILITIES: [(&str, What<'static>); 5] = [
    ("resources", What::Resources),
    ("prompts", What::Prompts),
    ("completions", What::Completion),
    ("logging", What::Logging),
    ("tasks", What::Tasks),
];

/// Those that a client declares.
pub(crate) const CLIENT_CAPABILITIES: [(&str, What<'static>); 4] =
    [("sampling", What::Sampling), ("elicitation", What::Elicitation), ("roots", What::Roots), ("tasks", What::Tasks)];
