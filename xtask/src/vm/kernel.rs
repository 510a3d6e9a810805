//! Debian's kernels: fetched by apt with a state of its own, so that the machine's sources stay as they are, checked against
//! the archive's keys, unpacked below target/kernels, and kept there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use super::release::Release;
use crate::step;
use crate::workspace::{Workspace, which};

/// What signs every suite of the archive.
pub(crate) const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Small and quick to boot, and it has every module that tests want.
const PACKAGE: &str = "linux-image-cloud-amd64";
/// Since 7.x an image depends on packages with what used to be in it.
const PARTS: &[&str] = &["linux-binary-", "linux-modules-", "linux-base-"];

/// A kernel that can be booted.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    pub(crate) kind: Release,
    /// Its name for itself, and for the folder of its modules.
    pub(crate) release: String,
    pub(crate) image: PathBuf,
    pub(crate) modules: PathBuf,
}

/// The kernel, fetched where it is not there yet.
pub(crate) fn ensure(workspace: &Workspace, kind: Release) -> Result<Kernel> {
    let folder = workspace.kernels().join(kind.suite());
    if !folder.is_dir() {
        fetch(workspace, kind, &folder).with_context(|| {
            format!(
                "kernel {kind} can't be had from Debian's suite {} (the matrix needs it: nothing is skipped)",
                kind.suite()
            )
        })?;
    }
    look(kind, &folder).with_context(|| format!("{} is incomplete: delete it", folder.display()))
}

fn look(kind: Release, folder: &Path) -> Result<Kernel> {
    let all = folder.join("lib/modules");
    let release = only_entry(&all)?;
    ensure!(kind.is(&release), "{release} in it is no kernel {kind}");
    let image = folder.join("vmlinuz");
    ensure!(image.is_file(), "there is no {}", image.display());
    Ok(Kernel { kind, modules: all.join(&release), release, image })
}

fn fetch(workspace: &Workspace, kind: Release, folder: &Path) -> Result<()> {
    ensure!(Path::new(KEYRING).is_file(), "no {KEYRING}: it is in Debian's package debian-archive-keyring");
    let private = workspace.kernels().join(format!("fetching-{}", kind.suite()));
    if private.exists() {
        fs::remove_dir_all(&private).with_context(|| format!("can't remove {}", private.display()))?;
    }
    let apt = Apt::new(workspace, kind, &private)?;
    apt.update()?;
    let packages = apt.packages()?;
    apt.download(&packages)?;
    let tree = private.join("tree");
    for package in files(&private.join("packages"))? {
        let mut command = workspace.command("dpkg-deb");
        command.arg("--extract").arg(&package).arg(&tree);
        step::run_logged(&workspace.logs().join(format!("kernel-{kind}-unpack.log")), &mut command)?;
    }
    arrange(workspace, &tree)?;
    look(kind, &tree)?;
    // Renamed when it is whole: a run that ended half-way leaves nothing that looks like a kernel.
    fs::rename(&tree, folder)
        .with_context(|| format!("can't rename {} to {}", tree.display(), folder.display()))?;
    fs::remove_dir_all(&private).with_context(|| format!("can't remove {}", private.display()))
}

/// Brings what each release's packages have elsewhere to one place, and has depmod list the modules.
fn arrange(workspace: &Workspace, tree: &Path) -> Result<()> {
    let modern = tree.join("usr/lib/modules");
    let modules = tree.join("lib/modules");
    if modern.is_dir() {
        fs::create_dir_all(tree.join("lib")).context("can't make lib")?;
        fs::rename(&modern, &modules).context("can't move usr/lib/modules")?;
    } else {
        fs::create_dir_all(tree.join("usr/lib")).context("can't make usr/lib")?;
    }
    // Debian 12's depmod looks below lib, newer ones below usr/lib.
    std::os::unix::fs::symlink("../../lib/modules", &modern).context("can't link usr/lib/modules")?;
    let release = only_entry(&modules)?;
    let image =
        [tree.join("boot").join(format!("vmlinuz-{release}")), modules.join(&release).join("vmlinuz")];
    let image = image.iter().find(|path| path.is_file()).context("the packages have no vmlinuz")?;
    fs::copy(image, tree.join("vmlinuz")).context("can't copy the kernel")?;
    let mut command = workspace.command("depmod");
    command.arg("-b").arg(tree).arg(&release);
    step::run_logged(&workspace.logs().join(format!("depmod-{release}.log")), &mut command)
}

/// The only entry of a folder.
fn only_entry(folder: &Path) -> Result<String> {
    let named = || format!("can't read {}", folder.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).with_context(named)? {
        names.push(entry.with_context(named)?.file_name().to_string_lossy().into_owned());
    }
    match <[String; 1]>::try_from(names) {
        Ok([name]) => Ok(name),
        Err(names) => bail!("{} should have one entry, and has {names:?}", folder.display()),
    }
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let named = || format!("can't read {}", folder.display());
    fs::read_dir(folder).with_context(named)?.map(|entry| Ok(entry.with_context(named)?.path())).collect()
}

/// apt with lists, cache and sources of its own; it needs no root.
struct Apt<'a> {
    workspace: &'a Workspace,
    kind: Release,
    private: &'a Path,
}

impl<'a> Apt<'a> {
    fn new(workspace: &'a Workspace, kind: Release, private: &'a Path) -> Result<Self> {
        for folder in ["lists/partial", "cache/archives/partial", "packages", "tree"] {
            let folder = private.join(folder);
            fs::create_dir_all(&folder).with_context(|| format!("can't make {}", folder.display()))?;
        }
        let repository = repository(workspace, kind.label())?;
        let line = format!("deb [signed-by={KEYRING}] {repository} {} main\n", kind.suite());
        fs::write(private.join("sources.list"), line).context("can't write sources.list")?;
        Ok(Self { workspace, kind, private })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = self.workspace.command(program);
        let at = |name: &str| self.private.join(name).display().to_string();
        for option in [
            format!("Dir::Etc::sourcelist={}", at("sources.list")),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            format!("Dir::State::Lists={}", at("lists")),
            format!("Dir::Cache={}", at("cache")),
            "Dir::State::status=/dev/null".to_owned(),
            // The folder may be one that apt's own user can't reach.
            "APT::Sandbox::User=root".to_owned(),
            "APT::Architecture=amd64".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::Retries=3".to_owned(),
            // Lists that could not be fetched are no lists of packages.
            "APT::Update::Error-Mode=any".to_owned(),
        ] {
            command.arg("-o").arg(option);
        }
        command.env("LC_ALL", "C");
        command
    }

    fn update(&self) -> Result<()> {
        let mut command = self.command("apt-get");
        command.args(["-q", "update"]);
        let title = format!("looking into Debian's {}", self.kind.suite());
        step::run(&title, &self.workspace.logs(), &format!("kernel-{}-update", self.kind), &mut command)
    }

    fn packages(&self) -> Result<Vec<String>> {
        let image = self.depends(PACKAGE)?.into_iter().find(|name| name.starts_with("linux-image-"));
        let image = image.with_context(|| format!("{} has no {PACKAGE}", self.kind.suite()))?;
        let is_part = |name: &String| {
            PARTS.iter().any(|part| {
                name.strip_prefix(part).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
            })
        };
        let mut packages: Vec<String> = self.depends(&image)?.into_iter().filter(is_part).collect();
        packages.insert(0, image);
        Ok(packages)
    }

    fn depends(&self, package: &str) -> Result<Vec<String>> {
        let text = step::output(self.command("apt-cache").args(["depends", package]))
            .with_context(|| format!("apt-cache knows no {package}"))?;
        Ok(parse_depends(&text))
    }

    fn download(&self, packages: &[String]) -> Result<()> {
        let mut command = self.command("apt-get");
        command.args(["-q", "download"]).args(packages).current_dir(self.private.join("packages"));
        let title = format!("fetching {}", packages.join(", "));
        step::run(&title, &self.workspace.logs(), &format!("kernel-{}-fetch", self.kind), &mut command)
    }
}

/// The mirror that this machine is set up with, of an archive with this label.
pub(crate) fn repository(workspace: &Workspace, label: &str) -> Result<String> {
    if which("apt-get").is_none() {
        bail!("there is no apt-get here: what is wanted comes as Debian's packages");
    }
    let mut command = workspace.command("apt-get");
    command.args(["indextargets", "--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages"]);
    let text = step::output(&mut command).context("`apt-get indextargets` fails: see `apt-get update`")?;
    labelled(&text, label).with_context(|| {
        format!(
            "none of this machine's package sources is one of Debian's with the label {label} (`apt-get indextargets`); \
             on a Debian machine `apt-get update` may not have run yet"
        )
    })
}

fn labelled(targets: &str, label: &str) -> Option<String> {
    targets.lines().find_map(|line| {
        let (own, uri) = line.trim().split_once(' ')?;
        (own == label).then(|| uri.to_owned())
    })
}

fn parse_depends(text: &str) -> Vec<String> {
    text.lines().filter_map(|line| line.trim().strip_prefix("Depends: ")).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_the_machines_own() {
        let targets = "Debian http://mirror/debian/\nDebian-Security http://mirror/security/\nOther x\n";
        assert_eq!(labelled(targets, "Debian").as_deref(), Some("http://mirror/debian/"));
        assert_eq!(labelled(targets, "Debian-Security").as_deref(), Some("http://mirror/security/"));
        assert_eq!(labelled("Ubuntu http://x/\n", "Debian"), None);
    }

    #[test]
    fn dependencies_are_read() {
        let text = "linux-image-cloud-amd64\n  Depends: linux-image-7.2-cloud-amd64\n  Recommends: x\n |Depends: y\n";
        assert_eq!(parse_depends(text), ["linux-image-7.2-cloud-amd64"]);
    }
}
