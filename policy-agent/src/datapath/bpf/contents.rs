//! Reading back what the tables hold: the agent that filled them may be dead.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use aya::maps::MapError;
use aya::maps::lpm_trie::Key;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use policy_common::maps::{
    Class, Endpoint, IFINDEX_DIRECT, SOURCE_KEY_BITS, ServiceKey, ServiceRef, SlotRef, SourceKey,
};

use super::super::frontend_of;
use super::BpfError;
use super::batch::read_pinned;
use super::maps::Maps;
use super::pins::Pins;
use crate::model::services::Frontend;
use crate::plan::Present;

/// All values of one of the tables.
fn array<T: bytemuck::Pod>(pins: &Pins, name: &str) -> Result<Vec<T>, BpfError> {
    let bytes = read_pinned(&pins.table(name), 0)?;
    Ok(bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect())
}

impl Maps {
    pub(super) fn present(&self, pins: &Pins) -> Result<Present, BpfError> {
        let slots = self.slots_present(pins)?;
        let endpoint = |slot: &u32| -> Result<(u32, Endpoint), MapError> {
            Ok((*slot, bytemuck::cast(self.endpoints.get(slot, 0)?)))
        };
        // A slot beyond the table is for the planner to refuse.
        let known = slots.values().filter(|slot| **slot < self.endpoints.len());
        Ok(Present {
            words: array(pins, "BITS")?,
            rows: array(pins, "ROWS")?,
            ports: array(pins, "PORTS")?,
            sets: array(pins, "SETS")?,
            endpoints: known.map(endpoint).collect::<Result<BTreeMap<_, _>, _>>()?,
            slots,
            peers: self.peers_present()?,
            cidrs: self.cidrs_present()?,
            sources: self.sources_present()?,
            vips: array(pins, "VIPS")?,
            backends: array(pins, "BACKENDS")?,
            services: self.services_present()?,
        })
    }

    fn slots_present(&self, pins: &Pins) -> Result<BTreeMap<u32, u32>, BpfError> {
        let direct = array::<SlotRef>(pins, "SLOTS")?;
        let mut slots: BTreeMap<u32, u32> =
            (0..IFINDEX_DIRECT).zip(direct).filter_map(|(at, slot)| used(at, slot)).collect();
        for entry in self.slots_high.iter() {
            let (ifindex, value) = entry?;
            slots.extend(used(ifindex, bytemuck::cast(value)));
        }
        Ok(slots)
    }

    fn peers_present(&self) -> Result<Vec<(std::net::IpAddr, u32)>, BpfError> {
        let v4 = self
            .peers4
            .iter()
            .map(|entry| entry.map(|(a, class)| (Ipv4Addr::from(a).into(), class_of(class))));
        let v6 = self
            .peers6
            .iter()
            .map(|entry| entry.map(|(a, class)| (Ipv6Addr::from(a).into(), class_of(class))));
        Ok(v4.chain(v6).collect::<Result<_, _>>()?)
    }

    fn cidrs_present(&self) -> Result<Vec<(IpNet, u32)>, BpfError> {
        let mut cidrs = Vec::new();
        for entry in self.cidrs4.iter() {
            let (key, class) = entry?;
            let net = Ipv4Net::new(Ipv4Addr::from(key.data()), length(&key, 0));
            cidrs.extend(net.ok().map(|net| (net.into(), class_of(class))));
        }
        for entry in self.cidrs6.iter() {
            let (key, class) = entry?;
            let net = Ipv6Net::new(Ipv6Addr::from(key.data()), length(&key, 0));
            cidrs.extend(net.ok().map(|net| (net.into(), class_of(class))));
        }
        Ok(cidrs)
    }

    fn services_present(&self) -> Result<BTreeMap<Frontend, ServiceRef>, BpfError> {
        let mut services = BTreeMap::new();
        for entry in self.services.iter() {
            let (key, to) = entry?;
            let key: ServiceKey = bytemuck::cast(key);
            if let Some(frontend) = frontend_of(key.address.ip(key.family), key.port, key.protocol) {
                services.insert(frontend, bytemuck::cast(to));
            }
        }
        Ok(services)
    }

    fn sources_present(&self) -> Result<BTreeSet<(u32, IpNet)>, BpfError> {
        let mut sources = BTreeSet::new();
        for entry in self.sources.iter() {
            let (key, _) = entry?;
            let source: SourceKey = bytemuck::cast(key.data());
            let address = source.address.ip(source.family[0]);
            if let Ok(net) = IpNet::new(address, length(&key, SOURCE_KEY_BITS)) {
                sources.insert((u32::from_be_bytes(source.ifindex), net));
            }
        }
        Ok(sources)
    }
}

fn used(ifindex: u32, slot: SlotRef) -> Option<(u32, u32)> {
    Some((ifindex, slot.slot_plus_one.checked_sub(1)?))
}

fn class_of(value: [u8; 4]) -> u32 {
    bytemuck::cast::<_, Class>(value).class
}

/// Bits of the address in a key whose first `before` bits are something else; too many for any address where the key
/// is none of ours.
fn length<K: aya::Pod>(key: &Key<K>, before: u32) -> u8 {
    key.prefix_len().checked_sub(before).and_then(|bits| u8::try_from(bits).ok()).unwrap_or(u8::MAX)
}
