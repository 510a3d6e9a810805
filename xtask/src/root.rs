//! What only root may do: network namespaces, BPF, packages. A user's build stays the user's, only the rest goes
//! through sudo.

use std::env;
use std::ffi::OsString;
use std::io::{IsTerminal as _, stdin};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::step;
use crate::workspace::{search_path, which};

/// Whether this process may do what only root may; the owner of its /proc entry is its effective user.
pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// Whether sudo works without anybody there to type a password.
pub(crate) fn sudo_asks_nothing() -> bool {
    step::output(Command::new("sudo").args(["-n", "true"])).is_some()
}

/// Makes sure that sudo will work, or says why not. Asked before long builds: whoever must type a password shouldn't
/// find the question after them.
pub(crate) fn authorise(why: &str) -> Result<()> {
    if is_root() {
        return Ok(());
    }
    if which("sudo").is_none() {
        bail!("{why}, which needs root, and there is no sudo: run this as root");
    }
    let mut sudo = Command::new("sudo");
    if !stdin().is_terminal() {
        sudo.arg("-n");
    }
    let status = sudo.arg("-v").stdin(Stdio::inherit()).status().context("can't start sudo")?;
    if !status.success() {
        bail!("{why}, which needs root: run this as root, or with sudo's password at hand");
    }
    Ok(())
}

/// Becomes this program with other arguments, run by sudo. It replaces the process, so that Ctrl-C reaches what cleans
/// up and the shell waits for it.
pub(crate) fn become_root(arguments: &[&str]) -> Result<()> {
    let program = env::current_exe().context("can't find this program")?;
    let mut path = OsString::from("PATH=");
    path.push(search_path());
    let error = Command::new("sudo").args(["-E", "env"]).arg(path).arg(program).args(arguments).exec();
    Err(error).context("can't start sudo")
}

/// Makes cargo run each test binary through sudo, for who isn't root.
pub(crate) fn run_tests_as_root(cargo: &mut Command) {
    if !is_root() {
        cargo.env(runner_variable(), "sudo -E");
    }
}

/// cargo's variable for a command that runs the host's test binaries.
fn runner_variable() -> String {
    let libc = if cfg!(target_env = "musl") { "musl" } else { "gnu" };
    format!("CARGO_TARGET_{}_UNKNOWN_LINUX_{libc}_RUNNER", env::consts::ARCH).to_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(all(target_arch = "x86_64", target_env = "gnu"))]
    fn cargo_reads_the_runner_under_this_name() {
        assert_eq!(runner_variable(), "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER");
    }
}
