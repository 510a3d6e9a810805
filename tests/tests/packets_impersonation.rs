//! A pod speaks for itself alone, isolated or not: what it sends under another's name is neither delivered nor counted
//! as anything else.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use anyhow::Result;
use policy_common::{Direction, DropReason};
use sluice_netns::ALLOW_TIMEOUT;
use sluice_tests::agent_world::Lab;
use sluice_tests::packets::counters::Counters;
use sluice_tests::packets::crossing::Crossing;
use sluice_tests::packets::frames::{ICMP6, Piece, Route, UDP, fragment, ip, udp};
use sluice_tests::packets::neighbour::{
    ARP_REPLY, ARP_REQUEST, advertisement, arp, redirect, router_advertisement, solicitation,
};
use sluice_tests::packets::three_pods;
use sluice_tests::packets::wire::mac;

const OWN_LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xbad);
const ALL_NODES: IpAddr = IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1));
const NOBODY4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const NOBODY6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7);
/// Isolated, and free to do everything: even a rule that allows everything allows nobody to be another.
const ISOLATED: &str = "podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{}], egress: [{}]";

type Frames = Vec<(&'static str, Vec<u8>)>;

/// A lab, the way from `guest/client` to `shop/near`, and the addresses of others: another pod, the gateway, nobody.
struct Stage {
    lab: Lab,
    way: Crossing,
    others4: [Ipv4Addr; 3],
    others6: [Ipv6Addr; 3],
}

impl Stage {
    fn set() -> Result<Self> {
        let lab = Lab::start(three_pods("slself"))?;
        let way = Crossing::between(&lab, "guest/client", "shop/near")?;
        let far = lab.world.pod("shop/far")?;
        let (far4, far6) = (far.ipv4, far.ipv6);
        let [IpAddr::V4(gateway4), IpAddr::V6(gateway6)] = lab.world.node("node1")?.gateways() else {
            anyhow::bail!("a node's gateways are IPv4 and IPv6");
        };
        Ok(Self { lab, way, others4: [far4, gateway4, NOBODY4], others6: [far6, gateway6, NOBODY6] })
    }

    fn own4(&self) -> Result<Ipv4Addr> {
        Ok(self.lab.world.pod("guest/client")?.ipv4)
    }

    fn own6(&self) -> Result<Ipv6Addr> {
        Ok(self.lab.world.pod("guest/client")?.ipv6)
    }

    /// Nothing of it arrives, and all of it is counted under `reason`; both while the pod is isolated and while it isn't.
    fn is_dropped(&self, frames: &Frames, reason: DropReason) -> Result<()> {
        let counters = Counters::of(self.lab.world.node("node1")?)?;
        for isolated in [false, true] {
            if isolated {
                self.lab.apply("guest/isolated", ISOLATED)?;
            }
            let before = counters.dropped(reason, Direction::Egress)?;
            let arrived = arrived(&self.way, frames)?;
            assert_eq!(arrived, [""; 0], "arrived, isolated: {isolated}");
            let dropped = counters.dropped(reason, Direction::Egress)? - before;
            assert_eq!(dropped, frames.len() as u64, "{reason:?}, isolated: {isolated}");
        }
        self.lab.delete("guest/isolated")
    }

    /// All of it arrives, isolated or not: what is dropped is not dropped for its shape.
    fn is_delivered(&self, frames: &Frames) -> Result<()> {
        for isolated in [false, true] {
            if isolated {
                self.lab.apply("guest/isolated", ISOLATED)?;
            }
            let all: Vec<&str> = frames.iter().map(|(name, _)| *name).collect();
            assert_eq!(arrived(&self.way, frames)?, all, "isolated: {isolated}");
        }
        self.lab.delete("guest/isolated")
    }
}

/// The names of those that arrive.
fn arrived(way: &Crossing, frames: &Frames) -> Result<Vec<&'static str>> {
    let bytes: Vec<Vec<u8>> = frames.iter().map(|(_, frame)| frame.clone()).collect();
    let arrivals = way.arrivals(&bytes)?;
    Ok(frames.iter().zip(arrivals).filter(|(_, arrived)| *arrived).map(|((name, _), _)| *name).collect())
}

fn datagram(route: Route) -> Result<Vec<u8>> {
    ip(route, UDP, &udp(route, 4000, 4001, b"who am I?")?)
}

#[test]
fn no_packet_leaves_under_a_foreign_source() -> Result<()> {
    let stage = Stage::set()?;
    let [v4, v6] = stage.way.routes();
    stage.is_delivered(&vec![("own IPv4", datagram(v4)?), ("own IPv6", datagram(v6)?)])?;
    let mut frames = Frames::new();
    for other in stage.others4 {
        let route = v4.from_address(other.into());
        let later = Piece { id: 1, offset: 1024, more: false };
        frames.push(("foreign IPv4", datagram(route)?));
        frames.push(("a later fragment under a foreign IPv4", fragment(route, UDP, later, &[0; 64])?));
    }
    for other in stage.others6 {
        let route = v6.from_address(other.into());
        let later = Piece { id: 1, offset: 1024, more: false };
        frames.push(("foreign IPv6", datagram(route)?));
        frames.push(("a later fragment under a foreign IPv6", fragment(route, UDP, later, &[0; 64])?));
    }
    // A victim's own address least of all: it might take the packet for its own.
    frames.push(("the receiver's IPv4", datagram(v4.from_address(v4.dst))?));
    frames.push(("the receiver's IPv6", datagram(v6.from_address(v6.dst))?));
    stage.is_dropped(&frames, DropReason::Spoofed)
}

#[test]
fn arp_names_no_other_sender() -> Result<()> {
    let stage = Stage::set()?;
    let (route, own) = (stage.way.v4(), stage.own4()?);
    let IpAddr::V4(victim) = route.dst else { anyhow::bail!("an IPv4 route has an IPv4 destination") };
    stage.is_delivered(&vec![
        ("a request of its own", arp(route, ARP_REQUEST, own, victim, b"")),
        ("a reply of its own", arp(route, ARP_REPLY, own, victim, b"")),
        ("a probe (RFC 5227)", arp(route, ARP_REQUEST, Ipv4Addr::UNSPECIFIED, own, b"")),
    ])?;
    let mut frames = Frames::new();
    for other in stage.others4 {
        frames.push(("a request of another", arp(route, ARP_REQUEST, other, victim, b"")));
        frames.push(("a gratuitous request of another", arp(route, ARP_REQUEST, other, other, b"")));
        frames.push(("a reply of another", arp(route, ARP_REPLY, other, victim, b"")));
        let everybody = route.to_mac([0xff; 6]);
        frames.push(("a gratuitous reply of another", arp(everybody, ARP_REPLY, other, other, b"")));
    }
    stage.is_dropped(&frames, DropReason::Spoofed)
}

#[test]
fn neighbour_discovery_names_no_other() -> Result<()> {
    let stage = Stage::set()?;
    let (route, own) = (stage.way.v6(), stage.own6()?);
    let IpAddr::V6(victim) = route.dst else { anyhow::bail!("an IPv6 route has an IPv6 destination") };
    let from_link = route.from_address(OWN_LINK_LOCAL.into());
    stage.is_delivered(&vec![
        ("an advertisement of its own", advertisement(route, own)?),
        ("one from its link-local address", advertisement(from_link, own)?),
        ("one to everybody", advertisement(route.to_address(ALL_NODES), own)?),
        ("a question", solicitation(route, victim)?),
        ("a question from its link-local address", solicitation(from_link, victim)?),
    ])?;
    let mut frames = Frames::new();
    for other in stage.others6 {
        frames.push(("an advertisement for another", advertisement(route, other)?));
        frames.push(("one from the link-local address", advertisement(from_link, other)?));
        frames.push(("one to everybody", advertisement(route.to_address(ALL_NODES), other)?));
        let as_other = route.from_address(other.into());
        frames.push(("an advertisement from another", advertisement(as_other, other)?));
        frames.push(("one of its own from another", advertisement(as_other, own)?));
        // The receiver learns the sender's hardware address from a question, too.
        frames.push(("a question from another", solicitation(as_other, victim)?));
    }
    stage.is_dropped(&frames, DropReason::Spoofed)
}

/// Duplicate address detection (RFC 4862 section 5.4.3, RFC 5227 section 2.1.1): two who ask for one address from none of
/// their own both give it up, so that a question alone keeps a starting pod from its address.
#[test]
fn a_pod_claims_no_address_of_another() -> Result<()> {
    let stage = Stage::set()?;
    let (v4, v6) = (stage.way.v4(), stage.way.v6().from_address(Ipv6Addr::UNSPECIFIED.into()));
    let claim4 = |address| arp(v4, ARP_REQUEST, Ipv4Addr::UNSPECIFIED, address, b"");
    let claim6 = |address: Ipv6Addr| {
        let [.., a, b, c] = address.octets();
        let last = [u16::from(a) | 0xff00, u16::from(b) << 8 | u16::from(c)];
        let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, last[0], last[1]);
        solicitation(v6.to_address(group.into()), address)
    };
    stage.is_delivered(&vec![
        ("its own IPv4", claim4(stage.own4()?)),
        ("its own IPv6", claim6(stage.own6()?)?),
        ("its own link-local address", claim6(OWN_LINK_LOCAL)?),
    ])?;
    let mut frames = Frames::new();
    for (other4, other6) in stage.others4.into_iter().zip(stage.others6) {
        frames.push(("another's IPv4", claim4(other4)));
        frames.push(("another's IPv6", claim6(other6)?));
    }
    stage.is_dropped(&frames, DropReason::Spoofed)
}

#[test]
fn a_pod_is_no_router() -> Result<()> {
    let stage = Stage::set()?;
    let (route, own) = (stage.way.v6(), stage.own6()?);
    let from_link = route.from_address(OWN_LINK_LOCAL.into());
    let mut frames = Frames::new();
    for route in [route, from_link, from_link.to_address(ALL_NODES)] {
        let advertised = router_advertisement(route);
        let first = Piece { id: 9, offset: 0, more: true };
        frames.push(("a router advertisement", ip(route, ICMP6, &advertised)?));
        frames.push(("a redirect", ip(route, ICMP6, &redirect(route, NOBODY6, own))?));
        let options = [&[ICMP6, 0, 1, 4, 0, 0, 0, 0][..], &advertised].concat();
        frames.push(("a router advertisement behind options", ip(route, 60, &options)?));
        frames.push(("a router advertisement in a fragment", fragment(route, ICMP6, first, &advertised)?));
    }
    stage.is_dropped(&frames, DropReason::RouterSpoof)
}

/// Priority tags (IEEE 802.1Q, VLAN 0): whoever receives a frame takes them off and goes on as if there had been none.
fn tagged(frame: &[u8]) -> [Vec<u8>; 3] {
    let (addresses, rest) = frame.split_at(12);
    let with = |tags: &[u8]| [addresses, tags, rest].concat();
    [
        with(&[0x81, 0x00, 0x60, 0x00]),
        with(&[0x88, 0xa8, 0x60, 0x00]),
        with(&[0x81, 0x00, 0x60, 0x00, 0x81, 0x00, 0x60, 0x00]),
    ]
}

/// Behind more destination options than the program walks.
fn behind_seven(route: Route, protocol: u8, message: &[u8]) -> Result<Vec<u8>> {
    let mut payload = [60, 0, 1, 4, 0, 0, 0, 0].repeat(6);
    payload.extend([protocol, 0, 1, 4, 0, 0, 0, 0]);
    payload.extend_from_slice(message);
    ip(route, 60, &payload)
}

#[test]
fn no_shape_of_a_packet_hides_whose_name_it_bears() -> Result<()> {
    let stage = Stage::set()?;
    let [v4, v6] = stage.way.routes();
    let (other4, other6) = (stage.others4[0], stage.others6[0]);
    let own6 = stage.own6()?;
    let mut frames = Frames::new();
    for (name, frame) in [
        ("foreign IPv4 with a priority tag", datagram(v4.from_address(other4.into()))?),
        ("foreign IPv6 with a priority tag", datagram(v6.from_address(other6.into()))?),
        ("foreign ARP with a priority tag", arp(v4, ARP_REPLY, other4, NOBODY4, b"")),
        ("an advertisement for another with a priority tag", advertisement(v6, other6)?),
        ("a router advertisement with a priority tag", ip(v6, ICMP6, &router_advertisement(v6))?),
    ] {
        frames.extend(tagged(&frame).map(|frame| (name, frame)));
    }
    let as_other = v6.from_address(other6.into());
    frames.push((
        "foreign IPv6 behind seven",
        behind_seven(as_other, UDP, &udp(as_other, 4000, 4001, b"who?")?)?,
    ));
    frames.push(("a router advertisement behind seven", behind_seven(v6, ICMP6, &router_advertisement(v6))?));
    frames.push(("a redirect behind seven", behind_seven(v6, ICMP6, &redirect(v6, NOBODY6, own6))?));
    let socket = stage.lab.ns("shop/near")?.run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 4001)))??;
    socket.set_nonblocking(true)?;
    for isolated in [true, false] {
        if isolated {
            stage.lab.apply("guest/isolated", ISOLATED)?;
        } else {
            stage.lab.delete("guest/isolated")?;
        }
        assert_eq!(arrived(&stage.way, &frames)?, [""; 0], "arrived, isolated: {isolated}");
        let heard = socket.recv_from(&mut [0; 64]).map(|(_, from)| from).ok();
        assert_eq!(heard, None, "a socket heard somebody who did not speak, isolated: {isolated}");
    }
    Ok(())
}

/// The node takes the tag off, too, and would route the packet to a pod whose policy trusts the name.
#[test]
fn no_tag_carries_a_name_past_the_node_to_an_isolated_pod() -> Result<()> {
    let stage = Stage::set()?;
    let lab = &stage.lab;
    lab.apply(
        "shop/trust",
        "podSelector: {}, policyTypes: [Ingress], \
         ingress: [{from: [{ipBlock: {cidr: 10.244.2.0/24}}, {ipBlock: {cidr: 'fd00:10:244:2::/64'}}]}]",
    )?;
    let socket = lab.ns("shop/near")?.run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 4001)))??;
    let gateway = mac(lab.world.node("node1")?.ns(), "cni0")?;
    let [v4, v6] = stage.way.routes().map(|route| route.to_mac(gateway));
    let mut frames = Vec::new();
    for route in [v4.from_address(stage.others4[0].into()), v6.from_address(stage.others6[0].into())] {
        let plain = datagram(route)?;
        frames.extend(tagged(&plain));
        frames.push(plain);
    }
    for frame in &frames {
        stage.way.from.send(frame)?;
    }
    // Behind them, the pod that bears the trusted name.
    let trusted = lab.ns("shop/far")?.run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 4100)))??;
    for to in lab.sockets("shop/near", 4001)? {
        trusted.send_to(b"trusted", to)?;
    }
    socket.set_read_timeout(Some(ALLOW_TIMEOUT))?;
    for _ in 0..2 {
        let (_, from) = socket.recv_from(&mut [0; 64])?;
        assert_eq!(from.port(), 4100, "a datagram came in under the name of {}", from.ip());
    }
    Ok(())
}

/// A node-local DNS cache answers from a link-local address: a pod that has an address of its own has no use for one.
#[test]
fn nobody_answers_under_a_link_local_ipv4_address() -> Result<()> {
    let stage = Stage::set()?;
    let route = stage.way.v4().from_address(Ipv4Addr::new(169, 254, 20, 10).into());
    stage.is_dropped(&vec![("from a link-local address", datagram(route)?)], DropReason::Spoofed)
}
