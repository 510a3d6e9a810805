//! Services of the first node, by the rules that kube-proxy would have for them.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use anyhow::Result;
use sluice_netns::Pod;
use sluice_tests::agent_world::{Lab, shell};

use crate::setting::WATCHED;

/// The address of a Service whose only endpoint is `shop/web1`.
pub(crate) const OWN_SERVICE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x10)),
];
/// Mark of what must be masqueraded, as kube-proxy has it.
const MASQUERADE: &str = "0x4000";

/// The node port of `shop/web` on node `number`.
pub(crate) const fn node_port(number: u16) -> u16 {
    30080 + number
}

/// The node port of its watched port.
pub(crate) const fn watched_node_port(number: u16) -> u16 {
    32080 + number
}

/// Gives the first node its rules.
pub(crate) fn install(lab: &Lab, nodes: RangeInclusive<u16>) -> Result<()> {
    let mut rules = String::new();
    for number in nodes {
        let pod = lab.world.pod(&format!("shop/web{number}"))?;
        for (port, target) in [
            (format!("tcp dport {}", node_port(number)), 80),
            (format!("udp dport {}", node_port(number)), 5300),
            (format!("tcp dport {}", watched_node_port(number)), WATCHED),
        ] {
            // The node's own addresses, whichever: from outside they are NodePorts, masqueraded to be answered by this node.
            let matched = format!("fib daddr type local {port} meta mark set meta mark or {MASQUERADE}");
            write_both(&mut rules, pod, &matched, target)?;
        }
    }
    let web = lab.world.pod("shop/web1")?;
    let [service4, service6] = OWN_SERVICE;
    // A pod that is its own server would answer itself directly, were it not masqueraded.
    writeln!(rules, "ip saddr {} ip daddr {service4} meta mark set meta mark or {MASQUERADE}", web.ipv4)?;
    writeln!(rules, "ip6 saddr {} ip6 daddr {service6} meta mark set meta mark or {MASQUERADE}", web.ipv6)?;
    for (port, target) in [("tcp dport 80", 80), ("tcp dport 8080", WATCHED)] {
        writeln!(rules, "ip daddr {service4} {port} dnat ip to {}:{target}", web.ipv4)?;
        writeln!(rules, "ip6 daddr {service6} {port} dnat ip6 to [{}]:{target}", web.ipv6)?;
    }
    let table = format!(
        "table inet services {{
chain prerouting {{ type nat hook prerouting priority dstnat;
{rules}}}
chain postrouting {{ type nat hook postrouting priority srcnat;
meta mark and {MASQUERADE} == {MASQUERADE} masquerade
}}
}}"
    );
    shell(&lab.ns("node1")?, &format!("nft -f - <<'END'\n{table}\nEND")).map(drop)
}

/// A rule for each family.
fn write_both(rules: &mut String, pod: &Pod, matched: &str, target: u16) -> Result<()> {
    writeln!(rules, "meta nfproto ipv4 {matched} dnat ip to {}:{target}", pod.ipv4)?;
    writeln!(rules, "meta nfproto ipv6 {matched} dnat ip6 to [{}]:{target}", pod.ipv6)?;
    Ok(())
}
