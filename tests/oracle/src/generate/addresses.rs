//! The address plan, and arithmetic on blocks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Outside of every pod and node range, except the last two: in the first node's pod range, but no pod's.
pub(super) const OUTSIDE: [IpAddr; 10] = [
    v4(198, 51, 100, 7),
    v4(203, 0, 113, 9),
    v4(8, 8, 8, 8),
    v4(10, 0, 0, 1),
    v4(10, 245, 0, 1),
    v6(0x2001, 0xdb8, 0, 1),
    v6(0xfd00, 0xffff, 0, 1),
    v6(0x2600, 0, 0, 0x35),
    v4(10, 244, 1, 250),
    v6(0xfd00, 0x10, 0x1, 0xfa),
];

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

const fn v6(a: u16, b: u16, c: u16, last: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, last))
}

/// `count` as an octet. Callers keep their counts far below 256; saturation only keeps the cast honest.
fn octet(count: usize) -> u8 {
    u8::try_from(count).unwrap_or(u8::MAX)
}

/// What a hostNetwork pod on the node reports.
pub(super) fn host_network_addresses(node: usize) -> Vec<IpAddr> {
    let node = octet(node);
    vec![v4(192, 0, 2, node), v6(0xfd00, 0xc0de, 0, node.into())]
}

/// The host addresses, then the overlay's and the bridge's in the node's pod range.
pub(super) fn node_addresses(node: usize) -> Vec<IpAddr> {
    let mut addresses = host_network_addresses(node);
    let node = octet(node);
    addresses.extend([v4(10, 244, node, 0), v4(10, 244, node, 1), v6(0xfd00, 0x10, node.into(), 1)]);
    addresses
}

/// Neighbours in one range, so that a short prefix covers several pods.
pub(super) fn pod_addresses(node: usize, index: usize) -> Vec<IpAddr> {
    let (node, host) = (octet(node), octet(16 + index));
    vec![v4(10, 244, node, host), v6(0xfd00, 0x10, node.into(), host.into())]
}

/// Addresses that mean a host of some network: not multicast, loopback, link-local, unspecified or reserved, whose
/// packets have rules of their own.
pub(super) fn is_ordinary(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let first = address.octets()[0];
            first != 0 && first != 127 && first < 224 && !address.is_link_local()
        }
        IpAddr::V6(address) => (0x2000..0xfe00).contains(&address.segments()[0]),
    }
}

/// `address` with its first bits replaced by those of `block`: some address of the block.
pub(super) fn moved_into(address: IpAddr, block: IpNet) -> Option<IpAddr> {
    match (address, block) {
        (IpAddr::V4(address), IpNet::V4(block)) => {
            let host_bits = u32::from(address) & u32::from(block.hostmask());
            Some(IpAddr::V4(Ipv4Addr::from(u32::from(block.network()) | host_bits)))
        }
        (IpAddr::V6(address), IpNet::V6(block)) => {
            let host_bits = u128::from(address) & u128::from(block.hostmask());
            Some(IpAddr::V6(Ipv6Addr::from(u128::from(block.network()) | host_bits)))
        }
        _ => None,
    }
}

/// The first and the last address of a block, and their neighbours outside.
pub(super) fn borders(block: IpNet) -> Vec<IpAddr> {
    fn v4_borders(block: Ipv4Net) -> [u32; 4] {
        let (first, last) = (u32::from(block.network()), u32::from(block.broadcast()));
        [first, last, first.wrapping_sub(1), last.wrapping_add(1)]
    }
    fn v6_borders(block: Ipv6Net) -> [u128; 4] {
        let (first, last) = (u128::from(block.network()), u128::from(block.broadcast()));
        [first, last, first.wrapping_sub(1), last.wrapping_add(1)]
    }
    match block {
        IpNet::V4(block) => v4_borders(block).map(|bits| IpAddr::V4(bits.into())).into(),
        IpNet::V6(block) => v6_borders(block).map(|bits| IpAddr::V6(bits.into())).into(),
    }
}
