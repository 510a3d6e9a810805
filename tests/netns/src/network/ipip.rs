//! IPIP between the nodes, by the kernel's tunnel device or, in a kernel without one, by a process.

use anyhow::Result;

use super::NodeNet;
pub(crate) use super::tun::Tunnel;
use crate::ip::ip;

/// Not Calico's `tunl0`: where the module is loaded, every namespace may have one of that name already.
const DEVICE: &str = "ipip1";

/// The tunnel device, with an address of the node's block as Calico gives it one.
pub(super) fn build_node(node: &NodeNet) -> Result<Option<Tunnel>> {
    let by_kernel = ip(&node.ns, &format!("link add {DEVICE} type ipip local {} ttl 64\n", node.underlay4()));
    let tunnel = match by_kernel {
        Ok(()) => None,
        Err(error) if is_missing(&format!("{error:#}")) => {
            eprintln!("this kernel has no IPIP: a process is the tunnel of {}", node.ns.name());
            Some(Tunnel::open(&node.ns, DEVICE, node.underlay4())?)
        }
        Err(error) => return Err(error),
    };
    ip(
        &node.ns,
        &format!(
            "link set {DEVICE} mtu {} up\naddr add {}/32 dev {DEVICE}\n",
            node.network.pod_mtu(),
            node.tunnel4()
        ),
    )?;
    Ok(tunnel)
}

/// Tells `node` how to reach the IPv4 pods of `other`.
pub(super) fn join(node: &NodeNet, other: &NodeNet) -> Result<()> {
    let (cidr4, underlay4) = (other.cidr4.trunc(), other.underlay4());
    ip(&node.ns, &format!("route add {cidr4} via {underlay4} dev {DEVICE} onlink\n"))
}

/// Whether `ip` says that the kernel doesn't know the kind of device.
fn is_missing(error: &str) -> bool {
    error.contains("Unknown device type") || error.contains("Operation not supported")
}
