//! Datagrams in pieces: the first piece decides, the rest follow it, and nothing arrives that the first did not stand for.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use policy_common::{Direction, DropReason, PassReason};
use sluice_netns::{ALLOW_TIMEOUT, DENY_TIMEOUT, Netns};
use sluice_tests::agent_world::{Lab, outside6, shell};
use sluice_tests::packets::counters::Counters;
use sluice_tests::packets::crossing::Crossing;
use sluice_tests::packets::frames::{Piece, Route, TCP, UDP, flag, fragment, tcp, udp};
use sluice_tests::packets::three_pods;

const ALLOWED: u16 = 5300;
const DENIED: u16 = 5301;
const RULE: &str = "[{ports: [{protocol: UDP, port: 5300}, {protocol: TCP, port: 5300}]}]";

fn lab() -> Result<Lab> {
    let world = three_pods("slfrag").outside("visitor", [172, 16, 8, 10].into(), Some(outside6(8, 10)));
    let lab = Lab::start(world)?;
    lab.apply("guest/out", &format!("podSelector: {{}}, policyTypes: [Ingress, Egress], egress: {RULE}"))?;
    lab.apply("shop/in", &format!("podSelector: {{}}, policyTypes: [Ingress, Egress], ingress: {RULE}"))?;
    Ok(lab)
}

fn any(to: IpAddr) -> IpAddr {
    if to.is_ipv4() { [0; 4].into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

/// Whether a datagram that is far larger than the way's MTU arrives as it was sent.
fn arrives_whole(from: &Netns, receiver: &UdpSocket, to: SocketAddr) -> Result<bool> {
    let sender = from.run(|| UdpSocket::bind((any(to.ip()), 0)))??;
    let datagram: Vec<u8> = (0..4000_u32).map(|n| (n * 7 % 251).to_le_bytes()[0]).collect();
    sender.send_to(&datagram, to)?;
    let mut buffer = [0; 8192];
    match receiver.recv(&mut buffer) {
        Ok(length) => {
            ensure!(buffer.get(..length) == Some(&datagram[..]), "{to}: {length} bytes arrived");
            Ok(true)
        }
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether it arrives at `to`, which is an address of `server`, from each of the senders.
fn arrivals_at(lab: &Lab, server: &str, to: SocketAddr, timeout: Duration) -> Result<[bool; 2]> {
    let receiver = lab.ns(server)?.run(|| UdpSocket::bind(to))??;
    receiver.set_read_timeout(Some(timeout))?;
    let arrives = |from: &str| arrives_whole(&lab.ns(from)?, &receiver, to);
    Ok([arrives("guest/client")?, arrives("visitor")?])
}

/// Large datagrams from everybody to both servers, to the allowed port and to the denied one.
fn verdicts_on_large_datagrams(lab: &Lab) -> Result<()> {
    thread::scope(|scope| -> Result<()> {
        let mut running = Vec::new();
        for server in ["shop/near", "shop/far"] {
            for (port, timeout) in [(ALLOWED, ALLOW_TIMEOUT), (DENIED, DENY_TIMEOUT)] {
                for to in lab.sockets(server, port)? {
                    running.push((to, scope.spawn(move || arrivals_at(lab, server, to, timeout))));
                }
            }
        }
        for (to, thread) in running {
            assert_eq!(thread.join().expect("no panic")?, [to.port() == ALLOWED; 2], "at {to}");
        }
        Ok(())
    })
}

#[test]
fn a_large_datagram_arrives_whole_or_not_at_all() -> Result<()> {
    let lab = lab()?;
    // As the pods' links have it: path-MTU discovery would cost the first datagram.
    shell(&lab.ns("visitor")?, "ip link set eth0 mtu 1430")?;
    let (near, far) = (Counters::of(lab.world.node("node1")?)?, Counters::of(lab.world.node("node2")?)?);
    verdicts_on_large_datagrams(&lab)?;
    // Three pieces each: one is judged by its port, two follow it. Two families, two senders, and twice as many at node1,
    // which sees half of them leave as well.
    assert_eq!(near.passed(PassReason::Fragment, Direction::Ingress)?.packets, 8);
    assert_eq!(near.passed(PassReason::Fragment, Direction::Egress)?.packets, 8);
    assert_eq!(far.passed(PassReason::Fragment, Direction::Ingress)?.packets, 8);
    assert_eq!(near.dropped(DropReason::FragmentOrphan, Direction::Egress)?, 8);
    assert_eq!(near.dropped(DropReason::FragmentOrphan, Direction::Ingress)?, 4);
    assert_eq!(far.dropped(DropReason::FragmentOrphan, Direction::Ingress)?, 4);
    Ok(())
}

/// A datagram of `SIZE` bytes in pieces of `CUT`, in the order of their offsets.
const SIZE: usize = 2400;
const CUT: usize = 800;

fn pieces(route: Route, port: u16, id: u16) -> Result<Vec<Vec<u8>>> {
    let message = udp(route, 4000, port, &[0xa5; SIZE - 8])?;
    let cut = |(number, bytes): (usize, &[u8])| {
        let offset = u16::try_from(number * CUT)?;
        fragment(route, UDP, Piece { id, offset, more: (number + 1) * CUT < SIZE }, bytes)
    };
    message.chunks(CUT).enumerate().map(cut).collect()
}

/// The sizes of the datagrams that a socket holds.
fn received(socket: &UdpSocket) -> Result<Vec<usize>> {
    let mut sizes = Vec::new();
    let mut buffer = [0; 8192];
    socket.set_nonblocking(true)?;
    while let Ok(length) = socket.recv(&mut buffer) {
        sizes.push(length);
    }
    Ok(sizes)
}

#[test]
fn later_pieces_follow_the_first_in_any_order_and_none_comes_before_it() -> Result<()> {
    let lab = lab()?;
    let counters = Counters::of(lab.world.node("node1")?)?;
    let way = Crossing::between(&lab, "guest/client", "shop/near")?;
    for route in way.routes() {
        let socket = lab.ns("shop/near")?.run(|| UdpSocket::bind((any(route.dst), ALLOWED)))??;
        let orphans = || counters.dropped(DropReason::FragmentOrphan, Direction::Egress);
        let [first, middle, last] = &pieces(route, ALLOWED, 11)?[..] else { anyhow::bail!("three pieces") };
        // The last one overtakes the middle one, and comes twice.
        let arrived = way.arrivals(&[first.clone(), last.clone(), last.clone(), middle.clone()])?;
        assert_eq!(arrived, [true; 4]);
        assert_eq!(received(&socket)?, [SIZE - 8]);

        let before = orphans()?;
        let [first, middle, last] = &pieces(route, ALLOWED, 12)?[..] else { anyhow::bail!("three pieces") };
        assert_eq!(way.arrivals(&[middle.clone(), first.clone(), last.clone()])?, [false, true, true]);
        assert_eq!(received(&socket)?, [0; 0]);
        assert_eq!(orphans()?, before + 1);
        // Its sender may try again.
        assert_eq!(way.arrivals(std::slice::from_ref(middle))?, [true]);
        assert_eq!(received(&socket)?, [SIZE - 8]);
    }
    Ok(())
}

#[test]
fn pieces_without_an_allowed_first_are_dropped_as_orphans() -> Result<()> {
    let lab = lab()?;
    let counters = Counters::of(lab.world.node("node1")?)?;
    let way = Crossing::between(&lab, "guest/client", "shop/near")?;
    let mut frames = Vec::new();
    let mut orphans = 0;
    for route in way.routes() {
        // The first is denied; no first was ever seen; the first was another datagram's, or another protocol's.
        frames.extend(pieces(route, DENIED, 21)?);
        frames.extend(pieces(route, ALLOWED, 22)?.split_off(1));
        assert_eq!(way.arrivals(&pieces(route, ALLOWED, 23)?)?, [true; 3]);
        frames.extend(pieces(route, ALLOWED, 24)?.split_off(1));
        orphans += 6;
        if route.src.is_ipv4() {
            frames.push(fragment(route, TCP, Piece { id: 23, offset: 800, more: false }, &[0; 64])?);
            orphans += 1;
        }
    }
    let before = counters.dropped(DropReason::FragmentOrphan, Direction::Egress)?;
    assert_eq!(way.arrivals(&frames)?, vec![false; frames.len()]);
    assert_eq!(counters.dropped(DropReason::FragmentOrphan, Direction::Egress)?, before + orphans);
    // The receiver's side has a memory of its own: what an unisolated sender lets go is an orphan there.
    lab.delete("guest/out")?;
    let before = counters.dropped(DropReason::FragmentOrphan, Direction::Ingress)?;
    assert_eq!(way.arrivals(&frames)?, vec![false; frames.len()]);
    assert_eq!(counters.dropped(DropReason::FragmentOrphan, Direction::Ingress)?, before + orphans);
    Ok(())
}

#[test]
fn a_first_piece_shorter_than_its_transport_header_is_dropped_as_such() -> Result<()> {
    let lab = lab()?;
    let counters = Counters::of(lab.world.node("node1")?)?;
    let way = Crossing::between(&lab, "guest/client", "shop/near")?;
    let mut frames = Vec::new();
    for route in way.routes() {
        let message = tcp(route, 4000, ALLOWED, flag::SYN, &[0; 24]);
        // The ports are there, the flags are not (RFC 1858, RFC 3128).
        for (id, cut) in [(31, 8), (32, 16)] {
            let (head, rest) = message.split_at(cut);
            let offset = u16::try_from(cut)?;
            frames.push(fragment(route, TCP, Piece { id, offset: 0, more: true }, head)?);
            frames.push(fragment(route, TCP, Piece { id, offset, more: false }, rest)?);
        }
    }
    let count = |reason| counters.dropped(reason, Direction::Egress);
    let before = (count(DropReason::FragmentShort)?, count(DropReason::FragmentOrphan)?);
    assert_eq!(way.arrivals(&frames)?, [false; 8]);
    assert_eq!(count(DropReason::FragmentShort)?, before.0 + 4);
    assert_eq!(count(DropReason::FragmentOrphan)?, before.1 + 4);
    Ok(())
}

/// A piece that writes over the transport header makes another packet of it than the one that was judged.
#[test]
fn a_later_piece_over_the_transport_header_does_not_arrive() -> Result<()> {
    let lab = lab()?;
    let way = Crossing::between(&lab, "guest/client", "shop/near")?;
    for route in way.routes() {
        let message = tcp(route, 4000, ALLOWED, flag::ACK, &[0; 44]);
        let first = fragment(route, TCP, Piece { id: 41, offset: 0, more: true }, &message[..40])?;
        let behind = fragment(route, TCP, Piece { id: 41, offset: 40, more: false }, &message[40..])?;
        let over: Vec<Vec<u8>> = [8, 16]
            .map(|offset| fragment(route, TCP, Piece { id: 41, offset, more: true }, &[0x02; 24]))
            .into_iter()
            .collect::<Result<_>>()?;
        assert_eq!(way.arrivals(&[first])?, [true]);
        assert_eq!(way.arrivals(&over)?, [false; 2], "{} over the header", route.src);
        assert_eq!(way.arrivals(&[behind])?, [true]);
    }
    Ok(())
}

/// The same first piece with a denied port does not pass in the shadow of the allowed one.
#[test]
fn a_second_first_piece_is_judged_by_its_own_port() -> Result<()> {
    let lab = lab()?;
    let way = Crossing::between(&lab, "guest/client", "shop/near")?;
    for route in way.routes() {
        let allowed = pieces(route, ALLOWED, 51)?.remove(0);
        let denied = pieces(route, DENIED, 51)?.remove(0);
        assert_eq!(way.arrivals(&[allowed, denied])?, [true, false]);
    }
    Ok(())
}

/// Tracks the connections of a node. For that netfilter needs whole datagrams.
fn track(lab: &Lab, node: &str) -> Result<()> {
    let rules = "add table inet track; add chain inet track early { type filter hook prerouting priority 0; }; \
                 add rule inet track early ct state new counter";
    shell(&lab.ns(node)?, &format!("nft '{rules}'")).map(drop)
}

/// As on every node with kube-proxy: netfilter tracks connections, so that it puts datagrams together on their way and cuts
/// them again, also on the bridge.
#[test]
fn a_node_that_reassembles_on_the_way_changes_no_verdict() -> Result<()> {
    let lab = lab()?;
    shell(&lab.ns("visitor")?, "ip link set eth0 mtu 1430")?;
    for node in ["node1", "node2"] {
        track(&lab, node)?;
    }
    verdicts_on_large_datagrams(&lab)
}

/// Of a frame that the bridge floods netfilter cuts copies, and copies of IPv6 are new packets that came in by no interface
/// (`br_ip6_fragment`, the slow path). They are not the node's own for that.
#[test]
fn pieces_that_the_bridge_floods_are_not_taken_for_the_nodes_own() -> Result<()> {
    let lab = lab()?;
    lab.delete("guest/out")?;
    let counters = Counters::of(lab.world.node("node1")?)?;
    track(&lab, "node1")?;
    let way = Crossing::between(&lab, "guest/client", "shop/near")?;
    for route in way.routes() {
        let socket = lab.ns("shop/near")?.run(|| UdpSocket::bind((any(route.dst), DENIED)))??;
        let before = counters.passed(PassReason::Host, Direction::Ingress)?.packets;
        for to in [route.to_mac, [0xff; 6]] {
            way.arrivals(&pieces(route.to_mac(to), DENIED, 61)?)?;
            assert_eq!(received(&socket)?, [0; 0], "{} to {to:x?}", route.dst);
        }
        assert_eq!(counters.passed(PassReason::Host, Direction::Ingress)?.packets, before);
    }
    Ok(())
}
