//! A far end that only serves: nothing watches its frames, so that what is timed is the way there and the fence.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv6Addr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
};

use e2e::World;
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};

use crate::worker::pin;

/// Where it is, on a wire of its own.
pub(crate) const AT: &str = "203.0.113.130";
/// The port that a contract holds to TLS, and one that it does not.
pub(crate) const CHECKED: u16 = 9101;
pub(crate) const UNCHECKED: u16 = 9102;
/// What its certificate is for.
pub(crate) const NAME: &str = "far.example";

/// Addresses of a name that has a number: their answer fits a datagram that passes everywhere in one piece.
pub(crate) const AT_ONCE: usize = 25;
/// What is moved at once, in bytes.
pub(crate) const CHUNK: usize = 1 << 16;

/// A process in a network namespace of its own.
pub(crate) struct Far {
    child: Child,
    /// Its certificate.
    pub(crate) certificate: PathBuf,
}

impl Far {
    /// Starts it at the other end of a new wire of this namespace's.
    pub(crate) fn start(world: &World) -> Self {
        let certificate = world.directory.join("far.der");
        let mut child = Command::new(world.directory.join("worker"))
            .args(["worker", "far"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut from = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(from.next().unwrap().unwrap(), "alone");
        let script = format!(
            "ip link add near1 type veth peer name far1 netns {0} && ip addr add 203.0.113.129/25 dev near1 && \
             ip link set near1 up && nsenter -t {0} -n sh -e -c \
             'ip link set lo up; ip addr add {AT}/25 dev far1; ip link set far1 up'",
            child.id()
        );
        assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
        writeln!(child.stdin.as_mut().unwrap(), "{}", certificate.display()).unwrap();
        assert_eq!(from.next().unwrap().unwrap(), "ready");
        Self { child, certificate }
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs until standard input ends.
pub(crate) fn serve() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    println!("alone");
    let mut lines = io::stdin().lock().lines();
    let config = Arc::new(config(Path::new(&lines.next().unwrap().unwrap())));
    pin(1);
    for port in [CHECKED, UNCHECKED] {
        let (listener, config) = (TcpListener::bind((AT, port)).unwrap(), Arc::clone(&config));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                stream.set_nodelay(true).unwrap();
                let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
                // Whoever hangs up has what it came for.
                let _ = converse(&mut StreamOwned::new(connection, stream));
            }
        });
    }
    let socket = UdpSocket::bind((AT, 53)).unwrap();
    thread::spawn(move || answer(&socket));
    println!("ready");
    let _ = lines.next();
}

fn config(path: &Path) -> ServerConfig {
    let own = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(own.signing_key.serialize_der()));
    fs::write(path, own.cert.der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    versions.with_no_client_auth().with_single_cert(vec![own.cert.der().clone()], key).unwrap()
}

/// A letter and a number of megabytes: `d` is sent them, `u` sends them and is told when they are there; so is whoever moves
/// nothing.
fn converse(stream: &mut StreamOwned<ServerConnection, TcpStream>) -> io::Result<()> {
    let mut request = [0; 3];
    stream.read_exact(&mut request)?;
    let chunks = usize::from(u16::from_be_bytes([request[1], request[2]])) * (1 << 20) / CHUNK;
    let mut buffer = vec![7; CHUNK];
    for _ in 0..chunks {
        match request[0] {
            b'd' => stream.write_all(&buffer)?,
            _ => stream.read_exact(&mut buffer)?,
        }
    }
    if request[0] != b'd' || chunks == 0 {
        stream.write_all(b".")?;
    }
    stream.flush()
}

/// Answers questions for addresses, without looking at them closely. A number in a name tells which it has.
fn answer(socket: &UdpSocket) {
    const HEADER: usize = 12;
    let mut buffer = [0; 2048];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        let question = &buffer[..length];
        // Labels up to the root's, then the type and the class (RFC 1035 section 4.1.2).
        let Some(root) = question[HEADER..].iter().position(|byte| *byte == 0) else { continue };
        let end = HEADER + root + 5;
        let label = &question[HEADER + 1..HEADER + 1 + usize::from(question[HEADER])];
        let number = std::str::from_utf8(label).unwrap().trim_start_matches(char::is_alphabetic).parse::<usize>();
        let v6 = question[end - 3] == 28;
        let octets = |number| numbered(number).octets().to_vec();
        let data: Vec<Vec<u8>> = match (v6, number) {
            (true, Ok(number)) => (number * AT_ONCE..(number + 1) * AT_ONCE).map(octets).collect(),
            (true, Err(_)) => Vec::new(),
            (false, _) => vec![vec![203, 0, 113, 130]],
        };
        let mut answer = question[..end].to_vec();
        // A response, recursion available, no error; one question, so many answers, nothing else.
        answer[2..HEADER].copy_from_slice(&[0x81, 0x80, 0, 1, 0, data.len() as u8, 0, 0, 0, 0]);
        for data in data {
            // The name is where the question begins; an hour.
            answer.extend_from_slice(&[0xc0, HEADER as u8, 0, question[end - 3], 0, 1, 0, 0, 14, 16, 0]);
            answer.push(data.len() as u8);
            answer.extend_from_slice(&data);
        }
        // Nobody may be there any more; that is theirs to see.
        let _ = socket.send_to(&answer, from);
    }
}

/// An address of those that names with numbers have: each has [`AT_ONCE`] of them.
pub(crate) fn numbered(number: usize) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, (number >> 16) as u16, number as u16)
}
