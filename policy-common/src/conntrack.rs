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

#[cfg(test)]
mod tests {
    use super::*;

    const HZ: u32 = 250;

    fn after(flow: &Flow, seconds: u64) -> u64 {
        flow.seen + seconds * u64::from(HZ)
    }

    #[test]
    fn an_entry_lives_as_long_as_its_state_says() {
        let mut flow = opened(Opener::Pod, 1000);
        assert!(is_live(&flow, protocol::TCP, after(&flow, 120), HZ));
        assert!(!is_live(&flow, protocol::TCP, after(&flow, 121), HZ));
        assert!(is_live(&flow, protocol::UDP, after(&flow, 30), HZ));
        assert!(!is_live(&flow, protocol::UDP, after(&flow, 31), HZ));
        flow.state = FlowState::Established;
        // A TCP connection may be idle for days.
        assert!(is_live(&flow, protocol::TCP, after(&flow, 86_400), HZ));
        assert!(!is_live(&flow, protocol::UDP, after(&flow, 121), HZ));
    }

    #[test]
    fn only_the_other_side_establishes_and_fin_or_rst_closes() {
        let mut flow = opened(Opener::Pod, 0);
        advance(&mut flow, false, 0, 1, HZ);
        assert_eq!(flow.state, FlowState::Opening);
        advance(&mut flow, true, 0, 1, HZ);
        assert_eq!(flow.state, FlowState::Established);
        advance(&mut flow, false, tcp_flag::FIN | tcp_flag::ACK, 2, HZ);
        assert_eq!(flow.state, FlowState::Closing);
        advance(&mut flow, true, tcp_flag::ACK, 3, HZ);
        assert_eq!(flow.state, FlowState::Closing);
    }

    #[test]
    fn the_entry_is_written_only_when_a_second_has_passed() {
        let mut flow = opened(Opener::Peer, 1000);
        advance(&mut flow, false, 0, 1249, HZ);
        assert_eq!(flow.seen, 1000);
        advance(&mut flow, false, 0, 1250, HZ);
        assert_eq!(flow.seen, 1250);
    }

    #[test]
    fn a_clock_that_seems_to_go_back_does_not_end_a_flow() {
        let flow = opened(Opener::Pod, 1000);
        assert!(is_live(&flow, protocol::UDP, 999, HZ));
    }
}
