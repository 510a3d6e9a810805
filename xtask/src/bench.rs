//! `cargo xtask bench`: builds what is measured, and runs `sluice-bench` on it.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Result;

use crate::agent_build;
use crate::bpf_build::{self, Variant};
use crate::root;
use crate::setup::{self, Scope};
use crate::step;
use crate::workspace::Workspace;

const PROGRAM: &str = "sluice-bench";

/// What to measure, and how to print it.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Options {
    /// Measure connections between pods, beside nftables and iptables, instead of the programs alone
    #[arg(long)]
    path: bool,
    /// Measure the agent's memory and time with clusters of up to 100,000 pods instead
    #[arg(long, conflicts_with = "path")]
    scale: bool,
    /// Measure connections between pods by Services instead, beside kube-proxy's rules alone, and the agent with 10,000 Services
    #[arg(long, conflicts_with_all = ["path", "scale"])]
    services: bool,
    /// Rounds whose median counts
    #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
    /// Write the tables into docs/bench.md, and draw docs/bench/path.svg or docs/bench/scale.svg where that is measured
    #[arg(long)]
    docs: bool,
    /// Draw the figures of the path or of the clusters here, as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Everything is built already (used when the bench goes on as root)
    #[arg(long, hide = true)]
    built: bool,
}

impl Options {
    /// The same as arguments of this program, run by another user.
    fn arguments(&self) -> Vec<String> {
        let mut arguments =
            vec!["bench".to_owned(), "--built".to_owned(), format!("--rounds={}", self.rounds)];
        let flags = [
            ("--path", self.path),
            ("--scale", self.scale),
            ("--services", self.services),
            ("--json", self.json),
            ("--docs", self.docs),
        ];
        arguments.extend(flags.into_iter().filter(|(_, given)| *given).map(|(flag, _)| flag.to_owned()));
        arguments.extend(self.plot.iter().map(|plot| format!("--plot={}", plot.display())));
        arguments
    }

    /// And as arguments of the bench itself.
    fn program_arguments(&self, workspace: &Workspace) -> Vec<OsString> {
        let docs = workspace.docs();
        let object = workspace.bpf_object().with_file_name("policy-ebpf-bench").into();
        let (mut arguments, page): (Vec<OsString>, _) = match (self.path, self.scale) {
            _ if self.services => (vec!["services".into(), workspace.bpf_object().into()], None),
            (true, _) => (vec!["path".into()], Some("path.svg")),
            (false, true) => (vec!["scale".into(), object], Some("scale.svg")),
            (false, false) => (vec!["packets".into(), object], None),
        };
        arguments.push(format!("--rounds={}", self.rounds).into());
        if self.json {
            arguments.push("--json".into());
        }
        if self.docs {
            arguments.extend(["--docs".into(), docs.join("bench.md").into()]);
        }
        let page = page.filter(|_| self.docs).map(|page| docs.join("bench").join(page));
        let plot = self.plot.clone().or(page);
        // The programs alone are not drawn.
        if let Some(plot) = plot.filter(|_| self.path || self.scale) {
            arguments.extend(["--plot".into(), plot.into()]);
        }
        arguments
    }
}

/// Builds and measures.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    if !options.built {
        root::authorise("the bench makes network namespaces and loads BPF programs")?;
        if options.path || options.services {
            agent_build::all(workspace, Scope::BENCH, Variant::Plain)?;
        } else {
            let rustc = setup::ensure(workspace, Scope::RUN)?;
            bpf_build::build(workspace, &rustc, Variant::Bench)?;
        }
        let mut command = workspace.cargo();
        command.args(["build", "--release", "--package", "sluice-tests", "--bin", PROGRAM]);
        step::run("building the bench", &workspace.logs(), "bench-build", &mut command)?;
    }
    if !root::is_root() {
        let arguments = options.arguments();
        return root::become_root(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let mut command = workspace.command(workspace.agent().with_file_name(PROGRAM));
    command.args(options.program_arguments(workspace)).env("SLUICE_AGENT", workspace.agent());
    step::stream("measuring", &mut command)
}
