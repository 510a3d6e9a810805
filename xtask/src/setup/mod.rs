//! `cargo xtask setup`: installs what building, testing and linting need, and nothing when all is there.

mod apt;
mod backports;
mod helm;
mod os_release;
mod survey;
pub(crate) mod tools;

use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::bpf_linker::{self, Llvm};
use crate::bpf_toolchain::{self, Candidate};
use crate::setup::apt::{Apt, Wanted};
use crate::setup::os_release::OsRelease;
use crate::setup::survey::Survey;
use crate::setup::tools::{DENY, FUZZ, NEXTEST, RUSTC_PACKAGES, cargo_has};
use crate::step::{self, Step};
use crate::workspace::{Workspace, which};

/// What is about to be done, beside building.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scope {
    /// The demo and the tests: network namespaces and probes.
    pub(crate) run: bool,
    /// What the bench compares with, beside `run`.
    pub(crate) bench: bool,
    /// Helm, for the chart.
    pub(crate) chart: bool,
    /// What runs the tests, beside `run`.
    pub(crate) tests: bool,
    pub(crate) lint: bool,
    /// The kernel matrix: virtual machines, and Debian's kernels for them.
    pub(crate) matrix: bool,
}

impl Scope {
    pub(crate) const BUILD: Self =
        Self { run: false, bench: false, chart: false, tests: false, lint: false, matrix: false };
    pub(crate) const RUN: Self = Self { run: true, ..Self::BUILD };
    pub(crate) const TEST: Self = Self { chart: true, tests: true, ..Self::RUN };
    pub(crate) const MATRIX: Self = Self { matrix: true, ..Self::TEST };
    pub(crate) const BENCH: Self = Self { bench: true, ..Self::RUN };
    pub(crate) const LINT: Self = Self { chart: true, lint: true, ..Self::BUILD };
    pub(crate) const ALL: Self =
        Self { run: true, bench: true, chart: true, tests: true, lint: true, matrix: true };
}

/// Reports what is there and what is missing; fails when something is.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let survey = Survey::take(workspace, Scope::ALL);
    anstream::println!("{}", survey.table().trim_fmt());
    if survey.is_complete() {
        return Ok(());
    }
    bail!("something is missing on {}: `cargo xtask setup` installs it", OsRelease::of_this_machine().name())
}

/// Installs everything, and reports it.
pub(crate) fn all(workspace: &Workspace) -> Result<()> {
    let survey = ensure_surveyed(workspace, Scope::ALL)?;
    anstream::println!("{}", survey.table().trim_fmt());
    Ok(())
}

/// Sees to it that a scope's needs are there, and returns the compiler for BPF.
pub(crate) fn ensure(workspace: &Workspace, scope: Scope) -> Result<Candidate> {
    let rustc = ensure_surveyed(workspace, scope)?.rustc.map_err(|fault| anyhow!(fault))?;
    step::note(&format!("BPF compiler: {rustc}: {}", rustc.reason()));
    Ok(rustc)
}

fn ensure_surveyed(workspace: &Workspace, scope: Scope) -> Result<Survey> {
    let looking = Step::start("looking for the tools");
    let before = Survey::take(workspace, scope);
    looking.done();
    if before.is_complete() {
        return Ok(before);
    }
    let outcome = install(workspace, scope, &before);
    let after = Survey::take(workspace, scope);
    match outcome {
        Ok(()) if after.is_complete() => Ok(after),
        Ok(()) => bail!("still missing:\n{}", after.missing()),
        Err(error) => {
            Err(error.context(format!("missing here:\n{}\n\nand setup can't install it", after.missing())))
        }
    }
}

fn install(workspace: &Workspace, scope: Scope, survey: &Survey) -> Result<()> {
    let rustc = install_packages(workspace, survey)?;
    if survey.linker.is_none() {
        let llvm = match bpf_linker::find_llvm(rustc.release.llvm.major) {
            Some(llvm) => llvm,
            None => install_llvm(workspace, &rustc)?,
        };
        let title = format!("building bpf-linker {} with LLVM {}", bpf_linker::VERSION, llvm.major);
        step::run(
            &title,
            &workspace.logs(),
            "bpf-linker",
            &mut bpf_linker::install_command(workspace, &llvm),
        )?;
    }
    if survey.helm_missing {
        helm::install(workspace)?;
    }
    if survey.nextest_missing {
        cargo_install(workspace, NEXTEST)?;
    }
    if scope.lint {
        install_lints(workspace, survey)?;
    }
    Ok(())
}

/// Everything that apt has and that doesn't depend on what is found later.
fn install_packages(workspace: &Workspace, survey: &Survey) -> Result<Candidate> {
    let mut wanted: Vec<Wanted> =
        survey.missing_tools.iter().map(|tool| Wanted::new(tool.program, tool.packages, None)).collect();
    if survey.rustc.is_err() {
        wanted.push(Wanted::new(
            "rustc with library source",
            RUSTC_PACKAGES,
            Some(bpf_toolchain::oldest_rust()?),
        ));
    }
    if !wanted.is_empty() {
        apt(workspace)?.install(&wanted)?;
    }
    bpf_toolchain::find()
}

fn install_llvm(workspace: &Workspace, rustc: &Candidate) -> Result<Llvm> {
    let major = rustc.release.llvm.major;
    let alternatives =
        bpf_linker::wanted_llvms(major).map(|major| vec![format!("llvm-{major}-dev")]).collect();
    let what = format!("LLVM {major} or newer with development files, as {rustc} needs");
    apt(workspace)?.install(&[Wanted { what, alternatives, oldest: None }])?;
    bpf_linker::find_llvm(major).context("the LLVM that apt installed has no libLLVM.so to link against")
}

fn install_lints(workspace: &Workspace, survey: &Survey) -> Result<()> {
    if !survey.missing_components.is_empty() {
        if which("rustup").is_none() {
            bail!("without rustup, install {} as your Rust came", survey.missing_components.join(" and "));
        }
        let mut command = workspace.command("rustup");
        command.args(["component", "add"]).args(&survey.missing_components);
        let title = format!("installing {} by rustup", survey.missing_components.join(" and "));
        step::run(&title, &workspace.logs(), "rustup", &mut command)?;
    }
    if survey.deny_missing {
        cargo_install(workspace, DENY)?;
    }
    Ok(())
}

/// A cargo subcommand from its crate.
fn cargo_install(workspace: &Workspace, name: &str) -> Result<()> {
    let mut command = workspace.cargo();
    command
        .args(["install", name, "--locked"])
        .env_remove("CARGO_TARGET_DIR")
        // It runs for a second: what its release profile gains, building it by that profile loses many times over.
        .envs([("CARGO_PROFILE_RELEASE_LTO", "off"), ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")])
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
    step::run(&format!("building {name} (some minutes)"), &workspace.logs(), name, &mut command)
}

/// Sees to it that there is a Helm, and says where. Whoever only renders the chart needs nothing else.
pub(crate) fn ensure_helm(workspace: &Workspace) -> Result<PathBuf> {
    if helm::find(workspace).is_none() {
        helm::install(workspace)?;
    }
    helm::find(workspace).context("the Helm that was fetched does not run here")
}

/// Sees to it that the fuzz targets can be built. Nothing else needs this.
pub(crate) fn ensure_fuzzing(workspace: &Workspace) -> Result<()> {
    if which("c++").is_none() {
        // libFuzzer is C++.
        let compiler = Wanted::new("a C++ compiler", &[&["g++"]], None);
        apt(workspace)?.install(&[compiler])?;
    }
    if cargo_has(workspace, "fuzz").is_none() {
        cargo_install(workspace, FUZZ)?;
    }
    Ok(())
}

fn apt(workspace: &Workspace) -> Result<Apt<'_>> {
    let os = OsRelease::of_this_machine();
    if !os.is_debian_like() || which("apt-get").is_none() {
        bail!("{} is not Debian or a child of it: install the above by hand", os.name());
    }
    Apt::new(workspace)
}

/// Installs the linter of Debian's compiler, where that is the one in use. Lint can do without it.
pub(crate) fn offer_clippy(workspace: &Workspace, rustc: &Candidate) {
    if rustc.sibling("clippy-driver").is_some() || rustc.origin != bpf_toolchain::Origin::System {
        return;
    }
    let wanted = Wanted::new("clippy", &[&["rust-web-clippy"]], Some(rustc.release.version));
    if let Err(error) = apt(workspace).and_then(|mut apt| apt.install(&[wanted])) {
        step::warn(&format!("no clippy for the BPF compiler: {error:#}"));
    }
}
