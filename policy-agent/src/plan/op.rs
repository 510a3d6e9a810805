//! One write to one table: what a plan is made of.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use policy_common::maps::{BackendEntry, Endpoint, ServiceRef, Sets};

use crate::model::Protocol;
use crate::model::services::{Backend, Frontend};

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
    /// 64 addresses that Services may have.
    Vips { index: u32, bits: u64 },
    /// One place of a list of backends, which nothing refers to yet.
    Backend { index: u32, entry: BackendEntry },
    /// A frontend's list; `None` removes the frontend.
    Service { frontend: Frontend, to: Option<ServiceRef> },
    /// These backends are gone from behind these frontends: datagrams, and clients that keep to one, go elsewhere from
    /// here on. Connections end by themselves, as kube-proxy's do.
    Forsake { gone: Arc<BTreeSet<(Frontend, Backend)>> },
    /// Waits until no program runs that has read what earlier operations replaced.
    Barrier,
}
