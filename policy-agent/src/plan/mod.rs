//! The planner: wanted tables x present tables -> an ordered list of operations, make-before-break.
//!
//! What holds between any two operations of a plan, for every pod and every packet: the verdict is that of the tables
//! before the plan or that of the tables after it, never a third. The order that gives this:
//!
//! 1. rows and port classes are refined: old rows learn the new port classes before any port is painted with them;
//! 2. new policy sets, and the columns of new peer classes in old ones, are written where nothing reads yet;
//! 3. addresses move to their new classes, the most specific prefix first. In the sets of pods that are about to move,
//!    a new class has the row that its addresses had before;
//! 4. frontends of Services move to lists of backends that were written before, one eight-byte store each: after the
//!    addresses, so that a new backend has its class when it is chosen;
//! 5. pods move to their new sets, one eight-byte store each;
//! 6. what only served the move goes: entries of vanished addresses, classes, rows, sets. A barrier comes before where a
//!    packet that still reads what was left could tell.
//!
//! A plan for a whole compilation compares everything. One for a delta looks at what the delta names (`known.rs`), and
//! where that needs no new class, set or row (most changes of most pods), at nothing else (`quick.rs`).
//!
//! Pure: no clock, no kernel. A plan that does not fit changes nothing ([`TableFull`]); one that failed half-way leaves
//! the shadow saying exactly what the tables hold, and the next plan, which compares everything, repairs the rest.

mod admit;
mod adopt;
mod capacity;
mod classes;
mod endpoints;
mod known;
mod limits;
mod names;
mod op;
mod ports;
mod present;
mod quick;
mod ranges;
mod services;
mod sets;
mod shadow;
mod watch;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;

pub use admit::Admission;
pub use capacity::{Capacity, Table, TableFull};
pub use limits::{Fixed, LARGEST, Limits, Memory};
pub use op::Op;
pub use present::Present;

use crate::compile::{Compiled, Delta, Excess};
use crate::model::ObjectName;
use crate::model::services::Frontend;
use known::Known;
use names::{Contents, PortSetNumber, RowKey, SetKey, SignatureKey};
use ranges::Ranges;
use services::Lists;
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
    /// Extents that have wider ones in their place.
    outgrown: Vec<u32>,
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
    lists: Vec<(u32, u32)>,
}

#[derive(Debug)]
pub struct Planner {
    capacity: Capacity,
    layout: Layout,
    /// The shadow tells all of it again where a plan comes to nothing.
    lists: Lists,
    shadow: Shadow,
    freed: Freed,
    /// The layout as it must be if the plan fails half-way: with all that it would forget.
    careful: Option<Layout>,
    /// The previous plan did not finish: nothing that it wrote is taken for granted.
    suspect: bool,
    /// What the last compilation stands for in the tables, as long as each follows from the one before.
    known: Option<Known>,
    /// What has changed since then.
    pending: Delta,
    /// What does not fit may be left out, where that opens nothing.
    lenient: bool,
    /// Addresses that were left out of the last plan.
    left_out: BTreeSet<IpAddr>,
}

/// What one planning run carries along.
struct Wanted<'a> {
    compiled: &'a Compiled,
    known: Known,
    /// The addresses that may have to move; `None`: any.
    dirty: Option<&'a BTreeSet<IpAddr>>,
    /// The same of frontends.
    dirty_frontends: Option<&'a BTreeSet<Frontend>>,
}

impl Planner {
    pub fn new(capacity: Capacity) -> Self {
        let layout = Layout {
            contents: Contents::new(),
            classes: HashMap::from([(SignatureKey::default(), 0)]),
            class_ids: Ranges::new(1, u32::MAX),
            stride: FIRST_STRIDE,
            sets: HashMap::new(),
            copies: Vec::new(),
            outgrown: Vec::new(),
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
            lists: Lists::new(&capacity),
            shadow: Shadow::new(&capacity),
            freed: Freed::default(),
            careful: None,
            suspect: false,
            known: None,
            pending: Delta::default(),
            lenient: false,
            left_out: BTreeSet::new(),
        }
    }

    /// Operations that take the tables from what they hold to `compiled`, in the order to apply them.
    ///
    /// The caller applies them in order and says how that went: `applied`, or `failed` with the index of the first
    /// operation that was not applied.
    pub fn plan(&mut self, compiled: &Compiled, endpoints: &[LocalEndpoint]) -> Result<Vec<Op>, TableFull> {
        self.pending = Delta { everything: true, ..Delta::default() };
        self.plan_pending(compiled, endpoints)
    }

    /// The same where the compilation is known to differ from the last one by no more than `delta`. One that follows
    /// from another compilation than the last is planned as a whole.
    pub fn plan_changes(
        &mut self,
        compiled: &Compiled,
        delta: &Delta,
        endpoints: &[LocalEndpoint],
    ) -> Result<Vec<Op>, TableFull> {
        self.pending.append(delta);
        self.plan_pending(compiled, endpoints)
    }

    /// What does not fit stays pending.
    fn plan_pending(
        &mut self,
        compiled: &Compiled,
        endpoints: &[LocalEndpoint],
    ) -> Result<Vec<Op>, TableFull> {
        if let Some(Excess { what, count, most }) = compiled.excess {
            return Err(TableFull { table: what, needed: count, capacity: most });
        }
        let whole = self.suspect || self.pending.everything;
        let pending = std::mem::take(&mut self.pending);
        let missing = std::mem::take(&mut self.left_out);
        let whole = whole || self.lenient;
        self.leave_out(compiled);
        let planned = match self.known.take().filter(|_| !whole) {
            Some(known) => self.plan_delta(known, compiled, &pending, endpoints),
            None => self.plan_whole(compiled, endpoints),
        };
        if let Err(full) = planned {
            self.shadow.roll_back(0);
            self.freed = Freed::default();
            self.read_services();
            self.pending = pending;
            self.left_out = missing;
            return Err(full);
        }
        // The next plan looks for room again.
        let addresses = self.left_out.clone();
        self.pending = Delta { to: pending.to, addresses, ..Delta::default() };
        let plan = self.shadow.take_plan();
        // A barrier keeps apart what comes before and after it.
        Ok(if plan.iter().all(|op| *op == Op::Barrier) { Vec::new() } else { plan })
    }

    fn plan_whole(&mut self, compiled: &Compiled, endpoints: &[LocalEndpoint]) -> Result<(), TableFull> {
        let before = self.layout.clone();
        let mut wanted = Wanted { compiled, known: Known::default(), dirty: None, dirty_frontends: None };
        let planned = self
            .check(endpoints)
            .and_then(|()| self.check_addresses(compiled, compiled.addresses.keys()))
            .and_then(|()| self.check_prefixes(compiled))
            .and_then(|()| self.build(&mut wanted, endpoints));
        match planned {
            Ok(()) => self.known = Some(wanted.known.finish(compiled, endpoints)),
            Err(_) => self.layout = before,
        }
        planned
    }

    fn plan_delta(
        &mut self,
        mut known: Known,
        compiled: &Compiled,
        delta: &Delta,
        endpoints: &[LocalEndpoint],
    ) -> Result<(), TableFull> {
        if let Some(result) = self.quick(&mut known, compiled, delta, endpoints) {
            self.known = Some(known);
            return result;
        }
        let (before, sizes) = (self.layout.clone(), known.sizes());
        let mut wanted = Wanted {
            compiled,
            known,
            dirty: Some(&delta.addresses),
            dirty_frontends: Some(&delta.frontends),
        };
        let prefixes = if delta.prefixes { self.check_prefixes(compiled) } else { Ok(()) };
        let planned = prefixes
            .and_then(|()| self.check(endpoints))
            .and_then(|()| self.check_addresses(compiled, delta.addresses.iter().copied()))
            .and_then(|()| self.build(&mut wanted, endpoints));
        let mut known = wanted.known;
        if planned.is_ok() {
            known = known.finish(compiled, endpoints);
        } else {
            self.layout = before;
            known.truncate(sizes);
        }
        self.known = Some(known);
        planned
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
        for (space, extents) in [
            (&mut layout.set_space, freed.sets),
            (&mut layout.row_space, freed.rows),
            (&mut self.lists.space, freed.lists),
        ] {
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
        self.known = None;
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
        self.lists.rebuild_space(&capacity);
    }

    /// Entries in use, with the capacity: for metrics and `status`. Of two families, those of the larger one.
    pub fn usage(&self) -> BTreeMap<Table, (u64, u64)> {
        let (layout, shadow) = (&self.layout, &self.shadow);
        let larger =
            |of: fn(&Shadow, bool) -> usize| [true, false].map(|v4| of(shadow, v4)).into_iter().max();
        let used = [
            (Table::Rows, layout.sets.len() * layout.stride as usize),
            (Table::Bits, layout.rows.len() * layout.width as usize),
            (Table::Endpoints, shadow.slots.len()),
            (Table::Interfaces, self.high_interfaces()),
            (Table::Peers, larger(|shadow, v4| shadow.peers.len_of(v4)).unwrap_or(0)),
            (Table::Cidrs, larger(Shadow::cidrs_of).unwrap_or(0)),
            (Table::Sources, shadow.sources.len()),
            (Table::Services, shadow.services.len()),
            (Table::Backends, self.lists.places()),
        ];
        used.map(|(table, used)| (table, (used as u64, self.capacity.entries(table)))).into()
    }

    pub const fn capacity(&self) -> &Capacity {
        &self.capacity
    }

    /// Tables with a fixed number of entries, each family for itself; old and new entries are there together for a
    /// moment. `candidates`: at least the addresses that have no entry yet and shall have one.
    fn check_addresses(
        &self,
        compiled: &Compiled,
        candidates: impl Iterator<Item = IpAddr>,
    ) -> Result<(), TableFull> {
        let mut needed = [true, false].map(|v4| self.shadow.peers.len_of(v4));
        for address in candidates {
            if self.wanted_signature(compiled, address).is_some() && !self.shadow.peers.contains(address) {
                needed[usize::from(address.is_ipv6())] += 1;
            }
        }
        needed.into_iter().try_for_each(|needed| fits("peers", needed, self.capacity.peers))
    }

    /// A trie refuses even a replacement when it is full.
    fn check_prefixes(&self, compiled: &Compiled) -> Result<(), TableFull> {
        for v4 in [true, false] {
            let cidrs = compiled
                .prefixes
                .keys()
                .chain(self.shadow.cidrs.keys().filter(|net| !compiled.prefixes.contains_key(net)));
            let needed = cidrs.filter(|n| matches!(n, IpNet::V4(_)) == v4).count();
            fits("cidrs", if needed == 0 { 0 } else { needed + 1 }, self.capacity.cidrs)?;
        }
        Ok(())
    }

    fn build(&mut self, wanted: &mut Wanted<'_>, endpoints: &[LocalEndpoint]) -> Result<(), TableFull> {
        let present: Vec<u32> = self.shadow.slots.values().copied().collect();
        if self.suspect {
            // Nobody knows whether the barrier of the plan that failed was reached.
            self.shadow.emit(Op::Barrier);
        }
        self.add_sources(endpoints);
        self.number_contents(wanted);
        let fresh = self.number_classes(wanted)?;
        let cells = self.rows_of(wanted, &fresh);
        self.refine_ports(wanted, cells.iter().map(|cell| &cell.row))?;
        self.widen_sets(wanted.known.classes.iter().copied().max().unwrap_or(0))?;
        for key in &wanted.known.sets {
            if !self.layout.sets.contains_key(key) {
                let base = self.allocate_set()?;
                self.layout.sets.insert(key.clone(), base);
            }
        }
        for cell in &cells {
            if let (Some(base), Some(word)) =
                (self.layout.sets.get(&wanted.known.sets[cell.set]), self.layout.rows.get(&cell.row))
            {
                self.shadow.emit(Op::Row { index: base + cell.class, word: *word });
            }
        }
        let settle = self.move_addresses(wanted, endpoints)?;
        self.plan_services(wanted.compiled, wanted.dirty_frontends)?;
        let mut targets = self.targets(&wanted.known, wanted.compiled, endpoints);
        let moved = self.move_endpoints(&mut targets)?;
        // Those that went by way of another class may only go on when nobody reads the sets that were left, and coarser
        // port classes are right for rows in use alone.
        let detoured = settle.iter().any(|op| !is_removal(op));
        if detoured || moved && wanted.dirty.is_none() {
            self.shadow.emit(Op::Barrier);
        }
        for op in settle {
            self.shadow.emit(op);
        }
        self.remove_endpoints(&targets);
        self.remove_sources(endpoints);
        self.watch_what_changes(&present);
        self.careful = Some(self.layout.clone());
        self.forget_copies();
        if wanted.dirty.is_none() {
            self.forget(wanted);
        }
        Ok(())
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
            &mut self.lists.space,
        ];
        if spaces.iter().all(|space| space.is_quarantine_empty()) {
            return;
        }
        self.shadow.emit(Op::Barrier);
        for space in spaces {
            space.release();
        }
    }

    /// Allocates; what was freed before only where nothing else is left, because that takes a barrier: up to a second on
    /// a busy machine.
    fn allocate_in(&mut self, space: fn(&mut Layout) -> &mut Ranges, length: u32) -> Option<u32> {
        let found = space(&mut self.layout).allocate(length);
        if found.is_some() {
            return found;
        }
        self.release_quarantine();
        space(&mut self.layout).allocate(length)
    }

    /// The rows that must be written: those of new sets, and the columns of new classes in the others. A known set's
    /// row towards a known class never changes, because both are named by their contents.
    fn rows_of(&self, wanted: &Wanted<'_>, fresh: &[u32]) -> Vec<Cell> {
        let (known, compiled) = (&wanted.known, wanted.compiled);
        let all: Vec<u32> = (0_u32..).zip(&known.classes).map(|(signature, _)| signature).collect();
        let mut cells = Vec::new();
        for (set, (key, content)) in known.sets.iter().zip(compiled.sets.iter()).enumerate() {
            let known_set = self.layout.sets.contains_key(key) && !self.suspect;
            for signature in if known_set { fresh } else { &all } {
                let Some(class) = known.classes.get(*signature as usize).copied() else { continue };
                let row = known.numbers.row(&compiled.row(content, *signature));
                cells.push(Cell { set, class, row });
            }
        }
        cells
    }

    fn allocate_class(&mut self) -> Result<u32, TableFull> {
        let ids = &self.layout.class_ids;
        if ids.lowest().is_none_or(|id| id >= self.layout.stride) {
            // Rather than make all sets wider.
            self.release_quarantine();
        }
        let full =
            || TableFull { table: "classes", needed: u64::from(u32::MAX), capacity: u64::from(u32::MAX) };
        self.layout.class_ids.allocate(1).ok_or_else(full)
    }

    fn forget_copies(&mut self) {
        let layout = &mut self.layout;
        for base in layout.copies.drain(..).chain(layout.outgrown.drain(..)) {
            if let Some(length) = layout.extents.remove(&base) {
                self.freed.sets.push((base, length));
            }
        }
    }

    /// Frees what nothing refers to any more.
    fn forget(&mut self, wanted: &Wanted<'_>) {
        let sets: HashSet<&SetKey> = wanted.known.sets.iter().collect();
        let gone: Vec<u32> =
            self.layout.sets.extract_if(|key, _| !sets.contains(key)).map(|(_, base)| base).collect();
        for base in gone {
            let length = self.layout.extents.remove(&base).unwrap_or(0);
            self.freed.sets.push((base, length));
        }
        let classes: HashSet<u32> = wanted.known.classes.iter().copied().collect();
        let gone = self.layout.classes.extract_if(|_, class| *class != 0 && !classes.contains(class));
        self.freed.classes.extend(gone.map(|(_, class)| class));
        let mut used: HashSet<u32> = HashSet::new();
        for base in self.layout.sets.values() {
            used.extend(wanted.known.classes.iter().map(|class| self.shadow.row(base + class)));
        }
        let width = self.layout.width;
        let gone = self.layout.rows.extract_if(|_, word| !used.contains(word));
        self.freed.rows.extend(gone.map(|(_, word)| (word, width)));
        self.forget_ports(wanted);
    }
}

fn fits(table: &'static str, needed: usize, capacity: u32) -> Result<(), TableFull> {
    if needed as u64 > u64::from(capacity) {
        return Err(TableFull { table, needed: needed as u64, capacity: u64::from(capacity) });
    }
    Ok(())
}

const fn is_removal(op: &Op) -> bool {
    matches!(op, Op::Peer { class: None, .. } | Op::Cidr { class: None, .. })
}

/// One row to write.
struct Cell {
    set: usize,
    class: u32,
    row: RowKey,
}
