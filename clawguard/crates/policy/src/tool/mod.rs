//! MCP tools: how contracts and configurations name them, what kind of action they are, and who may call them.

mod class;
mod decide;
mod pattern;
mod patterns;

pub use class::class_by_name;
pub use decide::{Judgement, ToolPolicy, ToolReason, ToolVerdict};
pub use pattern::{NamePattern, NotAPattern, ServerPattern, ToolPattern};
