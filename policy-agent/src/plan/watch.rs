//! Endpoints under watch, extra sources, and what the tables say of one connection.
//!
//! A connection whose opener has lost its permission must stop in both directions; in the other direction it may be
//! allowed packet by packet, and only connection tracking knows whose it is. Looking there costs time, so it is done
//! where the agent says so: for every endpoint from before policy changes until it has seen, in the flow table, that no
//! live connection of the endpoint lacks its permission.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use policy_common::Direction;
use policy_common::maps::WORD_BITS;

use super::op::Op;
use super::shadow::longest_prefix;
use super::{LocalEndpoint, Planner};
use crate::model::Protocol;

impl Planner {
    /// Before anything that can change a verdict, every endpoint is watched.
    pub(super) fn watch_what_changes(&mut self, present: &[u32]) {
        let changes = |op: &Op| {
            matches!(
                op,
                Op::Word { .. }
                    | Op::Row { .. }
                    | Op::Port { .. }
                    | Op::Peer { .. }
                    | Op::Cidr { .. }
                    | Op::Sets { .. }
            )
        };
        if self.shadow.planned().iter().any(changes) {
            let watch = present.iter().map(|slot| Op::Watch { slot: *slot, on: true });
            self.shadow.emit_first(watch.collect());
        }
    }

    /// Whether some endpoint is watched.
    pub fn watches(&self) -> bool {
        self.shadow.slots.values().any(|slot| self.shadow.watched.contains(slot))
    }

    /// Puts the endpoints of these interfaces under watch: packets passed them that nobody judged. The caller applies the
    /// operations and says `unwatched`, or `failed`.
    pub fn watch(&mut self, interfaces: &BTreeSet<u32>) -> Vec<Op> {
        if self.suspect {
            return Vec::new();
        }
        let slots: Vec<u32> =
            interfaces.iter().filter_map(|ifindex| self.shadow.slots.get(ifindex)).copied().collect();
        for slot in slots {
            self.shadow.emit(Op::Watch { slot, on: true });
        }
        self.shadow.take_plan()
    }

    /// Takes every endpoint from the watch but those of these interfaces. The caller applies the operations and says
    /// `unwatched`, or `failed`.
    pub fn unwatch(&mut self, keep: &BTreeSet<u32>) -> Vec<Op> {
        // After a plan that failed half-way the tables are nobody's policy: everything stays watched.
        if self.suspect {
            return Vec::new();
        }
        let slots: Vec<u32> = self
            .shadow
            .slots
            .iter()
            .filter(|(ifindex, slot)| self.shadow.watched.contains(slot) && !keep.contains(ifindex))
            .map(|(_, slot)| *slot)
            .collect();
        for slot in slots {
            self.shadow.emit(Op::Watch { slot, on: false });
        }
        self.shadow.take_plan()
    }

    /// The operations of `watch` or `unwatch` were applied. They freed nothing and finished no plan.
    pub fn unwatched(&mut self) {
        self.shadow.commit();
    }

    /// Whether the tables allow a connection in this direction between the pod behind an interface and a remote; `port`
    /// is that of the connection's destination. `None`: there is no such endpoint.
    pub fn allows(
        &self,
        ifindex: u32,
        direction: Direction,
        remote: IpAddr,
        protocol: Protocol,
        port: u16,
    ) -> Option<bool> {
        let sets = self.shadow.sets(*self.shadow.slots.get(&ifindex)?);
        let set = match direction {
            Direction::Egress => sets.egress,
            Direction::Ingress => sets.ingress,
        };
        let Some(base) = set.checked_sub(1) else { return Some(true) };
        let class = self.shadow.peers.get(remote).copied().unwrap_or_else(|| {
            let lengths: BTreeSet<u8> = (0..=if remote.is_ipv4() { 32 } else { 128 }).collect();
            longest_prefix(&self.shadow.cidrs, &lengths, IpNet::from(remote)).unwrap_or(0)
        });
        let row = self.shadow.row(base + class);
        let port_class = self.shadow.port(protocol, port);
        let word = self.shadow.word(row + port_class / WORD_BITS);
        Some(word >> (port_class % WORD_BITS) & 1 == 1)
    }

    pub(super) fn add_sources(&mut self, endpoints: &[LocalEndpoint]) {
        for (ifindex, net) in wanted_sources(endpoints) {
            self.shadow.emit(Op::Source { ifindex, net, allowed: true });
        }
    }

    pub(super) fn remove_sources(&mut self, endpoints: &[LocalEndpoint]) {
        let wanted = wanted_sources(endpoints);
        let gone: Vec<(u32, IpNet)> = self.shadow.sources.difference(&wanted).copied().collect();
        for (ifindex, net) in gone {
            self.shadow.emit(Op::Source { ifindex, net, allowed: false });
        }
    }
}

pub(super) fn wanted_sources(endpoints: &[LocalEndpoint]) -> BTreeSet<(u32, IpNet)> {
    let of = |local: &LocalEndpoint| {
        let ifindex = local.ifindex;
        local.sources.iter().map(move |net| (ifindex, net.trunc())).collect::<Vec<_>>()
    };
    endpoints.iter().flat_map(of).collect()
}
