//! `ip` and `bridge` in batches: one process for a whole namespace's set-up.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::netns::Netns;

/// Runs the lines as `ip` commands inside `ns`; the first that fails ends it.
pub(crate) fn ip(ns: &Netns, lines: &str) -> Result<()> {
    batch(Command::new("ip").args(["-n", ns.name(), "-batch", "-"]), lines)
        .with_context(|| format!("in network namespace {}", ns.name()))
}

/// Runs the lines as `bridge` commands inside `ns`.
pub(crate) fn bridge(ns: &Netns, lines: &str) -> Result<()> {
    batch(Command::new("bridge").args(["-n", ns.name(), "-batch", "-"]), lines)
        .with_context(|| format!("in network namespace {}", ns.name()))
}

/// Runs the lines as `ip` commands outside of any namespace.
pub(crate) fn ip_here(lines: &str) -> Result<()> {
    batch(Command::new("ip").args(["-batch", "-"]), lines)
}

/// As [`ip_here`], going on after a line that fails.
pub(crate) fn ip_here_all(lines: &str) -> Result<()> {
    batch(Command::new("ip").args(["-force", "-batch", "-"]), lines)
}

fn batch(command: &mut Command, lines: &str) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        // A group of its own: an impatient second Ctrl-C must not end the command that cleans up.
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot run `{program}` (package iproute2)"))?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(lines.as_bytes()).with_context(|| format!("writing to `{program}`"))?;
    }
    let output = child.wait_with_output().with_context(|| format!("waiting for `{program}`"))?;
    if output.status.success() {
        return Ok(());
    }
    // "Command failed -:7" is the line's number, counted from 1.
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let culprit = message
        .rsplit_once("failed -:")
        .and_then(|(_, number)| number.trim().parse::<usize>().ok())
        .and_then(|number| lines.lines().nth(number.saturating_sub(1)))
        .unwrap_or(lines);
    bail!("`{program} {}`: {message}", culprit.trim());
}
