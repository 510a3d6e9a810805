//! A socket buffer as the engine's `Packet`.

use aya_ebpf::programs::TcContext;
use policy_common::packet::{Aligned, Packet};

pub(crate) struct Skb<'a> {
    ctx: &'a TcContext,
}

impl<'a> Skb<'a> {
    #[inline(always)]
    pub(crate) const fn new(ctx: &'a TcContext) -> Self {
        Self { ctx }
    }

    #[inline(always)]
    pub(crate) fn ifindex(&self) -> u32 {
        // SAFETY: the context of a running classifier is a valid `__sk_buff`.
        unsafe { (*self.ctx.skb.skb).ifindex }
    }

    /// 0 where the node itself originated the packet; another interface's index where it was forwarded.
    #[inline(always)]
    pub(crate) fn ingress_ifindex(&self) -> u32 {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.ctx.skb.skb).ingress_ifindex }
    }
}

impl Packet for Skb<'_> {
    #[inline(always)]
    fn len(&self) -> u32 {
        self.ctx.len()
    }

    #[inline(always)]
    fn ethertype(&self) -> u16 {
        // SAFETY: as in `ifindex`.
        let protocol = unsafe { (*self.ctx.skb.skb).protocol };
        u16::from_be(protocol as u16)
    }

    #[inline(always)]
    fn vlan(&self) -> bool {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.ctx.skb.skb).vlan_present != 0 }
    }

    /// By `bpf_skb_load_bytes`: headers may be anywhere in the buffer, and pulling them breaks GSO.
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<Aligned<N>> {
        self.ctx.load::<Aligned<N>>(offset as usize).ok()
    }
}
