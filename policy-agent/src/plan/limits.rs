//! How large tables are to begin with, and how far they may grow: from the memory that they may take.

use super::capacity::{Capacity, Table, TableFull};

/// What the tables may take of a node's memory, and of the memory that the agent's container is limited to: there, the
/// agent itself needs some too.
const OF_NODE: u64 = 10;
const OF_CONTAINER: u64 = 2;

/// The memory for which [`Capacity::default`] is the first size.
const REFERENCE: u64 = 400 << 20;

/// What no table is larger than at the start, however much memory there is: they can grow.
const LARGEST_START: Capacity = Capacity {
    words: 1 << 20,
    rows: 1 << 22,
    endpoints: 4096,
    peers: 1 << 19,
    cidrs: 1 << 19,
    sources: 1 << 16,
    services: 1 << 17,
    backends: 1 << 18,
    // All of it is read after each change of policy.
    flow_sets: 1 << 16,
    index_blocks: 1 << 13,
};

/// What no table is smaller than: a node with the usual 110 pods runs.
const SMALLEST: Capacity = Capacity {
    words: 1 << 12,
    rows: 1 << 14,
    endpoints: 256,
    peers: 1 << 11,
    cidrs: 1 << 11,
    sources: 1 << 10,
    services: 1 << 11,
    backends: 1 << 12,
    flow_sets: 1 << 11,
    index_blocks: 1 << 8,
};

/// What no table is larger than: the most that options take, too.
pub const LARGEST: Capacity = Capacity {
    words: 1 << 24,
    rows: 1 << 26,
    endpoints: 1 << 16,
    peers: 1 << 24,
    cidrs: 1 << 24,
    sources: 1 << 20,
    services: 1 << 22,
    backends: 1 << 24,
    flow_sets: 1 << 20,
    index_blocks: 1 << 16,
};

/// The memory of a node, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    pub node: u64,
    /// What the agent's container is limited to. The kernel counts tables as the container's from Linux 5.11 on.
    pub container: Option<u64>,
}

impl Memory {
    /// What the tables may take in all.
    pub fn for_tables(&self) -> u64 {
        let container = self.container.map_or(u64::MAX, |limit| limit / OF_CONTAINER);
        (self.node / OF_NODE).min(container)
    }
}

/// Sizes that were set by hand; such a table does not grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fixed {
    pub words: Option<u32>,
    pub rows: Option<u32>,
    pub endpoints: Option<u32>,
    pub peers: Option<u32>,
    pub cidrs: Option<u32>,
    pub sources: Option<u32>,
    pub services: Option<u32>,
    pub backends: Option<u32>,
    pub flow_sets: Option<u32>,
}

/// How far tables may grow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// What all tables may take in bytes, those of two generations together while one follows the other.
    memory: u64,
    fixed: Fixed,
}

impl Limits {
    pub const fn new(memory: u64, fixed: Fixed) -> Self {
        Self { memory, fixed }
    }

    pub const fn memory(&self) -> u64 {
        self.memory
    }

    /// How large the tables are to begin with.
    pub fn start(&self) -> Capacity {
        let reference = Capacity::default();
        let of = |get: fn(&Capacity) -> u32, fixed: Option<u32>| {
            let size = scaled(get(&reference), self.memory);
            fixed.unwrap_or_else(|| size.clamp(get(&SMALLEST), get(&LARGEST_START)))
        };
        Capacity {
            words: of(|c| c.words, self.fixed.words),
            rows: of(|c| c.rows, self.fixed.rows),
            endpoints: of(|c| c.endpoints, self.fixed.endpoints),
            peers: of(|c| c.peers, self.fixed.peers),
            cidrs: of(|c| c.cidrs, self.fixed.cidrs),
            sources: of(|c| c.sources, self.fixed.sources),
            services: of(|c| c.services, self.fixed.services),
            backends: of(|c| c.backends, self.fixed.backends),
            flow_sets: of(|c| c.flow_sets, self.fixed.flow_sets),
            index_blocks: of(|c| c.index_blocks, None),
        }
    }

    /// Whether tables of these sizes, which are there already, may stay in use.
    pub fn allow(&self, present: &Capacity) -> bool {
        let start = self.start();
        let tables = [
            Table::Bits,
            Table::Rows,
            Table::Endpoints,
            Table::Peers,
            Table::Cidrs,
            Table::Sources,
            Table::Services,
            Table::Backends,
        ];
        tables.into_iter().all(|table| {
            let (present, start) = (present.entries(table), start.entries(table));
            present == start || present > start && !self.is_fixed(table)
        }) && present.bytes() <= self.memory
    }

    /// The capacity in which the table that was full has room for what was needed; `None`: its size was set by hand, or the
    /// memory for tables does not allow it.
    pub fn grown(&self, capacity: &Capacity, full: &TableFull) -> Option<Capacity> {
        let table = Table::from_name(full.table).filter(|table| !self.is_fixed(*table))?;
        let mut entries = capacity.entries(table).max(1);
        while entries < full.needed || entries <= capacity.entries(table) {
            entries = entries.checked_mul(2)?;
        }
        let grown = capacity.with(table, entries)?;
        // The flow table is no generation's own.
        let both = grown.bytes() + capacity.bytes() - capacity.bytes_of(Table::Flows);
        (entries <= LARGEST.entries(table) && both <= self.memory).then_some(grown)
    }

    const fn is_fixed(&self, table: Table) -> bool {
        let Fixed { words, rows, endpoints, peers, cidrs, sources, services, backends, flow_sets: _ } =
            &self.fixed;
        match table {
            Table::Bits => words.is_some(),
            Table::Rows => rows.is_some(),
            Table::Endpoints => endpoints.is_some(),
            Table::Peers => peers.is_some(),
            Table::Cidrs => cidrs.is_some(),
            Table::Sources => sources.is_some(),
            Table::Services => services.is_some(),
            Table::Backends => backends.is_some(),
            // The first agent's stays in use; the index is never what a plan lacks; indexes have a number of their own.
            Table::Flows | Table::Index | Table::Interfaces => true,
        }
    }
}

/// Doubled or halved as often as the memory is that much more or less than the reference.
fn scaled(reference: u32, memory: u64) -> u32 {
    let mut size = u64::from(reference);
    let mut at = REFERENCE;
    while at > memory.max(1) {
        (size, at) = (size / 2, at / 2);
    }
    while at <= memory / 2 && size < u64::from(u32::MAX) {
        (size, at) = (size * 2, at * 2);
    }
    u32::try_from(size).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::capacity::FIXED;
    use super::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    fn limits(node: u64, container: Option<u64>) -> Limits {
        Limits::new(Memory { node, container }.for_tables(), Fixed::default())
    }

    fn full(table: Table, capacity: &Capacity, needed: u64) -> TableFull {
        TableFull { table: table.name(), needed, capacity: capacity.entries(table) }
    }

    /// Sizes at the start, and what they take when full. docs/operation.md has this table.
    #[test]
    fn sizes_follow_from_memory() {
        for (node, container, expected, mebibytes) in [
            (512 * MIB, None, (16_384, 131_072, 32_768, 256, 4096), 20),
            (4 * GIB, None, (131_072, 1_048_576, 262_144, 1024, 32_768), 127),
            (64 * GIB, None, (524_288, 4_194_304, 1_048_576, 4096, 65_536), 397),
            (1024 * GIB, None, (524_288, 4_194_304, 1_048_576, 4096, 65_536), 397),
            (64 * GIB, Some(256 * MIB), (32_768, 262_144, 65_536, 256, 8192), 35),
        ] {
            let start = limits(node, container).start();
            let found = (start.peers, start.rows, start.words, start.endpoints, start.flow_sets);
            assert_eq!((found, start.bytes() / MIB), (expected, mebibytes), "{node} {container:?}");
            assert_eq!(start.peers, start.cidrs);
        }
    }

    #[test]
    fn tables_are_within_the_memory_and_of_sizes_that_they_can_have() {
        let container = |limit| [None, Some(limit)];
        for node in (28..44).map(|bits| 3 * (1_u64 << bits) / 2) {
            for container in container(node / 64) {
                let limits = limits(node, container);
                let start = limits.start();
                // The smallest tables are what a node with little memory has to give.
                assert!(start.bytes() <= limits.memory().max(SMALLEST.bytes()), "{node} {container:?}");
                assert!(start.flow_sets.is_power_of_two());
                for table in Table::ALL {
                    assert!(start.entries(table) >= SMALLEST.entries(table), "{table:?}");
                    assert!(start.entries(table) <= LARGEST.entries(table), "{table:?}");
                }
            }
        }
        assert_eq!(limits(4 * GIB, None).start(), Capacity::default());
        assert_eq!(limits(0, None).start(), SMALLEST);
    }

    /// Each table's bound is computed here once more, from the sizes of the kernel's structures.
    #[test]
    fn what_tables_take_is_the_sum_of_their_parts() {
        let c = Capacity::default();
        let bound = |table| c.bytes_of(table);
        assert_eq!(bound(Table::Rows), 1_048_576 * 8);
        assert_eq!(bound(Table::Bits), 262_144 * 8);
        assert_eq!(bound(Table::Endpoints), 1024 * (32 + 8));
        assert_eq!(bound(Table::Index), (65_536 + 8192 * 256) * 8);
        // A set, and one and a half translations with their buckets.
        assert_eq!(bound(Table::Flows), 32_768 * 8 * (8_u64 * 41 + (104 + 16) * 3 / 2).div_ceil(8));
        assert_eq!(bound(Table::Peers), 131_072 * (2 * 16 + 96 + 96));
        assert_eq!(bound(Table::Cidrs), 131_072 * 2 * (64 + 96));
        assert_eq!(bound(Table::Sources), 16_384 * 2 * 96);
        assert_eq!(bound(Table::Services), 65_536 * (96 + 16));
        assert_eq!(bound(Table::Backends), 131_072 * 24);
        assert_eq!(bound(Table::Interfaces), 4096 * (96 + 16));
        assert_eq!(c.bytes(), FIXED + Table::ALL.map(bound).iter().sum::<u64>());
        // One entry: what is made in advance, and the entry.
        assert_eq!(c.bytes_with(Table::Cidrs, 1), 2 * (64 + 96));
        assert_eq!(c.bytes_with(Table::Rows, 1), bound(Table::Rows));
    }

    #[test]
    fn a_full_table_doubles_until_what_is_needed_fits() {
        let limits = limits(64 * GIB, None);
        let start = limits.start();
        for table in [Table::Peers, Table::Cidrs, Table::Rows, Table::Bits, Table::Endpoints, Table::Sources]
        {
            let entries = start.entries(table);
            for (needed, times) in [(entries + 1, 2), (2 * entries, 2), (2 * entries + 1, 4), (0, 2)] {
                let grown = limits.grown(&start, &full(table, &start, needed)).unwrap();
                assert_eq!(grown.entries(table), times * entries, "{table:?}");
                for other in Table::ALL.into_iter().filter(|other| *other != table) {
                    assert_eq!(grown.entries(other), start.entries(other));
                }
            }
        }
        for table in [Table::Flows, Table::Index, Table::Interfaces] {
            assert_eq!(limits.grown(&start, &full(table, &start, 0)), None, "{table:?}");
        }
        let unknown = TableFull { table: "classes", needed: 1, capacity: 1 };
        assert_eq!(limits.grown(&start, &unknown), None);
    }

    #[test]
    fn tables_grow_as_far_as_memory_goes_and_no_further() {
        let limits = limits(4 * GIB, None);
        let mut capacity = limits.start();
        let mut steps = 0;
        while let Some(grown) = limits.grown(&capacity, &full(Table::Peers, &capacity, 0)) {
            let both = grown.bytes() + capacity.bytes() - capacity.bytes_of(Table::Flows);
            assert!(both <= limits.memory());
            capacity = grown;
            steps += 1;
        }
        assert!(steps >= 1, "{capacity:?}");
        assert!(2 * capacity.bytes() + capacity.bytes_of(Table::Peers) > limits.memory());
        // More than any table may have, and more than numbers go.
        let much = Limits::new(u64::MAX / 4, Fixed::default());
        assert_eq!(much.grown(&capacity, &full(Table::Endpoints, &capacity, 65_537)), None);
        assert_eq!(much.grown(&capacity, &full(Table::Rows, &capacity, u64::MAX)), None);
    }

    #[test]
    fn a_size_that_was_set_stays() {
        let fixed = Fixed { peers: Some(64), flow_sets: Some(1024), ..Fixed::default() };
        let limits = Limits::new(64 * GIB, fixed);
        let start = limits.start();
        assert_eq!((start.peers, start.flow_sets, start.cidrs), (64, 1024, 1 << 19));
        assert_eq!(limits.grown(&start, &full(Table::Peers, &start, 65)), None);
        assert!(limits.grown(&start, &full(Table::Cidrs, &start, 0)).is_some());
    }
}
