//! The command line.

mod cni;
mod explain;
mod output;
mod status;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use policy_agent::agent::{self, Request};
use policy_agent::datapath::bpf::{AttachMode, uninstall};

use output::Output;

const DEFAULT_SOCKET: &str = "/run/sluice/agent.sock";
const DEFAULT_BPFFS: &str = "/sys/fs/bpf/sluice";

/// Sluice: Kubernetes network policy, enforced by eBPF on the host end of every pod's interface.
///
/// `run` enforces the policies of a folder of manifests on the pods whose network namespaces are on this machine;
/// `explain` says, without touching the kernel, what would happen to a connection and which rule decides it.
#[derive(Debug, Parser)]
#[command(name = "policy-agent", version, propagate_version = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// What to log to standard error: error, warn, info, debug, trace, or a filter such as `policy_agent=debug`.
    #[arg(long, global = true, env = "SLUICE_LOG", default_value = "info", value_name = "LEVEL")]
    log: String,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Enforce the policies of a folder of manifests, and follow its changes. Needs root.
    Run(RunArgs),
    /// Let the running agent read its sources now, and wait until all of it is enforced.
    ///
    /// Prints the generation. Objects that could not be read are named on standard error, but do not make it fail:
    /// what they say cannot be enforced, everything else is.
    Sync(SyncArgs),
    /// Show the running agent's endpoints and errors.
    Status(StatusArgs),
    /// Show who opened which connection, as the running agent's flow table remembers it.
    Flows(FlowsArgs),
    /// Say what would happen to a connection, and which policy and rule decide it.
    Explain(explain::ExplainArgs),
    /// Install or remove the CNI plugin, which lets pods start with their policy in force.
    Cni(cni::CniArgs),
    /// Detach everything and remove every pin: enforcement ends. Run it in the node's network namespace.
    Uninstall(UninstallArgs),
}

#[derive(Debug, Args)]
struct SocketArg {
    /// The agent's control socket.
    #[arg(long, env = "SLUICE_SOCKET", default_value = DEFAULT_SOCKET, value_name = "PATH")]
    socket: PathBuf,
}

#[derive(Debug, Args)]
struct BpffsArg {
    /// Where programs, maps and links are pinned: a folder on a BPF file system, of this agent alone.
    #[arg(long, env = "SLUICE_BPFFS", default_value = DEFAULT_BPFFS, value_name = "DIR")]
    bpffs: PathBuf,
}

#[derive(Debug, Args)]
struct RunArgs {
    /// Folder of manifests (.yaml, .yml, .json): Namespaces, Pods, Nodes, NetworkPolicies.
    #[arg(long, env = "SLUICE_MANIFESTS", value_name = "DIR")]
    manifests: Option<PathBuf>,
    #[arg(long, env = "SLUICE_KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    #[arg(long, env = "SLUICE_CONTEXT", value_name = "NAME")]
    context: Option<String>,
    /// Enforce only on pods with this spec.nodeName; all pods are peers. Without it, on all pods found here.
    #[arg(long, env = "SLUICE_NODE", value_name = "NAME")]
    node: Option<String>,
    #[command(flatten)]
    bpffs: BpffsArg,
    #[command(flatten)]
    socket: SocketArg,
    /// How to hang the programs on an interface.
    #[arg(long, env = "SLUICE_ATTACH", value_enum, default_value_t)]
    attach: AttachMode,
}

#[derive(Debug, Args)]
struct SyncArgs {
    /// How long to wait, such as `10s` or `500ms`; also for an agent that is still starting.
    #[arg(long, default_value = "10s", value_parser = parse_duration, value_name = "TIME")]
    timeout: Duration,
    #[command(flatten)]
    socket: SocketArg,
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

#[derive(Debug, Args)]
struct StatusArgs {
    #[command(flatten)]
    socket: SocketArg,
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
    /// Exit with status 1 unless everything is enforced and nothing is wrong.
    #[arg(long)]
    check: bool,
}

#[derive(Debug, Args)]
struct FlowsArgs {
    #[command(flatten)]
    socket: SocketArg,
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
    /// Only those of this pod.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pod: Option<String>,
}

#[derive(Debug, Args)]
struct UninstallArgs {
    #[command(flatten)]
    bpffs: BpffsArg,
    #[command(flatten)]
    socket: SocketArg,
    /// Stay until told to stop by SIGTERM or SIGINT: for a DaemonSet, whose containers may not end.
    #[arg(long)]
    hold: bool,
}

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let filter = tracing_subscriber::EnvFilter::try_new(&arguments.log)
        .map_err(|e| anyhow::anyhow!("--log {:?}: {e}", arguments.log))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false)
        .init();
    match arguments.command {
        Command::Run(args) => block_on(async {
            agent::run(agent::Options {
                source: match args.manifests {
                    Some(dir) => agent::Source::Folder(dir),
                    None => agent::Source::Cluster(policy_agent::source::cluster::Options {
                        access: policy_agent::source::cluster::Access {
                            kubeconfig: args.kubeconfig,
                            context: args.context,
                        },
                        node: args.node.clone().unwrap_or_default(),
                        ..Default::default()
                    }),
                },
                node: args.node,
                bpffs: args.bpffs.bpffs,
                socket: args.socket.socket,
                attach: args.attach,
                close_strangers: false,
            })
            .await?;
            Ok(ExitCode::SUCCESS)
        }),
        Command::Sync(args) => {
            let reply = block_on(agent::ask(&args.socket.socket, Request::Sync, args.timeout))?;
            status::print_sync(&reply.status, args.output)
        }
        Command::Status(args) => {
            let patience = Duration::from_secs(2);
            let reply = block_on(agent::ask(&args.socket.socket, Request::Status, patience))?;
            status::print_status(&reply.status, args.output)?;
            let well = reply.status.synced && reply.status.errors.is_empty();
            Ok(if args.check && !well { ExitCode::FAILURE } else { ExitCode::SUCCESS })
        }
        Command::Flows(args) => {
            let patience = Duration::from_secs(10);
            let mut flows = block_on(agent::ask(&args.socket.socket, Request::Flows, patience))?.flows;
            flows.retain(|flow| args.pod.as_ref().is_none_or(|pod| *pod == flow.pod));
            status::print_flows(&flows, args.output)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Explain(args) => explain::run(&args),
        Command::Cni(args) => cni::run(&args),
        Command::Uninstall(args) => {
            stop_running(&args.socket.socket)?;
            for line in uninstall(&args.bpffs.bpffs)? {
                anstream::println!("removed {line}");
            }
            if args.hold {
                anstream::println!("nothing is enforced here any more; waiting to be stopped");
                block_on(stopped())?;
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// An agent that runs on would put everything back.
fn stop_running(socket: &std::path::Path) -> anyhow::Result<()> {
    if !socket.exists() {
        return Ok(());
    }
    let patience = Duration::from_secs(5);
    match block_on(agent::ask(socket, Request::Shutdown, patience)) {
        Ok(_) => {
            anstream::println!("stopped the agent at {}", socket.display());
            let end = std::time::Instant::now() + patience;
            while socket.exists() && std::time::Instant::now() < end {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Err(error) => anstream::eprintln!("no agent to stop: {error:#}"),
    }
    Ok(())
}

async fn stopped() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: f64 =
        number.parse().map_err(|_| "must be a number with ms, s or m, such as 10s".to_owned())?;
    let seconds = match unit {
        "ms" => number / 1000.0,
        "s" | "" => number,
        "m" => number * 60.0,
        _ => return Err(format!("unknown unit {unit:?}: ms, s or m")),
    };
    Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("2"), Ok(Duration::from_secs(2)));
        for bad in ["", "s", "10h", "-1s", "nan"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
