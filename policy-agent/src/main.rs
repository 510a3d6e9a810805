//! The `policy-agent` binary: subcommands over the library.

mod cli;

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    // Before all else: it is executed for each pod.
    if policy_agent::cni::is_plugin_call(std::env::args_os()) {
        return policy_agent::cni::run_plugin();
    }
    let arguments: Vec<OsString> = std::env::args_os().collect();
    match cli::main(&arguments) {
        Ok(code) => code,
        Err(error) => {
            anstream::eprintln!("policy-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}
