//! `cargo xtask lint`: formatting, clippy, what is allowed into the dependency tree, and the chart.

use std::process::Command;

use anyhow::{Result, anyhow, bail};

use crate::bpf_build;
use crate::bpf_toolchain::Candidate;
use crate::chart;
use crate::setup::{self, Scope};
use crate::step;
use crate::test::KERNEL_TESTS;
use crate::workspace::Workspace;

/// Runs every check, also after one failed, and fails at the end with all of their complaints.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let rustc = setup::ensure(workspace, Scope::LINT)?;
    setup::offer_clippy(workspace, &rustc);
    let faults: Vec<String> = [
        format(workspace),
        clippy(workspace),
        bpf_lint(workspace, &rustc),
        deny(workspace),
        advisories(workspace),
        chart::check(workspace),
    ]
    .into_iter()
    .filter_map(|outcome| Some(format!("{:#}", outcome.err()?)))
    .collect();
    match faults.len() {
        0 => Ok(()),
        1 => Err(anyhow!(faults.join(""))),
        number => bail!("{number} checks failed:\n\n{}", faults.join("\n\n")),
    }
}

fn format(workspace: &Workspace) -> Result<()> {
    quiet(workspace, "checking the format", "fmt", workspace.cargo().args(["fmt", "--all", "--check"]))
}

fn clippy(workspace: &Workspace) -> Result<()> {
    let mut command = workspace.cargo();
    command.args([
        "clippy",
        "--all-targets",
        "--features",
        KERNEL_TESTS,
        "--keep-going",
        "--",
        "-D",
        "warnings",
    ]);
    quiet(workspace, "clippy", "clippy", &mut command)
}

/// The same lints for the code that only compiles for BPF, by the clippy of the compiler that builds it.
fn bpf_lint(workspace: &Workspace, rustc: &Candidate) -> Result<()> {
    let mut command = bpf_build::cargo_for_bpf(workspace, rustc, "check", &["-Dwarnings"]);
    let Some(driver) = rustc.sibling("clippy-driver") else {
        step::warn(&format!(
            "{} has no clippy beside it: the BPF program is only checked for warnings",
            rustc.rustc.display()
        ));
        return quiet(workspace, "checking the BPF program", "bpf-lint", &mut command);
    };
    // cargo-clippy itself would take the clippy-driver of whichever toolchain it lies in.
    command.env("RUSTC_WORKSPACE_WRAPPER", driver);
    quiet(workspace, "clippy for the BPF program", "bpf-lint", &mut command)
}

fn deny(workspace: &Workspace) -> Result<()> {
    let mut command = workspace.cargo();
    command.args(["deny", "--color", "never", "check", "bans", "licenses", "sources"]);
    quiet(workspace, "checking dependencies: bans, licences, sources", "deny", &mut command)
}

/// Known vulnerabilities, where their database can be fetched: a machine without that network is no fault of the code.
fn advisories(workspace: &Workspace) -> Result<()> {
    let mut fetch = workspace.cargo();
    fetch.args(["deny", "--color", "never", "fetch", "db"]);
    let log = workspace.logs().join("deny-fetch.log");
    let fetching = step::Step::start("fetching the advisory database");
    let fetched = step::run_logged(&log, &mut fetch);
    fetching.end(if fetched.is_ok() { "" } else { " unreachable" });
    if fetched.is_err() {
        step::warn(&format!(
            "the advisory database can't be reached from here: advisories are NOT checked ({})",
            log.display()
        ));
        return Ok(());
    }
    let mut command = workspace.cargo();
    command.args(["deny", "--color", "never", "check", "--disable-fetch", "advisories"]);
    quiet(workspace, "checking dependencies: advisories", "deny-advisories", &mut command)
}

fn quiet(workspace: &Workspace, title: &str, log: &str, command: &mut Command) -> Result<()> {
    step::run(title, &workspace.logs(), log, command)
}
