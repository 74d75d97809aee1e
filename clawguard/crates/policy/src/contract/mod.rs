//! The contract (WPC) in its three payload forms, read into one value.
//!
//! | form | is told by | has |
//! |---|---|---|
//! | [`Registered`](Form::Registered) | `policy_version: "1"` | Claw's schema, and the rest in `metadata["clawguard.v1"]` |
//! | [`Listed`](Form::Listed) | `wpc_version: "v1"` and `allowed_tools` … | lists of tools by server |
//! | [`Profiled`](Form::Profiled) | `wpc_version: "v1"` and `tools` … | a profile, and names of tools to allow and deny |
//!
//! Every field must be known and of its kind, in all of them.

mod data;
mod empty;
mod guard;
mod listed;
mod mcp;
mod profiled;
mod registered;
mod token;
mod tools;

use claw::Value;

pub use data::{DataClass, DataClasses, Handling, NotADataClass};
pub use guard::{Egress, GroupSpec, Guard, Listen, Model, OnBypass, Protocol, To};
pub use mcp::{Line, Mcp};
pub use registered::{Allowed, Redact};
pub use token::TokenRules;
pub use tools::{OpenClaw, OpenClawLine, Profile, ToolEntry, ToolLine, Tools};

use crate::read::{Fields, short};

/// A contract's text, read. What it grants is said by [`compile`](crate::compile()).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contract {
    /// How it is written.
    pub form: Form,
    /// `policy_id`, or `policy_name`.
    pub policy_id: String,
    /// `issuer_did`, which forms 2 and 3 do not have. Claw does not authenticate it.
    pub issuer: Option<String>,
    /// `allowed_providers`
    pub allowed_providers: Option<Vec<String>>,
    /// `allowed_models`
    pub allowed_models: Option<Vec<String>>,
    /// `egress_allowlist`. Absent and empty both allow nothing; one that is there bounds `egress`.
    pub egress_allowlist: Option<Vec<Allowed>>,
    /// The other members of Claw's schema that are there: name and value, the latter in canonical form.
    pub model_rules: Vec<(&'static str, String)>,
    /// `redaction_rules`, in their order.
    pub redactions: Vec<Redact>,
    /// Members of `metadata` that are not ClawGuard's: name, and hash of the value.
    pub foreign_metadata: Vec<(String, claw::Hash)>,
    /// What ClawGuard acts on: `metadata["clawguard.v1"]`, or what the other forms say of the same things.
    pub guard: Guard,
    /// Lists and objects that are there and have nothing in them, by path.
    pub empty: Vec<String>,
}

/// How a contract is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Form {
    /// Form 1: Claw's registered schema.
    #[default]
    Registered,
    /// Form 2: `allowed_tools` and `denied_tools`.
    Listed,
    /// Form 3: `tools.profile`, `tools.allow` and `tools.deny`.
    Profiled,
}

impl Form {
    /// The word for it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Registered => "form 1 (policy_version)",
            Self::Listed => "form 2 (allowed_tools)",
            Self::Profiled => "form 3 (tools.profile)",
        }
    }
}

/// Who says when a contract ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Lifetime {
    /// The contract; without `not_after` it has no end.
    #[default]
    Stated,
    /// The host: the form has no member for it, so `[trust] default_lifetime` runs from when an operator put it in force.
    Default,
}

/// Why a contract is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A field that this form does not have.
    #[error("{path} is unknown: a field that is not understood cannot be enforced")]
    Unknown {
        /// Which.
        path: String,
    },
    /// A field that must be there.
    #[error("{path} is missing")]
    Missing {
        /// Which.
        path: String,
    },
    /// A value of another kind.
    #[error("{path} is {found}, not {expected}")]
    Wrong {
        /// Where.
        path: String,
        /// What should be there.
        expected: &'static str,
        /// What is there.
        found: &'static str,
    },
    /// A text that does not mean anything there.
    #[error("{path}: \"{text}\": {why}")]
    Text {
        /// Where.
        path: String,
        /// What is there.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// A value outside its bounds.
    #[error("{path}: {why}")]
    Bound {
        /// Where.
        path: String,
        /// What is wrong with it.
        why: String,
    },
}

/// The members that only form 2 has, beside `wpc_version` and `policy_name`.
const LISTED: [&str; 5] = ["allowed_tools", "denied_tools", "data_classes", "model_egress", "token_constraints"];
/// The members that only form 3 has.
const PROFILED: [&str; 2] = ["tools", "token_binding"];

impl Contract {
    /// Reads a payload in whichever form it has. Every field must be known and of its kind.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub fn read(payload: &Value) -> Result<Self, Error> {
        let mut fields = Fields::of("", payload)?;
        let mut contract = match form(&mut fields, payload)? {
            Form::Registered => registered::read(fields)?,
            Form::Listed => listed::read(fields)?,
            Form::Profiled => profiled::read(fields)?,
        };
        contract.empty = empty::paths(payload);
        Ok(contract)
    }

    /// Whether it has any rules about MCP. Only a gateway can hold a call to them, so that it is then the only way to a server.
    #[must_use]
    pub fn speaks_of_mcp(&self) -> bool {
        self.guard.tools.is_some() || self.guard.mcp.is_some() || self.guard.data_classes.is_some()
    }

    /// Who says when it ends.
    #[must_use]
    pub fn lifetime(&self) -> Lifetime {
        match self.form {
            Form::Registered => Lifetime::Stated,
            Form::Listed | Form::Profiled => Lifetime::Default,
        }
    }
}

/// Takes the version out and tells the form.
fn form(fields: &mut Fields<'_>, payload: &Value) -> Result<Form, Error> {
    let text =
        |path: &str, text: &str, why: &str| Err(Error::Text { path: path.into(), text: short(text), why: why.into() });
    let bound = |path: &str, why: String| Err(Error::Bound { path: path.into(), why });
    match (fields.text("policy_version")?, fields.text("wpc_version")?) {
        (Some(_), Some(_)) => bound("wpc_version", "policy_version is there too, and a contract has one form".into()),
        (Some("1"), None) => Ok(Form::Registered),
        (Some(other), None) => text("policy_version", other, "this version reads policy_version \"1\""),
        (None, Some("v1")) => {
            let first = |names: &[&'static str]| names.iter().find(|name| payload.get(name).is_some()).copied();
            match (first(&LISTED), first(&PROFILED)) {
                (Some(_), None) => Ok(Form::Listed),
                (None, Some(_)) => Ok(Form::Profiled),
                (Some(one), Some(other)) => {
                    bound(other, format!("{one} is there too, which belongs to another form; a contract has one form"))
                }
                (None, None) => bound(
                    "wpc_version",
                    "neither allowed_tools nor tools is there, so that the form is not known".into(),
                ),
            }
        }
        (None, Some(other)) => text("wpc_version", other, "this version reads wpc_version \"v1\""),
        (None, None) => Err(Error::Missing { path: "policy_version".into() }),
    }
}

/// What forms 2 and 3 have of the same kind.
fn named(fields: &mut Fields<'_>, form: Form) -> Result<Contract, Error> {
    Ok(Contract { form, policy_id: bounded(fields, "policy_name", 128)?, ..Contract::default() })
}

fn bounded(fields: &mut Fields<'_>, name: &str, most: usize) -> Result<String, Error> {
    let text = fields.required_text(name)?;
    if text.is_empty() || text.chars().count() > most {
        return Err(Error::Bound { path: fields.path(name), why: format!("1 to {most} characters are accepted") });
    }
    Ok(text.to_owned())
}

/// Reads a member that is an object.
fn object<T>(
    fields: &mut Fields<'_>,
    name: &str,
    read: impl FnOnce(Fields<'_>) -> Result<T, Error>,
) -> Result<Option<T>, Error> {
    let Some(value) = fields.take(name) else { return Ok(None) };
    read(Fields::of(fields.path(name), value)?).map(Some)
}
