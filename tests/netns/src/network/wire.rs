//! The cables between nodes and machines outside, and the router where there are two subnets.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use super::{Network, NodeNet, forward, prepare};
use crate::ip::ip;
use crate::netns::Netns;

/// The router's ends in the two subnets.
pub(super) const NEAR4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
const NEAR6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x192, 0, 2, 0, 0, 0, 0xfe);
const FAR4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 254);
const FAR6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x198, 0x51, 0x100, 0, 0, 0, 0xfe);

/// The switch that the cables are in; for direct routing a second one, and the router between them.
pub(crate) fn build_wire(wire: &Netns, network: Network) -> Result<()> {
    prepare(wire)?;
    ip(wire, "link add wire type bridge\nlink set wire up\n")?;
    if network != Network::VxlanDirectRouting {
        return Ok(());
    }
    forward(wire)?;
    ip(
        wire,
        &format!(
            "addr add {NEAR4}/24 dev wire
addr add {NEAR6}/64 dev wire nodad
link add far type bridge
link set far up
addr add {FAR4}/24 dev far
addr add {FAR6}/64 dev far nodad
"
        ),
    )
}

/// A node's interface on the network between the nodes.
pub(super) fn build_underlay(node: &NodeNet, wire: &Netns) -> Result<()> {
    let (underlay4, underlay6, port) = (node.underlay4(), node.underlay6(), format!("n{}", node.number));
    let mut lines = format!(
        "link add eth0 type veth peer name {port} netns {}
link set eth0 up
addr add {underlay4}/24 dev eth0
addr add {underlay6}/64 dev eth0 nodad
",
        wire.name()
    );
    if node.is_distant() {
        writeln!(lines, "route add default via {FAR4}\nroute add default via {FAR6}")?;
    } else if node.network == Network::VxlanDirectRouting {
        writeln!(lines, "route add 198.51.100.0/24 via {NEAR4}\nroute add fd00:198:51:100::/64 via {NEAR6}")?;
    }
    ip(&node.ns, &lines)?;
    plug_in(wire, &port, if node.is_distant() { "far" } else { "wire" })
}

/// A machine on the first nodes' network, and the routes between it and the pods.
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
    let mut back = format!("route add {ipv4}/32 dev eth0\n");
    if let Some(ipv6) = ipv6 {
        writeln!(lines, "addr add {ipv6}/128 dev eth0 nodad")?;
        writeln!(back, "route add {ipv6}/128 dev eth0")?;
    }
    let (near, distant): (Vec<_>, Vec<_>) = nodes.iter().partition(|node| !node.is_distant());
    for node in near {
        let (underlay4, underlay6) = (node.underlay4(), node.underlay6());
        writeln!(lines, "route add {underlay4}/32 dev eth0")?;
        writeln!(lines, "route add {} via {underlay4} dev eth0", node.cidr4.trunc())?;
        if ipv6.is_some() {
            writeln!(lines, "route add {underlay6}/128 dev eth0")?;
            writeln!(lines, "route add {} via {underlay6} dev eth0", node.cidr6.trunc())?;
        }
        ip(&node.ns, &back)?;
    }
    if !distant.is_empty() {
        lines += &behind_the_router(&distant, ipv6.is_some())?;
        ip(wire, &back.replace("dev eth0", "dev wire"))?;
        // Another machine may have told the router already.
        ip(wire, &to_distant_pods(&distant)?)?;
    }
    ip(ns, &lines)?;
    plug_in(wire, port, "wire")
}

/// A machine's routes to nodes behind the router.
fn behind_the_router(distant: &[&NodeNet], ipv6: bool) -> Result<String> {
    let mut lines = format!("route add {NEAR4}/32 dev eth0\n");
    if ipv6 {
        writeln!(lines, "route add {NEAR6}/128 dev eth0")?;
    }
    for node in distant {
        writeln!(lines, "route add {}/32 via {NEAR4} dev eth0", node.underlay4())?;
        writeln!(lines, "route add {} via {NEAR4} dev eth0", node.cidr4.trunc())?;
        if ipv6 {
            writeln!(lines, "route add {}/128 via {NEAR6} dev eth0", node.underlay6())?;
            writeln!(lines, "route add {} via {NEAR6} dev eth0", node.cidr6.trunc())?;
        }
    }
    Ok(lines)
}

/// The router's routes to pods on nodes behind it.
fn to_distant_pods(distant: &[&NodeNet]) -> Result<String> {
    let mut lines = String::new();
    for node in distant {
        writeln!(lines, "route replace {} via {} dev far", node.cidr4.trunc(), node.underlay4())?;
        writeln!(lines, "route replace {} via {} dev far", node.cidr6.trunc(), node.underlay6())?;
    }
    Ok(lines)
}

fn plug_in(wire: &Netns, port: &str, switch: &str) -> Result<()> {
    ip(wire, &format!("link set dev {port} master {switch}\nlink set dev {port} up\n"))
}
