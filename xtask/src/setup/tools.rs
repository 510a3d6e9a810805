//! The programs that building, testing and linting call, and how to see whether they are there.

use std::path::{Path, PathBuf};

use crate::setup::Scope;
use crate::step;
use crate::version::Version;
use crate::workspace::{Workspace, which};

/// One way to get something by apt: all these packages, the first at least as new as asked.
pub(crate) type PackageSet = &'static [&'static str];

/// A program that a distribution's package brings.
#[derive(Debug)]
pub(crate) struct Tool {
    pub(crate) program: &'static str,
    /// Arguments that only make it say its version.
    version_args: &'static [&'static str],
    pub(crate) purpose: &'static str,
    /// Alternatives, best first.
    pub(crate) packages: &'static [PackageSet],
    scope: fn(Scope) -> bool,
}

const BUILD: fn(Scope) -> bool = |_| true;
const RUN: fn(Scope) -> bool = |scope| scope.run;
const BENCH: fn(Scope) -> bool = |scope| scope.bench;
const MATRIX: fn(Scope) -> bool = |scope| scope.matrix;

/// Debian's names; others find the programs in packages of similar names.
pub(crate) const TOOLS: &[Tool] = &[
    Tool {
        program: "cc",
        version_args: &["--version"],
        purpose: "links what Rust builds",
        packages: &[&["gcc", "libc6-dev"]],
        scope: BUILD,
    },
    Tool {
        program: "ip",
        version_args: &["-V"],
        purpose: "makes the pods of the demo and of the tests",
        packages: &[&["iproute2"]],
        scope: RUN,
    },
    Tool {
        program: "tc",
        version_args: &["-V"],
        purpose: "shows what hangs on an interface",
        packages: &[&["iproute2"]],
        scope: RUN,
    },
    Tool {
        program: "nft",
        version_args: &["--version"],
        purpose: "translates addresses and tracks connections in the tests, as kube-proxy does",
        packages: &[&["nftables"]],
        scope: RUN,
    },
    Tool {
        program: "nsenter",
        version_args: &["-V"],
        purpose: "runs probes inside pods",
        packages: &[&["util-linux"]],
        scope: RUN,
    },
    Tool {
        program: "capsh",
        // Without arguments it does nothing.
        version_args: &[],
        purpose: "takes capabilities away from the image's agent in the tests",
        packages: &[&["libcap2-bin"]],
        scope: RUN,
    },
    Tool {
        program: "strace",
        version_args: &["-V"],
        purpose: "kills the agent at one exact system call in the tests",
        packages: &[&["strace"]],
        scope: RUN,
    },
    Tool {
        program: "ping",
        version_args: &["-V"],
        purpose: "a probe",
        packages: &[&["iputils-ping"]],
        scope: RUN,
    },
    Tool {
        // One of the package's plugins that has no namesake elsewhere. Without arguments it says its version.
        program: "host-local",
        version_args: &[],
        purpose: "with the other CNI plugins, makes pods of the tests as a cluster does",
        packages: &[&["containernetworking-plugins"]],
        scope: RUN,
    },
    Tool { program: "curl", version_args: &["-V"], purpose: "a probe", packages: &[&["curl"]], scope: RUN },
    Tool {
        program: "bpftool",
        version_args: &["version"],
        purpose: "shows what is in the kernel",
        // Ubuntu ships it with the kernel's tools.
        packages: &[&["bpftool"], &["linux-tools-common", "linux-tools-generic"]],
        scope: RUN,
    },
    Tool {
        program: "iptables",
        version_args: &["--version"],
        purpose: "translates addresses in the tests, as kube-proxy in its older mode does; the bench compares with it",
        packages: &[&["iptables"]],
        scope: RUN,
    },
    Tool {
        program: "ipset",
        version_args: &["--version"],
        purpose: "the bench compares with it, under iptables",
        packages: &[&["ipset"]],
        scope: BENCH,
    },
    Tool {
        program: "qemu-system-x86_64",
        version_args: &["--version"],
        purpose: "boots the kernels of the matrix",
        packages: &[&["qemu-system-x86"]],
        scope: MATRIX,
    },
    Tool {
        program: "depmod",
        version_args: &["--version"],
        purpose: "lists what the kernels' modules need",
        packages: &[&["kmod"]],
        scope: MATRIX,
    },
    Tool {
        program: "xz",
        version_args: &["--version"],
        purpose: "unpacks the kernels' modules",
        packages: &[&["xz-utils"]],
        scope: MATRIX,
    },
    Tool {
        program: "zstd",
        version_args: &["--version"],
        purpose: "unpacks the kernels' modules",
        packages: &[&["zstd"]],
        scope: MATRIX,
    },
    Tool {
        program: "strip",
        version_args: &["--version"],
        purpose: "makes the suites small enough for a machine without a disk",
        packages: &[&["binutils"]],
        scope: MATRIX,
    },
];

/// Where CNI plugins are: not in the search path.
const PLUGIN_FOLDERS: &[&str] = &["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"];

/// Debian's compilers with their library source, best first.
pub(crate) const RUSTC_PACKAGES: &[PackageSet] = &[&["rustc-web", "rust-web-src"], &["rustc", "rust-src"]];

/// cargo-deny's crate.
pub(crate) const DENY: &str = "cargo-deny";

/// What runs the tests: many that wait at once, and those that need the machine to themselves alone.
pub(crate) const NEXTEST: &str = "cargo-nextest";

/// What runs the fuzz targets.
pub(crate) const FUZZ: &str = "cargo-fuzz";

/// The parts of the Rust toolchain that lint needs, as cargo subcommand and rustup component.
pub(crate) const COMPONENTS: &[(&str, &str)] = &[("fmt", "rustfmt"), ("clippy", "clippy")];

impl Tool {
    pub(crate) fn in_scope(&self, scope: Scope) -> bool {
        (self.scope)(scope)
    }

    /// Where it is, if it also runs: Ubuntu's bpftool is a script that fails where the kernel has no tools package.
    pub(crate) fn find(&self, workspace: &Workspace) -> Option<PathBuf> {
        let path = which(self.program).or_else(|| cni_plugin(self.program))?;
        step::output(workspace.command(&path).args(self.version_args))?;
        Some(path)
    }
}

/// Where a CNI plugin is.
pub(crate) fn cni_plugin(name: &str) -> Option<PathBuf> {
    PLUGIN_FOLDERS.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.is_file())
}

/// Whether a cargo subcommand answers.
pub(crate) fn cargo_has(workspace: &Workspace, subcommand: &str) -> Option<String> {
    let answer = step::output(workspace.cargo().args([subcommand, "--version"]))?;
    Some(answer.trim().to_owned())
}

/// Whether a package version, if any is named, is new enough.
pub(crate) fn new_enough(candidate: &str, oldest: Option<Version>) -> bool {
    match (oldest, candidate.parse::<Version>()) {
        (None, _) => true,
        (Some(oldest), Ok(version)) => version >= oldest,
        (Some(_), Err(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tool_says_what_it_is_for_and_where_it_comes_from() {
        for tool in TOOLS {
            assert!(!tool.purpose.is_empty() && !tool.packages.is_empty(), "{}", tool.program);
            assert!(tool.packages.iter().all(|set| !set.is_empty()), "{}", tool.program);
        }
    }

    #[test]
    fn building_needs_no_probes() {
        let build = Scope::BUILD;
        assert!(TOOLS.iter().any(|tool| tool.in_scope(build)));
        assert!(TOOLS.iter().any(|tool| !tool.in_scope(build)));
    }

    #[test]
    fn package_versions_are_compared() {
        let oldest = "1.89".parse().ok();
        assert!(new_enough("1.96.0+dfsg1-1~deb12u2", oldest));
        assert!(!new_enough("1.63.0+dfsg1-2", oldest));
        assert!(!new_enough("(none)", oldest));
        assert!(new_enough("1:22.1.8-1", None));
    }
}
