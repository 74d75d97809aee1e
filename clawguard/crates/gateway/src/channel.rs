//! The gateway's end of the channel.

use std::{
    collections::{HashMap, VecDeque},
    fs::File,
    io, mem,
    net::SocketAddr,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{Buf, BytesMut};
use control::{
    calls::Spawned,
    channel::{Answer, Ask, Errand, LONGEST, Names, Question, Told},
    ends::{Reads, Writes, ends},
};
use tokio::sync::{Notify, Semaphore, SemaphorePermit, oneshot};

/// An answer, and the descriptors that belong to it.
type Answered = (Told, Vec<OwnedFd>);
/// Takes an answer, at once. Dropped if the daemon hangs up.
type Hears = Box<dyn FnOnce(Answered) + Send>;
/// Questions that wait for their answers; `None` once the daemon hung up.
type Waiting = Arc<Mutex<Option<HashMap<u64, Hears>>>>;

/// Lines that wait to be written; more questions wait for a place.
const MOST_LINES: usize = 64;

/// Asks the daemon; many questions may be under way.
pub(crate) struct Channel {
    last: AtomicU64,
    out: Arc<Out>,
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
fn line(id: u64, ask: Ask) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(&Question { id, ask }).map_err(io::Error::other)?;
    line.push(b'\n');
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
    pub(crate) fn open(at: &Path) -> io::Result<Self> {
        let stream = if at == Path::new("stdin") {
            let inherited: OwnedFd = io::stdin().as_fd().try_clone_to_owned()?;
            UnixStream::from(inherited)
        } else {
            UnixStream::connect(at)?
        };
        Self::over(stream)
    }

    /// Takes this one.
    pub(crate) fn over(stream: UnixStream) -> io::Result<Self> {
        let (read, write) = ends(stream)?;
        let waiting: Waiting = Arc::new(Mutex::new(Some(HashMap::new())));
        let places = Semaphore::new(MOST_LINES);
        let out = Arc::new(Out { write, places, behind: Mutex::default(), more: Notify::new() });
        tokio::spawn(hand_out(read, Arc::clone(&waiting)));
        let (behind, hang_up) = (Arc::clone(&out), Arc::clone(&waiting));
        tokio::spawn(async move {
            behind.catch_up().await;
            behind.places.close();
            drop(lock(&hang_up).take());
        });
        Ok(Self { last: AtomicU64::new(0), out, waiting })
    }

    /// Asks and waits for the answer. May be given up at any time: a line that was begun is written to its end.
    pub(crate) async fn ask(&self, ask: Ask) -> io::Result<Told> {
        self.answered(ask).await.map(|(told, _)| told)
    }

    async fn answered(&self, ask: Ask) -> io::Result<Answered> {
        let (sender, receiver) = oneshot::channel();
        // Whoever asked may have given up. A server whose pipes close then has nobody to talk to, and ends.
        let hears: Hears = Box::new(move |answered| drop(sender.send(answered)));
        let _waits = Waits { id: self.send(ask, Some(hears)).await?, waiting: Arc::clone(&self.waiting) };
        receiver.await.map_err(|_| hung_up())
    }

    /// Asks, and has the answer taken by whoever reads it: what is asked afterwards is heard afterwards, whoever waits meanwhile.
    pub(crate) async fn begin(&self, ask: Ask, hears: impl FnOnce(Told) + Send + 'static) -> io::Result<()> {
        self.send(ask, Some(Box::new(|(told, _)| hears(told)))).await.map(drop)
    }

    /// Tells what is not answered.
    pub(crate) async fn tell(&self, ask: Ask) -> io::Result<()> {
        self.send(ask, None).await.map(drop)
    }

    async fn send(&self, ask: Ask, hears: Option<Hears>) -> io::Result<u64> {
        let id = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let line = line(id, ask)?;
        let place = self.out.places.acquire().await.map_err(|_| hung_up())?;
        match (lock(&self.waiting).as_mut(), hears) {
            (Some(waiting), Some(hears)) => drop(waiting.insert(id, hears)),
            (Some(_), None) => {}
            (None, _) => return Err(hung_up()),
        }
        self.out.write(&line, place)?;
        Ok(id)
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
            (Told::Spawned(Spawned::Running { id }), descriptors) => {
                let [input, output] = <[OwnedFd; 2]>::try_from(descriptors).map_err(|_| io::ErrorKind::InvalidData)?;
                Ok(Ok((id, input, output)))
            }
            (Told::Spawned(Spawned::Refused(why)), _) => Ok(Err(why)),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Where to write that a call begins, if the daemon wants that beside the channel.
    pub(crate) async fn beginnings(&self) -> io::Result<Option<File>> {
        let (_, descriptors) = self.answered(Ask::Beginnings).await?;
        Ok(descriptors.into_iter().next().map(File::from))
    }

    pub(crate) async fn errands(&self) -> io::Result<Vec<Errand>> {
        match self.ask(Ask::Errands).await? {
            Told::Errands(errands) => Ok(errands),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The way to the daemon. What fits is written at once, by whoever asks; no line is left half written.
struct Out {
    write: Writes,
    places: Semaphore,
    behind: Mutex<Behind>,
    more: Notify,
}

/// What did not fit, and how many lines' places that takes.
#[derive(Default)]
struct Behind {
    bytes: BytesMut,
    lines: usize,
}

impl Out {
    fn write(&self, line: &[u8], place: SemaphorePermit<'_>) -> io::Result<()> {
        let mut behind = lock(&self.behind);
        let sent = if behind.bytes.is_empty() { self.write.try_write(line)? } else { 0 };
        if sent < line.len() {
            behind.bytes.extend_from_slice(&line[sent..]);
            behind.lines += 1;
            place.forget();
            self.more.notify_one();
        }
        Ok(())
    }

    /// Writes what did not fit, until the daemon hangs up.
    async fn catch_up(&self) {
        loop {
            self.more.notified().await;
            loop {
                if self.write.writable().await.is_err() {
                    return;
                }
                let mut behind = lock(&self.behind);
                let Ok(sent) = self.write.try_write(&behind.bytes) else { return };
                behind.bytes.advance(sent);
                if behind.bytes.is_empty() {
                    behind.bytes = BytesMut::new();
                    self.places.add_permits(mem::take(&mut behind.lines));
                    break;
                }
            }
        }
    }
}

/// Gives each answer to whoever waits for it, until the daemon hangs up.
async fn hand_out(read: Reads, waiting: Waiting) {
    let mut lines =
        Lines { read, room: vec![0; AT_ONCE], have: Vec::new(), given: 0, looked: 0, descriptors: VecDeque::new() };
    while let Ok(line) = lines.next().await {
        let Ok(answer) = serde_json::from_slice::<Answer>(line) else { break };
        let belong = match &answer.told {
            Told::Spawned(Spawned::Running { .. }) => 2,
            Told::Beginnings => 1,
            _ => 0,
        };
        // They came no later than the line's first byte.
        if lines.descriptors.len() < belong {
            break;
        }
        let descriptors = lines.descriptors.drain(..belong).collect();
        let hears = lock(&waiting).as_mut().and_then(|waiting| waiting.remove(&answer.id));
        if let Some(hears) = hears {
            hears((answer.told, descriptors));
        }
    }
    // Whoever waits learns it by its sender's end.
    drop(lock(&waiting).take());
}

/// Lines of the channel, with the descriptors that come beside them.
struct Lines {
    read: Reads,
    room: Vec<u8>,
    have: Vec<u8>,
    /// Where the line that was given out last ends.
    given: usize,
    /// How many of those bytes are known to have no end of line among them.
    looked: usize,
    descriptors: VecDeque<OwnedFd>,
}

/// Bytes that are read at once.
const AT_ONCE: usize = 64 << 10;
/// Descriptors that may wait for their lines.
const MOST_DESCRIPTORS: usize = 64;

impl Lines {
    async fn next(&mut self) -> io::Result<&[u8]> {
        loop {
            if let Some(end) = self.have[self.looked..].iter().position(|byte| *byte == b'\n') {
                let from = mem::replace(&mut self.given, self.looked + end + 1);
                self.looked = self.given;
                return Ok(&self.have[from..self.given]);
            }
            // One long line does not keep its room.
            if self.given == self.have.len() && self.have.capacity() > AT_ONCE {
                self.have = Vec::new();
            }
            self.have.drain(..mem::take(&mut self.given).min(self.have.len()));
            self.looked = self.have.len();
            if self.have.len() > LONGEST || self.descriptors.len() > MOST_DESCRIPTORS {
                return Err(io::ErrorKind::InvalidData.into());
            }
            self.more().await?;
        }
    }

    /// Reads once.
    async fn more(&mut self) -> io::Result<()> {
        let mut ready = self.read.readable().await?;
        let before = self.descriptors.len();
        let came = sys::rights::receive(ready.get_inner().as_fd(), &mut self.room, &mut self.descriptors);
        match came {
            Ok(0) => Err(hung_up()),
            Ok(count) => {
                // Where there was room for more, and no descriptors ended it, the kernel need not be asked whether there is more.
                if count < self.room.len() && self.descriptors.len() == before {
                    ready.clear_ready();
                }
                self.have.extend_from_slice(&self.room[..count]);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                ready.clear_ready();
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

impl crate::names::Daemon for Channel {
    fn ask(&self, ask: Ask) -> impl Future<Output = io::Result<Told>> + Send {
        self.ask(ask)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
        net::UnixStream,
    };

    use super::*;

    /// A daemon's end of a channel, in its own process as it seems.
    async fn pair(name: &str) -> (Channel, UnixStream) {
        let at = std::env::temp_dir().join(format!("clawguard-channel-{}-{name}", std::process::id()));
        let listener = tokio::net::UnixListener::bind(&at).unwrap();
        let channel = Channel::open(&at).unwrap();
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
    async fn what_is_told_is_written_in_its_order_whether_somebody_waits_or_not() {
        let (channel, daemon) = pair("order").await;
        let (heard, hears) = std::sync::mpsc::channel();
        // More than the socket holds while nobody reads.
        let long = "a".repeat(1 << 20);
        for (token, answered) in [("1", false), (long.as_str(), true), ("2", false), ("3", true)] {
            let (ask, heard) = (Ask::Revoked { tokens: vec![token.into()] }, heard.clone());
            let hears = move |told| heard.send(told).unwrap();
            if answered { channel.begin(ask, hears).await.unwrap() } else { channel.tell(ask).await.unwrap() }
        }
        let mut lines = BufReader::new(daemon).lines();
        for token in ["1", &long, "2", "3"] {
            let question: Question = serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap();
            assert_eq!(question.ask, Ask::Revoked { tokens: vec![token.into()] });
        }
        // In one go, and in pieces.
        let mut daemon = lines.into_inner();
        let answer = |id| serde_json::to_string(&Answer { id, told: Told::Metrics(id.to_string()) }).unwrap();
        let (second, fourth) = (answer(2), answer(4));
        let (begin, end) = fourth.split_at(9);
        daemon.write_all(format!("{second}\n{begin}").as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        daemon.write_all(format!("{end}\n").as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(hears.try_iter().collect::<Vec<_>>(), ["2", "4"].map(|id| Told::Metrics(id.into())));
        assert_eq!(lock(&channel.waiting).as_ref().unwrap().len(), 0);
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
            io::Read::read_to_string(&mut File::from(output), &mut said).unwrap();
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
