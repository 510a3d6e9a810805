//! What the compiler wrote, as the engine sees it: BPF maps in the kernel, memory on the host.

use crate::flows::{FlowKey, FlowSet};
use crate::maps::{
    Addr4, Addr6, BackendEntry, Endpoint, ServiceKey, ServiceRef, Sets, SourceKey, Translation, Words,
};
use crate::masquerade;
use crate::parse::{Ip, Scratch};
use crate::service;
use crate::track::{self, Case};

pub trait Tables: Sized {
    fn endpoint(&self, ifindex: u32) -> Option<&Endpoint>;

    /// The policy sets of a slot; `None` where the table has no such slot.
    fn sets(&self, slot: u32) -> Option<Sets>;

    /// The class of an address: its own entry, else the longest prefix, else `CLASS_NONE`.
    fn class_of_v4(&self, address: &Addr4) -> u32;
    fn class_of_v6(&self, address: &Addr6) -> u32;

    /// The class of a port; `protocol` counts TCP, UDP, SCTP from 0.
    fn class_of_port(&self, protocol: u32, port: u16) -> Option<u32>;

    /// The first word of the row at this index of `ROWS`.
    fn row(&self, index: u32) -> Option<u32>;

    /// One word of `BITS`.
    fn word(&self, index: u32) -> Option<u64>;

    /// Calls `f` with the set of the flow table that this key belongs to, which nobody else changes meanwhile; `None`
    /// where there is no table. `f` calls nothing that is not inlined: the kernel allows no call under a lock.
    fn with_flows<R>(&self, key: &FlowKey, f: impl FnOnce(&mut FlowSet) -> R) -> Option<R>;

    /// Whether a list of extra sources lets the pod of this interface send from the address.
    fn is_extra_source(&self, source: &SourceKey) -> bool;

    /// Answers what is off the hot path. The kernel's tables do it by another road to `track::answer`.
    #[inline(always)]
    fn ask(&self, case: &Case, ip: &Ip, quoted: &Ip) -> i32 {
        track::answer(self, case, ip, quoted)
    }

    /// Monotonic, in seconds.
    fn now(&self) -> u32;

    /// Whether some Service may have the address: where it says no, none has.
    fn may_be_frontend(&self, address: &Words) -> bool;

    fn service(&self, key: &ServiceKey) -> Option<ServiceRef>;

    /// One place of `BACKENDS`.
    fn backend(&self, index: u32) -> Option<BackendEntry>;

    /// Any number.
    fn random(&self) -> u32;

    /// What of the pod behind this interface may be translated (`maps::Flag`): once it was, it stays so.
    fn translates(&self, ifindex: u32) -> u32;
    /// Adds bits.
    fn set_translates(&self, ifindex: u32, bits: u32);

    /// Calls `f` with the entry of this key. Several packets may do so at once.
    fn with_translation<R>(&self, key: &FlowKey, f: impl FnOnce(&mut Translation) -> R) -> Option<R>;

    /// Returns whether there was room.
    fn put_translation(&self, key: &FlowKey, value: &Translation) -> bool;

    /// Translates what a pod sends to a Service. The kernel's tables do it by another road, as with `ask`.
    #[inline(always)]
    fn outbound(&self, ifindex: u32, isolated: bool, scratch: &mut Scratch) -> i32 {
        service::outbound(self, ifindex, isolated, scratch)
    }

    /// Remembers a translation that policy let through.
    #[inline(always)]
    fn commit(&self, ifindex: u32, scratch: &mut Scratch) -> i32 {
        service::commit(self, ifindex, scratch)
    }

    /// Forgets the choice of an endpoint that policy denies.
    #[inline(always)]
    fn abandon(&self, ifindex: u32, scratch: &mut Scratch) -> i32 {
        service::abandon(self, ifindex, scratch)
    }

    /// Finds where a masqueraded packet comes from.
    #[inline(always)]
    fn unmask(&self, ifindex: u32, scratch: &mut Scratch) -> i32 {
        masquerade::unmask(self, ifindex, scratch)
    }

    /// Remembers a masqueraded connection that policy let through.
    #[inline(always)]
    fn remember(&self, ifindex: u32, scratch: &mut Scratch) -> i32 {
        masquerade::remember(self, ifindex, scratch)
    }

    /// Translates what a pod receives of a Service's endpoint.
    #[inline(always)]
    fn inbound(&self, ifindex: u32, scratch: &mut Scratch) -> i32 {
        service::inbound(self, ifindex, scratch)
    }
}
