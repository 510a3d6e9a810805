//! `cargo xtask`: sets up a machine, builds, shows, tests and checks Sluice.

mod agent_build;
mod bench;
mod bpf_build;
mod bpf_linker;
mod bpf_toolchain;
mod chart;
mod conformance;
mod demo;
mod fuzz;
mod image;
mod lint;
mod root;
mod setup;
mod step;
mod test;
mod version;
mod vm;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::setup::Scope;
use crate::workspace::Workspace;

/// Builds, shows, tests and checks Sluice.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install what building, the demo, the tests, the bench and lint need
    ///
    /// Looks for a rustc with library source (rustup's nightly, other rustup toolchains, the system's), bpf-linker
    /// with a matching LLVM, iproute2, ping, curl, nsenter, bpftool, nft, iptables, ipset, CNI plugins, Helm, rustfmt,
    /// clippy and cargo-deny. On Debian and its children it installs what is missing by apt (as root, or through sudo without a
    /// password) and by `cargo install`; elsewhere it says exactly what is missing. SLUICE_BPF_RUSTC=/path/to/rustc
    /// chooses a compiler.
    Setup {
        /// Only report; fail when something is missing
        #[arg(long)]
        check: bool,
    },
    /// Build the BPF program and the agent with the program inside
    ///
    /// Sets up the machine first where that is needed. Leaves target/bpf/policy-ebpf and target/release/policy-agent.
    Build {
        /// With log lines from the datapath (slow: for debugging only)
        #[arg(long)]
        debug_log: bool,
    },
    /// Show policies at work on real pods: network namespaces of this machine
    ///
    /// Sets up the machine and builds first, then makes two nodes of pods, starts the agent, and tries each step of the
    /// story. Cleans up after itself; fails when any probe comes out otherwise than expected. Needs root, or sudo.
    Demo {
        /// Everything is built already (used when the demo goes on as root)
        #[arg(long, hide = true)]
        built: bool,
    },
    /// Run all tests, those in the kernel and in network namespaces included
    ///
    /// Sets up the machine and builds first. Needs root, or sudo. A kernel test that can't run fails. Ends with the most telling
    /// suites in virtual machines with the oldest and the newest kernel; --kernel runs all of them on any.
    Test(test::Options),
    /// Run conformance cases on real pods: oracle, `explain` and sockets must agree with the file
    ///
    /// Sets up the machine and builds first. Prints a table of all cases and every difference; `cargo xtask test` runs the
    /// public cases too. Needs root, or sudo.
    Conformance(conformance::Options),
    /// Look for packets and manifests on which Sluice is wrong
    ///
    /// Runs the targets of tests/fuzz under libFuzzer; installs cargo-fuzz where it is missing. What the tests replay is in
    /// tests/fuzz/corpus; new inputs go to target/fuzz-corpus. Needs no root.
    Fuzz(fuzz::Options),
    /// Measure nanoseconds per packet, or with --path what passes between two pods
    ///
    /// Sets up the machine and builds first. Medians of several rounds under BPF_PROG_TEST_RUN, each beside a no-op
    /// program of the same round, with verified instructions, stack and map memory. With --path: throughput, packets
    /// and connections per second without policy and under Sluice, nftables and iptables. Needs root, or sudo.
    Bench(bench::Options),
    /// Render deploy/install.yaml and deploy/uninstall.yaml from the Helm chart
    ///
    /// `lint` checks that they are up to date. Fetches Helm where there is none.
    Chart(chart::Options),
    /// Make the container image, without a container engine
    ///
    /// Sets up the machine and builds first. An OCI image layout in one tar file, with the agent as a static program and
    /// nothing else, for `ctr images import`, `docker load` and skopeo. The same sources give the same digest.
    Image(image::Options),
    /// Check format, lints (clippy, warnings are errors) and dependencies (cargo-deny)
    ///
    /// Every check runs, also after one failed. Advisories are checked where their database can be reached.
    Lint,
}

fn main() -> ExitCode {
    match run(&Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            anstream::eprintln!("\x1b[1;31merror:\x1b[0m {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: &Task) -> Result<()> {
    let workspace = Workspace::find()?;
    match task {
        Task::Setup { check: true } => setup::check(&workspace),
        Task::Setup { check: false } => setup::all(&workspace),
        Task::Build { debug_log } => {
            let variant = if *debug_log { bpf_build::Variant::DebugLog } else { bpf_build::Variant::Plain };
            agent_build::all(&workspace, Scope::BUILD, variant)
        }
        Task::Demo { built } => show(&workspace, *built),
        Task::Test(options) => test::run(&workspace, options),
        Task::Conformance(options) => conformance::run(&workspace, options),
        Task::Fuzz(options) => fuzz::run(&workspace, options),
        Task::Bench(options) => bench::run(&workspace, options),
        Task::Chart(options) => chart::run(&workspace, options),
        Task::Image(options) => image::run(&workspace, options),
        Task::Lint => lint::run(&workspace),
    }
}

fn show(workspace: &Workspace, built: bool) -> Result<()> {
    if !built {
        root::authorise("the demo makes network namespaces and loads BPF programs")?;
        agent_build::all(workspace, Scope::RUN, bpf_build::Variant::Plain)?;
    }
    if !root::is_root() {
        return root::become_root(&["demo", "--built"]);
    }
    demo::run(&demo::Options { agent: workspace.agent() })
}
