//! The far end: a host of its own in a network namespace, with servers, and a sniffer that is the only witness of frames.

mod listen;
mod tls;
mod witness;
mod zone;

use std::{
    collections::{HashMap, VecDeque},
    io::{self, BufRead, IoSlice, IoSliceMut, Read, Write},
    net::{Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    path::Path,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, bail};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, sendmsg, setsockopt, sockopt,
};

use crate::raw;

/// Frames that are kept for questions.
const KEPT: usize = 20_000;
/// Bytes kept of each.
const SNAP: usize = 512;

/// Ports on which TCP and UDP answer with what they get.
const ECHO: [u16; 10] = [53, 80, 443, 853, 5432, 7001, 7002, 7003, 8443, 9999];

#[derive(Default)]
struct Seen {
    frames: VecDeque<Vec<u8>>,
    /// Frames by IP protocol and destination port.
    ports: HashMap<(u8, u16), u64>,
    /// Payload bytes by IP protocol and destination port.
    bytes: HashMap<(u8, u16), u64>,
    /// Frames that are not the network's own housekeeping.
    traffic: u64,
}

/// The packet socket by which frames are seen; 0 until there is one.
static SNIFFER: AtomicUsize = AtomicUsize::new(0);

/// Waits until all that came in was counted. A frame that was not seen for want of room ends the run: nothing that is
/// answered after that would be the truth.
fn settle() -> anyhow::Result<()> {
    let fd = SNIFFER.load(Ordering::Relaxed);
    if fd == 0 {
        return Ok(());
    }
    thread::sleep(Duration::from_millis(3));
    let mut waiting = 1_i32;
    while waiting > 0 {
        raw::call(libc::SYS_ioctl, [fd, libc::FIONREAD as usize, (&raw mut waiting) as usize, 0, 0, 0])?;
        thread::sleep(Duration::from_millis(1));
    }
    // struct tpacket_stats: frames, and frames that were dropped, since it was last asked for.
    let mut statistics = [0_u32; 2];
    let mut length = 8_u32;
    let a = [
        fd,
        libc::SOL_PACKET as usize,
        libc::PACKET_STATISTICS as usize,
        statistics.as_mut_ptr() as usize,
        (&raw mut length) as usize,
        0,
    ];
    raw::call(libc::SYS_getsockopt, a)?;
    if statistics[1] > 0 {
        bail!("{} frames were not seen", statistics[1]);
    }
    Ok(())
}

/// Runs until standard input ends.
pub(crate) fn serve() -> anyhow::Result<()> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).context("make a network namespace")?;
    println!("ready");
    let seen = Arc::new(Mutex::new(Seen::default()));
    let (zone, witness) = (zone::Zone::default(), witness::Witness::default());
    for line in io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        settle()?;
        let answer = match words.as_slice() {
            ["setup", script @ ..] => {
                setup(&script.join(" "), &seen)?;
                "up".into()
            }
            ["clear"] => {
                *lock(&seen) = Seen::default();
                zone.clear();
                witness.clear();
                "ok".into()
            }
            ["names", directory] => {
                zone::serve(&zone)?;
                tls::serve(Path::new(directory), &witness)?;
                "up".into()
            }
            ["zone", rest @ ..] => {
                zone.change(rest)?;
                "ok".into()
            }
            ["asked"] => zone.asked("").to_string(),
            ["asked", name] => zone.asked(name).to_string(),
            ["asked-like", part] => zone.asked_like(part).to_string(),
            ["sni-seen", name] => witness.named(name).to_string(),
            ["hello-names", port] => witness.names(port.parse()?).join(" "),
            ["heard", hex] => witness.heard(&unhex(hex)?).to_string(),
            ["streams"] => witness.dump(hex),
            ["seen", hex] => count(&lock(&seen), &unhex(hex)?).to_string(),
            ["dump"] => {
                let seen = lock(&seen);
                seen.frames
                    .iter()
                    .filter(|frame| !housekeeping(frame))
                    .map(|frame| hex(frame))
                    .collect::<Vec<_>>()
                    .join(" ")
            }
            ["traffic"] => lock(&seen).traffic.to_string(),
            ["port", protocol, port] => {
                lock(&seen).ports.get(&(protocol.parse()?, port.parse()?)).copied().unwrap_or(0).to_string()
            }
            ["bytes", protocol, port] => {
                lock(&seen).bytes.get(&(protocol.parse()?, port.parse()?)).copied().unwrap_or(0).to_string()
            }
            ["call", to, hex] => call(to.parse()?, &unhex(hex)?),
            ["visit", verb, to, hex] => {
                let (to, data, stream) = (to.parse()?, unhex(hex)?, *verb == "call");
                thread::spawn(move || {
                    for _ in 0..4 {
                        thread::sleep(Duration::from_millis(60));
                        if stream {
                            call(to, &data)
                        } else {
                            datagram(to, &data)
                        };
                    }
                });
                "ok".into()
            }
            ["datagram", to, hex] => datagram(to.parse()?, &unhex(hex)?),
            other => bail!("what is {other:?}?"),
        };
        println!("{answer}");
    }
    Ok(())
}

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn setup(script: &str, seen: &Arc<Mutex<Seen>>) -> anyhow::Result<()> {
    let done = Command::new("sh").args(["-e", "-c", script]).output()?;
    if !done.status.success() {
        bail!("{script}: {}", String::from_utf8_lossy(&done.stderr));
    }
    sniff(Arc::clone(seen))?;
    for port in ECHO {
        let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
        let tcp = listen::tcp(any)?;
        thread::spawn(move || {
            for stream in tcp.incoming().flatten() {
                thread::spawn(move || echo(stream));
            }
        });
        let udp = listen::udp(any)?;
        thread::spawn(move || echo_datagrams(&udp));
    }
    Ok(())
}

/// Answers each datagram from the very address it was sent to, as a host that has many must.
fn echo_datagrams(socket: &UdpSocket) -> nix::Result<()> {
    setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    let mut buffer = [0; 65_536];
    loop {
        let mut control = nix::cmsg_space!(libc::in6_pktinfo);
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let message = recvmsg::<SockaddrIn6>(socket.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::empty())?;
        let (count, from) = (message.bytes, message.address);
        let local = message.cmsgs()?.find_map(|cmsg| match cmsg {
            ControlMessageOwned::Ipv6PacketInfo(info) => Some(info),
            _ => None,
        });
        let Some(mut local) = local else { continue };
        local.ipi6_ifindex = 0;
        let control = [ControlMessage::Ipv6PacketInfo(&local)];
        // Nobody may be there any more; that is theirs to see.
        let _ =
            sendmsg(socket.as_raw_fd(), &[IoSlice::new(&buffer[..count])], &control, MsgFlags::empty(), from.as_ref());
    }
}

fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 65_536];
    while let Ok(count) = stream.read(&mut buffer) {
        if count == 0 || stream.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}

/// Keeps every frame that comes in on the veth.
fn sniff(seen: Arc<Mutex<Seen>>) -> anyhow::Result<()> {
    const ETH_P_ALL: u16 = 3;
    let fd = raw::socket(libc::AF_PACKET, libc::SOCK_RAW, i32::from(ETH_P_ALL.to_be()))?;
    SNIFFER.store(fd, Ordering::Relaxed);
    raw::option(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &(256_i32 << 20).to_ne_bytes())?;
    let index = std::fs::read_to_string("/sys/class/net/far0/ifindex");
    let index: i32 = match index {
        Ok(text) => text.trim().parse()?,
        // sysfs shows the namespace in which it was mounted; the first device after lo is the veth.
        Err(_) => interface("far0")?,
    };
    let mut address = Vec::new();
    address.extend_from_slice(&(libc::AF_PACKET as u16).to_ne_bytes());
    address.extend_from_slice(&ETH_P_ALL.to_be_bytes());
    address.extend_from_slice(&index.to_ne_bytes());
    address.extend_from_slice(&[0; 12]);
    raw::call(libc::SYS_bind, [fd, address.as_ptr() as usize, address.len(), 0, 0, 0])?;
    thread::spawn(move || {
        let mut frame = vec![0_u8; 1 << 17];
        loop {
            let mut from = [0_u8; 20];
            let mut length = 20_u32;
            let a = [
                fd,
                frame.as_mut_ptr() as usize,
                frame.len(),
                0,
                from.as_mut_ptr() as usize,
                (&raw mut length) as usize,
            ];
            let Ok(count) = raw::call(libc::SYS_recvfrom, a) else { return };
            const PACKET_OUTGOING: u8 = 4;
            if from[10] != PACKET_OUTGOING {
                keep(&mut lock(&seen), &frame[..count]);
            }
        }
    });
    Ok(())
}

fn interface(name: &str) -> anyhow::Result<i32> {
    let output = Command::new("ip").args(["-o", "link", "show", name]).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.split(':').next().unwrap_or_default().trim().parse()?)
}

fn keep(seen: &mut Seen, frame: &[u8]) {
    seen.traffic += u64::from(!housekeeping(frame));
    if let Some((protocol, ports, payload)) = transport(frame) {
        let key = (protocol, ports);
        *seen.ports.entry(key).or_default() += 1;
        *seen.bytes.entry(key).or_default() += payload as u64;
    }
    if seen.frames.len() == KEPT {
        seen.frames.pop_front();
    }
    seen.frames.push_back(frame[..frame.len().min(SNAP)].to_vec());
}

/// Address resolution and multicast listening, which kernels do by themselves.
fn housekeeping(frame: &[u8]) -> bool {
    let word = |at: usize| frame.get(at..at + 2).map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
    match word(12) {
        0x0806 => true,
        0x0800 => frame.get(23) == Some(&2),
        // ICMPv6, also behind the hop-by-hop header that MLD has.
        0x86dd => match frame.get(20) {
            Some(58) => matches!(frame.get(54), Some(133..=137 | 143)),
            Some(0) => frame.get(54) == Some(&58),
            _ => false,
        },
        _ => false,
    }
}

/// IP protocol, destination port and payload length of a frame.
fn transport(frame: &[u8]) -> Option<(u8, u16, usize)> {
    let (protocol, at, end) = match u16::from_be_bytes([*frame.get(12)?, *frame.get(13)?]) {
        0x0800 => {
            let header = usize::from(frame.get(14)? & 0x0f) * 4;
            let total = usize::from(u16::from_be_bytes([*frame.get(16)?, *frame.get(17)?]));
            (*frame.get(23)?, 14 + header, 14 + total)
        }
        0x86dd => {
            let total = usize::from(u16::from_be_bytes([*frame.get(18)?, *frame.get(19)?]));
            (*frame.get(20)?, 54, 54 + total)
        }
        _ => return None,
    };
    let port = match (frame.get(at + 2), frame.get(at + 3)) {
        (Some(high), Some(low)) => u16::from_be_bytes([*high, *low]),
        _ => 0,
    };
    let header = match protocol {
        6 => usize::from(frame.get(at + 12)? >> 4) * 4,
        _ => 8,
    };
    Some((protocol, port, end.saturating_sub(at + header)))
}

fn count(seen: &Seen, wanted: &[u8]) -> usize {
    seen.frames.iter().filter(|frame| frame.windows(wanted.len()).any(|part| part == wanted)).count()
}

/// Calls somebody, sends, and answers what came back in a moment.
fn call(to: SocketAddr, data: &[u8]) -> String {
    let moment = Duration::from_millis(400);
    let Ok(mut stream) = TcpStream::connect_timeout(&to, moment) else { return "refused".into() };
    let _ = stream.set_read_timeout(Some(moment));
    if stream.write_all(data).is_err() {
        return "broken".into();
    }
    let mut buffer = [0; 4096];
    match stream.read(&mut buffer) {
        Ok(count) => format!("got {}", hex(&buffer[..count])),
        Err(_) => "silence".into(),
    }
}

fn datagram(to: SocketAddr, data: &[u8]) -> String {
    let moment = Duration::from_millis(400);
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let Ok(socket) = UdpSocket::bind(any) else { return "broken".into() };
    let _ = socket.set_read_timeout(Some(moment));
    if socket.send_to(data, to).is_err() {
        return "broken".into();
    }
    let mut buffer = [0; 4096];
    match socket.recv_from(&mut buffer) {
        Ok((count, _)) => format!("got {}", hex(&buffer[..count])),
        Err(_) => "silence".into(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> anyhow::Result<Vec<u8>> {
    (0..text.len() / 2).map(|i| Ok(u8::from_str_radix(&text[2 * i..2 * i + 2], 16)?)).collect()
}
