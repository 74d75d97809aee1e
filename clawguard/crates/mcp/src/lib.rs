//! The Model Context Protocol as the gateway judges it: strict JSON, JSON-RPC messages, server-sent events, the two eras, what
//! becomes of a call, tool definitions, data classes.
//!
//! Nothing here reads a clock, a file or a socket.
#![forbid(unsafe_code)]

pub mod classes;
pub mod decide;
pub mod definition;
pub mod era;
pub mod header;
pub mod json;
pub mod list;
pub mod message;
pub mod sse;
