use proptest::prelude::*;

use super::*;
use crate::json::parse;

fn json(text: &str) -> Json {
    parse(text.as_bytes()).unwrap()
}

fn tool(properties: &str) -> Json {
    json(&format!(r#"{{"name":"t","inputSchema":{{"type":"object","properties":{{{properties}}}}}}}"#))
}

#[test]
fn a_value_is_decoded_as_the_specification_shows() {
    for (text, value) in [
        ("us-west1", "us-west1"),
        ("Hello, 世界", "=?base64?SGVsbG8sIOS4lueVjA==?="),
        (" padded ", "=?base64?IHBhZGRlZCA=?="),
        ("line1\nline2", "=?base64?bGluZTEKbGluZTI=?="),
        ("=?base64?literal?=", "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="),
        ("", ""),
        ("a b\tc", "a b\tc"),
    ] {
        assert_eq!(encode(text), value);
        assert_eq!(decode(value).as_deref(), Some(text));
    }
    // Without both its ends it is what it is.
    for literal in
        ["SGVsbG8=", "=?base64?SGVsbG8=", "SGVsbG8=?=", "=?BASE64?SGVsbG8=?=", "=?base64?=", "x=?base64?SGVsbG8=?="]
    {
        assert_eq!(decode(literal).as_deref(), Some(literal));
    }
    assert_eq!(decode("=?base64??=").as_deref(), Some(""));
    for wrong in ["SGVsbG8", "SGVs!!!bG8=", "SGVsbG8==", "SGVsbG9=", "SGVs bG8=", "_-__", "/w=="] {
        assert_eq!(decode(&format!("=?base64?{wrong}?=")), None, "{wrong}");
    }
}

#[test]
fn a_header_has_characters_that_headers_have_and_is_there_once() {
    let read = |name, value| Headers::read([(name, value)]).is_ok();
    for name in ["mcp-method", "Mcp-Name", "MCP-PROTOCOL-VERSION", "Mcp-Param-X"] {
        assert!(read(name, b" a\tb~ "));
        for wrong in [&b"\xff"[..], "é".as_bytes(), b"a\nb", b"a\x7f", b"a\0", b"\x01"] {
            assert!(!read(name, wrong), "{name}: {wrong:?}");
        }
    }
    assert!(read("cookie", b"\xff"));
    assert!(Headers::read([("mcp-param-a", &b"1"[..]), ("mcp-param-b", b"1")]).is_ok());
    assert!(Headers::read([("mcp-param-a", &b"1"[..]), ("Mcp-Param-A", b"1")]).is_err());
}

#[test]
fn arguments_are_found_where_the_schema_says() {
    let found = params(&tool(
        r#""region":{"type":"string","x-mcp-header":"Region"},"query":{"type":"string"},
        "deep":{"type":"object","properties":{"n":{"type":"integer","x-mcp-header":"N"}}},"x-mcp-header":{"type":"boolean","x-mcp-header":"b"}"#,
    ))
    .unwrap();
    let arguments = json(r#"{"region":"é","query":"q","deep":{"n":42},"x-mcp-header":true}"#);
    let call = Json::object([("name", "t".into()), ("arguments", arguments)]);
    assert_eq!(
        mirrored("tools/call", Some(&call), &found)[2..],
        [("mcp-name", "t"), ("mcp-param-region", "=?base64?w6k=?="), ("mcp-param-n", "42"), ("mcp-param-b", "true")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
    assert_eq!(params(&json(r#"{"name":"t"}"#)), Ok(Vec::new()));
}

#[test]
fn a_tool_whose_annotation_is_wrong_is_no_tool() {
    for properties in [
        r#""a":{"type":"string","x-mcp-header":""}"#,
        r#""a":{"type":"string","x-mcp-header":"a b"}"#,
        r#""a":{"type":"string","x-mcp-header":"a:b"}"#,
        r#""a":{"type":"string","x-mcp-header":"a\r\nEvil"}"#,
        r#""a":{"type":"string","x-mcp-header":"é"}"#,
        r#""a":{"type":"string","x-mcp-header":1}"#,
        r#""a":{"type":"number","x-mcp-header":"A"}"#,
        r#""a":{"type":"object","x-mcp-header":"A"}"#,
        r#""a":{"x-mcp-header":"A"}"#,
        r#""a":{"type":"string","x-mcp-header":"A"},"b":{"type":"string","x-mcp-header":"a"}"#,
        r#""a":{"type":"array","items":{"type":"string","x-mcp-header":"A"}}"#,
        r#""a":{"anyOf":[{"type":"string","x-mcp-header":"A"}]}"#,
        r#""a":{"anyOf":[{"properties":{"b":{"type":"string","x-mcp-header":"A"}}}]}"#,
        r#""a":{"$defs":{"x-mcp-header":{"type":"string","x-mcp-header":"A"}}}"#,
    ] {
        assert!(params(&tool(properties)).is_err(), "{properties}");
    }
    assert!(params(&json(r#"{"inputSchema":{"type":"string","x-mcp-header":"A"}}"#)).is_err());
    // What is no annotation: a value, or a name of the schema's own.
    for properties in [
        r#""a":{"default":{"x-mcp-header":1},"enum":[{"x-mcp-header":""}]}"#,
        r#""a":{"items":{"properties":{"x-mcp-header":{"type":"array"}}}}"#,
    ] {
        assert_eq!(params(&tool(properties)), Ok(Vec::new()), "{properties}");
    }
}

#[test]
fn a_header_says_what_the_argument_says_or_is_not_there() {
    let known = params(&tool(
        r#""s":{"type":"string","x-mcp-header":"S"},"i":{"type":"integer","x-mcp-header":"I"},"b":{"type":"boolean","x-mcp-header":"B"}"#,
    ))
    .unwrap();
    let said = |headers: &[(&str, &str)], arguments: &str| {
        let headers = Headers::read(headers.iter().map(|(name, value)| (*name, value.as_bytes())))?;
        headers.say_params(&known, Some(&json(arguments)))
    };
    for (name, value, arguments) in [
        ("mcp-param-s", "x", r#"{"s":"x"}"#),
        ("MCP-PARAM-S", " x ", r#"{"s":"x"}"#),
        ("mcp-param-s", "=?base64?SGVsbG8=?=", r#"{"s":"Hello"}"#),
        ("mcp-param-s", "SGVsbG8=", r#"{"s":"SGVsbG8="}"#),
        ("mcp-param-s", "=?base64?SGVsbG8=", r#"{"s":"=?base64?SGVsbG8="}"#),
        ("mcp-param-s", "", r#"{"s":""}"#),
        ("mcp-param-i", "42", r#"{"i":42}"#),
        ("mcp-param-i", "42.0", r#"{"i":42}"#),
        ("mcp-param-b", "true", r#"{"b":true}"#),
        ("mcp-param-nobodys", "x", r#"{"s":null}"#),
    ] {
        assert_eq!(said(&[(name, value)], arguments), Ok(()), "{name}: {value} {arguments}");
    }
    for (name, value, arguments) in [
        ("mcp-param-s", "y", r#"{"s":"x"}"#),
        ("mcp-param-s", "X", r#"{"s":"x"}"#),
        ("mcp-param-s", "=?base64?SGVsbG8?=", r#"{"s":"Hello"}"#),
        ("mcp-param-s", "=?base64?SGVs!!!bG8=?=", r#"{"s":"Hello"}"#),
        ("mcp-param-other", "x", r#"{"s":"x"}"#),
        ("mcp-param-s", "x", "{}"),
        ("mcp-param-s", "null", r#"{"s":null}"#),
        ("mcp-param-s", "1", r#"{"s":1.5}"#),
        ("mcp-param-s", "[]", r#"{"s":[]}"#),
        ("mcp-param-i", "43", r#"{"i":42}"#),
        ("mcp-param-i", "9007199254740992", r#"{"i":9007199254740993}"#),
        ("mcp-param-i", "0x2a", r#"{"i":42}"#),
        ("mcp-param-i", "+42", r#"{"i":42}"#),
        ("mcp-param-b", "True", r#"{"b":true}"#),
        ("mcp-param-b", "1", r#"{"b":true}"#),
    ] {
        assert!(said(&[(name, value)], arguments).is_err(), "{name}: {value} {arguments}");
    }
    assert_eq!(said(&[], "{}"), Ok(()));
    assert!(said(&[], r#"{"s":"x"}"#).is_err());
}

#[test]
fn a_host_is_loopback_at_this_port() {
    for host in ["127.0.0.1:9480", "127.67.1.2:9480", "localhost:9480", "LocalHost:9480", "[::1]:9480"] {
        assert!(is_own_host(host, 9480), "{host}");
        assert!(is_own_origin(&format!("http://{host}"), 9480), "{host}");
    }
    for host in [
        "",
        ":9480",
        "9480",
        "localhost",
        "localhost:",
        "localhost:80",
        "localhost:09480",
        "localhost:+9480",
        "localhost:9480 ",
        "localhost.:9480",
        "localhost.evil.example:9480",
        "evil.example:9480",
        "evil.example",
        "127.0.0.1.evil.example:9480",
        "128.0.0.1:9480",
        "127.1:9480",
        "0x7f.0.0.1:9480",
        "127.0.0.01:9480",
        "0.0.0.0:9480",
        "10.0.0.1:9480",
        "[::]:9480",
        "::1:9480",
        "[::1]",
        "[::1]:80",
        "[::ffff:127.0.0.1]:9480",
        "user@localhost:9480",
        "localhost:9480@evil.example",
        "evil.example:9480:9480",
        "localhost:9480/",
        "localhost:9480#",
        "localhost\0:9480",
    ] {
        assert!(!is_own_host(host, 9480), "{host}");
        assert!(!is_own_origin(&format!("http://{host}"), 9480), "{host}");
    }
    assert!(is_own_host("127.0.0.1", 80) && is_own_host("[::1]", 80) && is_own_host("localhost", 80));
    for origin in [
        "",
        "null",
        "localhost:9480",
        "https://localhost:9480",
        "HTTP://localhost:9480",
        "http://localhost:9480/",
        "file://",
        "http:///localhost:9480",
        "chrome-extension://abc",
        "http://localhost:3000",
    ] {
        assert!(!is_own_origin(origin, 9480), "{origin}");
    }
}

proptest! {
    #[test]
    fn what_is_encoded_is_a_header_and_is_decoded_again(text: String) {
        let value = encode(&text);
        prop_assert!(value.bytes().all(is_plain));
        prop_assert_eq!(value.trim_matches([' ', '\t']), &value);
        prop_assert_eq!(decode(&value), Some(text));
    }

    #[test]
    fn a_value_that_is_decoded_means_one_text(value in "[ -~]{0,12}|=\\?base64\\?[A-Za-z0-9+/=]{0,8}\\?=") {
        if let Some(text) = decode(&value) {
            // What is encoded may also stand there by itself, but what it means is the same.
            prop_assert_eq!(decode(&encode(&text)), Some(text));
        }
    }
}

#[test]
fn a_tool_wants_no_more_repeated_than_anybody_can_keep() {
    let tool = |paths: &[String]| {
        let leaf = |i: usize| format!(r#"{{"type":"string","x-mcp-header":"H{i}"}}"#);
        let properties: Vec<String> =
            paths.iter().enumerate().map(|(i, name)| format!(r#""{name}":{}"#, leaf(i))).collect();
        let text = format!(r#"{{"name":"t","inputSchema":{{"properties":{{{}}}}}}}"#, properties.join(","));
        params(&parse(text.as_bytes()).unwrap())
    };
    let names = |count: usize| (0..count).map(|i| format!("a{i}")).collect::<Vec<_>>();
    assert_eq!(tool(&names(64)).unwrap().len(), 64);
    assert!(tool(&names(65)).is_err());
    assert!(tool(&["n".repeat(1024)]).is_ok());
    assert!(tool(&["n".repeat(1025)]).is_err());
}
