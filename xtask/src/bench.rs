//! `cargo xtask bench`: builds the BPF object with the bench's programs, and runs `sluice-bench` on it.

use anyhow::Result;

use crate::bpf_build::{self, Variant};
use crate::root;
use crate::setup::{self, Scope};
use crate::step;
use crate::workspace::Workspace;

/// How to print it.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Options {
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Everything is built already (used when the bench goes on as root)
    #[arg(long, hide = true)]
    built: bool,
}

/// Builds and measures.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let object = workspace.bpf_object().with_file_name("policy-ebpf-bench");
    let profile = workspace.agent().with_file_name("sluice-bench");
    if !options.built {
        root::authorise("the bench makes a network namespace and loads BPF programs")?;
        let rustc = setup::ensure(workspace, Scope::RUN)?;
        bpf_build::build(workspace, &rustc, Variant::Bench)?;
        let mut command = workspace.cargo();
        command.args(["build", "--release", "--package", "sluice-tests", "--bin", "sluice-bench"]);
        step::run("building the bench", &workspace.logs(), "bench-build", &mut command)?;
    }
    if !root::is_root() {
        let json: &[&str] =
            if options.json { &["bench", "--built", "--json"] } else { &["bench", "--built"] };
        return root::become_root(json);
    }
    let mut command = workspace.command(profile);
    command.arg(object);
    if options.json {
        command.arg("--json");
    }
    step::stream("measuring", &mut command)
}
