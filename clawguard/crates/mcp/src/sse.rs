//! Server-sent events (WHATWG HTML, section 9.2), read piece by piece as they come, and written anew.
//!
//! Stricter than a browser in two things: bytes that are no UTF-8 end the stream instead of being replaced, and so does an
//! event beyond the bound. What comes before the flaw is still given out, wherever the pieces were cut.
//!
//! An event without data, which a browser would not show to anybody, is given out as one with empty data if it has an `id` or a
//! `retry`: these hold, and MCP of 2025-11-25 has servers begin a stream with such an event.

/// What stands between two empty lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// What the client is to name when it comes back; `""` takes back what an earlier event said.
    pub id: Option<Box<str>>,
    /// Its type, where that is not `message`.
    pub event: Option<Box<str>>,
    /// Its text, of lines that end in U+000A but for the last.
    pub data: String,
    /// After how many milliseconds a client is to come back.
    pub retry: Option<u64>,
}

impl Event {
    /// A message.
    #[must_use]
    pub fn message(data: String) -> Self {
        Self { data, ..Self::default() }
    }

    /// Writes it so that who reads it has the same again. What would read as something else is not written: a line's end in
    /// `id` or `event`, a zero in `id`. Any line's end in `data` reads as U+000A.
    pub fn write(&self, into: &mut Vec<u8>) {
        let whole = |text: &&str| !text.contains(['\r', '\n']);
        if let Some(event) = self.event.as_deref().filter(whole) {
            field(into, "event", event);
        }
        if let Some(id) = self.id.as_deref().filter(whole).filter(|id| !id.contains('\0')) {
            field(into, "id", id);
        }
        if let Some(retry) = self.retry {
            field(into, "retry", &retry.to_string());
        }
        let mut rest = self.data.as_str();
        while let Some(end) = rest.find(['\r', '\n']) {
            field(into, "data", &rest[..end]);
            rest = rest[end..].strip_prefix("\r\n").unwrap_or(&rest[end + 1..]);
        }
        field(into, "data", rest);
        into.push(b'\n');
    }

    /// What [`Event::write`] writes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.data.len() + 64);
        self.write(&mut bytes);
        bytes
    }
}

/// A comment, which keeps the connection alive.
pub const KEEP_ALIVE: &[u8] = b":\n\n";

fn field(into: &mut Vec<u8>, name: &str, value: &str) {
    into.extend_from_slice(name.as_bytes());
    into.extend_from_slice(b": ");
    into.extend_from_slice(value.as_bytes());
    into.push(b'\n');
}

/// Why a stream is read no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// Too much before an empty line.
    #[error("an event, or a line, has more than {limit} bytes")]
    Long {
        /// How many it may have.
        limit: usize,
    },
    /// Bytes that are no text.
    #[error("a line of the event stream is not UTF-8")]
    Encoding,
}

/// Reads a stream, however it is cut.
#[derive(Clone, Debug)]
pub struct Decoder {
    limit: usize,
    /// The beginning of a line whose end has not come.
    line: Vec<u8>,
    /// Bytes of the event's lines so far.
    taken: usize,
    /// Whether a line has ended: a byte order mark can only stand before the first.
    begun: bool,
    /// Whether the last byte was a U+000D, with which a U+000A belongs.
    returned: bool,
    event: Event,
    /// Whether the event has a line of data.
    has_data: bool,
    comments: u64,
    flaw: Option<Flaw>,
}

impl Decoder {
    /// A reader that takes events of at most so many bytes, as they are written, the empty line at the end included.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            line: Vec::new(),
            taken: 0,
            begun: false,
            returned: false,
            event: Event::default(),
            has_data: false,
            comments: 0,
            flaw: None,
        }
    }

    /// Takes the next piece, and gives out the events that are complete by it.
    ///
    /// # Errors
    ///
    /// The [`Flaw`] for which the stream is read no further, now and ever after. Events before it come first: then the next
    /// piece, even an empty one, is answered by the flaw.
    pub fn push(&mut self, piece: &[u8]) -> Result<Vec<Event>, Flaw> {
        let mut events = Vec::new();
        if self.flaw.is_none() {
            self.flaw = self.take(piece, &mut events).err();
        }
        match self.flaw {
            Some(flaw) if events.is_empty() => Err(flaw),
            _ => Ok(events),
        }
    }

    /// How many comments came so far: each says that the other end lives, and nothing else.
    #[must_use]
    pub const fn comments(&self) -> u64 {
        self.comments
    }

    /// Whether an event has begun and is not complete. At a stream's end it is as if it had never been.
    #[must_use]
    pub fn is_amid(&self) -> bool {
        !self.line.is_empty() || self.taken > 0
    }

    fn take(&mut self, mut piece: &[u8], into: &mut Vec<Event>) -> Result<(), Flaw> {
        while !piece.is_empty() {
            if std::mem::take(&mut self.returned) && piece[0] == b'\n' {
                piece = &piece[1..];
                continue;
            }
            let end = piece.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
            let (part, rest) = piece.split_at(end.unwrap_or(piece.len()));
            // Measured before anything of it is kept, and by what came, not by how it was cut.
            if self.taken + self.line.len() + part.len() + usize::from(end.is_some()) > self.limit {
                return Err(Flaw::Long { limit: self.limit });
            }
            let Some((mark, rest)) = rest.split_first() else {
                self.line.extend_from_slice(part);
                return Ok(());
            };
            self.returned = *mark == b'\r';
            piece = rest;
            if self.line.is_empty() {
                self.line(part, into)?;
            } else {
                let mut line = std::mem::take(&mut self.line);
                line.extend_from_slice(part);
                self.line(&line, into)?;
                line.clear();
                self.line = line;
            }
        }
        Ok(())
    }

    fn line(&mut self, line: &[u8], into: &mut Vec<Event>) -> Result<(), Flaw> {
        let line = std::str::from_utf8(line).map_err(|_| Flaw::Encoding)?;
        let first = !std::mem::replace(&mut self.begun, true);
        let line = if first { line.strip_prefix('\u{feff}').unwrap_or(line) } else { line };
        if line.is_empty() {
            self.taken = 0;
            let event = std::mem::take(&mut self.event);
            if std::mem::take(&mut self.has_data) || event.id.is_some() || event.retry.is_some() {
                into.push(event);
            }
            return Ok(());
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        if name.is_empty() {
            self.comments += 1;
            return Ok(());
        }
        self.taken += line.len() + 1;
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
            }
            "event" => self.event.event = (!matches!(value, "" | "message")).then(|| value.into()),
            "id" if !value.contains('\0') => self.event.id = Some(value.into()),
            "retry" if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                self.event.retry = value.parse().ok().or(self.event.retry);
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
