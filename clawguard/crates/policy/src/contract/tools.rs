//! What contracts say about tools, of MCP servers and of OpenClaw's own.

use super::Error;
use crate::{
    read::{Fields, short},
    tool::{NotAPattern, ServerPattern, ToolPattern},
};

/// `tools` of form 1, and what the other forms say of MCP tools. What it comes to is said by
/// [`ToolPolicy`](crate::tool::ToolPolicy).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tools {
    /// What kind of tool is callable at all; only form 3 says so.
    pub profile: Option<Profile>,
    /// Callable. Absent and empty both allow nothing.
    pub allow: Option<Vec<ToolLine>>,
    /// Not callable, whatever else is said.
    pub deny: Vec<ToolLine>,
    /// Callable once a person agrees.
    pub approve: Vec<ToolLine>,
    /// Callable without a person, though their risk is high: names without wildcards, which give nothing by themselves.
    /// Forms 2 and 3 have no such member.
    pub no_approval: Vec<ToolLine>,
    /// The entries of form 2's lists, for telling what became of them.
    pub entries: Vec<ToolEntry>,
}

/// A line that names tools, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolLine {
    /// Where: `metadata.clawguard.v1.tools.allow[2]`.
    pub path: String,
    /// Which tools.
    pub pattern: ToolPattern,
}

/// An entry of `allowed_tools` or `denied_tools`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolEntry {
    /// Where: `allowed_tools[0]`.
    pub path: String,
    /// `kind`, of which 80 characters are kept.
    pub kind: String,
    /// `server`; an entry of an unknown kind is not read any further.
    pub server: Option<ServerPattern>,
    /// The entry's hash, to tell entries of unknown kinds apart.
    pub hash: claw::Hash,
}

/// `tools.profile` of form 3.
///
/// OpenClaw has profiles of other names; what they hold changes with its versions, so a contract that names one is
/// refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Profile {
    /// `readonly`: an allowed tool is denied unless its class is read.
    Readonly,
    /// `full`: as if there were no profile.
    Full,
}

impl Profile {
    /// The word for it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Readonly => "readonly",
            Self::Full => "full",
        }
    }
}

/// Tools of OpenClaw's own, which form 3 names among the others: text for OpenClaw's configuration, not for the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenClaw {
    /// OpenClaw may offer them.
    pub allow: Vec<OpenClawLine>,
    /// OpenClaw may not.
    pub deny: Vec<OpenClawLine>,
}

/// The name of one of OpenClaw's own tools, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenClawLine {
    /// Where: `tools.allow[3]`.
    pub path: String,
    /// The name, which may have wildcards of OpenClaw's: `exec`, `tools.elevated.*`.
    pub name: String,
}

/// Lines of the form SERVER/TOOL.
pub(super) fn patterns(fields: &mut Fields<'_>, name: &str) -> Result<Option<Vec<ToolLine>>, Error> {
    let list = fields.path(name);
    let Some(texts) = fields.texts(name)? else { return Ok(None) };
    let line = |(i, text): (usize, &str)| line(format!("{list}[{i}]"), text, text.parse());
    texts.into_iter().enumerate().map(line).collect::<Result<_, _>>().map(Some)
}

fn line(path: String, text: &str, pattern: Result<ToolPattern, NotAPattern>) -> Result<ToolLine, Error> {
    match pattern {
        Ok(pattern) => Ok(ToolLine { path, pattern }),
        Err(why) => Err(Error::Text { path, text: short(text), why: why.to_string() }),
    }
}

impl Tools {
    /// `metadata["clawguard.v1"].tools`
    pub(super) fn read(mut fields: Fields<'_>) -> Result<Self, Error> {
        let tools = Self {
            profile: None,
            allow: patterns(&mut fields, "allow")?,
            deny: patterns(&mut fields, "deny")?.unwrap_or_default(),
            approve: patterns(&mut fields, "approve")?.unwrap_or_default(),
            no_approval: patterns(&mut fields, "no_approval")?.unwrap_or_default(),
            entries: Vec::new(),
        };
        if let Some(line) = tools.no_approval.iter().find(|line| line.pattern.exact().is_none()) {
            let why = "what needs no approval is named exactly, without *".into();
            return Err(Error::Text { path: line.path.clone(), text: short(&line.pattern.to_string()), why });
        }
        fields.end()?;
        Ok(tools)
    }
}
