//! Kinds of data: what calls and their answers may carry.

use std::{fmt, str::FromStr};

use super::Error;
use crate::read::{Fields, short};

/// A kind of data that can be told by its form. How it is told is the gateway's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DataClass {
    /// Private keys, and tokens by which a service knows its callers.
    Secrets,
    /// Passwords, and what stands for one: in URLs, headers, connection strings, assignments.
    Credentials,
    /// Numbers of cards and bank accounts.
    PaymentInstruments,
}

impl DataClass {
    /// All that are known.
    pub const ALL: [Self; 3] = [Self::Secrets, Self::Credentials, Self::PaymentInstruments];

    /// Its name in contracts and records.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Secrets => "secrets",
            Self::Credentials => "credentials",
            Self::PaymentInstruments => "payment_instruments",
        }
    }
}

impl fmt::Display for DataClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// A text that names no kind of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no kind of data that can be told by its form, so that nothing could hold an agent to it; there are secrets, \
     credentials and payment_instruments"
)]
pub struct NotADataClass;

impl FromStr for DataClass {
    type Err = NotADataClass;

    fn from_str(text: &str) -> Result<Self, NotADataClass> {
        Self::ALL.into_iter().find(|class| class.label() == text).ok_or(NotADataClass)
    }
}

/// What becomes of data of a class. A later one is narrower.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Handling {
    /// It passes.
    #[default]
    Passed,
    /// A mark takes its place.
    Redacted,
    /// The call that carries it is not made, the answer that does is withheld.
    Denied,
}

impl Handling {
    /// The word for it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Redacted => "redacted",
            Self::Denied => "denied",
        }
    }
}

/// `data_classes`: what kinds of data calls may carry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DataClasses {
    /// Of the kinds that can be told by their form, no other than these. Of a name that is none of them nothing can be told: it
    /// gives nothing and takes nothing away.
    pub allow: Option<Vec<String>>,
    /// Not these.
    pub deny: Option<Vec<DataClass>>,
    /// These with a mark in their place. Only form 1 says so.
    pub redact: Option<Vec<DataClass>>,
}

impl DataClasses {
    /// `metadata["clawguard.v1"].data_classes`
    pub(super) fn read(mut fields: Fields<'_>) -> Result<Self, Error> {
        let found = Self { redact: known(&mut fields, "redact")?, ..Self::lists(&mut fields)? };
        fields.end()?;
        Ok(found)
    }

    /// `data_classes` of form 2.
    pub(super) fn read_listed(mut fields: Fields<'_>) -> Result<Self, Error> {
        let found = Self::lists(&mut fields)?;
        fields.end()?;
        Ok(found)
    }

    fn lists(fields: &mut Fields<'_>) -> Result<Self, Error> {
        let allow = fields.texts("allow")?.map(|names| names.into_iter().map(str::to_owned).collect());
        Ok(Self { allow, deny: known(fields, "deny")?, redact: None })
    }

    /// What becomes of data of a class. What denies it wins, be it that `allow` is there and leaves it out.
    #[must_use]
    pub fn handling(&self, class: DataClass) -> Handling {
        let names = |list: &Option<Vec<DataClass>>| list.as_ref().is_some_and(|list| list.contains(&class));
        let left_out = self.allow.as_ref().is_some_and(|allow| !allow.iter().any(|name| name == class.label()));
        if left_out || names(&self.deny) {
            Handling::Denied
        } else if names(&self.redact) {
            Handling::Redacted
        } else {
            Handling::Passed
        }
    }
}

/// A restriction by a name that nobody knows could not be kept to.
fn known(fields: &mut Fields<'_>, name: &str) -> Result<Option<Vec<DataClass>>, Error> {
    let list = fields.path(name);
    let Some(texts) = fields.texts(name)? else { return Ok(None) };
    let class = |(i, text): (usize, &str)| {
        text.parse().map_err(|why: NotADataClass| Error::Text {
            path: format!("{list}[{i}]"),
            text: short(text),
            why: why.to_string(),
        })
    };
    texts.into_iter().enumerate().map(class).collect::<Result<_, _>>().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, listed: bool) -> Result<DataClasses, Error> {
        let value = claw::json::parse(text.as_bytes(), claw::json::Limits { bytes: 1 << 10, depth: 8 }).unwrap();
        let fields = Fields::of("data_classes", &value)?;
        if listed { DataClasses::read_listed(fields) } else { DataClasses::read(fields) }
    }

    #[test]
    fn what_denies_a_class_wins() {
        use Handling::{Denied, Passed, Redacted};
        for (text, secrets, cards) in [
            ("{}", Passed, Passed),
            (r#"{"allow":[]}"#, Denied, Denied),
            (r#"{"allow":["internal"]}"#, Denied, Denied),
            (r#"{"allow":["secrets"]}"#, Passed, Denied),
            (r#"{"deny":["secrets"]}"#, Denied, Passed),
            (r#"{"redact":["secrets"]}"#, Redacted, Passed),
            (r#"{"deny":["secrets"],"redact":["secrets"],"allow":["secrets"]}"#, Denied, Denied),
            (r#"{"redact":["secrets","payment_instruments"],"allow":["secrets"]}"#, Redacted, Denied),
        ] {
            let classes = read(text, false).unwrap();
            let found = [DataClass::Secrets, DataClass::PaymentInstruments].map(|class| classes.handling(class));
            assert_eq!(found, [secrets, cards], "{text}");
        }
    }

    #[test]
    fn a_restriction_by_an_unknown_name_refuses_the_contract() {
        for (text, place) in [
            (r#"{"deny":["secrets","health"]}"#, "data_classes.deny[1]: \"health\""),
            (r#"{"redact":["Secrets"]}"#, "data_classes.redact[0]"),
        ] {
            let error = read(text, false).unwrap_err().to_string();
            assert!(error.starts_with(place) && error.contains("payment_instruments"), "{error}");
        }
        assert!(read(r#"{"allow":["health"]}"#, false).is_ok());
    }

    #[test]
    fn only_form_1_redacts() {
        assert!(read(r#"{"redact":["secrets"]}"#, true).unwrap_err().to_string().contains("redact is unknown"));
        assert!(read(r#"{"deny":["secrets"]}"#, true).is_ok());
    }
}
