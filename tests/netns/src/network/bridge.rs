//! flannel's bridge: what its delegate, the `bridge` plugin, makes of its settings.

use anyhow::Result;

use super::{Link, NodeNet};
use crate::ip::ip;
use crate::netns::Netns;

/// Its name on every node.
pub(super) const BRIDGE: &str = "cni0";

/// The bridge, with the pods' gateway on it.
pub(super) fn build_node(node: &NodeNet) -> Result<()> {
    let (gateway4, gateway6) = (node.gateway4(), node.gateway6());
    let (length4, length6) = (node.cidr4.prefix_len(), node.cidr6.prefix_len());
    // A bridge without an address of its own takes its lowest port's, and changes it as pods come and go.
    let (mac, mtu) = (node.mac(0), node.network.pod_mtu());
    ip(
        &node.ns,
        &format!(
            "link add {BRIDGE} address {mac} mtu {mtu} type bridge
link set {BRIDGE} up
addr add {gateway4}/{length4} dev {BRIDGE}
addr add {gateway6}/{length6} dev {BRIDGE} nodad
"
        ),
    )
}

/// A pod's veth, with its host end on the node's bridge.
pub(super) fn build_pod(ns: &Netns, link: &Link, node: &NodeNet) -> Result<()> {
    let Link { host_interface, ipv4, ipv6 } = link;
    let mtu = node.network.pod_mtu();
    // Hairpin as the bridge plugin is configured by flannel: a pod reaches itself through its own Service.
    ip(
        &node.ns,
        &format!(
            "link add {host_interface} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}
link set {host_interface} master {BRIDGE}
link set {host_interface} type bridge_slave hairpin on
link set {host_interface} up
",
            ns.name()
        ),
    )?;
    let (gateway4, gateway6) = (node.gateway4(), node.gateway6());
    let (length4, length6) = (node.cidr4.prefix_len(), node.cidr6.prefix_len());
    ip(
        ns,
        &format!(
            "link set eth0 up
addr add {ipv4}/{length4} dev eth0
addr add {ipv6}/{length6} dev eth0 nodad
route add default via {gateway4} dev eth0
route add default via {gateway6} dev eth0
"
        ),
    )
}
