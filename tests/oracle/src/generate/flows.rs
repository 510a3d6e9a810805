//! Random connections in a cluster, aimed at its pods and at the borders of what its policies name.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{IPBlock, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::PORTS;
use super::addresses::{OUTSIDE, borders, is_ordinary};
use crate::model::{Cluster, Flow, Origin, Protocol};
use crate::selector::parse_cidr;

#[derive(Clone, Copy, Debug)]
enum Ends {
    PodToPod,
    PodToAny,
    AnyToPod,
    AnyToAny,
}

/// A connection among pods, nodes, addresses that finished pods left behind, and the outside; both ends of one family.
pub fn flow(cluster: &Cluster) -> impl Strategy<Value = Flow> + use<> {
    let cluster = cluster.clone();
    let pods: Vec<IpAddr> =
        cluster.pods.iter().filter(|pod| pod.is_policed()).flat_map(|pod| pod.ips.clone()).collect();
    let all = all_addresses(&cluster);
    let ports = interesting_ports(&cluster);

    let ends = prop_oneof![
        9 => Just(Ends::PodToPod),
        4 => Just(Ends::PodToAny),
        4 => Just(Ends::AnyToPod),
        1 => Just(Ends::AnyToAny),
    ];
    let protocol = prop_oneof![
        6 => Just(Protocol::Tcp),
        4 => Just(Protocol::Udp),
        2 => Just(Protocol::Sctp),
        1 => Just(Protocol::Icmp),
    ];
    let v6 = prop::bool::weighted(0.4);
    let declared = prop::option::weighted(0.4, any::<Index>());
    let forged = prop::bool::weighted(0.3);
    let parts = (ends, v6, any::<Index>(), any::<Index>(), protocol, select(ports), declared, forged);
    parts.prop_map(move |(ends, v6, from, to, protocol, port, declared, forged)| {
        let of_family = |addresses: &[IpAddr]| -> Vec<IpAddr> {
            addresses.iter().copied().filter(|ip| ip.is_ipv6() == v6).collect()
        };
        let any_end = of_family(&all);
        let mut pod_end = of_family(&pods);
        if pod_end.is_empty() {
            pod_end.clone_from(&any_end);
        }
        let (from, to) = match ends {
            Ends::PodToPod => pair(&pod_end, &any_end, from, to),
            Ends::PodToAny => (*from.get(&pod_end), *to.get(&any_end)),
            Ends::AnyToPod => (*from.get(&any_end), *to.get(&pod_end)),
            Ends::AnyToAny => (*from.get(&any_end), *to.get(&any_end)),
        };
        let (protocol, port) = declared_port(&cluster, to, declared).unwrap_or((protocol, port));
        let port = if protocol == Protocol::Icmp { 0 } else { port };
        // A node's address that comes in over a wire is another host's, or a lie: no exemption goes with it (row 36).
        let node = cluster.nodes.iter().find(|(_, node)| node.ips.contains(&from));
        let origin = match node {
            Some((name, _)) if !forged => Origin::Node(name.clone()),
            _ => Origin::Wire,
        };
        Flow { from, to, protocol, port, origin }
    })
}

/// A pod and another one, or anything where there is no other. Loopback (row 39) proves little and is kept rare.
fn pair(pods: &[IpAddr], all: &[IpAddr], from: Index, to: Index) -> (IpAddr, IpAddr) {
    let source = *from.get(pods);
    let others: Vec<IpAddr> = pods.iter().copied().filter(|address| *address != source).collect();
    let loopback = to.index(16) == 0;
    let destination = match (loopback, others.is_empty()) {
        (true, _) => source,
        (false, true) => *to.get(all),
        (false, false) => *to.get(&others),
    };
    (source, destination)
}

/// A port that the destination declares, so that named ports get hit.
fn declared_port(cluster: &Cluster, to: IpAddr, which: Option<Index>) -> Option<(Protocol, u16)> {
    let ports = &cluster.pod_at(to)?.ports;
    if ports.is_empty() {
        return None;
    }
    let port = which?.get(ports);
    Some((port.protocol, port.port))
}

/// Every address that means something here, and the borders of all blocks. Never empty in either family.
fn all_addresses(cluster: &Cluster) -> Vec<IpAddr> {
    let mut addresses: BTreeSet<IpAddr> = OUTSIDE.into();
    addresses.extend(cluster.pods.iter().flat_map(|pod| pod.ips.clone()));
    addresses.extend(cluster.nodes.values().flat_map(|node| node.ips.clone()));
    for block in blocks(cluster) {
        addresses.extend(borders(block).into_iter().filter(|address| is_ordinary(*address)));
    }
    addresses.into_iter().collect()
}

fn blocks(cluster: &Cluster) -> Vec<IpNet> {
    let of_peer = |peer: &NetworkPolicyPeer| -> Vec<IpNet> {
        let Some(IPBlock { cidr, except }) = &peer.ip_block else {
            return Vec::new();
        };
        except.iter().flatten().chain([cidr]).filter_map(|text| parse_cidr(text)).collect()
    };
    let mut blocks = Vec::new();
    for policy in &cluster.policies {
        for rule in policy.spec.ingress.iter().flatten() {
            blocks.extend(rule.from.iter().flatten().flat_map(of_peer));
        }
        for rule in policy.spec.egress.iter().flatten() {
            blocks.extend(rule.to.iter().flatten().flat_map(of_peer));
        }
    }
    blocks
}

/// The numbers that policies name and their neighbours, and those that pods declare.
fn interesting_ports(cluster: &Cluster) -> Vec<u16> {
    let mut numbers: BTreeSet<i32> = PORTS.into_iter().map(i32::from).collect();
    numbers.extend(cluster.pods.iter().flat_map(|pod| &pod.ports).map(|port| i32::from(port.port)));
    let mut add = |entry: &NetworkPolicyPort| {
        let first = match entry.port {
            Some(IntOrString::Int(first)) => Some(first),
            _ => None,
        };
        for number in [first, entry.end_port].into_iter().flatten() {
            numbers.extend([number - 1, number, number + 1]);
        }
    };
    for policy in &cluster.policies {
        for rule in policy.spec.ingress.iter().flatten() {
            rule.ports.iter().flatten().for_each(&mut add);
        }
        for rule in policy.spec.egress.iter().flatten() {
            rule.ports.iter().flatten().for_each(&mut add);
        }
    }
    numbers.into_iter().filter_map(|number| u16::try_from(number).ok()).filter(|port| *port > 0).collect()
}
