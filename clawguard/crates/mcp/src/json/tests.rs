use proptest::prelude::*;

use super::*;

fn read(text: &str) -> Json {
    parse(text.as_bytes()).unwrap()
}

fn flaw(text: impl AsRef<[u8]>) -> Flaw {
    parse(text.as_ref()).unwrap_err()
}

#[test]
fn what_is_written_is_what_was_read() {
    let text = r#"{"b":1.50,"a":[true,null,-0,1E5,9007199254740993],"":{"x":"é😀/"}}"#;
    assert_eq!(read(text).to_string(), text);
    assert_eq!(read(" {\n\"a\" :\t[ 1 , \"\\u0041\\/\" ]\r} ").to_string(), r#"{"a":[1,"A/"]}"#);
}

#[test]
fn a_written_string_stands_on_one_line_for_every_reader() {
    let text = read(r#""\u0000\b\t\n\f\r\u001f\"\\\/\u007e\u007f\u0085\u00a0\u2027\u2028\u2029\u202aé😀""#);
    assert_eq!(
        text.to_string(),
        "\"\\u0000\\b\\t\\n\\f\\r\\u001f\\\"\\\\/~\\u007f\\u0085\u{a0}\u{2027}\\u2028\\u2029\u{202a}é😀\""
    );
    assert_eq!(read(&text.to_string()), text);
    let Some(text) = text.as_str() else { panic!("it was a string") };
    let shifted = (0..9).map(|by| format!("{}{text}", "x".repeat(by)));
    for part in shifted.chain([text.repeat(9), format!("{text}{}", "é".repeat(99))]) {
        let json = Json::from(part);
        let written = json.to_string();
        assert!(!written.contains(|char: char| char.is_control() || matches!(char, '\u{2028}' | '\u{2029}')));
        assert_eq!(read(&written), json);
    }
}

#[test]
fn the_canonical_form_is_that_of_rfc_8785() {
    // The RFC's own example, section 3.2.2 and 3.2.4.
    let text = r#"{"numbers":[333333333.33333329,1E30,4.50,2e-3,0.000000000000000000000000001],"string":"\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/","literals":[null,true,false]}"#;
    let canonical = r#"{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"string":"€$\u000f\nA'B\"\\\\\"/"}"#;
    let value = read(text);
    // 333333333.33333329 is no number that ECMAScript prints; it stands by its own text.
    assert_eq!(value.canonical(), canonical.replace("333333333.3333333", "333333333.33333329"));
    assert_eq!(value.canonical_hash(), Hash::of(value.canonical().as_bytes()));
    // Section 3.2.3: by UTF-16 code units.
    let sorted = read(
        r#"{"\u20ac":"Euro Sign","\r":"Carriage Return","\ufb33":"Hebrew Letter Dalet With Dagesh","1":"One","\ud83d\ude00":"Emoji: Grinning Face","\u0080":"Control","\u00f6":"Latin Small Letter O With Diaeresis"}"#,
    );
    let names: Vec<String> =
        read(&sorted.canonical()).as_object().unwrap().iter().map(|(n, _)| n.to_string()).collect();
    assert_eq!(names, ["\r", "1", "\u{80}", "ö", "€", "😀", "\u{fb33}"]);
}

#[test]
fn numbers_have_one_canonical_text_each() {
    for (alike, canonical) in [
        (&["0", "-0", "0.0", "-0.0e7", "0e99999999999999999999"][..], "0"),
        (&["1", "1.0", "1e0", "10e-1", "0.1E1", "1.000000000000000000"], "1"),
        (&["-1.5", "-15e-1", "-0.15e+1"], "-1.5"),
        (&["100000000000000000000", "1e20", "1E+20"], "100000000000000000000"),
        (&["1e21", "1000000000000000000000"], "1e+21"),
        (&["0.0000001", "1e-7"], "1e-7"),
        (&["999999999999999"], "999999999999999"),
        (&["9007199254740991"], "9007199254740991"),
        (&["5e-324"], "5e-324"),
        (&["1.7976931348623157e308"], "1.7976931348623157e+308"),
    ] {
        for text in alike {
            assert_eq!(read(text).canonical(), canonical, "{text}");
        }
    }
}

#[test]
fn numbers_that_a_double_rounds_never_have_the_text_of_another() {
    for text in [
        "9007199254740993",
        "-9007199254740993",
        "9007199254740993.0",
        "18446744073709551615",
        "0.1000000000000000055",
        "1e-400",
        "-1e-99999999999999999999",
        "123456789012345678901234567890",
        "0.30000000000000004441",
    ] {
        assert_eq!(read(text).canonical(), text);
    }
    assert_ne!(read("9007199254740993").canonical_hash(), read("9007199254740992").canonical_hash());
    assert_ne!(read("1e-400").canonical_hash(), read("0").canonical_hash());
}

#[test]
fn what_two_readers_could_read_differently_is_refused() {
    assert_eq!(flaw(r#"{"a":1,"b":2,"a":3}"#), Flaw::Twice { at: 19 });
    assert_eq!(flaw(r#"{"a":1,"\u0061":3}"#), Flaw::Twice { at: 18 });
    assert_eq!(flaw(r#"{"x":[{"a":1,"a":1}]}"#), Flaw::Twice { at: 19 });
    for half in
        [r#""\ud800""#, r#""\udc00""#, r#""\ud800x""#, r#""\ud800\n""#, r#""\udc00\ud800""#, r#""\ud800\ud800""#]
    {
        assert!(flaw(half).to_string().contains("surrogate"), "{half}");
    }
    for number in ["1e309", "-1e309", "1e999", "1E+400", "0.1e400"] {
        assert_eq!(flaw(number), Flaw::Number { at: 0 }, "{number}");
    }
    assert!(parse("1".repeat(64).as_bytes()).is_ok());
    assert_eq!(flaw("1".repeat(65)), Flaw::Number { at: 0 });
    for (bytes, at) in [
        (&b"\"\xff\""[..], 1),
        (b"\"\xc0\xaf\"", 1),
        (b"\"\xed\xa0\x80\"", 1),
        (b"\"a\xf4\x90\x80\x80\"", 2),
        (b"\"\xe2\x82", 1),
    ] {
        assert_eq!(flaw(bytes), Flaw::Encoding { at });
    }
}

#[test]
fn member_names_differ_however_many_there_are() {
    let many: String = (0..100).map(|i| format!("\"{}\":0,", i * 37 % 100)).collect();
    assert!(parse(format!("{{{many}\"x\":0}}").as_bytes()).is_ok());
    let sorted: String = (10..99).map(|i| format!("\"{i}\":0,")).collect();
    assert!(parse(format!("{{{sorted}\"99\":0}}").as_bytes()).is_ok());
    for count in 1..40 {
        for again in 0..count {
            let members: String = (0..count).map(|i| format!("\"{}\":0,", i * 37 % 100)).collect();
            let text = format!("{{{members}\"{}\":1}}", again * 37 % 100);
            assert_eq!(flaw(&text), Flaw::Twice { at: text.len() });
        }
    }
    assert!(matches!(flaw(format!("{{{sorted}\"98\":0}}")), Flaw::Twice { .. }));
}

#[test]
fn what_is_no_json_is_refused() {
    for text in [
        "",
        " ",
        "{",
        "[",
        "[1",
        "[1,",
        "[1,]",
        "[,1]",
        "[1 2]",
        "{\"a\":1,}",
        "{,}",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\" 1}",
        "{a:1}",
        "{'a':1}",
        "{\"a\":1",
        "{1:1}",
        "00",
        "01",
        "-01",
        "+1",
        ".5",
        "1.",
        "1.e1",
        "1e",
        "1e+",
        "-",
        "--1",
        "0x1",
        "1_0",
        "nul",
        "nulll",
        "truex",
        "True",
        "TRUE",
        "'a'",
        "\"",
        "\"\t\"",
        "\"\n\"",
        "\"\0\"",
        "\"\u{1f}\"",
        "\"\\x\"",
        "\"\\",
        "\"\\\"",
        "\"\\u\"",
        "\"\\u12\"",
        "\"\\u12g4\"",
        "\"\\u+123\"",
        "\"\\U0041\"",
        "[1] 2",
        "{}{}",
        "{}\0",
        "\0{}",
        "NaN",
        "nan",
        "Infinity",
        "-Infinity",
        "//",
        "1//",
        "/**/1",
        "\u{feff}1",
        "1\u{feff}",
        "\u{a0}1",
        "\u{b}1",
        "\u{c}1",
        "1\u{2028}",
        "]",
        "}",
        "[}",
        "{]",
        ",",
        ":",
    ] {
        assert!(parse(text.as_bytes()).is_err(), "{text:?}");
    }
}

#[test]
fn depth_and_number_are_bounded() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(parse(nested(DEPTH).as_bytes()).is_ok());
    assert_eq!(flaw(nested(DEPTH + 1)), Flaw::Deep { at: DEPTH });
    assert_eq!(flaw("[".repeat(10 << 20)), Flaw::Deep { at: DEPTH });
    assert_eq!(flaw("{\"a\":".repeat(DEPTH + 1)), Flaw::Deep { at: 5 * DEPTH });
    let list = |values: usize| format!("[{}0]", "0,".repeat(values - 2));
    assert!(parse(list(VALUES).as_bytes()).is_ok());
    assert_eq!(flaw(list(VALUES + 1)), Flaw::Many { at: 2 * VALUES - 1 });
}

#[test]
fn a_flaw_repeats_nothing_of_the_text() {
    for text in [r#"{"secret":1,"secret":2}"#, r#"{"secret"}"#, r#"["secret" 1]"#, "\"secret", "secret", "\"\\secret\""]
    {
        assert!(!flaw(text).to_string().contains("secret"), "{text}");
    }
}

#[test]
fn strings_end_where_they_end() {
    // Every byte at every place of a word and beside it.
    for length in 0..20 {
        for at in 0..length {
            for byte in 0..=0x7f {
                let mut bytes = vec![b'x'; length];
                bytes[at] = byte;
                let hit = matches!(byte, b'"' | b'\\' | 0..0x20);
                assert_eq!(read::plain(&bytes), if hit { at } else { length }, "{byte:x} at {at} of {length}");
            }
        }
    }
    // A hit right behind one, and what a borrow could make one of: a 0x21 behind a quotation mark, a 0x5d, a 0x20.
    assert_eq!(read::plain(b"xx\"!xxxx"), 2);
    assert_eq!(read::plain(b"xx\\]xxxx"), 2);
    assert_eq!(read::plain(b"x\x1f xxxxx"), 1);
    assert_eq!(read::plain("éééééééé\"".as_bytes()), 16);
}

#[test]
fn work_grows_with_the_text_and_no_faster() {
    // Were the whole looked at again for each of its parts, this would take minutes.
    let text = "\u{85}".repeat(1 << 20);
    assert_eq!(Json::from(text).to_bytes().len(), 6 * (1 << 20) + 2);
    let members: String = (0..100_000).map(|i| format!("\"{}\":0,", i * 7919 % 100_003)).collect();
    assert!(parse(format!("{{{members}\"x\":0}}").as_bytes()).is_ok());
}

#[test]
fn members_can_be_changed() {
    let mut value = read(r#"{"a":1,"b":{"c":true},"d":null}"#);
    assert_eq!(value.at(&["b", "c"]), Some(&Json::Bool(true)));
    assert_eq!((value.at(&["b", "x"]), value.at(&["a", "x"])), (None, None));
    assert_eq!(value.remove("a"), Some(Json::from(1)));
    assert_eq!(value.remove("a"), None);
    assert!(value.set("d", "new".into()) && value.set("e", Vec::new().into()));
    *value.get_mut("b").unwrap() = false.into();
    assert_eq!(value.to_string(), r#"{"b":false,"d":"new","e":[]}"#);
    assert!(!Json::Null.set("a", Json::Null));
    assert_eq!(read("12").as_i64(), Some(12));
    assert_eq!((read("1.0").as_i64(), read("1e1").as_i64(), read("9223372036854775808").as_i64()), (None, None, None));
    assert_eq!(read("-2.5e1").as_f64(), Some(-25.0));
}

/// Any JSON, with the numbers that are hard.
fn any_json() -> impl Strategy<Value = Json> {
    let number = prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f64>().prop_filter("finite", |number| number.is_finite()).prop_map(|number| format!("{number:e}")),
        "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?",
    ];
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::Bool),
        number.prop_map(|number| Json::Number(number.into())),
        any::<String>().prop_map(Json::from),
    ];
    leaf.prop_recursive(5, 64, 24, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Json::Array),
            prop::collection::btree_map(any::<String>(), inner, 0..24).prop_map(|members| Json::Object(
                members.into_iter().map(|(name, value)| (name.into(), value)).rev().collect()
            )),
        ]
    })
}

proptest! {
    #[test]
    fn whatever_is_written_reads_the_same_again(value in any_json()) {
        let written = value.to_bytes();
        prop_assert!(!written.contains(&b'\n') && !written.contains(&b'\r'));
        prop_assert_eq!(&parse(&written).unwrap(), &value);
    }

    #[test]
    fn the_canonical_form_is_a_fixed_point_and_knows_no_order(value in any_json()) {
        let canonical = value.canonical();
        let again = parse(canonical.as_bytes()).unwrap();
        prop_assert_eq!(&again.canonical(), &canonical);
        let mut turned = value;
        turn(&mut turned);
        prop_assert_eq!(turned.canonical(), canonical);
    }

    #[test]
    fn where_numbers_are_doubles_it_is_claws_canonical_form(value in any_json()) {
        let canonical = value.canonical();
        // Written with the doubles that a reader of doubles sees.
        let limits = claw::json::Limits { bytes: usize::MAX, depth: 64 };
        let claws = claw::json::parse(canonical.as_bytes(), limits).unwrap().canonical();
        let ours = parse(claws.as_bytes()).unwrap();
        prop_assert_eq!(ours.canonical(), claws);
    }

    #[test]
    fn no_bytes_stop_the_reader(bytes: Vec<u8>) {
        let _ = parse(&bytes);
    }
}

/// Turns all members' order around.
fn turn(value: &mut Json) {
    match value {
        Json::Array(items) => items.iter_mut().for_each(turn),
        Json::Object(members) => {
            members.reverse();
            members.iter_mut().for_each(|(_, value)| turn(value));
        }
        _ => {}
    }
}
