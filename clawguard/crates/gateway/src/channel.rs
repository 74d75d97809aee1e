//! The gateway's end of the channel.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use control::channel::{Ask, LONGEST, Told};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::Mutex,
};

/// Asks the daemon, one question at a time.
pub(crate) struct Channel(Mutex<(BufReader<OwnedReadHalf>, OwnedWriteHalf)>);

impl Channel {
    /// Takes the channel on standard input, or calls the daemon's socket.
    pub(crate) async fn open(at: &Path) -> io::Result<Self> {
        let stream = if at == Path::new("stdin") {
            let inherited: OwnedFd = io::stdin().as_fd().try_clone_to_owned()?;
            let stream = std::os::unix::net::UnixStream::from(inherited);
            stream.set_nonblocking(true)?;
            UnixStream::from_std(stream)?
        } else {
            UnixStream::connect(at).await?
        };
        let (read, write) = stream.into_split();
        Ok(Self(Mutex::new((BufReader::new(read), write))))
    }

    async fn ask(&self, ask: &Ask) -> io::Result<Told> {
        let mut channel = self.0.lock().await;
        let (read, write) = &mut *channel;
        let mut line = serde_json::to_string(ask).map_err(io::Error::other)?;
        line.push('\n');
        write.write_all(line.as_bytes()).await?;
        line.clear();
        let count = read.take(LONGEST as u64).read_line(&mut line).await?;
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the daemon hung up"));
        }
        serde_json::from_str(&line).map_err(io::Error::other)
    }

    pub(crate) async fn settings(&self) -> io::Result<SocketAddr> {
        match self.ask(&Ask::Settings).await? {
            Told::Settings { metrics } => Ok(metrics),
            Told::Metrics(_) => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    pub(crate) async fn metrics(&self) -> io::Result<String> {
        match self.ask(&Ask::Metrics).await? {
            Told::Metrics(text) => Ok(text),
            Told::Settings { .. } => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}
