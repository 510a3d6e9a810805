//! How many entries each table has, and how much memory that takes.

use std::mem::size_of;

use policy_common::flows::{FlowKey, FlowSet, WAYS};
use policy_common::maps::{
    Addr4, Addr6, BackendEntry, Endpoint, INDEX_BLOCK, INDEX_TOP, ServiceKey, SourceKey, Translation,
};

/// Entries of the hash for interface indexes that the array does not reach: `SLOTS_HIGH` of the programs.
pub(super) const HIGH_INTERFACES: u32 = 4096;

/// How many entries each table has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Capacity {
    pub words: u32,
    pub rows: u32,
    pub endpoints: u32,
    /// Of each family.
    pub peers: u32,
    /// Of each family.
    pub cidrs: u32,
    /// Prefixes of extra sources.
    pub sources: u32,
    /// Frontends of Services.
    pub services: u32,
    /// Places of their lists of backends.
    pub backends: u32,
    /// Sets of the flow table, eight flows each: a power of two.
    pub flow_sets: u32,
    /// Blocks of the IPv4 index. Where they run out, the hash and the trie answer: slower, and the same.
    pub index_blocks: u32,
}

impl Default for Capacity {
    fn default() -> Self {
        Self {
            words: 262_144,
            rows: 1_048_576,
            endpoints: 1024,
            peers: 131_072,
            cidrs: 131_072,
            sources: 16_384,
            services: 65_536,
            backends: 131_072,
            flow_sets: 32_768,
            index_blocks: 8192,
        }
    }
}

/// A table that can be full, by the name that users see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    Bits,
    Rows,
    Endpoints,
    Peers,
    Cidrs,
    Sources,
    Services,
    Backends,
    /// Interface indexes of 65,536 and more: their number is fixed.
    Interfaces,
    Flows,
    /// Never full for a plan: it answers less.
    Index,
}

impl Table {
    pub const ALL: [Self; 11] = [
        Self::Peers,
        Self::Cidrs,
        Self::Rows,
        Self::Bits,
        Self::Endpoints,
        Self::Interfaces,
        Self::Sources,
        Self::Services,
        Self::Backends,
        Self::Flows,
        Self::Index,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Bits => "bits",
            Self::Rows => "rows",
            Self::Endpoints => "endpoints",
            Self::Peers => "peers",
            Self::Cidrs => "cidrs",
            Self::Sources => "sources",
            Self::Services => "services",
            Self::Backends => "backends",
            Self::Interfaces => "interfaces",
            Self::Flows => "flows",
            Self::Index => "index",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.name() == name)
    }

    /// The most bytes that an entry takes of the kernel, and those that the table takes for each place, used or not. Both
    /// families together where the table has one of each.
    const fn bytes(self) -> EntryBytes {
        match self {
            Self::Bits | Self::Rows | Self::Index => EntryBytes { used: 0, place: ARRAY_CELL },
            // Its sets are an array beside it.
            Self::Endpoints => EntryBytes { used: 0, place: array(size_of::<Endpoint>()) + ARRAY_CELL },
            // For each set, one translated connection and half a datagram, in hashes that are made in advance.
            Self::Flows => {
                let place = array(size_of::<FlowSet>()) + (TRANSLATION + HASH_BUCKET) * 3 / 2;
                EntryBytes { used: 0, place: place.div_ceil(WAYS as u64) }
            }
            Self::Services => EntryBytes { used: hash_entry(size_of::<ServiceKey>()), place: HASH_BUCKET },
            Self::Backends => EntryBytes { used: 0, place: array(size_of::<BackendEntry>()) },
            Self::Peers => {
                let used = hash_entry(size_of::<Addr4>()) + hash_entry(size_of::<Addr6>());
                EntryBytes { used, place: 2 * HASH_BUCKET }
            }
            Self::Cidrs => {
                let used = trie_entry(size_of::<Addr4>()) + trie_entry(size_of::<Addr6>());
                EntryBytes { used, place: 0 }
            }
            Self::Sources => EntryBytes { used: trie_entry(size_of::<SourceKey>()), place: 0 },
            // Made in advance, with its entries.
            Self::Interfaces => EntryBytes { used: 0, place: hash_entry(size_of::<u32>()) + HASH_BUCKET },
        }
    }
}

#[derive(Clone, Copy)]
struct EntryBytes {
    used: u64,
    place: u64,
}

/// kernel/bpf/arraymap.c: elements are rounded up to eight bytes.
const ARRAY_CELL: u64 = 8;
/// kernel/bpf/hashtab.c: `struct bucket`, as many as the next power of two.
const HASH_BUCKET: u64 = 16;
/// kernel/bpf/hashtab.c: `struct htab_elem` before its key.
const HASH_ELEMENT: usize = 48;
/// kernel/bpf/lpm_trie.c: `struct lpm_trie_node` before its key.
const TRIE_NODE: usize = 40;
/// What values of one class take in a hash or trie, and what the kernel's allocator puts before an object (from 6.1 on).
const CLASS_AND_HEAD: usize = 16;

/// An element of the hash of translations.
const TRANSLATION: u64 =
    (HASH_ELEMENT + size_of::<FlowKey>().next_multiple_of(8) + size_of::<Translation>()) as u64;

const fn array(value: usize) -> u64 {
    value.next_multiple_of(8) as u64
}

const fn hash_entry(key: usize) -> u64 {
    slab(HASH_ELEMENT + key.next_multiple_of(8) + CLASS_AND_HEAD)
}

/// Each prefix may need a node that only joins two others.
const fn trie_entry(key: usize) -> u64 {
    2 * slab(TRIE_NODE + key.next_multiple_of(8) + CLASS_AND_HEAD)
}

/// The size classes of the kernel's allocator.
const fn slab(bytes: usize) -> u64 {
    match bytes {
        0..=64 => 64,
        65..=96 => 96,
        97..=128 => 128,
        129..=192 => 192,
        _ => 256,
    }
}

/// What does not depend on the capacity: ports, interfaces, counters, events.
pub(super) const FIXED: u64 = 4 << 20;

impl Capacity {
    /// Entries of each family, where the table has one for each.
    pub const fn entries(&self, table: Table) -> u64 {
        match table {
            Table::Bits => self.words as u64,
            Table::Rows => self.rows as u64,
            Table::Endpoints => self.endpoints as u64,
            Table::Peers => self.peers as u64,
            Table::Cidrs => self.cidrs as u64,
            Table::Sources => self.sources as u64,
            Table::Services => self.services as u64,
            Table::Backends => self.backends as u64,
            Table::Interfaces => HIGH_INTERFACES as u64,
            Table::Flows => self.flow_sets as u64 * WAYS as u64,
            Table::Index => self.index_blocks as u64,
        }
    }

    /// Another capacity of one table; `None`: it has none of its own, or cannot be that large.
    pub(super) fn with(self, table: Table, entries: u64) -> Option<Self> {
        let entries = u32::try_from(entries).ok()?;
        let mut capacity = self;
        match table {
            Table::Bits => capacity.words = entries,
            Table::Rows => capacity.rows = entries,
            Table::Endpoints => capacity.endpoints = entries,
            Table::Peers => capacity.peers = entries,
            Table::Cidrs => capacity.cidrs = entries,
            Table::Sources => capacity.sources = entries,
            Table::Services => capacity.services = entries,
            Table::Backends => capacity.backends = entries,
            Table::Index => capacity.index_blocks = entries,
            Table::Interfaces | Table::Flows => return None,
        }
        Some(capacity)
    }

    /// The most bytes that a table takes with `used` entries, of both families together.
    pub const fn bytes_with(&self, table: Table, used: u64) -> u64 {
        let EntryBytes { used: each, place } = table.bytes();
        let places = match table {
            Table::Peers | Table::Interfaces | Table::Services => self.entries(table).next_power_of_two(),
            Table::Index => INDEX_TOP as u64 + self.entries(table) * INDEX_BLOCK as u64,
            _ => self.entries(table),
        };
        // What one family's entries take is at most what those of both do.
        used * each + places * place
    }

    /// The most bytes that a table takes when it is full.
    pub const fn bytes_of(&self, table: Table) -> u64 {
        self.bytes_with(table, self.entries(table))
    }

    /// The most bytes that all tables take when they are full.
    pub fn bytes(&self) -> u64 {
        FIXED + Table::ALL.iter().map(|table| self.bytes_of(*table)).sum::<u64>()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("table {table} is full: {needed} entries needed, {capacity} there; what was enforced stays enforced")]
pub struct TableFull {
    pub table: &'static str,
    pub needed: u64,
    pub capacity: u64,
}
