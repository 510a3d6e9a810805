//! What the decision asks of connection tracking, and tells it: all that is off the hot path.
//!
//! In the kernel, [`answer`] runs in a function that the verifier checks once, by itself, instead of once for each way
//! that leads to it (`Tables::ask`). So a question is a few numbers, and so is its answer.

use crate::Direction;
use crate::conntrack::{self, Opens, Seen};
use crate::decide::Arrival;
use crate::flows::{FlowKey, Opener, Tracked};
use crate::maps::{Addr6, CLASS_NONE, Sets, Words};
use crate::parse::{Ip, Transport, protocol, tcp_flag};
use crate::policy::{Policy, is_own, source_key};
use crate::tables::Tables;

/// What is asked about the packet at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// It passes: remember who opened its flow. Whether the flow was known.
    NoteAllowed,
    /// Denied by its own direction, it passes only as an answer on a live flow that the other side opened, and only if
    /// today's policy still allows the opener's direction. Whether it is one.
    IsAnswer,
    /// Allowed by its own direction, it may still belong to a connection that the other side opened under a permission
    /// which is no more. Whether it does.
    IsRevoked,
    /// An ICMP error passes if the packet that it quotes belongs to a live flow that policy still allows its opener.
    /// Whether it does.
    QuotesAllowed,
    /// It is a first fragment that passes: the rest follows it. Whether that could be noted.
    NoteFragment,
    /// It is a later fragment. Where its first ended, in units of eight bytes, or -1 if that did not pass.
    FragmentEnd,
}

/// The packet at hand and what is asked about it.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub question: Question,
    pub arrival: Arrival,
    /// The class of the remote address.
    pub class: u32,
    /// The endpoint's, as the decision read them: to read them again would mix two policies.
    pub sets: Sets,
}

const INGRESS: u32 = 1;
const FROM_NODE: u32 = 2;

impl Case {
    /// With `how` the packet came. Some questions need no class and no sets.
    #[inline(always)]
    pub const fn new(question: Question, ifindex: u32, how: u32) -> Self {
        let direction = if how & INGRESS == 0 { Direction::Egress } else { Direction::Ingress };
        let arrival = Arrival { ifindex, direction, from_node: how & FROM_NODE != 0 };
        Self { question, arrival, class: CLASS_NONE, sets: Sets { egress: 0, ingress: 0 } }
    }

    /// How the packet came, in one number.
    #[inline(always)]
    pub const fn how(&self) -> u32 {
        let ingress = if matches!(self.arrival.direction, Direction::Ingress) { INGRESS } else { 0 };
        let from_node = if self.arrival.from_node { FROM_NODE } else { 0 };
        ingress | from_node
    }
}

/// Answers a question about a packet; `quoted` means something where it is an ICMP error.
#[inline(always)]
pub fn answer<T: Tables>(tables: &T, case: &Case, ip: &Ip, quoted: &Ip) -> i32 {
    let policy = Policy { tables, sets: case.sets, family: ip.family };
    let asked = Asked { tables, policy, arrival: &case.arrival, ip, class: case.class };
    match case.question {
        Question::NoteAllowed => asked.note_allowed().into(),
        Question::IsAnswer => asked.is_answer().into(),
        Question::IsRevoked => asked.is_revoked().into(),
        Question::QuotesAllowed => asked.quotes_allowed(quoted).into(),
        Question::NoteFragment => asked.note_fragment().into(),
        Question::FragmentEnd => asked.fragment_end().map_or(-1, i32::from),
    }
}

struct Asked<'a, T: Tables> {
    tables: &'a T,
    policy: Policy<'a, T>,
    arrival: &'a Arrival,
    ip: &'a Ip,
    class: u32,
}

impl<T: Tables> Asked<'_, T> {
    #[inline(always)]
    fn note_allowed(&self) -> bool {
        let ip = self.ip;
        // A fresh SYN opens a new connection whatever the tuple was before. Another packet of a connection opens
        // nothing, and neither does an answer of ICMP.
        let opens = match ip.transport {
            _ if is_fresh_syn(ip) => Opens::Afresh,
            Transport::Icmp if !is_icmp_query(ip.family, ip.icmp_kind) => Opens::Nothing,
            Transport::Ports if ip.protocol != protocol::UDP => Opens::Nothing,
            // The key of a query tells who asks.
            Transport::Icmp => Opens::IfUnknown,
            _ if self.opener_is_allowed() => Opens::IfUnknown,
            _ => Opens::OrTakesOver,
        };
        let (key, seen) = (self.flow_key(), self.seen());
        self.tables.with_flows(&key, |set| conntrack::note(set, &key, &seen, opens)).unwrap_or(false)
    }

    #[inline(always)]
    fn is_answer(&self) -> bool {
        let ip = self.ip;
        if is_fresh_syn(ip)
            || (matches!(ip.transport, Transport::Icmp) && !is_icmp_answer(ip.family, ip.icmp_kind))
        {
            return false;
        }
        let direction = self.arrival.direction;
        // Policy is in cache, the flow often is not: most of a flood of denied packets stops here.
        let by_policy = self.opener_is_allowed();
        if !by_policy && direction == Direction::Ingress {
            return false;
        }
        let (key, seen) = (self.flow_key(), self.seen());
        let answers = self.tables.with_flows(&key, |set| match set.find(&key, seen.now) {
            Some(at) => {
                let entry = set.entry(at);
                let answers = match (direction, entry.opener) {
                    (Direction::Ingress, Opener::Pod) | (Direction::Egress, Opener::Peer) => by_policy,
                    // The node's own connections are allowed by their origin.
                    (Direction::Egress, Opener::Node) => true,
                    _ => false,
                };
                if answers {
                    conntrack::advance(entry, &seen);
                }
                answers
            }
            None => false,
        });
        answers.unwrap_or(false)
    }

    #[inline(always)]
    fn is_revoked(&self) -> bool {
        if self.opener_is_allowed() {
            return false;
        }
        let (key, now) = (self.flow_key(), self.tables.now());
        // Written out twice, here and below: a closure with two callers would become a function, and the kernel allows
        // no call under a lock.
        let opener =
            self.tables.with_flows(&key, |set| set.find(&key, now).map(|at| set.entry(at).opener)).flatten();
        matches!(
            (self.arrival.direction, opener),
            (Direction::Ingress, Some(Opener::Pod)) | (Direction::Egress, Some(Opener::Peer))
        )
    }

    #[inline(always)]
    fn quotes_allowed(&self, quoted: &Ip) -> bool {
        let Some(endpoint) = self.tables.endpoint(self.arrival.ifindex) else { return false };
        // The quoted packet went the other way: towards the pod it quotes what the pod sent.
        let sent_by_pod = self.arrival.direction == Direction::Ingress;
        let (local, remote) =
            if sent_by_pod { (&quoted.src, &quoted.dst) } else { (&quoted.dst, &quoted.src) };
        // Whoever is on the way may tell the pod; the pod tells the flow's other end.
        let own = is_own(endpoint, quoted.family, local)
            || self.tables.is_extra_source(&source_key(self.arrival.ifindex, quoted.family, local));
        if !own || (!sent_by_pod && self.ip.dst != *remote) {
            return false;
        }
        let key = self.key(remote, quoted, sent_by_pod);
        let now = self.tables.now();
        let opener =
            self.tables.with_flows(&key, |set| set.find(&key, now).map(|at| set.entry(at).opener)).flatten();
        let (direction, port) = match opener {
            None | Some(Opener::Nobody) => return false,
            Some(Opener::Node) => return true,
            Some(Opener::Pod) => (Direction::Egress, key.remote_port),
            Some(Opener::Peer) => (Direction::Ingress, key.local_port),
        };
        self.policy.allows(direction, self.policy.class(remote), quoted.protocol, port).unwrap_or(false)
    }

    #[inline(always)]
    fn note_fragment(&self) -> bool {
        let key = self.fragment_key();
        let (end, now) = (self.ip.fragment_at, self.tables.now());
        self.tables.with_flows(&key, |set| conntrack::note_fragment(set, &key, end, now)).is_some()
    }

    #[inline(always)]
    fn fragment_end(&self) -> Option<u16> {
        let key = self.fragment_key();
        let now = self.tables.now();
        self.tables.with_flows(&key, |set| set.find(&key, now).map(|at| set.entry(at).fragment_end)).flatten()
    }

    /// Were the packet an answer: whether policy allows what it answers.
    #[inline(always)]
    fn opener_is_allowed(&self) -> bool {
        let opposite = self.arrival.direction.opposite();
        self.policy.allows(opposite, self.class, self.ip.protocol, self.ip.src_port).unwrap_or(false)
    }

    #[inline(always)]
    fn seen(&self) -> Seen {
        let sender = match (self.arrival.direction, self.arrival.from_node) {
            (Direction::Egress, _) => Opener::Pod,
            (Direction::Ingress, false) => Opener::Peer,
            (Direction::Ingress, true) => Opener::Node,
        };
        Seen { sender, flags: self.ip.tcp_flags, now: self.tables.now() }
    }

    #[inline(always)]
    const fn remote(&self) -> &Words {
        match self.arrival.direction {
            Direction::Egress => &self.ip.dst,
            Direction::Ingress => &self.ip.src,
        }
    }

    #[inline(always)]
    fn flow_key(&self) -> FlowKey {
        self.key(self.remote(), self.ip, self.arrival.direction == Direction::Egress)
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
            tracked: Tracked::Flow as u8,
            zero: 0,
        }
    }

    /// The datagram of a fragment. Which of the pod's own addresses it bears does not matter: policy knows the pod.
    #[inline(always)]
    fn fragment_key(&self) -> FlowKey {
        let ip = self.ip;
        #[expect(clippy::cast_possible_truncation, reason = "the two halves of the identification")]
        let (high, low) = ((ip.fragment_id >> 16) as u16, ip.fragment_id as u16);
        let tracked = match self.arrival.direction {
            Direction::Egress => Tracked::FragmentsSent,
            Direction::Ingress => Tracked::FragmentsReceived,
        };
        FlowKey {
            remote: Addr6::from_words(self.remote()),
            ifindex: self.arrival.ifindex,
            remote_port: high,
            local_port: low,
            // IPv6 identifies a datagram without its protocol (RFC 8200 section 4.5).
            protocol: if ip.family == 4 { ip.protocol } else { 0 },
            family: ip.family,
            tracked: tracked as u8,
            zero: 0,
        }
    }
}

/// A packet that can only open a connection: TCP SYN without ACK, SCTP INIT.
#[inline(always)]
pub(crate) const fn is_fresh_syn(ip: &Ip) -> bool {
    matches!(ip.protocol, protocol::TCP | protocol::SCTP)
        && ip.tcp_flags & (tcp_flag::SYN | tcp_flag::ACK) == tcp_flag::SYN
}

#[inline(always)]
pub(crate) const fn is_icmp_error(family: u8, kind: u8) -> bool {
    if family == 4 { matches!(kind, 3 | 4 | 11 | 12) } else { matches!(kind, 1..=4) }
}

/// Echo, timestamp, address mask; ICMPv6 echo.
#[inline(always)]
const fn is_icmp_query(family: u8, kind: u8) -> bool {
    if family == 4 { matches!(kind, 8 | 13 | 17) } else { kind == 128 }
}

/// Echo reply, timestamp reply, address mask reply; ICMPv6 echo reply.
#[inline(always)]
const fn is_icmp_answer(family: u8, kind: u8) -> bool {
    if family == 4 { matches!(kind, 0 | 14 | 18) } else { kind == 129 }
}
