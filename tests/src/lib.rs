//! Test worlds: a network namespace for the host under test, another for the far end, one instance of ClawGuard.
//!
//! No packet leaves these namespaces: the only way out of the first is a veth to the second, and the second has none.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "what fails here fails a test")]
#![allow(missing_docs, reason = "tests are their own readers")]

mod far;
mod machine;
mod mcp;
pub mod model;
mod names;
pub mod parties;
pub mod registry;
mod world;

pub use far::Far;
pub use machine::Machine;
pub use mcp::McpServer;
pub use model::Provider;
pub use names::{RESOLVER, RESOLVER6};
pub use world::{Identity, Outside, Run, Service, World, built, copy, evil4, evil6, probe_path};
