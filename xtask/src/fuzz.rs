//! `cargo xtask fuzz`: libFuzzer on the targets of `tests/fuzz`.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::agent_build::OBJECT_VARIABLE;
use crate::setup;
use crate::step;
use crate::workspace::Workspace;

const TARGETS: [&str; 3] = ["frame", "policy", "sequence"];

/// A file of manifests, or 64 packets. Inputs need not be short at first: one packet is no sequence.
const LONGEST: &str = "-max_len=2048";

/// What to run.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// One target, instead of all
    #[arg(value_parser = TARGETS)]
    target: Option<String>,
    /// How long each target runs
    #[arg(long, default_value_t = 60, value_name = "N")]
    seconds: u64,
    /// Add what was found to the inputs that the tests replay: those that reach more than the present ones
    #[arg(long)]
    keep: bool,
}

impl Options {
    /// Every target, a minute each.
    pub(crate) const fn all() -> Self {
        Self { target: None, seconds: 60, keep: false }
    }
}

/// Builds and runs them, one after the other.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    setup::ensure_fuzzing(workspace)?;
    without_object(workspace)?;
    let targets =
        TARGETS.iter().filter(|target| options.target.as_deref().is_none_or(|only| only == **target));
    for target in targets {
        fuzz(workspace, target, options)?;
    }
    Ok(())
}

/// The agent inside the targets needs no BPF program. Its build script runs again, and the compiler after it, whenever the file
/// that it looks for isn't there: an empty one tells it that there is none.
fn without_object(workspace: &Workspace) -> Result<()> {
    let (folder, file) = (workspace.fuzz_build_dir(), no_object(workspace));
    fs::create_dir_all(&folder).with_context(|| format!("can't create {}", folder.display()))?;
    if !file.exists() {
        File::create(&file).with_context(|| format!("can't create {}", file.display()))?;
    }
    Ok(())
}

fn no_object(workspace: &Workspace) -> PathBuf {
    workspace.fuzz_build_dir().join("no-object")
}

fn fuzz(workspace: &Workspace, target: &str, options: &Options) -> Result<()> {
    let (findings, corpus) = (workspace.fuzz_findings(target), workspace.fuzz_corpus(target));
    fs::create_dir_all(&findings).with_context(|| format!("can't create {}", findings.display()))?;
    // New inputs go to the first folder.
    let mut command = cargo_fuzz(workspace, target);
    command
        .args([&findings, &corpus])
        .args(["--", LONGEST, "-len_control=0"])
        .arg(format!("-max_total_time={}", options.seconds));
    step::stream(&format!("fuzzing: {target}, {} s", options.seconds), &mut command).with_context(|| {
        format!(
            "the failing input is in tests/fuzz/artifacts/{target}: once in {}, the tests replay it",
            corpus.display()
        )
    })?;
    if options.keep {
        let mut command = cargo_fuzz(workspace, target);
        // By the code that they reach, not by how often: a few hundred small files, replayed in seconds.
        command.args([&corpus, &findings]).args(["--", "-set_cover_merge=1", "-use_counters=0"]);
        let title = format!("keeping what reaches more of {target}");
        step::run(&title, &workspace.logs(), &format!("fuzz-{target}-merge"), &mut command)?;
    }
    Ok(())
}

/// Without a sanitizer: there is no unsafe code to watch in what is fuzzed, and a stable compiler will do.
fn cargo_fuzz(workspace: &Workspace, target: &str) -> Command {
    let mut command = workspace.cargo();
    command
        .args(["fuzz", "run", "--fuzz-dir", "tests/fuzz", "--sanitizer", "none", "--target-dir"])
        .arg(workspace.fuzz_build_dir())
        .arg(target)
        .env(OBJECT_VARIABLE, no_object(workspace));
    command
}
