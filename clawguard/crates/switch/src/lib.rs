//! The kill switch.
//!
//! A flip is done in this order, and only then answered: the new state is on disk, the kernel's map has it and was read
//! back, live connections are ended, and the canary, which was let through before, is refused now.
#![forbid(unsafe_code)]

mod flip;
mod numbers;
mod state;

pub use flip::{Flipped, Proof, Target, Wanted, apply, rehearse};
pub use numbers::{Full, Numbers};
pub use state::{Actor, Change, Kill, Mode, State, Whose};
