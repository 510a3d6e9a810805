//! A socket buffer as the engine's `Packet`.

use aya_ebpf::bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR};
use aya_ebpf::helpers::{bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_skb_store_bytes};
use aya_ebpf::programs::TcContext;
use policy_common::masquerade::Known;
use policy_common::packet::{Aligned, Packet};
use policy_common::parse::{ETHERNET, ETHERTYPE_IPV6, Ip, is_extension};
use policy_common::rewrite::{Correction, PacketMut};

use crate::conntrack::masqueraded;

/// Headers up to here are read without a call: Ethernet and the longest IPv4 header end at 74.
const DIRECT: u32 = 128;

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

    /// The node itself originated the packet: it came in by no interface. That does not tell of what netfilter cuts of an
    /// IPv6 datagram that it had reassembled (`ip6_fragment` makes new packets without the interface of the old ones): a
    /// packet with extension headers must also belong to one of the node's sockets. A pod's socket is gone at the veth,
    /// which orphans its packets.
    #[inline(always)]
    pub(crate) fn is_of_this_node(&self) -> bool {
        // SAFETY: as in `ifindex`.
        let interface = unsafe { (*self.ctx.skb.skb).ingress_ifindex };
        // SAFETY: as in `ifindex`.
        let socket = unsafe { (*self.ctx.skb.skb).__bindgen_anon_2 };
        // SAFETY: the union's other field is padding.
        let socket = unsafe { socket.sk };
        interface == 0 && (!socket.is_null() || !self.has_extensions())
    }

    #[inline(always)]
    fn has_extensions(&self) -> bool {
        self.ethertype() == ETHERTYPE_IPV6
            && self.load::<8>(ETHERNET).is_none_or(|header| is_extension(header.byte(6)))
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
        #[expect(clippy::cast_possible_truncation, reason = "the kernel keeps sixteen bits in this field")]
        let protocol = protocol as u16;
        u16::from_be(protocol)
    }

    #[inline(always)]
    fn vlan(&self) -> bool {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.ctx.skb.skb).vlan_present != 0 }
    }

    /// Straight from the linear part where the bytes are there, which costs no call; else by `bpf_skb_load_bytes`,
    /// which finds them wherever they are. Never by pulling them up, which breaks GSO.
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<Aligned<N>> {
        const { assert!(N.is_multiple_of(4), "whole words are read") };
        // The verifier wants the offset bounded; what lies further in is behind IPv6 extensions.
        if offset < DIRECT {
            let start = self.ctx.data() + offset as usize;
            if start + N <= self.ctx.data_end() {
                let mut bytes = Aligned([0; N]);
                let mut at = 0;
                while at < N {
                    // SAFETY: the verifier has seen that these bytes lie before the packet's end. The address may be
                    // odd to a word; the kernels that we run on (x86-64, arm64) read such words as fast as others.
                    let word = unsafe { core::ptr::read_volatile((start + at) as *const u32) };
                    bytes.0[at..at + 4].copy_from_slice(&word.to_ne_bytes());
                    at += 4;
                }
                return Some(bytes);
            }
        }
        self.ctx.load::<Aligned<N>>(offset as usize).ok()
    }

    /// By way of a global function, which fills the same place.
    #[inline(always)]
    fn is_masqueraded(&self, _ip: &Ip, _known: &mut Known) -> bool {
        masqueraded(self.ctx.skb.skb) != 0
    }
}

/// include/uapi/linux/bpf.h, from Linux 6.16 on: a hardware checksum over the whole packet stays right where addresses
/// of IPv6 change, because their transport checksum makes good for them (kernel commit ead7f9b8de65).
const BPF_F_IPV6: u64 = 1 << 7;

impl PacketMut for Skb<'_> {
    #[inline(always)]
    fn store<const N: usize>(&mut self, offset: u32, bytes: &Aligned<N>) -> bool {
        let skb = self.ctx.skb.skb;
        #[expect(clippy::cast_possible_truncation, reason = "at most 16")]
        let length = N as u32;
        // SAFETY: the helper copies so many bytes from the buffer, and checks the offset.
        unsafe { bpf_skb_store_bytes(skb, offset, bytes.0.as_ptr().cast(), length, 0) == 0 }
    }

    #[inline(always)]
    fn correct_header(&mut self, offset: u32, difference: u32) -> bool {
        // SAFETY: the helper checks the offset.
        unsafe { bpf_l3_csum_replace(self.ctx.skb.skb, offset, 0, u64::from(difference), 0) == 0 }
    }

    #[inline(always)]
    fn correct(&mut self, offset: u32, difference: u32, how: Correction) -> bool {
        let mut flags = 0;
        if how.pseudo_header {
            flags |= u64::from(BPF_F_PSEUDO_HDR);
        }
        if how.optional {
            flags |= u64::from(BPF_F_MARK_MANGLED_0);
        }
        let (skb, difference) = (self.ctx.skb.skb, u64::from(difference));
        if how.ipv6 && how.pseudo_header {
            // SAFETY: as above. An older kernel refuses the flag and changes nothing.
            let result = unsafe { bpf_l4_csum_replace(skb, offset, 0, difference, flags | BPF_F_IPV6) };
            if result == 0 {
                return true;
            }
        }
        // SAFETY: as above.
        unsafe { bpf_l4_csum_replace(skb, offset, 0, difference, flags) == 0 }
    }
}
