//! A pipe in which a gateway writes which calls begin. The kernel keeps it whatever becomes of the gateway, and nobody wakes for it:
//! it is read when something is said of calls, and when the channel ends.

use std::{
    io::{self, PipeReader, Read},
    os::fd::{AsFd, OwnedFd},
};

use control::calls::{Call, Called};
use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// The pipe's end for the daemon.
pub(super) struct Beginnings {
    pipe: PipeReader,
    room: Vec<u8>,
    /// Of a line that has no end yet, and so of a gateway that is none of ours.
    have: Vec<u8>,
}

/// Bytes that the pipe holds, if the kernel gives as many.
const PIPE: usize = 1 << 20;
/// Bytes that are read of it at once.
const AT_ONCE: usize = 64 << 10;

impl Beginnings {
    /// A pipe, and its end for the gateway. Neither end waits.
    pub(super) fn new() -> io::Result<(Self, OwnedFd)> {
        let (pipe, theirs) = io::pipe()?;
        for end in [pipe.as_fd(), theirs.as_fd()] {
            fcntl(end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        // A smaller one only is full sooner.
        let _ = fcntl(&pipe, FcntlArg::F_SETPIPE_SZ(i32::try_from(PIPE).unwrap_or(i32::MAX)));
        Ok((Self { pipe, room: vec![0; AT_ONCE], have: Vec::new() }, theirs.into()))
    }

    /// What has been written so far: no more than the pipe holds, however fast somebody writes.
    ///
    /// # Errors
    ///
    /// If that is not what a gateway writes.
    pub(super) fn read(&mut self, mut begins: impl FnMut(Box<Call>)) -> io::Result<()> {
        for _ in 0..PIPE / AT_ONCE {
            let count = match self.pipe.read(&mut self.room) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                count => count?,
            };
            self.have.extend_from_slice(self.room.get(..count).unwrap_or_default());
            let whole = self.have.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            for line in self.have.get(..whole).unwrap_or_default().split_inclusive(|byte| *byte == b'\n') {
                match serde_json::from_slice(line) {
                    Ok(Called::Begun(call)) => begins(call),
                    _ => return Err(io::ErrorKind::InvalidData.into()),
                }
            }
            self.have.drain(..whole);
            if self.have.len() > AT_ONCE {
                return Err(io::ErrorKind::InvalidData.into());
            }
            if count < self.room.len() {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Write};

    use super::*;

    #[test]
    fn neither_end_waits_and_what_does_not_fit_is_not_written() {
        let (mut ours, theirs) = Beginnings::new().unwrap();
        ours.read(|_| panic!("nothing began")).unwrap();
        let mut theirs = File::from(theirs);
        let piece = [b'x'; 4096];
        let written = (0..=PIPE / piece.len()).take_while(|_| theirs.write(&piece).is_ok()).count();
        assert!(written <= PIPE / piece.len(), "more than it holds");
        // A line that does not end is nobody's.
        assert!(ours.read(|_| panic!("nothing began")).is_err());
        drop(theirs);
        let mut left = Vec::new();
        assert!(ours.pipe.read_to_end(&mut left).is_ok());
    }
}
