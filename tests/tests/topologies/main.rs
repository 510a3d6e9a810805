//! Every network that flannel and Calico give their users, with an agent on each node: who reaches whom, and as whom a node is
//! seen. `docs/networks.md` is what this shows, in words.

mod bulk;
mod services;
mod setting;
mod steps;

use std::ops::RangeInclusive;

use anyhow::Result;
use setting::Setting;
use sluice_netns::Network;

/// Which of its addresses a node has for the sender of what it sends, or masquerades, to a pod: what `ipBlock` must name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// That on the network between the nodes.
    Underlay,
    /// That on its tunnel.
    Tunnel,
    /// The pods' gateway.
    Gateway,
}

/// A network, and what is known of it beforehand.
#[derive(Debug)]
struct Topology {
    network: Network,
    /// Whether CNI plugins make the pods' interfaces.
    plugins: bool,
    /// As whom the first node is seen by its own pods, over IPv4 and IPv6.
    by_own: [Seen; 2],
    /// The same by the pods of each other node.
    by_others: &'static [[Seen; 2]],
}

impl Topology {
    /// The numbers of the nodes.
    fn nodes(&self) -> RangeInclusive<u16> {
        let others = u16::try_from(self.by_others.len()).unwrap_or(u16::MAX - 1);
        1..=others + 1
    }
}

fn smoke(topology: Topology) -> Result<()> {
    let setting = Setting::build(topology)?;
    steps::every_agent_has_the_pods_of_its_node(&setting)?;
    steps::everything_passes_without_policy(&setting)?;
    steps::callers_are_seen_as_expected(&setting)?;
    steps::a_closed_namespace_is_open_to_its_own_nodes_alone(&setting)?;
    steps::selectors_choose_pods_on_every_node(&setting)?;
    steps::blocks_choose_machines_outside(&setting)?;
    steps::blocks_choose_nodes_as_they_are_seen(&setting)
}

#[test]
fn vxlan() -> Result<()> {
    smoke(Topology {
        network: Network::Vxlan,
        plugins: false,
        by_own: [Seen::Gateway; 2],
        by_others: &[[Seen::Tunnel; 2]],
    })
}

#[test]
fn vxlan_with_direct_routing() -> Result<()> {
    smoke(Topology {
        network: Network::VxlanDirectRouting,
        plugins: false,
        by_own: [Seen::Gateway; 2],
        // The third node is behind a router.
        by_others: &[[Seen::Underlay; 2], [Seen::Tunnel; 2]],
    })
}

#[test]
fn host_gw() -> Result<()> {
    smoke(Topology {
        network: Network::HostGw,
        plugins: false,
        by_own: [Seen::Gateway; 2],
        by_others: &[[Seen::Underlay; 2]],
    })
}

#[test]
fn ipip() -> Result<()> {
    smoke(Topology {
        network: Network::Ipip,
        plugins: false,
        by_own: [Seen::Underlay; 2],
        by_others: &[[Seen::Tunnel, Seen::Underlay]],
    })
}

#[test]
fn routed() -> Result<()> {
    smoke(Topology {
        network: Network::Routed,
        plugins: false,
        by_own: [Seen::Underlay; 2],
        by_others: &[[Seen::Underlay; 2]],
    })
}

#[test]
fn bridge_plugin_with_vxlan() -> Result<()> {
    smoke(Topology {
        network: Network::Vxlan,
        plugins: true,
        by_own: [Seen::Gateway; 2],
        by_others: &[[Seen::Tunnel; 2]],
    })
}

#[test]
fn ptp_plugin_with_routes() -> Result<()> {
    smoke(Topology {
        network: Network::Routed,
        plugins: true,
        by_own: [Seen::Gateway; 2],
        by_others: &[[Seen::Underlay; 2]],
    })
}
