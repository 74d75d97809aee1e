//! An answer on its way from a provider to whoever called: as it comes, what is there already together, and held up by nothing but what
//! hides the host's key in an error.

use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE};
use tokio::{
    sync::mpsc,
    time::{Instant as Moment, sleep, sleep_until},
};

use super::{
    answers::Piece,
    call::{Cut, Made},
    meter::{Found, Hashed, Meter},
    tail::{Events, Object, Tail},
};
use crate::mcp::{running::Held, upstream::Answer};

/// Bytes of an answer that is no stream which are kept for its counts of tokens.
const LOOKED_AT: usize = 256 << 10;
/// How long a provider may take to end what it said to be complete, where nobody reads any more.
const ENDING: Duration = Duration::from_secs(2);

/// What went by.
pub(crate) struct Carried {
    pub(crate) hash: Hashed,
    pub(crate) bytes: u64,
    /// When the first byte came.
    pub(crate) first: Option<Instant>,
    pub(crate) meter: Meter,
    pub(crate) tail: Tail,
}

impl Carried {
    fn new(answer: &Answer, made: &Made) -> Self {
        let header = |name| answer.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let plain = answer.headers.get_all(CONTENT_ENCODING).iter().all(|coding| coding == "identity");
        let kind = header(CONTENT_TYPE).split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let events = plain && kind == "text/event-stream";
        let (meter, tail) = if events {
            let found = Found::default();
            let meter = Meter::Lines { line: Vec::new(), skipped: false, found };
            (meter, Tail::Events(Events::default()))
        } else if plain && kind == "application/json" {
            // A clawproxy's receipt stands in the answer.
            let most = if made.proxied { made.longest } else { LOOKED_AT };
            let object = answer.status.is_success();
            let tail = if object { Tail::Object(Object::default()) } else { Tail::Plain };
            (Meter::Whole { kept: Vec::new(), most }, tail)
        } else {
            (Meter::Blind, Tail::Plain)
        };
        let tail = match made.mask(answer) {
            Some(mask) => Tail::Masked(mask),
            None if answer.status.is_success() => tail,
            None => Tail::Plain,
        };
        Self { hash: Hashed::new(made.proxied && events), bytes: 0, first: None, meter, tail }
    }

    /// Something came, and what is there behind it is still to be looked for.
    fn came(&mut self, piece: &Bytes) {
        if self.first.is_none() && !piece.is_empty() {
            self.first = Some(Instant::now());
        }
    }

    fn take(&mut self, piece: &Bytes) {
        self.came(piece);
        self.bytes += piece.len() as u64;
        self.hash.push(piece);
        self.meter.push(piece);
    }
}

/// Passes an answer on until it ends, or is cut.
pub(crate) async fn carry(
    mut answer: Answer,
    out: &mpsc::Sender<Piece>,
    held: &Held,
    made: &Made,
) -> (Carried, Option<Cut>) {
    let mut carried = Carried::new(&answer, made);
    let silence = sleep(made.patience);
    tokio::pin!(silence);
    loop {
        let piece = tokio::select! {
            biased;
            () = held.call.killed() => return (carried, Some(Cut::Killed)),
            () = out.closed() => return gone(answer, carried).await,
            next = answer.next() => match next {
                Ok(Some(piece)) => piece,
                Ok(None) => return (carried, None),
                Err(_) => {
                    // What was held back came from the provider too.
                    if let Some(rest) = carried.tail.end(None) {
                        let _ = out.try_send(Piece::Bytes(rest));
                    }
                    return (carried, Some(Cut::Broken));
                }
            },
            () = &mut silence => return (carried, Some(Cut::Late)),
        };
        carried.came(&piece);
        let piece = answer.together(piece).await;
        carried.take(&piece);
        for piece in carried.tail.push(piece).into_iter().flatten().filter(|piece| !piece.is_empty()) {
            tokio::select! {
                biased;
                () = held.call.killed() => return (carried, Some(Cut::Killed)),
                sent = out.send(Piece::Bytes(piece)) => {
                    if sent.is_err() {
                        return gone(answer, carried).await;
                    }
                }
                // Who does not read for so long is as good as gone.
                () = sleep(made.patience) => return (carried, Some(Cut::Gone)),
            }
        }
        silence.as_mut().reset(Moment::now() + made.patience);
    }
}

/// Whoever called is gone. A client that has heard that this is all may go before the provider's end of it has come.
async fn gone(mut answer: Answer, mut carried: Carried) -> (Carried, Option<Cut>) {
    if !carried.meter.is_complete() {
        return (carried, Some(Cut::Gone));
    }
    let until = Moment::now() + ENDING;
    loop {
        tokio::select! {
            next = answer.next() => match next {
                Ok(Some(piece)) => carried.take(&piece),
                Ok(None) => return (carried, None),
                Err(_) => return (carried, Some(Cut::Broken)),
            },
            () = sleep_until(until) => return (carried, Some(Cut::Gone)),
        }
    }
}
