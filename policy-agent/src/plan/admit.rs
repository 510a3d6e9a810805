//! What full tables do not keep out: endpoints for which there is room, and addresses that a rule's selector may miss
//! without anything being opened.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use policy_common::maps::IFINDEX_DIRECT;

use super::capacity::{HIGH_INTERFACES, TableFull};
use super::classes::lengths;
use super::op::Op;
use super::shadow::longest_prefix;
use super::watch::wanted_sources;
use super::{LocalEndpoint, Planner, fits};
use crate::compile::{Compiled, Signature, SignatureId};
use crate::model::ObjectName;

/// Endpoints that fit into the tables.
#[derive(Debug, Default)]
pub struct Admission {
    pub endpoints: Vec<LocalEndpoint>,
    /// Those that do not: they have no place, and nothing passes.
    pub closed: BTreeMap<ObjectName, TableFull>,
    /// Those of which some extra sources do not fit: what they send from there is dropped.
    pub curtailed: BTreeMap<ObjectName, TableFull>,
}

impl Planner {
    /// Whether the tables know an endpoint behind this interface.
    pub fn is_present(&self, ifindex: u32) -> bool {
        self.shadow.slots.contains_key(&ifindex)
    }

    /// How many endpoints the tables know.
    pub fn endpoints(&self) -> usize {
        self.shadow.slots.len()
    }

    /// Those that are there already go before others.
    pub fn admit(&self, wanted: &[LocalEndpoint]) -> Admission {
        let mut admission = Admission::default();
        let (mut slots, mut high) = (self.shadow.slots.len(), self.high_interfaces());
        let mut sources: BTreeSet<(u32, IpNet)> = self.shadow.sources.clone();
        let (present, new): (Vec<_>, Vec<_>) =
            wanted.iter().partition(|local| self.is_present(local.ifindex));
        for local in present.into_iter().chain(new) {
            if !self.is_present(local.ifindex) {
                let is_high = usize::from(local.ifindex >= IFINDEX_DIRECT);
                let room = fits("endpoints", slots + 1, self.capacity.endpoints)
                    .and_then(|()| fits("interfaces", (high + 1) * is_high, HIGH_INTERFACES));
                if let Err(full) = room {
                    admission.closed.insert(local.pod.clone(), full);
                    continue;
                }
                (slots, high) = (slots + 1, high + is_high);
            }
            let mut local = local.clone();
            let ifindex = local.ifindex;
            local.sources.retain(|net| {
                let key = (ifindex, net.trunc());
                // The trie keeps one entry to itself.
                let room = match sources.contains(&key) {
                    true => Ok(()),
                    false => fits("sources", sources.len() + 2, self.capacity.sources),
                };
                match room {
                    Ok(()) => {
                        sources.insert(key);
                        true
                    }
                    Err(full) => {
                        admission.curtailed.insert(local.pod.clone(), full);
                        false
                    }
                }
            });
            admission.endpoints.push(local);
        }
        admission
    }

    pub(super) fn check(&self, endpoints: &[LocalEndpoint]) -> Result<(), TableFull> {
        fits("endpoints", endpoints.len(), self.capacity.endpoints)?;
        let new = |local: &&LocalEndpoint| local.ifindex >= IFINDEX_DIRECT && !self.is_present(local.ifindex);
        fits("interfaces", self.high_interfaces() + endpoints.iter().filter(new).count(), HIGH_INTERFACES)?;
        // Old and new ones are there together, and the trie keeps one entry to itself.
        let needed = self.shadow.sources.union(&wanted_sources(endpoints)).count();
        fits("sources", if needed == 0 { 0 } else { needed + 1 }, self.capacity.sources)
    }

    pub(super) fn high_interfaces(&self) -> usize {
        self.shadow.slots.range(IFINDEX_DIRECT..).count()
    }

    /// Takes the endpoints out of the tables that are gone, and nothing else: that needs no room, and makes some. The caller
    /// applies the operations and says `applied` or `failed`.
    pub fn retire(&mut self, stay: &[LocalEndpoint]) -> Vec<Op> {
        let stay: BTreeSet<u32> = stay.iter().map(|local| local.ifindex).collect();
        let gone: Vec<(u32, u32)> = self
            .shadow
            .slots
            .iter()
            .filter(|(ifindex, _)| !stay.contains(ifindex))
            .map(|(ifindex, slot)| (*ifindex, *slot))
            .collect();
        if gone.is_empty() || self.suspect {
            return Vec::new();
        }
        for (ifindex, slot) in &gone {
            self.shadow.emit(Op::Slot { ifindex: *ifindex, slot: None });
            self.freed.slots.push(*slot);
        }
        let sources: Vec<(u32, IpNet)> =
            self.shadow.sources.iter().filter(|(ifindex, _)| !stay.contains(ifindex)).copied().collect();
        for (ifindex, net) in sources {
            self.shadow.emit(Op::Source { ifindex, net, allowed: false });
        }
        self.careful = Some(self.layout.clone());
        self.pending.endpoints = true;
        if let Some(known) = &mut self.known {
            known.endpoints.retain(|local| stay.contains(&local.ifindex));
        }
        self.shadow.take_plan()
    }

    /// From here on a plan leaves out addresses for which there is no room, where that opens nothing; or none.
    pub fn set_lenient(&mut self, lenient: bool) {
        self.lenient = lenient;
    }

    /// Addresses that the last plan left out.
    pub const fn left_out(&self) -> &BTreeSet<IpAddr> {
        &self.left_out
    }

    /// What the tables shall say of an address.
    pub(super) fn wanted_signature<'a>(
        &self,
        compiled: &'a Compiled,
        address: IpAddr,
    ) -> Option<&'a SignatureId> {
        compiled.addresses.get(address).filter(|_| !self.left_out.contains(&address))
    }

    /// Addresses without an entry have the class of the prefix around them. Where that allows no more, an address can do
    /// without one: rules that name it by a selector do not allow it then. One that a block excepts cannot.
    pub(super) fn leave_out(&mut self, compiled: &Compiled) {
        self.left_out.clear();
        if !self.lenient {
            return;
        }
        let lengths = lengths(compiled.prefixes.keys());
        let mut room = [true, false]
            .map(|v4| (self.capacity.peers as usize).saturating_sub(self.shadow.peers.len_of(v4)));
        let (mut needed, mut spare) = (Vec::new(), Vec::new());
        for (address, signature) in compiled.addresses.iter() {
            if !self.shadow.peers.contains(address) {
                let around = longest_prefix(&compiled.prefixes, &lengths, IpNet::from(address)).unwrap_or(0);
                let can = allows_no_more(compiled, around, *signature);
                if can { &mut spare } else { &mut needed }.push(address);
            }
        }
        for (addresses, can_be_left_out) in [(needed, false), (spare, true)] {
            for address in addresses {
                let room = &mut room[usize::from(address.is_ipv6())];
                if *room > 0 {
                    *room -= 1;
                } else if can_be_left_out {
                    self.left_out.insert(address);
                }
            }
        }
    }
}

/// Whether whatever rules say of the one signature they say of the other too.
fn allows_no_more(compiled: &Compiled, less: SignatureId, more: SignatureId) -> bool {
    let none = Signature::default();
    let of = |id| compiled.signatures.get(id).unwrap_or(&none);
    let (less, more) = (of(less), of(more));
    let within = |less: &[u32], more: &[u32]| less.iter().all(|id| more.binary_search(id).is_ok());
    within(&less.groups, &more.groups) && within(&less.named, &more.named)
}
