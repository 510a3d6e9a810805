//! The memory of this node, and what the agent's container may take of it.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::plan::Memory;

/// Reads it as this process sees it.
pub(super) fn read() -> anyhow::Result<Memory> {
    let path = "/proc/meminfo";
    let text = std::fs::read_to_string(path).with_context(|| path.to_owned())?;
    let node = total(&text).with_context(|| format!("{path} has no MemTotal"))?;
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    Ok(Memory { node, container: least(limits(&own, Path::new("/sys/fs/cgroup"))) })
}

fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// What the cgroups around this process are limited to. In a container with a cgroup namespace of its own, the limit is at
/// the root of what it sees; without one, the path of /proc/self/cgroup leads to it where the runtime mounted all of it.
fn limits(own: &str, root: &Path) -> Vec<u64> {
    let mut found = Vec::new();
    for line in own.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let (top, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let mut folder = Some(Path::new(path.trim_start_matches('/')));
        while let Some(at) = folder {
            found.extend(limit(top.join(at).join(file)));
            folder = at.parent();
        }
    }
    found
}

/// `max`, and the huge numbers that version 1 has for it, are none.
fn limit(path: PathBuf) -> Option<u64> {
    let limit: u64 = std::fs::read_to_string(path).ok()?.trim().parse().ok()?;
    (limit < 1 << 60).then_some(limit)
}

fn least(limits: Vec<u64>) -> Option<u64> {
    limits.into_iter().min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_of_a_node() {
        assert_eq!(total("MemTotal:       24683520 kB\nMemFree: 1 kB\n"), Some(24_683_520 << 10));
        for bad in ["", "MemFree: 1 kB", "MemTotal: x kB", "MemTotal: 5 MB"] {
            assert_eq!(total(bad), None, "{bad}");
        }
        assert!(read().unwrap().node > 0);
    }

    #[test]
    fn the_least_limit_of_the_cgroups_around_counts() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("kubepods/pod1/memory.max", "536870912\n");
        write("kubepods/pod1/agent/memory.max", "max\n");
        write("kubepods/memory.max", "8589934592\n");
        let of = |own: &str| least(limits(own, folder.path()));
        assert_eq!(of("0::/kubepods/pod1/agent\n"), Some(512 << 20));
        assert_eq!(of("0::/\n"), None);
        write("memory.max", "268435456\n");
        assert_eq!(of("0::/\n"), Some(256 << 20));
        write("memory/a/memory.limit_in_bytes", "134217728\n");
        write("memory/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(of("8:memory:/a\n1:name=systemd:/\n"), Some(128 << 20));
        assert_eq!(of("8:cpu,memory:/b\n"), None);
        assert_eq!(of(""), None);
    }
}
