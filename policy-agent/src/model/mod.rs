//! The cluster as Sluice sees it: validated, plain data. Sources fill it, the compiler reads it.

mod address_map;
mod changes;
mod intern;
mod node;
mod pod;
mod pods;
mod policy;
mod selector;
pub mod services;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

pub use address_map::AddressMap;
pub use changes::{Changes, Tracked};
pub use intern::Intern;
pub use node::Node;
pub use pod::{ContainerPort, Pod};
pub use pods::{Owner, Pods};
pub use policy::{Block, NamespaceMatch, Peer, Policy, PortMatch, Rule};
pub use selector::{Requirement, Selector, Values};
pub use services::{EndpointSlice, Service, Services};

pub type Labels = BTreeMap<String, String>;

/// Every namespace carries it, and nobody can change it (SEMANTICS row 47).
pub const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectName {
    pub namespace: String,
    pub name: String,
}

impl ObjectName {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Protocols that NetworkPolicy can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }

    /// Exactly as the API spells it: `tcp` is no protocol.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.name() == text)
    }

    /// IANA's number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// Its place in the port table.
    pub const fn index(self) -> u32 {
        match self {
            Self::Tcp => 0,
            Self::Udp => 1,
            Self::Sctp => 2,
        }
    }
}

/// Everything that was read. Keys are names, so that iteration and with it the compiler's output are deterministic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    pub namespaces: BTreeMap<String, Labels>,
    pub nodes: BTreeMap<String, Node>,
    pub pods: Pods,
    /// With their EndpointSlices.
    pub services: Services,
    pub policies: BTreeMap<ObjectName, Policy>,
    /// Pods that could not be read, with the addresses by which their interfaces are found: closed, and no peers.
    pub broken_pods: BTreeMap<ObjectName, Vec<IpAddr>>,
}

impl Cluster {
    /// The policies of a namespace, in the order of their names.
    pub fn policies_in<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Policy> {
        let from = self.policies.range(ObjectName::new(namespace, "")..);
        from.map(|(_, policy)| policy).take_while(move |policy| policy.id.namespace == namespace)
    }

    /// A namespace's labels with the one that is always there; a namespace that only its objects name has just that.
    pub fn namespace_labels(&self, name: &str) -> Labels {
        let mut labels = self.namespaces.get(name).cloned().unwrap_or_default();
        labels.insert(NAMESPACE_NAME_LABEL.to_owned(), name.to_owned());
        labels
    }
}
