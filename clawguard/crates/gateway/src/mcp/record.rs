//! Calls on their way into the audit chain: a call's beginning before it leaves the host, its end before its answer does.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Write,
    mem,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use control::{
    calls::{Call, Called, Ended},
    channel::{Ask, Told},
};
use tokio::sync::{Notify, Semaphore, oneshot};

use crate::channel::Channel;

/// What is told in one message; more waits for the next.
const MOST_AT_ONCE: usize = 512;
/// Bytes of arguments in one message.
const MOST_ARGUMENTS: usize = 4 << 20;

/// Bytes of a call that is written beside the channel.
const LONGEST_BEGINNING: usize = 4096;

/// Messages that wait for their answers; the daemon has a few more places.
const UNDER_WAY: usize = 8;

/// Why something is not recorded.
#[derive(Clone, Debug, thiserror::Error)]
#[error("it could not be recorded: {0}")]
pub(crate) struct Unrecorded(pub(crate) Arc<str>);

type Answer = Result<(), Unrecorded>;

/// Tells the daemon, in order: what is told later is never overtaken.
pub(crate) struct Recorder {
    queue: Mutex<Vec<(Called, Option<oneshot::Sender<Answer>>)>>,
    filled: Notify,
    last: AtomicU64,
    /// Where it is written that a call begins.
    beginnings: OnceLock<File>,
}

/// A call that was begun. If nobody says how it ended, it ended as `otherwise`.
pub(crate) struct Begun {
    recorder: Arc<Recorder>,
    number: u64,
    since: Instant,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) result_hash: Option<String>,
    pub(crate) classes: BTreeMap<String, u64>,
    pub(crate) otherwise: &'static str,
    told: bool,
}

impl Recorder {
    pub(crate) fn new() -> Self {
        Self { queue: Mutex::default(), filled: Notify::new(), last: AtomicU64::new(0), beginnings: OnceLock::new() }
    }

    /// A number for a call.
    pub(crate) fn number(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Notes that a call is being made.
    pub(crate) fn begin(self: &Arc<Self>, call: Call, since: Instant, bytes_in: u64) -> Begun {
        let number = call.number;
        let begun = Called::Begun(Box::new(call));
        if !self.written(&begun) {
            self.push(begun, None);
        }
        Begun {
            recorder: Arc::clone(self),
            number,
            since,
            bytes_in,
            bytes_out: 0,
            result_hash: None,
            classes: BTreeMap::new(),
            otherwise: "cancelled",
            told: false,
        }
    }

    /// Writes that a call begins where the daemon reads it before anything that is told afterwards; it has it even if this process
    /// ends now. Answers whether there was room for it.
    fn written(&self, begun: &Called) -> bool {
        let Some(mut way) = self.beginnings.get() else { return false };
        let Ok(text) = serde_json::to_vec(begun) else { return false };
        // All of it or nothing.
        text.len() <= LONGEST_BEGINNING && way.write(&text).is_ok()
    }

    /// Records that a call was not made.
    pub(crate) async fn refused(&self, call: Call) -> Answer {
        self.told(Called::Refused(Box::new(call))).await
    }

    /// Records something for which nobody waits.
    pub(crate) fn note(&self, called: Called) {
        self.push(called, None);
    }

    async fn told(&self, called: Called) -> Answer {
        let (sender, receiver) = oneshot::channel();
        self.push(called, Some(sender));
        receiver.await.unwrap_or_else(|_| Err(Unrecorded("the daemon hung up".into())))
    }

    fn push(&self, called: Called, waits: Option<oneshot::Sender<Answer>>) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).push((called, waits));
        self.filled.notify_one();
    }

    /// Tells the daemon, until it hangs up. What is told later is heard later, though nobody waits for one answer before the next
    /// message.
    pub(crate) async fn run(&self, daemon: &Channel) -> std::io::Result<()> {
        if let Some(pipe) = daemon.beginnings().await? {
            // Nobody else sets it.
            let _ = self.beginnings.set(pipe);
        }
        let places = Arc::new(Semaphore::new(UNDER_WAY));
        loop {
            self.filled.notified().await;
            loop {
                let Ok(place) = Arc::clone(&places).acquire_owned().await else { return Ok(()) };
                let batch = {
                    let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
                    let mut size = 0;
                    let fits = |(called, _): &&(Called, _)| {
                        let before = size;
                        size += arguments(called);
                        before <= MOST_ARGUMENTS
                    };
                    let rest = queue.iter().take(MOST_AT_ONCE).take_while(fits).count();
                    let later = queue.split_off(rest);
                    mem::replace(&mut *queue, later)
                };
                if batch.is_empty() {
                    break;
                }
                let (calls, waiting): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
                if !calls.iter().any(Called::is_answered) {
                    daemon.tell(Ask::Calls(calls)).await?;
                    continue;
                }
                let waiting: Vec<_> = waiting.into_iter().flatten().collect();
                let hears = move |told| {
                    let answer = match told {
                        Told::Noted => Ok(()),
                        Told::Unrecorded(why) => Err(Unrecorded(why.into())),
                        _ => Err(Unrecorded("the daemon said something else".into())),
                    };
                    for waits in waiting {
                        // Whoever waited may have gone.
                        let _ = waits.send(answer.clone());
                    }
                    drop(place);
                };
                daemon.begin(Ask::Calls(calls), hears).await?;
            }
        }
    }
}

/// Bytes of arguments that are told with a call.
fn arguments(called: &Called) -> usize {
    match called {
        Called::Begun(call) | Called::Refused(call) => call.arguments.as_ref().map_or(0, String::len),
        Called::Ended(_) => 0,
    }
}

impl Begun {
    /// Records how the call ended. Its answer may leave once this is done.
    pub(crate) async fn end(mut self, status: &str) -> Answer {
        self.told = true;
        let ended = self.ended(status);
        self.recorder.told(Called::Ended(ended)).await
    }

    fn ended(&mut self, status: &str) -> Ended {
        Ended {
            number: self.number,
            status: status.into(),
            duration_us: u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX),
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            result_hash: self.result_hash.take(),
            classes: mem::take(&mut self.classes),
        }
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if !self.told {
            let ended = self.ended(self.otherwise);
            self.recorder.note(Called::Ended(ended));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read, os::unix::net::UnixStream};

    use control::channel::{Answer, Question};

    use super::*;

    fn call(number: u64, arguments: Option<&str>) -> Call {
        let text = serde_json::json!({ "number": number, "slot": 1, "key": 1, "session": "", "server": "crm", "method": "tools/call",
            "tool": "get", "arguments_hash": "", "arguments": arguments, "decision": "allowed", "reason": "allowed", "risk": "low",
            "class": "read", "contract": "", "count": 1 });
        serde_json::from_value(text).unwrap()
    }

    #[tokio::test]
    async fn that_a_call_begins_is_written_before_its_beginning_is_known_here_and_what_does_not_fit_is_told() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let channel = Channel::over(ours).unwrap();
        let (mut way, end) = UnixStream::pair().unwrap();
        let recorder = Arc::new(Recorder::new());
        let running = Arc::clone(&recorder);
        tokio::spawn(async move { running.run(&channel).await });
        let daemon = tokio::task::spawn_blocking(move || {
            let mut room = [0; 1024];
            let count = (&theirs).read(&mut room).unwrap();
            let Question { id, ask } = serde_json::from_slice(&room[..count]).unwrap();
            assert_eq!(ask, Ask::Beginnings);
            let mut line = serde_json::to_vec(&Answer { id, told: Told::Beginnings }).unwrap();
            line.push(b'\n');
            sys::rights::send(std::os::fd::AsFd::as_fd(&theirs), &line, &[std::os::fd::AsFd::as_fd(&end)]).unwrap();
            theirs
        });
        let theirs = daemon.await.unwrap();
        while recorder.beginnings.get().is_none() {
            tokio::task::yield_now().await;
        }
        let _begun = recorder.begin(call(1, None), Instant::now(), 0);
        let mut room = [0; 8192];
        let count = way.read(&mut room).unwrap();
        let read: Called = serde_json::from_slice(&room[..count]).unwrap();
        assert_eq!(read, Called::Begun(Box::new(call(1, None))));
        let long = call(2, Some(&"x".repeat(LONGEST_BEGINNING)));
        let _begun = recorder.begin(long.clone(), Instant::now(), 0);
        let told = tokio::task::spawn_blocking(move || {
            let count = (&theirs).read(&mut room).unwrap();
            serde_json::from_slice::<Question>(&room[..count]).unwrap().ask
        });
        assert_eq!(told.await.unwrap(), Ask::Calls(vec![Called::Begun(Box::new(long))]));
    }
}
