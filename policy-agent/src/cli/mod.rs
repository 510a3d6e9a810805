//! The command line.

mod cni;
mod config;
mod explain;
mod explanation;
mod output;
mod run;
mod status;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use policy_agent::config::{ConfigError, LogOptions, RunOptions, parse};
use policy_agent::logging;

/// Sluice: Kubernetes network policy, enforced by eBPF on the host end of every pod's interface.
///
/// `run` enforces policies on the pods whose network namespaces are on this machine; `explain` says, without touching the
/// kernel, what would happen to a connection and which rule decides it.
#[derive(Debug, Parser)]
#[command(name = "policy-agent", version, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    log: LogOptions,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Enforce the policies of the cluster or of a folder of manifests, and follow their changes. Needs root.
    ///
    /// Every option can also stand in the environment or in a file: docs/configuration.md.
    Run(Box<RunOptions>),
    /// Let the running agent read its sources now, and wait until all of it is enforced.
    ///
    /// Prints the generation. Objects that could not be read are named on standard error, but do not make it fail:
    /// what they say cannot be enforced, everything else is.
    Sync(run::SyncArgs),
    /// Show the running agent's endpoints, tables and errors.
    Status(run::StatusArgs),
    /// Show who opened which connection, as the running agent's flow table remembers it.
    Flows(run::FlowsArgs),
    /// Say what would happen to a connection, and which policy and rule decide it.
    Explain(explain::ExplainArgs),
    /// Install or remove the CNI plugin, which lets pods start with their policy in force.
    Cni(cni::CniArgs),
    /// Show what the running agent logs, or change it.
    LogLevel(run::LogLevelArgs),
    /// Show or check the options of `run`.
    Config(config::ConfigArgs),
    /// Detach everything and remove every pin: enforcement ends. Run it in the node's network namespace.
    Uninstall(run::UninstallArgs),
    /// Print a page of the documentation that is made from the code.
    #[command(hide = true)]
    Reference { page: config::Page },
}

/// Subcommands that have the options of `run`, so that the file of options speaks to them.
const READERS: [&[&str]; 2] = [&["run"], &["config", "print"]];

pub(crate) fn main(arguments: &[OsString]) -> anyhow::Result<ExitCode> {
    let parsed = match parse(&Arguments::command(), arguments, &READERS) {
        Err(ConfigError::Usage(error)) => error.exit(),
        parsed => parsed?,
    };
    let Arguments { command, log } =
        Arguments::from_arg_matches(&parsed.matches).unwrap_or_else(|error| error.exit());
    let filter = logging::start(&log.log, log.log_format)?;
    match command {
        // Who collects objects gets the last words as one too.
        Command::Run(options) => run::run(*options, filter).or_else(|error| match log.log_format {
            logging::Format::Json => {
                tracing::error!("{error:#}");
                Ok(ExitCode::FAILURE)
            }
            logging::Format::Text => Err(error),
        }),
        Command::Sync(args) => run::sync(&args),
        Command::Status(args) => run::status(&args),
        Command::Flows(args) => run::flows(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Cni(args) => cni::run(&args),
        Command::LogLevel(args) => run::log_level(args),
        Command::Config(args) => config::run(&args, parsed.effective.as_ref()),
        Command::Uninstall(args) => run::take_away(&args),
        Command::Reference { page } => Ok(config::print_page(page)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
