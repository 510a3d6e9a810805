//! From the bytes of a frame to what a verdict needs. Nothing is allowed here: what cannot be parsed is an error with
//! its drop reason, and the caller closes.

use core::sync::atomic::{Ordering, compiler_fence};

use crate::maps::Words;
use crate::masquerade::Known;
use crate::packet::{Aligned, Packet};
use crate::reason::DropReason;
use crate::wire::Wire;

pub const ETHERNET: u32 = 14;
/// IPv6 extension headers that are walked: real chains have one or two (RFC 8504 lets a host bound them).
pub const MAX_EXTENSIONS: u32 = 6;

pub const ETHERTYPE_IPV4: u16 = 0x0800;
pub const ETHERTYPE_ARP: u16 = 0x0806;
pub const ETHERTYPE_IPV6: u16 = 0x86dd;

/// IANA protocol numbers.
pub mod protocol {
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const SCTP: u8 = 132;
    pub const ICMPV6: u8 = 58;
    pub const HOP_BY_HOP: u8 = 0;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const AUTHENTICATION: u8 = 51;
    pub const DESTINATION: u8 = 60;
}

pub mod tcp_flag {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const ACK: u8 = 0x10;
}

/// Where a datagram's bytes are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fragment {
    Whole,
    First,
    Later,
}

/// What stands behind the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Transport {
    /// A protocol without ports, or a later fragment.
    None,
    /// TCP, UDP or SCTP.
    Ports,
    /// ICMP or ICMPv6.
    Icmp,
}

/// What a verdict needs of one IP packet. Flat, and filled in place: BPF has 512 bytes of stack for everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Ip {
    pub src: Words,
    pub dst: Words,
    /// Identifies the datagram of a fragment.
    pub fragment_id: u32,
    /// Where the transport header begins in the frame.
    pub offset: u32,
    /// Where a fragment begins in its datagram, and where a first fragment ends: in units of eight bytes.
    pub fragment_at: u16,
    /// Ports, host byte order; an ICMP echo's identifier stands in `src_port`.
    pub src_port: u16,
    pub dst_port: u16,
    /// 4 or 6.
    pub family: u8,
    pub protocol: u8,
    pub hop_limit: u8,
    pub fragment: Fragment,
    pub transport: Transport,
    /// SCTP's chunks have them too: `sctp_flags`.
    pub tcp_flags: u8,
    pub icmp_kind: u8,
    /// To eight bytes.
    pub zero: [u8; 3],
}

impl Ip {
    pub const EMPTY: Self = Self {
        src: [0; 4],
        dst: [0; 4],
        fragment_id: 0,
        offset: 0,
        fragment_at: 0,
        src_port: 0,
        dst_port: 0,
        family: 0,
        protocol: 0,
        hop_limit: 0,
        fragment: Fragment::Whole,
        transport: Transport::None,
        tcp_flags: 0,
        icmp_kind: 0,
        zero: [0; 3],
    };

    /// Forgets the packet before. Addresses mean nothing where `family` is 0. One store for each eight bytes: of more at
    /// once the compiler makes a call that clears byte by byte.
    #[inline(always)]
    fn clear(&mut self) {
        self.fragment_id = 0;
        self.offset = 0;
        compiler_fence(Ordering::SeqCst);
        self.fragment_at = 0;
        self.src_port = 0;
        self.dst_port = 0;
        self.family = 0;
        self.protocol = 0;
        compiler_fence(Ordering::SeqCst);
        self.hop_limit = 0;
        self.fragment = Fragment::Whole;
        self.transport = Transport::None;
        self.tcp_flags = 0;
        self.icmp_kind = 0;
        self.zero = [0; 3];
    }

    #[inline(always)]
    pub const fn is_icmp(&self) -> bool {
        self.protocol == icmp_of(self.family)
    }
}

/// What the engine works in: the packet at hand, and the one that it quotes where it is an ICMP error. The caller's, so
/// that the kernel can keep it off the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Scratch {
    pub ip: Ip,
    pub quoted: Ip,
    pub wire: Wire,
    pub known: Known,
}

impl Scratch {
    pub const EMPTY: Self = Self { ip: Ip::EMPTY, quoted: Ip::EMPTY, wire: Wire::EMPTY, known: Known::EMPTY };
}

/// The ICMP of an address family; the other one's number is a protocol like any other.
#[inline(always)]
pub const fn icmp_of(family: u8) -> u8 {
    if family == 4 { protocol::ICMP } else { protocol::ICMPV6 }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Frame {
    Arp,
    Ip,
}

/// Fills `ip`, whatever was in it before; what it could read stays in it when it fails.
#[inline(always)]
pub fn parse<P: Packet>(packet: &P, ip: &mut Ip) -> Result<Frame, DropReason> {
    ip.clear();
    if packet.vlan() {
        return Err(DropReason::Vlan);
    }
    match packet.ethertype() {
        ETHERTYPE_IPV4 => parse_ipv4(packet, ETHERNET, ip)?,
        ETHERTYPE_IPV6 => parse_ipv6(packet, ETHERNET, ip)?,
        ETHERTYPE_ARP => return Ok(Frame::Arp),
        // 802.1Q, 802.1ad and the pre-standard QinQ number
        0x8100 | 0x88a8 | 0x9100 => return Err(DropReason::Vlan),
        _ => return Err(DropReason::EtherType),
    }
    Ok(Frame::Ip)
}

#[inline(always)]
fn parse_ipv4<P: Packet>(packet: &P, at: u32, ip: &mut Ip) -> Result<(), DropReason> {
    let header: Aligned<20> = packet.load(at).ok_or(DropReason::Truncated)?;
    let length = ipv4_header_length(&header)?;
    let total = u32::from(header.be16(2));
    // Zero: a GSO packet larger than the field (BIG TCP); the kernel's length is the truth then.
    if total != 0 && total < length {
        return Err(DropReason::BadHeader);
    }
    read_ipv4(&header, ip);
    let offset = header.be16(6);
    ip.fragment_id = u32::from(header.be16(4));
    ip.fragment = match (offset & 0x1fff, offset & 0x2000) {
        (0, 0) => Fragment::Whole,
        (0, _) => Fragment::First,
        _ => Fragment::Later,
    };
    ip.fragment_at = offset & 0x1fff;
    ip.offset = at + length;
    parse_transport(packet, if total == 0 { u32::MAX } else { at + total }, ip)
}

#[inline(always)]
fn read_ipv4(header: &Aligned<20>, ip: &mut Ip) {
    ip.family = 4;
    ip.src = [header.word(12), 0, 0, 0];
    ip.dst = [header.word(16), 0, 0, 0];
    ip.protocol = header.byte(9);
    ip.hop_limit = header.byte(8);
}

#[inline(always)]
fn ipv4_header_length(header: &Aligned<20>) -> Result<u32, DropReason> {
    let first = header.byte(0);
    let length = u32::from(first & 0x0f) * 4;
    if first >> 4 != 4 || length < 20 { Err(DropReason::BadHeader) } else { Ok(length) }
}

/// A call of its own: its buffers would not fit beside the IPv4 path's.
#[inline(never)]
fn parse_ipv6<P: Packet>(packet: &P, at: u32, ip: &mut Ip) -> Result<(), DropReason> {
    let payload = read_ipv6(packet, at, ip)?;
    walk_extensions(packet, ip)?;
    // Zero: a jumbogram or a GSO packet larger than the field.
    parse_transport(packet, if payload == 0 { u32::MAX } else { at + 40 + payload }, ip)
}

/// The fixed header; returns the payload's length.
#[inline(always)]
fn read_ipv6<P: Packet>(packet: &P, at: u32, ip: &mut Ip) -> Result<u32, DropReason> {
    let header: Aligned<40> = packet.load(at).ok_or(DropReason::Truncated)?;
    if header.byte(0) >> 4 != 6 {
        return Err(DropReason::BadHeader);
    }
    ip.family = 6;
    ip.src = [header.word(8), header.word(12), header.word(16), header.word(20)];
    ip.dst = [header.word(24), header.word(28), header.word(32), header.word(36)];
    ip.protocol = header.byte(6);
    ip.hop_limit = header.byte(7);
    ip.offset = at + 40;
    Ok(u32::from(header.be16(4)))
}

/// An IPv6 extension header that is walked.
#[inline(always)]
pub const fn is_extension(next_header: u8) -> bool {
    matches!(
        next_header,
        protocol::HOP_BY_HOP
            | protocol::ROUTING
            | protocol::DESTINATION
            | protocol::AUTHENTICATION
            | protocol::FRAGMENT
    )
}

/// To the first header that is no extension (RFC 8200 section 4), or to the end of a later fragment's headers.
#[inline(always)]
fn walk_extensions<P: Packet>(packet: &P, ip: &mut Ip) -> Result<(), DropReason> {
    let mut fragmented = false;
    for _ in 0..=MAX_EXTENSIONS {
        let kind = ip.protocol;
        if !is_extension(kind) {
            return Ok(());
        }
        let header: Aligned<8> = packet.load(ip.offset).ok_or(DropReason::Truncated)?;
        ip.protocol = header.byte(0);
        let words = u32::from(header.byte(1));
        ip.offset += match kind {
            protocol::FRAGMENT => 8,
            // RFC 4302: its length counts four-byte units.
            protocol::AUTHENTICATION => (words + 2) * 4,
            _ => (words + 1) * 8,
        };
        if kind == protocol::FRAGMENT {
            // A second one would be judged by its own identification, and followed by the first's.
            if fragmented {
                return Err(DropReason::ExtensionChain);
            }
            fragmented = true;
            let offset = header.be16(2);
            ip.fragment_id = u32::from_be(header.word(4));
            ip.fragment_at = offset >> 3;
            if offset & 0xfff8 != 0 {
                ip.fragment = Fragment::Later;
                return Ok(());
            }
            // Without more to come it is an atomic fragment (RFC 6946): whole.
            if offset & 1 != 0 {
                ip.fragment = Fragment::First;
            }
        }
    }
    Err(DropReason::ExtensionChain)
}

#[inline(always)]
fn parse_transport<P: Packet>(packet: &P, end: u32, ip: &mut Ip) -> Result<(), DropReason> {
    if matches!(ip.fragment, Fragment::Later) {
        return Ok(());
    }
    let short = match ip.fragment {
        Fragment::First => DropReason::FragmentShort,
        _ => DropReason::Truncated,
    };
    let icmp = ip.is_icmp();
    if matches!(ip.fragment, Fragment::First) {
        ip.fragment_at = first_fragment_end(ip.offset, end)?;
    }
    // The smallest header of the protocol must be there in full, or the receiver sees another one than we do.
    let need = match ip.protocol {
        protocol::TCP => 20,
        protocol::UDP => 8,
        protocol::SCTP => 12,
        _ if icmp => 8,
        _ => return Ok(()),
    };
    let at = ip.offset;
    if at + need > end || at + need > packet.len() {
        return Err(short);
    }
    if ip.protocol == protocol::TCP {
        let header: Aligned<16> = packet.load(at).ok_or(short)?;
        ip.transport = Transport::Ports;
        ip.src_port = header.be16(0);
        ip.dst_port = header.be16(2);
        ip.tcp_flags = header.byte(13);
        return Ok(());
    }
    let header: Aligned<8> = packet.load(at).ok_or(short)?;
    read_datagram(&header, icmp, ip);
    if ip.protocol == protocol::SCTP {
        // Without a chunk it opens nothing and ends nothing.
        let chunk: Option<Aligned<4>> = if at + 16 > end { None } else { packet.load(at + 12) };
        ip.tcp_flags = chunk.map_or(tcp_flag::ACK, |chunk| sctp_flags(chunk.byte(0)));
    }
    // Neighbour solicitation and advertisement name their target in sixteen bytes more (RFC 4861 sections 4.3, 4.4).
    if icmp
        && ip.family == 6
        && matches!(ip.icmp_kind, 135 | 136)
        && (at + 24 > end || at + 24 > packet.len())
    {
        return Err(short);
    }
    Ok(())
}

/// What a first chunk means for the association, in the flags of TCP. INIT, INIT ACK and SHUTDOWN COMPLETE stand alone
/// in their packets (RFC 9260 section 6.10); ABORT may stand behind others, which then is not seen.
#[inline(always)]
const fn sctp_flags(chunk: u8) -> u8 {
    match chunk {
        1 => tcp_flag::SYN,
        2 => tcp_flag::SYN | tcp_flag::ACK,
        6 => tcp_flag::RST,
        // SHUTDOWN, SHUTDOWN ACK, SHUTDOWN COMPLETE
        7 | 8 | 14 => tcp_flag::FIN | tcp_flag::ACK,
        _ => tcp_flag::ACK,
    }
}

/// Fragments but the last are whole units of eight bytes (RFC 791, RFC 8200 section 4.5); Linux cuts off what is over.
#[inline(always)]
fn first_fragment_end(at: u32, end: u32) -> Result<u16, DropReason> {
    let length = end.saturating_sub(at);
    if length > 0xffff {
        return Err(DropReason::BadHeader);
    }
    #[expect(clippy::cast_possible_truncation, reason = "at most 8191")]
    let units = (length / 8) as u16;
    Ok(units)
}

/// The first eight bytes of anything but TCP.
#[inline(always)]
fn read_datagram(header: &Aligned<8>, icmp: bool, ip: &mut Ip) {
    if icmp {
        ip.transport = Transport::Icmp;
        ip.icmp_kind = header.byte(0);
        ip.src_port = header.be16(4);
    } else {
        ip.transport = Transport::Ports;
        ip.src_port = header.be16(0);
        ip.dst_port = header.be16(2);
    }
}

/// The packet that an ICMP error quotes: the start of one that the error's receiver sent (RFC 792, RFC 4443). Eight
/// bytes of its transport header are promised, so that is all that is read. `offset` is where the ICMP message begins.
/// Returns whether it names a flow: not where it is too short, or a later fragment. A call of its own: its buffers and
/// what is done with the result would not fit on one stack.
#[inline(never)]
pub fn parse_quoted<P: Packet>(packet: &P, offset: u32, family: u8, ip: &mut Ip) -> bool {
    read_quoted(packet, offset, family, ip).is_some()
}

#[inline(always)]
fn read_quoted<P: Packet>(packet: &P, offset: u32, family: u8, ip: &mut Ip) -> Option<()> {
    ip.clear();
    let at = offset + 8;
    if family == 4 {
        let header: Aligned<20> = packet.load(at)?;
        let length = ipv4_header_length(&header).ok()?;
        if header.be16(6) & 0x1fff != 0 {
            return None;
        }
        read_ipv4(&header, ip);
        ip.offset = at + length;
    } else {
        read_ipv6(packet, at, ip).ok()?;
        walk_extensions(packet, ip).ok()?;
        if matches!(ip.fragment, Fragment::Later) {
            return None;
        }
    }
    let icmp = ip.is_icmp();
    if icmp || matches!(ip.protocol, protocol::TCP | protocol::UDP | protocol::SCTP) {
        read_datagram(&packet.load(ip.offset)?, icmp, ip);
    }
    Some(())
}
