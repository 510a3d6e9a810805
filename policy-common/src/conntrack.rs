//! Connection tracking: it only remembers who opened a flow. Whether a packet may pass is always today's policy's
//! business, so an entry never grants anything by itself and needs no revision when policy changes.

use crate::flows::{FlowEntry, FlowKey, FlowSet, FlowState, Opener};
use crate::parse::{protocol, tcp_flag};

/// Seconds that later fragments may follow their first: the receiver's own limit (Linux: 30; RFC 8200: 60).
pub const FRAGMENT_SECONDS: u32 = 30;

/// Seconds after its last packet that an entry still speaks for its flow: the defaults of nf_conntrack
/// (Documentation/networking/nf_conntrack-sysctl.rst).
///
/// An answered handshake is kept as long as a connection, not for netfilter's 60 s: the packet that completes it is an
/// ordinary one of an allowed direction, which is not looked up. What was only answered is the first to go where room is
/// needed (`FlowSet::place`).
#[inline(always)]
pub const fn timeout_seconds(protocol: u8, state: FlowState) -> u32 {
    match (protocol, state) {
        (protocol::TCP | protocol::SCTP, FlowState::Established | FlowState::Answered) => 432_000,
        (protocol::TCP | protocol::SCTP, FlowState::Closed) => 10,
        (protocol::TCP | protocol::SCTP, _) => 120,
        (protocol::ICMP | protocol::ICMPV6, _) | (protocol::UDP, FlowState::Opening) => 30,
        (protocol::UDP, _) => 120,
        (_, _) => 600,
    }
}

/// A packet of a flow, as connection tracking sees it.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Who sent it: who would be the opener, were the flow new.
    pub sender: Opener,
    /// Those of TCP; SCTP's chunks under the same names.
    pub flags: u8,
    /// In seconds.
    pub now: u32,
}

/// Whether it opens a flow, where policy lets it through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opens {
    /// It belongs to a flow or to none.
    Nothing,
    /// Where there is none.
    IfUnknown,
    /// Where there is none, or one that the other side opened: it may not any more, so the flow is the sender's.
    OrTakesOver,
    /// Whatever there was: a SYN.
    Afresh,
}

/// Notes a packet that policy lets through. Returns whether its flow was known.
#[inline(always)]
pub fn note(set: &mut FlowSet, key: &FlowKey, seen: &Seen, opens: Opens) -> bool {
    let place = match set.find(key, seen.now) {
        Some(at) => {
            let opener = set.entry(at).opener;
            // The node's own flows are allowed by their origin, whatever policy says.
            let takes_over = matches!(opens, Opens::OrTakesOver)
                && !matches!(opener, Opener::Node)
                && is_pod(opener) != is_pod(seen.sender);
            if !takes_over && !matches!(opens, Opens::Afresh) {
                advance(set.entry(at), seen);
                return true;
            }
            at
        }
        None if matches!(opens, Opens::Nothing) => return false,
        None => set.place(key, seen.now),
    };
    let entry = set.entry(place);
    entry.key = *key;
    entry.opener = seen.sender;
    entry.fragment_end = 0;
    enter(entry, FlowState::Opening, seen.now);
    false
}

/// A packet of a live flow was let through.
#[inline(always)]
pub fn advance(entry: &mut FlowEntry, seen: &Seen) {
    let answers = is_pod(entry.opener) != is_pod(seen.sender);
    let ends = seen.flags & (tcp_flag::FIN | tcp_flag::RST) != 0;
    let state = match entry.state {
        FlowState::Closing | FlowState::Closed if !is_pod(seen.sender) => entry.state,
        // Who stands on the way can forge the other side's FIN or RST, and we do not follow sequence numbers: it makes
        // the flow one of those that go first where room is needed, and shortens nothing. The pod's own end it.
        _ if ends && !is_pod(seen.sender) => FlowState::Answered,
        _ if seen.flags & tcp_flag::RST != 0 => FlowState::Closed,
        FlowState::Closed => FlowState::Closed,
        _ if ends => FlowState::Closing,
        FlowState::Opening if answers && seen.flags & tcp_flag::SYN != 0 => FlowState::Answered,
        FlowState::Opening | FlowState::Answered if answers => FlowState::Established,
        state => state,
    };
    enter(entry, state, seen.now);
}

#[inline(always)]
const fn is_pod(side: Opener) -> bool {
    matches!(side, Opener::Pod)
}

/// At most one write a second for a flow that stays as it is: cores would fight over the line.
#[inline(always)]
fn enter(entry: &mut FlowEntry, state: FlowState, now: u32) {
    // The second under way does not count.
    let until = now.saturating_add(timeout_seconds(entry.key.protocol, state)).saturating_add(1);
    if entry.until != until || entry.state as u8 != state as u8 {
        entry.state = state;
        entry.seen = now;
        entry.until = until;
    }
}

/// The first fragment of a datagram was let through.
#[inline(always)]
pub fn note_fragment(set: &mut FlowSet, key: &FlowKey, end: u16, now: u32) {
    let place = match set.find(key, now) {
        Some(at) => at,
        None => set.place(key, now),
    };
    *set.entry(place) = FlowEntry {
        key: *key,
        opener: Opener::Nobody,
        state: FlowState::Opening,
        fragment_end: end,
        seen: now,
        until: now.saturating_add(FRAGMENT_SECONDS).saturating_add(1),
    };
}

/// A flow that began before we looked. What is known already is not touched. Returns whether it was put in.
#[inline(always)]
pub fn seed(
    set: &mut FlowSet,
    key: &FlowKey,
    opener: Opener,
    state: FlowState,
    seconds: u32,
    now: u32,
) -> bool {
    if set.find(key, now).is_some() {
        return false;
    }
    let most = timeout_seconds(key.protocol, state);
    let seconds = if seconds < most { seconds } else { most };
    let at = set.place(key, now);
    *set.entry(at) = FlowEntry {
        key: *key,
        opener,
        state,
        fragment_end: 0,
        seen: now,
        until: now.saturating_add(seconds).saturating_add(1),
    };
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flows::{SHARE, WAYS};
    use crate::maps::Addr6;

    fn key(ifindex: u32, protocol: u8, number: u16) -> FlowKey {
        FlowKey {
            remote: Addr6::ZERO,
            ifindex,
            remote_port: number,
            local_port: 80,
            protocol,
            family: 4,
            tracked: 0,
            zero: 0,
        }
    }

    fn see(set: &mut FlowSet, key: &FlowKey, sender: Opener, flags: u8, now: u32) -> bool {
        let opens = match (key.protocol, flags) {
            (protocol::TCP, tcp_flag::SYN) => Opens::Afresh,
            (protocol::TCP, _) => Opens::Nothing,
            _ => Opens::IfUnknown,
        };
        note(set, key, &Seen { sender, flags, now }, opens)
    }

    fn state(set: &FlowSet, key: &FlowKey, now: u32) -> Option<FlowState> {
        Some(set.entries[set.find(key, now)?].state)
    }

    const SYN_ACK: u8 = tcp_flag::SYN | tcp_flag::ACK;

    #[test]
    fn an_entry_lives_as_long_as_its_state_says_and_a_second_under_way() {
        let (mut set, tcp, udp) = (FlowSet::EMPTY, key(1, protocol::TCP, 1), key(1, protocol::UDP, 2));
        see(&mut set, &tcp, Opener::Pod, tcp_flag::SYN, 1000);
        see(&mut set, &udp, Opener::Pod, 0, 1000);
        assert_eq!(state(&set, &udp, 1030), Some(FlowState::Opening));
        assert_eq!(state(&set, &udp, 1031), None);
        assert_eq!(state(&set, &tcp, 1120), Some(FlowState::Opening));
        assert_eq!(state(&set, &tcp, 1121), None);
    }

    #[test]
    fn a_connection_through_its_states() {
        let (mut set, key) = (FlowSet::EMPTY, key(1, protocol::TCP, 1));
        see(&mut set, &key, Opener::Pod, tcp_flag::SYN, 10);
        assert!(see(&mut set, &key, Opener::Peer, SYN_ACK, 10));
        assert_eq!(state(&set, &key, 10), Some(FlowState::Answered));
        see(&mut set, &key, Opener::Peer, tcp_flag::ACK, 11);
        // Idle for days.
        assert_eq!(state(&set, &key, 400_000), Some(FlowState::Established));
        see(&mut set, &key, Opener::Pod, tcp_flag::FIN | tcp_flag::ACK, 400_000);
        see(&mut set, &key, Opener::Peer, tcp_flag::ACK, 400_001);
        assert_eq!(state(&set, &key, 400_121), Some(FlowState::Closing));
        assert_eq!(state(&set, &key, 400_122), None);
    }

    #[test]
    fn the_pods_reset_ends_it_in_seconds_and_its_fin_in_two_minutes() {
        for (flag, left) in [(tcp_flag::RST, 10), (tcp_flag::FIN, 120)] {
            let (mut set, key) = (FlowSet::EMPTY, key(1, protocol::TCP, 1));
            see(&mut set, &key, Opener::Peer, tcp_flag::SYN, 10);
            see(&mut set, &key, Opener::Pod, SYN_ACK, 10);
            see(&mut set, &key, Opener::Pod, tcp_flag::ACK, 10);
            see(&mut set, &key, Opener::Pod, flag, 20);
            assert!(state(&set, &key, 20 + left).is_some());
            assert_eq!(state(&set, &key, 20 + left + 1), None);
        }
    }

    #[test]
    fn a_reset_or_fin_of_the_other_side_may_be_forged_and_shortens_nothing() {
        for flag in [tcp_flag::RST, tcp_flag::FIN] {
            let (mut set, key) = (FlowSet::EMPTY, key(1, protocol::TCP, 1));
            see(&mut set, &key, Opener::Pod, tcp_flag::SYN, 10);
            see(&mut set, &key, Opener::Peer, SYN_ACK, 10);
            see(&mut set, &key, Opener::Peer, tcp_flag::ACK, 10);
            see(&mut set, &key, Opener::Peer, flag, 20);
            assert_eq!(state(&set, &key, 400_000), Some(FlowState::Answered));
            see(&mut set, &key, Opener::Peer, tcp_flag::ACK, 400_000);
            assert_eq!(state(&set, &key, 400_000), Some(FlowState::Established));
        }
    }

    #[test]
    fn datagrams_of_a_side_that_alone_may_send_are_its_own_flow() {
        let (mut set, key) = (FlowSet::EMPTY, key(1, protocol::UDP, 1));
        see(&mut set, &key, Opener::Peer, 0, 10);
        let seen = Seen { sender: Opener::Pod, flags: 0, now: 11 };
        assert!(note(&mut set, &key, &seen, Opens::IfUnknown));
        assert!(!note(&mut set, &key, &seen, Opens::OrTakesOver));
        assert_eq!(set.entries[set.find(&key, 11).unwrap()].opener, Opener::Pod);
    }

    #[test]
    fn a_fresh_syn_has_its_own_opener() {
        let (mut set, key) = (FlowSet::EMPTY, key(1, protocol::TCP, 1));
        see(&mut set, &key, Opener::Pod, tcp_flag::SYN, 10);
        see(&mut set, &key, Opener::Peer, tcp_flag::SYN, 11);
        assert_eq!(set.entries[set.find(&key, 11).unwrap()].opener, Opener::Peer);
        assert_eq!(set.entries.iter().filter(|entry| entry.is_live(11)).count(), 1);
    }

    #[test]
    fn a_flood_of_one_endpoint_takes_its_share_of_a_set_and_no_more() {
        let mut set = FlowSet::EMPTY;
        let others: [FlowKey; WAYS] =
            core::array::from_fn(|n| key(2 + u32::try_from(n).unwrap(), protocol::UDP, 1));
        for other in &others {
            see(&mut set, other, Opener::Pod, 0, 100);
            see(&mut set, other, Opener::Peer, 0, 100);
        }
        for number in 0..1000 {
            see(&mut set, &key(1, protocol::UDP, number), Opener::Pod, 0, 101);
            see(&mut set, &key(1, protocol::UDP, number), Opener::Peer, 0, 101);
        }
        let left = others.iter().filter(|other| set.find(other, 101).is_some()).count();
        assert_eq!(left, WAYS - SHARE);
    }

    #[test]
    fn no_datagrams_evict_an_established_connection() {
        let mut set = FlowSet::EMPTY;
        let connections: [FlowKey; WAYS - 1] =
            core::array::from_fn(|n| key(10 + u32::try_from(n).unwrap(), protocol::TCP, 1));
        for key in &connections {
            see(&mut set, key, Opener::Pod, tcp_flag::SYN, 10);
            see(&mut set, key, Opener::Peer, tcp_flag::ACK, 10);
        }
        for number in 0..1000 {
            let key = key(1 + u32::from(number) % 2, protocol::UDP, number);
            see(&mut set, &key, Opener::Pod, 0, 5000);
            see(&mut set, &key, Opener::Peer, 0, 5000);
        }
        assert!(connections.iter().all(|key| set.find(key, 5000).is_some()));
    }

    #[test]
    fn a_flood_of_syns_evicts_no_established_connection() {
        let mut set = FlowSet::EMPTY;
        let established: [FlowKey; WAYS - 1] =
            core::array::from_fn(|n| key(1, protocol::TCP, u16::try_from(n).unwrap()));
        for key in &established {
            see(&mut set, key, Opener::Peer, tcp_flag::SYN, 10);
            see(&mut set, key, Opener::Pod, SYN_ACK, 10);
            see(&mut set, key, Opener::Pod, tcp_flag::ACK, 10);
        }
        for number in 100..1100 {
            let key = key(1, protocol::TCP, number);
            see(&mut set, &key, Opener::Peer, tcp_flag::SYN, 5000);
            see(&mut set, &key, Opener::Pod, SYN_ACK, 5000);
        }
        for key in &established {
            assert_eq!(state(&set, key, 5000), Some(FlowState::Established));
        }
    }

    #[test]
    fn an_entry_is_written_once_a_second() {
        let (mut set, key) = (FlowSet::EMPTY, key(1, protocol::UDP, 1));
        see(&mut set, &key, Opener::Pod, 0, 10);
        see(&mut set, &key, Opener::Peer, 0, 10);
        let before = set;
        see(&mut set, &key, Opener::Peer, 0, 10);
        assert_eq!(set, before);
        see(&mut set, &key, Opener::Peer, 0, 11);
        assert_ne!(set, before);
    }
}
