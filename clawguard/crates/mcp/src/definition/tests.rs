use super::*;
use crate::json::parse;

fn json(text: &str) -> Json {
    parse(text.as_bytes()).unwrap()
}

fn refused<const N: usize>(names: [&str; N]) -> Vec<&str> {
    collisions(names).into_iter().collect()
}

#[test]
fn a_definition_is_the_whole_tool_in_whatever_order() {
    let one =
        Definition::of(&json(r#"{"name":"x","description":"d","_meta":{"b":1,"a":1.0},"execution":{}}"#)).unwrap();
    let same =
        Definition::of(&json(r#"{"execution":{},"_meta":{"a":1,"b":1e0},"description":"\u0064","name":"x"}"#)).unwrap();
    assert_eq!(one, same);
    assert_eq!(one.text, r#"{"_meta":{"a":1,"b":1},"description":"d","execution":{},"name":"x"}"#);
    assert_eq!((&*one.name, one.hash), ("x", Hash::of(one.text.as_bytes())));
    for changed in [
        r#"{"name":"x","description":"d","_meta":{"b":1,"a":1},"execution":{"taskSupport":"required"}}"#,
        r#"{"name":"x","description":"d ","_meta":{"b":1,"a":1},"execution":{}}"#,
        r#"{"name":"x","description":"d","_meta":{"b":1,"a":2},"execution":{}}"#,
        r#"{"name":"x","description":"d","_meta":{"b":1,"a":1},"execution":{},"icons":[]}"#,
        r#"{"name":"X","description":"d","_meta":{"b":1,"a":1},"execution":{}}"#,
    ] {
        assert_ne!(Definition::of(&json(changed)).unwrap().hash, one.hash, "{changed}");
    }
    assert_eq!(Definition::of(&json(r#"{"name":1}"#)), None);
}

#[test]
fn a_server_is_the_same_in_both_eras() {
    let legacy = identity(&json(
        r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"s","version":"1"},"instructions":"i"}"#,
    ));
    let modern = identity(&json(
        r#"{"supportedVersions":[],"instructions":"i","_meta":{"io.modelcontextprotocol/serverInfo":{"version":"1","name":"s"}},"ttlMs":5}"#,
    ));
    assert_eq!(legacy.canonical(), r#"{"instructions":"i","serverInfo":{"name":"s","version":"1"}}"#);
    assert_eq!(modern.canonical_hash(), legacy.canonical_hash());
    // One that says two things of itself is neither.
    let two = identity(&json(
        r#"{"serverInfo":{"name":"s"},"_meta":{"io.modelcontextprotocol/serverInfo":{"name":"t"}},"instructions":"i"}"#,
    ));
    assert!(two.get("serverInfo").is_some() && two.get(era::SERVER_INFO).is_some());
    assert_eq!(identity(&json("{}")).to_string(), "{}");
}

#[test]
fn names_that_differ_make_no_trouble() {
    assert!(refused([]).is_empty());
    assert!(
        refused(["get_case", "get_cases", "get_case_2", "getcase", "delete_repo", "v2", "v2-1", "x-2", "x-3", "a/b"])
            .is_empty()
    );
    // The same name is one name.
    assert!(refused(["a", "a"]).is_empty());
}

#[test]
fn names_that_look_alike_are_all_refused() {
    for alike in [
        ["delete_repo", "DELETE_REPO"],
        ["delete_repo", "delete-repo"],
        ["delete-repo", "delete.repo"],
        ["delete/repo", "delete:repo"],
        ["deleteRepo", "deleterepo"],
        ["pay_to", "pay_t0"],
        ["tool_l", "tool_1"],
        ["2fa", "tool-2fa"],
        ["get_O1", "get_ol"],
    ] {
        let mut both = alike;
        both.sort_unstable();
        assert_eq!(refused([alike[0], "other", alike[1]]), both);
    }
    // As OpenClaw was seen to name them.
    assert_eq!(
        refused(["delete_repo", "delete repo", "delete-repo", "delete.repo", "DELETE-REPO", "read_repo"]),
        ["DELETE-REPO", "delete repo", "delete-repo", "delete.repo", "delete_repo"]
    );
}

#[test]
fn an_alias_is_refused_and_what_it_is_an_alias_of_is_not() {
    assert_eq!(refused(["x", "x-2"]), ["x-2"]);
    assert_eq!(refused(["x", "x.2", "x-3", "x-10"]), ["x-10", "x-3", "x.2"]);
    assert_eq!(refused(["X", "x-2"]), ["x-2"]);
    assert_eq!(refused(["9", "tool-9-2"]), ["tool-9-2"]);
    assert!(refused(["x", "x-1", "x-02", "x-", "x-2b", "y-2"]).is_empty());
}

#[test]
fn a_name_beyond_printable_ascii_is_refused_and_spoils_no_other() {
    let long = "x".repeat(NAME + 1);
    for name in [
        "",
        "delete repo",
        "deletе_repo",
        "delete_repo\u{200b}",
        "\u{202e}oper_eteled",
        "ｄelete_repo",
        "delete_repo\n",
        "delete\u{a0}repo",
        "ﬁnd",
        "\u{7f}",
        &long,
    ] {
        assert_eq!(refused(["delete_repo", name]), [name], "{name:?}");
    }
    assert!(refused([&long[..NAME]]).is_empty());
    // Nor is it what an alias is an alias of.
    assert_eq!(refused(["x y", "x-y-2"]), ["x y"]);
}
