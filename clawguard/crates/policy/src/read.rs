//! Reading typed fields out of JSON, with the place in every complaint.

use claw::{Value, time::Instant};

use crate::contract::Error;

/// The members of an object that have not been read yet.
pub(crate) struct Fields<'a> {
    path: String,
    left: Vec<(&'a str, &'a Value)>,
}

impl<'a> Fields<'a> {
    pub(crate) fn of(path: impl Into<String>, value: &'a Value) -> Result<Self, Error> {
        let path = path.into();
        match value {
            Value::Object(members) => {
                Ok(Self { path, left: members.iter().map(|(name, value)| (&**name, value)).collect() })
            }
            other => Err(Error::Wrong { path, expected: "an object", found: other.kind() }),
        }
    }

    /// The path of a member.
    pub(crate) fn path(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// Takes a member out.
    pub(crate) fn take(&mut self, name: &str) -> Option<&'a Value> {
        let at = self.left.iter().position(|(n, _)| *n == name)?;
        Some(self.left.swap_remove(at).1)
    }

    fn wrong<T>(&self, name: &str, expected: &'static str, found: &Value) -> Result<T, Error> {
        Err(Error::Wrong { path: self.path(name), expected, found: found.kind() })
    }

    pub(crate) fn text(&mut self, name: &str) -> Result<Option<&'a str>, Error> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => self.wrong(name, "a string", other),
        }
    }

    pub(crate) fn required_text(&mut self, name: &str) -> Result<&'a str, Error> {
        self.text(name)?.ok_or_else(|| Error::Missing { path: self.path(name) })
    }

    pub(crate) fn flag(&mut self, name: &str) -> Result<Option<bool>, Error> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => self.wrong(name, "true or false", other),
        }
    }

    /// A whole number that a double holds exactly.
    pub(crate) fn number(&mut self, name: &str) -> Result<Option<u64>, Error> {
        const MOST: f64 = 9_007_199_254_740_991.0;
        match self.take(name) {
            None => Ok(None),
            Some(Value::Number(n)) if n.fract() == 0.0 && (0.0..=MOST).contains(n) => Ok(Some(*n as u64)),
            Some(other) => self.wrong(name, "a whole number from 0 to 2^53 - 1", other),
        }
    }

    pub(crate) fn instant(&mut self, name: &str) -> Result<Option<Instant>, Error> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        match Instant::parse(text) {
            Some(instant) => Ok(Some(instant)),
            None => Err(Error::Text { path: self.path(name), text: short(text), why: "no RFC 3339 date-time".into() }),
        }
    }

    pub(crate) fn list(&mut self, name: &str) -> Result<Option<&'a [Value]>, Error> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(other) => self.wrong(name, "a list", other),
        }
    }

    pub(crate) fn texts(&mut self, name: &str) -> Result<Option<Vec<&'a str>>, Error> {
        let Some(items) = self.list(name)? else { return Ok(None) };
        let read = |(i, item): (usize, &'a Value)| match item {
            Value::String(text) => Ok(&**text),
            other => Err(Error::Wrong {
                path: format!("{}[{i}]", self.path(name)),
                expected: "a string",
                found: other.kind(),
            }),
        };
        items.iter().enumerate().map(read).collect::<Result<_, _>>().map(Some)
    }

    /// A string of a type of its own.
    pub(crate) fn parsed<T: std::str::FromStr>(&mut self, name: &str, why: &'static str) -> Result<Option<T>, Error> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        match text.parse() {
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(Error::Text { path: self.path(name), text: short(text), why: why.into() }),
        }
    }

    /// No member may be left.
    pub(crate) fn end(self) -> Result<(), Error> {
        match self.left.first() {
            None => Ok(()),
            Some((name, _)) => Err(Error::Unknown { path: self.path(&short(name)) }),
        }
    }
}

/// As much of a text as an error needs.
pub(crate) fn short(text: &str) -> String {
    text.chars().take(80).collect()
}
