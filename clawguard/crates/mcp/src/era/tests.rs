use super::*;
use crate::header;

const META: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;

fn request(method: &str, params: &str) -> Message {
    Message::parse(format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{{params}}}}}"#).as_bytes())
        .unwrap()
}

fn judged(headers: &[(&str, &str)], message: &Message) -> Result<Era, Flaw> {
    check(&Headers::read(headers.iter().map(|(name, value)| (*name, value.as_bytes())))?, message)
}

fn code(headers: &[(&str, &str)], message: &Message) -> i64 {
    judged(headers, message).unwrap_err().code()
}

#[test]
fn a_message_that_names_no_version_is_legacy() {
    let call = request("tools/call", r#""name":"x""#);
    assert_eq!(judged(&[], &call), Ok(Era::Legacy));
    for version in LEGACY {
        assert_eq!(judged(&[("MCP-Protocol-Version", version)], &call), Ok(Era::Legacy));
        let answer = message::result(Id::Number(1), Json::object([]));
        assert_eq!(judged(&[("MCP-Protocol-Version", version)], &answer), Ok(Era::Legacy));
    }
    // Headers of the other era say nothing in this one.
    assert_eq!(judged(&[("Mcp-Method", "tools/list"), ("Mcp-Name", "y")], &call), Ok(Era::Legacy));
}

#[test]
fn a_message_that_names_its_version_is_modern_and_has_its_headers() {
    let call = request("tools/call", &format!(r#""name":"x",{META}"#));
    let headers = [("mcp-protocol-version", MODERN), ("MCP-METHOD", "tools/call"), ("Mcp-Name", "  x ")];
    assert_eq!(judged(&headers, &call), Ok(Era::Modern));
    // As the gateway itself makes them.
    let made = header::mirrored("tools/call", call.params(), &[]);
    let made: Vec<(&str, &str)> = made.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(judged(&made, &call), Ok(Era::Modern));
    for missing in 0..headers.len() {
        let some: Vec<_> =
            headers.iter().enumerate().filter(|(i, _)| *i != missing).map(|(_, header)| *header).collect();
        assert_eq!(code(&some, &call), -32020, "{missing}");
    }
}

#[test]
fn a_header_that_says_something_else_is_refused() {
    let call = request("tools/call", &format!(r#""name":"x",{META}"#));
    for (version, method, name) in [
        ("2025-11-25", "tools/call", "x"),
        ("v999.0.0", "tools/call", "x"),
        (MODERN, "tools/list", "x"),
        (MODERN, "TOOLS/CALL", "x"),
        (MODERN, "tools/call", "y"),
        (MODERN, "tools/call", "X"),
        (MODERN, "tools/call", "=?base64?eQ==?="),
        (MODERN, "tools/call", ""),
    ] {
        let headers = [("mcp-protocol-version", version), ("mcp-method", method), ("mcp-name", name)];
        assert_eq!(code(&headers, &call), -32020, "{headers:?}");
    }
    // Nor does one that is there twice, though both say the same.
    let headers =
        [("mcp-protocol-version", MODERN), ("mcp-method", "tools/call"), ("mcp-name", "x"), ("Mcp-Name", "x")];
    assert_eq!(code(&headers, &call), -32020);
    // Nothing in the body to say the same as.
    let nameless = request("tools/call", META);
    assert_eq!(code(&headers[..3], &nameless), -32020);
}

#[test]
fn a_request_says_its_version_and_what_its_client_can() {
    let headers = [("mcp-protocol-version", MODERN), ("mcp-method", "server/discover")];
    let version = format!(r#""{PROTOCOL_VERSION}":"{MODERN}""#);
    let can = format!(r#""{CLIENT_CAPABILITIES}":{{}}"#);
    for params in [
        String::new(),
        r#""_meta":null"#.into(),
        r#""_meta":[]"#.into(),
        r#""_meta":{}"#.into(),
        format!(r#""_meta":{{{version}}}"#),
        format!(r#""_meta":{{{can}}}"#),
        format!(r#""_meta":{{"{PROTOCOL_VERSION}":20260728,{can}}}"#),
        format!(r#""_meta":{{{version},"{CLIENT_CAPABILITIES}":[]}}"#),
        format!(r#""_meta":{{{version},{can},"{CLIENT_INFO}":"me"}}"#),
    ] {
        let flaw = judged(&headers, &request("server/discover", &params)).unwrap_err();
        assert_eq!((flaw.code(), flaw.status()), (-32602, 400), "{params}");
    }
    assert_eq!(judged(&headers, &request("server/discover", META)), Ok(Era::Modern));
    let own = Message::Request(message::Request {
        id: Id::Number(1),
        method: "server/discover".into(),
        params: Some(Json::object([("_meta", own_meta())])),
    });
    assert_eq!(judged(&headers, &own), Ok(Era::Modern));
}

#[test]
fn an_unknown_version_is_told_what_is_spoken() {
    let other = META.replace(MODERN, "v999.0.0");
    let headers = [("mcp-protocol-version", "v999.0.0"), ("mcp-method", "server/discover")];
    let flaw = judged(&headers, &request("server/discover", &other)).unwrap_err();
    assert_eq!(
        String::from_utf8(flaw.answer(Some(Id::Number(301))).to_bytes()).unwrap(),
        r#"{"jsonrpc":"2.0","id":301,"error":{"code":-32022,"message":"Unsupported protocol version","data":{"supported":["2026-07-28"],"requested":"v999.0.0"}}}"#
    );
    // Nor does the header alone make it known, or a version of before that came in the new way.
    assert_eq!(code(&headers, &request("tools/list", "")), -32022);
    let before = META.replace(MODERN, "2025-11-25");
    let headers = [("mcp-protocol-version", "2025-11-25"), ("mcp-method", "tools/list")];
    assert_eq!(code(&headers, &request("tools/list", &before)), -32022);
}

#[test]
fn answers_and_notifications_have_their_rules_too() {
    let version = ("mcp-protocol-version", MODERN);
    assert_eq!(code(&[version], &message::result(Id::Number(1), Json::object([]))), -32600);
    let told = message::notification("notifications/cancelled", None);
    assert_eq!(judged(&[version], &told), Ok(Era::Modern));
    assert_eq!(code(&[version, ("mcp-method", "tools/call")], &told), -32020);
}

#[test]
fn tasks_are_named_in_the_header() {
    let message = request("tasks/get", &format!(r#""taskId":"t-1",{META}"#));
    let headers = [("mcp-protocol-version", MODERN), ("mcp-method", "tasks/get"), ("mcp-name", "t-1")];
    assert_eq!(judged(&headers, &message), Ok(Era::Modern));
    assert_eq!(code(&headers[..2], &message), -32020);
}

#[test]
fn each_era_has_its_methods() {
    for (method, legacy, modern) in [
        ("initialize", true, false),
        ("server/discover", false, true),
        ("tools/call", true, true),
        ("tools/Call", false, false),
        ("tasks/result", true, false),
        ("tasks/update", false, true),
        ("ping", true, false),
        ("sampling/createMessage", false, false),
        ("notifications/cancelled", false, false),
    ] {
        assert_eq!((Era::Legacy.asks(method), Era::Modern.asks(method)), (legacy, modern), "{method}");
    }
    assert!(Era::Legacy.tells("notifications/initialized") && !Era::Modern.tells("notifications/initialized"));
    assert!(Era::Legacy.asks_back("sampling/createMessage") && !Era::Legacy.asks_back("tools/call"));
    assert!(Era::Modern.tells_back("notifications/subscriptions/acknowledged"));
    assert!(!Era::Legacy.tells_back("notifications/initialized"));
}

#[test]
fn errors_have_their_status() {
    for (code, expected) in [
        (-32020, Some(400)),
        (-32021, Some(400)),
        (-32022, Some(400)),
        (-32700, Some(400)),
        (-32600, Some(400)),
        (-32601, Some(404)),
        (-32602, None),
        (-32603, None),
        (1, None),
    ] {
        assert_eq!(status(code), expected, "{code}");
    }
}
