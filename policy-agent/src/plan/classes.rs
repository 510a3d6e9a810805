//! Addresses move to their new classes while pods still judge by their old sets: the class that an address gets must
//! have, in every set that is about to be left, the row that the address had before.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::op::{Op, TableFull};
use super::shadow::longest_prefix;
use super::{LocalEndpoint, Planner, Wanted};
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

struct Move {
    place: Place,
    from: u32,
    to: u32,
    /// The entry itself goes once everybody has moved; what is left gives `to`.
    remove: bool,
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
        let class = |signature: u32| wanted.classes.get(signature as usize).copied().unwrap_or(0);
        let lengths: BTreeSet<u8> = self.shadow.cidrs.keys().map(IpNet::prefix_len).collect();
        let new_lengths: BTreeSet<u8> = compiled.prefixes.keys().map(IpNet::prefix_len).collect();
        let final_class =
            |net: IpNet| longest_prefix(&compiled.prefixes, &new_lengths, net).map_or(CLASS_NONE, class);
        let mut moves = Vec::new();
        for (address, signature) in &compiled.addresses {
            let present = self.shadow.peers.get(address).copied();
            let to = class(*signature);
            if present != Some(to) {
                let from =
                    present.unwrap_or_else(|| self.shadow.class_of_prefix(IpNet::from(*address), &lengths));
                moves.push(Move { place: Place::Address(*address), from, to, remove: false });
            }
        }
        for (address, from) in &self.shadow.peers {
            if !compiled.addresses.contains_key(address) {
                let to = final_class(IpNet::from(*address));
                moves.push(Move { place: Place::Address(*address), from: *from, to, remove: true });
            }
        }
        let mut prefixes = Vec::new();
        for (net, signature) in &compiled.prefixes {
            let present = self.shadow.cidrs.get(net).copied();
            let to = class(*signature);
            if present != Some(to) {
                let from = present.unwrap_or_else(|| self.shadow.class_of_prefix(*net, &lengths));
                prefixes.push(Move { place: Place::Prefix(*net), from, to, remove: false });
            }
        }
        for (net, from) in &self.shadow.cidrs {
            if !compiled.prefixes.contains_key(net) {
                prefixes.push(Move {
                    place: Place::Prefix(*net),
                    from: *from,
                    to: final_class(*net),
                    remove: true,
                });
            }
        }
        prefixes.sort_by_key(|step| match step.place {
            Place::Prefix(net) => std::cmp::Reverse(net.prefix_len()),
            Place::Address(_) => std::cmp::Reverse(u8::MAX),
        });
        moves.extend(prefixes);
        moves
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
        self.part_from_shared_sets(wanted, endpoints)?;
        let mut choice = self.choose(wanted, endpoints, changes);
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
                wanted.sets.iter().filter_map(|key| self.layout.sets.get(key)).copied().collect();
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
        let in_use: HashSet<u32> = self
            .shadow
            .peers
            .values()
            .chain(self.shadow.cidrs.values())
            .copied()
            .chain(std::iter::once(CLASS_NONE))
            .collect();
        let mut models = BTreeMap::new();
        let mut detours = Vec::new();
        for (to, from) in changes {
            let model = if in_use.contains(to) { *to } else { *models.entry(*to).or_insert(*from) };
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
        for target in self.targets(wanted, endpoints).values() {
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
    /// that leave read a copy from here on.
    fn part_from_shared_sets(
        &mut self,
        wanted: &Wanted<'_>,
        endpoints: &[LocalEndpoint],
    ) -> Result<(), TableFull> {
        let kept: HashSet<u32> =
            wanted.sets.iter().filter_map(|key| self.layout.sets.get(key)).copied().collect();
        let shared: Vec<(u32, Vec<(u32, Direction)>)> = self
            .sets_to_be_left(wanted, endpoints)
            .into_iter()
            .filter(|(base, _)| kept.contains(base))
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
