//! The two directions of a stream socket, each watched for itself. Whoever only reads does not wake because the other side took what
//! was written (`unix_write_space`, net/unix/af_unix.c): on a channel of small messages that is every second time.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use sys::reactor::watch_one_way;
use tokio::io::{
    AsyncRead, Interest, ReadBuf,
    unix::{AsyncFd, AsyncFdReadyGuard},
};

/// How soon it is tried again to write where nobody can tell when.
const UNWATCHED: Duration = Duration::from_millis(50);

/// The direction that is read.
#[derive(Debug)]
pub struct Reads(AsyncFd<UnixStream>);

/// The direction that is written.
#[derive(Debug)]
pub struct Writes(UnixStream);

/// Takes a socket apart. Has to be called within a runtime.
///
/// # Errors
///
/// If there are no descriptors left.
pub fn ends(stream: UnixStream) -> io::Result<(Reads, Writes)> {
    stream.set_nonblocking(true)?;
    let write = stream.try_clone()?;
    Ok((Reads(watch_one_way(stream, Interest::READABLE)?), Writes(write)))
}

impl Reads {
    /// Waits until there may be something to read.
    ///
    /// # Errors
    ///
    /// If the runtime ends.
    pub async fn readable(&self) -> io::Result<AsyncFdReadyGuard<'_, UnixStream>> {
        self.0.readable().await
    }
}

impl AsyncRead for Reads {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(context))?;
            let room = buffer.initialize_unfilled();
            let most = room.len();
            match (&mut self.0.get_ref()).read(room) {
                Ok(count) => {
                    // Where there was room for more, the kernel need not be asked whether there is more: it tells.
                    if count > 0 && count < most {
                        ready.clear_ready();
                    }
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl Writes {
    /// The socket itself.
    #[must_use]
    pub const fn socket(&self) -> &UnixStream {
        &self.0
    }

    /// Writes what fits, at once; 0 if nothing does.
    ///
    /// # Errors
    ///
    /// If the other side hung up.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match (&self.0).write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            written => written,
        }
    }

    /// Waits until something may fit. Only meanwhile is this direction watched.
    ///
    /// # Errors
    ///
    /// If the runtime ends.
    pub async fn writable(&self) -> io::Result<()> {
        // Of a descriptor of its own: a queue has each only once.
        match self.0.try_clone().and_then(|own| watch_one_way(own, Interest::WRITABLE)) {
            Ok(watched) => watched.writable().await.map(drop),
            // Without a descriptor for that, it is tried again.
            Err(_) => {
                tokio::time::sleep(UNWATCHED).await;
                Ok(())
            }
        }
    }

    /// Writes all of it.
    ///
    /// # Errors
    ///
    /// If the other side hung up.
    pub async fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        let mut sent = 0;
        while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
            match self.try_write(rest)? {
                0 => self.writable().await?,
                count => sent += count,
            }
        }
        Ok(())
    }

    /// Nothing more is written, and the other side learns it.
    ///
    /// # Errors
    ///
    /// If it hung up already.
    pub fn shut(&self) -> io::Result<()> {
        self.0.shutdown(std::net::Shutdown::Write)
    }
}
