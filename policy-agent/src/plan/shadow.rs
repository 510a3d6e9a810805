//! A copy of what the tables hold. Planning writes to it and records how to take each write back, so that after an
//! operation failed it says exactly what the tables hold, half-applied plan or not.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ipnet::IpNet;
use policy_common::maps::{
    BackendEntry, CLASS_NONE, Endpoint, PORT_PROTOCOLS, PORTS_PER_PROTOCOL, ServiceRef, Sets, VIP_WORDS,
};

use super::capacity::Capacity;
use super::op::Op;
use super::present::Present;
use crate::model::services::Frontend;
use crate::model::{AddressMap, Protocol};

#[derive(Debug, Default)]
pub(super) struct Shadow {
    words: Vec<u64>,
    rows: Vec<u32>,
    pub(super) ports: Vec<u32>,
    pub(super) peers: AddressMap<u32>,
    pub(super) cidrs: BTreeMap<IpNet, u32>,
    /// How many addresses and prefixes have each class.
    users: HashMap<u32, u32>,
    pub(super) endpoints: HashMap<u32, Endpoint>,
    sets: HashMap<u32, Sets>,
    pub(super) slots: BTreeMap<u32, u32>,
    /// Slots whose endpoints are watched.
    pub(super) watched: BTreeSet<u32>,
    pub(super) sources: BTreeSet<(u32, IpNet)>,
    vips: Vec<u64>,
    backends: Vec<BackendEntry>,
    pub(super) services: BTreeMap<Frontend, ServiceRef>,
    ops: Vec<Op>,
    undo: Vec<Undo>,
}

/// How to take one write back.
#[derive(Debug)]
enum Undo {
    Write(Op),
    /// The slot was never written before.
    ForgetEndpoint(u32),
    Nothing,
}

impl Shadow {
    pub(super) fn new(capacity: &Capacity) -> Self {
        Self {
            words: vec![0; capacity.words as usize],
            rows: vec![0; capacity.rows as usize],
            ports: vec![CLASS_NONE; (PORT_PROTOCOLS * PORTS_PER_PROTOCOL) as usize],
            vips: vec![0; VIP_WORDS as usize],
            backends: vec![BackendEntry::default(); capacity.backends as usize],
            ..Self::default()
        }
    }

    pub(super) fn row(&self, index: u32) -> u32 {
        self.rows.get(index as usize).copied().unwrap_or(0)
    }

    /// How many prefixes of one family there are.
    pub(super) fn cidrs_of(&self, v4: bool) -> usize {
        self.cidrs.keys().filter(|net| matches!(net, IpNet::V4(_)) == v4).count()
    }

    pub(super) fn word(&self, index: u32) -> u64 {
        self.words.get(index as usize).copied().unwrap_or(0)
    }

    pub(super) fn vips(&self, index: u32) -> u64 {
        self.vips.get(index as usize).copied().unwrap_or(0)
    }

    pub(super) fn backend(&self, index: u32) -> Option<BackendEntry> {
        self.backends.get(index as usize).copied()
    }

    pub(super) fn port(&self, protocol: Protocol, port: u16) -> u32 {
        self.ports.get(port_index(protocol, port)).copied().unwrap_or(CLASS_NONE)
    }

    pub(super) fn sets(&self, slot: u32) -> Sets {
        self.sets.get(&slot).copied().unwrap_or_default()
    }

    /// The class that the tables give a prefix or address now.
    pub(super) fn class_of_prefix(&self, net: IpNet, lengths: &BTreeSet<u8>) -> u32 {
        longest_prefix(&self.cidrs, lengths, net).unwrap_or(CLASS_NONE)
    }

    /// Adds an operation to the plan unless the table already holds what it would write.
    pub(super) fn emit(&mut self, op: Op) {
        let undo = self.write(&op);
        if !matches!(&undo, Undo::Write(before) if *before == op) {
            self.undo.push(undo);
            self.ops.push(op);
        }
    }

    pub(super) fn emit_all(&mut self, ops: impl Iterator<Item = Op>) {
        for op in ops {
            self.emit(op);
        }
    }

    /// Adds operations before all others of the plan.
    pub(super) fn emit_first(&mut self, first: Vec<Op>) {
        let (ops, undo) = (std::mem::take(&mut self.ops), std::mem::take(&mut self.undo));
        for op in first {
            self.emit(op);
        }
        self.ops.extend(ops);
        self.undo.extend(undo);
    }

    pub(super) fn planned(&self) -> &[Op] {
        &self.ops
    }

    pub(super) fn take_plan(&mut self) -> Vec<Op> {
        std::mem::take(&mut self.ops)
    }

    /// The plan's operations from `from` on were not applied.
    pub(super) fn roll_back(&mut self, from: usize) {
        let undo = std::mem::take(&mut self.undo);
        for undo in undo.into_iter().skip(from).rev() {
            match undo {
                Undo::Write(op) => {
                    self.write(&op);
                }
                Undo::ForgetEndpoint(slot) => {
                    self.endpoints.remove(&slot);
                    self.watched.remove(&slot);
                }
                Undo::Nothing => {}
            }
        }
        self.ops.clear();
    }

    pub(super) fn commit(&mut self) {
        self.undo.clear();
    }

    /// Those of some address or prefix, but for the one of addresses that nobody names.
    pub(super) fn classes_in_use(&self) -> impl Iterator<Item = u32> {
        self.users.keys().copied().filter(|class| *class != CLASS_NONE)
    }

    /// Whether any address can have the class.
    pub(super) fn is_class_used(&self, class: u32) -> bool {
        class == CLASS_NONE || self.users.contains_key(&class)
    }

    fn count(&mut self, old: Option<u32>, new: Option<u32>) {
        if let Some(new) = new {
            *self.users.entry(new).or_default() += 1;
        }
        if let Some(old) = old
            && let Some(users) = self.users.get_mut(&old)
        {
            *users -= 1;
            if *users == 0 {
                self.users.remove(&old);
            }
        }
    }

    fn write(&mut self, op: &Op) -> Undo {
        Undo::Write(match *op {
            Op::Word { index, value } => {
                let old = self.words.get_mut(index as usize).map(|w| std::mem::replace(w, value));
                Op::Word { index, value: old.unwrap_or(0) }
            }
            Op::Row { index, word } => {
                let old = self.rows.get_mut(index as usize).map(|r| std::mem::replace(r, word));
                Op::Row { index, word: old.unwrap_or(0) }
            }
            Op::Port { protocol, port, class } => {
                let old = self.ports.get_mut(port_index(protocol, port)).map(|p| std::mem::replace(p, class));
                Op::Port { protocol, port, class: old.unwrap_or(CLASS_NONE) }
            }
            Op::Peer { address, class } => {
                let old = match class {
                    Some(class) => self.peers.insert(address, class),
                    None => self.peers.remove(address),
                };
                self.count(old, class);
                Op::Peer { address, class: old }
            }
            Op::Cidr { net, class } => {
                let old = replace(&mut self.cidrs, net, class);
                self.count(old, class);
                Op::Cidr { net, class: old }
            }
            Op::Endpoint { slot, endpoint } => {
                // The stored ones are as they were first written, watched; whether they still are is known apart.
                let was_watched = put(&mut self.watched, slot, endpoint.watch != 0);
                let stored = Endpoint { watch: 1, ..endpoint };
                match self.endpoints.insert(slot, stored) {
                    Some(old) => {
                        Op::Endpoint { slot, endpoint: Endpoint { watch: was_watched.into(), ..old } }
                    }
                    None => return Undo::ForgetEndpoint(slot),
                }
            }
            Op::Watch { slot, on } => Op::Watch { slot, on: put(&mut self.watched, slot, on) },
            Op::Source { ifindex, net, allowed } => {
                Op::Source { ifindex, net, allowed: put(&mut self.sources, (ifindex, net), allowed) }
            }
            Op::Sets { slot, sets } => {
                Op::Sets { slot, sets: self.sets.insert(slot, sets).unwrap_or_default() }
            }
            Op::Slot { ifindex, slot } => Op::Slot { ifindex, slot: replace(&mut self.slots, ifindex, slot) },
            Op::Vips { index, bits } => {
                let old = self.vips.get_mut(index as usize).map(|word| std::mem::replace(word, bits));
                Op::Vips { index, bits: old.unwrap_or(0) }
            }
            Op::Backend { index, entry } => {
                let old = self.backends.get_mut(index as usize).map(|place| std::mem::replace(place, entry));
                Op::Backend { index, entry: old.unwrap_or_default() }
            }
            Op::Service { frontend, to } => {
                Op::Service { frontend, to: replace(&mut self.services, frontend, to) }
            }
            Op::Barrier | Op::Forsake { .. } => return Undo::Nothing,
        })
    }
}

impl From<Present> for Shadow {
    fn from(present: Present) -> Self {
        let mut shadow = Self {
            words: present.words,
            rows: present.rows,
            ports: present.ports,
            sets: (0_u32..).zip(present.sets).collect(),
            slots: present.slots,
            sources: present.sources,
            vips: present.vips,
            backends: present.backends,
            services: present.services,
            ..Self::default()
        };
        for (address, class) in present.peers {
            let old = shadow.peers.insert(address, class);
            shadow.count(old, Some(class));
        }
        for (net, class) in present.cidrs {
            let old = shadow.cidrs.insert(net, class);
            shadow.count(old, Some(class));
        }
        for (slot, endpoint) in present.endpoints {
            if endpoint.watch != 0 {
                shadow.watched.insert(slot);
            }
            shadow.endpoints.insert(slot, Endpoint { watch: 1, ..endpoint });
        }
        shadow
    }
}

/// What the longest prefix that contains `net` has, where `lengths` are those in use.
pub(super) fn longest_prefix(
    prefixes: &BTreeMap<IpNet, u32>,
    lengths: &BTreeSet<u8>,
    net: IpNet,
) -> Option<u32> {
    lengths
        .iter()
        .rev()
        .filter(|length| **length <= net.prefix_len())
        .filter_map(|length| IpNet::new(net.addr(), *length).ok())
        .find_map(|outer| prefixes.get(&outer.trunc()))
        .copied()
}

const fn port_index(protocol: Protocol, port: u16) -> usize {
    (protocol.index() * PORTS_PER_PROTOCOL) as usize + port as usize
}

/// Puts it in or takes it out; returns whether it was in.
fn put<T: Ord>(set: &mut BTreeSet<T>, item: T, present: bool) -> bool {
    if present { !set.insert(item) } else { set.remove(&item) }
}

fn replace<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) -> Option<V> {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    }
}
