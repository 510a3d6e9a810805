//! Any bytes as a frame, at an endpoint that remembers no connection: nothing panics, nothing passes that the oracle
//! denies, and an ordinary packet that it allows is not lost.
//!
//! What an isolated pod may send and get beside policy's connections is in SEMANTICS rows 36, 39, 56 and 58 and the last
//! section. Only one question is left open here: what comes to a pod under its own address, which the oracle takes for
//! the pod itself (row 39).

use std::net::{IpAddr, Ipv6Addr};

use policy_common::parse::Scratch;
use policy_common::{Arrival, Direction, Slice, decide};

use super::Tally;
use super::setting::{Setting, Subject};
use super::wire::{self, Content, Packet, Part, Reading};
use crate::packet::{is_v4, put_addresses};

/// Bytes in front of the frame: setting, endpoint, how it arrives, remote address.
const HEAD: usize = 4;

pub(super) fn run(input: &[u8]) -> Tally {
    let mut tally = Tally::default();
    let Some(([setting, endpoint, how, remote], frame)) = input.split_first_chunk::<HEAD>() else {
        return tally;
    };
    let setting = Setting::chosen(*setting);
    let Some(subject) = setting.subject(*endpoint) else { return tally };
    let how = How::from(*how);
    let mut frame = frame.to_vec();
    how.fill_in(&mut frame, &setting, &subject, *remote);
    let arrival = Arrival { ifindex: subject.ifindex(), direction: how.direction, from_node: how.from_node };
    setting.start_afresh();
    let verdict =
        setting.with_memory(|memory| decide(&Slice(&frame), memory, &arrival, &mut Scratch::EMPTY.clone()));
    tally.count(verdict);
    let reading = wire::read(&frame);
    let well_formed = wire::is_well_formed(&frame, &reading);
    if !subject.is_isolated() {
        // Free to do anything but pass for another.
        let free = !verdict.is_pass() || !impersonates(&reading, &subject, arrival.direction);
        assert!(free, "{verdict:?}: {reading:?} at {arrival:?}, {frame:02x?}");
        return tally;
    }
    let judged = judge(&reading, &subject, &arrival);
    let right = match judged {
        Judgement::Either => true,
        Judgement::Deny => !verdict.is_pass(),
        // What is odd about a packet may be a reason to drop it; an ordinary one must get through.
        Judgement::Allow => verdict.is_pass() || !well_formed || is_odd(&reading),
    };
    assert!(right, "{verdict:?}, but it is {judged:?}: {reading:?} at {arrival:?}, {frame:02x?}");
    tally
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judgement {
    Allow,
    Deny,
    Either,
}

impl From<bool> for Judgement {
    fn from(allow: bool) -> Self {
        if allow { Self::Allow } else { Self::Deny }
    }
}

/// The frame's way, and which of its fields are filled in: bytes alone would seldom find a pod's address.
#[derive(Clone, Copy)]
struct How {
    direction: Direction,
    from_node: bool,
    /// The pod sends as somebody else.
    impersonates: bool,
    own: bool,
    remote: bool,
    ethertype: Option<[u8; 2]>,
}

impl From<u8> for How {
    fn from(byte: u8) -> Self {
        let direction = if byte & 1 == 0 { Direction::Ingress } else { Direction::Egress };
        Self {
            direction,
            from_node: direction == Direction::Ingress && byte & 0x0e == 0x0e,
            impersonates: direction == Direction::Egress && byte & 0x0e == 0x0e,
            own: byte & 0x10 != 0,
            remote: byte & 0x20 != 0,
            ethertype: [None, Some([8, 0]), Some([0x86, 0xdd]), Some([8, 6])][usize::from(byte >> 6)],
        }
    }
}

impl How {
    fn fill_in(self, frame: &mut [u8], setting: &Setting, subject: &Subject<'_>, remote: u8) {
        if let (Some(ethertype), Some(place)) = (self.ethertype, frame.get_mut(12..14)) {
            place.copy_from_slice(&ethertype);
        }
        let Some(v4) = is_v4(frame) else { return };
        let own = match self.impersonates {
            true => Some(setting.remote(v4, remote.wrapping_add(1))),
            false => subject.address(v4).filter(|_| self.own),
        };
        let remote = self.remote.then(|| setting.remote(v4, remote));
        put_addresses(frame, self.direction, own, remote);
    }
}

fn judge(reading: &Reading, subject: &Subject<'_>, arrival: &Arrival) -> Judgement {
    match reading {
        Reading::Unreadable => Judgement::Deny,
        // Another's address is nobody's to announce.
        Reading::Arp(sender) => {
            // A probe (RFC 5227) claims its target, which is not read here.
            if sender.is_unspecified() {
                return Judgement::Either;
            }
            (arrival.direction == Direction::Ingress || may_send_from(subject, IpAddr::V4(*sender))).into()
        }
        Reading::Ip(packet) => judge_ip(packet, subject, arrival),
    }
}

fn judge_ip(packet: &Packet, subject: &Subject<'_>, arrival: &Arrival) -> Judgement {
    let egress = arrival.direction == Direction::Egress;
    if egress && !may_send_from(subject, packet.src) {
        return Judgement::Deny;
    }
    // Whose first fragment nobody has seen.
    if packet.part == Part::Later {
        return if egress && is_own(subject, packet.dst) { Judgement::Either } else { Judgement::Deny };
    }
    if let Some(judged) = neighbourhood(packet, subject, egress) {
        return judged;
    }
    let remote = if egress { packet.dst } else { packet.src };
    if is_own(subject, remote) {
        // To itself always; what comes from "itself" is somebody else's, and no question for the oracle.
        return if egress { Judgement::Allow } else { Judgement::Either };
    }
    if arrival.from_node {
        return Judgement::Allow;
    }
    let (protocol, port) = packet.content.protocol();
    subject.allows(arrival.direction, remote, protocol, port).into()
}

/// Neighbour discovery (RFC 4861) and multicast listener discovery (RFC 3810): `None` where the packet is neither.
fn neighbourhood(packet: &Packet, subject: &Subject<'_>, egress: bool) -> Option<Judgement> {
    let (IpAddr::V6(src), Content::Icmp { kind, target }) = (packet.src, packet.content) else { return None };
    match kind {
        133..=137 if packet.hop_limit != 255 => Some(Judgement::Deny),
        // Routers are the node's business.
        134 | 137 if egress => Some(Judgement::Deny),
        // One that ends before its target is taken by nobody (RFC 4861 sections 7.1.1 and 7.1.2).
        135 | 136 if target.is_none() => Some(Judgement::Deny),
        136 if egress && target.is_some_and(|target| !may_send_from(subject, target.into())) => {
            Some(Judgement::Deny)
        }
        // Duplicate address detection claims its target (RFC 4862 section 5.4.3).
        135 if egress
            && src.is_unspecified()
            && target.is_some_and(|target| !may_send_from(subject, target.into())) =>
        {
            Some(Judgement::Deny)
        }
        // What a node would route is no neighbour discovery.
        133..=137 if egress && !is_on_link(packet.dst, subject) => None,
        133..=137 => Some(Judgement::Allow),
        // MLD that is not as RFC 3810 says is ICMPv6 like any other.
        130..=132 | 143 if packet.hop_limit == 1 && (is_link_local(src) || src.is_unspecified()) => {
            Some(Judgement::Allow)
        }
        _ => None,
    }
}

/// Whether the pod sends from an address that isn't its own, although it has one, and somebody would take it.
fn impersonates(reading: &Reading, subject: &Subject<'_>, direction: Direction) -> bool {
    match reading {
        Reading::Ip(packet) if direction == Direction::Egress => !may_send_from(subject, packet.src),
        _ => false,
    }
}

/// The pod's own addresses, and those that never leave the link: a pod without an address asks for one under them.
fn may_send_from(subject: &Subject<'_>, address: IpAddr) -> bool {
    let link = match address {
        IpAddr::V4(v4) => v4.is_unspecified() || (v4.is_link_local() && subject.address(true).is_none()),
        IpAddr::V6(v6) => is_link_local(v6) || v6.is_unspecified(),
    };
    link || is_own(subject, address)
}

/// Link-local, a group of the link, or the pod's own subnet.
fn is_on_link(address: IpAddr, subject: &Subject<'_>) -> bool {
    let IpAddr::V6(address) = address else { return false };
    let own = match subject.address(false) {
        Some(IpAddr::V6(own)) => own.segments(),
        _ => [0; 8],
    };
    is_link_local(address) || address.segments()[0] == 0xff02 || address.segments()[..4] == own[..4]
}

fn is_link_local(address: Ipv6Addr) -> bool {
    address.segments()[0] & 0xffc0 == 0xfe80
}

fn is_own(subject: &Subject<'_>, address: IpAddr) -> bool {
    subject.address(address.is_ipv4()) == Some(address)
}

/// What no ordinary host sends or expects: dropping it is nobody's loss, whatever policy says.
fn is_odd(reading: &Reading) -> bool {
    let ordinary = |address: IpAddr| match address {
        IpAddr::V4(v4) => {
            !(v4.is_multicast()
                || v4.is_broadcast()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.octets()[0] == 0)
        }
        IpAddr::V6(v6) => {
            !(v6.is_multicast() || v6.is_loopback() || v6.is_unspecified() || is_link_local(v6))
        }
    };
    match reading {
        Reading::Ip(packet) => {
            packet.extended
                || !ordinary(packet.src)
                || !ordinary(packet.dst)
                // Errors and answers belong to connections, and there are none.
                || matches!(packet.content, Content::Icmp { kind, .. } if kind != if packet.src.is_ipv4() { 8 } else { 128 })
        }
        _ => true,
    }
}
