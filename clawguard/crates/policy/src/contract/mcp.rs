//! What contracts say about the rest of MCP: resources, prompts, and what servers may ask of their clients.

use super::Error;
use crate::{
    mcp::ResourcePattern,
    read::{Fields, short},
    tool::{NotAPattern, ServerPattern, ToolPattern},
};

/// `mcp` of form 1, which the other forms do not have. What it comes to is said by [`McpRules`](crate::mcp::McpRules).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mcp {
    /// Resources that may be read and subscribed to.
    pub resources: Vec<Line<ResourcePattern>>,
    /// Prompts that may be had, named as tools are.
    pub prompts: Vec<Line<ToolPattern>>,
    /// Servers that may complete arguments of prompts and resources.
    pub completion: Vec<Line<ServerPattern>>,
    /// Servers that may have the client's model answer.
    pub sampling: Vec<Line<ServerPattern>>,
    /// Servers that may have the client ask its user.
    pub elicitation: Vec<Line<ServerPattern>>,
    /// Servers that may have the client send its user to a URL.
    pub elicitation_url: Vec<Line<ServerPattern>>,
    /// Servers that may know the client's roots.
    pub roots: Vec<Line<ServerPattern>>,
    /// Servers whose calls may be tasks, which are asked for, awaited and cancelled later.
    pub tasks: Vec<Line<ServerPattern>>,
    /// Servers whose log may be asked for.
    pub logging: Vec<Line<ServerPattern>>,
}

/// A line of a list, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line<P> {
    /// Where: `metadata.clawguard.v1.mcp.resources[2]`.
    pub path: String,
    /// What it stands for.
    pub pattern: P,
}

const MOST: usize = 10_000;

impl Mcp {
    /// `metadata["clawguard.v1"].mcp`
    pub(super) fn read(mut fields: Fields<'_>) -> Result<Self, Error> {
        let mcp = Self {
            resources: lines(&mut fields, "resources")?,
            prompts: lines(&mut fields, "prompts")?,
            completion: lines(&mut fields, "completion")?,
            sampling: lines(&mut fields, "sampling")?,
            elicitation: lines(&mut fields, "elicitation")?,
            elicitation_url: lines(&mut fields, "elicitation_url")?,
            roots: lines(&mut fields, "roots")?,
            tasks: lines(&mut fields, "tasks")?,
            logging: lines(&mut fields, "logging")?,
        };
        fields.end()?;
        Ok(mcp)
    }

    /// The lists that name servers only, with their words.
    #[must_use]
    pub fn of_servers(&self) -> [(&'static str, &[Line<ServerPattern>]); 7] {
        [
            ("completion", &self.completion),
            ("sampling", &self.sampling),
            ("elicitation", &self.elicitation),
            ("elicitation_url", &self.elicitation_url),
            ("roots", &self.roots),
            ("tasks", &self.tasks),
            ("logging", &self.logging),
        ]
    }
}

fn lines<P: std::str::FromStr<Err = NotAPattern>>(fields: &mut Fields<'_>, name: &str) -> Result<Vec<Line<P>>, Error> {
    let list = fields.path(name);
    let texts = fields.texts(name)?.unwrap_or_default();
    if texts.len() > MOST {
        return Err(Error::Bound { path: list, why: format!("{MOST} lines at most are accepted") });
    }
    let line = |(i, text): (usize, &str)| {
        let path = format!("{list}[{i}]");
        match text.parse::<P>() {
            Ok(pattern) => Ok(Line { path, pattern }),
            Err(why) => Err(Error::Text { path, text: short(text), why: why.to_string() }),
        }
    };
    texts.into_iter().enumerate().map(line).collect()
}
