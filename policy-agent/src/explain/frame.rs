//! The first packet of a connection.

use std::fmt;
use std::net::IpAddr;

use etherparse::{IpNumber, PacketBuilder};

use crate::model::Protocol;

/// What the connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportProtocol {
    Ports(Protocol, u16),
    /// ICMP or ICMPv6 echo: a protocol without ports.
    Icmp,
}

impl TransportProtocol {
    pub const fn port(self) -> Option<(Protocol, u16)> {
        match self {
            Self::Ports(protocol, port) => Some((protocol, port)),
            Self::Icmp => None,
        }
    }
}

impl fmt::Display for TransportProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ports(protocol, port) => write!(f, "{port}/{}", protocol.name()),
            Self::Icmp => f.write_str("ICMP"),
        }
    }
}

/// From `from` to `to`, which must be of one family; a frame of nothing but zeroes otherwise, which nothing allows.
pub fn frame(from: IpAddr, to: IpAddr, protocol: TransportProtocol) -> Vec<u8> {
    const SOURCE_PORT: u16 = 40_000;
    const HOPS: u8 = 64;
    let link = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let ip = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => link.ipv4(from.octets(), to.octets(), HOPS),
        (IpAddr::V6(from), IpAddr::V6(to)) => link.ipv6(from.octets(), to.octets(), HOPS),
        _ => return vec![0; 64],
    };
    let mut bytes = Vec::new();
    let written = match protocol {
        TransportProtocol::Ports(Protocol::Tcp, port) => {
            ip.tcp(SOURCE_PORT, port, 1, 64_240).syn().write(&mut bytes, &[])
        }
        TransportProtocol::Ports(Protocol::Udp, port) => ip.udp(SOURCE_PORT, port).write(&mut bytes, &[0; 8]),
        TransportProtocol::Ports(Protocol::Sctp, port) => {
            // RFC 9260: source port, destination port, verification tag, checksum, then an INIT chunk's first bytes.
            let mut packet = [0; 32];
            packet[..2].copy_from_slice(&SOURCE_PORT.to_be_bytes());
            packet[2..4].copy_from_slice(&port.to_be_bytes());
            packet[12] = 1;
            ip.write(&mut bytes, IpNumber::SCTP, &packet)
        }
        TransportProtocol::Icmp if from.is_ipv4() => ip.icmpv4_echo_request(7, 1).write(&mut bytes, &[0; 8]),
        TransportProtocol::Icmp => ip.icmpv6_echo_request(7, 1).write(&mut bytes, &[0; 8]),
    };
    match written {
        Ok(()) => bytes,
        Err(_) => vec![0; 64],
    }
}
