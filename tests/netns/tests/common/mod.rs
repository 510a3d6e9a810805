//! What tests of a world have in common.

use std::net::IpAddr;

use sluice_netns::{ALLOW_TIMEOUT, Netns, Outcome, Probe, Protocol, World, probe_all};

/// Everything that can probe in both families: pods, nodes and machines outside.
fn sources(world: &World) -> Vec<Netns> {
    let mut all: Vec<Netns> = world.pods().map(|pod| pod.ns.clone()).collect();
    all.extend(world.nodes().iter().map(|node| node.ns().clone()));
    let outside = world.outside().iter().filter(|machine| machine.ipv6.is_some());
    all.extend(outside.map(|machine| machine.ns.clone()));
    all
}

/// Everything reaches every pod, at both its addresses, by TCP, UDP and ping. Returns how many probes that were.
#[track_caller]
pub(crate) fn reach_every_pod(world: &World) -> usize {
    let mut probes = Vec::new();
    for from in sources(world) {
        for pod in world.pods() {
            for to in [IpAddr::from(pod.ipv4), pod.ipv6.into()] {
                for (protocol, port) in [(Protocol::Tcp, 80), (Protocol::Udp, 5300), (Protocol::Ping, 0)] {
                    probes.push(Probe { from: from.clone(), protocol, to, port, timeout: ALLOW_TIMEOUT });
                }
            }
        }
    }
    let outcomes = probe_all(&probes);
    let failed: Vec<_> =
        probes.iter().zip(&outcomes).filter(|(_, outcome)| **outcome != Outcome::Open).collect();
    assert!(failed.is_empty(), "{} of {} probes: {failed:#?}", failed.len(), probes.len());
    outcomes.len()
}
