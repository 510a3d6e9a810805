//! Tables for the bench: one isolated pod, and as many peers or prefixes as the scenario wants.

use std::net::{IpAddr, Ipv4Addr};

use policy_agent::compile::{Scope, compile};
use policy_agent::datapath::bpf::BpfDatapath;
use policy_agent::datapath::enforce;
use policy_agent::model::{
    Block, Cluster, NamespaceMatch, ObjectName, Peer, Pod, Policy, PortMatch, Protocol, Requirement, Rule,
    Selector,
};
use policy_agent::plan::{Capacity, LocalEndpoint, Planner};

pub(crate) const POD: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// The remote addresses: pods from here on, or networks of sixteen addresses.
pub(crate) const PEERS: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 0);
pub(crate) const NETWORKS: Ipv4Addr = Ipv4Addr::new(11, 0, 0, 0);
pub(crate) const NETWORK_SIZE: u32 = 16;

/// What the remote addresses are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remotes {
    Pods,
    Cidrs,
}

/// The pod may be reached, and may reach, the remotes on TCP 80 in the directions named; the other stays closed.
pub(crate) fn fill(
    datapath: &mut BpfDatapath,
    ifindex: u32,
    remotes: Remotes,
    count: u32,
    allow: &[policy_common::Direction],
) -> anyhow::Result<()> {
    let mut cluster = Cluster::default();
    let pod = |name: String, address: Ipv4Addr, app: &str| Pod {
        id: ObjectName::new("bench", name),
        uid: String::new(),
        labels: [("app".to_owned(), app.to_owned())].into(),
        node: Some("bench".to_owned()),
        addresses: vec![IpAddr::V4(address)],
        host_network: false,
        finished: false,
        sources: Vec::new(),
        ports: Vec::new(),
    };
    let subject = pod("subject".to_owned(), POD, "subject");
    cluster.pods.insert(subject.id.clone(), subject.clone());
    let peers = match remotes {
        Remotes::Pods => {
            for n in 0..count {
                let peer = pod(format!("peer-{n}"), Ipv4Addr::from_bits(PEERS.to_bits() + n), "peer");
                cluster.pods.insert(peer.id.clone(), peer);
            }
            let app = Requirement::In { key: "app".to_owned(), values: ["peer".to_owned()].into() };
            vec![Peer::Pods {
                namespaces: NamespaceMatch::Named("bench".to_owned()),
                pods: [app].into_iter().collect(),
            }]
        }
        Remotes::Cidrs => (0..count)
            .map(|n| {
                let first = Ipv4Addr::from_bits(NETWORKS.to_bits() + n * NETWORK_SIZE);
                Ok(Peer::Block(Block { cidr: format!("{first}/28").parse()?, except: Vec::new() }))
            })
            .collect::<anyhow::Result<_>>()?,
    };
    let web = PortMatch::Range { protocol: Protocol::Tcp, first: 80, last: 80 };
    let rules = |direction| {
        Some(if allow.contains(&direction) {
            vec![Rule { peers: Some(peers.clone()), ports: Some(vec![web.clone()]) }]
        } else {
            Vec::new()
        })
    };
    let app = Requirement::In { key: "app".to_owned(), values: ["subject".to_owned()].into() };
    let policy = Policy {
        id: ObjectName::new("bench", "policy"),
        subject: [app].into_iter().collect::<Selector>(),
        ingress: rules(policy_common::Direction::Ingress),
        egress: rules(policy_common::Direction::Egress),
    };
    cluster.policies.insert(policy.id.clone(), policy);
    let scope = Scope::Node { name: Some("bench".to_owned()), addresses: Default::default() };
    let compiled = compile(&cluster, &scope);
    let local = LocalEndpoint { pod: subject.id, ifindex, addresses: subject.addresses, sources: Vec::new() };
    // A planner of its own: the object was loaded for this size, and what is left of a scenario before is overwritten.
    let mut planner = Planner::new(Capacity::default());
    enforce(&mut planner, datapath, &compiled, &[local])?;
    Ok(())
}
