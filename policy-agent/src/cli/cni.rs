//! `cni`: the plugin's installer. The plugin itself is called before the command line is looked at.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use policy_agent::cni::{Changed, DEFAULT_SOCKET, Entry, Installer, Unready, parse_timeout};

use super::output::{Output, print_json};

#[derive(Debug, Args)]
pub(super) struct CniArgs {
    #[command(subcommand)]
    command: CniCommand,
}

#[derive(Debug, Subcommand)]
enum CniCommand {
    /// Copy this program to the runtime's plugins, and chain it behind the network's.
    ///
    /// The entry goes into the configuration that runtimes use, the first of the folder by name. Everything else in it
    /// stays as it is, byte for byte. A single-plugin file (.conf) is kept aside, and a list of the same name stands in for
    /// it. What is installed already is brought up to date.
    Install(InstallArgs),
    /// Take the entry out of every network configuration and remove the program. Nothing else is touched.
    ///
    /// Stop the agent first where it has --cni-conf-dir: it would put the entry back until the program is gone.
    Uninstall(UninstallArgs),
}

#[derive(Debug, Args)]
struct PlaceArgs {
    /// Where the container runtime looks for network configurations.
    #[arg(long, env = "SLUICE_CNI_CONF_DIR", default_value = "/etc/cni/net.d", value_name = "DIR")]
    conf_dir: PathBuf,
    /// Where the container runtime looks for plugins.
    #[arg(long, env = "SLUICE_CNI_BIN_DIR", default_value = "/opt/cni/bin", value_name = "DIR")]
    bin_dir: PathBuf,
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

#[derive(Debug, Args)]
struct InstallArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// The agent's control socket, as the runtime's host sees it.
    #[arg(long, env = "SLUICE_SOCKET", default_value = DEFAULT_SOCKET, value_name = "PATH")]
    socket: PathBuf,
    /// How long a pod's start waits for its policy, such as `5s` or `500ms`.
    #[arg(long, env = "SLUICE_CNI_TIMEOUT", default_value = "5s", value_parser = parse_timeout, value_name = "TIME")]
    timeout: Duration,
    /// What becomes of a pod whose policy is not in force by then.
    #[arg(long, env = "SLUICE_CNI_UNREADY", value_enum, default_value_t)]
    unready: UnreadyArg,
    /// Where there is no network configuration yet, wait for one.
    #[arg(long)]
    wait: bool,
}

#[derive(Debug, Args)]
struct UninstallArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// Leave the program: CRI-O deletes a pod by the configuration that the pod was made with.
    #[arg(long)]
    keep_program: bool,
}

#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum UnreadyArg {
    /// Without an agent it does not start, and is tried again; with one, it starts closed.
    #[default]
    Closed,
    /// It starts open.
    Open,
}

impl From<UnreadyArg> for Unready {
    fn from(argument: UnreadyArg) -> Self {
        match argument {
            UnreadyArg::Closed => Self::Closed,
            UnreadyArg::Open => Self::Open,
        }
    }
}

impl PlaceArgs {
    fn installer(&self, entry: Entry) -> Installer {
        Installer { conf_dir: self.conf_dir.clone(), bin_dir: self.bin_dir.clone(), entry }
    }
}

pub(super) fn run(arguments: &CniArgs) -> anyhow::Result<ExitCode> {
    match &arguments.command {
        CniCommand::Install(args) => {
            let entry =
                Entry { socket: args.socket.clone(), timeout: args.timeout, unready: args.unready.into() };
            let installer = args.place.installer(entry);
            let program = std::env::current_exe().context("looking for this program's own file")?;
            let changed = if args.wait {
                installer.install_and_wait(&program)?
            } else {
                installer.install(&program)?
            };
            print(&changed, args.place.output, "already installed")
        }
        CniCommand::Uninstall(args) => {
            let changed = args.place.installer(Entry::default()).uninstall(args.keep_program)?;
            print(&changed, args.place.output, "not installed")
        }
    }
}

fn print(changed: &Changed, output: Output, nothing: &str) -> anyhow::Result<ExitCode> {
    if output == Output::Json {
        print_json(changed)?;
        return Ok(ExitCode::SUCCESS);
    }
    for change in &changed.changes {
        anstream::println!("{change}");
    }
    for note in &changed.notes {
        anstream::println!("note: {note}");
    }
    if changed.changes.is_empty() {
        anstream::println!("{nothing}");
    }
    Ok(ExitCode::SUCCESS)
}
