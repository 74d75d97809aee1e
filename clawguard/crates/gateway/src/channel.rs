//! The gateway's end of the channel.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use control::{
    calls::Spawned,
    channel::{Answer, Ask, Errand, LONGEST, Names, Question, Told},
};
use tokio::{
    io::{AsyncWriteExt, Interest},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, oneshot},
};

/// An answer, and the two descriptors that came with it if it is a stdio server.
type Answered = (Told, Option<(OwnedFd, OwnedFd)>);
/// Questions that wait for their answers; `None` once the daemon hung up.
type Waiting = Arc<Mutex<Option<HashMap<u64, oneshot::Sender<Answered>>>>>;

/// Lines that wait to be written; more questions wait for a place.
const MOST_LINES: usize = 64;

/// Asks the daemon; many questions may be under way.
pub(crate) struct Channel {
    last: AtomicU64,
    lines: mpsc::Sender<String>,
    waiting: Waiting,
}

/// A question that is under way. Whoever gives up leaves nothing behind.
struct Waits {
    id: u64,
    waiting: Waiting,
}

impl Drop for Waits {
    fn drop(&mut self) {
        if let Some(waiting) = lock(&self.waiting).as_mut() {
            waiting.remove(&self.id);
        }
    }
}

/// A question as it is written.
fn line(id: u64, ask: Ask) -> io::Result<String> {
    let mut line = serde_json::to_string(&Question { id, ask }).map_err(io::Error::other)?;
    line.push('\n');
    // The daemon would hang up.
    if line.len() >= LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a question is too long for the daemon"));
    }
    Ok(line)
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
        Ok(Self::over(stream))
    }

    /// Takes this one.
    pub(crate) fn over(stream: UnixStream) -> Self {
        let (read, write) = stream.into_split();
        let waiting: Waiting = Arc::new(Mutex::new(Some(HashMap::new())));
        tokio::spawn(hand_out(read, Arc::clone(&waiting)));
        let (lines, queue) = mpsc::channel(MOST_LINES);
        tokio::spawn(write_down(write, queue, Arc::clone(&waiting)));
        Self { last: AtomicU64::new(0), lines, waiting }
    }

    /// Asks and waits for the answer. May be given up at any time: a line that was begun is written to its end.
    pub(crate) async fn ask(&self, ask: Ask) -> io::Result<Told> {
        self.answered(ask).await.map(|(told, _)| told)
    }

    async fn answered(&self, ask: Ask) -> io::Result<Answered> {
        self.sent(ask).await?.await
    }

    /// Asks, and answers how to wait for the answer: what is asked afterwards is heard afterwards, whoever waits meanwhile.
    pub(crate) async fn begin(&self, ask: Ask) -> io::Result<impl Future<Output = io::Result<Told>> + Send + 'static> {
        let answered = self.sent(ask).await?;
        Ok(async move { answered.await.map(|(told, _)| told) })
    }

    async fn sent(&self, ask: Ask) -> io::Result<impl Future<Output = io::Result<Answered>> + Send + 'static> {
        let id = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let line = line(id, ask)?;
        let place = self.lines.reserve().await.map_err(|_| hung_up())?;
        let (sender, receiver) = oneshot::channel();
        match lock(&self.waiting).as_mut() {
            Some(waiting) => drop(waiting.insert(id, sender)),
            None => return Err(hung_up()),
        }
        let waits = Waits { id, waiting: Arc::clone(&self.waiting) };
        place.send(line);
        Ok(async move {
            let answered = receiver.await.map_err(|_| hung_up());
            drop(waits);
            answered
        })
    }

    /// Where to listen: for scrapers, for MCP and for models; and what the guard of names needs.
    pub(crate) async fn settings(&self) -> io::Result<(SocketAddr, [u16; 2], Names)> {
        match self.ask(Ask::Settings).await? {
            Told::Settings { metrics, tools, models, names } => Ok((metrics, [tools, models], names)),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    pub(crate) async fn metrics(&self) -> io::Result<String> {
        match self.ask(Ask::Metrics).await? {
            Told::Metrics(text) => Ok(text),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Has the daemon start a stdio server: its job's id, its standard input, and its standard output; or why it was not started.
    pub(crate) async fn spawn(
        &self,
        slot: u32,
        key: u64,
        server: &str,
    ) -> io::Result<Result<(String, OwnedFd, OwnedFd), String>> {
        match self.answered(Ask::Spawn { slot, key, server: server.into() }).await? {
            (Told::Spawned(Spawned::Running { id }), Some((input, output))) => Ok(Ok((id, input, output))),
            (Told::Spawned(Spawned::Refused(why)), _) => Ok(Err(why)),
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

fn lock(waiting: &Waiting) -> std::sync::MutexGuard<'_, Option<HashMap<u64, oneshot::Sender<Answered>>>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives each answer to whoever waits for it, until the daemon hangs up.
async fn hand_out(read: OwnedReadHalf, waiting: Waiting) {
    let mut lines = Lines { read, have: Vec::new(), looked: 0, descriptors: VecDeque::new() };
    while let Ok(line) = lines.next().await {
        let Ok(answer) = serde_json::from_slice::<Answer>(&line) else { break };
        let descriptors = match &answer.told {
            // They came no later than the line's first byte.
            Told::Spawned(Spawned::Running { .. }) => {
                let (Some(input), Some(output)) = (lines.descriptors.pop_front(), lines.descriptors.pop_front()) else {
                    break;
                };
                Some((input, output))
            }
            _ => None,
        };
        let waits = lock(&waiting).as_mut().and_then(|waiting| waiting.remove(&answer.id));
        if let Some(sender) = waits {
            // Whoever asked may have given up. A server whose pipes close then has nobody to talk to, and ends.
            let _ = sender.send((answer.told, descriptors));
        }
    }
    // Whoever waits learns it by its sender's end.
    drop(lock(&waiting).take());
}

/// Lines of the channel, with the descriptors that come beside them.
struct Lines {
    read: OwnedReadHalf,
    have: Vec<u8>,
    /// How many of those bytes are known to have no end of line among them.
    looked: usize,
    descriptors: VecDeque<OwnedFd>,
}

/// Bytes that are read at once.
const AT_ONCE: usize = 64 << 10;
/// Descriptors that may wait for their lines.
const MOST_DESCRIPTORS: usize = 64;

impl Lines {
    async fn next(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(end) = self.have[self.looked..].iter().position(|byte| *byte == b'\n') {
                let rest = self.have.split_off(self.looked + end + 1);
                self.looked = 0;
                return Ok(std::mem::replace(&mut self.have, rest));
            }
            self.looked = self.have.len();
            if self.have.len() > LONGEST || self.descriptors.len() > MOST_DESCRIPTORS {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let socket: &UnixStream = self.read.as_ref();
            socket.readable().await?;
            let (have, descriptors) = (&mut self.have, &mut self.descriptors);
            let before = have.len();
            have.resize(before + AT_ONCE, 0);
            let came = socket
                .try_io(Interest::READABLE, || sys::rights::receive(socket.as_fd(), &mut have[before..], descriptors));
            have.truncate(before + came.as_ref().copied().unwrap_or(0));
            match came {
                Ok(0) => return Err(hung_up()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Writes one line after the other, until the daemon hangs up.
async fn write_down(mut write: OwnedWriteHalf, mut queue: mpsc::Receiver<String>, waiting: Waiting) {
    while let Some(line) = queue.recv().await {
        if write.write_all(line.as_bytes()).await.is_err() {
            break;
        }
    }
    drop(lock(&waiting).take());
}

impl crate::names::Daemon for Channel {
    fn ask(&self, ask: Ask) -> impl Future<Output = io::Result<Told>> + Send {
        self.ask(ask)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncBufReadExt, BufReader};

    use super::*;

    /// A daemon's end of a channel, in its own process as it seems.
    async fn pair(name: &str) -> (Channel, UnixStream) {
        let at = std::env::temp_dir().join(format!("clawguard-channel-{}-{name}", std::process::id()));
        let listener = tokio::net::UnixListener::bind(&at).unwrap();
        let channel = Channel::open(&at).await.unwrap();
        std::fs::remove_file(&at).unwrap();
        (channel, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn whoever_gives_up_leaves_nothing_behind_and_no_half_a_line() {
        let (channel, daemon) = pair("given-up").await;
        // More than the socket holds while nobody reads.
        let long = Ask::Revoked { tokens: vec!["a".repeat(1 << 20)] };
        for ask in [long, Ask::Metrics] {
            assert!(tokio::time::timeout(Duration::from_millis(50), channel.ask(ask)).await.is_err());
        }
        assert_eq!(lock(&channel.waiting).as_ref().unwrap().len(), 0);
        let mut lines = BufReader::new(daemon).lines();
        for id in 1..=2 {
            let line = lines.next_line().await.unwrap().unwrap();
            assert_eq!(serde_json::from_str::<Question>(&line).unwrap().id, id);
        }
    }

    #[tokio::test]
    async fn a_question_at_which_the_daemon_would_hang_up_is_not_asked() {
        let (channel, daemon) = pair("long").await;
        let long = channel.ask(Ask::Revoked { tokens: vec!["a".repeat(LONGEST)] });
        assert!(tokio::time::timeout(Duration::from_secs(5), long).await.is_ok_and(|asked| asked.is_err()));
        let asked = tokio::time::timeout(Duration::from_millis(50), channel.ask(Ask::Metrics)).await;
        assert!(asked.is_err());
        let line = BufReader::new(daemon).lines().next_line().await.unwrap().unwrap();
        assert_eq!(serde_json::from_str::<Question>(&line).unwrap().ask, Ask::Metrics);
    }

    #[tokio::test]
    async fn whoever_waits_learns_that_the_daemon_hung_up() {
        let (channel, daemon) = pair("hung-up").await;
        let (asked, ()) = tokio::join!(channel.ask(Ask::Metrics), async { drop(daemon) });
        assert!(asked.is_err());
        assert!(channel.ask(Ask::Metrics).await.is_err());
    }

    #[tokio::test]
    async fn a_servers_descriptors_come_with_the_answer_that_they_belong_to() {
        let (channel, daemon) = pair("descriptors").await;
        let channel = Arc::new(channel);
        let asking = ["a", "b"].map(|server| {
            let channel = Arc::clone(&channel);
            tokio::spawn(async move { channel.spawn(1, 2, server).await })
        });
        let mut lines = BufReader::new(daemon).lines();
        let mut servers = HashMap::new();
        for _ in 0..2 {
            let question: Question = serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap();
            let Ask::Spawn { server, .. } = question.ask else { panic!("not asked for") };
            servers.insert(server, question.id);
        }
        let daemon = lines.into_inner().into_inner();
        // Answered the other way round, and something else between them.
        for server in ["b", "a"] {
            daemon.try_write(b"{\"id\":9999,\"told\":\"noted\"}\n").unwrap();
            let (input, output) = (io::pipe().unwrap(), io::pipe().unwrap());
            io::Write::write_all(&mut &output.1, server.as_bytes()).unwrap();
            let answer = Answer { id: servers[server], told: Told::Spawned(Spawned::Running { id: server.into() }) };
            let line = format!("{}\n", serde_json::to_string(&answer).unwrap());
            let fds = [input.1.as_fd(), output.0.as_fd()];
            assert_eq!(sys::rights::send(daemon.as_fd(), line.as_bytes(), &fds).unwrap(), line.len());
        }
        for (task, name) in asking.into_iter().zip(["a", "b"]) {
            let (id, _input, output) = task.await.unwrap().unwrap().unwrap();
            let mut said = String::new();
            io::Read::read_to_string(&mut std::fs::File::from(output), &mut said).unwrap();
            assert_eq!((id.as_str(), said.as_str()), (name, name));
        }
    }

    #[tokio::test]
    async fn a_server_without_its_descriptors_ends_the_channel() {
        let (channel, daemon) = pair("none").await;
        let answer = Answer { id: 1, told: Told::Spawned(Spawned::Running { id: "x".into() }) };
        let line = format!("{}\n", serde_json::to_string(&answer).unwrap());
        let (spawned, _) = tokio::join!(channel.spawn(1, 2, "a"), async { daemon.try_write(line.as_bytes()) });
        assert!(spawned.is_err());
    }
}
