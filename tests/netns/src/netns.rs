//! Named network namespaces: making, entering and removing them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::sync::Arc;
use std::{panic, thread};

use anyhow::{Context as _, Result, bail};

use crate::{ip, sys};

const DIRECTORY: &str = "/var/run/netns";

/// A handle on a named network namespace. It doesn't own it: the [`World`](crate::World) removes what it made.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Netns {
    name: Arc<str>,
}

impl Netns {
    /// The namespace that `ip netns` calls `name`.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self { name: name.into() }
    }

    /// Its name, as in `ip netns list`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is mounted, for `nsenter --net=PATH`.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&*self.name)
    }

    /// Runs `work` on a thread of its own inside the namespace.
    ///
    /// A socket belongs to the namespace that it was made in, whichever thread uses it later: `work` may return it.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let file = File::open(self.path())
            .with_context(|| format!("cannot open network namespace {}", self.name))?;
        let inside = || -> Result<T> {
            sys::enter_network(&file)
                .with_context(|| format!("cannot enter network namespace {}", self.name))?;
            Ok(work())
        };
        // The thread ends with the closure: one that has moved to a namespace is of no use for anything else.
        thread::scope(|scope| scope.spawn(inside).join())
            .unwrap_or_else(|payload| panic::resume_unwind(payload))
    }

    /// Starts a program inside the namespace.
    pub fn spawn(&self, command: &mut Command) -> Result<Child> {
        let program = command.get_program().to_string_lossy().into_owned();
        self.run(|| command.spawn())?.with_context(|| format!("cannot run {program} in {}", self.name))
    }

    /// Runs a program inside the namespace to its end.
    pub fn output(&self, command: &mut Command) -> Result<Output> {
        let program = command.get_program().to_string_lossy().into_owned();
        self.run(|| command.output())?.with_context(|| format!("cannot run {program} in {}", self.name))
    }

    /// Sets kernel parameters of the namespace, by their path under `/proc/sys`.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            for (name, value) in settings {
                // /proc/sys/net shows the namespace of the thread that opens a file in it.
                fs::write(Path::new("/proc/sys").join(name), value)
                    .with_context(|| format!("setting {name} to {value} in {}", self.name))?;
            }
            Ok(())
        })?
    }
}

/// Makes the namespaces.
pub(crate) fn create(namespaces: &[Netns]) -> Result<()> {
    ip::ip_here(&lines("netns add", namespaces))
}

/// Removes the namespaces; those that are gone already are no error.
pub(crate) fn remove(namespaces: &[Netns]) -> Result<()> {
    let present: Vec<Netns> = namespaces.iter().filter(|ns| ns.path().exists()).cloned().collect();
    if present.is_empty() {
        return Ok(());
    }
    let result = ip::ip_here_all(&lines("netns del", &present));
    // Another process may sweep the same leftovers: only what remains matters.
    if present.iter().any(|ns| ns.path().exists()) { result } else { Ok(()) }
}

fn lines(command: &str, namespaces: &[Netns]) -> String {
    namespaces.iter().map(|ns| format!("{command} {}\n", ns.name())).collect()
}

/// The namespaces on this machine that have a name.
pub(crate) fn list() -> Result<Vec<Netns>> {
    let entries = match fs::read_dir(DIRECTORY) {
        Ok(entries) => entries,
        // `ip netns add` makes the directory at its first use.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).context(format!("reading {DIRECTORY}")),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.context(format!("reading {DIRECTORY}"))?;
        if let Some(name) = entry.file_name().to_str() {
            found.push(Netns::named(name));
        }
    }
    Ok(found)
}

/// The processes that run inside a namespace.
pub(crate) fn processes(ns: &Netns) -> Result<Vec<u32>> {
    let output = Command::new("ip").args(["netns", "pids", ns.name()]).output().context("cannot run `ip`")?;
    if !output.status.success() {
        bail!("ip netns pids {}: {}", ns.name(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(|line| line.trim().parse().ok()).collect())
}
