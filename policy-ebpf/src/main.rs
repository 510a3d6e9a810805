//! Sluice's tc programs. Everything that decides is in `policy-common`; here are the hooks, the maps and the reports.
#![no_std]
#![no_main]
#![expect(
    unsafe_code,
    reason = "this crate is the kernel boundary: map values are raw pointers that only the verifier proves valid"
)]

#[cfg(feature = "bench")]
mod bench;
mod conntrack;
mod maps;
mod report;
mod skb;
mod tables;

use aya_ebpf::bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::{bpf_redirect_peer, bpf_skb_change_type};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use policy_common::flows::{FlowSeed, FlowState, Opener};
use policy_common::parse::ETHERNET;
use policy_common::rewrite::rewrite;
use policy_common::{Arrival, Direction, DropReason, Tables as _, Verdict, decide};
use skb::Skb;
use tables::BpfTables;

/// tc ingress on the host end of the veth: what the pod sends.
#[classifier]
pub(crate) fn from_pod(ctx: TcContext) -> i32 {
    judge(&ctx, Direction::Egress)
}

/// tc egress on the host end of the veth: what the pod receives.
#[classifier]
pub(crate) fn to_pod(ctx: TcContext) -> i32 {
    judge(&ctx, Direction::Ingress)
}

/// Does nothing: the bench compares with it, in the same run.
#[classifier]
pub(crate) fn no_op(_ctx: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

/// Tells user space what a tick is: it runs this twice and compares with its own clock.
#[classifier]
pub(crate) fn read_clock(_ctx: TcContext) -> i32 {
    #[expect(clippy::cast_possible_truncation, reason = "the low bits are enough for a difference")]
    let ticks = tables::jiffies() as i32;
    ticks
}

/// Tells user space what second it is in the flow table.
#[classifier]
pub(crate) fn read_seconds(_ctx: TcContext) -> i32 {
    BpfTables.now().cast_signed()
}

/// Puts a flow that user space knows of into the table: under the set's lock, which user space cannot hold while it
/// looks for a place. Returns 1 where it did, 0 where the flow was known, -1 for what is no flow.
#[classifier]
pub(crate) fn seed_flow(ctx: TcContext) -> i32 {
    let Ok(seed) = ctx.load::<FlowSeed>(ETHERNET as usize) else { return -1 };
    let (Some(opener), Some(state)) = (Opener::from_number(seed.opener), FlowState::from_number(seed.state))
    else {
        return -1;
    };
    let now = BpfTables.now();
    let put = BpfTables.with_flows(&seed.key, |set| {
        policy_common::conntrack::seed(set, &seed.key, opener, state, seed.seconds, now)
    });
    put.map_or(-1, i32::from)
}

#[inline(always)]
fn judge(ctx: &TcContext, direction: Direction) -> i32 {
    let packet = Skb::new(ctx);
    let arrival = Arrival {
        ifindex: packet.ifindex(),
        direction,
        from_node: direction == Direction::Ingress && packet.is_of_this_node(),
    };
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return TC_ACT_SHOT };
    // SAFETY: the verifier has seen the null check, and nothing else runs on this CPU's slot meanwhile.
    let scratch = unsafe { &mut *scratch };
    let mut verdict = decide(&packet, &BpfTables, &arrival, scratch);
    let scratch = core::hint::black_box(scratch);
    if verdict.is_pass() && scratch.wire.changes != 0 && write_translation(ctx.skb.skb) != 0 {
        verdict = Verdict::Drop(DropReason::Table);
    }
    report::count(&packet, direction, verdict);
    match verdict {
        Verdict::Pass(_)
            if direction == Direction::Egress && scratch.wire.changes != 0 && scratch.wire.hairpin != 0 =>
        {
            turn_round(ctx.skb.skb, arrival.ifindex)
        }
        // An allowed packet goes on to whatever else hangs on the hook: we only ever drop.
        Verdict::Pass(_) => TC_ACT_UNSPEC,
        Verdict::Drop(reason) => {
            // Used, so that the compiler keeps the result: the verifier rejects a BPF function that leaves whatever it
            // had in its result register.
            core::hint::black_box(report::dropped(ctx, &packet, &arrival, reason, &scratch.ip));
            TC_ACT_SHOT
        }
    }
}

/// Writes what `SCRATCH` says into the packet. Not 0 where that failed. The verifier checks it once, by itself.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn write_translation(skb: *mut __sk_buff) -> i32 {
    let ctx = TcContext::new(skb);
    let Some(scratch) = maps::SCRATCH.get(0) else { return -1 };
    i32::from(!rewrite(&mut Skb::new(&ctx), scratch))
}

/// Hands a packet to the pod that sent it, past the host's stack, which would take it for a forged one.
#[inline(always)]
fn turn_round(skb: *mut __sk_buff, ifindex: u32) -> i32 {
    /// include/uapi/linux/if_packet.h: it was addressed to the gateway.
    const PACKET_HOST: u32 = 0;
    // SAFETY: the helper checks what it is given; where it refuses, the pod's stack drops the packet.
    let _ = unsafe { bpf_skb_change_type(skb, PACKET_HOST) };
    // SAFETY: as above.
    let result = unsafe { bpf_redirect_peer(ifindex, 0) };
    #[expect(clippy::cast_possible_truncation, reason = "a verdict of tc")]
    let verdict = result as i32;
    verdict
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
