//! flannel's VXLAN devices.

use anyhow::Result;

use super::NodeNet;
use crate::ip::{bridge, ip};

/// A device for each family, with the node's address on the overlay.
pub(super) fn build_node(node: &NodeNet) -> Result<()> {
    let (underlay4, underlay6) = (node.underlay4(), node.underlay6());
    let (vtep4, vtep6) = (node.tunnel4(), node.tunnel6());
    let (mac4, mac6, mtu) = (node.mac(4), node.mac(6), node.network.pod_mtu());
    ip(
        &node.ns,
        &format!(
            "link add flannel.1 address {mac4} mtu {mtu} type vxlan id 1 dstport 8472 nolearning local {underlay4} dev eth0
link set flannel.1 up
addr add {vtep4}/32 dev flannel.1
link add flannel-v6.1 address {mac6} mtu {mtu} type vxlan id 1 dstport 8472 nolearning local {underlay6} dev eth0
link set flannel-v6.1 up
addr add {vtep6}/128 dev flannel-v6.1 nodad
"
        ),
    )
}

/// Tells `node` how to reach the pods of `other`, as flanneld does.
pub(super) fn join(node: &NodeNet, other: &NodeNet) -> Result<()> {
    let (vtep4, vtep6) = (other.tunnel4(), other.tunnel6());
    let (mac4, mac6) = (other.mac(4), other.mac(6));
    ip(
        &node.ns,
        &format!(
            "neigh add {vtep4} lladdr {mac4} dev flannel.1 nud permanent
route add {} via {vtep4} dev flannel.1 onlink
neigh add {vtep6} lladdr {mac6} dev flannel-v6.1 nud permanent
route add {} via {vtep6} dev flannel-v6.1 onlink
",
            other.cidr4.trunc(),
            other.cidr6.trunc()
        ),
    )?;
    bridge(
        &node.ns,
        &format!(
            "fdb append {mac4} dev flannel.1 dst {}\nfdb append {mac6} dev flannel-v6.1 dst {}\n",
            other.underlay4(),
            other.underlay6()
        ),
    )
}
