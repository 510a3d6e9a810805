//! Counters for everything, events for a bounded sample of what was dropped.

use aya_ebpf::programs::TcContext;
use policy_common::maps::{Addr6, COUNTER_PASS_BASE, Event, EventBudget};
use policy_common::parse::Ip;
use policy_common::{Arrival, Direction, DropReason, Packet as _, Verdict};

use crate::maps;
use crate::skb::Skb;
use crate::tables::jiffies;

#[inline(always)]
pub(crate) fn count(packet: &Skb<'_>, direction: Direction, verdict: Verdict) {
    let number = match verdict {
        Verdict::Drop(reason) => reason as u32 * 2,
        Verdict::Pass(reason) => COUNTER_PASS_BASE + reason as u32 * 2,
    };
    if let Some(counter) = maps::COUNTS.get_ptr_mut(number + direction as u32) {
        // SAFETY: the verifier has seen the null check; the slot belongs to this CPU.
        let counter = unsafe { &mut *counter };
        counter.packets = counter.packets.wrapping_add(1);
        counter.bytes = counter.bytes.wrapping_add(u64::from(packet.len()));
    }
}

/// Returns whether an event was sent. Not inlined: it is off the hot path, and its stack must not add to the decision's.
#[inline(never)]
pub(crate) fn dropped(
    ctx: &TcContext,
    packet: &Skb<'_>,
    arrival: &Arrival,
    reason: DropReason,
    ip: &Ip,
) -> bool {
    #[cfg(feature = "log")]
    aya_log_ebpf::info!(ctx, "drop if {} reason {}", arrival.ifindex, reason as u8);
    #[cfg(not(feature = "log"))]
    let _ = ctx;
    let Some(budget) = maps::EVENT_BUDGET.get_ptr_mut(0) else { return false };
    // SAFETY: the verifier has seen the null check; the slot belongs to this CPU.
    let budget = unsafe { &mut *budget };
    let mut entry = match has_room(budget).then(|| maps::EVENTS.reserve(0)).flatten() {
        Some(entry) => entry,
        None => {
            budget.suppressed = budget.suppressed.wrapping_add(1);
            return false;
        }
    };
    // A frame that could not be parsed so far has no addresses; the slot may still hold those of the one before.
    let (src, dst) = if ip.family == 0 { ([0; 4], [0; 4]) } else { (ip.src, ip.dst) };
    entry.write(Event {
        src: Addr6::from_words(&src),
        dst: Addr6::from_words(&dst),
        ifindex: arrival.ifindex,
        length: packet.len(),
        src_port: ip.src_port,
        dst_port: ip.dst_port,
        family: ip.family,
        protocol: ip.protocol,
        reason: reason as u8,
        direction: arrival.direction as u8,
    });
    entry.submit(0);
    true
}

/// A flood of drops must not become a flood of events.
#[inline(always)]
fn has_room(budget: &mut EventBudget) -> bool {
    let limit = maps::SETTINGS.get(0).map_or(0, |settings| settings.events_per_tick);
    let tick = jiffies();
    if budget.tick != tick {
        budget.tick = tick;
        budget.sent = 0;
    }
    let room = budget.sent < limit;
    budget.sent += u32::from(room);
    room
}
