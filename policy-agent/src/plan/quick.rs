//! Changes that need nothing new: addresses move between classes that the tables have, and pods come and go whose sets
//! are there. Every set keeps the row that it has towards every class, so that each write takes one address from its
//! old verdicts to its new ones, and no pod leaves a set that a packet may still be reading: no barrier.

use super::capacity::TableFull;
use super::classes::{Move, Surroundings};
use super::endpoints::Target;
use super::known::Known;
use super::op::Op;
use super::{LocalEndpoint, Planner};
use crate::compile::{Compiled, Delta};

impl Planner {
    /// `None`: it needs more than that, and nothing is planned yet.
    pub(super) fn quick(
        &mut self,
        known: &mut Known,
        compiled: &Compiled,
        delta: &Delta,
        endpoints: &[LocalEndpoint],
    ) -> Option<Result<(), TableFull>> {
        if delta.prefixes
            || known.sets.len() != compiled.sets.len()
            || known.classes.len() != compiled.signatures.len()
        {
            return None;
        }
        let same_endpoints = !delta.endpoints && known.endpoints == endpoints;
        let targets = (!same_endpoints).then(|| self.targets(known, compiled, endpoints));
        let leaves =
            |target: &Target| target.present.is_some_and(|slot| self.shadow.sets(slot) != target.sets);
        if targets.iter().flat_map(|targets| targets.values()).any(leaves) {
            return None;
        }
        if let Err(full) = self.check_addresses(compiled, delta.addresses.iter().copied()) {
            return Some(Err(full));
        }
        let moves = self.quick_moves(known, compiled, delta);
        self.watch_revoked(&moves);
        let Some(mut targets) = targets else {
            self.shadow.emit_all(moves.iter().flat_map(Move::writes));
            return Some(self.plan_services(compiled, Some(&delta.frontends)));
        };
        let slots = self.layout.slots.clone();
        let planned = self.check(endpoints).and_then(|()| {
            self.add_sources(endpoints);
            self.shadow.emit_all(moves.iter().flat_map(Move::writes));
            self.plan_services(compiled, Some(&delta.frontends))?;
            self.move_endpoints(&mut targets)
        });
        if let Err(full) = planned {
            self.layout.slots = slots;
            return Some(Err(full));
        }
        self.remove_endpoints(&targets);
        self.remove_sources(endpoints);
        known.endpoints = endpoints.to_vec();
        Some(Ok(()))
    }

    fn quick_moves(&self, known: &Known, compiled: &Compiled, delta: &Delta) -> Vec<Move> {
        let surroundings = Surroundings {
            classes: &known.classes,
            old_lengths: &known.lengths,
            new_lengths: &known.lengths,
        };
        delta.addresses.iter().filter_map(|address| self.move_of(*address, compiled, &surroundings)).collect()
    }

    /// Watches the endpoints that allow an address less than before: no other connection can lose its permission by
    /// these moves.
    fn watch_revoked(&mut self, moves: &[Move]) {
        let mut changes: Vec<(u32, u32)> = moves.iter().map(|step| (step.from, step.to)).collect();
        changes.sort_unstable();
        changes.dedup();
        changes.retain(|(from, to)| from != to);
        if changes.is_empty() {
            return;
        }
        let revokes = |slot: &u32| {
            let sets = self.shadow.sets(*slot);
            let bases = [sets.egress, sets.ingress].into_iter().filter_map(|set| set.checked_sub(1));
            bases.flat_map(|base| changes.iter().map(move |change| (base, change))).any(
                |(base, (from, to))| {
                    let (old, new) = (self.shadow.row(base + from), self.shadow.row(base + to));
                    old != new && self.allows_less(new, old)
                },
            )
        };
        let slots: Vec<u32> = self.shadow.slots.values().copied().filter(revokes).collect();
        self.shadow.emit_all(slots.into_iter().map(|slot| Op::Watch { slot, on: true }));
    }

    /// Whether a row lacks a bit that the other has. Row 0, which nobody writes, has no words of its own.
    fn allows_less(&self, new: u32, old: u32) -> bool {
        let lacks = |at: u32| self.shadow.word(old + at) & !self.shadow.word(new + at) != 0;
        old == 0 || new == 0 || (0..self.layout.width).any(lacks)
    }
}
