//! What is timed: a process that is started in a cgroup and says what a call takes.

use std::{
    hint::black_box,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, setsockopt, socket, sockopt};

use crate::{far, mcp_worker, median, model_worker, names_worker, spawn, tls_worker};

pub(crate) fn main(words: &[String]) {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["serve", at] => serve(at.parse().unwrap()),
        ["connect", count, to] => println!("{}", connects(count.parse().unwrap(), to.parse().unwrap())),
        ["send", count, from, to] => println!("{}", sends(count.parse().unwrap(), from, to)),
        ["sink", at, from] => sink(at, from),
        ["stream", megabytes, to] => println!("{}", stream(megabytes.parse().unwrap(), to)),
        ["spin", to] => spin(to),
        ["denied", seconds, to] => denied(seconds.parse().unwrap(), to),
        ["far"] => far::serve(),
        [name @ ("ask" | "flood" | "press" | "learn"), rest @ ..] => names_worker::main(name, rest),
        [name @ ("move" | "first-bytes" | "hellos"), rest @ ..] => tls_worker::main(name, rest),
        [name, rest @ ..] if name.starts_with("mcp-") => mcp_worker::main(name, rest),
        [name, rest @ ..] if name.starts_with("model-") => model_worker::main(name, rest),
        ["spawn", count, program] => println!("{}", spawn::spawns(count.parse().unwrap(), program)),
        other => panic!("no such worker: {other:?}"),
    }
}

pub(crate) fn pin(cpu: usize) {
    let mut set = nix::sched::CpuSet::new();
    set.set(cpu).unwrap();
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set).unwrap();
}

/// Accepts and reads for whoever comes.
fn serve(at: SocketAddr) {
    let listener = TcpListener::bind(at).unwrap();
    // A queue that overflows costs its caller a second.
    nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(4096).unwrap()).unwrap();
    pin(1);
    println!("ready");
    let mut buffer = vec![0; 1 << 20];
    for mut stream in listener.incoming().flatten() {
        while stream.read(&mut buffer).is_ok_and(|count| count > 0) {}
    }
}

/// Nanoseconds of the median connect(2).
fn connects(count: usize, to: SocketAddr) -> f64 {
    pin(0);
    let to = SockaddrStorage::from(to);
    let mut took: Vec<f64> = (0..count)
        .map(|n| {
            if n % 500 == 499 {
                // The server takes out of its queue what came.
                std::thread::sleep(Duration::from_millis(10));
            }
            let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
            let started = Instant::now();
            connect(std::os::fd::AsRawFd::as_raw_fd(&socket), &to).unwrap();
            let took = started.elapsed().as_nanos() as f64;
            hang_up_at_once(&socket);
            took
        })
        .collect();
    median(&mut took)
}

/// No TIME_WAIT, or the ports run out.
pub(crate) fn hang_up_at_once(socket: &impl AsFd) {
    setsockopt(&socket.as_fd(), sockopt::Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 }).unwrap();
}

/// Nanoseconds of the median send(2) on a connected UDP socket: batches of 100, so that the clock costs nothing.
fn sends(count: usize, from: &str, to: &str) -> f64 {
    pin(0);
    let socket = UdpSocket::bind(from).unwrap();
    socket.connect(to).unwrap();
    let mut took: Vec<f64> = (0..count / 100)
        .map(|_| {
            let started = Instant::now();
            for _ in 0..100 {
                let _ = black_box(socket.send(b"12345678"));
            }
            started.elapsed().as_nanos() as f64 / 100.0
        })
        .collect();
    median(&mut took)
}

/// A connected UDP socket that nobody reads from: what it cannot keep is dropped, after the hooks have run.
fn sink(at: &str, from: &str) {
    let socket = UdpSocket::bind(at).unwrap();
    socket.connect(from).unwrap();
    println!("ready");
    let _ = std::io::stdin().read(&mut [0]);
}

/// Megabytes a second of one TCP stream.
fn stream(megabytes: usize, to: &str) -> f64 {
    pin(0);
    let mut stream = TcpStream::connect(to).unwrap();
    let buffer = vec![7; 1 << 20];
    let started = Instant::now();
    for _ in 0..megabytes {
        stream.write_all(&buffer).unwrap();
    }
    megabytes as f64 / started.elapsed().as_secs_f64()
}

/// Sends until the first refusal, says when that was (nanoseconds, CLOCK_BOOTTIME), and waits for the restore.
fn spin(to: &str) {
    pin(0);
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    println!("ready");
    loop {
        // Not faster than the far end can read: it must not take the daemon's processor.
        while socket.send_to(b"x", to).is_ok() {
            let until = Instant::now() + Duration::from_micros(50);
            while Instant::now() < until {
                std::hint::spin_loop();
            }
        }
        println!("refused {}", sys::clock::boot_ns());
        while socket.send_to(b"x", to).is_err() {
            std::thread::sleep(Duration::from_micros(200));
        }
        println!("restored");
    }
}

/// Connects to what is denied as often as it can; says how often and at what rate.
fn denied(seconds: f64, to: &str) {
    let to = SockaddrStorage::from(to.parse::<SocketAddr>().unwrap());
    let threads: Vec<_> = (0..2)
        .map(|_| {
            std::thread::spawn(move || {
                let started = Instant::now();
                let mut count = 0_u64;
                let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
                while started.elapsed().as_secs_f64() < seconds {
                    let refused = connect(std::os::fd::AsRawFd::as_raw_fd(&socket), &to);
                    assert_eq!(refused, Err(nix::errno::Errno::EPERM));
                    count += 1;
                }
                count
            })
        })
        .collect();
    let count: u64 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    println!("{count}");
}
