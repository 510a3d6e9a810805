//! Making an ordinary Linux out of an initramfs: mounts, modules, the loopback interface.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};

/// Filesystem, place, options.
const MOUNTS: &[(&str, &str, &str)] = &[
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("devtmpfs", "/dev", ""),
    ("devpts", "/dev/pts", ""),
    ("tmpfs", "/dev/shm", ""),
    ("tmpfs", "/tmp", "mode=1777"),
    ("tmpfs", "/run", "mode=755"),
    ("bpf", "/sys/fs/bpf", "mode=700"),
    ("cgroup2", "/sys/fs/cgroup", ""),
];

/// Mounts what every program may expect.
pub(crate) fn mount_all() -> Result<()> {
    for (kind, place, options) in MOUNTS {
        fs::create_dir_all(place).with_context(|| format!("can't make {place}"))?;
        mount(Some(*kind), *place, Some(*kind), MsFlags::empty(), Some(*options))
            .with_context(|| format!("can't mount {kind} on {place}"))?;
    }
    fs::create_dir_all("/var").context("can't make /var")?;
    symlink("/run", "/var/run").context("can't make /var/run")?;
    symlink("/proc/self/fd", "/dev/fd").context("can't make /dev/fd")?;
    Ok(())
}

/// Loads the modules in their order.
pub(crate) fn load_modules(modules: &[String]) -> Result<()> {
    for module in modules {
        let file = File::open(module).with_context(|| format!("can't open {module}"))?;
        finit_module(file, c"", ModuleInitFlags::empty())
            .with_context(|| format!("the kernel refuses {module}"))?;
    }
    Ok(())
}

/// What a distribution's start does and tests take for granted.
pub(crate) fn settle() -> Result<()> {
    fs::write("/proc/sys/kernel/hostname", "guest").context("can't set the host's name")?;
    // A small machine's share would be 65,536: kube-proxy never sets less than this, and a test fills it.
    fs::write("/proc/sys/net/netfilter/nf_conntrack_max", "262144").context("can't set nf_conntrack_max")?;
    let status =
        Command::new("/usr/sbin/ip").args(["link", "set", "lo", "up"]).status().context("can't run ip")?;
    ensure!(status.success(), "`ip link set lo up`: {status}");
    Ok(())
}

pub(crate) fn release() -> Result<String> {
    let release =
        fs::read_to_string("/proc/sys/kernel/osrelease").context("can't read the kernel's release")?;
    Ok(release.trim().to_owned())
}

/// Milliseconds since the kernel began.
pub(crate) fn uptime() -> Result<u64> {
    let text = fs::read_to_string("/proc/uptime").context("can't read /proc/uptime")?;
    let seconds = text.split_whitespace().next().context("/proc/uptime is empty")?;
    let (whole, hundredths) = seconds.split_once('.').context("/proc/uptime is no number")?;
    Ok(whole.parse::<u64>()? * 1000 + hundredths.parse::<u64>()? * 10)
}
