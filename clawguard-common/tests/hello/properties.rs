//! Whatever the bytes are.

use clawguard_common::hello::{GREETING_BUFFER, LONGEST_HELLO, Reader};
use proptest::{
    collection::vec,
    prelude::{Just, Strategy, any, prop_assert_eq, prop_oneof, proptest},
    sample::Index,
};

use crate::made::{EXTENSIONS, Found, at_once, extension, hello, in_pieces, named, names};

/// Bytes that are taken from their front.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self, width: usize) -> Option<usize> {
        Some(self.take(width)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    fn part(&mut self, width: usize) -> Option<Input<'a>> {
        let length = self.number(width)?;
        self.take(length).map(Input)
    }

    fn empty(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

/// The same reader, written from the RFCs for bytes that have all come. Nothing where it is refused or not whole.
pub(crate) fn reference(bytes: &[u8]) -> Option<Found> {
    let mut input = Input(bytes);
    let header = input.take(3)?;
    let mut record = input.part(2)?;
    let length = bytes.len() - input.0.len();
    if header[..2] != [22, 3] || !(1..=3).contains(&header[2]) || length > LONGEST_HELLO || record.number(1)? != 1 {
        return None;
    }
    let mut hello = record.part(3)?;
    record.empty()?;
    let version = hello.number(2)?;
    hello.take(32)?;
    let (session, ciphers, compression) = (hello.part(1)?, hello.part(2)?, hello.part(1)?);
    if version != 0x303
        || session.0.len() > 32
        || ciphers.0.is_empty()
        || ciphers.0.len() % 2 != 0
        || compression.0.is_empty()
    {
        return None;
    }
    let (mut name, mut ech) = (None, false);
    if hello.empty().is_none() {
        let mut extensions = hello.part(2)?;
        hello.empty()?;
        while extensions.empty().is_none() {
            let (kind, mut body) = (extensions.number(2)?, extensions.part(2)?);
            match kind {
                0 => {
                    let mut list = body.part(2)?;
                    body.empty()?;
                    let host = list.number(1)? == 0;
                    let host = list.part(2).filter(|host_name| host && (1..=253).contains(&host_name.0.len()))?;
                    list.empty()?;
                    if name.replace(host.0.to_vec()).is_some() {
                        return None;
                    }
                }
                42 => return None,
                0xfe08..=0xfe0d | 0xffce => ech = true,
                _ => {}
            }
        }
    }
    Some(Found::Hello { name, ech, length })
}

fn extensions() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let name = prop_oneof![
        8 => "[a-zA-Z0-9.-]{1,40}".prop_map(|name| named(&name)),
        1 => vec((0..2_u8, vec(any::<u8>(), 0..6)), 0..3)
            .prop_map(|list| names(&list.iter().map(|(kind, name)| (*kind, &name[..])).collect::<Vec<_>>())),
        1 => vec(any::<u8>(), 0..12).prop_map(|body| extension(0, &body)),
    ];
    let kind = prop_oneof![20 => 1..42_u16, 2 => Just(0xfe0d), 1 => 0xfe00..0xfe10_u16, 1 => any::<u16>()];
    let other = (kind, vec(any::<u8>(), 0..60)).prop_map(|(kind, body)| extension(kind, &body));
    vec(prop_oneof![1 => name, 4 => other], 0..8)
}

fn flights() -> impl Strategy<Value = Vec<u8>> {
    let damage = vec((any::<Index>(), any::<u8>()), 0..3);
    (extensions(), damage, any::<bool>(), vec(any::<u8>(), 0..20)).prop_map(|(extensions, damage, damaged, more)| {
        let mut bytes = [hello(&extensions), more].concat();
        for (at, byte) in damage.into_iter().filter(|_| damaged) {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes
    })
}

proptest! {
    #[test]
    fn it_finds_what_a_reader_of_whole_hellos_finds(bytes in flights()) {
        match (reference(&bytes), at_once(&bytes)) {
            (Some(expected), found) => prop_assert_eq!(found, expected),
            (None, found) => assert!(!matches!(found, Found::Hello { .. }), "{found:?}"),
        }
    }

    #[test]
    fn it_is_all_the_same_how_bytes_come(bytes in flights(), pieces in vec(1..200_usize, 1..9)) {
        let whole = at_once(&bytes);
        for pieces in [&[1][..], &pieces] {
            prop_assert_eq!(&in_pieces(&bytes, Reader::default(), pieces).0, &whole);
        }
    }

    #[test]
    fn what_is_whole_is_partial_before_and_what_is_refused_stays_refused(bytes in flights()) {
        let whole = at_once(&bytes);
        let mut over = false;
        for length in 0..=bytes.len() {
            let found = at_once(&bytes[..length]);
            assert!(found == whole || (found == Found::Partial && !over), "{length}: {found:?}, {whole:?}");
            over |= found != Found::Partial;
        }
    }

    #[test]
    fn no_bytes_at_all_make_it_fail(bytes in vec(any::<u8>(), 0..GREETING_BUFFER), begin in 0..EXTENSIONS) {
        let mut bytes = bytes;
        let good = hello(&[named("crm.example")]);
        let begin = begin.min(bytes.len());
        bytes[..begin].copy_from_slice(&good[..begin]);
        prop_assert_eq!(in_pieces(&bytes, Reader::default(), &[512]).0, at_once(&bytes));
    }
}
