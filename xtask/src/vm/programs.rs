//! Building what goes into the guests: the test programs as `cargo xtask test` builds them, and the first process.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::suites::Suite;
use crate::agent_build::OBJECT_VARIABLE;
use crate::step;
use crate::test::KERNEL_TESTS;
use crate::workspace::Workspace;

const GUEST: &str = "sluice-guest";

/// The test programs by the names of their targets.
pub(crate) fn suites(workspace: &Workspace, suites: &[&Suite]) -> Result<BTreeMap<String, PathBuf>> {
    let step = step::Step::start("building the suites for the kernel matrix");
    let mut command = workspace.cargo();
    // With the features of `cargo xtask test`, so that one build serves both.
    command
        .args(["test", "--no-run", "--features", KERNEL_TESTS, "--message-format", "json-render-diagnostics"])
        .env(OBJECT_VARIABLE, workspace.bpf_object());
    for suite in suites {
        command.args(["--test", suite.target]);
    }
    let output = command.stdin(Stdio::null()).output().context("can't run cargo")?;
    step.end(if output.status.success() { "" } else { " failed" });
    ensure!(
        output.status.success(),
        "the suites can't be built:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let found = executables(&String::from_utf8_lossy(&output.stdout));
    for suite in suites {
        ensure!(found.contains_key(suite.target), "cargo has built no test program {}", suite.target);
    }
    Ok(found)
}

/// The test programs in cargo's messages.
fn executables(messages: &str) -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    for message in messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let is_test =
            message["target"]["kind"].as_array().is_some_and(|kinds| kinds.iter().any(|kind| kind == "test"));
        if let (true, Some(name), Some(path)) =
            (is_test, message["target"]["name"].as_str(), message["executable"].as_str())
        {
            found.insert(name.to_owned(), path.into());
        }
    }
    found
}

/// The guest's first process: static, since nothing may be missing where nobody can say so.
pub(crate) fn guest(workspace: &Workspace) -> Result<PathBuf> {
    let mut command = workspace.cargo();
    command
        .args(["rustc", "--package", GUEST, "--bin", GUEST, "--", "-C", "target-feature=+crt-static"])
        .args(["-C", "strip=symbols"]);
    step::run("building the guests' first process", &workspace.logs(), "guest-build", &mut command)?;
    let kept = workspace.vm_dir().join(GUEST);
    // Copied: the next build of the workspace takes the place that cargo gives it.
    fs::copy(workspace.debug_program(GUEST), &kept)
        .with_context(|| format!("can't write {}", kept.display()))?;
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_are_found_in_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","target":{"kind":["test"],"name":"kernel"},"executable":"/t/kernel-1"}
{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"kernel"},"executable":"/t/kernel-2"}
{"reason":"compiler-artifact","target":{"kind":["test"],"name":"x"},"executable":null}
{"reason":"build-finished","success":true}"#;
        let found = executables(messages);
        assert_eq!(found.len(), 1);
        assert_eq!(found["kernel"], PathBuf::from("/t/kernel-1"));
    }
}
