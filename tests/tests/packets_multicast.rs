//! Multicast and broadcast are judged by the address that they go to, as any remote is: a group is no loophole.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};

use anyhow::{Context as _, Result};
use nix::net::if_::if_nametoindex;
use policy_common::{Direction, DropReason};
use sluice_netns::{ALLOW_TIMEOUT, DENY_TIMEOUT, Netns};
use sluice_tests::agent_world::Lab;
use sluice_tests::packets::counters::Counters;
use sluice_tests::packets::crossing::Crossing;
use sluice_tests::packets::frames::{BROADCAST, UDP, ip, udp};
use sluice_tests::packets::three_pods;

const DENY_ALL: &str = "podSelector: {}, policyTypes: [Ingress, Egress]";
const MDNS: u16 = 5353;

/// A datagram to each address that stands for more than one receiver, with the address for a name.
fn datagrams(way: &Crossing, port: u16) -> Result<Vec<(IpAddr, Vec<u8>)>> {
    let [v4, v6] = way.routes();
    let broadcast = [Ipv4Addr::BROADCAST, Ipv4Addr::new(10, 244, 1, 255)];
    let groups4 = [Ipv4Addr::new(239, 1, 2, 3), Ipv4Addr::new(224, 0, 0, 251)];
    let groups6 = [Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 1, 3), Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb)];
    let mut routes = Vec::new();
    routes.extend(broadcast.map(|to| v4.to_address(to.into()).to_mac(BROADCAST)));
    routes.extend(groups4.map(|to| v4.to_address(to.into())));
    routes.extend(groups6.map(|to| v6.to_address(to.into())));
    routes
        .iter()
        .map(|route| Ok((route.dst, ip(*route, UDP, &udp(*route, port, port, b"anybody?")?)?)))
        .collect()
}

/// The addresses whose datagrams arrive.
fn reached(way: &Crossing, port: u16) -> Result<Vec<String>> {
    let (addresses, frames): (Vec<_>, Vec<_>) = datagrams(way, port)?.into_iter().unzip();
    let arrivals = way.arrivals(&frames)?;
    Ok(addresses.iter().zip(arrivals).filter(|(_, arrived)| *arrived).map(|(to, _)| to.to_string()).collect())
}

const EVERY: [&str; 6] =
    ["255.255.255.255", "10.244.1.255", "239.1.2.3", "224.0.0.251", "ff05::1:3", "ff02::fb"];

#[test]
fn an_isolated_pod_sends_to_the_groups_that_a_block_covers() -> Result<()> {
    let lab = Lab::start(three_pods("slmulti"))?;
    let counters = Counters::of(lab.world.node("node1")?)?;
    let way = Crossing::between(&lab, "guest/client", "shop/near")?;
    assert_eq!(reached(&way, MDNS)?, EVERY);
    lab.apply("guest/deny", DENY_ALL)?;
    let before = counters.dropped(DropReason::Policy, Direction::Egress)?;
    assert_eq!(reached(&way, MDNS)?, [""; 0]);
    let dropped = counters.dropped(DropReason::Policy, Direction::Egress)? - before;
    // The pod's own kernel may say something to a group at the same time.
    assert!(dropped >= EVERY.len() as u64, "{dropped} drops by policy");

    let block = |cidr: &str, rest: &str| {
        format!(
            "podSelector: {{}}, policyTypes: [Egress], egress: [{{to: [{{ipBlock: {{cidr: '{cidr}'}}}}] {rest}}}]"
        )
    };
    for (cidr, expected) in [
        ("224.0.0.0/4", &EVERY[2..4]),
        ("239.0.0.0/8", &EVERY[2..3]),
        ("255.255.255.255/32", &EVERY[..1]),
        ("10.244.1.0/24", &EVERY[1..2]),
        ("0.0.0.0/0", &EVERY[..4]),
        ("ff00::/8", &EVERY[4..]),
        ("ff02::/16", &EVERY[5..]),
        ("::/0", &EVERY[4..]),
    ] {
        lab.apply("guest/group", &block(cidr, ""))?;
        assert_eq!(reached(&way, MDNS)?, expected, "{cidr}");
    }
    lab.apply("guest/group", &block("224.0.0.0/4", ", ports: [{protocol: UDP, port: 5353}]"))?;
    assert_eq!(reached(&way, MDNS)?, EVERY[2..4]);
    assert_eq!(reached(&way, MDNS + 1)?, [""; 0]);
    // No selector of pods means a group, though all its members be pods.
    lab.apply(
        "guest/group",
        "podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {}}]}]",
    )?;
    assert_eq!(reached(&way, MDNS)?, [""; 0]);
    Ok(())
}

#[test]
fn an_isolated_pod_hears_the_senders_that_a_rule_names() -> Result<()> {
    let lab = Lab::start(three_pods("slmulti"))?;
    let counters = Counters::of(lab.world.node("node1")?)?;
    let way = Crossing::between(&lab, "guest/client", "shop/near")?;
    lab.apply("shop/deny", DENY_ALL)?;
    let before = counters.dropped(DropReason::Policy, Direction::Ingress)?;
    assert_eq!(reached(&way, MDNS)?, [""; 0]);
    let dropped = counters.dropped(DropReason::Policy, Direction::Ingress)? - before;
    assert!(dropped >= EVERY.len() as u64, "{dropped} drops by policy");
    let from_guests = "podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{namespaceSelector: {matchLabels: \
                       {kubernetes.io/metadata.name: guest}}}], ports: [{protocol: UDP, port: 5353}]}]";
    lab.apply("shop/guests", from_guests)?;
    assert_eq!(reached(&way, MDNS)?, EVERY);
    assert_eq!(reached(&way, MDNS + 1)?, [""; 0]);
    Ok(())
}

/// A question of `guest/client` to a group that `shop/near` listens to: whether the answer comes in.
fn is_answered(lab: &Lab, group: IpAddr) -> Result<bool> {
    let (client, server) = (lab.ns("guest/client")?, lab.ns("shop/near")?);
    let interface = |ns: &Netns| ns.run(|| if_nametoindex("eth0"))?.context("eth0");
    let any: IpAddr = if group.is_ipv4() { [0; 4].into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let listener = server.run(|| UdpSocket::bind((any, MDNS)))??;
    let asker = client.run(|| UdpSocket::bind((any, 0)))??;
    let to: SocketAddr = match group {
        IpAddr::V4(group) => {
            listener.join_multicast_v4(&group, &Ipv4Addr::UNSPECIFIED)?;
            (group, MDNS).into()
        }
        IpAddr::V6(group) => {
            listener.join_multicast_v6(&group, interface(&server)?)?;
            SocketAddrV6::new(group, MDNS, 0, interface(&client)?).into()
        }
    };
    listener.set_read_timeout(Some(ALLOW_TIMEOUT))?;
    asker.set_read_timeout(Some(DENY_TIMEOUT))?;
    asker.send_to(b"who?", to)?;
    let mut buffer = [0; 16];
    let (_, from) = listener.recv_from(&mut buffer).context("the question did not arrive")?;
    listener.send_to(b"me", from)?;
    Ok(asker.recv_from(&mut buffer).is_ok())
}

/// As mDNS asks for legacy unicast answers (RFC 6762 section 6.7): they come from another address than the question went
/// to, so nothing tells them from any other packet.
#[test]
fn a_question_to_a_group_opens_nothing_for_the_answer() -> Result<()> {
    const ASK: &str =
        "egress: [{to: [{ipBlock: {cidr: 224.0.0.251/32}}, {ipBlock: {cidr: 'ff02::fb/128'}}]}]";
    let lab = Lab::start(three_pods("slmulti"))?;
    let groups: [IpAddr; 2] =
        [Ipv4Addr::new(224, 0, 0, 251).into(), Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb).into()];
    for (kinds, expected) in [("Egress", true), ("Ingress, Egress", false)] {
        lab.apply("guest/ask", &format!("podSelector: {{}}, policyTypes: [{kinds}], {ASK}"))?;
        for group in groups {
            let answered = is_answered(&lab, group).with_context(|| group.to_string())?;
            assert_eq!(answered, expected, "{group}, isolated for {kinds}");
        }
    }
    Ok(())
}
