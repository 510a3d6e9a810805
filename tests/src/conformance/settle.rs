//! What a cluster does by itself and a case leaves out: a pod gets a node and addresses, a node has both families.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context as _, Result};
use ipnet::{Ipv4Net, Ipv6Net};
use sluice_oracle::cases::Family;
use sluice_oracle::{Cluster, Phase};

use super::layout::Layout;

/// Fills in `cluster` in place. `node_addresses` gives those that the network gave a node, `borne` are the addresses of the
/// cluster's pods in the world, which gives both families to those that have only one in the cluster.
pub(super) fn settle(
    cluster: &mut Cluster,
    layout: &Layout,
    node_addresses: impl Fn(&str) -> Vec<IpAddr>,
    borne: impl IntoIterator<Item = IpAddr>,
) -> Result<()> {
    for (name, node) in &mut cluster.nodes {
        let has = |family| node.ips.iter().any(|ip| Family::of(*ip) == family);
        let lacks: Vec<Family> =
            [Family::Ipv4, Family::Ipv6].into_iter().filter(|family| !has(*family)).collect();
        let given = node_addresses(name);
        node.ips.extend(given.into_iter().filter(|ip| lacks.contains(&Family::of(*ip))));
    }
    let mut taken: BTreeSet<IpAddr> = layout.pods.clone();
    taken.extend(cluster.pods.iter().flat_map(|pod| &pod.ips));
    taken.extend(borne);
    for pod in cluster.pods.iter_mut().filter(|pod| pod.phase == Phase::Running) {
        let name = pod.full_name();
        let node = pod.node.get_or_insert_with(|| layout.nodes.keys().next().cloned().unwrap_or_default());
        if pod.host_network {
            let ips = cluster.nodes.get(node).map(|node| node.ips.clone()).unwrap_or_default();
            let has: Vec<Family> = pod.ips.iter().map(|ip| Family::of(*ip)).collect();
            // One of each family, as status.podIPs has them.
            for family in [Family::Ipv4, Family::Ipv6].into_iter().filter(|family| !has.contains(family)) {
                pod.ips.extend(ips.iter().find(|ip| Family::of(**ip) == family));
            }
        } else if pod.ips.is_empty() {
            let networks = layout.nodes.get(node).with_context(|| format!("{name}: node {node}"))?;
            let free = [Family::Ipv4, Family::Ipv6].map(|family| spare(*networks, family, &taken));
            for ip in free {
                let ip = ip.with_context(|| format!("{name}: no address is left on {node}"))?;
                taken.insert(ip);
                pod.ips.push(ip);
            }
        }
    }
    Ok(())
}

/// The first free address of a node's pod networks, past those that people like to write down.
pub(super) fn spare(
    (cidr4, cidr6): (Ipv4Net, Ipv6Net),
    family: Family,
    taken: &BTreeSet<IpAddr>,
) -> Option<IpAddr> {
    const FIRST: usize = 100;
    match family {
        Family::Ipv4 => cidr4.hosts().map(IpAddr::from).skip(FIRST).find(|ip| !taken.contains(ip)),
        Family::Ipv6 => cidr6.hosts().map(IpAddr::from).skip(FIRST).find(|ip| !taken.contains(ip)),
    }
}
