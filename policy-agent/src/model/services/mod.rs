//! Services and their EndpointSlices, and what they come to: frontends with backends, as kube-proxy on a node has them.
//!
//! Facts about kube-proxy are those of its nftables and iptables modes. It is taken to know which addresses are pods' of
//! its node (`--cluster-cidr` or another detection), as every installer sets it up: a pod's traffic to an external address
//! then goes to all backends, whatever `externalTrafficPolicy` says.

mod choose;
mod claims;
mod resolve;
mod service;
mod slice;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::ObjectName;
use claims::Claims;
use resolve::Part;

pub use resolve::{Backend, Frontend, Target, Vantage};
pub use service::{DEFAULT_AFFINITY_SECONDS, Service, ServicePort};
pub use slice::{Endpoint, EndpointPort, EndpointSlice, Hints, Readiness, SERVICE_NAME_LABEL};

#[derive(Clone, Debug, Default)]
pub struct Services {
    services: BTreeMap<ObjectName, Arc<Service>>,
    slices: BTreeMap<ObjectName, Arc<EndpointSlice>>,
    /// The slices that name a Service, which need not exist, in the order of their names.
    by_service: BTreeMap<ObjectName, Vec<Arc<EndpointSlice>>>,
    claims: Claims,
}

impl Services {
    /// Returns the Service that had the name before.
    pub fn insert(&mut self, service: impl Into<Arc<Service>>) -> Option<Arc<Service>> {
        let service = service.into();
        let old = self.remove(&service.id);
        self.claims.insert(&service);
        self.services.insert(service.id.clone(), service);
        old
    }

    pub fn remove(&mut self, name: &ObjectName) -> Option<Arc<Service>> {
        let old = self.services.remove(name)?;
        self.claims.remove(&old);
        Some(old)
    }

    /// Returns the slice that had the name before.
    pub fn insert_slice(&mut self, slice: impl Into<Arc<EndpointSlice>>) -> Option<Arc<EndpointSlice>> {
        let slice = slice.into();
        let old = self.remove_slice(&slice.id);
        if let Some(service) = slice.service_name() {
            let list = self.by_service.entry(service).or_default();
            let place = list.partition_point(|other| other.id < slice.id);
            list.insert(place, Arc::clone(&slice));
        }
        self.slices.insert(slice.id.clone(), slice);
        old
    }

    pub fn remove_slice(&mut self, name: &ObjectName) -> Option<Arc<EndpointSlice>> {
        let old = self.slices.remove(name)?;
        if let Some(service) = old.service_name()
            && let Some(list) = self.by_service.get_mut(&service)
        {
            list.retain(|slice| slice.id != old.id);
            if list.is_empty() {
                self.by_service.remove(&service);
            }
        }
        Some(old)
    }

    pub fn get(&self, name: &ObjectName) -> Option<&Arc<Service>> {
        self.services.get(name)
    }

    /// In the order of their names.
    pub fn values(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    pub fn len(&self) -> usize {
        self.services.len()
    }

    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    pub fn slice(&self, name: &ObjectName) -> Option<&Arc<EndpointSlice>> {
        self.slices.get(name)
    }

    /// All slices, in the order of their names.
    pub fn slices(&self) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        self.slices.values()
    }

    /// A Service's slices, in the order of their names.
    pub fn slices_of(&self, service: &ObjectName) -> &[Arc<EndpointSlice>] {
        self.by_service.get(service).map_or(&[], Vec::as_slice)
    }

    /// What a pod on the node can address of a Service, whoever else claims it, and what it reaches there.
    pub fn frontends(&self, service: &ObjectName, vantage: &Vantage) -> Vec<(Frontend, Target)> {
        let mut list = self.part(service, vantage, Part::Addresses);
        let known: BTreeSet<Frontend> = list.iter().map(|(frontend, _)| *frontend).collect();
        let node_ports = self.part(service, vantage, Part::NodePorts);
        list.extend(node_ports.into_iter().filter(|(frontend, _)| !known.contains(frontend)));
        list
    }

    /// What is behind an address and port, if it is a Service's: what `all` has there.
    pub fn target(&self, frontend: &Frontend, vantage: &Vantage) -> Option<Target> {
        let on_node = || vantage.addresses.contains(&frontend.address);
        let (service, part) = match self.claims.of_address(frontend) {
            Some(service) => (service, Part::Addresses),
            None => (self.claims.of_node_port(frontend).filter(|_| on_node())?, Part::NodePorts),
        };
        let list = self.part(&service.id, vantage, part);
        list.into_iter().find(|(own, _)| own == frontend).map(|(_, target)| target)
    }

    /// The frontends of all Services. Of several that claim one, the first by name has it; a node port gives way to
    /// every address.
    pub fn all(&self, vantage: &Vantage) -> BTreeMap<Frontend, Target> {
        let mut all = BTreeMap::new();
        for part in [Part::Addresses, Part::NodePorts] {
            for name in self.services.keys() {
                for (frontend, target) in self.part(name, vantage, part) {
                    all.entry(frontend).or_insert(target);
                }
            }
        }
        all
    }

    /// The other Services that claim what this one does: whose frontends may differ when it comes, changes or goes.
    pub fn rivals(&self, service: &Service) -> BTreeSet<ObjectName> {
        self.claims.rivals(service)
    }

    fn part(&self, name: &ObjectName, vantage: &Vantage, part: Part) -> Vec<(Frontend, Target)> {
        let service = self.services.get(name);
        service
            .map(|service| resolve::frontends(service, self.slices_of(name), vantage, part))
            .unwrap_or_default()
    }
}

/// The indexes follow from the objects.
impl PartialEq for Services {
    fn eq(&self, other: &Self) -> bool {
        self.services == other.services && self.slices == other.slices
    }
}

impl Eq for Services {}

#[cfg(test)]
mod tests;
