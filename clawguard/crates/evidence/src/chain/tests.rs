use super::*;
use proptest::prelude::*;

fn key() -> PrivateKey {
    PrivateKey::from_seed(&[9; 32])
}

/// Ten records with a checkpoint after every third.
fn chain() -> Vec<String> {
    let (mut head, mut lines) = (Head::default(), Vec::new());
    for i in 0..10_u64 {
        let at = Instant(1_700_000_000_000_000_000 + i * 1_000_000_000);
        let (line, next) = if i % 3 == 2 {
            head.checkpoint(&key(), at)
        } else {
            head.append(Kind::Flip, at, json!({ "group": "crm", "n": i }))
        };
        lines.push(line);
        head = next;
    }
    lines
}

fn verify(lines: &[impl AsRef<[u8]>]) -> Result<Verifier, Broken> {
    let mut verifier = Verifier::new(Some(key().did()));
    let mut quick = verifier.clone();
    for line in lines {
        let read = verifier.read(line.as_ref());
        // Both ways say the same of every line.
        assert_eq!(quick.check(line.as_ref()), read.clone().map(drop));
        assert_eq!((quick.head(), quick.unsealed()), (verifier.head(), verifier.unsealed()));
        let again = Record::of_line(line.as_ref());
        assert_eq!(again, Some(read?));
    }
    Ok(verifier)
}

#[test]
fn a_chain_verifies_and_says_what_no_checkpoint_covers() {
    let verifier = verify(&chain()).unwrap();
    assert_eq!((verifier.head().next, verifier.checkpoints(), verifier.unsealed()), (10, 3, 1));
}

#[test]
fn a_dropped_doubled_or_swapped_record_is_found_where_it_is() {
    for at in 0..9 {
        let mut dropped = chain();
        dropped.remove(at);
        assert_eq!(verify(&dropped).unwrap_err().seq, at as u64);
        let mut doubled = chain();
        doubled.insert(at, doubled[at].clone());
        assert_eq!(verify(&doubled).unwrap_err().seq, at as u64 + 1);
        let mut swapped = chain();
        swapped.swap(at, at + 1);
        assert_eq!(verify(&swapped).unwrap_err().seq, at as u64);
    }
}

#[test]
fn a_record_that_follows_under_another_number_is_out_of_order() {
    let mut lines = chain();
    lines.truncate(4);
    let head = verify(&lines).unwrap().head();
    for next in [0, 3, 5] {
        let (line, _) = Head { next, ..head }.append(Kind::Flip, Instant(1), json!({}));
        let forged = [&lines[..], &[line]].concat();
        assert_eq!(verify(&forged).unwrap_err().fault, Fault::Sequence { found: next, expected: 4 });
    }
}

#[test]
fn a_half_written_last_record_is_told_apart() {
    let mut lines = chain();
    let last = lines.pop().unwrap();
    lines.push(last[..last.len() / 2].to_owned());
    assert_eq!(verify(&lines).unwrap_err(), Broken { seq: 9, fault: Fault::Torn });
}

#[test]
fn a_checkpoint_by_another_key_is_refused() {
    let (mut head, mut lines) = (Head::default(), Vec::new());
    for line in chain().iter().take(2) {
        let mut verifier = Verifier::from(head, None);
        verifier.read(line.as_bytes()).unwrap();
        head = verifier.head();
        lines.push(line.clone());
    }
    let other = PrivateKey::from_seed(&[10; 32]);
    lines.push(head.checkpoint(&other, Instant(0)).0);
    assert!(matches!(verify(&lines).unwrap_err().fault, Fault::Signer(_)));
}

#[test]
fn a_rewritten_tail_needs_the_hosts_key() {
    // Everything from record 4 on is written anew, links and all, with the old signatures kept.
    let mut verifier = Verifier::new(None);
    let lines = chain();
    for line in &lines[..4] {
        verifier.read(line.as_bytes()).unwrap();
    }
    let mut forged = lines[..4].to_vec();
    let (line, head) = verifier.head().append(Kind::Flip, Instant(1), json!({ "group": "other" }));
    forged.push(line);
    let old: Line = serde_json::from_str(lines[5].trim_end()).unwrap();
    forged.push(head.append(Kind::Checkpoint, Instant(2), old.body).0);
    assert_eq!(verify(&forged).unwrap_err(), Broken { seq: 5, fault: Fault::Signature });
}

proptest! {
    #[test]
    fn a_changed_byte_is_found_at_its_record_or_the_next(at in 0_usize..3000, byte in any::<u8>()) {
        let lines = chain();
        let text = lines.concat();
        let at = at % text.len();
        let mut bytes = text.into_bytes();
        prop_assume!(bytes[at] != byte);
        bytes[at] = byte;
        let mut split: Vec<Vec<u8>> = bytes.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
        let hit = {
            let mut seen = 0;
            lines.iter().position(|line| { seen += line.len(); at < seen }).unwrap()
        };
        // The last record is held by nothing after it, unless it is a checkpoint.
        prop_assume!(hit < 9);
        let broken = verify(&split).unwrap_err();
        prop_assert!(broken.seq as usize == hit || broken.seq as usize == hit + 1);
        split.clear();
    }
}

/// JSON as it may stand in a body.
fn bodies() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-1e9..1e9_f64).prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
        "[\u{0}-\u{1f}\"\\\\/\u{7f}\u{2028}\u{10000}]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::btree_map("\\PC{0,4}", inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn every_line_that_is_written_is_looked_through_quickly(body in bodies()) {
        let (line, _) = Head { hash: Some(Hash::of(b"x")), next: 7 }.append(Kind::Call, Instant(0), &body);
        let prev = Hash::of(b"x").to_string();
        let scanned = Scanned::of(line.trim_end_matches('\n').as_bytes());
        prop_assert_eq!(scanned, Some(Scanned { seq: 7, prev: Some(prev.as_bytes()), kind: Kind::Call }), "{}", line);
    }

    #[test]
    fn what_is_looked_through_quickly_is_a_record(body in bodies(), at in any::<prop::sample::Index>(), put in "[\\[\\]{}:,\"\\\\ua-fA-FtrueDd0-9.eE+ -]{0,3}", cut in 0..3_usize) {
        let (line, _) = Head::default().append(Kind::Flip, Instant(0), &body);
        let mut bytes = line.trim_end_matches('\n').as_bytes().to_vec();
        let at = at.index(bytes.len());
        bytes.splice(at..(at + cut).min(bytes.len()), put.into_bytes());
        if let Some(scanned) = Scanned::of(&bytes) {
            let read: Result<Line, _> = serde_json::from_slice(&bytes);
            let read = read.map_err(|error| TestCaseError::fail(format!("{error}: {}", String::from_utf8_lossy(&bytes))))?;
            prop_assert_eq!((scanned.seq, scanned.kind), (read.seq, read.kind));
            prop_assert_eq!(scanned.prev, read.prev.as_deref().map(str::as_bytes));
        }
    }
}

#[test]
fn what_a_slower_reader_has_to_judge_is_left_to_it() {
    let line = |body: &str| format!("{{\"seq\":0,\"at\":\"x\",\"prev\":null,\"kind\":\"flip\",\"body\":{body}}}");
    for body in ["{}", "[]", "0", "-1.5", "\"\\u001f\"", "{\"a\":[1,{\"b\":null}]}", "true"] {
        assert!(Scanned::of(line(body).as_bytes()).is_some(), "{body}");
    }
    let deep = "[".repeat(101) + &"]".repeat(101);
    for body in [
        "1e400",
        "1e5",
        "\"\\ud800\"",
        "\"\\udc00\"",
        "01",
        "1.",
        "-",
        ".5",
        "tru",
        "nullx",
        "{",
        "[",
        "[}",
        "{]",
        "[1,]",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{1:2}",
        "1 2",
        "1,2",
        "\"",
        "\"\\x\"",
        "\"\\u12\"",
        "",
        " 1",
        "{} ",
        "1}",
        "1},\"z\":{",
        &deep,
    ] {
        assert!(Scanned::of(line(body).as_bytes()).is_none(), "{body}");
    }
    let digits = "9".repeat(400);
    assert!(Scanned::of(line(&digits).as_bytes()).is_none());
    assert!(Scanned::of(b"{\"seq\":00,\"at\":\"x\",\"prev\":null,\"kind\":\"flip\",\"body\":1}").is_none());
    assert!(Scanned::of(b"{\"seq\":0,\"at\":\"x\",\"prev\":null,\"kind\":\"flop\",\"body\":1}").is_none());
    assert!(Scanned::of(b"{\"seq\":0,\"at\":\"\xff\",\"prev\":null,\"kind\":\"flip\",\"body\":1}").is_none());
}
