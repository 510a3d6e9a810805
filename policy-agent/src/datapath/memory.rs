//! The tables in memory: the engine runs on them behind `explain`, in tests and in fuzzing. For tests they can fail at
//! the n-th operation.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;
use policy_common::Tables;
use policy_common::flows::{FlowKey, FlowSet};
use policy_common::maps::{
    Addr4, Addr6, BackendEntry, CLASS_NONE, Endpoint, PORT_PROTOCOLS, PORTS_PER_PROTOCOL, ServiceKey,
    ServiceRef, Sets, SourceKey, Translation, VIP_WORDS, WORD_BITS, Words, vip_bit,
};

use super::{Datapath, WriteError, frontend_of, is_forsaken};
use crate::model::services::Frontend;
use crate::plan::{Capacity, Op, Present};

#[derive(Debug)]
pub struct Memory {
    capacity: Capacity,
    words: Vec<u64>,
    rows: Vec<u32>,
    ports: Vec<u32>,
    peers: HashMap<IpAddr, u32>,
    cidrs: HashMap<IpNet, u32>,
    /// Prefix lengths in use, by family.
    lengths: [BTreeSet<u8>; 2],
    endpoints: HashMap<u32, Endpoint>,
    sets: HashMap<u32, Sets>,
    slots: HashMap<u32, u32>,
    sources: BTreeSet<(u32, IpNet)>,
    vips: Vec<u64>,
    backends: Vec<BackendEntry>,
    services: BTreeMap<Frontend, ServiceRef>,
    translations: RefCell<BTreeMap<FlowKey, Translation>>,
    translates: Cell<u32>,
    random: Cell<u32>,
    /// The sets of the flow table that are not empty.
    flows: RefCell<HashMap<u32, FlowSet>>,
    flow_mask: u32,
    /// In seconds.
    clock: Cell<u32>,
    fail_after: Option<usize>,
}

/// Nobody attacks a table in memory.
const FLOW_SEED: u64 = 0;

impl Memory {
    pub fn new(capacity: &Capacity) -> Self {
        Self {
            capacity: *capacity,
            words: vec![0; capacity.words as usize],
            rows: vec![0; capacity.rows as usize],
            ports: vec![CLASS_NONE; (PORT_PROTOCOLS * PORTS_PER_PROTOCOL) as usize],
            peers: HashMap::new(),
            cidrs: HashMap::new(),
            lengths: [BTreeSet::new(), BTreeSet::new()],
            endpoints: HashMap::new(),
            sets: HashMap::new(),
            slots: HashMap::new(),
            sources: BTreeSet::new(),
            vips: vec![0; VIP_WORDS as usize],
            backends: vec![BackendEntry::default(); capacity.backends as usize],
            services: BTreeMap::new(),
            translations: RefCell::default(),
            translates: Cell::new(0),
            random: Cell::new(1),
            flows: RefCell::default(),
            flow_mask: capacity.flow_sets.saturating_sub(1),
            clock: Cell::new(1000),
            fail_after: None,
        }
    }

    /// The operation after the next `operations` fails, once.
    pub fn fail_after(&mut self, operations: usize) {
        self.fail_after = Some(operations);
    }

    /// What an agent finds that did not fill them.
    pub fn present(&self) -> Present {
        let used = self.slots.values().filter_map(|slot| Some((*slot, *self.endpoints.get(slot)?)));
        Present {
            words: self.words.clone(),
            rows: self.rows.clone(),
            ports: self.ports.clone(),
            sets: (0..self.capacity.endpoints)
                .map(|slot| self.sets.get(&slot).copied().unwrap_or_default())
                .collect(),
            peers: self.peers.iter().map(|(address, class)| (*address, *class)).collect(),
            cidrs: self.cidrs.iter().map(|(net, class)| (*net, *class)).collect(),
            slots: self.slots.iter().map(|(ifindex, slot)| (*ifindex, *slot)).collect(),
            endpoints: used.collect(),
            sources: self.sources.clone(),
            vips: self.vips.clone(),
            backends: self.backends.clone(),
            services: self.services.clone(),
        }
    }

    pub fn forget_flows(&self) {
        self.flows.borrow_mut().clear();
        self.translations.borrow_mut().clear();
    }

    pub fn advance_seconds(&self, seconds: u32) {
        self.clock.set(self.clock.get() + seconds);
    }

    fn class_of(&self, address: IpAddr) -> u32 {
        if let Some(class) = self.peers.get(&address) {
            return *class;
        }
        self.lengths[usize::from(address.is_ipv6())]
            .iter()
            .rev()
            .filter_map(|length| IpNet::new(address, *length).ok())
            .find_map(|net| self.cidrs.get(&net.trunc()))
            .copied()
            .unwrap_or(CLASS_NONE)
    }

    fn write(&mut self, op: &Op) -> Result<(), &'static str> {
        match *op {
            Op::Word { index, value } => {
                *self.words.get_mut(index as usize).ok_or("no such word")? = value;
            }
            Op::Row { index, word } => *self.rows.get_mut(index as usize).ok_or("no such row")? = word,
            Op::Port { protocol, port, class } => {
                let index = protocol.index() * PORTS_PER_PROTOCOL + u32::from(port);
                *self.ports.get_mut(index as usize).ok_or("no such port")? = class;
            }
            Op::Peer { address, class: Some(class) } => {
                self.peers.insert(address, class);
            }
            Op::Peer { address, class: None } => {
                self.peers.remove(&address).ok_or("no such peer")?;
            }
            Op::Cidr { net, class: Some(class) } => {
                self.lengths[usize::from(net.addr().is_ipv6())].insert(net.prefix_len());
                self.cidrs.insert(net, class);
            }
            Op::Cidr { net, class: None } => {
                self.cidrs.remove(&net).ok_or("no such prefix")?;
            }
            Op::Endpoint { slot, endpoint } => {
                if self.slots.values().any(|used| *used == slot) {
                    return Err("the slot is in use");
                }
                self.endpoints.insert(slot, endpoint);
            }
            Op::Watch { slot, on } => {
                self.endpoints.get_mut(&slot).ok_or("no such endpoint")?.watch = on.into();
            }
            Op::Source { ifindex, net, allowed: true } => {
                self.sources.insert((ifindex, net));
            }
            Op::Source { ifindex, net, allowed: false } => {
                if !self.sources.remove(&(ifindex, net)) {
                    return Err("no such source");
                }
            }
            Op::Sets { slot, sets } => {
                self.sets.insert(slot, sets);
            }
            Op::Slot { ifindex, slot: Some(slot) } => {
                self.slots.insert(ifindex, slot);
            }
            Op::Slot { ifindex, slot: None } => {
                self.slots.remove(&ifindex);
            }
            Op::Vips { index, bits } => {
                *self.vips.get_mut(index as usize).ok_or("no such word of addresses")? = bits;
            }
            Op::Backend { index, entry } => {
                *self.backends.get_mut(index as usize).ok_or("no such backend")? = entry;
            }
            Op::Service { frontend, to: Some(to) } => {
                self.services.insert(frontend, to);
            }
            Op::Service { frontend, to: None } => {
                self.services.remove(&frontend).ok_or("no such frontend")?;
            }
            Op::Forsake { ref gone } => {
                let is_gone = |key: &FlowKey, value: &Translation| is_forsaken(gone, key, value);
                self.translations.borrow_mut().retain(|key, value| !is_gone(key, value));
            }
            Op::Barrier => {}
        }
        Ok(())
    }
}

impl Datapath for Memory {
    fn apply(&mut self, op: &Op) -> Result<(), WriteError> {
        let failed = |cause: &str| WriteError { op: op.clone(), cause: cause.to_owned() };
        match &mut self.fail_after {
            Some(0) => {
                self.fail_after = None;
                return Err(failed("told to fail"));
            }
            Some(left) => *left -= 1,
            None => {}
        }
        self.write(op).map_err(failed)
    }
}

impl Tables for Memory {
    fn endpoint(&self, ifindex: u32) -> Option<&Endpoint> {
        self.endpoints.get(self.slots.get(&ifindex)?).filter(|e| e.ifindex == ifindex)
    }

    fn sets(&self, slot: u32) -> Option<Sets> {
        // An array: what was never written is zero.
        Some(self.sets.get(&slot).copied().unwrap_or_default())
    }

    fn class_of_v4(&self, address: &Addr4) -> u32 {
        self.class_of(IpAddr::from(address.addr))
    }

    fn class_of_v6(&self, address: &Addr6) -> u32 {
        self.class_of(IpAddr::from(address.addr))
    }

    fn class_of_port(&self, protocol: u32, port: u16) -> Option<u32> {
        self.ports.get((protocol * PORTS_PER_PROTOCOL + u32::from(port)) as usize).copied()
    }

    fn row(&self, index: u32) -> Option<u32> {
        self.rows.get(index as usize).copied()
    }

    fn word(&self, index: u32) -> Option<u64> {
        self.words.get(index as usize).copied()
    }

    fn with_flows<R>(&self, key: &FlowKey, f: impl FnOnce(&mut FlowSet) -> R) -> Option<R> {
        let mut flows = self.flows.borrow_mut();
        Some(f(flows.entry(key.hash(FLOW_SEED) & self.flow_mask).or_insert(FlowSet::EMPTY)))
    }

    fn is_extra_source(&self, source: &SourceKey) -> bool {
        let ifindex = u32::from_be_bytes(source.ifindex);
        let address = source.address.ip(source.family[0]);
        let after = self.sources.range((ifindex, IpNet::from(IpAddr::from([0; 4])))..);
        after.take_while(|(at, _)| *at == ifindex).any(|(_, net)| net.contains(&address))
    }

    fn now(&self) -> u32 {
        self.clock.get()
    }

    fn may_be_frontend(&self, address: &Words) -> bool {
        let bit = vip_bit(address);
        self.vips.get((bit / WORD_BITS) as usize).is_some_and(|word| word >> (bit % WORD_BITS) & 1 == 1)
    }

    fn service(&self, key: &ServiceKey) -> Option<ServiceRef> {
        self.services.get(&frontend_of(key.address.ip(key.family), key.port, key.protocol)?).copied()
    }

    fn backend(&self, index: u32) -> Option<BackendEntry> {
        self.backends.get(index as usize).copied()
    }

    /// Xorshift (Marsaglia 2003): the same numbers in each run.
    fn random(&self) -> u32 {
        let mut number = self.random.get();
        number ^= number << 13;
        number ^= number >> 17;
        number ^= number << 5;
        self.random.set(number);
        number
    }

    fn translates(&self, _ifindex: u32) -> u32 {
        self.translates.get()
    }

    fn set_translates(&self, _ifindex: u32, bits: u32) {
        self.translates.set(self.translates.get() | bits);
    }

    fn with_translation<R>(&self, key: &FlowKey, f: impl FnOnce(&mut Translation) -> R) -> Option<R> {
        self.translations.borrow_mut().get_mut(key).map(f)
    }

    fn put_translation(&self, key: &FlowKey, value: &Translation) -> bool {
        self.translations.borrow_mut().insert(*key, *value);
        true
    }
}
