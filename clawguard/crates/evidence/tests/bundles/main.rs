//! Proof bundles: what is valid, and that nothing can be changed in one without being found and named.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod beside;
mod causal;
mod linked;
mod made;
mod mutations;
mod support;
mod vectors;
