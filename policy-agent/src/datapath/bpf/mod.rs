//! The datapath in the kernel: the loaded object, its maps, its pins and the interfaces that it hangs on.
//!
//! A *generation* is a set of tables with the programs that read them. A starting agent takes over the tables of the
//! one before, under programs of its own; where it cannot (another layout, other sizes, an agent that died between two
//! generations), and where tables must grow, it fills a generation of its own while the old one goes on enforcing, and
//! moves the links one by one. Connections and counters belong to no generation (`pins.rs`).

mod attach;
mod batch;
mod btf;
mod carry;
mod clock;
mod conntrack;
mod contents;
mod index4;
mod maps;
mod memlock;
mod pins;
mod present;
mod qdisc;
mod sys;
mod tcx;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use aya::maps::MapInfo;
use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader};
use policy_common::flows::{FlowEntry, FlowKey, FlowSeed, WAYS};
use policy_common::maps::{INDEX_BLOCK, INDEX_TOP, Settings};
use policy_common::translation::flag;

pub use attach::{AttachMode, Attached, Hook};
pub use maps::{EventStream, Totals};
pub use pins::{pinned_capacity, uninstall};
pub use present::{Expected, Inspector, Loss, Lost};
pub use tcx::has_tcx;

use super::{Datapath, WriteError};
use crate::endpoints;
use crate::model::services::{Frontend, Target};
use crate::plan::{Capacity, Op, Present};
use attach::{Hold, Place};
use carry::Former;
use conntrack::Layout;
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
    #[error("another agent runs with --bpffs {0}: each needs a folder of its own")]
    InUse(PathBuf),
    #[error("--attach tcx: this kernel has no tcx, which came with Linux 6.6: use auto or clsact")]
    NoTcx,
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
    generation: Generation,
    pins: Pins,
    mode: AttachMode,
    attached: BTreeMap<u32, Attached>,
    holds: BTreeMap<(u32, Hook), Hold>,
    /// Connections that an agent with another layout of the flow table has left.
    former: Option<Former>,
}

struct Generation {
    ebpf: Ebpf,
    maps: Maps,
    /// Of the flow table, which may be a former agent's.
    flow_sets: u32,
    /// Its tables are those of the agent before, and what they hold has not been looked at yet.
    is_adopted: bool,
    /// It judges masqueraded packets by the address that they were sent from.
    unmasks: bool,
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
        let mode = mode.resolve()?;
        let pins = Pins::open(bpffs)?;
        let is_adopted = pins.can_be_adopted(&sizes(capacity));
        let has_flows = pins.flows("FLOWS").exists();
        let generation = Generation::load(object, capacity, &pins, is_adopted)?;
        let attached = attach::adopt(&pins)?;
        let holds = BTreeMap::new();
        let mut datapath = Self { generation, pins, mode, attached, holds, former: None };
        if !has_flows {
            datapath.former = Former::find(&datapath.pins)?;
            datapath.carry(None)?;
        }
        Ok(datapath)
    }

    /// What the tables hold that were taken over from an agent before this one; `None` where it fills its own.
    pub fn present(&mut self) -> Result<Option<Present>, BpfError> {
        if !self.generation.is_adopted {
            return Ok(None);
        }
        let present = self.generation.maps.present(&self.pins)?;
        self.generation.maps.fill_index(&present)?;
        Ok(Some(present))
    }

    /// Moves the interfaces that are known to adopted tables to this agent's programs: from here on only these may read
    /// them, and they may change.
    pub fn take_over(&mut self, present: &BTreeMap<u32, u32>) -> Result<(), BpfError> {
        let known: Vec<(u32, String)> = self
            .attached
            .iter()
            .filter(|(ifindex, _)| present.contains_key(ifindex))
            .map(|(ifindex, attached)| (*ifindex, attached.name.clone()))
            .collect();
        known.into_iter().try_for_each(|(ifindex, name)| self.attach(ifindex, &name))?;
        self.generation.is_adopted = false;
        Ok(())
    }

    /// Begins a generation with tables of these sizes, empty. The one before stays in force on every interface until
    /// `attach` moves it. After an error nothing has changed.
    pub fn renew(&mut self, capacity: &Capacity) -> Result<(), BpfError> {
        self.generation = Generation::load(OBJECT, capacity, &self.pins, false)?;
        for attached in self.attached.values_mut() {
            attached.current = false;
        }
        Ok(())
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
            let program = self.generation.program(hook.program())?;
            let held = self.holds.get(&(ifindex, hook));
            let hold = attach::attach(program, &self.pins, self.mode, Place { ifindex, name, hook }, held)?;
            self.holds.insert((ifindex, hook), hold);
        }
        self.attached.insert(ifindex, Attached { name: name.to_owned(), current: true });
        // What was opened since the first look.
        self.carry(Some(ifindex))
    }

    /// Writes the former layout's connections into the flow table, of all interfaces or of one.
    fn carry(&mut self, ifindex: Option<u32>) -> Result<(), BpfError> {
        let Some(former) = &self.former else { return Ok(()) };
        let now = clock::run(self.generation.program("read_seconds")?, &[0; 14])?;
        let seeds = former.live(now, ifindex)?;
        seeds.iter().try_for_each(|seed| self.seed(seed).map(drop))
    }

    /// What hangs on an interface may have gone with one that had its name and index before: the next `attach` looks.
    pub fn doubt(&mut self, ifindex: u32) {
        if let Some(attached) = self.attached.get_mut(&ifindex) {
            attached.current = false;
        }
    }

    /// Whether the programs hang on an interface as the kernel sees it. Where they don't, the next `attach` puts them back.
    pub fn verify(&mut self, ifindex: u32) -> Result<bool, BpfError> {
        Ok(self.lost(ifindex)?.is_some_and(|lost| lost.is_empty()))
    }

    /// What somebody took off an interface, which the next `attach` then puts back. `None`: this agent has not hung its
    /// programs there, or the interface is another one by now.
    pub fn lost(&mut self, ifindex: u32) -> Result<Option<Vec<Lost>>, BpfError> {
        let hung = |attached: &&Attached| {
            attached.current && endpoints::interface_name(ifindex).is_some_and(|name| name == attached.name)
        };
        if self.attached.get(&ifindex).filter(hung).is_none() {
            return Ok(None);
        }
        let expected: Vec<Expected> =
            self.expected().filter(|expected| expected.ifindex() == ifindex).collect();
        let links = self.pins.links_folder();
        let lost = self.inspector().look(&expected).map_err(|e| pins::failed("asking about", &links, &e))?;
        if !lost.is_empty() {
            self.doubt(ifindex);
        }
        Ok(Some(lost))
    }

    /// What should hang on all interfaces.
    pub fn expected(&self) -> impl Iterator<Item = Expected> {
        self.holds.iter().map(|((ifindex, hook), hold)| Expected::new(*ifindex, *hook, hold))
    }

    /// Looks whether it does.
    pub fn inspector(&self) -> Inspector {
        Inspector::new(self.pins.links_folder())
    }

    /// Whether the programs hang as filters on clsact qdiscs.
    pub fn uses_filters(&self) -> bool {
        self.mode == AttachMode::Clsact
    }

    pub fn detach(&mut self, ifindex: u32) -> Result<(), BpfError> {
        if let Some(attached) = self.attached.remove(&ifindex) {
            self.holds.retain(|(of, _), _| *of != ifindex);
            attach::detach(&self.pins, ifindex, &attached.name)?;
        }
        Ok(())
    }

    /// Every interface that should has moved: the former agent's maps and programs go.
    pub fn settle(&mut self) -> Result<(), BpfError> {
        self.former = None;
        self.pins.settle()
    }

    pub fn events(&mut self) -> Result<EventStream, BpfError> {
        self.generation.maps.events()
    }

    /// Passes on what an object built with `--debug-log` says; nothing to do for any other.
    pub fn follow_debug_log(&mut self) {
        if self.generation.ebpf.map("AYA_LOGS").is_none() {
            return;
        }
        match aya_log::EbpfLogger::init(&mut self.generation.ebpf) {
            Ok(logger) => {
                tokio::spawn(pass_on(logger));
            }
            Err(error) => tracing::warn!("the object's debug log: {error}"),
        }
    }

    /// Dropped packets that were counted and not reported, because too many were dropped at once.
    pub fn lost_events(&self) -> Result<u64, BpfError> {
        self.generation.maps.lost_events()
    }

    /// How many entries the flow table has, which may be a former agent's.
    pub const fn flow_entries(&self) -> u64 {
        self.generation.flow_sets as u64 * WAYS as u64
    }

    /// Blocks of the IPv4 index in use.
    pub const fn index_blocks(&self) -> u64 {
        self.generation.maps.index_blocks()
    }

    pub fn totals(&self) -> Result<Totals, BpfError> {
        self.generation.maps.totals()
    }

    /// The live flows of all endpoints.
    pub fn flows(&mut self) -> Result<(Vec<FlowEntry>, u32), BpfError> {
        let now = clock::run(self.generation.program("read_seconds")?, &[0; 14])?;
        Ok((self.generation.maps.flows(&self.pins.flows("FLOWS"), now)?, now))
    }

    /// Writes a flow into the table that began before anybody looked; returns whether it was new to it.
    pub fn seed(&mut self, seed: &FlowSeed) -> Result<bool, BpfError> {
        // Any ethertype that is not IP: the kernel would look for its header.
        let mut frame = [0; 14 + size_of::<FlowSeed>()];
        frame[12..14].copy_from_slice(&LOCAL_EXPERIMENTAL.to_be_bytes());
        frame[14..].copy_from_slice(bytemuck::bytes_of(seed));
        Ok(clock::run(self.generation.program("seed_flow")?, &frame)? == 1)
    }

    /// A flow to a Service that the node translates: it is judged by who really answers, and left as it is.
    /// It has so many seconds to live, and is ending or not.
    pub fn follow(
        &mut self,
        key: &FlowKey,
        backend: SocketAddr,
        seconds: u32,
        ends: bool,
    ) -> Result<(), BpfError> {
        let now = clock::run(self.generation.program("read_seconds")?, &[0; 14])?;
        self.generation.maps.follow(key, backend, flag::FOLLOWED | closing(ends), seconds, now)
    }

    /// A flow that the node has masqueraded: its answers are judged by where it comes from. Returns whether its packets are.
    pub fn unmask(
        &mut self,
        key: &FlowKey,
        source: SocketAddr,
        seconds: u32,
        ends: bool,
    ) -> Result<bool, BpfError> {
        if self.generation.unmasks {
            let now = clock::run(self.generation.program("read_seconds")?, &[0; 14])?;
            let flags = flag::FOLLOWED | flag::MASKED | closing(ends);
            self.generation.maps.follow(key, source, flags, seconds, now)?;
        }
        Ok(self.generation.unmasks)
    }

    /// Lets datagrams and clients that keep to an endpoint choose anew where theirs is none any more.
    pub fn forsake_stale(&mut self, frontends: &BTreeMap<Frontend, Target>) -> Result<(), BpfError> {
        Ok(self.generation.maps.forsake_stale(frontends)?)
    }

    /// The kernel's numbers of the programs that hang on interfaces.
    pub fn program_ids(&mut self) -> Result<BTreeSet<u32>, BpfError> {
        let ids = Hook::BOTH.map(|hook| Ok(self.generation.program(hook.program())?.info()?.id()));
        ids.into_iter().collect()
    }

    pub fn ebpf(&mut self) -> &mut Ebpf {
        &mut self.generation.ebpf
    }

    pub fn program(&mut self, name: &'static str) -> Result<&mut SchedClassifier, BpfError> {
        self.generation.program(name)
    }
}

impl Generation {
    fn load(object: &[u8], capacity: &Capacity, pins: &Pins, is_adopted: bool) -> Result<Self, BpfError> {
        pins.begin()?;
        let layout = Layout::find();
        if let Err(why) = &layout {
            tracing::warn!(
                "masqueraded traffic is judged by the node's address: connection tracking cannot be read: {why}"
            );
        }
        let layout = layout.ok();
        let mut ebpf =
            load_object(object, capacity, pins, is_adopted, layout.as_ref()).map_err(memlock::explain)?;
        pins.pin_next(&mut ebpf)?;
        let maps = Maps::take(&mut ebpf)?;
        let flow_sets = MapInfo::from_pin(pins.flows("FLOWS"))?.max_entries();
        let mut generation = Self { ebpf, maps, flow_sets, is_adopted, unmasks: layout.is_some() };
        generation.maps.inherit(&pins.other_flows()?)?;
        let (flow_seed, flow_mask) = generation.maps.flow_table(flow_sets)?;
        let Self { maps, ebpf, .. } = &mut generation;
        let ticks_per_second =
            maps.ticks_per_second(|| clock::ticks_per_second(program(ebpf, "read_clock")?))?;
        let settings =
            Settings { ticks_per_second, events_per_tick: EVENTS_PER_TICK, flow_mask, zero: 0, flow_seed };
        generation.maps.set_settings(settings)?;
        Ok(generation)
    }

    fn program(&mut self, name: &'static str) -> Result<&mut SchedClassifier, BpfError> {
        program(&mut self.ebpf, name)
    }
}

impl Datapath for BpfDatapath {
    fn apply(&mut self, op: &Op) -> Result<(), WriteError> {
        self.generation
            .maps
            .write(op)
            .map_err(|error| WriteError { op: op.clone(), cause: error.to_string() })
    }
}

const fn closing(ends: bool) -> u16 {
    if ends { flag::CLOSING } else { 0 }
}

async fn pass_on<T: log::Log>(mut logger: aya_log::EbpfLogger<T>) {
    let Ok(ready) = crate::ready::readiness(&logger) else { return };
    while let Ok(mut guard) = ready.readable().await {
        logger.flush();
        guard.clear_ready();
    }
}

/// The tables whose sizes are chosen.
const fn sizes(capacity: &Capacity) -> [(&'static str, u32); 15] {
    [
        ("BITS", capacity.words),
        ("ROWS", capacity.rows),
        ("ENDPOINTS", capacity.endpoints),
        ("SETS", capacity.endpoints),
        ("PEERS4", capacity.peers),
        ("PEERS6", capacity.peers),
        ("CIDRS4", capacity.cidrs),
        ("CIDRS6", capacity.cidrs),
        ("SOURCES", capacity.sources),
        ("SERVICES", capacity.services),
        ("BACKENDS", capacity.backends),
        ("TRANSLATIONS", capacity.flow_sets),
        ("DATAGRAMS", capacity.flow_sets / 2),
        ("FLOWS", capacity.flow_sets),
        ("INDEX4", INDEX_TOP + capacity.index_blocks * INDEX_BLOCK),
    ]
}

/// Loads the object; connections and counters of a former agent are used again, and its tables where they are adopted.
fn load_object(
    object: &[u8],
    capacity: &Capacity,
    pins: &Pins,
    is_adopted: bool,
    layout: Option<&Layout>,
) -> Result<Ebpf, BpfError> {
    if object.is_empty() {
        return Err(BpfError::NoObject);
    }
    let mut loader = EbpfLoader::new();
    for (name, entries) in sizes(capacity) {
        loader.map_max_entries(name, entries);
    }
    for (name, path) in pins.kept() {
        loader.map_pin_path(name, path);
    }
    if is_adopted {
        for name in pins::TABLES {
            loader.map_pin_path(name, pins.table(name));
        }
    }
    if let Some(layout) = layout {
        loader.override_global("NFCT_OFFSET", &layout.nfct, true);
        loader.override_global("TUPLES_OFFSET", &layout.tuples, true);
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
