//! What lies in bpffs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::Ebpf;

use super::attach::{self, Hook};
use super::{BpfError, program};

/// Kept from one agent to the next.
pub(super) const KEPT: [&str; 3] = ["FLOWS", "FLOW_SEED", "COUNTS"];
/// The layout of the maps: another layout lives beside this one.
const VERSION: &str = "v1";
/// `BPF_FS_MAGIC` of include/uapi/linux/magic.h.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
const BPFFS: &str = "/sys/fs/bpf";

#[derive(Debug)]
pub(super) struct Pins {
    root: PathBuf,
}

impl Pins {
    pub(super) fn open(bpffs: &Path) -> Result<Self, BpfError> {
        ensure_bpffs(bpffs)?;
        let pins = Self { root: bpffs.join(VERSION) };
        for folder in ["flows", "links"] {
            create(&pins.root.join(folder))?;
        }
        // What an agent left that died while it was starting: nothing runs on it yet but perhaps a moved link, which
        // holds its program by itself.
        remove_tree(&pins.root.join("next"))?;
        for folder in ["next/maps", "next/programs"] {
            create(&pins.root.join(folder))?;
        }
        Ok(pins)
    }

    pub(super) fn kept(&self, map: &str) -> PathBuf {
        self.root.join("flows").join(map)
    }

    pub(super) fn link(&self, hook: Hook, ifindex: u32) -> PathBuf {
        self.link_folder().join(attach::link_pin(hook, ifindex))
    }

    pub(super) fn link_folder(&self) -> PathBuf {
        self.root.join("links")
    }

    pub(super) fn links(&self) -> Result<Vec<PathBuf>, BpfError> {
        list(&self.link_folder())
    }

    /// Pins this agent's maps and programs beside those of the one before.
    pub(super) fn pin_next(&self, ebpf: &mut Ebpf) -> Result<(), BpfError> {
        for (name, map) in ebpf.maps() {
            if !KEPT.contains(&name) && !name.starts_with('.') {
                let path = self.root.join("next/maps").join(name);
                map.pin(&path).map_err(|e| failed("pinning", &path, &e))?;
            }
        }
        for hook in Hook::BOTH {
            let path = self.root.join("next/programs").join(hook.program());
            program(ebpf, hook.program())?.pin(&path).map_err(|e| failed("pinning", &path, &e))?;
        }
        Ok(())
    }

    /// This agent's maps and programs take the place of the former one's.
    pub(super) fn settle(&self) -> Result<(), BpfError> {
        if !self.root.join("next").exists() {
            return Ok(());
        }
        for folder in ["maps", "programs"] {
            let (old, new) = (self.root.join(folder), self.root.join("next").join(folder));
            remove_tree(&old)?;
            fs::rename(&new, &old).map_err(|e| failed("renaming", &new, &e))?;
        }
        remove_tree(&self.root.join("next"))
    }
}

/// Takes everything away: links, filters, programs, maps. Enforcement ends. Returns what it took.
pub fn uninstall(bpffs: &Path) -> Result<Vec<String>, BpfError> {
    if !is_bpffs(bpffs) {
        return Ok(Vec::new());
    }
    let mut done = attach::detach_all(&Pins { root: bpffs.join(VERSION) })?;
    remove_tree(bpffs)?;
    done.push(format!("pins below {}", bpffs.display()));
    Ok(done)
}

/// `/sys/fs/bpf` is mounted where it is not: a machine without systemd has it as an empty folder.
fn ensure_bpffs(path: &Path) -> Result<(), BpfError> {
    let mounted = if path.starts_with(BPFFS) && !is_bpffs(Path::new(BPFFS)) { mount() } else { Ok(()) };
    mounted.map_err(|error| BpfError::NoBpffs(path.to_owned(), error))?;
    create(path)?;
    if is_bpffs(path) {
        Ok(())
    } else {
        // Nothing of ours stays where it cannot serve.
        let _ = fs::remove_dir(path);
        Err(BpfError::NoBpffs(path.to_owned(), "it is on another file system".to_owned()))
    }
}

fn mount() -> Result<(), String> {
    let output = std::process::Command::new("mount")
        .args(["-t", "bpf", "bpf", BPFFS])
        .output()
        .map_err(|e| format!("running mount: {e}"))?;
    if output.status.success() {
        tracing::info!("mounted the BPF file system at {BPFFS}");
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

fn is_bpffs(path: &Path) -> bool {
    nix::sys::statfs::statfs(path).is_ok_and(|fs| fs.filesystem_type().0 == BPF_FS_MAGIC)
}

fn create(path: &Path) -> Result<(), BpfError> {
    fs::create_dir_all(path).map_err(|e| failed("creating", path, &e))
}

fn list(folder: &Path) -> Result<Vec<PathBuf>, BpfError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed("reading", folder, &e)),
    };
    let paths: io::Result<Vec<PathBuf>> = entries.map(|entry| entry.map(|e| e.path())).collect();
    paths.map_err(|e| failed("reading", folder, &e))
}

fn remove_tree(path: &Path) -> Result<(), BpfError> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("removing", path, &e)),
        _ => Ok(()),
    }
}

pub(super) fn failed(action: &'static str, path: &Path, cause: &dyn std::fmt::Display) -> BpfError {
    BpfError::Pin { action, path: path.to_owned(), cause: cause.to_string() }
}
