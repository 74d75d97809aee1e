//! The rest of MCP: what else than tools an agent may have of a server, and a server of an agent's client.

mod pattern;
mod rules;

pub use pattern::{ResourcePattern, UriPattern};
pub use rules::{McpRules, What};
