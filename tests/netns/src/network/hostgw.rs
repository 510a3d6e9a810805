//! Plain routes to the other node: flannel's `host-gw`, and Calico without encapsulation.

use anyhow::Result;

use super::NodeNet;
use crate::ip::ip;

/// Tells `node` how to reach the IPv4 pods of `other`.
pub(super) fn join4(node: &NodeNet, other: &NodeNet) -> Result<()> {
    ip(&node.ns, &format!("route add {} via {} dev eth0\n", other.cidr4.trunc(), other.underlay4()))
}

/// The same for IPv6.
pub(super) fn join6(node: &NodeNet, other: &NodeNet) -> Result<()> {
    ip(&node.ns, &format!("route add {} via {} dev eth0\n", other.cidr6.trunc(), other.underlay6()))
}
