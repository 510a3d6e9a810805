//! What today's policy says of one endpoint: lookups in the tables that the compiler wrote.

use crate::Direction;
use crate::maps::{Addr4, Addr6, CLASS_NONE, Endpoint, Sets, SourceKey, WORD_BITS, Words};
use crate::parse::protocol;
use crate::reason::DropReason;
use crate::tables::Tables;

/// The policy sets of one endpoint as they were when the packet at hand came.
#[derive(Debug)]
pub(crate) struct Policy<'a, T: Tables> {
    pub(crate) tables: &'a T,
    pub(crate) sets: Sets,
    /// Of the packet: 4 or 6.
    pub(crate) family: u8,
}

impl<T: Tables> Policy<'_, T> {
    /// Whether today's policy allows `direction` between the pod and an address of `class`. `port` is that of the
    /// connection's destination; protocols without ports ignore it.
    #[inline(always)]
    pub(crate) fn allows(
        &self,
        direction: Direction,
        class: u32,
        protocol: u8,
        port: u16,
    ) -> Result<bool, DropReason> {
        let set = self.set(direction);
        if set == 0 {
            return Ok(true);
        }
        let row = self.tables.row((set - 1).wrapping_add(class)).ok_or(DropReason::Table)?;
        let port_class = match protocol {
            protocol::TCP => self.tables.class_of_port(0, port),
            protocol::UDP => self.tables.class_of_port(1, port),
            protocol::SCTP => self.tables.class_of_port(2, port),
            _ => Some(CLASS_NONE),
        }
        .ok_or(DropReason::Table)?;
        let word = self.tables.word(row.wrapping_add(port_class / WORD_BITS)).ok_or(DropReason::Table)?;
        Ok(word >> (port_class % WORD_BITS) & 1 == 1)
    }

    #[inline(always)]
    pub(crate) const fn set(&self, direction: Direction) -> u32 {
        match direction {
            Direction::Egress => self.sets.egress,
            Direction::Ingress => self.sets.ingress,
        }
    }

    #[inline(always)]
    pub(crate) fn class(&self, address: &Words) -> u32 {
        if self.family == 4 {
            self.tables.class_of_v4(&Addr4::from_words(address))
        } else {
            self.tables.class_of_v6(&Addr6::from_words(address))
        }
    }
}

/// Whether it is the pod's own address.
#[inline(always)]
pub(crate) fn is_own(endpoint: &Endpoint, family: u8, address: &Words) -> bool {
    if family == 4 {
        address[0] == endpoint.v4.word() && address[0] != 0
    } else {
        *address == endpoint.v6.words() && *address != [0; 4]
    }
}

/// The key under which a pod's extra source would stand.
#[inline(always)]
pub(crate) fn source_key(ifindex: u32, family: u8, address: &Words) -> SourceKey {
    SourceKey {
        ifindex: ifindex.to_be_bytes(),
        family: [family, 0, 0, 0],
        address: Addr6::from_words(address),
    }
}
