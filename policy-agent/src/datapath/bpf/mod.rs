//! The datapath in the kernel: the loaded object, its maps, its pins and the interfaces that it hangs on.
//!
//! Below the agent's bpffs folder: `v1/flows` (connection tracking and counters, kept from one agent to the next),
//! `v1/maps` and `v1/programs` (those of the running agent) and `v1/links` (one for each interface and direction).
//! A starting agent fills maps of its own in `v1/next` while the old ones go on enforcing, moves the links one by one,
//! and then takes the old ones' place.

mod attach;
mod clock;
mod index4;
mod maps;
mod memlock;
mod pins;
mod present;
mod qdisc;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use aya::maps::MapInfo;
use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader};
use policy_common::flows::{FlowEntry, FlowSeed};
use policy_common::maps::Settings;

pub use attach::{AttachMode, Attached, Hook};
pub use maps::{EventStream, Totals};
pub use pins::uninstall;

use super::{Datapath, WriteError};
use crate::plan::{Capacity, Op};
use maps::Maps;
use pins::Pins;

/// Read by aya, which wants the bytes of an ELF file on an eight-byte boundary.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/policy-ebpf"));

/// Drop events that one CPU reports in one tick; the rest is only counted.
const EVENTS_PER_TICK: u32 = 16;

/// IEEE 802's ethertype for local experiments.
const LOCAL_EXPERIMENTAL: u16 = 0x88b5;

#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    #[error("this agent was built without its BPF object: build it with `cargo xtask build`")]
    NoObject,
    #[error("loading the BPF object: {0}")]
    Load(#[from] aya::EbpfError),
    #[error("the BPF object has no {0}")]
    Missing(&'static str),
    #[error("BPF program: {0}")]
    Program(#[from] aya::programs::ProgramError),
    #[error("BPF map: {0}")]
    Map(#[from] aya::maps::MapError),
    #[error("{action} {path}: {cause}")]
    Pin { action: &'static str, path: PathBuf, cause: String },
    #[error("interface {name} (index {ifindex}): {cause}")]
    Attach { name: String, ifindex: u32, cause: String },
    #[error(
        "{0} is not on a BPF file system, and it could not be mounted: {1}. \
         Mount it with `mount -t bpf bpf /sys/fs/bpf`, or name another folder with --bpffs"
    )]
    NoBpffs(PathBuf, String),
    #[error(
        "loading the BPF object: Linux before 5.11 charges it to the memory lock limit, which is {kib} KiB here and may not be \
         raised: give the agent the capability SYS_RESOURCE (the chart: securityContext.extraCapabilities={{SYS_RESOURCE}}), \
         or start it with `ulimit -l unlimited`"
    )]
    MemoryLock { kib: u64 },
}

pub struct BpfDatapath {
    ebpf: Ebpf,
    maps: Maps,
    pins: Pins,
    mode: AttachMode,
    /// Of the flow table, which may be a former agent's.
    flow_sets: u32,
    attached: BTreeMap<u32, Attached>,
}

impl std::fmt::Debug for BpfDatapath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BpfDatapath").field("attached", &self.attached).finish_non_exhaustive()
    }
}

impl BpfDatapath {
    /// Loads programs and maps beside whatever is pinned below `bpffs`; nothing moves to them yet.
    pub fn load(bpffs: &Path, capacity: &Capacity, mode: AttachMode) -> Result<Self, BpfError> {
        Self::load_object(OBJECT, bpffs, capacity, mode)
    }

    /// The same with another object than the agent's own: the bench has programs of its own in it.
    pub fn load_object(
        object: &[u8],
        bpffs: &Path,
        capacity: &Capacity,
        mode: AttachMode,
    ) -> Result<Self, BpfError> {
        let pins = Pins::open(bpffs)?;
        let mut ebpf = load_object(object, capacity, &pins).map_err(memlock::explain)?;
        pins.pin_next(&mut ebpf)?;
        let maps = Maps::take(&mut ebpf)?;
        let flow_sets = MapInfo::from_pin(pins.kept("FLOWS"))?.max_entries();
        let mut datapath = Self { ebpf, maps, pins, mode, flow_sets, attached: BTreeMap::new() };
        let (flow_seed, flow_mask) = datapath.maps.flow_table(flow_sets)?;
        let Self { maps, ebpf, .. } = &mut datapath;
        let ticks_per_second =
            maps.ticks_per_second(|| clock::ticks_per_second(program(ebpf, "read_clock")?))?;
        let settings =
            Settings { ticks_per_second, events_per_tick: EVENTS_PER_TICK, flow_mask, zero: 0, flow_seed };
        datapath.maps.set_settings(settings)?;
        datapath.attached = attach::adopt(&datapath.pins)?;
        Ok(datapath)
    }

    /// Interfaces that carry our programs, old ones of a former agent included.
    pub const fn attached(&self) -> &BTreeMap<u32, Attached> {
        &self.attached
    }

    /// Hangs the programs on both directions of an interface, or moves what hangs there to this agent's programs.
    pub fn attach(&mut self, ifindex: u32, name: &str) -> Result<(), BpfError> {
        let old = self.attached.get(&ifindex);
        if old.is_some_and(|a| a.current && a.name == name) {
            return Ok(());
        }
        for hook in Hook::BOTH {
            let program = program(&mut self.ebpf, hook.program())?;
            attach::attach(program, &self.pins, self.mode, hook, ifindex, name)?;
        }
        self.attached.insert(ifindex, Attached { name: name.to_owned(), current: true });
        Ok(())
    }

    /// What hangs on an interface may have gone with one that had its name and index before: the next `attach` looks.
    pub fn doubt(&mut self, ifindex: u32) {
        if let Some(attached) = self.attached.get_mut(&ifindex) {
            attached.current = false;
        }
    }

    /// Whether the programs hang on an interface as the kernel sees it. Where they don't, the next `attach` puts them back.
    pub fn verify(&mut self, ifindex: u32) -> Result<bool, BpfError> {
        let Some(Attached { name, .. }) = self.attached.get(&ifindex).cloned() else { return Ok(false) };
        for hook in Hook::BOTH {
            let program = program(&mut self.ebpf, hook.program())?;
            if !present::is_present(program, &self.pins, hook, ifindex, &name)? {
                self.doubt(ifindex);
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub fn detach(&mut self, ifindex: u32) -> Result<(), BpfError> {
        if let Some(attached) = self.attached.remove(&ifindex) {
            attach::detach(&self.pins, ifindex, &attached.name)?;
        }
        Ok(())
    }

    /// Every interface that should has moved: the former agent's maps and programs go.
    pub fn settle(&mut self) -> Result<(), BpfError> {
        self.pins.settle()
    }

    pub fn events(&mut self) -> Result<EventStream, BpfError> {
        self.maps.events()
    }

    /// Passes on what an object built with `--debug-log` says; nothing to do for any other.
    pub fn follow_debug_log(&mut self) {
        if self.ebpf.map("AYA_LOGS").is_none() {
            return;
        }
        match aya_log::EbpfLogger::init(&mut self.ebpf) {
            Ok(logger) => {
                tokio::spawn(pass_on(logger));
            }
            Err(error) => tracing::warn!("the object's debug log: {error}"),
        }
    }

    pub fn totals(&self) -> Result<Totals, BpfError> {
        self.maps.totals()
    }

    /// The live flows of all endpoints.
    pub fn flows(&mut self) -> Result<(Vec<FlowEntry>, u32), BpfError> {
        let now = clock::run(program(&mut self.ebpf, "read_seconds")?, &[0; 14])?;
        Ok((self.maps.flows(self.flow_sets, now)?, now))
    }

    /// Writes a flow into the table that began before anybody looked; returns whether it was new to it.
    pub fn seed(&mut self, seed: &FlowSeed) -> Result<bool, BpfError> {
        // Any ethertype that is not IP: the kernel would look for its header.
        let mut frame = [0; 14 + size_of::<FlowSeed>()];
        frame[12..14].copy_from_slice(&LOCAL_EXPERIMENTAL.to_be_bytes());
        frame[14..].copy_from_slice(bytemuck::bytes_of(seed));
        Ok(clock::run(program(&mut self.ebpf, "seed_flow")?, &frame)? == 1)
    }

    /// The kernel's numbers of the programs that hang on interfaces.
    pub fn program_ids(&mut self) -> Result<BTreeSet<u32>, BpfError> {
        let ids = Hook::BOTH.map(|hook| Ok(program(&mut self.ebpf, hook.program())?.info()?.id()));
        ids.into_iter().collect()
    }

    pub fn ebpf(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    pub fn program(&mut self, name: &'static str) -> Result<&mut SchedClassifier, BpfError> {
        program(&mut self.ebpf, name)
    }
}

impl Datapath for BpfDatapath {
    fn apply(&mut self, op: &Op) -> Result<(), WriteError> {
        self.maps.write(op).map_err(|error| WriteError { op: op.clone(), cause: error.to_string() })
    }
}

async fn pass_on<T: log::Log>(mut logger: aya_log::EbpfLogger<T>) {
    let Ok(ready) = crate::ready::readiness(&logger) else { return };
    while let Ok(mut guard) = ready.readable().await {
        logger.flush();
        guard.clear_ready();
    }
}

/// Loads the object; connection tracking and counters of a former agent are used again.
fn load_object(object: &[u8], capacity: &Capacity, pins: &Pins) -> Result<Ebpf, BpfError> {
    if object.is_empty() {
        return Err(BpfError::NoObject);
    }
    let mut loader = EbpfLoader::new();
    for (name, entries) in [
        ("BITS", capacity.words),
        ("ROWS", capacity.rows),
        ("ENDPOINTS", capacity.endpoints),
        ("SETS", capacity.endpoints),
        ("PEERS4", capacity.peers),
        ("PEERS6", capacity.peers),
        ("CIDRS4", capacity.cidrs),
        ("CIDRS6", capacity.cidrs),
        ("SOURCES", capacity.sources),
        ("FLOWS", capacity.flow_sets),
    ] {
        loader.map_max_entries(name, entries);
    }
    for name in pins::KEPT {
        loader.map_pin_path(name, pins.kept(name));
    }
    let mut ebpf = loader.load(object)?;
    for (_, program) in ebpf.programs_mut() {
        let classifier: &mut SchedClassifier = program.try_into()?;
        classifier.load()?;
    }
    Ok(ebpf)
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut SchedClassifier, BpfError> {
    Ok(ebpf.program_mut(name).ok_or(BpfError::Missing(name))?.try_into()?)
}
