//! What the first bytes of a flow look like that should have been TLS: a call of a model, or of an MCP server.
//!
//! They only raise suspicion. The flow is refused already, and whoever wants to can begin otherwise.

/// What a flow's first bytes look like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Spoken {
    /// A model's API.
    Model,
    /// The Model Context Protocol.
    Mcp,
}

/// Methods of the Model Context Protocol (specification 2025-06-18), as JSON strings.
const MCP_METHODS: [&str; 20] = [
    "\"initialize\"",
    "\"notifications/initialized\"",
    "\"notifications/cancelled\"",
    "\"notifications/progress\"",
    "\"ping\"",
    "\"tools/list\"",
    "\"tools/call\"",
    "\"resources/list\"",
    "\"resources/templates/list\"",
    "\"resources/read\"",
    "\"resources/subscribe\"",
    "\"resources/unsubscribe\"",
    "\"prompts/list\"",
    "\"prompts/get\"",
    "\"completion/complete\"",
    "\"logging/setLevel\"",
    "\"roots/list\"",
    "\"sampling/createMessage\"",
    "\"elicitation/create\"",
    "\"server/discover\"",
];

/// Headers of MCP over HTTP, in lower case.
const MCP_HEADERS: [&str; 2] = ["\nmcp-session-id:", "\nmcp-protocol-version:"];

/// Parts of the paths under which models are called.
const MODEL_PATHS: [&str; 12] = [
    "/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/complete",
    "/v1/embeddings",
    ":generateContent",
    ":streamGenerateContent",
    "/api/generate",
    "/api/chat",
    "/converse",
    "/invoke-with-response-stream",
];

/// Headers that only clients of models send, in lower case.
const MODEL_HEADERS: [&str; 3] = ["\nanthropic-version:", "\nx-goog-api-key:", "\nopenai-organization:"];

/// What stands beside `"model"` in a call of one.
const MODEL_FIELDS: [&str; 6] =
    ["\"messages\"", "\"prompt\"", "\"input\"", "\"contents\"", "\"max_tokens\"", "\"stream\""];

/// What a flow looks like that begins with these bytes, if it looks like either.
pub(crate) fn spoken(began: &[u8]) -> Option<Spoken> {
    // A slash may be written with a backslash before it (RFC 8259 section 7).
    let text = String::from_utf8_lossy(began).replace("\\/", "/");
    let path = path(&text);
    let head = if path.is_some() { text.to_ascii_lowercase() } else { String::new() };
    let any = |parts: &[&str], of: &str| parts.iter().any(|part| of.contains(part));
    let rpc = text.contains("\"jsonrpc\"") && any(&MCP_METHODS, &text);
    if rpc || any(&MCP_HEADERS, &head) || path.is_some_and(|path| path == "/mcp" || path.ends_with("/mcp")) {
        return Some(Spoken::Mcp);
    }
    let called = path.is_some_and(|path| any(&MODEL_PATHS, path)) || any(&MODEL_HEADERS, &head);
    let asked = text.contains("\"model\"") && any(&MODEL_FIELDS, &text);
    (called || asked).then_some(Spoken::Model)
}

/// The path of an HTTP/1 request, which may be cut off.
fn path(text: &str) -> Option<&str> {
    let (method, rest) = text.split_once(' ')?;
    let is_method = !method.is_empty() && method.bytes().all(|byte| byte.is_ascii_uppercase());
    let target = rest.split([' ', '\r', '\n']).next().filter(|_| is_method)?;
    target.split(['?', '#']).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_mcp_servers_are_known_by_their_words() {
        for began in [
            "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{",
            "{ \"method\": \"initialize\", \"id\": 0, \"jsonrpc\": \"2.0\" }",
            "{\"jsonrpc\":\"2.0\",\"method\":\"tools\\/list\"}",
            "[{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}]",
            "POST /rpc HTTP/1.1\r\nHost: x\r\n\r\n{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/list\"}",
            "POST /mcp HTTP/1.1\r\nHost: x\r\n",
            "POST /v1/mcp?x=y HTTP/1.1\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\nMcp-Session-Id: 1\r\n",
            "GET / HTTP/1.1\r\nMCP-Protocol-Version: 2025-06-18\r\n",
        ] {
            assert_eq!(spoken(began.as_bytes()), Some(Spoken::Mcp), "{began}");
        }
    }

    #[test]
    fn calls_of_models_are_known_by_their_words() {
        for began in [
            "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n",
            "POST http://llm.corp.example/v1/chat/completions HTTP/1.1\r\n",
            "POST /v1/messages HTTP/1.1\r\n",
            "POST /v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse HTTP/1.1\r\n",
            "POST /api/chat HTTP/1.1\r\n",
            "POST /x HTTP/1.1\r\nAnthropic-Version: 2023-06-01\r\n",
            "{\"model\": \"a\", \"messages\": [",
            "POST /v1/chat/comp",
            "POST /x HTTP/1.1\r\n\r\n{\"prompt\":\"a\",\"model\":\"b\"}",
        ] {
            let expected = (began != "POST /v1/chat/comp").then_some(Spoken::Model);
            assert_eq!(spoken(began.as_bytes()), expected, "{began}");
        }
    }

    #[test]
    fn whatever_else_is_said_is_nothing() {
        for began in [
            "",
            " ",
            "GET / HTTP/1.1\r\nHost: crm.example\r\n",
            "post /mcp HTTP/1.1\r\n",
            "{\"jsonrpc\":\"2.0\",\"method\":\"eth_blockNumber\"}",
            "{\"method\":\"tools/call\"}",
            "{\"model\":\"Beetle\",\"year\":1963}",
            "SSH-2.0-OpenSSH_9.9\r\n",
            "EHLO mcp.example\r\n",
            "we spoke of /v1/chat/completions",
        ] {
            assert_eq!(spoken(began.as_bytes()), None, "{began}");
        }
        assert_eq!(spoken(&[0xff, 0, 0x16, 3, 1]), None);
    }
}
