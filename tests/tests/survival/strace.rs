//! Dying at one exact system call: strace delivers SIGKILL when a process is about to make it for the n-th time, and the
//! kernel doesn't make it any more.

use std::collections::BTreeMap;
use std::fmt;
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

/// What changes nothing and is not worth to die over.
const READING: [&str; 8] = [
    "BPF_MAP_LOOKUP_ELEM",
    "BPF_MAP_GET_NEXT_KEY",
    "BPF_OBJ_GET_INFO_BY_FD",
    "BPF_OBJ_GET",
    "BPF_PROG_QUERY",
    "BPF_PROG_TEST_RUN",
    "BPF_BTF_LOAD",
    "BPF_MAP_LOOKUP_BATCH",
];
/// strace counts no further.
const LARGEST: usize = 65_535;

/// What changes filters, beside much that changes nothing.
pub(crate) const NETLINK: &str = "sendto,sendmsg";

/// With every call stopped twice, on a machine however busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

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
    pub(crate) fn attach(
        &self,
        agent: &Agent,
        ns: &Netns,
        calls: &str,
        kill_at: Option<usize>,
    ) -> Result<Tracer> {
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

    /// The calls that were made.
    pub(crate) fn calls(&self) -> Result<Calls> {
        let text = fs::read_to_string(self.file()).context("strace wrote nothing: it must have failed")?;
        // Each thread's calls have numbers of their own; the agent has one that writes.
        let mut threads = BTreeMap::<&str, Vec<(&str, &str)>>::new();
        for line in text.lines() {
            let Some((thread, call)) = line.split_once(' ') else { continue };
            if let Some((name, arguments)) = call.trim_start().split_once('(') {
                threads.entry(thread).or_default().push((name, arguments));
            }
        }
        let all = threads.into_values().max_by_key(Vec::len).unwrap_or_default();
        let mut numbers = BTreeMap::<&str, usize>::new();
        let mut calls = Calls::default();
        for (name, arguments) in all {
            let number = numbers.entry(name).or_default();
            *number += 1;
            let command = arguments.split([',', ')']).next().unwrap_or_default();
            let what = if name == BPF { command } else { name };
            if *number <= LARGEST && !READING.contains(&what) {
                calls.0.entry(what.to_owned()).or_default().push(*number);
            }
        }
        Ok(calls)
    }
}

/// Calls that change something, by what they do: at which number of its system call each was.
#[derive(Debug, Default)]
pub(crate) struct Calls(BTreeMap<String, Vec<usize>>);

impl Calls {
    /// Up to `each` of every kind, the first and the last among them, in their order.
    pub(crate) fn sample(&self, each: usize) -> Vec<usize> {
        let some = |numbers: &Vec<usize>| {
            let at = spread(numbers.len(), each).into_iter();
            at.filter_map(|n| numbers.get(n - 1).copied()).collect::<Vec<_>>()
        };
        let mut all: Vec<usize> = self.0.values().flat_map(some).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

impl fmt::Display for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = self.0.iter().map(|(what, numbers)| format!("{} {what}", numbers.len()));
        f.write_str(&kinds.collect::<Vec<_>>().join(", "))
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

/// `count` numbers out of `1..=last`: the first, the last and some between; a single one is from the middle.
fn spread(last: usize, count: usize) -> Vec<usize> {
    match count.min(last) {
        0 => Vec::new(),
        1 => vec![last.div_ceil(2)],
        count => (0..count).map(|n| 1 + n * (last - 1) / (count - 1)).collect(),
    }
}
