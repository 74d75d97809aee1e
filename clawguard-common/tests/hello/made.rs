//! ClientHellos to be read, and two ways to read them.

use clawguard_common::hello::{GREETING_BUFFER, MOST_STEPS, Outcome, Reader, Step, read, seen};

/// What stands where nothing has come yet.
pub(crate) const UNSEEN: [u8; 4] = [0, 0xff, 0x16, 0x01];
pub(crate) const CHANGE: &[u8] = &[20, 3, 3, 0, 1, 1];

pub(crate) fn buffer(bytes: &[u8], unseen: u8) -> [u8; GREETING_BUFFER] {
    let mut buffer = [unseen; GREETING_BUFFER];
    buffer[..bytes.len()].copy_from_slice(bytes);
    buffer
}

pub(crate) fn part(width: usize, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u64).to_be_bytes();
    [&length[8 - width..], body].concat()
}

pub(crate) fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes(), &part(2, body)[..]].concat()
}

pub(crate) fn names(list: &[(u8, &[u8])]) -> Vec<u8> {
    let list: Vec<u8> = list.iter().flat_map(|(kind, name)| [vec![*kind], part(2, name)].concat()).collect();
    extension(0, &part(2, &list))
}

pub(crate) fn named(name: &str) -> Vec<u8> {
    names(&[(0, name.as_bytes())])
}

pub(crate) fn record(body: &[u8]) -> Vec<u8> {
    [&[22, 3, 1], &part(2, body)[..]].concat()
}

/// The message with everything but its extensions.
pub(crate) fn message(extensions: &[u8]) -> Vec<u8> {
    let fixed = [&[3, 3], &[0xaa; 32][..], &part(1, &[0xbb; 32]), &part(2, &[0x13, 1, 0x13, 2]), &part(1, &[0])];
    [&[1], &part(3, &[&fixed.concat(), extensions].concat())[..]].concat()
}

pub(crate) fn hello(extensions: &[Vec<u8>]) -> Vec<u8> {
    record(&message(&part(2, &extensions.concat())))
}

/// Where the extensions of [`hello`] begin: behind the length of all.
pub(crate) const EXTENSIONS: usize = 5 + 4 + 34 + 33 + 6 + 2 + 2;

/// What was read, with nothing borrowed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Found {
    Hello { name: Option<Vec<u8>>, ech: bool, length: usize },
    Partial,
    Refused,
}

pub(crate) fn at_once(bytes: &[u8]) -> Found {
    let found = UNSEEN.map(|unseen| match read(&buffer(bytes, unseen), bytes.len() as u32) {
        Outcome::Hello(hello) => {
            assert!(hello.length <= bytes.len());
            Found::Hello { name: hello.name.map(<[u8]>::to_vec), ech: hello.ech, length: hello.length }
        }
        Outcome::Partial => Found::Partial,
        Outcome::Refused => Found::Refused,
    });
    assert!(found.iter().all(|other| *other == found[0]), "bytes that have not come are read: {found:?}");
    found[0].clone()
}

/// Reads bytes that come in pieces of these lengths, over and over; nothing stands where none has come yet.
pub(crate) fn in_pieces(bytes: &[u8], mut reader: Reader, lengths: &[usize]) -> (Found, Reader) {
    let (mut have, mut pieces, mut steps, mut name) = (0, 0, 0, None);
    let mut buffer = buffer(&[], 0x16);
    loop {
        let before = reader;
        match reader.step(&buffer, have as u32) {
            Step::Wait => {
                assert_eq!(reader, before);
                if have == bytes.len() {
                    return (Found::Partial, reader);
                }
                let until = (have + lengths[pieces % lengths.len()]).min(bytes.len());
                pieces += 1;
                buffer[have..until].copy_from_slice(&bytes[have..until]);
                have = until;
                continue;
            }
            Step::More => {}
            Step::Name(at, length) => {
                assert!(name.is_none() && (at + length) as usize <= have);
                name = Some(bytes[at as usize..(at + length) as usize].to_vec());
            }
            Step::Done => {
                assert!(u32::from(reader.end) == reader.at && usize::from(reader.end) <= have);
                let hello = Found::Hello { name, ech: reader.seen & seen::ECH != 0, length: reader.end.into() };
                return (hello, reader);
            }
            Step::Refused => return (Found::Refused, reader),
        }
        steps += 1;
        assert!(steps < MOST_STEPS);
    }
}
