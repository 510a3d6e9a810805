//! Packets drawn from few addresses and ports, so that they belong to each other: to the same connection, to the same
//! datagram, or one to the other that it quotes.

use std::net::IpAddr;

use arbitrary::Arbitrary;
use etherparse::{IpNumber, PacketBuilder, TcpHeader, UdpHeader};
use policy_common::Direction;
use sluice_oracle::Protocol;

const PORTS: [u16; 6] = [53, 80, 443, 8080, 40_000, 40_001];
const HOPS: u8 = 64;
const GRE: u8 = 47;

/// What a few bytes say of a packet.
#[derive(Arbitrary, Debug)]
pub struct Sent {
    ingress: bool,
    from_node: bool,
    v4: bool,
    remote: u8,
    local_port: u8,
    remote_port: u8,
    what: What,
}

#[derive(Arbitrary, Debug)]
enum What {
    Tcp(Flags),
    Udp,
    Sctp,
    Gre,
    Ping { answer: bool, id: bool },
    FirstFragment { id: bool },
    LaterFragment { id: bool },
    Error { quoted: Quoted },
}

#[derive(Arbitrary, Debug)]
enum Quoted {
    Tcp,
    Udp,
    Ping { id: bool },
}

/// Combinations that TCP has names for, and any other.
#[derive(Arbitrary, Debug)]
pub enum Flags {
    Syn,
    SynAck,
    Ack,
    FinAck,
    Rst,
    Any(u8),
}

/// A packet between the endpoint and a remote address.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    pub direction: Direction,
    pub from_node: bool,
    pub own: IpAddr,
    pub remote: IpAddr,
    pub content: Content,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Content {
    /// The pod's port and the other end's, and TCP's flags.
    Ports {
        protocol: Protocol,
        local: u16,
        remote: u16,
        flags: u8,
    },
    Gre,
    Ping {
        answer: bool,
        id: u16,
    },
    /// A UDP datagram's.
    First {
        id: u16,
        local: u16,
        remote: u16,
    },
    Later {
        id: u16,
    },
    /// An ICMP error about a packet that the other side sent: its content.
    Error(Quotation),
}

/// What an ICMP error quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Quotation {
    Ports { protocol: Protocol, local: u16, remote: u16 },
    Ping { id: u16 },
}

impl Sent {
    /// The packet, where the pod that is called `own` there has an address in its family, and isn't at both ends.
    pub fn packet(
        &self,
        own: impl Fn(bool) -> Option<IpAddr>,
        remote: impl Fn(bool, u8) -> Option<IpAddr>,
    ) -> Option<Packet> {
        let (own, remote) = (own(self.v4)?, remote(self.v4, self.remote)?);
        let port = |choice: u8| PORTS[usize::from(choice) % PORTS.len()];
        let (local, remote_port) = (port(self.local_port), port(self.remote_port));
        let ports = |protocol, flags| Content::Ports { protocol, local, remote: remote_port, flags };
        let content = match &self.what {
            What::Tcp(flags) => ports(Protocol::Tcp, flags.bits()),
            What::Udp => ports(Protocol::Udp, 0),
            What::Sctp => ports(Protocol::Sctp, 0),
            What::Gre => Content::Gre,
            What::Ping { answer, id } => Content::Ping { answer: *answer, id: u16::from(*id) },
            What::FirstFragment { id } => Content::First { id: u16::from(*id), local, remote: remote_port },
            What::LaterFragment { id } => Content::Later { id: u16::from(*id) },
            What::Error { quoted } => Content::Error(match quoted {
                Quoted::Tcp => Quotation::Ports { protocol: Protocol::Tcp, local, remote: remote_port },
                Quoted::Udp => Quotation::Ports { protocol: Protocol::Udp, local, remote: remote_port },
                Quoted::Ping { id } => Quotation::Ping { id: u16::from(*id) },
            }),
        };
        let direction = if self.ingress { Direction::Ingress } else { Direction::Egress };
        let packet = Packet { direction, from_node: self.ingress && self.from_node, own, remote, content };
        (own != remote).then_some(packet)
    }
}

impl Flags {
    const fn bits(&self) -> u8 {
        match *self {
            Self::Syn => 0x02,
            Self::SynAck => 0x12,
            Self::Ack => 0x10,
            Self::FinAck => 0x11,
            Self::Rst => 0x04,
            Self::Any(bits) => bits & 0x3f,
        }
    }
}

impl Packet {
    /// What the other side sends on the same connection.
    pub fn answer(&self, flags: &Flags) -> Self {
        let content = match self.content {
            Content::Ports { protocol, local, remote, .. } => {
                Content::Ports { protocol, local, remote, flags: flags.bits() }
            }
            Content::Ping { id, .. } => Content::Ping { answer: true, id },
            content => content,
        };
        Self { direction: self.direction.opposite(), from_node: false, content, ..*self }
    }

    /// The ICMP error that comes back for it; none for errors, and for what can't be quoted here.
    pub fn complaint(&self) -> Option<Self> {
        let quotation = match self.content {
            Content::Ports { protocol, local, remote, .. } => Quotation::Ports { protocol, local, remote },
            Content::First { local, remote, .. } => {
                Quotation::Ports { protocol: Protocol::Udp, local, remote }
            }
            Content::Ping { answer: false, id } => Quotation::Ping { id },
            _ => return None,
        };
        let direction = self.direction.opposite();
        Some(Self { direction, from_node: false, content: Content::Error(quotation), ..*self })
    }

    pub fn frame(&self) -> Vec<u8> {
        let (from, to) = match self.direction {
            Direction::Egress => (self.own, self.remote),
            Direction::Ingress => (self.remote, self.own),
        };
        match self.content {
            // Of the packet that went the other way.
            Content::Error(matter) => {
                let quoted =
                    ip(to, from, matter.protocol_number(to), &matter.header(to.is_ipv4(), self.direction));
                let start = if to.is_ipv4() { [3, 4, 0, 0, 0, 0, 5, 0] } else { [2, 0, 0, 0, 0, 0, 5, 0] };
                ip(from, to, icmp(from), &[&start[..], &quoted[14..]].concat())
            }
            Content::Ports { protocol, local, remote, flags } => {
                let (src, dst) = ports(self.direction, local, remote);
                ip(from, to, number(protocol), &segment(protocol, src, dst, flags))
            }
            Content::Gre => ip(from, to, GRE, &[0; 8]),
            Content::Ping { answer, id } => ip(from, to, icmp(from), &echo(from.is_ipv4(), answer, id)),
            Content::First { id, local, remote } => {
                let (src, dst) = ports(self.direction, local, remote);
                fragment(from, to, id, 0, &segment(Protocol::Udp, src, dst, 0))
            }
            Content::Later { id } => fragment(from, to, id, 1, &[0; 16]),
        }
    }
}

impl Quotation {
    fn protocol_number(self, family: IpAddr) -> u8 {
        match self {
            Self::Ports { protocol, .. } => number(protocol),
            Self::Ping { .. } => icmp(family),
        }
    }

    /// The header of a packet against `direction`.
    fn header(self, v4: bool, direction: Direction) -> Vec<u8> {
        match self {
            Self::Ports { protocol, local, remote } => {
                let (src, dst) = ports(direction.opposite(), local, remote);
                segment(protocol, src, dst, 0x10)
            }
            Self::Ping { id } => echo(v4, false, id),
        }
    }
}

const fn ports(direction: Direction, local: u16, remote: u16) -> (u16, u16) {
    match direction {
        Direction::Egress => (local, remote),
        Direction::Ingress => (remote, local),
    }
}

pub const fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
        Protocol::Icmp => 1,
    }
}

const fn icmp(family: IpAddr) -> u8 {
    if family.is_ipv4() { 1 } else { 58 }
}

fn echo(v4: bool, answer: bool, id: u16) -> Vec<u8> {
    let kind = match (v4, answer) {
        (true, false) => 8,
        (true, true) => 0,
        (false, false) => 128,
        (false, true) => 129,
    };
    let [high, low] = id.to_be_bytes();
    vec![kind, 0, 0, 0, high, low, 0, 1]
}

/// A transport header, and what must be behind it.
fn segment(protocol: Protocol, src: u16, dst: u16, flags: u8) -> Vec<u8> {
    let mut bytes = match protocol {
        Protocol::Tcp => TcpHeader::new(src, dst, 1, 1000).to_bytes().to_vec(),
        Protocol::Udp => {
            UdpHeader { source_port: src, destination_port: dst, length: 16, checksum: 0 }.to_bytes().to_vec()
        }
        _ => [&src.to_be_bytes()[..], &dst.to_be_bytes(), &[0; 12]].concat(),
    };
    if protocol == Protocol::Tcp {
        bytes[13] = flags;
    }
    bytes.extend([0; 8]);
    bytes
}

fn ip(from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let link = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let step = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => link.ipv4(from.octets(), to.octets(), HOPS),
        (IpAddr::V6(from), IpAddr::V6(to)) => link.ipv6(from.octets(), to.octets(), HOPS),
        _ => unreachable!("both addresses of a packet are of one family"),
    };
    let mut bytes = Vec::new();
    step.write(&mut bytes, IpNumber(protocol), payload).expect("a vector takes everything");
    bytes
}

/// A fragment of a UDP datagram: the first one, or one eight bytes further on.
fn fragment(from: IpAddr, to: IpAddr, id: u16, offset: u16, payload: &[u8]) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    let more = u16::from(offset == 0);
    if from.is_ipv4() {
        let mut frame = ip(from, to, number(Protocol::Udp), payload);
        frame[18..20].copy_from_slice(&[high, low]);
        frame[20..22].copy_from_slice(&(more << 13 | offset).to_be_bytes());
        return frame;
    }
    let place = (offset << 3 | more).to_be_bytes();
    let header = [number(Protocol::Udp), 0, place[0], place[1], 0, 0, high, low];
    let mut frame = ip(from, to, 59, &[&header[..], payload].concat());
    // The builder takes no extension header that it did not make itself.
    frame[20] = 44;
    frame
}

/// Writes addresses where the frame's ethertype has them: the pod's, and the other end's.
pub fn put_addresses(frame: &mut [u8], direction: Direction, own: Option<IpAddr>, remote: Option<IpAddr>) {
    let (src, dst) = match frame.get(12..14) {
        Some([0x08, 0x00]) => (26, 30),
        Some([0x86, 0xdd]) => (22, 38),
        // The sender's and the target's address.
        Some([0x08, 0x06]) => (28, 38),
        _ => return,
    };
    let (own_at, remote_at) = if direction == Direction::Egress { (src, dst) } else { (dst, src) };
    for (at, address) in [(own_at, own), (remote_at, remote)] {
        let octets = match address {
            Some(IpAddr::V4(v4)) => v4.octets().to_vec(),
            Some(IpAddr::V6(v6)) => v6.octets().to_vec(),
            None => continue,
        };
        if let Some(place) = frame.get_mut(at..at + octets.len()) {
            place.copy_from_slice(&octets);
        }
    }
}

/// Whether the frame's ethertype says IPv4 or ARP, or IPv6.
pub fn is_v4(frame: &[u8]) -> Option<bool> {
    match frame.get(12..14) {
        Some([0x08, 0x00 | 0x06]) => Some(true),
        Some([0x86, 0xdd]) => Some(false),
        _ => None,
    }
}
