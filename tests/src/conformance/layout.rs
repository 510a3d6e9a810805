//! The networks and machines that the cases of one world need: worked out before any of it is built, so that one world
//! serves all of its cases.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, Result, ensure};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use sluice_netns::{NodeSpec, WorldBuilder};
use sluice_oracle::cases::{Action, Case, Place, World};

/// Machines outside that have no IPv4 address of their own get one of the network for benchmarks.
const SPARE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);

/// What is to be built for a world.
#[derive(Debug)]
pub(super) struct Layout {
    /// The pod networks of each node.
    pub(super) nodes: BTreeMap<String, (Ipv4Net, Ipv6Net)>,
    /// The nodes in the order of their first addresses, in which the network numbers them too.
    order: Vec<String>,
    /// Addresses outside of the cluster that cases name.
    pub(super) outside: BTreeSet<IpAddr>,
    /// Addresses that pods bear in any step of any case.
    pub(super) pods: BTreeSet<IpAddr>,
}

impl Layout {
    pub(super) fn of(world: &World, cases: &[&Case]) -> Result<Self> {
        let steps = || cases.iter().flat_map(|case| &case.steps);
        let mut homes: BTreeMap<String, String> = BTreeMap::new();
        let mut by_node: BTreeMap<String, BTreeSet<IpAddr>> = BTreeMap::new();
        let mut add = |key: String, set: &sluice_oracle::cases::WorldPod| {
            if let Some(node) = &set.node {
                homes.insert(key.clone(), node.clone());
            }
            let host = set.host_network == Some(true)
                || world.pods.get(&key).is_some_and(|pod| pod.host_network == Some(true));
            if let (Some(node), Some(ips), false) = (homes.get(&key), &set.ips, host) {
                by_node.entry(node.clone()).or_default().extend(ips);
            }
        };
        for (key, pod) in &world.pods {
            add(key.clone(), pod);
        }
        for action in steps().flat_map(|step| &step.actions) {
            if let Action::Pod { ns, name, set } = action {
                add(format!("{ns}/{name}"), set);
            }
        }
        let mut nodes = BTreeMap::new();
        let mut order: Vec<String> = world.nodes.keys().cloned().collect();
        order.sort_by_key(|name| world.nodes.get(name).and_then(|node| node.ips.first()));
        for (number, name) in (1_u8..).zip(&order) {
            let pods = by_node.get(name).cloned().unwrap_or_default();
            nodes.insert(name.clone(), networks(number, &pods).with_context(|| format!("node {name}"))?);
        }
        disjoint(&nodes)?;
        let pods: BTreeSet<IpAddr> = by_node.into_values().flatten().collect();
        let known: BTreeSet<IpAddr> =
            world.nodes.values().flat_map(|node| &node.ips).chain(&pods).copied().collect();
        let mut outside = BTreeSet::new();
        for probe in steps().flat_map(|step| &step.probes) {
            for end in [&probe.from, &probe.to] {
                // An end that can't be read is an error of its own case.
                if let Ok(Place::External(ip) | Place::Address(ip)) = Place::parse(end) {
                    outside.insert(ip);
                }
            }
        }
        outside.retain(|ip| !known.contains(ip));
        Ok(Self { nodes, order, outside, pods })
    }

    /// The builder of the world, its nodes and machines outside; the pods come with the cases.
    #[must_use]
    pub(super) fn builder(&self, mut builder: WorldBuilder) -> WorldBuilder {
        for (name, (cidr4, cidr6)) in self.order.iter().filter_map(|name| self.nodes.get_key_value(name)) {
            builder = builder.node(NodeSpec::new(name).cidr4(*cidr4).cidr6(*cidr6));
        }
        for (number, address) in (1_u32..).zip(&self.outside) {
            let name = format!("ext{number}");
            builder = match *address {
                IpAddr::V4(address) => builder.outside(&name, address, None),
                IpAddr::V6(address) => {
                    builder.outside(&name, Ipv4Addr::from_bits(SPARE.to_bits() + number), Some(address))
                }
            };
        }
        builder
    }
}

/// The usual networks of the n-th node, or those that its pods' addresses are in.
fn networks(number: u8, pods: &BTreeSet<IpAddr>) -> Result<(Ipv4Net, Ipv6Net)> {
    let usual4 = Ipv4Net::new(Ipv4Addr::new(10, 244, number, 0), 24)?;
    let usual6: Ipv6Net = format!("fd00:10:244:{number}::/64").parse()?;
    let (v4, v6): (BTreeSet<IpAddr>, BTreeSet<IpAddr>) = pods.iter().partition(|ip| ip.is_ipv4());
    match (network(usual4.into(), &v4)?, network(usual6.into(), &v6)?) {
        (IpNet::V4(cidr4), IpNet::V6(cidr6)) => Ok((cidr4, cidr6)),
        other => anyhow::bail!("pod networks {other:?}"),
    }
}

fn network(usual: IpNet, pods: &BTreeSet<IpAddr>) -> Result<IpNet> {
    let Some(first) = pods.first() else { return Ok(usual) };
    let mut net = usual;
    if !pods.iter().all(|ip| usual.contains(ip)) {
        net = IpNet::new(*first, usual.prefix_len())?.trunc();
        while !pods.iter().all(|ip| net.contains(ip)) {
            net = net.supernet().context("pods in networks too far apart")?;
        }
    }
    let gateway = net.hosts().next();
    ensure!(
        pods.iter().all(|ip| Some(*ip) != gateway && *ip != net.network()),
        "a pod has an address of the node itself in {net}: {pods:?}"
    );
    Ok(net)
}

fn disjoint(nodes: &BTreeMap<String, (Ipv4Net, Ipv6Net)>) -> Result<()> {
    for (name, (cidr4, cidr6)) in nodes {
        for (other, (other4, other6)) in
            nodes.range::<String, _>((std::ops::Bound::Excluded(name), std::ops::Bound::Unbounded))
        {
            let apart = |a: IpNet, b: IpNet| !a.contains(&b) && !b.contains(&a);
            ensure!(
                apart((*cidr4).into(), (*other4).into()) && apart((*cidr6).into(), (*other6).into()),
                "pods of {name} ({cidr4}, {cidr6}) and of {other} ({other4}, {other6}) share a network: no route \
                 could tell them apart"
            );
        }
    }
    Ok(())
}
