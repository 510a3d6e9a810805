//! What the compiler wrote, as the engine sees it: BPF maps in the kernel, memory on the host.

use crate::maps::{Addr4, Addr6, Endpoint, Flow, FlowKey, FragmentKey, Sets};

pub trait Tables {
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

    /// Calls `f` with the flow's entry, where there is one, to read and to change.
    fn with_flow<R>(&self, key: &FlowKey, f: impl FnOnce(Option<&mut Flow>) -> R) -> R;

    /// Creates or replaces a flow's entry. A table that refuses costs the flow its replies, never opens anything.
    fn put_flow(&self, key: &FlowKey, flow: &Flow);

    /// Whether the first fragment of this datagram was allowed not long ago.
    fn fragment_allowed(&self, key: &FragmentKey) -> bool;
    fn allow_fragment(&self, key: &FragmentKey);

    /// Monotonic, in ticks.
    fn now(&self) -> u64;
    fn ticks_per_second(&self) -> u32;
}
