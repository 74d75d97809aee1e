//! The tool that tests run at either end: an agent that tries things, and the far end that sees what arrives.

mod agent;
mod attacks;
mod attacks_names;
mod far;
mod hello;
mod helper;
mod mcp;
mod model;
mod names;
mod raw;
mod storm;
mod tls;
mod tools;

use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["far"] => far::serve(),
        ["helper", rest @ ..] => helper::serve(rest),
        ["storm", count, open, shut, gone] => storm::run(count, open, shut, gone),
        ["names", rest @ ..] => names::run(rest),
        ["tls", rest @ ..] => tls::run(rest),
        ["mcp"] => mcp::serve(),
        ["model", rest @ ..] => model::run(rest),
        ["tools", rest @ ..] => tools::run(rest),
        ["attack-names", id, marker] => attacks_names::run(id, marker),
        ["attacks-names"] => {
            for attack in attacks_names::TABLE {
                println!("{}\t{}", attack.id, attack.source);
            }
            Ok(())
        }
        ["attack", id, rest @ ..] => attacks::run(id, rest),
        ["attacks"] => {
            for attack in attacks::TABLE {
                println!("{}\t{}", attack.id, attack.source);
            }
            Ok(())
        }
        rest => agent::run(rest),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("error {error:#}");
            ExitCode::FAILURE
        }
    }
}
