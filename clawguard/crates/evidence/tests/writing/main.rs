//! Bundles that are written: their shape, their limits, and that they are valid wherever they are read.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that goes wrong stops")]

mod job;
mod pages;
mod schema;
mod shapes;
mod splitting;
