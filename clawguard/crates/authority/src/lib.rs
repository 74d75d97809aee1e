//! clawcontrols' and clawscope's routes on an embedded store: enough to run a fleet of hosts without anybody's cloud.
//!
//! Contracts are registered and fetched, tokens issued, bound to one host, revoked and looked into, and every revocation is
//! pushed to who follows. What is acknowledged is on disk. Paths, members and error codes are upstream's, so that what
//! speaks with Claw's services speaks with this one.
#![forbid(unsafe_code)]

mod access;
pub mod arguments;
mod body;
mod clock;
mod controls;
mod follow;
mod issue;
pub mod keys;
mod peers;
mod reply;
mod scope;
mod secret;
mod server;
mod stall;
mod store;

pub use clock::{Clock, Ids};
pub use secret::AdminToken;
pub use server::{Error, Limits, Server, Settings, Tls};

/// Seconds between issue and expiry, at most; also how long a replaced key goes on verifying.
pub const LONGEST_LIFE: u64 = claw::token::LONGEST_LIFE;
/// Seconds for which what concerns an expired token is kept.
pub const KEPT: u64 = 86_400;
