//! Where things are: the workspace, its target directory, the programs that a login shell may not see.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

/// The workspace that this xtask belongs to.
#[derive(Debug, Clone)]
pub(crate) struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

impl Workspace {
    /// Finds the workspace: cargo tells the crate's folder at run time, so that a moved checkout works too.
    pub(crate) fn find() -> Result<Self> {
        let manifest =
            env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| OsString::from(env!("CARGO_MANIFEST_DIR")));
        let root =
            Path::new(&manifest).parent().context("the xtask crate has no parent folder")?.to_path_buf();
        let target = match env::var_os("CARGO_TARGET_DIR") {
            Some(dir) => root.join(dir),
            None => root.join("target"),
        };
        Ok(Self { root, target })
    }

    /// Where the pages are.
    pub(crate) fn docs(&self) -> PathBuf {
        self.root.join("docs")
    }

    /// What is installed in a cluster.
    pub(crate) fn deploy(&self) -> PathBuf {
        self.root.join("deploy")
    }

    /// The Helm chart.
    pub(crate) fn chart(&self) -> PathBuf {
        self.deploy().join("chart/sluice")
    }

    /// Helm, where setup had to fetch it.
    pub(crate) fn helm(&self) -> PathBuf {
        self.target.join("tools").join("helm")
    }

    /// Package sources that only `setup` uses.
    pub(crate) fn apt_sources(&self) -> PathBuf {
        self.target.join("apt.list")
    }

    /// Outputs of commands that ran quietly.
    pub(crate) fn logs(&self) -> PathBuf {
        self.target.join("xtask-logs")
    }

    /// The BPF build's own target directory: another compiler must not share the host's.
    pub(crate) fn bpf_build_dir(&self) -> PathBuf {
        self.target.join("bpf-build")
    }

    /// The finished BPF object, as the agent's build script includes it.
    pub(crate) fn bpf_object(&self) -> PathBuf {
        self.target.join("bpf").join("policy-ebpf")
    }

    /// The agent with the BPF object inside.
    pub(crate) fn agent(&self) -> PathBuf {
        self.target.join("release").join("policy-agent")
    }

    /// Images, and the programs in them.
    pub(crate) fn image_dir(&self) -> PathBuf {
        self.target.join("image")
    }

    /// Kernels of other releases, as they were fetched.
    pub(crate) fn kernels(&self) -> PathBuf {
        self.target.join("kernels")
    }

    /// What virtual machines boot from and leave.
    pub(crate) fn vm_dir(&self) -> PathBuf {
        self.target.join("vm")
    }

    /// A program of the workspace's own, as tests are built.
    pub(crate) fn debug_program(&self, name: &str) -> PathBuf {
        self.target.join("debug").join(name)
    }

    /// Where cargo-fuzz builds: its flags are for every crate.
    pub(crate) fn fuzz_build_dir(&self) -> PathBuf {
        self.target.join("fuzz")
    }

    /// Inputs that a fuzz target has found interesting on this machine.
    pub(crate) fn fuzz_findings(&self, target: &str) -> PathBuf {
        self.target.join("fuzz-corpus").join(target)
    }

    /// The inputs that are kept for the tests.
    pub(crate) fn fuzz_corpus(&self, target: &str) -> PathBuf {
        self.root.join("tests/fuzz/corpus").join(target)
    }

    /// A command in the workspace with the extended PATH, free of what the outer cargo set.
    pub(crate) fn command(&self, program: impl Into<OsString>) -> Command {
        let mut command = Command::new(program.into());
        command.current_dir(&self.root).env("PATH", search_path());
        forget_outer_cargo(&mut command);
        command
    }

    /// The cargo that runs this xtask.
    pub(crate) fn cargo(&self) -> Command {
        self.command(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")))
    }
}

/// PATH with what non-login shells and `sudo` leave out: cargo's binaries and the system administrator's.
pub(crate) fn search_path() -> OsString {
    let mut dirs: Vec<PathBuf> =
        env::var_os("PATH").map(|p| env::split_paths(&p).collect()).unwrap_or_default();
    let extra = cargo_bin()
        .into_iter()
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].into_iter().map(PathBuf::from));
    for dir in extra {
        if !dirs.contains(&dir) {
            dirs.push(dir);
        }
    }
    // A directory with a colon in its name can't be in PATH: then PATH stays as it is.
    env::join_paths(dirs).unwrap_or_else(|_| env::var_os("PATH").unwrap_or_default())
}

/// Where `cargo install` puts programs.
pub(crate) fn cargo_bin() -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(home()?.join(".cargo")))?;
    Some(home.join("bin"))
}

/// The user's home, where the variable says so.
pub(crate) fn home() -> Option<PathBuf> {
    env::var_os("HOME").map(PathBuf::from)
}

/// Finds a program as a shell would, in the extended PATH.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    env::split_paths(&search_path()).map(|dir| dir.join(program)).find(|path| path.is_file())
}

/// Build scripts of dependencies ask to be re-run when these change: an inner cargo that inherits the
/// xtask's own values would rebuild them each time that a plain cargo ran in between.
fn forget_outer_cargo(command: &mut Command) {
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(set_by_outer_cargo) {
            command.env_remove(name);
        }
    }
}

fn set_by_outer_cargo(name: &str) -> bool {
    name.starts_with("CARGO_PKG_")
        || name.starts_with("CARGO_MANIFEST_")
        || matches!(name, "CARGO" | "CARGO_BIN_NAME" | "CARGO_CRATE_NAME" | "CARGO_PRIMARY_PACKAGE" | "OUT_DIR")
        // cargo adds its own library folders, which a system compiler must not load from.
        || name == "LD_LIBRARY_PATH"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inner_cargo_keeps_the_users_settings() {
        for name in ["CARGO_HOME", "CARGO_TARGET_DIR", "RUSTUP_TOOLCHAIN", "CARGO_NET_OFFLINE", "PATH"] {
            assert!(!set_by_outer_cargo(name), "{name}");
        }
        for name in ["CARGO_PKG_NAME", "CARGO_MANIFEST_DIR", "CARGO", "LD_LIBRARY_PATH"] {
            assert!(set_by_outer_cargo(name), "{name}");
        }
    }

    #[test]
    fn search_path_reaches_administration_programs() {
        let dirs: Vec<_> = env::split_paths(&search_path()).collect();
        assert!(dirs.contains(&PathBuf::from("/usr/sbin")));
        assert!(which("sh").is_some());
        assert!(which("no-such-program-of-sluice").is_none());
    }
}
