//! The ClientHello of a TLS flow, read step by step as its bytes come: by the kernel's programs, and by the tests that
//! compare them with others (RFC 8446 section 4.1.2, RFC 6066 section 3).
//!
//! Nothing here decides; a step tells what it found. What is not exactly one ClientHello in exactly one record is refused:
//! servers that put more together than this reader does would see another name than it did.

/// The longest ClientHello that is read, with its record's header. Those of today's clients have 200 to 2300 bytes.
pub const LONGEST_HELLO: usize = 4096;
/// How many bytes are taken at once.
pub const GREETING_CHUNK: usize = 512;
/// Room for a ClientHello: a chunk may begin at its last byte.
pub const GREETING_BUFFER: usize = LONGEST_HELLO + GREETING_CHUNK;
/// No ClientHello takes more steps than this: twelve, and two for each extension.
pub const MOST_STEPS: u32 = 12 + 2 * (LONGEST_HELLO as u32 / 4);

/// Where a reader is.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reader {
    /// The next byte to be looked at.
    pub at: u32,
    /// Where the record ends; 0 until that is known.
    pub end: u16,
    /// Where the extension ends that is being read.
    extension_end: u16,
    /// What comes next.
    next: u8,
    /// See [`seen`].
    pub seen: u8,
    /// Length of the name that comes next.
    name: u16,
}

/// What a [`Reader`] has seen.
pub mod seen {
    /// A name.
    pub const NAME: u8 = 1;
    /// An encrypted ClientHello.
    pub const ECH: u8 = 2;
    /// The record that changes nothing, between two ClientHellos.
    pub const CHANGE: u8 = 4;
    /// A server asked for this ClientHello by refusing an earlier one.
    pub const AGAIN: u8 = 8;
}

/// What a step found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Something: the next step may follow.
    More,
    /// Nothing: more bytes are needed.
    Wait,
    /// The name, which begins there and has that many bytes.
    Name(u32, u32),
    /// The end: it was one whole ClientHello.
    Done,
    /// That it is none.
    Refused,
}

mod next {
    pub(super) const KIND: u8 = 0;
    pub(super) const VERSION: u8 = 1;
    pub(super) const LENGTH: u8 = 2;
    pub(super) const MESSAGE: u8 = 3;
    pub(super) const HELLO: u8 = 4;
    pub(super) const SESSION: u8 = 5;
    pub(super) const CIPHERS: u8 = 6;
    pub(super) const COMPRESSION: u8 = 7;
    pub(super) const EXTENSIONS: u8 = 8;
    pub(super) const EXTENSION: u8 = 9;
    pub(super) const NAMES: u8 = 10;
    pub(super) const NAME: u8 = 11;
    pub(super) const CHANGE: u8 = 12;
}

const HANDSHAKE: u32 = 22;
const CHANGE_CIPHER_SPEC: u32 = 20;
const CLIENT_HELLO: u32 = 1;
const SERVER_NAME: u32 = 0;
const EARLY_DATA: u32 = 42;
const ENCRYPTED_CLIENT_HELLO: u32 = 0xfe0d;
/// Its predecessors: drafts 8 to 12, and the encrypted server name.
const HIDDEN_NAMES: [u32; 6] = [0xfe08, 0xfe09, 0xfe0a, 0xfe0b, 0xfe0c, 0xffce];

/// A byte that is known to be there.
#[inline(always)]
fn byte(bytes: &[u8; GREETING_BUFFER], at: u32) -> u32 {
    let at = at as usize;
    if at < GREETING_BUFFER { bytes[at] as u32 } else { 0 }
}

#[inline(always)]
fn two(bytes: &[u8; GREETING_BUFFER], at: u32) -> u32 {
    byte(bytes, at) << 8 | byte(bytes, at + 1)
}

impl Reader {
    /// A reader of the ClientHello that a server asks for by refusing the first: it begins where that one ended.
    #[inline(always)]
    pub fn again(&mut self) {
        *self = Self { at: self.end as u32, seen: seen::AGAIN, ..Self::default() };
    }

    /// Whether the first `have` bytes end inside a name, of which some are there.
    #[inline(always)]
    #[must_use]
    pub const fn is_inside_name(&self, have: u32) -> bool {
        self.next == next::NAME && have > self.at
    }

    /// Takes one step through the first `have` bytes.
    #[inline(always)]
    pub fn step(&mut self, bytes: &[u8; GREETING_BUFFER], have: u32) -> Step {
        let (at, end) = (self.at, self.end as u32);
        let needed = match self.next {
            next::KIND | next::SESSION | next::COMPRESSION => 1,
            next::VERSION | next::LENGTH | next::HELLO | next::CIPHERS => 2,
            next::MESSAGE => 4,
            next::CHANGE | next::NAMES => 5,
            next::EXTENSIONS if at != end => 2,
            next::EXTENSION if at != end => 4,
            next::NAME => self.name as u32,
            _ => 0,
        };
        // From the record's length on, nothing lies beyond its end.
        if end != 0 && at + needed > end {
            return Step::Refused;
        }
        if at + needed > have {
            return if at + needed > LONGEST_HELLO as u32 { Step::Refused } else { Step::Wait };
        }
        match self.next {
            next::KIND => self.kind(byte(bytes, at)),
            next::CHANGE => {
                let empty = two(bytes, at) == 0x0303 && two(bytes, at + 2) == 1 && byte(bytes, at + 4) == 1;
                self.go(empty, 5, next::KIND)
            }
            // Clients write 3.1 or 3.3 here, whatever they speak (RFC 8446 section 5.1).
            next::VERSION => self.go(byte(bytes, at) == 3 && matches!(byte(bytes, at + 1), 1..=3), 2, next::LENGTH),
            next::LENGTH => {
                let end = at + 2 + two(bytes, at);
                if end > LONGEST_HELLO as u32 {
                    return Step::Refused;
                }
                self.end = end as u16;
                self.go(true, 2, next::MESSAGE)
            }
            next::MESSAGE => {
                let length = byte(bytes, at + 1) << 16 | two(bytes, at + 2);
                self.go(byte(bytes, at) == CLIENT_HELLO && at + 4 + length == end, 4, next::HELLO)
            }
            // TLS 1.2 and, in its clothes, 1.3; then 32 random bytes.
            next::HELLO => self.go(two(bytes, at) == 0x0303, 2 + 32, next::SESSION),
            next::SESSION => {
                let length = byte(bytes, at);
                self.go(length <= 32, 1 + length, next::CIPHERS)
            }
            next::CIPHERS => {
                let length = two(bytes, at);
                self.go(length >= 2 && length.is_multiple_of(2), 2 + length, next::COMPRESSION)
            }
            next::COMPRESSION => {
                let length = byte(bytes, at);
                self.go(length >= 1, 1 + length, next::EXTENSIONS)
            }
            next::EXTENSIONS if at == end => Step::Done,
            next::EXTENSIONS => self.go(at + 2 + two(bytes, at) == end, 2, next::EXTENSION),
            next::EXTENSION if at == end => Step::Done,
            next::EXTENSION => self.extension(two(bytes, at), two(bytes, at + 2)),
            next::NAMES => {
                let (list, name) = (two(bytes, at), two(bytes, at + 3));
                let one = byte(bytes, at + 2) == 0
                    && at + 2 + list == self.extension_end as u32
                    && list == name + 3
                    && name != 0
                    && name <= crate::LONGEST_NAME as u32;
                self.name = name as u16;
                self.go(one, 5, next::NAME)
            }
            next::NAME => {
                let length = self.name as u32;
                self.seen |= seen::NAME;
                self.at = at + length;
                self.next = next::EXTENSION;
                Step::Name(at, length)
            }
            _ => Step::Refused,
        }
    }

    #[inline(always)]
    fn go(&mut self, right: bool, by: u32, next: u8) -> Step {
        let at = self.at + by;
        let end = self.end as u32;
        if !right || (end != 0 && at > end) {
            return Step::Refused;
        }
        self.at = at;
        self.next = next;
        Step::More
    }

    #[inline(always)]
    fn kind(&mut self, kind: u32) -> Step {
        let between = self.seen & (seen::AGAIN | seen::CHANGE) == seen::AGAIN;
        if kind == CHANGE_CIPHER_SPEC && between {
            self.seen |= seen::CHANGE;
            return self.go(true, 1, next::CHANGE);
        }
        self.go(kind == HANDSHAKE, 1, next::VERSION)
    }

    #[inline(always)]
    fn extension(&mut self, kind: u32, length: u32) -> Step {
        self.extension_end = (self.at + 4 + length) as u16;
        match kind {
            // One list of one name.
            SERVER_NAME if self.seen & seen::NAME != 0 => Step::Refused,
            SERVER_NAME => {
                if self.at + 4 + length > self.end as u32 {
                    return Step::Refused;
                }
                self.go(true, 4, next::NAMES)
            }
            // What is sent before the server has answered would not be judged.
            EARLY_DATA => Step::Refused,
            _ => {
                if kind == ENCRYPTED_CLIENT_HELLO || HIDDEN_NAMES.contains(&kind) {
                    self.seen |= seen::ECH;
                }
                self.go(true, 4 + length, next::EXTENSION)
            }
        }
    }
}

/// A byte of a name in the form in which names are compared; `None` for one that no host's name has.
#[inline(always)]
#[must_use]
pub const fn name_byte(byte: u8) -> Option<u8> {
    match byte {
        b'A'..=b'Z' => Some(byte | 0x20),
        b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' => Some(byte),
        _ => None,
    }
}

/// The random of the `ServerHello` by which a server asks for another ClientHello (RFC 8446 section 4.1.3), as four words in memory
/// order.
pub const AGAIN_RANDOM: [u64; 4] = [
    u64::from_be_bytes([0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11]).to_be(),
    u64::from_be_bytes([0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91]).to_be(),
    u64::from_be_bytes([0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e]).to_be(),
    u64::from_be_bytes([0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c]).to_be(),
];
/// Where in an answer that random lies: after the headers of a record and of a message, and the version.
pub const ANSWER_RANDOM: u32 = 5 + 4 + 2;

/// A whole ClientHello that was read at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Read<'a> {
    /// Its name, as it stands there.
    pub name: Option<&'a [u8]>,
    /// Whether it is an encrypted one.
    pub ech: bool,
    /// How many bytes it has.
    pub length: usize,
}

/// What reading bytes at once came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome<'a> {
    /// They begin with this ClientHello.
    Hello(Read<'a>),
    /// They may be the beginning of one.
    Partial,
    /// They are none.
    Refused,
}

/// Reads bytes at once. The kernel does the same as they come.
#[must_use]
pub fn read<'a>(bytes: &'a [u8; GREETING_BUFFER], have: u32) -> Outcome<'a> {
    let mut reader = Reader::default();
    let mut name: Option<&'a [u8]> = None;
    for _ in 0..MOST_STEPS {
        match reader.step(bytes, have) {
            Step::More => {}
            Step::Wait => return Outcome::Partial,
            Step::Name(at, length) => name = bytes.get(at as usize..(at + length) as usize),
            Step::Done => {
                let ech = reader.seen & seen::ECH != 0;
                return Outcome::Hello(Read { name, ech, length: reader.end as usize });
            }
            Step::Refused => return Outcome::Refused,
        }
    }
    Outcome::Refused
}
