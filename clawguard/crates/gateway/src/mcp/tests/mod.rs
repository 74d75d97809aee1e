//! The gateway between a client and a server of its own, under a daemon that says what a test wants.

mod back;
mod calls;
mod data;
mod duplex;
mod hostile;
mod kills;
mod lists;
mod modern;
mod open;
mod shapes;
mod world;
