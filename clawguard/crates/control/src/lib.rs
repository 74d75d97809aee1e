//! The control API: HTTP/1.1 and JSON over a unix socket.
//!
//! `docs/openapi.yaml` describes it; [`route::TABLE`] is the one list of what there is.
#![forbid(unsafe_code)]

pub mod api;
pub mod calls;
pub mod channel;
pub mod client;
pub mod ends;
pub mod model;
pub mod route;
pub mod server;

pub use client::Client;
