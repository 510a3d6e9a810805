//! Frames of any shape: the headers are built by etherparse, and everything that it refuses is put together here.

use std::net::IpAddr;

use anyhow::Result;
use etherparse::checksum::Sum16BitWords;
use etherparse::{EtherType, Ethernet2Header, IpFragOffset, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header};

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMP: u8 = 1;
pub const ICMP6: u8 = 58;

/// TCP flags as in the header's fourteenth byte.
pub mod flag {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const ACK: u8 = 0x10;
}

pub const BROADCAST: [u8; 6] = [0xff; 6];

/// From whom to whom a packet goes, in both layers.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    pub from_mac: [u8; 6],
    pub to_mac: [u8; 6],
    pub src: IpAddr,
    pub dst: IpAddr,
}

impl Route {
    #[must_use]
    pub const fn from_address(self, src: IpAddr) -> Self {
        Self { src, ..self }
    }

    /// To another address, which may be a group's: its hardware address follows from it then (RFC 1112, RFC 2464).
    #[must_use]
    pub fn to_address(self, dst: IpAddr) -> Self {
        let to_mac = match dst {
            IpAddr::V4(dst) if dst.is_multicast() => {
                let [_, b, c, d] = dst.octets();
                [0x01, 0x00, 0x5e, b & 0x7f, c, d]
            }
            IpAddr::V4(_) => self.to_mac,
            IpAddr::V6(dst) if dst.is_multicast() => {
                let [.., a, b, c, d] = dst.octets();
                [0x33, 0x33, a, b, c, d]
            }
            IpAddr::V6(_) => self.to_mac,
        };
        Self { dst, to_mac, ..self }
    }

    #[must_use]
    pub const fn to_mac(self, to_mac: [u8; 6]) -> Self {
        Self { to_mac, ..self }
    }
}

/// Where a packet's payload stands in its datagram.
#[derive(Clone, Copy, Debug, Default)]
pub struct Piece {
    /// Identifies the datagram.
    pub id: u16,
    /// In bytes, a multiple of eight.
    pub offset: u16,
    pub more: bool,
}

/// An Ethernet frame of any type.
#[must_use]
pub fn ethernet(from: [u8; 6], to: [u8; 6], ether_type: u16, payload: &[u8]) -> Vec<u8> {
    let header = Ethernet2Header { source: from, destination: to, ether_type: EtherType(ether_type) };
    [&header.to_bytes()[..], payload].concat()
}

/// An IP packet of a protocol, whole. With 255 hops, as neighbour discovery must have them.
pub fn ip(route: Route, protocol: u8, payload: &[u8]) -> Result<Vec<u8>> {
    ip_with(route, protocol, 255, &[], payload)
}

/// The same with another hop limit and, for IPv4, options.
pub fn ip_with(route: Route, protocol: u8, hops: u8, options: &[u8], payload: &[u8]) -> Result<Vec<u8>> {
    let Route { from_mac, to_mac, src, dst } = route;
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let length = u16::try_from(payload.len())?;
            let mut header = Ipv4Header::new(length, hops, IpNumber(protocol), src.octets(), dst.octets())?;
            header.options = options.try_into()?;
            header.set_payload_len(payload.len())?;
            Ok(ipv4_frame(from_mac, to_mac, header, payload))
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let header = Ipv6Header {
                traffic_class: 0,
                flow_label: Ipv6FlowLabel::ZERO,
                payload_length: u16::try_from(payload.len())?,
                next_header: IpNumber(protocol),
                hop_limit: hops,
                source: src.octets(),
                destination: dst.octets(),
            };
            Ok(ethernet(from_mac, to_mac, 0x86dd, &[&header.to_bytes()[..], payload].concat()))
        }
        _ => anyhow::bail!("{src} and {dst} are of two families"),
    }
}

fn ipv4_frame(from: [u8; 6], to: [u8; 6], mut header: Ipv4Header, payload: &[u8]) -> Vec<u8> {
    header.header_checksum = header.calc_header_checksum();
    ethernet(from, to, 0x0800, &[&header.to_bytes()[..], payload].concat())
}

/// A fragment. IPv6 says it in a header of its own.
pub fn fragment(route: Route, protocol: u8, piece: Piece, payload: &[u8]) -> Result<Vec<u8>> {
    let Route { from_mac, to_mac, src, dst } = route;
    if let (IpAddr::V4(src), IpAddr::V4(dst)) = (src, dst) {
        let length = u16::try_from(payload.len())?;
        let mut header = Ipv4Header::new(length, 64, IpNumber(protocol), src.octets(), dst.octets())?;
        header.identification = piece.id;
        header.dont_fragment = false;
        header.more_fragments = piece.more;
        header.fragment_offset = IpFragOffset::try_new(piece.offset / 8)?;
        return Ok(ipv4_frame(from_mac, to_mac, header, payload));
    }
    let [high, low] = (piece.offset & !7 | u16::from(piece.more)).to_be_bytes();
    let [id_high, id_low] = piece.id.to_be_bytes();
    let header = [protocol, 0, high, low, 0, 0, id_high, id_low];
    ip(route, 44, &[&header[..], payload].concat())
}

/// A UDP datagram, without its IP header.
pub fn udp(route: Route, from_port: u16, to_port: u16, payload: &[u8]) -> Result<Vec<u8>> {
    let length = u16::try_from(payload.len() + 8)?;
    let header = [from_port, to_port, length, 0].map(u16::to_be_bytes).concat();
    Ok(with_checksum(route, UDP, 6, [&header[..], payload].concat()))
}

/// A TCP segment, without its IP header. Its numbers are fixed: nobody is meant to have a connection to it.
#[must_use]
pub fn tcp(route: Route, from_port: u16, to_port: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    let ports = [from_port, to_port].map(u16::to_be_bytes).concat();
    let header = [&ports[..], &[0, 0, 1, 0, 0, 0, 2, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]].concat();
    with_checksum(route, TCP, 16, [&header[..], payload].concat())
}

/// An ICMP message of the route's family: type, code, four bytes, and the rest.
#[must_use]
pub fn icmp(route: Route, kind: u8, code: u8, word: [u8; 4], rest: &[u8]) -> Vec<u8> {
    let message = [&[kind, code, 0, 0][..], &word, rest].concat();
    if route.src.is_ipv4() {
        return put_checksum(Sum16BitWords::new(), 2, message);
    }
    with_checksum(route, ICMP6, 2, message)
}

/// A transport message with the checksum, at `at`, of itself and of the pseudo-header.
fn with_checksum(route: Route, protocol: u8, at: usize, message: Vec<u8>) -> Vec<u8> {
    let sum = match (route.src, route.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            Sum16BitWords::new().add_4bytes(src.octets()).add_4bytes(dst.octets())
        }
        (src, dst) => {
            let bytes = |address: IpAddr| match address {
                IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
                IpAddr::V6(address) => address.octets(),
            };
            Sum16BitWords::new().add_16bytes(bytes(src)).add_16bytes(bytes(dst))
        }
    };
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    put_checksum(sum.add_2bytes([0, protocol]).add_2bytes(length.to_be_bytes()), at, message)
}

fn put_checksum(sum: Sum16BitWords, at: usize, mut message: Vec<u8>) -> Vec<u8> {
    let checksum = sum.add_slice(&message).ones_complement();
    // What etherparse returns lies as it is written.
    if let Some(place) = message.get_mut(at..at + 2) {
        place.copy_from_slice(&checksum.to_ne_bytes());
    }
    message
}
