//! What an honest agent does: connects, sends, listens, and says how it went.

use std::{
    io::{self, BufRead, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::bail;

/// The word for an error: its name where it has one.
pub(crate) fn word(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM) => "EPERM".into(),
        Some(libc::EACCES) => "EACCES".into(),
        Some(libc::ECONNREFUSED) => "ECONNREFUSED".into(),
        Some(libc::ECONNABORTED) => "ECONNABORTED".into(),
        Some(libc::ECONNRESET) => "ECONNRESET".into(),
        Some(libc::EPIPE) => "EPIPE".into(),
        Some(libc::EPROTONOSUPPORT) => "EPROTONOSUPPORT".into(),
        Some(libc::EAFNOSUPPORT) => "EAFNOSUPPORT".into(),
        Some(libc::ENOSYS) => "ENOSYS".into(),
        Some(libc::EINPROGRESS | libc::ETIMEDOUT | libc::EAGAIN) => "TIMEOUT".into(),
        Some(libc::EDESTADDRREQ) => "EDESTADDRREQ".into(),
        Some(libc::ENETUNREACH) => "ENETUNREACH".into(),
        Some(code) => format!("E{code}"),
        None if error.kind() == io::ErrorKind::TimedOut => "TIMEOUT".into(),
        None => error.kind().to_string().replace(' ', "-"),
    }
}

fn outcome<T>(result: &io::Result<T>) -> String {
    match result {
        Ok(_) => "ok".into(),
        Err(error) => word(error),
    }
}

const MOMENT: Duration = Duration::from_millis(700);

pub(crate) fn run(words: &[&str]) -> anyhow::Result<()> {
    match words {
        ["tcp", to, text] => println!("{}", tcp(to.parse()?, text)),
        ["udp", to, text] => println!("{}", udp(to.parse()?, text)),
        ["udp-connected", to, text] => println!("{}", udp_connected(to.parse()?, text)),
        ["each", rest @ ..] => {
            for pair in rest.chunks(2) {
                let [kind, to] = pair else { bail!("KIND ADDRESS pairs") };
                let to = to.parse()?;
                println!("{kind} {to} {}", if *kind == "tcp" { tcp(to, "hello") } else { udp(to, "hello") });
            }
        }
        ["each-line", text @ ..] => {
            for line in io::stdin().lock().lines() {
                let said = tcp(line?.parse()?, text.first().unwrap_or(&"x"));
                println!("tcp {}", said.lines().next().unwrap_or_default());
            }
        }
        ["talk", to] => talk(to.parse()?)?,
        ["talk-udp", to] => talk_udp(to.parse()?)?,
        ["hold", count, to] => hold(count.parse()?, to.parse()?)?,
        ["hold-mirror", count, to] => {
            sys::netns::enter_mirror()?;
            let to: SocketAddr = to.parse()?;
            // The other end is a listener of this job's own, which a rule for the address does not care about.
            let listener = TcpListener::bind(("0.0.0.0", to.port()))?;
            thread::spawn(move || listener.incoming().flatten().for_each(std::mem::forget));
            hold(count.parse()?, to)?;
        }
        ["flood", seconds, rest @ ..] => flood(seconds.parse()?, rest)?,
        ["listen", port] => listen(port.parse()?)?,
        ["unix-listen", path] => {
            let listener = std::os::unix::net::UnixListener::bind(path)?;
            println!("listening");
            listener.incoming().flatten().for_each(std::mem::forget);
        }
        ["listen-udp", port] => listen_udp(port.parse()?)?,
        ["own-loopback"] => own_loopback()?,
        ["orphan", to, text] => orphan(to.parse()?, text)?,
        ["families"] => families(),
        ["sockopt"] => sockopt(),
        ["spin"] => loop {
            thread::sleep(Duration::from_millis(50));
        },
        ["peer-name", to] => println!("{}", peer_name(to.parse()?)?),
        ["ordinary"] => ordinary(),
        ["scatter", count, to] => scatter(count.parse()?, to.parse()?)?,
        other => bail!("what is {other:?}?"),
    }
    Ok(())
}

/// Connects, sends, and answers what came back, or why nothing did.
pub(crate) fn tcp(to: SocketAddr, text: &str) -> String {
    let connected = TcpStream::connect_timeout(&to, MOMENT);
    let mut stream = match connected {
        Ok(stream) => stream,
        Err(error) => return word(&error),
    };
    let _ = stream.set_read_timeout(Some(MOMENT));
    if let Err(error) = stream.write_all(text.as_bytes()) {
        return word(&error);
    }
    let mut buffer = vec![0; 4096];
    match stream.read(&mut buffer) {
        Ok(count) => format!("ok {}", String::from_utf8_lossy(&buffer[..count])),
        Err(error) => word(&error),
    }
}

fn any(to: SocketAddr) -> &'static str {
    if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }
}

fn udp(to: SocketAddr, text: &str) -> String {
    let socket = match UdpSocket::bind(any(to)) {
        Ok(socket) => socket,
        Err(error) => return word(&error),
    };
    let _ = socket.set_read_timeout(Some(MOMENT));
    if let Err(error) = socket.send_to(text.as_bytes(), to) {
        return word(&error);
    }
    let mut buffer = vec![0; 65_536];
    match socket.recv_from(&mut buffer) {
        Ok((count, _)) => format!("ok {}", String::from_utf8_lossy(&buffer[..count])),
        Err(error) => word(&error),
    }
}

fn udp_connected(to: SocketAddr, text: &str) -> String {
    let done = || -> io::Result<String> {
        let socket = UdpSocket::bind(any(to))?;
        socket.set_read_timeout(Some(MOMENT))?;
        socket.connect(to)?;
        socket.send(text.as_bytes())?;
        let mut buffer = vec![0; 65_536];
        let count = socket.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..count]).into_owned())
    };
    match done() {
        Ok(text) => format!("ok {text}"),
        Err(error) => word(&error),
    }
}

/// One connection: sends each line of standard input, prints what came back.
fn talk(to: SocketAddr) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, MOMENT)?;
    stream.set_nodelay(true)?;
    println!("connected");
    let mut reader = stream.try_clone()?;
    // A blocked read must wake when the connection is ended from outside.
    thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return println!("closed"),
                Ok(count) => println!("got {}", String::from_utf8_lossy(&buffer[..count]).trim_end()),
                Err(error) => return println!("read {}", word(&error)),
            }
        }
    });
    for line in io::stdin().lock().lines() {
        let line = format!("{}\n", line?);
        println!("sent {}", outcome(&stream.write_all(line.as_bytes())));
    }
    Ok(())
}

fn talk_udp(to: SocketAddr) -> anyhow::Result<()> {
    let socket = UdpSocket::bind(any(to))?;
    socket.connect(to)?;
    println!("connected");
    let reader = socket.try_clone()?;
    thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        loop {
            match reader.recv(&mut buffer) {
                Ok(count) => println!("got {}", String::from_utf8_lossy(&buffer[..count]).trim_end()),
                Err(error) => return println!("read {}", word(&error)),
            }
        }
    });
    for line in io::stdin().lock().lines() {
        println!("sent {}", outcome(&socket.send(line?.as_bytes())));
    }
    Ok(())
}

/// Holds many connections open until standard input ends, then says how many still work.
fn hold(count: usize, to: SocketAddr) -> anyhow::Result<()> {
    let mut streams: Vec<TcpStream> = Vec::with_capacity(count);
    for _ in 0..count {
        streams.push(TcpStream::connect(to)?);
    }
    println!("holding {}", streams.len());
    io::stdin().read_to_string(&mut String::new())?;
    let alive = streams
        .iter()
        .filter(|stream| {
            let mut stream: &TcpStream = stream;
            stream.write_all(b"x").is_ok()
        })
        .count();
    println!("alive {alive}");
    Ok(())
}

/// Connects as fast as it can to each address in turn and says how each ended.
fn flood(seconds: f64, to: &[&str]) -> anyhow::Result<()> {
    let to: Vec<SocketAddr> = to.iter().map(|to| to.parse()).collect::<Result<_, _>>()?;
    let until = Instant::now() + Duration::from_secs_f64(seconds);
    let (mut ok, mut refused, mut other) = (0_u64, 0_u64, 0_u64);
    'time: loop {
        for to in &to {
            match TcpStream::connect_timeout(to, MOMENT) {
                Ok(_) => ok += 1,
                Err(error) if error.raw_os_error() == Some(libc::EPERM) => refused += 1,
                Err(_) => other += 1,
            }
            if Instant::now() >= until {
                break 'time;
            }
        }
    }
    println!("ok {ok} refused {refused} other {other}");
    Ok(())
}

/// Answers each caller with what it said, turned to upper case.
fn listen(port: u16) -> anyhow::Result<()> {
    let listener = TcpListener::bind(("::", port))?;
    println!("listening");
    for mut stream in listener.incoming().flatten() {
        let mut buffer = [0; 4096];
        let Ok(count) = stream.read(&mut buffer) else { continue };
        println!("heard {}", String::from_utf8_lossy(&buffer[..count]));
        let _ = stream.write_all(buffer[..count].to_ascii_uppercase().as_slice());
    }
    Ok(())
}

fn listen_udp(port: u16) -> anyhow::Result<()> {
    let socket = UdpSocket::bind(("::", port))?;
    println!("listening");
    let mut buffer = [0; 4096];
    loop {
        let Ok((count, from)) = socket.recv_from(&mut buffer) else { continue };
        println!("heard {}", String::from_utf8_lossy(&buffer[..count]));
        let _ = socket.send_to(buffer[..count].to_ascii_uppercase().as_slice(), from);
    }
}

/// Talks to listeners of its own, over each spelling of the loopback address, TCP and UDP.
fn own_loopback() -> anyhow::Result<()> {
    let tcp_listener = TcpListener::bind("[::]:0")?;
    let port = tcp_listener.local_addr()?.port();
    thread::spawn(move || {
        for mut stream in tcp_listener.incoming().flatten() {
            let _ = stream.write_all(b"own");
        }
    });
    let udp_listener = UdpSocket::bind(("::", port))?;
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((count, from)) = udp_listener.recv_from(&mut buffer) {
            let _ = udp_listener.send_to(&buffer[..count], from);
        }
    });
    for address in ["127.0.0.1", "127.9.8.7", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]"] {
        let to: SocketAddr = format!("{address}:{port}").parse()?;
        println!("tcp {address} {}", tcp(to, "x"));
        println!("udp {address} {}", udp(to, "own"));
    }
    Ok(())
}

/// Leaves a process behind that tries again and again after its parent has ended.
fn orphan(to: SocketAddr, text: &str) -> anyhow::Result<()> {
    match sys::process::fork(None, nix::sched::CloneFlags::empty())? {
        sys::process::Forked::Parent(_) => {
            println!("left behind");
            Ok(())
        }
        sys::process::Forked::Child => {
            let _ = nix::unistd::setsid();
            for _ in 0..200 {
                thread::sleep(Duration::from_millis(50));
                let _ = tcp(to, text);
                let _ = udp(to, text);
            }
            sys::process::leave(0)
        }
    }
}

/// Which sockets can be made at all.
fn families() {
    let kinds = [
        ("tcp4", libc::AF_INET, libc::SOCK_STREAM, 0),
        ("tcp6", libc::AF_INET6, libc::SOCK_STREAM, 0),
        ("udp4", libc::AF_INET, libc::SOCK_DGRAM, 0),
        ("mptcp", libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_MPTCP),
        ("udplite", libc::AF_INET, libc::SOCK_DGRAM, 136),
        ("sctp", libc::AF_INET, libc::SOCK_STREAM, 132),
        ("smc", libc::AF_INET, libc::SOCK_STREAM, 256),
        ("ping", libc::AF_INET, libc::SOCK_DGRAM, 1),
        ("raw", libc::AF_INET, libc::SOCK_RAW, 1),
        ("unix", libc::AF_UNIX, libc::SOCK_STREAM, 0),
        ("packet", libc::AF_PACKET, libc::SOCK_RAW, 0),
        ("vsock", libc::AF_VSOCK, libc::SOCK_STREAM, 0),
        ("alg", libc::AF_ALG, libc::SOCK_SEQPACKET, 0),
        ("route", libc::AF_NETLINK, libc::SOCK_RAW, 0),
        ("diag", libc::AF_NETLINK, libc::SOCK_RAW, 4),
    ];
    for (name, family, kind, protocol) in kinds {
        println!("{name} {}", outcome(&crate::raw::socket(family, kind, protocol)));
    }
}

/// Socket options by which the kernel would be made to send.
fn sockopt() {
    let request = [239_u8, 1, 2, 3, 0, 0, 0, 0];
    let fd = crate::raw::socket(libc::AF_INET, libc::SOCK_DGRAM, 0).unwrap_or(0);
    for (name, option) in [("join", 35), ("options", 4), ("ttl", 2)] {
        let value: &[u8] = match option {
            35 => &request,
            4 => &[68, 4, 5, 0],
            _ => &[64, 0, 0, 0],
        };
        println!("{name} {}", outcome(&crate::raw::option(fd, 0, option, value)));
    }
    let txtime = [1_u8, 0, 0, 0, 0, 0, 0, 0];
    let one = [1_u8, 0, 0, 0];
    let more: [(&str, i32, i32, &[u8]); 4] = [
        ("freebind", libc::IPPROTO_IP, libc::IP_FREEBIND, &one),
        ("device", libc::SOL_SOCKET, libc::SO_BINDTODEVICE, b"lo\0"),
        ("pacing", libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE, &one),
        ("txtime", libc::SOL_SOCKET, libc::SO_TXTIME, &txtime),
    ];
    for (name, level, option, value) in more {
        println!("{name} {}", outcome(&crate::raw::option(fd, level, option, value)));
    }
}

/// The name of the peer, as getpeername(2) has it, and what it says.
fn peer_name(to: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, MOMENT)?;
    stream.set_read_timeout(Some(MOMENT))?;
    stream.write_all(b"who are you")?;
    let mut buffer = [0; 64];
    let count = stream.read(&mut buffer)?;
    Ok(format!("{} {}", stream.peer_addr()?, String::from_utf8_lossy(&buffer[..count])))
}

/// All that a process outside the fence does, and how it went: the same with a fence on the host as without.
fn ordinary() {
    for to in
        ["203.0.113.99:7003", "[2001:db8::99]:7003", "[::ffff:203.0.113.99]:7003", "127.0.0.1:9", "203.0.113.99:1"]
    {
        let Ok(address) = to.parse() else { continue };
        println!("tcp {to} {}", peer_name(address).unwrap_or_else(|error| word(&error)));
        println!("udp {to} {}", udp(address, "who are you"));
        println!("udp-connected {to} {}", udp_connected(address, "who are you"));
    }
    families();
    let fd = crate::raw::socket(libc::AF_INET, libc::SOCK_DGRAM, 0).unwrap_or(0);
    // Longer than a page: what a hook on setsockopt(2) is not given whole.
    let mut filter = vec![0_u8; 16 + 4 * 2000];
    filter[..4].copy_from_slice(&[239, 1, 2, 4]);
    filter[12..16].copy_from_slice(&2000_u32.to_ne_bytes());
    for (name, level, option, value) in [
        ("join", 0, 35, &[239, 1, 2, 3, 0, 0, 0, 0][..]),
        ("ttl", 0, 2, &[64, 0, 0, 0]),
        ("options", 0, 4, &[68, 4, 5, 0]),
        ("msfilter", 0, 41, &filter),
        ("nonsense", 0, 9999, &[0; 4]),
        ("rcvbuf", libc::SOL_SOCKET, libc::SO_RCVBUF, &[0, 0, 1, 0]),
        ("ulp", 6, 31, b"none-such"),
    ] {
        println!("{name} {}", outcome(&crate::raw::option(fd, level, option, value)));
    }
}

/// Sends to as many different endpoints; says how many sends were taken. None of them is where names are asked for, for
/// what goes there the guard takes.
fn scatter(count: u32, to: std::net::Ipv4Addr) -> anyhow::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    println!("ready");
    io::stdin().lock().read_line(&mut String::new())?;
    let mut passed = 0;
    for n in 0..count {
        let host = std::net::Ipv4Addr::from_bits(to.to_bits() + n / 59_000);
        passed += u32::from(socket.send_to(b"scatter", (host, (n % 59_000) as u16 + 6_000)).is_ok());
    }
    println!("attempts {count} passed {passed}");
    Ok(())
}
