//! The compiler: a cluster's policies become policy sets, peer classes and port classes (DESIGN section 3).
//!
//! Pure and deterministic: no clock, no kernel, no network; the same cluster gives the same output. Addresses that no
//! rule in use tells apart share a signature, and so do ports, so that the tables stay small whatever the cluster's
//! size: one rule with 100,000 CIDRs makes two classes, not 100,000.

mod interner;
mod peers;
mod ports;
mod prefixes;
mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use policy_common::Direction;

use crate::model::{Cluster, ObjectName, Owner, Pod, Protocol};

pub use peers::{PeerAtom, PeerGroup, Term};
pub use ports::{PortInterval, PortSet, partition};
pub use rules::{Origin, PeerRef, PolicySet, PortRef, SetRule};

/// Index into `Compiled::signatures`.
pub type SignatureId = u32;
/// Addresses that match no term of any rule in use.
pub const UNNAMED: SignatureId = 0;

/// Which pods are endpoints, and what "own node" means for them.
#[derive(Clone, Debug, Default)]
pub enum Scope {
    /// Every pod is an endpoint on the node that its `spec.nodeName` names: for `explain`.
    #[default]
    Cluster,
    /// The pods of one node, or all of them where no name is given; the node's addresses were read from its interfaces.
    Node { name: Option<String>, addresses: BTreeSet<IpAddr> },
}

impl Scope {
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
    pub groups: Vec<PeerGroup>,
    pub port_sets: Vec<PortSet>,
    pub sets: Vec<PolicySet>,
    /// The terms that addresses of each class match; `[UNNAMED]` is empty.
    pub signatures: Vec<BTreeSet<Term>>,
    pub addresses: BTreeMap<IpAddr, SignatureId>,
    pub prefixes: BTreeMap<IpNet, SignatureId>,
    pub endpoints: BTreeMap<ObjectName, EndpointPolicy>,
}

/// What a policy set allows towards one class: everything, or the union of some port sets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Row {
    pub everything: bool,
    /// Indices into `Compiled::port_sets`.
    pub port_sets: BTreeSet<u32>,
}

pub fn compile(cluster: &Cluster, scope: &Scope) -> Compiled {
    let conflicts = address_conflicts(cluster);
    let mut rules = rules::Compiler::new(cluster);
    let mut endpoints: BTreeMap<ObjectName, EndpointPolicy> = cluster
        .pods
        .values()
        .filter(|pod| scope.is_endpoint(pod) && !is_replaced(cluster, pod))
        .map(|pod| {
            let conflict = pod.addresses.iter().any(|a| conflicts.contains(a));
            let own_node = match scope {
                Scope::Cluster => pod.node.as_deref().map(str::to_owned),
                Scope::Node { name, .. } => Some(name.clone().unwrap_or_default()),
            };
            let policy = if conflict { rules.closed() } else { rules.endpoint(pod, own_node) };
            (pod.id.clone(), policy)
        })
        .collect();
    for name in cluster.broken_pods.keys() {
        endpoints.entry(name.clone()).or_insert_with(|| rules.closed());
    }
    let rules::Output { groups, mut port_sets, sets, named_ports } = rules.finish();
    let classes = peers::classify(cluster, scope, &groups, &named_ports);
    for term in classes.signatures.iter().flatten() {
        if let Term::Named { protocol, port, .. } = term {
            port_sets.intern(PortSet::single(*protocol, *port));
        }
    }
    Compiled {
        groups: groups.into_items(),
        port_sets: port_sets.into_items(),
        sets: sets.into_items(),
        signatures: classes.signatures,
        addresses: classes.addresses,
        prefixes: classes.prefixes,
        endpoints,
    }
}

/// Addresses that several live pods claim and nothing tells whose they are: nobody's, and their pods are closed.
pub fn address_conflicts(cluster: &Cluster) -> BTreeSet<IpAddr> {
    let contested = |address: &IpAddr| cluster.pods.owner(*address) == Owner::Contested;
    cluster.pods.shared_addresses().filter(contested).collect()
}

/// Whether another pod has taken over one of its addresses.
fn is_replaced(cluster: &Cluster, pod: &Pod) -> bool {
    let other =
        |address: &IpAddr| matches!(cluster.pods.owner(*address), Owner::Pod(owner) if owner.id != pod.id);
    pod.addresses.iter().any(other)
}

impl Compiled {
    /// What `set` allows towards addresses with this signature.
    pub fn row(&self, set: &PolicySet, signature: SignatureId) -> Row {
        let empty = BTreeSet::new();
        let terms = self.signatures.get(signature as usize).unwrap_or(&empty);
        let mut row = Row::default();
        for rule in &set.rules {
            self.add_rule(rule, terms, &mut row);
        }
        if row.everything {
            row.port_sets.clear();
        }
        row
    }

    fn add_rule(&self, rule: &SetRule, terms: &BTreeSet<Term>, row: &mut Row) {
        if let PeerRef::Group(group) = rule.peers
            && !terms.contains(&Term::Group(group))
        {
            return;
        }
        match &rule.ports {
            PortRef::Any => row.everything = true,
            PortRef::Some { set, named } => {
                row.port_sets.extend(set);
                for (protocol, name) in named {
                    let resolved = terms.iter().filter_map(|term| match term {
                        Term::Named { protocol: p, name: n, port } if p == protocol && n == name => {
                            self.port_set_id(&PortSet::single(*p, *port))
                        }
                        _ => None,
                    });
                    row.port_sets.extend(resolved);
                }
            }
        }
    }

    /// Whether one rule allows a port towards addresses with this signature: which rule it was that decided.
    pub fn rule_allows(&self, rule: &SetRule, signature: SignatureId, port: Option<(Protocol, u16)>) -> bool {
        let empty = BTreeSet::new();
        let terms = self.signatures.get(signature as usize).unwrap_or(&empty);
        let mut row = Row::default();
        self.add_rule(rule, terms, &mut row);
        row.everything
            || port.is_some_and(|(protocol, number)| {
                row.port_sets
                    .iter()
                    .filter_map(|id| self.port_sets.get(*id as usize))
                    .any(|set| set.contains(protocol, number))
            })
    }

    /// Whether a rule's peers contain addresses with this signature, whatever the ports.
    pub fn rule_names_peer(&self, rule: &SetRule, signature: SignatureId) -> bool {
        match rule.peers {
            PeerRef::Any => true,
            PeerRef::Group(group) => self
                .signatures
                .get(signature as usize)
                .is_some_and(|terms| terms.contains(&Term::Group(group))),
        }
    }

    /// The class that the tables give an address: its own, else its longest prefix's.
    pub fn signature_of(&self, address: IpAddr) -> SignatureId {
        if let Some(signature) = self.addresses.get(&address) {
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

    fn port_set_id(&self, wanted: &PortSet) -> Option<u32> {
        self.port_sets.iter().position(|set| set == wanted).and_then(|at| u32::try_from(at).ok())
    }
}
