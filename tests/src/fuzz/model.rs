//! What a packet may do, from SEMANTICS rows 50, 51, 56 and 58 and the choice for connections under a policy that changes:
//! each packet is judged by today's policy in the direction in which its connection was opened.
//!
//! The model doesn't know Sluice's timeouts. An answer must pass soon after the question, must not pass ages later, and may
//! do either in between.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use policy_common::Direction;
use sluice_oracle::Protocol;

use super::setting::Subject;
use crate::packet::{Content, Packet, Quotation, number};

/// Seconds in which every live connection is remembered, whatever its protocol and state.
const SOON: u64 = 5;
const DAY: u64 = 86_400;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    Pass(Ground),
    Drop,
    Either,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ground {
    /// Its own direction is allowed.
    Allowed,
    /// It answers a connection that the other side may open and has just opened.
    Answer,
}

#[derive(Debug, Default)]
pub(super) struct Model {
    now: u64,
    flows: HashMap<Flow, Seen>,
    fragments: HashSet<(IpAddr, Direction, u16)>,
}

/// One connection, seen from the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Flow {
    remote: IpAddr,
    protocol: u8,
    local_port: u16,
    remote_port: u16,
    /// The side that asks, where the packet tells (echo).
    asker: Option<Direction>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    /// When each side last opened it.
    pod: Option<u64>,
    peer: Option<u64>,
    node: Option<u64>,
    /// Its last packet, and whether that was one that opens it.
    last: u64,
    just_opened: bool,
}

impl Seen {
    const NEVER: Self = Self { pod: None, peer: None, node: None, last: 0, just_opened: false };

    /// When somebody opposite to a packet of `direction` has opened it; and whether it was the node.
    fn opened_opposite_to(&self, direction: Direction) -> [(Option<u64>, bool); 2] {
        match direction {
            Direction::Ingress => [(self.pod, false), (None, true)],
            Direction::Egress => [(self.peer, false), (self.node, true)],
        }
    }

    fn openers(&self) -> usize {
        [self.pod, self.peer, self.node].into_iter().flatten().count()
    }
}

impl Model {
    pub(super) const fn wait(&mut self, seconds: u64) {
        self.now += seconds;
    }

    pub(super) fn judge(&self, packet: &Packet, subject: &Subject<'_>) -> Expected {
        if let Content::Later { id } = packet.content {
            let seen = self.fragments.contains(&(packet.remote, packet.direction, id));
            // Nobody is promised that the first one is remembered for ever. A pod without policy needs no first one.
            return if seen || !subject.is_isolated() { Expected::Either } else { Expected::Drop };
        }
        if allowed(packet, subject) {
            return Expected::Pass(Ground::Allowed);
        }
        let Some((flow, seen)) = self.subject_of(packet) else { return Expected::Drop };
        let opener = packet.direction.opposite();
        // The port that the opener connected to.
        let port = if opener == Direction::Egress { flow.remote_port } else { flow.local_port };
        let by_policy = subject.allows(opener, flow.remote, flow.policy_protocol(), port);
        let live = |opened: Option<u64>, by_node: bool| opened.is_some() && (by_policy || by_node);
        let openers = match packet.content {
            // It may be about a packet of either side's connection.
            Content::Error(_) => return self.judge_error(&flow, &seen, subject),
            _ => seen.opened_opposite_to(packet.direction),
        };
        if !openers.iter().any(|(opened, by_node)| live(*opened, *by_node)) || self.is_forgotten(&flow, &seen)
        {
            return Expected::Drop;
        }
        let fresh = openers.iter().any(|(opened, by_node)| {
            live(*opened, *by_node) && opened.is_some_and(|at| at + SOON >= self.now)
        });
        let answers_at_once = match packet.content {
            Content::Ports { protocol: Protocol::Udp, .. } | Content::Ping { .. } => true,
            Content::Ports { protocol: Protocol::Tcp, flags, .. } => flags == 0x12 && seen.just_opened,
            _ => false,
        };
        // Where both sides have opened it, who counts as the opener is Sluice's choice.
        if fresh && answers_at_once && seen.openers() == 1 {
            Expected::Pass(Ground::Answer)
        } else {
            Expected::Either
        }
    }

    /// An error may pass if the connection that it is about is one that its opener may have today.
    fn judge_error(&self, flow: &Flow, seen: &Seen, subject: &Subject<'_>) -> Expected {
        let allowed = |direction, port| subject.allows(direction, flow.remote, flow.policy_protocol(), port);
        let known = seen.node.is_some()
            || (seen.pod.is_some() && allowed(Direction::Egress, flow.remote_port))
            || (seen.peer.is_some() && allowed(Direction::Ingress, flow.local_port));
        if known && !self.is_forgotten(flow, seen) { Expected::Either } else { Expected::Drop }
    }

    /// The connection that a packet belongs to by its own kind, or by what it quotes; none where it can only be the first
    /// of a connection (row 51), or nobody knows of it.
    fn subject_of(&self, packet: &Packet) -> Option<(Flow, Seen)> {
        let flow = match packet.content {
            Content::Ports { protocol: Protocol::Tcp, flags, .. } if flags & 0x12 == 0x02 => return None,
            Content::Ping { answer: false, .. } => return None,
            _ => flow_of(packet)?,
        };
        self.flows.get(&flow).map(|seen| (flow, *seen))
    }

    /// Whether no timeout can be so long. TCP and SCTP may be idle for days.
    fn is_forgotten(&self, flow: &Flow, seen: &Seen) -> bool {
        let longest = match flow.protocol {
            6 | 132 => 8 * DAY,
            17 => 600,
            1 => 120,
            _ => 1200,
        };
        self.now - seen.last > longest
    }

    pub(super) fn passed(&mut self, packet: &Packet, subject: &Subject<'_>) {
        if let Content::First { id, .. } = packet.content {
            self.fragments.insert((packet.remote, packet.direction, id));
        }
        if matches!(packet.content, Content::Error(_) | Content::Later { .. }) {
            return;
        }
        let Some(flow) = flow_of(packet) else { return };
        let opens = allowed(packet, subject)
            && match packet.content {
                Content::Ports { protocol: Protocol::Tcp, flags, .. } => flags & 0x12 == 0x02,
                Content::Ping { answer, .. } => !answer,
                _ => true,
            };
        let now = self.now;
        let seen = self.flows.entry(flow).or_insert(Seen::NEVER);
        seen.last = now;
        seen.just_opened = opens;
        if opens {
            let opened = match (packet.direction, packet.from_node) {
                (Direction::Egress, _) => &mut seen.pod,
                (Direction::Ingress, false) => &mut seen.peer,
                (Direction::Ingress, true) => &mut seen.node,
            };
            *opened = Some(now);
        }
    }
}

impl Flow {
    const fn policy_protocol(&self) -> Protocol {
        match self.protocol {
            6 => Protocol::Tcp,
            17 => Protocol::Udp,
            132 => Protocol::Sctp,
            _ => Protocol::Icmp,
        }
    }
}

/// Whether a packet needs no connection: policy allows its own direction, or the node itself sends it (row 36).
fn allowed(packet: &Packet, subject: &Subject<'_>) -> bool {
    let (protocol, port) = match packet.content {
        Content::Ports { protocol, local, remote, .. } => {
            (protocol, destination(packet.direction, local, remote))
        }
        Content::First { local, remote, .. } => (Protocol::Udp, destination(packet.direction, local, remote)),
        _ => (Protocol::Icmp, 0),
    };
    packet.from_node || subject.allows(packet.direction, packet.remote, protocol, port)
}

const fn destination(direction: Direction, local: u16, remote: u16) -> u16 {
    match direction {
        Direction::Egress => remote,
        Direction::Ingress => local,
    }
}

/// The connection of a packet; of an error, that of the packet that it quotes.
fn flow_of(packet: &Packet) -> Option<Flow> {
    let flow = |protocol, local_port, remote_port, asker| {
        Some(Flow { remote: packet.remote, protocol, local_port, remote_port, asker })
    };
    let with_ports = |protocol, local, remote| flow(number(protocol), local, remote, None);
    let ping = |id, asker| flow(number(Protocol::Icmp), id, 0, Some(asker));
    match packet.content {
        Content::Ports { protocol, local, remote, .. } => with_ports(protocol, local, remote),
        Content::First { local, remote, .. } => with_ports(Protocol::Udp, local, remote),
        Content::Gre => flow(47, 0, 0, None),
        Content::Ping { answer: false, id } => ping(id, packet.direction),
        Content::Ping { answer: true, id } => ping(id, packet.direction.opposite()),
        Content::Error(Quotation::Ports { protocol, local, remote }) => with_ports(protocol, local, remote),
        // The quoted request went against the error.
        Content::Error(Quotation::Ping { id }) => ping(id, packet.direction.opposite()),
        Content::Later { .. } => None,
    }
}
