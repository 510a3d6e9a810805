//! Addresses move to their new classes while pods still judge by their old sets: the class that an address gets must
//! have, in every set that is about to be left, the row that the address had before.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::capacity::TableFull;
use super::op::Op;
use super::shadow::longest_prefix;
use super::{LocalEndpoint, Planner, Wanted};
use crate::compile::Compiled;
use policy_common::Direction;
use policy_common::maps::CLASS_NONE;

/// An address or a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Place {
    Address(IpAddr),
    Prefix(IpNet),
}

impl Place {
    const fn write(self, class: Option<u32>) -> Op {
        match self {
            Self::Address(address) => Op::Peer { address, class },
            Self::Prefix(net) => Op::Cidr { net, class },
        }
    }
}

pub(super) struct Move {
    place: Place,
    pub(super) from: u32,
    pub(super) to: u32,
    /// The entry itself goes once everybody has moved; what is left gives `to`.
    remove: bool,
}

impl Move {
    /// Into the new class, and out of the table where that is what is wanted.
    pub(super) fn writes(&self) -> impl Iterator<Item = Op> {
        let changes = self.from != self.to || !self.remove;
        let into = changes.then(|| self.place.write(Some(self.to)));
        let out = self.remove.then(|| self.place.write(None));
        into.into_iter().chain(out)
    }
}

/// What classes the prefixes around an address have and will have.
pub(super) struct Surroundings<'a> {
    /// Of each signature.
    pub(super) classes: &'a [u32],
    pub(super) old_lengths: &'a BTreeSet<u8>,
    pub(super) new_lengths: &'a BTreeSet<u8>,
}

impl Surroundings<'_> {
    fn class(&self, signature: u32) -> u32 {
        self.classes.get(signature as usize).copied().unwrap_or(CLASS_NONE)
    }

    fn final_class(&self, compiled: &Compiled, net: IpNet) -> u32 {
        longest_prefix(&compiled.prefixes, self.new_lengths, net)
            .map_or(CLASS_NONE, |signature| self.class(signature))
    }
}

/// The prefix lengths in use.
pub(super) fn lengths<'a>(nets: impl Iterator<Item = &'a IpNet>) -> BTreeSet<u8> {
    nets.map(IpNet::prefix_len).collect()
}

/// How addresses get to their new classes while pods still read their old sets.
struct Choice {
    /// The sets that are left.
    left: Vec<u32>,
    /// New class -> the old class whose rows it takes in them.
    models: BTreeMap<u32, u32>,
    /// Changes (to, from) that need a class of their own.
    detours: Vec<(u32, u32)>,
}

impl Planner {
    /// Emits the moves; returns what remains to be written when pods have moved.
    pub(super) fn move_addresses(
        &mut self,
        wanted: &Wanted<'_>,
        endpoints: &[LocalEndpoint],
    ) -> Result<Vec<Op>, TableFull> {
        let moves = self.moves(wanted);
        let changes: BTreeSet<(u32, u32)> =
            moves.iter().filter(|m| m.from != m.to).map(|m| (m.to, m.from)).collect();
        let detours =
            if changes.is_empty() { HashMap::new() } else { self.carry_rows(wanted, endpoints, &changes)? };
        let mut settle = Vec::new();
        let mut removals = Vec::new();
        for step in moves {
            let by_way_of = detours.get(&(step.to, step.from)).copied().unwrap_or(step.to);
            if by_way_of != step.from || !step.remove {
                self.shadow.emit(step.place.write(Some(by_way_of)));
            }
            if step.remove {
                removals.push(step.place.write(None));
            }
            if by_way_of != step.to {
                settle.push(step.place.write(Some(step.to)));
            }
        }
        self.freed.classes.extend(detours.into_values());
        settle.extend(removals);
        Ok(settle)
    }

    /// All moves: exact addresses first, then prefixes, the most specific first, so that no write changes the class of
    /// a place that has not had its own turn.
    fn moves(&self, wanted: &Wanted<'_>) -> Vec<Move> {
        let compiled = wanted.compiled;
        let surroundings = Surroundings {
            classes: &wanted.known.classes,
            old_lengths: &lengths(self.shadow.cidrs.keys()),
            new_lengths: &lengths(compiled.prefixes.keys()),
        };
        let mut moves: Vec<Move> = match wanted.dirty {
            Some(dirty) => {
                let at = |address: &IpAddr| self.move_of(*address, compiled, &surroundings);
                dirty.iter().filter_map(at).collect()
            }
            None => {
                let gone = self.shadow.peers.keys().filter(|address| !compiled.addresses.contains(*address));
                let all = compiled.addresses.keys().chain(gone);
                all.filter_map(|address| self.move_of(address, compiled, &surroundings)).collect()
            }
        };
        let mut prefixes = Vec::new();
        for (net, signature) in &compiled.prefixes {
            let present = self.shadow.cidrs.get(net).copied();
            let to = surroundings.class(*signature);
            if present != Some(to) {
                let from =
                    present.unwrap_or_else(|| self.shadow.class_of_prefix(*net, surroundings.old_lengths));
                prefixes.push(Move { place: Place::Prefix(*net), from, to, remove: false });
            }
        }
        for (net, from) in &self.shadow.cidrs {
            if !compiled.prefixes.contains_key(net) {
                let to = surroundings.final_class(compiled, *net);
                prefixes.push(Move { place: Place::Prefix(*net), from: *from, to, remove: true });
            }
        }
        prefixes.sort_by_key(|step| match step.place {
            Place::Prefix(net) => std::cmp::Reverse(net.prefix_len()),
            Place::Address(_) => std::cmp::Reverse(u8::MAX),
        });
        moves.extend(prefixes);
        moves
    }

    /// How one address gets to the class that it shall have; `None`: it has it.
    pub(super) fn move_of(
        &self,
        address: IpAddr,
        compiled: &Compiled,
        surroundings: &Surroundings<'_>,
    ) -> Option<Move> {
        let present = self.shadow.peers.get(address).copied();
        let net = IpNet::from(address);
        let (to, remove) = match self.wanted_signature(compiled, address) {
            Some(signature) => (surroundings.class(*signature), false),
            None => (surroundings.final_class(compiled, net), true),
        };
        if !remove && present == Some(to) || remove && present.is_none() {
            return None;
        }
        let from = present.unwrap_or_else(|| self.shadow.class_of_prefix(net, surroundings.old_lengths));
        Some(Move { place: Place::Address(address), from, to, remove })
    }

    /// In every set that some pod is about to leave, gives the class that an address moves to the row that it had
    /// before. Where a class cannot serve all that move to it, they go by way of a class of their own: the result says
    /// which.
    fn carry_rows(
        &mut self,
        wanted: &Wanted<'_>,
        endpoints: &[LocalEndpoint],
        changes: &BTreeSet<(u32, u32)>,
    ) -> Result<HashMap<(u32, u32), u32>, TableFull> {
        self.part_from_shared_sets(wanted, endpoints, changes)?;
        let mut choice = self.choose(wanted, endpoints, changes);
        if !choice.detours.is_empty() {
            // Rather than make all sets wider.
            self.release_quarantine();
        }
        if let Some(highest) = self.layout.class_ids.highest_of(choice.detours.len())
            && highest >= self.layout.stride
        {
            self.widen_sets(highest)?;
            choice = self.choose(wanted, endpoints, changes);
        }
        let Choice { left, models, detours } = choice;
        for (to, from) in models {
            self.copy_column(&left, from, to);
        }
        let mut by_way_of = HashMap::new();
        for (to, from) in detours {
            let class = self.allocate_class()?;
            by_way_of.insert((to, from), class);
            let stay: Vec<u32> =
                wanted.known.sets.iter().filter_map(|key| self.layout.sets.get(key)).copied().collect();
            self.copy_column(&stay, to, class);
            self.copy_column(&left, from, class);
        }
        Ok(by_way_of)
    }

    fn copy_column(&mut self, bases: &[u32], from: u32, to: u32) {
        for base in bases {
            let word = self.shadow.row(base + from);
            self.shadow.emit(Op::Row { index: base + to, word });
        }
    }

    fn choose(
        &self,
        wanted: &Wanted<'_>,
        endpoints: &[LocalEndpoint],
        changes: &BTreeSet<(u32, u32)>,
    ) -> Choice {
        let left: Vec<u32> = self.sets_to_be_left(wanted, endpoints).into_keys().collect();
        let same =
            |a: u32, b: u32| left.iter().all(|base| self.shadow.row(base + a) == self.shadow.row(base + b));
        let mut models = BTreeMap::new();
        let mut detours = Vec::new();
        for (to, from) in changes {
            let model =
                if self.shadow.is_class_used(*to) { *to } else { *models.entry(*to).or_insert(*from) };
            if !same(*from, model) {
                detours.push((*to, *from));
            }
        }
        Choice { left, models, detours }
    }

    /// Extents that some pod reads now and will not read any more, with the slots and directions that leave them.
    fn sets_to_be_left(
        &self,
        wanted: &Wanted<'_>,
        endpoints: &[LocalEndpoint],
    ) -> BTreeMap<u32, Vec<(u32, Direction)>> {
        let mut left: BTreeMap<u32, Vec<(u32, Direction)>> = BTreeMap::new();
        for target in self.targets(&wanted.known, wanted.compiled, endpoints).values() {
            let Some(slot) = target.present else { continue };
            let now = self.shadow.sets(slot);
            for (old, new, direction) in [
                (now.egress, target.sets.egress, Direction::Egress),
                (now.ingress, target.sets.ingress, Direction::Ingress),
            ] {
                if old != new && old != 0 {
                    left.entry(old - 1).or_default().push((slot, direction));
                }
            }
        }
        left
    }

    /// A set that some pods leave and others keep must hold old rows for the former and new ones for the latter: those
    /// that leave read a copy from here on. Where the rows are the same, as with a class that only rules of other sets
    /// tell from the one before, both can go on with it.
    fn part_from_shared_sets(
        &mut self,
        wanted: &Wanted<'_>,
        endpoints: &[LocalEndpoint],
        changes: &BTreeSet<(u32, u32)>,
    ) -> Result<(), TableFull> {
        let differs = |base: u32| {
            changes.iter().any(|(to, from)| self.shadow.row(base + to) != self.shadow.row(base + from))
        };
        let kept: HashSet<u32> =
            wanted.known.sets.iter().filter_map(|key| self.layout.sets.get(key)).copied().collect();
        let shared: Vec<(u32, Vec<(u32, Direction)>)> = self
            .sets_to_be_left(wanted, endpoints)
            .into_iter()
            .filter(|(base, _)| kept.contains(base) && differs(*base))
            .collect();
        if shared.is_empty() {
            return Ok(());
        }
        for (base, leaving) in shared {
            let copy = self.copy_set(base)?;
            self.layout.copies.push(copy);
            for (slot, direction) in leaving {
                let mut sets = self.shadow.sets(slot);
                match direction {
                    Direction::Egress => sets.egress = copy + 1,
                    Direction::Ingress => sets.ingress = copy + 1,
                }
                self.shadow.emit(Op::Sets { slot, sets });
            }
        }
        self.shadow.emit(Op::Barrier);
        Ok(())
    }
}
