//! The engine's `Tables` over the maps.

use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::helpers::bpf_jiffies64;
use policy_common::Tables;
use policy_common::maps::{
    Addr4, Addr6, CELL_ASK, CELL_BLOCK, CLASS_NONE, Endpoint, Flow, FlowKey, FragmentKey, FragmentSeen,
    IFINDEX_DIRECT, INDEX_BLOCK, INDEX_TOP, PORTS_PER_PROTOCOL, Sets,
};
use policy_common::parse::protocol;

use crate::maps;

/// Seconds that later fragments may follow their first: the receiver's own limit (RFC 1122: 60 to 120; Linux: 30).
const FRAGMENT_SECONDS: u64 = 30;

pub(crate) struct BpfTables;

#[inline(always)]
pub(crate) fn jiffies() -> u64 {
    // SAFETY: the helper takes nothing and returns a number.
    unsafe { bpf_jiffies64() }
}

/// Copies one map value. The kernel may write it at the same time: values that must not tear are eight bytes.
macro_rules! read {
    ($lookup:expr) => {
        match $lookup {
            // SAFETY: the verifier has seen the null check; map values live until the program returns.
            Some(value) => Some(unsafe { core::ptr::read_volatile(value) }),
            None => None,
        }
    };
}

/// A cell that is not there is one that has to ask.
#[inline(always)]
fn cell(index: u32) -> u32 {
    match read!(maps::INDEX4.get_ptr(index)) {
        Some(cell) => cell.class,
        None => CELL_ASK,
    }
}

#[inline(always)]
fn block_cell(cell: u32, bits: u32) -> u32 {
    INDEX_TOP + (cell & !CELL_BLOCK) * INDEX_BLOCK + (bits & 0xff)
}

impl Tables for BpfTables {
    #[inline(always)]
    fn endpoint(&self, ifindex: u32) -> Option<&Endpoint> {
        let slot = if ifindex < IFINDEX_DIRECT {
            read!(maps::SLOTS.get_ptr(ifindex))?
        } else {
            read!(maps::SLOTS_HIGH.get_ptr(ifindex))?
        };
        let slot = slot.slot_plus_one.checked_sub(1)?;
        let endpoint = maps::ENDPOINTS.get(slot)?;
        (endpoint.ifindex == ifindex).then_some(endpoint)
    }

    #[inline(always)]
    fn sets(&self, slot: u32) -> Option<Sets> {
        read!(maps::SETS.get_ptr(slot).map(<*const Sets>::cast::<u64>)).map(Sets::from_bits)
    }

    #[inline(always)]
    fn class_of_v4(&self, address: &Addr4) -> u32 {
        let bits = u32::from_be(address.word());
        let mut cell = cell(bits >> 16);
        if cell & CELL_BLOCK != 0 {
            cell = self::cell(block_cell(cell, bits >> 8));
            if cell & CELL_BLOCK != 0 {
                cell = self::cell(block_cell(cell, bits));
            }
        }
        if cell & CELL_ASK == 0 {
            return cell;
        }
        if let Some(class) = read!(maps::PEERS4.get_ptr(address)) {
            return class.class;
        }
        maps::CIDRS4.get(&Key::new(32, *address)).map_or(CLASS_NONE, |class| class.class)
    }

    #[inline(always)]
    fn class_of_v6(&self, address: &Addr6) -> u32 {
        if let Some(class) = read!(maps::PEERS6.get_ptr(address)) {
            return class.class;
        }
        maps::CIDRS6.get(&Key::new(128, *address)).map_or(CLASS_NONE, |class| class.class)
    }

    #[inline(always)]
    fn class_of_port(&self, protocol: u32, port: u16) -> Option<u32> {
        read!(maps::PORTS.get_ptr(protocol * PORTS_PER_PROTOCOL + u32::from(port))).map(|class| class.class)
    }

    #[inline(always)]
    fn row(&self, index: u32) -> Option<u32> {
        read!(maps::ROWS.get_ptr(index)).map(|row| row.word)
    }

    #[inline(always)]
    fn word(&self, index: u32) -> Option<u64> {
        read!(maps::BITS.get_ptr(index)).map(|word| word.bits)
    }

    #[inline(always)]
    fn with_flow<R>(&self, key: &FlowKey, f: impl FnOnce(Option<&mut Flow>) -> R) -> R {
        let entry = if key.protocol == protocol::TCP {
            maps::FLOWS_TCP.get_ptr_mut(key)
        } else {
            maps::FLOWS_ANY.get_ptr_mut(key)
        };
        // SAFETY: the verifier has seen the null check. Another core may write the same entry; each field is one
        // aligned store, and any mixture of two writers' fields is a state that one of them could have written.
        f(entry.map(|flow| unsafe { &mut *flow }))
    }

    #[inline(always)]
    fn put_flow(&self, key: &FlowKey, flow: &Flow) {
        // An LRU map evicts rather than refuses; where it does refuse (no memory), replies are lost, nothing opens.
        let _ = if key.protocol == protocol::TCP {
            maps::FLOWS_TCP.insert(key, flow, 0)
        } else {
            maps::FLOWS_ANY.insert(key, flow, 0)
        };
    }

    #[inline(always)]
    fn fragment_allowed(&self, key: &FragmentKey) -> bool {
        match read!(maps::FRAGMENTS.get_ptr(key)) {
            Some(seen) => {
                jiffies().saturating_sub(seen.seen) <= FRAGMENT_SECONDS * u64::from(self.ticks_per_second())
            }
            None => false,
        }
    }

    #[inline(always)]
    fn allow_fragment(&self, key: &FragmentKey) {
        // Where it is refused, the rest of the datagram is dropped: closed.
        let _ = maps::FRAGMENTS.insert(key, FragmentSeen { seen: jiffies() }, 0);
    }

    #[inline(always)]
    fn now(&self) -> u64 {
        jiffies()
    }

    #[inline(always)]
    fn ticks_per_second(&self) -> u32 {
        maps::SETTINGS.get(0).map_or(0, |settings| settings.ticks_per_second)
    }
}
