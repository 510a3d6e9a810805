//! Writing a translation into its packet, with the checksums that depend on it (RFC 1624: by what has changed).

use crate::maps::Words;
use crate::packet::{Aligned, Packet};
use crate::parse::{ETHERNET, Fragment, Ip, Scratch, Transport, protocol};
use crate::sctp;
use crate::wire::{self, Wire};

/// A frame that can be written.
pub trait PacketMut: Packet {
    /// Returns whether it could be written. Checksums are the caller's business.
    fn store<const N: usize>(&mut self, offset: u32, bytes: &Aligned<N>) -> bool;

    /// Brings an IPv4 header's checksum to what a change of `difference` makes of it.
    fn correct_header(&mut self, offset: u32, difference: u32) -> bool;

    /// The same for the checksum of a transport header.
    fn correct(&mut self, offset: u32, difference: u32, how: Correction) -> bool;
}

/// What a transport checksum is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Correction {
    /// What has changed is part of the pseudo header: also where the rest is left to the network card.
    pub pseudo_header: bool,
    /// That of IPv6.
    pub ipv6: bool,
    /// Zero means that there is none, and none is made: UDP.
    pub optional: bool,
}

/// Writes what `scratch.wire` says. What could not be written must not pass.
#[inline(always)]
pub fn rewrite<P: PacketMut>(packet: &mut P, scratch: &Scratch) -> bool {
    let Scratch { ip, quoted, wire, .. } = scratch;
    let v4 = ip.family == 4;
    let addresses = if v4 { addresses_v4(packet, wire) } else { addresses_v6(packet, wire) };
    let Some(addresses) = addresses else { return false };
    match ip.transport {
        Transport::Ports => ports(packet, ip, wire, addresses),
        Transport::Icmp => {
            let at = ip.offset + 2;
            // ICMP has no pseudo header, ICMPv6 has one.
            let outer = Correction { pseudo_header: true, ipv6: true, optional: false };
            if !v4 && !packet.correct(at, addresses, outer) {
                return false;
            }
            quotation(packet, ip, quoted, wire, at)
        }
        Transport::None => true,
    }
}

#[inline(always)]
fn addresses_v4<P: PacketMut>(packet: &mut P, wire: &Wire) -> Option<u32> {
    let at = ETHERNET + 12;
    let old: Aligned<8> = packet.load(at)?;
    let (src, dst) = (wire.src[0], wire.dst[0]);
    let difference = add(change(old.word(0), src), change(old.word(4), dst));
    let mut new = Aligned([0; 8]);
    new.set_word(0, src);
    new.set_word(4, dst);
    (packet.store(at, &new) && packet.correct_header(ETHERNET + 10, difference)).then_some(difference)
}

/// IPv6 has no checksum of its own.
#[inline(always)]
fn addresses_v6<P: PacketMut>(packet: &mut P, wire: &Wire) -> Option<u32> {
    let src = store_v6(packet, ETHERNET + 8, &wire.src)?;
    Some(add(src, store_v6(packet, ETHERNET + 24, &wire.dst)?))
}

#[inline(always)]
fn store_v6<P: PacketMut>(packet: &mut P, at: u32, address: &Words) -> Option<u32> {
    let old: Aligned<16> = packet.load(at)?;
    let mut new = Aligned([0; 16]);
    let (mut difference, mut word) = (0, 0);
    while word < 4 {
        difference = add(difference, change(old.word(word * 4), address[word]));
        new.set_word(word * 4, address[word]);
        word += 1;
    }
    packet.store(at, &new).then_some(difference)
}

#[inline(always)]
fn ports<P: PacketMut>(packet: &mut P, ip: &Ip, wire: &Wire, addresses: u32) -> bool {
    let Some(old) = packet.load::<4>(ip.offset) else { return false };
    let mut new = Aligned([0; 4]);
    new.set_word(0, u32::from(wire.src_port.to_be()) | u32::from(wire.dst_port.to_be()) << 16);
    #[cfg(target_endian = "big")]
    compile_error!("ports are put into a word in little-endian order");
    let ports = change(old.word(0), new.word(0));
    if ip.protocol == protocol::SCTP {
        return (old.word(0) == new.word(0) || sctp_checksum(packet, ip, old.word(0) ^ new.word(0)))
            && packet.store(ip.offset, &new);
    }
    let udp = ip.protocol == protocol::UDP;
    let at = ip.offset + if udp { 6 } else { 16 };
    let of = |pseudo_header| Correction { pseudo_header, ipv6: ip.family == 6, optional: udp };
    packet.store(ip.offset, &new)
        && packet.correct(at, addresses, of(true))
        && packet.correct(at, ports, of(false))
}

/// It covers the whole packet, of which a fragment shows a part. Zero: the network card makes it, or `veth` nobody.
#[inline(always)]
fn sctp_checksum<P: PacketMut>(packet: &mut P, ip: &Ip, ports: u32) -> bool {
    let Some(old) = packet.load::<4>(ip.offset + 8) else { return false };
    if old.word(0) == 0 {
        return true;
    }
    if !matches!(ip.fragment, Fragment::Whole) {
        return false;
    }
    let lengths = packet.load::<8>(ETHERNET);
    let Some(lengths) = lengths else { return false };
    let end =
        ETHERNET + if ip.family == 4 { u32::from(lengths.be16(2)) } else { 40 + u32::from(lengths.be16(4)) };
    let mut new = Aligned([0; 4]);
    new.set_word(0, old.word(0) ^ sctp::difference(ports, end.wrapping_sub(ip.offset)));
    packet.store(ip.offset + 8, &new)
}

/// The packet that an ICMP error quotes, where only eight bytes of a transport header are promised. That header's own
/// checksum stays: nobody looks at it.
#[inline(always)]
fn quotation<P: PacketMut>(packet: &mut P, ip: &Ip, quoted: &Ip, wire: &Wire, checksum: u32) -> bool {
    // What the pod sends quotes what it received, whose source is the other end.
    let by_pod = wire.changes == wire::SENT;
    let inner = ip.offset + 8;
    let v4 = ip.family == 4;
    let mut difference = 0;
    if v4 {
        let at = inner + if by_pod { 12 } else { 16 };
        let Some(old) = packet.load::<4>(at) else { return false };
        let mut new = Aligned([0; 4]);
        new.set_word(0, wire.quoted[0]);
        // The header's checksum makes good for its addresses: to the message around it nothing has changed.
        if !packet.store(at, &new) || !packet.correct_header(inner + 10, change(old.word(0), wire.quoted[0]))
        {
            return false;
        }
    } else {
        match store_v6(packet, inner + if by_pod { 8 } else { 24 }, &wire.quoted) {
            Some(changed) => difference = changed,
            None => return false,
        }
    }
    // Two ports fill a word.
    let Some(old) = packet.load::<4>(quoted.offset) else { return false };
    let port = wire.quoted_port.to_be_bytes();
    let bytes = if by_pod {
        [port[0], port[1], old.byte(2), old.byte(3)]
    } else {
        [old.byte(0), old.byte(1), port[0], port[1]]
    };
    let new = Aligned(bytes);
    difference = add(difference, change(old.word(0), new.word(0)));
    packet.store(quoted.offset, &new)
        && packet.correct(
            checksum,
            difference,
            Correction { pseudo_header: false, ipv6: !v4, optional: false },
        )
}

/// What a sum of ones' complements changes by when a word does.
#[inline(always)]
const fn change(old: u32, new: u32) -> u32 {
    add(!old, new)
}

#[inline(always)]
const fn add(a: u32, b: u32) -> u32 {
    let sum = a as u64 + b as u64;
    #[expect(clippy::cast_possible_truncation, reason = "the carry is put back in")]
    let folded = ((sum & 0xffff_ffff) + (sum >> 32)) as u32;
    folded
}

/// A checksum field, as it lies in memory, after a change.
pub const fn corrected(field: u16, difference: u32) -> u16 {
    let mut sum = add(difference, (!field) as u32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    #[expect(clippy::cast_possible_truncation, reason = "folded")]
    let folded = sum as u16;
    !folded
}
