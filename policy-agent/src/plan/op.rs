//! One write to one table: what a plan is made of.

use std::net::IpAddr;

use ipnet::IpNet;
use policy_common::maps::{Endpoint, Sets};

use crate::model::Protocol;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// One word of a row's bits.
    Word { index: u32, value: u64 },
    /// (policy set, class) -> first word of its row.
    Row { index: u32, word: u32 },
    /// A port's class.
    Port { protocol: Protocol, port: u16, class: u32 },
    /// An exact address's class; `None` removes the entry.
    Peer { address: IpAddr, class: Option<u32> },
    /// A prefix's class; `None` removes the entry.
    Cidr { net: IpNet, class: Option<u32> },
    /// A slot's pod, watched: only written while no interface refers to the slot.
    Endpoint { slot: u32, endpoint: Endpoint },
    /// A slot's policy sets, in one store.
    Sets { slot: u32, sets: Sets },
    /// Whether the endpoint of a slot is watched for connections that lost their permission (`Endpoint::watch`).
    Watch { slot: u32, on: bool },
    /// Whether the pod behind an interface may send from these addresses too.
    Source { ifindex: u32, net: IpNet, allowed: bool },
    /// An interface's slot; `None` removes it.
    Slot { ifindex: u32, slot: Option<u32> },
    /// Waits until no program runs that has read what earlier operations replaced.
    Barrier,
}
