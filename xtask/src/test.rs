//! `cargo xtask test`: every test of the workspace, those that need the kernel included, and the kernel matrix.

use anyhow::Result;

use crate::agent_build::OBJECT_VARIABLE;
use crate::fuzz;
use crate::image;
use crate::root;
use crate::setup;
use crate::step;
use crate::vm::{self, Release};
use crate::workspace::Workspace;

/// The feature that the tests need which load programs and run the agent.
pub(crate) const KERNEL_TESTS: &str = "sluice-tests/kernel";

/// What to test.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Options {
    /// Few random cases in each property test, and no kernel matrix: for the work in between, not before a commit
    #[arg(long)]
    quick: bool,
    /// The long forms as well: a thousand changes of policy under traffic, millions of packets in kernel and engine, each
    /// fuzz target for a minute, and all suites on all kernels
    #[arg(long, conflicts_with = "quick")]
    long: bool,
    /// Only the kernel matrix: all suites on this kernel of Debian's, in a virtual machine; any number of times
    ///
    /// Needs no root. Kernels are fetched once, to target/kernels; delete a folder there to have a newer one.
    #[arg(long, visible_alias = "kernels", value_enum, value_name = "KERNEL", conflicts_with_all = ["quick", "long"])]
    kernel: Vec<Choice>,
    /// Without the kernel matrix
    #[arg(long, conflicts_with = "kernel")]
    no_kernels: bool,
    /// How the matrix is printed
    #[arg(long, value_enum, default_value = "table", requires = "kernel")]
    output: Output,
    /// Agent and object are built already
    #[arg(long, hide = true, requires = "kernel")]
    built: bool,
    /// Only the tests whose path contains this; with --kernel, only the suites whose name does
    #[arg(value_name = "NAME-FILTER")]
    filter: Option<String>,
}

/// A kernel of the matrix, or all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    One(Release),
    All,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum Output {
    #[default]
    Table,
    Json,
}

impl clap::ValueEnum for Choice {
    fn value_variants<'a>() -> &'a [Self] {
        &[
            Self::One(Release::V5_10),
            Self::One(Release::V6_1),
            Self::One(Release::V6_12),
            Self::One(Release::V7),
            Self::All,
        ]
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        match self {
            Self::One(release) => release.to_possible_value(),
            Self::All => Some(clap::builder::PossibleValue::new("all").help("Every kernel of the matrix")),
        }
    }
}

/// Builds and runs them.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    if !options.kernel.is_empty() {
        return matrix(workspace, options);
    }
    root::authorise("the tests make network namespaces and load BPF programs")?;
    let with_kernels = !options.quick && !options.no_kernels && options.filter.is_none();
    if with_kernels {
        // What can't be had is better known before the tests than after them.
        vm::fetch(workspace, if options.long { &Release::ALL } else { &Release::ENDS })?;
    }
    let image::Made { image, agent, next } = image::for_tests(workspace)?;
    let helm = setup::ensure_helm(workspace)?;
    let mut command = workspace.cargo();
    command
        .args(["nextest", "run", "--features", KERNEL_TESTS])
        .args(["--profile", if options.long { "long" } else { "default" }])
        .args(options.filter.as_slice())
        .env(OBJECT_VARIABLE, workspace.bpf_object())
        .env("SLUICE_AGENT", &agent)
        .env("SLUICE_AGENT_NEXT", next)
        .env("SLUICE_HELM", helm)
        .env("SLUICE_IMAGE", image);
    if options.quick {
        command.env("PROPTEST_CASES", "16").env("SLUICE_TEST_QUICK", "1");
    }
    if options.long {
        command.env("SLUICE_TEST_LONG", "1");
    }
    root::run_tests_as_root(&mut command);
    let here = step::stream("testing", &mut command);
    // A failure here says nothing about other kernels: both results in one run.
    let elsewhere = if with_kernels {
        let kernels: &[Release] = if options.long { &Release::ALL } else { &Release::ENDS };
        let request =
            vm::Request { kernels, telling: !options.long, filter: None, json: false, agent: &agent };
        vm::run(workspace, &request)
    } else {
        Ok(())
    };
    here?;
    elsewhere?;
    if options.long && options.filter.is_none() {
        fuzz::run(workspace, &fuzz::Options::all())?;
    }
    Ok(())
}

/// The kernel matrix alone.
fn matrix(workspace: &Workspace, options: &Options) -> Result<()> {
    let mut kernels: Vec<Release> = Vec::new();
    for choice in &options.kernel {
        match choice {
            Choice::One(release) => kernels.push(*release),
            Choice::All => kernels.extend(Release::ALL),
        }
    }
    kernels.sort_unstable();
    kernels.dedup();
    vm::fetch(workspace, &kernels)?;
    let agent =
        if options.built { image::agent_for_tests(workspace)? } else { image::for_tests(workspace)?.agent };
    let request = vm::Request {
        kernels: &kernels,
        telling: false,
        filter: options.filter.as_deref(),
        json: options.output == Output::Json,
        agent: &agent,
    };
    vm::run(workspace, &request)
}
