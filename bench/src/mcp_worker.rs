//! MCP clients as a process has them that is timed.

use std::{io::Write, net::SocketAddr, time::Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::{
    mcp_echo,
    mcp_http::{Connection, Message, split},
    median, percentile,
};

/// Requests' ids are numbers of as many digits, from this one on: so a request can be changed in place.
const FIRST: usize = 100_000_000;
/// Calls of each caller before its first that counts.
const WARM: usize = 20;

const ECHO: &str =
    r#""method":"tools/call","params":{"name":"echo","arguments":{"message":"How is the weather in Lisbon today?"}}"#;
const WAIT: &str = r#""method":"tools/call","params":{"name":"wait","arguments":{}}"#;
const GREETING: &str = r#""method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}"#;

pub(crate) fn main(name: &str, words: &[&str]) {
    match (name, words) {
        ("mcp-echo", [at]) => mcp_echo::serve(at.parse().unwrap()),
        ("mcp-call", [at, path, count, callers]) => {
            let [half, most, rate] = calls(&place(at, path), count.parse().unwrap(), callers.parse().unwrap());
            println!("{half} {most} {rate}");
        }
        ("mcp-sessions", [at, path, count, streams]) => {
            idle(&place(at, path), count.parse().unwrap(), *streams == "streams");
        }
        ("mcp-wait", [at, path, count]) => wait(&place(at, path), count.parse().unwrap()),
        other => panic!("no such worker: {other:?}"),
    }
}

/// An endpoint.
struct Place {
    at: SocketAddr,
    path: String,
}

fn place(at: &str, path: &str) -> Place {
    Place { at: at.parse().unwrap(), path: path.to_owned() }
}

impl Place {
    /// A request, where it goes to and in which session.
    fn request(&self, method: &str, session: &str, body: &str) -> Vec<u8> {
        let session = if session.is_empty() {
            String::new()
        } else {
            format!("MCP-Protocol-Version: 2025-11-25\r\nMcp-Session-Id: {session}\r\n")
        };
        format!(
            "{method} {} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
             Accept: application/json, text/event-stream\r\n{session}Content-Length: {}\r\n\r\n{body}",
            self.path,
            self.at,
            body.len()
        )
        .into()
    }
}

/// A message with the first id there is.
fn message(rest: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{FIRST},{rest}}}"#)
}

/// A session on a connection of its own.
struct Session {
    connection: Connection,
    name: String,
}

impl Session {
    /// Greets, and reads what tools there are.
    fn begin(place: &Place) -> Self {
        let mut connection = Connection::to(place.at);
        let name = connection.ask(&place.request("POST", "", &message(GREETING)), |answer| {
            assert!(answer.has_status("200"), "{}", text(answer));
            answer.header("mcp-session-id").unwrap().to_owned()
        });
        let told = place.request("POST", &name, r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
        connection.ask(&told, |answer| assert!(answer.has_status("202"), "{}", text(answer)));
        let list = place.request("POST", &name, &message(r#""method":"tools/list""#));
        connection.ask(&list, |answer| assert!(answer.body_has(b"\"wait\""), "{}", text(answer)));
        Self { connection, name }
    }
}

fn text(message: &Message<'_>) -> String {
    format!("{}\n{}", message.head, String::from_utf8_lossy(&message.body))
}

/// Waits for whoever has something to read.
pub(crate) fn watch<'a>(connections: impl Iterator<Item = &'a Connection>) -> Epoll {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
    for (number, connection) in connections.enumerate() {
        epoll.add(&connection.stream, EpollEvent::new(EpollFlags::EPOLLIN, number as u64)).unwrap();
    }
    epoll
}

/// Who calls without a pause.
struct Caller {
    session: Session,
    request: Vec<u8>,
    /// Where in the request its id stands.
    id: std::ops::Range<usize>,
    made: usize,
    at: Instant,
}

impl Caller {
    fn new(place: &Place) -> Self {
        let session = Session::begin(place);
        let request = place.request("POST", &session.name, &message(ECHO));
        let digits = FIRST.to_string();
        let from = request.windows(digits.len()).rposition(|part| part == digits.as_bytes()).unwrap();
        Self { session, request, id: from..from + digits.len(), made: 0, at: Instant::now() }
    }

    fn call(&mut self) {
        self.made += 1;
        // One by one, so that no answer is taken for another's.
        write!(&mut self.request[self.id.clone()], "{}", FIRST + self.made).unwrap();
        self.at = Instant::now();
        self.session.connection.stream.write_all(&self.request).unwrap();
    }

    /// The nanoseconds of a call whose answer is all there.
    fn answered(&mut self) -> Option<f64> {
        let answer = Message::first(&self.session.connection.came)?;
        let took = self.at.elapsed().as_nanos() as f64;
        let (id, good) = (&self.request[self.id.clone()], b"How is the weather in Lisbon today?");
        assert!(answer.body_has(id) && answer.body_has(good), "{}", text(&answer));
        let length = answer.length;
        self.session.connection.came.drain(..length);
        Some(took)
    }
}

/// So many calls of each of so many callers at once, by one thread. Answers nanoseconds of the median's and of the 99th of 100,
/// and how many there were in a second.
fn calls(place: &Place, count: usize, callers: usize) -> [f64; 3] {
    let mut callers: Vec<Caller> = (0..callers).map(|_| Caller::new(place)).collect();
    let epoll = watch(callers.iter().map(|caller| &caller.session.connection));
    let (mut events, mut buffer) = ([EpollEvent::empty(); 256], [0; 1 << 14]);
    let (mut took, mut since, mut rate, mut left) = (Vec::new(), None, None, callers.len());
    for caller in &mut callers {
        caller.call();
    }
    while left > 0 {
        let ready = epoll.wait(&mut events, EpollTimeout::NONE).unwrap();
        for event in &events[..ready] {
            let caller = &mut callers[event.data() as usize];
            assert!(caller.session.connection.read(&mut buffer), "hung up on");
            let Some(nanoseconds) = caller.answered() else { continue };
            if caller.made > WARM {
                since.get_or_insert_with(Instant::now);
                took.push(nanoseconds);
            }
            if caller.made < WARM + count {
                caller.call();
            } else {
                left -= 1;
                // The rate is that of all of them together: it ends with the first that is done.
                rate.get_or_insert_with(|| (took.len() - 1) as f64 / since.unwrap().elapsed().as_secs_f64());
            }
        }
    }
    [median(&mut took.clone()), percentile(&mut took, 99), rate.unwrap()]
}

/// Holds sessions, with their connections, until standard input ends.
fn idle(place: &Place, count: usize, streams: bool) {
    let mut held: Vec<Session> = (0..count).map(|_| Session::begin(place)).collect();
    let mut listening = Vec::new();
    if streams {
        for session in &held {
            let mut stream = Connection::to(place.at);
            stream.stream.write_all(&place.request("GET", &session.name, "")).unwrap();
            let mut buffer = [0; 1 << 14];
            while split(&stream.came).is_none() {
                assert!(stream.read(&mut buffer), "hung up on");
            }
            assert!(stream.came.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&stream.came));
            listening.push(stream);
        }
    }
    println!("ready");
    let _ = std::io::stdin().read_line(&mut String::new());
    // All of them were there all the time: each still answers.
    for session in &mut held {
        let ping = place.request("POST", &session.name, &message(r#""method":"ping""#));
        session.connection.ask(&ping, |answer| assert!(answer.has_status("200"), "{}", text(answer)));
    }
    println!("held {}", held.len());
}

/// Makes so many calls that nobody answers, and tells when they ended after all (CLOCK_BOOTTIME); again for each line.
fn wait(place: &Place, count: usize) {
    let mut sessions: Vec<Session> = (0..count).map(|_| Session::begin(place)).collect();
    let epoll = watch(sessions.iter().map(|session| &session.connection));
    let requests: Vec<Vec<u8>> =
        sessions.iter().map(|session| place.request("POST", &session.name, &message(WAIT))).collect();
    let (mut events, mut buffer) = ([EpollEvent::empty(); 256], [0; 1 << 14]);
    println!("ready");
    while std::io::stdin().read_line(&mut String::new()).unwrap() > 0 {
        for (session, request) in sessions.iter_mut().zip(&requests) {
            session.connection.stream.write_all(request).unwrap();
        }
        let (mut answered, mut denied, mut last) = (0, 0, 0);
        while answered < count {
            let ready = epoll.wait(&mut events, EpollTimeout::NONE).unwrap();
            for event in &events[..ready] {
                let connection = &mut sessions[event.data() as usize].connection;
                assert!(connection.read(&mut buffer), "hung up on");
                let Some(answer) = Message::first(&connection.came) else { continue };
                answered += 1;
                denied += usize::from(answer.body_has(b"\"isError\":true"));
                let length = answer.length;
                connection.came.drain(..length);
                last = sys::clock::boot_ns();
            }
        }
        println!("answered {denied} {last}");
    }
}
