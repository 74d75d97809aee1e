//! The official Rust SDK (rmcp) as a client and as a server, for tests of the MCP gateway.
//!
//! ```text
//! rmcp-party client legacy|modern|auto URL|COMMAND [ARGUMENT…]
//! LOG=FILE rmcp-party server stdio|ADDRESS
//! ```
#![forbid(unsafe_code)]

mod client;
mod server;

use std::{error::Error, process::ExitCode};

/// What fails here fails a test, which shows the text.
type Outcome = Result<(), Box<dyn Error>>;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let outcome =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Into::into).and_then(|runtime| {
            match words[..] {
                ["client", era, place, ref arguments @ ..] => runtime.block_on(client::run(era, place, arguments)),
                ["server", place] => runtime.block_on(server::run(place)),
                _ => {
                    Err("rmcp-party client ERA URL|COMMAND [ARGUMENT…], or LOG=FILE rmcp-party server stdio|ADDRESS"
                        .into())
                }
            }
        });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rmcp-party: {error}");
            ExitCode::FAILURE
        }
    }
}
