//! The reader of a ClientHello: what it refuses, what it finds, and that it is all the same how the bytes come.

mod made;
mod properties;

use clawguard_common::hello::{AGAIN_RANDOM, ANSWER_RANDOM, GREETING_BUFFER, LONGEST_HELLO, Reader, name_byte, seen};
use made::{CHANGE, EXTENSIONS, Found, at_once, extension, hello, in_pieces, message, named, names, part, record};
use properties::reference;

#[track_caller]
fn refused(bytes: &[u8]) {
    assert_eq!(at_once(bytes), Found::Refused);
    assert_eq!(in_pieces(bytes, Reader::default(), &[1]).0, Found::Refused);
}

#[track_caller]
fn finds(bytes: &[u8], name: Option<&str>, ech: bool) {
    let name = name.map(|name| name.as_bytes().to_vec());
    let found = Found::Hello { name, ech, length: bytes.len() };
    assert_eq!(at_once(bytes), found);
    for length in 0..bytes.len() {
        assert_eq!(at_once(&bytes[..length]), Found::Partial, "{length} of {}", bytes.len());
    }
    assert_eq!(in_pieces(bytes, Reader::default(), &[1]).0, found);
    // What comes behind it is not its own.
    assert_eq!(at_once(&[bytes, b"\x17\x03\x03\xff\xff"].concat()), found);
}

#[test]
fn one_name_is_found_as_it_stands_there() {
    finds(&hello(&[named("crm.example")]), Some("crm.example"), false);
    finds(
        &hello(&[extension(10, &[0, 2, 0, 29]), named("CRM.Example."), extension(21, &[0; 400])]),
        Some("CRM.Example."),
        false,
    );
    finds(&hello(&[named(&"n".repeat(253))]), Some(&"n".repeat(253)), false);
    finds(&hello(&[named("n")]), Some("n"), false);
}

#[test]
fn no_name_is_none() {
    finds(&hello(&[]), None, false);
    finds(&hello(&[extension(10, &[0, 2, 0, 29])]), None, false);
    finds(&record(&message(&[])), None, false);
}

#[test]
fn the_records_version_is_any_that_clients_write() {
    for minor in 0..=255 {
        let mut bytes = hello(&[named("crm.example")]);
        bytes[2] = minor;
        match minor {
            1..=3 => finds(&bytes, Some("crm.example"), false),
            _ => refused(&bytes),
        }
    }
    for major in [0, 1, 2, 4, 0xfe, 0xff] {
        let mut bytes = hello(&[named("crm.example")]);
        bytes[1] = major;
        refused(&bytes);
    }
}

#[test]
fn other_versions_of_the_message_are_refused() {
    for version in [[3, 0], [3, 1], [3, 2], [3, 4], [2, 3], [4, 3]] {
        let mut bytes = hello(&[named("crm.example")]);
        bytes[9..11].copy_from_slice(&version);
        refused(&bytes);
    }
}

#[test]
fn other_records_and_messages_are_refused() {
    for kind in (0..=255).filter(|kind| *kind != 22) {
        let mut bytes = hello(&[named("crm.example")]);
        bytes[0] = kind;
        refused(&bytes);
    }
    for kind in (0..=255).filter(|kind| *kind != 1) {
        let mut bytes = hello(&[named("crm.example")]);
        bytes[5] = kind;
        refused(&bytes);
    }
    refused(&[CHANGE, &hello(&[named("crm.example")])].concat());
    refused(b"GET / HTTP/1.1\r\n");
    // SSL 2's, which has no record.
    refused(&[0x80, 0x2e, 1, 3, 1, 0, 0x15, 0, 0, 0, 0x10, 0, 0, 0x39]);
}

#[test]
fn a_message_in_several_records_is_refused() {
    let message = message(&part(2, &named("crm.example")));
    for cut in 0..message.len() {
        refused(&[record(&message[..cut]), record(&message[cut..])].concat());
    }
}

#[test]
fn several_messages_in_a_record_are_refused() {
    let message = message(&part(2, &named("crm.example")));
    refused(&record(&[&message[..], &message].concat()));
    refused(&record(&[&message[..], &[1]].concat()));
}

#[test]
fn more_or_less_than_one_host_name_is_refused() {
    let name: (u8, &[u8]) = (0, b"crm.example");
    refused(&hello(&[names(&[name, (0, b"evil.example")])]));
    refused(&hello(&[names(&[name, (1, b"x")])]));
    refused(&hello(&[names(&[(1, b"crm.example")])]));
    refused(&hello(&[names(&[(1, b"x"), name])]));
    refused(&hello(&[names(&[(0, b"")])]));
    refused(&hello(&[names(&[])]));
    refused(&hello(&[extension(0, &[])]));
    // At the very end there is nothing else to be taken for it.
    refused(&hello(&[extension(0, &[0, 3, 0, 0, 0])]));
    refused(&hello(&[named(&"n".repeat(254))]));
}

#[test]
fn two_lists_of_names_are_refused() {
    refused(&hello(&[named("crm.example"), named("crm.example")]));
    refused(&hello(&[named("crm.example"), extension(10, &[0, 2, 0, 29]), named("evil.example")]));
    refused(&hello(&[named("crm.example"), extension(0, &[])]));
}

#[test]
fn early_data_is_refused() {
    refused(&hello(&[named("crm.example"), extension(42, &[])]));
    refused(&hello(&[extension(42, &[]), named("crm.example")]));
    refused(&hello(&[extension(42, &[0, 0, 0, 1])]));
}

/// Every other number in a field, or some of them.
fn wrong(bytes: &[u8], at: usize, width: usize) -> impl Iterator<Item = (u64, Vec<u8>)> {
    let right = bytes[at..at + width].iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    let numbers = (0..300).chain([(1 << (8 * width)) - 1]);
    numbers.filter(move |wrong| *wrong != right && *wrong >> (8 * width) == 0).map(move |wrong| {
        let mut damaged = bytes.to_vec();
        damaged[at..at + width].copy_from_slice(&wrong.to_be_bytes()[8 - width..]);
        (wrong, damaged)
    })
}

#[test]
fn every_wrong_length_is_refused() {
    let bytes = hello(&[extension(0x0a0a, &[0xee; 3]), named("crm.example"), extension(0xff01, &[0xee; 3])]);
    let name = EXTENSIONS + 7;
    let fixed = [
        ("record", 3, 2),
        ("message", 6, 3),
        ("extensions", 84, 2),
        ("names' extension", name + 2, 2),
        ("names", name + 4, 2),
        ("name", name + 7, 2),
        ("last extension", bytes.len() - 5, 2),
    ];
    for (field, at, width) in fixed {
        for (wrong, damaged) in wrong(&bytes, at, width) {
            assert_eq!(at_once(&damaged), Found::Refused, "{field}: {wrong}");
        }
    }
    // What follows can be right by chance, since nothing but its own length says where such a field ends.
    let free = [("session", 43, 1), ("ciphers", 76, 2), ("compression", 82, 1), ("extension", EXTENSIONS + 2, 2)];
    for (field, at, width) in free {
        for (wrong, damaged) in wrong(&bytes, at, width) {
            assert_eq!(at_once(&damaged), reference(&damaged).unwrap_or(Found::Refused), "{field}: {wrong}");
        }
    }
}

#[test]
fn a_field_without_what_it_must_have_is_refused() {
    let fields = |session: &[u8], ciphers: &[u8], compression: &[u8]| {
        let body = [&[3, 3], &[0; 32][..], &part(1, session), &part(2, ciphers), &part(1, compression)].concat();
        record(&[&[1], &part(3, &[body, part(2, &named("crm.example"))].concat())[..]].concat())
    };
    finds(&fields(&[], &[0x13, 1], &[0]), Some("crm.example"), false);
    finds(&fields(&[0; 32], &[0x13, 1], &[1, 0]), Some("crm.example"), false);
    refused(&fields(&[0; 33], &[0x13, 1], &[0]));
    refused(&fields(&[], &[], &[0]));
    refused(&fields(&[], &[0x13], &[0]));
    refused(&fields(&[], &[0x13, 1, 0x13], &[0]));
    refused(&fields(&[], &[0x13, 1], &[]));
}

#[test]
fn the_longest_is_read_and_a_longer_one_refused() {
    let empty = hello(&[named("crm.example"), extension(21, &[])]).len();
    let padded = |length: usize| hello(&[extension(21, &vec![0; length - empty]), named("crm.example")]);
    finds(&padded(LONGEST_HELLO), Some("crm.example"), false);
    refused(&padded(LONGEST_HELLO + 1));
    refused(&padded(GREETING_BUFFER));
    // It is refused once that is known.
    assert_eq!(at_once(&padded(LONGEST_HELLO + 1)[..5]), Found::Refused);
}

#[test]
fn as_many_extensions_as_there_is_room_for_are_read() {
    let room = LONGEST_HELLO - EXTENSIONS - named("crm.example").len();
    let mut extensions = vec![extension(0x0a0a, &[]); room / 4];
    extensions.push(named("crm.example"));
    let bytes = hello(&extensions);
    assert!(bytes.len() > LONGEST_HELLO - 4);
    finds(&bytes, Some("crm.example"), false);
}

#[test]
fn an_encrypted_hello_is_seen_wherever_it_stands() {
    for kind in [0xfe0d, 0xfe08, 0xfe09, 0xfe0a, 0xfe0b, 0xfe0c, 0xffce] {
        finds(&hello(&[named("crm.example"), extension(kind, &[0; 200])]), Some("crm.example"), true);
        finds(&hello(&[extension(kind, &[0; 200]), named("crm.example")]), Some("crm.example"), true);
        finds(&hello(&[extension(kind, &[])]), None, true);
    }
    for kind in [0xfe07, 0xfe0e, 0xffcd, 0xffcf, 0x0dfe, 0xceff] {
        finds(&hello(&[named("crm.example"), extension(kind, &[0; 200])]), Some("crm.example"), false);
    }
}

/// The second ClientHello of these bytes.
fn second(bytes: &[u8], pieces: &[usize]) -> (Found, Reader) {
    let (first, mut reader) = in_pieces(bytes, Reader::default(), pieces);
    assert!(matches!(first, Found::Hello { .. }));
    reader.again();
    assert_eq!((reader.seen, reader.end), (seen::AGAIN, 0));
    in_pieces(bytes, reader, pieces)
}

#[test]
fn a_second_hello_is_read_behind_the_first_with_and_without_a_change_of_nothing() {
    let first = hello(&[named("crm.example"), extension(0xfe0d, &[0; 9])]);
    for (between, name) in [(&[][..], "crm.example"), (CHANGE, "evil.example")] {
        let bytes = [&first, between, &hello(&[named(name)])].concat();
        let found = Found::Hello { name: Some(name.into()), ech: false, length: bytes.len() };
        for pieces in [&[1][..], &[7, 1, 90], &[4096]] {
            assert_eq!(second(&bytes, pieces).0, found);
        }
        for length in first.len()..bytes.len() {
            assert_eq!(second(&bytes[..length], &[512]).0, Found::Partial, "{length} of {}", bytes.len());
        }
    }
    let none = [first.clone(), hello(&[])].concat();
    assert_eq!(second(&none, &[1]).0, Found::Hello { name: None, ech: false, length: none.len() });
}

#[test]
fn what_else_comes_before_a_second_hello_is_refused() {
    let first = hello(&[named("crm.example")]);
    let then = |more: &[&[u8]]| second(&[&first[..], &more.concat()].concat(), &[1]).0;
    assert_eq!(then(&[CHANGE, CHANGE, &first]), Found::Refused);
    for (at, wrong) in [(0, 21), (1, 4), (2, 1), (3, 1), (4, 0), (4, 2), (5, 0), (5, 2)] {
        let mut change = CHANGE.to_vec();
        change[at] = wrong;
        assert_eq!(then(&[&change, &first]), Found::Refused, "{change:?}");
    }
    assert_eq!(then(&[b"\x17\x03\x03\x00\x01\x00", &first]), Found::Refused);
    assert_eq!(then(&[&hello(&[named("crm.example"), extension(42, &[])])]), Found::Refused);
    assert_eq!(then(&[&hello(&[named("crm.example"), named("crm.example")])]), Found::Refused);
    // Both have the room of one.
    let room = LONGEST_HELLO - first.len() - hello(&[extension(21, &[])]).len();
    let padded = |length| hello(&[extension(21, &vec![0; length])]);
    assert_eq!(then(&[&padded(room)]), Found::Hello { name: None, ech: false, length: LONGEST_HELLO });
    assert_eq!(then(&[&padded(room + 1)]), Found::Refused);
    // Where none is left, nothing is waited for.
    assert_eq!(second(&padded(room + first.len()), &[512]).0, Found::Refused);
}

#[test]
fn a_third_hello_has_its_own_change_of_nothing() {
    let bytes = [
        &hello(&[named("a.example")])[..],
        CHANGE,
        &hello(&[named("b.example")]),
        CHANGE,
        &hello(&[named("c.example")]),
    ];
    let bytes = bytes.concat();
    let (_, mut reader) = second(&bytes, &[1]);
    reader.again();
    let third = Found::Hello { name: Some(b"c.example".to_vec()), ech: false, length: bytes.len() };
    assert_eq!(in_pieces(&bytes, reader, &[1]).0, third);
}

#[test]
fn names_are_compared_in_small_letters_and_have_no_others() {
    for byte in 0..=255_u8 {
        let small = byte.to_ascii_lowercase();
        let right = small.is_ascii_lowercase() || small.is_ascii_digit() || b"-._".contains(&small);
        assert_eq!(name_byte(byte), right.then_some(small));
    }
}

#[test]
fn asking_again_is_told_by_a_random_that_no_server_draws() {
    let random = AGAIN_RANDOM.map(u64::to_ne_bytes).concat();
    // RFC 8446 section 4.1.3: the SHA-256 of "HelloRetryRequest".
    assert_eq!((&random[..2], &random[30..]), (&[0xcf, 0x21][..], &[0x33, 0x9c][..]));
    assert_eq!(ANSWER_RANDOM, 11);
}
