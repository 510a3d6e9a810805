//! The planner: wanted tables x present tables -> an ordered list of operations, make-before-break.
//!
//! What holds between any two operations of a plan, for every pod and every packet: the verdict is that of the tables
//! before the plan or that of the tables after it, never a third. The order that gives this:
//!
//! 1. rows and port classes are refined: old rows learn the new port classes before any port is painted with them;
//! 2. new policy sets, and the columns of new peer classes in old ones, are written where nothing reads yet;
//! 3. addresses move to their new classes, the most specific prefix first. In the sets of pods that are about to move,
//!    a new class has the row that its addresses had before;
//! 4. pods move to their new sets, one eight-byte store each;
//! 5. after a barrier, what only served the move goes: entries of vanished addresses, classes, rows, sets.
//!
//! Pure: no clock, no kernel. A plan that does not fit changes nothing ([`TableFull`]); one that failed half-way leaves
//! the shadow saying exactly what the tables hold, and the next plan repairs the rest.

mod classes;
mod endpoints;
mod names;
mod op;
mod ports;
mod ranges;
mod sets;
mod shadow;
mod watch;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;
use policy_common::maps::Endpoint;

pub use op::{Capacity, Op, TableFull};

use crate::compile::Compiled;
use crate::model::ObjectName;
use endpoints::describe;
use names::{Contents, Numbers, PortSetNumber, RowKey, SetKey, SignatureKey};
use ranges::Ranges;
use shadow::Shadow;

/// An interface to enforce on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalEndpoint {
    pub pod: ObjectName,
    /// The host end of the pod's veth.
    pub ifindex: u32,
    pub addresses: Vec<IpAddr>,
    /// What the pod may send from beside its own addresses.
    pub sources: Vec<IpNet>,
}

/// Classes that fit into a set before sets must be rebuilt wider.
const FIRST_STRIDE: u32 = 64;

/// Where contents stand in the tables.
#[derive(Clone, Debug)]
struct Layout {
    contents: Contents,
    classes: HashMap<SignatureKey, u32>,
    class_ids: Ranges,
    /// Rows of a set: one for each class id below this.
    stride: u32,
    sets: HashMap<SetKey, u32>,
    /// Copies that only serve a move.
    copies: Vec<u32>,
    /// Length of each extent of `ROWS` that may be in use.
    extents: HashMap<u32, u32>,
    set_space: Ranges,
    rows: HashMap<RowKey, u32>,
    row_space: Ranges,
    /// Words of a row.
    width: u32,
    /// Rows that were replaced by wider ones, and by which: cells that still name them must not survive.
    narrow: HashMap<u32, u32>,
    port_classes: HashMap<BTreeSet<PortSetNumber>, u32>,
    port_class_ids: Ranges,
    slots: Ranges,
}

/// What a plan frees, once it has been applied to its end.
#[derive(Debug, Default)]
struct Freed {
    classes: Vec<u32>,
    sets: Vec<(u32, u32)>,
    rows: Vec<(u32, u32)>,
    port_classes: Vec<u32>,
    slots: Vec<u32>,
}

#[derive(Debug)]
pub struct Planner {
    capacity: Capacity,
    layout: Layout,
    shadow: Shadow,
    freed: Freed,
    /// The layout as it must be if the plan fails half-way: with all that it would forget.
    careful: Option<Layout>,
    /// The previous plan did not finish: nothing that it wrote is taken for granted.
    suspect: bool,
}

/// What one planning run carries along.
struct Wanted<'a> {
    compiled: &'a Compiled,
    numbers: Numbers,
    sets: Vec<SetKey>,
    signatures: Vec<SignatureKey>,
    /// Class of each signature of the compilation.
    classes: Vec<u32>,
}

impl Planner {
    pub fn new(capacity: Capacity) -> Self {
        let layout = Layout {
            contents: Contents::new(),
            classes: HashMap::from([(SignatureKey::new(), 0)]),
            class_ids: Ranges::new(1, u32::MAX),
            stride: FIRST_STRIDE,
            sets: HashMap::new(),
            copies: Vec::new(),
            extents: HashMap::new(),
            set_space: Ranges::new(0, capacity.rows),
            rows: HashMap::new(),
            // Row 0 is never handed out: a cell that nobody wrote denies everything.
            row_space: Ranges::new(1, capacity.words),
            width: 1,
            narrow: HashMap::new(),
            port_classes: HashMap::from([(BTreeSet::new(), 0)]),
            port_class_ids: Ranges::new(1, u32::MAX),
            slots: Ranges::new(0, capacity.endpoints),
        };
        Self {
            capacity,
            layout,
            shadow: Shadow::new(&capacity),
            freed: Freed::default(),
            careful: None,
            suspect: false,
        }
    }

    /// Operations that take the tables from what they hold to `compiled`, in the order to apply them.
    ///
    /// The caller applies them in order and says how that went: `applied`, or `failed` with the index of the first
    /// operation that was not applied.
    pub fn plan(&mut self, compiled: &Compiled, endpoints: &[LocalEndpoint]) -> Result<Vec<Op>, TableFull> {
        let before = self.layout.clone();
        let planned = self.check(compiled, endpoints).and_then(|()| self.build(compiled, endpoints));
        if let Err(full) = planned {
            self.shadow.roll_back(0);
            self.layout = before;
            self.freed = Freed::default();
            return Err(full);
        }
        Ok(self.shadow.take_plan())
    }

    pub fn applied(&mut self) {
        self.shadow.commit();
        self.careful = None;
        let layout = &mut self.layout;
        layout.narrow.clear();
        let freed = std::mem::take(&mut self.freed);
        if self.suspect {
            self.rebuild_spaces();
            self.suspect = false;
            return;
        }
        for (space, singles) in [
            (&mut layout.class_ids, freed.classes),
            (&mut layout.port_class_ids, freed.port_classes),
            (&mut layout.slots, freed.slots),
        ] {
            for id in singles {
                space.free(id, 1);
            }
        }
        for (space, extents) in [(&mut layout.set_space, freed.sets), (&mut layout.row_space, freed.rows)] {
            for (start, length) in extents {
                space.free(start, length);
            }
        }
    }

    pub fn failed(&mut self, first_not_applied: usize) {
        self.shadow.roll_back(first_not_applied);
        self.freed = Freed::default();
        if let Some(layout) = self.careful.take() {
            self.layout = layout;
        }
        self.suspect = true;
    }

    /// After a plan that failed, nobody knows any more what was freed: everything that is not in use.
    fn rebuild_spaces(&mut self) {
        let capacity = self.capacity;
        let layout = &mut self.layout;
        let singles = |map: Vec<u32>| map.into_iter().map(|id| (id, 1));
        layout.class_ids = Ranges::rebuild(
            1,
            u32::MAX,
            singles(layout.classes.values().copied().filter(|c| *c != 0).collect()),
        );
        layout.port_class_ids = Ranges::rebuild(
            1,
            u32::MAX,
            singles(layout.port_classes.values().copied().filter(|c| *c != 0).collect()),
        );
        layout.slots =
            Ranges::rebuild(0, capacity.endpoints, singles(self.shadow.slots.values().copied().collect()));
        let stride = layout.stride;
        layout.set_space =
            Ranges::rebuild(0, capacity.rows, layout.sets.values().map(|base| (*base, stride)));
        let width = layout.width;
        layout.row_space =
            Ranges::rebuild(1, capacity.words, layout.rows.values().map(|word| (*word, width)));
    }

    /// Entries in use, by table, with the capacity: for metrics and `status`.
    pub fn usage(&self) -> BTreeMap<&'static str, (u64, u64)> {
        let layout = &self.layout;
        let entry = |used: usize, capacity: u32| (used as u64, u64::from(capacity));
        BTreeMap::from([
            ("rows", entry(layout.sets.len() * layout.stride as usize, self.capacity.rows)),
            ("bits", entry(layout.rows.len() * layout.width as usize, self.capacity.words)),
            ("endpoints", entry(self.shadow.slots.len(), self.capacity.endpoints)),
            ("peers", entry(self.shadow.peers.len(), self.capacity.peers)),
            ("cidrs", entry(self.shadow.cidrs.len(), self.capacity.cidrs)),
        ])
    }

    /// Tables with a fixed number of entries, each family for itself; old and new entries are there together for a
    /// moment, and a trie refuses even a replacement when it is full.
    fn check(&self, compiled: &Compiled, endpoints: &[LocalEndpoint]) -> Result<(), TableFull> {
        let fits = |table, needed: usize, capacity: u32| {
            if needed as u64 > u64::from(capacity) {
                return Err(TableFull { table, needed: needed as u64, capacity: u64::from(capacity) });
            }
            Ok(())
        };
        fits("endpoints", endpoints.len(), self.capacity.endpoints)?;
        // Old and new ones are there together, and the trie keeps one entry to itself.
        let sources = endpoints.iter().map(|local| local.sources.len()).sum::<usize>();
        let needed = sources + self.shadow.sources.len();
        fits("sources", if needed == 0 { 0 } else { needed + 1 }, self.capacity.sources)?;
        for v4 in [true, false] {
            let peers = compiled
                .addresses
                .keys()
                .chain(self.shadow.peers.keys().filter(|address| !compiled.addresses.contains_key(address)));
            fits("peers", peers.filter(|a| a.is_ipv4() == v4).count(), self.capacity.peers)?;
            let cidrs = compiled
                .prefixes
                .keys()
                .chain(self.shadow.cidrs.keys().filter(|net| !compiled.prefixes.contains_key(net)));
            let needed = cidrs.filter(|n| matches!(n, IpNet::V4(_)) == v4).count();
            fits("cidrs", if needed == 0 { 0 } else { needed + 1 }, self.capacity.cidrs)?;
        }
        Ok(())
    }

    fn build(&mut self, compiled: &Compiled, endpoints: &[LocalEndpoint]) -> Result<(), TableFull> {
        let present: Vec<u32> = self.shadow.slots.values().copied().collect();
        self.add_sources(endpoints);
        let numbers = self.layout.contents.numbers(compiled);
        let mut wanted = Wanted {
            sets: compiled.sets.iter().map(|set| numbers.set(set)).collect(),
            signatures: compiled.signatures.iter().map(|terms| numbers.signature(terms)).collect(),
            classes: Vec::new(),
            numbers,
            compiled,
        };
        if self.allocates(&wanted, endpoints) {
            self.release_quarantine();
        }
        let known_classes: HashSet<u32> = self.layout.classes.values().copied().collect();
        wanted.classes =
            wanted.signatures.iter().map(|key| self.class(key)).collect::<Result<Vec<_>, _>>()?;

        let cells = self.rows_of(&wanted, &known_classes);
        self.refine_ports(&wanted, cells.iter().map(|cell| &cell.row))?;
        self.widen_sets(wanted.classes.iter().copied().max().unwrap_or(0))?;
        for key in &wanted.sets {
            if !self.layout.sets.contains_key(key) {
                let base = self.allocate_set()?;
                self.layout.sets.insert(key.clone(), base);
            }
        }
        for cell in &cells {
            if let (Some(base), Some(word)) =
                (self.layout.sets.get(&wanted.sets[cell.set]), self.layout.rows.get(&cell.row))
            {
                self.shadow.emit(Op::Row { index: base + cell.class, word: *word });
            }
        }
        let settle = self.move_addresses(&wanted, endpoints)?;
        let mut targets = self.targets(&wanted, endpoints);
        let moved = self.move_endpoints(&mut targets)?;
        if moved || !settle.is_empty() {
            self.shadow.emit(Op::Barrier);
        }
        for op in settle {
            self.shadow.emit(op);
        }
        self.remove_endpoints(&targets);
        self.remove_sources(endpoints);
        self.watch_what_changes(&present);
        self.careful = Some(self.layout.clone());
        self.forget(&wanted);
        Ok(())
    }

    /// Whether a plan needs anything that it could take from what was freed. Waiting for that costs up to a second on a
    /// busy machine (an RCU grace period), so a plan that needs nothing does not.
    fn allocates(&self, wanted: &Wanted<'_>, endpoints: &[LocalEndpoint]) -> bool {
        let layout = &self.layout;
        wanted.sets.iter().any(|set| !layout.sets.contains_key(set))
            || wanted.signatures.iter().any(|signature| !layout.classes.contains_key(signature))
            || endpoints.iter().any(|local| match self.shadow.slots.get(&local.ifindex) {
                Some(slot) => {
                    self.shadow.endpoints.get(slot) != Some(&Endpoint { slot: *slot, ..describe(local) })
                }
                None => true,
            })
    }

    /// What was freed by earlier plans may be used again once no packet in flight can be reading it.
    fn release_quarantine(&mut self) {
        let layout = &mut self.layout;
        let spaces = [
            &mut layout.class_ids,
            &mut layout.set_space,
            &mut layout.row_space,
            &mut layout.port_class_ids,
            &mut layout.slots,
        ];
        if spaces.iter().all(|space| space.is_quarantine_empty()) {
            return;
        }
        self.shadow.emit(Op::Barrier);
        for space in spaces {
            space.release();
        }
    }

    /// The rows that must be written: those of new sets, and the columns of new classes in the others. A known set's
    /// row towards a known class never changes, because both are named by their contents.
    fn rows_of(&self, wanted: &Wanted<'_>, known_classes: &HashSet<u32>) -> Vec<Cell> {
        let mut cells = Vec::new();
        for (set, key) in wanted.sets.iter().enumerate() {
            let known_set = self.layout.sets.contains_key(key) && !self.suspect;
            for (signature, class) in (0_u32..).zip(&wanted.classes) {
                if known_set && known_classes.contains(class) {
                    continue;
                }
                let row = wanted.compiled.row(&wanted.compiled.sets[set], signature);
                cells.push(Cell { set, class: *class, row: wanted.numbers.row(&row) });
            }
        }
        cells
    }

    fn class(&mut self, key: &SignatureKey) -> Result<u32, TableFull> {
        if let Some(class) = self.layout.classes.get(key) {
            return Ok(*class);
        }
        let class = self.allocate_class()?;
        self.layout.classes.insert(key.clone(), class);
        Ok(class)
    }

    fn allocate_class(&mut self) -> Result<u32, TableFull> {
        let full =
            || TableFull { table: "classes", needed: u64::from(u32::MAX), capacity: u64::from(u32::MAX) };
        self.layout.class_ids.allocate(1).ok_or_else(full)
    }

    /// Frees what nothing refers to any more.
    fn forget(&mut self, wanted: &Wanted<'_>) {
        let sets: HashSet<&SetKey> = wanted.sets.iter().collect();
        let mut gone: Vec<u32> =
            self.layout.sets.extract_if(|key, _| !sets.contains(key)).map(|(_, base)| base).collect();
        gone.append(&mut self.layout.copies);
        for base in gone {
            let length = self.layout.extents.remove(&base).unwrap_or(0);
            self.freed.sets.push((base, length));
        }
        let signatures: HashSet<&SignatureKey> = wanted.signatures.iter().collect();
        let gone = self.layout.classes.extract_if(|key, class| *class != 0 && !signatures.contains(key));
        self.freed.classes.extend(gone.map(|(_, class)| class));
        let mut used: HashSet<u32> = HashSet::new();
        for base in self.layout.sets.values() {
            used.extend(wanted.classes.iter().map(|class| self.shadow.row(base + class)));
        }
        let width = self.layout.width;
        let gone = self.layout.rows.extract_if(|_, word| !used.contains(word));
        self.freed.rows.extend(gone.map(|(_, word)| (word, width)));
        self.forget_ports(wanted);
    }
}

/// One row to write.
struct Cell {
    set: usize,
    class: u32,
    row: RowKey,
}
