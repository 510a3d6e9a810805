//! The networks that flannel and Calico give their users, as `ip` and `bridge` commands.
//!
//! A network is two things: how a pod hangs on its node ([`bridge`], [`routed`], or the CNI plugins of [`cni`]), and how packets
//! get from one node to another ([`vxlan`], [`hostgw`], [`ipip`]), over the cables of [`wire`].

mod bridge;
pub(crate) mod cni;
mod hostgw;
pub(crate) mod ipip;
mod node;
mod routed;
mod tun;
mod vxlan;
pub(crate) mod wire;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use anyhow::Result;

use crate::ip::ip;
use crate::netns::Netns;
pub(crate) use node::{NodeNet, host4, host6};

/// The network of a world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// flannel `vxlan`: a bridge `cni0` on each node, and a VXLAN device for each family between the nodes.
    #[default]
    Vxlan,
    /// flannel `vxlan` with `DirectRouting`: plain routes between nodes of one subnet, VXLAN between others. The third and
    /// every later node is in a subnet of its own behind a router.
    VxlanDirectRouting,
    /// flannel `host-gw`: a bridge on each node, and routes to the other nodes' own addresses.
    HostGw,
    /// Calico with IPIP `Always`: a routed veth for each pod; IPv4 between nodes in an IPIP tunnel, IPv6 by plain routes,
    /// which is what Calico has for it.
    Ipip,
    /// Calico without encapsulation: a routed veth for each pod, and routes to the other nodes' own addresses.
    Routed,
}

impl FromStr for Network {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        let names = || Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|network| network.name() == name);
        found.ok_or_else(|| format!("no network {name:?}: {}", names()))
    }
}

/// How packets get from one node's pods to another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Vxlan,
    Routes,
    Ipip,
}

impl Network {
    pub const ALL: [Self; 5] =
        [Self::Vxlan, Self::VxlanDirectRouting, Self::HostGw, Self::Ipip, Self::Routed];

    /// Its name on a command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::VxlanDirectRouting => "vxlan-direct-routing",
            Self::HostGw => "host-gw",
            Self::Ipip => "ipip",
            Self::Routed => "routed",
        }
    }

    /// Whether the pods of a node share a bridge; they have a route each where they don't.
    pub(crate) const fn has_bridge(self) -> bool {
        matches!(self, Self::Vxlan | Self::VxlanDirectRouting | Self::HostGw)
    }

    const fn has_vxlan(self) -> bool {
        matches!(self, Self::Vxlan | Self::VxlanDirectRouting)
    }

    /// What a tunnel leaves of 1500 bytes: both projects give their pods the smaller of the two families.
    const fn pod_mtu(self) -> u16 {
        match self {
            Self::Vxlan | Self::VxlanDirectRouting => 1430,
            Self::HostGw | Self::Routed => 1500,
            Self::Ipip => 1480,
        }
    }
}

/// What a pod's interface is, once it is made.
#[derive(Debug)]
pub(crate) struct Link {
    /// The name of the veth's end on the node.
    pub(crate) host_interface: String,
    pub(crate) ipv4: Ipv4Addr,
    pub(crate) ipv6: Ipv6Addr,
}

/// What every namespace gets before any interface is made in it.
pub(crate) fn prepare(ns: &Netns) -> Result<()> {
    ns.sysctl(&[
        // Duplicate address detection keeps an address unusable for a second or more.
        ("net/ipv6/conf/all/accept_dad", "0"),
        ("net/ipv6/conf/default/accept_dad", "0"),
        ("net/ipv6/conf/all/accept_ra", "0"),
        ("net/ipv6/conf/default/accept_ra", "0"),
        // New namespaces inherit these from the machine: a strict machine must not change the results.
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/default/rp_filter", "0"),
        // Lets an ordinary datagram socket send an echo request.
        ("net/ipv4/ping_group_range", "0 2147483647"),
    ])?;
    ip(ns, "link set lo up\n")
}

/// Lets a namespace forward, as every node does.
fn forward(ns: &Netns) -> Result<()> {
    ns.sysctl(&[
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
        ("net/ipv6/conf/default/forwarding", "1"),
    ])
}

/// A node's underlay and what its network has on every node. The tunnel, where this process is it, must live as long as the
/// node.
pub(crate) fn build_node(node: &NodeNet, wire: &Netns, plugins: bool) -> Result<Option<ipip::Tunnel>> {
    prepare(&node.ns)?;
    forward(&node.ns)?;
    wire::build_underlay(node, wire)?;
    if node.network.has_vxlan() {
        vxlan::build_node(node)?;
    }
    if !plugins {
        if node.network.has_bridge() {
            bridge::build_node(node)?;
        } else {
            routed::build_node(node)?;
        }
    }
    if node.network == Network::Ipip { ipip::build_node(node) } else { Ok(None) }
}

/// Tells `node` how to reach the pods of `other`.
pub(crate) fn join(node: &NodeNet, other: &NodeNet) -> Result<()> {
    match node.way_to(other) {
        Way::Vxlan => vxlan::join(node, other),
        Way::Routes => {
            hostgw::join4(node, other)?;
            hostgw::join6(node, other)
        }
        Way::Ipip => {
            ipip::join(node, other)?;
            hostgw::join6(node, other)
        }
    }
}

/// A pod's interface with these addresses; `number` is another one for each pod.
pub(crate) fn build_pod(
    ns: &Netns,
    number: u32,
    (ipv4, ipv6): (Ipv4Addr, Ipv6Addr),
    node: &NodeNet,
) -> Result<Link> {
    // The names that flannel's and Calico's plugins begin with.
    let prefix = if node.network.has_bridge() { "veth" } else { "cali" };
    let link = Link { host_interface: format!("{prefix}{number:08x}"), ipv4, ipv6 };
    if node.network.has_bridge() {
        bridge::build_pod(ns, &link, node)?;
    } else {
        routed::build_pod(ns, &link, node)?;
    }
    Ok(link)
}
