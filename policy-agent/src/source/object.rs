//! Objects as they are found: whole, or broken with what stands for them.

use std::fmt;
use std::net::IpAddr;

use super::fault::Problem;
use crate::model::{EndpointSlice, Labels, Node, ObjectName, Pod, Policy, Service};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Namespace,
    Node,
    Pod,
    NetworkPolicy,
    Service,
    EndpointSlice,
}

impl Kind {
    pub const ALL: [Self; 6] =
        [Self::Namespace, Self::Node, Self::Pod, Self::NetworkPolicy, Self::Service, Self::EndpointSlice];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::Pod => "Pod",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
        }
    }

    pub(super) const fn api_version(self) -> &'static str {
        match self {
            Self::NetworkPolicy => "networking.k8s.io/v1",
            Self::EndpointSlice => "discovery.k8s.io/v1",
            Self::Namespace | Self::Node | Self::Pod | Self::Service => "v1",
        }
    }

    /// Its API group; empty for the core.
    pub(super) fn group(self) -> &'static str {
        self.api_version().split_once('/').map_or("", |(group, _)| group)
    }

    pub(super) const fn is_namespaced(self) -> bool {
        !matches!(self, Self::Namespace | Self::Node)
    }
}

/// Which object; the namespace of what is in none is empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    pub kind: Kind,
    pub id: ObjectName,
}

impl ObjectKey {
    /// The name of a policy whose own cannot be told: no object can be called like this.
    pub(super) fn stand_in_name(source: &str) -> String {
        format!("<{source}>")
    }

    pub(super) fn is_named(&self) -> bool {
        !self.id.name.starts_with('<')
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ObjectName { namespace, name } = &self.id;
        match namespace.is_empty() {
            true => write!(f, "{} {name}", self.kind.name()),
            false => write!(f, "{} {namespace}/{name}", self.kind.name()),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    Namespace(Labels),
    Node(Node),
    Pod(Pod),
    Policy(Policy),
    Service(Service),
    EndpointSlice(EndpointSlice),
}

/// What stands for a broken object that has no last good version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StandIn {
    Policy(Policy),
    /// A pod that is not in the cluster, and where its interfaces may be found.
    Pod(Vec<IpAddr>),
    Nothing,
}

impl StandIn {
    /// A last good version that had ended says nothing of a pod that now has addresses: it was another one.
    pub(super) fn outlives(&self, last_good: &Pod) -> bool {
        matches!(self, Self::Pod(addresses) if !addresses.is_empty()) && !last_good.is_selectable()
    }
}

/// An object of a folder, whole or broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub source: String,
    pub key: ObjectKey,
    pub content: Result<Object, StandIn>,
    /// Why it is broken; may be empty where its document already says so.
    pub problems: Vec<Problem>,
}
