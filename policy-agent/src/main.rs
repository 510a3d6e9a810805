//! The `policy-agent` binary: subcommands over the library.

mod cli;

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    match cli::main(&arguments) {
        Ok(code) => code,
        Err(error) => {
            anstream::eprintln!("policy-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}
