use super::*;

fn scanner() -> Scanner {
    Scanner::new().unwrap()
}

fn json(text: &str) -> Json {
    crate::json::parse(text.as_bytes()).unwrap()
}

/// Written in two parts, so that no search of this text for secrets finds one.
fn token() -> String {
    ["gh", "p_0aB1cD2eF3gH4iJ5kL6mN7oP8qR9sT0uV1wX"].concat()
}

fn found(json: &Json) -> Vec<(String, String)> {
    scanner().scan(json).into_iter().map(|finding| (finding.pattern, finding.path)).collect()
}

fn redacted(mut json: Json) -> String {
    scanner().redact(&mut json, &DataClass::ALL.into());
    json.to_string()
}

#[test]
fn a_finding_says_where_and_never_what() {
    let token = token();
    let message = json(&format!(r#"{{"a/b":[1,{{"x":"see {token}!"}}],"{token}":{{"c":"{token}"}},"n":2}}"#));
    let findings = scanner().scan(&message);
    let paths: Vec<_> = findings.iter().map(|finding| &*finding.path).collect();
    assert_eq!(paths, ["/a~1b/1/x", "/[redacted:secrets]", "/[redacted:secrets]/c"]);
    assert!(!format!("{findings:?}").contains(&token));
}

#[test]
fn names_of_members_are_looked_at_and_stay_different() {
    let token = token();
    let text =
        redacted(json(&format!(r#"{{"{token}":1,"a{{{token}":2,"[redacted:secrets]":3,"a{{[redacted:secrets]":4}}"#)));
    assert_eq!(
        text,
        r#"{"[redacted:secrets]":1,"a{[redacted:secrets]":2,"[redacted:secrets] (2)":3,"a{[redacted:secrets] (2)":4}"#
    );
}

#[test]
fn what_a_member_is_called_tells_what_it_is() {
    assert_eq!(
        redacted(json(r#"{"password":"cat77walks","user":"cat77walks"}"#)),
        r#"{"password":"[redacted:credentials]","user":"cat77walks"}"#
    );
    assert_eq!(
        redacted(json(r#"{"password":{"a":"cat77walks"},"token":7}"#)),
        r#"{"password":{"a":"cat77walks"},"token":7}"#
    );
}

#[test]
fn a_string_says_nothing_of_the_next_one() {
    assert_eq!(found(&json(r#"["password=","cat77walks"]"#)), []);
    assert_eq!(found(&json(r#"["gh","p_0aB1cD2eF3gH4iJ5kL6mN7oP8qR9sT0uV1wX"]"#)), []);
}

#[test]
fn a_card_may_be_a_number() {
    let number = ["40000", "02000", "000007"].concat();
    let number = (0..10).map(|last| format!("{}{last}", &number[..15])).find(|n| !found(&json(n)).is_empty()).unwrap();
    assert_eq!(redacted(json(&format!(r#"{{"amount":{number}}}"#))), r#"{"amount":"[redacted:payment_instruments]"}"#);
}

#[test]
fn what_is_in_base64_is_looked_at_once_more_decoded() {
    use base64::{Engine, prelude::BASE64_STANDARD};
    let blob = BASE64_STANDARD.encode(format!("key: {}\n", token()));
    let mut message = json(&format!(r#"{{"contents":[{{"uri":"file:///x","blob":"{blob}"}}]}}"#));
    assert_eq!(found(&message), [("github-token".into(), "/contents/0/blob".into())]);
    assert_eq!(found(&json(&format!(r#"["data:text/plain;base64,{blob}"]"#))).len(), 1);
    scanner().redact(&mut message, &DataClass::ALL.into());
    let blob = message.get("contents").and_then(|c| c.as_array()?[0].get("blob")?.as_str()).unwrap();
    assert_eq!(BASE64_STANDARD.decode(blob).unwrap(), b"[redacted:secrets]");
    let twice = BASE64_STANDARD.encode(BASE64_STANDARD.encode(format!("key: {}\n", token())));
    assert_eq!(found(&json(&format!(r#"["{twice}"]"#))), []);
}

#[test]
fn what_denies_wins_and_leaves_the_message_as_it_is() {
    let message = json(&format!(r#"{{"a":"{}","password":"cat77walks"}}"#, token()));
    let rules = |deny: &[DataClass], redact: &[DataClass]| DataClasses {
        allow: None,
        deny: Some(deny.to_vec()),
        redact: Some(redact.to_vec()),
    };
    let mut one = message.clone();
    let looked = scanner().look(&rules(&[DataClass::Credentials], &[DataClass::Secrets]), &mut one);
    assert_eq!(looked.denied, Some(DataClass::Credentials));
    assert_eq!(looked.counts, BTreeMap::from([(DataClass::Secrets, 1), (DataClass::Credentials, 1)]));
    assert_eq!(one, message);
    let looked = scanner().look(&rules(&[], &[DataClass::Secrets]), &mut one);
    assert_eq!((looked.denied, looked.counts.len()), (None, 2));
    assert_eq!(one.to_string(), r#"{"a":"[redacted:secrets]","password":"cat77walks"}"#);
    let mut other = message.clone();
    let allow = DataClasses { allow: Some(vec!["credentials".into()]), ..DataClasses::default() };
    assert_eq!(scanner().look(&allow, &mut other).denied, Some(DataClass::Secrets));
    assert_eq!(scanner().look(&DataClasses::default(), &mut other).denied, None);
    assert_eq!(other, message);
}

#[test]
fn no_pattern_is_there_twice_and_none_reads_beyond_a_string() {
    let scanner = scanner();
    let ids: BTreeSet<_> = scanner.patterns().map(|(id, _)| id).collect();
    assert_eq!(ids.len(), scanner.patterns().count());
    for class in DataClass::ALL {
        assert!(scanner.patterns().any(|(_, of)| of == class), "{class}");
    }
}

#[test]
fn patterns_that_cannot_be_used_are_refused() {
    for (text, expected) in [
        ("{}", "parts is wrong or missing"),
        (r#"{"parts":{},"patterns":[{"id":"x","class":"health","begins":"x"}]}"#, "the class health, which is none"),
        (
            r#"{"parts":{},"patterns":[{"id":"x","class":"secrets","begins":"x","check":"y"}]}"#,
            "the check y, which is none",
        ),
        (r#"{"parts":{},"patterns":[{"id":"x","class":"secrets","begins":"("}]}"#, "the pattern x: "),
        (r#"{"parts":{},"patterns":[{"id":"x","class":"secrets","begins":"x","after":"y"}]}"#, "x is wrong"),
    ] {
        let error = Scanner::of(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn what_stands_before_decides_as_the_pattern_says() {
    let pattern = |id: &str, after: &str| {
        format!(r#"{{"id":"{id}","class":"secrets","begins":"ab","goes_on":"[0-9]{{10}}"{after}}}"#)
    };
    let patterns = [pattern("word", ""), pattern("dash", r#","after":"dash""#), pattern("any", r#","after":"any""#)];
    let scanner = Scanner::of(&format!(r#"{{"parts":{{}},"patterns":[{}]}}"#, patterns.join(","))).unwrap();
    for (before, expected) in
        [("", &["word", "dash", "any"][..]), (" ", &["word", "dash", "any"]), ("-", &["word", "any"]), ("x", &["any"])]
    {
        let found = scanner.scan(&Json::from(format!("{before}ab0123456789")));
        assert_eq!(found.iter().map(|finding| &*finding.pattern).collect::<Vec<_>>(), expected, "{before}");
    }
}
