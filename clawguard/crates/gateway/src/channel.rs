//! The gateway's end of the channel.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use control::channel::{Answer, Ask, Errand, LONGEST, Names, Question, Told};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::oneshot,
};

/// Questions that wait for their answers; `None` once the daemon hung up.
type Waiting = Arc<Mutex<Option<HashMap<u64, oneshot::Sender<Told>>>>>;

/// Asks the daemon; many questions may be under way.
pub(crate) struct Channel {
    write: tokio::sync::Mutex<(u64, OwnedWriteHalf)>,
    waiting: Waiting,
}

fn hung_up() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the daemon hung up")
}

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
        let waiting: Waiting = Arc::new(Mutex::new(Some(HashMap::new())));
        tokio::spawn(hand_out(read, Arc::clone(&waiting)));
        Ok(Self { write: tokio::sync::Mutex::new((0, write)), waiting })
    }

    /// Asks and waits for the answer.
    pub(crate) async fn ask(&self, ask: Ask) -> io::Result<Told> {
        let (sender, receiver) = oneshot::channel();
        {
            let mut write = self.write.lock().await;
            write.0 += 1;
            let id = write.0;
            match lock(&self.waiting).as_mut() {
                Some(waiting) => drop(waiting.insert(id, sender)),
                None => return Err(hung_up()),
            }
            let mut line = serde_json::to_string(&Question { id, ask }).map_err(io::Error::other)?;
            line.push('\n');
            write.1.write_all(line.as_bytes()).await?;
        }
        receiver.await.map_err(|_| hung_up())
    }

    pub(crate) async fn settings(&self) -> io::Result<(SocketAddr, Names)> {
        match self.ask(Ask::Settings).await? {
            Told::Settings { metrics, names } => Ok((metrics, names)),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    pub(crate) async fn metrics(&self) -> io::Result<String> {
        match self.ask(Ask::Metrics).await? {
            Told::Metrics(text) => Ok(text),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    pub(crate) async fn errands(&self) -> io::Result<Vec<Errand>> {
        match self.ask(Ask::Errands).await? {
            Told::Errands(errands) => Ok(errands),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

fn lock(waiting: &Waiting) -> std::sync::MutexGuard<'_, Option<HashMap<u64, oneshot::Sender<Told>>>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives each answer to whoever waits for it, until the daemon hangs up.
async fn hand_out(read: OwnedReadHalf, waiting: Waiting) {
    let mut read = BufReader::new(read).take(LONGEST as u64);
    let mut line = String::new();
    loop {
        line.clear();
        read.set_limit(LONGEST as u64);
        let Ok(1..) = read.read_line(&mut line).await else { break };
        let Ok(answer) = serde_json::from_str::<Answer>(&line) else { break };
        let waits = lock(&waiting).as_mut().and_then(|waiting| waiting.remove(&answer.id));
        if let Some(sender) = waits {
            // Whoever asked may have given up.
            let _ = sender.send(answer.told);
        }
    }
    // Whoever waits learns it by its sender's end.
    drop(lock(&waiting).take());
}
