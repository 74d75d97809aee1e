//! The model gateway between a client and a provider of its own, under a daemon that says what a test wants.

mod calls;
mod client;
mod hostile;
mod kills;
mod provider;
mod proxied;
mod redactions;
mod refusals;
mod streams;
mod world;
