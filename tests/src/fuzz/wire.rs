//! A frame as the RFCs read it: slow, plain, and without a line of the engine's parser. Where etherparse can read a frame
//! as well, the two must say the same.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use sluice_oracle::Protocol;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// No packet whose ends and ports could be told: an isolated pod neither gets nor sends it.
    Unreadable,
    /// The address that the sender claims (RFC 826).
    Arp(Ipv4Addr),
    Ip(Packet),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
    pub(super) hop_limit: u8,
    /// Has options or extension headers.
    pub(super) extended: bool,
    pub(super) part: Part,
    pub(super) content: Content,
}

/// Which part of a datagram the packet is (RFC 791 section 2.3, RFC 8200 section 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Whole,
    First,
    Later,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// The destination's port is what policy asks for.
    Ports(Protocol, u16),
    /// ICMP of the packet's own family; the target of neighbour discovery, where the message is that long.
    Icmp {
        kind: u8,
        target: Option<Ipv6Addr>,
    },
    Other,
    /// The rest of a datagram, whatever it is.
    Rest,
}

impl Content {
    /// What the oracle calls it: everything without ports is one protocol to policy (row 56).
    pub(super) const fn protocol(self) -> (Protocol, u16) {
        match self {
            Self::Ports(protocol, port) => (protocol, port),
            _ => (Protocol::Icmp, 0),
        }
    }
}

pub(super) fn read(frame: &[u8]) -> Reading {
    let packet = frame.get(14..).unwrap_or_default();
    match frame.get(12..14) {
        Some([0x08, 0x00]) => ipv4(packet).map_or(Reading::Unreadable, Reading::Ip),
        Some([0x86, 0xdd]) => ipv6(packet).map_or(Reading::Unreadable, Reading::Ip),
        Some([0x08, 0x06]) => bytes::<4>(packet, 14).map_or(Reading::Unreadable, |a| Reading::Arp(a.into())),
        _ => Reading::Unreadable,
    }
}

fn bytes<const N: usize>(data: &[u8], at: usize) -> Option<[u8; N]> {
    data.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn be16(data: &[u8], at: usize) -> Option<u16> {
    bytes(data, at).map(u16::from_be_bytes)
}

/// What the header says there is, as far as the frame has it. A length of zero is a packet larger than the field (Linux's
/// BIG TCP, RFC 2675): all of the frame.
fn announced(data: &[u8], length: usize) -> &[u8] {
    if length == 0 { data } else { data.get(..length).unwrap_or(data) }
}

fn ipv4(data: &[u8]) -> Option<Packet> {
    let first = *data.first()?;
    let (version, header) = (first >> 4, usize::from(first & 15) * 4);
    let total = usize::from(be16(data, 2)?);
    if version != 4 || header < 20 || (total != 0 && total < header) {
        return None;
    }
    let fragment = be16(data, 6)?;
    let part = match (fragment & 0x1fff, fragment & 0x2000) {
        (0, 0) => Part::Whole,
        (0, _) => Part::First,
        _ => Part::Later,
    };
    let protocol = *data.get(9)?;
    let src = Ipv4Addr::from(bytes::<4>(data, 12)?);
    let dst = Ipv4Addr::from(bytes::<4>(data, 16)?);
    let payload = announced(data, total).get(header..);
    Some(Packet {
        src: src.into(),
        dst: dst.into(),
        hop_limit: *data.get(8)?,
        extended: header > 20,
        part,
        content: content(payload, protocol, 1, part)?,
    })
}

fn ipv6(data: &[u8]) -> Option<Packet> {
    if data.first()? >> 4 != 6 {
        return None;
    }
    let src = Ipv6Addr::from(bytes::<16>(data, 8)?);
    let dst = Ipv6Addr::from(bytes::<16>(data, 24)?);
    let length = usize::from(be16(data, 4)?);
    let all = data.get(40..)?;
    let payload = announced(all, length);
    let (mut next, mut at, mut part, mut extended) = (*data.get(6)?, 0_usize, Part::Whole, false);
    // Hop-by-hop, routing, fragment, authentication and destination options (RFC 8200 section 4.1).
    while matches!(next, 0 | 43 | 44 | 51 | 60) && part != Part::Later {
        let header: [u8; 8] = bytes(all, at)?;
        let words = usize::from(header[1]);
        at += match next {
            44 => 8,
            51 => (words + 2) * 4,
            _ => (words + 1) * 8,
        };
        if next == 44 {
            let fragment = u16::from_be_bytes([header[2], header[3]]);
            if fragment >> 3 != 0 {
                part = Part::Later;
            } else if fragment & 1 != 0 {
                part = Part::First;
            }
        }
        next = header[0];
        extended = true;
    }
    Some(Packet {
        src: src.into(),
        dst: dst.into(),
        hop_limit: *data.get(7)?,
        extended,
        part,
        content: content(payload.get(at..), next, 58, part)?,
    })
}

/// `None` where a header that names ports isn't there in full. Behind the headers of a protocol without ports nothing is
/// judged, so that it makes no difference what is missing there.
fn content(payload: Option<&[u8]>, protocol: u8, icmp: u8, part: Part) -> Option<Content> {
    if part == Part::Later {
        return Some(Content::Rest);
    }
    let (with_ports, header) = match protocol {
        6 => (Protocol::Tcp, 20),
        17 => (Protocol::Udp, 8),
        132 => (Protocol::Sctp, 12),
        _ if protocol == icmp => {
            let message = payload.filter(|message| message.len() >= 8)?;
            let target = bytes::<16>(message, 8).map(Ipv6Addr::from);
            return Some(Content::Icmp { kind: message[0], target });
        }
        _ => return Some(Content::Other),
    };
    let segment = payload.filter(|segment| segment.len() >= header)?;
    Some(Content::Ports(with_ports, be16(segment, 2)?))
}

/// Whether etherparse, which accepts only what is right to the last byte, takes the frame for one ordinary packet. It must
/// then have read the same as we did.
pub(super) fn is_well_formed(frame: &[u8], reading: &Reading) -> bool {
    let Ok(sliced) = SlicedPacket::from_ethernet(frame) else { return false };
    let (src, dst): (IpAddr, IpAddr) = match &sliced.net {
        Some(NetSlice::Ipv4(ip)) if ip.extensions().auth.is_none() => {
            (ip.header().source_addr().into(), ip.header().destination_addr().into())
        }
        Some(NetSlice::Ipv6(ip)) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        _ => return false,
    };
    if !sliced.link_exts.is_empty() {
        return false;
    }
    // It knows nothing of SCTP, whose header may be cut.
    let complete = sliced.transport.is_some();
    assert!(!complete || matches!(reading, Reading::Ip(_)), "etherparse reads {sliced:?}, we {reading:?}");
    let Reading::Ip(packet) = reading else { return false };
    assert_eq!((src, dst), (packet.src, packet.dst), "etherparse reads {sliced:?}");
    let content = match &sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => Content::Ports(Protocol::Tcp, tcp.destination_port()),
        Some(TransportSlice::Udp(udp)) => Content::Ports(Protocol::Udp, udp.destination_port()),
        _ => return packet.part == Part::Whole,
    };
    assert_eq!(content, packet.content, "etherparse reads {sliced:?}");
    packet.part == Part::Whole
}
