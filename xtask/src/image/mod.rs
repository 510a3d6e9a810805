//! `cargo xtask image`: the container image, made without a container engine.

mod layout;
mod static_agent;

use std::env;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::bpf_build::{self, Variant};
use crate::bpf_toolchain::Candidate;
use crate::setup::{self, Scope};
use crate::step;
use crate::workspace::Workspace;

use layout::{Executable, Layout};

/// What the chart asks for; its tag is the version.
const REPOSITORY: &str = "ghcr.io/sluice-dev/policy-agent";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What to put into the image, and where the image goes.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Options {
    /// For which machines: amd64, arm64, or all of them in one image; this machine's where not said
    #[arg(long, value_enum)]
    arch: Option<Choice>,
    /// The file; target/image/policy-agent-VERSION-ARCH.tar where not said
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Choice {
    Amd64,
    Arm64,
    All,
}

/// A kind of machine, under the names that Rust and container images have for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arch {
    Amd64,
    Arm64,
}

impl Arch {
    const ALL: [Self; 2] = [Self::Amd64, Self::Arm64];

    fn of_this_machine() -> Result<Self> {
        let rust = env::consts::ARCH;
        Self::ALL.into_iter().find(|arch| arch.rust() == rust).with_context(|| {
            format!("images are for amd64 and arm64, and this machine is {rust}: say --arch")
        })
    }

    const fn oci(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    const fn rust(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64",
            Self::Arm64 => "aarch64",
        }
    }

    fn target(self) -> String {
        format!("{}-unknown-linux-gnu", self.rust())
    }
}

/// Sets up, builds the agent for each machine, and makes the image around them.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let (architectures, name) = match options.arch {
        None => (vec![Arch::of_this_machine()?], Arch::of_this_machine()?.oci()),
        Some(Choice::Amd64) => (vec![Arch::Amd64], "amd64"),
        Some(Choice::Arm64) => (vec![Arch::Arm64], "arm64"),
        Some(Choice::All) => (Arch::ALL.to_vec(), "all"),
    };
    let out = options.out.clone().unwrap_or_else(|| default_file(workspace, name));
    let rustc = setup::ensure(workspace, Scope::BUILD)?;
    make(workspace, &rustc, &architectures, &out)?;
    Ok(())
}

/// What the tests run: the image for this machine, and the program in it.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) image: PathBuf,
    pub(crate) agent: PathBuf,
    /// The agent of another version, with maps of another layout.
    pub(crate) next: PathBuf,
}

/// The image for this machine. Its program is the one that all tests run: what is tested is what is shipped.
pub(crate) fn for_tests(workspace: &Workspace) -> Result<Made> {
    let rustc = setup::ensure(workspace, Scope::TEST)?;
    let arch = Arch::of_this_machine()?;
    let image = default_file(workspace, arch.oci());
    // First: what cargo leaves in its own place is the agent of this version.
    let object = bpf_build::build(workspace, &rustc, Variant::NextLayout)?;
    let next = static_agent::build_next(workspace, &object)?;
    make(workspace, &rustc, &[arch], &image)?;
    Ok(Made { image, agent: static_agent::place(workspace, arch), next })
}

/// The agent of [`for_tests`], where that has run before.
pub(crate) fn agent_for_tests(workspace: &Workspace) -> Result<PathBuf> {
    let agent = static_agent::place(workspace, Arch::of_this_machine()?);
    if !agent.is_file() {
        bail!("there is no {}: leave out --built", agent.display());
    }
    Ok(agent)
}

fn default_file(workspace: &Workspace, name: &str) -> PathBuf {
    workspace.image_dir().join(format!("policy-agent-{VERSION}-{name}.tar"))
}

fn make(workspace: &Workspace, rustc: &Candidate, architectures: &[Arch], out: &Path) -> Result<()> {
    let object = bpf_build::build(workspace, rustc, Variant::Plain)?;
    let mut executables = Vec::new();
    for &arch in architectures {
        let path = static_agent::build(workspace, rustc, arch, &object)?;
        let bytes = fs::read(&path).with_context(|| format!("can't read {}", path.display()))?;
        if !is_static(&bytes) {
            bail!("{} needs a dynamic linker, and there is none in the image", path.display());
        }
        executables.push(Executable { architecture: arch.oci(), bytes });
    }
    let layout = Layout::new(REPOSITORY, VERSION, &executables)?;
    write(&layout, out)?;
    step::note(&format!("{REPOSITORY}:{VERSION} is {}", layout.digest()));
    step::note(&out.display().to_string());
    Ok(())
}

/// By rename, so that nobody ever loads half an image.
fn write(layout: &Layout, out: &Path) -> Result<()> {
    let named = || format!("can't write {}", out.display());
    if let Some(folder) = out.parent() {
        fs::create_dir_all(folder).with_context(named)?;
    }
    let draft = out.with_extension("new");
    let mut file = BufWriter::new(File::create(&draft).with_context(named)?);
    layout.write(&mut file).with_context(named)?;
    file.flush().with_context(named)?;
    fs::rename(&draft, out).with_context(named)
}

/// Whether a 64-bit ELF file has no PT_INTERP among its program headers.
fn is_static(elf: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    let word = |at: usize, size: usize| -> Option<u64> {
        let bytes = elf.get(at..at.checked_add(size)?)?;
        Some(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    };
    let headers = || -> Option<(usize, usize, usize)> {
        let offset = usize::try_from(word(32, 8)?).ok()?;
        Some((offset, usize::try_from(word(54, 2)?).ok()?, usize::try_from(word(56, 2)?).ok()?))
    };
    let Some((offset, size, number)) = headers() else { return false };
    elf.starts_with(b"\x7fELF\x02\x01")
        && number > 0
        && (0..number).all(|n| word(offset + n * size, 4).is_some_and(|kind| kind != u64::from(PT_INTERP)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF header with one program header of this type.
    fn elf(kind: u8) -> Vec<u8> {
        let mut bytes = vec![0; 64 + 56];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        (bytes[32], bytes[54], bytes[56], bytes[64]) = (64, 56, 1, kind);
        bytes
    }

    #[test]
    fn what_names_a_dynamic_linker_is_not_static() {
        assert!(is_static(&elf(1)));
        assert!(!is_static(&elf(3)));
        assert!(!is_static(&elf(1)[..60]));
        assert!(!is_static(b"#!/bin/sh"));
        let this_program = fs::read(env::current_exe().unwrap()).unwrap();
        assert_eq!(is_static(&this_program), cfg!(target_feature = "crt-static"));
    }
}
