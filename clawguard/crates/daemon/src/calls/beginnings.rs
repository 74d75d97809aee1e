//! Where a gateway writes which calls begin, beside the channel. The kernel keeps it whatever becomes of the gateway, and nobody wakes
//! for it: it is read when something is said of calls, and when the channel ends.
//!
//! Packets of a socket and no pipe: a pipe's writer holds what its reader waits for while it reads its own memory, and that can be made
//! to take any time.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use control::calls::{Call, Called};
use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, setsockopt, socketpair, sockopt::SndBufForce},
};

/// The daemon's end.
pub(super) struct Beginnings {
    socket: OwnedFd,
    room: Vec<u8>,
}

/// Bytes that wait there, as the kernel counts them.
const WAITING: usize = 1 << 20;
/// Beginnings that are read at once: more than there can be.
const AT_ONCE: usize = 4096;
/// Bytes of one; a longer one comes by the channel.
const LONGEST: usize = 8192;

impl Beginnings {
    /// Both ends; neither waits.
    pub(super) fn new() -> io::Result<(Self, OwnedFd)> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let (socket, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        // Less room only is full sooner.
        let _ = setsockopt(&theirs, SndBufForce, &WAITING);
        Ok((Self { socket, room: vec![0; LONGEST] }, theirs))
    }

    /// What has been written so far: no more than has room there, however fast somebody writes. What is none is passed over;
    /// answers whether there was no such thing, and all could be read.
    pub(super) fn read(&mut self, mut begins: impl FnMut(Box<Call>)) -> bool {
        let mut honest = true;
        for _ in 0..AT_ONCE {
            let count = match recv(self.socket.as_raw_fd(), &mut self.room, MsgFlags::MSG_DONTWAIT) {
                Err(Errno::EINTR) => continue,
                // Nothing more, or nobody any more.
                Err(Errno::EAGAIN) | Ok(0) => break,
                Err(error) => {
                    tracing::error!(%error, "what a gateway wrote of beginnings cannot be read");
                    honest = false;
                    break;
                }
                Ok(count) => count,
            };
            match serde_json::from_slice(self.room.get(..count).unwrap_or_default()) {
                Ok(Called::Begun(call)) => begins(call),
                _ => honest = false,
            }
        }
        honest
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Write};

    use super::*;

    #[test]
    fn neither_end_waits_and_what_does_not_fit_is_not_written() {
        let (mut ours, theirs) = Beginnings::new().unwrap();
        assert!(ours.read(|_| panic!("nothing began")));
        let mut theirs = File::from(theirs);
        let piece = [b'x'; 600];
        let written = (0..=AT_ONCE).take_while(|_| theirs.write(&piece).is_ok()).count();
        assert!((200..AT_ONCE).contains(&written), "{written}");
        drop(theirs);
        // All of it is nobody's beginning, and nothing is left of it.
        assert!(!ours.read(|_| panic!("nothing began")));
        assert!(ours.read(|_| panic!("nothing began")));
    }
}
