//! The other addresses of flows that are translated, here or by the node behind us: entries of `TRANSLATIONS` and
//! `DATAGRAMS`, and how long they hold.

use crate::conntrack::FRAGMENT_SECONDS;
use crate::flows::FlowKey;
use crate::maps::{Addr6, Translation, Words};
use crate::parse::{Ip, protocol};
use crate::tables::Tables;

/// What an entry of `TRANSLATIONS` or `DATAGRAMS` is: `FlowKey::tracked`, apart from what stands in the flow table.
pub mod kind {
    /// By frontend: the backend of what the pod sends.
    pub const SENT: u8 = 16;
    /// By backend: the frontend that the pod believes to hear.
    pub const RECEIVED: u8 = 17;
    /// By the identification of a datagram to a frontend.
    pub const FRAGMENTS_SENT: u8 = 18;
    pub const FRAGMENTS_RECEIVED: u8 = 19;
    /// By a Service's port: what its client keeps to.
    pub const AFFINITY: u8 = 20;
}

/// Which of the two tables has the entry. Questions to a name server come and go so fast that they would push out
/// connections which are silent for a while.
#[inline(always)]
pub const fn is_of_datagrams(key: &FlowKey) -> bool {
    key.protocol == protocol::UDP
        || key.tracked == kind::FRAGMENTS_SENT
        || key.tracked == kind::FRAGMENTS_RECEIVED
}

pub mod flag {
    /// The other side was heard.
    pub const ANSWERED: u16 = 1;
    /// The pod has ended it.
    pub const CLOSING: u16 = 2;
    /// To the pod itself: both addresses change, and the packet turns round.
    pub const HAIRPIN: u16 = 4;
    /// Its way back: the source port changes.
    pub const BACK: u16 = 8;
    /// The node translates it (kube-proxy, from before the pod was isolated): it is judged here and left as it is.
    pub const FOLLOWED: u16 = 16;
    /// Of these: the answers to what the node has masqueraded.
    pub const MASKED: u16 = 32;
}

/// Seconds without a packet after which a translation is over: those of the connections themselves
/// (`conntrack::timeout_seconds`). What the node translates must end here before it ends there, or the node would choose
/// anew what was judged already: its connection tracking keeps datagrams 30 seconds, and connections a day (kube-proxy's
/// `--conntrack-tcp-timeout-established`).
#[inline(always)]
pub const fn idle_seconds(key: &FlowKey, flags: u16) -> u32 {
    match key.protocol {
        protocol if protocol != protocol::UDP && is_of_datagrams(key) => FRAGMENT_SECONDS,
        protocol::UDP if flags & flag::FOLLOWED != 0 => FOLLOWED_DATAGRAMS,
        protocol::UDP if flags & flag::ANSWERED == 0 => 30,
        protocol::UDP => 120,
        _ if flags & flag::CLOSING != 0 => 120,
        _ if flags & flag::FOLLOWED != 0 => FOLLOWED_CONNECTIONS,
        _ => 432_000,
    }
}

/// Seconds that flows which the node translates live without a packet.
pub const FOLLOWED_DATAGRAMS: u32 = 28;
pub const FOLLOWED_CONNECTIONS: u32 = 86_000;
/// An entry that was not used for so long is over, whatever it is.
const OVER: u32 = 1_000_000;

/// Seconds since an entry was used. Another CPU may have used it after `now` was read.
#[inline(always)]
pub(crate) const fn age(entry: &Translation, now: u32) -> u32 {
    let age = now.wrapping_sub(entry.seen);
    if age > u32::MAX / 2 { 0 } else { age }
}

#[inline(always)]
pub const fn is_live(entry: &Translation, key: &FlowKey, now: u32) -> bool {
    age(entry, now) <= idle_seconds(key, entry.flags)
}

pub(crate) struct Found {
    pub(crate) entry: Translation,
    /// It was last used in another second than this one.
    pub(crate) is_stale: bool,
    is_live: bool,
}

/// Reads a live entry and notes its use, at most once a second: cores would fight over the line.
#[inline(always)]
pub(crate) fn find<T: Tables>(tables: &T, key: &FlowKey, now: u32, flags: u16) -> Option<Found> {
    let found = tables.with_translation(key, |entry| {
        let is_live = is_live(entry, key, now);
        let found = Found { entry: *entry, is_stale: entry.seen != now, is_live };
        if is_live {
            if entry.flags & flags != flags {
                entry.flags |= flags;
            }
            if entry.seen != now {
                entry.seen = now;
            }
        }
        found
    })?;
    if found.is_live { Some(found) } else { None }
}

/// What the entry says holds no more.
#[inline(always)]
pub(crate) fn forget<T: Tables>(tables: &T, key: &FlowKey, now: u32) {
    let _ = tables.with_translation(key, |entry| entry.seen = now.wrapping_sub(OVER));
}

#[inline(always)]
pub(crate) fn key(
    kind: u8,
    ifindex: u32,
    ip: &Ip,
    remote: &Words,
    remote_port: u16,
    local_port: u16,
) -> FlowKey {
    FlowKey {
        remote: Addr6::from_words(remote),
        ifindex,
        remote_port,
        local_port,
        protocol: ip.protocol,
        family: ip.family,
        tracked: kind,
        zero: 0,
    }
}

#[inline(always)]
pub(crate) fn fragment_key(kind: u8, ifindex: u32, ip: &Ip, remote: &Words) -> FlowKey {
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of the identification")]
    let (high, low) = ((ip.fragment_id >> 16) as u16, ip.fragment_id as u16);
    // IPv6 identifies a datagram without its protocol (RFC 8200 section 4.5).
    let protocol = if ip.family == 4 { ip.protocol } else { 0 };
    FlowKey { protocol, ..key(kind, ifindex, ip, remote, high, low) }
}
