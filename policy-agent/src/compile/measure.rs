//! How much rules tell apart. Tables and compilation grow with it, and an API server bounds only an object's bytes: half
//! a megabyte of rules that all overlap would take gigabytes here.

use std::collections::{HashMap, HashSet};

use super::ports::{self, PortSet};
use super::prefixes;
use crate::model::{Block, Peer, PortMatch, Protocol, Rule};

/// Something is there more often than it may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excess {
    /// In words that go on with "are there, and N may be".
    pub what: &'static str,
    pub count: u64,
    pub most: u64,
}

/// Rules of one policy in one direction. The largest object that an API server stores has room for 60,000.
const RULES: u64 = 10_000;
/// CIDRs and exceptions of one policy in one direction, each once.
const NETWORKS: u64 = 120_000;
/// How often a list of peers is told apart by a CIDR, over all CIDRs of one policy.
const NETWORK_OVERLAPS: u64 = 1_000_000;
/// Words of 64 port classes: a quarter of the table as it is by default.
const PORT_WORDS: u64 = 65_536;
/// The same over all policies that select pods of the node.
const ALL_NETWORK_OVERLAPS: u64 = 8_000_000;
const ALL_PORT_OVERLAPS: u64 = 4_000_000;

/// What is too much in the rules of one policy in one direction.
pub fn excess(rules: &[Rule]) -> Option<Excess> {
    most("rules", rules.len() as u64, RULES)
        .or_else(|| excess_of_networks(rules))
        .or_else(|| excess_of_ports(rules))
}

fn most(what: &'static str, count: u64, most: u64) -> Option<Excess> {
    (count > most).then_some(Excess { what, count, most })
}

fn excess_of_networks(rules: &[Rule]) -> Option<Excess> {
    let mut lists: HashMap<&[Peer], u32> = HashMap::new();
    for list in rules.iter().filter_map(|rule| rule.peers.as_deref()) {
        let next = u32::try_from(lists.len()).unwrap_or(u32::MAX);
        lists.entry(list).or_insert(next);
    }
    let blocks =
        lists.iter().flat_map(|(list, id)| list.iter().filter_map(|peer| block(peer)).map(|b| (*id, b)));
    let (mut networks, mut overlaps) = (0, 0);
    prefixes::sweep(blocks, |_, groups| {
        networks += 1;
        overlaps += groups.len() as u64;
    });
    most("different CIDRs and exceptions", networks, NETWORKS)
        .or_else(|| most("overlaps of CIDRs with lists of peers", overlaps, NETWORK_OVERLAPS))
}

const fn block(peer: &Peer) -> Option<&Block> {
    match peer {
        Peer::Block(block) => Some(block),
        Peer::Pods { .. } => None,
    }
}

fn excess_of_ports(rules: &[Rule]) -> Option<Excess> {
    let mut sets: HashSet<PortSet> = HashSet::new();
    let mut names: HashSet<(Protocol, &str)> = HashSet::new();
    for list in rules.iter().filter_map(|rule| rule.ports.as_deref()) {
        let mut ranges = Vec::new();
        for port in list {
            match port {
                PortMatch::Range { protocol, first, last } => ranges.push((*protocol, *first, *last)),
                PortMatch::Named { protocol, name } => {
                    names.insert((*protocol, name));
                }
            }
        }
        sets.insert(PortSet::new(ranges));
    }
    // A name can be any port: it cuts the ports once more.
    let (mut classes, lists) = (names.len() as u64, sets.len() as u64);
    ports::sweep((0..).zip(&sets), |_, _, _, _| classes += 1);
    most("words of port classes", lists.saturating_mul(classes.div_ceil(64)), PORT_WORDS)
}

/// What is too much of the ports of all rules together.
pub(super) fn excess_of_port_sets<'a>(sets: impl Iterator<Item = &'a PortSet>) -> Option<Excess> {
    let mut overlaps = 0;
    ports::sweep((0..).zip(sets), |_, _, _, sets| overlaps += sets.len() as u64);
    most("overlaps of ports with lists of ports", overlaps, ALL_PORT_OVERLAPS)
}

/// The same of the networks.
pub(super) fn excess_of_overlaps(overlaps: u64) -> Option<Excess> {
    most("overlaps of CIDRs with lists of peers", overlaps, ALL_NETWORK_OVERLAPS)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::net::{IpAddr, Ipv4Addr};

    use ipnet::IpNet;

    fn host(n: u32) -> IpNet {
        IpAddr::from(Ipv4Addr::from_bits(n)).into()
    }

    fn to_networks(cidr: IpNet, except: Vec<IpNet>) -> Rule {
        Rule { peers: Some(vec![Peer::Block(Block { cidr, except })]), ports: None }
    }

    fn to_ports(first: u16, last: u16) -> Rule {
        Rule { peers: None, ports: Some(vec![PortMatch::Range { protocol: Protocol::Tcp, first, last }]) }
    }

    fn what(rules: &[Rule]) -> Option<(&'static str, u64)> {
        excess(rules).map(|excess| (excess.what, excess.count))
    }

    #[test]
    fn much_is_not_too_much() {
        let all: IpNet = "0.0.0.0/0".parse().unwrap();
        assert_eq!(what(&[to_networks(all, (0..100_000).map(|n| host(2 * n)).collect())]), None);
        let blocks = (0..100_000).map(|n| Peer::Block(Block { cidr: host(n), except: Vec::new() }));
        assert_eq!(what(&[Rule { peers: Some(blocks.collect()), ports: None }]), None);
        assert_eq!(what(&(1..=2000).map(|n| to_ports(n, n)).collect::<Vec<_>>()), None);
        let every = (1..=u16::MAX).map(|n| PortMatch::Range { protocol: Protocol::Udp, first: n, last: n });
        assert_eq!(what(&[Rule { peers: None, ports: Some(every.collect()) }]), None);
        assert_eq!(what(&vec![to_ports(1, 1); 10_000]), None, "the same ports again and again");
        let same = to_networks(all, (0..9_999).map(|n| host(2 * n)).collect());
        assert_eq!(what(&vec![same; 10_000]), None, "the same peers again and again");
    }

    #[test]
    fn what_is_too_much() {
        let all: IpNet = "0.0.0.0/0".parse().unwrap();
        assert_eq!(what(&vec![to_ports(1, 1); 10_001]), Some(("rules", 10_001)));
        let many = to_networks(all, (0..120_000).map(|n| host(2 * n)).collect());
        assert_eq!(what(&[many]), Some(("different CIDRs and exceptions", 120_001)));
        // 2,000 rules for everything but one address each: each address is in the lists of 1,999.
        let all_but_one: Vec<Rule> = (0..2000).map(|n| to_networks(all, vec![host(n)])).collect();
        let overlaps = 2000 + 2000 * 1999;
        assert_eq!(what(&all_but_one), Some(("overlaps of CIDRs with lists of peers", overlaps)));
        let nested: Vec<Rule> = (1..=10_000).map(|n| to_ports(n, u16::MAX - n)).collect();
        assert_eq!(what(&nested), Some(("words of port classes", 10_000 * 19_999_u64.div_ceil(64))));
    }
}
