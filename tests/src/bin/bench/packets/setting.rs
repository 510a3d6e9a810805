//! Tables for the bench: one isolated pod, and as many peers or prefixes as the scenario wants.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use policy_agent::compile::{Scope, compile};
use policy_agent::datapath::bpf::BpfDatapath;
use policy_agent::datapath::{enforce, unwatch};
use policy_agent::model::{
    Block, Cluster, NamespaceMatch, ObjectName, Peer, Pod, Policy, PortMatch, Protocol, Requirement, Rule,
    Selector,
};
use policy_agent::plan::{Capacity, LocalEndpoint, Planner};
use policy_common::Direction;

use super::frames::LOCAL_PORT;
use super::scenario::Scenario;

const POD4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const POD6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
/// The remote addresses: pods from here on, or networks of sixteen addresses.
const PEERS4: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 0);
const PEERS6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x64, 0, 0, 0, 0, 0, 0);
const NETWORKS4: Ipv4Addr = Ipv4Addr::new(11, 0, 0, 0);
const NETWORKS6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0);
pub(crate) const NETWORK_SIZE: u32 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// What the remote addresses are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remotes {
    Pods,
    Cidrs,
}

impl Family {
    pub(crate) const fn pod(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(POD4),
            Self::V6 => IpAddr::V6(POD6),
        }
    }
}

impl Remotes {
    /// The address of the first; of networks the second in it, the first is nobody's.
    pub(crate) fn first(self, family: Family) -> IpAddr {
        match self {
            Self::Pods => self.address(family, 0),
            Self::Cidrs => self.address(family, 1),
        }
    }

    fn address(self, family: Family, n: u32) -> IpAddr {
        match (self, family) {
            (Self::Pods, Family::V4) => Ipv4Addr::from_bits(PEERS4.to_bits() + n).into(),
            (Self::Pods, Family::V6) => Ipv6Addr::from_bits(PEERS6.to_bits() + u128::from(n)).into(),
            (Self::Cidrs, Family::V4) => Ipv4Addr::from_bits(NETWORKS4.to_bits() + n).into(),
            (Self::Cidrs, Family::V6) => Ipv6Addr::from_bits(NETWORKS6.to_bits() + u128::from(n)).into(),
        }
    }

    fn network(self, family: Family, n: u32) -> anyhow::Result<Block> {
        let length = match family {
            Family::V4 => 28,
            Family::V6 => 124,
        };
        let cidr = format!("{}/{length}", self.address(family, n * NETWORK_SIZE)).parse()?;
        Ok(Block { cidr, except: Vec::new() })
    }
}

/// The pod may be reached, and may reach, the remotes on one port in the directions named; the other stays closed.
pub(crate) fn fill(
    datapath: &mut BpfDatapath,
    ifindex: u32,
    scenario: &Scenario,
    count: u32,
) -> anyhow::Result<()> {
    let Scenario { family, remotes, allow, watched, .. } = *scenario;
    let mut cluster = Cluster::default();
    let pod = |name: String, addresses: Vec<IpAddr>, app: &str| Pod {
        id: ObjectName::new("bench", name),
        uid: String::new(),
        labels: std::sync::Arc::new([("app".to_owned(), app.to_owned())].into()),
        node: Some("bench".into()),
        addresses,
        host_network: false,
        finished: false,
        terminating: false,
        created: 0,
        sources: Vec::new(),
        ports: [].into(),
    };
    let subject = pod("subject".to_owned(), vec![POD4.into(), POD6.into()], "subject");
    cluster.pods.insert(subject.clone());
    let peers = match remotes {
        Remotes::Pods => {
            for n in 0..count {
                let peer = pod(format!("peer-{n}"), vec![remotes.address(family, n)], "peer");
                cluster.pods.insert(peer);
            }
            let app = Requirement::In { key: "app".to_owned(), values: ["peer".to_owned()].into() };
            vec![Peer::Pods {
                namespaces: NamespaceMatch::Named("bench".to_owned()),
                pods: [app].into_iter().collect(),
            }]
        }
        Remotes::Cidrs => {
            (0..count).map(|n| Ok(Peer::Block(remotes.network(family, n)?))).collect::<anyhow::Result<_>>()?
        }
    };
    let port = |protocol| PortMatch::Range { protocol, first: LOCAL_PORT, last: LOCAL_PORT };
    let ports = vec![port(Protocol::Tcp), port(Protocol::Udp)];
    let rules = |direction| {
        Some(if allow.contains(&direction) {
            vec![Rule { peers: Some(peers.clone()), ports: Some(ports.clone()) }]
        } else {
            Vec::new()
        })
    };
    let app = Requirement::In { key: "app".to_owned(), values: ["subject".to_owned()].into() };
    let policy = Policy {
        id: ObjectName::new("bench", "policy"),
        subject: [app].into_iter().collect::<Selector>(),
        ingress: rules(Direction::Ingress),
        egress: rules(Direction::Egress),
    };
    cluster.policies.insert(policy.id.clone(), policy);
    let scope = Scope::Node { name: Some("bench".to_owned()), addresses: Default::default() };
    let compiled = compile(&cluster, &scope);
    let local = LocalEndpoint { pod: subject.id, ifindex, addresses: subject.addresses, sources: Vec::new() };
    let mut planner = Planner::new(Capacity::default());
    enforce(&mut planner, datapath, &compiled, &[local])?;
    if !watched {
        // As the agent does a second after a change: a new endpoint is under watch as well.
        unwatch(&mut planner, datapath, &BTreeSet::new())?;
    }
    Ok(())
}
