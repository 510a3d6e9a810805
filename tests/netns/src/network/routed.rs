//! Calico's veth: no bridge and no subnet. A pod has one address, its gateway is a link-local one that no interface bears and
//! for which the host end answers, and the node has a route for each pod.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use super::wire::NEAR4;
use super::{Link, NodeNet};
use crate::ip::ip;
use crate::netns::Netns;

/// Every host end has the same hardware address, so that pods may keep it in their caches when they move.
const HOST_MAC: &str = "ee:ee:ee:ee:ee:ee";
const GATEWAY4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// What the kernel makes of [`HOST_MAC`].
const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0xecee, 0xeeff, 0xfeee, 0xeeee);

/// The node's routes beside those of pods.
pub(super) fn build_node(node: &NodeNet) -> Result<()> {
    let (cidr4, cidr6) = (node.cidr4.trunc(), node.cidr6.trunc());
    // An address of the node's own block that no pod has is nowhere else either. And the kernel answers only for addresses
    // that it has a route to: a node's default route is what it has for the pods' gateway; here it leads to nobody.
    ip(
        &node.ns,
        &format!(
            "route add blackhole {cidr4}\nroute add blackhole {cidr6}\nroute add default via {NEAR4} dev eth0\n"
        ),
    )
}

/// A pod's veth and the routes at both ends of it.
pub(super) fn build_pod(ns: &Netns, link: &Link, node: &NodeNet) -> Result<()> {
    let Link { host_interface, ipv4, ipv6 } = link;
    let mtu = node.network.pod_mtu();
    ip(
        &node.ns,
        &format!(
            "link add {host_interface} address {HOST_MAC} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}\n",
            ns.name()
        ),
    )?;
    node.ns.sysctl(&[
        (&format!("net/ipv4/conf/{host_interface}/proxy_arp"), "1"),
        // Else it answers for the gateway only after up to 0.8 seconds.
        (&format!("net/ipv4/neigh/{host_interface}/proxy_delay"), "0"),
        (&format!("net/ipv6/conf/{host_interface}/proxy_ndp"), "1"),
    ])?;
    ip(
        &node.ns,
        &format!(
            "link set {host_interface} up
route add {ipv4}/32 dev {host_interface} scope link
route add {ipv6}/128 dev {host_interface}
"
        ),
    )?;
    ip(
        ns,
        &format!(
            "link set eth0 up
addr add {ipv4}/32 dev eth0
addr add {ipv6}/128 dev eth0 nodad
route add {GATEWAY4} dev eth0 scope link
route add default via {GATEWAY4} dev eth0
route add default via {GATEWAY6} dev eth0
"
        ),
    )
}
