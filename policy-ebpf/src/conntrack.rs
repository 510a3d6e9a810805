//! The node's connection tracking, as it hangs on a socket buffer.
//!
//! Read by its address (`bpf_probe_read_kernel`, which a context may be given to since it is the socket buffer itself),
//! not by `bpf_skb_ct_lookup`: this works from Linux 5.10 on instead of 5.18, looks nothing up and takes no reference.
//! The packet holds its entry while we run.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use policy_common::masquerade::Tuple;

use crate::maps;

/// Where `_nfct` stands in a `struct sk_buff`; 0: nothing may be read. The agent writes it before it loads the programs, so
/// that the verifier knows it and never sees the call that a locked down kernel refuses.
#[unsafe(no_mangle)]
static NFCT_OFFSET: u32 = 0;
/// Where `tuplehash` stands in a `struct nf_conn`.
#[unsafe(no_mangle)]
static TUPLES_OFFSET: u32 = 0;

/// include/linux/skbuff.h: the lower bits of `_nfct` tell where in its connection a packet is.
const INFO_MASK: u64 = 7;
/// `IP_CT_ESTABLISHED`, `IP_CT_NEW`: sent by the connection's opener.
const ESTABLISHED: u64 = 0;
const NEW: u64 = 2;

/// A `struct nf_conntrack_tuple_hash` is two pointers and a tuple.
const LINKS: usize = 16;
const TUPLE: usize = size_of::<Tuple>();

/// Reads what connection tracking knows of a packet from a connection's opener into `SCRATCH`, where it bears another
/// source than its opener gave it. 1 where it does. The verifier checks it once, by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn masqueraded(skb: *mut __sk_buff) -> i32 {
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return 0 };
    // SAFETY: the verifier has seen the null check, and nothing else runs on this CPU's slot meanwhile: the caller reads
    // its own view of it anew afterwards.
    let scratch = unsafe { &mut *scratch };
    // SAFETY: a static of this program; volatile, because the agent writes it.
    let nfct_offset = unsafe { core::ptr::read_volatile(&raw const NFCT_OFFSET) };
    if nfct_offset == 0 {
        return 0;
    }
    // SAFETY: as above.
    let tuples_offset = unsafe { core::ptr::read_volatile(&raw const TUPLES_OFFSET) };
    let mut nfct = 0_u64;
    let at = (skb as u64).wrapping_add(u64::from(nfct_offset));
    if !read(&raw mut nfct, 8, at) || nfct == 0 || !matches!(nfct & INFO_MASK, ESTABLISHED | NEW) {
        return 0;
    }
    let original = (nfct & !INFO_MASK).wrapping_add(u64::from(tuples_offset)).wrapping_add(LINKS as u64);
    let known = &mut scratch.known;
    if !read(&raw mut known.original, TUPLE, original) || known.original.src == scratch.ip.src {
        return 0;
    }
    let reply = original.wrapping_add((LINKS + TUPLE) as u64);
    i32::from(read(&raw mut known.reply, TUPLE, reply) && known.is_of(&scratch.ip))
}

/// Whether so many bytes could be read.
#[inline(always)]
fn read<T>(to: *mut T, length: usize, from: u64) -> bool {
    #[expect(clippy::cast_possible_truncation, reason = "a tuple at most")]
    let length = length as u32;
    // SAFETY: `to` has room for so many bytes, any of which make a value of numbers. The helper reads any address, and fails
    // where nothing is.
    unsafe { bpf_probe_read_kernel(to.cast(), length, from as *const _) == 0 }
}
