//! ARP, neighbour discovery and multicast listener discovery under deny-all, from empty caches.

use std::net::{IpAddr, Ipv6Addr, UdpSocket};

use anyhow::{Context as _, Result, ensure};
use policy_common::{Direction, PassReason};
use sluice_netns::{ALLOW_TIMEOUT, PodSpec, WorldBuilder};
use sluice_tests::agent_world::{Lab, eventually, outside6, shell};
use sluice_tests::packets::counters::Counters;
use sluice_tests::packets::crossing::Crossing;
use sluice_tests::packets::neighbour::{advertisement, icmp6_kind, listener_query, solicitation};
use sluice_tests::packets::three_pods;
use sluice_tests::packets::wire::{Wire, mac};

const DENY_ALL: &str = "podSelector: {}, policyTypes: [Ingress, Egress]";
/// Version 1 and version 2 of "I listen" (RFC 2710, RFC 3810).
const REPORTS: [u8; 2] = [131, 143];
const QUERY: u8 = 130;
/// A link-local address, as the answers of MLD must go to one.
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x1d);
const GROUP: Ipv6Addr = Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 1, 3);

fn denied() -> Result<Lab> {
    let lab = Lab::start(with_server(three_pods("slneigh")))?;
    lab.apply("guest/deny", DENY_ALL)?;
    lab.apply("shop/deny", DENY_ALL)?;
    Ok(lab)
}

fn with_server(world: WorldBuilder) -> WorldBuilder {
    world.pod(PodSpec::new("shop", "web", "node1").serve_tcp(80).serve_udp(5300))
}

/// Forgets all neighbours, and makes sure that they are forgotten.
fn flush(lab: &Lab, names: &[&str]) -> Result<()> {
    for name in names {
        shell(&lab.ns(name)?, "ip -4 neigh flush all && ip -6 neigh flush all")?;
    }
    Ok(())
}

/// Whether `name` knows where `address` is found.
fn resolved(lab: &Lab, name: &str, address: IpAddr) -> Result<Option<String>> {
    let entry = shell(&lab.ns(name)?, &format!("ip neigh show to {address}"))?;
    Ok(if entry.contains("lladdr") { None } else { Some(format!("{name} on {address}: {entry:?}")) })
}

#[test]
fn a_node_reaches_its_denied_pod_and_the_pod_its_node_from_empty_caches() -> Result<()> {
    let lab = denied()?;
    for _ in 0..2 {
        flush(&lab, &["node1", "shop/web"])?;
        // The node asks for the pod.
        lab.expect_probes("node1 shop/web tcp/80 opens\nnode1 shop/web udp/5300 opens");
        flush(&lab, &["node1", "shop/web"])?;
        for gateway in lab.world.node("node1")?.gateways() {
            ensure!(resolved(&lab, "shop/web", gateway)?.is_some(), "the cache was not flushed");
        }
        // The pod asks for its gateway.
        lab.expect_probes("shop/web node1.bridge ping opens");
        for gateway in lab.world.node("node1")?.gateways() {
            ensure!(
                resolved(&lab, "shop/web", gateway)?.is_none(),
                "{gateway} was reached without resolution"
            );
        }
    }
    Ok(())
}

#[test]
fn denied_pods_find_each_other_and_reach_each_other_not() -> Result<()> {
    let lab = denied()?;
    flush(&lab, &["guest/client", "shop/web"])?;
    lab.expect("guest/client shop/web ping hangs\nshop/web guest/client ping hangs");
    for (from, to) in [("guest/client", "shop/web"), ("shop/web", "guest/client")] {
        for to in lab.sockets(to, 0)? {
            eventually(ALLOW_TIMEOUT, || resolved(&lab, from, to.ip()))?;
        }
    }
    Ok(())
}

#[test]
fn a_denied_pod_reports_the_groups_that_it_joins() -> Result<()> {
    let lab = denied()?;
    let node = lab.world.node("node1")?;
    let counters = Counters::of(node)?;
    // On the bridge itself, so behind the program: its port sees a frame before the program does.
    let bridge = Wire::open(node.ns(), "cni0")?;
    let before = counters.passed(PassReason::Neighbour, Direction::Egress)?.packets;
    let pod = lab.ns("shop/web")?;
    let socket = pod.run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 5400)))??;
    let interface = pod.run(|| nix::net::if_::if_nametoindex("eth0"))??;
    let is_report = |frame: &[u8]| {
        icmp6_kind(frame).is_some_and(|kind| REPORTS.contains(&kind))
            && frame.windows(16).any(|at| at == GROUP.octets())
    };
    socket.join_multicast_v6(&GROUP, interface)?;
    bridge.until(ALLOW_TIMEOUT, is_report).context("the report of a pod that joins")?;
    ensure!(counters.passed(PassReason::Neighbour, Direction::Egress)?.packets > before);

    // And when it is asked, by somebody on its link who is denied as well.
    let way = Crossing::between(&lab, "guest/client", "shop/web")?;
    let query = listener_query(way.v6().from_address(LINK_LOCAL.into()))?;
    way.to.drain()?;
    way.from.drain()?;
    way.from.send(&query)?;
    way.to.until(ALLOW_TIMEOUT, |frame| icmp6_kind(frame) == Some(QUERY)).context("the query")?;
    // A bridge that snoops brings reports to whoever asked, and to itself no more.
    way.from.until(ALLOW_TIMEOUT, is_report).context("the report of a pod that is asked")?;
    Ok(())
}

/// Neighbour discovery is between neighbours: what would be routed is no neighbour discovery, and a denied pod could tell
/// anybody anything in it.
#[test]
fn neighbour_discovery_does_not_leave_the_link_of_a_denied_pod() -> Result<()> {
    let lab = Lab::start(three_pods("slneigh").outside(
        "stranger",
        [172, 16, 8, 10].into(),
        Some(outside6(8, 10)),
    ))?;
    lab.apply("guest/deny", DENY_ALL)?;
    let node = lab.world.node("node1")?;
    let way = Crossing::between(&lab, "guest/client", "shop/near")?;
    // What the node would forward.
    let uplink = Wire::open(node.ns(), "eth0")?;
    let stranger = outside6(8, 10);
    let route = way.v6().to_mac(mac(node.ns(), "cni0")?).to_address(stranger.into());
    let IpAddr::V6(own) = route.src else { anyhow::bail!("an IPv6 route has an IPv6 source") };
    for frame in [solicitation(route, stranger)?, advertisement(route, own)?] {
        way.from.send(&frame)?;
    }
    // The node's own packet follows them.
    let said = node.ns().run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)))??;
    said.send_to(b"the last one", (stranger, 9))?;
    let seen =
        uplink.until(ALLOW_TIMEOUT, |frame| frame.windows(12).any(|bytes| bytes == b"the last one"))?;
    let own = own.octets();
    ensure!(
        seen.iter().all(|frame| frame.get(22..38) != Some(&own[..])),
        "neighbour discovery of the pod was routed out of the node"
    );
    Ok(())
}
