//! Pods: what policies need of them.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::{Labels, ObjectName, Protocol};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ContainerPort {
    pub name: Option<String>,
    pub protocol: Protocol,
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub id: ObjectName,
    pub uid: String,
    /// Shared among the pods of a workload: with 100,000 pods, labels would be most of the agent's memory.
    pub labels: Arc<Labels>,
    pub node: Option<Arc<str>>,
    /// At most one of each family, as the API validates.
    pub addresses: Vec<IpAddr>,
    pub host_network: bool,
    /// Succeeded or Failed: its addresses are no longer its own (SEMANTICS row 44).
    pub finished: bool,
    /// Deleted, and not gone yet: still a subject and a peer (row 43), but it gives way to a newcomer at its address.
    pub terminating: bool,
    /// Seconds since 1970; 0 where nothing says it.
    pub created: i64,
    /// Shared like the labels.
    pub ports: Arc<[ContainerPort]>,
    /// What it may send from beside its own addresses: for pods that route.
    pub sources: Vec<IpNet>,
}

impl Pod {
    /// Whether policies can select it, as subject or as peer (SEMANTICS rows 11, 41, 43, 44).
    pub const fn is_selectable(&self) -> bool {
        !self.host_network && !self.finished
    }

    /// The number behind a container port's name (SEMANTICS rows 24, 27).
    pub fn named_port(&self, protocol: Protocol, name: &str) -> Option<u16> {
        self.ports.iter().find(|p| p.protocol == protocol && p.name.as_deref() == Some(name)).map(|p| p.port)
    }
}
