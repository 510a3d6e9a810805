//! The `policy-agent` binary: subcommands over the library.

mod cli;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    // Before all else: it is executed for each pod.
    if policy_agent::cni::is_plugin_call(std::env::args_os()) {
        return policy_agent::cni::run_plugin();
    }
    let arguments = cli::Arguments::parse();
    match cli::run(arguments) {
        Ok(code) => code,
        Err(error) => {
            anstream::eprintln!("policy-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}
