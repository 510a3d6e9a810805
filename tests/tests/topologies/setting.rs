//! The cluster that every network is tried with.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::ops::RangeInclusive;

use anyhow::{Context as _, Result};
use sluice_netns::{ALLOW_TIMEOUT, Netns, NodeSpec, PodSpec, Server, World, WorldBuilder};
use sluice_tests::agent_world::{Lab, outside6};

use crate::services;
use crate::{Seen, Topology};

/// The kinds of pods: one of each on every node, as `shop/KIND` with the node's number behind it.
pub(crate) const KINDS: [&str; 3] = ["web", "friend", "stranger"];
/// Where nobody serves, so that a test can see who calls.
pub(crate) const WATCHED: u16 = 8080;

/// A world with its agents.
#[derive(Debug)]
pub(crate) struct Setting {
    pub(crate) lab: Lab,
    pub(crate) topology: Topology,
}

impl Setting {
    /// Builds it; node1 has Services.
    pub(crate) fn build(topology: Topology) -> Result<Self> {
        let mut world = World::builder("sltopo")
            .network(topology.network)
            .outside("client", [172, 16, 8, 10].into(), Some(outside6(8, 10)))
            .outside("guest", [172, 16, 9, 10].into(), Some(outside6(9, 10)));
        if topology.plugins {
            world = world.cni_plugins();
        }
        let world =
            topology.nodes().map(|number| NodeSpec::new(&node(number))).fold(world, WorldBuilder::node);
        let pods = topology.nodes().flat_map(|number| KINDS.map(|kind| pod(kind, number)));
        let mut lab = Lab::start(pods.fold(world, WorldBuilder::pod))?;
        for machine in ["client", "guest"] {
            let ns = lab.ns(machine)?;
            lab.world.keep(machine, Server::tcp(&ns, 80, machine)?);
        }
        services::install(&lab, topology.nodes())?;
        Ok(Self { lab, topology })
    }

    /// The numbers of the nodes.
    pub(crate) fn nodes(&self) -> RangeInclusive<u16> {
        self.topology.nodes()
    }

    /// A table of `template` for every pair of nodes, `A` and `B` in it being their numbers.
    pub(crate) fn for_pairs(&self, template: &str) -> String {
        self.for_some(template, |_, _| true)
    }

    /// The same for each node with itself.
    pub(crate) fn for_each(&self, template: &str) -> String {
        self.for_some(template, |from, to| from == to)
    }

    /// The same for pairs of different nodes.
    pub(crate) fn for_others(&self, template: &str) -> String {
        self.for_some(template, |from, to| from != to)
    }

    fn for_some(&self, template: &str, wanted: fn(u16, u16) -> bool) -> String {
        let mut table = String::new();
        for from in self.nodes() {
            for to in self.nodes().filter(|to| wanted(from, *to)) {
                table += &template.replace('A', &from.to_string()).replace('B', &to.to_string());
                table.push('\n');
            }
        }
        table
    }

    /// As whom the first node is seen on node `number`.
    pub(crate) fn seen_on(&self, number: u16) -> Result<[IpAddr; 2]> {
        let seen = number.checked_sub(2).and_then(|other| self.topology.by_others.get(usize::from(other)));
        self.addresses(*seen.unwrap_or(&self.topology.by_own))
    }

    /// The first node's addresses of these kinds.
    fn addresses(&self, seen: [Seen; 2]) -> Result<[IpAddr; 2]> {
        let node = self.lab.world.node("node1")?;
        let of = |seen| match seen {
            Seen::Underlay => node.addresses(),
            Seen::Tunnel => node.tunnel_addresses(),
            Seen::Gateway => node.pod_gateways(),
        };
        Ok([of(seen[0])[0], of(seen[1])[1]])
    }

    /// Whom a pod sees when somebody in `from` connects to `to`, which leads to the pod's watched port.
    pub(crate) fn caller(&self, from: &Netns, to: SocketAddr, pod: &str) -> Result<IpAddr> {
        let listen = || TcpListener::bind((Ipv6Addr::UNSPECIFIED, WATCHED));
        let listener = self.lab.ns(pod)?.run(listen)??;
        let _open = from
            .run(|| TcpStream::connect_timeout(&to, ALLOW_TIMEOUT))?
            .with_context(|| format!("{} -> {to}, which is {pod}", from.name()))?;
        Ok(listener.accept()?.1.ip().to_canonical())
    }
}

/// A node's name.
pub(crate) fn node(number: u16) -> String {
    format!("node{number}")
}

fn pod(kind: &str, number: u16) -> PodSpec {
    PodSpec::new("shop", &format!("{kind}{number}"), &node(number))
        .label("app", kind)
        .serve_tcp(80)
        .serve_udp(5300)
}

/// Peers of a rule for these addresses.
pub(crate) fn blocks(addresses: &[IpAddr]) -> String {
    let block = |address: &IpAddr| {
        let length = if address.is_ipv4() { 32 } else { 128 };
        format!("{{ipBlock: {{cidr: '{address}/{length}'}}}}")
    };
    addresses.iter().map(block).collect::<Vec<_>>().join(", ")
}
