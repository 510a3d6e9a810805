//! The links, addresses and routes of a flannel node, as `ip` and `bridge` commands.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use ipnet::{Ipv4Net, Ipv6Net};

use crate::ip::{bridge, ip};
use crate::netns::Netns;

/// What VXLAN over IPv6 leaves of 1500 bytes: flannel gives its pods the smaller of the two families.
const POD_MTU: u16 = 1430;
const BRIDGE: &str = "cni0";

/// The numbers of a node.
#[derive(Clone, Debug)]
pub(crate) struct NodeNet {
    pub(crate) ns: Netns,
    /// Counted from 1.
    pub(crate) number: u8,
    pub(crate) cidr4: Ipv4Net,
    pub(crate) cidr6: Ipv6Net,
}

impl NodeNet {
    /// The node's address on the network between the nodes.
    pub(crate) fn underlay4(&self) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, self.number)
    }

    pub(crate) fn underlay6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x192, 0, 2, 0, 0, 0, u16::from(self.number))
    }

    /// The node's address on its bridge, the pods' gateway.
    pub(crate) fn gateway4(&self) -> Ipv4Addr {
        host4(self.cidr4, 1)
    }

    pub(crate) fn gateway6(&self) -> Ipv6Addr {
        host6(self.cidr6, 1)
    }

    fn vtep_mac(&self, family: u8) -> String {
        format!("02:73:6c:00:{family:02x}:{:02x}", self.number)
    }
}

/// The address of a network's `host`.
pub(crate) fn host4(cidr: Ipv4Net, host: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits(cidr.network().to_bits() | u32::from(host))
}

/// The address of a network's `host`.
pub(crate) fn host6(cidr: Ipv6Net, host: u16) -> Ipv6Addr {
    Ipv6Addr::from_bits(cidr.network().to_bits() | u128::from(host))
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

/// The switch that the nodes' cables are in.
pub(crate) fn build_wire(wire: &Netns) -> Result<()> {
    prepare(wire)?;
    ip(wire, "link add wire type bridge\nlink set wire up\n")
}

/// A node's underlay, bridge and VXLAN devices.
pub(crate) fn build_node(node: &NodeNet, wire: &Netns) -> Result<()> {
    let NodeNet { ns, number, cidr4, cidr6 } = node;
    prepare(ns)?;
    ns.sysctl(&[
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
        ("net/ipv6/conf/default/forwarding", "1"),
    ])?;
    let (underlay4, underlay6) = (node.underlay4(), node.underlay6());
    let (gateway4, gateway6) = (node.gateway4(), node.gateway6());
    let (length4, length6) = (cidr4.prefix_len(), cidr6.prefix_len());
    let (vtep4, vtep6) = (cidr4.network(), cidr6.network());
    let (mac4, mac6) = (node.vtep_mac(4), node.vtep_mac(6));
    // A bridge without an address of its own takes its lowest port's, and changes it as pods come and go.
    let bridge_mac = node.vtep_mac(0);
    let wire_name = wire.name();
    ip(
        ns,
        &format!(
            "link add eth0 type veth peer name n{number} netns {wire_name}
link set eth0 up
addr add {underlay4}/24 dev eth0
addr add {underlay6}/64 dev eth0 nodad
link add {BRIDGE} address {bridge_mac} mtu {POD_MTU} type bridge
link set {BRIDGE} up
addr add {gateway4}/{length4} dev {BRIDGE}
addr add {gateway6}/{length6} dev {BRIDGE} nodad
link add flannel.1 address {mac4} mtu {POD_MTU} type vxlan id 1 dstport 8472 nolearning local {underlay4} dev eth0
link set flannel.1 up
addr add {vtep4}/32 dev flannel.1
link add flannel-v6.1 address {mac6} mtu {POD_MTU} type vxlan id 1 dstport 8472 nolearning local {underlay6} dev eth0
link set flannel-v6.1 up
addr add {vtep6}/128 dev flannel-v6.1 nodad
"
        ),
    )?;
    plug_in(wire, &format!("n{number}"))
}

/// Tells `node` how to reach the pods of `other`, as flanneld does.
pub(crate) fn join(node: &NodeNet, other: &NodeNet) -> Result<()> {
    let (vtep4, vtep6) = (other.cidr4.network(), other.cidr6.network());
    let (mac4, mac6) = (other.vtep_mac(4), other.vtep_mac(6));
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

/// A machine on the nodes' network, and the routes between it and the pods.
pub(crate) fn build_outside(
    ns: &Netns,
    port: &str,
    (ipv4, ipv6): (Ipv4Addr, Option<Ipv6Addr>),
    wire: &Netns,
    nodes: &[NodeNet],
) -> Result<()> {
    prepare(ns)?;
    let mut lines = format!(
        "link add eth0 type veth peer name {port} netns {}\nlink set eth0 up\naddr add {ipv4}/32 dev eth0\n",
        wire.name()
    );
    if let Some(ipv6) = ipv6 {
        lines += &format!("addr add {ipv6}/128 dev eth0 nodad\n");
    }
    for node in nodes {
        let (underlay4, underlay6) = (node.underlay4(), node.underlay6());
        let mut back = format!("route add {ipv4}/32 dev eth0\n");
        writeln!(lines, "route add {underlay4}/32 dev eth0")?;
        writeln!(lines, "route add {} via {underlay4} dev eth0", node.cidr4.trunc())?;
        if let Some(ipv6) = ipv6 {
            writeln!(back, "route add {ipv6}/128 dev eth0")?;
            writeln!(lines, "route add {underlay6}/128 dev eth0")?;
            writeln!(lines, "route add {} via {underlay6} dev eth0", node.cidr6.trunc())?;
        }
        ip(&node.ns, &back)?;
    }
    ip(ns, &lines)?;
    plug_in(wire, port)
}

/// A pod's veth, with its host end on the node's bridge.
pub(crate) fn build_pod(
    ns: &Netns,
    host_interface: &str,
    (ipv4, ipv6): (Ipv4Addr, Ipv6Addr),
    node: &NodeNet,
) -> Result<()> {
    prepare(ns)?;
    // Hairpin as the bridge plugin is configured by flannel: a pod reaches itself through its own Service.
    ip(
        &node.ns,
        &format!(
            "link add {host_interface} mtu {POD_MTU} type veth peer name eth0 mtu {POD_MTU} netns {}
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

fn plug_in(wire: &Netns, port: &str) -> Result<()> {
    ip(wire, &format!("link set dev {port} master wire\nlink set dev {port} up\n"))
}
