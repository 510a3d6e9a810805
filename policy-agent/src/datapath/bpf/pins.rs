//! What lies in bpffs.
//!
//! - `links/`: one pin for each interface and direction. Agents of all versions know it.
//! - `flows-vN/`: the connections, and what shape an entry of theirs has, for agents of other versions.
//! - `vN/maps`, `vN/programs`: the tables and programs of the running agent; `vN/kept`: counters and events.
//! - `vN/next/...`: maps and programs of an agent that has not settled yet.
//!
//! N is the layout of what is below (`LAYOUT`, `FLOW_LAYOUT`): another version's lie beside these.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::maps::MapInfo;
use nix::fcntl::{Flock, FlockArg};
use policy_common::flows::FLOW_LAYOUT;
use policy_common::maps::{INDEX_BLOCK, INDEX_TOP, LAYOUT};

use super::attach::{self, Hook};
use super::{BpfError, program};
use crate::plan::Capacity;

/// Tables that an agent fills, and that the next one takes over.
pub(super) const TABLES: [&str; 15] = [
    "SLOTS",
    "SLOTS_HIGH",
    "ENDPOINTS",
    "SETS",
    "PEERS4",
    "PEERS6",
    "CIDRS4",
    "CIDRS6",
    "PORTS",
    "ROWS",
    "BITS",
    "SOURCES",
    "VIPS",
    "SERVICES",
    "BACKENDS",
];
/// Kept from one agent of this layout to the next, and from one generation of tables to the next.
const KEPT: [&str; 3] = ["COUNTS", "EVENTS", "EVENT_BUDGET"];
/// The connections, kept from one agent to the next.
pub(super) const FLOWS: [&str; 6] =
    ["FLOWS", "FLOW_SEED", "FLOW_SHAPE", "TRANSLATIONS", "DATAGRAMS", "TRANSLATES"];
/// `BPF_FS_MAGIC` of include/uapi/linux/magic.h.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
const BPFFS: &str = "/sys/fs/bpf";

#[derive(Debug)]
pub(super) struct Pins {
    root: PathBuf,
    /// Nobody else works below the folder.
    _alone: Option<Flock<File>>,
}

impl Pins {
    pub(super) fn open(bpffs: &Path) -> Result<Self, BpfError> {
        ensure_bpffs(bpffs)?;
        let alone = lock(bpffs)?;
        let pins = Self { root: bpffs.to_owned(), _alone: Some(alone) };
        for folder in [pins.links_folder(), pins.flows_folder(), pins.version().join("kept")] {
            create(&folder)?;
        }
        Ok(pins)
    }

    /// Makes room for a generation of maps and programs beside those that are in force.
    ///
    /// What lies there is of an agent that died while it was starting, or of a generation that was given up: what still
    /// runs on it, moved links, holds it by itself.
    pub(super) fn begin(&self) -> Result<(), BpfError> {
        remove_tree(&self.version().join("next"))?;
        create(&self.version().join("next/maps"))?;
        create(&self.version().join("next/programs"))
    }

    fn version(&self) -> PathBuf {
        self.root.join(format!("v{LAYOUT}"))
    }

    pub(super) fn links_folder(&self) -> PathBuf {
        self.root.join("links")
    }

    fn flows_folder(&self) -> PathBuf {
        self.root.join(format!("flows-v{FLOW_LAYOUT}"))
    }

    /// Where a map is found, or pinned, that is older than a generation of tables.
    pub(super) fn kept(&self) -> impl Iterator<Item = (&'static str, PathBuf)> {
        let (flows, kept) = (self.flows_folder(), self.version().join("kept"));
        let flows = FLOWS.into_iter().map(move |name| (name, flows.join(name)));
        flows.chain(KEPT.into_iter().map(move |name| (name, kept.join(name))))
    }

    pub(super) fn flows(&self, name: &str) -> PathBuf {
        self.flows_folder().join(name)
    }

    /// The flow tables of other layouts.
    pub(super) fn other_flows(&self) -> Result<Vec<PathBuf>, BpfError> {
        let own = self.flows_folder();
        Ok(list(&self.root)?.into_iter().filter(|path| begins(path, "flows-v") && *path != own).collect())
    }

    /// A table of the agent that was in force before.
    pub(super) fn table(&self, name: &str) -> PathBuf {
        self.version().join("maps").join(name)
    }

    /// Whether the tables that lie there are all that programs run on, and have these sizes. They are not where an agent died while it
    /// moved interfaces to tables of its own.
    pub(super) fn can_be_adopted(&self, entries: &[(&str, u32)]) -> bool {
        let next = self.version().join("next/maps");
        let id = |path: &Path| MapInfo::from_pin(path).map(|info| info.id()).ok();
        let is_the_only = |name: &&str| {
            let (table, begun) = (self.table(name), next.join(name));
            id(&table).is_some() && (!next.exists() || id(&table) == id(&begun))
        };
        let fits = |(name, entries): &(&str, u32)| {
            MapInfo::from_pin(self.table(name)).is_ok_and(|info| info.max_entries() == *entries)
        };
        TABLES.iter().all(is_the_only) && entries.iter().filter(|(name, _)| TABLES.contains(name)).all(fits)
    }

    pub(super) fn link(&self, hook: Hook, ifindex: u32) -> PathBuf {
        self.links_folder().join(attach::link_pin(hook, ifindex))
    }

    pub(super) fn links(&self) -> Result<Vec<PathBuf>, BpfError> {
        list(&self.links_folder())
    }

    /// Pins a generation's maps and programs beside those of the one before; adopted tables for a second time, so that one
    /// rename puts them all in place.
    pub(super) fn pin_next(&self, ebpf: &mut Ebpf) -> Result<(), BpfError> {
        let next = self.version().join("next");
        let kept: Vec<&str> = self.kept().map(|(name, _)| name).collect();
        for (name, map) in ebpf.maps() {
            if !kept.contains(&name) && !name.starts_with('.') {
                let path = next.join("maps").join(name);
                map.pin(&path).map_err(|e| failed("pinning", &path, &e))?;
            }
        }
        for hook in Hook::BOTH {
            let path = next.join("programs").join(hook.program());
            program(ebpf, hook.program())?.pin(&path).map_err(|e| failed("pinning", &path, &e))?;
        }
        Ok(())
    }

    /// The generation that was begun takes the place of the one before, and what other versions left goes.
    pub(super) fn settle(&self) -> Result<(), BpfError> {
        let next = self.version().join("next");
        if next.exists() {
            for folder in ["programs", "maps"] {
                let (old, new) = (self.version().join(folder), next.join(folder));
                remove_tree(&old)?;
                fs::rename(&new, &old).map_err(|e| failed("renaming", &new, &e))?;
            }
            remove_tree(&next)?;
        }
        let own = [self.version(), self.flows_folder()];
        for path in list(&self.root)? {
            if (begins(&path, "v") || begins(&path, "flows-v")) && !own.contains(&path) {
                remove_tree(&path)?;
            }
        }
        Ok(())
    }
}

fn begins(path: &Path, prefix: &str) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
}

/// Two agents would take each other's attachments and tables away.
fn lock(folder: &Path) -> Result<Flock<File>, BpfError> {
    let file = File::open(folder).map_err(|e| failed("opening", folder, &e))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        nix::errno::Errno::EWOULDBLOCK => BpfError::InUse(folder.to_owned()),
        errno => failed("locking", folder, &errno),
    })
}

/// The sizes of the tables that the agent before left; `None` where there are none of this layout.
pub fn pinned_capacity(bpffs: &Path) -> Option<Capacity> {
    let pins = Pins { root: bpffs.to_owned(), _alone: None };
    let entries = |path: PathBuf| MapInfo::from_pin(path).map(|info| info.max_entries()).ok();
    let table = |name| entries(pins.table(name));
    Some(Capacity {
        words: table("BITS")?,
        rows: table("ROWS")?,
        endpoints: table("ENDPOINTS")?,
        peers: table("PEERS4")?,
        cidrs: table("CIDRS4")?,
        sources: table("SOURCES")?,
        services: table("SERVICES")?,
        backends: table("BACKENDS")?,
        flow_sets: entries(pins.flows("FLOWS"))?,
        index_blocks: table("INDEX4")?.checked_sub(INDEX_TOP)? / INDEX_BLOCK,
    })
}

/// Takes everything away: links, filters, programs, maps. Enforcement ends. Returns what it took.
pub fn uninstall(bpffs: &Path) -> Result<Vec<String>, BpfError> {
    if !is_bpffs(bpffs) {
        return Ok(Vec::new());
    }
    let mut done = attach::detach_all(&Pins { root: bpffs.to_owned(), _alone: None })?;
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
