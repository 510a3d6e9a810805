//! Programs for `cargo xtask bench` alone: each run of `BPF_PROG_TEST_RUN` repeats one packet, so these put another
//! remote address, and where asked other ports, into it each time before they judge it. The rotation's own cost is in
//! `rotate_no_op` too.

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::btf_maps::{Array, PerCpuArray};
use aya_ebpf::macros::{btf_map, classifier};
use aya_ebpf::programs::TcContext;
use policy_common::Direction;
use policy_common::maps::Rotation;

/// Which words take turns: the last one of the remote address, then the two ports. A count of 0 leaves one as it is.
#[btf_map]
static ROTATION: Array<Rotation, 2> = Array::new();
const ADDRESS: u32 = 0;
const PORTS: u32 = 1;

#[btf_map]
static ROTATION_AT: PerCpuArray<u32, 1> = PerCpuArray::new();

/// Offsets behind 14 bytes of Ethernet.
const ETHERTYPE: usize = 12;
const IPV6: u16 = 0x86dd;
const IPV4_SRC: usize = 26;
const IPV4_DST: usize = 30;
const IPV4_PORTS: usize = 34;
const IPV6_SRC_END: usize = 34;
const IPV6_DST_END: usize = 50;
const IPV6_PORTS: usize = 54;

/// Knuth's multiplicative hash: neighbours in time are no neighbours in memory.
const SPREAD: u32 = 2_654_435_761;
/// Another odd number, so that ports don't go in step with addresses.
const SPREAD_PORTS: u32 = 2_246_822_519;

#[classifier]
pub(crate) fn rotate_no_op(ctx: TcContext) -> i32 {
    if rotate(&ctx, Direction::Egress).is_some() { TC_ACT_UNSPEC } else { TC_ACT_SHOT }
}

#[classifier]
pub(crate) fn rotate_from_pod(ctx: TcContext) -> i32 {
    judge(&ctx, Direction::Egress)
}

#[classifier]
pub(crate) fn rotate_to_pod(ctx: TcContext) -> i32 {
    judge(&ctx, Direction::Ingress)
}

#[inline(always)]
fn judge(ctx: &TcContext, direction: Direction) -> i32 {
    if rotate(ctx, direction).is_some() { crate::judge(ctx, direction) } else { TC_ACT_SHOT }
}

#[inline(always)]
fn rotate(ctx: &TcContext, direction: Direction) -> Option<()> {
    let at = ROTATION_AT.get_ptr_mut(0)?;
    // SAFETY: the verifier has seen the null check; the slot belongs to this CPU.
    let turn = unsafe {
        *at = (*at).wrapping_add(1);
        *at
    };
    let is_ipv6 = ctx.load::<u16>(ETHERTYPE).ok()? == IPV6.to_be();
    let (address, ports) = match (is_ipv6, direction) {
        (false, Direction::Egress) => (IPV4_DST, IPV4_PORTS),
        (false, Direction::Ingress) => (IPV4_SRC, IPV4_PORTS),
        (true, Direction::Egress) => (IPV6_DST_END, IPV6_PORTS),
        (true, Direction::Ingress) => (IPV6_SRC_END, IPV6_PORTS),
    };
    write(ctx, ADDRESS, turn.wrapping_mul(SPREAD), address)?;
    write(ctx, PORTS, turn.wrapping_mul(SPREAD_PORTS), ports)
}

#[inline(always)]
fn write(ctx: &TcContext, which: u32, spread: u32, offset: usize) -> Option<()> {
    let rotation = ROTATION.get(which)?;
    if rotation.count == 0 {
        return Some(());
    }
    let index = spread % rotation.count;
    let word = rotation.first.wrapping_add(index.wrapping_mul(rotation.step));
    ctx.store(offset, &word.to_be(), 0).ok()
}
