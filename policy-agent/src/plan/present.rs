//! What tables hold that a planner did not fill itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use policy_common::maps::{
    BackendEntry, Endpoint, PORT_PROTOCOLS, PORTS_PER_PROTOCOL, ServiceRef, Sets, VIP_WORDS,
};

use super::capacity::Capacity;
use super::services::is_within;
use crate::model::services::Frontend;

/// The contents of the tables that another agent, or a dead one, has left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Present {
    /// All of `BITS`.
    pub words: Vec<u64>,
    /// All of `ROWS`.
    pub rows: Vec<u32>,
    /// All of `PORTS`.
    pub ports: Vec<u32>,
    /// All of `SETS`.
    pub sets: Vec<Sets>,
    pub peers: Vec<(IpAddr, u32)>,
    pub cidrs: Vec<(IpNet, u32)>,
    pub slots: BTreeMap<u32, u32>,
    /// Of the slots that interfaces refer to.
    pub endpoints: BTreeMap<u32, Endpoint>,
    pub sources: BTreeSet<(u32, IpNet)>,
    /// All of `VIPS`.
    pub vips: Vec<u64>,
    /// All of `BACKENDS`.
    pub backends: Vec<BackendEntry>,
    pub services: BTreeMap<Frontend, ServiceRef>,
}

impl Present {
    /// Tables of these sizes, in which every interface's slot is there and no two share one.
    pub(super) fn is_sound(&self, capacity: &Capacity) -> bool {
        let slots: BTreeSet<u32> = self.slots.values().copied().collect();
        self.words.len() == capacity.words as usize
            && self.rows.len() == capacity.rows as usize
            && self.ports.len() == (PORT_PROTOCOLS * PORTS_PER_PROTOCOL) as usize
            && self.sets.len() == capacity.endpoints as usize
            && self.vips.len() == VIP_WORDS as usize
            && self.backends.len() == capacity.backends as usize
            && self.services.values().all(|to| is_within(*to, capacity.backends))
            && slots.len() == self.slots.len()
            && slots.iter().all(|slot| *slot < capacity.endpoints)
            && self.slots.iter().all(|(ifindex, slot)| {
                self.endpoints.get(slot).is_some_and(|e| e.ifindex == *ifindex && e.slot == *slot)
            })
    }
}
