//! The decision: policy first, then connection tracking (DESIGN section 3).
//!
//! Reading order is part of the contract with the planner: an endpoint's sets are read before any class, so that a
//! packet in flight during an update sees the old verdict or the new one, never a third.
//!
//! What is off the hot path is a call of its own (`inline(never)`): BPF gives all frames of a call chain 512 bytes.

use crate::Direction;
use crate::maps::{Endpoint, Sets, Words, masked_bit};
use crate::packet::Packet;
use crate::parse::{self, Fragment, Frame, Ip, Scratch, Transport, protocol, tcp_flag};
use crate::policy::{Policy, is_own, source_key};
use crate::reason::{DropReason, PassReason, Verdict};
use crate::service::{self, outcome};
use crate::tables::Tables;
use crate::track::{Case, Question, is_fresh_syn, is_icmp_error};
use crate::wire::{self, Wire};

/// How a frame came to the hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The host end of the pod's veth.
    pub ifindex: u32,
    /// `Ingress` towards the pod.
    pub direction: Direction,
    /// The node itself originated it: at tc egress the kernel has recorded no ingress interface.
    pub from_node: bool,
}

/// The verdict on one frame. `scratch.ip` is filled as far as the frame could be parsed.
#[inline(always)]
pub fn decide<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    arrival: &Arrival,
    scratch: &mut Scratch,
) -> Verdict {
    let Some(endpoint) = tables.endpoint(arrival.ifindex) else {
        return Verdict::Drop(DropReason::NoEndpoint);
    };
    let Some(sets) = tables.sets(endpoint.slot) else {
        return Verdict::Drop(DropReason::Table);
    };
    let parsed = parse::parse(packet, &mut scratch.ip);
    scratch.wire.clear();
    if matches!(parsed, Ok(Frame::Ip))
        && service::concerns(&scratch.ip)
        && let Some(verdict) = services(packet, tables, endpoint, sets, arrival, scratch)
    {
        return verdict;
    }
    // Translating was done behind the compiler's back.
    let Scratch { ip, quoted, wire, .. } = core::hint::black_box(&mut *scratch);
    let judge = Judge { tables, endpoint, sets, arrival, ip, wire };
    let verdict = match parsed {
        Ok(Frame::Ip) => judge.ip(packet, quoted),
        Ok(Frame::Arp) => arp(packet, tables, endpoint, arrival),
        // As far as it was read, it may say already whose name it bears.
        Err(_) if judge.bears_foreign_name() => Verdict::Drop(DropReason::Spoofed),
        Err(reason) => Verdict::Drop(reason),
    };
    match verdict {
        // Nobody may pass for another, isolated or not.
        Verdict::Drop(DropReason::Spoofed | DropReason::RouterSpoof) => verdict,
        // Nor hide behind what is not read here: a receiver takes a priority tag off and walks the longest chain.
        Verdict::Drop(DropReason::Vlan | DropReason::ExtensionChain | DropReason::FragmentShort)
            if arrival.direction == Direction::Egress =>
        {
            verdict
        }
        Verdict::Drop(_) if sets.egress == 0 && sets.ingress == 0 => Verdict::Pass(PassReason::NotIsolated),
        Verdict::Pass(_)
            if scratch.wire.changes == wire::SENT
                && (scratch.wire.is_new != 0 || matches!(scratch.ip.fragment, Fragment::First))
                && tables.commit(arrival.ifindex, scratch) != 0 =>
        {
            Verdict::Drop(DropReason::Table)
        }
        Verdict::Drop(DropReason::Policy)
            if scratch.wire.changes == wire::SENT
                && (scratch.wire.is_new != 0 || scratch.ip.protocol == protocol::UDP) =>
        {
            let _ = tables.abandon(arrival.ifindex, scratch);
            verdict
        }
        Verdict::Pass(_) if scratch.wire.masked != 0 && scratch.wire.is_new != 0 => {
            // Where there is no room, an answer is judged by the node's address until the next packet comes.
            let _ = tables.remember(arrival.ifindex, scratch);
            verdict
        }
        verdict => verdict,
    }
}

/// Puts the endpoints of Services in the place of their addresses, where that is ours to do. A verdict where nothing is
/// left to judge.
#[inline(always)]
fn services<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    endpoint: &Endpoint,
    sets: Sets,
    arrival: &Arrival,
    scratch: &mut Scratch,
) -> Option<Verdict> {
    let ifindex = arrival.ifindex;
    let Scratch { ip, quoted, known, .. } = scratch;
    let is_error = matches!(ip.transport, Transport::Icmp);
    match arrival.direction {
        Direction::Egress => {
            let isolated = sets.egress != 0;
            let translates = tables.translates(ifindex);
            if !(isolated || translates != 0)
                || !(translates & masked_bit(&ip.dst) != 0 || tables.may_be_frontend(&ip.dst))
            {
                return None;
            }
            let judge = Judge { tables, endpoint, sets, arrival, ip, wire: &Wire::EMPTY };
            if judge.bears_foreign_name() {
                return Some(Verdict::Drop(DropReason::Spoofed));
            }
            if is_error && !parse::parse_quoted(packet, ip.offset, ip.family, quoted) {
                return None;
            }
            match tables.outbound(ifindex, isolated, scratch) {
                outcome::NO_ENDPOINT => Some(Verdict::Pass(PassReason::NoEndpoint)),
                outcome::CLOSED => Some(Verdict::Drop(DropReason::Service)),
                _ => None,
            }
        }
        Direction::Ingress => {
            let isolated = sets.egress != 0 || sets.ingress != 0;
            if isolated
                && !is_error
                && !arrival.from_node
                && packet.is_masqueraded(ip, known)
                && tables.unmask(ifindex, scratch) != 0
            {
                return None;
            }
            let Scratch { ip, quoted, .. } = scratch;
            if tables.translates(ifindex) != 0
                && (!is_error || parse::parse_quoted(packet, ip.offset, ip.family, quoted))
            {
                let _ = tables.inbound(ifindex, scratch);
            }
            None
        }
    }
}

/// ARP always works, but a pod speaks only for its own address (RFC 826), and a probe, which names no sender, claims its
/// target (RFC 5227).
#[inline(always)]
fn arp<P: Packet, T: Tables>(packet: &P, tables: &T, endpoint: &Endpoint, arrival: &Arrival) -> Verdict {
    // The sender's protocol address is at 14: the second half of one word and the first of the next.
    let Some(message) = packet.load::<28>(parse::ETHERNET) else {
        return Verdict::Drop(DropReason::Truncated);
    };
    let sender = (u32::from(message.be16(14)) << 16 | u32::from(message.be16(16))).to_be();
    let claimed = if sender == 0 { message.word(24) } else { sender };
    if arrival.direction == Direction::Egress
        && claimed != endpoint.v4.word()
        && !(endpoint.v4.word() == 0 && u32::from_be(claimed) >> 16 == LINK_LOCAL4)
        && !tables.is_extra_source(&source_key(arrival.ifindex, 4, &[claimed, 0, 0, 0]))
    {
        return Verdict::Drop(DropReason::Spoofed);
    }
    Verdict::Pass(PassReason::Neighbour)
}

/// The upper half of 169.254.0.0/16 (RFC 3927).
const LINK_LOCAL4: u32 = 0xa9fe;

struct Judge<'a, T: Tables> {
    tables: &'a T,
    endpoint: &'a Endpoint,
    sets: Sets,
    arrival: &'a Arrival,
    ip: &'a Ip,
    wire: &'a Wire,
}

impl<T: Tables> Judge<'_, T> {
    #[inline(always)]
    fn ip<P: Packet>(&self, packet: &P, quoted: &mut Ip) -> Verdict {
        let ip = self.ip;
        if matches!(ip.transport, Transport::Icmp)
            && ip.family == 6
            && let Some(verdict) = neighbour(ip, self.arrival.direction)
        {
            match verdict {
                Verdict::Drop(DropReason::RouterSpoof) => return verdict,
                _ if !self.speaks_for_itself(packet) => return Verdict::Drop(DropReason::Spoofed),
                Verdict::Pass(_) if !self.stays_on_link() => {}
                verdict => return verdict,
            }
        }
        if self.bears_foreign_name() {
            return Verdict::Drop(DropReason::Spoofed);
        }
        let remote = match self.arrival.direction {
            Direction::Egress => {
                // Only on its way out: what arrives under the pod's own address need not come from the pod.
                if self.is_own(&ip.dst) {
                    return Verdict::Pass(PassReason::Own);
                }
                &ip.dst
            }
            Direction::Ingress => {
                if self.wire.masked != 0 && self.is_own(&ip.src) {
                    return Verdict::Pass(PassReason::Own);
                }
                &ip.src
            }
        };
        match ip.fragment {
            Fragment::Whole => self.connection(packet, quoted, remote),
            Fragment::First => {
                let verdict = self.connection(packet, quoted, remote);
                if verdict.is_pass() {
                    // Where it cannot be noted, the rest of the datagram is dropped: closed.
                    let _ = self.ask(Question::NoteFragment, 0, quoted);
                }
                verdict
            }
            Fragment::Later => match self.ask(Question::FragmentEnd, 0, quoted) {
                ..0 => Verdict::Drop(DropReason::FragmentOrphan),
                end if i32::from(ip.fragment_at) < end => Verdict::Drop(DropReason::FragmentOverlap),
                _ => Verdict::Pass(PassReason::Fragment),
            },
        }
    }

    #[inline(always)]
    fn connection<P: Packet>(&self, packet: &P, quoted: &mut Ip, remote: &Words) -> Verdict {
        let ip = self.ip;
        let direction = self.arrival.direction;
        let policy = Policy { tables: self.tables, sets: self.sets, family: ip.family };
        let class = policy.class(remote);
        let pass = if direction == Direction::Ingress && self.arrival.from_node {
            Some(PassReason::Host)
        } else {
            match policy.allows(direction, class, ip.protocol, ip.dst_port) {
                Err(reason) => return Verdict::Drop(reason),
                Ok(true) if policy.set(direction) == 0 => Some(PassReason::NotIsolated),
                Ok(true) => Some(PassReason::Policy),
                Ok(false) => None,
            }
        };
        if let Some(reason) = pass {
            let connected = matches!(ip.protocol, protocol::TCP | protocol::SCTP);
            if self.endpoint.watch != 0
                && connected
                && !is_fresh_syn(ip)
                && self.ask(Question::IsRevoked, class, quoted) != 0
            {
                return Verdict::Drop(DropReason::Revoked);
            }
            // An established connection touches no connection tracking here.
            if !connected || ip.tcp_flags & (tcp_flag::SYN | tcp_flag::FIN | tcp_flag::RST) != 0 {
                let _ = self.ask(Question::NoteAllowed, class, quoted);
            }
            return Verdict::Pass(reason);
        }
        if matches!(ip.transport, Transport::Icmp) && is_icmp_error(ip.family, ip.icmp_kind) {
            let named = self.wire.is_quoted != 0 || parse::parse_quoted(packet, ip.offset, ip.family, quoted);
            return if named && self.ask(Question::QuotesAllowed, class, quoted) != 0 {
                Verdict::Pass(PassReason::IcmpError)
            } else {
                Verdict::Drop(DropReason::IcmpError)
            };
        }
        if self.ask(Question::IsAnswer, class, quoted) != 0 {
            Verdict::Pass(PassReason::Reply)
        } else {
            Verdict::Drop(DropReason::Policy)
        }
    }

    #[inline(always)]
    fn is_own(&self, address: &Words) -> bool {
        is_own(self.endpoint, self.ip.family, address)
    }

    #[inline(always)]
    fn ask(&self, question: Question, class: u32, quoted: &Ip) -> i32 {
        let case = Case { question, arrival: *self.arrival, class, sets: self.sets };
        self.tables.ask(&case, self.ip, quoted)
    }

    /// A source that the pod may not send from. Addresses that never leave the link are nobody's: a pod that has no
    /// address yet asks for one under them.
    #[inline(always)]
    fn is_foreign(&self, address: &Words) -> bool {
        if self.is_own(address) {
            return false;
        }
        if self.ip.family == 4 {
            let host = u32::from_be(address[0]);
            // With an address of its own nobody needs a link-local one, and a node-local DNS cache has one.
            if host == 0 || (self.endpoint.v4.word() == 0 && host >> 16 == LINK_LOCAL4) {
                return false;
            }
        } else if is_link_scoped(address) {
            return false;
        }
        !self.is_extra(address)
    }

    /// The pod sends under an address that it may not send from.
    #[inline(always)]
    fn bears_foreign_name(&self) -> bool {
        self.arrival.direction == Direction::Egress && self.ip.family != 0 && self.is_foreign(&self.ip.src)
    }

    /// For pods that route: addresses that their annotation lists.
    #[inline(never)]
    fn is_extra(&self, address: &Words) -> bool {
        self.tables.is_extra_source(&source_key(self.arrival.ifindex, self.ip.family, address))
    }

    /// A pod's neighbour discovery names no other's address: neither as source, nor as the target that it advertises
    /// (RFC 4861 section 4.4).
    #[inline(never)]
    fn speaks_for_itself<P: Packet>(&self, packet: &P) -> bool {
        const NEIGHBOUR_SOLICITATION: u8 = 135;
        const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
        if self.arrival.direction == Direction::Ingress {
            return true;
        }
        if self.is_foreign(&self.ip.src) {
            return false;
        }
        // A question from nobody claims the address that it asks for (RFC 4862 section 5.4.3).
        let claims = self.ip.icmp_kind == NEIGHBOUR_SOLICITATION && self.ip.src == [0; 4];
        if self.ip.icmp_kind != NEIGHBOUR_ADVERTISEMENT && !claims {
            return true;
        }
        let Some(target) = packet.load::<16>(self.ip.offset + 8) else { return false };
        !self.is_foreign(&[target.word(0), target.word(4), target.word(8), target.word(12)])
    }

    /// Neighbour discovery that the node would route is none: to other links a pod speaks as its policy says. What
    /// listens to groups is reported with one hop to live.
    #[inline(always)]
    fn stays_on_link(&self) -> bool {
        let dst = &self.ip.dst;
        self.arrival.direction == Direction::Ingress
            || self.ip.hop_limit == 1
            || is_link_local(dst)
            || u32::from_be(dst[0]) >> 16 == 0xff02
            || dst[..2] == self.endpoint.v6.words()[..2]
    }
}

/// Neighbour discovery and multicast listener discovery, which no policy may break (SEMANTICS row 56).
#[inline(always)]
fn neighbour(ip: &Ip, direction: Direction) -> Option<Verdict> {
    let pass = Some(Verdict::Pass(PassReason::Neighbour));
    match (ip.icmp_kind, direction) {
        // RFC 4861 section 7.1: a hop limit of 255 proves that no router forwarded it.
        (133..=137, _) if ip.hop_limit != 255 => Some(Verdict::Drop(DropReason::BadHeader)),
        (134 | 137, Direction::Egress) => Some(Verdict::Drop(DropReason::RouterSpoof)),
        (133..=137, _) => pass,
        // RFC 3810 section 5: MLD is sent from a link-local (or no) address to a group, with hop limit 1.
        (130..=132 | 143, _)
            if ip.hop_limit == 1 && is_link_scoped(&ip.src) && u32::from_be(ip.dst[0]) >> 24 == 0xff =>
        {
            pass
        }
        _ => None,
    }
}

/// Link-local or unspecified.
#[inline(always)]
fn is_link_scoped(address: &Words) -> bool {
    is_link_local(address) || *address == [0; 4]
}

#[inline(always)]
fn is_link_local(address: &Words) -> bool {
    u32::from_be(address[0]) >> 22 == 0xfe80 >> 6
}
