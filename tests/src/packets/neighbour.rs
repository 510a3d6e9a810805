//! Who has which address: ARP, neighbour discovery and multicast listener discovery.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use super::frames::{BROADCAST, ICMP6, Route, ethernet, icmp, ip, ip_with};

pub const ARP_REQUEST: u16 = 1;
pub const ARP_REPLY: u16 = 2;

/// An ARP message with anything behind it; a request goes to everybody.
#[must_use]
pub fn arp(route: Route, operation: u16, sender: Ipv4Addr, target: Ipv4Addr, rest: &[u8]) -> Vec<u8> {
    let to = if operation == ARP_REQUEST { BROADCAST } else { route.to_mac };
    let message = [
        &[0, 1, 8, 0, 6, 4][..],
        &operation.to_be_bytes(),
        &route.from_mac,
        &sender.octets(),
        &[0; 6],
        &target.octets(),
        rest,
    ];
    ethernet(route.from_mac, to, 0x0806, &message.concat())
}

/// `route.from_mac` is where `target` is found, says this neighbour advertisement (RFC 4861 section 4.4).
pub fn advertisement(route: Route, target: Ipv6Addr) -> Result<Vec<u8>> {
    const OVERRIDE: [u8; 4] = [0x20, 0, 0, 0];
    let option = [&[2, 1][..], &route.from_mac].concat();
    let message = icmp(route, 136, 0, OVERRIDE, &[&target.octets()[..], &option].concat());
    ip(route, ICMP6, &message)
}

/// Asks where `target` is found, with the sender's own hardware address (section 4.3).
pub fn solicitation(route: Route, target: Ipv6Addr) -> Result<Vec<u8>> {
    let option = [&[1, 1][..], &route.from_mac].concat();
    let message = icmp(route, 135, 0, [0; 4], &[&target.octets()[..], &option].concat());
    ip(route, ICMP6, &message)
}

/// "I am a router" (section 4.2), as bytes of ICMPv6.
#[must_use]
pub fn router_advertisement(route: Route) -> Vec<u8> {
    icmp(route, 134, 0, [64, 0, 0x07, 0x08], &[0; 8])
}

/// "There is a better way to `to`: `by`" (section 4.5), as bytes of ICMPv6.
#[must_use]
pub fn redirect(route: Route, to: Ipv6Addr, by: Ipv6Addr) -> Vec<u8> {
    icmp(route, 137, 0, [0; 4], &[by.octets(), to.octets()].concat())
}

/// A general query of MLDv1 (RFC 2710): one hop, and the hop-by-hop option that tells routers to look at it.
pub fn listener_query(route: Route) -> Result<Vec<u8>> {
    const ROUTER_ALERT: [u8; 8] = [ICMP6, 0, 5, 2, 0, 0, 1, 0];
    let route = route.to_address(IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1)));
    // An answer within ten milliseconds, please.
    let message = icmp(route, 130, 0, [0, 10, 0, 0], &[0; 16]);
    ip_with(route, 0, 1, &[], &[&ROUTER_ALERT[..], &message].concat())
}

/// The type of an ICMPv6 message in a frame, behind a hop-by-hop header too.
#[must_use]
pub fn icmp6_kind(frame: &[u8]) -> Option<u8> {
    if frame.get(12..14)? != [0x86, 0xdd] {
        return None;
    }
    match frame.get(20)? {
        0 if frame.get(54) == Some(&ICMP6) => {
            let length = (usize::from(*frame.get(55)?) + 1) * 8;
            frame.get(54 + length).copied()
        }
        &ICMP6 => frame.get(54).copied(),
        _ => None,
    }
}
