//! A Service's frontends and what is behind each, as kube-proxy on one node translates for its pods.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::choose::Candidates;
use super::{EndpointSlice, Service, ServicePort};
use crate::model::{Cluster, ObjectName, Protocol};

/// From where a Service is looked at: a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vantage {
    pub node: Option<String>,
    pub zone: Option<String>,
    /// The node's own addresses on which it serves node ports.
    pub addresses: Vec<IpAddr>,
}

impl Vantage {
    /// A node as its object describes it; without an object, just its name.
    pub fn of(cluster: &Cluster, node: &str) -> Self {
        let known = cluster.nodes.get(node);
        Self {
            node: Some(node.to_owned()),
            zone: known.and_then(|node| node.zone.as_deref()).map(str::to_owned),
            addresses: known.map(|node| node.addresses.clone()).unwrap_or_default(),
        }
    }
}

/// What a client addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Frontend {
    pub address: IpAddr,
    pub port: u16,
    pub protocol: Protocol,
}

/// Where a connection may end that was opened to a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Backend {
    pub address: IpAddr,
    pub port: u16,
}

/// What is behind a frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub service: ObjectName,
    /// Empty for a port without a name.
    pub port_name: String,
    /// Sorted, each once. Empty: kube-proxy answers for the Service, or drops.
    pub backends: Arc<[Backend]>,
    /// How long a client keeps its backend, in seconds: one for all frontends of the port.
    pub affinity: Option<u32>,
    /// Where this is not empty, kube-proxy drops what other sources send: the source ranges of a load balancer.
    pub sources: Arc<[IpNet]>,
}

/// What a client can address of a Service, by how kube-proxy finds it: addresses come before node ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Addresses,
    NodePorts,
}

/// One part of a Service's frontends, each once.
pub(super) fn frontends(
    service: &Service,
    slices: &[Arc<EndpointSlice>],
    vantage: &Vantage,
    part: Part,
) -> Vec<(Frontend, Target)> {
    let mut list = List { service, found: Vec::new(), known: BTreeSet::new() };
    for port in service.ports.iter() {
        for v4 in [true, false].into_iter().filter(|v4| service.serves(*v4)) {
            match part {
                Part::NodePorts if port.node_port.is_none() => {}
                Part::Addresses | Part::NodePorts => {
                    let candidates = Candidates::new(slices, port, v4, vantage);
                    list.extend(port, v4, &candidates, vantage, part);
                }
            }
        }
    }
    list.found
}

struct List<'a> {
    service: &'a Service,
    found: Vec<(Frontend, Target)>,
    known: BTreeSet<Frontend>,
}

impl List<'_> {
    fn extend(
        &mut self,
        port: &ServicePort,
        v4: bool,
        candidates: &Candidates<'_>,
        vantage: &Vantage,
        part: Part,
    ) {
        let Service { cluster_ips, external_ips, load_balancer_ips, source_ranges, internal_local, .. } =
            self.service;
        let everybody: Arc<[IpNet]> = Arc::default();
        let cluster = candidates.cluster();
        if part == Part::NodePorts {
            let number = port.node_port.unwrap_or_default();
            self.add(&vantage.addresses, number, v4, port, &cluster, &everybody);
            return;
        }
        let internal = if *internal_local { candidates.local() } else { Arc::clone(&cluster) };
        self.add(cluster_ips, port.port, v4, port, &internal, &everybody);
        // An address that is an external one too is as narrow as the load balancer's.
        self.add(load_balancer_ips, port.port, v4, port, &cluster, &of_family(source_ranges, v4));
        self.add(external_ips, port.port, v4, port, &cluster, &everybody);
    }

    fn add(
        &mut self,
        addresses: &[IpAddr],
        number: u16,
        v4: bool,
        port: &ServicePort,
        backends: &Arc<[Backend]>,
        sources: &Arc<[IpNet]>,
    ) {
        for address in addresses.iter().filter(|address| address.is_ipv4() == v4) {
            let frontend = Frontend { address: *address, port: number, protocol: port.protocol };
            if self.known.insert(frontend) {
                let target = Target {
                    service: self.service.id.clone(),
                    port_name: port.name.clone(),
                    backends: Arc::clone(backends),
                    affinity: self.service.affinity,
                    sources: Arc::clone(sources),
                };
                self.found.push((frontend, target));
            }
        }
    }
}

/// kube-proxy of a family looks at the ranges of that family, and where there are none, restricts nobody.
fn of_family(ranges: &Arc<[IpNet]>, v4: bool) -> Arc<[IpNet]> {
    let of = |net: &&IpNet| net.addr().is_ipv4() == v4;
    if ranges.iter().all(|net| of(&net)) {
        return Arc::clone(ranges);
    }
    ranges.iter().filter(of).copied().collect()
}
