//! Interfaces: which sets each has, and how it moves to others.

use std::collections::BTreeMap;
use std::net::IpAddr;

use policy_common::maps::{Addr4, Addr6, Endpoint, Sets};

use super::capacity::TableFull;
use super::known::Known;
use super::op::Op;
use super::{LocalEndpoint, Planner};
use crate::compile::Compiled;

pub(super) struct Target {
    pub(super) sets: Sets,
    endpoint: Endpoint,
    /// The slot that the interface has now.
    pub(super) present: Option<u32>,
}

impl Planner {
    /// Which sets each interface shall have.
    pub(super) fn targets(
        &self,
        known: &Known,
        compiled: &Compiled,
        endpoints: &[LocalEndpoint],
    ) -> BTreeMap<u32, Target> {
        let mut targets = BTreeMap::new();
        for local in endpoints {
            let reference = |index: Option<usize>| {
                let base = index.and_then(|at| known.sets.get(at)).and_then(|key| self.layout.sets.get(key));
                base.map_or(0, |base| base + 1)
            };
            let policy = compiled.endpoints.get(&local.pod);
            let sets = Sets {
                egress: reference(policy.and_then(|p| p.egress)),
                ingress: reference(policy.and_then(|p| p.ingress)),
            };
            let present = self.shadow.slots.get(&local.ifindex).copied();
            targets.insert(local.ifindex, Target { sets, endpoint: describe(local), present });
        }
        targets
    }

    /// Returns whether any pod that packets already reach has moved.
    pub(super) fn move_endpoints(&mut self, targets: &mut BTreeMap<u32, Target>) -> Result<bool, TableFull> {
        let mut moved = false;
        let needed = targets.len() as u64 + 1;
        for (ifindex, target) in targets {
            let same = |slot: &u32| {
                let described = Endpoint { slot: *slot, ..target.endpoint };
                self.shadow.endpoints.get(slot) == Some(&described)
            };
            let slot = match target.present.filter(same) {
                Some(slot) => slot,
                None => self.allocate_in(|layout| &mut layout.slots, 1).ok_or(TableFull {
                    table: "endpoints",
                    needed,
                    capacity: u64::from(self.capacity.endpoints),
                })?,
            };
            moved |= target.present.is_some_and(|old| self.shadow.sets(old) != target.sets);
            if target.present != Some(slot) {
                target.endpoint.slot = slot;
                self.shadow.emit(Op::Endpoint { slot, endpoint: target.endpoint });
            }
            self.shadow.emit(Op::Sets { slot, sets: target.sets });
            self.shadow.emit(Op::Slot { ifindex: *ifindex, slot: Some(slot) });
            self.freed.slots.extend(target.present.filter(|old| *old != slot));
        }
        Ok(moved)
    }

    pub(super) fn remove_endpoints(&mut self, targets: &BTreeMap<u32, Target>) {
        let gone: Vec<(u32, u32)> = self
            .shadow
            .slots
            .iter()
            .filter(|(ifindex, _)| !targets.contains_key(ifindex))
            .map(|(ifindex, slot)| (*ifindex, *slot))
            .collect();
        for (ifindex, slot) in gone {
            self.shadow.emit(Op::Slot { ifindex, slot: None });
            self.freed.slots.push(slot);
        }
    }
}

pub(super) fn describe(local: &LocalEndpoint) -> Endpoint {
    let mut endpoint =
        Endpoint { ifindex: local.ifindex, slot: 0, v4: Addr4 { addr: [0; 4] }, v6: Addr6::ZERO, watch: 1 };
    for address in &local.addresses {
        match address {
            IpAddr::V4(v4) => endpoint.v4 = Addr4 { addr: v4.octets() },
            IpAddr::V6(v6) => endpoint.v6 = Addr6 { addr: v6.octets() },
        }
    }
    endpoint
}
