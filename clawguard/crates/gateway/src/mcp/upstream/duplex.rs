//! A connection on which messages go to and fro: requests are told apart by their numbers, which are the gateway's own.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use mcp::{
    json::Json,
    message::{Id, Message},
};
use tokio::sync::mpsc;

use super::{Arrivals, Failure};

/// Messages that wait to be taken by one reader.
const MOST_WAITING: usize = 4;
/// Messages that nobody has asked for and that wait for somebody to listen.
const MOST_KEPT: usize = 16;
/// Bytes that such a message may have.
const LONGEST_KEPT: usize = 256 << 10;
/// Requests under way at once.
const MOST_REQUESTS: usize = 4096;

/// A message, and of a request its number.
pub(super) type Line = (Option<i64>, Vec<u8>);

/// One connection.
pub(crate) struct Duplex {
    state: Mutex<State>,
    /// Messages on their way to the server, as they are written.
    out: mpsc::Sender<Line>,
    limit: usize,
}

struct State {
    last: i64,
    requests: HashMap<i64, Request>,
    /// Who listens for what belongs to no request.
    listener: Option<mpsc::Sender<Message>>,
    kept: VecDeque<Message>,
    ended: Option<Failure>,
}

struct Request {
    id: Id,
    progress: Option<Json>,
    messages: mpsc::Sender<Message>,
}

/// Gives up a request's place when it is dropped.
pub(crate) struct Asked {
    duplex: Arc<Duplex>,
    number: i64,
}

impl Duplex {
    /// A connection; what is to be written comes out of the receiver.
    pub(crate) fn new(limit: usize) -> (Arc<Self>, mpsc::Receiver<Line>) {
        let (out, written) = mpsc::channel(8);
        let state = State { last: 0, requests: HashMap::new(), listener: None, kept: VecDeque::new(), ended: None };
        (Arc::new(Self { state: Mutex::new(state), out, limit }), written)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the connection has ended, if it has.
    pub(crate) fn ended(&self) -> Option<Failure> {
        self.lock().ended.clone()
    }

    /// Sends a request. What comes for it, its response at the end, arrives in its own name.
    pub(crate) async fn ask(self: &Arc<Self>, message: &Message) -> Result<(Arrivals, Asked), Failure> {
        let Message::Request(request) = message else {
            return Err(Failure::Garbage("what is asked is no request".into()));
        };
        let progress = request.params.as_ref().and_then(|params| params.get("_meta")?.get("progressToken")).cloned();
        let (messages, receiver) = mpsc::channel(MOST_WAITING);
        let (number, bytes) = {
            let mut state = self.lock();
            if let Some(failure) = &state.ended {
                return Err(failure.clone());
            }
            if state.requests.len() >= MOST_REQUESTS {
                return Err(Failure::Unreachable("too many requests are under way".into()));
            }
            state.last += 1;
            let number = state.last;
            let mut numbered = request.clone();
            numbered.id = Id::Number(number);
            state.requests.insert(number, Request { id: request.id.clone(), progress, messages });
            (number, Message::Request(numbered).to_bytes())
        };
        let asked = Asked { duplex: Arc::clone(self), number };
        self.write((Some(number), bytes)).await?;
        Ok((Arrivals::shared(receiver, self.limit), asked))
    }

    /// Sends what is no request. A client's word on one of its requests is said of the gateway's number for it.
    pub(crate) async fn tell(&self, message: &Message) -> Result<(), Failure> {
        if let Some(failure) = self.ended() {
            return Err(failure);
        }
        let mut message = message.clone();
        if let Message::Notification(notification) = &mut message
            && &*notification.method == "notifications/cancelled"
            && let Some(params) = &mut notification.params
        {
            let named = params.get("requestId").and_then(Id::read);
            let state = self.lock();
            let number = named.and_then(|id| state.requests.iter().find(|(_, request)| request.id == id));
            match number {
                Some((number, _)) => drop(params.set("requestId", Json::from(*number))),
                None => return Ok(()),
            }
        }
        self.write((None, message.to_bytes())).await
    }

    async fn write(&self, line: Line) -> Result<(), Failure> {
        self.out.send(line).await.map_err(|_| Failure::Broken("the connection has ended".into()))
    }

    /// What is to be written next. A request that was given up while it waited, because it was killed, is not.
    pub(super) async fn next(&self, lines: &mut mpsc::Receiver<Line>) -> Option<Vec<u8>> {
        loop {
            let (number, bytes) = lines.recv().await?;
            if number.is_none_or(|number| self.lock().requests.contains_key(&number)) {
                return Some(bytes);
            }
        }
    }

    /// What belongs to no request, from now on. Whoever listened before hears nothing more.
    pub(crate) fn listen(&self) -> Arrivals {
        let (messages, receiver) = mpsc::channel(MOST_KEPT);
        let mut state = self.lock();
        for message in state.kept.drain(..) {
            // There is room for all that is kept.
            let _ = messages.try_send(message);
        }
        if state.ended.is_none() {
            state.listener = Some(messages);
        }
        drop(state);
        Arrivals::shared(receiver, self.limit)
    }

    /// Hands on what the server sent.
    pub(crate) async fn arrived(&self, message: Message) {
        if let Some((to, message)) = self.to(message) {
            // A reader that is slow holds its server up, not the gateway's memory. Whoever asked may have gone.
            let _ = to.send(message).await;
        }
    }

    /// To whom a message goes, in that one's own name. What is for nobody yet is kept for a while.
    fn to(&self, message: Message) -> Option<(mpsc::Sender<Message>, Message)> {
        let mut state = self.lock();
        let to = match message {
            Message::Response(mut response) => {
                let Some(Id::Number(number)) = response.id else { return None };
                let request = state.requests.remove(&number)?;
                response.id = Some(request.id);
                return Some((request.messages, Message::Response(response)));
            }
            Message::Notification(ref notification) if &*notification.method == "notifications/progress" => {
                let token = notification.params.as_ref().and_then(|params| params.get("progressToken"));
                let request =
                    state.requests.values().find(|request| token.is_some() && request.progress.as_ref() == token);
                request.map(|request| request.messages.clone())
            }
            _ => state.listener.clone().filter(|listener| !listener.is_closed()).or_else(|| {
                // With one request under way it belongs to that; else it waits for a listener.
                let mut requests = state.requests.values();
                match (requests.next(), requests.next()) {
                    (Some(only), None) => Some(only.messages.clone()),
                    _ => None,
                }
            }),
        };
        if to.is_none() && message.to_bytes().len() <= LONGEST_KEPT {
            if state.kept.len() >= MOST_KEPT {
                state.kept.pop_front();
            }
            state.kept.push_back(message.clone());
        }
        to.map(|to| (to, message))
    }

    /// Ends the connection: whoever waits learns it by the end of what arrives.
    pub(crate) fn end(&self, failure: Failure) {
        let mut state = self.lock();
        state.ended.get_or_insert(failure);
        state.requests.clear();
        state.listener = None;
        state.kept.clear();
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.duplex.lock().requests.remove(&self.number);
    }
}
