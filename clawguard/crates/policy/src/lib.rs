//! From a contract and the host's facts to one compiled [`Policy`].
//!
//! The host can only narrow what the contract grants. Every field of a contract ends as *enforced*, *denied* (a grant
//! that this host cannot honour and so does not give) or *recorded*; a restriction that cannot be enforced refuses the
//! whole contract. Nothing here reads a clock, a file or a socket.
#![forbid(unsafe_code)]

pub mod compile;
pub mod contract;
pub mod diff;
pub mod finding;
pub mod gateway;
pub mod group;
pub mod host;
pub mod mcp;
pub mod model;
mod models;
pub mod name;
pub mod names;
pub mod net;
pub mod observed;
mod ranges;
mod read;
pub mod sample;
pub mod special;
pub mod tool;

pub use compile::{Policy, compile};
pub use contract::Contract;
pub use diff::diff;
pub use finding::{Finding, Outcome};
pub use gateway::GatewayPolicy;
pub use group::Group;
pub use host::HostFacts;
pub use mcp::McpRules;
pub use model::ModelPolicy;
pub use tool::ToolPolicy;
