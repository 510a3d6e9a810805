//! Pods: what policies need of them.

use std::net::IpAddr;

use ipnet::IpNet;

use super::super::fault::{Fault, Faults, Field};
use super::super::slim;
use super::policy::{parse_protocol, port_number};
use super::{NOT_AN_ADDRESS, labels, names, object_name, parse_address, parse_cidr};
use crate::model::{ContainerPort, Pod};

/// The annotation that lists extra source ranges.
const SOURCE_RANGES: &str = "sluice.dev/source-ranges";

pub(in super::super) fn pod(typed: &slim::Pod) -> Result<Pod, Vec<Fault>> {
    let mut faults = Faults::default();
    let at = Field::Root.key("metadata");
    let metadata = typed.metadata.as_deref();
    let (name, namespace) =
        (metadata.and_then(|m| m.name.as_deref()), metadata.and_then(|m| m.namespace.as_deref()));
    let id = object_name(name, namespace, &at, &mut faults);
    let labels = labels(metadata, &at, &mut faults);
    let status = typed.status.as_deref();
    let spec = typed.spec.as_deref();
    let pod = Pod {
        id,
        uid: metadata.and_then(|m| m.uid.clone()).unwrap_or_default(),
        labels: labels.into(),
        node: spec.and_then(|s| s.node_name.as_deref()).filter(|name| !name.is_empty()).map(Into::into),
        addresses: status.map(|s| addresses(s, &mut faults)).unwrap_or_default(),
        host_network: spec.and_then(|s| s.host_network).unwrap_or_default(),
        finished: is_finished(status),
        terminating: metadata.is_some_and(|m| m.terminating),
        created: metadata.map_or(0, |m| m.created),
        ports: spec.map(|s| ports(s, &mut faults)).unwrap_or_default().into(),
        sources: metadata.map(|m| sources(m, &mut faults)).unwrap_or_default(),
    };
    faults.result(pod)
}

/// CIDRs that the pod may send from beside its own addresses, separated by commas: for pods that route.
fn sources(metadata: &slim::Metadata, faults: &mut Faults) -> Vec<IpNet> {
    let Some(text) = metadata.annotations.as_deref().and_then(|a| a.source_ranges.as_deref()) else {
        return Vec::new();
    };
    let metadata = Field::Root.key("metadata");
    let annotations = metadata.key("annotations");
    let at = annotations.key(SOURCE_RANGES);
    let mut ranges = Vec::new();
    for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        match parse_cidr(entry) {
            Ok(net) => ranges.push(net),
            Err(message) => faults.add(&at, entry, message),
        }
    }
    ranges
}

/// Row 44. A terminating pod is not finished (row 43).
fn is_finished(status: Option<&slim::PodStatus>) -> bool {
    matches!(status.and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
}

/// Row 57: every entry of podIPs, one of each family.
fn addresses(status: &slim::PodStatus, faults: &mut Faults) -> Vec<IpAddr> {
    let at = Field::Root.key("status");
    let list = at.key("podIPs");
    let (single, ip) = (at.key("podIP"), "ip");
    let mut found: Vec<IpAddr> = Vec::new();
    let mut take = |text: &str, at: &Field<'_>| match parse_address(text) {
        None => faults.add(at, text, NOT_AN_ADDRESS),
        Some(address) if found.iter().any(|other| other.is_ipv4() == address.is_ipv4()) => {
            faults.add(at, text, "must be the only address of its family");
        }
        Some(address) => found.push(address),
    };
    match status.pod_ips.as_deref() {
        None | Some([]) => {
            if let Some(text) = status.pod_ip.as_deref().filter(|text| !text.is_empty()) {
                take(text, &single);
            }
        }
        Some(entries) => {
            for (i, entry) in entries.iter().enumerate() {
                take(entry.ip.as_deref().unwrap_or_default(), &list.index(i).key(ip));
            }
        }
    }
    found
}

/// Row 27: init containers too, since those that restart serve as long as the others.
fn ports(spec: &slim::PodSpec, faults: &mut Faults) -> Vec<ContainerPort> {
    let at = Field::Root.key("spec");
    let (containers, init_containers) = (at.key("containers"), at.key("initContainers"));
    let all = (spec.containers.iter().flatten().enumerate().map(|(i, c)| (containers.index(i), c)))
        .chain(spec.init_containers.iter().flatten().enumerate().map(|(i, c)| (init_containers.index(i), c)));
    let mut ports = Vec::new();
    for (container_at, container) in all {
        let list = container_at.key("ports");
        for (i, port) in container.ports.iter().flatten().enumerate() {
            let at = list.index(i);
            let name = port.name.clone().filter(|name| !name.is_empty());
            if let Some(Err(message)) = name.as_deref().map(names::port_name) {
                faults.add(&at.key("name"), &name, message);
            }
            let protocol = port.protocol.as_deref().filter(|name| !name.is_empty());
            let protocol = parse_protocol(protocol, &at.key("protocol"), faults);
            let number =
                port_number(port.container_port.unwrap_or_default(), &at.key("containerPort"), faults);
            if let (Some(protocol), Some(port)) = (protocol, number) {
                ports.push(ContainerPort { name, protocol, port });
            }
        }
    }
    ports
}
