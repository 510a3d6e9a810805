//! Scans and watches of real namespaces. They need root and fail without it.

mod scan;
mod watch;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::Command;

use sluice_netns::{Netns, NodeSpec, Pod, PodSpec, World};

use super::{Cache, Scan};

/// Scans from within a node.
fn scan_on(world: &World, node: &str, cache: &mut Cache) -> Scan {
    world.node(node).unwrap().ns().run(|| super::scan(cache)).unwrap().unwrap()
}

/// What a scan on the pods' node has to find.
fn expected<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> BTreeMap<IpAddr, (String, String)> {
    let mut expected = BTreeMap::new();
    for pod in pods {
        let value = (pod.host_interface.clone(), pod.ns.path().display().to_string());
        expected.insert(pod.ipv4.into(), value.clone());
        expected.insert(pod.ipv6.into(), value);
    }
    expected
}

fn found(scan: &Scan) -> BTreeMap<IpAddr, (String, String)> {
    let entry = |(address, interface): (&IpAddr, &super::Interface)| {
        assert_eq!(*address, interface.address);
        (*address, (interface.name.clone(), interface.netns.clone()))
    };
    scan.interfaces.iter().map(entry).collect()
}

/// Two nodes with two pods each.
fn two_nodes() -> World {
    let mut world = World::builder("slep");
    for node in ["node1", "node2"] {
        world = world.node(NodeSpec::new(node));
        for pod in ["a", "b"] {
            world = world.pod(PodSpec::new("default", &format!("{pod}-{node}"), node));
        }
    }
    world.build().unwrap()
}

fn ip(ns: &Netns, arguments: &str) {
    let output = ns.output(Command::new("ip").args(arguments.split_whitespace())).unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}
