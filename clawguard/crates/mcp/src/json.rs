//! JSON as it is judged and forwarded: members keep their order, numbers their text, and there is one way to read it.
//!
//! Two readers of one text may see two things: the first or the last of two members of one name, a number that one of them
//! cannot hold, half a surrogate pair. Such texts are refused ([`parse`]), and what is forwarded is never the text that came
//! but what was read, written anew ([`Json::write`]).

mod read;
mod write;

use std::fmt;

use claw::Hash;

pub use read::{DEPTH, Flaw, NUMBER, VALUES, parse};
pub use write::{same_number, write_str};

/// A member of an object: its name, and what it is.
pub type Member = (Box<str>, Json);

/// A JSON value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Json {
    /// `null`
    #[default]
    Null,
    /// `true` or `false`
    Bool(bool),
    /// The text of a number. What [`parse`] made is at most [`NUMBER`] bytes, and a double can hold it.
    Number(Box<str>),
    /// A string of Unicode scalar values.
    String(Box<str>),
    /// A list.
    Array(Vec<Json>),
    /// Members in order of appearance, each name once.
    Object(Vec<Member>),
}

impl Json {
    /// An object of these members. Their names must differ.
    #[must_use]
    pub fn object<const N: usize>(members: [(&str, Self); N]) -> Self {
        Self::Object(members.into_iter().map(|(name, value)| (name.into(), value)).collect())
    }

    /// The member of an object.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Self> {
        self.as_object()?.iter().find(|(n, _)| **n == *name).map(|(_, value)| value)
    }

    /// The member of an object, to change it.
    #[must_use]
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Self> {
        self.as_object_mut()?.iter_mut().find(|(n, _)| **n == *name).map(|(_, value)| value)
    }

    /// The member that lies behind these names, one within the other.
    #[must_use]
    pub fn at(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |value, name| value.get(name))
    }

    /// Takes a member out of an object. The others keep their order.
    pub fn remove(&mut self, name: &str) -> Option<Self> {
        let members = self.as_object_mut()?;
        let at = members.iter().position(|(n, _)| **n == *name)?;
        Some(members.remove(at).1)
    }

    /// Gives an object's member a value: where it is, or else behind all others. Answers whether this is an object.
    pub fn set(&mut self, name: &str, value: Self) -> bool {
        let Some(members) = self.as_object_mut() else { return false };
        match members.iter_mut().find(|(n, _)| **n == *name) {
            Some((_, there)) => *there = value,
            None => members.push((name.into(), value)),
        }
        true
    }

    /// The text of a string.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The members of an object.
    #[must_use]
    pub fn as_object(&self) -> Option<&[Member]> {
        match self {
            Self::Object(members) => Some(members),
            _ => None,
        }
    }

    /// The members of an object, to change them. Whoever adds one sees to it that its name is new ([`Json::set`] does).
    #[must_use]
    pub fn as_object_mut(&mut self) -> Option<&mut Vec<Member>> {
        match self {
            Self::Object(members) => Some(members),
            _ => None,
        }
    }

    /// The items of a list.
    #[must_use]
    pub fn as_array(&self) -> Option<&[Self]> {
        match self {
            Self::Array(items) => Some(items),
            _ => None,
        }
    }

    /// The items of a list, to change them.
    #[must_use]
    pub fn as_array_mut(&mut self) -> Option<&mut Vec<Self>> {
        match self {
            Self::Array(items) => Some(items),
            _ => None,
        }
    }

    /// True or false.
    #[must_use]
    pub const fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(bool) => Some(*bool),
            _ => None,
        }
    }

    /// A number that is written as a whole one, without fraction and exponent, and fits. Minus zero is none: it is a double for
    /// some, and would come back as zero.
    #[must_use]
    pub fn as_i64(&self) -> Option<i64> {
        self.as_number().filter(|text| *text != "-0")?.parse().ok()
    }

    /// A number as a double: the nearest one.
    #[must_use]
    pub fn as_f64(&self) -> Option<f64> {
        self.as_number()?.parse().ok()
    }

    /// The text of a number.
    #[must_use]
    pub fn as_number(&self) -> Option<&str> {
        match self {
            Self::Number(text) => Some(text),
            _ => None,
        }
    }

    /// Whether it is `null`.
    #[must_use]
    pub const fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// Whether it is an object.
    #[must_use]
    pub const fn is_object(&self) -> bool {
        matches!(self, Self::Object(_))
    }

    /// What kind of value it is, for error texts.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::String(_) => "a string",
            Self::Array(_) => "a list",
            Self::Object(_) => "an object",
        }
    }

    /// Writes it without white space: members in their order, numbers by their text. Of a string's characters those are
    /// escaped that must be, and those at which a reader of lines might cut (U+007F to U+009F, U+2028, U+2029), so that it
    /// stands on one line for everybody.
    pub fn write(&self, into: &mut Vec<u8>) {
        write::compact(self, into);
    }

    /// What [`Json::write`] writes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(256);
        self.write(&mut bytes);
        bytes
    }

    /// The canonical form (RFC 8785): members sorted by the UTF-16 code units of their names, numbers as ECMAScript prints
    /// them, no white space.
    ///
    /// In one thing it goes beyond the RFC, which knows doubles only: a number whose value ECMAScript would not print exactly
    /// (`9007199254740993`, `0.1000000000000000055`, `1e-400`) stands there by its own text. So two texts with different
    /// numbers in them never have one canonical form, however many digits a server reads.
    #[must_use]
    pub fn canonical(&self) -> String {
        write::canonical(self)
    }

    /// The SHA-256 of the canonical form.
    #[must_use]
    pub fn canonical_hash(&self) -> Hash {
        Hash::of(self.canonical().as_bytes())
    }
}

/// What [`Json::write`] writes.
impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.to_bytes()))
    }
}

impl From<&str> for Json {
    fn from(text: &str) -> Self {
        Self::String(text.into())
    }
}

impl From<String> for Json {
    fn from(text: String) -> Self {
        Self::String(text.into())
    }
}

impl From<bool> for Json {
    fn from(bool: bool) -> Self {
        Self::Bool(bool)
    }
}

impl From<i64> for Json {
    fn from(number: i64) -> Self {
        Self::Number(number.to_string().into())
    }
}

impl From<Vec<Self>> for Json {
    fn from(items: Vec<Self>) -> Self {
        Self::Array(items)
    }
}

#[cfg(test)]
mod tests;
