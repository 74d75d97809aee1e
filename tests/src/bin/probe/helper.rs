//! A host process that would act for an agent: relays what it is given, hands sockets over, and looks at a word of memory.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::{
        fd::AsRawFd,
        linux::net::SocketAddrExt,
        unix::net::{self as unix, UnixListener, UnixStream},
    },
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use anyhow::bail;

use crate::raw;

static WORD: AtomicU64 = AtomicU64::new(0);

/// `FAR-UDP FAR-TCP RELAY-PORT UNIX-PATH`; prints its pid and the word's address, and serves for ever.
pub(crate) fn serve(words: &[&str]) -> anyhow::Result<()> {
    let [datagrams, streams, port, path] = words else { bail!("the helper's arguments") };
    let (datagrams, streams): (SocketAddr, SocketAddr) = (datagrams.parse()?, streams.parse()?);
    let port: u16 = port.parse()?;
    let _ = std::fs::remove_file(path);
    let listeners = [UnixListener::bind(path)?, UnixListener::bind_addr(&unix::SocketAddr::from_abstract_name(path)?)?];
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
    for listener in listeners {
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || {
                    let _ = local(stream, datagrams, streams);
                });
            }
        });
    }
    let by_path = format!("{path}.d");
    let _ = std::fs::remove_file(&by_path);
    let datagram = unix::UnixDatagram::bind(&by_path)?;
    std::fs::set_permissions(&by_path, std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
    thread::spawn(move || {
        let mut buffer = [0; 256];
        while let Ok(count) = datagram.recv(&mut buffer) {
            let _ = forward(&buffer[..count], datagrams);
        }
    });
    let tcp = TcpListener::bind(("::", port))?;
    thread::spawn(move || {
        for mut stream in tcp.incoming().flatten() {
            thread::spawn(move || {
                let mut buffer = [0; 256];
                if let Ok(count) = stream.read(&mut buffer) {
                    let _ = forward(&buffer[..count], datagrams);
                }
            });
        }
    });
    let udp = UdpSocket::bind(("::", port))?;
    thread::spawn(move || {
        let mut buffer = [0; 256];
        while let Ok(count) = udp.recv(&mut buffer) {
            let _ = forward(&buffer[..count], datagrams);
        }
    });
    // A socket that another process might take.
    let _held = UdpSocket::bind("0.0.0.0:0")?;
    println!("{} {}", std::process::id(), WORD.as_ptr() as usize);
    loop {
        let word = WORD.swap(0, Ordering::SeqCst);
        if word != 0 {
            forward(&word.to_ne_bytes(), datagrams)?;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn forward(data: &[u8], to: SocketAddr) -> std::io::Result<()> {
    UdpSocket::bind("0.0.0.0:0")?.send_to(data, to).map(drop)
}

/// What a unix peer wants: `r` relays the rest; `c`, `u`, `d` hand a connected, a new, and a datagram socket over.
fn local(mut stream: UnixStream, datagrams: SocketAddr, streams: SocketAddr) -> anyhow::Result<()> {
    let mut buffer = [0; 256];
    let count = stream.read(&mut buffer)?;
    match buffer.first() {
        Some(b'r') => forward(&buffer[1..count], datagrams)?,
        Some(b'c') => hand_over(&stream, TcpStream::connect(streams)?.as_raw_fd())?,
        Some(b'u') => hand_over(&stream, raw::socket(libc::AF_INET, libc::SOCK_STREAM, 0)? as i32)?,
        Some(b'd') => hand_over(&stream, UdpSocket::bind("0.0.0.0:0")?.as_raw_fd())?,
        _ => stream.write_all(b"?")?,
    }
    // The other side uses it before this side's copy goes.
    thread::sleep(Duration::from_secs(1));
    Ok(())
}

fn hand_over(stream: &UnixStream, fd: i32) -> std::io::Result<()> {
    let data = [b'!'];
    let parts = [data.as_ptr() as usize, 1];
    let mut control = Vec::new();
    control.extend_from_slice(&20_usize.to_ne_bytes());
    control.extend_from_slice(&libc::SOL_SOCKET.to_ne_bytes());
    control.extend_from_slice(&libc::SCM_RIGHTS.to_ne_bytes());
    control.extend_from_slice(&fd.to_ne_bytes());
    control.extend_from_slice(&[0; 4]);
    let message = [0, 0, parts.as_ptr() as usize, 1, control.as_ptr() as usize, control.len(), 0];
    raw::call(libc::SYS_sendmsg, [stream.as_raw_fd() as usize, message.as_ptr() as usize, 0, 0, 0, 0])?;
    thread::sleep(Duration::from_millis(600));
    Ok(())
}
