//! Taking over tables that another agent filled: it may have died between any two writes.
//!
//! A planner knows what the numbers in its tables stand for; of tables that it finds, it must be told by the tables
//! themselves. Everything in them is read back as contents: a painted port class is the set of its ports, a row the
//! union of the classes whose bits it has, a class of addresses and a set something that nobody wants any more. So far
//! that is what a planner knows after a compilation that it shall leave, and all that holds of its plans holds from here
//! on. Then contents that are exactly what is wanted get the wanted names: what has them is not written again.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use policy_common::maps::{PORTS_PER_PROTOCOL, WORD_BITS};

use super::capacity::Capacity;
use super::names::{Numbers, PortSetNumber, RowKey, RuleKey, SetKey, SignatureKey};
use super::present::Present;
use super::{FIRST_STRIDE, LocalEndpoint, Planner};
use crate::compile::{Compiled, PolicySet, PortSet, UNNAMED};
use crate::model::Protocol;

impl Planner {
    /// A planner whose tables hold `present` already. An error says why that is nothing that a planner of these sizes leaves,
    /// dead or alive.
    pub fn adopt(
        capacity: Capacity,
        present: Present,
        compiled: &Compiled,
        endpoints: &[LocalEndpoint],
    ) -> Result<Self, &'static str> {
        if !present.is_sound(&capacity) {
            return Err("an interface's slot is not its own");
        }
        let mut planner = Self::new(capacity);
        planner.shadow = present.into();
        let mut adoption = Adoption {
            numbers: Numbers::default(),
            classes: Vec::new(),
            named_rows: HashSet::new(),
            planner,
        };
        adoption.planner.layout.contents.extend(&mut adoption.numbers, compiled);
        let ports = adoption.read_ports();
        adoption.read_classes(compiled);
        adoption.read_sets(compiled, endpoints, &ports)?;
        let mut planner = adoption.planner;
        planner.rebuild_spaces();
        planner.suspect = true;
        Ok(planner)
    }
}

struct Adoption {
    planner: Planner,
    numbers: Numbers,
    /// The class of each wanted signature, where the tables have one for it.
    classes: Vec<(u32, u32)>,
    /// The rows that have a name by now.
    named_rows: HashSet<u32>,
}

/// The ports of each painted class.
type Painted = BTreeMap<u32, (PortSetNumber, PortSet)>;

/// What a row lets pass.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Allowed {
    Everything,
    Ports(PortSet),
}

impl Adoption {
    /// Every painted class becomes a port set. Its name is that and all the wanted sets that contain all of its ports; what
    /// others divide gets classes of its own, and this one keeps its number while ports are painted with it.
    fn read_ports(&mut self) -> Painted {
        let layout = &mut self.planner.layout;
        let painted: Painted = painted(&self.planner.shadow.ports)
            .into_iter()
            .map(|(class, ports)| (class, (layout.contents.port_set(&Arc::new(ports.clone())), ports)))
            .collect();
        let mut names: BTreeMap<u32, BTreeSet<PortSetNumber>> = BTreeMap::new();
        for (interval, members) in self.planner.partition(|_| true) {
            let class = self.planner.shadow.port(interval.protocol, interval.first);
            names.entry(class).and_modify(|name| name.retain(|set| members.contains(set))).or_insert(members);
        }
        let layout = &mut self.planner.layout;
        for (class, (own, _)) in &painted {
            let name = names.remove(class).unwrap_or_else(|| BTreeSet::from([*own]));
            layout.port_classes.insert(name, *class);
        }
        let highest = painted.keys().next_back().copied().unwrap_or(0);
        layout.width = (highest / WORD_BITS + 1).next_power_of_two();
        painted
    }

    /// A signature takes over the class that most of its addresses have; classes that are left have names that nobody
    /// wants.
    fn read_classes(&mut self, compiled: &Compiled) {
        let shadow = &self.planner.shadow;
        let addresses = compiled.addresses.iter().map(|(a, s)| (*s, shadow.peers.get(a)));
        let prefixes = compiled.prefixes.iter().map(|(net, s)| (*s, shadow.cidrs.get(net)));
        let votes = addresses.chain(prefixes).filter_map(|(signature, class)| Some((signature, *class?)));
        self.classes = elect(votes.filter(|(signature, class)| *signature != UNNAMED && *class != 0));
        let layout = &mut self.planner.layout;
        for (signature, class) in &self.classes {
            if let Some(content) = compiled.signatures.get(*signature) {
                layout.classes.insert(self.numbers.signature(content), *class);
            }
        }
        let named: HashSet<u32> = layout.classes.values().copied().collect();
        let used: Vec<u32> = shadow.classes_in_use().collect();
        for class in used.iter().filter(|class| !named.contains(class)) {
            layout.classes.insert(SignatureKey::unwanted(&mut layout.contents), *class);
        }
        let highest = used.iter().copied().max().unwrap_or(0);
        layout.stride = (highest + 1).next_power_of_two().max(FIRST_STRIDE);
    }

    /// A wanted set takes over the extent that most of its pods read, if every row in it is the wanted one.
    fn read_sets(
        &mut self,
        compiled: &Compiled,
        endpoints: &[LocalEndpoint],
        painted: &Painted,
    ) -> Result<(), &'static str> {
        let shadow = &self.planner.shadow;
        // Those that only vanished pods read may lack columns: nobody cared for them any more.
        let bases: BTreeSet<u32> = endpoints
            .iter()
            .filter_map(|local| shadow.slots.get(&local.ifindex))
            .map(|slot| shadow.sets(*slot))
            .flat_map(|sets| [sets.egress, sets.ingress])
            .filter_map(|set| set.checked_sub(1))
            .collect();
        let stride = self.planner.layout.stride;
        let is_sound = |(base, next): (&u32, Option<&u32>)| {
            let end = next.copied().unwrap_or(self.planner.capacity.rows);
            base.checked_add(stride).is_some_and(|own| own <= end)
        };
        let next = bases.iter().skip(1).map(Some).chain([None]);
        if !bases.iter().zip(next).all(is_sound) {
            return Err("a policy set reaches into another, or beyond its table");
        }
        let rows = self.read_rows(&bases, painted)?;
        for (set, base) in elect(self.readers(compiled, endpoints)) {
            if let Some(content) = compiled.sets.get(set)
                && let Some(names) = self.recognise(compiled, content, base, &rows)
            {
                self.name_rows(names);
                self.planner.layout.sets.insert(self.numbers.set(content), base);
            }
        }
        let layout = &mut self.planner.layout;
        let recognised: HashSet<u32> = layout.sets.values().copied().collect();
        for base in &bases {
            layout.extents.insert(*base, stride);
            if !recognised.contains(base) {
                layout.sets.insert(SetKey::from([RuleKey::unwanted(&mut layout.contents)]), *base);
            }
        }
        for (word, allowed) in &rows {
            if !self.named_rows.contains(word) {
                let name = self.describe(allowed, painted);
                self.name_rows(HashMap::from([(*word, name)]));
            }
        }
        Ok(())
    }

    /// Which extents the pods of each wanted set read.
    fn readers(&self, compiled: &Compiled, endpoints: &[LocalEndpoint]) -> Vec<(u32, u32)> {
        let shadow = &self.planner.shadow;
        let mut readers = Vec::new();
        for local in endpoints {
            let (Some(policy), Some(slot)) =
                (compiled.endpoints.get(&local.pod), shadow.slots.get(&local.ifindex))
            else {
                continue;
            };
            let sets = shadow.sets(*slot);
            for (wanted, present) in [(policy.egress, sets.egress), (policy.ingress, sets.ingress)] {
                if let (Some(wanted), Some(base)) = (wanted, present.checked_sub(1)) {
                    readers.extend(u32::try_from(wanted).ok().map(|wanted| (wanted, base)));
                }
            }
        }
        readers
    }

    /// What each row lets pass that some pod can come to.
    fn read_rows(
        &self,
        bases: &BTreeSet<u32>,
        painted: &Painted,
    ) -> Result<BTreeMap<u32, Allowed>, &'static str> {
        let (layout, shadow) = (&self.planner.layout, &self.planner.shadow);
        let classes: BTreeSet<u32> = layout.classes.values().copied().collect();
        let cells = bases.iter().flat_map(|base| classes.iter().map(move |class| base + class));
        // A cell that nobody wrote names row 0.
        let words: BTreeSet<u32> = cells.map(|cell| shadow.row(cell)).filter(|word| *word != 0).collect();
        let mut rows = BTreeMap::new();
        let mut end = 0;
        for word in words {
            let after = word.saturating_add(layout.width);
            if word < end || after > self.planner.capacity.words {
                return Err("a row reaches into another, or beyond its table");
            }
            end = after;
            let row =
                self.read_row(word, painted).ok_or("a row allows what has no port, and not everything")?;
            rows.insert(word, row);
        }
        Ok(rows)
    }

    fn read_row(&self, first: u32, painted: &Painted) -> Option<Allowed> {
        let (layout, shadow) = (&self.planner.layout, &self.planner.shadow);
        if (first..first + layout.width).all(|index| shadow.word(index) == u64::MAX) {
            return Some(Allowed::Everything);
        }
        let bit = |class: u32| shadow.word(first + class / WORD_BITS) >> (class % WORD_BITS) & 1 == 1;
        // Only a row that allows everything allows what has no port.
        (!bit(0)).then(|| {
            let allowed = painted.iter().filter(|(class, _)| bit(**class));
            Allowed::Ports(union(allowed.map(|(_, (_, ports))| ports)))
        })
    }

    /// The wanted names of a set's rows, where the extent holds exactly what is wanted towards each class that has its
    /// wanted name.
    fn recognise(
        &self,
        compiled: &Compiled,
        content: &PolicySet,
        base: u32,
        rows: &BTreeMap<u32, Allowed>,
    ) -> Option<HashMap<u32, RowKey>> {
        let known = &self.planner.layout.rows;
        let mut names: HashMap<u32, RowKey> = HashMap::new();
        let mut given: HashMap<RowKey, u32> = HashMap::new();
        for (signature, class) in self.classes.iter().copied().chain([(UNNAMED, 0)]) {
            let row = compiled.row(content, signature);
            let key = self.numbers.row(&row);
            let word = self.planner.shadow.row(base + class);
            let is_free = || !self.named_rows.contains(&word) && !names.contains_key(&word);
            match known.get(&key).or_else(|| given.get(&key)) {
                Some(known) if *known == word => continue,
                Some(_) => return None,
                None if !is_free() => return None,
                None => {}
            }
            let wanted = match row.everything {
                true => Allowed::Everything,
                false => {
                    let sets = row.port_sets.iter().filter_map(|id| compiled.port_sets.get(*id));
                    Allowed::Ports(union(sets))
                }
            };
            if rows.get(&word) != Some(&wanted) || !self.keeps_its_bits(word, &key) {
                return None;
            }
            names.insert(word, key.clone());
            given.insert(key, word);
        }
        Some(names)
    }

    /// Whether a row would have the bits under this name that it has now. Two wanted sets may contain together what neither
    /// contains: until such a class is divided and its ports are painted anew, its bit may not go.
    fn keeps_its_bits(&self, first: u32, key: &RowKey) -> bool {
        let bit =
            |class: u32| self.planner.shadow.word(first + class / WORD_BITS) >> (class % WORD_BITS) & 1 == 1;
        let named = |name: &BTreeSet<PortSetNumber>| key.port_sets.iter().any(|set| name.contains(set));
        let classes = &self.planner.layout.port_classes;
        key.everything || classes.iter().all(|(name, class)| bit(*class) == named(name))
    }

    /// A name for a row that nobody wants: which classes' ports it allows, and a number that no other name has.
    fn describe(&mut self, allowed: &Allowed, painted: &Painted) -> RowKey {
        let mut port_sets = vec![self.planner.layout.contents.unwanted()];
        if let Allowed::Ports(ports) = allowed {
            let is_allowed = |(_, own): &&(PortSetNumber, PortSet)| {
                own.ranges().first().is_some_and(|(protocol, first, _)| ports.contains(*protocol, *first))
            };
            port_sets.extend(painted.values().filter(is_allowed).map(|(number, _)| *number));
        }
        port_sets.sort_unstable();
        RowKey { everything: *allowed == Allowed::Everything, port_sets: port_sets.into() }
    }

    fn name_rows(&mut self, names: HashMap<u32, RowKey>) {
        for (word, key) in names {
            self.planner.layout.rows.insert(key, word);
            self.named_rows.insert(word);
        }
    }
}

/// One for each by the number of votes; none has two, and none two have one.
fn elect<A: Copy + Ord + Hash, B: Copy + Ord + Hash>(votes: impl IntoIterator<Item = (A, B)>) -> Vec<(A, B)> {
    let mut count: HashMap<(A, B), usize> = HashMap::new();
    for vote in votes {
        *count.entry(vote).or_default() += 1;
    }
    let mut pairs: Vec<((A, B), usize)> = count.into_iter().collect();
    pairs.sort_unstable_by_key(|(pair, votes)| (std::cmp::Reverse(*votes), *pair));
    let (mut left, mut right) = (HashSet::new(), HashSet::new());
    let mut elected = Vec::new();
    for ((a, b), _) in pairs {
        if !left.contains(&a) && !right.contains(&b) {
            left.insert(a);
            right.insert(b);
            elected.push((a, b));
        }
    }
    elected
}

/// The ports of each class but the one of ports that nobody names.
fn painted(ports: &[u32]) -> BTreeMap<u32, PortSet> {
    let mut ranges: BTreeMap<u32, Vec<(Protocol, u16, u16)>> = BTreeMap::new();
    for (protocol, ports) in Protocol::ALL.into_iter().zip(ports.chunks(PORTS_PER_PROTOCOL as usize)) {
        for (port, class) in (0..=u16::MAX).zip(ports) {
            if *class == 0 {
                continue;
            }
            let ranges = ranges.entry(*class).or_default();
            match ranges.last_mut() {
                Some((of, _, last)) if *of == protocol && last.checked_add(1) == Some(port) => *last = port,
                _ => ranges.push((protocol, port, port)),
            }
        }
    }
    ranges.into_iter().map(|(class, ranges)| (class, PortSet::new(ranges))).collect()
}

fn union<'a>(sets: impl Iterator<Item = &'a PortSet>) -> PortSet {
    PortSet::new(sets.flat_map(PortSet::ranges).copied().collect())
}
