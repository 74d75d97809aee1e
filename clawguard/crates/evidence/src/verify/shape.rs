//! What a text may look like, as tables: the part of JSON Schema that Claw's schemas use, and a walk that names the first
//! place where a text differs.
//!
//! Within an object what is missing is told first, then what nobody knows, then what is wrong inside.

use claw::{Value, time::Instant};

use super::fault::{At, Code, Fault};

/// What a value may be.
pub(super) enum Shape {
    /// Nothing that can be verified here, with the code that says so.
    Foreign(Code),
    /// A string of so many characters.
    Text { least: usize, most: usize, form: Form },
    /// One of these strings.
    Word(&'static [&'static str]),
    /// `null`, or this.
    Nullable(&'static Shape),
    /// `true` or `false`.
    Flag,
    /// Just this one of the two.
    Only(bool),
    /// A number in a range.
    Number { least: f64, most: f64, whole: bool },
    /// A list.
    List { least: usize, most: usize, of: &'static Shape },
    /// An object.
    Object { members: &'static [Member], open: bool },
    /// The first one if this member is there, the second one otherwise.
    Either(&'static str, &'static Shape, &'static Shape),
    /// This, and one of these members.
    With(&'static [&'static str], &'static Shape),
}

/// A member of an object.
pub(super) struct Member {
    name: &'static str,
    needed: bool,
    shape: Shape,
}

/// What a string may say.
#[derive(Clone, Copy)]
pub(super) enum Form {
    Free,
    /// `^[A-Za-z0-9_-]+$`
    Base64Url,
    /// `^did:`
    Did,
    /// RFC 3339, date and time.
    Time,
    /// `^[a-z0-9.*:-]+$`
    Host,
    /// RFC 3986, absolute.
    Uri,
    /// `^[0-9]+$`
    Digits,
    /// `^eip155:[0-9]+:0x[0-9a-fA-F]{40}$`
    Account,
    /// A relative path that stays where it is.
    Path,
}

pub(super) const fn needed(name: &'static str, shape: Shape) -> Member {
    Member { name, needed: true, shape }
}

pub(super) const fn maybe(name: &'static str, shape: Shape) -> Member {
    Member { name, needed: false, shape }
}

const fn text(least: usize, form: Form) -> Shape {
    Shape::Text { least, most: usize::MAX, form }
}

pub(super) const FREE: Shape = text(0, Form::Free);
pub(super) const SOME: Shape = text(1, Form::Free);
pub(super) const HASH: Shape = text(8, Form::Base64Url);
pub(super) const DID: Shape = text(0, Form::Did);
pub(super) const TIME: Shape = text(0, Form::Time);
pub(super) const HOST: Shape = text(1, Form::Host);
pub(super) const URI: Shape = text(1, Form::Uri);
pub(super) const ONE: Shape = Shape::Word(&["1"]);
pub(super) const AMOUNT: Shape = Shape::Number { least: 0.0, most: f64::MAX, whole: false };
pub(super) const REAL: Shape = Shape::Number { least: f64::MIN, most: f64::MAX, whole: false };
pub(super) const WHOLE: Shape = Shape::Number { least: f64::MIN, most: f64::MAX, whole: true };
pub(super) const COUNT: Shape = Shape::Number { least: 0.0, most: f64::MAX, whole: true };
pub(super) const OBJECT: Shape = Shape::Object { members: &[], open: true };

pub(super) const fn closed(members: &'static [Member]) -> Shape {
    Shape::Object { members, open: false }
}

pub(super) const fn open(members: &'static [Member]) -> Shape {
    Shape::Object { members, open: true }
}

pub(super) const fn list(least: usize, most: usize, of: &'static Shape) -> Shape {
    Shape::List { least, most, of }
}

/// An envelope of what is signed.
macro_rules! envelope {
    ($kind:literal, $payload:expr, $hashes:expr) => {
        crate::verify::shape::closed(&[
            crate::verify::shape::needed("envelope_version", crate::verify::shape::ONE),
            crate::verify::shape::needed("envelope_type", crate::verify::shape::Shape::Word(&[$kind])),
            crate::verify::shape::needed("payload", $payload),
            crate::verify::shape::needed("payload_hash_b64u", crate::verify::shape::HASH),
            crate::verify::shape::needed("hash_algorithm", crate::verify::shape::Shape::Word($hashes)),
            crate::verify::shape::needed("signature_b64u", crate::verify::shape::HASH),
            crate::verify::shape::needed("algorithm", crate::verify::shape::Shape::Word(&["Ed25519"])),
            crate::verify::shape::needed("signer_did", crate::verify::shape::DID),
            crate::verify::shape::needed("issued_at", crate::verify::shape::TIME),
            crate::verify::shape::maybe("expires_at", crate::verify::shape::TIME),
        ])
    };
}
pub(super) use envelope;

/// Where the last member was found: the next one mostly comes right after it.
#[derive(Default)]
struct Place(usize);

impl Place {
    fn find<'v>(&mut self, members: &'v [(Box<str>, Value)], name: &str) -> Option<&'v Value> {
        let (before, after) = members.split_at_checked(self.0).unwrap_or((members, &[]));
        let is = |(known, _): &(Box<str>, Value)| **known == *name;
        let at = match after.iter().position(is) {
            Some(at) => before.len() + at,
            None => before.iter().position(is)?,
        };
        self.0 = at + 1;
        members.get(at).map(|(_, value)| value)
    }
}

impl Shape {
    /// Whether a value has this shape; if not, where it first differs.
    pub(super) fn check(&self, value: &Value, at: At<'_>) -> Result<(), Fault> {
        let wrong = |text: String| Err(Fault::new(Code::Schema, at, text));
        let other = |expected: &str| wrong(format!("it is {}, not {expected}", value.kind()));
        match self {
            Self::Foreign(code) => {
                Err(Fault::new(*code, at, "evidence of this kind is not verified here, and so not believed"))
            }
            Self::Nullable(shape) => match value {
                Value::Null => Ok(()),
                _ => shape.check(value, at),
            },
            Self::Text { least, most, form } => {
                let Value::String(text) = value else { return other("a string") };
                // Characters are counted only where bytes do not tell.
                let long = text.len() > *most && text.chars().count() > *most;
                let short = text.len() < *least || (*least > 1 && text.chars().count() < *least);
                if long || short {
                    return wrong("it is too long or too short".into());
                }
                match form.mismatch(text) {
                    None => Ok(()),
                    Some(expected) => wrong(format!("it is not {expected}")),
                }
            }
            Self::Word(words) => match value {
                Value::String(text) if words.contains(&&**text) => Ok(()),
                _ => wrong(format!("it is not {}", words.join(" or "))),
            },
            Self::Flag => match value {
                Value::Bool(_) => Ok(()),
                _ => other("true or false"),
            },
            Self::Only(expected) => match value {
                Value::Bool(found) if found == expected => Ok(()),
                _ => wrong(format!("it is not {expected}")),
            },
            Self::Number { least, most, whole } => match value {
                Value::Number(number) if number < least || number > most => wrong("it is out of range".into()),
                Value::Number(number) if *whole && number.fract() != 0.0 => wrong("it is not whole".into()),
                Value::Number(_) => Ok(()),
                _ => other("a number"),
            },
            Self::List { least, most, of } => {
                let Value::Array(items) = value else { return other("a list") };
                if items.len() < *least || items.len() > *most {
                    return wrong(format!("it has {} items", items.len()));
                }
                items.iter().enumerate().try_for_each(|(i, item)| of.check(item, at.index(i)))
            }
            Self::Object { members, open } => {
                let Value::Object(found) = value else { return other("an object") };
                let (mut place, mut known) = (Place::default(), 0);
                for member in *members {
                    match place.find(found, member.name) {
                        Some(_) => known += 1,
                        None if member.needed => return Err(at.fault(member.name, Code::Schema, "it is missing")),
                        None => {}
                    }
                }
                let unknown = |name: &str| !members.iter().any(|member| member.name == name);
                if !open
                    && known < found.len()
                    && let Some((name, _)) = found.iter().find(|(name, _)| unknown(name))
                {
                    return Err(at.fault(name, Code::Schema, "nothing of that name is known"));
                }
                let mut place = Place::default();
                members.iter().try_for_each(|member| match place.find(found, member.name) {
                    Some(inner) => member.shape.check(inner, at.name(member.name)),
                    None => Ok(()),
                })
            }
            Self::Either(name, with, without) => {
                if value.get(name).is_some() {
                    with.check(value, at)
                } else {
                    without.check(value, at)
                }
            }
            Self::With(names, shape) => {
                shape.check(value, at)?;
                match names.iter().any(|name| value.get(name).is_some()) {
                    true => Ok(()),
                    false => wrong("it has no evidence at all".into()),
                }
            }
        }
    }
}

impl Form {
    /// What a text should be, and is not.
    fn mismatch(self, text: &str) -> Option<&'static str> {
        let all = |allowed: fn(u8) -> bool| !text.is_empty() && text.bytes().all(allowed);
        let (good, expected) = match self {
            Self::Free => (true, "a text"),
            Self::Base64Url => (is_base64url(text), "base64url"),
            Self::Did => (text.starts_with("did:"), "a DID"),
            Self::Time => (Instant::parse(text).is_some(), "an RFC 3339 date-time"),
            Self::Host => {
                let host = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'*' | b':' | b'-');
                (all(host), "a host in lower case")
            }
            Self::Uri => (is_uri(text), "a URI"),
            Self::Digits => (all(|byte| byte.is_ascii_digit()), "a decimal number"),
            Self::Account => (is_account(text), "an EIP-155 account"),
            Self::Path => (is_relative(text), "a safe relative path"),
        };
        (!good).then_some(expected)
    }
}

/// Characters of base64url, however many.
pub(super) fn is_base64url(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// A DID of a method that Claw knows.
pub(super) fn is_did(text: &str) -> bool {
    let named = text.strip_prefix("did:key:").or_else(|| text.strip_prefix("did:web:"));
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'%' | b'-');
    named.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(allowed))
}

fn is_uri(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once(':') else { return false };
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    let pairs = |text: &str| {
        let mut parts = text.split('%');
        parts.next();
        parts.all(|part| part.len() >= 2 && part.bytes().take(2).all(|byte| byte.is_ascii_hexdigit()))
    };
    scheme.starts_with(|char: char| char.is_ascii_alphabetic())
        && scheme.bytes().all(letter)
        && rest.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte))
        && rest.matches('#').count() <= 1
        && pairs(rest)
}

fn is_account(text: &str) -> bool {
    let Some((chain, address)) = text.strip_prefix("eip155:").and_then(|rest| rest.split_once(":0x")) else {
        return false;
    };
    let digits = !chain.is_empty() && chain.bytes().all(|byte| byte.is_ascii_digit());
    digits && address.len() == 40 && address.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_relative(text: &str) -> bool {
    !text.starts_with(['/', '~'])
        && !text.contains(['\\', '\n', '\r', '\u{2028}', '\u{2029}'])
        && text.split('/').all(|part| part != "..")
}
