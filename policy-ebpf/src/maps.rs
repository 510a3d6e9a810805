//! The maps, with BTF so that `bpftool map dump` prints names. Sizes are defaults: the loader sets them.

use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf};
use aya_ebpf::macros::btf_map;
use policy_common::flows::{FlowKey, FlowSet, FlowShape};
use policy_common::maps::{
    Addr4, Addr6, BackendEntry, COUNTERS, Cell, Class, Counter, Endpoint, Event, EventBudget, Flag,
    IFINDEX_DIRECT, INDEX_BLOCK, INDEX_TOP, PORT_PROTOCOLS, PORTS_PER_PROTOCOL, RowRef, ServiceKey,
    ServiceRef, Sets, Settings, SlotRef, SourceKey, TRANSLATES as TRANSLATES_CELLS, Translation, VIP_WORDS,
    Word,
};
use policy_common::parse::Scratch;

/// Interface index -> slot, for the indices of every ordinary node.
#[btf_map]
pub(crate) static SLOTS: Array<SlotRef, { IFINDEX_DIRECT as usize }> = Array::new();

/// Interface index -> slot, for larger indices.
#[btf_map]
pub(crate) static SLOTS_HIGH: HashMap<u32, SlotRef, 4096> = HashMap::new();

#[btf_map]
pub(crate) static ENDPOINTS: Array<Endpoint, 1024> = Array::new();

#[btf_map]
pub(crate) static SETS: Array<Sets, 1024> = Array::new();

/// Classes of exact addresses: pods and the node's own.
#[btf_map]
pub(crate) static PEERS4: HashMap<Addr4, Class, 131_072, 1> = HashMap::new();

#[btf_map]
pub(crate) static PEERS6: HashMap<Addr6, Class, 131_072, 1> = HashMap::new();

/// Classes of prefixes; never of pods.
#[btf_map]
pub(crate) static CIDRS4: LpmTrie<Addr4, Class, 131_072> = LpmTrie::new();

#[btf_map]
pub(crate) static CIDRS6: LpmTrie<Addr6, Class, 131_072> = LpmTrie::new();

/// The same for IPv4 as cells of an index: the hash and the trie are asked only where it has no room.
#[btf_map]
pub(crate) static INDEX4: Array<Cell, { (INDEX_TOP + 8192 * INDEX_BLOCK) as usize }> = Array::new();

/// Classes of ports: TCP, UDP, SCTP one after the other.
#[btf_map]
pub(crate) static PORTS: Array<Class, { (PORT_PROTOCOLS * PORTS_PER_PROTOCOL) as usize }> = Array::new();

/// (policy set, peer class) -> row.
#[btf_map]
pub(crate) static ROWS: Array<RowRef, 1_048_576> = Array::new();

/// The rows: one bit for each port class.
#[btf_map]
pub(crate) static BITS: Array<Word, 262_144> = Array::new();

/// Who opened which flow, and which datagrams' first fragments were allowed.
#[btf_map]
pub(crate) static FLOWS: Array<FlowSet, 16_384> = Array::new();

/// What the hash of `FLOWS` is keyed with, and how many ticks make a second of theirs: both live as long as they do. For
/// the agents; the program has them from its settings.
#[btf_map]
pub(crate) static FLOW_SEED: Array<u64, 2> = Array::new();

/// Where things stand in `FLOWS`, for agents of other versions.
#[btf_map]
pub(crate) static FLOW_SHAPE: Array<FlowShape, 1> = Array::new();

/// Addresses that some Service may have: a bit for each by its hash.
#[btf_map]
pub(crate) static VIPS: Array<Word, { VIP_WORDS as usize }> = Array::new();

/// Frontends of Services, and which list of backends each has.
#[btf_map]
pub(crate) static SERVICES: HashMap<ServiceKey, ServiceRef, 65_536, 1> = HashMap::new();

/// The lists, one after the other.
#[btf_map]
pub(crate) static BACKENDS: Array<BackendEntry, 131_072> = Array::new();

/// Connections to Services, and what clients keep to. The least recently used go first.
#[btf_map]
pub(crate) static TRANSLATIONS: LruHashMap<FlowKey, Translation, 32_768> = LruHashMap::new();

/// Datagrams to Services, and those in fragments: they push out none of the connections.
#[btf_map]
pub(crate) static DATAGRAMS: LruHashMap<FlowKey, Translation, 32_768> = LruHashMap::new();

/// Whether something of a pod is in `TRANSLATIONS` or `DATAGRAMS`, by the lower bits of its interface index.
#[btf_map]
pub(crate) static TRANSLATES: Array<Flag, { TRANSLATES_CELLS as usize }> = Array::new();

/// Addresses that a pod may send from beside its own.
#[btf_map]
pub(crate) static SOURCES: LpmTrie<SourceKey, Class, 16_384> = LpmTrie::new();

#[btf_map]
pub(crate) static COUNTS: PerCpuArray<Counter, { COUNTERS as usize }> = PerCpuArray::new();

#[btf_map]
pub(crate) static SETTINGS: Array<Settings, 1> = Array::new();

/// The packet at hand, parsed. In a map rather than on the stack, because the verifier follows every constant on the
/// stack and would check the decision once for each way through the parser (500,000 instructions instead of a few
/// thousand). A classifier runs to its end on its CPU with softirqs off, so that one slot is enough.
#[btf_map]
pub(crate) static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

#[btf_map]
pub(crate) static EVENT_BUDGET: PerCpuArray<EventBudget, 1> = PerCpuArray::new();

#[btf_map]
pub(crate) static EVENTS: RingBuf<Event, 262_144> = RingBuf::new();
