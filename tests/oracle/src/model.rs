//! What the oracle knows of a cluster, and the connection that it is asked about.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use k8s_openapi::api::networking::v1::NetworkPolicySpec;

/// Labels of a pod, a namespace or a node.
pub type Labels = BTreeMap<String, String>;

/// The label that every namespace carries, with its own name (row 47).
pub const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// A cluster at one instant. Two live pods that are not hostNetwork must not hold the same address: what would be
/// right then is undefined.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cluster {
    pub namespaces: BTreeMap<String, Labels>,
    pub nodes: BTreeMap<String, Node>,
    pub pods: Vec<Pod>,
    pub policies: Vec<Policy>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Node {
    pub labels: Labels,
    pub ips: Vec<IpAddr>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pod {
    pub ns: String,
    pub name: String,
    pub labels: Labels,
    pub node: Option<String>,
    /// Every entry of status.podIPs (row 57).
    pub ips: Vec<IpAddr>,
    pub host_network: bool,
    pub phase: Phase,
    /// Being deleted, address not yet released. Makes no difference to any verdict (row 43).
    pub terminating: bool,
    pub ports: Vec<ContainerPort>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    Pending,
    #[default]
    Running,
    Succeeded,
    Failed,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ContainerPort {
    pub name: Option<String>,
    pub protocol: Protocol,
    pub port: u16,
    /// Declared by an init (sidecar) container; counts like any other (row 27).
    pub init: bool,
}

/// One NetworkPolicy as the API hands it out: absent fields stay absent (rows 1, 8, 12, 14).
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    pub ns: String,
    pub name: String,
    pub spec: NetworkPolicySpec,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
    /// ICMP or ICMPv6, standing for every protocol without ports (row 56).
    Icmp,
}

/// Who started a connection. An address alone never tells: it could be forged, or rewritten (rows 36, 54).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It comes in over a wire: from the pod that holds `from`, or from outside.
    Wire,
    /// A process of this node (a hostNetwork pod's included) starts it.
    Node(String),
}

/// A new connection, as the destination sees it: after any Service translation (rows 23, 35).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    pub from: IpAddr,
    pub to: IpAddr,
    pub protocol: Protocol,
    /// Destination port; meaningless for [`Protocol::Icmp`].
    pub port: u16,
    pub origin: Origin,
}

impl Cluster {
    /// The labels of a namespace. One that only pods name exists too, and all carry their name (row 47).
    pub fn namespace_labels(&self, name: &str) -> Labels {
        let mut labels = self.namespaces.get(name).cloned().unwrap_or_default();
        labels.insert(NAMESPACE_NAME_LABEL.to_owned(), name.to_owned());
        labels
    }

    /// The pod that policy sees behind an address: as a subject of policies, and as what peer selectors can match.
    /// None of a hostNetwork pod, a finished pod, a node, or anything outside (rows 11, 41, 44).
    pub fn pod_at(&self, address: IpAddr) -> Option<&Pod> {
        self.pods.iter().find(|pod| pod.is_policed() && pod.ips.contains(&address))
    }
}

impl Pod {
    /// `ns/name`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.ns, self.name)
    }

    /// Whether NetworkPolicy knows this pod at all: not hostNetwork (row 41), not finished (row 44).
    /// Pending and terminating pods are known (rows 42, 43).
    pub fn is_policed(&self) -> bool {
        !self.host_network && !matches!(self.phase, Phase::Succeeded | Phase::Failed)
    }
}

impl Protocol {
    /// The API's name of a protocol with ports; `Icmp` has none there.
    pub fn api_name(self) -> Option<&'static str> {
        match self {
            Protocol::Tcp => Some("TCP"),
            Protocol::Udp => Some("UDP"),
            Protocol::Sctp => Some("SCTP"),
            Protocol::Icmp => None,
        }
    }

    /// The reverse of [`Protocol::api_name`]; the API knows only these spellings.
    pub fn from_api_name(name: &str) -> Option<Protocol> {
        match name {
            "TCP" => Some(Protocol::Tcp),
            "UDP" => Some(Protocol::Udp),
            "SCTP" => Some(Protocol::Sctp),
            _ => None,
        }
    }
}

impl Phase {
    pub fn api_name(self) -> &'static str {
        match self {
            Phase::Pending => "Pending",
            Phase::Running => "Running",
            Phase::Succeeded => "Succeeded",
            Phase::Failed => "Failed",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.api_name().unwrap_or("ICMP"))
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.from)?;
        if let Origin::Node(node) = &self.origin {
            write!(f, " (process of {node})")?;
        }
        write!(f, " -> {} {}/{}", self.to, self.protocol, self.port)
    }
}
