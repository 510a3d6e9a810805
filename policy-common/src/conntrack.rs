//! Connection tracking: it only remembers who opened a flow. Whether a packet may pass is always today's policy's
//! business, so an entry never grants anything by itself and needs no revision when policy changes.

use crate::maps::{Flow, FlowState, Opener};
use crate::parse::{protocol, tcp_flag};

/// Seconds after its last packet that an entry still speaks for its flow. Values of nf_conntrack's defaults
/// (Documentation/networking/nf_conntrack-sysctl.rst); TCP that opens or closes is kept for one value, 120 s.
pub const fn timeout_seconds(protocol: u8, state: FlowState) -> u64 {
    match (protocol, state) {
        (protocol::TCP, FlowState::Established) => 432_000,
        (protocol::TCP, _) => 120,
        (protocol::ICMP | protocol::ICMPV6, _) => 30,
        (protocol::SCTP, FlowState::Established) => 432_000,
        (protocol::UDP, FlowState::Opening) => 30,
        (protocol::UDP, _) => 120,
        (_, _) => 600,
    }
}

#[inline(always)]
pub fn is_live(flow: &Flow, protocol: u8, now: u64, ticks_per_second: u32) -> bool {
    let age = now.saturating_sub(flow.seen);
    age <= timeout_seconds(protocol, flow.state) * ticks_per_second as u64
}

#[inline(always)]
pub const fn opened(opener: Opener, now: u64) -> Flow {
    Flow { seen: now, opener, state: FlowState::Opening, zero: [0; 6] }
}

/// Whether `opener` is the side that sends towards the pod.
#[inline(always)]
pub const fn from_peer(opener: Opener) -> bool {
    !matches!(opener, Opener::Pod)
}

/// A packet of a live flow was let through. `sent_by_peer`: it came towards the pod.
#[inline(always)]
pub fn advance(flow: &mut Flow, sent_by_peer: bool, tcp_flags: u8, now: u64, ticks_per_second: u32) {
    let answered = from_peer(flow.opener) != sent_by_peer;
    if tcp_flags & (tcp_flag::FIN | tcp_flag::RST) != 0 {
        flow.state = FlowState::Closing;
    } else if answered && matches!(flow.state, FlowState::Opening) {
        flow.state = FlowState::Established;
    }
    // A write to the entry's cache line for each packet would make cores fight over it.
    if now.saturating_sub(flow.seen) >= ticks_per_second as u64 {
        flow.seen = now;
    }
}
