//! The `policy-agent` binary: subcommands over the library.

mod cli;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    match cli::run(arguments) {
        Ok(code) => code,
        Err(error) => {
            anstream::eprintln!("policy-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}
