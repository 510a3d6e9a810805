//! Dying at one exact system call: strace delivers SIGKILL when a process is about to make it for the n-th time, and the
//! kernel doesn't make it any more.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sluice_netns::{Agent, Netns, Process};
use sluice_tests::agent_world::eventually;
use tempfile::TempDir;

/// What changes the kernel's tables, programs and links.
pub(crate) const BPF: &str = "bpf";
/// What changes pins.
pub(crate) const PINS: &str = "?unlink,?unlinkat,?rename,?renameat,?renameat2,?mkdir,?mkdirat,?rmdir";

const PATIENCE: Duration = Duration::from_secs(20);

/// A folder for what is traced.
#[derive(Debug)]
pub(crate) struct Trace(TempDir);

impl Trace {
    pub(crate) fn new() -> Result<Self> {
        let found = Command::new("strace").arg("-V").stdout(Stdio::null()).status();
        ensure!(
            found.is_ok_and(|status| status.success()),
            "there is no strace: `cargo xtask setup` installs it (nothing is skipped without it)"
        );
        Ok(Self(tempfile::Builder::new().prefix("sluice-strace-").tempdir()?))
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("calls")
    }

    fn arguments(&self, calls: &str, kill_at: Option<usize>) -> Vec<String> {
        let mut all = vec!["-f".to_owned(), "-o".to_owned(), self.file().display().to_string()];
        all.extend(["-e".to_owned(), format!("trace={calls}")]);
        if let Some(n) = kill_at {
            all.extend(["-e".to_owned(), format!("inject={calls}:signal=SIGKILL:when={n}")]);
        }
        all
    }

    /// What stands in front of a program so that it dies at its n-th call, or is only watched.
    pub(crate) fn wrapper(&self, calls: &str, kill_at: Option<usize>) -> Vec<String> {
        let mut all = vec!["strace".to_owned(), "-D".to_owned()];
        all.extend(self.arguments(calls, kill_at));
        all
    }

    /// The same for an agent that runs. Dropping what is returned ends it.
    pub(crate) fn attach(&self, agent: &Agent, ns: &Netns, calls: &str, kill_at: Option<usize>) -> Result<Tracer> {
        let mut command = Command::new("strace");
        command.args(self.arguments(calls, kill_at)).arg("-p").arg(agent.id().to_string());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let tracer = Tracer(Process::spawn(ns, &mut command)?);
        let tasks = format!("/proc/{}/task", agent.id());
        eventually(PATIENCE, || {
            for task in fs::read_dir(&tasks).with_context(|| tasks.clone())? {
                // A thread that ended meanwhile needs no tracer.
                let status = fs::read_to_string(task?.path().join("status")).unwrap_or_default();
                if status.contains("TracerPid:\t0") {
                    return Ok(Some("strace has not attached itself: is ptrace allowed here?".to_owned()));
                }
            }
            Ok(None)
        })?;
        Ok(tracer)
    }

    /// How many calls were made; where several were watched, of the one that was made most.
    pub(crate) fn calls(&self) -> Result<usize> {
        let text = fs::read_to_string(self.file()).context("what strace wrote")?;
        let mut counts = std::collections::BTreeMap::<&str, usize>::new();
        for line in text.lines() {
            let call = line.split_whitespace().nth(1).and_then(|word| word.split_once('('));
            if let Some((name, _)) = call {
                *counts.entry(name).or_default() += 1;
            }
        }
        Ok(counts.into_values().max().unwrap_or(0))
    }
}

#[derive(Debug)]
pub(crate) struct Tracer(Process);

impl Drop for Tracer {
    fn drop(&mut self) {
        // In order: it lets the agent go as it was.
        if let Err(error) = self.0.stop(Duration::from_secs(5)) {
            eprintln!("stopping strace: {error:#}");
        }
    }
}

/// Waits for the end of an agent that is to die at its n-th call, or until it has made fewer: whether it died.
pub(crate) fn died(agent: &mut Agent, mut is_done: impl FnMut() -> bool) -> Result<bool> {
    let mut dead = false;
    eventually(PATIENCE, || {
        dead = agent.exit_status()?.is_some();
        Ok((!dead && !is_done()).then(|| format!("neither dead nor done:\n{}", agent.log())))
    })?;
    Ok(dead)
}

/// `count` numbers out of `1..=last`, with the first and the last.
pub(crate) fn spread(last: usize, count: usize) -> Vec<usize> {
    let count = count.min(last);
    let mut all: Vec<usize> =
        (0..count).map(|n| 1 + n * last.saturating_sub(1) / count.saturating_sub(1).max(1)).collect();
    all.dedup();
    all
}
