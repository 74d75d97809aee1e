//! What a request asks of whom: the model, whether it streams, and what the provider would do by itself.

use mcp::json::Json;
use policy::model::NAME;

use super::{
    remote,
    routes::{Api, Query},
};

/// A request, as it will be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) provider: &'static str,
    pub(crate) model: Box<str>,
    pub(crate) streamed: bool,
    /// The path and query, behind what the provider's URL has.
    pub(crate) target: String,
    /// Whether it has a tool that the provider would run itself, or something that it would fetch.
    pub(crate) remote_tool: bool,
    pub(crate) credential: Credential,
}

/// How a provider is shown the host's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Credential {
    /// `Authorization: Bearer`
    Bearer,
    /// `x-api-key`
    Anthropic,
    /// `x-goog-api-key`
    Google,
}

/// Why a request is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// Nobody knows the provider.
    Provider,
    /// What is wrong with it.
    Request(&'static str),
    /// A clawproxy has no such route.
    Route,
}

/// In whose words a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Words {
    Chat,
    Responses,
    Messages,
    Google,
}

/// Reads a request. What is read is what is sent: the model that the provider will see, and nothing that it could read otherwise.
pub(crate) fn read(api: Api<'_>, query: Query, body: &Json, proxied: bool) -> Result<Asked, Flaw> {
    let Some(members) = body.as_object() else { return Err(Flaw::Request("the body is no JSON object")) };
    if !members.iter().all(|(name, _)| is_read_one_way(name)) {
        return Err(Flaw::Request("a member's name is one that readers which pass over case would take for another"));
    }
    let openai =
        || if body.get("input").is_some() && body.get("messages").is_none() { Words::Responses } else { Words::Chat };
    let (provider, words) = match api {
        Api::Chat => ("openai", Words::Chat),
        Api::Responses => ("openai", Words::Responses),
        Api::Messages => ("anthropic", Words::Messages),
        Api::Proxy("openai") => ("openai", openai()),
        Api::Proxy("anthropic") => ("anthropic", Words::Messages),
        Api::Proxy("google") if openai() == Words::Chat => ("google", Words::Chat),
        Api::Proxy("google") => return Err(Flaw::Request("google answers chat completions: messages are missing")),
        Api::Proxy(_) => return Err(Flaw::Provider),
        Api::Google { .. } if proxied => return Err(Flaw::Route),
        Api::Google { .. } => ("google", Words::Google),
    };
    if (query.events && words != Words::Google) || (query.beta && words != Words::Messages) {
        return Err(Flaw::Request("the query belongs to another provider's API"));
    }
    let (model, streamed) = match api {
        Api::Google { model, streamed } => {
            let named =
                |named: &Json| named.as_str().map(|text| text.strip_prefix("models/").unwrap_or(text)) == Some(model);
            if body.get("model").is_some_and(|other| !named(other)) {
                return Err(Flaw::Request("the body names another model than the path"));
            }
            (model, streamed)
        }
        _ => {
            let model = body.get("model").and_then(Json::as_str).ok_or(Flaw::Request("the body names no model"))?;
            let streamed = match body.get("stream") {
                None | Some(Json::Null) => false,
                Some(value) => value.as_bool().ok_or(Flaw::Request("\"stream\" is neither true nor false"))?,
            };
            (model, streamed)
        }
    };
    if model.is_empty() || model.len() > NAME || model.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(Flaw::Request("the model's name is empty, too long, or has spaces in it"));
    }
    Ok(Asked {
        provider,
        model: model.into(),
        streamed,
        target: target(api, query, provider, words, proxied),
        remote_tool: remote_tool(words, body) || remote::fetches(body),
        credential: match words {
            Words::Messages => Credential::Anthropic,
            Words::Google => Credential::Google,
            Words::Chat | Words::Responses => Credential::Bearer,
        },
    })
}

/// Members by which a call is judged.
const JUDGED: [&str; 12] = [
    "model",
    "stream",
    "tools",
    "messages",
    "input",
    "prompt",
    "container",
    "mcp_servers",
    "extra_body",
    "web_search_options",
    "contents",
    "functions",
];

/// Whether a member's name is the same one to every reader. Some providers' servers pass over case (Go's encoding/json, with what
/// Unicode folds to ASCII): `Model` behind `model` would be the model that they call.
fn is_read_one_way(name: &str) -> bool {
    name.is_ascii() && JUDGED.iter().all(|judged| *judged == name || !judged.eq_ignore_ascii_case(name))
}

fn target(api: Api<'_>, query: Query, provider: &str, words: Words, proxied: bool) -> String {
    match (api, words) {
        (Api::Proxy(_), _) if proxied => format!("/v1/proxy/{provider}"),
        (Api::Google { model, streamed }, _) => {
            let does = if streamed { "streamGenerateContent" } else { "generateContent" };
            let events = if query.events { "?alt=sse" } else { "" };
            format!("/v1beta/models/{model}:{does}{events}")
        }
        (_, Words::Chat) if provider == "google" => "/v1beta/openai/chat/completions".into(),
        (_, Words::Chat | Words::Google) => "/v1/chat/completions".into(),
        (_, Words::Responses) => "/v1/responses".into(),
        (_, Words::Messages) => if query.beta && !proxied { "/v1/messages?beta=true" } else { "/v1/messages" }.into(),
    }
}

/// Tools that a client runs itself, by how their types begin. Whatever else a provider offers it runs itself, where no contract
/// reaches: it searches the web, fetches pages, calls MCP servers.
const OF_RESPONSES: [&str; 5] = ["function", "custom", "local_shell", "apply_patch", "computer"];
const OF_MESSAGES: [&str; 6] = ["custom", "bash_", "text_editor_", "computer_", "memory_", "tool_search_tool_"];
const OF_GOOGLE: [&str; 4] = ["functionDeclarations", "function_declarations", "computerUse", "computer_use"];

/// Whether the provider would do more than answer.
fn remote_tool(words: Words, body: &Json) -> bool {
    let there = |name: &str| body.get(name).is_some_and(|value| !value.is_null());
    let tools = match body.get("tools") {
        None | Some(Json::Null) => &[],
        Some(Json::Array(tools)) => tools.as_slice(),
        // Nobody knows what a provider makes of it.
        Some(_) => return true,
    };
    let kind = |tool: &Json| tool.get("type").and_then(Json::as_str).map(str::to_owned);
    let begins = |kind: &str, known: &[&str]| known.iter().any(|known| kind.starts_with(known));
    match words {
        Words::Chat => {
            let own = |tool: &Json| matches!(kind(tool).as_deref(), Some("function" | "custom"));
            there("web_search_options") || there("extra_body") || !tools.iter().all(own)
        }
        Words::Responses => {
            let own = |tool: &Json| kind(tool).is_some_and(|kind| begins(&kind, &OF_RESPONSES));
            // A prompt that the provider keeps may have tools of its own.
            there("prompt") || !tools.iter().all(own)
        }
        Words::Messages => {
            let own = |tool: &Json| match tool.get("type") {
                None | Some(Json::Null) => true,
                Some(kind) => kind.as_str().is_some_and(|kind| begins(kind, &OF_MESSAGES)),
            };
            there("mcp_servers") || there("container") || !tools.iter().all(own)
        }
        Words::Google => {
            let own = |tool: &Json| {
                tool.as_object().is_some_and(|members| members.iter().all(|(name, _)| OF_GOOGLE.contains(&&**name)))
            };
            !tools.iter().all(own)
        }
    }
}
