//! What a world is made of, before it is made.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use ipnet::{Ipv4Net, Ipv6Net};

use crate::network::Network;
use crate::world::World;

/// A port that a container declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerPort {
    /// Its name, where it has one.
    pub name: Option<String>,
    /// Its number.
    pub port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
}

/// A node to be built.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    pub(crate) name: String,
    pub(crate) cidr4: Option<Ipv4Net>,
    pub(crate) cidr6: Option<Ipv6Net>,
}

impl NodeSpec {
    /// A node whose pod networks are, for the N-th node, `10.244.N.0/24` and `fd00:10:244:N::/64`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), cidr4: None, cidr6: None }
    }

    /// Another IPv4 pod network.
    #[must_use]
    pub fn cidr4(mut self, cidr: Ipv4Net) -> Self {
        self.cidr4 = Some(cidr);
        self
    }

    /// Another IPv6 pod network.
    #[must_use]
    pub fn cidr6(mut self, cidr: Ipv6Net) -> Self {
        self.cidr6 = Some(cidr);
        self
    }
}

/// A pod to be built.
#[derive(Clone, Debug)]
pub struct PodSpec {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) node: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) ports: Vec<ContainerPort>,
    pub(crate) tcp: Vec<u16>,
    pub(crate) udp: Vec<u16>,
    pub(crate) ipv4: Option<Ipv4Addr>,
    pub(crate) ipv6: Option<Ipv6Addr>,
}

impl PodSpec {
    /// A pod without labels or servers, with the next free addresses of its node.
    #[must_use]
    pub fn new(namespace: &str, name: &str, node: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            node: node.to_owned(),
            labels: BTreeMap::new(),
            ports: Vec::new(),
            tcp: Vec::new(),
            udp: Vec::new(),
            ipv4: None,
            ipv6: None,
        }
    }

    /// Adds a label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Declares a container port; nothing listens on it for that.
    #[must_use]
    pub fn port(mut self, name: Option<&str>, port: u16, protocol: &str) -> Self {
        self.ports.push(ContainerPort { name: name.map(str::to_owned), port, protocol: protocol.to_owned() });
        self
    }

    /// Listens on a TCP port: answers HTTP with the pod's name, and echoes lines.
    #[must_use]
    pub fn serve_tcp(mut self, port: u16) -> Self {
        self.tcp.push(port);
        self
    }

    /// Echoes datagrams on a UDP port.
    #[must_use]
    pub fn serve_udp(mut self, port: u16) -> Self {
        self.udp.push(port);
        self
    }

    /// A given address instead of the next free one; it must be in the node's pod network.
    #[must_use]
    pub fn address(mut self, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => self.ipv4 = Some(address),
            IpAddr::V6(address) => self.ipv6 = Some(address),
        }
        self
    }
}

/// A machine outside of the cluster, on the nodes' network.
#[derive(Clone, Debug)]
pub(crate) struct OutsideSpec {
    pub(crate) name: String,
    pub(crate) ipv4: Ipv4Addr,
    pub(crate) ipv6: Option<Ipv6Addr>,
}

/// Collects what a [`World`] is to be made of.
#[derive(Clone, Debug)]
pub struct WorldBuilder {
    pub(crate) prefix: String,
    pub(crate) nodes: Vec<NodeSpec>,
    pub(crate) namespaces: BTreeMap<String, BTreeMap<String, String>>,
    pub(crate) pods: Vec<PodSpec>,
    pub(crate) outside: Vec<OutsideSpec>,
    pub(crate) network: Network,
    pub(crate) cni_plugins: bool,
}

impl WorldBuilder {
    pub(crate) fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
            nodes: Vec::new(),
            namespaces: BTreeMap::new(),
            pods: Vec::new(),
            outside: Vec::new(),
            network: Network::default(),
            cni_plugins: false,
        }
    }

    /// Another network than flannel's VXLAN.
    #[must_use]
    pub fn network(mut self, network: Network) -> Self {
        self.network = network;
        self
    }

    /// Has the pods' interfaces made by the CNI plugins of the machine instead of by hand: `bridge` where the network has
    /// bridges, `ptp` where pods are routed, with the addresses of `host-local`.
    #[must_use]
    pub fn cni_plugins(mut self) -> Self {
        self.cni_plugins = true;
        self
    }

    /// Adds a node.
    #[must_use]
    pub fn node(mut self, node: NodeSpec) -> Self {
        self.nodes.push(node);
        self
    }

    /// Labels a Kubernetes namespace. Those that only a pod names need no mention.
    #[must_use]
    pub fn namespace(mut self, name: &str, labels: &[(&str, &str)]) -> Self {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        self.namespaces.entry(name.to_owned()).or_default().extend(labels);
        self
    }

    /// Adds a pod.
    #[must_use]
    pub fn pod(mut self, pod: PodSpec) -> Self {
        self.pods.push(pod);
        self
    }

    /// Adds a machine outside of the cluster. It reaches the pods through their nodes, by its own addresses.
    #[must_use]
    pub fn outside(mut self, name: &str, ipv4: Ipv4Addr, ipv6: Option<Ipv6Addr>) -> Self {
        self.outside.push(OutsideSpec { name: name.to_owned(), ipv4, ipv6 });
        self
    }

    /// Builds it. What a failure leaves half-built is removed.
    pub fn build(self) -> Result<World> {
        World::build(self)
    }
}
