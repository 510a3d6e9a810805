//! One virtual machine, from its start to its end.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::kernel::Kernel;
use crate::workspace::Workspace;

pub(crate) const QEMU: &str = "qemu-system-x86_64";
/// The initramfs with all suites is a quarter of it.
const MEMORY: &str = "2048";
/// Two, so that tables with a part for each CPU have more than one.
const CPUS: &str = "2";
/// `oops=panic` ends a guest whose kernel is broken; `panic=-1` and QEMU's `-no-reboot` end a panic. The watchdogs measure
/// time, which an emulated machine on a busy one has too little of.
const COMMAND_LINE: &str = "console=ttyS0 quiet oops=panic panic=-1 no_timer_check nowatchdog \
                            rcupdate.rcu_cpu_stall_suppress=1 tsc=unstable";

/// How a machine's instructions are carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Acceleration {
    Hardware,
    Emulation,
}

impl Acceleration {
    pub(crate) fn of_this_machine() -> Self {
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let opens = fs::File::options().read(true).write(true).open("/dev/kvm").is_ok();
        Self::choose(&cpu, opens)
    }

    /// /dev/kvm alone proves nothing: it opens on machines that have no hardware behind it.
    fn choose(cpuinfo: &str, kvm_opens: bool) -> Self {
        let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
        let has_hardware = flags.split_whitespace().any(|flag| matches!(flag, "vmx" | "svm"));
        if has_hardware && kvm_opens { Self::Hardware } else { Self::Emulation }
    }

    /// QEMU 7.2's emulation corrupts the flags on cmpxchg16b, which Linux 6.12 uses: without it there are no oopses.
    const fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Hardware => ["-accel", "kvm", "-cpu", "host"],
            Self::Emulation => ["-accel", "tcg,thread=multi", "-cpu", "max,-cx16"],
        }
    }

    pub(crate) const fn describe(self) -> &'static str {
        match self {
            Self::Hardware => "hardware virtualisation",
            Self::Emulation => "software emulation",
        }
    }
}

/// What a machine left.
#[derive(Debug)]
pub(crate) struct Ended {
    /// What came out of the port that the guest reports on.
    pub(crate) port: String,
    pub(crate) console: String,
    pub(crate) how: How,
    pub(crate) took: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// QEMU has ended by itself.
    Exited { well: bool },
    /// It was ended after the time that it may take.
    TimedOut,
}

/// A machine that doesn't outlive what waits for it.
struct Qemu(Child);

impl Drop for Qemu {
    fn drop(&mut self) {
        // It may have ended already: then there is nothing to end.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Boots `kernel` with `initramfs` and waits for its end.
pub(crate) fn run(
    workspace: &Workspace,
    kernel: &Kernel,
    initramfs: &Path,
    acceleration: Acceleration,
    limit: Duration,
) -> Result<Ended> {
    let at = |name: &str| workspace.vm_dir().join(format!("{}.{name}", kernel.kind));
    let (console, port, complaints) = (at("console"), at("events"), at("qemu"));
    let mut command = Command::new(QEMU);
    command
        .args(acceleration.arguments())
        .args([
            "-m",
            MEMORY,
            "-smp",
            CPUS,
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ])
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .arg("-serial")
        .arg(format!("file:{}", port.display()))
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", COMMAND_LINE])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(
            fs::File::create(&complaints).with_context(|| format!("can't write {}", complaints.display()))?,
        );
    for file in [&console, &port] {
        // What an earlier run left must not be taken for this one's.
        fs::write(file, "").with_context(|| format!("can't write {}", file.display()))?;
    }
    let started = Instant::now();
    let mut qemu = Qemu(command.spawn().with_context(|| format!("can't run {QEMU}"))?);
    let how = match wait(&mut qemu.0, started + limit)? {
        Some(status) => How::Exited { well: status.success() },
        None => How::TimedOut,
    };
    drop(qemu);
    let read = |path: &Path| {
        let bytes = fs::read(path).with_context(|| format!("can't read {}", path.display()))?;
        anyhow::Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let mut console = read(&console)?;
    console.push_str(&read(&complaints)?);
    Ok(Ended { port: read(&port)?, console, how, took: started.elapsed() })
}

fn wait(qemu: &mut Child, deadline: Instant) -> Result<Option<ExitStatus>> {
    while Instant::now() < deadline {
        if let Some(status) = qemu.try_wait().context("can't wait for QEMU")? {
            return Ok(Some(status));
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_is_used_where_cpu_and_file_say_so() {
        let with = "processor\t: 0\nflags\t\t: fpu vmx sse\n";
        let without = "processor\t: 0\nflags\t\t: fpu sse\nvmx flags\t: x\n";
        assert_eq!(Acceleration::choose(with, true), Acceleration::Hardware);
        assert_eq!(Acceleration::choose(with, false), Acceleration::Emulation);
        assert_eq!(Acceleration::choose(without, true), Acceleration::Emulation);
    }
}
