//! Giving rules to the program that loads them.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use sluice_netns::Netns;

/// Runs a program with `rules` as its input; an error shows the rules with their lines' numbers.
pub(crate) fn feed(ns: &Netns, program: &str, arguments: &[&str], rules: &str) -> Result<()> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = ns.spawn(&mut command)?;
    let mut input = child.stdin.take().context("its input")?;
    let written = input.write_all(rules.as_bytes());
    drop(input);
    let output = child.wait_with_output().with_context(|| format!("waiting for {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let numbered = || rules.lines().zip(1..).map(|(line, n)| format!("{n:4} {line}\n")).collect::<String>();
    ensure!(output.status.success(), "{program} in {}: {}\n{}", ns.name(), said.trim(), numbered());
    written.with_context(|| format!("writing to {program}"))
}
