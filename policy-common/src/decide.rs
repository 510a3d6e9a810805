//! The decision: policy first, then connection tracking (DESIGN section 3).
//!
//! Reading order is part of the contract with the planner: an endpoint's sets are read before any class, so that a
//! packet in flight during an update sees the old verdict or the new one, never a third.
//!
//! What is off the hot path is a call of its own (`inline(never)`): BPF gives all frames of a call chain 512 bytes.

use crate::Direction;
use crate::conntrack;
use crate::maps::{Addr4, Addr6, CLASS_NONE, Endpoint, FlowKey, FragmentKey, Opener, Sets, WORD_BITS, Words};
use crate::packet::Packet;
use crate::parse::{self, Fragment, Frame, Ip, Scratch, Transport, protocol, tcp_flag};
use crate::reason::{DropReason, PassReason, Verdict};
use crate::tables::Tables;

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
    let Scratch { ip, quoted } = scratch;
    let verdict = match parse::parse(packet, ip) {
        Ok(Frame::Ip) => Judge { tables, endpoint, sets, arrival, ip }.ip(packet, quoted),
        Ok(Frame::Arp) => arp(packet, endpoint, arrival.direction),
        Err(reason) => Verdict::Drop(reason),
    };
    match verdict {
        // Nobody may pass for another, isolated or not.
        Verdict::Drop(DropReason::Spoofed | DropReason::RouterSpoof) => verdict,
        Verdict::Drop(_) if sets.egress == 0 && sets.ingress == 0 => Verdict::Pass(PassReason::NotIsolated),
        verdict => verdict,
    }
}

/// ARP always works, but a pod speaks only for its own address (RFC 826; a probe of RFC 5227 names none as sender).
#[inline(always)]
fn arp<P: Packet>(packet: &P, endpoint: &Endpoint, direction: Direction) -> Verdict {
    // The sender's protocol address is at 14: the second half of one word and the first of the next.
    let Some(message) = packet.load::<20>(parse::ETHERNET) else {
        return Verdict::Drop(DropReason::Truncated);
    };
    let sender = u32::from(message.be16(14)) << 16 | u32::from(message.be16(16));
    let own = u32::from_be(endpoint.v4.word());
    if direction == Direction::Egress && sender != own && sender != 0 {
        return Verdict::Drop(DropReason::Spoofed);
    }
    Verdict::Pass(PassReason::Neighbour)
}

struct Judge<'a, T: Tables> {
    tables: &'a T,
    endpoint: &'a Endpoint,
    sets: Sets,
    arrival: &'a Arrival,
    ip: &'a Ip,
}

impl<T: Tables> Judge<'_, T> {
    #[inline(always)]
    fn ip<P: Packet>(&self, packet: &P, quoted: &mut Ip) -> Verdict {
        let ip = self.ip;
        if matches!(ip.transport, Transport::Icmp)
            && ip.family == 6
            && let Some(verdict) = neighbour(ip, self.arrival.direction)
        {
            return match verdict {
                Verdict::Pass(_) if !self.speaks_for_itself(packet) => Verdict::Drop(DropReason::Spoofed),
                verdict => verdict,
            };
        }
        let remote = match self.arrival.direction {
            Direction::Egress => {
                if self.is_foreign(&ip.src) {
                    return Verdict::Drop(DropReason::Spoofed);
                }
                // Only on its way out: what arrives under the pod's own address need not come from the pod.
                if self.is_own(&ip.dst) {
                    return Verdict::Pass(PassReason::Own);
                }
                &ip.dst
            }
            Direction::Ingress => &ip.src,
        };
        match ip.fragment {
            Fragment::Whole => self.connection(packet, quoted, remote),
            Fragment::First => {
                let verdict = self.connection(packet, quoted, remote);
                if verdict.is_pass() {
                    self.tables.allow_fragment(&self.fragment_key());
                }
                verdict
            }
            Fragment::Later if self.tables.fragment_allowed(&self.fragment_key()) => {
                Verdict::Pass(PassReason::Fragment)
            }
            Fragment::Later => Verdict::Drop(DropReason::FragmentOrphan),
        }
    }

    #[inline(always)]
    fn connection<P: Packet>(&self, packet: &P, quoted: &mut Ip, remote: &Words) -> Verdict {
        let ip = self.ip;
        let direction = self.arrival.direction;
        let class = self.class(remote);
        let pass = if direction == Direction::Ingress && self.arrival.from_node {
            Some(PassReason::Host)
        } else {
            match self.allowed(direction, class, ip.protocol, ip.dst_port) {
                Err(reason) => return Verdict::Drop(reason),
                Ok(true) if self.set(direction) == 0 => Some(PassReason::NotIsolated),
                Ok(true) => Some(PassReason::Policy),
                Ok(false) => None,
            }
        };
        if let Some(reason) = pass {
            // An established TCP connection touches no connection tracking here.
            if ip.protocol != protocol::TCP
                || ip.tcp_flags & (tcp_flag::SYN | tcp_flag::FIN | tcp_flag::RST) != 0
            {
                // Used, so that the compiler keeps the result: the verifier rejects a BPF function that leaves
                // whatever it had in its result register.
                core::hint::black_box(self.track_allowed(remote));
            }
            return Verdict::Pass(reason);
        }
        if matches!(ip.transport, Transport::Icmp) && is_icmp_error(ip.family, ip.icmp_kind) {
            let named = parse::parse_quoted(packet, ip.offset, ip.family, quoted);
            return if named && self.icmp_error_passes(quoted) {
                Verdict::Pass(PassReason::IcmpError)
            } else {
                Verdict::Drop(DropReason::IcmpError)
            };
        }
        if self.is_answer(remote, class) {
            Verdict::Pass(PassReason::Reply)
        } else {
            Verdict::Drop(DropReason::Policy)
        }
    }

    /// Remembers who opened the flow; returns whether it was known before.
    #[inline(never)]
    fn track_allowed(&self, remote: &Words) -> bool {
        let ip = self.ip;
        let ingress = self.arrival.direction == Direction::Ingress;
        let opener = match (ingress, self.arrival.from_node) {
            (false, _) => Opener::Pod,
            (true, false) => Opener::Peer,
            (true, true) => Opener::Node,
        };
        let tcp = ip.protocol == protocol::TCP;
        let now = self.tables.now();
        let second = self.tables.ticks_per_second();
        let key = self.flow_key(remote);
        let known = !is_fresh_syn(ip)
            && self.tables.with_flow(&key, |flow| match flow {
                Some(flow) if conntrack::is_live(flow, ip.protocol, now, second) => {
                    conntrack::advance(flow, ingress, ip.tcp_flags, now, second);
                    true
                }
                _ => false,
            });
        // A fresh SYN opens a new connection whatever the tuple was before. Another TCP packet opens nothing, and
        // neither does an answer of ICMP.
        let opens = if tcp { is_fresh_syn(ip) } else { opens_without_handshake(ip) };
        if !known && opens {
            self.tables.put_flow(&key, &conntrack::opened(opener, now));
        }
        known
    }

    /// Denied by its own direction, a packet passes only as an answer on a live flow that the other side opened, and
    /// only if today's policy still allows the opener's direction.
    #[inline(never)]
    fn is_answer(&self, remote: &Words, class: u32) -> bool {
        let ip = self.ip;
        if is_fresh_syn(ip)
            || (matches!(ip.transport, Transport::Icmp) && !is_icmp_answer(ip.family, ip.icmp_kind))
        {
            return false;
        }
        let direction = self.arrival.direction;
        // Policy is in cache, the flow often is not: most of a flood of denied packets stops here.
        let by_policy = self.allowed(direction.opposite(), class, ip.protocol, ip.src_port).unwrap_or(false);
        if !by_policy && direction == Direction::Ingress {
            return false;
        }
        let now = self.tables.now();
        let second = self.tables.ticks_per_second();
        self.tables.with_flow(&self.flow_key(remote), |flow| match flow {
            Some(flow)
                if conntrack::is_live(flow, ip.protocol, now, second)
                    && opened_by_other_side(flow.opener, direction, by_policy) =>
            {
                conntrack::advance(flow, direction == Direction::Ingress, ip.tcp_flags, now, second);
                true
            }
            _ => false,
        })
    }

    /// An error passes if the packet that it quotes belongs to a live flow that policy still allows its opener.
    #[inline(never)]
    fn icmp_error_passes(&self, quoted: &Ip) -> bool {
        // The quoted packet went the other way: towards the pod it quotes what the pod sent.
        let sent_by_pod = self.arrival.direction == Direction::Ingress;
        let (local, remote) =
            if sent_by_pod { (&quoted.src, &quoted.dst) } else { (&quoted.dst, &quoted.src) };
        if !self.is_own(local) {
            return false;
        }
        let key = self.key(remote, quoted, sent_by_pod);
        let now = self.tables.now();
        let second = self.tables.ticks_per_second();
        let opener = self.tables.with_flow(&key, |flow| match flow {
            Some(flow) if conntrack::is_live(flow, quoted.protocol, now, second) => Some(flow.opener),
            _ => None,
        });
        let (direction, port) = match opener {
            None => return false,
            Some(Opener::Node) => return true,
            Some(Opener::Pod) => (Direction::Egress, key.remote_port),
            Some(Opener::Peer) => (Direction::Ingress, key.local_port),
        };
        self.allowed(direction, self.class(remote), quoted.protocol, port).unwrap_or(false)
    }

    /// Whether today's policy allows `direction` between the pod and an address of `class`. `port` is that of the
    /// connection's destination; protocols without ports ignore it.
    #[inline(always)]
    fn allowed(&self, direction: Direction, class: u32, protocol: u8, port: u16) -> Result<bool, DropReason> {
        let set = self.set(direction);
        if set == 0 {
            return Ok(true);
        }
        let row = self.tables.row((set - 1).wrapping_add(class)).ok_or(DropReason::Table)?;
        let port_class = match protocol {
            protocol::TCP => self.tables.class_of_port(0, port),
            protocol::UDP => self.tables.class_of_port(1, port),
            protocol::SCTP => self.tables.class_of_port(2, port),
            _ => Some(CLASS_NONE),
        }
        .ok_or(DropReason::Table)?;
        let word = self.tables.word(row.wrapping_add(port_class / WORD_BITS)).ok_or(DropReason::Table)?;
        Ok(word >> (port_class % WORD_BITS) & 1 == 1)
    }

    #[inline(always)]
    const fn set(&self, direction: Direction) -> u32 {
        match direction {
            Direction::Egress => self.sets.egress,
            Direction::Ingress => self.sets.ingress,
        }
    }

    #[inline(always)]
    fn class(&self, address: &Words) -> u32 {
        if self.ip.family == 4 {
            self.tables.class_of_v4(&Addr4::from_words(address))
        } else {
            self.tables.class_of_v6(&Addr6::from_words(address))
        }
    }

    #[inline(always)]
    fn is_own(&self, address: &Words) -> bool {
        if self.ip.family == 4 {
            address[0] == self.endpoint.v4.word() && address[0] != 0
        } else {
            *address == self.endpoint.v6.words() && *address != [0; 4]
        }
    }

    /// A source that the pod may not send from. Addresses that never leave the link are nobody's: a pod that has no
    /// address yet asks for one under them. A pod that is not isolated may speak a family in which it has no address.
    #[inline(always)]
    fn is_foreign(&self, address: &Words) -> bool {
        if self.is_own(address) {
            return false;
        }
        let unconfigured = if self.ip.family == 4 {
            let first = u32::from_be(address[0]);
            if first == 0 || first >> 16 == 0xa9fe {
                return false;
            }
            self.endpoint.v4.word() == 0
        } else {
            if is_link_scoped(address) {
                return false;
            }
            self.endpoint.v6.words() == [0; 4]
        };
        !unconfigured || self.sets.egress != 0 || self.sets.ingress != 0
    }

    /// A pod's neighbour discovery names no other's address: neither as source, nor as the target that it advertises
    /// (RFC 4861 section 4.4).
    #[inline(never)]
    fn speaks_for_itself<P: Packet>(&self, packet: &P) -> bool {
        const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
        if self.arrival.direction == Direction::Ingress {
            return true;
        }
        if self.is_foreign(&self.ip.src) {
            return false;
        }
        if self.ip.icmp_kind != NEIGHBOUR_ADVERTISEMENT {
            return true;
        }
        let Some(target) = packet.load::<16>(self.ip.offset + 8) else { return false };
        !self.is_foreign(&[target.word(0), target.word(4), target.word(8), target.word(12)])
    }

    #[inline(always)]
    fn flow_key(&self, remote: &Words) -> FlowKey {
        self.key(remote, self.ip, self.arrival.direction == Direction::Egress)
    }

    /// The flow of a packet. An ICMP query is a flow of its own for each side that asks: its identifier is the local
    /// port, and the remote port tells who asked (0: the pod), so that a request never passes for an answer.
    #[inline(always)]
    fn key(&self, remote: &Words, ip: &Ip, sent_by_pod: bool) -> FlowKey {
        let (local_port, remote_port) = match ip.transport {
            Transport::Icmp => {
                let asked_by_pod = is_icmp_answer(ip.family, ip.icmp_kind) != sent_by_pod;
                (ip.src_port, u16::from(!asked_by_pod))
            }
            _ if sent_by_pod => (ip.src_port, ip.dst_port),
            _ => (ip.dst_port, ip.src_port),
        };
        FlowKey {
            remote: Addr6::from_words(remote),
            ifindex: self.arrival.ifindex,
            remote_port,
            local_port,
            protocol: ip.protocol,
            family: ip.family,
            zero: 0,
        }
    }

    #[inline(always)]
    fn fragment_key(&self) -> FragmentKey {
        let ip = self.ip;
        FragmentKey {
            src: Addr6::from_words(&ip.src),
            dst: Addr6::from_words(&ip.dst),
            ifindex: self.arrival.ifindex,
            id: ip.fragment_id,
            // IPv6 identifies a datagram without its protocol (RFC 8200 section 4.5).
            protocol: if ip.family == 4 { ip.protocol } else { 0 },
            family: ip.family,
            direction: self.arrival.direction as u8,
            zero: 0,
        }
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
        // RFC 3810 section 5: MLD is sent from a link-local (or no) address with hop limit 1.
        (130..=132 | 143, _) if ip.hop_limit == 1 && is_link_scoped(&ip.src) => pass,
        _ => None,
    }
}

#[inline(always)]
fn is_link_scoped(address: &Words) -> bool {
    u32::from_be(address[0]) >> 22 == 0xfe80 >> 6 || *address == [0; 4]
}

/// A TCP packet that can only open a connection.
#[inline(always)]
const fn is_fresh_syn(ip: &Ip) -> bool {
    ip.protocol == protocol::TCP && ip.tcp_flags & (tcp_flag::SYN | tcp_flag::ACK) == tcp_flag::SYN
}

#[inline(always)]
const fn is_icmp_error(family: u8, kind: u8) -> bool {
    if family == 4 { matches!(kind, 3 | 4 | 11 | 12) } else { matches!(kind, 1..=4) }
}

/// Echo reply, timestamp reply, address mask reply; ICMPv6 echo reply.
#[inline(always)]
const fn is_icmp_answer(family: u8, kind: u8) -> bool {
    if family == 4 { matches!(kind, 0 | 14 | 18) } else { kind == 129 }
}

#[inline(always)]
const fn opens_without_handshake(ip: &Ip) -> bool {
    match (ip.transport, ip.family) {
        (Transport::Icmp, 4) => matches!(ip.icmp_kind, 8 | 13 | 17),
        (Transport::Icmp, _) => ip.icmp_kind == 128,
        _ => true,
    }
}

#[inline(always)]
const fn opened_by_other_side(opener: Opener, direction: Direction, by_policy: bool) -> bool {
    match (direction, opener) {
        (Direction::Ingress, Opener::Pod) | (Direction::Egress, Opener::Peer) => by_policy,
        // The node's own connections are allowed by their origin.
        (Direction::Egress, Opener::Node) => true,
        _ => false,
    }
}
