//! The compiler: a cluster's policies become policy sets, peer classes and port classes (DESIGN section 3).
//!
//! Pure and deterministic: no clock, no kernel, no network; the same cluster gives the same output. Addresses that no
//! rule in use tells apart share a signature, and so do ports, so that the tables stay small whatever the cluster's
//! size: one rule with 100,000 CIDRs makes two classes, not 100,000.

mod incremental;
mod interner;
mod measure;
mod peers;
mod ports;
mod prefixes;
mod rules;
mod services;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use policy_common::Direction;

use crate::model::services::{Frontend, Target};
use crate::model::{AddressMap, Changes, Cluster, ObjectName, Owner, Pod, Protocol};

pub use incremental::{Compiler, Delta};
pub use interner::Interner;
pub use measure::{Excess, excess};
pub use peers::{NamedPort, PeerAtom, PeerGroup, Signature};
pub use ports::{PortInterval, PortSet, partition};
pub use rules::{Origin, PeerRef, PolicySet, PortRef, SetRule};

/// Index into `Compiled::signatures`.
pub type SignatureId = u32;
/// Addresses that match no term of any rule in use.
pub const UNNAMED: SignatureId = 0;

/// Which pods are endpoints, and what "own node" means for them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Every pod is an endpoint on the node that its `spec.nodeName` names: for `explain`.
    #[default]
    Cluster,
    /// The pods of one node, or all of them where no name is given; the node's addresses were read from its interfaces.
    Node { name: Option<String>, addresses: BTreeSet<IpAddr> },
}

impl Scope {
    /// Whether the same pods are endpoints; the node's addresses may be others.
    fn is_same_node(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Cluster, Self::Cluster) => true,
            (Self::Node { name, .. }, Self::Node { name: other, .. }) => name == other,
            (Self::Cluster, Self::Node { .. }) | (Self::Node { .. }, Self::Cluster) => false,
        }
    }

    pub fn is_endpoint(&self, pod: &Pod) -> bool {
        let here = match self {
            Self::Cluster | Self::Node { name: None, .. } => true,
            Self::Node { name, .. } => pod.node.as_deref() == name.as_deref(),
        };
        here && pod.is_selectable() && !pod.addresses.is_empty()
    }
}

/// What policy says of one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointPolicy {
    /// Index into `Compiled::sets`; `None`: not isolated.
    pub egress: Option<usize>,
    pub ingress: Option<usize>,
    /// The policies that isolate it, in name order.
    pub policies: BTreeSet<ObjectName>,
    /// Which rule of which policy each rule of the sets came from.
    pub egress_origins: Vec<Origin>,
    pub ingress_origins: Vec<Origin>,
}

impl EndpointPolicy {
    pub const fn set(&self, direction: Direction) -> Option<usize> {
        match direction {
            Direction::Egress => self.egress,
            Direction::Ingress => self.ingress,
        }
    }

    pub fn origins(&self, direction: Direction) -> &[Origin] {
        match direction {
            Direction::Egress => &self.egress_origins,
            Direction::Ingress => &self.ingress_origins,
        }
    }
}

/// The symbolic tables. Indices are local to this value; contents are what the planner recognises from one to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    pub groups: Interner<PeerGroup>,
    pub port_sets: Interner<PortSet>,
    pub sets: Interner<PolicySet>,
    /// Of each class; `[UNNAMED]` is empty.
    pub signatures: Interner<Signature>,
    /// The named ports of peers that rules use.
    pub named: Interner<NamedPort>,
    /// Addresses that rules tell apart from the longest prefix around them.
    pub addresses: AddressMap<SignatureId>,
    pub prefixes: BTreeMap<IpNet, SignatureId>,
    /// What the node's pods can address of Services, and what is behind it.
    pub frontends: BTreeMap<Frontend, Target>,
    pub endpoints: BTreeMap<ObjectName, EndpointPolicy>,
    /// Something is there so often that there are no tables for it; what says so is all that counts then.
    pub excess: Option<Excess>,
    /// The port set of each of `named`, by itself.
    named_sets: Vec<u32>,
}

/// What a policy set allows towards one class: everything, or the union of some port sets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Row {
    pub everything: bool,
    /// Indices into `Compiled::port_sets`, sorted, each once.
    pub port_sets: Vec<u32>,
}

/// Compiles all of it at once; [`Compiler`] does so from change to change.
pub fn compile(cluster: &Cluster, scope: &Scope) -> Compiled {
    let mut compiler = Compiler::default();
    compiler.update(cluster, scope, &Changes::everything());
    compiler.into_compiled()
}

/// Whether another pod has taken over one of its addresses.
fn is_replaced(cluster: &Cluster, pod: &Pod) -> bool {
    let other =
        |address: &IpAddr| matches!(cluster.pods.owner(*address), Owner::Pod(owner) if owner.id != pod.id);
    pod.addresses.iter().any(other)
}

impl Compiled {
    /// Its index, with the port set that it stands for.
    fn intern_named(&mut self, named: NamedPort) -> u32 {
        let single = PortSet::single(named.protocol, named.port);
        let id = self.named.intern(named);
        if id as usize == self.named_sets.len() {
            self.named_sets.push(self.port_sets.intern(single));
        }
        id
    }

    /// What `set` allows towards addresses with this signature.
    pub fn row(&self, set: &PolicySet, signature: SignatureId) -> Row {
        let none = Signature::default();
        let signature = self.signatures.get(signature).unwrap_or(&none);
        let mut row = Row::default();
        for rule in &set.rules {
            self.add_rule(rule, signature, &mut row);
        }
        if row.everything {
            row.port_sets.clear();
        }
        row.port_sets.sort_unstable();
        row.port_sets.dedup();
        row
    }

    fn add_rule(&self, rule: &SetRule, signature: &Signature, row: &mut Row) {
        if let PeerRef::Group(group) = rule.peers
            && !signature.is_in(group)
        {
            return;
        }
        match &rule.ports {
            PortRef::Any => row.everything = true,
            PortRef::Some { set, named } => {
                row.port_sets.extend(set);
                if named.is_empty() {
                    return;
                }
                for id in &signature.named {
                    if let Some(port) = self.named.get(*id)
                        && named
                            .iter()
                            .any(|(protocol, name)| *protocol == port.protocol && *name == port.name)
                    {
                        row.port_sets.extend(self.named_sets.get(*id as usize));
                    }
                }
            }
        }
    }

    /// Whether one rule allows a port towards addresses with this signature: which rule it was that decided.
    pub fn rule_allows(&self, rule: &SetRule, signature: SignatureId, port: Option<(Protocol, u16)>) -> bool {
        let none = Signature::default();
        let mut row = Row::default();
        self.add_rule(rule, self.signatures.get(signature).unwrap_or(&none), &mut row);
        row.everything
            || port.is_some_and(|(protocol, number)| {
                row.port_sets
                    .iter()
                    .filter_map(|id| self.port_sets.get(*id))
                    .any(|set| set.contains(protocol, number))
            })
    }

    /// Whether a rule's peers contain addresses with this signature, whatever the ports.
    pub fn rule_names_peer(&self, rule: &SetRule, signature: SignatureId) -> bool {
        match rule.peers {
            PeerRef::Any => true,
            PeerRef::Group(group) => self.signatures.get(signature).is_some_and(|s| s.is_in(group)),
        }
    }

    /// The class that the tables give an address: its own, else its longest prefix's.
    pub fn signature_of(&self, address: IpAddr) -> SignatureId {
        if let Some(signature) = self.addresses.get(address) {
            return *signature;
        }
        let longest = if address.is_ipv4() { 32 } else { 128 };
        (0..=longest)
            .rev()
            .filter_map(|length| IpNet::new(address, length).ok())
            .find_map(|net| self.prefixes.get(&net.trunc()))
            .copied()
            .unwrap_or(UNNAMED)
    }
}
