//! CIDR blocks: which peer groups contain the addresses of each prefix, where the longest prefix decides.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

use super::measure::{Excess, excess_of_overlaps};
use crate::model::Block;

/// Sorted.
type Groups = Box<[u32]>;

/// Groups by longest prefix.
#[derive(Debug, Default)]
pub(super) struct Prefixes {
    groups: BTreeMap<IpNet, Groups>,
    /// Prefix lengths in use, longest first, for each family.
    lengths: [Vec<u8>; 2],
}

/// A block covers its CIDR and is cut out of its exceptions; several blocks of one group may overlap, so that a group
/// contains a prefix while any of its blocks does.
struct Change {
    group: u32,
    count: i64,
}

/// Tells the groups of each prefix, a prefix before everything that it contains.
pub(super) fn sweep<'a>(
    blocks: impl Iterator<Item = (u32, &'a Block)>,
    mut each: impl FnMut(IpNet, &BTreeSet<u32>),
) {
    let mut changes: BTreeMap<IpNet, Vec<Change>> = BTreeMap::new();
    for (group, block) in blocks {
        changes.entry(block.cidr).or_default().push(Change { group, count: 1 });
        for except in outermost(&block.except) {
            changes.entry(except).or_default().push(Change { group, count: -1 });
        }
    }
    // What counts inside the innermost prefix on the stack; what each of them has changed is taken back when it ends.
    let mut inside = Inside::default();
    let mut stack: Vec<(IpNet, Vec<Change>)> = Vec::new();
    // IpNet orders by address, then length.
    for (net, list) in changes {
        while let Some((_, ended)) = stack.pop_if(|(outer, _)| !outer.contains(&net)) {
            ended.iter().for_each(|change| inside.add(change.group, -change.count));
        }
        list.iter().for_each(|change| inside.add(change.group, change.count));
        each(net, &inside.groups);
        stack.push((net, list));
    }
}

/// How many blocks of each group count, less the exceptions.
#[derive(Debug, Default)]
struct Inside {
    counts: HashMap<u32, i64>,
    /// Those with a count above zero.
    groups: BTreeSet<u32>,
}

impl Inside {
    fn add(&mut self, group: u32, count: i64) {
        let now = self.counts.entry(group).or_default();
        *now += count;
        if *now > 0 {
            self.groups.insert(group);
        } else {
            self.groups.remove(&group);
        }
    }
}

impl Prefixes {
    /// Or what is too much for it.
    pub(super) fn new<'a>(blocks: impl Iterator<Item = (u32, &'a Block)>) -> Result<Self, Excess> {
        let mut prefixes = Self::default();
        let mut overlaps = 0;
        sweep(blocks, |net, groups| {
            overlaps += groups.len() as u64;
            if excess_of_overlaps(overlaps).is_none() {
                prefixes.groups.insert(net, groups.iter().copied().collect());
            }
        });
        if let Some(excess) = excess_of_overlaps(overlaps) {
            return Err(excess);
        }
        for (family, lengths) in prefixes.lengths.iter_mut().enumerate() {
            let used: BTreeSet<u8> = prefixes
                .groups
                .keys()
                .filter(|net| matches!(net, IpNet::V6(_)) == (family == 1))
                .map(IpNet::prefix_len)
                .collect();
            *lengths = used.into_iter().rev().collect();
        }
        Ok(prefixes)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (IpNet, &[u32])> {
        self.groups.iter().map(|(net, groups)| (*net, &**groups))
    }

    /// Groups whose blocks contain the address.
    pub(super) fn groups_of(&self, address: IpAddr) -> &[u32] {
        self.lengths[usize::from(address.is_ipv6())]
            .iter()
            .filter_map(|length| IpNet::new(address, *length).ok())
            .find_map(|net| self.groups.get(&net.trunc()))
            .map_or(&[], |groups| groups)
    }
}

/// The exceptions that no other exception contains: each address is cut out once.
fn outermost(nets: &[IpNet]) -> Vec<IpNet> {
    let mut sorted: Vec<IpNet> = nets.to_vec();
    sorted.sort_unstable();
    let mut kept: Vec<IpNet> = Vec::new();
    for net in sorted {
        if !kept.last().is_some_and(|outer| outer.contains(&net)) {
            kept.push(net);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(cidr: &str, except: &[&str]) -> Block {
        Block { cidr: cidr.parse().unwrap(), except: except.iter().map(|e| e.parse().unwrap()).collect() }
    }

    #[test]
    fn every_address_has_the_groups_of_the_blocks_that_contain_it() {
        let blocks = [
            (0, block("10.0.0.0/8", &["10.1.0.0/16", "10.1.2.0/24", "10.200.0.0/16"])),
            (0, block("10.1.2.0/24", &[])),
            (1, block("0.0.0.0/0", &["10.1.2.128/25"])),
            (2, block("10.1.2.3/32", &[])),
            (3, block("fd00::/8", &["fd00:1::/32"])),
        ];
        let prefixes = Prefixes::new(blocks.iter().map(|(g, b)| (*g, b))).unwrap();
        for address in [
            "10.0.0.1",
            "10.1.0.1",
            "10.1.2.1",
            "10.1.2.3",
            "10.1.2.200",
            "10.200.1.1",
            "11.0.0.1",
            "fd00::1",
            "fd00:1::1",
            "fe80::1",
        ] {
            let address: IpAddr = address.parse().unwrap();
            let want: Vec<u32> = blocks
                .iter()
                .filter(|(_, b)| b.contains(address))
                .map(|(g, _)| *g)
                .collect::<BTreeSet<u32>>()
                .into_iter()
                .collect();
            assert_eq!(prefixes.groups_of(address), want, "{address}");
        }
    }
}
