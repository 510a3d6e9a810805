//! Peer classes: which peer groups of the rules in use each address is in, and which named ports it gives.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::interner::Interner;
use super::measure::Excess;
use super::prefixes::Prefixes;
use super::{Compiled, Scope, SignatureId};
use crate::model::{Block, Cluster, Labels, NamespaceMatch, Owner, Peer, Pod, Protocol, Selector};

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PeerAtom {
    Peer(Peer),
    /// The addresses of the node that a pod runs on.
    OwnNode(String),
}

/// The peers of one rule: an address matches when it matches any of them. Rules with the same peers share the group.
pub type PeerGroup = BTreeSet<PeerAtom>;

/// The address is of a pod that gives this name to this port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamedPort {
    pub protocol: Protocol,
    pub name: String,
    pub port: u16,
}

/// All that rules can tell addresses apart by: addresses with the same signature are one class.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Signature {
    /// Indices into `Compiled::groups`, sorted.
    pub groups: Box<[u32]>,
    /// Indices into `Compiled::named`, sorted.
    pub named: Box<[u32]>,
}

impl Signature {
    pub fn is_in(&self, group: u32) -> bool {
        self.groups.binary_search(&group).is_ok()
    }
}

/// The peer groups of the rules in use, by what an address must be to be in them.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Groups that are in it already.
    known: usize,
    known_names: usize,
    own_namespace: HashMap<String, Vec<(Selector, u32)>>,
    /// Selectors of namespaces and pods.
    by_namespace: Vec<(Selector, Selector, u32)>,
    own_node: Vec<(String, u32)>,
    named_ports: BTreeSet<(Protocol, String)>,
    pub(super) blocks: Prefixes,
    /// Why `blocks` is empty though rules have some.
    pub(super) excess: Option<Excess>,
    /// The groups that the nodes' own addresses are in.
    nodes: BTreeMap<IpAddr, Vec<u32>>,
}

/// Which addresses new groups can be about.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// Every address of a pod.
    pub(super) everything: bool,
    pub(super) blocks: Vec<Block>,
    pub(super) namespaces: BTreeSet<String>,
    selectors: Vec<Selector>,
    names: Vec<(Protocol, String)>,
}

/// More new blocks or selectors than this are not looked at one by one.
const FEW: usize = 16;

impl Index {
    /// Takes in what has come to the groups and names since the last time.
    pub(super) fn extend(
        &mut self,
        groups: &Interner<PeerGroup>,
        named_ports: &BTreeSet<(Protocol, String)>,
    ) -> Reach {
        let mut reach = Reach::default();
        if named_ports.len() != self.known_names {
            reach.names = named_ports.difference(&self.named_ports).cloned().collect();
            self.named_ports.clone_from(named_ports);
            self.known_names = named_ports.len();
        }
        for (id, group) in (0_u32..).zip(groups.iter()).skip(self.known) {
            for atom in group.iter() {
                match atom {
                    PeerAtom::Peer(Peer::Pods { namespaces: NamespaceMatch::Named(name), pods }) => {
                        self.own_namespace.entry(name.clone()).or_default().push((pods.clone(), id));
                        reach.namespaces.insert(name.clone());
                    }
                    PeerAtom::Peer(Peer::Pods { namespaces: NamespaceMatch::Selected(selector), pods }) => {
                        self.by_namespace.push((selector.clone(), pods.clone(), id));
                        reach.selectors.push(selector.clone());
                    }
                    PeerAtom::Peer(Peer::Block(block)) => reach.blocks.push(block.clone()),
                    PeerAtom::OwnNode(name) => self.own_node.push((name.clone(), id)),
                }
            }
        }
        self.known = groups.len();
        if !reach.blocks.is_empty() {
            let atoms = (0_u32..).zip(groups.iter()).flat_map(|(id, g)| g.iter().map(move |a| (id, a)));
            let made = Prefixes::new(atoms.filter_map(|(id, atom)| match atom {
                PeerAtom::Peer(Peer::Block(block)) => Some((id, block)),
                _ => None,
            }));
            (self.blocks, self.excess) = match made {
                Ok(blocks) => (blocks, None),
                Err(excess) => (Prefixes::default(), Some(excess)),
            };
        }
        reach.everything = reach.blocks.len() > FEW || reach.selectors.len() > FEW;
        reach
    }

    /// The nodes' addresses that rules name.
    pub(super) fn node_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.nodes.keys().copied()
    }

    /// Looks the nodes' addresses up again; returns those that are in other groups than before.
    pub(super) fn update_nodes(&mut self, cluster: &Cluster, scope: &Scope) -> BTreeSet<IpAddr> {
        let mut nodes: BTreeMap<IpAddr, Vec<u32>> = BTreeMap::new();
        for (name, id) in &self.own_node {
            for address in node_addresses(cluster, scope, name) {
                nodes.entry(address).or_default().push(*id);
            }
        }
        let old = std::mem::replace(&mut self.nodes, nodes);
        let differs = |address: &&IpAddr| self.nodes.get(*address) != old.get(*address);
        self.nodes.keys().chain(old.keys()).filter(differs).copied().collect()
    }
}

impl Reach {
    /// The addresses that may have become another class's, beside the nodes'.
    pub(super) fn addresses(&self, cluster: &Cluster, dirty: &mut BTreeSet<IpAddr>) {
        let pods = &cluster.pods;
        if self.everything {
            dirty.extend(pods.addresses());
            return;
        }
        for namespace in &self.namespaces {
            dirty.extend(pods.in_namespace(namespace).flat_map(|pod| &pod.addresses));
        }
        if !self.selectors.is_empty() {
            for namespace in pods.namespaces() {
                let labels = cluster.namespace_labels(namespace);
                if self.selectors.iter().any(|selector| selector.matches(&labels)) {
                    dirty.extend(pods.in_namespace(namespace).flat_map(|pod| &pod.addresses));
                }
            }
        }
        if !self.blocks.is_empty() {
            let inside = |address: &IpAddr| self.blocks.iter().any(|block| block.cidr.contains(address));
            dirty.extend(pods.addresses().filter(inside));
        }
        if !self.names.is_empty() {
            let gives = |pod: &&Arc<Pod>| {
                self.names.iter().any(|(protocol, name)| pod.named_port(*protocol, name).is_some())
            };
            dirty.extend(pods.values().filter(gives).flat_map(|pod| &pod.addresses));
        }
    }
}

fn node_addresses(cluster: &Cluster, scope: &Scope, name: &str) -> BTreeSet<IpAddr> {
    let mut addresses: BTreeSet<IpAddr> =
        cluster.nodes.get(name).into_iter().flat_map(|node| &node.addresses).copied().collect();
    if let Scope::Node { addresses: own, .. } = scope {
        addresses.extend(own);
    }
    addresses
}

/// Classifies addresses one by one. What pods of one workload share is found once.
pub(super) struct Classifier<'a> {
    index: &'a Index,
    cluster: &'a Cluster,
    matching: HashMap<&'a str, Vec<(&'a Selector, u32)>>,
    /// The groups of pods by their namespace and labels, where the labels' place in memory stands for them: sources
    /// share them (`model::Intern`).
    known: HashMap<(&'a str, *const Labels), Vec<u32>>,
}

impl<'a> Classifier<'a> {
    pub(super) fn new(index: &'a Index, cluster: &'a Cluster) -> Self {
        Self { index, cluster, matching: HashMap::new(), known: HashMap::new() }
    }

    /// `None`: the rules do not tell it apart from its longest prefix, so that it needs no entry of its own.
    pub(super) fn classify(&mut self, address: IpAddr, out: &mut Compiled) -> Option<SignatureId> {
        let blocks = self.index.blocks.groups_of(address);
        let nodes = self.index.nodes.get(&address).map_or(&[][..], Vec::as_slice);
        let (mut groups, mut named) = (Vec::new(), Vec::new());
        if let Owner::Pod(pod) = self.cluster.pods.owner(address) {
            groups.extend_from_slice(self.groups(pod));
            for (protocol, name) in &self.index.named_ports {
                if let Some(port) = pod.named_port(*protocol, name) {
                    let new = NamedPort { protocol: *protocol, name: name.clone(), port };
                    named.push(out.intern_named(new));
                }
            }
        }
        groups.extend_from_slice(nodes);
        if named.is_empty() && groups.iter().all(|group| blocks.binary_search(group).is_ok()) {
            return None;
        }
        groups.extend_from_slice(blocks);
        groups.sort_unstable();
        groups.dedup();
        named.sort_unstable();
        Some(out.signatures.intern(Signature { groups: groups.into(), named: named.into() }))
    }

    fn groups(&mut self, pod: &'a Arc<Pod>) -> &[u32] {
        let (index, cluster) = (self.index, self.cluster);
        let namespace = pod.id.namespace.as_str();
        let matching = &mut self.matching;
        self.known.entry((namespace, Arc::as_ptr(&pod.labels))).or_insert_with(|| {
            let candidates =
                matching.entry(namespace).or_insert_with(|| groups_for(index, cluster, namespace));
            let own = candidates.iter().filter(|(selector, _)| selector.matches(&pod.labels));
            let mut groups: Vec<u32> = own.map(|(_, id)| *id).collect();
            groups.sort_unstable();
            groups.dedup();
            groups
        })
    }
}

/// The selectors of pods that count for pods of this namespace.
fn groups_for<'a>(index: &'a Index, cluster: &Cluster, namespace: &str) -> Vec<(&'a Selector, u32)> {
    let labels = cluster.namespace_labels(namespace);
    let own = index.own_namespace.get(namespace).into_iter().flatten().map(|(pods, id)| (pods, *id));
    let selected = index.by_namespace.iter().filter(|(selector, ..)| selector.matches(&labels));
    own.chain(selected.map(|(_, pods, id)| (pods, *id))).collect()
}
