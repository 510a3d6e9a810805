//! Installing Debian packages.

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::root::{is_root, sudo_asks_nothing};
use crate::setup::backports::Backports;
use crate::setup::tools::{PackageSet, new_enough};
use crate::step;
use crate::version::Version;
use crate::workspace::Workspace;

/// Something to be installed, by the first of the alternatives that apt has.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) what: String,
    pub(crate) alternatives: Vec<Vec<String>>,
    /// Compared with the first package of an alternative.
    pub(crate) oldest: Option<Version>,
}

/// apt, as root or through sudo.
#[derive(Debug)]
pub(crate) struct Apt<'a> {
    workspace: &'a Workspace,
    updated: bool,
    /// What apt complained of in an update: one source of many that can't be reached is no reason to stop, but it may
    /// explain why a package isn't there.
    complaints: String,
}

/// --no-remove: a conflict (rustc-web takes the place of Debian's rustc and rustup) is for the user to decide.
const INSTALL: [&str; 4] = ["install", "-y", "--no-install-recommends", "--no-remove"];

impl Wanted {
    pub(crate) fn new(what: impl Into<String>, alternatives: &[PackageSet], oldest: Option<Version>) -> Self {
        let owned = |set: &PackageSet| set.iter().map(|&package| package.to_owned()).collect();
        Self { what: what.into(), alternatives: alternatives.iter().map(owned).collect(), oldest }
    }
}

impl<'a> Apt<'a> {
    /// Fails where installing would need a password.
    pub(crate) fn new(workspace: &'a Workspace) -> Result<Self> {
        if !is_root() && !sudo_asks_nothing() {
            bail!(
                "installing packages needs root: run `cargo xtask setup` as root, or allow sudo without a password"
            );
        }
        Ok(Self { workspace, updated: false, complaints: String::new() })
    }

    /// Installs all that is wanted in one go, or says what can't be had.
    pub(crate) fn install(&mut self, wanted: &[Wanted]) -> Result<()> {
        if wanted.is_empty() {
            return Ok(());
        }
        let packages = match self.resolve(wanted) {
            Ok(packages) => packages,
            // A new machine may have no package lists yet, or old ones.
            Err(_) => {
                self.update();
                self.resolve(wanted)?
            }
        };
        match self.run_install(&packages, None) {
            Err(error) if !self.updated => {
                step::warn(&format!("{error:#}\ntrying once more with new package lists"));
                self.update();
                let packages = self.resolve(wanted)?;
                self.run_install(&packages, None).or_else(|error| self.install_apart(&packages, error))
            }
            outcome => outcome.or_else(|error| self.install_apart(&packages, error)),
        }
        .with_context(|| format!("apt-get can't install {}", packages.join(" ")))
    }

    fn resolve(&self, wanted: &[Wanted]) -> Result<Vec<String>> {
        let mut packages = Vec::new();
        let mut missing = Vec::new();
        for want in wanted {
            match self.first_available(want) {
                Ok(set) => packages.extend(set),
                Err(seen) => missing.push(format!("{}: {seen}", want.what)),
            }
        }
        if !missing.is_empty() {
            bail!(
                "this release's packages don't have what is needed:\n  - {}{}",
                missing.join("\n  - "),
                self.complaints
            );
        }
        packages.sort();
        packages.dedup();
        Ok(packages)
    }

    /// The first alternative whose packages all exist; or what there is instead.
    fn first_available(&self, want: &Wanted) -> Result<Vec<String>, String> {
        let mut seen = Vec::new();
        for set in &want.alternatives {
            let versions: Vec<Option<String>> = set.iter().map(|package| self.candidate(package)).collect();
            let first_fits = versions
                .first()
                .and_then(Option::as_deref)
                .is_some_and(|version| new_enough(version, want.oldest));
            if first_fits && versions.iter().all(Option::is_some) {
                return Ok(set.clone());
            }
            for (package, version) in set.iter().zip(versions) {
                seen.push(format!("{package} is {}", version.as_deref().unwrap_or("not there")));
            }
        }
        let oldest = want.oldest.map(|oldest| format!(" ({oldest} or newer is needed)")).unwrap_or_default();
        Err(format!("{}{oldest}", seen.join(", ")))
    }

    fn candidate(&self, package: &str) -> Option<String> {
        let text =
            step::output(self.workspace.command("apt-cache").args(["policy", package]).env("LC_ALL", "C"))?;
        parse_candidate(&text)
    }

    fn update(&mut self) {
        self.updated = true;
        let mut command = self.apt_get();
        command.arg("update");
        let outcome = self.run("updating the package lists", "apt-update", &mut command);
        let log = std::fs::read_to_string(self.workspace.logs().join("apt-update.log")).unwrap_or_default();
        self.complaints = complaints(&log);
        if outcome.is_err() && self.complaints.is_empty() {
            self.complaints = "\n`apt-get update` failed without a word".to_owned();
        }
    }

    /// What can't be had together with what is installed comes from the backports, where those may be from, and the
    /// rest as usual.
    fn install_apart(&self, packages: &[String], error: anyhow::Error) -> Result<()> {
        let apart: Vec<String> = packages.iter().filter(|package| !self.fits(package)).cloned().collect();
        if apart.is_empty() {
            return Err(error);
        }
        let backports = match Backports::new(self.workspace) {
            Ok(backports) => backports,
            Err(none) => return Err(error.context(format!("there are no backports here ({none:#})"))),
        };
        let what = apart.join(" ");
        step::warn(&format!("{what}: not together with what is installed; trying {}", backports.suite()));
        let rest: Vec<String> = packages.iter().filter(|package| !apart.contains(package)).cloned().collect();
        if !rest.is_empty() {
            self.run_install(&rest, None)?;
        }
        let mut update = self.apt_get();
        backports.show_to(&mut update);
        update.arg("update");
        self.run(&format!("reading the lists of {}", backports.suite()), "apt-backports", &mut update)?;
        self.run_install(&apart, Some(&backports)).map_err(|_| error)
    }

    /// Whether the package alone could be installed.
    fn fits(&self, package: &str) -> bool {
        let mut command = self.apt_get();
        command.arg("--simulate").args(INSTALL).arg(package);
        step::output(&mut command).is_some()
    }

    fn run_install(&self, packages: &[String], backports: Option<&Backports>) -> Result<()> {
        let mut command = self.apt_get();
        if let Some(backports) = backports {
            backports.show_to(&mut command);
            command.args(["--target-release", backports.suite()]);
        }
        command.args(INSTALL).args(packages);
        self.run(&format!("installing {} by apt", packages.join(" ")), "apt-install", &mut command)
    }

    fn run(&self, title: &str, log: &str, command: &mut Command) -> Result<()> {
        step::run(title, &self.workspace.logs(), log, command)
    }

    fn apt_get(&self) -> Command {
        let mut command = if is_root() {
            self.workspace.command("env")
        } else {
            let mut command = self.workspace.command("sudo");
            command.args(["-n", "env"]);
            command
        };
        // Another apt may be running (unattended-upgrades does on new machines): wait for it.
        command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-o", "DPkg::Lock::Timeout=120"]);
        command
    }
}

/// Reads the `Candidate:` line of `apt-cache policy`.
fn parse_candidate(policy: &str) -> Option<String> {
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate:"))?.trim();
    (version != "(none)").then(|| version.to_owned())
}

/// The warnings and errors of an apt log, as lines to add to a message.
fn complaints(log: &str) -> String {
    let lines: Vec<&str> =
        log.lines().filter(|line| line.starts_with("W: ") || line.starts_with("E: ")).take(6).collect();
    if lines.is_empty() {
        String::new()
    } else {
        format!("\napt-get update said:\n    {}", lines.join("\n    "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_kept() {
        let log = "Hit:1 x\nW: Failed to fetch http://x/InRelease\nE: Some index files failed\nReading\n";
        assert_eq!(
            complaints(log),
            "\napt-get update said:\n    W: Failed to fetch http://x/InRelease\n    E: Some index files failed"
        );
        assert_eq!(complaints("Hit:1 x\n"), "");
    }

    #[test]
    fn reads_the_candidate() {
        let policy =
            "rustc-web:\n  Installed: (none)\n  Candidate: 1.96.0+dfsg1-1~deb12u2\n  Version table:\n";
        assert_eq!(parse_candidate(policy).as_deref(), Some("1.96.0+dfsg1-1~deb12u2"));
        assert_eq!(parse_candidate("rustup:\n  Installed: (none)\n  Candidate: (none)\n"), None);
        assert_eq!(parse_candidate(""), None);
    }
}
