//! kube-proxy's rules, each by itself.

mod backends;
mod conflicts;
mod frontends;
mod random;

use std::net::IpAddr;
use std::sync::Arc;

use super::*;
use crate::model::Protocol;

const OURS: &str = "n1";

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn id(name: &str) -> ObjectName {
    ObjectName::new("dev", name)
}

/// Our node, in zone z1.
fn vantage() -> Vantage {
    Vantage {
        node: Some(OURS.to_owned()),
        zone: Some("z1".to_owned()),
        addresses: vec![ip("192.0.2.1"), ip("2001:db8::1")],
    }
}

fn port(name: &str, protocol: Protocol, port: u16, node_port: Option<u16>) -> ServicePort {
    ServicePort { name: name.to_owned(), protocol, port, node_port }
}

/// With one address and port 80, which has no name.
fn service(name: &str) -> Service {
    Service {
        id: id(name),
        cluster_ips: vec![ip("10.96.0.1")],
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        source_ranges: [].into(),
        ports: [port("", Protocol::Tcp, 80, None)].into(),
        affinity: None,
        internal_local: false,
    }
}

fn endpoint(address: &str) -> Endpoint {
    Endpoint { address: ip(address), readiness: Readiness::Ready, node: None, hints: None }
}

/// Of the Service `web`, with port 8080 for its port without a name.
fn slice(name: &str, endpoints: &[Endpoint]) -> EndpointSlice {
    EndpointSlice {
        id: id(name),
        service: Some("web".to_owned()),
        v4: endpoints.iter().all(|endpoint| endpoint.address.is_ipv4()),
        ports: [EndpointPort { name: String::new(), protocol: Protocol::Tcp, port: 8080 }].into(),
        endpoints: endpoints.into(),
    }
}

fn services(services: &[Service], slices: &[EndpointSlice]) -> Services {
    let mut all = Services::default();
    for service in services {
        all.insert(service.clone());
    }
    for slice in slices {
        all.insert_slice(slice.clone());
    }
    all
}

fn frontend(text: &str, protocol: Protocol) -> Frontend {
    let address: std::net::SocketAddr = text.parse().expect("address and port");
    Frontend { address: address.ip(), port: address.port(), protocol }
}

fn shown(backends: &[Backend]) -> Vec<String> {
    backends.iter().map(|b| std::net::SocketAddr::new(b.address, b.port).to_string()).collect()
}

/// What is behind a frontend of TCP.
fn behind(services: &Services, vantage: &Vantage, text: &str) -> Option<Vec<String>> {
    services.target(&frontend(text, Protocol::Tcp), vantage).map(|target| shown(&target.backends))
}

/// All frontends with their Services, in their order.
fn table(services: &Services, vantage: &Vantage) -> Vec<String> {
    let all = services.all(vantage);
    all.iter()
        .map(|(frontend, target)| {
            let at = std::net::SocketAddr::new(frontend.address, frontend.port);
            format!("{at}/{} {} {:?}", frontend.protocol.name(), target.service.name, shown(&target.backends))
        })
        .collect()
}
