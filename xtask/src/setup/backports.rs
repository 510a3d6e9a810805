//! Packages from the backports of the machine's own Debian release: where something that is installed came from there, its
//! relatives must, too.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::setup::os_release::OsRelease;
use crate::vm::{KEYRING, repository};
use crate::workspace::Workspace;

/// The machine's own package sources and the backports, in a file of the project's: the machine's stay as they are.
#[derive(Debug)]
pub(crate) struct Backports {
    suite: String,
    sources: PathBuf,
}

impl Backports {
    pub(crate) fn new(workspace: &Workspace) -> Result<Self> {
        let release = OsRelease::of_this_machine();
        let codename = release.codename().context("/etc/os-release names no release (VERSION_CODENAME)")?;
        let suite = format!("{codename}-backports");
        let mirror = repository(workspace, "Debian")?;
        let own = fs::read_to_string("/etc/apt/sources.list").unwrap_or_default();
        let sources = workspace.apt_sources();
        fs::write(&sources, format!("{own}\ndeb [signed-by={KEYRING}] {mirror} {suite} main\n"))
            .with_context(|| format!("can't write {}", sources.display()))?;
        Ok(Self { suite, sources })
    }

    pub(crate) fn suite(&self) -> &str {
        &self.suite
    }

    /// Lets an apt command see them; without `--target-release` it takes nothing from there of its own accord.
    pub(crate) fn show_to(&self, command: &mut Command) {
        command.arg("-o").arg(format!("Dir::Etc::SourceList={}", self.sources.display()));
    }
}
