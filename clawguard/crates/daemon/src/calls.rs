//! What the gateway asks of MCP.

use control::channel::{Ask, Told};

use crate::core::Shared;

/// Answers a question of MCP.
pub(crate) fn tell(_shared: &Shared, _ask: Ask) -> Told {
    Told::Unrecorded("nothing of MCP is answered yet".into())
}
