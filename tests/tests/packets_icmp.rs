//! ICMP errors are about somebody's flow, and go to whom the flow is with: they are no way to talk to anybody else.

use std::net::{IpAddr, Ipv6Addr, UdpSocket};

use anyhow::Result;
use policy_common::{Direction, DropReason};
use sluice_netns::{ALLOW_TIMEOUT, PodSpec};
use sluice_tests::agent_world::Lab;
use sluice_tests::packets::counters::Counters;
use sluice_tests::packets::crossing::Crossing;
use sluice_tests::packets::frames::{ICMP, ICMP6, Route, UDP, icmp, ip, udp};
use sluice_tests::packets::three_pods;

const CLIENT: u16 = 4000;
const SERVER: u16 = 5300;

/// "Port unreachable" to the route's destination, about a datagram that `peer` sent to the route's source.
fn unreachable(route: Route, peer: IpAddr) -> Result<Vec<u8>> {
    let sent = Route { src: peer, dst: route.src, ..route };
    let quoted = ip(sent, UDP, &udp(sent, SERVER, CLIENT, b"answer")?)?.split_off(14);
    if route.src.is_ipv4() {
        ip(route, ICMP, &icmp(route, 3, 3, [0; 4], &quoted))
    } else {
        ip(route, ICMP6, &icmp(route, 1, 4, [0; 4], &quoted))
    }
}

#[test]
fn an_error_of_an_isolated_pod_goes_to_the_flows_other_end_alone() -> Result<()> {
    let lab = Lab::start(three_pods("slicmp").pod(PodSpec::new("shop", "other", "node1")))?;
    let near = lab.world.pod("shop/near")?;
    let (near4, near6) = (IpAddr::from(near.ipv4), IpAddr::from(near.ipv6));
    lab.apply(
        "guest/one",
        &format!(
            "podSelector: {{}}, policyTypes: [Ingress, Egress], egress: [{{ports: [{{protocol: UDP, port: {SERVER}}}], \
             to: [{{ipBlock: {{cidr: {near4}/32}}}}, {{ipBlock: {{cidr: '{near6}/128'}}}}]}}]"
        ),
    )?;
    let server = near.ns.run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, SERVER)))??;
    server.set_read_timeout(Some(ALLOW_TIMEOUT))?;
    let client = lab.ns("guest/client")?.run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, CLIENT)))??;
    client.set_read_timeout(Some(ALLOW_TIMEOUT))?;
    for to in lab.sockets("shop/near", SERVER)? {
        // A dual-stack socket names IPv4 addresses in IPv6's way.
        let to = match to.ip() {
            IpAddr::V4(ip) => (IpAddr::V6(ip.to_ipv6_mapped()), to.port()),
            ip => (ip, to.port()),
        };
        client.send_to(b"question", to)?;
        let (_, from) = server.recv_from(&mut [0; 16])?;
        server.send_to(b"answer", from)?;
        client.recv_from(&mut [0; 16])?;
    }
    let to_near = Crossing::between(&lab, "guest/client", "shop/near")?;
    let to_other = Crossing::between(&lab, "guest/client", "shop/other")?;
    let counters = Counters::of(lab.world.node("node1")?)?;
    for (near, other) in to_near.routes().into_iter().zip(to_other.routes()) {
        assert_eq!(to_near.arrivals(&[unreachable(near, near.dst)?])?, [true], "to {}", near.dst);
        let before = counters.dropped(DropReason::IcmpError, Direction::Egress)?;
        // About the flow with another, and about one that there isn't.
        let strays = [unreachable(other, near.dst)?, unreachable(other, other.dst)?];
        assert_eq!(to_other.arrivals(&strays)?, [false; 2], "to {}", other.dst);
        assert_eq!(counters.dropped(DropReason::IcmpError, Direction::Egress)?, before + 2);
    }
    Ok(())
}
