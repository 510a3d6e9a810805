//! Which Services claim a frontend: two may, and then the first by name has it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::{Frontend, Service};
use crate::model::{ObjectName, Protocol};

/// By port first: the claims that meet a node port on some address are beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    port: u16,
    protocol: Protocol,
    v4: bool,
    /// `None`: a node port, on every address of the node.
    address: Option<IpAddr>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Claims(BTreeMap<Claim, Box<[Arc<Service>]>>);

impl Claims {
    pub(super) fn insert(&mut self, service: &Arc<Service>) {
        for claim in claims(service) {
            let list = self.0.remove(&claim).unwrap_or_default();
            let mut list: Vec<Arc<Service>> = list.into_iter().filter(|own| own.id != service.id).collect();
            let place = list.partition_point(|own| own.id < service.id);
            list.insert(place, Arc::clone(service));
            self.0.insert(claim, list.into());
        }
    }

    pub(super) fn remove(&mut self, service: &Service) {
        for claim in claims(service) {
            let Some(list) = self.0.remove(&claim) else { continue };
            let list: Box<[_]> = list.into_iter().filter(|own| own.id != service.id).collect();
            if !list.is_empty() {
                self.0.insert(claim, list);
            }
        }
    }

    /// Who has a frontend that is no node port.
    pub(super) fn of_address(&self, frontend: &Frontend) -> Option<&Arc<Service>> {
        self.first(frontend, Some(frontend.address))
    }

    /// Who has it if it is a node port.
    pub(super) fn of_node_port(&self, frontend: &Frontend) -> Option<&Arc<Service>> {
        self.first(frontend, None)
    }

    fn first(&self, frontend: &Frontend, address: Option<IpAddr>) -> Option<&Arc<Service>> {
        let Frontend { port, protocol, .. } = *frontend;
        let claim = Claim { port, protocol, v4: frontend.address.is_ipv4(), address };
        self.0.get(&claim)?.first()
    }

    /// The other Services that may have, or lack, a frontend because this one is there.
    pub(super) fn rivals(&self, service: &Service) -> BTreeSet<ObjectName> {
        let mut rivals = BTreeSet::new();
        for claim in claims(service) {
            let any = Claim { address: None, ..claim };
            let exact = [Some(claim), claim.address.map(|_| any)];
            let exact = exact.iter().flatten().filter_map(|claim| self.0.get(claim));
            // A node port meets the same number on any address.
            let meets = |(other, _): &(&Claim, _)| {
                (other.port, other.protocol, other.v4) == (claim.port, claim.protocol, claim.v4)
            };
            let beside = claim.address.is_none().then(|| self.0.range(any..).take_while(meets));
            let beside = beside.into_iter().flatten().map(|(_, list)| list);
            rivals.extend(exact.chain(beside).flatten().map(|rival| rival.id.clone()));
        }
        rivals.remove(&service.id);
        rivals
    }
}

fn claims(service: &Service) -> impl Iterator<Item = Claim> {
    let Service { cluster_ips, external_ips, load_balancer_ips, ports, .. } = service;
    let addresses = move || {
        let all = cluster_ips.iter().chain(external_ips).chain(load_balancer_ips).copied();
        all.filter(move |address| service.serves(address.is_ipv4()))
    };
    let families = move || [true, false].into_iter().filter(move |v4| service.serves(*v4));
    ports.iter().flat_map(move |port| {
        let protocol = port.protocol;
        let on_addresses = addresses().map(move |address| Claim {
            port: port.port,
            protocol,
            v4: address.is_ipv4(),
            address: Some(address),
        });
        let on_node = port.node_port.into_iter().flat_map(move |number| {
            families().map(move |v4| Claim { port: number, protocol, v4, address: None })
        });
        on_addresses.chain(on_node)
    })
}
