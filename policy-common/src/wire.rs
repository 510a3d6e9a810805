//! What a packet shall bear when it has passed.

use crate::maps::Words;
use crate::parse::Ip;

/// What has to be written into a packet that passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Wire {
    pub src: Words,
    pub dst: Words,
    /// Of the packet that an ICMP error quotes: its address of the other end.
    pub quoted: Words,
    /// What the pod believes to talk to.
    pub frontend: Words,
    /// The seconds that a client keeps its backend, and what it is kept by.
    pub affinity: [u32; 3],
    pub src_port: u16,
    pub dst_port: u16,
    pub quoted_port: u16,
    pub frontend_port: u16,
    /// It shall bear other addresses than it came with: 1 where the pod sent it, 2 where the pod receives it.
    pub changes: u8,
    /// 1: the translation is remembered when policy lets it pass.
    pub is_new: u8,
    /// 1: it turns round to the pod that sent it.
    pub hairpin: u8,
    /// 1: `Scratch::quoted` is filled, with the addresses that policy judges.
    pub is_quoted: u8,
    /// 1: the node has masqueraded it, and its source is now where it comes from.
    pub masked: u8,
}

/// Values of `Wire::changes`.
pub const SENT: u8 = 1;
pub const RECEIVED: u8 = 2;

impl Wire {
    pub const EMPTY: Self = Self {
        src: [0; 4],
        dst: [0; 4],
        quoted: [0; 4],
        frontend: [0; 4],
        affinity: [0; 3],
        src_port: 0,
        dst_port: 0,
        quoted_port: 0,
        frontend_port: 0,
        changes: 0,
        is_new: 0,
        hairpin: 0,
        is_quoted: 0,
        masked: 0,
    };

    /// The rest means nothing then.
    #[inline(always)]
    pub const fn clear(&mut self) {
        self.changes = 0;
        self.is_new = 0;
        self.hairpin = 0;
        self.is_quoted = 0;
        self.masked = 0;
    }

    /// As the packet is.
    #[inline(always)]
    pub(crate) fn begin(&mut self, ip: &Ip) {
        put(&mut self.src, &ip.src);
        put(&mut self.dst, &ip.dst);
        self.src_port = ip.src_port;
        self.dst_port = ip.dst_port;
    }
}

/// Word by word: of the whole the compiler makes a call in BPF.
#[inline(always)]
pub(crate) fn put(to: &mut Words, from: &Words) {
    let mut at = 0;
    while at < 4 {
        to[at] = from[at];
        at += 1;
    }
}
