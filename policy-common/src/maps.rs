//! Keys and values of the BPF maps. `bytemuck` proves at compile time that nothing is padded; ports and indices are
//! in host byte order and addresses are bytes in reading order, so that `bpftool map dump` can be read as it is.

use core::net::IpAddr;

use bytemuck::{Pod, Zeroable};

/// The layout of all maps but those of the connections. Agents of another layout fill tables of their own beside these;
/// whoever changes a key, a value or what one means gives it a new number.
pub const LAYOUT: u32 = if cfg!(feature = "next-layout") { 2 } else { 1 };

/// A class that the compiler never hands out: addresses that no rule names, and ports that none names (with the
/// protocols that have no ports, which only a rule without `ports` allows too).
pub const CLASS_NONE: u32 = 0;

/// Ports of one protocol in `PORTS`.
pub const PORTS_PER_PROTOCOL: u32 = 65_536;
/// Protocols with ports in NetworkPolicy: TCP, UDP, SCTP.
pub const PORT_PROTOCOLS: u32 = 3;
/// Interface indices below this are looked up in an array; above it in a hash.
pub const IFINDEX_DIRECT: u32 = 65_536;
/// Bits of one word of a row.
pub const WORD_BITS: u32 = 64;
/// One counter for each (reason, direction): `number * 2 + direction`; drops first, passes behind them.
pub const COUNTERS: u32 = 128;
pub const COUNTER_PASS_BASE: u32 = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
#[repr(C, align(4))]
pub struct Addr4 {
    pub addr: [u8; 4],
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
#[repr(C, align(4))]
pub struct Addr6 {
    pub addr: [u8; 16],
}

/// An address as the engine handles it: four words in the byte order of memory, an IPv4 address in the first, the rest
/// zero. BPF loads and compares words at once, bytes one by one.
pub type Words = [u32; 4];

impl Addr4 {
    #[inline(always)]
    pub fn from_words(words: &Words) -> Self {
        bytemuck::cast(words[0])
    }

    #[inline(always)]
    pub fn word(&self) -> u32 {
        bytemuck::cast(*self)
    }
}

impl Addr6 {
    pub const ZERO: Self = Self { addr: [0; 16] };

    #[inline(always)]
    pub fn from_words(words: &Words) -> Self {
        // Word by word: of the whole the compiler makes a call in BPF.
        let [a, b, c, d] = *words;
        bytemuck::cast([a, b, c, d])
    }

    #[inline(always)]
    pub fn words(&self) -> Words {
        bytemuck::cast(*self)
    }

    /// An address of either family as such keys hold it, with the family's number.
    pub fn of(address: IpAddr) -> (Self, u8) {
        match address {
            IpAddr::V4(v4) => (Self::from_words(&[u32::from_ne_bytes(v4.octets()), 0, 0, 0]), 4),
            IpAddr::V6(v6) => (Self { addr: v6.octets() }, 6),
        }
    }

    /// The address that a key of this family holds.
    pub fn ip(self, family: u8) -> IpAddr {
        if family == 4 { self.v4().into() } else { self.addr.into() }
    }

    /// The IPv4 address in a key that serves both families.
    pub const fn v4(self) -> [u8; 4] {
        let [a, b, c, d, ..] = self.addr;
        [a, b, c, d]
    }
}

/// What the program knows of one local pod. But for `watch`, its value never changes while a program can see it.
#[cfg(not(feature = "next-layout"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Endpoint {
    /// The host end of the pod's veth.
    pub ifindex: u32,
    /// Index into `SETS`.
    pub slot: u32,
    /// The pod's IPv4 address; zeroes where it has none.
    pub v4: Addr4,
    /// The pod's IPv6 address; zeroes where it has none.
    pub v6: Addr6,
    /// 1: some connection of the pod may have lost the permission by which it was opened, so that also its packets in
    /// the other direction are looked up. That costs time: the agent sets it before policy changes, which is never wrong,
    /// and clears it when it has seen that there is none.
    pub watch: u32,
}

/// The same in the layout that tests take for the next version's.
#[cfg(feature = "next-layout")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Endpoint {
    pub v6: Addr6,
    pub v4: Addr4,
    pub watch: u32,
    pub slot: u32,
    pub ifindex: u32,
}

/// The policy sets of one endpoint: 0 = not isolated, else 1 + the set's first index in `ROWS`.
/// Eight aligned bytes, so that a pod moves to new policy in one store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, align(8))]
pub struct Sets {
    pub egress: u32,
    pub ingress: u32,
}

impl Sets {
    /// From the eight bytes that were read in one load.
    #[inline(always)]
    pub fn from_bits(bits: u64) -> Self {
        bytemuck::cast(bits)
    }
}

impl ServiceRef {
    /// From the eight bytes that were read in one load.
    #[inline(always)]
    pub fn from_bits(bits: u64) -> Self {
        bytemuck::cast(bits)
    }
}

/// A slot of an endpoint, plus one: 0 = none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct SlotRef {
    pub slot_plus_one: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Class {
    pub class: u32,
}

/// One cell of the IPv4 index (`INDEX4`): what an address's next bits lead to.
///
/// The index has three levels: 65,536 cells for the first sixteen bits, then blocks of 256 cells for the next eight and
/// for the last eight. It answers most addresses in one to three array reads, however many pods and prefixes there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Cell {
    /// A class, `CELL_BLOCK` with the number of a block, or `CELL_ASK`.
    pub class: u32,
}

/// The cell leads to the block with the number in the lower bits.
pub const CELL_BLOCK: u32 = 1 << 31;
/// The index had no room: the hash and the trie know.
pub const CELL_ASK: u32 = 1 << 30;
/// Cells of the first level, and of each block behind them.
pub const INDEX_TOP: u32 = 65_536;
pub const INDEX_BLOCK: u32 = 256;

/// The first word of a row in `BITS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct RowRef {
    pub word: u32,
}

/// One word of a row: a bit for each of 64 port classes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Word {
    pub bits: u64,
}

/// An address that a pod may send from beside its own: a key of `SOURCES`, whose prefixes count from the interface on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
#[repr(C)]
pub struct SourceKey {
    /// Big-endian, as a trie wants it: its bits come before those of the address.
    pub ifindex: [u8; 4],
    /// 4 or 6, then zeroes.
    pub family: [u8; 4],
    pub address: Addr6,
}

/// Bits of a `SourceKey` before its address.
pub const SOURCE_KEY_BITS: u32 = 64;

/// What a pod addresses of a Service: a key of `SERVICES`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
#[repr(C)]
pub struct ServiceKey {
    pub address: Addr6,
    pub port: u16,
    /// An IANA number.
    pub protocol: u8,
    /// 4 or 6.
    pub family: u8,
}

/// What is behind a frontend: a list in `BACKENDS`, which nobody changes while something refers to it. Eight aligned
/// bytes, so that a frontend moves to another list in one store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, align(8))]
pub struct ServiceRef {
    pub first: u32,
    /// The number of backends, with `SERVICE_CLOSED` and `SERVICE_AFFINITY`.
    pub count: u32,
}

/// Not for the pods of this node: kube-proxy would ask for their addresses too.
pub const SERVICE_CLOSED: u32 = 1 << 31;
/// A client keeps its backend: before the list stands a head, whose address is made of the seconds that it does and of
/// two words that tell the Service's port from all others.
pub const SERVICE_AFFINITY: u32 = 1 << 30;
/// The most backends of a frontend.
pub const SERVICE_MOST: u32 = SERVICE_AFFINITY - 1;

/// One place where a connection to a Service may end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct BackendEntry {
    pub address: Addr6,
    pub port: u16,
    pub zero: u16,
}

/// The other address of a translated flow or datagram, or what a client keeps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Translation {
    pub address: Addr6,
    pub port: u16,
    /// `translation::flag`
    pub flags: u16,
    /// When it was last used, in seconds (`Tables::now`).
    pub seen: u32,
}

/// What of a pod is in `TRANSLATIONS` and `DATAGRAMS`: `MAY_TRANSLATE`, and a bit for each address that masqueraded packets came with
/// (`masked_bit`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Flag {
    pub set: u32,
}

/// Something of the pod is there.
pub const MAY_TRANSLATE: u32 = 1;

/// Words of `VIPS`, 64 addresses each.
pub const VIP_WORDS: u32 = 16_384;
/// Cells of `TRANSLATES`.
pub const TRANSLATES: u32 = 4096;

/// The bit of an address in `VIPS`: where it is clear, no frontend has the address.
#[inline(always)]
pub fn vip_bit(address: &Words) -> u32 {
    mixed(address) >> 12
}

/// The bit of an address in a cell of `TRANSLATES`: a node masquerades with few.
#[inline(always)]
pub fn masked_bit(address: &Words) -> u32 {
    2 << ((mixed(address) >> 16) % 31)
}

/// The upper bits are the well mixed ones.
#[inline(always)]
fn mixed(address: &Words) -> u32 {
    let mixed =
        address[0] ^ address[1].rotate_left(7) ^ address[2].rotate_left(13) ^ address[3].rotate_left(21);
    mixed.wrapping_mul(0x9e37_79b1)
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Counter {
    pub packets: u64,
    pub bytes: u64,
}

/// Settings that the program reads at run time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Settings {
    /// Ticks of `Tables::now` in a second (the kernel's CONFIG_HZ).
    pub ticks_per_second: u32,
    /// Drop events per tick and CPU that are reported; the rest is only counted.
    pub events_per_tick: u32,
    /// The number of sets of the flow table, a power of two, less one.
    pub flow_mask: u32,
    pub zero: u32,
    /// What the hash of the flow table is keyed with.
    pub flow_seed: u64,
}

/// A dropped packet, as the program reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Event {
    pub src: Addr6,
    pub dst: Addr6,
    pub ifindex: u32,
    pub length: u32,
    pub src_port: u16,
    pub dst_port: u16,
    /// 4, 6, or 0 where the packet could not be parsed so far.
    pub family: u8,
    pub protocol: u8,
    /// A `DropReason` as a number.
    pub reason: u8,
    /// A `Direction` as a number.
    pub direction: u8,
}

/// Per CPU: how many events the current tick has seen, and how many drops were not reported since this layout of tables was first loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct EventBudget {
    pub tick: u64,
    pub suppressed: u64,
    pub sent: u32,
    pub zero: u32,
}

/// For the bench: the remote addresses that take turns are `first + n * step`, host byte order, `n` below `count`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Rotation {
    pub first: u32,
    pub step: u32,
    pub count: u32,
    pub zero: u32,
}
