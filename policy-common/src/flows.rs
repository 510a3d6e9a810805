//! The flow table: sets of eight entries. A key's hash names its set, and everything that happens to a flow happens
//! within that set, under its lock.
//!
//! Why not the kernel's LRU hash: it is one list for the whole node, so that one pod's flood evicts the others' flows;
//! which entry goes is the luck of its per-CPU lists; an insert costs 300 ns and more. Here the entry that goes is
//! decided below, in code that runs in tests as it runs in the kernel (docs/architecture.md has the figures).

use core::mem::offset_of;
use core::net::IpAddr;

use bytemuck::{CheckedBitPattern, NoUninit, Pod, Zeroable};

use crate::maps::Addr6;
use crate::parse::protocol;

/// The layout of the flow table, apart from that of the other maps: connections live longer than tables. The numbers of
/// openers and states are the same in every layout, and none is used again for something else.
pub const FLOW_LAYOUT: u32 = if cfg!(feature = "next-flows") { 2 } else { 1 };
/// Entries of one set; half as many in the layout that tests take for the next version's.
pub const WAYS: usize = if cfg!(feature = "next-flows") { 4 } else { 8 };
/// Entries of a full set that one endpoint may hold at the cost of others.
pub const SHARE: usize = WAYS / 2;

/// The kernel knows a lock in a map by this name (kernel/bpf/btf.c).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct bpf_spin_lock {
    pub val: u32,
}

/// A flow seen from the endpoint. Both directions of a connection share one entry, and no pod can reach another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
#[repr(C)]
pub struct FlowKey {
    /// IPv4 addresses stand in the first four bytes.
    pub remote: Addr6,
    pub ifindex: u32,
    pub remote_port: u16,
    pub local_port: u16,
    pub protocol: u8,
    /// 4 or 6.
    pub family: u8,
    /// A `Tracked` as a number.
    pub tracked: u8,
    pub zero: u8,
}

/// What an entry remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Tracked {
    Flow = 0,
    /// A datagram of the pod in fragments: its identification stands in the ports.
    FragmentsSent = 1,
    /// One towards the pod.
    FragmentsReceived = 2,
}

/// One entry. Zeroes are a free one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, NoUninit, CheckedBitPattern, Zeroable)]
#[repr(C, align(8))]
pub struct FlowEntry {
    pub key: FlowKey,
    pub opener: Opener,
    pub state: FlowState,
    /// Where the first fragment ended, in units of eight bytes.
    pub fragment_end: u16,
    /// When a packet of it was last noted, in seconds (`Tables::now`).
    pub seen: u32,
    /// It speaks for its flow before this second.
    pub until: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, NoUninit, CheckedBitPattern, Zeroable)]
#[repr(u8)]
pub enum Opener {
    /// Of a free entry, or of a datagram in fragments.
    Nobody = 0,
    /// The pod.
    Pod = 1,
    /// The other end.
    Peer = 2,
    /// A process of the pod's own node: allowed by its origin, not by its address.
    Node = 3,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, NoUninit, CheckedBitPattern, Zeroable)]
#[repr(u8)]
pub enum FlowState {
    /// A free entry.
    Free = 0,
    /// Only the opener has been heard.
    Opening = 1,
    /// A handshake was answered. Whether the opener is real is not known yet: a flood with forged sources gets here.
    Answered = 2,
    /// The other side has sent more than its part of the handshake.
    Established = 3,
    /// TCP FIN, or SCTP SHUTDOWN.
    Closing = 4,
    /// TCP RST, or SCTP ABORT.
    Closed = 5,
}

/// A flow that user space knows of: written into the table by running `seed_flow` on it, behind an Ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct FlowSeed {
    pub key: FlowKey,
    /// An `Opener` as a number: 1 to 3.
    pub opener: u8,
    /// A `FlowState` as a number: 1 to 4.
    pub state: u8,
    pub zero: u16,
    /// How long it still lives, at most what its state gives it.
    pub seconds: u32,
}

/// The entries that one hash leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FlowSet {
    pub lock: bpf_spin_lock,
    pub zero: u32,
    pub entries: [FlowEntry; WAYS],
}

/// Bytes of a set before its entries.
pub const FLOW_SET_HEAD: usize = 8;

/// Where things stand in a set of the flow table, in bytes: how agents of other layouts read it.
///
/// This is the one value whose layout never changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct FlowShape {
    /// Bytes of a set, of what comes before its entries, and of an entry.
    pub set: u32,
    pub head: u32,
    pub entry: u32,
    /// From the begin of an entry: a remote address of sixteen bytes, numbers of four, two and one.
    pub remote: u32,
    pub ifindex: u32,
    pub remote_port: u32,
    pub local_port: u32,
    pub protocol: u32,
    pub family: u32,
    pub tracked: u32,
    pub opener: u32,
    pub state: u32,
    pub until: u32,
    /// For what may come; zeroes.
    pub spare: [u32; 3],
}

/// Nothing is padded: user space reads a set as bytes, entry by entry.
const _: () = assert!(size_of::<FlowSet>() == FLOW_SET_HEAD + WAYS * size_of::<FlowEntry>());

impl Opener {
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Pod),
            2 => Some(Self::Peer),
            3 => Some(Self::Node),
            _ => None,
        }
    }
}

impl FlowState {
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Opening),
            2 => Some(Self::Answered),
            3 => Some(Self::Established),
            4 => Some(Self::Closing),
            _ => None,
        }
    }
}

impl FlowKey {
    /// Keyed by a number that nobody outside knows, so that nobody can aim at another's set. Multiply and fold, a word
    /// pair at a time (after the mum hash of Wang Yi): what is wanted is spread, not secrecy.
    #[inline(always)]
    pub fn hash(&self, seed: u64) -> u32 {
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        let words: [u32; 7] = bytemuck::cast(*self);
        let pair = |at: usize| u64::from(words[at]) | u64::from(words[at + 1]) << 32;
        let mut hash = seed;
        hash = (hash ^ pair(0)).wrapping_mul(ODD);
        hash = (hash ^ hash >> 32 ^ pair(2)).wrapping_mul(ODD);
        hash = (hash ^ hash >> 32 ^ pair(4)).wrapping_mul(ODD);
        hash = (hash ^ hash >> 32 ^ u64::from(words[6])).wrapping_mul(ODD);
        // The upper half is the well mixed one.
        (hash >> 32) as u32
    }

    pub fn remote_address(&self) -> IpAddr {
        self.remote.ip(self.family)
    }
}

impl FlowEntry {
    /// It speaks for its flow in this second.
    #[inline(always)]
    pub const fn is_live(&self, now: u32) -> bool {
        self.until > now
    }

    #[inline(always)]
    fn words(&self) -> [u64; 5] {
        bytemuck::cast(*self)
    }
}

/// 1 where `a < b`, else 0, without a branch: the verifier follows both ways of each, in each of eight entries.
#[inline(always)]
fn less(a: u64, b: u64) -> u64 {
    // Both are below 2^63.
    opaque(a.wrapping_sub(b)) >> 63
}

/// 1 where it is zero, else 0.
#[inline(always)]
fn is_zero(difference: u64) -> u64 {
    let half = difference >> 1 | difference & 1;
    opaque(half.wrapping_sub(1)) >> 63
}

/// Hides from the compiler what it would turn into a branch.
#[inline(always)]
fn opaque(value: u64) -> u64 {
    core::hint::black_box(value)
}

#[inline(always)]
const fn index(place: u64) -> usize {
    #[expect(clippy::cast_possible_truncation, reason = "below WAYS")]
    let place = place as usize;
    place
}

impl FlowSet {
    pub const EMPTY: Self = Self {
        lock: bpf_spin_lock { val: 0 },
        zero: 0,
        entries: [FlowEntry {
            key: FlowKey {
                remote: Addr6::ZERO,
                ifindex: 0,
                remote_port: 0,
                local_port: 0,
                protocol: 0,
                family: 0,
                tracked: 0,
                zero: 0,
            },
            opener: Opener::Nobody,
            state: FlowState::Free,
            fragment_end: 0,
            seen: 0,
            until: 0,
        }; WAYS],
    };

    /// Where the live entry of this key is.
    #[inline(always)]
    pub fn find(&self, key: &FlowKey, now: u32) -> Option<usize> {
        let [a, b, c, d, _] = FlowEntry { key: *key, ..Self::EMPTY.entries[0] }.words();
        // The last four bytes of the fourth word are no key.
        let of_key = u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
        let (mut found, mut place) = (0, 0);
        let mut at = 0;
        while at < WAYS {
            let entry = &self.entries[at];
            let words = entry.words();
            let difference = words[0] ^ a | words[1] ^ b | words[2] ^ c | (words[3] ^ d) & of_key;
            let hit = is_zero(difference) & less(u64::from(now), u64::from(entry.until));
            found |= hit;
            place |= hit.wrapping_neg() & at as u64;
            at += 1;
        }
        if found == 0 { None } else { Some(index(place)) }
    }

    /// Where a new key's entry goes: to a free one, else to the one that is lost most easily. An endpoint that holds its
    /// share of a full set gives up one of its own: it takes no more than that from the others. Among those that may go,
    /// what was never confirmed by both sides goes before datagrams that were answered, these before connections, and the
    /// longest silent first.
    #[inline(always)]
    pub fn place(&self, key: &FlowKey, now: u32) -> usize {
        let (now, interface) = (u64::from(now), u64::from(key.ifindex));
        let mut own = 0;
        let mut at = 0;
        while at < WAYS {
            let entry = &self.entries[at];
            own += less(now, u64::from(entry.until)) & is_zero(u64::from(entry.key.ifindex) ^ interface);
            at += 1;
        }
        let only_own = less(SHARE as u64 - 1, own);
        let (mut lowest, mut place) = (u64::MAX >> 1, 0);
        at = 0;
        while at < WAYS {
            let entry = &self.entries[at];
            let live = less(now, u64::from(entry.until));
            let foreign = 1 ^ is_zero(u64::from(entry.key.ifindex) ^ interface);
            let settled = is_zero(u64::from(entry.state as u8 ^ FlowState::Established as u8));
            let connection = settled
                & (is_zero(u64::from(entry.key.protocol ^ protocol::TCP))
                    | is_zero(u64::from(entry.key.protocol ^ protocol::SCTP)));
            let rank =
                (only_own & foreign) << 40 | connection << 37 | settled << 36 | (u64::from(entry.seen) + 1);
            let rank = live.wrapping_neg() & rank;
            let better = less(rank, lowest).wrapping_neg();
            lowest ^= (lowest ^ rank) & better;
            place ^= (place ^ at as u64) & better;
            at += 1;
        }
        index(place)
    }

    /// The entry at a place that `find` or `place` named.
    #[inline(always)]
    pub fn entry(&mut self, at: usize) -> &mut FlowEntry {
        // The compiler knows that the loops make no other places and would leave the mask out; verifiers before Linux 6.2
        // do not follow their arithmetic, so that the mask must be in the program.
        &mut self.entries[core::hint::black_box(at) & (WAYS - 1)]
    }
}

impl FlowShape {
    /// That of this version.
    #[expect(clippy::cast_possible_truncation, reason = "some hundred bytes")]
    pub const OWN: Self = {
        let key = offset_of!(FlowEntry, key) as u32;
        Self {
            set: size_of::<FlowSet>() as u32,
            head: offset_of!(FlowSet, entries) as u32,
            entry: size_of::<FlowEntry>() as u32,
            remote: key + offset_of!(FlowKey, remote) as u32,
            ifindex: key + offset_of!(FlowKey, ifindex) as u32,
            remote_port: key + offset_of!(FlowKey, remote_port) as u32,
            local_port: key + offset_of!(FlowKey, local_port) as u32,
            protocol: key + offset_of!(FlowKey, protocol) as u32,
            family: key + offset_of!(FlowKey, family) as u32,
            tracked: key + offset_of!(FlowKey, tracked) as u32,
            opener: offset_of!(FlowEntry, opener) as u32,
            state: offset_of!(FlowEntry, state) as u32,
            until: offset_of!(FlowEntry, until) as u32,
            spare: [0; 3],
        }
    };

    /// The connections in a set of this shape that are live at `now`. Datagrams in fragments are not worth it.
    pub fn live<'a>(&'a self, set: &'a [u8], now: u32) -> impl Iterator<Item = FlowSeed> + 'a {
        let entries = set.get(self.head as usize..).unwrap_or_default();
        entries.chunks_exact((self.entry as usize).max(1)).filter_map(move |entry| self.seed(entry, now))
    }

    fn seed(&self, entry: &[u8], now: u32) -> Option<FlowSeed> {
        let seconds = u32::from_ne_bytes(at(entry, self.until)?).checked_sub(now).filter(|left| *left > 0)?;
        let [tracked] = at(entry, self.tracked)?;
        let ([opener], [state]) = (at(entry, self.opener)?, at(entry, self.state)?);
        if tracked != Tracked::Flow as u8 {
            return None;
        }
        let state = FlowState::from_number(state)?;
        let key = FlowKey {
            remote: Addr6 { addr: at(entry, self.remote)? },
            ifindex: u32::from_ne_bytes(at(entry, self.ifindex)?),
            remote_port: u16::from_ne_bytes(at(entry, self.remote_port)?),
            local_port: u16::from_ne_bytes(at(entry, self.local_port)?),
            protocol: at::<1>(entry, self.protocol)?[0],
            family: at::<1>(entry, self.family)?[0],
            tracked,
            zero: 0,
        };
        let opener = Opener::from_number(opener)?;
        Some(FlowSeed { key, opener: opener as u8, state: state as u8, zero: 0, seconds })
    }
}

fn at<const N: usize>(entry: &[u8], offset: u32) -> Option<[u8; N]> {
    entry.get(offset as usize..)?.first_chunk().copied()
}
