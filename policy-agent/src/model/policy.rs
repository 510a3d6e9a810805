//! A validated NetworkPolicy. `Option` always means "not restricted" or "not isolated", never "missing by mistake".

use ipnet::IpNet;
use std::net::IpAddr;

use super::{Labels, ObjectName, Protocol, Selector};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub id: ObjectName,
    /// Which pods of the policy's namespace it isolates.
    pub subject: Selector,
    /// `None`: this policy does not isolate for ingress. An empty list isolates and allows nothing.
    pub ingress: Option<Vec<Rule>>,
    pub egress: Option<Vec<Rule>>,
}

impl Policy {
    /// What stands in for a policy that cannot be read: it isolates and allows nothing.
    pub fn closed(id: ObjectName, subject: Selector, ingress: bool, egress: bool) -> Self {
        let rules = |isolates: bool| isolates.then(Vec::new);
        Self { id, subject, ingress: rules(ingress), egress: rules(egress) }
    }
}

/// Peers and ports must both match (SEMANTICS row 18).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// `None`: everything, also outside the cluster (row 16).
    pub peers: Option<Vec<Peer>>,
    /// `None`: every port of every protocol, also of those without ports (row 17).
    pub ports: Option<Vec<PortMatch>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Peer {
    Pods { namespaces: NamespaceMatch, pods: Selector },
    Block(Block),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NamespaceMatch {
    /// The policy's own.
    Named(String),
    Selected(Selector),
}

impl NamespaceMatch {
    pub fn matches(&self, name: &str, labels: &Labels) -> bool {
        match self {
            Self::Named(own) => own == name,
            Self::Selected(selector) => selector.matches(labels),
        }
    }
}

/// An ipBlock; all networks are truncated to their prefix (SEMANTICS row 30) and the exceptions are within `cidr`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Block {
    pub cidr: IpNet,
    pub except: Vec<IpNet>,
}

impl Block {
    pub fn contains(&self, address: IpAddr) -> bool {
        self.cidr.contains(&address) && !self.except.iter().any(|net| net.contains(&address))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PortMatch {
    /// Inclusive; a single port is a range of one, a protocol alone the range of all.
    Range { protocol: Protocol, first: u16, last: u16 },
    /// A container port's name in the destination pod (rows 24 to 26).
    Named { protocol: Protocol, name: String },
}
