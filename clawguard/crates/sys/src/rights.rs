//! Descriptors that go over a unix socket with what is written there (`SCM_RIGHTS`, unix(7)).

use std::{
    collections::VecDeque,
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};

/// Descriptors that one message may bring.
pub const MOST: usize = 2;
/// Those that it can (`SCM_MAX_FD`, include/net/scm.h). There is room for them all: of what does not fit the kernel drops the rest,
/// and nobody learns which it had handed over.
const CAN: usize = 253;

/// Writes to a stream as much of `bytes` as it takes, at least one of them, and with the first of them the descriptors. Answers how
/// many bytes were written: the descriptors must not be sent again with the rest.
///
/// # Errors
///
/// If the socket takes nothing, EAGAIN among others. No descriptor was sent then.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let raw: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let with: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    Ok(sendmsg::<UnixAddr>(socket.as_raw_fd(), &[IoSlice::new(bytes)], with, flags, None)?)
}

/// Reads from a stream, and adds the descriptors that came with what was read. Bytes that came after others' descriptors are left
/// for the next time: the kernel ends a read there.
///
/// # Errors
///
/// EAGAIN if nothing is there; EMSGSIZE if more descriptors came with it than [`MOST`], of which none are kept.
pub fn receive(socket: BorrowedFd<'_>, room: &mut [u8], descriptors: &mut VecDeque<OwnedFd>) -> io::Result<usize> {
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; CAN]);
    let mut parts = [IoSliceMut::new(room)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let mut came = Vec::new();
    for part in message.cmsgs().map_err(|_| io::Error::from_raw_os_error(libc::EMSGSIZE))? {
        if let ControlMessageOwned::ScmRights(raw) = part {
            // SAFETY: the kernel made them for this call, and nobody else knows them.
            came.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    if message.flags.contains(MsgFlags::MSG_CTRUNC) || came.len() > MOST {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    descriptors.extend(came);
    Ok(message.bytes)
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{Read, Write},
        os::{fd::AsFd, unix::net::UnixStream},
    };

    use super::*;

    fn open_at_exec(fd: &OwnedFd) -> bool {
        let flags = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_GETFD).unwrap();
        flags & libc::FD_CLOEXEC == 0
    }

    #[test]
    fn descriptors_come_with_the_bytes_that_they_were_sent_with() {
        let (one, mut other) = UnixStream::pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        other.write_all(b"before").unwrap();
        assert_eq!(send(other.as_fd(), b"with", &[writer.as_fd()]).unwrap(), 4);
        other.write_all(b"after").unwrap();
        drop(writer);
        let (mut room, mut descriptors, mut text) = ([0; 64], VecDeque::new(), String::new());
        while !text.ends_with("with") {
            assert!(descriptors.is_empty());
            let count = receive(one.as_fd(), &mut room, &mut descriptors).unwrap();
            text.push_str(std::str::from_utf8(&room[..count]).unwrap());
        }
        assert_eq!((text.as_str(), descriptors.len()), ("beforewith", 1));
        assert_eq!(receive(one.as_fd(), &mut room, &mut descriptors).unwrap(), 5);
        let writer = descriptors.pop_front().unwrap();
        assert!(!open_at_exec(&writer) && descriptors.is_empty());
        File::from(writer).write_all(b"through").unwrap();
        let mut said = String::new();
        reader.read_to_string(&mut said).unwrap();
        assert_eq!(said, "through");
        let nothing = receive(one.as_fd(), &mut room, &mut descriptors).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn more_descriptors_than_are_expected_are_an_error_and_none_stays_open() {
        let (one, other) = UnixStream::pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        let many = [writer.as_fd(); MOST + 1];
        send(other.as_fd(), b"x", &many).unwrap();
        let mut descriptors = VecDeque::new();
        let error = receive(one.as_fd(), &mut [0; 8], &mut descriptors).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
        assert!(descriptors.is_empty());
        drop((writer, other));
        // Nobody holds the pipe any more.
        assert_eq!(reader.read(&mut [0; 8]).unwrap(), 0);
    }
}
