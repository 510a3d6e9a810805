//! IPv4 options, IPv6 extension headers and protocols without ports: the verdict is that of the plain packet, or that
//! of a rule without ports.

use anyhow::Result;
use policy_common::{Direction, DropReason};
use sluice_netns::ALLOW_TIMEOUT;
use sluice_tests::agent_world::{Lab, eventually, outside6};
use sluice_tests::packets::counters::Counters;
use sluice_tests::packets::crossing::Crossing;
use sluice_tests::packets::frames::{ICMP6, Route, TCP, UDP, flag, icmp, ip, ip_with, tcp, udp};
use sluice_tests::packets::three_pods;
use sluice_tests::packets::wire::{Wire, mac};

const ALLOWED: u16 = 5300;
const DENIED: u16 = 5301;
/// Guests may send to the shop's UDP and TCP 5300, and the shop takes it: both ends judge.
const PORTS: &str = "[{protocol: UDP, port: 5300}, {protocol: TCP, port: 5300}]";

fn lab() -> Result<Lab> {
    Lab::start(three_pods("slhead"))
}

/// Isolates both ends for both directions, with these rules at the client's egress and the server's ingress.
fn isolate(lab: &Lab, rule: &str) -> Result<()> {
    lab.apply("guest/out", &format!("podSelector: {{}}, policyTypes: [Ingress, Egress], egress: [{rule}]"))?;
    lab.apply("shop/in", &format!("podSelector: {{}}, policyTypes: [Ingress, Egress], ingress: [{rule}]"))
}

/// The names of the frames that arrive.
fn arrived<'a>(way: &Crossing, frames: &[(&'a str, Vec<u8>)]) -> Result<Vec<&'a str>> {
    let bytes: Vec<Vec<u8>> = frames.iter().map(|(_, frame)| frame.clone()).collect();
    let arrivals = way.arrivals(&bytes)?;
    Ok(frames.iter().zip(arrivals).filter(|(_, arrived)| *arrived).map(|((name, _), _)| *name).collect())
}

fn names<'a>(frames: &[(&'a str, Vec<u8>)]) -> Vec<&'a str> {
    frames.iter().map(|(name, _)| *name).collect()
}

const OPTIONS: [(&str, &[u8]); 6] = [
    ("no options", &[]),
    ("padding", &[1, 1, 1, 0]),
    ("router alert", &[0x94, 4, 0, 0]),
    ("time stamp", &[0x44, 12, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    ("record route", &[7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    // Where the ports of a packet without options would stand, this says 5300.
    (
        "forty bytes that look like ports",
        &[
            1, 1, 1, 1, 0x14, 0xb4, 0x14, 0xb4, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
            1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0,
        ],
    ),
];

/// UDP and TCP to a port behind each set of options.
fn with_options(route: Route, port: u16) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let mut frames = Vec::new();
    for (name, options) in OPTIONS {
        frames.push((name, ip_with(route, UDP, 64, options, &udp(route, 4000, port, b"option")?)?));
        frames.push((name, ip_with(route, TCP, 64, options, &tcp(route, 4000, port, flag::SYN, b""))?));
    }
    Ok(frames)
}

#[test]
fn ipv4_options_shift_no_port() -> Result<()> {
    let lab = lab()?;
    isolate(&lab, &format!("{{ports: {PORTS}}}"))?;
    let way = Crossing::between(&lab, "guest/client", "shop/near")?;
    let allowed = with_options(way.v4(), ALLOWED)?;
    assert_eq!(arrived(&way, &allowed)?, names(&allowed));
    assert_eq!(arrived(&way, &with_options(way.v4(), DENIED)?)?, [""; 0]);
    Ok(())
}

/// Extension headers in their order, each as its number and its bytes but for the next header's number.
type Chain = (&'static str, &'static [(u8, &'static [u8])]);

const PADDING: &[u8] = &[0, 1, 4, 0, 0, 0, 0];
const LONG_PADDING: &[u8] = &[1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// Of mobile IPv6 (type 2), which no segment is left of: the receiver takes the packet.
const ROUTING: &[u8] = &[2, 2, 0, 0, 0, 0, 0, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const AUTHENTICATION: &[u8] = &[4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
const ATOMIC_FRAGMENT: &[u8] = &[0, 0, 0, 0, 0, 0, 7];

const CHAINS: [Chain; 8] = [
    ("no extension", &[]),
    ("hop-by-hop", &[(0, PADDING)]),
    ("destination options", &[(60, PADDING)]),
    ("long destination options", &[(60, LONG_PADDING)]),
    ("routing", &[(43, ROUTING)]),
    ("authentication", &[(51, AUTHENTICATION)]),
    ("an atomic fragment", &[(44, ATOMIC_FRAGMENT)]),
    (
        "six",
        &[
            (0, PADDING),
            (60, LONG_PADDING),
            (43, ROUTING),
            (44, ATOMIC_FRAGMENT),
            (51, AUTHENTICATION),
            (60, PADDING),
        ],
    ),
];
const SEVEN: &[(u8, &[u8])] =
    &[(0, PADDING), (60, PADDING), (60, PADDING), (60, PADDING), (60, PADDING), (60, PADDING), (60, PADDING)];

/// A packet with these extension headers before its transport message.
fn chained(route: Route, chain: &[(u8, &[u8])], protocol: u8, message: &[u8]) -> Result<Vec<u8>> {
    let mut payload = Vec::new();
    for (at, (_, rest)) in chain.iter().enumerate() {
        payload.push(chain.get(at + 1).map_or(protocol, |(next, _)| *next));
        payload.extend_from_slice(rest);
    }
    payload.extend_from_slice(message);
    ip(route, chain.first().map_or(protocol, |(first, _)| *first), &payload)
}

fn with_chains(route: Route, port: u16) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let mut frames = Vec::new();
    for (name, chain) in CHAINS {
        frames.push((name, chained(route, chain, UDP, &udp(route, 4000, port, b"chain")?)?));
        frames.push((name, chained(route, chain, TCP, &tcp(route, 4000, port, flag::SYN, b""))?));
    }
    Ok(frames)
}

#[test]
fn ipv6_extension_headers_hide_no_port() -> Result<()> {
    let lab = lab()?;
    isolate(&lab, &format!("{{ports: {PORTS}}}"))?;
    let way = Crossing::between(&lab, "guest/client", "shop/near")?;
    let allowed = with_chains(way.v6(), ALLOWED)?;
    assert_eq!(arrived(&way, &allowed)?, names(&allowed));
    assert_eq!(arrived(&way, &with_chains(way.v6(), DENIED)?)?, [""; 0]);
    Ok(())
}

#[test]
fn a_chain_longer_than_the_bound_is_dropped_as_such() -> Result<()> {
    let lab =
        Lab::start(three_pods("slhead").outside("visitor", [172, 16, 8, 10].into(), Some(outside6(8, 10))))?;
    isolate(&lab, "{}")?;
    let node = lab.world.node("node1")?;
    let counters = Counters::of(node)?;
    let dropped = |direction| counters.dropped(DropReason::ExtensionChain, direction);
    let way = Crossing::between(&lab, "guest/client", "shop/near")?;
    let seven = |route: Route| chained(route, SEVEN, UDP, &udp(route, 4000, ALLOWED, b"chain")?);
    let before = dropped(Direction::Egress)?;
    assert_eq!(way.arrivals(&[seven(way.v6())?])?, [false]);
    assert_eq!(dropped(Direction::Egress)?, before + 1);
    // Towards the pod, from somebody whose packets no program has seen before.
    let visitor = Wire::open(&lab.ns("visitor")?, "eth0")?;
    let (from_mac, to_mac) = (visitor.mac, mac(node.ns(), "eth0")?);
    let before = dropped(Direction::Ingress)?;
    visitor.send(&seven(Route { from_mac, to_mac, src: outside6(8, 10).into(), dst: way.v6().dst })?)?;
    eventually(ALLOW_TIMEOUT, || {
        let count = dropped(Direction::Ingress)?;
        Ok((count != before + 1).then(|| format!("{} were dropped", count - before)))
    })
}

/// GRE, ESP, IPIP and 6in4 over IPv4 and IPv6, and ping, which is judged like them. What they carry is the allowed port's:
/// nobody looks for it.
fn without_ports(way: &Crossing) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let mut frames = Vec::new();
    for route in way.routes() {
        let inside = udp(way.v4(), ALLOWED, ALLOWED, b"inside")?;
        let inner4 = ip(way.v4(), UDP, &inside)?.split_off(14);
        let inner6 = ip(way.v6(), UDP, &udp(way.v6(), ALLOWED, ALLOWED, b"inside")?)?.split_off(14);
        frames.push(("GRE", ip(route, 47, &[&[0, 0, 8, 0][..], &inner4].concat())?));
        frames.push(("ESP", ip(route, 50, &[&[0, 0, 1, 0, 0, 0, 0, 1][..], &inside].concat())?));
        frames.push(("IPIP", ip(route, 4, &inner4)?));
        frames.push(("6in4", ip(route, 41, &inner6)?));
        let (kind, protocol) = if route.src.is_ipv4() { (8, 1) } else { (128, ICMP6) };
        frames.push(("ping", ip(route, protocol, &icmp(route, kind, 0, [0x12, 0x34, 0, 1], b"ping"))?));
    }
    Ok(frames)
}

#[test]
fn a_protocol_without_ports_needs_a_rule_without_ports() -> Result<()> {
    let lab = lab()?;
    let way = Crossing::between(&lab, "guest/client", "shop/near")?;
    let counters = Counters::of(lab.world.node("node1")?)?;
    let frames = without_ports(&way)?;
    assert_eq!(arrived(&way, &frames)?, names(&frames));

    isolate(&lab, &format!("{{ports: {PORTS}}}"))?;
    let before = counters.dropped(DropReason::Policy, Direction::Egress)?;
    assert_eq!(arrived(&way, &frames)?, [""; 0], "a rule with ports");
    assert!(counters.dropped(DropReason::Policy, Direction::Egress)? >= before + frames.len() as u64);
    // All ports are still ports.
    isolate(&lab, "{ports: [{protocol: TCP, port: 1, endPort: 65535}, {protocol: UDP}, {protocol: SCTP}]}")?;
    assert_eq!(arrived(&way, &frames)?, [""; 0], "a rule with all ports");
    isolate(&lab, "{}")?;
    assert_eq!(arrived(&way, &frames)?, names(&frames), "a rule without ports");

    // Each end judges for itself.
    for (policy, direction) in [("guest/deny", Direction::Egress), ("shop/deny", Direction::Ingress)] {
        isolate(&lab, "{}")?;
        let kept = if policy == "guest/deny" { "guest/out" } else { "shop/in" };
        lab.delete(kept)?;
        lab.apply(policy, "podSelector: {}, policyTypes: [Ingress, Egress]")?;
        let before = counters.dropped(DropReason::Policy, direction)?;
        assert_eq!(arrived(&way, &frames)?, [""; 0], "{policy}");
        assert!(counters.dropped(DropReason::Policy, direction)? >= before + frames.len() as u64);
        lab.delete(policy)?;
    }
    Ok(())
}
