//! What worlds of killed processes leave behind.

use std::path::Path;
use std::{fs, io};

use anyhow::{Context as _, Result};

use crate::{netns, sys};

/// Where nodes have their directories for pins.
pub(crate) const BPFFS: &str = "/sys/fs/bpf";

/// Removes processes, namespaces and pins under names that begin with `prefix` and carry the id of a process that is no more.
pub(crate) fn sweep(prefix: &str) -> Result<()> {
    let mut dead = Vec::new();
    for ns in netns::list()? {
        if is_leftover(ns.name(), prefix) {
            for pid in netns::processes(&ns)? {
                // It may have ended since; what matters is that the namespace can go.
                let _ = sys::send_signal(pid, libc::SIGKILL);
            }
            dead.push(ns);
        }
    }
    netns::remove(&dead).context("removing the namespaces of a dead process")?;
    let Ok(pins) = fs::read_dir(BPFFS) else { return Ok(()) };
    for entry in pins.flatten() {
        if entry.file_name().to_str().is_some_and(|name| is_leftover(name, prefix)) {
            remove_pins(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes a directory of pins; one that is gone already is no error.
pub(crate) fn remove_pins(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", directory.display()))
        }
        _ => Ok(()),
    }
}

/// Whether `name` is `PREFIX-PID-...` of a process that is no more.
fn is_leftover(name: &str, prefix: &str) -> bool {
    let pid = name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('-')).and_then(|rest| {
        let (pid, _) = rest.split_once('-')?;
        pid.parse::<u32>().ok()
    });
    pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
}

#[cfg(test)]
mod tests {
    use super::is_leftover;

    #[test]
    fn only_names_of_dead_processes_are_leftovers() {
        let own = std::process::id();
        // Above the kernel's largest possible pid_max.
        let dead = 1 << 30;
        assert!(is_leftover(&format!("sl-{dead}-0-node1"), "sl"));
        assert!(!is_leftover(&format!("sl-{own}-0-node1"), "sl"));
        assert!(!is_leftover(&format!("slx-{dead}-0-node1"), "sl"));
        assert!(!is_leftover(&format!("sl-{dead}"), "sl"));
        assert!(!is_leftover("sl-web-0-node1", "sl"));
        assert!(!is_leftover("cni-1234", "sl"));
    }
}
