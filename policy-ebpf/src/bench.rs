//! Programs for `cargo xtask bench` alone: each run of `BPF_PROG_TEST_RUN` repeats one packet, so these put another
//! remote address into it each time before they judge it. The rotation's own cost is in `rotate_no_op` too.

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::btf_maps::{Array, PerCpuArray};
use aya_ebpf::macros::{btf_map, classifier};
use aya_ebpf::programs::TcContext;
use policy_common::Direction;
use policy_common::maps::Rotation;

/// Which addresses take turns.
#[btf_map]
static ROTATION: Array<Rotation, 1> = Array::new();

#[btf_map]
static ROTATION_AT: PerCpuArray<u32, 1> = PerCpuArray::new();

/// Behind 14 bytes of Ethernet.
const IPV4_SRC: usize = 26;
const IPV4_DST: usize = 30;

#[classifier]
pub(crate) fn rotate_no_op(ctx: TcContext) -> i32 {
    if rotate(&ctx, IPV4_DST).is_some() { TC_ACT_UNSPEC } else { TC_ACT_SHOT }
}

#[classifier]
pub(crate) fn rotate_from_pod(ctx: TcContext) -> i32 {
    if rotate(&ctx, IPV4_DST).is_some() { crate::judge(&ctx, Direction::Egress) } else { TC_ACT_SHOT }
}

#[classifier]
pub(crate) fn rotate_to_pod(ctx: TcContext) -> i32 {
    if rotate(&ctx, IPV4_SRC).is_some() { crate::judge(&ctx, Direction::Ingress) } else { TC_ACT_SHOT }
}

#[inline(always)]
fn rotate(ctx: &TcContext, offset: usize) -> Option<()> {
    let rotation = ROTATION.get(0)?;
    let at = ROTATION_AT.get_ptr_mut(0)?;
    // SAFETY: the verifier has seen the null check; the slot belongs to this CPU.
    let turn = unsafe {
        *at = (*at).wrapping_add(1);
        *at
    };
    // Knuth's multiplicative hash: neighbours in time are no neighbours in memory.
    let index = turn.wrapping_mul(2_654_435_761) % rotation.count.max(1);
    let address = rotation.first.wrapping_add(index.wrapping_mul(rotation.step));
    ctx.store(offset, &address.to_be(), 0).ok()
}
