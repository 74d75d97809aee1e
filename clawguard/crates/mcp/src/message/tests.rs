use super::*;

fn read(text: &str) -> Message {
    Message::parse(text.as_bytes()).unwrap()
}

fn flaw(text: &str) -> Flaw {
    Message::parse(text.as_bytes()).unwrap_err()
}

#[test]
fn each_kind_of_message_is_written_as_it_was_judged() {
    for text in [
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","arguments":{"n":1.0}}}"#,
        r#"{"jsonrpc":"2.0","id":"1","method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":"","method":"tools/list","params":{}}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
        r#"{"jsonrpc":"2.0","id":0,"result":{}}"#,
        r#"{"jsonrpc":"2.0","id":-7,"error":{"code":-32601,"message":"é\n","data":[1]}}"#,
        r#"{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":""}}"#,
    ] {
        assert_eq!(String::from_utf8(read(text).to_bytes()).unwrap(), text);
    }
    // In whatever order the members came, and an id that is not there.
    let text = r#"{"params":{},"method":"m","jsonrpc":"2.0","id":3}"#;
    assert_eq!(read(text), request(Id::Number(3), "m", Some(Json::object([]))));
    assert_eq!(
        read(r#"{"error":{"message":"m","code":-1},"jsonrpc":"2.0"}"#),
        read(r#"{"jsonrpc":"2.0","id":null,"error":{"code":-1,"message":"m"}}"#)
    );
}

#[test]
fn what_is_built_is_read_back() {
    let id = || Id::String("a\"b".into());
    for message in [
        request(id(), "m", None),
        notification("m", Some(Json::object([("a", 1.into())]))),
        result(id(), Json::object([])),
        error(Some(id()), code::INVALID_PARAMS, "Unknown tool: x", Some("y".into())),
        error(None, code::PARSE, "no", None),
    ] {
        assert_eq!(Message::parse(&message.to_bytes()), Ok(message));
    }
}

#[test]
fn the_version_is_two_zero() {
    for version in ["", r#""jsonrpc":"1.0","#, r#""jsonrpc":2.0,"#, r#""jsonrpc":"2.0 ","#, r#""jsonrpc":null,"#] {
        assert_eq!(flaw(&format!(r#"{{{version}"id":1,"method":"m"}}"#)), Flaw::Version, "{version}");
    }
}

#[test]
fn batches_are_refused() {
    assert_eq!(flaw("[]"), Flaw::Batch);
    assert_eq!(flaw(r#"[{"jsonrpc":"2.0","method":"m"}]"#), Flaw::Batch);
    for text in ["1", "null", "\"x\"", "true"] {
        assert_eq!(flaw(text), Flaw::NotAnObject);
    }
}

#[test]
fn an_id_comes_back_as_it_was_given_or_is_refused() {
    for id in ["null", "1.0", "1e2", "-0", "0.5", "true", "[]", "{}", "9007199254740992", "-9007199254740992", "1e999"]
    {
        assert!(Message::parse(format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"m"}}"#).as_bytes()).is_err(), "{id}");
        assert!(Message::parse(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#).as_bytes()).is_err(), "{id}");
    }
    for id in ["9007199254740991", "-9007199254740991", "0", "\"0\"", "\"\""] {
        assert_eq!(read(&format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"m"}}"#)).id().unwrap().to_string(), id);
    }
    assert_eq!(flaw(&format!(r#"{{"jsonrpc":"2.0","id":"{}","method":"m"}}"#, "x".repeat(ID + 1))), Flaw::Id);
    assert_eq!(flaw(r#"{"jsonrpc":"2.0","result":{}}"#), Flaw::Id);
    assert_ne!(Id::Number(1), Id::String("1".into()));
}

#[test]
fn a_member_that_nobody_looks_at_is_refused() {
    for text in [
        r#"{"jsonrpc":"2.0","id":1,"method":"m","extra":1}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"m","Method":"n"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"m","result":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"m","error":{"code":1,"message":""}}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{"code":1,"message":""}}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{},"params":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":""},"params":{}}"#,
    ] {
        assert_eq!(flaw(text), Flaw::Member, "{text}");
    }
    assert_eq!(flaw(r#"{"jsonrpc":"2.0","id":1}"#), Flaw::Kind);
    assert_eq!(flaw(r#"{"jsonrpc":"2.0"}"#), Flaw::Kind);
}

#[test]
fn a_method_is_a_short_printable_word() {
    let long = "x".repeat(METHOD);
    assert!(Message::parse(format!(r#"{{"jsonrpc":"2.0","method":"{long}"}}"#).as_bytes()).is_ok());
    for method in [
        "1",
        "null",
        "[\"m\"]",
        "\"\"",
        "\"a b\"",
        "\"tools/call\\n\"",
        "\"tools\\u0000/call\"",
        "\"é\"",
        &format!("\"{long}x\""),
    ] {
        assert_eq!(flaw(&format!(r#"{{"jsonrpc":"2.0","id":1,"method":{method}}}"#)), Flaw::Method, "{method}");
    }
}

#[test]
fn parameters_results_and_errors_are_objects() {
    for value in ["null", "[]", "[1]", "1", "\"x\"", "true"] {
        assert_eq!(
            flaw(&format!(r#"{{"jsonrpc":"2.0","id":1,"method":"m","params":{value}}}"#)),
            Flaw::Params,
            "{value}"
        );
        assert_eq!(flaw(&format!(r#"{{"jsonrpc":"2.0","id":1,"result":{value}}}"#)), Flaw::Result, "{value}");
        assert_eq!(flaw(&format!(r#"{{"jsonrpc":"2.0","id":1,"error":{value}}}"#)), Flaw::Error, "{value}");
    }
    for error in [
        "{}",
        r#"{"code":1}"#,
        r#"{"message":""}"#,
        r#"{"code":1.5,"message":""}"#,
        r#"{"code":-0,"message":""}"#,
        r#"{"code":9007199254740992,"message":""}"#,
        r#"{"code":"1","message":""}"#,
        r#"{"code":1,"message":2}"#,
        r#"{"code":1,"message":"","more":1}"#,
    ] {
        assert_eq!(flaw(&format!(r#"{{"jsonrpc":"2.0","id":1,"error":{error}}}"#)), Flaw::Error, "{error}");
    }
}

#[test]
fn a_flaw_has_the_code_by_which_it_is_answered() {
    assert_eq!(flaw("{").code(), code::PARSE);
    assert_eq!(flaw("[]").code(), code::INVALID_REQUEST);
    assert_eq!(flaw(r#"{"jsonrpc":"2.0","id":1,"method":"m","params":[]}"#).code(), code::INVALID_PARAMS);
    let json = json::parse(br#"{"jsonrpc":"2.0","id":"x","method":"m","extra":1}"#).unwrap();
    assert_eq!(id_of(&json), Some(Id::String("x".into())));
    assert_eq!(id_of(&json::parse(b"[1]").unwrap()), None);
}
