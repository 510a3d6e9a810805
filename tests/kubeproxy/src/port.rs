//! One port of a Service in one family, with all that leads to it.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use policy_agent::model::Protocol;
use policy_agent::model::services::{Backend, Frontend, Service, ServicePort, Services, Vantage};
use sha2::{Digest as _, Sha256};

use crate::Family;

/// An address of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) ip: IpAddr,
    pub(crate) port: u16,
}

#[derive(Debug)]
pub(crate) struct Port {
    /// Of the names of its chains: the same as long as it is the same port.
    pub(crate) id: String,
    pub(crate) protocol: &'static str,
    pub(crate) cluster: Vec<Address>,
    /// External addresses, and those of a load balancer.
    pub(crate) external: Vec<Address>,
    /// Those of a load balancer that only some may use.
    pub(crate) restricted: Vec<Address>,
    /// Who.
    pub(crate) sources: Vec<IpNet>,
    pub(crate) node_port: Option<u16>,
    /// Where the cluster's addresses lead, and the others.
    pub(crate) internal: Arc<[Backend]>,
    pub(crate) all: Arc<[Backend]>,
    /// In seconds.
    pub(crate) affinity: Option<u32>,
}

impl Port {
    /// The lists of endpoints that need chains, each with the letters that tell it in names.
    pub(crate) fn lists(&self) -> Vec<(&'static str, &[Backend])> {
        let lists = [("c", &self.internal), ("x", &self.all)];
        lists.into_iter().filter(|(_, list)| !list.is_empty()).map(|(kind, list)| (kind, &**list)).collect()
    }

    /// Everything but the cluster's own that its chain of external traffic answers for.
    pub(crate) fn outside(&self) -> impl Iterator<Item = &Address> {
        self.external.iter().chain(&self.restricted)
    }

    /// What is in the name of an endpoint's chain.
    pub(crate) fn endpoint_id(&self, kind: &str, backend: &Backend) -> String {
        hash(&format!("{} {kind} {} {}", self.id, backend.address, backend.port))
    }
}

/// The ports of all Services, without what another Service claims first.
pub(crate) fn all(services: &Services, vantage: &Vantage, family: Family) -> Vec<Port> {
    let mut ports = Vec::new();
    for service in services.values() {
        for port in service.ports.iter() {
            ports.extend(one(services, vantage, family, service, port));
        }
    }
    ports
}

fn one(
    services: &Services,
    vantage: &Vantage,
    family: Family,
    service: &Service,
    of: &ServicePort,
) -> Option<Port> {
    if !service.serves(family == Family::V4) {
        return None;
    }
    let protocol = of.protocol;
    let target = |address: IpAddr, port: u16| {
        let target = services.target(&Frontend { address, port, protocol }, vantage)?;
        (target.service == service.id && target.port_name == of.name).then_some(target)
    };
    let known = |addresses: &[IpAddr]| -> Vec<Address> {
        let own = addresses.iter().filter(|ip| family.has(**ip) && target(**ip, of.port).is_some());
        own.map(|ip| Address { ip: *ip, port: of.port }).collect()
    };
    let sources: Vec<IpNet> =
        service.source_ranges.iter().copied().filter(|net| family.has(net.addr())).collect();
    let (mut external, balancer) = (known(&service.external_ips), known(&service.load_balancer_ips));
    let restricted = if sources.is_empty() {
        external.extend(balancer);
        Vec::new()
    } else {
        external.retain(|address| !balancer.contains(address));
        balancer
    };
    let node_port = of.node_port.filter(|port| {
        vantage.addresses.iter().any(|address| family.has(*address) && target(*address, *port).is_some())
    });
    let cluster = known(&service.cluster_ips);
    let behind = |address: Option<(IpAddr, u16)>| {
        address.and_then(|(ip, port)| target(ip, port)).map(|target| target.backends).unwrap_or_default()
    };
    let node = vantage.addresses.iter().find(|address| family.has(**address));
    let outside = external.first().or(restricted.first()).map(|address| (address.ip, address.port));
    Some(Port {
        id: hash(&format!("{} {} {}", service.id, of.name, name(protocol))),
        protocol: name(protocol),
        internal: behind(cluster.first().map(|address| (address.ip, address.port))),
        all: behind(outside.or_else(|| Some((*node?, node_port?)))),
        cluster,
        external,
        restricted,
        sources,
        node_port,
        affinity: service.affinity,
    })
}

const fn name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

/// Sixteen letters: chains of iptables have names of at most 28.
fn hash(text: &str) -> String {
    Sha256::digest(text).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
