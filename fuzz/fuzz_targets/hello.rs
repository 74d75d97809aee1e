//! A ClientHello reads the same however it is cut, nothing is read that has not come, and every read ends.
//!
//! The input is what a client sends, a second ClientHello included. How it is cut follows from its last bytes: behind a
//! whole ClientHello they can change alone.
#![no_main]

use std::ops::ControlFlow;

use clawguard_common::{
    LONGEST_NAME,
    hello::{GREETING_BUFFER, GREETING_CHUNK, LONGEST_HELLO, MOST_STEPS, Outcome, Read, Reader, Step, read, seen},
};
use libfuzzer_sys::fuzz_target;

/// What stands where nothing has come yet, one for each of two readers: whoever looks there sees another thing.
const UNSEEN: [u8; 2] = [0, 0x16];

/// How one ClientHello ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Done { name: Option<(u32, u32)>, ech: bool, length: u16 },
    Wait,
    Refused,
}

/// A reader with the steps that it has taken.
struct Run {
    reader: Reader,
    name: Option<(u32, u32)>,
    steps: u32,
}

impl Run {
    fn of(reader: Reader) -> Self {
        Self { reader, name: None, steps: 0 }
    }

    /// Goes as far as these bytes allow.
    fn go(&mut self, bytes: &[u8; GREETING_BUFFER], have: u32) -> End {
        loop {
            let before = self.reader;
            let step = self.reader.step(bytes, have);
            match step {
                Step::More => assert!(self.reader.at > before.at, "a step that goes nowhere: {before:?}"),
                Step::Name(at, length) => {
                    assert!(self.name.is_none(), "two names");
                    assert!(at + length <= have && (1..=LONGEST_NAME as u32).contains(&length));
                    self.name = Some((at, length));
                }
                Step::Wait => {
                    assert_eq!(self.reader, before, "waiting changes nothing");
                    return End::Wait;
                }
                Step::Done => {
                    let length = self.reader.end;
                    assert!(u32::from(length) <= have && self.reader.at == u32::from(length));
                    assert_eq!(self.name.is_some(), self.reader.seen & seen::NAME != 0);
                    self.count();
                    return End::Done { name: self.name, ech: self.reader.seen & seen::ECH != 0, length };
                }
                Step::Refused => return End::Refused,
            }
            // A wait is the same step again.
            self.count();
            if self.reader.end != 0 {
                assert!(self.reader.at <= u32::from(self.reader.end) && usize::from(self.reader.end) <= LONGEST_HELLO);
            }
        }
    }

    fn count(&mut self) {
        self.steps += 1;
        assert!(self.steps <= MOST_STEPS);
    }
}

/// The lengths of the pieces: one byte to a chunk, short ones as often as long ones.
struct Cuts(u64);

impl Cuts {
    fn next(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let magnitude = GREETING_CHUNK >> (self.0 % 10);
        1 + (self.0 >> 32) as usize % magnitude.max(1)
    }
}

/// Reads it piece by piece, from where a reader stands.
fn cut(data: &[u8], reader: Reader, cuts: &mut Cuts) -> (End, Run) {
    let mut bytes = [UNSEEN[1]; GREETING_BUFFER];
    let mut run = Run::of(reader);
    let mut have = 0;
    loop {
        match run.go(&bytes, have as u32) {
            End::Wait if have < data.len() => {}
            end => return (end, run),
        }
        let until = (have + cuts.next()).min(data.len());
        bytes[have..until].copy_from_slice(&data[have..until]);
        have = until;
    }
}

/// One ClientHello, in pieces and at once. Goes on where another may follow.
fn check(data: &[u8], bytes: &[u8; GREETING_BUFFER], reader: Reader, cuts: &mut Cuts) -> ControlFlow<End, Reader> {
    let mut whole = Run::of(reader);
    let end = whole.go(bytes, data.len() as u32);
    let (pieces, run) = cut(data, reader, cuts);
    assert_eq!(pieces, end, "in pieces and at once");
    // It may be refused earlier: what would be too long is refused before it has come.
    assert!(end == End::Refused || run.reader == whole.reader);
    match end {
        End::Done { .. } => {
            let mut next = whole.reader;
            next.again();
            ControlFlow::Continue(next)
        }
        end => ControlFlow::Break(end),
    }
}

fuzz_target!(|data: &[u8]| {
    let data = &data[..data.len().min(GREETING_BUFFER)];
    let have = data.len() as u32;
    let mut bytes = [UNSEEN[0]; GREETING_BUFFER];
    bytes[..data.len()].copy_from_slice(data);
    let tail = data.rchunks(8).next().unwrap_or_default();
    let seed =
        tail.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
    let mut cuts = Cuts(seed | 1);

    let first = check(data, &bytes, Reader::default(), &mut cuts);
    match (read(&bytes, have), first) {
        (Outcome::Hello(Read { name, length, .. }), ControlFlow::Continue(second)) => {
            assert!(length <= data.len());
            if let Some(name) = name {
                let (from, to) = (name.as_ptr() as usize, name.as_ptr() as usize + name.len());
                let all = bytes.as_ptr() as usize..=bytes.as_ptr() as usize + length;
                assert!(!name.is_empty() && all.contains(&from) && all.contains(&to), "the name lies elsewhere");
            }
            // Nothing behind it matters, and without its last byte it is none yet.
            assert_eq!(read(&bytes, length as u32), read(&bytes, have));
            assert_eq!(read(&bytes, length as u32 - 1), Outcome::Partial);
            let _ = check(data, &bytes, second, &mut cuts);
        }
        (Outcome::Partial, ControlFlow::Break(End::Wait)) => {
            // What is waited for comes before the longest ends.
            assert!(data.len() < LONGEST_HELLO);
        }
        (Outcome::Refused, ControlFlow::Break(End::Refused)) => {}
        other => panic!("{other:?}"),
    }
});
