//! Where clients greet, and what becomes of it.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::fd::AsFd,
    process::{Child, Command, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clawguard_common::hello::{GREETING_BUFFER, Outcome, read};
use e2e::World;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// What a segment carries on an Ethernet.
pub(crate) const SEGMENT: usize = 1460;

/// Enough randomness for choices.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new() -> Self {
        Self(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64 | 1)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % limit
    }

    pub(crate) fn pick<'a, T: ?Sized>(&mut self, list: &[&'a T]) -> &'a T {
        list[self.below(list.len())]
    }

    /// At least one of them, in their order.
    pub(crate) fn some<T: Clone>(&mut self, list: &[T]) -> Vec<T> {
        let always = self.below(list.len());
        let chosen = list.iter().enumerate().filter(|(i, _)| *i == always || self.below(2) == 0);
        chosen.map(|(_, one)| one.clone()).collect()
    }

    pub(crate) fn label(&mut self, length: usize) -> String {
        const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEF0123456789";
        // No label is all digits.
        (0..length).map(|i| LETTERS[self.below(if i == 0 { 32 } else { LETTERS.len() })] as char).collect()
    }

    fn label_up_to(&mut self, longest: usize) -> String {
        let length = 1 + self.below(longest);
        self.label(length)
    }

    /// A host's name, now and then of the greatest length, and now and then none.
    pub(crate) fn name(&mut self) -> Option<String> {
        match self.below(20) {
            0 => None,
            1 => Some([63, 63, 63, 61].map(|length| self.label(length)).join(".")),
            _ => {
                let labels: Vec<String> = (0..=self.below(4)).map(|_| self.label_up_to(20)).collect();
                Some(format!("{}.example", labels.join(".")))
            }
        }
    }

    pub(crate) fn protocols(&mut self) -> String {
        (0..=self.below(8)).map(|_| self.label_up_to(255)).collect::<Vec<_>>().join(",")
    }
}

/// What became of the hellos of one stack.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) read: usize,
    pub(crate) named: usize,
    pub(crate) longer_than_a_segment: usize,
    pub(crate) encrypted: usize,
}

impl Tally {
    /// One hello is read as a whole with this name, and is none before its last byte.
    #[track_caller]
    pub(crate) fn check(&mut self, hello: &[u8], name: Option<&str>, of: &str) {
        let hex = || hello.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let mut bytes = [0; GREETING_BUFFER];
        assert!(hello.len() <= bytes.len(), "{of}: {} bytes", hello.len());
        bytes[..hello.len()].copy_from_slice(hello);
        for have in 0..hello.len() {
            assert_eq!(read(&bytes, have as u32), Outcome::Partial, "{of}: {have} bytes of {}", hex());
        }
        let Outcome::Hello(found) = read(&bytes, hello.len() as u32) else { panic!("{of}: refused: {}", hex()) };
        assert_eq!(found.length, hello.len(), "{of}: {}", hex());
        let read = found.name.map(|name| str::from_utf8(name).unwrap().to_ascii_lowercase());
        assert_eq!(read, name.map(str::to_ascii_lowercase), "{of}: {}", hex());
        self.read += 1;
        self.named += usize::from(name.is_some());
        self.longer_than_a_segment += usize::from(hello.len() > SEGMENT);
        self.encrypted += usize::from(found.ech);
    }

    #[track_caller]
    pub(crate) fn is(&self, hellos: usize) {
        assert_eq!(self.read, hellos);
        assert!(self.named > hellos / 2, "{} of {hellos}", self.named);
    }
}

/// A port that hears greetings and answers none.
pub(crate) struct Ear(TcpListener);

impl Ear {
    pub(crate) fn new() -> Self {
        Self(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap())
    }

    pub(crate) fn port(&self) -> String {
        self.0.local_addr().unwrap().port().to_string()
    }

    #[track_caller]
    pub(crate) fn accept(&self, of: &str) -> TcpStream {
        let mut waiting = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        assert_ne!(poll(&mut waiting, PollTimeout::from(30_000_u16)), Ok(0), "nobody calls: {of}");
        let (stream, _) = self.0.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    }

    /// The next caller's first record.
    #[track_caller]
    pub(crate) fn hello(&self, of: &str) -> Vec<u8> {
        record(&mut self.accept(of), of)
    }
}

/// One record, by its own length.
#[track_caller]
pub(crate) fn record(stream: &mut TcpStream, of: &str) -> Vec<u8> {
    let mut record = vec![0; 5];
    stream.read_exact(&mut record).unwrap_or_else(|error| panic!("{of}: {error}"));
    let length = usize::from(u16::from_be_bytes([record[3], record[4]]));
    record.resize(5 + length, 0);
    stream.read_exact(&mut record[5..]).unwrap();
    record
}

pub(crate) fn start(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}; `cargo xtask setup` gets it"))
}

/// Starts a program for each hello.
#[track_caller]
pub(crate) fn each(count: usize, mut command: impl FnMut(&mut Random, &str, Option<&str>) -> Command) -> Tally {
    let _world = World::new();
    let (ear, mut random, mut tally) = (Ear::new(), Random::new(), Tally::default());
    for _ in 0..count {
        let name = random.name();
        let mut command = command(&mut random, &ear.port(), name.as_deref());
        let mut child = start(&mut command);
        let of = format!("{command:?}");
        let hello = ear.hello(&of);
        child.wait().unwrap();
        tally.check(&hello, name.as_deref(), &of);
    }
    tally
}

/// Starts one program that greets for each name that it is told.
#[track_caller]
pub(crate) fn all(count: usize, command: impl FnOnce(&World) -> Command) -> Tally {
    let world = World::new();
    let (ear, mut random, mut tally) = (Ear::new(), Random::new(), Tally::default());
    let mut command = command(&world);
    command.arg(ear.port()).stdin(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}; `cargo xtask setup` gets it"));
    let names: Vec<Option<String>> = (0..count).map(|_| random.name()).collect();
    let mut to = child.stdin.take().unwrap();
    for name in &names {
        writeln!(to, "{}", name.as_deref().unwrap_or("-")).unwrap();
    }
    drop(to);
    for name in &names {
        tally.check(&ear.hello(&format!("{command:?}")), name.as_deref(), &format!("{command:?}"));
    }
    assert!(child.wait().unwrap().success());
    tally
}
