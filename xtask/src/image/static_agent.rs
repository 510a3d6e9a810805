//! The agent as one static program: the image has no libraries.
//!
//! Linked with glibc, whose allocator is the one that everything else here is measured with; musl's is slower, and its
//! target can't be had everywhere that Sluice is built. What glibc can't do in a static program is load name services
//! of the system: in the image there are none, and names are resolved by /etc/hosts and DNS all the same.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::Arch;
use crate::agent_build::OBJECT_VARIABLE;
use crate::bpf_build::NEXT_LAYOUT;
use crate::bpf_toolchain::Candidate;
use crate::step;
use crate::workspace::{Workspace, which};

/// Builds it and returns its place.
pub(super) fn build(workspace: &Workspace, rustc: &Candidate, arch: Arch, object: &Path) -> Result<PathBuf> {
    let native = arch == Arch::of_this_machine()?;
    let (mut command, built) =
        if native { (link_again(workspace, &[]), workspace.agent()) } else { cross(workspace, rustc, arch)? };
    command.env(OBJECT_VARIABLE, object);
    let title = format!("building the static agent for {}", arch.oci());
    step::run(&title, &workspace.logs(), &format!("agent-{}", arch.oci()), &mut command)?;
    let kept = place(workspace, arch);
    keep(&built, &kept)?;
    Ok(kept)
}

/// Builds the agent of another version, with maps of another layout, for this machine: tests upgrade to it, and back.
pub(super) fn build_next(workspace: &Workspace, object: &Path) -> Result<PathBuf> {
    let mut command = link_again(workspace, &["--features", NEXT_LAYOUT]);
    command.env(OBJECT_VARIABLE, object);
    step::run("building the agent of another version", &workspace.logs(), "agent-next", &mut command)?;
    let kept = workspace.image_dir().join("next").join("policy-agent");
    keep(&workspace.agent(), &kept)?;
    Ok(kept)
}

fn keep(built: &Path, kept: &Path) -> Result<()> {
    let named = || format!("can't copy {} to {}", built.display(), kept.display());
    fs::create_dir_all(kept.parent().with_context(named)?).with_context(named)?;
    fs::copy(built, kept).with_context(named)?;
    Ok(())
}

/// Where the finished program is kept: the next `cargo xtask build` takes the place that cargo gives it.
pub(super) fn place(workspace: &Workspace, arch: Arch) -> PathBuf {
    workspace.image_dir().join(arch.oci()).join("policy-agent")
}

/// Only the last step differs from `cargo xtask build`: what that compiled is linked once more.
fn link_again(workspace: &Workspace, features: &[&str]) -> Command {
    let mut command = workspace.cargo();
    command
        .args(["rustc", "--release", "--package", "policy-agent", "--bin", "policy-agent"])
        .args(features)
        .args(["--", "-C", "target-feature=+crt-static", "-C", "strip=symbols"]);
    command
}

/// By the compiler that builds for BPF: it has the library's source, and so any target.
fn cross(workspace: &Workspace, rustc: &Candidate, arch: Arch) -> Result<(Command, PathBuf)> {
    let target = arch.target();
    let linker = format!("{}-linux-gnu-gcc", arch.rust());
    if which(&linker).is_none() {
        bail!(
            "an image for {} needs {linker}, which links for it, and its C library: on Debian \
             `apt-get install gcc-{}-linux-gnu libc6-dev-{}-cross`",
            arch.oci(),
            arch.rust().replace('_', "-"),
            arch.oci(),
        );
    }
    let folder = workspace.image_dir().join("build");
    let mut command = match rustc.cargo() {
        Some(cargo) => workspace.command(cargo),
        None => workspace.cargo(),
    };
    let variable = target.replace('-', "_");
    command
        .args(["build", "--release", "--package", "policy-agent", "--bin", "policy-agent"])
        .args(["--target", &target, "-Z", "build-std=std,panic_unwind", "--target-dir"])
        .arg(&folder)
        .env("RUSTC", &rustc.rustc)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", ["-Ctarget-feature=+crt-static", "-Cstrip=symbols"].join("\x1f"))
        .env(format!("CARGO_TARGET_{}_LINKER", variable.to_uppercase()), &linker)
        .env(format!("CC_{variable}"), &linker);
    for name in
        ["RUSTUP_TOOLCHAIN", "RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "CARGO_BUILD_TARGET"]
    {
        command.env_remove(name);
    }
    let built = folder.join(target).join("release").join("policy-agent");
    Ok((command, built))
}
