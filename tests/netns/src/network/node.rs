//! The numbers of a node.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use super::{Network, Way};
use crate::netns::Netns;

/// The first node that a network with direct routing puts behind the router.
const FIRST_DISTANT: u8 = 3;

/// A node of a network.
#[derive(Clone, Debug)]
pub(crate) struct NodeNet {
    pub(crate) ns: Netns,
    pub(crate) network: Network,
    /// Counted from 1.
    pub(crate) number: u8,
    pub(crate) cidr4: Ipv4Net,
    pub(crate) cidr6: Ipv6Net,
}

impl NodeNet {
    /// Whether a router is between this node and the first two.
    pub(super) fn is_distant(&self) -> bool {
        self.network == Network::VxlanDirectRouting && self.number >= FIRST_DISTANT
    }

    pub(super) fn way_to(&self, other: &Self) -> Way {
        match self.network {
            Network::Vxlan => Way::Vxlan,
            Network::VxlanDirectRouting if self.is_distant() != other.is_distant() => Way::Vxlan,
            Network::VxlanDirectRouting | Network::HostGw | Network::Routed => Way::Routes,
            Network::Ipip => Way::Ipip,
        }
    }

    /// The node's address on the network between the nodes.
    pub(crate) fn underlay4(&self) -> Ipv4Addr {
        if self.is_distant() {
            Ipv4Addr::new(198, 51, 100, self.number)
        } else {
            Ipv4Addr::new(192, 0, 2, self.number)
        }
    }

    pub(crate) fn underlay6(&self) -> Ipv6Addr {
        let host = u16::from(self.number);
        if self.is_distant() {
            Ipv6Addr::new(0xfd00, 0x198, 0x51, 0x100, 0, 0, 0, host)
        } else {
            Ipv6Addr::new(0xfd00, 0x192, 0, 2, 0, 0, 0, host)
        }
    }

    /// The first address of the pods' network: the gateway of a bridge, and what the `ptp` plugin puts on each host end.
    pub(crate) fn gateway4(&self) -> Ipv4Addr {
        host4(self.cidr4, 1)
    }

    pub(crate) fn gateway6(&self) -> Ipv6Addr {
        host6(self.cidr6, 1)
    }

    /// The node's address on its tunnel, where it has one.
    pub(crate) fn tunnel4(&self) -> Ipv4Addr {
        self.cidr4.network()
    }

    pub(crate) fn tunnel6(&self) -> Ipv6Addr {
        self.cidr6.network()
    }

    /// A hardware address that no other interface of the world has.
    pub(super) fn mac(&self, kind: u8) -> String {
        format!("02:73:6c:00:{kind:02x}:{:02x}", self.number)
    }
}

/// The address of a network's `host`.
pub(crate) fn host4(cidr: Ipv4Net, host: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits(cidr.network().to_bits() | u32::from(host))
}

/// The address of a network's `host`.
pub(crate) fn host6(cidr: Ipv6Net, host: u16) -> Ipv6Addr {
    Ipv6Addr::from_bits(cidr.network().to_bits() | u128::from(host))
}
