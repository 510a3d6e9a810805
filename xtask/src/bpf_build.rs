//! Builds policy-ebpf for the BPF target, with a compiler of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::bpf_toolchain::Candidate;
use crate::step;
use crate::workspace::Workspace;

const PACKAGE: &str = "policy-ebpf";
/// The feature of policy-ebpf and policy-agent that gives the maps another layout.
pub(crate) const NEXT_LAYOUT: &str = "next-layout";
/// Separates flags in CARGO_ENCODED_RUSTFLAGS.
const UNIT_SEPARATOR: &str = "\x1f";

/// Which object is built.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Variant {
    /// For the agent.
    #[default]
    Plain,
    /// The same with aya-log's lines from the datapath: for debugging, they cost time for each packet.
    DebugLog,
    /// With the programs that `bench` needs, beside the agent's object.
    Bench,
    /// With maps of another layout, for the agent that tests upgrade to.
    NextLayout,
}

/// Builds the object, and returns its stable place (rewritten only when its bytes change).
pub(crate) fn build(workspace: &Workspace, rustc: &Candidate, variant: Variant) -> Result<PathBuf> {
    let mut command = cargo_for_bpf(workspace, rustc, "build", &["-Clink-arg=--btf"]);
    let object = match variant {
        Variant::Plain => workspace.bpf_object(),
        Variant::DebugLog => {
            command.args(["--features", "log"]);
            workspace.bpf_object()
        }
        Variant::Bench => {
            command.args(["--features", "bench"]);
            workspace.bpf_object().with_file_name("policy-ebpf-bench")
        }
        Variant::NextLayout => {
            command.args(["--features", NEXT_LAYOUT]);
            workspace.bpf_object().with_file_name("policy-ebpf-next")
        }
    };
    step::run("building the BPF program", &workspace.logs(), "bpf-build", &mut command)?;
    let built = workspace.bpf_build_dir().join(target()).join("release").join(PACKAGE);
    publish(&built, &object)?;
    Ok(object)
}

/// A cargo subcommand (build, check) on policy-ebpf, as the BPF target and `core` from source need it.
pub(crate) fn cargo_for_bpf(
    workspace: &Workspace,
    rustc: &Candidate,
    subcommand: &str,
    more_flags: &[&str],
) -> Command {
    let mut command = match rustc.cargo() {
        Some(cargo) => workspace.command(cargo),
        None => workspace.cargo(),
    };
    command
        .args([subcommand, "--release", "--package", PACKAGE, "--target", target(), "-Z", "build-std=core"])
        .arg("--target-dir")
        .arg(workspace.bpf_build_dir());
    set_environment(&mut command, rustc, more_flags);
    command
}

/// The environment in which any cargo command builds for BPF.
fn set_environment(command: &mut Command, rustc: &Candidate, more_flags: &[&str]) {
    let arch = format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH);
    let flags: Vec<&str> =
        [arch.as_str(), "-Cdebuginfo=2"].into_iter().chain(more_flags.iter().copied()).collect();
    command
        .env("RUSTC", &rustc.rustc)
        // A stable compiler takes -Z build-std and BPF's unstable features only so.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join(UNIT_SEPARATOR))
        // For core and each dependency too: all of it ends in one program with a 512-byte stack, and more codegen
        // units or less inlining break that.
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3")
        .env("CARGO_PROFILE_RELEASE_LTO", "true")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        // BTF is made from debug information.
        .env("CARGO_PROFILE_RELEASE_DEBUG", "2")
        .env("CARGO_PROFILE_RELEASE_STRIP", "none");
    // Meant for the host's compiler, these would reach this one.
    for name in
        ["RUSTUP_TOOLCHAIN", "RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "CARGO_BUILD_TARGET"]
    {
        command.env_remove(name);
    }
}

/// BPF in the byte order of the kernel that will run it: this machine's.
fn target() -> &'static str {
    if cfg!(target_endian = "big") { "bpfeb-unknown-none" } else { "bpfel-unknown-none" }
}

/// Copies what was built to its stable place, unless the same bytes are there: the agent's build script goes by
/// the file's time.
fn publish(built: &Path, object: &Path) -> Result<()> {
    let bytes = fs::read(built).with_context(|| format!("the build left no {}", built.display()))?;
    if !contains(&bytes, b".BTF\0") {
        bail!(
            "{} has no BTF: is the bpf-linker in PATH the one that `cargo xtask setup` installs?",
            built.display()
        );
    }
    if fs::read(object).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    let dir = object.parent().context("the object has no folder")?;
    fs::create_dir_all(dir).with_context(|| format!("can't create {}", dir.display()))?;
    // By rename, so that a build running beside this one never includes half an object.
    let draft = object.with_extension("new");
    fs::write(&draft, &bytes).with_context(|| format!("can't write {}", draft.display()))?;
    fs::rename(&draft, object).with_context(|| format!("can't write {}", object.display()))
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_is_rewritten_only_when_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let (built, object) = (dir.path().join("built"), dir.path().join("bpf").join("policy-ebpf"));
        let inode = || std::os::unix::fs::MetadataExt::ino(&fs::metadata(&object).unwrap());
        fs::write(&built, b"\x7fELF one .BTF\0").unwrap();
        publish(&built, &object).unwrap();
        let first = inode();
        publish(&built, &object).unwrap();
        assert_eq!(inode(), first);
        fs::write(&built, b"\x7fELF two .BTF\0").unwrap();
        publish(&built, &object).unwrap();
        assert_eq!(fs::read(&object).unwrap(), b"\x7fELF two .BTF\0");
    }

    #[test]
    fn an_object_without_btf_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let built = dir.path().join("built");
        fs::write(&built, b"\x7fELF").unwrap();
        let error = publish(&built, &dir.path().join("object")).unwrap_err().to_string();
        assert!(error.contains("no BTF"), "{error}");
        let error = publish(&dir.path().join("none"), &dir.path().join("object")).unwrap_err().to_string();
        assert!(error.contains("left no"), "{error}");
    }
}
