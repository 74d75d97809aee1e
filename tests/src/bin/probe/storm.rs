//! Attempts of every kind by the hundred thousand, while somebody outside disturbs the fence.

use std::{
    io::{self, BufRead, Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket};

/// How long a storm lasts at the most, whatever happens outside: longer than daemons may take that start anew one after the other.
const LONGEST: Duration = Duration::from_secs(300);

/// What became of the attempts.
#[derive(Default)]
struct Tally {
    attempts: u64,
    /// Attempts that the kernel took.
    passed: u64,
    /// Exchanges with the peer that is allowed throughout.
    open: u64,
    /// Those of them that failed.
    failed: u64,
}

impl Tally {
    fn tried<T>(&mut self, result: &io::Result<T>) {
        self.attempts += 1;
        self.passed += u64::from(result.is_ok());
    }
}

/// Makes flows to `open`, which is allowed throughout, and to `gone`, which is allowed until a kill, and says so. Told to go on,
/// tries what is not allowed: `shut` by new connections, datagrams and new processes, `gone` by the flows that it has.
/// Goes on until there were `count` attempts and standard input has ended.
pub(crate) fn run(count: &str, open: &str, shut: &str, gone: &str) -> anyhow::Result<()> {
    let (count, open, shut, gone): (u64, SocketAddr, SocketAddr, SocketAddr) =
        (count.parse()?, open.parse()?, shut.parse()?, gone.parse()?);
    let mut open_flows = flows(open)?;
    let mut gone_flows = flows(gone)?;
    for (stream, datagrams) in [&mut open_flows, &mut gone_flows] {
        anyhow::ensure!(exchange(stream, datagrams), "the flows do not work before the storm");
    }
    println!("established");
    io::stdin().lock().read_line(&mut String::new())?;
    let over = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&over);
    thread::spawn(move || {
        let _ = io::stdin().read_to_string(&mut String::new());
        told.store(true, Ordering::Relaxed);
    });
    let until = Instant::now() + LONGEST;
    let mut tally = Tally::default();
    while (tally.attempts < count || !over.load(Ordering::Relaxed)) && Instant::now() < until {
        round(&mut tally, shut, &mut gone_flows)?;
        tally.open += 1;
        tally.failed += u64::from(!exchange(&mut open_flows.0, &open_flows.1));
    }
    let Tally { attempts, passed, open, failed } = tally;
    println!("attempts {attempts} passed {passed} open {open} failed {failed}");
    Ok(())
}

fn flows(to: SocketAddr) -> io::Result<(TcpStream, UdpSocket)> {
    let patience = Some(Duration::from_secs(2));
    let stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    let datagrams = UdpSocket::bind("0.0.0.0:0")?;
    datagrams.connect(to)?;
    stream.set_read_timeout(patience)?;
    stream.set_write_timeout(patience)?;
    datagrams.set_read_timeout(patience)?;
    Ok((stream, datagrams))
}

/// Whether a word comes back over both.
fn exchange(stream: &mut TcpStream, datagrams: &UdpSocket) -> bool {
    let mut buffer = [0; 4];
    let by_stream = stream.write_all(b"open").and_then(|()| stream.read_exact(&mut buffer));
    by_stream.is_ok() && datagrams.send(b"open").is_ok() && datagrams.recv(&mut buffer).is_ok()
}

/// A hundred attempts.
fn round(tally: &mut Tally, shut: SocketAddr, gone: &mut (TcpStream, UdpSocket)) -> io::Result<()> {
    for _ in 0..30 {
        tally.tried(&begin(shut));
    }
    let datagrams = UdpSocket::bind("0.0.0.0:0")?;
    for _ in 0..30 {
        tally.tried(&datagrams.send_to(b"shut", shut));
    }
    datagrams.connect(shut)?;
    for _ in 0..18 {
        tally.tried(&datagrams.send(b"shut"));
    }
    gone.0.set_nonblocking(true)?;
    for _ in 0..10 {
        tally.tried(&gone.1.send(b"gone"));
        tally.tried(&gone.0.write(b"gone"));
    }
    by_a_new_process(tally, shut)
}

/// Begins a connection and does not wait for it.
fn begin(to: SocketAddr) -> io::Result<()> {
    let stream = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None)?;
    match connect(stream.as_raw_fd(), &SockaddrStorage::from(to)) {
        Ok(()) | Err(nix::Error::EINPROGRESS) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Two attempts by a process that is born for them.
fn by_a_new_process(tally: &mut Tally, shut: SocketAddr) -> io::Result<()> {
    // SAFETY: the child makes system calls and ends: no lock of the other thread's is needed on the way.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => {
            let status = nix::sys::wait::waitpid(child, None)?;
            tally.attempts += 2;
            if let nix::sys::wait::WaitStatus::Exited(_, passed) = status {
                tally.passed += passed as u64;
            }
            Ok(())
        }
        nix::unistd::ForkResult::Child => {
            let passed = i32::from(begin(shut).is_ok());
            let datagram = UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.send_to(b"shut", shut));
            sys::process::leave(passed + i32::from(datagram.is_ok()))
        }
    }
}
