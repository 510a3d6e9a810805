//! The filesystem that a guest runs from: its first process, the test programs, the host's programs that tests call with their
//! libraries, the kernel's modules, and the plan.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use sluice_guest::{PLAN, Plan};

use super::cpio::Archive;
use super::kernel::Kernel;
use super::modules;
use crate::setup::tools::cni_plugin;
use crate::step;
use crate::workspace::{Workspace, which};

/// What tests call, directly or by a shell.
const PROGRAMS: &[&str] = &[
    "bpftool", "bridge", "capsh", "cat", "find", "grep", "ip", "ls", "mkdir", "mount", "nft", "nsenter",
    "ping", "prlimit", "rm", "sh", "sleep", "tc", "timeout", "umount",
];
/// CNI plugins that make pods of the tests.
const PLUGINS: &[&str] = &["bridge", "ptp", "host-local"];
/// Where test programs, the agent and the object are in a guest.
const PAYLOAD: &str = "/payload";

/// What every guest of a run has: files of the guest, and where they are on this machine.
#[derive(Debug, Default)]
pub(crate) struct Payload {
    files: BTreeMap<String, PathBuf>,
}

impl Payload {
    /// The programs of this machine, and `init`.
    pub(crate) fn new(workspace: &Workspace, init: &Path) -> Result<Self> {
        let mut payload = Self::default();
        payload.files.insert("/init".to_owned(), init.to_owned());
        for name in PROGRAMS {
            let path = which(name).with_context(|| format!("the guests need `{name}`, which is not here"))?;
            payload.program(workspace, &format!("/usr/sbin/{name}"), &path)?;
        }
        for name in PLUGINS {
            let path =
                cni_plugin(name).with_context(|| format!("the guests need the CNI plugin `{name}`"))?;
            payload.program(workspace, &format!("/usr/lib/cni/{name}"), &path)?;
        }
        let shell = which("sh").context("there is no sh")?;
        payload.files.insert("/bin/sh".to_owned(), shell);
        Ok(payload)
    }

    /// Adds a file as it is, and returns its place.
    pub(crate) fn add(&mut self, name: &str, path: &Path) -> String {
        let place = format!("{PAYLOAD}/{name}");
        self.files.insert(place.clone(), path.to_owned());
        place
    }

    /// Adds a program that was built here, without what only a debugger reads: that is nine tenths of it.
    pub(crate) fn add_built(&mut self, workspace: &Workspace, name: &str, path: &Path) -> Result<String> {
        let stripped = strip(workspace, path)?;
        let place = format!("{PAYLOAD}/{name}");
        self.program(workspace, &place, &stripped)?;
        Ok(place)
    }

    fn program(&mut self, workspace: &Workspace, place: &str, path: &Path) -> Result<()> {
        for library in libraries(workspace, path)? {
            self.files.insert(library.display().to_string(), library);
        }
        self.files.insert(place.to_owned(), path.to_owned());
        Ok(())
    }

    /// Writes the initramfs of one guest.
    pub(crate) fn write(&self, kernel: &Kernel, plan: &mut Plan, file: &Path) -> Result<()> {
        let named = || format!("can't write {}", file.display());
        let mut archive = Archive::new(BufWriter::new(File::create(file).with_context(named)?));
        for (place, path) in &self.files {
            let contents = fs::read(path).with_context(|| format!("can't read {}", path.display()))?;
            archive.file(place, &contents).with_context(named)?;
        }
        for module in modules::in_order(kernel)? {
            let contents = modules::contents(&kernel.modules.join(&module))?;
            let bare = module.split_once(".ko").map_or(module.as_str(), |(bare, _)| bare);
            let place = format!("/lib/modules/{}/{bare}.ko", kernel.release);
            archive.file(&place, &contents).with_context(named)?;
            plan.modules.push(place);
        }
        for folder in ["/dev", "/proc", "/sys", "/root", "/etc"] {
            archive.folder(folder).with_context(named)?;
        }
        archive.link("/etc/mtab", "/proc/self/mounts").with_context(named)?;
        let plan = serde_json::to_vec_pretty(plan).context("a plan that is no JSON")?;
        archive.file(PLAN, &plan).with_context(named)?;
        archive.finish().with_context(named)?;
        Ok(())
    }
}

/// The program without its debug information, made again only where the program is newer.
fn strip(workspace: &Workspace, program: &Path) -> Result<PathBuf> {
    let name = program.file_name().context("a program without a name")?;
    let stripped = workspace.vm_dir().join("stripped").join(name);
    let modified = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    if modified(&stripped) > modified(program) {
        return Ok(stripped);
    }
    let folder = stripped.parent().context("no folder")?;
    fs::create_dir_all(folder).with_context(|| format!("can't make {}", folder.display()))?;
    let mut command = workspace.command("strip");
    command.arg("-o").arg(&stripped).arg(program);
    step::run_logged(&workspace.logs().join("strip.log"), &mut command)?;
    Ok(stripped)
}

/// The shared libraries of a program, and what loads them.
fn libraries(workspace: &Workspace, program: &Path) -> Result<Vec<PathBuf>> {
    let output = workspace.command("ldd").arg(program).output().context("can't run ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        let alone = text.contains("statically linked") || complaint.contains("not a dynamic executable");
        ensure!(alone, "ldd {}: {}", program.display(), complaint.trim());
        return Ok(Vec::new());
    }
    ensure!(!text.contains("not found"), "{} lacks a library:\n{text}", program.display());
    Ok(parse_ldd(&text))
}

fn parse_ldd(text: &str) -> Vec<PathBuf> {
    text.lines()
        .filter_map(|line| {
            let path = line.split_once("=>").map_or(line, |(_, path)| path).split_whitespace().next()?;
            path.starts_with('/').then(|| PathBuf::from(path))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_told_from_what_the_kernel_brings() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n\tstatically linked\n";
        let want: Vec<PathBuf> =
            vec!["/lib/x86_64-linux-gnu/libc.so.6".into(), "/lib64/ld-linux-x86-64.so.2".into()];
        assert_eq!(parse_ldd(text), want);
    }
}
