//! Operations as map updates. Values go through `bytemuck` as bytes: aya's own trait would need `unsafe`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aya::Ebpf;
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, RingBuf};
use bytemuck::bytes_of;
use ipnet::IpNet;
use policy_common::flows::{FLOW_SET_HEAD, FlowEntry, FlowKey, FlowSet, FlowShape};
use policy_common::maps::{
    Addr6, BackendEntry, COUNTER_PASS_BASE, COUNTERS, Cell, Class, Counter, Endpoint, Event, EventBudget,
    Flag, IFINDEX_DIRECT, INDEX_BLOCK, INDEX_TOP, MAY_TRANSLATE, PORTS_PER_PROTOCOL, RowRef, SOURCE_KEY_BITS,
    ServiceKey, Sets, Settings, SlotRef, SourceKey, TRANSLATES, Translation, masked_bit,
};
use policy_common::translation::{flag, idle_seconds, is_live, is_of_datagrams};
use policy_common::{Direction, DropReason};
use tokio::io::unix::AsyncFd;

use super::super::{is_forsaken, is_stale};
use super::BpfError;
use super::batch::read_pinned;
use super::index4::{self, Index4};
use crate::model::services::{Backend, Frontend, Target};
use crate::plan::{Op, Present};
use crate::ready::readiness;

const ENDPOINT: usize = size_of::<Endpoint>();
const SETTINGS: usize = size_of::<Settings>();
const EVENT_BUDGET: usize = size_of::<EventBudget>();
type FlowKeyBytes = [u8; size_of::<FlowKey>()];
type Translations = HashMap<MapData, FlowKeyBytes, [u8; size_of::<Translation>()]>;
type SourceBytes = [u8; size_of::<SourceKey>()];
/// include/uapi/linux/bpf.h: the kernel copies the value under its lock.
pub(super) const BPF_F_LOCK: u64 = 4;

pub(super) struct Maps {
    slots: Array<MapData, [u8; 4]>,
    pub(super) slots_high: HashMap<MapData, u32, [u8; 4]>,
    pub(super) endpoints: Array<MapData, [u8; ENDPOINT]>,
    sets: Array<MapData, [u8; 8]>,
    pub(super) peers4: HashMap<MapData, [u8; 4], [u8; 4]>,
    pub(super) peers6: HashMap<MapData, [u8; 16], [u8; 4]>,
    pub(super) cidrs4: LpmTrie<MapData, [u8; 4], [u8; 4]>,
    pub(super) cidrs6: LpmTrie<MapData, [u8; 16], [u8; 4]>,
    ports: Array<MapData, [u8; 4]>,
    rows: Array<MapData, [u8; 4]>,
    bits: Array<MapData, u64>,
    index4: Array<MapData, [u8; 4]>,
    /// What `index4` holds.
    index: Index4,
    pub(super) sources: LpmTrie<MapData, SourceBytes, [u8; 4]>,
    vips: Array<MapData, u64>,
    backends: Array<MapData, [u8; size_of::<BackendEntry>()]>,
    pub(super) services: HashMap<MapData, [u8; size_of::<ServiceKey>()], [u8; 8]>,
    translations: Translations,
    datagrams: Translations,
    translates: Array<MapData, [u8; 4]>,
    flow_seed: Array<MapData, u64>,
    flow_shape: Array<MapData, [u8; size_of::<FlowShape>()]>,
    settings: Array<MapData, [u8; SETTINGS]>,
    counts: PerCpuArray<MapData, [u8; 16]>,
    event_budget: PerCpuArray<MapData, [u8; EVENT_BUDGET]>,
    events: Option<RingBuf<MapData>>,
}

fn take<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, BpfError>
where
    T: TryFrom<Map, Error = MapError>,
{
    Ok(T::try_from(ebpf.take_map(name).ok_or(BpfError::Missing(name))?)?)
}

impl Maps {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, BpfError> {
        let index4: Array<MapData, [u8; 4]> = take(ebpf, "INDEX4")?;
        let blocks = index4.len().saturating_sub(INDEX_TOP) / INDEX_BLOCK;
        Ok(Self {
            index4,
            index: Index4::new(blocks),
            slots: take(ebpf, "SLOTS")?,
            slots_high: take(ebpf, "SLOTS_HIGH")?,
            endpoints: take(ebpf, "ENDPOINTS")?,
            sets: take(ebpf, "SETS")?,
            peers4: take(ebpf, "PEERS4")?,
            peers6: take(ebpf, "PEERS6")?,
            cidrs4: take(ebpf, "CIDRS4")?,
            cidrs6: take(ebpf, "CIDRS6")?,
            ports: take(ebpf, "PORTS")?,
            rows: take(ebpf, "ROWS")?,
            bits: take(ebpf, "BITS")?,
            sources: take(ebpf, "SOURCES")?,
            vips: take(ebpf, "VIPS")?,
            backends: take(ebpf, "BACKENDS")?,
            services: take(ebpf, "SERVICES")?,
            translations: take(ebpf, "TRANSLATIONS")?,
            datagrams: take(ebpf, "DATAGRAMS")?,
            translates: take(ebpf, "TRANSLATES")?,
            flow_seed: take(ebpf, "FLOW_SEED")?,
            flow_shape: take(ebpf, "FLOW_SHAPE")?,
            settings: take(ebpf, "SETTINGS")?,
            counts: take(ebpf, "COUNTS")?,
            event_budget: take(ebpf, "EVENT_BUDGET")?,
            events: Some(take(ebpf, "EVENTS")?),
        })
    }

    pub(super) fn set_settings(&mut self, settings: Settings) -> Result<(), BpfError> {
        Ok(self.settings.set(0, bytemuck::cast::<Settings, [u8; SETTINGS]>(settings), 0)?)
    }

    /// What keys the hash of the flow table, and the mask that makes an index of it. The seed is as old as the table.
    /// `sets`: how many it has, which a table of a former agent tells by itself alone.
    pub(super) fn flow_table(&mut self, sets: u32) -> Result<(u64, u32), BpfError> {
        let mut seed = self.flow_seed.get(&0, 0)?;
        if seed == 0 {
            // From the kernel's generator; never zero.
            seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0) | 1;
            self.flow_seed.set(0, seed, 0)?;
        }
        // A table of another size than a power of two is used up to the largest one in it.
        Ok((seed, (1 << sets.max(1).ilog2()) - 1))
    }

    /// Ticks in a second, as the first agent measured it: with another number the table's times would mean nothing.
    pub(super) fn ticks_per_second(
        &mut self,
        measure: impl FnOnce() -> Result<u32, BpfError>,
    ) -> Result<u32, BpfError> {
        let kept = u32::try_from(self.flow_seed.get(&1, 0)?).unwrap_or(0);
        if kept != 0 {
            return Ok(kept);
        }
        let measured = measure()?;
        self.flow_seed.set(1, u64::from(measured), 0)?;
        Ok(measured)
    }

    /// Every flow that is live at `now`, each set read under its lock. `table`: the pin of the flow table, which may have
    /// another size than this agent would give it.
    pub(super) fn flows(&self, table: &Path, now: u32) -> Result<Vec<FlowEntry>, BpfError> {
        let bytes = read_pinned(table, BPF_F_LOCK)?;
        let entries = bytes
            .chunks_exact(size_of::<FlowSet>())
            .filter_map(|set| set.get(FLOW_SET_HEAD..))
            .flat_map(|entries| entries.chunks_exact(size_of::<FlowEntry>()));
        let read = |bytes| bytemuck::checked::try_pod_read_unaligned::<FlowEntry>(bytes).ok();
        Ok(entries.filter_map(read).filter(|entry| entry.is_live(now)).collect())
    }

    /// Tells agents of other versions how the flow table is to be read; and a new table counts time as those beside it
    /// do, so that what is carried over lives as long as it would have.
    pub(super) fn inherit(&mut self, others: &[PathBuf]) -> Result<(), BpfError> {
        self.flow_shape.set(0, bytemuck::cast::<_, [u8; size_of::<FlowShape>()]>(FlowShape::OWN), 0)?;
        for other in others {
            if self.flow_seed.get(&1, 0)? != 0 {
                break;
            }
            let seed = Map::Array(MapData::from_pin(other.join("FLOW_SEED"))?);
            let seed: Array<MapData, u64> = seed.try_into()?;
            self.flow_seed.set(1, seed.get(&1, 0)?, 0)?;
        }
        Ok(())
    }

    /// The index is no table that is taken over: it follows from those that are.
    pub(super) fn fill_index(&mut self, present: &Present) -> Result<(), BpfError> {
        for (net, class) in &present.cidrs {
            if let IpNet::V4(net) = net {
                let writes = self.index.set_prefix(*net, Some(*class));
                self.write_index(writes)?;
            }
        }
        for (address, class) in &present.peers {
            if let IpAddr::V4(v4) = address {
                let writes = self.index.set_exact(*v4, Some(*class));
                self.write_index(writes)?;
            }
        }
        Ok(())
    }

    pub(super) fn write(&mut self, op: &Op) -> Result<(), MapError> {
        match *op {
            Op::Word { index, value } => self.bits.set(index, value, 0),
            Op::Row { index, word } => self.rows.set(index, four(RowRef { word }), 0),
            Op::Port { protocol, port, class } => {
                let index = protocol.index() * PORTS_PER_PROTOCOL + u32::from(port);
                self.ports.set(index, four(Class { class }), 0)
            }
            Op::Peer { address, class } => self.write_peer(address, class),
            Op::Cidr { net, class } => self.write_cidr(net, class),
            Op::Endpoint { slot, endpoint } => {
                self.endpoints.set(slot, bytemuck::cast::<Endpoint, [u8; ENDPOINT]>(endpoint), 0)
            }
            Op::Watch { slot, on } => {
                let bytes = self.endpoints.get(&slot, 0)?;
                let endpoint = Endpoint { watch: on.into(), ..bytemuck::cast::<_, Endpoint>(bytes) };
                self.endpoints.set(slot, bytemuck::cast::<Endpoint, [u8; ENDPOINT]>(endpoint), 0)
            }
            Op::Source { ifindex, net, allowed } => self.write_source(ifindex, net, allowed),
            Op::Sets { slot, sets } => self.sets.set(slot, bytemuck::cast::<Sets, [u8; 8]>(sets), 0),
            Op::Slot { ifindex, slot } => self.write_slot(ifindex, slot),
            Op::Vips { index, bits } => self.vips.set(index, bits, 0),
            Op::Backend { index, entry } => {
                self.backends.set(index, bytemuck::cast::<_, [u8; size_of::<BackendEntry>()]>(entry), 0)
            }
            Op::Service { frontend, to } => {
                let key: [u8; size_of::<ServiceKey>()] = bytemuck::cast(service_key(&frontend));
                match to {
                    Some(to) => self.services.insert(key, bytemuck::cast::<_, [u8; 8]>(to), 0),
                    None => self.services.remove(&key),
                }
            }
            Op::Forsake { ref gone } => self.forsake(gone),
            Op::Barrier => {
                barrier();
                self.index.barrier();
                Ok(())
            }
        }
    }

    /// What is translated by us already is not touched. The flow lives so many seconds, if nothing more comes.
    pub(super) fn follow(
        &mut self,
        key: &FlowKey,
        to: SocketAddr,
        flags: u16,
        seconds: u32,
        now: u32,
    ) -> Result<(), BpfError> {
        let key_bytes: FlowKeyBytes = bytemuck::cast(*key);
        let translations = if is_of_datagrams(key) { &mut self.datagrams } else { &mut self.translations };
        match translations.get(&key_bytes, 0) {
            Ok(bytes) if is_own(&bytemuck::cast::<_, Translation>(bytes), key, now) => return Ok(()),
            Ok(_) | Err(MapError::KeyNotFound) => {}
            Err(error) => return Err(error.into()),
        }
        let idle = idle_seconds(key, flags);
        let value = Translation {
            address: Addr6::of(to.ip()).0,
            port: to.port(),
            flags,
            seen: now.wrapping_sub(idle - seconds.min(idle)),
        };
        let bytes: [u8; size_of::<Translation>()] = bytemuck::cast(value);
        translations.insert(key_bytes, bytes, 0)?;
        let cell = key.ifindex % TRANSLATES;
        let bits = match flags & flag::MASKED {
            0 => MAY_TRANSLATE,
            _ => MAY_TRANSLATE | masked_bit(&key.remote.words()),
        };
        let set = u32::from_ne_bytes(self.translates.get(&cell, 0)?) | bits;
        Ok(self.translates.set(cell, four(Flag { set }), 0)?)
    }

    fn forsake(&mut self, gone: &BTreeSet<(Frontend, Backend)>) -> Result<(), MapError> {
        self.remove_translations(|key, value| is_forsaken(gone, key, value))
    }

    /// What led elsewhere while nobody looked.
    pub(super) fn forsake_stale(&mut self, frontends: &BTreeMap<Frontend, Target>) -> Result<(), MapError> {
        self.remove_translations(|key, value| is_stale(frontends, key, value))
    }

    /// The maps change while they are read: an entry that is skipped or met twice is one of somebody else's.
    fn remove_translations(
        &mut self,
        is_over: impl Fn(&FlowKey, &Translation) -> bool,
    ) -> Result<(), MapError> {
        for translations in [&mut self.translations, &mut self.datagrams] {
            let entries = translations.iter().filter_map(Result::ok);
            let over = entries.filter(|(key, value)| is_over(&bytemuck::cast(*key), &bytemuck::cast(*value)));
            for key in over.map(|(key, _)| key).collect::<Vec<FlowKeyBytes>>() {
                match translations.remove(&key) {
                    Ok(()) | Err(MapError::KeyNotFound) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    fn write_peer(&mut self, address: IpAddr, class: Option<u32>) -> Result<(), MapError> {
        if let IpAddr::V4(v4) = address {
            self.make_room_in_index();
            let writes = self.index.set_exact(v4, class);
            self.write_index(writes)?;
        }
        match (address, class) {
            (IpAddr::V4(v4), Some(class)) => self.peers4.insert(v4.octets(), four(Class { class }), 0),
            (IpAddr::V6(v6), Some(class)) => self.peers6.insert(v6.octets(), four(Class { class }), 0),
            (IpAddr::V4(v4), None) => self.peers4.remove(&v4.octets()),
            (IpAddr::V6(v6), None) => self.peers6.remove(&v6.octets()),
        }
    }

    fn write_cidr(&mut self, net: IpNet, class: Option<u32>) -> Result<(), MapError> {
        match net {
            IpNet::V4(net) => {
                self.make_room_in_index();
                let writes = self.index.set_prefix(net, class);
                self.write_index(writes)?;
                let key = Key::new(u32::from(net.prefix_len()), net.network().octets());
                match class {
                    Some(class) => self.cidrs4.insert(&key, four(Class { class }), 0),
                    None => self.cidrs4.remove(&key),
                }
            }
            IpNet::V6(net) => {
                let key = Key::new(u32::from(net.prefix_len()), net.network().octets());
                match class {
                    Some(class) => self.cidrs6.insert(&key, four(Class { class }), 0),
                    None => self.cidrs6.remove(&key),
                }
            }
        }
    }

    /// Most plans have no barrier, so that the index may come to need one of its own.
    fn make_room_in_index(&mut self) {
        if self.index.wants_barrier() {
            barrier();
            self.index.barrier();
        }
    }

    fn write_index(&mut self, writes: Vec<index4::Write>) -> Result<(), MapError> {
        writes.into_iter().try_for_each(|(cell, class)| self.index4.set(cell, four(Cell { class }), 0))
    }

    fn write_source(&mut self, ifindex: u32, net: IpNet, allowed: bool) -> Result<(), MapError> {
        let (address, family) = Addr6::of(net.network());
        let source = SourceKey { ifindex: ifindex.to_be_bytes(), family: [family, 0, 0, 0], address };
        let key = Key::new(
            SOURCE_KEY_BITS + u32::from(net.prefix_len()),
            bytemuck::cast::<SourceKey, SourceBytes>(source),
        );
        if allowed {
            self.sources.insert(&key, four(Class { class: 1 }), 0)
        } else {
            self.sources.remove(&key)
        }
    }

    fn write_slot(&mut self, ifindex: u32, slot: Option<u32>) -> Result<(), MapError> {
        let value = four(SlotRef { slot_plus_one: slot.map_or(0, |slot| slot + 1) });
        if ifindex < IFINDEX_DIRECT {
            self.slots.set(ifindex, value, 0)
        } else if slot.is_some() {
            self.slots_high.insert(ifindex, value, 0)
        } else {
            self.slots_high.remove(&ifindex)
        }
    }

    pub(super) fn events(&mut self) -> Result<EventStream, BpfError> {
        let ring = self.events.take().ok_or(BpfError::Missing("EVENTS (taken twice)"))?;
        let ready = readiness(&ring).map_err(MapError::IoError)?;
        Ok(EventStream { ring, ready })
    }

    /// Drops that were counted and not reported.
    pub(super) fn lost_events(&self) -> Result<u64, BpfError> {
        let each = self.event_budget.get(&0, 0)?;
        let lost = |bytes: &[u8; EVENT_BUDGET]| bytemuck::pod_read_unaligned::<EventBudget>(bytes).suppressed;
        Ok(each.iter().map(lost).fold(0, u64::wrapping_add))
    }

    /// Blocks of the index that are in use.
    pub(super) const fn index_blocks(&self) -> u64 {
        self.index.blocks_in_use()
    }

    pub(super) fn totals(&self) -> Result<Totals, BpfError> {
        let mut totals = Totals::default();
        for index in 0..COUNTERS {
            let sum = self.counts.get(&index, 0)?.iter().fold(Counter::default(), |sum, bytes| {
                let counter: Counter = bytemuck::pod_read_unaligned(bytes);
                Counter {
                    packets: sum.packets.wrapping_add(counter.packets),
                    bytes: sum.bytes.wrapping_add(counter.bytes),
                }
            });
            totals.0.push(sum);
        }
        Ok(totals)
    }
}

/// A live translation of ours, not one that the node makes.
const fn is_own(entry: &Translation, key: &FlowKey, now: u32) -> bool {
    entry.flags & flag::FOLLOWED == 0 && is_live(entry, key, now)
}

fn service_key(frontend: &Frontend) -> ServiceKey {
    let (address, family) = Addr6::of(frontend.address);
    ServiceKey { address, port: frontend.port, protocol: frontend.protocol.number(), family }
}

/// Every value of four bytes is one number.
fn four<T: bytemuck::NoUninit>(value: T) -> [u8; 4] {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(bytes_of(&value));
    bytes
}

/// `MEMBARRIER_CMD_GLOBAL` waits for an RCU grace period (kernel/sched/membarrier.c), and classifiers run within RCU
/// read sections: when it returns, no program runs that began before.
fn barrier() {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    #[expect(unsafe_code, reason = "membarrier has no wrapper in libc or nix")]
    // SAFETY: the call takes numbers and touches no memory of ours.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result != 0 {
        // A kernel booted with nohz_full refuses it: a program runs for microseconds, so a pause is ample.
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// What the programs counted, by reason and direction.
#[derive(Clone, Debug, Default)]
pub struct Totals(Vec<Counter>);

impl Totals {
    pub fn dropped(&self, reason: DropReason, direction: Direction) -> Counter {
        self.at(reason as u32 * 2 + direction as u32)
    }

    pub fn passed(&self, reason: policy_common::PassReason, direction: Direction) -> Counter {
        self.at(COUNTER_PASS_BASE + reason as u32 * 2 + direction as u32)
    }

    fn at(&self, index: u32) -> Counter {
        self.0.get(index as usize).copied().unwrap_or_default()
    }
}

/// Dropped packets, as the programs report them.
pub struct EventStream {
    ring: RingBuf<MapData>,
    ready: AsyncFd<OwnedFd>,
}

impl std::fmt::Debug for EventStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventStream").finish_non_exhaustive()
    }
}

impl EventStream {
    /// Waits for events; items that are no event of this version are skipped.
    pub async fn next(&mut self) -> std::io::Result<Arc<[Event]>> {
        loop {
            let mut guard = self.ready.readable().await?;
            let mut events = Vec::new();
            while let Some(item) = self.ring.next() {
                if let Ok(event) = bytemuck::try_pod_read_unaligned(&item) {
                    events.push(event);
                }
            }
            guard.clear_ready();
            if !events.is_empty() {
                return Ok(events.into());
            }
        }
    }
}
