//! `run`, and what is asked of a running agent.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use policy_agent::agent::{self, Request};
use policy_agent::config::{BpffsOption, RunOptions, SocketOption, parse_duration};
use policy_agent::datapath::bpf::uninstall;
use policy_agent::logging::{LogFilter, check_filter};

use super::output::Output;
use super::status;

#[derive(Debug, Args)]
pub(super) struct SyncArgs {
    /// How long to wait, such as `10s` or `500ms`; also for an agent that is still starting.
    #[arg(long, default_value = "10s", value_parser = parse_duration, value_name = "TIME")]
    timeout: Duration,
    #[command(flatten)]
    socket: SocketOption,
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    socket: SocketOption,
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
    /// Exit with status 1 unless everything is enforced and nothing is wrong.
    #[arg(long)]
    check: bool,
    /// Show also how full each table is and what memory it takes. JSON has that always.
    #[arg(long)]
    tables: bool,
}

#[derive(Debug, Args)]
pub(super) struct FlowsArgs {
    #[command(flatten)]
    socket: SocketOption,
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
    /// Only those of this pod.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pod: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct LogLevelArgs {
    /// The new filter: a level, or such as `info,policy_agent=debug`. Without it, shows the one in force.
    #[arg(value_name = "LEVEL", value_parser = check_filter)]
    filter: Option<String>,
    #[command(flatten)]
    socket: SocketOption,
}

#[derive(Debug, Args)]
pub(super) struct UninstallArgs {
    #[command(flatten)]
    bpffs: BpffsOption,
    #[command(flatten)]
    socket: SocketOption,
    /// Stay until told to stop by SIGTERM or SIGINT: for a DaemonSet, whose containers may not end.
    #[arg(long)]
    hold: bool,
}

pub(super) fn run(options: RunOptions, log: LogFilter) -> anyhow::Result<ExitCode> {
    block_on(agent::run(options, log))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn sync(args: &SyncArgs) -> anyhow::Result<ExitCode> {
    let reply = block_on(agent::ask(&args.socket.socket, Request::Sync, args.timeout))?;
    status::print_sync(&reply.status, args.output)
}

pub(super) fn status(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let reply = block_on(agent::ask(&args.socket.socket, Request::Status, Duration::from_secs(5)))?;
    status::print_status(&reply.status, args.output, args.tables)?;
    let well = reply.status.synced && reply.status.errors.is_empty();
    Ok(if args.check && !well { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

pub(super) fn flows(args: &FlowsArgs) -> anyhow::Result<ExitCode> {
    let mut flows = block_on(agent::ask(&args.socket.socket, Request::Flows, Duration::from_secs(10)))?.flows;
    flows.retain(|flow| args.pod.as_ref().is_none_or(|pod| *pod == flow.pod));
    status::print_flows(&flows, args.output)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn log_level(args: LogLevelArgs) -> anyhow::Result<ExitCode> {
    let LogLevelArgs { filter, socket } = args;
    let filter = block_on(agent::log_level(&socket.socket, filter, Duration::from_secs(2)))?;
    anstream::println!("{filter}");
    Ok(ExitCode::SUCCESS)
}

pub(super) fn take_away(args: &UninstallArgs) -> anyhow::Result<ExitCode> {
    stop_running(&args.socket.socket)?;
    for line in uninstall(&args.bpffs.bpffs)? {
        anstream::println!("removed {line}");
    }
    if args.hold {
        anstream::println!("nothing is enforced here any more; waiting to be stopped");
        block_on(agent::told_to_stop())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// An agent that runs on would put everything back.
fn stop_running(socket: &Path) -> anyhow::Result<()> {
    if !socket.exists() {
        return Ok(());
    }
    let patience = Duration::from_secs(5);
    match block_on(agent::ask(socket, Request::Shutdown, patience)) {
        Ok(_) => {
            anstream::println!("stopped the agent at {}", socket.display());
            let end = Instant::now() + patience;
            while socket.exists() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Err(error) => anstream::eprintln!("no agent to stop: {error:#}"),
    }
    Ok(())
}

fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}
