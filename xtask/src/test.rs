//! `cargo xtask test`: every test of the workspace, those that need the kernel included.

use anyhow::Result;

use crate::agent_build::OBJECT_VARIABLE;
use crate::fuzz;
use crate::image;
use crate::root;
use crate::setup;
use crate::step;
use crate::workspace::Workspace;

/// The feature that the tests need which load programs and run the agent.
pub(crate) const KERNEL_TESTS: &str = "sluice-tests/kernel";

/// What to test.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Options {
    /// Few random cases in each property test: for the work in between, not before a commit
    #[arg(long)]
    quick: bool,
    /// The long forms as well: a thousand changes of policy under traffic, millions of packets in kernel and engine, and each
    /// fuzz target for a minute
    #[arg(long, conflicts_with = "quick")]
    long: bool,
    /// Only the tests whose path contains this
    #[arg(value_name = "NAME-FILTER")]
    filter: Option<String>,
}

/// Builds and runs them.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    root::authorise("the tests make network namespaces and load BPF programs")?;
    let image::Made { image, agent } = image::for_tests(workspace)?;
    let helm = setup::ensure_helm(workspace)?;
    let mut command = workspace.cargo();
    command
        .args(["test", "--no-fail-fast", "--features", KERNEL_TESTS])
        .args(options.filter.as_slice())
        .env(OBJECT_VARIABLE, workspace.bpf_object())
        .env("SLUICE_AGENT", agent)
        .env("SLUICE_HELM", helm)
        .env("SLUICE_IMAGE", image);
    if options.quick {
        command.env("PROPTEST_CASES", "16").env("SLUICE_TEST_QUICK", "1");
    }
    if options.long {
        command.env("SLUICE_TEST_LONG", "1");
    }
    root::run_tests_as_root(&mut command);
    step::stream("testing", &mut command)?;
    if options.long && options.filter.is_none() {
        fuzz::run(workspace, &fuzz::Options::all())?;
    }
    Ok(())
}
