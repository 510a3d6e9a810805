//! The engine's `Tables` over the maps.

use aya_ebpf::bindings::bpf_spin_lock;
use aya_ebpf::btf_maps::LruHashMap;
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_jiffies64, bpf_spin_lock, bpf_spin_unlock};
use policy_common::Tables;
use policy_common::flows::{FlowKey, FlowSet};
use policy_common::maps::{
    Addr4, Addr6, BackendEntry, CELL_ASK, CELL_BLOCK, CLASS_NONE, Endpoint, Flag, IFINDEX_DIRECT,
    INDEX_BLOCK, INDEX_TOP, PORTS_PER_PROTOCOL, SOURCE_KEY_BITS, ServiceKey, ServiceRef, Sets, SourceKey,
    TRANSLATES, Translation, WORD_BITS, Words, vip_bit,
};
use policy_common::masquerade;
use policy_common::parse::{Ip, Scratch};
use policy_common::service;
use policy_common::track::{self, Case, Question};
use policy_common::translation;

use crate::maps;

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
    fn with_flows<R>(&self, key: &FlowKey, f: impl FnOnce(&mut FlowSet) -> R) -> Option<R> {
        let settings = maps::SETTINGS.get(0)?;
        let set = maps::FLOWS.get_ptr_mut(key.hash(settings.flow_seed) & settings.flow_mask)?;
        // SAFETY: the verifier has seen the null check; map values live until the program returns.
        let lock = unsafe { &raw mut (*set).lock }.cast::<bpf_spin_lock>();
        // SAFETY: it is this value's lock. The verifier rejects a program that calls anything, or returns, before the lock
        // is released.
        unsafe { bpf_spin_lock(lock) };
        // SAFETY: all who write a set hold its lock, and `f` leaves the lock alone.
        let result = f(unsafe { &mut *set });
        // SAFETY: as above.
        unsafe { bpf_spin_unlock(lock) };
        Some(result)
    }

    /// By way of global functions: the verifier checks each once, knowing nothing of its arguments, and takes its result
    /// for any number (kernel commit 51c39bb1d5d1, Linux 5.6). They take numbers only; the packet is in `SCRATCH`. One for
    /// each question, so that the stack holds the needs of one.
    #[inline(always)]
    fn ask(&self, case: &Case, _ip: &Ip, _quoted: &Ip) -> i32 {
        let (ifindex, how, class, sets) = (case.arrival.ifindex, case.how(), case.class, case.sets);
        match case.question {
            Question::NoteAllowed => note_allowed(ifindex, how, class, sets.egress, sets.ingress),
            Question::IsAnswer => is_answer(ifindex, how, class, sets.egress, sets.ingress),
            Question::IsRevoked => is_revoked(ifindex, how, class, sets.egress, sets.ingress),
            Question::QuotesAllowed => quotes_allowed(ifindex, how, sets.egress, sets.ingress),
            Question::NoteFragment => note_fragment(ifindex, how),
            Question::FragmentEnd => fragment_end(ifindex, how),
        }
    }

    #[inline(always)]
    fn is_extra_source(&self, source: &SourceKey) -> bool {
        maps::SOURCES.get(&Key::new(SOURCE_KEY_BITS + 128, *source)).is_some()
    }

    #[inline(always)]
    fn now(&self) -> u32 {
        let ticks = maps::SETTINGS.get(0).map_or(0, |settings| settings.ticks_per_second);
        let seconds = jiffies().checked_div(u64::from(ticks)).unwrap_or(0);
        #[expect(clippy::cast_possible_truncation, reason = "136 years")]
        let seconds = seconds as u32;
        seconds
    }

    #[inline(always)]
    fn may_be_frontend(&self, address: &Words) -> bool {
        let bit = vip_bit(address);
        read!(maps::VIPS.get_ptr(bit / WORD_BITS)).is_some_and(|word| word.bits >> (bit % WORD_BITS) & 1 == 1)
    }

    #[inline(always)]
    fn service(&self, key: &ServiceKey) -> Option<ServiceRef> {
        let bits = maps::SERVICES.get_ptr(key)?.cast::<u64>();
        // SAFETY: the verifier has seen the null check; eight aligned bytes are read at once, so that what the agent writes
        // meanwhile does not tear.
        Some(ServiceRef::from_bits(unsafe { core::ptr::read_volatile(bits) }))
    }

    #[inline(always)]
    fn backend(&self, index: u32) -> Option<BackendEntry> {
        maps::BACKENDS.get(index).map(|entry| BackendEntry {
            address: Addr6::from_words(&entry.address.words()),
            port: entry.port,
            zero: 0,
        })
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: the helper takes nothing and returns a number.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn translates(&self, ifindex: u32) -> u32 {
        read!(maps::TRANSLATES.get_ptr(ifindex % TRANSLATES)).map_or(0, |flag| flag.set)
    }

    #[inline(always)]
    fn set_translates(&self, ifindex: u32, bits: u32) {
        if let Some(flag) = maps::TRANSLATES.get_ptr_mut(ifindex % TRANSLATES) {
            // SAFETY: the verifier has seen the null check.
            let set = unsafe { core::ptr::read_volatile(flag) }.set | bits;
            // SAFETY: as above. Of two CPUs at once one may lose its bit for an address: the next packet sets it again.
            unsafe { core::ptr::write_volatile(flag, Flag { set }) };
        }
    }

    #[inline(always)]
    fn with_translation<R>(&self, key: &FlowKey, f: impl FnOnce(&mut Translation) -> R) -> Option<R> {
        let entry = translations(key).get_ptr_mut(key)?;
        // SAFETY: the verifier has seen the null check. The kernel may write the entry at the same time; what may tear is
        // a translation to an address of nobody, for one packet.
        Some(f(unsafe { &mut *entry }))
    }

    #[inline(always)]
    fn put_translation(&self, key: &FlowKey, value: &Translation) -> bool {
        translations(key).insert(key, value, 0).is_ok()
    }

    #[inline(always)]
    fn outbound(&self, ifindex: u32, isolated: bool, _scratch: &mut Scratch) -> i32 {
        outbound(ifindex, u32::from(isolated))
    }

    #[inline(always)]
    fn inbound(&self, ifindex: u32, _scratch: &mut Scratch) -> i32 {
        inbound(ifindex)
    }

    #[inline(always)]
    fn commit(&self, ifindex: u32, _scratch: &mut Scratch) -> i32 {
        commit(ifindex)
    }

    #[inline(always)]
    fn abandon(&self, ifindex: u32, _scratch: &mut Scratch) -> i32 {
        abandon(ifindex)
    }

    #[inline(always)]
    fn unmask(&self, ifindex: u32, _scratch: &mut Scratch) -> i32 {
        unmask(ifindex)
    }

    #[inline(always)]
    fn remember(&self, ifindex: u32, _scratch: &mut Scratch) -> i32 {
        remember(ifindex)
    }
}

#[inline(always)]
fn translations(key: &FlowKey) -> &'static LruHashMap<FlowKey, Translation, 32_768> {
    if translation::is_of_datagrams(key) { &maps::DATAGRAMS } else { &maps::TRANSLATIONS }
}

/// A step of translating, by itself. Works in `SCRATCH`.
macro_rules! step {
    ($module:ident::$name:ident $(, $isolated:ident)?) => {
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $name(ifindex: u32 $(, $isolated: u32)?) -> i32 {
            let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return -1 };
            // SAFETY: the verifier has seen the null check, and nothing else runs on this CPU's slot meanwhile: the
            // caller reads its own view of it anew afterwards (`decide`).
            let scratch = unsafe { &mut *scratch };
            $module::$name(&BpfTables, ifindex $(, $isolated != 0)?, scratch)
        }
    };
}

step!(service::outbound, isolated);
step!(service::inbound);
step!(service::commit);
step!(service::abandon);
step!(masquerade::unmask);
step!(masquerade::remember);

/// The arguments are those that the answer uses: the compiler passes nothing for others, and the verifier minds.
macro_rules! question {
    ($name:ident, $question:ident $(, $class:ident)? $(; $egress:ident, $ingress:ident)?) => {
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $name(ifindex: u32, how: u32 $(, $class: u32)? $(, $egress: u32, $ingress: u32)?) -> i32 {
            let Some(scratch) = maps::SCRATCH.get(0) else { return -1 };
            let case = Case {
                $(class: $class,)?
                $(sets: Sets { egress: $egress, ingress: $ingress },)?
                ..Case::new(Question::$question, ifindex, how)
            };
            track::answer(&BpfTables, &case, &scratch.ip, &scratch.quoted)
        }
    };
}

question!(note_allowed, NoteAllowed, class; egress, ingress);
question!(is_answer, IsAnswer, class; egress, ingress);
question!(is_revoked, IsRevoked, class; egress, ingress);
question!(quotes_allowed, QuotesAllowed; egress, ingress);
question!(note_fragment, NoteFragment);
question!(fragment_end, FragmentEnd);
